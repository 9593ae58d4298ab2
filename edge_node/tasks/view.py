"""View: what a node knows of one peer that it has to do with, and whether it would give it work now.

Up or away, its labels and what it lacks, the wait there, and how it has dealt with work of ours lately:

    refusals, lapses in a row ─► tripped: rested for a while; from the fourth on the breaker, 1 s to 30 s
    for what may run there alone ─► its turnstile

Not here: which peers there are and whom to choose (`desk`, `scheduling`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge_node.scheduling.estimates import PeerWait, class_of
from edge_node.tasks.turnstile import Turnstile

if TYPE_CHECKING:
    from random import Random

    from edge_node.tasks.outbox import Outbox
    from edge_node.tasks.task import Task
    from edge_node.wire.messages import Load

SECOND: Final = 1_000_000_000
RTT_S_DEFAULT: Final = 5e-3
BREAKER_AFTER: Final = 4
BREAKER_NS_MAX: Final = 30 * SECOND
"""Refusals and lapses in a row that open the breaker of a peer; then one task at a time tries it again."""
NOTHING: Final[frozenset[str]] = frozenset()


class View:
    """Of one peer."""

    __slots__ = (
        "down", "kind", "kind_speed", "labels", "lacks", "name", "outbox", "shy_until_ns", "trips",
        "turnstile", "up", "wait",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.up = False
        self.down = False  # for certain: what it holds lapses soon
        self.labels: dict[str, str] = {}  # the roster's own: never changed
        self.wait = PeerWait(RTT_S_DEFAULT)
        self.outbox: Outbox | None = None  # tasks that may run nowhere else; most have none
        self.turnstile: Turnstile | None = None  # before it, for those tasks; none: it never refused one
        self.shy_until_ns = 0
        self.trips = 0  # refusals and lapses in a row
        self.lacks = NOTHING  # modules it said it does not have; unknown is perhaps
        self.kind = class_of(1.0)
        self.kind_speed = 1.0

    def classify(self) -> None:
        self.kind_speed = self.wait.speed
        self.kind = class_of(self.kind_speed, self.labels.get("class", ""))

    def tripped(self, now_ns: int, shy_ns: int) -> None:
        """A refusal or a lapse: shy of it for a while, for long once there were too many in a row."""
        if now_ns < self.shy_until_ns:
            return  # more of the same trouble
        self.trips += 1
        over = self.trips - BREAKER_AFTER
        if over >= 0:
            shy_ns = max(shy_ns, min(BREAKER_NS_MAX, SECOND << min(over, 10)))
        self.shy_until_ns = now_ns + shy_ns

    def took(self) -> None:
        """It took work of ours."""
        self.trips = 0
        if self.turnstile is not None:
            self.turnstile.taken()

    def restarted(self) -> None:
        """What it did in its former life is not held against it."""
        self.wait.draining = False
        self.shy_until_ns = self.trips = 0
        self.turnstile = None

    # ── for what may run nowhere else ─────────────────────────────────────────────────────────────────
    def shut(self, now_ns: int, held: int, load: Load | None, draining: bool, rng: Random) -> None:
        """It refused what may run nowhere else, or did not answer. Args: held: tasks of ours left there."""
        if self.turnstile is None:
            self.turnstile = Turnstile()
        self.turnstile.refused(now_ns, held, None if load is None else wait_s(load), draining, rng)

    def lets(self, now_ns: int, held: int, held_max: int) -> bool:
        """May one more of those who can run nowhere else go there now?"""
        if not self.up or held >= held_max:
            return False
        return self.turnstile is None or self.turnstile.lets(now_ns, held)

    def opened(self, now_ns: int, load: Load) -> bool:
        """Whether its load is a reason to let some of its outbox through."""
        if self.turnstile is None or not self.outbox:
            return False
        return self.turnstile.heard(now_ns, wait_s(load), load.draining)

    def opens_ns(self, now_ns: int) -> int | None:
        """When to come back for its outbox. None: something else will make us."""
        if self.turnstile is None or not self.up or self.turnstile.opens_ns <= now_ns:
            return None
        return self.turnstile.opens_ns

    def check(self) -> None:
        if self.turnstile is not None:
            self.turnstile.check()


def wait_s(load: Load) -> float:
    """The wait for a worker there, in its own words."""
    return max(0, load.backlog_ms + load.leased_ms) / 1e3 / max(1, load.workers)


def fits(task: Task, labels: dict[str, str], lacks: frozenset[str]) -> bool:
    """Whether a place with these labels, which lacks these modules, may run it."""
    if task.requires and lacks and not lacks.isdisjoint(task.requires):
        return False
    return all(labels.get(key) == value for key, value in task.labels.items())


def lacking(task: Task, labels: dict[str, str], lacks: frozenset[str]) -> list[str]:
    """What a place lacks for this task, as a person would say it."""
    return [
        *(name for name in task.requires if name in lacks),
        *(f"{key}={value}" for key, value in sorted(task.labels.items()) if labels.get(key) != value),
    ]
