"""The ledger's rows as a log on a modelled disk: what SQLite is to a real node, in a few bytes a task.

    ledger.log    head · batch · batch · …         a batch is a commit: whole, or not there
    batch         mark, number, length, count, checksum of its rows, checksum of this
    row           lengths, kind, at_ms, crc, where the task's row before it lies, checksum of all that · id ·
                  state · body (whose checksum is the row's crc, and is looked at by who reads)
    ledger.mark   two slots, written in turn: up to here the log was fsynced

A batch is written behind what was fsynced, then fsynced, then it counts; the mark says so afterwards and is
itself never waited for. So at opening, a broken batch with nothing whole behind it, beyond the mark, is the
torn tail of a commit of which nobody was told, and goes in silence. Any other broken batch is damage: it is
named in `damaged`, and its rows whose checksums hold are still read. Removing tasks writes a new log beside
the old one and renames it.

In memory: one integer for each task (the place of its newest row, under the CRC-32 of its id), and the ids of
the open ones. Not here: when a commit begins and how long it takes (`ledger_journal`), what a row says
(`edge_node.tasks.rows`).
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from device_sim.virtual.marks import Mark, aside
from edge_node.tasks.rows import (
    ACCEPTED,
    CLOSED,
    HEAD_BYTES,
    SMALL_BYTES,
    Row,
    Settled,
    StoreDamaged,
    Totals,
)
from edge_node.tasks.task import KNOWN_MS
from security.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from device_sim.virtual.disk import Disk

LOG: Final = "ledger.log"
MARK: Final = "ledger.mark"
FRESH: Final = "ledger.new"
_HEAD = struct.Struct(">4sIQBB")  # magic, generation, bytes fsynced at its creation, lengths; names, CRC-32
_BATCH = struct.Struct(">4sIIHI")  # magic, number, length of the rows, their count, their CRC-32; CRC-32
_ROW = struct.Struct(">BBiqIIQ")  # lengths of id and state, kind, at_ms, length of body, crc, before; CRC-32
_CRC = struct.Struct(">I")
_HEAD_MAGIC, _BATCH_MAGIC = b"ewl1", b"ewb1"
_BATCH_BYTES = _BATCH.size + _CRC.size
_ROW_BYTES = _ROW.size + _CRC.size
FIX = "set it aside and begin a new one"


class _Place(NamedTuple):
    """A row's head, read and believed."""

    offset: int
    id: str
    kind: int
    at_ms: int
    state: str
    body_at: int
    body_bytes: int
    crc: int
    before: int

    @property
    def end(self) -> int:
        return self.body_at + self.body_bytes


