"""The story of a run: the notes of its trace and what clients and workers saw, in order, with violations in
their places.

In: notes and events as they come, what was broken. Out: lines. Not here: playing, files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from device_sim.virtual.attempt import Broken
from device_sim.virtual.checkers.violations import moment, moment_of
from device_sim.virtual.evidence import Asked, Event, Ran, Revoked
from device_sim.virtual.play import BEGIN_NS

LINES_MAX: Final = 2_000_000
"""Kept of one run: some hundred bytes each. What comes later is counted."""
LIVES: Final = frozenset({"fault", "started", "ended", "cannot start", "start", "stop", "revoked"})
"""What befell machines and the broker: told also where only a few tasks are looked at."""
VIOLATED: Final = "VIOLATED"


class Line(NamedTuple):
    at_ns: int
    """Of the scenario: before 0 everybody boots."""
    place: str
    kind: str
    detail: str

    def text(self) -> str:
        return f"{moment(self.at_ns):>12}  {self.place:<12} {self.kind:<12} {self.detail}".rstrip()


class Story:
    """Give ``keep`` and ``saw`` to a play."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.left_out = 0
        self.functions: dict[str, str] = {}
        """Task -> what it asks for."""

    def keep(self, now_ns: int, place: str, kind: str, detail: str) -> None:
        if len(self.lines) >= LINES_MAX:
            self.left_out += 1
            return
        self.lines.append(Line(now_ns - BEGIN_NS, place, kind, detail))

    def saw(self, event: Event) -> None:
        match event:
            case Asked():
                self.functions[event.task] = event.function
                self.keep(event.at_ns, event.node, "asked", f"{event.task} {event.function}")
            case Ran():
                begun = moment(event.started_ns - BEGIN_NS)
                detail = f"{event.task} attempt {event.attempt} {event.status}, begun {begun}"
                self.keep(event.at_ns, event.node, "ran", detail)
            case Revoked():
                self.keep(event.at_ns, event.node, "revoked", "")

    def told(
        self, *, broken: Sequence[Broken] = (), nodes: Sequence[str] = (), tasks: Sequence[str] = ()
    ) -> Iterator[Line]:
        """What concerns one of these nodes, and one of these tasks (how their ids begin); violations always.

        With neither: what befell the machines, and the tasks that violations name; all, if they name none.
        """
        violations = sorted(_violations(broken), key=lambda each: each.at_ns)
        named: tuple[str, ...] = ()
        if not nodes and not tasks:
            known = self.functions
            named = tuple(
                sorted({word for line in violations for word in _words(line.detail) if word in known})
            )
        following = iter([*violations, None])
        violation = next(following)
        for line in self.lines:
            while violation is not None and violation.at_ns < line.at_ns:
                yield violation
                violation = next(following)
            if named:
                wanted = line.kind in LIVES or line.detail.startswith(named)
            else:
                wanted = _at(line, nodes) and _of(line, tasks)
            if wanted:
                yield line
        while violation is not None:
            yield violation
            violation = next(following)


def _at(line: Line, nodes: Sequence[str]) -> bool:
    return not nodes or line.place in nodes or any(word in nodes for word in _words(line.detail))


def _of(line: Line, tasks: Sequence[str]) -> bool:
    return not tasks or line.detail.startswith(tuple(tasks))


def _words(text: str) -> list[str]:
    return [word.strip(",:;") for word in text.split()]


def _violations(broken: Sequence[Broken]) -> Iterator[Line]:
    for each in broken:
        for text in each.lines:
            at_ns = moment_of(text)
            if at_ns is None:
                at_ns, said = each.first_ns or 0, text
            else:
                said = text.partition(" s")[2].lstrip(" :")
            yield Line(at_ns, VIOLATED, each.checker, said)
