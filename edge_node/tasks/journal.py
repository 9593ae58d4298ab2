"""The journal: the ledger's records on a disk, many to an fsync.

A shell. `append` never waits: a thread of its own takes everything that has gathered, writes it as one
statement (one transaction, one fsync of the WAL) and reports the serials back on the event loop. One
statement, because a thread that talks to SQLite row by row must win the interpreter back from a busy event
loop after every row, up to 5 ms each time.

    records(seq, id, kind, at_ms, state, body, crc)     unique (id, kind): a second accept or a second
                                                        terminal record of a task cannot exist
    kind 0 accepted · 1 closed · 100 + n: attempt n reserved · below 0: a note

Every body carries a CRC-32 over id, kind and bytes; a row that fails it is named in `damaged`, never
guessed at. Opening checks that the file is of this mesh, this node and a version that we can read.

`MemoryJournal` keeps the same promises for as long as the process lives; it is for tests and for nodes that
are told to promise nothing beyond that. Not here: what to write (`ledger`), when to prune (the agent).
"""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
import zlib
from typing import TYPE_CHECKING, Protocol

import msgspec

from edge_node.tasks.states import Status
from edge_node.tasks.task import Accepted, Attempt, Closed, Fenced, Noted, Outcome, Record, Task
from security.errors import BadInput, Unavailable

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from pathlib import Path

SCHEMA_VERSION = 1
APPLICATION_ID = 0x65775F6A  # "ew_j"
ROWS_MAX = 512
BYTES_MAX = 16 * 2**20
"""Of one commit: what a reader of the WAL, and a client waiting for its accept, has to sit through."""
ACCEPTED, CLOSED, RESERVED = 0, 1, 100
LOST_KEPT = 100_000
DAMAGED_FIX = "it can be set aside and looked at with sqlite3 .recover"
NOTES_PER_TASK_MAX = 64


class StoreDamaged(Unavailable):
    """The file is not, or no longer, a readable journal. Set it aside; nothing in it is deleted."""


class Stored(msgspec.Struct, frozen=True):
    """One task as the journal knows it."""

    task: Task
    outcome: Outcome | None  # None: open
    attempts: tuple[Attempt, ...] = ()  # reserved so far, when open
    notes: tuple[Noted, ...] = ()


class Summary(msgspec.Struct, frozen=True):
    """One line of a list of tasks."""

    id: str
    function: str
    state: str  # "open" or how it ended
    where: str
    place: str
    accepted_at_ms: int
    settled_at_ms: int


class JournalPort(Protocol):
    """What the agent needs of a journal."""

    damaged: list[str]

    def start(
        self,
        loop: asyncio.AbstractEventLoop,
        on_persisted: Callable[[list[int]], None],
        on_failed: Callable[[list[int], str], None],
    ) -> None:
        """Callbacks come on the loop, in the order of the appends."""

    def append(self, serial: int, records: tuple[Record, ...]) -> None: ...
    def open_tasks(self) -> list[tuple[Task, list[Attempt]]]: ...
    def get(self, task_id: str) -> Stored | None: ...
    def list(self, limit: int = 100, state: str = "") -> list[Summary]: ...
    def prune(self, *, count_max: int, bytes_max: int, before_ms: int) -> int: ...
    def close(self) -> None: ...


_task = msgspec.msgpack.Decoder(Task)
_outcome = msgspec.msgpack.Decoder(Outcome)
_attempts = msgspec.msgpack.Decoder(tuple[Attempt, ...])
_encode = msgspec.msgpack.Encoder().encode

Row = tuple[str, int, int, str, bytes, int]  # id, kind, at_ms, state, body, crc


def _crc(task_id: str, kind: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(f"{task_id}/{kind}".encode()))


def row_of(record: Record) -> Row:
    """One record as it lies in the table."""
    if type(record) is Accepted:
        task = record.task
        task_id, kind, at_ms, state, body = task.id, ACCEPTED, task.accepted_at_ms, "", _encode(task)
    elif type(record) is Closed:
        outcome = record.outcome
        task_id, kind, at_ms = record.task_id, CLOSED, outcome.settled_at_ms
        state, body = outcome.status, _encode(outcome)
    elif type(record) is Fenced:
        task_id, kind, at_ms = record.task_id, RESERVED + record.attempts[-1].number, 0
        state, body = "", _encode(record.attempts)
    else:
        assert type(record) is Noted
        task_id, at_ms, state, body = record.task_id, record.at_ms, "", record.text.encode()
        # Notes share a few negative kinds: the same text is kept once, and a task has room for 64.
        kind = -1 - zlib.crc32(body) % NOTES_PER_TASK_MAX
    return task_id, kind, at_ms, state, body, _crc(task_id, kind, body)


