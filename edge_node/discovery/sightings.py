"""Sightings: who was seen where on the local network.

The memory behind multicast DNS. Whatever comes in is an **untrusted hint**: anybody on the network may
announce anything, so a sighting proves nothing and only says where it is worth knocking; TLS, names and
sealed sessions decide the rest. Hence everything is checked for its shape and everything is bounded:
a rogue may waste places of strangers, but never those of the members that the roster names.

    Seen(sighting) / Gone(instance) / Members(mesh, ids)  ──▶  Appeared / Changed / Vanished

In: records as text and numbers, monotonic ``now_ns``. Out: effects, and answers to "which gateways?",
"where is the broker said to be?", "on which interface did we see that peer?".
Not here: sockets and zeroconf (``mdns``), connecting to anything (``joining``, ``transport``).

Rejected: one sighting a node id, latest announcement wins. A rogue would then hide a gateway by saying
its name; so several announcements of one id live side by side, and the one that proves itself is used.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

import msgspec
from msgspec.structs import replace

from edge_node.wire.ids import is_mesh_id, is_node_id
from security.errors import BadInput, ProtocolViolation

ADDRESSES_MAX = 8  # an announcement with more is cut: nobody has so many useful ones
TXT_BYTES_MAX = 255  # one string of a TXT record (RFC 6763, 6.1)
INSTANCE_CHARS_MAX = 255
ROLES = frozenset({"gateway", "node"})

_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?\Z"
)

Address = tuple[str, int]


def parse_address(text: str, *, default_port: int | None = None) -> Address:
    """``host:port``, ``[v6]:port``, or a bare host where there is a default port.

    Raises: BadInput: no such shape, or a port outside 1..65535.
    """
    host, port_text = text.strip(), ""
    if host.startswith("["):
        host, closed, rest = host[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise BadInput(f"address {text[:80]!r} is not [IPv6]:port", fix="write it as [fe80::1]:8443")
        port_text = rest[1:]
    elif host.count(":") == 1:
        host, _, port_text = host.partition(":")
    if port_text == "" and default_port is not None:
        port = default_port
    elif port_text.isascii() and port_text.isdigit() and len(port_text) <= 5:
        port = int(port_text)
    else:
        raise BadInput(f"address {text[:80]!r} has no port", fix="write it as host:port")
    if not 1 <= port <= 65535:
        raise BadInput(f"address {text[:80]!r} has an impossible port", fix="use a port from 1 to 65535")
    if not is_host(host):
        raise BadInput(f"address {text[:80]!r} names no host", fix="write it as host:port or [IPv6]:port")
    return host, port


def format_address(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_host(text: str) -> bool:
    """An IP literal (a scope such as %eth0 allowed) or a host name."""
    if ":" in text:
        literal, _, scope = text.partition("%")
        return _is_ip(literal) and (not scope or (scope.isalnum() and len(scope) <= 15))
    if not text.isascii():
        return False
    return _is_ip(text) or (_HOST_NAME.match(text) is not None and not text.replace(".", "").isdigit())


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class Advert(msgspec.Struct, frozen=True):
    """What a member says of itself.

    ``listens`` are the hosts on which ``join_port`` answers (a wildcard stands for every address of the
    advertised interfaces); ``join_port`` 0 means that this member takes no joining requests.
    """

    mesh_id: str
    node_id: str
    role: str
    brokers: tuple[Address, ...] = ()
    join_port: int = 0
    listens: tuple[str, ...] = ()


class Sighting(msgspec.Struct, frozen=True):
    """One announcement, checked for shape and believed for nothing.

    ``addresses`` are (ip, join port; 0 = takes no joining requests).
    """

    instance: str  # the announcement's own name: two announcements of one id stay apart
    mesh_id: str
    node_id: str
    role: str
    addresses: tuple[Address, ...]
    brokers: tuple[Address, ...] = ()
    link_interface: str = ""  # the local interface whose network holds the address; "" = unknown
    seen_ns: int = 0

    @property
    def joins(self) -> tuple[Address, ...]:
        """Where this member says that it takes joining requests."""
        return tuple(address for address in self.addresses if address[1])

    @property
    def source(self) -> str:
        return self.addresses[0][0] if self.addresses else ""


def properties_of(advert: Advert) -> dict[str, str]:
    """The TXT record of an announcement; ``sighting_from`` is its inverse."""
    brokers = ",".join(format_address(address) for address in advert.brokers[:ADDRESSES_MAX])
    while len(f"broker={brokers}") > TXT_BYTES_MAX:
        brokers = brokers.rpartition(",")[0]
    return {
        "v": "1",
        "mesh": advert.mesh_id,
        "id": advert.node_id,
        "role": advert.role,
        "broker": brokers,
        "join": str(advert.join_port),
    }


def sighting_from(
    instance: str,
    properties: Mapping[bytes, bytes | None],
    hosts: Sequence[str],
    *,
    link_interface: str = "",
    now_ns: int = 0,
) -> Sighting:
    """An announcement as it came off the network.

    Raises: ProtocolViolation: not one of ours, or a field that no member can bear.
    """

    def text(key: str) -> str:
        value = properties.get(key.encode()) or b""
        if len(value) > TXT_BYTES_MAX or not value.isascii():
            raise ProtocolViolation(f"announcement has an impossible {key!r}")
        return value.decode("ascii")

    if not 1 <= len(instance) <= INSTANCE_CHARS_MAX:
        raise ProtocolViolation("announcement has an impossible name")
    if text("v") != "1":
        raise ProtocolViolation(f"announcement version {text('v')[:8]!r}, this member speaks '1'")
    mesh_id, node_id, role, join = text("mesh"), text("id"), text("role"), text("join")
    if not is_mesh_id(mesh_id) or not is_node_id(node_id) or role not in ROLES:
        raise ProtocolViolation("announcement names no member")
    if not (join.isdigit() and len(join) <= 5 and int(join) <= 65535):
        raise ProtocolViolation("announcement has an impossible join port")
    try:
        brokers = tuple(parse_address(item) for item in text("broker").split(",")[:ADDRESSES_MAX] if item)
    except BadInput as error:
        raise ProtocolViolation(f"announcement has an impossible broker: {error.cause}") from None
    usable = [
        host for host in hosts[:ADDRESSES_MAX] if ("%" in host and is_host(host)) or _is_useful_ip(host)
    ]
    if not usable:
        raise ProtocolViolation("announcement has no usable address")
    addresses = tuple((host, int(join)) for host in usable)
    return Sighting(instance, mesh_id, node_id, role, addresses, brokers, link_interface, now_ns)


def _is_useful_ip(text: str) -> bool:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (ip.is_unspecified or ip.is_multicast)


class Seen(msgspec.Struct, frozen=True):
    """Event: an announcement came in, again or anew."""

    sighting: Sighting


class Gone(msgspec.Struct, frozen=True):
    """Event: an announcement was withdrawn or ran out."""

    instance: str


class Members(msgspec.Struct, frozen=True):
    """Event: the roster of this mesh; announcements of its members are never pushed out by strangers'."""

    mesh_id: str
    ids: frozenset[str]


