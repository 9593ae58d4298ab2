"""Everything of a scenario that can fail before anything is started: its files are read, its functions looked
up, its plans made.

In: the path of a scenario, and who is to play it: real daemons (``fleet``) or the world, which knows more and
holds more. Out: ``Prepared``. A mistake in a file that the scenario names is told with the line of the key
that names it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec

from device_sim.arrivals import asks
from device_sim.devices.moments import read_milliseconds, read_moments
from device_sim.devices.plan import PLANNED_MAX, Planned, plan, rows_of
from device_sim.devices.series import NoSuchColumn, Series
from device_sim.positions import Path as KeyPath
from device_sim.scenario import (
    Call,
    DevicesTable,
    Document,
    Scenario,
    Trace,
    beyond_fleet,
    for_fleet,
    lengthened,
    parse,
    scaled,
    scaled_to,
    unplayable,
)
from device_sim.scenario.contradictions import near
from edge_node.functions.manifest import read_manifests
from security.errors import BadInput, EdgeweaveError

Player = Literal["fleet", "world", "any"]
WORLD_READINGS_MAX: Final = 4096
"""Of a modelled sensor in the world, where a class shares one series and begins it again."""
Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A scenario with everything that it names."""

    document: Document
    scenario: Scenario  # at the pace that was asked for
    seed: int
    sources: list[Path]  # function files
    series: Mapping[str, Series]  # by node; in the world all nodes of a class share one
    plans: Mapping[str, list[Planned]]  # by node; empty in the world, which asks lazily: ``arrivals.asks``
    moments: Mapping[tuple[str, str], Sequence[int]] = field(default_factory=dict)  # for ``arrivals.asks``
    recorded: Mapping[str, list[float]] = field(default_factory=dict)  # milliseconds, by service
    world_only: str = ""  # why real daemons cannot play it

    @property
    def planned(self) -> int:
        return sum(self.tasks.values())

    @property
    def tasks(self) -> dict[str, int]:
        """How many each node will ask for; in the world, where each draws its own, as its class's first."""
        found: dict[str, int] = {}
        for device in self.scenario.devices:
            if self.plans:
                found |= {name: len(self.plans.get(name, ())) for name in device.ids}
                continue
            first = device.ids[0]
            rng = random.Random(f"{self.seed}/{first}")  # noqa: S311 (moments of arrival)
            rows = len(self.series[first]) if first in self.series else 0
            asked = asks(device, first, rng, self.scenario.fleet.duration_s, rows=rows, moments=self.moments)
            found |= dict.fromkeys(device.ids, sum(1 for _ in asked))
        return found

    @property
    def beyond(self) -> list[str]:
        """What real daemons leave out of it, one line each."""
        return beyond_fleet(self.document.scenario)


