"""Named seeds: runs that once broke a promise, played again with every change.

A seed means a run only together with its number of nodes and ``drawing.VERSION``: those of another version
are not played any more. What must outlive that is kept as a scenario of its own, built in code
(``SCENARIOS``), with the few faults that were enough.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from device_sim.faults import Fault
from device_sim.fleet.preparation import Prepared
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
from device_sim.virtual.recorded import prepared


class Named(NamedTuple):
    seed: int
    nodes: int
    drawing: int
    found: str
    fixed: str
    """The commit."""


SEEDS: Final = (
    Named(10, 6, 3, "writes that rested on a dead member's future stamp, kept back for ever", "3742ed3"),
    Named(20121, 12, 2, "beats that a slowed machine let through at once, counted as too many", "98fc972"),
)


def a_clock_jumps_ten_years() -> Prepared:
    """Results that a client has not heard of were pruned as too old (fixed by 6690606)."""
    work = Arrivals(function="work.short", kind="poisson", rate_hz=2.0, input_bytes=64, ttl_s=30.0)
    scenario = Scenario(
        fleet=FleetTable(name="a clock jumps ten years", duration_s=60.0, seed=1),
        run=RunTable(liveness_s=60.0),
        services={"work.short": ServiceTable(distribution="constant", mean_ms=20.0)},
        devices=(DevicesTable(prefix="n", count=4, arrivals=(work,)),),
        faults=(
            Fault(at_s=30.0, do="clock-step", node="n-1", by_s=3.2e8),
            Fault(at_s=35.0, do="clock-step", node="n-2", by_s=-3.2e8),
        ),
    )
    return prepared(scenario, 1)


def slow_lines_full_of_inputs() -> Prepared:
    """Copies of what had not left a line filled it, leases lapsed behind them, and nothing came through any
    more; who was revoked meanwhile was heard under the old keys for seconds (fixed by d5f06de)."""
    work = Arrivals(
        function="work.large", kind="poisson", rate_hz=2.0, input_bytes=40_000, where="gateway", ttl_s=240.0
    )
    scenario = Scenario(
        fleet=FleetTable(name="slow lines full of inputs", duration_s=60.0, seed=4),
        run=RunTable(heal_s=45.0, liveness_s=120.0),
        gateway=GatewayTable(workers=2),
        links={"line": LinkTable(delay_ms=20.0, jitter_ms=5.0, up_kbps=500.0, down_kbps=2_000.0)},
        services={"work.large": ServiceTable(distribution="exponential", mean_ms=100.0, output_bytes=2_000)},
        devices=(DevicesTable(prefix="n", count=6, link="line", arrivals=(work,)),),
        faults=(
            Fault(at_s=20.0, do="restart-gateway"),
            Fault(at_s=40.0, do="revoke", node="n-3"),
        ),
    )
    return prepared(scenario, 4)


def the_gateways_clock_is_set_back() -> Prepared:
    """Its offset to itself is always 0: it stamped an hour ahead, and nobody took its writes
    (fixed by 81c6a0b)."""
    scenario = Scenario(
        fleet=FleetTable(name="the gateway's clock is set back", duration_s=20.0, seed=7),
        run=RunTable(liveness_s=40.0),
        devices=(DevicesTable(prefix="n", count=3),),
        state=StateTable(rate_hz=1.0, own=0.6),
        faults=(Fault(at_s=8.0, do="clock-step", node="gateway", by_s=-3600.0),),
    )
    return prepared(scenario, 7)


SCENARIOS: Final[tuple[Callable[[], Prepared], ...]] = (
    a_clock_jumps_ten_years,
    slow_lines_full_of_inputs,
    the_gateways_clock_is_set_back,
)
