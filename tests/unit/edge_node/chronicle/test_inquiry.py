"""Inquiries: who is asked, how long it is waited for, and who is missing."""

from __future__ import annotations

import pytest

from edge_node.chronicle.entry import Entry, What
from edge_node.chronicle.inquiry import (
    AGAIN_NS,
    ANSWERS_EACH,
    ASKED_MAX,
    OPEN_MAX,
    WAIT_NS,
    Ask,
    Done,
    Inquiries,
    Missing,
)
from edge_node.wire.messages import Story

WALL = 1_760_000_000_000
REQUEST = b"request1"
ACCEPTED = Entry(0, WALL, "pi-1", "task", "t1", What.ACCEPTED.value, "t1")


def lapsed(node="pi-1", place="pi-2"):
    return Entry(3, WALL, node, "task", "t1", What.LAPSED.value, "t1", place, 1)


def took(node):
    return Entry(5, WALL, node, "task", "t1", What.TOOK.value, "t1", "pi-1", 1)


AWAY = {"pi-9": Missing("pi-9", "is away", 7)}


@pytest.fixture
def inquiries():
    made = Inquiries("gateway", AWAY.get)
    yield made
    made.check()


def begin(inquiries, *entries, everybody=(), about="t1"):
    return inquiries.begin(0, WALL, REQUEST, about, entries, everybody)


def story(*entries, about="t1", request=REQUEST, at_ms=WALL, **more):
    return Story(request, at_ms, entries=list(entries), about=about, **more)


def test_those_who_had_part_in_it_are_asked(inquiries):
    assert begin(inquiries, ACCEPTED, lapsed(), everybody=["pi-5"]) == [
        Ask("pi-1", REQUEST, "t1"), Ask("pi-2", REQUEST, "t1"),
    ]  # fmt: skip


def test_when_nobody_is_named_everybody_is_asked_and_the_answers_name_more(inquiries):
    assert [e.peer for e in begin(inquiries, everybody=["pi-1", "pi-5"])] == ["pi-1", "pi-5"]

    effects = inquiries.heard(1, WALL, "pi-1", story(ACCEPTED, lapsed()))
    assert effects == [Ask("pi-2", REQUEST, "t1")]
    assert inquiries.heard(2, WALL, "pi-5", story(about="")) == []

    (done,) = inquiries.heard(3, WALL, "pi-2", story(took("pi-2")))
    assert [told.node for told in done.told] == ["pi-1", "pi-5", "pi-2"] and done.missing == ()
    assert inquiries.deadline_ns() is None


def test_a_beginning_becomes_the_whole_id_when_somebody_knows_it(inquiries):
    begin(inquiries, everybody=["pi-1"], about="t")

    assert inquiries.heard(1, WALL, "pi-1", story(ACCEPTED, lapsed())) == [Ask("pi-2", REQUEST, "t1")]


def test_who_is_away_is_missing_at_once(inquiries):
    begun = begin(inquiries, ACCEPTED, lapsed(place="pi-9"))
    assert begun == [Ask("pi-1", REQUEST, "t1")]

    (done,) = inquiries.heard(1, WALL, "pi-1", story(ACCEPTED))
    assert done.missing == (AWAY["pi-9"],)


def test_with_nobody_to_ask_it_is_done_at_once(inquiries):
    assert begin(inquiries, lapsed(node="gateway", place="pi-9")) == [Done(REQUEST, (), (AWAY["pi-9"],), ())]


def test_questions_are_repeated_and_the_wait_has_an_end(inquiries):
    begin(inquiries, ACCEPTED)
    assert inquiries.deadline_ns() == AGAIN_NS
    assert inquiries.tick(AGAIN_NS, WALL) == [Ask("pi-1", REQUEST, "t1")]

    (done,) = inquiries.tick(WAIT_NS, WALL)

    assert done.missing == (Missing("pi-1", "did not answer within 2 s"),)
    assert inquiries.heard(WAIT_NS, WALL, "pi-1", story(ACCEPTED)) == [], "too late"


def test_who_was_asked_on_the_off_chance_is_missed_by_nobody(inquiries):
    begin(inquiries, everybody=["pi-1", "pi-5"])
    inquiries.heard(1, WALL, "pi-1", story(ACCEPTED))

    (done,) = inquiries.tick(WAIT_NS, WALL)

    assert [told.node for told in done.told] == ["pi-1"] and done.missing == ()


def test_a_member_speaks_for_itself_only(inquiries):
    begin(inquiries, ACCEPTED)

    (done,) = inquiries.heard(1, WALL, "pi-1", story(ACCEPTED, took("pi-2")))

    assert done.told[0].entries == (ACCEPTED,)


def test_who_was_not_asked_and_what_was_not_asked_for_is_not_heard(inquiries):
    begin(inquiries, ACCEPTED)

    assert inquiries.heard(1, WALL, "pi-7", story(ACCEPTED)) == []
    assert inquiries.heard(1, WALL, "pi-1", story(ACCEPTED, request=b"another")) == []


def test_a_clock_is_compared_with_the_middle_of_the_way(inquiries):
    begin(inquiries, ACCEPTED)

    (done,) = inquiries.heard(1, WALL + 400, "pi-1", story(ACCEPTED, at_ms=WALL + 60_200))

    assert done.told[0].skew_ms == 60_000


def test_a_story_of_many_places_asks_a_bounded_number(inquiries):
    entries = [ACCEPTED, *(lapsed(place=f"n-{number}") for number in range(100))]

    asked = [effect.peer for effect in begin(inquiries, *entries)]
    (done,) = inquiries.tick(WAIT_NS, WALL)

    assert len(asked) == ASKED_MAX and len(done.missing) == 101


def test_inquiries_are_bounded(inquiries):
    for number in range(OPEN_MAX):
        assert not inquiries.full
        inquiries.begin(0, WALL, bytes([number]), "t1", [ACCEPTED], [])

    assert inquiries.full


def test_a_peer_that_asks_all_the_time_is_answered_now_and_then(inquiries):
    asked = [inquiries.may_answer(0, WALL, "pi-bad") for _ in range(1000)]

    assert sum(asked) == ANSWERS_EACH.burst
    assert inquiries.may_answer(0, WALL, "pi-good")
    assert inquiries.may_answer(1_000_000_000, WALL, "pi-bad")
