"""``edge-gateway users``, ``tokens``, ``audit``: what is asked of the daemon, and what needs none."""

from __future__ import annotations

import asyncio
import json
import os

import pytest

from edge_node.clock import ManualClock
from edge_node.control.server import caller
from edge_node.home import Home
from gateway import cli, doctor
from gateway.access.access import ACCESS, AUDIT, Access
from gateway.access.passwords import Cost
from gateway.access.roles import Principal, Role
from security.errors import Refused
from tests.support.daemon_thread import serving
from tests.support.echo_backend import EchoBackend
from tests.support.typed_commands import typed

WORDS = "four words of dice"
ROOT = Principal("local:root", Role.ADMIN, "local")


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "gateway")
    home.create()
    return home


@pytest.fixture
def edge_gateway(capsys, monkeypatch, home):
    """Run the command line here: (exit code, stdout, stderr)."""

    def run(*words, stdin=b"", terminal=False):
        return typed(
            cli.program, capsys, monkeypatch, home, words, stdin=stdin, terminal=terminal, secret=WORDS
        )

    return run


@pytest.fixture
def daemon(home):
    with serving(home, EchoBackend()) as backend:
        yield backend


USER = {"name": "ann", "since_at_ms": 1, "role": "admin", "password_at_ms": 1, "version": 1}
TOKEN = {
    "id": "abcd",
    "name": "ci",
    "role": "viewer",
    "scopes": ["nodes:read"],
    "owner": "ann",
    "secret": "ewt_x_y",
}


def test_a_password_comes_from_stdin_or_a_file_and_never_from_the_command_line(
    edge_gateway, daemon, tmp_path
):
    daemon.answers |= {"user-add": USER, "user-passwd": USER}
    (tmp_path / "words").write_text(f"{WORDS}\r\nsecond line\n")

    for more, stdin in (
        (["--password-file", tmp_path / "words"], b""), (["--password-file", "-"], f"{WORDS}\n".encode()),
        ([], WORDS.encode()),
    ):  # fmt: skip
        assert edge_gateway("users", "add", "ann", "--role", "admin", *more, stdin=stdin)[:2] == (
            0, "ann may log in as admin\n",
        )  # fmt: skip
    assert edge_gateway("users", "passwd", "ann", stdin=WORDS.encode())[0] == 0
    asked = {"name": "ann", "role": "admin", "password": WORDS}
    assert daemon.calls == [("user-add", asked)] * 3 + [("user-passwd", {"name": "ann", "password": WORDS})]
    code, _, err = edge_gateway("users", "add", "ann", "--password", "on the command line")
    assert code == 2 and "--help" in err


def test_on_a_terminal_a_password_is_asked_for_twice(edge_gateway, daemon, monkeypatch):
    daemon.answers["user-passwd"] = USER
    typed = iter([WORDS, WORDS, WORDS, "four words of mice"])
    monkeypatch.setattr("getpass.getpass", lambda prompt, stream: next(typed))

    assert edge_gateway("users", "passwd", "ann", terminal=True)[:2] == (0, "ann has a new password\n")
    code, out, err = edge_gateway("users", "passwd", "ann", terminal=True)
    assert (code, out) == (2, "") and "differ" in err
    assert len(daemon.calls) == 1


@pytest.mark.parametrize(
    ("words", "stdin", "told"),
    [
        (["users", "add", "ann"], b"", "no password was given"),
        (["users", "add", "ann"], b"\xff\xfe words of dice", "not UTF-8"),
        (["users", "add", "ann", "--password-file", "nowhere"], b"", "cannot read nowhere"),
        (["users", "add", "ann", "--role", "king"], b"x", "viewer, operator, admin"),
        (["users", "role", "ann", "king"], b"", "viewer, operator, admin"),
        (["users", "remove", "ann"], b"ann\n", "give --yes"),
        (["tokens", "add", "ci", "--scope", "nodes:fly"], b"", "nodes:fly"),
        (["tokens", "add", "ci", "--ttl", "soon"], b"", "soon"),
        (["audit", "list", "--limit", "0"], b"", "--limit"),
        (["audit", "verify", "--expect", "7"], b"", "N:HASH"),
    ],
)
def test_what_does_not_fit_is_one_line_and_is_not_sent(edge_gateway, daemon, words, stdin, told):
    code, out, err = edge_gateway(*words, stdin=stdin)

    assert (code, out, err.count("\n"), daemon.calls) == (2, "", 1, [])
    assert told in err


