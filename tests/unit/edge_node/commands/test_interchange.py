"""Export and import: what plain TinyDB opens, and that nothing is written before all of a file is checked."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tinydb import TinyDB, where

from edge_node.commands import interchange
from edge_node.store.identity import doc_id_for
from security.errors import BadInput, Refused
from tests.support.replicas import MESH
from tests.support.state_backend import Asked, exchanged, opened

OTHER = "fedcba9876543210"


def put(state, table, *documents):
    state.call(
        "state.insert", {"table": table, "documents": [[None, json.dumps(each)] for each in documents]}
    )


def filled(me="n1"):
    """Rooms by their id, notes without a key, a set and a counter."""
    state = opened(me)
    state.call("state.declare", {"table": "rooms", "key": "id"})
    put(state, "rooms", {"id": "r1", "setpoint_c": 21.5}, {"id": 5, "on": True, "é": None})
    put(state, "notes", {"text": "hello"}, {})
    state.call("state.set", {"name": "maintenance", "add": ["pump-3", "ärmel"]})
    state.call("state.counter", {"name": "doors", "add": 17})
    return state


def export(state, *names, node="n1", mesh=MESH):
    made = interchange.exported(Asked(state, node, mesh), names, mesh=mesh, node=node, at_ms=1)
    return asyncio.run(made)


def bring(state, data, merge="keep", *, node="n1", mesh=MESH, other=False, dry=False):
    """Import it; the plan."""
    if not isinstance(data, bytes):
        data = (data if isinstance(data, str) else json.dumps(data)).encode()
    calls = Asked(state, node, mesh)

    async def work():
        told = interchange.read(data, "file.json")
        plan = await interchange.planned(
            calls, told, mesh=mesh, node=node, merge=merge, from_another_mesh=other
        )
        if not dry:
            await interchange.carried_out(calls, plan, merge)
        return plan

    return asyncio.run(work())


def documents(state, table):
    return {
        doc_id: json.loads(text) for doc_id, text in state.call("state.find", {"table": table})["documents"]
    }


def test_plain_tinydb_opens_an_export_and_finds_every_document(tmp_path):
    made = export(filled())
    (tmp_path / "out.json").write_text(made.text, "utf-8")

    with TinyDB(tmp_path / "out.json") as db:
        assert db.tables() == {"rooms", "notes", ".edgeweave"}
        rooms = db.table("rooms")
        assert rooms.get(where("id") == "r1") == {"id": "r1", "setpoint_c": 21.5}
        assert rooms.get(doc_id=doc_id_for("rooms", 5)) == {"id": 5, "on": True, "é": None}
        assert sorted(map(len, db.table("notes"))) == [0, 1]
        assert len(db.table(".edgeweave")) == 5
        rooms.update({"setpoint_c": 19}, where("id") == "r1")
    assert json.loads((tmp_path / "out.json").read_text())["rooms"][str(doc_id_for("rooms", "r1"))] == {
        "id": "r1", "setpoint_c": 19,
    }  # fmt: skip


def test_what_is_exported_comes_back_whole_into_an_empty_mesh():
    source, target = filled(), opened("n2")
    made = export(source)

    plan = bring(target, made.text, node="n2")

    assert plan.documents == 4
    assert export(target, node="n1").text == made.text


def test_importing_twice_changes_nothing_the_second_time():
    made = export(filled()).text
    target = opened("n2")
    bring(target, made)
    known = target.replica.known.rows()

    plan = bring(target, made)

    assert (plan.documents, plan.same) == (0, 4)
    assert target.replica.known.rows() == known, "nothing was written"


def test_chosen_tables_alone_are_exported_and_an_unknown_one_is_named():
    state = filled()

    assert export(state, "rooms").tables == {"rooms": 2}
    assert export(state, "doors", "maintenance").tables == {"doors": 17, "maintenance": 2}
    with pytest.raises(BadInput, match="there is no table 'nothing'") as caught:
        export(state, "nothing")
    assert "doors, maintenance, notes, rooms" in caught.value.fix


def test_a_table_over_a_page_is_exported_whole():
    state = opened("n1")
    for first in range(0, 2500, 500):
        put(state, "many", *({"n": first + each} for each in range(500)))

    assert {each["n"] for each in json.loads(export(state).text)["many"].values()} == set(range(2500))


def test_of_a_conflict_the_winner_is_exported_and_the_conflict_is_counted():
    one, two = opened("n1"), opened("n2")
    for state, value in ((one, 1), (two, 2)):
        state.call("state.declare", {"table": "rooms", "key": "id"})
        put(state, "rooms", {"id": "r1", "v": value})
    exchanged(one, two)

    made = export(one)
    assert made.conflicts == 1
    assert made.text == export(two).text


MERGES = {
    "keep": {"r1": {"id": "r1", "a": 1, "c": 3}, "new": {"id": "new", "a": 9}},
    "update": {"r1": {"id": "r1", "a": 7, "b": 2, "c": 3}, "new": {"id": "new", "a": 9}},
    "replace": {"r1": {"id": "r1", "a": 7, "b": 2}, "new": {"id": "new", "a": 9}},
}


@pytest.mark.parametrize("merge", sorted(MERGES))
def test_what_happens_to_a_document_that_is_here_is_chosen(merge):
    state = opened("n1")
    state.call("state.declare", {"table": "rooms", "key": "id"})
    put(state, "rooms", {"id": "r1", "a": 1, "c": 3})
    state.call("state.set", {"name": "tags", "add": ["x", "y"]})
    state.call("state.counter", {"name": "doors", "add": 5})
    file = {
        "rooms": {"1": {"id": "r1", "a": 7, "b": 2}, "2": {"id": "new", "a": 9}},
        ".edgeweave": {
            "1": {"what": "export", "schema": 1, "mesh": MESH, "node": "n2"},
            "2": {"what": "set", "set": "tags", "elements": ["y", "z"]},
            "3": {"what": "counter", "counter": "doors", "value": 3},
        },
    }

    plan = bring(state, file, merge)

    assert {each["id"]: each for each in documents(state, "rooms").values()} == MERGES[merge]
    assert plan.kept == ({"rooms": 1} if merge == "keep" else {})
    tags = state.call("state.set", {"name": "tags"})["elements"]
    assert tags == (["y", "z"] if merge == "replace" else ["x", "y", "z"])
    assert state.call("state.counter", {"name": "doors"})["value"] == (5 if merge == "keep" else 3)


def test_a_plain_tinydb_file_gets_new_ids_where_there_is_no_key(tmp_path):
    """TinyDB counts from 1 in every file: two of them would overwrite each other."""
    for name in ("a", "b"):
        with TinyDB(tmp_path / name) as db:
            db.insert({"from": name})
            db.table("rooms").insert({"id": "r1", name: 1})
    state = opened("n1")
    state.call("state.declare", {"table": "rooms", "key": "id"})

    for name in ("a", "b"):
        bring(state, (tmp_path / name).read_bytes(), "update")

    assert sorted(each["from"] for each in documents(state, "_default").values()) == ["a", "b"]
    assert list(documents(state, "rooms").values()) == [{"id": "r1", "a": 1, "b": 1}]


def test_an_export_of_another_mesh_is_refused_by_both_names_unless_it_is_meant():
    made = export(filled(), mesh=OTHER).text
    state = opened("n2")

    with pytest.raises(BadInput) as caught:
        bring(state, made)
    assert OTHER in caught.value.cause and MESH in caught.value.cause
    assert "--from-another-mesh" in caught.value.fix
    assert state.call("state.tables", {})["tables"] == []

    bring(state, made, other=True)
    assert len(documents(state, "rooms")) == 2


def test_writers_are_taken_over_by_the_gateway_alone():
    source = opened("gateway")
    source.call("state.declare", {"table": "limits", "key": "id", "writers": ["gateway"]})
    put(source, "limits", {"id": "x"})
    made = export(source, node="gateway").text

    node, gateway = opened("n1"), opened("gateway")
    plan = bring(node, made)
    assert plan.notes == ["the writers of limits (gateway) are not imported: the gateway says them"]
    bring(gateway, made, node="gateway")

    assert gateway.call("state.declare", {"table": "limits", "key": "id"})["writers"] == ["gateway"]
    assert node.call("state.declare", {"table": "limits", "key": "id"})["writers"] is None


EXPORT = {"1": {"what": "export", "schema": 1, "mesh": MESH, "node": "n2"}}
BAD = [
    (b"\xff", "is not JSON"),
    (b'{"rooms": {\n"1": }}', "file.json:2: not JSON"),
    (b"[1]", "holds no tables"),
    (b'{"rooms": [1]}', "holds no tables"),
    (b'{"rooms": {"1": {"a": NaN}}}', "NaN is no JSON"),
    (b'{"rooms": {"1": {"a": ' + b"9" * 5000 + b"}}}", "is not JSON that can be stored"),
    (b'{"a": ' + b"[" * 100_000 + b"}", "is not JSON"),
    ({"rooms": {"one": {}}}, "document one of 'rooms': its id is no number"),
    ({"rooms": {"007": {}}}, "its id is no number"),
    ({"rooms": {str(2**63): {}}}, "its id is no number"),
    ({"rooms": {"1": 5}}, "document 1 of 'rooms' is no object"),
    ({"rooms": {"1": {"a": "x" * 65536}}}, "the value of 'a' has 65538 bytes, over 65536"),
    ({"rooms": {"1": {"a" * 257: 1}}}, "a field's name has 257 bytes, over 256"),
    ({"rooms": {"1": {"a": "\ud800"}}}, "lone surrogate"),
    ({"rooms": {"1": {f"f{i}": 1 for i in range(2001)}}}, "has 2001 fields, over 2000"),
    ({"r" * 129: {}}, "a table's name has 129 bytes, over 128"),
    ({".keys": {"1": {"key": "x"}}}, "do not begin with a dot"),
    ({".edgeweave": {"1": EXPORT["1"] | {"schema": 2}}}, "newer version (schema 2, this one reads 1)"),
    ({".edgeweave": {"2": {"what": "set", "set": "x", "elements": []}}}, "does not say of which mesh"),
    ({".edgeweave": {**EXPORT, "2": {"what": "riddle"}}}, "says nothing"),
    ({".edgeweave": {**EXPORT, "2": {"what": "set", "set": "x", "elements": [1]}}}, "says nothing"),
    ({".edgeweave": {**EXPORT, "2": {"what": "counter", "counter": "x", "value": 2**60}}}, "says nothing"),
    ({".edgeweave": {**EXPORT, "2": {"what": "counter", "counter": ".x", "value": 1}}}, "is no name for"),
    ({"rooms": {"1": {}}}, "document 1 of 'rooms' has no 'id'"),
    ({"rooms": {"1": {"id": True}}}, "has no 'id'"),
    ({"rooms": {"1": {"id": "x" * 256}}}, "its 'id' has 256 bytes, over 255"),
    ({"rooms": {"1": {"id": 1}, "2": {"id": 1}}}, "document 2 of 'rooms' has the 'id' of another one: 1"),
    (
        {".edgeweave": {**EXPORT, "2": {"what": "table", "table": "rooms", "key": "name"}}, "rooms": {}},
        "table 'rooms' has key 'name' in the file and key 'id' here",
    ),
    (
        {".edgeweave": {**EXPORT, "2": {"what": "table", "table": "notes", "key": "name"}}, "notes": {}},
        "table 'notes' has key 'name' in the file and no key here",
    ),
    (
        {".edgeweave": {**EXPORT, "2": {"what": "set", "set": "x", "elements": [*map(str, range(100_000))]}}},
        "the mesh would hold 100008 keys, over 100000",
    ),
    ({"big": {str(i): {"a": "x" * 65000} for i in range(1, 140)}}, "and one writer may hold 8"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "told"), BAD, ids=[told[:40] for _, told in BAD])
def test_a_bad_file_is_refused_before_anything_is_written(file, told):
    """Each has a good table in front, which must not arrive."""
    state = filled()
    known = state.replica.known.rows()
    if isinstance(file, dict):
        file = {"good": {"1": {"a": 1}}} | file

    with pytest.raises(BadInput) as caught:
        bring(state, file)

    assert told in caught.value.cause, caught.value
    assert caught.value.fix
    assert state.replica.known.rows() == known


def test_a_daemon_that_stops_taking_is_told_with_what_had_been_written():
    """The quota of a writer is known to the daemon alone: it says no in the middle."""
    state = opened("n1")
    put(state, "own", *({"a": "x" * 60_000} for _ in range(16)))
    file = {"rooms": {str(i): {"n": i, "a": "x" * 60_000} for i in range(1, 135)}}

    with pytest.raises(Refused) as caught:
        bring(state, file)

    written = state.call("state.count", {"table": "rooms"})["count"]
    assert 0 < written < 134
    assert f"{written} of 134 documents had been written" in caught.value.cause
    assert "import it again" in caught.value.fix


texts = st.text(st.characters(codec="utf-8"), max_size=6)
numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
names = st.text('xyz \\"é', min_size=1, max_size=3)
fields = st.dictionaries(texts, json_values, max_size=4)


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(names, st.lists(fields, max_size=4), max_size=3),
    st.dictionaries(names, st.lists(st.text("ab\n", max_size=3)), max_size=2),
    st.dictionaries(names, st.integers(-(2**50), 2**50), max_size=2),
)
def test_whatever_tables_hold_survives_a_journey(tables, sets, counters):
    source, target = opened("n1"), opened("n2")
    for name, rows in tables.items():
        if rows:
            put(source, name, *rows)
    for name, elements in sets.items():
        source.call("state.set", {"name": name, "add": sorted(set(elements))})
    for name, value in counters.items():
        source.call("state.counter", {"name": name, "add": value})
    made = export(source)
    assert isinstance(json.loads(made.text), dict)

    bring(target, made.text)

    for name in tables:
        assert documents(target, name) == documents(source, name)
    again = json.loads(export(target).text)
    ours = json.loads(made.text)
    gone = [row for row in ours[".edgeweave"].values() if row not in again[".edgeweave"].values()]
    assert all(row["what"] == "counter" and row["value"] == 0 for row in gone), "0 is what is not counted"
