"""The HTTP API of a full gateway: 1 000 members that beat, 100 000 settled tasks, over real HTTPS.

    python -m benchmarks.bench_api [--members 1000] [--tasks 100000] [--rounds 5] [--broker mosquitto]

A real gateway, a real node that works, and a crowd (``benchmarks.crowd``) that beats through the real broker.
The roster is signed with the gateway's own key and the ledger is written with its own rows while it is down.

- pages: every list, the tasks and nodes with every combination of filters; the first page, the following
  ones, and deep in the list. Wanted: p95 <= 100 ms of each list, as its reader waits for it.
- blocked: the slowest /livez while other requests run: how long a request keeps the loop.
- load: the gateway's share of a core while the crowd beats; then with 20 tasks and 8 refusals a second (which
  note events), 50 readers of the event stream, two pages a second, the picture of the mesh each second and a
  scrape of the metrics each five, one after the other added. Wanted: <= 30 % in all.
- memory: VmRSS after all this. Wanted: <= 110 MB.
- idle: what the API costs when nobody asks: no-op tasks one after another and 100 in flight, at a gateway, at
  one whose app was left out, and at a second one with it as a control, in turns within one run. Ratios, their
  median and spread; the ratio to the control tells how much two alike gateways differ.

The processor's time is the gateway process's own (/proc); readers, crowd, broker and workers share the
machine. Exit code 1: a target was missed. Writes out/bench/api.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import platform
import random
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.whole_path import program
from edge_node.client import Mesh
from edge_node.functions import values
from edge_node.store.ledger import SqliteLedger
from edge_node.tasks.rows import Row, row_of
from edge_node.tasks.task import Accepted, Attempt, Closed, Outcome, Task
from edge_node.wire.ids import task_id
from gateway.api.paging import cursor_for
from security.errors import EdgeweaveError
from security.identity import NodeKeys
from security.keystore import KeyStore
from security.roster import Member, MemberKey, RosterDraft, RosterView

PAGE_MS_MAX: Final = 100.0
SHARE_MAX: Final = 0.30
RESIDENT_MB_MAX: Final = 110.0
STREAMS: Final = 50
RATE: Final = 20
EVENTS: Final = 8
"""A second: refusals at the door, each of which is noted; a chronicle takes ten a second of that kind."""
PASSWORD: Final = "correct horse battery staple"
AWAY: Final = 10
"""Members of the crowd that never came; open tasks are for them."""
OPEN: Final = 200
ROOT = Path(__file__).resolve().parent.parent
SOURCE: Final = '''
from edge_node.functions import function

@function(timeout_s=5)
def nothing() -> None:
    """A no-op."""

@function(timeout_s=5)
def fail() -> None:
    """Notes an event."""
    raise ValueError("on purpose")
'''
FUNCTIONS: Final = ("bench.nothing", "lab.often", "lab.seldom")
STATES: Final = ("done", "failed", "expired", "cancelled")


# ── a full gateway ────────────────────────────────────────────────────────────────────────────────────


class Process:
    """A daemon, as `up` starts it."""

    def __init__(self, home: Path, *words: str) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        self._errors = (home.parent / f"{home.name}.err").open("ab")
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"it did not start: {(home.parent / f'{home.name}.err').read_text()[-2000:]}")
        self.ready: dict[str, Any] = json.loads(line)
        self.home = home

    @property
    def pid(self) -> int:
        return self.process.pid

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)
        self._errors.close()


def gateway(home: Path, broker: str, *, api: bool = True) -> Process:
    # Both kinds by the same words, those of `up`: only whether the app is served differs between them.
    left_out = "" if api else "d.House.serve_api = lambda self, backend: None; "
    command = [
        sys.executable, "-P", "-X", "no_debug_ranges", "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import gateway.daemon as d; {left_out}d.main()",
    ]  # fmt: skip
    return Process(
        home, *command, "--home", str(home), "--listen", "127.0.0.1", "--port", "0", "--broker", broker,
        "--broker-port", "0", "--mdns", "none", "--json",
    )  # fmt: skip


def node(home: Path) -> Process:
    return Process(home, program("edge-node"), "up", "--home", str(home), "--mdns", "none", "--json")


def join(gateway_home: Path, home: Path, name: str) -> None:
    code = subprocess.run(
        [program("edge-gateway"), "invite", "--home", str(gateway_home)],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    subprocess.run(
        [program("edge-node"), "join", code, "--home", str(home), "--name", name, "--mdns", "none"],
        check=True, capture_output=True,
    )  # fmt: skip
    (home / "settings.toml").write_text("[worker]\ncount = 1\n")


def deploy(folder: Path, home: Path) -> None:
    source = folder / "bench.py"
    source.write_text(SOURCE)
    subprocess.run(
        [program("edge-gateway"), "deploy", str(source), "--home", str(home)], check=True, capture_output=True
    )


def token(ready: dict[str, Any], root: bytes) -> str:
    """Of an administrator that is made for it."""
    with httpx.Client(base_url=f"https://{ready['joining']}", verify=context(root), timeout=60) as client:
        secret = ready["setup"].partition("#")[2]
        first = client.post("/v1/set-up", json={"secret": secret, "name": "ann", "password": PASSWORD})
        assert first.status_code == 201, first.text
        session = client.post("/v1/log-in", json={"name": "ann", "password": PASSWORD}).json()
        body = {"name": "bench", "role": "admin", "ttl_s": 86400}
        made = client.post("/v1/tokens", json=body, headers={"x-csrf-token": session["csrf"]})
        assert made.status_code == 201, made.text
        return str(made.json()["secret"])


def context(root: bytes) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.load_verify_locations(cadata=root.decode())
    return made


def enlist(home: Path, folder: Path, count: int) -> list[Path]:
    """The next roster, with *count* members more, and homes for them. The gateway is down."""
    keystore = KeyStore(home / "keys")
    authority = keystore.authority(entropy=os.urandom)
    assert authority is not None
    signed = keystore.roster()
    view = RosterView(root_spki_sha256=authority.root_spki_sha256, signed=signed)
    held, now_s = view.current, int(time.time())
    assert held is not None
    members, homes, rng = [], [], random.Random(3)
    for number in range(count):
        name, keys = f"crowd-{number:04}", NodeKeys.generate()
        labels = {"site": "ab"[number % 2], "rack": f"r{number % 40}"}
        roles = ("node",) if rng.random() < 0.9 else ("node", "sensor")
        members.append(
            Member(name, (MemberKey(keys.spki_sha256, keys.x25519_public, now_s - 3600),), roles, labels)
        )
        own = KeyStore(folder / name / "keys")
        own.save_root(authority.root_pem)
        leaf = authority.issue(keys.public, name, now_s=now_s)
        own.save_identity(keys, leaf_pem=leaf, issuing_pem=authority.issuing_pem)
        homes.append(folder / name)
    everybody = authority.sign_roster(
        RosterDraft(
            held.version + 1, held.digest, now_s, held.brokers, held.deployers, (*held.members, *members)
        )
    )
    keystore.save_roster(everybody)
    for each in homes:
        KeyStore(each / "keys").save_roster(everybody)
    return homes


def fill(home: Path, mesh: str, tasks: int, places: list[str], away: list[str]) -> list[str]:
    """*tasks* settled ones of every kind, the last hour's, and some open for who is away. Returns: ids."""
    rng, now_ms = random.Random(1), int(time.time() * 1000)
    store = SqliteLedger(home / "ledger.db", mesh, "gateway")
    rows: list[Row] = []
    ids = []
    call = values.encode_call((), {})
    for number in range(tasks + OPEN):
        at_ms = now_ms - 3_600_000 + number * 3_500_000 // (tasks + OPEN)
        name = task_id(at_ms, rng.randbytes(8))
        is_open = number % (tasks // OPEN) == 0
        function = (
            FUNCTIONS[0] if rng.random() < 0.5 else FUNCTIONS[1] if rng.random() < 0.998 else FUNCTIONS[2]
        )
        place = places[0] if rng.random() < 0.5 else rng.choice(places)
        where = rng.choice(away) if is_open else "any"
        ids.append(name)
        task = Task(
            name, function, b"d" * 32, call, b"s" * 32, "gateway", where, accepted_at_ms=at_ms,
            ttl_ms=7 * 86_400_000,
        )  # fmt: skip
        rows.append(row_of(Accepted(task)))
        if not is_open:
            state = STATES[0] if rng.random() < 0.95 else rng.choice(STATES[1:])
            attempts = (Attempt(1, place, 7, at_ms, at_ms + 20, state),)
            outcome = Outcome(
                state, b"o" * 40, settled_at_ms=at_ms + 20, attempts=attempts, place=place, cause="placed"
            )
            rows.append(row_of(Closed(name, outcome)))
        if len(rows) >= 500:
            store.insert(rows)
            rows = []
    if rows:
        store.insert(rows)
    store.close()
    return ids


def cpu_s(pid: int) -> float:
    """Processor time of the threads of a process; finer than /proc/PID/stat, which counts in 10 ms."""
    spent = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            spent += int((thread / "schedstat").read_text().split()[0])
    return spent / 1e9


def waited_s(pid: int) -> float:
    """How long the gateway's loop, and we who ask it, were ready to run and others had the cores."""
    return sum(
        int(Path(f"/proc/{each}/task/{each}/schedstat").read_text().split()[1]) / 1e9
        for each in (pid, os.getpid())
    )


@dataclass
class Full:
    """The full gateway."""

    folder: Path
    broker: str
    members: int
    tasks: int
    seconds: float
    ids: list[str] = field(default_factory=list)
    voices: list[Path] = field(default_factory=list)
    daemons: list[Process] = field(default_factory=list)
    bearer: str = ""
    root: bytes = b""
    crowd: subprocess.Popen[str] | None = None

    def start(self) -> Full:
        home, worker = self.folder / "gateway", self.folder / "worker"
        first = gateway(home, self.broker)
        try:
            (self.root, mesh) = (home / "keys" / "root.pem").read_bytes(), ""
            self.bearer = token(first.ready, self.root)
            join(home, worker, "worker")
            deploy(self.folder, home)
            mesh = self.client_of(first).get("/v1/roster").json()["mesh"]
        finally:
            first.stop()
        homes = enlist(home, self.folder / "crowd", self.members - 2)
        self.voices = homes[AWAY:]
        places = ["worker", *(each.name for each in homes)]
        self.ids = fill(home, mesh, self.tasks, places, [each.name for each in homes[:AWAY]])
        begin = time.perf_counter()
        self.daemons = [gateway(home, self.broker)]
        print(f"filled; the gateway was ready again in {time.perf_counter() - begin:.1f} s", flush=True)
        self.daemons.append(node(worker))
        return self

    def gather(self) -> None:
        """The crowd comes."""
        self.crowd = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.crowd"], cwd=ROOT, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.crowd.stdin is not None and self.crowd.stdout is not None
        self.crowd.stdin.write(" ".join(map(str, self.voices)) + "\n")
        self.crowd.stdin.flush()
        came = self.crowd.stdout.readline().strip()
        assert came == f"{len(self.voices)}", f"of the crowd came {came}"
        with self.client() as client:
            end_s = time.monotonic() + 60
            while (up := client.get("/v1/nodes", params={"up": True, "limit": 1}).json()) is not None:
                count = sum(each["up"] for each in self._all(client, "/v1/nodes", "nodes"))
                if count >= self.members - AWAY:
                    break
                assert time.monotonic() < end_s, f"{count} members are up: {up}"
                time.sleep(0.5)

    def _all(self, client: httpx.Client, path: str, rows: str) -> Iterator[dict[str, Any]]:
        cursor = ""
        while True:
            page = client.get(path, params={"limit": 500, "cursor": cursor}).json()
            yield from page[rows]
            cursor = page["next"]
            if not cursor:
                return

    @property
    def pid(self) -> int:
        return self.daemons[0].pid

    @property
    def base(self) -> str:
        return f"https://{self.daemons[0].ready['joining']}"

    def client_of(self, process: Process) -> httpx.Client:
        return httpx.Client(
            base_url=f"https://{process.ready['joining']}", verify=context(self.root), timeout=60,
            headers={"authorization": f"Bearer {self.bearer}"},
        )  # fmt: skip

    def client(self) -> httpx.Client:
        return self.client_of(self.daemons[0])

    def async_client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=STREAMS + 20)
        return httpx.AsyncClient(
            base_url=self.base, verify=context(self.root), timeout=60, limits=limits,
            headers={"authorization": f"Bearer {self.bearer}"},
        )  # fmt: skip

    def stop(self) -> None:
        if self.crowd is not None:
            assert self.crowd.stdin is not None
            self.crowd.stdin.close()
            try:
                self.crowd.wait(20)
            except subprocess.TimeoutExpired:
                self.crowd.kill()
                self.crowd.wait()
        for each in reversed(self.daemons):
            each.stop()


