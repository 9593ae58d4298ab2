"""The trusted clock: the gateway's, or the median of at least three members'.

    heard(peer, sent_at_ms of its beat) ─► offset_ms() = trusted wall clock − ours; None: there is none

A beat is as late as its way was long, and tells the time of when it was sent: that is far below the minute by
which clocks are judged. What was heard counts for five minutes. Ours is one of the three.

Kept against the monotonic clock, so that a step of our own wall clock is seen at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edge_node.wire.ids import GATEWAY

COUNTS_NS: Final = 300 * 1_000_000_000
MEMBERS_MIN: Final = 3
PEERS_MAX: Final = 64
"""More would not make the median better; the gateway needs none."""


class TrustedClock:
    def __init__(self, me: str) -> None:
        self._me = me
        self._heard: dict[str, tuple[int, int]] = {}  # peer -> (when, its wall clock minus our monotonic, ms)

    def heard(self, now_ns: int, peer: str, at_ms: int) -> None:
        """Args: at_ms: when *peer* sent it, by its wall clock; 0: it did not say."""
        if at_ms <= 0 or self._me == GATEWAY:
            return
        self._heard.pop(peer, None)
        while len(self._heard) >= PEERS_MAX:
            oldest = next(name for name in self._heard if name != GATEWAY)
            del self._heard[oldest]
        self._heard[peer] = now_ns, at_ms - now_ns // 1_000_000

    def forget(self, is_member: Callable[[str], bool]) -> None:
        """Who is shut out has no say."""
        for peer in [peer for peer in self._heard if not is_member(peer)]:
            del self._heard[peer]

    def source(self, now_ns: int) -> tuple[str, int]:
        """("gateway" | "median" | "none", how many clocks stand behind it)."""
        if self._me == GATEWAY:
            return "gateway", 1
        fresh = self._fresh(now_ns)
        if GATEWAY in fresh:
            return "gateway", 1
        count = len(fresh) + 1
        return ("median", count) if count >= MEMBERS_MIN else ("none", count)

    def offset_ms(self, now_ns: int, wall_ms: int) -> int | None:
        """The trusted clock minus ours; None: nobody is there to tell."""
        kind, _ = self.source(now_ns)
        if self._me == GATEWAY:
            return 0
        if kind == "none":
            return None
        fresh = self._fresh(now_ns)
        mine = wall_ms - now_ns // 1_000_000
        if kind == "gateway":
            return fresh[GATEWAY] - mine
        ordered = sorted([*fresh.values(), mine])
        return ordered[(len(ordered) - 1) // 2] - mine

    def _fresh(self, now_ns: int) -> dict[str, int]:
        return {peer: offset for peer, (at_ns, offset) in self._heard.items() if now_ns - at_ns <= COUNTS_NS}
