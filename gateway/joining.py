"""Joining, the gateway's shell: the desk that decides (``security.enrolment``) behind HTTPS.

    GET  /join/chain    the CA chain, PEM; public       GET  /join/health   which mesh answers here
    GET  /join/roster   the signed roster, public       POST /join/leave    a member's last word, signed
    POST /join          a joining request, CBOR         POST /join/renew    new keys for a member, signed
    POST /join/roster   to a restored gateway: a roster of its own that a member holds

``JoiningDesk`` runs the core: a request waits until the core has an answer; invitations are on disk before
anything is issued on their strength; the same request again gets the same answer. ``Enroller`` does what the
core asks of the authority: certify, list in the next roster, answer.

Not here: who may join (the core), the app and its bounds (``gateway.api.app``), keys on disk (``keystore``).
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from types import TracebackType

from fastapi import APIRouter, Request, Response

from edge_node.clock import Clock, SystemClock
from gateway.api.app import HttpsServer, create_app, read_body
from gateway.roster_keeper import RosterKeeper
from security.authority import Authority
from security.enrolment import (
    REQUEST_BYTES_MAX,
    Asked,
    Effect,
    Event,
    Issue,
    Issued,
    JoinCode,
    JoinDesk,
    NotIssued,
    NotPersisted,
    OpenInvite,
    PendingNode,
    Persisted,
    PersistInvitations,
    Reply,
    accepted,
    noted,
    open_leave,
    open_renewal,
    refused,
    unavailable,
)
from security.errors import BadInput, EdgeweaveError, ProtocolViolation, Refused, Unavailable
from security.identity import spki_sha256
from security.roster import MEMBERS_MAX, ROSTER_BYTES_MAX, Member, MemberKey

log = logging.getLogger(__name__)

ISSUING_MAX = 16  # certificates and roster changes under way; the core bounds who may ask
SHOWS_MAX = 4  # rosters shown to a restored gateway at once: half a megabyte each
RENEWALS_MAX = 16  # renewals at once: each costs three P-256 operations before it is believed
RENEWALS_EACH = 8  # of one member, one more every RENEWAL_PACE_S; each makes a roster that goes to everybody
RENEWAL_PACE_S = 600  # as often as a node asks again
HOUR_S = 3600

Persist = Callable[[bytes], Awaitable[None]]
OnJoined = Callable[[Issue], Awaitable[bytes]]
OnRenewal = Callable[[bytes, bytes], Awaitable[bytes]]


class Enroller:
    """Certify and list: what an ``Issue`` and a renewal come to."""

    def __init__(self, authority: Authority, keeper: RosterKeeper, *, clock: Clock | None = None) -> None:
        self._authority = authority
        self._keeper = keeper
        self._clock = clock or SystemClock()
        self._renewed: dict[str, tuple[float, int]] = {}  # member → renewals that count, and at which moment

    async def join(self, issue: Issue) -> bytes:
        """The answer for a new member, once a persisted roster lists it. The same again is answered again.

        Raises: EdgeweaveError: the name is taken, the roster or the disk is full.
        """
        now_s = self._now_s()
        spki = spki_sha256(issue.key)
        held = self._keeper.current.listed(issue.node_id)
        key = MemberKey(spki, issue.x25519, now_s - HOUR_S)
        if held is not None and held.status == "active" and spki in {one.spki_sha256 for one in held.keys}:
            signed = self._keeper.signed
        elif issue.replaces:
            signed = await self._keeper.replace(issue.node_id, key, instead_of=held)
            log.warning("member's board was replaced", extra={"node": issue.node_id})
        else:
            signed = await self._keeper.add(Member(issue.node_id, (key,), issue.roles, issue.labels))
        member = self._keeper.current.member(issue.node_id)
        roles = member.roles if member is not None else issue.roles
        leaf = self._authority.issue(issue.key, issue.node_id, roles=roles, now_s=now_s)
        return self._answer(leaf, signed, now_s)

    async def renew(self, request: bytes, server_leaf_sha256: bytes) -> bytes:
        """Raises: EdgeweaveError: not a member's, forged, for another connection, too often, a full disk."""
        now_s = self._now_s()
        renewal = open_renewal(
            request, roster=self._keeper.current, server_leaf_sha256=server_leaf_sha256, now_s=now_s
        )
        member = self._keeper.current.member(renewal.node_id)
        assert member is not None, "open_renewal answers for active members"
        key = MemberKey(spki_sha256(renewal.key), renewal.x25519, now_s - HOUR_S)
        if key.spki_sha256 not in {one.spki_sha256 for one in member.keys}:  # else the answer was lost
            self._count_renewal(member.id)
        signed = await self._keeper.add_key(member.id, key, beside=renewal.signer_spki_sha256)
        leaf = self._authority.issue(renewal.key, member.id, roles=member.roles, now_s=now_s)
        log.info("member renewed its keys", extra={"node": member.id})
        return self._answer(leaf, signed, now_s)

    def _count_renewal(self, member: str) -> None:
        """Raises: Unavailable: a member that is broken or means harm would have a roster sent for ever."""
        if len(self._renewed) >= MEMBERS_MAX:
            listed = self._keeper.current.member
            self._renewed = {name: held for name, held in self._renewed.items() if listed(name) is not None}
        now_ns = self._clock.now_ns()
        counted, at_ns = self._renewed.get(member, (0.0, now_ns))
        counted = max(0.0, counted - (now_ns - at_ns) / 1e9 / RENEWAL_PACE_S)
        if counted + 1 > RENEWALS_EACH:
            raise Unavailable(
                f"{member} renews too often", fix="try again later", retry_after_s=float(RENEWAL_PACE_S)
            )
        self._renewed[member] = counted + 1, now_ns

    def _answer(self, leaf_pem: bytes, signed: bytes, now_s: int) -> bytes:
        return accepted(
            leaf_pem, self._authority.chain_pem, signed, wall_s=now_s, brokers=self._keeper.current.brokers
        )

    def _now_s(self) -> int:
        return self._clock.wall_ms() // 1000


