"""At rest: ledger, chronicle and tables of a home whose daemon is down, read and not changed.

For `why` and `state` without a daemon: what lies there is told, and that nobody else was asked. Opening is
read-only, or of a copy, so nothing that a daemon will find is touched.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edge_node.chronicle.account import witnessed
from edge_node.store.archive import Shelf
from edge_node.tasks.rows import Reading, Stored
from security.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from edge_node.home import Home
    from edge_node.store.cell_store import Image


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


# ── replicated tables ─────────────────────────────────────────────────────────────────────────────────


class Tables:
    """What this home's tables hold, to a command that would ask the daemon. Reading only."""

    def __init__(self, mesh: str, node: str, image: Image, losses: str) -> None:
        from edge_node.store.opened import OpenedState

        self.losses = losses
        self._about = {"mesh": mesh, "node": node}
        self._state = OpenedState.reading(node, image)

    async def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """As ``Mesh.call``. Raises: Unavailable: it takes a daemon. BadInput: as the daemon would."""
        if method == "status":
            return dict(self._about)
        if method not in READABLE:
            raise Unavailable(f"{method} takes a running daemon", fix="start it")
        return self._state.call(method, dict(params or {}))


READABLE = ("state.find", "state.count", "state.counter", "state.set", "state.tables", "state.conflicts")


def tables(home: Home) -> Tables:
    """Read from a copy: SQLite's own recovery, and what sets damage aside, shall not touch the home.

    Raises: Unavailable: there are none, or they cannot be read. BadInput: their key is gone, or a newer
    version wrote them.
    """
    from edge_node.store.mark import SUFFIX, beside
    from edge_node.store.storage.cell_file import CellFile, state_key
    from security.keystore import KeyStore
    from security.roster import RosterView

    if not home.state.exists():
        raise Unavailable(f"no tables lie in {home.path}", fix="choose another home with --home DIR")
    store = KeyStore(home.keys)
    identity, pin, signed = store.identity(), store.root_spki_sha256(), store.roster()
    view = None if pin is None or signed is None else RosterView(root_spki_sha256=pin, signed=signed)
    roster = None if view is None else view.current
    member = None if roster is None or identity is None else roster.member_of_key(identity.keys.spki_sha256)
    if roster is None or member is None:
        raise Unavailable(f"{home.path} has no keys of a member", fix="restore them: they open the tables")
    key = state_key(home.state, store)
    with tempfile.TemporaryDirectory(prefix="edgeweave-") as directory:  # 0700
        copy = Path(directory) / home.state.name
        try:
            for suffix in ("", "-wal", SUFFIX):
                if beside(home.state, suffix).exists():
                    shutil.copyfile(beside(home.state, suffix), beside(copy, suffix))
        except OSError as error:
            raise Unavailable(
                f"{home.state} cannot be copied to be read: {error.strerror}", fix="start the daemon"
            ) from None
        cells = CellFile(copy, roster.mesh_id, member.id, key)
        try:
            return Tables(roster.mesh_id, member.id, cells.load(), cells.losses)
        finally:
            cells.close()
