"""docs/scenario.md lists every key of a scenario with its default, and its example is one."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import msgspec
import pytest

from device_sim.faults import Fault
from device_sim.scenario import (
    Call,
    DevicesTable,
    Expect,
    FleetTable,
    FunctionsTable,
    GatewayTable,
    Scenario,
    Trace,
    parse,
)

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "scenario.md").read_text()
REFERENCE = TEXT.split("<!-- scenario:")[1].split("<!-- end -->")[0]
TABLES = {
    "[fleet]": FleetTable,
    "[gateway]": GatewayTable,
    "[[functions]]": FunctionsTable,
    "[[devices]]": DevicesTable,
    "[devices.trace]": Trace,
    "[[devices.calls]]": Call,
    "[[faults]]": Fault,
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
