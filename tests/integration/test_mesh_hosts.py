"""Four hosts in namespaces: found by mDNS, cut apart, in bad weather, without their gateway, readdressed.

One mesh for the whole file; each test leaves it healthy. Default flags, so real multicast.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from examples.hosts.network import PATH
from security.enrolment import JoinCode
from tests.support.daemons import Bed, until
from tests.support.network import Network, ip, needs_namespaces

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.mosquitto, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parents[2]
NODES = ["a", "b", "c"]
SPARE = "d"  # a host whose node joins in one test only


class Hosts:
    def __init__(self, bed: Bed, network: Network) -> None:
        self.bed = bed
        self.network = network
        self.gateway = bed.gateway("--broker", "mosquitto")
        self.gateway.prefix = network.prefix("gw")
        self.nodes = {name: self.node(name) for name in NODES}

    def node(self, name: str):
        node = self.bed.node(name, "--log-level", "info")
        node.home.create()
        node.home.settings.write_text("[worker]\ncount = 1\n")
        node.prefix = self.network.prefix(name)
        return node

    def join(self, node):
        """By a code that names no address: the gateway must be sighted."""
        code = JoinCode.parse(self.bed.cli(self.gateway, "invite").text)
        bare = dataclasses.replace(code, addresses=()).text()
        told = self.bed.cli(node, "join", bare, "--name", node.name)
        assert told.code == 0, told
        return node

    def all_up(self) -> None:
        members = [self.gateway, *self.nodes.values()]
        for daemon in members:
            others = {"gateway", *NODES} - {daemon.name}
            daemon.until(f"sees {others}", lambda s, o=others: o <= set(s["peers_up"]))

    def story(self) -> str:
        return self.bed.story()


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    if not shutil.which("nft", path=PATH):
        pytest.skip("nft is not installed")
    with (
        Network(["gw", *NODES, SPARE]) as network,
        Bed(tmp_path_factory.mktemp("hosts"), broker="mosquitto") as bed,
    ):
        hosts = Hosts(bed, network)
        hosts.gateway.start()
        with ThreadPoolExecutor() as pool:
            for node in pool.map(hosts.join, hosts.nodes.values()):
                node.launch()
        for node in hosts.nodes.values():
            node.connected()
        assert bed.cli(hosts.gateway, "deploy", str(bed.toys)).code == 0
        for node in hosts.nodes.values():
            node.knows("toys.add")
            ran(node, where="local", count=1)  # its code is there now: alone, nobody can give it
        yield hosts


def ran(daemon, *, where: str, count: int = 10) -> list[str]:
    """Where *count* additions ran that this daemon's program asked for; each must come back right."""

    async def ask(mesh):
        tasks = [await mesh.submit("toys.add", n, 1, where=where) for n in range(count)]
        outcomes = [await task.outcome(wait_s=60) for task in tasks]
        assert [await task.result() for task in tasks] == [n + 1 for n in range(count)]
        return [outcome.place for outcome in outcomes]

    return daemon.ask(ask)


def settled(daemon) -> tuple[int, int]:
    """Tasks accepted, and terminal records, in its ledger."""
    with contextlib.closing(sqlite3.connect(f"file:{daemon.home.ledger}?mode=ro", uri=True)) as ledger:
        return tuple(
            ledger.execute("SELECT count(*) FROM records WHERE kind = ?", (kind,)).fetchone()[0]
            for kind in (0, 1)
        )


def test_everybody_is_found_by_mdns_alone_and_sees_everybody(hosts):
    hosts.all_up()

    assert set(ran(hosts.nodes["a"], where="b")) == {"b"}
    assert set(ran(hosts.nodes["b"], where="gateway")) == {"gateway"}


def test_a_host_cut_off_goes_on_and_so_do_the_others_until_all_meet_again(hosts):
    """Silence on the wire, no link goes down: what a failed switch looks like."""
    a, c = hosts.nodes["a"], hosts.nodes["c"]
    hosts.network.split(["c"])
    try:
        far = c.ask(lambda mesh: submitted(mesh, "toys.add", 1, 2, where="a"))
        for daemon in (a, hosts.gateway):
            daemon.until("c is missed", lambda s: "c" not in s["peers_up"])
        assert set(ran(c, where="local")) <= {"c", "local"}
        assert set(ran(a, where="b")) == {"b"}
    finally:
        hosts.network.heal()
    hosts.all_up()

    assert c.ask(lambda mesh: mesh.result(far, wait_s=60)) == 3
    assert set(ran(a, where="c")) == {"c"}


def test_five_percent_of_lost_packets_cost_no_task_and_settle_none_twice(hosts):
    a = hosts.nodes["a"]
    before = settled(a)
    hosts.network.weather(loss_percent=5)
    try:
        for where in ("b", "c", "gateway"):
            assert a.ask(lambda mesh, there=where: in_turn(mesh, there, 40)) == list(range(1, 41))
        assert hosts.network.lost() > 0
    finally:
        hosts.network.weather()

    assert settled(a) == (before[0] + 120, before[1] + 120)


