"""Settled once (P1, P2): every accepted task ends once, in time, as its client is told, and none is invented.

    Asked ─► Answered(accepted) ─► row 0 on the owner's disk ─► row 1 ─► Told
             "lost" if there is none ┘            │              │         └ at most once, and the same
             "invented" if nobody asked ──────────┘              └ exactly one, by ttl + grace of true time

Of each task an entry of about 250 bytes until the end, when the disks are compared with them; bodies are
looked at one by one and not kept. Executions may repeat (``Ran`` is not looked at); results may not.

In time means: the owner was not able for longer than the grace on end, after the due moment, before the
record was written (``ability``). A node whose wall clock lied may take the task's time to begin anew with
its last start, since it tells the age of what it finds on its disk by that clock.

What it cannot see: when a record was written whose ``written_ns`` is not known and of which nobody was told.
"""

from __future__ import annotations

from typing import Final

import msgspec

from device_sim.virtual.checkers.ability import Ability
from device_sim.virtual.checkers.stores import Stores, names
from device_sim.virtual.checkers.violations import SECOND, Violations
from device_sim.virtual.evidence import (
    Answered,
    Asked,
    Crashed,
    End,
    Event,
    Happened,
    Row,
    Started,
    Told,
    Verdict,
)
from edge_node.tasks.states import Refusal, Status
from edge_node.tasks.task import LOCAL, Outcome, Task

GRACE_NS: Final = 10 * SECOND
"""After its ttl: a turn of a busy loop, a record that must be written again, an fsync of a bad disk."""
DRIFT: Final = 1000
"""A crystal may be off by 500 ppm; twice that, as one part in so many of the ttl."""
ACCEPTED: Final = 0
CLOSED: Final = 1
_UNSURE: Final = (Refusal.STORE_FULL.value,)
"""A refusal after which the disk may have the row all the same: the fsync failed, not surely the write."""
_STATUSES: Final = tuple(status.value for status in Status)
_outcome = msgspec.msgpack.Decoder(Outcome)
_task = msgspec.msgpack.Decoder(Task)


class _Entry:
    __slots__ = (
        "accepted", "asked_ns", "base_ns", "ended", "function", "kept", "node", "refused", "told_ns",
        "told_place", "told_status", "ttl_ns",
    )  # fmt: skip

    def __init__(self, asked: Asked) -> None:
        self.node = asked.node
        self.function = asked.function
        self.asked_ns = asked.at_ns
        self.base_ns = asked.at_ns  # from which its time runs
        self.ttl_ns = asked.ttl_ns
        self.accepted = False
        self.refused = ""
        self.kept = False
        self.ended = False
        self.told_ns = -1
        self.told_status = ""
        self.told_place = ""


