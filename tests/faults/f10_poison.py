"""Fault 10: tasks that take their worker down, or try to take the machine: everybody else hardly notices.

Five kinds: a segmentation fault, memory without end, a loop without end, a fork bomb, a gigabyte of output
(returned or printed). First plain tasks run alone, for comparison, then beside the poison. Each poison must
end, and never as done; what takes workers down is quarantined after three of them.

RLIMIT_NPROC does not bind root, so every daemon of this mesh lives in a pids cgroup of its own, with room for
what it needs and little more; where there is none, the bomb is left out, and said so. It forks politely: a
child that may not fork waits. Whatever is in these cgroups at the end is ours, and is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.faults.fault import BOTH, Context, Fault, Outcome, quantile
from tests.faults.fleet import GRACE_S, Driver, Fleet

FAULT = Fault(
    number=10,
    name="poison",
    title="poison task: segfault, out of memory, endless loop, fork bomb, 1 GB output",
    brokers=BOTH,
    full=100,
    small=5,
    unit="poison tasks",
    round_max=25,
    round_s=55,
    bounds={"others' p99 against alone p99": 2.0},
)
KINDS = ("segfault", "memory", "loop", "bomb", "output")
DEATHS_MAX = 3  # of workers, before a task is quarantined
CGROUPS = Path("/sys/fs/cgroup/pids")  # version 1; version 2 has no folder of its own for each controller
UNIFIED = Path("/sys/fs/cgroup")
PROCESSES_MAX = 100  # of a daemon, its threads and its workers' counted; it has about 25
ALONE_S = 8.0
EVERY_S = 0.05

POISON = """
import ctypes


@function(timeout_s=20)
def segfault(number: int, folder: str) -> int:
    note(folder, "begin", number)
    return ctypes.string_at(0)


@function(timeout_s=20, memory_mb=64)
def memory(number: int, folder: str) -> int:
    note(folder, "begin", number)
    eaten = []
    for _ in range(1500):  # not without end: a gigabyte and a half is enough to be seen
        eaten.append(os.urandom(1024 * 1024))
    return -1


@function(timeout_s=1.0)
def loop(number: int, folder: str) -> int:
    note(folder, "begin", number)
    while True:
        pass


@function(timeout_s=1.5)
def bomb(number: int, folder: str) -> int:
    note(folder, "begin", number)
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.05)


@function(timeout_s=20, memory_mb=2500)
def output(number: int, folder: str, printed: bool):
    note(folder, "begin", number)
    if not printed:
        return b"x" * 1_000_000_000
    for _ in range(1000):
        print("x" * 1_000_000)
    return number
