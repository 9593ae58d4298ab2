"""Water flow in a pipeline branch: where was water lost, where did a pump push? Light work, plain Python.

    edge-gateway run examples/functions/water.py:losses --input examples/data/water_flow.csv

Both compare each reading with the usual flow around it: the median of a week, and the median absolute
deviation as its spread, which outliers hardly move (the Hampel identifier: L. Davies, U. Gather, "The
Identification of Multiple Outliers", JASA 88(423), 1993).
"""

from __future__ import annotations

import math
from statistics import median

from edge_node.functions import function

COLUMN = "flow_l_per_s"
WEEK = 168  # readings, hourly
STEP = 12  # readings that share one usual flow
THRESHOLD = 6.0  # robust standard deviations; hourly flow wanders by 4
MAD_TO_SIGMA = 1.4826  # for a normal distribution


@function(timeout_s=5, memory_mb=64)
def losses(rows: list[dict], threshold: float = THRESHOLD, interval_s: float = 3600.0) -> list[dict]:
    """Stretches of three or more readings in which flow fell far below the usual.

    Args:
        rows: readings in time order, with a number under flow_l_per_s.
        threshold: how far counts as far, in robust standard deviations; > 0.   interval_s: between rows.
    Returns: for each stretch {first, last (row indexes), lowest_l_per_s, missing_m3}.
    Raises: ValueError: a reading is missing or not a number.
    """
    flow = _flow(rows)
    usual = _usual(flow)
    low = [
        reading < centre - threshold * spread for reading, (centre, spread) in zip(flow, usual, strict=True)
    ]
    found = []
    for first, last in _stretches(low, gap=2):
        if last - first + 1 < 3:
            continue
        missing_l = math.fsum(max(0.0, usual[i][0] - flow[i]) for i in range(first, last + 1)) * interval_s
        found.append(
            {
                "first": first,
                "last": last,
                "lowest_l_per_s": min(flow[first : last + 1]),
                "missing_m3": round(missing_l / 1000, 1),
            }
        )
    return found


@function(timeout_s=5, memory_mb=64)
def peaks(rows: list[dict], threshold: float = THRESHOLD) -> list[int]:
    """Row indexes of the highest reading in each stretch far above the usual flow.

    Args: as for ``losses``.   Raises: ValueError: a reading is missing or not a number.
    """
    flow = _flow(rows)
    usual = _usual(flow)
    high = [
        reading > centre + threshold * spread for reading, (centre, spread) in zip(flow, usual, strict=True)
    ]
    return [max(range(first, last + 1), key=flow.__getitem__) for first, last in _stretches(high, gap=2)]


def _flow(rows: list[dict]) -> list[float]:
    flow = []
    for index, row in enumerate(rows):
        reading = row.get(COLUMN)
        if isinstance(reading, bool) or not isinstance(reading, int | float) or not math.isfinite(reading):
            raise ValueError(f"row {index}: {COLUMN} is {reading!r}, not a number")
        flow.append(float(reading))
    return flow


def _usual(flow: list[float]) -> list[tuple[float, float]]:
    """For each reading the median of the week around it, and its spread as a robust standard deviation."""
    usual: list[tuple[float, float]] = []
    for start in range(0, len(flow), STEP):
        middle = start + STEP // 2
        around = flow[max(0, middle - WEEK // 2) : middle + WEEK // 2]
        centre = median(around)
        spread = MAD_TO_SIGMA * median(abs(reading - centre) for reading in around)
        usual += [(centre, max(spread, 0.001 * abs(centre), 1e-9))] * min(STEP, len(flow) - start)
    return usual


def _stretches(marks: list[bool], gap: int) -> list[tuple[int, int]]:
    """First and last index of each run of marks, joining runs that at most *gap* readings part."""
    found: list[tuple[int, int]] = []
    for index, marked in enumerate(marks):
        if marked and found and index - found[-1][1] <= gap + 1:
            found[-1] = (found[-1][0], index)
        elif marked:
            found.append((index, index))
    return found
