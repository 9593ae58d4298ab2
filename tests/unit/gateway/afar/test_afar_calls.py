"""Requests of the control protocol as requests of the HTTP API, by scripts of what the gateway answers."""

from __future__ import annotations

import json
import re

import pytest

from edge_node.client import Refused as ClientRefused
from edge_node.client import value_of
from edge_node.control import protocol
from edge_node.functions import values
from edge_node.store.requests import Requests
from gateway.afar import calls
from gateway.afar.calls import HERE, METHODS, Answered, Asked, error_of, exchange
from gateway.api.problems import TITLES
from gateway.api.routes import routers
from security.errors import BadInput, Refused, Unavailable

TASK = "06qx8w3n4h5d1v2b7c9z0k0"
ENDED = {
    "id": TASK, "function": "toys.add", "state": "done", "settled": True, "place": "gateway",
    "origin": "gateway", "accepted_at_ms": 5, "settled_at_ms": 9, "reason": "", "error": None,
    "attempts": [{"node": "gateway", "started_at_ms": 6, "ended_at_ms": 8, "ended_as": "done"}],
    "log": "adding 1 1\n", "value": 2,
}  # fmt: skip


def call(method, params=None):
    return protocol.Call(7, method, protocol.pack(params or {}))


def played(request, *answers):
    """(what was asked, the response), the gateway answering so, one after the other."""
    conversation, asked, left = exchange(request), [], list(answers)
    try:
        asked.append(next(conversation))
        while True:
            status, body = left.pop(0)
            data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
            asked.append(conversation.send(Answered(status, data)))
    except StopIteration as ended:
        assert left == [], "everything was asked for"
        return asked, ended.value


def told(request, *answers):
    asked, response = played(request, *answers)
    assert isinstance(response, protocol.Answer), response
    assert response.id == request.id
    return asked, protocol.unpack(response.result)


def problem(kind, detail="it does not fit", fix="do otherwise"):
    return TITLES[kind][0], {"type": f"urn:edgeweave:problem:{kind}", "detail": detail, "fix": fix}


# ── the table ─────────────────────────────────────────────────────────────────────────────────────────


def test_whatever_is_asked_is_a_route_of_the_api():
    """Every method, asked with plausible parameters, meets a path and a method that the API serves."""
    served = [
        (method, re.compile(re.sub(r"\{[a-z_]+\}", "[^/]+", route.path) + r"\Z"))
        for router in routers()
        for route in router.routes
        for method in route.methods
    ]
    params = {
        "node": "pi-1", "name": "toys.add", "source": b"x", "stem": "toys", "about": TASK, "id": "k7q2mzpe",
        "role": "viewer", "password": "x" * 12, "ttl_s": 60.0, "table": "rooms",
    }  # fmt: skip
    for name in sorted(set(METHODS) - {"methods"}):
        asked = next(exchange(call(name, params)))
        assert isinstance(asked, Asked)
        assert any(asked.method == method and path.match(asked.path) for method, path in served), asked


def test_the_methods_that_look_at_tables_and_those_that_change_them_are_the_stores():
    there = {name.removeprefix("state.") for name in Requests(None, None).methods} | {"fresh"}

    assert {*calls.LOOKS, *calls.CHANGES} == there
    assert set(calls.WRITES) <= set(calls.LOOKS)


def test_what_no_route_serves_is_refused_before_anything_is_sent():
    for name in (*HERE, "leave", "no-such-method"):
        asked, response = played(call(name))
        assert asked == []
        assert response.code == protocol.REFUSED and response.message.startswith(f"{name} cannot be asked")


def test_what_may_be_asked_is_answered_without_asking():
    asked, names = told(call("methods"))

    assert asked == [] and {"nodes", "ping", "tasks-page", "state.find"} <= set(names)


# ── lists ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_list_is_fetched_page_by_page():
    node, other = {"id": "b", "status": "active"}, {"id": "c", "status": "active"}
    waits = {"id": "a", "status": "pending", "last_seen_at_ms": 3}

    asked, rows = told(
        call("nodes"), (200, {"nodes": [waits, node], "next": "kq"}), (200, {"nodes": [other], "next": ""})
    )

    assert [each.query for each in asked] == [{"limit": "500"}, {"limit": "500", "cursor": "kq"}]
    assert rows == [node, other, waits], "who waits comes last, as beside the gateway"


