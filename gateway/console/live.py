"""Live: one picture of the mesh a second, made once for all pages that look, and not at all when none does.

A page calls ``follow(view, told)`` and is told each picture, until it closes.

Not here: the picture's contents (`gateway.backend`, method ``fleet``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from nicegui import background_tasks

from security.errors import EdgeweaveError

if TYPE_CHECKING:
    from gateway.api.services import Services
    from gateway.console.view import View

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0
LOOK_EVERY: Final = 10
"""Pictures after which it is asked whether a reader's session still stands."""
Told = Callable[[dict[str, Any]], Awaitable[None] | None]


class Live:
    """The picture, and who is told of it."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._followers: dict[object, Callable[[dict[str, Any] | None, str], Awaitable[None]]] = {}
        self._task: asyncio.Task[None] | None = None
        self.picture: dict[str, Any] | None = None

    def add(self, key: object, told: Callable[[dict[str, Any] | None, str], Awaitable[None]]) -> None:
        self._followers[key] = told
        if self._task is None or self._task.done():
            self._task = background_tasks.create(self._run(), name="the console's picture of the mesh")

    def remove(self, key: object) -> None:
        self._followers.pop(key, None)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while self._followers:
            trouble = ""
            try:
                self.picture = await self._services.call("fleet")
            except EdgeweaveError as error:
                trouble = str(error)
            except Exception:  # by our own mistake: the next picture may go well
                log.exception("the picture of the mesh could not be made")
                trouble = "The mesh cannot be shown now: the gateway's log says why"
            for told in list(self._followers.values()):
                try:
                    await told(None if trouble else self.picture, trouble)
                except Exception:
                    log.exception("a page could not show the mesh")
            due = max(due + EVERY_S, loop.time())
            await asyncio.sleep(due - loop.time())
        self.picture = None


_live: list[Live] = []


def bind(services: Services) -> None:
    _live[:] = [Live(services)]


def follow(view: View, told: Told) -> None:
    """*told* is given each new picture, in the page's own context, until the page closes."""
    live, looks = _live[0], 0
    slot = view.client.content

    async def each(picture: dict[str, Any] | None, trouble: str) -> None:
        nonlocal looks
        if not view.client.has_socket_connection:
            return
        looks += 1
        with slot:
            if looks % LOOK_EVERY == 0 and view.services.access.by_cookie(view.cookie) is None:
                live.remove(view.client.id)
                view.log_in_again()
                return
            view.trouble(trouble)
            if picture is not None:
                waiting = told(picture)
                if waiting is not None:
                    await waiting

    live.add(view.client.id, each)
    view.client.on_delete(lambda: live.remove(view.client.id))
