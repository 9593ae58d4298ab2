"""The ledger's rows in one SQLite file (WAL, synchronous = FULL).

Opening checks that the file is of this mesh, this node and a version that we can read, that its trees and
index agree, and that nothing is missing that was safe (`mark`). A writer and a reader connection: readers
never wait for an fsync. Thread-safe as SQLite is: one writing thread, any that read one after the other.
Not here: what a row says (`edge_node.tasks.rows`), what shares a commit (`edge_node.tasks.journal`), what
can be saved of a damaged file (`recovery`).
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from edge_node.store.mark import Mark, missing, vouched
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
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from edge_node.store.mark import Vouched

SCHEMA_VERSION = 1
WAL_FRAME_BYTES = 24 + 4096
_OF_DAMAGE = ("database disk image is malformed", "file is not a database", "malformed database schema")
APPLICATION_ID = 0x65775F6A  # "ew_j"
PRAGMAS = (
    "PRAGMA auto_vacuum = INCREMENTAL",  # takes effect in a new file only
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA cache_size = -1024",  # KiB, of each of two connections; behind it stands the page cache
    "PRAGMA journal_size_limit = 8388608",  # a log that one large commit has grown is cut when it begins anew
)
"""Of every connection."""
DAMAGED_FIX = "`up` sets it aside and saves what can be read"
SETTLED_PAGE = 500
DELETED_AT_ONCE = 500
"""Tasks pruned in a transaction: the writer waits for one, milliseconds."""
FREED_AT_ONCE = 256
"""Pages given back to the disk in a transaction."""

# One transaction: a power cut between two tables would leave a database that is taken for somebody else's.
_SCHEMA = """
BEGIN;
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
COMMIT;
"""
_BELOW = (
    "SELECT a.id FROM records AS a INDEXED BY records_by_id "
    "WHERE a.id < :before AND a.id >= :least AND a.kind = 0"
)
_ABOVE_ALL = "\U0010ffff"
_OPEN = """
SELECT a.id FROM records AS a WHERE a.kind = 0
AND NOT EXISTS (SELECT 1 FROM records AS c WHERE c.id = a.id AND c.kind = 1)
"""


SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Rows of a statement. A prepared one takes 0.7 kB a row, and one of every size up to 200 took 14 MB that a
node kept after its first busy minute."""


def padded(rows: Sequence[Row]) -> Sequence[Row]:
    """As many rows as one of the SIZES has: the smallest once more, which changes nothing."""
    for size in SIZES:
        if size >= len(rows):
            break
    else:
        return rows
    if size == len(rows):
        return rows
    return [*rows, *repeat(min(rows, key=lambda row: len(row[4])), size - len(rows))]


def insert_statement(rows: int) -> str:
    values = ",".join(["(?,?,?,?,?,?)"] * rows)
    return f"INSERT OR IGNORE INTO records(id, kind, at_ms, state, body, crc) VALUES {values}"  # noqa: S608


