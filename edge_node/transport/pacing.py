"""Pacing: how much may be on the line to the broker at a time, so that nothing waits behind it for long.

    handed(number, bytes) ─► [on the line] ─► taken(number)        room = window - bytes on the line

A socket and a broker's client take megabytes without a word; on a line of 40 kbit/s that is minutes in which
no beat, acknowledgement or key gets through. What the broker has not acknowledged (PUBACK) is on the line,
and only a window of it may be; the rest waits in its streams, where what is urgent goes first.

The window doubles while what is handed over is taken in time, and falls to what the line carried when it was
not: more than 100 ms later than the quickest answer is a queue, not a way (Brakmo and Peterson, "TCP Vegas",
1995; Nichols and Jacobson, "Controlling Queue Delay", 2012). Once a minute a full line is let run empty, to
see how quick it is (ProbeRTT of Cardwell et al., "BBR: Congestion-Based Congestion Control", 2016).

Not here: which message goes first (``channel``, ``parcels``), what a receiver can take (it acknowledges).
"""

from __future__ import annotations

from collections import deque
from typing import Final

MS: Final = 1_000_000
SECOND: Final = 1_000_000_000
WINDOW_FIRST: Final = 32 * 1024
WINDOW_MIN: Final = 4 * 1024
WINDOW_MAX: Final = 4 * 1024 * 1024
"""What 300 Mbit/s carry in 100 ms; one line fills it only if it is quicker than that."""
QUEUE_NS: Final = 100 * MS
"""How much later than the quickest answer one may come before the line counts as queueing."""
QUICKEST_NS: Final = 60 * SECOND
"""The quickest answer is of the last minute or two: ways change."""
MESSAGE_BYTES: Final = 96
"""Beside its payload: topic, MQTT and TLS heads."""


class _Handed:
    __slots__ = ("ahead", "at_ns", "number", "size", "watched")

    def __init__(self, number: int, at_ns: int, size: int, ahead: int, watched: bool) -> None:
        self.number = number
        self.at_ns = at_ns
        self.size = size
        self.ahead = ahead  # bytes on the line when it was handed over, with its own
        self.watched = watched


class Pacing:
    """Of one link; a core. Its link numbers what it is handed, and says up to which number all are taken."""

    __slots__ = (
        "_around_ns", "_before_ns", "_late_ns", "_line", "_quickest_ns", "_round", "bytes_s", "on_line",
        "window",
    )  # fmt: skip

    def __init__(self) -> None:
        self.window = WINDOW_FIRST
        self.on_line = 0
        """Bytes handed over and not taken."""
        self.bytes_s: float | None = None
        """What the line was seen to carry; None: never as much as it can."""
        self._line: deque[_Handed] = deque()
        self._quickest_ns: int | None = None  # of the present minute …
        self._before_ns: int | None = None  # … and of the one before
        self._around_ns = 0
        self._late_ns = 0
        self._round = 0  # what is handed over from here on tells of the present window

    @property
    def room(self) -> int:
        """Bytes that may be handed over now; a larger message may go if it is not 0."""
        return self.window - self.on_line if self.on_line < self.window else 0

    @property
    def untaken_since_ns(self) -> int | None:
        """When the oldest that is not taken was handed over: nothing from then on has left for certain."""
        return self._line[0].at_ns if self._line else None

    def watches(self, size: int) -> bool:
        """Shall the link tell when a message of *size* bytes is taken? Then there may be room for more."""
        return 2 * (self.on_line + size) > self.window

    def handed(self, now_ns: int, number: int, size: int, *, watched: bool) -> None:
        """*number*, of *size* bytes, went to the link. ``watched``: ``taken`` will be called at once."""
        size += MESSAGE_BYTES
        self.on_line += size
        self._line.append(_Handed(number, now_ns, size, self.on_line, watched))

    def taken(self, now_ns: int, number: int) -> None:
        """All up to *number* were taken, or ended with their connection."""
        line = self._line
        seen: _Handed | None = None
        while line and line[0].number <= number:
            one = line.popleft()
            self.on_line -= one.size
            # Of those that nobody told of at once it is not known when they were taken.
            seen = one if one.watched else None
        if seen is not None:
            self._learn(now_ns, seen)

    def restarted(self) -> None:
        """A new connection: another line, perhaps."""
        self._line.clear()
        self.on_line = 0
        self.window = WINDOW_FIRST
        self.bytes_s = self._quickest_ns = self._before_ns = None
        self._round = 0

    def _learn(self, now_ns: int, one: _Handed) -> None:
        took_ns = max(1, now_ns - one.at_ns)
        if now_ns >= self._around_ns + QUICKEST_NS:
            self._around_ns = now_ns
            self._before_ns, self._quickest_ns = self._quickest_ns, None
            if self.bytes_s is not None:
                if now_ns >= self._late_ns + QUICKEST_NS:
                    self.bytes_s *= 2  # it was not asked for as much; perhaps it has got better
                else:  # else a queue that never ends would be taken for the way
                    self._resize(WINDOW_MIN, one)
        if self._quickest_ns is None or took_ns < self._quickest_ns:
            self._quickest_ns = took_ns
        quickest_ns = self._quickest_ns
        if self._before_ns is not None and self._before_ns < quickest_ns:
            quickest_ns = self._before_ns
        late = took_ns > quickest_ns + QUEUE_NS
        if late:
            self._late_ns = now_ns
        carried = one.ahead * SECOND / took_ns
        if self.bytes_s is not None and (late or carried > self.bytes_s):
            self.bytes_s += (carried - self.bytes_s) / 4
        elif late:
            self.bytes_s = carried
        if one.number <= self._round:
            return  # handed over before the window last changed
        if late:
            self._resize(max(WINDOW_MIN, int(one.ahead * (quickest_ns + QUEUE_NS) / took_ns)), one)
        elif 4 * one.ahead >= 3 * self.window and self.window < WINDOW_MAX:  # it has tried the window
            self._resize(min(WINDOW_MAX, 2 * self.window), one)

    def _resize(self, window: int, one: _Handed) -> None:
        """What is on the line already says nothing of the new window."""
        self.window = window
        self._round = self._line[-1].number if self._line else one.number

    def check(self) -> None:
        """Invariants; raises AssertionError."""
        assert self.on_line == sum(one.size for one in self._line)
        assert WINDOW_MIN <= self.window <= WINDOW_MAX
        numbers = [one.number for one in self._line]
        assert numbers == sorted(numbers)
