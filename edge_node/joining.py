"""Joining and renewal, the node's shell: from a code to keys, certificate and roster on disk.

    code ──▶ addresses in it, seeds, mDNS: asked in parallel for their CA chain (nothing is verified yet)
         ──▶ the first whose root fits the pin: a second connection, verified against that root
         ──▶ request bound to the certificate seen there ──▶ answer, verified ──▶ key store

The keys of an attempt are stored before it begins and used again for the same code: whoever loses the answer
(or is killed) gets it by joining again. The identity is written last: a home has joined once it is there.

Not here: what is said (``security.enrolment``), the gateway's side, printing. Plain asyncio streams and
twenty lines of HTTP: the base install has no HTTP client, and ``http.client`` cannot be cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from edge_node.discovery.mdns import Mdns
from edge_node.discovery.sightings import Address, Gone, Seen, format_address, listed, parse_address
from edge_node.home import Home
from security import enrolment
from security.certificates import floor_s, leaf_sha256, read_pem, verify_chain
from security.enrolment import ANSWER_BYTES_MAX, JoinCode
from security.errors import BadInput, EdgeweaveError, ProtocolViolation, Refused, Unavailable
from security.identity import GATEWAY, NodeKeys, dns_name, mesh_id_of
from security.keystore import KeyStore, StoredIdentity
from security.roster import ROSTER_BYTES_MAX, open_roster
from security.tls import check_peer, join_context, join_probe_context

CONNECT_S = 5.0
EXCHANGE_S = 30.0  # the gateway's disk and a roster of 1 024 members over a thin line
DISCOVERY_S = 6.0  # how long mDNS may take once every known address has failed
PENDING_S = 660.0  # a pending node is dropped by the gateway after ten minutes
CANDIDATES_MAX = 32  # addresses tried; a rogue on mDNS can name more
PROBES_AT_ONCE = 8
CHAIN_BYTES_MAX = 16 * 1024
JOIN_PORT = 8443
HINT = "gateways"  # file in the key store: where a gateway of our mesh was found, host:port a line

_SEEN_NONE = "check that `edge-gateway up` runs there and that this machine reaches it"


@dataclass(frozen=True, slots=True)
class Joined:
    """What a person wants to know of it."""

    mesh_id: str
    node_id: str
    gateway: str  # the address that proved itself
    roster_version: int


@dataclass(frozen=True, slots=True)
class _Proven:
    """A gateway whose CA fits the pin."""

    address: Address
    root: x509.Certificate


async def join(
    code_text: str,
    home_dir: Path,
    *,
    name: str | None = None,
    labels: dict[str, str] | None = None,
    mdns: str | None = None,
    seeds: Iterable[str] = (),
    timeout_s: float = 60.0,
    on_waiting: Callable[[str], None] = lambda words: None,
) -> Joined:
    """Make this home a member of the mesh that the code names.

    Args:
        name: the id wished for; None lets the gateway choose.
        mdns: interface to look for gateways on, as for ``Mdns``; "none" looks nowhere.
        seeds: further addresses, host:port (8443 where there is none).
        timeout_s: for finding a gateway and being answered; waiting for an operator comes on top.
        on_waiting: is told the six words once, if an operator has to approve.
    Raises:
        BadInput: the code, a name, label or seed does not fit, or the home is not usable.
        Refused: joined already, a used or expired code, a taken name, not approved, not that mesh's gateway.
        Unavailable: no gateway answered; it says where it was looked for.
    """
    code = JoinCode.parse(code_text)
    if name:
        enrolment.checked_name(name)
    known = [*(parse_address(a) for a in code.addresses), *_parsed(seeds)]
    home = Home(home_dir)
    await asyncio.to_thread(home.create)
    with home.hold():
        store = KeyStore(home.keys)
        held = await asyncio.to_thread(store.identity)
        if held is not None:
            raise Refused(
                f"this home is {_name_of(held)} already",
                fix="leave that mesh first (edge-node leave), or use another --home",
            )
        keys = await asyncio.to_thread(_keys_for, store, code)

        def request(server_leaf: bytes) -> bytes:
            return enrolment.build_request(
                code, keys, name=name or "", labels=labels or {}, server_leaf_sha256=server_leaf
            )

        desk = _Desk(
            code.root_spki_sha256,
            floor=floor_s(await asyncio.to_thread(store.floor_s)),
            path="/join",
            request=request,
            keys=keys,
            name=name or "",
            on_waiting=on_waiting,
        )
        request(bytes(32))  # labels that do not fit are told before anybody is asked
        gateway, answer = await _ask_first(desk, known, mdns=mdns, timeout_s=timeout_s)
        await asyncio.to_thread(_keep, store, keys, answer, gateway)
    return Joined(answer.mesh_id, answer.node_id, format_address(gateway), answer.roster.version)


async def renew(
    store: KeyStore,
    *,
    addresses: Iterable[Address] = (),
    mdns: str | None = "none",
    timeout_s: float = 60.0,
) -> enrolment.Joined:
    """New keys and a new certificate for a member, asked for with the old ones; stored before it returns.

    Args: addresses: gateways sighted or configured; those remembered from joining are tried too.
    Raises: BadInput: not joined. Refused: revoked, or expired too long ago. Unavailable: no gateway answered.
    """
    held, signed = await asyncio.to_thread(lambda: (store.identity(), store.roster()))
    pin = await asyncio.to_thread(store.root_spki_sha256)
    if held is None or pin is None:
        raise BadInput("this home has joined no mesh", fix="join one: edge-node join CODE")
    node_id = _id_of(held)
    keys = await asyncio.to_thread(_renewal_keys, store, held.keys)
    nonce = os.urandom(16)

    def request(server_leaf: bytes) -> bytes:
        return enrolment.build_renewal(
            held.keys, keys, node_id=node_id, server_leaf_sha256=server_leaf, nonce=nonce
        )

    seen_s = open_roster(signed, root_spki_sha256=pin).issued_s if signed else 0
    desk = _Desk(
        pin,
        floor=floor_s(await asyncio.to_thread(store.floor_s), seen_s),
        path="/join/renew",
        request=request,
        keys=keys,
        name=node_id,
        on_waiting=lambda words: None,
    )
    known = [*addresses, *await asyncio.to_thread(known_gateways, store)]
    gateway, answer = await _ask_first(desk, known, mdns=mdns, timeout_s=timeout_s)
    await asyncio.to_thread(_keep, store, keys, answer, gateway)
    return answer


async def roster_of_gateway(store: KeyStore, *, addresses: Iterable[Address] = ()) -> bytes:
    """The signed roster that the gateway's joining port hands out: for a member that no broker lets in.

    Signed, so whoever answers cannot invent one; not verified here. Addresses as for ``renew``, one by one.
    Raises: BadInput: not joined. Unavailable: no gateway answered; it says why for each.
    """

    async def ask(line: _Line, leaf: bytes) -> bytes:
        return await line.exchange("GET", "/join/roster", bytes_max=ROSTER_BYTES_MAX)

    signed = await _of_first(store, addresses, ask)
    await _show_ours(store, addresses, signed)
    return signed


async def _show_ours(store: KeyStore, addresses: Iterable[Address], theirs: bytes) -> None:
    """A gateway that knows less than we do was restored from a backup, and waits to be shown the rest: its
    broker does not know keys that were renewed since, so we cannot tell it there.
    """
    pin, ours = await asyncio.to_thread(lambda: (store.root_spki_sha256(), store.roster()))
    if pin is None or ours is None:
        return
    held = ours
    if open_roster(held, root_spki_sha256=pin).version <= open_roster(theirs, root_spki_sha256=pin).version:
        return

    async def show(line: _Line, leaf: bytes) -> bytes:
        return await line.exchange("POST", "/join/roster", held, bytes_max=CHAIN_BYTES_MAX)

    await _of_first(store, addresses, show)


async def leave(store: KeyStore) -> None:
    """Have the gateway note that this member leaves; its keys are to be forgotten afterwards.

    Raises: BadInput: not joined. Refused: no member any more. Unavailable: no gateway answered.
    """
    held = await asyncio.to_thread(store.identity)
    if held is None:
        raise BadInput("this home has joined no mesh", fix="there is nothing to leave")
    identity = held

    async def tell(line: _Line, leaf: bytes) -> bytes:
        word = enrolment.build_leave(
            identity.keys, node_id=_id_of(identity), server_leaf_sha256=leaf_sha256(leaf)
        )
        return await line.exchange("POST", "/join/leave", word, bytes_max=enrolment.REQUEST_BYTES_MAX)

    enrolment.read_noted(await _of_first(store, (), tell))


async def _of_first(
    store: KeyStore, addresses: Iterable[Address], ask: Callable[[_Line, bytes], Awaitable[bytes]]
) -> bytes:
    """What *ask* gets from the first gateway that proves itself; it is given the certificate shown there."""
    root, pin = await asyncio.to_thread(lambda: (store.root(), store.root_spki_sha256()))
    if root is None or pin is None:
        raise BadInput("this home has joined no mesh", fix="join one: edge-node join CODE")
    name, floor = dns_name(mesh_id_of(pin), GATEWAY), floor_s(await asyncio.to_thread(store.floor_s))
    failed = []
    for address in list(dict.fromkeys([*addresses, *await asyncio.to_thread(known_gateways, store)])):
        try:
            async with _connected(address, join_context(root), name=name) as line:
                return await ask(line, check_peer(line.tls, floor_s=floor))
        except (OSError, TimeoutError, asyncio.IncompleteReadError, EdgeweaveError) as error:
            failed.append(f"{format_address(address)} {_spelled(error)}")
    raise Unavailable(f"no gateway answered: {'; '.join(failed[:8]) or 'none is known'}", fix=_SEEN_NONE)


def known_gateways(store: KeyStore) -> list[Address]:
    """Where a gateway of our mesh was found before: a hint."""
    found: list[Address] = []
    for line in (store.read(HINT) or b"").decode("utf-8", "replace").splitlines()[:CANDIDATES_MAX]:
        with contextlib.suppress(BadInput):
            found.append(parse_address(line))
    return found


# -- who is asked


@dataclass(slots=True)
class _Desk:
    """One conversation with whichever gateway proves itself."""

    pin: bytes
    floor: int
    path: str
    request: Callable[[bytes], bytes]
    keys: NodeKeys
    name: str
    on_waiting: Callable[[str], None]
    told_words: bool = False

    @property
    def mesh_id(self) -> str:
        return mesh_id_of(self.pin)

    async def prove(self, address: Address) -> _Proven:
        """Does a gateway of the pinned mesh answer there? Nothing secret is sent.

        Raises: ProtocolViolation: another mesh. OSError, TimeoutError, Unavailable: nobody.
        """
        async with _connected(address, join_probe_context(), name=dns_name(self.mesh_id, GATEWAY)) as line:
            pem = await line.exchange("GET", "/join/chain", bytes_max=CHAIN_BYTES_MAX)
        _, root = verify_chain(read_pem(pem), root_spki_sha256=self.pin)
        return _Proven(address, root)

    async def ask(self, proven: _Proven) -> enrolment.Joined | enrolment.Waiting:
        name = dns_name(self.mesh_id, GATEWAY)
        async with _connected(proven.address, join_context(proven.root), name=name) as line:
            leaf = check_peer(line.tls, floor_s=self.floor)
            body = await asyncio.to_thread(self.request, leaf_sha256(leaf))
            answer = await line.exchange("POST", self.path, body, bytes_max=ANSWER_BYTES_MAX)
        return await asyncio.to_thread(
            lambda: enrolment.read_answer(
                answer, root_spki_sha256=self.pin, keys=self.keys, name=self.name, floor_s=self.floor
            )
        )

    async def settle(self, proven: _Proven, *, until: float) -> enrolment.Joined:
        """Ask, and ask again while the gateway says later or an operator has to approve."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                answer = await self.ask(proven)
            except Unavailable as error:
                if error.retry_after_s > until - loop.time():
                    raise
                await asyncio.sleep(error.retry_after_s)
                continue
            if isinstance(answer, enrolment.Joined):
                return answer
            if not self.told_words:
                self.told_words = True
                until = max(until, loop.time() + PENDING_S)
                self.on_waiting(answer.words)
            if loop.time() > until:
                raise Unavailable(
                    "nobody approved this node",
                    fix="edge-gateway approve NODE, then join again with this code",
                )
            await asyncio.sleep(min(60, max(1, answer.retry_after_s)))


