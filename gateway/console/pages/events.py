"""Events: what the gateway notes, as it happens and as far back as it is kept; the audit log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from edge_node.chronicle.entry import Entry as Noted
from edge_node.chronicle.entry import Subject
from edge_node.wire.ids import is_task_id
from gateway.access.roles import Role
from gateway.console import words
from gateway.console.feed import Feed
from gateway.console.parts import Dialogue, Entry, button, el, facts, link, moment
from gateway.console.table import Column, Paged
from gateway.console.timeline import kind_of, told
from gateway.console.view import View, heading, page, part, to, why

FIRST: Final = 100
PAGE: Final = 200
LAST: Final = 500
"""Looked through when the filter changes: as many as one page of the API has."""
EVERY_S: Final = 1.0
KINDS: Final = {
    Subject.TASK.value: "Tasks",
    Subject.NODE.value: "Nodes",
    Subject.FUNCTION.value: "Functions",
    Subject.REFUSAL.value: "Refusals",
    Subject.TABLES.value: "Tables",
}
OLDEST: Final = "0-00000000"
AUDIT_ROWS: Final = 50
NEWEST: Final = 2**53 - 1
_FIELDS: Final = frozenset(Noted.__struct_fields__)


@page("/events", title="Events", section="events")
async def events(view: View, kinds: str = "", about: str = "") -> None:
    wanted = {each for each in kinds.split(",") if each in KINDS}
    narrowed = {"about": about.strip()}
    page_ = await view.api.get("/v1/events/page", limit=LAST if wanted or about else FIRST)
    place: dict[str, Any] = {"cursor": str(page_["next"]), "held": False}

    def among(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [row(each) for each in found if fits(each, wanted, narrowed["about"])]

    async def look() -> None:
        if place["held"] or not view.client.has_socket_connection:
            return
        came = await view.api.get("/v1/events/page", after=place["cursor"], limit=PAGE)
        place["cursor"] = str(came["next"])
        rows = ([gap(place["cursor"])] if came["missed"] else []) + among(came["events"])
        if rows:
            feed.add(rows)

    async def changed() -> None:
        view.stands("/events", kinds=",".join(sorted(wanted)), about=narrowed["about"])
        found = await view.api.get("/v1/events/page", limit=LAST)
        place["cursor"] = str(found["next"])
        feed.replace(among(found["events"]))

    async def toggled(kind: str) -> None:
        wanted.symmetric_difference_update({kind})
        pills[kind].attr(aria_pressed="true" if kind in wanted else "false")
        await view.attempt(changed())

    async def named(text: str) -> None:
        narrowed["about"] = text.strip()
        await view.attempt(changed())

    def hold() -> None:
        place["held"] = not place["held"]
        held.text = "Go on" if place["held"] else "Hold"
        held.attr(aria_pressed="true" if place["held"] else "false")
        state.text = "held; nothing is missed" if place["held"] else "live"

    with heading("Events", under="What this gateway notes, the newest first"):
        state = el("span", "live", "muted small", aria_live="polite")
        held = button("Hold", hold, aria_pressed="false")
    tabs(view, "live")
    with el("div", cls="filters", role="group", aria_label="Filters"):
        with el("div", cls="entry"):
            el("span", "Kinds", "entry-label")
            with el("div", cls="pills"):
                pills = {
                    kind: button(label, lambda kind=kind: toggled(kind), cls="btn--small",  # type: ignore[misc]
                                 aria_pressed="true" if kind in wanted else "false")
                    for kind, label in KINDS.items()
                }  # fmt: skip
        Entry("About", about, kind="search", placeholder="node, task, function, id", maxlength=200,
              autocomplete="off", spellcheck="false", on_change=named)  # fmt: skip
    with el("section", cls="card", aria_label="Events"):
        feed = Feed("Events", among(page_["events"]), empty=EMPTY)
    view.every(EVERY_S, look)


EMPTY: Final = (
    "Nothing that fits has been noted lately. What goes its plain way is not noted: see Tasks for that."
)


@page("/events/history", title="Events", section="events")
async def history(view: View) -> None:
    heading("Events", under="As far back as this gateway keeps them, the oldest first")
    tabs(view, "history")

    async def fetch(cursor: str) -> tuple[Sequence[dict[str, Any]], str]:
        found = await view.api.get("/v1/events/page", after=cursor or OLDEST, limit=AUDIT_ROWS)
        rows = [_cells(row(each)) for each in found["events"]]
        return rows, str(found["next"]) if len(rows) == AUDIT_ROWS else ""

    table = Paged(view, "Events", HISTORY, fetch, empty="Nothing has been noted yet.", every_s=0)
    await table.refresh()


HISTORY: Final = (
    Column("at", "When"),
    Column("kind", "What"),
    Column("told", "Told"),
    Column("links", "See"),
)


def tabs(view: View, here: str) -> None:
    """The pages of this section."""
    shown = [("live", "Live", "/events"), ("history", "From the beginning", "/events/history")]
    if view.administers:
        shown.append(("audit", "Audit log", "/events/audit"))
    with el("nav", cls="tabs", aria_label="Events"):
        for name, label, path in shown:
            link(label, to(path), cls="tab", aria_current="page" if name == here else None)


def fits(event: Mapping[str, Any], kinds: set[str], about: str) -> bool:
    """Is it of these kinds (none: all), and about that?"""
    if kinds and event["subject"] not in kinds:
        return False
    return not about or any(str(event[name]).startswith(about) for name in ("id", "node", "place", "cause"))


def row(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event as the feed shows it."""
    noted = Noted(**{name: value for name, value in event.items() if name in _FIELDS})
    _, tone = kind_of(noted)
    return {
        "key": str(event["cursor"]),
        "at": noted.at_ms,
        "kind": noted.what,
        "tone": tone,
        "parts": told(noted, noted.id if noted.subject == Subject.TASK else ""),
        "links": links_of(noted),
    }


