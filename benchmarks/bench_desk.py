"""How many no-op tasks a second two desks carry between them, with the journal answering at once.

One process, no sockets, no disk, no workers: submit at the gateway, offer, run, result, terminal record. It
bounds what the cores may cost of the whole. `python benchmarks/bench_desk.py [tasks]`
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections import deque

from edge_node.tasks.desk import (
    Append,
    Desk,
    DeskSettings,
    Heard,
    PeerUp,
    Persisted,
    Run,
    Settled,
    Submitted,
    Task,
    Tell,
    WorkDone,
    WorkStarted,
)
from edge_node.wire.ids import task_id
from edge_node.wire.messages import Load

IN_FLIGHT = 100


def once(count: int, where: str, seed: int = 1) -> float:
    """Tasks per second."""
    rng = random.Random(seed)
    owner = Desk("gateway", settings=DeskSettings(workers=2), rng=rng)
    holder = Desk("pi-1", settings=DeskSettings(workers=2), rng=rng)
    desks = {"gateway": owner, "pi-1": holder}
    todo: deque = deque()
    settled = 0

    def carry(me: str, effects: list) -> None:
        nonlocal settled
        for effect in effects:
            kind = type(effect)
            if kind is Append:
                todo.append((me, Persisted(effect.serial)))
            elif kind is Tell:
                todo.append((effect.peer, Heard(me, effect.message)))
            elif kind is Run:
                todo.append((me, WorkStarted(effect.task, effect.attempt, 1, 1)))
                todo.append(
                    (me, WorkDone(effect.owner, effect.task, effect.attempt, "done", b"x", run_us=20, pid=1))
                )
            elif kind is Settled:
                settled += 1

    now = time.monotonic_ns
    for me, other in (("gateway", "pi-1"), ("pi-1", "gateway")):
        carry(me, desks[me].handle(now(), 1, PeerUp(other, 1_000_000)))
        carry(me, desks[me].handle(now(), 1, Heard(other, Load(2, 0))))
    tasks = [
        Task(task_id(i, rng.randbytes(8)), "f.noop", b"d" * 32, b"x" * 64, b"s" * 32, "gateway", where)
        for i in range(count)
    ]
    begin = time.perf_counter()
    next_task = 0
    while settled < count:
        while next_task < count and next_task - settled < IN_FLIGHT:
            carry("gateway", owner.handle(now(), 1, Submitted(next_task, tasks[next_task])))
            next_task += 1
        for _ in range(len(todo)):
            me, event = todo.popleft()
            carry(me, desks[me].handle(now(), 1, event))
        for me, desk in desks.items():
            at = desk.deadline_ns()
            if at is not None and at <= now():
                carry(me, desk.tick(now(), 1))
    took = time.perf_counter() - begin
    owner.check()
    return count / took


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    for where in ("pi-1", "any", "local"):
        rates = [once(count, where, seed) for seed in range(5)]
        print(f"where={where:6} {statistics.median(rates):9.0f} tasks/s (median of 5 x {count})")


if __name__ == "__main__":
    main()
