"""Fault 5 beside partitions: every cable loses up to one frame in twenty, for a minute; nothing may be lost.

TCP repeats what is lost; what the mesh must bear is the delay that this makes, bursts of it, and connections
that are given up. The frames that were really dropped are counted.
"""

from __future__ import annotations

import asyncio

from examples.hosts.network import Network, lacking
from tests.faults.fault import BOTH, Context, Fault, Lacking, Outcome, quantile
from tests.faults.fleet import GATEWAY, Fleet

FAULT = Fault(
    number=5,
    name="ip-loss",
    title="IP loss up to 5 %, 60 s",
    brokers=BOTH,
    full=5,
    small=0,
    unit="minutes",
    round_max=1,
    round_s=80,
)
EVERY_S = 0.5
NODES = 4


async def run(context: Context) -> Outcome:
    rng = context.rng
    percent = rng.randint(1, 5)
    context.drawn["percent"] = percent
    hosts = [GATEWAY, *(f"n{number}" for number in range(1, NODES + 1))]
    stop = asyncio.Event()
    if reason := lacking():
        raise Lacking(reason)
    with Network(hosts) as network:
        async with Fleet(context, nodes=NODES, network=network) as fleet:
            missing = network.weather(loss_percent=percent)
            if missing:
                raise Lacking("; ".join(missing))
            drivers = [fleet.driver(member) for member in fleet.members.values()]
            driving = [
                asyncio.create_task(
                    driver.steadily(EVERY_S, lambda: rng.uniform(0, 0.1), stop, where=("any", *hosts))
                )
                for driver in drivers
            ]
            try:
                await asyncio.sleep(6.0 if context.brief else 60.0)
            finally:
                stop.set()
                await asyncio.gather(*driving)
            lost = network.lost()
            network.weather()
            await fleet.settled()
    took = [value for driver in drivers for value in driver.latencies]
    return fleet.outcome(
        1, {"frames dropped": lost, "task s p99 of a round": quantile(took, 0.99)}, {"task, s": took}
    )
