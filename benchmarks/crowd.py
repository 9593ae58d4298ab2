"""A crowd: hundreds of members of one mesh in one process, as far as their gateway can tell by what they say.

    python -m benchmarks.crowd      reads homes, one line, and beats until its stdin is closed

Each member has its certificate, a TLS connection of its own to the real broker, a session with the gateway
that was made and is kept by the cores that a node runs (``Channels``), the group's keys as the gateway handed
them over, and a beat a second with a load that moves. What the gateway says is acknowledged and goes no
further: members of the crowd take no work, keep no tables and follow nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import struct
import sys
import time
from collections import Counter
from pathlib import Path
from typing import ClassVar

from edge_node.clock import SystemClock
from edge_node.daemon import membership
from edge_node.membership.heartbeat import Heartbeat
from edge_node.transport import channel
from edge_node.transport.groupcast import GROUP, Groupcast
from edge_node.wire import topics
from edge_node.wire.codec import direct_context
from edge_node.wire.ids import GATEWAY
from edge_node.wire.messages import GroupKeys, GroupKeysWanted, Load
from security import tls
from security.identity import dns_name
from security.keystore import KeyStore
from security.roster import RosterView
from security.session import Sessions

AT_ONCE = 8
"""Connections that are made at once: a broker is no target of this measurement."""
KEEPALIVE_S = 60
CONNECT, PUBLISH, SUBSCRIBE = 0x10, 0x30, 0x82


def _text(text: str) -> bytes:
    return len(text).to_bytes(2, "big") + text.encode()


def packet(kind: int, body: bytes) -> bytes:
    """An MQTT 3.1.1 control packet."""
    head, size = bytearray([kind]), len(body)
    while True:
        size, digit = divmod(size, 128)[0], size % 128
        head.append(digit | (0x80 if size else 0))
        if not size:
            return bytes(head) + body


async def next_packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    kind = (await reader.readexactly(1))[0]
    size = shift = 0
    while True:
        digit = (await reader.readexactly(1))[0]
        size |= (digit & 0x7F) << shift
        if digit < 0x80:
            return kind, await reader.readexactly(size)
        shift += 7


class Voice:
    """One member of the crowd."""

    heard: ClassVar[Counter[str]] = Counter()
    """What the gateway said to all of them, by kind."""

    def __init__(self, home: Path, roster: RosterView, clock: SystemClock, rng: random.Random) -> None:
        keystore = KeyStore(home / "keys")
        identity, root = keystore.identity(), keystore.root()
        current = roster.current
        assert identity is not None and root is not None and current is not None
        self.name = home.name
        self._rng = rng
        self._clock = clock
        self._tls = tls.node_context(keystore.identity_path, root)
        self._mesh = current.mesh_id
        host, _, port = current.brokers[0].rpartition(":")
        self._address = host, int(port)
        self._cast = Groupcast(
            me=self.name,
            mesh_id=self._mesh,
            root_spki_sha256=keystore.root_spki_sha256() or b"",
            is_member=lambda peer: True,
            entropy=os.urandom,
        )
        boot_id = os.urandom(8)
        self._heart = Heartbeat(incarnation=time.time_ns() // 1_000_000, boot_id=boot_id)

        def keys_of(peer: str) -> tuple[bytes, ...]:
            member = current.member(peer)
            return tuple(key.x25519 for key in member.keys) if member is not None else ()

        self._channels = channel.Channels(
            me=self.name,
            mesh_id=self._mesh,
            sessions=Sessions(
                me=self.name,
                mesh_id=self._mesh,
                boot_id=boot_id,
                static=[identity.keys.static_private_bytes],
                keys_of=keys_of,
                context=direct_context(self._mesh),
                entropy=os.urandom,
                roster_version=lambda: roster.version,
                wall_ms=clock.wall_ms,
            ),
            signed_roster=lambda: None,
        )
        self._due: asyncio.TimerHandle | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.keyed = asyncio.Event()

    async def connect(self) -> asyncio.StreamReader:
        """Connected and subscribed to what is said to it; asks for a session. Returns: what comes."""
        reader, writer = await asyncio.open_connection(
            *self._address, ssl=self._tls, server_hostname=dns_name(self._mesh, "broker")
        )
        writer.write(
            packet(CONNECT, _text("MQTT") + bytes([4, 2]) + struct.pack(">H", KEEPALIVE_S) + _text(self.name))
        )
        _, answer = await next_packet(reader)
        assert answer[1] == 0, f"{self.name}: the broker refused it with {answer[1]}"
        inbox = topics.subscriptions(self._mesh, self.name)[0]
        writer.write(packet(SUBSCRIBE, b"\0\1" + _text(inbox) + b"\0"))
        _, answer = await next_packet(reader)
        assert answer[2] == 0, f"{self.name}: the broker refused its subscription with {answer[2]}"
        self._writer = writer
        self._channels.connect(self._clock.now_ns(), GATEWAY)
        self._turn([])
        return reader

    async def listen(self, reader: asyncio.StreamReader) -> None:
        """Feed what comes to the session until the connection ends."""
        while True:
            kind, body = await next_packet(reader)
            if kind & 0xF0 != PUBLISH:
                continue
            size = int.from_bytes(body[:2], "big")
            topic = topics.parse(body[2 : 2 + size].decode())
            assert isinstance(topic, topics.Direct)
            self._turn(self._channels.delivered(self._clock.now_ns(), topic, body[2 + size :]))

    def beat(self) -> None:
        load = Load(4, self._rng.choice((0, 0, 40, 900, 4000)), 0, 1.0)
        payload = self._cast.seal(0, [self._heart.direct(self._clock.wall_ms(), load)])
        assert payload is not None
        self._publish(self._cast.topic, payload)

    def _turn(self, effects: list[channel.Effect]) -> None:
        now_ns = self._clock.now_ns()
        self._carry_out(now_ns, [*effects, *self._channels.tick(now_ns)])
        self._carry_out(now_ns, self._channels.flush(now_ns))
        if self._due is not None:
            self._due.cancel()
        due_ns = self._channels.deadline_ns()
        loop = asyncio.get_running_loop()
        self._due = None if due_ns is None else loop.call_later(max(0, due_ns - now_ns) / 1e9, self._turn, [])

    def _carry_out(self, now_ns: int, effects: list[channel.Effect]) -> None:
        for effect in effects:
            match effect:
                case channel.Publish(_, topic, payload):
                    self._publish(topic, payload)
                case channel.PeerReady():
                    self._channels.send(now_ns, GATEWAY, GroupKeysWanted(GROUP, 0))
                case channel.Heard(peer, message):
                    self.heard[type(message).__name__] += 1
                    if isinstance(message, GroupKeys):
                        self._cast.came(now_ns, peer, message)
                        self.keyed.set()

    def _publish(self, topic: str, payload: bytes) -> None:
        assert self._writer is not None
        self._writer.write(packet(PUBLISH, _text(topic) + payload))


async def beat(voices: list[Voice]) -> None:
    """One beat a member and second, evenly spread."""
    begin = time.monotonic()
    for second in itertools.count():
        for number, voice in enumerate(voices):
            if number % 10 == 0:
                await asyncio.sleep(max(0.0, begin + second + number / len(voices) - time.monotonic()))
            voice.beat()


async def crowd(homes: list[Path]) -> None:
    _, roster = membership(KeyStore(homes[0] / "keys"))
    rng, clock = random.Random(1), SystemClock()
    voices = [Voice(each, roster, clock, rng) for each in homes]
    turn = asyncio.Semaphore(AT_ONCE)

    async with asyncio.TaskGroup() as group:

        async def connect(voice: Voice) -> None:
            async with turn:
                reader = await voice.connect()
                running.append(group.create_task(voice.listen(reader)))
                await voice.keyed.wait()

        running: list[asyncio.Task[None]] = []
        await asyncio.gather(*(connect(voice) for voice in voices))
        running.append(group.create_task(beat(voices)))
        print(len(voices), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for each in running:
            each.cancel()
    print("heard:", dict(Voice.heard), file=sys.stderr)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(crowd([Path(word) for word in sys.stdin.readline().split()] or []))
