"""Presence: everything a member says and hears of who is there, as one core.

    p/<src> ──► groupcast ──► detector ──► Up, Down, Quiet, Probe      (and Beaten, Digested for the desk)
    sessions ─────────────────────┘  │
    members, sightings ──► following ┴──► Subscribe, Unsubscribe
    load ──► heartbeat, digest ──► groupcast ──► Publish on p/<me>

It composes ``detector``, ``heartbeat``, ``following`` (nodes), ``digest`` (the gateway) and
``transport.groupcast``; the agent feeds it and carries its effects out. Until a member has the group's key,
its beats go to the gateway in their session. Where a session has just been made, or a peer has just come up,
a beat goes to that peer at once, and to everybody within a second: it may not have heard us yet.

A node hears the gateway and at most 16 peers, beats at most once a second and probes only whom it watches,
so what it sends and receives does not grow with the fleet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from edge_node.membership import detector, following
from edge_node.membership.digest import Digest
from edge_node.membership.heartbeat import BEAT_NS_MAX, Heartbeat
from edge_node.transport.groupcast import Adopted, Groupcast, Keep, Tell
from edge_node.wire import topics
from edge_node.wire.ids import GATEWAY
from edge_node.wire.messages import Beat, DigestEntry, FleetDigest, GroupKeys, GroupKeysWanted, Load

if TYPE_CHECKING:
    from random import Random

SECOND: Final = 1_000_000_000
MEET_NS: Final = 10 * SECOND
"""Between two tries to meet a peer whose beats seem to be of an earlier life: a broker can say them again."""
DIRECT_MAX: Final = 64
"""Peers that are told directly when our link is back: the others hear the beat to everybody, or ask."""


class Publish(msgspec.Struct, frozen=True):
    """Effect: this payload on our presence topic, at QoS 0: the next beat makes up for a lost one."""

    topic: str
    payload: bytes


class TellLoose(msgspec.Struct, frozen=True):
    """Effect: this beat to *peer* in its session, if there is one; nobody misses it."""

    peer: str
    beat: Beat


class Subscribe(msgspec.Struct, frozen=True):
    topics: tuple[str, ...]


class Unsubscribe(msgspec.Struct, frozen=True):
    topics: tuple[str, ...]


class Beaten(msgspec.Struct, frozen=True):
    """Effect: a beat of *peer* that is news."""

    peer: str
    beat: Beat


class Digested(msgspec.Struct, frozen=True):
    """Effect: the gateway's word about others."""

    entries: tuple[DigestEntry, ...]


Effect = (
    detector.Up | detector.Down | detector.Quiet | detector.Probe
    | Publish | TellLoose | Subscribe | Unsubscribe | Beaten | Digested
    | Tell | Keep | Adopted
)  # fmt: skip


