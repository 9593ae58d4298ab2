"""The outbox of one destination: our tasks that may run there alone and wait until it takes them.

    put(task, away=True)  ─► backlog ─┐
    put(task, away=False) ─► live ────┴─► take(): live first, one of the backlog after every eighth

An index over rows of the owner's ledger and no second copy: what it holds is on the disk there, and after a
restart it is filled again from there. So it is bounded by the ledger's own bounds (tasks, bytes, time to
live), which refuse at the door, and evicts nothing. Who is away for an hour comes back to an hour of tasks;
what is asked for now does not wait behind them, and they do not starve behind what is asked for now.

Entries that ended while they waited (expired, cancelled) are passed over, and swept when they are many.

Not here: whether the destination may have one more (`turnstile`, `leases`), how it gets there (`transport`).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from edge_node.tasks.states import State

if TYPE_CHECKING:
    from edge_node.tasks.ledger import Entry

LIVE_RUN: Final = 8
"""So many live ones, then one of the backlog."""
SWEPT: Final = 64
"""Ended ones that may lie about."""


class Outbox:
    """Of one destination; a core without effects."""

    __slots__ = ("_backlog", "_live", "_run")

    def __init__(self) -> None:
        self._live: deque[Entry] = deque()
        self._backlog: deque[Entry] = deque()
        self._run = 0

    def __len__(self) -> int:
        """Entries, those that have ended and were not swept yet among them."""
        return len(self._live) + len(self._backlog)

    def __contains__(self, entry: Entry) -> bool:
        return entry in self._live or entry in self._backlog

    @property
    def waiting(self) -> list[Entry]:
        """Who really waits, in no order that is promised."""
        return [
            entry for lane in (self._live, self._backlog) for entry in lane if entry.state is State.WAITING
        ]

    def put(self, entry: Entry, *, away: bool, open_tasks: int) -> None:
        """Args: away: it cannot be reached now.   open_tasks: of the ledger: so many can wait."""
        if len(self) > SWEPT + 2 * open_tasks:
            self._live = deque(one for one in self._live if one.state is State.WAITING)
            self._backlog = deque(one for one in self._backlog if one.state is State.WAITING)
        (self._backlog if away else self._live).append(entry)

    def take(self) -> Entry | None:
        """The next, if anybody waits."""
        while self._live or self._backlog:
            if self._live and (self._run < LIVE_RUN or not self._backlog):
                entry = self._live.popleft()
                self._run += 1
            else:
                entry = self._backlog.popleft()
                self._run = 0
            if entry.state is State.WAITING:
                return entry
        return None
