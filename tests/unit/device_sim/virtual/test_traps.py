"""Machines that die in the middle of an operation of their disk."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from device_sim.faults import Fault, impossible
from device_sim.scenario.tables import (
    Arrivals,
    DevicesTable,
    FleetTable,
    GatewayTable,
    RunTable,
    Scenario,
    ServiceTable,
)
from device_sim.virtual.attempt import attempt
from device_sim.virtual.disk import Disk
from device_sim.virtual.recorded import prepared
from device_sim.virtual.traps import Traps
from device_sim.virtual.world import Dark, World, without_dark

WORK = Arrivals(function="work.short", kind="constant", rate_hz=2.0, input_bytes=64, ttl_s=20.0)


def told(disk):
    """Every operation of this disk from now on."""
    found = []
    disk.watch = lambda *each: found.append(" ".join(map(str, each)))
    return found


def test_a_disk_tells_before_and_after_each_change_and_not_after_one_that_failed():
    disk = Disk(random.Random(1))
    found = told(disk)

    disk.write("log", 0, b"abc")
    disk.fsync("log")
    disk.rename("log", "old")
    disk.fsync_dir()
    disk.fail_fsync()
    with pytest.raises(OSError, match="Input/output"):
        disk.fsync("old")

    assert found == [
        "before write log 3", "after write log 3", "before fsync log 0", "after fsync log 0",
        "before names old 0", "after names old 0", "before fsync / 0", "after fsync / 0",
        "before fsync old 0",
    ]  # fmt: skip


def test_a_trap_springs_once_at_its_operation_and_who_is_dark_does_nothing_more():
    world, disk = World(1), Disk(random.Random(1))
    traps = Traps(world, disk)
    sprung = []

    def spring(label, length):
        sprung.append((label, length))
        traps.dark()

    traps.arm("crash-at", "after write", 2, spring)
    disk.write("log", 0, b"abc")
    with pytest.raises(Dark):
        disk.write("log", 3, b"defg")
    with pytest.raises(Dark):
        disk.fsync("log")
    assert sprung == [("after write log", 4)]
    assert disk.read("log") == b"abcdefg", "it was written"

    world.run_until(1)
    disk.fsync("log")
    disk.write("log", 7, b"h")
    assert len(sprung) == 1 and disk.watch is None, "nothing is armed any more"


def test_a_dark_machine_ends_an_entry_of_the_agenda_and_no_other():
    world, done = World(1), []

    def dark():
        done.append("dark")
        raise Dark

    world.at(5, dark)
    world.at(5, done.append, "next")
    world.run_until(9)

    assert done == ["dark", "next"]
    mixed = without_dark(BaseExceptionGroup("of a group", [Dark(), ValueError("x")]))
    assert isinstance(mixed, BaseExceptionGroup) and len(mixed.exceptions) == 1
    assert without_dark(BaseExceptionGroup("of a group", [Dark()])) is None


def scenario(*faults):
    return prepared(
        Scenario(
            fleet=FleetTable(name="crashes", duration_s=12.0, seed=3),
            run=RunTable(liveness_s=60.0),
            gateway=GatewayTable(arrivals=(WORK,)),
            services={"work.short": ServiceTable(mean_ms=20.0)},
            devices=(DevicesTable(prefix="n", count=2, arrivals=(WORK,)),),
            faults=faults,
        ),
        3,
    )


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("node", ["gateway", "n-1"])
def test_a_machine_dies_around_an_operation_and_comes_back_with_what_it_had_accepted(node, power):
    points = ("before write", "after write", "before fsync", "after fsync")
    faults = [
        Fault(at_s=1.0 + 2.5 * number, do="crash-at", node=node, point=point, nth=2, power=power)
        for number, point in enumerate(points)
    ]
    assert impossible(faults) is None

    found = attempt(scenario(*faults), focus="gateway-kill")

    how = "power" if power else "kill"
    counts = found.figures.counts
    assert [(each.checker, each.lines[:2]) for each in found.broken] == []
    assert counts["crash-at"] == counts[f"died by {how}"] == 4
    hit = Counter(
        " ".join(name.split()[1:3]) for name in counts for _ in range(counts[name]) if name.split()[0] == how
    )
    assert all(hit[point] == 1 for point in points)
    assert counts["started"] == 3 + 4


def test_a_disk_is_full_from_the_middle_of_its_nth_write_on():
    found = attempt(
        scenario(
            Fault(at_s=1.0, do="disk-full", node="n-1", nth=5),
            Fault(at_s=6.0, do="disk-free", node="n-1"),
            Fault(at_s=8.0, do="disk-error", node="gateway", nth=3),
        ),
        focus="disk",
    )

    assert [(each.checker, each.lines[:2]) for each in found.broken] == []
    assert (found.figures.counts["disk-full"], found.figures.counts["disk-error"]) == (1, 1)
