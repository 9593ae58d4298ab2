"""What the ledger's disk costs a caller, and what a tree costs beside an older one: no-op tasks, end to end.

    python -m benchmarks.bench_end_to_end [--rounds 7] [--tasks 3000] [--place worker|local]
                                          [--against TREE] [--profile DIR] [DIRECTORY]

    client ─ control socket ─ gateway (desk, ledger) ─┬─ sealed ─ mosquitto ─ node ─ worker      worker
                                                      └─ worker                                  local

Each variant is a mesh of its own, of real daemons: the ledger on the disk under DIRECTORY, the same tree with
the owner's journal in memory, and on request another checkout (TREE) with its ledger on the disk. They take
turns within one run, the first one of each round another; told are medians of figures, and medians of the
ratios of each round. `owner` is the processor time that the daemon under the client spent on one task,
`loop` that of its event loop's thread: beside other work they vary less than rates do.

    in memory   wanted: on the disk >= 0.70 of its tasks/s
    TREE        wanted: >= 0.70 of its tasks/s, p50 <= 1.05 of its
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import runpy
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import whole_path

ROOT = Path(__file__).resolve().parent.parent
CLIENT = ROOT / "benchmarks" / "end_to_end_client.py"
SEQUENTIAL = 400


def in_memory() -> None:
    """Become the gateway's daemon with a journal that keeps nothing: `in-memory OPTIONS`."""
    import edge_node.slim  # as the daemon does, before all else

    # isort: split
    import edge_node.daemon
    from edge_node.tasks.journal import MemoryJournal

    edge_node.daemon.journal_of = lambda home, roster, node_id: MemoryJournal()  # type: ignore[assignment,return-value]
    runpy.run_module("gateway.daemon", run_name="__main__", alter_sys=True)


def profiled(target: Path) -> None:
    """Become the gateway's daemon; at its end the loop's thread has told cProfile what it did."""
    import cProfile

    import edge_node.slim  # noqa: F401

    # isort: split
    import gateway.daemon

    profile = cProfile.Profile(time.thread_time)
    signal.signal(signal.SIGUSR1, lambda *_: profile.enable())
    signal.signal(signal.SIGUSR2, lambda *_: profile.disable())
    code = gateway.daemon.main()
    profile.disable()
    profile.dump_stats(target)
    sys.exit(code)


class Variant:
    """One mesh and its client."""

    def __init__(self, name: str, tree: Path, how: list[str], place: str, directory: Path | None) -> None:
        self.name = name
        self.place = place
        self.home = Path(tempfile.mkdtemp(prefix="ewe-", dir=directory))
        self._tree = tree
        self._how = how
        self._daemons: list[whole_path.Daemon] = []
        self._environment = {**os.environ, "PYTHONPATH": str(tree)}

    def _started(self, *words: str) -> whole_path.Daemon:
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = str(self._tree)  # what starts it passes on what it was given
        try:
            daemon = whole_path.Daemon(*words)
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before
        self._daemons.append(daemon)
        if "error" in daemon.ready:
            raise SystemExit(f"{self.name}: {daemon.ready['error']}")
        return daemon

    def _command(self, *words: str) -> str:
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=self._environment)
        if done.returncode:
            raise SystemExit(f"{self.name}: {done.stderr or done.stdout}")
        return done.stdout.strip()

    def begin(self) -> None:
        gateway, node = self.home / "g", self.home / "n"
        gateway.mkdir(mode=0o700)
        (gateway / "settings.toml").write_text("[worker]\ncount = 1\n")
        options = [
            "--home", str(gateway), "--listen", "127.0.0.1", "--port", "0",
            "--broker", "mosquitto", "--broker-port", "0", "--mdns", "none", "--json",
        ]  # fmt: skip
        self.owner = self._started(*(self._how or [whole_path.program("edge-gateway"), "up"]), *options)
        if self.place != "local":
            code = self._command(whole_path.program("edge-gateway"), "invite", "--home", str(gateway))
            join = [whole_path.program("edge-node"), "join", code, "--home", str(node), "--name", "worker"]
            self._command(*join, "--mdns", "none")
            (node / "settings.toml").write_text("[worker]\ncount = 1\n")
            up = ["up", "--home", str(node), "--mdns", "none", "--json"]
            self._started(whole_path.program("edge-node"), *up)
        self._client = subprocess.Popen(
            [sys.executable, str(CLIENT), str(gateway), self.place],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._environment,
        )  # fmt: skip
        self._answer()

    def _answer(self) -> dict[str, float]:
        assert self._client.stdout is not None
        line = self._client.stdout.readline()
        if not line:
            raise SystemExit(f"the client of {self.name} ended")
        answer: dict[str, float] = json.loads(line)
        return answer

    def _owner_cpu_us(self) -> tuple[float, float]:
        """Of all its threads, and of the event loop's, since their start."""
        pid = self.owner.ready["pid"]
        spent = {
            int(each.parent.name): int(each.read_text().split()[0]) / 1000
            for each in Path(f"/proc/{pid}/task").glob("*/schedstat")
        }
        return sum(spent.values()), spent[pid]

    def measure(self, tasks: int, sequential: int = SEQUENTIAL) -> dict[str, float]:
        assert self._client.stdin is not None
        figures: dict[str, float] = {}
        for wanted in ({"tasks": 1, "sequential": sequential}, {"tasks": tasks, "sequential": 0}):
            before = self._owner_cpu_us()
            self._client.stdin.write(json.dumps(wanted) + "\n")
            self._client.stdin.flush()
            answer = self._answer()
            if wanted["sequential"]:
                figures["p50_ms"] = answer["p50_ms"]
            else:
                figures["tasks_per_s"] = answer["tasks_per_s"]
                after = self._owner_cpu_us()
                figures["owner_us"] = (after[0] - before[0]) / tasks
                figures["loop_us"] = (after[1] - before[1]) / tasks
        return figures

    def end(self) -> None:
        client = getattr(self, "_client", None)
        if client is not None:
            client.stdin.close()
            try:
                client.wait(10)
            except subprocess.TimeoutExpired:
                client.kill()
                client.wait()
        for daemon in reversed(self._daemons):
            daemon.stop()
        shutil.rmtree(self.home, ignore_errors=True)


