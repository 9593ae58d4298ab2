"""Joining and renewal, both sides: how a stranger with a code becomes a member, and stays one.

    ew1.<root pin>.<token id>.<secret>.<host:port,…>.<checksum>       shown once, one use, an hour by default

    node                                         gateway
      CA chain, compared with the pin   <------
      CSR, x25519, name, labels, MAC    ------>  size, MAC, rate, CSR, state of the token, name: in this order
                                                 the token is spent on disk *before* a certificate is issued
      leaf, chain, roster, time         <------  the same claim within the code's hour: the same answer

The secret never travels: MAC = HMAC-SHA256(SHA-256(secret), ["ew1", server leaf hash, CSR, x25519, name,
labels]); the server's leaf hash binds a request to the TLS connection it was made for. A *claim* is
recognised by its keys, name and labels, not by the CSR's bytes, whose signature differs each time.

``JoinDesk`` is the gateway's core: events in, effects out. Wall-clock seconds come in as ``now_s`` (codes
outlive a restart, so a monotonic clock would not do). Not here: HTTPS (the gateway's joining shell),
issuing (``authority``), the roster's next version (the gateway's keeper).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from security.canonical import a_bytes, a_count, a_list, a_map, a_text, decode, each, encode
from security.certificates import (
    DAY_S,
    HOUR_S,
    LEAF_DAYS,
    build_csr,
    der_of,
    key_of_csr,
    pem_of,
    read_certificate,
    read_pem,
    verify_chain,
    verify_leaf,
)
from security.errors import BadInput, ProtocolViolation, Refused, Unavailable
from security.identity import (
    RESERVED,
    NodeKeys,
    fingerprint_words,
    is_node_id,
    mesh_id_of,
    read_spki,
    spki_der,
    spki_sha256,
)
from security.roster import NEW_CODE, ROSTER_BYTES_MAX, Member, MemberKey, Roster, open_roster
from security.signing import peek1, sign1, verify1

VERSION = "ew1"
RENEWAL_CONTEXT = b"ew1-renew"
LEAVE_CONTEXT = b"ew1-leave"
REQUEST_BYTES_MAX = 8 * 1024
ANSWER_BYTES_MAX = ROSTER_BYTES_MAX + 16 * 1024
LATE_RENEWAL_S = 30 * DAY_S  # an expired member that is still listed may come back this long
ADDRESSES_MAX = 8

_ADDRESS = re.compile(r"(?:[a-z0-9._-]{1,253}|\[[0-9a-f:.%a-z]{2,64}\]):([0-9]{1,5})\Z")
_TOKEN = re.compile(r"[a-z2-7]{6}\Z")
_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}\Z")
LABELS_MAX = 8
_ALL_OF_IT = "copy the whole code, from 'ew1.' to its last four characters"
_NEW_CODE = "ask for a new one: edge-gateway invite"
_AGAIN = "run `edge-node join` again with a new code"
_UNAPPROVED = "nobody approved it in time"
_DENIED = "the operator denied it"
_WITHDRAWN = "an operator withdrew it"
_SEE_CODES = "see `edge-gateway invites`"


# -- the code


@dataclass(frozen=True, slots=True)
class JoinCode:
    root_spki_sha256: bytes
    token_id: str  # names the code, opens nothing: it may be listed, logged and sent
    secret: bytes = field(repr=False)
    addresses: tuple[str, ...]  # "host:port": hints, never trusted

    @classmethod
    def make(cls, root_spki_sha256: bytes, addresses: tuple[str, ...], entropy: bytes) -> JoinCode:
        """Args: entropy: 20 random bytes. Raises: BadInput: an address is not host:port."""
        assert len(entropy) == 20, "4 bytes name the token, 16 are its secret"
        if len(addresses) > ADDRESSES_MAX:
            addresses = addresses[:ADDRESSES_MAX]
        for address in addresses:
            _checked_address(address)
        return cls(root_spki_sha256, _b32(entropy[:4])[:6], entropy[4:], addresses)

    @property
    def mesh_id(self) -> str:
        return mesh_id_of(self.root_spki_sha256)

    @property
    def mac_key(self) -> bytes:
        """What the gateway keeps: it cannot be turned back into the code."""
        return hashlib.sha256(self.secret).digest()

    def text(self) -> str:
        body = ".".join(
            (
                VERSION,
                _b32(self.root_spki_sha256),
                self.token_id,
                _b32(self.secret),
                _b32(",".join(self.addresses).encode()),
            )
        )
        return f"{body}.{_checksum(body)}"

    @classmethod
    def parse(cls, text: str) -> JoinCode:
        """Blanks, line breaks and capitals do not matter.

        Raises: BadInput: not a code, truncated, altered, or of another version; one line, with the fix.
        """
        if len(text) > 4096:
            raise BadInput("this is not a join code", fix=_ALL_OF_IT)
        text = "".join(text.split()).lower()
        parts = text.split(".")
        if not re.match(r"ew[0-9]{1,3}\Z", parts[0]):
            raise BadInput("this is not a join code", fix=_ALL_OF_IT)
        if parts[0] != VERSION:
            raise BadInput(
                f"join code has version {parts[0]!r}, this program speaks {VERSION!r}",
                fix="install the same version on both machines",
            )
        if len(parts) < 6 or len(parts[5]) < 4:
            raise BadInput("join code is truncated", fix=_ALL_OF_IT)
        body = text.rpartition(".")[0]
        if len(parts) > 6 or parts[5] != _checksum(body):
            raise BadInput("join code was altered: its checksum does not fit", fix=_ALL_OF_IT)
        try:
            addresses = _unb32(parts[4]).decode("ascii")
            code = cls(
                _unb32(parts[1]), parts[2], _unb32(parts[3]), tuple(addresses.split(",")) if addresses else ()
            )
        except (ValueError, UnicodeDecodeError) as error:
            raise BadInput("join code is damaged", fix=_NEW_CODE) from error
        shape = len(code.root_spki_sha256), len(code.secret), _TOKEN.match(code.token_id) is not None
        if shape != (32, 16, True) or len(code.addresses) > ADDRESSES_MAX:
            raise BadInput("join code is damaged", fix=_NEW_CODE)
        for address in code.addresses:
            _checked_address(address)
        if code.text() != text:
            raise BadInput("join code is damaged", fix=_NEW_CODE)
        return code


def checked_token_id(text: str) -> str:
    """Raises: BadInput: it can name no code. What was given is not repeated: it may be a whole code."""
    if not _TOKEN.match(text):
        raise BadInput("the id of a join code is six of a-z and 2-7, and not the code", fix=_SEE_CODES)
    return text


def _checked_address(address: str) -> None:
    match = _ADDRESS.match(address)
    if match is None or not 0 < int(match[1]) < 65536:
        raise BadInput(f"{address!r} is not an address", fix="write host:port, or [IPv6]:port")


def _b32(data: bytes) -> str:
    return base64.b32encode(data).decode("ascii").rstrip("=").lower()


def _unb32(text: str) -> bytes:
    return base64.b32decode(text.upper() + "=" * (-len(text) % 8))


def _checksum(body: str) -> str:
    return _b32(hashlib.sha256(body.encode()).digest())[:4]


# -- the request


@dataclass(frozen=True, slots=True)
class JoinRequest:
    token_id: str
    csr: bytes
    x25519: bytes
    name: str  # empty: any name will do
    labels: dict[str, str]
    mac: bytes

    def fits(self, mac_key: bytes, server_leaf_sha256: bytes) -> bool:
        expected = _mac(mac_key, server_leaf_sha256, self.csr, self.x25519, self.name, self.labels)
        return hmac.compare_digest(expected, self.mac)


def build_request(
    code: JoinCode, keys: NodeKeys, *, name: str, labels: dict[str, str], server_leaf_sha256: bytes
) -> bytes:
    """What a node sends once it has verified the gateway's chain against the pin.

    Raises: BadInput: no member can bear that name, or the labels do not fit.
    """
    if name:
        checked_name(name)
    csr = build_csr(keys.signing, name)
    mac = _mac(code.mac_key, server_leaf_sha256, csr, keys.x25519_public, name, labels)
    checked_labels(labels)
    request = encode([VERSION, code.token_id, csr, keys.x25519_public, name, labels, mac])
    read_request(request)  # we never send what the gateway would refuse
    return request


def read_request(data: bytes) -> JoinRequest:
    """Raises: ProtocolViolation: too large, malformed, or of another version."""
    if len(data) > REQUEST_BYTES_MAX:
        raise ProtocolViolation(f"join request is larger than {REQUEST_BYTES_MAX} bytes")
    fields = _versioned(data, "join request", VERSION)
    _, token_id, csr, x25519, name, labels, mac = a_list(fields, "join request", length=7)
    table = {a_text(k, "label"): a_text(v, "label") for k, v in a_map(labels, "labels").items()}
    try:
        checked_labels(table)
    except BadInput as error:
        raise ProtocolViolation(error.cause, fix=error.fix) from error
    return JoinRequest(
        token_id=a_text(token_id, "token id", most=6),
        csr=a_bytes(csr, "CSR", most=2048),
        x25519=a_bytes(x25519, "x25519 key", length=32),
        name=a_text(name, "name", most=32),
        labels=table,
        mac=a_bytes(mac, "MAC", length=32),
    )


def checked_name(name: str) -> str:
    """Raises: BadInput: no member can bear it, or it is reserved."""
    if not is_node_id(name):
        raise BadInput(
            f"node name {name!r} is not allowed",
            fix="use 1 to 32 of a-z, 0-9 and '-', not starting or ending with '-'",
        )
    if name in RESERVED:
        raise BadInput(f"node name {name!r} is reserved", fix="choose another name with --name")
    return name


def checked_labels(labels: dict[str, str]) -> dict[str, str]:
    """Raises: BadInput: too many, or one that is no KEY=VALUE of a command line; it is named."""
    if len(labels) > LABELS_MAX:
        raise BadInput(f"a node has at most {LABELS_MAX} labels, not {len(labels)}", fix="leave some out")
    for key, value in labels.items():
        if not _LABEL_KEY.match(key):
            raise BadInput(
                f"label {key!r:.80} has a key that does not fit",
                fix="a key is 1 to 64 of A-Z a-z 0-9 . _ - /, beginning with a letter or digit",
            )
        if not value or len(value) > 64 or not value.isprintable() or value != value.strip():
            raise BadInput(
                f"label {key!r} has the value {value!r:.80}, which does not fit",
                fix="a value is 1 to 64 printable characters without blanks around them",
            )
    return labels


def name_taken(name: str) -> Refused:
    """Another member bears it, or did."""
    return Refused(
        f"the name {name} is taken",
        fix=f"choose another --name, or `edge-gateway replace {name}` for a dead board",
    )


def _mac(key: bytes, leaf_hash: bytes, csr: bytes, x25519: bytes, name: str, labels: dict[str, str]) -> bytes:
    return hmac.digest(key, encode([VERSION, leaf_hash, csr, x25519, name, labels]), "sha256")


def _versioned(data: bytes, what: str, version: str) -> list[Any]:
    fields = a_list(decode(data, what=what), what)
    if not fields or fields[0] != version:
        spoken = repr(fields[0])[:16] if fields else "none"
        raise ProtocolViolation(f"{what} has version {spoken}, this member speaks {version!r}")
    return fields


# -- the answer


@dataclass(frozen=True, slots=True)
class Joined:
    """A verified answer: everything a node keeps."""

    node_id: str
    mesh_id: str
    leaf_pem: bytes
    issuing_pem: bytes
    root_pem: bytes
    signed_roster: bytes
    roster: Roster
    wall_s: int  # the gateway's clock, a hint
    floor_s: int  # a time that has surely passed, from what is signed
    brokers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """An operator has to approve: show the words, ask again with the same keys."""

    words: str
    retry_after_s: int


def accepted(
    leaf_pem: bytes, chain_pem: bytes, signed_roster: bytes, *, wall_s: int, brokers: tuple[str, ...]
) -> bytes:
    """The gateway's good answer to a join or a renewal."""
    chain = [der_of(certificate) for certificate in read_pem(chain_pem)]
    return encode([VERSION, 0, der_of(read_pem(leaf_pem)[0]), chain, signed_roster, wall_s, list(brokers)])


