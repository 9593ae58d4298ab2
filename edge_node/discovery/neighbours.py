"""Neighbours: what one member says of itself on the local network, and where others say the broker is.

The shell over ``sightings`` (who was seen, believed for nothing) and ``mdns`` (its sockets). A node announces
the broker that it has found, so whoever knows only a dead address learns another from any member that it
sees; which broker is the right one is decided by the name in its certificate.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from edge_node.discovery.mdns import Mdns
from edge_node.discovery.sightings import Address, Advert, Appeared, Members, Sightings, parse_address
from security.errors import EdgeweaveError
from security.roster import RosterView

log = logging.getLogger(__name__)

BROKERS_ANNOUNCED = 3  # as many as a roster names


class Neighbours:
    """``async with neighbours.listening():`` announces and listens; everything else is state.

    Args: interface: see ``mdns``.   on_event: called with what mDNS saw; hand it to ``seen`` in a loop turn.
    """

    def __init__(
        self, *, me: str, roster: RosterView, interface: str | None, on_event: Callable[[Any], None]
    ) -> None:
        assert roster.current is not None
        self.sightings = Sightings()
        self.interface = interface
        self._me = me
        self._mesh = roster.current.mesh_id
        self._roster = roster
        self._on_event = on_event
        self._mdns: Mdns | None = None
        self._advert: Advert | None = None

    def listening(self) -> Mdns:
        self._mdns = Mdns(self.interface, self._advert, self._on_event)
        return self._mdns

    def advertise(self, advert: Advert) -> None:
        """What mDNS tells others of us from now on."""
        self._advert = advert
        if self._mdns is not None:
            self._mdns.update(advert)

    def announce_member(self, broker: Address | None) -> None:
        """We are a node, connected to *broker*."""
        brokers = dict.fromkeys([*([broker] if broker else []), *self.brokers()])
        self.advertise(Advert(self._mesh, self._me, "node", tuple(brokers)[:BROKERS_ANNOUNCED]))

    def members(self, now_ns: int, ids: frozenset[str]) -> None:
        self.sightings.handle(now_ns, Members(self._mesh, ids))

    def seen(self, now_ns: int, event: Any) -> list[str]:
        """Take in what mDNS saw. Out: members (as they call themselves) that were not seen before."""
        self.sightings.tick(now_ns)  # what was not heard again gives its place to others
        effects = self.sightings.handle(now_ns, event)
        found = [effect.sighting for effect in effects if isinstance(effect, Appeared)]
        return [each.node_id for each in found if each.mesh_id == self._mesh]

    def gateways(self) -> list[Address]:
        """Where sighted gateways take joining and renewal requests."""
        return [address for each in self.sightings.gateways(self._mesh) for address in each.joins]

    def brokers(self) -> list[Address]:
        """The roster's brokers in its order, then what sighted members say; the TLS name decides."""
        roster = self._roster.current
        told = []
        for text in roster.brokers if roster is not None else ():
            try:
                told.append(parse_address(text))
            except EdgeweaveError as error:
                log.error("the roster names a broker that is no address", extra={"cause": error.cause})
        return list(dict.fromkeys([*told, *self.sightings.brokers(self._mesh)]))
