"""Fields: what of a request a problem is about, ``body.name`` or ``path.node``, where nobody said it.

Services know what is wrong, not by which part of a request it came; a route that takes several things says it
where it calls them (``about``). For the rest the kind of problem tells, and then what the request bears: its
body, else the name in its path, else its query. Where nothing of the request is meant (our own mistake, a
disk that is full) there is no field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.requests import Request

ACCOUNT: Final = frozenset({"not-authenticated", "forbidden"})
BY_KIND: Final[Mapping[str, str]] = {
    "method": "method",
    "slow": "body",
    "in-progress": "header.idempotency-key",
    "key-reused": "header.idempotency-key",
    "stale": "header.if-match",
    "too-large": "body",
    "media-type": "header.content-type",
    "internal": "",
    "unavailable": "",
}


def field_of(kind: str, request: Request) -> str:
    """Args: kind: of ``problems.TITLES``. Returns: the part that is meant; "": none."""
    if kind in BY_KIND:
        return BY_KIND[kind]
    if kind in ACCOUNT:
        headers = request.headers
        return (
            "header.cookie"
            if "cookie" in headers and "authorization" not in headers
            else "header.authorization"
        )
    named = next(reversed(request.path_params), "")
    if kind == "not-found":
        return f"path.{named}" if named else "path"
    if getattr(request, "_body", b"").strip() not in (b"", b"{}"):
        return "body"
    if named:
        return f"path.{named}"
    return "query" if request.url.query else "body"
