"""`state`: what is typed, what is asked and shown, over a control socket with real tables behind it."""

from __future__ import annotations

import json
import queue
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from tinydb import TinyDB, where

from edge_node import cli
from edge_node.commands.state import parse_fields, read_value, told
from edge_node.home import Home
from edge_node.store.identity import doc_id_for
from gateway import cli as gateway_cli
from security.errors import BadInput
from tests.support.daemon_thread import serving
from tests.support.replicas import MESH
from tests.support.state_backend import StateBackend, exchanged, opened

WAIT_S_MAX = 60.0
"""Only a hang takes it."""


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "node")
    home.create()
    return home


@pytest.fixture
def daemon(home):
    with serving(home, StateBackend()) as backend:
        yield backend


@pytest.fixture
def state(capsys, home, daemon):
    """Run `edge-node state …` here: (exit code, stdout, stderr)."""

    def run(*words, program=cli.program):
        code = program.enter(["--home", str(home.path), "state", *(str(each) for each in words)])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return run


@pytest.fixture
def rooms(state):
    """Two rooms, by their id."""
    assert state("declare", "rooms", "--key", "id")[1] == "rooms: key id, written by every member\n"
    state("set", "rooms", "r1", "setpoint_c=21.5", "site=a")
    state("set", "rooms", "r2", "setpoint_c=26", "site=b", 'tags=["x"]')
    return state


def value(told):
    code, out, err = told
    assert (code, err) == (0, ""), err
    return json.loads(out)


def refused(told, code=2):
    found, out, err = told
    assert (found, out) == (code, ""), err
    assert err.count("\n") == 1
    return err


def conflicted(daemon):
    """Two members write rooms/r1.v; n2's wins."""
    other = opened("n2")
    for each, v in ((daemon.state, 1), (other, "two")):
        each.call("state.declare", {"table": "rooms", "key": "id"})
        text = json.dumps({"id": "r1", "v": v})
        each.call("state.put", {"table": "rooms", "documents": [[doc_id_for("rooms", "r1"), text]]})
    exchanged(daemon.state, other)
    return other


def test_a_document_is_written_field_by_field_and_shown(rooms):
    assert value(rooms("get", "rooms", "r1")) == {"id": "r1", "setpoint_c": 21.5, "site": "a"}
    assert rooms("set", "rooms", "r1", "setpoint_c=22", "note=two words") == (0, "rooms: r1 is written\n", "")
    assert value(rooms("get", "rooms", "r1")) == {
        "id": "r1", "setpoint_c": 22, "site": "a", "note": "two words",
    }  # fmt: skip
    rooms("set", "rooms", "r1", "--delete", "note", "-d", "site", "setpoint_c=23")
    assert value(rooms("get", "rooms", "r1")) == {"id": "r1", "setpoint_c": 23}


def test_deleting_a_field_leaves_what_others_write_meanwhile(rooms, daemon):
    """Between reading and writing another program changes the field itself, and adds one."""
    inner, meanwhile = daemon.call, [{"site": "b"}, {"note": "new"}]

    async def disturbed(method, params):
        if method == "state.put" and meanwhile:
            change = {
                "table": "rooms",
                "set": json.dumps(meanwhile.pop()),
                "ids": [doc_id_for("rooms", "r1")],
            }
            daemon.state.call("state.update", change)
        return await inner(method, params)

    daemon.call = disturbed

    assert rooms("set", "rooms", "r1", "--delete", "setpoint_c")[0] == 0
    assert value(rooms("get", "rooms", "r1")) == {"id": "r1", "site": "a", "note": "new"}
    assert rooms("set", "rooms", "r1", "--delete", "site")[0] == 0
    assert value(rooms("get", "rooms", "r1")) == {"id": "r1", "note": "new"}
    assert not meanwhile


def test_a_table_is_shown_as_columns_with_its_key_first(rooms):
    assert rooms("get", "rooms")[1].splitlines() == [
        "id  setpoint c  site  tags",
        "r1  21.5        a",
        'r2  26          b     ["x"]',
    ]
    assert value(rooms("get", "rooms", "--json", "--where", "setpoint_c > 25 and site = b")) == [
        {
            "doc_id": str(doc_id_for("rooms", "r2")),
            "document": {"id": "r2", "setpoint_c": 26, "site": "b", "tags": ["x"]},
        }
    ]
    assert rooms("get", "rooms", "--where", "setpoint_c > 30") == (0, "", "no documents\n")
    assert "there are more than 1: narrow it" in rooms("get", "rooms", "--limit", 1)[2]


