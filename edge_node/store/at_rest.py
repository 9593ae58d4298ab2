"""At rest: ledger and chronicle of a home whose daemon is down, read and not changed.

For `why` without a daemon: what lies there is told, and that nobody else was asked. Opening is read-only, so
nothing that a daemon will find is touched.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from edge_node.chronicle.account import witnessed
from edge_node.store.archive import Shelf
from edge_node.tasks.rows import Reading, Stored
from security.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from pathlib import Path

    from edge_node.home import Home


class _Rows:
    """As much of a ``LedgerStore`` as reading one task takes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows_of(self, task_id: str) -> Sequence[tuple[int, int, bytes, int]]:
        return self._connection.execute(
            "SELECT kind, at_ms, body, crc FROM records WHERE id = ? ORDER BY kind", (task_id,)
        ).fetchall()

    def beginning(self, prefix: str, limit: int) -> Sequence[str]:
        rows = self._connection.execute(
            "SELECT id FROM records WHERE id >= ? AND id < ? AND kind = 0 ORDER BY id LIMIT ?",
            (prefix, prefix + "\U0010ffff", limit),
        )
        return [task_id for (task_id,) in rows]


class _NoBooks:
    def get(self, task_id: str) -> Stored | None:
        return None

    def ids(self, prefix: str, limit: int) -> Sequence[str]:
        return []


def why(home: Home, asked: str) -> dict[str, Any]:
    """What this home's files say about an id; the same answer as a daemon's, without the others.

    Raises: BadInput: nothing is known of it. Unavailable: there is nothing to read, or it cannot be read.
    """
    if not home.chronicle.exists() and not home.ledger.exists():
        raise Unavailable(f"no daemon has ever run in {home.path}", fix="choose another home with --home DIR")
    try:
        with contextlib.ExitStack() as stack:
            ledger = _opened(stack, home.ledger)
            chronicle = _opened(stack, home.chronicle) or _empty(stack)
            books = _NoBooks() if ledger is None else Reading(_Rows(ledger))  # type: ignore[arg-type]  # two methods
            shelf = Shelf(chronicle)
            me = shelf.meta("node") or _owner(ledger)
            now_ms = time.time_ns() // 1_000_000
            found = witnessed(me, asked, shelf, books, now_ms)
    except sqlite3.Error as error:
        raise Unavailable(
            f"the files in {home.path} cannot be read: {error}", fix="start the daemon"
        ) from None
    if not found.name:
        fix = (
            f"did you mean {', '.join(found.near)}?"
            if found.near
            else "start the daemon to ask other members"
        )
        raise BadInput(f"nothing is known of {asked!r:.80} in {home.path}", fix=fix)
    return {
        "about": found.name,
        "asked_by": me,
        "at_ms": now_ms,
        "entries": [msgspec.structs.asdict(each) for each in found.entries],
        "sides": [{"node": me, "complete": found.complete, "since_ms": found.since_ms, "skew_ms": 0}],
        "missing": [],
        "others_asked": False,
    }


def _opened(stack: contextlib.ExitStack, path: Path) -> sqlite3.Connection | None:
    if not path.exists():
        return None
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=3)
    stack.callback(connection.close)
    connection.execute("SELECT count(*) FROM meta").fetchone()
    return connection


def _empty(stack: contextlib.ExitStack) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    stack.callback(connection.close)
    connection.executescript(
        "CREATE TABLE meta(key TEXT, value TEXT);"
        "CREATE TABLE entries(number INTEGER, at_ms INTEGER, subject TEXT, id TEXT, cause TEXT, body BLOB);"
    )
    return connection


def _owner(ledger: sqlite3.Connection | None) -> str:
    row = None if ledger is None else ledger.execute("SELECT value FROM meta WHERE key = 'node'").fetchone()
    return "" if row is None else str(row[0])
