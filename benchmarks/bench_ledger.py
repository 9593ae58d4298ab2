"""What the ledger on a disk costs: opening a full one, accepting, and no-op tasks against one in memory.

    python -m benchmarks.bench_ledger [--settled N] [--open N] [--tasks N] [--rounds 5] [DIRECTORY]

    open      a ledger of so many settled and open tasks, from the first byte to the list of open tasks
              (integrity, index, log, every open task's rows)                              wanted <= 2 s
    accept    desk and journal's thread, 100 tasks in flight, each told after its fsync    wanted >= 5 000/s
    no-op     100 in flight on two real workers, each told after its terminal record: the ledger on disk and
              in memory, in turns; told as their ratio                                    wanted >= 0.70

No client and no broker, which would hide the ledger behind themselves: on the whole path (`benchmarks.run`)
it weighs less than here.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

from edge_node.functions import values
from edge_node.functions.bundle import Bundle, BundleStore
from edge_node.functions.invocation import Completion, Invocation
from edge_node.functions.runtimes.pool import WorkerPool
from edge_node.store.ledger import SqliteLedger
from edge_node.tasks.desk import (
    Append,
    Desk,
    DeskSettings,
    Persisted,
    Reply,
    Run,
    Settled,
    Submitted,
    Task,
    WorkDone,
    WorkStarted,
)
from edge_node.tasks.journal import Journal, MemoryJournal, open_journal
from edge_node.tasks.rows import Row, row_of
from edge_node.tasks.task import KNOWN_MS, Accepted, Attempt, Closed, Outcome
from edge_node.wire.ids import task_id

MESH, NODE = "0123456789abcdef", "pi-1"
IN_FLIGHT = 100


def a_task(number: int, rng: random.Random, where: str = "local") -> Task:
    name = task_id(KNOWN_MS + number, rng.randbytes(8))
    return Task(
        name, "lab.noop", b"d" * 32, rng.randbytes(64), b"s" * 32, NODE, where, accepted_at_ms=KNOWN_MS
    )


def filled(path: Path, settled: int, still_open: int) -> None:
    rng = random.Random(1)
    store = SqliteLedger(path, MESH, NODE)
    rows: list[Row] = []
    for number in range(settled + still_open):
        task = a_task(number, rng)
        rows.append(row_of(Accepted(task)))
        if number < settled:
            attempts = (Attempt(1, NODE, 7, 1, 2, "done"),)
            outcome = Outcome("done", b"o" * 40, settled_at_ms=KNOWN_MS + number, attempts=attempts)
            rows.append(row_of(Closed(task.id, outcome)))
        if len(rows) >= 500:
            store.insert(rows)
            rows = []
    if rows:
        store.insert(rows)
    store.close()


def opening_s(path: Path, still_open: int) -> float:
    begin = time.perf_counter()
    journal = open_journal(path, MESH, NODE, now_ms=KNOWN_MS)
    found = len(journal.open_tasks())
    took = time.perf_counter() - begin
    journal.close()
    assert found == still_open and not journal.damaged
    return took


async def rate(journal: Journal | MemoryJournal, count: int, bundle: Path | None) -> float:
    """Tasks a second: accepted durably, or with a `bundle` run on two workers and settled."""
    loop = asyncio.get_running_loop()
    rng = random.Random(2)
    desk = Desk(NODE, settings=DeskSettings(workers=2, outbox_tasks_max=count + 1), rng=rng)
    tasks = [a_task(number, rng) for number in range(count)]
    woken = asyncio.Event()
    inbox: list[object] = []
    ended = 0

    def heard(events: list[object]) -> None:
        inbox.extend(events)
        woken.set()

    def done(one: Completion) -> None:
        assert one.status == "done", one.error
        heard(
            [
                WorkDone(
                    "", one.task, one.attempt, one.status, one.output, pid=one.pid, run_us=one.run_us,
                    started_at_ms=one.started_at_ms,
                )
            ]
        )  # fmt: skip

    def started(task: str, attempt: int, pid: int) -> None:
        heard([WorkStarted(task, attempt, pid, KNOWN_MS)])

    def failed(serials: list[int], why: str) -> None:
        raise RuntimeError(why)

    journal.start(
        loop.call_soon_threadsafe if isinstance(journal, Journal) else loop.call_soon,
        lambda serials: heard([Persisted(serial) for serial in serials]),
        failed,
    )
    pool = WorkerPool(2, on_done=done, on_started=started) if bundle is not None else None
    running = asyncio.create_task(pool.run()) if pool is not None else None
    now = time.monotonic_ns
    given = 0
    call = values.encode_call((), {})
    begin = time.perf_counter()
    while ended < count:
        while given < count and given - ended < IN_FLIGHT:
            inbox.append(Submitted(given, tasks[given]))
            given += 1
        events, inbox[:] = list(inbox), []
        appends = []
        for event in events:
            for effect in desk.handle(now(), KNOWN_MS, event):  # type: ignore[arg-type]
                kind = type(effect)
                if kind is Append:
                    appends.append(effect)
                elif kind is (Reply if pool is None else Settled):
                    ended += 1
                elif kind is Run and pool is not None:
                    assert isinstance(effect, Run)
                    pool.start(
                        Invocation(
                            task=effect.task, attempt=effect.attempt, function="lab.noop",
                            digest=bytes.fromhex(bundle.name), bundle_path=str(bundle), input=call,
                            timeout_s=60.0, memory_mb=256, expected_s=effect.expected_s,
                        )
                    )  # fmt: skip
        if pool is not None:
            pool.flush()
        for each in appends:
            journal.append(each.serial, each.records)
        if not inbox:
            woken.clear()
            if ended < count and given - ended >= min(IN_FLIGHT, count - ended):
                waiting = asyncio.create_task(woken.wait())
                await asyncio.wait({waiting, *([running] if running else [])}, return_when="FIRST_COMPLETED")
                if running is not None and running.done():
                    running.result()
        else:
            await asyncio.sleep(0)
    took = time.perf_counter() - begin
    if running is not None:
        running.cancel()
        await asyncio.wait({running})
    return count / took


def _bundle(directory: Path) -> Path:
    store = BundleStore(directory)
    source = "from edge_node.functions import function\n\n@function()\ndef noop() -> int:\n    return 1\n"
    return store.path(store.put(Bundle.of_source("lab.py", source).to_bytes()))


def measured(directory: Path, count: int, number: int, *, disk: bool, bundle: Path | None) -> float:
    journal = Journal(directory / f"l{number}.db", MESH, NODE) if disk else MemoryJournal()
    try:
        return asyncio.run(rate(journal, count, bundle))
    finally:
        journal.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--settled", type=int, default=100_000)
    parser.add_argument("--open", type=int, default=1_000)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("directory", nargs="?")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        directory = Path(name)
        filled(directory / "full.db", options.settled, options.open)
        size = (directory / "full.db").stat().st_size / 2**20
        opens = [opening_s(directory / "full.db", options.open) for _ in range(options.rounds)]
        print(
            f"open     {options.settled:,} settled, {options.open:,} open, {size:.0f} MiB: "
            f"{statistics.median(opens):.2f} s (wanted <= 2)"
        )
        bundle = _bundle(directory / "bundles")
        accepts, on_disk, in_memory = [], [], []
        for number in range(options.rounds):
            count, at = options.tasks, 2 * number
            accepts.append(measured(directory, count, at, disk=True, bundle=None))
            on_disk.append(measured(directory, count, at + 1, disk=True, bundle=bundle))
            in_memory.append(measured(directory, count, 0, disk=False, bundle=bundle))
        accepted = statistics.median(accepts)
        print(f"accept   {accepted:,.0f} tasks/s durable, {IN_FLIGHT} in flight (wanted >= 5 000)")
        disk, memory = statistics.median(on_disk), statistics.median(in_memory)
        ratio = disk / memory
        print(f"no-op    {disk:,.0f} tasks/s on disk, {memory:,.0f} in memory: {ratio:.2f} (wanted >= 0.70)")
        print(f"         ({options.rounds} rounds in turns, medians; {os.cpu_count()} cores)")


if __name__ == "__main__":
    main()
