"""Functions: what is deployed, how it fares, deploying a file, and going back to what was before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_node.functions.manifest import SOURCE_BYTES_MAX
from gateway.access.roles import Role
from gateway.console import differences, words
from gateway.console.caller import Refusal
from gateway.console.forms import FileEntry, changes, code
from gateway.console.parts import (
    Stat,
    badge,
    button,
    card,
    confirmed,
    el,
    facts,
    hint,
    link,
    moment,
)
from gateway.console.table import Column, Grid, Paged
from gateway.console.view import View, empty, heading, page, part, to, why

LOOKED_EVERY_S = 5.0
"""What is deployed changes by hand."""
FIGURES_EVERY_S = 10.0
"""Figures over a thousand tasks are read from the ledger."""
ADMINS = "Only an administrator deploys code"


def at(name: str, **query: Any) -> str:
    """A function's page."""
    return to(f"/functions/{part(name)}", **query)


# ── all of them ───────────────────────────────────────────────────────────────────────────────────────


@page("/functions", title="Functions", section="functions")
async def functions(view: View) -> None:
    with heading("Functions", under="What members may run: signed code, by name"):
        if view.administers:
            link("Deploy a file", to("/functions/deploy"), cls="btn btn--primary")
        else:
            el("button", "Deploy a file", "btn", type="button", disabled=True, title=ADMINS)
    first = await view.api.get("/v1/functions", limit=1)
    if not first["functions"]:
        _none(view)
        return
    figures: dict[str, Any] = {}

    async def fetch(cursor: str) -> tuple[Sequence[dict[str, Any]], str]:
        told = await view.api.get("/v1/functions", cursor=cursor, limit=50)
        return [row(each, figures.get(each["name"])) for each in told["functions"]], told["next"]

    with card():
        table = Paged(view, "Functions", COLUMNS, fetch, every_s=LOOKED_EVERY_S)
        over = hint("")

    async def look() -> None:
        told = await view.api.get("/v1/statistics/functions")
        figures.clear()
        figures.update({each["name"]: each for each in told["functions"]})
        over.text = reach(told)
        await table.refresh()

    await look()
    view.every(FIGURES_EVERY_S, look)


COLUMNS = (
    Column("name", "Function"),
    Column("version", "Version", end=True),
    Column("runs", "Runs", end=True),
    Column("failed", "Failed", end=True),
    Column("median", "Median", end=True),
    Column("p95", "95 %", end=True),
    Column("places", "Runs at"),
    Column("issued", "Deployed"),
    Column("why", "Why", hide_narrow=True),
)


def row(function: Mapping[str, Any], figures: Mapping[str, Any] | None) -> dict[str, Any]:
    """A line of the list. Args: figures: of the newest tasks; None: there were none of it."""
    name = function["name"]
    doc = [{"text": function["doc"], "cls": "muted small line"}] if function["doc"] else []
    cells: dict[str, Any] = {
        "key": name,
        "name": [{"text": name, "href": at(name)}, *doc],
        "version": function["version"],
        "issued": {"at": function["issued_at_ms"]},
        "why": {"text": "why", "href": why(name)},
    }
    if figures is None:
        return cells | {"runs": 0, "failed": 0, "median": None, "p95": None, "places": None}
    failed = figures["failed"] + figures["quarantined"]
    return cells | {
        "runs": words.count(figures["tasks"]),
        "failed": {"badge": words.count(failed), "tone": "bad"} if failed else 0,
        "median": words.duration(figures["median_s"]),
        "p95": words.duration(figures["p95_s"]),
        "places": places(figures["places"]),
    }


def places(counts: Mapping[str, int], most: int = 3) -> list[dict[str, Any]]:
    """Where it runs, the most used first."""
    ranked = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    cells: list[dict[str, Any]] = [
        {"text": name, "href": to(f"/nodes/{part(name)}")} for name, _ in ranked[:most]
    ]
    if len(ranked) > most:
        cells.append({"text": f"and {len(ranked) - most} more", "cls": "muted"})
    return cells


def reach(told: Mapping[str, Any]) -> str:
    """What the figures are of."""
    if not told["tasks"]:
        return "No task has been accepted by this gateway yet."
    which = "all" if told["all"] else "the newest"
    return (
        f"Figures of {which} {words.count(told['tasks'], 'task')} that this gateway accepted; times are from "
        "acceptance to the end, of those that were done."
    )


