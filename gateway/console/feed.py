"""Feed: what happens, the newest first, as it comes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from nicegui.element import Element

ROWS_MAX: Final = 300


class Feed(Element, component="static/feed.js"):
    """Args: first: rows that are there already, the oldest first."""

    def __init__(self, label: str, first: Sequence[Mapping[str, Any]], *, empty: str) -> None:
        super().__init__()
        self._props |= {"first": list(reversed(first)), "label": label, "empty": empty, "most": ROWS_MAX}

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows that came, the oldest first."""
        self.run_method("add", list(rows))

    def replace(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """All other rows: what is asked for has changed."""
        self._props["first"] = list(reversed(rows))
        self.run_method("replace", list(rows))
