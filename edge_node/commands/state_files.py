"""`state export` and `state import`: the files of `interchange`, read and written whole."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_node.commands.door import Program
from edge_node.commands.looking import Calls, Fresh, freshened, plural, reading
from edge_node.commands.terminal import Terminal
from security.errors import BadInput

if TYPE_CHECKING:
    from edge_node.commands import interchange
    from edge_node.commands.interchange import Merge


def add_commands(program: Program, app: typer.Typer) -> None:
    """export, import; *app* is ``state``."""

    @program.command("export", app=app)
    def export(
        terminal: Terminal,
        file: Annotated[str, typer.Argument(metavar="FILE|-", help="The file to write; - is stdout.")],
        table: Annotated[
            list[str] | None,
            typer.Argument(metavar="[TABLE]...", help="Tables, sets and counters; none: all of them."),
        ] = None,
        fresh: Fresh = None,
    ) -> None:
        """Write tables to a JSON file that plain TinyDB opens."""
        from edge_node.commands import interchange  # it loads the bounds of replicas

        async def work(calls: Calls) -> interchange.Exported:
            await freshened(terminal, calls, fresh)
            status = await calls.call("status")
            return await interchange.exported(
                calls,
                table or [],
                mesh=status["mesh"],
                node=status["node"],
                at_ms=time.time_ns() // 1_000_000,
            )

        with terminal.waiting("reading the tables"):
            made = reading(terminal, work)
        if made.conflicts:
            terminal.note(f"{plural(made.conflicts, 'conflict')}: of each the value that wins was exported")
        if file == "-":
            sys.stdout.write(made.text)
            sys.stdout.flush()
            return
        _write_whole(Path(file), made.text)
        if terminal.json:
            terminal.value({"file": file, "tables": made.tables})
        else:
            terminal.text(f"{file}: {plural(len(made.tables), 'table')}, {len(made.text.encode())} bytes")

    @program.command("import", app=app)
    def import_(
        terminal: Terminal,
        file: Annotated[
            str, typer.Argument(metavar="FILE|-", help="What `state export` wrote, or TinyDB; - is stdin.")
        ],
        merge: Annotated[
            str,
            typer.Option(
                "--merge",
                metavar="keep|update|replace",
                help="Of a document that is here: keep it, write the file's fields over it, or replace it.",
            ),
        ] = "keep",
        from_another_mesh: Annotated[
            bool, typer.Option("--from-another-mesh", help="Take an export of another mesh.")
        ] = False,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Say what would be written; write nothing.")
        ] = False,
    ) -> None:
        """Write a file's documents, set elements and counts into the tables; checked whole before."""
        from edge_node.commands import interchange

        if merge not in ("keep", "update", "replace"):
            raise BadInput(f"--merge {merge!r} is not known", fix="choose keep, update or replace")
        way: Merge = merge  # type: ignore[assignment]  # one of them
        told = interchange.read(_read_whole(file, interchange.BYTES_MAX), "stdin" if file == "-" else file)

        async def work(calls: Calls) -> interchange.Plan:
            status = await calls.call("status")
            plan = await interchange.planned(
                calls,
                told,
                mesh=status["mesh"],
                node=status["node"],
                merge=way,
                from_another_mesh=from_another_mesh,
            )
            if not dry_run:
                await interchange.carried_out(calls, plan, way)
            return plan

        with terminal.waiting("importing"):
            plan = reading(terminal, work) if dry_run else terminal.with_mesh(work)
        _tell_import(terminal, plan, dry_run=dry_run)


def _tell_import(terminal: Terminal, plan: interchange.Plan, *, dry_run: bool) -> None:
    for note in plan.notes:
        terminal.note(note)
    added = sum(len(each) for each in plan.fresh.values())
    added += sum(len(each) for each in plan.inserted.values())
    changed = sum(len(each) for each in plan.changed.values())
    kept = sum(plan.kept.values())
    if terminal.json:
        terminal.value(
            {
                "added": added,
                "changed": changed,
                "same": plan.same,
                "kept": plan.kept,
                "elements_added": plan.added,
                "elements_discarded": plan.discarded,
                "counted": plan.counted,
                "dry_run": dry_run,
            }
        )
        return
    would = "would be " if dry_run else ""
    told = [f"{plural(added, 'document')} {would}added", f"{changed} changed", f"{plan.same} the same"]
    if kept:
        told.append(f"{kept} kept that differ here (--merge update or replace takes the file's)")
    for name, elements in plan.added.items():
        if elements:
            told.append(f"{name}: {plural(len(elements), 'element')} {would}added")
    for name, elements in plan.discarded.items():
        if elements:
            told.append(f"{name}: {plural(len(elements), 'element')} {would}taken out")
    for name, amount in plan.counted.items():
        if amount:
            told.append(f"{name}: {amount:+d}")
    terminal.text("; ".join(told))


def _read_whole(file: str, most: int) -> bytes:
    """At most one byte more than *most*."""
    if file == "-":
        return sys.stdin.buffer.read(most + 1)
    try:
        with Path(file).open("rb") as opened:
            return opened.read(most + 1)
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error.strerror}", fix="check the file's name") from None


def _write_whole(path: Path, text: str) -> None:
    """All of it, or the file as it was; readable by its owner alone, as the tables are."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as opened:
                opened.write(text)
                opened.flush()
                os.fsync(opened.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}", fix="choose another place") from None
