"""An asyncio event loop on the world's agenda: coroutines and heap callbacks share one agenda and one time.

    call_soon, call_later, call_at ─► World.at ─► step ─► the callback, with this loop as the running one

Nothing here waits: ``time()`` is the world's moment in seconds, a sleep is an entry on the agenda, and what
would run in a thread runs as an entry too, in virtual time. So ``asyncio.timeout``, ``Event``, ``Queue``,
``TaskGroup``, ``wait_for`` and ``to_thread`` work unchanged, and whoever steps the world runs coroutines.

Errors are not swallowed: what a callback raises comes out of ``World.step``; a task that failed must be asked
for its result (awaited, gathered, owned by a group) within ``GRACE_NS``, or its exception comes out too. The
rule goes by virtual time because the usual one, "when the garbage collector finds it", is not repeatable.

Not here: sockets, pipes, processes, signals (``LeakedOutside``: there is no outside), slow callbacks (what a
processor takes is ``processor``'s).
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import weakref
from asyncio.events import _get_running_loop, _set_running_loop
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from device_sim.virtual.guard import LeakedOutside
from device_sim.virtual.world import SECOND, Entry, World, without_dark
from security.errors import EdgeweaveError

if TYPE_CHECKING:
    _Base = asyncio.BaseEventLoop  # has no abstract methods for the type checker
else:
    _Base = asyncio.AbstractEventLoop

_T = TypeVar("_T")

GRACE_NS: Final = SECOND
"""A task's failure that nobody has asked for after this much virtual time is raised out of the world."""
STEPS_A_MOMENT_MAX: Final = 2_000_000
"""Steps without time passing: far above 10 000 nodes that all wake at once, far below "for ever"."""
NAMED_MAX: Final = 8
"""Tasks that an error names."""

_Factory = Callable[[asyncio.AbstractEventLoop, Coroutine[Any, Any, Any]], "asyncio.Future[Any]"]
_Handler = Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object]


class Stuck(EdgeweaveError):
    """Nothing will ever happen again, or time stands still, and what was waited for is not done."""


class Waiting(asyncio.TimerHandle):
    """A callback that the loop has put on the agenda."""

    __slots__ = ("_entry", "_world")

    def __init__(self, world: World, entry: Entry) -> None:  # asyncio's own keeps what the entry has
        self._world = world
        self._entry = entry
        self._cancelled = False

    def cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            self._world.cancel(self._entry)

    def when(self) -> float:
        return self._entry.at_ns / SECOND

    def __repr__(self) -> str:
        entry = self._entry
        state = "cancelled" if self._cancelled else "done" if entry.what is None else "waits"
        return f"<{type(self).__name__} {state} at {entry.at_ns} ns>"


