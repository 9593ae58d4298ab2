"""Book: all pages of the console, bound into NiceGUI. Imported when somebody is about to come.

NiceGUI keeps one application in a process, and so does a gateway.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

import nicegui.run
from fastapi import FastAPI
from nicegui import Client, app, ui

from gateway.console import view
from gateway.console.console import ICON
from gateway.console.pages import PAGES
from gateway.console.pages.nowhere import nowhere
from gateway.console.view import BRAND

if TYPE_CHECKING:
    from gateway.console.console import Console

log = logging.getLogger(__name__)
logging.getLogger("httpx").setLevel(logging.WARNING)  # each call of a page is no event
STATIC: Final = Path(__file__).parent / "static"
RECONNECT_S: Final = 20.0
"""How long a page is kept for a browser that went away: a tunnel, a phone in a pocket."""


def bind(inner: FastAPI, console: Console) -> None:
    """*inner* serves every page, for as long as its lifespan is entered."""
    nicegui.run.process_pool_start_method = "spawn"
    app.add_static_files("/static", str(STATIC), max_cache_age=31_536_000)
    view.bind(console, _version())
    for page in (*PAGES, nowhere):
        page.register()
    app.on_exception(_failed)
    ui.run_with(
        inner,
        title=BRAND,
        favicon=ICON,
        dark=None,
        tailwind=False,
        binding_refresh_interval=None,
        reconnect_timeout=RECONNECT_S,
        message_history_length=100,
        show_welcome_message=False,
    )


def open_pages() -> int:
    return len(Client.instances)


def _failed(error: Exception) -> None:
    log.error("a page of the console failed by our own mistake", exc_info=error)


def _version() -> str:
    """Of the files in ``static``: browsers keep them until it changes."""
    whole = hashlib.sha256()
    for file in sorted(STATIC.iterdir()):
        whole.update(file.read_bytes())
    return whole.hexdigest()[:12]
