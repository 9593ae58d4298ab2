"""The house: builds and connects the gateway's parts. The only place that does.

    authority ─► roster keeper ─► (signed roster) ─► agent ─► retained topic, sessions, desk
        │              ▲      └─────────────────────► broker: who may connect
        └─► joining ───┘
    agent (the same as every node's, named `gateway`) + broker + joining + registry + deployer + engine

At the first `up` the gateway makes its mesh: root and issuing CA, its own member keys, the broker's
certificate and the deployer's key. Losing `<home>/keys` loses the mesh.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from edge_node import residence
from edge_node.agent import Agent
from edge_node.clock import Clock, SystemClock
from edge_node.daemon import journal_of, mdns_interface, mqtt_link
from edge_node.discovery.mdns import local_addresses
from edge_node.discovery.sightings import Advert, format_address, parse_address
from edge_node.functions.limits import PoolSettings
from edge_node.functions.runtimes.runtime import OnDone, OnStarted, Runtime
from edge_node.home import Home
from edge_node.transport.inbox import Inbox
from edge_node.wire.ids import GATEWAY
from edge_node.wire.messages import About, Message, Rest
from gateway.access.access import Access
from gateway.api import routes
from gateway.api.given import GivenCertificate, files_of
from gateway.api.services import Backend, Services
from gateway.broker.broker import Broker
from gateway.broker.door_list import DoorList, admitted
from gateway.console.console import Console
from gateway.duties import Duties
from gateway.engines.process_pool import ProcessPoolEngine
from gateway.joining import Enroller, JoiningServer, ServerIdentity, standing_router
from gateway.renewal import Renewals, certify_broker, certify_self, gateway_clock, is_due
from gateway.resting import Resting
from gateway.settings import GatewaySettings
from security import tls
from security.authority import Authority
from security.certificates import leaf_sha256
from security.enrolment import Issue, JoinDesk
from security.errors import BadInput, EdgeweaveError, Unavailable
from security.identity import NodeKeys, spki_der
from security.keystore import KeyStore, StoredIdentity
from security.roster import Deployer, Member, MemberKey

log = logging.getLogger("gateway.house")

INVITATIONS = "invitations"
ANY_ADDRESS = frozenset({"0.0.0.0", "::", ""})  # noqa: S104  compared with, not bound


@dataclass(frozen=True, slots=True)
class Trust:
    """The gateway's keys, made at its first start and loaded afterwards."""

    authority: Authority
    identity: StoredIdentity
    deployer: ec.EllipticCurvePrivateKey
    made: bool


def open_trust(keystore: KeyStore, clock: Clock) -> Trust:
    """Load or make everything that is secret. Raises: BadInput: a key file unreadable, loose or damaged."""
    now_s = clock.wall_ms() // 1000
    authority = keystore.authority(entropy=os.urandom)
    made = authority is None
    if authority is None:
        authority = Authority.create(now_s=now_s, entropy=os.urandom)
        keystore.save_authority(authority)
    identity = keystore.identity()
    if identity is None or is_due(identity.leaf, now_s):
        keys = identity.keys if identity else NodeKeys.generate()
        identity = certify_self(keystore, authority, keys, now_s)
    certify_broker(keystore, authority, now_s)
    deployer = keystore.deployer()
    if deployer is None:
        deployer = ec.generate_private_key(ec.SECP256R1())
        keystore.save_deployer(deployer)
    return Trust(authority, identity, deployer, made)


def reachable(listen: str, port: int, wanted: list[str]) -> tuple[str, ...]:
    """Under which addresses others may find what listens here, best first: at most three fit a roster."""
    if wanted:
        hosts = wanted
    elif listen in ANY_ADDRESS:
        outside = [
            a.ip for a in local_addresses() if not a.ip.startswith(("127.", "169.254.", "fe80:", "::1"))
        ]
        v4 = [ip for ip in outside if ":" not in ip]
        hosts = [*v4, *(ip for ip in outside if ":" in ip and listen == "::")] or ["127.0.0.1"]
    else:
        hosts = [listen]
    told = [format_address(parse_address(host, default_port=port)) for host in hosts]
    return tuple(dict.fromkeys(told))[:3]


def free_port(listen: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in listen else socket.AF_INET) as trial:
        try:
            trial.bind((listen, 0))
        except OSError as error:
            raise BadInput(
                f"{listen} is not an address of this machine", fix="choose another with --listen"
            ) from error
        return int(trial.getsockname()[1])


def given_certificate(
    home: Home, settings: GatewaySettings, mesh_id: str, clock: Clock
) -> GivenCertificate | None:
    """Not loaded yet; None: the mesh's own is shown to everybody. Raises: BadInput: a key alone."""
    if settings.api.key and not settings.api.certificate:
        raise BadInput("[api] key is set without [api] certificate", fix="set both, or neither")
    if not settings.api.certificate:
        return None
    return GivenCertificate(*files_of(home.path, settings.api), mesh_id, clock)


