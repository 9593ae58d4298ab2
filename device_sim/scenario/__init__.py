"""A scenario: a fleet, what its devices measure and ask for, what is done to it, what is expected of it.

    tables           what may stand there          reading   text ─► ``Document``, mistakes with their line
    contradictions   what no single key can know   scaling   the same story faster, or with more nodes
    beyond           what real daemons cannot play of it

The reference for people is docs/scenario.md. Not here: files.
"""

from device_sim.scenario.beyond import FLEET_NODES_MAX, beyond_fleet, for_fleet, unplayable
from device_sim.scenario.reading import Document, parse, spelled
from device_sim.scenario.scaling import lengthened, scaled, scaled_to
from device_sim.scenario.tables import (
    NODES_MAX,
    Arrivals,
    Call,
    DevicesTable,
    Expect,
    FleetTable,
    FunctionsTable,
    GatewayTable,
    LinkTable,
    RunTable,
    Scenario,
    Sensor,
    ServiceTable,
    Spread,
    StateTable,
    Trace,
)

__all__ = [
    "FLEET_NODES_MAX",
    "NODES_MAX",
    "Arrivals",
    "Call",
    "DevicesTable",
    "Document",
    "Expect",
    "FleetTable",
    "FunctionsTable",
    "GatewayTable",
    "LinkTable",
    "RunTable",
    "Scenario",
    "Sensor",
    "ServiceTable",
    "Spread",
    "StateTable",
    "Trace",
    "beyond_fleet",
    "for_fleet",
    "lengthened",
    "parse",
    "scaled",
    "scaled_to",
    "spelled",
    "unplayable",
]
