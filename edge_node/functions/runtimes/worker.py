"""The worker: a child process that runs functions, one after the other, warm.

    python -c "…worker.main()" SOCKET_FD MARK_FD PARENT_PID SLOWDOWN PROCESSES_MAX

In: ``Run`` frames on the socket. Out: ``Done`` frames; the number of the run that has begun stands in a page
of memory shared with the pool, so that a worker's death is blamed on the right one. A bundle is imported
once per digest into a module of its own. The function's prints never touch the protocol: descriptors 1 and 2
lead into a pipe that is read here, ``sys.stdout`` and ``sys.stderr`` into a bounded buffer. It dies with its
parent (PR_SET_PDEATHSIG, and end of the socket). ``slowdown`` k > 1 plays a slower board: after each call it
sleeps (k - 1) times the CPU time that the call took; this is a simulation and says so in the status.

It stays small and starts fast: of third-party code it imports msgspec only, and no asyncio.
Not here: time and memory limits from outside (``pool``).
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import fcntl
import importlib.util
import io
import linecache
import mmap
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

from edge_node.functions import bundle as bundles
from edge_node.functions import values
from edge_node.functions.decorator import MARK as WISHES
from edge_node.functions.invocation import Kind, TaskError
from edge_node.functions.limits import LOG_BYTES_MAX, MESSAGE_CHARS_MAX, MIB, TRACEBACK_CHARS_MAX, size_text
from edge_node.functions.runtimes.frames import (
    MARK,
    Done,
    FrameReader,
    Loaded,
    Printed,
    Ready,
    Run,
    decode_run,
    pack,
)
from security.errors import BadInput, EdgeweaveError, ProtocolViolation

_PR_SET_PDEATHSIG = 1
_MODULE_PREFIX = "edgeweave_bundle_"
_IMPORT_HEADROOM_BYTES = 128 * MIB  # libraries reserve more than they use; the pool watches what is used
_RUN_HEADROOM_BYTES = 32 * MIB


def main() -> None:
    descriptor, mark, parent, slowdown, processes_max = sys.argv[1:6]
    _die_with(int(parent))
    _bound_process(int(processes_max))
    faulthandler.enable(os.fdopen(os.dup(2), "wb"))  # a segfault's traceback reaches the pool's memory file
    sock = socket.socket(fileno=int(descriptor))
    sock.set_inheritable(False)
    worker = Worker(sock, mmap.mmap(int(mark), MARK.size), float(slowdown))
    os.close(int(mark))
    try:
        worker.serve()
    except OSError:
        pass  # the daemon is gone, or a function forked and returned twice
    os._exit(0)  # threads that a function left behind must not hold us


def _die_with(parent: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)  # it died before we asked


def _bound_process(processes_max: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.geteuid() != 0 and processes_max > 0:  # it does not bind root
        _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        wanted = _tasks_of_user() + processes_max
        with contextlib.suppress(OSError, ValueError):
            if hard == resource.RLIM_INFINITY or wanted < hard:
                resource.setrlimit(resource.RLIMIT_NPROC, (wanted, hard))


def _tasks_of_user() -> int:
    """Processes and threads that our user has now: the kernel counts them all against the limit."""
    count, me = 0, os.geteuid()
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if entry.stat().st_uid == me:
                        count += sum(1 for _ in os.scandir(f"/proc/{entry.name}/task"))
    return count


class Worker:
    """The loop; one at a time."""

    def __init__(self, sock: socket.socket, mark: mmap.mmap, slowdown: float) -> None:
        self._sock = sock
        self._mark = mark
        self._extra = max(0.0, slowdown - 1.0)
        self._modules: dict[bytes, types.ModuleType] = {}
        self._functions: dict[tuple[bytes, str], Callable[..., Any]] = {}
        self._limited_bytes = -1
        self._number = 0
        self._sending = threading.Lock()  # threads of a function may print while we answer
        self._capture = Capture(self._tell)
        os.register_at_fork(after_in_child=self._forked)

    def serve(self) -> None:
        self._send(Ready(os.getpid()))
        reader = FrameReader(decode_run, 64 * MIB)
        buffer = bytearray(256 * 1024)
        view = memoryview(buffer)
        while count := self._sock.recv_into(buffer):
            for run in reader.feed(view[:count]):
                self._capture.install()
                self._send(self._one(run))

    def _send(self, frame: Done | Loaded | Printed | Ready) -> None:
        data = pack(frame)
        with self._sending:
            self._sock.sendall(data)

    def _tell(self, data: bytes) -> None:
        self._send(Printed(self._number, data))

    def _forked(self) -> None:
        """A child that a function forked must not speak in our name."""
        self._capture.silence()
        self._sock.close()

    def _one(self, run: Run) -> Done:
        self._number = run.number
        MARK.pack_into(self._mark, 0, run.number)
        output, error = b"", b""
        started_at_ms = time.time_ns() // 1_000_000
        start_ns, cpu_ns = time.perf_counter_ns(), time.process_time_ns()
        try:
            function = self._functions.get((run.digest, run.function))
            if function is None:
                function = self._load(run)
                started_at_ms = time.time_ns() // 1_000_000
                start_ns, cpu_ns = time.perf_counter_ns(), time.process_time_ns()
            if self._limited_bytes != run.memory_mb:
                _limit_data(run.memory_mb * MIB * 3 // 2 + _RUN_HEADROOM_BYTES)
                self._limited_bytes = run.memory_mb
            args, kwargs = values.decode_call(run.input)
            if run.trace:
                _set_trace(run.trace)
            result = function(*args, **kwargs)
            del args, kwargs
            output = values.encode(result)
            del result
            if len(output) > run.output_bytes_max:
                shown, limit = size_text(len(output)), size_text(run.output_bytes_max)
                output = b""
                raise _Failed("output", "", f"returned {shown}, limit {limit}")
        except BaseException as raised:  # a door: whatever user code raises becomes data
            output = b""
            error = self._failure(raised, run).encode()
        finally:
            if run.trace:
                with contextlib.suppress(Exception):  # whatever it has made of `os.environ`
                    _set_trace("")
        spent_ns = time.process_time_ns() - cpu_ns
        if self._extra:
            time.sleep(self._extra * spent_ns / 1e9)
        return Done(
            run.number, output, error, self._capture.take(),
            started_at_ms, time.time_ns() // 1_000_000, spent_ns // 1000,
            (time.perf_counter_ns() - start_ns) // 1000,
        )  # fmt: skip

    def _load(self, run: Run) -> Callable[..., Any]:
        module = self._modules.get(run.digest)
        if module is None:
            _limit_data(run.memory_mb * MIB * 3 // 2 + _IMPORT_HEADROOM_BYTES)
            self._limited_bytes = -1
            module = self._modules[run.digest] = _imported(run)
        name = run.function.rpartition(".")[2]
        function = vars(module).get(name)
        wishes = getattr(function, WISHES, None)
        if not callable(function) or wishes is None:
            raise _Failed("import", "", f"{run.function} is not a function that its bundle offers")
        for required in wishes["requires"]:
            try:
                found = importlib.util.find_spec(required)
            except (ImportError, ValueError):
                found = None
            if found is None:
                raise _Failed(
                    "import",
                    "ModuleNotFoundError",
                    f"{run.function} requires {required!r}, which is not installed on this node",
                )
        self._functions[run.digest, run.function] = function
        self._send(Loaded(run.number))
        return function  # type: ignore[no-any-return]

    def _failure(self, raised: BaseException, run: Run) -> TaskError:
        if isinstance(raised, _Failed):
            return TaskError(raised.kind, raised.type, raised.message, raised.traceback)
        if isinstance(raised, MemoryError):
            _limit_data(None)  # describing it needs memory
            self._limited_bytes = -1
            return TaskError(
                "memory", "MemoryError", f"asked for more than its {run.memory_mb} MB", _traceback(raised)
            )
        if isinstance(raised, SystemExit):
            message = f"called sys.exit({raised.code!r:.60})"
            return TaskError("exit", "SystemExit", message, _traceback(raised))
        inside = _user_traceback(raised) is not None
        if not inside and isinstance(raised, ProtocolViolation | BadInput):  # ours: from decode or encode
            kind: Kind = "arguments" if isinstance(raised, ProtocolViolation) else "output"
            return TaskError(kind, "", _bounded(str(raised), MESSAGE_CHARS_MAX))
        if not inside and isinstance(raised, TypeError):  # the call itself did not fit
            return TaskError("arguments", "TypeError", _message(raised))
        return TaskError("raised", _type_name(raised), _message(raised), _traceback(raised))


def _set_trace(trace: str) -> None:
    """The environment is where instrumentation, and what a function starts, looks for its caller's trace.

    Source: OpenTelemetry, "Environment Variables as Context Propagation Carriers". "": none, also where the
    function has set one.
    """
    parent, _, state = trace.partition(" ")
    for name, value in (("TRACEPARENT", parent), ("TRACESTATE", state)):
        if value:
            os.environ[name] = value
        else:
            os.environ.pop(name, None)


class _Failed(Exception):
    """A failure that we found ourselves."""

    def __init__(self, kind: Kind, type_: str, message: str, traceback_: str = "") -> None:
        super().__init__(message)
        self.kind, self.type, self.message, self.traceback = kind, type_, message, traceback_


def _imported(run: Run) -> types.ModuleType:
    try:
        with open(run.bundle_path, "rb") as file:  # noqa: PTH123 (pathlib is not needed elsewhere here)
            data = file.read(bundles.BUNDLE_BYTES_MAX + 1)
    except OSError as error:
        raise _Failed("bundle", "", f"cannot read the bundle of {run.function}: {error.strerror}") from None
    if bundles.digest_of(data) != run.digest:
        raise _Failed("bundle", "", f"the bundle of {run.function} was changed on disk")
    try:
        bundle = bundles.Bundle.from_bytes(data)
        source = bundle.main.decode()
    except (EdgeweaveError, UnicodeDecodeError) as error:
        raise _Failed("bundle", "", str(error)) from None
    if len(bundle.files) > 1:
        raise _Failed("bundle", "", "bundles of several files are not run by this version")
    short = run.digest.hex()[:16]
    module = types.ModuleType(_MODULE_PREFIX + short)
    module.__file__ = _file_name(bundle.stem, run.digest)
    lines = source.splitlines(keepends=True)
    linecache.cache[module.__file__] = (len(source), None, lines, module.__file__)  # tracebacks show lines
    sys.modules[module.__name__] = module  # dataclasses and get_type_hints look there
    try:
        exec(compile(source, module.__file__, "exec"), module.__dict__)  # noqa: S102 (this is our task)
    except MemoryError:
        sys.modules.pop(module.__name__, None)
        raise
    except BaseException as raised:  # a door: whatever the file does while it is imported becomes data
        sys.modules.pop(module.__name__, None)
        message = _message(raised) + (" (on this node)" if isinstance(raised, ImportError) else "")
        raise _Failed("import", _type_name(raised), message, _traceback(raised)) from None
    return module


def _file_name(stem: str, digest: bytes) -> str:
    return f"{stem}.py@{digest.hex()[:8]}"


def _limit_data(growth_bytes: int | None) -> None:
    """RLIMIT_DATA: what we have now plus *growth_bytes*; None lifts it. The soft limit only."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if growth_bytes is None:
        wanted = hard
    else:
        with open("/proc/self/statm", "rb", buffering=0) as file:  # noqa: PTH123
            pages = int(file.read().split()[5])
        wanted = pages * resource.getpagesize() + growth_bytes
        wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


