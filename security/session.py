"""Sessions: which keys two members share right now, and how they come to share them.

    Wanted(b) ─► m1 ──────────────► answer: keys made, not used yet
                 m2 ◄──────────────
    Ready(b), Confirm(b) ─► parcel ► first good parcel: Ready(a), keys used

In: control frames, "traffic is waiting", "the roster changed", and on the hot path ``seal`` and ``open``.
Out: frames to send, who can be sealed for, when a roster should be fetched. Keys live in memory only; a
restart means a new handshake, so a (key, nonce) pair can never repeat.

How it holds together
- A lost frame heals by repetition: m1 goes out again after 0.5, 1, 2, 4, 4 … s, the same bytes for the same
  attempt, and is answered by the same m2. A lost confirmation heals because the responder, once it has
  traffic of its own, starts a handshake itself.
- At most one own attempt a peer. Crossing m1s: the smaller id's wins; the other side gives up its attempt
  when it answers. Every session carries the number at which it was begun here (attempt started, or m1
  answered), and the highest number is the one sealed under. Under these two rules both sides order two
  sessions that overlap alike, whatever the network reorders.
- A session is replaced only by a *proved* one: m2 read (initiator) or a first good parcel (responder).
  Replaced keys open for 60 s more, unless the peer's boot id changed: then what is still under way from its
  former life is refused, because the layer above has begun to count anew.
- Hints (unknown kid, roster wanted, roster) are unauthenticated: at most one reaction
  in 10 s a peer.

Not here: topics, parcels' contents, acknowledgements (the channel above), the roster itself (``roster``).
Rejected: dropping a session on an unknown-kid hint (anyone could end sessions); a fresh attempt at each
repetition (a round trip longer than the pause would never finish); ordering by ts_ms (clocks lie).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import Final

import cbor2
import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from security import control
from security.control import Control, decode_control, decode_payload, encode_payload
from security.envelope import IV_BYTES, KEY_BYTES, KID_BYTES, SEQ_LIMIT, Opener, Sealer, peek_kid
from security.errors import ProtocolViolation, Unavailable
from security.handshake import KK, public_of
from security.replay import ReplayWindow

MS: Final = 1_000_000
SECOND: Final = 1_000 * MS
FOREVER: Final = 1 << 62

RETRY_NS: Final = (SECOND // 2, SECOND, 2 * SECOND, 4 * SECOND)  # the last one repeats
SENDS_A_COMBINATION: Final = 2  # of an m1, before another pair of listed keys is tried
SENDS_AN_ATTEMPT: Final = 8  # then a new ephemeral key
SENDS_UNWANTED: Final = 8  # an attempt that nobody waits for gives up (about 24 s)
SPACING_NS: Final = SECOND  # between handshakes started, and between handshakes answered, a peer
COST_NS: Final = SECOND // 50  # 50 handshakes a second in all …
BURST_NS: Final = SECOND
RESERVE_NS: Final = 10 * COST_NS  # … the last 10 only for peers that traffic waits for
CONFIRM_NS: Final = SECOND  # how long an answered peer may take to confirm before we start one ourselves
HINT_NS: Final = 10 * SECOND
OLD_KEYS_NS: Final = 60 * SECOND
REKEY_NS: Final = 3600 * SECOND
NEWER_NS: Final = 10 * SECOND  # how long a session rests on a key that has a newer one beside it
REKEY_RESPONDER_NS: Final = 10 * SECOND  # later, so that both sides do not start at once
LIFE_NS_MAX: Final = 2 * REKEY_NS  # a session that cannot be renewed ends: forward secrecy before reach
REKEY_SEQ: Final = 1 << 20
REKEY_SEQ_AGAIN: Final = 1 << 16
SESSIONS_MAX: Final = 256  # of a node; a gateway, with whom everybody speaks, is built with more
PENDING_MAX: Final = 128  # answered, not confirmed: only roster members can make them, by a valid m1
PENDING_PEER_MAX: Final = 4
OLD_PEER_MAX: Final = 4
HINTS_MAX: Final = 2048  # remembered times of hints, by kind and name
FAILURES_MAX: Final = 2048  # names counted one by one; the rest under ""


class NoSession(Unavailable):
    """There are no keys for this peer yet; ``Wanted`` starts a handshake, ``Ready`` tells its end."""


class UnknownKid(ProtocolViolation):
    """A parcel under keys that this process never had or no longer has; the sender is told by a hint."""


class Replayed(ProtocolViolation):
    """A good parcel that was opened before, or is older than the window."""


# -- events


class FrameReceived(msgspec.Struct, frozen=True):
    """A control frame (first byte 0x86); ``src`` is what the topic says, which proves nothing."""

    src: str
    frame: bytes


class Wanted(msgspec.Struct, frozen=True):
    """Traffic waits for ``peer``: handshakes are tried until ``Ready``, ``Unwanted`` or ``PeerForgotten``."""

    peer: str


class Unwanted(msgspec.Struct, frozen=True):
    """No traffic waits any more: an attempt under way gives up after a few sends."""

    peer: str


class RosterChanged(msgspec.Struct, frozen=True):
    """``keys_of``, ``static`` or ``roster_version`` may answer differently from now on."""


class PeerForgotten(msgspec.Struct, frozen=True):
    """Drop all that is known of ``peer``, its boot id included: the next ``Ready`` will be fresh."""

    peer: str


class BootSeen(msgspec.Struct, frozen=True):
    """Presence showed this boot id; if it is not our session's, a handshake starts, nothing is dropped."""

    peer: str
    boot_id: bytes


