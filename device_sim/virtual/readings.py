"""Readings: what one member made of a group's frame, for the others that read the same bytes.

    Site ─► reading(opener, unpack) ─► Node ─► groupcast      (production opens and decodes each frame itself)

A frame of presence has 18 readers or, from the gateway, a thousand, and every one of them computes the same
function of the epoch's secret and the frame. Here it is computed once: an opener is found by the key, iv, kid
and context that a reader derived for itself, so one without the secret finds nothing and none is asked for
more than it could open; an opener that fails remembers nothing. What a reader refuses (strangers, replays,
old epochs) is its own to judge, before and after. Messages are frozen, and a digest's list is only read.

Not here: sessions, whose frames have one reader.
"""

from __future__ import annotations

from typing import Any, Final

from edge_node.transport.groupcast import Reading
from edge_node.wire.codec import unpack
from security.envelope import Opener

OPENERS_MAX: Final = 4096
"""Two epochs and two lives of 1 024 members; each takes 2.6 KB. Beyond it all are forgotten and made anew."""
PLAINS_MAX: Final = 2048
"""Two frames of each member."""


class _Remembering(Opener):
    """Knows what the last parcel held."""

    __slots__ = ("_last", "_opened")

    def __init__(self, key: bytes, iv: bytes, kid: bytes, context: bytes) -> None:
        super().__init__(key, iv, kid, context)
        self._last = b""
        self._opened = (0, b"")

    def open(self, parcel: bytes) -> tuple[int, bytes]:
        if parcel != self._last or not parcel:
            self._opened = super().open(parcel)  # raises: nothing is remembered
            self._last = parcel
        return self._opened


class Readings:
    """Of one mesh."""

    def __init__(self) -> None:
        self._openers: dict[tuple[bytes, bytes, bytes, bytes], Opener] = {}
        self._plains: dict[bytes, tuple[int, list[Any]]] = {}
        self.reading = Reading(opener=self._opener, unpack=self._unpack)

    def _opener(self, key: bytes, iv: bytes, kid: bytes, context: bytes) -> Opener:
        asked = (key, iv, kid, context)
        found = self._openers.get(asked)
        if found is None:
            if len(self._openers) >= OPENERS_MAX:
                self._openers.clear()
            found = self._openers[asked] = _Remembering(key, iv, kid, context)
        return found

    def _unpack(self, plain: bytes) -> tuple[int, list[Any]]:
        found = self._plains.get(plain)
        if found is None:
            found = unpack(plain)
            if len(self._plains) >= PLAINS_MAX:
                self._plains.clear()
            self._plains[plain] = found
        return found
