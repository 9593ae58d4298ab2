"""The worker pool with real child processes: results, limits, crashes, cancels, no process left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from edge_node.functions.bundle import Bundle, BundleStore
from edge_node.functions.invocation import Completion, Invocation
from edge_node.functions.limits import PoolSettings
from edge_node.functions.runtimes.pool import WorkerPool
from edge_node.functions.values import decode, encode_call

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

SOURCE = '''
import ctypes, os, subprocess, sys, time
from edge_node.functions import function

_seen = []

@function
def double(x):
    return 2 * x

@function
def count() -> int:
    """Module state survives: the worker is warm."""
    _seen.append(1)
    return len(_seen)

@function
def boom(x: int):
    print("about to divide")
    return x / 0

@function
def leave(code):
    sys.exit(code)

@function
def vanish(code):
    print("last words")
    os._exit(code)

@function
def segfault():
    ctypes.string_at(0)

@function
def forever():
    while True:
        pass

@function
def nap(seconds):
    time.sleep(seconds)
    return os.getpid()

@function
def hoard(megabytes):
    return len(bytearray(megabytes << 20))

@function
def creep(megabytes):
    kept = []
    for _ in range(megabytes):
        kept.append(b"x" * (1 << 20))
        time.sleep(0.002)
    return len(kept)

@function
def large(count):
    return b"x" * count

@function
def odd():
    return {1, 2}

@function
def chatter(megabytes):
    for _ in range(megabytes):
        print("y" * (1 << 20))
    return "told"

@function
def raw_chatter(megabytes):
    for _ in range(megabytes):
        os.write(1, b"z" * (1 << 20))
    subprocess.run(["echo", "from a child"])
    return "told"

@function
def orphan():
    """Starts a child that would outlive its worker."""
    child = subprocess.Popen(["sleep", "600"])
    print(child.pid)
    while True:
        time.sleep(1)

@function
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

@function
def scribble():
    """Writes nonsense wherever the protocol might be."""
    for descriptor in range(3, 1024):  # its number is the parent's, which may have many open
        try:
            os.write(descriptor, b"\\xff" * 64)
        except OSError:
            pass
    return 1

@function
def close_prints():
    sys.stdout.close()
    sys.stdout = None
    return 1

@function
def greet():
    print("hello")
    return 1

@function
def fork_and_print():
    pid = os.fork()
    if pid == 0:
        print("child")
        os._exit(0)
    os.waitpid(pid, 0)
    print("parent")
    return 1

@function(requires=["no_such_module_here"])
def needy():
    return 1

def hidden():
    return 1
'''


class Harness:
    """A pool, and futures for what it answers."""

    def __init__(self, store: BundleStore, **options) -> None:
        self.store = store
        self.digest = store.put(Bundle.of_source("mod.py", SOURCE).to_bytes())
        self.started: list[tuple[str, int, int]] = []
        self.pool = WorkerPool(
            options.pop("workers", 1),
            on_done=self._done,
            on_started=lambda task, attempt, pid: self._began(task, attempt, pid),
            **options,
        )
        self._futures: dict[str, asyncio.Future[Completion]] = {}
        self._begun: dict[str, asyncio.Event] = {}
        self._count = 0

    def _done(self, completion: Completion) -> None:
        self._futures.pop(completion.task).set_result(completion)  # KeyError: answered twice

    def _began(self, task: str, attempt: int, pid: int) -> None:
        self.started.append((task, attempt, pid))
        self._begun.setdefault(task, asyncio.Event()).set()

    def call(self, name: str, *args, **options) -> asyncio.Future[Completion]:
        self._count += 1
        task = options.pop("task", f"t{self._count}")
        self._futures[task] = asyncio.get_running_loop().create_future()
        digest = options.pop("digest", self.digest)
        path = str(self.store.path(digest))
        self.pool.start(Invocation(task, 1, f"mod.{name}", digest, path, encode_call(args, {}), **options))
        return self._futures[task]

    async def begun(self, task: str) -> None:
        await self._begun.setdefault(task, asyncio.Event()).wait()

    async def value(self, name: str, *args, **options):
        completion = await self.call(name, *args, **options)
        assert completion.status == "done", completion.error
        return decode(completion.output)


@contextlib.asynccontextmanager
async def harness(directory: Path, **options):
    made = Harness(BundleStore(directory), **options)
    running = asyncio.create_task(made.pool.run(), name="pool")
    try:
        yield made
    finally:
        pids = made.pool.pids
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for pid in pids:
            assert not is_alive(pid), "a worker outlived its pool"


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def gone(pid: int) -> bool:
    """Waits, bounded, for a process to end."""
    end = time.monotonic() + 10
    while is_alive(pid):
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.01)
    return True


async def test_a_call_returns_its_value_and_how_it_went(tmp_path):
    async with harness(tmp_path) as h:
        completion = await h.call("double", 21, task="a")

        assert decode(completion.output) == 42
        assert (completion.status, completion.error, completion.worker_died) == ("done", None, False)
        assert completion.pid == h.pool.pids[0]
        assert completion.ended_at_ms >= completion.started_at_ms > 0
        assert h.started == [("a", 1, completion.pid)]


async def test_a_worker_is_warm(tmp_path):
    async with harness(tmp_path) as h:
        assert [await h.value("count") for _ in range(3)] == [1, 2, 3]


async def test_what_a_function_raises_comes_back_as_data(tmp_path):
    """The traceback shows the author's lines, none of ours; the worker goes on."""
    async with harness(tmp_path) as h:
        completion = await h.call("boom", 3)

        assert completion.status == "failed" and not completion.worker_died
        error = completion.error
        assert (error.kind, error.type, error.message) == ("raised", "ZeroDivisionError", "division by zero")
        assert "return x / 0" in error.traceback and "in boom" in error.traceback
        assert "worker.py" not in error.traceback
        assert completion.log == b"about to divide\n"
        assert await h.value("double", 1) == 2
        assert h.pool.pids == [completion.pid]


