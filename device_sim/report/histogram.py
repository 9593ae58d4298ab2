"""Durations counted in bins that grow by a tenth: bounded memory, and percentiles to within 5 %.

Bin i holds what is above bound i - 1 and at most bound i. The bounds are integers, each the one below times
1.1, from a microsecond to eleven days; so the same durations fill the same bins on every machine. A
percentile is told as the geometric middle of its bin, but never outside of what was seen: at most 4.9 %
from the true one, as sqrt(1.1) = 1.0488.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import sqrt
from typing import Final

MS: Final = 1_000_000
LEAST_NS: Final = 1_000
MOST_NS: Final = 1_000_000 * 1_000_000_000
ERROR: Final = 0.049
"""Of a percentile, relative."""

Bins = Sequence[tuple[float, int]]
"""(upper bound in milliseconds, how many), ascending, as a record holds them."""


def _bounds() -> list[int]:
    found = [LEAST_NS]
    while found[-1] < MOST_NS:
        found.append(found[-1] * 11 // 10)
    return found


BOUNDS_NS: Final = _bounds()


class Histogram:
    """Of durations in nanoseconds."""

    __slots__ = ("_bins", "count", "max_ns", "min_ns", "sum_ns")

    def __init__(self) -> None:
        self._bins: dict[int, int] = {}
        self.count = 0
        self.sum_ns = 0
        self.min_ns = 0
        self.max_ns = 0

    def add(self, ns: int) -> None:
        ns = max(0, ns)
        index = min(bisect_left(BOUNDS_NS, ns), len(BOUNDS_NS) - 1)
        self._bins[index] = self._bins.get(index, 0) + 1
        self.min_ns = min(self.min_ns, ns) if self.count else ns
        self.max_ns = max(self.max_ns, ns)
        self.count += 1
        self.sum_ns += ns

    @property
    def bins(self) -> list[tuple[float, int]]:
        return [(BOUNDS_NS[index] / MS, self._bins[index]) for index in sorted(self._bins)]

    @property
    def mean_ms(self) -> float | None:
        """Exact; None of nothing."""
        return self.sum_ns / self.count / MS if self.count else None

    def percentile_ms(self, share: float) -> float | None:
        """By nearest rank, to within ERROR; None of nothing."""
        found = percentile(self.bins, share)
        return None if found is None else min(max(found, self.min_ns / MS), self.max_ns / MS)


def merged(some: Iterable[Bins]) -> list[tuple[float, int]]:
    """All of them as one."""
    counts: dict[float, int] = {}
    for bins in some:
        for bound, count in bins:
            counts[bound] = counts.get(bound, 0) + count
    return sorted(counts.items())


def percentile(bins: Bins, share: float) -> float | None:
    """By nearest rank: the geometric middle of the bin that holds it, in milliseconds; None of nothing."""
    total = sum(count for _, count in bins)
    if not total:
        return None
    rank = max(1, -(-round(share * 10_000) * total // 10_000))
    for (bound, _), upto in zip(bins, accumulate(count for _, count in bins), strict=True):
        if upto >= rank:
            return bound / sqrt(1.1)
    raise AssertionError("a rank beyond the last")


def binned(durations_ms: Iterable[float]) -> Histogram:
    """Of durations that are at hand as a whole."""
    found = Histogram()
    for ms in durations_ms:
        found.add(round(ms * MS))
    return found
