"""The demo's mesh: real daemons as processes of their own, in one short temporary directory.

Started with the same commands that a person types, joined with real codes. Whatever happens, nothing stays
behind: each child is in a group of its own (so Ctrl-C reaches only us, and we end them in order), is told
by the kernel when we die, and at the end every process that descended from us is looked for by number and
start time, the broker included, which would outlive a killed gateway on purpose.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edge_node.client import Mesh
from gateway.broker.process import Process, Record, started_at
from security.enrolment import JoinCode
from security.errors import EdgeweaveError, Unavailable

ROOT: Final = Path(__file__).resolve().parent.parent.parent
READY_S_MAX: Final = 40.0
COMMAND_S_MAX: Final = 40.0
TERM_S_MAX: Final = 8.0  # a daemon gives running work ten seconds to drain; at the end none is left
ABORT_S_MAX: Final = 3.0  # who pressed Ctrl-C does not wait for work to drain
LINE_BYTES_MAX: Final = 1024 * 1024
GATEWAY: Final = "gateway"
PROGRAMS: Final = {"edge-gateway": "gateway.cli", "edge-node": "edge_node.cli"}
SPEEDS: Final = {1.0: "full-speed", 2.0: "half-speed", 4.0: "quarter-speed"}
_PR_SET_PDEATHSIG: Final = 1


@dataclass(slots=True)
class Member:
    """One daemon."""

    name: str
    home: Path
    slowdown: float  # 1: as fast as this machine
    process: asyncio.subprocess.Process | None = None
    pids: list[int] = field(default_factory=list)
    ready: dict[str, Any] = field(default_factory=dict)
    wire_before: int = 0  # bytes of its earlier lives

    @property
    def kind(self) -> str:
        """Its class, in words."""
        if self.name == GATEWAY:
            return GATEWAY
        return SPEEDS.get(self.slowdown, f"1/{self.slowdown:g} of the speed") + " board"


class DemoMesh:
    """Gateway and boards. ``stop`` leaves no process, however far ``start`` had come."""

    def __init__(self, folder: Path, boards: dict[str, float], tell: Callable[[str], None]) -> None:
        self.folder = folder
        self.tell = tell
        self.members = {
            name: Member(name, folder / name, slowdown) for name, slowdown in {GATEWAY: 1.0, **boards}.items()
        }
        self.found_by = "mdns"
        self.broker = ""
        self.mesh_id = ""
        self._children: list[asyncio.subprocess.Process] = []
        self._starting: set[asyncio.Task[asyncio.subprocess.Process]] = set()
        self._family: dict[int, int] = {}  # pid -> start time of everything that descended from us

    @property
    def boards(self) -> list[Member]:
        return [member for member in self.members.values() if member.name != GATEWAY]

    # ── starting ──────────────────────────────────────────────────────────────────────────────────

    async def start(self, sources: list[Path]) -> None:
        """Everything up, joined and deployed. Raises: EdgeweaveError: one line with its fix."""
        gateway = self.members[GATEWAY]
        await self._up(gateway)
        self.broker = gateway.ready["broker_kind"]
        self.mesh_id = gateway.ready["mesh"]
        self.tell(
            f"edge-gateway up: mesh {self.mesh_id}, {self.broker} broker on {gateway.ready['broker_address']}"
        )
        async with one_error(), asyncio.TaskGroup() as group:
            for board in self.boards:
                group.create_task(self._join_and_up(board), name=f"join {board.name}")
            group.create_task(self._deploy(sources), name="deploy")
        names = [f"{path.stem}" for path in sources]
        for board in self.boards:
            await self._until_deployed(board, names)

    async def _up(self, member: Member) -> None:
        member.home.mkdir(mode=0o700, exist_ok=True)
        if member.name == GATEWAY:
            options = ["--listen", "127.0.0.1", "--port", "0", "--broker", "embedded", "--broker-port", "0"]
            command = ["edge-gateway", "up", *options]
        else:
            settings = f"[board]\nslowdown = {member.slowdown:g}\n\n[worker]\ncount = 1\n"
            (member.home / "settings.toml").write_text(settings)
            command = ["edge-node", "up"]
        process = await self.spawn(
            [*command, "--mdns", "lo", "--json", "--home", str(member.home)], errors=member.name
        )
        member.process = process
        member.pids.append(process.pid)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(READY_S_MAX):
                line = await process.stdout.readline()
        except TimeoutError:
            raise Unavailable(
                f"{member.name} was not ready within {READY_S_MAX:g} s", fix="is this machine very busy?"
            ) from None
        facts = _object(line)
        if facts.get("event") != "ready":
            told = facts.get("error", {})
            cause = told.get("message") or self.last_words(member.name) or "it ended without a word"
            raise Unavailable(f"{member.name} did not start: {cause}", fix=str(told.get("fix", "")))
        member.ready = facts

    async def _join_and_up(self, board: Member) -> None:
        gateway = self.members[GATEWAY]
        code = (
            await self.command("edge-gateway", "invite", "--name", board.name, "--home", str(gateway.home))
        ).strip()
        # Without the addresses that it carries, nothing but mDNS can find the gateway.
        bare = dataclasses.replace(JoinCode.parse(code), addresses=()).text()
        options = ["--name", board.name, "--mdns", "lo", "--home", str(board.home)]
        board.home.mkdir(mode=0o700, exist_ok=True)
        try:
            await self.command("edge-node", "join", bare, *options)
            how = "by mDNS on lo"
        except Unavailable:
            self.found_by = "address"  # no multicast on this machine's loopback: the code's address does it
            await self.command("edge-node", "join", code, *options)
            how = "by the join code's address (mDNS sees nothing on lo here)"
        await self._up(board)
        self.tell(f"edge-node join and up: {board.name}, a {board.kind}, found the gateway {how}")

    async def _deploy(self, sources: list[Path]) -> None:
        for source in sources:
            gateway = self.members[GATEWAY]
            await self.command("edge-gateway", "deploy", str(source), "--home", str(gateway.home))
        self.tell("edge-gateway deploy: " + ", ".join(source.name for source in sources) + ", signed")

    async def _until_deployed(self, board: Member, stems: list[str]) -> None:
        try:
            async with asyncio.timeout(READY_S_MAX), Mesh.open(board.home) as mesh:
                while True:
                    known = {str(row["name"]).split(".")[0] for row in await mesh.functions()}
                    if known >= set(stems):
                        return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise Unavailable(f"the functions did not reach {board.name}") from None

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
            raise Unavailable(f"{program} {arguments[0]}: {lines[-1] if lines else process.returncode}")
        return out.decode()

    async def spawn(self, command: list[str], *, errors: str | None) -> asyncio.subprocess.Process:
        """A child that cannot stay behind. *errors*: name of the file for its stderr; None: a pipe."""
        if command[0] in PROGRAMS:  # the same as the console script, wherever that lies
            command = [sys.executable, "-m", PROGRAMS[command[0]], *command[1:]]
        starting = asyncio.create_task(self._spawn(command, errors), name=f"spawn {command[2]}")
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
                cwd=ROOT,
                limit=LINE_BYTES_MAX,
                start_new_session=True,
                preexec_fn=_end_with_parent(os.getpid()),
            )
        self._children.append(process)
        return process

    def last_words(self, name: str) -> str:
        """The last line that a child wrote to its stderr."""
        try:
            lines = (self.folder / f"{name}.err").read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1].removeprefix("error: ") if lines else ""

    # ── while it runs ─────────────────────────────────────────────────────────────────────────────

    async def status(self, member: Member) -> dict[str, Any]:
        async with Mesh.open(member.home) as mesh:
            return await mesh.status()

    async def kill(
        self, board: Member, moment: Callable[[], bool], *, wait_s: float
    ) -> tuple[float, list[int]]:
        """SIGKILL to the daemon alone, once *moment* says so or after *wait_s*.

        Returns: when (seconds since 1970), and the pids of its workers, which have died with it.
        Raises: Unavailable: a worker lives on.
        """
        assert board.process is not None
        loop = asyncio.get_running_loop()
        until, sample_at = loop.time() + wait_s, 0.0
        wire = 0
        async with Mesh.open(board.home) as mesh:
            while loop.time() < until:
                if (
                    loop.time() >= sample_at
                ):  # its counters die with it: what it sends after this is not counted
                    wire, sample_at = wire_bytes(await mesh.status()), loop.time() + 0.1
                if moment():
                    break
                await asyncio.sleep(0.003)
            workers = {pid: started_at(pid) for pid in _children_of(board.process.pid)}
            killed_at = time.time()
            board.process.kill()
        await board.process.wait()
        board.wire_before += wire
        for _ in range(200):
            if all(started_at(pid) != started for pid, started in workers.items()):
                return killed_at, sorted(workers)
            await asyncio.sleep(0.01)
        raise Unavailable(f"workers of {board.name} live on after their daemon was killed")

    async def restart(self, board: Member) -> None:
        await self._up(board)

    async def settle(self, member: Member, *, wait_s: float) -> dict[str, Any]:
        """Its status once it owes nothing any more, or as it is after *wait_s*."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        while True:
            status = await self.status(member)
            if not status["open"] or loop.time() > until:
                return status
            await asyncio.sleep(0.1)

    # ── stopping ──────────────────────────────────────────────────────────────────────────────────

    async def stop(self, *, term_s_max: float = TERM_S_MAX) -> list[int]:
        """End everything, boards first; pids of processes that had to be killed although they should not."""
        await asyncio.gather(*self._starting, return_exceptions=True)
        self._note_family()
        broker = self._broker_record()
        others = [
            child for child in self._children if child not in {m.process for m in self.members.values()}
        ]
        await asyncio.gather(*(_end(child, signal.SIGKILL, term_s_max) for child in others))
        stubborn = await asyncio.gather(
            *(_end(m.process, signal.SIGTERM, term_s_max) for m in self.boards if m.process)
        )
        gateway = self.members[GATEWAY].process
        if gateway is not None:
            stubborn.append(await _end(gateway, signal.SIGTERM, term_s_max))
        left = [pid for pid in stubborn if pid]
        for record in (broker, self._broker_record()):  # one may have been started in the meantime
            if record is not None:
                self._family[record.pid] = record.started
        for pid, started in sorted(self._family.items()):
            process = Process(pid, started)
            if process.alive:
                for _ in range(100):  # whoever lost its daemon is about to end by itself
                    if not process.alive:
                        break
                    await asyncio.sleep(0.01)
                else:
                    process.send(signal.SIGKILL)
                    left.append(pid)
            process.close()
        return left

    def _broker_record(self) -> Record | None:
        record = Record.read(self.members[GATEWAY].home / "broker" / "running.json")
        return record if record is not None and record.is_alive() else None

    def _note_family(self) -> None:
        front = [child.pid for child in self._children if child.returncode is None]
        while front:
            pid = front.pop()
            started = started_at(pid)
            if started is not None and pid not in self._family:
                self._family[pid] = started
                front += _children_of(pid)


def wire_bytes(status: dict[str, Any]) -> int:
    """Bytes that one member sent to and received from the broker, before TLS."""
    return int(status["wire"]["bytes_in"]) + int(status["wire"]["bytes_out"])


async def _end(process: asyncio.subprocess.Process, number: signal.Signals, wait_s: float) -> int:
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


def _children_of(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += [int(word) for word in (thread / "children").read_text().split()]
    return found


def _end_with_parent(parent: int) -> Callable[[], None]:
    """In the child, before it becomes the program: SIGTERM when we die, however that happens."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def before() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return before


@contextlib.asynccontextmanager
async def one_error() -> Any:
    """The first known cause out of a group of them."""
    try:
        yield
    except BaseExceptionGroup as group:
        known, unknown = group.split(EdgeweaveError)
        if known is None or unknown is not None:
            raise
        cause: BaseException = known
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        raise cause from None


def _object(line: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        facts = json.loads(line)
        if isinstance(facts, dict):
            return facts
    return {}
