"""Trails: how much waited and ran at each node over the last minutes, for a line of it; a core.

One sample of every node each ``EVERY_NS``, kept for ``SAMPLES`` of them: 1 000 nodes take half a megabyte.
They are taken while somebody looks at the mesh, and forgotten when nobody has for a while.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

SECOND: Final = 1_000_000_000
EVERY_NS: Final = 2 * SECOND
SAMPLES: Final = 150
PAUSE_NS: Final = 3 * EVERY_NS
"""After so long without a sample a line would lie: it begins anew."""


@dataclass(slots=True)
class Trails:
    _at_ms: list[int] = field(default_factory=list)
    _loads: dict[str, array[float]] = field(default_factory=dict)
    _last_ns: int | None = None

    def tell(self, now_ns: int, wall_ms: int, picture: Mapping[str, Any]) -> None:
        """Args: picture: a whole one of ``gateway.fleet.picture``."""
        if self._last_ns is not None:
            if now_ns - self._last_ns < EVERY_NS - SECOND // 2:
                return
            if now_ns - self._last_ns > PAUSE_NS:
                self._at_ms, self._loads = [], {}
        self._last_ns = now_ns
        kept = len(self._at_ms)
        drop = kept + 1 - SAMPLES
        if drop > 0:
            del self._at_ms[:drop]
            kept -= drop
        self._at_ms.append(wall_ms)
        loads: dict[str, array[float]] = {}
        for row in picture["nodes"]:
            if row["status"] != "active":
                continue
            line = self._loads.get(row["id"])
            if line is None:
                line = array("f", [math.nan]) * kept
            elif drop > 0:
                del line[:drop]
            line.append(row["load_s"] if row["up"] else math.nan)
            loads[row["id"]] = line
        self._loads = loads

    def of(self, node: str) -> list[tuple[int, float | None]]:
        """(wall-clock ms, seconds of work that waited and ran there), the oldest first; None: it was away."""
        line = self._loads.get(node, ())
        return [
            (at_ms, None if math.isnan(load) else round(load, 2))
            for at_ms, load in zip(self._at_ms[-len(line) :] if line else (), line, strict=True)
        ]

    def check(self) -> None:
        assert len(self._at_ms) <= SAMPLES and self._at_ms == sorted(self._at_ms)
        assert all(len(line) == len(self._at_ms) for line in self._loads.values())
