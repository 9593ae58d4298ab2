"""Values that travel: Python values to bytes and back, without pickle.

None, bool, int of any size, float (nan and infinities too), str, bytes, list, dict, datetime (aware and
naive), numpy arrays of plain dtypes. Tuples become lists, numpy scalars Python numbers, subclasses of the
above their base. Dict keys are str, int, float, bool, None or bytes. MessagePack, with three extensions:

    1  int beyond 64 bits   two's complement, big endian
    2  datetime             ISO 8601 text; a zone becomes its offset
    3  ndarray              MessagePack [dtype, shape, bytes in C order]

What cannot travel raises ``BadInput`` and names the place inside the value; bytes that do not decode raise
``ProtocolViolation``, whatever they are. Not here: size limits (the caller's).
msgspec would carry sets, dataclasses and naive datetimes by quietly making something else of them: hence
the walk before it. Its cost is low because it asks for the *set of types* of a list first.
"""

from __future__ import annotations

import re
import sys
from datetime import datetime
from math import prod
from typing import Any

import msgspec

from security.errors import BadInput, ProtocolViolation

DEPTH_MAX = 100  # of nesting; far below the interpreter's recursion limit

_EXT_INT, _EXT_DATETIME, _EXT_ARRAY = 1, 2, 3
_SCALARS = frozenset({type(None), bool, int, float, str, bytes})
_ARRAY_KINDS = "biufcSUmM"
_ARRAY_DTYPE = re.compile(r"[<>|][biufcSUmM]\d{1,9}(\[\d{0,6}[a-zA-Zμ]{1,7}\])?\Z")
_INT_BYTES_MAX = 1024 * 1024

_FIX = "use None, bool, int, float, str, bytes, list, dict, datetime or a numpy array"

_encode = msgspec.msgpack.Encoder().encode


def encode(value: Any) -> bytes:
    """Raises: BadInput: something inside cannot travel; the message says where."""
    try:
        return _encode(value if type(value) in _SCALARS else _plain(value, 0))
    except OverflowError:
        pass  # an int beyond 64 bits somewhere: the slow way
    except UnicodeEncodeError:
        raise BadInput("text with a lone surrogate cannot travel", fix="it is not valid Unicode") from None
    except _CannotTravel as error:
        raise _located(value, error) from None
    try:
        return _encode(_plain(value, 0, wide=True))
    except UnicodeEncodeError:
        raise BadInput("text with a lone surrogate cannot travel", fix="it is not valid Unicode") from None
    except _CannotTravel as error:
        raise _located(value, error) from None


def decode(data: bytes | memoryview) -> Any:
    """Raises: ProtocolViolation: not an encoded value. BadInput: it holds an array, numpy is missing."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, RecursionError, ValueError, TypeError, OverflowError) as error:
        if isinstance(error, BadInput):
            raise
        raise ProtocolViolation(f"value does not decode: {error}") from None


def encode_call(args: list[Any] | tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Arguments of one call, as ``[args, kwargs]``."""
    return encode([args, kwargs])


def decode_call(data: bytes | memoryview) -> tuple[list[Any], dict[str, Any]]:
    """Raises: ProtocolViolation: not the arguments of a call."""
    match decode(data):
        case [list(args), dict(kwargs)] if all(type(name) is str for name in kwargs):
            return args, kwargs
    raise ProtocolViolation("arguments are not [args, kwargs]")


class _CannotTravel(Exception):
    pass


def _plain(value: Any, depth: int, wide: bool = False) -> Any:
    """The same value in types that msgspec carries unchanged; the very same object where nothing is to do."""
    kind = type(value)
    if kind in _SCALARS:
        return _wide(value) if wide and kind is int else value
    if kind is list or kind is tuple:
        if not wide and _SCALARS.issuperset(map(type, value)):
            return value
        if depth >= DEPTH_MAX:
            raise _CannotTravel(f"nested deeper than {DEPTH_MAX}")
        return [_plain(item, depth + 1, wide) for item in value]
    if kind is dict:
        if not _SCALARS.issuperset(map(type, value)):
            raise _CannotTravel("a dict key")
        if not wide and _SCALARS.issuperset(map(type, value.values())):
            return value
        if depth >= DEPTH_MAX:
            raise _CannotTravel(f"nested deeper than {DEPTH_MAX}")
        if wide and any(type(key) is int and not -(2**63) <= key < 2**64 for key in value):
            raise _CannotTravel("an int beyond 64 bits as a dict key")
        return {key: _plain(item, depth + 1, wide) for key, item in value.items()}
    return _unusual(value, depth, wide)


