"""Tasks: what this gateway accepted, as a table that can be narrowed; handing one in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from nicegui import ui

from edge_node.commands.inputs import parse_duration
from gateway.console import words
from gateway.console.caller import Refusal
from gateway.console.pages.why import names_of
from gateway.console.parts import Dialogue, Entry, button, confirmed, el, link
from gateway.console.table import Column, Paged
from gateway.console.view import Field, View, heading, page, part, to, why
from security.errors import BadInput

STATES: Final = {
    "": "Any state",
    "open": "Open",
    "done": "Done",
    "failed": "Failed",
    "expired": "Expired",
    "cancelled": "Cancelled",
    "quarantined": "Quarantined",
}
SETTLED: Final = frozenset(STATES) - {"", "open"}
ROWS: Final = 50
PRIORITY_MAX: Final = 1000
COLUMNS: Final = (
    Column("id", "Task"),
    Column("function", "Function"),
    Column("state", "State"),
    Column("place", "Where"),
    Column("accepted", "Accepted"),
    Column("took", "Took", end=True),
    Column("acts", "Actions"),
)


@page("/tasks", title="Tasks", section="tasks")
async def tasks(
    view: View, state: str = "", function: str = "", node: str = "", id: str = "", submit: str = ""
) -> None:
    asked = {"state": state if state in STATES else "", "function": function, "node": node, "id": id}
    functions = [str(each["name"]) for each in await names_of(view, "functions")]
    nodes = [str(each["id"]) for each in await names_of(view, "nodes")]

    async def fetch(cursor: str) -> tuple[Sequence[dict[str, Any]], str]:
        told = await view.api.get(
            "/v1/tasks", state=asked["state"], function=asked["function"], node=asked["node"],
            begins=asked["id"], limit=ROWS, cursor=cursor,
        )  # fmt: skip
        return [row(each, operates=view.operates) for each in told["tasks"]], str(told["next"])

    async def changed(name: str, value: str) -> None:
        asked[name] = value.strip().lower() if name == "id" else value.strip()
        view.stands("/tasks", **asked)
        await view.attempt(table.begin(), fields={"begins": by_id, "node": by_node})

    async def acted(key: str, act: str) -> None:
        await cancel(view, key)
        await view.attempt(table.refresh())

    with heading("Tasks", under="Work that this gateway accepted, the newest first"):
        reason = None if view.operates else "Handing in takes the role operator"
        button("Submit a task", lambda: submit_task(view, functions, nodes), tone="primary",
               disabled=None if view.operates else True, title=reason)  # fmt: skip
    with el("div", cls="filters", role="search", aria_label="Filters"):
        Entry("State", asked["state"], options=STATES, on_change=lambda v: changed("state", v))
        choice("Function", asked["function"], functions, lambda v: changed("function", v))
        by_node = choice("Node", asked["node"], nodes, lambda v: changed("node", v))
        by_id = Entry(
            "Task id", asked["id"], kind="search", placeholder="or how it begins", maxlength=23,
            autocomplete="off", spellcheck="false", on_change=lambda v: changed("id", v),
        )  # fmt: skip
        with el("div", cls="entry entry--button"):
            link("Clear", to("/tasks"), cls="btn btn--quiet")
    table = Paged(
        view, "Tasks", COLUMNS, fetch, on_act=acted,
        empty="No task fits. Submit one here, by edge-gateway submit, or let a program do it by the API.",
    )  # fmt: skip
    fields = {"begins": by_id, "node": by_node}
    ui.timer(0.01, lambda: view.attempt(table.refresh(), fields=fields), once=True)
    if submit and view.operates:
        ui.timer(0.05, lambda: submit_task(view, functions, nodes, chosen=submit), once=True)


def choice(label: str, value: str, names: Sequence[str], on_change: Any) -> Entry:
    """A choice among names, or a text where there are too many."""
    if not names:
        return Entry(label, value, kind="search", autocomplete="off", on_change=on_change)
    options = {"": f"Any {label.lower()}"} | {name: name for name in names}
    if value and value not in options:
        options[value] = value
    return Entry(label, value, options=options, on_change=on_change)


def row(task: Mapping[str, Any], *, operates: bool) -> dict[str, Any]:
    """A task as the table shows it."""
    state, settled = str(task["state"]), bool(task["settled_at_ms"])
    took_s = (task["settled_at_ms"] - task["accepted_at_ms"]) / 1000 if settled else None
    acts: list[dict[str, Any]] = []
    if not settled and operates:
        acts.append({"act": "cancel", "text": "Cancel"})
    place = str(task["place"])
    return {
        "key": task["id"],
        "id": {"text": task["id"], "href": to(f"/tasks/{part(str(task['id']))}"), "cls": "mono"},
        "function": {"text": task["function"], "href": to(f"/functions/{part(str(task['function']))}")},
        "state": {"badge": state, "tone": tone_of(state)},
        "place": {"text": place, "href": to(f"/nodes/{part(place)}")} if place else None,
        "accepted": {"at": task["accepted_at_ms"]},
        "took": words.duration(None if took_s is None else max(0.0, took_s)),
        "acts": acts or {"text": ""},
    }


def tone_of(state: str) -> str:
    """Of a task's state; one that is not settled is at work, whatever its owner calls it."""
    if state == "quarantined":
        return "bad"
    return words.tone(state) if state in SETTLED else "busy"