class SettledOnce:
    name = "settled once"
    promise = "P1 P2"
    wants = (Asked, Answered, Told, Crashed, Started, Happened)

    def __init__(self, *, grace_ns: int = GRACE_NS) -> None:
        self._grace_ns = grace_ns
        self._tasks: dict[str, _Entry] = {}
        self._found = Violations()
        self._ability = Ability()
        self._stores = Stores()
        self._unjudged = 0

    def saw(self, event: Event) -> None:
        kind = type(event)
        if kind is Asked:
            assert isinstance(event, Asked)
            self._tasks.setdefault(event.task, _Entry(event))
        elif kind is Answered:
            assert isinstance(event, Answered)
            self._answered(event)
        elif kind is Told:
            assert isinstance(event, Told)
            self._told(event)
        else:
            self._ability.saw(event)
            self._stores.saw(event)

    def _answered(self, event: Answered) -> None:
        entry = self._tasks.get(event.task)
        if entry is None:
            self._found.add(event.at_ns, event.node, "answered, though nobody asked", event.task)
        elif event.node != entry.node:
            self._found.add(event.at_ns, event.node, f"answered by another than {entry.node}", event.task)
        elif not event.accepted:
            entry.refused = event.reason or "refused"
        elif not entry.accepted:
            entry.accepted = True
            entry.base_ns = event.at_ns

    def _told(self, event: Told) -> None:
        entry = self._tasks.get(event.task)
        if entry is None:
            self._found.add(event.at_ns, event.node, "told, though nobody asked", event.task)
            return
        if entry.told_ns >= 0:
            what = f"told twice: {entry.told_status}, then {event.status}"
            self._found.add(event.at_ns, event.node, what, event.task)
            return
        if event.node != entry.node:
            self._found.add(event.at_ns, event.node, f"told by another than {entry.node}", event.task)
        entry.told_ns, entry.told_status, entry.told_place = event.at_ns, event.status, event.place

    # ── at the end ────────────────────────────────────────────────────────────────────────────────

    def verdict(self, end: End) -> Verdict:
        for node in sorted(end.ledgers):
            self._ledger(end, node, end.ledgers[node])
        gone = opened = 0
        for task, entry in self._tasks.items():
            if not entry.accepted and not entry.kept:
                if entry.told_ns >= 0:
                    what = f"told {entry.told_status}, never accepted"
                    self._found.add(entry.told_ns, entry.node, what, task)
            elif not entry.kept:
                gone += self._missing(end, task, entry)
            elif not entry.ended:
                opened += self._open(end, task, entry)
        judged = sum(entry.accepted or entry.kept for entry in self._tasks.values())
        remarks = [
            f"{gone} on a disk that is gone or damaged on purpose" if gone else "",
            f"{opened} still open" if opened else "",
            f"{self._unjudged} ended nobody knows when" if self._unjudged else "",
        ]
        remark = f"{judged} tasks; " + "; ".join(each for each in remarks if each)
        return self._found.verdict(
            self.name,
            self.promise,
            nothing="" if judged else "no task was accepted",
            remark=remark.removesuffix("; "),
        )

    def _ledger(self, end: End, node: str, rows: list[Row]) -> None:
        accepted: dict[str, None] = {}
        closed: dict[str, None] = {}
        add = self._found.add
        for row in rows:
            if row.kind == ACCEPTED:
                if row.task in accepted:
                    add(_written(row, end), node, "two accept records", row.task)
                accepted[row.task] = None
                self._accept(end, node, row)
            elif row.kind == CLOSED:
                if row.task in closed:
                    add(_written(row, end), node, "two terminal records", row.task)
                    continue
                closed[row.task] = None
                self._close(end, node, row)
        for task in closed:
            asked = task in self._tasks  # else it was told as invented
            if asked and task not in accepted and not self._stores.excuses(end, node, task, self._tasks):
                add(end.at_ns, node, "a terminal record without an accept", task)

    def _accept(self, end: End, node: str, row: Row) -> None:
        entry = self._tasks.get(row.task)
        if entry is None or entry.node != node:
            asked = f"asked for at {entry.node}" if entry is not None else "nobody asked for it"
            self._found.add(_written(row, end), node, f"invented: {asked}", row.task)
            return
        entry.kept = True
        if entry.refused and not entry.accepted and entry.refused not in _UNSURE:
            what = f"refused ({entry.refused}), and accepted on its disk"
            self._found.add(_written(row, end), node, what, row.task)
        try:
            task = _task.decode(row.body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self._found.add(end.at_ns, node, "its accept record cannot be read", row.task)
            return
        if (task.id, task.function, task.origin) != (row.task, entry.function, node):
            what = f"accepted as {task.function} of {task.origin}, asked for as {entry.function}"
            self._found.add(_written(row, end), node, what, row.task)

    def _close(self, end: End, node: str, row: Row) -> None:
        add = self._found.add
        entry = self._tasks.get(row.task)
        if entry is None or entry.node != node:
            add(_written(row, end), node, f"invented: ended {row.state}, nobody asked for it here", row.task)
            return
        entry.ended = True
        try:
            outcome = _outcome.decode(row.body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            add(end.at_ns, node, "its terminal record cannot be read", row.task)
            return
        if row.state not in _STATUSES or outcome.status != row.state:
            add(_written(row, end), node, f"ended as {row.state!r} and {outcome.status!r}", row.task)
        if entry.told_ns >= 0:
            told = entry.told_status, _place(entry.told_place, node)
            kept = row.state, _place(outcome.place, node)
            if told != kept and not self._stores.excuses(end, node, row.task, self._tasks):
                what = (
                    f"told {told[0]} at {told[1] or 'nowhere'}, recorded {kept[0]} at {kept[1] or 'nowhere'}"
                )
                add(entry.told_ns, node, what, row.task)
        done_ns = row.written_ns if row.written_ns is not None else entry.told_ns
        if done_ns < 0:
            self._unjudged += 1
        elif self._is_late(entry, done_ns):
            add(done_ns, node, f"settled late, {self._times(entry)}", row.task)

    def _missing(self, end: End, task: str, entry: _Entry) -> bool:
        """Accepted, and not on the disk. Returns: explained."""
        node = entry.node
        if self._stores.excuses(end, node, task, self._tasks):
            return True
        if entry.ended:
            return False  # told as a terminal record without an accept
        if node not in end.ledgers:
            if node in end.gone:
                return True
            self._found.add(end.at_ns, node, "lost: accepted, and its disk cannot be read", task)
        elif names(end, node, task, self._tasks):
            self._found.add(end.at_ns, node, "lost: its store names damage that nobody did", task)
        else:
            self._found.add(end.at_ns, node, "lost: accepted, and not on the disk", task)
        return False

    def _open(self, end: End, task: str, entry: _Entry) -> bool:
        """Accepted, and no terminal record. Returns: explained."""
        node = entry.node
        if self._stores.excuses(end, node, task, self._tasks):
            return True
        if entry.told_ns >= 0:
            what = f"told {entry.told_status}, no terminal record"
            self._found.add(entry.told_ns, node, what, task)
            return False
        if node in end.gone or self._ability.down(node) is not None or end.healed_ns is None:
            return True
        if self._is_late(entry, end.at_ns):
            self._found.add(end.at_ns, node, f"never settled, {self._times(entry)}", task)
            return False
        return True

    def _is_late(self, entry: _Entry, done_ns: int) -> bool:
        base_ns = entry.base_ns
        if self._ability.lied(entry.node):
            start_ns = self._ability.last_start(entry.node, done_ns)
            base_ns = base_ns if start_ns is None else max(base_ns, start_ns)
        due_ns = base_ns + entry.ttl_ns + entry.ttl_ns // DRIFT
        return self._ability.is_late(entry.node, due_ns, done_ns, self._grace_ns)

    def _times(self, entry: _Entry) -> str:
        return f"accepted at {entry.base_ns // 1_000_000} ms for {entry.ttl_ns // 1_000_000} ms"


def _place(place: str, node: str) -> str:
    """Its own place has two names."""
    return LOCAL if place == node else place


def _written(row: Row, end: End) -> int:
    return end.at_ns if row.written_ns is None else row.written_ns
