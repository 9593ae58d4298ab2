"""Fault 26: clocks are set, by minutes, hours and years, while all members write replicated tables.

A member's clock is stepped under its running daemon, sometimes while it is dead, sometimes the gateway's,
which the others trust. In the end every clock is right again, all answer the same, what was acknowledged is
there, and a write by somebody whose clock had been ahead hides none that was made later.
"""

from __future__ import annotations

import asyncio
import json

from edge_node.client import Mesh
from tests.faults.clocks import Clocks
from tests.faults.fault import BOTH, Context, Fault, Outcome
from tests.faults.fleet import Fleet, Member
from tests.faults.tables import STALL_S, Writers, alike, judge, whole

FAULT = Fault(
    number=26,
    name="tables-clocks",
    title="clocks stepped by minutes, hours and years, all writing tables",
    brokers=BOTH,
    full=60,
    small=0,
    unit="steps",
    round_max=6,
    round_s=80,
)
HOUR_S = 3600
YEAR_S = 365 * 24 * HOUR_S
STEPS_S = (HOUR_S, -HOUR_S, -300, 90, 10 * YEAR_S, -10 * YEAR_S)
GATEWAY_STEPS_S = (600, -300)
"""It issues certificates by its clock, and the broker judges them by that: years are another fault's."""
GATEWAY_SHARE = 0.2
EVERY_S = 0.4
WRONG_S = 7.0
"""A trusted clock is looked at every 5 s."""


async def run(context: Context) -> Outcome:
    rng = context.rng
    clocks = Clocks(context.scratch)
    try:
        async with Fleet(context, nodes=4, prefix=clocks.prefix) as fleet:
            async with Writers(fleet, EVERY_S) as writers:
                await asyncio.sleep(2.0)
                for number in range(context.count):
                    is_gateway = rng.random() < GATEWAY_SHARE
                    member = fleet.gateway if is_gateway else rng.choice(fleet.nodes)
                    step_s = rng.choice(GATEWAY_STEPS_S if is_gateway else STEPS_S)
                    dead = rng.random() < 0.3
                    context.drawn[f"step {number}"] = f"{member.name} {step_s:+d} s{' dead' if dead else ''}"
                    if dead:
                        await fleet.kill(member)
                        member.ready = {}
                    clocks.set(member.name, step_s)
                    if dead:
                        await fleet.up(member)
                    await asyncio.sleep(rng.uniform(0.5, WRONG_S))
                    if rng.random() < 0.5:
                        clocks.set(member.name, 0)
                for name in fleet.members:
                    clocks.set(name, 0)
                await asyncio.sleep(WRONG_S)
            await fleet.settled(1.0)
            took_s, pictures = await alike(fleet, STALL_S)
            judged = judge(writers.notes, pictures)
            judged.violations += await _later_counts(fleet)
            judged.figures["stamped again"] = await _noted(fleet, "stamped again")
            judged.figures["batches that waited"] = await _noted(fleet, "batch waits")
    finally:
        clocks.sweep()
    return whole(fleet.outcome(context.count, {}, {"all equal after the steps, s": [took_s]}), judged)


async def _noted(fleet: Fleet, what: str) -> int:
    """How often that befell the tables of the lives that run now."""
    total = 0
    for member in fleet.members.values():
        status = await fleet.status(member, wait_s=10.0)
        total += 0 if status is None else int(status["state"]["counts"].get(what, 0))
    return total


async def _later_counts(fleet: Fleet) -> list[str]:
    """Now that all clocks are right, each member's write replaces whatever was there, and is seen by all."""
    found = []
    for member in fleet.members.values():
        value = await _written(member)
        _, pictures = await alike(fleet, STALL_S)
        for name, picture in pictures.items():
            there = picture.documents["shared"]["s0"].get("a") if picture is not None else None
            if there != value:
                found.append(f"P3: {member.name} wrote {value!r} last, and {name} answers {there!r}")
    return found


async def _written(member: Member) -> str:
    value = f"{member.name}.last:1"
    async with Mesh.open(member.home) as mesh:
        document = json.dumps({"id": "s0", "a": value})
        await mesh.call("state.upsert", {"table": "shared", "document": document})
    return value
