"""The journal: the ledger's records on a disk, many to an fsync.

A shell. `append` never waits: a thread of its own takes everything that has gathered, writes it as one
statement (one transaction, one fsync of the WAL) and reports the serials back on the event loop. One
statement, because a thread that talks to SQLite row by row must win the interpreter back from a busy event
loop after every row, up to 5 ms each time.

`MemoryJournal` keeps the same promises for as long as the process lives; it is for tests and for nodes that
are told to promise nothing beyond that. Not here: what to write (`ledger`), what a row is and how it is read
(`rows`), the file (`edge_node.store.ledger`), when to prune (the agent).
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from typing import TYPE_CHECKING

import msgspec

from edge_node.store.ledger import SqliteLedger
from edge_node.store.mark import UNDER_WAY, beside
from edge_node.tasks.rows import (
    NOTES_PER_TASK_MAX,
    Gathering,
    JournalPort,
    Loss,
    Page,
    Reading,
    Stored,
    StoreDamaged,
    Summary,
    aged,
    is_of,
    summary_of,
)
from edge_node.tasks.task import Accepted, Attempt, Closed, Fenced, Noted, Record, Task
from security.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from edge_node.store.recovery import Losses

__all__ = ["Journal", "JournalPort", "MemoryJournal", "StoreDamaged", "Stored", "Summary", "open_journal"]

NAMED_MAX = 100
"""Lines of one damage that `status` shows; the file beside the ledger has them all."""
ASKED_MS_MAX = 24 * 3600 * 1000
"""Peers are asked for what a damage took by every start of so long after it."""

log = logging.getLogger(__name__)


class Journal(Reading):
    """The records of one node in one SQLite file.

    Args: open_store: opens the file; for tests that stand below it.
    Raises (constructor): BadInput: a file of another mesh, another node or a newer version.
    StoreDamaged: not a database, or a torn one. Unavailable: it cannot be opened or written at all.
    """

    def __init__(
        self,
        path: Path,
        mesh_id: str,
        node_id: str,
        *,
        open_store: Callable[[Path, str, str], SqliteLedger] = SqliteLedger,
    ) -> None:
        store = open_store(path, mesh_id, node_id)
        super().__init__(store)
        self._store: SqliteLedger = store
        self.damaged += store.damaged
        self.losses: tuple[Losses, ...] = ()
        """What damage took, that peers may still give back."""
        self.bytes_written = 0  # bodies, for the wear figure
        self._queue: queue.SimpleQueue[tuple[int, tuple[Record, ...]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def log_bytes(self) -> int:
        """Written to the write-ahead log since the start."""
        return self._store.log_bytes

    def start(
        self,
        post: Callable[..., object],
        on_persisted: Callable[[list[int]], None],
        on_failed: Callable[[list[int], str], None],
    ) -> None:
        """Callbacks come through `post`, a loop's ``call_soon_threadsafe``, in the order of the appends."""
        assert self._thread is None, "started once"
        self._thread = threading.Thread(
            target=self._write, args=(post, on_persisted, on_failed), name="journal", daemon=True
        )
        self._thread.start()

    def append(self, serial: int, records: tuple[Record, ...]) -> None:
        assert not self._closed, "closed"
        self._queue.put((serial, records))

    def _write(
        self,
        post: Callable[..., object],
        on_persisted: Callable[[list[int]], None],
        on_failed: Callable[[list[int], str], None],
    ) -> None:
        take = self._queue.get
        gathering = Gathering()
        stop = False
        while not stop:
            item = take()
            if item is None:
                return
            while item is not None:
                if gathering.add(*item):
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                stop = item is None
            failure, size = gathering.unwritable, gathering.size
            if gathering.rows and not failure:
                try:
                    self._store.insert(gathering.rows)
                except Unavailable as error:
                    failure = error.cause
                except Exception as error:  # a mistake of ours: without this thread nothing would be kept
                    log.exception("the ledger could not be written")
                    failure = f"{type(error).__name__}: {error}"
            serials = gathering.settle(failure)
            with contextlib.suppress(RuntimeError):  # the loop is gone; so is everybody who would listen
                if failure:
                    post(on_failed, serials, failure)
                else:
                    self.bytes_written += size
                    post(on_persisted, serials)

    def close(self) -> None:
        """Write what was appended, then let go of the file. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join()
        self._store.close()


def open_journal(path: Path, mesh_id: str, node_id: str, *, now_ms: int) -> Journal:
    """A member's journal; a damaged file is set aside and what can be read of it goes on (promise P6).

    `losses` and `damaged` tell what could not. Args: now_ms: wall time.
    Raises: BadInput: a file of another mesh, another node or a newer version. Unavailable: it cannot be
    opened, written, or set aside.
    """
    try:
        if beside(path, UNDER_WAY).exists():
            raise StoreDamaged("")
        journal = Journal(path, mesh_id, node_id)
    except StoreDamaged as damage:
        from edge_node.store import recovery

        recovery.recover(path, mesh_id, node_id, damage.cause)
        journal = Journal(path, mesh_id, node_id)
    recent = _recent_losses(path, now_ms)
    for losses in recent:
        named = [f"{losses.aside}: {gap}" for gap in losses.gaps[:NAMED_MAX]]
        more = len(losses.gaps) - len(named)
        journal.damaged.append(f"set aside as {losses.aside}, {losses.rows_kept} rows saved: {losses.cause}")
        journal.damaged += [*named, f"{losses.aside}: {more} gaps more"] if more > 0 else named
    journal.losses = tuple(losses for losses in recent if losses.lost or losses.unnamed)
    return journal


def _recent_losses(path: Path, now_ms: int) -> list[Losses]:
    if not any(path.parent.glob(f"{path.name}.damaged-*")):
        return []
    from edge_node.store import recovery  # it and the reading of pages: nothing that most daemons ever need

    return [losses for losses in recovery.told(path) if now_ms - losses.at_ms < ASKED_MS_MAX]


class MemoryJournal:
    """The same port over a dict; persists when what it posts is called. `full` makes every write fail."""

    def __init__(self) -> None:
        self.damaged: list[str] = []
        self.losses: tuple[Loss, ...] = ()
        self.full = False
        self._stored: dict[str, Stored] = {}
        self._post: Callable[..., object] | None = None
        self._pending: list[int] = []

    def start(
        self,
        post: Callable[..., object],
        on_persisted: Callable[[list[int]], None],
        on_failed: Callable[[list[int], str], None],
    ) -> None:
        self._post = post
        self._on_persisted = on_persisted
        self._on_failed = on_failed

    def append(self, serial: int, records: tuple[Record, ...]) -> None:
        assert self._post is not None, "started first"
        if self.full:
            self._flush()
            self._post(self._on_failed, [serial], "the journal is full")
            return
        for record in records:
            self.write(record)
        if not self._pending:
            self._post(self._flush)
        self._pending.append(serial)

    def _flush(self) -> None:
        serials, self._pending = self._pending, []
        if serials:
            self._on_persisted(serials)

    def write(self, record: Record) -> None:
        """Remember one record; a second accept or terminal record changes nothing."""
        if type(record) is Accepted:
            self._stored.setdefault(record.task.id, Stored(record.task, None))
            return
        assert not isinstance(record, Accepted)
        stored = self._stored.get(record.task_id)
        if stored is None:
            return
        if type(record) is Closed:
            if stored.outcome is None:
                stored = msgspec.structs.replace(stored, outcome=record.outcome)
        elif type(record) is Fenced:
            stored = msgspec.structs.replace(stored, attempts=record.attempts)
        else:
            assert isinstance(record, Noted)
            if len(stored.notes) < NOTES_PER_TASK_MAX and record not in stored.notes:
                stored = msgspec.structs.replace(stored, notes=(*stored.notes, record))
        self._stored[record.task_id] = stored

    def open_tasks(self) -> list[tuple[Task, list[Attempt]]]:
        return [(s.task, list(s.attempts)) for s in self._stored.values() if s.outcome is None]

    def get(self, task_id: str) -> Stored | None:
        return self._stored.get(task_id)

    def ids(self, prefix: str, limit: int) -> Sequence[str]:
        return sorted(each for each in self._stored if each.startswith(prefix))[:limit]

    def list(self, limit: int = 100, state: str = "") -> list[Summary]:
        found = [summary_of(stored) for stored in reversed(self._stored.values())]
        return [summary for summary in found if state in ("", summary.state)][:limit]

    def page(
        self,
        after: str = "",
        *,
        limit: int = 100,
        state: str = "",
        function: str = "",
        node: str = "",
        least: str = "",
        owner: str = "",
    ) -> Page:
        found = []
        for task_id in sorted(self._stored, reverse=True):
            stored = self._stored[task_id]
            summary = summary_of(stored)
            among = least <= task_id and (not after or task_id < after) and state in ("", summary.state)
            if among and is_of(stored, function, node):
                found.append(summary)
        return Page(found[:limit], found[limit - 1].id if len(found) > limit else "")

    def prune(self, *, count_max: int, bytes_max: int, before_ms: int) -> int:
        settled = [s for s in reversed(self._stored.values()) if s.outcome is not None]
        settled.sort(key=lambda s: -s.outcome.settled_at_ms if s.outcome else 0)
        kept = size = gone = 0
        for stored in settled:
            assert stored.outcome is not None
            length = len(stored.task.input) + len(stored.outcome.output)
            old = aged(stored.outcome.settled_at_ms, before_ms)
            if kept >= count_max or size + length > bytes_max or old:
                del self._stored[stored.task.id]
                gone += 1
            else:
                kept += 1
                size += length
        return gone

    def close(self) -> None:
        self._post = None