def _none(view: View) -> None:
    text = "A function is a Python function with @function above it, in a file of its own."
    if view.administers:
        empty("No functions yet", text, action="Deploy a file", href=to("/functions/deploy"))
    else:
        empty("No functions yet", f"{text} An administrator deploys it.")


# ── deploying ─────────────────────────────────────────────────────────────────────────────────────────


@page("/functions/deploy", title="Deploy", section="functions", role=Role.ADMIN)
async def deploy(view: View) -> None:
    heading("Deploy a file", under="Signed with this gateway's key and handed to every member that runs it")
    with card():
        file = FileEntry(
            "Python file",
            lambda name, content: _looked(view, file, looked, name, content),
            bytes_max=SOURCE_BYTES_MAX,
            accept=".py,text/x-python",
            hint="Its name begins the functions' names: toys.py defines toys.add. At most 1 MiB.",
        )
    looked = el("div", cls="stack")
    with looked:
        hint("What would change is shown here before anything is published.")


async def _looked(view: View, file: FileEntry, room: Any, name: str, content: bytes) -> None:
    """Shows what deploying would change; the button that does it is below."""
    room.clear()
    fields = {"": file, "file": file, "body": file}
    went, told = await view.attempt(
        view.api.send("POST", "/v1/functions", content=content, query={"file": name, "look": True}),
        fields=fields,
    )
    if not went or told is None:
        with room:
            hint(f"{name} cannot be deployed as it is: mend what is said above, then choose it again.")
        return
    compared = told.json()
    rows, fresh = compared["functions"], [row for row in compared["functions"] if row["new"]]
    before, tag = await _present(view, rows)

    async def publish() -> None:
        headers = {"if-match": tag} if tag else {}
        went, answer = await view.attempt(
            view.api.send("POST", "/v1/functions", content=content, query={"file": name}, headers=headers),
            fields=fields,
        )
        if went and answer is not None:
            done = [each for each in answer.json()["functions"] if each["new"]]
            view.note(f"Deployed {words.count(len(done), 'function')} of {name}")
            view.go("/functions" if len(rows) > 1 else f"/functions/{part(rows[0]['name'])}")

    with room:
        with card("What would change"):
            if not fresh:
                el("p", f"Nothing: {name} is deployed exactly so.")
            _compared(rows, compared["stay"])
            with el("div", cls="actions"):
                if fresh:
                    button(f"Deploy {name}", publish, tone="primary")
                else:
                    link("Back to the functions", to("/functions"), cls="btn")
        if before is not None:
            _lines_of(before, content.decode("utf-8", "replace"), name)


async def _present(view: View, rows: Sequence[Mapping[str, Any]]) -> tuple[str | None, str]:
    """(the file as it is deployed, the ETag of one of its functions); of a new file (None, "")."""
    known = next((row["name"] for row in rows if row["before"] is not None), "")
    if not known:
        return None, ""
    try:
        answer = await view.api.send("GET", f"/v1/functions/{part(known)}")
        source = await view.api.get(f"/v1/functions/{part(known)}/source")
    except Refusal:  # its code is not here, or it went meanwhile: it is deployed without being compared
        return None, ""
    return str(source["source"]), answer.headers.get("etag", "")


def _compared(rows: Sequence[Mapping[str, Any]], stay: Sequence[str]) -> None:
    with el("ul", cls="changes"):
        for each in rows:
            with el("li"):
                with el("div", cls="row"):
                    el("strong", each["name"])
                    word, tone = change_of(each)
                    badge(word, tone)
                    if each["new"]:
                        el("span", f"becomes version {each['version']}", "muted")
                if each["new"]:
                    _wishes(each)
    if stay:
        names = ", ".join(stay[:12]) + (" …" if len(stay) > 12 else "")
        hint(f"The file does not define {names}: deployed before, they stay as they are.")


def change_of(compared: Mapping[str, Any]) -> tuple[str, str]:
    """(a word, its tone) for what deploying does to one function."""
    if compared["before"] is None:
        return "new", "good"
    if not compared["new"]:
        return "unchanged", "quiet"
    if differences.wishes(compared["before"], compared["after"]):
        return "changed: callers may notice", "notice"
    return "new code", "busy"


def _wishes(compared: Mapping[str, Any]) -> None:
    found = differences.wishes(compared["before"], compared["after"])
    if not found:
        return
    with el("dl", cls="facts"):
        for label, old, new in found:
            el("dt", label)
            with el("dd"):
                if compared["before"] is not None:
                    el("del", old or "none")
                    el("span", " → ", aria_hidden="true")
                el("ins" if compared["before"] is not None else "span", new or "none")


