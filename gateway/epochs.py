"""Epochs: when the mesh's group gets a new secret, and who is handed it.

    Started, RosterChanged (somebody removed), Shown (a higher one), every 24 h
        -> NewEpoch -> adopted and persisted by the shell -> Kept -> Tell(every member met, GroupKeys)

A core beside ``groupcast``, at the gateway alone. Removal rotates at once: revoked, left, struck off, or
replaced by another board under the same name (its new keys have none in common with the old). Being offline
is no removal, nor is a renewal, which lists old and new keys together for a while.

A crash between a removal and its epoch would leave the removed member with the current secret. So the
version of the last roster whose removals are answered is persisted (``Settled``); a start under any other
version rotates. Otherwise a restarted gateway goes on with the stored epoch.

A gateway restored from an old backup signs numbers that members are past already. They answer what it hands
them with the higher epoch they hold (``groupcast``), which bears our signature: ``Shown``, and the next one
is above it.

An epoch of which nobody is told harms nobody: members ask for what they miss. Not here: signing (injected),
persisting, asking and answering (``groupcast``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edge_node.transport.groupcast import Tell
from edge_node.wire.ids import GATEWAY
from edge_node.wire.messages import GroupKeys
from security.group import EPOCH_MAX, SECRET_BYTES, Epoch
from security.roster import Roster

SECOND: Final = 1_000_000_000
ROTATE_NS: Final = 24 * 3600 * SECOND

Sign = Callable[[int, bytes, int], bytes]
"""(epoch, secret, issued_s) -> grant: ``Authority.sign_grant`` for the group "mesh"."""


# -- events


@dataclass(frozen=True, slots=True)
class Started:
    """Once, first. ``held``: ``Groupcast.current``, restored; ``settled``: ``KeyStore.settled_roster``."""

    wall_s: int
    held: Epoch | None
    settled: int
    roster: Roster


@dataclass(frozen=True, slots=True)
class RosterChanged:
    """A newer roster holds (whatever changed in it)."""

    roster: Roster


@dataclass(frozen=True, slots=True)
class MemberMet:
    """There is a session with this member."""

    peer: str


@dataclass(frozen=True, slots=True)
class MemberLost:
    peer: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A member handed us an epoch that we adopted: ``groupcast.Adopted`` with ``shown_by`` not ourselves."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Kept:
    """The new epoch is adopted and on disk; or (not ``durable``) the disk refused.

    Members are told all the same, since a removed one must not listen on for that, but no roster is settled,
    so the next start rotates.
    """

    epoch: int
    durable: bool = True


Event = Started | RosterChanged | MemberMet | MemberLost | Shown | Kept


# -- effects


@dataclass(frozen=True, slots=True)
class NewEpoch:
    """Give it to our own ``Groupcast.came`` as from ourselves, persist its ``Keep``, say ``Kept(epoch)``."""

    epoch: int
    keys: GroupKeys
    reason: str  # for the log


@dataclass(frozen=True, slots=True)
class Settled:
    """``KeyStore.save_settled_roster(version)``; nothing waits for it."""

    version: int


Effect = NewEpoch | Settled | Tell


class EpochKeeper:
    """Makes the epochs of the group "mesh"; a core."""

    def __init__(self, *, sign: Sign, entropy: Callable[[int], bytes]) -> None:
        """``entropy(n)`` gives n random bytes: the secrets are made of it."""
        self._sign = sign
        self._entropy = entropy
        self._keys: GroupKeys | None = None
        self._number = 0
        self._kept = 0  # the highest epoch that members may be told
        self._durable = True  # it is on disk too
        self._members: dict[str, frozenset[bytes]] = {}
        self._version = 0
        self._settled = 0
        self._met: dict[str, None] = {}
        self._due_ns: int | None = None
        self._wall_s, self._wall_ns = 0, 0

    def handle(self, now_ns: int, event: Event) -> list[Effect]:
        match event:
            case Started(wall_s, held, settled, roster):
                return self._started(now_ns, wall_s, held, settled, roster)
            case RosterChanged(roster):
                return self._roster_changed(now_ns, roster)
            case MemberMet(peer):
                if peer == GATEWAY or peer not in self._members:
                    return []
                self._met[peer] = None
                # While a new epoch is being kept its Kept will tell this peer too.
                ours = self._keys if self._kept == self._number else None
                return [Tell(peer, ours)] if ours is not None else []
            case MemberLost(peer):
                self._met.pop(peer, None)
                return []
            case Shown(epoch):
                if epoch.number < self._number:
                    return []
                self._number = epoch.number
                return self._rotate(now_ns, "a member showed one that this gateway does not remember")
            case Kept(number, durable):
                return self._on_disk(number, durable)

    def _started(
        self, now_ns: int, wall_s: int, held: Epoch | None, settled: int, roster: Roster
    ) -> list[Effect]:
        self._wall_s, self._wall_ns = wall_s, now_ns
        self._members, self._version, self._settled = _keys_of(roster), roster.version, settled
        if held is None:
            return self._rotate(now_ns, "the first")
        self._number = self._kept = held.number
        self._keys = GroupKeys(held.grant, held.secret)
        if settled != roster.version:
            return self._rotate(now_ns, "the roster changed while this gateway was away")
        age_ns = (wall_s - held.issued_s) * SECOND  # negative where the clock went back
        self._due_ns = now_ns + min(max(ROTATE_NS - age_ns, 0), ROTATE_NS)
        return []

    def _roster_changed(self, now_ns: int, roster: Roster) -> list[Effect]:
        if roster.version <= self._version:
            return []
        before, self._members, self._version = self._members, _keys_of(roster), roster.version
        gone = sorted(i for i, keys in before.items() if keys.isdisjoint(self._members.get(i, ())))
        for peer in [peer for peer in self._met if peer in gone or peer not in self._members]:
            del self._met[peer]
        if gone:
            more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
            return self._rotate(now_ns, f"{gone[0]}{more} left the roster")
        return self._settle()

    def _rotate(self, now_ns: int, reason: str) -> list[Effect]:
        assert self._number < EPOCH_MAX, "a rotation a second takes 136 years to get here"
        self._number += 1
        self._due_ns = now_ns + ROTATE_NS
        secret = self._entropy(SECRET_BYTES)
        assert len(secret) == SECRET_BYTES
        issued_s = self._wall_s + (now_ns - self._wall_ns) // SECOND
        self._keys = GroupKeys(self._sign(self._number, secret, issued_s), secret)
        return [NewEpoch(self._number, self._keys, reason)]

    def _on_disk(self, number: int, durable: bool) -> list[Effect]:
        if number != self._number or number == self._kept or self._keys is None:
            return []  # a newer one is on its way, whose Kept tells everybody
        self._kept, self._durable = number, durable
        told: list[Effect] = [Tell(peer, self._keys) for peer in sorted(self._met)]
        return told + self._settle()

    def _settle(self) -> list[Effect]:
        if self._kept != self._number or not self._durable or self._settled == self._version:
            return []
        self._settled = self._version
        return [Settled(self._version)]

    def tick(self, now_ns: int) -> list[Effect]:
        if self._due_ns is None or now_ns < self._due_ns:
            return []
        return self._rotate(now_ns, "the last one is a day old")

    def deadline_ns(self) -> int | None:
        return self._due_ns

    def check(self) -> None:
        """Invariants; raises AssertionError."""
        assert self._kept <= self._number
        assert (self._number == 0) == (self._keys is None), "whoever has a number has its keys"
        assert self._met.keys() <= self._members.keys(), "strangers are handed nothing"


def _keys_of(roster: Roster) -> dict[str, frozenset[bytes]]:
    return {
        one.id: frozenset(key.spki_sha256 for key in one.keys)
        for one in roster.members
        if one.status == "active"
    }
