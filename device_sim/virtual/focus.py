"""Focus: drawings that are about one fault, dense, where the swarm's own mixes everything.

    focus, seed, nodes ─► a plain fleet, and that fault again and again ─► Scenario

A swarm with everything in it kills once in a minute; here somebody dies at every moment, in the middle of
work, and nothing else is wrong: thousands of one kind fit into an hour, and a violation has one cause.
Seeds enumerate where there is something to enumerate: points of a ledger's operations, the nth write, sorts
of loss. Drawn from a stream of each focus; the swarm's own drawing does not depend on anything here.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final, NamedTuple

import msgspec

from device_sim.faults import GATEWAY, Fault
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

VERSION: Final = 1
LIVENESS_S: Final = 90.0
TTL_S: Final = 30.0
HOUR_S: Final = 3600.0
TEN_YEARS_S: Final = 315_576_000.0
PREFIX: Final = "n"
IDLE: Final = "w"
"""Boards that ask for nothing and work for the others."""
POINTS: Final = (
    "before write", "after write", "before fsync", "after fsync", "before names", "after names",
)  # fmt: skip
NTH_MAX: Final = 200
"""Of a full disk and of an fsync that fails: each of the first so many, by seed."""
PARTITIONS: Final = ("full", "to", "from", "flapping", "gateway", "60 s")
PARCELS: Final = ("loss 1 %", "loss 10 %", "loss 30 %", "duplicates 10 %", "delay 2 s", "reorder 64")
CLOCKS: Final = ("+1 h", "-1 h", "+10 years at boot", "-10 years at boot", "-5 min", "500 ppm")
DISKS: Final = ("owner full", "owner EIO", "gateway full", "gateway EIO")

TABLES: Final = ("power cuts", "partitions", "lost parcels", "clocks", "full disks", "flips", "old disks")


class Focus(NamedTuple):
    what: str
    """For people."""
    scenario: Callable[[Random, int, int], Scenario]
    """(stream, seed, nodes) -> what is played."""
    kinds: tuple[str, ...] = ("",)
    """Seed n is of kind n modulo their number."""


def focused(focus: str, seed: int, nodes: int) -> Scenario:
    """Raises: KeyError: no such focus."""
    rng = Random(f"focus {focus} {VERSION}/{seed}/{nodes}")  # noqa: S311  a simulation is repeatable
    return FOCUSES[focus].scenario(rng, seed, nodes)


def kind_of(focus: str, seed: int) -> str:
    """Which of its kinds this seed is; empty: it has one only."""
    kinds = FOCUSES[focus].kinds
    return kinds[seed % len(kinds)]


# ── a plain fleet ─────────────────────────────────────────────────────────────────────────────────────


def _fleet(
    rng: Random,
    seed: int,
    nodes: int,
    duration_s: float,
    faults: list[Fault],
    *,
    rate_hz: float = 0.5,
    mean_ms: float = 300.0,
    link: LinkTable | None = None,
    gateway_hz: float = 0.0,
    askers: int = 0,
    **more: Any,
) -> Scenario:
    long = Arrivals(function="work.long", kind="poisson", rate_hz=rate_hz, input_bytes=200, ttl_s=TTL_S)
    there = Arrivals(
        function="work.short", kind="poisson", rate_hz=rate_hz / 2, input_bytes=64, ttl_s=TTL_S, where=GATEWAY
    )
    own = Arrivals(
        function="work.short", kind="poisson", rate_hz=gateway_hz or 1.0, input_bytes=64, ttl_s=TTL_S
    )
    asking = DevicesTable(
        prefix=PREFIX,
        count=askers or nodes,
        workers=rng.choice((1, 2)),
        cores=2,
        link="line",
        arrivals=(long, there),
        **more,
    )
    devices = [asking]
    if asking.count < nodes:
        idle = msgspec.structs.replace(asking, prefix=IDLE, count=nodes - asking.count, arrivals=())
        devices.append(msgspec.structs.replace(idle, speed=2.0))
    return Scenario(
        fleet=FleetTable(name=f"seed {seed}", duration_s=duration_s, seed=seed),
        run=RunTable(liveness_s=LIVENESS_S),
        gateway=GatewayTable(workers=2, arrivals=(own,) if gateway_hz else ()),
        links={"line": link or LinkTable(delay_ms=rng.choice((0.3, 2.0, 10.0)))},
        services={
            "work.short": ServiceTable(distribution="exponential", mean_ms=20.0),
            "work.long": ServiceTable(distribution="exponential", mean_ms=mean_ms),
        },
        devices=tuple(devices),
        faults=tuple(sorted(faults, key=lambda each: each.at_s)),
    )


def _names(nodes: int) -> list[str]:
    return [f"{PREFIX}-{number}" for number in range(1, nodes + 1)]


# ── one each ──────────────────────────────────────────────────────────────────────────────────────────


def _worker_kill(rng: Random, seed: int, nodes: int) -> Scenario:
    """Of each node every three seconds or so: a worker process, or all of it as soon as it owes something."""
    duration_s, faults = 60.0, list[Fault]()
    askers = max(1, nodes // 2)
    idle = [f"{IDLE}-{number}" for number in range(1, nodes - askers + 1)]
    for node in [*_names(askers), *idle]:
        at_s = rng.uniform(0.5, 4.0)
        while at_s < duration_s - 5:
            if rng.random() < 0.5:
                faults.append(Fault(at_s=at_s, do="kill-worker", node=node))
                at_s += rng.uniform(0.5, 3.0)
            else:
                wait_s = 2.0 if node.startswith(PREFIX) else 0.0
                owes = 1 if wait_s else 0
                faults.append(Fault(at_s=at_s, do="kill", node=node, open_min=owes, open_wait_s=wait_s))
                at_s += wait_s + rng.choice((0.1, 0.5, 2.0))
                faults.append(Fault(at_s=at_s, do="restart", node=node))
                at_s += rng.uniform(1.0, 5.0)
    mean_ms = rng.choice((600.0, 1500.0))
    return _fleet(rng, seed, nodes, duration_s, faults, rate_hz=1.0, mean_ms=mean_ms, askers=askers)


def _gateway_kill(rng: Random, seed: int, nodes: int) -> Scenario:
    """Every four seconds it dies around another operation of its disk: twelve sorts, at several counts."""
    duration_s, faults = 100.0, list[Fault]()
    number = seed * 23
    at_s = 1.0
    while at_s < duration_s - 6:
        point, power = POINTS[number % 6], bool(number // 6 % 2)
        names = point.endswith("names")
        nth = 1 + (number // 12) % (3 if names else 8)
        faults.append(
            Fault(at_s=at_s, do="crash-at", node=GATEWAY, point=point, nth=nth, power=power)  # type: ignore[arg-type]
        )
        if names or number % 5 == 0:  # files get other names when it starts: the next start is hit as well
            faults.append(Fault(at_s=at_s + 0.01, do="restart-gateway"))
        number += 1
        at_s += 4.0
    return _fleet(
        rng, seed, nodes, duration_s, faults, rate_hz=0.3, mean_ms=100.0, gateway_hz=rng.choice((2.0, 6.0))
    )


def _power_cut(rng: Random, seed: int, nodes: int) -> Scenario:
    """Of each node every five seconds or so, and of the gateway."""
    duration_s, faults = 60.0, list[Fault]()
    for node in _names(nodes):
        at_s = rng.uniform(0.5, 4.0)
        while at_s < duration_s - 5:
            faults.append(Fault(at_s=at_s, do="power-cut", node=node))
            at_s += rng.choice((0.1, 0.5, 2.0))
            faults.append(Fault(at_s=at_s, do="restart", node=node))
            at_s += rng.uniform(1.0, 6.0)
    at_s = rng.uniform(2.0, 8.0)
    while at_s < duration_s - 5:
        faults.append(Fault(at_s=at_s, do="power-cut-gateway"))
        at_s += rng.choice((0.1, 1.0))
        faults.append(Fault(at_s=at_s, do="restart-gateway"))
        at_s += rng.uniform(4.0, 12.0)
    return _fleet(rng, seed, nodes, duration_s, faults, rate_hz=1.5, mean_ms=100.0, gateway_hz=2.0)


def _partition(rng: Random, seed: int, nodes: int) -> Scenario:
    kind = PARTITIONS[seed % len(PARTITIONS)]
    duration_s, faults = 100.0, list[Fault]()

    def cut(node: str, at_s: float, for_s: float, direction: Any = None) -> None:
        faults.append(Fault(at_s=at_s, do="partition", node=node, direction=direction, until_s=at_s + for_s))

    at_s = 2.0
    while at_s < 80.0:
        node = GATEWAY if kind == "gateway" else rng.choice(_names(nodes))
        if kind == "60 s":
            for each in rng.sample(_names(nodes), max(1, nodes // 3)):
                cut(each, at_s, 60.0, rng.choice((None, "to", "from")))
            at_s += 90.0
        elif kind == "flapping":
            for _ in range(rng.randint(4, 10)):
                for_s = rng.uniform(0.1, 1.5)
                cut(node, at_s, for_s, rng.choice((None, "to", "from")))
                at_s += for_s + rng.uniform(0.05, 1.0)
            at_s += 12.0
        else:
            for_s = rng.choice((0.5, 3.0, 8.0, 15.0))
            cut(node, at_s, for_s, kind if kind in ("to", "from") else None)
            at_s += for_s + 12.0
    return _fleet(rng, seed, nodes, duration_s, faults)


def _parcels(rng: Random, seed: int, nodes: int) -> Scenario:
    link = {
        "loss 1 %": {"parcel_loss": 0.01},
        "loss 10 %": {"parcel_loss": 0.1},
        "loss 30 %": {"parcel_loss": 0.3},
        "duplicates 10 %": {"duplicate": 0.1},
        "delay 2 s": {"parcel_delay_ms": 2000.0},
        # Of a member's some seven publications a second those of nine seconds are passed on in any order.
        "reorder 64": {"reorder": 1.0, "reorder_ms": 9000.0},
    }[PARCELS[seed % len(PARCELS)]]
    table = LinkTable(delay_ms=rng.choice((0.3, 10.0)), **link)
    return _fleet(rng, seed, nodes, 30.0, [], link=table, rate_hz=1.0, mean_ms=rng.choice((50.0, 300.0)))


def _clocks(rng: Random, seed: int, nodes: int) -> Scenario:
    kind = CLOCKS[seed % len(CLOCKS)]
    duration_s, faults = 40.0, list[Fault]()
    whom = [*rng.sample(_names(nodes), max(1, nodes // 2)), *([GATEWAY] if rng.random() < 0.3 else [])]
    for node in whom:
        at_s = rng.uniform(1.0, 25.0)
        step_s = {"+1 h": HOUR_S, "-1 h": -HOUR_S, "-5 min": -300.0}.get(kind)
        if step_s is not None:
            faults.append(Fault(at_s=at_s, do="clock-step", node=node, by_s=step_s))
        elif kind.endswith("at boot"):
            by_s = TEN_YEARS_S if kind.startswith("+") else -TEN_YEARS_S
            do, back, name = ("power-cut", "restart", node)
            if node == GATEWAY:
                do, back, name = "power-cut-gateway", "restart-gateway", ""
            faults += [
                Fault(at_s=at_s, do=do, node=name),  # type: ignore[arg-type]
                Fault(at_s=at_s + 0.5, do="clock-step", node=node, by_s=by_s),
                Fault(at_s=at_s + 1.0, do=back, node=name),  # type: ignore[arg-type]
            ]
    drift = 500.0 if kind == "500 ppm" else 0.0
    return _fleet(rng, seed, nodes, duration_s, faults, clock_drift_ppm=drift, gateway_hz=1.0)


def _disk(rng: Random, seed: int, nodes: int) -> Scenario:
    kind = DISKS[seed % len(DISKS)]
    nth = 1 + (seed // len(DISKS)) % NTH_MAX
    whom = GATEWAY if kind.startswith("gateway") else f"{PREFIX}-1"
    faults = []
    if kind.endswith("full"):
        faults.append(Fault(at_s=0.0, do="disk-full", node=whom, nth=nth))
        faults.append(Fault(at_s=35.0, do="disk-free", node=whom))
    else:
        faults.append(Fault(at_s=0.0, do="disk-error", node=whom, nth=nth))
    if rng.random() < 0.5:  # what a start writes is among the first
        back = Fault(at_s=0.01, do="restart-gateway") if whom == GATEWAY else None
        faults.append(back or Fault(at_s=0.01, do="restart", node=whom))
    return _fleet(rng, seed, nodes, 40.0, faults, rate_hz=5.0, mean_ms=20.0, gateway_hz=8.0)


def _flip(rng: Random, seed: int, nodes: int) -> Scenario:
    """A bit of a store, of each member every ten seconds or so; half of them are looked at by a start."""
    duration_s, faults = 40.0, list[Fault]()
    for node in [*_names(nodes), GATEWAY]:
        at_s = rng.uniform(1.0, 15.0)
        while at_s < duration_s - 5:
            faults.append(Fault(at_s=at_s, do="disk-flip", node=node))
            if rng.random() < 0.5:
                at_s += rng.choice((0.01, 1.0))
                whole = Fault(at_s=at_s, do="restart-gateway")
                faults.append(whole if node == GATEWAY else Fault(at_s=at_s, do="restart", node=node))
            at_s += rng.uniform(4.0, 16.0)
    return _fleet(rng, seed, nodes, duration_s, faults, rate_hz=1.0, mean_ms=100.0, gateway_hz=2.0)


def _old_disks(rng: Random, seed: int, nodes: int) -> Scenario:
    """Tables of less than half of the members go back, again and again, to copies of seconds before."""
    duration_s, faults = 40.0, list[Fault]()
    for node in rng.sample([*_names(nodes), GATEWAY], max(1, nodes // 2)):
        at_s = rng.uniform(3.0, 12.0)
        while at_s < duration_s - 3:
            back_s = min(at_s, rng.choice((0.5, 3.0, 15.0)))
            faults.append(Fault(at_s=at_s, do="restore-tables", node=node, back_s=back_s))
            at_s += rng.uniform(4.0, 16.0)
    return _fleet(rng, seed, nodes, duration_s, faults)


def _few_flips(rng: Random, seed: int, nodes: int) -> Scenario:
    """What lies behind a damaged commit is gone: a store goes back to before it, so of less than half."""
    struck = _flip(rng, seed, nodes)
    few = rng.sample([*_names(nodes), GATEWAY], max(1, nodes // 2))
    kept = [each for each in struck.faults if (each.member or GATEWAY) in few]
    return msgspec.structs.replace(struck, faults=tuple(kept))


def _tables(rng: Random, seed: int, nodes: int) -> Scenario:
    """One of the other faults after the other, of members that write tables and do little else."""
    kind, number = TABLES[seed % len(TABLES)], seed // len(TABLES)
    struck = {
        "power cuts": _power_cut,
        "partitions": _partition,
        "lost parcels": _parcels,
        "clocks": _clocks,
        "full disks": _disk,
        "flips": _few_flips,
        "old disks": _old_disks,
    }[kind](rng, number, nodes)
    idle = tuple(msgspec.structs.replace(device, arrivals=()) for device in struck.devices)
    table = StateTable(
        rate_hz=rng.choice((0.5, 2.0)),
        keys=rng.choice((2, 10)),
        own=0.3,
        removals=rng.choice((0.05, 0.3)),
        counters=0.2,
        sets=0.15,
    )
    gateway = msgspec.structs.replace(struck.gateway, arrivals=())
    return msgspec.structs.replace(struck, devices=idle, gateway=gateway, state=table)


FOCUSES: Final[dict[str, Focus]] = {
    "worker-kill": Focus("kill -9 of workers and nodes in the middle of tasks", _worker_kill),
    "gateway-kill": Focus("the gateway's end around every operation of its disk", _gateway_kill),
    "power-cut": Focus("un-fsynced writes dropped, the last block torn", _power_cut),
    "partition": Focus("full, one-way, flapping, 60 s", _partition, PARTITIONS),
    "parcels": Focus("parcels lost, doubled, late, overtaken", _parcels, PARCELS),
    "clocks": Focus("wrong by an hour, by ten years at boot, by -5 min, by 500 ppm", _clocks, CLOCKS),
    "disk": Focus("full at the nth write, EIO at the nth fsync", _disk, DISKS),
    "flip": Focus("a flipped bit of a ledger", _flip),
    "tables": Focus("replicated tables under one of these, and under old disks", _tables, TABLES),
}