def _lines_of(before: str, after: str, name: str) -> None:
    found = differences.lines(before, after)
    if found == []:
        return
    with card("Lines that change"):
        if found is None:
            el("p", "The files are too long to be compared here.", "muted")
        else:
            changes(found, f"Lines of {name} that change")


# ── one of them ───────────────────────────────────────────────────────────────────────────────────────


@page("/functions/{name}", title="Function", section="functions")
async def function(view: View, name: str, version: int | None = None) -> None:
    answer = await view.api.send("GET", f"/v1/functions/{part(name)}")
    told, tag = answer.json(), answer.headers.get("etag", "")
    versions = (await view.api.get(f"/v1/functions/{part(name)}/history"))["versions"]
    older = next((each for each in versions if each["digest"] != told["digest"]), None)

    async def back() -> None:
        went, _ = await confirmed(
            f"Roll {name} back?",
            f"Version {told['version'] + 1} will be the code of version {older['version'] if older else ''} "
            "again. What runs now ends as it began; what starts afterwards runs that code.",
            do="Roll back",
            name=name,
        )
        if went:
            done, _ = await view.attempt(
                view.api.post(f"/v1/functions/{part(name)}/rollback", headers={"if-match": tag}),
                done=f"{name} is back to its earlier code",
            )
            if done:
                view.go(f"/functions/{part(name)}")

    with heading(name, under=told["doc"]):
        link("Why", why(name), cls="btn btn--quiet")
        if view.operates:
            link("Submit a task", to("/tasks", function=name, submit=name), cls="btn")
        if view.administers:
            reason = "" if older else "There is no earlier code to go back to"
            do = button("Roll back", back, title=reason or None)
            if reason:
                do.attr(disabled=True)
    figures = _figures()
    with el("div", cls="cols"):
        with card("What it is"):
            _facts(told)
        with card("Versions"):
            _versions(name, told, versions, version)
    await _runs(view, name, figures)
    await _source(view, name, version, told)


def _figures() -> tuple[Stat, ...]:
    with el("div", cls="stats"):
        return tuple(Stat(each) for each in ("Runs", "Failed", "Median", "95 %", "Under way"))


def _facts(told: Mapping[str, Any]) -> None:
    facts(
        (
            ("Call", lambda: el("code", told["signature"])),
            ("Version", str(told["version"])),
            ("Deployed", lambda: moment(told["issued_at_ms"], "full")),
            ("Time limit", words.duration(told["timeout_s"])),
            ("Memory", f"{told['memory_mb']} MB"),
            ("Requires", ", ".join(told["requires"])),
            ("Needs labels", ", ".join(f"{name}={each}" for name, each in sorted(told["labels"].items()))),
            ("Code", lambda: el("code", told["digest"], "digest")),
            ("At the gateway", "yes" if told["here"] else "not yet: it is fetched when it is needed"),
        )
    )


def _versions(
    name: str, told: Mapping[str, Any], versions: Sequence[Mapping[str, Any]], shown: int | None
) -> None:
    columns = (
        Column("version", "Version"), Column("at", "Deployed"), Column("by", "Signed by"),
        Column("digest", "Code"),
    )  # fmt: skip
    grid = Grid("Versions", columns)
    now, looked = told["version"], shown or told["version"]
    rows = []
    for each in versions:
        number: list[dict[str, Any]] = [
            {"text": str(each["version"]), "href": at(name, version=each["version"])}
        ]
        if each["version"] == now:
            number.append({"badge": "current", "tone": "good"})
        if each["version"] == looked and looked != now:
            number.append({"badge": "shown below", "tone": "busy"})
        digest = {"text": each["digest"][:12], "cls": "mono", "title": each["digest"]}
        rows.append(
            {
                "key": str(each["version"]),
                "version": number,
                "at": {"at": each["issued_at_ms"]},
                "by": each["signer"],
                "digest": digest,
            }
        )
    grid.tell(rows)
    if len(versions) > 1:
        hint("A version's number shows its code, below.")


