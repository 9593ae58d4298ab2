"""The embedded broker: amqtt with our own door, in a process of its own.

For a fresh machine without mosquitto: slower by a factor of ten, the same rules. Run as
``python -m gateway.broker.embedded CONFIG``. What amqtt 0.12 leaves open is closed here:

- identity is the common name of a verified certificate; the user name is ignored, the client id must
  be the same name, and both are checked before a running session of that name is touched;
- rules of ``access`` are asked for every SUBSCRIBE, PUBLISH, delivery and last will;
- a dead client is found by TCP, since its keep-alive does not; packets, queues and time are bounded.

Its keep-alive, offline queues and redelivery are not to be relied upon; nothing here does.
amqtt is imported only in the child.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import gateway
from edge_node.wire.topics import VERSION
from gateway.broker import access
from gateway.broker.access import Access, Listener
from security.certificates import RELEASED_S, read_certificate, spki_sha256_of
from security.errors import ProtocolViolation, Unavailable
from security.identity import bearer
from security.tls import NO_CHECK_TIME, abort

_LOG = logging.getLogger(__name__)

CONNECT_S: Final = 5.0
CONNECTIONS_MAX: Final = access.MEMBERS_MAX + 64
OUT_BYTES_MAX: Final = 32 * 1024 * 1024  # unacknowledged at one receiver; beyond it is lost for that receiver
TURNS_AT_END: Final = 8  # of the event loop: a packet's task needs two or three
OUT_ITEMS_MAX: Final = 4096


class Embedded:
    """The program `kind = "embedded"` of the broker facade; runs in the parent."""

    kind = "embedded"

    def __init__(self, listener: Listener, signal_child: Callable[[signal.Signals], None]) -> None:
        self._listener = listener
        self._signal_child = signal_child
        self._folder = Path(listener.folder)
        self.cwd = Path(next(iter(gateway.__path__))).parent  # where `-m` finds our packages

    @classmethod
    def find(cls, listener: Listener, signal_child: Callable[[signal.Signals], None]) -> Embedded:
        if importlib.util.find_spec("amqtt") is None:
            raise Unavailable("amqtt is not installed", fix="pip install 'edgeweave[gateway]'")
        return cls(listener, signal_child)

    def prepare(self, members: Iterable[str]) -> None:
        _write(self._folder / "embedded.json", self._configuration())
        self._write_members(members)

    def digest(self) -> str:
        # A running one keeps the rules of the code with which it was started.
        files = [self._listener.ca_file, __file__]  # its certificate is read again when it is told to
        files.append(str(access.__file__))
        return access.digest_of(
            [self._configuration().encode(), *(Path(name).read_bytes() for name in files)]
        )

    def command(self) -> list[str]:
        return [sys.executable, "-m", "gateway.broker.embedded", str(self._folder / "embedded.json")]

    async def set_members(self, members: Iterable[str]) -> bool:
        """A newcomer is let in from now on; a removed one is cut when the child has read the signal."""
        try:
            self._write_members(members)
        except OSError as error:
            raise Unavailable(
                f"the broker's members cannot be written: {error.strerror}", fix="free space on the disk"
            ) from error
        self._signal_child(signal.SIGHUP)
        return True

    def _configuration(self) -> str:
        return json.dumps(asdict(self._listener), sort_keys=True)

    def _write_members(self, members: Iterable[str]) -> None:
        _write(self._folder / "members.json", json.dumps(sorted(members)))


def _write(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(text)
    new.replace(path)


# ---- the child ------------------------------------------------------------------------------------------


class Members:
    """The members file, read again when it has changed."""

    def __init__(self, mesh: str, path: Path) -> None:
        self._mesh = mesh
        self._path = path
        self._stamp = (0, 0)
        self._access = Access(mesh)
        self._bearers: frozenset[str] = frozenset()

    @property
    def access(self) -> Access:
        return self._access

    def admits(self, bearer: str) -> bool:
        """By name and key: the key that a member had before it was replaced is a stranger's."""
        return bearer in self._bearers

    def refresh(self) -> Access:
        stat = self._path.stat()
        stamp = (stat.st_mtime_ns, stat.st_ino)
        if stamp != self._stamp:
            self._bearers = frozenset(json.loads(self._path.read_text()))
            self._access = Access(self._mesh, frozenset(map(access.name_of, self._bearers)))
            self._stamp = stamp
        return self._access


