"""The narrator: every kind of entry as a sentence, in order, with what is missing."""

from __future__ import annotations

import msgspec
import pytest

from edge_node.chronicle.entry import Entry, Subject, What
from edge_node.chronicle.narrator import duration, narrated, sentence

WALL = 1_760_000_000_000


def entry(
    what, *, node="pi-1", place="pi-2", attempt=1, cause="t1", name="t1", subject="task", at=0, **details
):
    kind = what.value if isinstance(what, What) else what
    return Entry(at, WALL + at, node, subject, name, kind, cause, place, attempt, details)


def when(at_ms):
    return f"+{at_ms - WALL}"


NODE = {"subject": "node", "name": "pi-2", "cause": "n-1", "attempt": 0, "place": ""}
TABLES = {"subject": "tables", "name": "pi-2", "cause": "n-1", "attempt": 0}
ROOMS = TABLES | {"name": "rooms"}
SENTENCES = [
    (entry(What.ACCEPTED, function="toys.nap"), "pi-1 accepted it: toys.nap"),
    (
        entry(What.ACCEPTED, function="toys.nap", where="pi-2", deadline_ms=1500),
        "pi-1 accepted it: toys.nap, for pi-2 alone, due within 1.5 s",
    ),
    (
        entry(What.ATTEMPTED, **{"as": "done", "pid": 7, "started_at_ms": WALL + 5}),
        "attempt 1 on pi-2 ended: done, begun +5, process 7",
    ),
    (
        entry(What.ATTEMPTED, attempt=3, place="", **{"as": "lost in a restart"}),
        "pi-1 restarted and took it up again: attempt 3 is lost",
    ),
    (
        entry(What.SETTLED, status="done", run_us=2_100_000, reason="ran on pi-2"),
        "pi-1 committed the end: it is done after 2.1 s: ran on pi-2",
    ),
    (
        entry(What.SETTLED, place="", status="expired", reason="its deadline of 1 s passed"),
        "pi-1 committed the end: it expired: its deadline of 1 s passed",
    ),
    (entry(What.REMARKED, text="late result"), "pi-1 remarked: late result"),
    (
        entry(What.NOW, state="placed", rule="soonest", figures="pi-2: soonest; pi-2 3 ms"),
        "pi-1: it is placed at pi-2 now, chosen by soonest; pi-2 3 ms",
    ),
    (
        entry(What.PLACED, rule="soonest", figures="pi-2: soonest; pi-2 3 ms, pi-1 9 ms"),
        "pi-1 chose pi-2 for attempt 1: soonest; pi-2 3 ms, pi-1 9 ms",
    ),
    (
        entry(What.PLACED, place="pi-1", rule="nothing waits here", figures="pi-1: nothing waits here; x"),
        "pi-1 chose itself for attempt 1: nothing waits here; x",
    ),
    (
        entry(What.TURNED_DOWN, reason="late", wait_ms=2100, left_ms=400, **{"as": "refused: late"}),
        "pi-1: attempt 1 at pi-2 refused: late (its wait is reckoned at 2.1 s; 400 ms left of the deadline)",
    ),
    (
        entry(What.LAPSED, reason="lease lapsed", silent_ms=4200),
        "pi-1: attempt 1 at pi-2 is given up: lease lapsed; its last word was 4.2 s before",
    ),
    (
        entry(What.LAPSED, reason="lease lapsed", cause="n-9"),
        "pi-1: attempt 1 at pi-2 is given up: lease lapsed (cause n-9)",
    ),
    (entry(What.WORKER_DIED, began=1, deaths=2), "pi-1: attempt 1 took a worker down at pi-2, 2 so far"),
    (
        entry(What.WORKER_DIED, began=0, deaths=0),
        "pi-1: attempt 1 lost its worker before it had begun at pi-2",
    ),
    (
        entry(What.NOT_USED, status="done"),
        "pi-1 recorded a late result (done) of attempt 1 from pi-2 as a duplicate; it is not used",
    ),
    (entry(What.TAKEN_UP), "pi-1 took it up again after a restart"),
    (entry(What.NOT_WRITTEN, reason="disk full", **NODE), "pi-1 could not write its ledger: disk full"),
    (entry(What.TOOK, node="pi-2", place="pi-1"), "pi-2 took attempt 1 from pi-1"),
    (
        entry(What.TOOK, node="pi-2", place="pi-1", wait_ms=250),
        "pi-2 took attempt 1 from pi-1, to wait 250 ms for a worker",
    ),
    (
        entry(
            What.REFUSED, node="pi-2", place="pi-1", reason="late", wait_ms=2100, run_ms=300, left_ms=300
        ),
        ("pi-2 refused attempt 1 of pi-1: late (a new task waits 2.1 s, and runs 300 ms, "
        "with 300 ms left of its deadline)"),
    ),
    (
        entry(What.RAN, node="pi-2", place="pi-1", status="done", run_ms=1500, pid=9, started_at_ms=WALL),
        "pi-2 finished attempt 1 of pi-1 in 1.5 s, begun +0, process 9",
    ),
    (
        entry(What.RAN, node="pi-2", place="pi-1", status="died"),
        "pi-2 lost its worker to attempt 1 of pi-1",
    ),
    (entry(What.RAN, node="pi-2", place="pi-1", status="failed"), "pi-2 ended (failed) attempt 1 of pi-1"),
    (
        entry(What.STOPPED, node="pi-2", place="pi-1", began=1, reason="its owner took it back"),
        "pi-2 dropped attempt 1 of pi-1 while it ran: its owner took it back",
    ),
    (
        entry(What.NOT_STARTED, node="pi-2", place="pi-1", reason="no code"),
        "pi-2 could not start attempt 1: no code",
    ),
    (
        entry(
            What.TURNED_AWAY, subject="refusal", name="r-1", cause="r-1", task="t9", function="toys.nap",
            reason="queue full", detail="10 are open",
        ),
        "pi-1 did not accept task t9 (toys.nap): queue full: 10 are open",
    ),
    (entry(What.STARTED, **NODE, version="0.1.0"), "pi-1 started (0.1.0)"),
    (
        entry(What.STARTED, **NODE, version="0.1.0", open_tasks=3),
        "pi-1 started (0.1.0), 3 accepted tasks taken up again",
    ),
    (entry(What.ENDED, **NODE), "pi-1 shut down in order"),
    (
        entry(What.KILLED, **NODE, missing_s=1.0, machine="on", after_ms=WALL + 3),
        ("pi-1 found that its life before had not ended in order (it was killed) after +3: "
        "up to 1 s of it may be missing"),
    ),
    (
        entry(What.KILLED, **NODE, missing_s=60.0, machine="off"),
        ("pi-1 found that its life before had not ended in order (the machine had gone down): "
        "up to 60 s of it may be missing"),
    ),
    (entry(What.LINK_UP, **NODE, broker="10.0.0.1:8883"), "pi-1 was connected to the broker 10.0.0.1:8883"),
    (
        entry(What.LINK_DOWN, **NODE, reason="reset"),
        "pi-1 lost its connection to the broker: reset (cause n-1)",
    ),
    (entry(What.LOST, **NODE, reason="silent for 12 s"), "pi-1: pi-2 is lost: silent for 12 s (cause n-1)"),
    (entry(What.BACK, **NODE, away_ms=61_000), "pi-1: pi-2 is back after 61 s"),
    (
        entry(What.RESTARTED, **NODE),
        "pi-1: pi-2 is there as a new process; what it held is gone (cause n-1)",
    ),
    (entry(What.ENROLLED, **NODE, roster=4), "pi-1: pi-2 is a member, by roster 4"),
    (entry(What.SHUT_OUT, **NODE, roster=5), "pi-1: pi-2 is no member any more, by roster 5 (cause n-1)"),
    (
        entry(What.SHUT_OUT, **NODE, roster=5, status="revoked", by="ann", reason="stolen"),
        "pi-1: pi-2 is no member any more, by roster 5: revoked by ann: stolen (cause n-1)",
    ),
    (
        entry(What.SHUT_OUT, **NODE, roster=5, status="left", by="pi-2", reason=""),
        "pi-1: pi-2 is no member any more, by roster 5: it left (cause n-1)",
    ),
    (
        entry(What.EPOCH, **NODE | {"place": "gateway"}, epoch=2),
        "pi-1 goes by group epoch 2, shown by gateway",
    ),
    (entry(What.DAMAGED, **NODE, reason="a page is torn"), "pi-1 found damage: a page is torn"),
    (
        entry(What.CODE_CAME, **NODE | {"subject": "function", "name": "toys.nap"}, digest="ab12"),
        "pi-1 fetched the code ab12 of toys.nap",
    ),
    (
        entry(What.CODE_MISSED, **NODE | {"subject": "function", "name": "a.b"}, digest="ab", reason="gone"),
        "pi-1 could not fetch the code ab of a.b: gone (cause n-1)",
    ),
    (
        entry(What.CONFLICT, **ROOMS, key="sr1", field="setpoint_c"),
        ("pi-1: pi-2 and another wrote setpoint_c of r1 in rooms without knowing of each other; "
        "both are kept"),
    ),
    (
        entry(What.CONFLICT, **ROOMS | {"place": ""}, key="i5", field="on"),
        "pi-1: two members wrote on of 5 in rooms without knowing of each other; both are kept",
    ),
    (
        entry(What.CONFLICT_CUT, **TABLES, detail="rooms/sr1/note"),
        "pi-1 dropped a losing value of pi-2: more rivals than a field holds: rooms/sr1/note",
    ),
    (
        entry(What.BATCH_WAITS, **TABLES, detail="its clock is ahead"),
        "pi-1 keeps writes of pi-2 apart and tries them again later: its clock is ahead",
    ),
    (
        entry(What.BATCH_NOT_KEPT, **TABLES, detail="too much waits already"),
        "pi-1 did not take writes of pi-2; they are offered again: too much waits already",
    ),
    (
        entry(What.BATCH_DROPPED, **TABLES | {"place": ""}, detail="not a batch of changes"),
        "pi-1 dropped writes that are none: not a batch of changes",
    ),
    (
        entry(What.ORPHANED, **TABLES),
        "pi-1 alone had writes of pi-2, and may not say them in its place",
    ),
    (
        entry(What.CLOCK_AHEAD, **TABLES, detail="90000 ms"),
        "pi-1 found that its own clock had run ahead: 90000 ms",
    ),
    (
        entry(What.STAMPED_AGAIN, **TABLES, detail="3 cells"),
        "pi-1 wrote anew, with true times, what its wrong clock had stamped: 3 cells",
    ),
    (
        entry(What.WRITTEN_AGAIN, **TABLES, detail="3 cells of 2 batches"),
        "pi-1 wrote anew, in a new epoch, what not everybody could take: 3 cells of 2 batches",
    ),
    (
        entry(What.SNAPSHOT_TAKEN, **TABLES, detail="40 cells"),
        "pi-1 was behind and took over the tables of pi-2: 40 cells",
    ),
    (
        entry(What.SNAPSHOT_DROPPED, **TABLES, detail="it is older than what everybody knows"),
        "pi-1 did not take over the tables of pi-2: it is older than what everybody knows",
    ),
    (
        entry(What.DIVERGED, **TABLES, detail="buckets 3, 7"),
        "pi-1 knows the same as pi-2 and holds other cells: buckets 3, 7",
    ),
    (
        entry(What.STATE_NOT_WRITTEN, **TABLES, detail="disk full"),
        "pi-1 could not write its tables; writes are refused until it can: disk full",
    ),
    (
        entry(What.RESTED, **NODE, mode="drain", by="alice", reason="new disk", asked_at_ms=WALL),
        (
            "pi-1: alice told pi-2 to take no work of others and hand back what waits (drain) at +0: new disk"
            " (cause n-1)"
        ),
    ),
    (
        entry(What.LEFT_OUT, **NODE, count=7, kind="work of others", since_ms=WALL),
        "pi-1 did not note 7 more (work of others) since +0: too many at once",
    ),
    (entry("something newer", pages=3), "pi-1 noted 'something newer' of t1 (pages 3)"),
]  # fmt: skip


