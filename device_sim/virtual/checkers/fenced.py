"""Fenced (P2): the number of an attempt is one place's, whatever is lost or restarted around it.

    Asked ─► whose it is        Ran(task, attempt, node) ─► at no other node under that number

By its number an owner tells the newest holder's result from those that come late; two holders under one
number are both the newest. A place may run an attempt again (its worker died of a neighbour). An owner whose
disk refused to write goes on without the number on the disk, rather than stand still: it is not judged from
then on.
Memory: of each task that ran about 250 bytes, of the newest 65 536.

What it cannot see: a number that is used twice at one place, or at a node that never ran it.
"""

from __future__ import annotations

from typing import Final

from device_sim.virtual.checkers.violations import Violations
from device_sim.virtual.evidence import DAMAGES_A_STORE, Asked, End, Event, Happened, Ran, Verdict

KEPT_MAX: Final = 65_536
_UNWRITTEN: Final = ("disk-full", "disk-error", *DAMAGES_A_STORE)


class _Runs:
    """Of one task: which place had which number."""

    __slots__ = ("owner", "places")

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.places: dict[int, str] = {}


class Fenced:
    name = "fenced"
    promise = "P2"
    wants = (Asked, Ran, Happened)

    def __init__(self) -> None:
        self._found = Violations()
        self._tasks: dict[str, _Runs] = {}
        self._unwritten: dict[str, None] = {}
        self._judged = 0

    def saw(self, event: Event) -> None:
        kind = type(event)
        if kind is Ran:
            assert isinstance(event, Ran)
            self._ran(event)
        elif kind is Asked:
            assert isinstance(event, Asked)
            self._tasks.setdefault(event.task, _Runs(event.node))
            if len(self._tasks) > KEPT_MAX:
                del self._tasks[next(iter(self._tasks))]
        elif kind is Happened:
            assert isinstance(event, Happened)
            if event.do in _UNWRITTEN:
                self._unwritten[event.node] = None

    def _ran(self, event: Ran) -> None:
        runs = self._tasks.get(event.task)
        if runs is None or runs.owner in self._unwritten:
            return
        self._judged += 1
        place = runs.places.setdefault(event.attempt, event.node)
        if place != event.node:
            what = f"attempt {event.attempt} ran on {place} and on {event.node}"
            self._found.add(event.at_ns, runs.owner, what, event.task)

    def verdict(self, end: End) -> Verdict:
        nothing = "" if self._judged else "nothing ran whose owner could write"
        return self._found.verdict(self.name, self.promise, nothing=nothing, remark=f"{self._judged} runs")
