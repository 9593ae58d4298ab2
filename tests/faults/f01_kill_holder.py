"""Fault 1: kill -9 of the worker process, or of the whole node, in the middle of somebody's task.

Owners (the gateway and half of the nodes) submit steadily; who runs a task says so. One that runs is drawn,
and either its worker or its daemon is killed; a daemon comes back after a while, sometimes at once. The
figure is the time until the same task begins again elsewhere, less the lease: of nodes killed whose task was
another's, and whose owner lived. The lease is taken to be what the runs' own mean and deviation make of it,
without any waiting, so the figure is rather too large.
"""

from __future__ import annotations

import asyncio
import signal
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.broker.process import started_at
from tests.faults.fault import BOTH, Context, Fault, Outcome
from tests.faults.fleet import GATEWAY, Fleet, Member, Run, signal_to

FAULT = Fault(
    number=1,
    name="kill-holder",
    title="kill -9 of worker or node mid-task",
    brokers=BOTH,
    full=200,
    small=3,
    unit="kills",
    round_max=20,
    round_s=50,
    bounds={"re-dispatch beyond lease, s p99": 2.0},
)
TASKS_A_KILL = 10
DOWN_MAX = 2  # daemons at once: somebody has to do the work
EVERY_S = 0.15  # of all drivers together
DOWN_S_MAX = 4.0
BACK_S_MAX = DOWN_S_MAX + 4.0  # until a killed daemon is up again, about


@dataclass(frozen=True, slots=True)
class Kill:
    run: Run
    at: float
    node: str = ""  # empty: its worker alone


async def run(context: Context) -> Outcome:
    rng = context.rng
    nodes = context.drawn["nodes"] = 3 if context.count <= 4 else rng.choice((4, 5))
    longest_s = context.drawn["longest_s"] = round(rng.uniform(0.3, 1.0), 2)
    share = context.drawn["whole_node"] = round(rng.uniform(0.3, 0.7), 2)
    killed: list[Kill] = []
    stop = asyncio.Event()
    async with Fleet(context, nodes=nodes) as fleet:
        owners = [fleet.gateway, *fleet.nodes[: nodes // 2]]
        drivers = [fleet.driver(owner) for owner in owners]
        driving = [
            asyncio.create_task(
                driver.steadily(EVERY_S * len(drivers), lambda: rng.uniform(0.05, longest_s), stop)
            )
            for driver in drivers
        ]
        try:
            while len(killed) < context.count:
                await asyncio.sleep(rng.uniform(0.2, 1.2))
                victim = await _victim(fleet)
                if rng.random() < share and _may_fall(fleet, victim):
                    killed.append(await _kill_node(fleet, victim))
                else:
                    killed.append(_kill_worker(victim))
            while sum(len(driver.waiting) for driver in drivers) < TASKS_A_KILL * context.count:
                await asyncio.sleep(0.1)
        finally:
            stop.set()
            await asyncio.gather(*driving)
        await fleet.settled()
        owners_of = {n["asked"]: n["at"] for driver in drivers for n in driver.notes if "asked" in n}
        again, beyond = again_after(fleet.runs(), killed, owners_of)
    nodes_killed = sum(bool(each.node) for each in killed)
    return fleet.outcome(
        len(killed),
        {"killed nodes": nodes_killed, "killed workers": len(killed) - nodes_killed},
        {**again, "re-dispatch beyond lease, s": beyond},
    )


async def _victim(fleet: Fleet) -> Run:
    """One that runs now; a drawn one, a drawn moment later."""
    rng = fleet.context.rng

    async def look() -> Run | None:
        running = [run for run in fleet.running() if fleet.member_of(run.daemon) is not None]
        return rng.choice(running) if running else None

    while True:
        run = await fleet.until("somebody works", look)
        await asyncio.sleep(rng.uniform(0, 0.1))
        if any((r.number, r.pid) == (run.number, run.pid) for r in fleet.running()):
            return run


def _may_fall(fleet: Fleet, run: Run) -> bool:
    member = fleet.member_of(run.daemon)
    down = sum(not each.alive for each in fleet.members.values())
    return member is not None and member.name != GATEWAY and down < DOWN_MAX


def _kill_worker(run: Run) -> Kill:
    started = started_at(run.pid)
    if started is not None:
        signal_to(run.pid, started, signal.SIGKILL)
    return Kill(run, time.monotonic())


async def _kill_node(fleet: Fleet, run: Run) -> Kill:
    member = fleet.member_of(run.daemon)
    assert member is not None
    at = time.monotonic()
    await fleet.kill(member)
    fleet.chore(_back(fleet, member, fleet.context.rng.uniform(0, DOWN_S_MAX)), f"{member.name} comes back")
    return Kill(run, at, member.name)


async def _back(fleet: Fleet, member: Member, after_s: float) -> None:
    await asyncio.sleep(after_s)
    await fleet.up(member)


def again_after(
    runs: list[Run], killed: list[Kill], owners: Mapping[int, str]
) -> tuple[dict[str, list[float]], list[float]]:
    """(seconds until the task began again, by what was killed; those of nodes less the lease)."""
    lengths = [run.ended_s - run.begun_s for run in runs if run.ended_s is not None]
    mean, deviation = statistics.fmean(lengths), statistics.pstdev(lengths)
    lease_s = max(1.0, 2 * (mean + 3 * deviation))
    found: dict[str, list[float]] = {"again after node, s": [], "again after worker, s": []}
    beyond = []
    for kill in killed:
        later = [run.begun_s for run in runs if run.number == kill.run.number and run.begun_s > kill.at]
        if not later:  # it had ended in the instant of the kill
            continue
        took_s, owner = later[0] - kill.at, owners[kill.run.number]
        found[f"again after {'node' if kill.node else 'worker'}, s"].append(took_s)
        owner_fell = any(
            each.node == owner and kill.at - BACK_S_MAX < each.at <= kill.at + took_s for each in killed
        )
        if kill.node and not owner_fell:
            beyond.append(max(0.0, took_s - lease_s))
    return found, beyond
