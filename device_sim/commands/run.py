"""``device-sim run``: a scenario in virtual time, judged, with a report.

    files read, options judged ─► guard: the play, its progress ─► record ─► tables, report, exit code

Whatever fails can be seen again: the seed, the commit and the command are told with it.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, TextIO

import msgspec
import typer

from device_sim.commands.options import ScenarioArgument, SeedOption
from device_sim.fleet.preparation import Prepared, prepare
from device_sim.report import folder
from device_sim.report.assertions import Assertion, parse
from device_sim.report.glossary import ordered
from device_sim.report.histogram import percentile
from device_sim.report.page import held, verdict_of
from device_sim.report.progress import Pace, clock, run_line
from device_sim.report.quantities import THIN, counted, milliseconds, number, quantity, seconds
from device_sim.report.record import Manifest, Record
from device_sim.report.surroundings import commit, machine, versions
from device_sim.screen import Screen
from device_sim.virtual.guard import guard
from device_sim.virtual.play import BEGIN_NS, REST_NS, Outcome, Play
from device_sim.virtual.telling import drawn, record_of
from device_sim.virtual.world import SECOND
from edge_node.commands import exits
from edge_node.commands.door import JsonOption
from edge_node.commands.rendering import to_json
from security.errors import BadInput, Unavailable

NOT_HELD: Final = exits.TASK_FAILED
LENGTH_S_MAX: Final = 86_400.0
DRAWN_MAX: Final = 20
"""Drawn faults that a failing run tells; ``--trace`` and the report have all."""
DETAIL_CHARS_MAX: Final = 90
SIGNS: Final = {"passed": "✓", "failed": "✗", "not applicable": "–"}


def register(app: typer.Typer) -> None:
    app.command("run", short_help="Play a scenario in virtual time, judge every promise, and report.")(run)


def run(
    ctx: typer.Context,
    scenario: ScenarioArgument,
    nodes: Annotated[
        int | None,
        typer.Option("--nodes", metavar="N", min=1, help="So many instead, each class in proportion."),
    ] = None,
    hours: Annotated[
        float | None, typer.Option("--hours", metavar="H", help="Go on for so long instead; at most 24.")
    ] = None,
    duration_s: Annotated[
        float | None, typer.Option("--duration", metavar="SECONDS", help="The same in seconds.")
    ] = None,
    seed: SeedOption = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="DIR", help="Write report.html, its pictures and record.json there."
        ),
    ] = None,
    asserted: Annotated[
        list[str] | None,
        typer.Option(
            "--assert",
            metavar="'FIGURE OP NUMBER'",
            help="Fail unless this holds, as in 'p99_ms < 200'; may be given several times.",
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE", help="Write everything that happens there, a line each."),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Play a scenario in virtual time. Nodes and gateway run their own code, thousands in one process;
    networks, disks, clocks and processors are models. All chance comes from the seed: the same seed at the
    same commit gives the same run.

    More hours or nodes mean more of the same work: rates stay, listed faults that come later fall out.

    Exit code 0: every promise was kept, everything under [expect] that can be judged here was seen, and every
    --assert holds; 1: not.
    """
    assertions = [parse(each) for each in asserted or ()]
    length_s = _length_s(hours, duration_s)
    prepared = prepare(scenario, seed=seed, length_s=length_s, nodes=nodes, player="world")
    if report is not None:
        _probe(report)
    manifest = Manifest(
        kind="run",
        scenario=prepared.scenario.fleet.name,
        seed=prepared.seed,
        commit=commit(),
        versions=versions(),
        machine=machine(),
        command=command_of(prepared, assertions),
        duration_s=prepared.scenario.fleet.duration_s,
        wall_s=0.0,
    )
    as_json = json_output or ctx.obj[1]
    progress = Screen(sys.stderr)
    with _traced(trace) as keep:
        outcome, record = _played(prepared, assertions, manifest, progress, keep)
    if as_json:
        sys.stdout.write(to_json(msgspec.to_builtins(record), strict=True) + "\n")
    else:
        show(record, Screen(sys.stdout))
    if report is not None:
        missing = folder.write(record, report)
        progress.line(f"report: {report / 'report.html'}, record.json and pictures")
        if missing:
            progress.line(missing)
    if trace is not None:
        progress.line(f"trace: {trace}")
    if not held(record):
        for line in failure(record, drawn(prepared.scenario, outcome.faults)):
            (progress if as_json else Screen(sys.stdout)).line(line)
        raise typer.Exit(NOT_HELD)


