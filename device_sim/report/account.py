"""Promises beside ledgers: was everything that was accepted also kept?

In: what drivers wrote down (ids promised to them, outcomes told to them) and the ledgers on the disk,
read after every daemon has stopped. Out: an ``Account``. A promise that no ledger keeps, that never ended
at a node that is there to be asked, or that ended otherwise than its client was told, is *lost*. An open
promise of a node that the scenario took away for good is *explained*: it is on that node's disk, and the
fault is named.

Not here: processes, the network, time.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from edge_node.functions import values
from edge_node.tasks.task import Attempt, Outcome
from security.errors import ProtocolViolation

if TYPE_CHECKING:
    from edge_node.tasks.journal import Stored

RESULT_CHARS_MAX: Final = 400  # a longer one is told by its digest and its short members
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
    arguments: Mapping[str, Any] = field(default_factory=dict)  # after the window, by name


@dataclass(slots=True)
class Account:
    """Promises and ledgers, compared."""

    tasks: list[dict[str, Any]] = field(default_factory=list)  # rows of tasks.jsonl
    accepted: int = 0
    completed: int = 0
    failed: int = 0
    lost: list[str] = field(default_factory=list)
    explained: dict[str, str] = field(default_factory=dict)  # id -> why it is still open
    by_place: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PLACES, 0))
    latencies_ms: list[float] = field(default_factory=list)
    unclaimed: int = 0  # on the disk, but its driver never heard the yes: the kill came between

    @property
    def kept(self) -> bool:
        """Every task has ended as its client was told, or it is known why not."""
        settled = self.completed + self.failed
        return self.accepted == settled + len(self.explained) > 0 and not self.lost


def account(
    promises: Mapping[str, Promise],
    ledgers: Mapping[str, Iterable[Stored]],
    gone: Mapping[str, str] | None = None,
) -> Account:
    """Compare what drivers were told with what each node's ledger holds.

    Args:
        promises: by task id.   ledgers: by node, every task that it accepted.
        gone: nodes that a fault took away for good, and how: what is open there is explained by it.
    """
    gone = gone or {}
    found = Account()
    seen: set[str] = set()
    for node, stored_tasks in ledgers.items():
        for stored in sorted(stored_tasks, key=lambda each: each.task.id):
            task, outcome, promise = stored.task, stored.outcome, promises.get(stored.task.id)
            seen.add(task.id)
            found.accepted += 1
            found.unclaimed += promise is None
            agreed = promise is None or _agrees(promise, outcome, task.input_sha256, unheard=node in gone)
            if not agreed or (outcome is None and node not in gone):
                found.lost.append(task.id)
            elif outcome is None:
                found.explained[task.id] = gone[node]
            elif outcome.status == "done":
                found.completed += 1
                found.by_place[place_of(outcome.place, node)] += 1
                if promise is not None and promise.status:
                    found.latencies_ms.append(promise.latency_ms)
            else:
                found.failed += 1
            found.tasks.append(row_of(stored, promise))
    for task_id in sorted(promises.keys() - seen):  # told yes, and nothing on the disk
        found.accepted += 1
        found.lost.append(task_id)
    return found


def _agrees(promise: Promise, outcome: Outcome | None, input_sha256: bytes, *, unheard: bool) -> bool:
    """Did the client hear what the ledger holds, of the input that it sent? *unheard*: it need not have."""
    if promise.input_sha256 != input_sha256.hex():
        return False
    if not promise.status and unheard:
        return True
    told = ("", "") if outcome is None else (outcome.status, hashlib.sha256(outcome.output).hexdigest())
    return (promise.status, promise.output_sha256) == told


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
        "attempts": [_row_of_attempt(attempt) for attempt in attempts],
        "status": "open" if outcome is None else outcome.status,
        "place": None if outcome is None else place_of(outcome.place, task.origin),
        "ran_at": None if outcome is None else _node_of(outcome.place, task.origin),
        "driver": None if promise is None else promise.driver,
        "rows": None if promise is None else list(promise.rows),
        "latency_ms": promise.latency_ms if promise is not None and promise.status else None,
    }


def _row_of_attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "node": attempt.node or None,  # cut short by a crash: only its number was kept
        "pid": attempt.pid or None,
        "start": _seconds(attempt.started_at_ms),
        "end": _seconds(attempt.ended_at_ms),
        "ended_as": attempt.ended_as,
    }


def _node_of(place: str, origin: str) -> str | None:
    return origin if place == "local" else place or None


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
        case None | bool() | int() | float() | str():
            return value
    if hasattr(value, "isoformat"):  # a date
        return value.isoformat()
    return plain(value.tolist())  # an array


def _seconds(wall_ms: int) -> float | None:
    return wall_ms / 1000 if wall_ms else None
