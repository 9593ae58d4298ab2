"""``device-sim``: the command line of the simulator.

The story of a run goes to stderr, its result to stdout: tables, or with ``--json`` the report.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from device_sim.commands import replay as again
from device_sim.commands import run as world
from device_sim.commands import swarm as seeds
from device_sim.commands.options import ScenarioArgument, SeedOption
from device_sim.fleet import play as stage
from device_sim.fleet.play import Interrupted, Run
from device_sim.fleet.preparation import Player, Prepared, prepare
from device_sim.report.folder import make_folder
from device_sim.report.tables import tables
from device_sim.screen import Screen
from edge_node.commands import exits
from edge_node.commands.door import JsonOption, Program
from edge_node.commands.rendering import to_json
from edge_node.home import Home
from security.errors import BadInput

NOT_HELD = exits.TASK_FAILED
DURATION_S_MAX = 86400.0
LISTED_MAX = 64  # nodes or faults that are told one by one

DurationOption = Annotated[
    float | None,
    typer.Option(
        "--duration",
        metavar="SECONDS",
        help="Tell the same story in so many seconds: traces and faults at another pace.",
    ),
]


class Simulator(Program):
    """The program's door; a simulator has no home."""

    def _before(self, ctx: typer.Context, json_output: JsonOption = False) -> None:  # type: ignore[override]
        ctx.obj = (None, json_output)


program = Simulator(
    "device-sim",
    default_home=lambda: Home("~/.edgeweave/device-sim"),  # none is made: mistakes of ours are only told
    help_text="Fleets of edgeweave nodes on this machine: real daemons, real sensor data, faults on purpose.",
)
app = program.app
world.register(app)
seeds.register(app)
again.register(app)


