"""Values: what travels comes back equal; what cannot is named; bytes that are no value raise one type."""

from __future__ import annotations

import collections
import enum
import math
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from edge_node.functions.values import decode, decode_call, encode, encode_call
from security.errors import BadInput, ProtocolViolation

np = pytest.importorskip("numpy")


class Colour(enum.IntEnum):
    RED = 3


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -1,
        2**63,
        2**64 - 1,
        2**64,
        -(2**63) - 1,
        2**500,
        -(2**500),
        1.5,
        -0.0,
        math.inf,
        "",
        "grüße",
        b"",
        b"\x00\xff",
        [],
        {},
        [[], [{}]],
        {"a": [1, {"b": None}]},
        {1: "a", None: 2, False: b"x"},
        [2**70, {"deep": [-(2**70)]}],
        datetime(2020, 2, 29, 1, 2, 3, 4),
        datetime(2020, 2, 29, tzinfo=UTC),
        datetime(2020, 1, 1, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
        {"when": [datetime(1, 1, 1)]},
    ],
)
def test_a_value_comes_back_equal_and_of_its_type(value):
    back = decode(encode(value))

    assert back == value and type(back) is type(value)


def test_nan_stays_nan():
    assert math.isnan(decode(encode([math.nan]))[0])


def test_an_aware_datetime_keeps_its_offset():
    when = datetime(2022, 3, 20, 11, tzinfo=timezone(timedelta(hours=1)))

    assert decode(encode(when)).utcoffset() == timedelta(hours=1)


@pytest.mark.parametrize(
    ("value", "back"),
    [
        ((1, (2,)), [1, [2]]),
        (Colour.RED, 3),
        ({"c": Colour.RED}, {"c": 3}),
        (bytearray(b"x"), b"x"),
        ([memoryview(b"x")], [b"x"]),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.deque, None),
        ([np.float64(1.5), np.int32(2), np.bool_(True)], [1.5, 2, True]),
    ],
)
def test_relatives_travel_as_what_they_are_underneath(value, back):
    if back is None:
        with pytest.raises(BadInput):
            encode(value)
        return
    assert decode(encode(value)) == back


@pytest.mark.parametrize("dtype", ["f8", "f4", "i2", "u1", "?", ">i4", "c16", "U5", "S3", "M8[ms]", "m8[s]"])
def test_arrays_keep_dtype_shape_and_content(dtype):
    array = np.zeros((2, 3), dtype)
    array[1, 2] = np.ones((), dtype)[()]
    back = decode(encode({"a": [array]}))["a"][0]

    assert back.dtype == array.dtype and back.shape == (2, 3)
    assert (back == array).all()
    back[0, 0] = back[1, 2]  # it may be written to


@pytest.mark.parametrize("array", [np.full((), 3.0), np.zeros((0, 4)), np.arange(12.0).reshape(3, 4).T])
def test_odd_shapes_travel_too(array):
    back = decode(encode(array))

    assert back.shape == array.shape and (back == array).all()


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({1, 2}, "a set cannot travel"),
        ([1, {"a": [{"b": {1}}]}], "at [1]['a'][0]['b']"),
        ({(1, 2): 3}, "a dict key"),
        (object(), "a object"),
        (np.array([object()]), "dtype object"),
        (np.zeros(1, [("x", "f8")]), "a numpy array of dtype"),
        ("\ud800", "surrogate"),
        (["\ud800", 2**70], "surrogate"),
        ({2**70: 1, "x": 2**70}, "dict key"),
        (1 + 2j, "a complex"),
    ],
)
def test_what_cannot_travel_is_named(value, named):
    with pytest.raises(BadInput, match="cannot travel") as caught:
        encode(value)

    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_value_that_holds_itself_is_refused():
    loop: list = []
    loop.append(loop)

    with pytest.raises(BadInput, match="nested deeper"):
        encode(loop)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x91" * 100_000,
        b"\x81\xa1a" * 50_000,
        b"\xa1\xff",
        b"\xd4\x09\x00",
        b"\x01\x01",
        b"\xdd\xff\xff\xff\xff",
        b"\xc7\x03\x02abc",
        b"\x81\x81\x01\x01\x01",
        encode(np.zeros(4))[:-1],
    ],
)
def test_bytes_that_are_no_value_raise_one_type(data):
    with pytest.raises(ProtocolViolation):
        decode(data)


@pytest.mark.parametrize(
    "packed",
    [
        ["O", [1], b"\x00" * 8],
        ["<f8", [3], b"\x00" * 8],
        ["<f8", [-1], b""],
        ["<f8", [2**39, 2**39, 0], b"x"],
        ["|V8", [1], b"\x00" * 8],
        ["<f9", [1], b"\x00" * 9],
        ["<f8", [1] * 40, b"\x00" * 8],
        ["<f8", "x", b""],
        [],
        ["<U999999999", [2**30], b""],
        3,
    ],
)
def test_forged_arrays_are_refused(packed):
    data = msgspec.msgpack.encode(msgspec.msgpack.Ext(3, msgspec.msgpack.encode(packed)))

    with pytest.raises(ProtocolViolation):
        decode(data)


def test_a_call_is_a_list_and_a_dict():
    assert decode_call(encode_call((1, [2]), {"x": None})) == ([1, [2]], {"x": None})


@pytest.mark.parametrize("value", [None, [], [[]], [[], []], [{}, {}], [[], {1: 2}], [[], {}, 3]])
def test_other_shapes_are_no_call(value):
    with pytest.raises(ProtocolViolation):
        decode_call(encode(value))


def test_numpy_is_not_imported_for_values_without_arrays():
    code = "import sys; from edge_node.functions.values import *; decode(encode([1, {'a': 2.0}])); "
    code += "assert 'numpy' not in sys.modules"

    subprocess.run([sys.executable, "-c", code], check=True)
