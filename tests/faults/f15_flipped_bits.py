"""Fault 15: one flipped bit, in every byte of every kind of envelope: all rejected, and nothing else changes.

Parcels of drawn keys, numbers, sizes and contexts; parcels of sessions; group frames and their grants; and on
the wire, where real agents are shown all forgeries of a genuine parcel before they get it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from edge_node.wire.codec import group_context
from edge_node.wire.topics import Presence, topic_for
from security.envelope import SEQ_LIMIT, Opener, Sealer, is_parcel
from security.errors import ProtocolViolation
from security.group import EpochUnknown, GroupReceiver, GroupSender
from security.identity import NodeKeys
from security.session import FrameReceived, Wanted
from tests.faults.fault import Context, Fault, Outcome
from tests.faults.trials import Figures, tried
from tests.support.flipped import flipped
from tests.support.hostile_mesh import HostileMesh
from tests.support.hostile_proxy import Frame, direct, only
from tests.support.parsers import GRANT, HELD, MESH, SECRET, epochs, sent, sessions_of

FAULT = Fault(
    number=15,
    name="flipped-bits",
    title="a flipped bit in every envelope byte",
    brokers=(),
    full=1_000_000,
    small=40_000,
    unit="flipped bits",
    round_max=200_000,
    round_s=20,
)
NAMES = ["gateway", "pi-1"]
EPOCH_BYTES = range(23, 27)
"""Where a group frame names its epoch: another one is unknown, and asked for."""


def envelopes(scratch: Path, seed: int, count: int) -> Figures:
    """Each with keys, number, size and context of its own."""
    rng, done, parcels = random.Random(seed), 0, 0
    while done < count:
        key, iv, kid, context = (rng.randbytes(n) for n in (32, 12, 8, rng.randrange(100)))
        seq = rng.choice((1, 255, 256, 65_535, 65_536, SEQ_LIMIT - 1, rng.randrange(1, SEQ_LIMIT)))
        plain = rng.randbytes(rng.choice((0, 7, 8, 239, 240, rng.randrange(600))))
        parcel, opener = Sealer(key, iv, kid, context).seal(seq, plain), Opener(key, iv, kid, context)
        for byte, forged in flipped(parcel):
            assert not _opens(opener.open, forged), f"byte {byte} of {parcel.hex()}, key {key.hex()}"
        assert opener.open(parcel) == (seq, plain)
        done, parcels = done + 8 * len(parcel), parcels + 1
    return {"parcels": parcels, "bits": done}


def sessions(scratch: Path, seed: int, count: int) -> Figures:
    """The same through a conversation, whose replay window no forgery moves."""
    rng, done = random.Random(seed), 0
    ours, theirs = NodeKeys.generate(), NodeKeys.generate()
    one, other = sessions_of("pi-1", theirs, ours), sessions_of("pi-2", ours, theirs)
    (m1,) = sent(other.handle(0, Wanted("pi-1")) + other.drain())
    (m2,) = sent(one.handle(0, FrameReceived("pi-2", m1)) + one.drain())
    other.handle(0, FrameReceived("pi-1", m2)), other.drain()

    def opening(frame: bytes) -> bytes:
        return one.open(2, "pi-2", frame)

    while done < count:
        plain = rng.randbytes(rng.randrange(300))
        parcel = other.seal(1, "pi-1", plain)
        for byte, forged in flipped(parcel):
            assert not _opens(opening, forged), f"byte {byte} of {parcel.hex()}"
        one.drain()
        assert one.open(3, "pi-2", parcel) == plain
        one.check()
        done += 8 * len(parcel)
    return {"bits": done}


def groups(scratch: Path, seed: int, count: int) -> Figures:
    """Frames to everybody, and the grant of their secret."""
    rng, done = random.Random(seed), 0
    context, topic = group_context(MESH.mesh_id), topic_for(Presence(MESH.mesh_id, "pi-2"))
    for byte, forged in flipped(GRANT):
        assert not _opens(lambda grant: epochs().adopt(0, grant, SECRET), forged), f"byte {byte} of the grant"
    done += 8 * len(GRANT)
    sender = GroupSender("pi-2", HELD, context, entropy=rng.randbytes)
    reader = GroupReceiver(HELD, context, is_member=lambda src: True)
    while done < count:
        plain = rng.randbytes(rng.randrange(300))
        frame = sender.seal(topic, plain)
        assert frame is not None
        for byte, forged in flipped(frame):
            try:
                opened = reader.open(0, topic, "pi-2", forged)
            except ProtocolViolation:
                continue
            assert isinstance(opened, EpochUnknown) and byte in EPOCH_BYTES, f"byte {byte} of {frame.hex()}"
        assert reader.open(0, topic, "pi-2", frame) == plain
        done += 8 * len(frame)
    return {"bits": done}


async def on_the_wire(scratch: Path, seed: int, count: int) -> Figures:
    """A broker shows all forgeries of a parcel, then the parcel; work goes on, and only the parcel counts."""
    rng, shown, parcels = random.Random(seed), 0, 0

    def every_bit(frame: Frame) -> list[Frame]:
        nonlocal shown, parcels
        if shown >= count or not is_parcel(frame.payload) or len(frame.payload) > 600 or rng.random() < 0.5:
            return [frame]
        forged = [Frame(frame.topic, payload) for _, payload in flipped(frame.payload)]
        shown, parcels = shown + len(forged), parcels + 1
        return [*forged, frame]

    async with HostileMesh(scratch, NAMES, rules=[only(direct, every_bit)]) as mesh:
        await mesh.deploy()
        tasks = 0
        while shown < count or not tasks:
            await mesh.stamps(10, at=["pi-1"], in_flight=2)
            tasks += 10
        assert mesh.violated >= shown - 8 * parcels, "they did arrive"
        return mesh.promises_kept(tasks) | {"bits": shown, "parcels": parcels}


def _opens(read: Callable[[bytes], object], data: bytes) -> bool:
    try:
        read(data)
    except ProtocolViolation:
        return False
    return True


async def run(context: Context) -> Outcome:
    return await tried(context, {envelopes: 0.5, sessions: 0.2, groups: 0.2, on_the_wire: 0.1})
