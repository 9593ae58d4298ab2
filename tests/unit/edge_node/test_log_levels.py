"""Levels that are changed for a while: they go back, whatever happens in between."""

from __future__ import annotations

import logging

import pytest

from edge_node.log_levels import CHANGED_MAX, LogLevels, level_of
from security.errors import BadInput

NAME = "edge_node.levels_of_this_test"


class Later:
    """Timers that a test lets run out."""

    def __init__(self):
        self.waiting = []

    def __call__(self, seconds, what):
        timer = _Timer(self.waiting, seconds, what)
        self.waiting.append(timer)
        return timer

    def run_out(self):
        for timer in list(self.waiting):
            self.waiting.remove(timer)
            timer.what()


class _Timer:
    def __init__(self, waiting, seconds, what):
        self.waiting, self.seconds, self.what = waiting, seconds, what

    def cancel(self):
        if self in self.waiting:
            self.waiting.remove(self)


@pytest.fixture
def later():
    return Later()


@pytest.fixture
def levels(later):
    logging.getLogger(NAME).setLevel(logging.NOTSET)
    before = logging.getLogger().level
    yield LogLevels(later)
    later.run_out()
    logging.getLogger().setLevel(before)


def test_a_level_goes_back_when_its_time_is_over(levels, later):
    logging.getLogger(NAME).setLevel(logging.ERROR)

    answer = levels.asked({"logger": NAME, "level": "debug", "for_s": 30})

    assert answer == {
        "logger": NAME,
        "level": "debug",
        "changed": [{"logger": NAME, "level": "debug", "before": "error", "for_s": 30}],
    }
    assert [timer.seconds for timer in later.waiting] == [30]
    later.run_out()
    assert levels.asked({"logger": NAME}) == {"logger": NAME, "level": "error", "changed": []}


def test_a_second_change_does_not_make_the_first_the_one_to_go_back_to(levels, later):
    levels.asked({"logger": NAME, "level": "debug", "for_s": 30})
    levels.asked({"logger": NAME, "level": "warning", "for_s": 60})

    assert [timer.seconds for timer in later.waiting] == [60], "the first timer would cut the second short"
    later.run_out()
    assert logging.getLogger(NAME).level == logging.NOTSET


def test_default_goes_back_now(levels, later):
    levels.asked({"logger": NAME, "level": "debug"})

    assert levels.asked({"logger": NAME, "level": "default"})["changed"] == []
    assert later.waiting == [] and logging.getLogger(NAME).level == logging.NOTSET


def test_without_a_name_everything_is_meant_and_loggers_below_follow(levels, later):
    levels.asked({"level": "debug"})

    assert level_of(NAME) == "debug"
    later.run_out()
    assert level_of(NAME) != "debug"


def test_asking_changes_nothing_and_makes_no_logger(levels):
    assert level_of("edge_node.never_made") == ""
    with pytest.raises(BadInput, match="no logger is named"):
        levels.asked({"logger": "edge_node.never_made", "level": "debug"})

    assert "edge_node.never_made" not in logging.Logger.manager.loggerDict


@pytest.mark.parametrize(
    "params",
    [
        {"level": "loud"}, {"level": "DEBUG"}, {"level": 10}, {"logger": 3}, {"logger": "x" * 10_000},
        {"level": "debug", "for_s": 0}, {"level": "debug", "for_s": -1}, {"level": "debug", "for_s": 86_401},
        {"level": "debug", "for_s": float("nan")}, {"level": "debug", "for_s": "1h"},
        {"level": "debug", "for_s": True},
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_changes_nothing(levels, later, params):
    before = logging.getLogger().level

    with pytest.raises(BadInput):
        levels.asked(params)

    assert (logging.getLogger().level, later.waiting, levels.changed()) == (before, [], [])


def test_how_many_differ_is_bounded(levels):
    names = [f"{NAME}.{number}" for number in range(CHANGED_MAX + 1)]
    for name in names:
        logging.getLogger(name)
    for name in names[:-1]:
        levels.asked({"logger": name, "level": "debug"})

    with pytest.raises(BadInput, match="differ already"):
        levels.asked({"logger": names[-1], "level": "debug"})
    assert levels.asked({"logger": names[0], "level": "error"})["level"] == "error"
