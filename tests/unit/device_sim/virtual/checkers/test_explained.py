"""Explained (P8): refusals, ends and attempts that were not plain lead to a cause, as far as bounds go."""

from __future__ import annotations

import pytest

from device_sim.virtual.checkers.explained import Explained
from device_sim.virtual.evidence import Answered, Chronicled
from edge_node.chronicle.entry import Entry, What
from edge_node.tasks.task import Attempt, Closed, Outcome
from tests.support.virtual_stories import WALL_MS, Story, ns

CAUSE = "r-abcdef01"


@pytest.fixture
def story():
    return Story().started("pi-1", "pi-2")


def entry(what, name, *, cause="", attempt=0, subject="task"):
    return Entry(1, WALL_MS, "pi-1", subject, name, what.value, cause or name, "pi-2", attempt)


def judged(story, *entries, forgotten=False):
    return story.judged_by(Explained(), chronicles={"pi-1": Chronicled(tuple(entries), forgotten)})


def refused(story, cause=CAUSE, reason="queue full"):
    task = story.asks(1.0, "pi-1", 1)
    story.events.append(Answered(ns(1.1), "pi-1", task, False, reason, cause))
    return task


def ends(story, status, attempts, cause="because"):
    task = story.accepted(1.0, "pi-1", 1)
    outcome = Outcome(status, attempts=tuple(attempts), cause=cause, settled_at_ms=WALL_MS)
    story._keep(2.0, "pi-1", Closed(task, outcome))
    return task


def test_a_plain_task_needs_no_explanation(story):
    story.settled(2.0, story.accepted(1.0, "pi-1", 1))

    assert judged(story).word == "not applicable"


def test_a_refusal_whose_id_leads_to_an_entry_is_explained(story):
    refused(story)

    assert judged(story, entry(What.TURNED_AWAY, CAUSE, subject="refusal")).word == "passed"


def test_a_refusal_whose_id_leads_nowhere_is_found(story):
    refused(story)

    (line,) = judged(story).violations
    assert line.endswith(f"refused as {CAUSE}, which leads nowhere")


def test_what_an_archive_has_forgotten_is_not_held_against_it(story):
    refused(story)

    assert judged(story, forgotten=True).word == "passed"
    assert judged(story, entry(What.LEFT_OUT, "pi-1", cause="n-1", subject="node")).word == "passed"


@pytest.mark.parametrize(
    ("cause", "reason", "told"),
    [("", "queue full", "refused without a cause id"), (CAUSE, "", "refused without a reason")],
)
def test_a_refusal_that_says_nothing_is_found(story, cause, reason, told):
    refused(story, cause, reason)

    assert any(told in line for line in judged(story, forgotten=True).violations)


def test_an_end_without_a_sentence_is_found(story):
    ends(story, "expired", [], cause="")

    (line,) = judged(story).violations
    assert line.endswith("ended expired without a cause")


def test_a_second_attempt_needs_the_first_one_and_why_it_ended(story):
    lapsed, done = Attempt(1, "pi-2", ended_as="lapsed"), Attempt(2, "pi-2", ended_as="done")
    task = ends(story, "done", [lapsed, done])

    (line,) = judged(story).violations
    assert line.endswith("attempt 1 lapsed, and its owner's chronicle does not say why")
    assert judged(story, entry(What.LAPSED, task, attempt=1)).word == "passed"


def test_a_second_attempt_out_of_nothing_is_found(story):
    ends(story, "done", [Attempt(2, "pi-2", ended_as="done")])

    (line,) = judged(story).violations
    assert line.endswith("attempt 2 without one before it")


def test_an_attempt_that_ended_nobody_knows_how_is_found(story):
    ends(story, "failed", [Attempt(1, "pi-2")])

    (line,) = judged(story).violations
    assert line.endswith("attempt 1 ended nobody knows how")