def _unusual(value: Any, depth: int, wide: bool) -> Any:
    if isinstance(value, datetime):
        return msgspec.msgpack.Ext(_EXT_DATETIME, value.isoformat().encode())
    numpy = sys.modules.get("numpy")  # who holds an array has imported it
    if numpy is not None:
        if isinstance(value, numpy.ndarray):
            if value.dtype.kind not in _ARRAY_KINDS:
                raise _CannotTravel(f"a numpy array of dtype {value.dtype}")
            packed = _encode([value.dtype.str, list(value.shape), value.tobytes()])
            return msgspec.msgpack.Ext(_EXT_ARRAY, packed)
        if isinstance(value, numpy.generic):
            item = value.item()
            if isinstance(item, numpy.generic) or type(item) not in _SCALARS | {datetime}:
                raise _CannotTravel(f"a numpy {type(value).__name__}")
            return _plain(item, depth, wide)
    # enums and the like travel as what they are underneath
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return _plain(int(value), depth, wide)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, list | tuple):
        return _plain(list(value), depth, wide)
    if isinstance(value, dict):
        return _plain(dict(value), depth, wide)
    raise _CannotTravel(f"a {type(value).__name__}")


def _wide(value: int) -> Any:
    if -(2**63) <= value < 2**64:
        return value
    count = value.bit_length() // 8 + 1
    if count > _INT_BYTES_MAX:
        raise _CannotTravel("an int of more than 1 MiB")
    return msgspec.msgpack.Ext(_EXT_INT, value.to_bytes(count, "big", signed=True))


def _located(value: Any, error: _CannotTravel) -> BadInput:
    """Where inside is it? Walks again, only now that something went wrong."""
    path, bound = "", 0
    while bound < DEPTH_MAX:
        bound += 1
        items: list[tuple[str, Any]]
        if isinstance(value, list | tuple):
            items = [(f"[{index}]", item) for index, item in enumerate(value)]
        elif isinstance(value, dict):
            items = [(f"[{key!r:.40}]", item) for key, item in value.items()]
        else:
            break
        for place, item in items:
            try:
                _encode(_plain(item, bound, wide=True))
            except _CannotTravel as inner:
                path, value, error = path + place, item, inner
                break
            except UnicodeEncodeError:
                continue
        else:
            break
    where = f" (at {path})" if path and len(path) < 200 else ""
    return BadInput(f"{error} cannot travel{where}", fix=_FIX)


def _ext_hook(code: int, data: memoryview) -> Any:
    if code == _EXT_INT:
        if len(data) > _INT_BYTES_MAX:
            raise ValueError("int too large")
        return int.from_bytes(data, "big", signed=True)
    if code == _EXT_DATETIME:
        return datetime.fromisoformat(str(data, "ascii"))
    if code == _EXT_ARRAY:
        return _array(data)
    raise ValueError(f"unknown extension {code}")


class _Array(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    dtype: str
    shape: list[int]
    data: memoryview


_decode_array = msgspec.msgpack.Decoder(_Array).decode


def _array(data: memoryview) -> Any:
    packed = _decode_array(data)
    if _ARRAY_DTYPE.match(packed.dtype) is None:
        raise ValueError("array of a dtype that does not travel")
    if len(packed.shape) > 32 or any(not 0 <= length < 2**40 for length in packed.shape):
        raise ValueError("array of an impossible shape")
    try:
        import numpy as np
    except ImportError:
        raise BadInput("a numpy array came, numpy is not installed here", fix="pip install numpy") from None
    dtype = np.dtype(packed.dtype)
    if dtype.itemsize * prod(packed.shape) != len(packed.data):
        raise ValueError("array bytes do not fit its shape")
    if dtype.itemsize == 0 or not len(packed.data):
        return np.zeros(packed.shape, dtype)
    return np.frombuffer(packed.data, dtype).reshape(packed.shape).copy()  # a copy may be written to


_decode = msgspec.msgpack.Decoder(ext_hook=_ext_hook).decode
