"""Backup and restore: everything that makes the mesh, in one file under a passphrase.

    backup    keys (CA, gateway, broker, deployer, group secrets, roster), documents with the catalogue,
              replicated tables, users and tokens, the audit log, bundles, settings ─► entries
              ─► ``security.sealing`` ─► FILE (0600, whole or not at all)
    restore   FILE ─► <home>/.restoring ─► checked as a whole ─► the home, its keys last

Left out on purpose: ``ledger.db`` (it names tasks that have ended since: brought back, they would run and
end a second time), join codes (they may have been used since), a joining under way, who is logged in, the
log, sockets and the broker's folder (made anew). An entry is CBOR [path, length], its own length in two bytes
before it; then the content; an empty path ends.

The replicated tables go along, sealed, with their key: a member that comes back with an old disk catches up,
and where no member is left, or none that is believed, they are all there is.

Works beside a running gateway: each key file is replaced in one rename and so is whole, the databases are
each read in one transaction of SQLite, bundles never change, and the roster is read last, so that nothing
here is newer. What a restored gateway does before it signs again decides ``restoration``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from edge_node.home import Home
from gateway.access.access import ACCESS, AUDIT
from gateway.restoration import RECORD, Restored
from security import sealing
from security.canonical import a_count, a_list, a_map, a_text, decode, encode
from security.errors import BadInput, EdgeweaveError, ProtocolViolation, Refused, Unavailable
from security.keystore import KeyStore
from security.roster import Adopted, Roster, RosterView

PIECE_BYTES: Final = 1024 * 1024
ROSTER: Final = "keys/roster.cose"
CONTENTS: Final = "contents"
NOT_KEPT: Final = frozenset({"invitations", "joining.pem", "joining.token", RECORD})
STAGE: Final = ".restoring"
ENTRY_BYTES_MAX: Final = 4 * 1024**3  # one entry; documents.db is the largest, by far below this
ENTRIES_MAX: Final = 100_000

_PATH = re.compile(
    r"(?:keys/[a-z0-9][a-z0-9._-]{0,63}|bundles/[0-9a-f]{64}|documents\.db|state\.db"
    r"|access\.json|audit\.log|settings\.toml|contents)\Z"
)
_DAMAGED = "the backup is damaged"


@dataclass(frozen=True, slots=True)
class Summary:
    """What a person wants to know of a backup, written or read."""

    mesh: str
    roster_version: int
    members: int
    bundles: int
    made_s: int
    left_out: list[str] = field(default_factory=list)  # what could not be read, and why


# ── backup ────────────────────────────────────────────────────────────────────────────────────────────────


def write_backup(
    home: Home, target: Path, passphrase: bytes, *, now_s: int, cost: int = sealing.COST
) -> Summary:
    """Back up this gateway's home into *target*; its daemon may run.

    Raises: BadInput: no gateway's home, or *target* is some other file. Unavailable: a disk refuses.
    """
    keystore, roster = _mesh_of(home)
    _check_target(target)
    bundles = [path for path in sorted(home.bundles.glob("*")) if re.fullmatch(r"[0-9a-f]{64}", path.name)]
    left_out: list[str] = []
    try:
        with tempfile.TemporaryDirectory(prefix=".backup-", dir=home.path) as folder:
            copies = [_copy_of(path, Path(folder), left_out) for path in (home.documents, home.state)]
            copies += _accounts(home, Path(folder))
            entries = _entries(keystore, home, bundles, copies, now_s=now_s, left_out=left_out)
            pieces = sealing.seal(
                entries, passphrase, salt=os.urandom(sealing.SALT_BYTES),
                nonce=os.urandom(sealing.NONCE_BYTES), cost=cost,
            )  # fmt: skip
            _write_whole(target, pieces)
    except OSError as error:
        raise Unavailable(
            f"the backup cannot be written: {error.strerror or error}",
            fix="free space, or choose another place; what was there before is untouched",
        ) from error
    return Summary(roster.mesh_id, roster.version, len(roster.members), len(bundles), now_s, left_out)


def _mesh_of(home: Home) -> tuple[KeyStore, Roster]:
    if not home.keys.is_dir():
        raise BadInput(f"{home.path} holds no mesh", fix="name the gateway's home with --home DIR")
    keystore = KeyStore(home.keys)
    authority, signed = keystore.authority(entropy=os.urandom), keystore.roster()
    if authority is None or signed is None:
        raise BadInput(f"{home.path} holds no mesh", fix="name the home of a gateway that was up once")
    try:
        roster = RosterView(root_spki_sha256=authority.root_spki_sha256, signed=signed).current
    except ProtocolViolation as violation:
        raise BadInput(
            f"the stored roster does not verify: {violation.cause}", fix="keep the backups you have"
        ) from None
    assert roster is not None, "just adopted"
    return keystore, roster


def _check_target(target: Path) -> None:
    """An older backup is replaced; any other file is not."""
    try:
        with target.open("rb") as file:
            if file.read(len(sealing.MAGIC)) == sealing.MAGIC:
                return
    except FileNotFoundError:
        return
    except OSError as error:
        raise BadInput(f"cannot write {target}: {error.strerror}", fix="choose another file") from None
    raise BadInput(f"{target} is there and is no backup", fix="choose another file, or remove it")


def _copy_of(database: Path, folder: Path, left_out: list[str]) -> Path | None:
    """A consistent copy: of the documents, which hold the catalogue, or of the replicated tables, whose key
    goes along. None: there is none, or a damaged one."""
    if not database.exists():
        return None
    copy = folder / database.name
    copy.touch(mode=0o600)
    try:
        with (
            contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)) as held,
            contextlib.closing(sqlite3.connect(copy)) as fresh,
        ):
            held.backup(fresh)
            fresh.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.Error as error:
        left_out.append(f"{database.name}: {error}")
        return None
    return copy


def _accounts(home: Home, folder: Path) -> list[Path]:
    """Copies of the accounts and then of the audit log, which by then reaches at least as far as they say."""
    copies = []
    for name in (ACCESS, AUDIT):
        with contextlib.suppress(FileNotFoundError):
            copies.append(Path(shutil.copyfile(home.path / name, folder / name)))
    return copies


def _entries(
    keystore: KeyStore,
    home: Home,
    bundles: list[Path],
    copies: Sequence[Path | None],
    *,
    now_s: int,
    left_out: list[str],
) -> Iterator[bytes]:
    yield from _entry(CONTENTS, encode({"v": 1, "made": now_s}))
    for copy in copies:
        if copy is not None:
            yield from _file_entry(copy.name, copy)
    for bundle in bundles:
        try:
            content = bundle.read_bytes()
        except OSError as error:  # set aside meanwhile: it was damaged
            left_out.append(f"bundle {bundle.name[:12]}: {error.strerror}")
            continue
        yield from _entry(f"bundles/{bundle.name}", content)
    with contextlib.suppress(FileNotFoundError):
        yield from _entry("settings.toml", home.settings.read_bytes())
    names = sorted(path.name for path in home.keys.iterdir() if path.is_file())
    kept = [name for name in names if _PATH.match(f"keys/{name}") and name not in NOT_KEPT]
    for name in sorted(kept, key=lambda name: f"keys/{name}" == ROSTER):
        content_or_none = keystore.read(name)
        if content_or_none is not None:
            yield from _entry(f"keys/{name}", content_or_none)
    yield from _entry("", b"")


def _entry(path: str, content: bytes) -> Iterator[bytes]:
    yield _head(path, len(content))
    yield content


def _file_entry(path: str, file_path: Path) -> Iterator[bytes]:
    with file_path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        yield _head(path, size)
        while piece := file.read(PIECE_BYTES):
            yield piece


def _head(path: str, size: int) -> bytes:
    head = encode([path, size])
    return len(head).to_bytes(2, "big") + head


def _write_whole(target: Path, pieces: Iterable[bytes]) -> None:
    """0600, fsynced, in one rename; on any error what was there stays."""
    fresh = target.with_name(f".{target.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(target)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    _sync(target.parent)


# ── restore ───────────────────────────────────────────────────────────────────────────────────────────────


def read_backup(
    home: Home, source: BinaryIO, passphrase: bytes, *, now_s: int, seen: Iterable[bytes] = ()
) -> Summary:
    """Make *home* the gateway that *source* is a backup of.

    Nothing of the home's own place changes before the whole file was opened and its keys were checked; the
    keys come last, so an interrupted restore leaves no mesh behind and can be begun again.

    Args: seen: signed rosters that members hold (``<home>/keys/roster.cose`` of a node); the highest counts.
    Raises: Refused: the home holds a mesh already. Unavailable: a daemon runs in it, or the disk refuses.
        BadInput: wrong passphrase; truncated, damaged, newer; a roster of another mesh.
    """
    _check_empty(home)
    home.create()
    with home.hold():
        stage = Home(home.path / STAGE)
        try:
            shutil.rmtree(stage.path, ignore_errors=True)  # of a restore that was interrupted
            stage.create()
            try:
                made_s = _unpack(stage, sealing.unseal(source, passphrase))
                summary = _checked(stage, made_s, now_s, seen)
            except BaseException:
                shutil.rmtree(stage.path, ignore_errors=True)
                raise
            _move_in(stage, home)
            shutil.rmtree(stage.path, ignore_errors=True)
        except OSError as error:
            raise Unavailable(
                f"the home cannot be written: {error.strerror or error}",
                fix="free space, or choose another --home",
            ) from error
    return summary


def check_whole(home: Home) -> None:
    """Before a gateway starts: it would make a new mesh beside the documents of the one that was restored.

    Raises: Refused: a restore into this home was interrupted before its keys were there.
    """
    if (home.path / STAGE).exists() and not (home.keys / "issuing.pem").exists():
        raise Refused(
            f"a restore into {home.path} was interrupted",
            fix=f"begin it again: edge-gateway restore FILE; or, for a new mesh, remove {home.path / STAGE}",
        )


def _check_empty(home: Home) -> None:
    if home.keys.is_dir() and any(home.keys.iterdir()):
        raise Refused(
            f"{home.path} holds a mesh already",
            fix="restore into a new home with --home DIR, or move this one away first",
        )
    if (home.path / STAGE).exists():
        return  # a restore was interrupted while it moved in: what lies here is its own
    for path in (home.ledger, home.documents, home.state, home.path / ACCESS, home.path / AUDIT):
        if path.exists():
            raise Refused(
                f"{home.path} is no new home: it holds {path.name}",
                fix="restore into a new home with --home DIR, or move this one away first",
            )


class _Pieces:
    """Bytes asked for by number, from pieces of any length."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = b""

    def take(self, size: int) -> bytes:
        """At most *size* bytes, at least one while there are any."""
        if not self._held:
            self._held = next(self._pieces, b"")
        taken, self._held = self._held[:size], self._held[size:]
        return taken

    def exactly(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            piece = self.take(size - len(found))
            if not piece:
                raise BadInput(_DAMAGED, fix="take another copy of it")
            found += piece
        return found

    def drain(self) -> None:
        """To the end, which proves that it is the end."""
        if self._held or any(self._pieces):
            raise BadInput(_DAMAGED, fix="take another copy of it")


def _unpack(stage: Home, plain: Iterator[bytes]) -> int:
    """Every entry as a file below *stage*; when the backup was made."""
    pieces, made_s, seen = _Pieces(plain), 0, set[str]()
    while True:
        path, size = _read_head(pieces)
        if path == "":
            break
        if path in seen or len(seen) >= ENTRIES_MAX:
            raise BadInput(_DAMAGED, fix="take another copy of it")
        seen.add(path)
        if path == CONTENTS:
            made_s = _made(pieces.exactly(size))
            continue
        descriptor = os.open(stage.path / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            left = size
            while left:
                piece = pieces.take(min(left, PIECE_BYTES))
                if not piece:
                    raise BadInput(_DAMAGED, fix="take another copy of it")
                file.write(piece)
                left -= len(piece)
            file.flush()
            os.fsync(file.fileno())
    pieces.drain()
    return made_s


def _read_head(pieces: _Pieces) -> tuple[str, int]:
    try:
        head = decode(pieces.exactly(int.from_bytes(pieces.exactly(2), "big")), what="entry")
        path_field, size_field = a_list(head, "entry", length=2)
        path = a_text(path_field, "path", most=128)
        size = a_count(size_field, "size", most=ENTRY_BYTES_MAX)
    except ProtocolViolation as violation:
        raise BadInput(f"{_DAMAGED}: {violation.cause}", fix="take another copy of it") from None
    if path and not _PATH.match(path):
        raise BadInput(
            f"the backup holds {path!r:.80}, which this edgeweave does not know",
            fix="upgrade edgeweave here first",
        )
    return path, size


def _made(content: bytes) -> int:
    try:
        table = a_map(decode(content, what="contents"), "contents")
        version = a_count(table.get("v"), "version")
        made_s = a_count(table.get("made"), "time", most=2**40)
    except ProtocolViolation as violation:
        raise BadInput(f"{_DAMAGED}: {violation.cause}", fix="take another copy of it") from None
    if version > 1:
        raise BadInput(
            f"the backup was made by a newer edgeweave (contents {version}, this one reads 1)",
            fix="upgrade edgeweave here first",
        )
    return made_s


def _checked(stage: Home, made_s: int, now_s: int, seen: Iterable[bytes]) -> Summary:
    """The staged home is a gateway's. Members' rosters are taken, the restoration is written down."""
    keystore, roster = _mesh_of(stage)
    view = RosterView(root_spki_sha256=keystore.root_spki_sha256() or b"", signed=keystore.roster())
    record = Restored(roster.version, made_s, now_s)
    for signed in seen:
        try:
            taken = view.adopt(signed)
        except EdgeweaveError as error:
            raise BadInput(
                f"a roster given with --seen is not of this mesh: {error}",
                fix="give keys/roster.cose of a node of this mesh",
            ) from None
        if isinstance(taken, Adopted):
            keystore.save_roster(signed)
            record = Restored(roster.version, made_s, now_s, taken.roster.version, "--seen")
    keystore.write(RECORD, record.encode())
    assert view.current is not None
    bundles = sum(1 for _ in stage.bundles.iterdir())
    return Summary(roster.mesh_id, view.version, len(view.current.members), bundles, made_s)


def _move_in(stage: Home, home: Home) -> None:
    for bundle in stage.bundles.iterdir():
        bundle.replace(home.bundles / bundle.name)
    _sync(home.bundles)
    if stage.documents.exists():
        stage.documents.replace(home.documents)
    if stage.state.exists():
        stage.state.replace(home.state)
    for name in (AUDIT, ACCESS):
        if (stage.path / name).exists():
            (stage.path / name).replace(home.path / name)
    if stage.settings.exists() and not home.settings.exists():  # what was chosen for this machine stays
        stage.settings.replace(home.settings)
    _sync(home.path)
    stage.keys.replace(home.keys)  # over the empty one: from here on it is the gateway
    _sync(home.path)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
