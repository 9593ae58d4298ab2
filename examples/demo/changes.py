"""The change points that the mesh found in the room's series, beside those that five people marked.

In: the rows of a run's tasks. Out: precision, recall and F1, and a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

PEOPLE: Final = (  # five people marked the room's changes: examples/data/SOURCES.md
    (238, 416),
    (53, 143, 238, 417),
    (53, 92, 142, 181, 236, 264, 341, 416, 436, 451, 506),
    (1, 52, 91, 142, 181, 234, 267, 324, 360, 416, 451, 506),
    (234, 415),
)
MARGIN_ROWS: Final = 5
WHOLE_ROWS: Final = 500  # more than any window: the call of the whole series


def told_by_mesh(tasks: Iterable[Mapping[str, Any]]) -> list[int]:
    """The mesh's answer for the whole series; empty if it was not asked or did not answer."""
    whole = [
        task["result"]
        for task in tasks
        if task["function"] == "room.changes"
        and task["rows"]
        and task["rows"][1] - task["rows"][0] > WHOLE_ROWS
    ]
    return whole[-1] if whole and isinstance(whole[-1], list) else []


def change_points(found: Sequence[int]) -> dict[str, Any]:
    """The change points of the whole room series beside those that people marked.

    Source of the measure: G. J. J. van den Burg, C. K. I. Williams, "An Evaluation of Change Point Detection
        Algorithms", arXiv:2003.06222: margin 5, each mark met at most once, precision over
        what anybody marked, recall as the mean over people; row 0 counts as marked and found by all.
    """
    told = {0, *found}
    everyone = sorted({0}.union(*PEOPLE))
    precision = len(_met(everyone, told)) / len(told)
    recalls = [len(_met({0, *marks}, told)) / len({0, *marks}) for marks in PEOPLE]
    recall = sum(recalls) / len(recalls)
    return {
        "found": list(found),
        "people": [list(marks) for marks in PEOPLE],
        "met": [sorted(_met(marks, found)) for marks in PEOPLE],
        "margin_rows": MARGIN_ROWS,
        "precision": round(precision, 3),
        "recall": round(recall, 3),
        "f1": round(2 * precision * recall / (precision + recall), 3),
    }


def _met(marks: Iterable[int], told: Iterable[int]) -> set[int]:
    """The marks that have a found point of their own within the margin."""
    left, met = set(told), set()
    for mark in sorted(marks):
        near = [point for point in left if abs(point - mark) <= MARGIN_ROWS]
        if near:
            left.remove(min(near, key=lambda point: (abs(point - mark), point)))
            met.add(mark)
    return met


def table(points: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(heads, rows). Args: points: as ``change_points`` made them."""
    people = [
        [f"person {number}", _numbers(marks), f"{len(met)} of {len(marks)}"]
        for number, (marks, met) in enumerate(zip(PEOPLE, points["met"], strict=True), 1)
    ]
    return (
        ["change points", "row of the room's series", "met"],
        [["room.changes", _numbers(points["found"]), f"F1 {points['f1']:.2f}"], *people],
    )


def _numbers(rows: Iterable[int]) -> str:
    return " ".join(map(str, rows)) or "none"
