"""Fault 18: a node is revoked: its live session, its next connection, the old roster, the other signature.

Real daemons with both brokers, where it is theirs to refuse; and a broker that keeps it, where it is the
members'. The thief is a client of ours with a member's own key and certificate, and none of its manners.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from pathlib import Path
from threading import Thread

import aiomqtt
import pytest

from edge_node import joining
from edge_node.wire.topics import RosterTopic, topic_for
from security.errors import Refused
from security.keystore import KeyStore
from security.tls import node_context
from tests.faults.fault import Context, Fault, Outcome
from tests.faults.trials import Figures, tried
from tests.support.certs_for_tests import Leaf, malleated
from tests.support.daemons import Bed, Daemon
from tests.support.hostile_mesh import HostileMesh, until
from tests.support.hostile_proxy import direct

FAULT = Fault(
    number=18,
    name="revoked",
    title="a revoked node: live session, new connect, old roster, malleated certificate",
    brokers=("mosquitto", "embedded"),
    full=20,
    small=2,
    unit="revocations",
    round_max=3,
    round_s=40,
    bounds={"cut_and_shut_out: cut_s max": 5.0},
)
NAMES = ["gateway", "pi-1", "pi-2"]
CUT_S = 5.0
"""A promise: from the operator's word to the end of the connection."""


class Thief:
    """Connects with the keys of a member's home."""

    def __init__(self, member: Daemon, gateway: Daemon, folder: Path) -> None:
        self.name = member.name
        self.store = KeyStore(member.home.keys)
        self.root = self.store.root()
        self.port = int(gateway.ready["broker_address"].rpartition(":")[2])
        self.mesh = gateway.ready["mesh"]
        own = Leaf(self.store.identity_path, self.store.identity_path, "")
        self.changed = malleated(own, folder)

    def client(self, *, changed: bool = False, name: str | None = None, **more: object) -> aiomqtt.Client:
        context = node_context(self.store.identity_path, self.root)
        context.check_hostname = False
        if changed:
            context.load_cert_chain(self.changed.cert_file, self.changed.key_file)
        return aiomqtt.Client(
            "127.0.0.1", self.port, identifier=name or self.name, tls_context=context, tls_insecure=True,
            timeout=5, **more,
        )  # fmt: skip

    async def gets_in(self, **how: bool) -> bool:
        """Whether the broker serves it: it hears itself on its own topic."""
        own = f"ew/1/{self.mesh}/d/{self.name}/{self.name}"
        with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
            async with asyncio.timeout(5), self.client(**how) as client:
                granted = await client.subscribe(f"ew/1/{self.mesh}/d/{self.name}/+", 1)
                if any(getattr(code, "value", code) >= 0x80 for code in granted):
                    return False
                await client.publish(own, b"here I am", 1)
                return (await anext(client.messages)).payload == b"here I am"
        return False

    async def cut_after_s(self, done: Thread) -> float:
        """Seconds from the start of *done* until the broker ended a connection that was served."""
        ended = asyncio.get_running_loop().create_future()
        with contextlib.suppress(aiomqtt.MqttError):
            async with self.client() as client:
                await client.subscribe(f"ew/1/{self.mesh}/d/{self.name}/+", 1)
                done.start()
                began = time.monotonic()
                with contextlib.suppress(aiomqtt.MqttError):
                    async with asyncio.timeout(30):
                        async for _ in client.messages:
                            pass
                ended.set_result(time.monotonic() - began)
        return await ended


def cut_and_shut_out(scratch: Path, seed: int, count: int, *, broker: str) -> Figures:
    """*count* members, one after the other, at the operator's word; then gateway and broker start anew."""
    with Bed(scratch, broker=broker) as bed:
        gateway = bed.gateway().start()
        thieves = [Thief(bed.join(f"pi-{n + 2}"), gateway, scratch / f"changed-{n}") for n in range(count)]
        took_s = [_cut(bed, gateway, thief) for thief in thieves]
        gateway.kill()
        broker_pid = bed.broker_pid()
        for thief in thieves:
            assert not asyncio.run(thief.gets_in()), "the broker does not need the gateway to know it"
        gateway.start("--port", str(port_of(thieves[0].store)))
        assert bed.broker_pid() == broker_pid
        for thief in thieves:
            _shut_out(thief)
        gateway.term()
        gateway.start("--port", str(port_of(thieves[0].store)))  # and a broker that was started anew
        for thief in thieves:
            thief.port = int(gateway.ready["broker_address"].rpartition(":")[2])
            _shut_out(thief)
    return {"cut_s": took_s}


def _cut(bed: Bed, gateway: Daemon, thief: Thief) -> float:
    assert asyncio.run(thief.gets_in()), bed.story()
    assert asyncio.run(thief.gets_in(changed=True)), "TLS has nothing against the other signature"

    told: list[object] = []
    word = Thread(
        target=lambda: told.append(bed.cli(gateway, "revoke", thief.name, "--reason", "lost", "--yes"))
    )
    took_s = asyncio.run(thief.cut_after_s(word))
    word.join()
    assert told[0].text == f"{thief.name} is revoked"
    assert took_s < CUT_S, bed.story()
    assert bed.cli(gateway, "revoke", thief.name, "--yes").err == f"{thief.name} had been revoked before\n"
    _shut_out(thief)
    return took_s


def _shut_out(thief: Thief) -> None:
    assert not asyncio.run(thief.gets_in())
    assert not asyncio.run(thief.gets_in(changed=True))
    with pytest.raises(Refused, match=rf"{thief.name} was revoked on \d{{4}}-.* UTC by \S+: lost"):
        asyncio.run(joining.renew(thief.store, timeout_s=20))


def port_of(store: KeyStore) -> int:
    return joining.known_gateways(store)[0][1]


async def believed_by_nobody(scratch: Path, seed: int, count: int) -> Figures:
    """Its session, its new handshakes, its restart, the old roster shown: its peers have the new one."""
    async with HostileMesh(scratch, NAMES) as mesh:
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

        tries = [frame for frame in mesh.hostile.taken[sent:] if frame.by == "pi-2" and direct(frame)]
        after = sum(times for (_, _, src, _), times in mesh.witness.believed.items() if src == "pi-2")
        assert tries, "it was let in by the broker and tried"
        assert (gateway.detector.up(), peer.detector.up()) == (["pi-1"], ["gateway"])
        assert not gateway.channels.has("pi-2") and not peer.channels.has("pi-2")
        assert after == before, "a revoked node was believed"
        return {"frames refused": len(tries)}


async def run(context: Context) -> Outcome:
    by_the_broker = functools.partial(cut_and_shut_out, broker=context.broker)
    return await tried(context, {by_the_broker: context.count, believed_by_nobody: 0})
