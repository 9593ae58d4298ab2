"""The broker: MQTT as our links can see it, with the house's own rules of access and mosquitto's bounds.

    link ──PUBLISH──► [may write?] ─► [faults of parcels] ─► readers of this very topic ┐
                          │                                  readers of its parent/+    ├─► a queue for each,
                        PUBACK at once, also for a denial    the few other filters      ┘   bounded, drops

It keeps what mosquitto keeps: retained messages, wills, one connection a client id, sessions that outlive
their connection where they were asked for (our links ask for clean ones), 512 unacknowledged messages a
reader and 16 384 waiting. Members are let in by name and key (``set_members``, as
``gateway.broker.door_list.Door``), and cut off when they are removed. ``stop`` and ``start`` are a killed
broker, with or without its database.

Not here: TCP (``network``), our side of a connection (``link``). Every subscription is granted QoS 1, as
links ask.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

from device_sim.virtual.network import (
    CLOSED,
    SEGMENT_BYTES,
    WINDOW_BYTES,
    Connection,
    Network,
    Partition,
    Stream,
)
from device_sim.virtual.world import SECOND, Entry, World
from edge_node.transport.link import Delivery
from gateway.broker.access import PACKET_BYTES_MAX, Access, matches, name_of

INFLIGHT_MAX: Final = 512
QUEUED_MAX: Final = 16_384
QUEUED_BYTES_MAX: Final = 67_108_864
"""These three as in ``access.mosquitto_conf``."""
KNOWN_TOPICS_MAX: Final = 4096
"""Answers of the access rules kept for a client; then asked again."""
GREETING_NS: Final = 60 * SECOND
"""mosquitto's keepalive of a connection that has not said CONNECT yet."""
SERVER_HELLO_BYTES: Final = 2200
CONTROL_BYTES: Final = 4
KINDS: Final = {"d": "direct", "g": "group", "p": "presence", "roster": "roster"}

# Packets beside `Message`: (kind, …). The first three are TCP's and TLS's own.
SYN_ACK: Final = ("syn-ack",)
SERVER_HELLO: Final = ("server hello",)
PINGRESP: Final = ("pingresp",)


class Counts:
    """Of one kind of topic: messages taken from senders and handed to readers, and their bytes."""

    __slots__ = ("bytes_in", "bytes_out", "messages_in", "messages_out")

    def __init__(self) -> None:
        self.messages_in = self.bytes_in = self.messages_out = self.bytes_out = 0


class Message:
    """A PUBLISH, from its sender to the broker and on to each reader: one object for all of them."""

    __slots__ = ("counts", "delivery", "mid", "qos", "retain", "size")

    def __init__(self, delivery: Delivery, qos: int, retain: bool, mid: int) -> None:
        self.delivery = delivery
        self.qos = qos
        self.retain = retain
        self.mid = mid
        self.counts: Counts | None = None  # where the broker adds it
        self.size = len(delivery.topic) + len(delivery.payload) + 8
        """Its bytes in MQTT, give or take one."""


