"""Console: the pages in a browser, as one ASGI application on the port of the gateway's HTTP API.

Nothing of it is loaded before somebody asks for the log-in; then NiceGUI and the pages are imported in a
thread, so that the mesh goes on meanwhile, and are there when the name is typed. Everything here needs a
session: a page without one leads to the log-in and back, everything else is refused, a socket too. Requests
of other sites are refused by their ``Origin``, and the content security policy lets a page ask nobody but
this gateway.

Not here: what pages show (`pages`), who may do what (`gateway.api.guard`, which the calls of
pages go through).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

from fastapi import FastAPI
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import Message, Receive, Scope, Send

from edge_node import residence
from gateway.access.roles import Principal
from gateway.api.app import UNOBSERVED
from gateway.api.guard import COOKIE, is_here
from gateway.api.services import Services
from gateway.api.slashes import address_of

log = logging.getLogger(__name__)

PATH: Final = "/console"
LOG_IN: Final = "/log-in"
PAGES_MAX: Final = 64
"""Pages open at once, over all browsers: each holds some 300 KB here."""
POLICY: Final = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Scripts inline and by ``eval``: Vue compiles templates in the browser. Nothing from elsewhere."""
SECURE: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)
ICON: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
    '<path d="M16 16 6 8M16 16l10-8M16 16v11" fill="none" stroke="#2f7de1" stroke-width="2.5"/>'
    '<g fill="#2f7de1"><circle cx="16" cy="16" r="5"/><circle cx="6" cy="8" r="3.2"/>'
    '<circle cx="26" cy="8" r="3.2"/><circle cx="16" cy="27" r="3.2"/></g></svg>'
)
TOO_MANY: Final = "Too many pages of the console are open: close some, then load this one again."


class Console:
    """Args: app: the whole HTTP application, which the pages' calls go to."""

    def __init__(self, app: FastAPI, services: Services) -> None:
        self.app = app
        self.services = services
        self._inner: FastAPI | None = None
        self._opening = asyncio.Lock()
        self._preparing: asyncio.Task[FastAPI] | None = None
        self._lasting = contextlib.AsyncExitStack()
        self._open_pages: Callable[[], int] = lambda: 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return
        asked = HTTPConnection(scope)
        refused = self._refused(asked)
        if refused is not None:
            await refused(scope, receive, send)
            return
        inner = await self._opened()
        if _is_page(asked) and self._open_pages() >= PAGES_MAX:
            await PlainTextResponse(TOO_MANY, 503, {"retry-after": "60"})(scope, receive, send)
            return
        await inner(scope, receive, _securely(send) if scope["type"] == "http" else send)

    def _refused(self, asked: HTTPConnection) -> Callable[[Scope, Receive, Send], Any] | None:
        """The answer to somebody who may not come in."""
        if not (self.services.lan or is_here(asked)):
            return _no("The console is served to this machine only: set [api] lan = true on the gateway.")
        origin = asked.headers.get("origin")
        if origin is not None and origin != f"https://{asked.headers.get('host', '')}":
            return _no("The request comes from another site.")
        if self.reader(asked) is not None:
            return None
        if asked.scope["type"] == "http" and _is_page(asked):
            back = quote(address_of(asked.scope), safe="")
            return RedirectResponse(f"{PATH}{LOG_IN}?next={back}", 303)
        return _no("Log in first.", 401)

    def reader(self, asked: HTTPConnection) -> Principal | None:
        """Who looks, by the session's cookie."""
        cookie = asked.cookies.get(COOKIE)
        return None if cookie is None else self.services.access.by_cookie(cookie)

    def prepare(self) -> None:
        """Somebody is about to come: load what the first page would wait for."""
        if self._inner is None and self._preparing is None:
            self._preparing = asyncio.create_task(self._opened(), name="console")
            self._preparing.add_done_callback(_prepared)

    async def _opened(self) -> FastAPI:
        if self._inner is None:
            async with self._opening:
                if self._inner is None:
                    self._inner = await self._open()
        return self._inner

    async def _open(self) -> FastAPI:
        pages = await asyncio.to_thread(importlib.import_module, "gateway.console.book")
        inner = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, **UNOBSERVED)
        self._open_pages = pages.open_pages
        pages.bind(inner, self)
        await self._lasting.enter_async_context(inner.router.lifespan_context(inner))
        residence.keep_for_good()  # it holds more than the gateway did before it
        log.info("the console is open")
        return inner

    async def close(self) -> None:
        """Its pages end; browsers ask again until a gateway answers."""
        if self._preparing is not None:
            self._preparing.cancel()
        with contextlib.suppress(Exception):
            await self._lasting.aclose()


def _prepared(opening: asyncio.Task[FastAPI]) -> None:
    if not opening.cancelled() and (error := opening.exception()) is not None:
        log.error(
            "the console could not be loaded", exc_info=error
        )  # the first page tries again, and says so


def _is_page(asked: HTTPConnection) -> bool:
    path = asked.url.path
    return asked.scope["type"] == "http" and not path.startswith((f"{PATH}/_nicegui", f"{PATH}/static/"))


def _no(text: str, status: int = 403) -> Callable[[Scope, Receive, Send], Any]:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await PlainTextResponse(text, status)(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": text[:100]})

    return answer


def _securely(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = list(message.get("headers", ()))
            names = {name.lower() for name, _ in given}
            given += [pair for pair in SECURE if pair[0] not in names]
            if b"cache-control" not in names:
                given.append((b"cache-control", b"no-store"))
            message = {**message, "headers": given}
        await send(message)

    return sent
