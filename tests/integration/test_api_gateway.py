"""The HTTP API of a real gateway: work, code, tables and accounts as programs and browsers reach them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket

import httpx
import pytest

from edge_node.tasks.tracing import span_id
from gateway.access.roles import Role
from gateway.api.openapi import guarded_routes
from gateway.api.routes import routers
from tests.support.daemons import Bed, until
from tests.support.http_api import PASSWORD, Api

pytestmark = pytest.mark.slow
ROUTES = [(method, route) for route in guarded_routes(routers()) for method in sorted(route.methods)]


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    with Bed(tmp_path_factory.mktemp("api")) as bed:
        yield bed


@pytest.fixture(scope="module")
def api(bed):
    gateway = bed.gateway().start()
    api = Api(gateway).people()
    with api.of(Role.ADMIN) as admin:
        assert admin.post("/v1/functions?file=toys.py", content=bed.toys.read_bytes()).status_code == 201
    return api


def problem(answer, status, kind):
    """What an error is told as; with nothing in it that only its author understands."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert told["type"] == f"urn:edgeweave:problem:{kind}"
    assert told["status"] == status and told["title"] and told["detail"]
    assert "Traceback" not in answer.text and "line " not in answer.text
    return told


# ── who may ───────────────────────────────────────────────────────────────────────────────────────────

BEGINS = {"/v1/log-in", "/v1/log-in/link", "/v1/set-up"}
PUBLIC = {"/livez", "/readyz", "/setup", "/console/log-in"} | BEGINS


def harmless(path):
    """The path, of things that there are none of."""
    for name, value in (
        ("{node}", "pi-99"), ("{name}", "nobody"), ("{task}", "0" * 23), ("{token}", "none"),
        ("{table}", "none"), ("{id}", "zzzzzz"), ("{doc_id}", "7"), ("{about}", "nothing"),
    ):  # fmt: skip
        path = path.replace(name, value)
    return path


def test_who_may_do_what_is_as_each_route_says(api):
    """Every route, asked by everybody; a body that fits nowhere keeps changes from happening."""
    wrong = []
    clients = {None: api.client()} | {role: api.of(role) for role in Role}
    for method, route in ROUTES:
        for role, client in clients.items():
            if route.path == "/v1/events" and role is not None:
                continue  # without end; its own tests
            answer = client.request(method, harmless(route.path), content=b"[]")
            if route.need.role is None:
                allowed, expected = answer.status_code not in (403, 404, 405), "anybody"
                if route.path in BEGINS:
                    allowed = answer.status_code == 422
            elif role is None:
                allowed, expected = answer.status_code == 401, 401
            elif role < route.need.role:
                allowed, expected = answer.status_code == 403, 403
            else:
                allowed, expected = answer.status_code not in (401, 403, 405), "may"
            if not allowed or answer.status_code >= 500:
                wrong.append(f"{method} {route.path} by {role}: {answer.status_code}, not {expected}")

    assert wrong == []
    assert {route.path for _, route in ROUTES if route.need.role is None} == PUBLIC


def test_a_token_does_no_more_than_its_scopes(api):
    with api.of(Role.ADMIN) as admin:
        made = admin.post("/v1/tokens", json={"name": "narrow", "role": "admin", "scopes": ["tasks:read"]})
    narrow = api.client(made.json()["secret"])
    for method, route in ROUTES:
        if route.need.role is None or route.path == "/v1/events" or route.need.scope == "":
            continue
        answer = narrow.request(method, harmless(route.path), content=b"[]")
        refused = answer.status_code == 403 and "scope" in answer.json()["detail"]
        assert refused == (route.need.scope != "tasks:read"), (method, route.path, answer.text)

    with api.of(Role.ADMIN) as admin:
        assert admin.delete(f"/v1/tokens/{made.json()['id']}").status_code == 204
    problem(narrow.get("/v1/tasks"), 401, "not-authenticated")


def test_the_set_up_link_makes_one_administrator(api):
    problem(api.set_up("eve"), 403, "forbidden")
    with api.client() as anybody:
        page = anybody.get("/setup")
    assert "script-src 'sha256-" in page.headers["content-security-policy"]
    assert PASSWORD not in page.text and page.headers["cache-control"] == "no-store"


def test_only_an_administrator_lets_in_who_signs_code(api):
    with api.of(Role.OPERATOR) as operator, api.of(Role.ADMIN) as admin:
        ask = {"json": {"ttl_s": 60, "roles": ["deployer"], "approval": "pending"}}
        problem(operator.post("/v1/invites", **ask), 403, "forbidden")
        assert admin.post("/v1/invites", **ask).status_code == 201


