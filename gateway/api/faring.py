"""Faring: what became of tasks, function by function, out of a list of them. Pure.

In: rows as ``tasks-page`` gives them. Out: counts and times. Not here: how many rows are looked at
(``v1.faring``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from edge_node.tasks.states import Status

ENDS: Final = tuple(map(str, Status))
"""How a task ends; whatever else a row says, it is under way."""


def by_function(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a function, by name.

    Returns: name; tasks; open; each of ``ENDS``; places: tasks by the node where they ran or run; last_at_ms:
    when the newest was accepted; median_s, p95_s: from acceptance to the end, of those that are done (None:
    none is).
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(str(row["function"]), []).append(row)
    return [{"name": name, **_figures(found[name])} for name in sorted(found)]


def _figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    states = Counter(row["state"] if row["state"] in ENDS else "open" for row in rows)
    whole_s = sorted(
        max(0, row["settled_at_ms"] - row["accepted_at_ms"]) / 1e3 for row in rows if row["state"] == "done"
    )
    places = Counter(str(row["place"]) for row in rows if row["place"])
    return {
        "tasks": len(rows),
        "open": states["open"],
        **{end: states[end] for end in ENDS},
        "places": dict(sorted(places.items())),
        "last_at_ms": max(row["accepted_at_ms"] for row in rows),
        "median_s": quantile(whole_s, 0.5),
        "p95_s": quantile(whole_s, 0.95),
    }


def quantile(ascending: Sequence[float], share: float) -> float | None:
    """The least value that at least *share* of all do not exceed; None of nothing."""
    if not ascending:
        return None
    return ascending[max(0, -(-len(ascending) * round(share * 1000) // 1000) - 1)]
