"""What a person gives a function: a CSV or JSON file, stdin, or named arguments.

CSV: the first line names the columns; every further line becomes a dict. ``12`` becomes an int, ``1.5``
and ``2e-3`` a float, ``nan`` a float, an empty cell None; everything else stays text (``007``, dates, codes).
The delimiter is the one of ``, ; tab |`` that the first line has most of. Not here: whether the value fits
the function's annotations (the daemon knows those).
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import Any, Final

from security.enrolment import checked_labels
from security.errors import BadInput

INPUT_BYTES_MAX: Final = 64 * 1024 * 1024  # of text; what is sent is bound by the frame (16 MiB) and the task
_FORMATS: Final = ("csv", "json")
DIGITS_MAX = sys.int_info.default_max_str_digits
"""Python reads no longer number: it would take quadratic time (CVE-2020-10735)."""
_DIGITS = f"a number of more than {DIGITS_MAX} digits"
_INT = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,17})\Z")
_FLOAT = re.compile(
    r"[+-]?(?:(?:0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+|(?:0|[1-9][0-9]*)(?=[eE]))(?:[eE][+-]?[0-9]+)?\Z"
)


def read_input(source: str, kind: str | None = None) -> Any:
    """The value in a file, or on stdin for ``-``.

    Args: kind: "csv" or "json"; None: by the file's name, on stdin JSON if it is that, else CSV.
    Raises: BadInput: it cannot be read, or is not what its name says; with the line.
    """
    if kind is not None and kind not in _FORMATS:
        raise BadInput(f"format {kind!r} is not known", fix="choose csv or json")
    if source == "-":
        text = _decoded(_bounded(sys.stdin.buffer.read(INPUT_BYTES_MAX + 1), "stdin"), "stdin")
        if kind == "csv":
            return parse_csv(text, "stdin")
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            if kind == "json" or text.lstrip()[:1] in ("[", "{", '"', ""):
                raise _not_json("stdin", error) from None
            return parse_csv(text, "stdin")
    path = Path(source)
    if kind is None:
        kind = path.suffix.lower().removeprefix(".")
        if kind not in _FORMATS:
            raise BadInput(f"{source} is neither .csv nor .json", fix="say which with --format csv or json")
    try:
        with path.open("rb") as file:
            data = _bounded(file.read(INPUT_BYTES_MAX + 1), source)
    except OSError as error:
        raise BadInput(
            f"cannot read {source}: {error.strerror}", fix="check the name after --input"
        ) from None
    text = _decoded(data, source)
    if kind == "csv":
        return parse_csv(text, source)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _not_json(source, error) from None


def parse_csv(text: str, name: str) -> list[dict[str, Any]]:
    """Rows as dicts. Raises: BadInput, with ``name:line``."""
    text = text.removeprefix("\ufeff")
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t|", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[dict[str, Any]] = []
    columns: list[str] = []
    try:
        for line in reader:
            if not line:
                continue
            if not columns:
                columns = [column.strip() for column in line]
                _check_columns(columns, name)
                continue
            if len(line) != len(columns):
                raise BadInput(
                    f"{name}:{reader.line_num}: {len(line)} cells under {len(columns)} columns",
                    fix="every line has as many cells as the first",
                )
            rows.append({column: number_or_text(each) for column, each in zip(columns, line, strict=True)})
    except csv.Error as error:
        raise BadInput(f"{name}:{reader.line_num}: {error}", fix="correct that line") from None
    if not columns:
        raise BadInput(f"{name} is empty", fix="the first line names the columns")
    return rows


def number_or_text(each: str) -> int | float | str | None:
    """One cell."""
    stripped = each.strip()
    if not stripped:
        return None
    if _INT.match(stripped) and len(stripped) <= DIGITS_MAX:
        return int(stripped)
    if _FLOAT.match(stripped) or stripped.lower() == "nan":
        return float(stripped)
    return each


def parse_named(words: list[str]) -> dict[str, Any]:
    """``name=value`` pairs; a value is JSON if it reads as that, else text. Raises: BadInput."""
    named: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise BadInput(f"argument {word!r} is not name=value", fix="write --arg name=value")
        if name in named:
            raise BadInput(f"argument {name} is given twice", fix="give it once")
        try:
            named[name] = json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            named[name] = value
        except ValueError:
            raise BadInput(f"argument {name}: {_DIGITS}", fix="write it as text, in quotes") from None
    return named


def parse_labels(words: list[str]) -> dict[str, str]:
    """``key=value`` labels of a node. Raises: BadInput."""
    labels: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise BadInput(f"label {word!r} is not key=value", fix="write --label site=a")
        if key in labels:
            raise BadInput(f"label {key} is given twice", fix="give it once")
        labels[key] = value
    return checked_labels(labels)


def parse_duration(text: str) -> float:
    """``90``, ``90s``, ``15m``, ``1h``, ``2d`` in seconds. Raises: BadInput."""
    match = re.match(r"([0-9]+(?:\.[0-9]+)?)\s*(s|m|h|d)?\Z", text.strip())
    if match is None:
        raise BadInput(f"{text!r} is not a duration", fix="write it as 90s, 15m, 1h or 2d")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2] or "s"]


def _check_columns(columns: list[str], name: str) -> None:
    for column in columns:
        if not column:
            raise BadInput(f"{name}:1: a column has no name", fix="the first line names the columns")
        if columns.count(column) > 1:
            raise BadInput(f"{name}:1: two columns are called {column!r}", fix="give each its own name")


def _bounded(data: bytes, name: str) -> bytes:
    if len(data) > INPUT_BYTES_MAX:
        raise BadInput(f"{name} has more than {INPUT_BYTES_MAX // 2**20} MiB", fix="split it into windows")
    return data


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadInput(f"{name}:{line}: not UTF-8 text", fix="save it as UTF-8") from None


def _not_json(name: str, error: ValueError | RecursionError) -> BadInput:
    if isinstance(error, json.JSONDecodeError):
        return BadInput(f"{name}:{error.lineno}: not JSON: {error.msg}", fix="correct that line")
    if isinstance(error, ValueError):
        return BadInput(f"{name}: {_DIGITS}", fix="write it as text, in quotes")
    return BadInput(f"{name}: nested too deeply", fix="flatten it")