async def _runs(view: View, name: str, figures: tuple[Stat, ...]) -> None:
    with el("div", cls="cols cols--wide"):
        with card("Its tasks"):

            async def fetch(cursor: str) -> tuple[Sequence[dict[str, Any]], str]:
                told = await view.api.get("/v1/tasks", function=name, cursor=cursor, limit=20)
                return [_task(each) for each in told["tasks"]], told["next"]

            nothing = "No task of it has been accepted by this gateway yet."
            table = Paged(view, f"Tasks of {name}", TASKS, fetch, empty=nothing)
        with card("Where it runs"):
            where = Grid("Where it runs", (Column("node", "Node"), Column("share", "Share of its tasks")))
            over = hint("")

    async def look() -> None:
        told = await view.api.get("/v1/statistics/functions", function=name)
        found = next(iter(told["functions"]), None)
        over.text = reach(told)
        where.tell(shares(found["places"]) if found else [])
        _tell(figures, found)

    await table.refresh()
    await look()
    view.every(FIGURES_EVERY_S, look)


TASKS = (
    Column("id", "Task"),
    Column("state", "State"),
    Column("place", "Ran at"),
    Column("at", "Accepted"),
    Column("took", "Took", end=True),
)


def _task(told: Mapping[str, Any]) -> dict[str, Any]:
    ended = told["settled_at_ms"]
    took = max(0, ended - told["accepted_at_ms"]) / 1e3 if ended else None
    place = told["place"]
    return {
        "key": told["id"],
        "id": {"text": told["id"], "href": to(f"/tasks/{part(told['id'])}")},
        "state": {"badge": told["state"]},
        "place": {"text": place, "href": to(f"/nodes/{part(place)}")} if place else None,
        "at": {"at": told["accepted_at_ms"]},
        "took": words.duration(took),
    }


def shares(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Rows: how much of the work each node did."""
    whole = sum(counts.values())
    return [
        {
            "key": name,
            "node": {"text": name, "href": to(f"/nodes/{part(name)}")},
            "share": {"bar": count / whole, "text": f"{count / whole:.0%} · {words.count(count)}"},
        }
        for name, count in sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    ]


def _tell(figures: tuple[Stat, ...], found: Mapping[str, Any] | None) -> None:
    if found is None:
        return
    failed = found["failed"] + found["quarantined"]
    runs, failures, median, p95, under_way = figures
    runs.tell(words.count(found["tasks"]))
    failures.tell(words.count(failed), f"{failed / found['tasks']:.1%} of them")
    median.tell(words.duration(found["median_s"]), "acceptance to end")
    p95.tell(words.duration(found["p95_s"]), "acceptance to end")
    under_way.tell(words.count(found["open"]))


async def _source(view: View, name: str, version: int | None, told: Mapping[str, Any]) -> None:
    old = version is not None and version != told["version"]
    with card(f"Parameters and code of version {version or told['version']}"):
        try:
            found = await view.api.get(f"/v1/functions/{part(name)}/source", version=version)
            _parameters(found)
            if not old:
                _shown(found)
                return
            now = await view.api.get(f"/v1/functions/{part(name)}/source")
        except Refusal as refusal:
            if refusal.status == 401:
                raise
            el("p", refusal.sentence, "muted")
            return
        lines = differences.lines(found["source"], now["source"])
        if lines:
            el("p", f"Since then, up to version {told['version']}:")
            changes(lines, "Lines that changed since")
        elif lines == []:
            hint("It is the same code as the current version's.")
        _shown(found)


def _parameters(found: Mapping[str, Any]) -> None:
    """What it takes, in the order of the call."""
    grid = Grid("Parameters", PARAMETERS, empty="It takes nothing.")
    grid.tell([parameter_row(each) for each in found["params"]])
    if found["returns"]:
        with el("p", cls="row"):
            el("span", "It returns", "muted")
            el("code", found["returns"])


PARAMETERS = (
    Column("name", "Parameter"),
    Column("type", "Type"),
    Column("given", "Has to be given"),
    Column("how", "How"),
)
KINDS = {
    "positional": "by place only",
    "either": "by place or name",
    "args": "any number more, by place",
    "keyword": "by name only",
    "kwargs": "any others, by name",
}


def parameter_row(param: Mapping[str, Any]) -> dict[str, Any]:
    more = param["kind"] in ("args", "kwargs")
    return {
        "key": param["name"],
        "name": {"text": param["name"], "cls": "mono"},
        "type": {"text": param["annotation"] or "any", "cls": "mono" if param["annotation"] else "muted"},
        "given": "no" if more else "no: it has a default" if param["has_default"] else "yes",
        "how": KINDS.get(param["kind"], param["kind"]),
    }


def _shown(found: Mapping[str, Any]) -> None:
    with el("details", cls="more"):
        el("summary", f"{found['file']}, {words.size(len(found['source'].encode()))}")
        code(found["source"], f"Code of {found['file']}")


PAGES = (functions, deploy, function)
