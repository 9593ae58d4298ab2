"""Logs: how much the gateway writes into its log, changed for a while."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.access.roles import Role
from gateway.api.answers import example, room, told
from gateway.api.guard import Asking, needs
from gateway.api.problems import about

router = room("logs")
Logger = Annotated[str, Field(max_length=120, description="`edge_node.tasks`; empty: all.")]
LEVEL = {
    "logger": "edge_node.tasks",
    "level": "debug",
    "changed": [{"logger": "edge_node.tasks", "level": "debug", "before": "", "for_s": 600.0}],
}


class Level(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"logger": "edge_node.tasks", "level": "debug"}]}
    )
    level: Annotated[
        Literal["debug", "info", "warning", "error", "default"], Field(description="default: back now.")
    ]
    logger: Logger = ""
    for_s: Annotated[float, Field(ge=1, le=86_400, description="Seconds until it is back.")] = 600


@router.get("/log-level", responses=example(LEVEL, "The level that counts, and what differs for a while."))
@needs(Role.VIEWER, "nodes:read")
async def log_level(
    ask: Asking, logger: Annotated[str, Query(max_length=120, description="Empty: all.")] = ""
) -> Response:
    """From which level on the gateway writes log lines."""
    with about("query.logger"):
        return told(await ask.services.call("log-level", logger=logger))


@router.put("/log-level", responses=example(LEVEL, "As it is now."))
@needs(Role.ADMIN, "nodes:write")
async def set_log_level(ask: Asking, body: Level) -> Response:
    """Write more, or less, for a while; what shall stay is the setting `[log] level`."""
    with about("body.logger"):
        return told(await ask.services.call("log-level", **body.model_dump()))
