"""Groups: one sealed frame for many readers, under a secret that the mesh's authority vouches for.

    D0 83                     tag 16, array(3)
      44 A1 01 18 18          protected {1: 24}: ChaCha20/Poly1305, the only value accepted
      A3 04 48 <kid 8>        unprotected: kid,
         06 4n <n = 1..3>     Partial IV = seq, big endian, shortest form, 1 <= seq < 2^24,
         0A 4C <epoch 4 || stream_id 8>     kid context
      <bstr head> <ct || tag> shortest length form
    info      = CBOR ["ew1-g", mesh_id, group, epoch, sender, stream_id]
    kid       = SHA-256(info)[:8]          key || iv = HKDF-Expand-SHA256(secret, info, 44)
    nonce, AAD: as in ``envelope``; the context is the caller's, made of topic, src, group and kid

A frame without its kid context *is* a parcel under the same key, iv, kid and context. So a frame is taken
apart and put together here, and everything else (shape, number, length, tag) passes the one parser of
``envelope``. Nothing of the kid context is in the AAD: it names the key, a changed one names another.

An *epoch* is a secret of 32 bytes with a number. It is believed by its *grant*, COSE_Sign1 by the issuing CA
over {v, mesh, group, epoch, commit = SHA-256(secret), issued}: any member may hand an epoch on, none can
invent one. Epochs are ordered by (number, issued, commit), so that two that were granted under one
number (a gateway restored from a backup) still have one winner everywhere.

    Epochs         which secrets are held; only moves up; the one before opens for 60 s more
    GroupSender    own frames: stream, numbers          GroupReceiver   others' frames: keys, replays

What a group proves: that a member who held the epoch made the frame, for this topic and source. It does
**not** prove which member (each can derive every other's key), so nothing is said this way but presence, and
what proves its author itself.

A (key, nonce) pair never repeats: the key is made of sender and stream_id, 8 random bytes anew at each start
of a process and after each 2^20 own frames, and within a stream one counter runs over all topics and epochs.

Replays. A window per stream, moved after a good tag only. Two streams a sender are kept, the one least
recently used goes; a sender never displaces another's, since at most as many senders are kept as a roster
has members. So a window is lost (a) when this process ends, (b) when two other streams of its sender are
begun, or replayed from a record. Then what was recorded opens once more: the layer above must order what
a member says by that member's own (incarnation, seq) and drop what is not above the highest it took.
``edge_node.transport.groupcast`` does.

Bounds: frames of 256 KiB, two epochs a group, two streams a sender, 1 024 senders, four openers a stream.
Not here: topics, messages, when to make an epoch (``gateway.epochs``), who is asked for one (``groupcast``).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from security.canonical import a_bytes, a_count, a_list, a_map, a_text, decode, encode
from security.certificates import not_after_s, read_certificate, spki_sha256_of, verify_chain
from security.envelope import HEAD as PARCEL_HEAD
from security.envelope import IV_BYTES, KEY_BYTES, KID_BYTES, MARK, PARCEL_BYTES_MAX, Opener, Sealer
from security.errors import BadInput, ProtocolViolation
from security.identity import is_mesh_id, is_node_id, mesh_id_of
from security.replay import ReplayWindow
from security.roster import MEMBERS_MAX
from security.session import Replayed
from security.signing import peek1, verify1

__all__ = [
    "Adopted",
    "Context",
    "Epoch",
    "EpochUnknown",
    "Epochs",
    "GroupReceiver",
    "GroupSender",
    "Held",
    "Lower",
    "Replayed",
    "grant_payload",
    "is_group_frame",
    "open_grant",
]

SECOND: Final = 1_000_000_000
CONTEXT: Final = b"ew1-group"
GRANT_BYTES_MAX: Final = 4 * 1024  # two certificates of the chain and a short map
SECRET_BYTES: Final = 32
EPOCH_MAX: Final = (1 << 32) - 1
STREAM_BYTES: Final = 8
STREAM_FRAMES_MAX: Final = 1 << 20  # as sessions: then other keys
OVERLAP_NS: Final = 60 * SECOND  # frames under way, and members that have not met anyone yet
STREAMS_MAX: Final = 2  # a sender: the one before its restart, and the one it speaks in
OPENERS_MAX: Final = 4  # a stream: two epochs, two topics
STORED_BYTES_MAX: Final = 2 * (GRANT_BYTES_MAX + SECRET_BYTES) + 64
FRAME_BYTES_MAX: Final = PARCEL_BYTES_MAX

_HEAD: Final = bytes.fromhex("d083 44a1011818 a30448")
_KID: Final = len(_HEAD)
_KID_END: Final = _KID + KID_BYTES
_KID_CONTEXT: Final = b"\x0a\x4c"
_CONTEXT_BYTES: Final = len(_KID_CONTEXT) + 4 + STREAM_BYTES
_GRANT_KEYS: Final = frozenset(("v", "mesh", "group", "epoch", "commit", "issued"))
assert len(PARCEL_HEAD) == len(_HEAD), "frames and parcels differ in the kid context alone"

Context = Callable[[str, str, str, bytes], bytes]
"""(topic, src, group, kid) -> the external AAD that both sides know."""


# -- grants


@dataclass(frozen=True, slots=True)
class Epoch:
    """A secret that the authority vouches for. The secret is in no ``repr``: it must not reach a log."""

    number: int
    issued_s: int
    commit: bytes  # SHA-256 of the secret
    grant: bytes
    secret: bytes = field(repr=False)

    @property
    def rank(self) -> tuple[int, int, bytes]:
        """Total order of a group's epochs; the malleable signature has no part in it."""
        return self.number, self.issued_s, self.commit


