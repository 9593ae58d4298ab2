"""Control frames: one form for each."""

from __future__ import annotations

import cbor2
import pytest

from security.control import (
    FRAME_BYTES_MAX,
    M1,
    ROSTER,
    Control,
    decode_control,
    decode_payload,
    encode_payload,
)
from security.errors import BadInput, ProtocolViolation

FRAME = Control(M1, b"attempt!", 300, b"senderkh", b"receivkh", b"noise message")


def test_the_frame_is_what_a_cbor_library_writes():
    fields = [
        FRAME.kind,
        FRAME.attempt,
        FRAME.roster_version,
        FRAME.sender_hash,
        FRAME.receiver_hash,
        FRAME.body,
    ]

    assert FRAME.encode() == cbor2.dumps(fields)
    assert encode_payload(b"boot id!", 1_790_000_000_000, b"the kid!") == cbor2.dumps(
        [b"boot id!", 1_790_000_000_000, b"the kid!"]
    )


@pytest.mark.parametrize(
    "fields",
    [
        [0, b"attempt!", 1, b"senderkh", b"receivkh", b""],
        [6, b"attempt!", 1, b"senderkh", b"receivkh", b""],
        [-1, b"attempt!", 1, b"senderkh", b"receivkh", b""],
        ["1", b"attempt!", 1, b"senderkh", b"receivkh", b""],
        [1, b"attempt", 1, b"senderkh", b"receivkh", b""],
        [1, b"attempt!", -1, b"senderkh", b"receivkh", b""],
        [1, b"attempt!", 1.0, b"senderkh", b"receivkh", b""],
        [1, b"attempt!", 2**64, b"senderkh", b"receivkh", b""],
        [1, b"attempt!", 1, b"senderkh1", b"receivkh", b""],
        [1, b"attempt!", 1, b"senderkh", "receivkh", b""],
        [1, b"attempt!", 1, b"senderkh", b"receivkh", None],
        [1, b"attempt!", 1, b"senderkh", b"receivkh", [b""]],
    ],
)
def test_other_fields_are_refused(fields):
    with pytest.raises(ProtocolViolation):
        decode_control(cbor2.dumps(fields))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("86 01", "86 1801"),
        ("86 01", "9f 01"),
        ("86 01", "85 01"),
        ("48" + b"attempt!".hex(), "5808" + b"attempt!".hex()),
        ("19012c", "1a0000012c"),
        ("19012c", "1f"),
        ("4d", "580d"),
    ],
)
def test_other_forms_of_the_same_fields_are_refused(old, new):
    old, new = bytes.fromhex(old), bytes.fromhex(new)
    data = FRAME.encode()

    assert data.count(old) == 1
    with pytest.raises(ProtocolViolation):
        decode_control(data.replace(old, new))


def test_cut_short_and_left_over_bytes_are_refused():
    data = FRAME.encode()

    for end in range(len(data)):
        with pytest.raises(ProtocolViolation):
            decode_control(data[:end])
    with pytest.raises(ProtocolViolation):
        decode_control(data + b"\0")
    with pytest.raises(ProtocolViolation):
        decode_payload(encode_payload(bytes(8), 0, bytes(8)) + b"\0")


def test_only_a_roster_may_be_long():
    overhead = len(Control(M1, bytes(8), 1, bytes(8), bytes(8), bytes(24)).encode()) - 24
    longest = Control(M1, bytes(8), 1, bytes(8), bytes(8), bytes(FRAME_BYTES_MAX - overhead))
    too_long = Control(M1, bytes(8), 1, bytes(8), bytes(8), bytes(FRAME_BYTES_MAX - overhead + 1))
    roster = Control(ROSTER, bytes(8), 1, bytes(8), bytes(8), bytes(150_000))

    assert len(longest.encode()) == FRAME_BYTES_MAX
    assert decode_control(longest.encode()) == longest
    with pytest.raises(BadInput):
        too_long.encode()
    with pytest.raises(ProtocolViolation, match="too large"):
        decode_control(cbor2.dumps([1, bytes(8), 1, bytes(8), bytes(8), too_long.body]))
    assert decode_control(roster.encode()) == roster
    with pytest.raises(BadInput):
        Control(ROSTER, bytes(8), 1, bytes(8), bytes(8), bytes(256 * 1024)).encode()
    with pytest.raises(ProtocolViolation, match="too large"):
        decode_control(cbor2.dumps([5, bytes(8), 1, bytes(8), bytes(8), bytes(256 * 1024)]))
