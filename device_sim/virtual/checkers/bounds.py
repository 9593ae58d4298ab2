"""Bounds (P5): what may be open, said and heard is bounded, and it is at the door that too much is refused.

    open tasks and their bytes          status, and the disks at the end     <= outbox_tasks_max, _bytes_max
    beats of a sender                   presence frames at the wire          1 a second, 60 beyond it
    a digest                            the gateway's larger presence        1 KiB, 1 a second, 60 beyond it
    a payload                           every frame                          <= PAYLOAD_BYTES_MAX
    of how many a node hears beats      presence that reached it             the gateway and 16, by the minute
    an accepted task                    doors, disks                         never turned away afterwards

Direct beats travel in sessions and cannot be told from other traffic; they are not counted. A member says
one beat more each time that its link comes up, and what waited behind a full line comes at once. Whom a node
follows changes: one in a minute, up to six by the local network, and everybody who went down is replaced;
so 25 in a quiet minute and 49 in one with faults. Memory: two numbers a sender, 50 names a reader.

What it cannot see: a digest so small that its frame could be a beat alone; the bytes that a beat's fields
waste beside the digest's (a margin of 200 bytes); queues inside a node that no status tells of.
"""

from __future__ import annotations

from typing import Final

import msgspec

from device_sim.virtual.checkers.frames import PRESENCE, is_gateway, kind_of, source_of
from device_sim.virtual.checkers.violations import SECOND, Violations
from device_sim.virtual.evidence import (
    Answered,
    Crashed,
    End,
    Event,
    Framed,
    Happened,
    Reached,
    Sampled,
    Started,
    Told,
    Verdict,
)
from edge_node.membership.following import FOLLOWED_MAX, LAN_MAX
from edge_node.tasks.states import Refusal
from edge_node.tasks.task import Task
from edge_node.transport.link import PAYLOAD_BYTES_MAX
from edge_node.wire.messages import DIGEST_BYTES_MAX

BEAT_FRAME_BYTES_MAX: Final = 200
"""A sealed beat, with every number at its longest: 150."""
DIGEST_FRAME_BYTES_MAX: Final = DIGEST_BYTES_MAX + BEAT_FRAME_BYTES_MAX
RATE_BEYOND: Final = 60
"""What waited for a minute behind a full line comes at once."""
FOLLOW_NS: Final = 60 * SECOND
FOLLOWED_QUIET: Final = 1 + FOLLOWED_MAX + 2 + LAN_MAX
FOLLOWED_STRUCK: Final = 1 + 3 * FOLLOWED_MAX
REFUSED_KEPT: Final = 100_000
"""Tasks refused for a full outbox that are looked for at the end: the last so many."""
ACCEPTED: Final = 0
CLOSED: Final = 1
_FULL: Final = (Refusal.OUTBOX_FULL.value, Refusal.STORE_FULL.value)
_task = msgspec.msgpack.Decoder(Task)


class _Rate:
    """A bucket of a sender: one a second runs out, what comes fills it."""

    __slots__ = ("at_ns", "full_ns")

    def __init__(self) -> None:
        self.at_ns = self.full_ns = 0

    def exceeds(self, at_ns: int) -> bool:
        """True once for each time that it runs over."""
        self.full_ns = max(0, self.full_ns - (at_ns - self.at_ns)) + SECOND
        self.at_ns = at_ns
        if self.full_ns <= RATE_BEYOND * SECOND:
            return False
        self.full_ns = 0
        return True


class _Heard:
    """Whose presence reached a node in one minute."""

    __slots__ = ("minute", "names", "told")

    def __init__(self) -> None:
        self.minute = -1
        self.names: dict[str, None] = {}
        self.told = False


