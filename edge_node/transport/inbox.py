"""The inbox: everything that happens to a daemon comes in here, in the order in which it happened.

    link ──put_nowait──►┐ bounded: full pauses the socket
                        ├─► [events] ──take()──► the daemon's one loop, a whole batch a wake-up
    rest ──put_local ──►┘ not bounded here: each of them answers something that was admitted before

What the broker sends without waiting for an acknowledgement (beats, by the thousand at a gateway) may wait
some milliseconds for company: a turn costs more than a beat. Anything else that comes takes it along at once.

Only deliveries count against the bound; what we asked for ourselves (Sent, worker and journal
completions, control requests) is bounded where it was asked. A full inbox calls ``pause`` of every
watcher, so that the broker's flow control holds the sender back instead of us dropping; ``take``
empties it and calls ``resume``.

Not thread-safe: from a thread use ``loop.call_soon_threadsafe(inbox.put_local, event)``.
Tried and rejected: ``asyncio.Queue``: a get per event, and a timeout context per get, cost more
than opening the parcel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

PATIENCE_S: Final = 0.005
"""How long a delivery that nobody hurries for waits for others."""


class Inbox:
    """One consumer, any number of producers on the same event loop."""

    def __init__(self, capacity: int = 1024) -> None:
        """`capacity` in deliveries (>= 1); raising it costs up to 256 KiB of memory each."""
        assert capacity >= 1, "an inbox holds at least one delivery"
        self.capacity = capacity
        self._events: list[Any] = []
        self._deliveries = 0
        self._waiter: asyncio.Future[None] | None = None
        self._watchers: list[tuple[Callable[[], None], Callable[[], None]]] = []
        self._patience: asyncio.TimerHandle | None = None
        self._paused = False
        self._eager = False  # the last take returned without giving way to the event loop

    def __len__(self) -> int:
        return len(self._events)

    @property
    def room(self) -> int:
        """Deliveries that fit before the next take."""
        return self.capacity - self._deliveries

    def watch(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """Call `pause` when the inbox becomes full, `resume` when it was emptied after that."""
        self._watchers.append((pause, resume))

    def unwatch(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._watchers.remove((pause, resume))

    def put_nowait(self, event: Any) -> None:
        """Put a delivery.

        Raises: asyncio.QueueFull: keep it, unacknowledged, until `resume` is called.
        """
        self._put(event)
        if self._waiter is not None:
            self._wake()

    def put_patient(self, event: Any) -> None:
        """Put a delivery that may wait ``PATIENCE_S``. Raises: asyncio.QueueFull: as above."""
        self._put(event)
        if self._waiter is None:
            return
        if self._deliveries >= self.capacity:
            self._wake()
        elif self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(PATIENCE_S, self._wake)

    def _put(self, event: Any) -> None:
        if self._deliveries >= self.capacity:
            raise asyncio.QueueFull
        self._deliveries += 1
        self._events.append(event)
        if self._deliveries >= self.capacity and not self._paused:
            self._paused = True
            for pause, _ in tuple(self._watchers):
                pause()

    def put_local(self, event: Any) -> None:
        """Put what this machine itself caused; never refused."""
        self._events.append(event)
        if self._waiter is not None:
            self._wake()

    def drain(self) -> list[Any]:
        """All events present, perhaps none; for who is not a coroutine and learns of them otherwise."""
        return self._taken()

    async def take(self, timeout_s: float | None = None) -> list[Any]:
        """All events present, at least one; or an empty list after `timeout_s` seconds (None: wait for ever).

        Gives way to the event loop at least every second call, so that a consumer that feeds itself
        cannot starve the sockets.
        """
        if self._events and not self._eager:
            self._eager = True
            return self._taken()
        self._eager = False
        if self._events or (timeout_s is not None and timeout_s <= 0):
            await asyncio.sleep(0)
            return self._taken()
        assert self._waiter is None, "an inbox has one consumer"
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = None if timeout_s is None else loop.call_later(timeout_s, self._wake)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None
        return self._taken()

    def _taken(self) -> list[Any]:
        events, self._events = self._events, []
        self._deliveries = 0
        if self._paused:
            self._paused = False
            for _, resume in tuple(self._watchers):
                resume()
        return events

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
