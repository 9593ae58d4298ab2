"""Fault 12: a byte too many, 16 MiB, deep nesting, at every bounded door: refused for its size, and soon.

At its bound a door refuses filler for its shape; a byte later for its size, before it looks at it. So both
are asked, and must be told two different things. The same at real doors: a broker, the joining port, the
socket of a daemon, and an agent whose broker hands it what no link carries.
"""

from __future__ import annotations

import asyncio
import functools
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from device_sim.scenario.reading import TEXT_CHARS_MAX
from edge_node.client import Mesh
from edge_node.control import protocol
from edge_node.functions import manifest
from edge_node.functions.bundle import BUNDLE_BYTES_MAX
from edge_node.scheduling import estimates
from edge_node.tasks.task import INPUT_BYTES_MAX
from edge_node.transport.link import Delivery, LinkDown
from edge_node.transport.mqtt import PACKET_BYTES_MAX
from edge_node.wire import codec
from gateway.broker import access
from security import control, enrolment, envelope, group, roster, signing
from security.envelope import is_parcel
from security.errors import BadInput, EdgeweaveError, Refused
from tests.faults.fault import BOTH, Context, Fault, Outcome
from tests.faults.trials import Figures, tried
from tests.support.hostile_mesh import HostileMesh, until
from tests.support.hostile_proxy import length_of
from tests.support.links import ROOT, BrokerBed, Ears, up
from tests.support.parsers import LOCAL, NESTED, PARSERS, Errors

FAULT = Fault(
    number=12,
    name="oversize",
    title="a byte too many, 16 MiB, deep nesting: refused",
    brokers=BOTH,
    full=2_000,
    small=100,
    unit="refusals",
    round_max=500,
    round_s=25,
    bounds={"doors: refusal_ms p99": 1.0},
)
MIB_16 = 16 * 1024 * 1024


class Door(NamedTuple):
    """*head*: how what is too large must begin to come so far."""

    bytes_max: int
    head: bytes = b""


DOORS = {
    "parcel": Door(codec.PLAIN_BYTES_MAX),
    "envelope": Door(envelope.PARCEL_BYTES_MAX, bytes.fromhex("d08344a1011818a20448") + b"kid of 8\x06"),
    "group frame": Door(group.FRAME_BYTES_MAX),
    "group grant": Door(group.GRANT_BYTES_MAX),
    "kept group secrets": Door(group.STORED_BYTES_MAX),
    "session control": Door(control.FRAME_BYTES_MAX, b"\x86\1"),
    "roster": Door(roster.ROSTER_BYTES_MAX),
    "join request": Door(enrolment.REQUEST_BYTES_MAX),
    "join answer": Door(enrolment.ANSWER_BYTES_MAX),
    "renewal": Door(enrolment.REQUEST_BYTES_MAX),
    "leave": Door(enrolment.REQUEST_BYTES_MAX),
    "leave answer": Door(enrolment.REQUEST_BYTES_MAX),
    "catalogue entry": Door(signing.ENTRY_BYTES_MAX),
    "bundle": Door(BUNDLE_BYTES_MAX),
    "manifest": Door(manifest.MANIFEST_BYTES_MAX),
    "function source": Door(manifest.SOURCE_BYTES_MAX),
    "kept estimates": Door(estimates.DUMP_BYTES_MAX, b"\1"),
    "scenario": Door(TEXT_CHARS_MAX),
}
"""Settings, inputs of a command and key files are bounded where a file is opened: their own tests."""
ANNOUNCING: dict[str, Callable[[int], bytes]] = {
    "control socket": lambda size: struct.pack(">I", size),
    "packets of a broker": lambda size: b"\x30" + length_of(size),
}
"""Doors that refuse what is announced: no byte of it needs to come."""
ANNOUNCED_MAX = {"control socket": protocol.FRAME_BYTES_MAX, "packets of a broker": PACKET_BYTES_MAX}


def reason(read: Callable[[bytes], object], allowed: Errors, data: bytes) -> tuple[str, float]:
    """Why it is refused, without its figures, and after how many ms; "": it is not."""
    begun = time.perf_counter()
    try:
        read(data)
    except allowed as error:
        told = error.cause if isinstance(error, EdgeweaveError) else str(error)
        return "".join(c for c in told if not c.isdigit()), (time.perf_counter() - begun) * 1e3
    return "", (time.perf_counter() - begun) * 1e3


