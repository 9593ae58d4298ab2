"""Story: what `why` tells of an id, drawn over time with its sentences below; the page asks for it itself.

Others are asked for their sides, which takes up to two seconds: the page is there before its story is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nicegui.element import Element

from gateway.console.timeline import timeline


class Story(Element, component="static/timeline.js"):
    """Nothing is told yet: grey lines.  Args: functions: names that are links where a sentence has them."""

    def __init__(self, functions: Sequence[str] = ()) -> None:
        super().__init__()
        self._props["story"] = None
        self._props["functions"] = list(functions)

    def tell(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Args: answer: of ``/v1/why/{about}``.   Returns: the story as it is drawn."""
        story = timeline(answer)
        if story != self._props["story"]:
            self._props["story"] = story
            self.update()
        return story