def _user_traceback(raised: BaseException) -> types.TracebackType | None:
    """The part of the traceback that begins in a bundle; ours is of no interest to its author."""
    tb = raised.__traceback__
    while tb is not None and not tb.tb_frame.f_globals.get("__name__", "").startswith(_MODULE_PREFIX):
        tb = tb.tb_next
    return tb


def _traceback(raised: BaseException) -> str:
    try:
        tb = _user_traceback(raised)
        text = "".join(traceback.format_exception(type(raised), raised, tb))
    except BaseException:  # a door: its __str__ may do anything
        text = _type_name(raised)
    return text.replace(_MODULE_PREFIX, "")[-TRACEBACK_CHARS_MAX:].encode("utf-8", "replace").decode()


def _message(raised: BaseException) -> str:
    try:
        return _bounded(str(raised), MESSAGE_CHARS_MAX)
    except BaseException:  # a door: its __str__ may do anything
        return "(its message cannot be shown)"


def _type_name(raised: BaseException) -> str:
    kind = type(raised)
    module = str(getattr(kind, "__module__", "builtins"))
    plain = module == "builtins" or module.startswith(_MODULE_PREFIX)
    return _bounded(kind.__qualname__ if plain else f"{module}.{kind.__qualname__}", 200)


def _bounded(text: str, chars: int) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= chars else text[: chars - 1] + "…"