def test_the_daemon_knows_whose_program_asks(edge_gateway, home):
    """By the kernel's word (SO_PEERCRED), not by what a program says of itself."""
    asked = []

    class Asked(EchoBackend):
        async def call(self, method, params):
            asked.append(caller.get())
            return []

    with serving(home, Asked()):
        assert edge_gateway("users")[0] == edge_gateway("tokens")[0] == 0

    assert asked == [os.getuid()] * 2 and caller.get() is None


def test_users_are_listed_changed_and_removed(edge_gateway, daemon):
    daemon.answers |= {"users": [USER], "user-role": USER, "user-remove": {"name": "ann"}}

    assert "ann   admin" in edge_gateway("users")[1] and "version" not in edge_gateway("users", "list")[1]
    assert json.loads(edge_gateway("users", "--json")[1]) == [USER]
    assert edge_gateway("users", "role", "ann", "operator")[1] == "ann is operator now\n"
    assert edge_gateway("users", "remove", "ann", "--yes")[1] == "ann is removed\n"
    assert daemon.calls[-2:] == [
        ("user-role", {"name": "ann", "role": "operator"}), ("user-remove", {"name": "ann"}),
    ]  # fmt: skip
    daemon.answers["user-remove"] = Refused(
        "ann is the last administrator", fix="make another user admin first"
    )
    code, _, err = edge_gateway("users", "remove", "ann", "--yes")
    assert (code, err) == (
        4, "edge-gateway: ann is the last administrator: make another user admin first\n",
    )  # fmt: skip


def test_a_token_is_printed_alone(edge_gateway, daemon):
    """So that TOKEN=$(edge-gateway tokens add ci) works."""
    daemon.answers |= {"token-add": TOKEN, "token-revoke": {"id": "abcd"}, "tokens": []}

    code, out, err = edge_gateway("tokens", "add", "ci", "--scope", "nodes:read", "--ttl", "12h")
    assert (code, out) == (0, "ewt_x_y\n") and "tokens revoke abcd" in err
    assert daemon.calls == [
        ("token-add", {"name": "ci", "role": "viewer", "scopes": ["nodes:read"], "ttl_s": 43200.0})
    ]
    assert json.loads(edge_gateway("tokens", "add", "ci", "--json")[1])["secret"] == "ewt_x_y"
    assert edge_gateway("tokens", "revoke", "abcd")[1] == "abcd is revoked\n"
    assert edge_gateway("tokens")[:2] == (0, "") and edge_gateway("tokens", "--json")[1] == "[]\n"


def test_entries_are_a_table_or_json(edge_gateway, daemon):
    entry = {
        "n": 7,
        "at_ms": 1_700_000_000_000,
        "who": "ann",
        "what": "node.revoke",
        "target": "pi-1",
        "hash": "ab",
    }
    daemon.answers["audit"] = [entry]

    assert "node.revoke" in edge_gateway("audit")[1] and "2023-11-1" in edge_gateway("audit", "list")[1]
    assert json.loads(edge_gateway("audit", "list", "--after", "6", "--json")[1]) == [entry]
    assert daemon.calls == [
        ("audit", {"after": -1, "limit": 50}), ("audit", {"after": -1, "limit": 50}),
        ("audit", {"after": 6, "limit": 50}),
    ]  # fmt: skip


