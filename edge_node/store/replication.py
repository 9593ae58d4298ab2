"""Replication: the tables of one member in its node: replica, anti-entropy, trusted clock, who asks them.

    control socket ─► Requests ─► Write ─► replica ─► Append ─► port (fsync) ─► answered, broadcast
    g/mesh/<peer> ──► StateBatch ────────► replica
    sessions ───────► anti-entropy ──────► replica            snapshots: signed, cut into bodies, fetched

A part of ``node``: it carries out what the cores decide. Broadcasts go out at QoS 0 and only as long as the
line has room; what is missed, anti-entropy brings. A commit that fails loses nothing that was acknowledged:
the replica is built anew from the disk, and until that works nothing is written.

Not here: merging (`replica`), queries (`tables`, `requests`), the disk (`storage.cell_thread`).
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from edge_node.chronicle.entry import What
from edge_node.logs import Seldom
from edge_node.store.antientropy import AntiEntropy, Apply, Diverged, Send, SendSnapshot
from edge_node.store.antientropy import Effect as EntropyEffect
from edge_node.store.antientropy import Message as EntropyMessage
from edge_node.store.authorship import Authorship
from edge_node.store.cell_store import CellPort, Image
from edge_node.store.replica import (
    AHEAD,
    WRITERS_TABLE,
    Append,
    Arrived,
    Broadcast,
    Changed,
    Conflicted,
    Effect,
    Event,
    Failed,
    Limits,
    Members,
    Noted,
    NotWritten,
    Orphaned,
    Persisted,
    PolicyChanged,
    Reload,
    Replica,
    Snapshot,
    Trusted,
    Write,
    Written,
)
from edge_node.store.requests import DISK, Done, Requests
from edge_node.store.tables import Tables
from edge_node.store.trusted_clock import TrustedClock
from edge_node.wire.ids import GATEWAY
from edge_node.wire.messages import STATE_PIECES_MAX, StateBatch, StateSame, StateSnapshot
from security.errors import BadInput, EdgeweaveError
from security.roster import ROLE_STORE

if TYPE_CHECKING:
    import random

    from edge_node.node import Node
    from edge_node.store.batch import Change

log = logging.getLogger(__name__)

SECOND: Final = 1_000_000_000
BROADCAST_BYTES_MAX: Final = 48 * 1024
"""A larger batch would hold up beats and leases of every reader; each of them asks for it."""
PIECE_BYTES: Final = 4 * 1024 * 1024
SNAPSHOT_BYTES_MAX: Final = STATE_PIECES_MAX * PIECE_BYTES
OFFER_NS: Final = 30 * SECOND
"""A snapshot is kept so long for whom it was made, counted from the last piece that was asked for; or until
that member is heard to know the same."""
RELOAD_NS: Final = 1 * SECOND
"""Between two readings of a disk that failed: one takes a thread up to a second, and writers wait for it."""
CLOCK_NS: Final = 5 * SECOND
CLOCK_STEP_MS: Final = 500
"""Smaller moves of the trusted clock are the network's."""
FRESH_ASKED_MAX: Final = 64
"""Clients of this machine that wait at once; each is looked at whenever a member answers."""
FRESH_PEERS_MAX: Final = 64
"""Members asked for one of them, at two small frames each: in a fleet of thousands it must be no flood."""
FRESH_AGAIN_NS: Final = 200_000_000
"""Some round trips: whom the last question brought batches has them on its disk by then, and says so."""
FRESH_S_MAX: Final = 60.0
"""A minute has twelve rounds of anti-entropy: whoever has not answered by then is away."""
VOUCH_NS: Final = 30 * SECOND
"""Whoever forges batches makes us ask for a snapshot no oftener than a member is given one."""

Answer = Callable[[dict[str, Any] | EdgeweaveError], None]


