"""The signed member list: directory, authorisation and revocation in one; the only source of truth.

    payload   deterministic CBOR {v, mesh, version, prev, issued, until, brokers, deployers, members}
    message   COSE_Sign1 by the issuing CA, whose chain up to the root travels in x5chain

The version only grows. A member persists the highest one and refuses lower ones; the same version with
another digest is a *fork*: an alarm, and the one held stays. The digest is taken over the payload,
never over the signature, which anyone may malleate. A stale roster (not re-signed for a week) still
binds: members keep and restart sessions, ``status`` warns; a mesh is never bricked by an absent gateway.

Bounds: 1 024 members (about 145 KB), 8 labels and 8 roles each. Not here: signing (``authority``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar

import msgspec

from security.canonical import a_bytes, a_count, a_list, a_map, a_text, decode, each, encode
from security.certificates import not_after_s, read_certificate, spelled_minute, spki_sha256_of, verify_chain
from security.errors import ProtocolViolation, Refused
from security.identity import is_mesh_id, is_node_id, mesh_id_of, read_spki
from security.signing import Deployer, peek1, verify1

__all__ = [
    "Adopted",
    "Deployer",
    "Fork",
    "Ignored",
    "Member",
    "MemberKey",
    "Roster",
    "RosterDraft",
    "RosterView",
    "open_roster",
]

CONTEXT = b"ew1-roster"
ROSTER_BYTES_MAX = 512 * 1024  # 1 024 members with all their labels; stops a flood before it is parsed
MEMBERS_MAX = 1024
VALID_S = 7 * 24 * 3600
RESIGN_S = 24 * 3600
STATUSES = ("active", "revoked", "left")
REASON_MAX = 80  # characters: one line on a terminal, and 1 024 of them still fit a roster
BY_MAX = 32
ROLE_DEPLOYER = "deployer"  # may publish code
ROLE_STORE = "store"  # its copy of the tables is believed, as the gateway's is
ROLES = (ROLE_DEPLOYER, ROLE_STORE)
"""What an invitation can give."""
NEW_CODE = "ask for a new code (`edge-gateway invite`)"
_KEYS = frozenset(("v", "mesh", "version", "prev", "issued", "until", "brokers", "deployers", "members"))


T = TypeVar("T")


class MemberKey(msgspec.Struct, frozen=True):
    """One generation of a member's keys; two are listed while a renewal is under way, newest first."""

    spki_sha256: bytes
    x25519: bytes
    not_before_s: int


@dataclass(frozen=True, slots=True)
class Member:
    id: str
    keys: tuple[MemberKey, ...]
    roles: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    status: str = "active"  # "active" | "revoked" | "left"
    since_s: int = 0  # not active: since when, by the gateway's clock; 0: not told
    by: str = ""  # the operator's account, or the member itself
    reason: str = ""


