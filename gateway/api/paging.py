"""Cursors: where a list goes on, as an opaque text that fits only the list it came from.

    GET /v1/tasks?state=failed&limit=100 ─► {"tasks": […], "next": "eyJ…"}
    GET /v1/tasks?state=failed&limit=100&cursor=eyJ…

A cursor names the last row that was told, not a number of rows: what is added or goes meanwhile moves
nothing. An empty ``next``: that was all. With filters a page may be short, or empty, and still have a next
one. The filters are in the cursor as a hash: going on with others would leave rows out without saying so.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

import msgspec

from gateway.api.problems import Problem

CURSOR_CHARS_MAX: Final = 512


class _Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    after: str
    filters: bytes


def cursor_for(after: str, *filters: object) -> str:
    """The text for *after*; "" for "": there is nothing more."""
    if not after:
        return ""
    return (
        base64.urlsafe_b64encode(msgspec.msgpack.encode(_Cursor(after, _digest(filters))))
        .decode()
        .rstrip("=")
    )


def after_of(cursor: str, *filters: object) -> str:
    """Where *cursor* goes on; "" for "": at the beginning. Raises: Problem: it is not of this list."""
    if not cursor:
        return ""
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        found = msgspec.msgpack.decode(data, type=_Cursor)
    except (ValueError, msgspec.MsgspecError):
        raise Problem(
            "invalid", "the cursor is damaged", field="query.cursor", fix="give back `next` as it was told"
        ) from None
    if found.filters != _digest(filters):
        raise Problem(
            "invalid", "the cursor is of a list with other filters", field="query.cursor",
            fix="keep the filters while paging, or begin anew without a cursor",
        )  # fmt: skip
    return found.after


def _digest(filters: tuple[object, ...]) -> bytes:
    return hashlib.sha256(repr(filters).encode("utf-8", "replace")).digest()[:6]
