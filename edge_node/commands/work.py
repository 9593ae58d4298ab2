"""The commands that give work to the mesh and ask about it, the same in both programs.

A target is ``FILE.py:NAME``, whose code is deployed first if the mesh does not have it, or ``STEM.NAME``,
which is deployed already. Files are read by their syntax tree, never imported here.
"""

from __future__ import annotations

import difflib
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_node.client import Mesh, Outcome, TaskFailed, value_of
from edge_node.commands.door import Program
from edge_node.commands.inputs import parse_duration, parse_named, read_input
from edge_node.commands.terminal import Terminal
from edge_node.functions.bundle import Bundle
from edge_node.tasks.tracing import checked
from security.errors import BadInput

FUNCTION_COLUMNS = (
    "name",
    "version",
    "digest",
    "signature",
    "requires",
    "labels",
    "timeout_s",
    "memory_mb",
    "doc",
)
TASK_COLUMNS = ("id", "function", "state", "place", "attempts", "accepted_at_ms", "settled_at_ms", "reason")

Target = Annotated[
    str,
    typer.Argument(metavar="FILE:NAME|STEM.NAME", help="A function in a file, or a deployed one by name."),
]
Input = Annotated[
    str | None,
    typer.Option(
        "--input",
        "-i",
        metavar="FILE|-",
        help="CSV or JSON file for the function's first argument; - is stdin.",
    ),
]
Format = Annotated[
    str | None,
    typer.Option("--format", metavar="csv|json", help="What --input is; by default its name tells."),
]
Arguments = Annotated[
    list[str] | None,
    typer.Option(
        "--arg", "-a", metavar="NAME=VALUE", help="A further argument by name; JSON or text. Repeatable."
    ),
]
Deadline = Annotated[
    str | None,
    typer.Option(
        "--deadline", metavar="S", help="Seconds from now until the result must be there (or 90s, 15m, 1h)."
    ),
]
Where = Annotated[
    str,
    typer.Option(
        "--where", metavar="any|local|gateway|NODE", help="Where it may run; any: the daemon decides."
    ),
]
Ttl = Annotated[
    str | None,
    typer.Option(
        "--ttl", metavar="S", help="Seconds that the task is kept trying (or 15m, 1h); default by settings."
    ),
]
Priority = Annotated[
    int, typer.Option("--priority", metavar="N", help="Higher runs first among waiting tasks.")
]
Traceparent = Annotated[
    str,
    typer.Option(
        "--traceparent", metavar="TRACE", help="The trace that it belongs to, as W3C writes it: 00-…-…-01."
    ),
]
Log = Annotated[
    bool, typer.Option("--log", help="Also show what the function printed (up to 64 KiB), on stderr.")
]
TaskId = Annotated[str, typer.Argument(metavar="ID", help="Task id, as `submit` printed it.")]


def add_commands(program: Program) -> None:
    """run, submit, result, cancel, tasks, status."""

    @program.command("run")
    def run(
        terminal: Terminal,
        target: Target,
        source: Input = None,
        kind: Format = None,
        argument: Arguments = None,
        deadline: Deadline = None,
        where: Where = "any",
        ttl: Ttl = None,
        priority: Priority = 0,
        traceparent: Traceparent = "",
        log: Log = False,
    ) -> None:
        """Run a function on the mesh, wait, and print its value."""
        args, kwargs = _arguments(source, kind, argument)
        options = _options(deadline, where, ttl, priority, traceparent)

        async def work(mesh: Mesh) -> Outcome:
            name = await _named(terminal, mesh, target)
            return await mesh.outcome(name, *args, kwargs=kwargs, **options)

        began = time.monotonic()
        with terminal.waiting(f"running {target}"):
            outcome = terminal.with_mesh(work)
        _tell(terminal, outcome, log=log, took_s=time.monotonic() - began)

    @program.command("submit")
    def submit(
        terminal: Terminal,
        target: Target,
        source: Input = None,
        kind: Format = None,
        argument: Arguments = None,
        deadline: Deadline = None,
        where: Where = "any",
        ttl: Ttl = None,
        priority: Priority = 0,
        traceparent: Traceparent = "",
    ) -> None:
        """Hand a task to the daemon and print its id; it is on disk by then."""
        args, kwargs = _arguments(source, kind, argument)
        options = _options(deadline, where, ttl, priority, traceparent)

        async def work(mesh: Mesh) -> str:
            name = await _named(terminal, mesh, target)
            return (await mesh.submit(name, *args, kwargs=kwargs, **options)).id

        task = terminal.with_mesh(work)
        if terminal.json:
            terminal.value({"task": task})
        else:
            terminal.text(task)

    @program.command("result")
    def result(
        terminal: Terminal,
        task: TaskId,
        wait: Annotated[
            str | None,
            typer.Option(
                "--wait", metavar="S", help="Seconds to wait for it to settle (or 15m, 1h); default 0."
            ),
        ] = None,
        log: Log = False,
    ) -> None:
        """Print the value of a submitted task."""
        wait_s = 0.0 if wait is None else parse_duration(wait)
        with terminal.waiting(f"waiting for {task}"):
            outcome = terminal.with_mesh(lambda mesh: mesh.outcome_of(task, wait_s=wait_s))
        _tell(terminal, outcome, log=log)

    @program.command("cancel")
    def cancel(terminal: Terminal, task: TaskId) -> None:
        """Ask for a task to be stopped, wherever it runs."""
        taken = terminal.with_mesh(lambda mesh: mesh.cancel(task))
        if terminal.json:
            terminal.value({"task": task, "cancelled": taken})
        else:
            terminal.text("cancelled" if taken else "it had been settled before")

    @program.command("tasks")
    def tasks(
        terminal: Terminal,
        limit: Annotated[
            int,
            typer.Option("--limit", metavar="N", min=1, max=10_000, help="At most this many, newest first."),
        ] = 50,
        state: Annotated[
            str | None,
            typer.Option(
                "--state", metavar="STATE", help="Only tasks in this state: queued, running, done, failed, …"
            ),
        ] = None,
    ) -> None:
        """List the tasks that this daemon accepted, newest first."""
        rows = terminal.call("tasks", {"limit": limit, "state": state})
        terminal.table(rows, TASK_COLUMNS, empty="no tasks")

    @program.command("status")
    def status(terminal: Terminal) -> None:
        """Show the daemon's state: mesh, broker, members, load, tasks."""
        terminal.facts(terminal.call("status"))


