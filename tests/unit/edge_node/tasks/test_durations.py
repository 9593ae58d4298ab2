"""How long tasks took: counted below bounds, without losing one."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.tasks.durations import BOUNDS_S, Durations, Histogram
from edge_node.tasks.task import Outcome, Task

TASK = Task("t", "toys.add", b"", b"", b"", "pi-1", accepted_at_ms=1_000_000)


@given(st.lists(st.floats(0, 1e5)))
def test_every_duration_is_below_each_bound_that_it_is_below(took):
    histogram = Histogram()
    for each in took:
        histogram.add(each)

    figures = histogram.figures()
    bounds = [*figures["bounds_s"], math.inf]
    assert figures["below"] == [sum(each <= bound for each in took) for bound in bounds]
    assert figures["sum_s"] == pytest.approx(sum(took))


def test_a_task_counts_as_a_whole_and_its_run_apart_from_its_queue():
    durations = Durations()

    durations.ended(TASK, Outcome("done", settled_at_ms=1_002_000, run_us=500_000))

    told = durations.figures()
    assert {name: each["sum_s"] for name, each in told.items()} == {"whole": 2.0, "run": 0.5, "queue": 1.5}


def test_what_never_ran_has_no_run():
    durations = Durations()

    durations.ended(TASK, Outcome("expired", settled_at_ms=1_060_000))

    told = durations.figures()
    assert [told[name]["below"][-1] for name in ("whole", "run", "queue")] == [1, 0, 0]
    assert told["whole"]["below"][BOUNDS_S.index(60.0)] == 1


def test_a_clock_set_back_makes_no_negative_duration():
    durations = Durations()

    durations.ended(TASK, Outcome("done", settled_at_ms=999_000, run_us=2_000_000))

    told = durations.figures()
    assert (told["whole"]["sum_s"], told["run"]["sum_s"], told["queue"]["sum_s"]) == (0.0, 2.0, 0.0)


def test_figures_are_plain_data():
    assert msgspec.json.decode(msgspec.json.encode(Durations().figures()))["whole"]["below"][-1] == 0
