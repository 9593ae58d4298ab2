"""Documents in SQLite: one row a document, so that a write costs one row and not the whole table.

Below TinyDB's tables (``store.documents``), and a plain TinyDB ``Storage`` besides: ``TinyDB(path,
storage=SQLiteStorage)`` works and writes only what changed. A write has happened once the call returns:
WAL with synchronous=FULL survives kill -9 and power cut (NORMAL survives kill -9 alone, 10x cheaper).
Calls block; a daemon goes through its thread runner. One connection and one lock: any thread, one at a time.

A damaged file is set aside under another name, said so in the log and in ``set_aside``, and begun anew with
every document whose checksum holds; it is never silently emptied. Not here: queries, document ids, what a
document means.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from tinydb.storages import Storage

from edge_node.store.mark import SUFFIX as MARK_SUFFIX
from edge_node.store.mark import Mark, missing, vouched
from security.errors import BadInput, Unavailable

log = logging.getLogger(__name__)

SCHEMA = 2  # 2: documents have checksums
DOCUMENT_BYTES_MAX = 1 << 20  # a document is small state; larger things are blobs named by digest
TABLE_NAME_CHARS_MAX = 128
BUSY_S = 5.0

_TABLES = """
CREATE TABLE IF NOT EXISTS tables (name TEXT PRIMARY KEY, key TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS documents (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of insertion, which TinyDB keeps
    tbl TEXT NOT NULL, id INTEGER NOT NULL, body TEXT NOT NULL,
    crc INTEGER,  -- CRC-32 over table, id and body
    UNIQUE (tbl, id)
);
"""

_PUT = """
INSERT INTO documents (tbl, id, body, crc) VALUES (?, ?, ?, ?)
ON CONFLICT (tbl, id) DO UPDATE SET body = excluded.body, crc = excluded.crc
"""

DocumentBody = dict[str, Any]


def encoded(document: Mapping[str, Any]) -> str:
    """A document as it is kept.

    Raises: BadInput: it holds what JSON cannot carry, or is too large.
    """
    try:
        text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(
            f"document cannot be stored: {error}",
            fix="keep None, bool, int, finite float, str, lists and dicts with text keys",
        ) from None
    if len(text) > DOCUMENT_BYTES_MAX:
        raise BadInput(f"document of {len(text)} bytes is over {DOCUMENT_BYTES_MAX}", fix="split it")
    return text


def crc_of(table: str, doc_id: int, body: str) -> int:
    return zlib.crc32(body.encode("utf-8", "surrogatepass"), zlib.crc32(f"{table}/{doc_id}".encode()))


class SQLiteStorage(Storage):
    """The file. ``durable="full"`` fsyncs each transaction, "normal" leaves that to checkpoints."""

    def __init__(self, path: str | Path, *, durable: Literal["full", "normal"] = "full") -> None:
        self.path = Path(path)
        self.set_aside: Path | None = None  # where the damaged file went that was found at this path
        self.lock = threading.RLock()
        self._durable = durable
        self._depth = 0
        self._closed = False
        self._mark: Mark | None = None
        try:
            self._db = self._open()
        except sqlite3.OperationalError as error:
            raise Unavailable(
                f"cannot open {self.path}: {error}", fix="check the disk and its permissions"
            ) from None
        except sqlite3.DatabaseError as error:
            aside = self._put_aside(error)
            self._db = self._open()
            self._save(aside)
        with contextlib.suppress(OSError):  # a full disk: then damage to the log alone may go unseen
            self._mark = Mark(self.path)
            self._mark.clear()

    # -- TinyDB's Storage -------------------------------------------------------------------------

    def read(self) -> dict[str, dict[str, Any]] | None:
        with self.lock:
            rows = self._db.execute("SELECT tbl, id, body FROM documents ORDER BY seq").fetchall()
            state: dict[str, dict[str, Any]] = {name: {} for name in self.names()}
        for table, doc_id, body in rows:
            state.setdefault(table, {})[str(doc_id)] = json.loads(body)
        return state or None

    def write(self, data: Mapping[str, Mapping[Any, Mapping[str, Any]]]) -> None:
        with self.transaction():
            for name in sorted(set(self.names()) - set(data)):
                self.drop(name)
            for name, documents in data.items():
                self.declare(name)
                before = dict(self.scan(name))
                wanted = {int(doc_id): encoded(document) for doc_id, document in documents.items()}
                self.delete(name, before.keys() - wanted.keys())
                self.put(name, [(i, body) for i, body in wanted.items() if before.get(i) != body])

    def close(self) -> None:
        with self.lock:
            if not self._closed:
                self._closed = True
                if self._mark is not None:
                    with contextlib.suppress(OSError):
                        self._mark.clear()  # first: closing removes the log
                self._db.close()
                if self._mark is not None:
                    self._mark.close()

    # -- one document at a time -------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; may be nested, the outermost commits.

        Raises: Unavailable: the disk is full, failing or busy; nothing was changed.
        """
        with self.lock:
            if self._depth:
                yield
                return
            self._depth += 1
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    self._db.execute("COMMIT")
                    if self._mark is not None and self._durable == "full":
                        self._mark.note(0)
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.OperationalError as error:
                raise Unavailable(
                    f"store {self.path} cannot write: {error}", fix="free space on its disk"
                ) from None
            except sqlite3.DatabaseError as error:
                if type(error) is not sqlite3.DatabaseError:
                    raise  # of our own making
                raise Unavailable(
                    f"store {self.path} is damaged: {error}", fix="start again: it is set aside then"
                ) from None
            finally:
                self._depth -= 1

    def body(self, table: str, doc_id: int) -> str | None:
        if not -(1 << 63) <= doc_id < 1 << 63:
            return None
        with self.lock:
            row = self._db.execute(
                "SELECT body FROM documents WHERE tbl = ? AND id = ?", (table, doc_id)
            ).fetchone()
        return row[0] if row else None

    def bodies(self, table: str, doc_ids: Iterable[int]) -> list[tuple[int, str]]:
        """Those that exist, in order of insertion, each once."""
        found = []
        with self.lock:
            for doc_id in dict.fromkeys(doc_ids):
                found += self._db.execute(
                    "SELECT seq, id, body FROM documents WHERE tbl = ? AND id = ?", (table, doc_id)
                ).fetchall()
        return [(doc_id, body) for _, doc_id, body in sorted(found)]

    def scan(self, table: str) -> list[tuple[int, str]]:
        """The whole table in order of insertion."""
        with self.lock:
            return self._db.execute(
                "SELECT id, body FROM documents WHERE tbl = ? ORDER BY seq", (table,)
            ).fetchall()

    def count(self, table: str) -> int:
        with self.lock:
            return int(
                self._db.execute("SELECT count(*) FROM documents WHERE tbl = ?", (table,)).fetchone()[0]
            )

    def put(self, table: str, bodies: Iterable[tuple[int, str]]) -> None:
        with self.transaction():
            self._db.executemany(
                _PUT, [(table, doc_id, body, crc_of(table, doc_id, body)) for doc_id, body in bodies]
            )

    def delete(self, table: str, doc_ids: Iterable[int]) -> None:
        with self.transaction():
            self._db.executemany(
                "DELETE FROM documents WHERE tbl = ? AND id = ?", [(table, doc_id) for doc_id in doc_ids]
            )

    def clear(self, table: str) -> None:
        with self.transaction():
            self._db.execute("DELETE FROM documents WHERE tbl = ?", (table,))

    def keep_newest(self, table: str, rows: int) -> int:
        """Drop the oldest insertions beyond *rows*; how many went."""
        with self.transaction():
            cut = self._db.execute(
                "DELETE FROM documents WHERE tbl = ?1 AND seq <= coalesce((SELECT seq FROM documents"
                " WHERE tbl = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2), -1)",
                (table, rows),
            )
            return cut.rowcount

    # -- tables -----------------------------------------------------------------------------------

    def names(self) -> list[str]:
        with self.lock:
            return [row[0] for row in self._db.execute("SELECT name FROM tables ORDER BY name")]

    def declare(self, table: str, key: str | None = None) -> None:
        """Raises: BadInput: an impossible name, or declared before with another key."""
        if not isinstance(table, str) or not 1 <= len(table) <= TABLE_NAME_CHARS_MAX:
            raise BadInput("a table's name has 1 to 128 characters", fix="choose another name")
        with self.transaction():
            row = self._db.execute("SELECT key FROM tables WHERE name = ?", (table,)).fetchone()
            if row is None:
                if key is not None and self.count(table):
                    raise BadInput(f"table {table!r} has documents without a key", fix="truncate it first")
                self._db.execute("INSERT INTO tables (name, key) VALUES (?, ?)", (table, key))
            elif row[0] != key:
                was = f"the key {row[0]!r}" if row[0] else "no key"
                raise BadInput(f"table {table!r} was declared with {was}", fix="declare it everywhere alike")

    def is_declared(self, table: str) -> bool:
        with self.lock:
            return self._db.execute("SELECT 1 FROM tables WHERE name = ?", (table,)).fetchone() is not None

    def drop(self, table: str) -> None:
        with self.transaction():
            self.clear(table)
            self._db.execute("DELETE FROM tables WHERE name = ?", (table,))

    def verify(self) -> list[str]:
        """What is wrong with the file, in words; empty when nothing is."""
        with self.lock:
            told = [str(row[0]) for row in self._db.execute("PRAGMA integrity_check")]
            return ([] if told == ["ok"] else told) + list(_unsound(self._db))

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (gap := self._missing()) != "":
            raise sqlite3.DatabaseError(gap)
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))  # its -wal and -shm inherit the mode
        except OSError as error:
            raise Unavailable(
                f"cannot open {self.path}: {error.strerror}", fix="check its permissions"
            ) from None
        db = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {self._durable.upper()}")
            db.execute("PRAGMA journal_size_limit = 1048576")
            db.execute("PRAGMA cache_size = -512")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA:
                raise BadInput(
                    f"store {self.path} has schema {version}, this version reads up to {SCHEMA}",
                    fix="update edgeweave",
                )
            troubles = [row[0] for row in db.execute("PRAGMA integrity_check(1)")]
            if troubles != ["ok"]:
                raise sqlite3.DatabaseError(troubles[0])
            if version < SCHEMA:
                _upgrade(db, version)
            for trouble in _unsound(db):
                raise sqlite3.DatabaseError(trouble)
        except BaseException:
            db.close()
            raise
        return db

    def _missing(self) -> str:
        """What was safe and is gone, before SQLite may touch the file; see `mark`."""
        try:
            known = vouched(self.path)
        except (OSError, ValueError):
            return ""  # the mark itself: it is written anew
        return "" if known is None else missing(self.path, known)

    def _save(self, aside: Path) -> None:
        """Take over what can be read of a file that was set aside."""
        from edge_node.store.pages import INTERIOR, Pages, Wal  # a sound file never needs them

        pages = Pages(aside, Wal(aside.with_name(aside.name + "-wal")))
        found: dict[tuple[str, int], tuple[int, str]] = {}
        keys: dict[str, str | None] = {}
        for number, kind in pages.trees():
            for record in pages.records(number, kind) if kind != INTERIOR else ():
                match record.values:
                    case (None, str(table), int(doc_id), str(body), int(crc)):
                        newest = found.get((table, doc_id), (0, ""))[0]
                        if crc == crc_of(table, doc_id, body) and record.number > newest:
                            found[table, doc_id] = record.number, body
                    case (str(table), str() | None as key):
                        keys[table] = key
        pages.close()
        with self.transaction():
            for table in sorted({table for table, _ in found}):
                self._db.execute(
                    "INSERT OR IGNORE INTO tables (name, key) VALUES (?, ?)", (table, keys.get(table))
                )
            for (table, doc_id), (_, body) in sorted(found.items(), key=lambda each: each[1][0]):
                self.put(table, [(doc_id, body)])
        log.error("documents were saved", extra={"documents": len(found), "gaps": pages.gaps[:20]})

    def _put_aside(self, error: sqlite3.DatabaseError) -> Path:
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.damaged-{number}")).exists():
            number += 1
        for suffix in ("", "-wal", "-shm", MARK_SUFFIX):
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        self.set_aside = aside
        log.error("store is damaged and was set aside", extra={"cause": str(error), "set_aside": str(aside)})
        return aside


