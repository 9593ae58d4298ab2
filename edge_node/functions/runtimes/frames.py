"""What pool and worker say to each other over their socket pair: length (4 bytes, big endian), MessagePack.

The pool may write many ``Run`` frames at once; the worker runs them in order and answers each with ``Done``
before it starts the next, so that only the first unanswered one can be to blame. A worker runs other
people's code: whatever it sends is bounded and decoded by type.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import msgspec

HEAD_BYTES = 4
MARK = struct.Struct(
    "=Q"
)  # in shared memory: the number of the run that the worker has begun, 0 before the first


class Run(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Pool → worker."""

    number: int
    function: str
    digest: bytes
    bundle_path: str
    input: bytes
    memory_mb: int
    output_bytes_max: int
    trace: str = ""


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=1, tag_field="t"):
    """The worker's loop runs; ``pid`` as it sees itself."""

    pid: int


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag=2, tag_field="t"):
    """The bundle that this run needs was imported just now: its time starts here."""

    number: int


class Printed(msgspec.Struct, frozen=True, array_like=True, tag=3, tag_field="t"):
    """Lines printed so far; sent at once so that they survive a crash or a kill."""

    number: int
    data: bytes


class Done(msgspec.Struct, frozen=True, array_like=True, tag=4, tag_field="t", gc=False):
    number: int
    output: bytes
    error: bytes  # encoded TaskError; empty: it went well
    log: bytes  # what was not yet told by Printed
    started_at_ms: int
    ended_at_ms: int
    cpu_us: int
    run_us: int


FromWorker = Ready | Loaded | Printed | Done

_pack = msgspec.msgpack.Encoder().encode
_T = TypeVar("_T")


def pack(frame: msgspec.Struct) -> bytes:
    body = _pack(frame)
    return len(body).to_bytes(HEAD_BYTES, "big") + body


class FrameReader(Generic[_T]):
    """Bytes in, frames out."""

    def __init__(self, decode: Callable[[memoryview], _T], bytes_max: int) -> None:
        self._decode = decode
        self._bytes_max = bytes_max
        self._pending = bytearray()

    def feed(self, data: bytes | memoryview) -> Iterator[_T]:
        """Raises (while iterating): ValueError: too long or not a frame; the stream is lost then."""
        if self._pending:
            self._pending += data
            if len(self._pending) < HEAD_BYTES:
                return
            if len(self._pending) < HEAD_BYTES + int.from_bytes(self._pending[:HEAD_BYTES], "big"):
                self._bounded(int.from_bytes(self._pending[:HEAD_BYTES], "big"))
                return
            data, self._pending = bytes(self._pending), bytearray()
        view, at, end = memoryview(data), 0, len(data)
        while end - at >= HEAD_BYTES:
            length = int.from_bytes(view[at : at + HEAD_BYTES], "big")
            self._bounded(length)
            if end - at - HEAD_BYTES < length:
                break
            at += HEAD_BYTES + length
            yield self._decode(view[at - length : at])
        if at < end:
            self._pending += view[at:]

    def _bounded(self, length: int) -> None:
        if length > self._bytes_max:
            raise ValueError(f"frame of {length} bytes")


decode_run = msgspec.msgpack.Decoder(Run).decode
decode_from_worker = msgspec.msgpack.Decoder(FromWorker).decode
