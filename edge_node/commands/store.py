"""The command that looks at a home's stores, the same in both programs."""

from __future__ import annotations

import typer

from edge_node.commands import exits
from edge_node.commands.door import Program
from edge_node.commands.terminal import Terminal


def add_commands(program: Program) -> None:
    """store verify."""
    app = program.group(
        "store",
        "List what lies on this home's disk; or verify it.",
        listing,
        here="it reads the stores on the disk",
    )

    @program.command("verify", app=app, here="it reads the stores on the disk")
    def verify(terminal: Terminal) -> None:
        """Read every row of every store and name each gap; changes nothing, with or without a daemon.

        Exit code 0 only if there is none.
        """
        from edge_node.store import verification

        with terminal.waiting("reading every row"):
            found = verification.verify(terminal.home)
        gaps = sum(len(each.gaps) for each in found)
        if terminal.json:
            terminal.value(
                {
                    "ok": not gaps,
                    "gaps": gaps,
                    "stores": [
                        {"store": each.store, "rows": each.rows, "bytes": each.bytes, "gaps": list(each.gaps)}
                        for each in found
                    ],
                }
            )
        else:
            for each in found:
                terminal.text(each.line())
                for gap in each.gaps:
                    terminal.text(f"  gap: {' '.join(gap.split())}")
        if gaps:
            raise typer.Exit(exits.TASK_FAILED)


def listing(terminal: Terminal) -> None:
    """How large each store is."""
    from edge_node.store import verification

    rows: list[dict[str, object]] = []
    for each in verification.verify(terminal.home):
        rows.append({"store": each.store, "rows": each.rows, "bytes": each.bytes, "gaps": len(each.gaps)})
    terminal.table(rows, ("store", "rows", "bytes", "gaps"), empty="nothing is stored here")
