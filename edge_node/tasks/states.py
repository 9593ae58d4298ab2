"""What a task can be, and why work is not taken. Closed sets: a reason that is not here does not travel.

    (submitted) ─▶ accepting ─▶ waiting ◀─▶ placed ─▶ closing ─▶ settled
                       └─ refused            │  ▲
                                             ▼  │
                                           fencing        attempt n + 1 is written before it is sent

`TRANSITIONS` is the same picture as data; the ledger asserts it at every step.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where an accepted task is, at its owner."""

    WAITING = "waiting"  # no place yet: its only place is down or full, or nothing fits
    FENCING = "fencing"  # the number of the next attempt is on its way to the disk
    PLACED = "placed"  # queued or running, here or on a lease elsewhere
    CLOSING = "closing"  # decided; the terminal record is on its way to the disk
    SETTLED = "settled"  # exactly one terminal record is on the disk
    DROPPED = "dropped"  # never accepted: the accept itself could not be written


TRANSITIONS: dict[State, frozenset[State]] = {
    State.WAITING: frozenset({State.FENCING, State.PLACED, State.CLOSING, State.DROPPED}),
    State.FENCING: frozenset({State.WAITING, State.PLACED, State.CLOSING, State.DROPPED}),
    State.PLACED: frozenset({State.WAITING, State.FENCING, State.CLOSING, State.DROPPED}),
    State.CLOSING: frozenset({State.SETTLED, State.DROPPED}),
    State.SETTLED: frozenset(),
    State.DROPPED: frozenset(),
}


class Status(StrEnum):
    """How a task ended: the terminal record holds exactly one of these."""

    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    QUARANTINED = "quarantined"


class Refusal(StrEnum):
    """Why a task or an offer is not taken."""

    QUEUE_FULL = "queue full"
    OVER_DEADLINE = "over deadline"
    DRAINING = "draining"
    LABELS = "labels do not match"
    REQUIREMENT = "requirement missing"
    UNKNOWN_FUNCTION = "unknown function"
    INPUT_MISSING = "input missing"
    OUTBOX_FULL = "outbox full"
    STORE_FULL = "store full"
    NO_SUCH_NODE = "no such node"
    TOO_LARGE = "too large"
    TOO_LONG = "ttl too long"
    DUPLICATE_ID = "duplicate id"
    CANCELLED = "cancelled"
    # Answers to a cancel that came too late or never had a task.
    UNKNOWN_TASK = "unknown task"
    ALREADY_SETTLED = "already settled"


NEVER_HERE = frozenset({Refusal.LABELS, Refusal.REQUIREMENT, Refusal.DUPLICATE_ID, Refusal.TOO_LARGE})
"""Refusals by a place that asking again will not change."""

FULL = frozenset({Refusal.QUEUE_FULL, Refusal.DRAINING})
"""Refusals by a place that has no room now: no fault of the task, and no hurry to ask again."""

PERHAPS_SOON = frozenset({Refusal.UNKNOWN_FUNCTION, Refusal.INPUT_MISSING, Refusal.NO_SUCH_NODE})
"""Refusals by a place that may still be catching up: believed only when repeated."""


def refusal(text: str) -> Refusal:
    """The reason a peer gave; one that this version does not know counts as a full queue (try elsewhere)."""
    try:
        return Refusal(text)
    except ValueError:
        return Refusal.QUEUE_FULL
