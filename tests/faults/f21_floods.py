"""Fault 21: floods of handshakes, joins and announcements, while enrolled members work.

All enrolled work is done, and the counters stay within their bounds. The figure is one ratio within one run:
the p99 of enrolled traffic during a flood over that before it. Where the flood is in a process of its own
(`paced`), its median over rounds should be below 3; where flood, broker and members share one thread, it is
told and means less.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import multiprocessing
import os
import random
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from edge_node.client import Mesh
from edge_node.discovery.mdns import Mdns
from edge_node.discovery.sightings import Advert, Seen, properties_of, sighting_from
from edge_node.home import Home
from edge_node.joining import join
from edge_node.wire.topics import Direct, topic_for
from security import tls
from security.control import Control
from security.enrolment import JoinCode
from security.errors import Refused, Unavailable
from security.keystore import KeyStore
from security.session import FAILURES_MAX, HINTS_MAX, PENDING_MAX, SESSIONS_MAX
from tests.faults.fault import Context, Fault, Outcome
from tests.faults.trials import Figures, tried
from tests.support.daemons import Bed
from tests.support.daemons import until as until_true
from tests.support.hostile_mesh import HostileMesh
from tests.support.hostile_proxy import direct
from tests.support.joined_gateway import GatewayHouse

FAULT = Fault(
    number=21,
    name="floods",
    title="floods: joins, handshakes, mDNS announcements",
    brokers=("mosquitto", "embedded"),
    full=20_000,
    small=1_000,
    unit="tasks",
    round_max=2_000,
    round_s=50,
    bounds={
        "paced floods_handshakes: p99 ratio p50": 3.0,
        "paced floods_joins: p99 ratio p50": 3.0,
        "announcements: p99 ratio p50": 3.0,
    },
)
NAMES = ["gateway", "pi-1", "pi-2"]
CONTROL = 0x86


def ratio_of(before_ms: list[float], during_ms: list[float]) -> Figures:
    """Both p99 and what the one is of the other; no figure of a tail for less than a hundred."""
    before, during = (sorted(each)[len(each) * 99 // 100] for each in (before_ms, during_ms))
    return {
        "accepted": len(before_ms) + len(during_ms), "p99 before, ms": round(before, 1),
        "p99 during, ms": round(during, 1), "p99 ratio": [round(during / before, 2)],
    }  # fmt: skip


async def spent_ms(mesh: Mesh, count: int, name: str, *first: Any) -> list[float]:
    """*count* tasks at the gateway, one after the other."""
    spent = []
    for n in range(count):
        start = time.perf_counter()
        await mesh.run(name, *first, n, where="gateway")
        spent.append((time.perf_counter() - start) * 1e3)
    return spent


async def compared(mesh: HostileMesh, flood: Callable[[], Awaitable[None]], count: int) -> Figures:
    """Work of pi-1 at the gateway before a flood and during it."""
    timed = str(mesh.path / "timed")
    async with mesh.asking("pi-1") as client:
        before_ms = await spent_ms(client, count, "plant.stamp", timed)
        flooding = asyncio.ensure_future(flood())
        try:
            during_ms = await spent_ms(client, count, "plant.stamp", timed)
        finally:
            flooding.cancel()
            await asyncio.wait([flooding])
        if not flooding.cancelled():
            flooding.result()
    return ratio_of(before_ms, during_ms)


def control(rng: random.Random, kind: int, body: int) -> bytes:
    """A handshake frame that is well-formed, and made by nobody who knows a key."""
    return Control(
        kind, rng.randbytes(8), 1, rng.randbytes(8), rng.randbytes(8), rng.randbytes(body)
    ).encode()


async def handshakes(scratch: Path, seed: int, count: int) -> Figures:
    """Noise, well-formed handshakes of strangers and of members, genuine ones said again and again."""
    rng = random.Random(seed)
    async with HostileMesh(scratch, NAMES) as mesh:
        await mesh.deploy()
        gateway = mesh.agents["gateway"]
        genuine = [f.payload for f in mesh.hostile.taken if direct(f) and f.payload[0] == CONTROL]
        flooded = 0

        async def flood() -> None:
            nonlocal flooded
            while True:
                for src in ("pi-1", "pi-2", f"n{rng.randrange(100_000)}"):
                    topic = mesh.d("gateway", src)
                    mesh.hostile.inject(topic, bytes((CONTROL,)) + rng.randbytes(rng.randrange(200)))
                    for kind in (1, 2, 3, 4):
                        mesh.hostile.inject(topic, control(rng, kind, 96 if kind < 3 else 8))
                    mesh.hostile.inject(topic, rng.choice(genuine))
                    mesh.hostile.inject(topic, b"\xd0\x83" + rng.randbytes(80))
                flooded += 21
                await asyncio.sleep(0.01)

        # The flood, its broker and all members share one thread here: `paced` tells what it costs.
        told = await compared(mesh, flood, count)

        assert flooded > 300
        sessions = gateway.sessions
        sessions.check()
        assert len(sessions._sealing) <= SESSIONS_MAX and len(sessions._pending) <= PENDING_MAX
        assert len(sessions._hints) <= HINTS_MAX and len(sessions.failures) <= FAILURES_MAX + 1
        assert {peer for peer, _ in gateway.channels.streams()} <= set(NAMES)
        assert len(gateway.channels.violations) <= 257
        assert mesh.witness.violations() == []
        return told


def floods_handshakes(home: str, mesh_id: str, port: int, code: str, tries) -> None:
    """In a process of its own: a member that says a thousand handshakes a second to the gateway."""
    store, rng = KeyStore(Home(Path(home)).keys), random.Random(3)
    topic = topic_for(Direct(mesh_id, "gateway", "pi-9"))
    context = tls.node_context(store.identity_path, store.root())
    context.check_hostname = False

    async def flood() -> None:
        async with aiomqtt.Client(
            "127.0.0.1", port, identifier="pi-9", tls_context=context, tls_insecure=True
        ) as client:
            while True:
                for n in range(20):
                    frame = control(rng, 1 + n % 4, 96 if n % 4 < 2 else 8)
                    await client.publish(topic, frame if n % 5 else os.urandom(200), 0)
                tries.value += 20
                await asyncio.sleep(0.02)

    asyncio.run(flood())


def floods_joins(home: str, mesh_id: str, port: int, code: str, tries) -> None:
    """In a process of its own: forged codes and noise at the joining port."""
    real = JoinCode.parse(code)
    forged = JoinCode(real.root_spki_sha256, "aaaaaa", bytes(16), real.addresses).text()
    host, _, number = real.addresses[0].rpartition(":")

    async def forging(n: int) -> None:
        while True:
            with contextlib.suppress(Refused, Unavailable):
                await join(forged, Path(f"{home}-forger-{n}"), mdns="none", timeout_s=2)
            tries.value += 1
            await asyncio.sleep(0.05)

    async def noise() -> None:
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(host, int(number))
                writer.write(os.urandom(300))
                tls.abort(writer.transport)
            tries.value += 1
            await asyncio.sleep(0.01)

    async def flood() -> None:
        await asyncio.gather(*map(forging, range(4)), noise())

    asyncio.run(flood())


def paced(scratch: Path, seed: int, count: int, *, floods: Callable[..., None], broker: str) -> Figures:
    """Real daemons, a real broker, the flood in a process of its own."""
    with Bed(scratch, broker=broker) as bed:
        gateway, node = bed.pair()
        thief = bed.join("pi-9")
        code = bed.cli(gateway, "invite").text
        before_ms = node.ask(lambda mesh: spent_ms(mesh, count, "toys.add"))
        port = int(gateway.ready["broker_address"].rsplit(":", 1)[1])
        context = multiprocessing.get_context("spawn")
        tries = context.Value("q", 0)
        told = (str(thief.home.path), gateway.ready["mesh"], port, code, tries)
        process = context.Process(target=floods, args=told)
        process.start()
        try:
            until_true("the flood has begun", lambda: tries.value > 20)
            during_ms = node.ask(lambda mesh: spent_ms(mesh, count, "toys.add"))
            if floods is floods_handshakes:
                gateway.until("the flood arrives", lambda s: refused(s) > 20)
            else:
                bed.join("pi-2")  # a good code works all the while
            assert process.is_alive()
        finally:
            process.kill()
            process.join(30)
        assert "pi-1" in gateway.ask(lambda mesh: mesh.status())["peers_up"]
    return ratio_of(before_ms, during_ms) | {"attempts": tries.value}


def refused(status: dict[str, Any]) -> int:
    return sum(status["wire"]["refused"].values())


async def announcements(scratch: Path, seed: int, count: int) -> Figures:
    """A rogue on the network says thousands of names, the members' among them; all on loopback."""
    async with HostileMesh(scratch, NAMES) as mesh:
        await mesh.deploy()
        seen = 0

        def note(event: Any) -> None:
            nonlocal seen
            seen += 1
            for agent in mesh.agents.values():
                agent.neighbours._on_event(event)

        def said(instance: str, advert: Advert, n: int = 1) -> None:
            """As mDNS hands it over, many more than a socket brings, each from somewhere else."""
            txt = {key.encode(): value.encode() for key, value in properties_of(advert).items()}
            note(Seen(sighting_from(instance, txt, [f"127.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"])))

        async def flood() -> None:
            n = 0
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(Mdns("lo", None, note))
                first = Advert(mesh.mesh_id, "pi-2", "node", (("127.0.0.1", 1),))
                rogues = [
                    await stack.enter_async_context(Mdns("lo", first, lambda event: None)) for _ in range(3)
                ]
                while True:
                    for _ in range(20 if n else 2_000):
                        n += 1
                        name = ("gateway", "pi-1", f"n{n}")[n % 3]
                        mesh_id = mesh.mesh_id if n % 2 else f"{n:016x}"
                        port = 1 + n % 60_000
                        lie = Advert(mesh_id, name, "gateway", (("127.0.0.1", port),), port)
                        said(f"{name}-{n}", lie, n)
                    rogues[n % len(rogues)].update(lie)
                    await asyncio.sleep(0.02)

        said("the true pi-2", Advert(mesh.mesh_id, "pi-2", "node", (("127.0.0.1", mesh.hostile.port),)))
        told = await compared(mesh, flood, count)

        for agent in mesh.agents.values():
            assert len(agent.sightings._table) <= agent.sightings.limit
            assert seen > 2 * agent.sightings.limit - 100, "more than there is room for"
            assert "the true pi-2" in agent.sightings._table
            assert agent.link.up
        assert mesh.witness.violations() == []
        return told | {"announcements": seen}


