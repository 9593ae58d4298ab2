"""Groupcast: presence said once for everybody, under the mesh's group key; and how that key gets about.

    seal([Beat, FleetDigest?]) -> one frame for p/<me>
    delivered(p/<src>, frame)  -> open (group) -> unpack -> is it presence? is it news? -> Heard(src, message)
    seal_batch(StateBatch)     -> one frame for g/mesh/<me>;  batch_delivered(g/mesh/<src>) -> StateBatch
    unknown epoch, or none     -> Tell(gateway, GroupKeysWanted), then others -> came -> Keep, Adopted

A core: it composes ``security.group`` with the codec. What is said this way is proved to come from *a* member
for this topic, not from which one, so a frame holds one Beat, first, and from the gateway a FleetDigest;
anything else in it is a violation and costs the whole frame. Work, results, code and keys go pairwise.
A batch of table changes is its author's by its own signature, and applied once whoever says it how often: it
may be said to the group, on a topic of its own.

News. Frames of one source are ordered by their Beat's (incarnation, seq); a frame that is not above the
highest taken is stale and dropped with all that is in it. This covers replays that the windows below no
longer know (see ``security.group``), but a process that just started has no memory: a broker may replay
presence to it until the first true frame. A member that forges another's beat with a high incarnation
silences that one's group beats here, until a beat heard in a session (``proved``) sets the order right.

Keys. Whoever holds no epoch, or hears of a higher one, asks the gateway, then the member whose frame told of
it, then others with a session: one ask a second, at most four a round, one in 10 s a peer. The claim of a
frame under an unknown epoch is unproved, so it causes one round and no more. Only active members of the
current roster are answered, with the current epoch alone, if it is above theirs; a member that shows us a
lower one is answered too. An epoch is persisted when it is adopted: a node that reboots while the gateway
is away still reads its group.

Not here: when to beat (``membership.heartbeat``), when to make an epoch (``gateway.epochs``), topics' links.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from edge_node.transport.channel import Heard
from edge_node.wire.codec import Unsupported, encode_message, group_context, pack, unpack
from edge_node.wire.ids import GATEWAY
from edge_node.wire.messages import Beat, FleetDigest, GroupKeys, GroupKeysWanted, Message, StateBatch
from edge_node.wire.topics import EVERYBODY, Group, Presence, topic_for
from security import group
from security.envelope import Opener
from security.errors import ProtocolViolation
from security.roster import MEMBERS_MAX

SECOND: Final = 1_000_000_000
GROUP: Final = EVERYBODY  # the one group
FRAME_BYTES_MAX: Final = 4 * 1024  # a beat and a digest of 1 KiB, twice over; refused before any work
ASK_NS: Final = 1 * SECOND  # between two asks
ASK_PEER_NS: Final = 10 * SECOND  # between two asks of one peer, and between two rounds
ASKS_MAX: Final = 4  # a round
ANSWER_NS: Final = 5 * SECOND  # between two answers to one peer: it asks every 10 s
VIOLATIONS_MAX: Final = 256  # different causes counted


class Tell(msgspec.Struct, frozen=True):
    """Effect: send this in the pairwise session with *peer*, acknowledged; make one if there is none."""

    peer: str
    message: Message


class Keep(msgspec.Struct, frozen=True):
    """Effect: ``KeyStore.save_group_secrets(stored)``; a node waits for nothing (unsaved: asked again)."""

    stored: bytes


class Adopted(msgspec.Struct, frozen=True):
    """Effect: a higher epoch holds; frames go out under it. ``shown_by``: who handed it to us."""

    epoch: int
    shown_by: str


Effect = Tell | Keep | Adopted


class Reading(msgspec.Struct, frozen=True):
    """How a frame is opened and read. Both are pure functions of secrets and bytes, so a process in which
    many members live may remember what they gave; whoever lacks the secret cannot ask for it.
    """

    opener: Callable[[bytes, bytes, bytes, bytes], Opener] = Opener
    unpack: Callable[[bytes], tuple[int, list[Any]]] = unpack


class Groupcast:
    """The mesh's group, at one member; a core."""

    def __init__(
        self,
        *,
        me: str,
        mesh_id: str,
        root_spki_sha256: bytes | str,
        is_member: Callable[[str], bool],
        entropy: Callable[[int], bytes],
        reading: Reading | None = None,
    ) -> None:
        """``root_spki_sha256``: the pin. ``is_member``: does the current roster list this id as active?
        ``entropy(n)``: n random bytes, for stream ids.   ``reading``: if not each frame anew."""
        reading = reading or Reading()
        self._unpack = reading.unpack
        self._me = me
        self._mesh = mesh_id
        self._is_member = is_member
        self._epochs = group.Epochs(mesh_id=mesh_id, group=GROUP, root_spki_sha256=root_spki_sha256)
        context = group_context(mesh_id)
        self._sender = group.GroupSender(me, self._epochs, context, entropy=entropy)
        self._receiver = group.GroupReceiver(
            self._epochs, context, is_member=is_member, opener=reading.opener
        )
        self.topic = topic_for(Presence(mesh_id, me))
        """Where ``seal``'s frames belong."""
        self.group_topic = topic_for(Group(mesh_id, GROUP, me))
        """Where ``seal_batch``'s frames belong."""
        self._newest: dict[str, tuple[int, int]] = {}  # (incarnation, seq) of the last frame taken
        self._ready: dict[str, None] = {}  # peers with a session; ordered, unlike a set
        self._asked_ns: dict[str, int] = {}
        self._answered_ns: dict[str, int] = {}
        self._claimed = 0  # the highest epoch heard of
        self._round: deque[str] = deque()  # peers still to be asked
        self._ask_ns: int | None = None  # when the next of them is, or a new round begins
        self._last_ask_ns: int | None = None
        self._begun_ns: int | None = None
        self.violations: Counter[str] = Counter()
        self.stale = 0
        self.outlived = ""
        """Whose frame was of an earlier life than the newest heard; the caller clears it."""
        self.unsupported = 0
        self.unknown_epochs = 0

    @property
    def current(self) -> group.Epoch | None:
        """The epoch that frames go out under."""
        return self._epochs.current

    def restore(self, now_ns: int, stored: bytes) -> str | None:
        """Take back what ``Keep`` saved; the cause if it is damaged (then keys are asked for)."""
        try:
            self._epochs.restore(now_ns, stored)
        except ProtocolViolation as violation:
            return violation.cause
        return None

    # -- presence ----------------------------------------------------------------------------------

    def seal(self, now_ns: int, messages: Sequence[Message]) -> bytes | None:
        """One frame for ``topic``: a Beat, then, from the gateway, a FleetDigest. None: no epoch yet."""
        assert messages and type(messages[0]) is Beat, "a frame is ordered by its beat"
        assert [type(one) for one in messages[1:]] in ([], [FleetDigest]), "nothing else is said to a group"
        return self._sender.seal(self.topic, pack(1, [(0, encode_message(one)) for one in messages]))

    def delivered(self, now_ns: int, topic: Presence, payload: bytes) -> list[Heard]:
        """What a frame on a presence topic says, if it is good and news.

        An empty payload (a last will) is the caller's to look at first. Our own frames, which a subscriber to
        all of presence gets back, are passed over.
        """
        src = topic.src
        if src == self._me:
            return []
        try:
            if topic.mesh != self._mesh:
                raise ProtocolViolation("presence of another mesh")
            if len(payload) > FRAME_BYTES_MAX:
                raise ProtocolViolation("presence frame is too large")
            plain = self._receiver.open(now_ns, topic_for(topic), src, payload)
            if isinstance(plain, group.EpochUnknown):
                self.unknown_epochs += 1
                self._want(now_ns, plain.epoch, src)
                return []
            return self._news(src, self._unpack(plain)[1])
        except ProtocolViolation as violation:
            self._violated(violation.cause)
            return []

    def seal_batch(self, now_ns: int, batch: StateBatch) -> bytes | None:
        """One frame for ``group_topic``. None: no epoch yet."""
        return self._sender.seal(self.group_topic, pack(1, [(0, encode_message(batch))]))

    def batch_delivered(self, now_ns: int, topic: Group, payload: bytes) -> StateBatch | None:
        """What a frame on a group's topic says; None: nothing that can be opened, or our own."""
        src = topic.src
        if src == self._me:
            return None
        try:
            if topic.mesh != self._mesh or topic.group != GROUP:
                raise ProtocolViolation("frame of another group")
            plain = self._receiver.open(now_ns, topic_for(topic), src, payload)
            if isinstance(plain, group.EpochUnknown):
                self.unknown_epochs += 1
                self._want(now_ns, plain.epoch, src)
                return None
            items = self._unpack(plain)[1]
            if len(items) != 1 or items[0][0] != 0:
                raise ProtocolViolation("a group frame holds one batch")
            message: Any = items[0][1]
            if type(message) is Unsupported:
                self.unsupported += 1
                return None
            if type(message) is not StateBatch:
                raise ProtocolViolation(f"{type(message).__name__} has no place in this group frame")
            return message
        except ProtocolViolation as violation:
            self._violated(violation.cause)
            return None

    def proved(self, peer: str, beat: Beat) -> None:
        """A beat came in the session with *peer*: its place in the order outranks what group frames said."""
        self._newest[peer] = (beat.incarnation, beat.seq)

    def _news(self, src: str, items: list[tuple[int, Any]]) -> list[Heard]:
        heard: list[Heard] = []
        beat: Beat | None = None
        for n, message in items:
            kind = type(message)
            if n != 0:
                raise ProtocolViolation("numbered message in a group frame")
            if kind is Unsupported:
                self.unsupported += 1
            elif kind is Beat and beat is None:
                beat = message
                heard.append(Heard(src, message))
            elif kind is FleetDigest and src == GATEWAY and len(heard) == 1:
                heard.append(Heard(src, message))
            else:
                raise ProtocolViolation(f"{kind.__name__} has no place in this group frame")
        if beat is None:
            raise ProtocolViolation("group frame without a beat")
        order = (beat.incarnation, beat.seq)
        newest = self._newest.get(src, (-1, -1))
        if order <= newest:
            self.stale += 1
            if beat.incarnation < newest[0]:
                self.outlived = src
            return []
        self._room(self._newest)
        self._newest[src] = order
        return heard

    # -- keys --------------------------------------------------------------------------------------

    def ready(self, now_ns: int, peer: str) -> None:
        """There is a session with *peer*; it may be asked from now on."""
        self._ready[peer] = None
        if self._epochs.current is None:
            self._asked_ns.pop(peer, None)  # a new session: what was asked in the last may be lost
            self._begin(now_ns, peer)

    def lost(self, peer: str) -> None:
        """There is no session with *peer* any more."""
        self._ready.pop(peer, None)

    def forget(self, peer: str) -> None:
        """The current roster does not list *peer* any more."""
        self._receiver.forget(peer)
        for table in (self._newest, self._ready, self._asked_ns, self._answered_ns):
            table.pop(peer, None)

    def asked(self, now_ns: int, peer: str, wanted: GroupKeysWanted) -> list[Effect]:
        """*peer* wants keys: the current epoch, if it may have it and has a lower one."""
        if wanted.group != GROUP:
            self._violated("keys of an unknown group wanted")
            return []
        if wanted.epoch > self._epochs.number:
            self._want(now_ns, wanted.epoch, peer)
            return []
        return self._answer(now_ns, peer) if wanted.epoch < self._epochs.number else []

    def came(self, now_ns: int, peer: str, keys: GroupKeys) -> list[Effect]:
        """*peer* handed us an epoch (the gateway's own new one comes this way too, from itself)."""
        if peer != self._me and not self._is_member(peer):
            self._violated("keys from a stranger")
            return []
        try:
            result = self._epochs.adopt(now_ns, keys.grant, keys.secret)
        except ProtocolViolation as violation:
            self._violated(violation.cause)
            return []
        match result:
            case group.Adopted(epoch):
                if epoch.number >= self._claimed:
                    self._round.clear()
                if not self._round:
                    self._ask_ns = None
                return [Keep(self._epochs.to_bytes()), Adopted(epoch.number, peer)]
            case group.Lower() if peer != self._me:
                return self._answer(now_ns, peer)
        return []

    def _answer(self, now_ns: int, peer: str) -> list[Effect]:
        current = self._epochs.current
        last_ns = self._answered_ns.get(peer)
        if current is None or not self._is_member(peer):
            return []
        if last_ns is not None and now_ns < last_ns + ANSWER_NS:
            return []
        self._room(self._answered_ns)
        self._answered_ns[peer] = now_ns
        return [Tell(peer, GroupKeys(current.grant, current.secret))]

    def _want(self, now_ns: int, epoch: int, claimant: str) -> None:
        """Somebody says that there is a higher epoch; nothing proves it."""
        self._claimed = max(self._claimed, epoch) if self._round else epoch
        if not self._round and (self._begun_ns is None or now_ns >= self._begun_ns + ASK_NS):
            self._begin(now_ns, claimant)

    def _begin(self, now_ns: int, first: str | None = None) -> None:
        """Plan a round: the gateway, *first*, then others with a session, the longest unasked first."""
        self._begun_ns = now_ns
        wished = dict.fromkeys([GATEWAY] if GATEWAY in self._ready else [])
        if first is not None:
            wished[first] = None
        wished |= dict.fromkeys(sorted(self._ready, key=lambda peer: self._asked_ns.get(peer, -1)))
        self._round = deque([peer for peer in wished if self._may_ask(now_ns, peer)][:ASKS_MAX])
        if not self._round:
            self._ask_ns = self._again_ns(now_ns)
        elif self._last_ask_ns is None:
            self._ask_ns = now_ns
        else:
            self._ask_ns = max(now_ns, self._last_ask_ns + ASK_NS)

    def _may_ask(self, now_ns: int, peer: str) -> bool:
        last_ns = self._asked_ns.get(peer)
        return (
            peer != self._me
            and self._is_member(peer)
            and (last_ns is None or now_ns >= last_ns + ASK_PEER_NS)
        )

    def _again_ns(self, now_ns: int) -> int | None:
        """When the next round begins by itself: only while we have no epoch and there is someone to ask."""
        if self._epochs.current is not None or not self._ready:
            return None
        return now_ns + ASK_PEER_NS

    def _violated(self, cause: str) -> None:
        known = cause in self.violations or len(self.violations) < VIOLATIONS_MAX
        self.violations[cause if known else "other"] += 1

    def _room(self, table: dict[str, Any]) -> None:
        """At most as many entries as a roster has members, whatever became of ``forget``."""
        if len(table) >= MEMBERS_MAX:
            for gone in [name for name in table if not self._is_member(name)]:
                del table[gone]

    # -- time --------------------------------------------------------------------------------------

    def tick(self, now_ns: int) -> list[Effect]:
        """The next ask, if one is due; the previous epoch's end."""
        self._epochs.tick(now_ns)
        if self._ask_ns is None or now_ns < self._ask_ns:
            return []
        if not self._round and self._epochs.current is None:
            self._begin(now_ns)
        self._ask_ns = None
        while self._round:
            peer = self._round.popleft()
            if self._may_ask(now_ns, peer):
                self._room(self._asked_ns)
                self._asked_ns[peer] = self._last_ask_ns = now_ns
                self._ask_ns = now_ns + ASK_NS if self._round else self._again_ns(now_ns)
                return [Tell(peer, GroupKeysWanted(GROUP, self._epochs.number))]
        self._ask_ns = self._again_ns(now_ns)
        return []

    def deadline_ns(self) -> int | None:
        ask_ns, end_ns = self._ask_ns, self._epochs.deadline_ns()
        if ask_ns is None or end_ns is None:
            return end_ns if ask_ns is None else ask_ns
        return ask_ns if ask_ns < end_ns else end_ns

    def check(self) -> None:
        """Invariants; raises AssertionError."""
        assert len(self._round) <= ASKS_MAX
        assert not self._round or self._ask_ns is not None, "a round that nobody would go on with"
        assert len(self._newest) <= MEMBERS_MAX + 1 and len(self._asked_ns) <= MEMBERS_MAX + 1
        self._epochs.check()
        self._sender.check()
        self._receiver.check()
