"""Fault 24: steady work for minutes, a fault every 30 seconds; memory and descriptors stay flat.

Faults by turns, in drawn order: a worker killed, node n1 killed and back, the broker killed, node n2 stopped
for eight seconds, two hundred connections to a control socket opened and dropped. The gateway, n3 and n4 are
never killed: theirs is the slope, by least squares over the samples of the second half; caches fill before.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter

from edge_node.client import Mesh
from gateway.broker.process import started_at
from security.errors import EdgeweaveError
from tests.faults.fault import BOTH, Context, Fault, Outcome
from tests.faults.fleet import GATEWAY, Fleet, resources, signal_to, slope, stopped

FAULT = Fault(
    number=24,
    name="soak",
    title="soak with a fault every 30 s",
    brokers=BOTH,
    full=40,
    small=2,
    unit="faults",
    round_max=20,
    round_s=640,
    bounds={"rss slope KiB/min": 256.0, "descriptor slope 1/min": 0.5},
)
BETWEEN_S, BRIEF_S = 30.0, 1.5
EVERY_S = 0.2
SAMPLE_S = 1.0
STOPPED_S = 8.0
DROPPED = 200
STEADY = (GATEWAY, "n3", "n4")
KINDS = ("worker", "node", "broker", "stop", "clients")


async def run(context: Context) -> Outcome:
    rng = context.rng
    between_s = BRIEF_S if context.brief else BETWEEN_S
    kinds = [kind for _ in range(-(-context.count // len(KINDS))) for kind in rng.sample(KINDS, len(KINDS))]
    done: Counter[str] = Counter()
    stop = asyncio.Event()
    async with Fleet(context, nodes=4) as fleet:
        drivers = [fleet.driver(fleet.members[name]) for name in STEADY]
        driving = [
            asyncio.create_task(
                driver.steadily(
                    EVERY_S * len(drivers),
                    lambda: rng.uniform(0.01, 0.2),
                    stop,
                    where=("any", "any", *fleet.members),
                )
            )
            for driver in drivers
        ]
        points: dict[str, list[tuple[float, int, int]]] = {name: [] for name in STEADY}
        sampling = asyncio.create_task(_sample(fleet, points))
        try:
            for kind in kinds[: context.count]:
                due = time.monotonic() + between_s
                await _fault(fleet, kind, STOPPED_S if between_s > STOPPED_S else between_s)
                done[kind] += 1
                await asyncio.sleep(max(0.0, due - time.monotonic()))
        finally:
            stop.set()
            await asyncio.gather(*driving)
            sampling.cancel()
        await fleet.settled()
    figures: dict[str, float | int | str] = {f"faults of {kind}": count for kind, count in done.items()}
    return fleet.outcome(sum(done.values()), figures | slopes(points))


def slopes(points: dict[str, list[tuple[float, int, int]]]) -> dict[str, float | int | str]:
    """Of the member whose memory, or descriptors, grew fastest; in a minute."""
    figures: dict[str, float | int | str] = {}
    rss, descriptors = [], []
    for name, samples in points.items():
        if not samples:
            continue
        length_s = samples[-1][0] - samples[0][0]
        late = [each for each in samples if each[0] >= samples[0][0] + length_s / 2]
        rss.append(60 * slope([(at, size) for at, size, _ in late]) / 1024)
        descriptors.append(60 * slope([(at, count) for at, _, count in late]))
        figures[f"rss slope {name} KiB/min"] = round(rss[-1], 1)
        figures[f"rss last {name} MiB"] = round(late[-1][1] / 2**20, 1)
        figures[f"descriptors last {name}"] = late[-1][2]
        figures["minutes"] = round(length_s / 60, 1)
    figures["rss slope KiB/min"] = round(max(rss, default=0.0), 1)
    figures["descriptor slope 1/min"] = round(max(descriptors, default=0.0), 2)
    return figures


async def _sample(fleet: Fleet, points: dict[str, list[tuple[float, int, int]]]) -> None:
    while True:
        for name, samples in points.items():
            here = resources(fleet.members[name].pid)
            if here is not None:
                samples.append((time.monotonic(), *here))
        await asyncio.sleep(SAMPLE_S)


async def _fault(fleet: Fleet, kind: str, stopped_s: float) -> None:
    rng = fleet.context.rng
    if kind == "worker":

        async def works() -> object:
            return fleet.running()

        await fleet.until("somebody works", works)
        for run in rng.sample(fleet.running(), min(1, len(fleet.running()))):
            started = started_at(run.pid)
            if started is not None:
                signal_to(run.pid, started, signal.SIGKILL)
    elif kind == "node":
        await fleet.kill(fleet.members["n1"])
        await asyncio.sleep(rng.uniform(0, stopped_s / 2))
        await fleet.up(fleet.members["n1"])
    elif kind == "broker":
        record = fleet.broker_record()
        if record is not None:
            signal_to(record.pid, record.started, signal.SIGKILL)
    elif kind == "stop":
        with stopped(fleet.members["n2"]):
            await asyncio.sleep(stopped_s)
    else:
        for _ in range(DROPPED):
            with contextlib.suppress(EdgeweaveError):
                async with Mesh.open(fleet.members["n3"].home):
                    pass
