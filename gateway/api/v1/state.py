"""State: the replicated tables, their conflicts, and the twins of nodes.

A document's ETag names its content. With If-Match a write is made only onto that content; without it, onto
whatever is there: fields are merged as everywhere in the mesh. Ids are 63 bits and told as text, as
JavaScript's numbers have 53.
"""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Body, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.access.roles import Role
from gateway.api.answers import (
    IF_MATCH,
    Cursor,
    Limit,
    NodeName,
    check_unchanged,
    etag,
    example,
    nothing,
    room,
    told,
)
from gateway.api.guard import Ask, Asking, needs
from gateway.api.paging import after_of, cursor_for
from gateway.api.problems import Problem, about
from gateway.api.v1.nodes import found_node
from security.errors import BadInput

router = room("state")
BYTES_MAX = 1024 * 1024
"""Of a document: a value takes at most 64 KiB, and a write is replicated to every member."""
Table = Annotated[str, Path(min_length=1, max_length=128, examples=["rooms"], description="Its name.")]
DocId = Annotated[
    str, Path(pattern=r"^[0-9]{1,19}$", examples=["5577006791947779410"], description="Its id.")
]
Collected = Annotated[str, Path(min_length=1, max_length=128, examples=["doors"], description="Its name.")]
Fields = Annotated[dict[str, Any], Body(examples=[{"setpoint_c": 21.5, "fan": "low"}])]
DOCUMENT = {"id": "5577006791947779410", "document": {"id": "r1", "setpoint_c": 21.5}}
RIVAL: dict[str, Any] = {"table": "rooms", "id": "5577006791947779410", "field": "setpoint_c"}


class Resolution(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [RIVAL | {"value": 20}, RIVAL]})
    table: Annotated[str, Field(min_length=1, max_length=128)]
    id: Annotated[str, Field(pattern=r"^[0-9]{1,19}$", description="The document.")]
    field: Annotated[str, Field(min_length=1, max_length=256)]
    value: Annotated[Any, Field(description="What shall stand; left out: the winner.")] = None


class Declaration(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"key": "id"}]})
    key: Annotated[
        str | None, Field(max_length=256, description="The field that names a document; null: none does.")
    ] = None
    writers: Annotated[
        list[str] | None, Field(max_length=256, description="Who may write; null: everybody.")
    ] = None
    indexes: Annotated[list[str] | None, Field(max_length=32, description="Fields looked up by.")] = None


class Amount(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"add": 1}]})
    add: Annotated[int, Field(ge=-(2**63), le=2**63 - 1, description="May be negative.")]


class Elements(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"add": ["north"]}]})
    add: Annotated[list[str], Field(max_length=1000)] = []
    discard: Annotated[list[str], Field(max_length=1000)] = []


@router.get(
    "/state/tables",
    responses=example(
        {"tables": [{"name": "rooms", "kind": "documents", "count": 2, "key": "id", "conflicts": 0}]},
        "By name.",
    ),
)
@needs(Role.VIEWER, "state:read")
async def tables(ask: Asking) -> Response:
    """Tables, sets and counters of the mesh."""
    return told(await ask.services.call("state.tables"))


@router.get(
    "/state/tables/{table}",
    responses=example({"documents": [DOCUMENT], "next": ""}, "Its documents, by their key."),
)
@needs(Role.VIEWER, "state:read")
async def documents(
    ask: Asking,
    table: Table,
    where: Annotated[
        str,
        Query(
            max_length=2000, description="A query as data, in JSON.", examples=['[">", ["setpoint_c"], 25]']
        ),
    ] = "",
    limit: Limit = 100,
    cursor: Cursor = "",
) -> Response:
    """Documents of a table, page by page."""
    after = after_of(cursor, table, where)
    asked: dict[str, Any] = {"table": table, "limit": limit}
    if where:
        asked["where"] = _query(where)
    if after:
        asked["after"] = int(after)
    with about("query.where" if where else "path.table"):
        page = await ask.services.call("state.find", **asked)
    rows = [{"id": str(doc_id), "document": json.loads(text)} for doc_id, text in page["documents"]]
    last = rows[-1]["id"] if page["more"] and rows else ""
    return told({"documents": rows, "next": cursor_for(last, table, where)})


@router.post(
    "/state/tables/{table}",
    status_code=201,
    responses=example({"id": "5577006791947779410"}, "It is durable.", 201),
)
@needs(Role.OPERATOR, "state:write", bytes_max=BYTES_MAX)
async def insert(ask: Asking, table: Table, body: Fields) -> Response:
    """Add a document. In a table with a key, none that bears the same key may be there yet."""
    done = await ask.services.call("state.insert", table=table, documents=[[None, _text(body)]])
    made = str(done["ids"][0])
    return told({"id": made}, 201, {"location": f"/v1/state/tables/{quote(table, safe='')}/{made}"})


