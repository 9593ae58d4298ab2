"""How long a link that is down waits before it tries again."""

from __future__ import annotations

import pytest

from edge_node.transport.mqtt import BACKOFF_S_FIRST, BACKOFF_S_MAX, CONNECT_S, pause_s


def test_it_doubles_up_to_two_seconds_while_it_is_refused_at_once():
    assert [pause_s(failures, 0.0) for failures in range(7)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert pause_s(10_000, 0.0) == BACKOFF_S_MAX


@pytest.mark.parametrize("failures", [0, 3, 20])
def test_who_waited_for_an_answer_in_vain_tries_again_at_once(failures):
    """A host that was cut off: each attempt takes its whole time."""
    assert pause_s(failures, CONNECT_S) == BACKOFF_S_FIRST


def test_what_an_attempt_took_is_part_of_the_pause():
    assert pause_s(20, 0.5) == 1.5
