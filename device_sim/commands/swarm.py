"""``device-sim swarm``: play drawn scenarios until one breaks a promise, and say how to play it again.

Seeds that fail go to stdout, in their order, as they are found; how far it is goes to stderr.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from device_sim.report.folder import make_folder
from device_sim.report.progress import Pace, clock, swarm_line
from device_sim.report.quantities import THIN, counted, number
from device_sim.report.surroundings import commit, versions
from device_sim.screen import Screen
from device_sim.virtual import drawing, recorded
from device_sim.virtual.checkers.violations import moment
from device_sim.virtual.drawing import NODES, NODES_MAX, NODES_MIN, drawn_scenario
from device_sim.virtual.focus import FOCUSES, kind_of
from device_sim.virtual.gauge import Totals
from device_sim.virtual.particulars import particulars
from device_sim.virtual.shorten import PLAYS_MAX
from device_sim.virtual.swarm import Swarm, Word
from device_sim.virtual.telling import told
from edge_node.commands import exits
from edge_node.commands.door import JsonOption
from edge_node.commands.rendering import to_json
from security.errors import BadInput

SEEDS: Final = 100
LINES_TOLD: Final = 3
"""Violations of one checker that are told at once; the file has more, and a replay shows them all."""
FAULTS_TOLD: Final = 12
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def known(focus: str) -> str:
    """Raises: BadInput: there is no such focus."""
    if focus and focus not in FOCUSES:
        raise BadInput(f"no swarm is about {focus!r}", fix=f"one of {', '.join(FOCUSES)}")
    return focus


FaultOption = Annotated[
    str,
    typer.Option("--fault", metavar="NAME", help=f"About one fault, again and again: {', '.join(FOCUSES)}."),
]


def register(app: typer.Typer) -> None:
    app.command("swarm", short_help="Play drawn scenarios, seed after seed, until a promise breaks.")(swarm)


def swarm(
    ctx: typer.Context,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds", metavar="N", min=1, help=f"So many; else {SEEDS}, or as many as --minutes allow."
        ),
    ] = None,
    first: Annotated[int, typer.Option("--first", metavar="K", min=0, help="The first seed.")] = 0,
    nodes: Annotated[
        int, typer.Option("--nodes", metavar="N", min=NODES_MIN, max=NODES_MAX, help="Of each mesh.")
    ] = NODES,
    fault: FaultOption = "",
    jobs: Annotated[
        int | None, typer.Option("--jobs", metavar="J", min=1, max=256, help="Processes; else one a core.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", metavar="M", min=0.01, help="Begin no seed after so long.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where seed-K.json of each failing seed goes.")
    ] = Path("out"),
    twice: Annotated[
        bool, typer.Option("--twice", help="Each seed in two processes: is it the same run in both?")
    ] = False,
    plays: Annotated[
        int,
        typer.Option("--plays", metavar="N", min=0, help="At most, to shorten a failing seed; 0: do not."),
    ] = PLAYS_MAX,
    json_output: JsonOption = False,
) -> None:
    """Draw a whole scenario from each seed (boards, links, work, faults), play it in virtual time, judge it.

    With --fault it is about that one alone, and tells how much was broken and how fast it was made good.
    Exit code 0: every promise held in every seed; 1: one did not. A failing seed is written to
    DIR/seed-K.json, and `device-sim replay` plays it again.
    """
    as_json = json_output or ctx.obj[1]
    known(fault)
    count = seeds if seeds is not None else None if minutes is not None else SEEDS
    make_folder(out)  # before anything runs for nothing
    source, version = commit(), versions().get("edgeweave", "")
    screen, story = Screen(sys.stderr), Screen(sys.stdout)
    endless = minutes is not None and count is None
    pace = Pace(float("inf") if endless else float(count or 0))
    tally = Tally(nodes, fault)
    with _signals() as caught:
        run = Swarm(
            itertools.count(first) if count is None else iter(range(first, first + count)),
            nodes=nodes,
            focus=fault,
            jobs=jobs or os.cpu_count() or 1,
            twice=twice,
            plays_max=plays,
            stop=lambda: bool(caught),
            enough=lambda: minutes is not None and screen.wall_s >= minutes * 60,
        )

        def tick() -> None:
            pace.reached(screen.wall_s, run.played)
            if endless:
                pace.total = max(1.0, run.played * (minutes or 0) * 60 / max(screen.wall_s, 0.1))
            screen.progress(lambda _: swarm_line(pace, failed=len(tally.failed), violations=tally.violations))

        run.tick = tick
        for word in run.words():
            tally.take(word)
            if not word.failed:
                continue
            path = out / (f"{fault}-{word.seed}.json" if fault else f"seed-{word.seed}.json")
            kept = record_of(word, nodes, source, version, fault)
            recorded.write(path, kept)
            screen.close()
            if not as_json:
                for line in story_of(kept, path):
                    story.line(line.replace(THIN, " "))
        screen.close()
    facts = tally.facts(screen.wall_s, source, interrupted=bool(caught))
    if as_json:
        sys.stdout.write(to_json(facts, strict=True) + "\n")
    else:
        for line in tally.lines(facts):
            story.line(line.replace(THIN, " "))
    if caught:
        raise typer.Exit(128 + caught[0])
    if tally.failed:
        raise typer.Exit(exits.TASK_FAILED)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Those that came: the swarm ends in order, with what it has found."""
    caught: list[int] = []
    before = {}
    for each in SIGNALS:
        if signal.getsignal(each) is not signal.SIG_IGN or each != signal.SIGHUP:  # nohup means it
            before[each] = signal.signal(each, lambda got, frame: caught.append(got))
    try:
        yield caught
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class Tally:
    """What a swarm has found."""

    def __init__(self, nodes: int, focus: str = "") -> None:
        self.nodes = nodes
        self.focus = focus
        self.figures = Totals()
        self.seeds = 0
        self.virtual_ns = 0
        self.cpu_ns = 0
        self.violations = 0
        self.failed: list[Word] = []

    def take(self, word: Word) -> None:
        self.seeds += 1
        self.virtual_ns += word.attempt.ended_ns
        self.cpu_ns += word.attempt.cpu_ns
        self.figures.take(word.attempt.figures)
        if word.failed:
            self.failed.append(msgspec.structs.replace(word, trace=b""))
            self.violations += sum(each.total for each in word.attempt.broken)

    def facts(self, wall_s: float, source: str, *, interrupted: bool) -> dict[str, Any]:
        """For ``--json``."""
        virtual_s = self.virtual_ns / 1e9
        found: Counter[str] = Counter()
        where: dict[str, list[int]] = {}
        for word in self.failed:
            for each in word.attempt.broken:
                found[each.checker] += each.total
                where.setdefault(each.checker, []).append(word.seed)
        return {
            "seeds": self.seeds,
            "nodes": self.nodes,
            "fault": self.focus,
            "drawing": drawing.version_of(self.focus),
            "commit": source,
            "counts": dict(sorted(self.figures.counts.items())),
            "figures": self.figures.quantiles(),
            "failed": [
                {"seed": word.seed, "broken": msgspec.to_builtins(word.attempt.broken)}
                for word in self.failed
            ],
            "violations": {name: {"total": found[name], "seeds": where[name]} for name in sorted(found)},
            "virtual_hours": round(virtual_s / 3600, 3),
            "wall_s": round(wall_s, 1),
            "cpu_s": round(self.cpu_ns / 1e9, 1),
            "speed_up": round(virtual_s / wall_s, 1) if wall_s else 0.0,
            "interrupted": interrupted,
        }

    def lines(self, facts: dict[str, Any]) -> list[str]:
        lines = [
            f"{name}: {counted(each['total'], 'violation')} in {counted(len(each['seeds']), 'seed')}: "
            + ", ".join(map(str, each["seeds"][:8]))
            + (" …" if len(each["seeds"]) > 8 else "")
            for name, each in facts["violations"].items()
        ]
        if facts["counts"]:
            lines.append(", ".join(f"{name}: {number(count)}" for name, count in facts["counts"].items()))
        lines += [
            f"{name}: " + ", ".join(f"{key} {number(value)}" for key, value in each.items())
            for name, each in facts["figures"].items()
        ]
        held = "all held" if not self.failed else f"{number(len(self.failed))} did not hold"
        lines.append(
            f"{counted(self.seeds, 'seed')} of {counted(self.nodes, 'node')}, {held}; "
            f"{number(facts['virtual_hours'])} hours of virtual time in {clock(facts['wall_s'])}, "
            f"{number(facts['speed_up'])} times as fast as life"
            + (f"; commit {facts['commit']}" if facts["commit"] else "")
            + ("; interrupted" if facts["interrupted"] else "")
        )
        return lines


