"""Faring: how functions fare, by the newest tasks that this gateway accepted."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response

from gateway.access.roles import Role
from gateway.api.answers import example, room, told
from gateway.api.faring import by_function
from gateway.api.guard import Asking, needs

router = room("functions")
PAGE_ROWS = 500
PAGES = 2
"""A thousand tasks: enough for a 95th percentile, and a few milliseconds' reading."""
FIGURES = {
    "name": "toys.add",
    "tasks": 40,
    "open": 1,
    "done": 38,
    "failed": 1,
    "expired": 0,
    "cancelled": 0,
    "quarantined": 0,
    "places": {"gateway": 10, "pi-1": 30},
    "last_at_ms": 1790000000000,
    "median_s": 0.012,
    "p95_s": 0.031,
}


@router.get(
    "/statistics/functions",
    responses=example(
        {"functions": [FIGURES], "tasks": 40, "since_at_ms": 1789999000000, "all": True}, "By name."
    ),
)
@needs(Role.VIEWER, "tasks:read")
async def functions(
    ask: Asking,
    function: Annotated[str, Query(max_length=200, description="Only of this one.")] = "",
) -> Response:
    """What became of the newest 1 000 tasks, by function; `all`: there are no more than these."""
    rows, after = [], ""
    for _ in range(PAGES):
        page = await ask.services.call("tasks-page", after=after, function=function, limit=PAGE_ROWS)
        rows += page["tasks"]
        after = page["next"]
        if not after:
            break
    since_ms = min((row["accepted_at_ms"] for row in rows), default=0)
    answer = {"functions": by_function(rows), "tasks": len(rows), "since_at_ms": since_ms, "all": not after}
    return told(answer)
