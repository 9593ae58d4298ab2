"""Matrix: shares and times by row and column, as a table whose cells are filled by their share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nicegui.element import Element


class Matrix(Element, component="static/matrix.js"):
    """It is told ``{"columns": [{name, href}], "rows": [{name, href, runs, cells}]}``; a cell is
    ``{share, text, time, title}`` or None.
    """

    def __init__(self, label: str, empty: str) -> None:
        super().__init__()
        self._props |= {"label": label, "empty": empty, "told": None}

    def tell(self, told: Mapping[str, Any]) -> None:
        if told != self._props["told"]:
            self._props["told"] = dict(told)
            self.update()
