"""The link over MQTT: aiomqtt for the manners of a connection, our own few lines for the hot path.

aiomqtt and paho connect, subscribe, ping and disconnect. Messages go round them: bytes read from the
socket are cut into packets here, PUBLISH goes straight into the inbox and is acknowledged when it is
there, PUBACK becomes `Sent`, anything else is handed to paho. What is sent during one turn of the event
loop leaves in one write. This is the only file that touches private names of the two libraries.

    many packets a wake-up ─► inbox ─► PUBACKs, one write          full inbox: stop reading, keep pinging
    sends of a loop turn  ─► one write ─► PUBACK ─► Sent           256 unacknowledged: "link queue full"

Why not aiomqtt's own path: its queue drops when full, it acknowledges before anyone has seen the
message, hides the PUBACK's reason, and costs 150-200 µs of CPU a request; paho alone costs ~60 µs a message.
Paho never holds an unacknowledged PUBLISH here, so nothing is sent again behind the outbox's back.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import random
import socket
import ssl
import struct
from collections.abc import Callable, Coroutine
from typing import Any, Final, cast

from edge_node.transport.inbox import Inbox
from edge_node.transport.link import LINK_DOWN, PAYLOAD_BYTES_MAX, Delivery, LinkDown, LinkUp, Sent
from edge_node.transport.slim_paho import MQTTException, PacketTypes, ReasonCode, aiomqtt, paho
from security.errors import BadInput, EdgeweaveError, Refused, Unavailable

_LOG = logging.getLogger(__name__)

CONNECT_S: Final = 3.0  # one address: TCP and TLS, then CONNACK
SUBSCRIBE_S: Final = 60.0
"""For a SUBACK. The retained roster may come before it: 145 KB of 1 024 members, 29 s at 40 kbit/s. A dead
connection is not waited for so long: TCP_USER_TIMEOUT and the keepalive end it."""
BACKOFF_S_MAX: Final = 2.0
BACKOFF_S_FIRST: Final = 0.1
USER_TIMEOUT_MS: Final = 5_000  # unacknowledged TCP data this old means a dead network
GOODBYE_S: Final = 1.0
TICK_S: Final = 1.0
QUEUE_BYTES_MAX: Final = 8 * 1024 * 1024  # unsent bytes: what a stalled socket may cost in memory
QUEUE_ITEMS_MAX: Final = 1024  # unsent QoS 0 messages
PACKET_BYTES_MAX: Final = PAYLOAD_BYTES_MAX + 1024
READ_BYTES: Final = 65_536
READ_BYTES_FEW: Final = 1024  # a read of less is taken for the end: epoll tells if it was not
READ_ROUNDS: Final = 64  # reads a wake-up, so that a flood cannot starve the timers

_PUBLISH, _PUBACK = 0x30, 0x40
_DISCONNECT = b"\xe0\x00"
_WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

PeerCheck = Callable[[ssl.SSLSocket], None]


class MqttLink:
    """See ``link.Link`` for the contract.

    Args:
        addresses: asked before every round of attempts; tried in turn.
        client_id: also the name in our certificate, or the broker refuses us.
        tls: asked before every connection, so that renewed keys are used; None: plain TCP (tests only).
        server_name: the name the broker's certificate must bear whatever the address; None: the address.
        check_peer: called after the TLS handshake, before the first MQTT byte; raises to refuse the peer.
        will_topic: where the broker publishes an empty payload when we vanish.
        rng: jitter of the back-off.
        mqtt5: speak MQTT 5, where PUBACK tells a denial; 3.1.1 serves every broker.
    """

    def __init__(
        self,
        *,
        addresses: Callable[[], list[tuple[str, int]]],
        client_id: str,
        tls: Callable[[], ssl.SSLContext] | None,
        inbox: Inbox,
        server_name: str | None = None,
        will_topic: str | None = None,
        check_peer: PeerCheck | None = None,
        rng: random.Random | None = None,
        keepalive_s: int = 10,
        queue_max: int = 256,
        mqtt5: bool = False,
    ) -> None:
        self.client_id = client_id
        self.address: tuple[str, int] | None = None  # of the broker we are connected to
        self.keepalive_s = keepalive_s
        self.queue_max = queue_max
        self.will_topic = will_topic
        self.server_name = server_name
        self.check_peer = check_peer
        self.mqtt5 = mqtt5
        self.inbox = inbox
        self.bytes_out = 0  # MQTT bytes of messages and acknowledgements, before TLS
        self.bytes_in = 0
        self.handed = 0
        self._addresses = addresses
        self._tls = tls
        self._rng = rng if rng is not None else random.Random()  # noqa: S311 - spreads reconnects, guards nothing
        self._topics: dict[str, None] = {}
        self._client: _Client | None = None
        self._more_topics: asyncio.Future[None] | None = None
        self._number = 0
        self._told = ""

    @property
    def up(self) -> bool:
        return self._client is not None

    def send(self, token: int, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        client = self._client
        if client is None:
            raise Unavailable(LINK_DOWN, retry_after_s=BACKOFF_S_FIRST)
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise BadInput(f"payload of {len(payload)} bytes, a link carries {PAYLOAD_BYTES_MAX}")
        client.send(token, topic, payload, qos, retain)

    @property
    def untaken(self) -> int:
        return len(self._client._open) if self._client is not None else 0

    def rebuild(self, reason: str) -> None:
        if self._client is not None:
            self._client._lose(Unavailable(reason))

    def flush(self) -> None:
        if self._client is not None:
            self._client.flush()

    def subscribe(self, topics: list[str]) -> None:
        self._topics.update(dict.fromkeys(topics))
        self._topics_moved()

    def unsubscribe(self, topics: list[str]) -> None:
        for topic in topics:
            self._topics.pop(topic, None)
        self._topics_moved()

    def _topics_moved(self) -> None:
        if self._more_topics is not None and not self._more_topics.done():
            self._more_topics.set_result(None)

    async def run(self) -> None:
        failures = 0
        loop = asyncio.get_running_loop()
        while True:
            number, begun_s = self._number, loop.time()
            reason = "no broker address is known"
            for address in self._addresses():
                reason = await self._session(address)
                if self._number != number:
                    break  # it was up: begin again with the first address
            failures = 0 if self._number != number else failures + 1
            self._down(reason)
            await asyncio.sleep(pause_s(failures, loop.time() - begun_s) * self._rng.uniform(0.2, 1.0))

    async def _session(self, address: tuple[str, int]) -> str:
        """One connection from its first SYN to its end; returns why it ended."""
        try:
            async with _Client(self, address, self._tls() if self._tls else None) as client:
                try:
                    await self._stay(client, address)
                finally:
                    self._client = self.address = None
                    client.close()  # what was sent is flushed, and then the goodbye of aiomqtt follows
            return "disconnected"
        except asyncio.CancelledError:
            self._down("stopped")
            raise
        except (aiomqtt.MqttError, EdgeweaveError, OSError, ValueError) as error:  # ssl's errors are OSErrors
            return _why(error)

    async def _stay(self, client: _Client, address: tuple[str, int]) -> None:
        standing: set[str] = set()
        while True:
            wanted = [topic for topic in self._topics if topic not in standing]
            if wanted:
                asked = client.subscribe([(t, 1) for t in wanted], timeout=SUBSCRIBE_S)
                codes: list[Any] = list(await client.answer_to(asked))
                for topic, code in zip(wanted, codes, strict=True):
                    if (code.value if isinstance(code, ReasonCode) else code) >= 0x80:
                        raise Unavailable(f"subscription refused: {topic}")
                standing.update(wanted)
                continue  # more may have been asked for meanwhile
            unwanted = sorted(standing - self._topics.keys())
            if unwanted:
                await client.answer_to(client.unsubscribe(unwanted, timeout=SUBSCRIBE_S))
                standing.difference_update(unwanted)
                continue
            if self._client is None:
                self._client, self.address = client, address
                self._number += 1
                self._told = ""
                self.inbox.put_local(LinkUp(self._number))
            self._more_topics = asyncio.get_running_loop().create_future()
            await asyncio.wait((client.ended, self._more_topics), return_when=asyncio.FIRST_COMPLETED)
            if client.ended.done():
                client.ended.result()
                raise Unavailable("the broker closed the connection")

    def _down(self, reason: str) -> None:
        """Tell the inbox once a reason, and always after a LinkUp."""
        if reason != self._told:
            self._told = reason
            self.inbox.put_local(LinkDown(reason))


class _Client(aiomqtt.Client):
    """One connection. Made anew for each, so that no state of an old session can leak into a new one."""

    def __init__(self, link: MqttLink, address: tuple[str, int], tls: ssl.SSLContext | None) -> None:
        super().__init__(
            address[0],
            address[1],
            identifier=link.client_id,
            protocol=aiomqtt.ProtocolVersion.V5 if link.mqtt5 else aiomqtt.ProtocolVersion.V311,
            clean_session=None if link.mqtt5 else True,
            keepalive=link.keepalive_s,
            timeout=CONNECT_S,
            logger=_LOG,
            will=None if link.will_topic is None else aiomqtt.Will(link.will_topic, b"", qos=1),
        )
        self._link = link
        self._tls = tls
        self._v5 = link.mqtt5
        self._inbox = link.inbox
        self._sock: Any = None
        self._tick_timer: asyncio.TimerHandle | None = None
        self._in = bytearray()
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._acks: list[bytes] = []
        self._open: dict[int, int] = {}  # packet id → token
        self._told_when_written: list[int] = []  # tokens at QoS 0
        self._mid = 0
        self._flush_due = False
        self._paused = False
        self._closed = False

    @property
    def ended(self) -> asyncio.Future[None]:
        return self._disconnected

    async def answer_to(self, request: Coroutine[Any, Any, Any]) -> Any:
        """What the broker answers; aiomqtt would wait for it on a connection that has ended, too."""
        asked = asyncio.ensure_future(request)
        try:
            await asyncio.wait((asked, self.ended), return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                return asked.result()
            self.ended.result()
            raise Unavailable("the broker closed the connection")
        finally:
            asked.cancel()

    # ---- connecting ----------------------------------------------------------------------------------

    async def __aenter__(self) -> _Client:
        """aiomqtt's own would connect in a thread that cannot be cancelled, and give TLS no other name."""
        sock = await self._connected_socket()
        client = self._client
        client._create_socket = lambda: sock  # type: ignore[method-assign]
        self._inbox.watch(self._pause, self._resume)
        try:
            client.connect(self._hostname, self._port, self._keepalive)
            await self._wait_for(self._first_of_connected_ended(), timeout=CONNECT_S)
        except BaseException:
            self.close()
            client._sock_close()
            sock.close()
            raise
        return self

    async def _first_of_connected_ended(self) -> None:
        await asyncio.wait((self._connected, self._disconnected), return_when=asyncio.FIRST_COMPLETED)
        if not self._connected.done():
            error = self._disconnected.exception()
            if isinstance(error, OSError):
                raise error  # in TLS 1.3 the refusal of our certificate is the first thing we read
            raise Unavailable("the broker hung up without a greeting: our certificate may not be accepted")
        self._connected.result()

    async def __aexit__(self, *exc_info: Any) -> None:
        """Say goodbye and wait until the broker hangs up.

        Paho would close at once; with an acknowledgement still unread, TCP then resets the connection, the
        goodbye is lost with it and the broker publishes a will that is not due.
        """
        try:
            if self._sock is not None and not self._disconnected.done():
                self._resume()
                self._out.append(_DISCONNECT)
                self._flush()
                await asyncio.wait((self._disconnected,), timeout=GOODBYE_S)
        finally:
            self._client._sock_close()
            if self._disconnected.done() and not self._disconnected.cancelled():
                self._disconnected.exception()  # seen: no "never retrieved" in the log

    async def _connected_socket(self) -> Any:
        reason: Exception = Unavailable(f"{self._hostname} has no address")
        for family, where in await _resolve(self._hostname, self._port):
            sock: Any = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                _tune(sock)
                async with asyncio.timeout(CONNECT_S):
                    await self._loop.sock_connect(sock, where)
                    if self._tls is not None:
                        sock = self._tls.wrap_socket(
                            sock,
                            server_hostname=_server_name(self._link.server_name or self._hostname),
                            do_handshake_on_connect=False,
                        )
                        await self._handshake(sock)
                if self._link.check_peer is not None and self._tls is not None:
                    self._link.check_peer(sock)
            except (OSError, ValueError, EdgeweaveError) as error:
                sock.close()
                reason = TimeoutError("timed out") if isinstance(error, TimeoutError) else error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise reason

    async def _handshake(self, sock: ssl.SSLSocket) -> None:
        while True:
            try:
                return sock.do_handshake()
            except ssl.SSLWantReadError:
                add, remove = self._loop.add_reader, self._loop.remove_reader
            except ssl.SSLWantWriteError:
                add, remove = self._loop.add_writer, self._loop.remove_writer
            ready = self._loop.create_future()
            descriptor = sock.fileno()
            add(descriptor, _resolve_future, ready)
            try:
                await ready
            finally:
                remove(descriptor)

    # ---- aiomqtt's callbacks -------------------------------------------------------------------------

    def _on_socket_open(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        self._sock = sock
        self._pending_bytes = sock.pending if isinstance(sock, ssl.SSLSocket) else None
        self._loop.add_reader(sock.fileno(), self._readable)
        self._tick_timer = self._loop.call_later(TICK_S, self._tick)

    def _on_socket_close(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        if sock.fileno() > -1:
            self._loop.remove_reader(sock.fileno())
            self._loop.remove_writer(sock.fileno())
        self._sock = None
        if self._tick_timer is not None:
            self._tick_timer.cancel()

    def _on_socket_register_write(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        self._loop.add_writer(sock.fileno(), self._writable)

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        """QoS 2 only, which nobody here grants or asks for."""
        self._lose(Unavailable("the broker sent QoS 2"))

    def _tick(self) -> None:
        self._tick_timer = self._loop.call_later(TICK_S, self._tick)
        if self._paused:
            self._client._ping_t = 0.0  # its answer is waiting in the socket that we do not read
        self._client.loop_misc()

    def _lose(self, error: Exception) -> None:
        self._client._sock_close()
        if not self._disconnected.done():
            self._disconnected.set_exception(error)

    # ---- receiving -----------------------------------------------------------------------------------

    def _pause(self) -> None:
        if not self._paused and self._sock is not None:
            self._paused = True
            self._loop.remove_reader(self._sock.fileno())

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            if self._sock is not None:
                self._loop.add_reader(self._sock.fileno(), self._readable)
                self._loop.call_soon(
                    self._readable
                )  # bytes may lie in our buffer or in TLS's, not in the kernel

    def _readable(self) -> None:
        if self._paused or self._sock is None:
            return
        try:
            if self._in:
                self._parse()
            for _ in range(READ_ROUNDS):
                if self._paused or self._sock is None:
                    break
                data = self._sock.recv(READ_BYTES)
                if not data:
                    self._lose(Unavailable("the broker closed the connection"))
                    return
                self._in += data
                self._client._last_bytes_received = self._loop.time()  # a part of a packet is a sign of life
                self._parse()
                if len(data) < READ_BYTES_FEW and not (self._pending_bytes and self._pending_bytes()):
                    break  # most likely all there was; asking to be told so costs an exception
            else:
                if self._pending_bytes is not None and self._sock is not None and self._pending_bytes():
                    self._loop.call_soon(self._readable)
        except _WOULD_BLOCK:
            pass
        except (OSError, EdgeweaveError) as error:
            self._lose(error)
            return
        if self._acks and not self._flush_due:
            # Two turns later: first the receiver has its turn, and what it sends takes the PUBACKs along.
            self._flush_due = True
            self._loop.call_soon(self._loop.call_soon, self._flush)

    def _parse(self) -> None:
        """Cut whole packets off the buffer; what does not fit into the inbox stays in it, unacknowledged."""
        buffer, at, end = self._in, 0, len(self._in)
        while end - at >= 2:
            length, head = buffer[at + 1], at + 2
            if length & 0x80:
                length &= 0x7F
                shift = 7
                while True:
                    if head >= end:
                        break
                    more = buffer[head]
                    head += 1
                    length |= (more & 0x7F) << shift
                    shift += 7
                    if not more & 0x80:
                        shift = 0
                        break
                    if shift > 21:
                        raise Unavailable("the broker sent a malformed packet")
                if shift:
                    break  # the length itself is not complete
            if length > PACKET_BYTES_MAX:
                raise Unavailable(f"the broker sent a packet of {length} bytes")
            if head + length > end:
                break
            first = buffer[at]
            kind = first & 0xF0
            if kind == _PUBLISH and not first & 0x04:
                if not self._deliver(first, bytes(buffer[head : head + length])):
                    break
            elif kind == _PUBACK:
                self._acknowledged(buffer[head : head + length])
            else:
                self._hand_to_paho(first, buffer[head : head + length])
            at = head + length
        if at:
            del buffer[:at]
            self._link.bytes_in += at

    def _deliver(self, first: int, packet: bytes) -> bool:
        """False: the inbox is full."""
        if self._closed:
            return True  # too late, and not acknowledged
        at = 2 + int.from_bytes(packet[:2], "big")
        mid = b""
        body = at
        if first & 0x06:
            mid = packet[at : at + 2]
            body = at + 2
        if self._v5:
            body = _after_properties(packet, body)
        if len(packet) < body:
            raise Unavailable("the broker sent a malformed packet")
        try:
            topic = packet[2:at].decode()
        except UnicodeDecodeError:
            topic = ""  # nobody's: the receiver drops what it cannot parse
        try:
            put = self._inbox.put_nowait if first & 0x06 else self._inbox.put_patient
            put(Delivery(topic, packet[body:], bool(first & 1)))
        except asyncio.QueueFull:
            self._pause()
            return False
        if mid:
            self._acks.append(b"\x40\x02" + mid)
        return True

    def _acknowledged(self, packet: bytearray) -> None:
        token = self._open.pop(int.from_bytes(packet[:2], "big"), 0)
        if token:
            refused = None
            if len(packet) > 2 and packet[2] >= 0x80:
                refused = str(ReasonCode(PacketTypes.PUBACK, identifier=packet[2])).lower()
            self._inbox.put_local(Sent(token, refused))

    def _hand_to_paho(self, first: int, packet: bytearray) -> None:
        client = self._client
        client._in_packet = {
            "command": first,
            "have_remaining": 1,
            "remaining_count": [],
            "remaining_mult": 1,
            "remaining_length": len(packet),
            "packet": packet,
            "to_process": 0,
            "pos": 0,
        }
        try:
            rc = client._packet_handle()
        except (MQTTException, ValueError, IndexError, struct.error) as error:
            raise Unavailable(f"the broker sent a malformed packet: {error}") from error
        if rc > 0:
            client._loop_rc_handle(rc)

    # ---- sending -------------------------------------------------------------------------------------

    def send(self, token: int, topic: str, payload: bytes, qos: int, retain: bool) -> None:
        if self._out_bytes > QUEUE_BYTES_MAX or len(self._out) >= QUEUE_ITEMS_MAX:
            raise Refused("link queue full")
        name = topic.encode()
        first = _PUBLISH | (1 if retain else 0)
        if qos:
            if len(self._open) >= self._link.queue_max:
                raise Refused("link queue full")
            mid = self._next_mid()
            self._open[mid] = token
            self._link.handed += 1
            first |= 0x02
            middle = mid.to_bytes(2, "big") + b"\0" if self._v5 else mid.to_bytes(2, "big")
        else:
            middle = b"\0" if self._v5 else b""
            if token:
                self._told_when_written.append(token)
        rest = len(name).to_bytes(2, "big") + name + middle
        self._out.append(b"%c%b%b%b" % (first, _length(len(rest) + len(payload)), rest, payload))
        self._out_bytes += len(payload) + 64
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _next_mid(self) -> int:
        """Ours count down from the top, paho's (SUBSCRIBE) up from 1."""
        mid = self._mid
        while True:
            mid = mid - 1 if mid > 1024 else 65_535
            if mid not in self._open:
                self._mid = mid
                return mid

    def flush(self) -> None:
        if self._out:
            self._flush()

    def _flush(self) -> None:
        """One write for all that waits; nothing while paho is in the middle of a packet."""
        self._flush_due = False
        client = self._client
        if self._sock is None or client._out_packet:
            return  # `_writable` calls again
        if not self._out and not self._acks:
            return
        data = memoryview(b"".join(self._acks + self._out))
        size, sent = len(data), 0
        self._acks.clear()
        self._out.clear()
        self._out_bytes = 0
        try:
            while sent < size:
                sent += self._sock.send(data[sent:] if sent else data)
        except _WOULD_BLOCK:
            self._out_bytes = size - sent
            # Paho finishes it: command 0 is nothing it would report, and it slices a view without copying.
            client._packet_queue(0, cast(bytes, data[sent:]), 0, 1)
        except OSError as error:
            self._lose(error)
            return
        self._link.bytes_out += size
        client._last_msg_out = self._loop.time()
        if self._told_when_written:
            told, self._told_when_written = self._told_when_written, []
            for token in told:
                self._inbox.put_local(Sent(token))

    def _writable(self) -> None:
        try:
            self._client.loop_write()
        except Exception as error:
            self._lose(error)
            return
        if self._sock is not None and not self._client._out_packet:
            self._flush()

    def close(self) -> None:
        """Flush, then settle every token that is still open."""
        if self._closed:
            return
        self._flush()
        self._closed = True
        self._inbox.unwatch(self._pause, self._resume)
        for token in [*self._told_when_written, *self._open.values()]:
            if token:
                self._inbox.put_local(Sent(token, LINK_DOWN))
        self._open.clear()
        self._told_when_written.clear()


def pause_s(failures: int, spent_s: float) -> float:
    """Before the next round of attempts, at most; jitter comes on top.

    From attempt to attempt: one that waited in vain for an answer has waited, and a network that is whole
    again should not wait for us.
    """
    ceiling_s: float = min(BACKOFF_S_MAX, BACKOFF_S_FIRST * 2.0 ** min(failures, 8))
    return max(BACKOFF_S_FIRST, ceiling_s - spent_s)


def _length(number: int) -> bytes:
    """MQTT's variable byte integer."""
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while True:
        number, low = number >> 7, number & 0x7F
        if not number:
            out.append(low)
            return bytes(out)
        out.append(low | 0x80)


def _after_properties(packet: bytes, at: int) -> int:
    length = shift = 0
    while True:
        if at >= len(packet) or shift > 21:
            raise Unavailable("the broker sent a malformed packet")
        byte = packet[at]
        at += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return at + length


def _resolve_future(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _resolve(host: str, port: int) -> list[tuple[int, Any]]:
    """Numbers need no resolver, and so no thread."""
    with contextlib.suppress(ValueError):
        number = ipaddress.ip_address(host)
        return [(socket.AF_INET if number.version == 4 else socket.AF_INET6, (host, port))]
    async with asyncio.timeout(CONNECT_S):
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, where) for family, _, _, _, where in found]


def _server_name(name: str) -> str | bytes:
    """As bytes a plain name passes by ssl's use of the idna codec, with its tables of 0.3 MB."""
    return name.encode() if name.isascii() else name


def _tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in (("TCP_QUICKACK", 1), ("TCP_USER_TIMEOUT", USER_TIMEOUT_MS)):  # Linux only
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _why(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"broker certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).lower().replace('_', ' ')}"
    if isinstance(error, TimeoutError):
        return "the broker does not answer"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) or type(error).__name__