@pytest.mark.parametrize(("told", "expected"), SENTENCES, ids=[str(each.what) for each, _ in SENTENCES])
def test_a_kind_of_entry_has_its_sentence(told, expected):
    assert sentence(told, "t1", when) == expected


def test_every_kind_is_in_the_table():
    assert {each.what for each, _ in SENTENCES} >= {each.value for each in What}


def test_a_field_that_an_older_member_did_not_send_is_not_missed():
    for what in What:
        assert sentence(entry(what), "t1", when)


@pytest.mark.parametrize(
    ("ms", "told"),
    [(0, "0 ms"), (850, "850 ms"), (2100, "2.1 s"), (119_000, "119 s"), (180_000, "3 min"),
     (9_000_000, "2.5 h"), (400_000_000, "4.63 days")],
)  # fmt: skip
def test_durations_are_said_as_people_do(ms, told):
    assert duration(ms) == told


def answer(*entries, sides=None, missing=(), **more):
    side = {"complete": True, "since_ms": 0, "skew_ms": 0}
    return {
        "about": "t1",
        "asked_by": "gateway",
        "at_ms": WALL,
        "entries": [msgspec.structs.asdict(each) for each in entries],
        "sides": [side | each for each in sides or [{"node": "gateway"}]],
        "missing": list(missing),
        **more,
    }


