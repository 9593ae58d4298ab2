"""Spans: a settled task as its caller's tracing system shows it; and those that wait to be sent.

    caller's span
      └─ task toys.add      accepted ─────────────────────────────► settled      by the owner's clock
           ├─ attempt 1     offered to pi-1 ──────► lapsed
           └─ attempt 2     offered to pi-2 ─────────────────► done
                └─ run      started ──────► ended                                by the clock of pi-2

Made of the ledger's terminal record, by the owner alone: whoever held it need not know of any collector. The
ids are those that the function was given (``tasks.tracing``), so spans of its own hang below its run. Told
are ids, names, places and times; no arguments, values, errors or prints.

A collector that is away must cost the node nothing: so many spans wait, more are counted and forgotten.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from edge_node.tasks.states import Status
from edge_node.tasks.task import LOCAL
from edge_node.tasks.tracing import is_sampled, parent_id, parts, span_id, trace_id

if TYPE_CHECKING:
    from edge_node.tasks.task import Attempt, Outcome, Task

WAITING_MAX: Final = 2_048
"""Spans, some 2 MB: what OpenTelemetry's own batch processor keeps."""
BATCH_MAX: Final = 512
HOLDER_MS_MAX: Final = 2**44
"""A run's times are what a peer says; OTLP counts nanoseconds since 1970 in 64 bits, to the year 2554."""
PID_MAX: Final = 2**31

Attributes = dict[str, str | int]


class Span(NamedTuple):
    """One span. Ids as hex digits; kind: "server", "client" or "internal"; error: "" if it went well."""

    name: str
    trace: str
    id: str
    parent: str
    state: str
    kind: str
    start_ms: int
    end_ms: int
    attributes: Attributes
    events: tuple[tuple[str, int], ...] = ()
    error: str = ""


def spans_of(node: str, task: Task, outcome: Outcome) -> list[Span]:
    """Of a task of *node*'s that has ended; none if its caller records nothing."""
    if not is_sampled(task.trace):
        return []
    trace, caller, state = trace_id(task.trace), parent_id(task.trace), parts(task.trace)[1]
    whole = span_id(task.id, "task")
    begin_ms, end_ms = task.accepted_at_ms, max(task.accepted_at_ms, outcome.settled_at_ms)
    ended: Attributes = {
        "edgeweave.task": task.id,
        "edgeweave.function": task.function,
        "edgeweave.code": task.digest.hex()[:16],
        "edgeweave.owner": node,
        "edgeweave.status": outcome.status,
        "edgeweave.attempts": len(outcome.attempts),
    }
    if outcome.place:
        ended["edgeweave.place"] = node if outcome.place == LOCAL else outcome.place
    error = "" if outcome.status == Status.DONE else outcome.cause or outcome.status
    steps = (("accepted", begin_ms), ("settled", end_ms))
    found = [
        Span(
            f"task {task.function}",
            trace,
            whole,
            caller,
            state,
            "server",
            begin_ms,
            end_ms,
            ended,
            steps,
            error,
        )
    ]
    for attempt in outcome.attempts:
        found += _of_attempt(node, task, attempt, (trace, whole, state), begin_ms, end_ms)
    return found


def _of_attempt(
    node: str, task: Task, attempt: Attempt, place: tuple[str, str, str], begin_ms: int, end_ms: int
) -> list[Span]:
    trace, whole, state = place
    own = attempt.node in (node, LOCAL, "")
    where = node if own else attempt.node
    name = span_id(task.id, "attempt", attempt.number)
    told: Attributes = {
        "edgeweave.task": task.id, "edgeweave.attempt": attempt.number, "edgeweave.place": where,
        "edgeweave.ended_as": attempt.ended_as,
    }  # fmt: skip
    start_ms = min(max(begin_ms, attempt.granted_at_ms), end_ms)
    over_ms = min(max(start_ms, attempt.ended_at_ms), end_ms)
    error = "" if attempt.ended_as == Status.DONE else attempt.ended_as
    steps = (("begun here" if own else f"offered to {where}", start_ms),)
    kind = "internal" if own else "client"
    found = [
        Span(
            f"attempt {attempt.number}",
            trace,
            name,
            whole,
            state,
            kind,
            start_ms,
            over_ms,
            told,
            steps,
            error,
        )
    ]
    if 0 < attempt.started_at_ms < HOLDER_MS_MAX:
        ran: Attributes = {"edgeweave.place": where, "edgeweave.task": task.id}
        if 0 < attempt.pid < PID_MAX:
            ran["process.pid"] = attempt.pid
        run = span_id(task.id, "run", attempt.number)
        kind = "internal" if own else "server"
        till_ms = min(max(attempt.started_at_ms, attempt.ended_at_ms), HOLDER_MS_MAX)
        began_ms = attempt.started_at_ms
        found.append(
            Span(f"run {task.function}", trace, run, name, state, kind, began_ms, till_ms, ran, (), error)
        )
    return found


class Spool:
    """Spans on their way out."""

    def __init__(self) -> None:
        self._waiting: deque[Span] = deque()
        self.counts = {"exported": 0, "dropped": 0, "failed": 0}
        """dropped: too many waited. failed: the collector did not take them."""

    def put(self, spans: list[Span]) -> None:
        """All of a task's, or none: half a trace misleads."""
        if len(self._waiting) + len(spans) > WAITING_MAX:
            self.counts["dropped"] += len(spans)
        else:
            self._waiting += spans

    def take(self) -> list[Span]:
        """The next batch; empty: nothing waits."""
        return [self._waiting.popleft() for _ in range(min(BATCH_MAX, len(self._waiting)))]

    def sent(self, batch: list[Span], taken: bool) -> None:
        self.counts["exported" if taken else "failed"] += len(batch)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def check(self) -> None:
        assert len(self._waiting) <= WAITING_MAX