Event = FrameReceived | Wanted | Unwanted | RosterChanged | PeerForgotten | BootSeen

# -- effects


class SendFrame(msgspec.Struct, frozen=True):
    peer: str
    frame: bytes


class Ready(msgspec.Struct, frozen=True):
    """From now on ``seal`` works for ``peer``, under new keys. ``fresh``: its boot id is not the one of the
    last ``Ready`` (or there was none): message numbers start anew in both directions."""

    peer: str
    peer_boot_id: bytes
    fresh: bool


class Confirm(msgspec.Struct, frozen=True):
    """Seal and send a parcel to ``peer`` at once, an empty one if nothing waits: it proves our keys."""

    peer: str


class RosterWanted(msgspec.Struct, frozen=True):
    """``peer`` speaks of a roster that is not ours; ``version`` is what it announced. Fetch one from the
    gateway, else ``ask_roster`` that peer."""

    peer: str
    version: int


class RosterOffered(msgspec.Struct, frozen=True):
    """``peer`` sent this; it is worth what its signature is worth."""

    peer: str
    signed: bytes


class RosterAsked(msgspec.Struct, frozen=True):
    """``peer`` would like our roster: answer with ``offer_roster``."""

    peer: str


class SessionLost(msgspec.Struct, frozen=True):
    """``seal`` no longer works for ``peer``; say ``Wanted`` if traffic waits."""

    peer: str
    reason: str


class Dropped(msgspec.Struct, frozen=True):
    """A control frame was not followed; for the log and the counters."""

    src: str
    reason: str


Effect = SendFrame | Ready | Confirm | RosterWanted | RosterOffered | RosterAsked | SessionLost | Dropped


def derive(split_key: bytes, *, mesh_id: str, src: str, dst: str, kid: bytes) -> tuple[bytes, bytes]:
    """Key and iv of one direction: HKDF-Expand-SHA256(split key, info, 44) = key(32) || iv(12).

    info = CBOR ["ew1-kk", mesh_id, src, dst, kid], text ids and a byte string; src seals, dst opens and
    chose the kid. The split key is Noise's own for that direction, a uniform 32-byte secret, so Extract is
    not needed (RFC 5869 section 3.3).
    """
    info = cbor2.dumps(["ew1-kk", mesh_id, src, dst, kid])
    okm = HKDFExpand(algorithm=hashes.SHA256(), length=KEY_BYTES + IV_BYTES, info=info).derive(split_key)
    return okm[:KEY_BYTES], okm[KEY_BYTES:]


def prologue(
    *, mesh_id: str, initiator: str, responder: str, attempt: bytes, h_i: bytes, h_r: bytes
) -> bytes:
    """CBOR [1, "ew-kk", mesh_id, id_i, id_r, attempt, h_i, h_r], the hashes as sent in m1."""
    return cbor2.dumps([1, "ew-kk", mesh_id, initiator, responder, attempt, h_i, h_r])


def key_hash(public: bytes) -> bytes:
    """What a control frame calls an X25519 key: the first 8 bytes of its SHA-256."""
    return hashlib.sha256(public).digest()[: control.HASH_BYTES]


class _OwnKey(msgspec.Struct, frozen=True):
    private: bytes
    public: bytes
    hash: bytes


class _Session(msgspec.Struct, eq=False):
    peer: str
    order: int  # when it was begun here; the highest proved one is sealed under
    initiator: bool
    own_key: bytes  # X25519 public keys that vouch for it
    peer_key: bytes
    own_kid: bytes  # we open under it
    peer_kid: bytes  # we seal under it
    boot_id: bytes  # the peer's
    seal: Callable[[int, bytes], bytes]
    open: Callable[[bytes], tuple[int, bytes]]
    born_ns: int
    used_ns: int
    until_ns: int  # our receive keys end (FOREVER while current)
    window: ReplayWindow = msgspec.field(default_factory=ReplayWindow)
    seq: int = 0  # the last number sealed
    rekey_seq: int = REKEY_SEQ
    rekey_ns: int = FOREVER
    proved: bool = False


class _Attempt(msgspec.Struct, eq=False):
    order: int
    id: bytes
    noise: KK
    message: bytes  # the Noise part of m1
    kid: bytes
    own: _OwnKey
    peer_key: bytes
    peer_hash: bytes
    resend_ns: int = FOREVER
    sends: int = 0


