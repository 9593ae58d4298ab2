"""The two ways from a program to its daemon: one that blocks, and the mesh's own that is awaited."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Final, TypeVar

from edge_node.state.changes import Change, Feed
from edge_node.state.exchange import AwaitedCall, Call, Exchange, awaited, carried_out
from security.errors import BadInput, Unavailable

T = TypeVar("T")

ABSENT_S_MAX: Final = 30.0
"""How long a watcher waits for a daemon that went away; as ``Mesh.result`` does."""


class Links:
    """Carries exchanges. Either way may be missing: a program without a loop, a loop without a socket."""

    __slots__ = ("_awaited_call", "_call")

    def __init__(self, call: Call | None, awaited_call: AwaitedCall | None) -> None:
        self._call = call
        self._awaited_call = awaited_call

    def block(self, exchange: Exchange[T]) -> T:
        if self._call is None:
            raise BadInput("nothing here blocks", fix="use what lies under .aio")
        return carried_out(exchange, self._call)

    async def wait(self, exchange: Exchange[T]) -> T:
        if self._awaited_call is None:
            raise BadInput("nothing here can be awaited", fix="use the state of an open Mesh: mesh.state")
        return await awaited(exchange, self._awaited_call)

    async def follow(self, feed: Feed) -> AsyncIterator[Change]:
        """What the feed tells, through restarts of the daemon.

        Raises: Unavailable: it was away for 30 s.
        """
        loop = asyncio.get_running_loop()
        lost_since: float | None = None
        pause_s = 0.05
        while True:
            try:
                changes = await self.wait(feed.step())
            except Unavailable:
                now = loop.time()
                lost_since = now if lost_since is None else lost_since
                if now - lost_since > ABSENT_S_MAX:
                    raise
                await asyncio.sleep(pause_s * (0.5 + random.random() / 2))  # noqa: S311 (jitter)
                pause_s = min(pause_s * 2, 1.0)
                continue
            lost_since, pause_s = None, 0.05
            for change in changes:
                yield change
