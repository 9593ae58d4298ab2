"""Turnstile: how many tasks that may run at one place alone are let through to it, and when again.

What may run anywhere goes elsewhere when a place is full. A task for one named place can only wait, and
without a rule a thousand such tasks ask a full queue a thousand times a round.

    refused (full, draining) ─► shut for a while, growing with chance; room = half of what it has taken
    taken ────────────────────► room + 1 up to what it had, then one more for each time all of it was taken
    news of room there ───────► open at once, and nothing is known of how much

It is the rule by which TCP finds what a way carries (Jacobson, "Congestion Avoidance and Control", SIGCOMM
1988). With a place that serves only us it costs one refused offer in about as many tasks as lie there.

In: refused, taken, heard, reset. Out: `lets(now_ns, held)`, `opens_ns`. Not here: who waits (`desk`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random

SECOND: Final = 1_000_000_000
SHUT_NS: Final = SECOND // 10
SHUT_NS_MAX: Final = 5 * SECOND
"""An offer in five seconds costs a full place nothing, and one that says nothing is found free that soon."""
UNKNOWN: Final = 1 << 30
EASED: Final = 0.75
"""A wait there that fell to this share of the one that came with the refusal is news of room."""


class Turnstile:
    """Before one place; a core without effects. It is made at its first refusal: most places need none."""

    __slots__ = ("_draining", "_known", "_taken", "_told_s", "_tries", "opens_ns", "room")

    def __init__(self) -> None:
        self.room = 1
        """Tasks of ours that may be there at a time."""
        self.opens_ns = 0
        self._known = UNKNOWN  # how many of ours it had when it took no more
        self._taken = 0  # since the room last grew
        self._tries = 0  # refusals since something was taken
        self._told_s: float | None = None  # the wait there when it refused
        self._draining = False

    def lets(self, now_ns: int, held: int) -> bool:
        """Whether one more may go. Args: held: tasks of ours that are there, or on their way."""
        return held < self.room and now_ns >= self.opens_ns

    def refused(self, now_ns: int, held: int, wait_s: float | None, draining: bool, rng: Random) -> None:
        """Args: held: what is left there.   wait_s: the wait there, in the words of the refusal."""
        self._told_s = wait_s
        self._draining = draining
        if now_ns < self.opens_ns:  # more of the same burst
            self._known = max(1, min(self._known, held))
            self.room = min(self.room, self._known)
            return
        self._known = held or UNKNOWN  # what it refuses with nothing of ours there is about the others
        self.room = max(1, held // 2)
        shut_ns = min(SHUT_NS << min(self._tries, 10), SHUT_NS_MAX)
        self.opens_ns = now_ns + int(shut_ns * (0.5 + 0.5 * rng.random()))
        self._tries += 1

    def taken(self) -> None:
        self._tries = 0
        self._taken += 1
        if self.room < self._known or self._taken >= self.room:
            self.room += 1
            self._taken = 0

    def heard(self, now_ns: int, wait_s: float, draining: bool) -> bool:
        """Its load, in its own words. Returns: it is open since now."""
        if draining or self.opens_ns <= now_ns:
            return False
        told_s = self._told_s
        if not self._draining and wait_s > 0.0 and (told_s is None or wait_s > EASED * told_s):
            return False
        self.opens_ns = now_ns
        self._known = UNKNOWN
        self._told_s = wait_s  # the next news has to be better still
        self._draining = False
        return True

    def check(self) -> None:
        assert self.room >= 1 and self._known >= 1 and self._tries >= 0
