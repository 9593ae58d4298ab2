"""Fault 26: a member's tables come back from an old copy of its disk, and everybody writes on.

Its daemon is killed, its `state.db` replaced by a copy from before, with the note of how far it had come or
without it (an old backup has its own). What it wrote since then is at the others, and comes back; what it
writes before that must not be taken for what it had written already. In some rounds the whole file is gone.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from tests.faults.fault import BOTH, Context, Fault, Outcome
from tests.faults.fleet import Fleet, Member
from tests.faults.tables import STALL_S, Writers, alike, judge, whole

FAULT = Fault(
    number=26,
    name="tables-restored",
    title="tables restored from an old disk, or gone, all writing",
    brokers=BOTH,
    full=20,
    small=0,
    unit="restores",
    round_max=3,
    round_s=80,
)
EVERY_S = 0.3
WRITE_S = 4.0


async def run(context: Context) -> Outcome:
    rng = context.rng
    restored = 0
    violations: list[str] = []
    async with Fleet(context, nodes=3) as fleet:
        async with Writers(fleet, EVERY_S) as writers:
            while restored < context.count:
                victim = rng.choice(list(fleet.members.values()))
                how = rng.choice(("old file, new mark", "old file, old mark", "gone"))
                context.drawn[f"restore {restored}"] = f"{victim.name}: {how}"
                await asyncio.sleep(rng.uniform(1.0, WRITE_S))
                copy = context.scratch / f"copy-{restored}"
                await fleet.kill(victim)
                victim.ready = {}
                if how != "gone":
                    _copied(victim, copy)
                await fleet.up(victim)
                await asyncio.sleep(rng.uniform(1.0, WRITE_S))
                # What only this disk has would be lost with it, and nothing could be held against anybody.
                for writer in writers.each.values():
                    await writer.rest()
                _, pictures = await alike(fleet, STALL_S)
                violations += judge(writers.notes, pictures, rivals_of_one=True).violations
                for writer in writers.each.values():
                    if writer.member is not victim:
                        writer.resting.set()
                await fleet.kill(victim)
                victim.ready = {}
                for file in _files(victim):
                    if how == "gone" or file.suffix != ".db-mark" or how == "old file, old mark":
                        file.unlink()
                for file in copy.glob("state.db*"):
                    if not (victim.home / file.name).exists():
                        shutil.copy2(file, victim.home / file.name)
                writers.each[victim.name].resting.set()
                await fleet.up(victim)
                restored += 1
            await asyncio.sleep(WRITE_S)
        await fleet.settled(1.0)
        took_s, pictures = await alike(fleet, STALL_S)
        judged = judge(writers.notes, pictures, rivals_of_one=True)
    judged.violations = list(dict.fromkeys(violations + judged.violations))
    return whole(fleet.outcome(restored, {}, {"all equal after the restore, s": [took_s]}), judged)


def _files(member: Member) -> list[Path]:
    return sorted(member.home.glob("state.db*"))


def _copied(member: Member, to: Path) -> None:
    to.mkdir()
    for file in _files(member):
        shutil.copy2(file, to / file.name)
