"""Readers of one process share what opening a frame gave, and nobody else profits from it."""

import pytest

from device_sim.virtual import readings
from device_sim.virtual.readings import Readings
from edge_node.wire import messages
from edge_node.wire.codec import encode_message, pack
from security.envelope import Opener, Sealer
from security.errors import ProtocolViolation

KEY, IV, KID, CONTEXT = b"k" * 32, b"i" * 12, b"n" * 8, b"to all"


def test_a_parcel_opens_once_for_all_readers_with_the_same_key() -> None:
    reading = Readings().reading
    parcel = Sealer(KEY, IV, KID, CONTEXT).seal(7, b"hello")
    first = reading.opener(KEY, IV, KID, CONTEXT)
    second = reading.opener(bytes(bytearray(KEY)), IV, KID, CONTEXT)
    opened = first.open(parcel)
    assert opened == Opener(KEY, IV, KID, CONTEXT).open(parcel) == (7, b"hello")
    assert second.open(bytes(bytearray(parcel))) is opened


@pytest.mark.parametrize(
    "other",
    [
        (b"x" * 32, IV, KID, CONTEXT),
        (KEY, b"x" * 12, KID, CONTEXT),
        (KEY, IV, b"x" * 8, CONTEXT),
        (KEY, IV, KID, b"x"),
    ],
    ids=["key", "iv", "kid", "context"],
)
def test_what_others_opened_helps_nobody_who_lacks_the_secret(
    other: tuple[bytes, bytes, bytes, bytes],
) -> None:
    reading = Readings().reading
    parcel = Sealer(KEY, IV, KID, CONTEXT).seal(7, b"hello")
    reading.opener(KEY, IV, KID, CONTEXT).open(parcel)
    with pytest.raises(ProtocolViolation):
        reading.opener(*other).open(parcel)


def test_a_forged_parcel_is_refused_each_time_and_leaves_the_last_good_one() -> None:
    reading = Readings().reading
    parcel = Sealer(KEY, IV, KID, CONTEXT).seal(7, b"hello")
    opener = reading.opener(KEY, IV, KID, CONTEXT)
    forged = parcel[:-1] + bytes([parcel[-1] ^ 1])
    for bad in (forged, b"", forged):
        with pytest.raises(ProtocolViolation):
            opener.open(bad)
    opened = opener.open(parcel)
    for bad in (forged, b""):
        with pytest.raises(ProtocolViolation):
            opener.open(bad)
    assert opener.open(parcel) is opened == (7, b"hello")


def test_a_plaintext_is_decoded_once_and_a_bad_one_refused_each_time() -> None:
    reading = Readings().reading
    plain = pack(1, [(0, encode_message(messages.Ping(5)))])
    read = reading.unpack(plain)
    assert read == (1, [(0, messages.Ping(5))])
    assert reading.unpack(bytes(bytearray(plain))) is read
    for _ in range(2):
        with pytest.raises(ProtocolViolation):
            reading.unpack(b"\xc1")


def test_readings_forget_when_they_are_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "OPENERS_MAX", 4)
    monkeypatch.setattr(readings, "PLAINS_MAX", 4)
    those = Readings()
    for n in range(50):
        those.reading.opener(KEY, IV, n.to_bytes(8, "big"), CONTEXT)
        those.reading.unpack(pack(1, [(0, encode_message(messages.Ping(n)))]))
        assert len(those._openers) <= 4 and len(those._plains) <= 4
