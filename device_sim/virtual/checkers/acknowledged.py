"""Acknowledged (P3): what a node had acknowledged before it was killed, or its power was cut, is on its disk.

    Answered(accepted), Told ──► Crashed(kill | power) ──► … ──► the row is there at the end, and the same

Also, wherever the disk tells when it had a row for good: nobody was told before. Of each task about 200
bytes until the end. A store that was damaged on purpose may lack what it names (P6); if it names nothing,
it was silently emptied. Not here: orderly stops, and whether tasks end (``settled_once``).
"""

from __future__ import annotations

from typing import Final

from device_sim.virtual.checkers.stores import Stores
from device_sim.virtual.checkers.violations import Violations, moment
from device_sim.virtual.evidence import Answered, Crashed, End, Event, Happened, Row, Told, Verdict

ACCEPTED: Final = 0
CLOSED: Final = 1
_HARD: Final = ("kill", "power")


class Acknowledged:
    name = "acknowledged survives"
    promise = "P3"
    wants = (Answered, Told, Crashed, Happened)

    def __init__(self) -> None:
        self._accepted: dict[str, dict[str, int]] = {}  # node -> task -> when
        self._told: dict[str, dict[str, tuple[int, str]]] = {}  # node -> task -> when, status
        self._crashed: dict[str, Crashed] = {}  # the last hard one
        self._stores = Stores()

    def saw(self, event: Event) -> None:
        kind = type(event)
        if kind is Answered:
            assert isinstance(event, Answered)
            if event.accepted:
                self._accepted.setdefault(event.node, {}).setdefault(event.task, event.at_ns)
        elif kind is Told:
            assert isinstance(event, Told)
            self._told.setdefault(event.node, {}).setdefault(event.task, (event.at_ns, event.status))
        elif kind is Crashed:
            assert isinstance(event, Crashed)
            if event.how in _HARD:
                self._crashed[event.node] = event
        else:
            self._stores.saw(event)

    def verdict(self, end: End) -> Verdict:
        found = Violations()
        survived = explained = 0
        for node in sorted({*self._accepted, *self._told}):
            rows: dict[tuple[str, int], Row] = {}
            for row in end.ledgers.get(node, ()):
                if row.kind in (ACCEPTED, CLOSED):
                    rows.setdefault((row.task, row.kind), row)
            crash = self._crashed.get(node)
            self._early(found, end, node, rows)
            if crash is None:
                continue
            if node not in end.ledgers and node in end.gone and node not in self._stores.hit:
                explained += 1  # the medium itself was taken away
                continue
            known = {**self._accepted.get(node, {}), **self._told.get(node, {})}
            for task, at_ns in self._accepted.get(node, {}).items():
                if at_ns > crash.at_ns:
                    continue
                if (task, ACCEPTED) in rows:
                    survived += 1
                elif self._stores.excuses(end, node, task, known):
                    explained += 1
                else:
                    self._missing(found, end, node, task, crash, "its accept")
            for task, (at_ns, status) in self._told.get(node, {}).items():
                if at_ns > crash.at_ns:
                    continue
                closed = rows.get((task, CLOSED))
                if closed is not None and closed.state == status:
                    survived += 1
                elif closed is not None and self._stores.excuses(end, node, task, known):
                    explained += 1  # how it ended was damaged, and it ended once more
                elif closed is not None:
                    what = f"told {status} before the {crash.how}, {closed.state} after it"
                    found.add(crash.at_ns, node, what, task)
                elif self._stores.excuses(end, node, task, known):
                    explained += 1
                else:
                    self._missing(found, end, node, task, crash, f"that it ended {status}")
        nothing = (
            ""
            if survived or explained
            else "nobody was killed or cut off from power after an acknowledgement"
        )
        remark = f"{survived} acknowledgements survived" + (f"; {explained} explained" if explained else "")
        return found.verdict(self.name, self.promise, nothing=nothing, remark=remark)

    def _early(self, found: Violations, end: End, node: str, rows: dict[tuple[str, int], Row]) -> None:
        """Said before the disk had it: a crash in between would have made it a lie."""
        known = {**self._accepted.get(node, {}), **self._told.get(node, {})}
        for task, at_ns in self._accepted.get(node, {}).items():
            row = rows.get((task, ACCEPTED))
            if row is not None and row.written_ns is not None and row.written_ns > at_ns:
                what = f"accepted before it was on the disk, at {moment(row.written_ns)}"
                found.add(at_ns, node, what, task)
        for task, (at_ns, status) in self._told.get(node, {}).items():
            row = rows.get((task, CLOSED))
            if row is not None and row.written_ns is not None and row.written_ns > at_ns:
                if self._stores.excuses(end, node, task, known):
                    continue  # the record of then was damaged: this is of another end
                what = f"told {status} before it was on the disk, at {moment(row.written_ns)}"
                found.add(at_ns, node, what, task)

    def _missing(self, found: Violations, end: End, node: str, task: str, crash: Crashed, what: str) -> None:
        if node not in end.ledgers:
            found.add(crash.at_ns, node, f"no disk can be read after a {crash.how} that had {what}", task)
        elif node in self._stores.hit:
            found.add(
                crash.at_ns,
                node,
                f"silently emptied: its damaged store lacks {what} and does not name it",
                task,
            )
        else:
            found.add(crash.at_ns, node, f"acknowledged, and lost in a {crash.how}: {what}", task)
