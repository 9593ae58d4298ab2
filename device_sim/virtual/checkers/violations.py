"""Violations: what a checker found, the first twenty as a line each, all of them counted."""

from __future__ import annotations

from typing import Final

from device_sim.virtual.evidence import Verdict

SECOND: Final = 1_000_000_000
MS: Final = 1_000_000
TOLD_MAX: Final = 20
"""More lines of one checker tell a reader nothing new; the seed does."""


def moment(at_ns: int) -> str:
    """``12.345 s``, by integers alone."""
    return f"{at_ns // SECOND}.{at_ns % SECOND // MS:03d} s"


class Violations:
    """Of one checker in one run."""

    __slots__ = ("first_ns", "lines", "total")

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.total = 0
        self.first_ns: int | None = None

    def add(self, at_ns: int, node: str, what: str, task: str = "") -> None:
        self.total += 1
        if self.first_ns is None or at_ns < self.first_ns:
            self.first_ns = at_ns
        if len(self.lines) < TOLD_MAX:
            self.lines.append(" ".join(part for part in (moment(at_ns), node, task) if part) + f": {what}")

    def verdict(self, name: str, promise: str, *, nothing: str = "", remark: str = "") -> Verdict:
        """*nothing*: why there was nothing to judge, if there was not. *remark*: what "passed" leaves out."""
        if self.total:
            return Verdict(
                name, promise, "failed", tuple(self.lines), remark, first_ns=self.first_ns, total=self.total
            )
        if nothing:
            return Verdict(name, promise, "not applicable", why=nothing)
        return Verdict(name, promise, "passed", why=remark)
