"""A broker's life: killed, restarted, left behind, adopted, replaced, stopped."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from edge_node.transport.link import Delivery, LinkDown, LinkUp
from gateway.broker import embedded
from gateway.broker.process import Record, boot_id, started_at
from security.errors import BadInput, Unavailable
from security.identity import bearer
from tests.support.links import BROKERS, ROOT, BrokerBed, Ears, free_port, needs, up

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(params=BROKERS)
def bed(request, tmp_path):
    needs(request.param)
    bed = BrokerBed(request.param, tmp_path)
    yield bed
    record = Record.read(tmp_path / "home" / "broker" / "running.json")
    if record is not None and record.is_alive():
        os.kill(record.pid, signal.SIGKILL)


async def test_a_killed_broker_comes_back_with_its_members_and_links(bed):
    a, b = Ears(), Ears()
    async with (
        bed.running() as broker,
        up(bed.link("a", a), a, [f"{ROOT}/d/a/+"]),
        up(bed.link("b", b), b, []) as other,
    ):
        first = broker.pid
        bed.kill(broker)

        await a.until(lambda event: event == LinkUp(2))
        await b.until(lambda event: event == LinkUp(2))
        other.send(1, f"{ROOT}/d/a/b", b"again")
        assert await a.payloads(count=1) == [b"again"]
        assert broker.up
        assert broker.pid != first
        assert broker.restarts == 1


async def test_the_embedded_broker_lets_go_of_a_connection_whose_network_is_dead(tmp_path):
    """What the kernel says then, ETIMEDOUT, is to Python the same error as a time-out of our own."""
    bed, ears = BrokerBed("embedded", tmp_path), Ears()
    listener = bed.new_broker()._listener
    members_file = tmp_path / "members.json"
    members_file.write_text(json.dumps(sorted(bed.members())))
    broker = embedded.make_broker(listener, embedded.Members(listener.mesh, members_file))
    await broker.start()
    try:
        async with up(bed.link("a", ears), ears, [f"{ROOT}/d/a/+"]):
            _, handler = broker._sessions["a"]
            handler.reader._reader.set_exception(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))

            await ears.kinds(LinkDown)
            await ears.until(lambda event: event == LinkUp(2))
            assert broker._sessions["a"][1] is not handler
    finally:
        await broker.shutdown()


async def test_a_broker_takes_many_newcomers_at_once(bed):
    """A restored gateway learns of them all in one roster; what they weigh is more than one packet."""
    bed.leaves["late"] = bed.authority.leaf("late")
    crowd = [bearer(f"node-{n}", n.to_bytes(32, "big")) for n in range(180)]
    ears = Ears()
    async with bed.running() as broker:
        await broker.set_members([*crowd, *bed.members()])
        async with up(bed.link("late", ears), ears, []):
            await broker.set_members([one.bearer for name, one in bed.leaves.items() if name != "late"])
            await ears.kinds(LinkDown)


@pytest.mark.mosquitto
async def test_a_control_secret_lost_to_a_power_cut_is_made_anew(tmp_path):
    needs("mosquitto")
    bed = BrokerBed("mosquitto", tmp_path)
    secret = tmp_path / "home" / "broker" / "control.secret"
    async with bed.running():
        pass
    secret.write_text("")
    async with bed.running() as broker:
        await broker.set_members(bed.members()[:1])
        assert len(secret.read_text()) >= 32


async def test_a_gateway_that_was_killed_finds_its_broker_again(bed):
    """The broker never stops: a link that was up stays up while one gateway dies and the next adopts."""
    script = (
        "import asyncio, os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.support.links import BrokerBed\n"
        "from gateway.broker.broker import Broker\n"
        "import json\n"
        "o = json.loads(sys.argv[1])\n"
        "for k in ('home', 'ca_file', 'cert_file', 'key_file'): o[k] = Path(o[k])\n"
        "async def main():\n"
        "    broker = Broker(**o)\n"
        "    await broker.start()\n"
        "    print(broker.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    options = {
        "home": str(bed.folder / "home"),
        "mesh_id": bed.authority.mesh,
        "host": bed.host,
        "port": bed.port,
        "ca_file": str(bed.authority.ca_file),
        "cert_file": str(bed.shown.cert_file),
        "key_file": str(bed.shown.key_file),
        "kind": bed.kind,
        "members": [bed.leaves["a"].bearer],
    }
    command = [sys.executable, "-c", script, json.dumps(options)]
    died = await asyncio.to_thread(
        subprocess.run, command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    left_behind = int(died.stdout)
    a, b = Ears(), Ears()
    async with up(bed.link("a", a), a, [f"{ROOT}/d/a/+"]):
        async with bed.running() as broker:
            assert broker.pid == left_behind
            async with up(bed.link("b", b), b, []) as link:  # joined while no gateway was there
                link.send(1, f"{ROOT}/d/a/b", b"adopted")
                await a.payloads(count=1)
            assert [type(event) for event in a.heard] == [LinkUp, Delivery]
        await a.kinds(LinkDown)
    assert started_at(left_behind) is None


async def shown_by(bed) -> bytes:
    """The certificate that a new connection gets to see."""
    _, writer = await asyncio.open_connection(
        bed.host, bed.port, ssl=bed.authority.client_context(bed.leaves["b"]),
        server_hostname=bed.authority.broker_name,
    )  # fmt: skip
    try:
        return writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()


async def until_shown(bed, certificate: bytes) -> None:
    async with asyncio.timeout(20):
        while await shown_by(bed) != certificate:
            await asyncio.sleep(0.02)


def leaf_on_disk(bed) -> bytes:
    leaf, end, _ = bed.shown.cert_file.read_text().partition("-----END CERTIFICATE-----")
    return ssl.PEM_cert_to_DER_cert(leaf + end)


async def test_a_renewed_certificate_is_shown_to_new_connections_and_live_ones_stay(bed):
    a, b = Ears(), Ears()
    async with (
        bed.running() as broker,
        up(bed.link("a", a), a, [f"{ROOT}/d/a/+"]),
        up(bed.link("b", b), b, []) as other,
    ):
        pid, before = broker.pid, leaf_on_disk(bed)
        await until_shown(bed, before)
        bed.shown = bed.authority.broker()  # renewed, under the same name
        assert leaf_on_disk(bed) != before
        for number in range(20):
            other.send(1, f"{ROOT}/d/a/b", b"%d" % number)
        broker.reload_certificate()
        for number in range(20, 40):
            other.send(1, f"{ROOT}/d/a/b", b"%d" % number)
        await until_shown(bed, leaf_on_disk(bed))

        assert await a.payloads(count=40) == [b"%d" % number for number in range(40)]
        assert (broker.pid, broker.restarts) == (pid, 0)
        assert [type(event) for event in (*a.heard, *b.heard) if isinstance(event, LinkDown)] == []
        c = Ears()
        async with up(bed.link("c", c), c, []):
            pass


async def test_an_unreadable_certificate_leaves_the_old_one_shown(bed):
    a = Ears()
    async with bed.running() as broker, up(bed.link("a", a), a, []):
        before = leaf_on_disk(bed)
        await until_shown(bed, before)
        whole = bed.shown.cert_file.read_bytes()
        bed.shown.cert_file.write_bytes(whole[:100])
        broker.reload_certificate()
        for _ in range(5):
            assert await shown_by(bed) == before
        bed.shown.cert_file.write_bytes(whole)
        assert broker.up and not [event for event in a.heard if isinstance(event, LinkDown)]


async def test_a_broker_left_on_purpose_is_adopted_and_shows_what_was_renewed_meanwhile(bed):
    first = bed.new_broker()
    await first.start()
    pid = first.pid
    await first.stop(kill=False)
    assert started_at(pid) is not None

    bed.shown = bed.authority.broker()
    second = bed.new_broker()
    await second.start()
    assert second.pid == pid
    await until_shown(bed, leaf_on_disk(bed))
    a = Ears()
    async with up(bed.link("a", a), a, []):
        pass
    await second.stop()
    assert started_at(pid) is None
    assert not (bed.folder / "home" / "broker" / "running.json").exists()


async def test_a_broker_of_another_configuration_is_replaced(bed):
    first = bed.new_broker()
    await first.start()
    pid = first.pid
    await first.stop(kill=False)
    bed.authority.ca_file.write_bytes(bed.authority.ca_file.read_bytes() + b"\n")

    second = bed.new_broker()
    await second.start()
    assert second.pid != pid
    assert started_at(pid) is None
    await second.stop()


async def test_a_record_that_names_another_process_harms_nobody(bed):
    """The pid was used again by someone else: not adopted, not signalled."""
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        folder = bed.folder / "home" / "broker"
        folder.mkdir(parents=True)
        Record(bystander.pid, 1, boot_id(), bed.kind, "0" * 64).write(folder / "running.json")
        async with bed.running() as broker:
            assert broker.pid != bystander.pid
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


async def test_a_port_in_use_names_the_flag(bed):
    with socket.socket() as other:
        other.bind((bed.host, bed.port))
        other.listen()
        broker = bed.new_broker()
        with pytest.raises(Unavailable, match=r"in use.*--broker-port"):
            await broker.start()
        assert broker.pid == 0
        await broker.stop()


@pytest.mark.parametrize("bed", BROKERS[:1], indirect=True)
async def test_mosquitto_is_chosen_when_it_is_found(bed):
    bed.kind = "auto"
    async with bed.running() as broker:
        assert broker.kind == "mosquitto"
        assert broker.address == (bed.host, bed.port)


async def test_a_foreign_address_names_the_flag(bed):
    with pytest.raises(BadInput, match="--listen"):
        await bed.new_broker(host="192.0.2.1").start()


async def test_a_broker_that_cannot_start_says_why(bed):
    bed.shown.key_file.write_text("not a key")
    broker = bed.new_broker()
    with pytest.raises(Unavailable, match="did not start"):
        await broker.start()
    await broker.stop()


async def test_the_last_will_of_a_killed_client_arrives(bed):
    script = (
        "import asyncio, ssl, sys\n"
        "from edge_node.transport.inbox import Inbox\n"
        "from edge_node.transport.link import LinkUp\n"
        "from edge_node.transport.mqtt import MqttLink\n"
        "port, ca, cert, key, name, will = sys.argv[1:]\n"
        "def tls():\n"
        "    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)\n"
        "    context.load_verify_locations(ca)\n"
        "    context.load_cert_chain(cert, key)\n"
        "    return context\n"
        "async def main():\n"
        "    inbox = Inbox()\n"
        "    link = MqttLink(addresses=lambda: [('127.0.0.1', int(port))], client_id='a', tls=tls,\n"
        "                    server_name=name, inbox=inbox, will_topic=will)\n"
        "    async with asyncio.TaskGroup() as group:\n"
        "        group.create_task(link.run())\n"
        "        while True:\n"
        "            for event in await inbox.take():\n"
        "                print(type(event).__name__, flush=True)\n"
        "asyncio.run(main())\n"
    )
    b = Ears()
    async with bed.running(), up(bed.link("b", b), b, [f"{ROOT}/p/+"]):
        leaf = bed.leaves["a"]
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, str(bed.port), bed.authority.ca_file, leaf.cert_file, leaf.key_file,
            bed.authority.broker_name, f"{ROOT}/p/a", cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert (await child.stdout.readline()).strip() == b"LinkUp"
        child.kill()
        await child.wait()

        assert await b.kinds(Delivery) == [Delivery(f"{ROOT}/p/a", b"", False)]


async def test_a_link_tries_one_address_after_the_other(bed):
    ears = Ears()
    dead = free_port()
    async with bed.running():
        link = bed.link("a", ears, addresses=lambda: [("127.0.0.1", dead), ("localhost", bed.port)])
        async with up(link, ears, []):
            assert link.address == ("localhost", bed.port)
    assert [type(event) for event in ears.heard] == [LinkUp]


async def test_it_is_private_on_disk(bed):
    async with bed.running():
        folder = bed.folder / "home" / "broker"
        assert folder.stat().st_mode & 0o777 == 0o700
        loose = [
            path.name
            for path in folder.iterdir()
            if path.is_file() and path.stat().st_mode & 0o077 and path.name != "running.json"
        ]
        assert loose == []