def test_a_number_as_key_means_what_is_there(rooms):
    rooms("set", "rooms", "5", "kind=number")
    rooms("set", "rooms", '"7"', "kind=text")
    rooms("set", "rooms", "7", "more=1")

    assert value(rooms("get", "rooms", "5")) == {"id": 5, "kind": "number"}
    assert value(rooms("get", "rooms", "7")) == {"id": "7", "kind": "text", "more": 1}
    assert 'no document "5"' in refused(rooms("get", "rooms", '"5"'))


def test_a_table_without_a_key_goes_by_ids(state, daemon):
    daemon.state.call("state.insert", {"table": "notes", "documents": [[7, '{"text":"x"}']]})

    made = json.loads(state("set", "notes", "new", "text=y", "--json")[1])["doc_id"]
    assert value(state("get", "notes", made)) == {"text": "y"}
    state("set", "notes", "7", "text=z")
    assert value(state("get", "notes", "#7")) == {"text": "z"}
    head, *rows = state("get", "notes")[1].splitlines()
    assert head.split() == ["doc", "id", "text"]
    assert sorted(row.split() for row in rows) == sorted([["7", "z"], [made, "y"]])
    assert "its documents go by their ids" in refused(state("get", "notes", "r1"))
    assert "has no fields to delete" in refused(state("set", "notes", "new", "a=1", "-d", "b"))


def test_removing_is_by_key_or_by_condition(rooms):
    rooms("set", "rooms", "r3", "site=b")

    assert rooms("remove", "rooms", "r1")[1] == "rooms: 1 document removed\n"
    assert value(rooms("remove", "rooms", "--where", "site = b", "--json"))["doc_ids"] == [
        str(doc_id_for("rooms", each)) for each in ("r2", "r3")
    ]
    assert "has no document r1" in refused(rooms("remove", "rooms", "r1"))


def test_tables_sets_and_counters_are_listed(rooms):
    assert value(rooms("counter", "doors", "--add", "3")) == 3
    assert value(rooms("counter", "doors", "--add", "-5")) == -2
    assert rooms("elements", "tags", "--add", "b", "--add", "a")[1] == "a\nb\n"
    assert value(rooms("elements", "tags", "--discard", "b", "--json")) == ["a"]
    assert rooms("elements", "others") == (0, "", "others is empty\n")

    assert [line.split() for line in rooms()[1].splitlines()] == [
        ["name", "kind", "count", "key", "conflicts"],
        ["doors", "counter", "1", "0"],
        ["rooms", "documents", "2", "id", "0"],
        ["tags", "set", "1", "0"],
    ]
    assert rooms()[1] == rooms("tables")[1]
    assert "'tags' is a set: use `edge-node state elements tags`" in refused(rooms("get", "tags"))


def test_only_the_gateway_names_writers(state, daemon):
    told = refused(state("declare", "limits", "--key", "id", "--writers", "gateway"), 4)

    assert "only the gateway says who may write limits: run `edge-gateway state declare limits" in told
    assert not daemon.calls, "nobody was asked"
    told = state("declare", "limits", "--writers", "gateway, n1", program=gateway_cli.program)
    assert told[0] == 4, "this one is no gateway, and its daemon says so"
    assert daemon.calls[-1] == ("state.declare", {"table": "limits", "writers": ["gateway", "n1"]})


def test_a_table_without_a_key_is_declared_to_be_so(state):
    assert state("declare", "notes")[1] == "notes: no key, written by every member\n"
    assert state("set", "notes", "new", "text=x")[0] == 0
    assert "was declared with no key, not the key 'id'" in refused(state("declare", "notes", "--key", "id"))


def test_a_conflict_is_listed_with_who_wrote_what_and_decided_by_hand(state, daemon):
    other = conflicted(daemon)

    _, out, err = state("conflicts", "rooms")
    head, first, second = out.splitlines()
    assert head.split() == ["table", "key", "field", "value", "node", "written", "wins"]
    assert first.split()[:5] == ["rooms", "r1", "v", '"two"', "n2"] and first.endswith("wins")
    assert second.split()[:5] == ["rooms", "r1", "v", "1", "n1"]
    assert "next: edge-node state resolve" in err
    assert value(state("conflicts", "--json"))["total"] == 1

    assert state("resolve", "rooms", "r1", "v", "--of", "n1")[1] == "rooms: v of r1 is 1\n"
    assert state("conflicts") == (0, "", "no conflicts\n")
    exchanged(daemon.state, other)
    assert other.call("state.conflicts", {})["total"] == 0
    assert json.loads(other.call("state.find", {"table": "rooms"})["documents"][0][1])["v"] == 1


