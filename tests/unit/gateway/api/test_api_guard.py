"""The guard and the problems, in one process: what no healthy gateway can be made to show."""

from __future__ import annotations

import asyncio
import logging
import re

import httpx
import pytest
from fastapi import FastAPI, Response

from edge_node.clock import SystemClock
from edge_node.control import protocol
from gateway.access.access import Access
from gateway.access.passwords import Cost
from gateway.access.roles import SCOPES, Role
from gateway.api import routes
from gateway.api.answers import room
from gateway.api.guard import BODY_BYTES_MAX, LARGE_BODIES_MAX, needs
from gateway.api.openapi import guarded_routes
from gateway.api.services import Services
from security.errors import BadInput, Refused, Unavailable

PASSWORD = "correct horse battery staple"
JSON = {"content-type": "application/json"}
CHEAP = Cost(memory_kib=64, passes=1, lanes=1)


class Broken:
    """A backend under which everything goes wrong, each time as the test says."""

    def __init__(self):
        self.error = RuntimeError("a secret of the inside")
        self.failure = None

    async def call(self, method, params):
        raise self.error

    def submit(self, request, reply, *, task=""):
        if self.failure is None:
            raise self.error
        reply(self.failure)

    result = cancel = submit


@pytest.fixture
async def served(tmp_path):
    """(client of a peer, backend, services): the whole app over ASGI, with real accounts."""
    access = Access(tmp_path, cost=CHEAP)
    await access.open()
    await access.set_up(access.setup_secret, "ann", PASSWORD)
    _, ann = await access.log_in("ann", PASSWORD, "127.0.0.1")
    _, secret = await access.add_token(ann, "admin", Role.ADMIN, None, 3600)
    backend = Broken()
    services = Services(
        backend, access, home=tmp_path, clock=SystemClock(), lan=False, entropy=lambda n: bytes(n), body_s=0.2
    )
    app = FastAPI(openapi_url=None)
    routes.install(app, services)

    def client(address="127.0.0.1", bearer=secret):
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(app, client=(address, 4711)),
            base_url="https://gateway",
            headers={"authorization": f"Bearer {bearer}"},
        )

    yield client, backend, services
    services.close()
    await access.close()


def test_a_route_that_says_not_what_it_needs_cannot_be_made():
    async def forgotten() -> Response: ...

    with pytest.raises(TypeError, match="say what it needs"):
        room("nodes").get("/forgotten")(forgotten)


def test_every_route_needs_a_scope_that_there_is_and_every_change_more_than_to_look():
    for route in guarded_routes(routes.routers()):
        assert route.need.scope in SCOPES | {""}, route.path
        if route.need.scope.endswith(":write"):
            assert route.need.role >= Role.OPERATOR or route.path == "/v1/users/{name}/password"
        if route.methods & {"PUT", "PATCH", "DELETE"}:
            assert route.need.scope.endswith(":write"), route.path


def test_a_need_bounds_what_is_read():
    sizes = {route.name: route.need.bytes_max for route in guarded_routes(routes.routers())}
    assert max(sizes.values()) == sizes["submit"] == 8 * 2**20
    assert needs(Role.VIEWER, "")(lambda: None).__edgeweave_need__.bytes_max == 64 * 1024


async def test_our_own_mistake_is_told_by_an_id_and_logged_with_its_story(served, caplog):
    client, _, _ = served
    with caplog.at_level(logging.ERROR):
        answer = await client().get("/v1/nodes")

    told = answer.json()
    assert (answer.status_code, told["type"]) == (500, "urn:edgeweave:problem:internal")
    assert "inside" not in answer.text and "Traceback" not in answer.text
    (record,) = [each for each in caplog.records if each.name == "gateway.api.problems"]
    assert record.cause == told["cause"] == answer.headers["x-request-id"]
    assert "a secret of the inside" in str(record.exc_info[1])


