"""What the gateway's port tells of its traffic: by route, bounded whatever strangers send."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import APIRouter, FastAPI, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from edge_node.metrics import text
from gateway.api.counted import Counted
from gateway.api.traffic import NO_ROUTE, Traffic
from gateway.metrics import METRICS


@pytest.fixture
def traffic():
    return Traffic()


def counts(traffic):
    return {
        (labels["method"], labels["route"], labels["status"]): value
        for name, labels, value in traffic.samples()
        if name == "edgeweave_http_requests_total"
    }


def test_durations_are_told_as_a_histogram(traffic):
    for seconds in (0.001, 0.03, 7.0, 40.0):
        traffic.answered("GET", "/v1/nodes", 200, seconds)

    told_ = text(traffic.samples(), METRICS)

    assert 'edgeweave_http_requests_total{method="GET",route="/v1/nodes",status="200"} 4' in told_
    name = "edgeweave_http_request_duration_seconds"
    for bound, below in (("0.005", 1), ("0.025", 1), ("0.05", 2), ("10.0", 3), ("+Inf", 4)):
        assert f'{name}_bucket{{method="GET",route="/v1/nodes",le="{bound}"}} {below}\n' in told_
    assert f'{name}_sum{{method="GET",route="/v1/nodes"}} 47.031\n' in told_
    assert f'{name}_count{{method="GET",route="/v1/nodes"}} 4\n' in told_
    assert told_.count("# TYPE") == 2


def counted(traffic, app):
    app.add_middleware(Counted, traffic=traffic, mounts=("/pages",))
    return TestClient(app, raise_server_exceptions=False)


def test_a_request_is_counted_under_its_route_and_a_strangers_under_none(traffic):
    router = APIRouter(prefix="/v1")

    @router.get("/nodes/{node}")
    async def node(node: int):
        return {"node": node}

    app = FastAPI()

    @app.get("/other/{room}")
    async def other(room: str):
        raise HTTPException(418)

    @app.get("/mistake")
    async def mistake():
        raise RuntimeError("ours")

    app.include_router(router)
    with counted(traffic, app) as client:
        for path in ("/v1/nodes/1", "/v1/nodes/2", "/v1/nodes/x", "/v1/nothing/1", "/nothing/2", "/other/x"):
            client.get(path)
        assert client.get("/mistake").status_code == 500
        client.post("/v1/nodes/1")
        client.request("BREW", "/coffee")

    assert counts(traffic) == {
        ("GET", "/v1/nodes/{node}", "200"): 2,
        ("GET", "/v1/nodes/{node}", "422"): 1,
        ("POST", "/v1/nodes/{node}", "405"): 1,
        ("GET", "/other/{room}", "418"): 1,
        ("GET", "/mistake", "500"): 1,
        ("GET", NO_ROUTE, "404"): 2,
        ("other", NO_ROUTE, "404"): 1,
    }
    assert not any(
        labels["route"] == NO_ROUTE for name, labels, _ in traffic.samples() if name.endswith("_count")
    )


def test_pages_of_a_mounted_application_and_their_sockets_are_counted_too(traffic):
    inner, app = FastAPI(), FastAPI()

    @inner.get("/nodes/{node}")
    async def page(node: str):
        return {"node": node}

    @inner.websocket("/live/{room}")
    async def live(socket: WebSocket, room: str):
        if room == "none":
            await socket.close()
            return
        await socket.accept()
        await socket.send_text(room)
        await socket.close()

    app.mount("/pages", inner)
    with counted(traffic, app) as client:
        for path in ("/pages/nodes/1", "/pages/nodes/2", "/pages/nowhere/3", "/pages/nowhere/4"):
            client.get(path)
        with client.websocket_connect("/pages/live/1") as socket:
            assert socket.receive_text() == "1"
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/pages/live/none"):
            pass

    assert counts(traffic) == {
        ("GET", "/pages/nodes/{node}", "200"): 2,
        ("GET", "/pages/{path}", "404"): 2,
        ("GET", "/pages/live/{room}", "101"): 1,
        ("GET", "/pages/live/{room}", "403"): 1,
    }


async def test_an_answer_that_lasts_is_counted_when_it_begins(traffic):
    app = FastAPI()
    go_on = asyncio.Event()

    async def parts():
        yield b"first"
        await go_on.wait()

    @app.get("/stream")
    async def stream():
        return StreamingResponse(parts())

    seen = asyncio.Queue()

    async def receive():
        await go_on.wait()
        return {"type": "http.disconnect"}

    scope = {
        "type": "http", "method": "GET", "path": "/stream", "raw_path": b"/stream", "query_string": b"",
        "headers": [], "root_path": "", "scheme": "https", "http_version": "1.1", "asgi": {"version": "3.0"},
    }  # fmt: skip
    running = asyncio.create_task(Counted(app, traffic)(scope, receive, seen.put))
    while (await seen.get())["type"] != "http.response.body":
        pass

    assert counts(traffic) == {("GET", "/stream", "200"): 1}
    go_on.set()
    await running
    assert counts(traffic) == {("GET", "/stream", "200"): 1}
