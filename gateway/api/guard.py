"""The guard: who asks, and whether they may. Every route says what it needs, where it is written:

    @router.post("/nodes/{node}/revoke")
    @needs(Role.OPERATOR, "nodes:write")
    async def revoke(ask: Asking, node: NodeName, body: Revoke) -> Response: ...

A route that says nothing cannot be made. For each request, in this order, and before its body is read: the
peer is on this machine (or ``[api] lan`` is set); a bearer token, or a session's cookie, is valid; a
browser's change bears the session's CSRF token and comes from our own pages; role and scope are enough.
Then the body is read, bounded in bytes and seconds. What goes wrong is told as a problem (``problems``).

A request with an ``Authorization`` header is never answered on the strength of a cookie. Cookies are
``__Host-``: bound to this host by the browser, sent over TLS only and never along with another site's
request.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from gateway.access.access import asking
from gateway.access.roles import Principal, Role
from gateway.api.app import HEADER_BYTES_MAX, read_body
from gateway.api.problems import Problem, new_cause, problem_of, secured
from gateway.api.slashes import parts_of
from security.certificates import spelled_minute

if TYPE_CHECKING:
    from gateway.api.services import Services

ENDLESS: Final = "/v1/events"
"""The one answer to a GET that does not end by itself."""
COOKIE: Final = "__Host-edgeweave"
CSRF: Final = "x-csrf-token"
BODY_BYTES_MAX: Final = 64 * 1024
LARGE_BODIES_MAX: Final = 3
"""Bodies over ``BODY_BYTES_MAX`` that are worked at at once: each may be 8 MiB, parsed a few times that."""
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_NEED: Final = "__edgeweave_need__"

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Need:
    """What a request must bring. role None: nothing, anybody may ask.

    Args: lan: served to other machines too, whatever ``[api] lan`` says.   bytes_max: of the body.
    """

    role: Role | None
    scope: str
    lan: bool = False
    bytes_max: int = BODY_BYTES_MAX


def needs(role: Role, scope: str, *, bytes_max: int = BODY_BYTES_MAX) -> Callable[[F], F]:
    """The route is for *role* and above, and for tokens that bear *scope*; "": any scope is enough."""
    return _marked(Need(role, scope, bytes_max=bytes_max))


def for_anybody(*, lan: bool = False) -> Callable[[F], F]:
    """The route asks for no account: it says itself what it needs."""
    return _marked(Need(None, "", lan=lan))


def _marked(need: Need) -> Callable[[F], F]:
    def mark(endpoint: F) -> F:
        setattr(endpoint, _NEED, need)
        return endpoint

    return mark


@dataclass(frozen=True, slots=True)
class Ask:
    """One request that was let through."""

    by: Principal
    services: Services
    request: Request

    @property
    def address(self) -> str:
        return self.request.client.host if self.request.client else ""


NOBODY: Final = Principal("nobody", Role.VIEWER, "setup", frozenset())


async def _ask(request: Request) -> Ask:  # a coroutine, or FastAPI would run it in a thread
    return Ask(request.state.principal, request.app.state.services, request)


Asking = Annotated[Ask, Depends(_ask)]
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Guarded(APIRoute):
    """A route behind the guard. Raises (constructor): TypeError: its endpoint says not what it needs."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **kwargs: Any) -> None:
        need = getattr(endpoint, _NEED, None)
        if need is None:
            raise TypeError(f"{path}: say what it needs, with @needs(role, scope) or @for_anybody()")
        self.need: Need = need
        super().__init__(path, endpoint, **kwargs)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """HEAD is taken wherever GET is and ends: health checks and caches ask so (RFC 9110, 9.1)."""
        match, child = super().matches(scope)
        return (Match.FULL if match is Match.PARTIAL and self._is_head(scope) else match), child

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The server sends no body of what a HEAD is answered with."""
        if self._is_head(scope):
            scope = {**scope, "method": "GET"}
        await super().handle(scope, receive, send)

    def _is_head(self, scope: Scope) -> bool:
        return scope["method"] == "HEAD" and "GET" in (self.methods or ()) and self.path != ENDLESS

    def get_route_handler(self) -> Handler:
        inner, need = super().get_route_handler(), self.need
        taken = frozenset(each.alias for each in self.dependant.query_params)
        strict = self.path.startswith("/v1/")  # pages and probes may be asked with words for others

        async def guarded(request: Request) -> Response:
            request.scope["path_params"] = parts_of(request.path_params)
            request.state.need = need
            request.state.cause = new_cause()
            try:
                response = await _let_in(request, need, inner, taken if strict else None)
            except Exception as error:
                response = problem_of(error, request).response(request)
            return secured(response, request)

        return guarded


async def _let_in(request: Request, need: Need, inner: Handler, taken: frozenset[str] | None) -> Response:
    """Args: taken: the words that its query may have; None: any."""
    services: Services = request.app.state.services
    if not (need.lan or services.lan or is_here(request)):
        raise Problem(
            "forbidden", "the API is served to this machine only", field="address",
            fix="set [api] lan = true on the gateway",
        )  # fmt: skip
    if sum(len(name) + len(value) for name, value in request.headers.raw) > HEADER_BYTES_MAX:
        raise Problem(
            "too-large", f"at most {HEADER_BYTES_MAX} bytes", field="header", fix="send fewer headers"
        )
    principal = _who(request, services) if need.role is not None else NOBODY
    if need.role is not None:
        missing = principal.lacks(need.role, need.scope) if need.scope else _short_of(principal, need.role)
        if missing:
            raise Problem("forbidden", missing, fix="ask an administrator for it")
    elif request.method not in SAFE:
        _check_origin(request)
    unknown = next((word for word in request.query_params if taken is not None and word not in taken), None)
    if unknown is not None:  # a filter or a `look` that is misspelt would be left out without a word
        some = f"there are {', '.join(sorted(taken or ()))}" if taken else "there is none"
        raise Problem(
            "invalid", "the query has a word that is none here", field=f"query.{unknown:.60}", fix=some
        )
    request.state.principal = principal
    token = asking.set(principal)
    try:
        if request.method in SAFE:
            return await inner(request)
        if need.bytes_max <= BODY_BYTES_MAX or _announced(request) <= BODY_BYTES_MAX:
            return await _with_body(request, need, inner)
        async with _large(services.large_bodies):
            return await _with_body(request, need, inner)
    finally:
        asking.reset(token)


class _large:  # noqa: N801  reads as a word at its only place
    """A turn at reading a large body, or a refusal at once."""

    def __init__(self, turns: asyncio.Semaphore) -> None:
        self._turns = turns

    async def __aenter__(self) -> None:
        if self._turns.locked():
            raise Problem(
                "unavailable", "too many large requests at once", fix="send them one after another",
                headers={"Retry-After": "1"},
            )  # fmt: skip
        await self._turns.acquire()

    async def __aexit__(self, *exc: object) -> None:
        self._turns.release()


async def _with_body(request: Request, need: Need, inner: Handler) -> Response:
    announced = _announced(request)
    if need.bytes_max < announced < math.inf:
        raise Problem(
            "too-large", f"at most {need.bytes_max} bytes", fix="send less; large inputs go in parts",
            headers={"connection": "close"},
        )  # fmt: skip
    request._body = await read_body(
        request, bytes_max=need.bytes_max, within_s=request.app.state.services.body_s
    )
    if "json" in request.headers.get("content-type", ""):
        _check_numbers(request._body)
    return await inner(request)


def _check_numbers(body: bytes) -> None:
    """Python's reader takes NaN and Infinity, JSON has neither. Raises: Problem."""

    def none(word: str) -> None:
        raise Problem("invalid", f"{word} is no number of JSON", field="body", fix="use null, or a text")

    if b"NaN" in body or b"Infinity" in body:  # else it need not be read twice
        with contextlib.suppress(ValueError, RecursionError):  # what is no JSON at all is told elsewhere
            json.loads(body, parse_constant=none)


