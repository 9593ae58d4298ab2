"""Dask's side of `benchmarks.run`: runs in the peers' own environment, talks JSON lines on stdin and stdout.

One scheduler, one worker process with one thread, no-op tasks; no TLS, no encryption, no durable accept.
"""

from __future__ import annotations

import json
import statistics
import sys
import time


def nothing(number: int) -> None:
    """A no-op that Dask cannot take for one it has run already."""


def main() -> None:
    from distributed import Client, LocalCluster, as_completed

    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        Client(cluster) as client,
    ):
        number = 0
        client.submit(nothing, -1).result()
        print(json.dumps({"ready": True}), flush=True)
        for line in sys.stdin:
            wanted = json.loads(line)
            times = []
            for _ in range(wanted["sequential"]):
                number += 1
                begin = time.perf_counter()
                client.submit(nothing, number).result()
                times.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            first = range(number + 1, number + 1 + wanted["in_flight"])
            number += wanted["in_flight"]
            running = as_completed([client.submit(nothing, n) for n in first])
            left = wanted["tasks"] - wanted["in_flight"]
            for _ in running:
                if left > 0:
                    left -= 1
                    number += 1
                    running.add(client.submit(nothing, number))
            rate = wanted["tasks"] / (time.perf_counter() - begin)
            p50_ms = 1000 * statistics.median(times)
            print(json.dumps({"p50_ms": p50_ms, "tasks_per_s": rate}), flush=True)


if __name__ == "__main__":
    main()
