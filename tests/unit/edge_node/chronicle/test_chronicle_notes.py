"""The chronicle: what is noted under which cause, and that no flood takes more than its share."""

from __future__ import annotations

import ast
import inspect

import pytest

from edge_node.chronicle.chronicle import DOOR, HELD_EACH, OURS, TABLES_EACH, Chronicle
from edge_node.chronicle.entry import Subject, What
from edge_node.store import replica
from edge_node.tasks.events import Explain, Reply
from edge_node.wire.ids import is_task_id, task_id
from edge_node.wire.messages import STORY_DETAILS_MAX

SECOND = 1_000_000_000
WALL = 1_760_000_000_000


@pytest.fixture
def chronicle():
    made = Chronicle("pi-1", b"8 bytes!")
    yield made
    made.check()


def lapse(number, place="pi-2"):
    return Explain(f"t{number}", What.LAPSED, place, 1, {"reason": "lease lapsed"})


def kinds(entries):
    return [entry.what for entry in entries]


def test_what_happens_to_a_task_is_noted_under_the_tasks_own_id(chronicle):
    chronicle.explained(0, WALL, lapse(1))

    (entry,) = chronicle.take()
    assert (entry.subject, entry.id, entry.cause) == (Subject.TASK, "t1", "t1")
    assert (entry.node, entry.place, entry.attempt, entry.at_ms) == ("pi-1", "pi-2", 1, WALL)
    assert not chronicle.fresh


def test_a_lapse_at_a_lost_node_follows_from_the_loss(chronicle):
    chronicle.lost(0, WALL, "pi-2", "silent")
    chronicle.explained(0, WALL + 5, lapse(1))
    chronicle.back(SECOND, WALL + 1000, "pi-2")
    chronicle.explained(SECOND, WALL + 2000, lapse(2))

    lost, lapsed, back, later = chronicle.take()
    assert lost.cause == lapsed.cause == back.cause and lost.cause.startswith("n-")
    assert later.cause == "t2", "it is there again"
    assert back.details == {"away_ms": 1000}


def test_a_log_line_gets_the_id_that_its_entry_bears_and_none_without_one(chronicle):
    """The key `why` of a line leads to a story, or is not there."""
    given = [
        chronicle.link_down(0, WALL, "cut"),
        chronicle.link_up(0, WALL, "127.0.0.1:1"),
        chronicle.lost(0, WALL, "pi-2", "silent"),
        chronicle.back(0, WALL, "pi-2"),
        chronicle.not_written(0, WALL, "disk full"),
    ]
    assert given == [entry.cause for entry in chronicle.take()]
    assert given[0] == given[1] and given[2] == given[3]

    assert chronicle.back(0, WALL, "pi-2") == "", "it was not lost"
    while chronicle.lost(0, WALL, "pi-3", "silent"):
        chronicle.take()
    assert not chronicle.fresh, "what is over the allowance is not noted, and has no id"
    assert chronicle.link_down(0, WALL, "cut") == "" == chronicle.not_written(0, WALL, "disk full")


def test_a_restart_takes_what_its_holder_had_until_the_desk_knows(chronicle):
    chronicle.restarted(0, WALL, "pi-2")
    chronicle.explained(0, WALL, lapse(1))
    chronicle.there("pi-2")
    chronicle.explained(0, WALL, lapse(2))

    restarted, lapsed, later = chronicle.take()
    assert lapsed.cause == restarted.cause != later.cause


def test_who_comes_up_for_the_first_time_is_no_news(chronicle):
    chronicle.back(0, WALL, "pi-2")

    assert not chronicle.fresh


def test_a_broken_link_is_one_story_from_its_end_to_its_return(chronicle):
    chronicle.link_down(0, WALL, "reset")
    chronicle.link_up(SECOND, WALL + 1000, "10.0.0.1:8883")
    chronicle.link_down(2 * SECOND, WALL + 2000, "reset")

    first, again, second = chronicle.take()
    assert first.cause == again.cause != second.cause


def test_no_two_stories_of_a_life_or_of_two_lives_bear_one_id():
    one, other = Chronicle("pi-1", b"one life"), Chronicle("pi-1", b"another.")
    for life in (one, other):
        for number in range(100):
            life.lost(number * SECOND, WALL, f"pi-{number}", "silent")

    causes = [entry.cause for life in (one, other) for entry in life.take()]
    assert len(set(causes)) == len(causes) == 200
    assert not any(map(is_task_id, causes))


