"""The watchdog of the link: it follows progress, not liveness (promise P7: no silent stall).

    nothing taken for 20 s of what is on the line ──────────────────────────────► Rebuild
    something waits for others, nothing heard for 15 s ─► Probe, Probe, Probe ──► Rebuild

A connection can answer its pings and carry nothing: a broker that lost our subscriptions, a session that is
half open, a client that forgot to read. A probe is an empty-handed message to our own inbox: the way out, the
broker, our subscription and the way in, without anybody else who might be away. Whatever is heard ends the
suspicion. A link that was rebuilt in vain is rebuilt less and less often, for it may be the broker.

Not here: keepalive and dead networks (``mqtt``), peers that are away (``membership.detector``).
"""

from __future__ import annotations

from typing import Final

import msgspec

SECOND: Final = 1_000_000_000
LOOK_NS: Final = 5 * SECOND
"""So often it looks, while there is something to wait for."""
TAKEN_NS: Final = 20 * SECOND
TAKEN_BYTES_S: Final = 4 * 1024
"""… and a second more for each 4 KiB on the line: a slow one takes long for one message."""
QUIET_NS: Final = 15 * SECOND
PROBE_NS: Final = 10 * SECOND
PROBES_MAX: Final = 3
REBUILD_NS_MIN: Final = 30 * SECOND
REBUILD_NS_MAX: Final = 600 * SECOND
"""Between two rebuilds that helped nothing."""


class Probe(msgspec.Struct, frozen=True):
    """Effect: send something to our own inbox."""


class Rebuild(msgspec.Struct, frozen=True):
    """Effect: give the connection up and make another."""

    reason: str


Effect = Probe | Rebuild


class Watchdog:
    """Of one link; a core."""

    __slots__ = (
        "_gap_ns", "_heard_ns", "_not_before_ns", "_probed_ns", "_probes", "_rebuilt_ns", "_taken",
        "_taken_ns", "_up", "_waits_ns", "rebuilt",
    )  # fmt: skip

    def __init__(self) -> None:
        self.rebuilt = 0
        self._up = False
        self._heard_ns = 0
        self._taken = 0
        self._taken_ns = 0
        self._waits_ns: int | None = None  # since when something waits
        self._probes = 0
        self._probed_ns = 0
        self._gap_ns = REBUILD_NS_MIN
        self._not_before_ns = 0
        self._rebuilt_ns: int | None = None  # and nothing was heard since that would speak for it

    def link_up(self, now_ns: int) -> None:
        self._up = True
        self._heard_ns = self._taken_ns = now_ns
        self._probes = 0
        self._waits_ns = None

    def link_down(self) -> None:
        self._up = False

    def heard(self, now_ns: int) -> None:
        """Anything came in, a probe too."""
        self._heard_ns = now_ns
        self._probes = 0
        # Not what every new connection is greeted with.
        if self._rebuilt_ns is not None and now_ns >= self._rebuilt_ns + REBUILD_NS_MIN:
            self._rebuilt_ns = None
            self._gap_ns = REBUILD_NS_MIN
            self._not_before_ns = now_ns

    def look(self, now_ns: int, *, waits: bool, taken: int, on_line: int) -> list[Effect]:
        """Call it every ``LOOK_NS``.

        Args: waits: something was sent, or is to be sent, that somebody should answer.   taken: messages that
            the broker has taken so far.   on_line: bytes that it has not.
        """
        if not self._up:
            return []
        if taken != self._taken or not on_line:
            self._taken, self._taken_ns = taken, now_ns
        stuck_ns = now_ns - self._taken_ns
        if stuck_ns >= TAKEN_NS + on_line * SECOND // TAKEN_BYTES_S:
            return self._rebuild(now_ns, f"the broker has taken nothing for {stuck_ns // SECOND} s")
        if not waits:
            self._waits_ns = None
            self._probes = 0
            return []
        if self._waits_ns is None:
            self._waits_ns = now_ns
        quiet_ns = now_ns - max(self._heard_ns, self._waits_ns)
        if quiet_ns < QUIET_NS or (self._probes and now_ns < self._probed_ns + PROBE_NS):
            return []
        if self._probes < PROBES_MAX:
            self._probes += 1
            self._probed_ns = now_ns
            return [Probe()]
        return self._rebuild(now_ns, f"nothing was heard for {quiet_ns // SECOND} s, not even our own probes")

    def _rebuild(self, now_ns: int, reason: str) -> list[Effect]:
        if now_ns < self._not_before_ns:
            return []
        self._not_before_ns = now_ns + self._gap_ns
        self._gap_ns = min(REBUILD_NS_MAX, 2 * self._gap_ns)
        self._probes = 0
        self._rebuilt_ns = now_ns
        self.rebuilt += 1
        return [Rebuild(reason)]

    def check(self) -> None:
        """Invariants; raises AssertionError."""
        assert 0 <= self._probes <= PROBES_MAX
        assert REBUILD_NS_MIN <= self._gap_ns <= REBUILD_NS_MAX
