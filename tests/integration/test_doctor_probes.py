"""What doctor asks the network, against real doors, brokers and multicast on loopback, well and ill."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_node import probes
from edge_node.discovery.mdns import Mdns
from edge_node.discovery.sightings import Advert
from edge_node.home import Home
from edge_node.joining import join
from edge_node.probes import Place
from security.keystore import KeyStore
from tests.support.certs_for_tests import MESH, TestAuthority
from tests.support.joined_gateway import GatewayHouse
from tests.support.links import BROKERS, BrokerBed, free_port, needs
from tests.support.network import needs_namespaces

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

ROOT = Path(__file__).resolve().parents[2]


# -- the gateway's door, and its clock -----------------------------------------------------------------


@pytest.fixture
async def gateway(tmp_path):
    async with GatewayHouse(tmp_path / "gateway").open() as opened:
        yield opened


def place_in(authority, directory):
    store = KeyStore(directory / "keys")
    store.save_root(authority.root_pem)
    place = Place.of(store, "pi-1", authority.mesh_id, 0)
    assert place is not None
    return place


async def at_door(place, *addresses, **options):
    ask = functools.partial(probes.door, place, addresses, **options)
    return {each.check: each for each in await asyncio.to_thread(ask)}


@pytest.mark.parametrize(
    ("ahead_s", "verdict", "words"),
    [
        (0, "ok", "agrees with the gateway's"),
        (30, "warn", "s behind the gateway's"),
        (-30, "warn", "s ahead of the gateway's"),
        (7200, "fail", "behind the gateway's"),
    ],
)
async def test_our_clock_is_held_against_the_gateways(gateway, tmp_path, ahead_s, verdict, words):
    gateway.clock.ahead_s = ahead_s

    found = await at_door(place_in(gateway.authority, tmp_path), ("127.0.0.1", gateway.server.port))

    assert found["gateway"].verdict == "ok"
    assert found["gateway clock"].verdict == verdict and words in found["gateway clock"].detail
    assert ("NTP" in found["gateway clock"].fix) == (verdict != "ok")


async def test_the_door_tells_the_time_of_the_request_not_of_its_start(gateway, tmp_path):
    place, address = place_in(gateway.authority, tmp_path), ("127.0.0.1", gateway.server.port)
    assert (await at_door(place, address))["gateway clock"].verdict == "ok"

    gateway.clock.ahead_s = 60

    assert (await at_door(place, address))["gateway clock"].verdict == "warn"


async def test_a_wrong_port_is_named_and_the_next_address_tried(gateway, tmp_path):
    place, closed = place_in(gateway.authority, tmp_path), ("127.0.0.1", free_port())

    alone = await at_door(place, closed)
    both = await at_door(place, closed, ("127.0.0.1", gateway.server.port))

    assert set(alone) == {"gateway"} and alone["gateway"].failed and "firewall" in alone["gateway"].fix
    assert f"127.0.0.1:{closed[1]} refused the connection" in alone["gateway"].detail
    assert both["gateway"].verdict == "ok" and "refused the connection" in both["gateway"].detail
    assert (await at_door(place))["gateway"].verdict == "warn"


async def test_a_gateway_of_another_mesh_is_not_ours(gateway, tmp_path):
    async with GatewayHouse(tmp_path / "other").open() as other:
        found = await at_door(place_in(gateway.authority, tmp_path), ("127.0.0.1", other.server.port))

    assert found["gateway"].failed and "certificate that does not hold" in found["gateway"].detail


async def test_a_door_that_speaks_no_tls_is_told(gateway, tmp_path):
    async def greet(reader, writer):
        writer.write(b"220 mail at your service\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        found = await at_door(place_in(gateway.authority, tmp_path), server.sockets[0].getsockname())

    assert found["gateway"].failed and "ends TLS" in found["gateway"].detail


async def test_a_home_that_has_joined_is_examined_whole(gateway, tmp_path):
    """The broker that this roster names does not run: that is the one failure."""
    await join(await gateway.invite(), tmp_path / "pi", name="pi-1", mdns="none")
    ask = functools.partial(probes.around, Home(tmp_path / "pi"), seeds=[], mdns_iface="none", status=None)

    findings = {each.check: each for each in await asyncio.to_thread(ask)}

    assert {name: each.verdict for name, each in findings.items()} == {
        "gateway": "ok",
        "gateway clock": "ok",
        "broker": "fail",
        "mdns": "ok",
    }
    assert "--mdns none" in findings["mdns"].detail


# -- brokers -------------------------------------------------------------------------------------------


@pytest.fixture(params=BROKERS)
async def bed(request, tmp_path):
    needs(request.param)
    bed = BrokerBed(request.param, tmp_path)
    async with bed.running():
        yield bed


def shown(bed, leaf, name="a"):
    """A place whose identity is that leaf."""
    file = bed.folder / f"{name}.pem"
    file.write_bytes(leaf.key_file.read_bytes() + leaf.cert_file.read_bytes())
    return Place(SimpleNamespace(identity_path=file), name, MESH, bed.authority.root, 0)


async def at_broker(bed, place, *, log_in=True):
    address = f"127.0.0.1:{bed.port}"
    ask = functools.partial(probes.broker, place, [address], log_in=log_in)
    return {each.check: each for each in await asyncio.to_thread(ask)}


async def test_a_broker_that_lets_us_in_is_timed(bed):
    found = await at_broker(bed, shown(bed, bed.leaves["a"]))

    assert found["broker"].verdict == "ok" and "it lets us in" in found["broker"].detail
    assert "10 messages" in found["latency"].detail
    beside = await at_broker(bed, shown(bed, bed.leaves["a"]), log_in=False)
    assert set(beside) == {"broker"} and "certificate has 30 days left" in beside["broker"].detail


async def test_a_broker_that_does_not_let_us_in_is_a_failure(bed):
    """Another key under a member's name; a certificate that has expired; another mesh's."""
    stranger = shown(bed, bed.authority.leaf("a", filed_as="stranger"))
    expired = shown(bed, bed.authority.leaf("b", days=-3, filed_as="late"), "b")
    foreign = Place(stranger.store, "a", MESH, TestAuthority(bed.folder / "other").root, 0)

    for place, words in ((stranger, ("refuses our", "hung up")), (expired, ("ends TLS", "hung up"))):
        found = await at_broker(bed, place)
        assert found["broker"].failed and any(each in found["broker"].detail for each in words), found
        assert "edge-node renew" in found["broker"].fix
    assert "does not hold" in (await at_broker(bed, foreign))["broker"].detail


@pytest.mark.mosquitto
@pytest.mark.parametrize("nodelay", ["true", "false"])
def test_a_broker_with_nagles_algorithm_is_found_out(tmp_path, nodelay):
    """Linux acknowledges after 40 ms, so Nagle shows in every message; a busy machine shows in some."""
    needs("mosquitto")
    port = free_port()
    config = tmp_path / "mosquitto.conf"
    config.write_text(
        f"user root\nlistener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay {nodelay}\n"
    )
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    with subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL) as running:
        try:
            trips_ms = trips_of(port)
        finally:
            running.terminate()

    quickest = probes.speed([min(trips_ms)] * 10, "the broker and back")
    assert len(trips_ms) == 10
    assert quickest.verdict == ("ok" if nodelay == "true" else "warn")
    assert ("set_tcp_nodelay true" in quickest.fix) == (nodelay == "false")
    assert probes.speed(trips_ms, "the broker and back").verdict in ("warn", quickest.verdict)


def trips_of(port):
    end_s = time.monotonic() + 20
    while True:
        try:
            line = socket.create_connection(("127.0.0.1", port), timeout=5)
            break
        except ConnectionRefusedError:
            assert time.monotonic() < end_s, "mosquitto did not start"
    with line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return probes.round_trips_ms(line, MESH, "a")


# -- mDNS, on lo only ----------------------------------------------------------------------------------


@pytest.fixture
def mesh_id():
    """One of this test's own: others announce on lo too."""
    return os.urandom(8).hex()


