"""Whatever arrives, only ProtocolViolation leaves: parcels and control frames."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from security.control import Control, decode_control, decode_payload, encode_payload
from security.envelope import SEQ_LIMIT, Opener, Sealer, peek_kid
from security.errors import ProtocolViolation

KEY, IV, KID = bytes(range(32)), bytes(12), b"kid of 8"
HEAD = bytes.fromhex("d083 44a1011818 a20448")
OPENER = Opener(KEY, IV, KID, b"context")
SEED = 20261122

half_right = st.builds(
    lambda cut, tail: (HEAD + KID + b"\x06\x41\x07\x58\x20")[:cut] + tail,
    st.integers(0, 23),
    st.binary(max_size=80),
)


def survives(data: bytes) -> None:
    for door in (OPENER.open, peek_kid, decode_control, decode_payload):
        try:
            door(data)
        except ProtocolViolation:
            continue
        assert door is not OPENER.open, "random bytes were authentic"


@given(st.one_of(st.binary(max_size=300), half_right))
def test_random_bytes_raise_only_protocol_violation(data):
    survives(data)


@given(st.integers(1, SEQ_LIMIT - 1), st.binary(max_size=400), st.binary(max_size=60))
def test_seal_and_open_invert_each_other(seq, plain, context):
    assert Opener(KEY, IV, KID, context).open(Sealer(KEY, IV, KID, context).seal(seq, plain)) == (seq, plain)


@given(st.binary(max_size=200), st.integers(1, SEQ_LIMIT - 1), st.data())
def test_a_changed_parcel_never_opens(plain, seq, data):
    """Bytes replaced, cut out or put in, anywhere."""
    parcel = Sealer(KEY, IV, KID, b"context").seal(seq, plain)
    start = data.draw(st.integers(0, len(parcel)))
    end = data.draw(st.integers(start, min(len(parcel), start + 8)))
    forged = parcel[:start] + data.draw(st.binary(max_size=8)) + parcel[end:]

    if forged != parcel:
        with pytest.raises(ProtocolViolation):
            OPENER.open(forged)


numbers = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))
eight = st.binary(min_size=8, max_size=8)


@given(st.builds(Control, st.integers(1, 5), eight, numbers, eight, eight, st.binary(max_size=200)))
def test_control_frames_invert(frame):
    assert decode_control(frame.encode()) == frame


@given(eight, numbers, eight)
def test_handshake_payloads_invert(boot_id, wall_ms, kid):
    assert decode_payload(encode_payload(boot_id, wall_ms, kid)) == (boot_id, wall_ms, kid)


@given(st.builds(Control, st.integers(1, 5), eight, numbers, eight, eight, st.binary(max_size=99)), st.data())
def test_a_control_frame_has_one_form(frame, data):
    """Whatever decodes is exactly what encoding gives again."""
    encoded = bytearray(frame.encode())
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] = data.draw(st.integers(0, 255))
    try:
        again = decode_control(bytes(encoded))
    except ProtocolViolation:
        return
    assert again.encode() == bytes(encoded)


@pytest.mark.slow
def test_twenty_thousand_mangled_inputs_raise_only_protocol_violation():
    rng = random.Random(SEED)
    sealer = Sealer(KEY, IV, KID, b"context")
    good = [sealer.seal(rng.randrange(1, SEQ_LIMIT), rng.randbytes(n)) for n in (0, 5, 8, 200, 240, 300)]
    good += [
        Control(k, bytes(8), 2**n, bytes(8), bytes(8), rng.randbytes(9 * k)).encode()
        for k in (1, 2, 3, 4, 5)
        for n in (2, 9, 33)
    ]
    for _ in range(20_000):
        data = bytearray(rng.choice(good))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data) + 1)
            match rng.randrange(4):
                case 0:
                    data[at:at] = rng.randbytes(rng.randint(1, 5))
                case 1:
                    del data[at : at + rng.randint(1, 9)]
                case 2:
                    data[at : at + 1] = rng.randbytes(1)
                case _:
                    data = bytearray(rng.randbytes(rng.randint(0, 64)))
        if bytes(data) not in good:
            survives(bytes(data))
