"""``device-sim replay``: one seed again, event for event, told as a story.

Every moment that is told is the scenario's: before its time 0 everybody boots.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from device_sim.commands.swarm import FaultOption, about, known, shortest_of
from device_sim.fleet.preparation import Prepared
from device_sim.report.surroundings import commit, versions
from device_sim.screen import Screen
from device_sim.virtual import drawing, recorded
from device_sim.virtual.attempt import Attempt, attempt
from device_sim.virtual.checkers.violations import moment
from device_sim.virtual.drawing import NODES, NODES_MAX, NODES_MIN, drawn_scenario
from device_sim.virtual.guard import guard
from device_sim.virtual.particulars import particulars
from device_sim.virtual.play import BEGIN_NS, Play
from device_sim.virtual.recorded import Recorded
from device_sim.virtual.shorten import Shortened
from device_sim.virtual.story import Story
from device_sim.virtual.swarm import shortest
from device_sim.virtual.telling import told
from edge_node.commands import exits
from edge_node.commands.door import JsonOption
from edge_node.commands.rendering import to_json
from security.errors import BadInput

UNTIL_S_MAX: Final = 86400.0
OPEN_TOLD: Final = 40
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min)?\Z")
_UNITS_NS: Final = {"ms": 1e6, "s": 1e9, "min": 60e9}


def register(app: typer.Typer) -> None:
    app.command("replay", short_help="Play a seed again, event for event, and tell its story.")(replay)


def replay(
    ctx: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="SEED|FILE", help="A seed, or a file that a swarm has written.")
    ],
    nodes: Annotated[
        int | None,
        typer.Option(
            "--nodes", metavar="N", min=NODES_MIN, max=NODES_MAX, help=f"With a seed; else {NODES}."
        ),
    ] = None,
    fault: FaultOption = "",
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="12.5s", help="Stop at this moment of the story: what is open then?"),
    ] = None,
    shorter: Annotated[
        bool,
        typer.Option(
            "--shortened", help="The smallest run that fails alike; searched for if none is recorded."
        ),
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE", help="All notes of the run as JSON lines; - is stdout."),
    ] = None,
    node: Annotated[
        list[str] | None, typer.Option("--node", metavar="ID", help="Tell only what concerns it; repeatable.")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="ID", help="Tell only of this task, or those that begin so."),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Play a seed again, event for event, and tell its story: faults, lives, and the tasks that went wrong.

    Exit code 0: every promise held; 1: one did not, or the same code did not do the same again.
    """
    as_json = json_output or ctx.obj[1]
    screen = Screen(sys.stdout)
    until_ns = None if until is None else _span(until)
    source = commit()
    kept, prepared = _chosen(what, nodes, known(fault))
    focus = fault if kept is None else kept.focus
    say = _silent if as_json else screen.line
    say(_head(prepared, kept, source))
    drawn = (
        kept.drawn if kept is not None else [*about(focus, prepared.seed), *particulars(prepared.scenario)]
    )
    for line in drawn:
        say(f"    {line}")
    short = _short(prepared, kept) if shorter else None
    if short is not None:
        say(f"shortened: everything is made good at {moment(short.prefix_ns)}")
        for each in short.faults:
            say(f"    {told(each)}")
    elif kept is not None:
        for line in shortest_of(kept):
            say(line)
    faults = short.faults if short is not None else kept.faults if kept is not None else None
    prefix_ns = None if short is None else short.prefix_ns
    story = Story()
    found: Attempt | None = None
    open_then: dict[str, Any] = {}
    if until_ns is not None:
        open_then = _looked_at(prepared, story, faults, prefix_ns, until_ns)
    else:
        found = attempt(
            prepared, faults=faults, until_ns=prefix_ns, keep=story.keep, also=story.saw, focus=focus
        )
    broken = found.broken if found is not None else ()
    if trace is not None:
        _written(trace, story)
    if not as_json and (trace is None or str(trace) != "-"):
        for told_line in story.told(broken=broken, nodes=node or (), tasks=task or ()):
            screen.line(told_line.text())
        if story.left_out:
            screen.line(f"… and {story.left_out} lines more")
    same = None if kept is None or found is None or short is not None else _same(kept, found)
    facts = {
        "seed": prepared.seed,
        "nodes": len(prepared.scenario.nodes),
        "fault": focus,
        "commit": source,
        "trace_hash": found.trace_hash if found is not None else "",
        "steps": found.steps if found is not None else 0,
        "ended_s": found.ended_ns / 1e9 if found is not None else (until_ns or 0) / 1e9,
        "broken": msgspec.to_builtins(broken),
        "same_as_recorded": same,
        "shortened": None if short is None else msgspec.to_builtins(short),
        "open": open_then,
    }
    if as_json:
        sys.stdout.write(to_json(facts, strict=True) + "\n")
    elif found is None:
        for line in _open_lines(open_then, until_ns or 0):
            screen.line(line)
    else:
        for line in _verdict(found, kept if short is None else None, same, source):
            screen.line(line)
    changed = same is False and kept is not None and kept.commit == source and not source.endswith("+")
    if broken or changed:
        raise typer.Exit(exits.TASK_FAILED)


def _silent(line: str) -> None:
    pass


