"""Retention: before which wall time settled tasks are old, whatever the clock says meanwhile.

    age is what has surely passed: the least of what the wall clock says and of what it said at the start
    plus the monotonic time since; from a clock that is years off everything known, nothing is old

A wall clock that is set forward must not age what was settled a minute ago; results would be forgotten before
anybody has asked for them. What is kept too long is still bounded by number and bytes.
"""

from __future__ import annotations

from edge_node.clock import AHEAD_S_MAX, Clock, FlooredClock
from edge_node.tasks.task import KNOWN_MS

MILLISECOND = 1_000_000


class Retention:
    """Of one process. Args: kept_s: seconds that a settled task is kept."""

    def __init__(self, clock: Clock, kept_s: float) -> None:
        self._clock = FlooredClock(clock, KNOWN_MS, ahead_ms_max=AHEAD_S_MAX * 1000)
        self._kept_ms = int(kept_s * 1000)
        self._started_ms = self._clock.wall_ms()
        self._started_ns = self._clock.now_ns()

    def before_ms(self) -> int:
        """What was settled before this wall time, in milliseconds, is old."""
        passed_ms = (self._clock.now_ns() - self._started_ns) // MILLISECOND
        return min(self._clock.wall_ms(), self._started_ms + passed_ms) - self._kept_ms