class Capture:
    """What a run prints, in any way, bounded; whole lines are told at once so that a crash keeps them."""

    def __init__(self, tell: Callable[[bytes], None]) -> None:
        self._tell = tell
        self._left = LOG_BYTES_MAX
        self._dropped = 0
        self._held = bytearray()
        self._lock = threading.RLock()
        read, write = os.pipe()
        for descriptor in (1, 2):
            os.dup2(write, descriptor)
        os.close(write)
        fcntl.fcntl(read, fcntl.F_SETFL, os.O_NONBLOCK)
        self._pipe = read
        self._out, self._err = (_Text(_Sink(self), "utf-8", "replace", write_through=True) for _ in "12")  # type: ignore[arg-type]
        self.install()
        threading.Thread(target=self._watch, name="prints", daemon=True).start()

    def install(self) -> None:
        """Before each run: an earlier one may have replaced them."""
        sys.stdout = sys.__stdout__ = self._out  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = self._err  # type: ignore[misc]

    def silence(self) -> None:
        """In a forked child: prints go nowhere."""
        self._lock = threading.RLock()
        self._tell = lambda data: None

    def add(self, data: bytes | bytearray | memoryview) -> None:
        """From ``sys.stdout``, on the thread that prints."""
        with self._lock:
            self._add(bytes(data))
            if self._held.endswith(b"\n"):
                told, self._held = bytes(self._held), bytearray()
                self._tell(told)

    def take(self) -> bytes:
        """The rest of this run's prints; the next run starts afresh."""
        with self._lock:
            for data in self._from_pipe():
                self._add(data)
            if self._left == LOG_BYTES_MAX:
                return b""
            if self._dropped:
                self._held += f"\n[{size_text(self._dropped)} more were printed]\n".encode()
            told, self._held = bytes(self._held), bytearray()
            self._left, self._dropped = LOG_BYTES_MAX, 0
            return told

    def _add(self, data: bytes) -> None:
        kept = data[: self._left]
        self._held += kept
        self._left -= len(kept)
        self._dropped += len(data) - len(kept)

    def _from_pipe(self) -> Iterator[bytes]:
        try:
            while data := os.read(self._pipe, 65536):
                yield data
        except BlockingIOError:
            return

    def _watch(self) -> None:
        """Descriptors 1 and 2 must never block whoever writes there (C libraries, child programs)."""
        waiting = select.poll()
        waiting.register(self._pipe, select.POLLIN)
        while True:
            waiting.poll()
            with self._lock:
                for data in self._from_pipe():
                    self._add(data)


class _Text(io.TextIOWrapper):
    def close(self) -> None:
        """Not for a function to close: the next one prints here too."""


class _Sink(io.RawIOBase):
    """Where ``sys.stdout`` writes."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._capture.add(data)
        return memoryview(data).nbytes

    def fileno(self) -> int:
        return 1  # subprocess(stdout=sys.stdout) and the like


if __name__ == "__main__":
    main()
