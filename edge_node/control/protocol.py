"""What is said on the control socket, and how it is framed.

A frame is a 4-byte big-endian length and that many bytes of MessagePack: one array-shaped Struct with
an integer tag (append-only). Every request carries an ``id`` that its one response repeats; requests
are pipelined, many frames a write, and answered in any order. In: bytes from the stream. Out: messages.
Not here: sockets (``server``, ``edge_node.client``), nor what the requests do (the agent, as ``Backend``).

    submit ──► Accepted (on disk) │ Failure          result ──► Outcome │ Pending │ Failure
    run ─────► Outcome (settled)  │ Failure          cancel ──► Cancelled │ Failure
    call ────► Answer │ Failure                      administrative methods, by name

Methods of ``Call``; params and answer are values of plain MessagePack (dicts, lists, text, bytes):

    status {}                                   functions {}                  tasks {limit, state}
    nodes {}      roster {}                     invite {ttl_s, approval, name} -> {code, expires_at_ms, …}
    invites {}    withdraw {id}
    approve {node}                              deploy {source: bytes, stem, only_if_new}
    rollback {name}                             -> {functions: [{name, version, digest, new}]}
    history {name}                              leave {}

A frame is at most 16 MiB, so that a program cannot make its daemon hold more for one request.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from security.errors import BadInput, EdgeweaveError, ProtocolViolation, Refused, Unavailable

FRAME_BYTES_MAX: Final = 16 * 1024 * 1024
OUTSTANDING_MAX: Final = 4096  # requests of one connection; a program that wants more waits for answers
WAIT_MS_MAX: Final = 60_000  # one Result request waits at most this long; the client asks again

# Failure.code, a closed set; the command line turns it into its exit code.
BAD_INPUT: Final = "bad_input"
UNAVAILABLE: Final = "unavailable"
REFUSED: Final = "refused"
NOT_FOUND: Final = "not_found"  # no such task or method here; a kind of bad input
INTERNAL: Final = "internal"  # our own mistake; its story is in the daemon's log

# Outcome.status, a closed set: the terminal records of a task.
DONE: Final = "done"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
EXPIRED: Final = "expired"
QUARANTINED: Final = "quarantined"


class Frame(msgspec.Struct, frozen=True, array_like=True, tag_field="t"):
    """Base of all that is said; ``id`` pairs a response with its request within one connection."""

    id: int


class Submit(Frame, frozen=True, array_like=True, tag=1):
    """Take this task; answered by Accepted once it is on disk."""

    function: str
    input: bytes  # edge_node.functions.values.encode_call(args, kwargs)
    where: str = "any"  # "any" | "local" | "gateway" | a node id
    deadline_ms: int | None = None  # from acceptance; missing it ends the task as expired
    ttl_ms: int | None = None  # how long the task is kept trying; None: the daemon's setting
    priority: int = 0  # higher first
    labels: dict[str, str] = {}  # that a place must bear, beside those the function asks for
    traceparent: str = ""  # of the caller's span, as W3C Trace Context writes it; empty: none
    tracestate: str = ""


class Run(Frame, frozen=True, array_like=True, tag=2):
    """The same, answered by Outcome once the task is settled. Goes on if the connection is lost."""

    function: str
    input: bytes
    where: str = "any"
    deadline_ms: int | None = None
    ttl_ms: int | None = None
    priority: int = 0
    labels: dict[str, str] = {}
    traceparent: str = ""
    tracestate: str = ""


class Result(Frame, frozen=True, array_like=True, tag=3):
    """How did this task end? Answered at once, or when it settles, or as Pending after ``wait_ms``."""

    task: str
    wait_ms: int = 0  # <= WAIT_MS_MAX


class Cancel(Frame, frozen=True, array_like=True, tag=4):
    task: str


class Call(Frame, frozen=True, array_like=True, tag=5):
    """An administrative method, by name."""

    method: str
    params: bytes  # MessagePack


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """One execution of a task, successful or not. Wall times are the worker's, for people."""

    node: str
    pid: int = 0
    started_at_ms: int = 0
    ended_at_ms: int = 0
    status: str = ""


class Accepted(Frame, frozen=True, array_like=True, tag=11):
    task: str


class Outcome(Frame, frozen=True, array_like=True, tag=12):
    """The one terminal record of a task."""

    task: str
    status: str  # "done" | "failed" | "cancelled" | "expired" | "quarantined"
    output: bytes = b""  # encoded value when done
    error: bytes = b""  # encoded TaskError when failed, else empty
    log: bytes = b""  # what the function printed, <= 64 KiB
    place: str = ""  # where it ended: "local" or a node id
    attempts: list[Attempt] = []
    function: str = ""
    origin: str = ""  # the node that accepted it
    accepted_at_ms: int = 0
    settled_at_ms: int = 0
    reason: str = ""  # for people: why it expired, was cancelled or quarantined


