"""The mesh from a program's point of view: give it work, get results.

    async with Mesh.open() as mesh:                          # this machine's daemon, over its local socket
        found = await mesh.run("room.changes", rows, deadline_s=2.0)
        async for result in mesh.map("gait.spectrum", windows):          # many in flight, as they come
            ...
        task = await mesh.submit("gait.spectrum", window)    # on disk at the daemon once this returns
        value = await task.result()
        rooms = mesh.state.table("rooms", key="id")          # a TinyDB table that replicates

Requests of one loop turn leave in one write; a response costs one future. A daemon that restarts is
connected to again by the next request; ``result`` waits through the restart, because what was accepted
is kept. Cancelling an awaited ``run`` stops the waiting, not the task: use ``submit`` and ``cancel``.
Programs without a loop of their own, and those written for executors: ``MeshExecutor``.

Errors: ``TaskFailed`` (the function raised, ran too long, …), ``Refused`` (policy; do not retry),
``DeadlineExceeded``, ``TaskCancelled``, ``MeshUnavailable`` (nobody answers; wait and retry), ``BadInput``
(the caller's arguments). Not here: how a daemon is found beyond its home, and anything that is sealed.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import os
import random
import socket
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast

from edge_node.control import protocol
from edge_node.control.protocol import (
    Accepted,
    Answer,
    Attempt,
    Call,
    Cancel,
    Cancelled,
    Failure,
    FrameReader,
    Outcome,
    Pending,
    Request,
    Response,
    Result,
    Run,
    Submit,
)
from edge_node.functions import values
from edge_node.functions.invocation import TaskError
from edge_node.home import Home, chosen_home
from security import errors
from security.errors import BadInput, EdgeweaveError, ProtocolViolation, Unavailable

__all__ = [
    "Attempt",
    "BadInput",
    "DeadlineExceeded",
    "Mesh",
    "MeshExecutor",
    "MeshUnavailable",
    "Outcome",
    "Refused",
    "StillRunning",
    "TaskCancelled",
    "TaskFailed",
    "TaskHandle",
    "value_of",
]

if TYPE_CHECKING:
    from edge_node.executor import MeshExecutor
    from edge_node.state.state import State
    from edge_node.state.twin import Twin

RECONNECT_S_MAX: Final = 30.0  # how long `result` waits for a daemon that went away
DEADLINE_GRACE_S: Final = 2.0  # the daemon decides about deadlines; this notices a daemon that hangs
_WRITE_BYTES_HIGH: Final = 4 * 1024 * 1024

R = TypeVar("R", bound=Response)


def __getattr__(name: str) -> Any:
    """``MeshExecutor``, loaded when it is asked for: it stands on this module, and daemons never need it."""
    if name == "MeshExecutor":
        from edge_node.executor import MeshExecutor

        return MeshExecutor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Refused(errors.Refused):
    """Policy says no; do not retry. ``reason`` is the closed word for it, ``cause`` tells more."""

    def __init__(self, cause: str, *, fix: str = "", reason: str = "", task: str = "") -> None:
        super().__init__(cause, fix=fix)
        self._reason = reason or cause
        self.task = task

    @property
    def reason(self) -> str:
        return self._reason


class MeshUnavailable(Unavailable):
    """Nobody answers, or the daemon cannot do it now: wait and retry. ``cause`` and ``fix`` say more."""


class StillRunning(MeshUnavailable):
    """The task was not settled within the time given to wait; ask again. ``state``: how far it is."""

    def __init__(self, task: str, state: str) -> None:
        super().__init__(f"task {task} is not settled yet ({state})", fix="ask again, or wait longer")
        self.task = task
        self.state = state


class TaskFailed(EdgeweaveError):
    """The function did not end well. ``remote_traceback`` is the worker's, as text."""

    def __init__(
        self,
        message: str,
        *,
        task: str,
        kind: str,
        type_name: str = "",
        remote_traceback: str = "",
        log: str = "",
    ) -> None:
        super().__init__(message)
        self.task = task
        self.kind = kind  # "raised" | "timeout" | "memory" | "exit" | "output" | "quarantined" | …
        self.type_name = type_name  # of the exception: "ValueError"
        self.remote_traceback = remote_traceback
        self.log = log  # what the function printed