@pytest.mark.parametrize(
    ("options", "expected"), [((), "two"), (("--value", "3"), 3), (("--value", "some text"), "some text")]
)
def test_a_conflict_ends_with_the_winner_or_with_another_value(state, daemon, options, expected):
    conflicted(daemon)

    state("resolve", "rooms", "r1", "v", *options)

    assert value(state("get", "rooms", "r1"))["v"] == expected
    told = refused(state("resolve", "rooms", "r1", "v"))
    assert "nothing is in conflict at v of r1 in rooms: see `edge-node state conflicts rooms`" in told


def test_whom_a_resolution_names_must_have_written(state, daemon):
    conflicted(daemon)

    assert "n7 wrote no value that is in conflict: choose one of n1, n2" in refused(
        state("resolve", "rooms", "r1", "v", "--of", "n7")
    )
    assert "give one of them" in refused(state("resolve", "rooms", "r1", "v", "--of", "n1", "--value", "1"))


def test_a_watch_tells_each_change_in_a_line(rooms, capsys, home, daemon):
    """The change is made when the watch has said that it looks."""
    waits = threading.Event()
    inner = daemon.call

    async def noticed(method, params):
        if method == "state.watch" and params["after"] is not None:
            waits.set()
        return await inner(method, params)

    daemon.call = noticed

    def change():
        assert waits.wait(WAIT_S_MAX)
        cli.program.enter(["--home", str(home.path), "state", "set", "rooms", "r2", "setpoint_c=30"])

    done = threading.Thread(target=change)
    done.start()

    code, out, err = rooms("watch", "rooms", "--where", "setpoint_c > 25", "--count", 1)
    done.join(WAIT_S_MAX)

    assert (code, err) == (0, "watching rooms\n")
    assert "  changed  r2  setpoint_c: 26 → 30  by n1" in out


def test_a_watch_outlives_its_daemon_and_says_what_may_be_missing(capsys, home):
    """The second daemon knows nothing of the first one's cursor."""
    cursors: queue.SimpleQueue[str] = queue.SimpleQueue()  # of each call that waits for changes

    class Watched(StateBackend):
        async def call(self, method, params):
            if method == "state.watch" and params["after"] is not None:
                cursors.put(params["after"])
            return await super().call(method, params)

    def run(*words):
        return cli.program.enter(["--home", str(home.path), "state", *words])

    def lives():
        with serving(home, Watched()):
            run("declare", "rooms", "--key", "id")
            started.set()
            former = cursors.get(timeout=WAIT_S_MAX)
        with serving(home, Watched()):
            run("declare", "rooms", "--key", "id")
            while cursors.get(timeout=WAIT_S_MAX) == former:
                pass  # it asks by what it knows, is told of the missed ones, and then waits by a new cursor
            run("set", "rooms", "r1", "on=true")
            assert done.wait(WAIT_S_MAX)

    started, done = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        daemons = pool.submit(lives)
        assert started.wait(WAIT_S_MAX)
        code = run("watch", "rooms", "--count", "1", "--json")
        done.set()
        daemons.result(WAIT_S_MAX)

    out, err = capsys.readouterr()
    (change,) = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert (code, change["before"], change["after"]) == (0, None, {"id": "r1", "on": True})
    assert "the daemon went away: waiting for it" in err
    assert "changes were missed: `edge-node state get rooms` shows what holds now" in err


def test_changes_are_told_with_what_was_before():
    change = {"id": "7", "node": "pi-2", "at_ms": 0}

    assert told({**change, "before": None, "after": {"a": 1}}) == '?  added    7  {"a":1}  by pi-2'
    assert told({**change, "before": {"id": "r1"}, "after": None}) == "?  removed  r1  by pi-2"
    assert (
        told({**change, "before": {"id": "r1", "a": 1, "c": 1}, "after": {"id": "r1", "b": None, "c": 1}})
        == "?  changed  r1  b: none → null; a: 1 → none  by pi-2"
    )


