"""Replicated tables behind a control socket: the real requests over a store in memory, without a daemon."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from edge_node.store.authorship import Authorship
from edge_node.store.cell_store import MemoryCellStore
from edge_node.store.crdt.dots import Vector
from edge_node.store.opened import OpenedState
from edge_node.store.replica import Arrived
from security.errors import EdgeweaveError
from tests.support.echo_backend import EchoBackend
from tests.support.replicas import KEYS, MESH, OWNERS


def opened(me: str) -> OpenedState:
    """A member's tables; members are those of `replicas`."""
    return OpenedState(me, MemoryCellStore(), Authorship(MESH, KEYS[me], OWNERS.get))


def exchanged(*states: OpenedState) -> None:
    """Each hears what the others have written."""
    for one in states:
        for other in states:
            for data in one.replica.offers(Vector(), 2**26, 10_000)[0]:
                other.handle(Arrived(data))


class Asked:
    """An opened store as `state`'s commands ask one, and who it says it is."""

    def __init__(self, state: OpenedState, node: str, mesh: str = MESH) -> None:
        self.state, self.about = state, {"node": node, "mesh": mesh}

    async def call(self, method: str, params: Any = None) -> Any:
        return dict(self.about) if method == "status" else self.state.call(method, dict(params or {}))


class StateBackend(EchoBackend):
    """Of member n1. A watch waits until something has changed."""

    def __init__(self, me: str = "n1") -> None:
        super().__init__()
        self.state = opened(me)
        self.missing: list[str] = []
        self.answers["status"] = {"node": me, "mesh": MESH}
        self.state.requests.add(
            "state.fresh", lambda now_ns, params, answer: answer({"reached": [], "missing": self.missing})
        )

    async def call(self, method: str, params: dict[str, Any]) -> object:
        if not method.startswith("state."):
            return await super().call(method, params)
        self.calls.append((method, params))
        told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.state.requests.call(time.monotonic_ns(), method, params, told.set_result)
        answer = await told
        if isinstance(answer, EdgeweaveError):
            raise answer
        return answer
