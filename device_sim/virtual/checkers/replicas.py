"""Replicas (P4): members that have exchanged everything hold the same cells, byte for byte.

    end ─► each disk's canonical cells, as a next life would read them ─► equal within a mesh
           registers in order: the last writer wins everywhere

After everything was made good and the run had its time, everybody has exchanged everything. Who is gone is
not asked, nor whose file was damaged after its daemon last read it: a daemon that runs does not notice. Not
here: whether what is equal is also what was written (``tables``).
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from device_sim.virtual.checkers.violations import Violations
from device_sim.virtual.evidence import End, Event, Tables, Verdict, Wrote
from edge_node.store.cells import FIELD
from edge_node.store.crdt.counter import Tally

BLANK: Final = ' "'


class Replicas:
    name = "replicas are equal"
    promise = "P4"
    wants = (Wrote,)

    def __init__(self) -> None:
        self._written = 0

    def saw(self, event: Event) -> None:
        self._written += 1

    def verdict(self, end: End) -> Verdict:
        found = Violations()
        members = asked(end)
        if not self._written or not members:
            return found.verdict(self.name, self.promise, nothing="nobody wrote a replicated table")
        meshes: dict[str, dict[str, Tables]] = {}
        for name, tables in members.items():
            meshes.setdefault(tables.mesh, {})[name] = tables
        for each in meshes.values():
            _equal(found, end, each)
        for name, tables in members.items():
            _ordered(found, end, name, tables)
        cells = sum(len(tables.cells) for tables in members.values())
        unread = sum(tables.unread for name, tables in end.tables.items() if name not in end.gone)
        remark = f"{len(members)} members, {cells} cells" + (
            f"; {unread} damaged and not read since" * bool(unread)
        )
        return found.verdict(self.name, self.promise, remark=remark)


def asked(end: End) -> dict[str, Tables]:
    """Those that must be equal."""
    return {
        name: tables
        for name, tables in sorted(end.tables.items())
        if name not in end.gone and not tables.unread
    }


def _equal(found: Violations, end: End, members: dict[str, Tables]) -> None:
    held = Counter(tables.canonical for tables in members.values())
    if len(held) <= 1:
        return
    most = max(held, key=lambda each: (held[each], each))
    model = next(tables for tables in members.values() if tables.canonical == most)
    for name, tables in members.items():
        if tables.canonical != most:
            found.add(end.at_ns, name, f"differs from {held[most]} others: {_difference(tables, model)}")


def _difference(tables: Tables, model: Tables) -> str:
    """The first cell in which they differ, for people."""
    shown = {cell: _shown(state) for cell, state in tables.cells.items() if _shown(state)}
    theirs = {cell: _shown(state) for cell, state in model.cells.items() if _shown(state)}
    differing = sorted(cell for cell in shown.keys() | theirs.keys() if shown.get(cell) != theirs.get(cell))
    if not differing:
        return "in what is not read, such as a stamp"
    cell = differing[0]
    where = "/".join(part for part in (cell.table, cell.key, cell.field) if part)
    mine, other = shown.get(cell, "nothing"), theirs.get(cell, "nothing")
    return f"{where} is {mine} here and {other} there; {len(differing)} cells differ"


def _shown(state: object) -> str:
    if isinstance(state, Tally):
        return str(state.value)
    assert isinstance(state, tuple)
    return " | ".join(
        f"{'removed' if each.value is None else each.value.decode().strip(BLANK)} of {each.node}"
        for each in state
        if each.value is not None or len(state) > 1
    )


def _ordered(found: Violations, end: End, name: str, tables: Tables) -> None:
    for cell, state in sorted(tables.cells.items()):
        if cell.kind == FIELD and not isinstance(state, Tally) and list(state) != sorted(state):
            where = "/".join((cell.table, cell.key, cell.field))
            found.add(end.at_ns, name, f"{where}: another than the last writer wins")
