"""A battery: what a board takes out of it, and when it is empty.

Power is idle plus a share of the rest for every busy core; energy is power times time, in integer nanojoules
so that many small spans add up to what one long one costs. In: how many cores are busy, from when on. Out:
what is left, and the moment at which nothing will be. Not here: charging, a battery's age and cold.
"""

from __future__ import annotations

from typing import Final

NJ_PER_WH: Final = 3_600 * 1_000_000_000
SECOND: Final = 1_000_000_000


class Battery:
    """Args: wh: watt-hours when full, > 0.   idle_w, busy_w: watts with no core and with every core busy;
    0 <= idle_w <= busy_w.   cores: how many there are, >= 1."""

    __slots__ = ("_at_ns", "_busy", "_cores", "_idle_nw", "_left", "_more_nw", "empty")

    def __init__(self, wh: float, *, idle_w: float, busy_w: float, cores: int, now_ns: int = 0) -> None:
        assert wh > 0 and 0 <= idle_w <= busy_w and cores >= 1
        # In nanojoules · seconds⁻¹ · nanoseconds: power in nW times time in ns is left undivided till asked.
        self._left = round(wh * NJ_PER_WH) * SECOND
        self._idle_nw = round(idle_w * 1_000_000_000)
        self._more_nw = round((busy_w - idle_w) * 1_000_000_000)
        self._cores = cores
        self._busy = 0
        self._at_ns = now_ns
        self.empty = False

    def busy(self, now_ns: int, cores: int) -> None:
        """From now on so many cores are busy (more than there are count as all)."""
        self.tick(now_ns)
        self._busy = min(cores, self._cores)

    def tick(self, now_ns: int) -> bool:
        """Returns: is it empty?"""
        assert now_ns >= self._at_ns, "time goes on"
        self._left -= self._nw * (now_ns - self._at_ns)
        self._at_ns = now_ns
        if self._left <= 0:
            self._left, self.empty = 0, True
        return self.empty

    def deadline_ns(self) -> int | None:
        """When it is empty if nothing changes; None: it lasts for ever, or is empty already."""
        if self.empty or not self._nw:
            return None
        return self._at_ns + -(-self._left // self._nw)

    @property
    def left_wh(self) -> float:
        """As of the last ``tick``."""
        return self._left / SECOND / NJ_PER_WH

    def check(self) -> None:
        assert self._left >= 0 and self.empty == (self._left == 0)
        assert 0 <= self._busy <= self._cores

    @property
    def _nw(self) -> int:
        return self._idle_nw + self._more_nw * self._busy // self._cores
