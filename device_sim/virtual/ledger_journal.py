"""The journal of a node in the virtual world: the real one's rules, on a modelled disk, without a thread.

    append ─► waits ─► commit: all that waits, as one batch ─► write + fsync, in virtual time ─► told

What is appended meanwhile makes up the next commit, as in `edge_node.tasks.journal`. The commit is in the
kernel's hands from its begin on: a power cut before its end leaves it, or loses it, or tears it, and nobody
was told. Not here: bytes (`ledger_log`), what a commit takes and how tasks are read (`edge_node.tasks.rows`).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from device_sim.virtual.evidence import Row
from device_sim.virtual.ledger_log import LedgerLog, set_aside
from edge_node.tasks.rows import Gathering, Reading, StoreDamaged, holds
from security.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from device_sim.virtual.disk import Disk
    from device_sim.virtual.world import Entry, World
    from edge_node.tasks.task import Record


class VirtualJournal(Reading):
    """A `JournalPort` of one process's life; the next life opens another on the same disk.

    Raises (constructor): as `LedgerLog`.
    """

    _store: LedgerLog

    def __init__(self, world: World, disk: Disk, mesh_id: str, node_id: str) -> None:
        super().__init__(LedgerLog(disk, mesh_id, node_id))
        self.damaged += self._store.damaged
        self.bytes_written = 0
        self._world = world
        self._disk = disk
        self._gathering = Gathering()
        self._waiting: deque[tuple[int, tuple[Record, ...]]] = deque()  # the desk's outbox bounds it
        self._commit: Entry | None = None
        self._post: Callable[..., object] | None = None
        self._gone = False

    def start(
        self,
        post: Callable[..., object],
        on_persisted: Callable[[list[int]], None],
        on_failed: Callable[[list[int], str], None],
    ) -> None:
        assert self._post is None, "started once"
        self._post, self._on_persisted, self._on_failed = post, on_persisted, on_failed
        if self._waiting:
            self._commit = self._world.soon(self._begin)

    def append(self, serial: int, records: tuple[Record, ...]) -> None:
        if self._gone:
            return  # its process is dead, in the middle of a turn
        self._waiting.append((serial, records))
        if self._commit is None and self._post is not None:
            self._commit = self._world.soon(self._begin)

    def close(self) -> None:
        """Write what was appended, tell of it, let go. Idempotent."""
        if self._gone:
            return
        if self._post is not None:
            if self._gathering.serials:
                self._world.cancel(self._commit)
                self._end("")
            while self._waiting:
                self._world.cancel(self._commit)
                self._begin()
                if self._gathering.serials:
                    self._world.cancel(self._commit)
                    self._end("")
        self.kill()
        self._store.close()

    def kill(self) -> None:
        """The process is dead: nothing more is written or told. What the kernel has, it keeps."""
        self._gone = True
        self._world.cancel(self._commit)
        self._commit = None
        self._waiting.clear()

    def rows(self) -> list[Row]:
        """What lies on the disk, for checkers: the rows whose checksums hold, in the order of commits."""
        return [
            Row(row.id, row.kind, row.at_ms, row.state, row.body, written_ns)
            for row, written_ns in self._store.kept()
            if holds(row)
        ]

    def _begin(self) -> None:
        gathering = self._gathering
        while self._waiting and not gathering.add(*self._waiting.popleft()):
            pass
        failure, length = gathering.unwritable, 0
        if gathering.rows and not failure:
            try:
                length = self._store.begin(gathering.rows)
            except Unavailable as error:
                failure = error.cause
        if length:
            takes_ns = self._disk.write_ns(length) + self._disk.fsync_ns()
            self._commit = self._world.after(takes_ns, self._end, "")
        else:
            self._end(failure)

    def _end(self, failure: str) -> None:
        gathering = self._gathering
        if not failure:
            try:
                self._store.finish(self._world.now_ns)
            except Unavailable as error:
                failure = error.cause
        size = gathering.size
        serials = gathering.settle(failure)
        self._commit = self._world.soon(self._begin) if self._waiting else None
        assert self._post is not None
        if failure:
            self._post(self._on_failed, serials, failure)
        else:
            self.bytes_written += size
            self._post(self._on_persisted, serials)


def open_journal(world: World, disk: Disk, mesh_id: str, node_id: str) -> VirtualJournal:
    """As ``edge_node.daemon.journal_of``: a damaged log is set aside and a new one begun (promise P6)."""
    try:
        return VirtualJournal(world, disk, mesh_id, node_id)
    except StoreDamaged as damage:
        kept = set_aside(disk)
        journal = VirtualJournal(world, disk, mesh_id, node_id)
        journal.damaged.append(f"set aside as {kept}: {damage.cause}")
        return journal
