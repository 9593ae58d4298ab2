"""Nodes: who is in the mesh, and what an operator does with them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Query, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.access.roles import Role
from gateway.api.answers import (
    IF_MATCH,
    Cursor,
    Limit,
    NodeName,
    check_unchanged,
    etag,
    example,
    room,
    told,
)
from gateway.api.guard import Ask, Asking, check_may_make_deployers, needs
from gateway.api.paging import after_of, cursor_for
from gateway.api.problems import Problem, about
from gateway.api.services import Services
from security.errors import BadInput
from security.roster import BY_MAX, REASON_MAX

router = room("nodes")
NODE = {
    "id": "pi-1",
    "status": "active",
    "up": True,
    "roles": ["node"],
    "labels": {"site": "a"},
    "workers": 4,
    "load": "0.2 s",
    "last_seen_at_ms": 1790000000000,
    "restarts": 0,
    "work": "work",
    "reason": "",
}

FURTHER = {
    "software": "0.1.0",
    "speed": 1.0,
    "rtt_ms": 3.2,
    "lent": 2,
    "keys": [
        {
            "fingerprint": "5d1f0c…",
            "words": "hapid-lusab-divon-gomar-tufik-zanel",
            "since_at_ms": 1789900000000,
            "until_at_ms": 1792500000000,
        }
    ],
}
"""Of one member, beside what the list tells."""


class Revocation(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"reason": "stolen"}]})
    reason: Annotated[str, Field(max_length=REASON_MAX, examples=["stolen"])] = ""


class Wish(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"reason": "new disk"}]})
    reason: Annotated[
        str, Field(max_length=REASON_MAX, description="`why` of the node tells it.", examples=["new disk"])
    ] = ""


class Replacement(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"ttl_s": 3600, "approval": "auto"}]}
    )
    ttl_s: Annotated[float, Field(ge=1, le=30 * 86400, description="Seconds that the code is good for.")] = (
        3600
    )
    approval: Literal["auto", "pending"] = "auto"


@router.get("/nodes", responses=example({"nodes": [NODE], "next": ""}, "Members by name."))
@needs(Role.VIEWER, "nodes:read")
async def nodes(
    ask: Asking,
    status: Annotated[
        Literal["", "active", "pending", "revoked", "left"], Query(description="Only those that stand so.")
    ] = "",
    up: Annotated[bool | None, Query(description="Only those that are there, or are not.")] = None,
    role: Annotated[str, Query(max_length=32, description="Only those that bear it.")] = "",
    label: Annotated[
        str, Query(max_length=130, description="`key=value`, or `key`.", examples=["site=a"])
    ] = "",
    limit: Limit = 100,
    cursor: Cursor = "",
) -> Response:
    """Members of the mesh and those that wait to be let in, by name, page by page."""
    after = after_of(cursor, status, up, role, label)
    page = await ask.services.call(
        "nodes-page", after=after, limit=limit, status=status, up=up, role=role, label=label
    )
    return told({"nodes": page["nodes"], "next": cursor_for(page["next"], status, up, role, label)})


@router.get("/nodes/{node}", responses=example(NODE | FURTHER, "The node."))
@needs(Role.VIEWER, "nodes:read")
async def one_node(ask: Asking, node: NodeName) -> Response:
    """One member, with its keys and how far it is."""
    found = await found_node(ask.services, node)
    return told(found, headers={"etag": _tag(found)})


@router.post(
    "/nodes/{node}/revoke",
    responses=example(
        {"node": "pi-1", "already": False, "cut": True}, "It is shut out, on disk and everywhere."
    ),
    openapi_extra=IF_MATCH,
)
@needs(Role.OPERATOR, "nodes:write")
async def revoke(ask: Asking, node: NodeName, body: Revocation) -> Response:
    """Shut a member out of the mesh, for good."""
    await _seen(ask, node)
    with about("path.node"):
        done = await ask.services.call("revoke", node=node, by=ask.by.name[:BY_MAX], reason=body.reason)
    return told(done)


@router.post(
    "/nodes/{node}/replace",
    status_code=201,
    responses=example(
        {"code": "ew1…", "expires_at_ms": 1790003600000, "addresses": ["192.0.2.7:8443"]},
        "A join code for the new board.",
        201,
    ),
    openapi_extra=IF_MATCH,
)
@needs(Role.OPERATOR, "nodes:write")
async def replace(ask: Asking, node: NodeName, body: Replacement) -> Response:
    """A code with which another board takes this member's name and place."""
    if "deployer" in (await _seen(ask, node))["roles"]:
        check_may_make_deployers(ask)
    with about("path.node"):
        code = await ask.services.call("replace", node=node, ttl_s=body.ttl_s, approval=body.approval)
    return told(code, 201)


REST = {"node": "pi-1", "work": "pause", "before": "work", "told": True}


@router.post(
    "/nodes/{node}/pause",
    responses=example(REST, "told false: it is away, and is told when it comes."),
    openapi_extra=IF_MATCH,
)
@needs(Role.OPERATOR, "nodes:write")
async def pause(ask: Asking, node: NodeName, body: Wish | None = None) -> Response:
    """Let a member take no work of others. What waits and runs there goes on, its own work too."""
    return await _rest(ask, "pause", node, body)


@router.post(
    "/nodes/{node}/drain",
    responses=example(REST | {"work": "drain"}, "What waits there goes back."),
    openapi_extra=IF_MATCH,
)
@needs(Role.OPERATOR, "nodes:write")
async def drain(ask: Asking, node: NodeName, body: Wish | None = None) -> Response:
    """As pause, and what waits there goes back to its owners: before a board is unplugged."""
    return await _rest(ask, "drain", node, body)


@router.post(
    "/nodes/{node}/resume",
    responses=example(REST | {"work": "work"}, "It takes work again."),
    openapi_extra=IF_MATCH,
)
@needs(Role.OPERATOR, "nodes:write")
async def resume(ask: Asking, node: NodeName, body: Wish | None = None) -> Response:
    """Let a member take work of others again, after pause or drain."""
    return await _rest(ask, "resume", node, body)


async def _rest(ask: Ask, method: str, node: str, body: Wish | None) -> Response:
    await _seen(ask, node)
    with about("path.node"):
        return told(await ask.services.call(method, node=node, reason=body.reason if body else ""))


@router.post("/nodes/{node}/ping", responses=example({"rtt_ms": 3.2}, "It answered."))
@needs(Role.VIEWER, "nodes:read")
async def ping(ask: Asking, node: NodeName) -> Response:
    """Ask a member for a sign of life."""
    await found_node(ask.services, node)
    return told(await ask.services.call("ping", node=node))


async def _seen(ask: Ask, node: str) -> dict[str, Any]:
    """The member, if it is still the one that the caller looked at. Raises: Problem: 404, 412."""
    found = await found_node(ask.services, node)
    check_unchanged(ask.request, _tag(found))
    return found


def _tag(node: dict[str, Any]) -> str:
    """Who it is, by its keys, and what was decided about it; not what it tells of itself all the time."""
    keys = [each["fingerprint"] for each in node.get("keys", ())]
    return etag(node["id"], node["status"], node["roles"], node["labels"], node.get("work", ""), keys)


async def found_node(services: Services, node: str) -> dict[str, Any]:
    """Raises: Problem: nobody is named so."""
    try:
        return dict(await services.call("node", node=node))
    except BadInput:
        raise Problem("not-found", f"no member is named {node}", fix="see /v1/nodes") from None