def waiting(words: str, retry_after_s: int) -> bytes:
    return encode([VERSION, 1, words, retry_after_s])


def refused(reason: str, fix: str = "") -> bytes:
    return encode([VERSION, 2, reason, fix])


def unavailable(cause: str, retry_after_s: int) -> bytes:
    return encode([VERSION, 3, cause, retry_after_s])


def read_answer(
    data: bytes, *, root_spki_sha256: bytes, keys: NodeKeys, name: str, floor_s: int
) -> Joined | Waiting:
    """The gateway's answer to a join or renewal, verified against the pin and our own keys.

    Args: keys: those the request was made with. name: the one asked for, or empty.
    Raises: Refused, Unavailable: the gateway says no, or later. ProtocolViolation: it does not verify.
    """
    if len(data) > ANSWER_BYTES_MAX:
        raise ProtocolViolation("gateway's answer is too large")
    fields = _versioned(data, "gateway's answer", VERSION)
    match fields[1:]:
        case [0, leaf, chain, roster, wall_s, brokers]:
            return _joined(
                a_bytes(leaf, "leaf", most=4096),
                each(chain, "CA chain", a_bytes, most=2),
                a_bytes(roster, "roster", most=ROSTER_BYTES_MAX),
                a_count(wall_s, "time", most=2**40),
                each(brokers, "broker address", a_text, most=3),
                root_spki_sha256=root_spki_sha256,
                keys=keys,
                name=name,
                floor_s=floor_s,
            )
        case [1, words, retry_after_s]:
            own = fingerprint_words(mesh_id_of(root_spki_sha256), keys.spki_sha256, keys.x25519_public)
            if words != own:
                raise ProtocolViolation("gateway waits for the approval of other keys than ours")
            return Waiting(own, a_count(retry_after_s, "delay", most=HOUR_S))
        case [2, reason, fix]:
            raise Refused(a_text(reason, "reason"), fix=a_text(fix, "fix"))
        case [3, cause, retry_after_s]:
            delay = a_count(retry_after_s, "delay", most=HOUR_S)
            raise Unavailable(
                a_text(cause, "cause"), fix=f"try again in {delay} s", retry_after_s=float(delay)
            )
    raise ProtocolViolation("gateway's answer has an unknown shape")


