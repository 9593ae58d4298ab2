"""Allowance: how many entries a kind of event may cause; a flood costs a line that counts it, not the disk.

    bucket of the kind ─┬─ of everybody ──► noted, or counted as left out
                        └─ of one peer  ──►

What peers can cause has a bucket for each of them beside the one for all, so that who floods us hides itself
and nobody else.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

SECOND = 1_000_000_000
PEERS_MAX = 64
"""Peers whose buckets are remembered; who was forgotten begins anew, and the kind's holds anyway."""


class Rate(NamedTuple):
    """Entries a second in the long run, and at once."""

    per_s: float
    burst: int


class _Bucket:
    __slots__ = ("at_ns", "left")

    def __init__(self, now_ns: int, burst: int) -> None:
        self.at_ns = now_ns
        self.left = float(burst)

    def filled(self, now_ns: int, rate: Rate) -> float:
        self.left = min(rate.burst, self.left + (now_ns - self.at_ns) / SECOND * rate.per_s)
        self.at_ns = now_ns
        return self.left


class Allowance:
    """Of one kind of event."""

    def __init__(self, rate: Rate, each: Rate | None = None) -> None:
        self._rate = rate
        self._each = each
        self._all: _Bucket | None = None
        self._peers: OrderedDict[str, _Bucket] = OrderedDict()
        self.left_out = 0
        self.since_ms = 0
        self._open = True

    def take(self, now_ns: int, wall_ms: int, peer: str = "") -> bool:
        """May one more be noted? If not, it is counted."""
        if self._all is None:
            self._all = _Bucket(now_ns, self._rate.burst)
        own = self._bucket(now_ns, peer) if peer and self._each is not None else None
        enough = self._all.filled(now_ns, self._rate) >= 1.0
        if own is not None and self._each is not None:
            enough = own.filled(now_ns, self._each) >= 1.0 and enough
        self._open = enough
        if not enough:
            self.since_ms = self.since_ms or wall_ms
            self.left_out += 1
            return False
        self._all.left -= 1.0
        if own is not None:
            own.left -= 1.0
        return True

    @property
    def open(self) -> bool:
        """The last that asked may be noted: a flood has ended, or paused."""
        return self._open

    def told(self) -> tuple[int, int]:
        """(how many were left out, since when), once."""
        found = self.left_out, self.since_ms
        self.left_out = self.since_ms = 0
        return found

    def _bucket(self, now_ns: int, peer: str) -> _Bucket:
        assert self._each is not None
        bucket = self._peers.get(peer)
        if bucket is None:
            bucket = self._peers[peer] = _Bucket(now_ns, self._each.burst)
            if len(self._peers) > PEERS_MAX:
                self._peers.popitem(last=False)
        else:
            self._peers.move_to_end(peer)
        return bucket

    def check(self) -> None:
        assert len(self._peers) <= PEERS_MAX
        assert (self.left_out == 0) == (self.since_ms == 0)
