"""Events: what the gateway notes, told as it happens (server-sent events), or page by page.

    id: 1042-5f3a2b1c
    event: task
    data: {"cursor": "1042-5f3a2b1c", "at_ms": …, "subject": "task", "id": "06qx…", "what": "lapsed", …}

The id is a cursor of the chronicle (``edge_node.store.events_feed``): a browser sends it back as
Last-Event-ID when it connects again, and goes on there, also over a restart of the gateway. Where entries
are not kept any more, an event ``missed`` says so. A comment every 15 s shows both sides that the other is
there, and the account is looked at again then: a stream ends within 15 s of its session, token or user.

A reader that does not read holds one page and one connection, and is cut after 30 s; at most 64 read at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

from fastapi import Header, Query, Response
from starlette.responses import StreamingResponse
from starlette.types import Send

from edge_node.chronicle.entry import Subject
from gateway.access.roles import Role
from gateway.api.answers import Limit, example, room, told
from gateway.api.app import SENDING_S
from gateway.api.guard import Ask, Asking, needs, still_may
from gateway.api.problems import Problem, about
from security.errors import EdgeweaveError

router = room("events")
STREAMS_MAX: Final = 64
BEAT_S: Final = 15.0
PAGE: Final = 200
CURSOR_CHARS_MAX: Final = 64
EVENT = {
    "cursor": "1042-5f3a2b1c",
    "number": 1042,
    "at_ms": 1790000000000,
    "node": "gateway",
    "subject": "node",
    "id": "pi-1",
    "what": "lost",
    "cause": "n-pi-1-7",
    "place": "",
    "attempt": 0,
    "details": {"reason": "silent"},
}
Subjects = Annotated[list[Subject], Query(max_length=8, description="Only of these.")]


class EventStream(StreamingResponse):
    """Ends for a reader that takes nothing for ``sending_s``."""

    media_type = "text/event-stream"
    sending_s = SENDING_S

    async def stream_response(self, send: Send) -> None:
        async def in_time(message: Any) -> None:
            async with asyncio.timeout(self.sending_s):
                await send(message)

        with contextlib.suppress(TimeoutError):
            await super().stream_response(in_time)


@router.get(
    "/events",
    response_class=EventStream,
    responses={
        200: {"description": "Without end.", "content": {"text/event-stream": {"example": "id: 1-0…"}}}
    },
)
@needs(Role.VIEWER, "events:read")
async def events(
    ask: Asking,
    subject: Subjects = [],  # noqa: B006  FastAPI copies it
    after: Annotated[
        str,
        Query(max_length=CURSOR_CHARS_MAX, description="Go on after this; `0-00000000`: from the oldest."),
    ] = "",
    last_event_id: Annotated[
        str | None,
        Header(max_length=CURSOR_CHARS_MAX, description="The last id that was read, before `after`."),
    ] = None,
) -> Response:
    """Follow what happens. Without a place to go on from, it begins with what comes next."""
    services = ask.services
    place = last_event_id or after
    with about("header.last-event-id" if last_event_id else "query.after"):
        page = await services.call("events", after=place or None, limit=PAGE if place else 1)
    if services.streams >= STREAMS_MAX:
        raise Problem(
            "unavailable",
            f"{STREAMS_MAX} follow already",
            fix="close some",
            headers={"Retry-After": "15"},
        )
    if not place:
        page["events"] = []
    return EventStream(_stream(ask, page, frozenset(subject)))


@router.get(
    "/events/page",
    responses=example({"events": [EVENT], "next": "1042-5f3a2b1c", "missed": False}, "A page."),
)
@needs(Role.VIEWER, "events:read")
async def page_of_events(
    ask: Asking,
    after: Annotated[
        str,
        Query(max_length=CURSOR_CHARS_MAX, description="`next` of the page before; empty: the last ones."),
    ] = "",
    limit: Limit = 100,
    wait_s: Annotated[float, Query(ge=0, le=30, description="Wait for something as long.")] = 0.0,
) -> Response:
    """What happened, oldest first. For those that cannot stream."""
    with about("query.after"):
        page = await ask.services.call("events", after=after or None, limit=limit, wait_ms=int(wait_s * 1000))
    return told(page)


async def _stream(ask: Ask, page: dict[str, Any], subjects: frozenset[str]) -> AsyncIterator[bytes]:
    services = ask.services
    services.streams += 1
    closing = asyncio.ensure_future(services.closing.wait())
    try:
        yield b"retry: 2000\n" + (b"" if page["events"] else f"id: {page['next']}\n".encode()) + b"\n"
        while not services.closing.is_set():
            if page["missed"]:
                yield b'event: missed\ndata: {"missed": true}\n\n'
            some = [
                services.said(each) for each in page["events"] if not subjects or each["subject"] in subjects
            ]
            if some:
                yield b"".join(some)
            elif page["events"]:
                yield f"id: {page['next']}\n\n".encode()  # else it would come back to far behind
            elif not page["missed"]:
                yield b": beat\n\n"
            if not still_may(ask):
                return
            wanted = asyncio.ensure_future(
                services.call("events", after=page["next"], limit=PAGE, wait_ms=int(BEAT_S * 1000))
            )
            try:
                await asyncio.wait({wanted, closing}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                wanted.cancel()
            if not wanted.done():
                return
            page = wanted.result()
    except EdgeweaveError:
        return  # told by the end of the stream: the reader comes back, and is told then
    finally:
        closing.cancel()
        services.streams -= 1
