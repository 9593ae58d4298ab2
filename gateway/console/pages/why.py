"""Why: the story of anything that has an id: a node, a function, a refusal, a loss, a table.

Not here: tasks, which have pages of their own (`pages.task`).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from nicegui import ui

from edge_node.wire.ids import is_task_id
from gateway.console.caller import Refusal
from gateway.console.parts import button, card, el, hint, link
from gateway.console.story import Story
from gateway.console.view import BRAND, View, empty, heading, page, part, problem, to, why

_NEAR: Final = re.compile(r"(?:did you mean|as) (?P<names>[^?]+)\??\Z")
"""How the API names what is like an id that nobody knows."""
NEAR_MAX: Final = 8
NAMES_MAX: Final = 200
"""Functions and nodes offered as a choice; where there are more, names are typed."""


@page("/why/{about}", title="Why", section="events")
async def why_page(view: View, about: str) -> None:
    if is_task_id(about):
        view.go(f"/tasks/{part(about)}")
        return
    await tell_story(view, about)


async def tell_story(view: View, about: str) -> None:
    with heading(about, under="What was noted of it, by everybody who had part in it"):
        links = el("span", cls="actions")
        again = el("span")
    unknown = el("div", cls="stack")
    with card("Story") as shown:
        story = Story()

    async def load() -> None:
        try:
            answer = await view.api.get(f"/v1/why/{part(about)}")
        except Refusal as refusal:
            if refusal.status != 404:
                raise
            shown.set_visibility(False)
            unknown.clear()
            tables = await tables_of(view)
            names = nearest(refusal.fix) or await alike(view, about, tables)
            with unknown:
                if about in tables:
                    empty("Nothing out of the plain has been noted of this table", TABLE,
                          action="The table", href=to(f"/state/{part(about)}"))  # fmt: skip
                else:
                    not_known(refusal, names)
            return
        name = str(answer["about"])
        if is_task_id(name):  # the beginning of its id was enough
            view.go(f"/tasks/{part(name)}")
            return
        shown.set_visibility(True)
        unknown.clear()
        told = story.tell(answer)
        links.clear()
        with links:
            for text, href in pages_of(name, answer):
                link(text, href, cls="btn")
        title = f"{told['heading']} · {BRAND}"
        ui.run_javascript(f"document.title = {json.dumps(title)}")

    async def ask() -> None:
        await view.attempt(load())

    with again:
        button("Ask again", ask, tone="quiet")
    once(view, load)


def once(view: View, load: Callable[[], Awaitable[None]]) -> None:
    """*load* as soon as the page is there; a refusal becomes a line above it."""
    ui.timer(0.01, lambda: view.attempt(load()), once=True)


def pages_of(name: str, answer: dict[str, Any]) -> list[tuple[str, str]]:
    """Pages about the same: its node, function or table."""
    subjects = {str(each["subject"]) for each in answer["entries"] if each["id"] == name}
    known = [
        ("node", "Its page", f"/nodes/{part(name)}"),
        ("function", "Its page", f"/functions/{part(name)}"),
        ("tables", "The table", f"/state/{part(name)}"),
    ]
    found = [(text, to(path)) for subject, text, path in known if subject in subjects]
    return found[:1] if "node" in subjects else found


TABLE: Final = "Conflicts, writes that were set aside and snapshots would be told here."


async def tables_of(view: View) -> list[str]:
    """Tables that there are; none if they cannot be asked."""
    try:
        return [str(each["name"]) for each in (await view.api.get("/v1/state/tables"))["tables"]]
    except Refusal:
        return []


async def alike(view: View, about: str, tables: Sequence[str]) -> list[str]:
    """Tables, nodes and functions whose names are nearly that."""
    names = [*tables, *await _names(view)]
    return difflib.get_close_matches(about, names, n=5, cutoff=0.5)


async def _names(view: View) -> list[str]:
    names = [str(each["id"]) for each in await names_of(view, "nodes")]
    return names + [str(each["name"]) for each in await names_of(view, "functions")]


async def names_of(view: View, what: str) -> list[dict[str, Any]]:
    """Functions or nodes that there are; none if they cannot be asked, or are too many to choose from."""
    try:
        told = await view.api.get(f"/v1/{what}", limit=NAMES_MAX)
    except Refusal:
        return []
    return [] if told["next"] else list(told[what])


def not_known(refusal: Refusal, names: Sequence[str]) -> None:
    """Nobody knows it: what is like it, and where ids come from."""
    problem("Nobody has noted anything of that", refusal.detail)
    if names:
        with card("Did you mean"), el("ul", cls="plain"):
            for name in names:
                with el("li"):
                    link(name, why(name))
    with card("What can be explained"), el("ul", cls="plain"):
        for text, title, path in (
            ("a task, by its id of 23 characters or how it begins:", "Tasks", "/tasks"),
            ("a node, by its name:", "Nodes", "/nodes"),
            ("a function, by its name:", "Functions", "/functions"),
            ("a refusal (r-…) or a loss (n-…), by the id that was told with it:", "Events", "/events"),
        ):
            with el("li"):
                el("span", f"{text} ")
                link(title, to(path))
    hint("What is old is forgotten: tasks after [tasks] results_kept_s, the rest when the chronicle is full.")


def nearest(fix: str) -> list[str]:
    """Ids in a fix like ``did you mean pi-1, pi-2?``."""
    found = _NEAR.search(fix)
    if found is None:
        return []
    return [each.strip(" '\"") for each in found["names"].split(",") if each.strip()][:NEAR_MAX]


PAGES = (why_page,)