def _joined(
    leaf_der: bytes,
    chain_der: tuple[bytes, ...],
    signed_roster: bytes,
    wall_s: int,
    brokers: tuple[str, ...],
    *,
    root_spki_sha256: bytes,
    keys: NodeKeys,
    name: str,
    floor_s: int,
) -> Joined:
    chain = [read_certificate(der) for der in chain_der]
    issuing, root = verify_chain(chain, root_spki_sha256=root_spki_sha256)
    leaf = read_certificate(leaf_der)
    proven = verify_leaf(chain, leaf, root_spki_sha256=root_spki_sha256, usage="client", floor_s=floor_s)
    if proven.spki_sha256 != keys.spki_sha256 or (name and proven.node_id != name):
        raise ProtocolViolation("gateway's answer holds a certificate of another node")
    roster = open_roster(signed_roster, root_spki_sha256=root_spki_sha256)
    member = roster.member(proven.node_id)
    ours = keys.spki_sha256, keys.x25519_public
    if member is None or ours not in ((key.spki_sha256, key.x25519) for key in member.keys):
        raise ProtocolViolation("gateway's roster does not list this node with its keys")
    return Joined(
        node_id=proven.node_id,
        mesh_id=proven.mesh_id,
        leaf_pem=pem_of(leaf),
        issuing_pem=pem_of(issuing),
        root_pem=pem_of(root),
        signed_roster=signed_roster,
        roster=roster,
        wall_s=wall_s,
        floor_s=max(floor_s, proven.not_before, roster.issued_s),
        brokers=brokers,
    )


# -- the gateway's desk: events


@dataclass(frozen=True, slots=True)
class Asked:
    """A request came in on a TLS connection that showed the server leaf of this hash."""

    reply: int  # the shell's name for the open connection; every Asked gets exactly one Reply
    request: bytes
    server_leaf_sha256: bytes
    address: str  # of the peer, for the rate limit


@dataclass(frozen=True, slots=True)
class Persisted:
    """Everything up to this PersistInvitations is on disk, fsynced."""

    token: int


@dataclass(frozen=True, slots=True)
class NotPersisted:
    """The disk refused; nothing was issued on the strength of it."""

    token: int


@dataclass(frozen=True, slots=True)
class Issued:
    """The member is in a signed, persisted roster; ``answer`` is what ``accepted`` made."""

    token_id: str
    answer: bytes


@dataclass(frozen=True, slots=True)
class NotIssued:
    """The authority refused (roster full, disk full); the same claim may ask again."""

    token_id: str
    cause: str
    fix: str = ""


Event = Asked | Persisted | NotPersisted | Issued | NotIssued

# -- effects


@dataclass(frozen=True, slots=True)
class PersistInvitations:
    """Write *data* atomically and durably, then say Persisted(token) (or NotPersisted)."""

    token: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Issue:
    """Certify this key under this name, list it in the next roster, then say Issued (or NotIssued).

    Idempotent by its key: after a restart it may come again for a member that is listed already.
    """

    token_id: str
    node_id: str
    key: ec.EllipticCurvePublicKey
    x25519: bytes
    roles: tuple[str, ...]
    labels: dict[str, str]
    replaces: bool = False  # a dead board's successor: the member of that name gets this key instead


@dataclass(frozen=True, slots=True)
class Reply:
    reply: int
    body: bytes


Effect = PersistInvitations | Issue | Reply


