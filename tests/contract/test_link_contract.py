"""One suite for every link: in memory, in a virtual world, over mosquitto, over the embedded broker."""

from __future__ import annotations

import asyncio

import pytest
import pytest_asyncio

from edge_node.transport.link import LINK_DOWN, PAYLOAD_BYTES_MAX, Delivery, LinkDown, LinkUp, Sent
from security.errors import BadInput, Refused, Unavailable
from tests.support.links import KINDS, ROOT, BrokerBed, Ears, MemoryBed, VirtualBed, needs, up

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(params=KINDS, scope="module", loop_scope="module")
async def bed(request, tmp_path_factory):
    needs(request.param)
    if request.param == "memory":
        yield MemoryBed()
        return
    virtual = request.param == "virtual"
    bed = VirtualBed() if virtual else BrokerBed(request.param, tmp_path_factory.mktemp(request.param))
    async with bed.running():
        yield bed


def inbox_of(name):
    return [f"{ROOT}/d/{name}/+"]


async def test_a_message_arrives_and_its_sender_is_told_once(bed):
    a, b = Ears(), Ears()
    async with up(bed.link("a", a), a, inbox_of("a")) as link, up(bed.link("b", b), b, inbox_of("b")):
        link.send(7, f"{ROOT}/d/b/a", b"hello")

        assert await b.kinds(Delivery) == [Delivery(f"{ROOT}/d/b/a", b"hello", False)]
        assert await a.kinds(Sent) == [Sent(7, None)]
        link.send(0, f"{ROOT}/d/b/a", b"no token")
        link.send(8, f"{ROOT}/d/b/a", b"last")
        await b.payloads(count=3)
        await a.until(lambda event: event == Sent(8, None))
    assert [event.token for event in a.heard if isinstance(event, Sent)] == [7, 8]


async def test_quality_0_is_told_when_it_left(bed):
    a, b = Ears(), Ears()
    async with up(bed.link("a", a), a, inbox_of("a")) as link, up(bed.link("b", b), b, [f"{ROOT}/p/+"]):
        link.send(3, f"{ROOT}/p/a", b"beat", qos=0)

        assert await b.payloads(count=1) == [b"beat"]
        assert await a.kinds(Sent) == [Sent(3, None)]


async def test_many_messages_arrive_in_order_and_each_is_told(bed):
    a, b = Ears(), Ears(4096)
    async with up(bed.link("a", a), a, inbox_of("a")) as link, up(bed.link("b", b), b, inbox_of("b")):
        payloads = [b"%d" % n for n in range(1000)]
        for at in range(0, 1000, 200):
            for n in range(at, at + 200):
                link.send(n + 1, f"{ROOT}/d/b/a", payloads[n])
            await a.kinds(Sent, count=at + 200)

        assert await b.payloads(count=1000) == payloads
        assert [event.token for event in a.heard if isinstance(event, Sent)] == list(range(1, 1001))


async def test_the_largest_payload_passes_and_a_larger_one_is_refused(bed):
    a, b = Ears(), Ears()
    async with up(bed.link("a", a), a, inbox_of("a")) as link, up(bed.link("b", b), b, inbox_of("b")):
        with pytest.raises(BadInput):
            link.send(1, f"{ROOT}/d/b/a", bytes(PAYLOAD_BYTES_MAX + 1))
        for token in range(2, 10):
            link.send(token, f"{ROOT}/d/b/a", bytes([token]) * PAYLOAD_BYTES_MAX)

        got = await b.payloads(count=8)
    assert [payload[0] for payload in got] == list(range(2, 10))
    assert {len(payload) for payload in got} == {PAYLOAD_BYTES_MAX}


async def test_a_full_queue_refuses_and_loses_nothing(bed):
    a, b = Ears(), Ears()
    link = bed.link("a", a, queue_max=8)
    async with up(link, a, inbox_of("a")), up(bed.link("b", b), b, inbox_of("b")):
        for token in range(1, 9):
            link.send(token, f"{ROOT}/d/b/a", b"%d" % token)
        with pytest.raises(Refused, match="link queue full"):
            link.send(9, f"{ROOT}/d/b/a", b"9")

        assert await b.payloads(count=8) == [b"%d" % token for token in range(1, 9)]
        await a.kinds(Sent, count=8)
        link.send(9, f"{ROOT}/d/b/a", b"9")  # there is room again
        await b.payloads(count=9)


