"""What the demo tells at the end: the drivers' promises beside the daemons' ledgers.

In: what drivers wrote down (ids promised to them, outcomes told to them) and the ledgers on the disk,
read after every daemon has stopped. Out: the two files of ``out/demo`` and the table. A promise that no
ledger keeps, that never ended, or that ended otherwise than the client was told, is *lost*.

Not here: processes, the network, time.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from edge_node.functions import values
from edge_node.tasks.journal import Stored
from edge_node.tasks.task import Outcome
from security.errors import ProtocolViolation

RESULT_CHARS_MAX: Final = 400  # a longer one is told by its digest and its short members
PEOPLE: Final = (  # five people marked the room's changes: examples/data/SOURCES.md
    (238, 416),
    (53, 143, 238, 417),
    (53, 92, 142, 181, 236, 264, 341, 416, 436, 451, 506),
    (1, 52, 91, 142, 181, 234, 267, 324, 360, 416, 451, 506),
    (234, 415),
)
MARGIN_ROWS: Final = 5
PLACES: Final = ("local", "peer", "gateway")


@dataclass(slots=True)
class Promise:
    """A task as its driver knows it."""

    id: str
    driver: str
    node: str
    function: str
    rows: tuple[int, int]
    input_sha256: str
    status: str = ""  # empty: no outcome was told
    place: str = ""
    output_sha256: str = ""
    latency_ms: float = 0.0


@dataclass(slots=True)
class Account:
    """Promises and ledgers, compared."""

    tasks: list[dict[str, Any]] = field(default_factory=list)  # rows of tasks.jsonl
    accepted: int = 0
    completed: int = 0
    failed: int = 0
    lost: list[str] = field(default_factory=list)
    by_place: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PLACES, 0))
    latencies_ms: list[float] = field(default_factory=list)
    unclaimed: int = 0  # on the disk, but its driver never heard the yes: the kill came between

    @property
    def kept(self) -> bool:
        return self.accepted == self.completed > 0 and not self.lost


def account(promises: Mapping[str, Promise], ledgers: Mapping[str, Iterable[Stored]]) -> Account:
    """Compare what drivers were told with what each node's ledger holds.

    Args: promises: by task id.   ledgers: by node, every task that it accepted.
    """
    found = Account()
    seen: set[str] = set()
    for node, stored_tasks in ledgers.items():
        for stored in sorted(stored_tasks, key=lambda each: each.task.id):
            task, outcome, promise = stored.task, stored.outcome, promises.get(stored.task.id)
            seen.add(task.id)
            found.accepted += 1
            found.unclaimed += promise is None
            if outcome is None or not (promise is None or _agrees(promise, outcome, task.input_sha256)):
                found.lost.append(task.id)
            elif outcome.status == "done":
                found.completed += 1
                found.by_place[place_of(outcome.place, node)] += 1
                if promise is not None:
                    found.latencies_ms.append(promise.latency_ms)
            else:
                found.failed += 1
            found.tasks.append(row_of(stored, promise))
    for task_id in sorted(promises.keys() - seen):  # told yes, and nothing on the disk
        found.accepted += 1
        found.lost.append(task_id)
    return found


def _agrees(promise: Promise, outcome: Outcome, input_sha256: bytes) -> bool:
    """Did the client hear what the ledger holds, of the input that it sent?"""
    return (promise.input_sha256, promise.status, promise.output_sha256) == (
        input_sha256.hex(),
        outcome.status,
        hashlib.sha256(outcome.output).hexdigest(),
    )


def place_of(place: str, origin: str) -> str:
    """One of PLACES."""
    if place in ("local", origin):
        return "local"
    return place if place == "gateway" else "peer"


def row_of(stored: Stored, promise: Promise | None) -> dict[str, Any]:
    """One line of tasks.jsonl. Times are seconds since 1970; null: it did not come to that."""
    task, outcome = stored.task, stored.outcome
    attempts = outcome.attempts if outcome is not None else stored.attempts
    return {
        "id": task.id,
        "function": task.function,
        "origin": task.origin,
        "input_sha256": task.input_sha256.hex(),
        "result": None if outcome is None else result_of(outcome.status, outcome.output, outcome.cause),
        "accepted_at": _seconds(task.accepted_at_ms),
        "settled_at": None if outcome is None else _seconds(outcome.settled_at_ms),
        "attempts": [
            {
                "node": attempt.node or None,  # cut short by a crash: only its number was kept
                "pid": attempt.pid or None,
                "start": _seconds(attempt.started_at_ms),
                "end": _seconds(attempt.ended_at_ms),
                "ended_as": attempt.ended_as,
            }
            for attempt in attempts
        ],
        "status": "open" if outcome is None else outcome.status,
        "place": None if outcome is None else place_of(outcome.place, task.origin),
        "driver": None if promise is None else promise.driver,
        "rows": None if promise is None else list(promise.rows),
        "latency_ms": None if promise is None else promise.latency_ms,
    }


def result_of(status: str, output: bytes, cause: str) -> Any:
    """A task's value as JSON; a long one as {sha256, bytes, short members}."""
    if status != "done":
        return {"error": status, "cause": cause}
    try:
        value = plain(values.decode(output))
    except ProtocolViolation as error:
        return {"error": "unreadable", "cause": error.cause}
    if len(json.dumps(value)) <= RESULT_CHARS_MAX:
        return value
    short: dict[str, Any] = {"sha256": hashlib.sha256(output).hexdigest(), "bytes": len(output)}
    if isinstance(value, dict):
        short |= {key: each for key, each in value.items() if len(json.dumps(each)) <= 80}
    return short