STORY = (
    entry(What.ACCEPTED, place="", attempt=0, at=0, function="toys.nap"),
    entry(What.LAPSED, at=4000, reason="lease lapsed"),
    entry(What.SETTLED, at=5000, attempt=2, status="done"),
)


def test_a_story_has_a_heading_and_a_line_an_entry():
    assert narrated(answer(*STORY), when) == [
        "task t1 (toys.nap), owner pi-1",
        "  +0     pi-1 accepted it: toys.nap",
        "  +4000  pi-1: attempt 1 at pi-2 is given up: lease lapsed",
        "  +5000  pi-1 committed the end: it is done",
    ]


def test_whose_side_is_missing_is_said_and_since_when():
    missing = [{"node": "pi-2", "reason": "could not be asked: it is away", "since_ms": WALL + 3}]

    told = narrated(answer(*STORY, missing=missing), when)

    assert told[-1] == "  missing: pi-2 could not be asked: it is away since +3; its side is missing"


def test_clocks_that_disagree_are_named():
    sides = [{"node": "gateway"}, {"node": "pi-1", "skew_ms": -61_000}]

    told = narrated(answer(*STORY, sides=sides), when)

    assert told[-1] == "  clocks disagree: pi-1's is 61 s behind that of gateway"


def test_what_was_forgotten_or_cut_is_said():
    sides = [{"node": "pi-1", "since_ms": WALL + 2, "complete": False}]

    told = narrated(answer(*STORY, sides=sides, others_asked=False), when)

    assert told[-3:] == [
        "  missing: pi-1 noted more than it could tell; what is told is its newest",
        "  missing: pi-1 has forgotten what it noted before +2",
        "  missing: nobody else was asked",
    ]


