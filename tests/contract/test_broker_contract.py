"""What members may rely on in any broker: mosquitto, the embedded one, and that of the virtual world."""

from __future__ import annotations

import asyncio
import shutil

import aiomqtt
import pytest
import pytest_asyncio

from device_sim.virtual.broker import Message
from edge_node.transport.link import Delivery, LinkDown, LinkUp, Sent
from gateway.broker.access import PACKET_BYTES_MAX
from security.identity import bearer
from tests.support.links import BROKERS, ROOT, BrokerBed, Ears, VirtualBed, free_port, needs, up

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROSTER = f"{ROOT}/roster"


class RealDesk(BrokerBed):
    """The verbs of this suite over a broker in its own process."""

    async def restart(self):
        self.kill(self.running_broker)

    async def members_are(self, *names):
        await self.running_broker.set_members([self.leaves[name].bearer for name in names])

    def oversize(self, link, topic):
        link._client.send(0, topic, bytes(PACKET_BYTES_MAX + 1), 0, False)  # past the link's own check

    def impostor(self, ears):
        return self.link("a", ears, leaf=self.authority.leaf("a", filed_as="a-other"))


class VirtualDesk(VirtualBed):
    async def restart(self):
        """As mosquitto without persistence under its supervisor, which tells it its members."""
        self.broker.stop("kill")
        await asyncio.sleep(0.05)  # the world goes on meanwhile
        self.broker.start(database=False)
        await self.broker.set_members(self.bearers.values())

    async def members_are(self, *names):
        await self.broker.set_members([self.bearers[name] for name in names])

    def oversize(self, link, topic):
        message = Message(Delivery(topic, bytes(PACKET_BYTES_MAX + 1)), 0, False, 0)
        link._conn.up.send([message], message.size)

    def impostor(self, ears):
        return self.link("a", ears, bearer=bearer("a", bytes(32)))


@pytest_asyncio.fixture(params=["virtual", *BROKERS], scope="module", loop_scope="module")
async def bed(request, tmp_path_factory):
    needs(request.param)
    virtual = request.param == "virtual"
    bed = VirtualDesk() if virtual else RealDesk(request.param, tmp_path_factory.mktemp(request.param))
    async with bed.running() as bed.running_broker:
        yield bed


def inbox_of(name):
    return [f"{ROOT}/d/{name}/+"]


def deliveries(ears):
    return [(event.topic, event.payload) for event in ears.heard if isinstance(event, Delivery)]


async def settled(link, ears, via, *, token):
    """All that the broker had for `ears` before now is there: a message to itself has come round."""
    mark = b"mark %d" % token
    via.send(0, f"{ROOT}/d/{link.client_id}/{via.client_id}", mark)
    await ears.until(lambda event: isinstance(event, Delivery) and event.payload == mark)
    return [one for one in deliveries(ears) if not one[1].startswith(b"mark")]


async def test_each_senders_messages_on_a_topic_keep_their_order(bed):
    a, b, c = Ears(), Ears(), Ears(4096)
    async with (
        up(bed.link("a", a), a, inbox_of("a")) as one,
        up(bed.link("b", b), b, inbox_of("b")) as other,
        up(bed.link("c", c), c, [*inbox_of("c"), f"{ROOT}/p/+"]),
    ):
        for n in range(100):
            one.send(0, f"{ROOT}/d/c/a", b"%d" % n)
            one.send(0, f"{ROOT}/p/a", b"%d" % n, qos=0)
            other.send(0, f"{ROOT}/d/c/b", b"%d" % n)
            await asyncio.sleep(0)

        await c.payloads(count=300)
    wanted = [b"%d" % n for n in range(100)]
    for topic in (f"{ROOT}/d/c/a", f"{ROOT}/p/a", f"{ROOT}/d/c/b"):
        assert [payload for name, payload in deliveries(c) if name == topic] == wanted


async def test_a_publication_reaches_whoever_reads_it_and_nobody_else(bed):
    a, b, c = Ears(), Ears(), Ears()
    async with (
        up(bed.link("a", a), a, [*inbox_of("a"), f"{ROOT}/p/a"]) as one,
        up(bed.link("b", b), b, [*inbox_of("b"), f"{ROOT}/g/climate/+"]) as other,
        up(bed.link("c", c), c, [*inbox_of("c"), f"{ROOT}/g/+/+", f"{ROOT}/p/b"]) as third,
    ):
        one.send(0, f"{ROOT}/p/a", b"beat", qos=0)
        one.send(0, f"{ROOT}/g/climate/a", b"warm")
        one.send(0, f"{ROOT}/g/light/a", b"dark")

        assert await settled(one, a, one, token=1) == [(f"{ROOT}/p/a", b"beat")]  # its own too
        assert await settled(other, b, one, token=2) == [(f"{ROOT}/g/climate/a", b"warm")]
        assert await settled(third, c, one, token=3) == [
            (f"{ROOT}/g/climate/a", b"warm"),
            (f"{ROOT}/g/light/a", b"dark"),
        ]


