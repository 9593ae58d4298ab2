"""Counted: the application of the port, with every answer told to ``traffic``.

    Counted(app) ─► API, joining, console: pages, files, sockets ─► Traffic ─► /metrics

A socket is an answer 101, or how it was refused; what lasts counts until it begins. Not counted: what is no
HTTP, and connections over the server's bound, which no application ever sees.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.traffic import NO_ROUTE, Traffic


class Counted:
    """An ASGI application whose answers are counted.

    Args: mounts: paths under which applications of their own answer, whose routes are told with that path.
    """

    def __init__(self, app: ASGIApp, traffic: Traffic, mounts: tuple[str, ...] = ()) -> None:
        self._app = app
        self._traffic = traffic
        self._mounts = mounts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        began_s = time.perf_counter()
        is_told = False

        def tell(status: int) -> None:
            nonlocal is_told
            is_told = True
            route = self._route(scope)
            took_s = None if route == NO_ROUTE else time.perf_counter() - began_s
            self._traffic.answered(scope.get("method", "GET"), route, status, took_s)

        async def sent(message: Message) -> None:
            if not is_told and (status := _status(message)):
                tell(status)
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Exception:
            if not is_told:  # whoever stands around us answers so
                tell(500)
            raise

    def _route(self, scope: Mapping[str, Any]) -> str:
        """Of the innermost route that took the request: each leaves itself in the scope, mounts need not."""
        root = f"{scope.get('root_path', '')}/"
        under = next((each for each in self._mounts if root.startswith(f"{each}/")), "")
        path = getattr(scope.get("route"), "path_format", None)
        if not isinstance(path, str):
            return f"{under}/{{path}}" if under else NO_ROUTE
        return path if path.startswith(f"{under}/") else under + path


def _status(message: Mapping[str, Any]) -> int:
    """Of the message that begins an answer; 0: of another one."""
    match message["type"]:
        case "http.response.start" | "websocket.http.response.start":
            return int(message["status"])
        case "websocket.accept":
            return 101
        case "websocket.close":  # before it was accepted; later ones come to nobody here
            return 403
    return 0
