"""Arrivals: what one node is asked for, and when: lazily, in the order of time.

    calls        windows of its trace or sensor, as ``devices.plan`` paces them       ┐
    arrivals     constant ─ poisson ─ bursty ─ the moments of a recorded trace        ├─► Ask, Ask, …
                 with bytes of a drawn length, or the newest window                   ┘
A source draws from a stream of its own, taken from the generator in the order of the file, so that the tasks
of one do not move those of another. Nothing is kept but one task of each source (of calls with jitter, those
of a jitter's length).

In: a device, a generator. Out: ``Ask``. Not here: files (``devices.moments``), readings (``devices.series``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush, merge
from typing import TYPE_CHECKING, Any

from device_sim.devices.plan import SECOND, in_turn, newest
from device_sim.scenario.tables import BYTES_MAX, Arrivals, DevicesTable, Spread

if TYPE_CHECKING:
    from random import Random

Moments = Mapping[tuple[str, str], Sequence[int]]
"""(file, column) -> nanoseconds after its first moment, ascending."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A task to come."""

    at_ns: int
    """After the begin of the replay."""
    function: str
    input_bytes: int
    """Of its input; 0: it is the window."""
    rows: tuple[int, int] | None
    """Of the trace or sensor, the last one excluded; None: bytes."""
    deadline_s: float | None
    ttl_s: float | None
    where: str
    priority: int
    arguments: Mapping[str, Any]
    """By name, after the input; shared by all tasks of one source."""


def asks(
    device: DevicesTable,
    node_id: str,
    rng: Random,
    duration_s: float,
    *,
    rows: int = 0,
    moments: Moments | None = None,
) -> Iterator[Ask]:
    """Everything that one node of a class is asked for, ascending by time; of one moment in the file's order.

    Args:
        rows: readings of its trace or sensor (``devices.plan.rows_of``); 0: it has neither.
        moments: of the files that its arrivals name.
    Raises: ValueError: *node_id* is none of the class, or not one window is full.
    """
    if node_id not in device.ids:
        raise ValueError(f"{node_id} is none of {device.cls}")
    end_ns = round(duration_s * SECOND)
    # A generator's own class: a core imports no source of chance.
    streams = [type(rng)(rng.getrandbits(64)) for _ in range(1 + len(device.arrivals))]
    sources = [_called(device, rows, duration_s, streams[0])] if device.calls else []
    for each, stream in zip(device.arrivals, streams[1:], strict=True):
        sources.append(_arriving(device, each, stream, end_ns, rows, moments or {}))
    return merge(*sources, key=lambda ask: ask.at_ns)


def _called(device: DevicesTable, rows: int, duration_s: float, rng: Random) -> Iterator[Ask]:
    waiting: list[tuple[int, int, Ask]] = []
    for number, (floor_ns, planned) in enumerate(in_turn(device, rows, duration_s, rng)):
        while waiting and waiting[0][0] < floor_ns:
            yield heappop(waiting)[2]
        call = planned.call
        ask = Ask(
            planned.due_ns, call.function, 0, (planned.first, planned.last), call.deadline_s, call.ttl_s,
            call.where, call.priority, call.arguments,
        )  # fmt: skip
        heappush(waiting, (planned.due_ns, number, ask))
    while waiting:
        yield heappop(waiting)[2]


def _arriving(
    device: DevicesTable, arrivals: Arrivals, rng: Random, end_ns: int, rows: int, moments: Moments
) -> Iterator[Ask]:
    source = device.source
    for at_ns in times(arrivals, rng, moments):
        if at_ns > end_ns:
            return
        length, window = 0, None
        if arrivals.input_bytes is not None:
            length = size(arrivals.input_bytes, rng)
        else:
            assert source is not None, "the scenario was checked"
            window = newest(source, rows, at_ns)
        yield Ask(
            at_ns, arrivals.function, length, window, arrivals.deadline_s, arrivals.ttl_s, arrivals.where,
            arrivals.priority, arrivals.arguments,
        )  # fmt: skip


def times(arrivals: Arrivals, rng: Random, moments: Moments) -> Iterator[int]:
    """Nanoseconds at which tasks arrive, ascending; endless but for a trace that does not repeat.

    constant: the first at a drawn moment of the first interval, so that a class does not march in step.
    poisson: exponential intervals. bursty: bursts of geometric size come as a Poisson process, so that the
    mean rate is rate_hz (a compound Poisson process); a burst that is not over delays the next one.
    """
    rate_hz = arrivals.rate_hz or 0.0
    match arrivals.kind:
        case "constant":
            step = SECOND / rate_hz
            begun = rng.uniform(0, step)
            number = 0
            while True:  # from the number: adding up would drift
                yield round(begun + number * step)
                number += 1
        case "poisson":
            at_s = 0.0
            while True:
                at_s += rng.expovariate(rate_hz)
                yield round(at_s * SECOND)
        case "bursty":
            yield from _bursts(arrivals, rate_hz, rng)
        case "trace":
            yield from _recorded(arrivals, moments[arrivals.file, arrivals.column])


def _bursts(arrivals: Arrivals, rate_hz: float, rng: Random) -> Iterator[int]:
    gap_ns = round(arrivals.gap_s * SECOND)
    more = 1 - 1 / arrivals.burst  # chance of another task in the same burst: geometric of mean `burst`
    at_s, free_ns = 0.0, 0
    while True:
        at_s += rng.expovariate(rate_hz / arrivals.burst)
        at_ns = max(round(at_s * SECOND), free_ns)
        yield at_ns
        while rng.random() < more:
            at_ns += gap_ns
            yield at_ns
        free_ns = at_ns + gap_ns


def _recorded(arrivals: Arrivals, moments: Sequence[int]) -> Iterator[int]:
    if not moments:
        return
    # From the last moment to the first of the next round: the mean interval.
    span_ns = moments[-1] + (moments[-1] // (len(moments) - 1) if len(moments) > 1 else SECOND)
    begun_ns = 0
    while True:
        for at_ns in moments:
            yield round((begun_ns + at_ns) / arrivals.speed_up)
        if not arrivals.repeat:
            return
        begun_ns += max(1, span_ns)


def size(length: int | Spread, rng: Random) -> int:
    """Bytes of one input: constant, uniform, or lognormal with that mean and coefficient of variation."""
    if isinstance(length, int):
        return length
    if length.mean is not None and length.cv is not None:
        variance = math.log1p(length.cv**2)
        drawn = rng.lognormvariate(math.log(length.mean) - variance / 2, math.sqrt(variance))
        return min(BYTES_MAX, round(drawn))
    assert length.min is not None and length.max is not None, "the scenario was checked"
    return rng.randint(length.min, length.max)
