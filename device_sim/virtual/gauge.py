"""Gauge: how much a focused play has really broken, and how fast it was made good.

    Play ─► injected, lives, attempts, messages ─► Figures: counts and samples

What is counted is what took effect, not what was drawn. Judging is the checkers' part: a figure breaks no
promise by itself. It may look into members, as no checker may: a length of a lease is on no wire.

    re-dispatch    a place dies with an attempt of another's task ─► the next attempt begins
    convergence    a partition is healed ─► everybody up is connected and sees everybody up
    sends          what streams sent, and sent again, for each message that was not given up
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from device_sim.virtual.evidence import (
    HEAL,
    Asked,
    Crashed,
    Event,
    Framed,
    Happened,
    Ran,
    Reached,
    Started,
    Told,
)
from device_sim.virtual.world import MS, SECOND

if TYPE_CHECKING:
    from device_sim.virtual.play import Play

SAMPLES_MAX: Final = 20_000
"""Of one play, by name."""
KEPT_MAX: Final = 1_000_000
"""Of a campaign, by name."""
PROBE_NS: Final = 50 * MS
CONVERGE_NS_MAX: Final = 30 * SECOND
"""Looked for no longer than this."""
WORKER_DEAD_NS: Final = 100 * MS
"""From the kill of a worker process until its pool has said so."""
NEVER: Final = -1e12


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Of one play, or of many."""

    counts: dict[str, int] = {}
    samples: dict[str, list[float]] = {}
    """Milliseconds, or shares; `NEVER`: it did not come about while somebody looked."""


