"""A `CellStore` in one SQLite file (WAL, synchronous = FULL): one row a cell, a batch, a wait.

    cells(kind, tbl, key, field → body)   log(number → batch)   waiting(node, epoch, first → batch)   meta

A commit costs what it changes, whatever the file holds. Every row carries a CRC-32 over its identity and its
bytes; one that does not hold ends the opening with `StoreDamaged`: the caller sets the file aside, starts
empty, and takes a snapshot of a member (what only this member had is lost, and said so).

Calls block: one writer, from any thread, one at a time. Not here: encryption at rest, what the bytes mean.
"""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge_node.store.cell_store import Commit, Image, Logged, Waiting
from edge_node.store.cells import CellId
from edge_node.tasks.rows import StoreDamaged
from security.errors import BadInput, Unavailable

SCHEMA = 1
APPLICATION_ID = 0x65775F73  # "ew_s"
_TABLES = f"""
BEGIN;
CREATE TABLE meta(name TEXT PRIMARY KEY, value BLOB NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE cells(
    kind INTEGER NOT NULL, tbl TEXT NOT NULL, key TEXT NOT NULL, field TEXT NOT NULL,
    body BLOB NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (kind, tbl, key, field)) WITHOUT ROWID;
CREATE TABLE log(
    number INTEGER PRIMARY KEY, node TEXT NOT NULL, epoch INTEGER NOT NULL,
    first INTEGER NOT NULL, last INTEGER NOT NULL, data BLOB NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE waiting(
    node TEXT NOT NULL, epoch INTEGER NOT NULL, first INTEGER NOT NULL,
    data BLOB NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (node, epoch, first)) WITHOUT ROWID;
PRAGMA user_version = {SCHEMA};
PRAGMA application_id = {APPLICATION_ID};
COMMIT;
"""


class SqliteCellStore:
    """Args: path: made (0600) if missing; mesh_id, node_id: whose it must be.

    Raises (constructor): BadInput: of another mesh, node or a newer version. StoreDamaged: not readable as
    what it was. Unavailable: it cannot be opened or written at all.
    """

    def __init__(self, path: Path, mesh_id: str, node_id: str) -> None:
        self.path = path
        self.losses = ""
        self.log_bytes = 0
        try:
            path.touch(mode=0o600, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"cannot open {path}: {error.strerror}", fix="check its directory") from error
        with self._told():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
        try:
            with self._told():
                self._open(f"{mesh_id}/{node_id}")
        except BaseException:
            self._db.close()
            raise

    def _open(self, owner: str) -> None:
        db = self._db
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA journal_size_limit = 8388608")
        db.execute("PRAGMA cache_size = -2048")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            raise BadInput(
                f"{self.path} has schema {version}, this version reads up to {SCHEMA}", fix="update edgeweave"
            )
        if version == 0:
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise BadInput(f"{self.path} is another program's database", fix="move it away")
            db.executescript(_TABLES)
            self._set_meta("owner", owner.encode())
        if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("its pages do not agree")
        found = self._meta("owner")
        if found != owner.encode():
            raise BadInput(
                f"{self.path} holds the tables of {found!r}, not of {owner!r}", fix="restore the right file"
            )

    def commit(self, commits: Sequence[Commit]) -> None:
        with self._told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for each in commits:
                    self._put(each)
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    def _put(self, commit: Commit) -> None:
        db = self._db
        if commit.anew:
            for table in ("cells", "log", "waiting"):
                db.execute(f"DELETE FROM {table}")  # noqa: S608  # our own names
        db.executemany(
            "DELETE FROM cells WHERE kind = ? AND tbl = ? AND key = ? AND field = ?",
            [cell for cell, body in commit.cells.items() if body is None],
        )
        db.executemany(
            "INSERT OR REPLACE INTO cells VALUES (?, ?, ?, ?, ?, ?)",
            [(*cell, body, _crc(cell, body)) for cell, body in commit.cells.items() if body is not None],
        )
        db.executemany(
            "INSERT OR REPLACE INTO log VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(*entry, _crc(entry[:5], entry.data)) for entry in commit.logged],
        )
        db.executemany("DELETE FROM log WHERE number = ?", [(number,) for number in commit.forgotten])
        db.executemany(
            "INSERT OR REPLACE INTO waiting VALUES (?, ?, ?, ?, ?)",
            [(*each, _crc(each[:3], each.data)) for each in commit.waiting],
        )
        db.executemany("DELETE FROM waiting WHERE node = ? AND epoch = ? AND first = ?", commit.released)
        if commit.head is not None:
            self._set_meta("head", commit.head)

    def load(self) -> Image:
        with self._told():
            image = Image(head=self._meta("head"))
            for *cell, body, crc in self._db.execute("SELECT * FROM cells"):
                _check(cell, body, crc, "a cell")
                image.cells.append((CellId(*cell), body))
            for *entry, crc in self._db.execute("SELECT * FROM log ORDER BY number"):
                _check(entry[:5], entry[5], crc, "a batch")
                image.logged.append(Logged(*entry))
            for *wait, crc in self._db.execute("SELECT * FROM waiting ORDER BY node, epoch, first"):
                _check(wait[:3], wait[3], crc, "a batch that waits")
                image.waiting.append(Waiting(*wait))
            return image

    def tidy(self) -> bool:
        return False

    def close(self) -> None:
        self._db.close()

    def _meta(self, name: str) -> bytes | None:
        row = self._db.execute("SELECT value, crc FROM meta WHERE name = ?", (name,)).fetchone()
        if row is None:
            return None
        _check([name], row[0], row[1], name)
        value: bytes = row[0]
        return value

    def _set_meta(self, name: str, value: bytes) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (name, value, _crc([name], value)))

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's errors as ours."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if "malformed" in str(error) or "not a database" in str(error):
                raise self._damaged(error) from error
            raise Unavailable(
                f"cannot use {self.path}: {error}", fix="check free space, permissions and who has it open"
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> StoreDamaged:
        return StoreDamaged(
            f"{self.path} is damaged: {error}", fix="set it aside; a snapshot takes its place"
        )


def _crc(identity: Sequence[object], body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32("\0".join(map(str, identity)).encode("utf-8", "surrogatepass")))


def _check(identity: Sequence[object], body: bytes, crc: int, what: str) -> None:
    if not isinstance(body, bytes) or _crc(identity, body) != crc:
        raise sqlite3.DatabaseError(f"the checksum of {what} {tuple(identity)} does not hold")