class JoiningDesk:
    """The shell around ``JoinDesk``; its tasks end with the block."""

    def __init__(
        self, desk: JoinDesk, *, persist: Persist, on_joined: OnJoined, clock: Clock | None = None
    ) -> None:
        """
        Args:
            persist: writes the snapshot atomically, fsynced, or raises Unavailable.
            on_joined: certifies and lists; the answer (``Enroller.join``), or an EdgeweaveError.
        """
        self._desk = desk
        self._persist = persist
        self._on_joined = on_joined
        self._clock = clock or SystemClock()
        self._replies: dict[int, asyncio.Future[bytes]] = {}
        self._reply = 0
        self._saves: asyncio.Queue[PersistInvitations] = asyncio.Queue()
        self._saved: dict[int, asyncio.Future[None]] = {}
        self._issues: asyncio.Queue[Issue] = asyncio.Queue()
        self._moved = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self._running: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> JoiningDesk:
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._running = [
            self._tasks.create_task(self._run_saves(), name="joining-persist"),
            self._tasks.create_task(self._run_timers(), name="joining-timers"),
            *(
                self._tasks.create_task(self._run_issues(), name=f"joining-issue-{n}")
                for n in range(ISSUING_MAX)
            ),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._running:
            task.cancel()
        replies, self._replies = self._replies, {}
        for waiting in replies.values():
            if not waiting.done():
                waiting.set_result(unavailable("gateway is stopping", 5))
        for saving in self._saved.values():
            if not saving.done():
                saving.set_exception(Unavailable("the gateway is stopping", fix="try again when it is up"))
        assert self._tasks is not None
        ending = (kind, error, trace) if kind is asyncio.CancelledError else (None, None, None)
        await self._tasks.__aexit__(*ending)  # a group would wrap the block's own error

    # -- for the network

    async def ask(self, request: bytes, *, server_leaf_sha256: bytes, address: str) -> bytes:
        """The core's answer to a request; waits for disk and authority."""
        self._reply += 1
        reply = self._reply
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._replies[reply] = answer
        try:
            self._feed(Asked(reply, request, server_leaf_sha256, address))
            return await answer
        finally:
            self._replies.pop(reply, None)

    # -- for the operator

    async def invite(
        self,
        *,
        addresses: tuple[str, ...],
        ttl_s: int = HOUR_S,
        approval: str = "auto",
        name: str = "",
        roles: tuple[str, ...] = (),
        replaces: bool = False,
    ) -> JoinCode:
        """A new code, once it is on disk. *replaces*: for a board that takes the place of member *name*.

        Raises: BadInput: an argument does not fit. Unavailable: the disk refuses.
        """
        code, effects = self._desk.invite(
            self._now_s(),
            entropy=os.urandom(20),
            addresses=addresses,
            ttl_s=ttl_s,
            approval=approval,
            name=name,
            roles=roles,
            replaces=replaces,
        )
        await self._saving(effects)
        return code

    async def approve(self, name: str) -> None:
        """Raises: BadInput: no such node waits. Unavailable: the disk refuses."""
        await self._saving(self._desk.approve(self._now_s(), name))

    async def deny(self, name: str) -> None:
        """Raises: BadInput: no such node waits. Unavailable: the disk refuses."""
        await self._saving(self._desk.deny(self._now_s(), name))

    async def call_off(self, token_id: str) -> None:
        """Withdraw an open code. Raises: BadInput: it is not open. Unavailable: the disk refuses."""
        await self._saving(self._desk.call_off(self._now_s(), token_id))

    async def withdraw(self, name: str) -> None:
        """See ``JoinDesk.withdraw``. Raises: Unavailable: the disk refuses."""
        await self._saving(self._desk.withdraw(self._now_s(), name))

    def pending(self) -> list[PendingNode]:
        return self._desk.pending()

    def pending_until_s(self, node: PendingNode) -> int:
        return self._desk.pending_until_s(node)

    def open_invites(self) -> list[OpenInvite]:
        return self._desk.open_invites(self._now_s())

    async def restore(self, data: bytes, *, void_open: bool) -> None:
        """Before the first request. A damaged file voids every code, and says so in the log."""
        try:
            effects = self._desk.restore(data, now_s=self._now_s(), void_open=void_open)
        except ProtocolViolation as violation:
            log.error("invitations are damaged: every join code is void", extra={"cause": violation.cause})
            return
        await self._saving(effects)

    # -- inside

    def _now_s(self) -> int:
        return self._clock.wall_ms() // 1000

    def _feed(self, event: Event) -> None:
        self._perform(self._desk.handle(self._now_s(), event))

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Reply(reply, body):
                    waiting = self._replies.get(reply)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(body)
                case PersistInvitations():
                    self._saves.put_nowait(effect)
                case Issue():
                    self._issues.put_nowait(effect)
        self._moved.set()

    async def _saving(self, effects: list[Effect]) -> None:
        tokens = [effect.token for effect in effects if isinstance(effect, PersistInvitations)]
        done = [asyncio.get_running_loop().create_future() for _ in tokens]
        self._saved.update(zip(tokens, done, strict=True))
        self._perform(effects)
        try:
            for one in done:
                await one
        finally:
            for token in tokens:
                self._saved.pop(token, None)

    async def _run_saves(self) -> None:
        while True:
            save = await self._saves.get()
            while not self._saves.empty():  # only the newest snapshot need be written
                skipped, save = save, self._saves.get_nowait()
                log.debug("snapshot superseded", extra={"token": skipped.token})
            try:
                await self._persist(save.data)
            except (EdgeweaveError, OSError) as error:
                log.error("invitations could not be written", extra={"cause": str(error)})
                self._settle(
                    save.token, Unavailable("gateway cannot write to its disk", fix="free space on it")
                )
                self._feed(NotPersisted(save.token))
            else:
                self._settle(save.token, None)
                self._feed(Persisted(save.token))

    def _settle(self, up_to: int, error: Unavailable | None) -> None:
        for token, waiting in self._saved.items():
            if token <= up_to and not waiting.done():
                if error is None:
                    waiting.set_result(None)
                else:
                    waiting.set_exception(error)

    async def _run_issues(self) -> None:
        while True:
            issue = await self._issues.get()
            try:
                answer = await self._on_joined(issue)
            except EdgeweaveError as error:
                log.warning("member was not issued", extra={"node": issue.node_id, "cause": error.cause})
                self._feed(NotIssued(issue.token_id, error.cause, error.fix))
            else:
                log.info("member joined", extra={"node": issue.node_id})
                self._feed(Issued(issue.token_id, answer))

    async def _run_timers(self) -> None:
        while True:
            self._moved.clear()
            due_s = self._desk.deadline_s()
            wait_s = 3600.0 if due_s is None else min(3600.0, max(1.0, due_s - self._clock.wall_ms() / 1000))
            try:
                async with asyncio.timeout(wait_s):
                    await self._moved.wait()
            except TimeoutError:
                self._perform(self._desk.tick(self._now_s()))


def invite_facts(invite: OpenInvite) -> dict[str, object]:
    """What people and programs are told of an open code."""
    return {
        "id": invite.id,
        "name": invite.name,
        "approval": invite.approval,
        "roles": list(invite.roles),
        "replaces": invite.replaces,
        "expires_at_ms": invite.expires_s * 1000,
    }


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """What the joining port shows: its context, the hash of its leaf, and the chain to be pinned.

    ``leaf_sha256`` is asked each time: the gateway renews its own certificate while it runs.
    """

    context: ssl.SSLContext
    leaf_sha256: Callable[[], bytes]
    chain_pem: bytes
    mesh_id: str


def joining_router(
    desk: JoiningDesk, identity: ServerIdentity, *, on_renewal: OnRenewal | None = None
) -> APIRouter:
    """The four paths, for the one app."""
    router = APIRouter()
    renewals = asyncio.Semaphore(RENEWALS_MAX)

    @router.get("/join/chain")
    async def chain() -> Response:
        return Response(identity.chain_pem, media_type="application/x-pem-file")

    @router.get("/join/health")
    async def health() -> dict[str, object]:
        return {"mesh": identity.mesh_id, "joining": True}

    @router.post("/join")
    async def join(request: Request) -> Response:
        body = await read_body(request, bytes_max=REQUEST_BYTES_MAX)
        address = request.client.host if request.client else ""
        answer = await desk.ask(body, server_leaf_sha256=identity.leaf_sha256(), address=address)
        return _cbor(answer)

    @router.post("/join/renew")
    async def renew(request: Request) -> Response:
        body = await read_body(request, bytes_max=REQUEST_BYTES_MAX)
        if on_renewal is None:
            return _cbor(refused("this gateway renews nothing"))
        if renewals.locked():
            return _cbor(unavailable("too many renewals at once", 5))
        async with renewals:
            try:
                return _cbor(await on_renewal(body, identity.leaf_sha256()))
            except Unavailable as error:
                return _cbor(unavailable(error.cause, max(1, int(error.retry_after_s))))
            except (ProtocolViolation, Refused, BadInput) as error:
                return _cbor(refused(error.cause, error.fix))

    return router


def standing_router(
    keeper: RosterKeeper, leaf_sha256: Callable[[], bytes], on_shown: Callable[[bytes], None]
) -> APIRouter:
    """For members that the broker does not let in, or whose daemon does not run.

    The roster is public on purpose: the broker sees the same names, and who was shut out has nothing left
    to prove. A leave proves itself by the member's key, and to this TLS connection.

    Args: on_shown: is given a roster that a member holds, unverified, while the keeper holds back.
    """
    router = APIRouter()
    leaves = asyncio.Semaphore(RENEWALS_MAX)
    shows = asyncio.Semaphore(SHOWS_MAX)

    @router.get("/join/roster")
    async def roster() -> Response:
        return Response(keeper.signed, media_type="application/cose", headers={"connection": "close"})

    @router.post("/join/roster")
    async def shown(request: Request) -> Response:
        """To a gateway that was restored from a backup: what it has forgotten, under its own signature. Its
        broker knows the keys of that day only, so a member that renewed since has no other way to tell it.
        """
        if not keeper.holds:
            return _cbor(refused("this gateway was not restored: it knows its own roster"))
        if shows.locked():
            return _cbor(unavailable("too many rosters at once", 5))
        async with shows:
            on_shown(await read_body(request, bytes_max=ROSTER_BYTES_MAX))
        return _cbor(noted())

    @router.post("/join/leave")
    async def leave(request: Request) -> Response:
        body = await read_body(request, bytes_max=REQUEST_BYTES_MAX)
        if leaves.locked():
            return _cbor(unavailable("too many members leave at once", 5))
        async with leaves:
            try:
                node = open_leave(body, roster=keeper.current, server_leaf_sha256=leaf_sha256())
                await keeper.mark(node, "left", by=node, seen=keeper.current.listed(node))
            except Unavailable as error:
                return _cbor(unavailable(error.cause, max(1, int(error.retry_after_s))))
            except (ProtocolViolation, Refused, BadInput) as error:
                return _cbor(refused(error.cause, error.fix))
        log.info("member left", extra={"node": node})
        return _cbor(noted())

    return router


def _cbor(body: bytes) -> Response:
    return Response(body, media_type="application/cbor", headers={"connection": "close"})


class JoiningServer:
    """Desk, app and port together, for as long as the block lasts."""

    def __init__(
        self,
        listen: str,
        port: int,
        identity: ServerIdentity,
        desk: JoinDesk,
        persist: Persist,
        on_joined: OnJoined,
        *,
        on_renewal: OnRenewal | None = None,
        routers: Iterable[APIRouter] = (),
        clock: Clock | None = None,
    ) -> None:
        """
        Args:
            listen: the address to listen on; port: 0 for any free one (see ``port``).
            routers: other rooms of the same app.
        """
        self.desk = JoiningDesk(desk, persist=persist, on_joined=on_joined, clock=clock)
        self.app = create_app([joining_router(self.desk, identity, on_renewal=on_renewal), *routers])
        self._server = HttpsServer(self.app, listen, port, identity.context, clock=clock)

    @property
    def port(self) -> int:
        return self._server.port

    async def __aenter__(self) -> JoiningServer:
        """Raises: BadInput: the port is in use, or the address is not this machine's."""
        await self.desk.__aenter__()
        try:
            await self._server.__aenter__()
        except BaseException:
            await self.desk.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.desk.__aexit__(kind, error, trace)  # answers who waits, so the server ends at once
        finally:
            await self._server.__aexit__(kind, error, trace)