class Pending(Frame, frozen=True, array_like=True, tag=13):
    """Not settled yet."""

    task: str
    state: str  # "queued" | "running" | …: for people


class Cancelled(Frame, frozen=True, array_like=True, tag=14):
    """The cancellation is on its way (True), or the task had been settled before (False)."""

    task: str
    taken: bool


class Answer(Frame, frozen=True, array_like=True, tag=15):
    result: bytes  # MessagePack


class Failure(Frame, frozen=True, array_like=True, tag=16):
    code: str
    message: str  # the cause, one line
    fix: str = ""
    extra: dict[str, str] = {}


Request = Submit | Run | Result | Cancel | Call
Response = Accepted | Outcome | Pending | Cancelled | Answer | Failure

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_responses: msgspec.msgpack.Decoder[Response] = msgspec.msgpack.Decoder(Response)
_HEAD = struct.Struct(">I")
# What a decoder may raise on bytes it does not like: one door for all of them.
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError, ValueError)


def encode(message: Request | Response) -> bytes:
    """One frame.

    Raises: BadInput: the message is larger than a frame may be.
    """
    body = _encoder.encode(message)
    if len(body) > FRAME_BYTES_MAX:
        raise BadInput(
            f"a message of {len(body)} bytes is larger than the control socket takes ({FRAME_BYTES_MAX})",
            fix="split the input into smaller windows",
        )
    return _HEAD.pack(len(body)) + body


def decode_request(body: bytes | memoryview) -> Request:
    """Raises: ProtocolViolation."""
    try:
        return _requests.decode(body)
    except _UNDECODABLE as error:
        raise ProtocolViolation(f"not a control request: {error}") from None


def decode_response(body: bytes | memoryview) -> Response:
    """Raises: ProtocolViolation."""
    try:
        return _responses.decode(body)
    except _UNDECODABLE as error:
        raise ProtocolViolation(f"not a control response: {error}") from None


def pack(value: object) -> bytes:
    """Parameters and answers of administrative methods.

    Raises: BadInput: not plain data.
    """
    try:
        return _encoder.encode(value)
    except (TypeError, OverflowError, RecursionError, ValueError) as error:
        raise BadInput(f"not plain data: {error}") from None


def unpack(data: bytes) -> object:
    """Raises: ProtocolViolation."""
    try:
        return msgspec.msgpack.decode(data)
    except _UNDECODABLE as error:
        raise ProtocolViolation(f"not MessagePack: {error}") from None


class FrameReader:
    """Cuts a byte stream into frame bodies. A frame that is cut by a read is copied once more, no other."""

    __slots__ = ("_need", "_tail")

    def __init__(self) -> None:
        self._tail = bytearray()  # the beginning of a frame whose end has not come yet
        self._need = 0  # bytes that the tail must have before it is worth looking again

    def feed(self, data: bytes) -> list[bytes]:
        """Every frame body that *data* completes, in order.

        Raises: ProtocolViolation: a frame announces more than 16 MiB; the stream is unusable from here.
        """
        if self._tail:
            self._tail += data
            if len(self._tail) < self._need:
                return []
            data = bytes(self._tail)
            self._tail = bytearray()
        bodies: list[bytes] = []
        at, end = 0, len(data)
        while end - at >= 4:
            (size,) = _HEAD.unpack_from(data, at)
            if size > FRAME_BYTES_MAX:
                raise ProtocolViolation(f"a frame of {size} bytes announced; at most {FRAME_BYTES_MAX}")
            if end - at - 4 < size:
                self._need = 4 + size
                break
            bodies.append(data[at + 4 : at + 4 + size])
            at += 4 + size
        else:
            self._need = 4
        if at < end:
            self._tail += data[at:]
        return bodies


def failure_for(request_id: int, error: BaseException) -> Failure:
    """An error as it is told to the program at the other end: never a traceback."""
    match error:
        case BadInput():
            return Failure(request_id, BAD_INPUT, _one_line(error.cause), error.fix)
        case Refused():
            return Failure(request_id, REFUSED, _one_line(error.cause), error.fix)
        case Unavailable():
            extra = {"retry_after_s": f"{error.retry_after_s:g}"}
            return Failure(request_id, UNAVAILABLE, _one_line(error.cause), error.fix, extra)
        case EdgeweaveError():
            return Failure(request_id, UNAVAILABLE, _one_line(error.cause), error.fix)
        case _:
            return Failure(
                request_id,
                INTERNAL,
                f"the daemon made a mistake ({type(error).__name__})",
                "see the log in <home>/log/",
            )


def _one_line(text: str) -> str:
    return " ".join(text.split())