class Bounds:
    name = "bounds"
    promise = "P5"
    wants = (Answered, Told, Framed, Reached, Sampled, Crashed, Started, Happened)

    def __init__(self) -> None:
        self._found = Violations()
        self._beats: dict[str, _Rate] = {}
        self._digests: dict[str, _Rate] = {}
        self._heard: dict[str, _Heard] = {}
        self._open: dict[str, tuple[int, int]] = {}  # node -> the most open tasks, when
        self._open_bytes: dict[str, tuple[int, int]] = {}
        self._accepted: dict[str, str] = {}  # open by what clients know -> node
        self._refused: dict[str, str] = {}  # for a full outbox -> node
        self._struck_ns = -FOLLOW_NS
        self._judged = 0

    def saw(self, event: Event) -> None:
        kind = type(event)
        if kind is Reached:
            assert isinstance(event, Reached)
            self._reached(event)
        elif kind is Framed:
            assert isinstance(event, Framed)
            self._framed(event)
        elif kind is Sampled:
            assert isinstance(event, Sampled)
            self._sampled(event)
        elif kind is Answered:
            assert isinstance(event, Answered)
            self._answered(event)
        elif kind is Told:
            assert isinstance(event, Told)
            self._accepted.pop(event.task, None)
        else:
            self._struck_ns = event.at_ns

    # ── the wires ─────────────────────────────────────────────────────────────────────────────────

    def _framed(self, event: Framed) -> None:
        self._judged += 1
        size = len(event.payload)
        if size > PAYLOAD_BYTES_MAX:
            self._found.add(event.at_ns, event.sender, f"a payload of {size} bytes")
        if not size or kind_of(event.topic) != PRESENCE:  # an empty one is a last will
            return
        sender, at_ns = event.sender, event.at_ns
        rate = self._beats.get(sender)
        if rate is None:
            rate = self._beats[sender] = _Rate()
        if rate.exceeds(at_ns):
            self._found.add(at_ns, sender, f"{RATE_BEYOND} beats beyond one a second")
        if size <= BEAT_FRAME_BYTES_MAX:
            return
        if not is_gateway(sender):
            self._found.add(at_ns, sender, f"presence of {size} bytes: more than a beat")
            return
        if size > DIGEST_FRAME_BYTES_MAX:
            self._found.add(at_ns, sender, f"a digest in a frame of {size} bytes: over 1 KiB")
        rate = self._digests.setdefault(sender, _Rate())
        if rate.exceeds(at_ns):
            self._found.add(at_ns, sender, f"{RATE_BEYOND} digests beyond one a second")

    def _reached(self, event: Reached) -> None:
        if kind_of(event.topic) != PRESENCE or is_gateway(event.reader):
            return
        reader = event.reader
        heard = self._heard.get(reader)
        if heard is None:
            heard = self._heard[reader] = _Heard()
        minute = event.at_ns // FOLLOW_NS
        if heard.minute != minute:
            heard.minute = minute
            heard.names.clear()
            heard.told = False
        if heard.told:
            return
        source = source_of(event.topic)
        if source == reader or source in heard.names:
            return
        heard.names[source] = None
        self._judged += 1
        if len(heard.names) > FOLLOWED_QUIET:
            struck = self._struck_ns >= minute * FOLLOW_NS - FOLLOW_NS
            most = FOLLOWED_STRUCK if struck else FOLLOWED_QUIET
            if len(heard.names) > most:
                heard.told = True
                self._found.add(event.at_ns, reader, f"presence of more than {most} members within a minute")

    # ── the doors ─────────────────────────────────────────────────────────────────────────────────

    def _answered(self, event: Answered) -> None:
        if event.accepted:
            self._accepted[event.task] = event.node
        elif event.reason in _FULL:
            if event.task in self._accepted:
                what = f"accepted, and turned away afterwards: {event.reason}"
                self._found.add(event.at_ns, event.node, what, event.task)
            elif event.reason == Refusal.OUTBOX_FULL:
                self._judged += 1
                self._refused[event.task] = event.node
                if len(self._refused) > REFUSED_KEPT:
                    del self._refused[next(iter(self._refused))]

    def _sampled(self, event: Sampled) -> None:
        tasks = event.status.get("tasks") if event.status is not None else None
        if tasks is None:
            return
        self._judged += 1
        node = event.node
        for most, key in ((self._open, "open"), (self._open_bytes, "open_bytes")):
            now = int(tasks.get(key, 0))
            if now > most.get(node, (0, 0))[0]:
                most[node] = (now, event.at_ns)

    def verdict(self, end: End) -> Verdict:
        limits = (
            (self._open, end.outbox_tasks_max, "tasks"),
            (self._open_bytes, end.outbox_bytes_max, "bytes"),
        )
        for most, limit, what in limits:
            for node, (value, at_ns) in sorted(most.items()):
                if value > limit:
                    self._found.add(at_ns, node, f"{value} open {what}, the outbox holds {limit}")
        for node in sorted(end.ledgers):
            self._ledger(end, node)
        nothing = "" if self._judged else "no frame, status or refusal was seen"
        return self._found.verdict(self.name, self.promise, nothing=nothing)

    def _ledger(self, end: End, node: str) -> None:
        rows = end.ledgers[node]
        closed = {row.task: None for row in rows if row.kind == CLOSED}
        tasks = size = 0
        for row in rows:
            if row.kind != ACCEPTED:
                continue
            if self._refused.get(row.task) == node:
                what = "refused for a full outbox, and accepted on the disk"
                self._found.add(end.at_ns, node, what, row.task)
            if row.task in closed:
                continue
            tasks += 1
            try:
                size += len(_task.decode(row.body).input)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue  # ``settled_once`` tells
        if tasks > end.outbox_tasks_max:
            what = f"{tasks} open tasks on the disk, the outbox holds {end.outbox_tasks_max}"
            self._found.add(end.at_ns, node, what)
        if size > end.outbox_bytes_max:
            what = f"{size} open bytes on the disk, the outbox holds {end.outbox_bytes_max}"
            self._found.add(end.at_ns, node, what)
