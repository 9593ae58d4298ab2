"""Drawing: a whole scenario from one number: a swarm looks for the seed that breaks a promise.

    seed ─► boards, links, work, rates of faults ─► Scenario ─► Play

Each seed turns each kind of trouble on or off first and draws its strength then: a run with everything at
once hides what two faults alone would show (swarm testing: Groce et al., ISSTA 2012). What is drawn depends
on the seed, the number of nodes and this version of the file; `VERSION` says when it has changed.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

import msgspec

from device_sim.faults import Fault, Rates
from device_sim.fleet.preparation import Prepared
from device_sim.scenario.reading import Document
from device_sim.scenario.tables import (
    Arrivals,
    DevicesTable,
    FleetTable,
    GatewayTable,
    LinkTable,
    RunTable,
    Scenario,
    ServiceTable,
    StateTable,
)
from device_sim.virtual import focus as focuses
from device_sim.virtual.focus import focused

VERSION: Final = 3
STREAM: Final = 1
"""The version whose draws these still are, but for what was added beside them: `_is_patient`, `_writing`."""
NODES: Final = 12
NODES_MIN: Final = 2
NODES_MAX: Final = 200
DURATION_S: Final = 40.0
LIVENESS_S: Final = 90.0
TTL_S: Final = (10.0, 45.0)
"""Of a task: it must have ended when the run does."""
PATIENT: Final = 0.25
PATIENT_TTL_S: Final = 240.0
PATIENT_LIVENESS_S: Final = 150.0
"""Every fourth seed asks for nothing that expires within the run: an end in time would hide whoever stalls, a
minute, or two with a lease, after all was made good."""
DRAINED: Final = 0.5
DRAINED_S: Final = (20.0, 35.0)
"""In so many of those, if there are several kinds of boards, the batteries of one kind are empty then (world
time), for good: where everybody comes back, whoever waits for the dead is not seen."""
WRITTEN: Final = 0.6
"""Of seeds, in which tables are written."""
FUNCTIONS: Final = ("work.short", "work.long", "work.large")


def drawn_scenario(seed: int, nodes: int = NODES, focus: str = "") -> Prepared:
    """The scenario of this seed, for the world. focus: one of ``focus.FOCUSES`` instead of everything mixed.

    Raises: ValueError: too few or too many nodes.
    """
    if not NODES_MIN <= nodes <= NODES_MAX:
        raise ValueError(f"{nodes} nodes; a swarm has {NODES_MIN} to {NODES_MAX}")
    if focus:
        about = focused(focus, seed, nodes)
        return Prepared(Document(f"seed {seed}", about, {}), about, seed, [], {}, {})
    rng = Random(f"swarm {STREAM}/{seed}/{nodes}")  # noqa: S311  a simulation is repeatable
    patient = _is_patient(seed, nodes)
    links = {name: _link(rng) for name in ("near", "far")}
    scenario = Scenario(
        fleet=FleetTable(name=f"seed {seed}", duration_s=DURATION_S, seed=seed),
        run=RunTable(liveness_s=PATIENT_LIVENESS_S if patient else LIVENESS_S),
        gateway=GatewayTable(workers=rng.choice((1, 2, 4))),
        links=links,
        services=_services(rng),
        devices=_drained(_devices(rng, nodes, patient), seed, nodes)
        if patient
        else _devices(rng, nodes, patient),
        faults=_revocation(rng, nodes),
        rates=_rates(rng),
    )
    scenario = _writing(scenario, seed, nodes)
    document = Document(f"seed {seed}", scenario, {})
    return Prepared(document, scenario, seed, [], {}, {})


def version_of(focus: str) -> int:
    """Of what a seed means by itself."""
    return focuses.VERSION if focus else VERSION


def _is_patient(seed: int, nodes: int) -> bool:
    return Random(f"patience {seed}/{nodes}").random() < PATIENT  # noqa: S311  a simulation is repeatable


def _maybe(rng: Random, share: float) -> bool:
    return rng.random() < share


def _link(rng: Random) -> LinkTable:
    table: dict[str, Any] = {"delay_ms": rng.choice((0.3, 2.0, 10.0, 40.0))}
    if _maybe(rng, 0.5):
        table["jitter_ms"] = rng.choice((0.5, 5.0, 50.0))
    if _maybe(rng, 0.4):
        table["loss"] = rng.choice((0.01, 0.05, 0.1))
    if _maybe(rng, 0.3):
        table["parcel_loss"] = rng.choice((0.01, 0.1, 0.3))
    if _maybe(rng, 0.3):
        table["duplicate"] = rng.choice((0.02, 0.1))
    if _maybe(rng, 0.3):
        table |= {"reorder": rng.choice((0.02, 0.1, 0.3)), "reorder_ms": rng.choice((20.0, 200.0, 2000.0))}
    if _maybe(rng, 0.2):
        table |= {"up_kbps": rng.choice((500.0, 5000.0)), "down_kbps": rng.choice((500.0, 5000.0))}
    return LinkTable(**table)


def _services(rng: Random) -> dict[str, ServiceTable]:
    return {
        "work.short": ServiceTable(distribution="exponential", mean_ms=rng.choice((2.0, 20.0, 80.0))),
        "work.long": ServiceTable(
            distribution="lognormal", mean_ms=rng.choice((300.0, 1500.0)), cv=rng.choice((0.3, 1.5))
        ),
        "work.large": ServiceTable(mean_ms=50.0, output_bytes=rng.choice((20_000, 90_000, 300_000))),
    }


def _devices(rng: Random, nodes: int, patient: bool) -> tuple[DevicesTable, ...]:
    classes = min(nodes, rng.choice((1, 2, 3)))
    found = []
    for number in range(classes):
        count = nodes // classes + (number < nodes % classes)
        workers = rng.choice((1, 1, 2, 4))
        lies = _maybe(rng, 0.2)
        found.append(
            DevicesTable(
                prefix=f"n{number}",
                count=count,
                workers=workers,
                cores=rng.choice((workers, workers + 1)),
                speed=rng.choice((0.1, 0.5, 1.0, 2.0)),
                link=rng.choice(("near", "far")),
                clock_drift_ppm=500.0 if lies else 0.0,
                rtc=not _maybe(rng, 0.15),
                arrivals=tuple(_arrivals(rng, name, patient) for name in FUNCTIONS if _maybe(rng, 0.7)),
            )
        )
    return tuple(found)


def _drained(devices: tuple[DevicesTable, ...], seed: int, nodes: int) -> tuple[DevicesTable, ...]:
    rng = Random(f"batteries {seed}/{nodes}")  # noqa: S311  a simulation is repeatable
    if len(devices) < 2 or not _maybe(rng, DRAINED):
        return devices
    last = devices[-1]
    battery_wh = last.idle_w * rng.uniform(*DRAINED_S) / 3600
    return *devices[:-1], msgspec.structs.replace(last, battery_wh=battery_wh, busy_w=last.idle_w)


def _arrivals(rng: Random, function: str, patient: bool) -> Arrivals:
    long = function != "work.short"
    return Arrivals(
        function=function,
        kind=rng.choice(("poisson", "poisson", "bursty")),
        rate_hz=rng.choice((0.05, 0.2) if long else (0.2, 1.0)),
        burst=rng.choice((5, 40)),
        input_bytes=rng.choice((200, 2_000, 40_000)) if function == "work.large" else rng.choice((64, 1_000)),
        ttl_s=max(rng.choice(TTL_S), PATIENT_TTL_S if patient else 0.0),
        deadline_s=rng.choice((1.0, 8.0)) if _maybe(rng, 0.2) else None,
        priority=rng.choice((0, 0, 0, 5)),
        where=rng.choice(("any", "any", "any", "any", "local", "gateway")),
    )


def _rates(rng: Random) -> Rates:
    """About one fault of a kind that is on for three nodes in a run, and of the house every second run."""
    hourly = 3600.0 / DURATION_S / 3
    table: dict[str, Any] = {}
    for kind in (
        "kill", "power_cut", "pause", "partition", "disk_full", "disk_error", "clock_step", "slow",
        "kill_worker",
    ):  # fmt: skip
        if _maybe(rng, 0.3):
            table[kind] = hourly * rng.choice((0.3, 1.0, 2.0))
    for kind in ("broker_kill", "broker_wipe", "gateway_kill", "gateway_power_cut"):
        if _maybe(rng, 0.2):
            table[kind] = 3600.0 / DURATION_S * rng.choice((0.7, 2.0))
    table |= {
        "dead_s": rng.choice((0.5, 5.0, 15.0)),
        "paused_s": rng.choice((1.0, 10.0)),
        "cut_s": rng.choice((1.0, 8.0, 25.0)),
        "full_s": rng.choice((3.0, 15.0)),
        "slow_s": 10.0,
        "gateway_dead_s": rng.choice((1.0, 10.0)),
        "step_s": rng.choice((5.0, 3600.0, 3.2e8)),
        "slow_factor": rng.choice((3.0, 30.0)),
    }
    return Rates(**table)


def _writing(scenario: Scenario, seed: int, nodes: int) -> Scenario:
    """Tables, of few keys, so that writers meet; by all nodes and the gateway. Of less than half of the
    members they may go back to old copies: more of them a mesh does not bear."""
    rng = Random(f"tables {seed}/{nodes}")  # noqa: S311  a simulation is repeatable
    if not _maybe(rng, WRITTEN):
        return scenario
    table = StateTable(
        rate_hz=rng.choice((0.1, 0.3, 1.0)),
        tables=rng.choice((1, 2)),
        keys=rng.choice((2, 6, 30)),
        value_bytes=rng.choice((0, 0, 0, 3000)),
        own=rng.choice((0.1, 0.3)),
        removals=rng.choice((0.0, 0.1, 0.3)),
        counters=rng.choice((0.0, 0.2)),
        sets=rng.choice((0.0, 0.2)),
    )
    back_s = rng.choice((3.0, 15.0))
    faults = list(scenario.faults)
    if _maybe(rng, 0.3):
        shut_out = {fault.node for fault in faults}
        whom = [name for name in scenario.nodes if name not in shut_out]
        for name in rng.sample(whom, min(len(whom), rng.randint(1, max(1, nodes // 2)))):
            at_s = rng.uniform(5.0, DURATION_S - 5.0)
            faults.append(Fault(at_s=at_s, do="restore-tables", node=name, back_s=min(at_s, back_s)))
    faults.sort(key=lambda each: each.at_s)
    return msgspec.structs.replace(scenario, state=table, faults=tuple(faults))


def _revocation(rng: Random, nodes: int) -> tuple[Fault, ...]:
    if nodes < 4 or not _maybe(rng, 0.15):
        return ()
    return (Fault(at_s=rng.uniform(5.0, 25.0), do="revoke", node="n0-1"),)
