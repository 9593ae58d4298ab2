"""The first start: the link that the gateway printed makes the first administrator, who then logs in."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.support.browser import PASSWORD, WAIT_MS, defects
from tests.support.daemons import Bed

pytestmark = pytest.mark.slow


def test_the_set_up_link_leads_to_the_console(browser, tmp_path):
    with Bed(tmp_path) as bed:
        link = bed.gateway().start().ready["setup"]
        context = browser.new_context(ignore_https_errors=True)
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        faults = []
        page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
        page.goto(link)
        assert "#" not in page.url, "the secret does not stay in the address"
        assert defects(page) == []

        page.get_by_label("Name").fill("ann")
        page.get_by_label("Password, at least 12 characters").fill(PASSWORD)
        page.get_by_label("Once more").fill("something else")
        page.get_by_role("button", name="Set up").click()
        expect(page.get_by_role("status")).to_have_text("The passwords differ.")
        page.get_by_label("Once more").fill(PASSWORD)
        page.get_by_role("button", name="Set up").click()
        page.get_by_role("link", name="Log in").click()
        assert defects(page) == []
        page.get_by_label("Name").fill("ann")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url("**/console/")
        expect(page.get_by_role("heading", level=1)).to_have_text("Mesh")
        assert faults == []
        context.close()
