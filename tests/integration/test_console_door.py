"""The console's door: who is let in, on plain requests and on sockets, before any page is built."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

import pytest
from fastapi import FastAPI, WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.access.roles import Role
from gateway.api import app as http_app
from gateway.api.app import HttpsServer, create_app
from gateway.api.guard import COOKIE
from security.tls import server_context
from tests.support.daemons import Bed
from tests.support.http_api import Api
from tests.support.joined_gateway import GatewayHouse

pytestmark = pytest.mark.slow

SOCKET = "/console/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
POLLING = "/console/_nicegui_ws/socket.io/?EIO=4&transport=polling"


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    with Bed(tmp_path_factory.mktemp("console-door")) as bed:
        yield Api(bed.gateway().start()).people()


def socket(api, **headers):
    base = api.base.replace("https", "wss")
    return connect(base + SOCKET, ssl=api.tls(), additional_headers=headers, origin=None)


async def status_of(api, **headers):
    """Of the handshake; 101: the socket opened."""
    try:
        async with socket(api, **headers) as opened:
            assert json.loads((await opened.recv())[1:])["sid"]
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def cookie_of(browser):
    return f"{COOKIE}={browser.cookies[COOKIE]}"


def test_a_page_leads_to_the_log_in_and_everything_else_is_refused(api):
    with api.client() as stranger:
        led = stranger.get("/console/nodes/pi-1?tab=a%20b")
        assert led.status_code == 303
        assert led.headers["location"] == "/console/log-in?next=%2Fconsole%2Fnodes%2Fpi-1%3Ftab%3Da%2520b"
        assert stranger.get("/").headers["location"] == "/console/"
        for path in ("/console/static/console.css", POLLING):
            assert stranger.get(path).status_code == 401
    with api.of(Role.ADMIN) as program:
        assert program.get("/console/nodes").status_code == 303, (
            "tokens are for programs: pages need a session"
        )
    with api.log_in() as browser:
        page = browser.get("/console/nodes")
        assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
        assert page.headers["cache-control"] == "no-store"
        assert browser.get("/console/nowhere").status_code == 404
        assert browser.get("/console/static/../view.py").status_code == 404
        assert browser.get("/console/static/..%2fview.py").status_code == 404


def test_who_asks_for_the_log_in_has_the_console_loaded_while_the_name_is_typed(tmp_path):
    with Bed(tmp_path) as bed:
        gateway = bed.gateway().start()
        with Api(gateway).client() as stranger:
            assert stranger.get("/console/log-in").status_code == 200
        log, end_s = gateway.home.logs / "daemon.log", time.monotonic() + 60
        while "the console is open" not in log.read_text():
            assert time.monotonic() < end_s, "nobody loads it before the first page is asked for"
            time.sleep(0.1)


def test_other_sites_get_nothing_with_our_cookie(api):
    with api.log_in() as browser:
        for origin in ("https://evil.example", "null", api.base.replace("https", "http")):
            for path in ("/console/nodes", POLLING):
                answer = browser.get(path, headers={"origin": origin})
                assert answer.status_code == 403, (origin, path)
                assert "access-control-allow-origin" not in answer.headers
        assert browser.get("/console/nodes", headers={"origin": api.base}).status_code == 200


async def test_a_socket_needs_a_session_and_our_own_page(api):
    with api.log_in() as browser:
        session = {"cookie": cookie_of(browser)}

        assert await status_of(api) == 403
        assert await status_of(api, cookie=f"{COOKIE}={'A' * 43}") == 403
        assert await status_of(api, origin="https://evil.example", **session) == 403
        assert await status_of(api, origin=api.base, **session) == 101
        browser.post("/v1/log-out")
        assert await status_of(api, origin=api.base, **session) == 403


async def test_no_other_path_takes_sockets(api):
    with pytest.raises(InvalidStatus) as refused:
        async with connect(api.base.replace("https", "wss") + "/v1/nodes", ssl=api.tls()):
            pass
    assert refused.value.response.status_code in (403, 404)


def test_a_table_whose_name_holds_a_slash_has_pages_of_its_own(api):
    with api.log_in() as browser:
        made = browser.post("/v1/state/tables/north%2Frooms", json={"setpoint_c": 21}).headers["location"]
        document = made.rpartition("/")[2]
        assert 'href":"/console/state/north%2Frooms' in browser.get("/console/state").text
        for path in ("north%2Frooms", f"north%2Frooms/{document}"):
            page = browser.get(f"/console/state/{path}")
            assert page.status_code == 200 and "north/rooms" in page.text and "setpoint_c" in page.text, path
        with api.client() as stranger:
            led = stranger.get("/console/state/north%2Frooms").headers["location"]
        assert led == "/console/log-in?next=%2Fconsole%2Fstate%2Fnorth%252Frooms", "and back to it"


async def test_everything_on_the_port_is_counted_by_routes_and_never_by_what_was_asked_for(api):
    """Pages, files, sockets and joining too; strangers' paths and pages of one route make one series."""

    def counts():
        with api.of(Role.VIEWER) as program:
            lines = program.get("/metrics").text.splitlines()
        name = "edgeweave_http_requests_total{"
        told = [line.removeprefix(name).rpartition("} ") for line in lines if line.startswith(name)]
        return {labels: int(value) for labels, _, value in told}

    before = counts()
    with api.log_in() as browser:
        for path in ("/nodes/pi-71", "/nodes/pi-72", "/nowhere/71", "/static/console.css"):
            browser.get(f"/console{path}")
        assert await status_of(api, origin=api.base, cookie=cookie_of(browser)) == 101
    assert await status_of(api) == 403
    with api.client() as stranger:
        for path in ("/console/nodes/pi-71", "/join/health", "/stray/71", "/stray/72"):
            stranger.get(path)
        stranger.post("/join", content=b"nonsense")
    after = counts()

    def more(route, status, method="GET"):
        labels = f'method="{method}",route="{route}",status="{status}"'
        return after.get(labels, 0) - before.get(labels, 0)

    assert more("/console/nodes/{node}", 200) == 2
    assert more("/console/{rest}", 404) == 1, "the page that says that there is none"
    assert more("/console/static/{path}", 200) == 1 and more("/console/{path}", 101) == 1
    assert more("/console/{path}", 403) == 1 and more("/console/{path}", 303) == 1, "turned away at the door"
    assert more("/join/health", 200) == 1 and more("/join", 200, "POST") == 1
    assert more("(none)", 404) == 2
    assert not any("71" in labels for labels in after)


async def test_a_socket_outlives_the_patience_with_slow_headers(tmp_path, monkeypatch):
    """A connection that became a socket waits for no further headers."""
    monkeypatch.setattr(http_app, "HEADERS_S", 2.0)  # long enough for a slow machine's handshake
    app: FastAPI = create_app([])

    @app.websocket("/echo")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        with contextlib.suppress(Exception):
            while True:
                await socket.send_text(await socket.receive_text())

    house = GatewayHouse(tmp_path)
    context = server_context(house.store.identity_path, house.authority.root, client_certificates=False)
    async with HttpsServer(app, "127.0.0.1", 0, context) as server:
        trusting = Api.trusting((tmp_path / "root.pem").read_text())
        async with connect(f"wss://127.0.0.1:{server.port}/echo", ssl=trusting) as opened:
            await asyncio.sleep(2.5)
            await opened.send("still there")
            assert await opened.recv() == "still there"
