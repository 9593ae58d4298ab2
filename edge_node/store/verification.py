"""Verification: is everything in a home's stores still what was written? Nothing is changed by asking.

    verify(home, …) ─► one Checked per store: rows, bytes, gaps in words

Beside a running daemon and without one. SQLite files are opened read-only; what SQLite would take for an
ended log is held against the `mark`. Not here: what to do about a gap (`recovery` at the next start).
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from edge_node.functions.bundle import digest_of
from edge_node.home import Home
from edge_node.scheduling.estimates import Estimates
from edge_node.store import recovery
from edge_node.store.ledger import SCHEMA_VERSION, newest_row
from edge_node.store.mark import missing, vouched
from edge_node.store.replica import Replica
from edge_node.store.storage import cell_rescue
from edge_node.store.storage.cells import SCHEMA as STATE_SCHEMA
from edge_node.store.storage.cells import check_owner, collected
from edge_node.store.storage.seal import Seal
from edge_node.store.storage.sqlite import SCHEMA, crc_of
from edge_node.tasks.rows import ACCEPTED, CLOSED, Row, holds
from edge_node.tasks.task import Outcome, Task
from security.canonical import decode
from security.errors import BadInput, EdgeweaveError, ProtocolViolation
from security.keystore import KeyStore
from security.roster import open_roster
from security.signing import peek1

GAPS_MAX = 10_000
"""Named of one store; more are counted."""
MARK_TRIES = 5
"""A running daemon moves its mark while we read: a gap counts when it is still there."""


class Checked(msgspec.Struct, frozen=True):
    """One store. `rows`: records, documents, keys or files, whatever it is made of."""

    store: str
    rows: int = 0
    bytes: int = 0
    gaps: tuple[str, ...] = ()

    def line(self) -> str:
        told = f"{len(self.gaps)} gaps" if len(self.gaps) != 1 else "1 gap"
        state = told if self.gaps else "sound"
        return f"{self.store:<12}  {self.rows:>9,} rows  {self.bytes:>13,} bytes  {state}"


def verify(home: Home) -> list[Checked]:
    """Every store of this home. Raises: BadInput: there is no such home."""
    if not home.path.is_dir():
        raise BadInput(f"{home.path} is no home", fix="name the daemon's directory with --home DIR")
    found = [ledger(home.ledger), *set_aside(home.path), documents(home.documents)]
    if home.state.exists() or _vouched_gap(home.state):
        found.append(state(home))
    if home.chronicle.exists():
        found.append(_database(home.chronicle, "chronicle", lambda opened: (0, []), known=None))
    return [*found, keys(home.keys), bundles(home.bundles), estimates(home.estimates)]


# ── SQLite files ──────────────────────────────────────────────────────────────────────────────────────


def ledger(path: Path) -> Checked:
    """Trees and index, the log against its mark, each row's checksum, and what a row says of itself twice."""
    return _database(path, "ledger", _ledger_rows, known=SCHEMA_VERSION, newest_in=newest_row)


def _ledger_rows(opened: sqlite3.Connection) -> tuple[int, list[str]]:
    opened.text_factory = bytes
    gaps, count, ends = [], 0, 0
    for seq, name, kind, at_ms, state, body, crc in opened.execute(
        "SELECT seq, id, kind, at_ms, state, body, crc FROM records ORDER BY seq"
    ):
        count += 1
        try:
            row = Row(name.decode(), kind, at_ms, state.decode(), body, crc)
        except (AttributeError, UnicodeDecodeError):
            gaps.append(f"row {seq}: unreadable")
            continue
        if not isinstance(kind, int) or not holds(row):
            gaps.append(f"{row.id}/{row.kind}: checksum")
        elif not _says_the_same(row):
            gaps.append(f"{row.id}/{row.kind}: its time or state is not that of its body")
        ends += kind == CLOSED
    bare = opened.execute(
        "SELECT id FROM records AS c WHERE kind >= 100 AND NOT EXISTS "
        "(SELECT 1 FROM records AS a WHERE a.id = c.id AND a.kind = 0) LIMIT 100"
    )
    gaps += [
        f"{name.decode('utf-8', 'replace')}/0: attempts of it are there, its accept is not"
        for (name,) in bare
    ]
    return count, gaps


_task = msgspec.msgpack.Decoder(Task)
_outcome = msgspec.msgpack.Decoder(Outcome)


def _says_the_same(row: Row) -> bool:
    try:
        if row.kind == ACCEPTED:
            return _task.decode(row.body).accepted_at_ms == row.at_ms
        if row.kind == CLOSED:
            outcome = _outcome.decode(row.body)
            return (outcome.settled_at_ms, outcome.status) == (row.at_ms, row.state)
    except msgspec.MsgspecError:
        return False
    return True


