"""Tables (P3): what a client was told is kept is there at the end, or gives way to somebody who knew of it.

    Wrote(over what it saw) ─► Kept ─► … ─► the end: read, listed as a rival, or replaced
                                                     by a change that had seen it

A change that replaces another has seen it, at its own node, in the same turn; so whoever lost without having
been seen must still be listed. What was replaced or removed by a change that holds stays away. An element of
a set stays until somebody who saw it takes it out. A counter is the sum of what was acknowledged, give or
take what nobody knows of. No change is acknowledged before the disk has it.

Excused: a change that only a disk had that went back to an older copy, or was damaged and says so, or is gone
with its machine; a machine that is gone is asked by its own disk. Memory: some 300 bytes a change.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from device_sim.virtual.checkers.replicas import asked
from device_sim.virtual.checkers.violations import Violations
from device_sim.virtual.evidence import (
    DAMAGES_A_STORE,
    End,
    Event,
    Happened,
    Kept,
    Restored,
    Tables,
    Verdict,
    Wrote,
)
from edge_node.store.cells import COUNTER, ELEMENT, FIELD
from edge_node.store.crdt.counter import Tally


@dataclass(slots=True)
class _Change:
    wrote: Wrote
    kept_ns: int | None = None
    """When it was acknowledged; None: nobody knows."""
    refused: bool = False


@dataclass(slots=True)
class _Held:
    """What one disk holds, for people: (table, key, field) -> changes that are read or listed there."""

    fields: dict[tuple[str, str, str], set[str]]
    elements: dict[str, set[str]]
    counters: dict[str, int]

    def has(self, change: _Change) -> bool:
        wrote = change.wrote
        if wrote.what == "add":
            return wrote.key in self.elements.get(wrote.table, ())
        return wrote.change in self.fields.get((wrote.table, wrote.key, wrote.field), ())


class WrittenTables:
    name = "acknowledged changes survive"
    promise = "P3"
    wants = (Wrote, Kept, Restored, Happened)

    def __init__(self) -> None:
        self._by_name: dict[tuple[str, str], _Change] = {}
        self._restored: dict[str, list[Restored]] = {}
        self._hit: dict[str, int] = {}
        self._early: list[Kept] = []

    def saw(self, event: Event) -> None:
        kind = type(event)
        if kind is Wrote:
            assert isinstance(event, Wrote)
            self._by_name[event.node, event.change] = _Change(event)
        elif kind is Kept:
            assert isinstance(event, Kept)
            change = self._by_name[event.node, event.change]
            if event.reason:
                change.refused = True
            else:
                change.kept_ns = event.at_ns
                if not event.safe:
                    self._early.append(event)
        elif kind is Restored:
            assert isinstance(event, Restored)
            self._restored.setdefault(event.node, []).append(event)
        elif isinstance(event, Happened) and event.do in DAMAGES_A_STORE:
            self._hit.setdefault(event.node, event.at_ns)

    def verdict(self, end: End) -> Verdict:
        found = Violations()
        if not self._by_name:
            return found.verdict(self.name, self.promise, nothing="nobody wrote a replicated table")
        for kept in self._early:
            found.add(kept.at_ns, kept.node, f"{kept.change} was acknowledged before it was on the disk")
        meshes: dict[str, list[_Change]] = {}
        for (node, _), change in self._by_name.items():
            if node in end.tables:
                meshes.setdefault(end.tables[node].mesh, []).append(change)
        survived = excused = 0
        there = asked(end)
        for mesh, changes in meshes.items():
            models = [tables for tables in there.values() if tables.mesh == mesh]
            if models:
                good, other = self._judged(found, end, changes, _held(models[0]))
                survived, excused = survived + good, excused + other
        remark = f"{survived} changes are there or were replaced" + (f"; {excused} excused" * bool(excused))
        return found.verdict(self.name, self.promise, remark=remark)

    def _judged(self, found: Violations, end: End, changes: list[_Change], held: _Held) -> tuple[int, int]:
        """(survived, excused)"""
        own = {node: _held(tables) for node, tables in end.tables.items() if node in end.gone}
        seen = {each for change in changes for each in change.wrote.over}
        holds = {
            change.wrote.change: change
            for change in changes
            if not change.refused
            and (
                change.kept_ns is not None
                or change.wrote.change in seen
                or held.has(change)
                or change.wrote.what in ("remove", "discard")  # it leaves nothing by which to know
            )
        }
        replaced = {each for change in holds.values() for each in change.wrote.over}
        survived = excused = 0
        for change in changes:
            wrote = change.wrote
            if change.kept_ns is None or wrote.what == "count":
                continue
            if self._excused(end, change):
                excused += 1
            elif wrote.what in ("put", "add"):
                name = wrote.change
                kept = held.has(change) or (wrote.node in own and own[wrote.node].has(change))
                if kept or name in replaced:
                    survived += 1
                elif wrote.node in self._hit:
                    found.add(
                        change.kept_ns, wrote.node, f"silently emptied: {_said(wrote)} and no word of it"
                    )
                else:
                    found.add(change.kept_ns, wrote.node, f"acknowledged and lost: {_said(wrote)}")
            if not self._excused(end, change) and wrote.node not in end.gone:
                self._stays_away(found, change, held)
        return survived, excused + self._counted(found, end, changes, held)

    def _stays_away(self, found: Violations, change: _Change, held: _Held) -> None:
        """What it had seen and replaced is not read or listed any more."""
        wrote = change.wrote
        assert change.kept_ns is not None
        if wrote.what == "discard":
            back = {wrote.key} & held.elements.get(wrote.table, set())
        else:
            fields = [
                changes
                for (table, key, field), changes in held.fields.items()
                if (table, key) == (wrote.table, wrote.key) and wrote.field in ("", field)
            ]
            back = {each for changes in fields for each in changes} & set(wrote.over)
        for each in sorted(back):
            found.add(change.kept_ns, wrote.node, f"{_said(wrote)} replaced {each}, which is back")

    def _counted(self, found: Violations, end: End, changes: list[_Change], held: _Held) -> int:
        """Counters are what was added. Returns: additions of which one cannot tell."""
        least: dict[str, int] = {}
        most: dict[str, int] = {}
        unsure = 0
        for change in changes:
            wrote = change.wrote
            if wrote.what != "count" or change.refused:
                continue
            sure = (
                change.kept_ns is not None and not self._excused(end, change) and wrote.node not in end.gone
            )
            unsure += change.kept_ns is not None and not sure
            least[wrote.table] = least.get(wrote.table, 0) + (wrote.amount if sure else min(0, wrote.amount))
            most[wrote.table] = most.get(wrote.table, 0) + (wrote.amount if sure else max(0, wrote.amount))
        for name in sorted(least):
            value = held.counters.get(name, 0)
            if not least[name] <= value <= most[name]:
                found.add(
                    end.at_ns, "", f"counter {name} is {value}, not within {least[name]} and {most[name]}"
                )
        return unsure

    def _excused(self, end: End, change: _Change) -> bool:
        """May it be lost with a medium, of which people were told?"""
        node, kept_ns = change.wrote.node, change.kept_ns
        assert kept_ns is not None
        if any(each.copied_ns < kept_ns <= each.at_ns for each in self._restored.get(node, ())):
            return True
        return node in self._hit and bool(end.tables[node].losses)


def _held(tables: Tables) -> _Held:
    held = _Held({}, {}, {})
    for cell, state in tables.cells.items():
        if cell.kind == COUNTER:
            assert isinstance(state, Tally)
            held.counters[cell.table] = state.value
        elif cell.kind == ELEMENT:
            held.elements.setdefault(cell.table, set()).add(cell.key)
        elif cell.kind == FIELD and not cell.table.startswith("."):
            assert not isinstance(state, Tally)
            values = [each.value for each in state] + [each.value for one in state for each in one.rivals]
            # A document's key in the cells' spelling has a letter in front.
            held.fields[cell.table, cell.key[1:], cell.field] = {
                str(json.loads(value)).strip() for value in values if value is not None
            }
    return held


def _said(wrote: Wrote) -> str:
    where = "/".join(part for part in (wrote.table, wrote.key, wrote.field) if part)
    return f"{wrote.what} {wrote.change} of {where}"
