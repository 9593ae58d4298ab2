"""What is no HTTP is answered as a problem or cut, whenever it comes, and is no mistake of ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging

import pytest
from fastapi import FastAPI, Request, Response

from gateway.api.app import HttpsServer, create_app, read_body
from security.tls import server_context
from tests.support.http_api import Api
from tests.support.joined_gateway import GatewayHouse

POST = b"POST %b HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n"
NO_CHUNK = b"zz\r\nhello\r\n"


@pytest.fixture
async def line(tmp_path):
    """(reader, writer) of a connection to an app that reads, answers early, or is in the midst of it."""
    app: FastAPI = create_app([])
    app.state.ended = ended = asyncio.Queue()

    @app.post("/reads")
    async def reads(request: Request) -> Response:
        try:
            return Response(await read_body(request, bytes_max=1000))
        finally:
            ended.put_nowait("reads")

    @app.post("/answers")
    async def answers() -> Response:
        return Response("no", 401)

    house = GatewayHouse(tmp_path)
    context = server_context(house.store.identity_path, house.authority.root, client_certificates=False)
    async with HttpsServer(app, "127.0.0.1", 0, context) as server:
        trusting = Api.trusting((tmp_path / "root.pem").read_text())
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=trusting)
        yield reader, writer, ended
        writer.close()


@pytest.mark.parametrize(
    "sent",
    [b"\x00\x01 what?\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", POST % b"/reads" + NO_CHUNK],
)
async def test_what_is_no_http_is_told_as_a_problem(line, sent):
    reader, writer, _ = line
    writer.write(sent)

    head, _, body = (await reader.read()).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 400 ") and b"content-type: application/problem+json" in head
    told = json.loads(body)
    assert (told["type"], told["status"]) == ("urn:edgeweave:problem:malformed", 400)
    assert told["field"] and told["detail"] and told["fix"]


async def test_garbage_behind_an_early_answer_is_cut_without_a_word_in_the_log(line, caplog):
    reader, writer, _ = line
    writer.write(POST % b"/answers")
    assert (await reader.readuntil(b"\r\n\r\nno")).startswith(b"HTTP/1.1 401")

    writer.write(NO_CHUNK)

    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []


async def test_who_reads_a_body_that_breaks_off_ends(line, caplog):
    reader, writer, ended = line
    writer.write(POST % b"/reads" + b"1\r\na\r\n")
    writer.write(NO_CHUNK)

    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    assert await asyncio.wait_for(ended.get(), 20) == "reads"
    assert "Fatal error" not in caplog.text
