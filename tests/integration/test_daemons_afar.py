"""A gateway managed from another machine: the same commands by its socket and by a URL give the same."""

from __future__ import annotations

import json
import socketserver
import threading

import pytest

from edge_node.commands import exits
from edge_node.home import Home
from gateway import cli
from gateway.access.roles import Role
from gateway.afar.line import AfarMesh
from gateway.afar.trust import Reach
from gateway.top.actions import ACTIONS
from gateway.top.asking import Asking
from gateway.top.model import ALWAYS, NEEDS, Ask, Told
from gateway.top.views import Row
from security.authority import Authority
from security.certificates import pem_of, spki_sha256_of
from security.errors import Refused
from tests.support.daemons import Bed
from tests.support.http_api import PASSWORD, Api

pytestmark = pytest.mark.slow
MOVES = {"last_seen_at_ms", "load", "age_s", "at_ms"}
"""What a moment changes."""


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    with Bed(tmp_path_factory.mktemp("afar")) as bed:
        yield bed


@pytest.fixture(scope="module")
def api(bed):
    gateway, _ = bed.pair()
    return Api(gateway).people()


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """The command line in this process, which has no home of its own: (exit code, stdout, stderr)."""
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(*words):
        code = cli.program.enter([str(each) for each in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return run


@pytest.fixture
def afar(run, api, tmp_path):
    """A command by URL, with the token of a role."""

    def asked(*words, role=Role.ADMIN, ca=None, token=None, url=None):
        file = tmp_path / "token"
        file.write_text((token or api.tokens[role]) + "\n")
        file.chmod(0o600)
        ca = api.gateway.home.keys / "root.pem" if ca is None else ca
        return run("--url", url or api.base, "--token-file", file, *(("--ca", ca) if ca else ()), *words)

    return asked


@pytest.fixture
def value(afar):
    """What a command by URL tells with --json."""

    def of(*words, **options):
        code, out, err = afar("--json", *words, **options)
        assert code == 0, out + err
        return json.loads(out)

    return of


@pytest.fixture
def here(run, api):
    def of(*words):
        code, out, err = run("--home", api.gateway.home.path, "--json", *words)
        assert code == 0, out + err
        return json.loads(out)

    return of


def one_line(told, code, *words):
    """An error as people see it: one line, that names all *words*."""
    assert told[0] == code and told[1] == "", told
    assert told[2].count("\n") == 1, told[2]
    for each in words:
        assert each in told[2], told[2]


def still(told):
    """Without what a moment changes."""
    if isinstance(told, list):
        return [still(each) for each in told]
    if isinstance(told, dict):
        return {name: still(each) for name, each in told.items() if name not in MOVES}
    return told


def test_a_mesh_is_managed_by_url_and_both_ways_tell_the_same(value, here, afar, bed, tmp_path):
    """Everything that has a route, done from afar; then every list, asked both ways."""
    assert value("ping", "pi-1")["rtt_ms"] > 0
    assert [row["node"] for row in value("ping")] == ["pi-1"]
    assert value("status")["node"] == "gateway"

    (tmp_path / "toys.py").write_text(bed.toys.read_text() + "\n# another version\n")
    assert {each["version"] for each in value("deploy", tmp_path / "toys.py")["functions"]} == {2}
    assert value("functions", "rollback", "toys.add")["functions"][0]["version"] == 3
    assert value("run", "toys.add", "--arg", "a=1", "--where", "pi-1") == 2
    assert value("run", f"{bed.toys}:add", "--arg", "a=1", "--arg", "b=2") == 3
    task = value("submit", "toys.nap", "--arg", "seconds=0", "--arg", "what=7")["task"]
    assert value("result", task, "--wait", "30") == 7
    napping = value("submit", "toys.nap", "--arg", "seconds=50")["task"]
    assert value("cancel", napping) == {"task": napping, "cancelled": True}
    code, out, _ = afar("--json", "run", "toys.fail")
    failed = json.loads(out)["error"]
    assert (code, failed["message"], failed["kind"]) == (1, "ValueError: on purpose", "raised")

    assert value("pause", "pi-1", "--reason", "new disk")["work"] == "pause"
    assert value("drain", "pi-1")["before"] == "pause"
    assert value("resume", "pi-1")["work"] == "work"
    assert value("invite", "--name", "pi-2", "--approval", "pending")["code"].startswith("ew1")
    mistaken = value("invite", "--name", "pi-3", "--role", "store")["id"]
    assert [row["name"] for row in value("invites")] == ["pi-2", "pi-3"]
    assert value("withdraw", mistaken) == {"id": mistaken}
    one_line(afar("withdraw", mistaken), 2, mistaken, "an operator withdrew it", "nothing left to withdraw")
    one_line(afar("withdraw", "zzzzzz"), 2, "no join code has the id zzzzzz", "edge-gateway invites")
    one_line(afar("withdraw", mistaken, role=Role.VIEWER), exits.REFUSED, "needs the role operator")
    assert value("replace", "pi-1")["code"].startswith("ew1")

    value("state", "declare", "rooms", "--key", "id")
    value("state", "set", "rooms", "r1", "setpoint_c=20", "fan=low")
    value("state", "set", "rooms", "r2", "setpoint_c=30")
    value("state", "set", "rooms", "r1", "setpoint_c=21.5", "--delete", "fan")
    assert value("state", "get", "rooms", "r1") == {"id": "r1", "setpoint_c": 21.5}
    assert len(value("state", "get", "rooms", "--where", "setpoint_c > 25")) == 1
    assert len(value("state", "remove", "rooms", "r2")["doc_ids"]) == 1
    assert value("state", "counter", "doors", "--add", "3")["value"] == 3
    assert value("state", "elements", "tags", "--add", "north", "--add", "old") == ["north", "old"]
    assert value("state", "elements", "tags", "--discard", "old") == ["north"]
    assert value("state", "export", tmp_path / "all.json")
    assert value("state", "import", tmp_path / "all.json") is not None

    (tmp_path / "password").write_text(PASSWORD)
    word = ("--password-file", tmp_path / "password")
    assert value("users", "add", "bob", "--role", "viewer", *word) == value("users")[1]
    assert value("users", "role", "bob", "operator")["role"] == "operator"
    assert value("users", "passwd", "bob", *word)["name"] == "bob"
    assert value("users", "remove", "bob", "--yes") == {"name": "bob"}
    made = value("tokens", "add", "ci", "--role", "viewer", "--ttl", "1h")
    assert made["secret"].startswith("ewt_")
    assert value("tokens", "revoke", made["id"]) == {"id": made["id"]}
    assert value("log-level", "debug", "--logger", "edge_node.tasks")["level"] == "debug"
    assert value("log-level", "default", "--logger", "edge_node.tasks")["changed"] == []
    assert "edgeweave_up 1" in value("metrics")["text"]
    assert {row["who"].partition("#")[0] for row in value("audit", "list")[-5:]} == {"token:all-admin"}

    for words in (
        ("nodes",), ("roster",), ("pending",), ("invites",), ("functions",), ("tasks",),
        ("tasks", "--state", "done"), ("tasks", "--limit", "2"), ("result", task), ("why", task),
        ("users",), ("tokens",), ("log-level",),
        ("audit",), ("audit", "list", "--after", "3", "--limit", "4"), ("events", "--limit", "3"), ("state",),
        ("state", "get", "rooms"), ("state", "get", "rooms", "r1"), ("state", "conflicts"),
        ("state", "counter", "doors"), ("state", "elements", "tags"),
        ("state", "get", "rooms", "--fresh", "60"),
    ):  # fmt: skip
        assert still(value(*words)) == still(here(*words)), words
    assert value("status").keys() == here("status").keys()


def test_text_for_people_is_the_same_too(run, afar, api):
    for words in (("functions",), ("tasks",), ("users",), ("roster",), ("state",)):
        assert afar(*words) == run("--home", api.gateway.home.path, *words)


async def test_top_asks_by_url_too(api):
    """Every question of the screen, as a viewer; an act that a viewer may not is told as one."""
    reach = Reach(api.base, api.tokens[Role.VIEWER], str(api.gateway.home.keys / "root.pem"))
    asking = Asking(AfarMesh(Home("/nonexistent"), reach))
    questions = {name for needed in (*NEEDS.values(), ALWAYS) for name in needed}
    methods = {"tasks": "tasks-page", "tables": "state.tables"}
    params = {"ping": {"node": "pi-1"}, "tasks": {"limit": 1, "after": "", "state": "", "function": ""}}
    params["events"] = {"after": None, "limit": 5, "wait_ms": 0}
    told = {}
    for name in sorted(questions):
        told[name] = await asking.answer(Ask(name, methods.get(name, name), params.get(name, {})))
        assert isinstance(told[name], Told), told[name]
    page = told["tasks"].answer
    older = await asking.answer(Ask("tasks", "tasks-page", params["tasks"] | {"after": page["next"]}))

    assert older.answer["tasks"][0]["id"] < page["tasks"][0]["id"]
    assert {row["id"] for row in told["nodes"].answer} >= {"gateway", "pi-1"}
    pause = next(each for each in ACTIONS if each.method == "pause")
    with pytest.raises(Refused, match="operator"):
        await asking.act(pause, Row("pi-1", ()), "ann")
    await asking.close()


def test_the_tables_of_programs_are_looked_at_and_changed_apart(api):
    """What looks changes nothing, whatever is in it; what the methods do not know is a problem."""
    with api.of(Role.VIEWER) as viewer, api.of(Role.OPERATOR) as operator:

        def answer(client, path, method, **params):
            return client.post(f"/v1/state/{path}", json={"method": method, "params": params})

        assert answer(viewer, "change", "counter", name="doors", add=1).status_code == 403
        for wrong in (
            answer(viewer, "look", "counter", name="doors", add=1),
            answer(viewer, "look", "set", name="tags", add=["x"]),
            answer(viewer, "look", "insert", table="rooms", documents=[]),
            answer(viewer, "look", "find", self=1, table="rooms"),
            answer(viewer, "look", "find", table="rooms", ids=[2**70]),
            answer(viewer, "look", "watch", table="rooms", wait_ms="soon"),
            answer(operator, "change", "put", table="rooms", documents=[["x", 1]]),
        ):
            assert wrong.status_code == 422, wrong.text
            assert wrong.headers["content-type"] == "application/problem+json"
        found = answer(viewer, "look", "find", table="rooms", limit=10**9)
        assert found.status_code == 200 and not found.json()["more"]


def test_a_table_whose_name_holds_a_slash_is_one_table_from_everywhere(value, here, api):
    value("state", "declare", "north/rooms", "--key", "id")
    value("state", "set", "north/rooms", "r1", "setpoint_c=20")

    assert here("state", "get", "north/rooms", "r1") == {"id": "r1", "setpoint_c": 20}
    assert value("state", "get", "north/rooms", "r1") == {"id": "r1", "setpoint_c": 20}
    with api.of(Role.OPERATOR) as operator:
        (row,) = operator.get("/v1/state/tables/north%2Frooms").json()["documents"]
        path = f"/v1/state/tables/north%2Frooms/{row['id']}"
        assert operator.patch(path, json={"fan": "low"}).status_code == 200
        added = operator.post("/v1/state/tables/north%2Frooms", json={"id": "r2"})
        assert added.headers["location"].startswith("/v1/state/tables/north%2Frooms/")
        assert operator.get("/v1/state/tables/north").json()["documents"] == [], "another table"
    assert here("state", "get", "north/rooms", "r1")["fan"] == "low"


def test_a_token_does_what_its_role_may(value, afar):
    assert value("nodes", role=Role.VIEWER)
    one_line(
        afar("pause", "pi-1", role=Role.VIEWER), exits.REFUSED, "needs the role operator", "administrator"
    )
    one_line(afar("users", role=Role.OPERATOR), exits.REFUSED, "needs the role admin")
    one_line(afar("state", "counter", "doors", "--add", "1", role=Role.VIEWER), exits.REFUSED, "operator")
    code, out, err = afar("--json", "revoke", "pi-1", "--yes", role=Role.VIEWER)
    assert (code, json.loads(out)["error"]["code"], err) == (exits.REFUSED, "refused", "")


def test_what_is_wrong_with_a_request_is_told_in_one_line(afar):
    one_line(afar("ping", "pi-99"), exits.BAD_INPUT, "no member is named pi-99", "`edge-gateway nodes`")
    one_line(afar("result", "0" * 23), exits.BAD_INPUT, "no task")
    one_line(afar("run", "toys.none"), exits.BAD_INPUT, "toys.none")
    one_line(afar("run", "toys.size", "--arg", "text=NaN"), exits.BAD_INPUT, "JSON")
    one_line(afar("state", "get", "none"), exits.BAD_INPUT, "there is no table 'none'")


def test_only_a_token_that_holds_opens(afar, value, api):
    ended = value("tokens", "add", "short", "--ttl", "60s")
    value("tokens", "revoke", ended["id"])

    for token in (ended["secret"], "ewt_k7q2mzpe_notatokenatall"):
        told = afar("nodes", token=token)
        one_line(told, exits.REFUSED, "is unknown or was revoked", "tokens add")
        assert token not in told[2]


def test_a_token_from_the_environment_stands_in_no_list_of_processes(run, api, monkeypatch):
    monkeypatch.setenv("EDGEWEAVE_URL", api.base)
    monkeypatch.setenv("EDGEWEAVE_TOKEN", api.tokens[Role.VIEWER])
    monkeypatch.setenv("EDGEWEAVE_CA", str(api.gateway.home.keys / "root.pem"))

    assert run("pending", "--json")[:2] == (0, "[]\n")
    with_home = run("--home", api.gateway.home.path, "audit", "verify")
    assert with_home[0] == 0, "who names a home means that one"
    one_line(run("audit", "verify"), exits.REFUSED, "own machine", "EDGEWEAVE_URL")


def test_the_pin_is_as_good_as_the_file(run, value, api):
    code, pem, note = run("--home", api.gateway.home.path, "ca")
    told = json.loads(run("--home", api.gateway.home.path, "ca", "--json")[1])

    assert (code, pem) == (0, (api.gateway.home.keys / "root.pem").read_text())
    assert told["pem"] == pem and told["pin"] in note
    assert value("nodes", ca=told["pin"])
    assert value("nodes", ca=f"sha256:{told['pin']}")


def test_a_gateway_that_proves_nothing_gets_no_token(afar, api, tmp_path):
    """Another mesh's root or pin, or the system's trust: one line is told, and no request was made."""
    other = Authority.create(now_s=1_790_000_000, entropy=lambda count: b"7" * count)
    root = tmp_path / "other.pem"
    root.write_bytes(pem_of(other.root))
    before = api.of(Role.ADMIN).get("/metrics").text.count('status="401"')

    for ca in (root, spki_sha256_of(other.root).hex(), ""):
        one_line(afar("nodes", ca=ca), exits.REFUSED, "not to be believed", "--ca FILE")

    assert api.of(Role.ADMIN).get("/metrics").text.count('status="401"') == before


def test_who_does_not_answer_is_told_in_one_line(afar, api):
    one_line(afar("nodes", url="https://127.0.0.1:1"), exits.UNAVAILABLE, "no gateway answers", "is it up")
    one_line(afar("metrics", url="https://127.0.0.1:1"), exits.UNAVAILABLE, "no gateway answers")
    one_line(afar("why", "pi-1", url="https://127.0.0.1:1"), exits.UNAVAILABLE, "no gateway answers")
    one_line(afar("state", url="https://127.0.0.1:1"), exits.UNAVAILABLE, "no gateway answers")
    one_line(afar("nodes", url=api.base.replace("https", "http")), exits.BAD_INPUT, "not https")

    with socketserver.TCPServer(("127.0.0.1", 0), _Plain) as plain:
        serving = threading.Thread(target=plain.handle_request)
        serving.start()
        url = f"https://127.0.0.1:{plain.server_address[1]}"
        one_line(afar("nodes", url=url), exits.UNAVAILABLE, "speaks no TLS")
        serving.join(10)


class _Plain(socketserver.BaseRequestHandler):
    """What has no certificate."""

    def handle(self):
        self.request.recv(4096)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize(
    "command",
    [
        "up", "doctor", "backup x", "restore x", "settle", "store", "store verify", "audit verify",
        "users link ann", "ca",
    ],
)  # fmt: skip
def test_what_needs_the_gateways_own_machine_says_why(afar, command):
    said = command.removesuffix(" x").removesuffix(" ann")
    one_line(afar(*command.split()), exits.REFUSED, f"`edge-gateway {said}` is for", "own machine")


def test_options_that_contradict_are_told(run, api, monkeypatch):
    home = api.gateway.home.path
    one_line(run("--home", home, "--url", api.base, "nodes"), exits.BAD_INPUT, "--home and --url")
    one_line(
        run("--url", api.base, "--token", "ewt_k7q2mzpe_x", "nodes", "--home", home), exits.BAD_INPUT, "one"
    )
    one_line(run("--token", "ewt_k7q2mzpe_x", "nodes"), exits.BAD_INPUT, "give --url too")
    monkeypatch.setenv("EDGEWEAVE_URL", api.base)
    for option in ("--token", "--token-file", "--ca"):
        said = ("--home and " + option, "give one")
        one_line(run(option, "ewt_k7q2mzpe_x", "--home", home, "nodes"), exits.BAD_INPUT, *said)
        one_line(run(option, "ewt_k7q2mzpe_x", "nodes", "--home", home), exits.BAD_INPUT, *said)
        one_line(run(option, "ewt_k7q2mzpe_x", "users", "--home", home, "list"), exits.BAD_INPUT, *said)
    monkeypatch.delenv("EDGEWEAVE_URL")
    one_line(run("--url", api.base, "nodes"), exits.BAD_INPUT, "no token was given")


def test_a_revocation_from_afar_names_who_asked(value, here):
    """Last: pi-1 is out."""
    told = value("revoke", "pi-1", "--yes", "--reason", "stolen", role=Role.OPERATOR)

    assert (told["reason"], told["already"]) == ("stolen", False)
    assert told["by"].startswith("token:all-operator#")
    assert here("audit")[-1]["who"] == told["by"]
