"""A small mesh of real daemons, made to be hurt, and the drivers that give it work and remember every word.

    async with Fleet(context, nodes=4) as fleet:
        drivers = [fleet.driver(member) for member in fleet.members.values()]
        … drivers submit, processes are killed by their pids …
        await fleet.settled(30)
    return fleet.outcome(done)                  # everything is dead by now; the checker reads what is left

What ran where is told by the work itself: ``load.work`` appends to ``runs.log`` when it begins and when it
ends, with its pid and the machine's monotonic clock, which all processes share. At the end of the block every
process is killed with SIGKILL, whatever it was doing: what was acknowledged has to be on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from device_sim.fleet.processes import Processes, children_of
from edge_node.client import Mesh
from edge_node.functions import values
from edge_node.home import Home
from examples.hosts.network import Network
from gateway.broker.process import Process, Record, started_at
from security.errors import BadInput, EdgeweaveError, Refused, Unavailable
from tests.faults.checker import Verdict, judge
from tests.faults.fault import Context, Lacking, Outcome
from tests.support.links import MOSQUITTO

T = TypeVar("T")

GATEWAY: Final = "gateway"
READY_S_MAX: Final = 60.0
TTL_S: Final = 45.0
"""Of every task: longer than any fault of a round, so that what ends as expired is worth a look."""
GRACE_S: Final = 15.0
JOINING_MAX: Final = 3  # at once, on two cores
TERM_S: Final = 2.0
AGAIN_S_MAX: Final = 20.0

LOAD = '''
import os
import time

from edge_node.functions import function


def note(folder, what, number):
    line = f"{what} {number} {os.getpid()} {os.getppid()} {time.monotonic():.6f}\\n"
    log = os.open(os.path.join(folder, "runs.log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(log, line.encode())  # one write: lines of several processes do not mix
    os.close(log)


@function(timeout_s=60)
def work(number: int, seconds: float, folder: str, filler: str = "") -> int:
    """Its number, after a while."""
    note(folder, "begin", number)
    time.sleep(seconds)
    note(folder, "end", number)
    return number


@function(timeout_s=60)
def large(number: int, size: int) -> dict:
    return {"number": number, "filler": "x" * size}
'''


@dataclass(frozen=True, slots=True)
class Run:
    """One execution that has begun, as its worker told."""

    number: int
    pid: int
    daemon: int  # the pid of its daemon
    begun_s: float
    ended_s: float | None = None


@dataclass(slots=True)
class Member:
    name: str
    home: Path
    process: asyncio.subprocess.Process | None = None
    ready: dict[str, Any] = field(default_factory=dict)
    starts: int = 0
    hurt: bool = False  # killed by us: its end is no surprise

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None


class _Placed(Processes):
    """Commands run on the host that bears the name of their home, if there are hosts."""

    def __init__(self, folder: Path, prefix: Callable[[str], list[str]]) -> None:
        super().__init__(folder)
        self._prefix = prefix

    async def _spawn(self, command: list[str], errors: str | None) -> asyncio.subprocess.Process:
        home = Path(command[command.index("--home") + 1]).name
        return await super()._spawn([*self._prefix(home), *command], errors)


class Fleet:
    """Gateway and nodes n1, n2, … on loopback, or each on its host of *network*.

    Args: workers: of every member.   settings: more lines of every settings.toml.   source: more functions.
        ttl_s: of every task that is given to it.
        prefix: words before every command of a member.
    """

    def __init__(
        self,
        context: Context,
        *,
        nodes: int = 4,
        workers: int = 1,
        network: Network | None = None,
        settings: str = "",
        source: str = "",
        ttl_s: float = TTL_S,
        prefix: Callable[[str], list[str]] | None = None,
    ) -> None:
        if context.broker == "mosquitto" and not MOSQUITTO:
            raise Lacking("mosquitto is not installed")
        self.context = context
        self.folder = context.scratch
        self.network = network
        self.workers = workers
        self.settings = settings
        names = [GATEWAY, *(f"n{number}" for number in range(1, nodes + 1))]
        self.members = {name: Member(name, self.folder / name) for name in names}
        self.numbers = itertools.count(1)
        self.drivers: list[Driver] = []
        self.violations: list[str] = []
        self.source = self.folder / "load.py"
        self.source.write_text(LOAD + source)
        self.ttl_s = ttl_s
        self.runs_log = self.folder / "runs.log"
        self.ended_by_fault = 0
        self._chores: set[asyncio.Task[Any]] = set()
        at_host = network.prefix if network is not None else (lambda name: [])
        self.processes = _Placed(self.folder, prefix or at_host)

    @property
    def gateway(self) -> Member:
        return self.members[GATEWAY]

    @property
    def nodes(self) -> list[Member]:
        return [member for member in self.members.values() if member.name != GATEWAY]

    # ── starting and stopping ─────────────────────────────────────────────────────────────────────

    async def __aenter__(self) -> Fleet:
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stop()

    async def _start(self) -> None:
        gateway = self.gateway
        await self.up(gateway)
        await self.processes.command("edge-gateway", "deploy", str(self.source), "--home", str(gateway.home))
        turn = asyncio.Semaphore(JOINING_MAX)

        async def join(node: Member) -> None:
            async with turn:
                async with Mesh.open(gateway.home) as mesh:
                    code = str((await mesh.call("invite", {"ttl_s": 3600.0, "name": node.name}))["code"])
                node.home.mkdir(mode=0o700, exist_ok=True)
                options = ["--name", node.name, "--mdns", "none", "--home", str(node.home)]
                await self.processes.command("edge-node", "join", code, *options)
                await self.up(node)

        await asyncio.gather(*map(join, self.nodes))
        await self.whole()

    async def up(self, member: Member) -> float:
        """Start its daemon. Returns: seconds until it said that it is ready. Raises: Unavailable."""
        member.home.mkdir(mode=0o700, exist_ok=True)
        begun = time.monotonic()
        if member.name == GATEWAY:
            section = f"[engine]\nprocesses = {self.workers}\n"
            listen = "127.0.0.1" if self.network is None else self.network.address(GATEWAY)
            ports = ["--port", "0", "--broker-port", "0"]
            command = ["edge-gateway", "up", "--listen", listen, *ports, "--broker", self.context.broker]
        else:
            section = f"[worker]\ncount = {self.workers}\n"
            command = ["edge-node", "up"]
        (member.home / "settings.toml").write_text(section + self.settings)
        command += ["--mdns", "none", "--json", "--home", str(member.home)]
        member.process = await self.processes.spawn(command, errors=member.name)
        member.hurt = False
        member.starts += 1
        assert member.process.stdout is not None
        try:
            async with asyncio.timeout(READY_S_MAX):
                line = await member.process.stdout.readline()
        except TimeoutError:
            raise Unavailable(f"{member.name} was not ready within {READY_S_MAX:g} s") from None
        with contextlib.suppress(ValueError):
            member.ready = json.loads(line)
        if not line and member.hurt:
            return time.monotonic() - begun  # killed again before it was up
        if not line or member.ready.get("event") != "ready":
            words = member.ready.get("error", {}).get("message") or self.processes.last_words(member.name)
            raise AssertionError(f"{member.name} did not start: {words or 'it ended without a word'}")
        return time.monotonic() - begun

    def chore(self, what: Awaitable[Any], name: str) -> asyncio.Task[Any]:
        """Something beside the driving; ``settled`` waits for it and raises what it raised."""

        async def done() -> Any:
            return await what

        task = asyncio.create_task(done(), name=name)
        self._chores.add(task)
        return task

    async def _stop(self) -> None:
        for task in self._chores:
            task.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        for driver in self.drivers:
            await driver.close()
        await self.processes.started()
        self.processes.remember()
        self.broker_record()
        for member in self.members.values():
            if member.process is not None and member.alive:
                member.hurt = True
                member.process.kill()
                await member.process.wait()
        record = self.broker_record()
        if record is not None:  # it outlives its gateway on purpose
            signal_to(record.pid, record.started, signal.SIGKILL)
        await self.processes.end_others(set(), TERM_S)
        await self.processes.sweep(wait_s=TERM_S)

    # ── looking ───────────────────────────────────────────────────────────────────────────────────

    async def status(self, member: Member, *, wait_s: float = 1.0) -> dict[str, Any] | None:
        """None: nobody answers."""
        if not member.alive:
            return None
        with contextlib.suppress(EdgeweaveError, TimeoutError):
            async with asyncio.timeout(wait_s), Mesh.open(member.home) as mesh:
                return await mesh.status()
        return None

    async def until(self, what: str, look: Callable[[], Awaitable[T]], within_s: float = READY_S_MAX) -> T:
        """The first true answer. Raises: AssertionError: there was none within that time."""
        end_s = time.monotonic() + within_s
        while not (value := await look()):
            if time.monotonic() > end_s:
                raise AssertionError(f"waited {within_s:g} s for: {what}")
            await asyncio.sleep(0.05)
        return value

    async def whole(self, *, within_s: float = READY_S_MAX) -> None:
        """Every member is up, linked with the gateway, and knows the functions."""
        names = {node.name for node in self.nodes}

        async def joined(member: Member) -> bool:
            status = await self.status(member)
            if status is None or not status["broker"]["connected"]:
                return False
            if not (names if member.name == GATEWAY else {GATEWAY}) <= set(status["peers_up"]):
                return False
            with contextlib.suppress(EdgeweaveError, TimeoutError):
                async with asyncio.timeout(2), Mesh.open(member.home) as mesh:
                    return any(row["name"] == "load.work" for row in await mesh.functions())
            return False

        for member in self.members.values():
            await self.until(f"{member.name} is linked", lambda m=member: joined(m), within_s)

    def runs(self) -> list[Run]:
        """Every execution so far, in the order of their beginnings."""
        try:
            lines = self.runs_log.read_text().splitlines()
        except FileNotFoundError:
            return []
        found: dict[tuple[int, int], list[Run]] = {}
        for line in lines:
            what, *numbers, at = line.split()
            number, pid, daemon = map(int, numbers)
            if what == "begin":
                found.setdefault((number, pid), []).append(Run(number, pid, daemon, float(at)))
            else:
                run = found[number, pid][-1]
                found[number, pid][-1] = Run(number, pid, daemon, run.begun_s, float(at))
        return sorted(itertools.chain(*found.values()), key=lambda run: run.begun_s)

    def running(self) -> list[Run]:
        """Executions that have begun, have not ended, and whose worker lives."""
        return [run for run in self.runs() if run.ended_s is None and _lives(run.pid)]

    def member_of(self, pid: int) -> Member | None:
        return next((m for m in self.members.values() if m.alive and m.pid == pid), None)

    def broker_record(self) -> Record | None:
        return self.processes.remember_record(self.gateway.home / "broker" / "running.json")

    # ── hurting ───────────────────────────────────────────────────────────────────────────────────

    async def kill(self, member: Member) -> None:
        """kill -9 of the daemon; its workers must notice by themselves, its broker lives on."""
        self.processes.remember()
        self.broker_record()
        assert member.process is not None
        member.hurt = True
        member.process.kill()
        await member.process.wait()

    # ── the end ───────────────────────────────────────────────────────────────────────────────────

    def driver(self, member: Member) -> Driver:
        self.drivers.append(Driver(self, member))
        return self.drivers[-1]

    async def settled(self, within_s: float = 0.0) -> None:
        """Every promise has its end told, or its time is over; then each end is asked for once more.

        Args: within_s: from now; 0: what a task has, and the grace.
        """
        await asyncio.gather(*self._chores)
        self._chores.clear()
        for member in self.members.values():
            if not member.alive:
                if not member.hurt:
                    assert member.process is not None
                    self.violations.append(
                        f"P7: {member.name} ended by itself ({member.process.returncode}): "
                        f"{self.processes.last_words(member.name)}"
                    )
                await self.up(member)
        end_s = time.monotonic() + (within_s or self.ttl_s + GRACE_S)
        for driver in self.drivers:
            await driver.settled(max(0.1, end_s - time.monotonic()))
        for driver in self.drivers:
            await driver.ask_again()

    def verdict(self) -> Verdict:
        """Of the ledgers and notes; call it when the block has ended."""
        notes = []
        for at, driver in enumerate(self.drivers):
            notes.append(self.folder / f"notes.{at}.{driver.member.name}.jsonl")
            notes[-1].write_text("".join(json.dumps(note) + "\n" for note in driver.notes))
        ledgers = {name: member.home / "ledger.db" for name, member in self.members.items() if member.starts}
        return judge(ledgers, notes)

    def outcome(
        self,
        done: int,
        figures: dict[str, float | int | str] | None = None,
        samples: dict[str, list[float]] | None = None,
    ) -> Outcome:
        """The round's, with what the checker says; call it when the block has ended."""
        verdict = self.verdict()
        ends = ", ".join(f"{count} {status}" for status, count in sorted(verdict.statuses.items()))
        self.context.say(f"  {verdict.accepted} accepted; ends: {ends or 'none'}")
        lost = sum(driver.lost for driver in self.drivers)
        return Outcome(
            done,
            verdict.accepted,
            self.violations + verdict.violations,
            {
                **verdict.figures,
                "answers lost": lost,
                "errors logged": self.errors_logged(),
                **(figures or {}),
            },
            samples or {},
        )

    def errors_logged(self) -> int:
        """Lines of level error or worse; the first is said."""
        count = 0
        for member in self.members.values():
            for path in (member.home / "log").glob("daemon.log*"):
                for line in path.read_text("utf-8", "replace").splitlines():
                    if '"error"' in line or '"critical"' in line or '"ERROR"' in line:
                        count += 1
                        if count == 1:
                            self.context.say(f"  logged at {member.name}: {line[:300]}")
        return count


