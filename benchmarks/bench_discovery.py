"""How long members take to see each other by mDNS, on hosts in namespaces. Needs root.

    python -m benchmarks.bench_discovery [--hosts 8] [--rounds 5] [--joins 30]

Sightings: on every host a process with the daemon's own mDNS part, started one after the other while the
others run; timed from before the process is started (interpreter and imports included) until it has sighted
the gateway, and until each member that ran already has sighted it. Joins: `edge-node join CODE` with a code
that names no address, from the start of the command to its end, certificate and fsyncs included.
Target: p99 <= 3 s. Writes out/bench/discovery.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

from edge_node.discovery.mdns import Mdns
from edge_node.discovery.sightings import Advert, Seen
from examples.hosts.mesh import GATEWAY, HostsMesh, Member
from examples.hosts.network import Network, lacking

MESH = "00000000deadbeef"
TARGET_S = 3.0
SEEN_S_MAX = 30.0
ROOT = Path(__file__).resolve().parent.parent


async def member(name: str, address: str) -> None:
    """On its host: announce, watch, and tell each sighting with the machine's monotonic time."""

    def note(event: object) -> None:
        if isinstance(event, Seen) and event.sighting.mesh_id == MESH:
            print(json.dumps([event.sighting.node_id, time.monotonic()]), flush=True)

    role = GATEWAY if name == GATEWAY else "node"
    join_port = 8443 if name == GATEWAY else 0
    async with Mdns(None, Advert(MESH, name, role, ((address, 8883),), join_port), note):
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until we are told to end


class Watch:
    """A member process and whom it has sighted, when."""

    def __init__(self, process: asyncio.subprocess.Process, started_s: float) -> None:
        self.process = process
        self.started_s = started_s
        self.seen: dict[str, float] = {}
        self.reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, network: Network, host: str) -> Watch:
        started_s = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *network.prefix(host), sys.executable, "-m", "benchmarks.bench_discovery", "--member", host,
            "--address", network.address(host), cwd=ROOT,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        return cls(process, started_s)

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            name, at_s = json.loads(line)
            self.seen.setdefault(name, at_s)

    async def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
        await self.reading


async def sightings(network: Network, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds until the gateway was sighted by each node, and until each node was sighted by its peers."""
    of_gateway: list[float] = []
    of_peers: list[float] = []
    for _ in range(rounds):
        watches: dict[str, Watch] = {}
        try:
            for host in network.hosts:
                newcomer = watches[host] = await Watch.start(network, host)
                waited = {name for name in watches if name != host}
                async with asyncio.timeout(SEEN_S_MAX):
                    while not (
                        waited <= newcomer.seen.keys() and all(host in watches[name].seen for name in waited)
                    ):
                        await asyncio.sleep(0.01)
                if host != GATEWAY:
                    of_gateway.append(newcomer.seen[GATEWAY] - newcomer.started_s)
                of_peers += [watches[name].seen[host] - newcomer.started_s for name in waited]
        finally:
            await asyncio.gather(*(watch.end() for watch in watches.values()))
    return of_gateway, of_peers


async def joins(network: Network, folder: Path, count: int) -> list[float]:
    """Seconds of each `edge-node join`, on the hosts in turn, against a real gateway."""
    mesh = HostsMesh(folder, network, lambda text: None)
    spent = []
    try:
        await mesh.up(mesh.members[GATEWAY])
        hosts = [host for host in network.hosts if host != GATEWAY]
        for n in range(count):
            host = hosts[n % len(hosts)]
            code = await mesh.invite(f"n-{n}")
            newcomer = Member(f"n-{n}", folder / f"{n}" / host)
            newcomer.home.mkdir(parents=True)
            start = time.monotonic()
            await mesh.join(newcomer, code)
            spent.append(time.monotonic() - start)
    finally:
        await mesh.stop(term_s_max=5.0)
    return spent


def figures(spent: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(spent, n=100, method="inclusive")
    return {"count": len(spent), "p50_s": cuts[49], "p99_s": cuts[98], "most_s": max(spent)}


async def measured(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    names = [GATEWAY, *(f"host-{n}" for n in range(1, options.hosts))]
    with tempfile.TemporaryDirectory(prefix="ewb") as folder, Network(names) as network:
        of_gateway, of_peers = await sightings(network, options.rounds)
        joined = await joins(network, Path(folder), options.joins)
    return {
        "gateway sighted": figures(of_gateway), "peer sighted": figures(of_peers), "joined": figures(joined),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hosts", type=int, default=8, help="the gateway's among them (8)")
    parser.add_argument("--rounds", type=int, default=5, help="times that all hosts come up (5)")
    parser.add_argument("--joins", type=int, default=30, help="nodes that join by mDNS alone (30)")
    parser.add_argument("--member", help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.member:
        asyncio.run(member(options.member, options.address))
        return 0
    reason = lacking()
    if reason:
        print(f"skipped: {reason}")
        return 0
    load = os.getloadavg()[0]
    report = asyncio.run(measured(options))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    target = ROOT / "out" / "bench" / "discovery.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"machine": machine, "load_before": load, **report}, indent=2) + "\n")
    print(f"discovery by mDNS, {options.hosts} hosts; {machine}, load before {load:.1f}")
    print(f"{'':18}{'count':>6}{'p50, s':>9}{'p99, s':>9}{'most, s':>9}")
    for name, row in report.items():
        print(f"{name:18}{row['count']:>6}{row['p50_s']:>9.2f}{row['p99_s']:>9.2f}{row['most_s']:>9.2f}")
    worst = max(row["p99_s"] for row in report.values())
    print(f"target p99 <= {TARGET_S:g} s: {'met' if worst <= TARGET_S else 'missed'}")
    return int(worst > TARGET_S)


if __name__ == "__main__":
    sys.exit(main())
