"""Words: figures as people read them, with their units; what a state is called, and how grave it is.

Times are not among them: they go to the browser as milliseconds and are written there, in the reader's zone.
"""

from __future__ import annotations

import json
from typing import Any, Final

TONES: Final = {
    **dict.fromkeys(("up", "active", "ok", "completed", "done", "work", "live", "applied"), "good"),
    **dict.fromkeys(("pending", "waiting", "queued", "pause", "paused", "drain", "draining"), "notice"),
    **dict.fromkeys(("running", "leased", "offered", "accepted"), "busy"),
    **dict.fromkeys(("down", "failed", "lost", "fail", "expired", "refused", "revoked"), "bad"),
    **dict.fromkeys(("left", "cancelled", "unknown", "none", "warn"), "quiet"),
}
"""The tone of a word, by which it is coloured: the word itself always stands beside the colour."""


def tone(word: str) -> str:
    return TONES.get(word, "quiet")


def count(number: float, noun: str = "", plural: str = "") -> str:
    """``12 345 tasks``: thousands apart by a thin space that does not break."""
    text = f"{number:,.0f}".replace(",", "\u202f")
    if not noun:
        return text
    return f"{text} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float | None) -> str:
    """``850 µs``, ``12 ms``, ``3.4 s``, ``5 min``, ``2 h``, ``3 d``; None: a dash."""
    if seconds is None:
        return "–"
    size = abs(seconds)
    if size == 0:
        return "0 s"
    if size < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if size < 1:
        return f"{seconds * 1e3:.3g} ms" if size < 0.0995 else f"{seconds * 1e3:.0f} ms"
    if size < 10:
        return f"{seconds:.1f} s"
    for unit, length, up_to in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if size < up_to:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def size(amount: float | None) -> str:
    """``512 B``, ``1.4 KiB``, ``20 MiB``; None: a dash."""
    if amount is None:
        return "–"
    value = float(amount)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def rate(per_second: float) -> str:
    return f"{size(per_second)}/s"


def share(fraction: float | None) -> str:
    return "–" if fraction is None else f"{fraction * 100:.0f} %"


def value(anything: Any, most: int = 80) -> str:
    """A JSON value on one line."""
    text = anything if isinstance(anything, str) else json.dumps(anything, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
