"""A wall clock that lies to one daemon.

The lie is libfaketime's, preloaded into a daemon and all that it starts (workers, the broker) and into its
commands; CLOCK_MONOTONIC stays true, as on a real board. It is read from a file again and again, so a clock
is also set while the daemon runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.support.daemons import Daemon

FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)


def memory_swept() -> Iterator[None]:
    """A fixture's body: a preloaded process that is killed leaves its memory of the lie behind."""

    def lying() -> set[Path]:
        return {path for kind in ("faketime_shm_*", "sem.faketime_*") for path in Path("/dev/shm").glob(kind)}

    before = lying()
    yield
    for path in lying() - before:
        path.unlink(missing_ok=True)


def set_clock(daemon: Daemon, ahead_s: int) -> Daemon:
    """This daemon's and its commands', now and for whatever is started later."""
    file = daemon.bed.path / f"{daemon.name}.clock"
    new = file.with_suffix(".new")
    new.write_text(f"{ahead_s:+d}\n")
    new.replace(file)
    lie = {
        "LD_PRELOAD": FAKETIME, "FAKETIME_TIMESTAMP_FILE": file, "FAKETIME_NO_CACHE": 1,
        "FAKETIME_DONT_FAKE_MONOTONIC": 1,
    }  # fmt: skip
    daemon.prefix = ["env", *(f"{name}={value}" for name, value in lie.items())]
    return daemon
