"""View: one page before one reader, the frame that all pages share, and its states.

    @page("/tasks/{task}", title="Task", section="tasks")
    async def task_page(view: View, task: str) -> None:
        told = await view.api.get(f"/v1/tasks/{task}/why")
        ...

A page is built anew for each reader. A `Refusal` that is raised while it is built becomes the page's error
state; in what is done later, `View.attempt` tells it beside the field that it is about, or in a note. When
the session has ended, the reader is led to the log-in and back.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar
from urllib.parse import quote, urlencode

from fastapi import Request
from nicegui import ui

from gateway.access.roles import Principal, Role
from gateway.api.guard import COOKIE
from gateway.api.slashes import address_of, parts_of
from gateway.console import live
from gateway.console.caller import Caller, Refusal
from gateway.console.console import LOG_IN, PATH
from gateway.console.parts import El, badge, button, el, facts, link

if TYPE_CHECKING:
    from gateway.console.console import Console

T = TypeVar("T")

BRAND: Final = "edgeweave"
SECTIONS: Final = (
    ("mesh", "Mesh", "/"),
    ("nodes", "Nodes", "/nodes"),
    ("tasks", "Tasks", "/tasks"),
    ("placement", "Placement", "/placement"),
    ("functions", "Functions", "/functions"),
    ("state", "State", "/state"),
    ("join", "Join", "/join"),
    ("events", "Events", "/events"),
    ("settings", "Settings", "/settings"),
)
THEME: Final = "edgeweave-theme"
"""The cookie with the reader's choice: light, dark, or absent."""


SHELL: Final = f'<div class="shell" aria-hidden="true">{BRAND}</div>'
"""The bar as it is painted before the page's scripts are there; the real one then covers it."""


class Field(Protocol):
    """An input that can show an error beside itself."""

    error: str | None


def to(path: str, **query: Any) -> str:
    """The address of a page of the console; parts of *path* that come from elsewhere go through `part`."""
    asked = urlencode({name: value for name, value in query.items() if value not in (None, "")})
    return f"{PATH}{path}" + (f"?{asked}" if asked else "")


def lead(address: str) -> None:
    """Open an address of the console; NiceGUI puts its own path before it again."""
    ui.navigate.to(address.removeprefix(PATH))


def part(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")


def why(about: str) -> str:
    """Where it is explained."""
    return to(f"/why/{part(about)}")


class View:
    """What a page's builder is given."""

    def __init__(self, console: Console, request: Request, me: Principal) -> None:
        self.me = me
        self.request = request
        self.services = console.services
        self.cookie = request.cookies.get(COOKIE, "")
        client = request.client
        self.api = Caller(
            console.app, self.cookie, me.csrf, (client.host, client.port) if client else ("127.0.0.1", 0)
        )
        self._here = address_of(request.scope)
        self._troubles: dict[object, str] = {}
        self.client = ui.context.client
        self.client.on_delete(self.api.close)

    @property
    def operates(self) -> bool:
        return self.me.role >= Role.OPERATOR

    @property
    def administers(self) -> bool:
        return self.me.role >= Role.ADMIN

    def go(self, path: str, **query: Any) -> None:
        """Lead the reader to another page of the console."""
        lead(to(path, **query))

    def log_in_again(self) -> None:
        lead(to(LOG_IN, next=self._here))

    def stands(self, path: str, **query: Any) -> None:
        """What is shown now has this address: a filter was changed in place."""
        self._here = to(path, **query)
        ui.navigate.history.replace(self._here)

    def note(self, text: str, tone: str = "good") -> None:
        """A sentence for a while, in the corner."""
        kind = {"good": "positive", "bad": "negative", "notice": "warning"}.get(tone, "info")
        ui.notify(text, type=kind, position="bottom-right", timeout=8000 if tone == "bad" else 4000)  # type: ignore[arg-type]

    async def attempt(
        self, work: Awaitable[T], *, fields: Mapping[str, Field] | None = None, done: str = ""
    ) -> tuple[bool, T | None]:
        """(whether it went well, its value). A refusal is told: beside ``fields[name]``, else in a note.

        Args: fields: by the last part of the API's name, ``ttl_s`` for ``body.ttl_s``.
        done: a note when it went well.
        """
        for each in (fields or {}).values():
            each.error = None
        try:
            value = await work
        except Refusal as refusal:
            self.tell(refusal, fields)
            return False, None
        if done:
            self.note(done)
        return True, value

    def tell(self, refusal: Refusal, fields: Mapping[str, Field] | None = None) -> None:
        if refusal.status == 401:
            self.log_in_again()
            return
        named = refusal.field.rpartition(".")[2]
        if fields and named in fields:
            fields[named].error = refusal.sentence
        else:
            self.note(refusal.sentence, "bad")

    def every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> ui.timer:
        """*work* again and again while the page is open; a refusal is shown in the frame until it is over."""

        async def once() -> None:
            try:
                await work()
            except Refusal as refusal:
                if refusal.status == 401:
                    timer.cancel()
                    self.log_in_again()
                else:
                    self.trouble(refusal.sentence, of=work)
            else:
                self.trouble("", of=work)

        timer = ui.timer(seconds, once, immediate=False)
        return timer

    def trouble(self, sentence: str, *, of: object = None) -> None:
        """A line above the page while something cannot be asked; "" takes it away.

        Args: of: what cannot be asked: others that can do not take its line away.
        """
        self._troubles.pop(of, None)
        if sentence:
            self._troubles[of] = sentence
        shown = next(iter(self._troubles.values()), "")
        if self._trouble is not None and self._trouble.text != shown:
            self._trouble.text = shown
            self._trouble.set_visibility(bool(shown))

    _trouble: El | None = None


@dataclass(frozen=True, slots=True)
class Page:
    path: str
    title: str
    section: str
    role: Role
    build: Callable[..., Coroutine[Any, Any, None]]

    def register(self) -> None:
        given = list(inspect.signature(self.build, eval_str=True).parameters.values())[1:]

        async def shown(request: Request, **given: Any) -> None:
            named = {name: given[name] for name in request.path_params if name in given}
            await self._show(request, given | parts_of(named))

        asking = inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY, annotation=Request)
        named = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in given]
        shown.__signature__ = inspect.Signature([asking, *named])  # type: ignore[attr-defined]
        shown.__name__ = self.build.__name__
        ui.page(self.path, title=f"{self.title} · {BRAND}", response_timeout=20)(shown)

    async def _show(self, request: Request, given: dict[str, Any]) -> None:
        console, _ = _bound[0]
        me = console.reader(request)
        if me is None:  # it ended since the guard looked
            lead(to(LOG_IN))
            return
        view = View(console, request, me)
        with _frame(view, self):
            if me.role < self.role:
                forbidden(view, self.role)
                return
            try:
                await self.build(view, **given)
            except Refusal as refusal:
                if refusal.status == 401:
                    view.log_in_again()
                elif refusal.status == 403:
                    problem("You may not see this", refusal.sentence)
                elif refusal.status == 404:
                    problem("There is no such thing", refusal.sentence)
                else:
                    problem("This cannot be shown now", refusal.sentence, again=True)


