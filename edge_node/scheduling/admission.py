"""Whether we take an offer: the queue is bounded in *time*, and a refusal gives its reason.

The owner says what wait it reckoned with. We take the task if the wait here is no more than 1.25 of that and
one service time: beyond it the owner's picture of us was wrong, and with the load in our refusal it chooses
better. An offer that says nothing (its place was named by hand, or it has been refused before) only has its
lease: lease = 2·(C + 3σ), so a wait of 1.25 leases is one that was not reckoned with. Lower priorities are
shed first, at the door: low ones find half the queue, high ones a quarter more than all of it.
"""

from __future__ import annotations

from edge_node.tasks.states import Refusal

PROMISE_MARGIN = 1.25
PROMISE_SLACK_S = 5e-3
"""A refusal costs a round trip; a shorter wait than that is not worth one."""
LOW_PRIORITY_SHARE = 0.5
HIGH_PRIORITY_SHARE = 1.25


def refusal(
    *,
    wait_s: float,
    service_s: float,
    lease_s: float,
    budget_s: float | None,
    priority: int,
    queued: int,
    queued_max: int,
    wait_s_max: float,
    draining: bool,
    promised_s: float | None = None,
) -> Refusal | None:
    """None: take it."""
    if draining:
        return Refusal.DRAINING
    if budget_s is not None and wait_s + service_s > budget_s:
        return Refusal.OVER_DEADLINE
    share = 1.0 if priority == 0 else HIGH_PRIORITY_SHARE if priority > 0 else LOW_PRIORITY_SHARE
    if queued >= share * queued_max or wait_s > share * wait_s_max:
        return Refusal.QUEUE_FULL
    if promised_s is None:
        believed_s = PROMISE_MARGIN * max(lease_s, service_s)
    else:
        believed_s = PROMISE_MARGIN * promised_s + service_s + PROMISE_SLACK_S
    if wait_s > believed_s:
        return Refusal.QUEUE_FULL
    return None
