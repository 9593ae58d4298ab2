"""What peers give back of tasks that a damaged ledger lost: taken once, results never run again."""

from __future__ import annotations

import random

import pytest

from edge_node.tasks.desk import Append, Desk, DeskSettings, Heard, Persisted, Run, Settled, Tell, WorkDone
from edge_node.tasks.salvage import GATHER_NS, JOBS_MAX, Ask, Salvage, TakeBack
from edge_node.tasks.task import Accepted, Closed, Fenced
from edge_node.wire.codec import encode_message
from edge_node.wire.messages import HELD_BYTES_MAX, HELD_JOBS_MAX, Cancel, Held, HeldJob, Offer, Result

D = b"d" * 32
SECOND = 1_000_000_000


def job(task="t1", attempt=1, state="running", **fields):
    fields.setdefault("input", b"in")
    return HeldJob(task, attempt, "lab.f", D, state, **fields)


def asked(known=frozenset(), lost=("t1",), unnamed=True, peers=("pi-2", "pi-3")):
    salvage = Salvage("pi-1", lost=lost, unnamed=unnamed, known=lambda task: task in known)
    for peer in peers:
        assert salvage.ready(0, peer) == [Ask(peer, "")]
    return salvage


def back(salvage, now_ns=GATHER_NS):
    found = salvage.tick(now_ns, 99)
    salvage.check()
    return found


def test_a_sound_ledger_asks_nobody_and_believes_nobody():
    salvage = Salvage("pi-1", lost=(), unnamed=False, known=lambda task: False)

    assert salvage.ready(0, "pi-2") == []
    assert salvage.held(0, 0, "pi-2", Held([job()])) == []
    assert salvage.deadline_ns() is None


def test_a_result_at_one_peer_goes_before_work_at_another():
    salvage = asked()
    done = job(attempt=1, state="done", input=None, result=Result("t1", 1, "done", b"out"))
    assert salvage.held(1, 0, "pi-3", Held([job(attempt=2)])) == []
    assert salvage.held(2, 0, "pi-2", Held([done])) == []
    assert salvage.deadline_ns() == GATHER_NS

    (taken,) = back(salvage)

    assert (taken.peer, taken.attempt, taken.result.output) == ("pi-2", 1, b"out")
    assert (salvage.lost, salvage.taken) == ({}, {"t1": "pi-2"})
    assert salvage.deadline_ns() is None


def test_the_newest_attempt_counts_among_those_that_work():
    salvage = asked()
    salvage.held(1, 0, "pi-2", Held([job(attempt=1)]))
    salvage.held(1, 0, "pi-3", Held([job(attempt=4, priority=3, budget_ms=700)]))

    (taken,) = back(salvage)

    assert (taken.peer, taken.attempt, taken.runnable, taken.ended) == ("pi-3", 4, True, False)
    task = taken.task
    assert (task.id, task.origin, task.input, task.priority, task.deadline_ms) == (
        "t1",
        "pi-1",
        b"in",
        3,
        700,
    )


def test_what_is_known_here_is_passed_over_and_so_is_what_was_not_asked_for():
    salvage = asked(known={"t1"})

    assert salvage.held(1, 0, "pi-2", Held([job()])) == []
    assert salvage.held(1, 0, "stranger", Held([job("t2")])) == []

    assert back(salvage) == []


def test_where_all_that_is_lost_is_named_nobody_can_bring_in_more():
    salvage = asked(unnamed=False)
    salvage.held(1, 0, "pi-2", Held([job("t0"), job("t1"), job("t2")]))

    assert [each.task.id for each in back(salvage)] == ["t1"]


def test_who_answers_late_is_heard_at_once():
    salvage = asked()
    assert back(salvage) == []

    assert salvage.ready(9 * SECOND, "pi-4") == [Ask("pi-4", "")]
    (taken,) = salvage.held(9 * SECOND, 0, "pi-4", Held([job()]))

    assert taken.peer == "pi-4"


def test_pages_are_asked_for_to_the_end_and_a_page_twice_asks_nothing_again():
    salvage = asked(peers=("pi-2",))
    page = Held([job("t1"), job("t2")], complete=False)

    assert salvage.held(1, 0, "pi-2", page) == [Ask("pi-2", "t2")]
    assert salvage.held(1, 0, "pi-2", page) == []
    assert salvage.held(1, 0, "pi-2", Held([job("t3")])) == []
    assert [each.task.id for each in back(salvage)] == ["t1", "t2", "t3"]


def test_no_peer_can_fill_it_up():
    salvage = asked(peers=("pi-2",))
    for first in range(0, JOBS_MAX + 500, HELD_JOBS_MAX):
        salvage.held(
            1, 0, "pi-2", Held([job(f"t{n:06}") for n in range(first, first + HELD_JOBS_MAX)], False)
        )
    salvage.check()

    assert len(back(salvage)) == JOBS_MAX


