"""What no single key of a scenario can know: names that must exist, keys that exclude each other, an order of
faults that is possible. Each with the path of the key that is to blame.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping

from device_sim import faults
from device_sim.faults import Fault
from device_sim.positions import Path
from device_sim.scenario.tables import (
    NODES_MAX,
    Arrivals,
    Call,
    DevicesTable,
    Scenario,
    ServiceTable,
    Spread,
)
from edge_node.wire.ids import GATEWAY, RESERVED, is_node_id

Problems = Iterator[tuple[Path, str]]


def contradictions(scenario: Scenario, lines: Mapping[Path, int]) -> Problems:
    """Args: lines: where each key stands: a default that was written out is a choice."""
    stems: dict[str, int] = {}
    for index, source in enumerate(scenario.functions):
        stem = source.file.rsplit("/", 1)[-1].removesuffix(".py")
        if not source.file.endswith(".py"):
            yield ("functions", index, "file"), f"expected a Python file, got {source.file!r}"
        if stem in stems:
            yield ("functions", index, "file"), f"functions[{stems[stem]}] is named {stem} too"
        stems[stem] = index
    for name, service in scenario.services.items():
        yield from _of_service(name, service)
    for name, link in scenario.links.items():
        if bool(link.up_s) != bool(link.down_s):
            yield ("links", name), "an intermittent link has both up_s and down_s, any other none"
    yield from _of_devices(scenario)
    for index, device in enumerate(scenario.devices):
        yield from _of_device(scenario, device, ("devices", index), lines)
    for number, arrivals in enumerate(scenario.gateway.arrivals):
        yield from _of_gateways(scenario, arrivals, ("gateway", "arrivals", number))
    yield from _of_run(scenario)
    yield from _of_state(scenario)
    for index, fault in enumerate(scenario.faults):
        yield from _of_fault(scenario, fault, ("faults", index))
    one_each = faults.resolved(scenario.faults, scenario.classes)
    found = faults.impossible([fault for _, fault in one_each])
    if found is not None:
        yield ("faults", one_each[found[0]][0], "do"), f"cannot be done: {found[1]}"


def _of_state(scenario: Scenario) -> Problems:
    state, classes = scenario.state, scenario.classes
    for number, name in enumerate(state.nodes):
        if name not in classes:
            hint = near(name, classes)
            yield ("state", "nodes", number), f"expected a node or a prefix of several, got {name!r}{hint}"
    if (parts := state.own + state.removals + state.counters + state.sets) > 1:
        yield (
            ("state", "own"),
            f"own, removals, counters and sets are shares of one whole, and make {parts:g}",
        )


def near(name: str, known: Collection[str]) -> str:
    """``; did you mean NAME?``, or nothing."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _is_function(name: str) -> bool:
    stem, dot, rest = name.partition(".")
    return bool(dot and stem.isidentifier() and rest.isidentifier())


def _of_service(name: str, service: ServiceTable) -> Problems:
    path: Path = ("services", name)
    if not _is_function(name):
        yield path, f'expected STEM.NAME in quotes, as [services."gait.spectrum"], got {name!r}'
    if service.distribution == "trace" and not service.file:
        yield (*path, "file"), "missing; expected the file of the recorded milliseconds"
    if service.distribution not in ("trace", "real"):
        for key in ("file", "column"):
            if getattr(service, key):
                yield (*path, key), f"only distribution = 'trace' or 'real' has a {key}"


def _of_run(scenario: Scenario) -> Problems:
    end_s = scenario.fleet.duration_s
    if scenario.run.heal_s is not None and scenario.run.heal_s > end_s:
        yield ("run", "heal_s"), f"the replay ends at {end_s:g} s, got {scenario.run.heal_s:g}"


def _of_devices(scenario: Scenario) -> Problems:
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
            yield (*path, "count"), f"{len(owners)} nodes so far; at most {NODES_MAX} are a world"


def _of_device(scenario: Scenario, device: DevicesTable, path: Path, lines: Mapping[Path, int]) -> Problems:
    if device.speed is not None and (*path, "slowdown") in lines:
        yield (*path, "speed"), "expected either speed or slowdown"
    if device.busy_w < device.idle_w:
        yield (*path, "busy_w"), f"expected at least the {device.idle_w:g} W of idle_w, got {device.busy_w:g}"
    if device.link and device.link not in scenario.links:
        known = ", ".join(scenario.links) or "none"
        hint = near(device.link, scenario.links)
        yield (*path, "link"), f"no table [links.{device.link}]; there: {known}{hint}"
    if device.trace is not None and device.sensor is not None:
        yield (*path, "sensor"), "expected either a trace or a sensor"
    takers = bool(device.calls) or any(each.input_bytes is None for each in device.arrivals)
    if device.calls and device.source is None:
        yield (*path, "calls"), "calls need a trace to take their windows from"
    if device.source is not None and not takers:
        key = "trace" if device.trace is not None else "sensor"
        yield (*path, key), f"nothing is asked of this {key}; add [[devices.calls]]"
    for number, call in enumerate(device.calls):
        yield from _of_asking(scenario, call, (*path, "calls", number))
        if call.whole and call.every_windows != 1:
            yield (*path, "calls", number, "every_windows"), "a call of the whole series has no windows"
        if call.whole and device.sensor is not None:
            yield (*path, "calls", number, "whole"), "a modelled sensor has no whole series"
    for number, arrivals in enumerate(device.arrivals):
        here = (*path, "arrivals", number)
        yield from _of_asking(scenario, arrivals, here)
        yield from _of_arrivals(arrivals, here)
        if arrivals.input_bytes is None and device.source is None:
            yield (*here, "input_bytes"), "missing; expected it, or a trace or sensor to take windows from"


