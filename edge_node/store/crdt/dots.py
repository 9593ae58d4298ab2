"""Dots and vectors: which writes there are, and which of them somebody knows.

    dot = (node, epoch, seq)       the seq-th change that *node* made under this writer epoch
    vector                         (node, epoch) -> the newest seq known, all below it known too
    floor of a node                (epoch, digest): its epochs up to this one are closed, and known to
    everybody

A writer epoch names one stretch of a writer's life. A life never goes on with the epoch of an earlier one,
so a disk that was restored from an old image cannot use a dot twice. Epochs of a node grow: seconds of the
clock above 31 random bits, and always above every epoch that this disk knows of.

A closed epoch that all members know completely is folded into its node's floor, else vectors would grow with
every boot for ever. The digest chains (epoch, seq) of all that was folded: whoever still has the epochs one
by one can tell whether it knows the same.

Source: Preguiça et al., *Dotted Version Vectors*, 2010; Almeida, Shoker, Baquero, *Delta State Replicated
Data Types*, 2018 (the causal context); Baquero, Almeida, Shoker, *Pure Operation-Based Replicated Data
Types*, 2017 (causal stability).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import msgspec

from edge_node.wire.messages import VectorRow

RANDOM_BITS: Final = 31

Writer = tuple[str, int]
"""(node, epoch)"""


class Dot(NamedTuple):
    node: str
    epoch: int
    seq: int


class Vector:
    """Mutable; a copy is cheap. ``floors[node] = (epoch, digest)``."""

    __slots__ = ("floors", "seqs")

    def __init__(
        self,
        seqs: dict[Writer, int] | None = None,
        floors: dict[str, tuple[int, bytes]] | None = None,
    ) -> None:
        self.seqs: dict[Writer, int] = {} if seqs is None else seqs
        self.floors: dict[str, tuple[int, bytes]] = {} if floors is None else floors

    def copy(self) -> Vector:
        return Vector(dict(self.seqs), dict(self.floors))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vector) and self.seqs == other.seqs and self.floors == other.floors

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Vector({self.seqs}, {self.floors})"

    def covers(self, node: str, epoch: int, seq: int) -> bool:
        known = self.seqs.get((node, epoch))
        if known is not None:
            return seq <= known
        floor = self.floors.get(node)
        return floor is not None and epoch <= floor[0]

    def floor(self, node: str) -> int:
        found = self.floors.get(node)
        return 0 if found is None else found[0]

    def seq(self, node: str, epoch: int) -> int:
        """The newest known; what lies under the floor counts as unknown here."""
        return self.seqs.get((node, epoch), 0)

    def covers_all(self, other: Vector) -> bool:
        """Is every dot that *other* knows known here?"""
        covers = self.covers
        return all(covers(node, epoch, seq) for (node, epoch), seq in other.seqs.items() if seq) and all(
            self.reaches(node, floor, digest) for node, (floor, digest) in other.floors.items()
        )

    def reaches(self, node: str, floor: int, digest: bytes) -> bool:
        """Is all that was folded into somebody's floor known here?"""
        mine, chain = self.floors.get(node, (0, b""))
        if mine > floor:
            return True  # folded together with more: every member knew it then
        if mine < floor:
            for epoch in self.epochs(node):
                if epoch <= floor:
                    chain = chained(chain, epoch, self.seqs[node, epoch])
        return chain == digest

    def epochs(self, node: str) -> list[int]:
        """Above the floor, ascending."""
        return sorted(epoch for each, epoch in self.seqs if each == node)

    def newest_epoch(self, node: str) -> int:
        return max((epoch for each, epoch in self.seqs if each == node), default=self.floor(node))

    def meet(self, other: Vector) -> Vector:
        """What both know, by these floors if the other has come as far."""
        seqs = {
            (node, epoch): min(seq, other.seqs.get((node, epoch), 0 if epoch > other.floor(node) else seq))
            for (node, epoch), seq in self.seqs.items()
        }
        floors = {node: floor for node, floor in self.floors.items() if other.reaches(node, *floor)}
        return Vector({writer: seq for writer, seq in seqs.items() if seq}, floors)

    def fold(self, node: str, epoch: int) -> None:
        """Close the node's oldest epoch above the floor."""
        floor, chain = self.floors.get(node, (0, b""))
        assert epoch > floor
        self.floors[node] = epoch, chained(chain, epoch, self.seqs.pop((node, epoch)))

    def rows(self) -> tuple[VectorRow, ...]:
        by_node: dict[str, list[tuple[int, int]]] = {node: [] for node in self.floors}
        for (node, epoch), seq in self.seqs.items():
            by_node.setdefault(node, []).append((epoch, seq))
        return tuple(
            VectorRow(node, tuple(sorted(epochs)), *self.floors.get(node, (0, b"")))
            for node, epochs in sorted(by_node.items())
        )

    @classmethod
    def of(cls, rows: Iterable[VectorRow]) -> Vector:
        vector = cls()
        for row in rows:
            for epoch, seq in row.epochs:
                vector.seqs[row.node, epoch] = seq
            if row.floor:
                vector.floors[row.node] = row.floor, row.digest
        return vector

    def digest(self) -> bytes:
        """8 bytes: equal for equal knowledge."""
        return hashlib.blake2b(msgspec.msgpack.encode(self.rows()), digest_size=8).digest()


def chained(chain: bytes, epoch: int, seq: int) -> bytes:
    return hashlib.blake2b(b"%b%d/%d" % (chain, epoch, seq), digest_size=8).digest()


def common(own: Vector, others: Iterable[Vector]) -> dict[Writer, int]:
    """What everybody knows of the epochs in *own*: the pointwise least. A closed epoch is known wholly."""
    cut = dict(own.seqs)
    for other in others:
        for writer, seq in cut.items():
            if writer[1] > other.floor(writer[0]):
                known = other.seqs.get(writer, 0)
                if known < seq:
                    cut[writer] = known
    return cut


def next_epoch(above: int, wall_ms: int, entropy: bytes) -> int:
    """A fresh writer epoch. *above*: every epoch known so far. entropy: 4 bytes."""
    assert len(entropy) == 4, "an epoch takes 4 bytes of entropy"
    second = max(wall_ms // 1000, (above >> RANDOM_BITS) + 1)
    return second << RANDOM_BITS | int.from_bytes(entropy, "big") >> 1


def missing(mine: Vector, theirs: Vector) -> Iterator[tuple[Writer, int]]:
    """Writers of whom *mine* knows more, and the newest seq that *theirs* has."""
    for (node, epoch), seq in mine.seqs.items():
        if epoch > theirs.floor(node):
            known = theirs.seqs.get((node, epoch), 0)
            if known < seq:
                yield (node, epoch), known
