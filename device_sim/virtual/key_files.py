"""The key store on a modelled disk: the production `KeyStore`, whose files a power cut can reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from security.errors import Unavailable
from security.keystore import KeyStore

if TYPE_CHECKING:
    from device_sim.virtual.disk import Disk

DIRECTORY: Final = "keys"


class DiskKeyFiles:
    """`KeyFiles` by the same steps as on a real disk: a new file, fsync, rename, fsync of the directory."""

    __slots__ = ("_disk",)

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def write(self, name: str, data: bytes) -> None:
        disk, path, fresh = self._disk, f"{DIRECTORY}/{name}", f"{DIRECTORY}/.{name}.new"
        try:
            if disk.exists(fresh):
                disk.remove(fresh)
            disk.write(fresh, 0, data)
            disk.fsync(fresh)
            disk.rename(fresh, path)
            disk.fsync_dir(DIRECTORY)
        except OSError as error:
            raise Unavailable(
                f"{path} cannot be written: {error.strerror}",
                fix="check the disk and the owner of the directory",
            ) from error

    def read(self, name: str) -> bytes | None:
        path = f"{DIRECTORY}/{name}"
        return self._disk.read(path) if self._disk.exists(path) else None

    def remove(self, name: str) -> None:
        path = f"{DIRECTORY}/{name}"
        try:
            if self._disk.exists(path):
                self._disk.remove(path)
            self._disk.fsync_dir(DIRECTORY)
        except OSError as error:
            raise Unavailable(f"{path} cannot be removed: {error.strerror}") from error


class DiskKeyStore(KeyStore):
    """One life's key store; the next life makes another on the same disk."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(DIRECTORY, files=DiskKeyFiles(disk))
        self._disk = disk

    def all(self) -> dict[str, bytes]:
        """Every file, for checkers; what a crash left half made is none."""
        names = self._disk.names(DIRECTORY)
        return {name: self._disk.read(f"{DIRECTORY}/{name}") for name in names if not name.startswith(".")}
