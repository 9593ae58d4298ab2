"""The guard: inside the world nothing may look at, or touch, what is outside.

    with guard():            # once a run; costs nothing for each event
        world.run_until(…)

Refused with ``LeakedOutside``, which names the way out and what to use instead: clocks and sleeping, the
system's randomness and the process-wide ``random``, sockets and name lookups, threads, processes, opening or
changing files outside the directories that were allowed. Names that our own modules took at their import
(``from time import monotonic_ns``) and defaults of their functions (``entropy=os.urandom``) are refused too.

Let through: other threads than the one that entered; what a module does while it is imported; logging's
time stamps and a real event loop around the world. Whoever draws a screen reads the machine's clocks from
``OUTSIDE``.

What cannot be caught in Python: the entropy that OpenSSL takes itself (a signature with a random nonce, the
``generate_key`` of AESGCM and ChaCha20Poly1305), C modules that read clocks, ``_socket.socket``,
``datetime.now`` in other people's modules (its type is C's; our modules' name for it is replaced), the order
of sets of strings, which is salted for each process, and ``id()``. For those: run a seed in two processes and
compare ``World.trace_hash``.
"""

from __future__ import annotations

import _thread
import builtins
import datetime
import io
import os
import random
import secrets
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import types
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519

from security.errors import EdgeweaveError


class LeakedOutside(EdgeweaveError, RuntimeError):
    """Code in the world reached for the machine: a run would no longer be a function of its seed."""

    def __init__(self, what: str, *, fix: str) -> None:
        super().__init__(f"the virtual world was left through {what}", fix=fix)


class Outside:
    """The machine's own clocks, for who draws a screen or measures a run: taken before any guard."""

    __slots__ = ("monotonic_ns", "process_time_ns", "sleep", "time_ns")

    def __init__(self) -> None:
        self.monotonic_ns = time.monotonic_ns
        self.process_time_ns = time.process_time_ns
        self.time_ns = time.time_ns
        self.sleep = time.sleep


OUTSIDE: Final = Outside()

_CLOCK = "read the node's Clock (clocks.VirtualClock), or world.now_ns"
_SLEEP = "put it on the agenda (world.after), or asyncio.sleep on the VirtualLoop"
_CHANCE = "draw from world.rng(name)"
_ENTROPY = "take bytes from world.entropy(name)"
_NETWORK = "use the world's network"
_THREAD = "run it through the loop's executor, or the agenda"
_PROCESS = "use the world's Processor"
_FILE = "use the world's disk, or name its directory: guard(writing=[…])"
_KEYS = "make keys from world.entropy(name) (NodeKeys and Authority take them)"

_OURS: Final = frozenset({"security", "edge_node", "gateway", "device_sim"})
_LET_THROUGH: Final = frozenset({"logging", "asyncio.base_events"})
"""Callers that are not the world: a log line's time stamp decides nothing, and a loop of the machine may run
around the world."""
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_MISSING: Final = object()

_Harmless = Callable[[tuple[Any, ...], dict[str, Any]], bool]


class _State:
    """Of the one guard of this process."""

    depth = 0
    thread = 0
    frame: types.FrameType | None = None
    writing: tuple[str, ...] = ()


@contextmanager
def guard(*, writing: Sequence[Path] = ()) -> Iterator[None]:
    """Refuse everything outside, in this thread, until the block ends. May be nested.

    Args: writing: directories below which files may be written, beside those of guards around this one.
    """
    before = _State.writing
    allowed = tuple(str(path.resolve()) for path in writing)
    if _State.depth and _State.thread != _thread.get_ident():
        raise RuntimeError("another thread is in the world")
    undo: list[tuple[Any, str, Any]] = []
    if _State.depth == 0:
        _State.thread = _thread.get_ident()
        _State.frame = sys._getframe(2)  # of the with statement, behind contextlib
        _patch(undo)
    _State.depth += 1
    _State.writing = before + allowed
    try:
        yield
    finally:
        _State.writing = before
        _State.depth -= 1
        if _State.depth == 0:
            _State.frame = None
            for target, name, was in reversed(undo):
                _put(target, name, was)


def _put(target: Any, name: str, value: Any) -> None:
    if value is _MISSING:
        delattr(target, name)
    else:
        setattr(target, name, value)


def _refuser(what: str, original: Any, fix: str, harmless: _Harmless | None = None) -> Callable[..., Any]:
    """Stands for *original*, and is it while nobody is in the world: who kept it keeps what works."""

    def refuse(*args: Any, **named: Any) -> Any:
        if _State.depth and _within() and (harmless is None or not harmless(args, named)):
            raise LeakedOutside(f"{what}()", fix=fix)
        return original(*args, **named)

    refuse.__name__ = refuse.__qualname__ = what.rpartition(".")[2]
    refuse.__wrapped__ = original  # type: ignore[attr-defined]
    return refuse