@contextlib.contextmanager
def variants(chosen: argparse.Namespace) -> Iterator[list[Variant]]:
    own = [sys.executable, "-m", "benchmarks.bench_end_to_end"]
    directory = Path(chosen.directory) if chosen.directory else None
    disk = [*own, "profiled", chosen.profile] if chosen.profile else []
    found = [
        Variant("disk", ROOT, disk, chosen.place, directory),
        Variant("memory", ROOT, [*own, "in-memory"], chosen.place, directory),
    ]
    if chosen.against:
        found.append(Variant("older", Path(chosen.against).resolve(), [], chosen.place, directory))
    with contextlib.ExitStack() as stack:
        for variant in found:
            stack.callback(variant.end)
            variant.begin()
        yield found


def main() -> None:
    if sys.argv[1:2] == ["in-memory"]:
        del sys.argv[1]
        in_memory()
        return
    if sys.argv[1:2] == ["profiled"]:
        target = Path(sys.argv[2])
        del sys.argv[1:3]
        profiled(target)
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tasks", type=int, default=3000)
    parser.add_argument("--place", choices=("worker", "local"), default="worker")
    parser.add_argument("--against", metavar="TREE", help="another checkout to compare with")
    parser.add_argument("--profile", metavar="FILE", help="cProfile of the gateway with the ledger on disk")
    parser.add_argument("directory", nargs="?", help="where the homes lie (default: the temporary directory)")
    chosen = parser.parse_args()
    rounds: dict[str, list[dict[str, float]]] = {}
    with variants(chosen) as found, ProcessPoolExecutor(1) as pool:
        pool.submit(whole_path.nothing).result()
        for variant in found:
            variant.measure(chosen.tasks)  # warm
        if chosen.profile:
            os.kill(found[0].owner.ready["pid"], signal.SIGUSR1)
        loads = [os.getloadavg()[0]]
        for number in range(chosen.rounds):
            rounds.setdefault("pool", []).append(whole_path.pool_of_processes(pool))
            for place in range(len(found)):
                variant = found[(number + place) % len(found)]
                rounds.setdefault(variant.name, []).append(variant.measure(chosen.tasks))
            loads.append(os.getloadavg()[0])
            last = {name: {key: round(v, 2) for key, v in each[-1].items()} for name, each in rounds.items()}
            print(f"round {number + 1}: {json.dumps(last)}", file=sys.stderr)
        if chosen.profile:
            os.kill(found[0].owner.ready["pid"], signal.SIGUSR2)
            time.sleep(0.2)
    tell(rounds, chosen, loads)


def tell(rounds: dict[str, list[dict[str, float]]], chosen: argparse.Namespace, loads: list[float]) -> None:
    def middle(name: str, key: str) -> Any:
        return statistics.median(each[key] for each in rounds[name])

    def ratio(key: str, name: str) -> float:
        return statistics.median(
            ours[key] / theirs[key] for ours, theirs in zip(rounds["disk"], rounds[name], strict=True)
        )

    print(f"\nno-op tasks end to end, place {chosen.place}, {whole_path.IN_FLIGHT} in flight, medians")
    print(f"{'':8}{'p50, ms':>10}{'tasks/s':>10}{'owner, us':>12}{'loop, us':>12}")
    for name, each in rounds.items():
        cpu = "".join(f"{middle(name, key):>12.0f}" for key in ("owner_us", "loop_us") if key in each[0])
        print(f"{name:8}{middle(name, 'p50_ms'):>10.2f}{middle(name, 'tasks_per_s'):>10.0f}{cpu}")
    print("\ndisk to, medians of the rounds' ratios")
    for name, each in rounds.items():
        if name != "disk":
            keys = [key for key in ("p50_ms", "tasks_per_s", "owner_us", "loop_us") if key in each[0]]
            widths = (10, 10, 12, 12)
            told = [f"{ratio(key, name):>{width}.2f}" for key, width in zip(keys, widths, strict=False)]
            print(f"{name:8}{''.join(told)}")
    low, high = min(loads), max(loads)
    print(f"\n{chosen.rounds} rounds in turns, {os.cpu_count()} cores, load {low:.1f} to {high:.1f}")


if __name__ == "__main__":
    main()