class DeadlineExceeded(EdgeweaveError, TimeoutError):
    """The task did not settle in time. ``task`` is its id, if it has been told."""

    def __init__(self, cause: str, *, fix: str = "", task: str = "") -> None:
        super().__init__(cause, fix=fix)
        self.task = task


class TaskCancelled(EdgeweaveError):
    """Somebody cancelled the task."""

    def __init__(self, cause: str, *, task: str = "") -> None:
        super().__init__(cause)
        self.task = task


def value_of(outcome: Outcome) -> Any:
    """The value of a task that is done, else its error raised.

    Raises: TaskFailed, DeadlineExceeded, TaskCancelled.
    """
    if outcome.status == protocol.DONE:
        try:
            return values.decode(outcome.output)
        except ProtocolViolation as error:
            raise TaskFailed(error.cause, task=outcome.task, kind="output") from None
    raise _error_of(outcome)


def _error_of(outcome: Outcome) -> EdgeweaveError:
    task, reason = outcome.task, outcome.reason
    match outcome.status:
        case protocol.EXPIRED:
            return DeadlineExceeded(reason or f"task {task} did not settle in time", task=task)
        case protocol.CANCELLED:
            return TaskCancelled(reason or f"task {task} was cancelled", task=task)
    log = outcome.log.decode("utf-8", "replace")
    if outcome.status == protocol.QUARANTINED:
        cause = reason or f"task {task} took several workers down and is quarantined"
        return TaskFailed(cause, task=task, kind="quarantined", log=log)
    if not outcome.error:
        return TaskFailed(reason or f"task {task} failed", task=task, kind="raised", log=log)
    try:
        error = TaskError.decode(outcome.error)
    except ProtocolViolation as unreadable:
        return TaskFailed(f"task {task} failed: {unreadable.cause}", task=task, kind="output", log=log)
    message = f"{error.type}: {error.message}" if error.type else error.message
    return TaskFailed(
        message,
        task=task,
        kind=error.kind,
        type_name=error.type,
        remote_traceback=error.traceback,
        log=log,
    )


def _error_for(failure: Failure) -> EdgeweaveError:
    match failure.code:
        case protocol.BAD_INPUT | protocol.NOT_FOUND:
            return BadInput(failure.message, fix=failure.fix)
        case protocol.REFUSED:
            reason, task = failure.extra.get("reason", ""), failure.extra.get("task", "")
            return Refused(failure.message, fix=failure.fix, reason=reason, task=task)
    retry_after_s = 1.0
    try:
        retry_after_s = float(failure.extra.get("retry_after_s", "1"))
    except ValueError:
        pass
    return MeshUnavailable(failure.message, fix=failure.fix, retry_after_s=retry_after_s)


class TaskHandle:
    """A task that the daemon has on disk. Its ``id`` is all there is to it: keep it, ask later."""

    __slots__ = ("_mesh", "id")

    def __init__(self, mesh: Mesh, task_id: str) -> None:
        self._mesh = mesh
        self.id = task_id

    def __repr__(self) -> str:
        return f"TaskHandle({self.id!r})"

    async def result(self, wait_s: float | None = None) -> Any:
        """Its value. Raises as ``Mesh.result``."""
        return await self._mesh.result(self.id, wait_s=wait_s)

    async def outcome(self, wait_s: float | None = None) -> Outcome:
        """Its terminal record, whatever it is."""
        return await self._mesh.outcome_of(self.id, wait_s=wait_s)

    async def cancel(self) -> bool:
        """False: it had been settled before."""
        return await self._mesh.cancel(self.id)


class Line(Protocol):
    """What a ``Mesh`` speaks over: requests of the control protocol, each with one response.

    This machine's daemon is asked over its socket; another way is given to ``Mesh(home, connect)``.
    """

    loop: asyncio.AbstractEventLoop
    lost: bool
    ready: bool
    """It is not lost, and takes another request now."""

    def number(self) -> int:
        """For the next request's id."""

    def ask(self, request: Request) -> asyncio.Future[Response]: ...

    async def writable(self) -> None:
        """Wait until it is ready. Raises: MeshUnavailable: it is lost."""

    def close(self) -> None: ...


