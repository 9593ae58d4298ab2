"""Services: what the routes of the HTTP API do their work through.

The methods are those of the control socket (``gateway.backend``), so a command and a request that mean the
same do the same; here their answers become values and their failures become problems. Not here: who may
ask (``guard``).
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from edge_node.clock import Clock
from edge_node.control import protocol
from edge_node.wire.ids import is_task_id, task_id
from gateway.access.access import Access, asking
from gateway.api.app import BODY_S
from gateway.api.guard import LARGE_BODIES_MAX
from gateway.api.idempotency import Keys, Turn
from gateway.api.problems import Problem, problem_for
from gateway.api.said import Said
from gateway.api.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edge_node.metrics import Sample

KEYS = "idempotency.db"


class Backend(Protocol):
    """``gateway.backend.GatewayBackend``."""

    def submit(
        self, request: protocol.Submit, reply: Callable[[protocol.Response], None], *, task: str = ""
    ) -> None: ...
    def result(self, request: protocol.Result, reply: Callable[[protocol.Response], None]) -> None: ...
    def cancel(self, request: protocol.Cancel, reply: Callable[[protocol.Response], None]) -> None: ...
    async def call(self, method: str, params: dict[str, Any]) -> object: ...
    def function_of(self, task: str) -> str:
        """Of a task that is open; else empty."""


class Services:
    """Args: lan: the API is served to other machines too.   entropy: of task ids.
    body_s: a request's body must be there within."""

    def __init__(
        self,
        backend: Backend,
        access: Access,
        *,
        home: Path,
        clock: Clock,
        lan: bool,
        entropy: Callable[[int], bytes],
        body_s: float = BODY_S,
    ) -> None:
        self.backend = backend
        self.access = access
        self.clock = clock
        self.lan = lan
        self.body_s = body_s
        self.keys = Keys(home / KEYS, clock.wall_ms)
        self.large_bodies = asyncio.Semaphore(LARGE_BODIES_MAX)
        self.changing = asyncio.Lock()
        """Held from looking at a version until it was changed: code, and documents of the tables."""
        self.traffic = Traffic()
        self.said = Said()
        self.streams = 0
        """Of events, open now."""
        self.expected: Callable[[], None] = _nobody
        """Called when somebody is about to open the console."""
        self.closing = asyncio.Event()
        """Set when the gateway ends: whoever streams ends too."""
        self.entropy = entropy

    def samples(self) -> Iterator[Sample]:
        """What `/metrics` tells of the API."""
        yield from self.traffic.samples()
        yield "edgeweave_http_streams", {}, self.streams

    async def call(self, method: str, **params: Any) -> Any:
        """An administrative method. Raises: EdgeweaveError."""
        return await self.backend.call(method, params)

    async def submit(self, request: protocol.Submit, *, task: str = "") -> str:
        """The task's id, once it is on disk and noted. Args: task: the id that it shall bear.

        Raises: Problem. Unavailable: an earlier change is still not noted.
        """
        await self.access.audit.ready()
        answer = await _answer(lambda reply: self.backend.submit(request, reply, task=task))
        assert isinstance(answer, protocol.Accepted)
        asked = {"function": request.function, "where": request.where}
        await self._noted("task.submit", answer.task, None, asked)
        return answer.task

    async def submit_once(self, request: protocol.Submit, turn: Turn) -> str:
        """The same for a request that bears a key. Raises: Problem."""
        if turn.task and await self._is_known(turn.task):
            return turn.task
        task = turn.task or task_id(self.clock.wall_ms(), self.entropy(8))
        if not turn.task:
            await self.keys.keep(turn, task)
        try:
            return await self.submit(request, task=task)
        except Exception:
            await self.keys.forget(turn)
            raise

    async def result(self, task: str, wait_s: float = 0.0) -> protocol.Outcome | protocol.Pending:
        """Raises: Problem: no such task."""
        request = protocol.Result(0, checked_task(task), int(wait_s * 1000))
        answer = await _answer(lambda reply: self.backend.result(request, reply))
        assert isinstance(answer, protocol.Outcome | protocol.Pending)
        return answer

    async def cancel(self, task: str) -> bool:
        """False: it had been settled before. Raises: Problem: no such task."""
        request = protocol.Cancel(0, checked_task(task))
        await self.access.audit.ready()
        function = self.backend.function_of(task)
        answer = await _answer(lambda reply: self.backend.cancel(request, reply))
        assert isinstance(answer, protocol.Cancelled)
        if answer.taken:
            await self._noted("task.cancel", task, {"function": function}, None)
        return answer.taken

    async def _noted(self, what: str, task: str, before: object, after: object) -> None:
        """Into the audit log, with who asks. Never what a function is given or returns."""
        by = asking.get()
        assert by is not None, "the guard let somebody in"
        await self.access.audit.note(by.name, what, task, before, after)

    async def _is_known(self, task: str) -> bool:
        try:
            await self.result(task)
        except Problem as problem:
            if problem.kind == "not-found":
                return False
            raise
        return True

    def close(self) -> None:
        self.closing.set()
        self.keys.close()


def _nobody() -> None:
    """No console is served here."""


def checked_task(task: str) -> str:
    """Raises: Problem: it can be no task's id."""
    if not is_task_id(task):
        raise Problem("not-found", "that is no task's id", fix="it has 23 characters; see /v1/tasks")
    return task


async def _answer(ask: Callable[[Callable[[protocol.Response], None]], None]) -> protocol.Response:
    """What the backend replies, now or later. Raises: Problem: it was a failure. EdgeweaveError."""
    told: asyncio.Future[protocol.Response] = asyncio.get_running_loop().create_future()

    def reply(response: protocol.Response) -> None:
        if not told.done():
            told.set_result(response)

    ask(reply)
    answer = await told
    if isinstance(answer, protocol.Failure):
        raise problem_for(answer)
    return answer


def digest_of(*parts: object) -> bytes:
    """SHA-256 that tells requests apart."""
    return hashlib.sha256(msgspec.msgpack.encode(parts)).digest()