@pytest.mark.parametrize(
    ("error", "status", "after"),
    [
        (Unavailable("the disk hangs", fix="look", retry_after_s=7), 503, "7"),
        (Refused("no room", fix="make some"), 409, None),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), 400, None),
    ],
)
async def test_each_kind_of_error_has_its_status(served, error, status, after):
    client, backend, _ = served
    backend.error = error

    answer = await client().get("/v1/roster")

    assert (answer.status_code, answer.headers.get("retry-after")) == (status, after)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_refusal_of_work_leads_to_its_story(served):
    client, backend, _ = served
    for reason, status in (("outbox full", 503), ("labels do not match", 409)):
        extra = {"reason": reason, "cause": "r-gateway-7"}
        backend.failure = protocol.Failure(0, protocol.REFUSED, reason, "wait", extra)

        answer = await client().post(
            "/v1/tasks", json={"function": "f.g"}, headers={"idempotency-key": str(status)}
        )

        assert (answer.status_code, answer.json()["cause"]) == (status, "r-gateway-7")
        assert ("retry-after" in answer.headers) == (status == 503)


@pytest.mark.slow
@pytest.mark.parametrize("error", [BadInput("no such thing"), Refused("not now")])
async def test_whatever_is_refused_names_field_cause_and_fix(served, error):
    """Every route, asked by nobody, by who may only look, and with what fits nowhere."""
    client, backend, services = served
    backend.error = error
    _, ann = await services.access.log_in("ann", PASSWORD, "127.0.0.1")
    _, look = await services.access.add_token(ann, "look", Role.VIEWER, ["metrics:read"], 3600)
    nobody, looker, admin = client(bearer="ewt_a_b"), client(bearer=look), client()
    wrong, asked = [], 0
    for route in guarded_routes(routes.routers()):
        path = re.sub(r"\{[a-z_]+\}", "7", route.path)
        for method in sorted({*route.methods, "PROPFIND"}):
            bodies = [b""] if method == "GET" else [b"", b"{", b"{}", b'{"name": "A B", "password": "x"}']
            for asker, body in [(nobody, b""), (looker, b""), *((admin, each) for each in bodies)]:
                answer = await asker.request(method, path, content=body, headers=JSON)
                if 400 <= answer.status_code < 500:
                    asked += 1
                    told = answer.json()
                    if not all(told.get(each) for each in ("field", "detail", "fix", "cause", "instance")):
                        wrong.append((method, path, body, told))

    assert wrong == []
    assert asked > 500


@pytest.mark.parametrize(
    ("method", "path", "sent", "field"),
    [
        ("POST", "/v1/users", {"name": "A B", "password": PASSWORD}, "body.name"),
        ("POST", "/v1/users", {"name": "bob", "password": "short"}, "body.password"),
        ("PUT", "/v1/users/ann/password", {"password": "short"}, "body.password"),
        ("POST", "/v1/set-up", {"name": "bob", "password": PASSWORD, "secret": "x"}, "body.secret"),
        ("POST", "/v1/log-in", {"name": "bob", "password": PASSWORD}, "body"),
        ("POST", "/v1/tokens", {"name": "t", "ttl_s": 1}, "body.ttl_s"),
        ("POST", "/v1/tokens", {"name": "t", "scopes": ["nodes:eat"]}, "body.scopes"),
        ("POST", "/v1/tokens", {"name": "A B"}, "body.name"),
        ("DELETE", "/v1/tokens/zz", None, "path.token"),
        ("DELETE", "/v1/users/ann", None, "path.name"),
        ("GET", "/v1/users/nobody", None, "path.name"),
        ("GET", "/v1/tasks?state=odd", None, "query.state"),
        ("GET", "/v1/log-level?logger=odd", None, "query.logger"),
        ("GET", "/v1/state/tables/rooms?where=[1]", None, "query.where"),
        ("GET", "/v1/events?after=odd", None, "query.after"),
        ("GET", "/v1/nope", None, "path"),
        ("PUT", "/v1/nodes", None, "method"),
    ],
)
async def test_the_field_is_the_part_of_the_request_that_does_not_fit(served, method, path, sent, field):
    client, backend, _ = served
    backend.error = BadInput("it does not fit", fix="look")

    answer = await client().request(method, path, json=sent)

    assert answer.json()["field"] == field
    assert answer.headers["x-request-id"] == answer.json()["cause"]
    assert answer.headers["cache-control"] == "no-store"


