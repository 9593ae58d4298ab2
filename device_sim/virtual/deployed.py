"""Deployed: what code nodes in the world have, how long it takes there, and what it is given.

functions of files    the file's own bundle, signed and fetched as everywhere
services without one  a bundle that says no more than their names: no source runs for them
[services] tables     ─► ``services.Service``; "real" calls the file's function for its output
"""

from __future__ import annotations

import types
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any, Final

from device_sim.arrivals import Ask
from device_sim.devices.series import Series
from device_sim.fleet.preparation import Prepared
from device_sim.scenario.tables import ServiceTable
from device_sim.virtual.services import Constant, Exponential, LogNormal, Recorded, Service, Times
from edge_node.functions import values
from edge_node.functions.bundle import Bundle
from security.errors import BadInput

MARKER_BYTES: Final = 16
CALLS_KEPT_MAX: Final = 4096
"""Encoded windows that are remembered: nodes of a class replay one series."""
TIMEOUT_S: Final = 120
"""Of a function that only the world knows."""
_HEAD: Final = "from edge_node.functions import function\n"
_BODY: Final = '''

@function(timeout_s={timeout})
def {name}(data) -> bytes:
    """Known to the world alone."""
    return b""
'''


def bundles(prepared: Prepared) -> list[Bundle]:
    """Everything that is deployed. Raises: BadInput: a file cannot be offered."""
    found = [Bundle.of_source(path.name, path.read_bytes()) for path in prepared.sources]
    stems: dict[str, list[str]] = {}
    for name in prepared.scenario.synthetic:
        stem, _, function = name.partition(".")
        stems.setdefault(stem, []).append(function)
    for stem, names in stems.items():
        text = _HEAD + "".join(_BODY.format(timeout=TIMEOUT_S, name=name) for name in names)
        found.append(Bundle.of_source(f"{stem}.py", text))
    return found


def services(prepared: Prepared, found: list[Bundle]) -> tuple[dict[str, Service], list[str]]:
    """Every deployed function's model, and a sentence for each that is asked for and whose time nobody told.

    Raises: BadInput: a function that is to be called really does not import.
    """
    tables = prepared.scenario.services
    sources = {path.stem: path for path in prepared.sources}
    asked = {each.function for device in prepared.scenario.devices for each in device.calls}
    asked |= {each.function for device in prepared.scenario.devices for each in device.arrivals}
    made: dict[str, Service] = {}
    untold: list[str] = []
    for bundle in found:
        for manifest in bundle.manifests():
            table = tables.get(manifest.name)
            if table is None:
                if manifest.name in asked:
                    untold.append(manifest.name)
                table = ServiceTable()
            made[manifest.name] = _service(manifest.name, table, prepared.recorded, sources)
    default_ms = ServiceTable().mean_ms
    notes = [f"nobody told how long {name} takes: {default_ms:g} ms are assumed" for name in untold]
    return made, notes


def _service(
    name: str, table: ServiceTable, recorded: Mapping[str, list[float]], sources: Mapping[str, Path]
) -> Service:
    times: Times
    match table.distribution:
        case "exponential":
            times = Exponential(table.mean_ms)
        case "lognormal":
            times = LogNormal(table.mean_ms, table.cv)
        case "trace":
            times = Recorded(recorded[name])
        case _:
            times = Recorded(recorded[name]) if name in recorded else Constant(table.mean_ms)
    stem, _, function = name.partition(".")
    real = _loaded(sources[stem], function) if table.distribution == "real" else None
    return Service(
        times, byte_ns=table.per_kb_ms * 1_000_000 / 1024, output_bytes=table.output_bytes, real=real
    )


def _loaded(path: Path, function: str) -> Callable[..., Any]:
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)  # noqa: S102  as a worker does
    except Exception as error:  # whatever a user's file raises
        raise BadInput(f"{path.name} does not import: {type(error).__name__}: {error}") from None
    found = module.__dict__[function]
    assert callable(found), "it has a manifest"
    return getattr(found, "__wrapped__", found)  # type: ignore[no-any-return]


class Inputs:
    """The encoded calls of one node's asks. Args: series: its windows.   kept: shared by its class."""

    __slots__ = ("_kept", "_rng", "_series", "_synthetic")

    def __init__(
        self, series: Series | None, synthetic: frozenset[str], rng: Random, kept: OrderedDict[Any, bytes]
    ) -> None:
        self._series = series
        self._synthetic = synthetic
        self._rng = rng
        self._kept = kept

    def of(self, ask: Ask) -> tuple[bytes, bytes]:
        """The call as ``values.encode_call`` spells it, and the marker within it; a window has none."""
        arguments = {} if ask.function in self._synthetic else dict(ask.arguments)
        if ask.rows is None:
            marker = self._rng.randbytes(MARKER_BYTES) if ask.input_bytes >= MARKER_BYTES else b""
            data = marker + bytes(ask.input_bytes - len(marker))
            return values.encode_call((data,), arguments), marker
        assert self._series is not None, "the scenario was checked"
        key = (*ask.rows, ask.function)
        found = self._kept.get(key)
        if found is None:
            found = values.encode_call((self._series.window(*ask.rows),), arguments)
            self._kept[key] = found
            if len(self._kept) > CALLS_KEPT_MAX:
                self._kept.popitem(last=False)
        return found, b""
