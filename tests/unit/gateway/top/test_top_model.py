"""The terminal view's core: what is asked when, what is shown, and that nothing grows."""

from __future__ import annotations

import random

import pytest

from gateway.top.actions import ACTIONS, fitting, params_of, said, to_type
from gateway.top.model import (
    AGAIN_NS,
    EVENTS_MAX,
    NEEDS,
    REST_NS_MAX,
    SECOND,
    Ask,
    Changed,
    Filtered,
    Leafed,
    Looked,
    Model,
    Said,
    Told,
    Troubled,
)
from gateway.top.views import VIEWS, Cell, Column, Row, Table, clean, filter_of

WALL_MS = 1_700_000_000_000
STATUS = {
    "node": "gateway", "mesh": "ab" * 8, "up_s": 75, "draining": False,
    "roster": {"version": 7}, "broker": {"connected": True, "address": "127.0.0.1:8883"},
    "tasks": {"open": 2, "completed": 40, "failed": 1, "settled": {"done": 40, "failed": 1}, "outbox": {}},
    "state": {"conflicts": 0}, "peers": {"pi-1": "up", "pi-2": "suspect"}, "versions": {"pi-1": "0.1.0"},
    "wire": {"bytes_in": 10, "bytes_out": 2_000_000},
}  # fmt: skip
SEEN = {"last_seen_at_ms": WALL_MS}
NODES = [
    {"id": "gateway", "status": "active", "up": True, "roles": ["gateway"], "labels": {}} | SEEN,
    {"id": "pi-1", "status": "active", "up": True, "roles": [], "labels": {"site": "a"}} | SEEN,
    {"id": "pi-2", "status": "active", "up": True, "roles": [], "labels": {}, "last_seen_at_ms": WALL_MS},
    {"id": "pi-3", "status": "active", "up": False, "labels": {}, "last_seen_at_ms": 1, "reason": "silent"},
    {"id": "pi-4", "status": "active", "up": False, "roles": [], "labels": {}, "last_seen_at_ms": 0},
    {"id": "pi-5", "status": "pending", "up": False, "fingerprint": "one two three four five six"},
    {"id": "pi-6", "status": "revoked", "up": False, "by": "ann", "reason": "stolen", "since_at_ms": WALL_MS},
]  # fmt: skip
METHODS = ["approve", "deny", "revoke", "rollback", "ping"]


def task(number, state="done", function="toys.add", place="pi-1"):
    settled = 0 if state in ("placed", "waiting") else WALL_MS
    return {
        "id": f"{number:023d}", "function": function, "state": state, "place": place, "origin": "gateway",
        "accepted_at_ms": WALL_MS - 2000, "settled_at_ms": settled,
    }  # fmt: skip


def event(number, what="started", **details):
    return {
        "cursor": f"{number}-00000000", "number": number, "at_ms": WALL_MS + number, "node": "gateway",
        "subject": "node", "id": "gateway", "what": what, "cause": f"n-{number}", "details": details,
    }  # fmt: skip


ANSWERS = {
    "status": STATUS,
    "methods": METHODS,
    "nodes": NODES,
    "ping": {"rtt_ms": 2.5},
    "tasks": {"tasks": [task(2, "placed"), task(1)], "next": None},
    "events": {"events": [], "next": "0-00000000", "missed": False},
    "functions": [],
    "tables": {"tables": []},
}


def asked(asks):
    return {each.question: each for each in asks}


class Played:
    """A model and a gateway that answers at once, in time that the test moves."""

    def __init__(self):
        self.model = Model(lambda at_ms: f"{at_ms}.000")
        self.now_ns = SECOND
        self.answers = dict(ANSWERS)
        self.asks: list[Ask] = []
        self.waiting: list[Ask] = []

    def do(self, event):
        """Something happens; what is asked then is answered by the next ``run``."""
        asks = self.model.handle(self.now_ns, event)
        self.model.check()
        self.waiting += asks
        return asks

    def tell(self, name, answer):
        return self.do(Told(name, answer, WALL_MS))

    def run(self, seconds, silent=("events",)):
        """Time goes on; whatever is asked is answered, except *silent*."""
        end_ns = self.now_ns + int(seconds * SECOND)
        while self.now_ns < end_ns:
            self.waiting += self.model.tick(self.now_ns)
            while self.waiting:
                ask = self.waiting.pop(0)
                self.asks.append(ask)
                if ask.question not in silent:
                    self.tell(ask.question, self.answers[ask.question])
            self.now_ns += SECOND // 10
        return self


def shown(played, view):
    played.do(Looked(view))
    played.run(1)
    return [[cell.text for cell in row.cells] for row in played.model.table().rows]


