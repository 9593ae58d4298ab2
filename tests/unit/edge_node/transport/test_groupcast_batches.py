"""Batches of table changes said to the group: on a topic of their own, nothing else beside them."""

from __future__ import annotations

import pytest

from edge_node.transport.groupcast import GROUP
from edge_node.wire import messages
from edge_node.wire.codec import encode_message, pack
from edge_node.wire.topics import Group, parse
from tests.unit.edge_node.transport.test_groupcast import MESH, beat, member

BATCH = messages.StateBatch(b"signed elsewhere")


def g(src, group=GROUP, mesh=MESH.mesh_id):
    return Group(mesh, group, src)


def test_a_batch_reaches_every_member_any_number_of_times_but_once_a_frame():
    sender, readers = member("pi-1", 1), [member("gateway", 1), member("pi-2", 1)]
    frame = sender.seal_batch(0, BATCH)
    for reader in readers:
        assert reader.batch_delivered(0, g("pi-1"), frame) == BATCH
        assert reader.batch_delivered(0, g("pi-1"), frame) is None
        assert reader.batch_delivered(0, g("pi-1"), sender.seal_batch(0, BATCH)) == BATCH
    assert sender.batch_delivered(0, g("pi-1"), frame) is None  # its own comes back


def test_without_an_epoch_nothing_is_said_and_an_unknown_one_is_asked_for():
    assert member("pi-1").seal_batch(0, BATCH) is None
    reader = member("pi-2", 1)
    reader.ready(0, "gateway")
    assert reader.batch_delivered(0, g("pi-1"), member("pi-1", 2).seal_batch(0, BATCH)) is None
    assert reader.unknown_epochs == 1 and reader.deadline_ns() is not None


@pytest.mark.parametrize(
    "topic", [g("pi-3"), g("pi-1", "others"), g("pi-1", mesh="0123456789abcdef"), g("stranger")]
)
def test_a_frame_on_another_topic_is_refused(topic):
    reader = member("pi-2", 1)
    assert reader.batch_delivered(0, topic, member("pi-1", 1).seal_batch(0, BATCH)) is None
    assert reader.violations.total() == 1


@pytest.mark.parametrize(
    "items",
    [
        [(0, encode_message(beat(1)))],
        [(0, encode_message(BATCH)), (0, encode_message(BATCH))],
        [(1, encode_message(BATCH))],
        [],
    ],
)
def test_nothing_but_one_batch_has_a_place_there(items):
    sender, reader = member("pi-1", 1), member("pi-2", 1)
    frame = sender._sender.seal(sender.group_topic, pack(1, items))
    assert reader.batch_delivered(0, g("pi-1"), frame) is None
    assert reader.violations.total() == 1


def test_a_batch_is_no_presence():
    sender, reader = member("pi-1", 1), member("pi-2", 1)
    frame = sender._sender.seal(sender.topic, pack(1, [(0, encode_message(BATCH))]))
    assert reader.delivered(0, parse(sender.topic), frame) == []
    assert reader.violations.total() == 1
