"""Access: logging in, users, tokens, and the audit log."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any, Literal

import msgspec
from fastapi import Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.access.accounts import Token, User
from gateway.access.roles import Principal, Role, role_of
from gateway.api.answers import IF_MATCH, Limit, check_unchanged, etag, example, nothing, room, told
from gateway.api.guard import COOKIE, Ask, Asking, for_anybody, needs
from gateway.api.problems import Problem, about
from security.errors import Refused, Unavailable

router = room("access")
AN_EVENING = 7 * 24 * 3600
UserName = Annotated[
    str, Path(pattern=r"^[a-z0-9._-]{1,32}$", examples=["ann"], description="A user's name.")
]
TokenId = Annotated[str, Path(pattern=r"^[a-z0-9]{1,32}$", description="Its id, as `/v1/tokens` tells it.")]
RoleName = Literal["viewer", "operator", "admin"]
Password = Annotated[str, Field(max_length=1024, description="At least 12 characters.")]
USER = {"name": "ann", "role": "operator", "since_at_ms": 1790000000000, "password_at_ms": 1790000000000}
TOKEN = {
    "id": "k7q2mzpe",
    "name": "grafana",
    "role": "viewer",
    "scopes": ["metrics:read"],
    "owner": "ann",
    "made_at_ms": 1790000000000,
    "expires_at_ms": 1797776000000,
}
ME = {"name": "ann", "role": "operator", "kind": "session", "scopes": None, "csrf": "c2VjcmV0"}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


WORDS = "correct horse battery staple"
SECRET = "Vq3xJz0YGx1oFJa0qJPWCFCkDwgFtLb9"  # noqa: S105  an example


def _as(**fields: Any) -> ConfigDict:
    """A body, by an example."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


class Credentials(_Body):
    model_config = _as(name="ann", password=WORDS)
    name: Annotated[str, Field(max_length=256, examples=["ann"])]
    password: Annotated[str, Field(max_length=1024)]


class LogInLink(_Body):
    model_config = _as(secret=SECRET)
    secret: Annotated[str, Field(max_length=128, description="Of the link that `users link` printed.")]


class SetUp(_Body):
    model_config = _as(secret=SECRET, name="ann", password=WORDS)
    secret: Annotated[str, Field(max_length=128, description="Of the link that the gateway printed.")]
    name: Annotated[str, Field(max_length=256, examples=["ann"])]
    password: Password


class NewUser(_Body):
    model_config = _as(name="bob", password=WORDS, role="operator")
    name: Annotated[str, Field(max_length=256, examples=["bob"])]
    password: Password
    role: RoleName = "viewer"


class NewRole(_Body):
    model_config = _as(role="operator")
    role: RoleName


class NewPassword(_Body):
    model_config = _as(password=WORDS, old="the one before")
    password: Password
    old: Annotated[
        str | None, Field(max_length=1024, description="The present one, where it is one's own.")
    ] = None


class NewToken(_Body):
    model_config = _as(name="grafana", scopes=["metrics:read"])
    name: Annotated[str, Field(max_length=256, examples=["grafana"])]
    role: RoleName = "viewer"
    scopes: Annotated[
        list[str] | None,
        Field(max_length=32, description="null: whatever the role may.", examples=[["metrics:read"]]),
    ] = None
    ttl_s: Annotated[int, Field(description="60 s to 366 days.", ge=1, le=2**40)] = 90 * 86400


# ── sessions ──────────────────────────────────────────────────────────────────────────────────────


@router.post("/set-up", status_code=201, responses=example(USER, "The first administrator; log in now.", 201))
@for_anybody()
async def set_up(ask: Asking, body: SetUp) -> Response:
    """Make the first user, with the secret of the link that the gateway printed at its first start."""
    try:
        user = await ask.services.access.set_up(body.secret, body.name, body.password)
    except Refused as error:
        raise Problem("forbidden", error.cause, fix=error.fix, field="body.secret") from None
    return told(_user(user), 201)


@router.post("/log-in", responses=example(ME, "A session; its cookie is set."))
@for_anybody()
async def log_in(ask: Asking, body: Credentials) -> Response:
    """Begin a session. Whatever session the browser had before is worth nothing here."""
    try:
        cookie, principal = await ask.services.access.log_in(body.name, body.password, ask.address)
    except Refused as error:
        raise Problem("not-authenticated", error.cause, fix=error.fix, field="body") from None
    except Unavailable as error:
        after = {"Retry-After": str(max(1, round(error.retry_after_s)))}
        raise Problem("too-many", error.cause, fix=error.fix, field="body.name", headers=after) from None
    return await _begun(ask, cookie, principal)


