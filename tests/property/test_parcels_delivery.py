"""However the channel behaves, what was posted arrives exactly once when it stops misbehaving."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node.transport.parcels import MS, SECOND, Stream
from edge_node.wire.codec import unpack
from edge_node.wire.messages import Ping

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["post-a", "post-b", "send-a", "send-b", "lose-a", "lose-b", "double-a", "swap-b", "link-up"]
        ),
        st.integers(0, 700),
    ),
    max_size=80,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_every_message_arrives_exactly_once_after_the_faults(steps):
    streams = {"a": Stream(), "b": Stream()}
    other = {"a": "b", "b": "a"}
    posted: dict[str, list[Ping]] = {"a": [], "b": []}
    heard: dict[str, list[Ping]] = {"a": [], "b": []}
    held: list[tuple[str, bytes]] = []
    now_ns = 0

    def deliver(to: str, plain: bytes) -> None:
        heard[to] += streams[to].arrived(now_ns, *unpack(plain))

    for what, wait_ms in steps:
        now_ns += wait_ms * MS
        verb, _, who = what.partition("-")
        for stream in streams.values():
            stream.tick(now_ns)
        if verb == "post":
            message = Ping(len(posted[who]))
            streams[who].post(now_ns, message)
            posted[who].append(message)
        elif verb == "link":
            for stream in streams.values():
                stream.resend_all()
        else:
            plain = streams[who].parcel(now_ns)
            if plain is None or verb == "lose":
                continue
            if verb == "swap":
                held.append((other[who], plain))
                continue
            for _ in range(2 if verb == "double" else 1):
                deliver(other[who], plain)
        for stream in streams.values():
            stream.check()
    for to, plain in reversed(held):
        deliver(to, plain)
    for _ in range(60):
        now_ns += SECOND
        for who in ("a", "b"):
            streams[who].tick(now_ns)
            while (plain := streams[who].parcel(now_ns)) is not None:
                deliver(other[who], plain)

    assert sorted(m.nonce for m in heard["b"]) == [m.nonce for m in posted["a"]]
    assert sorted(m.nonce for m in heard["a"]) == [m.nonce for m in posted["b"]]
    assert streams["a"].idle and streams["b"].idle
