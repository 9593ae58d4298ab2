"""Pages: what is left of a SQLite file and its WAL, read without SQLite.

SQLite gives up a whole tree for one page that it cannot follow; a ledger's rows bear checksums of their own,
so every page can be looked at by itself and believed row by row.

    file ─► page, the newest sound WAL frame of it first ─► free? overflow? ─► leaf ─► cells ─► records

In: bytes. Out: records with their page and row number, index keys, and what could not be read, in words.
Format: <https://www.sqlite.org/fileformat2.html>; the WAL's frames: section 4. A frame is checked against the
checksum that the frame before it states, so one bad frame does not take the later ones along. A page on the
free list is passed over: what lies there was deleted. Not here: what a record means (`recovery`).
"""

from __future__ import annotations

import mmap
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edge_node.store.mark import Vouched, beside, vouched

PAGE_BYTES = 4096
"""Of a file whose head does not say: SQLite's default, and ours."""
LEAF, INTERIOR, INDEX_LEAF, INDEX_INTERIOR = 0x0D, 0x05, 0x0A, 0x02
_FREE, _BTREES = 2, frozenset({1, 5})
_HEAD = struct.Struct(">IIII4s4sII")
FRAME = struct.Struct(">II4s4sII")
WAL_HEAD_BYTES = _HEAD.size
_MAGIC = 0x377F0682
PAYLOAD_BYTES_MAX = 64 * 2**20
"""No body is larger; a length beyond it is damage."""

Value = int | float | str | bytes | None


class Record(NamedTuple):
    page: int
    number: int  # rowid; 0 in an index
    values: tuple[Value, ...]


class Unreadable(ValueError):
    """Bytes that are no page, cell or record."""


def checksum(data: bytes, seed: tuple[int, int], *, big: bool = False) -> tuple[int, int]:
    """SQLite's WAL checksum (file format, section 4.2). Args: data: a multiple of 8 bytes."""
    first, second = seed
    words = struct.unpack(f"{'>' if big else '<'}{len(data) // 4}I", data)
    pairs = iter(words)
    for left, right in zip(pairs, pairs, strict=True):
        first = (first + left + second) & 0xFFFFFFFF
        second = (second + right + first) & 0xFFFFFFFF
    return first, second


class Wal:
    """The frames of a WAL that can be believed.

    Args: path: of the -wal file; need not exist.   salt: of the log that was last written, if known.
    """

    def __init__(self, path: Path, *, salt: bytes = b"") -> None:
        try:
            self._data = path.read_bytes()
        except FileNotFoundError:
            self._data = b""
        self.page_bytes = 0
        self.salt = b""
        self.sound = False
        """The head's own checksum holds."""
        self._big = sys.byteorder == "big"
        self._seed: tuple[int, int] | None = None
        if len(self._data) >= _HEAD.size:
            magic, _, size, _, salt1, salt2, sum1, sum2 = _HEAD.unpack_from(self._data)
            big = bool(magic & 1)
            if magic & ~1 == _MAGIC and checksum(self._data[:24], (0, 0), big=big) == (sum1, sum2):
                self.sound, self._big, self._seed = True, big, (sum1, sum2)
                self.page_bytes, self.salt = size, salt1 + salt2
        if not self.sound and len(self._data) > _HEAD.size + FRAME.size:
            self.salt = salt or self._data[_HEAD.size + 8 : _HEAD.size + 16]

    def _frames(self, page_bytes: int) -> Iterator[tuple[int, int, bool, bytes]]:
        """(page, pages in the file if it commits, does it hold, body) of every frame of this log."""
        seed = self._seed
        step = FRAME.size + page_bytes
        for at in range(_HEAD.size, len(self._data) - step + 1, step):
            page, commits, salt1, salt2, sum1, sum2 = FRAME.unpack_from(self._data, at)
            body = self._data[at + FRAME.size : at + step]
            holds = salt1 + salt2 == self.salt and seed is not None
            if holds:
                assert seed is not None
                found = checksum(self._data[at : at + 8], seed, big=self._big)
                holds = checksum(body, found, big=self._big) == (sum1, sum2)
            yield page, commits, holds, body
            seed = (sum1, sum2)

    def first_bad(self, frames: int, page_bytes: int) -> int | None:
        """Which of the first so many frames does not hold, from 1. None: all do."""
        if not self.sound:
            return 1 if frames else None
        count = 0
        for _, _, holds, _ in self._frames(page_bytes):
            if count == frames:
                return None
            count += 1
            if not holds:
                return count
        return None if count >= frames else count + 1

    def pages(self, page_bytes: int, frames_kept: int = 0) -> tuple[dict[int, bytes], int, list[bytes]]:
        """Newest committed body of each page, pages in the file by the last commit (0: none), and the bodies
        of frames that do not hold. What follows the last commit, beyond the frames known to have been safe
        (`frames_kept`), was never told of and counts not."""
        found: dict[int, bytes] = {}
        waiting: dict[int, bytes] = {}
        bad: list[bytes] = []
        waiting_bad: list[bytes] = []
        size = 0
        for number, (page, commits, holds, body) in enumerate(self._frames(page_bytes), 1):
            if not holds:
                waiting_bad.append(body)
            elif 0 < page < 2**31:
                waiting[page] = body
            if (holds and commits) or number == frames_kept:
                found |= waiting
                size = commits or size
                bad += waiting_bad
                waiting, waiting_bad = {}, []
        return found, size, bad