def server_context(listener: Listener) -> ssl.SSLContext:
    """TLS 1.3, a certificate from everyone; their dates are judged by this machine's clock.

    Unless that is before our own release, as on a board that woke up in 1970: then every certificate would be
    "not valid yet" and the mesh shut out. Who is admitted, the member list says anyway, by name and key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cafile=listener.ca_file)
    context.load_cert_chain(listener.cert_file, listener.key_file)
    context.num_tickets = 0  # every connection proves its certificate anew
    if time.time() < RELEASED_S:
        context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
    return context


def common_name(peer: ssl.SSLObject | None) -> str:
    """Of the verified certificate; empty if there is none, or more than one name."""
    certificate = peer.getpeercert() if peer is not None else None
    if not certificate:
        return ""
    subject: Any = certificate.get("subject", ())
    names = [value for rdn in subject for key, value in rdn if key == "commonName"]
    return str(names[0]) if len(names) == 1 else ""


def bearer_of(peer: ssl.SSLObject | None) -> str:
    """Name and key of the verified certificate; empty if there is none, or more than one name."""
    name, der = common_name(peer), peer.getpeercert(binary_form=True) if peer is not None else None
    if not name or der is None:
        return ""
    try:
        return bearer(name, spki_sha256_of(read_certificate(der)))
    except ProtocolViolation:  # another kind of key than a member's
        return ""


def _find_dead_soon(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("KEEPIDLE", 5), ("KEEPINTVL", 5), ("KEEPCNT", 2), ("USER_TIMEOUT", 15_000)):
        number = getattr(socket, f"TCP_{option}", None)
        if number is not None:
            sock.setsockopt(socket.IPPROTO_TCP, number, value)


def make_broker(listener: Listener, members: Members) -> Any:
    """An amqtt broker with our door. Made in a function: amqtt costs 29 MB to import."""
    from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
    from amqtt.broker import Broker, Server
    from amqtt.contexts import Action
    from amqtt.errors import AMQTTError, MQTTError, NoDataError
    from amqtt.mqtt.connack import NOT_AUTHORIZED, ConnackPacket
    from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
    from amqtt.session import OutgoingApplicationMessage

    class BoundedReader(StreamReaderAdapter):  # type: ignore[misc]
        """A member cannot make us hold a packet larger than a parcel."""

        def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            super().__init__(reader)
            self._transport = writer.transport

        async def read(self, n: int = -1) -> bytes:
            if n > access.PACKET_BYTES_MAX:
                abort(self._transport)
                raise NoDataError("packet too large")
            try:
                data: bytes = await super().read(n)
            except asyncio.IncompleteReadError:
                # amqtt handles each packet in a task, and at the end of the stream cancels those that have
                # not begun: a goodbye (and so a will that is not due) or a last message would be lost.
                for _ in range(TURNS_AT_END):
                    await asyncio.sleep(0)
                raise
            except TimeoutError as error:
                # ETIMEDOUT, a dead network: amqtt takes it for its keep-alive and reads on without end,
                # with all of a core, while the one exception grows by every raise.
                raise ConnectionAbortedError(error.errno, "the network is dead") from None
            return data

    class Handler(BrokerProtocolHandler):  # type: ignore[misc]
        """A receiver that does not acknowledge loses messages; it cannot make us keep them."""

        waiting_bytes = 0
        waiting_items = 0

        async def mqtt_publish(
            self, topic: str, data: Any, qos: Any, retain: bool, ack_timeout: Any = None
        ) -> Any:
            if self.waiting_bytes > OUT_BYTES_MAX or self.waiting_items >= OUT_ITEMS_MAX:
                return OutgoingApplicationMessage(None, topic, 0, data, retain)
            self.waiting_bytes += len(data)
            self.waiting_items += 1
            try:
                return await super().mqtt_publish(topic, data, qos, retain, ack_timeout)
            except OSError:  # it is dead, or does not acknowledge: amqtt would log each message at length
                return OutgoingApplicationMessage(None, topic, 0, data, retain)
            finally:
                self.waiting_bytes -= len(data)
                self.waiting_items -= 1

    class Door(Broker):  # type: ignore[misc]
        """Only the places where amqtt asks who and whether."""

        connections = 0

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.bearers: dict[str, str] = {}  # of the sessions, by name: never more than amqtt has sessions

        tls = server_context(listener)

        async def _start_listeners(self) -> None:
            server = await asyncio.start_server(
                lambda reader, writer: self.stream_connected(reader, writer, "default"),
                listener.host,
                listener.port,
                reuse_address=True,
                ssl=self.tls,
                ssl_handshake_timeout=CONNECT_S,
            )
            self._servers["default"] = Server("default", server, -1)

        async def stream_connected(
            self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
        ) -> None:
            if self.connections >= CONNECTIONS_MAX:
                abort(writer.transport)
                return
            self.connections += 1
            try:
                _find_dead_soon(writer)
                await self._client_connected(
                    listener_name, BoundedReader(reader, writer), StreamWriterAdapter(writer)
                )
            except Exception as error:  # the door: one client must not end the broker
                _LOG.warning("connection ended: %r", error)
            finally:
                self.connections -= 1
                abort(writer.transport)

        async def _initialize_client_session(
            self, reader: Any, writer: Any, remote_address: str, remote_port: int
        ) -> tuple[Any, Any]:
            bearer = bearer_of(writer.get_ssl_info())
            name = access.name_of(bearer)
            try:
                async with asyncio.timeout(CONNECT_S):
                    handler, session = await Handler.init_from_connect(reader, writer, self.plugins_manager)
            except (AMQTTError, NoDataError, TimeoutError, OSError) as error:
                raise MQTTError(f"no CONNECT from {name or remote_address}: {error}") from error
            refused = self._refusal(bearer, session)
            if refused:
                await ConnackPacket.build(0, NOT_AUTHORIZED).to_stream(writer)
                await writer.close()
                raise MQTTError(f"{name or remote_address} refused: {refused}")
            old_session, old_handler = self._sessions.get(name, (None, None))
            if old_session is not None:
                await self._delete_session(name)
                if old_session.transitions.state == "connected":  # the same certificate: its owner came back
                    await old_handler.handle_connection_closed()
            self.bearers[name] = bearer
            session.parent = 0
            session.is_anonymous = False
            return handler, session

        def _refusal(self, bearer: str, session: Any) -> str:
            rules, name = members.refresh(), access.name_of(bearer)
            if not members.admits(bearer):
                return "not a member"
            if session.client_id != name:
                return "client id is not the certificate's name"
            if not session.clean_session:
                return "only clean sessions"
            if session.will_flag and not rules.may_write(name, session.will_topic or ""):
                return "last will on a topic of someone else"
            return ""

        async def _authenticate(self, session: Any, _: Any) -> bool:
            # Asked again: an older session had to end first, and meanwhile its key may have been shut out.
            return members.admits(self.bearers.get(session.client_id, ""))

        async def _topic_filtering(self, session: Any, topic: str, action: Any) -> bool:
            """Never gives way to the loop: amqtt iterates its subscriptions while it asks."""
            me, rules = session.client_id, members.access
            if action == Action.SUBSCRIBE:
                return rules.may_subscribe(me, topic)
            if action == Action.PUBLISH:
                return rules.may_write(me, topic)
            return action == Action.RECEIVE and rules.may_receive(me, topic)

        async def _broadcast_message(
            self, session: Any, topic: Any, data: Any, force_qos: int | None = None
        ) -> None:
            tasks = (
                self._tasks_queue
            )  # amqtt clears it only from the left, so one stuck receiver lets it grow
            if len(tasks) > 2 * OUT_ITEMS_MAX and not len(tasks) % 512:
                pending = [task for task in tasks if not task.done()]
                tasks.clear()
                tasks.extend(pending)
            await super()._broadcast_message(session, topic, data, force_qos)

        async def _publish_retained_messages_for_subscription(
            self, subscription: tuple[str, int], session: Any
        ) -> None:
            """amqtt shows every newcomer what others have subscribed to."""
            if any(reader is session for reader, _ in self._subscriptions.get(subscription[0], ())):
                await super()._publish_retained_messages_for_subscription(subscription, session)

        async def retain_message(
            self, source_session: Any, topic_name: Any, data: Any, qos: int | None = None
        ) -> None:
            """Nothing but the roster is ever kept, so nobody can fill our memory."""
            if topic_name == f"ew/{VERSION}/{listener.mesh}/roster":
                await super().retain_message(source_session, topic_name, data, qos)

        def reread(self) -> None:
            """Show new connections the certificate on disk, and cut off whoever is no member any more."""
            try:
                self.tls.load_cert_chain(listener.cert_file, listener.key_file)
            except (OSError, ssl.SSLError) as error:
                _LOG.error("the certificate cannot be read again, the old one is shown: %r", error)
            self.expel()

        def expel(self) -> None:
            """Cut off whoever is no member any more."""
            members.refresh()
            self.bearers = {name: one for name, one in self.bearers.items() if name in self._sessions}
            for name, (session, handler) in list(self._sessions.items()):
                if (
                    not members.admits(self.bearers.get(name, ""))
                    and session.transitions.state == "connected"
                ):
                    _LOG.warning("%s is cut off: not a member any more", name)
                    abort(handler.writer._writer.transport)

    return Door(
        {"listeners": {"default": {"type": "tcp", "bind": f"{listener.host}:{listener.port}"}}, "plugins": {}}
    )


async def serve(listener: Listener) -> None:
    members = Members(listener.mesh, Path(listener.folder) / "members.json")
    members.refresh()
    broker = make_broker(listener, members)
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    loop.add_signal_handler(signal.SIGHUP, broker.reread)
    await broker.start()
    await over.wait()


def main() -> int:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    listener = Listener(**json.loads(Path(sys.argv[1]).read_text()))
    os.umask(0o077)
    try:
        asyncio.run(serve(listener))
    except Exception as error:  # the last words are what the supervisor shows
        cause = error.__cause__ or error
        print(f"Error: {cause}", file=sys.stderr)  # noqa: T201
        return 1
    os._exit(0)  # sessions are clean and nothing is kept: nothing to wait for


if __name__ == "__main__":
    sys.exit(main())
