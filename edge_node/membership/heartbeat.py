"""Heartbeat: when a member says that it is here, and how busy.

    once a second while its load changes, every 5 s while it does not

A change is told at once, if the last beat is a second old; ``moved`` says that there may be one, so that an
idle member need not look for it every second. A beat bears (incarnation, seq), by which others order what
they hear, and the boot id of this process, by which they know that it is a new one.
In: moments and loads. Out: beats. Not here: sealing and sending them (``presence``).
"""

from __future__ import annotations

from typing import Final

from edge_node.wire.messages import Beat, Load

SECOND: Final = 1_000_000_000
BEAT_NS: Final = 1 * SECOND
BEAT_NS_MAX: Final = 5 * SECOND


class Heartbeat:
    """The beats of one process; a core.

    Args: incarnation: higher than at any start of this member before.   boot_id: 8 bytes of this process.
        longest_ns: between beats while the load does not change; `detector.SILENCE_NS` is measured by it.
    """

    def __init__(self, *, incarnation: int, boot_id: bytes, longest_ns: int = BEAT_NS_MAX) -> None:
        self.incarnation = incarnation
        self._boot_id = boot_id
        self._longest_ns = longest_ns
        self._seq = 0
        self._sent_ns: int | None = None
        self._due_ns = 0
        self._paused_ns = 0  # no beat before this
        self._load: Load | None = None

    def tick(self, now_ns: int, wall_ms: int, load: Load) -> Beat | None:
        """The beat that is due now, if any; *load* is what it would tell."""
        if now_ns < self._due_ns:
            return None
        if load == self._load and self._sent_ns is not None and now_ns < self._sent_ns + self._longest_ns:
            # Work under way changes the load by itself, idleness does not: that is told by `moved`.
            busy = load.backlog_ms or load.leased_ms
            self._due_ns = min(self._sent_ns + self._longest_ns, now_ns + BEAT_NS) if busy else (
                self._sent_ns + self._longest_ns
            )  # fmt: skip
            return None
        return self.told(now_ns, wall_ms, load)

    def told(self, now_ns: int, wall_ms: int, load: Load) -> Beat:
        """A beat to everybody now, due or not."""
        self._sent_ns, self._load = now_ns, load
        busy = load.backlog_ms or load.leased_ms
        self._due_ns = now_ns + (BEAT_NS if busy else self._longest_ns)
        return self.direct(wall_ms, load)

    def direct(self, wall_ms: int, load: Load) -> Beat:
        """A beat for one peer, between those for everybody."""
        self._seq += 1
        return Beat(self._seq, load, wall_ms, self._boot_id, self.incarnation)

    def moved(self, now_ns: int) -> None:
        """Our load may have changed."""
        at_ns = now_ns if self._sent_ns is None else max(now_ns, self._sent_ns + BEAT_NS)
        self._due_ns = min(self._due_ns, max(at_ns, self._paused_ns))

    def hasten(self, now_ns: int) -> None:
        """Somebody came who may not have heard us: beat as soon as the second is over, changed or not."""
        self._load = None
        self.moved(now_ns)

    def pause(self, until_ns: int) -> None:
        """No beat before this moment, whatever happens to us."""
        self._due_ns = self._paused_ns = until_ns

    def deadline_ns(self) -> int:
        return self._due_ns

    def check(self) -> None:
        assert self._seq >= 0
        assert self._sent_ns is None or self._due_ns <= self._sent_ns + self._longest_ns or self._seq > 0
