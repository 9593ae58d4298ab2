"""Node: one member, its vitals as they move, what it does, its keys, its twin, and what happened to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from gateway.console import live, words
from gateway.console.feed import Feed
from gateway.console.forms import secret
from gateway.console.mesh_graph import keep, trails
from gateway.console.pages import tasks
from gateway.console.pages.events import fits
from gateway.console.pages.events import row as event_row
from gateway.console.pages.nodes import standing
from gateway.console.parts import (
    Dialogue,
    El,
    Entry,
    Stat,
    badge,
    button,
    card,
    chart,
    confirmed,
    el,
    facts,
    hint,
    link,
    moment,
)
from gateway.console.table import Column, Grid, Paged
from gateway.console.view import View, heading, page, part, to, why
from security.identity import GATEWAY

EVERY_S: Final = 3.0
TASKS: Final = 10
EVENTS: Final = 500
"""Looked through for what is about the node: as many as one page of the API has."""
CLOCK: Final = {
    "formatter": "{HH}:{mm}", "fontSize": 12, "hideOverlap": True, "color": "var(--muted)",
    "fontFamily": "inherit",
}  # fmt: skip
SPAN_MS: Final = 300_000
"""Of the chart: as long as trails are."""
TASK_COLUMNS: Final = tuple(each for each in tasks.COLUMNS if each.name != "place")
FUNCTIONS: Final = (
    Column("name", "Function"),
    Column("runs", "Runs lately", end=True),
    Column("share", "Share of its runs"),
    Column("took", "Takes", end=True),
)
NEIGHBOURS: Final = (
    Column("name", "Node"),
    Column("rtt", "Round trip", end=True),
    Column("traffic", "Traffic", end=True),
)
NEIGHBOURS_MAX: Final = 50
TWIN: Final = (
    Column("name", "Setting"),
    Column("desired", "Desired"),
    Column("reported", "Reported"),
    Column("is", "State"),
)
NOT_YOU: Final = "That takes the role operator"


@page("/nodes/{node}", title="Node", section="nodes")
async def node_page(view: View, node: str) -> None:
    path = f"/v1/nodes/{part(node)}"
    told = await view.api.get(path)
    if told["status"] == "pending":
        _waiting(told)
        return
    name, active = str(told["id"]), told["status"] == "active"
    with el("div", cls="heading"):
        with el("div", cls="heading-text"):
            with el("h1", cls="title"):
                el("span", name)
                state = badge(standing(told))
            el("p", under_of(told), "muted")
        actions = Actions(view, told)
    shut = el("p", "", "banner banner--bad", role="status")
    with el("div", cls="stats"):
        load, workers, lent = (
            Stat("Work waiting"),
            Stat("Workers"),
            Stat(_lent_of(name), href=to("/tasks", node=name)),
        )
        rtt, traffic = Stat("Round trip"), Stat("Traffic with the gateway")
    with el("div", cls="cols cols--wide"):
        with el("div", cls="stack"):
            if active:
                with card("Work waiting there"):
                    line = chart(
                        line_of([]),
                        label=f"Seconds of work waiting at {name}, over the last minutes",
                        height="12rem",
                    )
                    said = el("p", "", "muted small")
            with card("Tasks of the gateway's there"):
                table = Paged(
                    view, f"Tasks at {name}", TASK_COLUMNS, _tasks_of(view, name),
                    empty="None of those kept ran or runs there.",
                )  # fmt: skip
            with card("What happened to it"):
                feed = Feed(
                    f"Events of {name}", [], empty="Nothing that was not plain has been noted lately."
                )
                with el("div", cls="actions"):
                    link("All its events", to("/events", about=name), cls="btn btn--quiet btn--small")
                    link(f"Why {name}", why(name), cls="btn btn--quiet btn--small")
        with el("div", cls="stack"):
            with card("Vitals"):
                vitals = el("div")
            with card("Certificate"):
                keys = el("div", cls="stack")
            with card("Functions it ran"):
                functions = Grid("Functions it ran", FUNCTIONS, empty="None of the last tasks ran there.")
            with card("Neighbours"):
                neighbours = Grid("Neighbours", NEIGHBOURS, empty="It has no session with the gateway now.")
            with card("Twin"):
                twin = Grid(
                    "Settings that it should have and has",
                    TWIN,
                    empty="Nothing is desired of it and nothing reported.",
                )
                with el("div", cls="actions"):
                    link("Its twin", to(f"/twins/{part(name)}"), cls="btn btn--quiet btn--small")

    last: dict[str, Any] = {}

    def show(now: Mapping[str, Any]) -> None:
        """What the API tells of it, where it has changed."""
        word = standing(now)
        state.text = word
        state.attr(data_tone=words.tone(word))
        shut.text = ended(now)
        shut.set_visibility(bool(shut.text))
        actions.tell(now)
        told_now = vitals_of(now)
        if last.get("vitals") != told_now:
            last["vitals"] = told_now
            vitals.clear()
            with vitals:
                facts((each, _shown(what)) for each, what in told_now)
        if last.get("keys") != now.get("keys"):
            last["keys"] = now.get("keys")
            keys.clear()
            with keys:
                _certificate(now)
        if not now["up"]:
            for each in (load, workers, rtt, traffic):
                each.tell("–")

    def told_of(picture: Mapping[str, Any]) -> None:
        """The mesh's picture, once a second."""
        keep(view.services.clock.now_ns(), view.services.clock.wall_ms(), picture)
        found = next((each for each in picture["nodes"] if each["id"] == name), None)
        if found is None:
            return
        links = [each for each in picture["links"] if name in (each["a"], each["b"])]
        if last.get("row") is not found or last.get("links") != links:
            last["row"], last["links"] = found, links
            if found["up"]:
                load.tell(words.duration(found["load_s"]) if found["load_s"] else "none", _mode(found))
                workers.tell(words.count(found["workers"]))
            lent.tell(words.count(found["running"]), "waiting or running")
            if name == GATEWAY:
                rtt.tell("here")
            else:
                rtt.tell(in_ms(found["rtt_ms"]), "from the gateway")
            sent, got = (
                sum(each[way] for each in links if each["up"]) for way in ("out_bytes_s", "in_bytes_s")
            )
            traffic.tell(words.rate(sent + got), f"{words.rate(got)} to it, {words.rate(sent)} from it")
            neighbours.tell(neighbours_of(name, links))
        if not active:
            return
        trail = trails.of(name)
        if last.get("trail") != trail:
            last["trail"] = trail
            line.options["series"] = line_of(trail)["series"]
            line.options["xAxis"] |= _span(trail)
            line.update()
            said.text = line_told(trail)

    async def look() -> None:
        if not view.client.has_socket_connection:
            return
        await ask()
        await further()

    async def further() -> None:
        page_ = await view.api.get("/v1/events/page", limit=EVENTS)
        if last.get("next") != page_["next"]:
            last["next"] = page_["next"]
            rows = [
                event_row(each)
                for each in page_["events"]
                if fits(each, set(), name) and name in (each["id"], each["node"], each["place"])
            ]
            if last.get("events") != rows:
                last["events"] = rows
                feed.replace(rows[-30:])
        placed = await view.api.get("/v1/placement")
        functions.tell(functions_of(name, placed["cells"]))
        both = await view.api.get(f"/v1/twins/{part(name)}")
        twin.tell(settings_of(both))

    async def ask() -> None:
        show(await view.api.get(path))

    actions.done = ask
    show(told)
    await table.refresh()
    await further()
    live.follow(view, told_of)
    view.every(EVERY_S, look)


