"""Real daemons in homes of their own: started as a person starts them, awaited by conditions, ended by pid.

    with Bed(tmp_path, broker="embedded") as bed:
        gateway = bed.gateway().start()
        node = bed.join("pi-1").start()
        assert bed.cli(gateway, "run", "toys.add", "--arg", "a=1").value == 2

Whatever a test does, ``close`` ends every process that descended from this bed, the broker included.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from edge_node.client import Mesh, MeshUnavailable
from edge_node.home import Home
from tests.support.links import needs

T = TypeVar("T")

BIN = Path(sys.executable).parent
READY_S_MAX = 60.0
COMMAND_S_MAX = 60.0
WAIT_S_MAX = 60.0
"""Long on purpose: others work on the same machine. A condition that holds at once costs nothing."""

TOYS = '''
import os
import time

from edge_node.functions import function


@function(timeout_s=20)
def add(a: int, b: int = 1) -> int:
    """The sum."""
    print("adding", a, b)
    return a + b


@function(timeout_s=60)
def nap(seconds: float, what: int = 0) -> int:
    time.sleep(seconds)
    return what


@function(timeout_s=60)
def until(path: str) -> int:
    """Waits for a file to appear, after leaving its own mark beside it."""
    with open(f"{path}.{os.getpid()}.running", "w"):
        pass
    while not os.path.exists(path):
        time.sleep(0.02)
    return 1


@function(timeout_s=0.5)
def forever() -> None:
    while True:
        pass


@function()
def fail(word: str = "on purpose") -> None:
    raise ValueError(word)


@function(memory_mb=64, timeout_s=30)
def eat() -> int:
    eaten = []
    for _ in range(400):
        eaten.append(os.urandom(1024 * 1024))
        time.sleep(0.001)
    return len(eaten)


@function()
def quit() -> None:
    os._exit(7)


@function(timeout_s=30)
def chatter(megabytes: int) -> int:
    for _ in range(megabytes):
        print("x" * 1_000_000)
    return megabytes


@function()
def size(text: str) -> int:
    return len(text)


@function()
def count(rows: list[dict]) -> int:
    return len(rows)


@function(timeout_s=30)
def huge(count: int) -> bytes:
    return b"x" * count


@function(labels={"site": "b"})
def only_at_b() -> str:
    return "b"
'''


def until(what: str, holds: Callable[[], T], *, within_s: float = WAIT_S_MAX) -> T:
    """The first true value of *holds*; asked again and again, no longer than *within_s*."""
    end_s = time.monotonic() + within_s
    while True:
        value = holds()
        if value:
            return value
        if time.monotonic() > end_s:
            raise AssertionError(f"waited {within_s:g} s for: {what}")
        time.sleep(0.02)


@dataclass(frozen=True)
class Told:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        assert self.code == 0, f"exit {self.code}: {self.err or self.out}"
        return json.loads(self.out)

    @property
    def text(self) -> str:
        assert self.code == 0, f"exit {self.code}: {self.err or self.out}"
        return self.out.strip()

    @property
    def line(self) -> str:
        """The one line of an error; nothing on stdout, no traceback."""
        assert self.code != 0, f"it worked: {self.out}"
        assert self.out == "", self.out
        assert self.err.count("\n") == 1 and "Traceback" not in self.err, self.err
        return self.err.strip()


class Daemon:
    """One `edge-gateway up` or `edge-node up`, again and again in the same home."""

    def __init__(self, bed: Bed, program: str, name: str, options: Sequence[str]) -> None:
        self.bed = bed
        self.program = program
        self.name = name
        self.home = Home(bed.path / name)
        self.options = list(options)
        self.prefix: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.ready: dict[str, Any] = {}
        self.starts = 0

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def _file(self, kind: str) -> Path:
        return self.bed.path / f"{self.name}.{self.starts}.{kind}"

    def launch(self, *more: str) -> Daemon:
        """Start it; do not wait."""
        assert not self.running
        self.starts += 1
        command = [*self.prefix, str(BIN / self.program), "up", "--home", str(self.home.path), "--json"]
        with self._file("out").open("wb") as out, self._file("err").open("wb") as err:
            self.process = subprocess.Popen(
                [*command, *self.options, *more],
                env=self.bed.environment, cwd=self.bed.path, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True,
            )  # fmt: skip
        return self

    def start(self, *more: str) -> Daemon:
        """Start it and wait for its ready line."""
        self.launch(*more)

        def line() -> bool:
            self.bed.remember()
            return b"\n" in self._file("out").read_bytes() or not self.running

        until(f"{self.name} is ready", line, within_s=READY_S_MAX)
        said = self._file("out").read_text()
        self.ready = json.loads(said.splitlines()[0]) if said else {}
        assert self.ready.get("event") == "ready", f"{self.name} did not start\n{said}\n{self.story()}"
        return self

    def ended(self) -> Told:
        """Wait for its end."""
        assert self.process is not None
        code = self.process.wait(WAIT_S_MAX)
        return Told(code, self._file("out").read_text(), self._file("err").read_text())

    def term(self) -> Told:
        self.bed.remember()
        assert self.process is not None
        self.process.terminate()
        return self.ended()

    def kill(self) -> None:
        """kill -9; nobody is told."""
        self.bed.remember()
        assert self.process is not None
        self.process.kill()
        self.process.wait(WAIT_S_MAX)

    def ask(self, what: Callable[[Mesh], Awaitable[T]]) -> T:
        """Something of this daemon, by the public client."""

        async def asked() -> T:
            async with Mesh.open(self.home) as mesh:
                return await what(mesh)

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(asked())
        with ThreadPoolExecutor(1) as beside:  # a browser's driver keeps a loop in this thread
            return beside.submit(asyncio.run, asked()).result()

    def until(self, what: str, holds: Callable[[Any], bool], *, method: str = "status") -> Any:
        """The first answer of *method* for which *holds*."""

        def look() -> Any:
            try:
                answer = self.ask(lambda mesh: mesh.call(method))
            except MeshUnavailable:
                return None
            return (answer,) if holds(answer) else None

        return until(f"{self.name}: {what}", look)[0]

    def connected(self) -> Daemon:
        """Wait until broker and gateway are reached; returns itself."""
        self.until("connected", lambda s: s["broker"]["connected"] and linked(s))
        return self

    def timed(self) -> Daemon:
        """Wait until it has heard the gateway's clock, in a beat: connected is sooner."""
        self.until("hears the gateway's clock", lambda s: s["state"]["clock"]["trusted"] == "gateway")
        return self

    def knows(self, function: str) -> Daemon:
        self.until(
            f"knows {function}", lambda rows: function in {r["name"] for r in rows}, method="functions"
        )
        return self

    def story(self) -> str:
        parts = [f"== {self.name}: pid {self.process and self.pid}, running {self.running}"]
        for path in (self._file("err"), self.home.logs / "daemon.log", self.home.logs / "broker.log"):
            if path.is_file():
                parts.append(
                    f"-- {path.name}\n" + "\n".join(path.read_text("utf-8", "replace").splitlines()[-40:])
                )
        return "\n".join(parts)


