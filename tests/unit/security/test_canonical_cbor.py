import cbor2
import pytest

from security.canonical import decode, encode, encode_bytes
from security.errors import ProtocolViolation


def test_what_cbor2_writes_is_read_back():
    value = {"a": [1, -1, 2**64 - 1, b"\x00", "é", None, True, False], "bb": {}, 1: {b"k": []}}

    assert decode(encode(value)) == value


@pytest.mark.parametrize(
    "spelling",
    [
        "1800",  # 0 in two bytes
        "190001",  # 1 in three
        "5f4100ff",  # endless string
        "9f01ff",  # endless list
        "c101",  # a tag: time
        "d8236161",  # a tag: regular expression
        "c24101",  # a tag: big number
        "f90000",  # half float
        "fb0000000000000000",
        "f7",  # undefined
        "a2016161016162",  # one key twice
        "a2026161016162",  # keys out of order
        "a1f401",  # a key that is no number, bytes or text
        "61ff",  # not UTF-8
        "820102ff",  # bytes after the end
        "8201",  # truncated
        "9b00ffffffffffffff",  # a length that lies
        "5bffffffffffffffff00",
        "",
        "1c",
        "81" * 400 + "00",  # deep
    ],
)
def test_any_other_spelling_is_refused(spelling):
    with pytest.raises(ProtocolViolation):
        decode(bytes.fromhex(spelling))


def test_key_order_is_cbor2_canonical_order():
    value = {"bb": 1, "a": 2, 300: 3, 5: 4, b"x": 5}

    assert decode(cbor2.dumps(value, canonical=True)) == value
    assert list(decode(encode(value))) == [5, b"x", "a", 300, "bb"]


@pytest.mark.parametrize("length", [0, 1, 23, 24, 255, 256, 65_535, 65_536, 2**17])
def test_a_byte_string_is_spelt_as_by_the_encoder(length):
    assert encode_bytes(bytes(length)) == encode(bytes(length))
