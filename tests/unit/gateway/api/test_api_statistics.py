"""What became of tasks, by function."""

from __future__ import annotations

import pytest

from gateway.api.faring import ENDS, by_function, quantile


def row(function, state, place="pi-1", accepted=1000, settled=0):
    return {
        "function": function, "state": state, "place": place, "accepted_at_ms": accepted,
        "settled_at_ms": settled,
    }  # fmt: skip


def test_functions_are_told_apart_and_their_ends_counted():
    rows = [
        row("toys.add", "done", settled=1010),
        row("toys.add", "done", "gateway", accepted=2000, settled=2030),
        row("toys.add", "failed", settled=9000),
        row("toys.add", "placed", ""),
        row("toys.nap", "cancelled", ""),
    ]

    add, nap = by_function(rows)

    assert (add["name"], add["tasks"], add["done"], add["failed"], add["open"]) == ("toys.add", 4, 2, 1, 1)
    assert add["places"] == {"gateway": 1, "pi-1": 2}
    assert add["last_at_ms"] == 2000
    assert (add["median_s"], add["p95_s"]) == (0.01, 0.03)
    assert (nap["median_s"], nap["cancelled"], nap["places"]) == (None, 1, {})


def test_each_task_is_counted_once_whatever_its_state():
    states = [*ENDS, "placed", "running", "waiting", "closing"]

    (told,) = by_function(row("f.f", state) for state in states)

    assert told["open"] + sum(told[end] for end in ENDS) == told["tasks"] == len(states)


def test_a_clock_that_was_set_back_makes_no_negative_time():
    (told,) = by_function([row("f.f", "done", accepted=5000, settled=4000)])

    assert told["median_s"] == 0


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.5, None),
        ([7.0], 0.95, 7.0),
        ([1.0, 2.0], 0.5, 1.0),
        ([1.0, 2.0, 3.0], 0.5, 2.0),
        ([float(n) for n in range(1, 101)], 0.95, 95.0),
        ([float(n) for n in range(1, 21)], 0.95, 19.0),
        ([float(n) for n in range(1, 22)], 0.95, 20.0),
    ],
)
def test_a_quantile_is_a_value_that_was_measured(values, share, expected):
    assert quantile(values, share) == expected
