"""Whatever fits the API's own description, and whatever does not: no request makes the gateway fail.

Schemathesis draws requests from the OpenAPI document of a running gateway, valid and not, as an
administrator. Some of them change accounts and tables; the gateway is thrown away afterwards.
"""

from __future__ import annotations

import os

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings

from gateway.access.roles import Role
from tests.support.daemons import Bed
from tests.support.http_api import PASSWORD, Api

pytestmark = pytest.mark.slow
EXAMPLES = 4 * int(os.environ.get("EDGEWEAVE_FUZZ", "1"))
"""Of each operation and kind; some forty operations."""
PROBLEM = "application/problem+json"
ENDLESS = "/v1/events"
OURS = {
    "authorization",
    "cookie",
    "connection",
    "host",
    "accept-encoding",
    "content-length",
    "transfer-encoding",
}
SHUTS_US_OUT = {("PUT", "/v1/users/{name}/password"), ("DELETE", "/v1/tokens/{token}")}


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    with Bed(tmp_path_factory.mktemp("schema")) as bed:
        gateway = bed.gateway().start()
        api = Api(gateway).people()
        with api.of(Role.ADMIN) as admin:
            admin.post("/v1/functions?file=toys.py", content=bed.toys.read_bytes())
            admin.post("/v1/state/tables/rooms", json={"id": "r1", "setpoint_c": 20})
            admin.post("/v1/tasks", json={"function": "toys.add", "args": [1]})
            admin.post("/v1/users", json={"name": "bob", "password": PASSWORD})
        yield api


def test_no_request_that_can_be_drawn_makes_the_gateway_fail(api):
    with api.of(Role.ADMIN) as admin:
        document = admin.get("/v1/openapi.json").json()
        schema = schemathesis.openapi.from_dict(document)
        wrong, asked = [], 0
        for found in schema.get_all_operations():
            operation = found.ok()
            name = (operation.method.upper(), operation.path)
            if operation.path == ENDLESS or name in SHUTS_US_OUT:
                continue
            for mode in schemathesis.GenerationMode:
                answers = drawn(admin, operation, mode)
                asked += len(answers)
                for answer in answers:
                    kind = answer.headers.get("content-type", "")
                    if answer.status_code == 500 or (answer.status_code >= 400 and kind != PROBLEM):
                        sent = f"{answer.request.url} {answer.request.content[:300]!r}"
                        wrong.append(f"{name} {sent}: {answer.status_code} {answer.text}")
        assert admin.get("/livez").status_code == 200

    assert wrong == []
    assert asked > 300, "it did ask"


def drawn(admin, operation, mode):
    """Answers to some requests."""
    answers = []
    strategy = operation.as_strategy(generation_mode=mode)

    @seed(7)
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def ask(case):
        wanted = case.as_transport_kwargs(base_url=str(admin.base_url).rstrip("/"))
        headers = {
            name: str(value).encode("utf-8", "replace")
            for name, value in wanted["headers"].items()
            if name.lower() not in OURS
        }
        body = {"content": wanted["data"]} if "data" in wanted else {"json": wanted.get("json")}
        if isinstance(body.get("content"), str):
            body["content"] = body["content"].encode("utf-8", "replace")
        params = {name: value for name, value in (wanted.get("params") or {}).items() if value is not None}
        if "wait_s" in params:
            params["wait_s"] = 0  # it would wait
        try:
            request = admin.build_request(
                wanted["method"], wanted["url"], params=params, headers=headers, **body
            )
        except (httpx.InvalidURL, ValueError, TypeError, AttributeError):
            return  # no request: the client cannot spell it
        answers.append(admin.send(request))

    try:
        ask()
    except Exception as error:  # nothing of this kind can be drawn of this operation
        if type(error).__name__ not in ("Unsatisfiable", "SkipTest", "Skipped"):
            raise
    return answers
