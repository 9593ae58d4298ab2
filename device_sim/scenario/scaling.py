"""The same story told faster or slower, with more nodes or fewer, or going on for longer."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from device_sim.faults import Fault
from device_sim.scenario.tables import NODES_MAX, Arrivals, Call, DevicesTable, Scenario, Sensor, Trace
from security.errors import BadInput

Paced = TypeVar("Paced", Trace, Sensor)
Asking = TypeVar("Asking", Call, Arrivals)
replace: Final = msgspec.structs.replace


def scaled(scenario: Scenario, duration_s: float) -> Scenario:
    """The same story told in *duration_s*: traces, arrivals and faults at another pace. Waits that belong to
    the mesh (settling, an open fault's patience, deadlines) stay as they are, and so do rates an hour."""
    factor = duration_s / scenario.fleet.duration_s

    def paced(source: Paced) -> Paced:
        return replace(
            source,
            speed_up=source.speed_up / factor,
            burst_s=source.burst_s * factor,
            offset_s=source.offset_s * factor,
            jitter_s=source.jitter_s * factor,
        )

    def device_of(device: DevicesTable) -> DevicesTable:
        return replace(
            device,
            trace=None if device.trace is None else paced(device.trace),
            sensor=None if device.sensor is None else paced(device.sensor),
            arrivals=tuple(
                replace(
                    each,
                    rate_hz=None if each.rate_hz is None else each.rate_hz / factor,
                    gap_s=each.gap_s * factor,
                    speed_up=each.speed_up / factor,
                )
                for each in device.arrivals
            ),
        )

    run = scenario.run
    return replace(
        scenario,
        fleet=replace(scenario.fleet, duration_s=duration_s),
        run=run if run.heal_s is None else replace(run, heal_s=run.heal_s * factor),
        devices=tuple(map(device_of, scenario.devices)),
        faults=tuple(
            replace(
                fault,
                at_s=fault.at_s * factor,
                until_s=None if fault.until_s is None else fault.until_s * factor,
            )
            for fault in scenario.faults
        ),
    )


def lengthened(scenario: Scenario, duration_s: float) -> Scenario:
    """The same fleet at the same pace for longer, or not so long.

    Rates a second and an hour stay as they are. Recorded series and moments begin again when they end; listed
    faults that come after everything was made good fall out, and those that last longer end then. The quiet
    time after ``heal_s`` keeps its length; of a run that becomes shorter, its share.
    """
    before_s = scenario.fleet.duration_s
    longer = duration_s > before_s
    run, heal_s = scenario.run, scenario.run.heal_s
    if heal_s is not None:
        quiet_s = before_s - heal_s
        heal_s = duration_s - quiet_s if longer else duration_s * heal_s / before_s
    until_s = duration_s if heal_s is None else heal_s

    def device_of(device: DevicesTable) -> DevicesTable:
        trace = device.trace
        arrivals = tuple(
            replace(each, repeat=True) if each.kind == "trace" else each for each in device.arrivals
        )
        return replace(
            device, trace=None if trace is None else replace(trace, repeat=True), arrivals=arrivals
        )

    def cut(fault: Fault) -> Fault:
        late = fault.until_s is not None and fault.until_s > until_s
        return replace(fault, until_s=until_s) if late else fault

    return replace(
        scenario,
        fleet=replace(scenario.fleet, duration_s=duration_s),
        run=replace(run, heal_s=heal_s),
        devices=tuple(map(device_of, scenario.devices)) if longer else scenario.devices,
        faults=tuple(cut(fault) for fault in scenario.faults if fault.at_s < until_s),
    )


def scaled_to(scenario: Scenario, nodes: int) -> Scenario:
    """The same story with so many nodes: each class keeps its share, and at least one node.

    A node that has its own id stays one. Faults of nodes that are no more fall out; work for one of them, and
    what it would write, goes to the last of its class.

    Raises: BadInput: fewer nodes than classes, or more than a world holds.
    """
    counts = _counts(scenario, nodes)
    devices = tuple(
        replace(device, count=count) for device, count in zip(scenario.devices, counts, strict=True)
    )
    there = {name for device in devices for name in device.ids}
    moved = {
        name: name if name in there else device.ids[-1]
        for before, device in zip(scenario.devices, devices, strict=True)
        for name in before.ids
    }

    def sent(each: Asking) -> Asking:
        return replace(each, where=moved.get(each.where, each.where))

    devices = tuple(
        replace(device, calls=tuple(map(sent, device.calls)), arrivals=tuple(map(sent, device.arrivals)))
        for device in devices
    )
    faults = []
    for fault in scenario.faults:
        left = tuple(name for name in fault.nodes if moved.get(name, name) == name)
        if moved.get(fault.node, fault.node) == fault.node and bool(left) == bool(fault.nodes):
            faults.append(replace(fault, nodes=left))
    state = scenario.state
    writers = tuple(dict.fromkeys(moved.get(name, name) for name in state.nodes))
    return replace(scenario, devices=devices, faults=tuple(faults), state=replace(state, nodes=writers))


def _counts(scenario: Scenario, nodes: int) -> list[int]:
    """Nodes of each class, by largest remainder."""
    if nodes > NODES_MAX:
        raise BadInput(f"{nodes} nodes", fix=f"at most {NODES_MAX} are a world")
    classes = len(scenario.devices)
    grown = [index for index, device in enumerate(scenario.devices) if device.prefix]
    least = classes if grown else sum(device.count for device in scenario.devices)
    if nodes < least or (nodes > least and not grown):
        names = ", ".join(device.cls for device in scenario.devices)
        fix = f"at least {least}: one of each" if grown else f"only {least}: each has an id of its own"
        raise BadInput(f"{nodes} nodes of the classes {names}", fix=fix)
    counts = [1] * classes
    over = nodes - classes
    weights = {index: scenario.devices[index].count for index in grown}
    total = sum(weights.values()) or 1
    # One is given to each class; what is above that is shared so that count/weight comes out even.
    wanted = {index: max(0.0, (nodes - classes + len(grown)) * weights[index] / total - 1) for index in grown}
    scale = over / (sum(wanted.values()) or 1)
    for index in grown:
        wanted[index] *= scale
        counts[index] += int(wanted[index])
    left = nodes - sum(counts)
    for index in sorted(grown, key=lambda each: (int(wanted[each]) - wanted[each], each))[:left]:
        counts[index] += 1
    return counts
