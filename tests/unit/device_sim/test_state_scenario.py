"""The section of a scenario about replicated tables: who writes, what contradicts itself, what scales."""

from __future__ import annotations

import pytest

from device_sim.scenario import beyond_fleet, parse, scaled_to
from security.errors import BadInput

PLANT = """
[fleet]
name = "a plant"
duration_s = 60

[[devices]]
prefix = "pi"
count = 4

[[devices]]
id = "mast"

[state]
rate_hz = 0.5
"""


def test_everybody_writes_unless_some_are_named():
    assert parse(PLANT).scenario.writers == ["pi-1", "pi-2", "pi-3", "pi-4", "mast", "gateway"]
    assert parse(PLANT + 'nodes = ["mast", "pi", "pi-2"]').scenario.writers[:2] == ["mast", "pi-1"]
    assert parse(PLANT.replace("0.5", "0.0")).scenario.writers == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('nodes = ["gatewya"]', r"state.nodes\[0\]: expected a node or a prefix .*; did you mean gateway\?"),
        ("own = 0.8\nsets = 0.3", "state.own: own, removals, counters and sets .* make 1.35"),
        ("keys = 0", "state.keys: expected a whole number >= 1"),
        ("rates = 1", "state.rates: unknown key"),
    ],
)
def test_a_mistake_is_told_with_its_line(line, told):
    with pytest.raises(BadInput, match=f"scenario.toml:\\d+: {told}"):
        parse(PLANT + line)


def test_real_daemons_say_that_they_leave_it_out():
    assert "state: nobody writes tables" in beyond_fleet(parse(PLANT).scenario)


def test_who_writes_stays_in_a_fleet_of_another_size():
    few = scaled_to(parse(PLANT + 'nodes = ["pi-1", "pi-4", "mast"]').scenario, 3)

    assert few.writers == ["pi-1", "pi-2", "mast"], "what pi-4 would write goes to the last of its class"
