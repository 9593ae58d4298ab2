"""What idle daemons cost: memory, processor, and bytes on the wire. Hosts are namespaces, which needs root.

    python -m benchmarks.bench_idle [--nodes 8] [--settle 20] [--seconds 30] | --collector

One gateway with mosquitto and eight nodes, each a real daemon on a host of its own with default flags, real
multicast DNS and one worker; joined, linked, in session, with a function deployed. Once they have settled:

- memory: VmRSS as the target counts it, beside it USS (what would be free without it) and PSS (shared pages
  split among those who share them); the worker is told apart, for it is a process of its own,
- processor: user and system time of all threads, share of one core,
- wire: what the host's network device counted, sent and received, Ethernet headers, acknowledgements and
  everybody's multicast included. On loopback (no root) nothing tells the hosts apart: not measured.

With --collector instead: how long a full collection of Python's collector stops a daemon whose modules are
loaded, before and after they were put out of its sight (``edge_node.residence``), each in a fresh process.

Exit code 1: a target was missed. Writes out/bench/idle.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks.whole_path import Daemon, program
from examples.hosts.mesh import GATEWAY, HostsMesh
from examples.hosts.network import Network, lacking

RSS_KB_MAX: Final = 48_828  # 50 MB of 10^6 bytes, in the kernel's kB of 1 024
CPU_PERCENT_MAX: Final = 1.0
WIRE_BYTES_S_MAX: Final = 3_000.0
ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "examples" / "hosts" / "work.py"
TICKS = os.sysconf("SC_CLK_TCK")

Wire = Callable[[str], tuple[int, int] | None]


@dataclass(frozen=True)
class Cost:
    """Of one member. kB are 1 024 bytes, as /proc tells them; bytes a second, or None where not measured."""

    rss_kb: int
    uss_kb: int
    pss_kb: int
    cpu_percent: float
    workers_rss_kb: int
    workers_cpu_percent: float
    received_s: float | None
    sent_s: float | None

    @property
    def wire_s(self) -> float | None:
        return None if self.received_s is None or self.sent_s is None else self.received_s + self.sent_s


def memory_kb(pid: int) -> tuple[int, int, int]:
    """(RSS, USS, PSS) of a process."""
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split()[:2]
        found[name] = int(value)
    status = Path(f"/proc/{pid}/status").read_text()
    rss = int(status.split("VmRSS:")[1].split()[0])
    return rss, found["Private_Clean:"] + found["Private_Dirty:"], found["Pss:"]


def cpu_s(pid: int) -> float:
    """User and system time of all its threads. 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError):
            if (
                entry.name.isdigit()
                and (entry / "stat").read_text().rpartition(")")[2].split()[1] == f"{pid}"
            ):
                found.append(int(entry.name))
    return found


async def measured(daemons: dict[str, int], wire: Wire, seconds: float) -> dict[str, Cost]:
    """*daemons*: pid by name."""
    workers = {name: children(pid) for name, pid in daemons.items()}
    begin_s = time.monotonic()
    cpu = {pid: cpu_s(pid) for pids in (daemons.values(), *workers.values()) for pid in pids}
    bytes_before = {name: wire(name) for name in daemons}
    await asyncio.sleep(seconds)
    bytes_after = {name: wire(name) for name in daemons}
    spent_s = time.monotonic() - begin_s
    share = {pid: 100 * (cpu_s(pid) - before) / spent_s for pid, before in cpu.items()}
    found = {}
    for name, pid in daemons.items():
        before, after = bytes_before[name], bytes_after[name]
        received = (after[0] - before[0]) / spent_s if before and after else None
        sent = (after[1] - before[1]) / spent_s if before and after else None
        rss, uss, pss = memory_kb(pid)
        found[name] = Cost(
            rss, uss, pss, share[pid],
            sum(memory_kb(worker)[0] for worker in workers[name]),
            sum(share[worker] for worker in workers[name]),
            received, sent,
        )  # fmt: skip
    return found