_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records(
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    kind INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    state TEXT NOT NULL,
    body BLOB NOT NULL,
    crc INTEGER NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS records_by_id ON records(id, kind);
"""
_OPEN = """
SELECT a.id FROM records AS a WHERE a.kind = 0
AND NOT EXISTS (SELECT 1 FROM records AS c WHERE c.id = a.id AND c.kind = 1)
"""


def insert_statement(rows: int) -> str:
    values = ",".join(["(?,?,?,?,?,?)"] * rows)
    return f"INSERT OR IGNORE INTO records(id, kind, at_ms, state, body, crc) VALUES {values}"  # noqa: S608


class Journal:
    """The records of one node in one SQLite file.

    Raises (constructor): BadInput: a file of another mesh, another node or a newer version.
    StoreDamaged: not a database, or a torn one. Unavailable: it cannot be opened or written at all.
    """

    def __init__(self, path: Path, mesh_id: str, node_id: str) -> None:
        self._path = path
        self.damaged: list[str] = []
        self.bytes_written = 0  # bodies, for the wear figure
        self._unwritable = ""  # why the commit that is being gathered cannot be written
        self._queue: queue.SimpleQueue[tuple[int, tuple[Record, ...]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        try:
            path.touch(mode=0o600, exist_ok=True)
            self._writer = _connect(path)
            self._reader = _connect(path)
            with contextlib.suppress(sqlite3.OperationalError):
                self._reader.execute("PRAGMA query_only = ON")
            self._check_in(mesh_id, node_id)
        except OSError as error:
            raise Unavailable(f"cannot open {path}: {error.strerror}", fix="check its directory") from error
        except sqlite3.OperationalError as error:
            raise Unavailable(
                f"cannot open {path}: {error}",
                fix="check free space and permissions, or who else has it open",
            ) from error
        except sqlite3.DatabaseError as error:
            raise StoreDamaged(f"{path} is damaged: {error}", fix=DAMAGED_FIX) from error

    def _check_in(self, mesh_id: str, node_id: str) -> None:
        path, writer = self._path, self._writer
        version = writer.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise BadInput(
                f"{path} has schema version {version}, this program reads up to {SCHEMA_VERSION}",
                fix="upgrade edgeweave, or use another --home",
            )
        tables = {name for (name,) in writer.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and not {"meta", "records"} <= tables:
            raise BadInput(
                f"{path} is a database but not a journal", fix="move it away, or use another --home"
            )
        writer.executescript(_SCHEMA)
        for key, value, what in (("mesh", mesh_id, "mesh"), ("node", node_id, "node")):
            writer.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, value))
            (found,) = writer.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            if found != value:
                raise BadInput(
                    f"{path} belongs to {what} {found}, not to {value}",
                    fix=f"start it as {found}, or use another --home",
                )
        if version < SCHEMA_VERSION:
            writer.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            writer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._grow_wal()

    def _grow_wal(self) -> None:
        """Let the WAL reach its full size before anybody waits for it.

        An fsync of a file that grows also commits the file system's own journal; one that overwrites does not
        (benchmarks/bench_wal.py), and a WAL begins at nothing in every process. So: as many commits as fill
        it, not synced (NORMAL syncs at checkpoints alone, so nothing durable is at risk), then one
        checkpoint, after which it is written from its start. Costs 4 MB of writing a start.
        """
        writer = self._writer
        pages = writer.execute("PRAGMA wal_autocheckpoint").fetchone()[0]
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        writer.execute("PRAGMA synchronous = NORMAL")
        try:
            for number in range(pages):
                writer.execute("INSERT OR REPLACE INTO meta VALUES ('wal', ?)", (str(number),))
        finally:
            writer.execute("PRAGMA synchronous = FULL")
            writer.execute(f"PRAGMA wal_autocheckpoint = {pages}")
        writer.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()

    # ── writing ───────────────────────────────────────────────────────────────────────────────────────
    def start(
        self,
        loop: asyncio.AbstractEventLoop,
        on_persisted: Callable[[list[int]], None],
        on_failed: Callable[[list[int], str], None],
    ) -> None:
        assert self._thread is None, "started once"
        self._thread = threading.Thread(
            target=self._write, args=(loop, on_persisted, on_failed), name="journal", daemon=True
        )
        self._thread.start()

    def append(self, serial: int, records: tuple[Record, ...]) -> None:
        assert not self._closed, "closed"
        self._queue.put((serial, records))

    def _rows(self, records: tuple[Record, ...]) -> list[Row]:
        """Records as rows. One that has no bytes fails its commit; it must not end the thread."""
        try:
            return [row_of(record) for record in records]
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            self._unwritable = f"a record cannot be written: {type(error).__name__}: {error}"
            return []

    def _write(
        self,
        loop: asyncio.AbstractEventLoop,
        on_persisted: Callable[[list[int]], None],
        on_failed: Callable[[list[int], str], None],
    ) -> None:
        take = self._queue.get
        writer = self._writer
        lost: set[str] = set()  # accepts that could not be written: nothing else of them may be
        stop = False
        while not stop:
            first = take()
            if first is None:
                return
            item: tuple[int, tuple[Record, ...]] | None = first
            serials: list[int] = []
            values: list[object] = []
            rows = size = 0
            accepts: list[str] = []
            while item is not None:
                serials.append(item[0])
                for row in self._rows(item[1]):
                    if row[1] == ACCEPTED:
                        accepts.append(row[0])
                        lost.discard(row[0])
                    elif row[0] in lost:
                        continue
                    values.extend(row)
                    rows += 1
                    size += len(row[4])
                if rows >= ROWS_MAX or size >= BYTES_MAX:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                stop = item is None
            failure, self._unwritable = self._unwritable, ""
            if rows and not failure:
                try:
                    writer.execute(insert_statement(rows), values)
                except (sqlite3.Error, OverflowError) as error:
                    failure = str(error) or type(error).__name__
            if failure:
                lost.update(accepts)
                if len(lost) > LOST_KEPT:
                    lost.clear()
            with contextlib.suppress(RuntimeError):  # the loop is gone; so is everybody who would listen
                if failure:
                    loop.call_soon_threadsafe(on_failed, serials, failure)
                else:
                    self.bytes_written += size
                    loop.call_soon_threadsafe(on_persisted, serials)

    def close(self) -> None:
        """Write what was appended, then let go of the file. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(sqlite3.Error):
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._reader.close()
        self._writer.close()

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────
    def open_tasks(self) -> list[tuple[Task, list[Attempt]]]:
        """Accepted and not settled, in the order they were accepted; damaged rows go to `damaged`."""
        found = []
        with self._seeing_damage():
            for (task_id,) in self._reader.execute(_OPEN + " ORDER BY a.seq").fetchall():
                stored = self._read(task_id)
                if stored is not None:
                    found.append((stored.task, list(stored.attempts)))
        return found

    def get(self, task_id: str) -> Stored | None:
        """None: never accepted here, pruned, or damaged (then it is named in `damaged`)."""
        with self._seeing_damage():
            return self._read(task_id)

    @contextlib.contextmanager
    def _seeing_damage(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and "decode" not in str(error):
                raise Unavailable(f"cannot read {self._path}: {error}") from error
            raise StoreDamaged(f"{self._path} is damaged: {error}", fix=DAMAGED_FIX) from error

    def _read(self, task_id: str) -> Stored | None:
        task: Task | None = None
        outcome: Outcome | None = None
        attempts: tuple[Attempt, ...] = ()
        notes: list[Noted] = []
        rows = self._reader.execute(
            "SELECT kind, at_ms, body, crc FROM records WHERE id = ? ORDER BY kind", (task_id,)
        ).fetchall()
        for kind, at_ms, body, crc in rows:
            try:
                if _crc(task_id, kind, body) != crc:
                    raise msgspec.DecodeError("checksum")
                if kind == ACCEPTED:
                    task = _task.decode(body)
                elif kind == CLOSED:
                    outcome = _outcome.decode(body)
                elif kind >= RESERVED:
                    attempts = _attempts.decode(body)
                else:
                    notes.append(Noted(task_id, at_ms, body.decode()))
            except (msgspec.MsgspecError, UnicodeDecodeError, TypeError) as error:
                name = f"{task_id}/{kind}: {error}"
                if name not in self.damaged:
                    self.damaged.append(name)
                if kind == CLOSED:  # it did end; running it again would be inventing
                    outcome = Outcome(Status.FAILED.value, cause="the record of how it ended is damaged")
        if task is None:
            return None
        return Stored(task, outcome, attempts, tuple(sorted(notes, key=lambda note: note.at_ms)))

    def verify(self) -> list[str]:
        """Every gap in the file: SQLite's own integrity check, then each row's checksum."""
        gaps = []
        try:
            gaps += [line for (line,) in self._reader.execute("PRAGMA integrity_check") if line != "ok"]
            for task_id, kind, body, crc in self._reader.execute("SELECT id, kind, body, crc FROM records"):
                if _crc(task_id, kind, body) != crc:
                    gaps.append(f"{task_id}/{kind}: checksum")
        except (sqlite3.Error, TypeError) as error:
            gaps.append(f"{self._path.name}: {error}")
        return gaps

    def prune(self, *, count_max: int, bytes_max: int, before_ms: int) -> int:
        """Forget settled tasks, oldest first: those settled before `before_ms`, and what exceeds the bounds.

        Open tasks are never touched. Returns how many tasks went. Call it off the event loop; the writer
        waits meanwhile.
        """
        with self._seeing_damage(), contextlib.closing(_connect(self._path)) as pruner:
            rows = pruner.execute(
                "SELECT c.id, c.at_ms, (SELECT sum(length(r.body)) FROM records AS r WHERE r.id = c.id) "
                "FROM records AS c WHERE c.kind = 1 ORDER BY c.seq DESC"
            ).fetchall()
            kept = size = 0
            gone = []
            for task_id, at_ms, length in rows:
                if kept >= count_max or size + length > bytes_max or at_ms < before_ms:
                    gone.append((task_id,))
                else:
                    kept += 1
                    size += length
            for first in range(0, len(gone), 500):
                pruner.execute("BEGIN IMMEDIATE")
                pruner.executemany("DELETE FROM records WHERE id = ?", gone[first : first + 500])
                pruner.execute("COMMIT")
            if gone:
                pruner.executescript("PRAGMA incremental_vacuum")  # `execute` would free one page
        return len(gone)

    def list(self, limit: int = 100, state: str = "") -> list[Summary]:
        """Newest first. `state`: "open", a status, or everything."""
        where = ""
        if state == "open":
            where = "AND c.id IS NULL"
        elif state:
            where = "AND c.state = :state"
        found = []
        with self._seeing_damage():
            rows = self._reader.execute(
                "SELECT a.id, c.id IS NULL FROM records AS a "  # noqa: S608  `where` is one of three constants
                "LEFT JOIN records AS c ON c.id = a.id AND c.kind = 1 "
                f"WHERE a.kind = 0 {where} ORDER BY a.seq DESC LIMIT :limit",
                {"state": state, "limit": limit},
            ).fetchall()
            for task_id, _ in rows:
                stored = self._read(task_id)
                if stored is not None:
                    found.append(summary_of(stored))
        return found


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=10.0, cached_statements=256
    )
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # takes effect in a new file only
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA cache_size = -4096")
    return connection


def set_aside(path: Path) -> Path:
    """Move a damaged journal (and its WAL) out of the way, keeping every byte; returns where it went."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


def summary_of(stored: Stored) -> Summary:
    task, outcome = stored.task, stored.outcome
    return Summary(
        task.id,
        task.function,
        "open" if outcome is None else outcome.status,
        task.where,
        "" if outcome is None else outcome.place,
        task.accepted_at_ms,
        0 if outcome is None else outcome.settled_at_ms,
    )


class MemoryJournal:
    """The same port over a dict; persists at the loop's next turn. `full` makes every write fail."""

    def __init__(self) -> None:
        self.damaged: list[str] = []
        self.full = False
        self._stored: dict[str, Stored] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending: list[int] = []

    def start(
        self,
        loop: asyncio.AbstractEventLoop,
        on_persisted: Callable[[list[int]], None],
        on_failed: Callable[[list[int], str], None],
    ) -> None:
        self._loop = loop
        self._on_persisted = on_persisted
        self._on_failed = on_failed

    def append(self, serial: int, records: tuple[Record, ...]) -> None:
        assert self._loop is not None, "started first"
        if self.full:
            self._flush()
            self._loop.call_soon(self._on_failed, [serial], "the journal is full")
            return
        for record in records:
            self.write(record)
        if not self._pending:
            self._loop.call_soon(self._flush)
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

    def list(self, limit: int = 100, state: str = "") -> list[Summary]:
        found = [summary_of(stored) for stored in reversed(self._stored.values())]
        return [summary for summary in found if state in ("", summary.state)][:limit]

    def prune(self, *, count_max: int, bytes_max: int, before_ms: int) -> int:
        settled = [s for s in reversed(self._stored.values()) if s.outcome is not None]
        settled.sort(key=lambda s: -s.outcome.settled_at_ms if s.outcome else 0)
        kept = size = gone = 0
        for stored in settled:
            assert stored.outcome is not None
            length = len(stored.task.input) + len(stored.outcome.output)
            if kept >= count_max or size + length > bytes_max or stored.outcome.settled_at_ms < before_ms:
                del self._stored[stored.task.id]
                gone += 1
            else:
                kept += 1
                size += length
        return gone

    def close(self) -> None:
        self._loop = None
