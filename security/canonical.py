"""One spelling for every signed or authenticated structure: deterministic CBOR, read strictly.

In: plain values of None, bool, int, bytes, str, list, dict. Out: bytes, and back. ``cbor2`` writes; reading
is done here, because a general decoder accepts what we never send (tags that build regular
expressions or fractions, endless strings, doubled keys, several spellings of one number), and a
thing with two spellings has two digests. ``decode(encode(x)) == x`` and ``encode(decode(b)) == b``.

Not here: what the values mean. A reader checks shapes with the ``a_…`` functions, which raise
``ProtocolViolation`` naming the field.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import cbor2

from security.errors import ProtocolViolation

T = TypeVar("T")

DEPTH_MAX = 8  # our deepest structure, a roster, has 5; stops stack exhaustion by nested arrays
_INT_MAX = 2**64 - 1


def encode(value: object) -> bytes:
    """Deterministic CBOR (RFC 8949 4.2.3, length-first keys). Tuples become arrays."""
    return cbor2.dumps(value, canonical=True)


def encode_bytes(data: bytes) -> bytes:
    """As ``encode``, of a byte string: who signs small things often would spend more on an encoder."""
    length = len(data)
    if length < 24:
        return bytes((0x40 | length,)) + data
    if length < 2**8:
        return bytes((0x58, length)) + data
    if length < 2**16:
        return b"\x59" + length.to_bytes(2, "big") + data
    return b"\x5a" + length.to_bytes(4, "big") + data


def decode(data: bytes, *, what: str = "structure") -> Any:
    """Raises: ProtocolViolation: anything but the one deterministic spelling of a plain value."""
    try:
        value, end = _item(data, 0, DEPTH_MAX)
    except (IndexError, UnicodeDecodeError, _Malformed) as error:
        raise ProtocolViolation(f"{what} is not deterministic CBOR") from error
    if end != len(data):
        raise ProtocolViolation(f"{what} has bytes after its end")
    return value


class _Malformed(Exception):
    """Internal: turned into a ProtocolViolation at the door."""


def read_head(data: bytes, at: int) -> tuple[int, int, int]:
    """(major type, argument, position after the head), shortest form only.

    Raises: ProtocolViolation: another form, or the data ends within the head.
    """
    try:
        return _head(data, at)
    except (IndexError, _Malformed) as error:
        raise ProtocolViolation("not deterministic CBOR") from error


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    first = data[at]
    major, extra = first >> 5, first & 31
    if extra < 24:
        return major, extra, at + 1
    if extra > 27:
        raise _Malformed
    width = 1 << (extra - 24)
    end = at + 1 + width
    if end > len(data):
        raise _Malformed
    argument = int.from_bytes(data[at + 1 : end], "big")
    if argument < (24 if width == 1 else 1 << (4 * width)):
        raise _Malformed
    return major, argument, end


def _item(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if depth < 0:
        raise _Malformed
    if data[at] >> 5 == 7:  # simple values: their heads carry no shortest-form rule of numbers
        try:
            return {0xF4: False, 0xF5: True, 0xF6: None}[data[at]], at + 1
        except KeyError as error:
            raise _Malformed from error
    major, argument, at = _head(data, at)
    match major:
        case 0:
            return argument, at
        case 1:
            return -1 - argument, at
        case 2 | 3:
            end = at + argument
            if end > len(data):
                raise _Malformed
            raw = bytes(data[at:end])
            return (raw if major == 2 else raw.decode("utf-8")), end
        case 4:
            items: list[Any] = []
            for _ in range(_count(argument, len(data) - at)):
                value, at = _item(data, at, depth - 1)
                items.append(value)
            return items, at
        case 5:
            return _map(data, at, argument, depth)
    raise _Malformed  # tags


def _map(data: bytes, at: int, count: int, depth: int) -> tuple[dict[Any, Any], int]:
    table: dict[Any, Any] = {}
    last = (0, b"")
    for _ in range(_count(count, len(data) - at)):
        start = at
        if data[at] >> 5 > 3:
            raise _Malformed  # only numbers, bytes and text are keys
        key, at = _item(data, at, depth - 1)
        spelled = (at - start, data[start:at])
        if spelled <= last:
            raise _Malformed  # doubled or out of order
        last = spelled
        table[key], at = _item(data, at, depth - 1)
    return table, at


def _count(claimed: int, left: int) -> int:
    if claimed > left:  # every item takes a byte at least: no loop, no allocation on a lie
        raise _Malformed
    return claimed


# Shapes: each returns its value typed, or names the field that does not fit.


def a_list(value: object, what: str, *, length: int | None = None, most: int | None = None) -> list[Any]:
    if (
        not isinstance(value, list)
        or (length is not None and len(value) != length)
        or (most is not None and len(value) > most)
    ):
        raise ProtocolViolation(f"{what} has the wrong shape")
    return value


def a_map(value: object, what: str, *, keys: frozenset[str] | None = None) -> dict[Any, Any]:
    if not isinstance(value, dict) or (keys is not None and value.keys() != keys):
        raise ProtocolViolation(f"{what} has the wrong shape")
    return value


def a_bytes(value: object, what: str, *, length: int | None = None, most: int | None = None) -> bytes:
    if (
        not isinstance(value, bytes)
        or (length is not None and len(value) != length)
        or (most is not None and len(value) > most)
    ):
        raise ProtocolViolation(f"{what} is not a byte string of the right length")
    return value


def a_text(value: object, what: str, *, most: int = 255) -> str:
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise ProtocolViolation(f"{what} is not a text of at most {most} printable characters")
    return value


def a_count(value: object, what: str, *, most: int = _INT_MAX) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ProtocolViolation(f"{what} is not a number in its range")
    return value


def each(value: object, what: str, read: Callable[[object, str], T], *, most: int) -> tuple[T, ...]:
    return tuple(read(item, what) for item in a_list(value, what, most=most))
