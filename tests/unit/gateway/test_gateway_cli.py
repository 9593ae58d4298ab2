"""``edge-gateway``: its own commands, over a control socket with a backend in memory."""

from __future__ import annotations

import io
import json
import socket
import sys

import pytest

from edge_node.commands import launch
from edge_node.home import Home
from gateway import cli
from security.errors import Refused
from tests.support.daemon_thread import serving
from tests.support.echo_backend import EchoBackend


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "gateway")
    home.create()
    return home


@pytest.fixture
def edge_gateway(capsys, home):
    """Run the command line here: (exit code, stdout, stderr)."""

    def run(*words):
        code = cli.program.enter(["--home", str(home.path), *(str(each) for each in words)])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return run


@pytest.fixture
def daemon(home):
    with serving(home, EchoBackend()) as backend:
        yield backend


def test_every_named_command_is_there():
    registered = [*cli.app.registered_commands, *cli.app.registered_groups]
    assert {each.name for each in registered} == {
        "up", "invite", "invites", "withdraw", "approve", "deny", "pending", "revoke", "replace",
        "pause", "drain", "resume", "ping", "ca",
        "nodes", "functions", "deploy", "tasks", "roster", "status", "doctor",
        "backup", "restore", "settle", "run", "submit", "result", "cancel",
        "why", "events", "completion", "store", "state", "metrics", "log-level", "users", "tokens", "audit",
        "top",
    }  # fmt: skip


def test_invite_prints_the_code_alone(edge_gateway, daemon):
    """So that CODE=$(edge-gateway invite) works."""
    daemon.answers["invite"] = {"code": "ew1.x.y", "expires_at_ms": 1}

    code, out, err = edge_gateway(
        "invite", "--ttl", "15m", "--approval", "pending", "--name", "pi-1", "--role", "deployer"
    )

    assert (code, out) == (0, "ew1.x.y\n")
    assert "edge-node join CODE" in err and "approve" in err
    assert daemon.calls == [
        ("invite", {"ttl_s": 900.0, "approval": "pending", "name": "pi-1", "roles": ["deployer"]})
    ]


@pytest.mark.parametrize(
    "words",
    [["--ttl", "0"], ["--ttl", "31d"], ["--ttl", "later"], ["--approval", "maybe"], ["--role", "king"]],
)
def test_a_bad_invitation_is_not_sent(edge_gateway, daemon, words):
    code, out, err = edge_gateway("invite", *words)

    assert (code, out, err.count("\n"), daemon.calls) == (2, "", 1, [])


def test_a_made_code_tells_how_it_is_taken_back(edge_gateway, daemon):
    daemon.answers["invite"] = {"id": "k7q2mz", "code": "ew1.x.y", "expires_at_ms": 1}

    code, out, err = edge_gateway("invite")

    assert (code, out) == (0, "ew1.x.y\n") and "edge-gateway withdraw k7q2mz" in err


def test_open_codes_are_listed_by_their_ids(edge_gateway, daemon):
    rows = [
        {"id": "k7q2mz", "name": "pi-1", "approval": "auto", "roles": ["store"], "replaces": False,
         "expires_at_ms": 1_790_000_000_000},
    ]  # fmt: skip
    daemon.answers["invites"] = rows

    head, row = edge_gateway("invites")[1].splitlines()
    assert head.split()[:4] == ["id", "name", "approval", "roles"]
    assert row.split()[:4] == ["k7q2mz", "pi-1", "auto", "store"]
    assert json.loads(edge_gateway("invites", "--json")[1]) == rows
    daemon.answers["invites"] = []
    code, out, err = edge_gateway("invites")
    assert (code, out) == (0, "") and "no join code is open; make one with `edge-gateway invite`" in err


def test_a_code_is_withdrawn_by_its_id_and_never_by_itself(edge_gateway, daemon):
    daemon.answers["withdraw"] = {"id": "k7q2mz"}

    assert edge_gateway("withdraw", "k7q2mz")[:2] == (0, "k7q2mz is withdrawn: nobody joins with that code\n")
    assert json.loads(edge_gateway("withdraw", "k7q2mz", "--json")[1]) == {"id": "k7q2mz"}
    assert daemon.calls == [("withdraw", {"id": "k7q2mz"})] * 2
    code, out, err = edge_gateway("withdraw", "ew1.aaaa.k7q2mz.secret")
    assert (code, out, err.count("\n"), len(daemon.calls)) == (2, "", 1, 2)
    assert "secret" not in err and "edge-gateway invites" in err


