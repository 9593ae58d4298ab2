"""Registers: one field of one document, the last writer wins and whoever lost is on record.

A register holds every version that no other version knew of: mostly one. Its value is that of the greatest
(stamp, node, epoch, seq). Several versions are a conflict: readers see the winner, people see all of them,
and whoever writes next, knowing them, replaces them all. A deletion is a version without a value; it is
kept until nobody can have a write that did not know of it (`edge_node.store.cells`).

A set's element is a register too, read otherwise: it is there while one version is. Taking it out removes the
versions that were known and leaves nothing behind, so an addition that was not known of survives
(observed-remove; Shapiro et al., *A comprehensive study of Convergent and Commutative Replicated Data Types*,
INRIA RR-7506, 2011, 3.3.5).

``joined`` is the one merge: a version stays if both sides have it, or if the other side never knew of it
(Almeida, Shoker, Baquero 2018, 4.2, causal multi-value register and add-wins set).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Rival(NamedTuple):
    """What lost without having been known, when a write had to be made again (see `replica`)."""

    stamp: int
    node: str
    value: bytes | None


class Version(NamedTuple):
    """One write. Versions are ordered by their first four fields, which no two share. value None: deleted."""

    stamp: int
    node: str
    epoch: int
    seq: int
    value: bytes | None
    rivals: tuple[Rival, ...] = ()


Register = tuple[Version, ...]
"""Ascending: the last one is the winner."""


class Knows(Protocol):
    def covers(self, node: str, epoch: int, seq: int, /) -> bool: ...


def joined(mine: Register, i_know: Knows, theirs: Register, they_know: Knows) -> Register:
    """Both sides' versions, without those that one side knew of and has replaced."""
    if not mine:
        return tuple([each for each in theirs if not i_know.covers(each.node, each.epoch, each.seq)])
    if len(mine) == 1:
        old = mine[0]
        if len(theirs) == 1 and they_know.covers(old.node, old.epoch, old.seq):
            new = theirs[0]
            if not i_know.covers(new.node, new.epoch, new.seq):
                return theirs  # nearly always: one version, which the newcomer knew of
        if they_know.covers(old.node, old.epoch, old.seq) and old not in theirs:
            mine = ()
    else:
        mine = tuple(
            [each for each in mine if each in theirs or not they_know.covers(each.node, each.epoch, each.seq)]
        )
    added = [
        each for each in theirs if each not in mine and not i_know.covers(each.node, each.epoch, each.seq)
    ]
    if not mine:
        return tuple(added)
    return tuple(sorted((*mine, *added))) if added else mine


def winner(register: Register) -> Version:
    return register[-1]


def in_conflict(register: Register) -> bool:
    """Did somebody lose who wrote something else?"""
    if not register:
        return False
    won = register[-1]
    return any(each.value != won.value for each in register[:-1]) or any(
        rival.value != won.value for each in register for rival in each.rivals
    )
