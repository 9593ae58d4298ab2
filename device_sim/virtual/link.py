"""The link of a virtual member: the contract of ``edge_node.transport.link`` over the virtual broker.

It does what ``edge_node.transport.mqtt`` does: connects (3 s for TCP and TLS, 3 s for CONNECT, 60 s for
SUBSCRIBE) with the same back-off, writes what was sent in one turn in one piece, refuses when 256 messages
are not acknowledged, stops reading when its inbox is full, acknowledges what is in it, pings, and gives a
connection up when its data is not acknowledged for 5 s. No loop: ``start`` and ``stop`` it from the world;
``run`` is for shells.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from device_sim.virtual.broker import CONTROL_BYTES, Message, VirtualBroker, send_in_pieces
from device_sim.virtual.network import CLOSED, Connection, LinkModel, Network
from device_sim.virtual.world import MS, SECOND, Entry, World
from edge_node.transport.inbox import Inbox
from edge_node.transport.link import LINK_DOWN, PAYLOAD_BYTES_MAX, Delivery, LinkDown, LinkUp, Sent
from security.errors import BadInput, Refused, Unavailable

if TYPE_CHECKING:
    from random import Random

# As in `edge_node.transport.mqtt`, which is not imported: paho and ssl are nothing for a simulation.
CONNECT_NS: Final = 3 * SECOND
SUBSCRIBE_NS: Final = 60 * SECOND
BACKOFF_NS_MAX: Final = 2 * SECOND
BACKOFF_NS_FIRST: Final = SECOND // 10
USER_TIMEOUT_NS: Final = 5 * SECOND
TICK_NS: Final = SECOND
QUEUE_BYTES_MAX: Final = 8 * 1024 * 1024
QUEUE_ITEMS_MAX: Final = 1024
KEEPALIVE_S: Final = 10

ACK_NS: Final = MS // 5
"""Acknowledgements wait so long for what the receiver's turn sends."""
CLIENT_HELLO_BYTES: Final = 450
CONNECT_BYTES: Final = 1700
"""With the certificate of the client, which goes first."""
SYN: Final = ("syn",)
CLIENT_HELLO: Final = ("client hello",)
PING: Final = ("ping",)
DISCONNECT: Final = ("disconnect",)