def plain(value: Any) -> Any:
    """A decoded value in JSON's terms."""
    match value:
        case dict():
            return {str(key): plain(each) for key, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case bytes():
            return {"base64": base64.b64encode(value).decode()}
        case datetime.datetime():
            return value.isoformat()
        case None | bool() | int() | float() | str():
            return value
    return plain(value.tolist())  # an array


def _seconds(wall_ms: int) -> float | None:
    return wall_ms / 1000 if wall_ms else None


def percentile(ordered: Sequence[float], share: float) -> float:
    """By nearest rank; 0 of nothing."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def resumed(tasks: Iterable[Mapping[str, Any]], node: str, killed_at: float) -> tuple[float, int]:
    """(seconds from the kill to the first new attempt of a task accepted before it, how many resumed)."""
    starts = []
    for task in tasks:
        if task["origin"] != node or not task["accepted_at"] < killed_at:
            continue
        if task["settled_at"] is None or task["settled_at"] <= killed_at:
            continue
        after = [a["start"] for a in task["attempts"] if a["start"] is not None and a["start"] > killed_at]
        starts.append(min(after, default=task["settled_at"]))
    return (round(min(starts) - killed_at, 3) if starts else 0.0), len(starts)


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


def tables(points: Mapping[str, Any], found: Account) -> Iterator[tuple[list[str], list[list[str]]]]:
    """(heads, rows) of what is shown at the end. Args: points: as ``change_points`` made them."""
    functions: dict[str, list[Mapping[str, Any]]] = {}
    for task in found.tasks:
        functions.setdefault(task["function"], []).append(task)
    everything: list[Mapping[str, Any]] = [*found.tasks]
    body = []
    for name, tasks in [*sorted(functions.items()), ("all", everything)]:
        done = [task for task in tasks if task["status"] == "done"]
        latencies = sorted(task["latency_ms"] for task in done if task["latency_ms"] is not None)
        body.append(
            [
                name,
                str(len(tasks)),
                str(len(done)),
                *(str(sum(task["place"] == place for task in done)) for place in PLACES),
                f"{percentile(latencies, 0.5):.1f} ms",
                f"{percentile(latencies, 0.99):,.0f} ms",
            ]
        )
    yield ["function", "accepted", "completed", *PLACES, "p50", "p99"], body
    people = [
        [f"person {number}", _numbers(marks), f"{len(met)} of {len(marks)}"]
        for number, (marks, met) in enumerate(zip(PEOPLE, points["met"], strict=True), 1)
    ]
    yield (
        ["change points", "row of the room's series", "met"],
        [["room.changes", _numbers(points["found"]), f"F1 {points['f1']:.2f}"], *people],
    )


def _numbers(rows: Iterable[int]) -> str:
    return " ".join(map(str, rows)) or "none"
