"""State: the replicated tables with their documents, counters and sets; conflicts; the twins of nodes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.console import documents, words
from gateway.console.caller import Refusal
from gateway.console.differences import lines
from gateway.console.forms import changes
from gateway.console.parts import Entry, badge, button, card, confirmed, el, facts, hint, link, moment
from gateway.console.table import Column, Grid, Paged
from gateway.console.view import View, heading, page, part, to
from security.errors import BadInput

Doc = dict[str, Any]
EVERY_S: Final = 2.0
PAGE: Final = 50
CONFLICTS: Final = 20
KINDS: Final = {"documents": "Table of documents", "set": "Set of texts", "counter": "Counter"}
OPERATORS: Final = "To change state you need the role operator"


def table_at(table: str, **query: Any) -> str:
    return to(f"/state/{part(table)}", **query)


# ── all tables ────────────────────────────────────────────────────────────────────────────────────────


@page("/state", title="State", section="state")
async def state(view: View) -> None:
    with heading(
        "State", under="What all members share: tables, counters and sets, replicated to each of them"
    ):
        link("Twins of nodes", to("/twins"), cls="btn")
    conflicts = Conflicts(view)
    with card("Tables"):
        grid = Grid(
            "Tables", TABLES, empty="Nothing is kept yet: what programs or people write appears here."
        )

    async def look() -> None:
        told = await view.api.get("/v1/state/tables")
        grid.tell([table_row(each) for each in told["tables"]])
        await conflicts.look()

    if view.operates:
        _new(view)
    await look()
    view.every(EVERY_S, look)


TABLES = (
    Column("name", "Name"),
    Column("kind", "Kind"),
    Column("count", "Holds", end=True),
    Column("field", "Key"),
    Column("writers", "Written by"),
    Column("conflicts", "Conflicts", end=True),
)


def table_row(told: Mapping[str, Any]) -> dict[str, Any]:
    name, kind = told["name"], told["kind"]
    units = {"documents": "document", "set": "element"}
    return {
        "key": f"{kind} {name}",
        "name": {"text": name, "href": table_at(name, kind="" if kind == "documents" else kind)},
        "kind": kind,
        "count": words.count(told["count"], units[kind]) if kind in units else None,
        "field": told["key"],
        "writers": ", ".join(told["writers"]) if told["writers"] else "every member",
        "conflicts": {"badge": words.count(told["conflicts"]), "tone": "bad"} if told["conflicts"] else 0,
    }


def _new(view: View) -> None:
    with card(), el("details", cls="more"):
        el("summary", "Begin a table, a set or a counter")
        with el("div", cls="form"):
            name = Entry("Name", maxlength=128, autocomplete="off", autocapitalize="none", spellcheck="false")
            kind = Entry("Kind", "documents", options=KINDS)
            key = Entry(
                "Key of a table (optional)",
                hint="The field that tells its documents apart, for good. Empty: they have ids of their own.",
                maxlength=256, autocomplete="off", autocapitalize="none", spellcheck="false",
            )  # fmt: skip

        async def begin() -> None:
            wanted = name.value.strip()
            name.error = None if wanted else "A name is missing"
            if not wanted:
                return
            if kind.value == "documents":
                asked = {"key": key.value.strip() or None}
                went, _ = await view.attempt(
                    view.api.post(f"/v1/state/tables/{part(wanted)}/declare", asked),
                    fields={"": name, "table": name, "key": key},
                )
                if not went:
                    return
            view.go(f"/state/{part(wanted)}", kind="" if kind.value == "documents" else kind.value)

        with el("div", cls="actions"):
            button("Begin", begin, tone="primary")


# ── one table ─────────────────────────────────────────────────────────────────────────────────────────


@page("/state/{table}", title="Table", section="state")
async def table(view: View, table: str, where: str = "", kind: str = "") -> None:
    found = [each for each in (await view.api.get("/v1/state/tables"))["tables"] if each["name"] == table]
    if not kind:
        kind = "documents" if not found else next(
            (each["kind"] for each in found if each["kind"] == "documents"), found[0]["kind"]
        )  # fmt: skip
    others = [each["kind"] for each in found if each["kind"] != kind]
    with heading(table, under=KINDS.get(kind, "Table of documents")):
        for other in others:
            link(f"The {other} of this name", table_at(table, kind=other), cls="btn btn--quiet")
        link("All state", to("/state"), cls="btn btn--quiet")
    if kind == "counter":
        await _counter(view, table)
    elif kind == "set":
        await _set(view, table)
    else:
        told = next((each for each in found if each["kind"] == "documents"), None)
        await _documents(view, table, told, where)


async def _documents(view: View, table: str, told: Mapping[str, Any] | None, where: str) -> None:
    key = told["key"] if told else None
    may = _may_write(view, told)
    conflicts = Conflicts(view, table)
    with card():
        asked, entry = _filter(table, where, view)
        with el("div") as room:
            pass
        facts(
            (
                ("Key", key or "none: documents have ids of their own"),
                ("Written by", ", ".join(told["writers"]) if told and told["writers"] else "every member"),
            )
        )
    if asked is not None:
        with room:
            await _listed(view, table, key, asked, entry)
    if may:
        hint(may)
    else:
        _add(view, table, key)
    await conflicts.look()
    view.every(EVERY_S, conflicts.look)


def _may_write(view: View, told: Mapping[str, Any] | None) -> str:
    """Why this reader cannot write here; "" if so."""
    if not view.operates:
        return OPERATORS
    if told and told["writers"] and "gateway" not in told["writers"]:
        return f"Only {', '.join(told['writers'])} may write this table: it was declared so."
    return ""


def _filter(table: str, where: str, view: View) -> tuple[str | None, Entry]:
    """(the query as the API takes it, None: it cannot be read; the input)."""
    with el("form", cls="filters") as form:
        entry = Entry(
            "Filter",
            where,
            hint="As setpoint_c > 25 and site = a. Fields within fields with a dot: alarm.level >= 2.",
            maxlength=1500, autocomplete="off", autocapitalize="none", spellcheck="false",
            placeholder="setpoint_c > 25",
        )  # fmt: skip
        entry.box.classes(add="grow")
        with el("div", cls="actions entry-side"):
            el("button", "Apply", "btn", type="submit")
            if where:
                link("All documents", table_at(table), cls="btn btn--quiet")

    def apply() -> None:
        try:
            documents.where(entry.value)
        except BadInput as error:
            entry.error = str(error)
        else:
            view.go(f"/state/{part(table)}", where=entry.value.strip())

    form.on("submit", apply, js_handler="(event) => { event.preventDefault(); emit(); }")
    try:
        return documents.where(where), entry
    except BadInput as error:
        entry.error = str(error)
        return None, entry


async def _listed(view: View, table: str, key: str | None, where: str, entry: Entry) -> None:
    path = f"/v1/state/tables/{part(table)}"
    try:
        first = await view.api.get(path, where=where, limit=PAGE)
    except Refusal as refusal:
        if refusal.status == 422 and where:
            entry.error = refusal.sentence
            return
        raise
    shown = documents.columns((each["document"] for each in first["documents"]), key)

    async def fetch(cursor: str) -> tuple[Sequence[Doc], str]:
        told = await view.api.get(path, where=where, cursor=cursor, limit=PAGE)
        return [document_row(table, each, shown, key) for each in told["documents"]], told["next"]

    columns = [Column("name", key or "Id"), *(Column(f"f {name}", name) for name in shown if name != key)]
    nothing = "No document fits the filter." if where else "No documents yet."
    grid = Paged(view, f"Documents of {table}", [*columns, Column("rest", "Also")], fetch, empty=nothing)
    await grid.refresh()


def document_row(
    table: str, told: Mapping[str, Any], shown: Sequence[str], key: str | None
) -> dict[str, Any]:
    document, doc_id = told["document"], told["id"]
    name = documents.said(document, key, doc_id)
    cells = {
        f"f {field}": documents.cell(document[field]) if field in document else None
        for field in shown
        if field != key
    }
    return {
        "key": doc_id,
        "name": {"text": name, "href": to(f"/state/{part(table)}/{part(doc_id)}")},
        **cells,
        "rest": documents.rest(document, shown),
    }


def _add(view: View, table: str, key: str | None) -> None:
    with card(), el("details", cls="more"):
        el("summary", "Add a document")
        start = documents.pretty({key: ""} if key else {})
        text = Entry("Document, as JSON", start, rows=8, hint=_add_hint(key))

        async def add() -> None:
            try:
                document = documents.fields(text.value)
            except BadInput as error:
                text.error = str(error)
                return
            went, made = await view.attempt(
                view.api.post(f"/v1/state/tables/{part(table)}", document), fields={"": text, "body": text}
            )
            if went and made is not None:
                view.go(f"/state/{part(table)}/{part(made['id'])}")

        with el("div", cls="actions"):
            button("Add", add, tone="primary")


def _add_hint(key: str | None) -> str:
    if key:
        return f"None with the same {key} may be there yet: edit that one instead."
    return "It gets an id of its own."


# ── one document ──────────────────────────────────────────────────────────────────────────────────────


@page("/state/{table}/{doc_id}", title="Document", section="state")
async def document(view: View, table: str, doc_id: str) -> None:
    found = [each for each in (await view.api.get("/v1/state/tables"))["tables"] if each["name"] == table]
    told = next((each for each in found if each["kind"] == "documents"), None)
    one = OneDocument(view, table, doc_id, told)
    await one.show()


class OneDocument:
    """A document, edited as JSON onto the version that was read."""

    def __init__(self, view: View, table: str, doc_id: str, told: Mapping[str, Any] | None) -> None:
        self._view, self._table, self._id = view, table, doc_id
        self._key = told["key"] if told else None
        self._may = _may_write(view, told)
        self._path = f"/v1/state/tables/{part(table)}/{part(doc_id)}"
        self._tag = self._seen = ""
        self._told_tag = ""  # of what the reader was told is there now

    async def show(self) -> None:
        """Raises: Refusal."""
        document, self._tag = await self._read()
        name = documents.said(document, self._key, self._id)
        with heading(name, under=f"A document of {self._table}"):
            link(f"All of {self._table}", table_at(self._table), cls="btn btn--quiet")
            if not self._may:
                button("Delete", lambda: self._delete(name), tone="danger")
        self._seen = documents.pretty(document)
        self._stale = el("div", aria_live="polite")
        with el("div", cls="cols"):
            with card("Fields"):
                self._fields = Grid("Fields", (Column("name", "Field"), Column("value", "Value")))
                self._fields.tell(field_rows(document))
                facts((("Id", lambda: el("code", self._id)),))
            with card("Edit"):
                self._text = Entry(
                    "Document, as JSON", self._seen, rows=12, readonly=True if self._may else None,
                    hint=self._may or "What is not in here is removed from it.",
                )  # fmt: skip
                if not self._may:
                    with el("div", cls="actions"):
                        button("Save", self._save, tone="primary")
        conflicts = Conflicts(self._view, self._table, self._id)
        await conflicts.look()
        self._view.every(EVERY_S, conflicts.look)
        self._view.every(EVERY_S, self._look)

    async def _read(self) -> tuple[Doc, str]:
        answer = await self._view.api.send("GET", self._path)
        return answer.json()["document"], answer.headers.get("etag", "")

    async def _look(self) -> None:
        """Is it still what was read?"""
        try:
            document, tag = await self._read()
        except Refusal as refusal:
            if refusal.status != 404:
                raise
            if self._told_tag != "gone":
                self._told_tag = "gone"
                self._gone()
            return
        if tag not in (self._tag, self._told_tag):
            self._fields.tell(field_rows(document))
            self._changed(document, tag)

    def _gone(self) -> None:
        self._stale.clear()
        with self._stale, el("div", cls="banner banner--bad"):
            el("p", "Somebody has removed this document. Adding it again makes it anew.")
            link(f"All of {self._table}", table_at(self._table), cls="btn")

    async def _show_changed(self) -> None:
        went, now = await self._view.attempt(self._read())
        if went and now is not None:
            self._changed(*now)

    def _changed(self, document: Doc, tag: str) -> None:
        """Somebody wrote since it was read: what differs, and whose version shall go on."""
        self._told_tag = tag
        now = documents.pretty(document)
        self._stale.clear()
        with self._stale, card("Changed meanwhile"):
            el(
                "p",
                "Somebody wrote this document since you read it. What is there now, against what you read:",
            )
            changes(lines(self._seen, now) or (), "What changed meanwhile")
            with el("div", cls="actions"):
                button("Edit what is there now", lambda: self._take(now, tag), tone="primary")
                if not self._may:
                    button("Keep my text, written over it", lambda: self._keep(now, tag), tone="quiet")

    def _take(self, now: str, tag: str) -> None:
        self._text.put(now)
        self._keep(now, tag)

    def _keep(self, now: str, tag: str) -> None:
        self._seen, self._tag = now, tag
        self._stale.clear()

    async def _save(self) -> None:
        try:
            document = documents.fields(self._text.value)
        except BadInput as error:
            self._text.error = str(error)
            return
        self._text.error = None
        try:
            await self._view.api.put(self._path, document, headers={"if-match": self._tag})
        except Refusal as refusal:
            if refusal.status == 412:
                self._text.error = "It was not written: somebody changed the document meanwhile, see above"
                await self._show_changed()
            else:
                self._view.tell(refusal, {"": self._text, "body": self._text})
            return
        self._view.note("Saved")
        went, now = await self._view.attempt(self._read())
        if not went or now is None:
            return
        document, self._tag = now
        self._seen = documents.pretty(document)
        self._fields.tell(field_rows(document))
        self._stale.clear()

    async def _delete(self, name: str) -> None:
        went, _ = await confirmed(
            f"Delete {name}?", f"It goes from {self._table} at every member.", do="Delete", name=name
        )
        if not went:
            return
        try:
            await self._view.api.delete(self._path, headers={"if-match": self._tag})
        except Refusal as refusal:
            if refusal.status == 412:
                self._view.note("It was not deleted: somebody changed it meanwhile", "bad")
                await self._show_changed()
            else:
                self._view.tell(refusal)
            return
        self._view.go(f"/state/{part(self._table)}")


def field_rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"key": name, "name": name, "value": {"text": documents.cell(document[name]), "cls": "mono"}}
        for name in sorted(document)
    ]


# ── counters and sets ─────────────────────────────────────────────────────────────────────────────────


async def _counter(view: View, name: str) -> None:
    path = f"/v1/state/counters/{part(name)}"
    with card():
        el("p", "Its value, as the gateway knows it", "muted")
        figure = el("p", "–", "figure", aria_live="polite")
        if view.operates:
            by = Entry(
                "Count on by", "1", kind="number", step="1", hint="Negative: back. What others count is kept."
            )

            async def count() -> None:
                try:
                    amount = int(by.value)
                except ValueError:
                    by.error = "Write a whole number"
                    return
                went, told = await view.attempt(
                    view.api.post(path, {"add": amount}), fields={"": by, "add": by}
                )
                if went and told is not None:
                    figure.text = words.count(told["value"])

            with el("div", cls="actions"):
                button("Count", count, tone="primary")
        else:
            hint(OPERATORS)

    async def look() -> None:
        figure.text = words.count((await view.api.get(path))["value"])

    await look()
    view.every(EVERY_S, look)


async def _set(view: View, name: str) -> None:
    path = f"/v1/state/sets/{part(name)}"
    with card():

        async def fetch(cursor: str) -> tuple[Sequence[Doc], str]:
            told = await view.api.get(path, cursor=cursor, limit=PAGE)
            return [_element(each, view.operates) for each in told["elements"]], told["next"]

        async def out(element: str, act: str) -> None:
            went, _ = await confirmed(
                f"Take {element[:60]} out?", f"It goes from the set {name}.", do="Take out"
            )
            if went and act == "out":
                await view.attempt(
                    view.api.patch(path, {"discard": [element]}), done=f"{element[:60]} is out"
                )
                await view.attempt(listed.refresh())

        columns = [Column("element", "Element")] + ([Column("do", "Change")] if view.operates else [])
        listed = Paged(
            view, f"Elements of {name}", columns, fetch, empty="Nothing is in it.",
            on_act=out if view.operates else None,
        )  # fmt: skip
        await listed.refresh()
    if not view.operates:
        hint(OPERATORS)
        return
    with card():
        more = Entry("Put in", maxlength=1000, autocomplete="off", spellcheck="false")

        async def put() -> None:
            element = more.value.strip()
            more.error = None if element else "Write what is put in"
            if element:
                went, _ = await view.attempt(
                    view.api.patch(path, {"add": [element]}),
                    fields={"": more, "add": more},
                    done=f"{element[:60]} is in",
                )
                if went:
                    more.put("")
                    await view.attempt(listed.refresh())

        with el("div", cls="actions"):
            button("Put in", put, tone="primary")


def _element(element: str, may: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"key": element, "element": element}
    return row | ({"do": {"act": "out", "text": "Take out"}} if may else {})


# ── conflicts ─────────────────────────────────────────────────────────────────────────────────────────


class Conflicts:
    """Values that several wrote at once, in a card that is there while there are any."""

    def __init__(self, view: View, table: str = "", doc_id: str = "") -> None:
        self._view, self._table, self._id = view, table, doc_id
        self._room = el("div", aria_live="polite")
        self._shown: list[Doc] = []

    async def look(self) -> None:
        """Raises: Refusal."""
        told = await self._view.api.get(
            "/v1/state/conflicts", table=self._table, limit=1000 if self._id else CONFLICTS
        )
        found = [each for each in told["conflicts"] if not self._id or each["id"] == self._id]
        if found == self._shown:
            return
        self._shown = found
        self._room.clear()
        if not found:
            return
        with self._room, card("Conflicts"):
            el("p", "Several members wrote these at once. The newest counts until somebody decides.", "muted")
            for each in found:
                self._one(each)
            if not self._id and told["total"] > len(found):
                hint(f"and {words.count(told['total'] - len(found))} more")

    def _one(self, conflict: Doc) -> None:
        with el("div", cls="conflict"):
            with el("p", cls="row"):
                if not self._id:
                    where = f"/state/{part(conflict['table'])}/{part(conflict['id'])}"
                    link(f"{conflict['table']} · {conflict['key']}", to(where))
                el("strong", conflict["field"])
            with el("ul", cls="rivals"):
                for rival in conflict["values"]:
                    with el("li"):
                        self._rival(conflict, rival)

    def _rival(self, conflict: Doc, rival: Doc) -> None:
        with el("div"):
            removed = rival["value"] is None
            el(
                "span",
                "removed, or null" if removed else documents.cell(rival["value"]),
                "" if removed else "mono",
            )
            with el("p", cls="muted small row"):
                el("span", "by")
                link(rival["node"], to(f"/nodes/{part(rival['node'])}"))
                moment(rival["at_ms"])
        if rival["wins"]:
            badge("counts now", "good")
        else:
            badge("rival", "notice")
        if not self._view.operates:
            return
        if removed and not rival["wins"]:
            return  # which of the two it is cannot be told, nor written
        text = documents.cell(rival["value"]) if not removed else "the removal"
        button(
            "Keep this",
            lambda: self._keep(conflict, rival),
            cls="btn--small",
            aria_label=f"Keep this: {text}",
        )

    async def _keep(self, conflict: Doc, rival: Doc) -> None:
        asked = {name: conflict[name] for name in ("table", "id", "field")}
        if not rival["wins"]:
            asked["value"] = rival["value"]
        await self._view.attempt(
            self._view.api.post("/v1/state/conflicts/resolve", asked), done=f"{conflict['field']} is decided"
        )
        await self._view.attempt(self.look())


# ── twins ─────────────────────────────────────────────────────────────────────────────────────────────


@page("/twins", title="Twins", section="state")
async def twins(view: View) -> None:
    with heading("Twins", under="What nodes should be set to, and what they say they are"):
        link("All state", to("/state"), cls="btn btn--quiet")

    async def fetch(cursor: str) -> tuple[Sequence[Doc], str]:
        told = await view.api.get("/v1/nodes", cursor=cursor, limit=PAGE)
        names = [each["id"] for each in told["nodes"] if each["status"] != "pending"]
        desired, reported = await _side(view, "desired", names), await _side(view, "reported", names)
        return [twin_row(name, desired.get(name, {}), reported.get(name, {})) for name in names], told["next"]

    with card():
        table = Paged(view, "Twins", TWINS, fetch, empty="No members yet.")
        await table.refresh()


async def _side(view: View, side: str, names: Sequence[str]) -> dict[str, Doc]:
    """Settings by node."""
    # Compact: fifty names of 32 characters fit into what the API takes.
    query = json.dumps(["one_of", ["node"], list(names)], separators=(",", ":")) if names else ""
    told = await view.api.get(f"/v1/state/tables/twins.{side}", where=query, limit=PAGE)
    found = {}
    for each in told["documents"]:
        settings = dict(each["document"])
        found[str(settings.pop("node", ""))] = settings
    return found


TWINS = (
    Column("node", "Node"),
    Column("desired", "Desired", end=True),
    Column("reported", "Reported", end=True),
    Column("differs", "State"),
)


def twin_row(name: str, desired: Mapping[str, Any], reported: Mapping[str, Any]) -> dict[str, Any]:
    differ = sum(verdict in ("differs", "not reported") for *_, verdict in documents.sides(desired, reported))
    if differ:
        state = {"badge": f"{words.count(differ, 'setting')} to come", "tone": "notice"}
    else:
        state = (
            {"badge": "as desired", "tone": "good"}
            if desired
            else {"badge": "nothing desired", "tone": "quiet"}
        )
    return {
        "key": name,
        "node": {"text": name, "href": to(f"/twins/{part(name)}")},
        "desired": len(desired),
        "reported": len(reported),
        "differs": state,
    }


VERDICTS: Final = {"same": "good", "differs": "notice", "not reported": "notice", "only reported": "quiet"}


@page("/twins/{node}", title="Twin", section="state")
async def twin(view: View, node: str) -> None:
    with heading(f"Twin of {node}", under="What it should be set to, and what it says it is"):
        link("The node", to(f"/nodes/{part(node)}"), cls="btn btn--quiet")
        link("All twins", to("/twins"), cls="btn btn--quiet")
    path = f"/v1/twins/{part(node)}"
    columns = (
        Column("name", "Setting"),
        Column("desired", "Desired"),
        Column("reported", "Reported"),
        Column("is", "State"),
    )
    with card():
        grid = Grid("Settings", columns, empty="Nothing is desired and nothing reported yet.")

    async def look() -> None:
        told = await view.api.get(path)
        grid.tell([_setting(*each) for each in documents.sides(told["desired"], told["reported"])])

    await look()
    if view.operates:
        _desire(view, path, node, look)
    else:
        hint(OPERATORS)
    view.every(EVERY_S, look)


def _setting(name: str, desired: str, reported: str, verdict: str) -> dict[str, Any]:
    return {
        "key": name,
        "name": name,
        "desired": {"text": desired or "–", "cls": "mono"},
        "reported": {"text": reported or "–", "cls": "mono"},
        "is": {"badge": verdict, "tone": VERDICTS[verdict]},
    }


def _desire(view: View, path: str, node: str, look: Any) -> None:
    with card("Desire a setting"):
        with el("div", cls="form"):
            name = Entry(
                "Setting", maxlength=256, autocomplete="off", autocapitalize="none", spellcheck="false"
            )
            wanted = Entry(
                "Value, as JSON", hint='21.5, true, or a text in quotes: "low"', spellcheck="false"
            )

        async def desire() -> None:
            setting = name.value.strip()
            name.error = None if setting else "Which setting?"
            try:
                value = documents.value(wanted.value)
            except BadInput as error:
                wanted.error = str(error)
                return
            if not setting:
                return
            wanted.error = None
            went, _ = await view.attempt(
                view.api.patch(path, {setting: value}),
                fields={"": name, "node": name},
                done=f"{node} will be told: {setting} {documents.cell(value)}",
            )
            if went:
                await view.attempt(look())

        with el("div", cls="actions"):
            button("Desire it", desire, tone="primary")
            link("All that is desired, as a table", table_at("twins.desired"), cls="btn btn--quiet")


PAGES = (state, table, document, twins, twin)
