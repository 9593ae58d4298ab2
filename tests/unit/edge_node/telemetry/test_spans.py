"""A settled task as spans, and those that wait for a collector."""

from __future__ import annotations

import pytest

from edge_node.tasks.task import Attempt, Outcome, Task
from edge_node.tasks.tracing import of_run, parent_id, span_id
from edge_node.telemetry.spans import BATCH_MAX, HOLDER_MS_MAX, WAITING_MAX, Spool, spans_of

WALL = 1_760_000_000_000
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
SECRET = "what it was given"
ATTEMPTS = (
    Attempt(1, "pi-2", 0, 0, WALL + 4000, "lapsed", WALL + 5),
    Attempt(2, "pi-3", 8, WALL + 4010, WALL + 4500, "done", WALL + 4001),
)


def a_task(trace=PARENT):
    return Task(
        "t1", "toys.nap", b"d" * 32, SECRET.encode(), b"s" * 32, "pi-1", accepted_at_ms=WALL, trace=trace
    )


def an_outcome(status="done", attempts=ATTEMPTS, place="pi-3"):
    secret = SECRET.encode()
    return Outcome(status, secret, secret, secret, WALL + 4600, attempts, place, "ran on pi-3")


def test_a_task_is_a_span_of_its_caller_with_attempts_and_runs_below():
    whole, lapsed, done, run = spans_of("pi-1", a_task(f"{PARENT} rojo=1"), an_outcome())

    assert {each.trace for each in (whole, lapsed, done, run)} == {TRACE} and run.state == "rojo=1"
    assert whole.parent == "00f067aa0ba902b7" and run.parent == done.id
    assert {lapsed.parent, done.parent} == {whole.id}
    assert [each.name for each in (whole, lapsed, done, run)] == [
        "task toys.nap", "attempt 1", "attempt 2", "run toys.nap",
    ]  # fmt: skip
    assert (whole.start_ms, whole.end_ms) == (WALL, WALL + 4600)
    assert [name for name, _ in whole.events] == ["accepted", "settled"]
    assert (lapsed.start_ms, lapsed.end_ms, lapsed.error) == (WALL + 5, WALL + 4000, "lapsed")
    assert lapsed.events == (("offered to pi-2", WALL + 5),) and lapsed.kind == "client"
    assert (run.start_ms, run.end_ms, run.kind, run.error) == (WALL + 4010, WALL + 4500, "server", "")
    assert whole.attributes["edgeweave.place"] == "pi-3" and whole.error == ""


def test_what_the_function_was_given_is_the_run_that_is_told():
    *_, run = spans_of("pi-1", a_task(), an_outcome())

    assert parent_id(of_run(PARENT, "t1", 2)) == run.id == span_id("t1", "run", 2)


def test_work_of_its_own_is_begun_and_offered_to_nobody():
    own = (Attempt(1, "pi-1", 8, WALL + 3, WALL + 9, "done", WALL + 1),)
    whole, attempt, run = spans_of("pi-1", a_task(), an_outcome(attempts=own, place="local"))

    assert whole.attributes["edgeweave.place"] == "pi-1"
    assert (attempt.kind, run.kind, attempt.events[0][0]) == ("internal", "internal", "begun here")


def test_who_records_nothing_is_told_nothing():
    assert spans_of("pi-1", a_task(PARENT[:-2] + "00"), an_outcome()) == []
    assert spans_of("pi-1", a_task(""), an_outcome()) == []


def test_a_failure_is_told_without_what_the_function_was_given_printed_or_raised():
    found = spans_of("pi-1", a_task(), an_outcome("failed"))

    assert found[0].error == "ran on pi-3"
    assert SECRET not in repr(found)


def test_a_clock_that_went_back_makes_no_span_that_ends_before_it_begins():
    wrong = (Attempt(1, "pi-2", 8, WALL - 50, WALL - 90, "done", WALL - 99),)
    outcome = Outcome("done", settled_at_ms=WALL - 5, attempts=wrong)

    assert all(each.end_ms >= each.start_ms for each in spans_of("pi-1", a_task(), outcome))


@pytest.mark.parametrize("began_ms", [-1, 2**63])
def test_times_that_no_clock_shows_make_no_run(began_ms):
    attempts = (Attempt(1, "pi-3", 8, began_ms, WALL, "done", WALL),)

    assert [each.name for each in spans_of("pi-1", a_task(), an_outcome(attempts=attempts))] == [
        "task toys.nap", "attempt 1",
    ]  # fmt: skip


def test_what_a_holder_says_of_its_end_and_its_process_is_bounded():
    attempts = (Attempt(1, "pi-3", 2**63, WALL, 2**63, "done", WALL),)
    *_, run = spans_of("pi-1", a_task(), an_outcome(attempts=attempts))

    assert (run.start_ms, run.end_ms) == (WALL, HOLDER_MS_MAX) and "process.pid" not in run.attributes


def test_spans_wait_in_bounds_and_a_task_is_dropped_as_a_whole():
    spool, spans = Spool(), spans_of("pi-1", a_task(), an_outcome())
    for _ in range(WAITING_MAX // len(spans) + 3):
        spool.put(spans)
        spool.check()

    assert spool.waiting == WAITING_MAX and spool.counts["dropped"] == 3 * len(spans)
    batch = spool.take()
    assert len(batch) == BATCH_MAX
    spool.sent(batch, True)
    spool.sent(spool.take(), False)
    assert spool.counts == {"exported": BATCH_MAX, "dropped": 12, "failed": BATCH_MAX}
    while spool.take():
        pass
    assert spool.waiting == 0
