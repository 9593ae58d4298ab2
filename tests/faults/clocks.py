"""Clocks that lie to one member: libfaketime, preloaded into its daemon and all that it starts.

The lie is read from a file again and again, so a clock is also set while the daemon runs; CLOCK_MONOTONIC
stays true, as on a real board.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.faults.fault import Lacking

FAKETIME: Final = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)


class Clocks:
    """Of the members whose homes lie in *folder*."""

    def __init__(self, folder: Path) -> None:
        """Raises: Lacking: libfaketime is not installed."""
        if FAKETIME is None:
            raise Lacking("libfaketime is not installed")
        self._folder = folder
        self._before = _traces()

    def set(self, name: str, ahead_s: int) -> None:
        file = self._folder / f"{name}.clock"
        new = file.with_suffix(".new")
        new.write_text(f"{ahead_s:+d}\n")
        new.replace(file)

    def prefix(self, name: str) -> list[str]:
        """Words before every command of that member."""
        file = self._folder / f"{name}.clock"
        if not file.exists():
            self.set(name, 0)
        lie = {
            "LD_PRELOAD": FAKETIME, "FAKETIME_TIMESTAMP_FILE": file, "FAKETIME_NO_CACHE": 1,
            "FAKETIME_DONT_FAKE_MONOTONIC": 1,
        }  # fmt: skip
        return ["env", *(f"{variable}={value}" for variable, value in lie.items())]

    def sweep(self) -> None:
        """A preloaded process that is killed leaves its memory of the lie behind."""
        for path in _traces() - self._before:
            path.unlink(missing_ok=True)


def _traces() -> set[Path]:
    return {path for kind in ("faketime_shm_*", "sem.faketime_*") for path in Path("/dev/shm").glob(kind)}
