"""The node: every core of one member of a mesh, connected, and the turn that feeds them.

    link ─► channels (open) ─┐                       ┌─► channels (seal) ─► link
    control socket ──────────┼─► turn ──► cores ─────┼─► journal ─► Persisted ─┐
    worker pool, journal ────┘   (a batch)           └─► worker pool ─► done ──┴─► inbox

A turn takes everything that has happened, feeds it to the cores, and hands their effects to bounded
devices without waiting for any of them; what a turn wants to send to one peer leaves in one parcel.
It owns no loop, thread, socket or clock: ``agent`` runs it on an event loop beside real devices, the
simulator in virtual time beside modelled ones, unchanged. The gateway is this same node with an
``Extension`` of its own. Decisions are not made here.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from edge_node.chronicle.chronicle import Chronicle
from edge_node.chronicle.correspondence import Archive, Correspondence
from edge_node.chronicle.entry import Details
from edge_node.clock import Clock
from edge_node.discovery.neighbours import Neighbours
from edge_node.discovery.sightings import format_address
from edge_node.extension import Extension
from edge_node.functions.bundle import Bundles
from edge_node.functions.invocation import Completion, Invocation
from edge_node.functions.prefetch import Came, Missed, Prefetch, Reachable, Wanted
from edge_node.functions.provision import AskCatalogue, CannotRun, Provision, Start, Want
from edge_node.functions.publishing import Publisher, Shelf
from edge_node.functions.runtimes.runtime import OnDone, OnStarted, Runtime
from edge_node.logs import Seldom
from edge_node.membership import detector, presence
from edge_node.membership.abilities import Abilities
from edge_node.membership.heartbeat import BEAT_NS_MAX
from edge_node.scheduling.placement import Way
from edge_node.settings import NodeSettings
from edge_node.store import antientropy
from edge_node.store.cell_store import CellPort
from edge_node.store.replication import Replication
from edge_node.tasks import events as desk_events
from edge_node.tasks import salvage
from edge_node.tasks.desk import Desk, DeskSettings
from edge_node.tasks.journal import JournalPort
from edge_node.tasks.task import INLINE_BYTES_MAX, Attempt, Outcome, Record, Task
from edge_node.tasks.tracing import of_run, parts
from edge_node.transport import blobs, channel, groupcast, watchdog
from edge_node.transport.bodies import Bodies
from edge_node.transport.inbox import Inbox
from edge_node.transport.link import Delivery, Link, LinkDown, LinkUp, Sent
from edge_node.transport.outputs import Outputs
from edge_node.transport.pacing import Pacing
from edge_node.wire import messages, topics
from edge_node.wire.codec import direct_context
from edge_node.wire.ids import GATEWAY
from security.errors import EdgeweaveError, ProtocolViolation, Refused
from security.identity import NodeKeys
from security.keystore import KeyStore
from security.roster import Adopted, Roster, RosterView
from security.roster import Fork as RosterFork
from security.session import SESSIONS_MAX, Sessions

log = logging.getLogger(__name__)

SECOND = 1_000_000_000
OUTPUT_INLINE_MAX = 64 * 1024
"""A larger output is fetched by its digest, so that it does not hold up leases."""
OUTPUT_INLINE_MIN = 2 * 1024
GATEWAY_SESSIONS_MAX = 1_280
"""Every member a roster may list, and those of a former key while they renew; about 3 KiB each."""
BODIES_BYTES_MAX = 32 * 1024 * 1024
"""Fetched inputs and outputs waiting to be fetched; the oldest go first."""
UNTAKEN_BYTES_MAX = 8 * 1024 * 1024
"""A peer with more than this on its way is told no more bodies: twice what all its transfers may ask for."""
GOODBYE_NS = 60 * SECOND
"""No beat after a goodbye; the process ends long before."""


class Noting(Protocol):
    """Who writes down, for people to query: ``store.notes.Notes``."""

    def peer(self, row: dict[str, Any]) -> None: ...
    def result(self, row: dict[str, Any]) -> None: ...


RuntimeFactory = Callable[[OnDone, OnStarted], Runtime]


class Node:
    """One member of a mesh. Ports are what it acts on; nothing of it waits."""

    def __init__(
        self,
        *,
        node_id: str,
        settings: NodeSettings,
        keys: NodeKeys,
        keystore: KeyStore,
        roster: RosterView,
        inbox: Inbox,
        link: Link,
        runtime: RuntimeFactory,
        journal: JournalPort,
        documents: Shelf,
        bundles: Bundles,
        notes: Noting,
        archive: Archive,
        neighbours: Neighbours,
        cells: CellPort,
        clock: Clock,
        entropy: Callable[[int], bytes],
        extension: Extension | None = None,
        reading: groupcast.Reading | None = None,
    ) -> None:
        assert roster.current is not None, "a member has a roster"
        self.node_id = node_id
        self.mesh_id = roster.current.mesh_id
        self.settings = settings
        self.keys = keys
        self.keystore = keystore
        self.roster = roster
        self.inbox = inbox
        self.link = link
        self.clock = clock
        self.entropy = entropy
        self.extension = extension
        self.traced: Callable[[Task, Outcome], None] | None = None
        """Told of tasks that bear a trace, when they have settled."""
        self.boot_id = entropy(8)
        self.started_ms = self.clock.wall_ms()
        self.stories: Counter[str] = Counter()
        self.chronicle = Chronicle(node_id, self.boot_id)
        self._members_noted: frozenset[str] | None = None
        self.archive = archive
        self.neighbours = neighbours
        self.advertise = self.neighbours.advertise
        self.broker_addresses = self.neighbours.brokers
        self.sightings = self.neighbours.sightings

        self.documents = documents
        self.bundles = bundles
        self._set_aside_changed_bundles()
        self.bodies = Bodies(BODIES_BYTES_MAX)
        self.outputs = Outputs(self.bodies)
        self.publisher = Publisher(
            self,
            me=node_id,
            mesh_id=self.mesh_id,
            roster=roster,
            documents=self.documents,
            bundles=self.bundles,
            clock=self.clock,
            entropy=entropy,
        )
        self.catalogue = self.publisher.catalogue

        self.runtime = runtime(self._on_done, self._on_started)
        self.journal = journal
        # Which place, which peer, when: no keys. One for all of them, it takes 2.5 KB.
        rng = self._rng = random.Random(int.from_bytes(entropy(8), "big"))  # noqa: S311
        self.desk = Desk(
            me=node_id,
            settings=DeskSettings(
                workers=self.runtime.workers,
                outbox_tasks_max=settings.tasks.outbox_tasks_max,
                outbox_bytes_max=settings.tasks.outbox_bytes_max,
                outbox_ms_max=int(settings.tasks.outbox_s_max * 1000),
                speed=1.0 / settings.board.slowdown,
            ),
            rng=rng,
            way=self._way,
            untaken=self._untaken,
        )
        previous = keystore.previous_identity()
        self._statics = [keys.static_private_bytes]  # newest first; peers may know an older roster
        if previous is not None:
            self._statics.append(previous.keys.static_private_bytes)
        self.sessions = Sessions(
            me=node_id,
            mesh_id=self.mesh_id,
            boot_id=self.boot_id,
            static=self._statics,
            keys_of=self._keys_of,
            context=direct_context(self.mesh_id),
            entropy=entropy,
            roster_version=lambda: self.roster.version,
            wall_ms=self.clock.wall_ms,
            sessions_max=GATEWAY_SESSIONS_MAX if node_id == GATEWAY else SESSIONS_MAX,
        )
        self.channels = channel.Channels(
            me=node_id,
            mesh_id=self.mesh_id,
            sessions=self.sessions,
            signed_roster=lambda: self.roster.signed,
        )
        self.pacing = Pacing()
        self.watchdog = watchdog.Watchdog()
        self._watch_ns = self.clock.now_ns() + watchdog.LOOK_NS
        self._own_topic = topics.topic_for(topics.Direct(self.mesh_id, node_id, node_id))
        self.abilities = Abilities()
        self.presence = self._presence(reading, rng)
        self.detector = self.presence.detector
        self._group_duties = extension.groups if extension is not None else None
        self.blobs = blobs.Blobs(self._lookup)
        self.provision = Provision(
            me=node_id,
            gateway=GATEWAY,
            authorised=self.publisher.authorised,
            has_bundle=self.bundles.has,
            body=self.bodies.get,
        )
        ahead = settings.functions
        self.prefetch = Prefetch(
            has_bundle=self.bundles.has,
            kept_bytes=self.bundles.kept_bytes,
            idle=lambda: not self.desk.works_wait and not self.blobs.busy,
            holders=self._code_holders,
            rng=rng,
            bytes_max=ahead.prefetch_bytes_max if ahead.prefetch else 0,
        )

        self.replication = Replication(self, cells, rng)
        self.correspondence = Correspondence(self, archive)
        self._inquiries = self.correspondence.inquiries

        losses = journal.losses
        self.salvage = salvage.Salvage(
            node_id,
            lost=[task for each in losses for task in each.lost],
            unnamed=any(each.unnamed for each in losses),
            known=self._has_record,
        )
        self._next_token = 1
        self._replies: dict[int, Callable[[desk_events.Reply], None]] = {}
        self._waiters: dict[str, list[Callable[[Task, Outcome], None]]] = {}
        self.open_tasks: dict[str, Task] = {}
        self.notes = notes
        self._due_ns = 0
        self._pings: OrderedDict[int, tuple[str, int]] = OrderedDict()
        self._ping_waiters: dict[int, Callable[[int], None]] = {}
        self._appends: list[tuple[int, tuple[Record, ...]]] = []
        self.at_turn_end: list[Callable[[], None]] = []
        self._draining = False
        self._publish_errors: Counter[str] = Counter()
        self._newer_rosters = Seldom()
        self._handlers: dict[type, Callable[[int, int, Any], None]] = {
            Delivery: self._delivered,
            LinkUp: self._link_up,
            LinkDown: self._link_down,
            Sent: self._sent,
            desk_events.Submitted: self._to_desk,
            desk_events.Persisted: self._to_desk,
            desk_events.PersistFailed: self._to_desk,
            desk_events.WorkDone: self._to_desk,
            desk_events.WorkStarted: self._to_desk,
            desk_events.WorkRefused: self._to_desk,
            desk_events.Heard: self._to_desk,
            desk_events.CancelAsked: self._to_desk,
            desk_events.DigestHeard: self._to_desk,
            desk_events.Drain: self._to_desk,
            desk_events.Rested: self._to_desk,
            _Do: lambda now_ns, wall_ms, event: event.what(now_ns, wall_ms),
        }
        if extension is not None:
            extension.attach(self)
            extension.groups.attach(self)

    def _presence(self, reading: groupcast.Reading | None, rng: random.Random) -> presence.Presence:
        cast = groupcast.Groupcast(
            me=self.node_id,
            mesh_id=self.mesh_id,
            root_spki_sha256=self.roster.pin,
            is_member=self._is_active,
            entropy=self.entropy,
            reading=reading,
        )
        kept = self.keystore.group_secrets()
        damage = cast.restore(self.clock.now_ns(), kept) if kept is not None else None
        if damage is not None:
            log.error("the group's keys are damaged: they are asked for again", extra={"cause": damage})
        return presence.Presence(
            me=self.node_id,
            mesh_id=self.mesh_id,
            incarnation=self._incarnation(),
            boot_id=self.boot_id,
            groupcast=cast,
            load=self.desk.load,
            depends=self.desk.holds_lease,
            rng=rng,
            longest_ns=BEAT_NS_MAX,
        )

    def _incarnation(self) -> int:
        now_s = self.started_ms // 1000
        try:
            return self.keystore.next_incarnation(now_s)
        except (
            EdgeweaveError
        ) as error:  # above the last one, unless the clock went back: no reason to stay away
            log.error("this start could not be counted", extra={"cause": str(error)})
            return now_s

    # ── life ──────────────────────────────────────────────────────────────────────────────────────

    def begin_drain(self) -> None:
        """Take nothing new, hand back what waits; ``drained`` is called when nothing is held any more."""
        self._draining = True
        self.inbox.put_local(desk_events.Drain())

    def rest(self, now_ns: int, wall_ms: int, wish: messages.Rest) -> None:
        """As the operator wishes. A mode of a later version changes nothing."""
        mode = wish.mode
        if mode in ("work", "pause", "drain"):
            self.chronicle.rested(now_ns, wall_ms, self.node_id, mode, wish.by, wish.reason, wish.asked_at_ms)
            event = desk_events.Rested(mode != "work", mode == "drain")
            self._carry_out(now_ns, wall_ms, self.desk.handle(now_ns, wall_ms, event))

    def say_goodbye(self, now_ns: int, wall_ms: int) -> None:
        """What the last will says after a crash: without it an orderly end is noticed by silence only.

        The others look at once; no beat and no answer to their probes must revive us.
        """
        self.chronicle.ended(wall_ms)
        self._handlers[Delivery] = lambda now_ns, wall_ms, event: None
        self.presence.say_no_more(now_ns + GOODBYE_NS)
        with contextlib.suppress(EdgeweaveError):  # no link, nobody to tell
            self.link.send(0, topics.topic_for(topics.Presence(self.mesh_id, self.node_id)), b"")

    def drained(self) -> None:
        """Nothing is held any more; for the shell."""

    def requirements_changed(self) -> None:
        """The catalogue may ask for modules that we lack; for the shell, which can look."""

    def soon(self, what: Callable[[int, int], None]) -> None:
        """Do this in the next turn, from any coroutine of the loop."""
        self.inbox.put_local(_Do(what))

    def prepare(self) -> None:
        """Before any device starts: what is known of the catalogue, and what the link is to subscribe to.

        A link that connects without subscriptions is up without hearing anybody.
        """
        self.publisher.restore()
        self.link.subscribe(topics.subscriptions(self.mesh_id, self.node_id))

    def begin(self, open_tasks: list[tuple[Task, list[Attempt]]]) -> None:
        """The first turn, after ``prepare``. Args: open_tasks: accepted and not settled, by the journal."""
        now_ns, wall_ms = self.clock.now_ns(), self.clock.wall_ms()
        self._roster_into_cores(now_ns, wall_ms)
        self._prefetch_wanted(now_ns)
        self.chronicle.began(wall_ms, self.abilities.own.version, len(open_tasks))
        for task, _ in open_tasks:
            self._opened(task)
        self._carry_out(now_ns, wall_ms, self.desk.restore(now_ns, wall_ms, open_tasks))
        if open_tasks:
            log.info("resuming accepted tasks", extra={"tasks": len(open_tasks)})

    def turn(self, events: list[Any]) -> None:
        """Feed what has happened, do what is due, hand everything out."""
        handlers = self._handlers
        now_ns, wall_ms = self.clock.now_ns(), self.clock.wall_ms()
        for event in events:
            handlers[type(event)](now_ns, wall_ms, event)
        if now_ns >= self._due_ns:  # what this turn made due sooner, the next turn comes for at once
            self._tick(now_ns, wall_ms)
        link = self.link
        if link.up:  # what cannot leave now stays in its lanes, where what is newer may still go first
            pacing = self.pacing
            if pacing.on_line:
                pacing.taken(now_ns, link.handed - link.untaken)
            self._publish(now_ns, wall_ms, self.channels.flush(now_ns, pacing.room))
        link.flush()
        self.runtime.flush()
        for flush in self.at_turn_end:
            flush()
        if self.chronicle.fresh:
            self.archive.append(self.chronicle.take())
        if self._appends:
            # Last: the journal's thread wants the interpreter, and what has just left does not.
            appends, self._appends = self._appends, []
            for serial, records in appends:
                self.journal.append(serial, records)
        self.replication.flush()

    def deadline_ns(self) -> int:
        """When the next turn is due, whatever happens until then."""
        dues = (
            self.desk.deadline_ns(),
            self.channels.deadline_ns(),
            self.blobs.deadline_ns(),
            self.provision.deadline_ns(),
            self.prefetch.deadline_ns(),
            self.presence.deadline_ns(),
            self._group_duties.deadline_ns() if self._group_duties is not None else None,
            self._inquiries.deadline_ns(),
            self.salvage.deadline_ns(),
            self.replication.deadline_ns(),
        )
        soonest = dues[5]  # a loop: this is asked after every turn
        for due in dues:
            if due is not None and due < soonest:
                soonest = due
        self._due_ns = soonest
        return soonest

    def _tick(self, now_ns: int, wall_ms: int) -> None:
        due = self.desk.deadline_ns()
        if due is not None and due <= now_ns:
            self._carry_out(now_ns, wall_ms, self.desk.tick(now_ns, wall_ms))
        due = self.channels.deadline_ns()
        if due is not None and due <= now_ns:
            self._publish(now_ns, wall_ms, self.channels.tick(now_ns, self.pacing.untaken_since_ns))
        due = self.blobs.deadline_ns()
        if due is not None and due <= now_ns:
            self._blob_effects(now_ns, wall_ms, self.blobs.tick(now_ns))
        due = self.provision.deadline_ns()
        if due is not None and due <= now_ns:
            self._provided(now_ns, wall_ms, self.provision.tick(now_ns))
        due = self.prefetch.deadline_ns()
        if due is not None and due <= now_ns:
            self._provided(now_ns, wall_ms, list(self.prefetch.tick(now_ns)))
        due = self.salvage.deadline_ns()
        if due is not None and due <= now_ns:
            self._taken_back(now_ns, wall_ms, self.salvage.tick(now_ns, wall_ms))
        if self.presence.deadline_ns() <= now_ns:
            self._judged(now_ns, wall_ms, self.presence.tick(now_ns, wall_ms))
        if self._group_duties is not None:
            self._group_duties.tick(now_ns, wall_ms)
        due = self._inquiries.deadline_ns()
        if due is not None and due <= now_ns:
            self.correspondence.tick(now_ns, wall_ms)
        if self.replication.deadline_ns() <= now_ns:
            self.replication.tick(now_ns, wall_ms)
        if now_ns >= self._watch_ns:  # not worth a turn of its own: beats make them
            self._watch(now_ns)

    def _watch(self, now_ns: int) -> None:
        """Does the link get on?"""
        self._watch_ns = now_ns + watchdog.LOOK_NS
        link = self.link
        for effect in self.watchdog.look(
            now_ns,
            waits=self.channels.waiting,
            taken=link.handed - link.untaken,
            on_line=self.pacing.on_line,
        ):
            match effect:
                case watchdog.Probe():
                    with contextlib.suppress(EdgeweaveError):
                        link.send(0, self._own_topic, b"")
                case watchdog.Rebuild(reason):
                    log.warning("the link does not get on: made anew", extra={"cause": reason})
                    self.stories["link made anew"] += 1
                    link.rebuild(reason)

    # ── the link ──────────────────────────────────────────────────────────────────────────────────

    def _delivered(self, now_ns: int, wall_ms: int, event: Delivery) -> None:
        self.watchdog.heard(now_ns)
        if event.topic == self._own_topic:
            return  # our own probe
        try:
            topic = topics.parse(event.topic)
        except ProtocolViolation as violation:
            self.channels.violated(violation.cause)
            return
        match topic:
            case topics.Direct():
                effects = self.channels.delivered(now_ns, topic, event.payload)
                if effects:
                    self._publish(now_ns, wall_ms, effects)
            case topics.Presence():
                effects_of = self.presence.delivered(now_ns, wall_ms, topic, event.payload)
                if effects_of:
                    self._judged(now_ns, wall_ms, effects_of)
            case topics.Group():
                batch = self.presence.groupcast.batch_delivered(now_ns, topic, event.payload)
                if batch is not None:
                    self.replication.batch_heard(now_ns, wall_ms, topic.src, batch)
            case topics.RosterTopic(mesh) if mesh == self.mesh_id and event.payload:
                self.adopt_roster(now_ns, wall_ms, event.payload)

    def _publish(self, now_ns: int, wall_ms: int, effects: list[channel.Effect]) -> None:
        """Carry out what the channels ask for."""
        heard_of = ""
        for effect in effects:
            kind = type(effect)
            if kind is channel.Publish:
                assert isinstance(effect, channel.Publish)
                size = len(effect.payload)
                watched = self.pacing.watches(size)
                try:
                    self.link.send(_WATCHED if watched else 0, effect.topic, effect.payload)
                except EdgeweaveError as error:
                    self._publish_errors[error.cause] += 1  # unacknowledged: the stream sends it again
                else:
                    self.pacing.handed(now_ns, self.link.handed, size, watched=watched)
            elif kind is channel.Heard:
                assert isinstance(effect, channel.Heard)
                if effect.peer != heard_of:
                    heard_of = effect.peer
                    news = self.presence.heard(now_ns, wall_ms, heard_of)
                    if news:
                        self._judged(now_ns, wall_ms, news)
                self._heard(now_ns, wall_ms, effect.peer, effect.message)
            else:
                self._channel_news(now_ns, wall_ms, effect)

    def _channel_news(self, now_ns: int, wall_ms: int, effect: channel.Effect) -> None:
        match effect:
            case channel.PeerReady(peer, restarted):
                self._judged(now_ns, wall_ms, self.presence.ready(now_ns, wall_ms, peer))
                if restarted:
                    log.info("peer restarted", extra={"peer": peer})
                    self.chronicle.restarted(now_ns, wall_ms, peer)
                    self._peer_up(now_ns, wall_ms, peer, restarted=True)
                    self.chronicle.there(peer)
                self.tell(now_ns, peer, self.abilities.own)
                self._taken_back(now_ns, wall_ms, self.salvage.ready(now_ns, peer))
                if GATEWAY in (peer, self.node_id):
                    self.tell(now_ns, peer, self.publisher.wish())
                if self._group_duties is not None:
                    self._group_duties.session(now_ns, wall_ms, peer, True)
            case channel.PeerLost(peer, reason):
                log.info("session ended", extra={"peer": peer, "cause": reason})
                self.presence.lost(peer)
                if self._group_duties is not None:
                    self._group_duties.session(now_ns, wall_ms, peer, False)
            case channel.RosterWanted(peer, version):
                if count := self._newer_rosters.due(now_ns):  # a broker can invent the names
                    about = {"peer": peer, "version": version, "times": count}
                    log.info("a newer roster is spoken of", extra=about)
                self.channels.ask_roster(now_ns, peer)
            case channel.RosterOffered(peer, signed):
                self.adopt_roster(now_ns, wall_ms, signed)
                if self.extension is not None:
                    self.extension.roster_shown(peer, signed)

    def _link_up(self, now_ns: int, wall_ms: int, event: LinkUp) -> None:
        why = self.chronicle.link_up(now_ns, wall_ms, _text_of(getattr(self.link, "address", None)))
        log.info("broker connected", extra={"connection": event.number, **_asked_by(why)})
        self.pacing.restarted()
        self.watchdog.link_up(now_ns)
        self.channels.link_up()
        if self.extension is not None:
            self.extension.link_up()
        if self.node_id != GATEWAY:
            self.channels.connect(now_ns, GATEWAY)
            self.neighbours.announce_member(getattr(self.link, "address", None))
        sessions = [peer for peer, _ in self.channels.streams() if self.channels.has(peer)]
        self._judged(now_ns, wall_ms, self.presence.link_up(now_ns, wall_ms, sessions))

    def _link_down(self, now_ns: int, wall_ms: int, event: LinkDown) -> None:
        why = self.chronicle.link_down(now_ns, wall_ms, event.reason)
        log.warning("broker not connected", extra={"cause": event.reason, **_asked_by(why)})
        self.watchdog.link_down()
        self._judged(now_ns, wall_ms, self.presence.link_down(now_ns))

    def _sent(self, now_ns: int, wall_ms: int, event: Sent) -> None:
        """Its use is the turn that it makes: there is room on the line."""
        if event.refused is not None:
            self._publish_errors[event.refused] += 1
        elif self.link.up:
            self.pacing.taken(now_ns, self.link.handed - self.link.untaken)

    # ── messages ──────────────────────────────────────────────────────────────────────────────────

    def _heard(self, now_ns: int, wall_ms: int, peer: str, message: Any) -> None:
        kind = type(message)
        if (
            kind is messages.Result
            and message.output_digest is not None
            and not message.output
            and self.desk.expects(peer, message.task, message.attempt)  # nobody makes us fetch anything else
        ):
            self._fetch_output(now_ns, wall_ms, peer, message)
        elif kind in _FOR_DESK:
            self._carry_out(
                now_ns, wall_ms, self.desk.handle(now_ns, wall_ms, desk_events.Heard(peer, message))
            )
            if kind is messages.Beat:
                self.presence.beat_heard(now_ns, peer, message)
                self.replication.beat_heard(now_ns, peer, message.sent_at_ms)
                if self.extension is not None:
                    self.extension.heard(peer, message)
            elif kind is messages.About:
                self.abilities.heard(peer, message)
                if self.extension is not None:
                    self.extension.heard(peer, message)
        elif kind is messages.Rest:
            if peer == GATEWAY:  # nobody else tells us what to do
                self.rest(now_ns, wall_ms, message)
        elif kind is messages.Ping:
            self.channels.send_loose(peer, messages.Pong(message.nonce, self.desk.load(now_ns)))
        elif kind is messages.Pong:
            self._ponged(now_ns, wall_ms, peer, message)
        elif kind in _LARGE_ANSWERS and self.channels.backlog_bytes(peer) > UNTAKEN_BYTES_MAX:
            self.channels.violated(
                "asked for more than it takes"
            )  # 40 bytes must not cost us 256 KiB for ever
        elif kind in _FOR_BLOBS:
            self._blob_effects(now_ns, wall_ms, self.blobs.handle(now_ns, peer, message))
            if kind is messages.BlobChunk:
                self._put_all(self.outputs.chunk_came(peer, message.digest))
        elif kind is messages.CatalogueWanted:
            self.publisher.entries_wanted(now_ns, peer, message)
        elif kind is messages.CatalogueEntries:
            self.publisher.entries_came(now_ns, wall_ms, message.entries)
        elif kind is messages.Publish:
            self.publisher.publish_asked(now_ns, wall_ms, peer, message)
        elif kind is messages.Published:
            self.publisher.published(peer, message)
        elif kind is messages.GroupKeysWanted:
            self._judged(now_ns, wall_ms, self.presence.keys_wanted(now_ns, peer, message))
        elif kind is messages.GroupKeys:
            self.keys_came(now_ns, wall_ms, peer, message)
        elif kind in antientropy.KINDS:
            self.replication.heard(now_ns, wall_ms, peer, message)
        elif kind is messages.StateSnapshot:
            self.replication.snapshot_offered(now_ns, wall_ms, peer, message)
        elif kind is messages.StoryWanted:
            self.correspondence.wanted(now_ns, wall_ms, peer, message)
        elif kind is messages.Story:
            self.correspondence.told(now_ns, wall_ms, peer, message)
        elif kind is messages.HeldWanted:
            self.tell(now_ns, peer, self.desk.held_of(now_ns, peer, message.after))
        elif kind is messages.Held:
            self._taken_back(now_ns, wall_ms, self.salvage.held(now_ns, wall_ms, peer, message))
        elif self.extension is not None:
            self.extension.heard(peer, message)

    def _taken_back(self, now_ns: int, wall_ms: int, effects: list[salvage.Effect]) -> None:
        for effect in effects:
            match effect:
                case salvage.Ask(peer, after):
                    self.tell(now_ns, peer, messages.HeldWanted(after))
                case salvage.TakeBack():
                    about = {"task": effect.task.id, "peer": effect.peer, "result": effect.result is not None}
                    log.warning("a task that the ledger had lost was given back", extra=about)
                    self._opened(self._limited(effect.task))
                    taken = msgspec.structs.replace(effect, task=self.open_tasks[effect.task.id])
                    self._carry_out(now_ns, wall_ms, self.desk.take_back(now_ns, wall_ms, taken))

    def _has_record(self, task: str) -> bool:
        """Of this task of ours; a ledger that cannot be read now may have one."""
        try:
            return self.desk.knows(task) or self.journal.get(task) is not None
        except EdgeweaveError:
            return True

    def _limited(self, task: Task) -> Task:
        """With the limits that its signed function names; a holder does not know them."""
        manifest = self.publisher.manifest_of(task.function, task.digest)
        if manifest is None:
            return task
        return msgspec.structs.replace(
            task, timeout_s=manifest.timeout_s, memory_mb=manifest.memory_mb,
            requires=tuple(manifest.requires), labels=dict(manifest.labels),
        )  # fmt: skip

    def tell(self, now_ns: int, peer: str, message: messages.Message, *, bulk: bool = False) -> None:
        """Send a message, acknowledged by the peer's agent; a full stream is counted and given up."""
        try:
            self.channels.send(now_ns, peer, message, bulk=bulk)
        except EdgeweaveError as error:
            self._publish_errors[error.cause] += 1
            log.warning("message not queued", extra={"peer": peer, "cause": error.cause})

    def _ponged(self, now_ns: int, wall_ms: int, peer: str, message: messages.Pong) -> None:
        asked = self._pings.pop(message.nonce, None)
        if asked is not None and asked[0] == peer:
            self.channels.answered(peer, now_ns - asked[1])
            waiter = self._ping_waiters.pop(message.nonce, None)
            if waiter is not None:
                waiter(now_ns - asked[1])
        if message.load is not None:
            self._to_desk(now_ns, wall_ms, desk_events.Heard(peer, message))

    def ping(self, now_ns: int, peer: str) -> int:
        nonce = int.from_bytes(self.entropy(6), "big")
        self._pings[nonce] = (peer, now_ns)
        while len(self._pings) > 256:
            self._pings.popitem(last=False)
        self.channels.send_loose(peer, messages.Ping(nonce))
        return nonce

    def ping_for(self, now_ns: int, peer: str, answered: Callable[[int], None]) -> None:
        """Ask for a sign of life; *answered* gets the nanoseconds, if one comes."""
        self._ping_waiters[self.ping(now_ns, peer)] = answered

    def forget_ping(self, answered: Callable[[int], None]) -> None:
        for nonce in [nonce for nonce, one in self._ping_waiters.items() if one is answered]:
            del self._ping_waiters[nonce]

    # ── beats and verdicts ────────────────────────────────────────────────────────────────────────

    def keys_came(self, now_ns: int, wall_ms: int, peer: str, keys: messages.GroupKeys) -> None:
        """An epoch of the mesh's group, from a peer or (at the gateway) made by ourselves."""
        self._judged(now_ns, wall_ms, self.presence.keys_came(now_ns, wall_ms, peer, keys))

    def _judged(self, now_ns: int, wall_ms: int, effects: list[presence.Effect]) -> None:
        """Carry out what presence asks for."""
        for effect in effects:
            match effect:
                case presence.Beaten(peer, beat):
                    self.replication.beat_heard(now_ns, peer, beat.sent_at_ms)
                    if self.channels.life_of(peer) not in (None, beat.boot_id):
                        self.channels.boot_seen(now_ns, peer, beat.boot_id)
                    self._to_desk(now_ns, wall_ms, desk_events.Heard(peer, beat))
                    if self.extension is not None:
                        self.extension.heard(peer, beat)
                case presence.Publish(topic, payload):
                    with contextlib.suppress(EdgeweaveError):  # no link, or one that is full: the next beat
                        self.link.send(0, topic, payload, qos=0)
                case presence.TellLoose(peer, beat):
                    if self.channels.has(peer):
                        self.channels.send_loose(peer, beat)
                case detector.Up(peer):
                    why = self.chronicle.back(now_ns, wall_ms, peer)
                    log.info("peer is up", extra={"peer": peer, **_asked_by(why)})
                    self.replication.peers_changed()
                    self._peer_up(now_ns, wall_ms, peer)
                    if peer == GATEWAY:
                        self.prefetch.handle(now_ns, Reachable())
                    self.notes.peer({"id": peer, "up": True, "at_ms": wall_ms})
                    if self.extension is not None:
                        self.extension.peer_changed(peer, True, "")
                case detector.Down(peer, reason):
                    noted = self.link.up and self._is_active(peer)
                    why = self.chronicle.lost(now_ns, wall_ms, peer, reason) if noted else ""
                    log.warning("peer is down", extra={"peer": peer, "cause": reason, **_asked_by(why)})
                    self._peer_down(now_ns, wall_ms, peer)
                    self.replication.peers_changed()
                    self.notes.peer({"id": peer, "up": False, "at_ms": wall_ms, "cause": reason})
                    if self.extension is not None:
                        self.extension.peer_changed(peer, False, reason)
                case detector.Quiet(peer):
                    log.debug("peer is quiet", extra={"peer": peer})
                    self._peer_down(now_ns, wall_ms, peer, quiet=True)
                case detector.Probe(peer):
                    self.ping(now_ns, peer)
                case presence.Digested(entries):
                    self._to_desk(now_ns, wall_ms, desk_events.DigestHeard(entries))
                case presence.Subscribe(wanted):
                    self.link.subscribe(list(wanted))
                case presence.Unsubscribe(unwanted):
                    self.link.unsubscribe(list(unwanted))
                case groupcast.Tell(peer, message):
                    self.tell(now_ns, peer, message)
                case groupcast.Keep(stored):
                    try:
                        self.keystore.save_group_secrets(stored)
                    except EdgeweaveError as error:  # they are asked for again after a restart
                        log.error("the group's keys could not be kept", extra={"cause": str(error)})
                case groupcast.Adopted(epoch, shown_by):
                    log.info("group epoch adopted", extra={"epoch": epoch, "peer": shown_by})
                    self.chronicle.epoch(now_ns, wall_ms, epoch, shown_by)
                    if self._group_duties is not None and shown_by != self.node_id:
                        current = self.presence.groupcast.current
                        assert current is not None, "adopted a moment ago"
                        self._group_duties.shown(now_ns, wall_ms, current)

    def _peer_down(self, now_ns: int, wall_ms: int, peer: str, *, quiet: bool = False) -> None:
        event = desk_events.PeerDown(peer, quiet=quiet or not self.link.up)
        self._carry_out(now_ns, wall_ms, self.desk.handle(now_ns, wall_ms, event))
        if self.link.up and not quiet:  # it is away, not we: nobody's work waits for what it was to send
            self._blob_effects(now_ns, wall_ms, self.blobs.peer_down(now_ns, peer))

    def _peer_up(self, now_ns: int, wall_ms: int, peer: str, *, restarted: bool = False) -> None:
        member = self.roster.current.member(peer) if self.roster.current else None
        if member is None:
            return
        event = desk_events.PeerUp(peer, self.channels.rtt_ns(peer), member.labels, member.roles, restarted)
        self._carry_out(now_ns, wall_ms, self.desk.handle(now_ns, wall_ms, event))

    # ── the roster ────────────────────────────────────────────────────────────────────────────────

    def adopt_roster(self, now_ns: int, wall_ms: int, signed: bytes) -> None:
        """Take a signed roster from wherever; it can only move up."""
        try:
            result = self.roster.adopt(signed)
        except ProtocolViolation as violation:
            self.channels.violated(f"roster: {violation.cause}")
            return
        match result:
            case Adopted():
                try:
                    self.keystore.save_roster(signed)
                except EdgeweaveError as error:
                    log.error("the roster could not be kept", extra={"cause": str(error)})
                self._roster_into_cores(now_ns, wall_ms)
                assert self.roster.current is not None
                log.info("roster adopted", extra={"version": self.roster.version})
                if self.extension is not None:
                    self.extension.roster_changed(self.roster.current, signed)
            case RosterFork():
                log.critical("two rosters of one version: is a second gateway, or an old backup, at work?")
                self.stories["roster fork"] += 1

    def roster_moved(self, now_ns: int, wall_ms: int) -> None:
        """The view was moved up by its keeper (on the gateway)."""
        self._roster_into_cores(now_ns, wall_ms)

    def _roster_into_cores(self, now_ns: int, wall_ms: int) -> None:
        roster = self.roster.current
        assert roster is not None
        ids = roster.active_ids
        known, self._members_noted = self._members_noted, ids
        if known is not None and known != ids:
            went = {name: _departure(roster, name) for name in known - ids}
            self.chronicle.membership(now_ns, wall_ms, self.roster.version, ids - known, went)
        self.neighbours.members(now_ns, ids)
        if self.link.up and self.node_id != GATEWAY:  # it may name another broker
            self.neighbours.announce_member(getattr(self.link, "address", None))
        for peer in [p for p, _ in self.channels.streams() if p not in ids]:
            self.channels.forget(now_ns, peer)
        self._judged(now_ns, wall_ms, self.presence.members(now_ns, wall_ms, ids, roster.active_names))
        self.abilities.keep_only(ids)
        if self._group_duties is not None:
            self._group_duties.roster_in_force(now_ns, wall_ms, roster)
        self.channels.roster_changed(now_ns)
        self._carry_out(now_ns, wall_ms, self.desk.handle(now_ns, wall_ms, roster.once(_for_desk)))
        self.replication.roster_changed(now_ns, wall_ms)

    def renewed(self, keys: NodeKeys, signed: bytes) -> None:
        """New keys: the next handshakes and the next connection use them, what stands goes on."""
        self.keys = keys
        self._statics.insert(0, keys.static_private_bytes)
        del self._statics[2:]
        self.soon(lambda now_ns, wall_ms: self.adopt_roster(now_ns, wall_ms, signed))
        self.soon(self.replication.keys_changed)

    def _keys_of(self, peer: str) -> tuple[bytes, ...]:
        if self.settings.trust.stale_roster == "strict" and self.roster.is_stale(
            self.clock.wall_ms() // 1000
        ):
            return ()  # no new sessions on an old word
        member = self.roster.current.member(peer) if self.roster.current else None
        return tuple(key.x25519 for key in member.keys) if member is not None else ()

    def _is_active(self, peer: str) -> bool:
        return self.roster.current is not None and self.roster.current.member(peer) is not None

    @property
    def is_member(self) -> bool:
        return self._is_active(self.node_id)

    # ── the desk ──────────────────────────────────────────────────────────────────────────────────

    def _to_desk(self, now_ns: int, wall_ms: int, event: desk_events.Event) -> None:
        self._carry_out(now_ns, wall_ms, self.desk.handle(now_ns, wall_ms, event))

    def _carry_out(self, now_ns: int, wall_ms: int, effects: list[desk_events.Effect]) -> None:
        for effect in effects:
            match effect:
                case desk_events.Tell(peer, message):
                    if type(message) is messages.Result and len(message.output) > self._inline_max():
                        message = self.outputs.replace(message)
                    self.tell(now_ns, peer, message)
                case desk_events.Look(peer):
                    self._reach(now_ns, peer)
                    self.ping(now_ns, peer)
                case desk_events.Append(serial, records):
                    self._appends.append((serial, records))
                case desk_events.Run():
                    self.presence.load_moved(now_ns)
                    self._provided(now_ns, wall_ms, self.provision.run(now_ns, effect))
                case desk_events.Settled(task_id, outcome):
                    self.presence.load_moved(now_ns)
                    self._settled(task_id, outcome)
                case desk_events.Reply(token=token):
                    reply = self._replies.pop(token, None)
                    if reply is not None:
                        reply(effect)
                case desk_events.Stop(task, attempt):
                    self._stop(now_ns, wall_ms, task, attempt)
                case desk_events.Explain(task_id, what, place, attempt, details):
                    about = {"task": task_id, "what": what, "place": place, "attempt": attempt}
                    if (ours := self.open_tasks.get(task_id)) is not None and ours.trace:
                        about["traceparent"] = parts(ours.trace)[0]
                    log.debug("task story", extra=about | {"details": details})
                    self.chronicle.explained(now_ns, wall_ms, effect)
                case desk_events.Drained():
                    self.drained()

    def _inline_max(self) -> int:
        """A result that takes our line longer than a quarter of a second is fetched, chunk by chunk."""
        bytes_s = self.pacing.bytes_s
        if bytes_s is None:
            return OUTPUT_INLINE_MAX
        return max(OUTPUT_INLINE_MIN, min(OUTPUT_INLINE_MAX, int(bytes_s / 4)))

    def _untaken(self, peer: str) -> int:
        """Bytes that this peer has not acknowledged."""
        return self.channels.backlog_bytes(peer)

    def _way(self, peer: str) -> Way:
        """What is known of the way to a peer."""
        pacing, rtt = self.pacing, self.channels.way_ns(peer)
        queued = pacing.on_line + self.channels.queued
        if rtt is None:
            return Way(None, 0.0, queued, pacing.bytes_s)
        return Way(rtt[0] / SECOND, rtt[1] / SECOND, queued, pacing.bytes_s)

    def _stop(self, now_ns: int, wall_ms: int, task: str, attempt: int) -> None:
        if self.provision.stop(task, attempt):
            done = desk_events.WorkDone("", task, attempt, "cancelled")
            self.inbox.put_local(done)
        else:
            self.runtime.cancel(task, attempt)

    def _settled(self, task_id: str, outcome: Outcome) -> None:
        task = self.open_tasks.pop(task_id, None)
        waiters = self._waiters.pop(task_id, ())
        if task is None:
            return
        if len(task.input) > INLINE_BYTES_MAX:
            self.bodies.release(task.input_sha256)
        self.notes.result(
            {
                "id": task_id,
                "function": task.function,
                "status": outcome.status,
                "place": outcome.place,
                "settled_at_ms": outcome.settled_at_ms,
            }
        )
        if task.trace and self.traced is not None:
            self.traced(task, outcome)
        for waiter in waiters:
            waiter(task, outcome)

    def _opened(self, task: Task) -> None:
        self.open_tasks[task.id] = task
        if task.where not in _NO_PEER and task.where != self.node_id:
            # A place named by hand may be a member that we never spoke to.
            self.soon(lambda now_ns, _: self._reach(now_ns, task.where))
        if len(task.input) > INLINE_BYTES_MAX:
            self.bodies.hold(task.input_sha256, task.input)

    def _reach(self, now_ns: int, peer: str) -> None:
        if not self.channels.has(peer) and self._keys_of(peer):
            self.channels.connect(now_ns, peer)

    def submit(self, task: Task, reply: Callable[[desk_events.Reply], None]) -> None:
        """Hand a task to the desk in the next turn; *reply* is called once, with the desk's answer."""
        token = self._next_token
        self._next_token += 1

        def answered(answer: desk_events.Reply) -> None:
            if not answer.accepted:
                self._forget_open(task.id)
                now_ns, wall_ms = self.clock.now_ns(), self.clock.wall_ms()
                cause = self.chronicle.turned_away(now_ns, wall_ms, answer, task)
                answer = desk_events.Reply(
                    answer.token, False, answer.reason, answer.task_id, answer.detail, cause
                )
            reply(answer)

        self._opened(task)
        self._replies[token] = answered
        self.inbox.put_local(desk_events.Submitted(token, task))

    def _forget_open(self, task_id: str) -> None:
        task = self.open_tasks.pop(task_id, None)
        self._waiters.pop(task_id, None)
        if task is not None and len(task.input) > INLINE_BYTES_MAX:
            self.bodies.release(task.input_sha256)

    def cancel(self, task_id: str, reply: Callable[[desk_events.Reply], None]) -> None:
        token = self._next_token
        self._next_token += 1
        self._replies[token] = reply
        self.inbox.put_local(desk_events.CancelAsked(token, task_id))

    def when_settled(self, task_id: str, waiter: Callable[[Task, Outcome], None]) -> Callable[[], None]:
        """Call *waiter* when the open task settles; the answer takes the wish back."""
        waiters = self._waiters.setdefault(task_id, [])
        waiters.append(waiter)

        def forget() -> None:
            with contextlib.suppress(ValueError):
                waiters.remove(waiter)

        return forget

    # ── running ───────────────────────────────────────────────────────────────────────────────────

    def _provided(self, now_ns: int, wall_ms: int, effects: list[Any]) -> None:
        for effect in effects:
            match effect:
                case Start(run, body, timeout_s, memory_mb):
                    self.runtime.start(
                        Invocation(
                            task=run.task,
                            attempt=run.attempt,
                            function=run.function,
                            digest=run.digest,
                            bundle_path=str(self.bundles.path(run.digest)),
                            input=body,
                            timeout_s=timeout_s,
                            memory_mb=memory_mb,
                            expected_s=run.expected_s,
                            trace=of_run(run.trace, run.task, run.attempt) if run.trace else "",
                        )
                    )
                case Want(digest, holders):
                    self._blob_effects(now_ns, wall_ms, self.blobs.want(now_ns, digest, list(holders)))
                case AskCatalogue(peers):
                    for peer in peers:
                        self.tell(now_ns, peer, self.publisher.wish())
                case CannotRun(run, reason, detail):
                    traced = {"traceparent": parts(run.trace)[0]} if run.trace else {}
                    log.warning("cannot run", extra={"task": run.task, "cause": detail, **traced})
                    self.chronicle.not_started(now_ns, wall_ms, run.owner, run.task, run.attempt, detail)
                    event = desk_events.WorkRefused(run.owner, run.task, run.attempt, reason)
                    self.inbox.put_local(event)  # never into the desk while its effects are being carried out

    def _on_started(self, task: str, attempt: int, pid: int) -> None:
        self.inbox.put_local(desk_events.WorkStarted(task, attempt, pid, self.clock.wall_ms()))

    def _set_aside_changed_bundles(self) -> None:
        """A changed bundle never runs (its worker looks first); out of the way, it is fetched anew."""
        for digest in self.bundles.verify():
            self.stories["bundle changed on disk"] += 1
            log.error("a kept bundle was changed on disk: set aside", extra={"digest": digest})
            self.chronicle.damaged(self.clock.wall_ms(), f"a bundle was changed on disk: {digest!r}")

    def _on_done(self, done: Completion) -> None:
        if done.error is not None and done.error.kind == "bundle":
            self._set_aside_changed_bundles()
        self.inbox.put_local(
            desk_events.WorkDone(
                owner="",
                task=done.task,
                attempt=done.attempt,
                status=done.status,
                output=done.output,
                error=done.error.encode() if done.error is not None else b"",
                log=done.log,
                pid=done.pid,
                started_at_ms=done.started_at_ms,
                ended_at_ms=done.ended_at_ms,
                cpu_us=done.cpu_us,
                run_us=done.run_us,
                worker_died=done.worker_died,
            )
        )

    def on_persisted(self, serials: list[int]) -> None:
        for serial in serials:
            self.inbox.put_local(desk_events.Persisted(serial))

    def on_persist_failed(self, serials: list[int], reason: str) -> None:
        why = self.chronicle.not_written(self.clock.now_ns(), self.clock.wall_ms(), reason)
        log.error("the ledger could not be written", extra={"cause": reason, **_asked_by(why)})
        for serial in serials:
            self.inbox.put_local(desk_events.PersistFailed(serial, reason))

    # ── bodies ────────────────────────────────────────────────────────────────────────────────────

    def _lookup(self, digest: bytes) -> bytes | None:
        body = self.bodies.get(digest)
        if body is None:
            body = self.replication.lookup(digest)
        if body is None and self.bundles.has(digest):
            try:
                body = self.bundles.get(digest)
            except EdgeweaveError as error:
                log.error("bundle cannot be served", extra={"cause": str(error)})
        return body

    def _blob_effects(self, now_ns: int, wall_ms: int, effects: list[blobs.Effect]) -> None:
        for effect in effects:
            match effect:
                case blobs.Tell(peer, message, bulk):
                    self.tell(now_ns, peer, message, bulk=bulk)
                case blobs.Fetched(digest, body) if self.replication.wants(digest):
                    self.replication.body_came(now_ns, wall_ms, digest, body)
                case blobs.NotFetched(digest, reason) if self.replication.wants(digest):
                    self.replication.body_missed(digest)
                case blobs.Fetched(digest, body):
                    self._body_came(now_ns, wall_ms, digest, body)
                case blobs.NotFetched(digest, reason):
                    self._body_missed(now_ns, wall_ms, digest, reason)

    def _body_came(self, now_ns: int, wall_ms: int, digest: bytes, body: bytes) -> None:
        if self.publisher.wants(digest):
            try:
                self.bundles.put(body)
            except EdgeweaveError as error:  # a full disk, or no bundle at all: to ask again would not end
                log.error("bundle cannot be kept", extra={"cause": str(error)})
                self._body_missed(now_ns, wall_ms, digest, error.cause)
                return
            self._code_noted(now_ns, wall_ms, digest)
        else:
            self.bodies.keep(body)
        self._put_all(self.outputs.body_came(digest, body))
        self.publisher.bundle_came(now_ns, wall_ms, digest)
        self.prefetch.handle(now_ns, Came(digest))
        self._provided(now_ns, wall_ms, self.provision.fetched(digest))

    def _code_noted(self, now_ns: int, wall_ms: int, digest: bytes, missed: str = "") -> None:
        for name in self.catalogue.names():
            if self.catalogue.current(name).digest == digest:
                self.chronicle.code(now_ns, wall_ms, name, digest, missed)

    def _body_missed(self, now_ns: int, wall_ms: int, digest: bytes, reason: str) -> None:
        self._code_noted(now_ns, wall_ms, digest, reason)
        self._provided(now_ns, wall_ms, self.provision.not_fetched(digest, reason))
        self.outputs.body_missed(digest)
        self.publisher.bundle_missed(now_ns, digest, reason)
        self.prefetch.handle(now_ns, Missed(digest))

    def _fetch_output(self, now_ns: int, wall_ms: int, peer: str, result: messages.Result) -> None:
        digest = result.output_digest
        assert digest is not None
        body = self.bodies.get(digest)
        if not self.outputs.came(peer, result):
            return
        if body is not None:
            self._body_came(now_ns, wall_ms, digest, body)
        else:
            self._blob_effects(now_ns, wall_ms, self.blobs.want(now_ns, digest, [peer]))
            self._put_all(self.outputs.chunk_came(peer, digest))

    def _put_all(self, heard: list[desk_events.Heard]) -> None:
        for event in heard:
            self.inbox.put_local(event)

    def fetch(self, now_ns: int, wall_ms: int, digest: bytes, holders: list[str]) -> None:
        self._blob_effects(now_ns, wall_ms, self.blobs.want(now_ns, digest, holders))

    def catalogue_changed(self, now_ns: int, wall_ms: int) -> None:
        self._provided(now_ns, wall_ms, self.provision.catalogue_changed())
        self._prefetch_wanted(now_ns)
        self.requirements_changed()

    def _prefetch_wanted(self, now_ns: int) -> None:
        members = len(self.roster.current.members) if self.roster.current else 1
        self.prefetch.handle(now_ns, Wanted(self.publisher.code(), members))

    def _code_holders(self) -> list[str]:
        """Whom to ask for code ahead of its use: the gateway, then two of those that we speak with."""
        if not self.link.up:
            return []
        up = self.detector.up()
        others = [peer for peer in up if peer != GATEWAY]
        near = [peer for peer in others if self.channels.has(peer)] or others
        chosen = self._rng.sample(near, min(2, len(near)))
        return [GATEWAY, *chosen] if GATEWAY in up else chosen

    def tell_about_us(self, now_ns: int, wall_ms: int) -> None:
        about = self.abilities.own
        self._to_desk(now_ns, wall_ms, desk_events.OwnAbilities(tuple(about.lacks)))
        for peer in [peer for peer, _ in self.channels.streams() if self.channels.has(peer)]:
            self.tell(now_ns, peer, about)

    def peers_up(self) -> list[str]:
        return self.detector.up()

    def deployer_key(self) -> ec.EllipticCurvePrivateKey:
        """What this member signs code with. Raises: Refused: the roster does not let it."""
        if self.extension is not None:
            return self.extension.deployer_key()
        member = self.roster.current.member(self.node_id) if self.roster.current else None
        if member is None or "deployer" not in member.roles:
            raise Refused(
                f"{self.node_id} does not have the role deployer",
                fix="deploy on the gateway with `edge-gateway deploy FILE`",
            )
        return self.keys.signing

    def _seen(self, now_ns: int, wall_ms: int, event: Any) -> None:
        for member in self.neighbours.seen(now_ns, event):
            self._judged(now_ns, wall_ms, self.presence.sighted(now_ns, member))

    # ── what people see ───────────────────────────────────────────────────────────────────────────

    def status(self) -> dict[str, Any]:
        """Everything that `status` shows; plain data."""
        roster = self.roster.current
        wall_ms = self.clock.wall_ms()
        epoch = self.presence.groupcast.current
        return {
            "node": self.node_id,
            "mesh": self.mesh_id,
            "up_s": (wall_ms - self.started_ms) // 1000,
            "member": self.is_member,
            "draining": self._draining,
            "roster": {
                "version": self.roster.version,
                "members": sum(m.status == "active" for m in roster.members) if roster else 0,
                "stale": self.roster.is_stale(wall_ms // 1000),
            },
            "broker": {"connected": self.link.up, "address": _text_of(getattr(self.link, "address", None))},
            "mdns": self.neighbours.interface or "auto",
            "joining": {"addresses": [format_address(each) for each in self.neighbours.gateways()]},
            "peers_up": self.detector.up(),
            "peers": self.detector.states(),
            "versions": {self.node_id: self.abilities.own.version, **self.abilities.versions()},
            "following": self.presence.following.followed if self.presence.following else [],
            "group": {
                "epoch": epoch.number if epoch is not None else None,
                "issued_at_ms": epoch.issued_s * 1000 if epoch is not None else None,
                "refused": dict(self.presence.groupcast.violations),
                "stale": self.presence.groupcast.stale,
            },
            "incarnation": self.presence.heartbeat.incarnation,
            "tasks": self.desk.status(self.clock.now_ns()),
            "open": len(self.open_tasks),
            "functions": self.catalogue.names(),
            "wire": {
                "bytes_in": getattr(self.link, "bytes_in", self.channels.bytes_in),
                "bytes_out": getattr(self.link, "bytes_out", self.channels.bytes_out),
                "refused": dict(self.channels.violations),
                "unsent": dict(self._publish_errors),
                "line_bytes_s": self.pacing.bytes_s,
                "line_window": self.pacing.window,
                "made_anew": self.watchdog.rebuilt,
                "unsupported": self.channels.unsupported,
            },
            "ledger": {
                "damaged": list(self.journal.damaged),
                "lost": list(self.salvage.lost),
                "given_back": dict(self.salvage.taken),
            },
            "state": self.replication.status(self.clock.now_ns()),
            "stories": dict(self.stories + self.publisher.stories),
        }


def _asked_by(cause: str) -> dict[str, str]:
    """A log line's key ``why``: the cause id that the command of that name takes. Nothing noted: no key."""
    return {"why": cause} if cause else {}


def _text_of(address: object) -> str:
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else ""


def _departure(roster: Roster, name: str) -> Details:
    """What the roster says about who is no member any more."""
    listed = roster.listed(name)
    return {} if listed is None else {"status": listed.status, "by": listed.by, "reason": listed.reason}


def _for_desk(roster: Roster) -> desk_events.Members:
    """Its active members, as the desk is told of them."""
    return desk_events.Members(
        tuple(
            desk_events.MemberInfo(one.id, one.labels, one.roles)
            for one in roster.members
            if one.status == "active"
        )
    )


class _Do:
    """An event: do this within a turn."""

    __slots__ = ("what",)

    def __init__(self, what: Callable[[int, int], None]) -> None:
        self.what = what


_WATCHED = 1
"""Token of a message whose Sent is wanted."""
_NO_PEER = frozenset({"any", "local", GATEWAY})
_FOR_DESK = frozenset(
    {
        messages.Offer,
        messages.Accept,
        messages.Refuse,
        messages.Progress,
        messages.Result,
        messages.Cancel,
        messages.Load,
        messages.Beat,
        messages.About,
    }
)
_LARGE_ANSWERS = frozenset({messages.BlobWanted, messages.CatalogueWanted})
_FOR_BLOBS = frozenset({messages.BlobWanted, messages.BlobChunk, messages.BlobMissing})
