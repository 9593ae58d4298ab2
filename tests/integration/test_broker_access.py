"""What a broker must refuse, on both programs: certificates, names, topics, packets."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import aiomqtt
import pytest
import pytest_asyncio

from edge_node.transport.link import Delivery, LinkDown, LinkUp, Sent
from security.errors import ProtocolViolation
from tests.faults import f17_certificates, f19_spoofed
from tests.faults.f17_certificates import refusal
from tests.support.certs_for_tests import TestAuthority, malleated
from tests.support.links import BROKERS, ROOT, BrokerBed, Ears, needs, raw, up

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


@pytest_asyncio.fixture(params=BROKERS, scope="module", loop_scope="module")
async def bed(request, tmp_path_factory):
    needs(request.param)
    bed = BrokerBed(request.param, tmp_path_factory.mktemp(request.param))
    async with bed.running() as bed.running_broker:
        yield bed


async def works(bed):
    """The broker still serves honest members."""
    a, b = Ears(), Ears()
    async with up(bed.link("a", a), a, []) as link, up(bed.link("b", b), b, [f"{ROOT}/d/b/+"]):
        link.send(1, f"{ROOT}/d/b/a", b"still here")
        await b.payloads(count=1)


async def test_no_certificate_is_refused(bed, tmp_path):
    await f17_certificates.client_refused(bed, f17_certificates.no_certificate, tmp_path)


async def test_a_certificate_of_another_mesh_is_refused(bed, tmp_path):
    await f17_certificates.client_refused(bed, f17_certificates.another_ca, tmp_path)


async def test_a_certificate_that_a_member_signed_is_refused(bed, tmp_path):
    await f17_certificates.client_refused(bed, f17_certificates.signed_by_a_member, tmp_path)


async def test_an_expired_certificate_is_refused(bed, tmp_path):
    await f17_certificates.client_refused(bed, f17_certificates.expired, tmp_path)


async def test_a_certificate_for_servers_is_no_clients(bed, tmp_path):
    await f17_certificates.client_refused(bed, f17_certificates.another_usage, tmp_path)


async def test_tls_1_2_is_refused(bed, tmp_path):
    await f17_certificates.client_refused(bed, f17_certificates.tls_1_2, tmp_path)


async def test_a_broker_with_another_name_is_refused(bed):
    ears = Ears()

    reason = await refusal(bed.link("a", ears, server_name="broker.ffffffffffffffff.mesh"), ears)
    assert "certificate not accepted" in reason


async def test_a_broker_of_another_mesh_is_refused(bed, tmp_path):
    context = TestAuthority(tmp_path / "other").client_context(bed.leaves["a"])
    ears = Ears()

    assert "certificate not accepted" in await refusal(bed.link("a", ears, tls=lambda: context), ears)


async def test_the_peer_check_comes_before_the_first_byte(bed):
    """Refused by our own rule, the broker never learns who asked."""
    seen = []

    def check(sock):
        seen.append(sock.getpeercert()["subject"])
        raise ProtocolViolation("certificate dates lie before our floor")

    ears = Ears()

    assert "floor" in await refusal(bed.link("a", ears, check_peer=check), ears)
    assert seen


async def test_a_stranger_with_a_good_certificate_gets_nothing(bed):
    """Its certificate is genuine, the roster does not list it (revoked, or never joined)."""
    leaf = bed.authority.leaf("stranger")
    ears, b = Ears(), Ears()
    async with up(bed.link("b", b), b, [f"{ROOT}/d/b/+", f"{ROOT}/p/+"]):
        link = bed.link("stranger", ears, leaf=leaf)
        link.subscribe([f"{ROOT}/p/+"])
        assert await refusal(link, ears)
        with contextlib.suppress(aiomqtt.MqttError):
            async with raw(bed, leaf, "stranger") as client:
                await client.publish(f"{ROOT}/d/b/stranger", b"let me in", 1)
                await client.publish(f"{ROOT}/p/stranger", b"let me in", 1)
        await works_beside(bed, b)


async def works_beside(bed, b):
    """`b` hears from `a`, and has heard nothing else."""
    a = Ears()
    async with up(bed.link("a", a), a, []) as link:
        link.send(1, f"{ROOT}/d/b/a", b"honest")
        assert await b.payloads(count=1) == [b"honest"]


@pytest.mark.parametrize("spoof", f19_spoofed.SPOOFS)
async def test_another_name_gives_no_rights_and_takes_nobody_over(bed, spoof):
    a, b = Ears(), Ears()
    async with (
        up(bed.link("a", a), a, [f"{ROOT}/d/a/+"]),
        up(bed.link("b", b), b, [f"{ROOT}/d/b/+"]) as other,
    ):
        refused = True
        try:
            async with raw(bed, bed.leaves["c"], **spoof) as client:
                codes = await client.subscribe([(f"{ROOT}/d/a/+", 1), ("$CONTROL/#", 1), ("$SYS/#", 1)])
                refused = all(code.value >= 0x80 for code in codes)
                await client.publish(f"{ROOT}/d/b/a", b"forged", 1)
        except aiomqtt.MqttError:
            pass
        assert refused
        other.send(1, f"{ROOT}/d/a/b", b"for a alone")

        assert await a.payloads(count=1) == [b"for a alone"]
        assert [type(event) for event in a.heard] == [LinkUp, Delivery]  # never cut
        await b.kinds(Sent)
        assert not [event for event in b.heard if isinstance(event, Delivery)]


async def test_a_forged_last_will_is_not_published(bed):
    b = Ears()
    async with up(bed.link("b", b), b, [f"{ROOT}/p/+", f"{ROOT}/d/b/+"]):
        forged = aiomqtt.Will(f"{ROOT}/p/a", b"", 1)
        with contextlib.suppress(aiomqtt.MqttError):
            async with raw(bed, bed.leaves["c"], "c", will=forged) as client:
                client._client._sock.shutdown(socket.SHUT_RDWR)
        await works_beside(bed, b)


async def test_noise_and_huge_packets_only_end_their_own_connection(bed):
    context = bed.authority.client_context(bed.leaves["c"])
    name = bed.authority.broker_name
    packets = [
        b"\x00" * 64,
        b"\x10\xff\xff\xff\x7f",
        bytes.fromhex("101000044d515454040200050000"),
        bytes.fromhex("10") + b"\x80\x80\x80\x80\x01" + b"x" * 100,
        b"\x30\xff\xff\xff\x7f" + b"x" * 70_000,
    ]
    for packet in packets:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", bed.port, ssl=context, server_hostname=name
        )
        writer.write(packet)
        writer.write_eof() if writer.can_write_eof() else None
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(0.2):
                await reader.read()
        writer.transport.abort()
    reader, writer = await asyncio.open_connection("127.0.0.1", bed.port)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    writer.transport.abort()

    await works(bed)


async def test_members_come_and_go_live(bed):
    without = bed.members()
    bed.leaves["d"] = bed.authority.leaf("d")
    a, d = Ears(), Ears()
    async with up(bed.link("a", a), a, [f"{ROOT}/d/a/+"]):
        await bed.running_broker.set_members(bed.members())
        async with up(bed.link("d", d), d, [f"{ROOT}/d/d/+"]) as link:
            link.send(1, f"{ROOT}/d/a/d", b"new here")
            assert await a.payloads(count=1) == [b"new here"]

            await bed.running_broker.set_members(without)
            await d.kinds(LinkDown)
            ears = Ears()
            late = bed.link("d", ears)
            late.subscribe([f"{ROOT}/p/+"])
            assert await refusal(late, ears)
        assert [type(event) for event in a.heard] == [LinkUp, Delivery]  # the others never noticed


async def test_the_key_that_a_member_had_before_is_a_strangers(bed):
    """A board was replaced: same name, other keys. The old certificate is genuine and has not expired."""
    bed.leaves["e"] = old = bed.authority.leaf("e", filed_as="e-old")
    await bed.running_broker.set_members(bed.members())
    a, was = Ears(), Ears()
    async with (
        up(bed.link("a", a), a, [f"{ROOT}/d/a/+"]),
        up(bed.link("e", was), was, [f"{ROOT}/d/e/+"]),
    ):
        bed.leaves["e"] = bed.authority.leaf("e", filed_as="e-new")
        await bed.running_broker.set_members(bed.members())
        await was.kinds(LinkDown)

        new = Ears()
        async with up(bed.link("e", new), new, [f"{ROOT}/d/e/+"]) as link:
            for stale in (old, malleated(old, bed.folder / "malleated")):
                ears = Ears()
                late = bed.link("e", ears, leaf=stale)
                late.subscribe([f"{ROOT}/d/e/+"])
                assert await refusal(late, ears)
            link.send(1, f"{ROOT}/d/a/e", b"the new board")
            assert await a.payloads(count=1) == [b"the new board"]
            assert not [event for event in new.heard if isinstance(event, LinkDown)]  # not taken over
    del bed.leaves["e"]
    await bed.running_broker.set_members(bed.members())


async def test_another_signature_over_a_removed_certificate_does_not_help(bed):
    leaf = bed.leaves["f"] = bed.authority.leaf("f")
    await bed.running_broker.set_members(bed.members())
    changed = malleated(leaf, bed.folder / "malleated")
    f = Ears()
    async with up(bed.link("f", f, leaf=changed), f, [f"{ROOT}/d/f/+"]):  # TLS has nothing against it
        del bed.leaves["f"]
        await bed.running_broker.set_members(bed.members())
        await f.kinds(LinkDown)
        ears = Ears()
        late = bed.link("f", ears, leaf=changed)
        late.subscribe([f"{ROOT}/d/f/+"])
        assert await refusal(late, ears)


@pytest.mark.parametrize("bed", BROKERS[:1], indirect=True)  # amqtt speaks MQTT 3.1.1 only
async def test_a_denied_message_is_told_where_mqtt_5_is_spoken(bed):
    ears = Ears()
    async with up(bed.link("a", ears, mqtt5=True, will=True), ears, [f"{ROOT}/d/a/+"]) as link:
        link.send(1, f"{ROOT}/d/b/c", b"forged")
        link.send(2, f"{ROOT}/d/a/a", b"to myself")

        assert await ears.kinds(Sent, count=2) == [Sent(1, "not authorized"), Sent(2, None)]
        assert await ears.payloads(count=1) == [b"to myself"]