async def test_a_place_that_a_browser_gives_back_is_named_as_the_header_that_it_is(served):
    client, backend, _ = served
    backend.error = BadInput("it is no place in the events", fix="look")

    answer = await client().get("/v1/events", headers={"last-event-id": "odd"})

    assert (answer.status_code, answer.json()["field"]) == (422, "header.last-event-id")


@pytest.mark.parametrize(
    ("reason", "field"),
    [("no such node", "body.where"), ("labels do not match", "body.labels"), ("ttl too long", "body.ttl_s")],
)
async def test_a_refusal_of_work_names_what_of_it_does_not_fit(served, reason, field):
    client, backend, _ = served
    backend.failure = protocol.Failure(0, protocol.REFUSED, reason, "look", {"reason": reason})

    answer = await client().post("/v1/tasks", json={"function": "f.g"})

    assert (answer.status_code, answer.json()["field"]) == (409, field)


async def test_a_body_that_breaks_off_is_no_mistake_of_ours(served, caplog):
    client, _, services = served
    _, ann = await services.access.log_in("ann", PASSWORD, "127.0.0.1")
    _, secret = await services.access.add_token(ann, "sender", Role.ADMIN, None, 3600)
    scope = {
        "type": "http", "method": "POST", "path": "/v1/invites", "raw_path": b"/v1/invites",
        "query_string": b"", "client": ("127.0.0.1", 4711), "root_path": "",
        "headers": [(b"authorization", f"Bearer {secret}".encode()), (b"content-length", b"9")],
    }  # fmt: skip
    parts = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    sent = []

    async def receive():
        return parts.pop(0)

    async def send(message):
        sent.append(message)

    await client()._transport.app(scope, receive, send)

    assert sent[0]["status"] == 400
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []


async def test_a_body_that_is_said_to_be_no_json_is_told_so(served):
    client, _, _ = served

    answer = await client().post("/v1/invites", content=b"ttl_s=60", headers={"content-type": "text/plain"})

    assert (answer.status_code, answer.json()["type"]) == (415, "urn:edgeweave:problem:media-type")
    assert answer.json()["field"] == "header.content-type"


async def test_events_are_only_of_subjects_that_there_are(served):
    client, _, _ = served

    answer = await client().get("/v1/events", params={"subject": ["task", "tsak"]})

    assert (answer.status_code, answer.json()["field"]) == (422, "query.subject.1")


async def test_a_head_is_asked_for_wherever_an_answer_ends(served):
    client, backend, _ = served
    backend.error = Unavailable("the broker is away")

    assert (await client().head("/livez")).status_code == 200
    assert (await client().head("/readyz")).status_code == 503
    assert (await client(bearer="ewt_a_b").head("/v1/me")).status_code == 401
    assert (await client().head("/v1/events")).status_code == 405
    assert (await client().head("/v1/log-in")).status_code == 405


async def test_a_word_of_the_query_that_is_none_is_not_overheard(served):
    """A misspelt filter would list everything; a misspelt `look` would publish."""
    client, backend, _ = served
    backend.error = AssertionError("nothing may be done")

    filtered = await client().get("/v1/nodes", params={"stauts": "active"})
    looked = await client().post("/v1/functions?file=toys.py&lok=true", content=b"x = 1")
    none = await client().get("/v1/pending?limit=1")

    for answer, word in ((filtered, "stauts"), (looked, "lok"), (none, "limit")):
        assert (answer.status_code, answer.json()["field"]) == (422, f"query.{word}")
    assert "status" in filtered.json()["fix"] and "look" in looked.json()["fix"]
    assert (await client().get("/livez?probe=1")).status_code == 200


