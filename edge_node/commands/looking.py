"""Looking at tables: who answers ``state.*``, and what comes page by page as a whole.

A daemon answers over its socket; without one a command that only looks reads this home's disk, and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Annotated, Any, Final, Protocol, TypeVar

import typer

from edge_node.client import MeshUnavailable
from edge_node.commands.inputs import parse_duration
from edge_node.commands.terminal import Terminal

T = TypeVar("T")

PAGE: Final = 1000
FRESH_WAIT_S: Final = 10.0

Fresh = Annotated[
    str | None,
    typer.Option(
        "--fresh",
        metavar="S",
        help="First exchange with whoever has not said the same for S seconds (or 1m).",
    ),
]


class Calls(Protocol):
    """Whoever answers ``state.*``."""

    async def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any: ...


async def tables_of(calls: Calls) -> list[dict[str, Any]]:
    """Rows of ``state.tables`` in the order of their names, without what is the mesh's own."""
    rows: list[dict[str, Any]] = (await calls.call("state.tables"))["tables"]
    own = [row for row in rows if not row["name"].startswith(".")]
    return sorted(own, key=lambda row: (row["name"], row["kind"]))


async def elements_of(calls: Calls, name: str) -> list[str]:
    """All elements of a set, page by page."""
    elements: list[str] = []
    while True:
        after = {"after": elements[-1]} if elements else {}
        page = await calls.call("state.set", {"name": name, **after})
        elements += page["elements"]
        if not page["more"]:
            return elements


async def documents_of(calls: Calls, table: str, **narrowed: Any) -> AsyncIterator[tuple[int, str]]:
    """(id, JSON) of all documents, page by page; what is written meanwhile may be in it or not."""
    after: int | None = None
    while True:
        params = {"table": table, "limit": PAGE, **narrowed}
        page = await calls.call("state.find", params if after is None else {**params, "after": after})
        for doc_id, text in page["documents"]:
            yield doc_id, text
        if not page["more"] or not page["documents"]:
            return
        after = page["documents"][-1][0]


def reading(terminal: Terminal, work: Callable[[Calls], Awaitable[T]]) -> T:
    """*work* against the daemon, or over this home's disk if none runs. It may only look."""
    try:
        return terminal.with_mesh(work)
    except MeshUnavailable:
        from edge_node.store import at_rest

        if terminal.afar is not None or not terminal.home.state.exists():
            raise
        calls = at_rest.tables(terminal.home)
        terminal.note(f"no daemon runs in {terminal.home.path}: its disk is read, nobody else is asked")
        if calls.losses:
            terminal.note(f"its tables are damaged; what a copy of them gave is shown: {calls.losses}")

        async def alone() -> T:
            return await work(calls)

        return asyncio.run(alone())


async def freshened(terminal: Terminal, calls: Calls, fresh: str | None) -> None:
    """Wait for an exchange with whoever is there; who could not be reached is said."""
    if fresh is None:
        return
    params = {"max_age_s": parse_duration(fresh), "wait_s": FRESH_WAIT_S}
    answer = await calls.call("state.fresh", params)
    if answer["missing"]:
        terminal.note(f"not reached, so their writes may be missing: {', '.join(answer['missing'])}")


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
