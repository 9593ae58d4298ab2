"""The gateway's duties in its mesh: what it does beyond every other node, and that needs no socket.

    keeper ─► (signed roster) ─► node, door list, registry, everybody
    node   ─► beats, sessions, rosters shown ─► registry, groups, homecoming
    operator: revoke            member: leave

The node's ``Extension``. ``house`` adds the doors (joining, broker, engine, renewal) and is what a daemon
runs; the simulator runs these same duties over a modelled broker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from cryptography.hazmat.primitives.asymmetric import ec

from edge_node.clock import Clock
from edge_node.node import Node
from edge_node.wire import messages
from edge_node.wire.topics import Direct, RosterTopic, topic_for
from gateway.broker.door_list import DoorList
from gateway.fleet import registry as fleet
from gateway.groups import Groups
from gateway.homecoming import Homecoming
from gateway.roster_keeper import RosterKeeper, Runner
from security import control
from security.authority import Authority
from security.errors import EdgeweaveError, Unavailable
from security.keystore import KeyStore
from security.roster import Member, Roster
from security.session import key_hash

log = logging.getLogger(__name__)

CUT_S = 4.0
"""How long `revoke` waits for the broker before it says that this is to come."""
GOODBYE_S = 0.5
"""Between a member's goodbye and its end: our acknowledgement gets out before the broker shuts it out."""