def _upgrade(db: sqlite3.Connection, version: int) -> None:
    """To the present schema, in one transaction."""
    db.execute("BEGIN IMMEDIATE")
    if version == 1:
        db.execute("ALTER TABLE documents ADD COLUMN crc INTEGER")
        db.create_function("crc_of", 3, crc_of, deterministic=True)
        db.execute("UPDATE documents SET crc = crc_of(tbl, id, body)")
    for statement in _TABLES.split(";"):
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {SCHEMA}")
    db.execute("COMMIT")


def _unsound(db: sqlite3.Connection) -> Iterator[str]:
    """Documents whose checksum does not hold, in words."""
    for table, doc_id, body, crc in db.execute(
        "SELECT CAST(tbl AS BLOB), id, CAST(body AS BLOB), crc FROM documents"
    ):
        name = table.decode("utf-8", "replace")
        if zlib.crc32(body, zlib.crc32(f"{name}/{doc_id}".encode())) != crc:
            yield f"document {doc_id} of table {name!r} is no document: its checksum does not hold"


class Rows(Mapping[str, DocumentBody]):
    """A table as TinyDB reads it (ids as text), loaded only as far as it is looked at."""

    def __init__(self, storage: SQLiteStorage, table: str) -> None:
        self._storage = storage
        self._table = table

    def __getitem__(self, doc_id: str) -> DocumentBody:
        body = self._storage.body(self._table, int(doc_id)) if _is_integer(doc_id) else None
        if body is None:
            raise KeyError(doc_id)
        document: DocumentBody = json.loads(body)
        return document

    def __iter__(self) -> Iterator[str]:
        return iter([str(doc_id) for doc_id, _ in self._storage.scan(self._table)])

    def __len__(self) -> int:
        return self._storage.count(self._table)

    def items(self) -> Any:
        """One statement for all of them."""
        return ((str(doc_id), json.loads(body)) for doc_id, body in self._storage.scan(self._table))


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdigit() and text.isascii()


