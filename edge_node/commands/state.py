"""`state`: the replicated tables from the command line, the same in both programs.

Every command asks the daemon of its own home, which answers by itself: a node that is cut off from the
gateway reads and writes as ever. What only looks works without a daemon too: then the home's disk is read,
and it is said so.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any, Final

import typer

from edge_node.client import MeshUnavailable
from edge_node.commands import state_files
from edge_node.commands.door import Program
from edge_node.commands.looking import (
    Calls,
    Fresh,
    documents_of,
    elements_of,
    freshened,
    plural,
    reading,
    tables_of,
)
from edge_node.commands.rendering import cell
from edge_node.commands.terminal import Terminal
from edge_node.commands.why import when
from edge_node.store.identity import doc_id_for
from security.errors import BadInput, Refused, Unavailable

COLUMNS: Final = ("name", "kind", "count", "key", "writers", "conflicts")
CONFLICT_COLUMNS: Final = ("table", "key", "field", "value", "node", "written_at_ms", "wins")
SHOWN_MAX: Final = 1000
WATCH_MS: Final = 30_000
BACK_S_MAX: Final = 60.0
"""How long a watch waits for a daemon that went away."""
AGAIN_MAX: Final = 16
"""Tries to delete a field that others write meanwhile."""
_INT = re.compile(r"-?(?:0|[1-9][0-9]{0,18})\Z")

Table = Annotated[str, typer.Argument(metavar="TABLE", help="A table's name, as `state` lists it.")]
Key = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help='Value of the table\'s key field ("5" in JSON quotes: the text), or a doc id if it has none.',
    ),
]
MaybeKey = Annotated[
    str | None,
    typer.Argument(
        metavar="KEY", help="Value of the table's key field, or a doc id; none: all, or those of --where."
    ),
]
Where = Annotated[
    str | None,
    typer.Option(
        "--where", "-w", metavar="COND", help="As 'setpoint_c > 25 and site = a'; see docs/state.md."
    ),
]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, max=100_000, help="At most this many.")]


def add_commands(program: Program) -> None:
    """state and what is below it."""
    app = program.group(
        "state",
        "List the replicated tables; or read and change them.",
        listing,
    )

    @program.command("tables", app=app)
    def tables(terminal: Terminal) -> None:
        """List tables, sets and counters with their size, key, writers and conflicts."""
        listing(terminal)

    @program.command("declare", app=app)
    def declare(
        terminal: Terminal,
        table: Table,
        key: Annotated[
            str | None,
            typer.Option("--key", metavar="FIELD", help="The field that identifies a document; for good."),
        ] = None,
        writers: Annotated[
            str | None,
            typer.Option(
                "--writers", metavar="A,B", help="Members that may write it, none else; at the gateway only."
            ),
        ] = None,
    ) -> None:
        """Say what identifies a table's documents, and who may write it; without options: it has no key."""
        params: dict[str, Any] = {"table": table}
        if key is not None or writers is None:
            params["key"] = key
        if writers is not None:
            named = "" if key is None else f"--key {key} "
            if terminal.program != "edge-gateway":
                raise Refused(
                    f"only the gateway says who may write {table}",
                    fix=f"run `edge-gateway state declare {table} {named}--writers {writers}` there",
                )
            params["writers"] = [name.strip() for name in writers.split(",") if name.strip()]
        answer = terminal.call("state.declare", params)
        if terminal.json:
            terminal.value(answer)
            return
        who = ", ".join(answer["writers"]) if answer["writers"] else "every member"
        named = f"key {answer['key']}" if answer["key"] else "no key"
        terminal.text(f"{table}: {named}, written by {who}")

    @program.command("get", app=app)
    def get(
        terminal: Terminal,
        table: Table,
        key: MaybeKey = None,
        where: Where = None,
        limit: Limit = SHOWN_MAX,
        fresh: Fresh = None,
    ) -> None:
        """Show a document, or those of a table that meet a condition."""
        query = _query(key, where)

        async def work(calls: Calls) -> tuple[str | None, list[tuple[int, Any]], bool]:
            await freshened(terminal, calls, fresh)
            row = await _table(calls, table, terminal.program)
            narrowed: dict[str, Any] = {} if query is None else {"where": query}
            if key is not None:
                narrowed["ids"] = [doc_id for doc_id, _ in _meant(row, key)]
            documents: list[tuple[int, Any]] = []
            async for doc_id, text in documents_of(calls, table, **narrowed):
                if len(documents) == limit:
                    return row["key"], documents, True
                documents.append((doc_id, json.loads(text)))
            return row["key"], documents, False

        named, documents, more = reading(terminal, work)
        if key is not None:
            terminal.value(_the_one(table, key, named, documents)[1])
        else:
            _show(terminal, named, documents)
            if more:
                terminal.note(f"there are more than {limit}: narrow it with --where, or raise --limit")

    @program.command("set", app=app)
    def set_(
        terminal: Terminal,
        table: Table,
        key: Key,
        fields: Annotated[
            list[str] | None,
            typer.Argument(metavar="FIELD=VALUE...", help="Fields to write; a value is JSON, else text."),
        ] = None,
        delete: Annotated[
            list[str] | None,
            typer.Option("--delete", "-d", metavar="FIELD", help="A field to delete. Repeatable."),
        ] = None,
    ) -> None:
        """Write fields of a document, which is made if it is not there; other fields stay.

        In a table without a key, KEY is a doc id, or `new`.
        """
        document = parse_fields(fields or [])
        if both := sorted({*document} & {*(delete or [])}):
            raise BadInput(f"field {both[0]} is to be written and deleted", fix="decide on one")
        if not document and not delete:
            raise BadInput("nothing is to be written", fix="give FIELD=VALUE or --delete FIELD")

        async def work(calls: Calls) -> int:
            row = await _table(calls, table, terminal.program)
            return await _written(calls, row, key, document, delete or [])

        doc_id = terminal.with_mesh(work)
        if terminal.json:
            terminal.value({"doc_id": str(doc_id)})
        else:
            terminal.text(f"{table}: {doc_id if key == 'new' else key} is written")

    @program.command("remove", app=app)
    def remove(terminal: Terminal, table: Table, key: MaybeKey = None, where: Where = None) -> None:
        """Remove a document, or all that meet a condition."""
        query = _query(key, where)
        if key is None and query is None:
            raise BadInput("nothing says what to remove", fix="give a KEY, or --where")

        async def work(calls: Calls) -> list[int]:
            row = await _table(calls, table, terminal.program)
            if key is None:
                return list((await calls.call("state.remove", {"table": table, "where": query}))["ids"])
            doc_id, _ = await _there(calls, row, key)
            return list((await calls.call("state.remove", {"table": table, "ids": [doc_id]}))["ids"])

        gone = terminal.with_mesh(work)
        if terminal.json:
            terminal.value({"doc_ids": [str(each) for each in gone]})
        else:
            terminal.text(f"{table}: {plural(len(gone), 'document')} removed")

    @program.command("watch", app=app)
    def watch(
        terminal: Terminal,
        table: Table,
        where: Where = None,
        count: Annotated[
            int | None, typer.Option("--count", metavar="N", min=1, help="End after so many changes.")
        ] = None,
    ) -> None:
        """Show each change of a table as it comes, a line each; with --json one JSON object a line."""
        query = _query(None, where)
        asyncio.run(_watched(terminal, table, query, count))

    @program.command("conflicts", app=app)
    def conflicts(
        terminal: Terminal,
        table: Annotated[
            str | None, typer.Argument(metavar="TABLE", help="Of this table alone; none: of all.")
        ] = None,
        limit: Annotated[
            int, typer.Option("--limit", metavar="N", min=1, max=SHOWN_MAX, help="At most this many.")
        ] = SHOWN_MAX,
    ) -> None:
        """List fields that two wrote without knowing of each other; whose value wins, and whose lost."""
        params: dict[str, Any] = {"limit": limit} | ({} if table is None else {"table": table})
        answer = reading(terminal, lambda calls: calls.call("state.conflicts", params))
        if terminal.json:
            terminal.value(answer)
            return
        rows = [
            {
                "table": each["table"],
                "key": each["key"],
                "field": each["field"],
                "value": "(deleted)" if value["value"] is None else value["value"],
                "node": value["node"],
                "written_at_ms": value["at_ms"],
                "wins": "wins" if value["wins"] else "",
            }
            for each in answer["conflicts"]
            for value in each["values"]
        ]
        terminal.table(rows, CONFLICT_COLUMNS, empty="no conflicts")
        if answer["total"] > len(answer["conflicts"]):
            terminal.note(f"{answer['total']} in all: raise --limit, or name a table")
        if rows:
            terminal.note(f"next: {terminal.program} state resolve TABLE KEY FIELD [--value V]")

    @program.command("resolve", app=app)
    def resolve(
        terminal: Terminal,
        table: Table,
        key: Annotated[str, typer.Argument(metavar="KEY", help="As `state conflicts` shows it.")],
        field: Annotated[str, typer.Argument(metavar="FIELD", help="The field that is in conflict.")],
        value: Annotated[
            str | None,
            typer.Option("--value", metavar="V", help="The value that shall hold: JSON, else text."),
        ] = None,
        of: Annotated[
            str | None,
            typer.Option("--of", metavar="NODE", help="The value that this member wrote shall hold."),
        ] = None,
    ) -> None:
        """Decide a conflict: the winner stays, or another value takes its place; the others are dropped."""
        if value is not None and of is not None:
            raise BadInput("--value and --of were given", fix="give one of them")

        async def work(calls: Calls) -> str:
            listed = (await calls.call("state.conflicts", {"table": table, "limit": SHOWN_MAX}))["conflicts"]
            found = [each for each in listed if each["key"] == key and each["field"] == field]
            if not found:
                raise BadInput(
                    f"nothing is in conflict at {field} of {key} in {table}",
                    fix=f"see `{terminal.program} state conflicts {table}`",
                )
            params: dict[str, Any] = {"table": table, "id": found[0]["id"], "field": field}
            chosen = next(each["value"] for each in found[0]["values"] if each["wins"])
            if value is not None:
                chosen = params["value"] = _json(read_value(value))
            elif of is not None:
                chosen = params["value"] = _value_of(found[0], of)
            await calls.call("state.resolve", params)
            return "(deleted)" if chosen is None else str(chosen)

        chosen = terminal.with_mesh(work)
        if terminal.json:
            terminal.value({"table": table, "key": key, "field": field, "value": chosen})
        else:
            terminal.text(f"{table}: {field} of {key} is {chosen}")

    @program.command("counter", app=app)
    def counter(
        terminal: Terminal,
        name: Annotated[str, typer.Argument(metavar="NAME", help="The counter's name.")],
        add: Annotated[
            int | None, typer.Option("--add", metavar="N", help="Add so much; negative: take away.")
        ] = None,
    ) -> None:
        """Show a counter, or add to it; what members add while they are cut off adds up."""
        params = {"name": name} if add is None else {"name": name, "add": add}
        if add is None:
            answer = reading(terminal, lambda calls: calls.call("state.counter", params))
        else:
            answer = terminal.call("state.counter", params)
        terminal.value(answer if terminal.json else answer["value"])

    @program.command("elements", app=app)
    def elements(
        terminal: Terminal,
        name: Annotated[str, typer.Argument(metavar="NAME", help="The set's name.")],
        add: Annotated[
            list[str] | None, typer.Option("--add", metavar="TEXT", help="An element to add. Repeatable.")
        ] = None,
        discard: Annotated[
            list[str] | None,
            typer.Option("--discard", metavar="TEXT", help="An element to take out. Repeatable."),
        ] = None,
    ) -> None:
        """Show a set's elements, or change them; an addition outlives a removal that did not know of it."""

        async def work(calls: Calls) -> list[str]:
            if add or discard:
                params = {"name": name, "add": add or [], "discard": discard or []}
                await calls.call("state.set", params)
            return await elements_of(calls, name)

        there = terminal.with_mesh(work) if add or discard else reading(terminal, work)
        if terminal.json:
            terminal.value(there)
            return
        for each in there:
            terminal.text(each)
        if not there:
            terminal.note(f"{name} is empty")

    state_files.add_commands(program, app)


