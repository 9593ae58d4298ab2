"""The archive of a machine in the world: its chronicle's entries in memory, the newest few.

It outlives the process, as the file does. Nothing of it is attacked: nothing depends on it, and the file's
own crash tests stand elsewhere. What a kill costs there (the last second) it keeps here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from device_sim.virtual.evidence import Chronicled
from edge_node.chronicle.account import Account, Books, witnessed
from edge_node.chronicle.entry import Entry, Subject

ENTRIES_MAX: Final = 400
"""A machine: about 400 bytes each, and a world may have a thousand of them."""


class MachineArchive:
    """Args: me: node id."""

    __slots__ = ("_books", "_me", "_next", "_wall_ms", "entries")

    def __init__(self, me: str) -> None:
        self._me = me
        self._next = 1
        self._books: Books | None = None
        self._wall_ms: Callable[[], int] = int
        self.entries: deque[Entry] = deque(maxlen=ENTRIES_MAX)

    def begin(self, books: Books, wall_ms: Callable[[], int]) -> None:
        """A new life of its daemon."""
        self._books = books
        self._wall_ms = wall_ms

    @property
    def forgotten(self) -> bool:
        """Has anything that was noted gone?"""
        return self._next - 1 > len(self.entries)

    def kept(self) -> Chronicled:
        """For checkers."""
        return Chronicled(tuple(self.entries), self.forgotten)

    def append(self, entries: list[Entry]) -> None:
        for entry in entries:
            self.entries.append(msgspec.structs.replace(entry, number=self._next))
            self._next += 1

    def find(self, asked: str, found: Callable[[Account], None]) -> None:
        assert self._books is not None, "its daemon runs"
        found(witnessed(self._me, asked, self, self._books, self._wall_ms()))

    # ── as `account.Kept` ───────────────────────────────────────────────────────────────────────────
    def about(self, name: str, limit: int) -> list[Entry]:
        return [each for each in self.entries if each.id == name][-limit:]

    def caused_by(self, cause: str, limit: int) -> list[Entry]:
        return [each for each in self.entries if each.cause == cause][-limit:]

    def of_nodes(self, names: Sequence[str], from_ms: int, to_ms: int, limit: int) -> list[Entry]:
        found = [
            each
            for each in self.entries
            if each.subject == Subject.NODE and each.id in names and from_ms <= each.at_ms <= to_ms
        ]
        return found[-limit:]

    def names(self, prefix: str, limit: int) -> list[str]:
        found = {name for each in self.entries for name in (each.id, each.cause) if name.startswith(prefix)}
        return sorted(found)[:limit]

    def since_ms(self) -> int:
        return self.entries[0].at_ms if self.forgotten else 0