def _waiting(told: Mapping[str, Any]) -> None:
    """Of one that waits to be let in there is little to tell."""
    heading(str(told["id"]), under="It has asked to be let in", state="pending")
    with card("Its request"):
        facts(
            (
                ("From", told["address"]),
                ("Asked", lambda: moment(told["last_seen_at_ms"])),
                ("Words", lambda: el("span", str(told["fingerprint"]), "words")),
            )
        )
        link("Approve or deny", to("/join"), cls="btn btn--primary")


# ── what an operator does ─────────────────────────────────────────────────────────────────────────────


async def _nothing() -> None:
    """Until the page is there."""


class Actions:
    """Buttons that fit how the node stands."""

    def __init__(self, view: View, told: Mapping[str, Any]) -> None:
        self.done: Callable[[], Awaitable[None]] = _nothing
        """Asks how the node stands, after something was changed."""
        self._view, self._name = view, str(told["id"])
        self._path = f"/v1/nodes/{part(self._name)}"
        off: dict[str, Any] = {} if view.operates else {"disabled": True, "title": NOT_YOU}
        with el("div", cls="actions") as self.box:
            self._ping = button("Ping", self._do_ping, title="Ask it for a sign of life")
            self._resume = button("Resume", self._do_resume, tone="primary", **off)
            self._pause = button("Pause", lambda: self._rest("pause"), **off)
            self._drain = button("Drain", lambda: self._rest("drain"), **off)
            self._replace = button("Replace", self._do_replace, **off)
            self._revoke = button("Revoke", self._do_revoke, tone="danger", **off)

    def tell(self, told: Mapping[str, Any]) -> None:
        active, work = told["status"] == "active", told.get("work")
        is_gateway = GATEWAY in (self._name, *told["roles"])
        self._ping.set_visibility(bool(told["up"]) and not is_gateway)
        self._resume.set_visibility(active and work != "work")
        self._pause.set_visibility(active and work != "pause")
        self._drain.set_visibility(active and work != "drain")
        self._replace.set_visibility(not is_gateway)
        self._revoke.set_visibility(active and not is_gateway)

    async def _do_ping(self) -> None:
        went, told = await self._view.attempt(self._view.api.post(f"{self._path}/ping"))
        if went and told:
            self._view.note(f"{self._name} answered after {words.duration(told['rtt_ms'] / 1000)}.")

    async def _rest(self, mode: str) -> None:
        says = {
            "pause": f"{self._name} takes no work of others any more. What waits and runs there goes on.",
            "drain": f"{self._name} takes no work of others any more, and what "
            "waits there goes back to its owners.",
        }
        go, reason = await confirmed(
            f"{mode.capitalize()} {self._name}?", says[mode], do=mode.capitalize(), reason=True
        )
        if go:
            await self._changed(mode, {"reason": reason}, {"pause": "is paused", "drain": "drains"}[mode])

    async def _do_resume(self) -> None:
        await self._changed("resume", {"reason": ""}, "takes work again")

    async def _changed(self, what: str, body: dict[str, Any], done: str) -> None:
        went, told = await self._view.attempt(self._view.api.post(f"{self._path}/{what}", body))
        if not went or told is None:
            return
        later = "" if told["told"] else " as soon as it is there"
        self._view.note(f"{self._name} {done}{later}.")
        await self._view.attempt(self.done())

    async def _do_revoke(self) -> None:
        go, reason = await confirmed(
            f"Revoke {self._name}?",
            "It is shut out of the mesh, for good: its sessions end, and its keys count nowhere any more. "
            "Work that it has is done elsewhere. To let the board in again it has to join anew.",
            do="Revoke", name=self._name, reason=True,
        )  # fmt: skip
        if not go:
            return
        went, told = await self._view.attempt(self._view.api.post(f"{self._path}/revoke", {"reason": reason}))
        if went and told:
            cut = (
                "" if told["cut"] else " The broker does not answer now: its connection is cut when it does."
            )
            self._view.note(f"{self._name} is revoked.{cut}", "good" if told["cut"] else "notice")
            self._view.go(f"/nodes/{part(self._name)}")

    async def _do_replace(self) -> None:
        with Dialogue(f"Replace the board of {self._name}") as box:
            el(
                "p",
                f"Another board takes the name {self._name} and its place. The old one is shut out when it "
                "joins.",
            )
            approval = Entry(
                "When the code is used", "auto",
                options={"auto": "Let it in at once", "pending": "Ask here first"},
            )  # fmt: skip
            with el("div", cls="actions actions--end"):
                button("Cancel", lambda: box.answer(None), tone="quiet")
                button("Make a code", lambda: box.answer(approval.value), tone="primary")
        chosen = await box.asked()
        if not chosen:
            return
        went, made = await self._view.attempt(
            self._view.api.post(f"{self._path}/replace", {"ttl_s": 3600, "approval": chosen})
        )
        if not went or made is None:
            return
        with Dialogue(f"A code for {self._name}", wide=True) as box:
            el("p", "It is shown this once.")
            secret("Join code", made["code"])
            secret("Type this on the new board", f"edge-node join {made['code']}")
            hint("It is good for an hour.")
            with el("div", cls="actions actions--end"):
                button("Close", lambda: box.answer(None))
        await box.asked()


