"""Durations: how long tasks took, as histograms; what an average over a day cannot tell.

    whole    from the acceptance to the decision how it ended
    run      inside the function, where the place that ran it told
    queue    whole without run: waiting, and on the way

In: a task's end. Out: counts below fixed bounds, as Prometheus has them. Bounded: 16 numbers each, for ever.
Wall time, as the ledger has it: a clock that was set back meanwhile makes a duration 0, never negative.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import Any, Final

from edge_node.tasks.task import Outcome, Task

BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
"""Local work takes milliseconds, work behind a thin line minutes, work for somebody who is away hours."""


class Histogram:
    """Counts of seconds below each bound."""

    __slots__ = ("_counts", "_sum_s")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._sum_s = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(BOUNDS_S, seconds)] += 1
        self._sum_s += seconds

    def figures(self) -> dict[str, Any]:
        """``below``: how many took at most each of ``bounds_s``; the last one counts all of them."""
        return {"bounds_s": list(BOUNDS_S), "below": list(accumulate(self._counts)), "sum_s": self._sum_s}


class Durations:
    """Of one owner's tasks, since its start."""

    __slots__ = ("_queue", "_run", "_whole")

    def __init__(self) -> None:
        self._whole, self._run, self._queue = Histogram(), Histogram(), Histogram()

    def ended(self, task: Task, outcome: Outcome) -> None:
        whole_s = max(0, outcome.settled_at_ms - task.accepted_at_ms) / 1e3
        self._whole.add(whole_s)
        if outcome.run_us > 0:  # else nothing was run, or its place did not tell
            run_s = outcome.run_us / 1e6
            self._run.add(run_s)
            self._queue.add(max(0.0, whole_s - run_s))

    def figures(self) -> dict[str, Any]:
        return {
            "whole": self._whole.figures(),
            "run": self._run.figures(),
            "queue": self._queue.figures(),
        }
