"""The panel: all checkers of a run, each told only of what it wants to know.

    panel = Panel(checkers());  panel.saw(event) …;  panel.verdicts(end)

Ten million events pass here, so one that nobody wants need not even be made: ask ``wants(kind)`` once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from device_sim.virtual.checkers.acknowledged import Acknowledged
from device_sim.virtual.checkers.bounds import Bounds
from device_sim.virtual.checkers.damage import Damage
from device_sim.virtual.checkers.explained import Explained
from device_sim.virtual.checkers.fenced import Fenced
from device_sim.virtual.checkers.finishes import Finishes
from device_sim.virtual.checkers.replicas import Replicas
from device_sim.virtual.checkers.revoked import RevokedIsOut
from device_sim.virtual.checkers.sealed import Sealed
from device_sim.virtual.checkers.settled_once import SettledOnce
from device_sim.virtual.checkers.tables import WrittenTables
from device_sim.virtual.checkers.violations import Violations
from device_sim.virtual.evidence import Checker, End, Event, Verdict


def checkers() -> list[Checker]:
    """One of each, new, in the order of the promises."""
    return [
        SettledOnce(),
        Fenced(),
        Acknowledged(),
        WrittenTables(),
        Replicas(),
        Bounds(),
        Damage(),
        Finishes(),
        Explained(),
        Sealed(),
        RevokedIsOut(),
    ]


class Panel:
    """The checkers of one run."""

    def __init__(self, judges: Sequence[Checker]) -> None:
        self._judges = list(judges)
        found = (getattr(judge, "_found", None) for judge in self._judges)
        self._found = [each for each in found if isinstance(each, Violations)]
        self._told: dict[type, list[Callable[[Event], None]]] = {}
        for judge in self._judges:
            for kind in judge.wants:
                self._told.setdefault(kind, []).append(judge.saw)

    @property
    def violations(self) -> int:
        """So far, for whoever watches; some are only seen at the end."""
        return sum(each.total for each in self._found)

    def wants(self, kind: type) -> bool:
        """Does any of them want to know of events of this kind?"""
        return kind in self._told

    def saw(self, event: Event) -> None:
        for tell in self._told.get(type(event), ()):
            tell(event)

    def verdicts(self, end: End) -> list[Verdict]:
        return [judge.verdict(end) for judge in self._judges]