class _Peer(msgspec.Struct, eq=False):
    name: str
    wanted: bool = False  # traffic waits
    start_ns: int | None = None  # when to start an attempt
    patience: int = 0  # sends left for an attempt that nobody waits for
    combination: int = 0  # of listed keys, own and the peer's
    sends: int = 0  # of m1 in a row, over all attempts: the pause grows with it
    attempt: _Attempt | None = None
    started_ns: int = -FOREVER
    answered_ns: int = -FOREVER
    answers: dict[bytes, tuple[bytes, _Session]] = msgspec.field(
        default_factory=dict
    )  # attempt → m2's Noise part
    sessions: dict[bytes, _Session] = msgspec.field(
        default_factory=dict
    )  # own kid → all that we still open under
    current: _Session | None = None
    boot_id: bytes | None = None  # of the last Ready

    def due_ns(self) -> int:
        due = self.start_ns if self.start_ns is not None else FOREVER
        if self.attempt is not None:
            due = min(due, self.attempt.resend_ns)
        for session in self.sessions.values():
            due = min(due, session.until_ns)
        if self.current is not None:
            due = min(due, self.current.rekey_ns)
        return due

    @property
    def idle(self) -> bool:
        return not (self.wanted or self.attempt or self.sessions or self.start_ns is not None)


