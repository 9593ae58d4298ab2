"""How documents are spelt when they travel: JSON text, and what does not fit is told before anything is sent.

JSON's kinds of values: None, bool, int, finite float, str, list or tuple (read back as a list), dict with
text keys. TinyDB's file would quietly turn other keys into text; a table that merges by field must not guess.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from edge_node.store.batch import FIELD_BYTES_MAX, VALUE_BYTES_MAX
from security.errors import BadInput

DEPTH_MAX: Final = 64
"""Of lists and objects in one another: readers recurse, here and at every member."""

_SURE = frozenset({type(None), bool, int, str})
_KINDS = "None, bool, int, float, str, list or dict with text keys"
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False)
_decoder = json.JSONDecoder()


class NotPlain(BadInput, TypeError):
    """A document holds what JSON cannot say. The cause names the place."""


def spelt(document: object) -> str:
    """A document as JSON text.

    Raises: NotPlain: something in it is no JSON.   BadInput: it is no mapping, or a field is too large.
    """
    if not isinstance(document, Mapping):
        raise BadInput("Document is not a Mapping", fix="give a dict")
    parts = []
    for name, value in document.items():
        if type(name) is not str and not isinstance(name, str):
            raise NotPlain(f"a field is named {name!r}, which is no text", fix="name fields by text")
        key = _text(name, repr(name))
        if len(name.encode()) > FIELD_BYTES_MAX:
            raise BadInput(f"a field's name is over {FIELD_BYTES_MAX} bytes", fix="use a shorter name")
        parts.append(f"{key}:{spelt_value(value, name)}")
    return "{" + ",".join(parts) + "}"


def spelt_value(value: object, name: str) -> str:
    """What the field *name* is to hold, as JSON text. Raises: NotPlain, BadInput: as ``spelt``."""
    _check(value, name, 1)
    text = _text(value, name)
    size = len(text) if text.isascii() else len(text.encode())
    if size > VALUE_BYTES_MAX:
        raise BadInput(
            f"field {name!r} has {size} bytes, at most {VALUE_BYTES_MAX} fit",
            fix="split it into fields, or keep it elsewhere and name it by digest",
        )
    return text


def read(text: str) -> dict[str, Any]:
    """A document from the daemon's text."""
    return _decoder.decode(text)  # type: ignore[no-any-return]  # the daemon keeps objects only


def check_text(what: str, text: object, bytes_max: int, *, empty: bool = False) -> None:
    """Raises: NotPlain, BadInput: *what*, a name for people, is no text of 1 to *bytes_max* bytes."""
    if not isinstance(text, str):
        raise NotPlain(f"{what} is {type(text).__name__}, not text", fix="give a str")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise NotPlain(f"{what} has a lone surrogate", fix="it is not valid Unicode") from None
    if size > bytes_max or not (size or empty):
        raise BadInput(f"{what} has {size} bytes", fix=f"use {0 if empty else 1} to {bytes_max}")


def _text(value: object, place: str) -> str:
    try:
        text = _encoder.encode(value)
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError:
        raise NotPlain(f"{place} holds text with a lone surrogate", fix="it is not valid Unicode") from None
    except ValueError as error:  # an integer with more digits than Python writes
        raise NotPlain(f"{place} cannot be written: {error}", fix="keep it as text") from None
    return text


def _check(value: object, place: str, depth: int) -> None:
    kind = type(value)
    if kind in _SURE:
        return
    if depth > DEPTH_MAX:
        raise NotPlain(f"{place[:80]}… is nested more than {DEPTH_MAX} deep", fix="flatten it")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotPlain(
                f"{place} is {value}, which JSON cannot say", fix="use None, or leave the field out"
            )
    elif isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            if type(each) not in _SURE and not (type(each) is float and math.isfinite(each)):
                _check(each, f"{place}[{index}]", depth + 1)
    elif isinstance(value, dict):
        for name, each in value.items():
            if not isinstance(name, str):
                raise NotPlain(f"{place} has the key {name!r}, which is no text", fix="use text for keys")
            _check(each, f"{place}[{name!r}]", depth + 1)
    elif not isinstance(value, (str, int)):
        raise NotPlain(f"{place} is {kind.__name__}, which JSON cannot say", fix=f"use {_KINDS}")