async def joins(scratch: Path, seed: int, count: int) -> Figures:
    """Forged codes, noise, silent connections at the joining port; a genuine node still joins."""
    async with HostileMesh(scratch / "mesh", NAMES) as mesh, GatewayHouse(scratch / "door").open() as door:
        await mesh.deploy()
        code = JoinCode.parse(await door.invite())
        forged = JoinCode(code.root_spki_sha256, "aaaaaa", bytes(16), code.addresses).text()
        tries = 0

        async def forging(n: int) -> None:
            nonlocal tries
            while True:
                with contextlib.suppress(Refused, Unavailable):
                    await join(forged, scratch / f"forger-{n}", mdns="none", timeout_s=2)
                tries += 1
                await asyncio.sleep(0.05)

        async def noise() -> None:
            nonlocal tries
            silent: list[asyncio.StreamWriter] = []
            try:
                while True:
                    with contextlib.suppress(OSError, ssl.SSLError):
                        _, writer = await asyncio.open_connection("127.0.0.1", door.server.port)
                        silent.append(writer)
                        if len(silent) % 2:
                            writer.write(os.urandom(300))
                    tries += 1
                    if len(silent) > 200:
                        silent.pop(0).transport.abort()
                    await asyncio.sleep(0.02)
            finally:
                for writer in silent:
                    writer.transport.abort()

        async def flood() -> None:
            async with asyncio.TaskGroup() as group:
                for n in range(4):
                    group.create_task(forging(n))
                group.create_task(noise())

        told = await compared(mesh, flood, count)

        assert tries > 20
        assert door.issued == []
        with pytest.raises(Unavailable, match="too many joining requests"):
            await join(forged, scratch / "late", mdns="none", timeout_s=5)
        flooding = asyncio.create_task(flood())  # from the honest node's address, and not at its end
        try:
            joined = await join(code.text(), scratch / "honest", name="honest", mdns="none")
            assert not flooding.done()
        finally:
            flooding.cancel()
            await asyncio.wait([flooding])
        assert (door.issued, joined.node_id) == (["honest"], "honest")
        return told


async def run(context: Context) -> Outcome:
    paces = [
        functools.partial(paced, floods=kind, broker=context.broker)
        for kind in (floods_handshakes, floods_joins)
    ]
    return await tried(context, dict.fromkeys([*paces, handshakes, announcements, joins], 0.5))