def _within() -> bool:
    """Is it the world that calls, two frames up?"""
    if _thread.get_ident() != _State.thread:
        return False
    frame: types.FrameType | None = sys._getframe(2)
    if frame is not None and frame.f_globals.get("__name__") in _LET_THROUGH:
        return False
    while frame is not None and frame is not _State.frame:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return False  # a module is being imported
        frame = frame.f_back
    return True


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────


def _no_time_given(position: int) -> _Harmless:
    """Harmless if the moment is an argument: ``time.gmtime(0)`` reads no clock."""
    return lambda args, _named: len(args) > position and args[position] is not None


def _is_below(path: Any) -> bool:
    if isinstance(path, int):
        return True  # a descriptor: it was opened before
    text = os.path.realpath(os.fsdecode(path))
    return any(text == root or text.startswith(root.rstrip("/") + "/") for root in _State.writing)


def _may_open(args: tuple[Any, ...], named: dict[str, Any]) -> bool:
    mode = args[1] if len(args) > 1 else named.get("mode", "r")
    return not set(str(mode)) & set("wax+") or _is_below(args[0] if args else named["file"])


def _may_os_open(args: tuple[Any, ...], named: dict[str, Any]) -> bool:
    flags = args[1] if len(args) > 1 else named["flags"]
    return not flags & _WRITING or _is_below(args[0] if args else named["path"])


def _may_change(args: tuple[Any, ...], named: dict[str, Any]) -> bool:
    paths = [*args[:1], *(value for name, value in named.items() if name in ("path", "src", "dst"))]
    return all(_is_below(path) for path in paths)


def _may_move(args: tuple[Any, ...], named: dict[str, Any]) -> bool:
    return all(_is_below(path) for path in args[:2]) and _may_change((), named)


def _may_connect(args: tuple[Any, ...], named: dict[str, Any]) -> bool:
    database = args[0] if args else named["database"]
    return database == ":memory:" or _is_below(database)


def _refused() -> Iterator[tuple[Any, str, str, str, _Harmless | None]]:
    """Yields: (where it is, its name there, what people call it, what to use instead, when harmless)."""
    for clock in ("time", "monotonic", "perf_counter", "process_time", "thread_time"):
        yield time, clock, f"time.{clock}", _CLOCK, None
        yield time, f"{clock}_ns", f"time.{clock}_ns", _CLOCK, None
    for clock in ("clock_gettime", "clock_gettime_ns"):
        yield time, clock, f"time.{clock}", _CLOCK, None
    for name, position in (("gmtime", 0), ("localtime", 0), ("ctime", 0), ("asctime", 0), ("strftime", 1)):
        yield time, name, f"time.{name}", _CLOCK, _no_time_given(position)
    yield time, "sleep", "time.sleep", _SLEEP, None

    for name in ("urandom", "getrandom"):
        yield os, name, f"os.{name}", _ENTROPY, None
    yield random, "_urandom", "os.urandom", _ENTROPY, None  # of SystemRandom, and so of secrets
    yield random.Random, "__init__", "random.Random", _CHANCE, _is_seeded
    for name in random.__all__:
        if getattr(getattr(random, name), "__self__", None) is random._inst:
            yield random, name, f"random.{name}", _CHANCE, None
    for name in ("token_bytes", "token_hex", "token_urlsafe", "choice", "randbelow", "randbits"):
        yield secrets, name, f"secrets.{name}", _ENTROPY, None
    for name in ("uuid1", "uuid4", "getnode"):
        yield uuid, name, f"uuid.{name}", _ENTROPY, None
    for key in (x25519.X25519PrivateKey, ed25519.Ed25519PrivateKey):
        yield key, "generate", f"{key.__name__}.generate", _KEYS, None
    for module in (ec, rsa):
        name = module.__name__.rpartition(".")[2]
        yield module, "generate_private_key", f"{name}.generate_private_key", _KEYS, None

    for name in ("__init__", "connect", "connect_ex", "bind", "sendto"):
        yield socket.socket, name, f"socket.socket{'' if name == '__init__' else f'.{name}'}", _NETWORK, None
    for name in ("socketpair", "create_connection", "create_server", "getaddrinfo", "gethostbyname",
                 "gethostbyname_ex", "gethostbyaddr", "getnameinfo", "getfqdn", "gethostname"):  # fmt: skip
        yield socket, name, f"socket.{name}", _NETWORK, None

    yield threading.Thread, "start", "threading.Thread.start", _THREAD, None
    for module in (_thread, threading):
        name = "start_new_thread" if module is _thread else "_start_new_thread"
        yield module, name, "_thread.start_new_thread", _THREAD, None
    yield subprocess.Popen, "__init__", "subprocess.Popen", _PROCESS, None
    for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system", "execv", "execve"):
        yield os, name, f"os.{name}", _PROCESS, None

    yield builtins, "open", "open", _FILE, _may_open
    yield io, "open", "open", _FILE, _may_open
    yield os, "open", "os.open", _FILE, _may_os_open
    for name in ("mkdir", "rmdir", "remove", "unlink", "truncate", "chmod"):
        yield os, name, f"os.{name}", _FILE, _may_change
    for name in ("rename", "replace", "link"):
        yield os, name, f"os.{name}", _FILE, _may_move
    yield sqlite3, "connect", "sqlite3.connect", _FILE, _may_connect


