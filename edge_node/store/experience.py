"""Experience: what running has taught about functions and places, kept over restarts.

A shell around ``scheduling.estimates``: read once at the start, written every few minutes and at the end, on
the loop: at most 64 KiB and no fsync. A lost or damaged file costs the first tasks after a start a poorer
guess, nothing else, so a card's wear counts more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from typing import Protocol

from security.errors import BadInput

log = logging.getLogger(__name__)

SAVE_S = 300.0


class Learned(Protocol):
    """What is kept: ``scheduling.estimates.Estimates``."""

    def dump(self) -> bytes: ...
    def load(self, data: bytes) -> int: ...


class Experience:
    """One member's estimates and their file."""

    def __init__(self, path: Path, learned: Learned) -> None:
        self._path = path
        self._learned = learned
        self._saved = b""

    def load(self) -> None:
        """Take up what an earlier life learned, if it can be read."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("estimates could not be read", extra={"cause": str(error)})
            return
        try:
            count = self._learned.load(data)
        except BadInput as fault:
            log.warning("estimates are learned anew", extra={"cause": fault.cause})
        else:
            self._saved = data
            log.debug("estimates taken up", extra={"functions": count})

    async def run(self) -> None:
        """Until cancelled; then once more."""
        try:
            while True:
                await asyncio.sleep(SAVE_S)
                self.save()
        finally:
            self.save()

    def save(self) -> None:
        """Replace the file, if there is anything new."""
        data = self._learned.dump()
        if data == self._saved:
            return
        draft = self._path.with_suffix(".new")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(data)
            draft.replace(self._path)
        except OSError as error:
            log.warning("estimates could not be kept", extra={"cause": str(error)})
            with contextlib.suppress(OSError):
                draft.unlink()
        else:
            self._saved = data
