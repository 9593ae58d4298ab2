"""Nodes: members of the mesh, and those that wait to be let in, as a table that can be narrowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.console.parts import Entry, el, link
from gateway.console.table import Column, Paged
from gateway.console.view import View, heading, page, part, to

ROWS: Final = 50
STATES: Final = {
    "": "Any state",
    "up": "Up",
    "down": "Not up",
    "pending": "Waits to be let in",
    "revoked": "Revoked",
    "left": "Left",
}
ASKED: Final[Mapping[str, Mapping[str, Any]]] = {
    "": {},
    "up": {"status": "active", "up": True},
    "down": {"status": "active", "up": False},
    "pending": {"status": "pending"},
    "revoked": {"status": "revoked"},
    "left": {"status": "left"},
}
"""What `/v1/nodes` calls them."""
COLUMNS: Final = (
    Column("name", "Node"),
    Column("state", "State"),
    Column("load", "Work waiting", end=True),
    Column("workers", "Workers", end=True, hide_narrow=True),
    Column("seen", "Last heard"),
    Column("roles", "Roles"),
    Column("labels", "Labels"),
    Column("restarts", "Restarts", end=True, hide_narrow=True),
    Column("reason", "Because"),
)


@page("/nodes", title="Nodes", section="nodes")
async def nodes(view: View, state: str = "", role: str = "", label: str = "") -> None:
    asked = {"state": state if state in STATES else "", "role": role[:32], "label": label[:130]}

    async def fetch(cursor: str) -> tuple[Sequence[dict[str, Any]], str]:
        told = await view.api.get(
            "/v1/nodes", **ASKED[asked["state"]], role=asked["role"], label=asked["label"], limit=ROWS,
            cursor=cursor,
        )  # fmt: skip
        return [row(each) for each in told["nodes"]], told["next"]

    async def changed(name: str, value: str) -> None:
        asked[name] = value.strip()
        view.stands("/nodes", **asked)
        await view.attempt(table.begin(), fields={"role": by_role, "label": by_label})

    with heading("Nodes", under="Members of the mesh, by name"):
        link("Join a node", to("/join"), cls="btn btn--primary" if view.operates else "btn")
    with el("div", cls="filters", role="search", aria_label="Filters"):
        Entry("State", asked["state"], options=STATES, on_change=lambda v: changed("state", v))
        by_role = Entry(
            "Role", asked["role"], kind="search", placeholder="as gateway", maxlength=32, autocomplete="off",
            spellcheck="false", on_change=lambda v: changed("role", v),
        )  # fmt: skip
        by_label = Entry(
            "Label", asked["label"], kind="search", placeholder="site=a, or site", maxlength=130,
            autocomplete="off", spellcheck="false", on_change=lambda v: changed("label", v),
        )  # fmt: skip
        with el("div", cls="entry entry--button"):
            link("Clear", to("/nodes"), cls="btn btn--quiet")
    table = Paged(view, "Nodes", COLUMNS, fetch, empty="No node fits. Clear the filters, or join one.")
    await view.attempt(table.refresh(), fields={"role": by_role, "label": by_label})


def standing(node: Mapping[str, Any]) -> str:
    """A node's state in one word: up, paused, draining, down, pending, revoked, left."""
    if node["status"] != "active":
        return str(node["status"])
    if not node["up"]:
        return "down" if node.get("last_seen_at_ms") else "never seen"
    return {"pause": "paused", "drain": "draining"}.get(str(node.get("work")), "up")


def row(node: Mapping[str, Any]) -> dict[str, Any]:
    """A node as the table shows it."""
    name, word = str(node["id"]), standing(node)
    up = word in ("up", "paused", "draining")
    reason = "" if up else node.get("reason") or (f"from {node['address']}" if "address" in node else "")
    href = to("/join") if word == "pending" else to(f"/nodes/{part(name)}")
    return {
        "key": name,
        "name": {"text": name, "href": href},
        "state": {"badge": word},
        "load": node["load"] if up else None,
        "workers": node["workers"] if up else None,
        "seen": {"at": node.get("last_seen_at_ms") or None},
        "roles": ", ".join(node["roles"]),
        "labels": " ".join(f"{key}={value}" for key, value in sorted(node["labels"].items())),
        "restarts": node.get("restarts") or None,
        "reason": reason,
    }


PAGES = (nodes,)
