"""P1 and P2 from outside: each way in which a promise can be broken is told, and no true story is."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_sim.virtual.checkers.settled_once import SettledOnce
from device_sim.virtual.evidence import Answered, Row
from tests.support.virtual_stories import Story, name_of, ns


def verdict(story: Story):
    return story.judged_by(SettledOnce())


def the_violation(story: Story) -> str:
    found = verdict(story)
    assert (found.word, found.total, len(found.violations)) == ("failed", 1, 1), found
    return found.violations[0]


@pytest.fixture
def story() -> Story:
    """One task done, one failed elsewhere, one refused."""
    told = Story().started("pi-1", "pi-2")
    told.settled(3.0, told.accepted(1.0, "pi-1", 1))
    told.settled(4.0, told.accepted(1.0, "pi-1", 2), "failed", "pi-2")
    told.answers(2.0, told.asks(1.9, "pi-2", 3), accepted=False, reason="outbox full")
    return told


def test_a_true_story_passes(story):
    found = verdict(story)

    assert (found.word, found.violations, found.why) == ("passed", (), "2 tasks")


def test_nothing_accepted_is_nothing_judged():
    story = Story().started("pi-1")
    story.answers(2.0, story.asks(1.9, "pi-1", 1), accepted=False, reason="outbox full")

    assert (verdict(story).word, verdict(story).why) == ("not applicable", "no task was accepted")


def test_running_twice_is_no_violation(story):
    story.runs(2.0, "pi-1", name_of(1), "killed")
    story.runs(2.5, "pi-2", name_of(1), "done", attempt=2)

    assert verdict(story).word == "passed"


def test_a_lost_accept_is_told(story):
    task = story.accepted(5.0, "pi-1", 4)
    story.loses("pi-1", task, 0)

    assert the_violation(story) == f"100.000 s pi-1 {task}: lost: accepted, and not on the disk"


def test_a_disk_that_cannot_be_read_has_lost_what_it_accepted(story):
    story.accepted(5.0, "pi-3", 4)
    del story.ledgers["pi-3"]

    assert "lost: accepted, and its disk cannot be read" in the_violation(story)


def test_a_disk_that_went_with_its_node_is_explained(story):
    story.accepted(5.0, "pi-3", 4)
    del story.ledgers["pi-3"]
    story.gone["pi-3"] = "kill"

    assert verdict(story).word == "passed"
    assert verdict(story).why == "3 tasks; 1 on a disk that is gone or damaged on purpose"


def test_what_a_store_damaged_on_purpose_names_may_be_missing(story):
    task = story.accepted(5.0, "pi-1", 4)
    story.loses("pi-1", task, 0)
    story.happens(6.0, "disk-flip", "pi-1")
    story.damaged["pi-1"] = [f"{task}/0: checksum"]

    assert verdict(story).word == "passed"


def test_another_tasks_damage_excuses_nothing(story):
    task = story.accepted(5.0, "pi-1", 4)
    story.loses("pi-1", task, 0)
    story.happens(6.0, "disk-flip", "pi-1")
    story.damaged["pi-1"] = [f"{name_of(1)}/-3: checksum"]

    assert "lost: accepted, and not on the disk" in the_violation(story)


def test_damage_that_nobody_did_excuses_nothing(story):
    task = story.accepted(5.0, "pi-1", 4)
    story.loses("pi-1", task, 0)
    story.damaged["pi-1"] = ["ledger.db: malformed page 3"]

    assert "lost: its store names damage that nobody did" in the_violation(story)


def test_two_terminal_records_are_told(story):
    story.keeps_end(6.0, name_of(1), "done")

    assert the_violation(story) == f"6.000 s pi-1 {name_of(1)}: two terminal records"


def test_two_accept_records_are_told(story):
    story.keeps_accept(6.0, name_of(1))

    assert "two accept records" in the_violation(story)


def test_told_twice_is_told(story):
    story.tells(7.0, name_of(1), "done")

    assert the_violation(story) == f"7.000 s pi-1 {name_of(1)}: told twice: done, then done"


def test_told_otherwise_than_recorded_is_told(story):
    task = story.accepted(5.0, "pi-1", 4)
    story.keeps_end(6.0, task, "failed")
    story.tells(6.1, task, "done")

    assert "told done at local, recorded failed at local" in the_violation(story)


def test_told_of_another_place_is_told(story):
    task = story.accepted(5.0, "pi-1", 4)
    story.keeps_end(6.0, task, "done", "pi-2")
    story.tells(6.1, task, "done", "gateway")

    assert "told done at gateway, recorded done at pi-2" in the_violation(story)


def test_a_nodes_own_place_may_bear_its_name(story):
    task = story.accepted(5.0, "pi-1", 4)
    story.keeps_end(6.0, task, "done", "local")
    story.tells(6.1, task, "done", "pi-1")

    assert verdict(story).word == "passed"


def test_told_without_a_terminal_record_is_told(story):
    task = story.accepted(5.0, "pi-1", 4)
    story.tells(6.0, task, "done")

    assert "told done, no terminal record" in the_violation(story)


def test_told_of_a_task_that_was_refused_is_told(story):
    story.tells(6.0, name_of(3), "done")

    assert "told done, never accepted" in the_violation(story)


def test_told_of_a_task_nobody_asked_for_is_told(story):
    stranger = story.asks(5.0, "pi-1", 9)
    story.tells(6.0, stranger)
    story.events = [
        event for event in story.events if getattr(event, "marker", None) is None or event.task != stranger
    ]

    assert "told, though nobody asked" in the_violation(story)


def test_answered_by_another_node_is_told(story):
    task = story.asks(5.0, "pi-1", 4)
    story.events.append(Answered(ns(5.1), "pi-2", task, True))

    assert the_violation(story) == f"5.100 s pi-2 {task}: answered by another than pi-1"


def test_answered_though_nobody_asked_is_told(story):
    story.events.append(Answered(ns(5.1), "pi-2", name_of(8), True))

    assert "answered, though nobody asked" in the_violation(story)


def test_told_by_another_node_is_told(story):
    story.events = [event for event in story.events if event.at_ns != ns(3.001)]
    story.settled(3.0, story.accepted(2.0, "pi-2", 5))
    story._tasks[name_of(1)] = ("pi-2", "")
    story.tells(3.5, name_of(1))

    assert "told by another than pi-1" in the_violation(story)


def test_a_terminal_record_without_an_accept_is_told(story):
    story.loses("pi-1", name_of(1), 0)

    assert "a terminal record without an accept" in the_violation(story)


def test_an_invented_task_is_told(story):
    story.keeps_accept(5.0, name_of(8), node="pi-1")

    assert the_violation(story).endswith("invented: nobody asked for it")


def test_an_invented_end_is_told(story):
    story.keeps_end(5.0, name_of(8), node="pi-1")

    assert "invented: ended done, nobody asked for it here" in the_violation(story)


def test_a_task_kept_by_another_node_than_asked_is_told(story):
    story.keeps_accept(5.0, name_of(1), node="pi-2")

    assert "invented: asked for at pi-1" in the_violation(story)


def test_a_task_kept_as_another_function_is_told(story):
    task = story.asks(5.0, "pi-1", 4)
    story.keeps_accept(5.0, task, function="packing/open_gate")
    story.answers(5.1, task)
    story.settled(5.2, task)

    assert "accepted as packing/open_gate of pi-1, asked for as packing/inspect_crate" in the_violation(story)


def test_refused_and_kept_is_told(story):
    story.keeps_accept(3.0, name_of(3))
    story.settled(4.0, name_of(3))

    assert "refused (outbox full), and accepted on its disk" in the_violation(story)


def test_a_refusal_for_a_failed_fsync_may_be_on_the_disk_and_then_has_to_end(story):
    task = story.asks(5.0, "pi-1", 4)
    story.answers(5.1, task, accepted=False, reason="store full")
    story.keeps_accept(5.0, task)

    story.happens(50.0, "heal")
    assert "never settled" in the_violation(story)

    story.keeps_end(20.0, task, "expired", "")
    assert verdict(story).word == "passed"


def test_a_late_record_is_told(story):
    task = story.accepted(5.0, "pi-1", 4, ttl_s=10.0)
    story.settled(26.0, task, "expired", "")

    assert the_violation(story) == (f"26.000 s pi-1 {task}: settled late, accepted at 5002 ms for 10000 ms")


def test_within_the_grace_is_in_time(story):
    story.settled(24.9, story.accepted(5.0, "pi-1", 4, ttl_s=10.0), "expired", "")

    assert verdict(story).word == "passed"


def test_who_is_told_late_shows_it_where_the_disk_does_not_tell(story):
    task = story.accepted(5.0, "pi-1", 4, ttl_s=10.0)
    story.keeps_end(None, task, "expired", "")
    story.tells(26.0, task, "expired", "")

    assert "settled late" in the_violation(story)


def test_an_end_nobody_knows_the_time_of_is_not_judged_and_said_so(story):
    story.keeps_end(None, story.accepted(5.0, "pi-1", 4, ttl_s=10.0), "expired", "")

    assert (verdict(story).word, verdict(story).why) == ("passed", "3 tasks; 1 ended nobody knows when")


@pytest.mark.parametrize(
    ("begins", "ends"),
    [
        (("crash",), ("start",)),
        (("pause", ""), ("resume", "")),
        (("disk-full", ""), ("disk-free", "")),
        (("disk-error", ""), ("disk-error", "ended")),
        (("slow", ""), ("slow", "ended")),
        (("pause", ""), ("heal", "")),
    ],
)
def test_a_node_that_cannot_act_is_not_late(story, begins, ends):
    """It is from the moment it can again."""

    def strike(at_s: float, what: tuple[str, ...]) -> None:
        if what == ("crash",):
            story.crashes(at_s, "pi-1")
        elif what == ("start",):
            story.started("pi-1", at_s=at_s)
        else:
            story.happens(at_s, what[0], "pi-1" if what[0] != "heal" else "", what[1])

    task = story.accepted(5.0, "pi-1", 4, ttl_s=10.0)
    strike(9.0, begins)
    strike(40.0, ends)
    story.keeps_end(49.0, task, "expired", "")
    assert verdict(story).word == "passed"

    story.loses("pi-1", task, 1)
    story.keeps_end(51.0, task, "expired", "")
    assert "settled late" in the_violation(story)


def test_a_restart_long_after_the_time_was_over_excuses_nothing(story):
    """It was able for 15 s and did nothing; that it was killed then does not unmake it."""
    task = story.accepted(5.0, "pi-1", 4, ttl_s=10.0)
    story.crashes(30.1, "pi-1")
    story.started("pi-1", at_s=31.0)
    story.settled(31.5, task, "expired", "")

    assert "settled late" in the_violation(story)


def test_a_fault_of_another_node_excuses_nothing(story):
    task = story.accepted(5.0, "pi-1", 4, ttl_s=10.0)
    story.happens(9.0, "pause", "pi-2")
    story.settled(26.0, task, "expired", "")

    assert "settled late" in the_violation(story)


def test_a_lying_clock_may_begin_a_tasks_time_anew_with_the_last_start(story):
    task = story.accepted(5.0, "pi-1", 4, ttl_s=20.0)
    story.crashes(20.0, "pi-1")
    story.started("pi-1", at_s=21.0)
    story.settled(50.0, task, "expired", "")
    assert "settled late" in the_violation(story)

    story.happens(20.5, "clock-step", "pi-1")
    assert verdict(story).word == "passed"


def test_a_lying_clock_gives_no_more_than_the_whole_time(story):
    task = story.accepted(5.0, "pi-1", 4, ttl_s=20.0)
    story.crashes(20.0, "pi-1")
    story.happens(20.5, "clock-step", "pi-1")
    story.started("pi-1", at_s=21.0)
    story.settled(52.0, task, "expired", "")

    assert "settled late" in the_violation(story)


def test_never_settled_is_told_once_the_run_had_time(story):
    task = story.accepted(5.0, "pi-1", 4, ttl_s=10.0)
    assert (verdict(story).word, verdict(story).why) == (
        "passed",
        "3 tasks; 1 still open",
    )  # no liveness phase

    story.happens(50.0, "heal")
    assert f"pi-1 {task}: never settled" in the_violation(story)


@pytest.mark.parametrize("how", ["gone", "down", "not yet"])
def test_open_tasks_of_one_who_is_not_there_are_explained(story, how):
    story.accepted(5.0, "pi-1", 4, ttl_s=10.0 if how != "not yet" else 91.0)
    story.happens(50.0, "heal")
    if how == "gone":
        story.gone["pi-1"] = "revoke"
    elif how == "down":
        story.crashes(8.0, "pi-1")

    assert (verdict(story).word, verdict(story).why) == ("passed", "3 tasks; 1 still open")


def test_a_record_that_cannot_be_read_is_told(story):
    rows = story.ledgers["pi-1"]
    rows[1] = Row(rows[1].task, 1, rows[1].at_ms, rows[1].state, b"\xc1", rows[1].written_ns)

    assert "its terminal record cannot be read" in the_violation(story)


def test_an_accept_that_cannot_be_read_is_told(story):
    rows = story.ledgers["pi-1"]
    rows[0] = Row(rows[0].task, 0, rows[0].at_ms, "", b"\xc1", rows[0].written_ns)

    assert "its accept record cannot be read" in the_violation(story)


def test_an_unknown_status_is_told(story):
    task = story.accepted(5.0, "pi-1", 4)
    story.settled(6.0, task, "vanished")

    assert "ended as 'vanished' and 'vanished'" in the_violation(story)


def test_the_first_twenty_are_told_and_all_are_counted(story):
    for number in range(10, 40):
        story.tells(50.0 + number, story.accepted(5.0, "pi-1", number))

    found = verdict(story)

    assert (found.word, found.total, len(found.violations), found.first_ns) == ("failed", 30, 20, ns(60.0))


@pytest.mark.slow
@settings(max_examples=50)
@given(seed=st.integers(0, 2**32))
def test_any_history_that_keeps_its_promises_passes(seed):
    """Random nodes, tasks, crashes, pauses, refusals and ends, all in time: no word against it."""
    story = honest(random.Random(seed))

    assert verdict(story).violations == ()


@pytest.mark.slow
@settings(max_examples=50)
@given(seed=st.integers(0, 2**32), which=st.sampled_from(["accept", "end", "twice", "late", "other"]))
def test_any_history_with_one_broken_promise_fails(seed, which):
    rng = random.Random(seed)
    story = honest(rng)
    task = story.accepted(1.0, "pi-0", 999, ttl_s=5.0)
    story.settled(200.0 if which == "late" else 2.0, task)
    if which == "accept":
        story.loses("pi-0", task, 0)
    elif which == "end":
        story.loses("pi-0", task, 1)
    elif which == "twice":
        story.keeps_end(3.0, task)
    elif which == "other":
        story.loses("pi-0", task, 1)
        story.keeps_end(2.0, task, "failed")

    found = verdict(story)

    assert found.word == "failed" and all(task in line for line in found.violations)


def honest(rng: random.Random) -> Story:
    """pi-0 is never struck; the others are, and come back."""
    story = Story()
    story.at_s = 400.0
    nodes = [f"pi-{n}" for n in range(rng.randint(1, 4))]
    story.started(*nodes)
    away: dict[str, tuple[float, float]] = {}
    for node in nodes[1:]:
        if rng.random() < 0.7:
            begin = rng.uniform(5.0, 60.0)
            back = begin + rng.uniform(1.0, 200.0)
            away[node] = begin, back
            if rng.random() < 0.5:
                story.crashes(begin, node, rng.choice(["kill", "power", "stop"]))
                story.started(node, at_s=back)
            else:
                story.happens(begin, "pause", node)
                story.happens(back, "resume", node)
    if rng.random() < 0.5:
        story.happens(300.0, "heal")
    for number in range(rng.randint(0, 12)):
        node = rng.choice(nodes)
        at_s, ttl_s = rng.uniform(0.0, 4.0), rng.uniform(1.0, 120.0)
        fate = rng.random()
        if fate < 0.2:
            task = story.asks(at_s, node, number, ttl_s=ttl_s)
            story.answers(at_s + 0.1, task, accepted=False, reason="outbox full")
            continue
        task = story.accepted(at_s, node, number, ttl_s=ttl_s)
        done_s = at_s + rng.uniform(0.01, 1.0) * (ttl_s + 9.0)
        begin, back = away.get(node, (0.0, 0.0))
        if begin <= done_s < back:
            done_s = back + rng.uniform(0.0, 9.0)
        status = rng.choice(["done", "failed", "expired", "cancelled", "quarantined"])
        place = rng.choice(["local", "gateway", "pi-9", ""])
        if fate < 0.8:
            story.settled(done_s, task, status, place)
        else:
            story.keeps_end(rng.choice([done_s, None]), task, status, place)
    return story
