"""The only place where a daemon reads the time.

``now_ns`` is monotonic and is what cores see; ``wall_ms`` is what people see and is never trusted.
"""

from __future__ import annotations

import time
from typing import Final, Protocol

AHEAD_S_MAX: Final = 5 * 365 * 24 * 3600
"""A clock further ahead of everything known (the release, the last roster) is wrong: half a CA's life. A
roster signed ten years on would be adopted by every member and could never be followed by a true one."""


class Clock(Protocol):
    def now_ns(self) -> int: ...
    def wall_ms(self) -> int: ...


class SystemClock:
    """The machine's own clocks."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class FlooredClock:
    """A clock whose wall time is never before what has surely passed: a board without an RTC wakes in 1970.

    Below the floor, or beyond it by more than is believable, it runs on from the floor by the monotonic
    clock; once somebody sets the real one, that counts.
    """

    def __init__(self, clock: Clock, floor_ms: int, *, ahead_ms_max: int | None = None) -> None:
        self._clock = clock
        self._floor_ms = floor_ms
        self._ahead_ms_max = ahead_ms_max
        self._since_ns = clock.now_ns()

    def now_ns(self) -> int:
        return self._clock.now_ns()

    def wall_ms(self) -> int:
        told_ms, known_ms = self._clock.wall_ms(), self._known_ms()
        return told_ms if self._verdict(told_ms, known_ms) == "ok" else known_ms

    def told_ms(self) -> int:
        """What the machine says, believable or not: others on it go by that."""
        return self._clock.wall_ms()

    def verdict(self) -> str:
        """ "ok", "behind" or "ahead"."""
        return self._verdict(self._clock.wall_ms(), self._known_ms())

    def _known_ms(self) -> int:
        return self._floor_ms + (self._clock.now_ns() - self._since_ns) // 1_000_000

    def _verdict(self, told_ms: int, known_ms: int) -> str:
        if told_ms < known_ms:
            return "behind"
        if self._ahead_ms_max is not None and told_ms > known_ms + self._ahead_ms_max:
            return "ahead"
        return "ok"


class ManualClock:
    """A clock that moves when told; ships, because every fake does."""

    def __init__(self, now_ns: int = 0, wall_ms: int = 1_700_000_000_000) -> None:
        self._now_ns = now_ns
        self._wall_ms = wall_ms

    def now_ns(self) -> int:
        return self._now_ns

    def wall_ms(self) -> int:
        return self._wall_ms + self._now_ns // 1_000_000

    def advance(self, ns: int) -> None:
        assert ns >= 0, "monotonic time does not go back"
        self._now_ns += ns