def list_functions(terminal: Terminal) -> None:
    """What is deployed, by name."""
    terminal.table(terminal.call("functions"), FUNCTION_COLUMNS, empty="no functions are deployed")


async def deploy(terminal: Terminal, mesh: Mesh, file: str) -> list[dict[str, Any]]:
    """Sign and publish a function file if the mesh does not have exactly this; what it offers.

    Raises: BadInput: the file cannot be offered. Refused: this node is not a deployer.
    """
    bundle = _bundle(file)
    answer = await mesh.call("deploy", {"source": bundle.main, "stem": bundle.stem, "only_if_new": True})
    functions: list[dict[str, Any]] = answer.get("functions", []) if isinstance(answer, dict) else []
    for each in functions:
        if each.get("new"):
            terminal.note(f"deployed {each.get('name')}, version {each.get('version')}")
    return functions


def _bundle(file: str) -> Bundle:
    try:
        source = Path(file).read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error.strerror}", fix="check the file's name") from None
    return Bundle.of_source(file, source)


async def _named(terminal: Terminal, mesh: Mesh, target: str) -> str:
    """The deployed name of a target, deploying it first if it names a file."""
    file, colon, function = target.rpartition(":")
    if not colon:
        if target.endswith(".py") or "/" in target:
            names = [manifest.name.partition(".")[2] for manifest in _bundle(target).manifests()]
            raise BadInput(f"{target} names no function", fix=f"write {target}:{names[0]}")
        return target
    names = [manifest.name for manifest in _bundle(file).manifests()]
    wanted = f"{Path(file).stem}.{function}"
    if wanted not in names:
        plain = [name.partition(".")[2] for name in names]
        close = difflib.get_close_matches(function, plain, n=1, cutoff=0.4) or plain
        raise BadInput(f"{file} offers no function {function!r}", fix=f"did you mean {file}:{close[0]}?")
    await deploy(terminal, mesh, file)
    return wanted


def _arguments(
    source: str | None, kind: str | None, named: list[str] | None
) -> tuple[list[Any], dict[str, Any]]:
    args = [] if source is None else [read_input(source, kind)]
    return args, parse_named(named or [])


def _options(
    deadline: str | None, where: str, ttl: str | None, priority: int, traceparent: str
) -> dict[str, Any]:
    checked(traceparent)  # before code is deployed for it
    return {
        "deadline_s": None if deadline is None else parse_duration(deadline),
        "where": where,
        "ttl_s": None if ttl is None else parse_duration(ttl),
        "priority": priority,
        "traceparent": traceparent,
    }


def _tell(terminal: Terminal, outcome: Outcome, *, log: bool, took_s: float | None = None) -> None:
    """The value on stdout; what was printed, and where it ran, on stderr. Raises: the task's error."""
    if log and outcome.log:
        terminal.note(outcome.log.decode("utf-8", "replace").rstrip("\n"))
    try:
        value = value_of(outcome)
    except TaskFailed as error:
        if error.remote_traceback and not terminal.json:
            terminal.note(error.remote_traceback.rstrip("\n"))
        raise
    if took_s is not None and outcome.place:
        where = "here" if outcome.place == "local" else f"on {outcome.place}"
        ran = f"{outcome.function or 'done'} ran {where}"
        terminal.note(f"{ran}, {took_s * 1000:.0f} ms, task {outcome.task}")
    terminal.value(value)