def test_an_export_is_a_file_of_our_own_that_tinydb_opens(rooms, tmp_path):
    file = tmp_path / "out.json"

    assert rooms("export", file)[1].startswith(f"{file}: 1 table, ")

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with TinyDB(file) as db:
        assert db.table("rooms").get(where("id") == "r1") == {"id": "r1", "setpoint_c": 21.5, "site": "a"}
    assert rooms("export", "-")[1].split('"at_ms"')[0] == file.read_text().split('"at_ms"')[0]
    assert [each.name for each in tmp_path.iterdir() if "out" in each.name] == ["out.json"]
    assert "cannot write" in refused(rooms("export", tmp_path / "none" / "x.json"))


def test_an_import_says_what_it_did_and_before_that_what_it_would_do(rooms, tmp_path):
    file = tmp_path / "in.json"
    rooms("export", file)
    changed = json.loads(file.read_text())
    changed["rooms"][str(doc_id_for("rooms", "r1"))]["setpoint_c"] = 5
    changed["rooms"]["1"] = {"id": "r9"}
    file.write_text(json.dumps(changed))

    told = "1 document would be added; 0 changed; 1 the same; 1 kept that differ here"
    assert rooms("import", file, "--dry-run")[1].startswith(told)
    assert "has no document r9" in refused(rooms("get", "rooms", "r9"))

    assert rooms("import", file)[1].startswith("1 document added; 0 changed; 1 the same; 1 kept")
    assert value(rooms("get", "rooms", "r1"))["setpoint_c"] == 21.5
    told = value(rooms("import", file, "--merge", "update", "--json"))
    assert (told["added"], told["changed"], told["same"], told["kept"]) == (0, 1, 2, {})
    assert value(rooms("get", "rooms", "r1")) == {"id": "r1", "setpoint_c": 5, "site": "a"}


def test_an_export_of_another_mesh_is_refused(rooms, tmp_path):
    file = tmp_path / "other.json"
    rooms("export", file)
    file.write_text(file.read_text().replace(MESH, "f" * 16))

    told = refused(rooms("import", file))
    assert f"the file is an export of mesh {'f' * 16}, this is mesh {MESH}" in told


def test_who_was_not_reached_is_named(rooms, daemon):
    daemon.missing.append("pi-9")

    _, out, err = rooms("get", "rooms", "--fresh", "1s")
    assert err == "not reached, so their writes may be missing: pi-9\n" and "r1" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["get", "nothing"], "there is no table 'nothing': see `edge-node state`, or make it"),
        (["get", "rooms", "r1", "--where", "a = 1"], "a KEY and --where were given"),
        (["get", "rooms", "--where", "a ="], "the condition 'a =' cannot be read"),
        (["get", "rooms", "--fresh", "soon"], "'soon' is not a duration"),
        (["get", "rooms", "--where", "site > 5"], "the query cannot be asked of every document"),
        (["set", "rooms", "r1"], "nothing is to be written"),
        (["set", "rooms", "r1", "x"], "'x' is not FIELD=VALUE"),
        (["set", "rooms", "r1", "x=1", "x=2"], "field x is given twice"),
        (["set", "rooms", "r1", "x=1", "-d", "x"], "field x is to be written and deleted"),
        (["set", "rooms", "r1", "-d", "x"], "document r1 has no field 'x'"),
        (["set", "rooms", "r1", "-d", "id"], "id is the table's key"),
        (["set", "rooms", "r9", "-d", "x"], "has no document r9"),
        (["set", "rooms", "r1", "id=r2"], "document id does not follow from 'id'"),
        (["set", "rooms", "r1", f"x={'y' * 66000}"], "value is over 65536 bytes"),
        (["remove", "rooms"], "nothing says what to remove"),
        (["declare", "rooms", "--key", "name"], "was declared with the key 'id', not the key 'name'"),
        (["import", "none.json"], "cannot read none.json: No such file"),
        (["import", "none.json", "--merge", "guess"], "--merge 'guess' is not known"),
        (["counter", "doors", "--add", "x"], "Invalid value for '--add'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_that_names_the_cause(rooms, words, told):
    assert told in refused(rooms(*words))


def test_a_value_is_json_or_else_text():
    read = {"1": 1, "1.5": 1.5, "true": True, "null": None, '"5"': "5", "[1]": [1], "r1": "r1", "1h": "1h"}
    assert {text: read_value(text) for text in read} == read
    assert read_value("NaN") == "NaN" and read_value("") == ""
    assert parse_fields(["a=b=c", "x="]) == {"a": "b=c", "x": ""}
    with pytest.raises(BadInput, match="is not FIELD=VALUE"):
        parse_fields(["=1"])
