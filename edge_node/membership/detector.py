"""Who is there: silence, hints and probes turned into up and down.

    Heard(peer) ────────────► Up          anything that a session proved to come from the peer
    Will(peer), silence ────► Probe ──3 s without a sound──► Down
    LinkLost ───────────────► Down of everybody: whoever cannot be reached is not there for us

A last will is unauthenticated: it only makes us look. A peer that is stopped or busy keeps its leases
by other rules (`tasks.leases`); Down here merely takes it out of the candidates for new work. A verdict
that falls while our own loop lags is put off (self-doubt): it was us who were away.
Not here: sending beats and probes (the agent), judging the roster.
"""

from __future__ import annotations

from dataclasses import dataclass

SECOND = 1_000_000_000
SILENCE_NS = 12 * SECOND
"""Two beats of 5 s (the longest interval) and some delay."""
PROBE_NS = 3 * SECOND
"""From the first probe to the verdict; probes are repeated every second."""
LAG_NS = 1 * SECOND
"""A tick this late means that we were stopped ourselves."""


@dataclass(frozen=True, slots=True)
class HeardFrom:
    peer: str


@dataclass(frozen=True, slots=True)
class WillSeen:
    peer: str


@dataclass(frozen=True, slots=True)
class LinkLost:
    pass


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The peer is no member any more."""

    peer: str


Event = HeardFrom | WillSeen | LinkLost | Forgotten


@dataclass(frozen=True, slots=True)
class Up:
    peer: str


@dataclass(frozen=True, slots=True)
class Down:
    peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Probe:
    peer: str


Effect = Up | Down | Probe


@dataclass(slots=True)
class _Peer:
    heard_ns: int
    up: bool = True
    suspect_since_ns: int | None = None
    probe_ns: int = 0
    reason: str = ""


class Detector:
    """Liveness of the peers that we talk to; a core."""

    def __init__(self) -> None:
        self._peers: dict[str, _Peer] = {}
        self._due_ns: int | None = None

    def heard(self, now_ns: int, peer: str) -> list[Effect]:
        """The hot path of ``handle(HeardFrom)``."""
        state = self._peers.get(peer)
        if state is None:
            self._peers[peer] = _Peer(now_ns)
            self._plan()
            return [Up(peer)]
        state.heard_ns = now_ns
        if state.suspect_since_ns is not None:
            state.suspect_since_ns = None
            self._plan()
        if not state.up:
            state.up = True
            self._plan()
            return [Up(peer)]
        return []

    def handle(self, now_ns: int, event: Event) -> list[Effect]:
        match event:
            case HeardFrom(peer):
                return self.heard(now_ns, peer)
            case WillSeen(peer):
                state = self._peers.get(peer)
                if state is None or not state.up or state.suspect_since_ns is not None:
                    return []
                return self._suspect(now_ns, peer, state, "its broker connection ended")
            case LinkLost():
                downs: list[Effect] = [
                    Down(peer, "our broker connection ended") for peer, s in self._peers.items() if s.up
                ]
                for state in self._peers.values():
                    state.up, state.suspect_since_ns = False, None
                self._plan()
                return downs
            case Forgotten(peer):
                state = self._peers.pop(peer, None)
                self._plan()
                return [Down(peer, "it left the roster")] if state is not None and state.up else []

    def _suspect(self, now_ns: int, peer: str, state: _Peer, reason: str) -> list[Effect]:
        state.suspect_since_ns = now_ns
        state.probe_ns = now_ns + SECOND
        state.reason = reason
        self._plan()
        return [Probe(peer)]

    def tick(self, now_ns: int) -> list[Effect]:
        if self._due_ns is None or self._due_ns > now_ns:
            return []
        lagged = now_ns - self._due_ns > LAG_NS
        effects: list[Effect] = []
        for peer, state in self._peers.items():
            if not state.up:
                continue
            if state.suspect_since_ns is None:
                if state.heard_ns + SILENCE_NS <= now_ns:
                    effects += self._suspect(now_ns, peer, state, "it was silent for 12 s")
            elif lagged:
                state.suspect_since_ns = now_ns
                state.probe_ns = now_ns + SECOND
                effects.append(Probe(peer))
            elif state.suspect_since_ns + PROBE_NS <= now_ns:
                state.up, state.suspect_since_ns = False, None
                effects.append(Down(peer, f"{state.reason}, and no probe was answered for 3 s"))
            elif state.probe_ns <= now_ns:
                state.probe_ns = now_ns + SECOND
                effects.append(Probe(peer))
        self._plan()
        return effects

    def _plan(self) -> None:
        dues = []
        for state in self._peers.values():
            if not state.up:
                continue
            if state.suspect_since_ns is None:
                dues.append(state.heard_ns + SILENCE_NS)
            else:
                dues.append(min(state.suspect_since_ns + PROBE_NS, state.probe_ns))
        self._due_ns = min(dues, default=None)

    def deadline_ns(self) -> int | None:
        return self._due_ns

    def up(self) -> list[str]:
        return sorted(peer for peer, state in self._peers.items() if state.up)

    def check(self) -> None:
        """Invariants; raises AssertionError."""
        assert all(s.up or s.suspect_since_ns is None for s in self._peers.values())