def refusal(number, reason="queue full"):
    return Reply(number, False, reason, task_id(WALL, number.to_bytes(8, "big")), "because")


def test_a_refusal_leads_to_its_entry(chronicle):
    cause = chronicle.turned_away(0, WALL, refusal(1), None)

    (entry,) = chronicle.take()
    assert (entry.subject, entry.id, entry.cause) == (Subject.REFUSAL, cause, cause)
    assert entry.details["reason"] == "queue full" and is_task_id(entry.details["task"])


def test_a_flood_of_refusals_shares_an_id_and_is_counted(chronicle):
    causes = [chronicle.turned_away(0, WALL, refusal(n), None) for n in range(10_000)]
    noted = chronicle.take()

    assert len(noted) == 1 + DOOR.burst and set(causes) == {entry.cause for entry in noted}
    assert causes[-1] == causes[DOOR.burst], "an id that leads somewhere"

    chronicle.turned_away(60 * SECOND, WALL + 60_000, refusal(1), None)
    left_out, entry = chronicle.take()
    assert kinds([left_out, entry]) == [What.LEFT_OUT, What.TURNED_AWAY]
    assert left_out.details == {
        "kind": "refusals at this door", "count": 9_999 - DOOR.burst, "since_ms": WALL,
    }  # fmt: skip


def test_a_refusal_of_another_kind_is_noted_within_a_flood(chronicle):
    for number in range(10_000):
        chronicle.turned_away(0, WALL, refusal(number), None)
    chronicle.take()

    other = chronicle.turned_away(0, WALL, refusal(1, "labels do not match"), None)

    assert other in {entry.cause for entry in chronicle.take()}


def test_a_peer_that_floods_us_hides_itself_and_nobody_else(chronicle):
    for number in range(10_000):
        chronicle.explained(0, WALL, Explain(f"t{number}", What.REFUSED, "pi-bad", 1))
    noted = len(chronicle.take())
    chronicle.explained(0, WALL, Explain("t", What.TOOK, "pi-good", 1))
    chronicle.explained(0, WALL, lapse(1))

    assert noted == HELD_EACH.burst
    assert [(e.what, e.place) for e in chronicle.take() if e.what != What.LEFT_OUT] == [
        (What.TOOK, "pi-good"),
        (What.LAPSED, "pi-2"),
    ]


def test_a_burst_of_lapses_is_noted_and_a_storm_is_bounded(chronicle):
    for number in range(5_000):
        chronicle.explained(0, WALL, lapse(number))

    assert len(chronicle.take()) == OURS.burst


def test_a_turn_notes_no_more_than_is_taken_away(chronicle):
    for seconds in range(400):
        for number in range(100):
            chronicle.explained(seconds * SECOND, WALL, lapse(number))

    chronicle.check()


def test_details_are_small_and_on_one_line(chronicle):
    details = {"empty": ""} | {f"field {n}": n for n in range(50)}
    chronicle.explained(0, WALL, Explain("t", What.LAPSED, "pi-2", 1, {"reason": "a\nb " * 2000, **details}))

    (entry,) = chronicle.take()
    assert len(entry.details) == STORY_DETAILS_MAX
    assert "\n" not in entry.details["reason"] and len(entry.details["reason"]) <= 1024


def test_a_roster_tells_who_came_and_who_went(chronicle):
    said = {"status": "revoked", "by": "ann", "reason": "stolen"}
    chronicle.membership(0, WALL, 7, {"pi-3"}, {"pi-2": said})
    chronicle.explained(0, WALL, lapse(1))

    came, went, lapsed = chronicle.take()
    assert [(e.what, e.id) for e in (came, went)] == [(What.ENROLLED, "pi-3"), (What.SHUT_OUT, "pi-2")]
    assert (came.details, went.details) == ({"roster": 7}, {"roster": 7, **said})
    assert lapsed.cause == went.cause, "its lease ended by that"


def test_code_that_is_fetched_does_not_hide_who_is_lost(chronicle):
    for number in range(1000):
        chronicle.code(0, WALL, f"toys.f{number}", bytes(32))
    chronicle.lost(0, WALL, "pi-2", "silent")

    assert chronicle.take()[-1].what == What.LOST