class Changes:
    """A table as TinyDB's updaters see it: a dict of documents that remembers what was done to it.

    Only what an updater touches is loaded, only what differs afterwards is written.
    """

    def __init__(self, storage: SQLiteStorage, table: str) -> None:
        self._storage = storage
        self._table = table
        self._held: dict[int, tuple[DocumentBody, str | None]] = {}  # document, its body as loaded
        self._gone: set[int] = set()
        self._complete = False  # what is not held does not exist
        self._cleared = False

    def __getitem__(self, doc_id: int) -> DocumentBody:
        if doc_id in self._held:
            return self._held[doc_id][0]
        body = None if self._complete or doc_id in self._gone else self._storage.body(self._table, doc_id)
        if body is None:
            raise KeyError(doc_id)
        document: DocumentBody = json.loads(body)
        self._held[doc_id] = document, body
        return document

    def __setitem__(self, doc_id: int, document: DocumentBody) -> None:
        if not -(1 << 63) <= doc_id < 1 << 63:
            raise BadInput(f"document id {doc_id} is out of range", fix="use an id below 2**63")
        self._held[doc_id] = document, None

    def __delitem__(self, doc_id: int) -> None:
        if doc_id not in self:
            raise KeyError(doc_id)
        self._held.pop(doc_id, None)
        self._gone.add(doc_id)

    def __contains__(self, doc_id: object) -> bool:
        if not isinstance(doc_id, int):
            return False
        if doc_id in self._held:
            return True
        if self._complete or doc_id in self._gone:
            return False
        return self._storage.body(self._table, doc_id) is not None

    def __iter__(self) -> Iterator[int]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def keys(self) -> list[int]:
        if not self._complete:
            held: dict[int, tuple[DocumentBody, str | None]] = {}
            for doc_id, body in self._storage.scan(self._table):
                if doc_id in self._held:
                    held[doc_id] = self._held[doc_id]
                elif doc_id not in self._gone:
                    held[doc_id] = json.loads(body), body
            self._held = held | self._held
            self._complete = True
        return list(self._held)

    def items(self) -> list[tuple[int, DocumentBody]]:
        return [(doc_id, self[doc_id]) for doc_id in self.keys()]

    def get(self, doc_id: int, default: Any = None) -> Any:
        try:
            return self[doc_id]
        except KeyError:
            return default

    def pop(self, doc_id: int) -> DocumentBody:
        document = self[doc_id]
        del self[doc_id]
        return document

    def clear(self) -> None:
        self._held, self._gone = {}, set()
        self._complete = self._cleared = True

    def write(self, check: Callable[[int, DocumentBody], None]) -> None:
        """Call inside the transaction that the updater ran in."""
        if self._cleared:
            self._storage.clear(self._table)
        elif self._gone:
            self._storage.delete(self._table, sorted(self._gone))
        changed = []
        for doc_id, (document, before) in self._held.items():
            body = encoded(document)
            if body != before:
                check(doc_id, document)
                changed.append((doc_id, body))
        if changed:
            self._storage.put(self._table, changed)
