"""Whether a run has shown what its scenario expects of it.

In: the table ``[expect]`` and the figures of the report. Out: one ``Verdict`` for each thing expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from device_sim.scenario import Expect


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing expected."""

    name: str  # of the key
    wanted: float
    found: float | None  # None: the run has not shown it at all
    held: bool

    def text(self) -> str:
        sign = "at most" if _is_bound_above(self.name) else "at least"
        found = "nothing to measure" if self.found is None else f"{self.found:g}"
        return f"{self.name}: expected {sign} {self.wanted:g}, found {found}"


def judge(expect: Expect, figures: Mapping[str, float | None]) -> list[Verdict]:
    """Args: figures: by the expectation's name without ``_min`` and ``_max``; None: not measured."""
    verdicts = []
    for name, wanted in msgspec.structs.asdict(expect).items():
        if wanted is None:
            continue
        found = figures[name.removesuffix("_min").removesuffix("_max")]
        above = _is_bound_above(name)
        held = found is not None and (found <= wanted if above else found >= wanted)
        verdicts.append(Verdict(name, wanted, found, held))
    return verdicts


def _is_bound_above(name: str) -> bool:
    return not name.endswith("_min")