@router.post("/log-in/link", responses=example(ME, "A session; its cookie is set. The link is used up."))
@for_anybody()
async def log_in_by_link(ask: Asking, body: LogInLink) -> Response:
    """Begin a session with a log-in link, which is good once, for ten minutes."""
    try:
        cookie, principal = await ask.services.access.log_in_by_link(body.secret, ask.address)
    except Refused as error:
        raise Problem("not-authenticated", error.cause, fix=error.fix, field="body.secret") from None
    return await _begun(ask, cookie, principal)


async def _begun(ask: Ask, cookie: str, principal: Principal) -> Response:
    """The session's cookie; what the browser had before is worth nothing from now on."""
    before = ask.request.cookies.get(COOKIE)
    if before:
        await ask.services.access.log_out(before)
    response = told(_me(principal))
    response.set_cookie(
        COOKIE, cookie, max_age=AN_EVENING, path="/", secure=True, httponly=True, samesite="strict"
    )
    return response


@router.post("/log-out", status_code=204)
@needs(Role.VIEWER, "")
async def log_out(ask: Asking) -> Response:
    """End this session."""
    if ask.by.kind == "session":
        await ask.services.access.log_out(ask.request.cookies[COOKIE])
    response = nothing()
    response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")
    return response


@router.get("/me", responses=example(ME, "Who asks; `csrf` goes into X-CSRF-Token of a browser's changes."))
@needs(Role.VIEWER, "")
async def me(ask: Asking) -> Response:
    """Who am I, and what may I do?"""
    return told(_me(ask.by))


# ── users ─────────────────────────────────────────────────────────────────────────────────────────


@router.get("/users", responses=example({"users": [USER]}, "By name."))
@needs(Role.ADMIN, "access:read")
async def users(ask: Asking) -> Response:
    """Everybody with an account."""
    return told({"users": [_user(each) for each in ask.services.access.users()]})


@router.get("/users/{name}", responses=example(USER, "The user; the ETag names this version."))
@needs(Role.ADMIN, "access:read")
async def one_user(ask: Asking, name: UserName) -> Response:
    """One user."""
    user = _found(ask, name)
    return told(_user(user), headers={"etag": _tag(user)})


@router.post("/users", status_code=201, responses=example(USER, "The user is made.", 201))
@needs(Role.ADMIN, "access:write")
async def add_user(ask: Asking, body: NewUser) -> Response:
    """Make a user."""
    user = await ask.services.access.add_user(ask.by, body.name, body.password, role_of(body.role))
    return told(_user(user), 201, {"location": f"/v1/users/{user.name}", "etag": _tag(user)})


@router.patch("/users/{name}", responses=example(USER, "As it is now."), openapi_extra=IF_MATCH)
@needs(Role.ADMIN, "access:write")
async def set_role(ask: Asking, request: Request, name: UserName, body: NewRole) -> Response:
    """Give a user another role. The last administrator stays one."""
    version = _version(ask, request, name)
    user = await ask.services.access.set_role(ask.by, name, role_of(body.role), version=version)
    return told(_user(user), headers={"etag": _tag(user)})


@router.put("/users/{name}/password", status_code=204, openapi_extra=IF_MATCH)
@needs(Role.VIEWER, "access:write")
async def set_password(ask: Asking, request: Request, name: UserName, body: NewPassword) -> Response:
    """One's own password, with the present one; anybody's as administrator. All sessions of that user end."""
    if ask.by.name != name and ask.by.role < Role.ADMIN:
        raise Problem(
            "forbidden", "another's password is for administrators", fix="ask one", field="path.name"
        )
    version = _version(ask, request, name)
    own = ask.by.kind == "session" and ask.by.name == name
    with about("body.old" if own else "header.authorization"):
        await ask.services.access.set_password(ask.by, name, body.password, old=body.old, version=version)
    return nothing()


