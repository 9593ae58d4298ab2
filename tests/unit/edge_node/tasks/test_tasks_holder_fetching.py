"""A worker waits for nobody's input: calls whose input is on its way leave the window to others."""

from __future__ import annotations

import pytest

from edge_node.scheduling.estimates import Estimates
from edge_node.tasks.events import Run, WorkDone
from edge_node.tasks.holder import FETCHING_MAX, Holder
from edge_node.wire.messages import Offer

MILLISECOND = 1_000_000
DIGEST = bytes(32)


@pytest.fixture
def holder() -> Holder:
    return Holder("gateway", Estimates(), workers=2, speed=1.0, queue_tasks_max=4096, queue_s_max=30.0)


def offer(holder: Holder, peer: str, task: str, *, large: bool) -> list[str]:
    """Offer a call; the tasks that are handed to the pool in answer."""
    small, digest = (None, DIGEST) if large else (b"input", None)
    message = Offer(task, 1, "gait.spectrum", DIGEST, 60_000, None, small, digest, 18_000 if large else 5, 0)
    out: list[object] = []
    holder.offer(0, peer, message, out)
    holder.release(0, out)
    holder.check()
    return [effect.task for effect in out if isinstance(effect, Run)]


def done(holder: Holder, task: str) -> list[str]:
    out: list[object] = []
    holder.done(MILLISECOND, WorkDone("", task, 1, "done", started_at_ms=1), out)
    holder.release(MILLISECOND, out)
    holder.check()
    return [effect.task for effect in out if isinstance(effect, Run)]


def test_inputs_that_never_come_do_not_keep_others_from_the_workers(holder):
    """Their owner was killed; two of them used to stop both workers for thirty seconds."""
    for number in range(4):
        assert offer(holder, "dead", f"large-{number}", large=True) == [f"large-{number}"]

    assert offer(holder, "alive", "small-0", large=False) == ["small-0"]
    assert offer(holder, "alive", "small-1", large=False) == ["small-1"]
    assert offer(holder, "alive", "small-2", large=False) == []  # two workers, two calls
    assert done(holder, "small-0") == ["small-2"]


def test_a_call_whose_input_has_come_counts_like_any_other(holder):
    offer(holder, "alive", "large", large=True)
    holder.started(0, "large", 1)

    assert offer(holder, "alive", "small-0", large=False) == ["small-0"]
    assert offer(holder, "alive", "small-1", large=False) == []
    assert done(holder, "large") == ["small-1"]


def test_only_so_many_inputs_are_awaited_at_once(holder):
    for number in range(FETCHING_MAX):
        offer(holder, "slow", f"large-{number}", large=True)

    assert offer(holder, "slow", "one more", large=True) == []
    assert offer(holder, "alive", "small", large=False) == ["small"]  # whatever waits before it
    assert done(holder, "large-0") == ["one more"]