def test_of_a_loss_that_five_others_saw_the_owner_tells():
    loss = {**NODE, "reason": "silent"}
    seen = [entry(What.LOST, node=node, at=3000, **loss) for node in ("pi-1", "pi-7", "gateway")]

    told = narrated(answer(*STORY, *seen), when)

    assert [line for line in told if "is lost" in line] == ["  +3000  pi-1: pi-2 is lost: silent (cause n-1)"]


def test_of_a_member_without_any_trouble_that_is_said():
    told = narrated(answer() | {"about": "pi-2"}, when)

    assert told == ["pi-2", "  nothing that was not plain has been noted of it at gateway"]


def test_a_node_and_a_cause_have_headings_too():
    loss = entry(What.LOST, **NODE, reason="silent")

    assert narrated(answer(loss) | {"about": "pi-2"}, when)[0] == "node pi-2"
    assert narrated(answer(loss) | {"about": "n-1"}, when)[0] == "what followed from n-1"
    assert Subject.NODE == "node"


def test_a_member_that_bears_the_name_of_a_table_is_called_a_node():
    noted = [
        entry(What.CONFLICT, **ROOMS, key="sr1", field="x"),
        entry(What.LOST, **NODE | {"name": "rooms"}),
    ]

    assert narrated(answer(*noted) | {"about": "rooms"}, when)[0] == "node rooms"
    assert narrated(answer(noted[0]) | {"about": "rooms"}, when)[0] == "tables rooms"