def test_nodes_are_a_table_or_json(edge_gateway, daemon):
    rows = [{"id": "pi-1", "state": "up", "roles": ["worker"], "labels": {"site": "a"}, "more": 1}]
    daemon.answers["nodes"] = rows

    assert edge_gateway("nodes")[1] == "id    state  roles   labels\npi-1  up     worker  site=a\n"
    assert json.loads(edge_gateway("nodes", "--json")[1]) == rows


def test_an_empty_table_leaves_stdout_empty(edge_gateway, daemon):
    daemon.answers["nodes"] = []

    code, out, err = edge_gateway("nodes")

    assert (code, out) == (0, "")
    assert "invite one" in err
    assert edge_gateway("nodes", "--json")[1] == "[]\n"


def test_functions_lists_and_rolls_back(edge_gateway, daemon, home):
    daemon.answers["functions"] = [{"name": "room.changes", "version": 3, "digest": "ab" * 32}]
    daemon.answers["rollback"] = {"functions": [{"name": "room.changes", "version": 4}]}

    assert edge_gateway("functions")[1].splitlines()[1] == "room.changes  3        abababababab"
    code, out, _ = edge_gateway("functions", "rollback", "room.changes", "--home", home.path)

    assert (code, out) == (0, "room.changes is at version 4 now\n")
    assert daemon.calls[-1] == ("rollback", {"name": "room.changes"})
    assert json.loads(edge_gateway("functions", "--json")[1])[0]["version"] == 3
    assert json.loads(edge_gateway("functions", "--json", "rollback", "room.changes")[1])["functions"]


def test_the_roster_is_facts_and_members(edge_gateway, daemon):
    daemon.answers["roster"] = {
        "mesh": "ab" * 8,
        "version": 7,
        "members": [{"id": "gateway", "status": "active", "roles": ["gateway"], "keys": ["cd" * 32]}],
    }

    _, out, _ = edge_gateway("roster")

    assert "version  7" in out and "gateway  active" in out
    assert json.loads(edge_gateway("roster", "--json")[1])["members"][0]["keys"] == ["cd" * 32]


def test_approve_is_told(edge_gateway, daemon):
    daemon.answers["approve"] = {"node": "pi-1"}

    assert edge_gateway("approve", "pi-1")[:2] == (0, "pi-1 is a member now\n")


def test_deploy_sends_the_file_and_says_what_is_new(edge_gateway, daemon, tmp_path):
    file = tmp_path / "room.py"
    file.write_text(
        "from edge_node.functions import function\n\n@function\ndef changes(rows):\n    return rows\n"
    )
    daemon.answers["deploy"] = {"functions": [{"name": "room.changes", "version": 1, "new": True}]}

    code, out, err = edge_gateway("deploy", file)

    assert (code, out, err) == (0, "", "deployed room.changes, version 1\n")
    assert daemon.calls == [("deploy", {"source": file.read_bytes(), "stem": "room", "only_if_new": True})]
    daemon.answers["deploy"] = {"functions": [{"name": "room.changes", "version": 1, "new": False}]}
    assert "nothing to do" in edge_gateway("deploy", file)[2]


@pytest.mark.parametrize(
    ("text", "told"),
    [("def changes(rows): ...\n", "no function is marked with @function"), ("def (", "room.py:1: ")],
)
def test_a_file_that_offers_nothing_is_bad_input(edge_gateway, daemon, tmp_path, text, told):
    (tmp_path / "room.py").write_text(text)

    code, out, err = edge_gateway("deploy", tmp_path / "room.py")

    assert (code, out, err.count("\n"), daemon.calls) == (2, "", 1, [])
    assert told in err


def test_a_refusal_is_exit_code_4(edge_gateway, daemon, tmp_path):
    (tmp_path / "room.py").write_text(
        "from edge_node.functions import function\n\n@function\ndef changes(rows):\n    return rows\n"
    )
    daemon.answers["deploy"] = Refused("this node has not the role deployer", fix="deploy on the gateway")

    code, out, err = edge_gateway("deploy", tmp_path / "room.py")
    assert (code, out) == (4, "")
    assert err == "edge-gateway: this node has not the role deployer: deploy on the gateway\n"

    code, out, _ = edge_gateway("run", f"{tmp_path / 'room.py'}:changes", "--json")
    assert (code, json.loads(out)["error"]["code"]) == (4, "refused")


