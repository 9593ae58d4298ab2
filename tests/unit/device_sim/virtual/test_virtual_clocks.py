"""A machine's clocks: a rate of their own, a wall time of their own, a new life after each boot."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sim.virtual.clocks import UPTIME_NS, VirtualClock
from device_sim.virtual.world import SECOND, WALL_MS, World
from edge_node.clock import AHEAD_S_MAX, FlooredClock

YEAR_NS = 365 * 24 * 3600 * SECOND


def at(ns: int) -> World:
    world = World(1)
    world.run_until(ns)
    return world


def test_a_true_clock_shows_true_time():
    world = World(1)
    clock = VirtualClock(world)

    world.run_until(90 * SECOND)

    assert clock.now_ns() == UPTIME_NS + 90 * SECOND
    assert clock.wall_ms() == WALL_MS + 90_000


@pytest.mark.parametrize(("ppm", "wanted_ns"), [(50, 50_000), (-200, -200_000), (0.5, 500), (-0.001, -1)])
def test_a_second_of_a_drifting_clock_is_off_by_its_drift(ppm, wanted_ns):
    world = World(1)
    clock = VirtualClock(world, drift_ppm=ppm)

    world.run_until(SECOND)
    first = clock.now_ns()
    world.run_until(YEAR_NS)

    assert first - UPTIME_NS == SECOND + wanted_ns
    assert clock.now_ns() - UPTIME_NS == YEAR_NS + wanted_ns * (YEAR_NS // SECOND)  # to the nanosecond


@given(
    ppm=st.floats(-100_000, 100_000),
    began_ns=st.integers(0, YEAR_NS),
    local_ns=st.integers(0, YEAR_NS),
)
def test_a_deadline_is_due_at_its_true_moment_and_not_a_nanosecond_before(ppm, began_ns, local_ns):
    world = at(began_ns)
    clock = VirtualClock(world, drift_ppm=ppm)

    due_ns = clock.true_ns(UPTIME_NS + local_ns)

    assert due_ns >= began_ns
    if due_ns > began_ns:
        world.run_until(due_ns - 1)
        assert clock.now_ns() < UPTIME_NS + local_ns
    world.run_until(due_ns)
    assert clock.now_ns() >= UPTIME_NS + local_ns


def test_a_deadline_in_the_past_is_in_the_past():
    world = World(1)
    clock = VirtualClock(world, drift_ppm=-7)
    world.run_until(10 * SECOND)

    assert clock.true_ns(clock.now_ns()) <= world.now_ns
    assert clock.true_ns(clock.now_ns() - SECOND) < world.now_ns
    assert clock.true_ns(clock.now_ns() + 1) > world.now_ns


@given(st.lists(st.tuples(st.sampled_from(["wait", "step", "drift", "sync"]), st.integers(-500, 5000))))
def test_monotonic_time_never_goes_back_while_the_machine_is_up(script):
    world = World(1)
    clock = VirtualClock(world, drift_ppm=30)
    last = clock.now_ns()

    for what, amount in script:
        if what == "wait":
            world.run_until(world.now_ns + abs(amount) * 333)
        elif what == "step":
            clock.step(amount * 1000)
        elif what == "drift":
            clock.drift(amount)
        else:
            clock.synchronise(amount)
        assert clock.now_ns() >= last
        last = clock.now_ns()


def test_setting_the_wall_clock_moves_only_the_wall_clock():
    world = World(1)
    clock = VirtualClock(world, wall_offset_ms=-500)
    before_ns, before_ms = clock.now_ns(), clock.wall_ms()

    clock.step(3_600_000)

    assert before_ms == WALL_MS - 500
    assert clock.wall_ms() == before_ms + 3_600_000
    assert clock.now_ns() == before_ns


def test_a_boot_begins_anew_and_keeps_what_a_battery_keeps():
    world = World(1)
    clock = VirtualClock(world, wall_offset_ms=7, drift_ppm=100)
    world.run_until(1000 * SECOND)
    before_ns = clock.now_ns()

    clock.boot()
    world.run_until(1001 * SECOND)

    assert clock.now_ns() == UPTIME_NS + SECOND + 100_000 < before_ns
    assert clock.wall_ms() == WALL_MS + 1_001_000 + 7


def test_a_board_without_a_battery_wakes_in_1970_until_it_hears_the_time():
    world = World(1)
    clock = VirtualClock(world)
    clock.no_rtc()
    world.run_until(5 * SECOND)
    woke_ms = clock.wall_ms()

    clock.synchronise(offset_ms=-3)
    heard_ms = clock.wall_ms()
    clock.step(40)
    clock.boot()

    assert woke_ms == UPTIME_NS // 10**6 + 5000
    assert heard_ms == WALL_MS + 5000 - 3
    assert clock.wall_ms() == UPTIME_NS // 10**6
    assert not clock.synchronised


def test_the_daemons_own_floor_stands_on_it():
    """A node that wakes in 1970, or a decade ahead, goes by its floor, and by the truth once told."""
    world = World(1)
    clock = VirtualClock(world, drift_ppm=-40)
    clock.no_rtc()
    floored = FlooredClock(clock, WALL_MS - 1000, ahead_ms_max=AHEAD_S_MAX * 1000)
    world.run_until(60 * SECOND)

    assert floored.verdict() == "behind"
    assert WALL_MS - 1000 + 59_990 < floored.wall_ms() < WALL_MS - 1000 + 60_000
    clock.synchronise()
    assert floored.verdict() == "ok"
    assert floored.wall_ms() == WALL_MS + 60_000
    clock.step(10 * 365 * 24 * 3_600_000)
    assert floored.verdict() == "ahead"
    assert floored.now_ns() == clock.now_ns()


def test_timers_set_in_local_time_fire_when_the_local_clock_says_so():
    world = World(5)
    clock = VirtualClock(world, drift_ppm=-150.25)
    rng = random.Random(8)
    fired = []

    for _ in range(200):
        local_ns = clock.now_ns() + rng.randrange(100 * SECOND)
        world.at(clock.true_ns(local_ns), lambda due=local_ns: fired.append(clock.now_ns() - due))
    world.run_until(200 * SECOND)

    assert len(fired) == 200
    assert set(fired) <= {0, 1}  # a clock that runs slow shows every nanosecond, one that is fast skips some