# ── what is shown ─────────────────────────────────────────────────────────────────────────────────────


def under_of(told: Mapping[str, Any]) -> str:
    labels = " ".join(f"{key}={value}" for key, value in sorted(told["labels"].items()))
    return " · ".join(each for each in (", ".join(told["roles"]) or "member", labels) if each)


def ended(told: Mapping[str, Any]) -> str:
    """One sentence of a member that is none any more, or is away; "": it is there."""
    name, reason = told["id"], str(told.get("reason") or "")
    because = f": {reason}" if reason else ""
    if told["status"] == "revoked":
        by = f" by {told['by']}" if told.get("by") else ""
        return f"{name} was revoked{by}{because}."
    if told["status"] == "left":
        return f"{name} has left the mesh{because}."
    if not told["up"]:
        return f"{name} is down{because}." if told.get("last_seen_at_ms") else (
            f"{name} was not heard since the gateway's start: is its board on, and edge-node up started?"
        )  # fmt: skip
    return ""


Fact = str | int | None


def vitals_of(told: Mapping[str, Any]) -> list[tuple[str, Fact]]:
    """(name, what it is); a whole number is a time in ms."""
    found: list[tuple[str, Fact]] = [("State", standing(told))]
    if not told["up"]:
        found.append(("Last heard", int(told["last_seen_at_ms"]) or None))
    if told.get("since_at_ms"):
        found.append(("Since", int(told["since_at_ms"])))
    speed = told.get("speed")
    found += [
        (
            "Takes work",
            {"work": "yes", "pause": "no, paused", "drain": "no, draining"}.get(str(told.get("work"))),
        ),
        ("Software", told.get("software") or None),
        ("Speed", f"{speed:.2g} of the reference board" if speed else None),
        ("Workers", words.count(told["workers"])),
        ("Restarts", words.count(told.get("restarts") or 0)),
    ]
    return found


