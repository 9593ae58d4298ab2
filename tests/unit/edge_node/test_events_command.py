"""`events`: sentences for people, the page or one event a line for programs."""

from __future__ import annotations

import json

import pytest

from edge_node import cli
from edge_node.home import Home
from tests.support.daemon_thread import serving
from tests.support.echo_backend import EchoBackend

EVENT = {
    "cursor": "7-0000beef", "number": 7, "at_ms": 1_700_000_000_123, "node": "pi-1", "subject": "node",
    "id": "pi-1", "what": "started", "cause": "n-1", "place": "", "attempt": 0,
    "details": {"version": "0.1.0"},
}  # fmt: skip
PAGE = {"events": [EVENT], "next": "7-0000beef", "missed": True}


@pytest.fixture
def daemon(tmp_path):
    home = Home(tmp_path / "node")
    home.create()
    with serving(home, EchoBackend()) as backend:
        backend.answers["events"] = PAGE
        yield home, backend


def run(home, *words):
    return cli.program.enter(["--home", str(home.path), "events", *words])


def test_each_event_is_a_sentence_and_a_gap_is_told(daemon, capsys):
    home, backend = daemon

    assert run(home, "--after", "6-0000beef", "--limit", "9") == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1 and out.endswith("pi-1 started (0.1.0)\n")
    assert "some events were missed" in err
    assert backend.calls == [("events", {"after": "6-0000beef", "limit": 9})]


def test_json_is_the_page_as_it_was_told(daemon, capsys):
    home, _ = daemon

    assert run(home, "--json") == 0
    assert json.loads(capsys.readouterr().out) == PAGE


def test_following_goes_on_after_the_last_and_writes_an_event_a_line(daemon, capsys):
    home, backend = daemon
    answer, told = backend.call, []

    async def twice_then_away(method, params):
        told.append(params)
        if len(told) == 3:
            backend.answers["events"] = ConnectionError("the end of the test")
        return await answer(method, params)

    backend.call = twice_then_away
    assert run(home, "--follow", "--json") != 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line).get("cursor") for line in lines[:2]] == ["7-0000beef"] * 2
    assert [each["after"] for each in told] == [None, "7-0000beef", "7-0000beef"]
    assert told[1]["wait_ms"] > 0
