"""docs/scenario.md lists every key of a scenario with its default, and its example is one."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import msgspec
import pytest

from device_sim.faults import Fault, Rates
from device_sim.scenario import (
    Arrivals,
    Call,
    DevicesTable,
    Expect,
    FleetTable,
    FunctionsTable,
    GatewayTable,
    LinkTable,
    RunTable,
    Scenario,
    Sensor,
    ServiceTable,
    StateTable,
    Trace,
    beyond_fleet,
    parse,
)

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "scenario.md").read_text()
REFERENCE = TEXT.split("<!-- scenario:")[1].split("<!-- end -->")[0]
TABLES = {
    "[fleet]": FleetTable,
    "[run]": RunTable,
    "[gateway]": GatewayTable,
    "[links.NAME]": LinkTable,
    "[[functions]]": FunctionsTable,
    '[services."STEM.NAME"]': ServiceTable,
    "[[devices]]": DevicesTable,
    "[devices.trace]": Trace,
    "[devices.sensor]": Sensor,
    "[[devices.calls]]": Call,
    "[[devices.arrivals]]": Arrivals,
    "[state]": StateTable,
    "[[faults]]": Fault,
    "[rates]": Rates,
    "[expect]": Expect,
}


def default_of(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    default = field.default
    if default is msgspec.NODEFAULT:
        default = field.default_factory()
    if default is None:
        return "none"
    return f"`{msgspec.json.encode(default).decode()}`"


def line_of(table: str, key: str) -> str:
    section = REFERENCE.split(f"\n## {table}\n")[1].split("\n## ")[0]
    return re.search(rf"^\| `{key}` .*$", section, re.MULTILINE)[0]


@pytest.mark.parametrize("name", TABLES)
def test_every_key_is_told_with_its_default(name):
    section = REFERENCE.split(f"\n## {name}\n")[1].split("\n## ")[0]
    told = re.findall(r"^\| `([a-z0-9_]+)` \| (\S+) \|", section, re.MULTILINE)

    assert told == [(field.name, default_of(field)) for field in msgspec.structs.fields(TABLES[name])]


def test_every_table_and_every_verb_is_told():
    assert re.findall(r"^## (.+)$", REFERENCE, re.MULTILINE) == list(TABLES)
    told = {name.strip("[]").split(".")[0] for name in TABLES}
    assert told == {field.name for field in msgspec.structs.fields(Scenario)}
    verbs = re.findall(r"`([a-z-]+)`", REFERENCE.split("| `do` | what is done |")[1].split("## ")[0])
    assert set(typing.get_args(typing.get_type_hints(Fault)["do"])) <= set(verbs)


def test_the_example_is_a_scenario():
    example = TEXT.split("```toml\n")[1].split("```")[0]

    scenario = parse(example).scenario

    assert list(scenario.nodes) == ["pi-1", "pi-2"]


def test_what_is_marked_as_the_worlds_is_what_real_daemons_leave_out():
    """Keys of a device that are marked are those that ``beyond_fleet`` names; the others it passes over."""
    values = {
        "cores": 4, "memory_mb": 512, "battery_wh": 10.0, "idle_w": 1.0, "busy_w": 9.0, "link": "x",
        "clock_drift_ppm": 20.0, "rtc": False, "workers": 2, "slowdown": 2.0, "labels": {"a": "b"},
    }  # fmt: skip
    whole = parse(TEXT.split("```toml\n")[1].split("```")[0]).scenario
    for key, value in values.items():
        device = msgspec.structs.replace(whole.devices[0], **{key: value})
        told = beyond_fleet(msgspec.structs.replace(whole, devices=(device,)))
        battery = key in ("idle_w", "busy_w")  # of the battery: told with it
        assert bool(told or battery) == ("*(world)*" in line_of("[[devices]]", key)), key
