"""Beds for links: the same handful of verbs over brokers in memory and a virtual world, mosquitto, amqtt."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from device_sim.virtual.broker import VirtualBroker
from device_sim.virtual.link import VirtualLink
from device_sim.virtual.network import LinkModel, Network
from device_sim.virtual.world import World
from edge_node.transport.inbox import Inbox
from edge_node.transport.link import Delivery, LinkUp
from edge_node.transport.memory import MemoryBroker, MemoryLink
from edge_node.transport.mqtt import MqttLink
from gateway.broker.access import Access
from gateway.broker.broker import Broker
from security.identity import bearer
from tests.support.certs_for_tests import MESH, Leaf, TestAuthority

ROOT = f"ew/1/{MESH}"
MEMBERS = ("a", "b", "c")
MOSQUITTO = bool(shutil.which("mosquitto", path="/usr/bin:/usr/sbin:/usr/local/sbin"))
KINDS = [
    "memory",
    "virtual",
    pytest.param("mosquitto", marks=[pytest.mark.mosquitto, pytest.mark.slow]),
    pytest.param("embedded", marks=pytest.mark.slow),
]
BROKERS = KINDS[2:]


def needs(kind: str) -> None:
    if kind == "mosquitto" and not MOSQUITTO:
        pytest.skip("mosquitto is not installed")


def free_port() -> int:
    """Of loopback, never the same twice; none that the kernel gives to whoever connects or asks for any,
    as a test beside this one does: a daemon that restarts wants it back.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10_000, first) if first > 11_000 else 0
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", port))
            port = trial.getsockname()[1]
            if port not in _GIVEN:
                _GIVEN.add(port)
                return port


_GIVEN: set[int] = set()


