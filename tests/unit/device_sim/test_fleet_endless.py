"""A fleet on a machine faster or more patient than its scenario: plans that go on, kills that find work."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

from device_sim.devices.plan import SECOND, Planned
from device_sim.fleet.members import enough
from device_sim.fleet.play import endless


def planned(due_s, first, *, whole=False):
    return Planned(due_s * SECOND, SimpleNamespace(whole=whole), first, first + 1)


def test_a_plan_goes_on_without_what_needs_a_whole_series():
    plan = [planned(0, 1), planned(3, 2), planned(5, 3, whole=True)]

    told = itertools.islice(endless(plan, 6.5, lambda: False), 5)

    assert [(each.due_ns / SECOND, each.first) for each in told] == [
        (0, 1), (3, 2), (6.5, 1), (9.5, 2), (13, 1),
    ]  # fmt: skip


def test_it_ends_when_it_is_asked_to_and_where_nothing_is_planned():
    left = iter([False, False, True])

    slowly = list(endless([planned(0, 1), planned(1, 2)], 2, lambda: next(left), slower=3))
    assert [each.due_ns / SECOND for each in slowly] == [0, 3]
    assert list(endless([planned(0, 1, whole=True)], 1, lambda: False)) == []


def test_a_kill_in_the_middle_of_work_is_content_with_less_the_longer_it_waits():
    assert [enough(12, left) for left in (1.0, 0.5, 0.25, 0.0, -1.0)] == [12, 6, 3, 1, 1]
    assert enough(1, 0.1) == 1