class RosterDraft(msgspec.Struct, frozen=True):
    """What the authority is asked to sign; it adds the mesh and the validity."""

    version: int
    prev_digest: bytes  # of the version before; 32 zero bytes for the first
    issued_s: int
    brokers: tuple[str, ...]  # "host:port", in order of preference
    deployers: tuple[Deployer, ...]
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Roster:
    mesh_id: str
    version: int
    prev_digest: bytes
    issued_s: int
    valid_until_s: int
    brokers: tuple[str, ...]
    deployers: tuple[Deployer, ...]
    members: tuple[Member, ...]

    @cached_property
    def payload(self) -> bytes:
        return encode(
            {
                "v": 1,
                "mesh": self.mesh_id,
                "version": self.version,
                "prev": self.prev_digest,
                "issued": self.issued_s,
                "until": self.valid_until_s,
                "brokers": list(self.brokers),
                "deployers": [[one.id, one.spki] for one in self.deployers],
                "members": [_spell(one) for one in self.members],
            }
        )

    @cached_property
    def digest(self) -> bytes:
        return hashlib.sha256(self.payload).digest()

    @cached_property
    def _by_id(self) -> dict[str, Member]:
        return {one.id: one for one in self.members}

    @cached_property
    def _by_spki(self) -> dict[bytes, Member]:
        return {key.spki_sha256: one for one in self.members if one.status == "active" for key in one.keys}

    @cached_property
    def active_ids(self) -> frozenset[str]:
        """Who is a member now."""
        return frozenset(one.id for one in self.members if one.status == "active")

    @cached_property
    def active_names(self) -> tuple[str, ...]:
        """The same, by name."""
        return tuple(one.id for one in self.members if one.status == "active")

    @cached_property
    def _made(self) -> dict[Callable[..., Any], Any]:
        return {}

    def once(self, make: Callable[[Roster], T]) -> T:
        """What *make* makes of this roster, made once: many members in one process may hold one roster.

        Args: make: a function of a module (one is remembered each), whose result nobody changes.
        """
        made: T | None = self._made.get(make)
        if made is None:
            made = self._made[make] = make(self)
        return made

    def member(self, node_id: str) -> Member | None:
        """The active member of that name: revoked and departed ones are strangers."""
        found = self._by_id.get(node_id)
        return found if found is not None and found.status == "active" else None

    def listed(self, node_id: str) -> Member | None:
        """The member of that name whatever its status: names are not given twice."""
        return self._by_id.get(node_id)

    def why_out(self, node_id: str, spki_sha256: Collection[bytes]) -> Refused | None:
        """What to tell the bearer of these keys who is no member; None: it is one.

        Args: node_id: the name its certificate bears. spki_sha256: its key, and the one before.
        """
        held = self.listed(node_id)
        if held is None:
            return Refused(f"the roster does not list {node_id}", fix=NEW_CODE)
        if held.status == "active":
            if not {key.spki_sha256 for key in held.keys}.isdisjoint(spki_sha256):
                return None
            return Refused(f"{node_id} was replaced: that name belongs to other keys now", fix=NEW_CODE)
        when = f" on {spelled_minute(held.since_s)}" if held.since_s else ""
        if held.status == "left":
            return Refused(f"{node_id} left the mesh{when}", fix=NEW_CODE)
        by = f" by {held.by}" if held.by else ""
        reason = f": {held.reason}" if held.reason else ""
        return Refused(f"{node_id} was revoked{when}{by}{reason}", fix=NEW_CODE)

    def owner_of_key(self, spki_sha256: bytes) -> Member | None:
        """The member that this key belongs to, whatever its status."""
        return next((m for m in self.members if any(k.spki_sha256 == spki_sha256 for k in m.keys)), None)

    def member_of_key(self, spki_sha256: bytes) -> Member | None:
        """The active member that this key belongs to."""
        return self._by_spki.get(spki_sha256)

    @cached_property
    def signers(self) -> dict[bytes, str]:
        """Who may sign code: SHA-256(SPKI) → id, of the deployers and of members with that role."""
        found = {
            key.spki_sha256: one.id
            for one in self.members
            if one.status == "active" and ROLE_DEPLOYER in one.roles
            for key in one.keys
        }
        return found | {hashlib.sha256(one.spki).digest(): one.id for one in self.deployers}

    def is_stale(self, wall_s: int) -> bool:
        return wall_s > self.valid_until_s


def open_roster(data: bytes, *, root_spki_sha256: bytes | str) -> Roster:
    """The roster, if the issuing CA of the pinned mesh signed it.

    Args: root_spki_sha256: SHA-256 of the root's SPKI, or the mesh id.
    Raises: ProtocolViolation: too large, another mesh, unsigned, forged, or malformed.
    """
    if len(data) > ROSTER_BYTES_MAX:
        raise ProtocolViolation("roster is too large")
    claimed = peek1(data)
    issuing, root = verify_chain(
        [read_certificate(der) for der in claimed.x5chain], root_spki_sha256=root_spki_sha256
    )
    signed = verify1(data, context=CONTEXT, trusted_spki_sha256=(spki_sha256_of(issuing),))
    roster = read_payload(signed.payload)
    if roster.mesh_id != mesh_id_of(spki_sha256_of(root)):
        raise ProtocolViolation("roster belongs to another mesh")
    if roster.issued_s > not_after_s(issuing):
        raise ProtocolViolation("roster was signed after its authority had expired")
    return roster


def read_payload(payload: bytes) -> Roster:
    """The roster that *payload* spells; says nothing about who signed it.

    Raises: ProtocolViolation: malformed, or it breaks a bound.
    """
    table = a_map(decode(payload, what="roster"), "roster")
    if table.get("v") != 1:
        raise ProtocolViolation("roster has a version that this program does not speak (it speaks 1)")
    table = a_map(table, "roster", keys=_KEYS)
    roster = Roster(
        mesh_id=a_text(table["mesh"], "mesh id"),
        version=a_count(table["version"], "roster version"),
        prev_digest=a_bytes(table["prev"], "previous digest", length=32),
        issued_s=a_count(table["issued"], "time of issue", most=2**40),
        valid_until_s=a_count(table["until"], "end of validity", most=2**41),
        brokers=each(table["brokers"], "broker address", a_text, most=3),
        deployers=each(table["deployers"], "deployer", _a_deployer, most=64),
        members=each(table["members"], "member", _a_member, most=MEMBERS_MAX),
    )
    if not is_mesh_id(roster.mesh_id) or roster.version < 1:
        raise ProtocolViolation("roster names no mesh or no version")
    ids = [one.id for one in roster.members]
    if ids != sorted(set(ids)):
        raise ProtocolViolation("roster's members are not sorted or not distinct")
    keys = [key.spki_sha256 for one in roster.members for key in one.keys]
    if len(keys) != len(set(keys)):
        raise ProtocolViolation("roster lists one key twice")
    return roster


def _spell(member: Member) -> list[object]:
    end = member.since_s, member.by, member.reason
    return [
        member.id,
        [[key.spki_sha256, key.x25519, key.not_before_s] for key in member.keys],
        list(member.roles),
        member.labels,
        STATUSES.index(member.status),
        *([list(end)] if any(end) else []),
    ]


