"""What a person sees of a run: lines of the story, a line of figures, tables.

On a terminal the figures are written in place, by rich; elsewhere they are a line every four seconds.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Final, TextIO

from edge_node.commands.rendering import plain_table

FIGURES_S: Final = 4.0


class Screen:
    """One stream; stdout if none is named."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.begun = time.monotonic()
        self._stream = stream or sys.stdout
        self._console: Any = None
        self._status: Any = None
        self._told_s = 0.0
        if self._stream.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console

            self._console = Console(file=self._stream, highlight=False)

    @property
    def wall_s(self) -> float:
        return time.monotonic() - self.begun

    def tell(self, text: str) -> None:
        """One line of the story."""
        if self._console is None:
            self.line(f"[{self.wall_s:5.1f} s] {text}")
        else:
            from rich.text import Text

            self._console.print(Text.assemble((f"[{self.wall_s:5.1f} s] ", "dim"), text), soft_wrap=True)

    def line(self, text: str) -> None:
        try:
            self._stream.write(text + "\n")
            self._stream.flush()
        except BrokenPipeError:  # whoever read our output has seen enough; what runs is still to be ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def figures(self, text: str) -> None:
        """How far it is: in place on a terminal, now and then elsewhere."""
        if self._console is None:
            self._told_s = self._told_s or self.wall_s
            if self.wall_s - self._told_s >= FIGURES_S:
                self._told_s = self.wall_s
                self.tell(text)
            return
        if self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        self._status.update(text)

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 2) -> None:
        """Args: left: so many columns from the left hold words, the others numbers."""
        self.close()
        if self._console is None:
            self.line("\n" + plain_table(heads, rows))
            return
        from rich import box
        from rich.table import Table

        drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for number, head in enumerate(heads):
            drawn.add_column(head, justify="left" if number < left else "right")
        for row in rows:
            drawn.add_row(*row)
        self._console.print(drawn)

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
