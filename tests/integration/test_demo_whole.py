"""`make demo` as somebody meets it: real processes, a kill, an account, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.daemons import left_behind

pytest.importorskip("numpy")
pytest.importorskip("amqtt")

ROOT = Path(__file__).resolve().parents[2]


def start(tmp_path: Path, *options: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EDGEWEAVE")}
    short = tmp_path / "t"
    short.mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "examples.demo", "--seconds", "6", "--out", str(tmp_path / "out"), *options],
        cwd=ROOT,
        env={**environment, "TMPDIR": str(short)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_the_demo_keeps_every_promise_through_a_kill_and_a_revocation_and_leaves_nothing(tmp_path):
    process = start(tmp_path, "--seed", "7")
    told, _ = process.communicate(timeout=110)

    assert process.returncode == 0, told
    facts = json.loads((tmp_path / "out" / "report.json").read_text())
    tasks = [json.loads(line) for line in (tmp_path / "out" / "tasks.jsonl").read_text().splitlines()]
    assert facts["seed"] == 7
    assert facts["broker"] in ("mosquitto", "embedded")
    # Everything that was accepted has ended well, but for what the revoked board took with it.
    assert facts["accepted"] == facts["completed"] + len(facts["explained"]) == len(tasks) > 100
    assert facts["completed"] == sum(facts["by_place"].values())
    assert (facts["failed"], facts["lost"]) == (0, [])
    assert {task["origin"] for task in tasks if task["id"] in facts["explained"]} <= {"water"}
    assert all(facts["by_place"][place] > 0 for place in ("local", "peer", "gateway")), facts["by_place"]
    assert facts["verified"] == {"checked": 120, "differing": []}
    assert all(each["held"] for each in facts["expected"])
    kill, restart, revoke = facts["faults"]
    assert (kill["do"], kill["node"], restart["do"], revoke["do"], revoke["node"]) == (
        "kill", "leg", "restart", "revoke", "water",
    )  # fmt: skip
    assert facts["killed"]["resumed_tasks"] > 0
    assert 0 < facts["kill_to_replacement_s"] <= facts["kill_to_resume_s"]
    assert kill["own_resumed_s"] > 0  # it is back, or a place that had its task began to work at it
    assert facts["revoked_cut_s"] == max(revoke["connection_cut_s"], revoke["refused_s"]) > 0
    assert "not a member" in revoke["refusal"]
    assert len({pid for node in facts["nodes"] for pid in node["pids"]}) == 7  # six daemons, one restarted
    assert facts["change_points"]["f1"] > 0.8
    resumed = [task for task in tasks if len(task["attempts"]) > 1 and task["status"] == "done"]
    assert all(task["attempts"][-1]["ended_as"] == "done" for task in resumed) and resumed
    assert all(task["accepted_at"] <= task["settled_at"] for task in tasks if task["settled_at"])
    assert "next: " in told.splitlines()[-1]
    assert left_behind(tmp_path) == []
    assert list((tmp_path / "t").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "line"),
    [
        (signal.SIGINT, ""),  # before anything runs
        (signal.SIGTERM, "edge-gateway up"),  # while boards join
        (signal.SIGINT, "kill -9"),  # while devices are at work and one board is down
    ],
    ids=["at once", "while joining", "while one is down"],
)
def test_an_interrupted_demo_leaves_nothing(tmp_path, number, line):
    process = start(tmp_path)
    assert process.stdout is not None
    if line:
        while line not in (told := process.stdout.readline()):
            assert told, "it ended before"
    else:
        deadline = time.monotonic() + 30
        while not list((tmp_path / "t").iterdir()):  # its directory: the signals are handled from here on
            assert process.poll() is None and time.monotonic() < deadline
    process.send_signal(number)
    process.communicate(timeout=60)

    assert process.returncode == 128 + number
    assert left_behind(tmp_path) == []
    assert list((tmp_path / "t").iterdir()) == []


def test_bad_options_are_one_line(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "examples.demo", "--seconds", "1"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].endswith("choose 6 to 3600 seconds")
