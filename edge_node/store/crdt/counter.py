"""Counters: everybody adds for itself, the value is the sum.

    tally = {(node, epoch): (seq, up, down)} and a folded sum

An entry belongs to one writer epoch and only its writer moves it, so of two copies the one with the greater
seq is newer (PN-counter, Shapiro et al. 2011, 3.1.3, with one pair of totals for each epoch instead of each
replica: a node that was restored from an old disk counts on in a new entry). Entries of closed epochs that
everybody knows are folded into one sum, else a counter would grow with every boot.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from edge_node.store.crdt.dots import Vector, Writer


class Entry(NamedTuple):
    seq: int
    up: int
    down: int


class Tally(msgspec.Struct, frozen=True):
    """entries must not be changed in place."""

    entries: dict[Writer, Entry]
    folded: int = 0

    @property
    def value(self) -> int:
        return self.folded + sum(entry.up - entry.down for entry in self.entries.values())


EMPTY = Tally({})


def added(tally: Tally, node: str, epoch: int, seq: int, amount: int) -> Tally:
    old = tally.entries.get((node, epoch), Entry(0, 0, 0))
    new = Entry(seq, old.up + max(amount, 0), old.down + max(-amount, 0))
    return Tally({**tally.entries, (node, epoch): new}, tally.folded)


def joined(mine: Tally, theirs: Tally) -> Tally:
    """Of two that folded the same epochs."""
    entries = dict(mine.entries)
    for writer, entry in theirs.entries.items():
        if writer not in entries or entry.seq > entries[writer].seq:
            entries[writer] = entry
    return Tally(entries, mine.folded)


def folded(tally: Tally, known: Vector) -> Tally:
    """Closed epochs become part of the sum."""
    closed = {writer for writer in tally.entries if writer[1] <= known.floor(writer[0])}
    if not closed:
        return tally
    gone = sum(tally.entries[writer].up - tally.entries[writer].down for writer in closed)
    left = {writer: entry for writer, entry in tally.entries.items() if writer not in closed}
    return Tally(left, tally.folded + gone)
