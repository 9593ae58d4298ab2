"""Whether we take an offer: the queue is bounded in *time*, and a refusal gives its reason.

The offer's lease says what its owner was promised: lease = 2·(C + 3σ), so a wait of 1.25 leases is one it
did not reckon with. Lower priorities are shed first, at the door.
"""

from __future__ import annotations

from edge_node.tasks.states import Refusal

PROMISE_MARGIN = 1.25
LOW_PRIORITY_SHARE = 0.5


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
) -> Refusal | None:
    """None: take it."""
    if draining:
        return Refusal.DRAINING
    if budget_s is not None and wait_s + service_s > budget_s:
        return Refusal.OVER_DEADLINE
    share = 1.0 if priority >= 0 else LOW_PRIORITY_SHARE
    if queued >= share * queued_max or wait_s > share * wait_s_max:
        return Refusal.QUEUE_FULL
    if wait_s > PROMISE_MARGIN * max(lease_s, service_s):
        return Refusal.QUEUE_FULL
    return None
