"""Cells as a log on a modelled disk: what the cells' SQLite file is to a real node.

    cells.log     head · commit · commit · …       whole, or not there; the first may be all there was
    commit        mark, number, length, checksum of its bytes, checksum of this · one or several `Commit`
    cells.mark    how far it was fsynced (`marks`)

A commit is written behind what was fsynced, then fsynced, then it counts. At opening a broken commit with
nothing whole behind it, beyond the mark, is the torn tail of one of which nobody was told, and goes in
silence. Any other is damage: what lies before it is a beginning of what was, as an old disk has it, which a
replica knows how to come back from (a new writer epoch each life); the log as it was is kept beside, and
`damaged` names it. When most of the log is history it is written anew, as one commit.

No file is made before something is written: a member without tables costs nothing. In memory: a few integers.
Not here: when a commit begins and how long it takes (`cell_disk`), what the bytes mean.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final

import msgspec

from device_sim.virtual.marks import Mark, aside
from edge_node.store.cell_store import Commit, Image, Logged, MemoryCellStore, Waiting
from edge_node.store.cells import CellId
from security.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from device_sim.virtual.disk import Disk

LOG: Final = "cells.log"
MARK: Final = "cells.mark"
FRESH: Final = "cells.new"
HISTORY_BYTES: Final = 256 * 1024
"""Behind four times what it began with, and this: then it is written anew."""
_HEAD = struct.Struct(">4sIQH")  # magic, generation, bytes fsynced at its creation, length; owner, CRC-32
_COMMIT = struct.Struct(">4sIII")  # magic, number, length, CRC-32 of the bytes; CRC-32
_CRC = struct.Struct(">I")
_HEAD_MAGIC, _COMMIT_MAGIC = b"ewc1", b"ewm1"
_COMMIT_BYTES: Final = _COMMIT.size + _CRC.size


class _Stored(msgspec.Struct, array_like=True):
    """A commit as it lies there: cells are no keys of a msgpack map."""

    cells: list[tuple[CellId, bytes | None]]
    logged: list[Logged]
    forgotten: list[int]
    waiting: list[Waiting]
    released: list[tuple[str, int, int]]
    head: bytes | None
    anew: bool


_decoder = msgspec.msgpack.Decoder(list[_Stored])


class CellLog:
    """A `CellStore` on a disk of the virtual world. Opening it is a process's start: it recovers.

    Raises (constructor): BadInput: it is another mesh's or node's. Unavailable: the disk refuses.
    """

    __slots__ = (
        "_base",
        "_begun",
        "_disk",
        "_fsynced",
        "_generation",
        "_good",
        "_names_unsafe",
        "_number",
        "_owner",
        "damaged",
    )

    def __init__(self, disk: Disk, mesh_id: str, node_id: str) -> None:
        self._disk = disk
        self._owner = f"{mesh_id}/{node_id}".encode()
        self.damaged: list[str] = []
        self._generation = 0  # 0: there is no log yet
        self._number = 0  # of the last commit
        self._good = 0  # up to here it is fsynced
        self._base = 0  # its size when it was written anew
        self._begun = 0  # bytes under way
        self._names_unsafe = False
        self._fsynced = Mark(disk, MARK)
        try:
            self._recover()
        except OSError as error:
            raise Unavailable(
                f"cannot open {LOG}: {error.strerror}", fix="check free space and the medium"
            ) from error

    # ── writing ───────────────────────────────────────────────────────────────────────────────────

    def commit(self, commits: Sequence[Commit]) -> None:
        self.begin(commits)
        self.finish()

    def begin(self, commits: Sequence[Commit]) -> int:
        """Hand them to the kernel. Returns: their bytes. Raises: Unavailable: nothing of them stays."""
        assert not self._begun, "one commit at a time"
        try:
            if not self._generation:
                self._rewrite(None)
            data = _framed([_stored(each) for each in commits], self._number + 1)
            self._disk.write(LOG, self._good, data)
        except OSError as error:
            self._take_back()
            raise Unavailable(f"the tables cannot be written: {error.strerror}") from error
        self._begun = len(data)
        return len(data)

    def finish(self) -> None:
        """Fsync what was begun; then it counts. Raises: Unavailable: nothing of it stays."""
        begun, self._begun = self._begun, 0
        disk = self._disk
        try:
            if self._names_unsafe:
                disk.fsync_dir()
                self._names_unsafe = False
            disk.fsync(LOG)
        except OSError as error:
            self._take_back()
            raise Unavailable(f"the tables cannot be written: {error.strerror}") from error
        self._good += begun
        self._number += 1
        self._fsynced.say(self._generation, self._good)
        if self._good > 4 * self._base + HISTORY_BYTES:
            try:
                self._rewrite(self._read(self._good))
            except OSError:
                self._base = self._good // 4  # no room for two: it is tried again when it has grown

    def close(self) -> None:
        """Whatever the mark says is on the disk with it."""
        if self._disk.exists(MARK):
            try:
                self._disk.fsync(MARK)
            except OSError:
                pass  # the mark is a hint: without it the next opening believes less

    # ── reading ───────────────────────────────────────────────────────────────────────────────────

    def load(self) -> Image:
        """What was fsynced."""
        return self._read(self._good).load() if self._generation else Image()

    def holds(self, data: bytes) -> bool:
        """Do these bytes stand in it, fsynced? For who judges a run and nobody in it."""
        return bool(self._generation) and data in self._disk.read(LOG, 0, self._good)

    # ── parts ─────────────────────────────────────────────────────────────────────────────────────

    def _read(self, end: int) -> MemoryCellStore:
        found = MemoryCellStore()
        for stored in self._commits(self._head_bytes, end):
            found.commit([_commit(stored)])
        return found

    def _commits(self, at: int, end: int) -> Iterator[_Stored]:
        """Whole ones from there on, as far as they follow each other."""
        while at < end:
            head = self._commit_head(at)
            if head is None:
                return
            data = self._disk.read(LOG, at + _COMMIT_BYTES, head[1])
            if len(data) != head[1] or zlib.crc32(data) != head[2]:
                return
            yield from _decoder.decode(data)
            at += _COMMIT_BYTES + head[1]

    def _commit_head(self, at: int) -> tuple[int, int, int] | None:
        """(number, length, checksum) of the commit that begins there."""
        head = self._disk.read(LOG, at, _COMMIT_BYTES)
        if len(head) < _COMMIT_BYTES or not head.startswith(_COMMIT_MAGIC):
            return None
        if _CRC.unpack_from(head, _COMMIT.size)[0] != zlib.crc32(head[: _COMMIT.size]):
            return None
        return _COMMIT.unpack_from(head)[1:]

    def _is_followed(self, at: int, size: int) -> bool:
        """Does a later commit begin behind that place? Then what lies there was safe once."""
        data = self._disk.read(LOG, at, max(0, size - at))
        found = data.find(_COMMIT_MAGIC)
        while found >= 0:
            head = self._commit_head(at + found)
            if head is not None and head[0] > self._number + 1:
                return True
            found = data.find(_COMMIT_MAGIC, found + 1)
        return False

    @property
    def _head_bytes(self) -> int:
        return _HEAD.size + len(self._owner) + _CRC.size

    def _rewrite(self, store: MemoryCellStore | None) -> None:
        """A log of this alone, in the place of what is there. Raises: OSError: what is there stays."""
        disk = self._disk
        data = b""
        if store is not None:
            image = store.load()
            whole = _Stored(list(image.cells), image.logged, [], image.waiting, [], image.head, True)
            data = _framed([whole], 1)
        safe = self._head_bytes + len(data)
        head = _HEAD.pack(_HEAD_MAGIC, self._generation + 1, safe, len(self._owner)) + self._owner
        try:
            disk.write(FRESH, 0, head + _CRC.pack(zlib.crc32(head)) + data)
            disk.fsync(FRESH)
        except OSError:
            if disk.exists(FRESH):
                disk.remove(FRESH)
            raise
        disk.rename(FRESH, LOG)
        self._names_unsafe = True  # until then nothing more may be told as kept
        self._generation += 1
        self._good = self._base = safe
        self._number = 1 if data else 0
        try:
            disk.fsync_dir()
        except OSError:
            return  # the next commit tries again before it counts
        self._names_unsafe = False
        self._fsynced.say(self._generation, self._good)

    def _take_back(self) -> None:
        """Nothing behind what is fsynced."""
        if self._disk.exists(LOG) and self._disk.size(LOG) > self._good:
            self._disk.truncate(LOG, self._good)

    def _recover(self) -> None:
        disk = self._disk
        self.damaged += [f"{name} was set aside" for name in disk.names() if name.startswith(f"{LOG}.")]
        marked = self._fsynced.said(self.damaged)
        if disk.exists(FRESH):
            disk.remove(FRESH)
        if not disk.exists(LOG):
            if marked is not None:
                self.damaged.append(f"{LOG} is gone")
                self._generation = marked[0]
                self._rewrite(None)
            return
        named = len(self.damaged)
        safe = self._read_head()
        if safe is None:  # it was fsynced before it was renamed
            self.damaged.append(f"{LOG}: its head is unreadable")
            self._generation = 0 if marked is None else marked[0]
        else:
            if marked is not None and marked[0] == self._generation:
                safe = max(safe, marked[1])
            elif marked is not None and marked[0] > self._generation:
                self.damaged.append(f"{LOG} is older than {MARK}")
            at = self._walk()
            if at < disk.size(LOG) and self._is_followed(at, disk.size(LOG)):
                self.damaged.append(f"{LOG}: the commit at {at} and what follows it")
            elif at < safe:
                self.damaged.append(f"{LOG}: cut short, {at} of {safe} bytes are left")
            self._good = at
        if len(self.damaged) > named:
            self._mend()
        else:
            self._take_back()
        self._settle()

    def _walk(self) -> int:
        """Over what is whole. Returns: where it ends."""
        at, size = self._head_bytes, self._disk.size(LOG)
        while at < size:
            head = self._commit_head(at)
            if head is None:
                break
            data = self._disk.read(LOG, at + _COMMIT_BYTES, head[1])
            if len(data) != head[1] or zlib.crc32(data) != head[2]:
                break
            self._number = head[0]
            at += _COMMIT_BYTES + head[1]
        return at

    def _mend(self) -> None:
        """What lies before the damage goes into a new log; the old one is kept beside it."""
        disk = self._disk
        kept = aside(disk, LOG)
        found = self._read(self._good)
        try:
            disk.write(kept, 0, disk.read(LOG))
            disk.fsync(kept)
        except OSError:
            if disk.exists(kept):
                disk.remove(kept)
            raise
        self.damaged.append(f"{LOG} as it was is {kept}")
        self._rewrite(found)

    def _settle(self) -> None:
        """What the last process left in the kernel's cache, and is believed from here on, is made safe."""
        disk = self._disk
        disk.fsync(LOG)
        disk.fsync_dir()
        self._names_unsafe = False
        self._fsynced.say(self._generation, self._good)
        if disk.exists(MARK):
            disk.fsync(MARK)
            disk.fsync_dir()

    def _read_head(self) -> int | None:
        """How far the log was safe when it was made. None: its head does not hold."""
        disk = self._disk
        head = disk.read(LOG, 0, _HEAD.size)
        if len(head) < _HEAD.size or not head.startswith(_HEAD_MAGIC):
            return None
        _, generation, safe, length = _HEAD.unpack(head)
        owner = disk.read(LOG, _HEAD.size, length)
        if disk.read(LOG, _HEAD.size + length, _CRC.size) != _CRC.pack(zlib.crc32(head + owner)):
            return None
        if owner != self._owner:
            raise BadInput(
                f"{LOG} holds the tables of {owner.decode()}, not of {self._owner.decode()}",
                fix="restore the right file",
            )
        self._generation, self._base = generation, safe
        return int(safe)


def _framed(stored: list[_Stored], number: int) -> bytes:
    data = msgspec.msgpack.encode(stored)
    head = _COMMIT.pack(_COMMIT_MAGIC, number, len(data), zlib.crc32(data))
    return head + _CRC.pack(zlib.crc32(head)) + data


def _stored(commit: Commit) -> _Stored:
    return _Stored(
        list(commit.cells.items()),
        commit.logged,
        commit.forgotten,
        commit.waiting,
        commit.released,
        commit.head,
        commit.anew,
    )


def _commit(stored: _Stored) -> Commit:
    return Commit(
        dict(stored.cells),
        stored.logged,
        stored.forgotten,
        stored.waiting,
        stored.released,
        stored.head,
        stored.anew,
    )
