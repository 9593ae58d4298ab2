"""`metrics` and `log-level`: what a daemon measures, and how much it writes, the same in both programs."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from edge_node import metrics
from edge_node.client import MeshUnavailable
from edge_node.commands.door import Program
from edge_node.commands.inputs import parse_duration
from edge_node.commands.looking import Calls
from edge_node.commands.terminal import Terminal
from security.errors import BadInput


def add_commands(program: Program, gathered: Callable[[Terminal], str]) -> None:
    """Args: gathered: the exposition of this program's daemon. Raises: MeshUnavailable: none runs."""

    @program.command("metrics")
    def print_metrics(
        terminal: Terminal,
        to: Annotated[
            Path | None,
            typer.Option(
                "--to", metavar="FILE", help="Replace FILE as a whole, as node_exporter's textfiles want it."
            ),
        ] = None,
    ) -> None:
        """Print the daemon's metrics as Prometheus reads them.

        Without a daemon: edgeweave_up 0, and what the home tells.
        """
        try:
            told = gathered(terminal)
        except MeshUnavailable:
            if terminal.afar is not None:
                raise
            told = metrics.text(metrics.without_daemon(terminal.home.path))
        if to is not None:
            replace(to, told)
        if terminal.json:
            terminal.value({"text": told} if to is None else {"file": str(to)})
        elif to is None:
            terminal.text(told.removesuffix("\n"))

    @program.command("log-level")
    def log_level(
        terminal: Terminal,
        level: Annotated[
            str, typer.Argument(metavar="[LEVEL]", help="debug, info, warning, error; default: back now.")
        ] = "",
        logger: Annotated[
            str,
            typer.Option(
                "--logger", metavar="NAME", help="Of this logger and those below it, as edge_node.tasks."
            ),
        ] = "",
        lasting: Annotated[
            str, typer.Option("--for", metavar="TIME", help="As 30s, 10m or 2h; at most 24h.")
        ] = "10m",
    ) -> None:
        """Change how much the daemon writes into its log, for a while; without LEVEL, tell what differs.

        What shall stay is the setting [log] level.
        """
        asked: dict[str, object] = {"logger": logger}
        if level:
            asked |= {"level": level, "for_s": parse_duration(lasting)}
        answer = terminal.call("log-level", asked)
        if terminal.json:
            terminal.value(answer)
            return
        terminal.text(f"{answer['logger'] or 'everything'}: {answer['level']}")
        for each in answer["changed"]:
            terminal.note(f"{each['logger'] or 'everything'} differs for {each['for_s']:g} s")


def of_node(terminal: Terminal) -> str:
    """A node's: what its daemon answers, and its home. Raises: MeshUnavailable: none runs."""

    async def ask(mesh: Calls) -> str:
        status, durations = await mesh.call("status"), await mesh.call("durations")
        samples = [*metrics.of_status(status), *metrics.of_durations(durations)]
        return metrics.text([*samples, *metrics.of_home(terminal.home.path)])

    return terminal.with_mesh(ask)


def of_gateway(terminal: Terminal) -> str:
    """A gateway's, which also tells of its members. Raises: MeshUnavailable: none runs."""
    return str(terminal.call("metrics")["text"])


def replace(path: Path, told: str) -> None:
    """Whoever reads *path* sees it whole, before or after; readable by everybody, as its reader is another.

    Raises: BadInput: it cannot be written.
    """
    beside = ""
    try:
        fd, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(told)
            os.fchmod(file.fileno(), 0o644)
        Path(beside).replace(path)
    except OSError as error:
        if beside:
            with contextlib.suppress(OSError):
                Path(beside).unlink()
        raise BadInput(
            f"cannot write {path}: {error.strerror}", fix="name a file in a directory of yours"
        ) from None
