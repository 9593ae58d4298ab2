"""Dialogues: the screens above the list: a story, a confirmation, the help."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from gateway.top.actions import ACTIONS, Action, asked, to_type, wants_reason
from gateway.top.views import Row
from security.errors import EdgeweaveError
from security.roster import REASON_MAX


class Details(ModalScreen[None]):
    """Lines about one row, the whole screen of them. *tell* is asked for them again by r."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,backspace", "close", "back"),
        Binding("r", "again", "ask again"),
    ]

    def __init__(
        self, title: str, facts: Sequence[str], tell: Callable[[], Awaitable[list[str]]] | None
    ) -> None:
        super().__init__()
        self._title = title
        self._facts = list(facts)
        self._tell = tell

    def compose(self) -> ComposeResult:
        yield Static(Text(self._title, no_wrap=True, overflow="ellipsis"), id="title")
        with VerticalScroll(id="story"):
            yield Static(id="lines")
        again = "  r ask again" if self._tell else ""
        yield Static(Text(f"Esc back  ↑↓ scroll{again}"), id="hints")

    def on_mount(self) -> None:
        self.query_one("#story").focus()
        self.action_again()

    def action_close(self) -> None:
        self.dismiss()

    def action_again(self) -> None:
        if self._tell is None:
            self._show(self._facts)
        else:
            self._show([*self._facts, "asking the mesh…"])
            self.run_worker(self._told(self._tell), group="story", exclusive=True)

    async def _told(self, tell: Callable[[], Awaitable[list[str]]]) -> None:
        try:
            lines = await tell()
        except EdgeweaveError as error:
            lines = [f"not told: {error.cause}{f'; {error.fix}' if error.fix else ''}"]
        self._show([*self._facts, *lines])

    def _show(self, lines: Sequence[str]) -> None:
        self.query_one("#lines", Static).update(Text("\n".join(lines)))


class Confirmation(ModalScreen[str | None]):
    """Nothing is done unless the name is typed. Ends with the reason, or ""; None: leave it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "close", "leave it")]

    def __init__(self, action: Action, row: Row) -> None:
        super().__init__()
        self._action = action
        self._row = row

    def compose(self) -> ComposeResult:
        action, row = self._action, self._row
        with Vertical(id="box"):
            yield Static(Text(f"{action.word.capitalize()} {row.key}?", style="bold"), id="question")
            yield Static(Text(action.consequence))
            words = str(row.facts.get("fingerprint") or "")
            if words:
                yield Static(Text(words, style="bold"), id="words")
            yield Static(Text(asked(action, row)), id="asked")
            yield Input(id="name")
            if wants_reason(action):
                yield Static(Text("Then why: every member can read it; Enter alone: no reason."))
                yield Input(id="reason", max_length=REASON_MAX, disabled=True)
            yield Static(Text("Esc leaves everything as it is", style="dim"), id="refusal")

    def on_mount(self) -> None:
        self.query_one("#name").focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.input.id == "reason":
            self.dismiss(" ".join(event.value.split()))
            return
        if event.value.strip() == to_type(self._action, self._row):
            if not wants_reason(self._action):
                self.dismiss("")
                return
            event.input.disabled = True  # it holds; only the reason is left to say
            reason = self.query_one("#reason", Input)
            reason.disabled = False
            reason.focus()
            self.call_after_refresh(self._ask_why)  # said when the keys go there
            return
        self.query_one("#refusal", Static).update(
            Text("That is another name: nothing was done. Type it again, or press Esc.", style="bold red")
        )
        event.input.value = ""

    def _ask_why(self) -> None:
        told = "The name holds: say why, then Enter. Esc still leaves everything as it is."
        self.query_one("#refusal", Static).update(Text(told))

    def action_close(self) -> None:
        self.dismiss(None)


def help_lines() -> list[str]:
    """What `?` shows."""
    actions = [
        f"  {each.key}        {each.word} ({each.view})".ljust(34) + f"edge-gateway {each.command}"
        for each in ACTIONS
    ]
    return [
        "  1 … 6    nodes, tasks, links, events, functions, tables; Tab: the next",
        "  ↑ ↓      choose a row; PgUp, PgDn, Home, End",
        "  Enter    all that is known of it, with its story (edge-gateway why)",
        "  /        filter: words, or state=failed function=F node=N; Esc: none",
        "  n p      older and newer tasks",
        "  ?        this; q: quit",
        "",
        "Done only after the name was typed; each is a command too:",
        *actions,
        "",
        "What the gateway does not offer is not shown. Round trips are measured, one a",
        "second. A gateway that is away is asked again every second; what was known stays.",
    ]