def linked(status: dict[str, Any]) -> bool:
    return status["node"] == "gateway" or "gateway" in status["peers_up"]


class Bed:
    """A directory with homes, and every process that came out of it."""

    def __init__(self, path: Path, *, broker: str = "embedded", mdns: str = "none") -> None:
        needs(broker)
        self.path = path
        self.broker = broker
        self.mdns = mdns
        self.daemons: dict[str, Daemon] = {}
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("EDGEWEAVE_")
        } | {"HOME": str(path), "NO_COLOR": "1", "COLUMNS": "200"}
        self._family: dict[tuple[int, float], psutil.Process] = {}
        self.toys = path / "toys.py"
        self.toys.write_text(TOYS)

    def __enter__(self) -> Bed:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ── members ───────────────────────────────────────────────────────────────────────────────────

    def gateway(self, *options: str) -> Daemon:
        """Not started yet."""
        chosen = options or (
            "--listen", "127.0.0.1", "--port", "0", "--broker-port", "0", "--broker", self.broker,
            "--mdns", self.mdns,
        )  # fmt: skip
        return self._daemon("edge-gateway", "gateway", chosen)

    def node(self, name: str, *options: str) -> Daemon:
        """A node's home, which has not joined."""
        return self._daemon("edge-node", name, options or ("--mdns", self.mdns))

    def _daemon(self, program: str, name: str, options: Sequence[str]) -> Daemon:
        self.daemons[name] = Daemon(self, program, name, options)
        return self.daemons[name]

    def join(self, name: str, *options: str, invite: Sequence[str] = ()) -> Daemon:
        """A node that has joined, by the two commands. Not started."""
        node = self.node(name)
        code = self.cli(self.daemons["gateway"], "invite", *invite).text
        told = self.cli(node, "join", code, "--name", name, "--mdns", self.mdns, *options)
        assert told.code == 0, told
        return node

    def pair(self, *join_options: str) -> tuple[Daemon, Daemon]:
        """Gateway and node pi-1, up, connected, with the toys deployed."""
        gateway = self.gateway().start()
        node = self.join("pi-1", *join_options).start()
        assert self.cli(gateway, "deploy", str(self.toys)).code == 0
        node.connected().knows("toys.add")
        gateway.until("pi-1 is up", lambda s: "pi-1" in s["peers_up"])
        return gateway, node

    def cli(self, daemon: Daemon, *words: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> Told:
        """One command of this daemon's program, in its home."""
        done = subprocess.run(
            [*daemon.prefix, str(BIN / daemon.program), *words, "--home", str(daemon.home.path)],
            env=self.environment | (env or {}), cwd=self.path, input=stdin, capture_output=True,
            timeout=COMMAND_S_MAX, check=False,
        )  # fmt: skip
        return Told(done.returncode, done.stdout.decode(), done.stderr.decode())

    # ── processes ─────────────────────────────────────────────────────────────────────────────────

    def broker_pid(self) -> int:
        """The broker's process, by its record; 0: none is recorded now."""
        record = self.daemons["gateway"].home.path / "broker" / "running.json"
        try:
            return int(json.loads(record.read_text())["pid"])
        except FileNotFoundError:
            return 0

    def remember(self) -> None:
        """Note every process that descended from us so far: a killed parent's children lose their trace."""
        for daemon in self.daemons.values():
            if not daemon.running:
                continue
            try:
                root = psutil.Process(daemon.pid)
                for process in [root, *root.children(recursive=True)]:
                    self._family[process.pid, process.create_time()] = process
            except psutil.NoSuchProcess:
                continue
        for record in self.path.glob("*/broker/running.json"):
            try:
                process = psutil.Process(int(json.loads(record.read_text())["pid"]))
                if str(self.path) in " ".join(process.cmdline()):
                    self._family[process.pid, process.create_time()] = process
            except (psutil.Error, OSError, ValueError):
                continue

    def left(self) -> list[str]:
        """Processes of this bed that still run."""
        self.remember()
        return [
            f"{process.pid} {' '.join(process.cmdline())[:200]}"
            for process in self._family.values()
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        ]

    def close(self) -> None:
        self.remember()
        for process in self._family.values():
            try:  # psutil compares the start time first: never a process that has only our number
                process.send_signal(signal.SIGKILL)
            except psutil.Error:
                continue
        for daemon in self.daemons.values():
            if daemon.process is not None:
                if daemon.running:
                    daemon.process.kill()
                daemon.process.wait(WAIT_S_MAX)

    def story(self) -> str:
        return "\n".join(daemon.story() for daemon in self.daemons.values())


def running_marks(path: Path) -> list[int]:
    """Pids of workers inside ``toys.until(path)``."""
    marks = path.parent.glob(f"{path.name}.*.running")
    return [int(found[1]) for mark in marks if (found := re.search(r"\.(\d+)\.running$", mark.name))]


def left_behind(tmp_path: Path) -> list[str]:
    """Processes that still carry this run's mark, or name its directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(tmp_path).encode() in words and int(process.name) != os.getpid():
            found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found
