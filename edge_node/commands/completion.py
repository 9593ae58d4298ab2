"""`completion`: the script that makes a shell complete this program's words. Nothing is installed."""

from __future__ import annotations

from typing import Annotated, Final

import typer
from typer.completion import completion_init, get_completion_script  # type: ignore[attr-defined]

from edge_node.commands.door import Program
from edge_node.commands.terminal import Terminal
from security.errors import BadInput

SHELLS: Final = ("bash", "zsh", "fish")


def variable(program: str) -> str:
    """What the script sets when it asks for completions."""
    return f"_{program}_COMPLETE".replace("-", "_").upper()


def add_command(program: Program) -> None:
    """completion."""
    completion_init()  # the shells that the program answers to

    @program.command("completion")
    def completion(
        terminal: Terminal,
        shell: Annotated[str, typer.Argument(metavar="|".join(SHELLS), help="Which shell's script.")],
    ) -> None:
        """Print the script that makes your shell complete this program's commands and options."""
        if shell not in SHELLS:
            raise BadInput(f"there is no script for {shell!r:.40}", fix=f"choose {', '.join(SHELLS)}")
        script = get_completion_script(
            prog_name=program.name, complete_var=variable(program.name), shell=shell
        )
        if terminal.json:
            terminal.value({"shell": shell, "script": script})
        else:
            terminal.text(script)