def test_first_the_status_then_everything_once_and_one_at_a_time():
    played = Played()

    assert [each.question for each in played.model.tick(played.now_ns)] == ["status"]
    assert played.model.tick(played.now_ns) == []
    first = asked(played.tell("status", STATUS))
    assert set(first) == {"methods", "nodes", "events"}
    assert first["events"].params["wait_ms"] == 0
    assert played.model.tick(played.now_ns + 100 * SECOND)[0].question == "status"
    assert {each.question for each in played.model.tick(played.now_ns + 100 * SECOND)} == set()


def test_what_no_view_shows_is_asked_seldom():
    played = Played()
    played.do(Looked("events"))
    played.run(30)
    asks = [each.question for each in played.asks]

    assert 4 <= asks.count("nodes") <= 8
    assert asks.count("methods") == 1
    assert not {"tasks", "tables", "functions", "ping"} & set(asks)
    assert 25 <= asks.count("status") <= 31


def test_a_slow_gateway_is_asked_less():
    model = Model(str)
    model.tick(0)
    model.handle(SECOND, Told("status", STATUS, WALL_MS))

    assert model.tick(2 * SECOND) != []
    model.handle(2 * SECOND + SECOND // 2, Told("status", STATUS, WALL_MS))
    later = [n for n in range(3, 40) if any(a.question == "status" for a in model.tick(n * SECOND))]
    assert later[0] == 8
    model.handle(60 * SECOND, Told("status", STATUS, WALL_MS))
    assert any(a.question == "status" for a in model.tick(60 * SECOND + REST_NS_MAX))


def test_nodes_come_with_who_needs_somebody_first_and_states_are_words():
    played = Played().run(3)
    rows = shown(played, "nodes")

    assert [(row[0], row[1]) for row in rows] == [
        ("pi-5", "pending"), ("pi-3", "down"), ("pi-2", "suspect"), ("pi-4", "unseen"), ("gateway", "up"),
        ("pi-1", "up"), ("pi-6", "revoked"),
    ]  # fmt: skip
    assert "one two three four five six" in rows[0]
    assert "2.5 ms" in rows[5]
    assert "by ann: stolen" in rows[6]


def test_a_round_trip_a_second_goes_round_who_is_up():
    played = Played().run(6)
    pinged = [each.params["node"] for each in played.asks if each.question == "ping"]

    assert pinged[:4] == ["pi-1", "pi-2", "pi-1", "pi-2"]
    (node,) = [
        ask.params["node"] for ask in played.model.tick(played.now_ns + SECOND) if ask.question == "ping"
    ]
    played.do(Troubled("ping", f"{node} does not answer"))
    assert not played.model.away
    assert {row.key: row.cells[4].text for row in played.model.table().rows}[node] == "no answer"


def test_a_gateway_that_went_away_is_said_asked_alone_and_welcomed_back():
    played = Played().run(3)
    rows = shown(played, "nodes")
    asks = played.model.tick(played.now_ns + AGAIN_NS)
    assert "status" in asked(asks)
    played.now_ns += AGAIN_NS
    for question in ("status", "nodes", "ping", "events"):
        played.do(Troubled(question, "no daemon answers", "start it"))

    played.now_ns += 4 * SECOND
    remark, bad = played.model.remark(played.now_ns)
    assert bad and remark.startswith("away for 4 s: no daemon answers; start it")
    assert [each.question for each in played.model.tick(played.now_ns)] == ["status"]
    assert [[c.text for c in row.cells] for row in played.model.table().rows] == rows
    back = asked(played.tell("status", STATUS | {"up_s": 0}))

    assert {"nodes", "events"} <= set(back)
    assert played.model.remark(played.now_ns) == ("the gateway answers again, after 4 s", False)


def test_events_go_on_where_they_were_newest_first_and_bounded():
    played = Played().run(1)
    number = 0
    for page in range(12):
        events = [event(number + each) for each in range(60)]
        number += 60
        played.tell("events", {"events": events, "next": events[-1]["cursor"], "missed": page == 11})
    played.run(1)
    rows = shown(played, "events")

    assert len(played.model.facts.events) == EVENTS_MAX
    assert rows[0][0] == str(WALL_MS + number - 1)
    assert sum("some events were missed" in row[1] for row in rows) == 1
    assert played.asks[-1].question != "events" or played.asks[-1].params["after"] == f"{number - 1}-00000000"
    last = [each for each in played.asks if each.question == "events"][-1]
    assert last.params["after"] == f"{number - 1}-00000000" and last.params["wait_ms"] > 0


def test_a_gateway_that_never_waits_is_not_asked_in_circles():
    played = Played().run(10, silent=())

    assert sum(each.question == "events" for each in played.asks) <= 11


def test_a_filter_of_tasks_is_asked_of_the_gateway_and_starts_at_the_newest():
    played = Played()
    played.do(Looked("tasks"))
    played.answers["tasks"] = {"tasks": [task(9)], "next": "x" * 23}
    played.run(2)
    played.do(Leafed(1))
    played.run(2)
    assert played.asks[-1].params["after"] == "x" * 23 or played.model.page == 2

    played.do(Filtered("failed function=toys.add pi-1"))
    asks = [each for each in played.run(2).asks if each.question == "tasks"]
    assert played.model.page == 1
    assert asks[-1].params == {"limit": 200, "after": "", "state": "failed", "function": "toys.add"}


def test_an_answer_to_an_older_filter_is_not_shown():
    played = Played()
    played.do(Looked("tasks"))
    played.run(1, silent=("events", "tasks"))
    assert played.asks[-1].question == "tasks" or "tasks" in [each.question for each in played.asks]

    played.do(Filtered("failed"))
    asks = played.tell("tasks", {"tasks": [task(1, "done")], "next": None})

    assert played.model.facts.tasks == []
    assert asked(asks)["tasks"].params["state"] == "failed"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", 2), ("open", 1), ("done", 1), ("placed", 1), ("state=done", 1), ("node=pi-1", 2),
        ("toys.add", 2), ("toys.sub", 0), ("function=toys", 2), ("PI-1 done", 1), ("pi-1 pi-9", 0),
    ],
)  # fmt: skip
def test_a_filter_is_words_and_fields(text, kept):
    played = Played()
    played.do(Filtered(text))

    assert len(shown(played, "tasks")) == kept