@router.delete("/users/{name}", status_code=204, openapi_extra=IF_MATCH)
@needs(Role.ADMIN, "access:write")
async def remove_user(ask: Asking, request: Request, name: UserName) -> Response:
    """Remove a user, with sessions and tokens."""
    await ask.services.access.remove_user(ask.by, name, version=_version(ask, request, name))
    return nothing()


# ── tokens ────────────────────────────────────────────────────────────────────────────────────────


@router.get("/tokens", responses=example({"tokens": [TOKEN]}, "Without their secrets: nobody has those."))
@needs(Role.ADMIN, "access:read")
async def tokens(ask: Asking) -> Response:
    """Every API token."""
    return told({"tokens": [_token(each) for each in ask.services.access.tokens()]})


@router.post(
    "/tokens",
    status_code=201,
    responses=example({**TOKEN, "secret": "ewt_k7q2mzpe_…"}, "Shown this once.", 201),
)
@needs(Role.ADMIN, "access:write")
async def add_token(ask: Asking, body: NewToken) -> Response:
    """Make an API token, with a role, scopes and an end."""
    token, secret = await ask.services.access.add_token(
        ask.by, body.name, role_of(body.role), body.scopes, body.ttl_s
    )
    return told(_token(token) | {"secret": secret}, 201)


@router.delete("/tokens/{token}", status_code=204)
@needs(Role.ADMIN, "access:write")
async def revoke_token(
    ask: Asking,
    token: TokenId,
) -> Response:
    """Revoke a token; it does nothing from now on."""
    await ask.services.access.revoke_token(ask.by, token)
    return nothing()


# ── audit ─────────────────────────────────────────────────────────────────────────────────────────


@router.get(
    "/audit",
    responses=example(
        {"entries": [{"n": 7, "who": "ann", "what": "node.revoke"}], "next": 7}, "Oldest first."
    ),
)
@needs(Role.ADMIN, "audit:read")
async def audit(
    ask: Asking,
    after: Annotated[
        int, Query(ge=0, lt=2**53, description="The number of the last entry that is known.")
    ] = 0,
    before: Annotated[
        int | None, Query(ge=1, lt=2**53, description="The last ones below this number, instead.")
    ] = None,
    limit: Limit = 100,
) -> Response:
    """Who changed what, and what it was before."""
    log = ask.services.access.audit
    if before is not None and after:
        raise Problem(
            "invalid", "either after or before, not both", field="query.before", fix="leave one of them out"
        )
    if before is not None:
        before = min(before, log.head.n + 1)
        if before == 1:
            return told({"entries": [], "next": 0})
        after, limit = max(0, before - 1 - limit), min(limit, before - 1)
    entries = await asyncio.to_thread(log.read, after, limit)
    rows = [msgspec.to_builtins(each) for each in entries]
    return told({"entries": rows, "next": entries[-1].n if len(entries) == limit else 0})


@router.get(
    "/audit/verify",
    responses=example({"entries": 7, "broken_at": None, "reason": ""}, "Whole, or where not."),
)
@needs(Role.ADMIN, "audit:read")
async def verify(ask: Asking) -> Response:
    """Is the audit log whole: nothing changed, taken out, moved or cut off?"""
    verdict = await asyncio.to_thread(ask.services.access.audit.verify)
    return told({"entries": verdict.entries, "broken_at": verdict.broken_at, "reason": verdict.reason})


def _found(ask: Ask, name: str) -> User:
    """Raises: Problem: there is none."""
    for user in ask.services.access.users():
        if user.name == name:
            return user
    raise Problem("not-found", f"there is no user {name}", fix="see /v1/users")


def _version(ask: Ask, request: Request, name: str) -> int | None:
    """Which version If-Match asks for. Raises: Problem: another one is there."""
    user = _found(ask, name)
    check_unchanged(request, _tag(user))
    return user.version if "if-match" in request.headers else None


def _tag(user: User) -> str:
    return etag(user.name, user.since_at_ms, user.version)


def _user(user: User) -> dict[str, Any]:
    return asdict(user) | {"role": user.role.word}


def _token(token: Token) -> dict[str, Any]:
    scopes = None if token.scopes is None else sorted(token.scopes)
    return asdict(token) | {"role": token.role.word, "scopes": scopes}


def _me(by: Any) -> dict[str, Any]:
    scopes = None if by.scopes is None else sorted(by.scopes)
    return {"name": by.name, "role": by.role.word, "kind": by.kind, "scopes": scopes, "csrf": by.csrf}
