"""Fault 20: a hostile broker drops, doubles, delays, reorders, alters, moves, forges; real agents over TLS.

The broker holds its genuine key (any member may host it), knows no access rules, and sees every frame. A
witness at each member notes which parcels it believed: each must have been sent by that peer, to that
member, and be believed once.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from edge_node.wire.topics import Direct, Group, Presence, RosterTopic, topic_for
from security.authority import Authority
from security.keystore import KeyStore
from security.roster import open_roster
from tests.faults.fault import Context, Fault, Outcome
from tests.faults.trials import Figures, tried
from tests.support.hostile_mesh import HostileMesh, lines, until
from tests.support.hostile_proxy import (
    Frame,
    Reorder,
    copied_to,
    cut_short,
    delay,
    direct,
    drop,
    duplicate,
    flip,
    only,
    relabel,
)

FAULT = Fault(
    number=20,
    name="hostile-broker",
    title="hostile broker: alters, moves, drops, doubles, delays, reorders, old rosters, false wills",
    brokers=(),
    full=10_000,
    small=400,
    unit="tasks",
    round_max=1_000,
    round_s=35,
)
NAMES = ["gateway", "pi-1", "pi-2"]


async def altered(scratch: Path, seed: int, count: int) -> Figures:
    """A changed byte anywhere, in control frames and acknowledgements too; also shorter and longer ones."""
    rng = random.Random(seed)
    rules = [
        only(direct, flip(rng, 0.2)),
        only(direct, flip(rng, 0.2, beside=True)),
        only(direct, cut_short(rng, 0.2)),
    ]
    async with HostileMesh(scratch, NAMES, rules=rules) as mesh:
        await mesh.deploy()
        await mesh.stamps(count, at=["pi-1", "pi-2"])

        assert mesh.violated > 20
        return mesh.promises_kept(count)


async def moved(scratch: Path, seed: int, count: int) -> Figures:
    """Every direct frame is also shown to everybody else, under every other name, before it arrives."""
    mesh = HostileMesh(scratch, NAMES)
    other = Authority.create(now_s=1_700_000_000, entropy=random.Random(seed).randbytes).mesh_id

    def elsewhere(frame: Frame) -> list[str]:
        _, _, _, _, dst, src = frame.topic.split("/")
        third = next(name for name in NAMES if name not in (dst, src))
        return [
            *(topic_for(Direct(mesh.mesh_id, to, by)) for to in NAMES for by in (*NAMES, "pi-9") if to != by),
            topic_for(Direct(mesh.mesh_id, dst, dst)),
            topic_for(Direct(other, dst, src)),
            topic_for(Presence(mesh.mesh_id, src)),
            topic_for(Presence(mesh.mesh_id, third)),
            topic_for(Group(mesh.mesh_id, "mesh", src)),
            topic_for(RosterTopic(mesh.mesh_id)),
            f"ew/2/{mesh.mesh_id}/d/{dst}/{src}",
        ]

    mesh.rules = [only(direct, copied_to(elsewhere))]
    async with mesh:
        await mesh.deploy()
        file = await mesh.stamps(count, at=["pi-1", "pi-2"])

        assert set(lines(file)) == set(range(count))
        assert mesh.violated > count
        assert {agent.roster.version for agent in mesh.agents.values()} == {1}
        return mesh.promises_kept(count)


async def everything_at_once(scratch: Path, seed: int, count: int) -> Figures:
    """Drops, doubles, delays, moves, alters, relabels, old rosters, wills: accepted is settled once."""
    rng = random.Random(seed)
    mesh = HostileMesh(scratch, NAMES)

    def anywhere(frame: Frame) -> list[str]:
        if rng.random() < 0.9:
            return []
        return [
            mesh.d(rng.choice(NAMES), rng.choice(NAMES)),
            topic_for(Presence(mesh.mesh_id, rng.choice(NAMES))),
        ]

    mesh.rules = [
        only(direct, copied_to(anywhere)),
        only(direct, flip(rng, 0.03)),
        only(direct, flip(rng, 0.1, beside=True)),
        only(direct, drop(rng, 0.1)),
        duplicate(rng, 0.1),
        relabel(rng, 0.1),
        only(direct, Reorder(rng, 64)),
        delay(rng, 0.05, 0.3),
    ]
    async with mesh:
        first = mesh.signed
        await mesh.deploy()
        mesh.sign()
        mesh.agents["gateway"].soon(
            lambda now, wall: mesh.agents["gateway"].adopt_roster(now, wall, mesh.signed)
        )
        mesh.agents["gateway"].extension.link_up()
        await until(lambda: all(agent.roster.version == 2 for agent in mesh.agents.values()))

        async def pester() -> None:
            while True:
                mesh.hostile.inject(topic_for(RosterTopic(mesh.mesh_id)), first, retain=rng.random() < 0.5)
                mesh.hostile.inject(topic_for(Presence(mesh.mesh_id, rng.choice(NAMES))), b"")
                await asyncio.sleep(0.05)

        pest = asyncio.create_task(pester())
        try:
            await mesh.stamps(count, at=["pi-1", "pi-2"])
        finally:
            pest.cancel()

        assert {agent.roster.version for agent in mesh.agents.values()} == {2}
        return mesh.promises_kept(count)


async def rolled_back(scratch: Path, seed: int, count: int) -> Figures:
    """Old, altered, another mesh's, a member's own: retained and live, before and after a restart."""
    rng = random.Random(seed)
    mesh = HostileMesh(scratch, NAMES)
    async with mesh:
        gateway, topic = mesh.agents["gateway"], topic_for(RosterTopic(mesh.mesh_id))
        first, second = mesh.signed, mesh.sign(["gateway", "pi-1"])
        gateway.soon(lambda now, wall: gateway.adopt_roster(now, wall, second))
        gateway.extension.link_up()
        await until(lambda: all(agent.roster.version == 2 for agent in mesh.agents.values()))
        bent = bytearray(second)
        bent[rng.randrange(len(bent) - 64, len(bent))] ^= 1 << rng.randrange(8)  # in its signature
        stranger = HostileMesh(scratch / "stranger", ["gateway", "pi-1"])
        stranger.sign(), stranger.sign(), stranger.sign()
        forged = [
            first,
            bytes(bent),
            second[: rng.randrange(1, len(second))],
            stranger.signed,
            b"\xd2\x84",
            b"",
        ]

        for payload in forged:
            mesh.hostile.inject(topic, payload, times=3)
        mesh.hostile.retained[topic] = Frame(topic, first, retain=True)
        mesh.hostile.withheld = lambda frame: frame.topic == topic
        await mesh.stop("pi-1")
        mesh.signed = KeyStore(mesh.home("pi-1").keys).roster()
        kept = open_roster(mesh.signed, root_spki_sha256=mesh.authority.root_spki_sha256)
        await mesh.start("pi-1")  # from its own disk it knows the second one; the broker shows the first
        await until(lambda: "pi-1" in gateway.detector.up())
        await mesh.agents["pi-1"].round_trip_s("gateway")

        assert kept.version == 2
        assert [mesh.agents[name].roster.version for name in ("gateway", "pi-1")] == [2, 2]
        assert mesh.agents["pi-1"].roster.current.listed("pi-2") is None
        assert not any(agent.stories["roster fork"] for agent in mesh.agents.values())
        return {"rosters forged": 3 * len(forged)}


async def false_wills(scratch: Path, seed: int, count: int) -> Figures:
    """Everybody is said to have died, a hundred times a second, while they work."""
    async with HostileMesh(scratch, NAMES) as mesh:
        await mesh.deploy()
        wills = [topic_for(Presence(mesh.mesh_id, name)) for name in [*NAMES, "pi-9"]]

        async def mourn() -> None:
            while True:
                for topic in wills:
                    mesh.hostile.inject(topic, b"", retain=True, times=5)
                await asyncio.sleep(0.02)

        mourning = asyncio.create_task(mourn())
        try:
            await mesh.stamps(count, at=["pi-1", "pi-2"])
        finally:
            mourning.cancel()
        await until(lambda: mesh.agents["gateway"].detector.up() == ["pi-1", "pi-2"])

        return mesh.promises_kept(count)


async def presence_bent(scratch: Path, seed: int, count: int) -> Figures:
    """Each beat and digest: changed, cut, under every other name, three times, and all again later."""
    rng = random.Random(seed)
    mesh = HostileMesh(scratch, NAMES)

    def presence(frame: Frame) -> bool:
        return "/p/" in frame.topic and bool(frame.payload)

    def elsewhere(frame: Frame) -> list[str]:
        return [topic_for(Presence(mesh.mesh_id, name)) for name in (*NAMES, "pi-9")] + [
            mesh.d(to, frame.topic.rsplit("/", 1)[1]) for to in NAMES
        ]

    mesh.rules = [
        only(presence, copied_to(elsewhere)),
        only(presence, flip(rng, 0.5, beside=True)),
        only(presence, cut_short(rng, 0.5)),
        only(presence, duplicate(rng, 1.0, times=4)),
    ]
    async with mesh:
        casts = [agent.presence.groupcast for agent in mesh.agents.values()]
        await until(lambda: sum(map(presence, mesh.hostile.taken)) >= count, within_s=10 + 2 * count)
        said = [frame for frame in mesh.hostile.taken if presence(frame)]
        for frame in said:
            mesh.hostile.replay(frame, times=3)
        await mesh.agents["pi-1"].round_trip_s("gateway")
        await mesh.agents["gateway"].round_trip_s("pi-2")

        assert b"pi-1" not in b"".join(frame.payload for frame in said)
        assert {me for me, _, _, _ in mesh.witness.followed} == set(NAMES), "the true ones were believed"
        assert all(cast.violations.total() > 0 for cast in casts)
        assert sum(cast.violations.total() + cast.stale for cast in casts) > 10 * len(NAMES)
        assert mesh.witness.violations() == []
        return {"presence frames": len(said)}


async def run(context: Context) -> Outcome:
    return await tried(
        context,
        {
            altered: 0.25,
            moved: 0.15,
            everything_at_once: 0.4,
            false_wills: 0.19,
            rolled_back: 0.001,
            presence_bent: 0.01,
        },
    )
