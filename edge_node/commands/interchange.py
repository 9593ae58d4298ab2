"""Interchange: replicated tables as a file that plain TinyDB opens, and back.

    {"rooms": {"4711…": {"id": "r1", "setpoint_c": 21.5}, …},        a table, as TinyDB's JSONStorage has it
     ".edgeweave": {"1": {"what": "export", "schema": 1, "mesh": …, "node": …, "at_ms": …},
                    "2": {"what": "table", "table": "rooms", "key": "id", "writers": ["gateway"]},
                    "3": {"what": "set", "set": "maintenance", "elements": ["pump-3"]},
                    "4": {"what": "counter", "counter": "door_openings", "value": 17}}}

``TinyDB(file).table("rooms")`` reads it; what TinyDB has no form for lies in a table whose name nobody else
can take. Of a conflict the winner is exported.

An import is checked whole and compared with what is here before anything is written; then it goes in writes
of a bounded size. A file without our table is a plain TinyDB's: in tables without a key its documents get
new ids, since TinyDB counts 1, 2, 3 in every file.

In: whoever answers ``state.*`` (a daemon's socket, or a home that is only read). Not here: files.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from edge_node.commands.looking import PAGE, Calls, documents_of, elements_of, tables_of
from edge_node.store.batch import FIELD_BYTES_MAX, KEY_BYTES_MAX, TABLE_BYTES_MAX, VALUE_BYTES_MAX
from edge_node.store.identity import doc_id_for
from edge_node.store.replica import Limits
from edge_node.wire.ids import GATEWAY
from security.errors import BadInput, EdgeweaveError

OURS: Final = ".edgeweave"
SCHEMA: Final = 1
BYTES_MAX: Final = 256 * 1024 * 1024
"""Of a file: all that a mesh may hold, spelt as wastefully as JSON can."""
WRITE_BYTES: Final = 1024 * 1024
WRITE_FIELDS: Final = 2000
"""Half of what one write may change: others' turns come between two of ours."""
UNDER_WAY: Final = 256
"""Upserts that the daemon has at a time; they share its fsyncs."""
_ID = re.compile(r"-?(?:0|[1-9][0-9]{0,18})\Z")

Merge = Literal["keep", "update", "replace"]
Document = dict[str, Any]


# ── out ───────────────────────────────────────────────────────────────────────────────────────────────


class Exported(NamedTuple):
    """text: the file. tables: how many documents, elements or counts of each."""

    text: str
    tables: dict[str, int]
    conflicts: int


async def exported(calls: Calls, names: Sequence[str], *, mesh: str, node: str, at_ms: int) -> Exported:
    """Args: names: of tables, sets and counters; empty: all. Raises: BadInput: there is no such table."""
    rows = await tables_of(calls)
    known = {row["name"] for row in rows}
    for name in names:
        if name not in known:
            fix = f"there are {', '.join(sorted(known))}" if known else "nothing is stored yet"
            raise BadInput(f"there is no table {name!r}", fix=fix)
    chosen = [row for row in rows if not names or row["name"] in names]
    ours: list[Document] = [{"what": "export", "schema": SCHEMA, "mesh": mesh, "node": node, "at_ms": at_ms}]
    parts: list[str] = []
    counts: dict[str, int] = {}
    for row in chosen:
        name = row["name"]
        match row["kind"]:
            case "documents":
                ours.append({"what": "table", "table": name, "key": row["key"], "writers": row["writers"]})
                documents = [document async for document in documents_of(calls, name)]
                body = ",\n".join(f'  "{doc_id}": {text}' for doc_id, text in documents)
                parts.append(f"{_text(name)}: {{\n{body}\n}}" if documents else f"{_text(name)}: {{}}")
                counts[name] = len(documents)
            case "set":
                elements = await elements_of(calls, name)
                ours.append({"what": "set", "set": name, "elements": elements})
                counts[name] = len(elements)
            case "counter":
                value = (await calls.call("state.counter", {"name": name}))["value"]
                ours.append({"what": "counter", "counter": name, "value": value})
                counts[name] = value
    table = ",\n".join(f'  "{number}": {_text(each)}' for number, each in enumerate(ours, 1))
    parts.append(f"{_text(OURS)}: {{\n{table}\n}}")
    return Exported("{\n" + ",\n".join(parts) + "\n}\n", counts, sum(row["conflicts"] for row in chosen))


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


# ── in: what a file says ──────────────────────────────────────────────────────────────────────────────


