"""Bundle: the code of a function file as bytes with a name of their own, the SHA-256 of those bytes.

    MessagePack ["ewb1", stem, [[path, content], …]]      paths sorted, the main file is ``stem.py``

The same files give the same bytes on every machine. ``BundleStore`` keeps them as ``<dir>/<hex digest>``,
verifies on every read and sets a changed file aside. Whether a bundle may run here is not decided here:
the catalogue's signed entry names the digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Protocol

import msgspec

from edge_node.functions.manifest import SOURCE_BYTES_MAX, Manifest, read_manifests, stem_of
from security.errors import BadInput, ProtocolViolation, Unavailable

FORMAT = "ewb1"
BUNDLE_BYTES_MAX = 8 * 1024 * 1024  # what a body may be on the wire
FILES_MAX = 64


class Bundle(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Files of one deployable unit. One file today; the shape has room for more."""

    format: str
    stem: str
    files: tuple[tuple[str, bytes], ...]

    @classmethod
    def of_source(cls, file_name: str, source: str | bytes) -> Bundle:
        """Raises: BadInput: the file cannot be offered (see ``manifest.read_manifests``)."""
        content = source.encode() if isinstance(source, str) else bytes(source)
        read_manifests(file_name, content)
        stem = stem_of(file_name)
        return cls(FORMAT, stem, ((f"{stem}.py", content),))

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Bundle:
        """Raises: ProtocolViolation: not a bundle of this version, or not in its one deterministic form."""
        if len(data) > BUNDLE_BYTES_MAX:
            raise ProtocolViolation("bundle is too large")
        try:
            bundle = _decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise ProtocolViolation(f"bundle does not decode: {error}") from None
        if bundle.format != FORMAT:
            raise ProtocolViolation(f"bundle format {bundle.format!r:.20}, this member reads {FORMAT!r}")
        paths = [path for path, _ in bundle.files]
        if paths != sorted(set(paths)) or not 1 <= len(paths) <= FILES_MAX:
            raise ProtocolViolation("bundle files are not sorted and unique")
        if any(path.startswith("/") or "\\" in path or ".." in path.split("/") for path in paths):
            raise ProtocolViolation("bundle names a file outside itself")
        if f"{bundle.stem}.py" not in paths:
            raise ProtocolViolation("bundle lacks its main file")
        if any(len(content) > SOURCE_BYTES_MAX for _, content in bundle.files):
            raise ProtocolViolation("bundle holds a file that is too large")
        return bundle

    def to_bytes(self) -> bytes:
        return _encode(self)

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.to_bytes()).digest()

    @property
    def main(self) -> bytes:
        """Source of the main file."""
        return dict(self.files)[f"{self.stem}.py"]

    def manifests(self) -> tuple[Manifest, ...]:
        return read_manifests(f"{self.stem}.py", self.main)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Bundle).decode


def digest_of(data: bytes | memoryview) -> bytes:
    return hashlib.sha256(data).digest()


class Bundles(Protocol):
    """Where bundles are kept by digest: ``BundleStore`` on a disk; another in virtual time."""

    def put(self, data: bytes) -> bytes: ...
    def get(self, digest: bytes) -> bytes: ...
    def has(self, digest: bytes) -> bool: ...
    def path(self, digest: bytes) -> Path: ...
    def verify(self) -> list[bytes]: ...
    def kept_bytes(self) -> int: ...


class MissingBundle(Unavailable):
    """Not on this node; it may be fetched."""


class DamagedBundle(Unavailable):
    """The file on disk no longer has its digest; it was set aside and may be fetched again."""


PATHS_MAX = 256
"""Remembered of those asked for: making one anew takes 4 µs, twice a task."""


class BundleStore:
    """Bundles on disk, by digest. Blocking, but small: call it from a thread when files may be large."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._paths: dict[bytes, Path] = {}
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in directory.glob(".new-*"):  # a crash between write and rename
            left.unlink(missing_ok=True)

    def put(self, data: bytes) -> bytes:
        """Keep a bundle's bytes, durably; answers their digest. Does nothing if they are here.

        Raises: ProtocolViolation: not a bundle. Unavailable: the disk refuses.
        """
        Bundle.from_bytes(data)
        digest = digest_of(data)
        target = self.path(digest)
        try:
            if target.exists() and digest_of(target.read_bytes()) == digest:
                return digest
            fresh = self._directory / f".new-{digest.hex()}"
            fresh.unlink(missing_ok=True)
            try:
                handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                fresh.replace(target)
            except BaseException:
                fresh.unlink(missing_ok=True)
                raise
            self._sync_directory()
        except OSError as error:
            raise Unavailable(f"cannot keep bundle {digest.hex()[:12]}: {error.strerror}") from None
        return digest

    def get(self, digest: bytes) -> bytes:
        """The bundle's bytes, verified.

        Raises: MissingBundle; DamagedBundle: changed on disk, set aside; Unavailable: unreadable.
        """
        target = self.path(digest)
        try:
            data = target.read_bytes()
        except FileNotFoundError:
            raise MissingBundle(f"bundle {digest.hex()[:12]} is not on this node") from None
        except OSError as error:
            raise Unavailable(f"cannot read bundle {digest.hex()[:12]}: {error.strerror}") from None
        if digest_of(data) != digest:
            self.set_aside(digest)
            raise DamagedBundle(f"bundle {digest.hex()[:12]} was changed on disk", fix="it is fetched again")
        return data

    def has(self, digest: bytes) -> bool:
        """Is a file of that name here? Its content is verified when read."""
        return os.path.exists(self.path(digest))  # noqa: PTH110  half the time of Path.exists, asked for every task

    def path(self, digest: bytes) -> Path:
        found = self._paths.get(digest)
        if found is None:
            assert len(digest) == 32, "a bundle is named by a SHA-256"
            if len(self._paths) >= PATHS_MAX:  # peers choose the digests
                self._paths.clear()
            found = self._paths[digest] = self._directory / digest.hex()
        return found

    def set_aside(self, digest: bytes) -> None:
        """Keep a damaged file for people to look at (the last one only), out of the way of a fresh copy."""
        with contextlib.suppress(OSError):
            self.path(digest).replace(self._directory / f"{digest.hex()}.damaged")

    def verify(self) -> list[bytes]:
        """Read everything; what was changed on disk is set aside, and its digests returned."""
        changed = []
        for digest in self.digests():
            try:
                self.get(digest)
            except DamagedBundle:
                changed.append(digest)
            except Unavailable:
                continue  # unreadable now: told when it is wanted
        return changed

    def remove(self, digest: bytes) -> None:
        self.path(digest).unlink(missing_ok=True)

    def digests(self) -> list[bytes]:
        return sorted(
            bytes.fromhex(path.name)
            for path in self._directory.iterdir()
            if len(path.name) == 64 and set(path.name) <= set("0123456789abcdef")
        )

    def kept_bytes(self) -> int:
        """Of everything that lies here."""
        total = 0
        with contextlib.suppress(OSError), os.scandir(self._directory) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    total += entry.stat().st_size
        return total

    def _sync_directory(self) -> None:
        handle = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def checked_bundle(data: bytes, digest: bytes) -> Bundle:
    """Bytes that came from elsewhere, against the digest that a signed entry names.

    Raises: BadInput: they are something else. ProtocolViolation: they are not a bundle.
    """
    if digest_of(data) != digest:
        raise BadInput(f"bundle {digest.hex()[:12]} does not have its digest", fix="fetch it again")
    return Bundle.from_bytes(data)