@dataclass(frozen=True, slots=True)
class JoinLimits:
    """What a flood may cost.

    A minute's limits hold for all requests that prove no code taken together, and for the repeated ones of
    each code on their own: no flood without a code, or with somebody else's, closes the door to a good one.
    """

    per_address: int = 5  # requests a minute; the first use of a code is not counted
    total: int = 30
    pending: int = 64  # nodes that wait for an operator
    pending_s: int = 600
    codes: int = 256  # open ones and those that are remembered; each is ~100 bytes in every snapshot
    kept_s: int = DAY_S  # how long a finished code is remembered, to say *why* it is refused
    answers: int = 32  # answers kept in memory for a lost reply (a roster each); older ones are issued anew


@dataclass(frozen=True, slots=True)
class PendingNode:
    name: str
    words: str
    address: str
    asked_s: int


@dataclass(frozen=True, slots=True)
class OpenInvite:
    """What may be told of a code that nobody has used. name: "": any.  replaces: the board of that member.

    id: the code's token id. It is no secret: every request bears it as it is. What proves a code is the MAC
    under ``JoinCode.mac_key``, which is never told.
    """

    id: str
    expires_s: int
    approval: str
    name: str
    roles: tuple[str, ...]
    replaces: bool


@dataclass(frozen=True, slots=True)
class _Claim:
    spki: bytes
    x25519: bytes
    name: str
    labels: dict[str, str]
    address: str
    asked_s: int

    def is_same(self, other: _Claim) -> bool:
        return (self.spki, self.x25519, self.name, self.labels) == (
            other.spki,
            other.x25519,
            other.name,
            other.labels,
        )


@dataclass(slots=True)
class _Invitation:
    token_id: str
    mac_key: bytes
    expires_s: int
    approval: str
    name: str
    roles: tuple[str, ...]
    state: str = "open"  # open | pending | approved | void
    why: str = ""  # void: because
    claim: _Claim | None = None
    replaces: bool = False  # good for the name of a member that is listed, and only for that
    # not persisted:
    saving: int | None = None  # the snapshot whose fsync must come before anything else happens
    unsaved: bool = False
    withdrawn_by: int | None = None  # the first snapshot that says it is withdrawn, until one such is on disk
    issuing: bool = False
    replies: list[int] = field(default_factory=list)

    @property
    def is_busy(self) -> bool:
        """A connection, the disk or the authority will come back to it."""
        return bool(self.replies) or self.saving is not None or self.issuing


_STATES = ("open", "pending", "approved", "void")
_POLL_S = 5
_REPLIES_MAX = 8  # connections that wait for one claim: a node asks over a few addresses at once