class Mesh:
    """This machine's daemon. Use ``Mesh.open``; belongs to one event loop."""

    def __init__(self, home: Home, connect: Callable[[], Awaitable[Line]] | None = None) -> None:
        """Args: connect: another way to a daemon than the socket of *home*; raises MeshUnavailable."""
        self.home = home
        self._connect = connect or functools.partial(_connect, home)
        self._connection: Line | None = None
        self._connecting = asyncio.Lock()
        self._state: State | None = None

    @classmethod
    def open(cls, home: str | os.PathLike[str] | Home | None = None) -> Mesh:
        """An async context manager: ``async with Mesh.open() as mesh``.

        Args: home: the daemon's home; None: EDGEWEAVE_HOME, else this user's node, else gateway.
        Raises (on entering): MeshUnavailable: no daemon answers there.
        """
        return cls(home if isinstance(home, Home) else chosen_home(home))

    async def __aenter__(self) -> Mesh:
        await self._connected()
        return self

    async def __aexit__(self, *exc: object) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if self._state is not None:
            self._state.close()

    # -- work -----------------------------------------------------------------------------------------

    async def run(
        self,
        name: str,
        *args: Any,
        deadline_s: float | None = None,
        where: str = "any",
        ttl_s: float | None = None,
        priority: int = 0,
        labels: Mapping[str, str] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        traceparent: str = "",
        tracestate: str = "",
    ) -> Any:
        """Run a function on the mesh and wait for its value.

        Args:
            name: "stem.function", as `functions()` lists it.   *args, kwargs: its arguments.
            deadline_s: seconds from now until the result must be there; None: no deadline.
            where: "any" (the daemon decides), "local", "gateway" or a node's name.
            ttl_s: seconds that the task is kept trying; None: the daemon's setting.
            priority: higher first among waiting tasks.
            labels: that a place must bear, beside those the function asks for.
            traceparent, tracestate: of the caller's span (W3C Trace Context); the task becomes part of it.
        Raises: TaskFailed, Refused, DeadlineExceeded, TaskCancelled, MeshUnavailable, BadInput.
        """
        return value_of(
            await self.outcome(
                name,
                *args,
                deadline_s=deadline_s,
                where=where,
                ttl_s=ttl_s,
                priority=priority,
                labels=labels,
                kwargs=kwargs,
                traceparent=traceparent,
                tracestate=tracestate,
            )
        )

    async def outcome(
        self,
        name: str,
        *args: Any,
        deadline_s: float | None = None,
        where: str = "any",
        ttl_s: float | None = None,
        priority: int = 0,
        labels: Mapping[str, str] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        traceparent: str = "",
        tracestate: str = "",
    ) -> Outcome:
        """As ``run``, but the whole terminal record: status, place, attempts, times, what it printed.

        Raises: Refused, MeshUnavailable, BadInput; DeadlineExceeded only if the daemon itself hangs.
        """
        data = values.encode_call(args, dict(kwargs) if kwargs else {})
        connection = self._connection
        if connection is None or not connection.ready:
            connection = await self._ready()
        waiting = connection.ask(
            Run(
                connection.number(),
                name,
                data,
                where,
                _ms(deadline_s),
                _ms(ttl_s),
                priority,
                dict(labels or {}),
                traceparent,
                tracestate,
            )
        )
        if deadline_s is None:
            return _expect(await waiting, Outcome)
        timer = connection.loop.call_later(deadline_s + DEADLINE_GRACE_S, _give_up, waiting, deadline_s)
        try:
            return _expect(await waiting, Outcome)
        finally:
            timer.cancel()

    async def submit(
        self,
        name: str,
        *args: Any,
        deadline_s: float | None = None,
        where: str = "any",
        ttl_s: float | None = None,
        priority: int = 0,
        labels: Mapping[str, str] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        traceparent: str = "",
        tracestate: str = "",
    ) -> TaskHandle:
        """Hand a task over; returns once the daemon has it on disk. Arguments and errors as ``run``."""
        data = values.encode_call(args, dict(kwargs) if kwargs else {})
        return await self.hand_over(
            name, data, deadline_s=deadline_s, where=where, ttl_s=ttl_s, priority=priority, labels=labels,
            traceparent=traceparent, tracestate=tracestate,
        )  # fmt: skip

    async def hand_over(
        self,
        name: str,
        data: bytes,
        *,
        deadline_s: float | None = None,
        where: str = "any",
        ttl_s: float | None = None,
        priority: int = 0,
        labels: Mapping[str, str] | None = None,
        traceparent: str = "",
        tracestate: str = "",
    ) -> TaskHandle:
        """As ``submit``, with arguments that ``values.encode_call`` has encoded already."""
        connection = await self._ready()
        request = Submit(
            connection.number(), name, data, where, _ms(deadline_s), _ms(ttl_s), priority, dict(labels or {}),
            traceparent, tracestate,
        )  # fmt: skip
        return TaskHandle(self, _expect(await connection.ask(request), Accepted).task)

    def map(
        self,
        name: str,
        iterable: Iterable[Any] | AsyncIterable[Any],
        *,
        window: int = 64,
        ordered: bool = False,
        indexed: bool = False,
        return_errors: bool = False,
        deadline_s: float | None = None,
        where: str = "any",
        ttl_s: float | None = None,
        priority: int = 0,
        labels: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Any]:
        """Run a function once for each item, many in flight; an async iterator of values.

        Args:
            iterable: each item becomes the function's one argument; taken only as fast as results come.
            window: items in flight at once, 1 to 4096. Raising it costs memory at the daemon.
            ordered: values in the order of the items (True) or as they come (False).
            indexed: yield (index of the item, value).   return_errors: yield errors instead of raising.
            deadline_s, where, ttl_s, priority, labels: as ``run``, for each item.
        Leaving the loop early stops asking for more; what is in flight goes on without us.
        """
        if not 1 <= window <= protocol.OUTSTANDING_MAX:
            raise BadInput(f"window is {window}", fix=f"choose 1 to {protocol.OUTSTANDING_MAX}")
        options = {
            "deadline_s": deadline_s, "where": where, "ttl_s": ttl_s, "priority": priority, "labels": labels,
        }  # fmt: skip
        return self._map(name, iterable, window, ordered, indexed, return_errors, options)

    async def _map(
        self,
        name: str,
        iterable: Iterable[Any] | AsyncIterable[Any],
        window: int,
        ordered: bool,
        indexed: bool,
        return_errors: bool,
        options: dict[str, Any],
    ) -> AsyncIterator[Any]:
        items = iterable if isinstance(iterable, AsyncIterable) else _walk(iterable)
        source = aiter(items)
        settled: collections.deque[tuple[int, asyncio.Task[Any]]] = collections.deque()
        wake = asyncio.Event()
        running: dict[int, asyncio.Task[Any]] = {}

        def on_done(index: int, task: asyncio.Task[Any]) -> None:
            settled.append((index, task))
            wake.set()

        count, told, exhausted = 0, 0, False
        held: dict[int, asyncio.Task[Any]] = {}  # settled before their turn, when ordered
        try:
            while True:
                while not exhausted and len(running) + len(held) < window:
                    try:
                        item = await anext(source)
                    except StopAsyncIteration:
                        exhausted = True
                        break
                    task = asyncio.create_task(self.run(name, item, **options), name=f"map.{name}.{count}")
                    running[count] = task
                    task.add_done_callback(functools.partial(on_done, count))
                    count += 1
                    if settled:
                        break
                if not settled:
                    if not running:
                        return
                    wake.clear()
                    await wake.wait()
                while settled:
                    index, task = settled.popleft()
                    del running[index]
                    held[index] = task
                for index in _tellable(held, told, ordered):
                    task = held.pop(index)
                    told += 1
                    error = task.exception()
                    if error is not None and not (return_errors and isinstance(error, EdgeweaveError)):
                        raise error
                    value = task.result() if error is None else error
                    yield (index, value) if indexed else value
        finally:
            for task in running.values():
                task.cancel()
            await asyncio.gather(*running.values(), return_exceptions=True)

    async def result(self, task_id: str, *, wait_s: float | None = None) -> Any:
        """The value of a task that this daemon accepted.

        Args: wait_s: seconds to wait for it to settle; None: until it does; 0: only look.
        Raises: as ``run``, and StillRunning when *wait_s* is over.
        """
        return value_of(await self.outcome_of(task_id, wait_s=wait_s))

    async def outcome_of(self, task_id: str, *, wait_s: float | None = None) -> Outcome:
        """The terminal record of a task, waiting through restarts of the daemon. See ``result``."""
        loop = asyncio.get_running_loop()
        end = None if wait_s is None else loop.time() + wait_s
        lost_since: float | None = None
        pause_s = 0.05
        while True:
            left_ms = protocol.WAIT_MS_MAX
            if end is not None:
                left_ms = max(0, min(left_ms, int((end - loop.time()) * 1000)))
            try:
                connection = await self._ready()
                response = await connection.ask(Result(connection.number(), task_id, left_ms))
            except _Lost as lost:
                now = loop.time()
                lost_since = now if lost_since is None else lost_since
                if now - lost_since > RECONNECT_S_MAX or (end is not None and now >= end):
                    raise lost.error from None
                await asyncio.sleep(pause_s * (0.5 + random.random() / 2))  # noqa: S311 (jitter)
                pause_s = min(pause_s * 2, 1.0)
                continue
            lost_since, pause_s = None, 0.05
            if isinstance(response, Outcome):
                return response
            pending = _expect(response, Pending)
            if end is not None and loop.time() >= end:
                raise StillRunning(task_id, pending.state)

    async def cancel(self, task_id: str) -> bool:
        """Ask for a task to be stopped. False: it had been settled before."""
        connection = await self._ready()
        response = await connection.ask(Cancel(connection.number(), task_id))
        return _expect(response, Cancelled).taken

    def handle(self, task_id: str) -> TaskHandle:
        """A handle for a task whose id was kept."""
        return TaskHandle(self, task_id)

    # -- replicated tables ----------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Tables, counters and sets that every member has, and may write while it is cut off."""
        if self._state is None:
            from edge_node.state.state import State  # it loads TinyDB: only for those who use it

            self._state = State.beside(self.home, self.call)
        return self._state

    def twin(self, node: str) -> Twin:
        """What a node should be set to, and what it says it is: both sides may write, on line or off."""
        return self.state.twin(node)

    # -- about the mesh -------------------------------------------------------------------------------

    async def functions(self) -> list[dict[str, Any]]:
        """What is deployed: name, version, digest, what it requires, its limits."""
        return cast("list[dict[str, Any]]", await self.call("functions"))

    async def status(self) -> dict[str, Any]:
        """The daemon's own state."""
        return cast("dict[str, Any]", await self.call("status"))

    async def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """An administrative method; see ``edge_node.control.protocol`` for their names."""
        connection = await self._ready()
        request = Call(connection.number(), method, protocol.pack(dict(params or {})))
        return protocol.unpack(_expect(await connection.ask(request), Answer).result)

    # -- the connection -------------------------------------------------------------------------------

    async def _ready(self) -> Line:
        """A live connection that takes another request now."""
        connection = self._connection
        if connection is None or connection.lost:
            connection = await self._connected()
        while not connection.ready:
            await connection.writable()
        return connection

    async def _connected(self) -> Line:
        async with self._connecting:
            if self._connection is None or self._connection.lost:
                self._connection = await self._connect()
            return self._connection