def _a_member(value: object, what: str) -> Member:
    fields = a_list(value, what, most=6)
    more = fields[5:]
    node_id, keys, roles, labels, status = a_list(fields[:5], what, length=5)
    since_s, by, reason = a_list(more[0], "end of a membership", length=3) if more else (0, "", "")
    table = a_map(labels, "labels")
    if len(table) > 8:
        raise ProtocolViolation("member has too many labels")
    member = Member(
        id=_an_id(node_id, what),
        keys=each(keys, "member's key", _a_key, most=2),
        roles=each(roles, "role", a_text, most=8),
        labels={a_text(k, "label", most=64): a_text(v, "label", most=64) for k, v in table.items()},
        status=STATUSES[a_count(status, "member's status", most=2)],
        since_s=a_count(since_s, "end of a membership", most=2**40),
        by=a_text(by, "name of an operator", most=BY_MAX),
        reason=a_text(reason, "reason", most=REASON_MAX),
    )
    if not member.keys:
        raise ProtocolViolation("member has no key")
    if more and (member.status == "active" or not member.since_s):
        raise ProtocolViolation("roster tells an end of a membership that goes on, or none")
    return member


def _a_key(value: object, what: str) -> MemberKey:
    spki, x25519, not_before_s = a_list(value, what, length=3)
    return MemberKey(
        a_bytes(spki, what, length=32),
        a_bytes(x25519, what, length=32),
        a_count(not_before_s, what, most=2**40),
    )


def _a_deployer(value: object, what: str) -> Deployer:
    deployer_id, spki = a_list(value, what, length=2)
    der = a_bytes(spki, what, most=128)
    read_spki(der)
    return Deployer(_an_id(deployer_id, what), der)


def _an_id(value: object, what: str) -> str:
    text = a_text(value, f"{what}'s id", most=32)
    if not is_node_id(text):
        raise ProtocolViolation(f"{what} has an id that no member can bear")
    return text


# -- what a member holds


class Adopted(msgspec.Struct, frozen=True):
    """A newer roster: persist ``signed``, then act on the members that changed."""

    roster: Roster
    signed: bytes
    changed: tuple[str, ...]  # ids that came, went, or whose keys, roles, labels or status changed


class Ignored(msgspec.Struct, frozen=True):
    """The same roster again, or a lower version than the one held."""

    reason: str


class Fork(msgspec.Struct, frozen=True):
    """The same version with another content: two authorities, or one restored from a backup. Alarm."""

    version: int
    held: bytes
    offered: bytes


class Opened(Protocol):
    """As ``open_roster``."""

    def __call__(self, data: bytes, *, root_spki_sha256: bytes | str) -> Roster: ...


class RosterView:
    """The highest roster that this member has seen. It can only move up."""

    def __init__(
        self, *, root_spki_sha256: bytes | str, signed: bytes | None = None, opened: Opened | None = None
    ) -> None:
        """*signed*: the one that was persisted. Raises: ProtocolViolation: it does not verify any more.

        Args: opened: ``open_roster``, or who remembers its answers: a fleet in one process opens each once.
        """
        self._pin = root_spki_sha256
        self._opened = opened or open_roster
        self.signed: bytes | None = None
        self.current: Roster | None = None
        if signed is not None:
            self.adopt(signed)

    @property
    def pin(self) -> bytes | str:
        """What the mesh's authority is known by: SHA-256 of its root's SPKI."""
        return self._pin

    @property
    def version(self) -> int:
        return self.current.version if self.current is not None else 0

    def adopt(self, signed: bytes) -> Adopted | Ignored | Fork:
        """Raises: ProtocolViolation: not a roster of this mesh."""
        if signed == self.signed:
            return Ignored("held already")
        offered, held = self._opened(signed, root_spki_sha256=self._pin), self.current
        if held is not None and offered.version < held.version:
            return Ignored(f"version {offered.version} is lower than {held.version}, which is held")
        if held is not None and offered.version == held.version:
            if offered.digest == held.digest:
                return Ignored("held already")
            return Fork(held.version, held.digest, offered.digest)
        self.signed, self.current = bytes(signed), offered
        return Adopted(offered, self.signed, _changed(held, offered))

    def is_stale(self, wall_s: int) -> bool:
        """True too while there is none."""
        return self.current is None or self.current.is_stale(wall_s)

    def check(self) -> None:
        assert (self.signed is None) == (self.current is None), "bytes and roster come together"


def _changed(old: Roster | None, new: Roster) -> tuple[str, ...]:
    before = {one.id: one for one in old.members} if old is not None else {}
    after = {one.id: one for one in new.members}
    return tuple(sorted(i for i in before.keys() | after.keys() if before.get(i) != after.get(i)))


def in_order(members: Sequence[Member]) -> tuple[Member, ...]:
    """Members as a roster lists them."""
    return tuple(sorted(members, key=lambda one: one.id))