# ── asking ────────────────────────────────────────────────────────────────────────────────────────────


def listing(terminal: Terminal) -> None:
    """All tables, sets and counters."""
    rows = reading(terminal, tables_of)
    terminal.table(rows, COLUMNS, empty="no tables; programs make them, or `state declare`")


async def _table(calls: Calls, name: str, program: str) -> dict[str, Any]:
    """The table's row. Raises: BadInput: there is none, or it is no table of documents."""
    rows = await tables_of(calls)
    for row in rows:
        if row["name"] == name and row["kind"] == "documents":
            return row
    for row in rows:
        if row["name"] == name:
            command = {"set": "elements", "counter": "counter"}[row["kind"]]
            raise BadInput(f"{name!r} is a {row['kind']}", fix=f"use `{program} state {command} {name}`")
    raise BadInput(
        f"there is no table {name!r}",
        fix=f"see `{program} state`, or make it: `{program} state declare {name} --key id`",
    )


def _query(key: str | None, where: str | None) -> list[Any] | None:
    if where is None:
        return None
    if key is not None:
        raise BadInput("a KEY and --where were given", fix="give one of them")
    from edge_node.commands import conditions  # it loads Python's parser of patterns

    return conditions.parsed(where)


# ── which document ────────────────────────────────────────────────────────────────────────────────────


