"""Two hosts, default flags, real mDNS: five commands from nothing to work done on the other machine.

Each host is a network namespace without an uplink; that no packet to UDP 5353 leaves them is counted.
"""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from security.enrolment import JoinCode
from tests.support.daemons import Bed
from tests.support.network import Network

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(240)]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ROOM = EXAMPLES / "functions" / "room.py"
CLIMATE = EXAMPLES / "data" / "room_climate.csv"


class Hosts:
    """A bed whose gateway lives on one host, and whose nodes on the other."""

    def __init__(self, bed: Bed, network: Network) -> None:
        self.bed = bed
        self.network = network
        self.gateway = bed.gateway("--log-level", "info")  # no address, port or interface is named
        self.gateway.prefix = network.prefix("gw")

    def node(self, name: str):
        node = self.bed.node(name, "--log-level", "info")
        node.prefix = self.network.prefix("dev")
        return node

    def story(self) -> str:
        return self.bed.story()


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with Network(["gw", "dev"]) as network, Bed(tmp_path_factory.mktemp("hosts")) as bed:
        hosts = Hosts(bed, network)
        hosts.gateway.start()
        yield hosts


def test_five_commands_between_two_machines(hosts):
    """up, invite, join, up, run: with nothing but defaults."""
    bed, gateway = hosts.bed, hosts.gateway
    node = hosts.node("pi-1")
    code = bed.cli(gateway, "invite").text
    joined = bed.cli(node, "join", code, "--name", "pi-1")
    assert joined.code == 0, joined
    node.start()
    far = bed.cli(gateway, "run", f"{ROOM}:changes", "--input", str(CLIMATE), "--where", "pi-1")
    node.knows("room.changes")
    near = bed.cli(node, "run", "room.changes", "--input", str(CLIMATE), "--where", "gateway")

    assert JoinCode.parse(code).addresses == (f"{hosts.network.address('gw')}:8443",)
    assert gateway.ready["broker_address"].endswith(":8883")
    assert far.value == near.value and len(far.value) > 0
    assert "ran on pi-1" in far.err and "ran on gateway" in near.err
    roster = bed.cli(node, "status", "--json").value
    assert roster["broker"]["address"] == f"{hosts.network.address('gw')}:8883"


def test_mdns_alone_finds_the_gateway(hosts):
    """The code's addresses lead nowhere; only a sighting can help."""
    bed = hosts.bed
    node = hosts.node("pi-2")
    code = JoinCode.parse(bed.cli(hosts.gateway, "invite").text)
    lost = dataclasses.replace(code, addresses=("10.77.0.99:8443",)).text()
    blind = bed.cli(node, "join", lost, "--name", "pi-2", "--mdns", "none")
    seeing = bed.cli(node, "join", lost, "--name", "pi-2")

    assert blind.code == 3 and "10.77.0.99:8443" in blind.line
    assert seeing.code == 0, seeing
    node.start().connected()


def test_a_pulled_cable_and_its_return(hosts):
    """Nobody crashes, nothing is lost; work goes on when the cable is back."""
    gateway, node = hosts.gateway, hosts.bed.daemons["pi-1"]
    hosts.network.cut("dev", whole=False)
    try:
        gateway.until("pi-1 is missed", lambda s: "pi-1" not in s["peers_up"])
        task = gateway.ask(lambda mesh: submitted(mesh, "room.changes", [], where="pi-1"))
        assert hosts.bed.cli(node, "status").code == 0
    finally:
        hosts.network.cut("dev", whole=True)
    assert gateway.ask(lambda mesh: mesh.result(task, wait_s=120)) == []
    node.connected()


async def submitted(mesh, name, *args, **options):
    return (await mesh.submit(name, *args, **options)).id


def test_mdns_was_spoken_inside_and_cannot_leave(hosts):
    """Packets to UDP 5353 were sent by both hosts; no namespace has a way out."""
    network = hosts.network
    for host in ("gw", "dev"):
        told = run(network, host, "cat", "/proc/net/snmp")
        heads, counts = (line.split()[1:] for line in told.splitlines() if line.startswith("Udp:"))
        assert int(counts[heads.index("OutDatagrams")]) > 0
        members = run(network, host, "cat", "/proc/net/igmp")
        assert "FB0000E0" in members, "it is in 224.0.0.251"
        assert "default" not in run(network, host, "ip", "route")
        links = run(network, host, "ip", "-brief", "link").split("\n")
        assert sorted(line.split("@")[0].split()[0] for line in links if line and "sit" not in line) == [
            "eth0", "lo"
        ]  # fmt: skip
    switch = subprocess.run(
        ["ip", "-n", network.switch, "-brief", "link"], capture_output=True, text=True, check=True
    ).stdout
    ports = {line.split()[0].split("@")[0] for line in switch.splitlines()}
    assert ports - {"sit0"} == {"lo", "br0", "port0", "port1"}


def run(network, host, *command):
    return subprocess.run(
        [*network.prefix(host), *command], capture_output=True, text=True, check=True
    ).stdout
