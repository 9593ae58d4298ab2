"""A device's whole life, by the console, from its join code to its revocation; another person looks on."""

from __future__ import annotations

import re
import subprocess

import pytest
from playwright.sync_api import expect

from tests.support.daemons import BIN, until

pytestmark = pytest.mark.slow


@pytest.mark.timeout(400)
def test_a_device_is_let_in_works_is_explained_and_shut_out(own_console, tmp_path):
    console, bed = own_console, own_console.bed
    page, onlooker = console.enter("ann", "/join"), console.enter("vera", "/nodes")

    # join, with approval: both sides show the same six words
    page.get_by_label("Name (optional)").fill("pi-9")
    page.get_by_text("When somebody has compared the words").click()
    page.get_by_role("button", name="Create a code").click()
    code = page.get_by_text(re.compile(r"^ew1")).first.inner_text().strip()
    node = bed.node("pi-9")
    said = tmp_path / "joining"
    with said.open("wb") as stream:
        joining = subprocess.Popen(
            [str(BIN / "edge-node"), *("join", code, "--name", "pi-9"),
             *("--mdns", "none", "--home", str(node.home.path))],
            env=bed.environment, stdout=stream, stderr=stream,
        )  # fmt: skip
    try:
        row = page.locator("tr[data-key=pi-9]")
        words = row.locator(".words").inner_text()
        until("the device shows the same words", lambda: words in said.read_text())
        row.get_by_role("button", name="Let in").click()
        dialogue = page.get_by_role("dialog")
        expect(dialogue).to_contain_text(words)
        dialogue.get_by_role("button", name="let it in").click()
        expect(dialogue.get_by_text("that is not pi-9")).to_be_visible()
        dialogue.get_by_label("Type pi-9 to confirm").fill("pi-9")
        dialogue.get_by_role("button", name="let it in").click()
        assert joining.wait(60) == 0, said.read_text()
    finally:
        joining.kill()
        joining.wait()
    node.start().connected()
    expect(page.get_by_role("link", name="pi-9").first).to_be_visible()
    expect(onlooker.get_by_role("link", name="pi-9")).to_be_visible()  # by itself

    # deploy: what would change is shown first
    page.goto("/console/functions/deploy")
    page.get_by_label("Python file").set_input_files(bed.toys)
    page.get_by_role("button", name="Deploy toys.py").click()
    page.wait_for_url("**/console/functions")
    node.knows("toys.add")

    # submit, and why
    page.goto("/console/tasks")
    page.get_by_role("button", name="Submit a task").click()
    dialogue = page.get_by_role("dialog")
    dialogue.get_by_label("Function").select_option("toys.add")
    dialogue.get_by_label("Arguments").fill('{"a": 2, "b": ')
    dialogue.get_by_role("button", name="Submit").click()
    expect(dialogue.locator(".entry--bad")).to_have_count(1)
    dialogue.get_by_label("Arguments").fill('{"a": 2, "b": 3}')
    dialogue.get_by_label("Where").select_option("pi-9")
    dialogue.get_by_role("button", name="Submit").click()
    page.wait_for_url(re.compile("/console/tasks/[0-9a-z]{20,}"))
    expect(page.locator(".badge", has_text="done").first).to_be_visible()
    expect(page.locator("main")).to_contain_text("5")
    expect(page.locator("main")).to_contain_text("pi-9")

    # revoke, by name
    page.goto("/console/nodes/pi-9")
    page.get_by_role("button", name="Revoke").click()
    dialogue = page.get_by_role("dialog")
    dialogue.get_by_label("Reason").fill("end of the walk")
    dialogue.get_by_label("Type pi-9 to confirm").fill("pi-9")
    dialogue.get_by_role("button", name="Revoke").click()
    until("the node was shut out", lambda: not node.running)
    expect(onlooker.locator("tr[data-key=pi-9]")).to_contain_text("revoked")

    page.goto("/console/events/audit")
    expect(page.locator("main")).to_contain_text("node.revoke")
    expect(page.locator("main")).to_contain_text("ann")
    page.goto("/console/why/pi-9")
    expect(page.locator("main")).to_contain_text("end of the walk")