def _meant(row: Mapping[str, Any], key: str) -> list[tuple[int, str | int | None]]:
    """(id, value of the key field) of what *key* can mean, the likelier first. Raises: BadInput: nothing."""
    if row["key"] is None:
        digits = key.removeprefix("#")
        if not (_INT.match(digits) and -(2**63) <= int(digits) < 2**63):
            raise BadInput(
                f"table {row['name']!r} has no key: its documents go by their ids, and {key[:40]!r} is none",
                fix="take an id from `state get`, or `new` with `state set`",
            )
        return [(int(digits), None)]
    values: list[str | int]
    if _INT.match(key):
        values = [int(key), key]
    else:
        read = read_value(key)
        values = [read if isinstance(read, str) else key]
    return [(doc_id_for(row["name"], value), value) for value in values]


async def _there(calls: Calls, row: Mapping[str, Any], key: str) -> tuple[int, Any]:
    ids = [doc_id for doc_id, _ in _meant(row, key)]
    found = [(doc_id, json.loads(text)) async for doc_id, text in documents_of(calls, row["name"], ids=ids)]
    return _the_one(row["name"], key, row["key"], found)


def _the_one(table: str, key: str, named: str | None, found: Sequence[tuple[int, Any]]) -> tuple[int, Any]:
    """Raises: BadInput: none was found."""
    if not found:
        raise BadInput(f"table {table!r} has no document {key[:80]}", fix=f"see `state get {table}`")
    for doc_id, document in found:
        if len(found) == 1 or type(document.get(named)) is int:
            return doc_id, document
    return found[0]


