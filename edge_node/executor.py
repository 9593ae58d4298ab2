"""The mesh as a ``concurrent.futures.Executor``: programs written for a process pool run on it as they are.

    from room import changes                                 # the deployed file; changes bears @function

    with MeshExecutor(deadline_s=5.0) as mesh:               # this machine's daemon, over its local socket
        future = mesh.submit(changes, rows)
        for found in mesh.map(changes, windows):             # in order, a bounded number in flight
            ...
        await loop.run_in_executor(mesh, changes, rows)      # and as_completed, wait: all of them

One thread that it owns runs one loop with one ``Mesh``; callers only put work on a queue. Each task is handed
over (fsynced at the daemon) before its result is asked for, so a daemon that restarts meanwhile costs time,
not the task. In: functions of files that are deployed, or names of functions. Code never travels from here:
the file that the function came from must be, byte for byte, what the mesh has under that name.

Where the contract of ``Executor`` leaves a choice:

- ``Future.cancel`` works until the task has ended, also while it runs, and cancels the task at the daemon;
  hence ``running`` ("executed and cannot be cancelled") is never true.
- Arguments are encoded within ``submit``: what cannot travel raises there, later changes do not count.
- A deadline counts from ``submit``, the wait in this program's own queue included.
- Work handed over is kept by the daemon even if this program dies; nobody then collects its result.

Errors of ``submit``: NotOffered, BadInput, Refused (too much waits), RuntimeError (shut down). Errors of a
future: those of ``edge_node.client``, the worker's traceback as a note; MeshUnavailable if the daemon went
away before it had accepted the task, or stayed away for 30 s after that.
"""

from __future__ import annotations

import asyncio
import atexit
import collections
import concurrent.futures
import contextlib
import functools
import os
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from edge_node.client import (
    DeadlineExceeded,
    Mesh,
    MeshUnavailable,
    Refused,
    TaskFailed,
    TaskHandle,
    _Lost,
    value_of,
)
from edge_node.functions import values
from edge_node.functions.bundle import Bundle
from edge_node.functions.decorator import MARK
from edge_node.home import Home
from edge_node.tasks.states import Refusal
from edge_node.tasks.tracing import checked
from security.errors import BadInput, EdgeweaveError

WINDOW: Final = 256  # tasks at the daemon at once; more hide no more latency, and are somebody else's memory
WINDOW_MAX: Final = 2048  # the daemon reads no more than 4096 unanswered requests of one connection
WAITING_MAX: Final = 100_000  # submitted and not handed over: their arguments fill this program's memory
CATALOGUE_S: Final = 5.0  # a deploy elsewhere is noticed within this
ANSWER_S_MAX: Final = 10.0  # a daemon that takes longer to list its functions hangs
CANCEL_S_MAX: Final = 30.0  # a daemon that is away is told of a cancellation for this long

T = TypeVar("T")


class NotOffered(BadInput, TypeError):
    """This callable is not a function that the mesh can run. ``fix`` says how it becomes one."""


class MeshFuture(concurrent.futures.Future[Any]):
    """A future whose ``task`` is the id of its task at the daemon, as soon as that has accepted it."""

    task: str | None = None


@dataclass(frozen=True, slots=True)
class _Offer:
    """What the caller wants run; ``digest`` of the local source, None if only the name was given."""

    name: str
    digest: str | None
    file: str


class _Job:
    __slots__ = ("data", "end_s", "future", "handle", "offer", "unchecked")

    def __init__(
        self, offer: _Offer, data: bytes, future: MeshFuture, end_s: float | None, unchecked: bool
    ) -> None:
        self.offer = offer
        self.data = data
        self.future = future
        self.end_s = end_s  # on the monotonic clock
        self.unchecked = unchecked
        self.handle: TaskHandle | None = None


