"""Where a task runs: local first; elsewhere when that finishes it sooner, in time, and we can say why.

A pure function over candidates whose figures are in seconds. C = wait + service + transfer; the score adds
the expected loss of missing the deadline, w_D·Φ((C − left)/σ). Constraints (labels, requirements, `where`)
have been applied before: what comes in here may be chosen. See placement.md steps 1–4; the energy and price
terms of the score are not there yet.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

LOCAL_MARGIN = 1.1
HYSTERESIS_S = 1e-3
TIE = 1.05
DEADLINE_WEIGHT = 10.0
BANDWIDTH_BYTES_S = 10e6
"""Assumed until measured: a 100 Mbit/s link with something else on it."""
BROKER_HOP_S = 1e-3
TOLD_MAX = 4
"""Places whose figures are written down with a result: sixteen would be most of a small task."""


class Candidate(msgspec.Struct, frozen=True):
    """One place and what it would cost there, in seconds."""

    place: str
    wait_s: float
    service_s: float
    transfer_s: float = 0.0
    sigma_s: float = 0.0
    rtt_s: float = 0.0  # 0: here

    @property
    def completion_s(self) -> float:
        return self.wait_s + self.service_s + self.transfer_s


class Way(NamedTuple):
    """What is known of the way to a place."""

    rtt_s: float | None = None  # the round trip, smoothed, and its mean deviation; None: not measured yet
    dev_s: float = 0.0
    queued: int = 0  # bytes that leave our line before what is sent now
    bytes_s: float | None = None  # what our line was seen to carry; None: all that it was asked to


class Why(msgspec.Struct, frozen=True):
    """The figures a choice was made by, kept with the task."""

    chosen: str
    rule: str  # "only place" | "nothing waits here" | "local is as good" | "soonest"
    candidates: tuple[Candidate, ...]

    def text(self) -> str:
        """For people, and for the ledger: the chosen place and the best of the others."""
        first = sorted(self.candidates, key=lambda c: (c.place != self.chosen, c.completion_s))
        figures = ", ".join(
            f"{c.place} {1e3 * c.completion_s:.1f} ms (wait {1e3 * c.wait_s:.1f}, "
            f"run {1e3 * c.service_s:.1f}, way {1e3 * c.transfer_s:.1f})"
            for c in first[:TOLD_MAX]
        )
        more = len(first) - TOLD_MAX
        return f"{self.chosen}: {self.rule}; {figures}" + (f", and {more} more" if more > 0 else "")


def transfer_s(
    rtt_s: float, bytes_in: float, bytes_out: float, queued: int = 0, bytes_s: float | None = None
) -> float:
    """The way there and back.

    Args: queued: bytes that leave our line before it.   bytes_s: what our line was seen to carry, if it was.
    """
    if bytes_s is None:
        return rtt_s + (bytes_in + bytes_out) / BANDWIDTH_BYTES_S + BROKER_HOP_S
    return rtt_s + (queued + bytes_in) / bytes_s + bytes_out / BANDWIDTH_BYTES_S + BROKER_HOP_S


def sigma_s(service_e_s: float, wait_s: float, rtt_s: float, dev_s: float = 0.0) -> float:
    """σ² = e_f² + (W/2)² + e_rtt², with e_rtt half the round trip, or its deviation if that is more."""
    e_rtt_s = max(0.5 * rtt_s, dev_s)
    return math.sqrt(service_e_s * service_e_s + 0.25 * wait_s * wait_s + e_rtt_s * e_rtt_s)


def late_probability(candidate: Candidate, left_s: float) -> float:
    """Φ((C − left)/σ)"""
    over = candidate.completion_s - left_s
    sigma = candidate.sigma_s
    if sigma <= 0.0:
        return 1.0 if over > 0.0 else 0.0
    return 0.5 * (1.0 + math.erf(over / (sigma * math.sqrt(2.0))))


def score(candidate: Candidate, left_s: float | None) -> float:
    completion = candidate.wait_s + candidate.service_s + candidate.transfer_s
    if left_s is None:
        return completion
    return completion + DEADLINE_WEIGHT * candidate.service_s * late_probability(candidate, left_s)


def choose(candidates: Sequence[Candidate], here: str, left_s: float | None, rng: Random) -> Why:
    """The place for one task.

    Args:
        candidates: at least one; the order does not matter but for the random draw among ties.
        here: our own name, if it is among them.   left_s: what is left of the deadline, or None.
    """
    assert candidates, "nothing to choose from"
    if len(candidates) == 1:
        return Why(candidates[0].place, "only place", tuple(candidates))
    scored = [(score(candidate, left_s), candidate) for candidate in candidates]
    best_score, best = min(scored, key=lambda pair: pair[0])
    for local_score, local in scored:
        if local.place != here:
            continue
        away_s = best.service_s + best.rtt_s
        in_time = left_s is None or local.completion_s <= left_s
        if local.wait_s <= 0.0 and local.service_s <= LOCAL_MARGIN * away_s and in_time:
            return Why(here, "nothing waits here", tuple(candidates))
        if local_score <= LOCAL_MARGIN * best_score + min(HYSTERESIS_S, best.rtt_s / 4):
            return Why(here, "local is as good", tuple(candidates))
        break
    near = [candidate for found, candidate in scored if found <= TIE * best_score]
    chosen = best if len(near) == 1 else near[int(rng.random() * len(near))]
    return Why(chosen.place, "soonest", tuple(candidates))
