"""Multicast DNS: announce this member and watch for others, on chosen interfaces.

    Mdns(iface, advert, on_sighting)      iface: "auto" or None (all) · "none" · "lo" · a name or an address

A hint, never the only way in: whatever fails here (no such network, a busy port 5353, a rogue) is logged
and the member goes on with the addresses it knows. Only addresses that listen are announced, and only on
networks where they can be reached. "none" starts nothing, opens nothing, imports nothing.

Not here: what a sighting is worth (``sightings``), and whom to connect to.

Registration does not probe for conflicts: names are unique by certificate, probing would cost 1.6 s, and
a rogue that claims our name first would otherwise keep us off the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from edge_node.clock import Clock, SystemClock
from edge_node.discovery.sightings import ADDRESSES_MAX, Advert, Gone, Seen, properties_of, sighting_from
from security.errors import BadInput, ProtocolViolation

if TYPE_CHECKING:
    from zeroconf import ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

log = logging.getLogger(__name__)

SERVICE = "_edgeweave._tcp.local."
RESOLVE_MS = 2_000
PENDING_MAX = 256  # announcements waiting to be looked at: a flood drops its own surplus
RESOLVERS = 4

OnSighting = Callable[[Seen | Gone], None]


class LocalAddress(Struct, frozen=True):
    """One address of this machine."""

    interface: str
    ip: str  # a link-local IPv6 address without its scope
    network: str  # "192.168.1.0/24"
    scope_id: int = 0


def local_addresses() -> list[LocalAddress]:
    """Every address of this machine, as the system tells it."""
    from edge_node.discovery.slim_ifaddr import ifaddr

    found: list[LocalAddress] = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            text, scope = (ip.ip, 0) if isinstance(ip.ip, str) else (ip.ip[0], ip.ip[2])
            with contextlib.suppress(ValueError):
                network = str(ipaddress.ip_network(f"{text}/{ip.network_prefix}", strict=False))
                found.append(LocalAddress(adapter.name, text, network, scope))
    return found


def chosen_addresses(iface: str | None, machine: list[LocalAddress]) -> list[LocalAddress]:
    """The addresses of the interfaces that ``--mdns`` names.

    Raises: BadInput: no such interface, or one without an address.
    """
    if iface == "lo":
        return [LocalAddress("lo", "127.0.0.1", "127.0.0.0/8")]
    if iface in (None, "auto"):
        return [a for a in machine if not ipaddress.ip_address(a.ip).is_loopback]
    of_iface = [a for a in machine if iface in (a.interface, a.ip)]
    if not of_iface:
        names = ", ".join(sorted({a.interface for a in machine})) or "none"
        raise BadInput(
            f"no interface {iface!r} with an address for mDNS",
            fix=f"use --mdns lo, --mdns none or one of: {names}",
        )
    return of_iface


def announced(advert: Advert, chosen: list[LocalAddress], *, loopback: bool) -> tuple[Advert, list[str]]:
    """The advert as it may be announced there, and the host addresses to announce.

    A wildcard stands for the chosen addresses; what cannot be reached from those networks is left out.
    """
    ours = [a.ip for a in chosen]

    def expand(host: str) -> list[str]:
        try:
            ip = ipaddress.ip_address(host)
        except ValueError:
            return [host]
        if ip.is_unspecified:
            return [o for o in ours if (ip.version == 6 or ":" not in o) and not _is_link_local(o)]
        return [host] if ip.is_loopback == loopback else []

    brokers = tuple(dict.fromkeys((h, port) for host, port in advert.brokers for h in expand(host)))
    hosts = ours
    join_port = advert.join_port
    if join_port:
        listening = {h for host in (advert.listens or ("0.0.0.0",)) for h in expand(host)}  # noqa: S104
        answering = [o for o in ours if o in listening]
        hosts, join_port = (answering, join_port) if answering else (ours, 0)
    return replace(advert, brokers=brokers[:ADDRESSES_MAX], join_port=join_port), hosts[:ADDRESSES_MAX]


def interface_of(host: str, machine: list[LocalAddress]) -> str:
    """The local interface whose network holds *host*; "" if none does."""
    with contextlib.suppress(ValueError):
        ip = ipaddress.ip_address(host.partition("%")[0])
        for address in machine:
            if ip in ipaddress.ip_network(address.network):
                return address.interface
    return ""


def _is_link_local(host: str) -> bool:
    return ipaddress.ip_address(host).is_link_local


class Mdns:
    """Announce and watch for as long as the block lasts; a goodbye at its end."""

    def __init__(
        self,
        iface: str | None,
        advertise: Advert | None,
        on_sighting: OnSighting,
        *,
        clock: Clock | None = None,
    ) -> None:
        self.iface = None if iface == "auto" else iface
        self.dropped = 0  # announcements that came faster than we look at them
        self.refused = 0  # announcements of an impossible shape
        self._advert = advertise
        self._on_sighting = on_sighting
        self._clock = clock or SystemClock()
        self._machine: list[LocalAddress] = []
        self._chosen: list[LocalAddress] = []
        self._zeroconf: AsyncZeroconf | None = None
        self._announced: AsyncServiceInfo | None = None
        self._pending: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._advert_moved = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self._running: list[asyncio.Task[None]] = []

    @property
    def started(self) -> bool:
        return self._zeroconf is not None

    async def __aenter__(self) -> Mdns:
        """Returns at once: announcing goes on in the background.

        Raises: BadInput: the named interface does not exist. Everything else only costs a log line.
        """
        if self.iface == "none":
            return self
        self._machine = local_addresses()
        self._chosen = chosen_addresses(self.iface, self._machine)
        try:
            self._zeroconf = self._open()
        except OSError as error:
            log.warning("mDNS is off", extra={"cause": str(error)})
            return self
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._running = [
            self._tasks.create_task(self._announce(), name="mdns-announce"),
            *(self._tasks.create_task(self._resolve(), name=f"mdns-resolve-{n}") for n in range(RESOLVERS)),
        ]
        self._browse()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._running:
            task.cancel()
        self._running = []
        tasks, self._tasks = self._tasks, None
        zeroconf, self._zeroconf = self._zeroconf, None
        try:
            if tasks is not None:
                ending = (kind, error, trace) if kind is asyncio.CancelledError else (None, None, None)
                await tasks.__aexit__(*ending)  # a group would wrap the block's own error
        finally:
            if zeroconf is not None:
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(3):
                        await zeroconf.async_unregister_all_services()  # the goodbye
                await zeroconf.async_close()

    def update(self, advertise: Advert | None) -> None:
        """Announce this from now on (a broker that moved, say); never waits."""
        if advertise != self._advert:
            self._advert = advertise
            self._advert_moved.set()

    def _open(self) -> AsyncZeroconf:
        from zeroconf import InterfaceChoice, IPVersion
        from zeroconf.asyncio import AsyncZeroconf

        if self.iface == "lo":
            return AsyncZeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only)
        interfaces: Any = InterfaceChoice.All
        if self.iface is not None:
            interfaces = [a.scope_id if a.scope_id else a.ip for a in self._chosen]
        if any(":" in a.ip for a in self._chosen):
            try:
                return AsyncZeroconf(interfaces=interfaces, ip_version=IPVersion.All)
            except OSError as error:
                log.info("mDNS without IPv6", extra={"cause": str(error)})
                if self.iface is not None:
                    interfaces = [a.ip for a in self._chosen if ":" not in a.ip]
        return AsyncZeroconf(interfaces=interfaces, ip_version=IPVersion.V4Only)

    def _info(self, advert: Advert) -> AsyncServiceInfo:
        from zeroconf.asyncio import AsyncServiceInfo

        told, hosts = announced(advert, self._chosen, loopback=self.iface == "lo")
        if not hosts:
            raise ValueError("this machine has no address to announce")
        label = f"{advert.node_id}-{advert.mesh_id}"
        return AsyncServiceInfo(
            SERVICE,
            f"{label}.{SERVICE}",
            port=told.join_port,
            properties=properties_of(told),
            server=f"{label}.local.",
            parsed_addresses=hosts,
        )

    async def _announce(self) -> None:
        from zeroconf import Error

        while True:
            zeroconf, advert = self._zeroconf, self._advert
            assert zeroconf is not None
            try:
                if advert is None:
                    await self._withdraw(zeroconf)
                else:
                    info, before = self._info(advert), self._announced
                    if before is not None and before.name != info.name:
                        await self._withdraw(zeroconf)
                        before = None
                    self._announced = info  # from here on, this is our own voice
                    if before is None:
                        await (await zeroconf.async_register_service(info, cooperating_responders=True))
                    else:
                        await (await zeroconf.async_update_service(info))
            except (Error, OSError, ValueError) as error:
                log.warning("mDNS could not announce this member", extra={"cause": repr(error)})
            await self._advert_moved.wait()
            self._advert_moved.clear()

    async def _withdraw(self, zeroconf: AsyncZeroconf) -> None:
        if self._announced is not None:
            await (await zeroconf.async_unregister_service(self._announced))
            self._announced = None

    def _browse(self) -> None:
        from zeroconf.asyncio import AsyncServiceBrowser

        assert self._zeroconf is not None
        AsyncServiceBrowser(self._zeroconf.zeroconf, SERVICE, handlers=[self._heard])

    def _heard(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        from zeroconf import ServiceStateChange
        from zeroconf.asyncio import AsyncServiceInfo

        if self._announced is not None and name == self._announced.name:
            return  # our own voice
        if state_change is ServiceStateChange.Removed:
            self._pending.pop(name, None)
            self._on_sighting(Gone(name))
            return
        try:  # most announcements carry all of their records: no question need be asked
            info = AsyncServiceInfo(SERVICE, name)
            if info.load_from_cache(zeroconf):
                self._tell(name, info)
                return
        except Exception as error:  # a door: whatever bytes from the network do to the library stops here
            self._count_unreadable(error)
            return
        if name in self._pending or len(self._pending) < PENDING_MAX:
            self._pending[name] = None
            self._wake.set()
        else:
            self.dropped += 1

    async def _resolve(self) -> None:
        from zeroconf.asyncio import AsyncServiceInfo

        while True:
            while not self._pending:
                self._wake.clear()
                await self._wake.wait()
            name = next(iter(self._pending))
            del self._pending[name]
            zeroconf = self._zeroconf
            assert zeroconf is not None, "resolvers end before zeroconf does"
            try:
                info = AsyncServiceInfo(SERVICE, name)
                if await info.async_request(zeroconf.zeroconf, RESOLVE_MS):
                    self._tell(name, info)
            except Exception as error:  # a door, as above
                self._count_unreadable(error)

    def _tell(self, name: str, info: AsyncServiceInfo) -> None:
        from zeroconf import IPVersion

        hosts = info.parsed_scoped_addresses(IPVersion.All)
        where = next(filter(None, (interface_of(host, self._machine) for host in hosts)), "")
        now_ns = self._clock.now_ns()
        try:
            seen = sighting_from(name, info.properties, hosts, link_interface=where, now_ns=now_ns)
        except ProtocolViolation as violation:
            self.refused += 1
            log.debug("announcement refused", extra={"cause": violation.cause})
            self._on_sighting(Gone(name))  # what it said before is no longer said
        else:
            self._on_sighting(Seen(seen))

    def _count_unreadable(self, error: Exception) -> None:
        self.refused += 1
        log.debug("announcement unreadable", extra={"cause": repr(error)})