# ── pages ─────────────────────────────────────────────────────────────────────────────────────────────


def askings(full: Full) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(list, path, parameters) of every list and every combination of its filters; deep: a cursor."""
    since_ms = int(time.time() * 1000) - 1_800_000
    states = ("", "open", *STATES, "quarantined")
    functions = ("", "lab.often", "lab.seldom", "lab.none")
    places = ("", "worker", "crowd-0123", "nobody")
    deep = full.ids[len(full.ids) // 10]
    middle = full.ids[len(full.ids) // 2]
    for state, function, place, since in itertools.product(states, functions, places, (0, since_ms)):
        chosen = {"state": state, "function": function, "node": place, "since_ms": since}
        yield "tasks", "/v1/tasks", chosen
        for after in (middle, deep) if not since else ():
            # As the filters of /v1/tasks stand in a cursor; one that does not fit is refused, and noticed.
            yield "tasks deep", "/v1/tasks", chosen | {"cursor": (after, state, function, place, since, "")}
    for status, up, role, label in itertools.product(
        ("", "active", "pending", "revoked"), (None, True, False), ("", "sensor", "none"),
        ("", "site", "site=a", "rack=r7"),
    ):  # fmt: skip
        chosen = {"status": status, "role": role, "label": label} | ({} if up is None else {"up": up})
        yield "nodes", "/v1/nodes", chosen
        yield "nodes deep", "/v1/nodes", chosen | {"cursor": ("crowd-0700", status, up, role, label)}
    for _ in range(20):
        for name in ("functions", "events/page", "pending", "users", "tokens", "audit", "state/tables"):
            yield name, f"/v1/{name}", {}


def pages(full: Full) -> dict[str, Any]:
    """By list: milliseconds of each request as its reader waits, and of the gateway's processor."""
    took: dict[str, list[float]] = {}
    cost: dict[str, list[float]] = {}
    alone: dict[str, list[float]] = {}
    slowest: dict[str, tuple[float, str]] = {}
    asked = list(askings(full))
    random.Random(5).shuffle(asked)
    missing = set()
    with full.client() as client:
        client.get("/v1/nodes")
        for name, path, parameters in asked:
            if name in missing:
                continue
            given = dict(parameters)
            if "cursor" in given:
                given["cursor"] = cursor_for(*given["cursor"])
            begin, spent, stood = time.perf_counter(), cpu_s(full.pid), waited_s(full.pid)
            answer = client.get(path, params=given)
            ms = 1000 * (time.perf_counter() - begin)
            alone.setdefault(name, []).append(ms - 1000 * (waited_s(full.pid) - stood))
            cost.setdefault(name, []).append(1000 * (cpu_s(full.pid) - spent))
            if answer.status_code == 404 and name not in ("tasks", "nodes"):
                missing.add(name)
                continue
            assert answer.status_code == 200, (path, parameters, answer.text)
            took.setdefault(name, []).append(ms)
            slowest[name] = max(slowest.get(name, (0.0, "")), (cost[name][-1], str(parameters)))
            if name == "tasks" and (following := answer.json()["next"]):
                begin = time.perf_counter()
                answer = client.get(path, params=given | {"cursor": following})
                took.setdefault("tasks, second", []).append(1000 * (time.perf_counter() - begin))
                assert answer.status_code == 200, answer.text
    return {
        name: {
            "requests": len(each),
            "p50_ms": round(statistics.median(each), 1),
            "p95_ms": round(quantile(each, 0.95), 1),
            "max_ms": round(max(each), 1),
            "cpu_ms": [round(quantile(cost[name], q), 1) for q in (0.5, 0.95)] if name in cost else [],
            "p95_ms_of_free_cores": round(quantile(alone[name], 0.95), 1) if name in alone else None,
            "slowest": slowest.get(name, (0, ""))[1],
        }
        for name, each in sorted(took.items())
    }


