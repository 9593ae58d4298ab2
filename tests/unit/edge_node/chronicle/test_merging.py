"""Merging: cause before clock, once what was told twice."""

from __future__ import annotations

import random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from edge_node.chronicle.entry import Entry, What
from edge_node.chronicle.merging import merged

WALL = 1_760_000_000_000


def entry(what, node, at, *, number=0, attempt=0, place="", **details):
    return Entry(number, WALL + at, node, "task", "t1", what.value, "t1", place, attempt, details)


def node_entry(what, node, at, *, number=1, name="pi-2"):
    return Entry(number, WALL + at, node, "node", name, what.value, "n-1")


ACCEPTED = entry(What.ACCEPTED, "pi-1", 0)
TOOK = entry(What.TOOK, "pi-2", 10, number=4, attempt=1, place="pi-1")
LAPSED = entry(What.LAPSED, "pi-1", 4000, number=9, attempt=1, place="pi-2")
TOOK_AGAIN = entry(What.TOOK, "pi-3", 4005, number=2, attempt=2, place="pi-1")
RAN = entry(What.RAN, "pi-3", 5000, number=3, attempt=2, place="pi-1")
DONE = entry(What.ATTEMPTED, "pi-1", 5001, attempt=2, place="pi-3", **{"as": "done"})
SETTLED = entry(What.SETTLED, "pi-1", 5002, attempt=2, place="pi-3")
STORY = [ACCEPTED, TOOK, LAPSED, TOOK_AGAIN, RAN, DONE, SETTLED]


@given(st.permutations(STORY), st.integers(-86_400_000, 86_400_000))
def test_whatever_the_clock_of_a_holder_says_cause_comes_before_it(shuffled, skew_ms):
    told = [
        msgspec.structs.replace(e, at_ms=e.at_ms + (skew_ms if e.node == "pi-2" else 0)) for e in shuffled
    ]

    assert [(e.what, e.attempt) for e in merged("t1", told)] == [(e.what, e.attempt) for e in STORY]


def test_the_end_of_an_attempt_that_ledger_and_chronicle_tell_is_told_once():
    row = entry(What.ATTEMPTED, "pi-1", 4000, attempt=1, place="pi-2", **{"as": "lapsed"})

    assert merged("t1", [*STORY, row]) == STORY


def test_what_two_members_were_asked_for_twice_is_told_once():
    assert merged("t1", STORY + STORY) == STORY


def test_a_late_result_stands_where_its_owners_clock_puts_it():
    early = entry(What.NOT_USED, "pi-1", 4500, number=12, attempt=1, place="pi-2", status="done")
    late = entry(What.NOT_USED, "pi-1", 9000, number=15, attempt=1, place="pi-2", status="done")
    remark = entry(What.REMARKED, "pi-1", 9000, text="late result (done) of attempt 1 from pi-2 not used")

    told = merged("t1", [late, early, remark, *STORY])

    assert told.index(SETTLED) < told.index(late) and remark not in told
    assert told.index(LAPSED) < told.index(early) < told.index(SETTLED)


def test_what_befell_a_node_stands_among_its_noters_own_entries():
    lost = node_entry(What.LOST, "pi-1", 3999, number=8)
    started = node_entry(What.STARTED, "pi-2", 4300, number=7)
    elsewhere = node_entry(What.LOST, "gateway", 4900, number=3)

    told = merged("t1", [elsewhere, started, lost, *STORY])

    assert [e for e in told if e.subject == "task"] == STORY
    assert told.index(lost) + 1 == told.index(LAPSED)
    assert told.index(started) > told.index(TOOK)
    assert told.index(TOOK_AGAIN) < told.index(elsewhere) <= told.index(RAN)


def test_at_one_moment_the_number_decides_what_followed_from_what():
    restarted = node_entry(What.RESTARTED, "pi-1", 4000, number=8)

    told = merged("t1", [*STORY, restarted])

    assert told.index(restarted) + 1 == told.index(LAPSED)


def test_what_is_no_task_goes_by_the_clock_without_its_skew():
    one = node_entry(What.LOST, "pi-1", 1000)
    other = node_entry(What.LOST, "pi-9", 61_500)

    assert merged("pi-2", [other, one], {"pi-9": 61_000}) == [other, one]
    assert merged("pi-2", [other, one], {"pi-9": 1_000}) == [one, other], "as little may be the way"


@given(
    st.lists(st.sampled_from([*STORY, node_entry(What.LOST, "pi-1", 3000)]), max_size=30), st.integers(0, 99)
)
def test_the_order_does_not_depend_on_who_answered_first(entries, seed):
    shuffled = list(entries)
    random.Random(seed).shuffle(shuffled)

    assert merged("t1", entries) == merged("t1", shuffled)