def grant_payload(mesh_id: str, group: str, epoch: int, secret: bytes, issued_s: int) -> bytes:
    """What ``Authority.sign_grant`` signs: deterministic CBOR {v, mesh, group, epoch, commit, issued}.

    Raises: BadInput: no epoch has that number or secret, or no group that name.
    """
    if len(secret) != SECRET_BYTES:
        raise BadInput(f"epoch secret has {len(secret)} bytes", fix=f"give {SECRET_BYTES}")
    if not 1 <= epoch <= EPOCH_MAX:
        raise BadInput(f"epoch {epoch} is out of range", fix=f"use 1 to {EPOCH_MAX}")
    if not is_node_id(group) or not is_mesh_id(mesh_id):
        raise BadInput(f"no group can be named {group!r}", fix="use 1 to 32 of a-z, 0-9 and '-'")
    return encode(
        {
            "v": 1,
            "mesh": mesh_id,
            "group": group,
            "epoch": epoch,
            "commit": hashlib.sha256(secret).digest(),
            "issued": issued_s,
        }
    )


def open_grant(grant: bytes, secret: bytes, *, group: str, root_spki_sha256: bytes | str) -> Epoch:
    """The epoch, if the issuing CA of the pinned mesh granted this secret to this group.

    Raises: ProtocolViolation: too large, unsigned, another mesh's or group's, or of another secret.
    """
    if len(grant) > GRANT_BYTES_MAX:
        raise ProtocolViolation("grant is too large")
    claimed = peek1(grant)
    issuing, root = verify_chain(
        [read_certificate(der) for der in claimed.x5chain], root_spki_sha256=root_spki_sha256
    )
    signed = verify1(grant, context=CONTEXT, trusted_spki_sha256=(spki_sha256_of(issuing),))
    table = a_map(decode(signed.payload, what="grant"), "grant")
    if table.get("v") != 1:
        raise ProtocolViolation("grant has a version that this program does not speak (it speaks 1)")
    table = a_map(table, "grant", keys=_GRANT_KEYS)
    epoch = Epoch(
        number=a_count(table["epoch"], "epoch", most=EPOCH_MAX),
        issued_s=a_count(table["issued"], "time of issue", most=2**40),
        commit=a_bytes(table["commit"], "digest of the secret", length=32),
        grant=bytes(grant),
        secret=bytes(secret),
    )
    if a_text(table["mesh"], "mesh id") != mesh_id_of(spki_sha256_of(root)):
        raise ProtocolViolation("grant belongs to another mesh")
    if a_text(table["group"], "group") != group:
        raise ProtocolViolation("grant belongs to another group")
    if epoch.number < 1:
        raise ProtocolViolation("grant names no epoch")
    if len(secret) != SECRET_BYTES or hashlib.sha256(secret).digest() != epoch.commit:
        raise ProtocolViolation("grant is for another secret")
    if epoch.issued_s > not_after_s(issuing):
        raise ProtocolViolation("grant was signed after its authority had expired")
    return epoch


