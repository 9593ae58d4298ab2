"""A broker that answers a SUBSCRIBE late, or hangs up instead: what a link waits for and what it does not."""

from __future__ import annotations

import asyncio
import contextlib

from edge_node.transport import mqtt
from edge_node.transport.inbox import Inbox
from edge_node.transport.link import LinkDown, LinkUp

CONNECT, SUBSCRIBE = 0x10, 0x80
CONNACK = b"\x20\x02\x00\x00"


class SlowBroker:
    """Bytes of MQTT on loopback. *retained*: before the SUBACK, in pieces with *pause_s* between them."""

    def __init__(
        self, *, hangs_up: int = 0, retained: list[bytes] | None = None, pause_s: float = 0.0
    ) -> None:
        self.hangs_up = hangs_up  # so many connections are closed instead of a SUBACK
        self.retained = retained or []
        self.pause_s = pause_s
        self.connects = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connects += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                first, length = await reader.readexactly(2)
                body = await reader.readexactly(length)
                if first & 0xF0 == CONNECT:
                    writer.write(CONNACK)
                elif first & 0xF0 == SUBSCRIBE:
                    if self.connects <= self.hangs_up:
                        break
                    for piece in self.retained:
                        writer.write(piece)
                        await asyncio.sleep(self.pause_s)
                    writer.write(b"\x90\x03" + body[:2] + b"\x01")
        writer.close()


@contextlib.asynccontextmanager
async def linked(broker: SlowBroker):
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    inbox = Inbox(64)
    link = mqtt.MqttLink(addresses=lambda: [address], client_id="a", tls=None, inbox=inbox)
    link.subscribe(["roster"])
    running = asyncio.create_task(link.run())
    try:
        yield inbox
    finally:
        running.cancel()
        await asyncio.wait([running])
        server.close()


async def first(inbox: Inbox, kind: type):
    async with asyncio.timeout(20):
        while True:
            for event in await inbox.take():
                if isinstance(event, kind):
                    return event


async def test_a_roster_that_takes_long_does_not_end_the_connection_that_brings_it(monkeypatch):
    """A line of 40 kbit/s needs longer for it than any connect may take; another try would begin it anew."""
    monkeypatch.setattr(mqtt, "CONNECT_S", 0.3)
    payload = b"\x00\x06roster" + bytes(100)
    packet = b"\x31" + bytes([len(payload)]) + payload
    broker = SlowBroker(retained=[packet[:40], packet[40:80], packet[80:]], pause_s=0.15)

    async with linked(broker) as inbox:
        assert await first(inbox, LinkUp) == LinkUp(1)
    assert broker.connects == 1


async def test_a_connection_that_ends_before_its_subscriptions_stand_is_not_waited_for():
    broker = SlowBroker(hangs_up=1)

    async with linked(broker) as inbox:
        assert await first(inbox, LinkDown) == LinkDown("the broker closed the connection")
        assert await first(inbox, LinkUp) == LinkUp(1)
    assert broker.connects == 2
