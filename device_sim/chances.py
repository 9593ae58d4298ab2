"""Chances: faults and outages that are drawn instead of listed.

    [rates]            so many an hour, for each node ─► ``drawn``: a timeline, possible by construction
    [links.NAME] up_s  stands, away, stands, away …   ─► ``outages``: spans of one node's link, lazily

What is drawn for one node and one kind depends on the seed and on these two names alone: one node or one rate
more moves nothing that the others have drawn. A fault that could not be done when its moment comes (its node
lies dead already) is left out, so a rate is of nodes that can still suffer it.

In: a scenario, a generator. Out: faults. Not here: when they are carried out (``faults``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from device_sim.faults import BROKER, GATEWAY, Fault

if TYPE_CHECKING:
    from random import Random

    from device_sim.scenario.tables import LinkTable, Scenario

SECOND: Final = 1_000_000_000
STEP_S_MAX: Final = 1e9
"""Of a clock, as a listed fault may: ``faults.Fault.by_s``."""
DRAWN_MAX: Final = 100_000
"""Of one run: each is an entry of its report. What comes later is left out."""


class _Kind(NamedTuple):
    do: str
    about: str
    """Of the member: "life", "network", "disk", …; spans of one subject do not overlap."""
    lasts: str = ""
    """The field of its mean length."""
    ends: str = ""
    """What is done then; empty: it ends by itself at until_s."""


_NODES: Final = {
    "kill": _Kind("kill", "life", "dead_s", "restart"),
    "power_cut": _Kind("power-cut", "life", "dead_s", "restart"),
    "pause": _Kind("pause", "life", "paused_s", "resume"),
    "partition": _Kind("partition", "network", "cut_s", "heal-partition"),
    "disk_full": _Kind("disk-full", "disk", "full_s", "disk-free"),
    "disk_error": _Kind("disk-error", "life"),
    "disk_flip": _Kind("disk-flip", "any"),
    "clock_step": _Kind("clock-step", "life"),
    "slow": _Kind("slow", "slow", "slow_s"),
    "kill_worker": _Kind("kill-worker", "life"),
    "restore_tables": _Kind("restore-tables", "any"),
}
_HOUSE: Final = {
    "broker_kill": _Kind("kill-broker", "life"),
    "broker_wipe": _Kind("wipe-broker", "life"),
    "gateway_kill": _Kind("kill-gateway", "life", "gateway_dead_s", "restart-gateway"),
    "gateway_power_cut": _Kind("power-cut-gateway", "life", "gateway_dead_s", "restart-gateway"),
}
_LIFE: Final = {
    "kill": "restart", "power-cut": "restart", "pause": "resume",
    "kill-gateway": "restart-gateway", "power-cut-gateway": "restart-gateway",
}  # fmt: skip
_ABOUT: Final = {
    "partition": "network", "heal-partition": "network", "disk-full": "disk", "disk-free": "disk",
    "slow": "slow", "degrade": "link", "disk-flip": "any", "crash-at": "any",
    "restore-tables": "any",
}  # fmt: skip


def drawn(scenario: Scenario, rng: Random) -> tuple[Fault, ...]:
    """What ``[rates]`` add to the listed faults, by time; all has ended when everything is made good.

    ``scenario.timeline() + drawn(scenario, rng)`` can be done (``faults.impossible`` finds nothing in it).
    """
    rates, heal_s = scenario.rates, scenario.healed_s
    if not rates.any:
        return ()
    base = rng.getrandbits(64)
    candidates: list[tuple[float, str, float, _Kind, Fault, Fault | None]] = []
    members = [(name, _NODES) for name in scenario.nodes]
    for member, kinds in [*members, (GATEWAY, _HOUSE)]:
        for key, kind in kinds.items():
            if rate := getattr(rates, key):
                stream = _stream(rng, f"{base}/{member}/{key}")
                candidates += _of_member(member, kind, rate / 3600, rates, heal_s, stream)
                if len(candidates) > 4 * DRAWN_MAX:  # keep the earliest
                    candidates = sorted(candidates, key=_moment)[:DRAWN_MAX]
    taken = _Taken(scenario)
    found: list[Fault] = []
    for at_s, member, until_s, kind, fault, end in sorted(candidates, key=_moment):
        if len(found) < DRAWN_MAX and taken.take(member, kind, at_s, until_s):
            found.append(fault)
            if end is not None:
                found.append(end)
    found.sort(key=lambda each: each.at_s)
    return tuple(found)


def outages(link: LinkTable, rng: Random, duration_ns: int) -> Iterator[tuple[int, int]]:
    """Spans (from, until; nanoseconds) in which an intermittent link is away, ascending and apart.

    Both lengths are exponential (a Gilbert–Elliott channel whose bad state loses everything: E. N. Gilbert,
    "Capacity of a Burst-Noise Channel", BSTJ 39(5), 1960). It stands at the begin.
    """
    if not link.up_s or not link.down_s:
        return
    at_ns = 0
    while True:
        from_ns = at_ns + max(1, round(rng.expovariate(1 / link.up_s) * SECOND))
        if from_ns >= duration_ns:
            return
        at_ns = from_ns + max(1, round(rng.expovariate(1 / link.down_s) * SECOND))
        yield from_ns, min(at_ns, duration_ns)


def _stream(rng: Random, name: str) -> Random:
    # A generator's own class: a core imports no source of chance. A text as seed goes through SHA-512.
    return type(rng)(name)


def _moment(candidate: tuple[float, str, float, _Kind, Fault, Fault | None]) -> tuple[float, str, str]:
    return candidate[0], candidate[1], candidate[3].do


def _of_member(
    member: str, kind: _Kind, rate_hz: float, rates: Any, heal_s: float, rng: Random
) -> Iterator[tuple[float, str, float, _Kind, Fault, Fault | None]]:
    at_s = 0.0
    node = "" if member == GATEWAY else member
    while True:
        at_s += rng.expovariate(rate_hz)
        if at_s >= heal_s:
            return
        until_s = min(heal_s, at_s + rng.expovariate(1 / getattr(rates, kind.lasts))) if kind.lasts else at_s
        more: dict[str, Any] = {}
        if kind.do == "clock-step":
            more["by_s"] = rng.choice((-1, 1)) * min(
                STEP_S_MAX, max(0.001, rng.expovariate(1 / rates.step_s))
            )
        elif kind.do == "slow":
            more |= {"until_s": until_s, "factor": rates.slow_factor}
        elif kind.do == "restore-tables":
            more["back_s"] = min(86400.0, max(0.001, rng.expovariate(1 / rates.back_s)))
        elif kind.do == "partition":
            more["direction"] = rng.choice(("both", "both", "to", "from"))
        if kind.lasts and until_s <= at_s:
            continue
        fault = Fault(at_s=at_s, do=kind.do, node=node, **more)  # type: ignore[arg-type]
        end = Fault(at_s=until_s, do=kind.ends, node=node) if kind.ends else None  # type: ignore[arg-type]
        yield at_s, member, until_s, kind, fault, end


class _Taken:
    """What is happening to whom already: spans by (member, subject)."""

    def __init__(self, scenario: Scenario) -> None:
        self._spans: dict[tuple[str, str], list[tuple[float, float]]] = {}
        listed = sorted(scenario.timeline(), key=lambda each: each.at_s)
        by_member: dict[str, list[Fault]] = {}
        for fault in listed:
            by_member.setdefault(fault.member, []).append(fault)
        for number, fault in (each for faults in by_member.values() for each in enumerate(faults)):
            if fault.member == BROKER:  # the gateway starts it again, so it must be there
                self._add(GATEWAY, "life", fault.at_s, fault.at_s)
                continue
            about = _ABOUT.get(fault.do, "life")
            # What waits for its moment is done up to open_wait_s later, and holds up what comes after it.
            end_s = fault.at_s + (fault.open_wait_s if fault.open_min else 0.0)
            if fault.do == "revoke":
                end_s = float("inf")
                for each in ("network", "disk", "slow", "any"):
                    self._add(fault.member, each, fault.at_s, end_s)
                self._add(GATEWAY, "life", fault.at_s, fault.at_s)  # it must be there to do it
            elif fault.until_s is not None:
                end_s = fault.until_s
            elif fault.do in _LIFE or fault.do in ("partition", "disk-full"):
                beside = "heal-partition" if about == "network" else "disk-free"
                ends = {_LIFE.get(fault.do, beside), "revoke"}
                after = by_member[fault.member][number + 1 :]
                end_s = next((each.at_s for each in after if each.do in ends), float("inf"))
            self._add(fault.member, about, fault.at_s, end_s)

    def take(self, member: str, kind: _Kind, from_s: float, until_s: float) -> bool:
        """False: something else is in the way."""
        if kind.about == "any":  # a moment, also of a machine that lies dead; only not of a revoked one
            return not self._overlaps(member, "any", from_s, until_s)
        if self._overlaps(member, kind.about, from_s, until_s):
            return False
        if kind.about == "slow" and self._overlaps(member, "life", from_s, from_s):
            return False  # it must run to be slowed
        self._add(member, kind.about, from_s, until_s)
        return True

    def _overlaps(self, member: str, about: str, from_s: float, until_s: float) -> bool:
        spans = self._spans.get((member, about), ())
        return any(begun <= until_s and from_s <= ended for begun, ended in spans)

    def _add(self, member: str, about: str, from_s: float, until_s: float) -> None:
        self._spans.setdefault((member, about), []).append((from_s, until_s))
