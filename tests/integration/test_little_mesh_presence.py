"""Who is there, between real agents: beats under the group's key, new lives, removal, a broker that moved."""

from __future__ import annotations

import asyncio
import time

import pytest

from edge_node.client import Mesh
from edge_node.discovery.sightings import Seen, Sighting
from edge_node.membership.abilities import own_version
from edge_node.membership.detector import Down, Quiet
from edge_node.transport.blobs import Tell
from edge_node.transport.memory import MemoryLink
from edge_node.wire.messages import BlobChunk, BlobWanted
from edge_node.wire.topics import Presence
from tests.support.little_mesh import LittleMesh

pytestmark = pytest.mark.slow


async def until(holds, *, within_s: float = 15.0):
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.01)


def up_of(little: LittleMesh, name: str) -> list[str]:
    return little.agents[name].detector.up()


async def test_three_members_hear_each_other_by_frames_that_no_broker_can_read(tmp_path):
    said: dict[str, list[bytes]] = {}
    little = LittleMesh(tmp_path, ["gateway", "pi-1", "pi-2"])
    little.broker.lose = lambda client, topic, payload: (
        bool(said.setdefault(topic, []).append(payload)) if "/p/" in topic else False
    )
    async with little:
        await until(lambda: all(len(up_of(little, name)) == 2 for name in little.names))
        pi = little.agents["pi-1"]

        assert not pi.channels.has("pi-2"), "no session was needed to hear it"
        status = pi.status()
        assert status["following"] == ["pi-2"] and status["group"]["epoch"] >= 1
        assert status["peers"] == {"gateway": "up", "pi-2": "up"}
        assert all(agent.presence.groupcast.violations == {} for agent in little.agents.values())
    frames = [payload for payloads in said.values() for payload in payloads if payload]
    assert frames and all(frame.startswith(bytes.fromhex("d08344a1011818a30448")) for frame in frames)


async def test_a_restarted_member_is_up_again_at_once_in_a_higher_life(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1", "pi-2"]) as little:
        await until(lambda: all(len(up_of(little, name)) == 2 for name in little.names))
        first = little.agents["pi-2"].status()["incarnation"]
        first_boot = little.agents["pi-2"].boot_id
        await little.stop("pi-2")
        await little.start("pi-2")

        second = little.agents["pi-2"]
        assert second.status()["incarnation"] > first
        await until(
            lambda: all(
                little.agents[name].detector.is_up("pi-2")
                and little.agents[name].detector.life_of("pi-2")[2] == second.boot_id != first_boot
                for name in ("gateway", "pi-1")
            ),
            within_s=8,
        )
        assert second.presence.groupcast.current is not None


async def test_a_life_seen_by_a_beat_alone_renews_the_session(tmp_path):
    """Two nodes with a session; one is born again and has no reason to speak to the other."""
    async with LittleMesh(tmp_path, ["gateway", "pi-1", "pi-2"]) as little:
        pi = little.agents["pi-1"]
        pi.soon(lambda now_ns, wall_ms: pi.channels.connect(now_ns, "pi-2"))
        await until(lambda: pi.channels.has("pi-2"))
        await little.stop("pi-2")
        reborn = await little.start("pi-2")

        await until(lambda: pi.channels.life_of("pi-2") == reborn.boot_id)


async def test_a_removed_member_is_down_for_all_and_the_epoch_moves_on(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1", "pi-2"]) as little:
        await until(lambda: all(len(up_of(little, name)) == 2 for name in little.names))
        gateway, pi = little.agents["gateway"], little.agents["pi-1"]
        before = pi.presence.groupcast.current.number
        signed = little.sign(["gateway", "pi-1"])
        gateway.soon(lambda now_ns, wall_ms: gateway.adopt_roster(now_ns, wall_ms, signed))

        gateway.link.send(0, f"ew/1/{little.mesh_id}/roster", signed, retain=True)
        await until(lambda: pi.presence.groupcast.current.number > before)
        assert up_of(little, "pi-1") == ["gateway"] and up_of(little, "gateway") == ["pi-1"]
        assert little.agents["pi-2"].presence.groupcast.current.number == before, "it is told no more"
        assert pi.status()["following"] == []


async def test_keys_survive_a_restart_without_a_gateway(tmp_path):
    """Who held the epoch reads and is read again, with nobody there to hand it out."""
    async with LittleMesh(tmp_path, ["gateway", "pi-1", "pi-2"]) as little:
        await until(lambda: all(len(up_of(little, name)) == 2 for name in little.names))
        await little.stop("gateway")
        await little.stop("pi-2")
        await little.start("pi-2")

        await until(lambda: little.agents["pi-2"].detector.is_up("pi-1"))
        await until(
            lambda: little.agents["pi-1"].detector.life_of("pi-2")[2] == little.agents["pi-2"].boot_id
        )


async def test_a_disk_that_counts_no_start_keeps_nobody_away(tmp_path):
    little = LittleMesh(tmp_path, ["gateway", "pi-1"])
    (little.home("pi-1").keys / ".incarnation.new").mkdir(
        mode=0o700, parents=True
    )  # what a write begins with
    async with little:
        await until(lambda: little.agents["gateway"].detector.life_of("pi-1") is not None)
        incarnation, _, boot_id = little.agents["gateway"].detector.life_of("pi-1")

        assert boot_id == little.agents["pi-1"].boot_id
        assert incarnation == little.agents["pi-1"].started_ms // 1000


async def test_a_loop_that_stood_still_buries_nobody(tmp_path):
    """As if SIGSTOP had come in the middle of a suspicion, and stayed for longer than a verdict takes."""
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]) as little:
        gateway = little.agents["gateway"]
        told: list[tuple[str, bool]] = []
        gateway.extension.peer_changed = lambda peer, up, reason: told.append((peer, up))
        away = Presence(little.mesh_id, "pi-1")

        def stand_still(now_ns: int, wall_ms: int) -> None:
            gateway._judged(now_ns, wall_ms, gateway.presence.delivered(now_ns, wall_ms, away, b""))
            assert gateway.detector.states()["pi-1"] == "suspect"
            time.sleep(4.5)
            stood.set()

        stood = asyncio.Event()
        gateway.soon(stand_still)
        await stood.wait()
        await until(lambda: gateway.detector.states()["pi-1"] == "up")

        assert told == [] and up_of(little, "pi-1") == ["gateway"]