async def _ask_first(
    desk: _Desk, known: Iterable[Address], *, mdns: str | None, timeout_s: float
) -> tuple[Address, enrolment.Joined]:
    """The answer of the first gateway that proves itself; candidates are proven in parallel."""
    until = asyncio.get_running_loop().time() + timeout_s
    search = _Search(desk, mdns)
    async with search.running(known):
        while True:
            proven = await search.next_proven(until=until)
            if proven is None:
                raise search.why_none()
            try:
                return proven.address, await desk.settle(proven, until=until)
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                search.failed[proven.address] = _spelled(error)
            except Unavailable as error:
                if desk.told_words or not search.has_more():
                    raise
                search.failed[proven.address] = error.cause
            except ProtocolViolation as violation:
                search.failed[proven.address] = violation.cause


class _Search:
    """Addresses as they become known, each tried once."""

    def __init__(self, desk: _Desk, mdns: str | None) -> None:
        self.failed: dict[Address, str] = {}
        self.strangers: list[Address] = []  # answered with another mesh's CA
        self._desk = desk
        self._mdns = mdns
        self._listens = False
        self._probes: list[asyncio.Task[None]] = []
        self._tried: dict[Address, None] = {}
        self._open = 0  # probes under way
        self._slots = asyncio.Semaphore(PROBES_AT_ONCE)
        self._proven: asyncio.Queue[_Proven | None] = asyncio.Queue()
        self._tasks: asyncio.TaskGroup | None = None

    @contextlib.asynccontextmanager
    async def running(self, known: Iterable[Address]) -> AsyncIterator[None]:
        try:
            async with Mdns(self._mdns, None, self._sighted) as watching, asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._listens = watching.started
                for address in known:
                    self._try(address)
                if not self._tried:
                    self._proven.put_nowait(None)
                try:
                    yield
                finally:
                    self._tasks = None
                    for probe in self._probes:
                        probe.cancel()
        except BaseExceptionGroup as group:  # one cause is told, not a tree
            cause: BaseException = group
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[0]
            raise cause from None

    def has_more(self) -> bool:
        return self._open > 0 or not self._proven.empty()

    async def next_proven(self, *, until: float) -> _Proven | None:
        """None: every address failed, and mDNS had its time."""
        loop = asyncio.get_running_loop()
        patience_at = until
        while True:
            if not self.has_more():
                if not self._listens:
                    return None
                patience_at = min(patience_at, loop.time() + DISCOVERY_S)
            try:
                async with asyncio.timeout_at(patience_at):
                    proven = await self._proven.get()
            except TimeoutError:
                return None
            if proven is not None:
                return proven

    def why_none(self) -> EdgeweaveError:
        mesh = self._desk.mesh_id
        nobody = [address for address in self._tried if address not in self.strangers]
        if self.strangers and not nobody:
            return Refused(
                f"what answers at {listed(self.strangers)} is not of mesh {mesh}: CA does not match the pin",
                fix="check the address, or ask that gateway for a new code",
            )
        looked = f"; mDNS saw no gateway of mesh {mesh} that answers" if self._listens else ""
        if not self._tried:
            return Unavailable(f"no address of a gateway is known{looked}", fix=_SEEN_NONE)
        causes = "; ".join(
            f"{format_address(a)} {self.failed.get(a, 'did not answer in time')}"
            for a in list(self._tried)[:8]
        )
        return Unavailable(f"no gateway answered: {causes}{looked}", fix=_SEEN_NONE)

    def _sighted(self, event: Seen | Gone) -> None:
        if isinstance(event, Seen) and event.sighting.mesh_id == self._desk.mesh_id:
            for address in event.sighting.joins:
                self._try(address)

    def _try(self, address: Address) -> None:
        if address in self._tried or len(self._tried) >= CANDIDATES_MAX or self._tasks is None:
            return
        self._tried[address] = None
        self._open += 1
        self._probes.append(
            self._tasks.create_task(self._probe(address), name=f"join-probe-{format_address(address)}")
        )

    async def _probe(self, address: Address) -> None:
        try:
            async with self._slots:
                proven = await self._desk.prove(address)
        except ProtocolViolation as violation:
            self.strangers.append(address)
            self.failed[address] = violation.cause
            self._end(None)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, Unavailable) as error:
            self.failed[address] = _spelled(error)
            self._end(None)
        else:
            self._end(proven)

    def _end(self, proven: _Proven | None) -> None:
        self._open -= 1
        self._proven.put_nowait(proven)


