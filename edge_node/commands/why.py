"""`why`: the story of a task, a refusal, a node or a function, the same in both programs.

The daemon gathers (it asks the others), the narrator here makes sentences of it. Without a daemon the home's
own files are read, and the story says that nobody else was asked.
"""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

import typer

from edge_node.chronicle.narrator import narrated
from edge_node.client import MeshUnavailable
from edge_node.commands.door import Program
from edge_node.commands.terminal import Terminal
from edge_node.store import at_rest


def add_command(program: Program) -> None:
    """why."""

    @program.command("why")
    def why(
        terminal: Terminal,
        about: Annotated[
            str,
            typer.Argument(
                metavar="ID",
                help="A task's id (its beginning is enough), a cause (r-…, n-…), a node, function or table.",
            ),
        ],
        here: Annotated[
            bool, typer.Option("--here", help="Tell what this member knows; ask nobody else.")
        ] = False,
    ) -> None:
        """Tell what happened to a task, a node or a function, and because of what, across the mesh."""
        with terminal.waiting(f"asking about {about}"):
            answer, daemon = asked(terminal, about, alone=here)
        if terminal.json:
            terminal.value(answer)
            return
        if not daemon:
            terminal.note(f"no daemon runs in {terminal.home.path}: its files are read, nobody else is asked")
        for line in narrated(answer, when):
            terminal.text(line)


def asked(terminal: Terminal, about: str, *, alone: bool) -> tuple[dict[str, Any], bool]:
    """The answer, and whether a daemon gave it. Raises: BadInput: nobody knows of it. Unavailable."""

    async def ask() -> Any:
        async with terminal.mesh() as mesh:
            return await mesh.call("why", {"about": about, "alone": alone})

    try:
        return asyncio.run(ask()), True
    except MeshUnavailable:
        if terminal.afar is not None:
            raise
        return at_rest.why(terminal.home, about), False


def when(at_ms: int) -> str:
    """Local time to the millisecond; with its date if that is not today's."""
    local = time.localtime(at_ms / 1000)
    text = time.strftime("%H:%M:%S", local) + f".{at_ms % 1000:03d}"
    if local[:3] == time.localtime()[:3]:
        return text
    return time.strftime("%Y-%m-%d ", local) + text
