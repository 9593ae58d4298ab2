"""Fault 26: members are cut off from the broker, singly and in pairs, while all write replicated tables.

Every daemon has a host of its own (a network namespace). One node or two at a time lie on the wrong side of
the cut, in some cuts the gateway with the broker does; no side sees its link go. Everybody writes on, the
same cells and others. The figure is the time from the heal until all members answer the same, while nobody
writes any more: what was written in the cut is then at its judge.
"""

from __future__ import annotations

import asyncio
import time

from examples.hosts.network import Network, lacking
from tests.faults.fault import BOTH, Context, Fault, Lacking, Outcome
from tests.faults.fleet import GATEWAY, Fleet
from tests.faults.tables import STALL_S, Cut, Writers, alike, judge, whole

FAULT = Fault(
    number=26,
    name="tables-apart",
    title="members cut off from the broker singly and in pairs for 60 s, all writing tables",
    brokers=BOTH,
    full=20,
    small=0,
    unit="cuts",
    round_max=1,
    round_s=95,
    bounds={"all equal after the heal, s p99": 5.0},
)
CUT_S, BRIEF_S = 60.0, 4.0
EVERY_S = 0.5
NODES = 4
GATEWAY_SHARE = 0.15


async def run(context: Context) -> Outcome:
    if reason := lacking():
        raise Lacking(reason)
    rng = context.rng
    seconds = context.drawn["seconds"] = BRIEF_S if context.brief else CUT_S
    hosts = [GATEWAY, *(f"n{number}" for number in range(1, NODES + 1))]
    cuts: list[Cut] = []
    converged: list[float] = []
    violations: list[str] = []
    with Network(hosts) as network:
        async with Fleet(context, nodes=NODES, network=network) as fleet:
            async with Writers(fleet, EVERY_S) as writers:
                for number in range(context.count):
                    if rng.random() < GATEWAY_SHARE:
                        apart = [GATEWAY]
                    else:
                        apart = rng.sample(hosts[1:], 1 if (context.seed + number) % 2 else 2)
                    context.drawn[f"cut {number}"] = " ".join(apart)
                    await asyncio.sleep(1.0)
                    network.split(apart)
                    begun = time.monotonic()
                    await asyncio.sleep(seconds)
                    for writer in writers.each.values():
                        await writer.rest()
                    ended = time.monotonic()
                    network.heal()
                    reach = frozenset(apart) if GATEWAY in apart else frozenset(hosts) - set(apart)
                    cuts.append(Cut(reach, begun, ended))
                    took_s, pictures = await alike(fleet, STALL_S)
                    converged.append(took_s)
                    violations += judge(writers.notes, pictures, cuts).violations
                    for writer in writers.each.values():
                        writer.resting.set()
            await fleet.settled(1.0)
            _, pictures = await alike(fleet, STALL_S)
            judged = judge(writers.notes, pictures, cuts)
    judged.violations = list(dict.fromkeys(violations + judged.violations))
    return whole(fleet.outcome(len(cuts), {}, {"all equal after the heal, s": converged}), judged)
