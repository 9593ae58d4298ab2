"""The port behind which functions run: a pool of worker processes now, other engines later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edge_node.functions.invocation import Completion, Invocation

OnDone = Callable[[Completion], None]
OnStarted = Callable[[str, int, int], None]  # task, attempt, pid


class Runtime(Protocol):
    """Runs invocations; never waits, answers through the callbacks given to its constructor."""

    @property
    def workers(self) -> int: ...

    def start(self, call: Invocation) -> None:
        """Queue it, first in first out. The caller bounds how many."""

    def flush(self) -> None:
        """The caller's turn ends: hand out what was started in it, without waiting for the event loop."""

    def cancel(self, task: str, attempt: int) -> None:
        """End it if it is still here; its Completion says cancelled. Unknown ones are ignored."""

    async def run(self) -> None:
        """Forever; cancel it to stop. Leaves no process behind, and no Completion for what was unfinished."""
