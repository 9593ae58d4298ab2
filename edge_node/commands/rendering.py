"""Values as text: JSON for results, cells for tables.

JSON has no bytes, no dates, no arrays and no infinities. They are shown so that a reader in any language
can use them: bytes as ``{"base64": "…"}``, dates in ISO 8601, arrays as nested lists. A float that JSON
lacks is ``null`` when strict; otherwise ``NaN``, ``Infinity`` as Python and JavaScript write them.
"""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

_CELL_CHARS_MAX = 60
_EMPTY: tuple[object, ...] = (None, "", [], {})  # say nothing inside a mapping
_WALL_TIMES = ("_at_ms", "_until_ms")  # ends of names
_INDENT_OVER = 100  # characters: a longer mapping is written over several lines


def to_json(value: object, *, strict: bool) -> str:
    """One JSON document; on one line when strict or short."""
    plain = _plain(value, strict)
    line = json.dumps(plain, ensure_ascii=False, allow_nan=not strict)
    if strict or len(line) <= _INDENT_OVER or not isinstance(plain, dict):
        return line
    inside = ",\n".join(
        f"  {json.dumps(key, ensure_ascii=False)}: {json.dumps(each, ensure_ascii=False)}"
        for key, each in plain.items()
    )
    return "{\n" + inside + "\n}"


def _plain(value: object, strict: bool) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return None if strict and not math.isfinite(value) else value
        case bytes() | bytearray():
            return {"base64": base64.b64encode(value).decode("ascii")}
        case datetime() | date():
            return value.isoformat()
        case Mapping():
            return {_key(key): _plain(each, strict) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each, strict) for each in value]
        case complex():
            return [_plain(value.real, strict), _plain(value.imag, strict)]
    if hasattr(value, "tolist"):  # numpy, without importing it
        return _plain(value.tolist(), strict)
    return str(value)


def _key(key: object) -> str:
    match key:
        case str():
            return key
        case bytes():
            return base64.b64encode(key).decode("ascii")
        case None | bool() | int() | float():
            return json.dumps(key)
    return str(key)


def cell(value: object, name: str = "", *, whole: bool = False) -> str:
    """A value under or after its name, on one line, short unless *whole*. ``*_at_ms`` is a wall time."""
    if name.endswith(_WALL_TIMES) and isinstance(value, int):
        if value <= 0:
            return ""
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value / 1000))
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case str():
            text = value
        case bytes():
            text = value.hex()
        case float():
            text = f"{value:g}"
        case int():
            text = str(value)
        case Mapping():
            text = " ".join(_pair(str(key), each, whole) for key, each in value.items() if each not in _EMPTY)
        case list() | tuple():
            text = ", ".join(cell(each) for each in value)
        case _:
            text = str(value)
    text = " ".join(text.split())
    if whole:
        return text
    if name in ("digest", "spki_sha256", "keys") and len(text) > 12:
        return text[:12]
    if name and len(text) > _CELL_CHARS_MAX:
        return text[: _CELL_CHARS_MAX - 1] + "…"
    return text


def _pair(key: str, value: object, whole: bool) -> str:
    text = cell(value, key, whole=whole)
    return f"{key}=({text})" if isinstance(value, Mapping) else f"{key}={text}"


def plain_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded with spaces, two between them; no lines, no colour."""
    widths = [max(len(each) for each in column) for column in zip(heads, *rows, strict=True)]
    lines = [heads, *rows]
    return "\n".join(
        "  ".join(f"{each:<{width}}" for each, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