async def _texts(calls: Calls, table: str, ids: list[int]) -> dict[int, str]:
    return {doc_id: text async for doc_id, text in documents_of(calls, table, ids=ids)}


async def _written(
    calls: Calls, row: Mapping[str, Any], key: str, document: dict[str, Any], delete: Sequence[str]
) -> int:
    """The id of what was written."""
    name, named = row["name"], row["key"]
    if named is None and key == "new":
        if delete:
            raise BadInput("a new document has no fields to delete", fix="leave --delete away")
        params = {"table": name, "documents": [[None, _json(document)]]}
        return int((await calls.call("state.insert", params))["ids"][0])
    meant = _meant(row, key)
    there = await _texts(calls, name, [doc_id for doc_id, _ in meant])
    doc_id, value = next((each for each in meant if each[0] in there), meant[0])
    if named is not None:
        if named in delete:
            raise BadInput(f"{named} is the table's key", fix=f"`state remove {name} {key}` removes it all")
        document = {named: value, **document}
    for _ in range(AGAIN_MAX if delete else 0):
        if doc_id not in there:
            raise BadInput(f"table {name!r} has no document {key[:80]}", fix=f"see `state get {name}`")
        whole = {**json.loads(there[doc_id]), **document}
        missing = [field for field in delete if field not in whole]
        if missing:
            raise BadInput(f"document {key[:80]} has no field {missing[0]!r}", fix="see what it has")
        kept = {field: each for field, each in whole.items() if field not in delete}
        params = {"table": name, "documents": [[doc_id, _json(kept)]], "seen": [there[doc_id]]}
        if not (await calls.call("state.put", params)).get("stale"):
            return doc_id
        there = await _texts(calls, name, [doc_id])
    if delete:
        raise Unavailable(f"document {key[:80]} changes all the time", fix="try again")
    await calls.call("state.upsert", {"table": name, "document": _json(document), "id": doc_id})
    return doc_id


def _value_of(conflict: Mapping[str, Any], node: str) -> str:
    """What that member wrote, as JSON."""
    written = [each["value"] for each in conflict["values"] if each["node"] == node]
    if not written:
        who = ", ".join(sorted({each["node"] for each in conflict["values"]}))
        raise BadInput(f"{node} wrote no value that is in conflict", fix=f"choose one of {who}")
    if written[0] is None:
        raise BadInput(f"{node} deleted the field", fix="resolve it, then `state set … --delete FIELD`")
    return str(written[0])


