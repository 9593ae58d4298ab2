"""Parts: what pages are made of. Plain HTML elements, styled by `static/console.css`; times as ``<ew-time>``.

Text goes in as text: nothing that a member of the mesh sent is ever parsed as HTML.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from nicegui import ui
from nicegui.element import Element

from gateway.console import words

TimeKind = Literal["ago", "clock", "full"]
Handler = Callable[[], Awaitable[None] | None]


class El(Element):
    """An HTML element with its text."""

    @property
    def text(self) -> str:
        return self._text or ""

    @text.setter
    def text(self, text: str) -> None:
        if text != self._text:
            self._text = text
            self.update()

    def attr(self, **attrs: Any) -> El:
        """Attributes: ``aria_label`` is ``aria-label``; None takes one away."""
        for name, value in attrs.items():
            key = name.rstrip("_").replace("_", "-")
            if value is None:
                self.props.pop(key, None)
            else:
                self.props[key] = value
        return self


def el(tag: str, text: str | None = None, cls: str = "", **attrs: Any) -> El:
    """An element here; ``with el("div", cls="card"):`` puts others into it."""
    made = El(tag)
    if text is not None:
        made._text = text
    if cls:
        made.classes(cls)
    return made.attr(**attrs)


def link(text: str, href: str, *, cls: str = "", **attrs: Any) -> El:
    return el("a", text, cls, href=href, **attrs)


def button(text: str, do: Handler, *, cls: str = "", tone: str = "", **attrs: Any) -> El:
    """Args: tone: "primary", "danger", "quiet" or "". While *do* is at work it cannot be pressed again."""
    made = el("button", text, f"btn {f'btn--{tone}' if tone else ''} {cls}".strip(), type="button", **attrs)

    async def pressed() -> None:
        if made.props.get("disabled"):  # pressed twice before the browser was told
            return
        made.attr(disabled=True)
        try:
            waiting = do()
            if waiting is not None:
                await waiting
        finally:
            if not made.is_deleted:
                made.attr(disabled=None)

    made.on("click", pressed)
    return made


def badge(word: str, tone: str = "") -> El:
    """A state: its word, coloured by its tone."""
    return el("span", word, "badge", data_tone=tone or words.tone(word))


def moment(at_ms: int | None, kind: TimeKind = "ago") -> El:
    """A time in the reader's zone. Args: at_ms: wall-clock milliseconds; None or 0: a dash."""
    return el("ew-time", at=str(at_ms or ""), kind=kind)


def card(title: str = "", *, cls: str = "", level: int = 2) -> El:
    """A box; ``with card("Vitals"):`` fills it."""
    made = el("section", cls=f"card {cls}".strip())
    if title:
        with made:
            el(f"h{level}", title, "card-title")
    return made


def facts(pairs: Iterable[tuple[str, Any]], *, cls: str = "") -> El:
    """Names and values. A value may be text, an element's builder (called in place), or None: a dash."""
    with el("dl", cls=f"facts {cls}".strip()) as made:
        for name, value in pairs:
            el("dt", name)
            with el("dd"):
                if callable(value):
                    value()
                else:
                    el("span", "–" if value is None or value == "" else str(value))
    return made


class Stat:
    """A figure with its name; `tell` changes it in place."""

    def __init__(self, name: str, figure: str = "–", under: str = "", *, href: str = "") -> None:
        with el("a" if href else "div", cls="stat", **({"href": href} if href else {})):
            el("span", name, "stat-name")
            self._figure = el("span", figure, "stat-figure")
            self._under = el("span", under, "stat-under")

    def tell(self, figure: str, under: str = "") -> None:
        self._figure.text, self._under.text = figure, under


def hint(text: str) -> El:
    return el("p", text, "muted small")


def loading(rows: int = 4) -> El:
    """Grey lines where something will be."""
    with el("div", cls="skeleton", aria_label="loading", role="status") as made:
        for _ in range(rows):
            el("span", cls="skeleton-row")
    return made


# ── inputs ────────────────────────────────────────────────────────────────────────────────────────────


class Labelled:
    """What can show an error beside itself: a `view.Field`. Its input has the id ``e`` and that of *box*."""

    box: El
    input: El
    _told: El
    _hint: str

    @property
    def error(self) -> str | None:
        return self._told.text if "entry--bad" in self.box.classes else None

    @error.setter
    def error(self, text: str | None) -> None:
        self._told.text = text or self._hint
        if text:
            self.box.classes(add="entry--bad")
            self.input.attr(aria_invalid="true")
            ui.run_javascript(f"document.getElementById('e{self.box.id}')?.focus()")
        else:
            self.box.classes(remove="entry--bad")
            self.input.attr(aria_invalid=None)