class JoinDesk:
    """Invitations and the requests that use them up. A token is spent at most once, by one claim."""

    def __init__(
        self,
        *,
        root_spki_sha256: bytes,
        taken: Callable[[str], bool] = lambda name: False,
        limits: JoinLimits = JoinLimits(),
    ) -> None:
        """Args: taken: whether the roster lists a member of that name, whatever its status."""
        self._pin = root_spki_sha256
        self._taken = taken
        self._limits = limits
        self._invitations: dict[str, _Invitation] = {}
        # (second, address) of the last minute's requests, by the token they proved ("": none). At most
        # ``total`` for each of ``codes``.
        self._counted: dict[str, list[tuple[int, str]]] = {}
        self._answers: OrderedDict[str, bytes] = OrderedDict()
        self._polled_s: dict[str, int] = {}
        self._token = 0

    # -- the operator

    def invite(
        self,
        now_s: int,
        *,
        entropy: bytes,
        addresses: tuple[str, ...],
        ttl_s: int = HOUR_S,
        approval: str = "auto",
        name: str = "",
        roles: tuple[str, ...] = (),
        replaces: bool = False,
    ) -> tuple[JoinCode, list[Effect]]:
        """A new code. Show it once its PersistInvitations is on disk; it cannot be shown again.

        Args: entropy: 20 random bytes. approval: "auto" or "pending". name: the only one it is good for.
            replaces: *name* is a member's, whose keys are to be replaced by those that join with this code.
        Raises: BadInput: an argument does not fit, or too many codes are open.
        """
        if approval not in ("auto", "pending"):
            raise BadInput(f"approval {approval!r} is unknown", fix="use auto or pending")
        if not 1 <= ttl_s <= 30 * DAY_S:
            raise BadInput("a join code is good for 1 second to 30 days", fix="--ttl 1h")
        if name:
            checked_name(name)
            if replaces:
                if not self._taken(name):
                    raise BadInput(f"no member is named {name!r}", fix="see `edge-gateway nodes`")
            elif self._is_taken(name):
                taken = name_taken(name)
                raise BadInput(taken.cause, fix=taken.fix)
        self._purge(now_s)
        self._make_room(now_s)
        code = JoinCode.make(self._pin, addresses, entropy)
        if code.token_id in self._invitations:
            raise BadInput("token id is in use", fix="draw again")
        self._invitations[code.token_id] = _Invitation(
            code.token_id, code.mac_key, now_s + ttl_s, approval, name, roles, replaces=replaces
        )
        return code, [self._persist()]

    def approve(self, now_s: int, name: str) -> list[Effect]:
        """Raises: BadInput: no such node waits."""
        invitation = self._pending_named(now_s, name)
        invitation.state = "approved"
        return [self._save(invitation)]

    def deny(self, now_s: int, name: str) -> list[Effect]:
        """Raises: BadInput: no such node waits."""
        invitation = self._pending_named(now_s, name)
        invitation.state, invitation.why = "void", _DENIED
        return [self._save(invitation)]

    def call_off(self, now_s: int, token_id: str) -> list[Effect]:
        """An operator takes an open code back: it is good for nothing from now on, and whoever comes with it
        is told so. Say that it is withdrawn once the PersistInvitations is on disk. If the disk refuses, the
        code stays void in memory, and listed, so that it can be called off again.

        Whichever came first wins, a use also while it is on its way to the disk: the code is not open then.

        Raises: BadInput: no code has that id, or it was used, withdrawn or voided, or has expired.
        """
        one = self._invitations.get(checked_token_id(token_id))
        if one is None:
            raise BadInput(f"no join code has the id {token_id}", fix=_SEE_CODES)
        if self._is_listed(now_s, one):
            one.state, one.why = "void", _WITHDRAWN
            effect = self._persist()
            if one.withdrawn_by is None:
                one.withdrawn_by = effect.token
            return [effect]
        if one.claim is not None and one.state == "pending":
            who = one.claim.name
            raise BadInput(
                f"join code {token_id} was used: {who} waits to be let in", fix=f"`edge-gateway deny {who}`"
            )
        if one.claim is not None and one.state == "approved":
            who = one.claim.name
            raise BadInput(
                f"join code {token_id} was used by {who}",
                fix=f"`edge-gateway revoke {who}` if it may not be a member",
            )
        if one.state == "void":
            raise BadInput(f"{self._void(one).cause} ({token_id})", fix="there is nothing left to withdraw")
        ago = _minutes(now_s - one.expires_s)
        raise BadInput(f"join code {token_id} expired {ago} ago", fix="there is nothing left to withdraw")

    def withdraw(self, now_s: int, name: str) -> list[Effect]:
        """The member of that name was shut out: what it joined with is good no more, nor codes to replace it.

        Else its next claim would be answered as the one that was lost, and bring it back.
        """
        return [self._persist()] if self._void_named(name, f"{name} was revoked since", None) else []

    def _void_named(self, name: str, why: str, but: _Invitation | None) -> bool:
        found = [
            one
            for one in self._invitations.values()
            if one is not but
            and one.state != "void"
            and (one.replaces and one.name == name if one.claim is None else one.claim.name == name)
        ]
        for one in found:
            one.state, one.why = "void", why
            self._answers.pop(one.token_id, None)
        return bool(found)

    def pending(self) -> list[PendingNode]:
        """Who waits for an operator, with the words to compare."""
        found = []
        for invitation in self._invitations.values():
            claim = invitation.claim
            if invitation.state == "pending" and claim is not None:
                found.append(PendingNode(claim.name, self._words(claim), claim.address, claim.asked_s))
        return sorted(found, key=lambda node: node.name)

    def pending_until_s(self, node: PendingNode) -> int:
        """When it is dropped if nobody has approved it."""
        return node.asked_s + self._limits.pending_s

    def open_invites(self, now_s: int) -> list[OpenInvite]:
        """Codes that nobody has used, the one that ends first at the beginning. The codes are not kept."""
        found = [
            OpenInvite(one.token_id, one.expires_s, one.approval, one.name, one.roles, one.replaces)
            for one in self._invitations.values()
            if self._is_listed(now_s, one)
        ]
        return sorted(found, key=lambda invite: (invite.expires_s, invite.name, invite.roles, invite.id))

    def _is_listed(self, now_s: int, one: _Invitation) -> bool:
        """Open; or withdrawn in memory only: were this process to end now, it would be open again."""
        return (one.state == "open" or one.withdrawn_by is not None) and now_s <= one.expires_s

    # -- memory

    def snapshot(self) -> bytes:
        return encode([1, [_spell(one) for _, one in sorted(self._invitations.items())]])

    def restore(self, data: bytes, *, now_s: int, void_open: bool) -> list[Effect]:
        """Take up what was persisted. To be called once, before the first event.

        Args: void_open: True where this gateway may have been set back to an old backup: codes that look
            open may have been used since. Claims that were made keep their answer.
        Raises: ProtocolViolation: damaged; nothing was taken up, every code is void.
        """
        version, rows = a_list(decode(data, what="invitations"), "invitations", length=2)
        if version != 1:
            raise ProtocolViolation(f"invitations have version {version!r}, this program speaks 1")
        found = each(rows, "invitation", _an_invitation, most=65536)
        self._invitations = {one.token_id: one for one in found}
        if void_open:
            for one in found:
                if one.state == "open":
                    one.state, one.why = "void", "the gateway was restarted since it was made"
        self._purge(now_s)
        return [self._persist()]

    # -- the core

    def handle(self, now_s: int, event: Event) -> list[Effect]:
        match event:
            case Asked():
                return self._asked(now_s, event)
            case Persisted(token):
                return self._persisted(now_s, token)
            case NotPersisted(token):
                return self._not_persisted(token)
            case Issued(token_id, answer):
                self._answers[token_id] = answer
                while len(self._answers) > self._limits.answers:
                    self._answers.popitem(last=False)
                return self._answer_all(token_id, answer)
            case NotIssued(token_id, cause, fix):
                return self._answer_all(token_id, refused(cause, fix))

    def tick(self, now_s: int) -> list[Effect]:
        return [self._persist()] if self._purge(now_s) else []

    def deadline_s(self) -> int | None:
        idle = (one for one in self._invitations.values() if not one.is_busy)
        return min((self._until_s(one) + 1 for one in idle), default=None)

    def check(self) -> None:
        claimed = [one for one in self._invitations.values() if one.state in ("pending", "approved")]
        assert all(one.claim is not None for one in claimed), "who is approved has claimed"
        names = [one.claim.name for one in claimed if one.claim and (one.state == "pending" or one.is_busy)]
        assert len(names) == len(set(names)), "two claims never wait for one name"
        assert all(one.claim is None for one in self._invitations.values() if one.state == "open")
        withdrawn = [one for one in self._invitations.values() if one.withdrawn_by is not None]
        assert all((one.state, one.claim) == ("void", None) for one in withdrawn), "no use is withdrawn"
        assert len(self._answers) <= self._limits.answers, "answers are bounded"
        assert self._counted.keys() <= {"", *self._invitations}, "only strangers and codes are counted"
        assert all(len(counted) <= self._limits.total for counted in self._counted.values())

    # -- requests

    def _asked(self, now_s: int, event: Asked) -> list[Effect]:
        # The MAC comes first: it costs microseconds, and what strangers send then counts against strangers.
        token_id, failure = "", None
        try:
            request = read_request(event.request)
            invitation = self._proven(request, event.server_leaf_sha256)
            token_id = invitation.token_id
        except (ProtocolViolation, Refused) as error:
            failure = error
        delay_s = self._too_many(now_s, token_id, event.address)
        if delay_s:
            return [Reply(event.reply, unavailable("too many joining requests", delay_s))]
        if failure is not None:
            return [Reply(event.reply, refused(failure.cause, failure.fix))]
        try:
            claim = _Claim(
                spki_der(key_of_csr(request.csr)),
                request.x25519,
                request.name,
                request.labels,
                event.address,
                now_s,
            )
            return self._claimed(now_s, event.reply, invitation, claim)
        except (ProtocolViolation, Refused, BadInput) as error:
            return [Reply(event.reply, refused(error.cause, error.fix))]

    def _proven(self, request: JoinRequest, server_leaf_sha256: bytes) -> _Invitation:
        invitation = self._invitations.get(request.token_id)
        if invitation is None:
            raise Refused("join code is not known here", fix=_NEW_CODE)
        if not request.fits(invitation.mac_key, server_leaf_sha256):
            raise Refused("join code's secret does not fit this request", fix=_NEW_CODE)
        return invitation

    def _claimed(self, now_s: int, reply: int, invitation: _Invitation, claim: _Claim) -> list[Effect]:
        held = invitation.claim
        if held is not None:
            claim = self._named(invitation, claim)
            if not held.is_same(claim):
                raise Refused("join code was used already", fix=_NEW_CODE)
        if invitation.state == "void":
            raise self._void(invitation)
        end_s = self._answered_until_s(invitation)
        if now_s > end_s:
            raise Refused(f"join code expired {_minutes(now_s - end_s)} ago", fix=_NEW_CODE)
        if held is None:
            return self._spend(reply, invitation, claim)
        # The same claim again: the reply was lost, or it polls. Polls at a decent pace are not counted.
        if now_s - self._polled_s.get(invitation.token_id, 0) >= _POLL_S - 1:
            self._uncount(invitation.token_id)
        self._polled_s[invitation.token_id] = now_s
        if len(invitation.replies) >= _REPLIES_MAX:
            return [Reply(reply, unavailable("this node is being answered already", _POLL_S))]
        if invitation.saving is not None:
            invitation.replies.append(reply)
            return []
        if invitation.unsaved:
            invitation.replies.append(reply)
            return [self._save(invitation)]
        if invitation.token_id in self._answers:
            return [Reply(reply, self._answers[invitation.token_id])]
        if invitation.state == "pending":
            return [Reply(reply, waiting(self._words(held), _POLL_S))]
        invitation.replies.append(reply)
        return [] if invitation.issuing else [self._issue(invitation)]

    def _spend(self, reply: int, invitation: _Invitation, claim: _Claim) -> list[Effect]:
        claim = self._named(invitation, claim)
        if invitation.replaces:
            if claim.labels:
                raise Refused(
                    f"{claim.name} keeps the labels of the board that it replaces", fix="join without --label"
                )
            if self._is_claimed(claim.name):
                raise Refused(f"another board is about to become {claim.name}", fix="deny that one first")
        elif self._is_taken(claim.name):
            raise name_taken(claim.name)
        if invitation.approval == "pending":
            if sum(one.state == "pending" for one in self._invitations.values()) >= self._limits.pending:
                raise Refused("too many nodes wait for approval", fix="approve or deny some of them")
            invitation.state = "pending"
        else:
            invitation.state = "approved"
        if invitation.replaces:
            self._void_named(claim.name, f"another board replaces {claim.name} since", invitation)
        invitation.claim = claim
        invitation.replies.append(reply)
        self._uncount(invitation.token_id)
        self._polled_s[invitation.token_id] = claim.asked_s
        return [self._save(invitation)]

    def _named(self, invitation: _Invitation, claim: _Claim) -> _Claim:
        """The claim under the name it will bear."""
        name = claim.name or invitation.name or _name_for(claim.spki)
        if invitation.name and name != invitation.name:
            raise Refused(
                f"join code is for the name {invitation.name!r}", fix=f"join with --name {invitation.name}"
            )
        checked_name(name)
        return _Claim(claim.spki, claim.x25519, name, claim.labels, claim.address, claim.asked_s)

    def _is_taken(self, name: str) -> bool:
        # An approved claim that is not under way any more is in the roster, or its member has left again.
        return self._taken(name) or self._is_claimed(name)

    def _is_claimed(self, name: str) -> bool:
        return any(
            one.claim is not None
            and one.claim.name == name
            and (one.state == "pending" or (one.state == "approved" and one.is_busy))
            for one in self._invitations.values()
        )

    # -- disk and authority

    def _persist(self) -> PersistInvitations:
        self._token += 1
        return PersistInvitations(self._token, self.snapshot())

    def _save(self, invitation: _Invitation) -> PersistInvitations:
        effect = self._persist()
        invitation.saving, invitation.unsaved = effect.token, False
        return effect

    def _saved(self, token: int) -> list[_Invitation]:
        done = [
            one
            for _, one in sorted(self._invitations.items())
            if one.saving is not None and one.saving <= token
        ]
        for one in done:
            one.saving = None
        return done

    def _persisted(self, now_s: int, token: int) -> list[Effect]:
        for one in self._invitations.values():
            if one.withdrawn_by is not None and one.withdrawn_by <= token:
                one.withdrawn_by = None
        effects: list[Effect] = []
        for one in self._saved(token):
            if one.state == "approved":
                effects.append(self._issue(one))
            elif one.state == "pending" and one.claim is not None:
                effects += self._answer_all(one.token_id, waiting(self._words(one.claim), _POLL_S))
            else:
                void = self._void(one)
                effects += self._answer_all(one.token_id, refused(void.cause, void.fix))
        return effects

    def _not_persisted(self, token: int) -> list[Effect]:
        effects: list[Effect] = []
        for one in self._saved(token):
            one.unsaved = True
            effects += self._answer_all(one.token_id, unavailable("gateway cannot write to its disk", 30))
        return effects

    def _issue(self, invitation: _Invitation) -> Issue:
        claim = invitation.claim
        assert claim is not None, "only a claim is issued"
        invitation.issuing = True
        return Issue(
            invitation.token_id,
            claim.name,
            read_spki(claim.spki),
            claim.x25519,
            invitation.roles,
            claim.labels,
            invitation.replaces,
        )

    def _answer_all(self, token_id: str, body: bytes) -> list[Effect]:
        invitation = self._invitations.get(token_id)
        if invitation is None:
            return []
        invitation.issuing = False
        replies, invitation.replies = invitation.replies, []
        return [Reply(reply, body) for reply in replies]

    # -- bounds

    def _too_many(self, now_s: int, token_id: str, address: str) -> int:
        """Seconds to wait, or 0 and the request is counted."""
        counted = [one for one in self._counted.get(token_id, ()) if now_s - 60 < one[0] <= now_s]
        self._counted[token_id] = counted
        own = [at_s for at_s, who in counted if who == address]
        for seen, limit in ((own, self._limits.per_address), ([t for t, _ in counted], self._limits.total)):
            if len(seen) >= limit:
                return max(1, seen[len(seen) - limit] + 60 - now_s)
        counted.append((now_s, address))
        return 0

    def _uncount(self, token_id: str) -> None:
        if self._counted.get(token_id):
            self._counted[token_id].pop()

    def _answered_until_s(self, one: _Invitation) -> int:
        """How long a claim may still come for its answer: an approval may be later than the code's end."""
        if one.claim is None or one.approval == "auto":
            return one.expires_s
        return max(one.expires_s, one.claim.asked_s + self._limits.pending_s + HOUR_S)

    def _until_s(self, one: _Invitation) -> int:
        if one.state == "pending" and one.claim is not None:
            return one.claim.asked_s + self._limits.pending_s
        return self._answered_until_s(one) + self._limits.kept_s

    def _purge(self, now_s: int) -> bool:
        """Void who waited too long, forget what is long over."""
        changed = False
        for token_id, one in sorted(self._invitations.items()):
            if now_s <= self._until_s(one) or one.is_busy:
                continue
            changed = True
            if one.state == "pending":
                one.state, one.why = "void", _UNAPPROVED
                continue
            self._forget(token_id)
        return changed

    def _make_room(self, now_s: int) -> None:
        """Codes that are over are remembered only as long as there is room for open ones."""
        over = sorted(
            (one.expires_s, one.token_id)
            for one in self._invitations.values()
            if not one.is_busy
            and (one.state in ("approved", "void") or (one.state == "open" and one.expires_s < now_s))
        )
        while len(self._invitations) >= self._limits.codes:
            if not over:
                raise BadInput("too many join codes are open", fix="wait until some are used or expire")
            self._forget(over.pop(0)[1])

    def _forget(self, token_id: str) -> None:
        del self._invitations[token_id]
        self._answers.pop(token_id, None)
        self._polled_s.pop(token_id, None)
        self._counted.pop(token_id, None)

    def _void(self, one: _Invitation) -> Refused:
        """Why a code is good for nothing any more."""
        if one.claim is not None and one.why == _UNAPPROVED:
            waited = f"{self._limits.pending_s // 60} min"
            return Refused(f"the request of {one.claim.name} expired after {waited}", fix=_AGAIN)
        if one.claim is not None and one.why == _DENIED:
            return Refused(f"the operator denied the request of {one.claim.name}", fix=_AGAIN)
        return Refused(f"join code is void: {one.why}", fix=_NEW_CODE)

    def _pending_named(self, now_s: int, name: str) -> _Invitation:
        self._purge(now_s)
        for _, one in sorted(self._invitations.items()):
            if one.state == "pending" and one.claim is not None and one.claim.name == name:
                return one
        over = [
            o for o in self._invitations.values() if o.why and o.claim is not None and o.claim.name == name
        ]
        if over:
            void = self._void(
                max(over, key=lambda one: (one.claim.asked_s if one.claim else 0, one.token_id))
            )
            raise BadInput(void.cause, fix=void.fix)
        names = ", ".join(node.name for node in self.pending()) or "nobody"
        raise BadInput(f"no node named {name!r} waits for approval", fix=f"waiting: {names}")

    def _words(self, claim: _Claim) -> str:
        return fingerprint_words(mesh_id_of(self._pin), hashlib.sha256(claim.spki).digest(), claim.x25519)


