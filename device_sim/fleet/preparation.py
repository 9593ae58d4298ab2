"""Everything of a scenario that can fail before a process is started: its files are read, its functions
looked up, its plans made.

In: the path of a scenario. Out: ``Prepared``. A mistake in a file that the scenario names is told with the
line of the key that names it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from device_sim.devices.plan import Planned, plan
from device_sim.devices.series import NoSuchColumn, Series
from device_sim.positions import Path as KeyPath
from device_sim.scenario import DevicesTable, Document, FleetTable, Scenario, Trace, parse, scaled
from edge_node.functions.manifest import read_manifests
from security.errors import BadInput, EdgeweaveError


@dataclass(frozen=True, slots=True)
class Prepared:
    """A scenario with everything that it names."""

    document: Document
    scenario: Scenario  # at the pace that was asked for
    seed: int
    sources: list[Path]  # function files
    series: Mapping[str, Series]  # by node
    plans: Mapping[str, list[Planned]]  # by node

    @property
    def planned(self) -> int:
        return sum(map(len, self.plans.values()))


def prepare(path: Path, *, seed: int | None = None, duration_s: float | None = None) -> Prepared:
    """Args: seed, duration_s: instead of the scenario's own. Raises: BadInput: one line with its place."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", fix="name a scenario, a TOML file") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not UTF-8 text", fix="save it as UTF-8") from None
    document = parse(text, name=str(path))
    scenario = document.scenario
    if duration_s is not None:
        scenario = scaled(scenario, duration_s)
    chosen = scenario.fleet.seed if seed is None else seed
    folder = path.parent
    sources, known = _functions(document, folder)
    for index, device in enumerate(scenario.devices):
        for number, call in enumerate(device.calls):
            if call.function not in known:
                raise document.fault(
                    ("devices", index, "calls", number, "function"),
                    f"{call.function.partition('.')[0]}.py has no such function; "
                    f"deployed are {', '.join(sorted(known))}",
                )
    series, plans = _series_and_plans(document, scenario, folder, chosen)
    return Prepared(document, scenario, chosen, sources, series, plans)


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


def _series_and_plans(
    document: Document, scenario: Scenario, folder: Path, seed: int
) -> tuple[dict[str, Series], dict[str, list[Planned]]]:
    read: dict[tuple[object, ...], Series] = {}  # many devices replay one file
    series: dict[str, Series] = {}
    plans: dict[str, list[Planned]] = {}
    for index, device in enumerate(scenario.devices):
        trace = device.trace
        if trace is None:
            continue
        key = (trace.file, trace.columns, trace.form)
        if key not in read:
            read[key] = _read(document, folder, trace, ("devices", index, "trace"))
        for name in device.ids:
            series[name] = read[key]
            plans[name] = _planned(document, scenario.fleet, device, index, name, len(read[key]), seed)
    return series, plans


def _read(document: Document, folder: Path, trace: Trace, path: KeyPath) -> Series:
    try:
        return Series.read(folder / trace.file, trace)
    except NoSuchColumn as error:
        raise document.fault((*path, "columns"), error.cause) from None
    except BadInput as error:
        if error.cause.startswith("numpy"):
            raise
        raise document.fault((*path, "file"), error.cause) from None


def _planned(
    document: Document,
    fleet: FleetTable,
    device: DevicesTable,
    index: int,
    name: str,
    rows: int,
    seed: int,
) -> list[Planned]:
    # A generator of its own for each device: one more device does not change what the others do.
    rng = random.Random(f"{seed}/{name}")  # noqa: S311 (jitter)
    try:
        return plan(device, rows, fleet.duration_s, rng)
    except ValueError as error:
        raise document.fault(("devices", index, "trace", "window"), str(error)) from None
