"""Clocks of machines: each runs at its own rate, tells its own wall time, and starts anew when it boots.

    true time ── × (1 + drift) ──► now_ns: monotonic, near 0 after a boot
              ── + offset ───────► wall_ms: may be wrong, and jumps when somebody sets it

Local time is derived from true time by one integer division, so no error accumulates. Timers of a node are
set in its own time: ``true_ns`` says when they are due. A deadline that was converted before ``boot`` or
``drift`` has to be converted again. Not here: whether a wall time is believed (the daemon's own
``edge_node.clock.FlooredClock`` stands on top).
"""

from __future__ import annotations

from typing import Final

from device_sim.virtual.world import MS, World

_BILLION: Final = 1_000_000_000
UPTIME_NS: Final = 12 * _BILLION
"""What a board's monotonic clock shows when its first daemon can start."""
DRIFT_PPM_MAX: Final = 100_000
"""A tenth: far beyond any crystal (20 to 200 ppm), and time still runs forward."""


class VirtualClock:
    """An ``edge_node.clock.Clock``.

    Args:
        drift_ppm: how much faster than true time it runs; negative: slower.
        wall_offset_ms: its wall time minus true wall time.
    """

    __slots__ = ("_begin_ns", "_has_rtc", "_offset_ms", "_origin_ns", "_rate", "_synchronised", "_world")

    def __init__(self, world: World, *, drift_ppm: float = 0, wall_offset_ms: int = 0) -> None:
        self._world = world
        self._origin_ns = world.now_ns
        self._begin_ns = UPTIME_NS
        self._rate = _rate(drift_ppm)
        self._offset_ms = wall_offset_ms
        self._has_rtc = self._synchronised = True

    def now_ns(self) -> int:
        return self._begin_ns + (self._world.now_ns - self._origin_ns) * self._rate // _BILLION

    def wall_ms(self) -> int:
        if self._synchronised:
            return self._world.wall_ms + self._offset_ms
        return self.now_ns() // MS + self._offset_ms  # 1 January 1970, and what it has been up since

    def true_ns(self, local_ns: int) -> int:
        """The first moment of the world at which ``now_ns() >= local_ns``; may lie in the past."""
        return self._origin_ns - ((self._begin_ns - local_ns) * _BILLION // self._rate)

    def step(self, ms: int) -> None:
        """Somebody set the wall clock by so much; the monotonic one does not notice."""
        self._offset_ms += ms

    def drift(self, ppm: float) -> None:
        """Runs at this rate from now on, e.g. it got warm."""
        self._begin_ns, self._origin_ns = self.now_ns(), self._world.now_ns
        self._rate = _rate(ppm)

    def no_rtc(self) -> None:
        """It has no battery: it shows 1970 now, and again after each boot, until it is synchronised."""
        self._has_rtc = self._synchronised = False
        self._offset_ms = 0

    def synchronise(self, offset_ms: int = 0) -> None:
        """A time server was heard; it is right but for so much."""
        self._synchronised = True
        self._offset_ms = offset_ms

    @property
    def synchronised(self) -> bool:
        return self._synchronised

    def boot(self) -> None:
        """The machine starts again (a new process does not): monotonic time begins anew."""
        self._begin_ns, self._origin_ns = UPTIME_NS, self._world.now_ns
        if not self._has_rtc:
            self.no_rtc()


def _rate(ppm: float) -> int:
    """Local nanoseconds in a true second."""
    assert abs(ppm) <= DRIFT_PPM_MAX, "no clock drifts like that"
    return _BILLION + round(ppm * 1000)
