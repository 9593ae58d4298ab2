"""Processes that cannot stay behind.

Each child is in a session of its own (so Ctrl-C reaches only us, and we end them in order), is told by the
kernel when we die, and at the end every process that descended from us is looked for by number and start
time: also brokers, which outlive a killed gateway on purpose. No process is ever signalled by its number
alone; numbers are used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import edge_node
from gateway.broker.process import Process, Record, started_at
from security.errors import Unavailable

COMMAND_S_MAX: Final = 60.0
LINE_BYTES_MAX: Final = 1024 * 1024
PROGRAMS: Final = {"edge-gateway": "gateway.cli", "edge-node": "edge_node.cli"}
_PR_SET_PDEATHSIG: Final = 1
_ESTABLISHED: Final = "01"  # include/net/tcp_states.h


class Processes:
    """Everything that one run starts. *folder*: where their stderr is kept, one file a name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._children: list[asyncio.subprocess.Process] = []
        self._starting: set[asyncio.Task[asyncio.subprocess.Process]] = set()
        self._family: dict[int, int] = {}  # pid -> start time of everything that descended from us

    async def spawn(self, command: list[str], *, errors: str | None) -> asyncio.subprocess.Process:
        """A child. Args: errors: name of the file for its stderr; None: a pipe."""
        if command[0] in PROGRAMS:  # the same as the console script, wherever that lies
            command = [sys.executable, "-P", "-m", PROGRAMS[command[0]], *command[1:]]
        starting = asyncio.create_task(self._spawn(command, errors), name=f"spawn {command[-1]}")
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)
        return await asyncio.shield(starting)  # cancelled half-way, it would be a child that nobody knows

    async def _spawn(self, command: list[str], errors: str | None) -> asyncio.subprocess.Process:
        with contextlib.ExitStack() as stack:
            target: Any = asyncio.subprocess.PIPE
            if errors is not None:
                target = stack.enter_context((self.folder / f"{errors}.err").open("ab"))
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=target,
                cwd=self.folder,
                env=_environment(),
                limit=LINE_BYTES_MAX,
                start_new_session=True,
                preexec_fn=_end_with_parent(os.getpid()),
            )
        self._children.append(process)
        return process

    async def command(self, program: str, *arguments: str) -> str:
        """What a command of ours prints. Raises: Unavailable: it failed; the line it said."""
        process = await self.spawn([program, *arguments], errors=None)
        try:
            async with asyncio.timeout(COMMAND_S_MAX):
                out, err = await process.communicate()
        except TimeoutError:
            raise Unavailable(f"{program} {arguments[0]} took more than {COMMAND_S_MAX:g} s") from None
        if process.returncode:
            lines = err.decode("utf-8", "replace").strip().splitlines()
            told = lines[-1] if lines else f"exit code {process.returncode}"
            raise Unavailable(f"{program} {arguments[0]}: {told.removeprefix(f'{program}: ')}")
        return out.decode()

    def last_words(self, name: str) -> str:
        """The last line that a child wrote to its stderr."""
        try:
            lines = (self.folder / f"{name}.err").read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1] if lines else ""

    def remember(self) -> None:
        """Note everything that descended from us so far: the children of a killed parent lose their trace."""
        front = [child.pid for child in self._children if child.returncode is None]
        while front:
            pid = front.pop()
            started = started_at(pid)
            if started is not None and self._family.get(pid) != started:
                self._family[pid] = started
                front += children_of(pid)
            elif started is not None:
                front += [child for child in children_of(pid) if child not in self._family]

    def remember_record(self, path: Path) -> Record | None:
        """Note a process by the record that its keeper wrote; None: there is none that runs."""
        record = Record.read(path)
        if record is None or not record.is_alive():
            return None
        self._family[record.pid] = record.started
        return record

    async def started(self) -> None:
        """Wait until every spawn under way has become a child that is known."""
        await asyncio.gather(*self._starting, return_exceptions=True)

    async def end_others(self, but: set[asyncio.subprocess.Process], wait_s: float) -> None:
        """Kill the commands that still run: all children but these."""
        others = [child for child in self._children if child not in but]
        await asyncio.gather(*(end(child, signal.SIGKILL, wait_s) for child in others))

    async def sweep(self, *, wait_s: float = 3.0) -> list[int]:
        """Pids of remembered processes that had to be killed because they did not end by themselves.

        Args: wait_s: for each; whoever lost its daemon is about to end.
        """
        left = []
        for pid, started in sorted(self._family.items()):
            process = Process(pid, started)
            if process.alive:
                for _ in range(max(1, round(wait_s / 0.01))):
                    if not process.alive:
                        break
                    await asyncio.sleep(0.01)
                else:
                    process.send(signal.SIGKILL)
                    left.append(pid)
            process.close()
        return left


async def end(process: asyncio.subprocess.Process, number: signal.Signals, wait_s: float) -> int:
    """Signal and wait; then kill. The pid if it had to be killed, else 0."""
    if process.returncode is not None:
        return 0
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
    try:
        async with asyncio.timeout(wait_s):
            await process.wait()
        return 0
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        return process.pid


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += [int(word) for word in (thread / "children").read_text().split()]
    return found


def connected_to(pid: int, port: int) -> bool:
    """Has a process an established TCP connection (IPv4) to this port? Of the kernel's own tables."""
    try:
        rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    except OSError:
        return False  # the process is gone
    remote = f":{port:04X}"
    wanted = {f"socket:[{row[9]}]" for row in rows if row[3] == _ESTABLISHED and row[2].endswith(remote)}
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()) in wanted:
                    return True
    return False


def resident_mb(pid: int) -> float:
    """Memory of a process; 0 if it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return round(int(line.split()[1]) / 1024, 1)
    return 0.0


def _environment() -> dict[str, str]:
    """Ours, without what would change a home or a setting of the fleet; with the way to our packages."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("EDGEWEAVE_")}
    root = Path(edge_node.__file__).parent.parent
    if root.name not in ("site-packages", "dist-packages"):  # a checkout
        inherited = found.get("PYTHONPATH", "")
        found["PYTHONPATH"] = f"{root}{os.pathsep}{inherited}" if inherited else str(root)
    return found


def _end_with_parent(parent: int) -> Callable[[], None]:
    """In the child, before it becomes the program: SIGTERM when we die, however that happens."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def before() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return before