@router.get(
    "/state/tables/{table}/{doc_id}", responses=example(DOCUMENT, "The document; its ETag names the content.")
)
@needs(Role.VIEWER, "state:read")
async def document(ask: Asking, table: Table, doc_id: DocId) -> Response:
    """One document."""
    text = await _there(ask, table, doc_id)
    return told({"id": doc_id, "document": json.loads(text)}, headers={"etag": etag(text)})


@router.put(
    "/state/tables/{table}/{doc_id}",
    responses=example({"id": "5577006791947779410"}, "It is durable."),
    openapi_extra=IF_MATCH,
)
@needs(Role.OPERATOR, "state:write", bytes_max=BYTES_MAX)
async def put(ask: Asking, request: Request, table: Table, doc_id: DocId, body: Fields) -> Response:
    """Make a document exactly this. With If-Match only if it is still what was read."""
    seen = await _there(ask, table, doc_id)
    check_unchanged(request, etag(seen))
    asked: dict[str, Any] = {"table": table, "documents": [[int(doc_id), _text(body)]]}
    if "if-match" in request.headers:
        asked["seen"] = [seen]
    done = await ask.services.call("state.put", **asked)
    if done.get("stale"):
        raise _stale()
    return told({"id": doc_id})


@router.patch(
    "/state/tables/{table}/{doc_id}",
    responses=example({"id": "5577006791947779410"}, "It is durable."),
    openapi_extra=IF_MATCH,
)
@needs(Role.OPERATOR, "state:write", bytes_max=BYTES_MAX)
async def patch(ask: Asking, request: Request, table: Table, doc_id: DocId, body: Fields) -> Response:
    """Write these fields of a document; the others stay."""
    async with ask.services.changing:
        check_unchanged(request, etag(await _there(ask, table, doc_id)))
        await ask.services.call("state.update", table=table, set=_text(body), ids=[int(doc_id)])
    return told({"id": doc_id})


@router.delete("/state/tables/{table}/{doc_id}", status_code=204, openapi_extra=IF_MATCH)
@needs(Role.OPERATOR, "state:write")
async def remove(ask: Asking, request: Request, table: Table, doc_id: DocId) -> Response:
    """Remove a document. With If-Match only if it is still what was read."""
    async with ask.services.changing:
        check_unchanged(request, etag(await _there(ask, table, doc_id)))
        await ask.services.call("state.remove", table=table, ids=[int(doc_id)])
    return nothing()


@router.post(
    "/state/tables/{table}/declare",
    responses=example({"key": "id", "writers": None}, "As it is declared now."),
)
@needs(Role.OPERATOR, "state:write")
async def declare(ask: Asking, table: Table, body: Declaration) -> Response:
    """Say by which field a table's documents are told apart, and who may write it; for good."""
    given = body.model_dump(exclude_unset=True)
    return told(await ask.services.call("state.declare", table=table, **given))


@router.get(
    "/state/counters/{name}", responses=example({"name": "doors", "value": 3}, "Its value, as known here.")
)
@needs(Role.VIEWER, "state:read")
async def counter(ask: Asking, name: Collected) -> Response:
    """A counter; one that nobody counted on is 0."""
    found = await ask.services.call("state.counter", name=name)
    return told({"name": name, "value": found["value"]})


@router.post("/state/counters/{name}", responses=example({"name": "doors", "value": 4}, "It is durable."))
@needs(Role.OPERATOR, "state:write")
async def count(ask: Asking, name: Collected, body: Amount) -> Response:
    """Count on, or back: what others count meanwhile is not lost."""
    found = await ask.services.call("state.counter", name=name, add=body.add)
    return told({"name": name, "value": found["value"]})


@router.get(
    "/state/sets/{name}",
    responses=example({"name": "tags", "elements": ["north"], "next": ""}, "In order of the alphabet."),
)
@needs(Role.VIEWER, "state:read")
async def elements(
    ask: Asking,
    name: Collected,
    limit: Limit = 100,
    cursor: Cursor = "",
) -> Response:
    """What is in a set, page by page."""
    after = after_of(cursor, "set", name)
    found = await ask.services.call("state.set", name=name, limit=limit, after=after or None)
    last = found["elements"][-1] if found["more"] and found["elements"] else ""
    return told({"name": name, "elements": found["elements"], "next": cursor_for(last, "set", name)})


@router.patch("/state/sets/{name}", status_code=204)
@needs(Role.OPERATOR, "state:write")
async def change_set(ask: Asking, name: Collected, body: Elements) -> Response:
    """Put elements into a set, and take others out."""
    await ask.services.call("state.set", name=name, add=body.add, discard=body.discard, limit=1)
    return nothing()


