"""Functions: what is deployed, by whom, and putting back what was before."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import Path, Query, Request, Response

from edge_node.functions.manifest import SOURCE_BYTES_MAX
from gateway.access.roles import Role
from gateway.api.answers import IF_MATCH, Cursor, Limit, check_unchanged, etag, example, room, told
from gateway.api.guard import Asking, needs
from gateway.api.paging import after_of, cursor_for
from gateway.api.problems import Problem
from gateway.api.services import Services
from security.errors import BadInput

router = room("functions")
Name = Annotated[
    str, Path(min_length=1, max_length=200, examples=["toys.add"], description="`file.function`.")
]
FUNCTION = {
    "name": "toys.add",
    "version": 3,
    "digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "signature": "add(a: int, b: int = 1) -> int",
    "doc": "The sum.",
    "timeout_s": 20.0,
    "memory_mb": 256,
    "requires": [],
    "labels": {},
    "issued_at_ms": 1790000000000,
    "here": True,
}
EXAMPLE = "from edge_node.functions import function\n\n\n@function\ndef one() -> int:\n    return 1\n"
_STEM = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}\Z")


@router.get("/functions", responses=example({"functions": [FUNCTION], "next": ""}, "By name."))
@needs(Role.VIEWER, "functions:read")
async def functions(ask: Asking, limit: Limit = 100, cursor: Cursor = "") -> Response:
    """The current version of every function, by name, page by page."""
    after = after_of(cursor)
    rows = [row for row in await ask.services.call("functions") if row["name"] > after]
    rows.sort(key=lambda row: str(row["name"]))
    page = rows[:limit]
    return told({"functions": page, "next": cursor_for(page[-1]["name"] if len(rows) > limit else "")})


@router.get("/functions/{name}", responses=example(FUNCTION, "Its current version; its ETag names it."))
@needs(Role.VIEWER, "functions:read")
async def one_function(ask: Asking, name: Name) -> Response:
    """One function."""
    row = await _found(ask.services, name)
    return told(row, headers={"etag": _tag(row)})


@router.get(
    "/functions/{name}/history",
    responses=example(
        {"versions": [{"version": 3, "digest": "9f86…", "signer": "gateway"}]}, "Newest first."
    ),
)
@needs(Role.VIEWER, "functions:read")
async def history(ask: Asking, name: Name) -> Response:
    """Versions of a function that are kept."""
    await _found(ask.services, name)
    return told({"versions": await ask.services.call("history", name=name)})


@router.get(
    "/functions/{name}/source",
    responses=example(
        {
            "name": "toys.add",
            "version": 3,
            "digest": "9f86…",
            "file": "toys.py",
            "line": 8,
            "params": [{"name": "a", "annotation": "int", "has_default": False, "kind": "either"}],
            "returns": "int",
            "source": "from …",
        },
        "Its file.",
    ),
)
@needs(Role.VIEWER, "functions:read")
async def source_of(
    ask: Asking,
    name: Name,
    version: Annotated[int | None, Query(ge=1, lt=2**53, description="Left out: the current one.")] = None,
) -> Response:
    """The file that defines a function, as it was deployed, and what the function takes."""
    await _found(ask.services, name)
    try:
        found = await ask.services.call("source", name=name, version=version)
    except BadInput as error:
        raise Problem("not-found", error.cause, fix=error.fix) from None
    return told(found)


@router.post(
    "/functions",
    status_code=201,
    openapi_extra=IF_MATCH
    | {
        "requestBody": {
            "required": True,
            "content": {
                "text/x-python": {
                    "schema": {"type": "string"},
                    "example": EXAMPLE,
                }
            },
        }
    },
    responses=example(
        {"functions": [{"name": "toys.one", "version": 1, "digest": "9f86…", "new": True}]},
        "Signed and published.",
        201,
    ),
)
@needs(Role.ADMIN, "functions:write", bytes_max=SOURCE_BYTES_MAX)
async def deploy(
    ask: Asking,
    request: Request,
    file: Annotated[
        str,
        Query(
            max_length=104,
            examples=["toys.py"],
            description="The file's name; its stem begins the functions' names.",
        ),
    ],
    look: Annotated[bool, Query(description="Only tell what would change; 200.")] = False,
) -> Response:
    """Publish the functions of a Python file, signed with this gateway's deployer key.

    The body is the file. With If-Match, the ETag of one of its functions, nothing is published if that has
    changed. With `look` nothing is published: told is each function before and after, and which others of
    this file's name stay.
    """
    stem = file.removesuffix(".py")
    if not _STEM.match(stem):
        raise Problem(
            "invalid",
            "file is no name of a Python file",
            field="query.file",
            fix="a name like toys.py, no directories",
        )
    source = await request.body()
    if not source:
        raise Problem("invalid", "the body is empty", field="body", fix="send the file's bytes as the body")
    if look:
        return told(await ask.services.call("deploy-look", source=source, stem=stem))
    async with ask.services.changing:
        if "if-match" in request.headers:
            rows = [row for row in await ask.services.call("functions") if row["name"].startswith(f"{stem}.")]
            tags = [_tag(row) for row in rows]
            if not tags:  # also for *: it stands for any version that is there (RFC 9110, 13.1.1)
                raise Problem(
                    "stale", f"no function of {stem}.py is deployed", field="header.if-match",
                    fix="leave If-Match out to deploy a new file",
                )  # fmt: skip
            given = [each.strip() for each in request.headers["if-match"].split(",")]
            check_unchanged(request, next((tag for tag in tags if tag in given), ""))
        published = await ask.services.call("deploy", source=source, stem=stem)
    return told(published, 201)


@router.post(
    "/functions/{name}/rollback",
    responses=example(
        {"functions": [{"name": "toys.add", "version": 4, "digest": "60303…"}]},
        "The earlier code, as a new version.",
    ),
    openapi_extra=IF_MATCH,
)
@needs(Role.ADMIN, "functions:write")
async def rollback(ask: Asking, request: Request, name: Name) -> Response:
    """Publish the code of the version before. With If-Match only if the current version is still that one."""
    async with ask.services.changing:
        check_unchanged(request, _tag(await _found(ask.services, name)))
        published = await ask.services.call("rollback", name=name)
    return told(published)


async def _found(services: Services, name: str) -> dict[str, Any]:
    """Raises: Problem: no function is named so."""
    for row in await services.call("functions"):
        if row["name"] == name:
            return dict(row)
    try:
        await services.call("history", name=name)  # its error names the nearest one
    except BadInput as error:
        raise Problem("not-found", error.cause, fix=error.fix or "see /v1/functions") from None
    raise Problem("not-found", f"no function {name:.80} is deployed", fix="see /v1/functions")


def _tag(row: dict[str, Any]) -> str:
    return etag(row["name"], row["version"], row["digest"])