def page(
    path: str, *, title: str, section: str, role: Role = Role.VIEWER
) -> Callable[[Callable[..., Coroutine[Any, Any, None]]], Page]:
    """A page of the console: an async builder that takes a `View` and what *path* and query name."""

    def made(build: Callable[..., Coroutine[Any, Any, None]]) -> Page:
        return Page(path, title, section, role, build)

    return made


_bound: list[tuple[Console, str]] = []


def bind(console: Console, version: str) -> None:
    """Pages belong to *console* from now on. Args: version: of the static files."""
    _bound[:] = [(console, version)]
    live.bind(console.services)


# ── states ────────────────────────────────────────────────────────────────────────────────────────────


def empty(title: str, text: str = "", *, action: str = "", href: str = "") -> None:
    """Nothing is there yet, and what brings something."""
    with el("div", cls="empty"):
        el("p", title, "empty-title")
        if text:
            el("p", text, "muted")
        if action:
            link(action, href, cls="btn")


def problem(title: str, text: str, *, again: bool = False) -> None:
    with el("div", cls="empty empty--bad", role="alert"):
        el("p", title, "empty-title")
        el("p", text)
        if again:
            button("Try again", ui.navigate.reload)


def forbidden(view: View, role: Role) -> None:
    problem(
        "This page is not for your role",
        f"It needs the role {role.word}, and {view.me.name} is {view.me.role.word}: ask an administrator.",
    )


# ── the frame ─────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _frame(view: View, shown: Page) -> Iterator[None]:
    _, version = _bound[0]
    base = f"{PATH}/static"
    ui.add_head_html(
        f'<link rel="stylesheet" href="{base}/console.css?v={version}">'
        f'<script src="{base}/console.js?v={version}"></script>'
    )
    ui.add_body_html(SHELL)
    around = view.client.content.parent_slot
    assert around is not None
    around.parent.tag = "div"  # Quasar's page is a <main>, around everything; a page has one, and it is ours
    chosen = view.request.cookies.get(THEME)
    ui.dark_mode(value={"light": False, "dark": True}.get(chosen or ""))
    link("Skip to the content", "#content", cls="skip")
    with el("header", cls="top"):
        menu = el(
            "button", "☰", "icon-btn menu-btn", type="button", aria_label="Menu", aria_expanded="false"
        )
        menu.props["onclick"] = "ew.toggleMenu(this)"
        link(BRAND, to("/"), cls="brand")
        with el("form", cls="search", role="search", onsubmit="return ew.seek(this)"):
            says = "Explain a task, node or function"
            el("input", type="search", name="about", placeholder="why … task, node, function",
               aria_label=says,
               autocomplete="off", spellcheck="false")  # fmt: skip
        theme = el("button", "◐", "icon-btn", type="button", aria_label="Light or dark")
        theme.props["onclick"] = "ew.nextTheme()"
        with el("details", cls="who"):
            with el("summary", aria_label=f"{view.me.name}, {view.me.role.word}"):
                el("span", view.me.name, "who-name")
            with el("div", cls="who-box card"):
                facts((("Name", view.me.name), ("Role", view.me.role.word)))
                link("Password", to("/settings"), cls="btn btn--quiet")
                out = el("button", "Log out", "btn", type="button")
                out.props["onclick"] = f"ew.logOut('{view.me.csrf}')"
    with el("div", cls="body"):
        with el("nav", cls="side", id="menu", aria_label="Sections"):
            for name, label, path in SECTIONS:
                here = link(label, to(path), cls="side-link")
                if name == shown.section:
                    here.props["aria-current"] = "page"
        with el("main", cls="content", id="content", tabindex="-1"):
            view._trouble = el("p", "", "banner banner--bad", role="status")
            view._trouble.set_visibility(False)
            yield


def heading(title: str, *, under: str = "", state: str = "") -> El:
    """The page's title in a row that actions go into: ``with heading("pi-1", state="up"): button(…)``."""
    with el("div", cls="heading"):
        with el("div", cls="heading-text"):
            with el("h1", cls="title"):
                el("span", title)
                if state:
                    badge(state)
            if under:
                el("p", under, "muted")
        return el("div", cls="actions")