def _minutes(seconds: int) -> str:
    return f"{max(1, seconds // 60)} minutes"


def _name_for(spki: bytes) -> str:
    return f"node-{_b32(hashlib.sha256(spki).digest())[:6]}"


def _spell(one: _Invitation) -> list[object]:
    claim = one.claim
    return [
        one.token_id,
        one.mac_key,
        one.expires_s,
        one.approval,
        one.name,
        list(one.roles),
        _STATES.index(one.state),
        one.why,
        None
        if claim is None
        else [claim.spki, claim.x25519, claim.name, claim.labels, claim.address, claim.asked_s],
        *([True] if one.replaces else []),
    ]


def _an_invitation(value: object, what: str) -> _Invitation:
    fields = a_list(value, what, most=10)
    token_id, mac_key, expires_s, approval, name, roles, state, why, claim = a_list(
        fields[:9], what, length=9
    )
    one = _Invitation(
        a_text(token_id, what),
        a_bytes(mac_key, what, length=32),
        a_count(expires_s, what),
        a_text(approval, what),
        a_text(name, what),
        each(roles, what, a_text, most=8),
        _STATES[a_count(state, what, most=3)],
        a_text(why, what),
        replaces=fields[9:] == [True],
    )
    if fields[9:] not in ([], [True]):
        raise ProtocolViolation("invitation has a field that this program does not know")
    if claim is not None:
        spki, x25519, claimed, labels, address, asked_s = a_list(claim, what, length=6)
        one.claim = _Claim(
            a_bytes(spki, what),
            a_bytes(x25519, what, length=32),
            a_text(claimed, what),
            {a_text(k, what): a_text(v, what) for k, v in a_map(labels, what).items()},
            a_text(address, what),
            a_count(asked_s, what),
        )
        read_spki(one.claim.spki)
    if (one.claim is None and one.state in ("pending", "approved")) or (one.claim and one.state == "open"):
        raise ProtocolViolation("invitation's state and claim do not agree")
    return one


