"""A control backend in memory: answers as the agent would, runs a few functions in place."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import msgspec

from edge_node.control.protocol import (
    Accepted,
    Attempt,
    Cancel,
    Cancelled,
    Failure,
    Outcome,
    Pending,
    Result,
    Run,
    Submit,
)
from edge_node.control.server import Reply
from edge_node.functions import values
from edge_node.functions.invocation import TaskError
from security.errors import BadInput, Refused, Unavailable


class EchoBackend:
    """Functions: test.echo (its first argument), test.fail, test.expire, test.hold (until released)."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.held: dict[str, tuple[int, Reply | None]] = {}
        self.waiters: dict[str, list[tuple[int, Reply]]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.seen: list[Run | Submit] = []
        self.answers: dict[str, Any] = {"status": {"node": "n1", "mesh": "ab" * 8}, "functions": []}
        self.names: dict[str, str] = {}  # deployed names that one of the functions above stands for
        self._numbers = itertools.count(1)

    def run(self, request: Run, reply: Reply) -> None:
        request = self._renamed(request)
        task = self._task(request)
        if request.function == "test.hold":
            self.held[task] = (request.id, reply)
            return
        self.outcomes[task] = self._settled(request, task, request.id)
        reply(self.outcomes[task])

    def submit(self, request: Submit, reply: Reply) -> None:
        request = self._renamed(request)
        task = self._task(request)
        if request.function == "test.hold":
            self.held[task] = (request.id, None)
        else:
            self.outcomes[task] = self._settled(request, task, 0)
        reply(Accepted(request.id, task))

    def result(self, request: Result, reply: Reply) -> None:
        outcome = self.outcomes.get(request.task)
        if outcome is not None:
            reply(_with_id(outcome, request.id))
        elif request.task not in self.held:
            reply(Failure(request.id, "not_found", f"no task {request.task} here"))
        elif not request.wait_ms:
            reply(Pending(request.id, request.task, "running"))
        else:
            self.waiters.setdefault(request.task, []).append((request.id, reply))

    def cancel(self, request: Cancel, reply: Reply) -> None:
        taken = request.task in self.held
        if taken:
            self.settle(Outcome(0, request.task, "cancelled"))
        reply(Cancelled(request.id, request.task, taken))

    async def call(self, method: str, params: dict[str, Any]) -> object:
        self.calls.append((method, params))
        await asyncio.sleep(0)
        if method == "boom":
            raise RuntimeError("a bug")
        answer = self.answers.get(method)
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            raise BadInput(f"no method {method}")
        return answer

    # -- for the test ---------------------------------------------------------------------------------

    def settle(self, outcome: Outcome) -> None:
        request_id, reply = self.held.pop(outcome.task)
        self.outcomes[outcome.task] = outcome
        if reply is not None:
            reply(_with_id(outcome, request_id))
        for waiting_id, waiting in self.waiters.pop(outcome.task, []):
            waiting(_with_id(outcome, waiting_id))

    def release(self) -> None:
        for task in list(self.held):
            self.settle(Outcome(0, task, "done", values.encode("released")))

    def _renamed(self, request: Any) -> Any:
        return msgspec.structs.replace(request, function=self.names.get(request.function, request.function))

    def _task(self, request: Run | Submit) -> str:
        self.seen.append(request)
        if request.function == "test.refused":
            raise Refused("outbox full", fix="wait until some tasks are settled")
        if request.function == "test.bug":
            raise KeyError("a mistake of the daemon")
        if request.function == "test.down":
            raise Unavailable("the gateway is down", fix="start it", retry_after_s=2.5)
        if not request.function.startswith("test."):
            raise BadInput(f"no function {request.function!r}", fix="did you mean 'test.echo'?")
        return f"t{next(self._numbers):06}"

    def _settled(self, request: Run | Submit, task: str, request_id: int) -> Outcome:
        match request.function:
            case "test.fail":
                error = TaskError("raised", "ValueError", "no rows", "Traceback (most recent call last):\n…")
                return Outcome(request_id, task, "failed", error=error.encode(), log=b"printed\n")
            case "test.expire":
                return Outcome(request_id, task, "expired", reason="missed its deadline")
            case "test.poison":
                return Outcome(request_id, task, "quarantined")
            case "test.echo_raw":
                return Outcome(request_id, task, "done", request.input)
        args, kwargs = values.decode_call(request.input)
        output = values.encode(args[0] if args else kwargs)
        attempts = [Attempt("n1", 42, 1000, 1012, "done")]
        return Outcome(
            request_id,
            task,
            "done",
            output,
            log=b"said\n",
            place="n1",
            attempts=attempts,
            function=request.function,
        )


def _with_id(outcome: Outcome, request_id: int) -> Outcome:
    fields = [getattr(outcome, name) for name in Outcome.__struct_fields__[1:]]
    return Outcome(request_id, *fields)
