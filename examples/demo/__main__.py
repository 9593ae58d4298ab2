"""`make demo`: the story, told while it happens.

    python -m examples.demo [--seconds 24] [--seed 1] [--keep]

One gateway with the embedded broker and three boards come up as processes of their own and join with
codes; five drivers replay real series; half-way one board is killed with SIGKILL and restarted five seconds
later; at the end the ledgers are read and compared with what the drivers were promised.
Exit 0: everything accepted was completed, and nothing stayed behind.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from edge_node.commands.rendering import plain_table
from edge_node.tasks.journal import Journal, Stored
from examples.demo import report
from examples.demo.mesh import ABORT_S_MAX, ROOT, TERM_S_MAX, DemoMesh, Member, one_error, wire_bytes
from security.errors import BadInput, EdgeweaveError, Unavailable

BOARDS: Final = {"pi-1": 1.0, "pi-2": 2.0, "pi-3": 4.0}  # name -> slowdown
DRIVERS: Final = {
    "room": "pi-1",
    "water": "pi-2",
    "gait-leg": "pi-2",
    "gait-ankle": "pi-3",
    "gait-trunk": "pi-3",
}
KILLED: Final = "pi-2"  # computes locally and hands on: both are under way when it dies
DOWN_S: Final = 5.0
OPEN_LEAST: Final = 12  # the kill waits for a burst, so that so many promises are open
BURST_S_MAX: Final = 4.0
SETTLE_S: Final = 10.0
DRAIN_S: Final = 30.0  # after the replay, for what is still open
OUT: Final = ROOT / "out" / "demo"
SOURCES: Final = sorted((ROOT / "examples" / "functions").glob("*.py"))
PACKAGES: Final = ("edgeweave", "cryptography", "aiomqtt", "amqtt", "msgspec", "zeroconf", "numpy")
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Screen:
    """Plain lines; on a terminal also a line of figures that is written again and again."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self._console: Any = None
        self._status: Any = None
        self._told_s = 0.0
        if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console

            self._console = Console(highlight=False)

    @property
    def wall_s(self) -> float:
        return time.monotonic() - self.begun

    def tell(self, text: str) -> None:
        """One line of the story."""
        if self._console is None:
            self.line(f"[{self.wall_s:5.1f} s] {text}")
        else:
            from rich.text import Text

            self._console.print(Text.assemble((f"[{self.wall_s:5.1f} s] ", "dim"), text), soft_wrap=True)

    def line(self, text: str) -> None:
        try:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
        except BrokenPipeError:  # whoever read our output has seen enough; what runs is still to be ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def figures(self, text: str) -> None:
        """How far it is: in place on a terminal, every four seconds elsewhere."""
        if self._console is None:
            self._told_s = self._told_s or self.wall_s
            if self.wall_s - self._told_s >= 4:
                self._told_s = self.wall_s
                self.tell(text)
            return
        if self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        self._status.update(text)

    def table(self, heads: list[str], rows: list[list[str]]) -> None:
        self.close()
        if self._console is None:
            self.line("\n" + plain_table(heads, rows))
            return
        from rich import box
        from rich.table import Table

        drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for head in heads:
            drawn.add_column(head, justify="left" if head in (heads[0], heads[1]) else "right")
        for row in rows:
            drawn.add_row(*row)
        self._console.print(drawn)

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


