"""Account: what one member says about an id, from its ledger and its chronicle."""

from __future__ import annotations

import hashlib

import pytest

from device_sim.virtual.archive import MachineArchive
from edge_node.chronicle.account import BYTES_MAX, of_ledger, places_of, witnessed
from edge_node.chronicle.chronicle import Chronicle
from edge_node.chronicle.entry import Entry, Subject, What
from edge_node.tasks.events import Explain
from edge_node.tasks.journal import MemoryJournal
from edge_node.tasks.task import Accepted, Attempt, Closed, Noted, Outcome, Task
from edge_node.wire.codec import encode_message
from edge_node.wire.messages import STORY_BYTES_MAX, Story

WALL = 1_760_000_000_000
SECRET = b"what it was given"


@pytest.fixture
def books():
    return MemoryJournal()


@pytest.fixture
def kept(books):
    archive = MachineArchive("pi-1")
    archive.begin(books, lambda: WALL + 60_000)
    return archive


@pytest.fixture
def chronicle():
    return Chronicle("pi-1", b"8 bytes!")


def ask(kept, books, about):
    return witnessed("pi-1", about, kept, books, WALL + 60_000)


def settled(books, name, *, status="done", attempts=()):
    digest = hashlib.sha256(SECRET).digest()
    task = Task(name, "toys.nap", b"d" * 32, SECRET, digest, "pi-1", accepted_at_ms=WALL)
    books.write(Accepted(task))
    books.write(
        Closed(
            name, Outcome(status, SECRET, SECRET, SECRET, WALL + 9000, tuple(attempts), "pi-3", "ran on pi-3")
        )
    )


ATTEMPTS = (
    Attempt(1, "pi-2", 7, WALL + 5, WALL + 4000, "lapsed"),
    Attempt(2, "pi-3", 8, WALL, WALL + 8000, "done"),
)


def test_the_ledgers_rows_tell_of_accept_attempts_remarks_and_end(books):
    settled(books, "t1", attempts=ATTEMPTS)
    books.write(Noted("t1", WALL + 9500, "late result"))

    told = of_ledger("pi-1", books.get("t1"))

    assert [(e.what, e.place, e.attempt) for e in told] == [
        (What.ACCEPTED, "", 0), (What.ATTEMPTED, "pi-2", 1), (What.ATTEMPTED, "pi-3", 2),
        (What.REMARKED, "", 0), (What.SETTLED, "pi-3", 2),
    ]  # fmt: skip
    assert {e.cause for e in told} == {"t1"} and {e.number for e in told} == {0}
    assert places_of(told) == ["pi-1", "pi-2", "pi-3"]


def test_no_story_holds_what_a_function_was_given_printed_or_returned(books, kept):
    settled(books, "t1", status="failed", attempts=ATTEMPTS)

    told = ask(kept, books, "t1").entries

    assert SECRET not in encode_message(Story(b"r", WALL, entries=list(told)))


def test_a_lapse_brings_the_loss_that_it_followed_from(books, kept, chronicle):
    settled(books, "t1", attempts=ATTEMPTS)
    chronicle.lost(0, WALL + 3900, "pi-2", "silent")
    chronicle.explained(0, WALL + 4000, Explain("t1", What.LAPSED, "pi-2", 1))
    kept.append(chronicle.take())

    told = ask(kept, books, "t1").entries

    assert [e.what for e in told if e.number] == [What.LAPSED, What.LOST]


def test_what_befell_others_or_at_another_time_is_no_part_of_it(books, kept, chronicle):
    settled(books, "t1", attempts=ATTEMPTS)
    chronicle.lost(0, WALL - 5, "pi-2", "before it was accepted")
    chronicle.lost(0, WALL + 50, "pi-9", "had no part in it")
    chronicle.lost(0, WALL + 3_600_000, "pi-2", "an hour later")
    chronicle.link_down(0, WALL + 100, "our own")
    kept.append(chronicle.take())

    assert [e.what for e in ask(kept, books, "t1").entries if e.number] == [What.LINK_DOWN]