def quantile(samples: list[float], q: float) -> float:
    return sorted(samples)[min(len(samples) - 1, int(q * len(samples)))]


async def blocked(full: Full) -> dict[str, dict[str, float]]:
    """The slowest /livez beside each request: of the loop's own time, and the machine's noise."""
    found = {}
    async with full.async_client() as probe, full.async_client() as other:
        for name, path in (
            ("nothing", ""), ("metrics", "/metrics"), ("nodes", "/v1/nodes?limit=500"),
            ("roster", "/v1/roster"), ("tasks", "/v1/tasks?limit=500"),
        ):  # fmt: skip
            slow, took = [], []
            for _ in range(15):
                begin = time.perf_counter()
                asking = asyncio.ensure_future(other.get(path) if path else asyncio.sleep(0.05))
                worst = 0.0
                while not asking.done():
                    started = time.perf_counter()
                    await probe.get("/livez")
                    worst = max(worst, time.perf_counter() - started)
                answer = asking.result()
                took.append(1000 * (time.perf_counter() - begin))
                if answer is not None and answer.status_code == 404:
                    break
                slow.append(1000 * worst)
            else:
                found[name] = {
                    "livez_ms": round(statistics.median(slow), 1),
                    "livez_ms_max": round(max(slow), 1),
                    "own_ms": round(statistics.median(took), 1),
                }
    return found