async def test_a_gateway_that_is_heard_is_well(mesh_id):
    async with Mdns("lo", Advert(mesh_id, "gateway", "gateway"), lambda what: None):
        finding = await probes.mdns("lo", mesh_id, "pi-1", announce=True, gateway_reached=True)

    assert finding.verdict == "ok" and "on lo: heard gateway, pi-1" in finding.detail


async def test_a_gateway_that_answers_and_is_not_heard_tells_of_isolation(mesh_id):
    reached = await probes.mdns("lo", mesh_id, "pi-1", announce=True, gateway_reached=True, look_s=1.5)
    away = probes.heard_there("lo", {"pi-1"}, "pi-1", gateway_reached=False)

    assert reached.verdict == away.verdict == "warn"
    assert "client isolation suspected" in reached.fix and "is the gateway up" in away.fix


async def test_a_member_that_nobody_hears_is_told(mesh_id):
    """As behind a firewall that lets no multicast out: nobody announces it here."""
    finding = await probes.mdns("lo", mesh_id, "pi-1", announce=False, gateway_reached=True, look_s=0.5)

    assert finding.verdict == "warn" and "not even this member" in finding.detail


async def test_an_interface_that_is_not_there_is_a_failure(mesh_id):
    finding = await probes.mdns("eth99", mesh_id, "pi-1", announce=True, gateway_reached=False)

    assert finding.failed and "no interface 'eth99'" in finding.detail and "--mdns lo" in finding.fix


# -- disks, in a mount namespace of their own ----------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fill", "words"),
    [
        ("size=128m", "head -c 100M /dev/zero > full", "free 64 MiB"),
        ("size=128m,nr_inodes=900", "true", "inodes left"),
        ("size=1m", "cat /dev/zero > full 2> /dev/null", "No space left on device"),
        ("size=128m", "true", ""),
    ],
)
def test_a_disk_that_is_nearly_full_is_a_failure(tmp_path, options, fill, words):
    needs_namespaces()
    code = (
        "import pathlib, sys; from edge_node import doctor; here = pathlib.Path(sys.argv[1]);"
        "print(*(f.line() for f in (doctor.disk(here), doctor.fsync_time(here)) if f.failed), sep='\\n')"
    )
    script = (
        f'mount -t tmpfs -o {options} tmpfs "$1" && cd "$1" && {{ {fill}; }}; cd "$2" && "$3" -c "$4" "$1"'
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path), str(ROOT), sys.executable, code],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert words in done.stdout and bool(done.stdout.strip()) == bool(words)


# -- a daemon that hangs -------------------------------------------------------------------------------


def test_a_daemon_that_takes_the_connection_and_says_nothing_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "ANSWER_S", 0.2)
    home = Home(tmp_path / "home")
    home.create()
    assert probes.ask_daemon(home) == ([], None)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(home.socket))
        listener.listen(8)
        findings, status = probes.ask_daemon(home)

    (finding,) = findings
    assert status == {} and finding.failed and "did not answer within 0.2 s" in finding.detail
    assert "daemon.log" in finding.fix
