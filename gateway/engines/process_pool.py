"""The gateway's own processors: warm worker processes, one a core by default.

The same workers as on a node, so that a function behaves alike wherever it runs; what differs is how
many there are and that nothing slows them.
"""

from __future__ import annotations

import os

from edge_node.functions.invocation import Invocation
from edge_node.functions.limits import PoolSettings
from edge_node.functions.runtimes.pool import WorkerPool
from edge_node.functions.runtimes.runtime import OnDone, OnStarted


class ProcessPoolEngine:
    """An ``Engine`` of local processes."""

    name = "process_pool"
    start_up_s = 0.3
    price_per_cpu_s = 0.0

    def __init__(
        self,
        processes: int,
        *,
        on_done: OnDone,
        on_started: OnStarted,
        slowdown: float = 1.0,
        settings: PoolSettings | None = None,
    ) -> None:
        """Args: processes: 0 for one a core.   slowdown: as `[board] slowdown`, what is told as our speed."""
        self._pool = WorkerPool(
            processes or os.cpu_count() or 1,
            on_done=on_done, on_started=on_started, slowdown=slowdown, settings=settings,
        )  # fmt: skip

    @property
    def workers(self) -> int:
        return self._pool.workers

    def start(self, call: Invocation) -> None:
        self._pool.start(call)

    def flush(self) -> None:
        self._pool.flush()

    def cancel(self, task: str, attempt: int) -> None:
        self._pool.cancel(task, attempt)

    async def run(self) -> None:
        await self._pool.run()