@router.get(
    "/state/conflicts",
    responses=example(
        {"conflicts": [{"table": "rooms", "key": "r1", "field": "setpoint_c"}], "total": 1}, "Rivals."
    ),
)
@needs(Role.VIEWER, "state:read")
async def conflicts(
    ask: Asking,
    table: Annotated[str, Query(max_length=128, description="Only of this table.")] = "",
    limit: Annotated[int, Query(ge=1, le=1000, description="Of so many; `total` counts all.")] = 100,
) -> Response:
    """Values that were written at once by several, and which of them wins."""
    found = await ask.services.call("state.conflicts", limit=limit, **({"table": table} if table else {}))
    rows = [row | {"id": str(row["id"])} if "id" in row else row for row in found["conflicts"]]
    return told({"conflicts": rows, "total": found["total"]})


@router.post("/state/conflicts/resolve", status_code=204)
@needs(Role.OPERATOR, "state:write", bytes_max=128 * 1024)
async def resolve(ask: Asking, body: Resolution) -> Response:
    """End a conflict: the winner, or another value, stands."""
    asked: dict[str, Any] = {"table": body.table, "id": int(body.id), "field": body.field}
    if "value" in body.model_fields_set:
        asked["value"] = _text(body.value)
    await ask.services.call("state.resolve", **asked)
    return nothing()


@router.get(
    "/twins/{node}",
    responses=example(
        {"node": "pi-1", "desired": {"fan": "low"}, "reported": {}, "delta": {"fan": "low"}}, "Both sides."
    ),
)
@needs(Role.VIEWER, "state:read")
async def twin(ask: Asking, node: NodeName) -> Response:
    """What a node should be set to, what it says it is, and what still differs."""
    desired, reported = await _twin(ask, "desired", node), await _twin(ask, "reported", node)
    if not desired and not reported:
        await found_node(ask.services, node)
    delta = {
        name: value
        for name, value in desired.items()
        if name not in reported or json.dumps(reported[name]) != json.dumps(value)
    }
    both = {"node": node, "desired": desired, "reported": reported, "delta": delta}
    return told(both, headers={"etag": _wished(desired)})


@router.patch("/twins/{node}", status_code=204, openapi_extra=IF_MATCH)
@needs(Role.OPERATOR, "state:write", bytes_max=BYTES_MAX)
async def desire(ask: Asking, request: Request, node: NodeName, body: Fields) -> Response:
    """Wish settings of a node; those that are not named stay. The ETag is of what was wished for."""
    if "node" in body:
        raise Problem(
            "invalid", "node is the twin's name, no setting", field="body.node", fix="name it otherwise"
        )
    wish = _text({"node": node, **body})
    async with ask.services.changing:
        desired = await _twin(ask, "desired", node)
        if not desired:
            await found_node(ask.services, node)
        check_unchanged(request, _wished(desired))
        if body:
            if not desired:  # else it was declared with an earlier wish, and saying so again would be noted
                await ask.services.call("state.declare", table="twins.desired", key="node")
            await ask.services.call("state.upsert", table="twins.desired", document=wish)
    return nothing()


def _wished(desired: dict[str, Any]) -> str:
    return etag("twin", json.dumps(desired, sort_keys=True))


async def _twin(ask: Ask, side: str, node: str) -> dict[str, Any]:
    found = await ask.services.call(
        "state.find", table=f"twins.{side}", where=["==", ["node"], node], limit=1
    )
    fields = json.loads(found["documents"][0][1]) if found["documents"] else {}
    return {name: value for name, value in fields.items() if name != "node"}


async def _there(ask: Ask, table: str, doc_id: str) -> str:
    """The document's JSON. Raises: Problem: there is none."""
    number = int(doc_id)
    found = await ask.services.call("state.find", table=table, ids=[number]) if number < 2**63 else {}
    if not found.get("documents"):
        raise Problem(
            "not-found", f"there is no document {doc_id} in this table", fix="list the table for the ids"
        )
    return str(found["documents"][0][1])


def _stale() -> Problem:
    return Problem("stale", "the document was changed meanwhile", fix="read it again, then write it")


def _text(value: object) -> str:
    """Raises: BadInput: not plain JSON."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise BadInput("NaN and infinities cannot be kept", fix="use null, or a text") from None


def _query(text: str) -> list[Any]:
    try:
        query = json.loads(text)
    except (ValueError, RecursionError):
        query = None
    if not isinstance(query, list):
        raise Problem(
            "invalid",
            "where is no query",
            field="query.where",
            fix='a JSON list, as [">", ["setpoint_c"], 25]',
        )
    return query