class Appeared(msgspec.Struct, frozen=True):
    """Effect: an announcement that we did not have."""

    sighting: Sighting


class Changed(msgspec.Struct, frozen=True):
    """Effect: the same announcement says something else now."""

    sighting: Sighting


class Vanished(msgspec.Struct, frozen=True):
    """Effect: withdrawn, run out, or pushed out."""

    sighting: Sighting


Event = Seen | Gone | Members
Effect = Appeared | Changed | Vanished


class Sightings(msgspec.Struct):
    """The bounded table.

    Args:
        limit: announcements in all.
        per_source: announcements of strangers from one claimed address (a machine that floods).
        per_id: announcements that claim one node id (a rogue that says a member's name).
        lifetime_ns: forget what was not heard again; zeroconf withdraws earlier, this is the net below it.
    """

    limit: int = 1_024
    per_source: int = 64
    per_id: int = 4
    lifetime_ns: int = 2 * 75 * 60 * 1_000_000_000  # twice the TTL of a DNS-SD pointer (RFC 6762, 10)
    refused: int = 0  # announcements that found no place
    _table: dict[str, Sighting] = msgspec.field(default_factory=dict)  # oldest announcement first
    _mesh_id: str = ""
    _members: frozenset[str] = frozenset()

    def handle(self, now_ns: int, event: Event) -> list[Effect]:
        match event:
            case Seen(sighting):
                return self._seen(replace(sighting, seen_ns=now_ns))
            case Gone(instance):
                gone = self._table.pop(instance, None)
                return [Vanished(gone)] if gone else []
            case Members(mesh_id, ids):
                self._mesh_id, self._members = mesh_id, ids
                return []

    def tick(self, now_ns: int) -> list[Effect]:
        expired = takewhile(lambda s: s.seen_ns + self.lifetime_ns <= now_ns, self._table.values())
        over = [s.instance for s in expired]  # the table is ordered by last hearing
        return [Vanished(self._table.pop(instance)) for instance in over]

    def deadline_ns(self) -> int | None:
        oldest = next(iter(self._table.values()), None)
        return oldest.seen_ns + self.lifetime_ns if oldest else None

    def check(self) -> None:
        assert len(self._table) <= self.limit
        stamps = [s.seen_ns for s in self._table.values()]
        assert stamps == sorted(stamps), "the table is ordered by last hearing"
        assert all(len(s.addresses) <= ADDRESSES_MAX for s in self._table.values())

    def __len__(self) -> int:
        return len(self._table)

    def all(self) -> list[Sighting]:
        """Newest first."""
        return list(reversed(self._table.values()))

    def gateways(self, mesh_id: str | None = None) -> list[Sighting]:
        """Who says that it takes joining requests (of that mesh), newest first."""
        return [s for s in self.all() if s.joins and mesh_id in (None, s.mesh_id)]

    def brokers(self, mesh_id: str) -> list[Address]:
        """Where members of that mesh say that its broker is: the gateways' word first, each address once."""
        told = sorted((s for s in self.all() if s.mesh_id == mesh_id), key=lambda s: s.role != "gateway")
        return list(dict.fromkeys(address for s in told for address in s.brokers))

    def of(self, mesh_id: str, node_id: str) -> list[Sighting]:
        return [s for s in self.all() if s.node_id == node_id and s.mesh_id == mesh_id]

    def is_local(self, mesh_id: str, node_id: str) -> bool:
        """Was this peer seen on one of our own networks?"""
        return any(s.link_interface for s in self.of(mesh_id, node_id))

    def _seen(self, sighting: Sighting) -> list[Effect]:
        old = self._table.pop(sighting.instance, None)
        if old is not None and self._is_member(old) == self._is_member(sighting):
            self._table[sighting.instance] = sighting
            return [Changed(sighting)] if replace(old, seen_ns=sighting.seen_ns) != sighting else []
        effects: list[Effect] = [Vanished(old)] if old else []
        out = self._make_room(sighting)
        if out is None:
            self.refused += 1
            return effects
        effects += [Vanished(self._table.pop(instance)) for instance in out]
        self._table[sighting.instance] = sighting
        return [*effects, Appeared(sighting)]

    def _is_member(self, sighting: Sighting) -> bool:
        return sighting.mesh_id == self._mesh_id and sighting.node_id in self._members

    def _make_room(self, sighting: Sighting) -> Iterable[str] | None:
        """Which announcements leave so that this one finds a place; None: it finds none."""
        if len(self._table) >= self.limit and not self._is_member(sighting):
            return None  # before anything is counted: a flood of strangers is refused in no time
        if len(self.of(sighting.mesh_id, sighting.node_id)) >= self.per_id:
            return None  # the first ones stay: a late rogue cannot push a true announcement out
        strangers = [s for s in self._table.values() if not self._is_member(s)]
        if not self._is_member(sighting):
            many = sum(s.source == sighting.source for s in strangers) >= self.per_source
            return None if many else []
        if len(self._table) < self.limit:
            return []
        return [strangers[0].instance] if strangers else None


def listed(addresses: Iterable[Address]) -> str:
    """Addresses for a person to read."""
    return ", ".join(format_address(address) for address in addresses)
