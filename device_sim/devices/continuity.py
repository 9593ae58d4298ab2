"""Continuity: what became of a stream of readings on its way, from their sequence numbers alone.

    0 1 2 _ 4 3 4      3 came late (reordered, no gap in the end), 4 twice (duplicate)

Each device counts its readings from 0. The highest number seen and a window of the 1024 below it are kept, as
a replay window does (RFC 4303, section 3.4.3); what is older than the window counts as missing for good, and
as a stray if it comes yet. In: (device, seq). Out: counts. Not here: what the readings say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from security.errors import BadInput

WINDOW: Final = 1024
DEVICES_MAX: Final = 100_000
"""Ten times a world; a device costs a few hundred bytes."""


@dataclass(slots=True)
class Counts:
    """Of one device."""

    received: int = 0
    """Readings, each counted once."""
    duplicates: int = 0
    reordered: int = 0
    """Came after one with a higher number."""
    strays: int = 0
    """So late that nobody can tell whether they came before."""
    highest: int = -1

    @property
    def missing(self) -> int:
        """Up to the highest number."""
        return self.highest + 1 - self.received


class Continuity:
    """Core: told of every reading that arrives."""

    def __init__(self) -> None:
        self._counts: dict[str, Counts] = {}
        self._seen: dict[str, int] = {}  # bit n: highest - n has come

    def saw(self, device: str, seq: int) -> None:
        """Raises: BadInput: a number below 0, or more devices than DEVICES_MAX."""
        if seq < 0:
            raise BadInput(f"a reading of {device} has the number {seq}", fix="they count from 0")
        counts = self._counts.get(device)
        if counts is None:
            if len(self._counts) >= DEVICES_MAX:
                raise BadInput(f"more than {DEVICES_MAX} devices", fix="watch fewer")
            counts = self._counts[device] = Counts()
            self._seen[device] = 0
        ahead = seq - counts.highest
        if ahead > 0:
            kept = self._seen[device] << ahead if ahead < WINDOW else 0
            self._seen[device] = (kept | 1) & ((1 << WINDOW) - 1)
            counts.highest = seq
            counts.received += 1
        elif -ahead >= WINDOW:
            counts.strays += 1
        elif self._seen[device] >> -ahead & 1:
            counts.duplicates += 1
        else:
            self._seen[device] |= 1 << -ahead
            counts.received += 1
            counts.reordered += 1

    def of(self, device: str) -> Counts:
        """Nothing came: all zero."""
        return self._counts.get(device, Counts())

    @property
    def total(self) -> Counts:
        """Of all devices; `highest` is such that `missing` is all of theirs."""
        found = Counts()
        for counts in self._counts.values():
            found.received += counts.received
            found.duplicates += counts.duplicates
            found.reordered += counts.reordered
            found.strays += counts.strays
            found.highest += counts.highest + 1
        return found

    def check(self) -> None:
        for device, counts in self._counts.items():
            assert counts.missing >= 0, f"{device}: more readings than numbers"
            assert self._seen[device] & 1, f"{device}: the highest has come"
            assert self._seen[device].bit_count() <= counts.received