def test_a_session_begins_anew_with_each_log_in(api):
    """Fixation: a cookie that somebody planted before is worth nothing, and the session before has ended."""
    planted = "A" * 43
    with api.client() as browser:
        browser.headers["cookie"] = f"__Host-edgeweave={planted}"
        answer = browser.post("/v1/log-in", json={"name": "ann", "password": PASSWORD})
        set_cookie = answer.headers["set-cookie"]
        assert planted not in set_cookie
        for flag in ("__Host-edgeweave=", "Secure", "HttpOnly", "SameSite=strict", "Path=/"):
            assert flag in set_cookie
        assert "domain" not in set_cookie.lower()
        problem(browser.get("/v1/me"), 401, "not-authenticated")

        first = set_cookie.partition(";")[0]
        browser.headers["cookie"] = first
        assert browser.get("/v1/me").json()["name"] == "ann"
        browser.post("/v1/log-in", json={"name": "ann", "password": PASSWORD})
        browser.headers["cookie"] = first
        problem(browser.get("/v1/me"), 401, "not-authenticated")


def test_a_browsers_change_needs_the_sessions_token_and_our_own_page(api):
    with api.log_in() as browser:
        csrf = browser.headers.pop("x-csrf-token")
        ask = {"json": {"ttl_s": 60}}
        problem(browser.post("/v1/invites", **ask), 403, "forbidden")
        problem(browser.post("/v1/invites", headers={"x-csrf-token": "x" + csrf}, **ask), 403, "forbidden")
        own = {"x-csrf-token": csrf, "origin": api.base}
        for elsewhere in (
            {"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"},
            {"origin": api.base.replace("https", "http")},
        ):  # fmt: skip
            problem(browser.post("/v1/invites", headers=own | elsewhere, **ask), 403, "forbidden")
        assert browser.post("/v1/invites", headers=own, **ask).status_code == 201
        problem(
            browser.post("/v1/invites", headers=own | {"authorization": "Bearer nonsense"}, **ask),
            401,
            "not-authenticated",
        )
    with api.client(origin="https://evil.example") as stranger:
        problem(stranger.post("/v1/log-in", json={"name": "ann", "password": PASSWORD}), 403, "forbidden")


def test_guessing_passwords_is_slowed_and_tells_nothing(api):
    with api.client() as guesser:
        told = [
            guesser.post("/v1/log-in", json={"name": name, "password": f"guess number {n}"})
            for n, name in enumerate(["mallory"] * 2 + ["root"])
        ]
        words = {problem(each, 401, "not-authenticated")["detail"] for each in told}
        assert len(words) == 1
        while (
            answer := guesser.post("/v1/log-in", json={"name": "mallory", "password": "again"})
        ).status_code == 401:
            pass
    problem(answer, 429, "too-many")
    assert int(answer.headers["retry-after"]) >= 1


# ── work ──────────────────────────────────────────────────────────────────────────────────────────────


def test_work_is_handed_in_awaited_listed_and_explained(api):
    with api.of(Role.OPERATOR) as operator:
        accepted = operator.post("/v1/tasks", json={"function": "toys.add", "kwargs": {"a": 1, "b": 2}})
        task = accepted.json()["task"]
        assert (accepted.status_code, accepted.headers["location"]) == (202, f"/v1/tasks/{task}")

        ended = operator.get(f"/v1/tasks/{task}/result?wait_s=30").json()

        assert (ended["state"], ended["value"], ended["log"]) == ("done", 3, "adding 1 2\n")
        assert operator.get(f"/v1/tasks/{task}").json()["place"] == "gateway"
        listed = operator.get("/v1/tasks?state=done&function=toys.add&node=gateway").json()["tasks"]
        assert task in [row["id"] for row in listed]
        assert any(each["id"] == task for each in operator.get(f"/v1/tasks/{task}/why").json()["entries"])
        assert operator.post(f"/v1/tasks/{task}/cancel").json() == {"task": task, "cancelled": False}


def test_a_task_tells_what_was_asked_for_is_found_by_its_id_and_is_looked_back_upon(api):
    with api.of(Role.OPERATOR) as operator:
        work = {"function": "toys.add", "kwargs": {"a": 40, "b": 2}, "priority": 7, "where": "local"}
        task = operator.post("/v1/tasks", json=work).json()["task"]
        operator.get(f"/v1/tasks/{task}/result?wait_s=30")

        asked = operator.get(f"/v1/tasks/{task}").json()["asked"]
        assert (asked["priority"], asked["where"], asked["origin"]) == (7, "local", "gateway")
        assert len(bytes.fromhex(asked["input_sha256"])) == 32 and asked["input_bytes"] > 0
        assert [each["ended_as"] for each in asked["attempts"]] == ["done"]

        for begins in (task, task[:20]):
            found = operator.get("/v1/tasks", params={"begins": begins}).json()
            assert [row["id"] for row in found["tasks"]] == [task]
        assert operator.get("/v1/tasks", params={"begins": "zz"}).json() == {"tasks": [], "next": ""}
        assert operator.get("/v1/tasks", params={"begins": "UL"}).status_code == 422

        placed = operator.get("/v1/placement").json()
        decision = next(each for each in placed["decisions"] if each["task"] == task)
        assert (decision["place"], decision["rule"], decision["state"]) == ("gateway", "as asked", "done")
        cell = next(each for each in placed["cells"] if each["function"] == "toys.add")
        assert cell["place"] == "gateway" and cell["runs"] >= 1 and cell["learned_runs"] >= 1


PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_task_is_part_of_its_callers_trace(api, tmp_path):
    source = b"""
import os
from edge_node.functions import function

@function
def context():
    return [os.environ.get("TRACEPARENT"), os.environ.get("TRACESTATE")]
"""

    def handed_in(*headers):
        answer = operator.post("/v1/tasks", json={"function": "traced.context"}, headers=list(headers)).json()
        value = operator.get(f"/v1/tasks/{answer['task']}/result?wait_s=30").json()["value"]
        return answer["task"], answer.get("traceparent"), value

    with api.of(Role.ADMIN) as admin:
        assert admin.post("/v1/functions?file=traced.py", content=source).status_code == 201
    with api.of(Role.OPERATOR) as operator:
        task, parent, (seen, state) = handed_in(
            ("traceparent", PARENT), ("tracestate", "rojo=1"), ("tracestate", "congo=2")
        )
        assert (parent, state) == (PARENT, "rojo=1,congo=2")
        assert (seen[:36], seen[52:]) == (PARENT[:36], "-01") and seen[36:52] == span_id(task, "run", 1)
        story = operator.get(f"/v1/tasks/{task}/why").json()["entries"]
        assert [each["details"].get("traceparent") for each in story if each["what"] == "accepted"] == [
            PARENT
        ]

        _, begun, (seen, _) = handed_in(("traceparent", PARENT.upper()), ("tracestate", "rojo=1"))
        assert begun[3:35] != PARENT[3:35] and seen[3:35] == begun[3:35], "section 4.3: a new one begins"
        _, twice, _ = handed_in(("traceparent", PARENT), ("traceparent", PARENT))
        assert twice[3:35] not in (begun[3:35], PARENT[3:35])
        assert handed_in()[1:] == (None, [None, None]), "nothing is left of the run before"

        once = {"idempotency-key": '"traced"', "traceparent": PARENT}
        work = {"json": {"function": "traced.context"}}
        first = operator.post("/v1/tasks", headers=once, **work).json()
        other = PARENT.replace("00f067aa0ba902b7", "00f067aa0ba902b8")
        again = operator.post("/v1/tasks", headers=once | {"traceparent": other}, **work).json()
        assert (first["traceparent"], again) == (PARENT, {"task": first["task"], "state": "accepted"})


def test_a_failure_is_told_without_its_traceback(api):
    with api.of(Role.OPERATOR) as operator:
        task = operator.post("/v1/tasks", json={"function": "toys.fail", "args": ["so it is"]}).json()["task"]
        answer = operator.get(f"/v1/tasks/{task}/result?wait_s=30")

    assert answer.json()["error"] == {"kind": "raised", "type": "ValueError", "message": "so it is"}
    assert "Traceback" not in answer.text


def test_a_task_that_waits_is_told_to_wait_and_can_be_called_off(api, bed):
    with api.of(Role.OPERATOR) as operator:
        flag = bed.path / "never"
        task = operator.post("/v1/tasks", json={"function": "toys.until", "args": [str(flag)]}).json()["task"]
        waiting = operator.get(f"/v1/tasks/{task}/result")
        assert (waiting.status_code, waiting.json()["settled"]) == (202, False)
        assert task in [row["id"] for row in operator.get("/v1/tasks?state=open").json()["tasks"]]

        assert operator.post(f"/v1/tasks/{task}/cancel").json()["cancelled"] is True
        assert operator.get(f"/v1/tasks/{task}/result?wait_s=30").json()["state"] == "cancelled"


def test_the_same_key_makes_one_task(api):
    with api.of(Role.OPERATOR) as operator, api.of(Role.ADMIN) as other:
        ask = {"json": {"function": "toys.add", "args": [4]}, "headers": {"idempotency-key": '"once"'}}
        first, again = operator.post("/v1/tasks", **ask), operator.post("/v1/tasks", **ask)
        assert first.status_code == again.status_code == 202 and first.json() == again.json()
        others = other.post("/v1/tasks", **ask).json()["task"]
        assert others != first.json()["task"], "a key belongs to who sent it"

        ask["json"] = {"function": "toys.add", "args": [5]}
        told = problem(operator.post("/v1/tasks", **ask), 422, "key-reused")
        assert told["field"] == "header.idempotency-key"
        refused = {"json": {"function": "toys.add", "args": [4], "where": "pi-99"}}
        for _ in range(2):
            answer = operator.post("/v1/tasks", headers={"idempotency-key": "refused"}, **refused)
            problem(answer, 409, "refused")


def test_pages_join_and_a_cursor_fits_its_own_list(api):
    with api.of(Role.OPERATOR) as operator:
        made = [
            operator.post("/v1/tasks", json={"function": "toys.size", "args": ["x" * n]}).json()["task"]
            for n in range(7)
        ]
        found, cursor = [], ""
        while True:
            page = operator.get(
                "/v1/tasks", params={"function": "toys.size", "limit": 3, "cursor": cursor}
            ).json()
            found += [row["id"] for row in page["tasks"]]
            if not page["next"]:
                break
            cursor = page["next"]
        assert sorted(found) == sorted(made)
        for params in ({"cursor": cursor}, {"cursor": "nonsense"}, {"cursor": "gqE"}):
            told = problem(operator.get("/v1/tasks", params=params), 422, "invalid")
            assert told["field"] == "query.cursor"


