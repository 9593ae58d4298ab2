"""Probes: what the network answers when `doctor` asks it. Each returns findings, none changes anything.

    gateway's door    TCP ─ TLS 1.3 under the pinned root, by name ─ HTTP ─ its Date against our clock
    broker            TCP ─ TLS with our certificate ─ login ─ ten round trips at QoS 1      (daemon down)
    mDNS              announce, look for ourselves and for the gateway, 3 s at most

A broker lets each member in once: while the daemon runs, a login of ours would throw it out. Then only TCP
and TLS are tried here, and the daemon is asked for the rest. MQTT is spoken by hand, sixty lines of it: the
daemon's client acknowledges TCP segments at once (TCP_QUICKACK) and so never feels what a broker with
Nagle's algorithm does to every other client, 44 ms a message.

Not here: what can be seen on this machine alone (``doctor``).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import statistics
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

from cryptography import x509

from edge_node.client import Mesh
from edge_node.control.server import answers
from edge_node.discovery.mdns import Mdns, chosen_addresses, local_addresses
from edge_node.discovery.sightings import Address, Advert, Gone, Seen, format_address, parse_address
from edge_node.doctor import Finding, judged_s, of_status, reachable, surely_passed_s
from edge_node.home import Home
from edge_node.joining import JOIN_PORT, known_gateways
from edge_node.wire.topics import Direct, topic_for
from security.certificates import floor_s, not_after_s, read_certificate
from security.errors import BadInput, EdgeweaveError, ProtocolViolation
from security.identity import GATEWAY, dns_name
from security.keystore import KeyStore
from security.roster import RosterView
from security.tls import check_peer, join_context, node_context

TIMEOUT_S: Final = 3.0
SKEW_S_WARN: Final = 2.0
SKEW_S_FAIL: Final = 3600.0
ROUND_TRIPS: Final = 10
WARM_UP: Final = 6  # Linux acknowledges the first segments of a connection at once, whatever the broker does
ROUND_TRIP_MS_MAX: Final = 20.0
LOOK_S: Final = 3.0
ANSWER_S: Final = 10.0  # of a daemon to everything that it is asked
HEAD_BYTES_MAX: Final = 16 * 1024
PACKET_BYTES_MAX: Final = 1024 * 1024  # what peers happen to send to our inbox meanwhile

NTP = "set it, or install NTP (systemd-timesyncd, chrony)"
NODELAY = "set `set_tcp_nodelay true` in mosquitto.conf; a broker started by edgeweave has it"


@dataclass(frozen=True, slots=True)
class Place:
    """A member's home as far as probes need it."""

    store: KeyStore
    node_id: str
    mesh_id: str
    root: x509.Certificate
    floor: int

    @classmethod
    def of(cls, store: KeyStore, node_id: str, mesh_id: str, issued_s: int) -> Place | None:
        root = store.root()
        return (
            None if root is None else cls(store, node_id, mesh_id, root, floor_s(store.floor_s(), issued_s))
        )


# ── the gateway's door ────────────────────────────────────────────────────────────────────────────────


def door(
    place: Place, addresses: Iterable[Address], *, wall_s: Callable[[], float] = time.time
) -> list[Finding]:
    """The first address at which our gateway proves itself, and how its clock and ours compare."""
    failed: list[str] = []
    for address in dict.fromkeys(addresses):
        told = format_address(address)
        try:
            with _tls(
                address, join_context(place.root), dns_name(place.mesh_id, GATEWAY), place.floor
            ) as line:
                asked_s = wall_s()
                line.sendall(b"GET /join/chain HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")
                date = _date(line)
                answered_s = wall_s()
        except (OSError, ProtocolViolation, ValueError) as error:
            failed.append(f"{told} {why(error)}")
            continue
        more = f" (not {'; '.join(failed)})" if failed else ""
        found = Finding("gateway", "ok", f"answers at {told}, by TLS under our root{more}")
        return [found, clock_against(date - (asked_s + answered_s) / 2, (answered_s - asked_s) / 2)]
    if not failed:
        return [Finding("gateway", "warn", "no address of a gateway is known", "add one to [link] seeds")]
    fix = "is `edge-gateway up` running there, its port open in the firewall, and the address right?"
    return [Finding("gateway", "fail", f"no gateway answers: {'; '.join(failed)}", fix)]


