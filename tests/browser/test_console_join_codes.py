"""A code that was made by mistake is taken back where it was made, and everybody who looks sees it go."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.support.browser import defects, scrolls_sideways

pytestmark = pytest.mark.slow


@pytest.mark.timeout(300)
def test_a_code_is_withdrawn_after_a_question_and_goes_from_every_page(console):
    page, onlooker = console.enter("otto", "/join"), console.enter("vera", "/join", phone=True)
    page.get_by_label("Name (optional)").fill("pi-5")
    page.get_by_role("button", name="Create a code").click()
    made = page.locator(".once")
    expect(made).to_contain_text("edge-node join")
    row, seen = (each.locator("tr", has_text="pi-5") for each in (page, onlooker))
    expect(row).to_contain_text("at once")
    expect(seen).to_contain_text("at once")  # by itself
    assert onlooker.get_by_role("button", name="Withdraw").count() == 0, "a viewer is not offered it"
    code = row.get_attribute("data-key")
    expect(made).to_contain_text(code)

    row.get_by_role("button", name=f"Withdraw {code}").click()
    dialogue = page.get_by_role("dialog")
    expect(dialogue).to_contain_text("It is for pi-5.")
    assert defects(page) == [] and defects(onlooker) == [] and not scrolls_sideways(onlooker)
    dialogue.get_by_role("button", name="Cancel").click()
    expect(dialogue).to_have_count(0)
    expect(row).to_have_count(1)

    row.get_by_role("button", name=f"Withdraw {code}").click()
    dialogue.get_by_role("button", name="Withdraw").click()
    expect(page.get_by_text(f"The code {code} is withdrawn")).to_be_visible()
    for gone in (row, seen, made):
        expect(gone).to_have_count(0)
    told = console.bed.cli(console.gateway, "withdraw", code)
    assert told.code == 2 and "an operator withdrew it" in told.line


def test_who_withdraws_what_somebody_else_has_withdrawn_is_told(console):
    """The question stood open while another was quicker."""
    page = console.enter("otto", "/join")
    page.get_by_label("Name (optional)").fill("pi-6")
    page.get_by_role("button", name="Create a code").click()
    row = page.locator("tr", has_text="pi-6")
    code = row.get_attribute("data-key")
    row.get_by_role("button", name=f"Withdraw {code}").click()
    assert console.bed.cli(console.gateway, "withdraw", code).code == 0
    page.get_by_role("dialog").get_by_role("button", name="Withdraw").click()

    expect(page.get_by_text("an operator withdrew it")).to_be_visible()
    for gone in (row, page.locator(".once")):
        expect(gone).to_have_count(0)
