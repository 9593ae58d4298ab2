"""A scenario: a fleet, what its devices measure and ask for, what is done to it, what is expected of it.

Written in TOML, read into frozen structs. A mistake is one line that names file, line, key, what was expected
and what is there; so keys and values are walked here one by one (``msgspec`` checks each value, but knows no
lines), and what no single key can know (names that must exist, an order of faults that is possible) is
checked afterwards, with the line of the key that is to blame.

In: text. Out: ``Document``, whose ``fault`` makes such lines also for those who look at the files that a
scenario names (``fleet.sources``). The reference for people is docs/scenario.md. Not here: files.
"""

from __future__ import annotations

import difflib
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from device_sim import faults
from device_sim.faults import Fault
from device_sim.positions import Path, nearest, positions
from edge_node.wire.ids import GATEWAY, RESERVED, is_node_id
from security.errors import BadInput

NODES_MAX: Final = 64
"""On one machine: each is a daemon of 45 MB and at least one worker of 12 MB and more."""
TEXT_CHARS_MAX: Final = 1024 * 1024

Text = Annotated[str, Meta(min_length=1, max_length=200)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all tables."""


class FleetTable(_Table, frozen=True, kw_only=True):
    """The whole."""

    name: Text
    duration_s: Annotated[float, Meta(gt=0, le=86400)]
    """Seconds that the series are replayed."""
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 1
    """Of every offset and jitter, and of the sample that is computed again."""
    mdns: Literal["none", "lo"] = "none"
    """lo: nodes find the gateway by mDNS on the loopback interface; none: by the addresses of the code."""
    settle_s: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    """Seconds after the replay within which everything accepted must have ended."""
    verify: Annotated[int, Meta(ge=0, le=100_000)] = 120
    """Tasks, drawn at random, whose results are computed again here and compared byte by byte."""


class GatewayTable(_Table, frozen=True, kw_only=True):
    """The gateway."""

    broker: Literal["auto", "mosquitto", "embedded"] = "auto"
    workers: Annotated[int, Meta(ge=0, le=64)] = 1
    """Processes for offloaded work; 0: one a core."""


class FunctionsTable(_Table, frozen=True, kw_only=True):
    """A file to deploy."""

    file: Text
    """Relative to the scenario."""


class Trace(_Table, frozen=True, kw_only=True):
    """A recorded series and the pace of its replay. Sample n comes at n / (rate_hz · speed_up) seconds; the
    window that is full first is handed over at 0."""

    file: Text
    """CSV, the first line names the columns; relative to the scenario."""
    rate_hz: Annotated[float, Meta(gt=0, le=1e6)]
    """Readings a second, as recorded."""
    window: Annotated[int, Meta(ge=1, le=1_000_000)]
    """Readings that a function gets at once."""
    hop: Annotated[int, Meta(ge=1, le=1_000_000)]
    """Readings from the begin of one window to the begin of the next."""
    columns: tuple[Text, ...] = ()
    """Those handed over; empty: all."""
    form: Literal["rows", "array"] = "rows"
    """rows: a list of dicts; array: a numpy array, readings × columns; int16, int32, int64 or float64."""
    speed_up: Annotated[float, Meta(gt=0, le=1e9)] = 1.0
    burst_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    """Windows are handed over together every so often, as by a sensor that saves its radio; 0: at once."""
    offset_s: Annotated[float, Meta(ge=0, le=86400)] = 0.0
    """Each device begins up to so much later, by the seed."""
    jitter_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    """Each hand-over comes up to so much later, by the seed."""
    repeat: bool = False
    """Begin again when the series ends before the replay does. No window spans the seam."""


class Call(_Table, frozen=True, kw_only=True):
    """What a device asks for."""

    function: Text
    """STEM.NAME; its first argument is the window."""
    every_windows: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    whole: bool = False
    """Once, at the end, with the whole series instead of a window."""
    deadline_s: Annotated[float, Meta(gt=0, le=86400)] | None = None
    where: Text = "any"
    """any, local, gateway or a node."""
    arguments: dict[str, Any] = {}
    """By name, after the window."""


class DevicesTable(_Table, frozen=True, kw_only=True):
    """One node, or *count* alike named ``prefix-1`` and so on."""

    id: str = ""
    prefix: str = ""
    count: Annotated[int, Meta(ge=1, le=NODES_MAX)] = 1
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    slowdown: Annotated[float, Meta(ge=1, le=1000)] = 1.0
    """How many times slower than this machine it is."""
    labels: dict[str, Text] = {}
    trace: Trace | None = None
    calls: tuple[Call, ...] = ()

    @property
    def ids(self) -> list[str]:
        return [self.id] if self.id else [f"{self.prefix}-{number}" for number in range(1, self.count + 1)]


class Expect(_Table, frozen=True, kw_only=True):
    """What must hold at the end. Times depend on the machine: leave them out where others work on it too."""

    lost: Annotated[int, Meta(ge=0)] = 0
    failed_max: Annotated[int, Meta(ge=0)] = 0
    explained_max: Annotated[int, Meta(ge=0)] | None = None
    accepted_min: Annotated[int, Meta(ge=0)] | None = None
    completed_min: Annotated[int, Meta(ge=0)] | None = None
    offloaded_min: Annotated[int, Meta(ge=0)] | None = None
    """Ran at another node or at the gateway."""
    peers_min: Annotated[int, Meta(ge=0)] | None = None
    """Ran at another node."""
    resumed_min: Annotated[int, Meta(ge=0)] | None = None
    """Promises that were open when their node was killed and ended well."""
    verified_min: Annotated[int, Meta(ge=0)] | None = None
    kill_to_replacement_s_max: Annotated[float, Meta(ge=0)] | None = None
    revoked_cut_s_max: Annotated[float, Meta(ge=0)] | None = None
    latency_ms_p99_max: Annotated[float, Meta(ge=0)] | None = None


class Scenario(_Table, frozen=True, kw_only=True):
    """A whole file."""

    fleet: FleetTable
    devices: tuple[DevicesTable, ...]
    functions: tuple[FunctionsTable, ...] = ()
    gateway: GatewayTable = GatewayTable()
    faults: tuple[Fault, ...] = ()
    expect: Expect = Expect()

    @property
    def nodes(self) -> dict[str, DevicesTable]:
        """Every node by its name, in the order of the file."""
        return {name: table for table in self.devices for name in table.ids}


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
    for path, problem in _contradictions(document.scenario):
        raise document.fault(path, problem)
    return document


def scaled(scenario: Scenario, duration_s: float) -> Scenario:
    """The same story told in *duration_s*: traces, bursts and faults at another pace. Waits that belong to
    the mesh (settling, an open fault's patience) stay as they are."""
    factor = duration_s / scenario.fleet.duration_s
    replace = msgspec.structs.replace

    def paced(trace: Trace) -> Trace:
        return replace(
            trace,
            speed_up=trace.speed_up / factor,
            burst_s=trace.burst_s * factor,
            offset_s=trace.offset_s * factor,
            jitter_s=trace.jitter_s * factor,
        )

    return replace(
        scenario,
        fleet=replace(scenario.fleet, duration_s=duration_s),
        devices=tuple(
            device if device.trace is None else replace(device, trace=paced(device.trace))
            for device in scenario.devices
        ),
        faults=tuple(replace(fault, at_s=fault.at_s * factor) for fault in scenario.faults),
    )


def _fault(name: str, lines: Mapping[Path, int], path: Path, problem: str) -> BadInput:
    return BadInput(f"{name}:{nearest(lines, path)}: {spelled(path)}: {problem}")


def spelled(path: Path) -> str:
    """``devices[2].trace.rate_hz``"""
    text = ""
    for word in path:
        text += f"[{word}]" if isinstance(word, int) else f".{word}" if text else word
    return text


# ── one key at a time ─────────────────────────────────────────────────────────────────────────────────


def _problems(value: object, kind: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """What is wrong with a value of *kind*, in the order of the text."""
    struct = _struct_of(kind)
    if struct is not None:
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
            msgspec.convert(value, kind, strict=True)
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


def _element_of(kind: Any) -> Any:
    return typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else None


def _choices(kind: Any) -> list[Any]:
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return [each for each in typing.get_args(kind) if each is not type(None)]
    return [kind]


def expected(kind: Any) -> str:
    """A type and its bounds, in words: "a number > 0"."""
    if _struct_of(kind) is not None:
        return "a table"
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


# ── what no single key can know ───────────────────────────────────────────────────────────────────────


def _contradictions(scenario: Scenario) -> Iterator[tuple[Path, str]]:
    stems: dict[str, int] = {}
    for index, source in enumerate(scenario.functions):
        stem = source.file.rsplit("/", 1)[-1].removesuffix(".py")
        if not source.file.endswith(".py"):
            yield ("functions", index, "file"), f"expected a Python file, got {source.file!r}"
        if stem in stems:
            yield ("functions", index, "file"), f"functions[{stems[stem]}] is named {stem} too"
        stems[stem] = index
    yield from _contradictions_of_devices(scenario, set(stems))
    for index, fault in enumerate(scenario.faults):
        yield from _contradictions_of_fault(scenario, fault, ("faults", index))
    found = faults.impossible(scenario.faults)
    if found is not None:
        yield ("faults", found[0], "do"), f"cannot be done: {found[1]}"


def _contradictions_of_devices(scenario: Scenario, stems: set[str]) -> Iterator[tuple[Path, str]]:
    if not scenario.devices:
        yield ("devices",), "expected at least one device"
    owners: dict[str, int] = {}
    for index, device in enumerate(scenario.devices):
        path: Path = ("devices", index)
        if bool(device.id) == bool(device.prefix):
            yield path, "expected either id, or prefix and count"
        elif device.id and device.count != 1:
            yield (*path, "count"), "one id names one device; for several use prefix"
        key = "id" if device.id else "prefix"
        for name in device.ids:
            if not is_node_id(name) or name in RESERVED:
                yield (*path, key), f"{name!r} cannot name a node: 1 to 32 of a-z, 0-9 and '-', not reserved"
            if name in owners:
                yield (*path, key), f"devices[{owners[name]}] is named {name} too"
            owners[name] = index
        if len(owners) > NODES_MAX:
            yield (*path, "count"), f"{len(owners)} nodes so far; at most {NODES_MAX} fit one machine"
    for index, device in enumerate(scenario.devices):
        path = ("devices", index)
        if device.calls and device.trace is None:
            yield (*path, "calls"), "calls need a trace to take their windows from"
        if device.trace is not None and not device.calls:
            yield (*path, "trace"), "nothing is asked of this trace; add [[devices.calls]]"
        for number, call in enumerate(device.calls):
            stem, dot, name = call.function.partition(".")
            if not (dot and name.isidentifier()):
                yield (*path, "calls", number, "function"), f"expected STEM.NAME, got {call.function!r}"
            elif stem not in stems:
                known = ", ".join(sorted(stems)) or "none"
                yield (*path, "calls", number, "function"), f"no file {stem}.py in functions; there: {known}"
            if call.where not in ("any", "local", GATEWAY, *owners):
                yield (
                    (*path, "calls", number, "where"),
                    (f"expected any, local, gateway or a node of this scenario, got {call.where!r}"),
                )
            if call.whole and call.every_windows != 1:
                yield (*path, "calls", number, "every_windows"), "a call of the whole series has no windows"


def _contradictions_of_fault(scenario: Scenario, fault: Fault, path: Path) -> Iterator[tuple[Path, str]]:
    if fault.needs_node and fault.node not in scenario.nodes:
        what = f"got {fault.node!r}" if fault.node else "it is missing"
        yield (*path, "node"), f"expected a node of this scenario to {fault.do}, {what}"
    if not fault.needs_node and fault.node:
        yield (*path, "node"), f"{fault.do} has no node"
    if fault.do == "revoke" and not any(device.calls for device in scenario.devices):
        yield (*path, "do"), "expected calls in some device: a task must be refused to see a node cut off"
    if fault.at_s > scenario.fleet.duration_s:
        yield (*path, "at_s"), f"the replay ends at {scenario.fleet.duration_s:g} s, got {fault.at_s:g}"
