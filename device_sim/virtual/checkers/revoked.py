"""Revoked (fault 18, wire.md 6): five seconds after the operator was told so, a node is out.

    Revoked(node) ──5 s──► cut: nothing reaches it, nothing of it is published,
                                no group frame opens with the secrets on its disk,
                                no result of work that it ran counts

If the gateway dies within those five seconds they begin anew when it is back: it answers a removal with a
new epoch even then. Group frames are kept as a sample: of each sender the latest, and of 32 senders the first
after the cut. They are tried with the production receiver, and whatever the node's ``groups.cbor`` holds.
Only senders that spoke without a gap of 10 s for 10 s are judged: who has just come back cannot have the
new epoch before it is handed to it. A restart is a gap too, however short: a node comes up with the epoch of
its disk, and beats under it before it has a session in which it is handed another. Nor can who is cut off in
one direction, and still speaks: the time in which a link was partitioned, or the gateway's, is a gap. The
gateway makes the epochs: its own restart excuses it of nothing. Memory: one frame a sender.

What it cannot see: frames of other senders between the first and the latest; what a node keeps in memory
and not on its disk. A name that joined again (``Happened("join")``) is not judged any more.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from device_sim.virtual.checkers.frames import GROUP, PRESENCE, is_gateway, kind_of, mesh_of, source_of
from device_sim.virtual.checkers.violations import SECOND, Violations
from device_sim.virtual.evidence import (
    HEAL,
    JOINS_AGAIN,
    Crashed,
    End,
    Event,
    Framed,
    Happened,
    Reached,
    Revoked,
    Started,
    Told,
    Verdict,
)
from edge_node.transport.groupcast import GROUP as GROUP_NAME
from edge_node.wire.codec import group_context
from security.errors import ProtocolViolation
from security.group import Epochs, GroupReceiver

CUT_NS: Final = 5 * SECOND
GAP_NS: Final = 10 * SECOND
"""Twice the longest pause between beats."""
EARLY_MAX: Final = 32
TOLD_MAX: Final = 10_000
SECRETS: Final = "groups.cbor"
CLOSED: Final = 1


class _Frame(NamedTuple):
    at_ns: int
    since_ns: int
    """Its sender had spoken without a gap since then."""
    topic: str
    payload: bytes


class _Out:
    """A node that was revoked."""

    __slots__ = ("at_ns", "cut_ns", "early", "ends_ns", "told")

    def __init__(self, at_ns: int) -> None:
        self.at_ns = at_ns
        self.cut_ns: int | None = at_ns + CUT_NS  # None: the gateway is away
        self.ends_ns: int | None = None  # a member again
        self.early: dict[str, _Frame] = {}
        self.told: dict[str, Told] = {}

    def is_cut(self, at_ns: int) -> bool:
        return self.ends_ns is None and self.cut_ns is not None and at_ns > self.cut_ns


class RevokedIsOut:
    name = "revoked is out"
    promise = "fault 18"
    wants = (Revoked, Reached, Framed, Told, Crashed, Started, Happened)

    def __init__(self) -> None:
        self._found = Violations()
        self._out: dict[str, _Out] = {}
        self._latest: dict[str, _Frame] = {}
        self._begun_ns: dict[str, int] = {}  # when its daemon was started last
        self._cut: dict[str, None] = {}  # whose link is partitioned now
        self._whole_ns: dict[str, int] = {}  # since when it is not any more
        self._gateway_whole_ns = -1

    def saw(self, event: Event) -> None:
        kind = type(event)
        if kind is Reached:
            assert isinstance(event, Reached)
            if event.reader in self._out:
                self._reached(event)
        elif kind is Framed:
            assert isinstance(event, Framed)
            self._framed(event)
        elif kind is Told:
            assert isinstance(event, Told)
            out = self._out.get(event.place)
            if (
                out is not None
                and event.node != event.place
                and out.is_cut(event.at_ns)
                and len(out.told) < TOLD_MAX
            ):
                out.told[event.task] = event
        elif kind is Revoked:
            assert isinstance(event, Revoked)
            self._out[event.node] = _Out(event.at_ns)
        elif kind is Crashed:
            assert isinstance(event, Crashed)
            self._gateway(event.node, event.at_ns, back=False)
        elif kind is Started:
            assert isinstance(event, Started)
            self._begun_ns[event.node] = event.at_ns
            self._gateway(event.node, event.at_ns, back=True)
        elif kind is Happened:
            assert isinstance(event, Happened)
            if event.do == JOINS_AGAIN and event.node in self._out:
                self._out[event.node].ends_ns = event.at_ns
            elif event.do == "partition":
                self._cut[event.node] = None
            elif event.do == "heal-partition":
                self._whole((event.node,), event.at_ns)
            elif event.do == HEAL:
                self._whole(tuple(self._cut), event.at_ns)

    def _whole(self, nodes: tuple[str, ...], at_ns: int) -> None:
        for node in nodes:
            if self._cut.pop(node, self) is None:
                self._whole_ns[node] = at_ns
                if is_gateway(node):
                    self._gateway_whole_ns = at_ns

    def _deaf_until(self, sender: str, at_ns: int) -> int:
        """The last moment at which it could not hear the gateway; -1: it always could."""
        if sender in self._cut or any(map(is_gateway, self._cut)):
            return at_ns
        begun_ns = self._begun_ns.get(sender, -1) if not is_gateway(sender) else -1
        return max(begun_ns, self._whole_ns.get(sender, -1), self._gateway_whole_ns)

    def _gateway(self, node: str, at_ns: int, *, back: bool) -> None:
        if not is_gateway(node):
            return
        for out in self._out.values():
            if back and out.cut_ns is None:
                out.cut_ns = at_ns + CUT_NS
            elif not back and out.cut_ns is not None and at_ns < out.cut_ns:
                out.cut_ns = None

    def _reached(self, event: Reached) -> None:
        out = self._out[event.reader]
        if out.is_cut(event.at_ns):
            what = f"revoked, and reached on {event.topic} {_later(event.at_ns, out)}"
            self._found.add(event.at_ns, event.reader, what)

    def _framed(self, event: Framed) -> None:
        sender, at_ns = event.sender, event.at_ns
        own = self._out.get(sender)
        if own is not None:
            if event.payload and own.is_cut(at_ns):  # an empty one is its last will: the broker's
                what = f"revoked, and published on {event.topic} {_later(at_ns, own)}"
                self._found.add(at_ns, sender, what)
            if own.ends_ns is None:
                return
        if not event.payload or kind_of(event.topic) not in (PRESENCE, GROUP):
            return
        last = self._latest.get(sender)
        gap = last is None or at_ns - last.at_ns > GAP_NS
        since_ns = max(at_ns if last is None or gap else last.since_ns, self._deaf_until(sender, at_ns))
        frame = self._latest[sender] = _Frame(at_ns, since_ns, event.topic, event.payload)
        for out in self._out.values():
            if len(out.early) < EARLY_MAX and sender not in out.early and _counts(frame, out):
                out.early[sender] = frame

    # ── at the end ────────────────────────────────────────────────────────────────────────────────

    def verdict(self, end: End) -> Verdict:
        judged = tried = 0
        unknown: list[str] = []
        for node in sorted(self._out):
            out = self._out[node]
            until_ns = out.ends_ns if out.ends_ns is not None else end.at_ns
            if out.cut_ns is None or until_ns <= out.cut_ns:
                continue
            judged += 1
            stored = end.keys.get(node, {}).get(SECRETS)
            if stored is None:
                unknown.append(node)
            else:
                tried += self._reads(node, out, stored)
            self._counted(end, node, out)
        nothing = ""
        if not self._out:
            nothing = "nobody was revoked"
        elif not judged:
            nothing = "the run ended before anybody who was revoked had to be out"
        remark = f"{judged} revoked, {tried} frames tried with their secrets"
        if unknown:
            remark += f"; no secrets on the disk of {', '.join(unknown[:5])}"
        return self._found.verdict(self.name, self.promise, nothing=nothing, remark=remark)

    def _reads(self, node: str, out: _Out, stored: bytes) -> int:
        frames = [
            frame
            for kept in (out.early, self._latest if out.ends_ns is None else {})
            for sender, frame in sorted(kept.items())
            if sender != node and _counts(frame, out)
        ]
        for frame in frames:
            mesh = mesh_of(frame.topic)
            epochs = Epochs(mesh_id=mesh, group=GROUP_NAME, root_spki_sha256=mesh)
            try:
                epochs.restore(0, stored)
            except ProtocolViolation:
                pass  # what was readable before the damage is held
            receiver = GroupReceiver(epochs, group_context(mesh), is_member=lambda _: True)
            try:
                opened = receiver.open(0, frame.topic, source_of(frame.topic), frame.payload)
            except ProtocolViolation:
                continue
            if isinstance(opened, bytes):
                what = f"revoked, and can read what {source_of(frame.topic)} said {_later(frame.at_ns, out)}"
                self._found.add(frame.at_ns, node, what)
        return len(frames)

    def _counted(self, end: End, node: str, out: _Out) -> None:
        for task, told in out.told.items():
            written = next(
                (
                    row.written_ns
                    for row in end.ledgers.get(told.node, ())
                    if row.task == task and row.kind == CLOSED
                ),
                None,
            )
            at_ns = told.at_ns if written is None else written
            if out.cut_ns is not None and at_ns > out.cut_ns:
                what = f"took a result of {node} {_later(at_ns, out)}"
                self._found.add(at_ns, told.node, what, task)


def _counts(frame: _Frame, out: _Out) -> bool:
    """Was it surely sealed by one who had to have the new epoch?"""
    if out.cut_ns is None or not out.is_cut(frame.at_ns):
        return False
    return frame.since_ns <= out.at_ns or frame.at_ns - frame.since_ns > GAP_NS


def _later(at_ns: int, out: _Out) -> str:
    after_ms = (at_ns - out.at_ns) // 1_000_000
    return f"{after_ms // 1000}.{after_ms % 1000:03d} s after"
