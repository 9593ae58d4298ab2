"""Every page, for every eye: no serious defect by axe-core, no error, no scrolling sideways on a phone."""

from __future__ import annotations

import re

import pytest

from gateway.console.pages import PAGES
from tests.support.browser import defects, scrolls_sideways
from tests.support.daemons import until

pytestmark = pytest.mark.slow

NAMES = {"node": "pi-1", "name": "toys.add", "table": "rooms"}


@pytest.fixture(scope="module")
def furnished(shared_console):
    """Something on every page: tasks and a table."""
    bed, gateway = shared_console.bed, shared_console.gateway
    done = bed.cli(gateway, "submit", "toys.add", "--arg", "a=1").text.split()[-1]
    bed.cli(gateway, "submit", "toys.fail")
    bed.cli(gateway, "state", "declare", "rooms", "--key", "id")
    bed.cli(gateway, "state", "set", "rooms", "r1", "setpoint_c=21.5", "site=a")
    bed.cli(gateway, "state", "counter", "doors", "--add", "3")
    bed.cli(gateway, "state", "elements", "tags", "--add", "north")
    until("the task is done", lambda: bed.cli(gateway, "result", done).code == 0)
    (room,) = bed.cli(gateway, "state", "get", "rooms", "--json").value
    return {**NAMES, "task": done, "about": done, "doc_id": room["doc_id"]}


def addresses(names: dict[str, str]) -> list[str]:
    return [re.sub(r"\{(\w+)(?::\w+)?\}", lambda found: names[found[1]], each.path) for each in PAGES]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", [{}, {"dark": True, "phone": True}], ids=["light-desk", "dark-phone"])
def test_every_page_can_be_used_by_everybody(console, furnished, how):
    page = console.enter("ann", "/nodes", **how)
    wrong = []
    for path in addresses(furnished):
        page.goto(f"/console{path}")
        page.get_by_role("heading", level=1).first.wait_for()
        page.wait_for_function("!document.querySelector('.skeleton')")
        wrong += [f"{path}: {each}" for each in defects(page)]
        if how and scrolls_sideways(page):
            wrong.append(f"{path}: scrolls sideways on a phone")
        assert page.get_by_role("heading", level=1).count() == 1, path
        assert page.locator("main").count() == 1 and page.title().endswith("edgeweave"), path

    assert wrong == []


def test_the_sections_are_reached_by_keyboard(console):
    page = console.enter("ann", "/nodes")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    links = page.locator("nav a")
    assert links.count() == 9
    links.nth(2).focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/tasks")
