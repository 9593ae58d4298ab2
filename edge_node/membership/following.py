"""Following: of which peers a node hears every beat.

    Members, Sighted, Capacity, Came, Went  ──►  Follow(peer) / Unfollow(peer)

The gateway is always followed, and does not count. Of the others at most 16: by the local network (mDNS saw
them: no broker hop is shorter), by capacity (from the gateway's digest: who could take work) and by chance.
With no more members than that, all are followed. Every 60 s one is replaced at random, so that nobody is
watched by nobody for long and a bad choice does not stay; who is down gives its place to another at once.

A sighting is an untrusted hint: it moves at most 6 of the 16 places, and only between members.
Not here: beats (``heartbeat``), who is alive (``detector``), subscriptions (the agent).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from random import Random

SECOND: Final = 1_000_000_000
FOLLOWED_MAX: Final = 16
"""Each costs its beats, at most 150 bytes a second; so a node hears as much however large the mesh."""
LAN_MAX: Final = 6
REPLACE_NS: Final = 60 * SECOND
CAPACITY_MAX: Final = 1e9
"""A peer may say anything; more than this is taken for this, so that a sum over all members is finite."""
DOWN_NS: Final = 600 * SECOND
"""Who went down this long ago is taken for a stranger again."""


class Members(msgspec.Struct, frozen=True):
    """Event: the active members, with or without us."""

    ids: frozenset[str]


class Sighted(msgspec.Struct, frozen=True):
    """Event: mDNS saw this peer on our network."""

    peer: str


class Capacity(msgspec.Struct, frozen=True):
    """Event: what the peer could do, as it says: workers times speed."""

    peer: str
    amount: float


class Came(msgspec.Struct, frozen=True):
    peer: str


class Went(msgspec.Struct, frozen=True):
    peer: str


Event = Members | Sighted | Capacity | Came | Went


class Follow(msgspec.Struct, frozen=True):
    peer: str


class Unfollow(msgspec.Struct, frozen=True):
    peer: str


Effect = Follow | Unfollow


class Following:
    """The choice of one node; a core.

    Args: always: who is followed whatever happens and counts for none of the places (the gateway).
    """

    def __init__(self, *, me: str, always: str, rng: Random, limit: int = FOLLOWED_MAX) -> None:
        self._me = me
        self._always = always
        self._rng = rng
        self._limit = limit
        self._members: tuple[str, ...] = ()  # candidates, by name: what is drawn from
        self._there: frozenset[str] = frozenset()  # the same, to be asked
        self._followed: dict[str, None] = {}
        self._lan: dict[str, None] = {}
        self._capacity: dict[str, float] = {}
        self._down: dict[str, int] = {}  # peer -> until when it is passed over
        self._replace_ns: int | None = None

    def handle(self, now_ns: int, event: Event) -> list[Effect]:
        match event:
            case Members(ids):
                return self._members_changed(now_ns, ids)
            case Sighted(peer):
                return self._sighted(now_ns, peer)
            case Capacity(peer, amount):
                if peer in self._capacity or self._is_candidate(peer):
                    self._capacity[peer] = min(amount, CAPACITY_MAX) if amount > 0.0 else 0.0  # NaN is none
                return []
            case Came(peer):
                self._down.pop(peer, None)
                return []
            case Went(peer):
                if not self._is_candidate(peer):
                    return []
                self._down[peer] = now_ns + DOWN_NS
                return self._swap(now_ns, peer) if peer in self._followed else []

    def tick(self, now_ns: int) -> list[Effect]:
        if self._replace_ns is None or now_ns < self._replace_ns:
            return []
        self._replace_ns = now_ns + REPLACE_NS
        return self._swap(now_ns, self._rng.choice(list(self._followed)))

    def deadline_ns(self) -> int | None:
        return self._replace_ns

    @property
    def followed(self) -> list[str]:
        """By name, without the one that is always followed."""
        return sorted(self._followed)

    def follows(self, peer: str) -> bool:
        return peer in self._followed or peer == self._always

    def check(self) -> None:
        assert len(self._followed) <= self._limit
        assert self._followed.keys() <= set(self._members)
        assert self._lan.keys() <= set(self._members) and self._capacity.keys() <= set(self._members)
        assert self._down.keys() <= set(self._members)
        assert len(self._followed) == min(self._limit, len(self._members)), "no place is left empty"
        assert (self._replace_ns is not None) == (len(self._members) > self._limit)

    # ── inside ────────────────────────────────────────────────────────────────────────────────────

    def _is_candidate(self, peer: str) -> bool:
        return peer in self._there

    def _members_changed(self, now_ns: int, ids: frozenset[str]) -> list[Effect]:
        self._members = tuple(sorted(ids - {self._me, self._always}))
        there = self._there = frozenset(self._members)
        effects: list[Effect] = [Unfollow(peer) for peer in self._followed if peer not in there]
        for known in (self._followed, self._lan, self._capacity, self._down):
            for peer in [peer for peer in known if peer not in there]:
                del known[peer]
        if len(self._members) <= self._limit:
            self._replace_ns = None
        elif self._replace_ns is None:
            self._replace_ns = now_ns + REPLACE_NS
        while len(self._followed) < self._limit:
            chosen = self._draw(now_ns)
            if chosen is None:
                break
            effects.append(self._follow(chosen))
        return effects

    def _sighted(self, now_ns: int, peer: str) -> list[Effect]:
        if not self._is_candidate(peer) or peer in self._lan:
            return []
        self._lan[peer] = None
        if peer in self._followed or sum(each in self._lan for each in self._followed) >= LAN_MAX:
            return []
        far = [each for each in self._followed if each not in self._lan]
        if peer in self._down or not far:
            return []
        victim = self._rng.choice(far)
        del self._followed[victim]
        return [Unfollow(victim), self._follow(peer)]

    def _swap(self, now_ns: int, victim: str) -> list[Effect]:
        """Somebody else in its place, if there is anybody."""
        del self._followed[victim]
        chosen = self._draw(now_ns, but=victim)
        if chosen is None:
            self._followed[victim] = None
            return []
        return [Unfollow(victim), self._follow(chosen)]

    def _follow(self, peer: str) -> Follow:
        self._followed[peer] = None
        return Follow(peer)

    def _draw(self, now_ns: int, but: str = "") -> str | None:
        """One whom we do not follow yet: by network, by capacity or by chance; who is down only at last."""
        self._down = {peer: until_ns for peer, until_ns in self._down.items() if until_ns > now_ns}
        free = [peer for peer in self._members if peer not in self._followed and peer != but]
        there = [peer for peer in free if peer not in self._down]
        if not there:
            return self._rng.choice(free) if free and not but else None
        by = self._rng.choice(("network", "capacity", "chance"))
        near = [peer for peer in there if peer in self._lan]
        if by == "network" and near and sum(each in self._lan for each in self._followed) < LAN_MAX:
            return self._rng.choice(near)
        weights = [self._capacity.get(peer, 0.0) for peer in there]
        if by == "capacity" and any(weights):
            return self._rng.choices(there, weights)[0]
        return self._rng.choice(there)
