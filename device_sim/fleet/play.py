"""A scenario, played: everything up, devices at work, faults at their moments, an account at the end.

In: a ``Prepared`` scenario and an empty directory. Out: a ``Run``: the report's facts and the rows of its
tasks. Everything that is told comes from the daemons: the drivers keep what they were promised, the ledgers
what was kept, and the report compares the two.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import json
import math
import os
import secrets
import shlex
import shutil
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from device_sim import faults as fault_core
from device_sim.devices.driver import Driver
from device_sim.devices.plan import Planned
from device_sim.faults import GATEWAY, SECOND, Begun, Done, Fault, Inject, Promised, Timeline
from device_sim.fleet.members import ABORT_S_MAX, TERM_S_MAX, Member, Members, one_error, wire_bytes
from device_sim.fleet.preparation import Prepared
from device_sim.fleet.processes import resident_mb
from device_sim.report import figures
from device_sim.report.account import PLACES, Account, Promise, account, place_of
from device_sim.report.expectations import Verdict, judge
from device_sim.report.fleet_record import record_of
from device_sim.report.folder import make_folder, write, writing
from device_sim.report.recompute import Recomputed, recompute
from device_sim.report.record import Manifest, Record
from device_sim.report.surroundings import commit, machine, versions
from device_sim.screen import Screen
from edge_node.client import Mesh
from edge_node.tasks.journal import Journal, Stored
from security.errors import BadInput, Unavailable

SETTLE_S: Final = 10.0  # for a node's own status, after its last driver has seen all it was promised
SHOW_S: Final = 0.25
LEDGER_ROWS_MAX: Final = 10_000_000
COUNTERS: Final = ("accepted", "restored", "completed", "redispatched", "duplicates", "lapsed")
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


ADMINISTRATOR: Final = "demo"
"""Who may log in to the console of a fleet that stays."""
SLOWER: Final = 8
"""A gateway that stays hands in every board's plan too, so many times slower."""


