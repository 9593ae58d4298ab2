"""The daemon's side of the control socket.

A Unix stream socket, mode 0600, in the home. Requests that carry work go to the ``Backend`` in callback
style, synchronously: a coroutine per request would cost more than the request. Administrative methods
are coroutines, one task each, owned by ``run``. Responses of one loop turn leave in one write.

    data ─► FrameReader ─► Backend.submit/run/result/cancel(request, reply)
                       └─► Backend.call(method, params), awaited
    reply(response) ─► collected until the end of the loop turn ─► one transport.write

Back-pressure: a connection with too many unanswered requests, or one that does not read its answers,
is not read from until that changes. Large outcomes that it does not read are not held for it: they are on the
disk, and read again when it takes more. A lost connection drops its answers, never its work.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import logging
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol, cast

from edge_node.control import protocol
from edge_node.control.protocol import (
    Answer,
    Call,
    Cancel,
    Failure,
    FrameReader,
    Outcome,
    Request,
    Response,
    Result,
    Run,
    Submit,
    failure_for,
)
from edge_node.home import short_address
from security.errors import BadInput, EdgeweaveError, ProtocolViolation, Unavailable

Reply = Callable[[Response], None]

CONNECTIONS_MAX: Final = 256  # programs of one user; a leak in one of them must not eat our descriptors
CALLS_MAX: Final = 64  # administrative methods at once, over all connections
INPUT_BYTES_MAX: Final = 64 * 1024 * 1024  # unanswered requests of one connection, in bytes
WRITE_BYTES_HIGH: Final = 4 * 1024 * 1024  # unread answers of one connection before we stop reading it
WRITE_BYTES_MAX: Final = 256 * 1024 * 1024  # … and before it is cut: every answer of a full connection
LARGE_BYTES: Final = 4 * 1024  # an outcome above this is not held for a program that does not read
FETCHED_MAX: Final = 4  # of those, read again at once
_BACKLOG = 512
_PEER = struct.Struct("3i")  # Linux: pid, uid, gid

caller: contextvars.ContextVar[int | None] = contextvars.ContextVar("caller", default=None)
"""Within an administrative method: the user id of the program that asked, as the kernel tells it."""

log = logging.getLogger(__name__)


class Backend(Protocol):
    """What the daemon does with requests.

    ``reply`` is called exactly once, now or later, from the loop's thread, with a response that repeats
    ``request.id``. It never raises and never waits; after the connection is lost it does nothing. An
    EdgeweaveError raised by one of these methods is answered as a Failure.
    """

    def submit(self, request: Submit, reply: Reply) -> None: ...
    def run(self, request: Run, reply: Reply) -> None: ...
    def result(self, request: Result, reply: Reply) -> None: ...
    def cancel(self, request: Cancel, reply: Reply) -> None: ...
    async def call(self, method: str, params: dict[str, Any]) -> object: ...


class ControlServer:
    """Serves one home's control socket.

    Either ``await listen()`` and then ``await run()`` in a task of the house (cancel to stop), or as an
    async context manager, which does both.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        backend: Backend,
        *,
        outstanding_max: int = protocol.OUTSTANDING_MAX,
    ) -> None:
        self._path = Path(path)
        self._backend = backend
        self._outstanding_max = outstanding_max
        self._connections: set[_Connection] = set()
        self._answering: set[_Connection] = set()  # they have answers that were not written yet
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._calls: asyncio.TaskGroup | None = None
        self._calls_running = 0
        self._context: contextlib.AsyncExitStack | None = None

    @property
    def connections(self) -> int:
        return len(self._connections)

    async def listen(self) -> None:
        """Bind. A socket file that nobody answers on is replaced.

        Raises: Unavailable: another daemon answers there; BadInput: something else lies there.
        """
        assert self._server is None, "listens already"
        _clear_stale(self._path)
        listener = _bound(self._path)
        self._inode = self._path.stat().st_ino
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: _Connection(self, self._backend, self._outstanding_max), sock=listener, backlog=_BACKLOG
        )

    async def run(self) -> None:
        """Serve until cancelled; then close every connection and remove the socket file."""
        if self._server is None:
            await self.listen()
        async with asyncio.TaskGroup() as calls:
            self._calls = calls
            try:
                await asyncio.get_running_loop().create_future()  # for ever: connections serve themselves
            finally:
                self._calls = None
                self.close()

    def flush(self) -> None:
        """The caller's turn ends: write its answers now and not a turn of the event loop later."""
        while self._answering:
            self._answering.pop()._flush()

    def close(self) -> None:
        """Stop listening, cut connections (what they asked for goes on), remove the socket file."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for connection in list(self._connections):
            connection.close()
        with contextlib.suppress(FileNotFoundError):
            if self._path.lstat().st_ino == self._inode:  # not a successor's
                self._path.unlink()

    async def __aenter__(self) -> ControlServer:
        await self.listen()
        stack = contextlib.AsyncExitStack()
        group = await stack.enter_async_context(asyncio.TaskGroup())
        serving = group.create_task(self.run(), name="control")
        stack.callback(serving.cancel)
        await asyncio.sleep(0)  # let run() open its group of calls
        self._context = stack
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._context is not None
        stack, self._context = self._context, None
        await stack.aclose()

    # -- for connections ------------------------------------------------------------------------------

    def _opened(self, connection: _Connection) -> bool:
        if len(self._connections) >= CONNECTIONS_MAX or self._server is None:
            return False
        self._connections.add(connection)
        return True

    def _lost(self, connection: _Connection) -> None:
        self._connections.discard(connection)

    def _call(self, request: Call, reply: Reply, uid: int | None) -> None:
        if self._calls is None or self._calls_running >= CALLS_MAX:
            raise Unavailable("too many administrative requests at once", fix="try again")
        self._calls_running += 1
        context = contextvars.copy_context()
        context.run(caller.set, uid)
        name = f"control.{request.method}"
        self._calls.create_task(self._answer(request, reply), name=name, context=context)

    async def _answer(self, request: Call, reply: Reply) -> None:
        try:
            params = protocol.unpack(request.params)
            if not isinstance(params, dict):
                raise BadInput(f"parameters of {request.method} are not a mapping")
            result = await self._backend.call(request.method, cast("dict[str, Any]", params))
            reply(Answer(request.id, protocol.pack(result)))
        except EdgeweaveError as error:
            reply(failure_for(request.id, error))
        except Exception as error:  # a door: one broken method must not end the daemon
            log.exception("control method %s failed", request.method)
            reply(failure_for(request.id, error))
        finally:
            self._calls_running -= 1


class _Connection(asyncio.Protocol):
    """One program. Synchronous from the first byte to the last."""

    def __init__(self, server: ControlServer, backend: Backend, outstanding_max: int) -> None:
        self._server = server
        self._backend = backend
        self._outstanding_max = outstanding_max
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._waiting: list[bytes] = []  # frames not started because too much is outstanding; reversed
        self._outstanding = 0
        self._outstanding_bytes = 0
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._later: collections.deque[tuple[Result, int]] = collections.deque()  # settled; still outstanding
        self._fetching = 0
        self._reading = True
        self._writable = True

    # -- the transport's side -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BYTES_HIGH)
        if not self._server._opened(self):
            failure = Failure(0, protocol.UNAVAILABLE, "too many programs are connected to this daemon")
            self._transport.write(protocol.encode(failure))
            self._transport.close()
            self._transport = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._waiting.clear()
        self._later.clear()
        self._out.clear()
        self._server._lost(self)

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        try:
            bodies = self._reader.feed(data)
        except ProtocolViolation as error:
            self._disagree(error)
            return
        if self._waiting:
            self._waiting[:0] = reversed(bodies)
        else:
            bodies.reverse()
            self._waiting = bodies
        self._work()

    def pause_writing(self) -> None:
        self._writable = False
        self._pause_or_resume()

    def resume_writing(self) -> None:
        self._writable = True
        self._work()

    # -- requests -------------------------------------------------------------------------------------

    def _full(self) -> bool:
        return self._outstanding >= self._outstanding_max or self._outstanding_bytes >= INPUT_BYTES_MAX

    def _work(self) -> None:
        """Start what may be started; a program that asks faster than it is answered waits in its socket."""
        waiting = self._waiting
        while self._later and self._writable and self._fetching < FETCHED_MAX:
            self._fetch(*self._later.popleft())
        while (
            waiting
            and self._writable
            and not self._later
            and not self._full()
            and self._transport is not None
        ):
            body = waiting.pop()
            try:
                request = protocol.decode_request(body)
            except ProtocolViolation as error:
                self._disagree(error)
                return
            self._start(request, len(body))
        self._pause_or_resume()

    def _fetch(self, request: Result, size: int) -> None:
        """Read an outcome again that was not held for this program."""
        self._outstanding -= 1
        self._outstanding_bytes -= size
        self._fetching += 1
        reply = self._reply_for(size)

        def fetched(response: Response) -> None:
            self._fetching -= 1
            reply(response)

        self._begin(request, fetched)

    def _start(self, request: Request, size: int) -> None:
        self._begin(request, self._reply_for(size))

    def _begin(self, request: Request, reply: Reply) -> None:
        try:
            match request:
                case Run():
                    self._backend.run(request, reply)
                case Submit():
                    self._backend.submit(request, reply)
                case Result():
                    self._backend.result(request, reply)
                case Cancel():
                    self._backend.cancel(request, reply)
                case Call():
                    self._server._call(request, reply, self._uid())
        except EdgeweaveError as error:
            reply(failure_for(request.id, error))
        except Exception as error:  # a door: one request must not end the others of this program
            log.exception("control request %s failed", type(request).__name__)
            with contextlib.suppress(AssertionError):  # it may have been answered before it broke
                reply(failure_for(request.id, error))

    def _uid(self) -> int | None:
        """Whose program this is; None: it has hung up."""
        try:
            peer = cast("asyncio.Transport", self._transport).get_extra_info("socket")
            return int(_PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[1])
        except (OSError, AttributeError):
            return None

    def _reply_for(self, size: int) -> Reply:
        self._outstanding += 1
        self._outstanding_bytes += size
        answered = False

        def reply(response: Response) -> None:
            nonlocal answered
            assert not answered, "one response a request"
            answered = True
            if self._transport is not None and isinstance(response, Outcome) and self._is_too_much(response):
                self._later.append((Result(response.id, response.task), size))
                self._loop.call_soon(self._flush)
                return
            self._outstanding -= 1
            self._outstanding_bytes -= size
            if self._transport is None:
                return
            try:
                frame = protocol.encode(response)
            except BadInput as error:  # an outcome too large for a frame: its value cannot be told
                frame = protocol.encode(failure_for(response.id, error))
            if not self._out:
                self._loop.call_soon(self._flush)
                self._server._answering.add(self)
            self._out.append(frame)
            self._out_bytes += len(frame)

        return reply

    def _is_too_much(self, outcome: Outcome) -> bool:
        """Is enough unread, and this one large? It was on the disk before it was told."""
        assert self._transport is not None
        unread = self._out_bytes + self._transport.get_write_buffer_size()
        return (
            unread > WRITE_BYTES_HIGH
            and len(outcome.output) + len(outcome.error) + len(outcome.log) > LARGE_BYTES
        )

    # -- responses ------------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._server._answering.discard(self)
        frames, self._out, self._out_bytes = self._out, [], 0
        if self._transport is None:
            return
        if frames:
            self._transport.write(frames[0] if len(frames) == 1 else b"".join(frames))
        if self._transport.get_write_buffer_size() > WRITE_BYTES_MAX:
            log.warning("a program does not read its answers: cut")
            self._transport.abort()
            return
        if not self._reading or self._later:
            self._work()

    def _pause_or_resume(self) -> None:
        want = self._writable and not self._waiting and not self._later and not self._full()
        if self._transport is None or want == self._reading:
            return
        self._reading = want
        if want:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _disagree(self, error: ProtocolViolation) -> None:
        """The stream is not ours from here on: say so once and hang up."""
        self._waiting.clear()
        self._later.clear()
        if self._transport is not None:
            self._out.append(protocol.encode(Failure(0, protocol.BAD_INPUT, error.cause)))
            self._flush()
        self.close()

    def close(self) -> None:
        if self._transport is not None:
            transport, self._transport = self._transport, None
            transport.close()
            self._server._lost(self)


def answers(path: Path) -> bool:
    """Whether a daemon listens there. A full backlog is a daemon too, only a busy one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            with short_address(path) as address:
                probe.connect(address)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


def _clear_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise BadInput(f"{path} is not a socket", fix="move it away")
    if answers(path):
        raise Unavailable(
            f"a daemon already answers at {path}", fix="stop it first, or choose another home with --home DIR"
        )
    path.unlink(missing_ok=True)


def _bound(path: Path) -> socket.socket:
    """A listening socket at *path*, 0600 from the first moment it can be found there."""
    new = path.with_name(f".{path.name[:12]}.{os.getpid()}")
    new.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        with short_address(new) as address:
            listener.bind(address)
        new.chmod(0o600)
        listener.listen(_BACKLOG)
        new.rename(path)
    except OSError as error:
        listener.close()
        new.unlink(missing_ok=True)
        raise Unavailable(
            f"cannot listen at {path}: {error.strerror}", fix="check the home's owner and free space"
        ) from None
    return listener
