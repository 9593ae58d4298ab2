"""Hindsight: what placement reckoned for the last tasks, against what came of it.

    settled tasks, newest first ─► decisions   which places were weighed, by which figures, how long it took
                                ─► cells       function × place: how many ran there, the median run
                                ─► refusals    reason × place: attempts that places turned down or lost

The figures are those that placement wrote with the result (``scheduling.placement.Why.text``): nothing more
is kept than before. A task with one place to go to has none. Times are milliseconds.

Pure: reading the tasks is the caller's (`edge_node.backend`), what is learned comes from `Estimates.learned`.
"""

from __future__ import annotations

import re
from collections import Counter
from statistics import median
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from edge_node.tasks.task import LOCAL

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edge_node.scheduling.estimates import Learned
    from edge_node.tasks.rows import Stored

DECISIONS_MAX: Final = 200
"""Tasks looked at: some minutes of a busy mesh, and some 20 ms of a reader."""
LATE: Final = "; before that: "
_RAN = re.compile(r"ran on (?P<chosen>[^:;]+): (?P<rule>[^;]+); (?P<figures>.+)", re.DOTALL)
_FIGURES = re.compile(
    r"(?P<place>[a-z0-9-]{1,64}) [0-9.]+ ms "
    r"\(wait (?P<wait>[0-9.]+), run (?P<run>[0-9.]+), way (?P<way>[0-9.]+)\)"
)


class Reckoned(NamedTuple):
    """What one place would cost, as it was reckoned."""

    place: str
    wait_ms: float
    run_ms: float
    way_ms: float

    @property
    def whole_ms(self) -> float:
        return self.wait_ms + self.run_ms + self.way_ms


def reckoned(cause: str) -> tuple[str, tuple[Reckoned, ...]]:
    """(the rule, the places, the chosen one first) out of a result's cause; ("", ()): it has no figures."""
    found = _RAN.match(cause.split(LATE, 1)[0])
    if found is None:
        return "", ()
    places = tuple(
        Reckoned(each["place"], float(each["wait"]), float(each["run"]), float(each["way"]))
        for each in _FIGURES.finditer(found["figures"])
    )
    if not places or places[0].place != found["chosen"]:
        return "", ()
    return found["rule"], places


def decision(me: str, stored: Stored) -> dict[str, Any] | None:
    """One task that ran and ended; None: it is open, or never ran."""
    task, outcome = stored.task, stored.outcome
    if outcome is None or not outcome.place:
        return None
    rule, places = reckoned(outcome.cause)
    tries = [each for each in outcome.attempts if each.ended_as]
    return {
        "task": task.id,
        "function": task.function,
        "state": outcome.status,
        "place": me if outcome.place == LOCAL else outcome.place,
        "rule": rule or ("as asked" if task.where not in ("", "any") else "only place"),
        "attempts": max(1, len(tries)),
        "accepted_at_ms": task.accepted_at_ms,
        "settled_at_ms": outcome.settled_at_ms,
        "whole_ms": max(0, outcome.settled_at_ms - task.accepted_at_ms),
        "run_ms": outcome.run_us / 1e3 if outcome.run_us else None,
        "reckoned": [{**each._asdict(), "whole_ms": round(each.whole_ms, 3)} for each in places],
    }


def hindsight(me: str, tasks: Iterable[Stored], learned: Sequence[Learned]) -> dict[str, Any]:
    """Args: me: the owner of these tasks, newest first; at most `DECISIONS_MAX` of them are looked at."""
    decisions: list[dict[str, Any]] = []
    refusals: Counter[tuple[str, str]] = Counter()
    for _, stored in zip(range(DECISIONS_MAX), tasks, strict=False):
        told = decision(me, stored)
        if told is not None:
            decisions.append(told)
        attempts = stored.attempts if stored.outcome is None else stored.outcome.attempts
        for each in attempts:
            if each.ended_as and each.ended_as not in ("done", "failed", "cancelled"):
                refusals[each.ended_as.removeprefix("refused: "), each.node] += 1
    return {
        "decisions": decisions,
        "cells": _cells(decisions, learned),
        "refusals": [
            {"reason": reason, "place": place, "count": count}
            for (reason, place), count in sorted(refusals.items(), key=lambda each: (-each[1], each[0]))
        ],
    }


def _cells(decisions: Sequence[dict[str, Any]], learned: Sequence[Learned]) -> list[dict[str, Any]]:
    """Function × place, of what ran lately and of what is learned of those functions."""
    runs: dict[tuple[str, str], list[float | None]] = {}
    for each in decisions:
        runs.setdefault((each["function"], each["place"]), []).append(each["run_ms"])
    of_function = Counter(function for (function, _), times in runs.items() for _ in times)
    known = {(each.function, each.place): each for each in learned}
    functions = set(of_function) | {each.function for each in learned}
    cells = []
    for function, place in sorted({*runs, *(key for key in known if key[0] in functions)}):
        times = runs.get((function, place), [])
        timed = [each for each in times if each is not None]
        what = known.get((function, place))
        cells.append(
            {
                "function": function,
                "place": place,
                "runs": len(times),
                "share": len(times) / of_function[function] if of_function[function] else 0.0,
                "run_ms": median(timed) if timed else None,
                "learned_ms": 1e3 * what.mean_s if what else None,
                "learned_dev_ms": 1e3 * what.deviation_s if what else None,
                "learned_runs": what.runs if what else 0,
            }
        )
    return cells
