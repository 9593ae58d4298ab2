"""A small share of the campaign on real daemons: no promise is broken. `make faults` runs the rest.

The brokers take turns; a module says by `small` how much of it runs here.
"""

from __future__ import annotations

import pytest

from tests.faults import (
    f01_kill_holder,
    f02_kill_gateway,
    f03_kill_broker,
    f05_partition,
    f10_poison,
    f11_slow_consumer,
    f24_soak,
    f26_tables_killed,
)
from tests.faults.fault import BOTH, Lacking, context_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

TURNS = [
    (f01_kill_holder, "embedded"),
    (f02_kill_gateway, "mosquitto"),
    (f03_kill_broker, "embedded"),
    (f05_partition, "mosquitto"),
    (f10_poison, "mosquitto"),
    (f11_slow_consumer, "mosquitto"),
    (f24_soak, "mosquitto"),
    (f26_tables_killed, "embedded"),
]


@pytest.mark.parametrize(
    ("module", "broker"), TURNS, ids=[f"{module.FAULT.name}-{broker}" for module, broker in TURNS]
)
async def test_a_small_share_breaks_no_promise(module, broker, tmp_path):
    fault = module.FAULT
    assert broker in BOTH and fault.small
    context = context_of(20261123, broker, tmp_path, fault.small, print)
    context.brief = True
    try:
        outcome = await module.run(context)
    except Lacking as lacking:
        pytest.skip(str(lacking))

    assert outcome.violations == []
    assert outcome.accepted > 0 and outcome.done >= 1
    assert module is f10_poison or outcome.figures["errors logged"] == 0  # a bomb leaves no room for a worker
