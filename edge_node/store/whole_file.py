"""Files that are written whole or not at all, and are there after a power cut.

For notes beside a store: what was damaged, what was set aside. What lies there may have been half done by an
earlier life: a draft that was never put in place is overwritten.
"""

from __future__ import annotations

import os
from pathlib import Path

DRAFT = ".draft"


def write(path: Path, data: bytes) -> None:
    """Mode 0600. Raises: OSError."""
    draft = path.with_name(path.name + DRAFT)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync(path.parent)


def sync(directory: Path) -> None:
    """What was renamed, made or removed in it stays so. Raises: OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
