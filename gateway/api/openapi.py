"""The API's own description, at ``/v1/openapi.json``: OpenAPI 3.1, made of the routes when first asked for.

Beside what FastAPI derives (paths, parameters, bodies, examples) it says of every operation which role and
scope it needs, as the guard has it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Response
from fastapi.openapi.utils import get_openapi

from gateway.access.roles import Role
from gateway.api.answers import room
from gateway.api.guard import COOKIE, Guarded, needs

DESCRIPTION = """\
Manages one mesh, through its gateway. Errors are problem details (RFC 9457) that name cause and fix. Lists
are paged: give `next` back as `cursor`. A browser's session sends `X-CSRF-Token` with every change.
"""


def openapi_router(routers: Iterable[APIRouter]) -> APIRouter:
    """Args: routers: whose routes are described; its own is added."""
    router = room("description")
    described = [*routers, router]
    made: list[bytes] = []

    @router.get(
        "/openapi.json", responses={200: {"description": "OpenAPI 3.1.", "content": {"application/json": {}}}}
    )
    @needs(Role.VIEWER, "")
    async def document() -> Response:
        """This description."""
        if not made:
            made.append(json.dumps(description(described), ensure_ascii=False).encode())
        return Response(made[0], media_type="application/json")

    return router


def guarded_routes(routers: Iterable[APIRouter]) -> list[Guarded]:
    return [route for router in routers for route in router.routes if isinstance(route, Guarded)]


def description(routers: Iterable[APIRouter]) -> dict[str, Any]:
    """The OpenAPI document of these routers."""
    routes = guarded_routes(routers)
    document: dict[str, Any] = get_openapi(
        title="edgeweave gateway", version=version("edgeweave"), description=DESCRIPTION, routes=routes
    )
    document.setdefault("components", {})["securitySchemes"] = {
        "token": {
            "type": "http",
            "scheme": "bearer",
            "description": "`ewt_…`, of `edge-gateway tokens add`.",
        },
        "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "Of `/v1/log-in`."},
    }
    for route in routes:
        for method in route.methods or ():
            if not route.include_in_schema:
                continue
            operation = document["paths"][route.path_format][method.lower()]
            if route.need.role is None:
                operation["security"] = []
                continue
            scope = route.need.scope
            operation["security"] = [{"token": [scope] if scope else []}, {"session": []}]
            operation["x-role"] = route.need.role.word
            if scope:
                operation["x-scope"] = scope
    return document