async def test_arguments_that_do_not_fit_are_not_the_functions_fault(tmp_path):
    async with harness(tmp_path) as h:
        completion = await h.call("double", 1, 2, 3)

        assert completion.error.kind == "arguments"
        assert "takes 1 positional argument" in completion.error.message


async def test_a_run_over_its_time_is_killed_and_the_next_one_works(tmp_path):
    async with harness(tmp_path) as h:
        await h.value("double", 1)
        before = h.pool.pids
        completion = await h.call("forever", timeout_s=0.2)

        assert (completion.status, completion.error.kind) == ("failed", "timeout")
        assert completion.error.message == "took longer than 0.2 s"
        assert not completion.worker_died
        assert await h.value("double", 4) == 8
        assert h.pool.pids != before


async def test_one_large_allocation_is_refused(tmp_path):
    async with harness(tmp_path) as h:
        completion = await h.call("hoard", 500, memory_mb=64)

        assert completion.error.kind == "memory"
        assert await h.value("hoard", 20, memory_mb=64) == 20 << 20


async def test_creeping_growth_is_seen_and_ended(tmp_path):
    async with harness(tmp_path) as h:
        completion = await h.call("creep", 500, memory_mb=64)

        assert completion.error.kind == "memory"
        assert await h.value("creep", 20, memory_mb=64) == 20


async def test_sys_exit_ends_the_run_not_the_worker(tmp_path):
    async with harness(tmp_path) as h:
        completion = await h.call("leave", 3)

        assert (completion.error.kind, completion.error.message) == ("exit", "called sys.exit(3)")
        assert not completion.worker_died
        assert await h.value("double", 4) == 8


async def test_a_worker_that_exits_is_blamed_on_its_run(tmp_path):
    async with harness(tmp_path) as h:
        completion = await h.call("vanish", 3)

        assert (completion.error.kind, completion.worker_died) == ("exit", True)
        assert "exit code 3" in completion.error.message
        assert completion.log == b"last words\n"
        assert await h.value("double", 4) == 8


async def test_a_segfault_names_its_signal_and_shows_where(tmp_path):
    async with harness(tmp_path) as h:
        completion = await h.call("segfault")

        assert (completion.error.kind, completion.error.type) == ("exit", "SIGSEGV")
        assert completion.worker_died
        assert "segfault" in completion.error.traceback and "mod.py" in completion.error.traceback