class Told(NamedTuple):
    """A file that was read: no word of it is against a bound. mesh: empty for a plain TinyDB's file."""

    mesh: str
    node: str
    tables: dict[str, list[tuple[int, Document]]]
    keys: dict[str, str | None]
    writers: dict[str, list[str]]
    sets: dict[str, list[str]]
    counters: dict[str, int]


def read(data: bytes, name: str) -> Told:
    """Raises: BadInput: not such a file, of a newer version, or over a bound; with the place in it."""
    if len(data) > BYTES_MAX:
        raise BadInput(f"{name} has more than {BYTES_MAX // 2**20} MiB", fix="import it table by table")
    try:
        whole = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except BadInput:
        raise
    except json.JSONDecodeError as error:
        raise BadInput(f"{name}:{error.lineno}: not JSON: {error.msg}", fix=_FIX_FILE) from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{name} is not JSON that can be stored: {error}", fix=_FIX_FILE) from None
    if not isinstance(whole, dict) or not all(isinstance(each, dict) for each in whole.values()):
        raise BadInput(f"{name} holds no tables", fix=_FIX_FILE)
    told = _ours(whole.pop(OURS, None), name)
    for table, rows in whole.items():
        trouble = _over("a table's name", table, TABLE_BYTES_MAX) or (
            "the names of tables do not begin with a dot" if table.startswith(".") else ""
        )
        if trouble:
            raise BadInput(f"{name}: table {table[:80]!r}: {trouble}", fix="rename it in the file")
        told.tables[table] = [_document(name, table, row, body) for row, body in rows.items()]
    return told


_FIX_FILE: Final = "give a file that `state export` or TinyDB's JSONStorage wrote"


def _ours(rows: Any, name: str) -> Told:
    told = Told("", "", {}, {}, {}, {}, {})
    if rows is None:
        return told
    for row in rows.values():
        match row:
            case {"what": "export", "schema": int(schema), "mesh": str(mesh), "node": str(node)}:
                if schema > SCHEMA:
                    cause = (
                        f"{name} was written by a newer version (schema {schema}, this one reads {SCHEMA})"
                    )
                    raise BadInput(cause, fix="update edgeweave here, or export with this version")
                told = told._replace(mesh=mesh, node=node)
            case {"what": "table", "table": str(table), "key": str() | None as key, **more}:
                told.keys[table] = key
                match more.get("writers"):
                    case [*writers] if writers and all(isinstance(each, str) for each in writers):
                        told.writers[table] = [str(each) for each in writers]
            case {"what": "set", "set": str(table), "elements": [*elements]} if _are_elements(elements):
                told.sets[table] = [str(each) for each in elements]
            case {"what": "counter", "counter": str(table), "value": int(value)} if abs(value) <= 2**53:
                told.counters[table] = value
            case _:
                raise BadInput(f"{name}: {_text(row)[:80]} under {OURS!r} says nothing", fix=_FIX_FILE)
    if not told.mesh:
        raise BadInput(f"{name} does not say of which mesh it is", fix=_FIX_FILE)
    for table in (*told.sets, *told.counters):
        trouble = _over("a name", table, TABLE_BYTES_MAX)
        if trouble or table.startswith("."):
            raise BadInput(
                f"{name}: {table[:80]!r} is no name for a set or counter", fix="rename it in the file"
            )
    return told


def _are_elements(elements: Sequence[Any]) -> bool:
    return all(isinstance(each, str) and not _over("", each, KEY_BYTES_MAX) for each in elements)


def _document(name: str, table: str, row: str, body: Any) -> tuple[int, Document]:
    place = f"{name}: document {row[:40]} of {table!r}"
    if not (_ID.match(row) and -(2**63) <= int(row) < 2**63):
        raise BadInput(f"{place}: its id is no number of 63 bits", fix=_FIX_FILE)
    if not isinstance(body, dict):
        raise BadInput(f"{place} is no object", fix=_FIX_FILE)
    if len(body) > WRITE_FIELDS:
        raise BadInput(f"{place} has {len(body)} fields, over {WRITE_FIELDS}", fix="nest them, or split it")
    for field, value in body.items():
        trouble = _over("a field's name", field, FIELD_BYTES_MAX) or _over(
            f"the value of {field[:40]!r}", _text(value), VALUE_BYTES_MAX
        )
        if trouble:
            raise BadInput(f"{place}: {trouble}", fix="keep large things as blobs and name them by digest")
    return int(row), body


def _over(what: str, text: str, most: int) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return f"{what} has a lone surrogate, which has no UTF-8 spelling"
    return f"{what} has {size} bytes, over {most}" if size > most else ""


def _refuse_constant(name: str) -> Any:
    raise BadInput(f"{name} is no JSON", fix="store null, or text")


# ── in: what it would change here ─────────────────────────────────────────────────────────────────────