def gap(cursor: str) -> dict[str, Any]:
    """Something is not kept any more."""
    text = "Some of what happened here is not kept any more: the gateway was cut off, or it was too long ago."
    return {"key": f"gap-{cursor}", "missed": text}


def links_of(noted: Noted) -> list[dict[str, str]]:
    """What it is about, and what it followed from."""
    name, found = noted.id, []
    if noted.subject == Subject.TASK and is_task_id(name):
        found.append({"text": "task", "href": to(f"/tasks/{part(name)}"), "says": f"task {name}"})
    elif noted.subject == Subject.NODE:
        found.append({"text": name, "href": to(f"/nodes/{part(name)}"), "says": f"node {name}"})
    elif noted.subject == Subject.FUNCTION:
        found.append({"text": name, "href": to(f"/functions/{part(name)}"), "says": f"function {name}"})
    elif noted.subject == Subject.TABLES:
        found.append({"text": name, "href": why(name), "says": f"why {name}"})
    if noted.cause and noted.cause != name:
        cause = noted.cause
        href = to(f"/tasks/{part(cause)}") if is_task_id(cause) else why(cause)
        found.append({"text": "why", "href": href, "says": f"why {cause}"})
    elif noted.subject == Subject.REFUSAL:
        found.append({"text": "why", "href": why(name), "says": f"why {name}"})
    return found


def _cells(shown: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "key": shown["key"],
        "at": {"at": shown["at"], "kind": "precise"},
        "kind": {"badge": shown["kind"], "tone": shown["tone"]},
        "told": [each | {"kind": "precise"} if isinstance(each, dict) else {"text": each}
                 for each in shown["parts"]],
        "links": [{"text": each["text"], "href": each["href"]} for each in shown["links"]],
    }  # fmt: skip


# ── the audit log ─────────────────────────────────────────────────────────────────────────────────────


