"""The guard and the problems, in one process: what no healthy gateway can be made to show."""

from __future__ import annotations

import asyncio
import logging

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
from security.errors import Refused, Unavailable

PASSWORD = "correct horse battery staple"
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
