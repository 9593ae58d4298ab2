"""How far a run is, how fast it goes, and when it will be over: the line that whoever waits looks at.

    3:20 of 10:00, 24 times as fast as life, 17 s left, 812 tasks open, 12 034 done, no violation

In: wall seconds and what has been done. Out: text. The pace is that of the last half minute: a run that
has become slow says so. Not here: clocks, terminals (``screen``).
"""

from __future__ import annotations

from collections import deque
from typing import Final

from device_sim.report.quantities import number

POINTS_MAX: Final = 30
POINT_S: Final = 1.0
"""Together half a minute."""


class Pace:
    """Args: total: what is to be done, in any unit."""

    __slots__ = ("_points", "done", "total", "wall_s")

    def __init__(self, total: float) -> None:
        self.total = total
        self.done = 0.0
        self.wall_s = 0.0
        self._points: deque[tuple[float, float]] = deque([(0.0, 0.0)], maxlen=POINTS_MAX)

    def reached(self, wall_s: float, done: float) -> None:
        """So much is done *wall_s* after the begin."""
        self.wall_s, self.done = wall_s, done
        if wall_s - self._points[-1][0] >= POINT_S:
            self._points.append((wall_s, done))

    @property
    def speed(self) -> float | None:
        """Done a second; None: it has only just begun."""
        wall_s, done = self._points[0]
        if self.wall_s - wall_s < POINT_S / 2:
            return None
        return (self.done - done) / (self.wall_s - wall_s)

    @property
    def left_s(self) -> float | None:
        """None: nobody knows."""
        if self.done >= self.total:
            return 0.0
        return (self.total - self.done) / self.speed if self.speed else None


def run_line(pace: Pace, *, open_tasks: int, done: int, violations: int) -> str:
    """Of a run in virtual time; the pace is in seconds of the fleet's time."""
    parts = [f"{clock(pace.done)} of {clock(pace.total)}"]
    if pace.speed is not None:
        parts.append(f"{number(pace.speed)} times as fast as life")
    parts += _left(pace)
    parts += [f"{number(open_tasks)} tasks open", f"{number(done)} done", _counted(violations)]
    return ", ".join(parts)


def swarm_line(pace: Pace, *, failed: int, violations: int) -> str:
    """Of many runs; the pace is in runs. Args: failed: seeds that did not hold."""
    parts = [f"{number(pace.done)} of {number(pace.total)} runs"]
    if pace.speed:
        parts.append(f"{number(pace.speed * 60)} a minute")
    parts += _left(pace)
    parts.append("all held" if not failed else f"{number(failed)} did not hold, {_counted(violations)}")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """1:02:03 or 2:03."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _left(pace: Pace) -> list[str]:
    left_s = pace.left_s
    if not left_s:
        return []
    return [f"{clock(left_s)} left" if left_s >= 60 else f"{int(left_s) + 1} s left"]


def _counted(violations: int) -> str:
    return f"{number(violations)} violation{'s' if violations > 1 else ''}" if violations else "no violation"
