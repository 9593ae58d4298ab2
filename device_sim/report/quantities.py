"""Numbers as people read them: few digits, a unit, thousands apart. A narrow space that does not break."""

from __future__ import annotations

import math
from typing import Final

THIN: Final = "\u202f"
_BYTES: Final = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def number(value: float) -> str:
    """Whole ones in full, others with three digits that count: 12 034, 0.0123, 45.6, 1 235; 1.5, not 1.50."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace(",", THIN)
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}".replace(",", THIN)
    if size < 0.001:
        return "under 0.001" if value > 0 else "almost 0"
    digits = 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{digits}f}".rstrip("0").rstrip(".") if size >= 0.1 else f"{value:.3g}"


def quantity(value: float, unit: str) -> str:
    """With its unit; bytes and milliseconds in the multiple that reads best."""
    match unit:
        case "":
            return number(value)
        case "ms":
            return milliseconds(value)
        case "s":
            return seconds(value)
        case "B":
            return octets(value)
    return f"{number(value)}{THIN}{unit}"


def milliseconds(value: float) -> str:
    if abs(value) >= 60_000:
        return seconds(value / 1000)
    if abs(value) >= 1_000:
        return f"{number(value / 1000)}{THIN}s"
    return f"{number(value)}{THIN}ms"


def seconds(value: float) -> str:
    if value >= 7200:
        return f"{number(round(value / 3600, 1))}{THIN}h"
    if value >= 120:
        return f"{number(round(value / 60, 1))}{THIN}min"
    return f"{number(round(value, 2))}{THIN}s"


def octets(value: float) -> str:
    for size, unit in _BYTES:
        if abs(value) >= size:
            return f"{number(round(value / size, 2))}{THIN}{unit}"
    return f"{number(value)}{THIN}B"


def percent(share: float) -> str:
    """0 and 100 only where nothing, or nothing else, is meant."""
    whole = round(share * 100)
    if (whole == 0 and share > 0) or (whole == 100 and share < 1):
        return f"{share * 100:.2g}{THIN}%" if whole == 0 else f"over 99{THIN}%"
    return f"{whole}{THIN}%"


def counted(count: int, noun: str) -> str:
    return f"{number(count)} {noun}{'' if count == 1 else 's'}"
