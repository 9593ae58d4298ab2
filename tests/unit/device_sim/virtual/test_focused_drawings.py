"""Drawings that are about one fault."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from typer.testing import CliRunner

from device_sim.cli import app
from device_sim.faults import impossible
from device_sim.scenario.contradictions import contradictions
from device_sim.virtual.drawing import drawn_scenario
from device_sim.virtual.focus import FOCUSES, kind_of
from device_sim.virtual.gauge import NEVER, Figures, Totals
from security.errors import BadInput
from tests.simulation.fault_swarms import AIMS

ABOUT = {
    "worker-kill": {"kill", "restart", "kill-worker"},
    "gateway-kill": {"crash-at", "restart-gateway"},
    "power-cut": {"power-cut", "restart", "power-cut-gateway", "restart-gateway"},
    "partition": {"partition", "heal-partition"},
    "parcels": set(),
    "clocks": {"clock-step", "power-cut", "restart", "power-cut-gateway", "restart-gateway"},
    "disk": {"disk-full", "disk-free", "disk-error", "restart", "restart-gateway"},
    "flip": {"disk-flip", "restart", "restart-gateway"},
    "tables": {
        *("power-cut", "restart", "power-cut-gateway", "restart-gateway", "partition", "heal-partition"),
        *("clock-step", "disk-full", "disk-free", "disk-error", "disk-flip", "restore-tables"),
    },
}


def test_every_focus_has_its_aim_in_the_campaign():
    assert list(ABOUT) == list(FOCUSES) == list(AIMS)


@pytest.mark.parametrize("focus", ABOUT)
def test_a_focus_draws_what_can_be_done_and_nothing_else(focus):
    found = set()
    for seed in range(42):
        scenario = drawn_scenario(seed, 5, focus).scenario
        faults = scenario.timeline()
        assert list(contradictions(scenario, {})) == []
        assert impossible(faults) is None
        assert len(scenario.nodes) == 5 and not scenario.rates.any
        found |= {fault.do for fault in faults}
    assert found == ABOUT[focus]
    assert drawn_scenario(3, 5, focus).scenario == drawn_scenario(3, 5, focus).scenario
    assert drawn_scenario(3, 5, focus).scenario != drawn_scenario(3, 6, focus).scenario


def test_a_fault_that_is_none_and_a_file_that_has_its_own_are_told_in_one_line():
    runner = CliRunner()
    none = runner.invoke(app, ["swarm", "--fault", "clock"])
    twice = runner.invoke(app, ["replay", "seed-1.json", "--fault", "clocks"])

    assert isinstance(none.exception, BadInput) and isinstance(twice.exception, BadInput)
    assert "no swarm is about 'clock'" in str(none.exception) and "power-cut" in str(none.exception)
    assert "a recorded seed has its own fault" in str(twice.exception)


def test_seeds_go_through_all_kinds_and_all_numbers():
    assert [kind_of("parcels", seed) for seed in range(7)][-2:] == ["reorder 64", "loss 1 %"]
    faults = [drawn_scenario(seed, 3, "disk").scenario.faults for seed in range(800)]
    nths = {(fault.do, fault.node, fault.nth) for each in faults for fault in each if fault.nth}
    assert nths == {
        (do, node, nth)
        for do in ("disk-full", "disk-error")
        for node in ("gateway", "n-1")
        for nth in range(1, 201)
    }
    crashes = [
        (fault.point, fault.power, fault.nth)
        for seed in range(40)
        for fault in drawn_scenario(seed, 3, "gateway-kill").scenario.faults
        if fault.do == "crash-at"
    ]
    assert {(point, power) for point, power, _ in crashes} >= {
        (f"{when} {what}", power)
        for when in ("before", "after")
        for what in ("write", "fsync", "names")
        for power in (False, True)
    }
    assert len({nth for _, _, nth in crashes}) == 8


def test_the_mixed_drawing_is_what_it_was():
    """Recorded seeds mean these runs: whoever changes this has to say so in ``drawing.VERSION``."""
    digest = hashlib.sha256()
    for seed in range(8):
        scenario = drawn_scenario(seed, 12).scenario
        drawn = (scenario.links, scenario.services, scenario.devices, scenario.rates, scenario.state)
        drawn += (scenario.faults,)
        digest.update(repr(drawn).encode())
        assert scenario.gateway.arrivals == ()

    assert digest.hexdigest()[:16] == "9a69ae18306c2bfb"


def test_totals_tell_quantiles_of_what_came_about_and_how_many_never_did():
    totals = Totals()
    totals.take(Figures(counts={"kill": 2}, samples={"late ms": [3.0, NEVER, 1.0]}))
    totals.take(Figures(counts={"kill": 1}, samples={"late ms": [2.0]}))
    totals.take(None)

    assert totals.counts == {"kill": 3}
    assert totals.quantiles() == {"late ms": {"samples": 3, "p50": 2.0, "p99": 3.0, "max": 3.0, "never": 1}}
    assert msgspec.json.decode(msgspec.json.encode(Figures(samples={"a": [NEVER]})), type=Figures)