def prepare(
    path: Path,
    *,
    seed: int | None = None,
    duration_s: float | None = None,
    length_s: float | None = None,
    nodes: int | None = None,
    player: Player = "fleet",
) -> Prepared:
    """Read a scenario and everything that it names.

    Args:
        seed: instead of the scenario's own.   duration_s: the same story at another pace.
        length_s: at the same pace for so long.   nodes: scaled to so many, each class in proportion.
        player: "any": real daemons if they can, else the world; its faults are left as they are listed.
    Raises: BadInput: one line with its place; *player* is "fleet" and cannot play it.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", fix="name a scenario, a TOML file") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not UTF-8 text", fix="save it as UTF-8") from None
    document = parse(text, name=str(path))
    scenario = document.scenario
    if nodes is not None:
        scenario = scaled_to(scenario, nodes)
    if duration_s is not None:
        scenario = scaled(scenario, duration_s)
    if length_s is not None:
        scenario = lengthened(scenario, length_s)
    chosen = scenario.fleet.seed if seed is None else seed
    refused = next(unplayable(scenario), None)
    if player == "fleet":
        if refused is not None:
            raise document.fault(*refused)
        scenario = for_fleet(scenario)
    folder = path.parent
    sources, known = _functions(document, folder)
    _look_up(document, known)
    moments = _moments(document, folder)
    recorded = {
        name: _read(
            document, ("services", name), partial(read_milliseconds, folder / service.file, service.column)
        )
        for name, service in scenario.services.items()
        if service.file
    }
    world = player == "world" or refused is not None
    series = _series(document, scenario, folder, chosen, shared=world)
    plans: dict[str, list[Planned]] = {}
    for index, device in enumerate(() if world else scenario.devices):
        if device.source is not None:
            for name in device.ids:
                plans[name] = _planned(document, scenario, index, name, len(series[name]), chosen, moments)
    why = "" if refused is None else str(document.fault(*refused))
    return Prepared(document, scenario, chosen, sources, series, plans, moments, recorded, why)


def _functions(document: Document, folder: Path) -> tuple[list[Path], set[str]]:
    """Files, and the names in them."""
    sources, known = [], set()
    for index, table in enumerate(document.scenario.functions):
        source = folder / table.file
        try:
            known |= {manifest.name for manifest in read_manifests(source.name, source.read_bytes())}
        except OSError as error:
            raise document.fault(("functions", index, "file"), f"{table.file}: {error.strerror}") from None
        except EdgeweaveError as error:
            raise document.fault(("functions", index, "file"), error.cause) from None
        sources.append(source.resolve())
    return sources, known


def _look_up(document: Document, known: set[str]) -> None:
    """Is every function there that a file should hold?"""
    scenario = document.scenario
    asked: list[tuple[KeyPath, str]] = [
        (("devices", index, kind, number, "function"), each.function)
        for index, device in enumerate(scenario.devices)
        for kind in ("calls", "arrivals")
        for number, each in enumerate(getattr(device, kind))
    ]
    there = known | set(scenario.synthetic)
    for path, name in [*asked, *((("services", name), name) for name in scenario.services)]:
        if name not in there:
            raise document.fault(
                path,
                f"{name.partition('.')[0]}.py has no such function; deployed are {', '.join(sorted(known))}"
                + near(name, there),
            )


def _moments(document: Document, folder: Path) -> dict[tuple[str, str], Sequence[int]]:
    found: dict[tuple[str, str], Sequence[int]] = {}
    for index, device in enumerate(document.scenario.devices):
        for number, each in enumerate(device.arrivals):
            key = (each.file, each.column)
            if each.file and key not in found:
                path: KeyPath = ("devices", index, "arrivals", number)
                found[key] = _read(document, path, partial(read_moments, folder / each.file, each.column))
    return found


def _series(
    document: Document, scenario: Scenario, folder: Path, seed: int, *, shared: bool
) -> dict[str, Series]:
    read: dict[tuple[object, ...], Series] = {}  # many devices replay one file
    series: dict[str, Series] = {}
    for index, device in enumerate(scenario.devices):
        if (trace := device.trace) is not None:
            key = (trace.file, trace.columns, trace.form)
            if key not in read:
                read[key] = _read(
                    document,
                    ("devices", index, "trace"),
                    partial(Series.read, folder / trace.file, trace),
                    column="columns",
                )
            if len(read[key]) < trace.window:
                told = f"a window of {trace.window} readings is longer than the series of {len(read[key])}"
                raise document.fault(("devices", index, "trace", "window"), told)
            series |= dict.fromkeys(device.ids, read[key])
        elif device.sensor is not None:
            count = rows_of(device.sensor, scenario.fleet.duration_s)
            if shared:
                count = min(count, max(WORLD_READINGS_MAX, 2 * device.sensor.window))
                one = _sensed(document, device, index, device.cls, count, seed)
                series |= dict.fromkeys(device.ids, one)
            else:
                series |= {name: _sensed(document, device, index, name, count, seed) for name in device.ids}
    return series


def _sensed(document: Document, device: DevicesTable, index: int, name: str, count: int, seed: int) -> Series:
    assert device.sensor is not None
    sensor, rng = device.sensor, random.Random(f"{seed}/{name}/sensor")  # noqa: S311 (a model's noise)
    return _read(
        document,
        ("devices", index, "sensor"),
        partial(Series.sensed, sensor, name, count, rng),
        file="rate_hz",
        column="columns",
    )


def _read(
    document: Document, path: KeyPath, read: Callable[[], Read], *, file: str = "file", column: str = "column"
) -> Read:
    """Raises: BadInput: with the line of the key that names what cannot be read."""
    try:
        return read()
    except NoSuchColumn as error:
        raise document.fault((*path, column), error.cause) from None
    except BadInput as error:
        if error.cause.endswith("is not installed"):
            raise
        raise document.fault((*path, file), error.cause) from None


def _planned(
    document: Document,
    scenario: Scenario,
    index: int,
    name: str,
    rows: int,
    seed: int,
    moments: Mapping[tuple[str, str], Sequence[int]],
) -> list[Planned]:
    # A generator of its own for each device: one more device does not change what the others do.
    device = scenario.devices[index]
    rng = random.Random(f"{seed}/{name}")  # noqa: S311 (jitter)
    duration_s = scenario.fleet.duration_s
    try:
        planned = plan(device, rows, duration_s, rng)
        alone = msgspec.structs.replace(device, calls=())
        rng = random.Random(f"{seed}/{name}/arrivals")  # noqa: S311 (moments of arrival)
        for ask in asks(alone, name, rng, duration_s, rows=rows, moments=moments):
            call = Call(
                function=ask.function,
                deadline_s=ask.deadline_s,
                ttl_s=ask.ttl_s,
                priority=ask.priority,
                where=ask.where,
                arguments=dict(ask.arguments),
            )
            assert ask.rows is not None, "bytes are refused before"
            planned.append(Planned(ask.at_ns, call, *ask.rows))
            if len(planned) > PLANNED_MAX:
                raise ValueError(f"more than {PLANNED_MAX} tasks of one device; ask for less")
    except ValueError as error:
        key = "trace" if isinstance(device.source, Trace) else "sensor"
        raise document.fault(("devices", index, key, "window"), str(error)) from None
    planned.sort(key=lambda each: each.due_ns)
    return planned
