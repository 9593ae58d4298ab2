"""Recovery: a damaged ledger is set aside, and what can be read of it goes on in a new one (promise P6).

    damaged file ─► set aside, every byte ─► its pages (`pages`) ─► rows whose checksum holds ─► new file
                                                    └─► index keys ─► which rows are missing ─► named

Believed is what bears its own checksum: a row. The index is believed only for names: it says which rows there
were. A task whose end is named there and cannot be read has ended, and is not run again; an attempt number
that is named there stays used. Nothing else is made up: a task whose accept is lost is told by its id.

A crash on the way is taken up at the next start: a note beside the file says what is under way, and the new
file takes the old one's name in one rename. Calls block; nobody may have the file open. Not here: what peers
can give back (`edge_node.tasks.salvage`).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_node.store import whole_file
from edge_node.store.ledger import SqliteLedger
from edge_node.store.mark import SUFFIX as MARK_SUFFIX
from edge_node.store.mark import UNDER_WAY, beside
from edge_node.store.pages import INDEX_INTERIOR, INDEX_LEAF, INTERIOR, LEAF, Record, damaged_pages
from edge_node.tasks.rows import (
    ACCEPTED,
    CLOSED,
    RESERVED,
    Row,
    crc_of,
    row_of,
)
from edge_node.tasks.states import Status
from edge_node.tasks.task import Attempt, Closed, Fenced, Outcome, Task
from security.errors import BadInput, Unavailable

TOLD = ".lost.json"
PARTS = ("", "-wal", "-shm", MARK_SUFFIX)
ROWS_AT_ONCE = 512
GAPS_MAX = 10_000
"""Lines kept of one damage; what lies beyond is counted."""
NAMED_MAX = 1_000_000
"""Keys of rows held in memory, some 200 bytes each: ten times what is kept of settled tasks."""
ENDED_UNREADABLY = "the record of how it ended is damaged"


class Losses(msgspec.Struct, frozen=True):
    """What became of one damaged ledger; kept beside it as JSON."""

    cause: str
    aside: str  # the file's name now
    at_ms: int
    rows_kept: int = 0
    gaps: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()  # accepted tasks by id, of which nothing else is known
    unnamed: bool = False  # more may be missing than what is named


class _Key(NamedTuple):
    id: str
    kind: int


def recover(path: Path, mesh_id: str, node_id: str, cause: str) -> Losses:
    """Set the ledger at `path` aside and save into a new one there what can be read. Idempotent by itself:
    after a crash call it again.

    Raises: BadInput: what can be read is another mesh's or node's. Unavailable: the disk refuses; what is
    there stays, for the next try.
    """
    try:
        return _recover(path, mesh_id, node_id, cause)
    except OSError as error:
        raise Unavailable(
            f"{path} is damaged and cannot be set aside: {error.strerror}", fix="free space, check the disk"
        ) from error


def under_way(path: Path) -> bool:
    """A recovery of this ledger was begun and has not ended."""
    return beside(path, UNDER_WAY).exists()


def told(path: Path) -> list[Losses]:
    """What earlier damage of this ledger took, oldest first; a file that cannot be read tells nothing."""
    found = []
    for file in sorted(path.parent.glob(f"{path.name}.damaged-*{TOLD}")):
        with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
            found.append(msgspec.json.decode(file.read_bytes(), type=Losses))
    return sorted(found, key=lambda losses: losses.at_ms)


def _recover(path: Path, mesh_id: str, node_id: str, cause: str) -> Losses:
    note = beside(path, UNDER_WAY)
    fresh = beside(path, ".new")
    if note.exists():
        started = json.loads(note.read_text())
        aside = path.with_name(str(started["aside"]))
        cause = str(started["cause"])
    else:
        aside = _free_name(path)
    whole_file.write(note, json.dumps({"aside": aside.name, "cause": cause}).encode())
    lost = path.with_name(aside.name + TOLD)
    if not lost.exists():
        if not aside.exists():  # the file itself is the last to go: until then the parts may still move
            for part in ("-wal", "-shm", MARK_SUFFIX, ""):
                with contextlib.suppress(FileNotFoundError):
                    beside(path, part).rename(beside(aside, part))
            whole_file.sync(path.parent)
        for part in PARTS:
            beside(fresh, part).unlink(missing_ok=True)
        losses = _saved(aside, fresh, mesh_id, node_id, cause)
        whole_file.write(lost, msgspec.json.format(msgspec.json.encode(losses), indent=1))
    else:
        losses = msgspec.json.decode(lost.read_bytes(), type=Losses)
    if fresh.exists():
        for part in ("-wal", "-shm"):
            beside(fresh, part).unlink(missing_ok=True)
            beside(path, part).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            beside(fresh, MARK_SUFFIX).replace(beside(path, MARK_SUFFIX))
        fresh.replace(path)
        whole_file.sync(path.parent)
    note.unlink(missing_ok=True)
    whole_file.sync(path.parent)
    return losses


def _free_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists() or path.with_name(
        aside.name + TOLD
    ).exists():
        number += 1
    return aside


def _saved(aside: Path, fresh: Path, mesh_id: str, node_id: str, cause: str) -> Losses:
    salvage = Salvage(aside)
    store = SqliteLedger(fresh, mesh_id, node_id)
    try:
        batch: list[tuple[int | None, Row]] = []
        for numbered in salvage.rows():
            batch.append(numbered)
            if len(batch) >= ROWS_AT_ONCE:
                store.restore(batch)
                batch = []
        for key, value in salvage.owner.items():
            if value != {"mesh": mesh_id, "node": node_id}[key]:
                raise BadInput(
                    f"{aside} belongs to {key} {value}, not to {mesh_id if key == 'mesh' else node_id}",
                    fix="it was set aside and is not used",
                )
        store.restore(batch)
        store.restore([(None, row) for row in salvage.conclusions(store.rows_of)])
    finally:
        store.close()
    gaps = salvage.gaps
    if len(gaps) > GAPS_MAX:
        gaps = [*gaps[:GAPS_MAX], f"… and {len(gaps) - GAPS_MAX} more"]
    return Losses(
        cause=cause,
        aside=aside.name,
        at_ms=time.time_ns() // 1_000_000,
        rows_kept=len(salvage.kept),
        gaps=tuple(gaps),
        lost=tuple(salvage.lost[:GAPS_MAX]),
        unnamed=salvage.unnamed,
    )


class Salvage:
    """The rows of one damaged ledger that nobody has open. Exhaust `rows`, then ask for the rest."""

    def __init__(self, path: Path) -> None:
        self._pages, mark = damaged_pages(path)
        self._newest = 0 if mark is None else mark.newest
        self.gaps: list[str] = []
        self.lost: list[str] = []
        self.unnamed = False
        self.owner: dict[str, str] = {}
        self.kept: set[_Key] = set()
        self._numbers: set[int] = set()
        self._named: dict[_Key, int] = {}
        self._refused: dict[int, str] = {}
        self._missing: dict[_Key, int] = {}
        self._children: list[tuple[int, int, int | None]] = []  # page, row numbers below it
        if not path.exists() or not path.stat().st_size:
            self.gaps.append("the file is gone" if not path.exists() else "the file is empty")
            self.unnamed = True

    def rows(self) -> Iterator[tuple[int | None, Row]]:
        """Each with the number that it had, or None where another bears that."""
        seen: set[int] = set()
        for number, kind in self._pages.trees():
            if kind == INTERIOR:
                after = 0
                for page, last in self._pages.children(number):
                    self._children.append((page, after, last))
                    after = last if last is not None else after
                seen.add(number)
                continue
            for record in self._pages.records(number, kind):
                if kind == LEAF:
                    row = self._row(record)
                    if row is not None:
                        seen.add(number)
                        yield self._numbered(record.number, row)
                elif kind in (INDEX_LEAF, INDEX_INTERIOR):
                    self._key(record)
            if kind == LEAF:
                seen.add(number)
        newest = max(self._numbers | set(self._named.values()), default=0)
        for record in self._pages.doubtful_records():
            row = self._row(record)
            if row is None:
                continue
            known = self._named.get(_Key(row.id, row.kind))
            if known == record.number or (known is None and record.number > newest):
                yield self._numbered(record.number, row)
        self._account(seen)
        self._pages.close()

    def _numbered(self, number: int, row: Row) -> tuple[int | None, Row]:
        self.kept.add(_Key(row.id, row.kind))
        if number in self._numbers:
            return None, row
        self._numbers.add(number)
        return number, row

    def _row(self, record: Record) -> Row | None:
        """The row that this record is, if it can be believed."""
        match record.values:
            case (None, str(name), int(kind), int(at_ms), str(state), bytes(body), int(crc)):
                if crc_of(name, kind, body) == crc:
                    if _Key(name, kind) in self.kept:
                        return None
                    return _told_alike(Row(name, kind, at_ms, state, body, crc))
                self._refused[record.number] = f"{name}/{kind}: checksum"
            case (_, str(), int(), int(), str(), bytes(), _) if record.page:
                self._refused[record.number] = f"row {record.number}: damaged"
            case _ if record.page and len(record.values) == 7:
                self._refused[record.number] = f"row {record.number}: damaged"
        return None

    def _key(self, record: Record) -> None:
        match record.values:
            case (str(name), int(kind), int(number)) if len(self._named) < NAMED_MAX:
                self._named[_Key(name, kind)] = number
            case ("mesh" | "node" as key, str(value)):
                self.owner[str(key)] = value

    def _account(self, seen: set[int]) -> None:
        """Name what is missing."""
        self.gaps += self._pages.gaps
        missing = {key: number for key, number in self._named.items() if key not in self.kept}
        of_number = {number: key for key, number in missing.items()}
        for page, after, last in self._children:
            if page in seen:
                continue
            count = sum(1 for number in of_number if after < number and (last is None or number <= last))
            end = "on" if last is None else str(last)
            self.gaps.append(f"page {page}: {count} rows named, unreadable between rows {after} and {end}")
            self.unnamed = True
        if self._pages.gaps:
            self.unnamed = True
        for number, text in self._refused.items():
            if number not in self._numbers and number not in of_number:
                self.gaps.append(text)
                self.unnamed = True
        ended = {key.id for key in (*self.kept, *missing) if key.kind == CLOSED}
        for key in sorted(missing, key=lambda key: missing[key]):
            self.gaps.append(f"{key.id}/{key.kind}: row {missing[key]} is unreadable")
            if key.kind == ACCEPTED and key.id not in ended:
                self.lost.append(key.id)
        known = {key.id for key in self.kept if key.kind == ACCEPTED} | {key.id for key in missing}
        for key in sorted(self.kept):
            if key.kind >= RESERVED and key.id not in known:
                self.gaps.append(f"{key.id}/0: its accept is unreadable, attempts of it are there")
                if key.id not in ended and key.id not in self.lost:
                    self.lost.append(key.id)
        newest = max(self._numbers | set(self._named.values()), default=0)
        if newest < self._newest:
            self.gaps.append(f"rows {newest + 1} to {self._newest} are gone")
            self.unnamed = True
        self._missing = missing

    def conclusions(self, rows_of: Callable[[str], Sequence[tuple[int, int, bytes, int]]]) -> list[Row]:
        """What follows from names alone: a task that has ended, and numbers that are used.

        Args: rows_of: (kind, at_ms, body, crc) of what was kept of a task, by kind ascending.
        """
        rows: list[Row] = []
        for key in sorted(self._missing):
            if _Key(key.id, ACCEPTED) not in self.kept:
                continue
            if key.kind == CLOSED:
                outcome = Outcome(Status.FAILED.value, cause=ENDED_UNREADABLY)
                rows.append(row_of(Closed(key.id, outcome)))
            elif key.kind >= RESERVED:
                before = [body for kind, _, body, _ in rows_of(key.id) if RESERVED <= kind < key.kind]
                known = _attempts.decode(before[-1]) if before else ()
                number = key.kind - RESERVED
                rows.append(row_of(Fenced(key.id, (*known, Attempt(number, "")))))
        return rows


_attempts = msgspec.msgpack.Decoder(tuple[Attempt, ...])
_task = msgspec.msgpack.Decoder(Task)
_outcome = msgspec.msgpack.Decoder(Outcome)


def _told_alike(row: Row) -> Row:
    """Its time and state as the body, which the checksum covers, tells them."""
    with contextlib.suppress(msgspec.MsgspecError):
        if row.kind == ACCEPTED:
            return row._replace(at_ms=_task.decode(row.body).accepted_at_ms, state="")
        if row.kind == CLOSED:
            outcome = _outcome.decode(row.body)
            return row._replace(at_ms=outcome.settled_at_ms, state=outcome.status)
    return row
