"""One attempt at a task, as a runtime sees it: what goes in, what comes out, what went wrong.

``Invocation`` in, ``Completion`` out; ``TaskError`` is the failure as data, so that a traceback can reach
the caller on another machine. Structs rather than dataclasses because this is the hot path (0.2 µs each).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from security.errors import ProtocolViolation

Status = Literal["done", "failed", "cancelled"]
Kind = Literal["raised", "timeout", "memory", "exit", "output", "bundle", "import", "arguments"]


class TaskError(msgspec.Struct, frozen=True):
    """Why a run failed.

    kind: raised (the function raised), timeout, memory, exit (it or its worker ended), output (result too
    large or of a type that cannot travel), bundle (missing or changed code), import (its file or a module
    it requires does not import), arguments (they do not decode or do not fit).
    """

    kind: Kind
    type: str = ""  # exception class or signal name
    message: str = ""
    traceback: str = ""

    def encode(self) -> bytes:
        return _encode(self)

    @classmethod
    def decode(cls, data: bytes) -> TaskError:
        """Raises: ProtocolViolation: not an encoded TaskError."""
        try:
            return _decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise ProtocolViolation(f"task error does not decode: {error}") from None

    def one_line(self) -> str:
        """For people: ``ZeroDivisionError: division by zero``."""
        first = self.message.splitlines()[0] if self.message else ""
        return f"{self.type}: {first}" if self.type and first else self.type or first or self.kind


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(TaskError).decode


class Invocation(msgspec.Struct, frozen=True, gc=False):
    """Please run ``function`` (``stem.name``) of this bundle on this input (``values.encode_call``)."""

    task: str
    attempt: int
    function: str
    digest: bytes  # SHA-256 of the bundle
    bundle_path: str  # file that holds the bundle; the worker verifies it again
    input: bytes
    timeout_s: float = 30.0
    memory_mb: int = 256
    output_bytes_max: int = 8 * 1024 * 1024
    expected_s: float | None = None  # service time by estimate; short ones may share a worker's pipe
    trace: str = ""  # the run's own: what the function finds as TRACEPARENT and TRACESTATE


class Completion(msgspec.Struct, frozen=True, gc=False):
    """How an attempt ended. Exactly one for every Invocation given to a runtime that keeps running.

    worker_died: its worker process ended by itself while running it (what a poison count wants); False
    when the runtime killed the worker on purpose (timeout, memory, cancel).
    """

    task: str
    attempt: int
    status: Status
    output: bytes = b""
    error: TaskError | None = None
    log: bytes = b""  # what it printed, <= 64 KiB
    pid: int = 0  # 0: it never reached a worker
    started_at_ms: int = 0  # wall clock, for people
    ended_at_ms: int = 0
    cpu_us: int = 0
    run_us: int = 0
    worker_died: bool = False
