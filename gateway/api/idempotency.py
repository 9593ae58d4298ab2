"""Idempotency keys: a submit that is sent twice makes one task, also across a restart of the gateway.

    Idempotency-Key ─► unknown: a task id is made, written beside the key (fsynced), then the task is
    submitted
                    ─► known, same request: the task that bears the id, or a submit under that same id
                    ─► known, another request: refused (422)        ─► under way: refused (409)

As in draft-ietf-httpapi-idempotency-key-header. What is kept is the id and not the answer: whether the
task was accepted the ledger knows. A crash between the two leaves an id without a task, and the next try
uses it. Keys belong to who sent them. They are kept for a day in ``<home>/idempotency.db``, at most 10
000: more from a client that makes one for each submit and never repeats any would be a file that only
grows; the oldest go.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from gateway.api.problems import Problem
from security.errors import Unavailable

T = TypeVar("T")

KEPT_MS: Final = 24 * 3600 * 1000
KEYS_MAX: Final = 10_000
KEY_CHARS_MAX: Final = 255
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS kept(
    owner TEXT NOT NULL, key TEXT NOT NULL, request BLOB NOT NULL, task TEXT NOT NULL, at_ms INTEGER NOT NULL,
    PRIMARY KEY(owner, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS kept_by_time ON kept(at_ms);
"""


@dataclass(slots=True)
class Turn:
    """The one request that has this key now. task: of an earlier try, or ""."""

    owner: str
    key: str
    request: bytes
    task: str


class Keys:
    """Args: path: of the file, made (0600) when first needed.   wall_ms: the gateway's wall clock."""

    def __init__(self, path: Path, wall_ms: Callable[[], int]) -> None:
        self._path = path
        self._wall_ms = wall_ms
        self._connection: sqlite3.Connection | None = None
        self._under_way: set[tuple[str, str]] = set()
        self._disk = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def turn(self, owner: str, key: str, request: bytes) -> AsyncIterator[Turn]:
        """Args: request: SHA-256 of what is asked. Raises: Problem: 409, 422. Unavailable: the disk."""
        if (owner, key) in self._under_way:
            raise Problem(
                "in-progress", "a request with this key is being worked at", fix="wait for its answer"
            )
        self._under_way.add((owner, key))
        try:
            held = await self._done(lambda db: self._find(db, owner, key))
            if held is not None and held[0] != request:
                raise Problem(
                    "key-reused", "this key was sent with another request", field="header.idempotency-key",
                    fix="make a new key for each new request",
                )  # fmt: skip
            yield Turn(owner, key, request, held[1] if held else "")
        finally:
            self._under_way.discard((owner, key))

    async def keep(self, turn: Turn, task: str) -> None:
        """Durable when this returns."""
        row = (turn.owner, turn.key, turn.request, task, self._wall_ms())
        await self._done(lambda db: self._keep(db, row))

    async def forget(self, turn: Turn) -> None:
        """The request was refused: the same key may be tried again."""
        where = (turn.owner, turn.key)
        await self._done(lambda db: db.execute("DELETE FROM kept WHERE owner = ? AND key = ?", where))

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _find(self, db: sqlite3.Connection, owner: str, key: str) -> tuple[bytes, str] | None:
        found: tuple[bytes, str] | None = db.execute(
            "SELECT request, task FROM kept WHERE owner = ? AND key = ? AND at_ms > ?",
            (owner, key, self._wall_ms() - KEPT_MS),
        ).fetchone()
        return found

    def _keep(self, db: sqlite3.Connection, row: tuple[str, str, bytes, str, int]) -> None:
        db.execute("BEGIN IMMEDIATE")
        try:
            db.execute("DELETE FROM kept WHERE at_ms <= ?", (row[-1] - KEPT_MS,))
            (count,) = db.execute("SELECT count(*) FROM kept").fetchone()
            if count >= KEYS_MAX:
                db.execute(
                    "DELETE FROM kept WHERE (owner, key) IN "
                    "(SELECT owner, key FROM kept ORDER BY at_ms LIMIT ?)",
                    (count - KEYS_MAX + 100,),
                )
            db.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, ?)", row)
            db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise

    async def _done(self, work: Callable[[sqlite3.Connection], T]) -> T:
        async with self._disk:
            return await asyncio.to_thread(self._in_thread, work)

    def _in_thread(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return work(self._opened())
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise Unavailable(
                f"idempotency keys cannot be kept: {error}",
                fix=f"free space; a damaged {self._path.name} may be deleted",
            ) from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.touch(mode=0o600, exist_ok=True)
            connection = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False, timeout=10.0
            )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_SCHEMA)
            self._connection = connection
        return self._connection


def checked_key(text: str) -> str:
    """The key of a header's value, in quotes (as a structured field) or bare. Raises: Problem."""
    key = text.strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not 1 <= len(key) <= KEY_CHARS_MAX or not all(" " < each < "\x7f" for each in key):
        raise Problem(
            "invalid", f"an Idempotency-Key is 1 to {KEY_CHARS_MAX} visible ASCII characters",
            field="header.idempotency-key", fix="use a UUID",
        )  # fmt: skip
    return key
