"""The roster keeper: the one place where the mesh's member list changes.

    add · approve elsewhere · add_key · retire_key · mark · set_brokers · set_deployers   ──▶   next version
    sign  →  persist (fsync)  →  publish (``on_changed``)

Each version is persisted before anybody sees it, so a restarted gateway can never sign the same number
twice. Changes that come close together share a version: after a burst of 8, one version a second (each
travels to every member, up to 145 KB). Re-signed daily, since a roster speaks for seven days.

    async with asyncio.TaskGroup() as house:
        keeper = RosterKeeper(authority, ...)
        await keeper.open(brokers=[...], members=[...])      # creates, loads or brings up to date
        house.create_task(keeper.run())                      # commits changes until cancelled
        signed = await keeper.add(member)                    # returns once it is on disk and published

Not here: who may join (``joining``), what a member does with a roster (``security.roster.RosterView``).
A newer roster of ours that a member shows is adopted by the agent, into the view that this keeper builds on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from edge_node.clock import Clock, SystemClock
from security.authority import Authority
from security.enrolment import name_taken, with_new_key
from security.errors import BadInput, EdgeweaveError, ProtocolViolation, Refused, Unavailable
from security.identity import GATEWAY
from security.roster import (
    BY_MAX,
    MEMBERS_MAX,
    NEW_CODE,
    REASON_MAX,
    RESIGN_S,
    Adopted,
    Deployer,
    Member,
    MemberKey,
    Roster,
    RosterDraft,
    RosterView,
)

log = logging.getLogger(__name__)

BURST = 8
PACE_S = 1.0
RETRY_S = 60.0
CHANGES_MAX = 256  # waiting for a version; a flood of joins is refused before it gets here

T = TypeVar("T")


class RosterStore(Protocol):
    """``security.keystore.KeyStore`` is one."""

    def roster(self) -> bytes | None: ...
    def save_roster(self, signed: bytes) -> None: ...


class Runner(Protocol):
    """Where blocking work goes; ``asyncio.to_thread`` is one."""

    def __call__(self, func: Callable[..., T], /, *args: Any) -> Awaitable[T]: ...


@dataclass(slots=True)
class _Draft:
    members: dict[str, Member]
    brokers: tuple[str, ...]
    deployers: tuple[Deployer, ...]


Edit = Callable[[_Draft], None]


class _Overtaken(Unavailable):
    """While we signed, a member showed a newer roster of ours: the change belongs on top of that one."""


class RosterKeeper:
    """Load, change, sign, persist, publish."""

    def __init__(
        self,
        authority: Authority,
        store: RosterStore,
        *,
        on_changed: Callable[[bytes], None],
        clock: Clock | None = None,
        runner: Runner = asyncio.to_thread,
    ) -> None:
        """``on_changed`` gets each signed version, on the loop, after it is on disk."""
        self._authority = authority
        self._store = store
        self._on_changed = on_changed
        self._clock = clock or SystemClock()
        self._runner = runner
        self._view = RosterView(root_spki_sha256=authority.root_spki_sha256)
        self._waiting: list[tuple[Edit, asyncio.Future[bytes]]] = []
        self._held_back: Edit | None = None  # what `open` was asked for, while nothing may be signed
        self._step = 1
        self._wake = asyncio.Event()
        self._allowance = float(BURST)
        self._allowed_ns = self._clock.now_ns()

    @property
    def current(self) -> Roster:
        assert self._view.current is not None, "open() comes first"
        return self._view.current

    @property
    def signed(self) -> bytes:
        assert self._view.signed is not None, "open() comes first"
        return self._view.signed

    @property
    def view(self) -> RosterView:
        return self._view

    @property
    def holds(self) -> bool:
        """This home is an old copy: until `release` nothing is signed, nor published at the broker."""
        return self._held_back is not None

    async def open(
        self,
        *,
        members: Iterable[Member] = (),
        brokers: Sequence[str] | None = None,
        deployers: Sequence[Deployer] | None = None,
        hold: bool = False,
    ) -> Roster:
        """The stored roster, brought up to date; the first one if there is none.

        Args: members: those that must be listed as given (the gateway itself); the others stay.
            hold: only load it, and sign nothing until `release` (see ``gateway.restoration``).
        Raises: BadInput: the stored roster is not this authority's.
        """
        stored = await self._runner(self._store.roster)
        if stored is not None:
            try:
                self._view.adopt(stored)
            except ProtocolViolation as violation:
                raise BadInput(
                    f"the stored roster does not verify: {violation.cause}",
                    fix="restore the gateway's home from a backup",
                ) from violation
        listed = tuple(members)

        def wanted(draft: _Draft) -> None:
            draft.members.update((member.id, member) for member in listed)
            draft.brokers = tuple(brokers) if brokers is not None else draft.brokers
            draft.deployers = tuple(deployers) if deployers is not None else draft.deployers

        if hold and self._view.current is not None:
            self._held_back = wanted
            self._on_changed(self.signed)
            return self.current
        draft = self._draft()
        wanted(draft)
        if self._view.current is None or self._differs(draft) or self._is_due():
            await self._commit(draft)
        else:
            self._on_changed(self.signed)
        return self.current

    async def release(self, *, step: int) -> bytes:
        """End the holding: the next version, *step* above the highest that was seen, is signed and returned.

        Raises: Unavailable: the disk refuses; it still holds, try again.
        """
        wanted = self._held_back
        assert wanted is not None, "opened with hold"
        self._held_back, self._step = None, step
        try:
            return await self.change(wanted)
        except BaseException:
            self._held_back = wanted
            raise

    async def run(self) -> None:
        """Commit what is asked for, and re-sign daily, until cancelled."""
        try:
            while True:
                await self._something_to_do()
                batch, self._waiting = self._waiting, []
                try:
                    await self._commit_batch(batch)
                finally:
                    _fail(batch)
        finally:
            batch, self._waiting = self._waiting, []
            _fail(batch)

    # -- changes ------------------------------------------------------------------------------------

    async def add(self, member: Member) -> bytes:
        """A new member; the signed roster that lists it. Adding the very same again changes nothing.

        A name whose bearer left may be given again; that of a revoked one only by `replace`.
        Raises: Refused: the name is taken, or the roster is full. Unavailable: the keeper is stopping.
        """

        def edit(draft: _Draft) -> None:
            held = draft.members.get(member.id)
            if held is not None and held.status == "active" and held.keys == member.keys:
                return
            if held is not None and held.status != "left":
                raise name_taken(member.id)
            if held is None and len(draft.members) >= MEMBERS_MAX:
                raise Refused(f"the roster is full ({MEMBERS_MAX} members)", fix="remove members that left")
            draft.members[member.id] = member

        return await self.change(edit)

    async def replace(self, node_id: str, key: MemberKey, *, instead_of: Member | None) -> bytes:
        """A dead board's successor: the member keeps name, roles and labels; its old keys are out.

        Args: instead_of: the member as it was seen; whoever changed it since (revoked it) comes first.
        Raises: Refused: no such member, the gateway, or changed since.
        """

        def edit(draft: _Draft) -> None:
            held = draft.members.get(node_id)
            if held is None or GATEWAY in (held.id, *held.roles):
                raise Refused(f"no member named {node_id} can be replaced", fix="see `edge-gateway nodes`")
            if held != instead_of:
                raise Refused(f"{node_id} was changed at the same time", fix="join again with a new code")
            draft.members[node_id] = Member(node_id, (key,), held.roles, held.labels)

        return await self.change(edit)

    async def add_key(self, node_id: str, key: MemberKey, *, beside: bytes | None = None) -> bytes:
        """A renewal: the new key in front of the old one, until that is retired.

        Args: beside: the key that asked for it, which is in use; None: the newest. See ``with_new_key``.
        Raises: Refused: no active member, or the key that asked is none of its keys any more: what was asked
            by a board that is replaced meanwhile is not granted under its successor's name.
        """

        def edit(draft: _Draft) -> None:
            held = _active(draft, node_id)
            if beside is not None and beside not in _spki(held):
                raise Refused(f"the key that asked is none of {node_id}'s any more", fix=NEW_CODE)
            asked_by = held.keys[0].spki_sha256 if beside is None else beside
            draft.members[node_id] = with_new_key(held, key, beside=asked_by)

        return await self.change(edit)

    async def retire_key(self, node_id: str, spki_sha256: bytes) -> bytes:
        """The new key was used, or the old one expired. The last key always stays."""

        def edit(draft: _Draft) -> None:
            held = _active(draft, node_id)
            keys = tuple(k for k in held.keys if k.spki_sha256 != spki_sha256)
            if keys:
                draft.members[node_id] = replace(held, keys=keys)

        return await self.change(edit)

    async def mark(
        self, node_id: str, status: str, *, by: str = "", reason: str = "", seen: Member | None = None
    ) -> bytes:
        """ "left" or "revoked": from now on a stranger, whose name stays listed.

        Marking the same again changes nothing: the first word on it stays.
        Args: by: the operator's account, or the member itself; reason: both are shown to everyone.
            seen: the member that asked for it; another board that bears its name since is not meant.
        Raises: BadInput: no such member, it is the gateway, or the texts do not fit a roster.
            Refused: the one that was *seen* has been replaced.
        """
        assert status in ("left", "revoked"), "a member comes back by joining"
        checked_end(by, reason)

        def edit(draft: _Draft) -> None:
            held = draft.members.get(node_id)
            if held is None:
                raise BadInput(f"no member is named {node_id!r}", fix="see `edge-gateway nodes`")
            if GATEWAY in (held.id, *held.roles):
                raise BadInput(
                    "a gateway cannot be taken out of its own mesh",
                    fix="stop it, and remove its home to end the mesh",
                )
            if seen is not None and _spki(held).isdisjoint(_spki(seen)):
                raise Refused(f"{node_id} was replaced: that name belongs to other keys now")
            if held.status in ("revoked", status):
                return
            draft.members[node_id] = replace(
                held, status=status, since_s=max(1, self._clock.wall_ms() // 1000), by=by, reason=reason
            )

        return await self.change(edit)

    async def set_brokers(self, brokers: Sequence[str]) -> bytes:
        """Where the brokers are, in order of preference; at most three."""
        if len(brokers) > 3:
            raise BadInput("a roster names at most three brokers", fix="choose the best three")

        def edit(draft: _Draft) -> None:
            draft.brokers = tuple(brokers)

        return await self.change(edit)

    async def set_deployers(self, deployers: Sequence[Deployer]) -> bytes:
        def edit(draft: _Draft) -> None:
            draft.deployers = tuple(deployers)

        return await self.change(edit)

    async def change(self, edit: Edit) -> bytes:
        """Have *edit* applied to the next version; the signed roster that holds it.

        An edit that raises changes nothing and its error comes back to the caller.
        """
        if self._held_back is not None:
            raise Unavailable(
                "this gateway was restored from a backup and signs nothing until its members were heard",
                fix="wait for them, or go on without: edge-gateway settle",
                retry_after_s=60.0,
            )
        if len(self._waiting) >= CHANGES_MAX:
            raise Unavailable("too many roster changes are waiting", fix="try again", retry_after_s=5.0)
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append((edit, done))
        self._wake.set()
        return await done

    # -- inside -------------------------------------------------------------------------------------

    def _draft(self) -> _Draft:
        held = self._view.current
        if held is None:
            return _Draft({}, (), ())
        return _Draft({one.id: one for one in held.members}, held.brokers, held.deployers)

    def _differs(self, draft: _Draft) -> bool:
        held = self._draft()
        return (held.members, held.brokers, held.deployers) != (draft.members, draft.brokers, draft.deployers)

    def _is_due(self) -> bool:
        if self._held_back is not None:
            return False
        return self._step > 1 or self._clock.wall_ms() // 1000 >= self.current.issued_s + RESIGN_S

    async def _something_to_do(self) -> None:
        while not self._waiting and not self._is_due():
            self._wake.clear()
            due_s = self.current.issued_s + RESIGN_S - self._clock.wall_ms() / 1000
            try:
                async with asyncio.timeout(
                    min(max(due_s, 1.0), 3600.0)
                ):  # the wall clock may be set meanwhile
                    await self._wake.wait()
            except TimeoutError:
                pass
        await asyncio.sleep(self._pause_s())

    async def _rest(self) -> None:
        """Until somebody wants a change: a revocation does not wait for the next re-signing."""
        self._wake.clear()
        if not self._waiting:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await self._wake.wait()

    def _pause_s(self) -> float:
        """Token bucket: how long the next version has to wait."""
        now_ns = self._clock.now_ns()
        self._allowance = min(BURST, self._allowance + (now_ns - self._allowed_ns) / 1e9 / PACE_S)
        self._allowed_ns = now_ns
        self._allowance -= 1.0
        return max(0.0, -self._allowance * PACE_S)

    async def _commit_batch(self, batch: list[tuple[Edit, asyncio.Future[bytes]]]) -> None:
        draft = self._draft()
        taken: list[tuple[Edit, asyncio.Future[bytes]]] = []
        for edit, done in batch:
            try:
                edit(draft)
            except (BadInput, Refused, Unavailable) as error:
                if not done.done():
                    done.set_exception(error)
            else:
                taken.append((edit, done))
        failed = await self._try_commit(draft) if self._differs(draft) or self._is_due() else None
        if isinstance(failed, _Overtaken):
            await self._commit_batch(batch)
            return
        if failed is not None and len(taken) > 1:
            for one in taken:  # a single change that breaks a bound does not take the others down
                await self._commit_batch([one])
            return
        for _, done in taken:
            if not done.done():
                if failed is None:
                    done.set_result(self.signed)
                else:
                    done.set_exception(failed)
        if failed is not None and not taken:
            await self._rest()  # a re-signing that fails is tried again, not at once

    async def _try_commit(self, draft: _Draft) -> EdgeweaveError | None:
        try:
            await self._commit(draft)
        except (BadInput, ProtocolViolation, Unavailable) as error:  # a full disk, labels over the bounds
            log.error("roster could not be changed", extra={"cause": error.cause})
            return error
        return None

    async def _commit(self, draft: _Draft) -> None:
        held = self._view.current
        next_one = RosterDraft(
            version=held.version + self._step if held else 1,
            prev_digest=held.digest if held else bytes(32),
            issued_s=max(self._clock.wall_ms() // 1000, held.issued_s if held else 0),
            brokers=draft.brokers,
            deployers=draft.deployers,
            members=tuple(draft.members.values()),
        )
        signed = await self._runner(self._sign_and_save, next_one)
        if not isinstance(self._view.adopt(signed), Adopted):  # the agent adopts into this view, too
            await self._runner(self._store.save_roster, self.signed)
            raise _Overtaken("a newer roster of our own came in", fix="try again")
        self._step = 1
        self._on_changed(signed)

    def _sign_and_save(self, draft: RosterDraft) -> bytes:
        signed = self._authority.sign_roster(draft)
        self._store.save_roster(signed)
        return signed


def checked_end(by: str, reason: str) -> None:
    """Raises: BadInput: who ended a membership, or why, does not fit a roster."""
    for what, text, most in (("name", by, BY_MAX), ("reason", reason, REASON_MAX)):
        if len(text) > most or not text.isprintable():
            raise BadInput(
                f"{what} {text!r:.100} is too long or not one line", fix=f"at most {most} characters"
            )


def _active(draft: _Draft, node_id: str) -> Member:
    held = draft.members.get(node_id)
    if held is None or held.status != "active":
        raise Refused(f"{node_id!r} is not an active member", fix="join again")
    return held


def _spki(member: Member) -> frozenset[bytes]:
    return frozenset(key.spki_sha256 for key in member.keys)


def _fail(batch: list[tuple[Edit, asyncio.Future[bytes]]]) -> None:
    for _, done in batch:
        if not done.done():
            done.set_exception(Unavailable("the gateway is stopping", fix="try again when it is up"))