"""


async def run(context: Context) -> Outcome:
    rng = context.rng
    kinds = [KINDS[at % len(KINDS)] for at in range(context.count)]
    with contextlib.ExitStack() as stack:
        nodes = 3 if context.brief else 4
        names = ["gateway", *(f"n{number}" for number in range(1, nodes + 1))]
        groups = stack.enter_context(cgroups(names)) if _has_cgroups() else {}
        if not groups:
            context.say("  no pids cgroups here: fork bombs are left out")
            kinds = [kind for kind in kinds if kind != "bomb"]
        rng.shuffle(kinds)
        stop = asyncio.Event()
        prefix = (lambda name: entering(groups[name])) if groups else None
        async with Fleet(context, nodes=nodes, workers=2, source=POISON, prefix=prefix) as fleet:
            drivers = [fleet.driver(fleet.members[name]) for name in ("gateway", "n1", "n2")]
            poisoner = fleet.driver(fleet.members["n3"])
            every_s = EVERY_S * len(drivers)
            driving = [
                asyncio.create_task(driver.steadily(every_s, lambda: rng.uniform(0.01, 0.06), stop))
                for driver in drivers
            ]
            try:
                await asyncio.sleep(ALONE_S / 4 if context.brief else ALONE_S)
                alone = [value for driver in drivers for value in driver.latencies]
                for driver in drivers:
                    driver.latencies.clear()
                poison = await _poison(poisoner, kinds)
            finally:
                stop.set()
                await asyncio.gather(*driving)
            beside = [value for driver in drivers for value in driver.latencies]
            await fleet.settled()
            begun = Counter(run.number for run in fleet.runs())
            violations = judged(poisoner, poison, begun)
    fleet.violations += violations
    figures: dict[str, float | int | str] = {f"of {kind}": kinds.count(kind) for kind in KINDS}
    if alone and beside:
        figures["others' p99 against alone p99"] = quantile(beside, 0.99) / quantile(alone, 0.99)
    return fleet.outcome(len(poison), figures, {"alone, s": alone, "beside poison, s": beside})


async def _poison(driver: Driver, kinds: Sequence[str]) -> dict[str, str]:
    """Task -> its kind; two at a time, each until it has ended."""
    rng, folder = driver.fleet.context.rng, str(driver.fleet.folder)
    found: dict[str, str] = {}
    turn = asyncio.Semaphore(2)

    async def one(kind: str) -> None:
        async with turn:
            more = (rng.random() < 0.5,) if kind == "output" else ()
            task = await driver.submit(folder, *more, function=f"load.{kind}")
            if task is not None:
                found[task] = kind
                await asyncio.wait([driver.waiting[task]], timeout=driver.fleet.ttl_s + GRACE_S)

    await asyncio.gather(*map(one, kinds))
    return found


def judged(driver: Driver, poison: dict[str, str], begun: Counter[int]) -> list[str]:
    """How each of them ended, against what was promised."""
    found = []
    numbers = {note["id"]: note["accepted"] for note in driver.notes if "accepted" in note}
    ends = Counter[str]()
    for note in driver.notes:
        task = note.get("told")
        if task not in poison:
            continue
        kind, status, runs = poison[task], note["status"], begun[numbers[task]]
        ends[f"{kind} {status}"] += 1
        if status == "done" and kind != "output":
            found.append(f"P1: {kind} {task} ended as done")
        if runs > DEATHS_MAX:
            found.append(f"poison {kind} {task} was run {runs} times, more than {DEATHS_MAX}")
        if kind == "segfault" and status != "quarantined":
            found.append(f"poison {kind} {task} ended as {status}, not quarantined")
    driver.fleet.context.say("  " + ", ".join(f"{count} {end}" for end, count in sorted(ends.items())))
    return found


# ── cgroups ───────────────────────────────────────────────────────────────────────────────────────────


def _has_cgroups() -> bool:
    return os.geteuid() == 0 and (CGROUPS.is_dir() or "pids" in _read(UNIFIED / "cgroup.subtree_control"))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


@contextlib.contextmanager
def cgroups(names: Sequence[str]) -> Iterator[dict[str, Path]]:
    """A pids cgroup for each name; at the end whatever is in them is killed, and they are removed."""
    root = CGROUPS if CGROUPS.is_dir() else UNIFIED
    made: dict[str, Path] = {}
    try:
        for name in names:
            path = root / f"edgeweave-{os.getpid()}-{name}"
            path.mkdir()
            made[name] = path
            (path / "pids.max").write_text(str(PROCESSES_MAX))
        yield made
    finally:
        for path in made.values():
            _empty(path)
            with contextlib.suppress(OSError):
                path.rmdir()


def _empty(path: Path) -> None:
    for _ in range(200):
        pids = [int(line) for line in _read(path / "cgroup.procs").split()]
        if not pids:
            return
        for pid in pids:  # a process enters this cgroup only as a child of ours
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def entering(path: Path) -> list[str]:
    """Words before a command that is to live in it; the pid stays the same."""
    return ["/bin/sh", "-c", f'echo $$ > "{path}/cgroup.procs"; exec "$@"', "sh"]
