"""The one HTTP application of a gateway, and the TLS server that it answers on.

Rooms that speak HTTP (joining now; API and console later) bring an ``APIRouter``; here they become one app on
one port. Anybody may connect to it, so a connection costs little and not for long: 5 s for the TLS
handshake, 10 s from there (or from the last answer) to the end of a request's headers, 16 KiB of headers,
30 s to take an answer, 256 connections; ``read_body`` bounds what a room reads.

Not here: what is answered; who may ask.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import contextlib
import errno
import ssl
from collections.abc import Callable, Iterable
from email.utils import formatdate
from types import TracebackType
from typing import Any, Final

import h11
import msgspec
from fastapi import APIRouter, FastAPI, HTTPException, Request

from edge_node.clock import Clock, SystemClock
from gateway.api.problems import MEDIA_TYPE, TITLES, URN
from gateway.api.slim_uvicorn import Config, H11Protocol, ServerState
from security.errors import BadInput
from security.tls import abort

HANDSHAKE_S = 5.0
HEADERS_S = 10.0
BODY_S = 10.0
SENDING_S = 30.0  # the rest of an answer: a large roster over a thin line, as long as nodes wait for it
CLOSING_S = 3.0
CONNECTIONS_MAX = 256
HEADER_BYTES_MAX = 16 * 1024
WS_BYTES_MAX = 1024 * 1024
READ_BYTES = 16 * 1024
"""Read of a connection at once: a TLS record. asyncio's own 256 KiB are kept for each connection."""
asyncio.sslproto.SSLProtocol.max_size = READ_BYTES
UNOBSERVED: Final[dict[str, Any]] = {"telemetry": {"tracing": False, "metrics": False, "logs": False}}
"""FastAPI would observe each request, and hand bodies that it refuses to whatever collects in this process:
what is told of requests, and of traces, we tell ourselves (``traffic``, ``edge_node.telemetry``)."""

_NO_HTTP = msgspec.json.encode(
    {
        "type": f"{URN}malformed",
        "title": TITLES["malformed"][1],
        "status": 400,
        "detail": "this is no HTTP request, or the parts of its body are not",
        "field": "request",
        "fix": "send HTTP/1.1 (RFC 9112)",
    }
)
_NO_HTTP_HEADERS = [
    (b"content-type", MEDIA_TYPE.encode()),
    (b"content-length", str(len(_NO_HTTP)).encode()),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"connection", b"close"),
]


def create_app(routers: Iterable[APIRouter]) -> FastAPI:
    """Bare: no interactive documentation, nothing that tells a stranger what else is here."""
    app = FastAPI(title="edgeweave", docs_url=None, redoc_url=None, openapi_url=None, **UNOBSERVED)
    for router in routers:
        app.include_router(router)
    return app


async def read_body(request: Request, *, bytes_max: int, within_s: float = BODY_S) -> bytes:
    """The whole body, or an end of it: too large is noticed while reading, too slow is cut.

    Raises: HTTPException: 413 or 408; the connection is closed after either.
    """
    body = bytearray()
    close = {"connection": "close"}
    try:
        async with asyncio.timeout(within_s):
            async for part in request.stream():
                body += part
                if len(body) > bytes_max:
                    raise HTTPException(413, f"at most {bytes_max} bytes", headers=close)
    except TimeoutError:
        raise HTTPException(408, "body came too slowly", headers=close) from None
    return bytes(body)


class _Connection(H11Protocol):
    """uvicorn's HTTP/1.1, with an end to waiting for a request and a bound on connections."""

    _patience: asyncio.TimerHandle | None = None
    _is_socket = False
    tell_date: Callable[[], None] = staticmethod(lambda: None)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= CONNECTIONS_MAX:
            abort(transport)
        super().connection_made(transport)
        self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        self.tell_date()  # before the answers to this
        super().data_received(data)
        if self._is_busy() or self._is_socket:
            self._stop_waiting()
        elif self._patience is None:
            self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is told as problems are, where an answer can still be given; the line is cut."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            abort(self.transport)  # answered already, or in the midst of it: h11 lets nothing in between
            return
        if self.cycle is not None:  # who still reads this body gets no more of it, and need not answer
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        head = h11.Response(status_code=400, headers=_NO_HTTP_HEADERS, reason=b"Bad Request")
        for event in (head, h11.Data(data=_NO_HTTP), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._is_socket = True
        super().handle_websocket_upgrade(event)

    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_headers(self) -> None:
        self._patience = self.loop.call_later(HEADERS_S, self._cut)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _cut(self) -> None:
        self._patience = None
        if not self._is_busy():
            abort(self.transport)


class HttpsServer:
    """The app on its port for as long as the block lasts, in the loop of the gateway.

    uvicorn's own ``Server`` is not used: it takes signals, exits the process where a port is in use and has
    no bound on the TLS handshake.
    """

    def __init__(
        self, app: Any, listen: str, port: int, context: ssl.SSLContext, *, clock: Clock | None = None
    ) -> None:
        self._listen = listen
        self._port = port
        self._context = context
        self._clock = clock or SystemClock()
        self._state = ServerState()
        self._config = Config(
            app,
            http=_Connection,
            ws="websockets-sansio",  # a page of the console; without an application it gets 403
            ws_max_size=WS_BYTES_MAX,
            ws_per_message_deflate=False,
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=5,
            h11_max_incomplete_event_size=HEADER_BYTES_MAX,
        )
        self._config.load()
        self._lifespan = self._config.lifespan_class(self._config)
        self._server: asyncio.Server | None = None
        self.port = 0

    async def __aenter__(self) -> HttpsServer:
        """Raises: BadInput: the port is in use, or the address is not this machine's."""
        await self._lifespan.startup()
        loop = asyncio.get_running_loop()
        self._state.default_headers = [(b"date", b""), *self._config.encoded_headers]
        self._tell_date()
        try:
            self._server = await loop.create_server(
                self._connection,
                self._listen,
                self._port,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=SENDING_S,
                backlog=CONNECTIONS_MAX,
            )
        except OSError as error:
            await self._lifespan.shutdown()
            if error.errno == errno.EADDRINUSE:
                raise BadInput(
                    f"port {self._port} on {self._listen} is in use",
                    fix="choose another with --port, or 0 for any",
                ) from None
            raise BadInput(
                f"cannot listen on {self._listen} port {self._port}: {error.strerror or error}",
                fix="choose an address of this machine with --listen",
            ) from None
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_S):
                while self._state.tasks:
                    await asyncio.wait(list(self._state.tasks))
        for task in list(self._state.tasks):
            task.cancel()
        for connection in list(self._state.connections):
            if connection.transport is not None:
                abort(connection.transport)
        await self._lifespan.shutdown()

    def _connection(self) -> asyncio.Protocol:
        connection = _Connection(self._config, self._state, self._lifespan.state)
        connection.tell_date = self._tell_date
        return connection

    def _tell_date(self) -> None:
        """The gateway's time, with every answer: `doctor` on a node compares its clock with it."""
        now_s = self._clock.wall_ms() / 1000
        self._state.default_headers[0] = (b"date", formatdate(now_s, usegmt=True).encode())