def test_what_members_wrote_cannot_speak_to_the_terminal():
    played = Played()
    played.answers["nodes"] = [NODES[3] | {"reason": "\x1b[2J\x07gone\r\nnow\x9b31m\u202e"}]
    rows = shown(played, "nodes")

    assert [cell for cell in rows[0] if "gone" in cell] == ["?[2J?gone now?31m?"]
    assert clean("a\tb\n\x00c") == "a b ?c"


@pytest.mark.parametrize("width", [20, 40, 79, 119, 250])
@pytest.mark.parametrize("view", VIEWS)
def test_every_table_fits_its_line(view, width):
    played = Played()
    played.answers["functions"] = [
        {"name": "toys.add", "version": 3, "digest": "ab" * 32, "issued_at_ms": 1, "timeout_s": 2.0,
         "memory_mb": 64, "requires": ["numpy"], "labels": {"site": "a"}, "doc": "The sum of " + "many " * 40}
    ]  # fmt: skip
    played.answers["tables"] = {
        "tables": [{"name": "rooms", "kind": "documents", "count": 3, "conflicts": 1}]
    }
    played.tell(
        "events", {"events": [event(1, "a new kind", why="x" * 300)], "next": "1-00000000", "missed": False}
    )
    assert shown(played, view)

    table = played.model.table()
    columns, widths = table.fitted(width)
    assert sum(widths) + 2 * len(widths) <= width or len(columns) <= 4
    assert columns == sorted(columns) and columns[0] == 0 and all(each > 0 for each in widths)


def test_a_table_without_rows_fits_too():
    assert Table("T", (Column("a"), Column("b", 1)), []).fitted(10)[0] == [0]


def test_only_what_fits_a_row_and_the_gateway_offers_can_be_done():
    played = Played().run(3)
    rows = {row.key: row for row in played.model.table().rows}
    methods = played.model.facts.methods

    def keys(name):
        return "".join(each.key for each in fitting("nodes", rows[name], methods))

    assert keys("pi-5") == "ad"
    assert keys("pi-1") == keys("pi-3") == keys("pi-4") == "x"
    assert keys("gateway") == keys("pi-6") == ""
    assert [e.key for e in fitting("nodes", rows["pi-1"], methods | {"drain", "pause"})] == ["x", "z", "w"]
    assert fitting("nodes", None, methods) == []


def test_who_rests_can_be_let_work_again():
    played = Played()
    played.answers |= {
        "methods": [*METHODS, "pause", "drain", "resume"],
        "nodes": [NODES[1] | {"work": "pause"}, NODES[2] | {"work": "drain"}, NODES[0] | {"work": "work"}],
    }
    rows = {row[0]: row[1] for row in shown(played, "nodes")}
    keys = {
        row.key: "".join(each.key for each in fitting("nodes", row, played.model.facts.methods))
        for row in played.model.table().rows
    }

    assert rows == {"pi-1": "paused", "pi-2": "draining", "gateway": "up"}
    assert keys == {"pi-1": "xuw", "pi-2": "xu", "gateway": ""}


