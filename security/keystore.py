"""Keys and signed truths on disk, each readable by its owner alone.

    identity.pem   P-256 key, X25519 key, leaf, issuing CA: one file, so that a renewal replaces keys and
                   certificate in one rename; ``ssl`` and mosquitto read it as certificate *and* key file
    previous.pem   the identity before the last renewal: sessions with members of an older roster
    joining.pem    keys of a join or renewal under way (a lost answer is asked for again with the same keys)
    root.pem       the root certificate: the pin          roster.cose   the highest roster seen
    broker.pem     the broker's key, leaf, issuing CA     deployer.pem  the key that signs code
    root.key       the root's private key; may be moved away
    issuing.pem    the issuing CA's key and certificate   floor         the last time that was persisted
    groups.cbor    epoch secrets of groups                incarnation   the number of this member's last start
    settled        the roster whose removals the group's epoch already answers (gateway)
    state.key      the key that seals the replicated tables at rest

Directory 0700, files 0600. A write is atomic and durable: a new file, fsync, rename, fsync of the
directory. Loose permissions are refused, never repaired in silence: the key may have been read already.
One daemon owns a store at a time (its lock is the daemon's business).
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from security.authority import Authority, Entropy
from security.certificates import read_pem, spki_sha256_of
from security.errors import BadInput, ProtocolViolation, Unavailable
from security.identity import NodeKeys, private_pem

FILE_BYTES_MAX = 1024 * 1024
STATE_KEY_BYTES = 32
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
_BLOCK = re.compile(rb"-----BEGIN PRIVATE KEY-----.*?-----END PRIVATE KEY-----\n?", re.DOTALL)
_REJOIN = "restore it from a backup, or remove it and join again"


@dataclass(frozen=True, slots=True)
class StoredIdentity:
    """A member's keys and what the mesh says about them. ``chain`` is leaf, issuing CA."""

    keys: NodeKeys
    chain: tuple[x509.Certificate, ...]

    @property
    def leaf(self) -> x509.Certificate:
        return self.chain[0]

    @property
    def issuing(self) -> x509.Certificate:
        return self.chain[1]


class KeyFiles(Protocol):
    """Small files by name, each replaced as a whole. One caller at a time writes."""

    def write(self, name: str, data: bytes) -> None:
        """Atomic and durable. Raises: Unavailable: the disk refuses; the old file stays."""

    def read(self, name: str) -> bytes | None:
        """None: there is no such file. Raises: BadInput: open to others, unreadable, or no plain file."""

    def remove(self, name: str) -> None:
        """Durably; nothing happens if it is not there. Raises: Unavailable."""


