"""What the API tells of its own traffic: by route, bounded whatever strangers send."""

from __future__ import annotations

import pytest
from fastapi import APIRouter, FastAPI, HTTPException
from fastapi.testclient import TestClient

from edge_node.metrics import text
from gateway.api import problems
from gateway.api.answers import told
from gateway.api.guard import Guarded, for_anybody
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


class Services:
    lan, body_s = True, 1.0

    def __init__(self, traffic):
        self.traffic = traffic


def test_a_request_is_counted_under_its_route_and_a_strangers_under_none(traffic):
    router = APIRouter(prefix="/v1", route_class=Guarded)

    @router.get("/nodes/{node}")
    @for_anybody(lan=True)
    async def node(node: int):
        return told({"node": node})

    app = FastAPI()

    @app.get("/other/{room}")
    async def other(room: str):
        raise HTTPException(418)

    app.state.services = Services(traffic)
    problems.install(app)
    app.include_router(router)
    with TestClient(app) as client:
        for path in ("/v1/nodes/1", "/v1/nodes/2", "/v1/nodes/x", "/v1/nothing/1", "/nothing/2", "/other/x"):
            client.get(path)
        client.post("/v1/nodes/1")
        client.request("BREW", "/coffee")

    assert counts(traffic) == {
        ("GET", "/v1/nodes/{node}", "200"): 2,
        ("GET", "/v1/nodes/{node}", "422"): 1,
        ("POST", "/v1/nodes/{node}", "405"): 1,
        ("GET", NO_ROUTE, "404"): 2,
        ("other", NO_ROUTE, "404"): 1,
    }, "another room's answers are not the API's"