# -- renewal


@dataclass(frozen=True, slots=True)
class Renewal:
    """A member's wish for new keys, proven by its old one."""

    node_id: str
    key: ec.EllipticCurvePublicKey
    x25519: bytes
    nonce: bytes
    signer_spki_sha256: bytes


def build_renewal(
    old: NodeKeys, new: NodeKeys, *, node_id: str, server_leaf_sha256: bytes, nonce: bytes
) -> bytes:
    """Signed by the *old* key; keep both until the answer is stored. ``nonce``: 16 random bytes."""
    csr = build_csr(new.signing, node_id)
    payload = encode(["ew1-renew", csr, new.x25519_public, server_leaf_sha256, nonce])
    return sign1(payload, old.signing, context=RENEWAL_CONTEXT, spki=spki_der(old.public))


def open_renewal(data: bytes, *, roster: Roster, server_leaf_sha256: bytes, now_s: int) -> Renewal:
    """Who wants which new keys.

    Args: roster: the current one; its active members alone may renew.
    Raises: ProtocolViolation: malformed, forged, or made for another connection.
        Refused: revoked or left (when, by whom, why), not listed, or expired more than 30 days ago.
    """
    if len(data) > REQUEST_BYTES_MAX:
        raise ProtocolViolation(f"renewal is larger than {REQUEST_BYTES_MAX} bytes")
    signer = peek1(data).spki_sha256
    member = roster.member_of_key(signer)
    if member is None:
        owner = roster.owner_of_key(signer)
        out = roster.why_out(owner.id, (signer,)) if owner is not None else None
        raise out or Refused("this key belongs to no member of the roster", fix=NEW_CODE)
    payload = verify1(data, context=RENEWAL_CONTEXT, trusted_spki_sha256=(signer,)).payload
    fields = _versioned(payload, "renewal", "ew1-renew")
    _, csr, x25519, leaf_hash, nonce = a_list(fields, "renewal", length=5)
    if a_bytes(leaf_hash, "server leaf hash", length=32) != server_leaf_sha256:
        raise ProtocolViolation("renewal was made for another connection")
    (held,) = (key for key in member.keys if key.spki_sha256 == signer)
    if now_s > held.not_before_s + HOUR_S + LEAF_DAYS * DAY_S + LATE_RENEWAL_S:
        raise Refused(
            "certificate expired more than 30 days ago", fix=f"ask for `edge-gateway replace {member.id}`"
        )
    key = key_of_csr(a_bytes(csr, "CSR", most=2048))
    owner = roster.member_of_key(spki_sha256(key))
    if owner is not None and owner.id != member.id:
        raise Refused("the new key belongs to another member", fix="make new keys")
    return Renewal(
        member.id, key, a_bytes(x25519, "x25519 key", length=32), a_bytes(nonce, "nonce", length=16), signer
    )


