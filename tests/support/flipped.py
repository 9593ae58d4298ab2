"""Every single bit of some bytes, changed."""

from __future__ import annotations

from collections.abc import Iterator


def flipped(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(the byte that was hit, all of them) for each of the 8 · len(data) bits."""
    for bit in range(8 * len(data)):
        forged = bytearray(data)
        forged[bit // 8] ^= 1 << bit % 8
        yield bit // 8, bytes(forged)
