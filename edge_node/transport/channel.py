"""Channels: sealed, acknowledged conversations with every member over one link.

    Delivery(topic, payload) -> parse -> open (session) -> unpack -> stream -> Heard(peer, message)
    send(peer, message)      -> stream -> pack -> seal (session) -> Publish(peer, payload)

A core: it composes the sessions of `security`, the streams of `parcels` and the codec. The agent feeds
it deliveries and messages during a loop turn and calls ``flush`` once at the turn's end, so that all
that accumulated for one peer leaves in one parcel.

What a peer does wrong is counted by reason and dropped; nothing here raises for it.
"""

from __future__ import annotations

import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from edge_node.tasks.agenda import Agenda
from edge_node.transport.parcels import ParcelLimits, Stream
from edge_node.wire.codec import Unsupported, unpack
from edge_node.wire.messages import Message
from edge_node.wire.topics import Direct, topic_for
from security import session
from security.errors import EdgeweaveError, ProtocolViolation

PEERS_MAX = 1024
"""Streams kept; the roster has at most as many members."""
VIOLATIONS_MAX = 256
"""Different causes counted; some quote what the other side sent, so there could be any number."""
CONTROL = 0x86
ROOM_ENOUGH = 1 << 30
POLL_NS = 50_000_000
"""What waits for room is looked at so often even if nobody says that there is some."""


class Heard(msgspec.Struct, frozen=True):
    """The peer, proved by the envelope, said this."""

    peer: str
    message: Any


class Publish(msgspec.Struct, frozen=True):
    """Effect: put this payload on the link."""

    peer: str
    topic: str
    payload: bytes


class PeerReady(msgspec.Struct, frozen=True):
    """A session with the peer works; ``restarted``: it is a new process since we last spoke."""

    peer: str
    restarted: bool


class PeerLost(msgspec.Struct, frozen=True):
    peer: str
    reason: str


class RosterWanted(msgspec.Struct, frozen=True):
    """Effect: somebody knows a newer roster, or a member we do not know; fetch one."""

    peer: str
    version: int


class RosterOffered(msgspec.Struct, frozen=True):
    peer: str
    signed: bytes


Effect = Heard | Publish | PeerReady | PeerLost | RosterWanted | RosterOffered