def test_the_metrics_are_as_prometheus_reads_them(api):
    with api.of(Role.OPERATOR) as operator:
        accepted = operator.post("/v1/tasks", json={"function": "toys.add", "args": [1]})
        assert accepted.status_code == 202
    with api.of(Role.VIEWER) as viewer:
        answer = viewer.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "\n# TYPE edgeweave_" in answer.text
    named = 'edgeweave_http_requests_total{method="POST",route="/v1/tasks",status="202"} '
    assert int(answer.text.split(named)[1].split("\n")[0]) > 0
    assert "\nedgeweave_http_streams " in answer.text


# ── what changes by version ───────────────────────────────────────────────────────────────────────────


def test_a_change_of_what_somebody_else_changed_is_refused(api):
    with api.of(Role.ADMIN) as admin:
        made = admin.post("/v1/users", json={"name": "bob", "password": PASSWORD})
        old = {"if-match": made.headers["etag"]}
        assert admin.patch("/v1/users/bob", json={"role": "operator"}, headers=old).status_code == 200
        problem(admin.patch("/v1/users/bob", json={"role": "viewer"}, headers=old), 412, "stale")
        problem(admin.delete("/v1/users/bob", headers=old), 412, "stale")
        assert admin.get("/v1/users/bob").json()["role"] == "operator"
        assert admin.delete("/v1/users/bob").status_code == 204

        doc = admin.post("/v1/state/tables/rooms", json={"setpoint_c": 20}).headers["location"]
        old = {"if-match": admin.get(doc).headers["etag"]}
        assert admin.patch(doc, json={"fan": "low"}).status_code == 200
        for method in ("put", "patch"):
            problem(getattr(admin, method)(doc, json={"fan": "off"}, headers=old), 412, "stale")
        problem(admin.delete(doc, headers=old), 412, "stale")
        new = admin.get(doc)
        assert new.json()["document"] == {"setpoint_c": 20, "fan": "low"}
        put = admin.put(doc, json={"fan": "off"}, headers={"if-match": new.headers["etag"]})
        assert put.status_code == 200 and admin.get(doc).json()["document"] == {"fan": "off"}

        source = b"from edge_node.functions import function\n\n\n@function\ndef f() -> int:\n    return %d\n"
        admin.post("/v1/functions?file=changing.py", content=source % 1)
        old = {"if-match": admin.get("/v1/functions/changing.f").headers["etag"]}
        deployed = admin.post("/v1/functions?file=changing.py", content=source % 2, headers=old)
        assert deployed.status_code == 201
        problem(admin.post("/v1/functions?file=changing.py", content=source % 3, headers=old), 412, "stale")
        problem(admin.post("/v1/functions/changing.f/rollback", headers=old), 412, "stale")
        assert admin.post("/v1/functions/changing.f/rollback").status_code == 200
        assert len(admin.get("/v1/functions/changing.f/history").json()["versions"]) == 3


def test_changes_are_in_the_audit_log_with_who_made_them(api, bed):
    with api.of(Role.OPERATOR) as operator:
        operator.post("/v1/tasks", json={"function": "toys.fail", "args": ["so it is"]})
        waits = {"function": "toys.until", "args": [str(bed.path / "never")]}
        task = operator.post("/v1/tasks", json=waits).json()["task"]
        assert operator.post(f"/v1/tasks/{task}/cancel").json()["cancelled"] is True
    with api.of(Role.ADMIN) as admin:
        admin.post("/v1/invites", json={"ttl_s": 60, "name": "pi-77"})
        entries, after = [], 0
        while True:
            page = admin.get("/v1/audit", params={"after": after, "limit": 50}).json()
            entries += page["entries"]
            if not (after := page["next"]):
                break
        newest = admin.get("/v1/audit", params={"before": 2**53 - 1, "limit": 2}).json()["entries"]
        assert newest == entries[-2:]
        assert admin.get("/v1/audit", params={"before": 2, "limit": 50}).json()["entries"] == entries[:1]
        assert admin.get("/v1/audit", params={"before": 1}).json()["entries"] == []
        assert admin.get("/v1/audit/verify").json() == {
            "entries": len(entries),
            "broken_at": None,
            "reason": "",
        }

    assert [each["n"] for each in entries] == list(range(1, len(entries) + 1))
    assert any(each["who"].startswith("token:all-admin") and "invite" in each["what"] for each in entries)
    handed_in = {each["target"]: each for each in entries if each["what"] == "task.submit"}
    called_off = [each for each in entries if each["what"] == "task.cancel"]
    assert task in [each["target"] for each in called_off]
    for each in called_off:
        assert each["who"] == handed_in[each["target"]]["who"] and each["who"].startswith(
            "token:all-operator"
        )
        assert each["before"] == {"function": "toys.until"}
        assert handed_in[each["target"]]["after"] == {"function": "toys.until", "where": "any"}
    text = json.dumps(entries)
    assert "so it is" not in text, "what a function is given is no part of it"
    assert PASSWORD not in text and not any(token in text for token in api.tokens.values())