def _shown(what: Fact) -> Any:
    return (lambda: moment(what)) if isinstance(what, int) else what


def _certificate(told: Mapping[str, Any]) -> None:
    keys: Sequence[Mapping[str, Any]] = told.get("keys") or ()
    if told["status"] != "active":
        hint("Its keys count nowhere any more.")
    if len(keys) > 1:
        hint("A renewal is under way: the old key counts until the new one was heard.")
    for key in keys:
        facts(
            (
                ("Expires", lambda key=key: _expires(key)),
                ("Made", lambda key=key: moment(key["since_at_ms"], "full")),
                ("Its words", lambda key=key: el("span", key["words"], "words small")),
                ("SHA-256", lambda key=key: el("span", key["fingerprint"], "mono digest")),
            )
        )
    hint("Its certificate lasts 30 days and is renewed by itself long before.")


def _expires(key: Mapping[str, Any]) -> El:
    with el("span") as made:
        moment(key["until_at_ms"], "full")
    return made


def _mode(row: Mapping[str, Any]) -> str:
    return {"pause": "paused", "drain": "draining"}.get(str(row["work"]), "waiting and running")


def _lent_of(name: str) -> str:
    return "Runs now" if name == GATEWAY else "Tasks of the gateway's"


def _tasks_of(view: View, name: str) -> Any:
    async def fetch(cursor: str) -> tuple[Sequence[dict[str, Any]], str]:
        told = await view.api.get("/v1/tasks", node=name, limit=TASKS, cursor=cursor)
        return [tasks.row(each, operates=False) for each in told["tasks"]], str(told["next"])

    return fetch


