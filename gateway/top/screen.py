"""Screen: the terminal view as Textual draws it. What it shows and asks is decided in ``model``."""

from __future__ import annotations

import time
from typing import Any, ClassVar, Final

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.widgets import DataTable, Input, Static

from edge_node.chronicle.narrator import narrated
from edge_node.commands.rendering import cell
from edge_node.commands.why import when
from gateway.top.actions import ACTIONS, Action, fitting, said
from gateway.top.asking import Asking
from gateway.top.dialogues import Confirmation, Details, help_lines
from gateway.top.model import Ask, Changed, Event, Filtered, Leafed, Looked, Model, Said
from gateway.top.views import BAD, DIM, GOOD, VIEWS, WARN, Row, Table, clean, cut
from security.errors import EdgeweaveError

TURN_S: Final = 0.5
"""Between two looks at what is due; also how often the screen is drawn at most, keys aside."""
STYLES: Final = {"": "", GOOD: "green", WARN: "yellow", BAD: "bold red", DIM: "dim"}
NEWEST_FIRST: Final = ("tasks", "events")


class Rows(DataTable[Text]):
    """Whose Home and End mean the first and the last row: there is no column to go to."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("home", "scroll_top", "first", show=False),
        Binding("end", "scroll_bottom", "last", show=False),
    ]


class Top(App[None]):
    """``edge-gateway top``. Args: operator: who gives the commands, as the member list notes it."""

    ENABLE_COMMAND_PALETTE = False
    TITLE = "edge-gateway top"
    CSS = """
    #head, #views, #title, #hints, #keys { height: auto; width: 1fr; }
    #head { height: 2; }
    #rows { height: 1fr; scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0; }
    #none { height: 1fr; padding: 1 2; display: none; }
    #remark { height: auto; max-height: 3; }
    #filter { height: 1; border: none; padding: 0; display: none; }
    Details, Confirmation { align: center middle; }
    Details { background: $background; }
    #title { background: $panel; text-style: bold; }
    #story { height: 1fr; scrollbar-size-vertical: 1; }
    #hints { color: $text-muted; }
    #box { width: 72; max-width: 100%; height: auto; border: round $error; padding: 0 1; }
    #box { background: $surface; }
    #words, #asked { margin-top: 1; }
    #name { height: 1; border: none; padding: 0; background: $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "quit", "quit"),
        Binding("question_mark,f1,h", "help", "help"),
        Binding("slash", "filter", "filter"),
        Binding("escape", "unfilter", "no filter"),
        Binding("tab", "turn(1)", "next", priority=True),
        Binding("shift+tab", "turn(-1)", "previous", priority=True),
        Binding("n", "leaf(1)", "older"),
        Binding("p", "leaf(-1)", "newer"),
        *(Binding(str(number), f"look('{view}')", view) for number, view in enumerate(VIEWS, 1)),
        *(Binding(each.key, f"act('{each.key}')", each.word) for each in ACTIONS),
    ]

    def __init__(self, asking: Asking, operator: str) -> None:
        super().__init__()
        self._asking = asking
        self._operator = operator
        self._model = Model(when)
        self._rows: dict[str, Row] = {}
        self._drawn: tuple[Any, ...] = ()
        self._cells: dict[str, tuple[Any, ...]] = {}

    def compose(self) -> ComposeResult:
        yield Static(id="head")
        yield Static(id="views")
        yield Rows(id="rows", cursor_type="row", show_row_labels=False)
        yield Static(id="none")
        yield Static(id="remark")
        yield Input(
            id="filter", placeholder="words, or state=… function=… node=…; Enter keeps it, Esc drops it"
        )
        yield Static(id="keys")

    def on_mount(self) -> None:
        self.query_one("#rows").focus()
        self.set_interval(TURN_S, self._turn)
        self._turn()

    # ── the model ─────────────────────────────────────────────────────────────────────────────────

    def _turn(self) -> None:
        self._carry_out(self._model.tick(time.monotonic_ns()))
        self._draw()

    def _event(self, event: Event) -> None:
        self._carry_out(self._model.handle(time.monotonic_ns(), event))

    def _carry_out(self, asks: list[Ask]) -> None:
        for ask in asks:
            self.run_worker(self._answered(ask), name=ask.question, group="questions")

    async def _answered(self, ask: Ask) -> None:
        first = not self._model.facts.status
        self._event(await self._asking.answer(ask))
        if first or ask.question in ("tasks", "functions", "tables"):  # somebody waits for these
            self._draw()

    # ── drawing ───────────────────────────────────────────────────────────────────────────────────

    def _draw(self) -> None:
        if not self.is_running or not self.screen_stack:
            return
        now_ns, width = time.monotonic_ns(), self.size.width
        base = self.screen_stack[0]
        heading = self._model.heading(now_ns)
        style = "bold" if not self._model.away else "dim"
        head = Text(no_wrap=True, overflow="ellipsis")
        head.append(cut(heading[0], width) + "\n", style)
        head.append(cut(heading[1], width), "dim" if self._model.away else "")
        base.query_one("#head", Static).update(head)
        views = Text(no_wrap=True, overflow="ellipsis")
        for number, view in enumerate(VIEWS, 1):
            views.append(f" {number} {view} ", "reverse bold" if view == self._model.view else "")
        table = self._model.table()
        views.append(cut(f"  {table.title}", width - len(views)), "dim")
        base.query_one("#views", Static).update(views)
        self._draw_rows(table, width)
        remark, bad = self._model.remark(now_ns)
        line = base.query_one("#remark", Static)
        line.display = bool(remark)
        line.update(Text(remark, style="bold red" if bad else "green"))
        self._draw_keys(width)

    def _draw_rows(self, table: Table, width: int) -> None:
        base = self.screen_stack[0]
        grid: DataTable[Text] = base.query_one("#rows", DataTable)
        none = base.query_one("#none", Static)
        none.display, grid.display = not table.rows, bool(table.rows)
        none.update(Text(table.empty))
        shown, widths = table.fitted(width - 1)
        plan = (
            self._model.view,
            tuple(zip(shown, widths, strict=True)),
            tuple(row.key for row in table.rows),
        )
        self._rows = {row.key: row for row in table.rows}
        cells = {row.key: tuple(row.cells[index] for index in shown) for row in table.rows}
        if plan == self._drawn:
            for key, now in cells.items():
                for index, (old, new) in enumerate(zip(self._cells[key], now, strict=True)):
                    if old != new:
                        text = self._text(table, shown[index], widths[index], self._rows[key])
                        grid.update_cell(key, str(shown[index]), text)
        else:
            self._refill(grid, table, shown, widths)
        self._drawn, self._cells = plan, cells

    def _refill(self, grid: DataTable[Text], table: Table, shown: list[int], widths: list[int]) -> None:
        """Anew, with the cursor on the row it was on; on the newest it stays on the newest."""
        held, at, scroll_y = self._chosen_key(grid), grid.cursor_row, grid.scroll_y
        same_view = bool(self._drawn) and self._drawn[0] == self._model.view
        grid.clear(columns=True)
        for index, width in zip(shown, widths, strict=True):
            column = table.columns[index]
            head = Text(column.name, justify="right" if column.right else "left")
            grid.add_column(head, width=width, key=str(index))
        for row in table.rows:
            texts = [self._text(table, index, width, row) for index, width in zip(shown, widths, strict=True)]
            grid.add_row(*texts, key=row.key)
        if not same_view or (at == 0 and self._model.view in NEWEST_FIRST):
            return
        keys = [row.key for row in table.rows]
        target = keys.index(held) if held in keys else min(at, len(keys) - 1)
        if target > 0:
            grid.move_cursor(row=target, scroll=False)
            grid.scroll_to(y=scroll_y + target - at, animate=False)

    @staticmethod
    def _text(table: Table, index: int, width: int, row: Row) -> Text:
        one = row.cells[index]
        justify: Any = "right" if table.columns[index].right else "left"
        return Text(cut(one.text, width), style=STYLES[one.tone], justify=justify, no_wrap=True)

    def _draw_keys(self, width: int) -> None:
        words = [("q", "quit"), ("?", "help"), ("/", "filter")]
        row = self._chosen()
        if row is not None:
            words.append(("Enter", "details"))
        if self._model.view == "tasks":
            words += [("n", "older")] if self._model.has_older else []
            words += [("p", "newer")] if self._model.page > 1 else []
        words += [(each.key, each.word) for each in fitting(self._model.view, row, self._model.facts.methods)]
        line = Text(no_wrap=True, overflow="ellipsis")
        for key, word in words:
            if len(line) + len(key) + len(word) + 3 <= width:
                line.append(f"{key} ", "bold")
                line.append(f"{word}  ", "dim")
        self.screen_stack[0].query_one("#keys", Static).update(line)

    def _chosen_key(self, grid: DataTable[Text]) -> str:
        if not grid.row_count or not 0 <= grid.cursor_row < grid.row_count:
            return ""
        return str(grid.ordered_rows[grid.cursor_row].key.value)

    def _chosen(self) -> Row | None:
        grid: DataTable[Text] = self.screen_stack[0].query_one("#rows", DataTable)
        return self._rows.get(self._chosen_key(grid))

    def on_resize(self, event: Resize) -> None:
        self._draw()

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        self._draw_keys(self.size.width)

    # ── keys ──────────────────────────────────────────────────────────────────────────────────────

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Tab belongs to whatever dialogue is open."""
        return not (action == "turn" and len(self.screen_stack) > 1)

    def action_look(self, view: str) -> None:
        self._event(Looked(view))
        self._draw()

    def action_turn(self, by: int) -> None:
        self.action_look(VIEWS[(VIEWS.index(self._model.view) + by) % len(VIEWS)])

    def action_leaf(self, by: int) -> None:
        self._event(Leafed(by))
        self._draw()

    def action_filter(self) -> None:
        line = self.query_one("#filter", Input)
        line.display = True
        line.focus()

    def action_unfilter(self) -> None:
        line = self.query_one("#filter", Input)
        line.value, line.display = "", False
        self.query_one("#rows").focus()
        self._event(Filtered(""))
        self._draw()

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input.id == "filter" and event.input.display:
            self._event(Filtered(event.value))
            self._draw()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.input.id == "filter":
            event.input.display = False
            self.query_one("#rows").focus()

    def action_help(self) -> None:
        self.push_screen(Details("Keys", help_lines(), None))

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        row = self._chosen()
        if row is None:
            return

        async def tell() -> list[str]:
            lines = []
            if self._model.view == "functions":
                lines = [
                    f"version {each['version']}  {each['digest'][:12]}  since {when(each['issued_at_ms'])}"
                    for each in await self._asking.history(row.key)
                ]
            return ["", *lines, *(clean(line) if not line.startswith(" ") else f"  {clean(line)}"
                                  for line in narrated(await self._asking.why(row.about), when))]  # fmt: skip

        width = max((len(_spoken(name)) for name in row.facts), default=0)
        facts = [
            f"{_spoken(name):<{width}}  {clean(text)}"
            for name, value in row.facts.items()
            if (text := cell(value, name, whole=True))
        ]
        title = f"{self._model.view}: {row.key}" if self._model.view != "events" else f"event of {row.about}"
        self.push_screen(Details(clean(title), facts, tell if row.about else None))

    def action_act(self, key: str) -> None:
        row = self._chosen()
        fits = [each for each in fitting(self._model.view, row, self._model.facts.methods) if each.key == key]
        if row is None or not fits:
            return
        action = fits[0]

        def confirmed(reason: str | None) -> None:
            if reason is not None:
                self.run_worker(self._done(action, row, reason), group="actions")

        self.push_screen(Confirmation(action, row), confirmed)

    async def _done(self, action: Action, row: Row, reason: str) -> None:
        self._event(Said(f"{action.word} {row.key}…"))
        self._draw()
        try:
            answer = await self._asking.act(action, row, self._operator, reason)
        except EdgeweaveError as error:
            fix = f"; {error.fix}" if error.fix else ""
            self._event(Said(f"{action.word} {row.key}: {error.cause}{fix}", bad=True))
        else:
            self._event(Said(said(action, row, answer)))
            self._event(Changed())
        self._draw()

    async def on_unmount(self) -> None:
        await self._asking.close()


def _spoken(name: str) -> str:
    return name.removesuffix("_at_ms").replace("_", " ")
