"""Fault 9: stores that were flipped, zeroed, truncated or torn: all of it detected, nothing invented."""

from __future__ import annotations

from pathlib import Path

from tests.faults import damage
from tests.faults.fault import Context, Fault, Outcome
from tests.faults.trials import Figures, tried

FAULT = Fault(
    number=9,
    name="damaged-stores",
    title="stores flipped, truncated, zeroed, torn: detected, nothing invented",
    brokers=(),
    full=1_000,
    small=25,
    unit="stores",
    round_max=200,
    round_s=60,
)


def every_damage(scratch: Path, seed: int, count: int) -> Figures:
    violations = damage.run(seed, count, scratch / "stores")
    assert not violations, "; ".join(violations[:5])
    return {"stores": count}


async def run(context: Context) -> Outcome:
    return await tried(context, {every_damage: 1})
