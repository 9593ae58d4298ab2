"""A little mesh whose broker is hostile, and a witness that notes what its members believe.

Real agents, sessions, journals and workers; real MQTT over real TLS to a `HostileBroker`, which holds the
broker's genuine key, as any member that hosts the broker does.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiomqtt
from cryptography.hazmat.primitives.asymmetric import ec

from edge_node.agent import Agent
from edge_node.client import Mesh
from edge_node.transport.inbox import Inbox
from edge_node.transport.mqtt import MqttLink
from edge_node.wire.topics import Direct, Presence, topic_for
from security import tls
from security.identity import NodeKeys, dns_name
from security.keystore import KeyStore
from tests.support.hostile_proxy import HostileBroker, Rule, length_of
from tests.support.little_mesh import LittleMesh

FUNCTIONS = '''
import os
import time

from edge_node.functions import function


@function(timeout_s=20)
def stamp(path: str, n: int) -> int:
    """Leaves a line: what ran can be counted."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, b"%d\\n" % n)
    os.close(file)
    return n * 7 + 1


@function(timeout_s=20)
def keep(secret_argument_name: str) -> str:
    """A word that nobody else may read: the-docstring-is-a-secret."""
    print("the-printed-line-is-a-secret")
    return "the-result-is-a-secret:" + secret_argument_name