def test_twins_are_wished_for_and_conflicts_are_listed(api):
    with api.of(Role.OPERATOR) as operator:
        assert operator.patch("/v1/twins/gateway", json={"fan": "low"}).status_code == 204
        twin = operator.get("/v1/twins/gateway").json()
        assert twin == {"node": "gateway", "desired": {"fan": "low"}, "reported": {}, "delta": {"fan": "low"}}
        assert operator.get("/v1/state/conflicts").json() == {"conflicts": [], "total": 0}
        problem(operator.patch("/v1/twins/gateway", json={"node": "x"}), 422, "invalid")


def test_counters_and_sets_are_read_and_changed(api):
    with api.of(Role.OPERATOR) as operator, api.of(Role.VIEWER) as viewer:
        counter, tags = "/v1/state/counters/doors", "/v1/state/sets/tags"
        assert viewer.get(counter).json() == {"name": "doors", "value": 0}
        assert operator.post(counter, json={"add": 5}).json()["value"] == 5
        assert operator.post(counter, json={"add": -2}).json()["value"] == 3
        problem(operator.post(counter, json={"add": 2**63}), 422, "invalid")

        change = operator.patch(tags, json={"add": ["b", "a", "c"], "discard": ["z"]})
        assert change.status_code == 204
        assert operator.patch(tags, json={"discard": ["b"]}).status_code == 204
        first = viewer.get(tags, params={"limit": 1}).json()
        assert first["elements"] == ["a"]
        last = viewer.get(tags, params={"limit": 1, "cursor": first["next"]}).json()
        assert (last["elements"], last["next"]) == (["c"], "")
        problem(operator.patch(tags, json={"add": ["x"], "discard": ["x"]}), 422, "invalid")

        declared = operator.post("/v1/state/tables/halls/declare", json={"key": "id"}).json()
        assert declared["key"] == "id"
        problem(operator.post("/v1/state/tables/halls/declare", json={"key": "name"}), 422, "invalid")


def test_functions_are_judged_by_their_newest_tasks(api):
    with api.of(Role.OPERATOR) as operator:
        task = operator.post("/v1/tasks", json={"function": "toys.fail"}).json()["task"]
        assert operator.get(f"/v1/tasks/{task}/result", params={"wait_s": 30}).json()["state"] == "failed"
        told = operator.get("/v1/statistics/functions", params={"function": "toys.fail"}).json()
    assert [each["name"] for each in told["functions"]] == ["toys.fail"]
    figures = told["functions"][0]
    assert figures["failed"] >= 1 and figures["done"] == 0 and figures["median_s"] is None
    assert figures["places"] == {"gateway": figures["tasks"]}


def test_a_log_level_is_changed_for_a_while_and_noted(api):
    change = {"logger": "gateway.access", "level": "debug", "for_s": 60}
    with api.of(Role.ADMIN) as admin:
        assert admin.put("/v1/log-level", json=change).json()["level"] == "debug"
        (differs,) = admin.get("/v1/log-level").json()["changed"]
        assert (differs["logger"], differs["for_s"]) == ("gateway.access", 60)
        assert admin.put("/v1/log-level", json={**change, "level": "default"}).json()["changed"] == []
        problem(admin.put("/v1/log-level", json={**change, "logger": "nobody"}), 422, "invalid")
        noted = admin.get("/v1/audit", params={"limit": 500}).json()["entries"]
    levels = [each for each in noted if each["what"] == "gateway.log-level"]
    assert [each["target"] for each in levels] == ["gateway.access"] * 2


def test_open_codes_are_listed_without_the_codes(api):
    with api.of(Role.OPERATOR) as operator:
        code = operator.post("/v1/invites", json={"ttl_s": 90, "name": "pi-88"}).json()
        listed = operator.get("/v1/invites")
    (invite,) = [each for each in listed.json()["invites"] if each["name"] == "pi-88"]
    assert invite["approval"] == "auto" and abs(invite["expires_at_ms"] - code["expires_at_ms"]) <= 1000
    assert invite["id"] == code["id"] and code["code"] not in listed.text


