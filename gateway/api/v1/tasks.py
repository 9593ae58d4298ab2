"""Tasks: work is handed in, looked for, cancelled and explained."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import Header, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from edge_node.commands.rendering import to_json
from edge_node.control import protocol
from edge_node.functions import values
from edge_node.functions.invocation import TaskError
from edge_node.tasks.task import INPUT_BYTES_MAX
from edge_node.tasks.tracing import begun, parsed, parts
from gateway.access.roles import Role
from gateway.api.answers import Cursor, Limit, example, room, told
from gateway.api.guard import Ask, Asking, needs
from gateway.api.idempotency import checked_key
from gateway.api.paging import after_of, cursor_for
from gateway.api.problems import Problem, about
from gateway.api.services import checked_task, digest_of
from security.errors import BadInput, EdgeweaveError

router = room("tasks")
ID = "06qxw7c0d2f4g6h8j0k2m4n"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TaskId = Annotated[str, Path(max_length=64, examples=[ID], description="As it was told at the submit.")]
Alone = Annotated[bool, Query(description="Ask nobody else: what the gateway noted itself.")]
TRACE = {
    "parameters": [
        {
            "name": name,
            "in": "header",
            "required": False,
            "schema": {"type": "string"},
            "description": "Of W3C Trace Context.",
            "example": value,
        }
        for name, value in (("traceparent", TRACEPARENT), ("tracestate", "vendor=00f067aa"))
    ]
}
ROW = {
    "id": ID,
    "function": "toys.add",
    "state": "done",
    "place": "pi-1",
    "origin": "gateway",
    "accepted_at_ms": 1790000000000,
    "settled_at_ms": 1790000000120,
}
ASKED = {
    "where": "any",
    "priority": 0,
    "deadline_ms": None,
    "ttl_ms": 86400000,
    "labels": {},
    "code": "93c2bec8…",
    "input_sha256": "5ab1f83e…",
    "input_bytes": 24,
    "attempts": [],
    "output_bytes": 3,
    "run_ms": 2.1,
    "cpu_ms": 1.9,
}
RECKONED = {"place": "pi-1", "wait_ms": 0.0, "run_ms": 20.0, "way_ms": 2.5, "whole_ms": 22.5}
DECISION = {
    "task": ID,
    "function": "toys.add",
    "state": "done",
    "place": "pi-1",
    "rule": "soonest",
    "attempts": 1,
    "accepted_at_ms": 1790000000000,
    "settled_at_ms": 1790000000024,
    "whole_ms": 24,
    "run_ms": 2.1,
    "reckoned": [RECKONED],
}
PLACEMENT = {
    "at_ms": 1790000001000,
    "decisions": [DECISION],
    "cells": [
        {
            "function": "toys.add",
            "place": "pi-1",
            "runs": 1,
            "share": 1.0,
            "run_ms": 2.1,
            "learned_ms": 2.2,
            "learned_dev_ms": 0.3,
            "learned_runs": 41,
        }
    ],
    "refusals": [{"reason": "queue full", "place": "pi-1", "count": 2}],
}
WAIT_S_MAX = 30.0


class Work(BaseModel):
    """What shall be run, with what, where and until when."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"function": "toys.add", "kwargs": {"a": 1, "b": 2}, "deadline_s": 30}]
        },
    )
    function: Annotated[str, Field(min_length=1, max_length=200, description="As /v1/functions names it.")]
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    where: Annotated[
        str, Field(pattern=r"^[a-z0-9-]{1,32}$", description="`any`, `local`, `gateway` or a member's name.")
    ] = "any"
    deadline_s: Annotated[
        float | None, Field(gt=0, le=366 * 86400, description="Until when it counts, from now.")
    ] = None
    ttl_s: Annotated[
        float | None,
        Field(gt=0, le=366 * 86400, description="How long it is kept trying; null: the gateway's."),
    ] = None
    priority: Annotated[int, Field(ge=-1000, le=1000, description="Higher first.")] = 0
    labels: Annotated[dict[str, str], Field(max_length=32, description="That a place must bear.")] = {}