class _Lost(MeshUnavailable):
    """The connection failed or broke; internal, so that `result` may try again. Shown as MeshUnavailable."""

    @property
    def error(self) -> MeshUnavailable:
        return MeshUnavailable(self.cause, fix=self.fix)


class _Connection(asyncio.Protocol):
    """One pipelined connection: futures by request id, one write a loop turn."""

    def __init__(self, home: Home) -> None:
        self.loop = asyncio.get_running_loop()
        self.lost = False
        self.ready = True  # not lost and not paused: checked before every request
        self._home = home
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._waiting: dict[int, asyncio.Future[Response]] = {}
        self._out: list[bytes] = []
        self._last = 0
        self._resumed: asyncio.Future[None] | None = None

    def number(self) -> int:
        self._last += 1
        return self._last

    def ask(self, request: Request) -> asyncio.Future[Response]:
        """Queue a request for the end of this loop turn. Its future fails with _Lost, or an error of ours."""
        if self.lost:
            raise self._lost_error()
        frame = protocol.encode(request)
        if not self._out:
            self.loop.call_soon(self._flush)
        self._out.append(frame)
        waiting: asyncio.Future[Response] = self.loop.create_future()
        self._waiting[request.id] = waiting
        return waiting

    async def writable(self) -> None:
        """Wait until the socket takes more. Raises: MeshUnavailable: the connection is lost."""
        if self.lost:
            raise self._lost_error()
        if self.ready:
            return
        if self._resumed is None:
            self._resumed = self.loop.create_future()
        await asyncio.shield(self._resumed)

    def close(self) -> None:
        if self._transport is not None:
            self._flush()
            if self._transport is not None:
                self._transport.close()
        self.connection_lost(None)

    # -- the transport's side -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BYTES_HIGH)

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._reader.feed(data):
                response = protocol.decode_response(body)
                waiting = self._waiting.pop(response.id, None)
                if waiting is not None:
                    if not waiting.done():
                        waiting.set_result(response)
                elif isinstance(response, Failure) and response.id == 0:
                    self._break(MeshUnavailable(response.message, fix=response.fix))
                    return
        except ProtocolViolation as error:
            self._break(
                MeshUnavailable(
                    f"the daemon at {self._home.path} speaks another language: {error.cause}",
                    fix="use the same edgeweave version for daemon and client",
                )
            )

    def pause_writing(self) -> None:
        self.ready = False

    def resume_writing(self) -> None:
        self.ready = not self.lost
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost:
            self._end(self._lost_error())

    # -- inside ---------------------------------------------------------------------------------------

    def _flush(self) -> None:
        frames, self._out = self._out, []
        if frames and self._transport is not None and not self.lost:
            self._transport.write(frames[0] if len(frames) == 1 else b"".join(frames))

    def _break(self, error: MeshUnavailable) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._end(error)

    def _end(self, error: MeshUnavailable) -> None:
        self.lost, self.ready = True, False
        self._transport = None
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(error)
                future.exception()  # seen: nobody may be awaiting it any more
        self._wake()

    def _wake(self) -> None:
        if self._resumed is not None:
            if not self._resumed.done():
                self._resumed.set_result(None)
            self._resumed = None

    def _lost_error(self) -> _Lost:
        return _Lost(
            f"the connection to the daemon in {self._home.path} was lost",
            fix="what it had accepted goes on; ask again once it is up (`edge-node up`, `edge-gateway up`)",
        )


