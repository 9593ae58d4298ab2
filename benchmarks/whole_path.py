"""The whole path against its peers: caller on the gateway, worker on another node, everything on.

    caller ─ control socket ─ gateway (ledger, fsync) ─ sealed ─ mosquitto ─ node ─ worker, and back

Compared, in turns within one run, with `ProcessPoolExecutor(max_workers=1)` (no network, no encryption,
nothing kept) and with Dask (one worker process; its own environment). Ratios are medians over the rounds:
single figures of a shared machine are worth little.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from edge_node import residence
from edge_node.client import Mesh

SOURCE = '''
from edge_node.functions import function

@function(timeout_s=5)
def nothing() -> None:
    """A no-op."""
'''
SEQUENTIAL = 400
TASKS = 4000
IN_FLIGHT = 100


def nothing() -> None:
    """The peer's no-op."""


def program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


class Daemon:
    """`edge-gateway up` or `edge-node up`, from its start to its end."""

    def __init__(self, *words: str) -> None:
        begin = time.perf_counter()
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.ready_s = time.perf_counter() - begin
        if not line:
            raise SystemExit(f"{words[0]} did not start; run `{' '.join(words)}` to see why")
        self.ready: dict[str, Any] = json.loads(line)

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self.ready['pid']}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


@contextlib.contextmanager
def mesh(broker: str) -> Iterator[tuple[Path, Daemon, Daemon]]:
    home = Path(tempfile.mkdtemp(prefix="ewb-"))
    daemons: list[Daemon] = []
    try:
        gateway, node = home / "g", home / "n"
        daemons.append(
            Daemon(
                program("edge-gateway"), "up", "--home", str(gateway), "--listen", "127.0.0.1", "--port", "0",
                "--broker", broker, "--broker-port", "0", "--mdns", "lo", "--json",
            )
        )  # fmt: skip
        code = subprocess.run(
            [program("edge-gateway"), "invite", "--home", str(gateway)],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        subprocess.run(
            [program("edge-node"), "join", code, "--home", str(node), "--name", "worker", "--mdns", "lo"],
            check=True, capture_output=True,
        )  # fmt: skip
        (node / "settings.toml").write_text("[worker]\ncount = 1\n")
        daemons.append(Daemon(program("edge-node"), "up", "--home", str(node), "--mdns", "lo", "--json"))
        yield gateway, daemons[0], daemons[1]
    finally:
        for daemon in reversed(daemons):
            daemon.stop()
        shutil.rmtree(home, ignore_errors=True)


async def ours(gateway: Path) -> dict[str, float]:
    async with Mesh.open(gateway) as there:
        times = []
        for _ in range(SEQUENTIAL):
            begin = time.perf_counter()
            await there.run("bench.nothing", where="worker")
            times.append(time.perf_counter() - begin)
        gate = asyncio.Semaphore(IN_FLIGHT)

        async def one() -> None:
            async with gate:
                await there.run("bench.nothing", where="worker")

        begin = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(TASKS):
                group.create_task(one())
        rate = TASKS / (time.perf_counter() - begin)
    return {"p50_ms": 1000 * statistics.median(times), "tasks_per_s": rate}


def pool_of_processes(pool: ProcessPoolExecutor) -> dict[str, float]:
    times = []
    for _ in range(SEQUENTIAL):
        begin = time.perf_counter()
        pool.submit(nothing).result()
        times.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    running: deque[Any] = deque()
    for _ in range(TASKS):
        if len(running) >= IN_FLIGHT:
            running.popleft().result()
        running.append(pool.submit(nothing))
    while running:
        running.popleft().result()
    return {"p50_ms": 1000 * statistics.median(times), "tasks_per_s": TASKS / (time.perf_counter() - begin)}


class Dask:
    """Dask in its own environment, if there is one."""

    def __init__(self, python: Path) -> None:
        self.process = subprocess.Popen(
            [str(python), str(Path(__file__).with_name("peer_dask.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self._read()

    def _read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the Dask peer ended; remove .venv-bench and run `make bench` again")
        answer: dict[str, float] = json.loads(line)
        return answer

    def measure(self) -> dict[str, float]:
        assert self.process.stdin is not None
        wanted = {"sequential": 50, "tasks": 1000, "in_flight": IN_FLIGHT}
        self.process.stdin.write(json.dumps(wanted) + "\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def run(rounds: int, broker: str, dask_python: Path | None) -> dict[str, Any]:
    """All rounds, in turns; medians and ratios."""
    found: dict[str, list[dict[str, float]]] = {"edgeweave": [], "process_pool": [], "dask": []}
    with mesh(broker) as (gateway, at_gateway, at_node), ProcessPoolExecutor(1) as pool:
        time.sleep(residence.SETTLED_S + 10)  # let mDNS announce itself and the node come to rest
        idle_mb = at_node.resident_mb()
        asyncio.run(deploy(gateway))
        dask = Dask(dask_python) if dask_python is not None else None
        try:
            pool.submit(nothing).result()
            asyncio.run(ours(gateway))  # warm
            for number in range(rounds):
                found["process_pool"].append(pool_of_processes(pool))
                found["edgeweave"].append(asyncio.run(ours(gateway)))
                if dask is not None:
                    found["dask"].append(dask.measure())
                last = {who: {k: round(v, 3) for k, v in r[-1].items()} for who, r in found.items() if r}
                print(f"round {number + 1}: {json.dumps(last)}", file=sys.stderr)
        finally:
            if dask is not None:
                dask.close()
        busy_mb = at_node.resident_mb()
    median = {
        who: {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
        for who, rounds in found.items()
        if rounds
    }
    ours_, pool_ = median["edgeweave"], median["process_pool"]
    ratios = {
        "p50_to_process_pool": ours_["p50_ms"] / pool_["p50_ms"],
        "rate_to_process_pool": ours_["tasks_per_s"] / pool_["tasks_per_s"],
    }
    if "dask" in median:
        ratios["rate_to_dask"] = ours_["tasks_per_s"] / median["dask"]["tasks_per_s"]
        ratios["p50_to_dask"] = ours_["p50_ms"] / median["dask"]["p50_ms"]
    return {
        "broker": broker,
        "rounds": rounds,
        "cpus": os.cpu_count(),
        "median": median,
        "ratios": ratios,
        "node_idle_mb": idle_mb,
        "node_after_mb": busy_mb,
        "gateway_ready_s": at_gateway.ready_s,
        "node_ready_s": at_node.ready_s,
    }


async def deploy(gateway: Path) -> None:
    async with Mesh.open(gateway) as there:
        await there.call("deploy", {"source": SOURCE.encode(), "stem": "bench", "only_if_new": True})
        await there.run("bench.nothing", where="worker", deadline_s=20)