class VirtualLoop(_Base):
    """Args:
    world: whose agenda and time this is.
    executor_ns: how long the next function given to an executor takes, e.g. drawn from a stream; None: no
        time. It is called at the end of that time.
    """

    def __init__(self, world: World, *, executor_ns: Callable[[], int] | None = None) -> None:
        self._world = world
        self._executor_ns = executor_ns
        self._closed = False
        self._stopping = False
        self._debug = False
        self._named = 0
        self._task_factory: _Factory | None = None
        self._handler: _Handler | None = None
        self._failed: dict[int, asyncio.Future[Any]] = {}
        self._asyncgens: dict[int, weakref.ref[AsyncGenerator[Any, Any]]] = {}

    # ── callbacks ──

    def time(self) -> float:
        return self._world.now_ns / SECOND

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        if self._closed:
            self._refuse_closed()
        world = self._world
        entry = world.at(world.now_ns, self._call, context or contextvars.copy_context(), callback, args)
        return Waiting(world, entry)

    call_soon_threadsafe = call_soon  # type: ignore[assignment]  # there are no threads in here

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        if delay is None:
            raise TypeError("delay must not be None")
        ns = round(delay * SECOND)
        if ns < 1 and delay > 0:
            ns = 1  # a remainder below our grain must not stop time
        return self._call_at_ns(self._world.now_ns + ns, callback, args, context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        if when is None:
            raise TypeError("when cannot be None")
        at_ns = round(when * SECOND)
        if at_ns / SECOND < when:
            at_ns += 1  # so that time() >= when in the callback
        return self._call_at_ns(at_ns, callback, args, context)

    def _call_at_ns(
        self,
        at_ns: int,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
    ) -> Waiting:
        if self._closed:
            self._refuse_closed()
        world = self._world
        entry = world.at(at_ns, self._call, context or contextvars.copy_context(), callback, args)
        return Waiting(world, entry)

    def _call(
        self, context: contextvars.Context, callback: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        """An entry of the agenda: whoever steps the world need not know of this loop."""
        if self._closed:
            return
        if _get_running_loop() is self:
            context.run(callback, *args)
            return
        with self.running():
            context.run(callback, *args)

    @contextmanager
    def running(self) -> Iterator[VirtualLoop]:
        """This is the running loop inside. Stepping the world in it saves each callback from setting it."""
        before = _get_running_loop()
        if before is self:
            yield self
            return
        hooks = sys.get_asyncgen_hooks()
        _set_running_loop(self)
        sys.set_asyncgen_hooks(firstiter=self._met_asyncgen, finalizer=self._lost_asyncgen)
        try:
            yield self
        finally:
            sys.set_asyncgen_hooks(*hooks)
            _set_running_loop(before)

    # ── futures and tasks ──

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, _T] | Generator[Any, None, _T],
        *,
        name: object = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[_T]:
        """Names are counted by this loop, not by the process, so that two runs have the same ones."""
        if self._closed:
            self._refuse_closed()
        self._named += 1
        name = f"task-{self._named}" if name is None else str(name)
        if self._task_factory is not None:
            made = self._task_factory(self, coro)  # type: ignore[arg-type]
            assert isinstance(made, asyncio.Task), "a task factory makes tasks"
            made.set_name(name)
            task: asyncio.Task[_T] = made
        else:
            task = asyncio.Task(coro, loop=self, name=name, context=context)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Future[Any]) -> None:
        if not task.cancelled() and task._log_traceback:
            self._failed[id(task)] = task  # holds it: the collector must not be who decides
            self._world.after(GRACE_NS, self._asked_for, id(task))

    def _asked_for(self, number: int) -> None:
        """Raises what a task died of, unless somebody took it."""
        task = self._failed.pop(number, None)
        if task is not None and task._log_traceback:
            failed = task.exception()
            assert failed is not None, "it failed"
            error = without_dark(failed)
            if error is None:
                return
            error.add_note(f"nobody asked how {_name(task)} ended")
            raise error

    def check(self) -> None:
        """Raises: what a task died of that nobody has asked for so far. Call it at the end of a run."""
        for number in list(self._failed):
            self._asked_for(number)

    def set_task_factory(self, factory: _Factory | None) -> None:
        self._task_factory = factory

    def get_task_factory(self) -> _Factory | None:  # type: ignore[override]
        return self._task_factory

    # ── running ──

    def run_until_complete(self, future: Awaitable[_T], *, until_ns: int | None = None) -> _T:  # type: ignore[override]
        """Step the world until this is done; what is due at that moment beside it stays on the agenda.

        Raises: Stuck: nothing is left to happen, time stands still, or it is not done by ``until_ns``.
        Whatever the future raised, and whatever any callback of the world raised meanwhile.
        """
        if not asyncio.isfuture(future):
            assert asyncio.iscoroutine(future), "a coroutine or a future"
            wanted: asyncio.Future[_T] = self.create_task(future)
        else:
            wanted = future
        self._step_until(wanted.done, until_ns, lambda: _name(wanted))
        result = wanted.result()
        self.check()
        return result

    def run_forever(self) -> None:
        """Until ``stop``, or until nothing is left to happen."""
        self._stopping = False
        try:
            self._step_until(lambda: self._stopping, None, lambda: "run_forever")
        finally:
            self._stopping = False

    def _step_until(self, over: Callable[[], bool], until_ns: int | None, what: Callable[[], str]) -> None:
        if _get_running_loop() is self:
            raise RuntimeError("this loop is running: await it instead")
        if self._closed:
            self._refuse_closed()
        world = self._world
        moment_ns, steps = world.now_ns, 0
        with self.running():
            while not over():
                if until_ns is not None and ((due := world.next_ns) is None or due > until_ns):
                    raise Stuck(f"{what()} is not done at {until_ns} ns", fix=self._who_waits())
                if not world.step():
                    raise Stuck(f"nothing is left to happen and {what()} is not done", fix=self._who_waits())
                steps += 1
                if world.now_ns != moment_ns:
                    moment_ns, steps = world.now_ns, 0
                elif steps > STEPS_A_MOMENT_MAX:
                    raise Stuck(f"time stands still at {moment_ns} ns", fix=self._who_waits())

    def _who_waits(self) -> str:
        names = sorted(_name(task) for task in asyncio.all_tasks(self))
        more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
        return f"waiting: {', '.join(names[:NAMED_MAX]) or 'no task'}{more}"

    def stop(self) -> None:
        self._stopping = True

    def is_running(self) -> bool:
        return _get_running_loop() is self

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """What it still has on the agenda passes without a call. Idempotent."""
        if self.is_running():
            raise RuntimeError("cannot close a running event loop")
        self._closed = True
        self._failed.clear()

    def _refuse_closed(self) -> NoReturn:
        raise RuntimeError("Event loop is closed")

    # ── what would be a thread ──

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., _T], *args: Any
    ) -> asyncio.Future[_T]:
        """Call it after ``executor_ns``, in this thread; like a thread, who waits for it cannot stop it."""
        if self._closed:
            self._refuse_closed()
        future: asyncio.Future[_T] = self.create_future()
        delay_ns = 0 if self._executor_ns is None else self._executor_ns()
        self._world.after(delay_ns, self._execute, future, func, args)
        return future

    def _execute(self, future: asyncio.Future[_T], func: Callable[..., _T], args: tuple[Any, ...]) -> None:
        if self._closed:
            return
        before = _get_running_loop()
        _set_running_loop(None)  # as in a thread
        try:
            result = func(*args)
        except Exception as error:  # door: belongs to who waits for it
            if future.cancelled():
                return
            if isinstance(error, StopIteration):  # a future cannot carry it
                error = RuntimeError("StopIteration in an executor's function")
            future.set_exception(error)
        else:
            if not future.cancelled():
                future.set_result(result)
        finally:
            _set_running_loop(before)

    def set_default_executor(self, executor: object) -> None:
        raise LeakedOutside("asyncio's thread pool", fix="run_in_executor calls in virtual time")

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """There is none."""

    # ── asynchronous generators ──

    def _met_asyncgen(self, agen: AsyncGenerator[Any, Any]) -> None:
        self._asyncgens[id(agen)] = weakref.ref(agen)

    def _lost_asyncgen(self, agen: AsyncGenerator[Any, Any]) -> None:
        self._asyncgens.pop(id(agen), None)
        if not self._closed:
            self.create_task(agen.aclose(), name="aclose")

    async def shutdown_asyncgens(self) -> None:
        """Close those that were not read to their end, oldest first (asyncio's order is that of a set)."""
        open_ones = [agen for ref in self._asyncgens.values() if (agen := ref()) is not None]
        self._asyncgens.clear()
        await asyncio.gather(*(agen.aclose() for agen in open_ones))

    # ── errors ──

    def set_exception_handler(self, handler: _Handler | None) -> None:
        self._handler = handler

    def get_exception_handler(self) -> _Handler | None:
        return self._handler

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self._closed:
            return
        if self._handler is None:
            self.default_exception_handler(context)
        else:
            self._handler(self, context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Raise it out of the world's next step: some who report here are destructors, which cannot raise."""
        self._world.soon(_raise, context.get("exception"), context.get("message") or "unnamed error")

    def set_debug(self, enabled: bool) -> None:
        self._debug = enabled

    def get_debug(self) -> bool:
        return self._debug


def _raise(error: BaseException | None, message: str) -> None:
    if error is None:
        raise RuntimeError(message)
    error.add_note(message)
    raise error


def _name(future: asyncio.Future[Any]) -> str:
    return future.get_name() if isinstance(future, asyncio.Task) else "a future"


_OUTSIDE: Final = (
    *("create_connection", "create_server", "create_unix_connection", "create_unix_server"),
    *("create_datagram_endpoint", "connect_accepted_socket", "connect_read_pipe", "connect_write_pipe"),
    *("subprocess_shell", "subprocess_exec", "sendfile", "start_tls", "getaddrinfo", "getnameinfo"),
    *("add_reader", "remove_reader", "add_writer", "remove_writer", "sock_recv", "sock_recv_into"),
    *("sock_recvfrom", "sock_recvfrom_into", "sock_sendall", "sock_sendto", "sock_connect", "sock_accept"),
    *("sock_sendfile", "add_signal_handler", "remove_signal_handler"),
)
"""All of asyncio's methods that reach out of the process."""


def _refusing(name: str) -> Callable[..., NoReturn]:
    def refuse(self: VirtualLoop, *args: object, **named: object) -> NoReturn:
        raise LeakedOutside(f"the event loop's {name}()", fix="use the world's network, disk and processor")

    refuse.__name__ = name
    return refuse


for _outside in _OUTSIDE:
    setattr(VirtualLoop, _outside, _refusing(_outside))
