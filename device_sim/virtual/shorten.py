"""Shortening: the smallest run that still fails: a prefix of its time, and few of its faults.

    whole run ─► bisect its end ─► leave out all faults, one kind, halves, one by one ─► bisect again

A fault and what ends it are left out together, so what remains can be done. A run with less in it is another
run, not a part of the first: nothing promises that failing is monotone, so each step keeps only what was seen
to fail (delta debugging: Zeller, Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE TSE
28(2), 2002), and a bound on the plays ends it wherever it is then.

In: faults, how long, and a function that plays and says whether it failed alike. Not here: playing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from device_sim.faults import SECOND, Fault

PLAYS_MAX: Final = 40
"""Of one failing seed: half a minute or so at a dozen nodes."""
GRAIN_NS: Final = SECOND // 4
"""The prefix is told no finer: more plays would say nothing new."""
ENDED_BY: Final = {
    "kill": "restart", "power-cut": "restart", "pause": "resume", "partition": "heal-partition",
    "disk-full": "disk-free", "kill-gateway": "restart-gateway", "power-cut-gateway": "restart-gateway",
}  # fmt: skip
"""Faults that another one ends."""

Fails = Callable[[tuple[Fault, ...], int], bool]


class Shortened(msgspec.Struct, frozen=True, kw_only=True):
    """A smaller run that fails as the whole one does."""

    prefix_ns: int
    """Of the scenario's time: nothing is asked for and nothing breaks after it."""
    faults: tuple[Fault, ...]
    plays: int
    """So many it took."""


Unit = tuple[Fault, ...]


def units(faults: Sequence[Fault]) -> list[Unit]:
    """What is left out together: a fault with the one that ends it; ascending by its begin."""
    found: list[list[Fault]] = []
    lasting: dict[tuple[str, str], list[Fault]] = {}
    for fault in sorted(faults, key=lambda each: each.at_s):
        begun = lasting.pop((fault.member, fault.do), None)
        if begun is not None:
            begun.append(fault)
            continue
        found.append([fault])
        if fault.do in ENDED_BY:
            lasting[fault.member, ENDED_BY[fault.do]] = found[-1]
    return [tuple(each) for each in found]


def shortened(
    faults: Sequence[Fault],
    duration_ns: int,
    fails: Fails,
    *,
    first_ns: int | None = None,
    plays_max: int = PLAYS_MAX,
) -> Shortened:
    """Args:
    faults, duration_ns: of the run that failed, in the scenario's time.
    fails: plays so many faults up to that moment: does it fail alike?
    first_ns: the moment of the first violation, tried first.
    """
    search = _Search(units(faults), duration_ns, fails, plays_max)
    search.end(first_ns)
    search.leave_out()
    search.end(None)
    kept = tuple(sorted((fault for unit in search.units for fault in unit), key=lambda each: each.at_s))
    return Shortened(prefix_ns=search.until_ns, faults=kept, plays=search.plays)


class _Search:
    def __init__(self, units_: list[Unit], until_ns: int, fails: Fails, plays_max: int) -> None:
        self.units = units_
        self.until_ns = until_ns
        self.plays = 0
        self._fails = fails
        self._left = plays_max

    def _try(self, units_: list[Unit], until_ns: int) -> bool:
        """Take it if it fails."""
        if self._left <= 0:
            return False
        self._left -= 1
        self.plays += 1
        faults = sorted((fault for unit in units_ for fault in unit), key=lambda each: each.at_s)
        if not self._fails(tuple(faults), until_ns):
            return False
        self.units, self.until_ns = units_, until_ns
        return True

    def _before(self, until_ns: int) -> list[Unit]:
        """What begins by then; what ends later is ended by everything being made good."""
        kept = []
        for unit in self.units:
            left = tuple(fault for fault in unit if fault.at_s * SECOND <= until_ns)
            if left:
                kept.append(left)
        return kept

    def end(self, first_ns: int | None) -> None:
        """Bisect how long anything happens."""
        low_ns, grains = 0, self.until_ns // GRAIN_NS
        if first_ns is not None:
            guess_ns = max(0, -(-first_ns // GRAIN_NS) * GRAIN_NS)
            if guess_ns < self.until_ns:
                if self._try(self._before(guess_ns), guess_ns):
                    grains = guess_ns // GRAIN_NS
                else:
                    low_ns = guess_ns
        low, high = low_ns // GRAIN_NS, grains
        while high - low > 1 and self._left > 0:
            middle = (low + high) // 2
            if self._try(self._before(middle * GRAIN_NS), middle * GRAIN_NS):
                high = middle
            else:
                low = middle

    def leave_out(self) -> None:
        if not self.units or self._try([], self.until_ns):
            return
        for kind in sorted({unit[0].do for unit in self.units}):
            fewer = [unit for unit in self.units if unit[0].do != kind]
            if fewer and len(fewer) < len(self.units):
                self._try(fewer, self.until_ns)
        size = len(self.units) // 2
        while size >= 1 and self._left > 0:
            at = 0
            while at < len(self.units) and len(self.units) > 1 and self._left > 0:
                fewer = self.units[:at] + self.units[at + size :]
                if not (fewer and self._try(fewer, self.until_ns)):
                    at += size
            size //= 2
