"""Fault 5: hosts are cut off for a minute: fully, in one direction, or again and again; then healed.

Every daemon has a host of its own (a network namespace). Three nodes at a time are hurt, each in its own
way; in some rounds it is the gateway, which cuts off everybody. No side sees its link go. Everybody submits
all the while, also for hosts that cannot be reached. The figure is the time from the heal until a host is
linked again and a task has gone through in both directions.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from examples.hosts.network import Network, lacking
from tests.faults.fault import BOTH, Context, Fault, Lacking, Outcome
from tests.faults.fleet import GATEWAY, Driver, Fleet

FAULT = Fault(
    number=5,
    name="partition",
    title="partition full, one-way, flapping, 60 s",
    brokers=BOTH,
    full=20,
    small=2,
    unit="cuts",
    round_max=3,
    round_s=80,
    bounds={"converge, s p99": 5.0},
)
KINDS = ("full", "out", "in", "flapping")
CUT_S, BRIEF_S = 60.0, 5.0
TTL_S = 150.0
STALL_S = 60.0
EVERY_S = 1.0
NODES = 4
GATEWAY_SHARE = 0.3  # of rounds cut off the gateway


class Cables(Network):
    """The hosts' network, with cuts in one direction."""

    def cuts(self, hurt: Mapping[str, str]) -> None:
        """Host -> "full", "out" (it is not heard) or "in" (it hears nobody), replacing what was."""
        self._bridge(
            "add chain bridge weather split { type filter hook forward priority 0; }",
            "flush chain bridge weather split",
        )
        for host, kind in hurt.items():
            port = self.port(host)
            if kind in ("full", "out"):
                self._bridge(f'add rule bridge weather split iifname "{port}" drop')
            if kind in ("full", "in"):
                self._bridge(f'add rule bridge weather split oifname "{port}" drop')


async def run(context: Context) -> Outcome:
    rng = context.rng
    seconds = context.drawn["seconds"] = BRIEF_S if context.brief else CUT_S
    nodes = context.count if context.brief else NODES
    hosts = [GATEWAY, *(f"n{number}" for number in range(1, nodes + 1))]
    if context.count == 1 or (not context.brief and rng.random() < GATEWAY_SHARE):
        hurt = {GATEWAY: rng.choice(KINDS)}
    else:
        kinds = rng.sample(KINDS, len(KINDS))
        hurt = dict(zip(hosts[1 : 1 + context.count], kinds, strict=False))
    context.drawn |= hurt
    converged: list[float] = []
    stop = asyncio.Event()
    if reason := lacking():
        raise Lacking(reason)
    with Cables(hosts) as network:
        async with Fleet(context, nodes=nodes, network=network, ttl_s=TTL_S) as fleet:
            drivers = {name: fleet.driver(member) for name, member in fleet.members.items()}
            driving = [
                asyncio.create_task(
                    driver.steadily(EVERY_S, lambda: rng.uniform(0, 0.1), stop, where=("any", "any", *hosts))
                )
                for driver in drivers.values()
            ]
            try:
                await asyncio.sleep(1.0)
                await _hurt(network, hurt, seconds, context)
                healed = time.monotonic()
            finally:
                stop.set()
                await asyncio.gather(*driving)
            apart = fleet.nodes if GATEWAY in hurt else [fleet.members[name] for name in hurt]
            converged = await asyncio.gather(
                *(_converged(fleet, drivers, member.name, healed) for member in apart)
            )
            await fleet.settled()
    return fleet.outcome(len(hurt), {}, {"converge, s": list(converged)})


async def _hurt(network: Cables, hurt: Mapping[str, str], seconds: float, context: Context) -> None:
    """All of them for that long; those that flap change by themselves."""
    rng = context.rng
    steady = {host: kind for host, kind in hurt.items() if kind != "flapping"}
    flapping = [host for host, kind in hurt.items() if kind == "flapping"]
    end = time.monotonic() + seconds
    down = True
    while (left := end - time.monotonic()) > 0:
        network.cuts(steady | (dict.fromkeys(flapping, "full") if down else {}))
        down = not down
        await asyncio.sleep(min(left, rng.uniform(0.5, seconds / 8)) if flapping else left)
    network.cuts({})


async def _converged(fleet: Fleet, drivers: Mapping[str, Driver], name: str, healed: float) -> float:
    """Seconds from the heal until it is linked, and work has gone both ways."""
    there, back = await asyncio.gather(
        drivers[GATEWAY].work(0.0, where=name), drivers[name].work(0.0, where=GATEWAY)
    )

    async def linked() -> bool:
        here = await fleet.status(fleet.members[name])
        gateway = await fleet.status(fleet.gateway)
        return bool(here and gateway and GATEWAY in here["peers_up"] and name in gateway["peers_up"])

    try:
        await fleet.until(f"{name} is linked again", linked, STALL_S)
        for driver, task in ((drivers[GATEWAY], there), (drivers[name], back)):
            if task is not None:
                async with asyncio.timeout(STALL_S):
                    await driver.waiting[task]
    except (AssertionError, TimeoutError):
        fleet.violations.append(f"P7: {name} was not back {STALL_S:g} s after the partition was healed")
    return time.monotonic() - healed