def documents(path: Path) -> Checked:
    """Trees and index, the log against its mark, each document's checksum."""
    return _database(path, "documents", _document_rows, known=SCHEMA)


def _document_rows(opened: sqlite3.Connection) -> tuple[int, list[str]]:
    gaps, count = [], 0
    (version,) = opened.execute("PRAGMA user_version").fetchone()
    if version < SCHEMA:
        (count,) = opened.execute("SELECT count(*) FROM documents").fetchone()
        return count, []  # of a version without checksums; the next start makes them
    rows = opened.execute("SELECT CAST(tbl AS BLOB), id, CAST(body AS BLOB), crc FROM documents")
    for table, doc_id, body, crc in rows:
        count += 1
        name = table.decode("utf-8", "replace")
        if crc_of(name, doc_id, body.decode("utf-8", "surrogateescape")) != crc:
            gaps.append(f"document {doc_id} of {name}: checksum")
    return count, gaps


def state(home: Home) -> Checked:
    """Trees, the log against its mark, each row's seal; and that a replica can be made of it all."""
    return _database(home.state, "state", functools.partial(_state_rows, home), known=STATE_SCHEMA)


def _state_rows(home: Home, opened: sqlite3.Connection) -> tuple[int, list[str]]:
    (count,) = opened.execute("SELECT count(*) FROM rows").fetchone()
    try:
        key = KeyStore(home.keys).state_key() if home.keys.is_dir() else None
        if key is None:
            raise BadInput("its key is gone, so nothing of it can be opened")
        (told,) = opened.execute("SELECT value FROM meta WHERE name = 'owner'").fetchone() or (b"",)
        owner = bytes(told).decode("utf-8", "replace")
        seal = Seal(key, owner)
        check_owner(opened, home.state, owner, seal)
    except EdgeweaveError as error:
        return count, [f"{home.state.name}: {error.cause}"]
    gaps: list[str] = []
    rows = opened.execute("SELECT name, body FROM rows ORDER BY name")
    image, _ = collected(rows, seal, lambda what: gaps.append(f"{what} does not authenticate"))
    if not gaps:
        try:
            Replica(owner.rpartition("/")[2], _Unsigned(), _Nobody(), image, bytes).check()
        except (ValueError, AssertionError, EdgeweaveError, msgspec.MsgspecError) as error:
            gaps.append(f"{home.state.name}: no replica can be made of it: {error}")
    return count, gaps


class _Unsigned:
    """As much of an `Author` as reading takes."""

    def sign(self, payload: bytes) -> bytes:
        raise AssertionError("nothing is written by looking")

    def open(self, data: bytes) -> tuple[str, bytes]:
        raise AssertionError("nothing arrives by looking")

    def read(self, data: bytes) -> bytes:
        return peek1(data).payload


class _Nobody:
    """A `Policy` that is not asked."""

    def may_write(self, node: str, table: str) -> bool:
        return False

    def believed(self, node: str) -> bool:
        return False


def _database(
    path: Path,
    store: str,
    rows: Callable[[sqlite3.Connection], tuple[int, list[str]]],
    *,
    known: int | None,
    newest_in: Callable[[sqlite3.Connection], int] | None = None,
) -> Checked:
    gap = _vouched_gap(path, newest_in)
    if not path.exists() and not gap:
        return Checked(store)
    gaps = [f"{path.name}: {gap}"] if gap else []
    count = 0
    # Without a log nobody has it open, and looking leaves no file behind.
    mode = "mode=ro" if path.with_name(path.name + "-wal").exists() else "mode=ro&immutable=1"
    if path.exists() and path.stat().st_size:
        try:
            with contextlib.closing(sqlite3.connect(f"file:{path}?{mode}", uri=True, timeout=10)) as opened:
                (version,) = opened.execute("PRAGMA user_version").fetchone()
                if known is not None and version > known:
                    raise BadInput(
                        f"{path} has schema version {version}, this program reads up to {known}",
                        fix="upgrade edgeweave",
                    )
                for (line,) in opened.execute("PRAGMA integrity_check"):
                    gaps += [
                        f"{path.name}: {' '.join(each.split())}"
                        for each in str(line).split("\n")[:GAPS_MAX]
                        if each != "ok"
                    ]
                count, more = rows(opened)
                gaps += more
        except sqlite3.Error as error:
            gaps.append(f"{path.name}: {error}")
    return Checked(store, count, _bytes_of(path), _bounded(gaps))


def _vouched_gap(path: Path, newest_in: Callable[[sqlite3.Connection], int] | None = None) -> str:
    gap = ""
    for _ in range(MARK_TRIES):
        try:
            mark = vouched(path)
        except ValueError as error:
            gap = f"its mark: {error}"
        except OSError as error:
            return f"its mark: {error.strerror}"
        else:
            gap = "" if mark is None else missing(path, mark, newest_in)
        if not gap:
            return ""
        time.sleep(0.05)
    return gap


