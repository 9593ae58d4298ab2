"""What a device will hand over, and when: a plan made of a trace's pace and the calls of its device.

      rows  0 ─────────── window ───────────►
                 hop ►─────────── window ───────────►          full at 0, hop/pace, 2·hop/pace, …
                                                                pace = rate_hz · speed_up readings a second
Randomness (the offset of a device, the jitter of each hand-over) comes in as a generator. Not here: the
readings themselves (``series``), handing over (``driver``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from device_sim.scenario import Call, DevicesTable, Trace

if TYPE_CHECKING:
    from random import Random

SECOND: Final = 1_000_000_000
PLANNED_MAX: Final = 50_000
"""Tasks of one device in a run: a plan is kept in memory, and a ledger on disk."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A task to come. Rows are of the trace, the last one excluded."""

    due_ns: int  # after the begin of the replay
    call: Call
    first: int
    last: int


def windows(rows: int, length: int, hop: int) -> Iterator[tuple[int, int]]:
    """Bounds of every full window of a series, in order."""
    for first in range(0, rows - length + 1, hop):
        yield first, first + length


def plan(device: DevicesTable, rows: int, duration_s: float, rng: Random) -> list[Planned]:
    """Everything that one device will ask for, by when.

    Args: rows: of its trace, at least one window.   duration_s: of the replay; what is due later is left out.
    Raises: ValueError: more than PLANNED_MAX tasks, or not one full window.
    """
    trace = device.trace
    assert trace is not None, "a device without a trace asks for nothing"
    if rows < trace.window:
        raise ValueError(f"a window of {trace.window} readings is longer than the series of {rows}")
    offset_s = rng.uniform(0, trace.offset_s)
    planned: list[Planned] = []
    for number, (full_s, first, last) in enumerate(_full(trace, rows)):
        due_s = offset_s + full_s
        if trace.burst_s:
            due_s = math.ceil(round(due_s / trace.burst_s, 9)) * trace.burst_s
        if due_s > duration_s:
            break
        for call in device.calls:
            if not call.whole and number % call.every_windows == 0:
                at_s = min(duration_s, due_s + rng.uniform(0, trace.jitter_s))
                planned.append(Planned(round(at_s * SECOND), call, first, last))
        if len(planned) > PLANNED_MAX:
            raise ValueError(f"more than {PLANNED_MAX} tasks of one device; hop further, or speed up less")
    for call in device.calls:
        if call.whole:
            planned.append(Planned(round(duration_s * SECOND), call, 0, rows))
    planned.sort(key=lambda each: each.due_ns)  # stable: windows of one burst keep their order
    return planned


def _full(trace: Trace, rows: int) -> Iterator[tuple[float, int, int]]:
    """(seconds after the first window is full, first row, last row), growing; endless if it repeats."""
    pace = trace.rate_hz * trace.speed_up
    begun = 0  # readings before this round
    while True:
        for first, last in windows(rows, trace.window, trace.hop):
            yield (begun + first) / pace, first, last
        if not trace.repeat:
            return
        begun += rows