def _spelled(error: BaseException) -> str:
    if isinstance(error, EdgeweaveError):
        return error.cause
    if isinstance(error, TimeoutError):
        return "did not answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "refused the connection"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"showed a certificate that does not hold ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"speaks no TLS 1.3 ({error.reason or 'handshake failed'})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "broke the connection"


# -- one HTTP exchange


@dataclass(frozen=True, slots=True)
class _Line:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    host: str

    @property
    def tls(self) -> ssl.SSLObject:
        found = self.writer.get_extra_info("ssl_object")
        assert isinstance(found, ssl.SSLObject), "opened with a context"
        return found

    async def exchange(self, method: str, path: str, body: bytes = b"", *, bytes_max: int) -> bytes:
        """Raises: ProtocolViolation: no HTTP answer of ours. Unavailable: the gateway is overloaded."""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n"
            f"Content-Type: application/cbor\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.writer.write(head.encode("ascii") + body)
        async with asyncio.timeout(EXCHANGE_S):
            try:
                answer = await self.reader.readuntil(b"\r\n\r\n")
            except asyncio.LimitOverrunError:
                raise ProtocolViolation("gateway's answer has endless headers") from None
            status, length = _read_head(answer)
            if status in (408, 413, 429, 503):
                raise Unavailable(f"gateway answers {status}", fix="try again", retry_after_s=5.0)
            if status != 200:
                raise ProtocolViolation(f"no gateway of ours answers there (HTTP {status})")
            if length > bytes_max:
                raise ProtocolViolation("gateway's answer is too large")
            return await self.reader.readexactly(length)


