"""The world: one agenda in integer nanoseconds, one seed, and a trace of everything that was done.

    at(moment, what) ─► heap of (ns, number) ─► step: now moves there, what() is called

Moments that are equal come in the order in which they were asked for, so a run is a function of its seed.
Randomness is drawn from streams named by what they are for (``rng("pi-7", "clock")``): a stream depends on
the seed and its name alone, so one node more does not shift what the others draw.

The trace hashes every event that a part notes (``note``); two runs of one seed have the same hash, and the
first note in which they differ is where determinism was lost. Not here: what happens (the parts), what must
hold (``checkers``), who may not be called in here (``guard``).
"""

from __future__ import annotations

import gc
import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from heapq import heapify, heappop, heappush
from typing import Any, Final

SECOND: Final = 1_000_000_000
MS: Final = 1_000_000
WALL_MS: Final = 1_800_000_000_000
"""True time at the begin of every world (15 January 2027), after ``certificates.RELEASED_S``, before which no
member believes its clock: the gateway would live a year ahead of its nodes and re-sign its roster at once."""
CANCELLED_MAX: Final = 4096
"""Cancelled entries that may lie in the heap beside as many live ones before it is swept."""


COLLECTED: Final = (20_000, 50, 50)
"""New objects between two searches for cycles, and so on: a turn makes hundreds that die without one."""


@contextmanager
def collected_seldom() -> Iterator[None]:
    """The interpreter's 700 cost a world some five percent of its time; nothing in it depends on them."""
    before = gc.get_threshold()
    gc.set_threshold(*COLLECTED)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class Dark(BaseException):  # not an Exception: no door of a member may swallow it
    """A machine went dark in the middle of what it did: that does not go on, and nothing else is amiss."""


def without_dark(error: BaseException) -> BaseException | None:
    """What is left of an error that a task ended with; None: its machine went dark, and that was all."""
    if isinstance(error, Dark):
        return None
    return error.split(Dark)[1] if isinstance(error, BaseExceptionGroup) else error


class Entry:
    """A place on the agenda; ``cancel`` it if it must not happen."""

    __slots__ = ("args", "at_ns", "number", "what")

    def __init__(self, at_ns: int, number: int, what: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.at_ns = at_ns
        self.number = number
        self.what: Callable[..., object] | None = what
        self.args = args

    def __lt__(self, other: Entry) -> bool:
        return (self.at_ns, self.number) < (other.at_ns, other.number)


class World:
    """Args: seed: of everything that is drawn.   keep: called with each note, for those who want the text."""

    def __init__(self, seed: int, *, keep: Callable[[int, str, str, str], None] | None = None) -> None:
        self.seed = seed
        self.now_ns = 0
        self.steps = 0
        self.notes = 0
        self._keep = keep
        self._heap: list[tuple[int, int, Entry]] = []
        self._number = 0
        self._cancelled = 0
        self._hash = hashlib.blake2b(digest_size=16)

    # ── time ──────────────────────────────────────────────────────────────────────────────────────

    def at(self, at_ns: int, what: Callable[..., object], *args: Any) -> Entry:
        """Call *what* at that moment; in the past means now, after everything already asked for."""
        self._number += 1
        if at_ns < self.now_ns:  # noqa: PLR1730  a call of max() costs as much as the push
            at_ns = self.now_ns
        entry = Entry(at_ns, self._number, what, args)
        heappush(self._heap, (at_ns, self._number, entry))
        return entry

    def after(self, ns: int, what: Callable[..., object], *args: Any) -> Entry:
        return self.at(self.now_ns + ns, what, *args)

    def soon(self, what: Callable[..., object], *args: Any) -> Entry:
        """At this moment still, after everything already asked for."""
        return self.at(self.now_ns, what, *args)

    def cancel(self, entry: Entry | None) -> None:
        """Idempotent; what has happened stays."""
        if entry is None or entry.what is None:
            return
        entry.what = None
        entry.args = ()
        self._cancelled += 1
        if self._cancelled > CANCELLED_MAX and self._cancelled * 2 > len(self._heap):
            self._heap[:] = [each for each in self._heap if each[2].what is not None]
            heapify(self._heap)
            self._cancelled = 0

    @property
    def next_ns(self) -> int | None:
        """When the next thing happens; None: nothing will."""
        heap = self._heap
        while heap and heap[0][2].what is None:
            heappop(heap)
            self._cancelled -= 1
        return heap[0][0] if heap else None

    def step(self) -> bool:
        """Do the next thing. Returns: was there one?"""
        heap = self._heap
        while heap:
            at_ns, _, entry = heappop(heap)
            what = entry.what
            if what is None:
                self._cancelled -= 1
                continue
            entry.what = None
            self.now_ns = at_ns
            self.steps += 1
            try:
                what(*entry.args)
            except Dark:
                pass
            return True
        return False

    def run_until(self, end_ns: int) -> None:
        """Everything up to and including this moment; then it is that moment."""
        heap = self._heap
        while heap and heap[0][0] <= end_ns:  # `step`, without a call for each
            at_ns, _, entry = heappop(heap)
            what = entry.what
            if what is None:
                self._cancelled -= 1
                continue
            entry.what = None
            self.now_ns = at_ns
            self.steps += 1
            try:
                what(*entry.args)
            except Dark:
                pass
        self.now_ns = max(self.now_ns, end_ns)

    @property
    def wall_ms(self) -> int:
        """True wall time. Nodes do not see it: see ``clocks``."""
        return WALL_MS + self.now_ns // MS

    # ── chance ────────────────────────────────────────────────────────────────────────────────────

    def rng(self, *name: str) -> random.Random:
        """The stream of this name; asking twice gives two streams of the same numbers."""
        digest = hashlib.sha256(f"{self.seed}/{'/'.join(name)}".encode()).digest()
        return random.Random(int.from_bytes(digest, "big"))  # noqa: S311  a simulation is repeatable

    def entropy(self, *name: str) -> Callable[[int], bytes]:
        """A source of bytes for a member: what ``os.urandom`` is to a real one, and repeatable."""
        return self.rng("entropy", *name).randbytes

    # ── the trace ─────────────────────────────────────────────────────────────────────────────────

    def note(self, place: str, kind: str, detail: str = "") -> None:
        """This happened, at *place*; goes into the hash."""
        self.notes += 1
        self._hash.update(f"{self.now_ns}|{place}|{kind}|{detail}\n".encode())
        if self._keep is not None:
            self._keep(self.now_ns, place, kind, detail)

    def trace_hash(self) -> str:
        return self._hash.copy().hexdigest()
