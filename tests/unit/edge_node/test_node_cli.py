"""``edge-node`` without a daemon: usage, exit codes, the form of every error."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edge_node import cli
from edge_node.commands import door, exits, launch
from edge_node.home import Home
from security.errors import BadInput


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("EDGEWEAVE_HOME", raising=False)


@pytest.fixture
def edge_node(capsys):
    """Run the command line here: (exit code, stdout, stderr)."""

    def run(*words):
        code = cli.program.enter([str(each) for each in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return run


def commands(app):
    return {each.name: each for each in [*app.registered_commands, *app.registered_groups]}


def test_every_named_command_is_there():
    assert set(commands(cli.app)) == {
        "join", "leave", "renew", "status", "doctor", "up", "run", "submit", "result", "cancel", "functions",
        "tasks", "why", "events", "completion", "store", "state", "metrics", "log-level",
    }  # fmt: skip


def test_every_command_and_option_says_what_it_is(edge_node):
    for name in commands(cli.app):
        code, out, _ = edge_node(name, "--help")
        assert code == 0
        assert "--home DIR" in out and "--json" in out, name
        for line in out.splitlines():
            words = line.split()
            assert not (words and words[0].startswith("-") and len(words) == 1), f"{name}: {line} lacks help"


def test_help_lists_whole_sentences(edge_node):
    _, out, _ = edge_node("--help")

    assert "..." not in out.split("Commands:")[1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nonsense"], "No such command 'nonsense': see `edge-node --help`"),
        (["run"], "Missing argument"),
        (["run", "a.b", "--nonsense"], "No such option: --nonsense"),
        (["tasks", "--limit", "x"], "Invalid value for '--limit'"),
        (["run", "a.b", "--deadline", "soon"], "'soon' is not a duration: write it as 90s, 15m, 1h or 2d"),
        (["run", "a.b", "--input", "none.csv"], "cannot read none.csv: No such file or directory"),
        (["run", "a.b", "--arg", "x"], "argument 'x' is not name=value"),
        (["join", "x", "--label", "site"], "label 'site' is not key=value"),
        (["up"], "has not joined a mesh: get a code with `edge-gateway invite`"),
        (["leave"], "has not joined a mesh"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(edge_node, words, told):
    code, out, err = edge_node(*words)

    assert (code, out) == (2, "")
    assert err.startswith("edge-node: ") and told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["functions"],
        ["tasks"],
        ["run", "a.b"],
        ["submit", "a.b"],
        ["result", "x"],
        ["cancel", "x"],
    ],
)
def test_without_a_daemon_every_question_is_unavailable(edge_node, tmp_path, words):
    code, out, err = edge_node(*words, "--home", tmp_path)

    assert (code, out) == (3, "")
    assert err == (
        f"edge-node: no daemon answers at {tmp_path}/control.sock: "
        f"start it with `edge-node up --home {tmp_path}`\n"
    )


def test_with_json_an_error_is_json_on_stdout(edge_node, tmp_path):
    code, out, err = edge_node("status", "--json", "--home", tmp_path)

    assert (code, err) == (3, "")
    assert set(json.loads(out)) == {"error"}
    assert json.loads(out)["error"] == {
        "code": "unavailable",
        "message": f"no daemon answers at {tmp_path}/control.sock",
        "fix": f"start it with `edge-node up --home {tmp_path}`",
    }


def test_with_json_a_usage_error_is_json_too(edge_node):
    code, out, err = edge_node("--json", "run")

    assert (code, err) == (2, "")
    assert json.loads(out)["error"]["code"] == "bad_input"


@pytest.mark.parametrize("place", ["before", "after", "environment", "default"])
def test_the_home_is_accepted_everywhere(edge_node, tmp_path, monkeypatch, place):
    words = {"before": ["--home", tmp_path / "h", "status"], "after": ["status", "--home", tmp_path / "h"]}
    expected = tmp_path / ".edgeweave" / "node" if place == "default" else tmp_path / "h"
    if place == "environment":
        monkeypatch.setenv("EDGEWEAVE_HOME", str(tmp_path / "h"))

    _, _, err = edge_node(*words.get(place, ["status"]))

    assert f"no daemon answers at {expected}/control.sock" in err


def test_up_becomes_the_daemon(edge_node, tmp_path, monkeypatch):
    """By exec: the process id, signals and exit code are the daemon's own."""
    home = Home(tmp_path / "h")
    home.create()
    (home.keys / "identity.pem").touch()
    became = []
    monkeypatch.setattr(launch.os, "execve", lambda *args: became.append(args))

    edge_node("up", "--home", home.path, "--mdns", "lo", "--log-level", "debug", "--json")

    ((program, words, environment),) = became
    assert program == sys.executable
    assert words == [
        sys.executable, "-P", "-X", "no_debug_ranges", "-m", "edge_node.daemon", "--home", str(home.path),
        "--mdns", "lo", "--log-level", "debug", "--json",
    ]  # fmt: skip
    assert environment["HOME"] == str(tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "[link]\nkeepalive_s = 'x'",
            "settings.toml:2: [link] keepalive_s is the text 'x': expected a whole number",
        ),
        ("[link", "settings.toml is not TOML"),
        ("[lnk]\n", "settings.toml:1: unknown section [lnk]: did you mean link?"),
    ],
)
def test_malformed_settings_stop_up_with_file_key_and_type(edge_node, tmp_path, text, told):
    (tmp_path / "h").mkdir(mode=0o700)
    (tmp_path / "h" / "settings.toml").write_text(text)

    code, _, err = edge_node("up", "--home", tmp_path / "h")

    assert code == 2
    assert told in err and err.count("\n") == 1


