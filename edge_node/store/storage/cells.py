"""A `CellStore` in one SQLite file (WAL, synchronous = FULL), sealed row by row with the node's key.

    rows(name → sealed)     a cell, a batch, a batch that waits, the head: see `seal`      meta: whose it is

A commit costs what it changes, whatever the file holds: one statement, if nothing is dropped, because a
thread that talks to SQLite row by row must win the interpreter back from a busy event loop each time. A row
that does not authenticate, trees that do not agree, a log that lacks what was safe (`mark`) end the opening
or the loading with `StoreDamaged`; `cell_file` says what then. After a failed commit `load` opens the file
anew: what SQLite has cached of pages that could not be synced may not be what lies on the disk.

Calls block: one writer, from any thread, one at a time. Not here: what the bytes mean.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec

from edge_node.store.cell_store import Commit, Image, Logged, Waiting
from edge_node.store.cells import CellId
from edge_node.store.ledger import SIZES, WAL_FRAME_BYTES
from edge_node.store.mark import Mark, missing, vouched
from edge_node.store.storage.seal import BATCH, CELL, HEAD, NEWEST, RESCUED, WAITING, Seal, batch_name
from edge_node.tasks.rows import StoreDamaged
from security.errors import BadInput, Unavailable

SCHEMA: Final = 2
"""1 was never released, and had no seal."""
APPLICATION_ID: Final = 0x65775F73  # "ew_s"
PRAGMAS: Final = (
    "PRAGMA auto_vacuum = INCREMENTAL",  # takes effect in a new file only
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA cache_size = -1024",
    "PRAGMA journal_size_limit = 8388608",
)
FREED_AT_ONCE: Final = 64
"""Pages given back in a step: a commit that comes meanwhile waits for one, milliseconds."""
SPARE_PAGES: Final = 256
"""Unused ones that stay for the next growth; also an eighth of the file."""
NO_KEY_FIX: Final = "put back its keys/state.key, or move state.db away: other members' copies take its place"

_TABLES = """
BEGIN IMMEDIATE;
CREATE TABLE meta(name TEXT PRIMARY KEY, value BLOB NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE rows(name BLOB PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
{meta}
PRAGMA user_version = {schema};
PRAGMA application_id = {application};
COMMIT;
"""
_encode = msgspec.msgpack.Encoder().encode
_CELL = msgspec.msgpack.Decoder(tuple[int, str, str, str, bytes])
_LOGGED = msgspec.msgpack.Decoder(Logged)
_WAITING = msgspec.msgpack.Decoder(Waiting)


class SqliteCellStore:
    """Args: path: made (0600) if missing.   mesh_id, node_id: whose it must be.   key: of 32 bytes.
        entropy: for nonces.   connect: opens the file; for tests that stand between SQLite and its file.

    Raises (constructor): BadInput: of another mesh or node, another key or a newer version. StoreDamaged: not
    readable as what it was. Unavailable: it cannot be opened or written at all.
    """

    losses = ""

    def __init__(
        self,
        path: Path,
        mesh_id: str,
        node_id: str,
        key: bytes,
        *,
        entropy: Callable[[int], bytes] = os.urandom,
        connect: Callable[[Path], Any] | None = None,
    ) -> None:
        self.path = path
        self.log_bytes = 0
        self._owner = f"{mesh_id}/{node_id}"
        self._seal = Seal(key, self._owner, entropy)
        self._connect = connect or connected
        self._db: Any = None
        self._mark: Mark | None = None
        self._failed = False
        self._rescued: set[bytes] = set()
        self._newest = 0  # highest number of a batch that was ever logged here, and one
        try:
            self._open()
        except BaseException:
            self._let_go()
            raise

    # -- the port ------------------------------------------------------------------------------------------

    def commit(self, commits: Sequence[Commit]) -> None:
        assert not self._failed, "loaded again after a failure"
        rows, anew, newest = self._rows_of(commits)
        try:
            with self._told():
                if anew or len(rows) > SIZES[-1] or None in rows.values():
                    self._write_many(rows, anew)
                elif rows:
                    self._put(list(rows.items()))
        except BaseException:
            self._failed = True
            raise
        for each in commits:
            for entry in each.logged:
                self._rescued.discard(self._seal.waiting(*entry[1:4], kind=RESCUED))
        self._newest = newest
        self._note()

    def load(self) -> Image:
        if self._failed:
            self._let_go()
            self._open(after_failure=True)
            self._failed = False
        with self._told():
            return self._image()

    def rescue(self, batches: Sequence[Waiting]) -> None:
        """Batches of a file that was damaged: they wait, in every life, until they are logged."""
        names = [self._seal.waiting(*each[:3], kind=RESCUED) for each in batches]
        rows: dict[bytes, bytes | None] = {
            name: self._seal.sealed(name, _encode(each)) for name, each in zip(names, batches, strict=True)
        }
        with self._told():
            self._write_many(rows, anew=False)
        self._rescued.update(names)
        self._note()

    def tidy(self) -> bool:
        if self._failed:
            return False
        with self._told():
            free = self._one("PRAGMA freelist_count")
            keep = max(SPARE_PAGES, self._one("PRAGMA page_count") // 8)
            if free <= keep:
                return False
            self._db.execute(f"PRAGMA incremental_vacuum({min(FREED_AT_ONCE, free - keep)})").fetchall()
            left = self._one("PRAGMA freelist_count")
            if keep < left < free:
                return True
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()  # now the file becomes shorter
            return False

    def close(self) -> None:
        """Idempotent."""
        if self._db is not None and not self._failed:
            if self._mark is not None:
                with contextlib.suppress(OSError):
                    self._mark.clear()  # first: a log that is cut below would look like one that lost commits
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._let_go()

    # -- rows ----------------------------------------------------------------------------------------------

    def _rows_of(self, commits: Sequence[Commit]) -> tuple[dict[bytes, bytes | None], bool, int]:
        """Sealed rows by name, None: dropped; whether all else goes first; the number after the newest."""
        seal, sealed = self._seal, self._seal.sealed
        rows: dict[bytes, bytes | None] = {}
        anew, newest, dropped = False, self._newest, False
        for each in commits:
            if each.anew:
                rows = {name: body for name, body in rows.items() if name >= HEAD}
                anew = dropped = True
            for cell, body in each.cells.items():
                name = seal.cell(cell)
                rows[name] = None if body is None else sealed(name, _encode((*cell, body)))
            for entry in each.logged:
                name = batch_name(entry.number)
                rows[name] = sealed(name, _encode(entry))
                newest = max(newest, entry.number + 1)
                if self._rescued:
                    rescued = seal.waiting(*entry[1:4], kind=RESCUED)
                    if rescued in self._rescued:
                        rows[rescued] = None
            for number in each.forgotten:
                rows[batch_name(number)] = None
                dropped = True
            for waiting in each.waiting:
                name = seal.waiting(*waiting[:3])
                rows[name] = sealed(name, _encode(waiting))
            for key in each.released:
                rows[seal.waiting(*key)] = None
            if each.head is not None:
                rows[HEAD] = sealed(HEAD, each.head)
        if dropped:  # the rows that told of it go
            rows[NEWEST] = sealed(NEWEST, newest.to_bytes(8, "big"))
        return rows, anew, newest

    def _write_many(self, rows: dict[bytes, bytes | None], anew: bool) -> None:
        """What fails on the way is taken back when the connection is closed, which every failure ends in."""
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        if anew:
            db.execute("DELETE FROM rows WHERE name < ?", (HEAD,))
        gone = [(name,) for name, body in rows.items() if body is None]
        if gone:
            db.executemany("DELETE FROM rows WHERE name = ?", gone)
        put = [(name, body) for name, body in rows.items() if body is not None]
        for first in range(0, len(put), SIZES[-1]):
            self._put(put[first : first + SIZES[-1]])
        db.execute("COMMIT")

    def _put(self, rows: Sequence[tuple[bytes, bytes | None]]) -> None:
        """One statement of one of few sizes, so that few are kept prepared: the first row fills it up."""
        if not rows:
            return
        size = next(size for size in SIZES if size >= len(rows))
        values = ",".join(["(?,?)"] * size)
        padded = [*rows, *([rows[0]] * (size - len(rows)))]
        self._db.execute(
            f"INSERT OR REPLACE INTO rows VALUES {values}",  # noqa: S608
            tuple(chain.from_iterable(padded)),
        )

    def _image(self) -> Image:
        def bad(what: str) -> None:
            raise sqlite3.DatabaseError(f"{what} does not authenticate")

        rows = self._db.execute("SELECT name, body FROM rows ORDER BY name")
        image, self._rescued = collected(rows, self._seal, bad)
        return image

    # -- the file ------------------------------------------------------------------------------------------

    def _open(self, *, after_failure: bool = False) -> None:
        path = self.path
        try:
            mark = None if after_failure else self._vouched()
            path.touch(mode=0o600, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"cannot open {path}: {error.strerror}", fix="check its directory") from error
        with self._told():
            self._db = self._connect(path)
            self._db.execute(
                "PRAGMA temp_store = MEMORY"
            )  # what a large statement could take back lies in a file
            self._check_in(0 if mark is None else mark.newest)
            if after_failure:
                # What a failed fsync left in the log counts from here on, so it must lie on the disk.
                busy = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
                if busy:
                    raise sqlite3.OperationalError("its log cannot be copied now")
        with contextlib.suppress(OSError):  # a full disk: then damage to the log alone may go unseen
            self._mark = Mark(path)
            self._mark.clear()

    def _vouched(self) -> Any:
        """Before SQLite may touch it: is everything there that was safe? Raises: StoreDamaged, OSError."""
        try:
            mark = vouched(self.path)
        except ValueError:
            return None  # the mark itself: it is written anew
        if mark is not None and (gap := missing(self.path, mark, self._newest_in)):
            raise self._damaged(gap)
        return mark

    def _check_in(self, newest: int) -> None:
        db = self._db
        version = self._one("PRAGMA user_version")
        if version > SCHEMA:
            raise BadInput(
                f"{self.path} has schema {version}, this version reads up to {SCHEMA}", fix="update edgeweave"
            )
        if version == 0:
            if self._one("SELECT count(*) FROM sqlite_master"):
                raise BadInput(f"{self.path} is another program's database", fix="move it away")
            if newest:
                raise sqlite3.DatabaseError(f"it is empty, and batch {newest} was safe")
            kept = {"owner": self._owner.encode(), "key": self._seal.key_id}
            meta = "".join(
                f"INSERT INTO meta VALUES ('{name}', x'{value.hex()}', {_crc(name, value)});\n"  # noqa: S608
                for name, value in kept.items()
            )
            db.executescript(_TABLES.format(meta=meta, schema=SCHEMA, application=APPLICATION_ID))
        elif version < SCHEMA:
            raise BadInput(f"{self.path} has schema {version}, which was never released", fix="move it away")
        if (told := self._one("PRAGMA quick_check(1)")) != "ok":
            raise sqlite3.DatabaseError(str(told))
        check_owner(db, self.path, self._owner, self._seal)
        self._newest = self._newest_in(db)
        if self._newest < newest:
            raise sqlite3.DatabaseError(f"its newest batch is {self._newest}, and {newest} was safe")

    def _newest_in(self, db: Any) -> int:
        row = db.execute("SELECT body FROM rows WHERE name = ?", (NEWEST,)).fetchone()
        newest = 0
        if row is not None:
            try:
                newest = int.from_bytes(self._seal.opened(NEWEST, row[0]), "big")
            except ValueError as error:
                raise sqlite3.DatabaseError(f"a row does not authenticate: {error}") from error
        found = db.execute(f"SELECT max(name) FROM rows WHERE name < x'{WAITING.hex()}'")  # noqa: S608
        last = found.fetchone()[0]
        if last is not None and last[:1] == BATCH:
            newest = max(newest, int.from_bytes(last[1:], "big") + 1)
        return newest

    def _note(self) -> None:
        if self._mark is None:
            return
        before = self._mark.frames
        self._mark.note(self._newest)
        frames = self._mark.frames - before
        self.log_bytes += (frames if frames > 0 else self._mark.frames) * WAL_FRAME_BYTES

    def _let_go(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()
        mark, self._mark = self._mark, None
        if mark is not None:
            mark.close()

    def _one(self, statement: str) -> Any:
        return self._db.execute(statement).fetchone()[0]

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's errors as ours."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if "malformed" in str(error) or "not a database" in str(error) or "decode" in str(error):
                raise self._damaged(error) from error
            raise Unavailable(
                f"cannot use {self.path}: {error}", fix="check free space, permissions and who has it open"
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: object) -> StoreDamaged:
        return StoreDamaged(f"{self.path} is damaged: {error}", fix="the next start sets it aside")


_KINDS: Final = {CELL: "a cell", BATCH: "a batch", WAITING: "a batch that waits", RESCUED: "a saved batch"}


def collected(
    rows: Iterable[tuple[Any, Any]], seal: Seal, bad: Callable[[str], None]
) -> tuple[Image, set[bytes]]:
    """The image that these rows are, and the names of batches that were saved from an earlier damage.

    Args: rows: names and sealed bodies, by name.   bad: told of each that is not what was sealed.
    """
    image = Image()
    rescued: dict[bytes, Waiting] = {}
    for name, sealed in rows:
        try:
            what = decoded(name, seal.opened(name, sealed))
        except (ValueError, TypeError):
            kind = _KINDS.get(name[:1], "a row") if isinstance(name, bytes) else "a row"
            bad(f"{kind} ({name[-6:].hex()})" if isinstance(name, bytes) else kind)
            continue
        match what:
            case (int(number), str(table), str(key), str(field), bytes(body)):
                image.cells.append((CellId(number, table, key, field), body))
            case Logged():
                image.logged.append(what)
            case Waiting() if name[:1] == RESCUED:
                rescued[name] = what
            case Waiting():
                image.waiting.append(what)
            case bytes() if name == HEAD:
                image.head = what
    there = {entry[1:4] for entry in image.logged} | {each[:3] for each in image.waiting}
    image.waiting += [each for each in rescued.values() if each[:3] not in there]
    return image, set(rescued)


def decoded(name: bytes, body: bytes) -> object:
    """What lies in a row, by its name. Raises: ValueError: nothing that we put there."""
    try:
        match name[:1]:
            case b"a":
                return _CELL.decode(body)
            case b"b":
                return _LOGGED.decode(body)
            case b"c" | b"r":
                return _WAITING.decode(body)
            case b"h" | b"u":
                return body
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("it does not decode") from error
    raise ValueError("its name is none of ours")


def check_owner(db: Any, path: Path, owner: str, seal: Seal) -> None:
    """Raises: BadInput: another's, or of another key. sqlite3.DatabaseError: that cannot be told."""
    found: dict[str, bytes] = {}
    for name, value, crc in db.execute("SELECT name, value, crc FROM meta"):
        if not isinstance(name, str) or not isinstance(value, bytes) or _crc(name, value) != crc:
            raise sqlite3.DatabaseError("the checksum of whose it is does not hold")
        found[name] = value
    if not found.keys() >= {"owner", "key"}:
        raise sqlite3.DatabaseError("it does not say whose it is")
    if found["owner"] != owner.encode():
        raise BadInput(
            f"{path} holds the tables of {found['owner'].decode('utf-8', 'replace')}, not of {owner}",
            fix="restore the right file, or use another --home",
        )
    if found["key"] != seal.key_id:
        raise BadInput(f"{path} is sealed with another key than this node's", fix=NO_KEY_FIX)


def _crc(name: str, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(name.encode()))


def connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    for pragma in PRAGMAS:
        connection.execute(pragma)
    return connection