def clock_against(ahead_s: float, uncertain_s: float) -> Finding:
    """*ahead_s*: by how much the gateway's clock is ahead of ours, its Date being cut to whole seconds."""
    ahead_s += 0.5
    told = f"{abs(ahead_s):.0f} s {'behind' if ahead_s > 0 else 'ahead of'} the gateway's"
    off_s = max(0.0, abs(ahead_s) - 0.5 - uncertain_s)
    if off_s > SKEW_S_FAIL:
        return Finding("gateway clock", "fail", f"our clock is {told}", NTP)
    if off_s > SKEW_S_WARN:
        return Finding("gateway clock", "warn", f"our clock is {told}", NTP)
    return Finding(
        "gateway clock", "ok", f"agrees with the gateway's to {abs(ahead_s) + 0.5 + uncertain_s:.1f} s"
    )


def _date(line: ssl.SSLSocket) -> float:
    head = b""
    while b"\r\n\r\n" not in head:
        more = line.recv(4096)
        if not more or len(head) > HEAD_BYTES_MAX:
            raise ProtocolViolation("what answers there speaks no HTTP")
        head += more
    for field in head.split(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]:
        name, _, value = field.partition(":")
        if name.strip().lower() == "date":
            return parsedate_to_datetime(value.strip()).timestamp()
    raise ProtocolViolation("its answer bears no date")


# ── the broker ────────────────────────────────────────────────────────────────────────────────────────


def broker(place: Place, brokers: Iterable[str], *, log_in: bool) -> list[Finding]:
    """Every broker of the roster in turn, the first that lets us in; *log_in* only while no daemon runs."""
    failed: list[str] = []
    for named in brokers:
        try:
            address = parse_address(named)
            context = node_context(place.store.identity_path, place.root)
            with _tls(address, context, dns_name(place.mesh_id, "broker"), place.floor) as line:
                leaf = read_certificate(line.getpeercert(binary_form=True) or b"")
                days = (not_after_s(leaf) - judged_s(time.time(), floor_s(place.floor))) / 86400
                told = f"{named} answers by TLS, its certificate has {days:.0f} days left"
                if not log_in:
                    return [Finding("broker", "ok", told)]
                trips_ms = round_trips_ms(line, place.mesh_id, place.node_id)
        except (OSError, ProtocolViolation, BadInput) as error:
            failed.append(f"{named} {why(error)}")
            continue
        return [Finding("broker", "ok", f"{told}, it lets us in"), speed(trips_ms, "the broker and back")]
    fix = "is the gateway up? not listed or expired: `edge-gateway roster`, `edge-node renew`"
    return [Finding("broker", "fail", "; ".join(failed) or "the roster names none", fix)]


def speed(trips_ms: list[float], way: str) -> Finding:
    """The median decides: one slow message is the radio, all slow ones are Nagle's algorithm."""
    median = statistics.median(trips_ms)
    text = f"p50 {median:.2f} ms to {way} at QoS 1, {len(trips_ms)} messages"
    if median > ROUND_TRIP_MS_MAX:
        return Finding("latency", "warn", text, f"unless the line itself is slow, {NODELAY}")
    return Finding("latency", "ok", text)


def round_trips_ms(line: socket.socket, mesh_id: str, node_id: str) -> list[float]:
    """From a publication to our own inbox until it and its PUBACK are here, ten times, after a warm-up.

    Subscribed at QoS 0, so that nothing of ours travels between the two: that is when a broker with Nagle's
    algorithm holds the second back until our TCP acknowledges the first, as for every request and reply.
    Raises: ProtocolViolation: not let in, or no MQTT. OSError: it hung up.
    """
    talk = _Mqtt(line)
    name = _text(node_id)
    talk.send(0x10, _text("MQTT") + bytes((4, 0x02)) + struct.pack(">H", 30) + name)
    answer = talk.until(0x20)
    if len(answer) != 2 or answer[1]:
        raise ProtocolViolation(f"refuses our login (code {answer[1] if len(answer) == 2 else '?'})")
    talk.send(0x82, b"\x00\x01" + _text(f"{topic_for(Direct(mesh_id, node_id, '+'))}") + b"\x00")
    answer = talk.until(0x90)
    if answer[2:] != b"\x00":
        raise ProtocolViolation("refuses our subscription")
    topic, trips_ms = _text(topic_for(Direct(mesh_id, node_id, node_id))), []
    for number in range(WARM_UP + ROUND_TRIPS):
        begun_ns = time.monotonic_ns()
        talk.send(0x32, topic + struct.pack(">H", number + 2) + b"doctor")
        acknowledged = arrived = False
        while not (acknowledged and arrived):
            first, body = talk.packet()
            acknowledged |= first & 0xF0 == 0x40
            arrived |= first & 0xF0 == 0x30 and body.startswith(topic)  # peers may write to us meanwhile
        trips_ms.append((time.monotonic_ns() - begun_ns) / 1e6)
    talk.send(0xE0, b"")
    return trips_ms[WARM_UP:]


