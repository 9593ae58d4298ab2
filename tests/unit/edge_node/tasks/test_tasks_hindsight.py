"""What placement reckoned, against what came of it."""

from __future__ import annotations

import pytest

from edge_node.scheduling.estimates import Estimates
from edge_node.scheduling.placement import Candidate, Why
from edge_node.tasks.hindsight import DECISIONS_MAX, Reckoned, hindsight, reckoned
from edge_node.tasks.rows import Stored
from edge_node.tasks.task import Attempt, Outcome, Task

PEER = Candidate("pi-1", wait_s=0.5, service_s=0.02, transfer_s=0.003)
HERE = Candidate("gateway", wait_s=1.25, service_s=0.01)


def stored(number: int, **outcome: object) -> Stored:
    task = Task(f"{number:023d}", "toys.add", b"d", b"", b"", "gateway", accepted_at_ms=1_000)
    fields = {"status": "done", "place": "pi-1", "settled_at_ms": 1_030, "run_us": 2_000, **outcome}
    return Stored(task, Outcome(**fields))


def test_the_figures_that_placement_wrote_are_read_back():
    why = Why("pi-1", "soonest", (HERE, PEER))

    assert reckoned(f"ran on {why.text()}") == (
        "soonest",
        (Reckoned("pi-1", 500.0, 20.0, 3.0), Reckoned("gateway", 1250.0, 10.0, 0.0)),
    )


def test_the_figures_of_many_places_and_of_a_task_with_a_past_are_read_back():
    peers = tuple(Candidate(f"pi-{n}", n, 0.02) for n in range(1, 9))
    cause = f"ran on {Why('pi-1', 'soonest', peers).text()}; before that: attempt 1 on pi-7: the lease lapsed"

    rule, places = reckoned(cause)

    assert rule == "soonest"
    assert [each.place for each in places] == ["pi-1", "pi-2", "pi-3", "pi-4"]


@pytest.mark.parametrize(
    "cause",
    ["", "ran on local", "its deadline of 3 s passed", "ran on a: b; c", "ran on x: y; pi-1 1.0 ms (wait ?)"],
)
def test_a_cause_without_figures_has_none(cause):
    assert reckoned(cause) == ("", ())


def test_a_task_tells_what_was_reckoned_and_what_it_took():
    cause = f"ran on {Why('pi-1', 'soonest', (HERE, PEER)).text()}"

    (told,) = hindsight("gateway", [stored(1, cause=cause)], [])["decisions"]

    assert (told["place"], told["rule"], told["whole_ms"], told["run_ms"]) == ("pi-1", "soonest", 30, 2.0)
    assert told["reckoned"][0] == {
        "place": "pi-1", "wait_ms": 500.0, "run_ms": 20.0, "way_ms": 3.0, "whole_ms": 523.0,
    }  # fmt: skip


def test_runs_are_counted_by_function_and_place_beside_what_was_learned():
    estimates = Estimates()
    for _ in range(3):
        estimates.observe("toys.add", "pi-2", 0.004, 1.0, 10)
    tasks = [stored(n, place=place) for n, place in enumerate(("pi-1", "pi-1", "pi-1", "local"))]

    cells = {each["place"]: each for each in hindsight("gateway", tasks, estimates.learned())["cells"]}

    assert (cells["pi-1"]["runs"], cells["pi-1"]["share"], cells["pi-1"]["run_ms"]) == (3, 0.75, 2.0)
    assert cells["gateway"]["share"] == 0.25
    assert (cells["pi-2"]["runs"], cells["pi-2"]["learned_ms"], cells["pi-2"]["learned_runs"]) == (0, 4.0, 3)


def test_attempts_that_came_to_nothing_are_counted_by_reason_and_place():
    lapsed = Attempt(1, "pi-3", 0, 0, 5, "lapsed")
    refused = Attempt(2, "pi-2", 0, 0, 6, "refused: queue full")
    ended = stored(1, attempts=(lapsed, refused, Attempt(3, "pi-1", 11, 7, 9, "done")))
    still_open = Stored(ended.task, None, (refused, Attempt(3, "pi-1")))

    told = hindsight("gateway", [ended, still_open], [])

    assert told["refusals"] == [
        {"reason": "queue full", "place": "pi-2", "count": 2},
        {"reason": "lapsed", "place": "pi-3", "count": 1},
    ]
    assert [each["attempts"] for each in told["decisions"]] == [3]


def test_a_task_that_never_ran_is_no_decision():
    assert hindsight("gateway", [stored(1, place="", status="expired")], [])["decisions"] == []


def test_no_more_tasks_are_looked_at_than_are_told():
    read = []

    def tasks():
        for n in range(DECISIONS_MAX + 50):
            read.append(n)
            yield stored(n)

    told = hindsight("gateway", tasks(), [])

    assert len(told["decisions"]) == DECISIONS_MAX == len(read)
