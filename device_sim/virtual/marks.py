"""Marks: how far a log on a modelled disk was surely fsynced, in two slots written in turn.

    512 bytes a slot: number · generation of the log · fsynced up to here · CRC-32

A mark is written after the fsync that it speaks of and is never waited for: whatever of it reaches the medium
is true, and without it the next opening believes less. Not here: the logs (`ledger_log`, `cell_log`).
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from device_sim.virtual.disk import Disk

SLOT_EVERY: Final = 512
"""Apart by a sector, so that one torn write cannot take both slots."""
_SLOT = struct.Struct(">IIQ")  # number, generation, fsynced up to here; CRC-32
_CRC = struct.Struct(">I")


class Mark:
    """Of one log. Args: name: of its file."""

    __slots__ = ("_disk", "_number", "name")

    def __init__(self, disk: Disk, name: str) -> None:
        self._disk = disk
        self._number = 0
        self.name = name

    def say(self, generation: int, safe: int) -> None:
        """So much of the log is fsynced. Not fsynced itself."""
        self._number += 1
        slot = _SLOT.pack(self._number, generation, safe)
        slot += _CRC.pack(zlib.crc32(slot))
        try:
            self._disk.write(self.name, SLOT_EVERY * (self._number & 1), slot)
        except OSError:
            pass  # a full disk: the next opening believes less

    def said(self, damaged: list[str]) -> tuple[int, int] | None:
        """(generation, up to here) by the newest slot that holds. Both broken is *damaged*; none is none."""
        if not self._disk.exists(self.name):
            return None
        found: list[tuple[int, int, int]] = []
        written = 0
        for number in range(2):
            slot = self._disk.read(self.name, SLOT_EVERY * number, _SLOT.size + _CRC.size)
            written += any(slot)
            if len(slot) < _SLOT.size + _CRC.size:
                continue
            if _CRC.unpack_from(slot, _SLOT.size)[0] == zlib.crc32(slot[: _SLOT.size]):
                found.append(_SLOT.unpack_from(slot))
        if not found:
            if written == 2:
                damaged.append(f"{self.name}: both of its slots")
            return None
        self._number, generation, safe = max(found)
        return generation, safe


def aside(disk: Disk, name: str) -> str:
    """A name beside a damaged file that nothing bears yet."""
    number = 1
    while disk.exists(found := f"{name}.damaged-{number}"):
        number += 1
    return found