@router.post(
    "/tasks",
    status_code=202,
    responses=example(
        {"task": ID, "state": "accepted", "traceparent": TRACEPARENT},
        "It is on disk and will be settled once. `traceparent`: if the request bore one.",
        202,
    ),
    openapi_extra=TRACE,
)
@needs(Role.OPERATOR, "tasks:write", bytes_max=INPUT_BYTES_MAX)
async def submit(
    ask: Asking,
    body: Work,
    idempotency_key: Annotated[
        str | None,
        Header(max_length=300, description="The same key with the same body makes one task, for 24 hours."),
    ] = None,
) -> Response:
    """Hand in a task.

    It becomes part of the caller's trace (W3C Trace Context) if the headers `traceparent` and `tracestate`
    say so; where they are malformed, a new trace begins.
    """
    request = protocol.Submit(
        id=0,
        function=body.function,
        input=values.encode_call(body.args, body.kwargs),
        where=body.where,
        deadline_ms=_ms(body.deadline_s),
        ttl_ms=_ms(body.ttl_s),
        priority=body.priority,
        labels=body.labels,
    )
    trace = _trace(ask)
    same = digest_of(protocol.encode(request))  # who asks again does so in another span
    request = msgspec.structs.replace(request, traceparent=parts(trace)[0], tracestate=parts(trace)[1])
    try:
        if idempotency_key is None:
            task = await ask.services.submit(request)
        else:
            key = checked_key(idempotency_key)
            async with ask.services.keys.turn(ask.by.name, key, same) as turn:
                task = await ask.services.submit_once(request, turn)
                trace = "" if turn.task else trace  # what was made before bears its own
    except Problem as problem:
        if problem.kind == "invalid" and not problem.field:
            known = [row["name"] for row in await ask.services.call("functions")]
            problem.field = "body" if body.function in known else "body.function"
        raise
    answer = {"task": task, "state": "accepted"} | ({"traceparent": parts(trace)[0]} if trace else {})
    return told(answer, 202, {"location": f"/v1/tasks/{task}"})


def _trace(ask: Ask) -> str:
    """Of the request; empty: it bears none. Source: W3C Trace Context 4.3, steps 1 to 5."""
    headers = ask.request.headers
    given = headers.getlist("traceparent")
    if not given:
        return ""
    state = ",".join(headers.getlist("tracestate"))
    trace = parsed(given[0].strip(), state) if len(given) == 1 else ""
    return trace or begun(ask.services.entropy(24))


@router.get("/tasks", responses=example({"tasks": [ROW], "next": "kq…"}, "Tasks, the newest first."))
@needs(Role.VIEWER, "tasks:read")
async def tasks(
    ask: Asking,
    state: Annotated[
        str, Query(max_length=32, description="`open`, or how it ended: done, failed, expired, cancelled, …")
    ] = "",
    function: Annotated[str, Query(max_length=200, description="Only of this one.")] = "",
    node: Annotated[str, Query(pattern=r"^[a-z0-9-]{0,32}$", description="Where it ran or runs.")] = "",
    since_ms: Annotated[int, Query(ge=0, lt=2**48, description="Accepted since; ms since 1970.")] = 0,
    begins: Annotated[
        str, Query(pattern=r"^[0-9a-hjkmnp-tv-z]{0,23}$", description="How the task's id begins.")
    ] = "",
    limit: Limit = 100,
    cursor: Cursor = "",
) -> Response:
    """What this gateway accepted, the newest first, page by page.

    With filters a page may be short, or empty, and have a next one.
    """
    filters = (state, function, node, since_ms, begins)
    after = after_of(cursor, *filters)
    with about("query.state"):
        page = await ask.services.call(
            "tasks-page",
            after=after,
            state=state,
            function=function,
            node=node,
            since_ms=since_ms,
            begins=begins,
            limit=limit,
        )
    return told({"tasks": page["tasks"], "next": cursor_for(page["next"], *filters)})


@router.get("/tasks/{task}", responses=example({**ROW, "attempts": [], "asked": ASKED}, "Where it stands."))
@needs(Role.VIEWER, "tasks:read")
async def one_task(ask: Asking, task: TaskId) -> Response:
    """Where one task stands, and what was asked for; without its arguments and its value."""
    found = await ask.services.result(task)
    asked = await ask.services.call("task-facts", task=task)
    if isinstance(found, protocol.Pending):
        return told({"id": found.task, "state": found.state, "settled": False, "asked": asked})
    return told({**_ended(found), "asked": asked})