def test_a_bad_option_of_up_names_the_option(edge_node, tmp_path):
    code, _, err = edge_node("up", "--home", tmp_path, "--log-level", "loud")

    assert code == 2
    assert "option --log-level is the text 'loud': expected one of" in err


def test_our_own_mistake_is_one_line_and_its_story_is_kept(edge_node, tmp_path, monkeypatch):
    home = Home(tmp_path / "h")
    home.create()

    def broken(self, *args):
        raise KeyError("surprise")

    monkeypatch.setattr("edge_node.commands.terminal.Terminal.call", broken)
    code, out, err = edge_node("status", "--home", home.path)

    assert (code, out) == (70, "")
    assert err.count("\n") == 1 and "a mistake of ours" in err and str(home.logs / "cli.log") in err
    assert "KeyError: 'surprise'" in json.loads((home.logs / "cli.log").read_text())["traceback"]
    assert stat.S_IMODE(home.logs.stat().st_mode) == 0o700


def test_a_cause_that_quotes_a_whole_file_stays_a_line():
    line = exits.as_line(BadInput("argument " + "x" * 200_000 + " is too long", fix="y" * 5000), "edge-node")
    assert len(line) < 2 * exits.LINE_CHARS_MAX
    assert line.startswith("edge-node: argument xx") and " is too long: yy" in line


def test_ctrl_c_is_one_line(edge_node, monkeypatch, tmp_path):
    def interrupted(self, *args):
        raise KeyboardInterrupt

    monkeypatch.setattr("edge_node.commands.terminal.Terminal.call", interrupted)

    assert edge_node("status", "--home", tmp_path) == (130, "", "edge-node: interrupted\n")


def test_doctor_runs_without_anything(edge_node, tmp_path):
    code, out, _ = edge_node("doctor", "--home", tmp_path / "none", "--json")

    assert code == 0
    assert json.loads(out)["ok"] is True

    code, out, _ = edge_node("doctor", "--home", tmp_path / "none")
    assert "warn  daemon" in out


def test_doctor_ends_with_1_when_something_is_wrong(edge_node, tmp_path):
    (tmp_path / "h").mkdir(mode=0o700)
    (tmp_path / "h" / "settings.toml").write_text("[link")

    code, out, _ = edge_node("doctor", "--home", tmp_path / "h")

    assert code == 1
    assert "fail  settings" in out


def test_the_usage_fault_of_either_click_is_known():
    assert door._UsageFault.__name__ == "ClickException"


@pytest.mark.slow
def test_the_program_itself(tmp_path):
    """As a process: no colour codes, no traceback, the exit code; the directory's own modules stay out."""
    (tmp_path / "security").mkdir()
    (tmp_path / "security" / "__init__.py").write_text("raise RuntimeError('not ours')")
    code = "import sys; sys.path[:] = [p for p in sys.path if p]; from edge_node.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "run", "x.y", "--home", str(tmp_path)],
        cwd=tmp_path,
        env={
            **os.environ,
            "NO_COLOR": "1",
            "PYTHONPATH": str(Path(cli.__file__).parent.parent),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("edge-node: no daemon answers at ")
    assert "\x1b" not in done.stderr


@pytest.mark.slow
def test_a_daemons_modules_stay_lean():
    """What a daemon takes from here imports neither typer, rich, numpy nor anything for HTTP."""
    code = (
        "import sys, edge_node.control.server, edge_node.client, edge_node.settings, edge_node.logs\n"
        "import gateway.settings, edge_node.commands.exits, edge_node.home\n"
        "heavy = {'typer', 'rich', 'numpy', 'fastapi', 'prometheus_client', 'structlog', 'click'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.strip() == ""
