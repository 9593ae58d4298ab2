"""Conditions as a person types them after ``--where``, read to a query's plain data.

    setpoint_c > 25                        [">", ["setpoint_c"], 25]
    site = a and alarm.level >= 2          ["and", ["==", ["site"], "a"], [">=", ["alarm", "level"], 2]]
    room in ["r1", "r2"] and note exists   ["and", ["one_of", ["room"], ["r1", "r2"]], ["exists", ["note"]]]

A condition is a field, an operator and a value; several are joined by ``and``. A field within a field is
written with a dot; a name with other characters stands in double quotes. A value is JSON, or a word that is
taken as text. Nothing is ever evaluated: what is not of this form is refused with the place where it ends to
be. Everything else that a query can say (or, not, patterns) is for programs: ``mesh.state.table(…).search``.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from edge_node.store.queries import decoded
from security.errors import BadInput

CHARS_MAX: Final = 16 * 1024
"""A list of some hundred names is a use."""
_OPERATORS: Final = {"=": "==", "==": "==", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_FIELD = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[^\W\d][\w-]*)')
_OPERATOR = re.compile(r"\s*(==|!=|<=|>=|=|<|>|in\b|exists\b)")
_AND = re.compile(r"\s+and\s+|\s*\Z")
_WORD = re.compile(r"[^\s\"\[\]{}()=<>!,]+")
_FIX: Final = "write --where 'field > 25', or several joined by and; text with spaces in double quotes"


def _refuse_constant(name: str) -> Any:
    raise BadInput(f"{name} is no JSON", fix="compare with a finite number")


_JSON = json.JSONDecoder(parse_constant=_refuse_constant)


def parsed(text: str) -> list[Any]:
    """The data of a query (`store.queries`). Raises: BadInput, with the place in *text*."""
    if len(text) > CHARS_MAX:
        raise BadInput(f"the condition has more than {CHARS_MAX} characters", fix="narrow it down")
    found: list[Any] = []
    at = 0
    while True:
        condition, at = _condition(text, at)
        found.append(condition)
        joint = _AND.match(text, at)
        if joint is None:
            raise _trouble(text, at, "expected `and`, or the end")
        at = joint.end()
        if at == len(text) and not joint[0].strip():
            break
    data = found[0] if len(found) == 1 else ["and", *found]
    decoded(data)  # the daemon's own bounds, refused before anything is sent
    return data


def _condition(text: str, at: int) -> tuple[list[Any], int]:
    path, at = _path(text, at)
    operator = _OPERATOR.match(text, at)
    if operator is None:
        raise _trouble(text, at, "expected an operator: = != < <= > >= in exists")
    at = operator.end()
    if operator[1] == "exists":
        return ["exists", path], at
    value, at = _value(text, at)
    if operator[1] == "in":
        if not isinstance(value, list):
            raise _trouble(text, at, 'after `in` stands a list, as ["r1", "r2"]')
        return ["one_of", path, value], at
    return [_OPERATORS[operator[1]], path, value], at


def _path(text: str, at: int) -> tuple[list[str], int]:
    path: list[str] = []
    while True:
        part = _FIELD.match(text, at)
        if part is None:
            raise _trouble(text, at, "expected the name of a field")
        path.append(_quoted(text, part.start(1)) if part[1].startswith('"') else part[1])
        at = part.end()
        if text[at : at + 1] != ".":
            return path, at
        at += 1


def _quoted(text: str, at: int) -> str:
    try:
        name = str(_JSON.raw_decode(text, at)[0])
        name.encode()
    except ValueError:  # of JSON, or of a lone surrogate
        raise _trouble(text, at, "this is no name in quotes") from None
    return name


def _value(text: str, at: int) -> tuple[Any, int]:
    """JSON, else one word. A word that merely begins like JSON (``1h``, ``true-ish``) is a word."""
    at += len(text[at:]) - len(text[at:].lstrip())
    word = _WORD.match(text, at)
    try:
        value, end = _JSON.raw_decode(text, at)
    except BadInput:
        raise
    except (ValueError, RecursionError):  # also a number of more digits than Python reads
        end = -1
    if word is not None and end < word.end():
        return word[0], word.end()
    if end < 0:
        raise _trouble(text, at, "expected a value: JSON, or a word")
    return value, end


def _trouble(text: str, at: int, what: str) -> BadInput:
    rest = text[at:].strip()
    place = f"at {rest[:40]!r}" if rest else "at its end"
    return BadInput(f"the condition {text[:80]!r} cannot be read {place}: {what}", fix=_FIX)