def test_with_delay_on_every_cable_a_mesh_joins_places_work_and_settles(hosts):
    """Netem, or the delay box. The round trip is a lower bound; d is twice as far as the gateway, since the
    broker runs beside that."""
    delay_ms = 20
    a = hosts.nodes["a"]
    assert hosts.network.weather(delay_ms=delay_ms) == []
    try:
        before = settled(a)
        d = hosts.node(SPARE)
        hosts.join(d).start().connected().knows("toys.add")
        a.until("a sees d", lambda s: SPARE in s["peers_up"])
        for peer, cables in (("gateway", 2), (SPARE, 4)):
            trips_ms = [ping_ms(a, peer) for _ in range(3)]
            assert min(trips_ms) >= cables * delay_ms, (peer, trips_ms)
            assert set(ran(a, where=peer, count=2)) == {peer}
        assert set(a.ask(lambda mesh: crowd(mesh, 12))) - {"a", "local"}, "more than one worker can do"
        assert settled(a) == (before[0] + 16, before[1] + 16)
        d.term()
        assert hosts.bed.cli(d, "leave").code == 0
    finally:
        hosts.network.weather()
    hosts.all_up()


def ping_ms(daemon, peer: str) -> float:
    return daemon.ask(lambda mesh: mesh.call("ping", {"node": peer}))["rtt_ms"]


async def in_turn(mesh, where: str, count: int) -> list[int]:
    """One after the other: every task is packets of its own."""
    return [await mesh.run("toys.add", n, 1, where=where) for n in range(count)]


def test_without_its_gateway_a_mesh_goes_on_placing_work_on_peers(hosts):
    """The gateway's process is killed, the broker lives on."""
    a, b = hosts.nodes["a"], hosts.nodes["b"]
    broker = hosts.bed.broker_pid()
    hosts.gateway.kill()
    for node in hosts.nodes.values():
        node.until("the gateway is missed", lambda s: "gateway" not in s["peers_up"])

    assert set(ran(a, where="b")) == {"b"}
    places = a.ask(lambda mesh: crowd(mesh, 24))
    assert set(places) & {"b", "c"}, "more than one worker can do goes to peers"
    assert "gateway" not in places
    waits = b.ask(lambda mesh: submitted(mesh, "toys.add", 5, 6, where="gateway"))
    hosts.gateway.start()
    hosts.all_up()
    assert b.ask(lambda mesh: mesh.result(waits, wait_s=60)) == 11
    assert hosts.bed.broker_pid() == broker, "the same broker, adopted"


async def submitted(mesh, name, *args, **options):
    return (await mesh.submit(name, *args, **options)).id


async def crowd(mesh, count: int) -> list[str]:
    """Where so many naps ran that were asked for at once."""
    tasks = [await mesh.submit("toys.nap", 0.25, n) for n in range(count)]
    outcomes = await asyncio.gather(*(task.outcome(wait_s=60) for task in tasks))
    assert {outcome.status for outcome in outcomes} == {"done"}
    return [outcome.place for outcome in outcomes]


def test_a_node_whose_broker_address_died_takes_the_new_one_from_another_member(hosts):
    """The gateway got a second address and says nothing on mDNS; a was away, the old one is dead to it."""
    network, a, b = hosts.network, hosts.nodes["a"], hosts.nodes["b"]
    old, new = network.address("gw"), "10.77.0.101"
    a.term()
    hosts.gateway.term()
    ip("-n", network.name("gw"), "address", "add", f"{new}/24", "dev", "eth0")
    hosts.gateway.home.settings.write_text(f'[joining]\naddresses = ["{new}", "{old}"]\n')
    hosts.gateway.start("--mdns", "none")

    def version() -> int:
        return hosts.gateway.ask(lambda mesh: mesh.status())["roster"]["version"]

    b.until("b has the roster that names it", lambda s: s["roster"]["version"] == version())
    ip("-n", network.name("a"), "route", "add", "blackhole", f"{old}/32")
    try:
        a.start()
        told = a.until("a is at the new address", lambda s: s["broker"]["address"] == f"{new}:8883")
        a.connected()
    finally:
        ip("-n", network.name("a"), "route", "del", "blackhole", f"{old}/32")

    assert told["broker"]["connected"]
    assert set(ran(a, where="b")) == {"b"}


def namespaces_of(pid: int) -> list[str]:
    return [line for line in ip("netns", "list").splitlines() if line.startswith(f"ew{pid}-")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_make_mesh_hosts_leaves_nothing_behind_however_it_ends(number, tmp_path):
    needs_namespaces()
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "examples.hosts", "--hosts", "2", "--broker", "embedded"],
            cwd=ROOT, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        said = (tmp_path / "out").read_text
        until("it tells of its gateway", lambda: "is up with" in said() or process.poll() is not None)
        assert len(namespaces_of(process.pid)) == 3, said()
        inside = inhabitants(process.pid)
        assert inside
        os.kill(process.pid, number)
        process.wait(60)
        until("its hosts are gone", lambda: not namespaces_of(process.pid))
        until("its processes are gone", lambda: not any(map(lives, inside)))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(60)


def lives(process: psutil.Process) -> bool:
    """Not one that has ended and that nobody has asked about yet."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def inhabitants(pid: int) -> list[psutil.Process]:
    pids = [one for line in namespaces_of(pid) for one in ip("netns", "pids", line.split()[0]).split()]
    return [psutil.Process(int(one)) for one in pids if psutil.pid_exists(int(one))]
