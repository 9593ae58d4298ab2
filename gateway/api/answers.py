"""Answers: values as JSON, versions as ETags, and what every route's document says of its errors."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response

from gateway.api.guard import Guarded
from gateway.api.problems import MEDIA_TYPE, Problem

NodeName = Annotated[
    str, Path(pattern=r"^[a-z0-9-]{1,32}$", examples=["pi-1"], description="A member's name.")
]
Limit = Annotated[int, Query(ge=1, le=500, description="Rows of a page.")]
Cursor = Annotated[
    str, Query(max_length=512, description="`next` of the page before; empty: from the beginning.")
]

_PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "field": {"type": "string"},
        "fix": {"type": "string"},
        "instance": {"type": "string"},
        "cause": {"type": "string"},
    },
}
_EXAMPLE: Final = {
    "type": "urn:edgeweave:problem:invalid",
    "title": "Something in the request does not fit",
    "status": 422,
    "detail": "query.limit: Input should be less than or equal to 500",
    "field": "query.limit",
    "fix": "see /v1/openapi.json for what is taken",
    "instance": "/v1/tasks",
    "cause": "q-5f0c1d2e3a4b5c6d",
}
PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    code: {
        "description": f"{whose} mistake, as problem details (RFC 9457).",
        "content": {MEDIA_TYPE: {"schema": _PROBLEM, "example": _EXAMPLE}},
    }
    for code, whose in (("4XX", "The caller's"), ("5XX", "The gateway's or the world's"))
}
IF_MATCH: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "If-Match",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "maxLength": 1024},
            "description": "The ETag that was read: if it has changed since, nothing is done (412).",
            "example": '"6576a46d9473898d4c9a"',
        }
    ]
}
"""``openapi_extra=`` of a route that calls `check_unchanged`."""


def room(tag: str) -> APIRouter:
    """A router of version 1: every route of it is guarded, and documented under *tag*."""
    return APIRouter(prefix="/v1", tags=[tag], route_class=Guarded, responses=PROBLEMS)


def told(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """*value*, plain data, as JSON."""
    return Response(msgspec.json.encode(value), status, headers=headers, media_type="application/json")


def nothing() -> Response:
    return Response(status_code=204)


def example(value: object, what: str, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """``responses=`` of a route: what it answers, by an example."""
    return {status: {"description": what, "content": {"application/json": {"example": value}}}}


def etag(*version: object) -> str:
    """A strong validator of something in this *version*."""
    return f'"{hashlib.sha256(repr(version).encode("utf-8", "replace")).hexdigest()[:20]}"'


def check_unchanged(request: Request, present: str) -> None:
    """If-Match against the ETag of what is there now; without the header nothing is asked.

    Raises: Problem: 412, it was changed since the caller looked.
    """
    given = request.headers.get("if-match")
    if given is None or given.strip() == "*":
        return
    if present not in [each.strip() for each in given.split(",")]:
        raise Problem(
            "stale", "If-Match names another version than the present one", field="header.if-match",
            fix="look again, then change it",
        )  # fmt: skip