# ── load ──────────────────────────────────────────────────────────────────────────────────────────────


async def share(full: Full) -> dict[str, float]:
    begin, spent = time.monotonic(), cpu_s(full.pid)
    await asyncio.sleep(full.seconds)
    core = (cpu_s(full.pid) - spent) / (time.monotonic() - begin)
    return {"core": round(core, 3), "resident_mb": round(full.daemons[0].resident_mb(), 1)}


@contextlib.asynccontextmanager
async def running(*jobs: Any) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        yield
        for each in tasks:
            assert not each.done(), each.exception()
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def stream(client: httpx.AsyncClient, heard: list[int], at: int) -> None:
    async with client.stream("GET", "/v1/events") as answer:
        assert answer.status_code == 200, answer.status_code
        async for line in answer.aiter_lines():
            heard[at] += line.startswith("event: ")


async def each(period_s: float, ask: Any) -> None:
    due = time.monotonic()
    while True:
        due += period_s
        await ask()
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def load(full: Full) -> dict[str, Any]:
    """Shares of a core, in turns of the same length."""
    heard = [0] * STREAMS
    async with (
        full.async_client() as readers,
        full.async_client() as client,
        Mesh.open(full.folder / "gateway") as mesh,
    ):
        page = itertools.cycle(list(askings(full))[:60])

        async def one_page() -> None:
            _, path, parameters = next(page)
            given = {key: value for key, value in parameters.items() if key != "cursor"}
            answer = await client.get(path, params=given)
            assert answer.status_code == 200, answer.text

        async def one_task() -> None:
            await mesh.run("bench.nothing", where="worker")

        async def one_refusal() -> None:
            with contextlib.suppress(EdgeweaveError):
                await mesh.run("bench.nothing", where="nobody")

        async def picture() -> None:
            await mesh.call("fleet")

        async def scrape() -> None:
            assert (await client.get("/metrics")).status_code == 200

        pages_ = each(0.5, one_page)
        found: dict[str, Any] = {"beats": await share(full)}
        async with running(each(1 / RATE, one_task), each(1 / EVENTS, one_refusal)):
            found["+ tasks"] = await share(full)
            async with running(*(stream(readers, heard, at) for at in range(STREAMS))):
                await asyncio.sleep(2)
                heard[:] = [0] * STREAMS
                found["+ streams"] = await share(full)
                events = list(heard)
                async with running(pages_):
                    found["+ pages"] = await share(full)
                    async with running(each(1.0, picture), each(5.0, scrape)):
                        found["+ picture, metrics"] = await share(full)
    assert min(events) > 0, "nothing was heard"
    return {
        "shares": found,
        "events_s": round(statistics.median(events) / full.seconds, 1),
        "fewest_heard": min(events) / max(events),
    }


