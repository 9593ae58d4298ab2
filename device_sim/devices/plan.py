"""What a device will hand over, and when: made of the pace of its trace or sensor, and of its calls.

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

from device_sim.scenario.tables import Call, DevicesTable, Sensor, Trace

if TYPE_CHECKING:
    from random import Random

SECOND: Final = 1_000_000_000
LEAST_S: Final = 1e-9
"""Bursts that come closer are none: moments are whole nanoseconds."""
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
    """Everything that the calls of one device will ask for, by when.

    Args: rows: of its trace or sensor, at least one window.   duration_s: of the replay; what is due later is
        left out.
    Raises: ValueError: more than PLANNED_MAX tasks, or not one full window.
    """
    planned: list[Planned] = []
    for _, each in in_turn(device, rows, duration_s, rng):
        planned.append(each)
        if len(planned) > PLANNED_MAX:
            raise ValueError(f"more than {PLANNED_MAX} tasks of one device; hop further, or speed up less")
    planned.sort(key=lambda each: each.due_ns)  # stable: windows of one burst keep their order
    return planned


def in_turn(device: DevicesTable, rows: int, duration_s: float, rng: Random) -> Iterator[tuple[int, Planned]]:
    """(nanoseconds before which nothing more will be due, task) in the order in which windows are full; a
    task's jitter may put it behind the next. Raises: ValueError: as ``plan``."""
    source = device.source
    assert source is not None, "a device without a trace asks for nothing"
    if rows < source.window:
        raise ValueError(f"a window of {source.window} readings is longer than the series of {rows}")
    offset_s = rng.uniform(0, source.offset_s)
    end_ns = round(duration_s * SECOND)
    if any(not call.whole for call in device.calls):
        for number, (full_s, first, last) in enumerate(_full(source, rows)):
            due_s = offset_s + full_s
            if source.burst_s >= LEAST_S:
                due_s = math.ceil(round(due_s / source.burst_s, 9)) * source.burst_s
            if due_s > duration_s:
                break
            for call in device.calls:
                if not call.whole and number % call.every_windows == 0:
                    at_s = min(duration_s, due_s + rng.uniform(0, source.jitter_s))
                    yield round(due_s * SECOND), Planned(round(at_s * SECOND), call, first, last)
    for call in device.calls:
        if call.whole:
            yield end_ns, Planned(end_ns, call, 0, rows)


def newest(source: Trace | Sensor, rows: int, at_ns: int) -> tuple[int, int]:
    """Bounds of the newest window that is full by then; offset, jitter and bursts do not shift it."""
    count = (rows - source.window) // source.hop + 1
    full = int(at_ns * (source.rate_hz * source.speed_up) / SECOND)  # readings since the first was full
    if source.repeat:
        full %= rows
    first = min(full // source.hop, count - 1) * source.hop
    return first, first + source.window


def rows_of(sensor: Sensor, duration_s: float) -> int:
    """Readings that a modelled sensor gives up to the end of a replay."""
    return sensor.window + math.ceil(duration_s * sensor.rate_hz * sensor.speed_up)


def _full(source: Trace | Sensor, rows: int) -> Iterator[tuple[float, int, int]]:
    """(seconds after the first window is full, first row, last row), growing; endless if it repeats."""
    pace = source.rate_hz * source.speed_up
    begun = 0  # readings before this round
    while True:
        for first, last in windows(rows, source.window, source.hop):
            yield (begun + first) / pace, first, last
        if not source.repeat:
            return
        begun += rows
