"""Pictures of every page, of the demo's living mesh: `make screenshots` writes docs/screenshots/.

    python -m tests.browser.screenshots [--out DIR] [--seconds 24]

Light and dark on a desk, light on a phone. Exit 1: a page wrote an error, or asked anybody but the gateway.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, Page

from tests.support.browser import DESK, PHONE, browsing
from tests.support.daemons import BIN, until

OUT = Path(__file__).resolve().parents[2] / "docs" / "screenshots"
HOW = {"light": ("light", DESK), "dark": ("dark", DESK), "phone": ("light", PHONE)}
SETTLE_MS = 4000
"""For live figures to come and charts to fill."""


def gateway(home: str, *words: str, stdin: bytes = b"") -> str:
    """A command of the demo's gateway."""
    done = subprocess.run(
        [str(BIN / "edge-gateway"), *words, "--home", home],
        input=stdin,
        capture_output=True,
        timeout=60,
        check=True,
    )
    return done.stdout.decode().strip()


def furnish(home: str, folder: Path) -> subprocess.Popen[bytes]:
    """Something on every page: a table, a person, and a board that waits to be let in: it is returned."""
    gateway(home, "state", "declare", "rooms", "--key", "id")
    for room, setpoint, site in (("hall", 19, "north"), ("lab", 21.5, "north"), ("store", 12, "south")):
        gateway(home, "state", "set", "rooms", room, f"setpoint_c={setpoint}", f"site={site}")
    gateway(
        home, "users", "add", "vera", "--role", "viewer", "--password-file", "-", stdin=b"four words of dice"
    )
    code = gateway(home, "invite", "--approval", "pending")
    words = ("--home", str(folder / "new"), "join", code, "--name", "roof", "--mdns", "none")
    nothing = subprocess.DEVNULL
    return subprocess.Popen([str(BIN / "edge-node"), *words], stdin=nothing, stdout=nothing, stderr=nothing)


def pages(page: Page) -> dict[str, str]:
    """Name and address of each picture; what depends on the mesh is asked of its API."""
    told = page.evaluate("() => fetch('/v1/tasks?limit=200').then((answer) => answer.json())")
    task = next(
        (each["id"] for each in told["tasks"] if each.get("attempts", 1) != 1), told["tasks"][0]["id"]
    )
    return {
        "mesh": "/", "nodes": "/nodes", "node": "/nodes/trunk", "tasks": "/tasks", "task": f"/tasks/{task}",
        "why": "/why/leg", "placement": "/placement", "functions": "/functions",
        "function": "/functions/gait.matrix_profile", "join": "/join", "state": "/state",
        "table": "/state/rooms", "events": "/events", "settings": "/settings",
    }  # fmt: skip


def take(browser: Browser, home: str, out: Path) -> list[str]:
    """Returns: what went wrong."""
    faults: list[str] = []
    for how, (scheme, size) in HOW.items():
        link = gateway(home, "users", "link", "demo")
        base = link.partition("/log-in")[0]
        context = browser.new_context(
            ignore_https_errors=True, color_scheme=scheme, viewport=size, locale="en-GB"
        )
        page = context.new_page()
        page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(link)
        page.wait_for_url("**/console/")
        for name, path in pages(page).items():
            page.goto(base + path)
            page.get_by_role("heading", level=1).first.wait_for()
            page.wait_for_timeout(SETTLE_MS)
            page.screenshot(path=out / f"{name}-{how}.png")
        context.close()
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(prog="make screenshots ARGS=…", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seconds", default="24")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ew-shots-") as folder:
        said = Path(folder) / "said"
        with said.open("wb") as stream:
            words = ("--seconds", options.seconds, "--stay", "--out", str(Path(folder) / "out"))
            demo = subprocess.Popen(
                [sys.executable, "-m", "examples.demo", *words], stdout=stream, stderr=stream
            )
        try:
            pattern = r"users link demo --home (\S+)"
            found = until("the demo stays", lambda: re.search(pattern, said.read_text()), within_s=240)
            waiting = furnish(found[1], Path(folder))
            time.sleep(5)
            try:
                with browsing() as browser:
                    faults = take(browser, found[1], options.out)
            finally:
                waiting.kill()
                waiting.wait()
        finally:
            demo.send_signal(signal.SIGINT)
            demo.wait(120)
    for fault in faults:
        sys.stderr.write(f"{fault}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
