"""Estimates: how long a function takes at a place, how long one waits there. Seconds, O(1) each.

Service: Jacobson's mean and deviation per (function, place) and per (function, class of place). A class is a
speed, rounded to a quarter octave, and the roster's label `class`. Until a place has shown enough, its class
counts as five observations; until the class has, the fleet's mean work divided by the place's speed does.
They outlive a restart as plain bytes (`dump`, `load`): what a function costs is learned once.
Wait: what the place last said, minus what it must have worked off since, plus what we sent that it cannot
have counted; the older the news, the more it is drawn to the fleet's mean, and after one second only the
mean is left (freshness matters more than cleverness: a policy by plain heartbeats herds).

Not here: what is done with the figures (`placement`, `admission`).
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from security.errors import BadInput

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
SETTLED_AFTER = 64
"""Runs at a place after which its class says nothing more: it would weigh less than a tenth."""
CLASSES_MAX = 64
"""Classes of one function; speeds come from peers."""
DUMP_BYTES_MAX = 64 * 1024
DUMP_PLACES_MAX = 16
"""Places of one function that are written down; the class stands for the others."""
DUMP_VERSION = 1
SPEED_MIN = 1e-6
SPEED_MAX = 1e6
"""A peer may say any speed; what is divided or multiplied by one within these stays a finite number."""
STALE_S = 1.0
SECOND_HAND_NS = 500_000_000
"""Beats of a second, gathered once a second: news that was passed on is half a second old on average."""
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


class Learned(NamedTuple):
    """What was seen of a function at a place: how often, the seconds it takes there, their mean deviation."""

    function: str
    place: str
    runs: int
    mean_s: float
    deviation_s: float


class _Function:
    __slots__ = ("at", "classes", "output_bytes", "work")

    def __init__(self) -> None:
        self.work = Stat()  # seconds at speed 1, fleet-wide
        self.output_bytes = 0.0
        self.classes: dict[str, Stat] = {}
        self.at: dict[str, Stat] = {}


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """One function in a dump: (n, mean, deviation) of its work, its classes and some of its places."""

    name: str
    work: tuple[int, float, float]
    output_bytes: float
    classes: dict[str, tuple[int, float, float]]
    at: dict[str, tuple[int, float, float]]


def class_of(speed: float, label: str = "") -> str:
    """The class of a place: its speed to a quarter octave (19 % a step), and its label if it has one."""
    octave = round(4.0 * math.log2(speed)) if SPEED_MIN < speed < SPEED_MAX else 0
    return f"{octave} {label}" if label else str(octave)


def sound_speed(told: float) -> float:
    """A speed that a peer told, if it can be reckoned with; else that of the reference board."""
    return told if SPEED_MIN < told < SPEED_MAX else 1.0


class Estimates:
    def __init__(self) -> None:
        self._functions: OrderedDict[str, _Function] = OrderedDict()

    def observe(
        self, function: str, place: str, run_s: float, speed: float, output_bytes: int, kind: str = ""
    ) -> None:
        """A run took `run_s` seconds at `place`. `kind`: its class (`class_of`), if the caller knows it."""
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
        if at.n > SETTLED_AFTER and at.n % 8:
            return  # the hot path: its class has learned what there is to learn from it, but for drift
        kind = kind or class_of(speed)
        alike = known.classes.get(kind)
        if alike is None:
            if len(known.classes) >= CLASSES_MAX:
                del known.classes[next(iter(known.classes))]
            alike = known.classes[kind] = Stat()
        alike.observe(run_s)

    def service(self, function: str, place: str, speed: float, kind: str = "") -> tuple[float, float]:
        """(S, e): expected seconds on a worker of that place, and their mean deviation.

        S = (n·m + 5·prior) / (n + 5), placement.md, cold start; the prior of a place is its class's S, that
        of a class is the fleet's work over the place's speed.
        """
        known = self._functions.get(function)
        if known is None:
            return SERVICE_S_DEFAULT, SERVICE_S_DEFAULT / 2
        prior = known.work.m / speed
        at = known.at.get(place)
        if at is None or at.n < SETTLED_AFTER:
            alike = known.classes.get(kind or class_of(speed))
            if alike is not None:
                n = alike.n
                prior = (n * alike.m + PRIOR_WEIGHT * prior) / (n + PRIOR_WEIGHT)
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

    def learned(self, functions_max: int = 64, places_max: int = 32) -> list[Learned]:
        """What was observed itself, of the functions observed last, and of the places added last."""
        return [
            Learned(name, place, stat.n, stat.m, stat.e)
            for name, known in islice(reversed(self._functions.items()), functions_max)
            for place, stat in islice(reversed(known.at.items()), places_max)
        ]

    # ── over a restart ────────────────────────────────────────────────────────────────────────────────
    def dump(self) -> bytes:
        """Everything worth keeping in at most 64 KiB, the functions observed last first."""
        encode = msgspec.msgpack.encode
        parts = [encode(DUMP_VERSION)]
        size = len(parts[0])
        for name, known in reversed(self._functions.items()):
            places = list(known.at.items())[-DUMP_PLACES_MAX:]
            part = encode(
                _Kept(
                    name, _figures(known.work), known.output_bytes,
                    {kind: _figures(stat) for kind, stat in known.classes.items()},
                    {place: _figures(stat) for place, stat in places},
                )
            )  # fmt: skip
            if size + 5 + len(part) > DUMP_BYTES_MAX:
                break
            parts.append(len(part).to_bytes(4, "big") + part)
            size += 4 + len(part)
        return b"".join(parts)

    def load(self, data: bytes) -> int:
        """Take up a dump; what was observed since stays. Returns: how many functions were learned from it.

        Raises: BadInput: it is no dump, or a damaged one; nothing has been taken from it then.
        """
        found: list[_Kept] = []
        if data[:1] != msgspec.msgpack.encode(DUMP_VERSION) or len(data) > DUMP_BYTES_MAX:
            raise BadInput("the kept estimates are not of this version", fix="they are learned anew; go on")
        offset = 1
        try:
            while offset < len(data):
                size = int.from_bytes(data[offset : offset + 4], "big")
                part = data[offset + 4 : offset + 4 + size]
                offset += 4 + size
                kept = msgspec.msgpack.decode(part, type=_Kept)
                figures = [kept.work, *kept.classes.values(), *kept.at.values()]
                if not all(_sound(figure) for figure in figures) or not 0.0 <= kept.output_bytes < 1e12:
                    raise ValueError("figures")
                if len(kept.classes) > CLASSES_MAX or len(kept.at) > DUMP_PLACES_MAX:
                    raise ValueError("too many")
                found.append(kept)
        except (msgspec.MsgspecError, ValueError, UnicodeDecodeError, RecursionError):
            raise BadInput("the kept estimates are damaged", fix="they are learned anew; go on") from None
        taken = 0
        for kept in found:  # the newest first: they end up at the young end, in their old order
            if kept.name in self._functions or len(self._functions) >= FUNCTIONS_MAX:
                continue
            known = _Function()
            known.work = _stat(kept.work)
            known.output_bytes = kept.output_bytes
            known.classes = {kind: _stat(figures) for kind, figures in kept.classes.items()}
            known.at = {place: _stat(figures) for place, figures in kept.at.items()}
            self._functions[kept.name] = known
            self._functions.move_to_end(kept.name, last=False)
            taken += 1
        return taken

    def check(self) -> None:
        """Invariants; raises AssertionError."""
        assert len(self._functions) <= FUNCTIONS_MAX
        for known in self._functions.values():
            assert len(known.at) <= FUNCTIONS_MAX and len(known.classes) <= CLASSES_MAX
            assert all(_sound(_figures(s)) for s in (known.work, *known.at.values(), *known.classes.values()))


def _figures(stat: Stat) -> tuple[int, float, float]:
    return stat.n, stat.m, stat.e


def _stat(figures: tuple[int, float, float]) -> Stat:
    stat = Stat()
    stat.n, stat.m, stat.e = figures
    return stat


def _sound(figures: tuple[int, float, float]) -> bool:
    n, m, e = figures
    return 0 <= n < 2**53 and 0.0 <= m <= 1e12 and 0.0 <= e <= 1e12


class FleetWait:
    """The mean wait over everyone we hear of: what is believed about a place that has not been heard."""

    __slots__ = ("mean_s",)

    def __init__(self) -> None:
        self.mean_s = 0.0

    def observe(self, wait_s: float) -> None:
        self.mean_s += (wait_s - self.mean_s) / 16


class PeerWait:
    """The wait at one peer, from its own words and from what we sent it since."""

    __slots__ = (
        "_backlog_s", "_heard_ns", "_own_ns", "_unseen", "dev_s", "draining", "rtt_s", "speed", "unseen_s",
        "workers",
    )  # fmt: skip

    def __init__(self, rtt_s: float) -> None:
        self.rtt_s = rtt_s
        self.dev_s = 0.0
        self.workers = 1
        self.speed = 1.0
        self.draining = False
        self._backlog_s = 0.0
        self._heard_ns: int | None = None
        self._own_ns: int | None = None  # the last word that was its own
        self.unseen_s = 0.0  # work of offers that its last word cannot have counted
        self._unseen: deque[tuple[int, float]] | None = None  # most of a large fleet never get any

    def heard(self, now_ns: int, load: Load, fleet: FleetWait) -> None:
        self.workers = max(1, load.workers)
        self.speed = sound_speed(load.speed)
        self.draining = load.draining
        self._backlog_s = max(0, load.backlog_ms + load.leased_ms) / 1e3
        self._heard_ns = self._own_ns = now_ns
        self._settle(now_ns - int(self.rtt_s * 1e9))
        fleet.observe(self._backlog_s / self.workers)

    def told(self, now_ns: int, wait_s: float, workers: int, speed: float) -> bool:
        """Second-hand, so older than it looks; what we heard ourselves within a second is better.

        Returns: whether it was news.
        """
        if self._own_ns is not None and now_ns - self._own_ns < int(1e9 * STALE_S):
            return False
        self.workers = max(1, workers)
        self.speed = sound_speed(speed)
        self._backlog_s = max(0.0, wait_s) * self.workers
        self._heard_ns = now_ns - SECOND_HAND_NS
        return True

    def fresh(self, now_ns: int) -> bool:
        """Whether anything was said of it, by whomever, that still counts."""
        return self._heard_ns is not None and now_ns - self._heard_ns < int(1e9 * STALE_S)

    def granted(self, now_ns: int, service_s: float) -> None:
        self.unseen_s += service_s
        if self._unseen is None:
            self._unseen = deque()
        self._unseen.append((now_ns, service_s))

    def _settle(self, before_ns: int) -> None:
        unseen = self._unseen
        if unseen is None:
            return
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
                fresh = self._backlog_s / self.workers
                if age_s > 1e-3:
                    # rho from the fleet as one M/M/1: L = wait/S, 1/(1 - rho) = 1 + L. What it works off
                    # in a second it is sent again by others, but for 1 - rho of it.
                    load = 1.0 + fleet.mean_s / service_s
                    fresh = max(0.0, fresh - age_s / load)
                    tau = min(TAU_S_MAX, max(service_s, 0.05) * load * load)
                    weight = math.exp(-age_s / tau)
                    told = fresh * weight + fleet.mean_s * (1.0 - weight)
                else:
                    told = fresh
        return told + self.unseen_s / self.workers
