"""Keeping: how much of a chronicle a store holds; the oldest goes first, a block at a time.

Sizes are summed by blocks of 256 numbers, so that what is known of twenty thousand entries takes two
kilobytes of memory and a whole block is forgotten by one statement.
"""

from __future__ import annotations

from collections.abc import Iterable

ROWS_MAX = 20_000
BYTES_MAX = 8 * 2**20
"""Weeks of a quiet mesh, hours of a bad one; what a small board's card and a reader of `why` can spare."""
BLOCK = 256


class Keeping:
    """Args: blocks: (block, rows, bytes) of what lies there already, ascending; a block is number // 256."""

    def __init__(
        self,
        blocks: Iterable[tuple[int, int, int]] = (),
        *,
        rows_max: int = ROWS_MAX,
        bytes_max: int = BYTES_MAX,
    ) -> None:
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._blocks: dict[int, tuple[int, int]] = {}
        self.rows = self.bytes = 0
        for block, rows, size in blocks:
            self._blocks[block] = (rows, size)
            self.rows += rows
            self.bytes += size

    def added(self, number: int, size: int) -> None:
        rows, before = self._blocks.get(number // BLOCK, (0, 0))
        self._blocks[number // BLOCK] = (rows + 1, before + size)
        self.rows += 1
        self.bytes += size

    def forgotten_below(self) -> int:
        """Every number below this one has to go; 0: nothing is too much. The newest block always stays."""
        below = 0
        while (self.rows > self._rows_max or self.bytes > self._bytes_max) and len(self._blocks) > 1:
            oldest = next(iter(self._blocks))
            rows, size = self._blocks.pop(oldest)
            self.rows -= rows
            self.bytes -= size
            below = (oldest + 1) * BLOCK
        return below

    def check(self) -> None:
        assert self.rows == sum(rows for rows, _ in self._blocks.values())
        assert self.bytes == sum(size for _, size in self._blocks.values())
        assert list(self._blocks) == sorted(self._blocks)