def test_gaps_of_a_busy_member_are_summed_up_and_those_after_the_end_are_not_told(books, kept):
    settled(books, "t1", attempts=ATTEMPTS)
    gaps = [(WALL + 100 * n, 3) for n in range(1, 80)] + [(WALL + 9100 + 100 * n, 5) for n in range(150)]
    kept.append(
        Entry(
            0, at_ms, "pi-1", Subject.NODE.value, "pi-1", What.LEFT_OUT.value, f"n-{at_ms}", "", 0,
            {"kind": "work of others", "count": count, "since_ms": at_ms - 50},
        )
        for at_ms, count in gaps
    )  # fmt: skip

    (told,) = [e for e in ask(kept, books, "t1").entries if e.what == What.LEFT_OUT]

    assert (told.details["count"], told.details["since_ms"]) == (79 * 3, WALL + 50)
    assert told.at_ms == WALL + 7900


def test_a_cause_leads_to_all_that_followed_from_it(books, kept, chronicle):
    chronicle.lost(0, WALL, "pi-2", "silent")
    for number in (1, 2):
        chronicle.explained(0, WALL + 5, Explain(f"t{number}", What.LAPSED, "pi-2", 1))
    chronicle.explained(0, WALL + 5, Explain("t3", What.LAPSED, "pi-3", 1))
    noted = chronicle.take()
    kept.append(noted)

    told = ask(kept, books, noted[0].cause)

    assert [(e.what, e.id) for e in told.entries] == [
        (What.LOST, "pi-2"), (What.LAPSED, "t1"), (What.LAPSED, "t2"),
    ]  # fmt: skip


def test_the_beginning_of_one_id_is_enough_and_of_two_is_not(books, kept):
    settled(books, "06h0cz1")
    settled(books, "06h0cz2")

    assert ask(kept, books, "06h0cz1").name == "06h0cz1"
    assert ask(kept, books, "06h0cz").name == "" and ask(kept, books, "06h0cz").near == ("06h0cz1", "06h0cz2")
    assert ask(kept, books, "06h0cz9").near == ("06h0cz1", "06h0cz2"), "what comes near"
    assert ask(kept, books, "zzz") == ask(kept, books, ""), "nothing does"


def test_a_story_fits_its_message_and_says_that_it_was_cut(books, kept):
    settled(books, "t1", attempts=ATTEMPTS)
    long = [
        Entry(0, WALL + n, "pi-1", "task", "t1", What.LAPSED.value, "t1", "pi-2", n, {"reason": "x" * 900})
        for n in range(300)
    ]
    kept.append(long)

    told = ask(kept, books, "t1")

    assert not told.complete
    assert (
        BYTES_MAX - 2000
        < len(encode_message(Story(b"r" * 8, WALL, entries=list(told.entries))))
        < STORY_BYTES_MAX
    )
    assert [e.what for e in told.entries][:2] == [What.ACCEPTED, What.ATTEMPTED], "the ledger's always"
    assert max(e.attempt for e in told.entries) == 299, "and the newest"


def test_what_a_chronicle_has_forgotten_is_told_by_since_when(books, kept):
    kept.append(
        [Entry(0, WALL + n, "pi-1", "node", "pi-2", What.LOST.value, f"n-{n}") for n in range(1000)]
    )  # fmt: skip

    assert ask(kept, books, "pi-2").since_ms == WALL + 600


def test_a_refusal_brings_the_rest_that_it_followed_from_however_old(books, kept, chronicle):
    chronicle.rested(0, WALL - 3_600_000, "pi-1", "drain", "alice", "new disk", WALL - 3_600_000)
    chronicle.explained(0, WALL + 10, Explain("t1", What.REFUSED, "pi-2", 1, {"reason": "draining"}))
    kept.append(chronicle.take())

    found = ask(kept, books, "t1").entries

    assert [each.what for each in found] == [What.REFUSED, What.RESTED]
    assert found[1].details["by"] == "alice"


def test_a_task_tells_of_its_callers_trace(books, kept):
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    books.write(Accepted(Task("t1", "f.g", b"d" * 32, b"", b"s" * 32, "pi-1", trace=f"{parent} rojo=1")))

    (accepted,) = ask(kept, books, "t1").entries

    assert accepted.details["traceparent"] == parent