async def test_only_the_run_that_was_in_the_worker_is_blamed(tmp_path):
    """Ten share the pipe, the fifth kills the worker: nine results are right, none came twice."""
    async with harness(tmp_path) as h:
        await h.value("double", 0)
        futures = [
            h.call("vanish", 1, expected_s=0.001) if x == 4 else h.call("double", x, expected_s=0.001)
            for x in range(10)
        ]
        completions = await asyncio.gather(*futures)

        assert [c.status for c in completions] == ["done"] * 4 + ["failed"] + ["done"] * 5
        assert [decode(c.output) for c in completions if c.status == "done"] == [
            0,
            2,
            4,
            6,
            10,
            12,
            14,
            16,
            18,
        ]


async def test_a_pipe_full_of_runs_keeps_results_apart(tmp_path):
    async with harness(tmp_path, workers=2) as h:
        futures = [h.call("double", x, expected_s=0.0001) for x in range(1000)]
        completions = await asyncio.gather(*futures)

        assert [decode(c.output) for c in completions] == [2 * x for x in range(1000)]


async def test_runs_of_unknown_length_never_share_a_pipe(tmp_path):
    async with harness(tmp_path, workers=2) as h:
        futures = [h.call("nap", 0.05) for _ in range(4)]
        await h.begun("t2")

        assert h.pool.queued == 2
        pids = {decode((await future).output) for future in futures}
        assert len(pids) == 2


async def test_an_endless_run_is_cancelled(tmp_path):
    async with harness(tmp_path) as h:
        future = h.call("forever", task="a")
        await h.begun("a")
        h.pool.cancel("a", 1)
        completion = await future

        assert (completion.status, completion.error) == ("cancelled", None)
        assert await gone(completion.pid)
        assert await h.value("double", 4) == 8


async def test_a_waiting_run_is_cancelled_without_starting(tmp_path):
    async with harness(tmp_path) as h:
        long = h.call("forever", task="a")
        queued = h.call("double", 1, task="b")
        await h.begun("a")
        h.pool.cancel("b", 1)

        assert (await queued).status == "cancelled"
        h.pool.cancel("b", 1)
        h.pool.cancel("nobody", 1)
        h.pool.cancel("a", 1)
        assert (await long).status == "cancelled"
        assert [task for task, _, _ in h.started] == ["a"]


async def test_a_run_behind_others_in_the_pipe_is_cancelled(tmp_path):
    async with harness(tmp_path) as h:
        await h.value("double", 0)
        first = h.call("nap", 0.2, task="a", expected_s=0.001)
        second = h.call("double", 1, task="b", expected_s=0.001)
        third = h.call("double", 2, task="c", expected_s=0.001)
        await h.begun("a")
        h.pool.cancel("b", 1)

        assert (await second).status == "cancelled"
        assert (await first).status == "done"
        assert decode((await third).output) == 4


async def test_cancelling_the_first_in_the_pipe_spares_those_behind_it(tmp_path):
    async with harness(tmp_path) as h:
        await h.value("double", 0)
        first = h.call("forever", task="a", expected_s=0.001)
        behind = [h.call("double", x, expected_s=0.001) for x in range(5)]
        await h.begun("a")
        h.pool.cancel("a", 1)

        assert (await first).status == "cancelled"
        assert [decode((await future).output) for future in behind] == [0, 2, 4, 6, 8]


async def test_a_wrong_estimate_times_out_alone(tmp_path):
    async with harness(tmp_path) as h:
        await h.value("double", 0)
        first = h.call("forever", timeout_s=0.2, expected_s=0.001)
        behind = h.call("double", 4, timeout_s=5, expected_s=0.001)

        assert (await first).error.kind == "timeout"
        assert decode((await behind).output) == 8


async def test_megabytes_go_in_and_out(tmp_path):
    """More than a socket holds: written and read in pieces, several at once."""
    async with harness(tmp_path, workers=2) as h:
        blobs = [bytes([x]) * 3_000_000 for x in range(4)]
        completions = await asyncio.gather(*[h.call("double", blob) for blob in blobs])

        assert [decode(c.output) for c in completions] == [blob * 2 for blob in blobs]