async def cancel(view: View, task: str) -> bool:
    """Ask, and call it off. Returns: whether it was asked for."""
    go, _ = await confirmed(
        "Cancel this task?", f"{task} is called off wherever it is. What it did before stays done.",
        do="Cancel the task",
    )  # fmt: skip
    if not go:
        return False
    went, told = await view.attempt(view.api.post(f"/v1/tasks/{part(task)}/cancel"))
    if went and told:
        view.note("It is cancelled." if told["cancelled"] else "It had ended before.", "good")
    return True


# ── handing in ────────────────────────────────────────────────────────────────────────────────────────


def arguments(text: str) -> dict[str, Any]:
    """The request's ``args`` or ``kwargs``. Raises: BadInput: it is no JSON list or object."""
    try:
        value = json.loads(text.strip() or "{}")
    except ValueError as error:
        at = f"line {error.lineno}, column {error.colno}: " if isinstance(error, json.JSONDecodeError) else ""
        what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise BadInput(f"{at}{what}", fix='write JSON, as {"a": 1, "b": 2} or [1, 2]') from None
    except RecursionError:
        raise BadInput("it is nested too deeply", fix="flatten it") from None
    if isinstance(value, dict):
        return {"kwargs": value}
    if isinstance(value, list):
        return {"args": value}
    raise BadInput("arguments have names or an order", fix='write {"a": 1} or [1]')


def seconds(text: str) -> float | None:
    """None: nothing was given. Raises: BadInput."""
    return parse_duration(text.strip()) if text.strip() else None


async def submit_task(
    view: View, functions: Sequence[str], nodes: Sequence[str], *, chosen: str = ""
) -> None:
    """A dialogue; after it the reader is on the task's page."""
    signatures = {str(each["name"]): each for each in await names_of(view, "functions")}
    with Dialogue("Submit a task", wide=True) as box:
        about = el("p", "", "muted small", aria_live="polite")

        def shown(name: str) -> None:
            known = signatures.get(name)
            about.text = "" if known is None else f"{known['signature']}  {known['doc']}".strip()

        first = chosen if chosen in functions else (functions[0] if functions else chosen)
        function = Entry("Function", first, on_change=shown, options=list(functions) or None)
        shown(first)
        about.move(function.box)
        given = Entry(
            "Arguments", "{}", rows=5, hint='JSON: {"name": value, …}, or a list for arguments in order'
        )
        places = {"any": "Anywhere", "local": "On the gateway, and nowhere else"}
        places |= {name: f"Only {name}" for name in nodes if name != "gateway"}
        with el("div", cls="cols cols--even"):
            where = Entry("Where", "any", options=places if nodes else None)
            priority = Entry("Priority", "0", kind="number", hint="higher first", min=-1000, max=1000, step=1)
            ttl = Entry("Keep trying for", "", placeholder="as the gateway is set", hint="30s, 5m, 2h, 1d")
            deadline = Entry("Of use only within", "", placeholder="no deadline", hint="30s, 5m, 2h, 1d")
        refused = el("p", "", "banner banner--bad", role="alert")
        refused.set_visibility(False)
        fields: dict[str, Field] = {
            "function": function, "kwargs": given, "args": given, "where": where, "priority": priority,
            "ttl_s": ttl, "deadline_s": deadline,
        }  # fmt: skip

        async def go() -> None:
            for each in fields.values():
                each.error = None
            refused.set_visibility(False)
            body: dict[str, Any] = {"function": function.value, "where": where.value or "any"}
            reads: tuple[tuple[Entry, Callable[[str], dict[str, Any]]], ...] = (
                (given, arguments),
                (ttl, lambda text: {"ttl_s": seconds(text)}),
                (deadline, lambda text: {"deadline_s": seconds(text)}),
                (priority, lambda text: {"priority": whole(text)}),
            )
            wrong = False
            for entry, read in reads:
                try:
                    body |= read(entry.value)
                except BadInput as error:
                    entry.error, wrong = str(error), True
            if wrong:
                return
            try:
                told = await view.api.post("/v1/tasks", body)
            except Refusal as refusal:
                say(refusal)
                return
            box.answer(str(told["task"]))

        def say(refusal: Refusal) -> None:
            named = refusal.field.split(".")[1:2]
            if refusal.status == 401:
                view.log_in_again()
            elif named and named[0] in fields:
                fields[named[0]].error = refusal.sentence
            elif refusal.status == 422:  # the function is known: its arguments do not fit
                given.error = refusal.sentence
            else:
                refused.text = _ON_THE_COMMAND_LINE.sub("", refusal.sentence)
                refused.set_visibility(True)
                refused.clear()
                if refusal.cause.startswith("r-"):
                    with refused:
                        el("span", " ")
                        link(f"why {refusal.cause}", why(refusal.cause))

        with el("div", cls="actions actions--end"):
            button("Close", lambda: box.answer(None), tone="quiet")
            button("Submit", go, tone="primary")
    task = await box.asked()
    if task:
        view.go(f"/tasks/{part(task)}")


_ON_THE_COMMAND_LINE: Final = re.compile(r" \(why: [^)]{1,80}\)")
"""A link stands here for it."""


def whole(text: str) -> int:
    """Raises: BadInput."""
    try:
        number = int(text.strip() or "0")
    except ValueError:
        number = PRIORITY_MAX + 1
    if not -PRIORITY_MAX <= number <= PRIORITY_MAX:
        raise BadInput("that is no priority", fix="give a whole number from -1000 to 1000, higher first")
    return number


PAGES = (tasks,)