async def test_a_full_inbox_holds_the_sender_back_and_loses_nothing(bed):
    a, b = Ears(), Ears(4)
    async with up(bed.link("a", a), a, inbox_of("a")) as link, up(bed.link("b", b), b, inbox_of("b")):
        payloads = [b"%d" % n for n in range(200)]
        for n, payload in enumerate(payloads):
            link.send(n + 1, f"{ROOT}/d/b/a", payload)
        await a.kinds(Sent, count=200)

        batches = []
        while sum(map(len, batches)) < 200:
            batch = await b.inbox.take(10)
            assert batch, "the paused link did not resume"
            batches.append([event.payload for event in batch if isinstance(event, Delivery)])
    assert [payload for batch in batches for payload in batch] == payloads
    assert max(map(len, batches)) <= 4


async def test_a_subscription_may_come_later(bed):
    a, b = Ears(), Ears()
    async with (
        up(bed.link("a", a), a, inbox_of("a")) as link,
        up(bed.link("b", b), b, inbox_of("b")) as other,
    ):
        other.subscribe([f"{ROOT}/g/climate/+"])
        for token in range(
            1, 200
        ):  # the contract gives no event for a later subscription: try until it stands
            link.send(token, f"{ROOT}/g/climate/a", b"group")
            await a.kinds(Sent, count=token)
            if any(isinstance(event, Delivery) for event in await b.inbox.take(0.02)):
                break
        else:
            raise AssertionError("the later subscription never stood")


async def test_one_members_presence_is_followed_until_it_is_not(bed):
    """Its own inbox is the clock: what came before on the other topic has come by then."""
    a, b, c = Ears(), Ears(), Ears()
    async with (
        up(bed.link("a", a), a, [*inbox_of("a"), f"{ROOT}/p/b", f"{ROOT}/p/c"]) as link,
        up(bed.link("b", b), b, inbox_of("b")) as followed,
        up(bed.link("c", c), c, inbox_of("c")) as other,
    ):
        followed.send(1, f"{ROOT}/p/b", b"beat of b", qos=0)
        assert await a.payloads(count=1) == [b"beat of b"]

        link.unsubscribe([f"{ROOT}/p/b", f"{ROOT}/p/nobody"])
        for token in range(2, 202):  # the contract gives no event for it: until a beat does not come
            followed.send(token, f"{ROOT}/p/b", b"late", qos=0)
            followed.send(0, f"{ROOT}/d/a/b", b"%d" % token)
            tail = await a.until(lambda e, mark=b"%d" % token: isinstance(e, Delivery) and e.payload == mark)
            if a.heard[a.heard.index(tail[0]) - 1].payload != b"late":
                break
        else:
            raise AssertionError("the subscription never ended")
        other.send(1, f"{ROOT}/p/c", b"beat of c", qos=0)
        await a.until(lambda event: isinstance(event, Delivery) and event.payload == b"beat of c")


async def test_retained_messages_say_so(bed):
    a, b, gateway = Ears(), Ears(), Ears()
    keeper = bed.link("gateway", gateway)
    async with up(bed.link("a", a), a, [f"{ROOT}/roster"]), up(keeper, gateway, inbox_of("gateway")):
        keeper.send(1, f"{ROOT}/roster", b"roster", retain=True)
        assert await a.kinds(Delivery) == [Delivery(f"{ROOT}/roster", b"roster", False)]
        async with up(bed.link("b", b), b, [f"{ROOT}/roster"]):
            assert await b.kinds(Delivery) == [Delivery(f"{ROOT}/roster", b"roster", True)]
        keeper.send(2, f"{ROOT}/roster", b"", retain=True)
        await gateway.kinds(Sent, count=2)


async def test_a_cut_link_leaves_its_will_and_comes_back_with_its_subscriptions(bed):
    a, b = Ears(), Ears()
    link = bed.link("a", a, will=True)
    async with up(bed.link("b", b), b, [f"{ROOT}/p/+"]) as other, up(link, a, inbox_of("a")):
        bed.cut(link)

        assert await b.kinds(Delivery) == [Delivery(f"{ROOT}/p/a", b"", False)]
        await a.until(lambda event: event == LinkUp(2))
        assert [type(event) for event in a.heard] == [LinkUp, LinkDown, LinkUp]
        assert link.up
        other.send(1, f"{ROOT}/d/a/b", b"again")
        assert await a.payloads(count=1) == [b"again"]