def _span(text: str) -> int:
    """``12.5s``, ``750ms``, ``2min`` or bare seconds, in nanoseconds."""
    found = _SPAN.match(text.strip())
    span_ns = round(float(found[1]) * _UNITS_NS[found[2] or "s"]) if found else -1
    if not 0 < span_ns <= UNTIL_S_MAX * 1e9:
        raise BadInput(f'"{text}" is no moment of a run', fix="say it as 12.5s, 750ms or 2min")
    return span_ns


def _chosen(what: str, nodes: int | None, focus: str) -> tuple[Recorded | None, Prepared]:
    if what.isdecimal():
        return None, drawn_scenario(int(what), nodes or NODES, focus)
    if nodes is not None:
        raise BadInput("a recorded seed has its own number of nodes", fix="leave --nodes away")
    if focus:
        raise BadInput("a recorded seed has its own fault", fix="leave --fault away")
    kept = recorded.read(Path(what))
    return kept, kept.prepared


def _head(prepared: Prepared, kept: Recorded | None, source: str) -> str:
    nodes = len(prepared.scenario.nodes)
    line = f"seed {prepared.seed} of {nodes} nodes" + (f", commit {source}" if source else "")
    if kept is None:
        return line
    others = []
    version = versions().get("edgeweave", "")
    if kept.commit != source:
        others.append(f"commit {kept.commit or 'unknown'}")
    if kept.version != version:
        others.append(f"version {kept.version or 'unknown'}")
    now = drawing.version_of(kept.focus)
    if kept.drawing != now:
        others.append(f"drawing {kept.drawing} (this is {now}: the seed alone means another run)")
    return line + (f"; recorded by {', '.join(others)}" if others else "")


def _short(prepared: Prepared, kept: Recorded | None) -> Shortened | None:
    if kept is not None and kept.shortened is not None:
        return kept.shortened
    whole = attempt(prepared, faults=None if kept is None else kept.faults)
    return shortest(whole, prepared) if whole.broken else None


def _looked_at(
    prepared: Prepared, story: Story, faults: Any, prefix_ns: int | None, until_ns: int
) -> dict[str, Any]:
    """Play up to a moment. Returns: what is open then."""
    with guard():
        play = Play(prepared, faults=faults, until_ns=prefix_ns, keep=story.keep, also=story.saw)
        play.advance(BEGIN_NS + until_ns)
    machines = play.machines
    return {
        "tasks": {
            name: {task: story.functions.get(task, "") for task in client.promised}
            for name, client in play.clients.items()
            if client.promised
        },
        "down": [name for name, machine in machines.items() if not machine.up],
        "paused": [name for name, machine in machines.items() if machine.up and machine.paused],
        "broker_down": [site.name for site in play.sites if not site.broker.running],
    }


def _open_lines(found: dict[str, Any], at_ns: int) -> list[str]:
    tasks = [(node, task, what) for node, each in found["tasks"].items() for task, what in each.items()]
    lines = [f"{moment(at_ns)}: {len(tasks)} promises are open"]
    lines += [f"    {node} {task} {what}" for node, task, what in tasks[:OPEN_TOLD]]
    if len(tasks) > OPEN_TOLD:
        lines.append(f"    and {len(tasks) - OPEN_TOLD} more")
    lines += [f"    down: {', '.join(found['down'])}"] if found["down"] else []
    lines += [f"    paused: {', '.join(found['paused'])}"] if found["paused"] else []
    lines += ["    the broker is down"] if found["broker_down"] else []
    return lines


def _written(path: Path, story: Story) -> None:
    lines = b"".join(
        msgspec.json.encode({"at_ns": at_ns, "place": place, "kind": kind, "detail": detail}) + b"\n"
        for at_ns, place, kind, detail in story.lines
    )
    if str(path) == "-":
        sys.stdout.write(lines.decode())
        return
    try:
        path.write_bytes(lines)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}", fix="name another --trace file") from None


def _same(kept: Recorded, found: Attempt) -> bool:
    return (kept.trace_hash, kept.steps, kept.broken) == (found.trace_hash, found.steps, found.broken)


def _verdict(found: Attempt, kept: Recorded | None, same: bool | None, source: str) -> list[str]:
    lines = []
    for each in found.broken:
        lines.append(
            f"{each.checker}: {each.total} violation{'s' if each.total > 1 else ''} of: {each.promise}"
        )
        lines += [f"    {line}" for line in each.lines]
    if not found.broken:
        lines.append("every promise held")
    told_hash = f"hash {found.trace_hash or 'none'}, {found.steps} steps, until {moment(found.ended_ns)}"
    if kept is None or same is None:
        lines.append(told_hash)
    elif same:
        lines.append(f"the same run as recorded: {told_hash}")
    else:
        lines.append(
            f"not the run that was recorded: {told_hash}; recorded: {kept.trace_hash}, {kept.steps} steps"
        )
        then, now = {each.checker for each in kept.broken}, {each.checker for each in found.broken}
        lines += [f"    recorded, and not seen now: {name}" for name in sorted(then - now)]
        lines += [f"    seen now, and not recorded: {name}" for name in sorted(now - then)]
        if kept.commit == source and not source.endswith("+"):
            lines.append("    by the same commit: what it does is no function of the seed")
    return lines
