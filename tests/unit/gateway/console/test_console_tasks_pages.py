"""Tasks, placement, events and the audit log: how the API's answers become rows."""

from __future__ import annotations

import pytest

from gateway.console.pages.events import audit_row, change, fits, verdict_of
from gateway.console.pages.events import row as event_row
from gateway.console.pages.placement import at_the_door, error_of, matrix_of, scatter_of
from gateway.console.pages.placement import row as decision_row
from gateway.console.pages.task import attempt, raw_bytes
from gateway.console.pages.tasks import arguments, seconds, tone_of, whole
from gateway.console.pages.tasks import row as task_row
from gateway.console.pages.why import nearest
from security.errors import BadInput

TASK = "06h0g9w2z3yg0naak193w1g"
OPEN = {
    "id": TASK, "function": "toys.nap", "state": "placed", "place": "pi-1", "origin": "gateway",
    "accepted_at_ms": 1_000, "settled_at_ms": 0,
}  # fmt: skip
DECISION = {
    "task": TASK, "function": "toys.nap", "state": "done", "place": "pi-1", "rule": "soonest", "attempts": 1,
    "accepted_at_ms": 0, "settled_at_ms": 30, "whole_ms": 30, "run_ms": 20.0,
    "reckoned": [
        {"place": "pi-1", "wait_ms": 0.0, "run_ms": 20.0, "way_ms": 3.0, "whole_ms": 23.0},
        {"place": "gateway", "wait_ms": 50.0, "run_ms": 20.0, "way_ms": 0.0, "whole_ms": 70.0},
    ],
}  # fmt: skip
EVENT = {
    "cursor": "7-ab", "number": 7, "at_ms": 1_000, "node": "gateway", "subject": "node", "id": "pi-3",
    "what": "lost", "cause": "n-7", "place": "", "attempt": 0, "details": {"reason": "silent"},
}  # fmt: skip


# ── tasks ─────────────────────────────────────────────────────────────────────────────────────────────


def test_an_open_task_can_be_cancelled_by_who_operates_and_by_nobody_else():
    assert task_row(OPEN, operates=True)["acts"] == [{"act": "cancel", "text": "Cancel"}]
    assert task_row(OPEN, operates=False)["acts"] == {"text": ""}
    settled = OPEN | {"state": "done", "settled_at_ms": 1_850}
    assert task_row(settled, operates=True)["acts"] == {"text": ""}
    assert task_row(settled, operates=True)["took"] == "850 ms"


def test_a_name_from_the_mesh_is_one_part_of_an_address():
    row = task_row(OPEN | {"function": "../a?b#c", "place": ""}, operates=False)

    assert row["function"]["href"] == "/console/functions/..%2Fa%3Fb%23c"
    assert row["place"] is None


@pytest.mark.parametrize(
    ("state", "tone"),
    [("done", "good"), ("failed", "bad"), ("quarantined", "bad"), ("cancelled", "quiet"), ("placed", "busy")],
)
def test_a_tasks_state_has_a_tone(state, tone):
    assert tone_of(state) == tone


def test_arguments_are_a_list_or_an_object():
    assert arguments('{"a": 1}') == {"kwargs": {"a": 1}}
    assert arguments(" [1, 2] ") == {"args": [1, 2]}
    assert arguments("") == {"kwargs": {}}


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ('{"a": }', "line 1, column 7"),
        ("{\n\n'a': 1}", "line 3, column 1"),
        ("12", "names or an order"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_arguments_that_are_none_name_the_place(text, cause):
    with pytest.raises(BadInput) as raised:
        arguments(text)

    assert cause in raised.value.cause and raised.value.fix


def test_an_empty_duration_is_the_gateways_own():
    assert (seconds(" "), seconds("5m")) == (None, 300.0)


@pytest.mark.parametrize("text", ["1001", "-1001", "high", "1.5"])
def test_a_priority_out_of_its_range_is_refused_beside_its_field(text):
    with pytest.raises(BadInput):
        whole(text)
    assert (whole(" -3 "), whole("")) == (-3, 0)


def test_bytes_are_told_from_values_that_look_like_them():
    assert raw_bytes({"base64": "aGk="}) == b"hi"
    assert raw_bytes({"base64": "no!"}) is None
    assert raw_bytes({"base64": "aGk=", "more": 1}) is None


def test_an_attempt_that_was_lost_is_bad_and_one_that_runs_has_no_end():
    lost = attempt(1, {"node": "pi-1", "started_at_ms": 0, "ended_at_ms": 9, "ended_as": "lapsed"})
    runs = attempt(2, {"node": "pi-2", "started_at_ms": 9, "ended_at_ms": 0, "ended_as": ""})

    assert (lost["ended"], lost["started"]) == ({"badge": "lapsed", "tone": "bad"}, None)
    assert (runs["ended"], runs["took"]) == ({"badge": "running", "tone": "busy"}, None)


# ── why ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fix", "names"),
    [
        ("did you mean pi-1, pi-2?", ["pi-1", "pi-2"]),
        ("as 06h0g9w2, 06h0g9w3", ["06h0g9w2", "06h0g9w3"]),
        ("`submit` and `tasks` show ids of tasks", []),
        ("", []),
    ],
)
def test_what_is_like_an_unknown_id_becomes_links(fix, names):
    assert nearest(fix) == names


