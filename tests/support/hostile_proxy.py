"""A broker that works against its clients: MQTT 3.1.1 over TLS, permissive, and ruled by a test.

    broker = HostileBroker(context, rules=[drop(rng, 0.1), duplicate(rng, 0.1)])
    async with broker: ...                      # broker.port; every publication passes the rules in turn
    broker.replay(broker.taken[7], times=3)     # and whatever the test injects

It terminates TLS with the certificate `broker.<mesh_id>.mesh`, as any member that hosts the broker may. It
has no access rules: every client may subscribe to `#`, publish anywhere and take over any client id; so what
members refuse, they refuse by themselves. It is the broker rather than a relay before one: nothing that it
does can be undone by a correct broker behind it.

MQTT 3.1.1 has no properties; the head bits that it does have (DUP, QoS, RETAIN) can be falsified (`relabel`).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import ssl
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

CONNECT, PUBLISH, PUBACK, SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT = 1, 3, 4, 8, 10, 12, 14
PACKET_BYTES_MAX = 1024 * 1024
UNSENT_BYTES_MAX = 32 * 1024 * 1024
"""A reader that falls this far behind is cut, as at any broker: a flood must not eat the test's machine."""
TAKEN_MAX = 500_000
"""Publications remembered for the oracle and for replays: a few hundred bytes each."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One publication. *by* is the client id that sent it; "" the broker itself."""

    topic: str
    payload: bytes
    by: str = ""
    retain: bool = False
    qos: int = 1
    dup: bool = False
    delay_s: float = 0.0


Rule = Callable[[Frame], Iterable[Frame]]


# ── rules ─────────────────────────────────────────────────────────────────────────────────────────────


def only(concerns: Callable[[Frame], bool], rule: Rule) -> Rule:
    """*rule* for the frames that it *concerns*, the others pass."""
    return lambda frame: rule(frame) if concerns(frame) else (frame,)


def direct(frame: Frame) -> bool:
    return "/d/" in frame.topic


def drop(rng: random.Random, share: float) -> Rule:
    return lambda frame: () if rng.random() < share else (frame,)


def duplicate(rng: random.Random, share: float, times: int = 2) -> Rule:
    return lambda frame: (frame,) * (times if rng.random() < share else 1)


def delay(rng: random.Random, share: float, delay_s: float) -> Rule:
    """Later ones overtake it."""
    return lambda frame: (
        dataclasses.replace(frame, delay_s=rng.uniform(0, delay_s)) if rng.random() < share else frame,
    )


class Reorder:
    """Holds up to *depth* frames back and lets them go in any order."""

    def __init__(self, rng: random.Random, depth: int) -> None:
        self._rng = rng
        self._depth = depth
        self._held: list[Frame] = []

    def __call__(self, frame: Frame) -> Iterable[Frame]:
        self._held.append(frame)
        if len(self._held) < self._depth and self._rng.random() < 0.5:
            return ()
        out, self._held = self._held, []
        self._rng.shuffle(out)
        return out


def flip(rng: random.Random, share: float, *, beside: bool = False) -> Rule:
    """A changed byte somewhere; *beside*: next to the genuine one, which is then kept."""

    def flipped(frame: Frame) -> Iterable[Frame]:
        if not frame.payload or rng.random() >= share:
            return (frame,)
        forged = bytearray(frame.payload)
        forged[rng.randrange(len(forged))] ^= rng.randrange(1, 256)
        changed = dataclasses.replace(frame, payload=bytes(forged))
        return (changed, frame) if beside else (changed,)

    return flipped


def cut_short(rng: random.Random, share: float) -> Rule:
    """Some of its bytes, or some more."""

    def changed(frame: Frame) -> Iterable[Frame]:
        if not frame.payload or rng.random() >= share:
            return (frame,)
        at = rng.randrange(len(frame.payload) + 8)
        return (dataclasses.replace(frame, payload=(frame.payload + rng.randbytes(8))[:at]), frame)

    return changed


def relabel(rng: random.Random, share: float) -> Rule:
    """The head says retained, a repetition, another quality of service."""
    return lambda frame: (
        dataclasses.replace(frame, retain=rng.random() < 0.5, dup=rng.random() < 0.5, qos=rng.randrange(2))
        if rng.random() < share
        else frame,
    )


