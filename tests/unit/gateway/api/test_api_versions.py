"""Changes by version, through the whole app: who looked at something else changes nothing."""

from __future__ import annotations

import json

import httpx
import pytest
from fastapi import FastAPI

from edge_node.clock import SystemClock
from gateway.access.access import Access
from gateway.access.passwords import Cost
from gateway.access.roles import Role
from gateway.api import routes
from gateway.api.services import Services
from security.errors import BadInput

KEY = {"fingerprint": "5d1f", "words": "a b c", "since_at_ms": 1, "until_at_ms": 2}


class Mesh:
    """A mesh of one member and no functions, that remembers what it was told to do."""

    def __init__(self):
        self.node = {
            "id": "pi-1", "status": "active", "roles": ["node"], "labels": {}, "work": "work",
            "load": "0.0 s", "keys": [KEY],
        }  # fmt: skip
        self.wished = {}
        self.done = []

    async def call(self, method, params):
        match method:
            case "node" if params["node"] == "pi-1":
                return dict(self.node)
            case "node":
                raise BadInput("no member is named so")
            case "functions":
                return []
            case "state.find":
                found = self.wished.get(params["where"][2]) if params["table"] == "twins.desired" else None
                return {"documents": [[1, json.dumps(found)]] if found else []}
            case "state.upsert":
                fields = json.loads(params["document"])
                self.wished.setdefault(fields["node"], {}).update(fields)
        self.done.append(method)
        return {}


@pytest.fixture
async def served(tmp_path):
    """(client of an administrator, mesh)."""
    access = Access(tmp_path, cost=Cost(memory_kib=64, passes=1, lanes=1))
    await access.open()
    await access.set_up(access.setup_secret, "ann", "correct horse battery staple")
    _, ann = await access.log_in("ann", "correct horse battery staple", "127.0.0.1")
    _, secret = await access.add_token(ann, "admin", Role.ADMIN, None, 3600)
    mesh = Mesh()
    services = Services(
        mesh, access, home=tmp_path, clock=SystemClock(), lan=False, entropy=lambda n: bytes(n)
    )
    app = FastAPI(openapi_url=None)
    routes.install(app, services)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app, client=("127.0.0.1", 4711)),
        base_url="https://gateway",
        headers={"authorization": f"Bearer {secret}"},
    ) as client:
        yield client, mesh
    services.close()
    await access.close()


@pytest.mark.parametrize("what", ["revoke", "replace", "pause", "drain", "resume"])
async def test_a_board_that_took_the_name_meanwhile_is_not_meant(served, what):
    client, mesh = served
    seen = {"if-match": (await client.get("/v1/nodes/pi-1")).headers["etag"]}
    mesh.node["load"] = "3.0 s"  # what it tells all the time is no other version

    assert (await client.post(f"/v1/nodes/pi-1/{what}", json={}, headers=seen)).is_success
    assert mesh.done == [what]

    mesh.node["keys"] = [KEY | {"fingerprint": "77aa"}]
    answer = await client.post(f"/v1/nodes/pi-1/{what}", json={}, headers=seen)
    assert (answer.status_code, answer.json()["field"]) == (412, "header.if-match")
    assert mesh.done == [what]


async def test_a_wish_onto_another_wish_is_refused(served):
    client, mesh = served
    seen = {"if-match": (await client.get("/v1/twins/pi-1")).headers["etag"]}

    first = await client.patch("/v1/twins/pi-1", json={"fan": "low"}, headers=seen)
    second = await client.patch("/v1/twins/pi-1", json={"fan": "high"}, headers=seen)

    assert (first.status_code, second.status_code) == (204, 412)
    assert mesh.wished == {"pi-1": {"node": "pi-1", "fan": "low"}}


async def test_nobodys_twin_is_neither_read_nor_wished_for(served):
    client, mesh = served

    for answer in (
        await client.get("/v1/twins/pi-9"),
        await client.patch("/v1/twins/pi-9", json={"fan": "low"}),
    ):
        assert (answer.status_code, answer.json()["field"]) == (404, "path.node")
    assert mesh.wished == {}


async def test_the_twin_of_a_member_that_is_gone_stays_readable(served):
    client, mesh = served
    mesh.wished["pi-9"] = {"node": "pi-9", "fan": "low"}

    assert (await client.get("/v1/twins/pi-9")).json()["desired"] == {"fan": "low"}


@pytest.mark.parametrize("version", ["*", '"6576a46d9473898d4c9a"'])
async def test_no_version_of_a_file_that_nobody_deployed_is_there(served, version):
    client, mesh = served

    answer = await client.post("/v1/functions?file=new.py", content=b"x = 1", headers={"if-match": version})

    assert (answer.status_code, mesh.done) == (412, [])