@function(timeout_s=20)
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds
'''


class Witness:
    """What real members sent, what they believed, and what they began to run."""

    def __init__(self, mesh_id: str) -> None:
        self.mesh_id = mesh_id
        self.sent: set[tuple[str, bytes]] = set()
        self.believed: Counter[tuple[str, bytes, str, bytes]] = Counter()
        self.followed: Counter[tuple[str, bytes, str, bytes]] = Counter()
        self.started: Counter[tuple[str, bytes, str, int]] = Counter()

    def watch(self, agent: Agent) -> None:
        send, open_, start = agent.link.send, agent.sessions.open, agent.runtime.start

        def sending(token: int, topic: str, payload: bytes, **how: Any) -> None:
            send(token, topic, payload, **how)
            self.sent.add((topic, payload))

        def opening(now_ns: int, src: str, frame: bytes) -> bytes:
            plain = open_(now_ns, src, frame)
            self.believed[agent.node_id, agent.boot_id, src, bytes(frame)] += 1
            return plain

        def starting(call: Any) -> None:
            self.started[agent.node_id, agent.boot_id, call.task, call.attempt] += 1
            start(call)

        cast = agent.presence.groupcast
        delivered = cast.delivered

        def presence(now_ns: int, topic: Presence, payload: bytes) -> Any:
            heard = delivered(now_ns, topic, payload)
            if heard:
                self.followed[agent.node_id, agent.boot_id, topic_for(topic), bytes(payload)] += 1
            return heard

        cast.delivered = presence  # type: ignore[method-assign]
        agent.link.send = sending  # type: ignore[method-assign]
        agent.sessions.open = opening  # type: ignore[method-assign]
        agent.runtime.start = starting  # type: ignore[method-assign]

    def violations(self) -> list[str]:
        """Parcels believed that were not sent, or to somebody else, or believed before; double runs."""
        wrong = []
        for (me, _, src, frame), times in self.believed.items():
            if (topic_for(Direct(self.mesh_id, me, src)), frame) not in self.sent:
                wrong.append(f"{me} believed a parcel that {src} never sent to it")
            if times > 1:
                wrong.append(f"{me} believed one parcel of {src} {times} times")
        wrong += [
            f"{me} ran {task}/{n} twice" for (me, _, task, n), times in self.started.items() if times > 1
        ]
        return wrong


class HostileMesh(LittleMesh):
    """``async with HostileMesh(tmp_path, ["gateway", "pi-1"], rules=[...]) as mesh``"""

    def __init__(
        self, path: Path, names: list[str], *, rules: list[Rule] | None = None, **options: Any
    ) -> None:
        super().__init__(path, names, **options)
        self.certificates = path / "certificates"
        self.witness = Witness(self.mesh_id)
        self.rules = rules or []
        self._broker_bed = contextlib.AsyncExitStack()
        key = ec.generate_private_key(ec.SECP256R1())
        store = KeyStore(path / "broker-keys")
        leaf = self.authority.issue_broker(key.public_key(), now_s=int(time.time()))
        store.save_broker(key, leaf_pem=leaf, issuing_pem=self.authority.issuing_pem)
        self.hostile = HostileBroker(
            tls.server_context(store.broker_path, self.authority.root, client_certificates=True)
        )

    async def __aenter__(self) -> HostileMesh:
        await self._broker_bed.enter_async_context(self.broker_of_this_mesh())
        try:
            await super().__aenter__()
        except BaseException:
            await self.__aexit__()
            raise
        self.hostile.rules = self.rules  # a mesh first comes up, then it is attacked
        return self

    def broker_of_this_mesh(self) -> contextlib.AbstractAsyncContextManager[Any]:
        return self.hostile

    async def __aexit__(self, *exc: object) -> None:
        await super().__aexit__(*exc)
        await self._broker_bed.aclose()

    def certified(self, name: str, keystore: KeyStore) -> KeyStore:
        if keystore.identity() is None:
            keys = self.keys[name]
            leaf = self.authority.issue(keys.signing.public_key(), name, now_s=int(time.time()))
            keystore.save_root(self.authority.root_pem)
            keystore.save_identity(keys, leaf_pem=leaf, issuing_pem=self.authority.issuing_pem)
        return keystore

    def link_of(self, name: str, keystore: KeyStore, inbox: Inbox) -> MqttLink:
        self.certified(name, keystore)
        return MqttLink(
            addresses=lambda: [("127.0.0.1", self.hostile.port)],
            client_id=name,
            tls=lambda: tls.node_context(keystore.identity_path, self.authority.root),
            server_name=dns_name(self.mesh_id, "broker"),
            inbox=inbox,
            will_topic=topic_for(Presence(self.mesh_id, name)),
            check_peer=lambda sock: tls.check_peer(sock, floor_s=0) and None,
            rng=random.Random(1),
        )

    async def start(self, name: str) -> Agent:
        agent = await super().start(name)
        self.witness.watch(agent)
        return agent

    def enrol(self, *names: str) -> None:
        """Members that the roster lists and whose homes are complete, for daemons of their own."""
        for name in names:
            self.keys[name] = NodeKeys.generate()
        listed = self.sign([*self.names, *names])
        self.sign = lambda members=None: listed  # type: ignore[method-assign]
        for name in names:
            self.certified(name, KeyStore(self.home(name).keys)).save_roster(listed)

    # ── attackers ─────────────────────────────────────────────────────────────────────────────────

    def context_of(self, name: str) -> ssl.SSLContext:
        """The TLS side of somebody who holds *name*'s key."""
        context = tls.node_context(self.home(name).path / "keys" / "identity.pem", self.authority.root)
        context.check_hostname = False
        return context

    def thief(self, name: str, identifier: str, **options: Any) -> aiomqtt.Client:
        """A client that shows *name*'s certificate and calls itself *identifier*."""
        return aiomqtt.Client(
            "127.0.0.1", self.hostile.port, identifier=identifier, tls_context=self.context_of(name),
            tls_insecure=True, timeout=5, **options,
        )  # fmt: skip

    async def take_over(self, name: str, victim: str, *, say: list[tuple[str, bytes]]) -> None:
        """With *name*'s certificate, in *victim*'s place for a moment: reads `#`, says this, is gone."""
        _, writer = await asyncio.open_connection(
            "127.0.0.1", self.hostile.port, ssl=self.context_of(name), server_hostname="broker"
        )
        named = _text(b"MQTT") + b"\x04\x82\x00\x0a" + _text(victim.encode()) + _text(victim.encode())
        packets = [(0x10, named), (0x82, b"\0\1" + _text(b"#") + b"\0")]
        packets += [(0x30, _text(topic.encode()) + payload) for topic, payload in say]
        for head, rest in packets:
            writer.write(bytes((head,)) + length_of(len(rest)) + rest)
        with contextlib.suppress(OSError):  # the victim may have its place back before we are done
            await writer.drain()
        tls.abort(writer.transport)

    def d(self, dst: str, src: str) -> str:
        return topic_for(Direct(self.mesh_id, dst, src))

    # ── work ──────────────────────────────────────────────────────────────────────────────────────

    async def deploy(self, *everywhere: str) -> None:
        async with Mesh.open(self.path / "gateway") as mesh:
            await mesh.call("deploy", {"source": FUNCTIONS.encode(), "stem": "plant", "only_if_new": True})
        async with asyncio.timeout(60):
            for name in everywhere or self.names:
                while "plant.stamp" not in self.agents[name].catalogue.names():
                    await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def asking(self, name: str = "gateway") -> AsyncIterator[Mesh]:
        async with Mesh.open(self.path / name) as mesh:
            yield mesh

    async def stamps(self, count: int, *, by: str = "gateway", at: list[str], in_flight: int = 100) -> Path:
        """*count* tasks over the wire, each of which must come back right; the file that they wrote."""
        file = self.path / f"stamps-{by}-{len(list(self.path.glob('stamps-*')))}"
        gate = asyncio.Semaphore(in_flight)

        async def one(mesh: Mesh, n: int) -> int:
            async with gate:
                return await mesh.run("plant.stamp", str(file), n, where=at[n % len(at)])

        async with self.asking(by) as mesh:
            results = await asyncio.gather(*(one(mesh, n) for n in range(count)))
        assert results == [n * 7 + 1 for n in range(count)]
        return file

    @property
    def violated(self) -> int:
        """What members have refused so far, counted by themselves."""
        return sum(agent.channels.violations.total() for agent in self.agents.values())

    def promises_kept(self, count: int) -> dict[str, float | int | str]:
        """All *count* tasks of the gateway were accepted, settled, done; nobody believed anything else."""
        assert self.settled("gateway") == (count, count, count)
        assert self.witness.violations() == []
        return {"accepted": count, "frames": len(self.hostile.taken), "refused": self.violated}

    def settled(self, name: str) -> tuple[int, int, int]:
        """From this member's ledger: tasks accepted, settled, and settled as done."""
        with contextlib.closing(
            sqlite3.connect(f"file:{self.home(name).ledger}?mode=ro", uri=True)
        ) as ledger:
            counts = (
                "SELECT count(*) FROM records WHERE kind = 0",
                "SELECT count(*) FROM records WHERE kind = 1",
                "SELECT count(*) FROM records WHERE kind = 1 AND state = 'done'",
            )
            return tuple(ledger.execute(query).fetchone()[0] for query in counts)  # type: ignore[return-value]


def _text(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def lines(file: Path) -> list[int]:
    """What the tasks of ``stamps`` wrote."""
    return sorted(map(int, file.read_text().split()))


async def until(what: Callable[[], Any], *, within_s: float = 30) -> None:
    async with asyncio.timeout(within_s):
        while not what():
            await asyncio.sleep(0.01)
