"""Parcels' plaintext: codecs invert, an unknown tag costs only itself, nothing but violations for noise."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.wire import codec, messages
from security.errors import ProtocolViolation

SAMPLES = [
    messages.Ack(7, b"\x05"),
    messages.Offer("t", 1, "room.changes", b"d" * 32, 2000, input=b"x", priority=-1),
    messages.Accept("t", 1, load=messages.Load(2, 40)),
    messages.Refuse("t", 1, "draining"),
    messages.Progress("t", 1, True, 30),
    messages.Result("t", 1, "done", b"out", load=messages.Load(1, 0, speed=2.0)),
    messages.Cancel("t", 2),
    messages.BlobWanted(b"d" * 32, 0, 8),
    messages.BlobChunk(b"d" * 32, 0, 1, 3, b"abc"),
    messages.BlobMissing(b"d" * 32),
    messages.CatalogueWanted([("room.changes", 3)]),
    messages.CatalogueEntries([b"e"]),
    messages.Publish(b"r", [b"e"]),
    messages.Published(b"r", "no"),
    messages.Beat(1, messages.Load(1, 0)),
    messages.Ping(4),
    messages.Pong(4),
    messages.Leaving("bye"),
    messages.GroupKeysWanted("mesh", 3),
    messages.GroupKeys(b"signed", b"s" * 32),
    messages.FleetDigest(
        1, [messages.DigestEntry("a", 3, 2, 1.5), messages.DigestEntry("b", 0, 1, 1.0, True)]
    ),
    messages.About("0.3", "3.11", ["numpy"]),
    messages.StoryWanted(b"r" * 8, "t1"),
    messages.HeldWanted("t0"),
    messages.Held(
        [messages.HeldJob("t1", 2, "f.g", b"d" * 32, "done", result=messages.Result("t1", 2, "done", b"o"))],
        False,
    ),
    messages.Story(
        b"r" * 8,
        1_760_000_000_000,
        entries=[
            messages.StoryEntry(
                7, 1_760_000_000_000, "pi-1", "task", "t1", "lapsed", "t1", "pi-2", 1, {"silent_ms": 4200}
            )
        ],
    ),
]


def test_every_message_comes_back_as_it_went():
    items = [(n, codec.encode_message(m)) for n, m in enumerate(SAMPLES)]

    low, back = codec.unpack(codec.pack(3, items))

    assert low == 3
    assert back == list(enumerate(SAMPLES))


def test_tags_are_never_renumbered():
    """Tags are append-only: this list may grow, a line of it may not change."""
    tags = {type(m).__name__: msgspec.msgpack.decode(codec.encode_message(m))[0] for m in SAMPLES}

    assert tags == {
        "Ack": 1, "Offer": 3, "Accept": 4, "Refuse": 5, "Progress": 6, "Result": 7, "Cancel": 8,
        "BlobWanted": 9, "BlobChunk": 10, "BlobMissing": 11, "CatalogueWanted": 12, "CatalogueEntries": 13,
        "Publish": 14, "Published": 15, "Beat": 16, "Ping": 17, "Pong": 18, "Leaving": 19,
        "GroupKeysWanted": 20, "GroupKeys": 21, "FleetDigest": 22, "About": 23,
        "StoryWanted": 24, "Story": 25, "HeldWanted": 26, "Held": 27,
    }  # fmt: skip


def test_an_unknown_tag_costs_only_itself():
    strange = msgspec.msgpack.encode([99, "whatever"])

    _, items = codec.unpack(codec.pack(1, [(1, strange), (2, codec.encode_message(messages.Ping(1)))]))

    assert items == [(1, codec.Unsupported(99)), (2, messages.Ping(1))]


def test_a_newer_member_may_append_fields():
    longer = msgspec.msgpack.encode([17, 5, "a field of tomorrow"])

    assert codec.unpack(codec.pack(1, [(0, longer)]))[1] == [(0, messages.Ping(5))]


def test_an_unknown_version_names_both():
    with pytest.raises(ProtocolViolation, match="version 2, this member speaks 1"):
        codec.unpack(msgspec.msgpack.encode((2, 1, [])))


def test_a_malformed_known_message_is_a_violation():
    with pytest.raises(ProtocolViolation, match="malformed"):
        codec.unpack(codec.pack(1, [(1, msgspec.msgpack.encode([17, "not a number"]))]))


def test_oversize_and_deep_nesting_are_refused():
    with pytest.raises(ProtocolViolation, match="256 KiB"):
        codec.unpack(bytes(codec.PLAIN_BYTES_MAX + 1))
    with pytest.raises(ProtocolViolation):
        codec.unpack(b"\x91" * 200_000)


@given(st.binary(max_size=300))
def test_noise_raises_only_violations(noise):
    try:
        codec.unpack(noise)
    except ProtocolViolation:
        pass


def test_the_context_binds_topic_peers_and_role():
    context = codec.direct_context("0123456789abcdef")

    one = context("a", "b", bytes(8), 0)
    assert (
        len(
            {
                one,
                context("b", "a", bytes(8), 0),
                context("a", "b", bytes(8), 1),
                context("a", "c", bytes(8), 0),
            }
        )
        == 4
    )
