"""Names with a slash: one part of a path where it is encoded, and only there."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Response
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.guard import Guarded, for_anybody
from gateway.api.slashes import STAND_IN, Slashes, address_of


class Services:
    lan = True


@pytest.fixture(scope="module")
def get():
    router = APIRouter(prefix="/v1", route_class=Guarded)

    @router.get("/tables/{table}")
    @for_anybody(lan=True)
    async def table(table: str) -> Response:
        return Response(table.encode("utf-8", "replace"), headers={"x-route": "table"})

    @router.get("/tables/{table}/{doc_id}")
    @for_anybody(lan=True)
    async def document(table: str, doc_id: str) -> Response:
        return Response(f"{table} {doc_id}".encode(), headers={"x-route": "document"})

    app = FastAPI()
    app.state.services = Services()
    app.include_router(router)
    app.add_middleware(Slashes)

    def get(path: str) -> httpx.Response:
        async def answer() -> httpx.Response:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="https://gateway") as client:
                return await client.get(path)

        return asyncio.run(answer())

    return get


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters=STAND_IN), min_size=1))
def test_any_name_arrives_as_it_was_meant(get, name):
    if name in (".", ".."):
        return  # parts of a path that every client resolves
    answer = get(f"/v1/tables/{quote(name, safe='')}")

    assert (answer.headers.get("x-route"), answer.content.decode()) == ("table", name)


@pytest.mark.parametrize("spelled", ["north%2Frooms", "north%2frooms"])
def test_a_table_with_a_slash_is_no_document_of_another(get, spelled):
    assert get(f"/v1/tables/{spelled}").text == "north/rooms"
    assert get(f"/v1/tables/{spelled}/7").text == "north/rooms 7"
    assert get("/v1/tables/north/rooms").text == "north rooms"
    assert get("/v1/tables/north%252Frooms").text == "north%2Frooms", "decoded once"


def test_an_address_to_come_back_to_is_as_it_was_asked_for():
    scope = {"path": f"/a{STAND_IN}b", "raw_path": b"/a%2Fb", "query_string": b"q=%20"}
    assert address_of(scope) == "/a%2Fb?q=%20"
    assert address_of({"path": "/a b"}) == "/a%20b", "a server that tells no raw path"
