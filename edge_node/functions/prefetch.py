"""Prefetch: the code of the catalogue, fetched before anybody wants it to run here.

    Wanted(digests) ──► one at a time, while nothing waits here ──► Want ──► Came / Missed ──► the next

A member that is cut off later can then run what the catalogue names, also what it never ran. In the
background: the first fetch comes after a random while that grows with the mesh, so that a fleet that learns
of a new function does not ask its gateway at once; a miss doubles the pause; once what is kept has the bound
no more is fetched ahead, so at most one bundle goes beyond it.

A core. Not here: the transfer (``blobs``), keeping (``bundle``), what a run needs now (``provision``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from edge_node.functions.provision import Want

if TYPE_CHECKING:
    from random import Random

SECOND: Final = 1_000_000_000
FIRST_NS: Final = 1 * SECOND
"""No fetch before this, and a random part of as much again, after a change of the catalogue."""
SPREAD_NS: Final = SECOND // 20
"""… and of this for each member: a mesh of 1 000 asks over 50 s."""
PAUSE_NS: Final = SECOND // 2
"""Between two fetches, and until it is looked again whether work waits here."""
MISSED_NS: Final = 5 * SECOND
MISSED_NS_MAX: Final = 600 * SECOND


class Wanted(msgspec.Struct, frozen=True):
    """Event: the catalogue names this code now."""

    digests: tuple[bytes, ...]
    members: int = 1


class Came(msgspec.Struct, frozen=True):
    """Event: a bundle was fetched and kept, for whomever."""

    digest: bytes


class Missed(msgspec.Struct, frozen=True):
    """Event: a body could not be fetched, for whomever."""

    digest: bytes


class Reachable(msgspec.Struct, frozen=True):
    """Event: somebody who may hold code is there (again)."""


Event = Wanted | Came | Missed | Reachable


class Prefetch:
    """What one member fetches ahead; a core.

    Args:
        has_bundle: is it here?   kept_bytes: of all bundles that are here.
        idle: may a background transfer go now?   holders: whom to ask, likeliest first; none: we are alone.
        bytes_max: of code, above which nothing is fetched ahead; 0: never.
    """

    def __init__(
        self,
        *,
        has_bundle: Callable[[bytes], bool],
        kept_bytes: Callable[[], int],
        idle: Callable[[], bool],
        holders: Callable[[], list[str]],
        rng: Random,
        bytes_max: int,
    ) -> None:
        self._has_bundle = has_bundle
        self._kept_bytes = kept_bytes
        self._idle = idle
        self._holders = holders
        self._rng = rng
        self._bytes_max = bytes_max
        self._todo: deque[bytes] = deque()  # bounded by the catalogue's names
        self._asked: bytes | None = None
        self._due_ns = 0
        self._misses = 0  # in a row

    def handle(self, now_ns: int, event: Event) -> None:
        match event:
            case Wanted(digests, members):
                due_ns = now_ns + FIRST_NS + self._some(FIRST_NS + SPREAD_NS * members)
                # What waited for its moment already does not wait for a new one at each deploy.
                self._due_ns = min(due_ns, self._due_ns) if self._todo else due_ns
                self._todo = deque(dict.fromkeys(digests) if self._bytes_max else ())
                self._misses = 0
            case Reachable():
                self._due_ns = min(self._due_ns, now_ns + FIRST_NS + self._some(FIRST_NS))
                self._misses = 0
            case Came(digest) if digest == self._asked:
                self._asked = None
                self._misses = 0
                self._due_ns = now_ns + PAUSE_NS
            case Missed(digest) if digest == self._asked:
                self._asked = None
                pause_ns = min(MISSED_NS << min(self._misses, 10), MISSED_NS_MAX)
                self._misses += 1
                self._due_ns = now_ns + pause_ns // 2 + self._some(pause_ns)

    def tick(self, now_ns: int) -> list[Want]:
        due = self.deadline_ns()
        if due is None or due > now_ns:
            return []
        self._due_ns = now_ns + PAUSE_NS
        while self._todo and self._has_bundle(self._todo[0]):
            self._todo.popleft()
        if not self._todo or not self._idle():
            return []
        if self._kept_bytes() >= self._bytes_max:
            self._todo.clear()
            return []
        holders = self._holders()
        if not holders:
            self._due_ns = now_ns + MISSED_NS
            return []
        self._asked = self._todo[0]
        self._todo.rotate(-1)  # a miss has its next turn after the others
        return [Want(self._asked, tuple(holders))]

    def deadline_ns(self) -> int | None:
        return self._due_ns if self._todo and self._asked is None else None

    def check(self) -> None:
        """Invariants; raises AssertionError."""
        assert self._bytes_max or not self._todo
        assert len(self._todo) == len(set(self._todo)), "nothing is asked for twice a round"

    def _some(self, most_ns: int) -> int:
        return int(self._rng.random() * most_ns)
