"""A broker and its members in a world of their own, driven by hand: for tests of the virtual network."""

from __future__ import annotations

from typing import Any

from device_sim.virtual.broker import VirtualBroker
from device_sim.virtual.link import VirtualLink
from device_sim.virtual.network import LinkModel, Network
from device_sim.virtual.world import MS, SECOND, World
from edge_node.transport.inbox import Inbox
from edge_node.transport.link import Delivery, Sent
from gateway.broker.access import Access
from security.identity import bearer

MESH = "0123456789abcdef"
ROOT = f"ew/1/{MESH}"
PLAIN = LinkModel(delay_ms=1)


class Ear(Inbox):
    """Remembers what it heard and when; emptied at once, unless its wires are told not to."""

    def __init__(self, wires: Wires, capacity: int) -> None:
        super().__init__(capacity)
        self.heard: list[tuple[int, Any]] = []
        self._wires = wires
        self._due = False

    def put_nowait(self, event: Any) -> None:
        super().put_nowait(event)
        self._hear(event)

    def put_local(self, event: Any) -> None:
        super().put_local(event)
        self._hear(event)

    def _hear(self, event: Any) -> None:
        self.heard.append((self._wires.world.now_ns, event))
        if not self._due:
            self._due = True
            self._wires.world.soon(self.empty)

    def empty(self) -> None:
        self._due = False
        if self._wires.reading:
            self.drain()


class Member:
    """A link and all that its inbox has heard, with its moments."""

    def __init__(self, wires: Wires, name: str, capacity: int, **options: Any) -> None:
        self.name = name
        self.inbox = Ear(wires, capacity)
        self.heard = self.inbox.heard
        self.tokens = 0
        self.link = VirtualLink(
            wires.world, wires.network, wires.broker, name, wires.bearers[name], self.inbox, **options
        )

    def send(self, to: str, payload: bytes, **options: Any) -> int:
        self.tokens += 1
        self.link.send(self.tokens, f"{ROOT}/d/{to}/{self.name}", payload, **options)
        return self.tokens

    def beat(self, payload: bytes = b"beat") -> None:
        self.link.send(0, f"{ROOT}/p/{self.name}", payload, qos=0)

    def of(self, kind: Any) -> list[Any]:
        return [event for _, event in self.heard if isinstance(event, kind)]

    def at(self, kind: Any) -> list[int]:
        return [at_ns for at_ns, event in self.heard if isinstance(event, kind)]

    @property
    def payloads(self) -> list[bytes]:
        return [event.payload for event in self.of(Delivery)]

    @property
    def tokens_told(self) -> list[int]:
        return [event.token for event in self.of(Sent)]


class Wires:
    """`models`: of each member's line, by name; the gateway runs on the broker's host."""

    def __init__(self, *names: str, seed: int = 1, model: LinkModel = PLAIN, **models: LinkModel) -> None:
        self.world = World(seed)
        self.network = Network(self.world)
        self.bearers = {name: bearer(name, name.encode().ljust(32)) for name in ("gateway", *names)}
        self.broker = VirtualBroker(self.world, self.network, Access(MESH), self.bearers.values())
        self.members: dict[str, Member] = {}
        self.reading = True
        for name in self.bearers:
            self.network.attach(name, models.get(name, model), local=name == "gateway")

    def up(self, name: str, *topics: str, capacity: int = 4096, **options: Any) -> Member:
        """A member that reads its own inbox and these topics (below the mesh's), connected."""
        member = self.joined(name, *topics, capacity=capacity, **options)
        for _ in range(3000):
            if member.link.up:
                return member
            self.run_ms(1)
        raise AssertionError(f"{name} is not up: {member.heard}")

    def joined(self, name: str, *topics: str, capacity: int = 4096, **options: Any) -> Member:
        """The same, only begun."""
        member = self.members[name] = Member(self, name, capacity, **options)
        member.link.subscribe([f"{ROOT}/d/{name}/+", *(f"{ROOT}/{topic}" for topic in topics)])
        member.link.start()
        return member

    def run_ms(self, ms: float) -> None:
        self.world.run_until(self.world.now_ns + round(ms * MS))

    def run_s(self, s: float) -> None:
        self.world.run_until(self.world.now_ns + round(s * SECOND))

    def read(self) -> None:
        """Every inbox is emptied again."""
        self.reading = True
        for member in self.members.values():
            member.inbox.empty()