class Gauge:
    """Args: play: before it runs.   focus: what it is focused on; empty: nothing beside what was injected."""

    def __init__(self, play: Play, focus: str) -> None:
        self._play = play
        self._focus = focus
        self._counts: Counter[str] = Counter()
        self._samples: dict[str, list[float]] = {}
        self._owners: dict[str, str] = {}
        self._waiting: dict[str, tuple[int, int, float]] = {}  # task -> attempt, when it died, its lease (ms)
        self._worker_kills: dict[str, int] = {}  # node -> when a worker of it was killed last
        self._healing: dict[str, int] = {}  # node -> when its partition was healed
        self._probing = False
        self._over = False
        self._numbers: dict[tuple[str, bytes], int] = {}  # of a sender's publications, and the newest of them
        self._newest: dict[str, tuple[int, int]] = {}  # sender -> numbers published, the largest that arrived
        self._overtaken = 0

    def saw(self, event: Event) -> None:
        kind = type(event)
        if kind is Framed or kind is Reached:
            if self._focus == "parcels":
                self._passed(event)
        elif kind is Asked:
            assert isinstance(event, Asked)
            self._owners[event.task] = event.node
        elif kind is Told:
            assert isinstance(event, Told)
            self._owners.pop(event.task, None)
            if self._waiting.pop(event.task, None) is not None:
                self._counts["ended without another attempt"] += 1
        elif kind is Ran:
            assert isinstance(event, Ran)
            self._ran(event)
        elif kind is Crashed:
            assert isinstance(event, Crashed)
            self._counts[f"died by {event.how}"] += 1
            for task in [task for task in self._waiting if self._owners.get(task) == event.node]:
                del self._waiting[task]  # its owner forgot what it knew: another story
                self._counts["owner died too"] += 1
            self._healing.pop(event.node, None)
        elif kind is Started:
            self._counts["started"] += 1
        elif kind is Happened:
            assert isinstance(event, Happened)
            self._happened(event)

    def _happened(self, event: Happened) -> None:
        if event.do == HEAL:
            self._over = True
            self._healing.clear()
        elif event.do == "kill-worker":
            self._worker_kills[event.node] = event.at_ns
        elif event.do == "partition":
            self._healing.pop(event.node, None)
        elif event.do == "heal-partition" and self._focus == "partition" and not self._over:
            self._healing[event.node] = event.at_ns
            if not self._probing:
                self._probing = True
                self._play.world.after(PROBE_NS, self._probe)

    # ── overtaking ────────────────────────────────────────────────────────────────────────────────

    def _passed(self, event: Event) -> None:
        if isinstance(event, Framed):
            published, arrived = self._newest.get(event.sender, (0, 0))
            self._numbers[event.sender, event.payload] = published + 1
            self._newest[event.sender] = (published + 1, arrived)
        elif isinstance(event, Reached):
            for sender in self._newest:
                number = self._numbers.get((sender, event.payload))
                if number is not None:
                    published, arrived = self._newest[sender]
                    self._newest[sender] = (published, max(arrived, number))
                    self._overtaken = max(self._overtaken, arrived - number)

    # ── re-dispatch ───────────────────────────────────────────────────────────────────────────────

    def _ran(self, event: Ran) -> None:
        waits = self._waiting.get(event.task)
        if waits is not None and event.attempt > waits[0] and event.started_ns >= waits[1]:
            del self._waiting[event.task]
            late_ms = (event.started_ns - waits[1]) / MS
            self._sample("re-dispatch ms", late_ms)
            self._sample("re-dispatch beyond its lease ms", late_ms - waits[2])
        killed = event.status == "killed"
        if not killed:
            at_ns = self._worker_kills.get(event.node)
            killed = at_ns is not None and event.status == "failed" and event.at_ns - at_ns < WORKER_DEAD_NS
        if not killed:
            return
        self._counts["attempts killed"] += 1
        owner = self._owners.get(event.task)
        machine = self._play.machines.get(owner) if owner is not None else None
        if machine is None or machine.process is None or owner == event.node:
            return
        lease = machine.process.node.desk._leases.of(event.task)
        if lease is not None and lease.attempt == event.attempt:
            self._waiting[event.task] = (event.attempt, event.at_ns, lease.length_ns / MS)

    # ── convergence ───────────────────────────────────────────────────────────────────────────────

    def _probe(self) -> None:
        now_ns = self._play.world.now_ns
        if self._healing:
            unsettled = self._unsettled()
            for node, since_ns in list(self._healing.items()):
                if node not in unsettled:
                    self._sample("convergence ms", (now_ns - since_ns) / MS)
                elif now_ns - since_ns > CONVERGE_NS_MAX:
                    self._sample("convergence ms", NEVER)
                else:
                    continue
                del self._healing[node]
        self._probing = bool(self._healing)
        if self._probing:
            self._play.world.after(PROBE_NS, self._probe)

    def _unsettled(self) -> dict[str, None]:
        """Nodes that are not connected, do not see somebody who is up and reachable, or are not seen."""
        found: dict[str, None] = {}
        cut = self._play.injector.cut
        for site in self._play.sites:
            shown = {node: machine.name for node, machine in site.machines.items()}
            if shown[site.broker_host] in cut:
                found.update(dict.fromkeys(shown.values()))
                continue
            there = {
                node: machine.process.node
                for node, machine in site.machines.items()
                if machine.process is not None and not machine.paused and machine.name not in cut
            }
            for node, member in there.items():
                up = dict.fromkeys(member.detector.up())
                unseen = [other for other in there if other != node and other not in up]
                if not member.link.up:
                    found[shown[node]] = None
                for other in unseen:
                    found[shown[node]] = found[shown[other]] = None
        return found

    # ── the end ───────────────────────────────────────────────────────────────────────────────────

    def _sample(self, name: str, value: float) -> None:
        held = self._samples.setdefault(name, [])
        if len(held) < SAMPLES_MAX:
            held.append(round(value, 3))

    def figures(self) -> Figures:
        counts = self._counts + self._play.injector.injected
        if self._waiting:
            counts["no other attempt at the end"] = len(self._waiting)
        if self._focus == "parcels":
            sent = again = given_up = 0
            for machine in self._play.machines.values():
                if machine.process is None:
                    continue
                for stream in machine.process.node.channels._streams.values():
                    sent += stream.counters.sent
                    again += stream.counters.resent
                    given_up += stream.counters.given_up
            self._sample("publications that overtook one", self._overtaken)
            counts |= Counter({"messages": sent, "sent again": again, "given up": given_up})
            if sent > given_up:
                self._sample("sends a message", (sent + again) / (sent - given_up))
        return Figures(counts=dict(sorted(counts.items())), samples=self._samples)


class Totals:
    """Figures of many plays together."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.samples: dict[str, list[float]] = {}

    def take(self, figures: Figures | None) -> None:
        if figures is None:
            return
        self.counts.update(figures.counts)
        for name, values in figures.samples.items():
            held = self.samples.setdefault(name, [])
            held += values[: max(0, KEPT_MAX - len(held))]

    def quantiles(self) -> dict[str, dict[str, float]]:
        """By name: how many came about, p50, p99 and the largest of them, and how many never did."""
        found = {}
        for name, values in sorted(self.samples.items()):
            came = sorted(value for value in values if value != NEVER)
            each: dict[str, float] = {"samples": len(came)}
            if came:
                each |= {"p50": _quantile(came, 0.5), "p99": _quantile(came, 0.99), "max": came[-1]}
            found[name] = each | {"never": len(values) - len(came)}
        return found


def _quantile(ascending: list[float], share: float) -> float:
    """The smallest that at least this share of them do not exceed."""
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]
