"""Figures of a run, read off the rows of ``account``: latencies, what a kill and a revocation led to.

Times are seconds since 1970 as the nodes' clocks had them; on one machine that is one clock.

    accepted        kill -9                     attempt 2 starts
       │  attempt 1    ╳  lease lapses / restart     │
       ●───────────────╳─────────────────────────────●────────► settled
                       ├──── kill_to_replacement ────┤          the least over all tasks concerned
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


def percentile(ordered: Sequence[float], share: float) -> float:
    """By nearest rank; 0 of nothing."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def resumed(tasks: Iterable[Row], node: str, killed_at: float) -> tuple[float, int]:
    """(seconds from the kill to the first new attempt of a task of *node* accepted before it, how many of
    them ended well)."""
    starts, well = [], 0
    for task in tasks:
        if not _open_at(task, killed_at) or task["origin"] != node or task["settled_at"] is None:
            continue
        well += task.get("status", "done") == "done"
        starts.append(min(_starts_after(task, killed_at), default=task["settled_at"]))
    return (round(min(starts) - killed_at, 3) if starts else 0.0), well


@dataclass(frozen=True, slots=True)
class Replacement:
    """Seconds from a kill to the first new attempt; None: no task of that sort was open."""

    own_s: float | None  # of the killed node's own tasks: it is back, or the place they were at has answered
    leased_s: float | None  # of others' tasks that it held: their lease has lapsed, they run elsewhere
    tasks: int  # placed anew, of both sorts

    @property
    def first_s(self) -> float | None:
        return min((each for each in (self.own_s, self.leased_s) if each is not None), default=None)


def replacement(tasks: Iterable[Row], node: str, killed_at: float) -> Replacement:
    """What became of the tasks that a kill of *node* cut off.

    Concerned are the tasks that were open at the kill, and were either accepted by the killed node or held
    by it (the last attempt begun before the kill was there and had not ended). The moment of each is the
    start of its first attempt after the kill, at another place or at the restarted node.
    """
    own, leased = [], []
    for task in tasks:
        if not _open_at(task, killed_at):
            continue
        first = min(_starts_after(task, killed_at), default=None)
        if first is None:
            continue
        if task["origin"] == node:
            own.append(first - killed_at)
        elif _held_at(task, killed_at) == node:
            leased.append(first - killed_at)
    return Replacement(_least(own), _least(leased), len(own) + len(leased))


def _least(seconds: list[float]) -> float | None:
    return round(min(seconds), 3) if seconds else None


def _open_at(task: Row, moment: float) -> bool:
    settled = task["settled_at"]
    return bool(task["accepted_at"] < moment and (settled is None or settled > moment))


def _starts_after(task: Row, moment: float) -> Iterator[float]:
    return (a["start"] for a in task["attempts"] if a["start"] is not None and a["start"] > moment)


def _held_at(task: Row, moment: float) -> str | None:
    """The node of the newest attempt that was under way."""
    held = None
    for attempt in task["attempts"]:
        begun = attempt["start"] is None or attempt["start"] <= moment
        ended = attempt["end"] is not None and attempt["end"] <= moment
        if begun:
            held = None if ended else attempt["node"]
    return held
