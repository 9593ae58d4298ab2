"""Bodies in memory: large inputs and outputs that peers may fetch, and those that were fetched.

What belongs to an open task is held until the task lets go of it; everything else is a cache, bounded in
bytes, least recently used out. Bundles are not here: they lie on the disk (`functions.bundle`).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict


class Bodies:
    """Bodies that peers may fetch, and bodies that were fetched: bounded, least recently used out."""

    def __init__(self, bytes_max: int) -> None:
        self._max = bytes_max
        self._bytes = 0
        self._cache: OrderedDict[bytes, bytes] = OrderedDict()
        self._held: dict[bytes, tuple[bytes, int]] = {}

    def keep(self, body: bytes) -> bytes:
        digest = hashlib.sha256(body).digest()
        if digest not in self._cache:
            self._cache[digest] = body
            self._bytes += len(body)
            while self._bytes > self._max and len(self._cache) > 1:
                _, old = self._cache.popitem(last=False)
                self._bytes -= len(old)
        return digest

    def hold(self, digest: bytes, body: bytes) -> None:
        """Keep until as many ``release``: the input of a task that we own."""
        _, count = self._held.get(digest, (body, 0))
        self._held[digest] = (body, count + 1)

    def release(self, digest: bytes) -> None:
        body, count = self._held.get(digest, (b"", 0))
        if count > 1:
            self._held[digest] = (body, count - 1)
        else:
            self._held.pop(digest, None)

    def get(self, digest: bytes) -> bytes | None:
        held = self._held.get(digest)
        if held is not None:
            return held[0]
        body = self._cache.get(digest)
        if body is not None:
            self._cache.move_to_end(digest)
        return body
