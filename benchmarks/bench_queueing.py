"""The virtual world against queueing theory: does its time, its chance and its processor add up?

    python -m benchmarks.bench_queueing [--arrivals 1000000] [--queues 1000] [--seed 1]

Two models whose answer is known exactly, built of the world's agenda and its ``Processor`` as the server;
nothing takes time but the service:

* n queues, Poisson arrivals of n·λ, exponential service of mean 1, each arrival joins the shortest of d
  queues drawn at random. As n grows the mean time in the system becomes T = Σ_{i≥1} λ^((d^i - d)/(d - 1)).
  Source: Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, IEEE TPDS 12(10), 2001.
* one queue before n workers, the same arrivals: T = 1 + C/(n(1 - λ)), C by Erlang's formula.

Every row must come within 1 %; the shared queue at 0.99, which forgets slowly, within its own confidence
interval. The interval: 95 %, from 20 batches after the warm-up. Fewer queues than 1000 are farther from the
limit, and fewer arrivals leave more to chance.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from device_sim.virtual.clocks import VirtualClock
from device_sim.virtual.processor import Costs, Processor
from device_sim.virtual.services import Exponential, Outputs, Service
from device_sim.virtual.world import SECOND, World
from edge_node.functions.invocation import Completion, Invocation

FREE = Costs(dispatch_ns=0, spawn_ns=0, kill_ns=0, turn_ns=0, event_ns=0, scheduling_ns_max=0)
BATCHES = 20
STUDENT = 2.093  # 97.5 % of Student's t with 19 degrees of freedom
WITHIN = 0.01
FOREVER_S = 1e9


def supermarket(d: int, load: float) -> float:
    """Mean time in the system in units of the mean service, n → ∞."""
    if d == 1:
        return 1 / (1 - load)
    total, i = 0.0, 1
    while (term := load ** ((d**i - d) // (d - 1))) > 1e-15:
        total, i = total + term, i + 1
    return total


def erlang(n: int, load: float) -> float:
    """The same for one queue before n workers (M/M/n)."""
    blocked = 1.0  # Erlang B, by its recursion in the number of workers
    for workers in range(1, n + 1):
        blocked = load * n * blocked / (workers + load * n * blocked)
    waits = blocked / (1 - load * (1 - blocked))  # Erlang C
    return 1 + waits / (n * (1 - load))


@dataclass(frozen=True)
class Measured:
    """Times in the system, in units of the mean service."""

    mean: float
    half_width: float
    """Of the 95 % interval."""
    arrivals: int
    """Beside the warm-up."""
    tasks: int
    """With it."""


class Shop:
    """Queues, and customers that come.

    Args: queues: how many.   workers: behind each.   choices: queues that an arrival looks at.
        load: of all workers.   warm_up_s, arrivals: what is not counted, and what is.
    """

    def __init__(
        self,
        seed: int,
        *,
        queues: int,
        workers: int,
        choices: int,
        load: float,
        warm_up_s: float,
        arrivals: int,
    ) -> None:
        self.world = World(seed)
        clock, services, outputs = VirtualClock(self.world), {"f.f": self.service()}, Outputs()
        self.servers = [
            Processor(
                self.world, f"q{number}", speed=1.0, workers=workers, cores=workers, clock=clock,
                services=services, outputs=outputs, on_done=self.leaver(number), costs=FREE,
            )
            for number in range(queues)
        ]  # fmt: skip
        self.rng = self.world.rng("arrivals")
        self.choices = choices
        self.rate = load * queues * workers / SECOND
        self.lengths = [0] * queues
        self.came: dict[str, tuple[int, int]] = {}
        self.warm_up_ns = round(warm_up_s * SECOND)
        self.wanted = arrivals
        self.counted = 0
        self.sums = [0] * BATCHES
        self.counts = [0] * BATCHES
        self.tasks = 0

    @staticmethod
    def service() -> Service:
        return Service(Exponential(1000), output_bytes=0)

    def leaver(self, number: int) -> Callable[[Completion], None]:
        def leave(done: Completion) -> None:
            assert done.status == "done", done
            self.lengths[number] -= 1
            came_ns, batch = self.came.pop(done.task)
            if batch >= 0:
                self.sums[batch] += self.world.now_ns - came_ns
                self.counts[batch] += 1

        return leave

    def arrive(self) -> None:
        now_ns, lengths, random = self.world.now_ns, self.lengths, self.rng.random
        queues = len(lengths)
        best = int(random() * queues)
        for _ in range(self.choices - 1):
            other = int(random() * queues)
            if lengths[other] < lengths[best]:
                best = other
        batch = -1
        if now_ns >= self.warm_up_ns:
            batch = self.counted * BATCHES // self.wanted
            self.counted += 1
        self.tasks += 1
        task = str(self.tasks)
        self.came[task] = now_ns, batch
        lengths[best] += 1
        server = self.servers[best]
        server.start(Invocation(task, 1, "f.f", b"", "", b"", FOREVER_S))
        server.flush()
        if self.counted < self.wanted:
            self.world.after(round(self.rng.expovariate(self.rate)), self.arrive)

    def run(self) -> Measured:
        self.world.soon(self.arrive)
        while self.world.step():
            pass
        assert not self.came, "everybody leaves"
        means = [total / count / SECOND for total, count in zip(self.sums, self.counts, strict=True)]
        half = STUDENT * statistics.stdev(means) / BATCHES**0.5
        return Measured(sum(self.sums) / sum(self.counts) / SECOND, half, sum(self.counts), self.tasks)


def measured(seed: int, *, queues: int, workers: int, choices: int, load: float, arrivals: int) -> Measured:
    """Warm-up: ten times the scale on which a queue at this load forgets; a shared queue of n does so n times
    as fast, and as 1/(1 - load)² (its heavy-traffic limit).
    """
    warm_up_s = 20 + (20 / (1 - load) if workers == 1 else 20 / (workers * (1 - load) ** 2))
    return Shop(
        seed,
        queues=queues,
        workers=workers,
        choices=choices,
        load=load,
        warm_up_s=warm_up_s,
        arrivals=arrivals,
    ).run()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_queueing", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--arrivals", type=int, default=1_000_000, help="counted ones of each row (default 10^6)"
    )
    parser.add_argument("--queues", type=int, default=1000, help="of the first model (default 1000)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rows = [(2, load) for load in (0.5, 0.7, 0.8, 0.9, 0.95)] + [(3, 0.9), (5, 0.9)]
    print(f"{'':24}{'exact':>9}{'measured':>10}{'±':>8}{'off, %':>9}{'arrivals':>11}{'tasks/s':>9}")
    ok = True
    for d, load in rows:
        name = f"{options.queues} queues, d = {d}, {load}"
        ok &= row(
            name, supermarket(d, load), options.seed, queues=options.queues, workers=1, choices=d, load=load,
            arrivals=options.arrivals * (3 if load > 0.9 else 1),
        )  # fmt: skip
    for load, times in ((0.9, 1), (0.95, 1), (0.99, 4)):
        ok &= row(
            f"shared by 100, {load}", erlang(100, load), options.seed, queues=1, workers=100, choices=1,
            load=load, arrivals=options.arrivals * times,
        )  # fmt: skip
    sys.exit(0 if ok else 1)


def row(name: str, exact: float, seed: int, *, load: float, **what: int) -> bool:
    began_s = time.process_time()
    found = measured(seed, load=load, **what)
    spent_s = time.process_time() - began_s
    off = found.mean / exact - 1
    ok = abs(off) <= (WITHIN if load <= 0.95 else found.half_width / exact)
    print(
        f"{name:24}{exact:9.4f}{found.mean:10.4f}{found.half_width:8.4f}{off * 100:+9.2f}{found.arrivals:11d}"
        f"{found.tasks / spent_s:9.0f}{'' if ok else '  too far'}",
        flush=True,
    )
    return ok


if __name__ == "__main__":
    main()