# ── placement ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_decision_tells_by_how_much_it_was_off_and_what_it_was_chosen_over():
    row = decision_row(DECISION)

    assert (row["reckoned"], row["took"], row["off"], row["others"]) == (
        "23 ms",
        "30 ms",
        "+7 ms",
        "gateway 70 ms",
    )


def test_a_task_that_was_given_out_twice_is_not_compared():
    again = DECISION | {"attempts": 2}

    assert decision_row(again)["off"] == "–"
    assert error_of([again]) == ("–", "nothing to compare yet")
    assert error_of([DECISION, again]) == ("7 ms", "median of 1 task")


def test_the_scatter_has_a_colour_a_node_and_the_line_of_equals():
    options = scatter_of([DECISION, DECISION | {"place": "pi-2"}])

    assert [each["name"] for each in options["series"]] == ["pi-1", "pi-2", "as reckoned"]
    assert options["series"][0]["data"] == [[23.0, 30.0]]
    assert options["series"][-1]["data"] == [[23.0, 23.0], [30.0, 30.0]]


def test_many_nodes_share_a_colour():
    options = scatter_of([DECISION | {"place": f"pi-{n}"} for n in range(9)])

    assert [each["name"] for each in options["series"]][-2:] == ["others", "as reckoned"]
    assert len(options["series"][-2]["data"]) == 3


def test_the_matrix_has_the_busiest_function_first_and_the_gateway_at_the_left():
    cell = {"run_ms": 2.0, "learned_ms": 2.5, "learned_dev_ms": 0.5, "learned_runs": 9}
    told = matrix_of(
        [
            {"function": "a", "place": "pi-1", "runs": 1, "share": 1.0, **cell},
            {"function": "b", "place": "gateway", "runs": 3, "share": 0.75, **cell},
            {"function": "b", "place": "pi-1", "runs": 1, "share": 0.25, **cell, "learned_ms": None},
        ]
    )

    assert [each["name"] for each in told["columns"]] == ["gateway", "pi-1"]
    assert [each["name"] for each in told["rows"]] == ["b", "a"]
    assert told["rows"][0]["cells"][0]["text"] == "75 %"
    assert told["rows"][1]["cells"][0] is None
    assert "expected 2.5 ms ± 500 µs, from 9 runs" in told["rows"][0]["cells"][0]["title"]


def test_what_was_not_accepted_is_counted_by_reason_and_leads_to_the_refusals():
    away = EVENT | {"subject": "refusal", "id": "r-1", "details": {"reason": "outbox full"}}

    (row,) = at_the_door([away, away | {"id": "r-2"}, EVENT])

    assert (row["reason"], row["count"]) == ("outbox full", 2)
    assert row["place"]["href"] == "/console/events?kinds=refusal"


# ── events ────────────────────────────────────────────────────────────────────────────────────────────


def test_an_event_is_a_sentence_with_links_to_what_it_is_about_and_why():
    row = event_row(EVENT)

    assert "pi-3 is lost" in str(row["parts"])
    assert row["tone"] == "bad"
    assert [each["href"] for each in row["links"]] == ["/console/nodes/pi-3", "/console/why/n-7"]


def test_a_refusal_leads_to_its_why():
    refusal = EVENT | {"subject": "refusal", "id": "r-9", "cause": "r-9", "what": "turned away"}

    assert [each["href"] for each in event_row(refusal)["links"]] == ["/console/why/r-9"]


def test_an_event_of_a_task_leads_to_the_task_once():
    of_task = EVENT | {"subject": "task", "id": TASK, "cause": TASK, "what": "lapsed", "place": "pi-3"}

    assert [each["href"] for each in event_row(of_task)["links"]] == [f"/console/tasks/{TASK}"]


def test_events_are_narrowed_by_kind_and_by_what_they_are_about():
    assert fits(EVENT, set(), "")
    assert fits(EVENT, {"node"}, "pi-3")
    assert not fits(EVENT, {"task"}, "")
    assert not fits(EVENT, set(), "pi-4")


# ── the audit log ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"role": "viewer", "n": 1}, {"role": "admin", "n": 1}, "role viewer → admin"),
        (None, {"role": "admin", "n": 1}, "role admin, n 1"),
        ({"role": "admin"}, None, "gone: role admin"),
        (None, None, ""),
        ("work", "pause", "work → pause"),
    ],
)
def test_a_change_is_told_by_what_differs(before, after, told):
    assert change(before, after) == told


def test_a_long_change_is_cut():
    assert len(change({"a": 1}, {str(n): "x" * 40 for n in range(40)})) == 120


def test_an_entry_about_a_node_leads_to_it():
    entry = {"n": 7, "at_ms": 1, "who": "ann", "what": "node.revoke", "target": "pi-1", "before": None,
             "after": None, "cause": "", "hash": "", "prev": ""}  # fmt: skip

    assert audit_row(entry)["target"]["href"] == "/console/nodes/pi-1"
    assert audit_row(entry)["what"]["tone"] == "bad"


def test_the_verdict_says_where_the_log_is_broken():
    assert "12 entries" in verdict_of({"entries": 12, "broken_at": None, "reason": ""})
    assert "broken at entry 5: changed" in verdict_of({"entries": 4, "broken_at": 5, "reason": "changed"})
