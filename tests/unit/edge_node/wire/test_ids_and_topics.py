"""Names and topics: what may be one, and that building and parsing are inverses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.wire import ids, topics
from security.errors import BadInput, ProtocolViolation

NODE_IDS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", fullmatch=True)
MESH_IDS = st.from_regex(r"[0-9a-f]{16}", fullmatch=True)


@given(MESH_IDS, NODE_IDS, NODE_IDS)
def test_every_topic_parses_to_what_built_it(mesh, a, b):
    for topic in (
        topics.Direct(mesh, a, b),
        topics.Group(mesh, a, b),
        topics.Presence(mesh, a),
        topics.RosterTopic(mesh),
    ):
        assert topics.parse(topics.topic_for(topic)) == topic


@given(st.text(max_size=80))
def test_any_text_parses_or_is_a_violation(text):
    try:
        topic = topics.parse(text)
    except ProtocolViolation:
        return
    assert topics.topic_for(topic) == text


@pytest.mark.parametrize(
    "text", ["ew/2/0123456789abcdef/roster", "ew/1/xyz/roster", "ew/1/0123456789abcdef/d/+/a"]
)
def test_a_foreign_topic_is_refused(text):
    with pytest.raises(ProtocolViolation):
        topics.parse(text)


def test_an_unknown_version_names_both_versions():
    with pytest.raises(ProtocolViolation, match="version '2', this member speaks '1'"):
        topics.parse("ew/2/0123456789abcdef/roster")


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a" * 33, "gateway", "broker", "any", "ä"])
def test_a_bad_or_reserved_node_name_is_refused_with_its_fix(name):
    with pytest.raises(BadInput) as caught:
        ids.checked_node_id(name)

    assert caught.value.fix


def test_task_ids_sort_by_time_and_differ_by_entropy():
    earlier = ids.task_id(1_700_000_000_000, b"\xff" * 8)
    later = ids.task_id(1_700_000_000_001, b"\x00" * 8)

    assert earlier < later
    assert ids.is_task_id(earlier) and len(earlier) == 23
    assert ids.task_id(5, bytes(8)) != ids.task_id(5, bytes(7) + b"\x01")
