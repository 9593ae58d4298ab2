"""Fault 6: parcels are lost, doubled, delayed and reordered between real agents over a real broker.

Nothing outside TLS can drop a message, so it happens on the way in: what a rule drops goes to a group that
nobody reads, where the broker acknowledges it as ever. How often each message was sent is counted where a
parcel is sealed, by its number in the stream, and not taken from the sender's own counters.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from edge_node.agent import Agent
from edge_node.wire.codec import unpack
from edge_node.wire.topics import Group, topic_for
from gateway.broker.broker import Broker
from security.errors import Refused, Unavailable
from security.identity import bearer
from security.keystore import KeyStore
from tests.faults.fault import BOTH, Context, Fault, Outcome
from tests.faults.trials import Figures, tried
from tests.support.hostile_mesh import HostileMesh, lines
from tests.support.hostile_proxy import Frame, Reorder, Rule, delay, drop, duplicate
from tests.support.links import free_port

FAULT = Fault(
    number=6,
    name="lossy-parcels",
    title="parcels lost 1, 10, 30 %, doubled 10 %, delayed 2 s, reordered 64 deep",
    brokers=BOTH,
    full=6_000,
    small=120,
    unit="tasks",
    round_max=600,
    round_s=60,
    bounds={f"parcels: sends a message, {what}": 4.0 for what in ("lost 1 %", "lost 10 %", "lost 30 %")},
)
NAMES = ["gateway", "pi-1", "pi-2"]


CONDITIONS = ("lost 1 %", "lost 10 %", "lost 30 %", "doubled 10 %", "delayed 2 s", "reordered 64")

IN_FLIGHT = {"delayed 2 s": 50, "reordered 64": 50}
"""Elsewhere few at a time: what goes together leaves in one parcel, and a few parcels show nothing."""


def rules_of(condition: str, rng: random.Random) -> list[Rule]:
    return {
        "lost 1 %": [drop(rng, 0.01)],
        "lost 10 %": [drop(rng, 0.10)],
        "lost 30 %": [drop(rng, 0.30)],
        "doubled 10 %": [duplicate(rng, 0.10)],
        "delayed 2 s": [delay(rng, 1.0, 2.0)],
        "reordered 64": [Reorder(rng, 64)],
    }[condition]


class BrokeredMesh(HostileMesh):
    """Agents in this process over a broker in its own; direct frames pass the rules before they leave."""

    def __init__(self, path: Path, names: list[str], *, broker: str) -> None:
        super().__init__(path, names)
        self.kind = broker
        self.hostile.port = free_port()  # where the members' links go
        self.sends: Counter[tuple[str, bytes, str, int]] = Counter()

    @contextlib.asynccontextmanager
    async def broker_of_this_mesh(self) -> AsyncIterator[None]:
        store = KeyStore(self.path / "broker-keys")
        store.save_root(self.authority.root_pem)
        broker = Broker(
            home=self.path / "broker-home", mesh_id=self.mesh_id, host="127.0.0.1", port=self.hostile.port,
            ca_file=store.root_path, cert_file=store.broker_path, key_file=store.broker_path, kind=self.kind,
            members=[bearer(name, keys.spki_sha256) for name, keys in self.keys.items()],
        )  # fmt: skip
        await broker.start()
        watch = asyncio.create_task(broker.run(), name="broker")
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.wait([watch])
            await broker.stop()

    async def start(self, name: str) -> Agent:
        agent = await super().start(name)
        seal, send = agent.sessions.seal, agent.link.send
        loop = asyncio.get_running_loop()

        def sealing(now_ns: int, peer: str, plain: bytes) -> bytes:
            for number, _ in unpack(plain)[1]:
                if number:
                    self.sends[name, agent.boot_id, peer, number] += 1
            return seal(now_ns, peer, plain)

        def sending(token: int, topic: str, payload: bytes, **how: Any) -> None:
            if "/d/" not in topic or not self.rules:
                send(token, topic, payload, **how)
                return
            frames = self._through(Frame(topic, payload))
            now = [frame for frame in frames if not frame.delay_s]
            first = now.pop(0) if now else Frame(topic_for(Group(self.mesh_id, "void", name)), b"")
            send(token, first.topic, first.payload, **how)
            for frame in now:
                later(frame)
            for frame in frames:
                if frame.delay_s:
                    loop.call_later(frame.delay_s, later, frame)

        def later(frame: Frame) -> None:
            with contextlib.suppress(Refused, Unavailable):  # a full line: this one is lost
                send(0, frame.topic, frame.payload)

        agent.sessions.seal = sealing  # type: ignore[method-assign]
        agent.link.send = sending  # type: ignore[method-assign]
        return agent

    def _through(self, frame: Frame) -> list[Frame]:
        frames = [frame]
        for rule in self.rules:
            frames = [out for each in frames for out in rule(each)]
        return frames


async def parcels(
    scratch: Path, seed: int, count: int, *, broker: str, under: Sequence[str] = CONDITIONS
) -> Figures:
    """As many tasks under each condition; all come back right, and nobody believes a parcel twice."""
    rng = random.Random(seed)
    told: Figures = {}
    each = max(1, count // len(under))
    async with BrokeredMesh(scratch, NAMES, broker=broker) as mesh:
        await mesh.deploy()
        for what in under:
            mesh.rules = rules_of(what, rng)
            mesh.sends.clear()
            begun = time.monotonic()
            file = await mesh.stamps(each, at=["pi-1", "pi-2"], in_flight=IN_FLIGHT.get(what, 4))
            mesh.rules = []
            assert set(lines(file)) == set(range(each)), what
            told[f"sends a message, {what}"] = round(mesh.sends.total() / len(mesh.sends), 3)
            told[f"seconds, {what}"] = round(time.monotonic() - begun, 1)
        return told | mesh.promises_kept(len(under) * each)


async def run(context: Context) -> Outcome:
    return await tried(context, {functools.partial(parcels, broker=context.broker): 1})