def neighbours_of(name: str, links: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the sessions that *name* has, the nearest first."""
    rows = sorted(
        links, key=lambda each: (not each["up"], each["rtt_ms"] is None, each["rtt_ms"] or 0, each["b"])
    )
    found = []
    for each in rows[:NEIGHBOURS_MAX]:
        other = each["b"] if each["a"] == name else each["a"]
        found.append(
            {
                "key": other,
                "name": [
                    {"text": other, "href": to(f"/nodes/{part(other)}")},
                    *([] if each["up"] else [{"badge": "ended", "tone": "quiet"}]),
                ],
                "rtt": in_ms(each["rtt_ms"]),
                "traffic": words.rate(each["in_bytes_s"] + each["out_bytes_s"]),
            }
        )
    return found


def functions_of(name: str, cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the functions that ran there, or that a time is known of."""
    here = sorted(
        (each for each in cells if each["place"] == name), key=lambda each: (-each["runs"], each["function"])
    )
    found = []
    for each in here:
        ms = each["run_ms"] if each["run_ms"] is not None else each["learned_ms"]
        function = str(each["function"])
        found.append(
            {
                "key": function,
                "name": {"text": function, "href": to(f"/functions/{part(function)}")},
                "runs": words.count(each["runs"]),
                "share": {"bar": each["share"], "text": words.share(each["share"])},
                "took": words.duration(None if ms is None else ms / 1000),
            }
        )
    return found


def settings_of(both: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of a twin: what differs first."""
    desired, reported, delta = both["desired"], both["reported"], both["delta"]
    names = sorted({*desired, *reported} - {"node"}, key=lambda each: (each not in delta, each))
    return [
        {
            "key": each,
            "name": each,
            "desired": words.value(desired[each], 40) if each in desired else None,
            "reported": words.value(reported[each], 40) if each in reported else None,
            "is": _verdict(each, desired, delta),
        }
        for each in names
    ]  # fmt: skip


def _verdict(setting: str, desired: Mapping[str, Any], delta: Mapping[str, Any]) -> dict[str, str]:
    if setting in delta:
        return {"badge": "differs", "tone": "notice"}
    if setting in desired:
        return {"badge": "as desired", "tone": "good"}
    return {"badge": "reported", "tone": "quiet"}


def in_ms(figure: float | None) -> str:
    return words.duration(None if figure is None else figure / 1000)


def line_of(trail: Sequence[tuple[int, float | None]]) -> dict[str, Any]:
    """Options of the chart; times are drawn in the reader's zone by the browser."""
    return {
        "xAxis": {
            "type": "time", "splitLine": {"show": False}, "axisLabel": CLOCK,
            **_span(trail),
        },
        "yAxis": {"type": "value", "name": "s", "min": 0, "minInterval": 0.1},
        "grid": {"left": 8, "right": 16, "top": 26, "bottom": 4, "containLabel": True},
        "series": [
            {
                "type": "line", "step": "end", "showSymbol": False, "connectNulls": False,
                "lineStyle": {"width": 2}, "areaStyle": {"opacity": 0.15},
                "data": [[at_ms, load] for at_ms, load in trail],
            }
        ],
    }  # fmt: skip


def _span(trail: Sequence[tuple[int, float | None]]) -> dict[str, int]:
    """Five minutes, up to the last sample."""
    return {"min": trail[-1][0] - SPAN_MS, "max": trail[-1][0]} if trail else {}


def line_told(trail: Sequence[tuple[int, float | None]]) -> str:
    """The line in words."""
    known = [load for _, load in trail if load is not None]
    if len(known) < 2:
        return "It is drawn from the moment that somebody looks at the mesh."
    span_s = (trail[-1][0] - trail[0][0]) / 1000
    return (
        f"Over the last {words.duration(span_s)}, as long as somebody looked: "
        f"{words.duration(known[-1])} now, at most {words.duration(max(known))}."
    )


PAGES = (node_page,)