async def _connect(home: Home) -> _Connection:
    loop = asyncio.get_running_loop()
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        for attempt in range(50):
            try:
                with home.socket_address() as address:
                    opened.connect(address)
                break
            except BlockingIOError:  # the daemon's backlog is full: it is busy, not gone
                if attempt == 49:
                    raise
                await asyncio.sleep(0.02)
        connection = _Connection(home)
        await loop.create_unix_connection(lambda: connection, sock=opened)
        return connection
    except OSError as error:
        opened.close()
        raise _nobody(home, error) from None
    except BaseException:
        opened.close()
        raise


def _nobody(home: Home, error: OSError) -> _Lost | Refused:
    is_gateway = home.path.name == "gateway" or (home.keys / "issuing.pem").exists()
    program = "edge-gateway" if is_gateway else "edge-node"
    if isinstance(error, PermissionError):
        return _Lost(f"the daemon at {home.socket} belongs to another user", fix="run this as that user")
    from edge_node.membership.standing import check_home  # only where nobody answers: it loads X.509

    try:  # a daemon that is shut out closes its door first and ends then; nobody can start it again
        check_home(home)
    except errors.Refused as out:
        return Refused(out.cause, fix=out.fix, reason="no member")
    return _Lost(
        f"no daemon answers at {home.socket}", fix=f"start it with `{program} up --home {home.path}`"
    )


