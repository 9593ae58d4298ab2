"""What a scenario asks for that real daemons on one machine cannot do.

    what changes the meaning of results        refused, with the key to blame      ``unplayable``
    what only makes the story poorer           told in one line a key              ``beyond_fleet``

A missing function, work that nobody could be given or more nodes than fit would give other results: refused.
A link that is better than it should be, or a fault that is left out, gives the results of a kinder world.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from device_sim.faults import Fault
from device_sim.positions import Path
from device_sim.scenario.tables import RunTable, Scenario

FLEET_NODES_MAX: Final = 64
"""On one machine: each is a daemon of 45 MB and at least one worker of 12 MB and more."""
INSTEAD: Final = {"power-cut": "kill", "power-cut-gateway": "kill-gateway", "wipe-broker": "kill-broker"}
"""Verbs of the world, and the nearest that a signal can do."""
PLAYED: Final = frozenset(
    ("kill", "pause", "resume", "restart", "revoke", "kill-gateway", "restart-gateway", "kill-broker")
)
_DEVICE_KEYS: Final = {
    "cores": "daemons share this machine's cores",
    "memory_mb": "this machine's memory is everybody's",
    "battery_wh": "this machine has mains",
    "link": "everything goes over the loopback interface",
    "clock_drift_ppm": "all read this machine's clock",
    "rtc": "all read this machine's clock",
}


def unplayable(scenario: Scenario) -> Iterator[tuple[Path, str]]:
    """(key, why real daemons must refuse the scenario)."""
    count = 0
    synthetic = scenario.synthetic
    if scenario.gateway.arrivals:
        yield ("gateway", "arrivals"), "only the world of device-sim run asks the gateway itself for work"
    for index, device in enumerate(scenario.devices):
        count += len(device.ids)
        if count > FLEET_NODES_MAX:
            yield (
                ("devices", index, "count"),
                (
                    f"{count} nodes so far; at most {FLEET_NODES_MAX} real ones fit one machine: "
                    "play it with device-sim run"
                ),
            )
            return
        path: Path = ("devices", index)
        for kind in ("calls", "arrivals"):
            for number, each in enumerate(getattr(device, kind)):
                if each.function in synthetic:
                    yield (
                        (*path, kind, number, "function"),
                        (
                            f"{each.function} has no file in functions: only the world of device-sim run "
                            "knows it"
                        ),
                    )
        for number, arrivals in enumerate(device.arrivals):
            if arrivals.input_bytes is not None:
                yield (
                    (*path, "arrivals", number, "input_bytes"),
                    (
                        f"{arrivals.function} cannot be called with bytes that mean nothing: leave it out to "
                        "hand over windows, or play it with device-sim run"
                    ),
                )


def beyond_fleet(scenario: Scenario) -> list[str]:
    """What real daemons leave out of a scenario: one line a key, ``links: …``."""
    told: dict[str, str] = {}
    for index, device in enumerate(scenario.devices):
        for key, why in _DEVICE_KEYS.items():
            if getattr(device, key) != _default(type(device), key):
                told.setdefault(f"devices.{key}", f"devices[{index}].{key}: {why}")
        if device.pace > 1:
            told.setdefault("devices.speed", f"devices[{index}].speed: none is faster than this machine")
    for index, fault in enumerate(scenario.faults):
        if fault.do in INSTEAD:
            told.setdefault(fault.do, f"faults[{index}]: {fault.do} is played as {INSTEAD[fault.do]}")
        elif fault.do not in PLAYED:
            told.setdefault(fault.do, f"faults[{index}]: {fault.do} is left out")
    if scenario.state.rate_hz:
        told["state"] = "state: nobody writes tables"
    if scenario.rates.any:
        told["rates"] = "rates: no faults are drawn"
    for key in ("heal_s", "liveness_s"):
        if getattr(scenario.run, key) != _default(RunTable, key):
            told[key] = f"run.{key}: a real fleet settles in fleet.settle_s"
    return list(told.values())


def for_fleet(scenario: Scenario) -> Scenario:
    """As real daemons play it: faults one node each, none that only the world knows."""
    faults: list[Fault] = []
    for fault in scenario.timeline():
        do = INSTEAD.get(fault.do, fault.do)
        if do in PLAYED:
            faults.append(fault if do == fault.do else msgspec.structs.replace(fault, do=do))
    return msgspec.structs.replace(scenario, faults=tuple(faults))


def _default(table: type[msgspec.Struct], key: str) -> object:
    return next(field.default for field in msgspec.structs.fields(table) if field.name == key)