def damaged_pages(path: Path) -> tuple[Pages, Vouched | None]:
    """Of a file that nobody has open, and its log as far as the mark vouches for it; the mark, if any."""
    try:
        mark = vouched(path)
    except (ValueError, OSError):
        mark = None
    wal = Wal(beside(path, "-wal"), salt=mark.salt if mark is not None and mark.frames else b"")
    frames = mark.frames if mark is not None and mark.salt == wal.salt else 0
    return Pages(path, wal, frames_kept=frames), mark


class Pages:
    """Args: path: of the file.   wal: its WAL.   frames_kept: of the WAL, known to have been safe."""

    def __init__(self, path: Path, wal: Wal, *, frames_kept: int = 0) -> None:
        self._file: mmap.mmap | bytes = b""
        if path.exists() and path.stat().st_size:
            with path.open("rb") as file:
                self._file = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.gaps: list[str] = []
        told = int.from_bytes(self._file[16:18], "big") if self._file[:16] == b"SQLite format 3\0" else 0
        told = 65536 if told == 1 else told
        sizes = {1 << power for power in range(9, 17)}
        self.page_bytes = next((size for size in (told, wal.page_bytes) if size in sizes), PAGE_BYTES)
        self._newer, size, self.doubtful = wal.pages(self.page_bytes, frames_kept)
        """`doubtful`: pages with something wrong; a row of theirs counts if all else speaks for it."""
        if self.doubtful:
            self.gaps.append(f"{len(self.doubtful)} frames of the write-ahead log do not hold")
        self._usable = self.page_bytes
        head = self.page(1)
        there = len(self._file) // self.page_bytes
        if head[:16] == b"SQLite format 3\0":
            self._usable -= min(head[20], 64)
            size = size or int.from_bytes(head[28:32], "big")
        else:
            self.gaps.append("the file's head is unreadable")
            head = b""
        self.count = max(there, max(self._newer, default=0))
        if size > self.count:
            self.gaps.append(f"cut short: {self.count} of {size} pages are left")
        self._has_map = not head or head[52:56] != bytes(4)  # only a file that can vacuum by and by
        self._free = self._free_list(head)
        self._map: dict[int, tuple[int, ...] | None] = {}

    def page(self, number: int) -> bytes:
        newer = self._newer.get(number)
        if newer is not None:
            return newer
        return self._file[(number - 1) * self.page_bytes : number * self.page_bytes]

    def trees(self) -> Iterator[tuple[int, int]]:
        """(number, kind) of every page that is in use as part of a tree; others that should be are named."""
        for number in range(1, self.count + 1):
            body = self.page(number)
            if len(body) < self.page_bytes:
                if body:
                    self.gaps.append(f"page {number} is cut short")
                continue
            mapped = self._mapped(number)
            if number in self._free or mapped == _FREE:
                continue
            if self._has_map and number == self._mapping(number):
                continue
            kind = body[100 if number == 1 else 0]
            if kind in (LEAF, INTERIOR, INDEX_LEAF, INDEX_INTERIOR):
                if mapped is None or mapped in _BTREES or number == 1:
                    yield number, kind
            elif mapped in _BTREES or number == 1:
                self.gaps.append(f"page {number} is unreadable")
                self.doubtful.append(body)

    def records(self, number: int, kind: int) -> Iterator[Record]:
        """The records of a leaf, or the keys of an index page; what cannot be read is named."""
        return self._records(self.page(number), number, kind)

    def doubtful_records(self) -> Iterator[Record]:
        """What looks like records on doubtful pages."""
        named = len(self.gaps)
        for body in self.doubtful:
            yield from self._records(body, 0, LEAF)
        del self.gaps[named:]

    def close(self) -> None:
        if isinstance(self._file, mmap.mmap):
            self._file.close()

    def _records(self, body: bytes, number: int, kind: int) -> Iterator[Record]:
        start = 100 if number == 1 else 0
        for cell in range(*self._cells(body, start, kind)):
            at = int.from_bytes(body[cell : cell + 2], "big")
            try:
                if not start + 8 <= at < self._usable:
                    raise Unreadable
                if kind == INDEX_INTERIOR:
                    at += 4
                length, at = varint(body, at)
                row = 0
                if kind == LEAF:
                    row, at = varint(body, at)
                payload = self._payload(body, at, length, kind)
                yield Record(number, row, decoded(payload))
            except (Unreadable, IndexError, UnicodeDecodeError):
                self.gaps.append(f"page {number}: the cell at {at} is unreadable")

    def children(self, number: int) -> Iterator[tuple[int, int | None]]:
        """(page, highest row number below it) of a table's interior page; None: the last one."""
        body = self.page(number)
        start = 100 if number == 1 else 0
        for cell in range(*self._cells(body, start, INTERIOR)):
            at = int.from_bytes(body[cell : cell + 2], "big")
            try:
                yield int.from_bytes(body[at : at + 4], "big"), varint(body, at + 4)[0]
            except IndexError:
                self.gaps.append(f"page {number}: the cell at {at} is unreadable")
        yield int.from_bytes(body[start + 8 : start + 12], "big"), None

    def _cells(self, body: bytes, start: int, kind: int) -> tuple[int, int, int]:
        first = start + (12 if kind in (INTERIOR, INDEX_INTERIOR) else 8)
        count = int.from_bytes(body[start + 3 : start + 5], "big")
        return first, min(first + 2 * count, self._usable), 2

    def _payload(self, body: bytes, at: int, length: int, kind: int) -> bytes:
        if length > PAYLOAD_BYTES_MAX:
            raise Unreadable
        usable = self._usable
        most = usable - 35 if kind == LEAF else (usable - 12) * 64 // 255 - 23
        if length <= most:
            return body[at : at + length]
        least = (usable - 12) * 32 // 255 - 23
        here = least + (length - least) % (usable - 4)
        here = here if here <= most else least
        parts = [body[at : at + here]]
        following = int.from_bytes(body[at + here : at + here + 4], "big")
        left = length - here
        while left > 0:
            page = self.page(following) if following > 1 else b""
            if len(page) < self.page_bytes:
                raise Unreadable
            parts.append(page[4 : 4 + min(left, usable - 4)])
            left -= usable - 4
            following = int.from_bytes(page[:4], "big")
        return b"".join(parts)

    def _free_list(self, head: bytes) -> frozenset[int]:
        found: set[int] = set()
        trunk = int.from_bytes(head[32:36], "big") if head else 0
        while 1 < trunk <= self.count and trunk not in found:
            body = self.page(trunk)
            leaves = min(int.from_bytes(body[4:8], "big"), self._usable // 4 - 2)
            found.add(trunk)
            found.update(struct.unpack_from(f">{leaves}I", body, 8) if len(body) == self.page_bytes else ())
            trunk = int.from_bytes(body[:4], "big")
        return frozenset(found)

    def _mapping(self, number: int) -> int:
        """The pointer map page that tells of this one (our files vacuum by and by, so they have them)."""
        every = self._usable // 5 + 1
        return 2 + (number - 2) // every * every if number > 1 else 2

    def _mapped(self, number: int) -> int | None:
        """What the pointer map says that it is. None: the map cannot be believed."""
        at = self._mapping(number)
        if not self._has_map:
            return None
        if at not in self._map:
            body = self.page(at)
            told = tuple(body[: self._usable // 5 * 5 : 5])
            whole = len(body) == self.page_bytes and all(each <= 5 for each in told) and any(told)
            self._map[at] = told if whole else None
        told_of = self._map[at]
        if told_of is None or not at < number <= at + len(told_of):
            return None
        return told_of[number - at - 1] or None


def varint(data: bytes, at: int) -> tuple[int, int]:
    """SQLite's variable-length integer, and where it ends. Raises: IndexError."""
    value = 0
    for _ in range(8):
        byte = data[at]
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at
    value = value << 8 | data[at]
    return value - (1 << 64) if value >> 63 else value, at + 1


_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


def decoded(payload: bytes) -> tuple[Value, ...]:
    """A record (file format, section 2.1). Raises: Unreadable, IndexError, UnicodeDecodeError."""
    end, at = varint(payload, 0)
    if not 1 <= end <= len(payload):
        raise Unreadable
    values: list[Value] = []
    where = end
    while at < end:
        kind, at = varint(payload, at)
        if kind in _INTEGERS:
            size = _INTEGERS[kind]
        elif kind == 7:
            size = 8
        elif kind in (0, 8, 9):
            size = 0
        elif kind >= 12:
            size = (kind - 12) // 2
        else:
            raise Unreadable
        part = payload[where : where + size]
        if len(part) < size:
            raise Unreadable
        where += size
        if kind == 0:
            values.append(None)
        elif kind in (8, 9):
            values.append(kind - 8)
        elif kind == 7:
            values.append(float(struct.unpack(">d", part)[0]))
        elif kind in _INTEGERS:
            values.append(int.from_bytes(part, "big", signed=True))
        else:
            values.append(part.decode() if kind % 2 else part)
    return tuple(values)
