"""Stability: what every member knows, so that deletions, batches and epochs may be forgotten.

    reports of members ─► acknowledged vectors ─► cut = the pointwise least ─► collected below it

A member's report counts once everything that it had written then is here: whatever of it comes later was
written knowing all that it reported, so nothing below the cut can be concurrent with anything still to come
(Baquero, Almeida, Shoker 2017, causal stability). The cut never goes back.

Who is silent for seven days leaves the set, and who reports less than the cut was never in it: both return
by a snapshot. A member that has not reported yet holds the cut where it is. The set has to be more than
half of the roster (or half of it with the gateway), so that a part that is cut off for weeks never forgets
what the others have not got: it has to say it again when it returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from edge_node.store.crdt.dots import Vector, Writer, common
from security.identity import GATEWAY

SILENT_NS: Final = 7 * 24 * 3600 * 1_000_000_000
PRESSED_NS: Final = 60 * 1_000_000_000
"""While the log is over its bound: who is silent for so long may come back by a snapshot as well."""


class _Member:
    __slots__ = ("acknowledged", "behind", "heard_ns")

    def __init__(self, now_ns: int) -> None:
        self.heard_ns = now_ns
        self.acknowledged: Vector | None = None
        self.behind = False


class Stability:
    """Args: me: never asked, always in."""

    def __init__(self, me: str, cut: dict[Writer, int] | None = None) -> None:
        self._me = me
        self._listed: frozenset[str] | None = None
        self._begun_ns = 0  # when the first list came: whoever has no record was listed then, and is silent
        self._members: dict[str, _Member] = {}
        self.cut: dict[Writer, int] = {} if cut is None else cut
        self.stale = True  # a report or a member changed since the cut was taken

    def members(self, now_ns: int, members: Iterable[str]) -> None:
        """Whom the roster lists. Costs nothing for who never reports: many hold no tables at all."""
        listed = frozenset(members)
        if self._listed is None:
            self._begun_ns = now_ns
        else:
            for gone in self._members.keys() - listed:
                del self._members[gone]
            for new in listed - self._listed - {self._me}:
                self._members[new] = _Member(now_ns)
        self._listed = listed
        self.stale = True

    def persisted(self) -> None:
        """More lies on our own disk. Where others are listed it is their reports that move the cut."""
        if self._listed is not None and self._listed <= {self._me}:
            self.stale = True

    def _others(self) -> Iterator[tuple[str, _Member]]:
        never = _Member(self._begun_ns)
        for peer in sorted(self._listed or ()):
            if peer != self._me:
                yield peer, self._members.get(peer, never)

    def reported(self, now_ns: int, peer: str, vector: Vector, known: Vector) -> bool:
        """Is the peer within the cut? False: it needs a snapshot. known: what is known here."""
        if self._listed is None or peer not in self._listed or peer == self._me:
            return True
        member = self._members.setdefault(peer, _Member(now_ns))
        member.heard_ns = now_ns
        if not vector.covers_all(Vector(self.cut, known.floors)):
            member.behind, member.acknowledged = True, None
            self.stale = True
            return False
        own = all(seq <= known.seq(*writer) for writer, seq in vector.seqs.items() if writer[0] == peer
                  and writer[1] > known.floor(peer))  # fmt: skip
        if own:
            member.acknowledged, member.behind = vector, False
            self.stale = True
        return True

    def behind(self, durable: Vector) -> tuple[str, ...]:
        return tuple(
            peer
            for peer, member in self._others()
            if member.acknowledged is None or not member.acknowledged.covers_all(durable)
        )

    def within(self, now_ns: int, *, pressed: bool = False) -> dict[str, Vector | None]:
        """Who holds the cut, with what it acknowledged."""
        silent_ns = PRESSED_NS if pressed else SILENT_NS
        return {
            peer: member.acknowledged
            for peer, member in self._others()
            if not member.behind and now_ns - member.heard_ns <= silent_ns
        }

    def advance(self, now_ns: int, durable: Vector, *, pressed: bool = False) -> tuple[bool, list[Vector]]:
        """Take the cut anew. (has it moved?, what everybody in the set acknowledged)."""
        self.stale = False
        holding = self.within(now_ns, pressed=pressed)
        if not self._enough(holding):
            return False, []
        acknowledged = [vector for vector in holding.values() if vector is not None]
        if len(acknowledged) < len(holding):
            return False, []
        moved = False
        for writer, seq in common(durable, acknowledged).items():
            if seq > self.cut.get(writer, 0):
                self.cut[writer] = seq
                moved = True
        return moved, acknowledged

    def _enough(self, holding: Iterable[str]) -> bool:
        there = {self._me, *holding}
        listed = len((self._listed or frozenset()) | {self._me})
        return 2 * len(there) + (GATEWAY in there) > listed

    def closed(self, known: Vector, acknowledged: list[Vector]) -> list[Writer]:
        """Epochs that are over and known completely by everybody, oldest first."""
        found = []
        for node in sorted({node for node, _ in known.seqs}):
            epochs = known.epochs(node)
            if self.cut.get((node, epochs[-1]), 0) == 0:
                continue
            for epoch in epochs[:-1]:
                last = known.seqs[node, epoch]
                if self.cut.get((node, epoch), 0) != last or not all(
                    each.seqs.get((node, epoch)) == last or each.floor(node) >= epoch for each in acknowledged
                ):
                    break
                found.append((node, epoch))
        return found
