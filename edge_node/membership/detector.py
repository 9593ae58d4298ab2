"""Who is there: silence, hints and probes turned into up, quiet and down.

    watched   Up ──will, 12 s of silence──► suspected: Probe each second ──3 s without a sound──► Down
    met only  Up ──12 s of silence──────────────────────────────────────────────────────────────► Quiet
    LinkLost  Down of everybody: whoever cannot be reached is not there for us

A session's parcel always counts as heard. A beat told to everybody is ordered by (incarnation, seq): one
that is not newer than the last changes nothing, so what a broker kept and says again revives nobody, not
even a peer that is down or forgotten (its last beat is remembered for 10 min). A last will is
unauthenticated: it only makes us look.

Watched are the peers that work depends on: the gateway, those that we follow, those that hold a lease of
ours. Whoever is merely met (a session, a ping once) goes quiet without alarm or probe, so a node's probes
do not grow with the fleet.

A verdict has to survive our own doubt (after Dadgar, Phillips, Currey: Lifeguard, 2018). When our loop
lags, or when several are probed and nobody at all is heard, it may be us who are away: the local health
multiplier grows, probes and verdicts are put off by it, and each suspect that answers makes it shrink.
A process stopped for 5 s is never called dead: with the longest interval between beats that is 10 s of
silence. Rejected: shortening a suspicion by other members' confirmations. It needs another message, and
whoever forges it buries the living.
Not here: sending beats and probes (the agent), judging the roster.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

import msgspec

from edge_node.tasks.agenda import Agenda

SECOND = 1_000_000_000
SILENCE_NS = 12 * SECOND
"""Two beats of 5 s (the longest interval) and some delay."""
SUSPICION_NS = 3 * SECOND
"""From the first probe to the verdict, times the local health multiplier."""
PROBE_NS = 1 * SECOND
"""Between the probes of one suspect, times the local health multiplier."""
LAG_NS = 1 * SECOND
"""A tick this late means that we were stopped ourselves."""
DOUBT_MAX = 4
"""The multiplier is 1 to 5: a verdict takes 15 s at most (Lifeguard allows 9, for larger groups)."""
DOUBT_NS = 60 * SECOND
"""A doubt this old says nothing about the next suspicion."""
TOMBSTONE_NS = 600 * SECOND
TOMBSTONES_MAX = 2048
"""Peers that are not there, whose last beat is remembered: twice what a roster lists."""

State = Literal["up", "suspect", "quiet", "down"]


class HeardFrom(msgspec.Struct, frozen=True):
    """A session proved that this peer sent something."""

    peer: str


class WillSeen(msgspec.Struct, frozen=True):
    peer: str


class Rumoured(msgspec.Struct, frozen=True):
    """The gateway says that this peer is down: reason enough to look."""

    peer: str


class LinkLost(msgspec.Struct, frozen=True):
    pass


class Forgotten(msgspec.Struct, frozen=True):
    """The peer is no member any more."""

    peer: str


class Watch(msgspec.Struct, frozen=True):
    """Suspect and probe this peer when it is silent, from now on."""

    peer: str


class Unwatch(msgspec.Struct, frozen=True):
    peer: str


Event = HeardFrom | WillSeen | Rumoured | LinkLost | Forgotten | Watch | Unwatch


class Up(msgspec.Struct, frozen=True):
    peer: str


class Down(msgspec.Struct, frozen=True):
    peer: str
    reason: str


class Quiet(msgspec.Struct, frozen=True):
    """Nothing was heard for a while of a peer that nothing depends on: no candidate, and no alarm."""

    peer: str


class Probe(msgspec.Struct, frozen=True):
    peer: str


Effect = Up | Down | Quiet | Probe


class _Peer(msgspec.Struct):
    heard_ns: int
    state: State = "up"
    suspect_since_ns: int = 0
    probe_ns: int = 0
    reason: str = ""
    incarnation: int = -1  # of the last beat; -1: none was heard
    seq: int = -1
    boot_id: bytes = b""


class Detector:
    """Liveness of the peers that we hear of; a core.

    Args: depends: does work of ours lie with this peer? Asked when an unwatched one has been silent.
        watch_all: watch everybody that is met (the gateway: people look at it to see who is there).
    """

    def __init__(
        self, *, depends: Callable[[str], bool] = lambda peer: False, watch_all: bool = False
    ) -> None:
        self._depends = depends
        self._watch_all = watch_all
        self._watched: set[str] = set()  # never iterated
        self._peers: dict[str, _Peer] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()  # quiet, down or forgotten, longest first
        self._suspects: dict[str, None] = {}
        self._agenda = Agenda()
        self._doubt = 0
        self._doubted_ns = 0
        self._sound_ns = 0  # when anybody was last heard

    @property
    def doubt(self) -> int:
        """0 (healthy) to DOUBT_MAX: how much we suspect ourselves."""
        return self._doubt

    # ── in ────────────────────────────────────────────────────────────────────────────────────────

    def heard(self, now_ns: int, peer: str) -> list[Effect]:
        """The hot path of ``handle(HeardFrom)``."""
        state = self._peers.get(peer)
        self._sound_ns = now_ns
        if state is None:
            self._peers[peer] = _Peer(now_ns)
            self._agenda.set(peer, now_ns + SILENCE_NS)
            return [Up(peer)]
        state.heard_ns = now_ns
        if state.state == "up":
            return []
        return self._revived(now_ns, peer, state)

    def beat(self, now_ns: int, peer: str, incarnation: int, seq: int, boot_id: bytes) -> list[Effect] | None:
        """A beat told to everybody, as (incarnation, seq) orders it. None: it is not newer than the last."""
        state = self._peers.get(peer)
        if state is not None and (incarnation, seq) <= (state.incarnation, state.seq):
            return None
        effects = self.heard(now_ns, peer)
        self._note(self._peers[peer], incarnation, seq, boot_id)
        return effects

    def direct_beat(self, now_ns: int, peer: str, incarnation: int, seq: int, boot_id: bytes) -> None:
        """A beat in a session, which proves that it is fresh: another life than ours of record is the truth.

        So a member whose incarnation went back (its key store was lost, and its clock too) is heard again.
        """
        state = self._peers.get(peer)
        if state is None or not boot_id:
            return
        if state.boot_id != boot_id or (incarnation, seq) > (state.incarnation, state.seq):
            self._note(state, incarnation, seq, boot_id)

    def handle(self, now_ns: int, event: Event) -> list[Effect]:
        match event:
            case HeardFrom(peer):
                return self.heard(now_ns, peer)
            case WillSeen(peer):
                return self._hinted(now_ns, peer, "its broker connection ended")
            case Rumoured(peer):
                return self._hinted(now_ns, peer, "the gateway lost it")
            case LinkLost():
                downs: list[Effect] = []
                for peer, each in list(self._peers.items()):
                    if each.state in ("up", "suspect"):
                        self._bury(now_ns, peer, each, "down")
                        downs.append(Down(peer, "our broker connection ended"))
                self._doubt = 0
                return downs
            case Forgotten(peer):
                self._watched.discard(peer)
                state = self._peers.get(peer)
                if state is None or state.state not in ("up", "suspect"):
                    return []
                self._bury(now_ns, peer, state, "down")
                return [Down(peer, "it left the roster")]
            case Watch(peer):
                self._watched.add(peer)
                state = self._peers.get(peer)
                if state is not None and state.state == "up":
                    self._agenda.set(peer, state.heard_ns + SILENCE_NS)
                return []
            case Unwatch(peer):
                self._watched.discard(peer)
                return []

    def tick(self, now_ns: int) -> list[Effect]:
        due = self._agenda.next_ns()
        if due is None or due > now_ns:
            return []
        lagged = now_ns - due > LAG_NS
        if lagged:
            self._doubted(now_ns)
        effects: list[Effect] = []
        unanswered = 0
        for peer in self._agenda.due(now_ns):
            state = self._peers[peer]
            match state.state:
                case "up":
                    effects += self._silent(now_ns, peer, state, lagged)
                case "suspect":
                    unanswered += 1
                    effects += self._suspected(now_ns, peer, state, lagged)
                case _:
                    self._gone.pop(peer, None)
                    del self._peers[peer]
        if unanswered and not lagged and len(self._suspects) > 1 and now_ns - self._sound_ns >= PROBE_NS:
            self._doubted(now_ns)  # nobody at all: is it us?
        return effects

    # ── verdicts ──────────────────────────────────────────────────────────────────────────────────

    def _hinted(self, now_ns: int, peer: str, reason: str) -> list[Effect]:
        state = self._peers.get(peer)
        if state is None or state.state != "up" or not (self._is_watched(peer) or self._depends(peer)):
            return []
        return self._suspect(now_ns, peer, state, reason)

    def _silent(self, now_ns: int, peer: str, state: _Peer, lagged: bool) -> list[Effect]:
        if state.heard_ns + SILENCE_NS > now_ns:
            self._agenda.set(peer, state.heard_ns + SILENCE_NS)
            return []
        if self._is_watched(peer) or self._depends(peer):
            return self._suspect(now_ns, peer, state, "it was silent for 12 s")
        if lagged:  # what it said may lie unread before us
            self._agenda.set(peer, now_ns + SECOND)
            return []
        self._bury(now_ns, peer, state, "quiet")
        return [Quiet(peer)]

    def _doubted(self, now_ns: int) -> None:
        self._doubt = min(DOUBT_MAX, self._doubt + 1)
        self._doubted_ns = now_ns

    def _suspect(self, now_ns: int, peer: str, state: _Peer, reason: str) -> list[Effect]:
        if self._doubted_ns + DOUBT_NS <= now_ns:
            self._doubt = 0
        state.state = "suspect"
        state.suspect_since_ns = now_ns
        state.reason = reason
        self._suspects[peer] = None
        self._probe_next(now_ns, peer, state)
        return [Probe(peer)]

    def _suspected(self, now_ns: int, peer: str, state: _Peer, lagged: bool) -> list[Effect]:
        patience_ns = SUSPICION_NS * (1 + self._doubt)
        if lagged:  # its answer may lie unread before us: the count begins anew
            state.suspect_since_ns = now_ns
        elif state.suspect_since_ns + patience_ns <= now_ns:
            silent_s = (now_ns - state.suspect_since_ns) // SECOND
            self._bury(now_ns, peer, state, "down")
            return [Down(peer, f"{state.reason}, and no probe was answered for {silent_s} s")]
        elif state.probe_ns > now_ns:
            self._probe_next(now_ns, peer, state, at_ns=state.probe_ns)
            return []
        self._probe_next(now_ns, peer, state)
        return [Probe(peer)]

    def _probe_next(self, now_ns: int, peer: str, state: _Peer, at_ns: int | None = None) -> None:
        stretch = 1 + self._doubt
        state.probe_ns = now_ns + PROBE_NS * stretch if at_ns is None else at_ns
        verdict_ns = state.suspect_since_ns + SUSPICION_NS * stretch
        self._agenda.set(peer, max(now_ns + 1, min(state.probe_ns, verdict_ns)))

    def _revived(self, now_ns: int, peer: str, state: _Peer) -> list[Effect]:
        was, state.state = state.state, "up"
        self._agenda.set(peer, now_ns + SILENCE_NS)
        if was == "suspect":
            del self._suspects[peer]
            self._doubt = max(0, self._doubt - 1)
            return []
        self._gone.pop(peer, None)
        return [Up(peer)]

    def _bury(self, now_ns: int, peer: str, state: _Peer, how: State) -> None:
        """Not there any more; its last beat is remembered for a while, so that no replay revives it."""
        self._suspects.pop(peer, None)
        state.state = how
        self._gone[peer] = None
        self._agenda.set(peer, now_ns + TOMBSTONE_NS)
        while len(self._gone) > TOMBSTONES_MAX:
            oldest, _ = self._gone.popitem(last=False)
            del self._peers[oldest]
            self._agenda.drop(oldest)

    @staticmethod
    def _note(state: _Peer, incarnation: int, seq: int, boot_id: bytes) -> None:
        state.incarnation, state.seq, state.boot_id = incarnation, seq, boot_id

    def _is_watched(self, peer: str) -> bool:
        return self._watch_all or peer in self._watched

    # ── state ─────────────────────────────────────────────────────────────────────────────────────

    def deadline_ns(self) -> int | None:
        """O(log n); it may be early (a peer was heard since), never late."""
        return self._agenda.next_ns()

    def up(self) -> list[str]:
        return sorted(peer for peer, state in self._peers.items() if state.state in ("up", "suspect"))

    def is_up(self, peer: str) -> bool:
        state = self._peers.get(peer)
        return state is not None and state.state in ("up", "suspect")

    def states(self) -> dict[str, State]:
        """Every peer that is remembered, by name."""
        return {peer: self._peers[peer].state for peer in sorted(self._peers)}

    def life_of(self, peer: str) -> tuple[int, int, bytes] | None:
        """(incarnation, seq, boot id) of the last beat of record."""
        state = self._peers.get(peer)
        return None if state is None or state.seq < 0 else (state.incarnation, state.seq, state.boot_id)

    def check(self) -> None:
        """Invariants; raises AssertionError."""
        assert 0 <= self._doubt <= DOUBT_MAX
        assert len(self._gone) <= TOMBSTONES_MAX
        for peer, state in self._peers.items():
            assert (state.state in ("quiet", "down")) == (peer in self._gone), f"{peer} is {state.state}"
            assert (state.state == "suspect") == (peer in self._suspects)
            assert peer in self._agenda, f"nobody would look at {peer} again"
        assert self._gone.keys() <= self._peers.keys()
        self._agenda.check()