class Policy:
    """What the roster says of tables."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def may_write(self, node: str, table: str) -> bool:
        return table != WRITERS_TABLE or node == GATEWAY

    def believed(self, node: str) -> bool:
        """A gateway that knows nothing, its store is lost, believes any member: who else is there to ask?"""
        if node == GATEWAY:
            return True
        roster = self._node.roster.current
        member = roster.member(node) if roster is not None else None
        return member is not None and (ROLE_STORE in member.roles or self._bereft())

    def _bereft(self) -> bool:
        node = self._node
        return node.node_id == GATEWAY and node.replication.replica.empty


class _Fresh:
    __slots__ = ("answer", "end_ns", "missing", "newer_ns", "reached")

    def __init__(self, answer: Answer, newer_ns: int, end_ns: int) -> None:
        self.answer, self.newer_ns, self.end_ns = answer, newer_ns, end_ns
        self.reached: set[str] = set()
        self.missing: set[str] = set()


class _Coming:
    """A snapshot that is being fetched."""

    __slots__ = ("peer", "pieces", "wish")

    def __init__(self, peer: str, message: StateSnapshot) -> None:
        self.peer, self.wish = peer, message.wish
        self.pieces: dict[bytes, bytes | None] = dict.fromkeys(message.pieces)


class Replication:
    """Of one member."""

    def __init__(self, node: Node, port: CellPort, rng: random.Random, limits: Limits | None = None) -> None:
        self._node = node
        self._port = port
        self._rng = rng
        self._limits = limits or Limits()
        self._policy = Policy(node)
        self.clock = TrustedClock(node.node_id)
        self._clock_ns = 0
        self._offset_ms: int | None = None
        self.counts: Counter[str] = Counter()
        self._seldom = Seldom()
        self._tokens = 0
        self._waiting: dict[int, Done] = {}
        self._appends: list[Append] = []
        self._written = False  # something, in this turn: it is not signed yet
        self._offered: dict[bytes, bytes] = {}
        self._offered_to = ""
        self._offered_ns = 0
        self._offered_until_ns = 0
        self._coming: _Coming | None = None
        self._fresh: list[_Fresh] = []
        self._fresh_ns = 0
        self._reload_ns: int | None = None
        self._reloading = False
        self._vouch_ns = 0
        self._peers: tuple[str, ...] = ()
        self._begin(port.load())
        self.tables = Tables(lambda: self.replica.cells, node.entropy)
        self.requests = Requests(self.tables, self._write)
        self.requests.add("state.fresh", self._fresh_asked)
        self.requests.add("state.clock", self._clock_asked)
        if port.losses:
            log.critical("the tables' store was damaged", extra={"cause": port.losses})

    def _begin(self, image: Image) -> None:
        node = self._node
        self._author = Authorship(node.mesh_id, node.keys.signing, self._owner)
        self.replica = Replica(node.node_id, self._author, self._policy, image, node.entropy, self._limits)
        now_ns = node.clock.now_ns()
        self.entropy = AntiEntropy(node.node_id, self.replica, self._policy, self._rng, now_ns)
        self.entropy.up(self._peers)

    def _owner(self, spki_sha256: bytes) -> str | None:
        """Whose key that is: what a member wrote before it was shut out, or left, stays its word."""
        roster = self._node.roster.current
        assert roster is not None
        return roster.once(_owners_of).get(spki_sha256)

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────

    def start(self, post: Callable[..., object]) -> None:
        """The port answers from now on, through *post*."""
        self._port.start(post, self._persisted, self._failed)

    def close(self) -> None:
        self._port.close()

    def flush(self) -> None:
        """Hand out what the turn wants committed: what it wrote shares a signature."""
        self._sign_written()
        if self._appends:
            appends, self._appends = self._appends, []
            for each in appends:
                self._port.append(each.serial, each.commit)

    def _persisted(self, serial: int) -> None:
        self._node.soon(lambda now_ns, wall_ms: self._handle(now_ns, wall_ms, Persisted(serial)))

    def _failed(self, serial: int, reason: str) -> None:
        self._node.soon(lambda now_ns, wall_ms: self._handle(now_ns, wall_ms, Failed(serial, reason)))

    # ── what happens in the mesh ──────────────────────────────────────────────────────────────────────

    def roster_changed(self, now_ns: int, wall_ms: int) -> None:
        roster = self._node.roster.current
        assert roster is not None
        self.clock.forget(lambda peer: peer in roster.active_ids)
        self._handle(now_ns, wall_ms, Members(roster.active_ids))
        self._handle(now_ns, wall_ms, PolicyChanged())
        self.peers_changed()

    def keys_changed(self, now_ns: int, wall_ms: int) -> None:
        """Who lacks a batch of ours shall be able to tell that it is ours: sign what is under way anew."""
        self._author = Authorship(self._node.mesh_id, self._node.keys.signing, self._owner)
        self._carry_out(now_ns, wall_ms, self.replica.signed_anew(self._author))

    def peers_changed(self) -> None:
        self._peers = tuple(self._node.detector.up())
        self.entropy.up(self._peers)

    def beat_heard(self, now_ns: int, peer: str, at_ms: int) -> None:
        """Said to everybody, or in the session with *peer*, which begins with one."""
        self.clock.heard(now_ns, peer, at_ms)
        if self._offset_ms is None and self.clock.source(now_ns)[0] != "none":
            self._clock_ns = now_ns  # what we write until then may have to be stamped again

    def batch_heard(self, now_ns: int, wall_ms: int, peer: str, message: StateBatch) -> None:
        self._handle(now_ns, wall_ms, Arrived(message.data))

    def heard(self, now_ns: int, wall_ms: int, peer: str, message: EntropyMessage) -> None:
        self._sign_written()  # others are told of whole batches
        self._entropy_effects(now_ns, wall_ms, peer, self.entropy.handle(now_ns, peer, message))
        self._look_fresh(now_ns)

    # ── writes and questions of this machine ──────────────────────────────────────────────────────────

    def call(self, method: str, params: dict[str, Any], answer: Answer) -> None:
        """A ``state.*`` method; from any coroutine of the loop."""
        self._node.soon(lambda now_ns, wall_ms: self.requests.call(now_ns, method, params, answer))

    def _write(self, changes: tuple[Change, ...], done: Done) -> None:
        self._tokens += 1
        self._waiting[self._tokens] = done
        node = self._node
        now_ns, wall_ms = node.clock.now_ns(), node.clock.wall_ms()
        self._carry_out(now_ns, wall_ms, self.replica.write(wall_ms, Write(self._tokens, changes)))
        self._written = True

    def _sign_written(self) -> None:
        if self._written:
            self._written = False
            clock = self._node.clock
            self._carry_out(clock.now_ns(), clock.wall_ms(), self.replica.close())

    def _fresh_asked(self, now_ns: int, params: dict[str, Any], answer: Answer) -> None:
        age_s, wait_s = params.get("max_age_s", 1.0), params.get("wait_s", 5.0)
        if not all(isinstance(each, int | float) and 0 <= each <= FRESH_S_MAX for each in (age_s, wait_s)):
            answer(BadInput("max_age_s and wait_s are seconds", fix=f"give 0 to {FRESH_S_MAX:g}"))
            return
        if len(self._fresh) >= FRESH_ASKED_MAX:
            answer(BadInput(f"{len(self._fresh)} wait for fresh tables already", fix="ask fewer at once"))
            return
        wanted = _Fresh(answer, now_ns - int(age_s * 1e9), now_ns + int(wait_s * 1e9))
        wanted.missing = set(self._peers[:FRESH_PEERS_MAX])
        self._fresh.append(wanted)
        self._fresh_ns = now_ns
        self._look_fresh(now_ns)

    def _look_fresh(self, now_ns: int) -> None:
        """Answer who has waited for members that now know the same as we; ask the others again."""
        if not self._fresh:
            return
        alike = self.entropy.alike_ns
        again: set[str] = set()
        waiting = []
        for each in self._fresh:
            found = {peer for peer in each.missing if alike.get(peer, -1) >= each.newer_ns}
            each.reached |= found
            each.missing -= found
            if each.missing and now_ns < each.end_ns:
                again |= each.missing
                waiting.append(each)
            else:
                each.answer({"reached": sorted(each.reached), "missing": sorted(each.missing)})
        self._fresh = waiting
        if again and now_ns >= self._fresh_ns:
            self._fresh_ns = now_ns + FRESH_AGAIN_NS
            for peer in sorted(again):
                self.entropy.ask(peer)

    def _clock_asked(self, now_ns: int, params: dict[str, Any], answer: Answer) -> None:
        answer(self.clock_status(now_ns))

    def clock_status(self, now_ns: int) -> dict[str, Any]:
        kind, members = self.clock.source(now_ns)
        offset = self.clock.offset_ms(now_ns, self._node.clock.wall_ms())
        return {"trusted": kind, "members": members, "skew_ms": None if offset is None else -offset}

    # ── bodies of snapshots ───────────────────────────────────────────────────────────────────────────

    def lookup(self, digest: bytes) -> bytes | None:
        body = self._offered.get(digest)
        if body is not None:
            self._offered_until_ns = self._node.clock.now_ns() + OFFER_NS
        return body

    def wants(self, digest: bytes) -> bool:
        return self._coming is not None and digest in self._coming.pieces

    def body_came(self, now_ns: int, wall_ms: int, digest: bytes, body: bytes) -> None:
        coming = self._coming
        assert coming is not None
        coming.pieces[digest] = body
        if any(piece is None for piece in coming.pieces.values()):
            self._fetch(now_ns, wall_ms)
            return
        self._coming = None
        data = b"".join(piece for piece in coming.pieces.values() if piece is not None)
        self._handle(now_ns, wall_ms, Snapshot(data, self.entropy.wish))

    def body_missed(self, digest: bytes) -> None:
        self._coming = None  # it is asked for again in a round

    def snapshot_offered(self, now_ns: int, wall_ms: int, peer: str, message: StateSnapshot) -> None:
        if not self.entropy.wish or message.wish != self.entropy.wish or not self._policy.believed(peer):
            return
        if len(set(message.pieces)) == len(message.pieces):
            self._coming = _Coming(peer, message)
            self._fetch(now_ns, wall_ms)

    def _fetch(self, now_ns: int, wall_ms: int) -> None:
        """One piece after the other: it has time, and others want the line."""
        assert self._coming is not None
        digest = next(digest for digest, piece in self._coming.pieces.items() if piece is None)
        self._node.fetch(now_ns, wall_ms, digest, [self._coming.peer])

    def _offer(self, now_ns: int, peer: str, data: bytes, wish: bytes) -> None:
        if len(data) > SNAPSHOT_BYTES_MAX:
            log.error("the tables are too large to be handed over", extra={"bytes": len(data)})
            return
        had = self.entropy.alike_ns.get(self._offered_to, -1) > self._offered_ns  # it knows the same since
        if self._offered and peer != self._offered_to and now_ns < self._offered_until_ns and not had:
            self.counts["snapshots put off"] += 1  # two that took each other's away would never end
            return
        pieces = [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
        digests = tuple(hashlib.sha256(piece).digest() for piece in pieces)
        self._offered = dict(zip(digests, pieces, strict=True))
        self._offered_to, self._offered_ns, self._offered_until_ns = peer, now_ns, now_ns + OFFER_NS
        self._node.tell(now_ns, peer, StateSnapshot(wish, digests))

    # ── time ──────────────────────────────────────────────────────────────────────────────────────────

    def deadline_ns(self) -> int:
        due = min(self.entropy.deadline_ns(), self._clock_ns)
        asked = self.requests.deadline_ns()
        if asked is not None:
            due = min(due, asked)
        if self._fresh:
            due = min(due, self._fresh_ns, *(each.end_ns for each in self._fresh))
        if self._reload_ns is not None:
            due = min(due, self._reload_ns)
        return due

    def tick(self, now_ns: int, wall_ms: int) -> None:
        if self._reload_ns is not None and now_ns >= self._reload_ns:
            self._reload_ns = None
            self._reload()
        if now_ns >= self._clock_ns:
            self._clock_ns = now_ns + CLOCK_NS
            self._judge_clock(now_ns, wall_ms)
            if self._offered and now_ns >= self._offered_until_ns:
                self._offered = {}
        if now_ns >= self.entropy.deadline_ns():
            self._sign_written()
            self._carry_out(now_ns, wall_ms, self.replica.tick(now_ns, wall_ms))
            self._entropy_effects(now_ns, wall_ms, "", self.entropy.tick(now_ns))
        self.requests.tick(now_ns)
        self._look_fresh(now_ns)

    def _judge_clock(self, now_ns: int, wall_ms: int) -> None:
        offset = self.clock.offset_ms(now_ns, wall_ms)
        known = self._offset_ms
        moved = (offset is None) != (known is None) or abs((offset or 0) - (known or 0)) >= CLOCK_STEP_MS
        # The gateway's offset is always 0: that its clock was set back, its own stamps alone can tell.
        if not moved and (offset is None or not self.replica.runs_ahead(wall_ms + offset)):
            return
        self._offset_ms = offset
        self._handle(now_ns, wall_ms, Trusted(offset))

    # ── effects ───────────────────────────────────────────────────────────────────────────────────────

    def _handle(self, now_ns: int, wall_ms: int, event: Event) -> None:
        self._carry_out(now_ns, wall_ms, self.replica.handle(now_ns, wall_ms, event))

    def _carry_out(self, now_ns: int, wall_ms: int, effects: list[Effect]) -> None:
        node = self._node
        for effect in effects:
            match effect:
                case Append():
                    self._appends.append(effect)
                case Written(token):
                    self._waiting.pop(token)("")
                case NotWritten(token, reason):
                    self._waiting.pop(token)(reason)
                case Broadcast(data):
                    self._broadcast(now_ns, data)
                case Changed():
                    self.requests.changed(now_ns, wall_ms, effect)
                case Conflicted(cell):
                    self.counts["conflicts"] += 1
                    node.chronicle.cell(now_ns, wall_ms, What.CONFLICT, cell[1:])
                case Noted(what, member, detail):
                    self._noted(now_ns, wall_ms, what, member, detail)
                case Orphaned(member):
                    self._noted(now_ns, wall_ms, What.ORPHANED, member, "")
                case Reload(reason):
                    self._noted(now_ns, wall_ms, What.STATE_NOT_WRITTEN, "", reason)
                    self._reload()

    def _noted(self, now_ns: int, wall_ms: int, what: str, member: str, detail: str) -> None:
        self.counts[what] += 1
        if what == What.SNAPSHOT_TAKEN:
            self.entropy.installed()
        alone = not self._policy.believed(self._node.node_id)
        if what == What.BATCH_DROPPED and alone and now_ns >= self._vouch_ns:
            self._vouch_ns = now_ns + VOUCH_NS
            self.entropy.behind()  # of one who is unknown here: whoever is believed vouches for it
        if count := self._seldom.due(now_ns):
            log.warning("tables: %s", what, extra={"peer": member, "detail": detail, "times": count})
        self._node.chronicle.tables(now_ns, wall_ms, What(what), member, detail)

    def _broadcast(self, now_ns: int, data: bytes) -> None:
        node = self._node
        if not node.link.up or len(data) > BROADCAST_BYTES_MAX:
            return
        sealed = node.presence.groupcast.seal_batch(now_ns, StateBatch(data))
        if sealed is None or node.pacing.room < len(sealed):
            self.counts["broadcasts left out"] += 1
            return
        try:
            node.link.send(0, node.presence.groupcast.group_topic, sealed, qos=0)
        except EdgeweaveError:  # a full link: anti-entropy brings it
            self.counts["broadcasts left out"] += 1

    def _entropy_effects(self, now_ns: int, wall_ms: int, peer: str, effects: list[EntropyEffect]) -> None:
        node = self._node
        for effect in effects:
            match effect:
                case Send(to, StateSame() as same) if node.channels.has(to):
                    # Bears the question's acknowledgement, and needs none: a third frame for each idle round.
                    node.channels.send_loose(to, same)
                case Send(to, message):
                    node.tell(now_ns, to, message, bulk=True)
                case SendSnapshot(to, data, wish):
                    self._offer(now_ns, to, data, wish)
                case Apply(data_of_batches, more):
                    for data in data_of_batches:
                        self._handle(now_ns, wall_ms, Arrived(data))
                    if more:
                        self._entropy_effects(now_ns, wall_ms, more, self.entropy.go_on(now_ns, more))
                case Diverged(other, buckets):
                    self._noted(now_ns, wall_ms, What.DIVERGED, other, f"{len(buckets)} of 256 leaves")

    # ── after a failed commit ─────────────────────────────────────────────────────────────────────────

    def _reload(self) -> None:
        if self._reloading:
            return
        self._reloading = True
        self._appends = []  # they rest on what the disk did not take
        waiting, self._waiting = self._waiting, {}
        for done in waiting.values():
            done(DISK)
        self._port.reload(
            lambda image: self._node.soon(lambda now_ns, wall_ms: self._reloaded(now_ns, wall_ms, image))
        )

    def _reloaded(self, now_ns: int, wall_ms: int, image: Image | EdgeweaveError) -> None:
        self._reloading = False
        if isinstance(image, EdgeweaveError):
            self._reload_ns = now_ns + RELOAD_NS
            return
        self._begin(image)
        self._offset_ms = None
        self._coming = None
        self.requests.reset()
        self.roster_changed(now_ns, wall_ms)
        self._judge_clock(now_ns, wall_ms)
        log.info("the tables were read again from the disk")

    # ── telling ───────────────────────────────────────────────────────────────────────────────────────

    def status(self, now_ns: int) -> dict[str, Any]:
        replica = self.replica
        meta = replica.metadata()
        waits = replica.waits()
        return {
            "keys": replica.cells.live,
            "bytes": replica.cells.bytes,
            "conflicts": len(replica.cells.conflicts),
            "log_batches": meta["log"],
            "log_bytes": meta["log_bytes"],
            "waiting": meta["waiting"],
            "quarantined": sum(reason == AHEAD for *_, reason in waits),
            "members_behind": list(replica.members_behind()),
            "clock": self.clock_status(now_ns),
            "counts": dict(self.counts),
        }

    def check(self) -> None:
        self.replica.check()
        self.entropy.check()


def _owners_of(roster: Any) -> dict[bytes, str]:
    return {key.spki_sha256: member.id for member in roster.members for key in member.keys}
