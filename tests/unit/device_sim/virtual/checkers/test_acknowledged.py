"""P3 from outside: what was acknowledged before a crash is on that disk, or the damage is named."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_sim.virtual.checkers.acknowledged import Acknowledged
from tests.support.virtual_stories import Story, name_of


def verdict(story: Story):
    return story.judged_by(Acknowledged())


def the_violation(story: Story) -> str:
    found = verdict(story)
    assert (found.word, found.total) == ("failed", 1), found
    return found.violations[0]


@pytest.fixture(params=["kill", "power"])
def story(request) -> Story:
    """One task told, one accepted and still open when pi-1 crashed."""
    told = Story().started("pi-1", "pi-2")
    told.settled(3.0, told.accepted(1.0, "pi-1", 1))
    told.accepted(2.0, "pi-1", 2)
    told.crashes(10.0, "pi-1", request.param)
    told.started("pi-1", at_s=12.0)
    return told


def test_what_survives_passes(story):
    assert (verdict(story).word, verdict(story).why) == ("passed", "3 acknowledgements survived")


@pytest.mark.parametrize("how", ["", "stop"])
def test_without_a_hard_crash_there_is_nothing_to_judge(how):
    story = Story().started("pi-1")
    story.settled(3.0, story.accepted(1.0, "pi-1", 1))
    if how:
        story.crashes(10.0, "pi-1", how)

    assert verdict(story).word == "not applicable"
    assert verdict(story).why == "nobody was killed or cut off from power after an acknowledgement"


def test_a_crash_before_anything_was_acknowledged_is_nothing_to_judge():
    story = Story().started("pi-1")
    story.crashes(0.5, "pi-1")
    story.accepted(1.0, "pi-1", 1)

    assert verdict(story).word == "not applicable"


def test_a_lost_accept_is_told(story):
    story.loses("pi-1", name_of(2), 0)

    how = next(event.how for event in story.events if hasattr(event, "how"))
    expected = f"10.000 s pi-1 {name_of(2)}: acknowledged, and lost in a {how}: its accept"
    assert the_violation(story) == expected


def test_a_lost_end_that_was_told_is_told(story):
    story.loses("pi-1", name_of(1), 1)

    assert "that it ended done" in the_violation(story)


def test_an_end_that_became_another_in_the_crash_is_told(story):
    story.loses("pi-1", name_of(1), 1)
    story.keeps_end(13.0, name_of(1), "expired")
    story.ledgers["pi-1"][-1] = _undated(story.ledgers["pi-1"][-1])

    assert "told done before the" in the_violation(story) and "expired after it" in the_violation(story)


def test_what_was_not_acknowledged_yet_may_be_gone(story):
    story.asks(9.9, "pi-1", 3)

    assert verdict(story).word == "passed"


def test_what_was_acknowledged_after_the_last_crash_is_not_judged_here(story):
    story.loses("pi-1", story.accepted(20.0, "pi-1", 3), 0)

    assert verdict(story).word == "passed"


def test_the_last_of_several_crashes_counts(story):
    story.loses("pi-1", story.accepted(20.0, "pi-1", 3), 0)
    story.crashes(30.0, "pi-1")

    assert "30.000 s pi-1" in the_violation(story)


def test_an_end_told_after_the_last_crash_is_not_judged_here(story):
    story.settled(20.0, name_of(2))
    story.loses("pi-1", name_of(2), 1)

    assert verdict(story).word == "passed"


def test_what_was_said_in_the_moment_of_the_crash_was_said(story):
    for number, kind in ((3, 0), (4, 1)):
        task = story.asks(9.9, "pi-1", number)
        story.keeps_accept(9.9, task)
        story.answers(10.0, task)
        story.keeps_end(9.95, task)
        story.tells(10.0, task)
        story.loses("pi-1", task, kind)

    lines = verdict(story).violations

    assert [line.rpartition(": ")[2] for line in lines] == ["its accept", "that it ended done"]


def test_said_in_the_moment_in_which_the_disk_has_it_is_in_order(story):
    task = story.asks(20.0, "pi-2", 3)
    story.keeps_accept(20.1, task)
    story.answers(20.1, task)
    story.keeps_end(20.2, task)
    story.tells(20.2, task)

    assert verdict(story).word == "passed"


def test_accepted_before_it_was_on_the_disk_is_told(story):
    task = story.asks(20.0, "pi-2", 3)
    story.answers(20.1, task)
    story.keeps_accept(20.2, task)

    expected = f"20.100 s pi-2 {task}: accepted before it was on the disk, at 20.200 s"
    assert the_violation(story) == expected


def test_told_before_it_was_on_the_disk_is_told(story):
    task = story.accepted(20.0, "pi-2", 3)
    story.tells(21.0, task)
    story.keeps_end(21.5, task)

    assert "told done before it was on the disk, at 21.500 s" in the_violation(story)


def test_a_disk_that_does_not_tell_when_is_not_asked(story):
    task = story.asks(20.0, "pi-2", 3)
    story.answers(20.1, task)
    story.keeps_accept(20.2, task, known=False)

    assert verdict(story).word == "passed"


def test_damage_on_purpose_that_is_named_is_explained(story):
    story.happens(11.0, "disk-zero", "pi-1")
    story.ledgers["pi-1"].clear()
    story.damaged["pi-1"] = ["ledger.db: file is not a database"]

    assert (verdict(story).word, verdict(story).why) == ("passed", "0 acknowledgements survived; 3 explained")


def test_a_damaged_store_that_names_nothing_was_silently_emptied(story):
    story.happens(11.0, "disk-zero", "pi-1")
    story.loses("pi-1", name_of(2), 0)

    expected = "silently emptied: its damaged store lacks its accept and does not name it"
    assert expected in the_violation(story)


def test_damage_that_is_named_and_was_not_done_explains_nothing(story):
    story.loses("pi-1", name_of(2), 0)
    story.damaged["pi-1"] = ["ledger.db: file is not a database"]

    assert "acknowledged, and lost in a" in the_violation(story)


def test_a_disk_that_cannot_be_read_has_lost_it(story):
    del story.ledgers["pi-1"]

    assert verdict(story).total == 3
    assert all("no disk can be read after a" in line for line in verdict(story).violations)


def test_a_disk_that_was_taken_away_with_its_node_is_explained(story):
    del story.ledgers["pi-1"]
    story.gone["pi-1"] = "kill"
    story.crashes(20.0, "pi-2")
    story.accepted(19.0, "pi-2", 3)

    assert verdict(story).word == "passed"


def _undated(row):
    return type(row)(row.task, row.kind, row.at_ms, row.state, row.body, None)


@pytest.mark.slow
@settings(max_examples=50)
@given(seed=st.integers(0, 2**32), lost=st.booleans())
def test_a_random_history_passes_until_one_acknowledged_row_goes(seed, lost):
    rng = random.Random(seed)
    story = Story()
    acknowledged = []
    for node in ("pi-1", "pi-2"):
        story.started(node)
        crashes = sorted(rng.uniform(5.0, 80.0) for _ in range(rng.randint(1, 4)))
        for at_s in crashes:
            story.crashes(at_s, node, rng.choice(["kill", "power"]))
            story.started(node, at_s=at_s + 0.5)
        for _ in range(rng.randint(1, 6)):
            at_s = rng.uniform(0.0, 90.0)
            task = story.accepted(at_s, node, rng.randrange(2**40))
            if at_s + 0.002 <= crashes[-1]:
                acknowledged.append((node, task, 0))
            if rng.random() < 0.7:
                told_s = at_s + rng.uniform(0.01, 5.0)
                story.settled(told_s, task)
                if told_s + 0.001 <= crashes[-1]:
                    acknowledged.append((node, task, 1))
    if lost and acknowledged:
        node, task, kind = rng.choice(acknowledged)
        story.loses(node, task, kind)

        assert task in the_violation(story)
    else:
        assert verdict(story).word == ("passed" if acknowledged else "not applicable")
