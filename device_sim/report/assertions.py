"""What whoever starts a run asserts of its figures: ``--assert 'p99_ms < 200'``.

In: text, and the figures of a record. Out: one ``Check`` for each. A mistake in the text is told before
anything runs. A figure that the run has not shown at all (a percentile of no tasks) holds no assertion:
nothing is passed by not having been measured.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from device_sim.report.glossary import FIGURES
from device_sim.report.record import Check
from security.errors import BadInput

CHARS_MAX: Final = 200
_OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_SHAPE: Final = re.compile(r"\s*([A-Za-z_]\w*)\s*(<=|>=|==|!=|<|>)\s*([^\s<>=!]+)\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Assertion:
    """A sentence about one figure."""

    name: str
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.name} {self.sign} {_number(self.bound)}"

    def check(self, figures: Mapping[str, float]) -> Check:
        found = figures.get(self.name)
        shown = found is not None and not math.isnan(found)
        held = shown and found is not None and _OPERATORS[self.sign](found, self.bound)
        return Check(
            name=str(self),
            promise="asserted by whoever started the run",
            word="passed" if held else "failed",
            detail=f"found {_number(found)}" if shown and found is not None else "nothing to measure",
        )


def parse(text: str, names: Collection[str] = FIGURES) -> Assertion:
    """NAME OP NUMBER.   Raises: BadInput: it has another shape, or names no figure."""
    shown = text if len(text) <= CHARS_MAX else text[:CHARS_MAX] + "…"
    match = _SHAPE.fullmatch(text) if len(text) <= CHARS_MAX else None
    if match is None:
        raise BadInput(
            f"cannot read the assertion {shown!r}",
            fix="write NAME OP NUMBER, OP one of < <= > >= == !=, as in 'p99_ms < 200'",
        )
    name, sign, number = match.groups()
    if name not in names:
        near = difflib.get_close_matches(name, sorted(names), n=1)
        hint = f"did you mean {near[0]}? known: " if near else "known: "
        raise BadInput(f"no figure is called {name!r}", fix=hint + ", ".join(names))
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise BadInput(
            f"{number!r} in the assertion {shown!r} is no number", fix="write one, as in 200 or 0.5"
        )
    return Assertion(name, sign, bound)


def judge(assertions: Iterable[Assertion], figures: Mapping[str, float]) -> list[Check]:
    """One check for each, in their order."""
    return [assertion.check(figures) for assertion in assertions]


def _number(value: float) -> str:
    """As short as it can be told without another value being told so."""
    return str(int(value)) if abs(value) < 1e15 and value == int(value) else repr(float(value))
