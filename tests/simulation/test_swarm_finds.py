"""What a swarm makes of defects: the program itself, with one of its parts broken on purpose."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, str(ROOT / "tests/support/broken_program.py")]
pytestmark = pytest.mark.slow


def device_sim(*words, defect=""):
    """(exit code, stdout, stderr)"""
    done = subprocess.run(
        [*PROGRAM, *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"EDGEWEAVE_DEFECT": defect, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout, done.stderr


def test_a_failing_seed_is_told_shortened_written_and_played_again(tmp_path):
    code, out, _ = device_sim(
        *("swarm", "--seeds", 1, "--first", 7, "--nodes", 3, "--jobs", 1, "--plays", 14, "--out", tmp_path),
        defect="early",
    )

    path = tmp_path / "seed-7.json"
    kept = json.loads(path.read_text())
    assert code == 1
    assert "seed 7 of 3 nodes did not hold" in out and "accepted before it was on the disk" in out
    assert f"device-sim replay 7 --nodes 3, or device-sim replay {path}" in out
    assert kept["shortened"]["faults"] == [], "no fault is needed for that"
    assert 0 < kept["shortened"]["plays"] <= 14 and kept["shortened"]["prefix_ns"] < 40_000_000_000

    code, out, _ = device_sim("replay", path, defect="early")
    assert code == 1
    assert "VIOLATED     acknowledged survives" in out
    assert f"the same run as recorded: hash {kept['trace_hash']}" in out

    code, out, _ = device_sim("replay", path, "--shortened", "--json", defect="early")
    short = json.loads(out)
    assert (code, short["broken"][0]["checker"]) == (1, "acknowledged survives")

    kept["commit"] = (
        "0123456789ab"  # the defect is in no commit: by the same one it would have to be the same
    )
    path.write_text(json.dumps(kept))
    code, out, _ = device_sim("replay", path)
    assert code == 0, "it was mended"
    assert "recorded by commit 0123456789ab" in out
    assert "recorded, and not seen now: acknowledged survives" in out and "every promise held" in out


def test_a_seed_about_one_fault_is_recorded_with_it_and_is_the_same_run_again(tmp_path):
    words = ("swarm", "--fault", "clocks", "--seeds", 1, "--first", 3, "--nodes", 2, "--jobs", 1)
    code, out, _ = device_sim(*words, "--plays", 0, "--out", tmp_path, defect="early")

    path = tmp_path / "clocks-3.json"
    assert code == 1
    assert "fault clocks (-10 years at boot): wrong by an hour" in out
    assert f"device-sim replay 3 --nodes 2 --fault clocks, or device-sim replay {path}" in out
    assert "clock-step: 1" in out, "what took effect"

    code, out, _ = device_sim("replay", path, defect="early")
    assert code == 1 and "the same run as recorded" in out


@pytest.mark.parametrize(
    ("defect", "told"),
    [
        ("raises", "KeyError: 'a core that falls over work."),
        ("dies", "the process that played it ended with signal 9"),
    ],
)
def test_what_falls_over_is_a_finding_and_the_swarm_goes_on(tmp_path, defect, told):
    code, out, _ = device_sim(
        *("swarm", "--seeds", 2, "--nodes", 2, "--jobs", 1, "--plays", 0, "--out", tmp_path, "--json"),
        defect=defect,
    )

    facts = json.loads(out)
    assert (code, facts["seeds"]) == (1, 2)
    assert facts["violations"] == {"nothing raises": {"total": 2, "seeds": [0, 1]}}
    assert told in facts["failed"][0]["broken"][0]["lines"][0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed-0.json", "seed-1.json"]


def test_a_run_that_hangs_on_the_order_of_a_set_is_found_by_playing_it_twice(tmp_path):
    code, out, _ = device_sim(
        *("swarm", "--seeds", 1, "--nodes", 2, "--jobs", 2, "--plays", 0, "--twice", "--out", tmp_path),
        defect="salted",
    )

    assert code == 1
    assert "same run: 1 violation" in out and "accepted|" not in out
    assert "in one process and" in out


def test_a_swarm_that_is_interrupted_tells_what_it_has(tmp_path):
    with subprocess.Popen(
        [*PROGRAM, "swarm", "--seeds", "100000", "--nodes", "2", "--plays", "0", "--out", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"EDGEWEAVE_DEFECT": "early", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        first = running.stdout.readline()
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=60)

    assert first.startswith("seed 0 of 2 nodes did not hold")
    assert running.returncode == 128 + signal.SIGTERM
    assert out.splitlines()[-1].endswith("; interrupted")
    assert "Traceback" not in err