class KeyDirectory:
    """`KeyFiles` in a directory of their owner's.

    Raises: BadInput: it is open to others, or not ours to use. Unavailable: the disk refuses.
    """

    def __init__(self, directory: Path) -> None:
        """Makes *directory* (0700) if it is not there."""
        self.directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = stat.S_IMODE(directory.stat().st_mode)
        except FileExistsError as error:
            raise BadInput(
                f"{directory} is not a directory", fix="remove it, or choose another --home"
            ) from error
        except PermissionError as error:
            raise BadInput(
                f"{directory} cannot be made or read by this user",
                fix="run as its owner, or choose another --home",
            ) from error
        except OSError as error:
            raise Unavailable(f"{directory}: {error.strerror}") from error
        if mode & 0o077:
            raise BadInput(
                f"{directory} holds keys and is open to others (mode {mode:04o})",
                fix=f"chmod 700 {directory}",
            )

    def write(self, name: str, data: bytes) -> None:
        path, fresh = self.directory / name, self.directory / f".{name}.new"
        try:
            fresh.unlink(missing_ok=True)  # left over from a crash: never opened, it may have other rights
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), 0o600)  # whatever the umask
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
            self._sync_directory()
        except OSError as error:
            raise Unavailable(
                f"{path} cannot be written: {error.strerror}",
                fix="check the disk and the owner of the directory",
            ) from error

    def read(self, name: str) -> bytes | None:
        path = self.directory / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise BadInput(
                f"{path} cannot be read by this user", fix=f"run as its owner, or chown $USER {path}"
            ) from error
        except OSError as error:
            raise BadInput(f"{path} cannot be read: {error.strerror}", fix=_REJOIN) from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > FILE_BYTES_MAX:
                raise BadInput(f"{path} is not one of our files", fix=_REJOIN)
            mode = stat.S_IMODE(status.st_mode)
            if mode & 0o077:
                raise BadInput(
                    f"{path} is open to others (mode {mode:04o}); its key may have been read",
                    fix=f"chmod 600 {path}, or join again with new keys",
                )
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read()
        except OSError as error:
            raise Unavailable(f"{path} cannot be read: {error.strerror}") from error
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> None:
        try:
            (self.directory / name).unlink(missing_ok=True)
            self._sync_directory()
        except OSError as error:
            raise Unavailable(f"{self.directory / name} cannot be removed: {error.strerror}") from error

    def _sync_directory(self) -> None:
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class KeyStore:
    """The key directory of one home.

    Args: directory: where it is.   files: what keeps its files, where that is no directory of this machine.
    Raises: BadInput, Unavailable: as `KeyDirectory`.
    """

    def __init__(self, directory: Path | str, *, files: KeyFiles | None = None) -> None:
        self.directory = Path(directory)
        self._turn = threading.RLock()  # a loop and its threads write: each a whole file, one after the other
        self._files = KeyDirectory(self.directory) if files is None else files

    # -- paths for those that need files (ssl, mosquitto)

    @property
    def identity_path(self) -> Path:
        return self.directory / "identity.pem"

    @property
    def root_path(self) -> Path:
        return self.directory / "root.pem"

    @property
    def broker_path(self) -> Path:
        return self.directory / "broker.pem"

    # -- the member

    def save_identity(self, keys: NodeKeys, *, leaf_pem: bytes, issuing_pem: bytes) -> None:
        """Keys and certificate in one rename; what was there becomes the previous identity.

        Raises: BadInput: the certificate belongs to another key.
        """
        if spki_sha256_of(read_pem(leaf_pem)[0]) != keys.spki_sha256:
            raise BadInput("certificate and key do not belong together", fix="join again")
        held = self.read(self.identity_path.name)
        if held is not None and _BLOCK.findall(held) != [private_pem(keys.signing), private_pem(keys.static)]:
            self.write("previous.pem", held)
        pem = private_pem(keys.signing) + private_pem(keys.static) + leaf_pem + issuing_pem
        self.write(self.identity_path.name, pem)

    def identity(self) -> StoredIdentity | None:
        """None: this home has not joined. Raises: BadInput: unreadable, open to others or damaged."""
        return self._identity("identity.pem")

    def previous_identity(self) -> StoredIdentity | None:
        return self._identity("previous.pem")

    def save_joining(self, keys: NodeKeys) -> None:
        self.write("joining.pem", private_pem(keys.signing) + private_pem(keys.static))

    def joining(self) -> NodeKeys | None:
        data = self.read("joining.pem")
        return None if data is None else self._keys("joining.pem", data)

    def forget_joining(self) -> None:
        self.remove("joining.pem")

    def forget_identity(self) -> None:
        """This home leaves its mesh: keys, certificate, roster and pin go; a deployer or authority stays."""
        for name in ("identity.pem", "previous.pem", "joining.pem", "roster.cose", "groups.cbor", "root.pem"):
            self.remove(name)

    def save_root(self, root_pem: bytes) -> None:
        self.write(self.root_path.name, root_pem)

    def root(self) -> x509.Certificate | None:
        data = self.read("root.pem")
        return None if data is None else self._certificates("root.pem", data, 1)[0]

    def root_spki_sha256(self) -> bytes | None:
        """The pin of this home's mesh."""
        root = self.root()
        return None if root is None else spki_sha256_of(root)

    def save_roster(self, signed: bytes) -> None:
        """Call with what ``RosterView.adopt`` adopted: it alone knows that the version grew."""
        self.write("roster.cose", signed)

    def save_newer_roster(self, signed: bytes, *, version_of: Callable[[bytes], int]) -> None:
        """For an answer that was under way while another thread may have adopted more: never a step back."""
        with self._turn:
            held = self.roster()
            if held is None or version_of(held) < version_of(signed):
                self.save_roster(signed)

    def roster(self) -> bytes | None:
        return self.read("roster.cose")

    def save_floor(self, at_s: int) -> None:
        """A time that has surely passed. It never goes back."""
        if at_s > self.floor_s():
            self.write("floor", b"%d\n" % at_s)

    def floor_s(self) -> int:
        """0 where none was persisted, or the file is damaged: a floor is a hint, the others still hold."""
        data = self.read("floor") or b"0"
        return int(data) if data.strip().isdigit() and len(data) < 16 else 0

    def save_group_secrets(self, stored: bytes) -> None:
        """What ``security.group.Epochs.to_bytes`` spells: it alone knows which epochs are the highest."""
        self.write("groups.cbor", stored)

    def group_secrets(self) -> bytes | None:
        """As they were saved; each is believed by its grant, so damage shows when they are restored."""
        return self.read("groups.cbor")

    def state_key(self) -> bytes | None:
        """The key of the replicated tables at rest: 32 bytes. Raises: BadInput: it is damaged."""
        data = self.read("state.key")
        if data is not None and len(data) != STATE_KEY_BYTES:
            raise self._damaged(
                "state.key", "is damaged", fix="restore it from a backup, or move it and state.db away"
            )
        return data

    def make_state_key(self, entropy: Entropy) -> bytes:
        """Durable before anything is sealed with it. Raises: Unavailable: the disk refuses."""
        assert self.state_key() is None, "what an earlier key sealed would be lost"
        key = entropy(STATE_KEY_BYTES)
        self.write("state.key", key)
        return key

    def next_incarnation(self, wall_s: int) -> int:
        """A number above that of every earlier start of this member: max(stored + 1, wall_s), durable.

        A missing or damaged file begins at *wall_s*, which lies above the old number unless the clock went
        back or there were more starts than seconds. If it does not, peers take this member's group beats for
        old ones until they hear one in a session, which proves itself. Raises: Unavailable: the disk refuses.
        """
        number = max(self._number("incarnation") + 1, wall_s)
        self.write("incarnation", b"%d\n" % number)
        return number

    def _number(self, name: str) -> int:
        data = (self.read(name) or b"0").strip()
        return int(data) if data.isdigit() and len(data) < 16 else 0

    # -- the gateway

    def save_settled_roster(self, version: int) -> None:
        """Every removal up to this roster has had its new group epoch (``gateway.epochs``)."""
        self.write("settled", b"%d\n" % version)

    def settled_roster(self) -> int:
        """0 where none was persisted, or the file is damaged: a new epoch at start, which is always safe."""
        return self._number("settled")

    def save_authority(self, authority: Authority) -> None:
        """The issuing CA is written last: an interrupted creation leaves no half authority."""
        if authority.root_key is not None:
            self.write("root.key", private_pem(authority.root_key))
        self.save_root(authority.root_pem)
        self.write("issuing.pem", private_pem(authority.issuing_key) + authority.issuing_pem)

    def authority(self, *, entropy: Entropy) -> Authority | None:
        """None: this home is no gateway. Raises: BadInput: unreadable, open to others or damaged."""
        data, root = self.read("issuing.pem"), self.root()
        if data is None:
            return None
        if root is None:
            raise self._damaged("root.pem", "is missing", fix="restore it from a backup of this gateway")
        key = self._signing_key("issuing.pem", data)
        (issuing,) = self._certificates("issuing.pem", data, 1)
        root_key = self.read("root.key")
        try:
            return Authority(
                root,
                issuing,
                key,
                None if root_key is None else self._signing_key("root.key", root_key),
                entropy,
            )
        except (ProtocolViolation, AssertionError) as error:
            raise self._damaged(
                "issuing.pem",
                "does not follow from root.pem",
                fix="restore both from a backup of this gateway",
            ) from error

    def save_broker(self, key: ec.EllipticCurvePrivateKey, *, leaf_pem: bytes, issuing_pem: bytes) -> None:
        self.write(self.broker_path.name, private_pem(key) + leaf_pem + issuing_pem)

    def broker(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None:
        data = self.read("broker.pem")
        if data is None:
            return None
        return self._signing_key("broker.pem", data), self._certificates("broker.pem", data, 2)[0]

    def save_deployer(self, key: ec.EllipticCurvePrivateKey) -> None:
        self.write("deployer.pem", private_pem(key))

    def deployer(self) -> ec.EllipticCurvePrivateKey | None:
        data = self.read("deployer.pem")
        return None if data is None else self._signing_key("deployer.pem", data)

    # -- files

    def write(self, name: str, data: bytes) -> None:
        """Atomic, durable, 0600. Raises: Unavailable: the disk refuses; the old file stays."""
        assert _NAME.match(name), "names are ours, not the caller's"
        with self._turn:
            self._files.write(name, data)

    def read(self, name: str) -> bytes | None:
        """None: there is no such file. Raises: BadInput: open to others, unreadable, or no plain file."""
        return self._files.read(name)

    def remove(self, name: str) -> None:
        self._files.remove(name)

    # -- contents

    def _identity(self, name: str) -> StoredIdentity | None:
        data = self.read(name)
        if data is None:
            return None
        keys, chain = self._keys(name, data), self._certificates(name, data, 2)
        if spki_sha256_of(chain[0]) != keys.spki_sha256:
            raise self._damaged(name, "holds a certificate of another key")
        return StoredIdentity(keys, tuple(chain))

    def _keys(self, name: str, data: bytes) -> NodeKeys:
        blocks = self._private(name, data)
        match blocks:
            case [ec.EllipticCurvePrivateKey() as signing, X25519PrivateKey() as static]:
                return NodeKeys(signing, static)
        raise self._damaged(name, "does not hold a member's two keys")

    def _signing_key(self, name: str, data: bytes) -> ec.EllipticCurvePrivateKey:
        match self._private(name, data):
            case [ec.EllipticCurvePrivateKey() as key]:
                return key
        raise self._damaged(name, "does not hold a signing key")

    def _private(self, name: str, data: bytes) -> list[object]:
        try:
            keys: list[object] = [load_pem_private_key(block, None) for block in _BLOCK.findall(data)]
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise self._damaged(name, "is damaged: its key cannot be decoded") from error
        if any(
            isinstance(k, ec.EllipticCurvePrivateKey) and not isinstance(k.curve, ec.SECP256R1) for k in keys
        ):
            raise self._damaged(name, "holds a key on another curve")
        return keys

    def _certificates(self, name: str, data: bytes, count: int) -> list[x509.Certificate]:
        try:
            found = read_pem(data)
        except ProtocolViolation as error:
            raise self._damaged(name, "is damaged: its certificate cannot be decoded") from error
        if len(found) != count:
            raise self._damaged(name, f"holds {len(found)} certificates instead of {count}")
        return found

    def _damaged(self, name: str, cause: str, *, fix: str = _REJOIN) -> BadInput:
        return BadInput(f"{self.directory / name} {cause}", fix=fix)
