"""``device-sim fleet``: three real nodes, one killed and restarted, one stopped and resumed, and an account.

The scenario expects one thing that cannot be: so that its exit code and its line are seen for real.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from device_sim.report import folder
from tests.support.daemons import left_behind

pytest.importorskip("amqtt")

ROOT = Path(__file__).resolve().parents[2]
SCENARIO = f"""
[fleet]
name = "small"
duration_s = 6
seed = 3
verify = 40

[[functions]]
file = "{ROOT}/examples/functions/room.py"

[[devices]]
prefix = "small"
count = 2
slowdown = 8
labels = {{ hall = "a" }}

[devices.trace]
file = "{ROOT}/examples/data/room_climate.csv"
rate_hz = 1
window = 64
hop = 1
speed_up = 16
burst_s = 1.0
repeat = true

[[devices.calls]]
function = "room.changes"
arguments = {{ penalty_factor = 2.0 }}

[[devices]]
id = "helper"

[[faults]]
at_s = 2
do = "kill"
node = "small-1"
open_min = 2

[[faults]]
at_s = 2.5
do = "pause"
node = "small-2"

[[faults]]
at_s = 3
do = "restart"
node = "small-1"

[[faults]]
at_s = 3.5
do = "resume"
node = "small-2"

[expect]
offloaded_min = 1
resumed_min = 1
verified_min = 40
revoked_cut_s_max = 5
"""


def run(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EDGEWEAVE")}
    short = tmp_path / "t"
    short.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "device_sim.cli", *words],
        cwd=ROOT, env={**environment, "TMPDIR": str(short)}, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=100, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_a_fleet_keeps_its_promises_through_faults_and_tells_what_was_not_seen(tmp_path):
    scenario = tmp_path / "small.toml"
    scenario.write_text(SCENARIO)

    done = run(tmp_path, "fleet", str(scenario), "--report", str(tmp_path / "out"), "--json")

    assert done.returncode == 1, done.stderr  # nobody was revoked: that expectation has nothing to measure
    facts = json.loads(done.stdout)
    assert facts == json.loads((tmp_path / "out" / "report.json").read_text())
    assert [each["name"] for each in facts["expected"] if not each["held"]] == ["revoked_cut_s_max"]
    tasks = [json.loads(line) for line in (tmp_path / "out" / "tasks.jsonl").read_text().splitlines()]
    assert facts["accepted"] == facts["completed"] == len(tasks) > 40
    assert (facts["lost"], facts["explained"], facts["failed"]) == ([], {}, 0)
    assert facts["verified"] == {"checked": 40, "differing": []}
    assert [fault["do"] for fault in facts["faults"]] == ["kill", "pause", "restart", "resume"]
    assert facts["faults"][0]["replaced_tasks"] > 0 < facts["kill_to_replacement_s"]
    nodes = {node["id"]: node for node in facts["nodes"]}
    assert {name: len(node["pids"]) for name, node in nodes.items()} == {
        "gateway": 1, "small-1": 2, "small-2": 1, "helper": 1,
    }  # fmt: skip
    assert nodes["small-2"]["labels"] == {"hall": "a"}
    assert {task["origin"] for task in tasks} == {"small-1", "small-2"}
    record = folder.read(tmp_path / "out" / "record.json")
    assert record.figures["completed"] == sum(edge.tasks for edge in record.edges) == len(tasks)
    struck = sorted((each.do, each.node) for each in record.faults)
    assert struck == [("kill", "small-1"), ("pause", "small-2")]
    assert [check.name for check in record.checks if check.word == "failed"] == ["revoked_cut_s_max"]
    assert "Not held: 1 of " in (tmp_path / "out" / "report.html").read_text()
    assert left_behind(tmp_path) == []
    assert list((tmp_path / "t").iterdir()) == []
