"""P3 and P4 of replicated tables, from outside: what was kept, what was replaced knowingly, who differs."""

from __future__ import annotations

import msgspec
import pytest

from device_sim.virtual.checkers.replicas import Replicas
from device_sim.virtual.checkers.tables import WrittenTables
from device_sim.virtual.evidence import Happened, Kept, Restored, Tables, Wrote
from edge_node.store.cells import COUNTER, ELEMENT, FIELD, CellId, Cells
from edge_node.store.crdt.counter import Entry, Tally
from edge_node.store.crdt.register import Rival, Version
from tests.support.virtual_stories import Story, ns

FIELD_X = CellId(FIELD, "t0", "sk1", "x")
MEMBERS = ("gateway", "n-1", "n-2")


def version(change, stamp=1, node="n-1", *rivals):
    value = None if change is None else msgspec.json.encode(change)
    return Version(
        stamp, node, 7, stamp, value, tuple(Rival(0, "n-2", msgspec.json.encode(r)) for r in rivals)
    )


class Mesh(Story):
    """Clients that write, and what lies on every disk at the end."""

    def __init__(self):
        super().__init__()
        self.cells = {node: {} for node in MEMBERS}
        self.losses = {}
        self.unread = ()
        self.at_s = 100.0

    def writes(self, at_s, node, change, what="put", *, over=(), amount=0, key="k1", field="x", table="t0"):
        if what in ("add", "discard", "count"):
            table, field, key = {"count": "visits"}.get(what, "marked"), "", over[0] if over else change
        if what == "remove":
            field = ""
        self.events.append(Wrote(ns(at_s), node, change, what, table, key, field, amount, tuple(over)))
        return self

    def kept(self, at_s, node, change, reason="", *, safe=True):
        self.events.append(Kept(ns(at_s), node, change, reason, safe))
        return self

    def both(self, at_s, node, change, what="put", **more):
        return self.writes(at_s, node, change, what, **more).kept(at_s + 0.01, node, change)

    def holds(self, cell, state, *nodes):
        for node in nodes or MEMBERS:
            self.cells[node][cell] = state
        return self

    def reads(self, *versions, nodes=MEMBERS):
        return self.holds(FIELD_X, tuple(versions), *nodes)

    def judged(self, checker):
        tables = {}
        for node, found in self.cells.items():
            cells = Cells()
            for cell, state in found.items():
                cells.place(cell, state)
            losses = tuple(self.losses.get(node, ()))
            tables[node] = Tables("mesh", found, cells.canonical(), losses, node in self.unread)
        return self.judged_by(checker, tables=tables)

    def survives(self):
        return self.judged(WrittenTables())

    def violation(self):
        found = self.survives()
        assert (found.word, found.total) == ("failed", 1), found
        return found.violations[0]


def test_without_a_change_there_is_nothing_to_judge():
    assert Mesh().survives().word == Mesh().judged(Replicas()).word == "not applicable"


def test_what_is_read_listed_or_replaced_knowingly_survives():
    mesh = Mesh().both(1, "n-1", "a.").both(2, "n-2", "b.").both(3, "n-1", "c.", over=["a."])
    mesh.both(4, "n-2", "d.").reads(version("b.", 1, "n-2"), version("c.", 2, "n-1", "d."))

    found = mesh.survives()

    assert (found.word, found.why) == ("passed", "4 changes are there or were replaced")


def test_what_nobody_replaced_and_nobody_lists_is_lost():
    mesh = Mesh().both(1, "n-1", "a.").both(2, "n-2", "b.").reads(version("b."))

    assert mesh.violation() == "1.010 s n-1: acknowledged and lost: put a. of t0/k1/x"


def test_what_was_not_acknowledged_may_be_lost():
    mesh = Mesh().writes(1, "n-1", "a.").writes(2, "n-1", "b.").kept(3, "n-1", "b.", "the disk failed")
    assert mesh.reads(version("c.")).both(4, "n-2", "c.").survives().word == "passed"


def test_a_replacement_that_nobody_has_ever_seen_excuses_nothing():
    mesh = Mesh().both(1, "n-1", "a.").writes(2, "n-2", "b.", over=["a."])
    assert "lost: put a." in mesh.violation()

    mesh.both(3, "gateway", "c.", over=["b."]).reads(version("c."))
    assert mesh.survives().word == "passed", "it was seen: it had come that far"


def test_what_was_replaced_or_removed_stays_away():
    mesh = (
        Mesh().both(1, "n-1", "a.").both(2, "n-2", "b.", over=["a."]).reads(version("a."), version("b.", 2))
    )
    assert mesh.violation() == "2.010 s n-2: put b. of t0/k1/x replaced a., which is back"

    mesh = Mesh().both(1, "n-1", "a.").both(2, "n-2", "b.", "remove", over=["a."])
    assert mesh.survives().word == "passed"
    assert "remove b. of t0/k1 replaced a., which is back" in mesh.reads(version("a.")).violation()


