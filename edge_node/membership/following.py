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
    from collections.abc import Iterable
    from random import Random

    from edge_node.wire.messages import DigestEntry

SECOND: Final = 1_000_000_000
FOLLOWED_MAX: Final = 16
"""Each costs its beats, at most 150 bytes a second; so a node hears as much however large the mesh."""
LAN_MAX: Final = 6
REPLACE_NS: Final = 60 * SECOND
CAPACITY_MAX: Final = 1e9
"""A peer may say anything; more than this is taken for this, so that a sum over all members is finite."""
CAPACITIES_MAX: Final = 64
"""Members whose capacity is remembered, those told last: a choice among so many is as good as among all."""
DRAWS_MAX: Final = 16
"""By chance: so many members are tried, before all that are free are listed."""
DOWN_NS: Final = 600 * SECOND
"""Who went down this long ago is taken for a stranger again."""


class Members(msgspec.Struct, frozen=True):
    """Event: the active members, with or without us."""

    ids: frozenset[str]
    names: tuple[str, ...] = ()
    """The same by name, if the caller has them so; both are kept and shared, never changed."""


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
        self._names: tuple[str, ...] = ()  # members by name: what is drawn from; we are among them
        self._there: frozenset[str] = frozenset()  # the same, to be asked
        self._candidates = 0  # of them: all but us and the one always followed
        self._followed: dict[str, None] = {}
        self._lan: dict[str, None] = {}
        self._capacity: dict[str, float] = {}
        self._down: dict[str, int] = {}  # peer -> until when it is passed over
        self._replace_ns: int | None = None

    def handle(self, now_ns: int, event: Event) -> list[Effect]:
        match event:
            case Members(ids, names):
                return self._members_changed(now_ns, ids, names)
            case Sighted(peer):
                return self._sighted(now_ns, peer)
            case Capacity(peer, amount):
                self.told(peer, amount)
                return []
            case Came(peer):
                self.came(peer)
                return []
            case Went(peer):
                if not self._is_candidate(peer):
                    return []
                self._down[peer] = now_ns + DOWN_NS
                return self._swap(now_ns, peer) if peer in self._followed else []

    def told(self, peer: str, amount: float) -> None:
        """The hot path of ``handle(Capacity)``."""
        capacity = self._capacity
        if peer not in capacity:
            if not self._is_candidate(peer):
                return
            if len(capacity) >= CAPACITIES_MAX:
                del capacity[next(iter(capacity))]
        capacity[peer] = (
            (amount if amount < CAPACITY_MAX else CAPACITY_MAX) if amount > 0.0 else 0.0
        )  # NaN: none

    def told_of(self, entries: Iterable[DigestEntry]) -> None:
        """``told`` and ``came`` of everybody in a digest; its entries about who is down are passed over."""
        for entry in entries:
            if not entry.down:
                self.told(entry.id, entry.workers * entry.speed)
                self.came(entry.id)

    def came(self, peer: str) -> None:
        """The hot path of ``handle(Came)``."""
        if self._down:
            self._down.pop(peer, None)

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
        candidates = self._there - {self._me, self._always}
        assert len(candidates) == self._candidates and self._there == {*self._names}
        for known in (self._followed, self._lan, self._capacity, self._down):
            assert known.keys() <= candidates
        assert len(self._capacity) <= CAPACITIES_MAX
        assert len(self._followed) == min(self._limit, len(candidates)), "no place is left empty"
        assert (self._replace_ns is not None) == (len(candidates) > self._limit)

    # ── inside ────────────────────────────────────────────────────────────────────────────────────

    def _is_candidate(self, peer: str) -> bool:
        return peer in self._there and peer not in (self._me, self._always)

    def _members_changed(self, now_ns: int, ids: frozenset[str], names: tuple[str, ...]) -> list[Effect]:
        there = self._there = ids
        self._names = names if len(names) == len(ids) else tuple(sorted(ids))
        self._candidates = len(ids) - (self._me in ids) - (self._always in ids)
        effects: list[Effect] = [Unfollow(peer) for peer in self._followed if peer not in there]
        for known in (self._followed, self._lan, self._capacity, self._down):
            for peer in [peer for peer in known if peer not in there]:
                del known[peer]
        if self._candidates <= self._limit:
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
        rng = self._rng
        by = rng.choice(("network", "capacity", "chance"))
        if by == "network" and self._lan and sum(each in self._lan for each in self._followed) < LAN_MAX:
            near = [peer for peer in sorted(self._lan) if self._is_free(peer, but)]
            if near:
                return rng.choice(near)
        if by == "capacity" and self._capacity:
            able = [peer for peer in sorted(self._capacity) if self._is_free(peer, but)]
            weights = [self._capacity[peer] for peer in able]
            if any(weights):
                return rng.choices(able, weights)[0]
        if self._candidates > 2 * (len(self._followed) + len(self._down)):  # most of them would do
            for _ in range(DRAWS_MAX):
                peer = rng.choice(self._names)
                if self._is_free(peer, but):
                    return peer
        away = [peer for peer in self._names if self._is_candidate(peer) and peer not in self._followed]
        there = [peer for peer in away if self._is_free(peer, but)]
        if there:
            return rng.choice(there)
        return rng.choice(away) if away and not but else None

    def _is_free(self, peer: str, but: str) -> bool:
        """A candidate that is neither followed nor down."""
        return (
            peer not in self._followed and peer not in self._down and peer != but and self._is_candidate(peer)
        )
