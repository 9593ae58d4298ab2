"""The mark: how far a ledger's write-ahead log was surely safe, kept beside it.

SQLite takes a WAL for ended at the first frame that does not hold: after a crash that is the right thing for
the commit that nobody was told of, and after damage it silently drops every commit behind it. So each commit
that was synced is noted here, by the log's salt and its number of frames, and what a later life finds is
held against it. The note is not synced: after a kill it is there, after a power cut it may be older, and it
is never ahead of what it vouches for.

    4 "ewm1" · 4 frames · 8 salt · 8 newest row number (0: not known) · 4 CRC-32        one write of 28 bytes
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sqlite3
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

SUFFIX = "-mark"
UNDER_WAY = "-recovery"
"""Beside a ledger of which damage is being mended (`recovery`)."""
_MARK = struct.Struct(">4sI8sQ")
_MAGIC = b"ewm1"
_CRC = struct.Struct(">I")
_SHM_HEAD_BYTES = 48


class Vouched(NamedTuple):
    """What was surely safe."""

    frames: int = 0
    salt: bytes = bytes(8)
    newest: int = 0


def beside(ledger: Path, suffix: str) -> Path:
    return ledger.with_name(ledger.name + suffix)


def vouched(ledger: Path) -> Vouched | None:
    """None: there is no mark. Raises: ValueError: it is damaged. OSError: it cannot be read."""
    try:
        data = beside(ledger, SUFFIX).read_bytes()
    except FileNotFoundError:
        return None
    if not data:
        return None  # made on a full disk
    if len(data) != _MARK.size + _CRC.size or _CRC.unpack(data[_MARK.size :])[0] != zlib.crc32(
        data[: _MARK.size]
    ):
        raise ValueError("its checksum does not hold")
    _, frames, salt, newest = _MARK.unpack_from(data)
    return Vouched(frames, salt, newest)


def missing(ledger: Path, mark: Vouched, newest_in: Callable[[Any], int] | None = None) -> str:
    """What of a ledger that nobody has opened since is not there any more. Empty: nothing.

    A log that is gone has been copied into the file by whoever looked at it last, or is lost: the caller
    compares `newest`, where rows have numbers that only grow.

    Args: newest_in: the newest number in a database, by a connection; it may raise `sqlite3.Error`.
    """
    if not ledger.exists():
        return "the file is gone"
    if not ledger.stat().st_size:
        return "the file is empty"
    log = beside(ledger, "-wal")
    if not mark.frames or not log.exists():
        return ""
    if not log.stat().st_size:
        return "" if mark.newest else "the write-ahead log is empty"
    from edge_node.store.pages import WAL_HEAD_BYTES, Wal  # of no use to a daemon whose last life ended well

    wal = Wal(log, salt=mark.salt)
    if not wal.sound:
        if newest_in is not None and mark.newest and _is_whole(ledger, mark.newest, newest_in):
            return ""
        short = log.stat().st_size < WAL_HEAD_BYTES
        return f"the write-ahead log is {'cut short' if short else 'unreadable from its head on'}"
    if wal.salt != mark.salt:
        return ""  # begun anew after everything before was in the file
    bad = wal.first_bad(mark.frames, wal.page_bytes)
    return "" if bad is None else f"frame {bad} of {mark.frames} of the write-ahead log does not hold"


def _is_whole(ledger: Path, newest: int, newest_in: Callable[[Any], int]) -> bool:
    """Does the file hold everything that was safe, without its log?

    A log begins anew once that is so, and a power cut then may tear its head. The file is read as one that
    cannot change: SQLite takes a log without a head for empty, and removes it with all that could be saved.
    """
    address = f"{ledger.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True)) as opened:
            told = opened.execute("PRAGMA integrity_check(1)").fetchone()[0]
            return bool(told == "ok" and newest_in(opened) >= newest)
    except sqlite3.Error:
        return False


class Mark:
    """Of a ledger that this process has open. `note` is called by the writing thread alone."""

    def __init__(self, ledger: Path) -> None:
        self._path = beside(ledger, SUFFIX)
        self._shm_path = beside(ledger, "-shm")
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._shm = -1
        self._index: mmap.mmap | None = None
        self._newest = 0
        self.frames = 0  # of the log's present round

    def note(self, newest: int) -> None:
        """A commit is safe. What the log's index says of it; between two states of that, nothing is noted."""
        if self._index is None:
            with contextlib.suppress(OSError, ValueError):
                self._index = self._mapped()
        if self._index is None:
            return
        index = self._index[:]
        if index[:_SHM_HEAD_BYTES] != index[_SHM_HEAD_BYTES:]:
            return
        self._newest = max(newest, self._newest)
        self.frames = struct.unpack_from("=I", index, 16)[0]
        self._write(Vouched(self.frames, index[32:40], self._newest))

    def _mapped(self) -> mmap.mmap:
        """The heads of the log's index, as SQLite has them mapped too.

        A system call would give up the interpreter once more in every commit, and a busy event loop keeps it.
        """
        # Both stay open to the end: closing any descriptor of a file ends this process's locks on it.
        if self._shm < 0:
            self._shm = os.open(self._shm_path, os.O_RDONLY | os.O_CLOEXEC)
        return mmap.mmap(self._shm, 2 * _SHM_HEAD_BYTES, prot=mmap.PROT_READ)

    def forget_newest(self) -> None:
        """Rows are being deleted: the newest may go."""
        self._newest = 0
        with contextlib.suppress(OSError, ValueError):
            data = os.pread(self._fd, _MARK.size, 0)
            _, frames, salt, _ = _MARK.unpack(data)
            self._write(Vouched(frames, salt, 0))

    def clear(self) -> None:
        """Everything is in the file itself, or will be before anybody is told of more."""
        self._newest = 0
        self._write(Vouched())
        os.fsync(self._fd)

    def close(self) -> None:
        if self._index is not None:
            self._index.close()
            self._index = None
        for fd in (self._fd, self._shm):
            if fd >= 0:
                os.close(fd)
        self._fd = self._shm = -1

    def _write(self, what: Vouched) -> None:
        head = _MARK.pack(_MAGIC, *what)
        with contextlib.suppress(OSError):  # a full disk: the old mark stands, and vouches for less
            os.pwrite(self._fd, head + _CRC.pack(zlib.crc32(head)), 0)
