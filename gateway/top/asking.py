"""Asking: the model's questions and a person's actions, carried out over the gateway's control socket.

The socket is connected to by the next question, so a gateway that was started again is simply asked again.
Every answer has a limit in time: a gateway that hangs is told as one that does not answer.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from edge_node.client import Mesh, MeshUnavailable
from gateway.top.actions import Action, params_of
from gateway.top.model import EVENTS_WAIT_MS, Ask, Told, Troubled
from gateway.top.views import Row
from security.errors import EdgeweaveError

ANSWER_S_MAX: Final = 10.0
ACTION_S_MAX: Final = 60.0
"""A story is asked of every member; a revocation waits for disk and broker."""


class Asking:
    """One connection to the gateway. Args: mesh: not entered; it is closed by ``close``."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    async def close(self) -> None:
        await self._mesh.__aexit__(None, None, None)

    async def answer(self, ask: Ask) -> Told | Troubled:
        """Never raises for what the gateway said or did not say."""
        limit_s = ANSWER_S_MAX + (EVENTS_WAIT_MS / 1000 if ask.question == "events" else 0)
        try:
            async with asyncio.timeout(limit_s):
                answer = await self._mesh.call(ask.method, ask.params)
        except EdgeweaveError as error:
            return Troubled(ask.question, error.cause, error.fix)
        except TimeoutError:
            return Troubled(ask.question, f"no answer within {limit_s:g} s", "see the gateway's log")
        return Told(ask.question, answer, time.time_ns() // 1_000_000)

    async def act(self, action: Action, row: Row, operator: str, reason: str = "") -> Any:
        """Raises: EdgeweaveError: as the gateway said."""
        if action.method == "cancel":
            return await self._limited(self._mesh.cancel(row.key))
        return await self._limited(self._mesh.call(action.method, params_of(action, row, operator, reason)))

    async def why(self, about: str) -> dict[str, Any]:
        """A story. Raises: EdgeweaveError: nobody knows of it, or the gateway does not answer."""
        answer: dict[str, Any] = await self._limited(self._mesh.call("why", {"about": about}))
        return answer

    async def history(self, name: str) -> list[dict[str, Any]]:
        """A function's versions. Raises: EdgeweaveError."""
        answer: list[dict[str, Any]] = await self._limited(self._mesh.call("history", {"name": name}))
        return answer

    async def _limited(self, answer: Any) -> Any:
        try:
            async with asyncio.timeout(ACTION_S_MAX):
                return await answer
        except TimeoutError:
            raise MeshUnavailable(
                f"no answer within {ACTION_S_MAX:g} s: it may be done or not", fix="look at the list again"
            ) from None
