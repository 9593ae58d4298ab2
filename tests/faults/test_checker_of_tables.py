"""The judge of replicated tables finds what it is for, and holds nothing against what is allowed."""

from __future__ import annotations

import json

import pytest

from tests.faults.tables import OWN, SHARED, TAGS, Cut, Note, Picture, judge

INFINITY = float("inf")
CELL = (SHARED, "s1", "a")


def put(at, value, asked_s, told_s=None, cell=CELL):
    """Acknowledged, if it was told."""
    how = "unknown" if told_s is None else "ok"
    return Note("put", at, cell, value, asked_s, INFINITY if told_s is None else told_s, how)


def shown(value, *rivals, cell=CELL):
    """What a member answers of one cell."""
    table, key, name = cell
    picture = Picture()
    if value is not None:
        picture.documents = {table: {key: {"id": key, name: value}}}
    if rivals:
        values = [value, *rivals]
        picture.conflicts[cell] = [(None if v is None else json.dumps(v), "n1", 7) for v in values]
    return picture


def found(notes, picture, **options):
    return judge(notes, {"n1": picture, "n2": picture}, **options).violations


def test_a_write_that_is_there_or_a_rival_or_was_replaced_is_kept():
    first, second, aside = put("n1", "a", 0, 1), put("n2", "b", 2, 3), put("n3", "c", 2, 3)

    assert found([first, second, aside], shown("b", "c")) == []
    assert found([first, second], shown("b")) == []


def test_what_was_replaced_by_one_that_was_replaced_is_kept():
    """n1's first was seen by n2's, and that by n1's last; each step overlapped the one before."""
    notes = [put("n1", "a", 0, 2), put("n2", "b", 1, 4), put("n1", "c", 3, 6)]
    assert found(notes, shown("c")) == []


def test_a_write_replaced_by_an_earlier_one_is_lost():
    """Whoever wrote "a" had its answer before "b" was asked for: it cannot have seen it."""
    notes = [put("n1", "a", 0, 1), put("n2", "b", 2, 3)]

    (line,) = found(notes, shown("a"))

    assert line.startswith("P3: 'b' at shared/s1/a was acknowledged at n2 and is neither there")


def test_an_answer_that_was_lost_promises_nothing_but_may_have_replaced_others():
    assert found([put("n1", "a", 0, 1), put("n2", "b", 2)], shown("a")) == []
    assert found([put("n1", "a", 0, 1), put("n2", "b", 2)], shown("b")) == []
    assert found([put("n1", "a", 5, 6), put("n2", "b", 2)], shown("b")) == []


def test_nobody_can_have_replaced_what_lay_on_the_other_side_of_a_cut():
    notes = [put("n1", "a", 11, 12), put("n2", "b", 13, 14)]
    cut = Cut(frozenset({"gateway", "n1"}), 10, 20)

    assert len(found(notes, shown("b"), cuts=[cut])) == 1
    assert found(notes, shown("b", "a"), cuts=[cut]) == []
    assert found(notes, shown("b")) == [], "without the cut it may have been seen"
    together = Cut(frozenset({"n1", "n2"}), 10, 20)
    assert found(notes, shown("b"), cuts=[together]) == []
    over = Cut(frozenset({"gateway", "n1"}), 10, 13.5)
    assert found(notes, shown("b"), cuts=[over]) == [], "its answer came after the heal"


def test_a_removal_is_a_write_too():
    cell = (OWN, "n1-0", "v")
    notes = [put("n1", "a", 0, 1, cell), put("n1", None, 2, 3, cell)]

    assert found(notes, shown(None)) == []
    (line,) = found(notes, shown("a", cell=cell))
    assert line.startswith("P3: None at own/n1-0/v")
    (line,) = found(notes[:1], shown(None))
    assert line.startswith("P3: 'a' at own/n1-0/v")


def test_a_conflict_where_one_alone_wrote_is_wrong_unless_its_disk_forgot():
    cell = (OWN, "n1-0", "v")
    notes = [put("n1", "a", 0, 1, cell), put("n1", "b", 2, 3, cell)]

    assert len(found(notes, shown("b", "a", cell=cell))) == 1
    assert found(notes, shown("b", "a", cell=cell), rivals_of_one=True) == []


def test_a_value_that_nobody_wrote_is_invented():
    notes = [put("n1", "a", 0, 1), Note("put", "n2", CELL, "no", 0, 1, "refused")]

    assert found(notes, shown("a")) == []
    assert "nobody wrote it" in " ".join(found(notes, shown("a", "no")))
    assert "nobody wrote it" in " ".join(found(notes, shown("z")))


@pytest.mark.parametrize(("value", "wrong"), [(4, True), (5, False), (7, False), (8, True)])
def test_a_counter_is_what_was_acknowledged_give_or_take_lost_answers(value, wrong):
    notes = [
        Note("count", "n1", ("doors", "", ""), 5, 0, 1, "ok"),
        Note("count", "n2", ("doors", "", ""), 2, 0),
        Note("count", "n2", ("doors", "", ""), 9, 0, 1, "refused"),
    ]
    assert bool(found(notes, Picture(counters={"doors": value}))) is wrong


def tagged(what, how="ok"):
    return Note(what, "n1", (TAGS, "e", ""), "e", 0, 1, how)


def test_an_element_is_there_unless_it_was_removed():
    there, gone = Picture(sets={TAGS: ["e"]}), Picture(sets={TAGS: []})

    assert found([tagged("add")], there) == []
    assert len(found([tagged("add")], gone)) == 1
    assert found([tagged("add"), tagged("discard")], gone) == []
    assert len(found([tagged("add"), tagged("discard")], there)) == 1
    for picture in (there, gone):
        assert found([tagged("add"), tagged("discard", "unknown")], picture) == []
        assert found([tagged("add", "unknown")], picture) == []
    assert "nobody added" in found([], there)[0]


def test_members_that_answer_differently_or_not_at_all_are_told():
    one, other = shown("a"), shown("b")
    notes = [put("n1", "a", 0, 1), put("n2", "b", 0, 1)]

    lines = judge(notes, {"n1": one, "n2": other, "n3": None}).violations

    assert lines[0] == "P7: n3 does not answer"
    assert lines[1].startswith("P4: n1 and n2 differ: 1 documents, such as ('shared', 's1')")
    same = Picture(documents=one.documents, conflicts={CELL: [('"a"', "n1", 7), ('"b"', "n2", 7)]})
    assert "conflicts" in judge(notes, {"n1": one, "n2": same}).violations[0]