def test_no_more_tasks_are_fetched_than_were_asked_for():
    row = {"id": TASK, "state": "done", "place": "gateway", "origin": "gateway"}

    asked, rows = told(call("tasks", {"limit": 1, "state": "done"}), (200, {"tasks": [row], "next": "kq"}))

    assert [each.query for each in asked] == [{"limit": "1", "state": "done"}]
    assert rows == [row | {"place": "local"}]


def test_tasks_in_a_state_on_their_way_are_found_among_the_open_ones():
    rows = [
        {"id": TASK, "state": state, "place": "pi-1", "origin": "gateway"} for state in ("waiting", "placed")
    ]

    asked, found = told(call("tasks", {"limit": 5, "state": "placed"}), (200, {"tasks": rows, "next": ""}))

    assert asked[0].query["state"] == "open" and found == rows[1:]


def test_the_last_entries_of_a_long_audit_log_come_in_their_order():
    first, second = [[{"n": n} for n in part] for part in (range(701, 1201), range(501, 701))]

    asked, rows = told(
        call("audit", {"after": -1, "limit": 700}), (200, {"entries": first}), (200, {"entries": second})
    )

    assert [row["n"] for row in rows] == list(range(501, 1201))
    assert [each.query["before"] for each in asked] == [str(2**53 - 1), "701"]
    assert [each.query["limit"] for each in asked] == ["500", "200"]


def test_a_code_is_withdrawn_by_its_id():
    asked, answer = told(call("withdraw", {"id": "k7q2mz"}), (204, None))

    assert [(each.method, each.path, each.body) for each in asked] == [("DELETE", "/v1/invites/k7q2mz", None)]
    assert answer == {"id": "k7q2mz"}


def test_a_name_cannot_lead_to_another_path():
    asked, _ = told(call("ping", {"node": "../users/é?x=1"}), (200, {"rtt_ms": 1}))
    assert asked[0].path == "/v1/nodes/..%2Fusers%2F%C3%A9%3Fx%3D1/ping"

    for name in ("..", ".", ""):
        asked, response = played(call("ping", {"node": name}))
        assert asked == [] and response.code == protocol.BAD_INPUT


# ── work ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_hands_in_and_waits_until_it_has_ended():
    run = protocol.Run(3, "toys.add", values.encode_call([1], {"b": 1}), deadline_ms=1500)
    still = {"id": TASK, "state": "placed at pi-1", "settled": False}

    asked, outcome = played(run, (202, {"task": TASK}), (202, still), (200, ENDED))

    assert asked[0].body["args"] == [1] and asked[0].body["kwargs"] == {"b": 1}
    assert asked[0].body["deadline_s"] == 1.5 and asked[0].headers == {}
    assert [each.path for each in asked[1:]] == [f"/v1/tasks/{TASK}/result"] * 2
    assert asked[1].wait_s == 30 and asked[1].query == {"wait_s": "30"}
    assert value_of(outcome) == 2 and outcome.place == "local" and outcome.id == 3
    assert outcome.log == b"adding 1 1\n" and outcome.attempts[0].status == "done"


def test_a_failed_task_tells_what_was_raised():
    failed = ENDED | {
        "state": "failed", "value": None, "place": "pi-1",
        "error": {"kind": "raised", "type": "ValueError", "message": "on purpose"},
    }  # fmt: skip

    _, outcome = played(protocol.Result(1, TASK), (200, failed))

    with pytest.raises(Exception, match="ValueError: on purpose") as caught:
        value_of(outcome)
    assert caught.value.kind == "raised" and outcome.place == "pi-1"


@pytest.mark.parametrize("field", ["log", "error", "attempts"])
def test_a_result_of_another_shape_is_told_in_one_line(field):
    _, response = played(protocol.Result(1, TASK), (200, ENDED | {field: 5}))

    assert isinstance(response, protocol.Failure) and response.code == protocol.UNAVAILABLE


def test_a_trace_goes_along():
    submit = protocol.Submit(1, "toys.add", values.encode_call([], {}), traceparent="00-ab", tracestate="x=1")

    asked, response = played(submit, (202, {"task": TASK}))

    assert asked[0].headers == {"traceparent": "00-ab", "tracestate": "x=1"}
    assert response == protocol.Accepted(1, TASK)