@page("/events/audit", title="Audit log", section="events", role=Role.ADMIN)
async def audit(view: View) -> None:
    known: dict[str, dict[str, Any]] = {}

    async def fetch(cursor: str) -> tuple[Sequence[dict[str, Any]], str]:
        told = await view.api.get("/v1/audit", before=int(cursor or NEWEST), limit=AUDIT_ROWS)
        entries = told["entries"][::-1]
        known.clear()
        known.update({str(each["n"]): each for each in entries})
        further = str(entries[-1]["n"]) if entries and entries[-1]["n"] > 1 else ""
        return [audit_row(each) for each in entries], further

    async def acted(key: str, _: str) -> None:
        if key in known:
            await look_at(known[key])

    async def verify() -> None:
        went, told = await view.attempt(view.api.get("/v1/audit/verify"))
        if not went or told is None:
            return
        whole = told["broken_at"] is None
        verdict.classes(replace=f"banner banner--{'good' if whole else 'bad'}")
        verdict.text = verdict_of(told)
        verdict.set_visibility(True)

    with heading("Audit log", under="Who changed what; each entry is chained to the one before it"):
        button("Verify", verify, tone="primary", title="Is anything changed, taken out, moved or cut off?")
    tabs(view, "audit")
    verdict = el("p", "", "banner", role="status")
    verdict.set_visibility(False)
    table = Paged(view, "Audit log", AUDIT, fetch, on_act=acted, empty="Nothing was changed yet.")
    await table.refresh()


AUDIT: Final = (
    Column("n", "No.", end=True),
    Column("at", "When"),
    Column("who", "Who"),
    Column("what", "What"),
    Column("target", "Of"),
    Column("change", "Change"),
    Column("look", "Entry"),
)


_PLACES: Final = {"node": "/nodes", "task": "/tasks", "function": "/functions", "state": "/state"}


def verdict_of(told: Mapping[str, Any]) -> str:
    entries = words.count(told["entries"], "entry", "entries")
    if told["broken_at"] is None:
        return f"It is whole: {entries}, none changed, taken out, moved or cut off."
    return f"It is broken at entry {told['broken_at']}: {told['reason']}. What stands before it is whole."


def audit_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry as the table shows it."""
    target = str(entry["target"])
    of: dict[str, Any] | None = {"text": target} if target else None
    what = str(entry["what"])
    if of and (where := _PLACES.get(what.partition(".")[0])):
        of["href"] = to(f"{where}/{part(target)}")
    return {
        "key": str(entry["n"]),
        "n": entry["n"],
        "at": {"at": entry["at_ms"], "kind": "clock"},
        "who": entry["who"],
        "what": {"badge": what, "tone": "bad" if what.endswith((".revoke", ".remove", ".deny")) else "quiet"},
        "target": of,
        "change": change(entry["before"], entry["after"]),
        "look": {"act": "look", "text": "Details"},
    }


def change(before: Any, after: Any, most: int = 120) -> str:
    """What differs, on one line: ``role viewer → admin``."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        if before is None:
            return "" if after is None else _plain(after, most)
        if after is None:
            return f"gone: {_plain(before, most - 6)}"
        return f"{words.value(before, most // 2)} → {words.value(after, most // 2)}"
    found = []
    for name in dict.fromkeys((*before, *after)):
        was, now = before.get(name), after.get(name)
        if was != now:
            found.append(f"{name} {words.value(was, 30)} → {words.value(now, 30)}")
    return words.value(", ".join(found), most)


def _plain(value: Any, most: int) -> str:
    """``function toys.add, where any``: what an object has, without its signs."""
    if not isinstance(value, dict):
        return words.value(value, most)
    return words.value(", ".join(f"{name} {words.value(each, 40)}" for name, each in value.items()), most)


async def look_at(entry: Mapping[str, Any]) -> None:
    """One entry, whole."""
    with Dialogue(f"Entry {entry['n']}: {entry['what']}", wide=True) as box:
        facts(
            (
                ("When", lambda: moment(entry["at_ms"], "full")),
                ("Who", entry["who"]),
                ("Of", entry["target"]),
                ("Reason", entry["cause"]),
                ("Hash", lambda: el("span", str(entry["hash"]), "mono")),
                ("Of the one before", lambda: el("span", str(entry["prev"]), "mono")),
            )
        )
        with el("div", cls="cols cols--even"):
            for title, value in (("Before", entry["before"]), ("After", entry["after"])):
                with el("div", cls="stack"):
                    el("h3", title, "small muted")
                    el("pre", json.dumps(value, indent=2, ensure_ascii=False) if value is not None else "–")
        with el("div", cls="actions actions--end"):
            button("Close", lambda: box.answer(None))
    await box.asked()


PAGES = (events, history, audit)