class Sessions:
    """All sessions of one process.

    Args:
        me, mesh_id: own node id; 16 hex digits.
        boot_id: 8 random bytes, new in every process.
        static: own X25519 private keys, newest first; read anew whenever needed.
        keys_of: the X25519 public keys the roster lists for a member, preferred first; empty: no member.
        context: (src, dst, kid, role) to the bytes bound to each parcel; role 0 from the initiator, 1 back.
        entropy: random bytes by number.   roster_version: of the roster in force, 0 if none.
        wall_ms: the wall clock, told to peers and never relied on.
        sessions_max: peers that can be sealed for at a time; beyond it the least recently used goes.
    """

    def __init__(
        self,
        *,
        me: str,
        mesh_id: str,
        boot_id: bytes,
        static: Sequence[bytes],
        keys_of: Callable[[str], Sequence[bytes]],
        context: Callable[[str, str, bytes, int], bytes],
        entropy: Callable[[int], bytes],
        roster_version: Callable[[], int],
        wall_ms: Callable[[], int],
        sessions_max: int = SESSIONS_MAX,
    ) -> None:
        assert len(boot_id) == 8, "a boot id has 8 bytes"
        assert static, "a member has a static key"
        self._me = me
        self._mesh_id = mesh_id
        self._boot_id = boot_id
        self._static = static
        self._keys_of = keys_of
        self._context = context
        self._entropy = entropy
        self._roster_version = roster_version
        self._wall_ms = wall_ms
        self._sessions_max = sessions_max

        self._peers: dict[str, _Peer] = {}
        self._sealing: dict[str, _Session] = {}  # peer → the session we seal under
        self._opening: dict[bytes, _Session] = {}  # own kid → session
        self._pending: dict[bytes, _Session] = {}  # the unproved ones among them, oldest first
        self._attempt_kids: set[bytes] = set()
        self._publics: dict[bytes, _OwnKey] = {}
        self._hints: dict[tuple[str, str], int] = {}
        self._order = 0
        self._credit_ns = BURST_NS  # for handshakes, all peers together
        self._credit_at_ns = 0
        self._now_ns = 0
        self._effects: list[Effect] = []
        # What is due when, over all peers: a heap of (moment, name) with an entry at or before the truth for
        # each peer that waits for something. Only what an event touched (`_stirred`) is looked at anew.
        self._moments: list[tuple[int, str]] = []
        self._planned: dict[str, int] = {}
        self._stirred: dict[str, None] = {}
        self._soonest_ns = FOREVER  # at the last look
        self.failures: Counter[str] = Counter()  # frames and parcels that were refused, by the topic's source

    # -- hot path

    def seal(self, now_ns: int, peer: str, plain: bytes) -> bytes:
        """A parcel for ``peer``. Raises: NoSession; BadInput: more than ``PLAIN_BYTES_MAX`` bytes."""
        session = self._sealing.get(peer)
        if session is None:
            raise NoSession(f"no session with {peer} yet", retry_after_s=0.5)
        seq = session.seq + 1
        if seq >= session.rekey_seq:
            self._worn(now_ns, session)
        session.seq = seq  # counted even if sealing fails: a number is never tried twice
        session.used_ns = now_ns
        return session.seal(seq, plain)

    def open(self, now_ns: int, src: str, frame: bytes) -> bytes:
        """The plain bytes of a parcel from ``src`` (the topic's) to us, once.

        Raises: ProtocolViolation: UnknownKid (a hint to the sender is queued), Replayed, or anything wrong.
        """
        session = self._opening.get(frame[10:18])
        if session is None or now_ns >= session.until_ns:
            raise self._unknown_kid(now_ns, src, frame)
        if session.peer != src:
            self._fail(src)
            raise ProtocolViolation(f"parcel under a key of {session.peer} came from {src}")
        try:
            seq, plain = session.open(frame)
        except ProtocolViolation:
            self._fail(src)
            raise
        if not session.window.accept(seq):
            self._fail(src)
            raise Replayed("parcel was opened before, or is too old")
        session.used_ns = now_ns
        if not session.proved:
            self._prove(now_ns, session)
        return plain

    def has(self, peer: str) -> bool:
        return peer in self._sealing

    def key_of(self, peer: str) -> bytes | None:
        """The X25519 key that ``peer`` proved to hold in the session now in use; None: there is none."""
        known = self._peers.get(peer)
        session = known.current if known else None
        return session.peer_key if session is not None and session.proved else None

    def boot_id_of(self, peer: str) -> bytes | None:
        """The boot id under which ``peer`` was last ready."""
        known = self._peers.get(peer)
        return known.boot_id if known else None

    # -- the machine

    def handle(self, now_ns: int, event: Event) -> list[Effect]:
        self._now_ns = now_ns
        match event:
            case FrameReceived(src, frame):
                self._stirred[src] = None
                try:
                    self._receive(now_ns, src, decode_control(frame))
                except ProtocolViolation as error:
                    self._fail(src)
                    self._effects.append(Dropped(src, error.cause))
            case Wanted(name):
                self._stirred[name] = None
                self._want(now_ns, name)
            case Unwanted(name):
                self._stirred[name] = None
                if peer := self._peers.get(name):
                    peer.wanted = False
                    peer.patience = SENDS_UNWANTED
            case RosterChanged():
                self._stirred.update(dict.fromkeys(self._peers))
                self._reroster(now_ns)
            case PeerForgotten(name):
                if peer := self._peers.pop(name, None):
                    self._lose(peer, "forgotten")
                    self._give_up(peer)
                    peer.start_ns = None
            case BootSeen(name, boot_id):
                self._stirred[name] = None
                peer = self._peers.get(name)
                if (
                    peer
                    and peer.current
                    and peer.current.boot_id != boot_id
                    and self._allow(now_ns, "heed", name)
                ):
                    self._ask(now_ns, peer)
        self._serve_due(now_ns)
        return self.drain()

    def tick(self, now_ns: int) -> list[Effect]:
        self._now_ns = now_ns
        if self._due() <= now_ns:
            self._serve_due(now_ns)
        return self.drain()

    def deadline_ns(self) -> int | None:
        if self._effects:
            return self._now_ns
        # Nobody was touched since the last look: what was due then can only have moved away.
        due = self._due() if self._stirred else self._soonest_ns
        return None if due >= FOREVER else due

    def drain(self) -> list[Effect]:
        """Effects that ``seal`` and ``open`` caused since the last call of handle, tick or drain."""
        effects, self._effects = self._effects, []
        return effects

    def ask_roster(self, now_ns: int, peer: str) -> list[Effect]:
        """Ask ``peer`` for its roster (kind 4), at most once in 10 s; anyone may be asked."""
        if self._allow(now_ns, "ask", peer):
            self._effects.append(self._hint(peer, control.ROSTER_WANTED, b""))
        return self.drain()

    def offer_roster(self, now_ns: int, peer: str, signed: bytes) -> list[Effect]:
        """Send ``peer`` our signed roster (kind 5), at most once in 10 s. Raises: BadInput: over 256 KiB."""
        if self._allow(now_ns, "offer", peer):
            self._effects.append(self._hint(peer, control.ROSTER, signed))
        return self.drain()

    def check(self) -> None:
        """The invariants; AssertionError if one is broken."""
        assert len(self._sealing) <= self._sessions_max and len(self._pending) <= PENDING_MAX
        everything = {kid: s for peer in self._peers.values() for kid, s in peer.sessions.items()}
        assert everything == self._opening, "every key belongs to one peer"
        assert not self._attempt_kids & self._opening.keys(), "kids are unique"
        assert self._attempt_kids == {p.attempt.kid for p in self._peers.values() if p.attempt}
        assert self._pending == {kid: s for kid, s in self._opening.items() if not s.proved}
        for name, peer in self._peers.items():
            assert self._sealing.get(name) is peer.current
            if peer.current:
                assert peer.current.proved and peer.current.own_kid in peer.sessions
                assert all(s.order <= peer.current.order for s in peer.sessions.values() if s.proved)
                assert peer.current.until_ns == FOREVER and peer.current.seq < SEQ_LIMIT
                assert peer.boot_id == peer.current.boot_id
            for kid, session in peer.sessions.items():
                assert kid == session.own_kid and session.peer == name
                assert session is peer.current or session.until_ns < FOREVER, "old keys end"
                assert session.proved or session.seq == 0, "unproved keys are not used"

    # -- control frames

    def _receive(self, now_ns: int, src: str, frame: Control) -> None:
        if src == self._me:
            raise ProtocolViolation("control frame from ourselves")
        match frame.kind:
            case control.M1:
                self._answer(now_ns, src, frame)
            case control.M2:
                self._finish(now_ns, src, frame)
            case control.UNKNOWN_KID:
                peer = self._peers.get(src)
                if len(frame.body) != KID_BYTES:
                    raise ProtocolViolation("unknown-kid hint without a kid")
                ours = peer is not None and peer.current is not None and peer.current.peer_kid == frame.body
                if peer and ours and peer.attempt is None and self._allow(now_ns, "heed", src):
                    self._ask(now_ns, peer)
            case control.ROSTER_WANTED:
                if self._allow(now_ns, "asked", src):
                    self._effects.append(RosterAsked(src))
            case control.ROSTER:
                if self._allow(now_ns, "offered", src):
                    self._effects.append(RosterOffered(src, frame.body))

    def _answer(self, now_ns: int, src: str, frame: Control) -> None:
        """m1: make keys, answer m2, use them when the initiator has proved that it has them."""
        keys = self._keys_of(src)
        peer_key = next((key for key in keys if key_hash(key) == frame.sender_hash), None)
        own = next((own for own in self._own_keys() if own.hash == frame.receiver_hash), None)
        if peer_key is None or own is None or frame.roster_version > self._roster_version():
            self._want_roster(now_ns, src, frame.roster_version)
            unknown = "member" if not keys else "key" if peer_key is None or own is None else "roster"
            raise ProtocolViolation(f"handshake by an unknown {unknown}")
        peer = self._peer(src)
        if frame.attempt in peer.answers:  # m2 was lost, or m1 was doubled
            message, _ = peer.answers[frame.attempt]
            self._effects.append(
                self._control(src, control.M2, frame.attempt, own.hash, frame.sender_hash, message)
            )
            return
        if peer.attempt is not None and self._me < src:
            return  # crossing: ours wins, and will be sent again
        if now_ns - peer.answered_ns < SPACING_NS or not self._spend(now_ns, urgent=peer.wanted):
            raise ProtocolViolation("handshakes come too fast")
        peer.answered_ns = now_ns

        noise = KK(
            "responder",
            own.private,
            peer_key,
            self._prologue(src, self._me, frame.attempt, frame.sender_hash, own.hash),
            self._entropy(32),
        )
        boot_id, _, peer_kid = decode_payload(noise.read(frame.body))
        if peer.attempt is not None:  # crossing: theirs wins
            self._give_up(peer)
            self._ask(now_ns, peer)
        own_kid = self._new_kid()
        message = noise.write(encode_payload(self._boot_id, self._wall_ms(), own_kid))
        self._order += 1
        session = self._session(
            now_ns, src, self._order, noise, own.public, peer_key, own_kid, peer_kid, boot_id, initiator=False
        )
        session.until_ns = now_ns + OLD_KEYS_NS
        self._keep(peer, session)
        self._pending[own_kid] = session
        peer.answers[frame.attempt] = (message, session)
        if peer.start_ns is not None:
            peer.start_ns = max(peer.start_ns, now_ns + CONFIRM_NS)
        unproved = [s for s in peer.sessions.values() if not s.proved]
        for stale in unproved[:-PENDING_PEER_MAX]:
            self._drop(peer, stale)
        while len(self._pending) > PENDING_MAX:
            stale = next(iter(self._pending.values()))
            self._drop(self._peers[stale.peer], stale)
        self._effects.append(
            self._control(src, control.M2, frame.attempt, own.hash, frame.sender_hash, message)
        )

    def _finish(self, now_ns: int, src: str, frame: Control) -> None:
        """m2: the peer is alive and has the keys; use them at once."""
        peer = self._peers.get(src)
        attempt = peer.attempt if peer else None
        if peer is None or attempt is None or attempt.id != frame.attempt:
            return  # late or doubled
        if frame.sender_hash != attempt.peer_hash or frame.receiver_hash != attempt.own.hash:
            raise ProtocolViolation("handshake answer by another key")
        boot_id, _, peer_kid = decode_payload(attempt.noise.read(frame.body))
        if frame.roster_version > self._roster_version():
            self._want_roster(now_ns, src, frame.roster_version)
        session = self._session(
            now_ns, src, attempt.order, attempt.noise, attempt.own.public, attempt.peer_key,
            attempt.kid, peer_kid, boot_id, initiator=True,
        )  # fmt: skip
        self._give_up(peer)
        self._keep(peer, session)
        session.proved = True
        self._use(now_ns, peer, session)

    def _unknown_kid(self, now_ns: int, src: str, frame: bytes) -> ProtocolViolation:
        self._fail(src)
        try:
            kid = peek_kid(frame)
        except ProtocolViolation as error:
            return error
        if self._keys_of(src) and self._allow(now_ns, "unknown", src):
            self._effects.append(self._hint(src, control.UNKNOWN_KID, kid))
            if src not in self._sealing:  # the hint may be lost: then we start
                peer = self._peer(src)
                self._ask(now_ns, peer, after_ns=CONFIRM_NS)
                self._stirred[src] = None
        return UnknownKid(f"parcel from {src} is under keys that are not ours")

    # -- what becomes of sessions

    def _prove(self, now_ns: int, session: _Session) -> None:
        """The first good parcel: the initiator has the keys too."""
        session.proved = True
        del self._pending[session.own_kid]
        peer = self._peers[session.peer]
        self._stirred[session.peer] = None
        if peer.current is not None and peer.current.order > session.order:
            session.until_ns = now_ns + OLD_KEYS_NS  # proved late: a newer one is in use
            return
        self._use(now_ns, peer, session)

    def _use(self, now_ns: int, peer: _Peer, session: _Session) -> None:
        former, peer.current = peer.current, session
        self._sealing[peer.name] = session
        if former is not None:
            former.until_ns = now_ns + OLD_KEYS_NS
        for stale in [s for s in peer.sessions.values() if s.order < session.order]:
            if stale.boot_id != session.boot_id:  # a former life of the peer
                self._drop(peer, stale)
        old = [s for s in peer.sessions.values() if s.proved and s is not session]
        for stale in old[:-OLD_PEER_MAX]:
            self._drop(peer, stale)
        session.until_ns = FOREVER
        session.rekey_ns = session.born_ns + REKEY_NS + (0 if session.initiator else REKEY_RESPONDER_NS)
        if not self._is_newest(session):  # a handshake begun before a renewal ended after it
            session.rekey_ns = now_ns + NEWER_NS
        self._give_up(peer)
        peer.start_ns = None
        peer.wanted = False
        peer.combination = 0
        fresh, peer.boot_id = session.boot_id != peer.boot_id, session.boot_id
        self._effects.append(Ready(peer.name, session.boot_id, fresh))
        if session.initiator:
            self._effects.append(Confirm(peer.name))
        if len(self._sealing) > self._sessions_max:
            others = (s for s in self._sealing.values() if s is not session)
            self._lose(self._peers[min(others, key=lambda s: (s.used_ns, s.order)).peer], "too many sessions")

    def _is_newest(self, session: _Session) -> bool:
        """Whether it rests on the first key of both sides."""
        listed = self._keys_of(session.peer)
        return not listed or (session.peer_key, session.own_key) == (listed[0], self._own_keys()[0].public)

    def _worn(self, now_ns: int, session: _Session) -> None:
        """Many parcels under one key: renew it in time, end it at the last number."""
        peer = self._peers[session.peer]
        self._stirred[session.peer] = None
        if session.seq + 1 >= SEQ_LIMIT:
            self._lose(peer, "its numbers are used up")
            raise NoSession(f"the session with {peer.name} is used up", retry_after_s=0.5)
        session.rekey_seq = min(SEQ_LIMIT, session.rekey_seq + REKEY_SEQ_AGAIN)
        self._ask(now_ns, peer)

    def _aged(self, now_ns: int, peer: _Peer, session: _Session) -> None:
        """An hour is over: renew what is in use, end what is not."""
        age_ns = now_ns - session.born_ns
        if now_ns - session.used_ns >= OLD_KEYS_NS:
            self._lose(peer, "idle")
        elif age_ns >= LIFE_NS_MAX:
            self._lose(peer, "could not be renewed")
        else:
            session.rekey_ns = now_ns + OLD_KEYS_NS
            self._ask(now_ns, peer)

    def _reroster(self, now_ns: int) -> None:
        own_keys = self._own_keys()
        own_publics = {own.public for own in own_keys}
        for name in sorted(self._peers):
            peer = self._peers[name]
            keys = self._keys_of(name)
            attempt = peer.attempt
            if attempt and (attempt.peer_key not in keys or attempt.own.public not in own_publics):
                self._give_up(peer)
                self._ask(now_ns, peer)
            had = peer.current
            for session in list(peer.sessions.values()):
                if session is not had and session.peer_key not in keys:
                    self._drop(peer, session)
            if not keys:
                self._lose(peer, "no longer on the roster")
                peer.start_ns = None
                continue
            if had and had.peer_key not in keys:
                self._lose(peer, "its key is no longer on the roster")
            if had and (had.peer_key != keys[0] or had.own_key != own_keys[0].public):
                self._ask(now_ns, peer)
            if peer.wanted and peer.current is None:
                self._ask(now_ns, peer)

    def _lose(self, peer: _Peer, reason: str) -> None:
        """Forget all keys shared with ``peer``; what it was known by stays."""
        had = peer.current
        for session in list(peer.sessions.values()):
            self._drop(peer, session)
        if had is not None:
            self._effects.append(SessionLost(peer.name, reason))

    def _drop(self, peer: _Peer, session: _Session) -> None:
        del self._opening[session.own_kid]
        del peer.sessions[session.own_kid]
        self._pending.pop(session.own_kid, None)
        for attempt in [a for a, (_, s) in peer.answers.items() if s is session]:
            del peer.answers[attempt]
        if peer.current is session:
            peer.current = None
            del self._sealing[peer.name]

    def _keep(self, peer: _Peer, session: _Session) -> None:
        peer.sessions[session.own_kid] = session
        self._opening[session.own_kid] = session

    # -- own attempts

    def _want(self, now_ns: int, name: str) -> None:
        if name == self._me or name in self._sealing:
            return
        peer = self._peer(name)
        peer.wanted = True
        if not self._keys_of(name):
            self._want_roster(now_ns, name, self._roster_version() + 1)
            return
        waits = any(not s.proved and now_ns - s.born_ns < CONFIRM_NS for s in peer.sessions.values())
        self._ask(now_ns, peer, after_ns=CONFIRM_NS if waits else 0)

    def _ask(self, now_ns: int, peer: _Peer, after_ns: int = 0) -> None:
        """Have an attempt started, as soon as the limits allow."""
        peer.patience = SENDS_UNWANTED
        if peer.attempt is None:
            at_ns = max(now_ns + after_ns, peer.started_ns + SPACING_NS)
            peer.sends = 0 if peer.start_ns is None else peer.sends
            peer.start_ns = at_ns if peer.start_ns is None else min(peer.start_ns, at_ns)

    def _start(self, now_ns: int, peer: _Peer) -> None:
        peer.start_ns = None
        keys = self._keys_of(peer.name)
        if not keys:
            return  # RosterChanged will start it, if traffic still waits
        if not self._spend(now_ns, urgent=peer.wanted):
            peer.start_ns = now_ns + COST_NS
            return
        combinations = [(own, key) for key in keys for own in self._own_keys()]
        own, peer_key = combinations[peer.combination % len(combinations)]
        peer.started_ns = now_ns
        attempt_id, peer_hash, kid = self._entropy(control.ATTEMPT_BYTES), key_hash(peer_key), self._new_kid()
        noise = KK(
            "initiator",
            own.private,
            peer_key,
            self._prologue(self._me, peer.name, attempt_id, own.hash, peer_hash),
            self._entropy(32),
        )
        try:
            message = noise.write(encode_payload(self._boot_id, self._wall_ms(), kid))
        except ProtocolViolation as error:  # a degenerate key on the roster
            self._fail(peer.name)
            self._effects.append(Dropped(peer.name, error.cause))
            return
        self._order += 1
        self._attempt_kids.add(kid)
        peer.attempt = _Attempt(self._order, attempt_id, noise, message, kid, own, peer_key, peer_hash)
        self._send_m1(now_ns, peer, peer.attempt)

    def _send_again(self, now_ns: int, peer: _Peer, attempt: _Attempt) -> None:
        if not peer.wanted:
            peer.patience -= 1
            if peer.patience <= 0:
                self._give_up(peer)
                return
        several = len(self._keys_of(peer.name)) * len(self._static) > 1
        if attempt.sends >= (SENDS_A_COMBINATION if several else SENDS_AN_ATTEMPT):
            peer.combination += 1
            self._give_up(peer)
            peer.start_ns = now_ns
            return
        self._send_m1(now_ns, peer, attempt)

    def _send_m1(self, now_ns: int, peer: _Peer, attempt: _Attempt) -> None:
        attempt.resend_ns = now_ns + RETRY_NS[min(peer.sends, len(RETRY_NS) - 1)]
        attempt.sends += 1
        peer.sends += 1
        self._effects.append(
            self._control(
                peer.name, control.M1, attempt.id, attempt.own.hash, attempt.peer_hash, attempt.message
            )
        )

    def _give_up(self, peer: _Peer) -> None:
        if peer.attempt is not None:
            self._attempt_kids.discard(peer.attempt.kid)
            peer.attempt = None

    # -- time

    def _due(self) -> int:
        """The earliest moment of all peers: O(log n) for each that was touched since the last look."""
        if self._stirred:
            stirred, self._stirred = self._stirred, {}
            for name in stirred:
                peer = self._peers.get(name)
                if peer is not None:
                    self._plan(name, self._next_ns(peer))
        moments, planned = self._moments, self._planned
        while moments:
            at_ns, name = moments[0]
            peer = self._peers.get(name)
            if peer is None or planned.get(name) != at_ns:  # gone, or it has an earlier entry
                heappop(moments)
                if peer is None:
                    planned.pop(name, None)
                continue
            due = self._next_ns(peer)
            if due <= at_ns:
                self._soonest_ns = at_ns
                return at_ns
            heappop(moments)
            del planned[name]
            self._plan(name, due)
        self._soonest_ns = FOREVER
        return FOREVER

    def _next_ns(self, peer: _Peer) -> int:
        """When to look at this peer again; one of whom nothing is left but its limits goes after them."""
        if peer.idle and peer.boot_id is None:
            return max(peer.started_ns, peer.answered_ns) + SPACING_NS
        return peer.due_ns()

    def _plan(self, name: str, due: int) -> None:
        before = self._planned.get(name)
        if due < FOREVER and (before is None or due < before):
            self._planned[name] = due
            heappush(self._moments, (due, name))
            if len(self._moments) > 64 + 4 * len(self._planned):
                self._moments = [(at_ns, each) for each, at_ns in self._planned.items()]
                heapify(self._moments)

    def _serve_due(self, now_ns: int) -> None:
        names: dict[str, None] = {}
        while self._due() <= now_ns:
            _, name = heappop(self._moments)
            del self._planned[name]
            names[name] = None
        due = [peer for peer in map(self._peers.get, names) if peer is not None]
        for peer in sorted(due, key=lambda peer: (not peer.wanted, peer.name)):
            for session in list(peer.sessions.values()):
                if session.until_ns <= now_ns:
                    self._drop(peer, session)
            if peer.current is not None and peer.current.rekey_ns <= now_ns:
                self._aged(now_ns, peer, peer.current)
            if peer.attempt is not None and peer.attempt.resend_ns <= now_ns:
                self._send_again(now_ns, peer, peer.attempt)
            if peer.start_ns is not None and peer.start_ns <= now_ns:
                self._start(now_ns, peer)
            quiet = now_ns - max(peer.started_ns, peer.answered_ns) >= SPACING_NS  # the limits need the peer
            if quiet and peer.idle and peer.boot_id is None:
                del self._peers[peer.name]
            else:
                self._stirred[peer.name] = None

    def _spend(self, now_ns: int, *, urgent: bool) -> bool:
        """Take the price of one handshake from what 50 a second allow."""
        credit_ns = min(BURST_NS, self._credit_ns + max(0, now_ns - self._credit_at_ns))
        self._credit_at_ns = now_ns
        enough = credit_ns >= (COST_NS if urgent else COST_NS + RESERVE_NS)
        self._credit_ns = credit_ns - COST_NS if enough else credit_ns
        return enough

    def _allow(self, now_ns: int, what: str, peer: str) -> bool:
        """One in 10 s for each kind of hint, in or out, and each name."""
        last_ns = self._hints.get((what, peer))
        if last_ns is not None and now_ns - last_ns < HINT_NS:
            return False
        self._hints.pop((what, peer), None)
        while len(self._hints) >= HINTS_MAX:  # names from topics: any number of them, if the broker lies
            del self._hints[next(iter(self._hints))]
        self._hints[(what, peer)] = now_ns
        return True

    # -- small parts

    def _peer(self, name: str) -> _Peer:
        peer = self._peers.get(name)
        if peer is None:
            peer = self._peers[name] = _Peer(name)
        return peer

    def _own_keys(self) -> list[_OwnKey]:
        """Own keys, those that the roster lists first, else newest first."""
        own_keys = []
        for private in self._static:
            own = self._publics.get(private)
            if own is None:
                public = public_of(private)
                own = self._publics[private] = _OwnKey(private, public, key_hash(public))
            own_keys.append(own)
        if len(own_keys) > 1:
            listed = self._keys_of(self._me)
            own_keys.sort(key=lambda own: own.public not in listed)
        return own_keys

    def _new_kid(self) -> bytes:
        while True:
            kid = self._entropy(KID_BYTES)
            if kid not in self._opening and kid not in self._attempt_kids:
                return kid

    def _session(
        self,
        now_ns: int,
        name: str,
        order: int,
        noise: KK,
        own_key: bytes,
        peer_key: bytes,
        own_kid: bytes,
        peer_kid: bytes,
        boot_id: bytes,
        *,
        initiator: bool,
    ) -> _Session:
        k_i2r, k_r2i = noise.split()
        out_role, in_role = (0, 1) if initiator else (1, 0)
        out_split, in_split = (k_i2r, k_r2i) if initiator else (k_r2i, k_i2r)
        me, mesh = self._me, self._mesh_id
        out_key, out_iv = derive(out_split, mesh_id=mesh, src=me, dst=name, kid=peer_kid)
        in_key, in_iv = derive(in_split, mesh_id=mesh, src=name, dst=me, kid=own_kid)
        return _Session(
            peer=name,
            order=order,
            initiator=initiator,
            own_key=own_key,
            peer_key=peer_key,
            own_kid=own_kid,
            peer_kid=peer_kid,
            boot_id=boot_id,
            seal=Sealer(out_key, out_iv, peer_kid, self._context(me, name, peer_kid, out_role)).seal,
            open=Opener(in_key, in_iv, own_kid, self._context(name, me, own_kid, in_role)).open,
            born_ns=now_ns,
            used_ns=now_ns,
            until_ns=FOREVER,
        )

    def _prologue(self, initiator: str, responder: str, attempt: bytes, h_i: bytes, h_r: bytes) -> bytes:
        return prologue(
            mesh_id=self._mesh_id, initiator=initiator, responder=responder, attempt=attempt, h_i=h_i, h_r=h_r
        )

    def _control(
        self, peer: str, kind: int, attempt: bytes, own_hash: bytes, peer_hash: bytes, body: bytes
    ) -> SendFrame:
        frame = Control(kind, attempt, self._roster_version(), own_hash, peer_hash, body)
        return SendFrame(peer, frame.encode())

    def _hint(self, peer: str, kind: int, body: bytes) -> SendFrame:
        keys = self._keys_of(peer)
        peer_hash = key_hash(keys[0]) if keys else control.NO_HASH
        return self._control(
            peer, kind, bytes(control.ATTEMPT_BYTES), self._own_keys()[0].hash, peer_hash, body
        )

    def _want_roster(self, now_ns: int, peer: str, version: int) -> None:
        if self._allow(now_ns, "roster", peer):
            self._effects.append(RosterWanted(peer, version))

    def _fail(self, src: str) -> None:
        known = src in self.failures or len(self.failures) < FAILURES_MAX
        self.failures[src if known else ""] += 1