class Driver:
    """One client of one member, through all of its lives. Every word it hears goes into its notes."""

    def __init__(self, fleet: Fleet, member: Member) -> None:
        self.fleet = fleet
        self.member = member
        self.notes: list[dict[str, Any]] = []
        self.lost = 0  # asked, and the answer was lost with the daemon
        self.refused = 0
        self.latencies: list[float] = []  # s, from asking to the end, of those done
        self.waiting: dict[str, asyncio.Task[None]] = {}
        self._mesh = Mesh(Home(member.home))

    def say(self, **note: Any) -> None:
        self.notes.append({**note, "s": round(time.monotonic(), 4)})

    async def submit(self, *arguments: Any, where: str = "any", function: str = "load.work") -> str | None:
        """The id of an accepted task; None: it was refused, or nobody knows. Its number comes first."""
        number = next(self.fleet.numbers)
        asked_s = time.monotonic()
        self.say(asked=number, at=self.member.name)
        try:
            handle = await self._mesh.submit(
                function, number, *arguments, where=where, ttl_s=self.fleet.ttl_s
            )
        except Refused:
            self.refused += 1
            return None
        except EdgeweaveError:
            self.lost += 1
            return None
        self.say(accepted=number, id=handle.id)
        self.waiting[handle.id] = asyncio.create_task(self._wait(handle.id, asked_s), name=handle.id)
        return handle.id

    async def work(self, seconds: float, *, where: str = "any", filler: str = "") -> str | None:
        return await self.submit(seconds, str(self.fleet.folder), filler, where=where)

    async def _wait(self, task: str, asked_s: float) -> None:
        while True:
            try:
                outcome = await self._mesh.outcome_of(task)
            except BadInput as unknown:
                self.fleet.violations.append(
                    f"P3: {self.member.name} had accepted task {task} and does not know it: {unknown.cause}"
                )
                return
            except EdgeweaveError:  # it is down for long
                await asyncio.sleep(0.2)
                continue
            self.say(told=task, status=outcome.status, value=value_of(outcome))
            if outcome.status == "done":
                self.latencies.append(time.monotonic() - asked_s)
            return

    async def steadily(
        self,
        every_s: float,
        seconds: Callable[[], float],
        stop: asyncio.Event,
        *,
        where: Sequence[str] = ("any",),
        filler: str = "",
    ) -> int:
        """A task each *every_s* on average, until *stop*. Returns: how many were accepted."""
        rng = random.Random(f"{self.fleet.context.seed}/{self.member.name}")
        count = 0
        while not stop.is_set():
            count += await self.work(seconds(), where=rng.choice(where), filler=filler) is not None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rng.expovariate(1 / every_s)):
                    await stop.wait()
        return count

    def first_end_after(self, at: float) -> float | None:
        """When the first task that was asked for after *at* ended as done; None: none has yet."""
        asked = {note["asked"] for note in self.notes if "asked" in note and note["s"] > at}
        ids = {note["id"] for note in self.notes if note.get("accepted") in asked}
        ends = (note["s"] for note in self.notes if note.get("told") in ids and note["status"] == "done")
        return min(ends, default=None)

    async def settled(self, within_s: float) -> None:
        open_tasks = [task for task in self.waiting.values() if not task.done()]
        if open_tasks:
            await asyncio.wait(open_tasks, timeout=within_s)
        for name, task in self.waiting.items():
            if not task.done():
                self.say(waited_in_vain=name)
            elif (error := task.exception()) is not None:
                raise error

    async def ask_again(self) -> None:
        """On a connection of its own: the answer must be the same."""
        told = [note["told"] for note in self.notes if "told" in note]
        async with Mesh.open(Home(self.member.home)) as mesh:
            for first in range(0, len(told), 64):
                await asyncio.gather(*(self._again(mesh, task) for task in told[first : first + 64]))

    async def _again(self, mesh: Mesh, task: str) -> None:
        try:
            outcome = await mesh.outcome_of(task, wait_s=AGAIN_S_MAX)
        except BadInput as unknown:
            self.fleet.violations.append(f"P3: {self.member.name} has forgotten task {task}: {unknown.cause}")
            return
        self.say(again=task, status=outcome.status, value=value_of(outcome))

    async def close(self) -> None:
        for task in self.waiting.values():
            task.cancel()
        await asyncio.gather(*self.waiting.values(), return_exceptions=True)
        await self._mesh.__aexit__()


