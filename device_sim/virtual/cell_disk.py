"""The cells of a node in the virtual world: a `CellPort` on a modelled disk, without a thread.

    append ─► waits ─► commit: all that waits, in order ─► write + fsync, in virtual time ─► told

What is appended meanwhile makes up the next commit. It is in the kernel's hands from its begin on: a power
cut before its end leaves a beginning of it, or nothing, and nobody was told. After a failure nothing is taken
until the owner has read anew what lies there. Not here: bytes (`cell_log`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from device_sim.virtual.cell_log import CellLog
from edge_node.store.cell_store import Commit, Image
from security.errors import EdgeweaveError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from device_sim.virtual.disk import Disk
    from device_sim.virtual.world import Entry, World
    from edge_node.store.cell_store import Post


class VirtualCells:
    """A `CellPort` of one process's life; the next life opens another on the same disk."""

    def __init__(self, world: World, disk: Disk, mesh_id: str, node_id: str) -> None:
        self._world = world
        self._disk = disk
        self._owner = (mesh_id, node_id)
        self._log: CellLog | None = None
        self._waiting: list[tuple[int, Commit]] = []  # the replica's writers wait for their answers
        self._serial = 0  # the last of what is under way
        self._commit: Entry | None = None
        self._post: Post | None = None
        self._refuses = False
        self._gone = False
        self.losses = ""

    def load(self) -> Image:
        """Raises: BadInput: another node's. Unavailable: it cannot be read."""
        self._log = CellLog(self._disk, *self._owner)
        self.losses = "; ".join(self._log.damaged)
        return self._log.load()

    def start(
        self,
        post: Post,
        on_persisted: Callable[[int], None],
        on_failed: Callable[[int, str], None],
    ) -> None:
        assert self._post is None, "started once"
        self._post, self._on_persisted, self._on_failed = post, on_persisted, on_failed
        self._wake()

    def append(self, serial: int, commit: Commit) -> None:
        if self._gone or self._refuses:
            return  # its process is dead, in the middle of a turn; or it was told that nothing is taken
        self._waiting.append((serial, commit))
        self._wake()

    def reload(self, done: Callable[[Image | EdgeweaveError], None]) -> None:
        if not self._gone:
            self._world.after(self._disk.fsync_ns(), self._reloaded, done)

    def close(self) -> None:
        """Commit what was appended, tell of it, let go. Idempotent."""
        if self._gone:
            return
        while self._post is not None and (self._serial or self._waiting):
            self._world.cancel(self._commit)
            if self._serial:
                self._end()
            else:
                self._begin()
        self.kill()
        if self._log is not None:
            self._log.close()

    def kill(self) -> None:
        """The process is dead: nothing more is written or told. What the kernel has, it keeps."""
        self._gone = True
        self._world.cancel(self._commit)
        self._commit = None
        self._waiting.clear()

    def safe(self, data: bytes) -> bool:
        """Do these bytes stand on the disk for good? For who judges a run and nobody in it."""
        return self._log is not None and self._log.holds(data)

    # ── parts ─────────────────────────────────────────────────────────────────────────────────────

    def _wake(self) -> None:
        if self._waiting and self._commit is None and self._post is not None:
            self._commit = self._world.soon(self._begin)

    def _begin(self) -> None:
        assert self._log is not None, "loaded before it is written"
        taken, self._waiting = self._waiting, []
        first, self._serial = taken[0][0], taken[-1][0]
        try:
            length = self._log.begin([commit for _, commit in taken])
        except Unavailable as error:
            self._failed(first, error.cause)
            return
        self._first = first
        takes_ns = self._disk.write_ns(length) + self._disk.fsync_ns()
        self._commit = self._world.after(takes_ns, self._end)

    def _end(self) -> None:
        assert self._log is not None and self._post is not None
        try:
            self._log.finish()
        except Unavailable as error:
            self._failed(self._first, error.cause)
            return
        serial, self._serial, self._commit = self._serial, 0, None
        self._post(self._on_persisted, serial)
        self._wake()

    def _failed(self, serial: int, cause: str) -> None:
        assert self._post is not None
        self._refuses, self._serial, self._commit = True, 0, None
        self._waiting.clear()
        self._post(self._on_failed, serial, cause)

    def _reloaded(self, done: Callable[[Image | EdgeweaveError], None]) -> None:
        if self._gone or self._post is None:
            return
        found: Image | EdgeweaveError
        try:
            found = self.load()
        except EdgeweaveError as error:
            found = error
        else:
            self._refuses = False
        self._post(done, found)


def opened_cells(disk: Disk, mesh_id: str, node_id: str) -> tuple[Image, list[str]]:
    """What a disk holds, as the next life would find it, and what it names as damaged.

    Raises: EdgeweaveError: it cannot be read.
    """
    log = CellLog(disk, mesh_id, node_id)
    return log.load(), log.damaged
