"""Estimates: how long a function takes at a place, how long one waits there. Seconds, O(1) each.

Service: Jacobson's mean and deviation per (function, place); until a place has shown enough, the fleet's
mean work for that function divided by the place's speed counts as five observations.
Wait: what the place last said, minus what it must have worked off since, plus what we sent that it cannot
have counted; the older the news, the more it is drawn to the fleet's mean, and after one second only the
mean is left (freshness matters more than cleverness: a policy by plain heartbeats herds).

Not here: what is done with the figures (`placement`, `admission`).
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_node.wire.messages import Load

FUNCTIONS_MAX = 1024
"""Functions remembered, least recently observed out: names come from peers' offers too."""
SERVICE_S_DEFAULT = 0.02
"""Nobody has seen it run."""
SERVICE_S_MIN = 1e-4
"""Handing a call to a worker costs that much, however little it does."""
RUN_S_MAX = 86_400.0
"""A peer may say anything; beyond a day it is taken for a day."""
PRIOR_WEIGHT = 5.0
STALE_S = 1.0
TAU_S_MAX = 2.0


class Stat:
    """Jacobson 1988: err = x - m; m += err/8; e += (|err| - e)/4."""

    __slots__ = ("e", "m", "n")

    def __init__(self) -> None:
        self.n = 0
        self.m = 0.0
        self.e = 0.0

    def observe(self, x: float) -> None:
        if self.n == 0:
            self.m = x
            self.e = x / 2
        else:
            err = x - self.m
            self.m += err / 8
            self.e += (abs(err) - self.e) / 4
        self.n += 1


class _Function:
    __slots__ = ("at", "output_bytes", "work")

    def __init__(self) -> None:
        self.work = Stat()  # seconds at speed 1, fleet-wide
        self.output_bytes = 0.0
        self.at: dict[str, Stat] = {}


class Estimates:
    def __init__(self) -> None:
        self._functions: OrderedDict[str, _Function] = OrderedDict()

    def observe(self, function: str, place: str, run_s: float, speed: float, output_bytes: int) -> None:
        run_s = min(max(run_s, 0.0), RUN_S_MAX)
        known = self._functions.get(function)
        if known is None:
            known = self._functions[function] = _Function()
            if len(self._functions) > FUNCTIONS_MAX:
                self._functions.popitem(last=False)
        else:
            self._functions.move_to_end(function)
        if known.work.n == 0:
            known.output_bytes = float(output_bytes)
        else:
            known.output_bytes += (output_bytes - known.output_bytes) / 8
        known.work.observe(run_s * speed)
        at = known.at.get(place)
        if at is None:
            if len(known.at) >= FUNCTIONS_MAX:
                del known.at[next(iter(known.at))]
            at = known.at[place] = Stat()
        at.observe(run_s)

    def service(self, function: str, place: str, speed: float) -> tuple[float, float]:
        """(S, e): expected seconds on a worker of that place, and their mean deviation.

        S = (n·m + 5·w/v) / (n + 5): placement.md, cold start.
        """
        known = self._functions.get(function)
        if known is None:
            return SERVICE_S_DEFAULT, SERVICE_S_DEFAULT / 2
        prior = known.work.m / speed
        at = known.at.get(place)
        if at is None:
            return max(SERVICE_S_MIN, prior), known.work.e / speed + prior / 4
        n = at.n
        s = (n * at.m + PRIOR_WEIGHT * prior) / (n + PRIOR_WEIGHT)
        return (s if s > SERVICE_S_MIN else SERVICE_S_MIN), at.e

    def seen(self, function: str) -> bool:
        return function in self._functions

    def output_bytes(self, function: str) -> float:
        known = self._functions.get(function)
        return known.output_bytes if known is not None else 0.0


class FleetWait:
    """The mean wait over everyone we hear of: what is believed about a place that has not been heard."""

    __slots__ = ("mean_s",)

    def __init__(self) -> None:
        self.mean_s = 0.0

    def observe(self, wait_s: float) -> None:
        self.mean_s += (wait_s - self.mean_s) / 16


class PeerWait:
    """The wait at one peer, from its own words and from what we sent it since."""

    __slots__ = ("_backlog_s", "_heard_ns", "_unseen", "draining", "rtt_s", "speed", "unseen_s", "workers")

    def __init__(self, rtt_s: float) -> None:
        self.rtt_s = rtt_s
        self.workers = 1
        self.speed = 1.0
        self.draining = False
        self._backlog_s = 0.0
        self._heard_ns: int | None = None
        self.unseen_s = 0.0  # work of offers that its last word cannot have counted
        self._unseen: deque[tuple[int, float]] = deque()

    def heard(self, now_ns: int, load: Load, fleet: FleetWait) -> None:
        self.workers = max(1, load.workers)
        self.speed = load.speed if 0.0 < load.speed < 1e6 else 1.0
        self.draining = load.draining
        self._backlog_s = max(0, load.backlog_ms + load.leased_ms) / 1e3
        self._heard_ns = now_ns
        self._settle(now_ns - int(self.rtt_s * 1e9))
        fleet.observe(self._backlog_s / self.workers)

    def granted(self, now_ns: int, service_s: float) -> None:
        self.unseen_s += service_s
        self._unseen.append((now_ns, service_s))

    def _settle(self, before_ns: int) -> None:
        unseen = self._unseen
        while unseen and unseen[0][0] <= before_ns:
            self.unseen_s -= unseen.popleft()[1]
        if not unseen:
            self.unseen_s = 0.0

    def wait_s(self, now_ns: int, service_s: float, fleet: FleetWait) -> float:
        self._settle(now_ns - 1_000_000_000)
        told = fleet.mean_s
        if self._heard_ns is not None:
            age_s = (now_ns - self._heard_ns) / 1e9
            if age_s < STALE_S:
                fresh = self._backlog_s / self.workers - age_s
                fresh = max(fresh, 0.0)
                if age_s > 1e-3:
                    # rho from the fleet as one M/M/1: L = wait/S, 1/(1 - rho) = 1 + L.
                    load = 1.0 + fleet.mean_s / service_s
                    tau = min(TAU_S_MAX, max(service_s, 0.05) * load * load)
                    weight = math.exp(-age_s / tau)
                    told = fresh * weight + fleet.mean_s * (1.0 - weight)
                else:
                    told = fresh
        return told + self.unseen_s / self.workers
