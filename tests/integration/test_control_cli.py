"""Work from the command line: values on stdout, all else on stderr, the exit code of each end."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_node import cli
from edge_node.commands.leaving import leave
from edge_node.functions import values
from edge_node.home import Home
from security.errors import BadInput, Refused
from tests.support.daemon_thread import serving
from tests.support.echo_backend import EchoBackend

ROOM = """
from edge_node.functions import function

@function
def echo(rows):
    return rows
"""


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "node")
    home.create()
    return home


@pytest.fixture
def daemon(home):
    with serving(home, EchoBackend()) as backend:
        yield backend


@pytest.fixture
def edge_node(capsys, home, daemon):
    def run(*words):
        code = cli.program.enter([*(str(each) for each in words), "--home", str(home.path)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_a_csv_goes_in_and_a_value_comes_out(edge_node, tmp_path):
    (tmp_path / "x.csv").write_text("t,x\n1,0.5\n2,\n")

    code, out, err = edge_node("run", "test.echo", "--input", tmp_path / "x.csv")

    assert (code, json.loads(out)) == (0, [{"t": 1, "x": 0.5}, {"t": 2, "x": None}])
    assert out.count("\n") == 1
    assert err.startswith("test.echo ran on n1, ")


def test_stdin_goes_in(edge_node, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"[1, 2]")))

    assert edge_node("run", "test.echo", "--input", "-")[1] == "[1, 2]\n"


def test_named_arguments_and_options_reach_the_daemon(edge_node, daemon):
    edge_node(
        "run",
        "test.echo",
        "--arg",
        "n=3",
        "--deadline",
        "2",
        "--where",
        "gateway",
        "--ttl",
        "1h",
        "--priority",
        "4",
    )

    (run,) = daemon.seen
    assert values.decode_call(run.input) == ([], {"n": 3})
    assert (run.deadline_ms, run.where, run.ttl_ms, run.priority) == (2000, "gateway", 3_600_000, 4)


def test_what_json_lacks_is_readable_with_json(edge_node, daemon, tmp_path):
    (tmp_path / "x.json").write_text("[NaN, 1]")

    assert edge_node("run", "test.echo", "--input", tmp_path / "x.json")[1] == "[NaN, 1]\n"
    assert edge_node("run", "test.echo", "--input", tmp_path / "x.json", "--json")[1] == "[null, 1]\n"


@pytest.mark.parametrize(
    ("name", "code", "word"),
    [
        ("test.fail", 1, "task_failed"),
        ("test.poison", 1, "task_failed"),
        ("test.expire", 1, "deadline_exceeded"),
        ("tst.echo", 2, "bad_input"),
        ("test.down", 3, "unavailable"),
        ("test.refused", 4, "refused"),
    ],
)
def test_every_end_has_its_exit_code(edge_node, name, code, word):
    told, out, err = edge_node("run", name)
    assert (told, out) == (code, "")
    assert err.splitlines()[-1].startswith("edge-node: ")

    told, out, err = edge_node("run", name, "--json")
    assert (told, err) == (code, "")
    error = json.loads(out)["error"]
    assert error["code"] == word and error["message"] and "fix" in error


def test_a_functions_traceback_is_shown_and_ours_is_not(edge_node):
    _, _, err = edge_node("run", "test.fail")
    assert err == "Traceback (most recent call last):\n…\nedge-node: ValueError: no rows\n"

    _, out, _ = edge_node("run", "test.fail", "--json")
    assert json.loads(out)["error"]["remote_traceback"].startswith("Traceback")


def test_a_task_is_submitted_asked_for_and_cancelled(edge_node, daemon):
    code, out, _ = edge_node("submit", "test.hold")
    task = out.strip()
    assert (code, task) == (0, next(iter(daemon.held)))

    code, out, err = edge_node("result", task)
    assert (code, out) == (3, "") and "not settled yet (running)" in err

    assert edge_node("cancel", task)[:2] == (0, "cancelled\n")
    assert json.loads(edge_node("cancel", task, "--json")[1]) == {"task": task, "cancelled": False}
    code, out, _ = edge_node("result", task, "--json", "--wait", "5")
    assert (code, json.loads(out)["error"]["code"]) == (1, "cancelled")


def test_what_a_function_printed_is_shown_on_stderr(edge_node):
    task = json.loads(edge_node("submit", "test.echo", "--json")[1])["task"]

    assert edge_node("result", task, "--log") == (0, "{}\n", "said\n")
    assert edge_node("result", task) == (0, "{}\n", "")


def test_a_file_is_deployed_first_and_then_run(edge_node, daemon, tmp_path):
    (tmp_path / "test.py").write_text(ROOM)
    daemon.answers["deploy"] = {"functions": [{"name": "test.echo", "version": 2, "new": True}]}

    code, out, err = edge_node("run", f"{tmp_path / 'test.py'}:echo", "--arg", "rows=[1]")

    assert (code, json.loads(out)) == (0, {"rows": [1]})
    assert err.startswith("deployed test.echo, version 2\n")
    assert daemon.calls == [("deploy", {"source": ROOM.encode(), "stem": "test", "only_if_new": True})]


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("test.py:ecko", "offers no function 'ecko': did you mean"),
        ("test.py", "names no function: write"),
        ("none.py:echo", "cannot read"),
    ],
)
def test_a_target_that_is_not_there_is_bad_input(edge_node, daemon, tmp_path, target, told):
    (tmp_path / "test.py").write_text(ROOM)

    code, out, err = edge_node("run", tmp_path / target)

    assert (code, out, err.count("\n"), daemon.calls) == (2, "", 1, [])
    assert told in err


def test_status_is_facts_or_json(edge_node):
    assert edge_node("status")[1] == "node  n1\nmesh  abababababababab\n"
    assert json.loads(edge_node("status", "--json")[1]) == {"node": "n1", "mesh": "ab" * 8}


def test_tasks_are_listed(edge_node, daemon):
    daemon.answers["tasks"] = [{"id": "t1", "function": "a.b", "state": "done", "settled_at_ms": 0}]

    assert (
        edge_node("tasks", "--limit", "5", "--state", "done")[1]
        == "id  function  state\nt1  a.b       done\n"
    )
    assert daemon.calls == [("tasks", {"limit": 5, "state": "done"})]


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_ends_quietly(home, daemon):
    """`edge-node functions | head -1`."""
    daemon.answers["functions"] = [{"name": f"f.{number}", "doc": "x" * 50} for number in range(20_000)]
    root = Path(cli.__file__).parent.parent
    done = subprocess.run(
        ["/bin/sh", "-c", f"'{sys.executable}' -m edge_node.cli functions --home '{home.path}' | head -1"],
        cwd=root,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stdout.split() == ["name", "doc"]
    assert done.stderr == ""


@pytest.mark.slow
def test_leaving_tells_stops_and_forgets(home):
    """The daemon is asked, then ended, then the keys go: what is left can join again."""
    (home.keys / "identity.pem").touch(mode=0o600)
    code = (
        "import asyncio, os, signal, sys\n"
        "from edge_node.control.server import ControlServer\n"
        "from edge_node.home import Home\n"
        "from tests.support.echo_backend import EchoBackend\n"
        "async def main(home):\n"
        "    stop = asyncio.Event()\n"
        "    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)\n"
        "    backend = EchoBackend()\n"
        "    backend.answers |= {'status': {'pid': os.getpid()}, 'leave': {'told': True}}\n"
        "    with home.hold():\n"
        "        async with ControlServer(home.socket, backend):\n"
        "            print('ready', flush=True)\n"
        "            await stop.wait()\n"
        "asyncio.run(main(Home(sys.argv[1])))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(home.path)],
        stdout=subprocess.PIPE,
        cwd=Path(cli.__file__).parent.parent,
    )
    try:
        assert process.stdout.readline() == b"ready\n"
        assert leave(home).told is True
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()

    assert not (home.keys / "identity.pem").exists()
    with pytest.raises(BadInput, match="has not joined"):
        leave(home)


def test_a_node_without_a_daemon_leaves_untold_and_a_gateway_never(home):
    (home.keys / "identity.pem").touch(mode=0o600)
    (home.keys / "issuing.pem").touch(mode=0o600)
    with pytest.raises(Refused, match="its own mesh"):
        leave(home)
    (home.keys / "issuing.pem").unlink()

    assert leave(home).told is False
    assert not (home.keys / "identity.pem").exists()
