"""Fault 19: client ids taken over, names spoofed, filters that reach too far; a broker that allows it.

At both brokers: a member with its genuine certificate and others' names, drawn filters and drawn topics. At
the hostile one, which knows no rules: what members refuse, they refuse by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from pathlib import Path
from typing import Any

import aiomqtt

from edge_node.transport.link import Delivery, LinkDown
from gateway.broker.access import matches, reads
from tests.faults.fault import Context, Fault, Outcome
from tests.faults.trials import Figures, tried
from tests.support.certs_for_tests import MESH
from tests.support.hostile_mesh import HostileMesh, lines, until
from tests.support.hostile_proxy import direct
from tests.support.links import ROOT, BrokerBed, Ears, raw, up

FAULT = Fault(
    number=19,
    name="spoofed",
    title="client-id take-over, user-name spoof, wildcard escalation, also under a permissive broker",
    brokers=("mosquitto", "embedded"),
    full=2_000,
    small=60,
    unit="attempts",
    round_max=200,
    round_s=16,
)
NAMES = ["gateway", "pi-1", "pi-2"]
SPOOFS: list[dict[str, Any]] = [
    {"identifier": "c"},
    {"identifier": "a"},
    {"identifier": "c", "username": "a"},
    {"identifier": "a", "username": "a"},
    {"identifier": "gateway", "username": "gateway", "password": "gateway"},
    {"identifier": "_supervisor", "username": "_supervisor", "password": ""},
]
FILTERS = [
    "#", "+/#", "+/+/+/+/+/+", "ew/#", f"{ROOT}/#", f"{ROOT}/d/#", f"{ROOT}/d/+/+", f"{ROOT}/d/a/+",
    f"{ROOT}/d/a/#", f"{ROOT}/d/a/b", f"{ROOT}/+/a/+", f"{ROOT}/d/+/c", "/#", "$SYS/#", "$CONTROL/#",
    f"$share/thieves/{ROOT}/d/a/+", f"$share/c/{ROOT}/#", f"{ROOT}/d/c/../a/+",
]  # fmt: skip
LEVELS = [
    "+",
    "#",
    "",
    "ew",
    "1",
    ROOT.rsplit("/", 1)[1],
    "d",
    "g",
    "p",
    "a",
    "b",
    "c",
    "gateway",
    "roster",
    "$SYS",
]


def drawn_filter(rng: random.Random) -> str:
    """A famous one, or any levels that MQTT allows."""
    if rng.random() < 0.5:
        return rng.choice(FILTERS)
    levels = [rng.choice(LEVELS) for _ in range(rng.randint(1, 7))]
    if "#" in levels:
        del levels[levels.index("#") + 1 :]
    return "/".join(levels) or "/"


def forged_topic(rng: random.Random) -> str:
    """A topic that is not c's to write."""
    return rng.choice(
        [
            f"{ROOT}/d/a/b",
            f"{ROOT}/d/b/a",
            f"{ROOT}/p/a",
            f"{ROOT}/roster",
            f"{ROOT}/g/mesh/a",
            f"{ROOT}/d/a/gateway",
        ]
    )


async def escalated(scratch: Path, seed: int, count: int, *, broker: str) -> Figures:
    """So many attempts by member c; a and b hear each other alone all the while, and are never cut."""
    rng, bed = random.Random(seed), BrokerBed(broker, scratch)
    a, b = Ears(4096), Ears(4096)
    everything = [f"{ROOT}/p/+", f"{ROOT}/g/+/+", f"{ROOT}/roster"]
    denied = 0
    async with (
        bed.running(),
        up(bed.link("a", a), a, [f"{ROOT}/d/a/+", *everything]),
        up(bed.link("b", b), b, [f"{ROOT}/d/b/+", *everything]) as honest,
    ):
        for n in range(count):
            denied += await _attempt(bed, rng, honest, a, n)
        heard = {event.payload for ears in (a, b) for event in ears.heard if isinstance(event, Delivery)}
        assert heard == {b"for a alone %d" % n for n in range(count)}, "a forged one arrived"
        assert not [e for ears in (a, b) for e in ears.heard if isinstance(e, LinkDown)], "somebody was cut"
    return {"connections denied": denied}


async def _attempt(bed: BrokerBed, rng: random.Random, honest: Any, a: Ears, n: int) -> bool:
    """Under a drawn name: drawn filters, a forged message; it hears only its own. Whether it was kept out."""
    spoof, secret = rng.choice(SPOOFS), b"for a alone %d" % n
    filters = [drawn_filter(rng) for _ in range(3)]
    let_in, stolen = False, []
    try:
        async with asyncio.timeout(5), raw(bed, bed.leaves["c"], **spoof) as client:
            with contextlib.suppress(aiomqtt.MqttError):  # each on its own: a broker may cut for one of them
                await client.subscribe([(one, 1) for one in filters])
            await client.publish(forged_topic(rng), b"forged", 1, retain=rng.random() < 0.5)
            honest.send(n + 1, f"{ROOT}/d/a/b", secret)
            await a.until(lambda event: isinstance(event, Delivery) and event.payload == secret)
            await client.subscribe(f"{ROOT}/d/c/+", 1)
            await client.publish(f"{ROOT}/d/c/c", b"mark", 1)
            async for message in client.messages:
                if message.payload == b"mark":
                    let_in = True
                    break
                stolen.append((str(message.topic), message.payload))
    except (aiomqtt.MqttError, TimeoutError):
        if not any(isinstance(e, Delivery) and e.payload == secret for e in a.heard):
            honest.send(n + 1, f"{ROOT}/d/a/b", secret)
            await a.until(lambda event: isinstance(event, Delivery) and event.payload == secret)
    own = reads(MESH, "c")
    beyond = [one for one in stolen if one[1] == secret or not any(matches(mine, one[0]) for mine in own)]
    assert not beyond, (spoof, filters, beyond)
    return not let_in


async def impersonated(scratch: Path, seed: int, count: int) -> Figures:
    """It reads `#`, takes their client ids, and says in their name what it has: parcels, handshakes."""
    count = max(100, count)  # so that there is something to overhear
    async with HostileMesh(scratch, NAMES) as mesh:
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
        return mesh.promises_kept(count)


async def run(context: Context) -> Outcome:
    at_the_broker = functools.partial(escalated, broker=context.broker)
    return await tried(context, {at_the_broker: 0.7, impersonated: 0.3})
