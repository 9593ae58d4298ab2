"""Anti-entropy: one random member every five seconds is asked whether it knows the same.

    Ask(digest) ─► the same: nothing to say but that          ◄─ Same
                   else: what it knows                        ◄─ Tell(vector)
    what the other lacks goes to it ─► Batches                Want(vector) ─► what we lack ◄─ Batches …
    more? Want the other lacks what was forgotten ─► Copy (a snapshot), or Behind: ask one that is believed

A digest of 8 bytes stands for a vector, so that a round of members that know the same costs four small
frames a node: sent and received 30 to 60 bytes each before sealing. Vectors tell what lies on the disk, and
serve as acknowledgements for `stability`. A member that (re)appears is asked at once. Who was cut off finds
that all others know more: one of them tells it, and then the others are asked again.

Who knows nothing asks the believed alone, and once a minute: a mesh without tables pays next to nothing.

Every ten minutes, when both know the same, the roots of their Merkle trees are compared; 256 leaves tell
which buckets differ. Equal knowledge and unequal cells is silent damage: it is reported, and who is not
believed takes a snapshot of one that is.

In: who is up, what was heard, ticks. Out: messages to members, batches and snapshots for the `replica` under
`handle`. Not here: merging; carrying a snapshot (32 MiB: by the blobs' way, `replication`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol, get_args

import msgspec

from edge_node.store.cells import BUCKETS
from edge_node.store.crdt.dots import Vector
from edge_node.store.replica import Replica
from edge_node.wire.messages import (
    STATE_BATCHES_MAX,
    StateAsk,
    StateBatches,
    StateBehind,
    StateCompare,
    StateLeaves,
    StateSame,
    StateSnapshotWanted,
    StateTell,
    StateWant,
)

if TYPE_CHECKING:
    import random

SECOND: Final = 1_000_000_000
ROUND_NS: Final = 5 * SECOND
EMPTY_ROUND_NS: Final = 60 * SECOND
"""While nothing is known: what is written anywhere comes by its broadcast."""
JITTER: Final = 0.2
COMPARE_NS: Final = 600 * SECOND
ANSWER_BYTES_MAX: Final = 64 * 1024
ANSWER_BATCHES_MAX: Final = STATE_BATCHES_MAX
"""Half a parcel: state gives way to work. A fsync of the reader holds all of it."""
PATIENCE_NS: Final = 2 * SECOND
"""Until a Want that brought nothing is no longer under way."""
ANSWERS_EACH: Final = 40
"""Vectors and batches to one member in a round; 2.5 MiB. A flood of questions costs no more."""
GAP_NS: Final = 60 * SECOND
"""What came here in a snapshot is in no log of ours; whoever lacks it has it from others by then."""
SNAPSHOT_EVERY_NS: Final = 30 * SECOND
"""To one member: it may be 32 MiB."""

Message = (
    StateAsk | StateSame | StateTell | StateWant | StateBatches | StateBehind
    | StateSnapshotWanted | StateCompare | StateLeaves
)  # fmt: skip
KINDS: Final = frozenset(get_args(Message))


class Send(msgspec.Struct, frozen=True):
    """Effect: to this member, in its session."""

    peer: str
    message: Message


class SendSnapshot(msgspec.Struct, frozen=True):
    """Effect: this signed snapshot, by the way of large bodies."""

    peer: str
    data: bytes
    wish: bytes


class Apply(msgspec.Struct, frozen=True):
    """Effect: batches for the replica; if `more` names a member, call ``go_on`` with it afterwards."""

    batches: tuple[bytes, ...]
    more: str = ""


class Diverged(msgspec.Struct, frozen=True):
    """Effect: the same knowledge, other cells; `buckets` of 256. To be told and counted."""

    peer: str
    buckets: tuple[int, ...]


Effect = Send | SendSnapshot | Apply | Diverged


class Believed(Protocol):
    def believed(self, node: str) -> bool: ...


class AntiEntropy:
    """Args: replica: read for vectors, batches and snapshots, told of reports; never changed otherwise."""

    def __init__(self, me: str, replica: Replica, policy: Believed, rng: random.Random, now_ns: int) -> None:
        self._me = me
        self._replica = replica
        self._policy = policy
        self._rng = rng
        self._up: dict[str, None] = {}
        self._at_once: deque[str] = deque()
        self._round_ns = now_ns  # when the last one was
        self._jitter = rng.random()
        self._compare_ns = now_ns + int(COMPARE_NS * (0.5 + rng.random() / 2))
        self._wanting: dict[str, int] = {}  # peer -> until when our Want is under way
        self._later: dict[str, None] = {}  # who knows more than we do, while another one tells us
        self._answers: dict[str, int] = {}  # this round
        self._copied_ns: dict[str, int] = {}
        self._gaps: dict[str, int] = {}  # peer -> since when we cannot give it what it lacks
        self._behind = False
        self.wish = b""
        """What a snapshot must name to be taken; empty: none is waited for."""
        self.alike_ns: dict[str, int] = {}
        """When a member knew the same as we last: what `fresh` waits for."""

    def up(self, peers: Iterable[str]) -> None:
        """Who can be reached now; who is new among them is asked at the next tick."""
        now = dict.fromkeys(sorted(set(peers) - {self._me}))
        empty = self._replica.empty
        for peer in now.keys() - self._up.keys():
            if peer not in self._at_once and (not empty or self._policy.believed(peer)):
                self._at_once.append(peer)
        self._at_once = deque(sorted(peer for peer in self._at_once if peer in now))
        self._up = now
        for gone in self._wanting.keys() - now.keys():
            del self._wanting[gone]
        for gone in self._later.keys() - now.keys():
            del self._later[gone]
        for gone in self._copied_ns.keys() - now.keys():
            del self._copied_ns[gone]
        for gone in self._gaps.keys() - now.keys():
            del self._gaps[gone]

    def deadline_ns(self) -> int:
        if self._at_once:
            return 0
        if self._later:
            return min(self._next_ns(), max(self._wanting.values(), default=0))
        return self._next_ns()

    def _next_ns(self) -> int:
        every_ns = EMPTY_ROUND_NS if self._replica.empty else ROUND_NS
        return self._round_ns + int(every_ns * (1 + JITTER * (2 * self._jitter - 1)))

    def ask(self, peer: str) -> None:
        """At the next tick, out of turn."""
        if peer in self._up and peer not in self._at_once:
            self._at_once.append(peer)

    def tick(self, now_ns: int) -> list[Effect]:
        out: list[Effect] = []
        if not self._is_told(now_ns):
            self._ask_later()
        while self._at_once:
            self._ask(self._at_once.popleft(), out)
        if now_ns >= self._next_ns():
            self._round_ns, self._jitter = now_ns, self._rng.random()
            self._answers.clear()
            self._wanting = {peer: until for peer, until in self._wanting.items() if until > now_ns}
            peers = list(self._up)
            if self._replica.empty:
                peers = [peer for peer in peers if self._policy.believed(peer)] or peers
            if peers:
                self._ask(self._rng.choice(peers), out)
            if self._behind:
                self._ask_for_snapshot(out)
        return out

    def _is_told(self, now_ns: int) -> bool:
        return any(until > now_ns for until in self._wanting.values())

    def _ask_later(self) -> None:
        """Most of them can tell nothing new by now."""
        later, self._later = self._later, {}
        for peer in later:
            self.ask(peer)

    def _ask(self, peer: str, out: list[Effect]) -> None:
        out.append(Send(peer, StateAsk(self._replica.digest())))

    def handle(self, now_ns: int, peer: str, message: Message) -> list[Effect]:
        """Never raises: a message that makes no sense is not answered."""
        out: list[Effect] = []
        match message:
            case StateAsk(digest) if self._may_answer(peer):
                if digest == self._replica.digest():
                    self._alike(now_ns, peer)
                    out.append(Send(peer, StateSame(digest)))
                else:
                    out.append(Send(peer, StateTell(self._replica.durable.rows())))
            case StateSame(digest):
                if digest == self._replica.digest():
                    self._alike(now_ns, peer)
                    self._compare(now_ns, peer, out)
            case StateTell(known):
                theirs = Vector.of(known)
                if (
                    self._policy.believed(peer)
                    and not self._policy.believed(self._me)
                    and self._replica.overruled(theirs)
                ):
                    self._wish_for(peer, out)
                self._give(now_ns, peer, theirs, out)
                if self._replica.lacks(theirs) and self._wanting.get(peer, 0) <= now_ns:
                    if not self._is_told(now_ns):
                        self._wanting[peer] = now_ns + PATIENCE_NS
                        out.append(Send(peer, StateWant(self._replica.durable.rows())))
                    elif peer in self._up:
                        self._later[peer] = None
            case StateWant(known) if self._may_answer(peer):
                self._give(now_ns, peer, Vector.of(known), out)
            case StateBatches(batches, more):
                self._wanting.pop(peer, None)
                if batches:
                    out.append(Apply(batches, peer if more else ""))
                if more and batches:
                    self._wanting[peer] = now_ns + PATIENCE_NS
                elif not self._is_told(now_ns):
                    self._ask_later()
            case StateBehind():
                self._behind = True
                if self._policy.believed(peer):
                    self._wish_for(peer, out)
                else:
                    self._ask_for_snapshot(out)
            case StateSnapshotWanted(wish):
                self._send_copy(now_ns, peer, wish, out)
            case StateCompare(digest, root):
                if (
                    digest == self._replica.digest()
                    and self._comparable
                    and root != self._replica.cells.root()
                ):
                    out.append(Send(peer, StateLeaves(digest, tuple(self._replica.cells.leaves()))))
            case StateLeaves(digest, leaves):
                if digest == self._replica.digest() and self._comparable:
                    self._diverged(now_ns, peer, leaves, out)
        return out

    def go_on(self, now_ns: int, peer: str) -> list[Effect]:
        """Its batches are known by now, so that the next ones can be asked for, and not the same again."""
        self._wanting[peer] = now_ns + PATIENCE_NS
        return [Send(peer, StateWant(self._replica.known.rows()))]

    def behind(self) -> None:
        """Something cannot be had but by a snapshot: one is asked for in the next round."""
        self._behind = True

    def installed(self) -> None:
        """A snapshot was taken: nobody need be asked for one."""
        self._behind = False
        self.wish = b""

    # -- knowledge --------------------------------------------------------------------------------------

    def _may_answer(self, peer: str) -> bool:
        count = self._answers.get(peer, 0)
        self._answers[peer] = count + 1
        return count < ANSWERS_EACH

    def _alike(self, now_ns: int, peer: str) -> None:
        """Equal digests: they hold what we hold."""
        self._replica.reported(now_ns, peer, self._replica.durable.copy())
        self.alike_ns[peer] = now_ns

    def _give(self, now_ns: int, peer: str, theirs: Vector, out: list[Effect]) -> None:
        """What they lack."""
        if not self._replica.reported(now_ns, peer, theirs):
            self._copy(peer, out)
            return
        batches, more = self._replica.offers(theirs, ANSWER_BYTES_MAX, ANSWER_BATCHES_MAX)
        if batches or not self._replica.ahead_of(theirs):
            self._gaps.pop(peer, None)
        if batches:
            out.append(Send(peer, StateBatches(tuple(batches), more)))
        elif self._replica.ahead_of(theirs) and now_ns - self._gaps.setdefault(peer, now_ns) >= GAP_NS:
            self._copy(peer, out)  # only our cells have it, and nobody else gave it to them

    def _copy(self, peer: str, out: list[Effect]) -> None:
        """They need a snapshot: of us, if they believe us, or of another."""
        out.append(Send(peer, StateBehind()))

    def _send_copy(self, now_ns: int, peer: str, wish: bytes, out: list[Effect]) -> None:
        """Whoever asks judges whom it believes."""
        copied_ns = self._copied_ns.get(peer)
        if copied_ns is not None and now_ns - copied_ns < SNAPSHOT_EVERY_NS:
            return
        data = self._replica.snapshot(wish)
        if data is not None:
            self._copied_ns[peer] = now_ns
            out.append(SendSnapshot(peer, data, wish))

    def _wish_for(self, peer: str, out: list[Effect]) -> None:
        self.wish = self.wish or self._rng.randbytes(8)
        out.append(Send(peer, StateSnapshotWanted(self.wish)))

    def _ask_for_snapshot(self, out: list[Effect]) -> None:
        sources = [peer for peer in self._up if self._policy.believed(peer)]
        if sources:
            self._wish_for(self._rng.choice(sources), out)

    # -- silent divergence ------------------------------------------------------------------------------

    @property
    def _comparable(self) -> bool:
        """The tree is that of what the digest stands for."""
        return self._replica.settled

    def _compare(self, now_ns: int, peer: str, out: list[Effect]) -> None:
        if now_ns < self._compare_ns or not self._comparable:
            return
        self._compare_ns = now_ns + int(COMPARE_NS * (1 + JITTER * (2 * self._rng.random() - 1)))
        out.append(Send(peer, StateCompare(self._replica.digest(), self._replica.cells.root())))

    def _diverged(self, now_ns: int, peer: str, leaves: tuple[bytes, ...], out: list[Effect]) -> None:
        mine = self._replica.cells.leaves()
        buckets = tuple(i for i in range(BUCKETS) if mine[i] != leaves[i])
        if not buckets:
            return
        out.append(Diverged(peer, buckets))
        mine_counts = self._policy.believed(self._me)
        if mine_counts and (self._me < peer or not self._policy.believed(peer)):
            self._copy(peer, out)
        elif self._policy.believed(peer):
            self._wish_for(peer, out)
        else:  # neither is sure: both take what a third one says
            self._behind = True
            out.append(Send(peer, StateBehind()))
            self._ask_for_snapshot(out)

    def check(self) -> None:
        assert self._me not in self._up
        assert self._later.keys() <= self._up.keys()
