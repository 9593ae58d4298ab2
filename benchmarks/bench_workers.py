"""A no-op through the worker pool against ``concurrent.futures.ProcessPoolExecutor(1)``, in turns.

    python benchmarks/bench_workers.py [--rounds 5] [--calls 2000]

Prints medians over the rounds, and ratios: trust those, not the absolute figures. Ours does more per call:
typed values, limits, prints captured, times measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edge_node.functions.bundle import Bundle, BundleStore
from edge_node.functions.invocation import Completion, Invocation
from edge_node.functions.runtimes.pool import WorkerPool
from edge_node.functions.values import decode, encode_call

SOURCE = "from edge_node.functions import function\n\n@function\ndef same(x: int) -> int:\n    return x\n"
IN_FLIGHT = 100


def same(x: int) -> int:
    return x


class Ours:
    """The pool, one worker, as an agent would drive it."""

    def __init__(self, digest: bytes, path: str) -> None:
        self.pool = WorkerPool(1, on_done=self._done)
        self._digest, self._path = digest, path
        self._waiting: dict[str, asyncio.Future[Completion]] = {}
        self._count = 0

    def _done(self, completion: Completion) -> None:
        self._waiting.pop(completion.task).set_result(completion)

    def call(self, x: int, expected_s: float | None) -> asyncio.Future[Completion]:
        self._count += 1
        task = str(self._count)
        future = self._waiting[task] = asyncio.get_running_loop().create_future()
        arguments = encode_call([x], {})
        self.pool.start(
            Invocation(task, 1, "noop.same", self._digest, self._path, arguments, expected_s=expected_s)
        )
        return future

    async def p50_ms(self, calls: int) -> float:
        spent = []
        for x in range(calls):
            start = time.perf_counter()
            completion = await self.call(x, 0.0001)
            assert decode(completion.output) == x
            spent.append(time.perf_counter() - start)
        return statistics.median(spent) * 1e3

    async def calls_per_s(self, calls: int) -> float:
        start = time.perf_counter()
        pending: set[asyncio.Future[Completion]] = set()
        given = 0
        while given < calls or pending:
            while given < calls and len(pending) < IN_FLIGHT:
                pending.add(self.call(given, 0.0001))
                given += 1
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                decode(future.result().output)
        return calls / (time.perf_counter() - start)


def peer_p50_ms(executor: ProcessPoolExecutor, calls: int) -> float:
    spent = []
    for x in range(calls):
        start = time.perf_counter()
        assert executor.submit(same, x).result() == x
        spent.append(time.perf_counter() - start)
    return statistics.median(spent) * 1e3


def peer_calls_per_s(executor: ProcessPoolExecutor, calls: int) -> float:
    start = time.perf_counter()
    pending: set[Future[int]] = set()
    given = 0
    while given < calls or pending:
        while given < calls and len(pending) < IN_FLIGHT:
            pending.add(executor.submit(same, given))
            given += 1
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
    return calls / (time.perf_counter() - start)


async def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--calls", type=int, default=2000)
    chosen = options.parse_args()
    figures: dict[str, list[float]] = {
        name: [] for name in ("ours_p50_ms", "peer_p50_ms", "ours_calls_per_s", "peer_calls_per_s")
    }
    with tempfile.TemporaryDirectory() as directory, ProcessPoolExecutor(1) as executor:
        store = BundleStore(Path(directory))
        digest = store.put(Bundle.of_source("noop.py", SOURCE).to_bytes())
        executor.submit(same, 0).result()
        ours = Ours(digest, str(store.path(digest)))
        running = asyncio.create_task(ours.pool.run(), name="pool")
        await ours.call(0, None)
        for _ in range(chosen.rounds):
            figures["ours_p50_ms"].append(await ours.p50_ms(chosen.calls))
            figures["peer_p50_ms"].append(peer_p50_ms(executor, chosen.calls))
            figures["ours_calls_per_s"].append(await ours.calls_per_s(chosen.calls * 4))
            figures["peer_calls_per_s"].append(peer_calls_per_s(executor, chosen.calls * 4))
        resident_mb = ours.pool.resident_bytes() / 1e6
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    medians = {name: round(statistics.median(values), 4) for name, values in figures.items()}
    medians["p50_ratio"] = round(medians["ours_p50_ms"] / medians["peer_p50_ms"], 2)
    medians["calls_per_s_ratio"] = round(medians["ours_calls_per_s"] / medians["peer_calls_per_s"], 2)
    medians["worker_resident_mb"] = round(resident_mb, 1)
    print(json.dumps(medians, indent=2))


if __name__ == "__main__":
    asyncio.run(main())