class Demo:
    def __init__(self, options: argparse.Namespace, screen: Screen, folder: Path) -> None:
        self.seconds: float = options.seconds
        self.seed: int = options.seed
        self.screen = screen
        self.mesh = DemoMesh(folder, BOARDS, screen.tell)
        self.promises: dict[str, report.Promise] = {}
        self.planned = self.left_out = self.retries = 0
        self.killed_at = 0.0
        self.statuses: dict[str, dict[str, Any]] = {}
        self.nodes: list[dict[str, Any]] = []
        self._driving = asyncio.Event()

    async def run(self) -> None:
        """Up to the last outcome; the mesh still runs then. Raises: EdgeweaveError."""
        await self.mesh.start(SOURCES)
        self.screen.tell(
            f"{len(DRIVERS)} drivers replay room, water and gait for {self.seconds:g} s; they know only the "
            "client, the boards decide where work runs"
        )
        showing = asyncio.create_task(self._show(), name="show")
        try:
            async with one_error(), asyncio.TaskGroup() as group:
                for name, board in DRIVERS.items():
                    group.create_task(self._drive(name, self.mesh.members[board]), name=f"driver {name}")
                group.create_task(self._kill_and_restart(self.mesh.members[KILLED]), name="kill")
        finally:
            showing.cancel()
        for member in self.mesh.members.values():
            status = await self.mesh.settle(member, wait_s=SETTLE_S)
            self.statuses[member.name] = status
            self.nodes.append(_node_facts(member, status))
        self.screen.tell("every driver has seen all of its tasks settle; stopping the daemons")

    async def _drive(self, name: str, board: Member) -> None:
        options = ["--home", str(board.home), "--seconds", f"{self.seconds:g}", "--seed", str(self.seed)]
        command = [sys.executable, "-m", "examples.demo.driver", name, *options]
        process = await self.mesh.spawn(command, errors=name)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(self.seconds + DRAIN_S):
                async for line in process.stdout:
                    self._heard(name, board.name, json.loads(line))
                code = await process.wait()
        except TimeoutError:
            open_tasks = sum(not promise.status for promise in self.promises.values())
            raise Unavailable(
                f"driver {name} has not ended; {open_tasks} tasks are open", fix="is this machine very busy?"
            ) from None
        if code:
            raise Unavailable(f"driver {name}: {self.mesh.last_words(name) or f'exit code {code}'}")

    def _heard(self, driver: str, node: str, facts: dict[str, Any]) -> None:
        match facts["event"]:
            case "begin":
                self.planned += facts["planned"]
                self._driving.set()
            case "accepted":
                first, last = facts["rows"]
                self.promises[facts["id"]] = report.Promise(
                    facts["id"], driver, node, facts["function"], (first, last), facts["input_sha256"]
                )
            case "settled":
                promise = self.promises[facts["id"]]
                promise.status, promise.place = facts["status"], facts["place"]
                promise.output_sha256, promise.latency_ms = facts["output_sha256"], facts["latency_ms"]
            case "end":
                self.left_out += facts["left_out"]
                self.retries += facts["retries"]

    async def _kill_and_restart(self, board: Member) -> None:
        await self._driving.wait()
        await asyncio.sleep(self.seconds / 2)
        pid = board.pids[-1]
        self.killed_at, workers = await self.mesh.kill(
            board, lambda: self._open_at(board.name) >= OPEN_LEAST, wait_s=BURST_S_MAX
        )
        self.screen.tell(
            f"kill -9 {pid}: {board.name} is dead with {self._open_at(board.name)} open promises, "
            f"its worker{'s' if len(workers) > 1 else ''} ({', '.join(map(str, workers))}) with it"
        )
        await asyncio.sleep(max(0.0, self.killed_at + DOWN_S - time.time()))
        await self.mesh.restart(board)
        self.screen.tell(f"edge-node up: {board.name} is back as process {board.pids[-1]}")

    def _open_at(self, node: str) -> int:
        return sum(promise.node == node and not promise.status for promise in self.promises.values())

    async def _show(self) -> None:
        while True:
            await asyncio.sleep(0.25)
            places = dict.fromkeys(report.PLACES, 0)
            settled = [promise for promise in self.promises.values() if promise.status]
            for promise in settled:
                places[report.place_of(promise.place, promise.node)] += 1
            where = ", ".join(f"{count} {place}" for place, count in places.items() if count)
            self.screen.figures(
                f"accepted {len(self.promises)} of {self.planned}, settled {len(settled)} ({where or 'none'})"
            )

    # ── the account ───────────────────────────────────────────────────────────────────────────────

    def account(self) -> tuple[dict[str, Any], report.Account]:
        """What the ledgers hold, once every daemon has stopped. Raises: EdgeweaveError: one is damaged."""
        ledgers: dict[str, list[Stored]] = {}
        for member in self.mesh.members.values():
            journal = Journal(member.home / "ledger.db", mesh_id=self.mesh.mesh_id, node_id=member.name)
            try:
                ids = [summary.id for summary in journal.list(limit=10_000_000)]
                ledgers[member.name] = [stored for stored in map(journal.get, ids) if stored is not None]
            finally:
                journal.close()
        found = report.account(self.promises, ledgers)
        latencies = sorted(found.latencies_ms)
        kill_to_resume_s, resumed = report.resumed(found.tasks, KILLED, self.killed_at)
        whole = [
            task["result"]
            for task in found.tasks
            if task["function"] == "room.changes" and task["rows"] and task["rows"][1] - task["rows"][0] > 500
        ]
        facts = {
            "seed": self.seed,
            "versions": _versions(),
            "broker": self.mesh.broker,
            "wall_s": 0.0,  # written last
            "nodes": self.nodes,
            "accepted": found.accepted,
            "completed": found.completed,
            "failed": found.failed,
            "lost": found.lost,
            "by_place": found.by_place,
            "latency_ms": {
                "p50": round(report.percentile(latencies, 0.5), 3),
                "p99": round(report.percentile(latencies, 0.99), 3),
            },
            "bytes_wire": sum(
                wire_bytes(self.statuses[member.name]) + member.wire_before
                for member in self.mesh.members.values()
            ),
            "kill_to_resume_s": kill_to_resume_s,
            "change_points": report.change_points(whole[-1] if whole and isinstance(whole[-1], list) else []),
            "killed": {"node": KILLED, "at": round(self.killed_at, 3), "resumed_tasks": resumed},
            "found_by": self.mesh.found_by,
            "seconds": self.seconds,
            "planned": self.planned,
            "left_out": self.left_out,
            "submit_retries": self.retries,
            "unclaimed": found.unclaimed,
            "attempts": sum(len(task["attempts"]) for task in found.tasks),
        }
        return facts, found


