"""Bytes from a broker that nobody trusts: cut anywhere, or simply noise."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node.transport.inbox import Inbox
from edge_node.transport.link import Delivery, Sent
from edge_node.transport.mqtt import _length
from security.errors import EdgeweaveError
from tests.support.parsers import client_for, publish

messages = st.lists(
    st.tuples(st.sampled_from(["t", "ew/1/m/d/a/b", "ä"]), st.binary(max_size=300), st.integers(0, 65_535)),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(messages, st.lists(st.integers(1, 700), max_size=30), st.booleans(), st.integers(1, 20))
def test_packets_cut_anywhere_arrive_whole_once_and_in_order(sent, cuts, mqtt5, capacity):
    async def story():
        inbox = Inbox(capacity)
        client = client_for(inbox, mqtt5=mqtt5)
        stream = b"".join(publish(t.encode(), payload, mid, mqtt5=mqtt5) for t, payload, mid in sent)
        got = []
        for size in [*cuts, len(stream)]:
            client._in += stream[:size]
            stream = stream[size:]
            client._parse()
            while client._paused or len(inbox):
                got += await inbox.take(0)
                client._paused = False
                client._parse()
        assert [(event.topic, event.payload) for event in got] == [(t, payload) for t, payload, _ in sent]
        assert client._acks == [b"\x40\x02" + mid.to_bytes(2, "big") for _, _, mid in sent if mid]

    asyncio.run(story())


packets = st.builds(
    lambda first, body: bytes([first]) + _length(len(body)) + body,
    st.integers(0, 255),
    st.binary(max_size=40),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(packets | st.binary(max_size=60), max_size=6), st.booleans())
def test_noise_raises_only_typed_errors(chunks, mqtt5):
    async def story():
        inbox = Inbox()
        client = client_for(inbox, mqtt5=mqtt5)
        client._open[1] = 7
        try:
            for chunk in chunks:
                client._in += chunk
                client._parse()
        except EdgeweaveError:
            pass
        if not client._disconnected.done():
            client._disconnected.cancel()
        else:
            client._disconnected.exception()
        if client._connected.done():
            client._connected.exception()
        assert all(isinstance(event, Delivery | Sent) for event in await inbox.take(0))

    asyncio.run(story())


@given(st.integers(0, 268_435_455))
def test_a_length_is_written_as_mqtt_reads_it(number):
    value = shift = 0
    for byte in _length(number):
        value |= (byte & 0x7F) << shift
        shift += 7

    assert value == number
