"""Catalogue: which name means which code, by signed, growing versions.

Entries come in as signed bytes, from anyone; ``open_entry`` (injected: the trust rules live in ``security``)
says whether a deployer of this mesh signed them. The highest version of a name is current; a lower one is
refused, so an old entry can never be replayed: rolling back means that a deployer signs a *new* version
naming an old digest. The same version with other content is a fork, which only a broken or dishonest
deployer can produce: the first one stays and the answer says so.
Not here: bundles (``bundle``), persistence (``snapshot`` and ``restore`` are bytes for whoever keeps them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from security.errors import BadInput, EdgeweaveError, ProtocolViolation, Refused

NAMES_MAX = 4096  # a deployer's mistake must not fill a small node
HISTORY_MAX = 32  # versions kept a name
ENTRY_BYTES_MAX = 32 * 1024


class Entry(Protocol):
    """What an opened catalogue entry says (``security.signing.Entry`` fits)."""

    @property
    def mesh(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def digest(self) -> bytes: ...
    @property
    def manifest(self) -> bytes: ...
    @property
    def issued_s(self) -> int: ...
    @property
    def raw(self) -> bytes: ...


class Adopted(msgspec.Struct, frozen=True):
    """It is the current one now."""

    entry: Entry


class Known(msgspec.Struct, frozen=True):
    """Nothing new: this very entry is here."""

    entry: Entry


class Stale(msgspec.Struct, frozen=True):
    """Lower than what is here; refused."""

    name: str
    version: int
    current: int


class Fork(msgspec.Struct, frozen=True):
    """Two contents under one version: an alarm. The first one stays."""

    name: str
    version: int
    kept_digest: bytes
    other_digest: bytes


Outcome = Adopted | Known | Stale | Fork


class Catalogue:
    """Current and earlier entries of one mesh."""

    def __init__(self, mesh_id: str, open_entry: Callable[[bytes], Entry]) -> None:
        self._mesh_id = mesh_id
        self._open_entry = open_entry
        self._entries: dict[str, list[Entry]] = {}  # oldest first

    def adopt(self, data: bytes) -> Outcome:
        """Take a signed entry.

        Raises: ProtocolViolation: not signed by a deployer of this mesh, or malformed.
            Refused: the catalogue is full.
        """
        if len(data) > ENTRY_BYTES_MAX:
            raise ProtocolViolation("catalogue entry is too large")
        entry = self._open_entry(data)
        if entry.mesh != self._mesh_id:
            raise ProtocolViolation("catalogue entry is of another mesh")
        if entry.version < 1 or len(entry.digest) != 32:
            raise ProtocolViolation("catalogue entry names no version or digest")
        held = self._entries.get(entry.name)
        if held is None:
            if len(self._entries) >= NAMES_MAX:
                raise Refused("catalogue full")
            self._entries[entry.name] = [entry]
            return Adopted(entry)
        current = held[-1]
        if entry.version > current.version:
            held.append(entry)
            del held[:-HISTORY_MAX]
            return Adopted(entry)
        same = next((old for old in held if old.version == entry.version), None)
        if same is not None and (same.digest, same.manifest) != (entry.digest, entry.manifest):
            return Fork(entry.name, entry.version, same.digest, entry.digest)
        if same is current:
            return Known(current)
        return Stale(entry.name, entry.version, current.version)

    def current(self, name: str) -> Entry:
        """Raises: BadInput: no such name; the fix names the nearest one."""
        found = self.find(name)
        if found is None:
            near = self.nearest(name)
            fix = (
                f"did you mean {near!r}?" if near else "nothing is deployed yet" if not self._entries else ""
            )
            raise BadInput(f"no function {name!r:.80} is deployed", fix=fix)
        return found

    def find(self, name: str) -> Entry | None:
        held = self._entries.get(name)
        return held[-1] if held else None

    def nearest(self, name: str) -> str | None:
        import difflib  # only where a name is wrong

        found = difflib.get_close_matches(name[:128], sorted(self._entries), n=1, cutoff=0.5)
        if found:
            return found[0]
        last = name.rpartition(".")[2]  # the right function under another file's name
        return next((known for known in sorted(self._entries) if known.rpartition(".")[2] == last), None)

    def names(self) -> list[str]:
        return sorted(self._entries)

    def history(self, name: str) -> list[Entry]:
        """Newest first."""
        return list(reversed(self._entries.get(name, [])))

    def versions(self) -> list[tuple[str, int]]:
        """What I have: the argument of somebody else's ``entries_newer_than``."""
        return [(name, self._entries[name][-1].version) for name in sorted(self._entries)]

    def next_version(self, name: str) -> int:
        """The version that a deployer signs next."""
        held = self._entries.get(name)
        return held[-1].version + 1 if held else 1

    def entries_newer_than(self, have: Iterable[tuple[str, int]]) -> list[bytes]:
        """Raw current entries that the other does not have at this version or above."""
        known = dict(have)
        return [
            self._entries[name][-1].raw
            for name in sorted(self._entries)
            if self._entries[name][-1].version > known.get(name, 0)
        ]

    def digests(self) -> frozenset[bytes]:
        """Every digest that some kept version names; other bundles may be forgotten."""
        return frozenset(entry.digest for held in self._entries.values() for entry in held)

    def snapshot(self) -> list[bytes]:
        """Every kept entry, raw, in an order that ``restore`` takes."""
        return [entry.raw for name in sorted(self._entries) for entry in self._entries[name]]

    def restore(self, entries: Iterable[bytes]) -> list[str]:
        """Take back a snapshot; each entry is verified anew.

        Returns: why entries were left out (a deployer may have been removed since), one line each.
        """
        causes = []
        for data in entries:
            try:
                self.adopt(data)
            except EdgeweaveError as error:
                causes.append(error.cause)
        return causes

    def check(self) -> None:
        for name, held in self._entries.items():
            versions = [entry.version for entry in held]
            assert 1 <= len(held) <= HISTORY_MAX, "history is bounded and never empty"
            assert versions == sorted(set(versions)), "versions only grow"
            assert all(entry.name == name and entry.mesh == self._mesh_id for entry in held)
