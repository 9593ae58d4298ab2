"""The number of an attempt is one place's."""

from __future__ import annotations

import pytest

from device_sim.virtual.checkers import fenced
from device_sim.virtual.checkers.fenced import Fenced
from tests.support.virtual_stories import Story


def verdict(story: Story):
    return story.judged_by(Fenced())


@pytest.fixture
def story() -> Story:
    return Story().started("pi-1", "pi-2", "pi-3")


def test_another_place_under_another_number_passes(story):
    task = story.accepted(1.0, "pi-1", 1)
    story.runs(2.0, "pi-2", task, "killed", attempt=1)
    story.runs(3.0, "pi-3", task, attempt=2)

    assert (verdict(story).word, verdict(story).why) == ("passed", "2 runs")


def test_the_same_place_may_run_it_again(story):
    task = story.accepted(1.0, "pi-1", 1)
    story.runs(2.0, "pi-2", task, "died", attempt=1)
    story.runs(3.0, "pi-2", task, attempt=1)

    assert verdict(story).word == "passed"


def test_two_places_under_one_number_are_told(story):
    task = story.accepted(1.0, "pi-1", 1)
    story.runs(2.0, "pi-2", task, "killed", attempt=2)
    story.runs(3.0, "pi-3", task, attempt=2)

    assert verdict(story).violations == (f"3.000 s pi-1 {task}: attempt 2 ran on pi-2 and on pi-3",)


@pytest.mark.parametrize("fault", ["disk-full", "disk-error", "disk-flip"])
def test_an_owner_that_could_not_write_is_not_judged_any_more(story, fault):
    task = story.accepted(1.0, "pi-1", 1)
    other = story.accepted(1.0, "pi-3", 2)
    story.happens(1.5, fault, "pi-1")
    for number, owned in enumerate((task, other)):
        story.runs(2.0 + number, "pi-2", owned, attempt=1)
        story.runs(2.5 + number, "pi-3", owned, attempt=1)

    assert [line.split(" ")[2] for line in verdict(story).violations] == ["pi-3"]


def test_nothing_that_ran_is_nothing_judged(story):
    story.accepted(1.0, "pi-1", 1)

    assert (verdict(story).word, verdict(story).why) == (
        "not applicable",
        "nothing ran whose owner could write",
    )


def test_it_forgets_the_oldest_tasks(story, monkeypatch):
    monkeypatch.setattr(fenced, "KEPT_MAX", 2)
    tasks = [story.accepted(1.0 + number, "pi-1", number) for number in (1, 2, 3)]
    for task in tasks:
        story.runs(5.0, "pi-2", task)
        story.runs(6.0, "pi-3", task)

    assert verdict(story).total == 2
