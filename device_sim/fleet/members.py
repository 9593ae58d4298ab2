"""The daemons of a fleet: started with the commands that a person types, joined with real codes, hurt on
purpose, and ended in order.

In: a scenario and a directory for the homes. Out: what was done and when. Not here: when to hurt them
(``faults``, ``play``), what devices ask for (``devices``).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import signal
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from device_sim.faults import GATEWAY, Fault
from device_sim.fleet.processes import Processes, children_of, connected_to, end
from device_sim.scenario import DevicesTable, Scenario
from edge_node.client import Mesh
from gateway.broker.process import Process, started_at
from security.enrolment import JoinCode
from security.errors import EdgeweaveError, Refused, Unavailable

READY_S_MAX: Final = 60.0
ASK_S_MAX: Final = 1.0  # for a daemon's status, when it may be stopped or dead
TERM_S_MAX: Final = 15.0  # a daemon gives running work ten seconds to drain
ABORT_S_MAX: Final = 3.0  # who pressed Ctrl-C does not wait for work to drain
CATCH_S: Final = 0.05
LOOK_S: Final = 0.005  # work of some milliseconds comes in bursts, and is over in no time
CATCH_S_MAX: Final = 4.0  # that a kill waits, once more, for work to interrupt
CUT_S_MAX: Final = 15.0  # three times what a revocation may take: then something is wrong
JOINING_MAX: Final = 4  # at once: more only wait for this machine's cores
SPEEDS: Final = {1.0: "full-speed", 2.0: "half-speed", 4.0: "quarter-speed", 8.0: "eighth-speed"}


@dataclass(slots=True)
class Member:
    """One daemon."""

    name: str
    home: Path
    device: DevicesTable | None  # None: the gateway
    process: asyncio.subprocess.Process | None = None
    pids: list[int] = field(default_factory=list)
    ready: dict[str, Any] = field(default_factory=dict)
    stopped: list[tuple[int, int]] = field(default_factory=list)  # pid, start time: under SIGSTOP
    wire_before: int = 0  # bytes of its earlier lives
    revoked: bool = False

    @property
    def kind(self) -> str:
        """Its class, in words."""
        if self.device is None:
            return GATEWAY
        slowdown = self.device.slowed
        return SPEEDS.get(slowdown, f"1/{slowdown:g}-speed") + " board"

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None


class Members:
    """Gateway and nodes. ``stop`` leaves no process, however far ``start`` had come."""

    def __init__(self, folder: Path, scenario: Scenario, tell: Callable[[str], None]) -> None:
        self.folder = folder
        self.scenario = scenario
        self.tell = tell
        self.processes = Processes(folder)
        self.members = {GATEWAY: Member(GATEWAY, folder / GATEWAY, None)} | {
            name: Member(name, folder / name, device) for name, device in scenario.nodes.items()
        }
        self.found_by = "mdns" if scenario.fleet.mdns == "lo" else "address"
        self.broker = ""
        self.mesh_id = ""
        self.probe: tuple[str, Any, dict[str, Any]] | None = None
        self.open_at: Callable[[str], int] = lambda name: 0
        """Promises of this member whose end its drivers have not heard."""
        """A call that the mesh takes, to ask for what it must refuse: function, argument, more arguments."""
        self.probes: set[str] = (
            set()
        )  # tasks of ours that were to be refused and were not: no device's promises
        self._joining = asyncio.Semaphore(JOINING_MAX)

    @property
    def gateway(self) -> Member:
        return self.members[GATEWAY]

    @property
    def nodes(self) -> list[Member]:
        return [member for member in self.members.values() if member.device is not None]

    # ── starting ──────────────────────────────────────────────────────────────────────────────────

    async def start(self, sources: Sequence[Path]) -> None:
        """Everything up, joined and deployed. Raises: EdgeweaveError: one line with its fix."""
        gateway = self.gateway
        await self.up(gateway)
        self.broker = gateway.ready["broker_kind"]
        self.mesh_id = gateway.ready["mesh"]
        self.tell(
            f"edge-gateway up: mesh {self.mesh_id}, {self.broker} broker on {gateway.ready['broker_address']}"
        )
        async with one_error(), asyncio.TaskGroup() as group:
            group.create_task(self._deploy(sources), name="deploy")
            for node in self.nodes:
                group.create_task(self._join_and_up(node), name=f"join {node.name}")
        stems = [path.stem for path in sources]
        for node in self.nodes:
            await self._until_deployed(node, stems)

    async def up(self, member: Member) -> None:
        """Start its daemon and wait until it is ready. Raises: Unavailable."""
        member.home.mkdir(mode=0o700, exist_ok=True)
        if member.device is None:
            settings = f"[engine]\nprocesses = {self.scenario.gateway.workers}\n"
            options = ["--listen", "127.0.0.1", "--port", "0", "--broker-port", "0"]
            command = ["edge-gateway", "up", *options, "--broker", self.scenario.gateway.broker]
        else:
            device = member.device
            settings = f"[board]\nslowdown = {device.slowed:g}\n\n[worker]\ncount = {device.workers}\n"
            command = ["edge-node", "up"]
        (member.home / "settings.toml").write_text(settings)
        process = await self.processes.spawn(
            [*command, "--mdns", self.scenario.fleet.mdns, "--json", "--home", str(member.home)],
            errors=member.name,
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
            cause = told.get("message") or self.processes.last_words(member.name) or "it ended without a word"
            raise Unavailable(f"{member.name} did not start: {cause}", fix=str(told.get("fix", "")))
        member.ready = facts

    async def _join_and_up(self, node: Member) -> None:
        async with self._joining:
            async with Mesh.open(self.gateway.home) as mesh:
                code = str((await mesh.call("invite", {"ttl_s": 3600.0, "name": node.name}))["code"])
            options = ["--name", node.name, "--mdns", self.scenario.fleet.mdns, "--home", str(node.home)]
            assert node.device is not None
            for key, value in sorted(node.device.labels.items()):
                options += ["--label", f"{key}={value}"]
            node.home.mkdir(mode=0o700, exist_ok=True)
            how = "joined by its code"
            try:
                if self.scenario.fleet.mdns == "lo":
                    # Without the addresses that it carries, nothing but mDNS can find the gateway.
                    bare = dataclasses.replace(JoinCode.parse(code), addresses=()).text()
                    await self.processes.command("edge-node", "join", bare, *options)
                    how = "found the gateway by mDNS on lo"
                else:
                    await self.processes.command("edge-node", "join", code, *options)
            except Unavailable:
                if self.scenario.fleet.mdns == "none":
                    raise
                self.found_by = "address"  # no multicast on this machine's loopback: the code's address it is
                await self.processes.command("edge-node", "join", code, *options)
                how = "found the gateway by its code's address (mDNS sees nothing on lo here)"
            await self.up(node)
            self.tell(f"edge-node join and up: {node.name}, {_article(node.kind)} {node.kind}, {how}")

    async def _deploy(self, sources: Sequence[Path]) -> None:
        for source in sources:
            await self.processes.command(
                "edge-gateway", "deploy", str(source), "--home", str(self.gateway.home)
            )
        if sources:
            self.tell("edge-gateway deploy: " + ", ".join(source.name for source in sources) + ", signed")

    async def _until_deployed(self, node: Member, stems: list[str]) -> None:
        try:
            async with asyncio.timeout(READY_S_MAX), Mesh.open(node.home) as mesh:
                while True:
                    known = {str(row["name"]).split(".")[0] for row in await mesh.functions()}
                    if known >= set(stems):
                        return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise Unavailable(f"the functions did not reach {node.name}") from None

    # ── while it runs ─────────────────────────────────────────────────────────────────────────────

    async def status(self, member: Member, *, wait_s: float = ASK_S_MAX) -> dict[str, Any] | None:
        """None: nobody answers."""
        if not member.alive or member.stopped:
            return None
        with contextlib.suppress(Unavailable, Refused, TimeoutError):  # none there, or no member any more
            async with asyncio.timeout(wait_s), Mesh.open(member.home) as mesh:
                return await mesh.status()
        return None

    async def inject(self, fault: Fault) -> dict[str, Any]:
        """Do it. Returns: what it led to; ``at``: seconds since 1970.

        Raises: EdgeweaveError: it could not be done, or did not do what it must.
        """
        member = self.gateway if not fault.needs_node else self.members[fault.node]
        match fault.do:
            case "kill" | "kill-gateway":
                return await self._kill(member, fault)
            case "pause":
                return self._pause(member)
            case "resume":
                return self._resume(member)
            case "restart" | "restart-gateway":
                return await self._restart(member)
            case "revoke":
                return await self._revoke(member)
            case "kill-broker":
                return await self._kill_broker()
            case verb:
                raise AssertionError(f"{verb} is for the world: scenario.for_fleet leaves it out")

    async def _kill(self, member: Member, fault: Fault) -> dict[str, Any]:
        """SIGKILL to the daemon alone: its workers must notice by themselves."""
        assert member.process is not None
        await self._note_wire(member)  # its counters die with it: what it sends after this is not counted
        self.processes.remember()
        if member.device is None:
            self._remember_broker()
        if fault.open_min:
            await self._catch_at_work(member, fault)
        workers = {pid: started_at(pid) for pid in children_of(member.process.pid)}
        at, pid = time.time(), member.process.pid
        if member.alive:
            member.process.kill()
        await member.process.wait()
        if member.device is None:  # its broker is to outlive it
            return {"at": at, "pid": pid}
        await self._awake(member)  # a stopped worker cannot notice anything
        for _ in range(1000):  # ten seconds: on a busy machine the kernel's word takes its time too
            if all(started_at(pid) != started for pid, started in workers.items()):
                return {"at": at, "pid": pid, "workers": sorted(workers)}
            await asyncio.sleep(0.01)
        raise Unavailable(f"workers of {member.name} live on after their daemon was killed")

    async def _catch_at_work(self, member: Member, fault: Fault) -> None:
        """Stop it while so many promises are open: what a kill is to interrupt must not have ended between
        the decision and the signal. A fast machine never has so many at once, so that fewer will do the
        longer it takes, and at last it is killed as it is."""
        assert member.process is not None
        until = time.monotonic() + CATCH_S_MAX
        while member.alive and time.monotonic() < until:
            wanted = enough(fault.open_min, (until - time.monotonic()) / CATCH_S_MAX)
            if self.open_at(member.name) >= wanted:
                member.process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(CATCH_S)  # drivers hear what it had said already
                if min(self.open_at(member.name), _open_in(member.home / "ledger.db")) >= wanted:
                    return  # SIGKILL ends a stopped process as well
                member.process.send_signal(signal.SIGCONT)
            await asyncio.sleep(LOOK_S)

    def _pause(self, member: Member) -> dict[str, Any]:
        assert member.process is not None
        at = time.time()
        for pid in (member.process.pid, *children_of(member.process.pid)):
            started = started_at(pid)
            if started is not None:
                member.stopped.append((pid, started))
                _signal(pid, started, signal.SIGSTOP)
        return {"at": at, "pid": member.process.pid}

    def _resume(self, member: Member) -> dict[str, Any]:
        at = time.time()
        self._continue(member)
        return {"at": at, "pid": member.pids[-1]}

    async def _awake(self, member: Member) -> None:
        self._continue(member)
        await asyncio.sleep(0)

    def _continue(self, member: Member) -> None:
        for pid, started in reversed(member.stopped):
            _signal(pid, started, signal.SIGCONT)
        member.stopped.clear()

    async def _restart(self, member: Member) -> dict[str, Any]:
        at = time.time()
        if member.alive:
            assert member.process is not None
            await self._note_wire(member)
            self.processes.remember()
            await end(member.process, signal.SIGTERM, READY_S_MAX)
        await self.up(member)
        return {"at": at, "pid": member.pids[-1], "ready_s": round(time.time() - at, 3)}

    async def _kill_broker(self) -> dict[str, Any]:
        record = self._remember_broker()
        if record is None:
            raise Unavailable("no broker is recorded as running, so none can be killed")
        at = time.time()
        _signal(record.pid, record.started, signal.SIGKILL)
        return {"at": at, "pid": record.pid}

    async def _revoke(self, member: Member) -> dict[str, Any]:
        """The command, and how long the member's way into the mesh stayed open after it was given.

        ``revoked_cut_s``: from the start of the command until both are true: its connection to the broker is
        cut, and a task for it is refused by the gateway.
        """
        at, begun = time.time(), time.monotonic()
        cut: asyncio.Task[float | None] = asyncio.create_task(self._until_cut(member, begun), name="cut")
        try:
            told = await self.processes.command(
                "edge-gateway", "revoke", member.name, "--yes", "--home", str(self.gateway.home)
            )
            commanded_s = time.monotonic() - begun
            refused_s, answer = await self._until_refused(member, begun)
            cut_s = await cut
        finally:
            cut.cancel()
        if cut_s is None:
            raise Unavailable(f"{member.name} was revoked and is still connected after {CUT_S_MAX:g} s")
        through = await self._through(member)
        status = await self.status(member)
        if status is not None and status["broker"]["connected"]:
            raise Unavailable(f"{member.name} was revoked and cut off, and is connected again")
        member.revoked = True
        return {
            "at": at,
            "command_s": round(commanded_s, 3),
            "connection_cut_s": round(cut_s, 3),
            "refused_s": round(refused_s, 3),
            "revoked_cut_s": round(max(cut_s, refused_s), 3),
            "told": " ".join(told.split())[:200],
            "refusal": answer,
            "through": through,
        }

    async def _until_cut(self, member: Member, begun: float) -> float | None:
        """Seconds until its daemon has no connection to the broker. A dead one has none already.

        Read off the kernel's tables: a daemon that is busy, or about to end, answers late.
        """
        port = int(self.gateway.ready["broker_address"].rpartition(":")[2])
        while time.monotonic() - begun < CUT_S_MAX:
            if not connected_to(member.pids[-1], port):
                return time.monotonic() - begun
            await asyncio.sleep(0.01)
        return None

    async def _until_refused(self, member: Member, begun: float) -> tuple[float, str]:
        """(seconds until the gateway refuses a task for it, what it says)."""
        assert self.probe is not None, "a scenario that revokes asks for something"
        function, argument, more = self.probe
        async with Mesh.open(self.gateway.home) as mesh:
            while time.monotonic() - begun < CUT_S_MAX:
                try:
                    handle = await mesh.submit(function, argument, kwargs=more, where=member.name, ttl_s=1.0)
                    self.probes.add(handle.id)
                    await handle.cancel()
                except Refused as refused:
                    return time.monotonic() - begun, refused.cause
                await asyncio.sleep(0.05)
        raise Unavailable(f"the gateway still takes tasks for {member.name} after it was revoked")

    async def _through(self, member: Member) -> str:
        """What its own daemon says to a task for the gateway: it must not get through.

        Raises: Unavailable: the task ran there.
        """
        if member.stopped:
            return "stands still"
        if not member.alive:
            return f"ended: {await _last_error(member)}".removesuffix(": ")
        assert self.probe is not None
        function, argument, more = self.probe
        try:
            async with asyncio.timeout(READY_S_MAX), Mesh.open(member.home) as mesh:
                handle = await mesh.submit(function, argument, kwargs=more, where=GATEWAY, deadline_s=1.0)
                self.probes.add(handle.id)
                outcome = await handle.outcome()
        except (EdgeweaveError, TimeoutError) as refused:
            with contextlib.suppress(TimeoutError):  # its socket closes first, when it ends by itself
                async with asyncio.timeout(TERM_S_MAX):
                    assert member.process is not None
                    await member.process.wait()
                return f"ended: {await _last_error(member)}".removesuffix(": ")
            return " ".join(str(refused).split())[:200]
        if outcome.place == GATEWAY:
            raise Unavailable(f"{member.name} was revoked, and its task still ran at the gateway")
        return f"{outcome.status}: {outcome.reason}"[:200]

    async def _note_wire(self, member: Member) -> None:
        status = await self.status(member)
        if status is not None:
            member.wire_before += wire_bytes(status)

    def _remember_broker(self) -> Any:
        return self.processes.remember_record(self.gateway.home / "broker" / "running.json")

    # ── stopping ──────────────────────────────────────────────────────────────────────────────────

    async def stop(self, *, term_s_max: float = TERM_S_MAX) -> list[int]:
        """End everything, nodes first; pids of processes that had to be killed although they should not."""
        await self.processes.started()
        self.processes.remember()
        self._remember_broker()
        for member in self.nodes:
            self._continue(member)
        own = {member.process for member in self.members.values() if member.process is not None}
        await self.processes.end_others(own, term_s_max)
        stubborn = await asyncio.gather(
            *(end(node.process, signal.SIGTERM, term_s_max) for node in self.nodes if node.process)
        )
        if self.gateway.process is not None:
            stubborn.append(await end(self.gateway.process, signal.SIGTERM, term_s_max))
        self._remember_broker()  # one may have been started in the meantime
        return [pid for pid in stubborn if pid] + await self.processes.sweep()


def enough(open_min: int, left: float) -> int:
    """So many open promises will do. Args: left: of the time to wait for *open_min*, from 1 to 0."""
    return max(1, round(open_min * left))


def wire_bytes(status: dict[str, Any]) -> int:
    """Bytes that one member sent to and received from the broker, before TLS."""
    return int(status["wire"]["bytes_in"]) + int(status["wire"]["bytes_out"])


def _article(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"


def _signal(pid: int, started: int, number: signal.Signals) -> None:
    process = Process(pid, started)
    process.send(number)
    process.close()


@contextlib.asynccontextmanager
async def one_error() -> Any:
    """The first cause out of a group of them; a mistake of ours before what the world did."""
    try:
        yield
    except BaseExceptionGroup as group:
        known, unknown = group.split(EdgeweaveError)
        cause: BaseException | None = known if unknown is None else unknown
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        assert cause is not None, "a group is never empty"
        raise cause from None


async def _last_error(member: Member) -> str:
    """What a daemon told when it ended by itself; empty: nothing."""
    assert member.process is not None and member.process.stdout is not None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ASK_S_MAX):
            for line in reversed((await member.process.stdout.read()).splitlines()):
                error = _object(line).get("error")
                if isinstance(error, dict):
                    return str(error.get("message", ""))
    return ""


def _object(line: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        facts = json.loads(line)
        if isinstance(facts, dict):
            return facts
    return {}


def _open_in(ledger: Path) -> int:
    """Tasks that a stopped daemon has accepted and not settled: drivers may hear late of those that ended."""
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as reader:
        (count,) = reader.execute(
            "SELECT count(*) FROM records AS a WHERE a.kind = 0 "
            "AND NOT EXISTS (SELECT 1 FROM records AS c WHERE c.id = a.id AND c.kind = 1)"
        ).fetchone()
    return int(count)
