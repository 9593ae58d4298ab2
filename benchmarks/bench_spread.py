"""How well one node's burst spreads over its peers: real daemons, mosquitto, everything on.

    python -m benchmarks.bench_spread [--rounds 3] [--tasks 1000] [--ms 20] [--broker mosquitto|embedded]

A gateway and nodes on loopback play boards of equal and of unequal speed (`[board] slowdown`): a task takes
0.25 ms of the machine's CPU and 20 ms of a board of speed 1, so that two cores carry all the boards. One node
is given a burst of tasks of a function that nobody has seen run; the same burst with `where="local"` is what
it takes alone. Rounds take turns, and only ratios within a round mean anything. The owner is the slowest
board. Other work on the machine lowers the figures: messages need its cores, the boards hardly do.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.whole_path import Daemon, program
from edge_node.client import Mesh

SLOWEST = 80.0  # slowdown of a board of speed 1
WANTED = {"equal": 0.9, "unequal": 1 / 1.15}
FLEETS: dict[str, dict[str, float]] = {
    "equal": {"gateway": 1, "a": 1, "b": 1, "c": 1},
    "unequal": {"gateway": 1, "a": 1, "b": 2, "c": 4},
}
FUNCTION = '''
@function(timeout_s=30)
def burn{number}(cpu_s: float) -> float:
    """So many seconds of CPU."""
    end = time.thread_time() + cpu_s
    while time.thread_time() < end:
        pass
    return cpu_s
'''


def source(count: int) -> str:
    """As many functions as rounds: each burst meets one that nobody has seen run."""
    head = "import time\nfrom edge_node.functions import function\n"
    return head + "".join(FUNCTION.format(number=number) for number in range(count))


@contextlib.contextmanager
def fleet(speeds: dict[str, float], broker: str) -> Iterator[dict[str, Path]]:
    """Homes by name; a daemon runs on each."""
    root = Path(tempfile.mkdtemp(prefix="ews-"))
    homes = {name: root / name for name in speeds}
    daemons: list[Daemon] = []
    try:
        for name, speed in speeds.items():
            home = homes[name]
            if name == "gateway":
                home.mkdir(mode=0o700)
                (home / "settings.toml").write_text(_settings(speed, gateway=True))
                daemons.append(
                    Daemon(
                        program("edge-gateway"), "up", "--home", str(home), "--listen", "127.0.0.1",
                        "--port", "0", "--broker", broker, "--broker-port", "0", "--mdns", "lo", "--json",
                    )
                )  # fmt: skip
                continue
            code = subprocess.run(
                [program("edge-gateway"), "invite", "--home", str(homes["gateway"])],
                capture_output=True, text=True, check=True,
            ).stdout.strip()  # fmt: skip
            subprocess.run(
                [program("edge-node"), "join", code, "--home", str(home), "--name", name, "--mdns", "lo"],
                check=True, capture_output=True,
            )  # fmt: skip
            (home / "settings.toml").write_text(_settings(speed))
            daemons.append(Daemon(program("edge-node"), "up", "--home", str(home), "--mdns", "lo", "--json"))
        yield homes
    finally:
        for daemon in reversed(daemons):
            daemon.stop()
        shutil.rmtree(root, ignore_errors=True)


def _settings(speed: float, *, gateway: bool = False) -> str:
    section = "[engine]\nprocesses = 1\n" if gateway else "[worker]\ncount = 1\n"
    return f"{section}[board]\nslowdown = {SLOWEST / speed}\n"


async def burst(there: Mesh, function: str, tasks: int, cpu_s: float, where: str) -> float:
    """Seconds until all of them have their results."""
    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(there.run(function, cpu_s, where=where))
    return time.perf_counter() - begin


async def known_everywhere(homes: dict[str, Path], function: str) -> None:
    """Every node has the bundle: fetching code once is not what is measured here."""
    async with Mesh.open(homes["a"]) as there:
        for name in homes:
            await there.run(function, 0.0001, where=name, deadline_s=60)


async def measure(
    homes: dict[str, Path], rounds: int, tasks: int, cpu_s: float
) -> tuple[list[float], list[float], Any]:
    """Seconds of each round alone and together, and the counters of every board: who ran how much."""
    async with Mesh.open(homes["gateway"]) as there:
        await there.call(
            "deploy", {"source": source(2 * rounds + 1).encode(), "stem": "spread", "only_if_new": True}
        )
    await known_everywhere(homes, f"spread.burn{2 * rounds}")
    alone, together = [], []
    async with Mesh.open(homes["a"]) as there:
        for number in range(rounds):
            alone.append(await burst(there, f"spread.burn{2 * number}", tasks // 4, cpu_s, "local"))
            together.append(await burst(there, f"spread.burn{2 * number + 1}", tasks, cpu_s, "any"))
    ran = {}
    for name, home in homes.items():
        async with Mesh.open(home) as there:
            status = await there.status()
            ran[name] = {
                key: status["tasks"][key] for key in ("by_place", "refused_peers", "probes", "redispatched")
            }
    return alone, together, ran


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default 3)")
    parser.add_argument("--tasks", type=int, default=1000, help="tasks of a burst (default 1000)")
    parser.add_argument("--ms", type=float, default=20.0, help="of a task on a board of speed 1 (default 20)")
    parser.add_argument("--broker", choices=("mosquitto", "embedded"), default="mosquitto")
    options = parser.parse_args()
    report = {}
    print(f"{'':10}{'speed-up':>10}{'ideal':>8}{'share of it':>13}   wanted")
    for name, speeds in FLEETS.items():
        with fleet(speeds, options.broker) as homes:
            cpu_s = options.ms / 1e3 / SLOWEST
            alone, together, tasks = asyncio.run(measure(homes, options.rounds, options.tasks, cpu_s))
        # A quarter of the burst is enough to know what the owner takes alone.
        ups = [4 * one / all_ for one, all_ in zip(alone, together, strict=True)]
        ideal = sum(speeds.values()) / speeds["a"]
        share = statistics.median(ups) / ideal
        print(f"{name:10}{statistics.median(ups):>10.2f}{ideal:>8.2f}{share:>13.2f}   >= {WANTED[name]:.2f}")
        report[name] = {
            "speeds": speeds,
            "alone_s": alone,
            "together_s": together,
            "share": share,
            "tasks": tasks,
        }
    target = Path(__file__).resolve().parent.parent / "out" / "bench" / "spread.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(report, indent=2, default=str) + "\n")
    print(f"(report: {target.relative_to(target.parents[2])})")


if __name__ == "__main__":
    main()