class Duties:
    """What makes a node the gateway.

    Args: deployer: the key that signs code.   entropy: of the group's epochs.   runner: of blocking work.
    """

    def __init__(
        self,
        *,
        authority: Authority,
        keystore: KeyStore,
        deployer: ec.EllipticCurvePrivateKey,
        clock: Clock,
        entropy: Callable[[int], bytes],
        runner: Runner = asyncio.to_thread,
    ) -> None:
        self.keystore = keystore
        self.clock = clock
        self.registry = fleet.Registry()
        self.groups = Groups(authority, entropy=entropy)
        self.keeper = RosterKeeper(
            authority, keystore, on_changed=self._roster_signed, clock=clock, runner=runner
        )
        self.node: Node | None = None
        self.door_list: DoorList | None = None
        record = Homecoming.record_of(keystore)
        self.homecoming = (
            Homecoming(record, keystore, self.keeper, clock, self._ask_roster) if record else None
        )
        self._deployer = deployer
        self._leaving: asyncio.Queue[Member] = asyncio.Queue(maxsize=64)

    async def run(self) -> None:
        """The tasks of these duties, until cancelled."""
        assert self.door_list is not None
        async with asyncio.TaskGroup() as group:
            group.create_task(self.keeper.run(), name="roster-keeper")
            group.create_task(self.door_list.run(), name="door-list")
            group.create_task(self._let_leave(), name="leaving")
            if self.homecoming is not None:
                group.create_task(self.homecoming.run(), name="homecoming")

    # ── the roster ────────────────────────────────────────────────────────────────────────────────

    def _roster_signed(self, signed: bytes) -> None:
        """A new version is on disk; called on the loop. The view is the node's, so it has it already."""
        if self.door_list is not None:
            self.door_list.moved()
        self.registry.handle(self.clock.now_ns(), fleet.Listed(self.keeper.current.members))
        if self.node is not None:
            self.node.soon(self._spread_roster)

    def _spread_roster(self, now_ns: int, wall_ms: int) -> None:
        assert self.node is not None
        self._tell_the_removed(now_ns)
        self.node.roster_moved(now_ns, wall_ms)
        self.link_up()

    def _tell_the_removed(self, now_ns: int) -> None:
        """Show them the roster that says so, before their session goes and the broker cuts them."""
        assert self.node is not None
        node, roster = self.node, self.keeper.current
        own = key_hash(node.keys.x25519_public)
        for peer in [p for p, _ in node.channels.streams() if roster.member(p) is None]:
            frame = control.Control(
                control.ROSTER, bytes(control.ATTEMPT_BYTES), roster.version, own, control.NO_HASH,
                self.keeper.signed,
            )  # fmt: skip
            try:
                node.link.send(0, topic_for(Direct(node.mesh_id, peer, node.node_id)), frame.encode())
            except EdgeweaveError as error:  # no link, or a roster larger than a frame
                log.debug("removed member not told", extra={"peer": peer, "cause": error.cause})

    async def revoke(
        self, node: str, *, by: str, reason: str, withdraw: Callable[[str], Awaitable[object]]
    ) -> bool:
        """Shut *node* out: listed as revoked on disk, everyone told, its connection cut.

        Args: withdraw: takes back what the node still has open at the joining desk.
        Returns: whether the broker took it; if not, it is told as soon as it answers.
        Raises: BadInput: no such member, or the texts do not fit.
        """
        await withdraw(node)  # first: no claim of its may be answered after it is out
        await self.keeper.mark(node, "revoked", by=by, reason=reason)
        log.warning("member revoked", extra={"node": node, "by": by, "cause": reason})
        assert self.door_list is not None
        try:
            async with asyncio.timeout(CUT_S):
                await self.door_list.told()
        except TimeoutError:
            return False
        return True

    async def _let_leave(self) -> None:
        while True:
            member = await self._leaving.get()
            await asyncio.sleep(GOODBYE_S)
            try:
                await self.keeper.mark(member.id, "left", by=member.id, seen=member)
                log.info("member left", extra={"node": member.id})
            except EdgeweaveError as error:
                log.warning("member could not leave", extra={"node": member.id, "cause": str(error)})

    def _ask_roster(self, peer: str) -> None:
        if self.node is not None:
            channels = self.node.channels
            self.node.soon(lambda now_ns, _: channels.ask_roster(now_ns, peer))

    def roster_handed(self, signed: bytes) -> None:
        """By a member that our broker does not know yet; the node verifies it, and takes a newer one."""
        if self.node is not None:
            self.node.soon(partial(self.node.adopt_roster, signed=signed))

    # ── the node's extension ──────────────────────────────────────────────────────────────────────

    def attach(self, node: Node) -> None:
        self.node = node

    def roster_changed(self, roster: Roster, signed: bytes) -> None:
        """A member showed a newer roster of our own signature: the keeper, whose view it is, has it."""
        if self.homecoming is None or self.homecoming.over:
            log.warning("a member showed a newer roster than ours: was this home copied back by hand?")
        else:
            self.homecoming.roster_changed(roster)
        assert self.door_list is not None
        self.door_list.moved()  # members that this home has forgotten are let in again
        self.registry.handle(self.clock.now_ns(), fleet.Listed(roster.members))
        self.link_up()

    def link_up(self) -> None:
        assert self.node is not None
        if self.keeper.holds:
            return  # what an old copy holds is not published
        try:
            topic = topic_for(RosterTopic(self.node.mesh_id))
            self.node.link.send(0, topic, self.keeper.signed, retain=True)
        except EdgeweaveError as error:
            log.debug("roster not published now", extra={"cause": error.cause})

    def peer_changed(self, peer: str, up: bool, reason: str) -> None:
        now_ns = self.clock.now_ns()
        self.registry.handle(now_ns, fleet.Heard(peer) if up else fleet.WentDown(peer, reason))
        if self.homecoming is not None:
            self.homecoming.peer_changed(peer, up)

    def roster_shown(self, peer: str, signed: bytes) -> None:
        if self.homecoming is not None:
            self.homecoming.shown(peer, signed)

    def heard(self, peer: str, message: messages.Message) -> None:
        match message:
            case messages.Beat(load=load, boot_id=boot_id):
                heard = fleet.Heard(peer, load, boot_id=boot_id)
                self.registry.handle(self.clock.now_ns(), heard)
            case messages.About(version=version):
                self.registry.handle(self.clock.now_ns(), fleet.Heard(peer, None, version))
            case messages.Leaving():
                member = self.keeper.current.member(peer)
                if member is not None and not self._leaving.full():
                    self._leaving.put_nowait(member)

    def check_settled(self) -> None:
        """Raises: Unavailable: this home was restored, and what members know has to be learned first."""
        if self.keeper.holds:
            raise Unavailable(
                "this gateway was restored from a backup and signs nothing until its members were heard",
                fix="wait for them (`edge-gateway status` names them), or go on without: edge-gateway settle",
            )

    def deployer_key(self) -> ec.EllipticCurvePrivateKey:
        self.check_settled()
        return self._deployer
