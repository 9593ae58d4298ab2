"""Tables of four hosts: cut off from the broker singly and in pairs, all writing, equal afterwards.

Each daemon has a host of its own (a network namespace) and default ways of finding out that its link is dead:
no side sees a cable go. What the campaign holds against seconds (`make faults`), this holds against nothing
but the judge: cuts are short, and the wait for the same answer is generous.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.faults.fault import Context, context_of
from tests.faults.fleet import GATEWAY, Fleet
from tests.faults.tables import SHARED, STALL_S, Cut, Writers, alike, judge
from tests.support.links import MOSQUITTO
from tests.support.network import Network

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(240)]

HOSTS = [GATEWAY, "n1", "n2", "n3"]
CUT_S = 3.0
EVERY_S = 0.15


def context(tmp_path) -> Context:
    return context_of(6, "mosquitto" if MOSQUITTO else "embedded", tmp_path, 2, print)


async def test_cut_off_singly_and_in_pairs_all_write_on_and_are_equal_after_the_heal(tmp_path):
    cuts: list[Cut] = []
    with Network(HOSTS) as network:
        async with Fleet(context(tmp_path), nodes=3, network=network) as fleet:
            async with Writers(fleet, EVERY_S) as writers:
                for apart in (["n1"], ["n2", "n3"]):
                    await asyncio.sleep(0.5)
                    network.split(apart)
                    begun = time.monotonic()
                    await asyncio.sleep(CUT_S)
                    for writer in writers.each.values():
                        await writer.rest()
                    cuts.append(Cut(frozenset(HOSTS) - set(apart), begun, time.monotonic()))
                    network.heal()
                    _, pictures = await alike(fleet, STALL_S)
                    judged = judge(writers.notes, pictures, cuts)
                    assert judged.violations == []
                    for writer in writers.each.values():
                        writer.resting.set()
            _, pictures = await alike(fleet, STALL_S)
            judged = judge(writers.notes, pictures, cuts)

    assert judged.violations == []
    written = {
        note.at
        for note in writers.notes
        for cut in cuts
        if note.how == "ok" and cut.begun_s < note.asked_s < note.told_s < cut.ended_s
    }
    assert written == set(HOSTS), "everybody's writes were acknowledged in a cut, whoever was cut off"
    conflicts = pictures[GATEWAY].conflicts
    assert conflicts and {table for table, *_ in conflicts} == {SHARED}, "and both sides wrote the same cells"