def test_an_open_code_is_withdrawn_once_and_noted_with_what_it_was_for(api):
    with api.of(Role.OPERATOR) as operator, api.of(Role.ADMIN) as admin:
        made = operator.post("/v1/invites", json={"ttl_s": 90, "name": "pi-89", "roles": ["store"]}).json()
        one = f"/v1/invites/{made['id']}"
        gone = operator.delete(one)
        assert (gone.status_code, gone.content) == (204, b"")
        assert made["id"] not in operator.get("/v1/invites").text
        again = problem(operator.delete(one), 404, "not-found")
        assert "an operator withdrew it" in again["detail"] and again["fix"]
        unknown = problem(operator.delete("/v1/invites/zzzzzz"), 404, "not-found")
        assert "no join code has the id zzzzzz" in unknown["detail"]
        problem(operator.delete(f"/v1/invites/{made['code']}"), 422, "invalid")
        noted = admin.get("/v1/audit", params={"before": 2**53 - 1, "limit": 2}).json()["entries"]

    assert [each["what"] for each in noted] == ["node.invite", "node.withdraw"], "what was refused is not"
    assert noted[0]["after"]["id"] == noted[1]["target"] == made["id"]
    assert (noted[1]["before"]["name"], noted[1]["before"]["roles"]) == ("pi-89", ["store"])
    assert noted[1]["after"] is None and noted[1]["who"].startswith("token:all-operator")
    assert made["code"] not in json.dumps(noted)


def test_what_a_deployment_would_change_is_told_before_it_does(api):
    source = "from edge_node.functions import function\n\n\n@function%s\ndef f(%s) -> int:\n    return 1\n"
    before, after = source % ("", "a: int"), source % ("(timeout_s=5)", "a: int, b: int = 2")
    with api.of(Role.ADMIN) as admin, api.of(Role.VIEWER) as viewer:
        url = "/v1/functions?file=looked.py&look=true"
        (row,) = admin.post(url, content=before).json()["functions"]
        assert (row["new"], row["version"], row["before"]) == (True, 1, None)
        problem(viewer.get("/v1/functions/looked.f"), 404, "not-found")

        other = "\n\n@function\ndef g() -> int:\n    return 2\n"
        assert admin.post("/v1/functions?file=looked.py", content=before + other).status_code == 201
        looked = admin.post(url, content=after).json()
        (row,) = looked["functions"]
        assert (row["version"], looked["stay"]) == (2, ["looked.g"])
        assert row["before"]["signature"] == "looked.f(a: int) -> int"
        assert row["after"]["signature"] == "looked.f(a: int, b: int = …) -> int"
        assert (row["before"]["timeout_s"] == row["after"]["timeout_s"], row["after"]["timeout_s"]) == (
            False,
            5,
        )
        told = problem(admin.post(url, content="def f(:"), 422, "invalid")
        assert "looked.py:1" in told["detail"]

        assert admin.post("/v1/functions?file=looked.py", content=after).status_code == 201
        kept = viewer.get("/v1/functions/looked.f/source").json()
        assert (kept["version"], kept["file"], kept["source"]) == (2, "looked.py", after)
        assert [(each["name"], each["has_default"]) for each in kept["params"]] == [("a", False), ("b", True)]
        assert (kept["line"], kept["returns"], kept["params"][0]["annotation"]) == (5, "int", "int")
        assert viewer.get("/v1/functions/looked.f/source?version=1").json()["source"] == before + other
        problem(viewer.get("/v1/functions/looked.f/source?version=9"), 404, "not-found")


