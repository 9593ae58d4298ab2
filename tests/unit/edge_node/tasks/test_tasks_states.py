"""Why work is not taken: one closed set, in the code and in the document."""

from __future__ import annotations

import re
from pathlib import Path

from edge_node.backend import FIXES
from edge_node.tasks.states import FULL, NEVER_HERE, PERHAPS_SOON, TRANSITIONS, Refusal, State, refusal

PROTOCOL = Path(__file__).parents[4] / "docs" / "protocol.md"


def rows() -> dict[str, str]:
    (table,) = re.findall(r"<!-- refusals:.*?-->(.*?)<!-- end -->", PROTOCOL.read_text(), re.S)
    return dict(re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", table, re.M))


def test_the_document_lists_every_reason_to_refuse_and_no_other():
    assert sorted(rows()) == sorted(reason.value for reason in Refusal)


def test_whatever_the_door_says_no_to_has_a_fix():
    """What answers a cancel needs none: there is nothing left to do."""
    at_the_door = {reason for reason, by in rows().items() if "the door" in by and "cancel" not in by}

    assert at_the_door == {str(reason) for reason in FIXES}
    assert all(FIXES.values())


def test_a_reason_is_of_one_kind():
    assert not FULL & NEVER_HERE and not FULL & PERHAPS_SOON and not NEVER_HERE & PERHAPS_SOON


def test_an_unknown_reason_of_a_newer_peer_is_a_full_queue():
    assert refusal("mercury retrograde") is Refusal.QUEUE_FULL
    assert all(refusal(reason.value) is reason for reason in Refusal)


def test_what_has_ended_never_moves_again():
    assert TRANSITIONS.keys() == set(State)
    assert not TRANSITIONS[State.SETTLED] and not TRANSITIONS[State.DROPPED]
    assert State.SETTLED not in TRANSITIONS[State.PLACED], "nothing settles before its record is on the disk"