def read_value(text: str) -> Any:
    """JSON, else the text itself."""
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(name)  # NaN and Infinity are text: JSON has none


def parse_fields(words: Sequence[str]) -> dict[str, Any]:
    """``field=value`` words. Raises: BadInput."""
    fields: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise BadInput(f"{word[:80]!r} is not FIELD=VALUE", fix="write setpoint_c=21.5, or name='\"5\"'")
        if name in fields:
            raise BadInput(f"field {name} is given twice", fix="give it once")
        fields[name] = read_value(value)
    return fields


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


# ── showing ───────────────────────────────────────────────────────────────────────────────────────────


def _show(terminal: Terminal, named: str | None, documents: Sequence[tuple[int, Any]]) -> None:
    if terminal.json:
        terminal.value([{"doc_id": str(doc_id), "document": each} for doc_id, each in documents])
        return
    columns = dict.fromkeys([named] if named is not None else ["doc_id"])
    for _, document in documents:
        columns |= dict.fromkeys(document)
    rows = [
        {name: _shown(each) for name, each in document.items()}
        | ({} if named is not None else {"doc_id": str(doc_id)})
        for doc_id, document in documents
    ]
    terminal.table(rows, list(columns), empty="no documents")


def _shown(value: object) -> object:
    """In a column: nested values as JSON, a text as it stands."""
    return value if isinstance(value, str) else _json(value)


async def _watched(terminal: Terminal, table: str, query: list[Any] | None, count: int | None) -> None:
    left = count
    async for change in changes(terminal, table, query):
        terminal.text(_json(change) if terminal.json else told(change))
        if left is not None:
            left -= 1
            if not left:
                return


async def changes(terminal: Terminal, table: str, query: list[Any] | None) -> AsyncIterator[dict[str, Any]]:
    """Each change as it comes, also over restarts of the daemon; what was missed is noted."""
    cursor: str | None = None
    params: dict[str, Any] = {"table": table} | ({} if query is None else {"where": query})
    lost_s: float | None = None
    async with terminal.mesh() as mesh:
        while True:
            wait_ms = 0 if cursor is None else WATCH_MS
            try:
                answer = await mesh.call("state.watch", {**params, "after": cursor, "wait_ms": wait_ms})
            except MeshUnavailable:
                if cursor is None or (lost_s is not None and time.monotonic() - lost_s > BACK_S_MAX):
                    raise
                if lost_s is None:
                    lost_s = time.monotonic()
                    terminal.note("the daemon went away: waiting for it")
                await asyncio.sleep(0.5)
                continue
            if cursor is None:
                terminal.note(f"watching {table}")
            lost_s = None
            if answer["missed"]:
                terminal.note(
                    f"changes were missed: `{terminal.program} state get {table}` shows what holds now"
                )
            cursor = answer["cursor"]
            for change in answer["changes"]:
                before, after = (None if each is None else json.loads(each) for each in _both(change))
                yield {**change, "id": str(change["id"]), "before": before, "after": after}


def _both(change: Mapping[str, Any]) -> tuple[str | None, str | None]:
    return change["before"], change["after"]


def told(change: Mapping[str, Any]) -> str:
    """One line: when, what, which document, which fields, who."""
    before, after = change["before"], change["after"]
    at = when(change["at_ms"]) if change["at_ms"] else "?"
    name = cell(_name_of(after or before or {}, change["id"]), whole=True)  # on one line
    if before is None:
        what = f"added    {name}  {_json(after)}"
    elif after is None:
        what = f"removed  {name}"
    else:
        moved = [
            f"{cell(field, whole=True)}: {_json(before[field]) if field in before else 'none'} → "
            f"{_json(after[field]) if field in after else 'none'}"
            for field in dict.fromkeys([*after, *before])
            if (field in before, before.get(field)) != (field in after, after.get(field))
        ]
        what = f"changed  {name}  {'; '.join(moved)}"
    return f"{at}  {what}  by {change['node']}"


def _name_of(document: Mapping[str, Any], doc_id: str) -> str:
    """What people call it: a field named id, key, name or node, else its number."""
    for field in ("id", "key", "name", "node"):
        if isinstance(document.get(field), (str, int)):
            return str(document[field])
    return doc_id