class Plan(NamedTuple):
    """What an import is going to write, none of it written yet. fresh: with new ids."""

    declarations: list[dict[str, Any]]
    fresh: dict[str, list[Document]]
    inserted: dict[str, list[tuple[int, Document]]]
    changed: dict[str, list[tuple[int, Document]]]
    added: dict[str, list[str]]
    discarded: dict[str, list[str]]
    counted: dict[str, int]
    kept: dict[str, int]  # documents that differ here and stay as they are
    same: int
    notes: list[str]

    @property
    def documents(self) -> int:
        fresh = sum(len(each) for each in self.fresh.values())
        return fresh + sum(len(each) for each in (*self.inserted.values(), *self.changed.values()))


async def planned(
    calls: Calls, told: Told, *, mesh: str, node: str, merge: Merge, from_another_mesh: bool
) -> Plan:
    """Args: merge: what happens to a document that is here already.

    Raises: BadInput: another mesh's file, keys or kinds that do not fit what is here, over a bound.
    """
    if told.mesh and told.mesh != mesh and not from_another_mesh:
        raise BadInput(
            f"the file is an export of mesh {told.mesh}, this is mesh {mesh}",
            fix="choose another file; if it shall come over, say --from-another-mesh",
        )
    rows_here = await tables_of(calls)
    here = {row["name"]: row for row in rows_here if row["kind"] == "documents"}
    others = {(row["kind"], row["name"]) for row in rows_here}
    plan = Plan([], {}, {}, {}, {}, {}, {}, {}, 0, [])
    same = 0
    for table, rows in told.tables.items():
        key = _key(here.get(table), told, table)
        _declare(plan, here.get(table), told, table, key, node, local=told.mesh == mesh)
        if key is None and not told.mesh:
            plan.fresh[table] = [document for _, document in rows]
            continue
        documents = dict(rows) if key is None else _keyed(table, key, rows)
        there = await _there(calls, table, list(documents))
        plan.inserted[table] = [(doc_id, each) for doc_id, each in documents.items() if doc_id not in there]
        plan.changed[table] = []
        for doc_id, old in there.items():
            new = documents[doc_id]
            wanted = {**old, **new} if merge == "update" else new
            if wanted == old:
                same += 1
            elif merge == "keep":
                plan.kept[table] = plan.kept.get(table, 0) + 1
            else:
                plan.changed[table].append((doc_id, new))
    for name, elements in told.sets.items():
        have = await elements_of(calls, name) if ("set", name) in others else []
        plan.added[name] = sorted(set(elements) - set(have))
        plan.discarded[name] = sorted(set(have) - set(elements)) if merge == "replace" else []
    for name, value in told.counters.items():
        if ("counter", name) not in others:
            plan.counted[name] = value
        elif merge != "keep":
            plan.counted[name] = value - (await calls.call("state.counter", {"name": name}))["value"]
    _check_bounds(plan, sum(1 if row["kind"] == "counter" else row["count"] for row in rows_here))
    return plan._replace(same=same)


def _key(row: Mapping[str, Any] | None, told: Told, table: str) -> str | None:
    """The table's key, as the file and this mesh say alike."""
    said = told.keys.get(table)
    if row is None or (row["key"] is None and not row["count"] and said is not None):
        return said
    if table in told.keys and said != row["key"]:
        names = [f"key {each!r}" if each else "no key" for each in (said, row["key"])]
        raise BadInput(
            f"table {table!r} has {names[0]} in the file and {names[1]} here",
            fix="import it under another name",
        )
    key: str | None = row["key"]
    return key


def _declare(
    plan: Plan,
    row: Mapping[str, Any] | None,
    told: Told,
    table: str,
    key: str | None,
    node: str,
    *,
    local: bool,
) -> None:
    said = told.writers.get(table)
    declaration: dict[str, Any] = {"table": table, "key": key}
    if said and said != (None if row is None else row["writers"]):
        if node == GATEWAY and local and (row is None or not row["writers"]):
            declaration["writers"] = said
        else:
            plan.notes.append(
                f"the writers of {table} ({', '.join(said)}) are not imported: the gateway says them"
            )
    if "writers" in declaration or (key is not None and (row is None or row["key"] is None)):
        plan.declarations.append(declaration)


