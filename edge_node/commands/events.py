"""`events`: what this daemon notes, in order, from a cursor on; the same in both programs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edge_node.chronicle.entry import Entry
from edge_node.chronicle.narrator import sentence
from edge_node.client import Mesh
from edge_node.commands.door import Program
from edge_node.commands.rendering import to_json
from edge_node.commands.terminal import Terminal
from edge_node.commands.why import when

LIMIT_MAX = 500
WAIT_MS = 15_000


def add_command(program: Program) -> None:
    """events."""

    @program.command("events")
    def events(
        terminal: Terminal,
        after: Annotated[
            str | None,
            typer.Option("--after", metavar="CURSOR", help="Go on after this event; else the last ones."),
        ] = None,
        limit: Annotated[
            int,
            typer.Option("--limit", metavar="N", min=1, max=LIMIT_MAX, help="At most this many at a time."),
        ] = 50,
        follow: Annotated[
            bool, typer.Option("--follow", "-f", help="Go on as they happen, until Ctrl-C; a line each.")
        ] = False,
    ) -> None:
        """List what this member noted: nodes that come and go, refusals, conflicts, lapsed leases."""
        page = terminal.call("events", {"after": after, "limit": limit})
        if terminal.json and not follow:
            terminal.value(page)
            return
        show(terminal, page)
        if follow:
            terminal.with_mesh(lambda mesh: following(terminal, mesh, page["next"], limit))
        elif not page["events"]:
            terminal.note("nothing was noted after that" if after else "nothing was noted yet")


async def following(terminal: Terminal, mesh: Mesh, cursor: str, limit: int) -> None:
    """Without end. Raises: MeshUnavailable: the daemon went away."""
    while True:
        page = await mesh.call("events", {"after": cursor, "limit": limit, "wait_ms": WAIT_MS})
        show(terminal, page)
        cursor = page["next"]


def show(terminal: Terminal, page: dict[str, Any]) -> None:
    """A line each: a sentence, or with --json the event."""
    if page["missed"]:
        terminal.note("some events were missed here: they are forgotten, or a power cut took them")
    for each in page["events"]:
        if terminal.json:
            terminal.text(to_json(each, strict=True))
            continue
        entry = Entry(**{name: each[name] for name in Entry.__struct_fields__ if name in each})
        terminal.text(f"{when(entry.at_ms)}  {sentence(entry, '', when)}")