class MeshExecutor(concurrent.futures.Executor):
    """Runs deployed functions on the mesh. See the module for what it promises."""

    def __init__(
        self,
        *,
        home: str | os.PathLike[str] | Home | None = None,
        where: str = "any",
        deadline_s: float | None = None,
        ttl_s: float | None = None,
        priority: int = 0,
        labels: Mapping[str, str] | None = None,
        window: int = WINDOW,
        traceparent: str = "",
        tracestate: str = "",
    ) -> None:
        """Connect to this machine's daemon.

        Args:
            home: the daemon's home, as for ``Mesh.open``.
            where: "any" (the daemon decides), "local", "gateway" or a node's name.
            deadline_s: seconds from submission until a result must be there; None: no deadline.
            ttl_s: seconds that a task is kept trying; None: the daemon's setting.
            priority: higher first among waiting tasks.
            labels: that a place must bear, beside those the function asks for.
            window: tasks at the daemon at once, and how far ``map`` looks ahead; 1 to 2048.
            traceparent, tracestate: of the caller's span (W3C Trace Context), for all tasks.
        Raises: MeshUnavailable: no daemon answers there. BadInput: an option does not fit.
        """
        if not 1 <= window <= WINDOW_MAX:
            raise BadInput(f"window is {window}", fix=f"choose 1 to {WINDOW_MAX}")
        if deadline_s is not None and not 0 < deadline_s < 1e9:
            raise BadInput(f"a deadline of {deadline_s} s", fix="choose a number of seconds, more than 0")
        checked(traceparent, tracestate)
        options = {
            "where": where, "ttl_s": ttl_s, "priority": priority, "labels": dict(labels or {}),
            "traceparent": traceparent, "tracestate": tracestate,
        }  # fmt: skip
        self._deadline_s = deadline_s
        self._window = window
        self._engine = _Engine(Mesh.open(home), options, window)
        self._engine.start()
        # An executor that is forgotten ends once its work is done; its thread must not keep it alive.
        weakref.finalize(self, self._engine.stop).atexit = False

    def submit(
        self, fn: Callable[..., T] | str, /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[T]:
        """Have a deployed function run; *fn* is the function itself, or its name ("room.changes").

        Raises: NotOffered: a lambda, method, partial or other callable that the mesh cannot know.
            BadInput: arguments that cannot travel, or local code that is not what is deployed.
            Refused: more waits here than may. RuntimeError: after ``shutdown``.
        """
        return cast("concurrent.futures.Future[T]", self._submit(_offer_of(fn), args, kwargs))

    def map(
        self,
        fn: Callable[..., T] | str,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[T]:
        """Results of ``fn(*items)`` in the order of the items; at most ``window`` are taken ahead.

        Args:
            timeout: seconds from this call; a result asked for later raises TimeoutError.
            chunksize: has no effect here: tasks travel together as it is.
        Taken ahead means: an endless iterable is fine, and what the loop has not reached when the executor
        shuts down is not run (RuntimeError). An iterator that is given up cancels what is in flight.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        end_s = None if timeout is None else time.monotonic() + timeout
        offer = _offer_of(fn)
        self._engine.check(offer)
        ahead = _Ahead(
            zip(*iterables, strict=False), lambda args: self._submit(offer, args, {}), self._window, end_s
        )
        ahead.fill()
        return _Results(ahead)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; what was submitted still ends.

        Args: wait: return once it has, and the thread is gone.   cancel_futures: cancel all that has not
            ended; the daemon is told before the thread ends.
        """
        self._engine.stop(cancel=cancel_futures)
        if wait:
            self._engine.join()

    def _submit(self, offer: _Offer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> MeshFuture:
        data = values.encode_call(args, kwargs)
        future = MeshFuture()
        end_s = None if self._deadline_s is None else time.monotonic() + self._deadline_s
        unchecked = not self._engine.check(offer)
        self._engine.put(_Job(offer, data, future, end_s, unchecked))
        return future


class _Ahead:
    """Calls of a ``map`` that are under way: a bounded number, oldest first."""

    def __init__(
        self,
        calls: Iterator[tuple[Any, ...]],
        submit: Callable[[tuple[Any, ...]], MeshFuture],
        window: int,
        end_s: float | None,
    ) -> None:
        self.futures: collections.deque[MeshFuture] = collections.deque()
        self.error: Exception | None = None  # of the items or of submitting one: told in its place
        self._calls = calls
        self._submit = submit
        self._window = window
        self._end_s = end_s

    def fill(self) -> None:
        while self.error is None and len(self.futures) < self._window:
            try:
                self.futures.append(self._submit(next(self._calls)))
            except StopIteration:
                return
            except Exception as error:  # whatever the caller's items raise; first those before it are told
                self.error = error

    def take(self) -> Any:
        future = self.futures.popleft()
        try:
            value = future.result(None if self._end_s is None else max(0.0, self._end_s - time.monotonic()))
        finally:
            future.cancel()  # it has ended, unless the time is over
        self.fill()
        return value


class _Results(Iterator[Any]):
    """What ``map`` gives out. No generator: one that never began would not notice that it is given up."""

    def __init__(self, ahead: _Ahead) -> None:
        self._ahead = ahead

    def __next__(self) -> Any:
        ahead = self._ahead
        try:
            if ahead.futures:
                return ahead.take()
        except BaseException:
            self.close()
            raise
        error, ahead.error = ahead.error, None
        raise error or StopIteration

    def close(self) -> None:
        """Cancel what is in flight; nothing comes any more."""
        futures, self._ahead.error = self._ahead.futures, None
        while futures:
            futures.popleft().cancel()

    __del__ = close


# ── what a callable is called on the mesh ─────────────────────────────────────────────────────────────


def _offer_of(fn: Callable[..., Any] | str) -> _Offer:
    """Raises: NotOffered, BadInput."""
    if isinstance(fn, str):
        return _Offer(fn, None, "")
    fault = _fault(fn)
    if fault:
        raise NotOffered(
            f"{fault} cannot run on the mesh",
            fix="mark a function at the top level of a file with @function, and deploy it with"
            " `edge-gateway deploy FILE`",
        )
    module = sys.modules[fn.__module__]
    file = Path(cast("str", module.__file__)).absolute()
    try:
        found = file.stat()
        return _offer_in(str(file), found.st_mtime_ns, found.st_size, fn.__name__)
    except OSError as error:
        raise NotOffered(
            f"cannot read {file}: {error.strerror}", fix="keep it where it was imported"
        ) from None


def _fault(fn: Any) -> str:
    """What it is that cannot be a deployed function; '': it may be one."""
    name = getattr(fn, "__name__", "")
    if isinstance(fn, functools.partial):
        return "a functools.partial"
    if isinstance(fn, types.MethodType):
        return f"the bound method {name}"
    if isinstance(fn, types.BuiltinFunctionType | types.MethodWrapperType | type):
        return f"{name}, which is built in or a class,"
    if not isinstance(fn, types.FunctionType):
        return f"a callable of type {type(fn).__name__}"
    if fn.__name__ == "<lambda>":
        return "a lambda"
    if not hasattr(fn, MARK):
        return f"{fn.__qualname__}, which is not marked with @function,"
    module = sys.modules.get(fn.__module__)
    at_top = "." not in fn.__qualname__ and getattr(module, fn.__qualname__, None) is fn
    if not at_top:
        return f"{fn.__qualname__}, which is not found at the top level of a file,"
    if not getattr(module, "__file__", None):
        return f"{fn.__qualname__}, which comes from no file,"
    return ""


@functools.lru_cache(maxsize=256)
def _offer_in(file: str, changed_ns: int, size_bytes: int, function: str) -> _Offer:
    """What counts is the file as it lies there, as for `deploy`. Raises: OSError, BadInput."""
    bundle = Bundle.of_source(file, Path(file).read_bytes())
    return _Offer(f"{bundle.stem}.{function}", bundle.digest.hex(), file)


# ── the thread ────────────────────────────────────────────────────────────────────────────────────────


class _Engine:
    """Owns the thread, its loop and the connection. Everything below ``_main`` runs in that thread."""

    def __init__(self, mesh: Mesh, options: dict[str, Any], window: int) -> None:
        self._mesh = mesh
        self._options = options
        self._window = window
        # Over _waiting, _in_flight and _stopping, held for moments. Reentrant: `stop` may be called by the
        # garbage collector, in a thread that holds it.
        self._lock = threading.RLock()
        self._waiting: collections.deque[_Job] = collections.deque()
        self._stopping = False
        self._in_flight: set[_Job] = set()
        self._catalogue: dict[str, str] = {}  # digest by name
        self._catalogue_until_s = 0.0
        self._thread = threading.Thread(target=self._run, name="mesh-executor", daemon=True)
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._loop: asyncio.AbstractEventLoop
        self._wake: asyncio.Event

    # -- from any thread ------------------------------------------------------------------------------

    def start(self) -> None:
        """Raises: MeshUnavailable."""
        self._thread.start()
        try:
            self._started.result()
        except BaseException:
            self._thread.join()
            raise
        _living.add(self)

    def put(self, job: _Job) -> None:
        """Raises: Refused, RuntimeError."""
        job.future.add_done_callback(functools.partial(self._on_done, job))
        with self._lock:
            if self._stopping:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if len(self._waiting) >= WAITING_MAX:
                raise Refused(
                    f"{WAITING_MAX} tasks wait in this program already",
                    fix="use map, which takes items as results come, or wait for some futures",
                    reason=Refusal.OUTBOX_FULL,
                )
            self._waiting.append(job)
            self._loop.call_soon_threadsafe(self._wake.set)

    def stop(self, *, cancel: bool = False) -> None:
        with self._lock:
            if not self._stopping:
                self._stopping = True
                self._loop.call_soon_threadsafe(self._wake.set)
            jobs = [*self._waiting, *self._in_flight] if cancel else []
        for job in jobs:
            job.future.cancel()

    def join(self) -> None:
        if threading.current_thread() is not self._thread:  # a callback of a future may shut down, not wait
            self._thread.join()

    def check(self, offer: _Offer) -> bool:
        """Whether the mesh has exactly this under that name. False: it has to be asked in the loop.

        Raises: BadInput: it has not. A daemon that is away is not asked: the future will tell.
        """
        if time.monotonic() < self._catalogue_until_s and self._has(offer):
            return True
        if threading.current_thread() is self._thread or self._stopping:
            return False
        try:
            asyncio.run_coroutine_threadsafe(self._list(), self._loop).result(ANSWER_S_MAX)
        except (MeshUnavailable, TimeoutError):
            return False
        self._insist(offer)
        return True

    def _has(self, offer: _Offer) -> bool:
        known = self._catalogue.get(offer.name)
        return known is not None and offer.digest in (None, known)

    def _insist(self, offer: _Offer) -> None:
        if self._has(offer):
            return
        if offer.digest is None:
            raise BadInput(f"no function {offer.name!r:.80} is deployed", fix="see `edge-node functions`")
        if offer.name in self._catalogue:
            raise BadInput(
                f"{offer.file} is not what the mesh has as {offer.name}",
                fix=f"deploy it again with `edge-gateway deploy {offer.file}`",
            )
        raise BadInput(
            f"{offer.name} is not deployed", fix=f"deploy it with `edge-gateway deploy {offer.file}`"
        )

    def _on_done(self, job: _Job, future: concurrent.futures.Future[Any]) -> None:
        """In whichever thread ended it; only its cancellation is news to us."""
        if future.cancelled():
            future.set_running_or_notify_cancel()  # tells those who `wait` for it
            with contextlib.suppress(RuntimeError):  # the loop is closed: everything has ended
                self._loop.call_soon_threadsafe(self._on_cancelled, job)

    # -- in the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            if self._started.done():
                raise  # our mistake: threading prints its story
            self._started.set_exception(error)
        finally:
            self._abandon()

    async def _main(self) -> None:
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        async with self._mesh, asyncio.TaskGroup() as self._group:
            self._started.set_result(None)
            while True:
                self._wake.clear()
                while len(self._in_flight) < self._window:
                    with self._lock:
                        if not self._waiting:
                            break
                        job = self._waiting.popleft()
                        if not job.future.cancelled():
                            self._in_flight.add(job)
                    if job in self._in_flight:
                        self._group.create_task(self._carry(job), name=f"task.{job.offer.name}")
                if self._stopping and not self._waiting and not self._in_flight:
                    return
                await self._wake.wait()

    async def _carry(self, job: _Job) -> None:
        """One task from here to its end; whatever happens, its future ends."""
        value: Any = None
        error: Exception | None = None
        try:
            value = await self._settle(job)
        except _Lost as lost:
            error = lost.error
        except Exception as met:  # the door to the caller: whatever it is, it is theirs to see
            error = met
            if isinstance(met, TaskFailed) and met.remote_traceback:
                met.add_note("on the worker:\n" + met.remote_traceback.rstrip("\n"))
        with contextlib.suppress(concurrent.futures.InvalidStateError):  # cancelled meanwhile
            if error is None:
                job.future.set_result(value)
            else:
                job.future.set_exception(error)
        with self._lock:
            self._in_flight.discard(job)
        self._wake.set()

    async def _settle(self, job: _Job) -> Any:
        left_s = None
        if job.unchecked:
            await self._list()
            self._insist(job.offer)
        if job.future.cancelled():
            return None
        if job.end_s is not None:
            left_s = job.end_s - time.monotonic()
            if left_s <= 0:
                raise DeadlineExceeded(
                    f"{job.offer.name} was not handed over before its deadline",
                    fix="submit less at once, or raise deadline_s or window",
                )
        handle = await self._mesh.hand_over(job.offer.name, job.data, deadline_s=left_s, **self._options)
        job.handle, job.data, job.future.task = handle, b"", handle.id
        if job.future.cancelled():
            self._on_cancelled(job)
        return value_of(await handle.outcome())

    def _on_cancelled(self, job: _Job) -> None:
        if job not in self._in_flight:
            job.data = b""  # it waits in the queue for being passed over
        elif job.handle is not None:
            self._group.create_task(self._withdraw(job.handle), name=f"cancel.{job.handle.id}")

    async def _withdraw(self, handle: TaskHandle) -> None:
        """Tell the daemon; one that restarts is told when it is back."""
        end_s = time.monotonic() + CANCEL_S_MAX
        while True:
            try:
                await handle.cancel()
                return
            except MeshUnavailable:
                if time.monotonic() > end_s:
                    return
                await asyncio.sleep(0.1)
            except EdgeweaveError:  # it has no open task of that id: it ended
                return

    async def _list(self) -> None:
        rows = await self._mesh.functions()
        self._catalogue = {str(row["name"]): str(row["digest"]) for row in rows}
        self._catalogue_until_s = time.monotonic() + CATALOGUE_S

    def _abandon(self) -> None:
        """The thread ends: no future may wait for it. After a stop in order there is none left."""
        with self._lock:
            self._stopping = True
            jobs = [*self._waiting, *self._in_flight]
            self._waiting.clear()
        for job in jobs:
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                job.future.set_exception(MeshUnavailable("the executor's thread has ended"))
        _living.discard(self)


_living: weakref.WeakSet[_Engine] = weakref.WeakSet()


def _at_exit() -> None:
    """As for a pool of threads: what was submitted ends before the interpreter does."""
    engines = list(_living)
    for engine in engines:
        engine.stop()
    for engine in engines:
        engine.join()


atexit.register(_at_exit)