def _read_head(head: bytes) -> tuple[int, int]:
    """(status, content length). Raises: ProtocolViolation: another dialect of HTTP than our gateway's."""
    first, *lines = head.decode("latin-1").split("\r\n")
    parts = first.split(" ", 2)
    if (
        len(parts) < 2
        or not parts[0].startswith("HTTP/1.")
        or not (parts[1].isascii() and parts[1].isdigit() and len(parts[1]) == 3)
    ):
        raise ProtocolViolation("what answers there speaks no HTTP")
    headers = {
        key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    length = headers.get("content-length", "")
    if "transfer-encoding" in headers or not (length.isascii() and length.isdigit() and len(length) < 9):
        raise ProtocolViolation("gateway's answer has no length")
    return int(parts[1]), int(length)


@contextlib.asynccontextmanager
async def _connected(address: Address, context: ssl.SSLContext, *, name: str) -> AsyncIterator[_Line]:
    async with asyncio.timeout(CONNECT_S):
        reader, writer = await asyncio.open_connection(
            *address,
            ssl=context,
            server_hostname=name,
            ssl_handshake_timeout=CONNECT_S,
            limit=CHAIN_BYTES_MAX,
        )
    try:
        yield _Line(reader, writer, name)
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                await writer.wait_closed()


# -- what is kept


def _parsed(seeds: Iterable[str]) -> list[Address]:
    return [parse_address(seed, default_port=JOIN_PORT) for seed in seeds]


def _keys_for(store: KeyStore, code: JoinCode) -> NodeKeys:
    """The keys of an attempt with this code, or new ones: two codes never share keys."""
    held, token = store.joining(), store.read("joining.token")
    if held is not None and token == code.token_id.encode():
        return held
    store.remove("joining.token")
    keys = NodeKeys.generate()
    store.save_joining(keys)
    store.write("joining.token", code.token_id.encode())
    return keys


def _renewal_keys(store: KeyStore, in_use: NodeKeys) -> NodeKeys:
    """The keys of a renewal whose answer was lost, or new ones; never those that it has given us already."""
    held = store.joining()
    if held is None or held.spki_sha256 == in_use.spki_sha256:
        held = NodeKeys.generate()
        store.save_joining(held)
    return held


def _keep(store: KeyStore, keys: NodeKeys, answer: enrolment.Joined, gateway: Address) -> None:
    store.save_root(answer.root_pem)
    store.save_newer_roster(answer.signed_roster, version_of=partial(_version_of, mesh_id=answer.mesh_id))
    store.save_floor(answer.floor_s)
    places = dict.fromkeys([gateway, *known_gateways(store)])
    store.write(HINT, "".join(f"{format_address(a)}\n" for a in list(places)[:8]).encode())
    store.save_identity(keys, leaf_pem=answer.leaf_pem, issuing_pem=answer.issuing_pem)
    store.forget_joining()
    store.remove("joining.token")


def _version_of(signed: bytes, *, mesh_id: str) -> int:
    try:
        return open_roster(signed, root_spki_sha256=mesh_id).version
    except ProtocolViolation:  # damaged, or left by a join of another mesh that was not finished
        return 0


def _id_of(identity: StoredIdentity) -> str:
    (common,) = identity.leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(common.value)


def _name_of(identity: StoredIdentity) -> str:
    with contextlib.suppress(x509.ExtensionNotFound, IndexError, ValueError):
        names = identity.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        node_id, mesh_id, _ = names.get_values_for_type(x509.DNSName)[0].split(".")
        return f"{node_id!r} of mesh {mesh_id}"
    return "a member of a mesh"