async def test_a_result_over_its_limit_says_both_sizes(tmp_path):
    async with harness(tmp_path) as h:
        completion = await h.call("large", 12_300_000, output_bytes_max=8_000_000)

        assert completion.error.kind == "output"
        assert completion.error.message == "returned 12.3 MB, limit 8 MB"
        assert completion.output == b""
        assert len(await h.value("large", 7_000_000)) == 7_000_000


async def test_a_result_that_cannot_travel_is_told(tmp_path):
    async with harness(tmp_path) as h:
        completion = await h.call("odd")

        assert completion.error.kind == "output"
        assert "a set cannot travel" in completion.error.message


@pytest.mark.parametrize("name", ["chatter", "raw_chatter"])
async def test_megabytes_of_prints_are_bounded_and_harmless(tmp_path, name):
    async with harness(tmp_path) as h:
        completion = await h.call(name, 5)

        assert decode(completion.output) == "told"
        assert 64 * 1024 <= len(completion.log) <= 64 * 1024 + 100
        assert b"more were printed" in completion.log[-60:]
        quiet = await h.call("double", 1)
        assert quiet.log == b""


async def test_prints_of_child_programs_are_kept(tmp_path):
    async with harness(tmp_path) as h:
        completion = await h.call("raw_chatter", 0)

        assert completion.log == b"from a child\n"


async def test_a_function_cannot_take_the_prints_of_the_next_one(tmp_path):
    async with harness(tmp_path) as h:
        await h.value("close_prints")

        assert (await h.call("greet")).log == b"hello\n"


async def test_a_forked_child_does_not_speak_in_the_workers_name(tmp_path):
    async with harness(tmp_path) as h:
        completion = await h.call("fork_and_print")

        assert (completion.status, completion.log) == ("done", b"parent\n")


async def test_nonsense_on_the_protocol_ends_that_run_alone(tmp_path):
    async with harness(tmp_path) as h:
        completion = await h.call("scribble")

        assert completion.status == "failed" and completion.error.kind == "exit"
        assert await h.value("double", 4) == 8


async def test_a_missing_module_is_named(tmp_path):
    async with harness(tmp_path) as h:
        completion = await h.call("needy")

        assert completion.error.kind == "import"
        assert "requires 'no_such_module_here'" in completion.error.message


async def test_a_function_that_is_not_offered_does_not_run(tmp_path):
    async with harness(tmp_path) as h:
        completion = await h.call("hidden")

        assert completion.error.kind == "import"


async def test_a_file_that_does_not_import_shows_its_traceback(tmp_path):
    async with harness(tmp_path) as h:
        source = "from edge_node.functions import function\nimport nothing_like_it\n"
        source += "@function\ndef f():\n    pass\n"
        digest = h.store.put(Bundle.of_source("mod.py", source).to_bytes())
        completion = await h.call("f", digest=digest)

        assert (completion.error.kind, completion.error.type) == ("import", "ModuleNotFoundError")
        assert "import nothing_like_it" in completion.error.traceback


async def test_a_tampered_bundle_does_not_run(tmp_path):
    async with harness(tmp_path) as h:
        path = h.store.path(h.digest)
        path.write_bytes(path.read_bytes().replace(b"2 * x", b"3 * x"))
        completion = await h.call("double", 1)

        assert completion.error.kind == "bundle"
        assert "changed on disk" in completion.error.message


async def test_a_missing_bundle_is_told(tmp_path):
    async with harness(tmp_path) as h:
        completion = await h.call("double", 1, digest=bytes(32))

        assert completion.error.kind == "bundle"


async def test_two_versions_of_a_file_do_not_mix(tmp_path):
    async with harness(tmp_path) as h:
        other = SOURCE.replace("2 * x", "3 * x")
        digest = h.store.put(Bundle.of_source("mod.py", other).to_bytes())

        assert await h.value("double", 5) == 10
        assert await h.value("double", 5, digest=digest) == 15
        assert await h.value("double", 5) == 10


async def test_what_a_function_started_dies_with_its_worker(tmp_path):
    async with harness(tmp_path) as h:
        completion = await h.call("orphan", timeout_s=0.5)

        assert completion.error.kind == "timeout"
        assert await gone(int(completion.log))


async def test_a_killed_worker_is_replaced(tmp_path):
    async with harness(tmp_path) as h:
        await h.value("double", 1)
        pid = h.pool.pids[0]
        os.kill(pid, signal.SIGKILL)

        assert await gone(pid)
        assert await h.value("double", 4) == 8


