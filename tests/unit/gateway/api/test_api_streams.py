"""Streams of events, below their routes: they end with the account behind them, or who does not read."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI, Request

from edge_node.clock import SystemClock
from gateway.access.access import Access
from gateway.access.passwords import Cost
from gateway.access.roles import Role
from gateway.api.guard import Ask, Need
from gateway.api.services import Services
from gateway.api.v1 import events

PASSWORD = "correct horse battery staple"


class Noting:
    """A backend that notes one thing each time it is asked for what is next."""

    def __init__(self):
        self.count = 0

    async def call(self, method, params):
        assert method == "events"
        self.count += 1
        told = {"cursor": f"{self.count}-00000000", "subject": "task\r\nevent: forged", "id": "t1"}
        return {"events": [told], "next": told["cursor"], "missed": False}


@pytest.fixture
async def watched(tmp_path):
    """(ask, access, the token's id): a request that was let through on the strength of a token."""
    access = Access(tmp_path, cost=Cost(memory_kib=64, passes=1, lanes=1))
    await access.open()
    await access.set_up(access.setup_secret, "ann", PASSWORD)
    _, ann = await access.log_in("ann", PASSWORD, "127.0.0.1")
    token, secret = await access.add_token(ann, "watcher", Role.VIEWER, ["events:read"], 3600)
    services = Services(
        Noting(), access, home=tmp_path, clock=SystemClock(), lan=False, entropy=lambda n: bytes(n)
    )
    app = FastAPI()
    app.state.services = services
    scope = {"type": "http", "app": app, "method": "GET", "path": "/v1/events", "query_string": b""}
    request = Request(scope | {"headers": [(b"authorization", f"Bearer {secret}".encode())]})
    request.state.need = Need(Role.VIEWER, "events:read")
    principal = access.by_token(secret)
    yield Ask(principal, services, request), access, ann, token
    services.close()
    await access.close()


def stream(ask):
    return events._stream(ask, {"events": [], "next": "0-00000000", "missed": False}, frozenset())


async def test_a_stream_ends_with_the_token_behind_it(watched):
    ask, access, ann, token = watched
    told = stream(ask)
    first = [await anext(told) for _ in range(3)]
    assert first[0] == b"retry: 2000\nid: 0-00000000\n\n"
    assert ask.services.streams == 1

    await access.revoke_token(ann, token.id)

    assert [part async for part in told] == []
    assert ask.services.streams == 0


async def test_a_stream_ends_with_the_gateway(watched):
    ask, *_ = watched
    told = stream(ask)
    await anext(told)

    ask.services.closing.set()

    assert len([part async for part in told]) <= 1
    assert ask.services.streams == 0


async def test_a_peers_word_cannot_begin_a_line_of_its_own(watched):
    ask, *_ = watched
    told = stream(ask)
    parts = [await anext(told) for _ in range(3)]

    assert parts[2].splitlines()[1] == b"event: taskeventforged"
    assert b"\r" not in parts[2].replace(rb"\r", b"")
    await told.aclose()
    assert ask.services.streams == 0


class Impatient(events.EventStream):
    sending_s = 0.05


async def test_who_takes_nothing_is_cut():
    never = asyncio.Event()
    sent = []

    async def send(message):
        sent.append(message["type"])
        if len(sent) > 1:
            await never.wait()

    async def endless():
        while True:
            yield b": beat\n\n"

    async with asyncio.timeout(20):
        await Impatient(endless()).stream_response(send)

    assert sent == ["http.response.start", "http.response.body"]
