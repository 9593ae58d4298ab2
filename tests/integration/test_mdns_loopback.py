"""Real zeroconf, on loopback alone."""

from __future__ import annotations

import asyncio

import pytest

from edge_node.discovery import mdns
from edge_node.discovery.mdns import LocalAddress, Mdns, announced, chosen_addresses, interface_of
from edge_node.discovery.sightings import Advert, Gone, Seen
from security.errors import BadInput

MESH = "00000000deadbeef"


class Heard:
    """Collects what an Mdns tells, and lets a test wait for it."""

    def __init__(self):
        self.events = []
        self._moved = asyncio.Event()

    def __call__(self, event):
        self.events.append(event)
        self._moved.set()

    async def first(self, wanted):
        async with asyncio.timeout(20):
            while True:
                for event in self.events:
                    if wanted(event):
                        return event
                self._moved.clear()
                await self._moved.wait()


@pytest.mark.slow
async def test_two_members_see_each_other_a_move_and_a_goodbye():
    at_gateway, at_node = Heard(), Heard()
    gateway = Advert(MESH, "gateway", "gateway", (("127.0.0.1", 18883),), 18443, ("127.0.0.1",))
    node = Advert(MESH, "pi-1", "node", (("127.0.0.1", 18883),))

    async with Mdns("lo", node, at_node):
        async with Mdns("lo", gateway, at_gateway) as speaking:
            seen = await at_node.first(lambda e: isinstance(e, Seen) and e.sighting.node_id == "gateway")
            back = await at_gateway.first(lambda e: isinstance(e, Seen) and e.sighting.node_id == "pi-1")
            speaking.update(
                Advert(MESH, "gateway", "gateway", (("127.0.0.1", 28883),), 18443, ("127.0.0.1",))
            )
            await at_node.first(
                lambda e: isinstance(e, Seen) and e.sighting.brokers == (("127.0.0.1", 28883),)
            )
        gone = await at_node.first(lambda e: isinstance(e, Gone))

    assert seen.sighting.joins == (("127.0.0.1", 18443),)
    assert seen.sighting.brokers == (("127.0.0.1", 18883),)
    assert back.sighting.joins == ()
    assert gone.instance == seen.sighting.instance
    assert not any(isinstance(e, Seen) and e.sighting.node_id == "pi-1" for e in at_node.events)


@pytest.mark.slow
async def test_a_watcher_without_an_advert_sees_who_was_there_before():
    quiet, watching = Heard(), Heard()
    gateway = Advert(MESH, "gateway", "gateway", (), 18443, ("0.0.0.0",))

    async with Mdns("lo", gateway, quiet), Mdns("lo", None, watching):
        seen = await watching.first(lambda e: isinstance(e, Seen))

    assert seen.sighting.joins == (("127.0.0.1", 18443),)
    assert quiet.events == []


async def test_none_starts_nothing(monkeypatch):
    def never(*_):
        raise AssertionError("opened a socket")

    monkeypatch.setattr(Mdns, "_open", never)
    monkeypatch.setattr(mdns, "local_addresses", never)

    async with Mdns("none", Advert(MESH, "pi-1", "node"), never) as silent:
        silent.update(None)

        assert not silent.started


async def test_a_network_that_refuses_costs_a_log_line_not_the_daemon(monkeypatch, caplog):
    def busy(self):
        raise OSError("Address already in use")

    monkeypatch.setattr(Mdns, "_open", busy)

    async with Mdns("lo", Advert(MESH, "pi-1", "node"), print) as deaf:
        assert not deaf.started
    assert "mDNS is off" in caplog.text


async def test_an_unknown_interface_is_named():
    with pytest.raises(BadInput, match="no interface 'nope0'"):
        await Mdns("nope0", None, print).__aenter__()


ETH = LocalAddress("eth0", "192.0.2.7", "192.0.2.0/24")
WLAN = LocalAddress("wlan0", "198.51.100.7", "198.51.100.0/24")
SIX = LocalAddress("eth0", "fd00::7", "fd00::/64")
LO = LocalAddress("lo", "127.0.0.1", "127.0.0.0/8")


def test_an_interface_name_chooses_its_addresses():
    assert chosen_addresses("eth0", [LO, ETH, WLAN, SIX]) == [ETH, SIX]
    assert chosen_addresses("192.0.2.7", [LO, ETH, WLAN, SIX]) == [ETH]
    assert chosen_addresses(None, [LO, ETH, WLAN]) == [ETH, WLAN]
    assert chosen_addresses("auto", [LO, ETH, WLAN]) == [ETH, WLAN]


def test_a_wildcard_stands_for_the_chosen_addresses_and_loopback_stays_home():
    advert = Advert(MESH, "gateway", "gateway", (("0.0.0.0", 8883), ("127.0.0.1", 1)), 8443, ("0.0.0.0",))

    told, hosts = announced(advert, [ETH, SIX], loopback=False)

    assert told.brokers == (("192.0.2.7", 8883),)
    assert (told.join_port, hosts) == (8443, ["192.0.2.7"])


def test_a_port_that_does_not_listen_there_is_not_announced():
    advert = Advert(MESH, "gateway", "gateway", (), 8443, ("127.0.0.1",))

    told, hosts = announced(advert, [ETH], loopback=False)

    assert (told.join_port, hosts) == (0, ["192.0.2.7"])


def test_a_sighting_is_put_on_its_interface():
    assert interface_of("192.0.2.99", [LO, ETH, WLAN]) == "eth0"
    assert interface_of("203.0.113.1", [LO, ETH, WLAN]) == ""
    assert interface_of("not an address", [ETH]) == ""