class Entry(Labelled):
    """A labelled input with its own line for an error. It is a `view.Field`.

    Its first text is an attribute (``^``) and no property: drawn anew it would bring that back over what
    was typed.
    """

    def __init__(
        self,
        label: str,
        value: str = "",
        *,
        kind: str = "text",
        options: Mapping[str, str] | Sequence[str] | None = None,
        hint: str = "",
        rows: int = 0,
        on_change: Callable[[str], Awaitable[None] | None] | None = None,
        **attrs: Any,
    ) -> None:
        """Args: options: a choice, label by value (or the same).   rows: a text of so many lines."""
        self.value = value
        self._on_change = on_change
        with el("div", cls="entry") as self.box:
            tag = "select" if options is not None else "textarea" if rows else "input"
            name = f"e{self.box.id}"
            el("label", label, "entry-label", for_=name)
            given = {"id": name, "aria_describedby": f"{name}-told", **attrs}
            if tag == "input":
                given |= {"type": kind, "^value": value}
            self.input = el(tag, value if tag == "textarea" else None, "input", **given)
            if tag == "textarea":
                self.input.attr(rows=rows, spellcheck="false")
            if options is not None:
                pairs = (
                    options.items() if isinstance(options, Mapping) else ((each, each) for each in options)
                )
                with self.input:
                    for each, text in pairs:
                        el("option", text, value=each, selected=True if each == value else None)
            self._hint = hint
            self._told = el("p", hint, "entry-told", id=f"{name}-told", aria_live="polite")
        self.input.on("change" if options is not None else "input", self._changed, js_handler=_EMIT_VALUE)

    def _changed(self, event: Any) -> Awaitable[None] | None:
        self.value = str(event.args)
        return self._on_change(self.value) if self._on_change else None

    def put(self, text: str) -> None:
        """Another text in place of what was typed."""
        self.value = text
        ui.run_javascript(f"document.getElementById('e{self.box.id}').value = {json.dumps(text)}")


_EMIT_VALUE: Final = "(event) => emit(event.target.value)"


# ── dialogues ─────────────────────────────────────────────────────────────────────────────────────────


class Dialogue:
    """A box above the page; ``with Dialogue("Revoke pi-1?") as box:`` fills it.

    ``await box.asked()`` shows it. The answer is what was given to `answer`; None when it was closed.
    """

    def __init__(self, title: str, *, wide: bool = False) -> None:
        self._dialog = ui.dialog()
        self._dialog.props["aria-label"] = title
        with self._dialog:
            self._card = el("div", cls="dialogue wide" if wide else "dialogue")
            with self._card:
                el("h2", title, "card-title")

    def __enter__(self) -> Dialogue:
        self._card.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._card.__exit__()

    def answer(self, value: Any) -> None:
        self._dialog.submit(value)

    async def asked(self) -> Any:
        try:
            return await self._dialog
        finally:
            self._dialog.delete()


async def confirmed(
    title: str, text: str, *, do: str, name: str = "", reason: bool = False
) -> tuple[bool, str]:
    """(whether to go on, the reason given).

    Args: do: the verb on the button.   name: has to be typed, as what is done cannot be undone.
    reason: one may be given.
    """
    with Dialogue(title) as box:
        el("p", text)
        why = Entry("Reason (optional)", maxlength=200) if reason else None
        typed = Entry(f"Type {name} to confirm", autocomplete="off", autocapitalize="none") if name else None

        def go() -> None:
            if typed is not None and typed.value.strip() != name:
                typed.error = f"that is not {name}"
                return
            box.answer(True)

        with el("div", cls="actions actions--end"):
            button("Cancel", lambda: box.answer(None), tone="quiet")
            button(do, go, tone="danger" if name else "primary")
    went = await box.asked()
    return bool(went), why.value.strip() if why is not None else ""


# ── charts ────────────────────────────────────────────────────────────────────────────────────────────

PALETTE: Final = [f"var(--chart-{n})" for n in range(1, 7)]


def chart(options: dict[str, Any], *, label: str, height: str = "14rem") -> ui.echart:
    """ECharts as SVG, coloured by the page's variables, so that it follows light and dark.

    Args: label: what it shows, for who cannot see it.
    """
    words_ = {"color": "var(--muted)", "fontFamily": "inherit"}
    axis = {
        "axisLine": {"lineStyle": {"color": "var(--line)"}},
        "axisLabel": words_,
        "splitLine": {"lineStyle": {"color": "var(--line)"}},
        "nameTextStyle": words_,
    }
    whole = {
        "animation": False,
        "color": PALETTE,
        "textStyle": words_,
        "grid": {"left": 8, "right": 12, "top": 28, "bottom": 4, "containLabel": True},
        **options,
    }
    for each in ("xAxis", "yAxis"):
        if isinstance(whole.get(each), dict):
            whole[each] = {**axis, **whole[each]}
    made = ui.echart(whole, renderer="svg").classes("chart").style(f"height:{height}")
    made.props["role"] = "img"
    made.props["aria-label"] = label
    return made
