"""``device-sim``: what a scenario names is looked up before anything starts; mistakes are one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from device_sim import cli

ROOT = Path(__file__).resolve().parents[3]
SCENARIO = f"""
[fleet]
name = "small"
duration_s = 6

[[functions]]
file = "{ROOT}/examples/functions/room.py"

[[devices]]
prefix = "small"
count = 2
slowdown = 8

[devices.trace]
file = "{ROOT}/examples/data/room_climate.csv"
rate_hz = 1
window = 64
hop = 1
speed_up = 16
repeat = true

[[devices.calls]]
function = "room.changes"

[[devices]]
id = "helper"

[[faults]]
at_s = 2
do = "kill"
node = "small-1"
"""


@pytest.fixture
def device_sim(capsys):
    """Run the command line here: (exit code, stdout, stderr)."""

    def run(*words):
        code = cli.program.enter([str(each) for each in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return run


@pytest.fixture
def scenario(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SCENARIO)
    return path


def test_every_named_command_is_there():
    assert {each.name for each in cli.app.registered_commands} == {
        "fleet", "check", "run", "swarm", "replay",
    }  # fmt: skip


def test_check_tells_what_a_scenario_would_do(device_sim, scenario):
    code, out, err = device_sim("check", scenario, "--duration", "3", "--seed", "9", "--json")

    told = json.loads(out)
    assert (code, err) == (0, "")
    assert (told["scenario"], told["seconds"], told["seed"]) == ("small", 3.0, 9)
    assert list(told["nodes"]) == ["small-1", "small-2", "helper"]
    assert told["nodes"]["small-1"] == {"slowdown": 8.0, "tasks": 97}
    assert told["planned"] == sum(node["tasks"] for node in told["nodes"].values()) == 194
    assert told["faults"] == [{"at_s": 1.0, "do": "kill", "node": "small-1"}]

    code, out, err = device_sim("check", scenario)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "small: 3 nodes, 194 tasks in 6 s, 1 fault, seed 1"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("room.changes", "room.change",
         "23: devices[0].calls[0].function: room.py has no such function; deployed are room.changes"),
        ("rate_hz = 1\n", 'rate_hz = 1\ncolumns = ["co3_ppm"]\n',
         "17: devices[0].trace.columns: room_climate.csv has no column 'co3_ppm'; it has time, "),
        ("room_climate.csv", "roam_climate.csv", "15: devices[0].trace.file: cannot read "),
        ("functions/room.py", "functions/none/room.py", "7: functions[0].file: "),
        ("functions/room.py", "data/SOURCES.md", "7: functions[0].file: expected a Python file, got "),
        ("window = 64", "window = 640",
         "17: devices[0].trace.window: a window of 640 readings is longer than the series of 509"),
        ("[fleet]", "[fleet", "2: not TOML: "),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["fleet", "check"])
def test_what_a_scenario_names_is_looked_up_before_anything_starts(
    device_sim, scenario, command, old, new, told
):
    scenario.write_text(SCENARIO.replace(old, new, 1))

    code, out, err = device_sim(command, scenario)

    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith(f"device-sim: {scenario}:{told}")


def test_bad_options_are_one_line(device_sim, scenario, tmp_path):
    code, out, err = device_sim("fleet", tmp_path / "none.toml")
    assert (code, out, err.count("\n")) == (2, "", 1) and "cannot read" in err

    code, out, err = device_sim("fleet", scenario, "--duration", "0")
    assert (code, out, err.count("\n")) == (2, "", 1)

    code, out, err = device_sim("fleet", scenario, "--report", scenario)  # a file
    assert (code, out, err.count("\n")) == (3, "", 1) and "cannot write to" in err

    code, out, err = device_sim("check", scenario, "--seed", "x", "--json")
    assert (code, err) == (2, "") and json.loads(out)["error"]["code"] == "bad_input"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples" / "scenarios").glob("*.toml")), ids=lambda p: p.stem
)
def test_the_examples_are_scenarios(device_sim, path):
    pytest.importorskip("numpy")

    assert device_sim("check", path)[0] == 0


WORLD = """
[fleet]
name = "yard"
duration_s = 20

[services."gate.open"]
mean_ms = 2

[[devices]]
prefix = "gate"
count = 80

[[devices.arrivals]]
function = "gate.open"
kind = "constant"
rate_hz = 1
input_bytes = 40
"""


def test_real_daemons_refuse_a_world_and_check_tells_it(device_sim, tmp_path):
    path = tmp_path / "yard.toml"
    path.write_text(WORLD)

    code, out, err = device_sim("fleet", path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{path}:11: devices[0].count: 80 nodes so far; at most 64 real ones fit one machine" in err

    code, out, err = device_sim("check", path)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "yard: 80 nodes, 1600 tasks in 20 s, 0 faults, seed 1"
    assert out.splitlines()[-1].startswith(f"not for real daemons: {path}:11: devices[0].count: 80 nodes")

    path.write_text(WORLD.replace("count = 80", "count = 8"))
    code, out, err = device_sim("fleet", path)
    assert code == 2 and "arrivals[0].function: gate.open has no file in functions" in err


def test_what_a_world_names_is_looked_up_as_well(device_sim, tmp_path):
    path = tmp_path / "yard.toml"
    path.write_text(WORLD.replace('kind = "constant"\nrate_hz = 1', 'kind = "trace"\nfile = "asked.csv"'))

    code, out, err = device_sim("check", path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{path}:16: devices[0].arrivals[0].file: cannot read" in err

    (tmp_path / "asked.csv").write_text("at,who\n1,x\n3,y\n")
    code, out, err = device_sim("check", path)
    assert f"{path}:13: devices[0].arrivals[0].column: asked.csv has the columns at, who: choose one" in err

    (tmp_path / "asked.csv").write_text("at\n1\n3\nlater\n")
    code, out, err = device_sim("check", path)
    assert f"{path}:16: devices[0].arrivals[0].file: asked.csv, line 4: at is 'later', not seconds" in err

    (tmp_path / "asked.csv").write_text("at\n1\n3\n99\n")
    code, out, err = device_sim("check", path)
    assert (code, out.splitlines()[0]) == (0, "yard: 80 nodes, 160 tasks in 20 s, 0 faults, seed 1")


def test_what_real_daemons_leave_out_is_told_a_line_a_key(device_sim, scenario):
    scenario.write_text(SCENARIO.replace('id = "helper"', 'id = "helper"\nbattery_wh = 3\nrtc = false'))

    code, out, _ = device_sim("check", scenario)

    assert code == 0
    assert out.splitlines()[-2:] == [
        "not done by real daemons: devices[1].battery_wh: this machine has mains",
        "not done by real daemons: devices[1].rtc: all read this machine's clock",
    ]
