"""Scenarios: every mistake is one line with file, line, key, what was expected and what is there."""

from __future__ import annotations

import pytest

from device_sim.scenario import NODES_MAX, parse, scaled, spelled
from security.errors import BadInput

GOOD = """\
[fleet]
name = "plant"
duration_s = 20

[[functions]]
file = "functions/gait.py"

[[devices]]
prefix = "press"
count = 2
slowdown = 2
labels = { hall = "a" }

[devices.trace]
file = "gait.csv"
rate_hz = 64
window = 8
hop = 4
speed_up = 4

[[devices.calls]]
function = "gait.spectrum"
every_windows = 2

[[devices]]
id = "helper"

[[faults]]
at_s = 5
do = "kill"
node = "press-1"

[[faults]]
at_s = 9.5
do = "restart"
node = "press-1"

[expect]
offloaded_min = 1
"""

FLEET_KEYS = "name, duration_s, seed, mdns, settle_s, verify"
DEVICE_KEYS = (
    "id, prefix, count, workers, cores, slowdown, speed, memory_mb, battery_wh, idle_w, busy_w, link, "
    "clock_drift_ppm, rtc, labels, trace, sensor, calls, arrivals"
)
VERBS = (
    "kill, pause, resume, restart, revoke, kill-gateway, restart-gateway, kill-broker, partition, "
    "heal-partition, degrade, power-cut, power-cut-gateway, wipe-broker, clock-step, disk-full, disk-free, "
    "disk-error, disk-flip, slow, kill-worker, crash-at or restore-tables"
)
PLACES = "any, local, gateway or a node of this scenario"
NO_NAME = "cannot name a node: 1 to 32 of a-z, 0-9 and '-', not reserved"


def refused(text: str) -> str:
    with pytest.raises(BadInput) as caught:
        parse(text, name="plant.toml")
    told = str(caught.value)
    assert "\n" not in told
    return told


