"""Damage (P6, as far as it goes yet): a store that was damaged is named as such, never silently emptied.

    disk-flip, disk-truncate, disk-zero ──► whatever clients were promised is still there, or it is named:
                                            its task, or the file as a whole
    a store that nobody damaged         ──► names nothing

A flipped bit in a page that holds nothing takes nothing away and need not be found. Memory: of each task of
a client about 100 bytes. Not here: that nothing is invented (``settled_once``); that leases and peers
restore what they can, and a full disk that refuses and recovers, which nothing outside can tell yet.
"""

from __future__ import annotations

from typing import Final

from device_sim.virtual.checkers.stores import Stores, names
from device_sim.virtual.checkers.violations import Violations
from device_sim.virtual.evidence import Answered, End, Event, Happened, Told, Verdict

ACCEPTED: Final = 0
CLOSED: Final = 1


class Damage:
    name = "damage is seen"
    promise = "P6"
    wants = (Answered, Told, Happened)

    def __init__(self) -> None:
        self._promised: dict[str, dict[tuple[str, int], int]] = {}  # node -> (task, kind) -> when
        self._stores = Stores()

    def saw(self, event: Event) -> None:
        kind = type(event)
        if kind is Answered:
            assert isinstance(event, Answered)
            if event.accepted:
                self._promise(event.node, event.task, ACCEPTED, event.at_ns)
        elif kind is Told:
            assert isinstance(event, Told)
            self._promise(event.node, event.task, CLOSED, event.at_ns)
        else:
            self._stores.saw(event)

    def _promise(self, node: str, task: str, kind: int, at_ns: int) -> None:
        self._promised.setdefault(node, {}).setdefault((task, kind), at_ns)

    def verdict(self, end: End) -> Verdict:
        found = Violations()
        hit = self._stores.hit
        missing = 0
        for node in sorted(hit):
            if node not in end.ledgers and node in end.gone:
                continue
            there = {(row.task, row.kind): None for row in end.ledgers.get(node, ())}
            promised = self._promised.get(node, {})
            known = {task: None for task, _ in promised}
            for (task, kind), at_ns in promised.items():
                if at_ns > hit[node] or (task, kind) in there:
                    continue  # what was promised later was not damaged then: ``settled_once`` asks for it
                missing += 1
                if not names(end, node, task, known):
                    record = "accept" if kind == ACCEPTED else "terminal record"
                    what = f"its store was damaged and lacks this {record}, and names neither it nor the file"
                    found.add(hit[node], node, what, task)
        for node in sorted(end.damaged):
            if end.damaged[node] and node not in hit:
                what = f"names damage that nobody did: {end.damaged[node][0]}"
                found.add(end.at_ns, node, what)
        return found.verdict(
            self.name,
            self.promise,
            nothing="" if hit else "no store was damaged",
            remark=f"{len(hit)} stores damaged, {missing} records missing and named",
        )