async def test_the_last_retained_message_greets_a_newcomer_until_an_empty_one_clears_it(bed):
    keeper, a = Ears(), Ears()
    async with up(bed.link("gateway", keeper), keeper, inbox_of("gateway")) as gateway:
        for token, payload in ((1, b"first"), (2, b"second")):
            gateway.send(token, ROSTER, payload, retain=True)
        await keeper.kinds(Sent, count=2)
        async with up(bed.link("a", a), a, [ROSTER]):
            assert await a.kinds(Delivery) == [Delivery(ROSTER, b"second", True)]

        gateway.send(3, ROSTER, b"", retain=True)
        await keeper.kinds(Sent, count=3)
        b = Ears()
        async with up(bed.link("b", b), b, [ROSTER, *inbox_of("b")]) as link:
            assert await settled(link, b, gateway, token=1) == []


async def test_a_denied_publication_is_acknowledged_and_reaches_nobody(bed):
    """MQTT 3.1.1 has no reason to give: the sender cannot tell."""
    a, b = Ears(), Ears()
    async with (
        up(bed.link("a", a), a, inbox_of("a")) as link,
        up(bed.link("b", b), b, [*inbox_of("b"), f"{ROOT}/p/+", ROSTER]) as reader,
    ):
        for token, topic in enumerate([ROSTER, f"{ROOT}/p/b", f"{ROOT}/d/b/c", "elsewhere"], start=1):
            link.send(token, topic, b"forged", retain=topic == ROSTER)

        assert await a.kinds(Sent, count=4) == [Sent(token, None) for token in range(1, 5)]
        assert await settled(reader, b, link, token=1) == []


async def test_a_second_connection_of_a_name_takes_it_over_and_the_first_leaves_its_will(bed):
    a, again, b = Ears(), Ears(), Ears()
    async with up(bed.link("b", b), b, [*inbox_of("b"), f"{ROOT}/p/+"]) as reader:
        first = bed.link("a", a, will=True)
        first.subscribe(inbox_of("a"))
        life = asyncio.create_task(first.run())
        await a.kinds(LinkUp)
        async with up(bed.link("a", again), again, inbox_of("a")) as second:
            await a.kinds(LinkDown)
            life.cancel()
            await asyncio.wait([life])
            assert await b.until(lambda event: event == Delivery(f"{ROOT}/p/a", b"", False))
            if not second.up:  # the first came back once before it was stopped
                await again.until(lambda event: event == LinkUp(2))
            reader.send(0, f"{ROOT}/d/a/b", b"to the second")
            assert (await again.payloads(count=1))[0] == b"to the second"


async def test_another_key_of_a_members_name_takes_nobody_over(bed):
    a, ears = Ears(), Ears()
    async with up(bed.link("a", a), a, inbox_of("a")) as link:
        impostor = bed.impostor(ears)
        impostor.subscribe(inbox_of("a"))
        life = asyncio.create_task(impostor.run())
        try:
            await ears.kinds(LinkDown)
        finally:
            life.cancel()
            await asyncio.wait([life])

        assert not any(isinstance(event, LinkUp) for event in ears.heard)
        link.send(1, f"{ROOT}/d/a/a", b"still me")
        await a.payloads(count=1)
        assert not any(isinstance(event, LinkDown) for event in a.heard)


async def test_a_member_that_is_removed_is_cut_off_until_it_is_let_in_again(bed):
    a, b = Ears(), Ears()
    async with (
        up(bed.link("a", a), a, [*inbox_of("a"), f"{ROOT}/p/+"]) as stays,
        up(bed.link("b", b, will=True), b, inbox_of("b")),
    ):
        await bed.members_are("gateway", "a", "c")
        await b.kinds(LinkDown)
        stays.send(0, f"{ROOT}/d/b/a", b"to a stranger")
        heard = await settled(stays, a, stays, token=1)
        # A last will says "suspect and probe", no more; amqtt publishes that of a stranger too.
        assert heard == [] or (bed.kind == "embedded" and heard == [(f"{ROOT}/p/b", b"")])

        await bed.members_are("gateway", "a", "b", "c")
        await b.until(lambda event: event == LinkUp(2))
        stays.send(0, f"{ROOT}/d/b/a", b"to a member")
        assert await b.payloads(count=1) == [b"to a member"]
        assert not any(isinstance(event, LinkDown) for event in a.heard)


