"""What is due when: one moment per key, O(log n) to set, O(1) to postpone or to forget.

A heap with lazy deletion. A moment that moves later costs nothing until the old one is popped; forgotten
keys leave the heap when it has more dead entries than living ones, so a 24 h time-to-live of a task that
settled in a millisecond is not remembered for 24 h.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush


class Agenda:
    """Moments in integer nanoseconds by string key."""

    __slots__ = ("_at", "_heap")

    def __init__(self) -> None:
        self._at: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, key: str) -> bool:
        return key in self._at

    def set(self, key: str, at_ns: int) -> None:
        """The one moment of `key`, wherever it was before."""
        before = self._at.get(key)
        self._at[key] = at_ns
        if before is None or at_ns < before:
            heappush(self._heap, (at_ns, key))
            if len(self._heap) > 64 + 4 * len(self._at):
                self._heap = [(at_ns, key) for key, at_ns in self._at.items()]
                heapify(self._heap)

    def drop(self, key: str) -> None:
        self._at.pop(key, None)

    def due(self, now_ns: int) -> list[str]:
        """Every key whose moment has come, earliest first; they are forgotten here."""
        heap = self._heap
        if not heap or heap[0][0] > now_ns:
            return []
        found = []
        while heap and heap[0][0] <= now_ns:
            was_ns, key = heappop(heap)
            at_ns = self._at.get(key)
            if at_ns is None:
                continue
            if at_ns <= now_ns:
                del self._at[key]
                found.append(key)
            elif at_ns > was_ns:
                heappush(heap, (at_ns, key))
        return found

    def next_ns(self) -> int | None:
        """The earliest moment; never later than the truth."""
        heap = self._heap
        while heap:
            was_ns, key = heap[0]
            at_ns = self._at.get(key)
            if at_ns == was_ns:
                return was_ns
            heappop(heap)
            if at_ns is not None and at_ns > was_ns:
                heappush(heap, (at_ns, key))
        return None

    def check(self) -> None:
        there = set(self._heap)
        for key, at_ns in self._at.items():
            assert any(k == key and t <= at_ns for t, k in there), f"{key} would never come up"
