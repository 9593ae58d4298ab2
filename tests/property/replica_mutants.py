"""Mutants of the replica: one function each replaced by a wrong one, and a drawn play that sees it.

A convergence test that never failed proves nothing. ``found``: seeds of plays (`tests.support.replica_plays`)
that end in a violation under the defect; without it the same plays pass.

Not here: a report that counts before its author's writes came. Those are then refused as having missed the
cut and said again, so the replicas are equal all the same; it costs a snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from edge_node.store import batch as batches
from edge_node.store import cells, replica, stability
from edge_node.store.antientropy import AntiEntropy
from edge_node.store.crdt import counter
from edge_node.store.crdt.counter import Tally
from edge_node.store.crdt.dots import Vector
from edge_node.store.replica import BEHIND, PREDECESSOR, Replica, Written
from edge_node.store.stability import Stability
from tests.support.replica_plays import ABSENT, FORGETFUL, RESTORED, play, returning


@dataclass(frozen=True, slots=True)
class Mutant:
    """`owner`, `attribute`: what is replaced; `made`: of the original, the wrong one.

    `found`: the seed of a play that shows it; `scene`: what is played.
    """

    name: str
    owner: Any
    attribute: str
    made: Callable[[Any], Any]
    found: int = 0
    scene: Callable[[int], Any] = play


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    original = vars(mutant.owner)[mutant.attribute]
    setattr(mutant.owner, mutant.attribute, mutant.made(original))
    try:
        yield
    finally:
        setattr(mutant.owner, mutant.attribute, original)


def _arrival_wins(original):
    def joined(mine, i_know, theirs, they_know):
        merged = original(mine, i_know, theirs, they_know)
        return tuple(sorted(merged, key=lambda each: each in theirs))

    return joined


def _first_wins(original):
    return lambda *args: tuple(reversed(original(*args)))


def _dot_off_by_one(original):
    def covers(self, node, epoch, seq):
        return original(self, node, epoch, seq + 1)

    return covers


def _everything_known(original):
    return lambda self, node, epoch, seq: True


def _nothing_known(original):
    return lambda self, node, epoch, seq: False


def _collects_all(original):
    """Deletions are dropped at the next occasion, whoever knows of them."""

    def collect(self, now_ns, out):
        for cell in list(self.cells.tombstones):
            self.cells.place(cell, ())
            self._commit.cells[cell] = None
        original(self, now_ns, out)

    return collect


def _own_cut(original):
    return lambda own, others: dict(own.seqs)


def _always(value):
    return lambda original: lambda self, *args, **kwargs: value


def _without(reason):
    def made(original):
        def obstacle(self, wall_ms, batch):
            found, need = original(self, wall_ms, batch)
            if found == reason and batch.first == self._known.seq(batch.node, batch.epoch) + 1:
                return "", None
            return found, need

        return obstacle

    return made


def _twice(original):
    """What is known is applied once more."""

    def obstacle(self, wall_ms, batch):
        found, need = original(self, wall_ms, batch)
        known = self._known.seq(batch.node, batch.epoch)
        return ("", None) if found == "known" and batch.last == known else (found, need)

    return obstacle


def _acknowledged_at_once(original):
    def close(self, out):
        out += [Written(token) for token in self._now.tokens]
        self._now.tokens = []
        original(self, out)

    return close


def _broadcast_and_reported_at_once(original):
    def close(self, out):
        original(self, out)
        self.durable = self._known

    return close


def _epoch_goes_on(original):
    """A new life counts on in the epoch of the last one."""

    def begin(self, wall_ms, amends):
        newest = max((epoch for node, epoch in self._known.seqs if node == self._me), default=0)
        if not self._epoch and newest and not amends:
            self._epoch = newest
            self._next = self._known.seqs[self._me, newest] + 1
        return original(self, wall_ms, amends)

    return begin


def _amends_ignored(original):
    return lambda payload: msgspec.structs.replace(original(payload), amends=())


def _sum_forgotten(original):
    def folded(tally, known):
        found = original(tally, known)
        return Tally(found.entries, tally.folded)

    return folded


def _resets_ignored(original):
    return lambda mine, theirs: mine


def _nothing_again(original):
    return lambda self, *args: None


def _not_kept(original):
    """What a batch touched is not written with it."""

    def apply(self, *args):
        original(self, *args)
        self._commit.cells.clear()

    return apply


def _snapshot_of_the_dead(original):
    """A snapshot is believed whoever made it, and however old it is."""
    return lambda self, other: True


forgetful, absent, restored = (partial(play, kinds=each) for each in (FORGETFUL, ABSENT, RESTORED))

MUTANTS = [
    Mutant("the last to arrive wins", cells, "joined", _arrival_wins, 1),
    Mutant("the tie-break is reversed", cells, "joined", _first_wins, 1),
    Mutant("a dot is compared off by one", replica._Past, "covers", _dot_off_by_one, 13),
    Mutant("every write replaces all", replica._Past, "covers", _everything_known, 1),
    Mutant("no write replaces any", replica._Past, "covers", _nothing_known, 1),
    Mutant(
        "deletions are collected too early",
        Replica,
        "_collect",
        _collects_all,
        9,
        forgetful,
    ),
    Mutant("one member's knowledge is the cut", stability, "common", _own_cut, 0, forgetful),
    Mutant("a few forget for all", Stability, "_enough", _always(True), 0, absent),
    Mutant("writes that missed the cut are taken", Replica, "_obstacle", _without(BEHIND), 0, returning),
    Mutant("effects come before causes", Replica, "_obstacle", _without(PREDECESSOR), 4),
    Mutant("a batch counts twice", Replica, "_obstacle", _twice, 1),
    Mutant("acknowledged before it is safe", Replica, "_close_commit", _acknowledged_at_once, 2),
    Mutant("reported before it is safe", Replica, "_close_commit", _broadcast_and_reported_at_once, 3),
    Mutant("a dot is used again", Replica, "_begin", _epoch_goes_on, 6),
    Mutant("amends are ignored", batches, "decoded", _amends_ignored, 3),
    Mutant("a folded sum is forgotten", counter, "folded", _sum_forgotten, 5),
    Mutant("void counts stay", counter, "joined", _resets_ignored, 0, returning),
    Mutant(
        "nothing is said again after a snapshot",
        Replica,
        "_again",
        _nothing_again,
        0,
        returning,
    ),
    Mutant("wrong stamps are not corrected", Replica, "_stamp_again", _nothing_again, 4),
    Mutant("cells are not kept", Replica, "_apply", _not_kept, 5),
    Mutant("no snapshot is ever sent", AntiEntropy, "_send_copy", _nothing_again, 3),
    Mutant(
        "an older snapshot is taken",
        Vector,
        "covers_all",
        _snapshot_of_the_dead,
        28,
        restored,
    ),
]