# ── what it costs when nobody asks ────────────────────────────────────────────────────────────────────

SEQUENTIAL: Final = 200
FLOOD: Final = 2000
IN_FLIGHT: Final = 100


async def work(home: Path, pid: int) -> dict[str, float]:
    async with Mesh.open(home) as mesh:
        times = []
        for _ in range(SEQUENTIAL):
            begin = time.perf_counter()
            await mesh.run("bench.nothing", where="worker")
            times.append(time.perf_counter() - begin)
        gate = asyncio.Semaphore(IN_FLIGHT)

        async def one() -> None:
            async with gate:
                await mesh.run("bench.nothing", where="worker")

        begin, spent = time.perf_counter(), cpu_s(pid)
        async with asyncio.TaskGroup() as group:
            for _ in range(FLOOD):
                group.create_task(one())
        took = time.perf_counter() - begin
    return {
        "p50_ms": 1000 * statistics.median(times),
        "tasks_s": FLOOD / took,
        "cpu_us": 1e6 * (cpu_s(pid) - spent) / FLOOD,
    }


KINDS: Final = {"with": True, "without": False, "control": True}


def idle(folder: Path, broker: str, rounds: int) -> dict[str, Any]:
    """The same work at a gateway with the API, at one without, and at a second one with it, in turns.

    The second is the control: what two alike pairs of gateway and worker differ by. A ratio to the one
    without says something only where it lies outside of the ratios to the control.
    """
    daemons: dict[str, list[Process]] = {}
    try:
        for kind, api in KINDS.items():
            home, worker = folder / f"{kind}-gateway", folder / f"{kind}-worker"
            daemons[kind] = [gateway(home, broker, api=api)]
            join(home, worker, "worker")
            deploy(folder, home)
            daemons[kind].append(node(worker))
        figures: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
        for number in range(rounds + 1):  # the first warms up
            kinds = list(KINDS)
            for kind in kinds[number % 3 :] + kinds[: number % 3]:
                one = asyncio.run(work(folder / f"{kind}-gateway", daemons[kind][0].pid))
                if number:
                    figures[kind].append(one)
        resident = {kind: each_[0].resident_mb() for kind, each_ in daemons.items()}
    finally:
        for started in daemons.values():
            for each_ in reversed(started):
                each_.stop()
    return {
        "with to without": ratios(figures["with"], figures["without"]),
        "with to control": ratios(figures["with"], figures["control"]),
        "rounds": figures,
        "resident_mb": {kind: round(mb, 1) for kind, mb in resident.items()},
        "load_average": os.getloadavg(),
    }