def with_new_key(member: Member, fresh: MemberKey, *, beside: bytes) -> Member:
    """The member's next roster line: the new key first, the one that asked for it (*beside*) behind it.

    A third key (a renewal whose answer was lost together with its keys) falls out; one that is listed already
    (only its answer was lost) changes nothing.
    """
    if fresh.spki_sha256 in {key.spki_sha256 for key in member.keys}:
        return member
    kept = [key for key in member.keys if key.spki_sha256 == beside]
    return Member(member.id, (fresh, *kept), member.roles, member.labels, member.status)


def with_key_used(member: Member, spki_sha256: bytes) -> Member:
    """Once a key has been used, those before it (further back in the list) are dropped."""
    for place, key in enumerate(member.keys):
        if key.spki_sha256 == spki_sha256:
            return Member(member.id, member.keys[: place + 1], member.roles, member.labels, member.status)
    return member


def with_old_keys_expired(member: Member, *, now_s: int) -> Member:
    """The older of two keys goes when its certificate has ended."""
    newest, *older = member.keys
    live = [key for key in older if now_s <= key.not_before_s + HOUR_S + LEAF_DAYS * DAY_S]
    return Member(member.id, (newest, *live), member.roles, member.labels, member.status)


# -- leaving


def build_leave(keys: NodeKeys, *, node_id: str, server_leaf_sha256: bytes) -> bytes:
    """A member's last word, signed by its key; bound to the connection, so that nobody keeps it for later."""
    payload = encode(["ew1-leave", node_id, server_leaf_sha256])
    return sign1(payload, keys.signing, context=LEAVE_CONTEXT, spki=spki_der(keys.public))


def open_leave(data: bytes, *, roster: Roster, server_leaf_sha256: bytes) -> str:
    """Who leaves. One that left already may say so again.

    Raises: ProtocolViolation: malformed, forged, or made for another connection. Refused: not a member's key.
    """
    if len(data) > REQUEST_BYTES_MAX:
        raise ProtocolViolation(f"leave is larger than {REQUEST_BYTES_MAX} bytes")
    signer = peek1(data).spki_sha256
    member = roster.owner_of_key(signer)
    if member is None:
        raise Refused("this key belongs to no member of the roster")
    payload = verify1(data, context=LEAVE_CONTEXT, trusted_spki_sha256=(signer,)).payload
    _, node_id, leaf_hash = a_list(_versioned(payload, "leave", "ew1-leave"), "leave", length=3)
    if a_bytes(leaf_hash, "server leaf hash", length=32) != server_leaf_sha256:
        raise ProtocolViolation("leave was made for another connection")
    if a_text(node_id, "name", most=32) != member.id:
        raise ProtocolViolation("leave names another member than its signer")
    return member.id


def noted() -> bytes:
    """The gateway's good answer to a leave."""
    return encode([VERSION, 0])


def read_noted(data: bytes) -> None:
    """Raises: Refused, Unavailable: the gateway says no, or later. ProtocolViolation: no answer of ours."""
    if len(data) > REQUEST_BYTES_MAX:
        raise ProtocolViolation("gateway's answer is too large")
    match _versioned(data, "gateway's answer", VERSION)[1:]:
        case [0]:
            return
        case [2, reason, fix]:
            raise Refused(a_text(reason, "reason"), fix=a_text(fix, "fix"))
        case [3, cause, retry_after_s]:
            raise Unavailable(
                a_text(cause, "cause"), retry_after_s=float(a_count(retry_after_s, "delay", most=HOUR_S))
            )
    raise ProtocolViolation("gateway's answer has an unknown shape")
