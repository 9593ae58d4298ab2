"""Fault 26: kill -9 of members, one after another, while all of them write replicated tables.

Every member's client has three writes under way: documents of its own, documents that everybody writes,
counters, a set. Members, the gateway among them, are killed and come back; in the end all answer the same,
and what was acknowledged is there.
"""

from __future__ import annotations

import asyncio

from tests.faults.fault import BOTH, Context, Fault, Outcome
from tests.faults.fleet import Fleet, Member
from tests.faults.tables import STALL_S, Writers, alike, judge, whole

FAULT = Fault(
    number=26,
    name="tables-killed",
    title="kill -9 of members that write replicated tables",
    brokers=BOTH,
    full=100,
    small=4,
    unit="kills",
    round_max=20,
    round_s=60,
    bounds={"all equal after the last start, s p99": 10.0},
)
DOWN_MAX = 2
DOWN_S_MAX = 1.5
EVERY_S = 0.12


async def run(context: Context) -> Outcome:
    rng = context.rng
    nodes = context.drawn["nodes"] = 3 if context.brief else 4
    killed = 0
    async with Fleet(context, nodes=nodes) as fleet:
        async with Writers(fleet, EVERY_S) as writers:
            while killed < context.count:
                await asyncio.sleep(rng.uniform(0.2, 1.0))
                alive = [member for member in fleet.members.values() if member.alive and member.ready]
                if len(fleet.members) - len(alive) < DOWN_MAX:
                    victim = rng.choice(alive)
                    await fleet.kill(victim)
                    fleet.chore(_back(fleet, victim, rng.uniform(0, DOWN_S_MAX)), f"{victim.name} comes back")
                    killed += 1
            await asyncio.sleep(1.0)
        await fleet.settled(1.0)
        took_s, pictures = await alike(fleet, STALL_S)
        judged = judge(writers.notes, pictures)
    return whole(
        fleet.outcome(killed, {}, {"all equal after the last start, s": [took_s]}),
        judged,
    )


async def _back(fleet: Fleet, member: Member, after_s: float) -> None:
    member.ready = {}
    await asyncio.sleep(after_s)
    await fleet.up(member)
