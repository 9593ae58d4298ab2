"""Slashes: names with a ``/`` in them, as one part of a path.

    GET /v1/state/tables/north%2Frooms ─► Slashes ─► a route takes one part ─► named ─► "north/rooms"

Servers decode a path before it is routed, and ``north%2Frooms`` would be the document ``rooms`` of another
table. So an encoded slash stands as one character that is no text (a noncharacter of Unicode, for use inside
of a program) until a route has taken its parts apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, unquote

from starlette.types import ASGIApp, Receive, Scope, Send

STAND_IN: Final = "\ufdd0"
_ENCODED: Final = re.compile(rb"%2f", re.IGNORECASE)
_STANDING: Final = quote(STAND_IN).encode()


class Slashes:
    """An ASGI application whose routes see an encoded slash as ``STAND_IN``."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = scope.get("raw_path") or b""
        if b"%2" in raw and _ENCODED.search(raw):
            scope["path"] = unquote(_ENCODED.sub(_STANDING, raw).decode("ascii"))
        await self._app(scope, receive, send)


def named(value: str) -> str:
    """A part of a path as the name that was meant."""
    return value.replace(STAND_IN, "/")


def parts_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """A route's parameters, each as the name that was meant."""
    return {name: named(value) if isinstance(value, str) else value for name, value in params.items()}


def address_of(scope: Scope) -> str:
    """Path and query as they were asked for, encoded: to come back to."""
    path = scope.get("raw_path") or quote(scope["path"]).encode()
    query = scope.get("query_string", b"")
    return str((path + b"?" + query if query else path).decode("ascii", "replace"))