def test_an_element_stays_until_somebody_who_saw_it_takes_it_out():
    element = CellId(ELEMENT, "marked", "a.", "")
    mesh = Mesh().both(1, "n-1", "a.", "add")
    assert "lost: add a. of marked/a." in mesh.violation()
    assert mesh.holds(element, (version("x"),)).survives().word == "passed"

    mesh.both(2, "n-2", "b.", "discard", over=["a."])
    assert "discard b. of marked/a. replaced a., which is back" in mesh.violation()


@pytest.mark.parametrize(("value", "word"), [(4, "failed"), (5, "passed"), (8, "passed"), (9, "failed")])
def test_a_counter_is_what_was_acknowledged_give_or_take_what_nobody_knows(value, word):
    mesh = Mesh().both(1, "n-1", "a.", "count", amount=7).writes(2, "n-2", "b.", "count", amount=-2)
    mesh.writes(3, "n-2", "c.", "count", amount=1).writes(4, "n-2", "d.", "count", amount=50)
    mesh.kept(5, "n-2", "d.", "no")

    mesh.holds(CellId(COUNTER, "visits", "", ""), Tally({("n-1", 7): Entry(1, value, 0)}))

    assert mesh.survives().word == word


def test_no_change_is_acknowledged_before_the_disk_has_it():
    mesh = Mesh().writes(1, "n-1", "a.").kept(2, "n-1", "a.", safe=False).reads(version("a."))

    assert mesh.violation() == "2.000 s n-1: a. was acknowledged before it was on the disk"


def test_a_restored_copy_excuses_what_came_after_it_and_nothing_else():
    mesh = Mesh().both(1, "n-1", "a.").both(5, "n-1", "b.").both(9, "n-1", "c.")
    mesh.events.append(Restored(ns(7), "n-1", ns(3)))

    found = mesh.survives()

    assert found.total == 2 and "a." in found.violations[0] and "c." in found.violations[1]


def test_damage_excuses_if_it_is_named():
    mesh = Mesh().both(1, "n-1", "a.")
    mesh.events.append(Happened(ns(2), "disk-flip", "n-1"))
    assert "silently emptied: put a. of t0/k1/x and no word of it" in mesh.violation()

    mesh.losses["n-1"] = ["cells.log: the commit at 90 and what follows it"]
    assert mesh.survives().why == "0 changes are there or were replaced; 1 excused"


def test_who_is_gone_is_asked_by_its_own_disk():
    mesh = Mesh().both(1, "n-2", "a.")
    mesh.gone["n-2"] = "revoke"
    assert "lost" in mesh.violation()

    assert mesh.reads(version("a."), nodes=["n-2"]).survives().word == "passed"


# ── replicas ──────────────────────────────────────────────────────────────────────────────────────────


def test_members_that_hold_the_same_are_equal_whatever_they_have_forgotten():
    mesh = Mesh().both(1, "n-1", "a.").reads(version("a."))
    mesh.holds(CellId(FIELD, "t0", "sk2", "x"), (version(None),), "n-2")

    found = mesh.judged(Replicas())

    assert (found.word, found.why) == ("passed", "3 members, 4 cells")


def test_who_differs_is_told_with_the_first_cell():
    mesh = Mesh().both(1, "n-1", "a.").reads(version("a."), nodes=["gateway", "n-1"])
    mesh.reads(version("b.", 2, "n-2"), nodes=["n-2"])

    found = mesh.judged(Replicas())

    (line,) = found.violations
    assert line.startswith("100.000 s n-2: differs from 2 others: ")
    assert line.endswith("t0/sk1/x is b. of n-2 here and a. of n-1 there; 1 cells differ")


@pytest.mark.parametrize("why", ["gone", "unread"])
def test_who_is_gone_or_was_damaged_since_it_read_is_not_asked(why):
    mesh = Mesh().both(1, "n-1", "a.").reads(version("a."), nodes=["gateway", "n-1"])
    if why == "gone":
        mesh.gone["n-2"] = "its battery is empty"
    else:
        mesh.unread = ("n-2",)

    assert mesh.judged(Replicas()).word == "passed"


def test_the_last_writer_wins_everywhere():
    mesh = Mesh().both(1, "n-1", "a.").reads(version("b.", 2), version("a.", 1))

    found = mesh.judged(Replicas())

    assert found.total == 3 and "another than the last writer wins" in found.violations[0]