def _node_facts(member: Member, status: dict[str, Any]) -> dict[str, Any]:
    tasks = status["tasks"]
    return {
        "id": member.name,
        "pid": member.pids[-1],
        "class": member.kind,
        "slowdown": member.slowdown,
        "pids": member.pids,
        "rss_mb": _rss_mb(member.pids[-1]),
        "counters": {
            key: tasks[key]
            for key in ("accepted", "restored", "completed", "redispatched", "duplicates", "lapsed")
        },
    }


def _rss_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return round(int(line.split()[1]) / 1024, 1)
    return 0.0


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def write(out: Path, facts: dict[str, Any], found: report.Account) -> None:
    """Both files. Raises: Unavailable: they cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(task) + "\n" for task in found.tasks)
        (out / "tasks.jsonl").write_text(lines)
        (out / "report.json").write_text(json.dumps(facts, indent=2) + "\n")
    except OSError as error:
        raise Unavailable(
            f"cannot write to {out}: {error.strerror}", fix="remove it, or make it yours: chown -R"
        ) from None


def conclude(demo: Demo, screen: Screen, out: Path) -> bool:
    """Account, write, show. True: everything that was promised was kept."""
    facts, found = demo.account()
    facts["wall_s"] = round(screen.wall_s, 1)
    write(out, facts, found)
    for heads, rows in report.tables(facts["change_points"], found):
        screen.table(heads, rows)
    screen.line("")
    screen.line(
        f"accepted {found.accepted} {'=' if found.accepted == found.completed else '!='} completed "
        f"{found.completed}, failed {found.failed}, lost {len(found.lost)}; "
        f"{facts['bytes_wire'] / 1e6:.1f} MB on the wire; {KILLED} worked again "
        f"{facts['kill_to_resume_s']:.1f} s after kill -9 ({DOWN_S:g} s of them down), "
        f"{facts['killed']['resumed_tasks']} promises resumed"
    )
    if demo.left_out:
        screen.line(
            f"this machine was too busy for {demo.left_out} of {demo.planned} windows; they were not asked"
        )
    screen.line(f"details: {_short(out / 'report.json')} and tasks.jsonl; it took {facts['wall_s']:.0f} s")
    return found.kept


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


async def story(options: argparse.Namespace, screen: Screen) -> int:
    """The whole demo, with everything that it started stopped at the end."""
    loop = asyncio.get_running_loop()
    running: asyncio.Task[None] | None = None
    caught: list[int] = []

    def interrupted(number: int) -> None:
        if not caught:
            screen.close()
            screen.tell("stopping everything")
        caught.append(number)
        assert running is not None  # a signal is handled in a later turn of the loop
        running.cancel()

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN or number != signal.SIGHUP:  # nohup means it
            loop.add_signal_handler(number, interrupted, number)
    folder = Path(tempfile.mkdtemp(prefix="ew-"))
    demo = Demo(options, screen, folder)
    running = asyncio.create_task(demo.run(), name="demo")
    try:
        await asyncio.wait({running})
        screen.close()
        finished = not running.cancelled() and running.exception() is None
        left = await demo.mesh.stop(term_s_max=TERM_S_MAX if finished else ABORT_S_MAX)
        if caught:
            return 128 + caught[0]
        running.result()
        if left:
            raise Unavailable(f"processes had to be killed at the end: {', '.join(map(str, left))}")
        kept = conclude(demo, screen, options.out)
        if options.keep:
            screen.line(f"next: {_program()} up --home {folder / 'gateway'} --listen 127.0.0.1 --mdns lo")
        else:
            screen.line(f"next: {_program()} up       a gateway of your own; then README.md, five commands")
        return 0 if kept else 1
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


def _program() -> str:
    beside = Path(sys.executable).parent / "edge-gateway"
    return _short(beside) if beside.exists() else "edge-gateway"


def _seconds(text: str) -> float:
    value = float(text)
    if not 6 <= value <= 3600:
        raise argparse.ArgumentTypeError("choose 6 to 3600 seconds")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make demo ARGS=…", description="A whole mesh on real sensor data.")
    parser.add_argument("--seconds", type=_seconds, default=24.0, help="how long the series are replayed")
    parser.add_argument("--seed", type=int, default=1, help="of the jitter between tasks")
    parser.add_argument("--keep", action="store_true", help="keep the homes of gateway and boards")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="where the two files go")
    options = parser.parse_args(argv)
    screen = Screen()
    try:
        missing = [name for name in ("numpy", "amqtt") if importlib.util.find_spec(name) is None]
        if missing:
            raise BadInput(
                f"{' and '.join(missing)} not installed", fix="pip install -e '.[gateway,examples]'"
            )
        return asyncio.run(story(options, screen))
    except KeyboardInterrupt:  # before anything had begun
        return 128 + signal.SIGINT
    except EdgeweaveError as error:
        screen.close()
        sys.stderr.write(f"error: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
