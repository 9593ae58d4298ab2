"""Finishes (P7): once everything is healed, everybody is there, the backlog drains and nobody stalls.

    heal ──────── liveness phase ────────► end
         every node that is not gone: runs, answers, is connected, a member, sees the gateway
         every open task: ended when its time was over; before that, something happens every 60 s

Progress of a node is what others see of it: its client hears an end (Told), an attempt of its work ends
anywhere or it ends one for others (Ran), its count of settled tasks moves. While a worker is at work, or a
lease is held, an attempt may take its whole time limit: 60 s more. Open tasks that may run nowhere but at a
node that is gone, or that ask for labels or modules, wait rightly: a node with none but these is not stalled.

Nor is one whose every open task is for one place alone that has its queue full of others' work: as long as it
asks (more "queue full" from sample to sample) and that place ends attempts (one within a time limit), its
turn comes when the queue is shorter; how long that takes is a matter of the load. A node that may run a task
itself, or elsewhere, has no such excuse, nor has one that has ceased to ask.

Memory: one entry a node, one an open task. Not here: faults still under way; a run without a liveness phase
promises nothing of the kind. What it cannot see, before its time to live is over: a task that is passed over
while others of its node go on, or while the one place that it is for takes the tasks of other nodes instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from device_sim.virtual.checkers.ability import Ability
from device_sim.virtual.checkers.frames import is_gateway
from device_sim.virtual.checkers.violations import SECOND, Violations
from device_sim.virtual.evidence import (
    HEAL,
    Answered,
    Asked,
    Crashed,
    End,
    Event,
    Happened,
    Ran,
    Row,
    Sampled,
    Started,
    Told,
    Verdict,
)
from edge_node.tasks.states import Refusal
from edge_node.tasks.task import Task
from edge_node.wire.ids import GATEWAY

GRACE_NS: Final = 10 * SECOND
STALL_NS: Final = 60 * SECOND
ATTEMPT_NS: Final = 60 * SECOND
"""The default time limit of an attempt."""
DRIFT: Final = 1000
ACCEPTED: Final = 0
CLOSED: Final = 1
_task = msgspec.msgpack.Decoder(Task)


class _Seen:
    """A node as its status shows it, and when it last got somewhere."""

    __slots__ = (
        "answers", "at_ns", "connected", "gateway", "member", "open", "places", "progress_ns", "ran_ns",
        "refused", "settled", "stalled_ns", "stalled_open", "told",
    )  # fmt: skip

    def __init__(self) -> None:
        self.at_ns = -1
        self.answers = False
        self.connected: bool | None = None
        self.member: bool | None = None
        self.gateway = False
        self.open = 0
        self.places: dict[str, int] = {}  # where its open tasks may run -> how many
        self.refused = 0  # offers, because a queue was full
        self.ran_ns = -1  # when an attempt ended here last
        self.settled = -1
        self.progress_ns = 0
        self.stalled_ns = -1  # since when it had got nowhere, the first time that was too long
        self.stalled_open = 0  # tasks then
        self.told = -1


class Finishes:
    name = "finishes"
    promise = "P7"
    wants = (Asked, Answered, Told, Ran, Sampled, Crashed, Started, Happened)

    def __init__(
        self, *, grace_ns: int = GRACE_NS, stall_ns: int = STALL_NS, attempt_ns: int = ATTEMPT_NS
    ) -> None:
        self._grace_ns = grace_ns
        self._stall_ns = stall_ns
        self._attempt_ns = attempt_ns
        self._found = Violations()
        self._ability = Ability()
        self._nodes: dict[str, _Seen] = {}
        self._owners: dict[str, str] = {}  # open tasks
        self._due: dict[str, int] = {}  # open tasks -> when their time is over
        self._asked: dict[str, tuple[int, str]] = {}  # not answered yet -> time to live, where
        self._where: dict[str, str] = {}  # open tasks
        self._healed_ns: int | None = None

    def saw(self, event: Event) -> None:
        kind = type(event)
        if kind is Ran:
            assert isinstance(event, Ran)
            self._moved(event.node, event.at_ns)
            self._of(event.node).ran_ns = event.at_ns
            owner = self._owners.get(event.task)
            if owner is not None:
                self._moved(owner, event.at_ns)
        elif kind is Asked:
            assert isinstance(event, Asked)
            self._asked.setdefault(event.task, (event.ttl_ns, event.where))
        elif kind is Answered:
            assert isinstance(event, Answered)
            asked = self._asked.pop(event.task, None)
            if event.accepted and asked is not None:
                ttl_ns, where = asked
                self._owners[event.task] = event.node
                self._due[event.task] = event.at_ns + ttl_ns + ttl_ns // DRIFT
                self._where[event.task] = where
                places = self._of(event.node).places
                places[where] = places.get(where, 0) + 1
        elif kind is Told:
            assert isinstance(event, Told)
            owner = self._owners.pop(event.task, None)
            self._due.pop(event.task, None)
            if owner is not None:
                self._closed(owner, self._where.pop(event.task))
            self._moved(event.node, event.at_ns)
        elif kind is Sampled:
            assert isinstance(event, Sampled)
            self._sampled(event)
        else:
            self._ability.saw(event)
            if kind is Started:
                assert isinstance(event, Started)
                self._moved(event.node, event.at_ns)
            elif type(event) is Happened and event.do == HEAL:
                self._healed_ns = event.at_ns

    def _of(self, node: str) -> _Seen:
        seen = self._nodes.get(node)
        if seen is None:
            seen = self._nodes[node] = _Seen()
        return seen

    def _moved(self, node: str, at_ns: int) -> None:
        self._of(node).progress_ns = at_ns

    def _closed(self, owner: str, where: str) -> None:
        places = self._of(owner).places
        places[where] -= 1
        if not places[where]:
            del places[where]

    def _has_its_turn(self, node: str, places: Mapping[str, int], at_ns: int) -> bool:
        """Does it wait for others to be served, at the places that its tasks are for and at no other?"""
        for place in sorted(places):
            there = self._nodes.get(place)  # None also for "any" and "local": it could do those itself
            if place == node or there is None or there.ran_ns < at_ns - self._attempt_ns:
                return False
        return bool(places)

    def _sampled(self, event: Sampled) -> None:
        seen, status, at_ns = self._of(event.node), event.status, event.at_ns
        seen.at_ns = at_ns
        seen.answers = status is not None
        if status is None:
            seen.progress_ns = at_ns
            return
        seen.connected = _flag(status.get("broker"), "connected")
        seen.member = _flag(status, "member")
        seen.gateway = GATEWAY in status.get("peers_up", ())
        tasks: Mapping[str, Any] = status.get("tasks") or {}
        seen.open = int(tasks.get("open", 0))
        asked_before = seen.refused
        seen.refused = int((tasks.get("refused_by_peers") or {}).get(Refusal.QUEUE_FULL, 0))
        settled = sum(int(count) for count in (tasks.get("settled") or {}).values())
        if settled != seen.settled or not seen.open or not seen.connected:
            seen.settled = settled
            seen.progress_ns = at_ns
            return
        if seen.refused > asked_before and self._has_its_turn(event.node, seen.places, at_ns):
            seen.progress_ns = at_ns
            return
        if self._healed_ns is None or self._ability.down(event.node) is not None:
            return
        since_ns = max(seen.progress_ns, self._healed_ns)
        busy = tasks.get("running_here") or tasks.get("leases")
        if at_ns - since_ns > self._stall_ns + (self._attempt_ns if busy else 0) and seen.stalled_ns < 0:
            seen.stalled_ns = since_ns
            seen.stalled_open = seen.open
            seen.told = at_ns

    # ── at the end ────────────────────────────────────────────────────────────────────────────────

    def verdict(self, end: End) -> Verdict:
        healed_ns = end.healed_ns
        if healed_ns is None:
            return self._found.verdict(self.name, self.promise, nothing="the run had no liveness phase")
        assert self._healed_ns == healed_ns, "the end of all faults is an event too"
        sampled = [seen for seen in self._nodes.values() if seen.at_ns >= healed_ns]
        if not sampled:
            return self._found.verdict(
                self.name, self.promise, nothing="nobody was asked for its status after the heal"
            )
        unasked = 0
        for node in sorted({*self._ability.started, *self._nodes}):
            if node in end.gone:
                continue
            seen = self._of(node)
            crash = self._ability.down(node)
            if crash is not None:
                what = f"down since a {crash.how}, and nothing took it away for good"
                self._found.add(end.at_ns, node, what)
                continue
            if seen.at_ns < healed_ns:
                unasked += 1
            else:
                self._there(node, seen)
            self._backlog(end, node, seen, healed_ns)
        remark = f"{unasked} nodes were not asked for their status" if unasked else ""
        return self._found.verdict(self.name, self.promise, remark=remark)

    def _there(self, node: str, seen: _Seen) -> None:
        add = self._found.add
        if not seen.answers:
            add(seen.at_ns, node, "does not answer")
            return
        if not seen.connected:
            add(
                seen.at_ns,
                node,
                "is not connected to the broker" if seen.connected is False else "tells of no broker",
            )
        if not seen.member:
            add(
                seen.at_ns,
                node,
                "is no member" if seen.member is False else "does not tell whether it is a member",
            )
        if not is_gateway(node) and not seen.gateway:
            add(seen.at_ns, node, "does not see the gateway up")

    def _backlog(self, end: End, node: str, seen: _Seen, healed_ns: int) -> None:
        waits = moves = 0
        for row in _open_rows(end.ledgers.get(node, [])):
            due_ns = self._due.get(row.task)
            if due_ns is not None and self._ability.is_late(
                node, max(due_ns, healed_ns), end.at_ns, self._grace_ns
            ):
                self._found.add(end.at_ns, node, "still open, long after its time to live", row.task)
            if _waits_rightly(row, end):
                waits += 1
            else:
                moves += 1
        if seen.stalled_ns >= 0 and (moves or not waits):
            seconds = (seen.told - seen.stalled_ns) // SECOND
            what = f"stalled: {seen.stalled_open} tasks open, connected, and nothing moved for {seconds} s"
            self._found.add(seen.told, node, what)


def _flag(table: Any, key: str) -> bool | None:
    value = table.get(key) if isinstance(table, Mapping) else None
    return value if isinstance(value, bool) else None


def _open_rows(rows: list[Row]) -> list[Row]:
    closed = {row.task: None for row in rows if row.kind == CLOSED}
    return [row for row in rows if row.kind == ACCEPTED and row.task not in closed]


def _waits_rightly(row: Row, end: End) -> bool:
    """May it run nowhere but at a node that is gone, or where nobody may be?"""
    try:
        task = _task.decode(row.body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False  # ``settled_once`` tells
    return task.where in end.gone or bool(task.labels or task.requires)
