"""Shell completion: the printed script, in a real bash; what the other shells ask, as they ask it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
pytestmark = pytest.mark.slow


def run(*words, path, **env):
    return subprocess.run(
        words, capture_output=True, text=True, timeout=60, cwd=path,
        env={"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(path), **env},
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_and_options_by_the_printed_script(tmp_path):
    script = (
        "source <(edge-gateway completion bash)\n"
        'words() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _edge_gateway_completion "$1"\n'
        'echo "${COMPREPLY[@]}"; }\n'
        "words edge-gateway re\nwords edge-gateway revoke --re\ncomplete -p edge-gateway\n"
    )
    done = run("bash", "--norc", "-c", script, path=tmp_path)
    commands, options, registered = done.stdout.splitlines()

    assert set(commands.split()) >= {"revoke", "replace", "restore", "result"}
    assert options.split() == ["--reason"]
    assert "_edge_gateway_completion" in registered
    assert list(tmp_path.iterdir()) == [], "nothing is written anywhere"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_their_script_and_their_answers(tmp_path, shell):
    script = run("edge-node", "completion", shell, "--json", path=tmp_path)
    asked = {"_EDGE_NODE_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": "edge-node su"}
    told = run("edge-node", path=tmp_path, _TYPER_COMPLETE_FISH_ACTION="get-args", **asked)

    assert f"complete_{shell}" in json.loads(script.stdout)["script"]
    assert "submit" in told.stdout and "revoke" not in told.stdout
    assert list(tmp_path.iterdir()) == []


def test_another_shell_is_refused_in_one_line(tmp_path):
    done = run("edge-node", "completion", "tcsh", path=tmp_path)

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "choose bash, zsh, fish" in done.stderr
