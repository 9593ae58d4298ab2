"""A process that may not be our child: found again, watched and ended without ever hitting another one.

A pid alone names nothing: numbers are used again. A process is named by pid, start time and boot;
signals go through a pidfd that was opened before the name was verified.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Record:
    """What is written beside a running broker."""

    pid: int
    started: int  # clock ticks after boot, /proc/<pid>/stat field 22
    boot: str
    kind: str
    digest: str

    def write(self, path: Path) -> None:
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(self)))
        new.replace(path)

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """None: there is none, or it is not ours to understand."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError, RecursionError):
            return None

    def is_alive(self) -> bool:
        return self.boot == boot_id() and started_at(self.pid) == self.started


class Process:
    """One running process, held by a pidfd where the kernel has them."""

    def __init__(self, pid: int, started: int, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self.started = started
        self._child = child
        self._fd: int | None = None
        with contextlib.suppress(OSError):
            self._fd = os.pidfd_open(pid)

    @classmethod
    def spawn(cls, command: Sequence[str], *, cwd: Path, log: Path) -> Process:
        """In a session of its own: it outlives us, and Ctrl-C in our terminal does not reach it."""
        with log.open("ab") as output:
            child = subprocess.Popen(
                command,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return cls(child.pid, started_at(child.pid) or 0, child)

    @property
    def alive(self) -> bool:
        if self._child is not None and self._child.poll() is not None:
            return False
        return started_at(self.pid) == self.started

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._fd is not None:
                if self.alive:
                    signal.pidfd_send_signal(self._fd, number)
            elif self.alive:
                os.kill(self.pid, number)

    def watch(self, gone: Callable[[], None]) -> bool:
        """Call `gone` once it has ended. False: this kernel has no pidfd, ask `alive` now and then."""
        if self._fd is None:
            return False
        descriptor, loop = self._fd, asyncio.get_running_loop()

        def over() -> None:
            loop.remove_reader(descriptor)
            gone()

        loop.add_reader(descriptor, over)
        return True

    def killed_by(self) -> str:
        """The signal's name; empty if it ended by itself or was not our child."""
        code = self._child.poll() if self._child is not None else None
        return signal.Signals(-code).name if code is not None and code < 0 else ""

    def close(self) -> None:
        """Let go of it, dead or alive."""
        if self._child is not None:
            self._child.poll()  # no zombie
        if self._fd is not None:
            with contextlib.suppress(RuntimeError):  # no loop any more, so no reader either
                asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None


def started_at(pid: int) -> int | None:
    """None: there is no such process, or only its zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # the name may hold spaces and brackets
    return None if fields[0] in "ZX" else int(fields[19])


def boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