def test_up_becomes_the_daemon_with_its_options(edge_gateway, home, monkeypatch):
    became = []
    monkeypatch.setattr(launch.os, "execve", lambda *args: became.append(args))

    edge_gateway(
        "up",
        "--listen",
        "127.0.0.1",
        "--port",
        "0",
        "--broker",
        "embedded",
        "--broker-port",
        "0",
        "--mdns",
        "lo",
    )

    assert became[0][1] == [
        sys.executable, "-P", "-X", "no_debug_ranges", "-m", "gateway.daemon", "--home", str(home.path),
            "--listen", "127.0.0.1",
        "--port", "0", "--broker", "embedded", "--broker-port", "0", "--mdns", "lo",
    ]  # fmt: skip


def test_up_refuses_a_port_in_use(edge_gateway):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = edge_gateway("up", "--listen", "127.0.0.1", "--port", port)

    assert (code, out) == (3, "")
    assert err == f"edge-gateway: port {port} is in use on 127.0.0.1: choose another with --port\n"


def test_up_refuses_a_home_whose_daemon_answers(edge_gateway, daemon):
    code, _, err = edge_gateway("up", "--port", "0")

    assert code == 3
    assert "a daemon already runs in" in err


def test_up_without_the_gateways_extra_names_it(edge_gateway, monkeypatch):
    """A bare install is a node: one line, not the traceback of an import."""
    monkeypatch.setattr(cli, "GATEWAY_LIBRARIES", ("json", "no_such_library"))

    code, out, err = edge_gateway("up", "--port", "0")

    assert (code, out) == (3, "")
    assert err == (
        "edge-gateway: a gateway needs no_such_library, which this environment lacks: "
        "pip install 'edgeweave[gateway]'\n"
    )


def test_up_refuses_an_unknown_broker(edge_gateway):
    code, _, err = edge_gateway("up", "--broker", "mosquito")

    assert code == 2
    assert "option --broker is the text 'mosquito': expected one of" in err


def test_doctor_looks_at_ports_and_the_broker(edge_gateway, home):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        home.settings.write_text(f"[joining]\nlisten = '127.0.0.1'\nport = 0\n[broker]\nport = {port}\n")
        code, out, _ = edge_gateway("doctor", "--json")

    findings = {each["check"]: each for each in json.loads(out)["findings"]}
    assert code == 1
    assert findings["broker port"]["verdict"] == "fail"
    assert findings["joining port"]["verdict"] == "ok"
    assert findings["broker"]["verdict"] == "ok"


REVOKED = {"node": "pi-1", "already": False, "since_at_ms": 1, "by": "ann", "reason": "lost", "cut": True}


def test_revoke_asks_for_the_name_on_a_terminal(edge_gateway, daemon, monkeypatch):
    daemon.answers["revoke"] = REVOKED
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    typed = io.StringIO()
    typed.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", typed)
    typed.write("pi-2\npi-1\n")
    typed.seek(0)

    code, out, err = edge_gateway("revoke", "pi-1")
    assert (code, out) == (2, "") and "that is another name: nothing was changed" in err
    assert daemon.calls == []
    assert edge_gateway("revoke", "pi-1", "--reason", "lost")[:2] == (0, "pi-1 is revoked\n")
    assert daemon.calls == [("revoke", {"node": "pi-1", "reason": "lost", "by": "ann"})]


def test_revoke_without_a_terminal_wants_yes_and_tells_what_is_to_come(edge_gateway, daemon, monkeypatch):
    daemon.answers["revoke"] = REVOKED | {"already": True, "cut": False}
    monkeypatch.setattr("sys.stdin", io.StringIO("pi-1\n"))

    code, out, err = edge_gateway("revoke", "pi-1")
    assert (code, out) == (2, "") and err.endswith("this is no terminal: give --yes\n")
    code, out, err = edge_gateway("revoke", "pi-1", "--yes")
    assert (code, out) == (0, "pi-1 is revoked\n")
    assert err == (
        "pi-1 had been revoked before\nthe broker does not answer now: it is told as soon as it does\n"
    )


def test_a_code_to_replace_a_board_is_asked_for_and_printed_alone(edge_gateway, daemon):
    daemon.answers["replace"] = {"code": "ew1.x.y", "expires_at_ms": 1}

    code, out, err = edge_gateway("replace", "pi-1", "--ttl", "2d", "--approval", "pending")
    assert (code, out) == (0, "ew1.x.y\n")
    assert "edge-node join CODE; then compare its six words here with `edge-gateway approve pi-1`" in err
    assert daemon.calls == [("replace", {"ttl_s": 172800.0, "approval": "pending", "node": "pi-1"})]
    assert edge_gateway("replace", "pi-1", "--ttl", "31d")[0] == 2