def copied_to(others: Callable[[Frame], Iterable[str]]) -> Rule:
    """The same payload on other topics too, before it arrives where it belongs."""
    return lambda frame: (
        *(dataclasses.replace(frame, topic=topic) for topic in others(frame) if topic != frame.topic),
        frame,
    )


# ── the broker ────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Client:
    name: str
    writer: asyncio.StreamWriter
    filters: dict[str, int] = field(default_factory=dict)
    will: Frame | None = None
    user: str = ""

    def send(self, frame: Frame, mid: int) -> None:
        topic = frame.topic.encode()
        qos = min(frame.qos, 1)
        head = PUBLISH << 4 | (8 if frame.dup and qos else 0) | qos << 1 | int(frame.retain)
        rest = (
            len(topic).to_bytes(2, "big") + topic + (mid.to_bytes(2, "big") if qos else b"") + frame.payload
        )
        self.write(head, rest)

    def write(self, head: int, rest: bytes) -> None:
        if self.writer.is_closing():
            return
        if self.writer.transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            self.abort()
            return
        self.writer.write(bytes((head,)) + length_of(len(rest)) + rest)

    def abort(self) -> None:
        with contextlib.suppress(AttributeError):  # CPython 3.11.2: a TLS transport that is closed already
            self.writer.transport.abort()


