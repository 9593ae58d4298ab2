"""Fault 14: every frame is said three times again in five contexts, and nothing has a second effect.

On its connection, after a reconnect, after a new handshake, to another peer, on another topic; real agents
over real TLS to a hostile broker.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from tests.faults.fault import Context, Fault, Outcome
from tests.faults.trials import Figures, tried
from tests.support.hostile_mesh import HostileMesh, lines, until
from tests.support.hostile_proxy import Frame, HostileBroker, direct, duplicate, only

FAULT = Fault(
    number=14,
    name="replay",
    title="every frame replayed three times in five contexts",
    brokers=(),
    full=10_000,
    small=1_000,
    unit="tasks",
    round_max=1_000,
    round_s=8,
)
NAMES = ["gateway", "pi-1", "pi-2"]


async def replayed_everywhere(scratch: Path, seed: int, count: int) -> Figures:
    """On its connection, after a reconnect, after a new handshake, to another peer, on another topic."""
    async with HostileMesh(scratch, NAMES) as mesh:
        await mesh.deploy()
        hostile, gateway = mesh.hostile, mesh.agents["gateway"]
        hostile.rules = [only(direct, duplicate(random.Random(seed), 1.0, times=4))]  # it and three replays
        file = await mesh.stamps(count, at=["pi-1", "pi-2"], in_flight=20)
        hostile.rules = []
        runs = sum(mesh.witness.started.values())
        assert set(lines(file)) == set(range(count))
        old = [frame for frame in hostile.taken if direct(frame)]
        assert sum(len(frame.payload) for frame in old) > 50 * count

        await replayed(hostile, old, "pi-1", "pi-2", "gateway")
        for frame in old:
            _, _, _, _, dst, src = frame.topic.split("/")
            third = next(name for name in NAMES if name not in (dst, src))
            hostile.replay(frame, topic=mesh.d(third, src), times=3)
            hostile.replay(frame, topic=mesh.d(dst, third), times=3)
        for name in NAMES:
            hostile.cut(name)
        await until(lambda: all(hostile.connects[name] >= 2 for name in NAMES))
        await until(lambda: gateway.detector.up() == ["pi-1", "pi-2"])
        await replayed(hostile, old, *NAMES)
        await mesh.stop("pi-1")
        await mesh.start("pi-1")  # knows nothing of what it heard in its former life
        await until(lambda: gateway.detector.up() == ["pi-1", "pi-2"])
        await replayed(hostile, old, *NAMES)
        refused = mesh.agents["gateway"].channels.violations.total()
        await mesh.stamps(20, at=["pi-1", "pi-2"])

        assert len(lines(file)) == runs, "nothing ran again"
        assert refused > len(old), "they did arrive"
        for agent in mesh.agents.values():
            agent.sessions.check()
        return mesh.promises_kept(count + 20) | {"frames replayed": len(old)}


async def replayed(hostile: HostileBroker, frames: list[Frame], *readers: str) -> None:
    """Three times each, in bites that the readers swallow."""
    for at in range(0, len(frames), 200):
        for frame in frames[at : at + 200]:
            hostile.replay(frame, times=3)
        await asyncio.sleep(0)
        await until(lambda: all(hostile.unsent(name) < 1_000_000 for name in readers))


async def run(context: Context) -> Outcome:
    return await tried(context, {replayed_everywhere: 1})