def _of_gateways(scenario: Scenario, arrivals: Arrivals, path: Path) -> Problems:
    yield from _of_asking(scenario, arrivals, path)
    if arrivals.kind == "trace":
        yield (*path, "kind"), "moments in a file are a device's; expected constant, poisson or bursty"
        return
    yield from _of_arrivals(arrivals, path)
    if arrivals.input_bytes is None:
        yield (*path, "input_bytes"), "missing; the gateway has no windows to hand over"


def _of_asking(scenario: Scenario, each: Call | Arrivals, path: Path) -> Problems:
    stem = each.function.partition(".")[0]
    stems = scenario.stems
    if not _is_function(each.function):
        yield (*path, "function"), f"expected STEM.NAME, got {each.function!r}"
    elif stem not in stems and each.function not in scenario.services:
        known = ", ".join(sorted(stems)) or "none"
        what = f"no file {stem}.py in functions; there: {known}"
        if scenario.services:
            what = f"no file {stem}.py in functions and no such service; there: {known}"
            what += "".join(f", {name}" for name in scenario.synthetic) + near(
                each.function, scenario.services
            )
        yield (*path, "function"), what
    if each.where not in ("any", "local", GATEWAY) and each.where not in scenario.nodes:
        yield (
            (*path, "where"),
            (f"expected any, local, gateway or a node of this scenario, got {each.where!r}")
            + near(each.where, scenario.nodes),
        )


def _of_arrivals(arrivals: Arrivals, path: Path) -> Problems:
    if arrivals.kind == "trace":
        if not arrivals.file:
            yield (*path, "file"), "missing; expected a CSV or Parquet file of moments"
        elif not arrivals.file.endswith((".csv", ".parquet")):
            yield (*path, "file"), f"expected a CSV or Parquet file, got {arrivals.file!r}"
        if arrivals.rate_hz is not None:
            yield (*path, "rate_hz"), "a trace has its own moments; use speed_up"
    else:
        if arrivals.rate_hz is None:
            yield (*path, "rate_hz"), "missing; expected a number > 0 and <= 100000"
        for key in ("file", "column"):
            if getattr(arrivals, key):
                yield (*path, key), f"only kind = 'trace' has a {key}"
    if isinstance(arrivals.input_bytes, Spread):
        yield from _of_spread(arrivals.input_bytes, (*path, "input_bytes"))


def _of_spread(spread: Spread, path: Path) -> Problems:
    given = [key for key in ("min", "max", "mean", "cv") if getattr(spread, key) is not None]
    if given not in (["min", "max"], ["mean", "cv"]):
        yield path, f"expected min and max, or mean and cv, got {' and '.join(given) or 'neither'}"
    elif spread.min is not None and spread.max is not None and spread.min > spread.max:
        yield (*path, "max"), f"expected at least the min of {spread.min}, got {spread.max}"


def _of_fault(scenario: Scenario, fault: Fault, path: Path) -> Problems:
    classes = scenario.classes
    if fault.nodes and fault.node:
        yield (*path, "nodes"), "expected either node or nodes"
    elif fault.needs_node and fault.nodes:
        for number, name in enumerate(fault.nodes):
            if name not in classes or (name == GATEWAY and not fault.fits_gateway):
                hint = near(name, classes)
                yield (*path, "nodes", number), f"expected a node or a prefix of several, got {name!r}{hint}"
    elif fault.needs_node and not (
        fault.node in scenario.nodes or (fault.node == GATEWAY and fault.fits_gateway)
    ):
        what = f"got {fault.node!r}" + near(fault.node, scenario.nodes) if fault.node else "it is missing"
        yield (*path, "node"), f"expected a node of this scenario to {fault.do}, {what}"
    if not fault.needs_node and (fault.node or fault.nodes):
        yield (*path, "node"), f"{fault.do} has no node"
    if fault.do == "revoke" and not any(device.calls or device.arrivals for device in scenario.devices):
        yield (*path, "do"), "expected calls in some device: a task must be refused to see a node cut off"
    if fault.at_s > scenario.fleet.duration_s:
        yield (*path, "at_s"), f"the replay ends at {scenario.fleet.duration_s:g} s, got {fault.at_s:g}"
    elif fault.at_s > scenario.healed_s:
        yield (*path, "at_s"), f"every fault is made good at {scenario.healed_s:g} s, got {fault.at_s:g}"
    if fault.until_s is not None and fault.until_s <= fault.at_s:
        yield (*path, "until_s"), f"expected more than at_s = {fault.at_s:g}, got {fault.until_s:g}"
    for key in fault.misplaced:
        yield (*path, key), f"{fault.do} has no {key}"
    for key in fault.missing:
        yield (*path, key), f"missing; {fault.do} needs it"
    if fault.link and fault.link not in scenario.links:
        known = ", ".join(scenario.links) or "none"
        hint = near(fault.link, scenario.links)
        yield (*path, "link"), f"no table [links.{fault.link}]; there: {known}{hint}"
