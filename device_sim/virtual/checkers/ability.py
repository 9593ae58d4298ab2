"""Ability: when each node could do what it owes, as somebody standing beside the machines knows.

    Crashed … Started, pause … resume, disk-full … disk-free, slow … ended  ──►  spans of inability

A promise with a time ("within its ttl + grace") binds a node only while it can act. So lateness is not
measured from the due moment on, but is a span after it, longer than the grace, in which the node was able
and did not do it. Memory: one span for each time that a node was unable.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from device_sim.virtual.evidence import (
    CLOCK_LIES,
    ENDED,
    HEAL,
    STOPS_A_NODE,
    Crashed,
    Event,
    Happened,
    Started,
)

EVERYWHERE: Final = ""
_ENDS: Final = {
    verb: tuple(each for each, end in STOPS_A_NODE.items() if end == verb)
    for verb in STOPS_A_NODE.values()
    if verb
}


class _Spans:
    """Of one node, or of all: [from, to) in order; the last may be open."""

    __slots__ = ("causes", "froms", "tos")

    def __init__(self) -> None:
        self.causes: dict[str, None] = {}
        self.froms: list[int] = []
        self.tos: list[int] = []

    def begin(self, at_ns: int, cause: str) -> None:
        if not self.causes:
            self.froms.append(at_ns)
        self.causes[cause] = None

    def end(self, at_ns: int, cause: str) -> None:
        if self.causes.pop(cause, self) is None and not self.causes:
            self.tos.append(at_ns)


class Ability:
    wants = (Crashed, Started, Happened)

    def __init__(self) -> None:
        self._spans: dict[str, _Spans] = {}
        self._starts: dict[str, list[int]] = {}
        self._down: dict[str, Crashed] = {}
        self._lied: dict[str, None] = {}

    def saw(self, event: Event) -> None:
        kind = type(event)
        if kind is Crashed:
            assert isinstance(event, Crashed)
            self._down[event.node] = event
            self._of(event.node).begin(event.at_ns, "down")
        elif kind is Started:
            assert isinstance(event, Started)
            self._down.pop(event.node, None)
            self._starts.setdefault(event.node, []).append(event.at_ns)
            spans = self._of(event.node)
            spans.end(event.at_ns, "pause")  # that process is gone
            spans.end(event.at_ns, "down")
        elif kind is Happened:
            assert isinstance(event, Happened)
            self._happened(event)

    def _happened(self, event: Happened) -> None:
        do, at_ns = event.do, event.at_ns
        if do == HEAL:
            for spans in self._spans.values():
                for cause in [cause for cause in spans.causes if cause != "down"]:
                    spans.end(at_ns, cause)
        elif do in STOPS_A_NODE:
            if event.detail == ENDED:
                self._of(event.node).end(at_ns, do)
            else:
                self._of(event.node).begin(at_ns, do)
        elif do in _ENDS:
            for cause in _ENDS[do]:
                self._of(event.node).end(at_ns, cause)
        elif do in CLOCK_LIES:
            self._lied[event.node] = None

    def _of(self, node: str) -> _Spans:
        spans = self._spans.get(node)
        if spans is None:
            spans = self._spans[node] = _Spans()
        return spans

    # ── what is asked ─────────────────────────────────────────────────────────────────────────────

    def down(self, node: str) -> Crashed | None:
        """How it went, if no process of it runs now."""
        return self._down.get(node)

    def lied(self, node: str) -> bool:
        """Was its wall clock ever wrong?"""
        return node in self._lied or EVERYWHERE in self._lied

    @property
    def started(self) -> list[str]:
        """Every node of which a process ever ran, by name."""
        return sorted(self._starts)

    def last_start(self, node: str, until_ns: int) -> int | None:
        """The last start of it up to that moment."""
        starts = self._starts.get(node, ())
        at = bisect_right(starts, until_ns)
        return starts[at - 1] if at else None

    def is_late(self, node: str, due_ns: int, done_ns: int, grace_ns: int) -> bool:
        """Was it able for longer than *grace_ns* on end between *due_ns* and *done_ns*?"""
        if done_ns - due_ns <= grace_ns:
            return False
        unable: list[tuple[int, int | None]] = []
        for name in dict.fromkeys((node, EVERYWHERE)):
            spans = self._spans.get(name)
            if spans is not None:
                tos: list[int | None] = [*spans.tos, None]
                unable += zip(spans.froms, tos[: len(spans.froms)], strict=True)
        at_ns = due_ns
        for from_ns, to_ns in sorted(unable, key=lambda span: span[0]):
            if to_ns is not None and to_ns <= at_ns:
                continue
            if from_ns >= done_ns:
                break
            if from_ns - at_ns > grace_ns:
                return True
            if to_ns is None:
                return False
            at_ns = to_ns
        return done_ns - at_ns > grace_ns
