"""A browser before a real gateway: Debian's Chromium, driven by Playwright, as people use the console.

    with Console(tmp_path) as console:
        page = console.enter("ann", "/tasks")
        page.get_by_role("button", name="Submit").click()
        console.check()

``check`` fails where any page wrote an error to its console, failed by itself, or asked anybody but the
gateway. The gateway's certificate is its mesh's own, which no browser knows: that alone is not judged here.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, Request, sync_playwright

from tests.support.daemons import Bed, Daemon
from tests.support.links import free_port

PASSWORD = "four words of dice"
PEOPLE = {"ann": "admin", "otto": "operator", "vera": "viewer"}
ARGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
    "--disable-features=MediaRouter,DialMediaRouteProvider,OptimizationHints",  # it seeks receivers by mDNS
)  # fmt: skip
WAIT_MS = 60_000
"""Long on purpose: others work on the same machine. A condition that holds at once costs nothing."""
AXE = Path(__file__).resolve().parents[1] / "browser" / "axe" / "axe.min.js"
DESK, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}


def chromium() -> str:
    """Its path; skips the test where there is none."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("chromium is not installed")
    return found


@contextlib.contextmanager
def browsing() -> Iterator[Browser]:
    """One browser; each page gets a context (cookies) of its own."""
    path = chromium()
    playwright: Playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGS))
        try:
            yield browser
        finally:
            browser.close()


class Console:
    """A mesh of gateway and nodes with people who may log in, and pages that look at it."""

    def __init__(self, path: Path, browser: Browser, *, broker: str = "embedded") -> None:
        self.bed = Bed(path, broker=broker)
        self.browser = browser
        self.port = free_port()  # the same over restarts: an open page comes back to it
        self.base = f"https://127.0.0.1:{self.port}"
        self.faults: list[str] = []
        self.forgiven: tuple[str, ...] = ()
        """Parts of console errors that a test brings about on purpose: a gateway that is down."""
        self.gateway: Daemon

    def __enter__(self) -> Console:
        try:
            self.gateway = self.bed.gateway(
                "--listen", "127.0.0.1", "--port", str(self.port), "--broker-port", "0",
                "--broker", self.bed.broker, "--mdns", "none",
            ).start()  # fmt: skip
            for name, role in PEOPLE.items():
                words = ("users", "add", name, "--role", role, "--password-file", "-")
                told = self.bed.cli(self.gateway, *words, stdin=PASSWORD.encode())
                assert told.code == 0, told
        except BaseException:
            self.bed.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for context in list(self.browser.contexts):
            context.close()
        self.bed.close()

    def story(self) -> str:
        return "\n".join([*self.faults, self.bed.story()])

    # ── pages ─────────────────────────────────────────────────────────────────────────────────────

    def page(self, *, dark: bool = False, phone: bool = False) -> Page:
        """A fresh browser that nobody is logged in to."""
        context = self.browser.new_context(
            ignore_https_errors=True, color_scheme="dark" if dark else "light", locale="en-GB",
            timezone_id="Europe/Berlin", viewport=PHONE if phone else DESK, base_url=self.base,
        )  # fmt: skip
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.faults.append(f"{page.url}: {error}"))
        page.on("request", self._asked)
        return page

    def enter(self, name: str, path: str = "/", **how: Any) -> Page:
        """*name* logs in and looks at a page of the console."""
        page = self.page(**how)
        self.log_in(page, name, path)
        return page

    def log_in(self, page: Page, name: str, path: str = "/") -> None:
        page.goto(f"/console{path}")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"**/console{path}")
        page.get_by_role("heading", level=1).first.wait_for()

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not any(each in message.text for each in self.forgiven):
            self.faults.append(f"{message.location.get('url', '')}: {message.text}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self.base, "data:", "blob:", f"wss://127.0.0.1:{self.port}")):
            self.faults.append(f"asked elsewhere: {request.url}")

    def check(self) -> None:
        """Raises: AssertionError: a page failed, or asked somebody else."""
        assert self.faults == []


def defects(page: Page) -> list[str]:
    """What axe-core finds serious or critical, a line each."""
    page.evaluate(AXE.read_text() + "; 0")
    found = page.evaluate(
        """async () => {
            const found = await axe.run(document, {resultTypes: ["violations"]});
            const grave = found.violations.filter((each) => ["serious", "critical"].includes(each.impact));
            const where = (each) => each.nodes.slice(0, 3).map((node) => node.html.slice(0, 160));
            return grave.map((each) => [each.id, each.help, where(each)]);
        }"""
    )
    return [f"{rule}: {text}: {json.dumps(nodes)}" for rule, text, nodes in found]


def scrolls_sideways(page: Page) -> bool:
    return bool(page.evaluate("document.scrollingElement.scrollWidth > innerWidth + 1"))
