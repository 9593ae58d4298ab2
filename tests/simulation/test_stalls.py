"""No silent stall: a link that looks well and carries nothing is found out, and made anew."""

from __future__ import annotations

import pytest

from device_sim.fleet.preparation import Prepared
from device_sim.scenario.tables import Arrivals, DevicesTable, FleetTable, RunTable, Scenario, ServiceTable
from device_sim.virtual.play import Play
from device_sim.virtual.recorded import prepared
from device_sim.virtual.world import SECOND
from edge_node.transport.watchdog import PROBE_NS, PROBES_MAX, QUIET_NS

LOST_S = 20
pytestmark = pytest.mark.slow


def meshes() -> Prepared:
    work = Arrivals(
        function="work.short", kind="poisson", rate_hz=1.0, input_bytes=64, where="gateway", ttl_s=200.0
    )
    scenario = Scenario(
        fleet=FleetTable(name="a broker that forgets", duration_s=120.0, seed=11),
        run=RunTable(heal_s=110.0, liveness_s=120.0),
        services={"work.short": ServiceTable(distribution="constant", mean_ms=20.0)},
        devices=(DevicesTable(prefix="n", count=3, arrivals=(work,)),),
    )
    return prepared(scenario, 11)


def test_a_broker_that_forgets_what_we_read_is_left_and_met_anew():
    play = Play(meshes())
    broker = play.sites[0].broker

    def forget() -> None:
        session = broker._sessions["n-1"]
        broker._unsubscribe(session, list(session.filters))

    play.world.at(LOST_S * SECOND, forget)
    outcome = play.run()

    assert not outcome.failed, [verdict.violations[:3] for verdict in outcome.failed]
    rebuilt = {name: machine.process.node.watchdog.rebuilt for name, machine in play.machines.items()}
    assert rebuilt.pop("n-1") == 1 and set(rebuilt.values()) == {0}
    link = play.machines["n-1"].process.link
    assert link._number == 2, "one connection before, one after"
    assert link._up_ns < LOST_S * SECOND + QUIET_NS + (PROBES_MAX + 1) * PROBE_NS + 15 * SECOND
    assert play.machines["n-1"].process.node.status()["stories"]["link made anew"] == 1