# -- epochs held


class Adopted(msgspec.Struct, frozen=True):
    """A higher epoch: sent under from now on. Persist ``Epochs.to_bytes()``."""

    epoch: Epoch


class Held(msgspec.Struct, frozen=True):
    """The current epoch again."""


class Lower(msgspec.Struct, frozen=True):
    """A good epoch, but not above the current one: whoever showed it is behind."""

    epoch: Epoch


class Epochs:
    """The epochs of one group that this member holds: the highest, and for 60 s the one before it.

    Any higher number is adopted, however far above: the signature protects, and a bound on the step would
    lock out a member that was away for long. An epoch has no end: an overdue rotation never stops use.
    Two rotations within 60 s cut the overlap of the oldest short: who still sends under it is not heard
    until it has asked for keys.
    """

    def __init__(self, *, mesh_id: str, group: str, root_spki_sha256: bytes | str) -> None:
        """``root_spki_sha256``: the pin, or the mesh id."""
        self.mesh_id = mesh_id
        self.group = group
        self._pin = root_spki_sha256
        self._current: Epoch | None = None
        self._previous: Epoch | None = None
        self._previous_until_ns = 0

    @property
    def current(self) -> Epoch | None:
        return self._current

    @property
    def number(self) -> int:
        """The highest epoch held; 0: none."""
        return self._current.number if self._current is not None else 0

    def adopt(self, now_ns: int, grant: bytes, secret: bytes) -> Adopted | Held | Lower:
        """Raises: ProtocolViolation: the grant does not hold, or not for this secret, mesh and group."""
        held = self._current
        if held is not None and grant == held.grant and secret == held.secret:
            return Held()  # the common case, without two signatures to check
        offered = open_grant(grant, secret, group=self.group, root_spki_sha256=self._pin)
        if held is not None:
            if offered.rank == held.rank:
                return Held()
            if offered.rank < held.rank:
                return Lower(offered)
            self._previous, self._previous_until_ns = held, now_ns + OVERLAP_NS
        self._current = offered
        return Adopted(offered)

    def opening(self, now_ns: int, number: int) -> tuple[Epoch, ...]:
        """The epochs of that number that open now; two only where one number was granted twice."""
        current, previous = self._current, self._previous
        if previous is None or previous.number != number or now_ns >= self._previous_until_ns:
            return (current,) if current is not None and current.number == number else ()
        return (current, previous) if current is not None and current.number == number else (previous,)

    def to_bytes(self) -> bytes:
        """For the key store: CBOR [1, [[grant, secret], …]], newest first, at most two."""
        kept = [one for one in (self._current, self._previous) if one is not None]
        return encode([1, [[one.grant, one.secret] for one in kept]])

    def restore(self, now_ns: int, stored: bytes) -> None:
        """Take back what ``to_bytes`` gave; the one before opens for 60 s from now.

        Raises: ProtocolViolation: damaged, or another mesh's; what was readable before the damage is held.
        """
        if len(stored) > STORED_BYTES_MAX:
            raise ProtocolViolation("stored group secrets are damaged")
        version, rows = a_list(decode(stored, what="stored group secrets"), "group secrets", length=2)
        if version != 1:
            raise ProtocolViolation("stored group secrets have a version that this program does not speak")
        for row in reversed(a_list(rows, "group secrets", most=2)):
            grant, secret = a_list(row, "group secret", length=2)
            self.adopt(now_ns, a_bytes(grant, "grant"), a_bytes(secret, "secret"))

    def tick(self, now_ns: int) -> None:
        """Forget the previous epoch when its time is over: its secret must not lie about."""
        if self._previous is not None and now_ns >= self._previous_until_ns:
            self._previous = None

    def deadline_ns(self) -> int | None:
        return self._previous_until_ns if self._previous is not None else None

    def check(self) -> None:
        """Invariants; raises AssertionError."""
        for one in (self._current, self._previous):
            assert one is None or hashlib.sha256(one.secret).digest() == one.commit
        if self._previous is not None:
            assert self._current is not None and self._previous.rank < self._current.rank