def ratios(these: list[dict[str, float]], those: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Round by round: median, least and most."""
    found = {}
    for name in these[0]:
        each_ = sorted(a[name] / b[name] for a, b in zip(these, those, strict=True))
        found[name] = {
            "median": round(statistics.median(each_), 3),
            "least": round(each_[0], 3),
            "most": round(each_[-1], 3),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-api ARGS=…", description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--broker", choices=("mosquitto", "embedded"), default="mosquitto")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each step of the load")
    parser.add_argument("--parts", default="pages,blocked,load,idle", help="which of them")
    options = parser.parse_args()
    parts = options.parts.split(",")
    report: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_average": os.getloadavg(),
        "members": options.members,
        "tasks": options.tasks,
    }
    folder = Path(tempfile.mkdtemp(prefix="ewa-"))
    try:
        if {"pages", "blocked", "load"} & set(parts):
            full = Full(folder, options.broker, options.members, options.tasks, options.seconds)
            try:
                full.start()
                report["resident_mb"] = {
                    "filled, before anybody asked": round(full.daemons[0].resident_mb(), 1)
                }
                full.gather()
                report["resident_mb"]["with the crowd"] = round(full.daemons[0].resident_mb(), 1)
                if "pages" in parts:
                    report["pages"] = pages(full)
                    show(report["pages"])
                    report["resident_mb"]["after pages"] = round(full.daemons[0].resident_mb(), 1)
                if "blocked" in parts:
                    report["blocked"] = asyncio.run(blocked(full))
                    show(report["blocked"])
                if "load" in parts:
                    report["load"] = asyncio.run(load(full))
                    show(report["load"])
                    report["resident_mb"]["after load"] = round(full.daemons[0].resident_mb(), 1)
                report["resident_mb"]["after all"] = round(full.daemons[0].resident_mb(), 1)
                show(report["resident_mb"])
            finally:
                full.stop()
        if "idle" in parts:
            report["idle"] = idle(folder, options.broker, options.rounds)
            show(report["idle"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    missed = list(misses(report))
    report["missed"] = missed
    target = ROOT / "out" / "bench" / "api.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(report, indent=2) + "\n")
    print(f"(report: {target.relative_to(ROOT)})")
    if missed:
        raise SystemExit("missed: " + "; ".join(missed))


def misses(report: dict[str, Any]) -> Iterator[str]:
    for name, figures in report.get("pages", {}).items():
        if figures["p95_ms"] > PAGE_MS_MAX:
            yield f"{name}: p95 {figures['p95_ms']} ms, wanted {PAGE_MS_MAX:g}"
    shares = report.get("load", {}).get("shares", {})
    most = max((each["core"] for each in shares.values()), default=0.0)
    if most > SHARE_MAX:
        yield f"load: {most:.0%} of a core, wanted {SHARE_MAX:.0%}"
    if "idle" in report:
        ratio, control = (report["idle"][f"with to {each_}"]["cpu_us"] for each_ in ("without", "control"))
        if ratio["median"] > control["most"]:
            yield f"idle: {ratio['median']:.2f} of the time a task, alike ones up to {control['most']:.2f}"
    resident = max(report.get("resident_mb", {"": 0}).values())
    if resident > RESIDENT_MB_MAX:
        yield f"memory: {resident} MB, wanted {RESIDENT_MB_MAX:g}"


def show(part: dict[str, Any]) -> None:
    for name, value in part.items():
        print(f"  {name:20} {value}", flush=True)


if __name__ == "__main__":
    main()