class HostileBroker:
    def __init__(self, context: ssl.SSLContext, *, rules: Iterable[Rule] = ()) -> None:
        self.rules = list(rules)
        self.taken: list[Frame] = []  # what clients published, genuine for all the broker knows
        self.given: Counter[str] = Counter()  # deliveries by topic
        self.retained: dict[str, Frame] = {}
        self.withheld: Callable[[Frame], bool] = lambda frame: False  # never retained, never passed on
        self.connects: Counter[str] = Counter()
        self.port = 0
        self._context = context
        self._clients: dict[str, Client] = {}
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._mid = 0

    async def __aenter__(self) -> HostileBroker:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._context, ssl_handshake_timeout=5
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for timer in self._timers:
            timer.cancel()
        for client in list(self._clients.values()):
            client.abort()
        for task in list(self._serving):
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)

    # ── what a test does with it ──────────────────────────────────────────────────────────────────

    @property
    def clients(self) -> list[str]:
        return sorted(self._clients)

    def inject(self, topic: str, payload: bytes, *, retain: bool = False, times: int = 1) -> None:
        """Say this to whoever listens, past all rules."""
        for _ in range(times):
            self._deliver(Frame(topic, payload, retain=retain))

    def replay(self, frame: Frame, *, topic: str | None = None, times: int = 1) -> None:
        self.inject(frame.topic if topic is None else topic, frame.payload, times=times)

    def unsent(self, name: str) -> int:
        """Bytes that this client has not taken yet."""
        client = self._clients.get(name)
        return 0 if client is None else client.writer.transport.get_write_buffer_size()

    def cut(self, name: str) -> None:
        """Its connection ends without a word, and its will is told."""
        client = self._clients.get(name)
        if client is not None:
            client.abort()

    # ── MQTT ──────────────────────────────────────────────────────────────────────────────────────

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        client: Client | None = None
        try:
            async with asyncio.timeout(10):
                client = self._connected(await _packet(reader), writer)
            while True:
                head, rest = await _packet(reader)
                if head >> 4 == DISCONNECT:
                    client.will = None
                    writer.close()
                    await reader.read()  # until the client has closed too: no reset for who says goodbye
                    break
                self._packet(client, head, rest)
        except (
            OSError,
            EOFError,
            ValueError,
            IndexError,
            TimeoutError,
            ssl.SSLError,
            asyncio.CancelledError,
        ):
            pass  # gone; a test ends, or a client did
        finally:
            if client is not None:
                if self._clients.get(client.name) is client:
                    del self._clients[client.name]
                if client.will is not None:
                    self._deliver(client.will)
            with contextlib.suppress(AttributeError):
                writer.transport.abort()

    def _connected(self, packet: tuple[int, bytes], writer: asyncio.StreamWriter) -> Client:
        head, rest = packet
        if head >> 4 != CONNECT:
            raise ValueError("not a CONNECT")
        at = 2 + int.from_bytes(rest[:2], "big")
        flags, at = rest[at + 1], at + 4
        name, at = _text(rest, at)
        client = Client(name, writer)
        if flags & 4:
            topic, at = _text(rest, at)
            size = int.from_bytes(rest[at : at + 2], "big")
            client.will = Frame(topic, rest[at + 2 : at + 2 + size], by=name, retain=bool(flags & 32))
            at += 2 + size
        if flags & 128:
            client.user, at = _text(rest, at)
        held = self._clients.pop(name, None)
        if held is not None:  # anybody takes anybody's place
            held.abort()
        self._clients[name] = client
        self.connects[name] += 1
        client.write(0x20, b"\0\0")
        return client

    def _packet(self, client: Client, head: int, rest: bytes) -> None:
        kind = head >> 4
        if kind == PUBLISH:
            topic, at = _text(rest, 0)
            qos = head >> 1 & 3
            if qos:
                client.write(PUBACK << 4, rest[at : at + 2])
                at += 2
            frame = Frame(topic, rest[at:], by=client.name, retain=bool(head & 1), qos=qos)
            if len(self.taken) < TAKEN_MAX:
                self.taken.append(frame)
            if self.withheld(frame):
                return
            if frame.retain:
                self.retained[topic] = frame
            self._through(dataclasses.replace(frame, retain=False), 0)
        elif kind == SUBSCRIBE:
            at, codes = 2, bytearray()
            while at < len(rest):
                pattern, at = _text(rest, at)
                client.filters[pattern] = rest[at]
                codes.append(min(rest[at], 1))
                at += 1
            client.write(0x90, rest[:2] + bytes(codes))
            for topic, frame in sorted(self.retained.items()):
                if any(matches(pattern, topic) for pattern in client.filters):
                    client.send(dataclasses.replace(frame, retain=True), self._next_mid())
        elif kind == UNSUBSCRIBE:
            client.write(0xB0, rest[:2])
        elif kind == PINGREQ:
            client.write(0xD0, b"")
        elif kind != PUBACK:
            raise ValueError(f"packet of kind {kind}")

    def _through(self, frame: Frame, first: int) -> None:
        if first == len(self.rules):
            if frame.delay_s:
                self._later(frame)
            else:
                self._deliver(frame)
            return
        for each in list(self.rules[first](frame)):
            self._through(each, first + 1)

    def _later(self, frame: Frame) -> None:
        def now() -> None:
            self._timers.discard(timer)
            self._deliver(frame)

        timer = asyncio.get_running_loop().call_later(frame.delay_s, now)
        self._timers.add(timer)

    def _deliver(self, frame: Frame) -> None:
        for client in list(self._clients.values()):
            if any(matches(pattern, frame.topic) for pattern in client.filters):
                self.given[frame.topic] += 1
                client.send(frame, self._next_mid())

    def _next_mid(self) -> int:
        self._mid = self._mid % 65_535 + 1
        return self._mid


def matches(pattern: str, topic: str) -> bool:
    """MQTT 3.1.1, section 4.7, without `$` topics, which nobody has here."""
    wanted, names = pattern.split("/"), topic.split("/")
    for at, level in enumerate(wanted):
        if level == "#":
            return True
        if at >= len(names) or level not in ("+", names[at]):
            return False
    return len(wanted) == len(names)


async def _packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readexactly(1))[0]
    length = shift = 0
    while True:
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 0x7F) << shift
        if not byte & 0x80:
            break
        shift += 7
        if shift > 21:
            raise ValueError("malformed length")
    if length > PACKET_BYTES_MAX:
        raise ValueError("packet too large")
    return head, await reader.readexactly(length)


def _text(packet: bytes, at: int) -> tuple[str, int]:
    end = at + 2 + int.from_bytes(packet[at : at + 2], "big")
    if end > len(packet):
        raise ValueError("malformed packet")
    return packet[at + 2 : end].decode(), end


def length_of(number: int) -> bytes:
    """MQTT's variable byte integer."""
    out = bytearray()
    while True:
        number, low = number >> 7, number & 0x7F
        if not number:
            out.append(low)
            return bytes(out)
        out.append(low | 0x80)
