"""Table: rows in columns, page by page as the API pages them, or all at once.

A cell is a text, a number, None (a dash), or a mapping:

    {"text": "pi-1", "href": to("/nodes/pi-1")}     a link
    {"badge": "up"}                                  a state (its tone may be given: "tone": "good")
    {"at": 1790000000000, "kind": "ago"}             a time, in the reader's zone
    {"act": "approve", "text": "Approve"}            a button; `on_act` is told the row's key and "approve"
    {"bar": 0.4, "text": "40 %"}                     a share, as a bar

On a narrow screen each row becomes a card with the columns' labels in it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nicegui.element import Element

from gateway.console.parts import button, el

if TYPE_CHECKING:
    from gateway.console.view import View

Row = dict[str, Any]
Fetch = Callable[[str], Awaitable[tuple[Sequence[Row], str]]]
"""From a cursor ("" is the beginning): (rows, the next page's cursor or "")."""
Act = Callable[[str, str], Awaitable[None]]
EVERY_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Column:
    """Args: end: figures stand at the right.   hide_narrow: not on a phone."""

    name: str
    label: str
    end: bool = False
    hide_narrow: bool = False


class Grid(Element, component="static/grid.js"):
    """Rows as they are given; `tell` replaces them. Each row has its key under "key"."""

    def __init__(
        self,
        label: str,
        columns: Sequence[Column],
        *,
        empty: str = "Nothing here yet.",
        on_act: Act | None = None,
    ) -> None:
        super().__init__()
        self._props["label"] = label
        self._props["columns"] = [
            {
                "name": each.name, "label": each.label, "end": each.end, "hideNarrow": each.hide_narrow,
            }
            for each in columns
        ]  # fmt: skip
        self._props["rows"] = None  # loading
        self._props["empty"] = empty
        if on_act is not None:

            async def acted(event: Any) -> None:
                await on_act(str(event.args["key"]), str(event.args["act"]))

            self.on("act", acted)

    def tell(self, rows: Sequence[Mapping[str, Any]]) -> None:
        given = list(rows)
        if given != self._props["rows"]:
            self._props["rows"] = given
            self.update()


class Paged:
    """A `Grid` over an endless list: one page at a time, the first one kept fresh."""

    def __init__(
        self,
        view: View,
        label: str,
        columns: Sequence[Column],
        fetch: Fetch,
        *,
        empty: str = "Nothing here yet.",
        on_act: Act | None = None,
        every_s: float = EVERY_S,
    ) -> None:
        self._fetch = fetch
        self._behind: list[str] = []  # cursors of the pages before this one
        self._cursor = self._next = ""
        self._asking = 0
        self._view = view
        with el("div", cls="paged"):
            self.grid = Grid(label, columns, empty=empty, on_act=on_act)
            with el("div", cls="pager"):
                self._back = button("← Back", self._go_back, tone="quiet")
                self._where = el("span", "", "muted small", aria_live="polite")
                self._on = button("More →", self._go_on, tone="quiet")
        self._back.set_visibility(False)
        self._on.set_visibility(False)
        if every_s:
            view.every(every_s, self.refresh)

    async def refresh(self) -> None:
        """The page that is shown, as it is now. Raises: Refusal."""
        self._asking += 1
        serial = self._asking
        rows, further = await self._fetch(self._cursor)
        if serial != self._asking:
            return  # another page was asked for meanwhile
        self._next = further
        self.grid.tell(rows)
        self._back.set_visibility(bool(self._behind))
        self._on.set_visibility(bool(further))
        self._where.text = f"page {len(self._behind) + 1}" if self._behind or further else ""

    async def begin(self) -> None:
        """Back to the first page: the filter has changed. Raises: Refusal."""
        self._behind, self._cursor = [], ""
        await self.refresh()

    async def _go_on(self) -> None:
        if self._next:
            await self._turn([*self._behind, self._cursor], self._next)

    async def _go_back(self) -> None:
        if self._behind:
            await self._turn(self._behind[:-1], self._behind[-1])

    async def _turn(self, behind: list[str], cursor: str) -> None:
        """Another page; the one that is shown stays if it cannot be asked."""
        shown = self._behind, self._cursor
        self._behind, self._cursor = behind, cursor
        went, _ = await self._view.attempt(self.refresh())
        if not went and self._behind is behind:
            self._behind, self._cursor = shown
