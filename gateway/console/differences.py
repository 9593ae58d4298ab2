"""Differences: two texts as the lines that a reader has to look at. A core.

Not here: how a line looks (``static/console.css``, `DIFF`-classes in `forms`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

LINES_MAX: Final = 4000
"""Of both texts together: comparing takes time that grows with their product where little is alike."""
SHOWN_MAX: Final = 400
AROUND: Final = 3


class Line(NamedTuple):
    """Args: sign: "+" comes, "-" goes, " " stays, "…" stands for lines that are left out."""

    sign: str
    text: str


def lines(before: str, after: str) -> list[Line] | None:
    """What differs, each with a few lines around. [] : nothing. None: too long to compare."""
    old, new = before.splitlines(), after.splitlines()
    if old == new:
        return []
    if len(old) + len(new) > LINES_MAX:
        return None
    found = list(_lines(old, new))
    if len(found) > SHOWN_MAX:
        left = len(found) - SHOWN_MAX
        found = [*found[:SHOWN_MAX], Line("…", f"{left} more lines")]
    return found


def _lines(old: list[str], new: list[str]) -> Iterator[Line]:
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for number, group in enumerate(matcher.get_grouped_opcodes(AROUND)):
        if number or group[0][1]:
            yield Line("…", f"line {group[0][3] + 1}")
        for tag, old_from, old_to, new_from, new_to in group:
            if tag == "equal":
                yield from (Line(" ", text) for text in old[old_from:old_to])
                continue
            yield from (Line("-", text) for text in old[old_from:old_to])
            yield from (Line("+", text) for text in new[new_from:new_to])


def wishes(before: dict[str, Any] | None, after: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, before, after) of a function's signature and limits, where they differ; all of a new one."""
    found = []
    for name, label in WISHES.items():
        old, new = _said(before.get(name)) if before is not None else "", _said(after.get(name))
        if old != new:
            found.append((label, old, new))
    return found


WISHES: Final = {
    "signature": "signature",
    "timeout_s": "time limit (s)",
    "memory_mb": "memory (MB)",
    "requires": "requires",
    "labels": "labels",
}


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={each}" for name, each in sorted(value.items()))
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value if value is not None else "")