class Presence:
    """Who is there, from the sight of one member; a core.

    Args:
        incarnation, boot_id: of this process, see ``heartbeat``.   groupcast: the mesh's group, restored.
        load: our own load at a moment.   depends: does work of ours lie with this peer?
        rng: for the choice of followed peers and of digest entries.
    """

    def __init__(
        self,
        *,
        me: str,
        mesh_id: str,
        incarnation: int,
        boot_id: bytes,
        groupcast: Groupcast,
        load: Callable[[int], Load],
        depends: Callable[[str], bool],
        rng: Random,
        longest_ns: int = BEAT_NS_MAX,
    ) -> None:
        self._me = me
        self._mesh = mesh_id
        self._load = load
        is_gateway = me == GATEWAY
        self.groupcast = groupcast
        self.detector = detector.Detector(depends=depends, watch_all=is_gateway)
        self.detector.handle(0, detector.Watch(GATEWAY))
        self.heartbeat = Heartbeat(incarnation=incarnation, boot_id=boot_id, longest_ns=longest_ns)
        self.following = None if is_gateway else following.Following(me=me, always=GATEWAY, rng=rng)
        self.digest = Digest(rng=rng) if is_gateway else None
        self._members: frozenset[str] = frozenset()
        self._meet_ns = 0  # nobody is met for an old frame before this

    # ── what others say ───────────────────────────────────────────────────────────────────────────

    def delivered(self, now_ns: int, wall_ms: int, topic: topics.Presence, payload: bytes) -> list[Effect]:
        """Something came on a presence topic. An empty payload is a last will, which anybody can forge."""
        src = topic.src
        if topic.mesh != self._mesh or src == self._me:
            return []
        if not payload:
            return self._judged(now_ns, wall_ms, self.detector.handle(now_ns, detector.WillSeen(src)))
        out: list[Effect] = []
        self.groupcast.outlived = ""
        news = self.groupcast.delivered(now_ns, topic, payload)
        if self.groupcast.outlived:
            return self._outlived(now_ns, src)
        for heard in news:
            message: Any = heard.message
            if type(message) is Beat:
                life = self.detector.life_of(src)
                judged = self.detector.beat(now_ns, src, message.incarnation, message.seq, message.boot_id)
                if judged is None:  # as old as what a tombstone remembers
                    return out
                out += self._judged(now_ns, wall_ms, judged)
                if life is not None and life[2] != message.boot_id:
                    self.heartbeat.hasten(now_ns)  # a new process knows nobody yet
                self._loaded(now_ns, src, message.load)
                out.append(Beaten(src, message))
            elif type(message) is FleetDigest:
                out += self._told_of(now_ns, wall_ms, message)
        return out

    def _outlived(self, now_ns: int, peer: str) -> list[Effect]:
        """A frame of an earlier life than that of record, from one who is not there: it was said again by the
        broker, or the member's home was restored and its clock went back. A session tells which.
        """
        follows = self.following is None or self.following.follows(peer)
        if self.detector.is_up(peer) or not follows or now_ns < self._meet_ns:
            return []
        self._meet_ns = now_ns + MEET_NS
        return [detector.Probe(peer)]  # makes a session where there is none

    def heard(self, now_ns: int, wall_ms: int, peer: str) -> list[Effect]:
        """A parcel of *peer* was opened in its session; the hot path."""
        judged = self.detector.heard(now_ns, peer)
        return self._judged(now_ns, wall_ms, judged) if judged else []

    def beat_heard(self, now_ns: int, peer: str, beat: Beat) -> None:
        """A beat came in the session with *peer*: it proves in what life and at what number the peer is."""
        self.groupcast.proved(peer, beat)
        self.detector.direct_beat(now_ns, peer, beat.incarnation, beat.seq, beat.boot_id)
        self._loaded(now_ns, peer, beat.load)

    def ready(self, now_ns: int, wall_ms: int, peer: str) -> list[Effect]:
        """There is a (new) session with *peer*."""
        out = self.heard(now_ns, wall_ms, peer)
        self.groupcast.ready(now_ns, peer)
        beat = TellLoose(peer, self.heartbeat.direct(wall_ms, self._load(now_ns)))
        return out if beat.peer in {e.peer for e in out if type(e) is TellLoose} else [*out, beat]

    def lost(self, peer: str) -> None:
        """The session with *peer* ended."""
        self.groupcast.lost(peer)

    def keys_wanted(self, now_ns: int, peer: str, wanted: GroupKeysWanted) -> list[Effect]:
        return list(self.groupcast.asked(now_ns, peer, wanted))

    def keys_came(self, now_ns: int, wall_ms: int, peer: str, keys: GroupKeys) -> list[Effect]:
        """An epoch was handed to us; the first beat under it goes out at once."""
        out: list[Effect] = list(self.groupcast.came(now_ns, peer, keys))
        if any(type(effect) is Adopted for effect in out):
            out += self._beat(now_ns, self.heartbeat.told(now_ns, wall_ms, self._load(now_ns)), None)
        return out

    def _told_of(self, now_ns: int, wall_ms: int, digest: FleetDigest) -> list[Effect]:
        members, me = self._members, self._me
        entries = tuple([entry for entry in digest.entries if entry.id in members and entry.id != me])
        out: list[Effect] = []
        choice = self.following
        if choice is not None:
            choice.told_of(entries)
            for entry in entries:
                if not entry.down:
                    continue
                # A holder of our work may be one that we do not follow, so we see no will of it.
                rumour = self.detector.handle(now_ns, detector.Rumoured(entry.id))
                out += self._judged(now_ns, wall_ms, rumour)
                if not self.detector.is_up(entry.id):
                    out += self._chosen(now_ns, choice.handle(now_ns, following.Went(entry.id)))
        if entries:
            out.append(Digested(entries))
        return out

    def _loaded(self, now_ns: int, peer: str, load: Load) -> None:
        if self.digest is not None:
            self.digest.noted(now_ns, peer, load)
        elif self.following is not None:
            self.following.told(peer, load.workers * load.speed)

    # ── what happens to us ────────────────────────────────────────────────────────────────────────

    def members(
        self, now_ns: int, wall_ms: int, ids: Iterable[str], names: tuple[str, ...] = ()
    ) -> list[Effect]:
        """The active members of the roster in force. Args: names: the same by name, to be shared."""
        before, self._members = self._members, frozenset(ids)
        out: list[Effect] = []
        for peer in sorted(before - self._members):
            self.groupcast.forget(peer)
            out += self._judged(now_ns, wall_ms, self.detector.handle(now_ns, detector.Forgotten(peer)))
            if self.digest is not None:
                self.digest.left(now_ns, peer)
        if self.following is not None:
            out += self._chosen(
                now_ns, self.following.handle(now_ns, following.Members(self._members, names))
            )
        return out

    def sighted(self, now_ns: int, peer: str) -> list[Effect]:
        """mDNS saw *peer* on our network."""
        if self.following is None:
            return []
        return self._chosen(now_ns, self.following.handle(now_ns, following.Sighted(peer)))

    def link_up(self, now_ns: int, wall_ms: int, sessions: Iterable[str]) -> list[Effect]:
        """Connected (again): everybody is down for us, and perhaps we for everybody, until one is heard."""
        load = self._load(now_ns)
        out = self._beat(now_ns, self.heartbeat.told(now_ns, wall_ms, load), None)
        told = {effect.peer for effect in out if type(effect) is TellLoose}
        near = [peer for peer in sessions if self.following is None or self.following.follows(peer)]
        for peer in near[:DIRECT_MAX]:
            if peer not in told:
                out.append(TellLoose(peer, self.heartbeat.direct(wall_ms, load)))
            out.append(detector.Probe(peer))
        return out

    def link_down(self, now_ns: int) -> list[Effect]:
        """It is we who are away: nothing is known against those that we follow."""
        if self.digest is not None:
            self.digest.forget()
        return list(self.detector.handle(now_ns, detector.LinkLost()))

    def load_moved(self, now_ns: int) -> None:
        """Our own load may have changed."""
        self.heartbeat.moved(now_ns)

    def say_no_more(self, until_ns: int) -> None:
        """We said goodbye: no beat must revive us."""
        self.heartbeat.pause(until_ns)
        if self.digest is not None:
            self.digest = None

    # ── time ──────────────────────────────────────────────────────────────────────────────────────

    def tick(self, now_ns: int, wall_ms: int) -> list[Effect]:
        out = self._judged(now_ns, wall_ms, self.detector.tick(now_ns))
        if self.following is not None:
            out += self._chosen(now_ns, self.following.tick(now_ns))
        out += self.groupcast.tick(now_ns)
        fleet = self.digest.tick(now_ns) if self.digest is not None else None
        if fleet is not None or self.heartbeat.deadline_ns() <= now_ns:
            load = self._load(now_ns)
            beat = self.heartbeat.tick(now_ns, wall_ms, load)
            if beat is None and fleet is not None:
                beat = self.heartbeat.told(now_ns, wall_ms, load)  # the digest is ordered by its beat
            if beat is not None:
                out += self._beat(now_ns, beat, fleet)
        return out

    def deadline_ns(self) -> int:
        due = self.heartbeat.deadline_ns()
        for core in (self.detector, self.following, self.groupcast, self.digest):
            at_ns = core.deadline_ns() if core is not None else None
            if at_ns is not None and at_ns < due:
                due = at_ns
        return due

    def check(self) -> None:
        """Invariants; raises AssertionError."""
        for core in (self.detector, self.heartbeat, self.following, self.digest, self.groupcast):
            if core is not None:
                core.check()

    # ── inside ────────────────────────────────────────────────────────────────────────────────────

    def _beat(self, now_ns: int, beat: Beat, fleet: FleetDigest | None) -> list[Effect]:
        sealed = self.groupcast.seal(now_ns, [beat, fleet] if fleet is not None else [beat])
        if sealed is not None:
            return [Publish(self.groupcast.topic, sealed)]
        # No key yet. The gateway makes the first one when it starts, so it is a node that says this.
        return [TellLoose(peer, beat) for peer in ([GATEWAY] if self._me != GATEWAY else self.detector.up())]

    def _judged(self, now_ns: int, wall_ms: int, effects: list[detector.Effect]) -> list[Effect]:
        out: list[Effect] = []
        for effect in effects:
            out.append(effect)
            if type(effect) is detector.Probe:
                continue
            if type(effect) is detector.Up:
                if self.following is not None:
                    self.following.handle(now_ns, following.Came(effect.peer))
                    self.heartbeat.hasten(now_ns)  # where there is no session, it hears us by this
                out.append(TellLoose(effect.peer, self.heartbeat.direct(wall_ms, self._load(now_ns))))
                continue
            if self.digest is not None:
                self.digest.left(now_ns, effect.peer)
            elif self.following is not None and type(effect) is detector.Down and effect.peer != GATEWAY:
                out += self._chosen(now_ns, self.following.handle(now_ns, following.Went(effect.peer)))
        return out

    def _chosen(self, now_ns: int, effects: list[following.Effect]) -> list[Effect]:
        out: list[Effect] = []
        for effect in effects:
            topic = topics.topic_for(topics.Presence(self._mesh, effect.peer))
            if type(effect) is following.Follow:
                self.detector.handle(now_ns, detector.Watch(effect.peer))
                out.append(Subscribe((topic,)))
            else:
                self.detector.handle(now_ns, detector.Unwatch(effect.peer))
                out.append(Unsubscribe((topic,)))
        return out
