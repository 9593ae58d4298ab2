"""The daemon's threads stand before they are needed: none is started later, and one that lacks is told."""

from __future__ import annotations

import asyncio
import threading

import pytest

from edge_node import threads
from security.errors import Unavailable


async def test_blocking_work_goes_on_where_no_more_threads_are_to_be_had(monkeypatch):
    threads.stand(asyncio.get_running_loop())

    def refused(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        names = await asyncio.gather(
            *(asyncio.to_thread(lambda: threading.current_thread().name) for _ in range(threads.THREADS * 5))
        )

    assert all(name.startswith("blocking") for name in names)


async def test_a_machine_that_has_no_threads_left_is_told_at_the_start(monkeypatch):
    start, left = threading.Thread.start, [2]

    def the_third_is_refused(self):
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(self)

    monkeypatch.setattr(threading.Thread, "start", the_third_is_refused)

    with pytest.raises(Unavailable, match="4 threads: can't start new thread") as caught:
        threads.stand(asyncio.get_running_loop())

    assert "pids.max" in caught.value.fix