async def test_a_link_counts_what_the_broker_has_taken(bed):
    a, b = Ears(), Ears()
    link = bed.link("a", a)
    async with up(bed.link("b", b), b, inbox_of("b")), up(link, a, inbox_of("a")):
        assert (link.handed, link.untaken) == (0, 0)
        for _ in range(5):
            link.send(0, f"{ROOT}/d/b/a", b"counted")
        link.send(9, f"{ROOT}/p/a", b"beats are not", qos=0)
        link.send(1, f"{ROOT}/d/b/a", b"last")
        assert (link.handed, link.untaken) == (6, 6)

        await a.until(lambda event: event == Sent(1, None))
        assert (link.handed, link.untaken) == (6, 0)


async def test_a_link_that_is_rebuilt_comes_back_with_its_subscriptions(bed):
    a, b = Ears(), Ears()
    link = bed.link("a", a)
    async with up(bed.link("b", b), b, inbox_of("b")) as other, up(link, a, inbox_of("a")):
        link.send(4, f"{ROOT}/d/b/a", b"perhaps lost")
        link.rebuild("it did not get on")

        await a.until(lambda event: event == LinkUp(2))
        assert LinkDown("it did not get on") in a.heard
        assert [event.token for event in a.heard if isinstance(event, Sent)] == [4]
        assert link.untaken == 0
        other.send(1, f"{ROOT}/d/a/b", b"again")
        assert await a.payloads(count=1) == [b"again"]


async def test_open_tokens_are_told_before_the_link_is_down(bed):
    a = Ears()
    link = bed.link("a", a)
    async with up(link, a, inbox_of("a")):
        bed.cut(link)
        if link.up:
            link.send(5, f"{ROOT}/d/b/a", b"into the void")
        await a.kinds(LinkDown)
    told = [event for event in a.heard if isinstance(event, Sent | LinkDown)]
    assert told[0] == Sent(5, LINK_DOWN) or isinstance(told[0], LinkDown)
    assert not any(isinstance(event, Sent) for event in told[1:])


async def test_a_cancelled_link_says_goodbye_and_leaves_no_will(bed):
    """Its second life sends a message: a will of the first would have arrived before that."""
    first, second, b = Ears(), Ears(), Ears()
    async with up(bed.link("b", b), b, [f"{ROOT}/p/+", *inbox_of("b")]):
        async with up(bed.link("a", first, will=True), first, inbox_of("a")) as link:
            link.send(1, f"{ROOT}/d/b/a", b"sent in the last moment")
        assert not link.up
        assert LinkDown("stopped") in await first.kinds(LinkDown)
        async with up(bed.link("a", second, will=True), second, inbox_of("a")) as link:
            link.send(1, f"{ROOT}/d/b/a", b"after")
            await second.kinds(Sent)

            assert await b.payloads(count=2) == [b"sent in the last moment", b"after"]


async def test_a_link_that_is_down_takes_nothing(bed):
    link = bed.link("a", Ears())

    assert not link.up
    with pytest.raises(Unavailable, match=LINK_DOWN):
        link.send(1, f"{ROOT}/d/b/a", b"x")


@pytest.mark.parametrize(
    "topic",
    ["#", "+/+/+/+/+/+", f"{ROOT}/d/b/+", f"{ROOT}/d/b/a", f"{ROOT}/d/+/+", f"{ROOT}/d/a/#", f"{ROOT}/#",
     f"{ROOT}/+/a/+", "ew/1/+/d/a/+", "$SYS/#", f"{ROOT}/g/#", f"{ROOT}/p/#", f"{ROOT}/p/b/+"],
)  # fmt: skip
async def test_a_refused_subscription_takes_the_link_down_with_its_name(bed, topic):
    ears = Ears()
    link = bed.link("a", ears)
    link.subscribe([*inbox_of("a"), topic])
    task = asyncio.create_task(link.run())
    try:
        [down] = await ears.kinds(LinkDown)
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert down.reason == f"subscription refused: {topic}"
    assert not any(isinstance(event, LinkUp) for event in ears.heard)


@pytest.mark.parametrize("topic", ["d/b/c", "p/b", "g/x/b", "roster", "d/b", "x/a", "d/b/a/a", "d/a/b"])
async def test_a_forged_source_is_never_delivered(bed, topic):
    a, b = Ears(), Ears()
    everything = [*inbox_of("b"), f"{ROOT}/p/+", f"{ROOT}/g/x/+", f"{ROOT}/roster"]
    async with up(bed.link("b", b), b, everything), up(bed.link("a", a), a, inbox_of("a")) as link:
        link.send(1, f"{ROOT}/{topic}", b"forged", retain=topic == "roster")
        link.send(2, f"{ROOT}/d/b/a", b"honest")

        assert await b.payloads(count=1) == [b"honest"]
    assert not [event for event in a.heard if isinstance(event, Delivery)]
