"""Nodes: the members of the mesh as a table, and one node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.console.table import Column, Paged
from gateway.console.view import View, heading, page, part, to


@page("/nodes", title="Nodes", section="nodes")
async def nodes(view: View) -> None:
    heading("Nodes", under="Members of the mesh, by name")

    async def fetch(cursor: str) -> tuple[Sequence[dict[str, Any]], str]:
        told = await view.api.get("/v1/nodes", cursor=cursor, limit=50)
        return [_row(each) for each in told["nodes"]], told["next"]

    table = Paged(view, "Nodes", COLUMNS, fetch)
    await table.refresh()


COLUMNS = (
    Column("name", "Node"),
    Column("status", "State"),
    Column("seen", "Last seen"),
)


def _row(node: dict[str, Any]) -> dict[str, Any]:
    return {
        "key": node["id"],
        "name": {"text": node["id"], "href": to(f"/nodes/{part(node['id'])}")},
        "status": {"badge": "up" if node["up"] else node["status"]},
        "seen": {"at": node.get("last_seen_at_ms"), "kind": "ago"},
    }


PAGES = (nodes,)