class LedgerLog:
    """A `LedgerStore` on a disk of the virtual world. Opening it is a process's start: it recovers.

    Raises (constructor): BadInput: it is another mesh's or node's. StoreDamaged: it cannot be a ledger any
    more. Unavailable: the disk refuses.
    """

    __slots__ = (
        "_begun",
        "_begun_rows",
        "_disk",
        "_fsynced",
        "_generation",
        "_good",
        "_latest",
        "_lost",
        "_names_unsafe",
        "_number",
        "_open",
        "_owner",
        "damaged",
    )

    def __init__(self, disk: Disk, mesh_id: str, node_id: str) -> None:
        self._disk = disk
        self._owner = (mesh_id, node_id)
        self.damaged: list[str] = []
        self._latest: dict[int, int] = {}
        self._open: dict[str, None] = {}
        self._generation = 1
        self._number = 0  # of the last batch
        self._good = 0  # up to here it is fsynced
        self._fsynced = Mark(disk, MARK)
        self._begun: list[int] = []  # offsets of the rows of the commit under way
        self._begun_rows: Sequence[Row] = ()
        self._lost: Unavailable | None = None  # the commit under way, in a rewriting of the log
        self._names_unsafe = False
        try:
            self._recover()
        except OSError as error:
            raise Unavailable(
                f"cannot open {LOG}: {error.strerror}", fix="check free space and the medium"
            ) from error

    # ── writing ───────────────────────────────────────────────────────────────────────────────────

    def insert(self, rows: Sequence[Row]) -> None:
        self.begin(rows)
        self.finish()

    def begin(self, rows: Sequence[Row]) -> int:
        """Hand a commit to the kernel. Returns: its bytes, 0: all of it is there already.

        Raises: Unavailable: nothing of it stays.
        """
        assert not self._begun, "one commit at a time"
        fresh = self._unheard(rows)
        if not fresh:
            return 0
        data, offsets = self._batch(fresh, self._good, self._number + 1, self._latest)
        try:
            self._disk.write(LOG, self._good, data)
        except OSError as error:
            self._take_back()
            raise Unavailable(f"the ledger cannot be written: {error.strerror}") from error
        self._begun, self._begun_rows = offsets, fresh
        return len(data)

    def finish(self, now_ns: int = -1) -> None:
        """Fsync what was begun; then it counts. `now_ns`: true time, for ``kept``; -1: not known.

        Raises: Unavailable: nothing of it stays.
        """
        offsets, rows = self._begun, self._begun_rows
        self._begun, self._begun_rows = [], ()
        if self._lost is not None:
            lost, self._lost = self._lost, None
            raise lost
        if not offsets:
            return
        disk = self._disk
        try:
            if self._names_unsafe:
                disk.fsync_dir()
                self._names_unsafe = False
            disk.fsync(LOG)
        except OSError as error:
            self._take_back()
            raise Unavailable(f"the ledger cannot be written: {error.strerror}") from error
        begun, self._good = self._good, disk.size(LOG)
        self._number += 1
        if now_ns >= 0:
            commits = disk.commits
            while commits and commits[-2] > begun:  # what lay there was damaged, and is gone
                del commits[-3:]
            commits.extend((begun, self._good, now_ns))
        for offset, row in zip(offsets, rows, strict=True):
            self._index(row.id, row.kind, offset)
        self._mark()

    def delete(self, ids: Sequence[str]) -> None:
        gone = dict.fromkeys(ids)
        under_way = self._begun_rows
        if under_way:
            self._begun, self._begun_rows = [], ()
            self._take_back()
        try:
            self._rewrite([row for row in self.every() if row.id not in gone])
        except OSError as error:
            raise Unavailable(f"cannot prune {LOG}: {error.strerror}") from error
        finally:
            if under_way:
                try:
                    self.begin(under_way)
                except Unavailable as error:
                    self._lost = error  # ``finish`` tells it

    def close(self) -> None:
        """Whatever the mark says is on the disk with it."""
        try:
            self._mark()
            self._disk.fsync(MARK)
        except OSError:
            pass  # the mark is a hint: without it the next opening believes less

    # ── reading ───────────────────────────────────────────────────────────────────────────────────

    def rows_of(self, task_id: str) -> Sequence[tuple[int, int, bytes, int]]:
        return sorted(
            (place.kind, place.at_ms, self._body(place), place.crc) for place in self._places_of(task_id)
        )

    def open_ids(self) -> Sequence[str]:
        return list(self._open)

    def newest(self, limit: int, state: str) -> Sequence[str]:
        accepted: dict[str, None] = {}
        ends: dict[str, str] = {}
        for place in self._walk():
            if place.kind == ACCEPTED:
                accepted[place.id] = None
            elif place.kind == CLOSED:
                ends[place.id] = place.state
        if state == "open":
            found = [each for each in accepted if each not in ends]
        else:
            found = [each for each in accepted if not state or ends.get(each) == state]
        return found[::-1][:limit]

    def beginning(self, prefix: str, limit: int) -> Sequence[str]:
        found = {each.id for each in self._walk() if each.kind == ACCEPTED and each.id.startswith(prefix)}
        return sorted(found)[:limit]

    def ends_of(self, ids: Sequence[str]) -> Sequence[tuple[str, int, bytes | None, int]]:
        return [
            (task_id, place.kind, self._body(place) if place.body_bytes <= SMALL_BYTES else None, place.crc)
            for task_id in ids
            for place in self._places_of(task_id)
            if place.kind in (ACCEPTED, CLOSED)
        ]

    def below(
        self,
        task_id: str,
        *,
        limit: int,
        window: int,
        state: str = "",
        mention: bytes = b"",
        ends: Sequence[bytes] = (),
        least: str = "",
    ) -> tuple[Sequence[str], str]:
        accepted: dict[str, _Place] = {}
        closed: dict[str, _Place] = {}
        for place in self._walk():
            if place.kind == ACCEPTED and least <= place.id and (not task_id or place.id < task_id):
                accepted[place.id] = place
            elif place.kind == CLOSED:
                closed[place.id] = place

        def is_among(each: str) -> bool:
            end = closed.get(each)
            if state and state != ("open" if end is None else end.state):
                return False
            if ends and end is not None and end.body_bytes <= SMALL_BYTES:
                body = self._body(end)
                if not any(one in body for one in ends):
                    return False
            return mention in self._body(accepted[each])[:HEAD_BYTES]

        looked = sorted(accepted, reverse=True)
        more = looked[window - 1] if (state or mention or ends) and len(looked) >= window else ""
        found = [each for each in (looked[:window] if more else looked) if is_among(each)][:limit]
        return found, found[-1] if len(found) == limit else more

    def settled(self) -> Sequence[Settled]:
        sizes: dict[str, int] = {}
        ends: dict[str, int] = {}
        for place in self._walk():
            sizes[place.id] = sizes.get(place.id, 0) + place.body_bytes
            if place.kind == CLOSED:
                ends[place.id] = place.at_ms
        return [Settled(task_id, at_ms, sizes[task_id]) for task_id, at_ms in reversed(ends.items())]

    def totals(self) -> Totals:
        settled = self.settled()
        known = [each.at_ms for each in settled if each.at_ms >= KNOWN_MS]
        return Totals(len(settled), sum(each.bytes for each in settled), min(known, default=0))

    def every(self) -> Iterator[Row]:
        for place in self._walk():
            yield Row(place.id, place.kind, place.at_ms, place.state, self._body(place), place.crc)

    def kept(self) -> Iterator[tuple[Row, int | None]]:
        """As ``every``, with the true time at which each was fsynced; None: not known.

        It is told of commits that `finish` told so, and of no other: a rewriting of the log forgets it, and
        what a dead process had begun was never told.
        """
        commits, at = self._disk.commits, 0
        for place, row in zip(self._walk(), self.every(), strict=True):
            while at < len(commits) and commits[at + 1] <= place.offset:
                at += 3
            known = at < len(commits) and commits[at] <= place.offset
            yield row, commits[at + 2] if known else None

    def gaps(self) -> list[str]:
        """What its openings named, and what is unreadable now: nobody reads the old rows of a log that is
        open, so damage may lie there unseen."""
        found = list(self.damaged)
        at = self._head_bytes()
        head = self._disk.read(LOG, 0, at)
        if head[-_CRC.size :] != _CRC.pack(zlib.crc32(head[: -_CRC.size])):
            found.append(f"{LOG}: its head is unreadable")
        while at < self._good:
            batch = self._batch_head(at)
            if batch is None:
                found.append(f"{LOG}: the head of a commit at {at}")
                at = self._next_batch(at + 1, 0, self._good)
                continue
            end = min(at + _BATCH_BYTES + batch[1], self._good)
            offset = at + _BATCH_BYTES
            while offset < end:
                place = self._place(offset)
                if place is None:
                    found.append(f"{LOG}: {end - offset} bytes at {offset} are unreadable")
                    break
                offset = place.end
            at = end
        return found

    # ── parts: rows and batches ───────────────────────────────────────────────────────────────────

    def _unheard(self, rows: Sequence[Row]) -> list[Row]:
        """Without those whose (id, kind) is there, or came earlier among them."""
        fresh: list[Row] = []
        seen: dict[tuple[str, int], None] = {}
        for row in rows:
            name = (row.id, row.kind)
            if name in seen:
                continue
            if zlib.crc32(row.id.encode()) in self._latest and any(
                place.kind == row.kind for place in self._places_of(row.id)
            ):
                continue
            seen[name] = None
            fresh.append(row)
        return fresh

    @staticmethod
    def _batch(rows: Sequence[Row], at: int, number: int, latest: dict[int, int]) -> tuple[bytes, list[int]]:
        """A batch that will lie at `at`, and where its rows will."""
        parts: list[bytes] = []
        offsets = []
        before: dict[int, int] = {}
        offset = at + _BATCH_BYTES
        for row in rows:
            name, state = row.id.encode(), row.state.encode()
            key = zlib.crc32(name)
            head = _ROW.pack(
                len(name),
                len(state),
                row.kind,
                row.at_ms,
                len(row.body),
                row.crc,
                before.get(key) or latest.get(key, 0),
            )
            parts += (head, _CRC.pack(zlib.crc32(state, zlib.crc32(name, zlib.crc32(head)))), name, state)
            parts.append(row.body)
            offsets.append(offset)
            before[key] = offset
            offset += _ROW_BYTES + len(name) + len(state) + len(row.body)
        payload = b"".join(parts)
        head = _BATCH.pack(_BATCH_MAGIC, number, len(payload), len(rows), zlib.crc32(payload))
        return head + _CRC.pack(zlib.crc32(head)) + payload, offsets

    def _place(self, offset: int) -> _Place | None:
        """The head of the row at that place; None: there is none that holds."""
        head = self._disk.read(LOG, offset, _ROW_BYTES)
        if len(head) < _ROW_BYTES:
            return None
        id_bytes, state_bytes, kind, at_ms, body_bytes, crc, before = _ROW.unpack_from(head)
        names = self._disk.read(LOG, offset + _ROW_BYTES, id_bytes + state_bytes)
        if _CRC.unpack_from(head, _ROW.size)[0] != zlib.crc32(names, zlib.crc32(head[: _ROW.size])):
            return None
        return _Place(
            offset,
            names[:id_bytes].decode(),
            kind,
            at_ms,
            names[id_bytes:].decode(),
            offset + _ROW_BYTES + id_bytes + state_bytes,
            body_bytes,
            crc,
            before,
        )

    def _body(self, place: _Place) -> bytes:
        return self._disk.read(LOG, place.body_at, place.body_bytes)

    def _places_of(self, task_id: str) -> list[_Place]:
        """The rows of a task, newest first."""
        found = []
        offset = self._latest.get(zlib.crc32(task_id.encode()), 0)
        while offset:
            place = self._place(offset)
            if place is None:  # damaged since it was opened: what it leads to is found the long way
                return [each for each in self._walk() if each.id == task_id][::-1]
            if place.id == task_id:
                found.append(place)
            offset = place.before
        return found

    def _walk(self) -> Iterator[_Place]:
        """Every row that can be read, up to what is fsynced."""
        at = self._head_bytes()
        while at < self._good:
            batch = self._batch_head(at)
            if batch is None:
                at = self._next_batch(at + 1, 0, self._good)
                continue
            end = min(at + _BATCH_BYTES + batch[1], self._good)
            offset = at + _BATCH_BYTES
            while offset < end:
                place = self._place(offset)
                if place is None:
                    break
                yield place
                offset = place.end
            at = end

    def _batch_head(self, at: int) -> tuple[int, int, int, int] | None:
        """(number, length, count, checksum) of the batch that begins there."""
        head = self._disk.read(LOG, at, _BATCH_BYTES)
        if len(head) < _BATCH_BYTES or not head.startswith(_BATCH_MAGIC):
            return None
        if _CRC.unpack_from(head, _BATCH.size)[0] != zlib.crc32(head[: _BATCH.size]):
            return None
        _, number, length, count, checksum = _BATCH.unpack_from(head)
        return number, length, count, checksum

    def _is_whole(self, at: int, batch: tuple[int, int, int, int]) -> bool:
        payload = self._disk.read(LOG, at + _BATCH_BYTES, batch[1])
        return len(payload) == batch[1] and zlib.crc32(payload) == batch[3]

    def _next_batch(self, start: int, above: int, end: int) -> int:
        """Where the next batch with a higher number begins; `end`: nowhere."""
        data = self._disk.read(LOG, start, max(0, end - start))
        found = data.find(_BATCH_MAGIC)
        while found >= 0:
            batch = self._batch_head(start + found)
            if batch is not None and batch[0] > above:
                return start + found
            found = data.find(_BATCH_MAGIC, found + 1)
        return end

    def _index(self, task_id: str, kind: int, offset: int) -> None:
        self._latest[zlib.crc32(task_id.encode())] = offset
        if kind == ACCEPTED:
            self._open[task_id] = None
        elif kind == CLOSED:
            self._open.pop(task_id, None)

    # ── parts: files ──────────────────────────────────────────────────────────────────────────────

    def _head_bytes(self) -> int:
        mesh_id, node_id = self._owner
        return _HEAD.size + len(mesh_id.encode()) + len(node_id.encode()) + _CRC.size

    def _head(self, generation: int, safe: int) -> bytes:
        mesh_id, node_id = (name.encode() for name in self._owner)
        head = _HEAD.pack(_HEAD_MAGIC, generation, safe, len(mesh_id), len(node_id)) + mesh_id + node_id
        return head + _CRC.pack(zlib.crc32(head))

    def _rewrite(self, rows: Sequence[Row]) -> None:
        """A log of these rows, in the place of what is there. Raises: OSError: what is there stays."""
        disk = self._disk
        latest: dict[int, int] = {}
        data = [b""]
        at = self._head_bytes()
        number = 0
        for first in range(0, len(rows), 512):
            number += 1
            batch, offsets = self._batch(rows[first : first + 512], at, number, latest)
            for row, offset in zip(rows[first : first + 512], offsets, strict=True):
                latest[zlib.crc32(row.id.encode())] = offset
            data.append(batch)
            at += len(batch)
        data[0] = self._head(self._generation + 1, at)
        try:
            disk.write(FRESH, 0, b"".join(data))
            disk.fsync(FRESH)
        except OSError:
            if disk.exists(FRESH):
                disk.remove(FRESH)
            raise
        disk.rename(FRESH, LOG)
        del disk.commits[:]
        self._names_unsafe = True  # until then nothing more may be told as kept
        self._generation += 1
        self._good, self._number = at, number
        self._latest, self._open = latest, {}
        for row in rows:
            if row.kind == ACCEPTED:
                self._open[row.id] = None
            elif row.kind == CLOSED:
                self._open.pop(row.id, None)
        try:
            disk.fsync_dir()
        except OSError:
            return  # the next commit tries again before it counts
        self._names_unsafe = False
        self._mark()

    def _take_back(self) -> None:
        """Nothing behind what is fsynced."""
        if self._disk.size(LOG) > self._good:
            self._disk.truncate(LOG, self._good)

    def _mark(self) -> None:
        self._fsynced.say(self._generation, self._good)

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
            self._rewrite([])
            self._settle_files()
            return
        safe = self._read_head(marked)
        if safe is None:  # its creation was cut off, before anything was told
            self._rewrite([])
            self._settle_files()
            return
        if marked is not None and marked[0] == self._generation:
            safe = max(safe, marked[1])
        elif marked is not None and marked[0] > self._generation:
            self.damaged.append(f"{LOG} is older than {MARK}")
        named = len(self.damaged)
        places: list[_Place] = []
        self._good = self._read_batches(safe, places)
        self._take_back()
        if len(self.damaged) > named:
            self._mend(places)
        else:
            for place in places:
                self._index(place.id, place.kind, place.offset)
        self._settle_files()

    def _mend(self, places: list[_Place]) -> None:
        """What can be read goes into a new log, so that nothing is ever written behind damage; the old one
        is kept beside it."""
        disk = self._disk
        kept = aside(disk, LOG)
        try:
            disk.write(kept, 0, disk.read(LOG))
            disk.fsync(kept)
        except OSError:
            if disk.exists(kept):
                disk.remove(kept)
            raise
        self.damaged.append(f"{LOG} as it was is {kept}")
        self._rewrite(
            [
                Row(place.id, place.kind, place.at_ms, place.state, self._body(place), place.crc)
                for place in places
            ]
        )

    def _settle_files(self) -> None:
        """What the last process left in the kernel's cache, and is believed from here on, is made safe."""
        disk = self._disk
        disk.fsync(LOG)
        disk.fsync_dir()
        self._names_unsafe = False
        self._mark()
        if disk.exists(MARK):
            disk.fsync(MARK)
            disk.fsync_dir()

    def _read_head(self, marked: tuple[int, int] | None) -> int | None:
        """How far the log was safe when it was made. None: it never was."""
        disk = self._disk
        head = disk.read(LOG, 0, _HEAD.size)
        if len(head) == _HEAD.size and head.startswith(_HEAD_MAGIC):
            _, generation, safe, mesh_bytes, node_bytes = _HEAD.unpack(head)
            names = disk.read(LOG, _HEAD.size, mesh_bytes + node_bytes)
            crc = disk.read(LOG, _HEAD.size + mesh_bytes + node_bytes, _CRC.size)
            if crc == _CRC.pack(zlib.crc32(head + names)):
                found = names[:mesh_bytes].decode(), names[mesh_bytes:].decode()
                for what, is_, wanted in zip(("mesh", "node"), found, self._owner, strict=True):
                    if is_ != wanted:
                        raise BadInput(
                            f"{LOG} belongs to {what} {is_}, not to {wanted}", fix=f"start it as {is_}"
                        )
                self._generation = generation
                return int(safe)
        if marked is None and self._next_batch(0, 0, disk.size(LOG)) == disk.size(LOG):
            return None
        raise StoreDamaged(f"{LOG} is damaged: its head is unreadable", fix=FIX)

    def _read_batches(self, safe: int, places: list[_Place]) -> int:
        """Find every row that can be read, name what cannot. Returns: where the log ends.

        Args: safe: up to here it was fsynced.   places: the rows go here.
        """
        size = self._disk.size(LOG)
        at = self._head_bytes()
        while at < size:
            batch = self._batch_head(at)
            if batch is not None and self._is_whole(at, batch):
                end = at + _BATCH_BYTES + batch[1]
                self._number = max(self._number, batch[0])
            elif batch is not None and at + _BATCH_BYTES + batch[1] <= size:
                end = at + _BATCH_BYTES + batch[1]
                if at >= safe and self._next_batch(end, batch[0], size) == size:
                    return at
                self._number = max(self._number, batch[0])
            else:
                end = self._next_batch(at + 1, self._number, size)
                if at >= safe and end == size:
                    return at
                self.damaged.append(f"{LOG}: the head of a commit at {at}")
            self._read_rows(at + _BATCH_BYTES, end, places)
            at = end
        if at < safe:
            self.damaged.append(f"{LOG}: cut short, {at} of {safe} bytes are left")
        return at

    def _read_rows(self, offset: int, end: int, places: list[_Place]) -> None:
        while offset < end:
            place = self._place(offset)
            if place is None:
                self.damaged.append(f"{LOG}: {end - offset} bytes at {offset} are unreadable")
                return
            places.append(place)
            offset = place.end


def set_aside(disk: Disk) -> str:
    """Move a damaged log out of the way, keeping every byte. Returns: its new name."""
    kept = aside(disk, LOG)
    if disk.exists(LOG):
        disk.rename(LOG, kept)
    del disk.commits[:]
    if disk.exists(MARK):
        disk.remove(MARK)
    disk.fsync_dir()
    return kept