@app.command("fleet", short_help="Play a scenario on real daemons, with its faults, and report.")
def fleet(
    ctx: typer.Context,
    scenario: ScenarioArgument,
    seed: SeedOption = None,
    duration_s: DurationOption = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="DIR", help="Write report.html and what it is made of there."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the homes of the fleet; tells where.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Play a scenario: a gateway and nodes as processes, their devices at work, its faults, and a report.

    Exit code 0: every accepted task was kept or its loss explained by a fault, and everything under [expect]
    was seen; 1: not.
    """
    as_json = json_output or ctx.obj[1]
    run = played(_prepared(scenario, seed, duration_s), Screen(sys.stderr), report=report, keep=keep)
    if as_json:
        sys.stdout.write(to_json(run.facts, strict=True) + "\n")
    else:
        show(run, Screen(sys.stdout))
    if not run.held:
        raise typer.Exit(NOT_HELD)


@app.command("check", short_help="Read a scenario and tell what it would do.")
def check(
    ctx: typer.Context,
    scenario: ScenarioArgument,
    seed: SeedOption = None,
    duration_s: DurationOption = None,
    json_output: JsonOption = False,
) -> None:
    """Read a scenario and everything that it names, start nothing, and tell what it would do."""
    prepared = _prepared(scenario, seed, duration_s, player="any")
    tasks = prepared.tasks
    facts: dict[str, Any] = {
        "scenario": prepared.scenario.fleet.name,
        "seed": prepared.seed,
        "seconds": prepared.scenario.fleet.duration_s,
        "nodes": {
            name: {"slowdown": device.slowed, "tasks": tasks[name]}
            for name, device in prepared.scenario.nodes.items()
        },
        "planned": sum(tasks.values()),
        "faults": [
            {"at_s": round(fault.at_s, 3), "do": fault.do, "node": fault.member}
            for fault in sorted(prepared.scenario.timeline(), key=lambda each: each.at_s)
        ],
        "world_only": prepared.world_only,
        "beyond_fleet": prepared.beyond,
    }
    if json_output or ctx.obj[1]:
        sys.stdout.write(to_json(facts, strict=True) + "\n")
        return
    screen = Screen(sys.stdout)
    screen.line(
        f"{facts['scenario']}: {_counted(len(facts['nodes']), 'node')}, "
        f"{_counted(facts['planned'], 'task')} in {facts['seconds']:g} s, "
        f"{_counted(len(facts['faults']), 'fault')}, seed {facts['seed']}"
    )
    if len(facts["nodes"]) <= LISTED_MAX:
        nodes = [[name, f"{node['slowdown']:g}", str(node["tasks"])] for name, node in facts["nodes"].items()]
        screen.table(["node", "slowdown", "tasks"], nodes, left=1)
    else:
        rows = []
        for device in prepared.scenario.devices:
            asked = sum(tasks[name] for name in device.ids)
            rows.append([device.cls, str(len(device.ids)), f"{device.slowed:g}", str(asked)])
        screen.table(["class", "nodes", "slowdown", "tasks"], rows, left=1)
    if facts["faults"]:
        faults = [[f"{each['at_s']:g} s", each["do"], each["node"]] for each in facts["faults"][:LISTED_MAX]]
        screen.table(["at", "fault", "node"], faults, left=3)
    if prepared.world_only:
        screen.line(f"not for real daemons: {prepared.world_only}")
    for line in [] if prepared.world_only else prepared.beyond:
        screen.line(f"not done by real daemons: {line}")


def _prepared(path: Path, seed: int | None, duration_s: float | None, player: Player = "fleet") -> Prepared:
    if duration_s is not None and not 0 < duration_s <= DURATION_S_MAX:
        raise BadInput(
            f"a duration of {duration_s:g} s", fix=f"choose more than 0, at most {DURATION_S_MAX:g}"
        )
    return prepare(path, seed=seed, duration_s=duration_s, player=player)


def played(prepared: Prepared, screen: Screen, *, report: Path | None = None, keep: bool = False) -> Run:
    """Play it, and write the report if a directory is named.

    Raises: EdgeweaveError; typer.Exit(128 + signal): it was interrupted.
    """
    if report is not None:
        make_folder(report)  # before anything runs for nothing
    for line in prepared.beyond:
        screen.tell(f"not done by real daemons: {line}")
    try:
        run, folder = asyncio.run(stage.play(prepared, screen, keep=keep))
    except Interrupted as interrupted:
        raise typer.Exit(128 + interrupted.number) from None
    finally:
        screen.close()
    if keep:
        screen.tell(f"the homes are kept in {folder}")
    if report is not None:
        missing = run.write(report)
        screen.tell(f"report: {report / 'report.html'}, report.json, record.json and tasks.jsonl")
        if missing:
            screen.tell(missing)
    return run


def show(run: Run, screen: Screen) -> None:
    """Tables, the balance, and what was expected and not seen."""
    for heads, rows, left in tables(run.facts, run.tasks):
        screen.table(heads, rows, left=left)
    screen.line("")
    for line in balance(run):
        screen.line(line)


def balance(run: Run) -> list[str]:
    """The last lines: was everything kept?"""
    found, facts = run.account, run.facts
    parts = [f"completed {found.completed}"]
    if found.failed:
        parts.append(f"failed {found.failed}")
    if found.explained:
        parts.append(f"explained {len(found.explained)}")
    sign = "=" if found.kept else "!="
    checked, differing = facts["verified"]["checked"], len(facts["verified"]["differing"])
    settled = f"accepted {found.accepted} {sign} {' + '.join(parts)}, lost {len(found.lost)}"
    wire = f"{facts['bytes_wire'] / 1e6:.1f} MB on the wire"
    lines = [f"{settled}; {checked} results computed again, {differing} differ; {wire}"]
    lines += [
        f"explained: {_counted(sum(each == why for each in found.explained.values()), 'open task')}, {why}"
        for why in sorted(set(found.explained.values()))
    ]
    if facts["left_out"]:
        lines.append(
            f"{facts['left_out']} of {facts['planned']} windows were not asked: their node was gone, or this "
            "machine too busy"
        )
    lines += [f"lost: {task}" for task in found.lost[:10]]
    lines += [f"not as expected: {verdict.text()}" for verdict in run.verdicts if not verdict.held]
    return lines


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Console script."""
    sys.exit(program.enter(arguments))


if __name__ == "__main__":
    main()
