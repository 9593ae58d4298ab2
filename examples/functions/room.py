"""Room climate: when does the state of a room change? Light work, plain Python.

    edge-gateway run examples/functions/room.py:changes --input examples/data/room_climate.csv

Light, CO2 and warmth tell whether people are in; humidity mostly follows the weather and is left out.
"""

from __future__ import annotations

import math

from edge_node.functions import function

COLUMNS = ("light_lux", "co2_ppm", "temperature_c")
PENALTY_FACTOR = 2.5  # of d·log n; BIC would say 1 for independent noise, room climate is far from that


@function(timeout_s=5, memory_mb=64)
def changes(rows: list[dict], penalty_factor: float = PENALTY_FACTOR) -> list[int]:
    """Row indexes at which the room's state changes.

    Args:
        rows: readings in time order, with numbers under light_lux, co2_ppm and temperature_c.
        penalty_factor: raise it for fewer change points; > 0.
    Returns: index of the first row of each new state, growing; empty below 4 rows.
    Raises: ValueError: a column is missing or not a number.
    Source: PELT with the cost of a shifting mean: R. Killick, P. Fearnhead, I. A. Eckley, "Optimal Detection
        of Changepoints With a Linear Computational Cost", JASA 107(500), 2012, sections 3.1 and 3.2.
    """
    if penalty_factor <= 0:
        raise ValueError("penalty_factor must be > 0")
    if len(rows) < 4:
        return []
    channels = []
    for column in COLUMNS:
        readings = _column(rows, column)
        if column != "temperature_c":  # light and CO2 vary by factors, not by amounts
            readings = [math.log1p(max(0.0, reading)) for reading in readings]
        scaled = _standardised(readings)
        if scaled:
            channels.append(scaled)
    return _pelt(channels, penalty_factor * len(channels) * math.log(len(rows))) if channels else []


def _column(rows: list[dict], column: str) -> list[float]:
    readings = []
    for index, row in enumerate(rows):
        reading = row.get(column)
        if isinstance(reading, bool) or not isinstance(reading, int | float) or not math.isfinite(reading):
            raise ValueError(f"row {index}: {column} is {reading!r}, not a number")
        readings.append(float(reading))
    return readings


def _standardised(readings: list[float]) -> list[float]:
    """Mean 0, variance 1; empty when the sensor stood still."""
    mean = math.fsum(readings) / len(readings)
    deviation = math.sqrt(math.fsum((reading - mean) ** 2 for reading in readings) / len(readings))
    return [(reading - mean) / deviation for reading in readings] if deviation > 1e-9 else []


def _pelt(channels: list[list[float]], penalty: float) -> list[int]:
    """Change points that minimise (sum of squared distances from each part's mean) + penalty a part."""
    n, shortest = len(channels[0]), 2
    sums = [(_running(channel), _running([x * x for x in channel])) for channel in channels]

    def cost(start: int, end: int) -> float:
        length = end - start
        return sum(
            squares[end] - squares[start] - (plain[end] - plain[start]) ** 2 / length
            for plain, squares in sums
        )

    best = [-penalty] + [math.inf] * n  # best[e]: the least for rows[:e]
    before = [0] * (n + 1)
    candidates, doomed = [0], set()
    for end in range(shortest, n + 1):
        costs = {start: best[start] + cost(start, end) for start in candidates if end - start >= shortest}
        before[end] = min(costs, key=costs.__getitem__)
        best[end] = costs[before[end]] + penalty
        # A start that is worse than the best can never be the last change again (their theorem 3.1), once
        # a part may begin at this end: one step later, as no part is shorter than two rows.
        candidates = [start for start in candidates if start not in doomed]
        doomed = {start for start in candidates if costs.get(start, -math.inf) > best[end]}
        if end > shortest:
            candidates.append(end + 1 - shortest)
    found, end = [], n
    while before[end] > 0:
        end = before[end]
        found.append(end)
    return found[::-1]


def _running(readings: list[float]) -> list[float]:
    total, sums = 0.0, [0.0]
    for reading in readings:
        total += reading
        sums.append(total)
    return sums
