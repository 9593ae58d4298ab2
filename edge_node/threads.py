"""The threads that blocking work of a daemon runs on, all of them started at its start.

asyncio's own pool starts a thread when it first needs one. A thread that cannot be started then (a function
that forks without end has taken the last pid of the container, or the memory for a stack) would end whatever
asked for it, and the daemon with it. Those that stand already cannot be refused.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from security.errors import Unavailable

THREADS: Final = 4
"""What waits there is short: a read of the ledger, a write of notes, a look-up of a name."""
START_S_MAX: Final = 30.0


def stand(loop: asyncio.AbstractEventLoop) -> None:
    """Give *loop* its pool for ``to_thread`` and ``getaddrinfo``. Raises: Unavailable: too few threads."""
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="blocking")
    gate = threading.Barrier(THREADS + 1)
    try:
        for _ in range(THREADS):  # each holds its thread until all of them stand
            pool.submit(gate.wait, START_S_MAX)
        gate.wait(START_S_MAX)
    except (RuntimeError, threading.BrokenBarrierError) as error:
        gate.abort()
        pool.shutdown(wait=False, cancel_futures=True)
        raise Unavailable(
            f"this machine does not let the daemon start {THREADS} threads: {error}",
            fix="raise its limit of processes (`ulimit -u`, pids.max of its container)",
        ) from None
    loop.set_default_executor(pool)
