"""What a scenario says of a world: mistakes with their line, scaling, and what real daemons make of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sim.faults import impossible
from device_sim.scenario import (
    LinkTable,
    beyond_fleet,
    for_fleet,
    parse,
    scaled,
    scaled_to,
    unplayable,
)
from device_sim.virtual.network import LinkModel
from security.errors import BadInput

WORLD = """\
[fleet]
name = "town"
duration_s = 100

[run]
heal_s = 80

[links.radio]
loss = 0.1

[services."soil.moisture"]
distribution = "lognormal"
cv = 0.5

[[devices]]
prefix = "soil"
count = 30
speed = 0.1
link = "radio"

[[devices.arrivals]]
function = "soil.moisture"
rate_hz = 0.5
input_bytes = { min = 10, max = 20 }

[[devices]]
prefix = "barn"
count = 10

[devices.sensor]
kind = "meter"
rate_hz = 1
window = 8
hop = 4

[[devices.calls]]
function = "soil.moisture"
where = "barn-9"

[[devices]]
id = "mast"

[[faults]]
at_s = 10
do = "partition"
nodes = ["barn", "soil-3"]
until_s = 20

[[faults]]
at_s = 30
do = "degrade"
node = "gateway"
link = "radio"
until_s = 40

[rates]
kill = 2
"""


def refused(text: str) -> str:
    with pytest.raises(BadInput) as caught:
        parse(text, name="town.toml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(old: str, new: str) -> str:
    assert WORLD.count(old) == 1
    return WORLD.replace(old, new)


def test_a_world_is_read_whole():
    scenario = parse(WORLD).scenario

    soil, mast = scenario.nodes["soil-7"], scenario.nodes["mast"]
    assert (soil.pace, soil.slowed, soil.cls, soil.link) == (0.1, 10.0, "soil", "radio")
    assert (mast.pace, mast.slowed, mast.cls) == (1.0, 1.0, "mast")
    assert (scenario.healed_s, scenario.synthetic, scenario.rates.any) == (80.0, ["soil.moisture"], True)
    timeline = scenario.timeline()
    assert len(timeline) == 23  # eleven are cut off and healed, one link is bad
    assert {(f.do, f.at_s) for f in timeline if f.node == "barn-4"} == {
        ("partition", 10),
        ("heal-partition", 20),
    }
    assert all(not f.nodes for f in timeline) and impossible(timeline) is None


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("speed = 0.1", "speed = 0.1\nslowdown = 10",
         "18: devices[0].speed: expected either speed or slowdown"),
        ('link = "radio"\n\n[[devices.arr', 'link = "rado"\n\n[[devices.arr',
         "19: devices[0].link: no table [links.rado]; there: radio; did you mean radio?"),
        ("speed = 0.1", "idle_w = 7", "15: devices[0].busy_w: expected at least the 7 W of idle_w, got 5"),
        ("loss = 0.1", "loss = 1", "9: links.radio.loss: expected a number >= 0 and <= 0.9, got 1"),
        ("loss = 0.1", "up_s = 9", "8: links.radio: an intermittent link has both up_s and down_s"),
        ("loss = 0.1", "delay = 9", "9: links.radio.delay: unknown key; did you mean delay_ms?"),
        ("[links.radio]\nloss = 0.1", "links = 3", "8: run.links: unknown key; known are heal_s, liveness_s"),
        ("cv = 0.5", "cv = 0", "13: services.\"soil.moisture\".cv: expected a number > 0 and <= 100, got 0"),
        ("cv = 0.5", 'file = "x.csv"', "13: services.\"soil.moisture\".file: only distribution = 'trace' or"),
        ('"lognormal"\ncv = 0.5', '"trace"',
         "11: services.\"soil.moisture\".file: missing; expected the file of"),
        ('[services."soil.moisture"]', "[services.soil]",
         "11: services.soil: expected STEM.NAME in quotes, as [services.\"gait.spectrum\"], got 'soil'"),
        ('function = "soil.moisture"\nrate_hz', 'function = "soil.moistur"\nrate_hz',
         ("22: devices[0].arrivals[0].function: no file soil.py in functions and no such service; "
         "there: none, soil.moisture; did you mean soil.moisture?")),
        ("rate_hz = 0.5\n", "",
         "21: devices[0].arrivals[0].rate_hz: missing; expected a number > 0 and <= 100000"),
        ("rate_hz = 0.5\n", 'kind = "trace"\n',
         "21: devices[0].arrivals[0].file: missing; expected a CSV or"),
        ("rate_hz = 0.5\n", 'kind = "trace"\nfile = "x.txt"\n',
         "24: devices[0].arrivals[0].file: expected a CSV or Parquet file, got 'x.txt'"),
        ("rate_hz = 0.5\n", 'rate_hz = 1\nkind = "trace"\nfile = "x.csv"\n',
         "23: devices[0].arrivals[0].rate_hz: a trace has its own moments; use speed_up"),
        ("rate_hz = 0.5\n", 'rate_hz = 1\nfile = "x.csv"\n',
         "24: devices[0].arrivals[0].file: only kind = 'trace' has a file"),
        ("{ min = 10, max = 20 }", "{ min = 10 }",
         "24: devices[0].arrivals[0].input_bytes: expected min and max, or mean and cv, got min"),
        ("{ min = 10, max = 20 }", "{ min = 10, max = 2 }",
         "24: devices[0].arrivals[0].input_bytes.max: expected at least the min of 10, got 2"),
        ("{ min = 10, max = 20 }", "{ least = 10 }",
         "24: devices[0].arrivals[0].input_bytes.least: unknown key; known are min, max, mean, cv"),
        ("{ min = 10, max = 20 }", "'some'",
         "24: devices[0].arrivals[0].input_bytes: expected a whole number >= 0 and <= 67108864 or a table"),
        ("input_bytes = { min = 10, max = 20 }\n", "",
         "21: devices[0].arrivals[0].input_bytes: missing; expected it, or a trace or sensor to take"),
        ('[[devices.calls]]\nfunction = "soil.moisture"\nwhere = "barn-9"', "",
         "30: devices[1].sensor: nothing is asked of this sensor; add [[devices.calls]]"),
        ('where = "barn-9"', "whole = true",
         "38: devices[1].calls[0].whole: a modelled sensor has no whole series"),
        ("hop = 4", 'hop = 4\n\n[devices.trace]\nfile = "x.csv"\nrate_hz = 1\nwindow = 4\nhop = 4',
         "30: devices[1].sensor: expected either a trace or a sensor"),
        ('kind = "meter"', 'kind = "metre"',
         "31: devices[1].sensor.kind: expected thermometer, vibration, camera, meter or gps, got 'metre'"),
        ('nodes = ["barn", "soil-3"]', 'nodes = ["barns"]',
         "46: faults[0].nodes[0]: expected a node or a prefix of several, got 'barns'; did you mean barn?"),
        ('nodes = ["barn", "soil-3"]', 'nodes = ["barn"]\nnode = "mast"',
         "46: faults[0].nodes: expected either node or nodes"),
        ("until_s = 20", "until_s = 10", "47: faults[0].until_s: expected more than at_s = 10, got 10"),
        ("until_s = 20", "by_s = 10", "47: faults[0].by_s: partition has no by_s"),
        ('do = "degrade"', 'do = "kill"',
         "52: faults[1].node: expected a node of this scenario to kill, got 'gateway'"),
        ("until_s = 40", "", "49: faults[1].until_s: missing; degrade needs it"),
        ('node = "gateway"\nlink = "radio"', 'node = "gateway"\nlink = "wire"',
         "53: faults[1].link: no table [links.wire]; there: radio"),
        ("at_s = 30", "at_s = 90", "50: faults[1].at_s: every fault is made good at 80 s, got 90"),
        ('at_s = 30\ndo = "degrade"\nnode = "gateway"\nlink = "radio"\nuntil_s = 40',
         'at_s = 15\ndo = "partition"\nnode = "soil-3"',
         "51: faults[1].do: cannot be done: the network of soil-3 is cut already at 15 s"),
        ('at_s = 30\ndo = "degrade"\nnode = "gateway"\nlink = "radio"\nuntil_s = 40',
         'at_s = 15\ndo = "disk-free"\nnodes = ["soil"]',
         "51: faults[1].do: cannot be done: the disk of soil-1 is not full at 15 s"),
        ("heal_s = 80", "heal_s = 101", "6: run.heal_s: the replay ends at 100 s, got 101"),
        ("kill = 2", "kil = 2", "57: rates.kil: unknown key; did you mean kill?"),
    ],
)  # fmt: skip
def test_a_mistake_about_a_world_is_one_line_that_names_its_place(old, new, told):
    assert refused(changed(old, new)).startswith(f"town.toml:{told}")


def test_a_link_says_what_the_worlds_network_can_do():
    """Key for key, with the same defaults; and when an intermittent one is away."""
    table, model = LinkTable(), LinkModel()

    assert {name: getattr(table, name) for name in LinkTable.__struct_fields__} == {
        **{name: getattr(model, name) for name in LinkModel.__struct_fields__},
        "up_s": 0.0,
        "down_s": 0.0,
    }


# ── scaling ───────────────────────────────────────────────────────────────────────────────────────────


def test_each_class_keeps_its_share():
    scenario = parse(WORLD).scenario

    assert [device.count for device in scaled_to(scenario, 401).devices] == [300, 100, 1]
    assert [device.count for device in scaled_to(scenario, 41).devices] == [30, 10, 1]
    assert [device.count for device in scaled_to(scenario, 3).devices] == [1, 1, 1]


def test_faults_and_work_of_nodes_that_are_no_more_are_not_left_hanging():
    small = scaled_to(parse(WORLD).scenario, 4)

    assert list(small.nodes) == ["soil-1", "soil-2", "barn-1", "mast"]
    assert small.devices[1].calls[0].where == "barn-1"
    assert [(fault.do, fault.nodes) for fault in small.faults] == [("partition", ("barn",)), ("degrade", ())]
    assert impossible(small.timeline()) is None


@given(st.integers(3, 10_000))
def test_any_number_of_nodes_is_met_exactly(nodes):
    scenario = parse(WORLD).scenario

    counts = [device.count for device in scaled_to(scenario, nodes).devices]

    assert sum(counts) == nodes and min(counts) >= 1 and counts[2] == 1
    if nodes > 10:
        assert counts[0] == pytest.approx(3 * counts[1], abs=3)


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        (2, "2 nodes of the classes soil, barn, mast: at least 3: one of each"),
        (10_001, "10001 nodes: at most 10000"),
    ],
)
def test_numbers_that_make_no_world_are_refused(nodes, told):
    with pytest.raises(BadInput, match=told):
        scaled_to(parse(WORLD).scenario, nodes)


def test_a_world_is_told_at_another_pace():
    quick = scaled(parse(WORLD).scenario, 50.0)

    assert quick.healed_s == 40.0
    assert quick.devices[0].arrivals[0].rate_hz == 1.0
    assert quick.devices[1].sensor.speed_up == 2.0
    assert [(fault.at_s, fault.until_s) for fault in quick.faults] == [(5, 10), (15, 20)]


# ── real daemons ──────────────────────────────────────────────────────────────────────────────────────


def test_real_daemons_refuse_what_would_give_other_results():
    scenario = parse(WORLD).scenario

    assert list(unplayable(scenario)) == [
        (("devices", 0, "arrivals", 0, "function"),
         "soil.moisture has no file in functions: only the world of device-sim run knows it"),
        (("devices", 0, "arrivals", 0, "input_bytes"),
         ("soil.moisture cannot be called with bytes that mean nothing: leave it out to hand over windows, "
         "or play it with device-sim run")),
        (("devices", 1, "calls", 0, "function"),
         "soil.moisture has no file in functions: only the world of device-sim run knows it"),
    ]  # fmt: skip
    path, told = list(unplayable(scaled_to(scenario, 400)))[-1]
    assert path == ("devices", 0, "count") and told.startswith("299 nodes so far; at most 64 real ones fit")


def test_real_daemons_tell_what_they_leave_out():
    text = changed("[rates]", '[[faults]]\nat_s = 50\ndo = "power-cut"\nnode = "mast"\n[rates]')
    scenario = parse(text).scenario

    assert beyond_fleet(scenario) == [
        "devices[0].link: everything goes over the loopback interface",
        "faults[0]: partition is left out",
        "faults[1]: degrade is left out",
        "faults[2]: power-cut is played as kill",
        "rates: no faults are drawn",
        "run.heal_s: a real fleet settles in fleet.settle_s",
    ]
    assert [(fault.do, fault.node) for fault in for_fleet(scenario).faults] == [("kill", "mast")]


def test_what_says_nothing_of_a_world_is_played_whole():
    text = "fleet = {name = 'x', duration_s = 9}\ndevices = [{id = 'a', slowdown = 3}]\n"

    assert (beyond_fleet(parse(text).scenario), list(unplayable(parse(text).scenario))) == ([], [])
    fast = parse(text.replace("slowdown = 3", "speed = 3")).scenario
    assert beyond_fleet(fast) == ["devices[0].speed: none is faster than this machine"]
    assert fast.nodes["a"].slowed == 1.0


def test_what_is_asked_for_at_the_gateway_itself_is_the_worlds_and_has_no_windows():
    text = WITHOUT_GATEWAY_WORK + (
        "[[gateway.arrivals]]\nfunction = 'work.short'\nrate_hz = 2.0\ninput_bytes = 64\n"
    )
    scenario = parse(text).scenario
    assert scenario.gateway.arrivals[0].rate_hz == 2.0
    assert [why for _, why in unplayable(scenario) if "gateway itself" in why]

    for old, new, told in (
        ("input_bytes = 64\n", "", "the gateway has no windows to hand over"),
        ("rate_hz = 2.0", "kind = 'trace'\nfile = 'a.csv'", "moments in a file are a device's"),
        ("work.short'\nrate", "work.missing'\nrate", "no file work.py in functions and no such service"),
    ):
        with pytest.raises(BadInput, match=told):
            parse(text.replace(old, new))


WITHOUT_GATEWAY_WORK = """
[fleet]
name = "house"
duration_s = 5.0

[services."work.short"]
mean_ms = 20.0

[[devices]]
id = "a"

"""
