"""``device-sim run``: a small world judged, with its exit codes, its report, and the same run again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from device_sim import cli
from device_sim.report.assertions import parse as assertion
from device_sim.report.folder import read
from device_sim.report.record import Record
from device_sim.scenario import lengthened, parse
from device_sim.virtual.checkers.panel import checkers
from device_sim.virtual.telling import PROMISES, shifted
from edge_node.node import Node

ROOT = Path(__file__).resolve().parents[4]
SCENARIO = """\
[fleet]
name = "yard"
duration_s = 10
seed = 5

[gateway]
workers = 2

[links.radio]
delay_ms = 5
jitter_ms = 3
loss = 0.01

[services."gate.open"]
distribution = "exponential"
mean_ms = 30

[[devices]]
prefix = "gate"
count = 2
slowdown = 2
link = "radio"

[[devices.arrivals]]
function = "gate.open"
rate_hz = 4
input_bytes = { min = 40, max = 400 }
ttl_s = 20

[[devices]]
id = "barn"

[[faults]]
at_s = 3
do = "power-cut"
node = "gate-1"

[[faults]]
at_s = 5
do = "restart"
node = "gate-1"

[[faults]]
at_s = 6
do = "kill-broker"

[expect]
accepted_min = 20
verified_min = 5
"""


@pytest.fixture
def device_sim(capsys):
    """Run the command line here: (exit code, stdout, stderr)."""

    def run(*words):
        code = cli.program.enter([str(each) for each in words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def scenario(tmp_path):
    path = tmp_path / "yard.toml"
    path.write_text(SCENARIO)
    return path


def words_of(record: Record) -> dict[str, str]:
    return {check.name: check.word for check in record.checks}


def timeless(record: Record) -> Record:
    """Without what depends on the machine that played it."""
    return msgspec.structs.replace(
        record,
        manifest=msgspec.structs.replace(record.manifest, wall_s=0, commit=""),
        figures={name: value for name, value in record.figures.items() if name != "speed_up"},
    )


@pytest.mark.slow
def test_a_run_is_judged_reported_and_the_same_in_another_process(device_sim, scenario, tmp_path):
    """Another process salts its strings otherwise: nothing may depend on the order of a set."""
    report, trace = tmp_path / "report", tmp_path / "trace.txt"
    words = ["run", scenario, "--assert", "lost == 0", "--assert", "p50_ms>1", "--report", report]

    code, out, err = device_sim(*words, "--trace", trace)

    assert code == 0, out + err
    assert out.splitlines()[-1].startswith("Held: all ")
    assert {each.name for each in report.iterdir()} >= {"record.json", "report.html"}
    record = read(report / "record.json")
    manifest = record.manifest
    assert (manifest.kind, manifest.scenario, manifest.seed) == ("run", "yard", 5)
    assert manifest.command == (
        f"device-sim run {scenario} --seed 5 --assert 'lost == 0' --assert 'p50_ms > 1'"
    )
    found = words_of(record)
    assert found["settled once"] == found["acknowledged survives"] == found["finishes"] == "passed"
    assert found["accepted_min"] == found["lost"] == found["lost == 0"] == found["p50_ms > 1"] == "passed"
    assert found["verified_min"] == "not applicable"
    assert [(each.do, each.node, each.at_s, each.until_s) for each in record.faults] == [
        ("power-cut", "gate-1", 3.0, 5.0),
        ("kill-broker", "", 6.0, 7.0),
    ]
    assert record.figures["left_out"] > 0 and record.figures["speed_up"] > 0
    assert record.figures["violations"] == 0
    assert any("not asked for: its node was away" in note for note in record.notes)
    lines = [line.split("\t") for line in trace.read_text().splitlines()]
    assert ["3.000000000", "gate-1", "fault", "power-cut "] in lines
    assert float(lines[0][0]) < 0

    again = subprocess.run(
        [sys.executable, "-m", "device_sim.cli", *map(str, words[:-2]), "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONHASHSEED": "4242"},
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    other = msgspec.json.decode(again.stdout, type=Record)
    assert other.manifest.trace_hash == manifest.trace_hash != ""
    assert timeless(other) == timeless(record)


@pytest.mark.slow
def test_what_does_not_hold_is_told_with_what_shows_it_again(device_sim, scenario, tmp_path):
    scenario.write_text(
        SCENARIO.replace("accepted_min = 20", "accepted_min = 20000") + "\n[rates]\nkill = 360\n"
    )
    words = ("run", scenario, "--seed", "9", "--assert", "completed < 3")

    code, out, _ = device_sim(*words)

    assert code == 1
    told = out[out.index("not held: seed 9, commit ") :].splitlines()
    assert "  ✗ accepted_min: expected by the scenario" in told
    assert "  ✗ completed < 3: asserted by whoever started the run" in told
    assert any(" were drawn:" in line or " was drawn:" in line for line in told)
    assert any(": kill " in line for line in told)
    command = f"device-sim run {scenario} --seed 9 --assert 'completed < 3' --trace trace.txt"
    assert told[-2:] == ["to see it again, event for event:", f"  {command}"]

    code, out, err = device_sim(*words, "--json")

    record = msgspec.json.decode(out, type=Record)
    assert code == 1 and "not held: seed 9" in err
    assert record.figures["violations"] == 1, "assertions are no promises"
    assert record.manifest.trace_hash in told[0]
    assert any(each.do == "kill" for each in record.faults), "drawn faults are seen in the report"


@pytest.mark.slow
def test_another_size_is_not_judged_by_counts_that_are_meant_for_the_file(device_sim, scenario):
    code, out, err = device_sim("run", scenario, "--nodes", "5", "--duration", "4.5", "--json")

    record = msgspec.json.decode(out, type=Record)
    assert code == 0, err
    assert [node.id for node in record.nodes] == ["gateway", "gate-1", "gate-2", "gate-3", "gate-4", "barn"]
    assert record.manifest.command == f"device-sim run {scenario} --seed 5 --nodes 5 --duration 4.5"
    assert words_of(record)["accepted_min"] == "not applicable"
    assert words_of(record)["failed_max"] == "passed", "none is none at any size"
    assert [each.do for each in record.faults] == ["power-cut"]
    assert "5 nodes instead of the scenario's 3" in record.notes
    assert "2 listed faults fell out: too late, or of a node that is not there" in record.notes
    assert sum(record.rates.accepted) == record.figures["accepted"] > 20


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--hours", "1", "--duration", "5"), 2, "both --hours and --duration: name one of them"),
        (("--hours", "25"), 2, "25 hours: choose more than 0, at most 24"),
        (("--duration", "0"), 2, "a duration of 0 s"),
        (("--duration", "nan"), 2, "a duration of nan s"),
        (("--nodes", "10001"), 2, "10001 nodes: at most 10000 are a world"),
        (("--nodes", "1"), 2, "1 nodes of the classes gate, barn: at least 2: one of each"),
        (("--assert", "p99 < 3"), 2, "no figure is called 'p99': did you mean p99_ms?"),
        (("--assert", "p99_ms"), 2, "cannot read the assertion 'p99_ms': write NAME OP NUMBER"),
        (("--report", "yard.toml"), 3, "cannot write to yard.toml"),
        (("--trace", "none/trace.txt"), 3, "cannot write the trace to none/trace.txt"),
    ],
)
def test_bad_input_is_one_line_before_anything_runs(device_sim, scenario, monkeypatch, words, code, told):
    monkeypatch.chdir(scenario.parent)

    found, out, err = device_sim("run", scenario, *words)

    assert (found, out, err.count("\n")) == (code, "", 1), err
    assert err.startswith("device-sim: ") and told in err


def test_a_mistake_in_the_file_is_told_with_its_line(device_sim, scenario):
    scenario.write_text(SCENARIO.replace('link = "radio"', 'link = "radoi"'))

    code, out, err = device_sim("run", scenario)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{scenario}:22: devices[0].link: no table [links.radoi]; there: radio; did you mean radio?" in err

    code, out, err = device_sim("run", scenario, "--json")
    assert (code, err) == (2, "") and json.loads(out)["error"]["code"] == "bad_input"


@pytest.mark.slow
def test_what_a_core_raises_is_told_with_its_moment_and_its_place(device_sim, scenario, monkeypatch):
    def submit(self, task, reply):
        raise AssertionError("a table that was never filled")

    monkeypatch.setattr(Node, "submit", submit)

    code, out, err = device_sim("run", scenario)

    assert (code, out) == (70, "")
    assert "a mistake of ours at " in err and ", seed 5, commit " in err
    assert "in submit" in err and "AssertionError: a table that was never filled" in err
    assert f"  device-sim run {scenario} --seed 5 --trace trace.txt\n" in err


def test_a_longer_run_keeps_its_pace_and_a_shorter_one_what_fits():
    scenario = parse(
        SCENARIO.replace("seed = 5", "seed = 5\n\n[run]\nheal_s = 8").replace(
            'do = "kill-broker"', 'do = "partition"\nnode = "barn"\nuntil_s = 7'
        )
    ).scenario

    longer = lengthened(scenario, 100)
    assert (longer.fleet.duration_s, longer.run.heal_s) == (100, 98), "the quiet time keeps its length"
    assert (longer.faults, longer.devices) == (scenario.faults, scenario.devices)

    shorter = lengthened(scenario, 8)
    assert shorter.run.heal_s == 6.4
    assert [(each.at_s, each.until_s) for each in shorter.faults] == [(3, None), (5, None), (6, 6.4)]
    assert [each.at_s for each in lengthened(scenario, 6).faults] == [3]


def test_violations_are_told_in_the_scenarios_time():
    line = "12.345 s pi-1 t: told done before it was on the disk, at 9.999 s"

    assert shifted(line, 10_000_000_000) == (
        "2.345 s pi-1 t: told done before it was on the disk, at -0.001 s"
    )
    assert shifted("11.000 s pi: more than 15 beats in 10 s", 10_000_000_000).endswith("15 beats in 10 s")


def test_the_guide_tells_every_option_and_no_other(device_sim):
    guide = (ROOT / "docs" / "simulating.md").read_text().split("## Looking for the seed")[0]
    code, out, _ = device_sim("run", "--help")
    there = set(re.findall(r"--[a-z]+", out)) - {"--help"}

    assert code == 0
    assert set(re.findall(r"--[a-z]+", guide)) == there
    for line in re.findall(r"^device-sim run (examples/\S+)", guide, re.MULTILINE):
        assert (ROOT / line).is_file()


def test_every_checker_is_told_in_a_sentence():
    assert list(PROMISES) == [checker.name for checker in checkers()]


def test_assertions_are_spelled_so_that_they_can_be_read_again():
    for text in ("p99_ms < 200", "tasks_per_s >= 0.125", "lost == 0"):
        assert str(assertion(str(assertion(text)))) == text
