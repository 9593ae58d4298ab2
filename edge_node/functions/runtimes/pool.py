"""Worker pool: warm child processes that run functions, their limits kept from outside.

    start(call) ─► queue (FIFO) ─► worker's pipe ─► Done ─► on_done(Completion)

In: invocations. Out: ``on_started`` and exactly one ``on_done`` each. A worker gets one run at a time; runs
that are expected to take under 5 ms share its pipe (up to 32, at most 50 ms of expected work), which hides
the process switch. When a worker dies, only the run that it was in is blamed; those behind it in the pipe
go to the front of the queue. Every worker leads a process group of its own, so that what a function started
dies with it. Not here: how many may wait (the caller's bound), where a task runs, what a run is worth.

Must run on the main thread: a worker dies with the *thread* that started it (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import msgspec

from edge_node.functions.invocation import Completion, Invocation, Kind, TaskError
from edge_node.functions.limits import (
    ERROR_BYTES_MAX,
    LOG_BYTES_MAX,
    MIB,
    PIPELINE_BACKLOG_S,
    PIPELINE_DEPTH,
    PIPELINE_EXPECTED_S,
    PoolSettings,
    size_text,
)
from edge_node.functions.runtimes.frames import (
    MARK,
    Done,
    FrameReader,
    FromWorker,
    Loaded,
    Printed,
    Ready,
    Run,
    decode_from_worker,
    pack,
)
from edge_node.functions.runtimes.runtime import OnDone, OnStarted
from security.errors import ProtocolViolation

_log = logging.getLogger(__name__)

_RECEIVE_BYTES = 256 * 1024
_ROOT = str(Path(__file__).resolve().parents[3])  # where our packages lie, installed or not
_BOOT = (
    "import sys; {root!r} in sys.path or sys.path.insert(0, {root!r}); "
    "from edge_node.functions.runtimes.worker import main; main()"
)
_KEPT_ENVIRONMENT = (
    "PATH",
    "PYTHONPATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "VIRTUAL_ENV",
)
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
               "VECLIB_MAXIMUM_THREADS", "BLIS_NUM_THREADS")  # fmt: skip


class WorkerPool:
    """A ``Runtime`` of local processes.

    Args:
        workers: processes; each runs one function at a time.
        on_done, on_started: called on the event loop; must not raise.
        slowdown: k >= 1: every run takes k times its CPU time (a simulated slower board).
        python: the interpreter that workers use.
        working_directory: where workers run; None: where the daemon runs.
    """

    def __init__(
        self,
        workers: int,
        *,
        on_done: OnDone,
        on_started: OnStarted | None = None,
        slowdown: float = 1.0,
        python: str | None = None,
        working_directory: Path | None = None,
        settings: PoolSettings | None = None,
    ) -> None:
        assert workers >= 1, "a pool has at least one worker"
        assert slowdown >= 1.0, "a worker can only be slowed"
        self._workers_wanted = workers
        self._on_done = on_done
        self._on_started = on_started
        self._slowdown = slowdown
        self._python = python or sys.executable
        self._directory = working_directory
        self._settings = settings or PoolSettings()
        self._queue: deque[Invocation] = deque()
        self._workers: list[_Worker] = []
        self._held: dict[tuple[str, int], _Held] = {}  # in some worker's pipe
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn_planned = False
        self._busy = asyncio.Event()
        self._number = 0
        self._starts_failed = 0

    @property
    def workers(self) -> int:
        return self._workers_wanted

    @property
    def queued(self) -> int:
        """Invocations that wait here, not counting those in a worker's pipe."""
        return len(self._queue)

    @property
    def running(self) -> int:
        return sum(1 for worker in self._workers if worker.pipe)

    @property
    def ready(self) -> int:
        """Workers that can take work now."""
        return sum(1 for worker in self._workers if worker.ready)

    @property
    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers]

    def resident_bytes(self) -> int:
        return sum(worker.resident() for worker in self._workers)

    def start(self, call: Invocation) -> None:
        self._queue.append(call)
        self._plan_turn()

    def flush(self) -> None:
        """Hand out now what was started in this turn of the caller; saves a turn of the event loop."""
        if self._turn_planned:
            self._take_turn()

    def cancel(self, task: str, attempt: int) -> None:
        for waiting in self._queue:
            if waiting.task == task and waiting.attempt == attempt:
                self._queue.remove(waiting)
                self._on_done(Completion(task, attempt, "cancelled"))
                return
        held = self._held.get((task, attempt))
        if held is None or held.over:
            return
        worker = held.worker
        if worker.pipe[0] is held:
            worker.condemn("cancelled")
        else:  # it cannot be taken back from the pipe; its answer will be dropped
            held.over = True
            self._held.pop((task, attempt), None)
            self._on_done(Completion(task, attempt, "cancelled", pid=worker.process.pid))

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            for _ in range(self._workers_wanted):
                self._spawn()
            self._plan_turn()
            while True:
                await self._busy.wait()
                await asyncio.sleep(self._settings.sample_s)
                self._watch()
        finally:
            loop, self._loop = self._loop, None
            workers, self._workers = self._workers, []
            for worker in workers:
                worker.close(loop)
            for worker in workers:
                await worker.reaped()

    # ── turns: queue → pipes ──

    def _plan_turn(self) -> None:
        if not self._turn_planned and self._loop is not None:
            self._turn_planned = True
            self._loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        """Hand out what can be handed out; frames of one turn leave in one write a worker."""
        self._turn_planned = False
        if self._loop is None:
            return
        queue = self._queue
        while queue:
            worker = self._worker_for(queue[0])
            if worker is None:
                break
            self._give(worker, queue.popleft())
        for worker in self._workers:
            if worker.unsent:
                worker.flush(self._loop)

    def _worker_for(self, call: Invocation) -> _Worker | None:
        best = None
        for worker in self._workers:
            if not worker.ready or worker.verdict is not None:
                continue
            if not worker.pipe:
                return worker
            if best is None or worker.backlog_s < best.backlog_s:
                best = worker
        expected_s = call.expected_s
        if best is None or expected_s is None or expected_s >= PIPELINE_EXPECTED_S:
            return None
        fits = (
            best.all_short
            and len(best.pipe) < PIPELINE_DEPTH
            and best.backlog_s + expected_s <= PIPELINE_BACKLOG_S
            and call.digest in best.loaded
        )
        return best if fits else None

    def _give(self, worker: _Worker, call: Invocation) -> None:
        self._number += 1
        expected_s = call.expected_s
        short = expected_s is not None and expected_s < PIPELINE_EXPECTED_S
        held = _Held(self._number, call, worker)
        self._held[call.task, call.attempt] = held
        first = not worker.pipe
        if first:
            worker.all_short, worker.backlog_s = short, 0.0
            if worker.used and not short:
                worker.measure_idle()
        worker.backlog_s += expected_s or 0.0
        worker.used = True
        worker.pipe.append(held)
        worker.unsent.append(
            pack(
                Run(
                    held.number, call.function, call.digest, call.bundle_path, call.input,
                    call.memory_mb, call.output_bytes_max, call.trace,
                )
            )
        )  # fmt: skip
        if first:
            self._began(worker, held)
        if not self._busy.is_set():
            self._busy.set()

    def _began(self, worker: _Worker, held: _Held) -> None:
        call = held.call
        held.started_ns = time.monotonic_ns()
        held.loading = call.digest not in worker.loaded
        allowed_s = self._settings.import_timeout_s if held.loading else call.timeout_s
        held.until_ns = held.started_ns + int(allowed_s * 1e9)
        if self._on_started is not None and not held.over:
            self._on_started(call.task, call.attempt, worker.process.pid)

    # ── answers ──

    def _readable(self, worker: _Worker) -> None:
        while True:
            try:
                count = worker.sock.recv_into(worker.buffer)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                count = 0
            if count == 0:
                self._loop_().remove_reader(worker.sock)
                worker.deaf = True
                worker.kill()  # it closed its end; its death is told by the process
                return
            try:
                for frame in worker.reader.feed(worker.view[:count]):
                    self._answer(worker, frame)
            except (ValueError, msgspec.DecodeError, RecursionError):  # a function wrote here
                self._loop_().remove_reader(worker.sock)
                worker.deaf = True
                worker.condemn("exit", "ProtocolViolation", "its worker's answers became unreadable")
                return
            if count < _RECEIVE_BYTES:
                return

    def _loop_(self) -> asyncio.AbstractEventLoop:
        assert self._loop is not None, "the pool runs"
        return self._loop

    def _answer(self, worker: _Worker, frame: FromWorker) -> None:
        if type(frame) is Done:
            held = worker.pipe[0] if worker.pipe else None
            if held is None or held.number != frame.number:
                raise ValueError("an answer to nothing")
            worker.pipe.popleft()
            worker.backlog_s -= held.call.expected_s or 0.0
            self._plan_turn()
            if worker.pipe:
                self._began(worker, worker.pipe[0])
            elif not any(other.pipe for other in self._workers):
                self._busy.clear()
            self._finish(held, frame)
        elif type(frame) is Printed:
            if worker.pipe and worker.pipe[0].number == frame.number:
                worker.pipe[0].keep(frame.data)
        elif type(frame) is Loaded:
            if worker.pipe and worker.pipe[0].number == frame.number:
                held = worker.pipe[0]
                worker.loaded.add(held.call.digest)
                held.loading = False
                held.until_ns = time.monotonic_ns() + int(held.call.timeout_s * 1e9)
        elif type(frame) is Ready:
            worker.became_ready()
            self._starts_failed = 0
            self._plan_turn()

    def _finish(self, held: _Held, done: Done) -> None:
        if held.over:
            return
        held.over = True
        call = held.call
        self._held.pop((call.task, call.attempt), None)
        if done.log:
            held.keep(done.log)
        error = None
        if done.error:
            try:
                if len(done.error) > ERROR_BYTES_MAX:  # the worker bounds it; a function may cheat
                    raise ProtocolViolation("task error is too large")
                error = TaskError.decode(done.error)
            except ProtocolViolation:
                error = TaskError("exit", "ProtocolViolation", "its worker's answers became unreadable")
        elif len(done.output) > call.output_bytes_max:  # the worker has checked; a function may have cheated
            error = TaskError("output", "", "returned more than its limit")
        self._on_done(
            Completion(
                call.task,
                call.attempt,
                "done" if error is None else "failed",
                done.output if error is None else b"",
                error,
                bytes(held.log),
                held.worker.process.pid,
                done.started_at_ms,
                done.ended_at_ms,
                done.cpu_us,
                done.run_us,
            )
        )

    # ── limits ──

    def _watch(self) -> None:
        """Time and memory of what runs now."""
        for worker in list(self._workers):
            if worker.verdict is not None or not worker.pipe:
                continue
            if time.monotonic_ns() >= worker.pipe[0].until_ns:
                self._readable(worker)  # we may have slept ourselves: the answer may be here
                if not worker.pipe or worker.verdict or time.monotonic_ns() < worker.pipe[0].until_ns:
                    continue
                held = worker.pipe[0]
                if held.loading:
                    limit = self._settings.import_timeout_s
                    worker.condemn("import", "TimeoutError", f"its import took longer than {limit:g} s")
                else:
                    worker.condemn("timeout", "TimeoutError", f"took longer than {held.call.timeout_s:g} s")
                continue
            held = worker.pipe[0]
            grown = worker.resident() - worker.idle_bytes
            if grown > held.call.memory_mb * MIB:
                worker.condemn(
                    "memory",
                    "MemoryError",
                    f"grew by {size_text(grown)}, limit {size_text(held.call.memory_mb * MIB)}",
                )
        self._recycle()

    def _recycle(self) -> None:
        """Replace idle workers that kept too much; what a function caches is not the next one's burden."""
        for worker in list(self._workers):
            if worker.ready and worker.used and not worker.pipe and worker.verdict is None:
                grown = worker.measure_idle() - worker.fresh_bytes
                if (
                    grown > self._settings.recycle_mb * MIB
                    or len(worker.loaded) > self._settings.recycle_bundles
                ):
                    worker.condemn("recycled")

    # ── processes ──

    def _spawn(self) -> None:
        loop = self._loop_()
        ours, theirs = socket.socketpair()
        story = os.memfd_create("edgeweave-worker")  # startup errors and a segfault's traceback
        mark = os.memfd_create("edgeweave-mark")
        os.truncate(mark, MARK.size)
        boot = _BOOT.format(root=_ROOT)
        limit = str(self._settings.processes_max)
        try:
            process = subprocess.Popen(
                [self._python, "-P", "-c", boot, str(theirs.fileno()), str(mark), str(os.getpid()),
                 repr(self._slowdown), limit],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=story,
                pass_fds=(theirs.fileno(), mark), env=_environment(), cwd=self._directory,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            ours.close()
            os.close(story)
            os.close(mark)
            self._start_failed(f"cannot start {self._python}: {error.strerror}")
            return
        finally:
            theirs.close()
        ours.setblocking(False)
        worker = _Worker(process, ours, story, mark, self._settings.frame_bytes_max)
        self._workers.append(worker)
        loop.add_reader(ours, self._readable, worker)
        loop.add_reader(worker.pidfd, self._died, worker)
        worker.start_timer = loop.call_later(self._settings.start_timeout_s, worker.condemn, "start")

    def _start_failed(self, cause: str) -> None:
        self._starts_failed += 1
        delay_s = min(self._settings.restart_delay_s_max, 0.1 * 2**self._starts_failed)
        if self._starts_failed & (self._starts_failed - 1) == 0:  # 1st, 2nd, 4th, 8th …: a bounded log
            _log.error("worker does not start (%d times): %s", self._starts_failed, cause)
        self._loop_().call_later(delay_s, self._respawn)

    def _respawn(self) -> None:
        if self._loop is not None and len(self._workers) < self._workers_wanted:
            self._spawn()

    def _died(self, worker: _Worker) -> None:
        loop = self._loop_()
        if not worker.deaf:
            self._readable(worker)  # what it still said counts
        worker.close(loop)
        code = worker.process.wait()  # at once: its pidfd is readable
        self._workers.remove(worker)
        waiting = [held for held in worker.pipe if not held.over]
        blamed = worker.pipe[0] if worker.pipe else None
        if worker.verdict is not None and blamed is not worker.sentenced:
            blamed = None  # the guilty one answered before the blow fell; this one had just begun
        elif worker.verdict is None and blamed is not None and worker.begun() != blamed.number:
            blamed = None  # it lay in the pipe of a worker that was dead already
        worker.pipe.clear()
        for held in waiting:
            self._held.pop((held.call.task, held.call.attempt), None)
        self._queue.extendleft(held.call for held in reversed(waiting) if held is not blamed)
        if not any(other.pipe for other in self._workers):
            self._busy.clear()
        if worker.ready or worker.verdict == ("recycled", "", ""):
            self._respawn()
        else:
            kind = worker.verdict[0] if worker.verdict else ""
            self._start_failed(
                "took too long" if kind == "start" else worker.story_text()[-500:] or _ending(code)[1]
            )
        self._plan_turn()
        if blamed is not None and not blamed.over:
            blamed.over = True
            self._on_done(_verdict(worker, blamed, code))
        worker.forget()


def _verdict(worker: _Worker, held: _Held, code: int) -> Completion:
    """How the run ended that was in a worker when it died."""
    call = held.call
    now_ns, now_ms = time.monotonic_ns(), time.time_ns() // 1_000_000
    spent_ns = now_ns - held.started_ns
    error = None
    died = False
    if worker.verdict is None or worker.verdict[0] in ("recycled", "start"):
        died = True
        name, message = _ending(code)
        error = TaskError("exit", name, message, worker.story_text())
    elif worker.verdict[0] != "cancelled":
        kind, name, message = worker.verdict
        died = kind == "exit"
        error = TaskError(_KINDS[kind], name, message)
    return Completion(
        call.task, call.attempt, "cancelled" if error is None else "failed", b"", error, bytes(held.log),
        worker.process.pid, now_ms - spent_ns // 1_000_000, now_ms, 0, spent_ns // 1000, died,
    )  # fmt: skip


_KINDS: dict[str, Kind] = {"timeout": "timeout", "memory": "memory", "import": "import", "exit": "exit"}


def _ending(code: int) -> tuple[str, str]:
    if code >= 0:
        return "exit", f"its worker process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return name, f"its worker process was ended by {name}"


def _environment() -> dict[str, str]:
    """What workers see of the daemon's environment: as little as runs a program."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT_ENVIRONMENT or name == "LANG" or name.startswith("LC_")
    }
    return kept | dict.fromkeys(_ONE_THREAD, "1") | {"PYTHONUTF8": "1", "MALLOC_ARENA_MAX": "2"}


class _Held:
    """A run in a worker's pipe."""

    __slots__ = ("call", "loading", "log", "number", "over", "started_ns", "until_ns", "worker")

    def __init__(self, number: int, call: Invocation, worker: _Worker) -> None:
        self.number = number
        self.call = call
        self.worker = worker
        self.over = False  # its Completion was given
        self.loading = False
        self.started_ns = self.until_ns = 0
        self.log = b""

    def keep(self, data: bytes) -> None:
        room = LOG_BYTES_MAX + 100 - len(self.log)  # the worker bounds it too; a function may cheat
        if room > 0:
            self.log += data[:room]


class _Worker:
    """One child process, its pipe, and what is in it."""

    def __init__(
        self, process: subprocess.Popen[bytes], sock: socket.socket, story: int, mark: int, bytes_max: int
    ) -> None:
        self.process = process
        self.sock = sock
        self.pidfd = os.pidfd_open(process.pid)
        self.reader = FrameReader(decode_from_worker, bytes_max)
        self.buffer = bytearray(_RECEIVE_BYTES)
        self.view = memoryview(self.buffer)
        self.pipe: deque[_Held] = deque()
        self.unsent: list[bytes] = []
        self.loaded: set[bytes] = set()
        self.ready = False
        self.used = False
        self.all_short = True
        self.backlog_s = 0.0
        self.fresh_bytes = self.idle_bytes = 0
        self.verdict: tuple[str, str, str] | None = None  # why we ended it: kind, type, message
        self.sentenced: _Held | None = None  # what it was running when we decided so
        self.deaf = False  # nothing more can be read from it
        self.start_timer: asyncio.TimerHandle | None = None
        self._story = story
        self._mark = mark
        self._statm = -1
        self._writing = False
        self._closed = False

    def became_ready(self) -> None:
        self.ready = True
        if self.start_timer is not None:
            self.start_timer.cancel()
        with contextlib.suppress(OSError):
            self._statm = os.open(f"/proc/{self.process.pid}/statm", os.O_RDONLY)
        self.fresh_bytes = self.measure_idle()

    def resident(self) -> int:
        try:
            return int(os.pread(self._statm, 200, 0).split()[1]) * _PAGE_BYTES
        except (OSError, IndexError):
            return 0  # gone

    def measure_idle(self) -> int:
        self.idle_bytes = self.resident()
        self.used = False
        return self.idle_bytes

    def flush(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._writing or self._closed:
            return
        data = self.unsent[0] if len(self.unsent) == 1 else b"".join(self.unsent)
        self.unsent.clear()
        try:
            sent = self.sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            return  # it died: its pidfd tells
        if sent < len(data):
            self.unsent.append(data[sent:])
            self._writing = True
            loop.add_writer(self.sock, self._writable, loop)

    def _writable(self, loop: asyncio.AbstractEventLoop) -> None:
        self._writing = False
        loop.remove_writer(self.sock)
        self.flush(loop)

    def condemn(self, kind: str, type_: str = "", message: str = "") -> None:
        """End it, for this reason."""
        if self.verdict is None:
            self.verdict = (kind, type_, message)
            self.sentenced = self.pipe[0] if self.pipe else None
            self.kill()

    def kill(self) -> None:
        """It and what it started; only before it is reaped, while the number is surely its own."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)  # its group may not be its own yet

    def close(self, loop: asyncio.AbstractEventLoop | None) -> None:
        if self._closed:
            return
        self._closed = True
        if self.start_timer is not None:
            self.start_timer.cancel()
        if loop is not None:
            loop.remove_reader(self.sock)
            loop.remove_reader(self.pidfd)
            if self._writing:
                loop.remove_writer(self.sock)
        self.kill()
        self.sock.close()

    async def reaped(self) -> None:
        while self.process.poll() is None:  # noqa: ASYNC110 (after SIGKILL: a matter of a millisecond)
            await asyncio.sleep(0.002)
        self.forget()

    def begun(self) -> int:
        """Number of the last run whose code it has touched."""
        return int(MARK.unpack(os.pread(self._mark, MARK.size, 0))[0])

    def story_text(self) -> str:
        """What Python itself said at its end: a segfault's traceback, an error while starting."""
        try:
            return os.pread(self._story, 8192, 0).decode("utf-8", "replace")
        except OSError:
            return ""

    def forget(self) -> None:
        for descriptor in (self.pidfd, self._story, self._mark, self._statm):
            if descriptor >= 0:
                os.close(descriptor)
        self.pidfd = self._story = self._mark = self._statm = -1


_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