class Session:
    """What the broker knows of one client id; and the broker's end of its connection."""

    __slots__ = (
        "_alive", "bearer", "broker", "clean", "client_id", "connection", "down", "filters", "inflight",
        "keepalive_ns", "last_in_ns", "out", "out_bytes", "queue", "queued_bytes", "unacked",
        "will", "writable",
    )  # fmt: skip

    def __init__(self, broker: VirtualBroker, connection: Connection | None) -> None:
        self.broker = broker
        self.connection = connection
        self.down: Stream | None = connection.down if connection is not None else None
        self.client_id = ""  # "": no CONNECT has come yet
        self.bearer = ""
        self.clean = True
        self.will: str | None = None
        self.keepalive_ns = 0
        self.last_in_ns = 0
        self.filters: dict[str, None] = {}
        self.inflight = 0
        self.unacked: deque[Message] | None = None  # only where the session outlives the connection
        self.queue: deque[Message] | None = None
        self.queued_bytes = 0
        self.out: list[Any] = []
        self.out_bytes = 0
        self.writable: dict[str, bool] = {}
        self._alive: Entry | None = None

    # ── what comes in ─────────────────────────────────────────────────────────────────────────────

    def received(self, packets: list[Any]) -> None:
        broker = self.broker
        self.last_in_ns = broker.world.now_ns
        acks: list[int] | None = None
        for packet in packets:
            if type(packet) is Message:
                if not self.client_id or packet.size > PACKET_BYTES_MAX:
                    broker._drop(self, will=True)
                    break
                if packet.qos:
                    if acks is None:
                        acks = []
                    acks.append(packet.mid)
                broker._publish(self, packet)
            else:
                self._control(packet)
            if self.connection is None:
                break
        if acks is not None and self.connection is not None:
            self.put(("puback", acks), CONTROL_BYTES * len(acks))
        broker._flush()

    def _control(self, packet: tuple[Any, ...]) -> None:
        broker = self.broker
        match packet:
            case ("ack", count):
                self._acknowledged(count)
            case ("ping",):
                self.put(PINGRESP, CONTROL_BYTES)
            case ("subscribe", number, topics):
                codes = broker._subscribe(self, topics)
                self.put(("suback", number, codes), CONTROL_BYTES + len(codes))
                for topic, code in zip(topics, codes, strict=True):
                    if code < 0x80:
                        broker._show_retained(self, topic)
            case ("unsubscribe", number, topics):
                broker._unsubscribe(self, topics)
                self.put(("unsuback", number), CONTROL_BYTES)
            case ("client hello",):
                self.put(SERVER_HELLO, SERVER_HELLO_BYTES)
            case ("connect", *asked):
                broker._connect(self, *asked)
            case ("disconnect",):
                self.will = None
                broker._drop(self, will=False)
            case _:
                raise AssertionError(f"a link sent {packet[0]}")

    def _acknowledged(self, count: int) -> None:
        self.inflight -= count
        if self.unacked is not None:
            for _ in range(count):
                self.unacked.popleft()
        if self.queue:
            self.drain()

    def ended(self, reason: str) -> None:
        """The connection was ended by the other side, or its network."""
        self.broker._drop(self, will=True, reason=reason)
        self.broker._flush()

    # ── what goes out ─────────────────────────────────────────────────────────────────────────────

    def put(self, packet: Any, size: int) -> None:
        if not self.out:
            self.broker._dirty.append(self)
        self.out.append(packet)
        self.out_bytes += size

    def offer(self, message: Message) -> None:
        """At once if the reader takes it, else into its queue; beyond the bound it is lost, and counted."""
        down = self.down
        if (
            down is None
            or self.queue
            or down.flying + self.out_bytes >= WINDOW_BYTES
            or (message.qos and self.inflight >= INFLIGHT_MAX)
        ):
            self._enqueue(message)
        else:
            self._hand_over(message)

    def _hand_over(self, message: Message) -> None:
        if message.qos:
            self.inflight += 1
            if self.unacked is not None:
                self.unacked.append(message)
        if not self.out:
            self.broker._dirty.append(self)
        self.out.append(message)
        self.out_bytes += message.size

    def _enqueue(self, message: Message) -> None:
        if self.down is None and not message.qos:
            return
        if self.queue is None:
            self.queue = deque()
        if len(self.queue) >= QUEUED_MAX or self.queued_bytes + message.size > QUEUED_BYTES_MAX:
            self.broker.dropped += 1
            return
        self.queue.append(message)
        self.queued_bytes += message.size
        if self.down is not None and not self.down.room:
            self.down.when_room(self._room)

    def drain(self) -> None:
        queue, down = self.queue, self.down
        if queue is None or down is None:
            return
        while queue and down.flying + self.out_bytes < WINDOW_BYTES:
            if queue[0].qos and self.inflight >= INFLIGHT_MAX:
                return
            message = queue.popleft()
            self.queued_bytes -= message.size
            self._hand_over(message)
        if queue:
            down.when_room(self._room)
        else:
            self.queue = None

    def _room(self) -> None:
        self.drain()
        self.broker._flush()

    def flush(self) -> None:
        out, down = self.out, self.down
        self.out, size = [], self.out_bytes
        self.out_bytes = 0
        if down is None or not out:
            return
        told = self.broker.on_reached
        for packet in out:
            if type(packet) is Message:
                counts = packet.counts
                assert counts is not None, "a message is counted when it is taken"
                counts.messages_out += 1
                counts.bytes_out += packet.size
                if told is not None:
                    told(self.client_id, packet.delivery.topic, packet.delivery.payload)
        if size <= SEGMENT_BYTES:
            down.send(out, size)
        else:
            send_in_pieces(down, out, size)
        if self.queue and not down.room:
            down.when_room(self._room)

    # ── keepalive ─────────────────────────────────────────────────────────────────────────────────

    def watch(self) -> None:
        """mosquitto ends a connection from which nothing came for one and a half times its keepalive."""
        due_ns = self.last_in_ns + self.keepalive_ns * 3 // 2
        world = self.broker.world
        if due_ns > world.now_ns:
            self._alive = world.at(due_ns, self.watch)
        else:
            self._alive = None
            self.broker._drop(self, will=True, reason="exceeded timeout")
            self.broker._flush()

    def unwatch(self) -> None:
        self.broker.world.cancel(self._alive)
        self._alive = None


