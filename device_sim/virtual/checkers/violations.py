"""Violations: what a checker found, the first twenty as a line each, all of them counted."""

from __future__ import annotations

import re
from typing import Final

from device_sim.virtual.evidence import Verdict

SECOND: Final = 1_000_000_000
MS: Final = 1_000_000
TOLD_MAX: Final = 20
"""More lines of one checker tell a reader nothing new; the seed does."""


def moment(at_ns: int) -> str:
    """``12.345 s``, by integers alone; before time 0: ``-1.250 s``."""
    sign, whole = ("-", -at_ns) if at_ns <= -MS else ("", max(0, at_ns))
    return f"{sign}{whole // SECOND}.{whole % SECOND // MS:03d} s"


_MOMENT: Final = re.compile(r"(-?)(\d+)\.(\d{3}) s\b")


def moment_of(line: str) -> int | None:
    """Of a violation's line, nanoseconds; None: it has none. The other way round than ``moment``."""
    found = _MOMENT.match(line)
    if found is None:
        return None
    at_ns = int(found[2]) * SECOND + int(found[3]) * MS
    return -at_ns if found[1] else at_ns


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