@pytest.fixture
def changed(home):
    """A home in which three things were changed; its daemon is down. Returns: the path of its log."""

    async def change() -> None:
        access = Access(home.path, clock=ManualClock(), cost=Cost(memory_kib=64, passes=1))
        await access.open()
        await access.add_user(ROOT, "ann", WORDS, Role.ADMIN)
        await access.add_user(ROOT, "bob", WORDS, Role.VIEWER)
        await access.close()

    asyncio.run(change())
    return home.path / AUDIT


def test_a_whole_log_is_verified_without_a_daemon(edge_gateway, changed, tmp_path):
    code, out, err = edge_gateway("audit", "verify")
    assert (code, out) == (0, "3 entries, whole\n") and "--expect: 3:" in err
    facts = json.loads(edge_gateway("audit", "verify", "--json")[1])
    assert (facts["whole"], facts["entries"], facts["broken_at"]) == (True, 3, None)

    copy = tmp_path / "copy"
    copy.write_bytes(changed.read_bytes())
    code, _, err = edge_gateway("audit", "verify", "--file", copy)
    assert code == 0 and "only with --expect" in err
    assert edge_gateway("audit", "verify", "--file", copy, "--expect", facts["head"])[0] == 0


def test_a_broken_log_is_exit_code_1_and_named(edge_gateway, changed):
    lines = changed.read_bytes().splitlines(keepends=True)

    changed.write_bytes(b"".join(lines[:2]))
    code, out, err = edge_gateway("audit", "verify")
    assert (code, out) == (1, "broken at entry 3: the last entry is missing: there were 3\n")
    assert "2 entries before it hold" in err
    changed.write_bytes(b"".join([lines[0], lines[1].replace(b"ann", b"eve", 1), lines[2]]))
    code, out, _ = edge_gateway("audit", "verify", "--json")
    assert code == 1 and json.loads(out)["reason"] == "entry 2 was changed: it does not fit its hash"
    changed.unlink()
    assert edge_gateway("audit", "verify")[:2] == (
        1, "broken at entry 1: the last 3 entries are missing: there were 3\n",
    )  # fmt: skip


def test_a_whole_new_chain_is_found_by_what_was_noted_elsewhere(edge_gateway, changed, home):
    """Whoever writes log and accounts can make both fit; not the line in somebody's notebook."""
    noted = json.loads(edge_gateway("audit", "verify", "--json")[1])["head"]
    for name in (AUDIT, ACCESS):
        (home.path / name).unlink()

    async def forge() -> None:
        access = Access(home.path, clock=ManualClock(5), cost=Cost(memory_kib=64, passes=1))
        await access.open()
        for name in ("ann", "cat", "eve"):
            await access.add_user(ROOT, name, WORDS, Role.ADMIN)
        await access.close()

    asyncio.run(forge())

    assert edge_gateway("audit", "verify")[0] == 0
    code, out, _ = edge_gateway("audit", "verify", "--expect", noted)
    assert code == 1 and "the log was written anew" in out


def test_doctor_looks_at_the_log(changed, home):
    assert [each.verdict for each in doctor.audit_log(home)] == ["ok"]
    changed.write_bytes(changed.read_bytes()[:-1])
    (cut,) = doctor.audit_log(home)
    assert (cut.verdict, cut.detail) == ("fail", "the last entry is missing: there were 3")
    (home.path / ACCESS).write_bytes(b"{")
    assert doctor.audit_log(home)[0].fix
    (home.path / ACCESS).unlink()
    assert doctor.audit_log(home) == []


def test_a_home_without_accounts_is_said(edge_gateway, home, tmp_path):
    code, out, err = edge_gateway("audit", "verify")
    assert (code, out, err.count("\n")) == (2, "", 1) and "--file" in err
    assert edge_gateway("audit", "verify", "--file", tmp_path / "none")[0] == 2
