"""TOML text into a ``Document``: keys and values are walked one by one, so that a mistake has a line.

``msgspec`` checks each value, but knows no lines. A mistake is one line that names file, line, key, what was
expected and what is there. In: text. Out: ``Document``, whose ``fault`` makes such lines also for those who
look at the files that a scenario names (``fleet.preparation``).
"""

from __future__ import annotations

import difflib
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from device_sim.positions import Path, nearest, positions
from device_sim.scenario.contradictions import contradictions
from device_sim.scenario.tables import Scenario
from security.errors import BadInput

TEXT_CHARS_MAX: Final = 1024 * 1024
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+\Z")


@dataclass(frozen=True, slots=True)
class Document:
    """A scenario, and where its keys stand."""

    name: str
    scenario: Scenario
    lines: Mapping[Path, int]

    def fault(self, path: Path, problem: str) -> BadInput:
        """The error of a key: ``plant.toml:14: devices[2].trace.file: …``."""
        return _fault(self.name, self.lines, path, problem)


def parse(text: str, *, name: str = "scenario.toml") -> Document:
    """A scenario from its text. Args: name: the file's, for errors. Raises: BadInput."""
    if len(text) > TEXT_CHARS_MAX:
        raise BadInput(f"{name} has {len(text)} characters", fix=f"at most {TEXT_CHARS_MAX} are a scenario")
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        told = re.match(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)\Z", str(error))
        line = int(told[2]) if told and told[2] else max(1, len(text.splitlines()))
        raise BadInput(f"{name}:{line}: not TOML: {told[1] if told else error}") from None
    except RecursionError:
        raise BadInput(f"{name}:1: not TOML: nested too deeply") from None
    lines = positions(text)
    for path, problem in _problems(tree, Scenario, ()):
        raise _fault(name, lines, path, problem)
    document = Document(name, msgspec.convert(tree, Scenario), lines)
    for path, problem in contradictions(document.scenario, lines):
        raise document.fault(path, problem)
    return document


def _fault(name: str, lines: Mapping[Path, int], path: Path, problem: str) -> BadInput:
    return BadInput(f"{name}:{nearest(lines, path)}: {spelled(path)}: {problem}")


def spelled(path: Path) -> str:
    """``devices[2].trace.rate_hz``, ``services."gait.spectrum".mean_ms``"""
    text = ""
    for word in path:
        if isinstance(word, int):
            text += f"[{word}]"
        else:
            bare = word if _BARE.match(word) else f'"{word}"'
            text += f".{bare}" if text else bare
    return text


# ── one key at a time ─────────────────────────────────────────────────────────────────────────────────


def _problems(value: object, kind: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """What is wrong with a value of *kind*, in the order of the text."""
    struct = _struct_of(kind)
    if struct is not None and (isinstance(value, dict) or not _plain(kind)):
        if not isinstance(value, dict):
            yield path, f"expected a table, got {_shown(value)}"
            return
        yield from _problems_of_table(value, struct, path)
    elif (element := _element_of(kind)) is not None and _struct_of(element) is not None:
        if not isinstance(value, list):
            yield path, f"expected an array of tables, got {_shown(value)}"
            return
        for index, each in enumerate(value):
            yield from _problems(each, element, (*path, index))
    elif isinstance(value, dict) and typing.get_origin(kind) is dict:
        for key, each in value.items():
            yield from _problems(each, typing.get_args(kind)[1], (*path, key))
    elif isinstance(value, list) and element is not None:
        for index, each in enumerate(value):
            yield from _problems(each, element, (*path, index))
    elif isinstance(value, float) and not abs(value) < float("inf") and kind is not Any:
        yield path, f"expected {expected(kind)}, got {value}"
    else:
        try:
            msgspec.convert(value, _plain(kind)[0] if struct is not None else kind, strict=True)
        except msgspec.ValidationError:
            yield path, f"expected {expected(kind)}, got {_shown(value)}"


def _problems_of_table(
    value: Mapping[str, object], struct: type[msgspec.Struct], path: Path
) -> Iterator[tuple[Path, str]]:
    fields = {field.name: field for field in msgspec.structs.fields(struct)}
    for key, each in value.items():
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1, cutoff=0.6)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(fields)}"
            yield (*path, key), f"unknown key; {hint}"
            continue
        yield from _problems(each, fields[key].type, (*path, key))
    for name, field in fields.items():
        if field.required and name not in value:
            yield (*path, name), f"missing; expected {expected(field.type)}"


def _struct_of(kind: Any) -> type[msgspec.Struct] | None:
    """The struct that *kind* is, or may be beside None."""
    kinds = [each for each in _choices(kind) if isinstance(each, type) and issubclass(each, msgspec.Struct)]
    return kinds[0] if kinds else None


def _plain(kind: Any) -> list[Any]:
    """What *kind* may be beside a table and None."""
    return [each for each in _choices(kind) if _struct_of(each) is None]


def _element_of(kind: Any) -> Any:
    return typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else None


def _choices(kind: Any) -> list[Any]:
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return [each for each in typing.get_args(kind) if each is not type(None)]
    return [kind]


def expected(kind: Any) -> str:
    """A type and its bounds, in words: "a number > 0"."""
    if _struct_of(kind) is not None:
        return " or ".join([*map(expected, _plain(kind)), "a table"])
    if (element := _element_of(kind)) is not None:
        return "an array of tables" if _struct_of(element) is not None else 'a list of texts, as ["a", "b"]'
    info = msgspec.inspect.type_info(_choices(kind)[0])
    if isinstance(info, msgspec.inspect.Metadata):
        info = info.type
    match info:
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            noun = "a whole number" if isinstance(info, msgspec.inspect.IntType) else "a number"
            bounds = [
                f"{sign} {bound:g}" if isinstance(bound, float) else f"{sign} {bound}"
                for sign, bound in ((">", info.gt), (">=", info.ge), ("<=", info.le))
                if bound is not None and bound < 2**62
            ]
            return f"{noun} {' and '.join(bounds)}".strip()
        case msgspec.inspect.LiteralType(values=values):
            words = [str(choice) for choice in _in_source_order(_choices(kind)[0], values)]
            return f"{', '.join(words[:-1])} or {words[-1]}"
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.StrType(max_length=longest):
            return "a text" if longest is None else f"a text of 1 to {longest} characters"
        case msgspec.inspect.DictType(value_type=msgspec.inspect.StructType()):
            return "a table of tables"
        case msgspec.inspect.DictType():
            return "a table of texts"
    return "another type"


def _in_source_order(kind: Any, values: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) or tuple(values)


def _shown(value: object) -> str:
    match value:
        case dict():
            return "a table"
        case list():
            return "a list"
        case bool():
            return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
