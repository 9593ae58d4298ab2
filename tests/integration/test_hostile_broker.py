"""What a hostile broker cannot do: real agents over real TLS to a broker that drops, doubles, moves, forges.

The broker holds its genuine key (any member may host it), knows no access rules, and sees every frame. A
witness at each member notes which parcels it believed: each must have been sent by that peer, to that
member, and be believed once. `make campaign` runs the same tests larger.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from edge_node.wire.topics import Direct, Group, Presence, RosterTopic, topic_for
from security.authority import Authority
from tests.support.hostile_mesh import HostileMesh
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
from tests.support.scale import CAMPAIGN, scaled, tell

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600 if CAMPAIGN else 120)]

NAMES = ["gateway", "pi-1", "pi-2"]


def lines(file) -> list[int]:
    return sorted(map(int, file.read_text().split()))


async def until(what, *, within_s: float = 30) -> None:
    async with asyncio.timeout(within_s):
        while not what():
            await asyncio.sleep(0.01)


def violated(mesh: HostileMesh) -> int:
    return sum(agent.channels.violations.total() for agent in mesh.agents.values())


async def test_a_hostile_broker_cannot_read_code_arguments_prints_or_results(tmp_path):
    async with HostileMesh(tmp_path, NAMES) as mesh:
        await mesh.deploy()
        async with mesh.asking() as client:
            said = await client.run("plant.keep", "the-argument-is-a-secret", where="pi-1")
            large = await client.run("plant.keep", "the-argument-is-a-secret" * 20_000, where="pi-2")
        assert said == "the-result-is-a-secret:the-argument-is-a-secret"
        assert len(large) > 400_000
        captured = b"\0".join(frame.topic.encode() + b"\0" + frame.payload for frame in mesh.hostile.taken)

    assert len(captured) > 900_000, "both large bodies crossed it"
    for secret in (b"is-a-secret", b"plant", b"stamp", b"secret_argument_name", b"import os"):
        assert secret not in captured


async def test_a_hostile_broker_cannot_alter_a_message(tmp_path):
    """A changed byte anywhere, in control frames and acknowledgements too; also shorter and longer ones."""
    rng = random.Random(20)
    count = scaled(300, campaign=3_000)
    rules = [
        only(direct, flip(rng, 0.2)),
        only(direct, flip(rng, 0.2, beside=True)),
        only(direct, cut_short(rng, 0.2)),
    ]
    async with HostileMesh(tmp_path, NAMES, rules=rules) as mesh:
        await mesh.deploy()
        await mesh.stamps(count, at=["pi-1", "pi-2"])

        assert violated(mesh) > 20
        assert mesh.settled("gateway") == (count, count, count)
        tell(20, "tasks while one frame in five is altered", count, violations=len(mesh.witness.violations()))


async def test_a_hostile_broker_cannot_move_a_message_to_another_topic_or_peer(tmp_path):
    """Every direct frame is also shown to everybody else, under every other name, before it arrives."""
    mesh = HostileMesh(tmp_path, NAMES)
    other = Authority.create(now_s=1_700_000_000, entropy=random.Random(1).randbytes).mesh_id

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

    count = scaled(150, campaign=1_500)
    mesh.rules = [only(direct, copied_to(elsewhere))]
    async with mesh:
        await mesh.deploy()
        file = await mesh.stamps(count, at=["pi-1", "pi-2"])

        assert set(lines(file)) == set(range(count))
        assert violated(mesh) > count
        assert mesh.settled("gateway") == (count, count, count)
        assert {agent.roster.version for agent in mesh.agents.values()} == {1}
        tell(20, "tasks whose every frame was moved", count, violations=len(mesh.witness.violations()))


async def test_a_message_replayed_three_times_in_five_contexts_has_no_second_effect(tmp_path):
    """On its connection, after a reconnect, after a new handshake, to another peer, on another topic."""
    count = scaled(1_000, campaign=10_000)
    async with HostileMesh(tmp_path, NAMES) as mesh:
        await mesh.deploy()
        hostile, gateway = mesh.hostile, mesh.agents["gateway"]
        hostile.rules = [only(direct, duplicate(random.Random(14), 1.0, times=4))]  # it and three replays
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
        assert mesh.settled("gateway") == (count + 20,) * 3
        for agent in mesh.agents.values():
            agent.sessions.check()
        tell(
            14,
            "tasks, every frame replayed x3 in 5 contexts",
            count,
            violations=len(mesh.witness.violations()),
        )


async def replayed(hostile, frames, *readers) -> None:
    """Three times each, in bites that the readers swallow."""
    for at in range(0, len(frames), 200):
        for frame in frames[at : at + 200]:
            hostile.replay(frame, times=3)
        await asyncio.sleep(0)
        await until(lambda: all(hostile.unsent(name) < 1_000_000 for name in readers))


async def test_a_broker_that_does_everything_at_once_costs_time_and_nothing_else(tmp_path):
    """Drops, doubles, delays, moves, alters, relabels, old rosters, wills: accepted is settled once."""
    rng = random.Random(2020)
    count = scaled(1_000, campaign=10_000)
    mesh = HostileMesh(tmp_path, NAMES)

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

        assert mesh.settled("gateway") == (count, count, count)
        assert {agent.roster.version for agent in mesh.agents.values()} == {2}
        tell(20, "tasks under everything at once", count, violations=len(mesh.witness.violations()))


async def test_a_hostile_broker_cannot_roll_the_roster_back_or_forge_one(tmp_path):
    """Old, altered, another mesh's, a member's own: retained and live, before and after a restart."""
    mesh = HostileMesh(tmp_path, NAMES)
    async with mesh:
        gateway, topic = mesh.agents["gateway"], topic_for(RosterTopic(mesh.mesh_id))
        first, second = mesh.signed, mesh.sign(["gateway", "pi-1"])
        gateway.soon(lambda now, wall: gateway.adopt_roster(now, wall, second))
        gateway.extension.link_up()
        await until(lambda: all(agent.roster.version == 2 for agent in mesh.agents.values()))
        bent = bytearray(second)
        bent[len(bent) // 2] ^= 1
        stranger = HostileMesh(tmp_path / "stranger", ["gateway", "pi-1"])
        stranger.sign(), stranger.sign(), stranger.sign()
        forged = [first, bytes(bent), second[:-1], stranger.signed, b"\xd2\x84", b""]

        for payload in forged:
            mesh.hostile.inject(topic, payload, times=3)
        mesh.hostile.retained[topic] = Frame(topic, first, retain=True)
        mesh.hostile.withheld = lambda frame: frame.topic == topic
        await mesh.stop("pi-1")
        mesh.signed, kept = first, KeptRoster(mesh, "pi-1")
        await mesh.start("pi-1")  # from its own disk it knows the second one; the broker shows the first
        await until(lambda: "pi-1" in gateway.detector.up())
        await mesh.agents["pi-1"].round_trip_s("gateway")

        assert kept.version == 2
        assert [mesh.agents[name].roster.version for name in ("gateway", "pi-1")] == [2, 2]
        assert mesh.agents["pi-1"].roster.current.listed("pi-2") is None
        assert not any(agent.stories["roster fork"] for agent in mesh.agents.values())


class KeptRoster:
    """The highest roster that a member has on its disk is the one that its next life begins with."""

    def __init__(self, mesh: HostileMesh, name: str) -> None:
        from security.keystore import KeyStore
        from security.roster import open_roster

        signed = KeyStore(mesh.home(name).keys).roster()
        self.version = open_roster(signed, root_spki_sha256=mesh.authority.root_spki_sha256).version
        mesh.signed = signed


async def test_forged_last_wills_take_nobody_out_of_the_mesh(tmp_path):
    count = scaled(400, campaign=4_000)
    async with HostileMesh(tmp_path, NAMES) as mesh:
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

        assert mesh.settled("gateway") == (count, count, count)
        assert mesh.witness.violations() == []


async def test_a_hostile_broker_cannot_alter_move_or_repeat_presence(tmp_path):
    """Each beat and digest: changed, cut, under every other name, three times, and all again later."""
    rng = random.Random(9)
    mesh = HostileMesh(tmp_path, NAMES)

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
    count = scaled(5, campaign=100)
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
        tell(20, "presence frames", len(said), violations=len(mesh.witness.violations()))


# ── a stolen node, with a broker that lets it do anything ─────────────────────────────────────────────


async def test_a_stolen_node_cannot_impersonate_others_even_if_the_broker_lets_it(tmp_path):
    """It reads `#`, takes their client ids, and says in their name what it has: parcels, handshakes."""
    count = scaled(200, campaign=2_000)
    async with HostileMesh(tmp_path, NAMES) as mesh:
        await mesh.deploy()
        gateway, heard = mesh.agents["gateway"], []
        async with mesh.thief("pi-2", "spy") as spy:
            await spy.subscribe("#", 1)
            work = asyncio.create_task(mesh.stamps(count, at=["pi-1", "pi-2"], in_flight=4))
            async with asyncio.timeout(20):
                async for message in spy.messages:
                    heard.append(message)
                    if len(heard) >= 60:
                        break
            for message in heard:
                for topic in ("gateway", "pi-1"), ("pi-1", "gateway"), ("gateway", "pi-2"), ("pi-1", "pi-2"):
                    await spy.publish(mesh.d(*topic), message.payload, 0)
        mine = [frame for frame in mesh.hostile.taken if frame.topic.endswith("/pi-2") and direct(frame)]
        for frame in mine:  # its own genuine parcels and handshakes, under another name
            mesh.hostile.replay(frame, topic=mesh.d("gateway", "pi-1"))
            mesh.hostile.replay(frame, topic=mesh.d("pi-1", "gateway"))
        for victim in ("pi-1", "gateway"):
            before = mesh.hostile.connects[victim]
            await mesh.take_over("pi-2", victim, say=[(mesh.d("gateway", "pi-1"), mine[0].payload)])
            await until(lambda b=before, v=victim: mesh.hostile.connects[v] > b + 1)
        file = await work
        await until(lambda: gateway.detector.up() == ["pi-1", "pi-2"])

        assert len(mine) > 10
        assert set(lines(file)) == set(range(count))
        assert mesh.settled("gateway") == (count, count, count)
        tell(
            19,
            "tasks beside a take-over of every client id",
            count,
            violations=len(mesh.witness.violations()),
        )


async def test_a_revoked_node_is_believed_by_nobody_though_the_broker_keeps_it(tmp_path):
    """Its session, its new handshakes, its restart, the old roster shown: its peers have the new one."""
    async with HostileMesh(tmp_path, NAMES) as mesh:
        await mesh.deploy()
        await mesh.stamps(10, by="pi-2", at=["gateway", "pi-1"])
        gateway, peer, stolen = (mesh.agents[name] for name in NAMES)
        topic, first = topic_for(RosterTopic(mesh.mesh_id)), mesh.signed
        second = mesh.sign(["gateway", "pi-1"])
        mesh.hostile.withheld = lambda frame: frame.topic == topic  # the thief shall not learn of it
        for agent in (gateway, peer):
            agent.soon(lambda now, wall, a=agent: a.adopt_roster(now, wall, second))
        await until(lambda: [gateway.roster.version, peer.roster.version] == [2, 2])
        before = sum(times for (_, _, src, _), times in mesh.witness.believed.items() if src == "pi-2")

        mesh.hostile.inject(topic, first, retain=True, times=3)
        with pytest.raises(TimeoutError):
            await stolen.round_trip_s("gateway", timeout_s=0.5)
        mesh.signed = first
        await mesh.stop("pi-2")
        stolen = await mesh.start("pi-2")
        sent = len(mesh.hostile.taken)
        for name in ("gateway", "pi-1"):
            stolen.soon(lambda now, _, to=name: stolen.channels.connect(now, to))
            with pytest.raises(TimeoutError):
                await stolen.round_trip_s(name, timeout_s=1.0)
        await peer.round_trip_s("gateway")

        tried = [frame for frame in mesh.hostile.taken[sent:] if frame.by == "pi-2" and direct(frame)]
        after = sum(times for (_, _, src, _), times in mesh.witness.believed.items() if src == "pi-2")
        assert tried, "it was let in by the broker and tried"
        assert (gateway.detector.up(), peer.detector.up()) == (["pi-1"], ["gateway"])
        assert not gateway.channels.has("pi-2") and not peer.channels.has("pi-2")
        tell(18, "frames of a revoked node", len(tried), violations=after - before)


async def test_a_stolen_node_cannot_read_its_past_sessions(tmp_path):
    """Whoever has its disk, and every frame that it ever got or sent, opens none of them."""
    from edge_node.wire.codec import direct_context
    from security.envelope import is_parcel
    from security.errors import ProtocolViolation
    from security.session import FrameReceived, Sessions, Wanted

    async with HostileMesh(tmp_path, NAMES) as mesh:
        await mesh.deploy()
        await mesh.stamps(20, at=["pi-1"])
        public = {name: keys.x25519_public for name, keys in mesh.keys.items()}
        stolen = mesh.keys["pi-1"].static_private_bytes
        past = [frame for frame in mesh.hostile.taken if frame.topic.startswith(mesh.d("pi-1", "")[:-1])]
        past += [frame for frame in mesh.hostile.taken if frame.topic == mesh.d("gateway", "pi-1")]
    rng = random.Random(5)
    later = Sessions(
        me="pi-1", mesh_id=mesh.mesh_id, boot_id=bytes(8), static=[stolen],
        keys_of=lambda peer: (public[peer],), context=direct_context(mesh.mesh_id), entropy=rng.randbytes,
        roster_version=lambda: 1, wall_ms=lambda: 0,
    )  # fmt: skip
    opened, parcels = 0, 0
    later.handle(0, Wanted("gateway"))
    for n, frame in enumerate(past):
        src = frame.topic.rsplit("/", 1)[1]
        for peer in {src, "gateway"}:
            if not is_parcel(frame.payload):
                later.handle(n * 2_000_000_000, FrameReceived(peer, frame.payload))
                continue
            parcels += 1
            try:
                later.open(n * 2_000_000_000, peer, frame.payload)
                opened += 1
            except ProtocolViolation:
                continue

    assert parcels >= 20
    assert opened == 0