# ── bad input ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind", "field"),
    [
        ("POST", "/v1/tasks", b"{", 400, "malformed", "body.1"),
        ("POST", "/v1/tasks", b"\xff\xfe", 400, "malformed", None),
        ("POST", "/v1/tasks", b"[" * 100_000, 400, "malformed", None),
        ("POST", "/v1/tasks", b'{"function": "toys.add", "kwargs": {"a": "\\ud800"}}', 422, "invalid", None),
        ("POST", "/v1/tasks", b'{"function": "toys.add", "when": 5}', 422, "invalid", "body.when"),
        ("POST", "/v1/tasks", b'{"function": "toys.add"}', 422, "invalid", None),
        ("POST", "/v1/tasks", b'{"function": "toys.nope"}', 422, "invalid", None),
        ("POST", "/v1/tasks", b'{"function": "toys.add", "where": "../x"}', 422, "invalid", "body.where"),
        ("GET", "/v1/tasks?limit=0", b"", 422, "invalid", "query.limit"),
        ("GET", "/v1/tasks?state=odd", b"", 422, "invalid", None),
        ("GET", "/v1/tasks/" + "0" * 23, b"", 404, "not-found", None),
        ("GET", "/v1/tasks/%2e%2e%2f%2e%2e%2fetc", b"", 404, "not-found", None),
        ("GET", "/v1/nodes/pi-99", b"", 404, "not-found", None),
        ("POST", "/v1/nodes/pi-99/revoke", b"{}", 404, "not-found", None),
        ("POST", "/v1/nodes/gateway/revoke", b"{}", 422, "invalid", None),
        ("GET", "/v1/nodes/..", b"", 404, "not-found", None),
        ("GET", "/v1/functions/toys.ad", b"", 404, "not-found", None),
        ("POST", "/v1/functions?file=../../evil.py", b"x = 1", 422, "invalid", "query.file"),
        ("POST", "/v1/functions?file=a%00b.py", b"x = 1", 422, "invalid", "query.file"),
        ("POST", "/v1/functions?file=bad.py", b"def (", 422, "invalid", None),
        ("POST", "/v1/pending/pi-99/approve", b"", 404, "not-found", None),
        ("GET", "/v1/state/tables/rooms?where=oops", b"", 422, "invalid", "query.where"),
        ("GET", "/v1/state/tables/rooms/99999999999999999999", b"", 422, "invalid", "path.doc_id"),
        ("GET", "/v1/state/tables/rooms/9999999999999999999", b"", 404, "not-found", None),
        ("POST", "/v1/state/tables/rooms", b'{"a": NaN}', 422, "invalid", None),
        ("GET", "/v1/users/nobody", b"", 404, "not-found", None),
        ("POST", "/v1/users", b'{"name": "A B", "password": "correct horse bat"}', 422, "invalid", None),
        ("POST", "/v1/users", b'{"name": "short", "password": "short"}', 422, "invalid", None),
        ("DELETE", "/v1/users/ann", b"", 409, "refused", None),
        ("GET", "/v1/events?after=nonsense", b"", 422, "invalid", "query.after"),
        ("GET", "/v1/why/nothing-at-all", b"", 404, "not-found", None),
        ("GET", "/v1/nope", b"", 404, "not-found", None),
        ("GET", "/../../etc/passwd", b"", 404, "not-found", None),
        ("DELETE", "/v1/tasks", b"", 405, "method", None),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_with_field_cause_and_fix(api, method, path, body, status, kind, field):
    with api.of(Role.ADMIN) as admin:
        answer = admin.request(method, path, content=body, headers={"content-type": "application/json"})

    told = problem(answer, status, kind)
    assert told.get("field") == field or field is None, told
    assert told.get("fix"), told


def test_secrets_in_a_bad_body_are_not_repeated(api):
    with api.client() as anybody:
        answer = anybody.post(
            "/v1/log-in", json={"name": "ann", "password": ["my secret word"], "pin": "4711"}
        )
    problem(answer, 422, "invalid")
    assert "my secret word" not in answer.text and "4711" not in answer.text


def test_too_much_is_refused_before_it_is_read(api):
    with api.of(Role.ADMIN) as admin:
        problem(admin.post("/v1/invites", content=b"x" * 70_000), 413, "too-large")

        def parts():
            for _ in range(70):
                yield b"x" * 1000

        problem(admin.post("/v1/invites", content=parts()), 413, "too-large")
        problem(admin.post("/v1/functions?file=big.py", content=b"#" * 1_100_000), 413, "too-large")
    with api.client() as stranger:
        problem(stranger.post("/v1/tasks", content=b"x" * 70_000), 401, "not-authenticated")


def test_headers_cannot_be_smuggled(api):
    """A name that ends up in a header of the answer stays one word of it."""
    with api.of(Role.ADMIN) as admin:
        answer = admin.post("/v1/state/tables/a%0d%0aset-cookie:%20x=1", json={"a": 1})
    assert answer.status_code == 201
    assert "set-cookie" not in answer.headers and "%0D%0A" in answer.headers["location"]
    raw = b"GET /v1/me HTTP/1.1\r\nHost: x\r\nX-A: b\x00c\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"
    host, _, port = api.gateway.ready["joining"].rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=20) as plain,
        api.tls().wrap_socket(plain) as line,
    ):
        line.sendall(raw)
        assert line.recv(4096).startswith(b"HTTP/1.1 400")


# ── events ────────────────────────────────────────────────────────────────────────────────────────────


