"""A crowd: hundreds of members of one mesh in one process, as far as their gateway can tell by their beats.

    python -m benchmarks.crowd      reads homes, one line, and beats until its stdin is closed

The first home's member is a real agent: it makes its session and is given the group's keys. The others are a
certificate, a TLS connection of their own to the real broker and a beat a second under the group's key, with
loads that move; they make no session and take no work. A gateway hears, opens and believes each beat as any.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import time
from pathlib import Path

from edge_node.agent import Agent
from edge_node.clock import SystemClock
from edge_node.daemon import journal_of, membership, mqtt_link, worker_pool
from edge_node.home import Home
from edge_node.membership.heartbeat import Heartbeat
from edge_node.settings import NodeSettings
from edge_node.transport.groupcast import Groupcast
from edge_node.transport.inbox import Inbox
from edge_node.wire.messages import GroupKeys, Load
from security import tls
from security.identity import dns_name
from security.keystore import KeyStore

AT_ONCE = 8
"""Connections that are made at once: a broker is no target of this measurement."""
KEEPALIVE_S = 60


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


class Voice:
    """One member of the crowd."""

    def __init__(self, home: Path, rng: random.Random) -> None:
        keystore = KeyStore(home / "keys")
        _, roster = membership(keystore)
        root = keystore.root()
        assert root is not None and roster.current is not None
        self.name = home.name
        self._rng = rng
        self._tls = tls.node_context(keystore.identity_path, root)
        self._mesh = roster.current.mesh_id
        host, _, port = roster.current.brokers[0].rpartition(":")
        self._address = host, int(port)
        self._cast = Groupcast(
            me=self.name,
            mesh_id=self._mesh,
            root_spki_sha256=keystore.root_spki_sha256(),
            is_member=lambda peer: True,
            entropy=os.urandom,
        )
        self._heart = Heartbeat(incarnation=time.time_ns() // 1_000_000, boot_id=os.urandom(8))
        self._writer: asyncio.StreamWriter | None = None

    async def connect(self) -> None:
        reader, writer = await asyncio.open_connection(
            *self._address, ssl=self._tls, server_hostname=dns_name(self._mesh, "broker")
        )
        writer.write(
            packet(0x10, _text("MQTT") + bytes([4, 2]) + KEEPALIVE_S.to_bytes(2, "big") + _text(self.name))
        )
        answer = await reader.readexactly(4)
        assert answer[3] == 0, f"{self.name}: the broker refused it with {answer[3]}"
        self._writer = writer

    def beat(self, keys: GroupKeys | None) -> None:
        assert self._writer is not None
        if keys is not None:
            self._cast.came(0, "gateway", keys)
        load = Load(4, self._rng.choice((0, 0, 40, 900, 4000)), 0, 1.0)
        payload = self._cast.seal(0, [self._heart.direct(0, load)])
        assert payload is not None
        self._writer.write(packet(0x30, _text(self._cast.topic) + payload))


async def beat(agent: Agent, voices: list[Voice]) -> None:
    """One beat a member and second, evenly spread."""
    told: GroupKeys | None = None
    begin = time.monotonic()
    for second in range(10**9):
        epoch = agent.presence.groupcast.current
        assert epoch is not None
        keys = GroupKeys(epoch.grant, epoch.secret)
        for number, voice in enumerate(voices):
            if number % 10 == 0:
                await asyncio.sleep(max(0.0, begin + second + number / len(voices) - time.monotonic()))
            voice.beat(keys if keys != told else None)
        told = keys


async def crowd(homes: list[Path]) -> None:
    home = Home(homes[0])
    keystore = KeyStore(home.keys)
    identity, roster = membership(keystore)
    settings, clock, inbox = NodeSettings(), SystemClock(), Inbox(1024)
    link = mqtt_link(
        home.path.name,
        roster,
        keystore,
        settings,
        inbox,
        clock,
        lambda: agent.broker_addresses(),  # noqa: PLW0108  made below
    )
    agent = Agent(
        node_id=home.path.name,
        home=home,
        settings=settings,
        keys=identity.keys,
        keystore=keystore,
        roster=roster,
        inbox=inbox,
        link=link,
        runtime=worker_pool(settings, 1),
        journal=journal_of(home, roster, home.path.name),
        mdns="none",
    )
    rng = random.Random(1)
    voices = [Voice(each, rng) for each in homes[1:]]
    turn = asyncio.Semaphore(AT_ONCE)

    async def connect(voice: Voice) -> None:
        async with turn:
            await voice.connect()

    async with asyncio.TaskGroup() as group:
        running = group.create_task(agent.run())
        await agent.ready()
        while agent.presence.groupcast.current is None:
            await asyncio.sleep(0.05)
        await asyncio.gather(*(connect(voice) for voice in voices))
        beating = group.create_task(beat(agent, voices))
        print(len(voices) + 1, flush=True)
        await asyncio.to_thread(sys.stdin.read)
        beating.cancel()
        running.cancel()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(crowd([Path(word) for word in sys.stdin.readline().split()] or []))
