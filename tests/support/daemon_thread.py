"""A control socket with a backend in memory, served from a thread: command lines run their own loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from edge_node.control.server import ControlServer
from edge_node.home import Home
from tests.support.echo_backend import EchoBackend


@contextlib.contextmanager
def serving(home: Home, backend: EchoBackend) -> Iterator[EchoBackend]:
    """*backend* answers in *home* while the block lasts."""
    started, loops = threading.Event(), []

    async def serve() -> None:
        stop = asyncio.Event()
        async with ControlServer(home.socket, backend):
            loops.append((asyncio.get_running_loop(), stop))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="daemon")
    thread.start()
    assert started.wait(60), "the control socket did not open"
    try:
        yield backend
    finally:
        loop, stop = loops[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
