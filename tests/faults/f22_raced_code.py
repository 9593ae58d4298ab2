"""Fault 22: one join code, raced by fifty homes over real TLS, makes exactly one certificate."""

from __future__ import annotations

import asyncio
from pathlib import Path

from edge_node import joining
from edge_node.joining import join
from security.errors import Refused, Unavailable
from security.keystore import KeyStore
from tests.faults.fault import Context, Fault, Outcome
from tests.faults.trials import Figures, tried
from tests.support.joined_gateway import GatewayHouse

FAULT = Fault(
    number=22,
    name="raced-code",
    title="a join code raced by 50 nodes",
    brokers=(),
    full=50,
    small=4,
    unit="races",
    round_max=5,
    round_s=5,
)
HOMES = 50


async def raced(scratch: Path, seed: int, count: int) -> Figures:
    """*count* codes, each raced by 50 homes: one certificate, one member, one home that has joined."""
    for race in range(count):
        async with GatewayHouse(scratch / f"gateway-{race}").open() as gateway:
            code = await gateway.invite()
            outcomes = await asyncio.gather(
                *(
                    join(code, scratch / f"{race}-{n}", name=f"n{n}", mdns="none", timeout_s=30)
                    for n in range(HOMES)
                ),
                return_exceptions=True,
            )
            winners = [outcome for outcome in outcomes if isinstance(outcome, joining.Joined)]
            held = [KeyStore(scratch / f"{race}-{n}" / "keys").identity() for n in range(HOMES)]

            assert {type(o) for o in outcomes if o not in winners} <= {Refused, Unavailable}, outcomes
            assert gateway.issued == [won.node_id for won in winners]
            assert len(gateway.keeper.current.members) == 1 + len(winners)
            assert (len(winners), sum(one is not None for one in held)) == (1, 1)
    return {}


async def run(context: Context) -> Outcome:
    return await tried(context, {raced: 1})