async def test_members_tell_what_they_are_and_what_they_lack(tmp_path):
    source = (
        "from edge_node.functions import function\n"
        '@function(requires=["json", "no_such_module_here"])\n'
        "def odd(n: int) -> int:\n    return n\n"
    )
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]) as little, Mesh.open(tmp_path / "gateway") as mesh:
        gateway, pi = little.agents["gateway"], little.agents["pi-1"]
        await until(lambda: gateway.status()["versions"].get("pi-1") == own_version())
        await mesh.call("deploy", {"source": source.encode(), "stem": "odd", "only_if_new": True})

        await until(lambda: pi.abilities.own.lacks == ["no_such_module_here"])
        await until(lambda: gateway.abilities.lacks_of("pi-1") == ["no_such_module_here"])


async def test_a_node_whose_broker_died_takes_another_from_a_sighted_member(tmp_path):
    """The roster's address is dead; a neighbour announces one that answers. The name in TLS would decide."""
    little = LittleMesh(tmp_path, ["gateway", "pi-1"])
    little.brokers = ("127.0.0.1:1",)
    async with little:
        pi = little.agents["pi-1"]
        assert isinstance(pi.link, MemoryLink)
        assert pi.broker_addresses() == [("127.0.0.1", 1)]
        sighting = Sighting(
            "gateway._edgeweave._tcp.local.",
            little.mesh_id,
            "gateway",
            "gateway",
            (("127.0.0.1", 0),),
            (("127.0.0.1", 2),),
        )
        pi.neighbours._on_event(Seen(sighting))

        await until(lambda: pi.broker_addresses() == [("127.0.0.1", 1), ("127.0.0.1", 2)])


async def test_a_peer_that_is_merely_quiet_may_still_send_what_it_was_asked_for(tmp_path):
    """Nothing is known against it; and what waits behind other transfers was not even asked for yet."""
    async with LittleMesh(tmp_path, ["gateway"]) as little:
        agent, done = little.agents["gateway"], asyncio.Event()
        busy: list[bool] = []

        def story(now_ns: int, wall_ms: int) -> None:
            agent.blobs.want(now_ns, bytes(32), ["pi-2"])
            for verdict in (Quiet("pi-2"), Down("pi-2", "no probe was answered")):
                agent._judged(now_ns, wall_ms, [verdict])
                busy.append(agent.blobs.busy)
            done.set()

        agent.soon(story)
        await done.wait()

    assert busy == [True, False]


async def test_an_empty_body_is_held_and_served_like_any_other(tmp_path):
    async with LittleMesh(tmp_path, ["gateway"]) as little:
        agent = little.agents["gateway"]
        digest = agent.bodies.keep(b"")

        served = agent.blobs.handle(0, "pi-1", BlobWanted(digest, 0, 1))

    assert served == [Tell("pi-1", BlobChunk(digest, 0, 1, 0, b""), bulk=True)]