def _keyed(table: str, key: str, rows: Sequence[tuple[int, Document]]) -> dict[int, Document]:
    documents: dict[int, Document] = {}
    for row, document in rows:
        value = document.get(key)
        place = f"document {row} of {table!r}"
        if type(value) not in (str, int):
            raise BadInput(f"{place} has no {key!r}", fix="it is the table's key: text or an integer")
        trouble = _over(f"its {key!r}", str(value), KEY_BYTES_MAX - 1)
        if trouble:
            raise BadInput(f"{place}: {trouble}", fix="use a shorter key")
        doc_id = doc_id_for(table, value)  # type: ignore[arg-type]  # text or an integer
        if doc_id in documents:
            raise BadInput(f"{place} has the {key!r} of another one: {value!r}", fix="remove one of them")
        documents[doc_id] = document
    return documents


async def _there(calls: Calls, table: str, ids: Sequence[int]) -> dict[int, Document]:
    there: dict[int, Document] = {}
    for at in range(0, len(ids), PAGE):
        async for doc_id, text in documents_of(calls, table, ids=list(ids[at : at + PAGE])):
            there[doc_id] = json.loads(text)
    return there


def _check_bounds(plan: Plan, here: int) -> None:
    """Args: here: how many keys there are already."""
    limits = Limits()
    new = sum(len(each) for each in plan.fresh.values())
    new += sum(len(each) for each in plan.inserted.values())
    new += sum(len(each) for each in plan.added.values()) + len(plan.counted)
    if here + new > limits.keys_max:
        cause = f"with this file the mesh would hold {here + new} keys, over {limits.keys_max}"
        raise BadInput(cause, fix="import fewer tables")
    groups = (
        *plan.fresh.items(),
        *((table, [each for _, each in rows]) for table, rows in plan.inserted.items()),
        *((table, [each for _, each in rows]) for table, rows in plan.changed.items()),
    )
    size = sum(
        sum(len(table) + 20 + len(field) + len(_text(value).encode()) for field, value in document.items())
        for table, documents in groups
        for document in documents
    )
    if size > limits.quota_bytes:
        cause = (
            f"the file would write {size / 2**20:.1f} MiB, and one writer may hold {limits.quota_bytes >> 20}"
        )
        raise BadInput(cause, fix="import some tables here and some at another node")


# ── in: writing ───────────────────────────────────────────────────────────────────────────────────────


async def carried_out(calls: Calls, plan: Plan, merge: Merge) -> None:
    """Raises: whatever the daemon says, with how much had been written by then."""
    written = 0
    try:
        for declaration in plan.declarations:
            await calls.call("state.declare", declaration)
        for table, documents in plan.fresh.items():
            for part in _parts([(None, each) for each in documents]):
                await calls.call("state.insert", {"table": table, "documents": part})
                written += len(part)
        for table, rows in plan.inserted.items():
            for part in _parts(rows):
                await calls.call("state.insert", {"table": table, "documents": part})
                written += len(part)
        for table, rows in plan.changed.items():
            if merge == "replace":
                for part in _parts(rows):
                    await calls.call("state.put", {"table": table, "documents": part})
                    written += len(part)
            else:
                for at in range(0, len(rows), UNDER_WAY):
                    some = rows[at : at + UNDER_WAY]
                    ends = await asyncio.gather(
                        *(_upsert(calls, table, *row) for row in some), return_exceptions=True
                    )
                    written += ends.count(None)
                    for end in ends:
                        if end is not None:
                            raise end
        for name, elements in plan.added.items():
            for at in range(0, len(elements), WRITE_FIELDS):
                await calls.call("state.set", {"name": name, "add": elements[at : at + WRITE_FIELDS]})
        for name, elements in plan.discarded.items():
            for at in range(0, len(elements), WRITE_FIELDS):
                await calls.call("state.set", {"name": name, "discard": elements[at : at + WRITE_FIELDS]})
        for name, amount in plan.counted.items():
            if amount:
                await calls.call("state.counter", {"name": name, "add": amount})
    except EdgeweaveError as error:
        if written:
            error.cause = f"{error.cause}; {written} of {plan.documents} documents had been written"
            error.fix = f"{error.fix + '; ' if error.fix else ''}import it again: what is here stays as it is"
        raise


async def _upsert(calls: Calls, table: str, doc_id: int, document: Document) -> None:
    await calls.call("state.upsert", {"table": table, "document": _text(document), "id": doc_id})


def _parts(rows: Sequence[tuple[int | None, Document]]) -> Iterator[list[list[Any]]]:
    """Documents for one write each: all of them or none."""
    part: list[list[Any]] = []
    fields = size = 0
    for doc_id, document in rows:
        text = _text(document)
        more = max(1, len(document))
        if part and (fields + more > WRITE_FIELDS or size + len(text) > WRITE_BYTES):
            yield part
            part, fields, size = [], 0, 0
        part.append([doc_id, text])
        fields += more
        size += len(text)
    if part:
        yield part