@pytest.mark.parametrize("number", [b"NaN", b"-Infinity"])
async def test_what_is_no_number_of_json_is_none_here(served, number):
    client, _, _ = served
    body = b'{"function": "f.g", "args": [%s]}' % number

    answer = await client().post("/v1/tasks", content=body, headers=JSON)

    assert (answer.status_code, answer.json()["field"]) == (422, "body")
    said = (await client().post("/v1/tasks", content=b'{"function": "NaN"}', headers=JSON)).json()
    assert said["type"] == "urn:edgeweave:problem:internal", "a text may say so; the backend is broken here"


async def test_headers_are_bounded_also_where_they_come_at_once(served):
    client, _, _ = served

    answer = await client().get("/livez", headers={"x-more": "a" * 17_000})

    assert (answer.status_code, answer.json()["field"]) == (413, "header")


async def test_the_audit_log_is_read_from_one_side(served):
    client, _, _ = served

    answer = await client().get("/v1/audit?after=1&before=3")

    assert (answer.status_code, answer.json()["field"]) == (422, "query.before")


async def test_names_with_passwords_are_not_taken_for_a_token(served):
    client, _, _ = served

    answer = await client().get("/v1/me", headers={"authorization": "Basic YW5uOng="})

    assert answer.status_code == 401 and "only tokens" in answer.json()["detail"]
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_other_machines_are_served_only_when_the_settings_say_so(served):
    client, _, services = served
    for address in ("192.0.2.7", "2001:db8::7", "::ffff:192.0.2.7", ""):
        answer = await client(address).get("/v1/me")
        assert (answer.status_code, answer.json()["fix"]) == (403, "set [api] lan = true on the gateway")
        assert (await client(address).get("/livez")).status_code == 200
        assert (await client(address).get("/setup")).status_code == 403
    for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        assert (await client(address).get("/v1/me")).status_code == 200
    services.lan = True
    assert (await client("192.0.2.7").get("/v1/me")).status_code == 200


async def test_a_body_that_does_not_come_is_not_waited_for(served):
    client, _, _ = served
    never = asyncio.Event()

    async def body():
        yield b"{"
        await never.wait()

    answer = await client().post("/v1/invites", content=body())

    assert (answer.status_code, answer.json()["type"]) == (408, "urn:edgeweave:problem:slow")
    assert answer.headers["connection"] == "close"


async def test_large_bodies_are_few_at_a_time(served):
    client, _, services = served
    for _ in range(LARGE_BODIES_MAX):
        await services.large_bodies.acquire()

    small, large = {"function": "f.g"}, {"function": "f.g", "args": ["x" * BODY_BYTES_MAX]}

    async def parts():
        yield b'{"function": "f.g"}'

    for kind in ({"json": large}, {"content": parts()}):
        answer = await client().post("/v1/tasks", **kind)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), "it may be large"
    assert (await client().post("/v1/tasks", json=small)).status_code == 500, "small ones need no turn"
    claimed = {"content-length": "19", "transfer-encoding": "chunked", "content-type": "application/json"}
    answer = await client().post("/v1/tasks", content=parts(), headers=claimed)
    assert answer.status_code == 503, "what comes in parts may have any length"
    services.large_bodies.release()
    assert (await client().post("/v1/tasks", json=large)).status_code == 500, "it went on"


async def test_the_gateway_is_not_ready_while_its_broker_is_away(served):
    client, backend, _ = served

    async def status(method, params):
        return {"broker": {"connected": False}, "draining": False, "store": {"mode": "read-only: full"}}

    backend.call = status
    answer = await client().get("/readyz")

    assert answer.status_code == 503
    assert answer.json()["detail"] == "the broker is not reached; its disk takes no work"