def record_of(word: Word, nodes: int, source: str, version: str, focus: str = "") -> recorded.Recorded:
    scenario = drawn_scenario(word.seed, nodes, focus).scenario
    found = word.attempt
    return recorded.Recorded(
        format=recorded.FORMAT,
        drawing=drawing.version_of(focus),
        focus=focus,
        version=version,
        commit=source,
        seed=word.seed,
        nodes=nodes,
        drawn=[*about(focus, word.seed), *particulars(scenario)],
        scenario=scenario,
        faults=found.faults,
        trace_hash=found.trace_hash,
        steps=found.steps,
        ended_ns=found.ended_ns,
        broken=found.broken,
        shortened=word.shortened,
    )


def about(focus: str, seed: int) -> list[str]:
    """What a focused seed is about, as a line of its particulars."""
    if not focus:
        return []
    kind = kind_of(focus, seed)
    return [f"fault {focus}{f' ({kind})' if kind else ''}: {FOCUSES[focus].what}"]


def story_of(kept: recorded.Recorded, path: Path) -> list[str]:
    """What is told of a failing seed."""
    at = f" at commit {kept.commit}" if kept.commit else ""
    lines = [f"seed {kept.seed} of {counted(kept.nodes, 'node')} did not hold{at}"]
    lines += [f"    {line}" for line in kept.drawn]
    for each in kept.broken:
        lines.append(f"  {each.checker}: {counted(each.total, 'violation')} of: {each.promise}")
        lines += [f"    {line}" for line in each.lines[:LINES_TOLD]]
    lines += [f"  {line}" for line in shortest_of(kept)]
    option = f" --fault {kept.focus}" if kept.focus else ""
    lines.append(f"  device-sim replay {kept.seed} --nodes {kept.nodes}{option}, or device-sim replay {path}")
    lines.append("")
    return lines


def shortest_of(kept: recorded.Recorded) -> list[str]:
    """What is enough to make it fail."""
    short = kept.shortened
    if short is None:
        return []
    faults = [told(fault) for fault in short.faults]
    of = f"{len(faults)} of {counted(len(kept.faults), 'fault')}{':' if faults else ''}"
    lines = [f"it still fails if everything is made good at {moment(short.prefix_ns)}, with {of}"]
    lines += [f"  {each}" for each in faults[:FAULTS_TOLD]]
    if len(faults) > FAULTS_TOLD:
        lines.append(f"  and {len(faults) - FAULTS_TOLD} more")
    return lines