def doors(scratch: Path, seed: int, count: int) -> Figures:
    """*count* refusals, dealt out over all parsers; each of a size is one of three attempts."""
    rng, done = random.Random(seed), 0
    spent: dict[bool, list[float]] = {False: [], True: []}  # by whether it is a door of files and commands
    while done < count:
        for name, door in DOORS.items():
            _, read, allowed = PARSERS[name]
            filler = bytes([rng.choice((0, 0x20, 0x80, 0xFF))])
            fits, over, huge = (
                reason(read, allowed, door.head + filler * (size - len(door.head)))
                for size in (door.bytes_max, door.bytes_max + 1, max(MIB_16, door.bytes_max + 2))
            )
            assert over[0] and over[0] == huge[0] != fits[0], f"{name}: {fits}, {over}, {huge}"
            spent[name in LOCAL] += [over[1], huge[1]]
            done += 2
        for name, announce in ANNOUNCING.items():
            _, read, allowed = PARSERS[name]
            most = ANNOUNCED_MAX[name]
            assert reason(read, allowed, announce(most))[0] == "", name
            told, ms = reason(read, allowed, announce(most + 1))
            assert told, name
            spent[False].append(ms)
            done += 1
        for name, (_, read, allowed) in PARSERS.items():
            spent[name in LOCAL].append(reason(read, allowed, rng.choice(NESTED))[1])
            done += 1
    return {
        "refusal_ms": spent[False], "refusal_ms of files and commands": spent[True],
        "doors": len(DOORS) + len(ANNOUNCING), "parsers nested": len(PARSERS),
    }  # fmt: skip


async def at_a_broker(scratch: Path, seed: int, count: int, *, broker: str) -> Figures:
    """A packet over its bound by a byte, and far over: the sender is cut, nobody gets it, others go on."""
    bed = BrokerBed(broker, scratch)
    a, b = Ears(), Ears()
    async with bed.running(), up(bed.link("b", b), b, [f"{ROOT}/d/b/+"]) as reader:
        for n in range(count):
            size = access.PACKET_BYTES_MAX + 1 if n % 2 == 0 else MIB_16
            a = Ears()
            async with up(bed.link("a", a), a, [f"{ROOT}/d/a/+"]) as link:
                link._client.send(0, f"{ROOT}/d/b/a", bytes(size), 0, False)  # past the link's own check
                await a.kinds(LinkDown)
            reader.send(n + 1, f"{ROOT}/d/b/b", b"mark %d" % n)
            await b.until(lambda e, n=n: isinstance(e, Delivery) and e.payload == b"mark %d" % n)
        heard = [event.payload for event in b.heard if isinstance(event, Delivery)]
        assert heard == [b"mark %d" % n for n in range(count)]
        assert not [event for event in b.heard if isinstance(event, LinkDown)]
    return {}


async def at_an_agent(scratch: Path, seed: int, count: int) -> Figures:
    """A broker that has no bound, and a client of the socket that keeps to none: the agent works on."""
    async with HostileMesh(scratch, ["gateway", "pi-1"]) as mesh:
        await mesh.deploy()
        gateway = mesh.agents["gateway"]
        topic = mesh.d("gateway", "pi-1")
        sent = [frame for frame in mesh.hostile.taken if frame.topic == topic and is_parcel(frame.payload)]
        before = mesh.violated
        for n in range(count):
            padded = sent[n % len(sent)].payload.ljust(envelope.PARCEL_BYTES_MAX + 1, b"\0")
            mesh.hostile.inject(topic, padded)
            await until(lambda n=n: mesh.violated > before + n)
        mesh.hostile.inject(topic, bytes(MIB_16))  # more than any link takes
        await until(lambda: mesh.hostile.connects["gateway"] >= 2)
        await until(lambda: gateway.detector.up() == ["pi-1"])

        async with mesh.asking() as client:
            for size in (INPUT_BYTES_MAX + 1, MIB_16):
                try:
                    await client.submit("plant.keep", "x" * size)
                except (Refused, BadInput):
                    continue
                raise AssertionError(f"an input of {size} bytes was accepted")
        reader, writer = await asyncio.open_unix_connection(str(mesh.home("gateway").socket))
        writer.write(struct.pack(">I", protocol.FRAME_BYTES_MAX + 1))
        async with asyncio.timeout(10):
            await reader.read()  # until it is cut
        writer.close()
        async with Mesh.open(mesh.path / "gateway") as client:
            assert await client.run("plant.keep", "a", where="pi-1") == "the-result-is-a-secret:a"
        return {"accepted": 1}


async def run(context: Context) -> Outcome:
    at_the_broker = functools.partial(at_a_broker, broker=context.broker)
    return await tried(context, {doors: 0.96, at_the_broker: 0.02, at_an_agent: 0.02})