class Channels:
    """All conversations of one member; a core."""

    def __init__(
        self,
        *,
        me: str,
        mesh_id: str,
        sessions: session.Sessions,
        signed_roster: Callable[[], bytes | None],
        limits: ParcelLimits | None = None,
    ) -> None:
        self._me = me
        self._mesh = mesh_id
        self._sessions = sessions
        self._signed_roster = signed_roster
        self._limits = limits or ParcelLimits()
        self._streams: dict[str, Stream] = {}
        self._topics: dict[str, str] = {}
        self._met: set[str] = set()  # peers that were ready before; never iterated
        self._dirty: dict[str, None] = {}  # peers that may have something to send; ordered, unlike a set
        self._confirm: dict[str, None] = {}
        self._blocked_ns: int | None = None  # something waits for room on the line; looked at again then
        self._agenda = Agenda()  # of streams; a moment may have passed by, none is ever late
        self._out: list[Effect] = []
        self.violations: Counter[str] = Counter()
        self.unsupported = 0
        self.queued = 0
        """Bytes that wait for room on the line."""
        self.bytes_in = 0
        self.bytes_out = 0

    # -- in ----------------------------------------------------------------------------------------

    def delivered(self, now_ns: int, topic: Direct, payload: bytes) -> list[Effect]:
        """A frame arrived on a direct topic: what it says, if anything."""
        src = topic.src
        self.bytes_in += len(payload)
        if topic.dst != self._me or topic.mesh != self._mesh or not payload:
            self.violated("not for us")
            return []
        if payload[0] == CONTROL:
            self._after(now_ns, self._sessions.handle(now_ns, session.FrameReceived(src, payload)))
            return self._drain(now_ns)
        try:
            plain = self._sessions.open(now_ns, src, payload)
            # If this parcel proves a new session, a restarted peer's numbers begin anew with it.
            self._drained_sessions(now_ns)
            low, items = unpack(plain)
            stream = self._stream(src)
            fresh = stream.arrived(now_ns, low, items)
        except ProtocolViolation as violation:
            self.violated(violation.cause)
            self._drained_sessions(now_ns)
            return self._drain(now_ns)
        stream.counters.bytes_in += len(payload)
        self._dirty[src] = None
        heard: list[Effect] = []
        for message in fresh:
            if type(message) is Unsupported:
                self.unsupported += 1
            else:
                heard.append(Heard(src, message))
        # A PeerReady of this very parcel must be told before what the parcel says.
        return self._drain(now_ns) + heard

    def violated(self, cause: str) -> None:
        """Count what somebody did wrong."""
        known = cause in self.violations or len(self.violations) < VIOLATIONS_MAX
        self.violations[cause if known else "other"] += 1

    # -- out ---------------------------------------------------------------------------------------

    def send(self, now_ns: int, peer: str, message: Message, *, bulk: bool = False) -> None:
        """Queue for acknowledged delivery.

        Raises: Refused: this peer's stream is full.
        """
        self._stream(peer).post(now_ns, message, bulk=bulk)
        self._dirty[peer] = None

    def send_loose(self, peer: str, message: Message) -> None:
        """Queue a message that nobody misses; only what is newest is kept."""
        self._stream(peer).post_loose(message)
        self._dirty[peer] = None

    def connect(self, now_ns: int, peer: str) -> None:
        """Make a session with this peer, traffic or not."""
        self._after(now_ns, self._sessions.handle(now_ns, session.Wanted(peer)))

    def flush(self, now_ns: int, room: int = ROOM_ENOUGH) -> list[Effect]:
        """Everything that can leave now, as parcels; call once at the end of a loop turn.

        Args: room: bytes that may go on the line (``pacing``). What is small goes first, of every peer; then
            large messages, a parcel of each peer in turn. Nothing is too late for acknowledgements and
            handshakes: they are not counted.
        """
        self._drained_sessions(now_ns)
        for peer in self._confirm:
            self._dirty[peer] = None
        confirm, self._confirm = self._confirm, {}
        dirty, self._dirty = self._dirty, {}
        large: deque[str] = deque()
        for peer in dirty:
            stream = self._streams.get(peer)
            if stream is None:
                continue
            if not self._sessions.has(peer):
                if stream.waiting:
                    self._after(now_ns, self._sessions.handle(now_ns, session.Wanted(peer)))
                continue
            empty = peer in confirm
            while (size := self._parcel(now_ns, peer, stream, room, empty=empty, bulk=False)) is not None:
                empty, room = False, max(0, room - size)
            if stream.sendable(now_ns):
                large.append(peer)
        while large and room > 0:
            peer = large.popleft()
            stream = self._streams[peer]
            size = self._parcel(now_ns, peer, stream, room)
            if size is None:
                continue
            room = max(0, room - size)
            if stream.sendable(now_ns):
                large.append(peer)
        self._blocked_ns = now_ns + POLL_NS if large else None
        self.queued = 0
        for peer in large:  # they come first when there is room
            self._dirty[peer] = None
            self.queued += self._streams[peer].backlog_bytes
        for peer in dirty:
            stream = self._streams.get(peer)
            # Here and nowhere else: whatever moves a stream's deadline makes it dirty first.
            due = stream.deadline_ns() if stream is not None else None
            if due is not None and self._sessions.has(peer):
                self._agenda.set(peer, due)
        return self._drain(now_ns)

    def _parcel(
        self, now_ns: int, peer: str, stream: Stream, room: int, *, empty: bool = False, bulk: bool = True
    ) -> int | None:
        """Send the next parcel. Returns: its bytes; None: there is none that could go now."""
        try:
            plain = stream.parcel(now_ns, empty=empty, bulk=bulk, room=room)
            if plain is None:
                return None
            size = self._publish(peer, self._sessions.seal(now_ns, peer, plain))
            stream.counters.bytes_out += size
            return size
        except session.NoSession:  # its numbers are used up: what was in the parcel is sent again
            self._drained_sessions(now_ns)
            self._dirty[peer] = None
            return None

    def roster_changed(self, now_ns: int) -> None:
        self._after(now_ns, self._sessions.handle(now_ns, session.RosterChanged()))
        for peer, stream in self._streams.items():
            if stream.waiting:
                self._dirty[peer] = None

    def forget(self, now_ns: int, peer: str) -> None:
        """The peer left the roster: its session and stream go."""
        self._after(now_ns, self._sessions.handle(now_ns, session.PeerForgotten(peer)))
        self._streams.pop(peer, None)
        self._topics.pop(peer, None)
        self._met.discard(peer)
        self._agenda.drop(peer)
        self._dirty.pop(peer, None)

    def link_up(self) -> None:
        """The broker forgot what it held (clean session): send again what is unacknowledged."""
        for peer, stream in self._streams.items():
            stream.resend_all()
            self._dirty[peer] = None

    def boot_seen(self, now_ns: int, peer: str, boot_id: bytes) -> None:
        """Presence showed this life of *peer*; if our session is with another, a handshake starts."""
        self._after(now_ns, self._sessions.handle(now_ns, session.BootSeen(peer, boot_id)))

    def life_of(self, peer: str) -> bytes | None:
        """The boot id of the peer that we have a session with."""
        return self._sessions.boot_id_of(peer) if self._sessions.has(peer) else None

    def ask_roster(self, now_ns: int, peer: str) -> None:
        """Ask *peer* for the roster that it speaks of."""
        self._after(now_ns, self._sessions.ask_roster(now_ns, peer))

    # -- state -------------------------------------------------------------------------------------

    def has(self, peer: str) -> bool:
        return self._sessions.has(peer)

    def rtt_ns(self, peer: str) -> int | None:
        stream = self._streams.get(peer)
        return stream.rtt_ns if stream else None

    def way_ns(self, peer: str) -> tuple[int, int] | None:
        """The round trip to the peer and its mean deviation, if it was measured."""
        stream = self._streams.get(peer)
        return None if stream is None or stream.rtt_ns is None else (stream.rtt_ns, stream.rtt_dev_ns)

    def answered(self, peer: str, took_ns: int) -> None:
        """The peer answered a probe after so long."""
        stream = self._streams.get(peer)
        if stream is not None:
            stream.answered(took_ns)

    def backlog(self, peer: str) -> int:
        stream = self._streams.get(peer)
        return stream.backlog if stream else 0

    def backlog_bytes(self, peer: str) -> int:
        stream = self._streams.get(peer)
        return stream.backlog_bytes if stream else 0

    @property
    def waiting(self) -> bool:
        """Is there anything that somebody has not acknowledged? O(n) in the streams."""
        return any(stream.backlog for stream in self._streams.values())

    def streams(self) -> Iterator[tuple[str, Stream]]:
        return iter(self._streams.items())

    # -- time --------------------------------------------------------------------------------------

    def tick(self, now_ns: int, untaken_since_ns: int | None = None) -> list[Effect]:
        """Retries, acknowledgements that found no traffic to ride on, handshakes; flush afterwards.

        Args: untaken_since_ns: what was sent from then on has not left our line (``pacing``).
        """
        self._after(now_ns, self._sessions.tick(now_ns))
        if self._blocked_ns is not None and self._blocked_ns <= now_ns:
            self._blocked_ns = None  # the flush that follows says it anew, unless the link is down
        for peer in self._agenda.due(now_ns):
            stream = self._streams.get(peer)
            if stream is not None:
                stream.tick(now_ns, untaken_since_ns)
                self._dirty[peer] = None
        return self._drain(now_ns)

    def deadline_ns(self) -> int | None:
        """O(log n) in the streams; it may be early (what it was for was acknowledged), never late."""
        earliest, due = self._sessions.deadline_ns(), self._agenda.next_ns()
        blocked_ns = self._blocked_ns
        if blocked_ns is not None and (due is None or blocked_ns < due):
            due = blocked_ns
        return due if earliest is None or (due is not None and due < earliest) else earliest

    def check(self) -> None:
        """Invariants; raises AssertionError."""
        assert len(self._streams) <= PEERS_MAX
        for stream in self._streams.values():
            stream.check()
        for peer, stream in self._streams.items():
            due = stream.deadline_ns()
            if due is not None and self._sessions.has(peer) and peer not in self._dirty:
                assert peer in self._agenda, f"the deadline of {peer} would be missed"
        self._agenda.check()
        self._sessions.check()

    # -- inside ------------------------------------------------------------------------------------

    def _stream(self, peer: str) -> Stream:
        stream = self._streams.get(peer)
        if stream is None:
            if len(self._streams) >= PEERS_MAX:
                idle = next((name for name, s in self._streams.items() if s.idle), None)
                if idle is None:
                    raise ProtocolViolation("too many peers at once")
                del self._streams[idle]
                self._agenda.drop(idle)
            stream = self._streams[peer] = Stream(self._limits, zlib.crc32(f"{self._me} {peer}".encode()))
            self._topics[peer] = topic_for(Direct(self._mesh, peer, self._me))
        return stream

    def _publish(self, peer: str, payload: bytes) -> int:
        topic = self._topics.get(peer)
        if topic is None:
            topic = self._topics[peer] = topic_for(Direct(self._mesh, peer, self._me))
        size = len(payload)
        self.bytes_out += size
        self._out.append(Publish(peer, topic, payload))
        return size

    def _drain(self, now_ns: int) -> list[Effect]:
        out, self._out = self._out, []
        return out

    def _drained_sessions(self, now_ns: int) -> None:
        effects = self._sessions.drain()
        if effects:
            self._after(now_ns, effects)

    def _after(self, now_ns: int, effects: list[session.Effect]) -> None:
        for effect in effects:
            match effect:
                case session.SendFrame(peer, frame):
                    self._publish(peer, frame)
                case session.Ready(peer, _, fresh):
                    restarted = fresh and peer in self._met
                    self._met.add(peer)
                    stream = self._stream(peer)
                    if fresh:
                        stream.peer_restarted()
                        stream.resend_all()
                    self._dirty[peer] = None
                    self._out.append(PeerReady(peer, restarted))
                case session.Confirm(peer):
                    self._stream(peer)
                    self._confirm[peer] = None
                case session.SessionLost(peer, reason):
                    self._out.append(PeerLost(peer, reason))
                case session.RosterWanted(peer, version):
                    self._out.append(RosterWanted(peer, version))
                case session.RosterOffered(peer, signed):
                    self._out.append(RosterOffered(peer, signed))
                case session.RosterAsked(peer):
                    signed_roster = self._signed_roster()
                    if signed_roster is None:
                        continue
                    try:
                        offered = self._sessions.offer_roster(now_ns, peer, signed_roster)
                    except EdgeweaveError as error:  # larger than a frame: the retained topic has it
                        self.violated(f"roster not offered: {error.cause}")
                    else:
                        self._after(now_ns, offered)
