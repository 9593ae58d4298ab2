"""Nowhere: an address of the console that leads to no page."""

from __future__ import annotations

from gateway.console.view import View, empty, heading, page, to


@page("/{rest:path}", title="No such page", section="")
async def nowhere(view: View, rest: str) -> None:
    view.client.status_code = 404
    heading("There is no such page")
    empty(f"Nothing is at /console/{rest[:120]}", action="To the mesh", href=to("/"))