def _length_s(hours: float | None, duration_s: float | None) -> float | None:
    if hours is not None and duration_s is not None:
        raise BadInput("both --hours and --duration", fix="name one of them")
    if hours is not None:
        if not 0 < hours <= LENGTH_S_MAX / 3600:
            raise BadInput(f"{hours:g} hours", fix=f"choose more than 0, at most {LENGTH_S_MAX / 3600:g}")
        return hours * 3600
    if duration_s is not None and not 0 < duration_s <= LENGTH_S_MAX:
        raise BadInput(f"a duration of {duration_s:g} s", fix=f"choose more than 0, at most {LENGTH_S_MAX:g}")
    return duration_s


def _probe(report: Path) -> None:
    """Before anything runs for nothing. Raises: Unavailable: it cannot be written to."""
    folder.make_folder(report)
    with folder.writing(report), tempfile.TemporaryFile(dir=report):
        pass


@contextmanager
def _traced(file: Path | None) -> Iterator[Callable[[int, str, str, str], None] | None]:
    """Who writes each note of the world to *file*: seconds of the scenario, place, kind, detail; by tabs."""
    if file is None:
        yield None
        return
    try:
        stream: TextIO = file.open("w", encoding="utf-8")
    except OSError as error:
        raise Unavailable(
            f"cannot write the trace to {file}: {error.strerror}", fix="name another file"
        ) from None
    with stream:
        yield lambda at_ns, place, kind, detail: _note(stream, at_ns - BEGIN_NS, place, kind, detail)


def _note(stream: TextIO, at_ns: int, place: str, kind: str, detail: str) -> None:
    sign, whole = "-" if at_ns < 0 else "", abs(at_ns)
    stream.write(f"{sign}{whole // SECOND}.{whole % SECOND:09d}\t{place}\t{kind}\t{detail}\n")


def command_of(prepared: Prepared, assertions: Sequence[Assertion] = ()) -> str:
    """What plays it again, event for event, in the same tree."""
    told, stands = prepared.scenario, prepared.document.scenario
    words = ["device-sim", "run", prepared.document.name, "--seed", str(prepared.seed)]
    if len(told.nodes) != len(stands.nodes):
        words += ["--nodes", str(len(told.nodes))]
    if told.fleet.duration_s != stands.fleet.duration_s:
        words += ["--duration", repr(told.fleet.duration_s).removesuffix(".0")]
    for each in assertions:
        words += ["--assert", str(each)]
    return shlex.join(words)


# ── playing ───────────────────────────────────────────────────────────────────────────────────────────────


def _played(
    prepared: Prepared,
    assertions: Sequence[Assertion],
    manifest: Manifest,
    screen: Screen,
    keep: Callable[[int, str, str, str], None] | None,
) -> tuple[Outcome, Record]:
    """Raises: EdgeweaveError: a function of the scenario cannot be offered; whatever a core raises, told."""
    line = _line(prepared)
    play: Play | None = None
    try:
        with guard(writing=[Path(os.devnull)]):  # where a screen writes on when nobody reads it any more
            play = Play(prepared, keep=keep)
            outcome = play.run(lambda here: screen.progress(lambda wall_s: line(here, wall_s)))
    except Exception as error:
        if play is not None:  # it was made: what it raised is a defect, of a core or of a model
            screen.close()
            for each in _defect(play, error, manifest):
                screen.line(each)
        raise
    finally:
        screen.close()
    wall_s = round(screen.wall_s, 3)
    record = record_of(outcome, prepared, assertions, msgspec.structs.replace(manifest, wall_s=wall_s))
    return outcome, record


