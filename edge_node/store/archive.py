"""The archive: a chronicle's entries in one SQLite file, written and read by a thread of its own.

    append ─► waits at most a second ─► one statement ─► WAL (synchronous = NORMAL)
    find ───► what waits is written first ─► ledger and chronicle are read ─► found(account), on the loop

Nothing is ever fsynced for an entry: SQLite does so at checkpoints, once a minute and at the end, in this
thread, so the ledger's fsyncs wait for it as little as may be. What a kill costs is the last second; what a
power cut costs, the last minute. The file knows whether its last life ended in order and in which boot of the
machine that was; the next one says what may be missing (``What.KILLED``).

Not here: what is noted (`edge_node.chronicle.chronicle`), how much is kept (`keeping`), what is told of it
(`account`).
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sqlite3
import threading
import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from edge_node.chronicle.entry import Details, Entry, Subject, What, bounded, decoded, encoded
from edge_node.chronicle.keeping import BLOCK, Keeping
from security.errors import EdgeweaveError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge_node.chronicle.account import Account, Books

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
APPLICATION_ID = 0x65775F63  # "ew_c"
FLUSH_S = 1.0
CHECKPOINT_S = 60.0
BATCH_MAX = 128
WAITING_MAX = 16_384
"""Entries that wait for a disk that hangs; more are counted as left out."""
PRAGMAS = (
    "PRAGMA auto_vacuum = INCREMENTAL",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    "PRAGMA cache_size = -256",
)
_SCHEMA = """
BEGIN;
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries(
    number INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    subject TEXT NOT NULL,
    id TEXT NOT NULL,
    cause TEXT NOT NULL,
    body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS entries_by_id ON entries(id, number);
CREATE INDEX IF NOT EXISTS entries_by_cause ON entries(cause, number);
COMMIT;
"""
_INSERT = "INSERT OR REPLACE INTO entries(number, at_ms, subject, id, cause, body) VALUES "
_MACHINE_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Shelf:
    """The rows, for whoever may wait: a `account.Kept`. One connection, one thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def about(self, name: str, limit: int) -> list[Entry]:
        return self._newest("WHERE id = ?", (name,), limit)

    def caused_by(self, cause: str, limit: int) -> list[Entry]:
        return self._newest("WHERE cause = ?", (cause,), limit)

    def of_nodes(self, names: Sequence[str], from_ms: int, to_ms: int, limit: int) -> list[Entry]:
        among = ",".join("?" * len(names))
        where = f"WHERE subject = ? AND id IN ({among}) AND at_ms BETWEEN ? AND ?"
        return self._newest(where, (Subject.NODE.value, *names, from_ms, to_ms), limit)

    def names(self, prefix: str, limit: int) -> list[str]:
        found: set[str] = set()
        for column in ("id", "cause"):
            rows = self._connection.execute(
                f"SELECT DISTINCT {column} FROM entries WHERE {column} >= ? AND {column} < ? "  # noqa: S608
                f"ORDER BY {column} LIMIT ?",
                (prefix, prefix + "\U0010ffff", limit),
            )
            found.update(name for (name,) in rows)
        return sorted(found)[:limit]

    def since_ms(self) -> int:
        row = self._connection.execute("SELECT number, at_ms FROM entries ORDER BY number LIMIT 1").fetchone()
        return 0 if row is None or row[0] <= 1 else int(row[1])

    def meta(self, key: str) -> str:
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return "" if row is None else str(row[0])

    def _newest(self, where: str, values: tuple[Any, ...], limit: int) -> list[Entry]:
        rows = self._connection.execute(
            f"SELECT number, body FROM entries {where} ORDER BY number DESC LIMIT ?",  # noqa: S608  constants
            (*values, limit),
        ).fetchall()
        found = []
        for number, body in reversed(rows):
            entry = decoded(body)
            if entry is not None:  # else a bit has flipped: it is passed over, the others stand
                found.append(msgspec.structs.replace(entry, number=number))
        return found


class Excerpt(NamedTuple):
    """Part of a chronicle as it lies there: (number, body) ascending; the least and the greatest number."""

    rows: list[tuple[int, bytes]]
    oldest: int
    newest: int
    before: bytes
    """The body of the entry after which was asked; empty: it is not there."""


class Archive:
    """Args: books: the journal of the same member.   wall_ms: its wall clock.

    Raises (constructor): nothing: a damaged file is set aside and said to be, and a directory that cannot be
    written leaves a chronicle that keeps nothing and says so in the log.
    """

    def __init__(self, path: Path, me: str, books: Books, wall_ms: Callable[[], int]) -> None:
        self._path = path
        self._me = me
        self._books = books
        self._wall_ms = wall_ms
        self._queue: queue.SimpleQueue[list[Entry] | _Question | _Wanted | None] = queue.SimpleQueue()
        self._waiting = 0
        self._dropped = 0
        self._post: Callable[..., object] | None = None
        self._thread: threading.Thread | None = None
        self.last_life: list[Entry] = []
        """What is to be told of the life before this one; it is noted by this one."""
        self.on_written: Callable[[list[tuple[int, bytes]]], None] | None = None
        """Told on the loop what was written, in order: (number, body). One listener (``events_feed``)."""
        self._connection: sqlite3.Connection | None = None
        self._next = 1
        self._keeping = Keeping()
        try:
            self._open()
        except (sqlite3.Error, OSError) as error:
            self._close_file()
            self._begin_anew(error)

    # ── the member's side ─────────────────────────────────────────────────────────────────────────────
    def start(self, post: Callable[..., object]) -> None:
        """*post* is a loop's ``call_soon_threadsafe``: what is found is told through it."""
        assert self._thread is None, "started once"
        self._post = post
        self._thread = threading.Thread(target=self._work, name="archive", daemon=True)
        self._thread.start()
        if self.last_life:
            self.append(self.last_life)

    def append(self, entries: list[Entry]) -> None:
        if self._waiting > WAITING_MAX:
            self._dropped += len(entries)
            return
        self._waiting += len(entries)
        self._queue.put(entries)

    def find(self, asked: str, found: Callable[[Account], None]) -> None:
        self._queue.put(_Question(asked, found))

    def excerpt(self, after: int | None, limit: int, found: Callable[[Excerpt], None]) -> None:
        """The next *limit* entries after that number; None: the last ones. Told on the loop."""
        self._queue.put(_Wanted(after, limit, found))

    def close(self) -> None:
        """Write what waits, and that this life ended in order. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join()
        self._close_file()

    # ── the thread ────────────────────────────────────────────────────────────────────────────────────
    def _work(self) -> None:
        batch: list[Entry] = []
        due_s = checkpoint_s = time.monotonic() + CHECKPOINT_S
        dirty = False
        while True:
            wait_s: float | None = None
            if batch:
                wait_s = max(0.0, due_s - time.monotonic())
            elif dirty:
                wait_s = max(0.0, checkpoint_s - time.monotonic())
            try:
                item = self._queue.get(timeout=wait_s)
            except queue.Empty:
                item = []
            if isinstance(item, list):
                if item and not batch:
                    due_s = time.monotonic() + FLUSH_S
                batch += item
            if batch and (not isinstance(item, list) or len(batch) >= BATCH_MAX or time.monotonic() >= due_s):
                if not dirty:
                    dirty, checkpoint_s = True, time.monotonic() + CHECKPOINT_S
                self._write(batch)
                batch = []
            if isinstance(item, _Question):
                self._answer(item)
            elif isinstance(item, _Wanted):
                self._tell(item)
            elif item is None:
                return
            if dirty and time.monotonic() >= checkpoint_s:
                dirty = False
                self._do("PRAGMA wal_checkpoint(PASSIVE)")

    def _write(self, batch: list[Entry]) -> None:
        self._waiting -= len(batch)
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            left: Details = {"kind": "the disk was too slow", "count": dropped}
            batch = [*batch, _own(self._me, self._wall_ms(), What.LEFT_OUT, self._cause(), left)]
        rows = []
        for number, entry in enumerate(batch, self._next):
            body = encoded(entry)
            rows.append((number, entry.at_ms, entry.subject, entry.id, entry.cause, body))
        if self._do(_INSERT + ",".join(["(?,?,?,?,?,?)"] * len(rows)), tuple(chain.from_iterable(rows))):
            self._next += len(rows)
            for row in rows:
                self._keeping.added(row[0], len(row[5]))
            if self.on_written is not None and self._post is not None:
                with contextlib.suppress(RuntimeError):  # the loop is gone, and who listened with it
                    self._post(self.on_written, [(row[0], row[5]) for row in rows])
            below = self._keeping.forgotten_below()
            if below:
                self._do("DELETE FROM entries WHERE number < ?", (below,))
                self._do("PRAGMA incremental_vacuum(64)")
        else:
            self._dropped += len(batch)

    def _answer(self, question: _Question) -> None:
        from edge_node.chronicle.account import Account, witnessed  # once somebody asks

        account = Account()
        if self._connection is not None:
            try:
                shelf = Shelf(self._connection)
                account = witnessed(self._me, question.asked, shelf, self._books, self._wall_ms())
            except (sqlite3.Error, EdgeweaveError) as error:
                log.error("the chronicle could not be read", extra={"cause": str(error)})
                account = Account(complete=False)
        assert self._post is not None
        with contextlib.suppress(RuntimeError):  # the loop is gone, and who asked with it
            self._post(question.found, account)

    def _tell(self, wanted: _Wanted) -> None:
        excerpt = Excerpt([], 0, 0, b"")
        if self._connection is not None:
            try:
                excerpt = self._excerpt(self._connection, wanted.after, wanted.limit)
            except sqlite3.Error as error:
                log.error("the chronicle could not be read", extra={"cause": str(error)})
        assert self._post is not None
        with contextlib.suppress(RuntimeError):
            self._post(wanted.found, excerpt)

    def _excerpt(self, connection: sqlite3.Connection, after: int | None, limit: int) -> Excerpt:
        oldest, newest = connection.execute("SELECT min(number), max(number) FROM entries").fetchone()
        if newest is None:
            return Excerpt([], 0, self._next - 1, b"")
        if after is None:
            rows = connection.execute(
                "SELECT number, body FROM entries ORDER BY number DESC LIMIT ?", (limit,)
            ).fetchall()[::-1]
            return Excerpt(rows, oldest, newest, b"")
        rows = connection.execute(
            "SELECT number, body FROM entries WHERE number > ? ORDER BY number LIMIT ?", (after, limit)
        ).fetchall()
        before = connection.execute("SELECT body FROM entries WHERE number = ?", (after,)).fetchone()
        return Excerpt(rows, oldest, newest, before[0] if before else b"")

    def _do(self, statement: str, values: tuple[Any, ...] = ()) -> bool:
        if self._connection is None:
            return False
        try:
            self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            log.warning("the chronicle could not be written", extra={"cause": str(error)})
            return False
        return True

    def _cause(self) -> str:
        return f"n-{self._me}-{self._next}"

    # ── the file ──────────────────────────────────────────────────────────────────────────────────────
    def _open(self) -> None:
        self._path.touch(mode=0o600, exist_ok=True)
        connection = self._connection = connected(self._path)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise sqlite3.DatabaseError(
                f"schema version {version}, this program reads up to {SCHEMA_VERSION}"
            )
        connection.executescript(_SCHEMA)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        shelf = Shelf(connection)
        if shelf.meta("node") not in ("", self._me):
            raise sqlite3.DatabaseError(f"it belongs to {shelf.meta('node')}")
        blocks = connection.execute(
            f"SELECT number / {BLOCK}, count(*), sum(length(body)) FROM entries GROUP BY 1 ORDER BY 1"  # noqa: S608
        ).fetchall()
        self._keeping = Keeping(blocks)
        newest = connection.execute(
            "SELECT number, at_ms FROM entries ORDER BY number DESC LIMIT 1"
        ).fetchone()
        if newest is not None:
            self._next = int(newest[0]) + 1
        boot = _machine_boot()
        if shelf.meta("state") == "open":
            same = boot != "" and shelf.meta("boot") == boot
            about: Details = {
                "missing_s": FLUSH_S if same else CHECKPOINT_S,
                "machine": "on" if same else "off",
            }
            if newest is not None:
                about["after_ms"] = int(newest[1])
            self.last_life = [_own(self._me, self._wall_ms(), What.KILLED, self._cause(), about)]
        for key, value in (("node", self._me), ("boot", boot), ("state", "open")):
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _begin_anew(self, error: Exception) -> None:
        """Nothing depends on what lay there; what was readable of it can still be looked at."""
        log.error("the chronicle is damaged: it was set aside", extra={"cause": str(error)})
        try:
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    there = self._path.with_name(self._path.name + suffix)
                    there.replace(self._path.with_name(f"{self._path.name}.damaged{suffix}"))
            self._next = 1
            self._open()
        except (sqlite3.Error, OSError) as again:
            self._close_file()
            log.error("nothing can be noted for `why`", extra={"cause": str(again)})
            return
        about: Details = {"reason": f"the chronicle was set aside: {error}"}
        self.last_life = [_own(self._me, self._wall_ms(), What.DAMAGED, self._cause(), about)]

    def _close_file(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("INSERT OR REPLACE INTO meta VALUES ('state', 'closed')")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            connection.close()


class _Question:
    __slots__ = ("asked", "found")

    def __init__(self, asked: str, found: Callable[[Account], None]) -> None:
        self.asked = asked
        self.found = found


class _Wanted:
    __slots__ = ("after", "found", "limit")

    def __init__(self, after: int | None, limit: int, found: Callable[[Excerpt], None]) -> None:
        self.after = after
        self.limit = limit
        self.found = found


def _own(me: str, at_ms: int, what: What, cause: str, details: Details) -> Entry:
    return Entry(0, at_ms, me, Subject.NODE.value, me, what.value, cause, "", 0, bounded(details))


def _machine_boot() -> str:
    """Names this boot of the machine; empty where the kernel does not tell."""
    try:
        return _MACHINE_BOOT.read_text().strip()
    except OSError:
        return ""


def connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
    for pragma in PRAGMAS:
        connection.execute(pragma)
    return connection