async def test_a_worker_that_kept_too_much_is_replaced(tmp_path):
    source = "from edge_node.functions import function\nkept = []\n\n@function\ndef keep(mb):\n"
    source += "    kept.append(b'x' * (mb << 20))\n"
    async with harness(tmp_path, settings=PoolSettings(recycle_mb=16)) as h:
        digest = h.store.put(Bundle.of_source("mod.py", source).to_bytes())
        await h.value("keep", 40, digest=digest)
        pid = h.started[0][2]

        assert await gone(pid)
        assert await h.value("double", 4) == 8


async def test_a_slowed_worker_takes_its_time(tmp_path):
    """The run time is k times the CPU time; told by the worker's own clocks."""
    async with harness(tmp_path, slowdown=4.0) as h:
        completion = await h.call("burn", 0.05)

        assert completion.cpu_us >= 50_000
        assert completion.run_us >= 4 * 50_000


async def test_a_worker_that_does_not_start_is_killed_and_tried_again(tmp_path):
    """The interpreter is a program that sleeps: the pool gives up on it again and again."""
    slow = tmp_path / "python"
    slow.write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/pids\nexec sleep 600\n")
    slow.chmod(0o700)
    settings = PoolSettings(start_timeout_s=0.2, restart_delay_s_max=0.01)
    async with harness(tmp_path / "b", python=str(slow), settings=settings) as h:
        h.call("double", 1)
        end = time.monotonic() + 20
        while not (tmp_path / "pids").exists() or len((tmp_path / "pids").read_text().split()) < 3:
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert await gone(pids[0]) and await gone(pids[1])


async def test_an_interpreter_that_is_missing_is_survived(tmp_path, caplog):
    settings = PoolSettings(restart_delay_s_max=0.01)
    async with harness(tmp_path, python="/nonexistent/python", settings=settings) as h:
        h.call("double", 1)
        end = time.monotonic() + 10
        while len(caplog.records) < 2:
            assert time.monotonic() < end
            await asyncio.sleep(0.005)

        assert "cannot start /nonexistent/python" in caplog.text
        assert h.pool.pids == [] and h.pool.queued == 1


DAEMON = """
import asyncio, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from edge_node.functions.bundle import Bundle, BundleStore
from edge_node.functions.invocation import Invocation
from edge_node.functions.runtimes.pool import WorkerPool
from edge_node.functions.values import encode_call

async def main():
    store = BundleStore(Path({directory!r}))
    source = "from edge_node.functions import function\\n@function\\ndef f():\\n    while True: pass\\n"
    digest = store.put(Bundle.of_source("m.py", source).to_bytes())
    pool = WorkerPool(2, on_done=print, on_started=lambda task, attempt, pid: print(pid, flush=True))
    for task in "ab":
        pool.start(Invocation(task, 1, "m.f", digest, str(store.path(digest)), encode_call([], {{}})))
    await pool.run()

asyncio.run(main())
"""


async def test_workers_die_with_a_killed_daemon(tmp_path):
    """Both are in an endless loop: the end of their socket alone would not reach them."""
    code = textwrap.dedent(DAEMON).format(root=str(ROOT), directory=str(tmp_path))
    daemon = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        pids = [int(daemon.stdout.readline()) for _ in range(2)]
        assert all(is_alive(pid) for pid in pids)
    finally:
        daemon.kill()
        daemon.wait()
        daemon.stdout.close()

    assert await gone(pids[0]) and await gone(pids[1])


async def test_a_worker_stays_small(tmp_path):
    """What the daemon and its commands need must not be imported by workers."""
    source = "from edge_node.functions import function\nimport sys\n\n"
    source += "@function\ndef modules():\n    return list(sys.modules)\n"
    async with harness(tmp_path) as h:
        digest = h.store.put(Bundle.of_source("mod.py", source).to_bytes())
        modules = set(await h.value("modules", digest=digest))

    heavy = {"typer", "rich", "cryptography", "aiomqtt", "zeroconf", "numpy", "asyncio", "tinydb"}
    assert heavy & modules == set(), json.dumps(sorted(heavy & modules))
