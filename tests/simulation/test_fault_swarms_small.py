"""A few seeds of each focused swarm with every change; the rest is ``make swarm-faults``."""

from __future__ import annotations

import os

import pytest

from device_sim.virtual.focus import FOCUSES
from device_sim.virtual.swarm import Job, Swarm, done
from tests.simulation.fault_swarms import AIMS, Campaign, read

JOBS = min(2, os.cpu_count() or 1)
FIRST = 50_000
"""Not those of the campaign."""
SEEDS = {
    "worker-kill": (5, 1),
    "power-cut": (4, 1),
    "partition": (3, 1),
    "parcels": (3, 2),
    "clocks": (3, 2),
    "disk": (2, 2),
    "flip": (3, 1),
    "tables": (3, 7),
}
"""Focus -> nodes, seeds."""
STRUCK = {
    "worker-kill": ("kill", "kill-worker"),
    "power-cut": ("power-cut", "power-cut-gateway"),
    "partition": ("partition",),
    "parcels": ("messages",),
    "clocks": ("clock-step",),
    "disk": ("disk-full", "disk-error"),
    "flip": ("disk-flip",),
    "tables": ("restore-tables", "power-cut", "partition", "clock-step", "disk-flip"),
}


@pytest.mark.slow
@pytest.mark.parametrize("focus", SEEDS)
def test_no_promise_breaks_under_one_fault_after_the_other(focus):
    nodes, count = SEEDS[focus]

    words = [
        done(Job(seed=seed, nodes=nodes, focus=focus, plays_max=0)) for seed in range(FIRST, FIRST + count)
    ]

    told = [(word.seed, each.checker, each.lines[:2]) for word in words for each in word.attempt.broken]
    assert told == []
    for name in STRUCK[focus]:
        assert sum(word.attempt.figures.counts.get(name, 0) for word in words), f"{name} took effect"


@pytest.mark.slow
def test_a_focused_seed_is_the_same_run_in_two_processes():
    swarm = Swarm(iter([FIRST]), nodes=2, focus="gateway-kill", jobs=JOBS, plays_max=0, twice=True)

    (word,) = swarm.words()

    assert word.attempt.broken == ()
    assert word.attempt.figures.counts["crash-at"] > 20


@pytest.mark.slow
def test_a_campaign_goes_on_where_it_was(tmp_path):
    def campaign():
        return Campaign(tmp_path, share=0.002, jobs=1, plays=0, only=["clocks"])

    first = campaign()
    assert first.next() == "clocks" and set(AIMS) == set(FOCUSES)
    lines = list(first.batch("clocks"))
    assert len(lines) == 2, "two of a thousand"

    path = tmp_path / "seeds.jsonl"
    path.write_bytes(path.read_bytes()[:-40])  # it was ended in the middle of the last line

    second = campaign()
    assert [line.seed for line in read(path)] == [0]
    assert second.next() == "clocks"
    assert [line.seed for line in second.batch("clocks")] == [1]
    assert second.next() is None and campaign().next() is None
    report = second.report("a command")
    assert "| 7 | clocks | seeds 2 of 2 | 2 |" in report and "a command" in report