def _line(prepared: Prepared) -> Callable[[Play, float], str]:
    length_s = prepared.scenario.fleet.duration_s + REST_NS / SECOND
    pace = Pace(length_s)

    def line(play: Play, wall_s: float) -> str:
        at_s = (play.world.now_ns - BEGIN_NS) / SECOND
        if at_s < 0:
            return f"everybody boots: {-at_s:.0f} s before the begin"
        pace.reached(wall_s, min(length_s, at_s))
        told = run_line(
            pace,
            open_tasks=play.open,
            done=play.collector.counts["completed"],
            violations=play.panel.violations,
        )
        return told if at_s <= length_s else f"coming to rest since {clock(at_s - length_s)}: {told}"

    return line


def _defect(play: Play, error: Exception, manifest: Manifest) -> Iterator[str]:
    """The story of what should never be raised, with where it was."""
    at_s = (play.world.now_ns - BEGIN_NS) / SECOND
    yield f"a mistake of ours at {at_s:.3f} s, seed {manifest.seed}, commit {manifest.commit or 'unknown'}:"
    yield from (f"  {each}" for each in "".join(traceback.format_exception(error)).splitlines()[-24:])
    yield from _again(manifest.command)


# ── telling ───────────────────────────────────────────────────────────────────────────────────────────────


def show(record: Record, screen: Screen) -> None:
    """Tables, what to bear in mind, the verdict."""
    if record.latencies_ms:
        screen.table(["function", "completed", "p50", "p95", "p99"], list(_functions(record)), left=1)
    figures = [
        [name, quantity(value, unit).replace(THIN, " "), text]
        for name, value, (unit, text) in ordered(record.figures)
    ]
    screen.table(["figure", "value", "what it is"], figures, left=3)
    checks = [[SIGNS[each.word], each.name, _short(each.detail) or each.promise] for each in record.checks]
    screen.table(["", "check", "detail"], checks, left=3)
    screen.line("")
    for note in record.notes:
        screen.line(f"note: {note}".replace(THIN, " "))
    manifest = record.manifest
    nodes = counted(len(record.nodes), "node")
    took = f"{seconds(manifest.duration_s)} of {nodes} in {seconds(manifest.wall_s)}"
    screen.line(f"{manifest.scenario}, seed {manifest.seed}: {took}".replace(THIN, " "))
    screen.line(verdict_of(record)[1].replace(THIN, " "))


def _functions(record: Record) -> Iterator[list[str]]:
    for name, bins in record.latencies_ms.items():
        found = [percentile(bins, share) or 0.0 for share in (0.5, 0.95, 0.99)]
        told = [number(sum(count for _, count in bins)), *map(milliseconds, found)]
        yield [name, *(each.replace(THIN, " ") for each in told)]


def _short(text: str) -> str:
    first = text.split("\n", 1)[0].replace(THIN, " ")
    return first if len(first) <= DETAIL_CHARS_MAX else first[: DETAIL_CHARS_MAX - 1] + "…"


def failure(record: Record, faults: Sequence[str]) -> Iterator[str]:
    """What did not hold, what was drawn, and how to see it again. Args: faults: drawn, a line each."""
    manifest = record.manifest
    yield ""
    source = manifest.commit or "unknown"
    yield f"not held: seed {manifest.seed}, commit {source}, trace {manifest.trace_hash}"
    for check in record.checks:
        if check.word == "failed":
            yield f"  ✗ {check.name}: {check.promise}"
            yield from (f"      {each}" for each in check.detail.replace(THIN, " ").splitlines())
    if faults:
        yield f"  {counted(len(faults), 'fault')} {'was' if len(faults) == 1 else 'were'} drawn:"
        yield from (f"      {each}" for each in faults[:DRAWN_MAX])
        if len(faults) > DRAWN_MAX:
            yield f"      … and {len(faults) - DRAWN_MAX} more; --report shows them all"
    yield from _again(manifest.command)


def _again(command: str) -> Iterator[str]:
    yield "to see it again, event for event:"
    yield f"  {command} --trace trace.txt"
