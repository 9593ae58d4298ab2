"""What a daemon may rely on of any ``Runtime``: the same story, told to the pool of real workers and to the
processor of the virtual world, ends every run in the same way.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from device_sim.virtual.clocks import VirtualClock
from device_sim.virtual.loop import VirtualLoop
from device_sim.virtual.processor import Processor
from device_sim.virtual.services import Constant, Outputs, Service
from device_sim.virtual.world import World
from edge_node.functions.bundle import Bundle, BundleStore
from edge_node.functions.invocation import Completion, Invocation
from edge_node.functions.runtimes.pool import WorkerPool
from edge_node.functions.runtimes.runtime import Runtime
from edge_node.functions.values import encode_call

SOURCE = """
import ctypes, time
from edge_node.functions import function

@function
def double(x):
    return 2 * x

@function
def boom(x):
    return x / 0

@function
def hour(mark=None):
    if mark is not None:
        open(mark, "w").close()
    time.sleep(3600)

@function
def segfault():
    ctypes.string_at(0)

@function
def large():
    return b"x" * 4000
"""


def boom(x):
    return x / 0


SERVICES = {
    "mod.double": Service(Constant(1), real=lambda x: 2 * x),
    "mod.boom": Service(Constant(1), real=boom),
    "mod.hour": Service(Constant(3_600_000)),
    "mod.segfault": Service(Constant(1), poison=True),
    "mod.large": Service(Constant(1), real=lambda: b"x" * 4000),
}


class Ear:
    """What a runtime said."""

    def __init__(self) -> None:
        self.done: dict[tuple[str, int], Completion] = {}
        self.order: list[tuple[str, str]] = []
        self._changed = asyncio.Event()

    def on_done(self, done: Completion) -> None:
        assert (done.task, done.attempt) not in self.done, "one completion for each"
        self.done[done.task, done.attempt] = done
        self.order.append((done.status, done.task))
        self._changed.set()

    def on_started(self, task: str, attempt: int, pid: int) -> None:
        assert pid > 0
        self.order.append(("started", task))
        self._changed.set()

    async def hears(self, what: str, task: str) -> None:
        async with asyncio.timeout(60):
            while (what, task) not in self.order:
                self._changed.clear()
                await self._changed.wait()

    def ends(self) -> dict[tuple[str, int], tuple[object, ...]]:
        """What is the same everywhere: not times, process numbers, tracebacks."""
        return {
            key: (
                *(done.status, done.output, done.worker_died, done.pid > 0),
                *((done.error.kind, done.error.type, done.error.message) if done.error else ()),
            )
            for key, done in self.done.items()
        }


async def story(
    runtime: Runtime, ear: Ear, kill: Callable[[], Awaitable[None]], digest: bytes, path: str, mark: str = ""
) -> None:
    """One worker, so that the order is known. `mark`: a file that tells that a run has really begun."""

    def start(task: str, function: str, *args: object, attempt: int = 1, **limits: float) -> None:
        call = encode_call(args, {})
        runtime.start(Invocation(task, attempt, f"mod.{function}", digest, path, call, **limits))  # type: ignore[arg-type]

    assert runtime.workers == 1
    start("doubles", "double", 21)
    start("raises", "boom", 1)
    runtime.flush()
    await ear.hears("failed", "raises")
    runtime.start(Invocation("nonsense", 1, "mod.double", digest, path, b"\xc1"))
    start("too large", "large", output_bytes_max=1000)
    await ear.hears("failed", "too large")

    start("takes too long", "hour", timeout_s=0.2)
    start("comes next", "double", 1)
    await ear.hears("done", "comes next")

    start("dies", "segfault")
    start("innocent", "double", 2)
    await ear.hears("done", "innocent")

    start("is killed", "hour", mark)
    await ear.hears("started", "is killed")
    await kill()
    await ear.hears("failed", "is killed")

    start("is stopped", "hour")
    await ear.hears("started", "is stopped")
    start("waits", "double", 3)
    start("waits", "double", 3, attempt=2)
    runtime.cancel("waits", 1)
    assert ear.order[-1] == ("cancelled", "waits"), "what waits is cancelled at once"
    runtime.cancel("waits", 1)
    runtime.cancel("unheard of", 1)
    runtime.cancel("is stopped", 2)
    runtime.cancel("is stopped", 1)
    await ear.hears("done", "waits")

    start("unfinished", "hour")
    await ear.hears("started", "unfinished")


async def told_to_the_pool(directory) -> Ear:
    ear, store = Ear(), BundleStore(directory)
    digest = store.put(Bundle.of_source("mod.py", SOURCE).to_bytes())
    pool = WorkerPool(1, on_done=ear.on_done, on_started=ear.on_started)
    mark: Path = directory / "mark"

    async def kill() -> None:
        async with asyncio.timeout(60):
            while not mark.exists():  # a worker that has not begun gives its run to the next one
                await asyncio.sleep(0.005)
        os.kill(pool.pids[0], signal.SIGKILL)

    running = asyncio.create_task(pool.run(), name="pool")
    try:
        await story(pool, ear, kill, digest, str(store.path(digest)), str(mark))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return ear


def told_to_the_processor() -> Ear:
    world, ear = World(1), Ear()
    loop = VirtualLoop(world)
    processor = Processor(
        world, "pi-1", speed=1.0, workers=1, cores=1, clock=VirtualClock(world), services=SERVICES,
        outputs=Outputs(), on_done=ear.on_done, on_started=ear.on_started,
    )  # fmt: skip

    async def kill() -> None:
        await asyncio.sleep(0.001)
        processor.kill_worker()

    async def told() -> None:
        running = asyncio.create_task(processor.run(), name="processor")
        await story(processor, ear, kill, hashlib.sha256(b"").digest(), "")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    loop.run_until_complete(told())
    world.run_until(world.now_ns)  # what the end of the story set off at this moment
    assert world.next_ns is None, "it left nothing to happen"
    return ear


@pytest.mark.slow
async def test_every_run_ends_alike_in_real_workers_and_in_virtual_time(tmp_path):
    real = await told_to_the_pool(tmp_path)
    virtual = await asyncio.to_thread(told_to_the_processor)

    assert virtual.ends() == real.ends()
    assert virtual.order == real.order
    assert ("unfinished", 1) not in real.done
    assert {key: end[0] for key, end in real.ends().items()} == {
        ("doubles", 1): "done",
        ("raises", 1): "failed",
        ("nonsense", 1): "failed",
        ("too large", 1): "failed",
        ("takes too long", 1): "failed",
        ("comes next", 1): "done",
        ("dies", 1): "failed",
        ("innocent", 1): "done",
        ("is killed", 1): "failed",
        ("is stopped", 1): "cancelled",
        ("waits", 1): "cancelled",
        ("waits", 2): "done",
    }
