"""Manager: what a command line afar needs beside the rooms: the gateway's own state, and its tables as
programs of edgeweave ask for them.

``/v1/state/look`` and ``/v1/state/change`` take the requests that a program gives its daemon
(``edge_node.store.requests``), so that `edge-gateway --url … state` does what it does beside the gateway.
The routes of ``state`` are for everybody else: they name documents by paths, and say what may be sent.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field

from edge_node.control import protocol
from gateway.access.roles import Role
from gateway.api.answers import example, room, told
from gateway.api.guard import Ask, Asking, needs
from gateway.api.problems import Problem

router = room("state")
status_router = room("nodes")
LOOK_ROWS_MAX = 1000
WAIT_MS_MAX = 30_000
CHANGE_BYTES_MAX = 4 * 1024 * 1024
"""A program writes a megabyte of documents at once, and JSON in JSON is longer."""
Params = Annotated[dict[str, Any], Field(description="As the method wants them.")]
STATUS = {"node": "gateway", "mesh": "0123456789abcdef", "broker": {"connected": True}, "draining": False}


class Look(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"method": "find", "params": {"table": "rooms"}}]}
    )
    method: Literal["conflicts", "count", "counter", "find", "fresh", "set", "tables", "watch"]
    params: Params = {}


class Change(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"method": "counter", "params": {"name": "doors", "add": 1}}]},
    )
    method: Literal[
        "counter", "declare", "insert", "put", "remove", "resolve", "set", "truncate", "update", "upsert"
    ]
    params: Params = {}


@status_router.get("/status", responses=example(STATUS, "As `edge-gateway status` tells it."))
@needs(Role.VIEWER, "nodes:read")
async def status(ask: Asking) -> Response:
    """The gateway's own state: mesh, broker, members, load, tasks."""
    return told(await ask.services.call("status"))


@router.post("/state/look", responses=example({"tables": []}, "As the method answers."))
@needs(Role.VIEWER, "state:read")
async def look(ask: Asking, body: Look) -> Response:
    """Ask for tables as a program of edgeweave does; a page has 1 000 rows at most, a wait 30 s."""
    params = dict(body.params)
    for name in {"counter": ("add",), "set": ("add", "discard")}.get(body.method, ()):
        if params.get(name):
            raise Problem(
                "invalid", f"{name} changes it", field="body.params", fix="send it to /v1/state/change"
            )
    if body.method in ("find", "set"):
        params["limit"] = _most(params.get("limit"), LOOK_ROWS_MAX)
    elif body.method == "watch":
        params["wait_ms"] = _most(params.get("wait_ms", 0), WAIT_MS_MAX)
    elif body.method == "fresh":
        params["wait_s"] = _most(params.get("wait_s", 5.0), WAIT_MS_MAX / 1000)
    return await _asked(ask, body.method, params)


@router.post("/state/change", responses=example({"value": 4}, "As the method answers: it is durable."))
@needs(Role.OPERATOR, "state:write", bytes_max=CHANGE_BYTES_MAX)
async def change(ask: Asking, body: Change) -> Response:
    """Change tables as a program of edgeweave does."""
    async with ask.services.changing:  # documents are compared and written by other routes
        return await _asked(ask, body.method, body.params)


def _most(given: object, most: float) -> object:
    """*given*, at most *most*; what is no number is left for the method to refuse."""
    if given is None:
        return most
    return min(given, most) if isinstance(given, int | float) else given


async def _asked(ask: Ask, method: str, params: dict[str, Any]) -> Response:
    plain = protocol.unpack(protocol.pack(params))  # what the control socket could not carry is refused
    assert isinstance(plain, dict)
    return told(await ask.services.backend.call(f"state.{method}", plain))