class Ears:
    """An inbox with a memory: wait for an event by what it is."""

    def __init__(self, capacity: int = 1024) -> None:
        self.inbox = Inbox(capacity)
        self.heard: list[Any] = []

    async def until(self, wanted: Any, *, count: int = 1, within_s: float = 60.0) -> list[Any]:
        """All events so far for which `wanted` holds, at least `count`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while len(found := [event for event in self.heard if wanted(event)]) < count:
                    self.heard += await self.inbox.take()
                return found
        raise AssertionError(f"waited {within_s} s for {count} × {wanted}; heard {self.heard[-20:]}")

    async def kinds(self, kind: type, *, count: int = 1) -> list[Any]:
        return await self.until(lambda event: isinstance(event, kind), count=count)

    async def payloads(self, *, count: int) -> list[bytes]:
        return [event.payload for event in await self.kinds(Delivery, count=count)]


class MemoryBed:
    kind = "memory"

    def __init__(self) -> None:
        rules = Access(MESH, frozenset(MEMBERS))
        self.broker = MemoryBroker(may_write=rules.may_write, may_read=rules.may_subscribe)

    def link(self, name: str, ears: Ears, *, will: bool = False, queue_max: int = 256) -> MemoryLink:
        topic = f"{ROOT}/p/{name}" if will else None
        return MemoryLink(self.broker, name, ears.inbox, will=topic, queue_max=queue_max)

    def cut(self, link: MemoryLink) -> None:
        self.broker.cut(link.client_id)


class VirtualBed:
    """A world that keeps pace with the clock of the loop that the test runs on."""

    kind = "virtual"
    pace_s = 0.001

    def __init__(self, seed: int = 1, model: LinkModel | None = None) -> None:
        self.world = World(seed)
        self.network = Network(self.world)
        self.model = model if model is not None else LinkModel()
        self.bearers = {name: bearer(name, name.encode().ljust(32)) for name in ("gateway", *MEMBERS)}
        self.broker = VirtualBroker(self.world, self.network, Access(MESH), self.bearers.values())

    def link(
        self, name: str, ears: Ears, *, will: bool = False, queue_max: int = 256, **options: Any
    ) -> VirtualLink:
        self.network.attach(name, self.model)
        shown = options.pop("bearer", self.bearers.get(name, ""))
        topic = f"{ROOT}/p/{name}" if will else None
        return VirtualLink(
            self.world,
            self.network,
            self.broker,
            name,
            shown,
            ears.inbox,
            will=topic,
            queue_max=queue_max,
            **options,
        )

    def cut(self, link: VirtualLink) -> None:
        self.broker.cut(link.client_id)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[VirtualBroker]:
        pace = asyncio.create_task(self._keep_pace(), name="virtual world")
        try:
            yield self.broker
        finally:
            pace.cancel()
            await asyncio.wait([pace])
            if not pace.cancelled():
                pace.result()  # what was raised in the world is the test's

    async def _keep_pace(self) -> None:
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        while True:
            self.world.run_until(round((loop.time() - begin_s) * 1e9))
            await asyncio.sleep(self.pace_s)


class BrokerBed:
    """A real broker in its own process, real TLS, real certificates."""

    def __init__(self, kind: str, folder: Path, *, host: str = "127.0.0.1") -> None:
        self.kind = kind
        self.folder = folder
        self.authority = TestAuthority(folder / "ca")
        self.port = free_port()
        self.host = host
        self.leaves = {name: self.authority.leaf(name) for name in ("gateway", *MEMBERS)}
        self.shown = self.authority.broker()

    def members(self) -> list[str]:
        """Whom the broker lets in: names and keys."""
        return [leaf.bearer for leaf in self.leaves.values()]

    def new_broker(self, **changes: Any) -> Broker:
        options: dict[str, Any] = {
            "home": self.folder / "home",
            "mesh_id": MESH,
            "host": self.host,
            "port": self.port,
            "ca_file": self.authority.ca_file,
            "cert_file": self.shown.cert_file,
            "key_file": self.shown.key_file,
            "kind": self.kind,
            "members": self.members(),
        }
        return Broker(**options | changes)

    def link(
        self,
        name: str,
        ears: Ears,
        *,
        will: bool = False,
        queue_max: int = 256,
        leaf: Leaf | None = None,
        no_leaf: bool = False,
        **options: Any,
    ) -> MqttLink:
        shown = None if no_leaf else leaf or self.leaves[name]
        return MqttLink(
            **{
                "addresses": lambda: [(self.host, self.port)],
                "client_id": name,
                "tls": lambda: self.authority.client_context(shown),
                "server_name": self.authority.broker_name,
                "inbox": ears.inbox,
                "will_topic": f"{ROOT}/p/{name}" if will else None,
                "queue_max": queue_max,
                "rng": random.Random(1),
                **options,
            }
        )

    def cut(self, link: MqttLink) -> None:
        """As a dead network: no goodbye."""
        link._client._sock.shutdown(socket.SHUT_RDWR)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Broker]:
        broker = self.new_broker()
        await broker.start()
        watch = asyncio.create_task(broker.run(), name="broker")
        try:
            yield broker
        finally:
            watch.cancel()
            await asyncio.wait([watch])
            await broker.stop()

    @staticmethod
    def kill(broker: Broker) -> None:
        broker._process.send(signal.SIGKILL)


@contextlib.asynccontextmanager
async def up(link: Any, ears: Ears, topics: list[str]) -> AsyncIterator[Any]:
    """The link with `topics`, connected; cancelled (a clean goodbye) at the end."""
    link.subscribe(topics)
    task = asyncio.create_task(link.run(), name=link.client_id)
    try:
        await ears.kinds(LinkUp)
        yield link
    finally:
        task.cancel()
        await asyncio.wait([task])


def raw(bed: BrokerBed, leaf: Leaf, identifier: str, **options: Any) -> aiomqtt.Client:
    """A client that is not ours, and so not as polite."""
    context = bed.authority.client_context(leaf)
    context.check_hostname = False
    return aiomqtt.Client(
        "127.0.0.1",
        bed.port,
        identifier=identifier,
        tls_context=context,
        tls_insecure=True,
        timeout=3,
        **options,
    )