def _is_seeded(args: tuple[Any, ...], named: dict[str, Any]) -> bool:
    """``random.Random(7)``: args[0] is the generator itself. SystemRandom ends in ``_urandom``."""
    return (len(args) > 1 and args[1] is not None) or named.get("x") is not None


def _patch(undo: list[tuple[Any, str, Any]]) -> None:
    stand_ins: dict[int, Callable[..., Any]] = {}
    for target, name, what, fix, harmless in list(_refused()):
        if not hasattr(target, name):
            continue  # not on this platform
        original = getattr(target, name)
        refuse = stand_ins.get(id(original)) or _refuser(what, original, fix, harmless)
        was = vars(target).get(name, _MISSING)
        undo.append((target, name, was))
        setattr(target, name, staticmethod(refuse) if isinstance(was, classmethod) else refuse)
        if not isinstance(target, type):
            stand_ins[id(original)] = refuse
    for module in [found for name, found in sorted(sys.modules.items()) if name.partition(".")[0] in _OURS]:
        if module.__name__ != __name__:
            _patch_ours(module, stand_ins, undo)


def _patch_ours(
    module: types.ModuleType, stand_ins: dict[int, Callable[..., Any]], undo: list[tuple[Any, str, Any]]
) -> None:
    """Names that a module of ours took for itself, and defaults of its functions."""
    functions: list[types.FunctionType] = []
    for name, value in list(vars(module).items()):
        if name.startswith("__"):
            continue
        if (stand_in := stand_ins.get(id(value))) is not None:
            undo.append((module, name, value))
            setattr(module, name, stand_in)
        elif isinstance(value, types.FunctionType) and value.__module__ == module.__name__:
            functions.append(value)
        elif isinstance(value, type) and value.__module__ == module.__name__:
            functions += [each for part in vars(value).values() if (each := _function(part)) is not None]
    for function in functions:
        if any(id(each) in stand_ins for each in function.__defaults__ or ()):
            undo.append((function, "__defaults__", function.__defaults__))
            function.__defaults__ = tuple(
                stand_ins.get(id(each), each) for each in function.__defaults__ or ()
            )
        kept = function.__kwdefaults__
        if kept and any(id(each) in stand_ins for each in kept.values()):
            undo.append((function, "__kwdefaults__", kept))
            function.__kwdefaults__ = {key: stand_ins.get(id(each), each) for key, each in kept.items()}
    if any(_asks_the_date(function.__code__) for function in functions):
        for name, value in list(vars(module).items()):
            for real, dateless in _DATES:
                if value is real:
                    undo.append((module, name, value))
                    setattr(module, name, dateless)


def _function(part: object) -> types.FunctionType | None:
    if isinstance(part, staticmethod | classmethod):
        part = part.__func__
    elif isinstance(part, property):
        part = part.fget
    return part if isinstance(part, types.FunctionType) else None


def _asks_the_date(code: types.CodeType) -> bool:
    """Could it say ``datetime.now()``? Only then it gets the stand-in, of which no value is the ``type``."""
    if {"now", "utcnow", "today"}.intersection(code.co_names):
        return True
    return any(_asks_the_date(each) for each in code.co_consts if isinstance(each, types.CodeType))


class _DateKind(type):
    """Of a stand-in for a date type: it is that type in all but the question what day it is."""

    real: type

    def __call__(cls, *args: Any, **named: Any) -> Any:
        return cls.real(*args, **named)

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.real, name)

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, cls.real)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind.real if isinstance(kind, _DateKind) else kind, cls.real)


class _Datetime(metaclass=_DateKind):
    real = datetime.datetime
    now = staticmethod(_refuser("datetime.now", datetime.datetime.now, _CLOCK))
    utcnow = staticmethod(_refuser("datetime.utcnow", datetime.datetime.utcnow, _CLOCK))
    today = staticmethod(_refuser("datetime.today", datetime.datetime.today, _CLOCK))


class _Date(metaclass=_DateKind):
    real = datetime.date
    today = staticmethod(_refuser("date.today", datetime.date.today, _CLOCK))


class _DatetimeModule:
    datetime = _Datetime
    date = _Date

    def __getattr__(self, name: str) -> Any:
        return getattr(datetime, name)


_DATES: Final = (
    (datetime.datetime, _Datetime),
    (datetime.date, _Date),
    (datetime, _DatetimeModule()),
)
