"""Problems: every error of the HTTP API as problem details (RFC 9457), ``application/problem+json``.

    {"type": "urn:edgeweave:problem:stale", "title": "It was changed meanwhile", "status": 412,
     "detail": "user ann was changed meanwhile", "fix": "look again, then change it",
     "instance": "/v1/users/ann", "cause": "q-5f0c…", "field": "body.role"}

``cause`` leads to the rest: of a refused task the id that ``why`` explains, else an id of this request,
which the log bears where the fault was ours. Told is what the caller may know: no traceback, and nothing
of the body that was sent, as it may hold a password.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from edge_node.control import protocol
from edge_node.tasks.states import Refusal, refusal
from gateway.access.accounts import Stale, UnknownAccount
from gateway.api.fields import field_of
from gateway.api.slashes import STAND_IN
from security.errors import BadInput, EdgeweaveError, ProtocolViolation, Refused, Unavailable

log = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
URN: Final = "urn:edgeweave:problem:"
SECURE: Final = (
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("x-frame-options", "DENY"),
)
TITLES: Final[dict[str, tuple[int, str]]] = {
    "malformed": (400, "The request cannot be read"),
    "not-authenticated": (401, "It is not known who asks"),
    "forbidden": (403, "This may not be asked"),
    "not-found": (404, "There is no such thing"),
    "method": (405, "This method is not served here"),
    "slow": (408, "The request came too slowly"),
    "refused": (409, "The mesh refuses this now"),
    "in-progress": (409, "The same request is still under way"),
    "stale": (412, "It was changed meanwhile"),
    "too-large": (413, "The request is too large"),
    "media-type": (415, "This type of body is not taken"),
    "invalid": (422, "Something in the request does not fit"),
    "key-reused": (422, "The Idempotency-Key belongs to another request"),
    "too-many": (429, "Too many requests"),
    "internal": (500, "The gateway made a mistake"),
    "unavailable": (503, "Not possible at the moment"),
}
"""Each kind of problem: its status and title. Append-only: programs tell them apart by their type."""
DESCRIBED: Final = "see /v1/openapi.json for what is taken"
BUSY: Final = frozenset({Refusal.OUTBOX_FULL, Refusal.STORE_FULL, Refusal.DRAINING, Refusal.QUEUE_FULL})
"""Refusals of work that pass by themselves."""


class Problem(Exception):
    """One error, ready to be told. Args: kind: of ``TITLES``."""

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        fix: str = "",
        field: str = "",
        cause: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status, self.title = TITLES[kind]
        self.detail = " ".join(detail.split())
        self.fix = fix
        self.field = field
        self.cause = cause
        self.headers = headers or {}

    def response(self, request: Request) -> Response:
        told = {
            "type": URN + self.kind,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "field": self.field or field_of(self.kind, request),
            "fix": self.fix or (DESCRIBED if self.status < 500 else ""),
            "instance": request.url.path.replace(STAND_IN, "%2F"),
            "cause": self.cause or cause_of(request),
        }
        body = msgspec.json.encode({name: _sayable(value) for name, value in told.items() if value != ""})
        return Response(body, self.status, headers=self.headers, media_type=MEDIA_TYPE)


def new_cause() -> str:
    """An id for a request."""
    return f"q-{os.urandom(8).hex()}"


def secured(response: Response, request: Request) -> Response:
    """With the headers that every answer bears, and the request's id."""
    for name, value in SECURE:
        response.headers.setdefault(name, value)
    response.headers["x-request-id"] = cause_of(request)
    return response


def cause_of(request: Request) -> str:
    """The id of this request; "" where none was given to it."""
    return str(getattr(request.state, "cause", ""))


def problem_of(error: BaseException, request: Request) -> Problem:
    """What *error* is to who asked. One that nobody foresaw is logged with its story, and told without."""
    match error:
        case Problem():
            return error
        case RequestValidationError():
            return _invalid(error, request)
        case HTTPException():
            return _http(error, request)
        case UnknownAccount():
            return Problem("not-found", error.cause, fix=error.fix)
        case Stale():
            return Problem("stale", error.cause, fix=error.fix)
        case BadInput():
            field = f"body.{error.field}" if error.field else ""
            return Problem("invalid", error.cause, fix=error.fix, field=field)
        case Refused():
            return Problem("refused", error.cause, fix=error.fix)
        case Unavailable():
            return _unavailable(error.cause, error.fix, error.retry_after_s)
        case ProtocolViolation():
            return Problem("malformed", error.cause, fix=error.fix)
        case EdgeweaveError():
            return _unavailable(error.cause, error.fix, 1.0)
        case ClientDisconnect():  # nobody is there to be told, and nothing went wrong here
            return Problem("malformed", "the body broke off", field="body", fix="send it to its end")
        case UnicodeEncodeError():
            return Problem("malformed", "a text holds half a surrogate pair", fix="send valid Unicode")
    log.error(
        "a request failed by our own mistake",
        extra={"cause": cause_of(request), "path": request.url.path},
        exc_info=error,
    )
    return Problem(
        "internal", f"unexpected {type(error).__name__}", fix="look for the cause's id in <home>/log/"
    )