class House(Duties):
    """All parts of a running gateway."""

    def __init__(
        self,
        home: Home,
        settings: GatewaySettings,
        keystore: KeyStore,
        trust: Trust,
        *,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(
            authority=trust.authority,
            keystore=keystore,
            deployer=trust.deployer,
            clock=clock or gateway_clock(keystore, SystemClock()),
            entropy=os.urandom,
        )
        self.home = home
        self.settings = settings
        self.trust = trust
        self.access = Access(home.path, clock=self.clock)
        self.api: Services | None = None
        self.console: Console | None = None
        self.given: GivenCertificate | None = None
        self.enroller = Enroller(trust.authority, self.keeper, clock=self.clock)
        self.renewals = Renewals(
            keystore,
            trust.authority,
            self.keeper,
            self.clock,
            used=self._key_used,
            on_own=self._certified,
            on_broker=lambda: self.broker.reload_certificate() if self.broker is not None else None,
        )
        self.resting = Resting(keystore, self._tell_rest)
        self.joining: JoiningServer | None = None
        self.agent: Agent | None = None
        self.broker: Broker | None = None

    # ── building ──────────────────────────────────────────────────────────────────────────────────

    async def open(self) -> Agent:
        """Everything up to the agent, which then only has to be run.

        Raises: BadInput, Unavailable: a port in use, a key file, a setting; one line with its fix.
        """
        settings, trust = self.settings, self.trust
        mesh_id = trust.authority.mesh_id
        self.given = given_certificate(self.home, settings, mesh_id, self.clock)
        if self.given is not None:
            await asyncio.to_thread(self.given.load)
        await self.access.open()
        listen = settings.joining.listen
        port = settings.broker.port or self._last_broker_port() or free_port(listen)
        key = MemberKey(
            trust.identity.keys.spki_sha256,
            trust.identity.keys.x25519_public,
            int(trust.identity.leaf.not_valid_before_utc.timestamp()),
        )
        await self.keeper.open(
            members=[Member(GATEWAY, (key,), (GATEWAY,))],
            brokers=reachable(listen, port, settings.joining.addresses),
            deployers=[Deployer(GATEWAY, spki_der(trust.deployer.public_key()))],
            hold=self.homecoming is not None and not self.homecoming.over,
        )
        if self.homecoming is not None:
            self.homecoming.roster_changed(self.keeper.current)
        self.broker = Broker(
            home=self.home.path,
            mesh_id=mesh_id,
            host=listen,
            port=port,
            ca_file=self.keystore.root_path,
            cert_file=self.keystore.broker_path,
            key_file=self.keystore.broker_path,
            kind=settings.broker.kind,
            members=admitted(self.keeper.current),
            clock=self.clock,
            on_untold=lambda: self.door_list.moved() if self.door_list is not None else None,
        )
        self.door_list = DoorList(self.broker, lambda: self.keeper.current)
        await self.broker.start()
        inbox = Inbox(settings.link.inbox_messages_max)
        near = ("127.0.0.1" if listen in ANY_ADDRESS else listen, port)
        link = mqtt_link(
            GATEWAY, self.keeper.view, self.keystore, settings, inbox, self.clock, lambda: [near]
        )
        self.agent = Agent(
            node_id=GATEWAY,
            home=self.home,
            settings=settings,
            keys=trust.identity.keys,
            keystore=self.keystore,
            roster=self.keeper.view,
            inbox=inbox,
            link=link,
            runtime=self._engine,
            journal=journal_of(self.home, self.keeper.view, GATEWAY),
            clock=self.clock,
            extension=self,
            mdns=mdns_interface(settings),
        )
        self._build_joining(mesh_id, listen)
        self.resting.met(GATEWAY)  # with others it is a session that tells us to say it again
        return self.agent

    def _engine(self, on_done: OnDone, on_started: OnStarted) -> Runtime:
        return ProcessPoolEngine(
            self.settings.engine.processes,
            on_done=on_done,
            on_started=on_started,
            slowdown=self.settings.board.slowdown,
            settings=PoolSettings(start_timeout_s=self.settings.worker.start_s_max),
        )

    def _build_joining(self, mesh_id: str, listen: str) -> None:
        trust = self.trust
        desk = JoinDesk(root_spki_sha256=trust.authority.root_spki_sha256, taken=self._is_taken)
        context = tls.server_context(
            self.keystore.identity_path, trust.authority.root, client_certificates=False
        )
        if self.given is not None:
            context.sni_callback = self.given.choose
        self._joining_context = context
        self._own_leaf = leaf_sha256(trust.identity.leaf.public_bytes(Encoding.DER))
        identity = ServerIdentity(context, lambda: self._own_leaf, trust.authority.chain_pem, mesh_id)
        self.joining = JoiningServer(
            listen,
            self.settings.joining.port,
            identity,
            desk,
            self._persist_invitations,
            self._joined,
            on_renewal=self.enroller.renew,
            routers=[standing_router(self.keeper, lambda: self._own_leaf, self.roster_handed)],
            clock=self.clock,
        )

    def serve_api(self, backend: Backend) -> None:
        """The HTTP API, in the app of the joining port: after ``open``, before ``doors``."""
        assert self.joining is not None
        self.api = Services(
            backend,
            self.access,
            home=self.home.path,
            clock=self.clock,
            lan=self.settings.api.lan,
            entropy=os.urandom,
        )
        self.console = routes.install(self.joining.app, self.api)

    @contextlib.asynccontextmanager
    async def doors(self) -> AsyncIterator[None]:
        """Joining is open, and announced, for as long as the block lasts."""
        assert self.agent is not None and self.joining is not None
        listen = self.settings.joining.listen
        async with self.joining:
            kept = await asyncio.to_thread(self.keystore.read, INVITATIONS)
            if kept is not None:
                # Codes that were open may have been used on a later copy of this home: they are void.
                await self.joining.desk.restore(kept, void_open=True)
            assert self.broker is not None
            brokers = ((listen, self.broker.port),)
            self.agent.advertise(
                Advert(self.agent.mesh_id, GATEWAY, GATEWAY, brokers, self.joining.port, (listen,))
            )
            try:
                yield
            finally:
                if self.console is not None:
                    await self.console.close()
                if self.api is not None:
                    self.api.close()  # ends what is streamed, so that the server need not wait for it

    def _last_broker_port(self) -> int:
        """The port that our members know; a gateway with `--broker-port 0` keeps it."""
        held = self.keystore.roster()
        if held is None:
            return 0
        from security.roster import RosterView

        try:
            view = RosterView(root_spki_sha256=self.trust.authority.root_spki_sha256, signed=held)
        except EdgeweaveError:
            return 0
        return parse_address(view.current.brokers[0])[1] if view.current and view.current.brokers else 0

    async def run(self) -> None:
        """The gateway's own tasks, until cancelled."""
        assert self.broker is not None
        async with asyncio.TaskGroup() as group:
            group.create_task(super().run(), name="duties")
            group.create_task(self.broker.run(), name="broker")
            group.create_task(self.renewals.run(), name="renewal")
            group.create_task(residence.keep_heap_small(), name="residence")
            if self.given is not None:
                group.create_task(self.given.run(), name="given-certificate")

    def _key_used(self, member: str) -> bytes | None:
        return self.agent.sessions.key_of(member) if self.agent is not None else None

    def _certified(self, identity: StoredIdentity) -> None:
        """Our new certificate: shown to new connections, and in our own next one to the broker."""
        self._joining_context.load_cert_chain(self.keystore.identity_path)
        self._own_leaf = leaf_sha256(identity.leaf.public_bytes(Encoding.DER))

    async def close(self) -> None:
        """Stop the broker too: a gateway that stops in order takes it along, a killed one leaves it."""
        if self.broker is not None:
            await self.broker.stop()
        await self.access.close()

    async def shut_out(self, node: str, *, by: str, reason: str) -> bool:
        """Revoke, and take back what the node has open at the joining desk. See ``Duties.revoke``."""
        assert self.joining is not None
        return await self.revoke(node, by=by, reason=reason, withdraw=self.joining.desk.withdraw)

    def heard(self, peer: str, message: Message) -> None:
        super().heard(peer, message)
        if isinstance(message, About):  # the first word of a session
            self.resting.met(peer)

    def _tell_rest(self, peer: str, wish: Rest) -> None:
        agent = self.agent
        if agent is not None and peer == GATEWAY:
            agent.soon(lambda now_ns, wall_ms: agent.rest(now_ns, wall_ms, wish))
        elif agent is not None and self.registry.is_up(peer):  # else it is told when it comes
            agent.soon(lambda now_ns, _: agent.tell(now_ns, peer, wish))

    def _is_taken(self, name: str) -> bool:
        held = self.keeper.current.listed(name)
        return held is not None and held.status != "left"

    # ── joining ───────────────────────────────────────────────────────────────────────────────────

    async def _persist_invitations(self, data: bytes) -> None:
        await asyncio.to_thread(self.keystore.write, INVITATIONS, data)

    async def _joined(self, issue: Issue) -> bytes:
        answer = await self.enroller.join(issue)
        assert self.door_list is not None
        try:
            await self.door_list.tell()  # before the newcomer comes to connect
        except Unavailable as error:
            log.warning("the broker will learn of the new member later", extra={"cause": str(error)})
        return answer

    def setup_link(self) -> str:
        """Where the first administrator is made, once; "" where there are users."""
        secret = self.access.setup_secret
        return "" if secret is None else self.link(f"/setup#{secret}")

    def link(self, path: str) -> str:
        """The address of a page of ours, as a browser on this machine opens it."""
        assert self.joining is not None
        listen = self.settings.joining.listen
        host = "127.0.0.1" if listen in ANY_ADDRESS else listen
        return f"https://{format_address((host, self.joining.port))}{path}"

    def join_addresses(self) -> tuple[str, ...]:
        assert self.joining is not None
        joining = self.settings.joining
        return reachable(joining.listen, self.joining.port, joining.addresses)
