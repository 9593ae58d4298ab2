"""Fault 2: kill -9 of the gateway at drawn microseconds after tasks were handed to it, over and over.

A burst of short tasks is written to the gateway's socket, and after 50 us to 250 ms (even on a logarithmic
scale) the daemon is gone: before it read them, around the fsync of the accepts, while they run, around the
fsync of the ends, or in between. One kill in five comes again while it starts. Nodes give it work meanwhile,
and it gives work to nodes. Its broker lives on and is adopted.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time

from tests.faults.fault import BOTH, Context, Fault, Outcome
from tests.faults.fleet import GATEWAY, Driver, Fleet

FAULT = Fault(
    number=2,
    name="kill-gateway",
    title="kill -9 of the gateway around every log point",
    brokers=BOTH,
    full=100,
    small=2,
    unit="kills",
    round_max=20,
    round_s=75,
    bounds={"restart, s p99": 3.0},
)
SOONEST_S, LATEST_S = 50e-6, 0.25
SPIN_S = 0.0005  # before the moment: a sleeping thread is late by less than this
AGAIN = 0.2  # of kills come a second time, before the daemon is up again
BURST_MAX = 24


async def run(context: Context) -> Outcome:
    rng = context.rng
    burst_max = context.drawn["burst_max"] = rng.randint(1, BURST_MAX)
    run_s_max = context.drawn["run_s_max"] = round(rng.choice((0.0, 0.005, 0.03)), 3)
    restarts: list[float] = []
    kills = early = 0
    stop = asyncio.Event()
    async with Fleet(context, nodes=2, workers=2) as fleet:
        gateway = fleet.gateway
        own, other = fleet.driver(gateway), fleet.driver(fleet.members["n1"])
        driving = asyncio.create_task(
            other.steadily(0.1, lambda: rng.uniform(0, 0.2), stop, where=(GATEWAY, "any"))
        )
        try:
            while kills < context.count:
                offset_s = math.exp(rng.uniform(math.log(SOONEST_S), math.log(LATEST_S)))
                asking = _burst(own, rng.randint(1, burst_max), run_s_max)
                await asyncio.sleep(0)  # the drivers have written …
                await asyncio.sleep(0)  # … and the client's flush has left
                await _strike(fleet, offset_s)
                await asyncio.gather(*asking)
                kills += 1
                if kills < context.count and rng.random() < AGAIN:
                    striking = fleet.chore(_strike_when_up(fleet, rng.uniform(0.02, 0.9)), "strike again")
                    took_s = await fleet.up(gateway)
                    await striking
                    kills += 1
                    early += gateway.hurt
                if not gateway.alive:
                    took_s = await fleet.up(gateway)
                restarts.append(took_s)
                await asyncio.sleep(rng.uniform(0.0, 0.6))
        finally:
            stop.set()
            await driving
        await fleet.settled()
    return fleet.outcome(kills, {"killed again while starting": early}, {"restart, s": restarts})


def _burst(driver: Driver, count: int, run_s_max: float) -> list[asyncio.Task[str | None]]:
    rng = driver.fleet.context.rng
    return [
        asyncio.create_task(driver.work(rng.uniform(0, run_s_max), where=rng.choice(("any", "local", "n2"))))
        for _ in range(count)
    ]


async def _strike(fleet: Fleet, after_s: float) -> None:
    """SIGKILL to the gateway, that many seconds from now, to some tens of microseconds."""
    fleet.processes.remember()
    fleet.broker_record()
    gateway = fleet.gateway
    gateway.hurt = True
    handle = os.pidfd_open(gateway.pid)
    try:
        await asyncio.to_thread(_kill_at, handle, time.perf_counter() + after_s)
    finally:
        os.close(handle)
    assert gateway.process is not None
    await gateway.process.wait()


def _kill_at(handle: int, at_s: float) -> None:
    time.sleep(max(0.0, at_s - time.perf_counter() - SPIN_S))
    while time.perf_counter() < at_s:
        pass
    signal.pidfd_send_signal(handle, signal.SIGKILL)


async def _strike_when_up(fleet: Fleet, after_s: float) -> None:
    """At its new life, that many seconds after it began."""
    before = fleet.gateway.starts
    while fleet.gateway.starts == before:
        await asyncio.sleep(0.005)
    await _strike(fleet, after_s)
