"""A small disk of a node's own, which a test can fill to the last page and free again. Root only."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from security.errors import Refused

NEEDS_ROOT = "needs root (a disk of its own)"
DISK_MIB = 40


class NoDisk(Exception):
    """This machine lets us have none."""


@contextlib.contextmanager
def own_disk(path: Path, mib: int = DISK_MIB) -> Iterator[Path]:
    """*path* as a file system in memory. Raises: NoDisk."""
    if os.geteuid() != 0:
        raise NoDisk(NEEDS_ROOT)
    path.mkdir(mode=0o700)
    made = ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "edgeweave-test", str(path)]
    if subprocess.run(made, capture_output=True, check=False).returncode:
        raise NoDisk(NEEDS_ROOT)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(disk: Path) -> Path:
    """Until not one more page fits. Returns: the file to remove."""
    with (disk / "ballast").open("wb", buffering=0) as file:
        size = 2**20
        while size >= 512:
            try:
                if file.write(bytes(size)) < size:
                    size //= 2
            except OSError:
                size //= 2
    return disk / "ballast"


async def until_refused(mesh: Any, accepted: list[str]) -> None:
    """Submit ever smaller tasks until none is taken: what the log has room for still is."""
    for kilobytes in (3000, 500, 50, 10, 2):
        with contextlib.suppress(Refused):
            while True:
                accepted.append((await mesh.submit("toys.size", "x" * (kilobytes * 1024), where="local")).id)
