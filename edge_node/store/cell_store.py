"""The port below replicated tables: cells, the log of batches, what waits, and one head; committed together.

    Commit ─► cells placed or dropped · batches logged or forgotten · batches that wait · the head
    load() ─► Image                                       all commits up to some point, each whole

Commits lie in the order in which they were given: what survives a power cut is a beginning of them. One
that was confirmed survives.

`MemoryCellStore` is the port in memory: what tests, the simulator and a node without a disk use. Not here:
what the bytes mean (`cells`, `batch`, `replica`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from edge_node.store.cells import CellId
from security.errors import EdgeweaveError

Post = Callable[..., object]
"""``post(callback, *arguments)``: call it soon, on the member's own thread."""


class Logged(NamedTuple):
    """A batch as it was signed. number: its place in the order of arrival here."""

    number: int
    node: str
    epoch: int
    first: int
    last: int
    data: bytes


class Waiting(NamedTuple):
    """A batch that may not be applied yet, kept over restarts."""

    node: str
    epoch: int
    first: int
    data: bytes


class Commit(msgspec.Struct):
    """All of it or nothing. A value of None drops what is there; head None: as it was."""

    cells: dict[CellId, bytes | None] = {}
    logged: list[Logged] = []
    forgotten: list[int] = []
    waiting: list[Waiting] = []
    released: list[tuple[str, int, int]] = []
    head: bytes | None = None
    anew: bool = False
    """Everything that lies there goes first: a snapshot takes its place."""


class Image(msgspec.Struct):
    """What a life begins with. Cells unordered, batches by number."""

    cells: list[tuple[CellId, bytes]] = []
    logged: list[Logged] = []
    waiting: list[Waiting] = []
    head: bytes | None = None


class CellStore(Protocol):
    """Raises, wherever it touches a medium: Unavailable: it cannot be read or written now."""

    @property
    def losses(self) -> str:
        """As a port's."""

    @property
    def log_bytes(self) -> int:
        """Written to a write-ahead log since it was opened."""

    def commit(self, commits: Sequence[Commit]) -> None:
        """All of these durably and in this order, or none."""

    def load(self) -> Image:
        """What lies there now; after a commit that failed, commits are taken again."""

    def tidy(self) -> bool:
        """Give a little unused space back, in some milliseconds. True: there is more."""

    def close(self) -> None: ...


class CellPort(Protocol):
    """What a member's replica commits to: never waits, answers later. ``storage.cell_thread`` on a disk."""

    @property
    def losses(self) -> str:
        """What of a damaged file was set aside when it was loaded, in a sentence; empty: nothing was."""

    def load(self) -> Image:
        """What the life begins with; blocks. Raises: Unavailable: it cannot be read."""

    def start(
        self,
        post: Post,
        on_persisted: Callable[[int], None],
        on_failed: Callable[[int, str], None],
    ) -> None:
        """From now on commits are taken. The callbacks are called through *post*, on the member's own thread.

        Args: on_persisted: all commits up to this serial are durable.   on_failed: this one, and all that
            follow until ``reload``, are not.
        """

    def append(self, serial: int, commit: Commit) -> None: ...

    def reload(self, done: Callable[[Image | EdgeweaveError], None]) -> None:
        """After a failure: what lies there now; commits are taken again if it could be read."""

    def close(self) -> None:
        """What was appended is committed first."""


class MemoryCellStore:
    """The port in memory. ``copy`` is a backup that can be restored later."""

    losses = ""
    log_bytes = 0

    def __init__(self) -> None:
        self._cells: dict[CellId, bytes] = {}
        self._log: dict[int, Logged] = {}
        self._waiting: dict[tuple[str, int, int], Waiting] = {}
        self._head: bytes | None = None

    def commit(self, commits: Sequence[Commit]) -> None:
        for each in commits:
            if each.anew:
                self._cells.clear()
                self._log.clear()
                self._waiting.clear()
            for cell, data in each.cells.items():
                if data is None:
                    self._cells.pop(cell, None)
                else:
                    self._cells[cell] = data
            for entry in each.logged:
                self._log[entry.number] = entry
            for number in each.forgotten:
                self._log.pop(number, None)
            for waiting in each.waiting:
                self._waiting[waiting[:3]] = waiting
            for key in each.released:
                self._waiting.pop(key, None)
            if each.head is not None:
                self._head = each.head

    def load(self) -> Image:
        return Image(
            list(self._cells.items()),
            [self._log[number] for number in sorted(self._log)],
            list(self._waiting.values()),
            self._head,
        )

    def tidy(self) -> bool:
        return False

    def copy(self) -> MemoryCellStore:
        other = MemoryCellStore()
        other._cells, other._log = dict(self._cells), dict(self._log)
        other._waiting, other._head = dict(self._waiting), self._head
        return other

    def close(self) -> None:
        """Nothing is held."""