def test_what_befell_a_members_writes_is_told_of_that_member(chronicle):
    chronicle.tables(0, WALL, What.BATCH_WAITS, "pi-2", "its clock is ahead")
    chronicle.tables(0, WALL, What.BATCH_DROPPED, "", "nobody of the roster signed it")

    waits, dropped = chronicle.take()
    assert (waits.subject, waits.id, waits.place) == (Subject.TABLES, "pi-2", "pi-2")
    assert (dropped.id, dropped.place) == ("pi-1", "")
    assert waits.details == {"detail": "its clock is ahead"} and waits.cause != dropped.cause


def test_a_conflict_is_told_of_its_table_and_names_no_value(chronicle):
    chronicle.cell(0, WALL, What.CONFLICT, ("rooms", "sr1", "setpoint_c"), "pi-2")

    (entry,) = chronicle.take()
    assert (entry.subject, entry.id, entry.place) == (Subject.TABLES, "rooms", "pi-2")
    assert entry.details == {"key": "sr1", "field": "setpoint_c"}


def test_a_member_whose_clock_lies_takes_its_own_share_only(chronicle):
    for _ in range(TABLES_EACH.burst * 2):
        chronicle.tables(0, WALL, What.BATCH_WAITS, "pi-2", "its clock is ahead")
    chronicle.tables(0, WALL, What.BATCH_WAITS, "pi-3", "its clock is ahead")

    noted = chronicle.take()
    assert [each.id for each in noted if each.what == What.BATCH_WAITS][-2:] == ["pi-2", "pi-3"]
    assert sum(each.id == "pi-2" for each in noted) == TABLES_EACH.burst
    (left_out,) = [each for each in noted if each.what == What.LEFT_OUT]
    assert left_out.details["count"] == TABLES_EACH.burst


def test_whatever_a_replica_notes_is_a_kind_of_entry():
    """The replica is a core without a chronicle: it names what it notes, and the names are the kinds."""
    tree = ast.parse(inspect.getsource(replica))
    named = {
        call.args[0].value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Noted"
    }

    assert "batch waits" in named
    assert named <= {each.value for each in What}


def refusal_of(number, reason="draining"):
    return Explain(f"t{number}", What.REFUSED, "pi-2", 1, {"reason": reason})


def test_what_a_resting_member_refuses_follows_from_its_rest(chronicle):
    chronicle.rested(0, WALL, "pi-1", "drain", "alice", "new disk", WALL - 5)
    chronicle.explained(0, WALL, refusal_of(1))
    chronicle.explained(0, WALL, refusal_of(2, "queue full"))
    chronicle.rested(0, WALL, "pi-1", "work", "alice", "", WALL)
    chronicle.explained(0, WALL, refusal_of(3))

    rest, refused, full, over, later = chronicle.take()
    assert (rest.subject, rest.id, rest.what) == (Subject.NODE, "pi-1", What.RESTED)
    assert rest.details == {"mode": "drain", "by": "alice", "reason": "new disk", "asked_at_ms": WALL - 5}
    assert refused.cause == rest.cause and rest.cause.startswith("n-")
    assert (full.cause, later.cause) == ("t2", "t3")
    assert over.details["mode"] == "work" and over.cause != rest.cause


def test_a_rest_that_is_said_again_is_no_news(chronicle):
    """The gateway says it whenever a session is made."""
    for _ in range(2):
        chronicle.rested(0, WALL, "pi-1", "work", "alice", "", WALL)
        chronicle.rested(0, WALL, "pi-1", "work", "", "", 0)
    assert not chronicle.fresh
    for _ in range(2):
        chronicle.rested(0, WALL, "pi-1", "pause", "alice", "", WALL)
    assert kinds(chronicle.take()) == [What.RESTED]
    chronicle.rested(0, WALL, "pi-1", "pause", "bob", "", WALL + 1)
    assert kinds(chronicle.take()) == [What.RESTED]


def test_the_rest_of_another_is_noted_of_it_and_excuses_nothing_here(chronicle):
    chronicle.rested(0, WALL, "pi-2", "pause", "alice", "", WALL)
    chronicle.explained(0, WALL, refusal_of(1))

    rest, refused = chronicle.take()
    assert (rest.id, refused.cause) == ("pi-2", "t1")
