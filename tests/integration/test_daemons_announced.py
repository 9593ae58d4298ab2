"""Who can be seen by mDNS: the gateway and every node, each with the broker that it has found."""

from __future__ import annotations

import asyncio

import pytest

from edge_node.discovery.mdns import Mdns
from tests.support.daemons import Bed
from tests.support.links import free_port

pytestmark = pytest.mark.slow


def test_a_node_announces_the_broker_that_it_found(tmp_path):
    """A neighbour whose broker address died takes it from any member that it sees."""
    with Bed(tmp_path, mdns="lo") as bed:
        gateway, node = bed.pair()
        status = gateway.ask(lambda mesh: mesh.status())
        seen = asyncio.run(watch(status["mesh"], {"gateway", node.name}))
        heard = node.until("it sights the gateway's door", lambda told: told["joining"]["addresses"])

    told = seen[node.name]
    assert (told.role, told.joins) == ("node", ())
    assert [f"{host}:{port}" for host, port in told.brokers] == [status["broker"]["address"]]
    assert heard["joining"]["addresses"] == status["joining"]["addresses"]


def test_a_node_whose_broker_address_died_finds_the_new_one_by_a_neighbour(tmp_path):
    """While it was away the broker moved: the only address in the roster that it keeps answers nobody."""
    with Bed(tmp_path, mdns="lo") as bed:
        gateway, node = bed.pair()
        before = node.ask(lambda mesh: mesh.status())
        assert node.term().code == 0
        assert gateway.term().code == 0
        gateway.start("--broker-port", str(free_port()))
        node.start()

        after = node.connected().until("it knows the new roster", lambda s: grew(s, before))
        assert after["broker"]["address"] != before["broker"]["address"]


def grew(status, before):
    return status["broker"]["connected"] and status["roster"]["version"] > before["roster"]["version"]


async def watch(mesh_id, names):
    """Sightings of these members, once all of them were seen."""
    seen = {}

    def note(event):
        sighting = getattr(event, "sighting", None)
        if sighting is not None and sighting.mesh_id == mesh_id:
            seen[sighting.node_id] = sighting

    async with asyncio.timeout(30), Mdns("lo", None, note):
        while not names <= seen.keys():
            await asyncio.sleep(0.05)
    return seen