class SqliteLedger:
    """A `LedgerStore` in one SQLite file.

    Args: path: of the file, made (0600) if missing.   mesh_id, node_id: whose it must be.
        connect: opens the file; for tests that stand between SQLite and its file.
    Raises (constructor): BadInput: a file of another mesh, another node or a newer version.
    StoreDamaged: not a database, or a torn one. Unavailable: it cannot be opened or written at all.
    """

    def __init__(
        self,
        path: Path,
        mesh_id: str,
        node_id: str,
        *,
        connect: Callable[[Path], Any] | None = None,
    ) -> None:
        connect = connect or connected
        self._path = path
        self._connect = connect
        self._reads = threading.Lock()
        self.damaged: list[str] = []
        self.log_bytes = 0
        """Written to the write-ahead log since the start, as far as this process counts."""
        self._closed = False
        self._reopen = False  # the writer's last commit failed in the medium
        self._held: list[Any] = []
        try:
            mark = self._vouched()
            path.touch(mode=0o600, exist_ok=True)
            self._writer = self._opened()
            self._reader = self._opened()
            with contextlib.suppress(sqlite3.OperationalError):
                self._reader.execute("PRAGMA query_only = ON")
            self._check_in(mesh_id, node_id, 0 if mark is None else mark.newest)
            self._mark = Mark(path)
            self._mark.clear()
        except OSError as error:
            self._let_go()
            raise Unavailable(f"cannot open {path}: {error.strerror}", fix="check its directory") from error
        except sqlite3.OperationalError as error:
            self._let_go()
            if str(error) in _OF_DAMAGE:
                raise StoreDamaged(f"{path} is damaged: {error}", fix=DAMAGED_FIX) from error
            raise Unavailable(
                f"cannot open {path}: {error}",
                fix="check free space and permissions, or who else has it open",
            ) from error
        except sqlite3.DatabaseError as error:
            self._let_go()
            raise StoreDamaged(f"{path} is damaged: {error}", fix=DAMAGED_FIX) from error
        except BaseException:
            self._let_go()
            raise

    def _opened(self) -> Any:
        connection = self._connect(self._path)
        self._held.append(connection)
        return connection

    def _let_go(self) -> None:
        for connection in self._held:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _vouched(self) -> Vouched | None:
        """Before SQLite may touch it: is everything there that was safe? Raises: StoreDamaged."""
        try:
            mark = vouched(self._path)
        except ValueError as error:
            self.damaged.append(f"{self._path.name}-mark: {error}")
            return None
        if mark is not None and (gap := missing(self._path, mark, newest_row)):
            raise StoreDamaged(f"{self._path} is damaged: {gap}", fix=DAMAGED_FIX)
        return mark

    def _check_in(self, mesh_id: str, node_id: str, newest: int) -> None:
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
        owner = (("mesh", mesh_id, "mesh"), ("node", node_id, "node"))
        if tables:
            self._owned_by(owner)
            told = [line for (line,) in writer.execute("PRAGMA integrity_check(1)")]
            if told != ["ok"]:  # its index may hide a row, or the end of a task
                raise sqlite3.DatabaseError(" ".join(str(told[0]).split()))
            if (last := newest_row(writer)) < newest:
                raise sqlite3.DatabaseError(f"its newest row is {last}, and {newest} was safe")
        elif newest:
            raise sqlite3.DatabaseError(f"it is empty, and row {newest} was safe")
        writer.executescript(_SCHEMA)
        for key, value, _ in owner:
            writer.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, value))
        self._owned_by(owner)
        if version < SCHEMA_VERSION:
            writer.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            writer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._grow_wal()

    def _owned_by(self, owner: Sequence[tuple[str, str, str]]) -> None:
        for key, value, what in owner:
            found = self._writer.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            if found is not None and found[0] != value:
                raise BadInput(
                    f"{self._path} belongs to {what} {found[0]}, not to {value}",
                    fix=f"start it as {found[0]}, or use another --home",
                )

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

    def insert(self, rows: Sequence[Row]) -> None:
        """One statement, of few sizes: see the decision record 0006.

        Raises: Unavailable: nothing of it was written.

        After an error of the medium the connection is opened anew: what it has cached of pages that could not
        be synced may not be what lies on the disk.
        """
        try:
            if self._reopen:
                self._writer.close()  # again, if opening failed the last time
                with contextlib.suppress(ValueError):
                    self._held.remove(self._writer)
                self._writer = self._opened()
                self._reopen = False
            written = padded(rows)
            done = self._writer.execute(insert_statement(len(written)), tuple(chain.from_iterable(written)))
        except (sqlite3.Error, OverflowError) as error:
            self._reopen = self._reopen or "I/O error" in str(error)
            raise Unavailable(str(error) or type(error).__name__) from error
        before = self._mark.frames
        self._mark.note(getattr(done, "lastrowid", None) or 0)
        frames = self._mark.frames - before
        self.log_bytes += (frames if frames > 0 else self._mark.frames) * WAL_FRAME_BYTES

    def restore(self, rows: Iterable[tuple[int | None, Row]]) -> None:
        """Rows with the numbers that they had, or None for a new one; in one transaction."""
        self._writer.execute("BEGIN IMMEDIATE")
        self._writer.executemany(
            "INSERT OR IGNORE INTO records(seq, id, kind, at_ms, state, body, crc) VALUES (?,?,?,?,?,?,?)",
            [(seq, *row) for seq, row in rows],
        )
        self._writer.execute("COMMIT")

    def delete(self, ids: Sequence[str]) -> None:
        """In transactions of some milliseconds: the writer waits for one at a time."""
        self._mark.forget_newest()
        with self._seeing_damage(), contextlib.closing(self._connect(self._path)) as pruner:
            for first in range(0, len(ids), DELETED_AT_ONCE):
                pruner.execute("BEGIN IMMEDIATE")
                pruner.executemany(
                    "DELETE FROM records WHERE id = ?",
                    [(each,) for each in ids[first : first + DELETED_AT_ONCE]],
                )
                pruner.execute("COMMIT")
            left = pruner.execute("PRAGMA freelist_count").fetchone()[0]
            while left:
                pruner.executescript(f"PRAGMA incremental_vacuum({FREED_AT_ONCE})")  # `execute` frees one
                before, left = left, pruner.execute("PRAGMA freelist_count").fetchone()[0]
                if left >= before:
                    break
            # What was freed leaves the file at a checkpoint; the writer's next one does it if this cannot.
            with contextlib.suppress(sqlite3.OperationalError):
                pruner.execute("PRAGMA busy_timeout = 100")
                pruner.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        self._mark.forget_newest()

    def close(self) -> None:
        """Idempotent."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._mark.clear()  # first: a log that is cut below would look like one that has lost commits
        with contextlib.suppress(sqlite3.Error):
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._reader.close()
        self._writer.close()
        self._mark.close()

    def rows_of(self, task_id: str) -> Sequence[tuple[int, int, bytes, int]]:
        return self._all("SELECT kind, at_ms, body, crc FROM records WHERE id = ? ORDER BY kind", (task_id,))

    def ends_of(self, ids: Sequence[str]) -> Sequence[tuple[str, int, bytes | None, int]]:
        return self._all(
            f"SELECT id, kind, CASE WHEN length(body) <= {SMALL_BYTES} THEN body END, crc FROM records "  # noqa: S608
            f"WHERE id IN ({','.join('?' * len(ids))}) AND kind IN ({ACCEPTED}, {CLOSED})",
            tuple(ids),
        )

    def open_ids(self) -> Sequence[str]:
        return [task_id for (task_id,) in self._all(_OPEN + " ORDER BY a.seq")]

    def newest(self, limit: int, state: str) -> Sequence[str]:
        where = ""
        if state == "open":
            where = "AND c.id IS NULL"
        elif state:
            where = "AND c.state = :state"
        rows = self._all(
            "SELECT a.id FROM records AS a "  # noqa: S608  `where` is one of three constants
            "LEFT JOIN records AS c ON c.id = a.id AND c.kind = 1 "
            f"WHERE a.kind = 0 {where} ORDER BY a.seq DESC LIMIT :limit",
            {"state": state, "limit": limit},
        )
        return [task_id for (task_id,) in rows]

    def beginning(self, prefix: str, limit: int) -> Sequence[str]:
        rows = self._all(
            "SELECT id FROM records WHERE id >= ? AND id < ? AND kind = 0 ORDER BY id LIMIT ?",
            (prefix, prefix + "\U0010ffff", limit),
        )
        return [task_id for (task_id,) in rows]

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
        values = {
            "before": task_id or _ABOVE_ALL,
            "least": least,
            "state": state,
            "mention": mention,
            "limit": limit,
            "skip": window - 1,
            "end": ends[0] if ends else b"",
            "other": ends[-1] if ends else b"",
        }
        more = ""
        if state or mention or ends:
            looked = self._all(_BELOW + " ORDER BY a.id DESC LIMIT 1 OFFSET :skip", values)
            if looked:
                more = values["least"] = str(looked[0][0])
        joined = " LEFT JOIN records AS c ON c.id = a.id AND c.kind = 1" if state or ends else ""
        wanted = ""
        if state == "open":
            wanted = " AND c.id IS NULL"
        elif state:
            wanted = " AND c.state = :state"
        if mention:
            wanted += f" AND instr(substr(a.body, 1, {HEAD_BYTES}), :mention)"
        if ends and state != "open":
            # The length is in the row's head: of a large body, on pages of its own, nothing is read.
            wanted += (
                f" AND (c.id IS NULL OR length(c.body) > {SMALL_BYTES}"
                " OR instr(c.body, :end) OR instr(c.body, :other))"
            )
        head, _, where = _BELOW.partition(" WHERE ")
        rows = self._all(f"{head}{joined} WHERE {where}{wanted} ORDER BY a.id DESC LIMIT :limit", values)
        ids = [found for (found,) in rows]
        return ids, ids[-1] if len(ids) == limit else more

    def settled(self) -> Iterator[Settled]:
        """Page by page: a hundred thousand at once are 30 MB that a process does not give back."""
        before = 1 << 62
        while page := self._all(
            "SELECT c.seq, c.id, c.at_ms, (SELECT sum(length(r.body)) FROM records AS r WHERE r.id = c.id) "
            "FROM records AS c WHERE c.kind = 1 AND c.seq < ? ORDER BY c.seq DESC LIMIT ?",
            (before, SETTLED_PAGE),
        ):
            before = page[-1][0]
            for _, *row in page:
                yield Settled(*row)

    def totals(self) -> Totals:
        ((settled, size, oldest_ms),) = self._all(
            "SELECT coalesce(sum(kind = 1), 0), coalesce(sum(length(body)), 0), "
            "coalesce(min(CASE WHEN kind = 1 AND at_ms >= ? THEN at_ms END), 0) FROM records",
            (KNOWN_MS,),
        )
        return Totals(settled, size, oldest_ms)

    def every(self) -> Iterator[Row]:
        with self._seeing_damage():
            for row in self._reader.execute(
                "SELECT id, kind, at_ms, state, body, crc FROM records ORDER BY seq"
            ):
                yield Row(*row)

    def gaps(self) -> list[str]:
        try:
            return [line for (line,) in self._reader.execute("PRAGMA integrity_check") if line != "ok"]
        except sqlite3.Error as error:
            return [f"{self._path.name}: {error}"]

    def _all(self, statement: str, values: Any = ()) -> list[Any]:
        # One after the other: what a connection reads while another of its statements is under way is as old
        # as that one's beginning, and a task that was accepted since would not be there.
        with self._reads, self._seeing_damage():
            found: list[Any] = self._reader.execute(statement, values).fetchall()
        return found

    @contextlib.contextmanager
    def _seeing_damage(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and "decode" not in str(error):
                raise Unavailable(f"cannot read {self._path}: {error}") from error
            raise StoreDamaged(f"{self._path} is damaged: {error}", fix=DAMAGED_FIX) from error


def newest_row(connection: Any) -> int:
    """The number of the newest row; 0: there is none."""
    (last,) = connection.execute("SELECT coalesce(max(seq), 0) FROM records").fetchone()
    return int(last)


def connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=10.0, cached_statements=256
    )
    for pragma in PRAGMAS:
        connection.execute(pragma)
    return connection
