"""Restoration: a gateway whose home is an old copy asks its members what it has forgotten, before it signs.

    restored ─► listening ──every member showed its roster─────────────────► settled: sign again, from STEP on
                    │     ──most did, and GRACE passed─────────────────────►
                    └     ──there is none to ask, or the operator settles──►

Between the backup and now the lost gateway has signed versions that members hold. A version with one of
those numbers and another content would be a fork, and the backup's own list would let those in again that
were revoked since. So nothing is signed or published until members have shown the roster they hold (kinds 4
and 5 of the handshake frames, and the retained topic of a broker that lives on): it bears our own signature,
nobody can invent one. And the next version is STEP above the highest that was seen, so that a number used by
a version that nobody could show is not used twice. Time alone ends it only after most members were heard: one
that was revoked since, alone with its old roster, would otherwise be let in again by waiting.

A core. In: Members, Came, Went, Shown, Settle. Out: Ask, Settled. The record of it is kept in the key store
under ``RECORD``; ``status`` reads it. Not here: making and reading backups (``backup``), holding the keeper
back (``roster_keeper``).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Final

SECOND: Final = 1_000_000_000
RECORD: Final = "restored"
STEP: Final = 1 << 20
"""More versions than a gateway signs between two backups: one a second, its fastest pace, for twelve days."""
GRACE_NS: Final = 600 * SECOND
"""From the word of most members on: each reconnects within seconds, and each knows what the others know."""
ASK_NS: Final = 11 * SECOND
"""Asked again after this long: a member answers at most once in 10 s."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What is remembered of a restoration; wall times in seconds."""

    backup_version: int  # of the roster that the backup held
    backup_s: int  # when it was made
    restored_s: int
    learned_version: int = 0  # the highest that was shown to us since; 0: none higher
    learned_from: str = ""
    settled_s: int = 0  # 0: still listening
    settled_why: str = ""

    def encode(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def decode(cls, data: bytes) -> Restored | None:
        """None: damaged, which is told and taken for a restoration that we know nothing of."""
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError, RecursionError):
            return None

    @property
    def told(self) -> str:
        """One line for log, ``status`` and ``doctor``."""
        text = "this home was restored from a backup"
        if self.learned_version > self.backup_version:
            text += (
                f" older than the mesh: roster {self.backup_version} -> {self.learned_version} taken from "
                f"{self.learned_from}; members enrolled or revoked since are as that roster says, functions "
                "deployed since come back from the members that hold them, else deploy them again"
            )
        elif self.settled_s:
            text += f"; no member showed a roster newer than its own, version {self.backup_version}"
        if not self.settled_s:
            text += "; it signs nothing until its members were heard"
        return text


# ── events and effects ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Members:
    """The active members of the best roster so far, without ourselves."""

    ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class Came:
    """There is a session with this member."""

    peer: str


@dataclass(frozen=True, slots=True)
class Went:
    peer: str


@dataclass(frozen=True, slots=True)
class Shown:
    """This member ("" for the retained topic) showed a roster that verifies."""

    peer: str
    version: int


@dataclass(frozen=True, slots=True)
class Settle:
    """The operator knows that nobody else is left to ask."""


Event = Members | Came | Went | Shown | Settle


@dataclass(frozen=True, slots=True)
class Ask:
    """Effect: ask this member for the roster that it holds."""

    peer: str


@dataclass(frozen=True, slots=True)
class Settled:
    """Effect: sign again, STEP above the highest version seen."""

    why: str


Effect = Ask | Settled


class Restoration:
    """See the module's docstring."""

    def __init__(self, record: Restored) -> None:
        self.record = record
        self._members: frozenset[str] | None = None
        self._up: dict[str, int] = {}  # member → when it is asked (again)
        self._heard: set[str] = set()
        self._until_ns: int | None = None
        self._over = bool(record.settled_s)

    @property
    def over(self) -> bool:
        return self._over

    @property
    def unheard(self) -> list[str]:
        """Members that have not shown their roster yet."""
        return sorted((self._members or frozenset()) - self._heard)

    def handle(self, now_ns: int, event: Event) -> list[Effect]:
        if self._over:
            return []
        match event:
            case Members(ids):
                self._members = ids
            case Came(peer):
                if peer not in self._heard:
                    self._up[peer] = now_ns + ASK_NS
                    return [Ask(peer)]
            case Went(peer):
                self._up.pop(peer, None)
            case Shown(peer, version):
                self._shown(now_ns, peer, version)
            case Settle():
                return self._settle("by the operator")
        return self._judged(now_ns)

    def tick(self, now_ns: int) -> list[Effect]:
        if self._over:
            return []
        asked: list[Effect] = []
        for peer, due_ns in self._up.items():
            if due_ns <= now_ns:
                self._up[peer] = now_ns + ASK_NS
                asked.append(Ask(peer))
        return asked + self._judged(now_ns)

    def deadline_ns(self) -> int | None:
        if self._over:
            return None
        dues = [*self._up.values(), *([] if self._until_ns is None else [self._until_ns])]
        return min(dues, default=None)

    def check(self) -> None:
        assert not self._heard & self._up.keys(), "who was heard is not asked again"
        assert self._until_ns is None or self._heard, "the grace runs from the word of most on"
        assert self._over or not self.record.settled_s

    def _shown(self, now_ns: int, peer: str, version: int) -> None:
        if version > max(self.record.learned_version, self.record.backup_version):
            self.record = replace(
                self.record, learned_version=version, learned_from=peer or "the broker's retained message"
            )
        if not peer:
            return  # a broker may keep an old one: it proves no member's word
        self._heard.add(peer)
        self._up.pop(peer, None)

    def _judged(self, now_ns: int) -> list[Effect]:
        if self._members is None:
            return []
        if not self._members:
            return self._settle("it has no members to ask")
        if self._members <= self._heard:
            return self._settle("every member was heard")
        most = 2 * len(self._members & self._heard) > len(self._members)
        if not most:
            self._until_ns = None  # the roster that was shown lists others: theirs is the word to wait for
        elif self._until_ns is None:
            self._until_ns = now_ns + GRACE_NS
        if self._until_ns is not None and now_ns >= self._until_ns:
            return self._settle(f"waited long enough for {', '.join(self.unheard[:8])}")
        return []

    def _settle(self, why: str) -> list[Effect]:
        self._over = True
        return [Settled(why)]
