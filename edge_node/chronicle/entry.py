"""Entries: what a member notes for `why`, one line a thing that was not plain.

An entry is a message's part (`wire.messages.StoryEntry`), so what lies in a store is what travels. It names
its subject (a task, a node, a function, a refusal, tables), what happened out of a closed set, and a **cause
id**: that of the task, or one made for what began a story of its own: a refusal at the door, the loss of a
node, a start. An entry with another's cause id followed from it. Details are small plain fields: reasons,
figures, durations; never arguments or values of functions.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from edge_node.wire.messages import STORY_DETAILS_MAX
from edge_node.wire.messages import StoryEntry as Entry

__all__ = ["Entry", "Subject", "What", "bounded", "decoded", "encoded", "size_of"]

TEXT_MAX = 1000
"""Characters of one detail; a traceback belongs into the log."""
NAME_MAX = 256

Details = dict[str, int | float | str]


class Subject(StrEnum):
    TASK = "task"
    NODE = "node"
    FUNCTION = "function"
    REFUSAL = "refusal"
    TABLES = "tables"
    """What befell replicated state: its id is a table's name, or the member whose writes it was about."""


class What(StrEnum):
    """Append-only, as these are stored and travel."""

    # A task at its owner. The first four are told by the ledger's rows, and noted nowhere else.
    ACCEPTED = "accepted"
    ATTEMPTED = "attempted"
    SETTLED = "settled"
    REMARKED = "remarked"
    NOW = "now"  # where an open task is at this moment
    PLACED = "placed"  # among several places: by which figures
    TURNED_DOWN = "turned down"  # by the place it was given to
    LAPSED = "lapsed"
    WORKER_DIED = "worker died"
    NOT_USED = "result not used"
    TAKEN_UP = "taken up again"
    NOT_WRITTEN = "not written"  # the disk under the ledger

    # The same task at its holder.
    TOOK = "took"
    REFUSED = "refused"
    RAN = "ran"
    STOPPED = "stopped"
    NOT_STARTED = "not started"

    # The door.
    TURNED_AWAY = "turned away"

    # A node: this one, or another as seen from here.
    STARTED = "started"
    ENDED = "ended"
    KILLED = "killed"  # this start found that the life before had not ended in order
    LINK_UP = "link up"
    LINK_DOWN = "link down"
    LOST = "lost"
    BACK = "back"
    RESTARTED = "restarted"
    ENROLLED = "enrolled"
    SHUT_OUT = "shut out"
    EPOCH = "group epoch"
    RESTED = "rested"  # an operator told it to take no work of others, or to take it again
    DAMAGED = "damaged"

    # A function's code.
    CODE_CAME = "code came"
    CODE_MISSED = "code missed"

    # Replicated tables. As `store.replica` names what it notes.
    CONFLICT = "conflict"
    CONFLICT_CUT = "conflict cut"
    BATCH_WAITS = "batch waits"  # quarantined: kept, not applied, tried again
    BATCH_NOT_KEPT = "batch not kept"
    BATCH_DROPPED = "batch dropped"
    ORPHANED = "orphaned"
    CLOCK_AHEAD = "own clock ran ahead"
    STAMPED_AGAIN = "stamped again"
    WRITTEN_AGAIN = "written again"
    SNAPSHOT_TAKEN = "snapshot taken"
    SNAPSHOT_DROPPED = "snapshot dropped"
    DIVERGED = "diverged"
    STATE_NOT_WRITTEN = "tables not written"

    # The chronicle itself.
    LEFT_OUT = "left out"


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Entry)


def encoded(entry: Entry) -> bytes:
    return _encode(entry)


def decoded(body: bytes) -> Entry | None:
    """None: not an entry, or damaged."""
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def size_of(entry: Entry) -> int:
    return len(_encode(entry))


def bounded(details: Details) -> Details:
    """Without empty fields, no more of them and none longer than an entry may hold."""
    kept: Details = {}
    for name, value in details.items():
        if value == "" or len(kept) >= STORY_DETAILS_MAX:
            continue
        kept[name[:NAME_MAX]] = " ".join(value.split())[:TEXT_MAX] if isinstance(value, str) else value
    return kept