def _announced(request: Request) -> float:
    """The bytes of its body; infinite: it does not say, or that it comes in parts, which counts first."""
    announced = request.headers.get("content-length", "")
    if "transfer-encoding" in request.headers:
        return math.inf
    return int(announced) if announced.isdecimal() and len(announced) < 20 else math.inf


def _short_of(principal: Principal, role: Role) -> str:
    if principal.role < role:
        return f"this needs the role {role.word}, and {principal.name} is {principal.role.word}"
    return ""


def _who(request: Request, services: Services) -> Principal:
    """Raises: Problem: 401, 403."""
    authorization = request.headers.get("authorization")
    if authorization is not None:
        kind, _, bearer = authorization.partition(" ")
        if kind.lower() != "bearer":
            raise Problem(
                "not-authenticated", "only tokens are taken in this header, no names with passwords",
                field="header.authorization", fix="send `Authorization: Bearer ewt_…`",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        principal = services.access.by_token(bearer.strip())
        if principal is None:
            raise _not_taken(services.access.expired_at_ms(bearer.strip()))
        return principal
    cookie = request.cookies.get(COOKIE)
    principal = services.access.by_cookie(cookie) if cookie else None
    if principal is None:
        raise Problem(
            "not-authenticated", "the session has ended" if cookie else "this needs a token or a session",
            fix="log in, or send `Authorization: Bearer ewt_…`", headers={"WWW-Authenticate": "Bearer"},
        )  # fmt: skip
    if request.method not in SAFE:
        _check_origin(request)
        given = request.headers.get(CSRF, "").encode("latin-1", "replace")
        if not hmac.compare_digest(given, principal.csrf.encode()):
            raise Problem(
                "forbidden", "the header X-CSRF-Token is missing or not this session's",
                field=f"header.{CSRF}", fix="send the token that /v1/me tells",
            )  # fmt: skip
    return principal


def _not_taken(expired_at_ms: int | None) -> Problem:
    """Why a token opens nothing. Only who has its secret is told that it was good once: RFC 6750, 3.1."""
    cause, error = "the token is unknown or was revoked", 'Bearer error="invalid_token"'
    if expired_at_ms is not None:
        cause = f"the token expired at {spelled_minute(expired_at_ms // 1000)}"
        error += ', error_description="The access token expired"'
    fix = "make one with `edge-gateway tokens add`"
    return Problem("not-authenticated", cause, fix=fix, headers={"WWW-Authenticate": error})


def check_may_make_deployers(ask: Ask) -> None:
    """A member with the role deployer signs code, which is for administrators. Raises: Problem."""
    if ask.by.role < Role.ADMIN:
        raise Problem(
            "forbidden", "who signs code is for administrators to say", fix="ask one", field="body.roles"
        )


def still_may(ask: Ask) -> bool:
    """May whoever asked for this go on? For answers that last."""
    need: Need = ask.request.state.need
    assert need.role is not None
    try:
        principal = _who(ask.request, ask.services)
    except Problem:
        return False
    return not principal.lacks(need.role, need.scope)


def _check_origin(request: Request) -> None:
    """A browser says which page asks. Raises: Problem: it is not one of ours."""
    origin = request.headers.get("origin")
    if origin is not None and origin != f"https://{request.headers.get('host', '')}":
        raise Problem(
            "forbidden", "the request comes from another site", field="header.origin",
            fix="use the gateway's own pages",
        )  # fmt: skip
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Problem(
            "forbidden", "the request comes from another site", field="header.sec-fetch-site",
            fix="use the gateway's own pages",
        )  # fmt: skip


def is_here(request: HTTPConnection) -> bool:
    """Is the peer on this machine?"""
    try:
        address = ipaddress.ip_address(request.client.host if request.client else "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