@router.get(
    "/tasks/{task}/result",
    responses=example({**ROW, "value": 3, "log": "", "attempts": []}, "How it ended, and its value.")
    | example({"id": ID, "state": "placed at pi-1", "settled": False}, "It has not ended yet.", 202),
)
@needs(Role.VIEWER, "tasks:read")
async def result(
    ask: Asking,
    task: TaskId,
    wait_s: Annotated[float, Query(ge=0, le=WAIT_S_MAX, description="Wait for it as long.")] = 0.0,
) -> Response:
    """A task's value, or how it failed.

    JSON lacks some of what functions return: bytes are told as `{"base64": …}`, dates as ISO 8601, arrays
    as lists, infinities and NaN as null.
    """
    found = await ask.services.result(task, wait_s)
    if isinstance(found, protocol.Pending):
        return told({"id": found.task, "state": found.state, "settled": False}, 202)
    row = _ended(found)
    row["log"] = found.log.decode("utf-8", "replace")
    row["value"] = values.decode(found.output) if found.status == protocol.DONE else None
    return Response(to_json(row, strict=True).encode("utf-8", "replace"), media_type="application/json")


@router.post(
    "/tasks/{task}/cancel", responses=example({"task": ID, "cancelled": True}, "False: it had ended before.")
)
@needs(Role.OPERATOR, "tasks:write")
async def cancel(ask: Asking, task: TaskId) -> Response:
    """Call a task off."""
    return told({"task": task, "cancelled": await ask.services.cancel(task)})


@router.get("/tasks/{task}/why", responses=example({"about": ID, "entries": []}, "Its story."))
@needs(Role.VIEWER, "tasks:read")
async def why(
    ask: Asking,
    task: TaskId,
    alone: Alone = False,
) -> Response:
    """Why a task went as it did, as told by everybody who had part in it."""
    return await _story(ask, checked_task(task), alone=alone)


@router.get(
    "/placement", responses=example(PLACEMENT, "The last 200 tasks, by function and place, and what refused.")
)
@needs(Role.VIEWER, "tasks:read")
async def placement(ask: Asking) -> Response:
    """Where the last tasks accepted here ran, what was reckoned for them, and what came of it."""
    return told(await ask.services.call("placement"))


@router.get("/why/{about}", responses=example({"about": "r-gateway-1", "entries": []}, "Its story."))
@needs(Role.VIEWER, "events:read")
async def why_of_anything(
    ask: Asking,
    about: Annotated[
        str,
        Path(
            min_length=1,
            max_length=200,
            examples=["r-gateway-1"],
            description="An id, of events or logs.",
        ),
    ],
    alone: Alone = False,
) -> Response:
    """The story of any id: a task, a refusal, a loss, a node, a function."""
    return await _story(ask, about, alone=alone)


async def _story(ask: Ask, about: str, *, alone: bool) -> Response:
    try:
        story = await ask.services.call("why", about=about, alone=alone)
    except BadInput as error:
        raise Problem("not-found", error.cause, fix=error.fix) from None
    return Response(to_json(story, strict=True).encode("utf-8", "replace"), media_type="application/json")


def _ended(found: protocol.Outcome) -> dict[str, Any]:
    place = found.origin if found.place == "local" else found.place
    return {
        "id": found.task,
        "function": found.function,
        "state": found.status,
        "settled": True,
        "place": place,
        "origin": found.origin,
        "accepted_at_ms": found.accepted_at_ms,
        "settled_at_ms": found.settled_at_ms,
        "reason": found.reason,
        "error": _error(found.error),
        "attempts": [
            {
                "node": each.node,
                "started_at_ms": each.started_at_ms,
                "ended_at_ms": each.ended_at_ms,
                "ended_as": each.status,
            }
            for each in found.attempts
        ],
    }


def _error(data: bytes) -> dict[str, str] | None:
    """What the function raised. Its traceback names files of a node: the command line shows it."""
    if not data:
        return None
    try:
        error = TaskError.decode(data)
    except EdgeweaveError as unreadable:
        return {"kind": "output", "type": "", "message": unreadable.cause}
    return {"kind": error.kind, "type": error.type, "message": error.message}


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, round(seconds * 1000))
