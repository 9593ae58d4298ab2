"""The line of progress: the pace of the last half minute, seldom shown, in place on a terminal only."""

from __future__ import annotations

import io

import pytest

from device_sim.report.progress import POINTS_MAX, Pace, clock, run_line, swarm_line
from device_sim.report.quantities import THIN
from device_sim.screen import FIGURES_S, IN_PLACE_S, Screen
from device_sim.virtual.guard import guard


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def hands() -> Hands:
    return Hands()


def paced(total: float, *points: tuple[float, float]) -> Pace:
    pace = Pace(total)
    for wall_s, done in points:
        pace.reached(wall_s, done)
    return pace


def test_a_run_tells_time_speed_rest_and_tasks():
    pace = paced(600.0, (5.0, 120.0), (8.0, 200.0))

    assert run_line(pace, open_tasks=812, done=12034, violations=0) == (
        f"3:20 of 10:00, 25 times as fast as life, 17 s left, 812 tasks open, 12{THIN}034 done, no violation"
    )
    assert run_line(pace, open_tasks=0, done=0, violations=2).endswith("0 done, 2 violations")


def test_a_swarm_tells_runs_and_those_that_did_not_hold():
    pace = paced(200, (10.0, 20))

    assert swarm_line(pace, failed=0, violations=0) == "20 of 200 runs, 120 a minute, 1:30 left, all held"
    assert swarm_line(pace, failed=2, violations=3).endswith("2 did not hold, 3 violations")


def test_before_there_is_a_pace_nothing_is_guessed():
    assert run_line(paced(600.0, (0.1, 5.0)), open_tasks=0, done=0, violations=0) == (
        "0:05 of 10:00, 0 tasks open, 0 done, no violation"
    )
    assert paced(600.0, (10.0, 0.0)).left_s is None  # it stands still
    assert paced(600.0, (10.0, 600.0)).left_s == 0.0


def test_a_run_that_has_become_slow_says_so():
    pace = paced(10_000.0, *((float(second), second * 100.0) for second in range(1, 31)))
    for second in range(1, 61):
        pace.reached(30.0 + second, 3000.0 + second)

    assert pace.speed == pytest.approx(1.0)
    assert len(pace._points) == POINTS_MAX


@pytest.mark.parametrize(("seconds", "told"), [(0, "0:00"), (65.9, "1:05"), (3723, "1:02:03")])
def test_times_are_told_as_on_a_clock(seconds, told):
    assert clock(seconds) == told


def test_off_a_terminal_it_is_a_line_every_so_often(hands):
    stream = io.StringIO()
    screen = Screen(stream, clock=hands)

    for _ in range(1000):
        hands.now_s += FIGURES_S / 100
        screen.progress(lambda wall_s: f"at {wall_s:.1f}")
    screen.progress(lambda wall_s: "the end", last=True)

    lines = stream.getvalue().splitlines()
    assert len(lines) == 10 and lines[-1].endswith("the end")
    assert all(line.startswith("[") and "\r" not in line and "\x1b" not in line for line in lines)


def test_a_run_that_is_over_in_a_moment_needs_no_line(hands):
    stream = io.StringIO()
    screen = Screen(stream, clock=hands)

    screen.progress(lambda wall_s: "begun")

    assert stream.getvalue() == ""


def test_on_a_terminal_it_is_written_in_place_and_gone_at_the_end(hands, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "20")
    stream = Terminal()
    screen = Screen(stream, clock=hands)

    screen.progress(lambda wall_s: "one")
    screen.progress(lambda wall_s: "too soon")
    hands.now_s += IN_PLACE_S
    screen.progress(lambda wall_s: "two" * 20)
    screen.tell("a story")
    hands.now_s += IN_PLACE_S
    screen.progress(lambda wall_s: "three")
    screen.close()
    screen.close()

    assert stream.getvalue() == (
        "\r\x1b[2Kone\r\x1b[2K"
        + ("two" * 6)
        + "…"
        + "\r\x1b[2K[  0.2 s] a story\n"
        + "\r\x1b[2Kthree\r\x1b[2K"
    )


def test_what_is_not_shown_is_not_even_put_into_words(hands):
    def never(wall_s: float) -> str:
        raise AssertionError("nobody sees it")

    screen = Screen(io.StringIO(), clock=hands)
    for _ in range(3):
        screen.progress(never)


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_progress_is_shown_within_the_guarded_world(kind, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = kind()
    screen = Screen(stream)

    with guard():
        screen.progress(lambda wall_s: "under way", last=True)
        screen.tell("a violation")
        screen.progress(lambda wall_s: "still", last=True)
        screen.close()

    assert "under way" in stream.getvalue() and "a violation" in stream.getvalue()