class VirtualLink:
    """See ``edge_node.transport.link.Link`` for the contract.

    Args:
        client_id: also the name of its place at the network, unless `node` says otherwise; attached with the
            default `LinkModel` if it is not yet.
        bearer: name and key, ``security.identity.bearer``; may be set anew before a connection.
        will: where the broker publishes an empty payload when we vanish.
        clean: False: the broker keeps what it could not deliver (our daemons never ask for that).
    """

    __slots__ = (
        "_ack_entry",
        "_acks",
        "_alive",
        "_backoff",
        "_closed",
        "_conn",
        "_due",
        "_failures",
        "_frozen",
        "_frozen",
        "_in",
        "_inbox",
        "_last_in_ns",
        "_last_out_ns", "_late",
        "_mid",
        "_number",
        "_open",
        "_out",
        "_out_bytes",
        "_paused",
        "_ping_ns",
        "_rng",
        "_running",
        "_stage",
        "_standing",
        "_step",
        "_timeout",
        "_told",
        "_told_when_written",
        "_topics",
        "_up",
        "_up_ns",
        "_waiting",
        "address",
        "bearer",
        "broker",
        "bytes_in",
        "bytes_out",
        "clean",
        "client_id",
        "handed",
        "keepalive_s",
        "network",
        "node",
        "queue_max",
        "will",
        "world",
    )  # fmt: skip

    def __init__(
        self,
        world: World,
        network: Network,
        broker: VirtualBroker,
        client_id: str,
        bearer: str,
        inbox: Inbox,
        *,
        will: str | None = None,
        node: str | None = None,
        queue_max: int = 256,
        keepalive_s: int = KEEPALIVE_S,
        clean: bool = True,
    ) -> None:
        self.world = world
        self.network = network
        self.broker = broker
        self.client_id = client_id
        self.bearer = bearer
        self.will = will
        self.node = node if node is not None else client_id
        self.queue_max = queue_max
        self.keepalive_s = keepalive_s
        self.clean = clean
        self.address: tuple[str, int] | None = None
        self.bytes_out = self.bytes_in = 0
        self.handed = 0
        self._inbox = inbox
        self._rng: Random | None = None  # made when a connection is lost: 2.5 KB, and many lose none
        self._topics: dict[str, None] = {}
        self._running = False
        self._number = 0
        self._told = ""
        self._failures = 0
        self._backoff: Entry | None = None
        self._conn: Connection | None = None
        self._frozen = False
        self._late: list[tuple[Callable[..., None], tuple[Any, ...]]] = []  # what came due while it was
        self._reset()

    def _reset(self) -> None:
        """State of one connection."""
        self._stage = ""
        self._step = 0  # the number of the SUBSCRIBE or UNSUBSCRIBE that is not answered; 0: none
        self._standing: dict[str, None] = {}
        self._waiting: list[str] = []
        self._timeout: Entry | None = None
        self._up = False
        self._closed = False
        self._in: deque[Any] = deque()
        self._out: list[Any] = []
        self._out_bytes = 0
        self._open: dict[int, int] = {}
        self._told_when_written: list[int] = []
        self._mid = 0
        self._acks = 0
        self._ack_entry: Entry | None = None
        self._due: Entry | None = None
        self._paused = False
        self._alive: Entry | None = None
        self._ping_ns = 0
        self._last_in_ns = self._last_out_ns = self._up_ns = 0

    # ── the contract ──────────────────────────────────────────────────────────────────────────────

    @property
    def up(self) -> bool:
        return self._up

    def send(self, token: int, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        if not self._up:
            raise Unavailable(LINK_DOWN, retry_after_s=BACKOFF_NS_FIRST / SECOND)
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise BadInput(f"payload of {len(payload)} bytes, a link carries {PAYLOAD_BYTES_MAX}")
        if self._out_bytes > QUEUE_BYTES_MAX or len(self._out) >= QUEUE_ITEMS_MAX:
            raise Refused("link queue full")
        mid = 0
        if qos:
            if len(self._open) >= self.queue_max:
                raise Refused("link queue full")
            self._mid = mid = self._mid + 1
            self._open[mid] = token
            self.handed += 1
        elif token:
            self._told_when_written.append(token)
        message = Message(Delivery(topic, payload), qos, retain, mid)
        self._out.append(message)
        self._out_bytes += message.size
        if self._due is None:
            self._due = self.world.soon(self._flush)

    @property
    def untaken(self) -> int:
        return len(self._open) if self._up else 0

    def rebuild(self, reason: str) -> None:
        if self._up:
            self._lose(reason)

    def flush(self) -> None:
        if self._out:
            self._flush()

    def subscribe(self, topics: list[str]) -> None:
        self._topics.update(dict.fromkeys(topics))
        self._topics_moved()

    def unsubscribe(self, topics: list[str]) -> None:
        for topic in topics:
            self._topics.pop(topic, None)
        self._topics_moved()

    async def run(self) -> None:
        self.start()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.stop()

    # ── its process ───────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Connect, now and again, until `stop` or `crash`."""
        if self._running:
            return
        port = self.network.ports.get(self.node) or self.network.attach(self.node, LinkModel())
        port.off = False
        self._running = True
        self._frozen = False
        self._failures = 0
        self._told = ""
        self._connect()

    def stop(self) -> None:
        """Say goodbye: what was sent still arrives, no will is published."""
        if not self._running:
            return
        self._running = False
        self.world.cancel(self._backoff)
        conn = self._conn
        if conn is not None:
            if self._stage == "connected":
                self._write_all(goodbye=True)
            self._leave()
            conn.close_client()
        self._down("stopped")

    def crash(self, *, power: bool = False) -> None:
        """The process dies; its inbox is told nothing. Its kernel ends the connection; with *power* nobody
        does, and the broker finds out by itself.
        """
        self._running = False
        self.world.cancel(self._backoff)
        conn, inbox = self._conn, self._inbox
        self._inbox = Inbox()  # nobody's: what the dead process would have heard
        if conn is not None:
            if self._stage == "connected":
                inbox.unwatch(self._pause, self._resume)
            self._leave(watched=False)
            conn.vanish_client() if power else conn.close_client()
        if power:
            port = self.network.ports.get(self.node)
            if port is not None:
                port.off = True
        self._inbox = inbox

    # ── a stopped process ─────────────────────────────────────────────────────────────────────────

    def freeze(self) -> None:
        """SIGSTOP: the process neither reads, pings nor writes; its kernel goes on until its buffers fill."""
        self._frozen = True
        if self._conn is not None:
            self._conn.down.pause()

    def thaw(self) -> None:
        """SIGCONT: as in any loop, sockets come first, and then the timers that are due, late."""
        if not self._frozen:
            return
        self._frozen = False
        if self._conn is not None and not self._paused:
            self._conn.down.resume()
        while self._late and not self._frozen:
            call, args = self._late.pop(0)
            call(*args)

    def _not_now(self, call: Callable[..., None], *args: Any) -> bool:
        """It is frozen: this comes when it is not."""
        if self._frozen:
            self._late.append((call, args))
        return self._frozen

    # ── connecting ────────────────────────────────────────────────────────────────────────────────

    def _connect(self) -> None:
        if self._not_now(self._connect):
            return
        self._backoff = None
        self._reset()
        self._stage = "tcp"
        self._conn = self.network.connect(
            self.node, self._received, self._ended, user_timeout_ns=USER_TIMEOUT_NS
        )
        self._timeout = self.world.after(CONNECT_NS, self._timed_out, "the broker does not answer")
        self._conn.up.send([SYN], 0)

    def _timed_out(self, reason: str) -> None:
        if not self._not_now(self._timed_out, reason):
            self._timeout = None
            self._lose(reason)

    def _ended(self, reason: str) -> None:
        """Told by the network: the connection is over."""
        if self._not_now(self._ended, reason):
            return
        self._conn = None
        if self._stage == "tls" and reason == CLOSED:
            reason = "TLS: unexpected eof while reading"
        elif self._stage == "mqtt" and reason == CLOSED:
            reason = "the broker hung up without a greeting: our certificate may not be accepted"
        self._lose(reason)

    def _lose(self, reason: str, *, goodbye: bool = False) -> None:
        """This connection is over, and the next one comes."""
        conn = self._conn
        if conn is not None and goodbye:
            self._write_all(goodbye=True)
        was_up = self._up
        self._leave()
        if conn is not None:
            conn.close_client()
        self._failures = 0 if was_up else self._failures + 1
        self._down(reason)
        ceiling_ns = min(BACKOFF_NS_MAX, BACKOFF_NS_FIRST << min(self._failures, 8))
        if self._rng is None:
            self._rng = self.world.rng("link", self.client_id)
        self._backoff = self.world.after(round(ceiling_ns * self._rng.uniform(0.2, 1.0)), self._connect)

    def _leave(self, *, watched: bool = True) -> None:
        """Settle every token that is open; nothing of this connection happens any more."""
        for entry in (self._timeout, self._due, self._ack_entry, self._alive):
            self.world.cancel(entry)
        if self._stage == "connected" and watched:
            self._inbox.unwatch(self._pause, self._resume)
        self._up = False
        self._closed = True
        self._conn = None
        self._stage = ""
        self.address = None
        for token in [*self._told_when_written, *self._open.values()]:
            if token:
                self._inbox.put_local(Sent(token, LINK_DOWN))
        self._open.clear()
        self._told_when_written.clear()
        self._out.clear()
        self._out_bytes = 0
        self._in.clear()
        self._late.clear()
        self._acks = 0

    def _down(self, reason: str) -> None:
        """Tell the inbox once a reason, and always after a LinkUp."""
        if reason != self._told:
            self._told = reason
            self._inbox.put_local(LinkDown(reason))

    def _topics_moved(self) -> None:
        if self._stage == "connected" and not self._step:
            self._subscriptions()

    def _subscriptions(self) -> None:
        """One SUBSCRIBE or UNSUBSCRIBE at a time, until they stand as they are wanted."""
        assert self._conn is not None, "called while connected"
        wanted = [topic for topic in self._topics if topic not in self._standing]
        unwanted = [] if wanted else sorted(topic for topic in self._standing if topic not in self._topics)
        if not wanted and not unwanted:
            if not self._up:
                self._rise()
            return
        self._mid = self._step = self._mid + 1
        self._waiting = wanted or unwanted
        kind = "subscribe" if wanted else "unsubscribe"
        size = CONTROL_BYTES + sum(len(topic) + 3 for topic in self._waiting)
        self._timeout = self.world.after(SUBSCRIBE_NS, self._timed_out, "Operation timed out")
        self._last_out_ns = self.world.now_ns
        self._conn.up.send([(kind, self._step, self._waiting)], size)

    def _rise(self) -> None:
        self._up = True
        self._number += 1
        self._told = ""
        self.address = ("broker", 8883)
        self._inbox.put_local(LinkUp(self._number))

    # ── receiving ─────────────────────────────────────────────────────────────────────────────────

    def _received(self, packets: list[Any]) -> None:
        self._last_in_ns = self.world.now_ns
        if self._paused or self._in:
            self._in.extend(packets)
            self._read()
            return
        if len(packets) == 1:
            packet = packets[0]
            if not self._take(packet) and not self._closed:
                self._in.append(packet)
            return
        for at, packet in enumerate(packets):
            if not self._take(packet):
                if not self._closed:
                    self._in.extend(packets[at:])
                return

    def _read(self) -> None:
        while self._in and not self._paused and not self._closed:
            packet = self._in.popleft()
            if not self._take(packet):
                if not self._closed:
                    self._in.appendleft(packet)
                return

    def _take(self, packet: Any) -> bool:
        """False: nothing more is taken now; the packet was not, unless this connection is over."""
        if type(packet) is Message:
            if self._paused:
                return False
            try:
                self._inbox.put_nowait(packet.delivery)
            except asyncio.QueueFull:
                self._pause()
                return False
            self.bytes_in += packet.size
            if packet.qos:
                self._acks += 1
                if self._ack_entry is None and self._due is None:
                    self._ack_entry = self.world.after(ACK_NS, self._acknowledge)
            return not self._closed
        self._control(packet)
        return not self._closed

    def _control(self, packet: tuple[Any, ...]) -> None:
        conn = self._conn
        assert conn is not None, "a closed connection hands nothing over"
        self.bytes_in += CONTROL_BYTES
        match packet:
            case ("puback", mids):
                for mid in mids:
                    token = self._open.pop(mid, 0)
                    if token:
                        self._inbox.put_local(Sent(token))
            case ("pingresp",):
                self._ping_ns = 0
            case ("syn-ack",):
                self._stage = "tls"
                conn.up.send([CLIENT_HELLO], CLIENT_HELLO_BYTES)
            case ("server hello",):
                self._stage = "mqtt"
                self.world.cancel(self._timeout)
                self._timeout = self.world.after(CONNECT_NS, self._timed_out, "Operation timed out")
                asked = ("connect", self.client_id, self.bearer, self.keepalive_s, self.will, self.clean)
                conn.up.send([asked], CONNECT_BYTES)
            case ("connack", 0):
                self.world.cancel(self._timeout)
                self._timeout = None
                self._stage = "connected"
                self._up_ns = self._last_in_ns = self._last_out_ns = self.world.now_ns
                self._inbox.watch(self._pause, self._resume)
                self._check_alive()
                self._subscriptions()
            case ("connack", _):
                self._lose("[code:135] Not authorized")
            case ("suback", number, codes):
                self._subscribed(number, codes)
            case ("unsuback", number):
                self._unsubscribed(number)
            case _:
                raise AssertionError(f"the broker sent {packet[0]}")

    def _subscribed(self, number: int, codes: list[int]) -> None:
        assert number == self._step, "one subscription at a time"
        self.world.cancel(self._timeout)
        self._timeout = None
        self._step = 0
        for topic, code in zip(self._waiting, codes, strict=True):
            if code >= 0x80:
                self._lose(f"subscription refused: {topic}", goodbye=True)
                return
        self._standing.update(dict.fromkeys(self._waiting))
        self._subscriptions()

    def _unsubscribed(self, number: int) -> None:
        assert number == self._step, "one subscription at a time"
        self.world.cancel(self._timeout)
        self._timeout = None
        self._step = 0
        for topic in self._waiting:
            del self._standing[topic]
        self._subscriptions()

    def _pause(self) -> None:
        if not self._paused and self._conn is not None:
            self._paused = True
            self._conn.down.pause()

    def _resume(self) -> None:
        if self._paused:
            self.world.soon(self._read_again, self._conn)

    def _read_again(self, conn: Connection) -> None:
        if conn is not self._conn or not self._paused or self._not_now(self._read_again, conn):
            return
        self._paused = False
        self._read()
        if not self._paused and self._conn is conn:
            conn.down.resume()

    # ── sending ───────────────────────────────────────────────────────────────────────────────────

    def _acknowledge(self) -> None:
        if self._not_now(self._acknowledge):
            return
        self._ack_entry = None
        if self._acks:
            self._flush()

    def _flush(self) -> None:
        """One write for all that waits; what the socket does not take waits until it does."""
        if self._not_now(self._flush):
            return
        world, conn = self.world, self._conn
        if self._due is not None:
            world.cancel(self._due)
            self._due = None
        if conn is None or self._closed:
            return
        if not conn.up.room:
            conn.up.when_room(self._flush)
            return
        self._write_all()

    def _write_all(self, *, goodbye: bool = False) -> None:
        conn = self._conn
        assert conn is not None, "called while connected"
        packets: list[Any] = self._out
        size = self._out_bytes
        if self._acks:
            packets = [("ack", self._acks), *packets]
            size += CONTROL_BYTES * self._acks
            self._acks = 0
        if goodbye:
            packets.append(DISCONNECT)
            size += CONTROL_BYTES
        if not packets:
            return
        if self._ack_entry is not None:
            self.world.cancel(self._ack_entry)
            self._ack_entry = None
        self._out = []
        self._out_bytes = 0
        self.bytes_out += size
        self._last_out_ns = self.world.now_ns
        send_in_pieces(conn.up, packets, size)
        if self._told_when_written:
            told, self._told_when_written = self._told_when_written, []
            for token in told:
                self._inbox.put_local(Sent(token))

    # ── keepalive ─────────────────────────────────────────────────────────────────────────────────

    def _check_alive(self) -> None:
        """As paho at its ticks: a ping after `keepalive_s` without a byte, the end if it is not answered."""
        if self._not_now(self._check_alive):
            return
        world, limit_ns = self.world, self.keepalive_s * SECOND
        now_ns = world.now_ns
        if not limit_ns:
            return
        if self._paused:
            self._ping_ns = 0  # its answer is waiting in the socket that we do not read
        stale_ns = min(self._last_in_ns, self._last_out_ns) + limit_ns
        if now_ns >= stale_ns:
            if self._ping_ns and now_ns >= self._last_in_ns + limit_ns:
                self._alive = None
                self._lose("[code:141] Keep alive timeout")
                return
            if not self._ping_ns or now_ns >= self._ping_ns + limit_ns:
                assert self._conn is not None, "watched while connected"
                self._ping_ns = now_ns
                self._conn.up.send([PING], CONTROL_BYTES)
            self._last_in_ns = self._last_out_ns = now_ns
            stale_ns = now_ns + limit_ns
        since_ns = stale_ns - self._up_ns
        self._alive = world.at(self._up_ns + -(-since_ns // TICK_NS) * TICK_NS, self._check_alive)