def test_open_tasks_alone_can_be_cancelled_and_the_end_of_the_id_is_typed():
    played = Played()
    shown(played, "tasks")
    placed, done = played.model.table().rows
    (cancel,) = fitting("tasks", placed, frozenset())

    assert fitting("tasks", done, frozenset()) == []
    assert to_type(cancel, placed) == "000002"
    assert said(cancel, placed, True).endswith("is cancelled")
    assert "had been settled before" in said(cancel, placed, False)


def test_a_revocation_names_who_and_says_what_is_left_to_do():
    (revoke,) = [each for each in ACTIONS if each.method == "revoke"]
    row = Row("pi-1", (Cell("pi-1"),))

    assert params_of(revoke, row, "ann") == {"node": "pi-1", "by": "ann", "reason": ""}
    assert params_of(revoke, row, "ann", "stolen")["reason"] == "stolen"
    assert said(revoke, row, {"cut": True}) == "pi-1 is revoked"
    assert "as soon as it does" in said(revoke, row, {"cut": False})
    assert "before" in said(revoke, row, {"already": True, "cut": True})


def test_no_two_actions_of_a_view_share_a_key():
    pairs = [(each.view, each.key) for each in ACTIONS]

    assert len(pairs) == len(set(pairs))
    assert not {each.key for each in ACTIONS} & set("qhnp/123456?")


def test_a_sentence_stays_for_a_while_and_a_change_asks_anew():
    played = Played().run(2)
    played.do(Said("pi-1 is revoked"))
    assert played.model.remark(played.now_ns + 7 * SECOND) == ("pi-1 is revoked", False)
    assert played.model.remark(played.now_ns + 9 * SECOND) == ("", False)

    played.run(0.1)
    assert {"status", "nodes"} <= set(asked(played.do(Changed())))


def test_the_trouble_of_a_view_is_shown_with_its_fix():
    played = Played().run(2)
    played.do(Looked("tables"))
    played.do(Troubled("tables", "the tables' disk failed", "free space"))

    assert played.model.remark(played.now_ns) == ("tables: the tables' disk failed; free space", True)
    played.do(Looked("tasks"))
    assert played.model.remark(played.now_ns) == ("", False)


def test_the_heading_counts_and_warns():
    played = Played().run(3)
    first, second = played.model.heading(played.now_ns)

    assert first == "edgeweave gateway · mesh abababab · up 75 s · broker connected 127.0.0.1:8883 · roster 7"
    assert second == "3 of 5 up · 1 wait for approval · 2 tasks open · 0/s · 40 done · 1 failed"
    played.tell("status", STATUS | {"broker": {"connected": False, "address": ""}, "draining": True})
    first, second = played.model.heading(played.now_ns)
    assert "broker NOT CONNECTED" in first and "draining" in second


def test_whatever_comes_in_whatever_order_nothing_breaks_or_grows():
    for seed in range(12):
        drawn, played = random.Random(seed), Played()
        number = 0
        for _ in range(120):
            played.now_ns += drawn.randrange(2 * SECOND)
            match drawn.randrange(6):
                case 0:
                    name = drawn.choice(list(ANSWERS))
                    if name == "events":
                        number += 1
                        answer = {
                            "events": [event(number)],
                            "next": f"{number}-00000000",
                            "missed": drawn.random() < 0.2,
                        }
                    else:
                        answer = ANSWERS[name]
                    asks = played.tell(name, answer)
                case 1:
                    asks = played.model.handle(
                        played.now_ns, Troubled(drawn.choice(list(ANSWERS)), "away", "wait")
                    )
                case 2:
                    asks = played.do(Looked(drawn.choice(VIEWS)))
                case 3:
                    asks = played.model.handle(
                        played.now_ns, Filtered(drawn.choice(["", "done", "x", "node=pi-1"]))
                    )
                case 4:
                    asks = played.do(Leafed(drawn.choice([1, -1])))
                case _:
                    asks = played.model.tick(played.now_ns)
            played.model.check()
            assert len(asks) == len(asked(asks)), "a question is asked once at a time"
            played.model.table().fitted(80)
            played.model.heading(played.now_ns)
            played.model.remark(played.now_ns)


def test_every_view_knows_what_it_needs():
    assert set(NEEDS) == set(VIEWS)
    assert filter_of("  ").text == ""