async def test_a_packet_beyond_the_bound_ends_its_senders_connection_and_reaches_nobody(bed):
    a, b = Ears(), Ears()
    async with (
        up(bed.link("b", b), b, inbox_of("b")) as reader,
        up(bed.link("a", a), a, inbox_of("a")) as link,
    ):
        bed.oversize(link, f"{ROOT}/d/b/a")
        await a.kinds(LinkDown)

        assert await settled(reader, b, reader, token=1) == []


async def test_a_killed_broker_forgets_its_messages_and_knows_its_members(bed):
    """Neither of ours keeps a database, and the supervisor tells it who belongs."""
    keeper, a, late = Ears(), Ears(), Ears()
    async with (
        up(bed.link("gateway", keeper), keeper, inbox_of("gateway")) as gateway,
        up(bed.link("a", a, will=True), a, [*inbox_of("a"), f"{ROOT}/p/+"]) as link,
    ):
        gateway.send(1, ROSTER, b"roster", retain=True)
        await keeper.kinds(Sent)
        await bed.restart()
        await a.until(lambda event: event == LinkUp(2))
        await keeper.until(lambda event: event == LinkUp(2))

        gateway.send(2, f"{ROOT}/d/a/gateway", b"after")
        assert await settled(link, a, gateway, token=1) == [(f"{ROOT}/d/a/gateway", b"after")]  # no will
        async with up(bed.link("b", late), late, [ROSTER, *inbox_of("b")]) as newcomer:
            assert await settled(newcomer, late, gateway, token=2) == []


# ── with a database, which ours have not: what the virtual broker's means is what mosquitto's does ──────


class Persistent:
    """mosquitto as a distribution runs it, persistence on; plain TCP on loopback."""

    def __init__(self, folder):
        self.port = free_port()
        self.conf = folder / "mosquitto.conf"
        self.conf.write_text(
            f"user root\nlistener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
            f"persistence_location {folder}/\nautosave_on_changes true\nautosave_interval 1\n"
        )
        self.program = shutil.which("mosquitto", path="/usr/bin:/usr/sbin:/usr/local/sbin")

    async def start(self):
        self.process = await asyncio.create_subprocess_exec(
            self.program, "-c", str(self.conf), stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(10):
            while not await self._listens():
                await asyncio.sleep(0.01)

    async def _listens(self):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    async def stop(self):
        self.process.terminate()
        await self.process.wait()

    def client(self, name, *, clean):
        return aiomqtt.Client("127.0.0.1", self.port, identifier=name, clean_session=clean, timeout=5)


@pytest.mark.mosquitto
@pytest.mark.slow
async def test_mosquittos_database_keeps_what_the_virtual_ones_keeps(tmp_path):
    """Retained messages and sessions that were to be kept, with what waited in them; no clean session.

    The same over the virtual broker: ``test_a_database_keeps_retained_messages_…`` beside its other tests.
    """
    needs("mosquitto")
    broker = Persistent(tmp_path)
    await broker.start()
    try:
        for name, clean in (("kept", False), ("clean", True)):
            async with broker.client(name, clean=clean) as reader:
                await reader.subscribe("direct/#", 1)
        async with broker.client("writer", clean=True) as writer:
            await writer.publish("roster", b"roster", 1, retain=True)
            await writer.publish("direct/x", b"meanwhile", 1)
            await writer.publish("direct/x", b"at quality 0", 0)
        await broker.stop()
        await broker.start()

        async with broker.client("kept", clean=False) as kept:
            await kept.subscribe("roster", 1)
            async with asyncio.timeout(60):
                got = {(await anext(kept.messages)).payload for _ in range(2)}
            assert got == {b"meanwhile", b"roster"}
        async with broker.client("clean", clean=True) as clean:
            await clean.subscribe("direct/#", 1)
            await clean.publish("direct/mark", b"mark", 1)
            async with asyncio.timeout(60):
                assert (await anext(clean.messages)).payload == b"mark"
    finally:
        await broker.stop()
