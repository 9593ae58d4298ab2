"""The only place where a daemon reads the time.

``now_ns`` is monotonic and is what cores see; ``wall_ms`` is what people see and is never trusted.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def now_ns(self) -> int: ...
    def wall_ms(self) -> int: ...


class SystemClock:
    """The machine's own clocks."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


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