@contextlib.contextmanager
def about(field: str) -> Iterator[None]:
    """What does not fit in this block is *field* of the request.

    Raises: Problem: in place of BadInput and Refused.
    """
    try:
        yield
    except (UnknownAccount, Stale):
        raise
    except BadInput as error:
        told = f"body.{error.field}" if error.field else field
        raise Problem("invalid", error.cause, fix=error.fix, field=told) from None
    except Refused as error:
        raise Problem("refused", error.cause, fix=error.fix, field=field) from None


OF_WORK: Final = {
    Refusal.NO_SUCH_NODE: "body.where",
    Refusal.LABELS: "body.labels",
    Refusal.TOO_LONG: "body.ttl_s",
    Refusal.OVER_DEADLINE: "body.deadline_s",
    Refusal.UNKNOWN_FUNCTION: "body.function",
}
"""Which part of a submit a refusal is about."""


def problem_for(failure: protocol.Failure) -> Problem:
    """A failure as the services tell it."""
    cause = failure.extra.get("cause", "")
    match failure.code:
        case protocol.NOT_FOUND:
            return Problem("not-found", failure.message, fix=failure.fix)
        case protocol.BAD_INPUT:
            return Problem("invalid", failure.message, fix=failure.fix, cause=cause)
        case protocol.REFUSED:
            reason = failure.extra.get("reason", "")
            if reason in BUSY:
                return _unavailable(failure.message, failure.fix, 1.0, cause)
            field = OF_WORK.get(refusal(reason), "")
            return Problem("refused", failure.message, fix=failure.fix, cause=cause, field=field)
        case protocol.UNAVAILABLE:
            wait_s = float(failure.extra.get("retry_after_s", "1"))
            return _unavailable(failure.message, failure.fix, wait_s, cause)
    return Problem("internal", failure.message, fix=failure.fix)


def install(app: FastAPI) -> None:
    """Unknown paths and methods, and what other rooms raise, become problems too."""

    async def told(request: Request, error: Exception) -> Response:
        if not cause_of(request):  # nothing is served there, so no guard has seen it
            request.state.cause = new_cause()
        return secured(problem_of(error, request).response(request), request)

    app.add_exception_handler(HTTPException, told)
    app.add_exception_handler(RequestValidationError, told)


def _unavailable(cause: str, fix: str, wait_s: float, id_of_cause: str = "") -> Problem:
    after = {"Retry-After": str(max(1, round(wait_s)))}
    return Problem("unavailable", cause, fix=fix, cause=id_of_cause, headers=after)


def _invalid(error: RequestValidationError, request: Request) -> Problem:
    """The first of the faults; its message never repeats what was sent."""
    first: dict[str, Any] = dict(error.errors()[0])
    field = ".".join(str(part)[:60] for part in first["loc"][:8])
    count = len(error.errors())
    more = f"; and {count - 1} more" if count > 1 else ""
    kind = "malformed" if first["type"] == "json_invalid" else "invalid"
    fix = DESCRIBED
    if first["loc"] == ("body",) and first["type"] in ("missing", "model_attributes_type"):
        fix = "send a JSON object, with content-type: application/json"
        sent = request.headers.get("content-type", "")
        if sent and "json" not in sent.partition(";")[0].lower():
            return Problem("media-type", "the body is said to be something else than JSON", fix=fix)
    return Problem(kind, f"{field}: {first['msg']}{more}", field=field, fix=fix)


_KINDS = {status: kind for kind, (status, _) in reversed(TITLES.items())}


def _http(error: HTTPException, request: Request) -> Problem:
    detail, fix = str(error.detail), ""
    path = request.url.path[:200].replace(STAND_IN, "%2F")
    if error.status_code == 404:
        detail, fix = f"nothing is served at {path}", "see /v1/openapi.json for the paths"
    elif error.status_code == 405:
        detail, fix = (
            f"{request.method[:20]} is not served at {path}",
            "see /v1/openapi.json",
        )
    kind = _KINDS.get(error.status_code, "malformed" if error.status_code < 500 else "unavailable")
    if kind == "too-large":
        fix = "send less; large inputs go in parts"
    elif kind == "slow":
        fix = "send the body at once"
    elif kind == "malformed":
        fix = "send JSON in UTF-8, not nested too deeply"
    return Problem(kind, detail, fix=fix, headers=dict(error.headers or {}))


def _sayable(value: object) -> object:
    """JSON has no half surrogates; a path may hold what is no text."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