# ── the desk of the owner, and of the holder ──────────────────────────────────────────────────────────


def a_desk(me):
    return Desk(me, settings=DeskSettings(workers=1), rng=random.Random(1))


def written(desk, effects):
    """What was appended, in order; all of it persisted, and what follows carried on."""
    records, settled, told = [], [], []
    todo = list(effects)
    while todo:
        effect = todo.pop(0)
        if type(effect) is Append:
            records += effect.records
            todo += desk.handle(1, 99, Persisted(effect.serial))
        elif type(effect) is Settled:
            settled.append(effect)
        elif type(effect) in (Tell, Run):
            told.append(effect)
    desk.check()
    return records, settled, told


def taken(salvaged, **fields):
    salvage = asked(peers=("pi-2",))
    salvage.held(1, 99, "pi-2", Held([salvaged]))
    (one,) = back(salvage)
    assert isinstance(one, TakeBack)
    return one


def test_a_kept_result_is_accepted_and_settled_and_never_run():
    desk = a_desk("pi-1")
    done = job(state="done", input=None, result=Result("t1", 3, "done", b"out", run_us=5))

    records, settled, told = written(desk, desk.take_back(1, 99, taken(done)))

    assert [type(record) for record in records if type(record) in (Accepted, Closed, Fenced)] == [
        Accepted,
        Closed,
    ]
    ((outcome,),) = [[each.outcome for each in settled]]
    assert (outcome.status, outcome.output, outcome.place) == ("done", b"out", "pi-2")
    assert "after the ledger was damaged" in outcome.cause
    assert told == []


def test_work_is_accepted_again_behind_a_higher_number():
    desk = a_desk("pi-1")

    records, settled, told = written(desk, desk.take_back(1, 99, taken(job(attempt=4))))

    kinds = [record for record in records if type(record) in (Accepted, Fenced)]
    assert type(kinds[0]) is Accepted and kinds[0].task.id == "t1"
    assert kinds[1].attempts[-1].number > 4
    assert settled == [] and [type(each) for each in told] == [Run] and told[0].attempt > 4


def test_taking_back_twice_changes_nothing():
    desk = a_desk("pi-1")
    one = taken(job())
    written(desk, desk.take_back(1, 99, one))

    assert desk.take_back(2, 99, one) == []


@pytest.mark.parametrize(
    ("salvaged", "cause", "cancelled"),
    [
        (job(state="done", input=None), "its result is too large to be handed back", False),
        (job(input=None, input_digest=b"i" * 32), "its arguments were lost with the ledger", True),
    ],
)
def test_what_cannot_be_gone_on_with_ends_with_its_cause(salvaged, cause, cancelled):
    desk = a_desk("pi-1")

    _, settled, told = written(desk, desk.take_back(1, 99, taken(salvaged)))

    assert (settled[0].outcome.status, cause in settled[0].outcome.cause) == ("failed", True)
    assert [type(each.message) for each in told] == [Cancel] * cancelled


def test_a_holder_tells_an_owner_of_its_own_tasks_alone():
    desk = a_desk("pi-2")
    for owner, task in (("pi-1", "t1"), ("pi-1", "t2"), ("pi-9", "t3")):
        offer = Offer(task, 1, "lab.f", D, 60_000, budget_ms=9_000, input=b"in", priority=2)
        written(desk, desk.handle(1, 99, Heard(owner, offer)))
    written(desk, desk.handle(1, 99, WorkDone("pi-1", "t1", 1, "done", b"out", run_us=9)))

    held = desk.held_of(SECOND, "pi-1", "")

    assert [(each.task, each.state, each.input) for each in held.jobs] == [
        ("t1", "done", None), ("t2", "queued", b"in"),
    ]  # fmt: skip
    assert held.jobs[0].result.output == b"out" and held.complete
    assert (held.jobs[1].priority, held.jobs[1].budget_ms) == (2, 8_001) or held.jobs[1].budget_ms <= 9_000
    assert [each.task for each in desk.held_of(1, "pi-1", "t1").jobs] == ["t2"]
    assert desk.held_of(1, "pi-7", "") == Held()


def test_a_page_of_what_is_held_counts_the_traces_too():
    desk = a_desk("pi-2")
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 a=" + "x" * 510
    for n in range(HELD_JOBS_MAX):
        offer = Offer(f"t{n:03}", 1, "lab.f", D, 60_000, input=b"in", trace=trace)
        written(desk, desk.handle(1, 99, Heard("pi-1", offer)))

    page = desk.held_of(SECOND, "pi-1", "")

    assert len(encode_message(page)) <= HELD_BYTES_MAX and not page.complete and page.jobs[0].trace == trace


def test_the_trace_comes_back_too_and_what_is_none_does_not():
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 rojo=1"
    salvage = asked()
    salvage.held(1, 0, "pi-2", Held([job("t1", trace=trace), job("t2", trace="x\0")]))

    assert [each.task.trace for each in back(salvage)] == [trace, ""]
