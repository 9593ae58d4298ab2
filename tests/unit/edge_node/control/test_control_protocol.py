"""What is said on the control socket: frames cut anywhere come out whole, bad ones raise one thing."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    Result,
    Run,
    Submit,
    failure_for,
)
from security.errors import BadInput, ProtocolViolation, Refused, Unavailable

REQUESTS = [
    Submit(1, "a.b", b"in", "local", 100, 2000, 3),
    Run(2, "a.b", b""),
    Result(3, "t1", 500),
    Cancel(4, "t1"),
    Call(5, "status", b"\x80"),
]
RESPONSES = [
    Accepted(1, "t1"),
    Outcome(
        2, "t1", "done", b"out", b"", b"log", "pi-1", [Attempt("pi-1", 42, 1, 2, "done")], "a.b", "pi-2", 3, 4
    ),
    Pending(3, "t1", "queued"),
    Cancelled(4, "t1", True),
    Answer(5, b"\xc0"),
    Failure(6, "refused", "outbox full", "wait", {"a": "b"}),
]


def bodies(data: bytes) -> list[bytes]:
    return FrameReader().feed(data)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: type(r).__name__)
def test_a_request_comes_back_as_it_was_sent(request_):
    assert [protocol.decode_request(body) for body in bodies(protocol.encode(request_))] == [request_]


@pytest.mark.parametrize("response", RESPONSES, ids=lambda r: type(r).__name__)
def test_a_response_comes_back_as_it_was_sent(response):
    assert [protocol.decode_response(body) for body in bodies(protocol.encode(response))] == [response]


def test_tags_never_change():
    """Programs and daemons of two versions meet on one machine: a number keeps its meaning."""
    kinds = {kind.__name__: kind.__struct_config__.tag for kind in map(type, [*REQUESTS, *RESPONSES])}

    assert kinds == {
        "Submit": 1,
        "Run": 2,
        "Result": 3,
        "Cancel": 4,
        "Call": 5,
        "Accepted": 11,
        "Outcome": 12,
        "Pending": 13,
        "Cancelled": 14,
        "Answer": 15,
        "Failure": 16,
    }


@given(st.lists(st.binary(max_size=300), max_size=12), st.data())
def test_frames_survive_any_cut(payloads, data):
    """However the stream is cut into reads, the same frames come out, in order."""
    stream = b"".join(struct.pack(">I", len(each)) + each for each in payloads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    reader, out = FrameReader(), []

    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        out += reader.feed(stream[start:end])

    assert out == payloads


@given(st.binary(max_size=200))
def test_random_bytes_raise_only_protocol_violations(data):
    for decode in (protocol.decode_request, protocol.decode_response, protocol.unpack):
        try:
            decode(data)
        except ProtocolViolation:
            pass


def test_deep_nesting_is_a_protocol_violation():
    with pytest.raises(ProtocolViolation):
        protocol.unpack(b"\x91" * 100_000 + b"\xc0")


def test_a_frame_that_announces_too_much_is_refused_before_it_is_collected():
    with pytest.raises(ProtocolViolation, match="at most 16777216"):
        FrameReader().feed(struct.pack(">I", protocol.FRAME_BYTES_MAX + 1))


def test_a_message_larger_than_a_frame_is_the_callers_fault():
    with pytest.raises(BadInput, match="split the input"):
        protocol.encode(Run(1, "a.b", bytes(protocol.FRAME_BYTES_MAX)))


def test_values_that_are_not_plain_are_the_callers_fault():
    with pytest.raises(BadInput, match="not plain data"):
        protocol.pack({"a": object()})


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (BadInput("no such\nfunction", fix="try x"), Failure(7, "bad_input", "no such function", "try x")),
        (Refused("outbox full"), Failure(7, "refused", "outbox full")),
        (
            Unavailable("broker down", retry_after_s=2.5),
            Failure(7, "unavailable", "broker down", "", {"retry_after_s": "2.5"}),
        ),
        (ProtocolViolation("odd"), Failure(7, "unavailable", "odd")),
    ],
)
def test_an_error_becomes_a_failure_of_its_class(error, failure):
    assert failure_for(7, error) == failure


def test_our_own_mistake_is_told_without_its_story():
    failure = failure_for(7, KeyError("secret"))

    assert failure.code == "internal"
    assert "secret" not in failure.message + failure.fix
