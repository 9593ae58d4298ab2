"""Hybrid logical clock: stamps that follow wall time and never order an effect before its cause.

    stamp = milliseconds since 1970 << 16 | counter         one integer: compared, packed and sent as it is

A stamp is above everything stamped or heard here before, and as near to the wall clock as that allows
(Kulkarni, Demirbas et al., *Logical Physical Clocks*, OPODIS 2014, section 4). 65 536 stamps share a
millisecond; the next one borrows from the one after.

Causality is decided by dots, never by stamps: a stamp only chooses between writes that did not know of each
other. So a clock may be set back under a fresh writer epoch without harm to order.

In: the wall clock in milliseconds, as an argument. Not here: whose wall clock is believed, and what happens
to a stamp that is too far ahead (`replica`); where the floor lies between lives (it rides on every commit).
"""

from __future__ import annotations

from typing import Final

COUNTER_BITS: Final = 16
AHEAD_MS_MAX: Final = 60_000
"""A stamp further ahead of a trusted clock is not applied yet: it would win every conflict until then."""
STAMP_MAX: Final = 2**63 - 1


def stamp_of(ms: int, counter: int = 0) -> int:
    return ms << COUNTER_BITS | counter


def ms_of(stamp: int) -> int:
    return stamp >> COUNTER_BITS


class HybridClock:
    """Args: floor: the newest stamp that any earlier life made or heard."""

    __slots__ = ("_newest",)

    def __init__(self, floor: int = 0) -> None:
        self._newest = floor

    @property
    def newest(self) -> int:
        """What has to be on disk before a stamp leaves: the floor of the next life."""
        return self._newest

    def stamp(self, wall_ms: int) -> int:
        """For something that happens here now: above every stamp made or heard before."""
        told = stamp_of(max(wall_ms, 0))
        self._newest = told if told > self._newest else self._newest + 1
        return self._newest

    def heard(self, stamp: int) -> None:
        """Somebody's stamp was believed: all that is stamped here from now on comes after it."""
        self._newest = max(self._newest, stamp)

    def ahead_ms(self, wall_ms: int) -> int:
        """How far this clock runs before *wall_ms*; negative when it is behind."""
        return ms_of(self._newest) - wall_ms

    def set_back(self, wall_ms: int) -> None:
        """To the wall clock, when this one ran ahead. Only together with a fresh writer epoch."""
        self._newest = min(self._newest, stamp_of(max(wall_ms, 0)))


def too_far_ahead(stamp: int, trusted_ms: int) -> bool:
    return ms_of(stamp) > trusted_ms + AHEAD_MS_MAX
