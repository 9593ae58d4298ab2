"""What a person sees of a run: lines of the story, a line of figures, tables.

On a terminal the figures are written in place, by rich; elsewhere they are a line every four seconds. Within
the virtual world no thread may be started and no clock be read: there ``progress`` writes in place by itself,
and the clock is the one that the screen took when it was made, outside.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TextIO

from edge_node.commands.rendering import plain_table

FIGURES_S: Final = 4.0
IN_PLACE_S: Final = 0.25
_ERASE: Final = "\r\x1b[2K"


class Screen:
    """One stream; stdout if none is named.   Args: clock: seconds that never go back."""

    def __init__(self, stream: TextIO | None = None, *, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or time.monotonic  # taken now: its name may be forbidden later
        self.begun = self._clock()
        self._stream = stream or sys.stdout
        self._in_place = False  # a line of progress stands there, without an end
        self._shown_s: float | None = None
        self._console: Any = None
        self._status: Any = None
        self._told_s = 0.0
        if self._stream.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console

            self._console = Console(file=self._stream, highlight=False)

    @property
    def wall_s(self) -> float:
        return self._clock() - self.begun

    def tell(self, text: str) -> None:
        """One line of the story."""
        if self._in_place:
            self._erase()
            self.line(f"[{self.wall_s:5.1f} s] {text}")
        elif self._console is None:
            self.line(f"[{self.wall_s:5.1f} s] {text}")
        else:
            from rich.text import Text

            self._console.print(Text.assemble((f"[{self.wall_s:5.1f} s] ", "dim"), text), soft_wrap=True)

    def line(self, text: str) -> None:
        self._write(text + "\n")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
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

    def progress(self, text: Callable[[float], str], *, last: bool = False) -> None:
        """How far it is, asked for often and shown seldom: in place on a terminal, elsewhere as a line.

        Args: text: called with the seconds since the screen was made, only if it is shown.   last: show it.
        """
        now_s = self.wall_s
        pause_s = IN_PLACE_S if self._console is not None else FIGURES_S
        if self._shown_s is None and self._console is None:
            self._shown_s = now_s  # what is over in a moment needs no line
        if not last and self._shown_s is not None and now_s - self._shown_s < pause_s:
            return
        self._shown_s = now_s
        if self._console is None:
            self.tell(text(now_s))
            return
        told = text(now_s)
        columns = shutil.get_terminal_size().columns
        self._write(_ERASE + (told if len(told) < columns else told[: columns - 2] + "…"))
        self._in_place = True

    def _erase(self) -> None:
        self._write(_ERASE)
        self._in_place = False

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
        if self._in_place:
            self._erase()
        if self._status is not None:
            self._status.stop()
            self._status = None