class Interrupted(Exception):
    """A signal ended the run; everything has been stopped."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass(frozen=True, slots=True)
class Run:
    """What a run has shown."""

    facts: dict[str, Any]  # report.json
    tasks: list[dict[str, Any]]  # tasks.jsonl
    account: Account
    verdicts: list[Verdict]
    record: Record

    @property
    def held(self) -> bool:
        """Every promise was kept or explained, and everything expected was seen."""
        return self.account.kept and all(verdict.held for verdict in self.verdicts)

    def write(self, folder: Path) -> str:
        """``report.json``, ``tasks.jsonl``, and the record as files.

        Returns: a line about what is missing.   Raises: Unavailable: they cannot be written.
        """
        make_folder(folder)
        with writing(folder):
            (folder / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in self.tasks))
            (folder / "report.json").write_text(json.dumps(self.facts, indent=2) + "\n")
        return write(self.record, folder)


async def play(
    prepared: Prepared,
    screen: Screen,
    *,
    keep: bool = False,
    stay: Callable[[Run], None] | None = None,
) -> tuple[Run, Path]:
    """Play it. Whatever happens, no process and no directory stays behind.

    Args: keep: leave the homes of the fleet where they are.
    stay: is told the run, and then the mesh goes on, with its console open, until the first signal.
    Returns: the run, and the directory of the homes.
    Raises: EdgeweaveError: something could not be started or done; Interrupted.
    """
    missing = [name for name in ("fastapi", "uvicorn", "amqtt") if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInput(f"{' and '.join(missing)} not installed", fix="pip install 'edgeweave[sim]'")
    loop = asyncio.get_running_loop()
    running: asyncio.Task[None] | None = None
    caught: list[int] = []

    def interrupted(number: int) -> None:
        if fleet.staying and not fleet.leaves.is_set():
            fleet.leaves.set()
            return
        if not caught:
            screen.close()
            screen.tell("stopping everything")
        caught.append(number)
        assert running is not None  # a signal is handled in a later turn of the loop
        running.cancel()

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN or number != signal.SIGHUP:  # nohup means it
            loop.add_signal_handler(number, interrupted, number)
    folder = Path(tempfile.mkdtemp(prefix="ew-"))
    fleet = Fleet(prepared, screen, folder)
    running = asyncio.create_task(fleet.run(), name="fleet")
    try:
        await asyncio.wait({running})
        screen.close()
        finished = _went_well(running)
        stayed: Run | None = None
        if stay is not None and finished and not caught:
            stayed = _timed(await asyncio.to_thread(fleet.account, of_copies=True), screen)
            stay(stayed)
            if not caught:  # a signal while we counted found nothing to cancel
                running = asyncio.create_task(fleet.go_on(), name="fleet that stays")
                await asyncio.wait({running})
                finished = _went_well(running)
        if finished:
            screen.tell("stopping the daemons")
        left = await fleet.members.stop(term_s_max=TERM_S_MAX if finished else ABORT_S_MAX)
        if caught:
            raise Interrupted(caught[0])
        running.result()
        if left:
            raise Unavailable(f"processes had to be killed at the end: {', '.join(map(str, left))}")
        if stayed is not None:
            return stayed, folder
        run = await asyncio.to_thread(fleet.account)
        if caught:
            raise Interrupted(caught[0])
        return _timed(run, screen), folder
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


class Fleet:
    """One run of a scenario."""

    def __init__(self, prepared: Prepared, screen: Screen, folder: Path) -> None:
        self.prepared = prepared
        self.scenario = prepared.scenario
        self.screen = screen
        self.members = Members(folder, prepared.scenario, screen.tell)
        self.promises: dict[str, Promise] = {}
        self.drivers: dict[str, Driver] = {}
        self.nodes: list[dict[str, Any]] = []
        self.done: dict[int, dict[str, Any]] = {}  # faults carried out, by index
        self.staying = False
        self.leaves = asyncio.Event()
        self._open: dict[str, int] = dict.fromkeys(self.members.members, 0)
        self._replays: dict[str, asyncio.Task[None]] = {}
        self._changed: set[str] = set()  # members whose number of open promises is news to the timeline
        self._carried_out: list[int] = []  # faults, likewise
        self._news = asyncio.Event()
        self._begun = 0.0
        self._begun_at = 0.0  # the same moment, by the clock on the wall

    async def run(self) -> None:
        """Up to the last outcome; the daemons still run then. Raises: EdgeweaveError."""
        fleet = self.scenario.fleet
        await self.members.start(self.prepared.sources)
        self.members.probe = self._probe()
        self.members.open_at = lambda name: self._open.get(name, 0)
        self.screen.tell(
            f"{len(self.prepared.plans)} devices replay their series for {fleet.duration_s:g} s; they know "
            "only the client, the nodes decide where work runs"
        )
        showing = asyncio.create_task(self._show(), name="show")
        try:
            async with one_error(), contextlib.AsyncExitStack() as stack:
                for name, series in self.prepared.series.items():
                    mesh = await stack.enter_async_context(Mesh.open(self.members.members[name].home))
                    self.drivers[name] = Driver(name, mesh, series, self._promised)
                async with asyncio.TaskGroup() as group:
                    self._begun, self._begun_at = time.monotonic(), time.time()
                    for name, driver in self.drivers.items():
                        replay = driver.replay(
                            self.prepared.plans[name], begun=self._begun, last_s=fleet.duration_s
                        )
                        self._replays[name] = group.create_task(replay, name=f"replay {name}")
                    group.create_task(self._inject_all(), name="faults")
                    group.create_task(self._drain(fleet.duration_s + fleet.settle_s), name="drain")
        finally:
            showing.cancel()
        for member in self.members.members.values():
            await self._settle(member)
        self.screen.close()
        open_tasks = sum(not promise.status for promise in self.promises.values())
        self.screen.tell(
            f"every device has seen all of its tasks end{f', but for {open_tasks}' if open_tasks else ''}"
        )

    async def go_on(self) -> None:
        """After the run: devices replay their series again and again, until we leave; the console is open."""
        gateway = self.members.gateway.home
        async with Mesh.open(gateway) as mesh:
            asked = {"name": ADMINISTRATOR, "role": "admin", "password": secrets.token_urlsafe(24)}
            await mesh.call("user-add", asked)  # nobody learns the password: links log in
            link = str((await mesh.call("user-link", {"name": ADMINISTRATOR}))["link"])
        self.screen.line(f"\nthe mesh goes on, and its console is open: {link.partition('log-in')[0]}")
        self.screen.line(f"  log in, once, within 10 minutes:  {link}")
        self.screen.line(f"  another link:  edge-gateway users link {ADMINISTRATOR} --home {gateway}")
        self.screen.line(
            "  the certificate is the mesh's own, so that a browser asks; Ctrl-C ends everything"
        )
        self.staying = True
        every_s = self.scenario.fleet.duration_s
        async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            begun = time.monotonic()
            for name, series in self.prepared.series.items():
                member = self.members.members[name]
                if member.alive and not member.revoked:
                    mesh = await stack.enter_async_context(Mesh.open(member.home))
                    driver = Driver(name, mesh, series, lambda promise: None)
                    plan = endless(self.prepared.plans[name], every_s, self.leaves.is_set)
                    group.create_task(driver.replay(plan, begun=begun, last_s=math.inf), name=f"again {name}")
            # Drivers sit on boards; the gateway's own lists show what it accepted itself.
            mesh = await stack.enter_async_context(Mesh.open(gateway))
            for name, series in self.prepared.series.items():
                plan = endless(self.prepared.plans[name], every_s, self.leaves.is_set, slower=SLOWER)
                driver = Driver(GATEWAY, mesh, series, lambda promise: None)
                group.create_task(driver.replay(plan, begun=begun, last_s=math.inf), name=f"gateway {name}")
            await self.leaves.wait()
            self.screen.tell("waiting for what is under way")

    def _probe(self) -> tuple[str, Any, dict[str, Any]] | None:
        for name, planned in self.prepared.plans.items():
            for each in planned:
                window = self.prepared.series[name].window(each.first, each.last)
                return each.call.function, window, each.call.arguments
        return None

    def _promised(self, promise: Promise) -> None:
        self.promises[promise.id] = promise
        self._open[promise.node] += -1 if promise.status else 1
        self._changed.add(promise.node)
        self._news.set()

    async def _drain(self, until_s: float) -> None:
        """End the replays whose tasks do not end: those of nodes that are gone at once, others at last."""
        gone = {node for node, _ in fault_core.gone(self.scenario.faults)}
        last_s = self.scenario.fleet.duration_s + 1.0
        while any(not replay.done() for replay in self._replays.values()):
            await asyncio.sleep(0.1)
            now_s = time.monotonic() - self._begun
            for name, replay in self._replays.items():
                if now_s > until_s or (now_s > last_s and name in gone) or self.members.members[name].revoked:
                    replay.cancel()

    # ── faults ────────────────────────────────────────────────────────────────────────────────────

    async def _inject_all(self) -> None:
        """The shell of ``Timeline``."""
        timeline = Timeline(self.scenario.faults)
        due = timeline.handle(time.monotonic_ns(), Begun())
        async with asyncio.TaskGroup() as group:
            while True:
                for inject in due:
                    group.create_task(self._inject(inject), name=f"fault {inject.index}")
                if timeline.over:
                    return
                events = await self._next_events(timeline.deadline_ns())
                now_ns = time.monotonic_ns()
                due = [inject for event in events for inject in timeline.handle(now_ns, event)]
                due += timeline.tick(now_ns)

    async def _next_events(self, deadline_ns: int | None) -> list[Done | Promised]:
        wait_s = None if deadline_ns is None else max(0, deadline_ns - time.monotonic_ns()) / SECOND
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._news.wait()
        self._news.clear()
        events: list[Done | Promised] = [Promised(name, self._open[name]) for name in sorted(self._changed)]
        events += [Done(index) for index in self._carried_out]
        self._changed.clear()
        self._carried_out.clear()
        return events

    async def _inject(self, inject: Inject) -> None:
        fault = inject.fault
        open_then = self._open.get(fault.member, 0)
        facts = await self.members.inject(fault)
        self.done[inject.index] = {
            "do": fault.do,
            "node": fault.member,
            "at_s": round(time.monotonic() - self._begun - (time.time() - facts["at"]), 3),
            "open": open_then,
            **facts,
            "at": round(facts["at"], 3),
        }
        self.screen.tell(_told(fault, self.done[inject.index]))
        self._carried_out.append(inject.index)
        self._news.set()

    # ── telling ───────────────────────────────────────────────────────────────────────────────────

    async def _show(self) -> None:
        while True:
            await asyncio.sleep(SHOW_S)
            places = dict.fromkeys(PLACES, 0)
            settled = [promise for promise in self.promises.values() if promise.status]
            for promise in settled:
                places[place_of(promise.place, promise.node)] += 1
            where = ", ".join(f"{count} {place}" for place, count in places.items() if count)
            self.screen.figures(
                f"accepted {len(self.promises)} of {self.prepared.planned}, settled {len(settled)} "
                f"({where or 'none'})"
            )

    async def _settle(self, member: Member) -> None:
        """Its facts once it owes nothing any more, or as they are after a while."""
        until = time.monotonic() + SETTLE_S
        status = await self.members.status(member)
        while status is not None and status["open"] and time.monotonic() < until:
            await asyncio.sleep(0.1)
            status = await self.members.status(member)
        tasks = {} if status is None else status["tasks"]
        self.nodes.append(
            {
                "id": member.name,
                "pid": member.pids[-1],
                "class": member.kind,
                "slowdown": 1.0 if member.device is None else member.device.slowed,
                "labels": {} if member.device is None else member.device.labels,
                "pids": member.pids,
                "up": status is not None,
                "rss_mb": resident_mb(member.pids[-1]) if member.alive else 0.0,
                "wire_bytes": member.wire_before + (0 if status is None else wire_bytes(status)),
                "counters": {key: tasks[key] for key in COUNTERS if key in tasks},
            }
        )

    # ── the account ───────────────────────────────────────────────────────────────────────────────

    def account(self, *, of_copies: bool = False) -> Run:
        """What the ledgers hold, once every daemon has stopped. Raises: EdgeweaveError: one is damaged.

        Args: of_copies: the daemons still run: what their ledgers hold now.
        """
        scenario, prepared = self.scenario, self.prepared
        found = account(self.promises, self._ledgers(of_copies), dict(fault_core.gone(scenario.faults)))
        again = recompute(
            list(self.promises.values()),
            prepared.series,
            prepared.sources,
            count=scenario.fleet.verify,
            seed=prepared.seed,
        )
        faults = [self.done[index] for index in sorted(self.done)]
        for fault in faults:
            if fault["do"] == "kill":
                _measure_kill(fault, found)
        latencies = sorted(found.latencies_ms)
        kills = [fault for fault in faults if fault["do"] == "kill"]
        facts: dict[str, Any] = {
            "scenario": scenario.fleet.name,
            "seed": prepared.seed,
            "versions": versions(),
            "broker": self.members.broker,
            "wall_s": 0.0,  # written last
            "begun_at": round(self._begun_at, 3),
            "nodes": self.nodes,
            "accepted": found.accepted,
            "completed": found.completed,
            "failed": found.failed,
            "lost": found.lost,
            "explained": found.explained,
            "by_place": found.by_place,
            "latency_ms": {
                "p50": round(figures.percentile(latencies, 0.5), 3),
                "p99": round(figures.percentile(latencies, 0.99), 3),
            },
            "bytes_wire": sum(node["wire_bytes"] for node in self.nodes),
            "kill_to_resume_s": kills[0]["kill_to_resume_s"] if kills else None,
            "kill_to_replacement_s": _worst(kills, "kill_to_replacement_s"),
            "revoked_cut_s": _worst(faults, "revoked_cut_s"),
            "killed": (
                {"node": kills[0]["node"], "at": kills[0]["at"], "resumed_tasks": kills[0]["resumed_tasks"]}
                if kills
                else None
            ),
            "faults": faults,
            "verified": {"checked": again.checked, "differing": again.differing},
            "found_by": self.members.found_by,
            "seconds": scenario.fleet.duration_s,
            "planned": prepared.planned,
            "left_out": prepared.planned - sum(driver.handed for driver in self.drivers.values()),
            "submit_retries": sum(driver.retries for driver in self.drivers.values()),
            "unclaimed": found.unclaimed,
            "attempts": sum(len(task["attempts"]) for task in found.tasks),
        }
        verdicts = self._verdicts(facts, found, again)
        facts["expected"] = [
            {"name": each.name, "wanted": each.wanted, "found": each.found, "held": each.held}
            for each in verdicts
        ]
        record = record_of(
            facts,
            found.tasks,
            found.latencies_ms,
            verdicts,
            kept=found.kept,
            workers={GATEWAY: scenario.gateway.workers or os.cpu_count() or 1}
            | {name: device.workers for name, device in scenario.nodes.items()},
            manifest=self._manifest(),
        )
        return Run(facts, found.tasks, found, verdicts, record)

    def _manifest(self) -> Manifest:
        prepared = self.prepared
        document = prepared.document
        duration_s = prepared.scenario.fleet.duration_s
        command = ["device-sim", "fleet", document.name, "--seed", str(prepared.seed)]
        if duration_s != document.scenario.fleet.duration_s:
            command += ["--duration", f"{duration_s:g}"]
        return Manifest(
            kind="fleet",
            scenario=prepared.scenario.fleet.name,
            seed=prepared.seed,
            commit=commit(),
            versions=versions(),
            machine=machine(),
            command=shlex.join(command),
            duration_s=duration_s,
            wall_s=0.0,
        )

    def _verdicts(self, facts: dict[str, Any], found: Account, again: Recomputed) -> list[Verdict]:
        resumed = [fault["resumed_tasks"] for fault in facts["faults"] if "resumed_tasks" in fault]
        verdicts = judge(
            self.scenario.expect,
            {
                "lost": len(found.lost),
                "failed": found.failed,
                "explained": len(found.explained),
                "accepted": found.accepted,
                "completed": found.completed,
                "offloaded": found.by_place["peer"] + found.by_place["gateway"],
                "peers": found.by_place["peer"],
                "resumed": sum(resumed) if resumed else None,
                "verified": again.checked,
                "kill_to_replacement_s": facts["kill_to_replacement_s"],
                "revoked_cut_s": facts["revoked_cut_s"],
                "latency_ms_p99": facts["latency_ms"]["p99"],
            },
        )
        # Not for a scenario to choose: a result that cannot be reproduced is wrong, whatever was expected.
        return [*verdicts, Verdict("differing", 0, len(again.differing), not again.differing)]

    def _ledgers(self, of_copies: bool) -> dict[str, list[Stored]]:
        ledgers: dict[str, list[Stored]] = {}
        for member in self.members.members.values():
            path = member.home / "ledger.db"
            if of_copies:
                path = _copied(path)
            journal = Journal(path, mesh_id=self.members.mesh_id, node_id=member.name)
            try:
                ids = [summary.id for summary in journal.list(limit=LEDGER_ROWS_MAX)]
                ledgers[member.name] = [
                    stored
                    for stored in map(journal.get, ids)
                    if stored is not None and stored.task.id not in self.members.probes
                ]
            finally:
                journal.close()
                if of_copies:
                    path.unlink()
        return ledgers


def _copied(ledger: Path) -> Path:
    """What a ledger that is in use holds, in a file beside it."""
    copy = ledger.with_name("ledger-copy.db")
    with (
        contextlib.closing(sqlite3.connect(ledger)) as live,
        contextlib.closing(sqlite3.connect(copy)) as held,
    ):
        live.backup(held)
    return copy


def _went_well(task: asyncio.Task[None]) -> bool:
    return not task.cancelled() and task.exception() is None


def _timed(run: Run, screen: Screen) -> Run:
    """The run with the time that it took until now."""
    run.facts["wall_s"] = round(screen.wall_s, 1)
    manifest = msgspec.structs.replace(run.record.manifest, wall_s=run.facts["wall_s"])
    return replace(run, record=msgspec.structs.replace(run.record, manifest=manifest))


def endless(
    planned: Sequence[Planned], every_s: float, ended: Callable[[], bool], *, slower: float = 1
) -> Iterator[Planned]:
    """The plan again and again, *every_s* later each time, without what needs a whole series.

    Args: slower: how many times as long everything takes.
    """
    parts = [each for each in planned if not each.call.whole]
    for turn in itertools.count() if parts else ():
        for each in parts:
            if ended():
                return
            yield replace(each, due_ns=round(slower * (each.due_ns + turn * every_s * SECOND)))


def _measure_kill(fault: dict[str, Any], found: Account) -> None:
    resume_s, resumed = figures.resumed(found.tasks, fault["node"], fault["at"])
    placed = figures.replacement(found.tasks, fault["node"], fault["at"])
    fault |= {
        "kill_to_resume_s": resume_s,
        "resumed_tasks": resumed,
        "kill_to_replacement_s": placed.first_s,
        "own_resumed_s": placed.own_s,
        "leased_replaced_s": placed.leased_s,
        "replaced_tasks": placed.tasks,
    }


def _worst(faults: list[dict[str, Any]], key: str) -> float | None:
    return max((fault[key] for fault in faults if fault.get(key) is not None), default=None)


def _told(fault: Fault, facts: dict[str, Any]) -> str:
    pid = facts.get("pid", 0)
    told: dict[str, Callable[[], str]] = {
        "kill": lambda: (
            f"kill -9 {pid}: {fault.node} is dead with {facts['open']} open promises, "
            f"its worker{'s' if len(facts['workers']) > 1 else ''} "
            f"({', '.join(map(str, facts['workers'])) or 'none'}) with it"
        ),
        "pause": lambda: f"kill -STOP {pid}: {fault.node} stands still",
        "resume": lambda: f"kill -CONT {pid}: {fault.node} goes on",
        "restart": lambda: f"edge-node up: {fault.node} is back as process {pid}",
        "revoke": lambda: (
            f"edge-gateway revoke {fault.node}: cut off after {facts['revoked_cut_s']:.2f} s "
            f"({facts['refusal'].partition(';')[0]})"
        ),
        "kill-gateway": lambda: f"kill -9 {pid}: the gateway is dead, its broker goes on",
        "restart-gateway": lambda: f"edge-gateway up: the gateway is back as process {pid}",
        "kill-broker": lambda: f"kill -9 {pid}: the broker is dead",
    }
    return told[fault.do]()
