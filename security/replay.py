"""Replay window: which numbers under one key have been seen.

    too old        |<------ 1 024 numbers, one bit each ------>|
    refused        | seen: refused, unseen: taken              |top   > top: taken, the window moves

In: a sequence number whose tag was good (never before: a forger must not move the window).
Out: whether it is new. Too old counts as seen: the sender sends the content again under a new number.
"""

from __future__ import annotations

from typing import Final

WIDTH: Final = 1024
_MASK: Final = (1 << WIDTH) - 1  # one for all windows: it is as large as a window


class ReplayWindow:
    """Numbers start at 1; memory is one integer of ``width`` bits."""

    __slots__ = ("_mask", "_seen", "_top", "_width")

    def __init__(self, width: int = WIDTH) -> None:
        assert width > 0
        self._width = width
        self._mask = _MASK if width == WIDTH else (1 << width) - 1
        self._top = 0  # the highest number taken
        self._seen = 0  # bit i: top - i was taken

    @property
    def top(self) -> int:
        return self._top

    def accept(self, seq: int) -> bool:
        """True once for each number, and only while it is within the window."""
        ahead = seq - self._top
        if ahead > 0:
            self._seen = (self._seen << ahead | 1) & self._mask if ahead < self._width else 1
            self._top = seq
            return True
        bit = 1 << -ahead
        if -ahead >= self._width or seq < 1 or self._seen & bit:
            return False
        self._seen |= bit
        return True
