"""Joining: invitations, who waits to be let in, and the roster."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Path, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.access.roles import Role
from gateway.api.answers import NodeName, example, nothing, room, told
from gateway.api.guard import Asking, check_may_make_deployers, needs
from gateway.api.problems import Problem
from security.errors import BadInput

router = room("joining")
CodeId = Annotated[
    str,
    Path(pattern=r"^[a-z2-7]{6}$", examples=["k7q2mz"], description="Of an open code; not the code itself."),
]
INVITE = {
    "id": "k7q2mz",
    "name": "",
    "approval": "auto",
    "roles": [],
    "replaces": False,
    "expires_at_ms": 1790003600000,
}


class Invitation(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"ttl_s": 3600, "name": "pi-7"}]}
    )
    ttl_s: Annotated[float, Field(ge=1, le=30 * 86400, description="Seconds that the code is good for.")] = (
        3600
    )
    approval: Annotated[Literal["auto", "pending"], Field(description="pending: somebody lets it in.")] = (
        "auto"
    )
    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{0,32}$", description="The only name that may join.")] = ""
    roles: Annotated[list[Literal["deployer", "store"]], Field(max_length=8)] = []


@router.post(
    "/invites",
    status_code=201,
    responses=example(
        {
            "id": "k7q2mz",
            "code": "ew1…",
            "expires_at_ms": 1790003600000,
            "addresses": ["192.0.2.7:8443"],
        },
        "Shown once; its id is listed while it is open.",
        201,
    ),
)
@needs(Role.OPERATOR, "joining:write")
async def invite(ask: Asking, body: Invitation) -> Response:
    """A code with which one device joins."""
    if "deployer" in body.roles:
        check_may_make_deployers(ask)
    return told(await ask.services.call("invite", **body.model_dump()), 201)


@router.get(
    "/invites",
    responses=example(
        {"invites": [INVITE]}, "Codes that nobody has used, without the codes: nobody has those."
    ),
)
@needs(Role.VIEWER, "joining:read")
async def invites(ask: Asking) -> Response:
    """Codes that are open, the one that ends first at the beginning."""
    return told({"invites": await ask.services.call("invites")})


@router.delete("/invites/{id}", status_code=204)
@needs(Role.OPERATOR, "joining:write")
async def withdraw(ask: Asking, id: CodeId) -> Response:
    """Withdraw an open code: nobody joins with it any more. 404 says why there is none."""
    try:
        await ask.services.call("withdraw", id=id)
    except BadInput as error:  # it is unknown, was used or withdrawn, or has expired
        raise Problem("not-found", error.cause, fix=error.fix) from None
    return nothing()


@router.get(
    "/pending",
    responses=example(
        {"pending": [{"id": "pi-7", "fingerprint": "acid-bench", "address": "192.0.2.9"}]}, "Who waits."
    ),
)
@needs(Role.VIEWER, "joining:read")
async def pending(ask: Asking) -> Response:
    """Devices that wait to be let in; compare the fingerprint with what the device shows."""
    return told({"pending": await ask.services.call("pending")})


@router.post("/pending/{node}/approve", responses=example({"node": "pi-7"}, "It is let in."))
@needs(Role.OPERATOR, "joining:write")
async def approve(ask: Asking, node: NodeName) -> Response:
    """Let a device in."""
    await _check_waits(ask, node)
    return told(await ask.services.call("approve", node=node))


@router.post("/pending/{node}/deny", responses=example({"node": "pi-7"}, "It is turned away."))
@needs(Role.OPERATOR, "joining:write")
async def deny(ask: Asking, node: NodeName) -> Response:
    """Turn a device away."""
    await _check_waits(ask, node)
    return told(await ask.services.call("deny", node=node))


@router.get(
    "/roster", responses=example({"mesh": "0123456789abcdef", "version": 12, "members": []}, "As signed.")
)
@needs(Role.VIEWER, "roster:read")
async def roster(ask: Asking) -> Response:
    """The signed list of members, as all of them hold it."""
    return told(await ask.services.call("roster"))


async def _check_waits(ask: Asking, node: str) -> None:
    if all(row["id"] != node for row in await ask.services.call("pending")):
        raise Problem("not-found", f"nobody named {node} waits to be let in", fix="see /v1/pending")