class _Mqtt:
    """MQTT 3.1.1 on a blocking socket: as much as `doctor` says."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._read = b""

    def send(self, first: int, body: bytes) -> None:
        size, digits = len(body), b""
        while True:
            size, digit = divmod(size, 128)
            digits += bytes((digit | (0x80 if size else 0),))
            if not size:
                break
        self._line.sendall(bytes((first,)) + digits + body)

    def until(self, kind: int) -> bytes:
        """The body of the next packet of that kind; others are passed over."""
        while True:
            first, body = self.packet()
            if first & 0xF0 == kind:
                return body

    def packet(self) -> tuple[int, bytes]:
        size, shift, at = 0, 0, 1
        while True:
            digit = self._bytes(at + 1)[at]
            size |= (digit & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if not digit & 0x80:
                break
            if shift > 21:
                raise ProtocolViolation("what answers there speaks no MQTT")
        if size > PACKET_BYTES_MAX:
            raise ProtocolViolation("what answers there speaks no MQTT")
        packet = self._bytes(at + size)[: at + size]
        self._read = self._read[at + size :]
        return packet[0], packet[at:]

    def _bytes(self, count: int) -> bytes:
        while len(self._read) < count:
            more = self._line.recv(65536)
            if not more:
                raise ProtocolViolation("hung up: it does not know this certificate, or it has expired")
            self._read += more
        return self._read


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">H", len(data)) + data


# ── mDNS ──────────────────────────────────────────────────────────────────────────────────────────────


async def mdns(
    iface: str | None,
    mesh_id: str,
    node_id: str,
    *,
    announce: bool,
    gateway_reached: bool,
    look_s: float = LOOK_S,
) -> Finding:
    """Is what is sent heard, and is the gateway?

    Args:
        iface: as for ``Mdns``; "none" sends nothing.
        announce: speak for this member while looking, with a goodbye; False: its daemon does already.
        gateway_reached: by TCP, a moment ago: if it is then not heard, multicast is being kept from us.
    """
    if iface == "none":
        return Finding("mdns", "ok", "off (--mdns none): members are found by codes and seeds")
    heard: set[str] = set()
    complete = asyncio.Event()
    wanted = {node_id, GATEWAY}

    def sighted(what: Seen | Gone) -> None:
        if isinstance(what, Seen) and what.sighting.mesh_id == mesh_id:
            heard.add(what.sighting.node_id)
            if wanted <= heard:
                complete.set()

    role = GATEWAY if node_id == GATEWAY else "node"
    try:
        where = ", ".join(sorted({each.interface for each in chosen_addresses(iface, local_addresses())}))
        async with contextlib.AsyncExitStack() as both:
            listener = await both.enter_async_context(Mdns(iface, None, sighted))
            if announce:
                advert = Advert(mesh_id, node_id, role)
                await both.enter_async_context(Mdns(iface, advert, lambda what: None))
            if not listener.started:
                return Finding(
                    "mdns", "fail", "its port cannot be opened", "is UDP 5353 blocked, or taken alone?"
                )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(look_s):
                    await complete.wait()
    except BadInput as error:
        return Finding("mdns", "fail", error.cause, error.fix)
    return heard_there(where, heard, node_id, gateway_reached=gateway_reached)


def heard_there(where: str, heard: set[str], node_id: str, *, gateway_reached: bool) -> Finding:
    told = f"on {where or 'no interface'}: heard {', '.join(sorted(heard)) or 'nobody'} of our mesh"
    if node_id not in heard:
        fix = "multicast does not leave this machine: check its firewall (UDP 5353), or --mdns IFACE"
        return Finding("mdns", "warn", f"{told}, not even this member", fix)
    if GATEWAY in heard:
        return Finding("mdns", "ok", told)
    if gateway_reached:
        fix = "VPN, firewall or client isolation suspected: name the gateway in [link] seeds"
        return Finding("mdns", "warn", f"{told}, though the gateway answers by TCP", fix)
    return Finding("mdns", "warn", told, "is the gateway up, on this network and not with --mdns none?")


# ── all of it, for the command line ───────────────────────────────────────────────────────────────────


def ask_daemon(home: Home) -> tuple[list[Finding], dict[str, Any] | None]:
    """What the running daemon knows, and its ``status``; (nothing, None) if there is none."""

    async def ask() -> tuple[dict[str, Any], list[float], str]:
        async with asyncio.timeout(ANSWER_S), Mesh.open(home) as mesh:
            status = await mesh.status()
            peers = [peer for peer in status.get("peers_up", []) if peer != status.get("node")]
            peer = GATEWAY if GATEWAY in peers else next(iter(peers), "")
            trips_ms = []
            with contextlib.suppress(EdgeweaveError):  # it went away a moment ago: `link` tells
                for _ in range(ROUND_TRIPS if peer else 0):
                    trips_ms.append((await mesh.call("ping", {"node": peer}))["rtt_ms"])
            return status, trips_ms, peer

    if not answers(home.socket):
        return [], None
    try:
        status, trips_ms, peer = asyncio.run(ask())
    except TimeoutError:
        text = f"it took the connection, and did not answer within {ANSWER_S:g} s"
        return [Finding("daemon", "fail", text, f"see {home.logs}/daemon.log, then restart it")], {}
    except EdgeweaveError as error:
        return [Finding("daemon", "fail", error.cause, error.fix or f"see {home.logs}/daemon.log")], {}
    findings = of_status(status, judged_s(time.time(), surely_passed_s(home)))
    if trips_ms:
        findings.append(speed(trips_ms, f"{peer} and back"))
    return findings, status


def around(
    home: Home, *, seeds: Sequence[str], mdns_iface: str | None, status: dict[str, Any] | None
) -> list[Finding]:
    """Door, broker and mDNS of a home that has joined; only the seeds of one that has not.

    Args: status: of the running daemon, None if there is none. mdns_iface: as for ``Mdns``.
    """
    try:
        store = KeyStore(home.keys)
        identity, pin, signed = store.identity(), store.root_spki_sha256(), store.roster()
        if identity is None or pin is None or signed is None:
            return [reachable(seed) for seed in seeds]
        roster = RosterView(root_spki_sha256=pin, signed=signed).current
    except EdgeweaveError:  # told by `doctor` already
        return []
    assert roster is not None, "a view of a roster holds it"
    member = roster.member_of_key(identity.keys.spki_sha256)
    place = Place.of(store, member.id if member else "", roster.mesh_id, roster.issued_s)
    if place is None or member is None:
        return []
    told = [*seeds, *(status or {}).get("joining", {}).get("addresses", [])]
    addresses = [parse_address(each, default_port=JOIN_PORT) for each in told]
    findings = []
    if member.id != GATEWAY or addresses:
        findings += door(place, [*addresses, *known_gateways(store)])
    findings += broker(place, roster.brokers, log_in=status is None) if member.id != GATEWAY or status else []
    reached = any(each.check == "gateway" and each.verdict == "ok" for each in findings)
    looking = mdns(mdns_iface, roster.mesh_id, member.id, announce=status is None, gateway_reached=reached)
    return [*findings, asyncio.run(looking)]


# ── lines ─────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def _tls(address: Address, context: ssl.SSLContext, name: str, floor: int) -> Iterator[ssl.SSLSocket]:
    """Raises: OSError (also TimeoutError, SSLError), ProtocolViolation."""
    with socket.create_connection(address, timeout=TIMEOUT_S) as opened:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(opened, server_hostname=name) as line:
            check_peer(line, floor_s=floor)
            yield line


def why(error: BaseException) -> str:
    """What went wrong with a line, in a few words."""
    match error:
        case ProtocolViolation() | BadInput():
            return error.cause
        case ssl.SSLCertVerificationError():
            return f"shows a certificate that does not hold ({error.verify_message})"
        case ssl.SSLError():
            return f"ends TLS: {(error.reason or 'handshake failed').lower().replace('_', ' ')}"
        case TimeoutError():
            return f"did not answer within {TIMEOUT_S:g} s"
        case ConnectionRefusedError():
            return "refused the connection"
        case socket.gaierror():
            return "is no name that can be resolved"
        case OSError():
            return (error.strerror or "broke the connection").lower()
    return str(error)
