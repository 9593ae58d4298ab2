"""Where a command writes: the result to stdout, everything else to stderr.

On a terminal, tables and a spinner by rich; elsewhere plain lines, so that scripts and logs stay readable.
``NO_COLOR`` and ``TERM=dumb`` are honoured. With ``--json``, stdout is one strict JSON document.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from edge_node.client import Mesh, MeshUnavailable
from edge_node.commands.rendering import cell, plain_table, to_json
from edge_node.home import Home
from edge_node.membership.standing import check_home

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Terminal:
    """One invocation of a command line: which program, which home, which form of output.

    afar: leads to a daemon on another machine; None: the one in *home*.
    """

    program: str
    home: Home
    json: bool
    afar: Callable[[], Mesh] | None = None

    # -- stdout: the result ---------------------------------------------------------------------------

    def value(self, value: object) -> None:
        """The result of a task: JSON. Strict with --json, else as close to Python's value as JSON gets."""
        self.text(to_json(value, strict=self.json))

    def text(self, text: str) -> None:
        """A result that is one text: a code, a task id."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def facts(self, facts: Mapping[str, object]) -> None:
        """Named values, one a line; with --json the mapping itself."""
        if self.json:
            self.value(facts)
            return
        width = max((len(_head(name)) for name in facts), default=0)
        for name, value in facts.items():
            self.text(f"{_head(name):<{width}}  {cell(value, name, whole=True)}")

    def table(self, rows: Sequence[Mapping[str, object]], columns: Sequence[str], *, empty: str) -> None:
        """Rows under *columns* (those that some row has); with --json the rows, whole."""
        if self.json:
            self.value(list(rows))
            return
        if not rows:
            self.note(empty)
            return
        shown = [name for name in columns if any(cell(row.get(name), name) for row in rows)]
        body = [[cell(row.get(name), name) for name in shown] for row in rows]
        heads = [_head(name) for name in shown]
        if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
            self.text(plain_table(heads, body))
            return
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        drawn = Table(*heads, box=box.SIMPLE_HEAD, pad_edge=False)
        for row in body:
            drawn.add_row(*(Text(each) for each in row))
        Console().print(drawn)

    # -- stderr: everything else ----------------------------------------------------------------------

    def note(self, text: str) -> None:
        """One line for the person, never part of the result."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    @contextlib.contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """A spinner while the block lasts, on a terminal; nothing elsewhere."""
        if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            yield
            return
        from rich.console import Console

        with Console(stderr=True).status(text):
            yield

    # -- the daemon -----------------------------------------------------------------------------------

    def mesh(self) -> Mesh:
        """The daemon that is meant, to be entered."""
        return Mesh.open(self.home) if self.afar is None else self.afar()

    def with_mesh(self, work: Callable[[Mesh], Awaitable[T]]) -> T:
        """Run *work* against the daemon that is meant.

        Raises: MeshUnavailable, Refused: there is no daemon, or no member any more; and what *work* raises.
        """

        async def connected() -> T:
            async with self.mesh() as mesh:
                return await work(mesh)

        try:
            return asyncio.run(connected())
        except MeshUnavailable:
            if self.afar is None:
                check_home(self.home)
            raise

    def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """One administrative method of the daemon. Raises: as ``with_mesh``."""
        return self.with_mesh(lambda mesh: mesh.call(method, params))


def _head(name: str) -> str:
    """A field's name as people read it; wall times are shown as dates, so they lose their unit."""
    return name.removesuffix("_at_ms").replace("_until_ms", "_until").replace("_", " ")
