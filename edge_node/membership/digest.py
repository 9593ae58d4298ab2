"""The fleet's digest: what the gateway tells everybody of everybody, in at most 1 KiB a second.

    Noted(peer, load), Left(peer)  ──►  FleetDigest: what changed, oldest first; then some that are idle,
                                        then some at random, up to 32

A node hears the beats of a few; the digest is how it learns of the rest: who came, who went, whose load
moved by more than a quarter, and who has nothing to do. Second-hand and a second old, so it starts probes
and decides nothing by itself. While nothing changes it goes out every 5 s, so that whoever has just joined
soon knows some idle members; with fewer than two members up there is nothing to tell.

Not here: beats, sealing, the reader's side (`tasks.desk`, ``following``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from edge_node.scheduling.estimates import sound_speed
from edge_node.wire.messages import (
    DIGEST_BYTES_MAX,
    DIGEST_ENTRIES_MAX,
    DigestEntry,
    FleetDigest,
    Load,
)

if TYPE_CHECKING:
    from random import Random

SECOND: Final = 1_000_000_000
DIGEST_NS: Final = 1 * SECOND
REFRESH_NS: Final = 5 * SECOND
MOVED_SHARE: Final = 0.25
MOVED_MS_MIN: Final = 50
"""Waits below this are no wait: they are taken for equal."""
HEAD_BYTES: Final = 16  # of the message around its entries, with the longest number
WAIT_MS_MAX: Final = 1 << 31

_encode = msgspec.msgpack.Encoder().encode


def entry_of(peer: str, load: Load) -> DigestEntry:
    workers = max(1, load.workers)
    wait_ms = (load.backlog_ms + load.leased_ms) // workers
    down = load.draining  # it takes nothing: for a candidate that is the same
    return DigestEntry(peer, max(0, min(WAIT_MS_MAX, wait_ms)), load.workers, sound_speed(load.speed), down)


def has_moved(told: DigestEntry | None, now: DigestEntry) -> bool:
    if told is None or (told.workers, told.speed, told.down) != (now.workers, now.speed, now.down):
        return True
    larger = max(told.wait_ms, now.wait_ms)
    return larger > MOVED_MS_MIN and abs(told.wait_ms - now.wait_ms) > MOVED_SHARE * larger


class Digest:
    """What the gateway has told of its fleet, and what it will tell next; a core. Bounded by the roster."""

    def __init__(self, *, rng: Random) -> None:
        self._rng = rng
        self._seq = 0
        self._now: dict[str, DigestEntry] = {}  # of those that are up
        self._told: dict[str, DigestEntry] = {}
        self._changed: dict[str, None] = {}  # oldest first
        self._sent_ns: int | None = None

    def noted(self, now_ns: int, peer: str, load: Load) -> None:
        """*peer* is up, and this busy."""
        entry = self._now[peer] = entry_of(peer, load)
        if peer not in self._changed and has_moved(self._told.get(peer), entry):
            self._changed[peer] = None

    def left(self, now_ns: int, peer: str) -> None:
        """*peer* is down, or no member any more."""
        if self._now.pop(peer, None) is not None:
            self._changed.pop(peer, None)  # news again: it is told last, with its latest state
            self._changed[peer] = None

    def forget(self) -> None:
        """We were cut off: nothing is known of anybody until it is heard again."""
        self._now.clear()
        self._told.clear()
        self._changed.clear()

    def tick(self, now_ns: int) -> FleetDigest | None:
        """The digest that is due now, if there is something to tell."""
        due = self.deadline_ns()
        if due is None or due > now_ns:
            return None
        self._sent_ns = now_ns
        entries = self._entries()
        self._seq += 1
        digest = FleetDigest(self._seq, entries)
        assert len(_encode(digest)) <= DIGEST_BYTES_MAX, "a digest is at most 1 KiB"
        return digest

    def _entries(self) -> list[DigestEntry]:
        entries: list[DigestEntry] = []
        room = DIGEST_BYTES_MAX - HEAD_BYTES

        def take(entry: DigestEntry) -> bool:
            nonlocal room
            size = len(_encode(entry))
            if size > room or len(entries) >= DIGEST_ENTRIES_MAX:
                return False
            room -= size
            entries.append(entry)
            return True

        for peer in list(self._changed):
            entry = self._now.get(peer)
            if entry is None and peer in self._told:
                entry = DigestEntry(peer, 0, 0, self._told[peer].speed, True)
            if entry is not None and not take(entry):
                return entries  # the rest has its turn in a second
            del self._changed[peer]
            if peer in self._now:
                self._told[peer] = self._now[peer]
            else:
                self._told.pop(peer, None)
        told = {entry.id for entry in entries}
        idle = [p for p, e in self._now.items() if e.wait_ms == 0 and not e.down and p not in told]
        chosen = self._rng.sample(idle, min(len(idle), DIGEST_ENTRIES_MAX // 2))
        others = [p for p in self._now if p not in told and p not in chosen] if len(chosen) < 8 else []
        for peer in [*chosen, *self._rng.sample(others, min(len(others), 8))]:
            if not take(self._now[peer]):
                break
            self._told[peer] = self._now[peer]
        return entries

    def deadline_ns(self) -> int | None:
        if self._changed and (len(self._now) > 1 or len(self._told) > 1):
            return 0 if self._sent_ns is None else self._sent_ns + DIGEST_NS
        if len(self._now) > 1:
            return 0 if self._sent_ns is None else self._sent_ns + REFRESH_NS
        return None

    def check(self) -> None:
        assert all(peer == entry.id for peer, entry in self._now.items())
        gone = self._told.keys() - self._now.keys()
        assert gone <= self._changed.keys(), "who went is told as gone"
