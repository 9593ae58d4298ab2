"""What a gateway tells of its members: named while they are members, counted afterwards."""

from __future__ import annotations

from edge_node import metrics
from edge_node.wire.messages import Load
from gateway.fleet import registry as fleet
from gateway.metrics import METRICS, of_members
from security.roster import Member

SECOND = 1_000_000_000


def member(name: str, status: str = "active") -> Member:
    return Member(id=name, roles=("node",), labels={}, keys=(), status=status)


def told(registry: fleet.Registry, now_ns: int) -> dict[tuple[str, str], float]:
    samples = list(of_members(registry.rows(now_ns), wall_ms=1_700_000_000_000))
    assert metrics.text(samples, METRICS).count("# TYPE") == len({name for name, *_ in samples})
    return {(name, "".join(labels.values())): float(value) for name, labels, value in samples}


def test_members_are_told_by_name_with_their_load():
    registry = fleet.Registry()
    registry.handle(0, fleet.Listed((member("gateway"), member("pi-1"), member("pi-2"))))
    registry.handle(0, fleet.Heard("pi-1", Load(4, 2500)))

    found = told(registry, 10 * SECOND)

    assert found["edgeweave_node_up", "pi-1"] == 1 and found["edgeweave_node_up", "pi-2"] == 0
    assert found["edgeweave_node_last_heard_timestamp_seconds", "pi-1"] == 1_699_999_990
    assert found["edgeweave_node_workers", "pi-1"] == 4
    assert found["edgeweave_node_backlog_seconds", "pi-1"] == 2.5
    assert ("edgeweave_node_workers", "pi-2") not in found, "nothing is known of it yet"
    assert not [name for name in found if name[1] == "gateway"], "it tells of itself"


def test_who_left_is_counted_and_wakes_nobody():
    registry = fleet.Registry()
    members = (member("pi-1"), member("pi-2", "revoked"), member("pi-3", "left"))
    registry.handle(0, fleet.Listed(members))
    registry.handle(0, fleet.Heard("pi-1"))
    registry.handle(0, fleet.WentDown("pi-1", "silent"))

    found = told(registry, 0)

    states = {state: count for (name, state), count in found.items() if name == "edgeweave_nodes"}
    assert states == {"up": 0, "down": 1, "unseen": 0, "revoked": 1, "left": 1}
    assert [node for name, node in found if name == "edgeweave_node_up"] == ["pi-1"]