# -- keys and frames


def info_of(mesh_id: str, group: str, epoch: int, sender: str, stream_id: bytes) -> bytes:
    """CBOR ["ew1-g", mesh_id, group, epoch, sender, stream_id]: whose key it is."""
    return encode(["ew1-g", mesh_id, group, epoch, sender, stream_id])


def kid_of(info: bytes) -> bytes:
    """The name of that key. It is no secret: anyone can compute it."""
    return hashlib.sha256(info).digest()[:KID_BYTES]


def derive(secret: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Key and iv: HKDF-Expand-SHA256(secret, info, 44). The secret is uniform, so Extract is not needed
    (RFC 5869 section 3.3)."""
    okm = HKDFExpand(algorithm=hashes.SHA256(), length=KEY_BYTES + IV_BYTES, info=info).derive(secret)
    return okm[:KEY_BYTES], okm[KEY_BYTES:]


def is_group_frame(frame: bytes) -> bool:
    """Does it begin like one? The rest is for ``GroupReceiver.open`` to judge."""
    return frame.startswith(_HEAD)


def _join(parcel: bytes, kid_context: bytes) -> bytes:
    """The frame of a parcel: another map head, and the kid context behind the number."""
    at = MARK + 1 + parcel[MARK] - 0x40
    return b"".join((_HEAD, parcel[_KID:at], _KID_CONTEXT, kid_context, parcel[at:]))


def _split(frame: bytes) -> tuple[bytes, int, bytes, bytes]:
    """(kid, epoch, stream_id, the parcel that this frame is without its kid context).

    Raises: ProtocolViolation. The number, the length and the tag are left to the parcel's own parser.
    """
    total = len(frame)
    if total > FRAME_BYTES_MAX:
        raise ProtocolViolation("group frame is too large")
    if not frame.startswith(_HEAD) or total <= MARK or frame[_KID_END] != 0x06:
        raise ProtocolViolation("not a group frame")
    n = frame[MARK] - 0x40
    at = MARK + 1 + n
    end = at + _CONTEXT_BYTES
    if not 1 <= n <= 3 or end >= total or frame[at : at + 2] != _KID_CONTEXT:
        raise ProtocolViolation("group frame has a wrong shape")
    epoch = int.from_bytes(frame[at + 2 : at + 6], "big")
    return frame[_KID:_KID_END], epoch, frame[at + 6 : end], PARCEL_HEAD + frame[_KID:at] + frame[end:]


class GroupSender:
    """Seals this member's frames for one group."""

    def __init__(self, me: str, epochs: Epochs, context: Context, *, entropy: Callable[[int], bytes]) -> None:
        """``entropy(n)`` gives n random bytes; new stream ids are made of it."""
        self._me = me
        self._epochs = epochs
        self._context = context
        self._entropy = entropy
        self._sealers: dict[str, Sealer] = {}  # by topic, for the epoch and stream below
        self._epoch: Epoch | None = None
        self._stream_id = b""
        self._seq = STREAM_FRAMES_MAX  # the first frame begins a stream

    def seal(self, topic: str, plain: bytes) -> bytes | None:
        """A frame under the highest epoch held; None: there is none yet.

        Raises: BadInput: it does not fit a frame of ``FRAME_BYTES_MAX``.
        """
        epoch = self._epochs.current
        if epoch is None:
            return None
        if self._seq >= STREAM_FRAMES_MAX:
            fresh = self._entropy(STREAM_BYTES)
            assert len(fresh) == STREAM_BYTES and fresh != self._stream_id, "a stream needs fresh entropy"
            self._stream_id, self._seq = fresh, 0
            self._sealers.clear()
        if epoch is not self._epoch:
            self._epoch = epoch
            self._sealers.clear()
        sealer = self._sealers.get(topic)
        if sealer is None:
            if len(self._sealers) >= OPENERS_MAX:  # receivers keep no more either
                self._sealers.clear()
            sealer = self._sealers[topic] = self._sealer(epoch, topic)
        self._seq += 1  # counted even if sealing fails: a number is never tried twice
        parcel = sealer.seal(self._seq, plain)
        if len(parcel) + _CONTEXT_BYTES > FRAME_BYTES_MAX:
            raise BadInput(f"{len(plain)} bytes do not fit a group frame", fix="send less at once")
        return _join(parcel, epoch.number.to_bytes(4, "big") + self._stream_id)

    def _sealer(self, epoch: Epoch, topic: str) -> Sealer:
        epochs = self._epochs
        info = info_of(epochs.mesh_id, epochs.group, epoch.number, self._me, self._stream_id)
        key, iv = derive(epoch.secret, info)
        kid = kid_of(info)
        return Sealer(key, iv, kid, self._context(topic, self._me, epochs.group, kid))

    def check(self) -> None:
        """Invariants; raises AssertionError."""
        assert 0 <= self._seq <= STREAM_FRAMES_MAX
        assert len(self._sealers) <= OPENERS_MAX


class EpochUnknown(msgspec.Struct, frozen=True):
    """Nothing was opened: the frame *claims* an epoch above ours. Ask for keys, but only now and then."""

    epoch: int


class _Stream(msgspec.Struct, eq=False):
    window: ReplayWindow
    commit: bytes  # of the epoch and topic that it last spoke under, and what opens that
    topic: str
    opener: Opener
    others: dict[tuple[bytes, str], Opener] | None = None  # by (commit, topic); most have none

    def opens(self, commit: bytes, topic: str) -> Opener | None:
        if topic == self.topic and commit == self.commit:
            return self.opener
        return self.others.get((commit, topic)) if self.others is not None else None

    def keep(self, commit: bytes, topic: str, opener: Opener) -> None:
        if topic == self.topic and commit == self.commit:
            self.opener = opener
            return
        others = self.others
        if others is None:
            others = self.others = {}
        elif len(others) >= OPENERS_MAX - 1:
            others.clear()
        others.pop((commit, topic), None)
        others[self.commit, self.topic] = self.opener
        self.commit, self.topic, self.opener = commit, topic, opener


class GroupReceiver:
    """Opens other members' frames of one group, each once."""

    def __init__(
        self,
        epochs: Epochs,
        context: Context,
        *,
        is_member: Callable[[str], bool],
        opener: Callable[[bytes, bytes, bytes, bytes], Opener] = Opener,
    ) -> None:
        """``is_member``: does the *current* roster list this id as active? Nobody else is listened to.
        ``opener``: makes an ``Opener`` of its four arguments; one process with many readers may share them.
        """
        self._opener = opener
        self._epochs = epochs
        self._context = context
        self._is_member = is_member
        self._senders: dict[str, dict[bytes, _Stream]] = {}  # streams: least recently used first
        self.failures: Counter[str] = Counter()
        """Frames refused, by source; those of strangers under ""."""

    def open(self, now_ns: int, topic: str, src: str, frame: bytes) -> bytes | EpochUnknown:
        """The plain bytes, once. ``src`` is what the topic says; the key of the frame must be made for it.

        Raises: ProtocolViolation (``Replayed``: a good frame that was opened before): of a stranger, another
            shape, an epoch that has ended, another source's key, or not authentic. It is counted.
        """
        try:
            return self._open(now_ns, topic, src, frame)
        except ProtocolViolation:
            self.failures[src if src in self._senders or self._is_member(src) else ""] += 1
            raise

    def forget(self, src: str) -> None:
        """It is no member any more."""
        self._senders.pop(src, None)
        self.failures.pop(src, None)

    def _open(self, now_ns: int, topic: str, src: str, frame: bytes) -> bytes | EpochUnknown:
        if not self._is_member(src):
            raise ProtocolViolation("group frame of a stranger")
        kid, number, stream_id, parcel = _split(frame)
        epochs = self._epochs.opening(now_ns, number)
        if not epochs:
            if number > self._epochs.number:
                return EpochUnknown(number)
            raise ProtocolViolation("group frame of an epoch that has ended")
        streams = self._senders.get(src)
        stream = streams.get(stream_id) if streams is not None else None
        if stream is not None:
            opener = stream.opens(epochs[0].commit, topic)
            if opener is not None and len(epochs) == 1:
                seq, plain = opener.open(parcel)  # the hot path
                return self._once(src, stream_id, stream, seq, plain)
        info = info_of(self._epochs.mesh_id, self._epochs.group, number, src, stream_id)
        if kid != kid_of(info):
            raise ProtocolViolation("group frame is under a key of another source")
        epoch, opener, (seq, plain) = self._try(epochs, info, kid, topic, src, parcel)
        if stream is None:  # kept only now that the tag was good: a forger fills no cache
            stream = self._new_stream(src, stream_id, _Stream(ReplayWindow(), epoch.commit, topic, opener))
        stream.keep(epoch.commit, topic, opener)
        return self._once(src, stream_id, stream, seq, plain)

    def _try(
        self, epochs: tuple[Epoch, ...], info: bytes, kid: bytes, topic: str, src: str, parcel: bytes
    ) -> tuple[Epoch, Opener, tuple[int, bytes]]:
        context = self._context(topic, src, self._epochs.group, kid)
        for epoch in epochs:
            opener = self._opener(*derive(epoch.secret, info), kid, context)
            try:
                return epoch, opener, opener.open(parcel)
            except ProtocolViolation:
                if epoch is epochs[-1]:
                    raise
        raise AssertionError("there is an epoch to try")

    def _once(self, src: str, stream_id: bytes, stream: _Stream, seq: int, plain: bytes) -> bytes:
        if not stream.window.accept(seq):
            raise Replayed("group frame was opened before, or is too old")
        streams = self._senders[src]
        if len(streams) > 1:
            streams[stream_id] = streams.pop(stream_id)
        return plain

    def _new_stream(self, src: str, stream_id: bytes, stream: _Stream) -> _Stream:
        streams = self._senders.get(src)
        if streams is None:
            if len(self._senders) >= MEMBERS_MAX:
                # A roster lists no more, so some of these have left it: no member's window is lost here.
                for gone in [name for name in self._senders if not self._is_member(name)]:
                    self.forget(gone)
            if len(self._senders) >= MEMBERS_MAX:
                raise ProtocolViolation("group has more senders than a roster has members")
            streams = self._senders[src] = {}
        if len(streams) >= STREAMS_MAX:
            del streams[next(iter(streams))]
        streams[stream_id] = stream
        return stream

    def check(self) -> None:
        """Invariants; raises AssertionError."""
        assert len(self._senders) <= MEMBERS_MAX
        for streams in self._senders.values():
            assert 1 <= len(streams) <= STREAMS_MAX
            assert all(len(one.others or ()) < OPENERS_MAX for one in streams.values())
