"""A page that is open while its gateway goes away: it says so, and goes on by itself when one is back."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.slow


@pytest.mark.timeout(300)
@pytest.mark.parametrize("end", ["term", "kill"])
def test_a_page_recovers_from_a_restart_of_the_gateway(own_console, end):
    console = own_console
    page = console.enter("ann", "/nodes")
    expect(page.get_by_role("link", name="gateway", exact=True)).to_be_visible()
    page.evaluate("window.before = true")
    console.forgiven = ("ERR_CONNECTION", "WebSocket", "502", "503")

    getattr(console.gateway, end)()
    expect(page.get_by_text("Connection lost")).to_be_visible()
    console.gateway.start()

    page.wait_for_function("window.before === undefined")  # it was loaded anew, and nobody logged in again
    expect(page.get_by_role("link", name="gateway", exact=True)).to_be_visible()
    assert page.url.endswith("/console/nodes")
    console.forgiven = ()
    page.goto("/console/tasks")
    expect(page.get_by_role("heading", level=1)).to_have_text("Tasks")
