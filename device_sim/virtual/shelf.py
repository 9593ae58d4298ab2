"""The shelf: documents and bundles of a machine in the world, as the node's own ports want them.

What is put here outlives the process and every power cut: the production stores fsync each of these rare
writes, and their own crash tests stand elsewhere. What is attacked in the world is the ledger and the key
store (``disk``). Bundles of equal digest are one object for the whole fleet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from edge_node.functions.bundle import Bundle, MissingBundle, digest_of

ROOT: Final = Path("/virtual/bundles")
"""No such place: who opens a bundle's path in the world has left it."""


class Table:
    """As much of a TinyDB table as the node's own rooms use, by key."""

    __slots__ = ("_key", "_rows")

    def __init__(self, key: str) -> None:
        self._key = key
        self._rows: dict[str, dict[str, Any]] = {}

    def upsert(self, document: dict[str, Any]) -> list[int]:
        self._rows[document[self._key]] = document
        return []

    def all(self) -> list[dict[str, Any]]:
        return list(self._rows.values())


class Documents:
    """Tables by name."""

    __slots__ = ("_tables",)

    def __init__(self) -> None:
        self._tables: dict[str, Table] = {}

    def table(self, name: str, *, key: str) -> Table:
        return self._tables.setdefault(name, Table(key))


class VirtualBundles:
    """Args: pool: the fleet's bundles by digest, shared by all machines."""

    __slots__ = ("_bytes", "_here", "_pool")

    def __init__(self, pool: dict[bytes, bytes]) -> None:
        self._pool = pool
        self._here: dict[bytes, None] = {}
        self._bytes = 0

    def put(self, data: bytes) -> bytes:
        digest = digest_of(data)
        if digest not in self._here:
            if digest not in self._pool:
                Bundle.from_bytes(data)
                self._pool[digest] = data
            self._here[digest] = None
            self._bytes += len(data)
        return digest

    def get(self, digest: bytes) -> bytes:
        if digest not in self._here:
            raise MissingBundle(f"bundle {digest.hex()[:12]} is not on this node")
        return self._pool[digest]

    def has(self, digest: bytes) -> bool:
        return digest in self._here

    def path(self, digest: bytes) -> Path:
        return ROOT / digest.hex()

    def verify(self) -> list[bytes]:
        return []

    def kept_bytes(self) -> int:
        return self._bytes


class NoNotes:
    """Nobody queries a node's notes in the world."""

    def peer(self, row: dict[str, Any]) -> None: ...
    def result(self, row: dict[str, Any]) -> None: ...
