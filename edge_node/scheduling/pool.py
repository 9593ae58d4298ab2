"""The probe pool: a small random sample of the fleet, each entry fresh, each used up quickly.

    Look ──► Pong ─┐                        ┌─► a candidate for at most two tasks, for at most a second
    loads on every ├─► heard(peer) ─► pool ─┤
    reply and beat ┘                        └─► forgotten: old news herds everybody to the same place

The sample is random because Looks go to members drawn by capacity and chance; it costs nothing while
everything runs locally, because only a task that leaves (or would like to) asks for Looks. Probes are
asynchronous: the task at hand is placed by what is here, its Looks are for the next ones.

In: heard, served, forget, wanted. Out: fresh(now), the names to look at. Not here: what a load means
(`estimates`), who is drawn (the caller's `draw`), sending (`tasks.desk`).
Source: placement.md step 4 (91 ms against 123 ms for synchronous probes and 700 ms for power of two by
heartbeat); Mitzenmacher, Prabhakar, Shah, "Load balancing with memory", FOCS 2002, for keeping what was seen.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND = 1_000_000_000
ENTRIES_MAX = 16
FRESH_NS = SECOND
USES = 2
"""Tasks that one piece of news may attract: what it said is no longer so after them."""
ENOUGH = 4
"""With fewer entries than this a task that leaves asks for two looks, with fewer than half for three."""
LOOKS_PER_S = 100
LOOKS_BURST = 16
"""Whatever the rate of tasks: at 100/s probes and their answers cost a board about 2 % of a core."""
NEWS_NS = SECOND // 4
"""Who was heard of this recently is not looked at. With 100 ms tasks at 90 % load the mean response is within
3 % the same from 20 to 330 ms, while the control messages fall from 4.5 to 2.7 a task."""
ASKED_MAX = 64
"""Looks without an answer that are remembered, so that the silent are not asked again at once."""


class Pool:
    """Whom we have fresh news of; a core. Times are integer nanoseconds."""

    __slots__ = ("_asked", "_entries", "_left", "_left_ns", "looks")

    def __init__(self) -> None:
        self._entries: OrderedDict[str, list[int]] = OrderedDict()  # peer -> [heard_ns, uses]; oldest first
        self._asked: OrderedDict[str, int] = OrderedDict()
        self._left = float(LOOKS_BURST)
        self._left_ns = 0
        self.looks = 0  # since the start

    def __len__(self) -> int:
        return len(self._entries)

    def heard(self, now_ns: int, peer: str) -> None:
        """A load in the peer's own words came in, on whatever message."""
        entry = self._entries.get(peer)
        if entry is None:
            self._entries[peer] = [now_ns, USES]
            if len(self._entries) > ENTRIES_MAX:
                self._entries.popitem(last=False)
        else:
            entry[0] = now_ns
            entry[1] = USES
            self._entries.move_to_end(peer)
        if self._asked:
            self._asked.pop(peer, None)

    def served(self, peer: str) -> None:
        """A task went there."""
        entry = self._entries.get(peer)
        if entry is not None:
            entry[1] -= 1
            if entry[1] <= 0:
                del self._entries[peer]

    def forget(self, peer: str) -> None:
        """It is down, or no member any more."""
        self._entries.pop(peer, None)
        self._asked.pop(peer, None)

    def fresh(self, now_ns: int) -> list[str]:
        """At most 16 peers, the oldest news first; what is older than a second goes here."""
        entries = self._entries
        while entries:
            peer, entry = next(iter(entries.items()))
            if entry[0] + FRESH_NS >= now_ns:
                break
            del entries[peer]
        return list(entries)

    def wanted(self, now_ns: int, draw: Callable[[], str | None]) -> list[str]:
        """Whom to look at for a task that leaves: one to three of those drawn, within the bounded rate.

        Args: draw: a member by capacity and chance, or None; is called a few times.
        """
        self._left = min(LOOKS_BURST, self._left + (now_ns - self._left_ns) * LOOKS_PER_S / SECOND)
        self._left_ns = now_ns
        known = len(self._entries)
        count = 1 if known >= ENOUGH else 2 if known >= ENOUGH // 2 else 3
        found: list[str] = []
        for _ in range(2 * count):
            if len(found) >= count or self._left < 1.0:
                break
            peer = draw()
            if peer is None or self._known(now_ns, peer):
                continue
            self._left -= 1.0
            self._asked[peer] = now_ns
            self._asked.move_to_end(peer)
            if len(self._asked) > ASKED_MAX:
                self._asked.popitem(last=False)
            found.append(peer)
        self.looks += len(found)
        return found

    def _known(self, now_ns: int, peer: str) -> bool:
        asked_ns = self._asked.get(peer)
        if asked_ns is not None and asked_ns + FRESH_NS > now_ns:
            return True
        entry = self._entries.get(peer)
        return entry is not None and entry[0] + NEWS_NS > now_ns

    def check(self) -> None:
        """Invariants; raises AssertionError."""
        assert len(self._entries) <= ENTRIES_MAX and len(self._asked) <= ASKED_MAX
        assert all(0 < uses <= USES for _, uses in self._entries.values())
        heard = [heard_ns for heard_ns, _ in self._entries.values()]
        assert heard == sorted(heard)
        assert self._left <= LOOKS_BURST