def send_in_pieces(stream: Stream, packets: list[Any], size: int) -> None:
    """As segments of about SEGMENT_BYTES; a packet is not divided."""
    if size <= SEGMENT_BYTES or len(packets) == 1:
        stream.send(packets, size)
        return
    piece: list[Any] = []
    piece_bytes = 0
    for packet in packets:
        piece.append(packet)
        piece_bytes += packet.size if type(packet) is Message else CONTROL_BYTES
        if piece_bytes >= SEGMENT_BYTES:
            stream.send(piece, piece_bytes)
            piece, piece_bytes = [], 0
    if piece:
        stream.send(piece, piece_bytes)


class VirtualBroker:
    """Runs from the start.

    Args:
        access: the rules; its members are those of `bearers`, whoever it names.
        bearers: let in from the start (``security.identity.bearer``).
    """

    def __init__(self, world: World, network: Network, access: Access, bearers: Iterable[str] = ()) -> None:
        self.world = world
        self.network = network
        self.running = False
        self.on_framed: Callable[[str, str, bytes], object] | None = None
        """(sender, topic, payload) of every message taken, before any fault; a will bears its client's."""
        self.on_reached: Callable[[str, str, bytes], object] | None = None
        """(reader, topic, payload) of every message written to a reader's connection."""
        self.counts = {kind: Counts() for kind in ("direct", "presence", "roster", "group", "other")}
        self.denied = 0
        self.dropped = 0
        """Beyond a reader's queue."""
        self.connects = 0
        self.retained: dict[str, tuple[str, bytes]] = {}
        """topic -> (sender, payload)"""
        self._access = access
        self._bearers: frozenset[str] = frozenset()
        self._sessions: dict[str, Session] = {}
        self._greeting: dict[Session, None] = {}
        self._exact: dict[str, dict[Session, None]] = {}
        self._below: dict[str, dict[Session, None]] = {}  # of `parent/+`, by parent
        self._others: dict[str, dict[Session, None]] = {}
        self._dirty: list[Session] = []
        self._dark: Partition | None = None
        self.admit(bearers)
        self.start()

    # ── its operator's side ───────────────────────────────────────────────────────────────────────

    async def set_members(self, ids: Iterable[str]) -> None:
        """Let exactly these bearers in; see `admit`. Waits for nothing. Kept while it is down."""
        self.admit(ids)

    def admit(self, bearers: Iterable[str]) -> None:
        """Exactly these from now on, by name and key; others are cut off, without their wills."""
        self._bearers = frozenset(bearers)
        self._access = Access(self._access.mesh, frozenset(map(name_of, self._bearers)))
        for session in list(self._sessions.values()):
            session.writable = {}
            if session.bearer not in self._bearers:
                self._drop(session, will=False, reason="not a member any more")
                self._forget(session)
        self._flush()

    def start(self, *, database: bool = True) -> None:
        """Listen. `database`: retained messages, members and the sessions to be kept are as they were."""
        if self.running:
            return
        if not database:
            self.retained.clear()
            for session in list(self._sessions.values()):
                self._forget(session)
            self.admit(())
        if self._dark is not None:
            self.network.heal(self._dark)
            self._dark = None
        self.running = True
        self.network.acceptor = self._accept
        self.world.note("broker", "start", "" if database else "wiped")

    def stop(self, how: Literal["kill", "power"] = "kill") -> None:
        """`kill`: -9, its kernel says so to every client. `power`: its host falls silent until `start`."""
        if not self.running:
            return
        self.running = False
        self.network.acceptor = None
        self.world.note("broker", "stop", how)
        for session in [*self._sessions.values(), *self._greeting]:
            connection = session.connection
            if connection is not None:
                session.will = None
                self._leave(session)
                connection.close_server() if how == "kill" else connection.vanish_server()
        self._greeting.clear()
        self._dirty.clear()
        if how == "power":
            self._dark = self.network.isolate_host()

    @property
    def clients(self) -> list[str]:
        """Who is connected, sorted."""
        return sorted(name for name, session in self._sessions.items() if session.connection is not None)

    def cut(self, client_id: str) -> None:
        """As a connection that breaks: the will is published, the client is told by its kernel."""
        session = self._sessions.get(client_id)
        if session is not None and session.connection is not None:
            self._drop(session, will=True, reason="cut")
            self._flush()

    # ── connections ───────────────────────────────────────────────────────────────────────────────

    def _accept(self, connection: Connection, packets: list[Any]) -> None:
        session = Session(self, connection)
        self._greeting[session] = None
        session.last_in_ns = self.world.now_ns
        session.keepalive_ns = GREETING_NS
        session.watch()
        connection.accept(session.received, session.ended)
        connection.down.send([SYN_ACK], 0)

    def _connect(
        self, session: Session, client_id: str, bearer: str, keepalive_s: int, will: str | None, clean: bool
    ) -> None:
        if bearer not in self._bearers or name_of(bearer) != client_id:
            self.world.note("broker", "refused", client_id)
            session.put(("connack", 5), CONTROL_BYTES)
            session.flush()
            self._drop(session, will=False)
            return
        self._greeting.pop(session, None)
        held = self._sessions.get(client_id)
        if held is not None:
            self._drop(held, will=True, reason="taken over")
            held = self._sessions.get(client_id)  # still there: it was to be kept
        session.client_id, session.bearer, session.clean = client_id, bearer, clean
        session.will = will
        session.unwatch()
        session.keepalive_ns = keepalive_s * SECOND
        self._sessions[client_id] = session
        self.connects += 1
        self.world.note("broker", "connect", client_id)
        if not clean:
            session.unacked = deque()
        session.put(("connack", 0), CONTROL_BYTES)
        if held is not None:
            self._inherit(session, held)
        if session.keepalive_ns:
            session.watch()

    def _inherit(self, session: Session, held: Session) -> None:
        topics = list(held.filters)
        waiting = [*(held.unacked or ()), *(held.queue or ())]
        self._unsubscribe(held, topics)
        if session.clean:
            return
        self._subscribe(session, topics)
        for message in waiting:
            session.offer(message)

    def _drop(self, session: Session, *, will: bool, reason: str = "") -> None:
        """End its connection from this side, if it has one."""
        connection = session.connection
        if connection is None:
            return
        if session.out:
            session.flush()
        topic = session.will if will else None
        session.will = None
        self._leave(session)
        connection.close_server()
        self._greeting.pop(session, None)
        if session.client_id:
            self.world.note("broker", "disconnect", f"{session.client_id} {reason}")
        if topic is not None:
            self._publish(session, Message(Delivery(topic, b""), 1, False, 0))

    def _leave(self, session: Session) -> None:
        session.connection = session.down = None
        session.unwatch()
        session.out, session.out_bytes = [], 0
        session.inflight = 0
        if session.clean:
            self._forget(session)

    def _forget(self, session: Session) -> None:
        self._unsubscribe(session, list(session.filters))
        session.queue = session.unacked = None
        session.queued_bytes = 0
        if self._sessions.get(session.client_id) is session:
            del self._sessions[session.client_id]

    # ── subscriptions ─────────────────────────────────────────────────────────────────────────────

    def _subscribe(self, session: Session, topics: Iterable[str]) -> list[int]:
        codes = []
        for topic in topics:
            granted = self._access.may_subscribe(session.client_id, topic)
            codes.append(1 if granted else 0x80)
            if granted:
                session.filters[topic] = None
                index, key = self._place(topic)
                index.setdefault(key, {})[session] = None
        return codes

    def _unsubscribe(self, session: Session, topics: Iterable[str]) -> None:
        for topic in topics:
            if topic not in session.filters:
                continue
            del session.filters[topic]
            index, key = self._place(topic)
            readers = index[key]
            del readers[session]
            if not readers:
                del index[key]

    def _place(self, pattern: str) -> tuple[dict[str, dict[Session, None]], str]:
        if "+" not in pattern and "#" not in pattern:
            return self._exact, pattern
        parent, _, last = pattern.rpartition("/")
        if last == "+" and "+" not in parent:
            return self._below, parent
        return self._others, pattern

    def _show_retained(self, session: Session, pattern: str) -> None:
        if "+" not in pattern and "#" not in pattern:
            held = [pattern] if pattern in self.retained else []
        else:
            held = sorted(topic for topic in self.retained if matches(pattern, topic))
        for topic in held:
            sender, payload = self.retained[topic]
            if session.client_id not in self.network.blocks.get(sender, ()):
                message = Message(Delivery(topic, payload, True), 1, True, 0)
                message.counts = self.counts[kind_of(topic)]
                session.offer(message)

    # ── messages ──────────────────────────────────────────────────────────────────────────────────

    def _publish(self, session: Session, message: Message) -> None:
        """A denied message looks like a taken one: MQTT 3.1.1 has no reason to give."""
        delivery = message.delivery
        topic, sender = delivery.topic, session.client_id
        allowed = session.writable.get(topic)
        if allowed is None:
            allowed = self._access.may_write(sender, topic)
            if len(session.writable) >= KNOWN_TOPICS_MAX:
                session.writable.clear()
            session.writable[topic] = allowed
        if not allowed:
            self.denied += 1
            return
        counts = message.counts = self.counts[kind_of(topic)]
        counts.messages_in += 1
        counts.bytes_in += message.size
        if self.on_framed is not None:
            self.on_framed(sender, topic, delivery.payload)
        if message.retain:
            if delivery.payload:
                self.retained[topic] = (sender, delivery.payload)
            else:
                self.retained.pop(topic, None)
        port = self.network.ports.get(sender)
        if port is None or not port.faulty:
            self._pass_on(sender, message)
            return
        for late_ns in port.fates():
            if late_ns:
                self.world.after(late_ns, self._pass_on_late, sender, message)
            else:
                self._pass_on(sender, message)

    def _pass_on_late(self, sender: str, message: Message) -> None:
        if self.running:
            self._pass_on(sender, message)
            self._flush()

    def _pass_on(self, sender: str, message: Message) -> None:
        topic = message.delivery.topic
        exact = self._exact.get(topic)
        below = self._below.get(topic.rpartition("/")[0])
        blocked = self.network.blocks.get(sender) if self.network.blocks else None
        if blocked is None and not self._others:
            if exact is not None:
                for reader in exact:
                    reader.offer(message)
            if below is not None:
                for reader in below:
                    if exact is None or reader not in exact:
                        reader.offer(message)
            return
        readers = dict(exact or ())
        readers.update(below or ())
        for pattern, more in self._others.items():
            if matches(pattern, topic):
                readers.update(more)
        for reader in readers:
            if blocked is None or reader.client_id not in blocked:
                reader.offer(message)

    def _flush(self) -> None:
        """The end of a turn: one write for each reader."""
        dirty = self._dirty
        while dirty:
            self._dirty = []
            for session in dirty:
                session.flush()
            dirty = self._dirty


def kind_of(topic: str) -> str:
    parts = topic.split("/", 4)
    return KINDS.get(parts[3], "other") if len(parts) > 3 else "other"


__all__ = ["CLOSED", "Counts", "Message", "Session", "VirtualBroker", "kind_of", "send_in_pieces"]
