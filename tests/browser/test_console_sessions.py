"""Who gets to see the console, and what becomes of a page when that ends."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.support.browser import PASSWORD

pytestmark = pytest.mark.slow


def test_who_is_not_logged_in_is_led_to_the_log_in_and_back(console):
    page = console.page()
    page.goto("/console/tasks?state=failed")

    assert "/console/log-in?next=" in page.url
    page.get_by_label("Name").fill("ann")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()

    page.wait_for_url("**/console/tasks?state=failed")
    expect(page.get_by_role("heading", level=1)).to_have_text("Tasks")
    page.goto("/console/log-in?next=/console/nodes")
    page.wait_for_url("**/console/nodes")  # who has a session is led on


@pytest.mark.parametrize(
    "elsewhere", ["https://evil.example/", "//evil.example", "/console/\\evil", "/v1/me"]
)
def test_the_log_in_leads_to_no_other_site(console, elsewhere):
    page = console.page()
    page.goto(f"/console/log-in?next={elsewhere}")
    page.get_by_label("Name").fill("vera")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()

    page.wait_for_url(f"{console.base}/console/")


def test_a_wrong_password_is_told_beside_the_form(console):
    console.forgiven = ("401",)
    page = console.page()
    page.goto("/console/")
    page.get_by_label("Name").fill("ann")
    page.get_by_label("Password").fill("something else entirely")
    page.get_by_role("button", name="Log in").click()

    expect(page.get_by_role("status")).to_contain_text("name or password is wrong")
    console.forgiven = ()


def test_a_link_logs_in_once(console):
    link = console.bed.cli(console.gateway, "users", "link", "otto").text
    assert link.startswith(f"{console.base}/console/log-in#")
    page = console.page()
    page.goto(link)
    page.wait_for_url("**/console/")
    expect(page.locator(".who summary")).to_contain_text("otto")
    assert link.partition("#")[2] not in page.url

    console.forgiven = ("401",)
    again = console.page()
    again.goto(link)
    expect(again.get_by_role("status")).to_contain_text("not valid")
    console.forgiven = ()


def test_who_has_a_session_is_asked_before_a_link_changes_it(console):
    """A link may come from somebody else, who would have him work under another name."""
    link = console.bed.cli(console.gateway, "users", "link", "otto").text
    page = console.enter("vera", "/nodes")
    page.goto(f"{link.replace('#', '?next=/console/tasks#')}")
    expect(page.get_by_text("This browser is logged in as vera.")).to_be_visible()
    assert link.partition("#")[2] not in page.url
    expect(page.get_by_label("Password")).to_be_hidden()
    page.get_by_role("button", name="Go on as vera").click()
    page.wait_for_url("**/console/tasks")
    expect(page.locator(".who summary")).to_contain_text("vera")

    page.goto(link)  # it was not used up
    page.get_by_role("button", name="Use the link").click()
    page.wait_for_url("**/console/")
    expect(page.locator(".who summary")).to_contain_text("otto")


def test_log_out_ends_the_session_of_every_page(console):
    page = console.enter("ann", "/nodes")
    other = page.context.new_page()
    other.goto("/console/tasks")
    page.locator(".who summary").click()
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url(re.compile("/console/log-in"))

    other.wait_for_url(re.compile(r"/console/log-in\?next=%2Fconsole%2Ftasks"))


def test_a_viewer_is_told_what_the_page_needs(console):
    page = console.enter("vera", "/settings")

    expect(page.get_by_text("Accounts are managed by administrators.")).to_be_visible()
    assert page.get_by_role("button", name="Add a user").count() == 0


def test_sockets_and_assets_are_for_who_is_logged_in(console):
    page = console.page()
    for path in ("/console/static/console.js", "/console/_nicegui_ws/socket.io/?EIO=4&transport=polling"):
        assert page.request.get(path).status == 401
    assert page.request.get("/console/nodes", max_redirects=0).status == 303
    entered = console.enter("vera", "/nodes")
    answer = entered.request.get("/console/nodes", headers={"origin": "https://evil.example"})
    assert answer.status == 403
    headers = entered.request.get("/console/nodes").headers
    assert "connect-src 'self'" in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY" and headers["cache-control"] == "no-store"


def test_an_address_that_leads_nowhere_says_so(console):
    console.forgiven = ("404",)
    page = console.enter("vera", "/nodes")
    answer = page.goto("/console/nowhere/at all")

    assert answer.status == 404
    expect(page.get_by_role("heading", level=1)).to_have_text("There is no such page")
    page.get_by_role("link", name="To the mesh").click()
    page.wait_for_url("**/console/")
    console.forgiven = ()