def _expect(response: Response, kind: type[R]) -> R:
    if isinstance(response, kind):
        return response
    if isinstance(response, Failure):
        raise _error_for(response)
    raise MeshUnavailable(
        f"the daemon answered {type(response).__name__} to a request for {kind.__name__}",
        fix="use the same edgeweave version for daemon and client",
    )


def _ms(seconds: float | None) -> int | None:
    if seconds is None:
        return None
    if not 0 <= seconds < 1e9:
        raise BadInput(f"a duration of {seconds} seconds", fix="choose a number of seconds, 0 or more")
    return max(1, round(seconds * 1000))


def _give_up(waiting: asyncio.Future[Response], deadline_s: float) -> None:
    if not waiting.done():
        waiting.set_exception(
            DeadlineExceeded(
                f"the daemon did not answer within {deadline_s:g} s and a grace of {DEADLINE_GRACE_S:g} s",
                fix="see whether it still works: `edge-node doctor`",
            )
        )


async def _walk(iterable: Iterable[Any]) -> AsyncIterator[Any]:
    for item in iterable:
        yield item


def _tellable(held: Mapping[int, object], told: int, ordered: bool) -> Sequence[int] | Iterator[int]:
    """Indexes whose values may be yielded now: all, or the unbroken run from *told* on."""
    if not ordered:
        return list(held)
    run: list[int] = []
    while told + len(run) in held:
        run.append(told + len(run))
    return run