def value_of(outcome: Any) -> Any:
    """The number that it bears, whatever it is wrapped in."""
    if outcome.status != "done":
        return None
    value = values.decode(outcome.output)
    return value["number"] if isinstance(value, dict) else value


def _lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def signal_to(pid: int, started: int, number: signal.Signals) -> bool:
    """To that process alone, never to another that has its pid now. False: it is gone."""
    process = Process(pid, started)
    try:
        if process.alive:
            process.send(number)
            return True
        return False
    finally:
        process.close()


@contextlib.contextmanager
def stopped(member: Member) -> Iterator[None]:
    """The daemon and its workers stand still for as long as the block lasts."""
    held = [(pid, started_at(pid)) for pid in (member.pid, *children_of(member.pid))]
    for pid, started in held:
        if started is not None:
            signal_to(pid, started, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid, started in reversed(held):
            if started is not None:
                signal_to(pid, started, signal.SIGCONT)


def resources(pid: int) -> tuple[int, int] | None:
    """(resident bytes, open descriptors) of a process; None: it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE"), len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except (OSError, ValueError, IndexError):
        return None


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of a line through (x, y) by least squares; 0 where there are too few points to have one."""
    if len(points) < 2:
        return 0.0
    x_mean = sum(x for x, _ in points) / len(points)
    y_mean = sum(y for _, y in points) / len(points)
    spread = sum((x - x_mean) ** 2 for x, _ in points)
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / spread if spread else 0.0