def test_a_scenario_is_read_whole():
    scenario = parse(GOOD).scenario

    assert list(scenario.nodes) == ["press-1", "press-2", "helper"]
    press = scenario.nodes["press-2"]
    assert (press.slowdown, press.labels, press.workers) == (2.0, {"hall": "a"}, 1)
    assert press.trace is not None
    assert (press.trace.rate_hz, press.trace.speed_up, press.trace.form) == (64.0, 4.0, "rows")
    assert press.calls[0].every_windows == 2
    assert scenario.nodes["helper"].trace is None
    assert [fault.at_s for fault in scenario.faults] == [5.0, 9.5]
    assert (scenario.expect.lost, scenario.expect.offloaded_min, scenario.expect.peers_min) == (0, 1, None)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("speed_up = 4", "speed_up = 'fast'",
         "plant.toml:19: devices[0].trace.speed_up: expected a number > 0 and <= 1e+09, got 'fast'"),
        ("speed_up = 4", "speed_up = 0",
         "plant.toml:19: devices[0].trace.speed_up: expected a number > 0 and <= 1e+09, got 0"),
        ("speed_up = 4", "speed_up = nan",
         "plant.toml:19: devices[0].trace.speed_up: expected a number > 0 and <= 1e+09, got nan"),
        ("speed_up = 4", "speed_up = true",
         "plant.toml:19: devices[0].trace.speed_up: expected a number > 0 and <= 1e+09, got true"),
        ("window = 8", "window = 8.5",
         "plant.toml:17: devices[0].trace.window: expected a whole number >= 1 and <= 1000000, got 8.5"),
        ("window = 8\n", "",
         "plant.toml:14: devices[0].trace.window: missing; expected a whole number >= 1 and <= 1000000"),
        ("slowdown = 2", "slow_down = 2",
         "plant.toml:11: devices[0].slow_down: unknown key; did you mean slowdown?"),
        ("slowdown = 2", "xyz = 2",
         f"plant.toml:11: devices[0].xyz: unknown key; known are {DEVICE_KEYS}"),
        ('labels = { hall = "a" }', "labels = { hall = 1 }",
         "plant.toml:12: devices[0].labels.hall: expected a text of 1 to 200 characters, got 1"),
        ('labels = { hall = "a" }', "labels = []",
         "plant.toml:12: devices[0].labels: expected a table of texts, got a list"),
        ('[[devices]]\nid = "helper"', '[[devices]]\nid = "press-1"',
         "plant.toml:26: devices[1].id: devices[0] is named press-1 too"),
        ('id = "helper"', 'id = "Helper"',
         f"plant.toml:26: devices[1].id: 'Helper' {NO_NAME}"),
        ('id = "helper"', 'id = "gateway"',
         f"plant.toml:26: devices[1].id: 'gateway' {NO_NAME}"),
        ('id = "helper"', 'id = "helper"\nprefix = "x"',
         "plant.toml:25: devices[1]: expected either id, or prefix and count"),
        ('id = "helper"', 'id = "helper"\ncount = 3',
         "plant.toml:27: devices[1].count: one id names one device; for several use prefix"),
        ("count = 2", "count = 10000",
         f"plant.toml:25: devices[1].count: 10001 nodes so far; at most {NODES_MAX} are a world"),
        ('do = "restart"', 'do = "reboot"',
         f"plant.toml:35: faults[1].do: expected {VERBS}, got 'reboot'"),
        ('do = "restart"', 'do = "resume"',
         "plant.toml:35: faults[1].do: cannot be done: press-1 is dead at 9.5 s"),
        ('do = "restart"', 'do = "kill-broker"',
         "plant.toml:36: faults[1].node: kill-broker has no node"),
        ("at_s = 9.5", "at_s = 21",
         "plant.toml:34: faults[1].at_s: the replay ends at 20 s, got 21"),
        ('do = "kill"\nnode = "press-1"', 'do = "kill"\nnode = "press-9"',
         ("plant.toml:31: faults[0].node: expected a node of this scenario to kill, got 'press-9'; "
         "did you mean press-2?")),
        ('do = "kill"\nnode = "press-1"', 'do = "kill"',
         "plant.toml:28: faults[0].node: expected a node of this scenario to kill, it is missing"),
        ('function = "gait.spectrum"', 'function = "gait"',
         "plant.toml:22: devices[0].calls[0].function: expected STEM.NAME, got 'gait'"),
        ('function = "gait.spectrum"', 'function = "room.changes"',
         "plant.toml:22: devices[0].calls[0].function: no file room.py in functions; there: gait"),
        ("every_windows = 2", 'every_windows = 2\nwhere = "press-9"',
         (f"plant.toml:24: devices[0].calls[0].where: expected {PLACES}, got 'press-9'; "
         "did you mean press-2?")),
        ("every_windows = 2", "every_windows = 2\nwhole = true",
         "plant.toml:23: devices[0].calls[0].every_windows: a call of the whole series has no windows"),
        ('id = "helper"', 'id = "helper"\n[[devices.calls]]\nfunction = "gait.spectrum"',
         "plant.toml:27: devices[1].calls: calls need a trace to take their windows from"),
        ('[[devices.calls]]\nfunction = "gait.spectrum"\nevery_windows = 2', "",
         "plant.toml:14: devices[0].trace: nothing is asked of this trace; add [[devices.calls]]"),
        ('file = "functions/gait.py"', 'file = "functions/gait.toml"',
         "plant.toml:6: functions[0].file: expected a Python file, got 'functions/gait.toml'"),
        ('file = "functions/gait.py"', 'file = "gait.py"\n[[functions]]\nfile = "x/gait.py"',
         "plant.toml:8: functions[1].file: functions[0] is named gait too"),
        ('[[functions]]\nfile = "functions/gait.py"', "sources = 'gait.py'",
         f"plant.toml:5: fleet.sources: unknown key; known are {FLEET_KEYS}"),
        ("[fleet]", "gateway = 7\n[fleet]",
         "plant.toml:1: gateway: expected a table, got 7"),
        ("[expect]\noffloaded_min = 1", "[[expect]]\noffloaded_min = 1",
         "plant.toml:38: expect: expected a table, got a list"),
        ("offloaded_min = 1", "offloaded_min = -1",
         "plant.toml:39: expect.offloaded_min: expected a whole number >= 0, got -1"),
        ('[fleet]\nname = "plant"\nduration_s = 20', "",
         "plant.toml:1: fleet: missing; expected a table"),
        ("duration_s = 20", "duration_s = = 20", "plant.toml:3: not TOML: Invalid value"),
        ("duration_s = 20", "duration_s = 20\nduration_s = 21",
         "plant.toml:4: not TOML: Cannot overwrite a value"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_its_place(old, new, told):
    assert GOOD.count(old) == 1

    assert refused(GOOD.replace(old, new)) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "plant.toml:1: fleet: missing; expected a table"),
        ("fleet.name = 'x'\nfleet.duration_s = 'long'\ndevices = []",
         "plant.toml:2: fleet.duration_s: expected a number > 0 and <= 86400, got 'long'"),
        ("fleet = { name = 'x', duration_s = 1,\n seed = 'x' }", "plant.toml:1: not TOML: "),
        ("fleet = { name = 'x', duration_s = 1, seed = 'x' }\ndevices = []",
         "plant.toml:1: fleet.seed: expected a whole number >= 0, got 'x'"),
        ("devices = [\n  {id = 'a'},\n  {id = 'b', slowdown = 'x'},\n]\n[fleet]\nname = 'x'\nduration_s = 1",
         "plant.toml:3: devices[1].slowdown: expected a number >= 1 and <= 1000, got 'x'"),
        ("devices = [\n  7\n]\n[fleet]\nname = 'x'\nduration_s = 1",
         "plant.toml:2: devices[0]: expected a table, got 7"),
        ("devices = []\n[fleet]\nname = 'x'\nduration_s = 1",
         "plant.toml:1: devices: expected at least one device"),
        ("a = " + "[" * 2000 + "]" * 2000, "plant.toml:1: not TOML: nested too deeply"),
        ("name = 'x", "plant.toml:1: not TOML: "),
    ],
)  # fmt: skip
def test_other_ways_to_write_toml_are_told_as_well(text, told):
    assert refused(text).startswith(told)


def test_a_revocation_needs_a_task_that_can_be_refused():
    text = "fleet = {name = 'x', duration_s = 9}\ndevices = [{id = 'a'}]\n[[faults]]\nat_s = 1\n"

    assert refused(text + "do = 'revoke'\nnode = 'a'").startswith(
        "plant.toml:5: faults[0].do: expected calls"
    )


def test_the_same_story_is_told_at_another_pace():
    scenario = parse(GOOD.replace("speed_up = 4", "speed_up = 4\nburst_s = 2\njitter_s = 1")).scenario

    quick = scaled(scenario, 10.0)

    trace = quick.devices[0].trace
    assert trace is not None
    assert (quick.fleet.duration_s, trace.speed_up, trace.burst_s, trace.jitter_s) == (10.0, 8.0, 1.0, 0.5)
    assert [fault.at_s for fault in quick.faults] == [2.5, 4.75]


def test_keys_are_spelled_as_people_write_them():
    assert spelled(("devices", 2, "trace", "rate_hz")) == "devices[2].trace.rate_hz"