def test_tables_are_looked_at_and_changed_by_routes_of_their_own():
    for method, params, path in (
        ("state.find", {"table": "rooms"}, "look"), ("state.upsert", {"table": "rooms"}, "change"),
        ("state.counter", {"name": "n"}, "look"), ("state.counter", {"name": "n", "add": 1}, "change"),
        ("state.set", {"name": "tags", "discard": ["x"]}, "change"),
    ):  # fmt: skip
        asked, answer = told(call(method, params), (200, {"value": 1}))
        assert answer == {"value": 1}
        assert asked[0].path == f"/v1/state/{path}"
        assert asked[0].body == {"method": method.removeprefix("state."), "params": params}


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", sorted(TITLES))
def test_every_kind_of_problem_has_its_exit_code(kind):
    status, body = problem(kind)
    error = error_of(Answered(status, json.dumps(body).encode(), "7"))

    expected = Unavailable
    if kind in calls.CALLERS_FAULT:
        expected = BadInput
    elif kind in calls.POLICY:
        expected = Refused
    assert type(error) is expected
    assert (error.cause, error.fix) == ("it does not fit", "do otherwise")
    if expected is Unavailable:
        assert error.retry_after_s == 7
    assert {*calls.CALLERS_FAULT, *calls.POLICY} <= set(TITLES)


def test_a_problem_becomes_the_failure_that_the_socket_would_tell():
    _, response = played(call("nodes"), problem("forbidden", "a viewer may not", "ask an administrator"))

    assert response == protocol.Failure(7, protocol.REFUSED, "a viewer may not", "ask an administrator")
    assert not isinstance(response, ClientRefused)


def test_advice_for_programs_is_told_as_advice_for_people():
    _, response = played(call("ping", {"node": "pi-9"}), problem("not-found", "none", "see /v1/nodes"))

    assert response.fix == "see `edge-gateway nodes`"


@pytest.mark.parametrize(
    "answer",
    [
        (502, b"<html>Bad Gateway</html>"), (404, {"detail": "Not Found"}), (500, b""), (302, b""),
        (200, b"{"),
        (200, {"other": 1}), (200, [1]), (418, {"type": "urn:other:x", "detail": "teapot"}), (503, b"\xff"),
        (200, b"[" * 100_000), (200, {"nodes": [1], "next": ""}),
    ],
)  # fmt: skip
def test_whatever_else_answers_there_is_told_in_one_line(answer):
    _, response = played(call("nodes"), answer)

    assert isinstance(response, protocol.Failure) and response.code == protocol.UNAVAILABLE
    assert "no gateway of this version" in response.message and "\n" not in response.message


# ── once ──────────────────────────────────────────────────────────────────────────────────────────────


def keyed(request):
    return next(exchange(request, "k-1"))


def test_only_work_bears_the_key_of_its_request():
    nothing = values.encode_call([], {})
    for request in (protocol.Submit(1, "toys.add", nothing), protocol.Run(1, "toys.add", nothing)):
        assert keyed(request).headers == {"idempotency-key": "k-1"}
    for request in (call("pause", {"node": "pi-1"}), protocol.Cancel(1, TASK), protocol.Result(1, TASK)):
        assert keyed(request).headers == {}


def test_only_what_bears_a_key_is_sent_again_and_not_for_ever():
    asked = keyed(protocol.Submit(1, "toys.add", values.encode_call([], {})))

    def again_in_s(answered=None, tries=1, since_s=0.0):
        return calls.again_in_s(asked, answered, tries=tries, since_s=since_s)

    assert [again_in_s(tries=n) for n in (1, 2, 3, 4)] == [*calls.AGAIN_S, None]
    assert again_in_s(since_s=calls.AGAIN_WITHIN_S + 1) is None
    for kind, expected in (("in-progress", 0.5), ("refused", None), ("unavailable", None)):
        status, body = problem(kind)
        assert again_in_s(Answered(status, json.dumps(body).encode())) == expected
    for body in (b"", b"no json", b"[]", b"{}"):
        assert again_in_s(Answered(409, body)) is None
    assert again_in_s(Answered(202, b'{"task": "x"}')) is None
    asked = keyed(call("pause", {"node": "pi-1"}))
    assert again_in_s() is None, "it may have been done"
