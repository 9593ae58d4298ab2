"""What a fault is, what a round of it is given, and what it gives back.

A fault module is a file ``fNN_<name>.py`` beside this one, with ``FAULT: Fault`` and
``async def run(context: Context) -> Outcome``. `campaign` finds them; a round is bounded (about a minute) and
whole: it starts what it needs, hurts it, heals it, and judges what is left.

    campaign ── Context(seed, count, …) ──► run ── Outcome(done, violations, figures, samples) ──► report

A *violation* is a broken promise (P1 to P8): work lost, invented, told twice. A *figure* over its bound is
told as "over" and breaks nothing. An exception is neither: that round is broken, and told so.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

BOTH = ("mosquitto", "embedded")
NONE = "none"
"""Where a fault needs no broker."""


@dataclass(frozen=True)
class Fault:
    """One row of the campaign's table.

    Args: brokers: it is run over each of them; (): it needs none.   full: how many *unit* a whole campaign
        asks for, over each broker.   small: as many in the test suite; 0: none.   round_max: of one round;
        0: a twentieth of *full*.   round_s: about how long such a round takes, for planning.
        bounds: figure -> what it should be at most; of samples "<name> p50", "p99", "max".
    """

    number: int
    name: str
    title: str
    brokers: tuple[str, ...]
    full: int
    small: int
    unit: str
    round_max: int = 0
    round_s: float = 60.0
    bounds: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """As it is chosen on the command line: several faults share a number."""
        return f"{self.number}.{self.name}"

    @property
    def a_round(self) -> int:
        return self.round_max or max(1, self.small, -(-self.full // 20))


class Lacking(Exception):
    """This machine cannot run it; the reason in a few words. Not a fault of the code under test."""


@dataclass
class Context:
    """What one round is given."""

    seed: int
    rng: random.Random
    broker: str  # "mosquitto", "embedded" or NONE
    scratch: Path  # empty, this round's own; kept if a promise was broken
    count: int  # how many of the fault's unit
    say: Callable[[str], None]
    drawn: dict[str, object] = field(default_factory=dict)  # parameters worth printing and keeping
    brief: bool = False  # of the test suite: long waits of the table may be cut short


@dataclass
class Outcome:
    """What one round found.

    Args: done: how many of the fault's unit were really done.   accepted: tasks that were promised.
        violations: one line each.   figures: numbers of this round; the report shows the largest.
        samples: single measurements; the report takes p50, p99 and max of all rounds together.
    """

    done: int
    accepted: int
    violations: list[str]
    figures: dict[str, float | int | str] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)


def seed_of(campaign: int, fault: Fault, broker: str, number: int) -> int:
    """Of round *number*: the same wherever and whenever it is run."""
    text = f"{campaign}/{fault.key}/{broker}/{number}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def context_of(seed: int, broker: str, scratch: Path, count: int, say: Callable[[str], None]) -> Context:
    return Context(seed, random.Random(seed), broker, scratch, count, say)


def quantile(values: list[float], share: float) -> float:
    """The smallest value that at least *share* of them do not exceed. Raises: ValueError: there are none."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, -(-len(values) * round(share * 1000) // 1000) - 1)]
