"""One client of `bench_end_to_end`: measures when told to, on the tree that PYTHONPATH names.

    python benchmarks/end_to_end_client.py HOME PLACE          a line {"tasks": N, "sequential": N} in,
                                                               a line {"p50_ms": …, "tasks_per_s": …} out
Imports nothing of the project but its client, so that an older tree can be measured by the same program.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from edge_node.client import Mesh

SOURCE = '''
from edge_node.functions import function

@function(timeout_s=5)
def nothing() -> None:
    """A no-op."""
'''
IN_FLIGHT = 100


async def measure(there: Mesh, place: str, wanted: dict[str, Any]) -> dict[str, float]:
    times = []
    for _ in range(wanted["sequential"]):
        begin = time.perf_counter()
        await there.run("bench.nothing", where=place)
        times.append(time.perf_counter() - begin)
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def one() -> None:
        async with gate:
            await there.run("bench.nothing", where=place)

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(wanted["tasks"]):
            group.create_task(one())
    took = time.perf_counter() - begin
    return {
        "p50_ms": 1000 * statistics.median(times) if times else 0.0,
        "tasks_per_s": wanted["tasks"] / took,
    }


async def main(home: Path, place: str) -> None:
    async with Mesh.open(home) as there:
        await there.call("deploy", {"source": SOURCE.encode(), "stem": "bench", "only_if_new": True})
        await there.run("bench.nothing", where=place, deadline_s=20)
        print("{}", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await measure(there, place, json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