def of_host(network: Network) -> Wire:
    """What a host's network device has received and sent."""

    def wire(host: str) -> tuple[int, int]:
        folder = "/sys/class/net/eth0/statistics"
        told = subprocess.run(
            [*network.prefix(host), "cat", f"{folder}/rx_bytes", f"{folder}/tx_bytes"],
            capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip
        return int(told[0]), int(told[1])

    return wire


@contextlib.asynccontextmanager
async def on_hosts(nodes: int) -> AsyncIterator[tuple[dict[str, int], Wire]]:
    names = [GATEWAY, *(f"node-{n}" for n in range(1, nodes + 1))]
    with tempfile.TemporaryDirectory(prefix="ewb") as folder, Network(names) as network:
        mesh = HostsMesh(Path(folder), network, lambda text: None, broker="mosquitto")
        try:
            await mesh.start(WORK)
            yield {name: int(member.ready["pid"]) for name, member in mesh.members.items()}, of_host(network)
        finally:
            await mesh.stop(term_s_max=10.0)


@contextlib.asynccontextmanager
async def on_loopback(nodes: int) -> AsyncIterator[tuple[dict[str, int], Wire]]:
    home = Path(tempfile.mkdtemp(prefix="ewb-"))
    daemons: dict[str, Daemon] = {}

    def say(*words: str) -> str:
        done = subprocess.run([program(words[0]), *words[1:]], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        gateway = str(home / GATEWAY)
        daemons[GATEWAY] = Daemon(
            program("edge-gateway"), "up", "--home", gateway, "--listen", "127.0.0.1", "--port", "0",
            "--broker", "mosquitto", "--broker-port", "0", "--mdns", "lo", "--json",
        )  # fmt: skip
        say("edge-gateway", "deploy", str(WORK), "--home", gateway)
        for n in range(1, nodes + 1):
            name, node = f"node-{n}", home / f"node-{n}"
            code = say("edge-gateway", "invite", "--home", gateway)
            say("edge-node", "join", code, "--home", str(node), "--name", name, "--mdns", "lo")
            (node / "settings.toml").write_text("[worker]\ncount = 1\n")
            words = ("up", "--home", str(node), "--mdns", "lo", "--json")
            daemons[name] = Daemon(program("edge-node"), *words)
        yield {name: int(daemon.ready["pid"]) for name, daemon in daemons.items()}, lambda name: None
    finally:
        for daemon in reversed(list(daemons.values())):
            daemon.stop()
        shutil.rmtree(home, ignore_errors=True)


def missed(nodes: dict[str, Cost]) -> list[str]:
    """The targets that some node missed, in words."""
    worst_rss = max(cost.rss_kb for cost in nodes.values())
    worst_cpu = max(cost.cpu_percent for cost in nodes.values())
    worst_wire = max(cost.wire_s or 0.0 for cost in nodes.values())
    found = []
    if worst_rss > RSS_KB_MAX:
        found.append(f"{worst_rss} kB resident, more than {RSS_KB_MAX}")
    if worst_cpu > CPU_PERCENT_MAX:
        found.append(f"{worst_cpu:.2f} % of a core, more than {CPU_PERCENT_MAX:g}")
    if worst_wire > WIRE_BYTES_S_MAX:
        found.append(f"{worst_wire:.0f} bytes/s, more than {WIRE_BYTES_S_MAX:.0f}")
    return found


def row(name: str, cost: Cost) -> str:
    received, sent, wire = (
        f"{each:.0f}" if each is not None else "-" for each in (cost.received_s, cost.sent_s, cost.wire_s)
    )
    return (
        f"{name:12}{cost.rss_kb:>9}{cost.uss_kb:>9}{cost.pss_kb:>9}{cost.cpu_percent:>8.2f}"
        f"{received:>10}{sent:>8}{wire:>8}{cost.workers_rss_kb:>12}{cost.workers_cpu_percent:>9.2f}"
    )


async def run(nodes: int, settle_s: float, seconds: float, *, hosts: bool) -> dict[str, Cost]:
    async with on_hosts(nodes) if hosts else on_loopback(nodes) as (daemons, wire):
        await asyncio.sleep(settle_s)
        return await measured(daemons, wire, seconds)


COLLECTOR: Final = """if True:
    import gc, statistics, sys, time
    __import__(sys.argv[1])
    from edge_node.residence import keep_for_good

    def pause_ms():
        took = []
        for _ in range(9):
            begin = time.perf_counter()
            gc.collect()
            took.append(1000 * (time.perf_counter() - begin))
        return statistics.median(took)

    gc.collect()
    seen, before = len(gc.get_objects()), pause_ms()
    keep_for_good()
    print(f"{sys.argv[1]:20} {seen:7,} objects: {before:5.1f} ms, then {pause_ms():.1f} ms")
"""


def collector() -> int:
    for module in ("edge_node.daemon", "gateway.daemon", "gateway.console.book"):
        subprocess.run([sys.executable, "-c", COLLECTOR, module], cwd=ROOT, check=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=8, help="beside the gateway (8)")
    parser.add_argument("--settle", type=float, default=20.0, help="seconds before measuring (20)")
    parser.add_argument("--seconds", type=float, default=30.0, help="seconds of measuring (30)")
    parser.add_argument("--collector", action="store_true", help="measure the pauses of the collector")
    options = parser.parse_args()
    if options.collector:
        return collector()
    reason = lacking()
    load = os.getloadavg()[0]
    costs = asyncio.run(run(options.nodes, options.settle, options.seconds, hosts=not reason))
    nodes = {name: cost for name, cost in costs.items() if name != GATEWAY}
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    target = ROOT / "out" / "bench" / "idle.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    facts = {name: {**asdict(cost), "wire_s": cost.wire_s} for name, cost in costs.items()}
    target.write_text(
        json.dumps({"machine": machine, "load_before": load, "members": facts}, indent=2) + "\n"
    )

    print(f"idle for {options.seconds:g} s, {options.nodes} nodes; {machine}, load before {load:.1f}")
    if reason:
        print(f"on loopback, so the wire is not measured: {reason}")
    print(f"{'':12}{'RSS kB':>9}{'USS kB':>9}{'PSS kB':>9}{'CPU %':>8}{'rx B/s':>10}{'tx B/s':>8}{'sum':>8}"
          f"{'children kB':>13}{'CPU %':>8}")  # fmt: skip
    for name, cost in costs.items():
        print(row(name, cost))
    worst = Cost(
        *(max(getattr(cost, field) or 0 for cost in nodes.values()) for field in Cost.__dataclass_fields__)
    )
    print(row("node, most", worst))
    print(f"targets, a node: {RSS_KB_MAX} kB, {CPU_PERCENT_MAX:g} %, {WIRE_BYTES_S_MAX:.0f} B/s: ", end="")
    faults = missed(nodes)
    print(f"missed: {'; '.join(faults)}" if faults else "met")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