async def followed(api, last_id, enough, subject="", on_open=lambda: None):
    """Events of a stream, from *last_id* on, until *enough* of them; as a browser reads them."""
    headers = {"authorization": f"Bearer {api.tokens[Role.VIEWER]}"}
    if last_id:
        headers["last-event-id"] = last_id
    found, data, cursor = [], None, ""
    async with (
        httpx.AsyncClient(base_url=api.base, verify=api.tls(), timeout=60) as client,
        client.stream("GET", f"/v1/events{subject}", headers=headers) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        on_open()
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                cursor = line[4:]
            elif line.startswith("data: "):
                data = json.loads(line[6:])
            elif not line and data is not None:
                found.append((cursor, data))
                data = None
                if enough(found):
                    break
    return found


def noted(client):
    """Something of which the chronicle tells: a submit that no member can take. Returns: its cause."""
    answer = client.post("/v1/tasks", json={"function": "toys.add", "args": [1], "where": "pi-99"})
    return problem(answer, 409, "refused")["cause"]


def test_events_go_on_where_they_stopped_over_a_restart(bed, api):
    """Also a key: the same submit after a restart is the task from before it."""

    def heard(causes):
        return lambda found: causes <= {data["cause"] for _, data in found}

    with api.of(Role.OPERATOR) as operator:
        ask = {
            "json": {"function": "toys.add", "args": [4]},
            "headers": {"idempotency-key": "over-a-restart"},
        }
        task = operator.post("/v1/tasks", **ask).json()["task"]
        first = {noted(operator) for _ in range(3)}
    before = asyncio.run(asyncio.wait_for(followed(api, "0-00000000", heard(first)), 60))
    with api.of(Role.OPERATOR) as operator:
        second = {noted(operator) for _ in range(3)}
    api.gateway.term()
    api.gateway.start()
    with api.of(Role.OPERATOR) as operator:
        third = {noted(operator) for _ in range(3)}
        assert operator.post("/v1/tasks", **ask).json()["task"] == task

    after = asyncio.run(asyncio.wait_for(followed(api, before[-1][0], heard(second | third)), 60))

    numbers = [data["number"] for _, data in before + after]
    assert numbers == list(range(1, len(numbers) + 1)), "none is missing, none told twice"
    assert not any("missed" in data for _, data in before + after)
    with api.of(Role.VIEWER) as viewer:
        page = viewer.get("/v1/events/page", params={"after": before[-1][0], "limit": 500}).json()
    assert [each["cursor"] for each in page["events"]][: len(after)] == [cursor for cursor, _ in after]


def test_a_stream_tells_only_what_was_asked_for_and_a_lost_place(api):
    with api.of(Role.OPERATOR) as operator:
        cause = noted(operator)
    told = asyncio.run(
        asyncio.wait_for(
            followed(
                api, "999999-00000000", lambda found: found[-1][1].get("cause") == cause, "?subject=refusal"
            ),
            60,
        )
    )
    assert told[0][1] == {"missed": True}
    assert {data["subject"] for _, data in told[1:]} == {"refusal"}


def test_a_node_rests_as_long_as_it_is_told_to(bed, api):
    """Over its restart too; then it takes work again."""
    node = bed.join("pi-1").start().connected()
    api.gateway.until("pi-1 is up", lambda s: "pi-1" in s["peers_up"])

    def rests(wanted):
        node.until(f"resting {wanted}", lambda s: s["tasks"]["resting"] is wanted)

    with api.of(Role.OPERATOR) as operator:
        one = operator.get("/v1/nodes/pi-1").json()
        assert (one["work"], one["workers"], one["lent"]) == ("work", 2, 0)
        assert one["software"] == operator.get("/v1/nodes/gateway").json()["software"] != ""
        (key,) = one["keys"]
        assert len(key["words"].split()) == 6 and len(key["fingerprint"]) == 64
        assert key["until_at_ms"] - key["since_at_ms"] == (30 * 24 + 1) * 3_600_000, "dated back an hour"
        paused = operator.post("/v1/nodes/pi-1/pause").json()
        assert paused == {"node": "pi-1", "work": "pause", "before": "work", "told": True}
        rests(True)
        node.term()
        drained = operator.post("/v1/nodes/pi-1/drain", json={"reason": "a new\ndisk"}).json()
        assert drained["before"] == "pause"
        node.start().connected()
        api.gateway.until("pi-1 is up again", lambda s: "pi-1" in s["peers_up"])
        rests(True)
        story = operator.get("/v1/why/pi-1").json()["entries"]
        wished = [(each["node"], each["details"]) for each in story if each["what"] == "rested"]
        assert {node for node, _ in wished} == {"gateway", "pi-1"}, "who asked it, and who was asked"
        for _, details in wished[-1:]:
            assert (details["mode"], details["reason"]) == ("drain", "a new disk")
            assert details["by"].startswith("token:all-operator") and details["asked_at_ms"]
        turned_down = {"function": "toys.add", "args": [1], "where": "pi-1"}
        task = operator.post("/v1/tasks", json=turned_down).json()["task"]

        def causes(what):
            story = operator.get(f"/v1/tasks/{task}/why").json()["entries"]
            return {each["cause"] for each in story if each["what"] == what}

        until("refused because of the rest", lambda: causes("refused") & causes("rested"))
        assert operator.get("/v1/nodes?limit=1").json()["nodes"][0]["id"] == "gateway"
        assert operator.post("/v1/nodes/pi-1/resume").json()["work"] == "work"
        rests(False)
    told = bed.cli(api.gateway, "pause", "gateway", "--json").value
    assert (told["work"], told["told"]) == ("pause", True)
    api.gateway.until("it rests", lambda s: s["tasks"]["resting"])
    assert bed.cli(api.gateway, "resume", "gateway").text == "gateway takes work of others"
    node.term()
    with api.of(Role.OPERATOR) as operator:
        revoked = operator.post("/v1/nodes/pi-1/revoke", json={"reason": "lost"}).json()
        assert (revoked["node"], revoked["already"], revoked["reason"]) == ("pi-1", False, "lost")
        assert revoked["by"].startswith("token:all-operator")
        assert operator.get("/v1/nodes/pi-1").json()["status"] == "revoked"


def test_a_stream_does_not_hold_up_the_end(bed, api):
    """Many follow, and a gateway that is told to stop stops."""

    async def all_of_them():
        opened = asyncio.Semaphore(0)

        async def one():
            with contextlib.suppress(httpx.HTTPError):  # the connection ends with the gateway
                await followed(api, "", lambda found: False, on_open=opened.release)

        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(one())
            for _ in range(20):
                await opened.acquire()
            await asyncio.to_thread(api.gateway.term)

    asyncio.run(asyncio.wait_for(all_of_them(), 60))
    api.gateway.start()