def _bytes_of(path: Path) -> int:
    total = 0
    for part in recovery.PARTS:
        with contextlib.suppress(OSError):
            total += path.with_name(path.name + part).stat().st_size
    return total


def set_aside(directory: Path) -> list[Checked]:
    """What earlier damage took, until somebody has looked and removed the files."""
    found = []
    for losses in recovery.told(directory / "ledger.db"):
        gaps = [f"{losses.aside}: {gap}" for gap in losses.gaps]
        gaps += [f"{losses.aside}: task {task} is lost" for task in losses.lost]
        if not gaps:
            gaps = [f"{losses.aside}: {losses.cause}"]
        size = _bytes_of(directory / losses.aside)
        found.append(Checked("set aside", losses.rows_kept, size, _bounded(gaps)))
    for losses in cell_rescue.told(directory / "state.db"):
        gaps = [cell_rescue.sentence(losses), *(f"{losses.aside}: {gap}" for gap in losses.gaps)]
        size = _bytes_of(directory / losses.aside)
        found.append(Checked("set aside", losses.rows_kept, size, _bounded(gaps)))
    for file in sorted(directory.glob("documents.db.damaged-*")):
        if file.name.rpartition("-")[2].isdigit():
            found.append(
                Checked("set aside", 0, file.stat().st_size, (f"{file.name}: damaged, what held was saved",))
            )
    return found


def _bounded(gaps: Sequence[str]) -> tuple[str, ...]:
    unique = list(dict.fromkeys(gaps))
    if len(unique) > GAPS_MAX:
        return (*unique[:GAPS_MAX], f"… and {len(unique) - GAPS_MAX} more")
    return tuple(unique)


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────


def keys(directory: Path) -> Checked:
    """Every key, certificate and list that can be read for what it is."""
    if not directory.is_dir():
        return Checked("keys")
    store = KeyStore(directory)
    gaps = []
    for name, look in _looks(store):
        try:
            look()
        except EdgeweaveError as error:
            gaps.append(f"keys/{name}: {error.cause}")
    files = [file for file in directory.iterdir() if file.is_file()]
    for file in files:
        if file.name in ("floor", "incarnation", "settled") and not file.read_bytes().strip().isdigit():
            gaps.append(f"keys/{file.name}: no number")
    return Checked("keys", len(files), sum(file.stat().st_size for file in files), tuple(gaps))


def _looks(store: KeyStore) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "identity.pem", store.identity
    yield "previous.pem", store.previous_identity
    yield "joining.pem", store.joining
    yield "root.pem", store.root
    yield "issuing.pem", lambda: store.authority(entropy=bytes)
    yield "broker.pem", store.broker
    yield "deployer.pem", store.deployer
    yield "roster.cose", lambda: _roster(store)
    yield "groups.cbor", lambda: _decoded(store, "groups.cbor")
    yield "invitations", lambda: _decoded(store, "invitations")
    yield "state.key", store.state_key


def _roster(store: KeyStore) -> None:
    signed, pin = store.roster(), store.root_spki_sha256()
    if signed is not None:
        if pin is None:
            raise ProtocolViolation("there is no root to verify it by")
        open_roster(signed, root_spki_sha256=pin)


def _decoded(store: KeyStore, name: str) -> None:
    data = store.read(name)
    if data is not None:
        decode(data, what=name)


def bundles(directory: Path) -> Checked:
    """Each file is what its name, a digest, says."""
    if not directory.is_dir():
        return Checked("bundles")
    count = size = 0
    gaps = []
    for file in sorted(directory.iterdir()):
        if file.suffix == ".damaged":
            gaps.append(f"bundles/{file.name[:12]}: was changed on disk and set aside")
        if len(file.name) != 64:
            continue
        count += 1
        try:
            data = file.read_bytes()
        except OSError as error:
            gaps.append(f"bundles/{file.name[:12]}: {error.strerror}")
            continue
        size += len(data)
        if digest_of(data).hex() != file.name:
            gaps.append(f"bundles/{file.name[:12]}: was changed on disk")
    return Checked("bundles", count, size, tuple(gaps))


def estimates(path: Path) -> Checked:
    """The kept experience; a version that we do not know is no gap."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Checked("estimates")
    except OSError as error:
        return Checked("estimates", gaps=(f"{path.name}: {error.strerror}",))
    try:
        return Checked("estimates", Estimates().load(data), len(data))
    except BadInput as fault:
        return Checked("estimates", 0, len(data), (f"{path.name}: {fault.cause}",))
