"""The simulator's share of the fault table: focused swarms, until each fault has struck as often as it says.

    python -m tests.simulation.fault_swarms [--share 0.1] [--only worker-kill,disk] [--minutes M] [--jobs J]
                                            [--plays N] [--out out/swarm-faults]

Every seed that was played is a line of ``<out>/seeds.jsonl`` (what took effect, what was measured, what was
broken), so a campaign that was ended goes on where it was; a line of another drawing, or of another number of
nodes, counts no more. The fault that is furthest behind is next. ``<out>/report.md`` is written after each
batch; a failing seed is ``<out>/<fault>-<seed>.json``, for ``device-sim replay``.

Exit 0: no promise was broken; 1: one was; 128 + n: ended by a signal.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from device_sim.commands.swarm import record_of
from device_sim.report.surroundings import commit, machine, versions
from device_sim.virtual import recorded
from device_sim.virtual.drawing import version_of
from device_sim.virtual.focus import FOCUSES, POINTS, kind_of
from device_sim.virtual.gauge import Figures, Totals
from device_sim.virtual.shorten import PLAYS_MAX
from device_sim.virtual.swarm import Swarm, Word

BATCH_S: Final = 40.0
"""Of processor time: after so much of one fault another may be next."""
LINES_TOLD: Final = 3


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One seed."""

    fault: str
    kind: str
    seed: int
    nodes: int
    drawing: int
    commit: str
    cpu_s: float
    virtual_s: float
    figures: Figures
    broken: dict[str, list[str]] = {}
    """Checker -> its first violations."""


Progress = Callable[["Done", float], dict[str, tuple[int, int]]]
"""(what was done, share of the campaign) -> what is counted: (so many, of so many)."""


class Aim(NamedTuple):
    number: str
    """In the table of faults."""
    nodes: int
    seed_s: float
    """Processor seconds of a seed, about."""
    progress: Progress
    bound: tuple[str, float] | None = None
    """A figure whose p99 must not be larger."""


class Done:
    """All lines of one fault."""

    def __init__(self) -> None:
        self.seeds: set[int] = set()
        self.kinds: Counter[str] = Counter()
        self.struck: dict[str, Counter[str]] = {}
        self.totals = Totals()
        self.by_kind: dict[str, Totals] = {}
        self.commits: Counter[str] = Counter()
        self.broken: dict[int, dict[str, list[str]]] = {}
        self.cpu_s = self.virtual_s = 0.0

    def take(self, line: Line) -> None:
        if line.seed in self.seeds:
            return
        self.seeds.add(line.seed)
        self.kinds[line.kind] += 1
        self.struck.setdefault(line.kind, Counter()).update(line.figures.counts)
        self.totals.take(line.figures)
        if line.kind:
            self.by_kind.setdefault(line.kind, Totals()).take(line.figures)
        self.commits[line.commit] += 1
        if line.broken:
            self.broken[line.seed] = line.broken
        self.cpu_s += line.cpu_s
        self.virtual_s += line.virtual_s

    @property
    def counts(self) -> Counter[str]:
        return self.totals.counts


def _of(wanted: int, share: float) -> int:
    return max(1, math.ceil(wanted * share))


def _struck(wanted: int, *names: str) -> Progress:
    def progress(done: Done, share: float) -> dict[str, tuple[int, int]]:
        return {" and ".join(names): (sum(done.counts[name] for name in names), _of(wanted, share))}

    return progress


def _seeds(wanted: int, focus: str, *, each: bool) -> Progress:
    def progress(done: Done, share: float) -> dict[str, tuple[int, int]]:
        if not each:
            return {"seeds": (len(done.seeds), _of(wanted, share))}
        return {kind: (done.kinds[kind], _of(wanted, share)) for kind in FOCUSES[focus].kinds}

    return progress


def point_of(name: str) -> str:
    """``kill after fsync`` of ``kill after fsync ledger.log``; empty: it is no such count."""
    words = name.split()
    return " ".join(words[:3]) if " ".join(words[1:3]) in POINTS else ""


def _points(done: Done, share: float) -> dict[str, tuple[int, int]]:
    hit: Counter[str] = Counter()
    for name, count in done.counts.items():
        hit[point_of(name)] += count
    wanted = _of(500, share)
    return {
        f"{how} {point}": (hit[f"{how} {point}"], wanted) for how in ("kill", "power") for point in POINTS
    }


def _partitions(done: Done, share: float) -> dict[str, tuple[int, int]]:
    kinds = FOCUSES["partition"].kinds
    wanted = _of(math.ceil(2_000 / len(kinds)), share)
    return {kind: (done.struck.get(kind, Counter())["partition"], wanted) for kind in kinds}


AIMS: Final[dict[str, Aim]] = {
    "worker-kill": Aim(
        "1", 12, 3.0, _struck(10_000, "kill", "kill-worker"), ("re-dispatch beyond its lease ms", 2000.0)
    ),
    "gateway-kill": Aim("2", 4, 1.5, _points),
    "power-cut": Aim("4", 12, 4.5, _struck(10_000, "power-cut", "power-cut-gateway")),
    "partition": Aim("5", 8, 1.2, _partitions, ("convergence ms", 5000.0)),
    "parcels": Aim("6", 6, 0.6, _seeds(1_000, "parcels", each=True), ("sends a message", 4.0)),
    "clocks": Aim("7", 8, 0.5, _seeds(1_000, "clocks", each=False)),
    "disk": Aim("8", 4, 1.5, _seeds(800, "disk", each=False)),
    "flip": Aim("9", 5, 0.8, _struck(1_000, "disk-flip")),
    "tables": Aim("4 to 9, at tables", 5, 2.0, _seeds(300, "tables", each=True)),
}


def reached(aim: Aim, done: Done, share: float) -> float:
    """How much of its aim, of 1."""
    return min(min(1.0, count / wanted) for count, wanted in aim.progress(done, share).values())


class Campaign:
    """Args: out: folder of its lines, its report and its failing seeds."""

    def __init__(self, out: Path, *, share: float, jobs: int, plays: int, only: list[str]) -> None:
        self.out = out
        self.share = share
        self.jobs = jobs
        self.plays = plays
        self.only = only
        self.commit = commit()
        self.done = {name: Done() for name in AIMS}
        self.caught: list[int] = []
        out.mkdir(parents=True, exist_ok=True)
        self.lines = out / "seeds.jsonl"
        for line in read(self.lines):
            self.done[line.fault].take(line)
        if self.lines.exists() and not self.lines.read_bytes().endswith(b"\n"):
            with self.lines.open("ab") as file:  # it was ended in the middle of a line
                file.write(b"\n")

    def next(self) -> str | None:
        """The one that is furthest behind. None: all have what they want."""
        behind = [(reached(AIMS[name], self.done[name], self.share), name) for name in self.only]
        share, name = min(behind)
        return name if share < 1.0 else None

    def batch(self, name: str) -> Iterator[Line]:
        """Some more seeds of this fault, each written down before it is told."""
        aim, done = AIMS[name], self.done[name]
        size = max(self.jobs, round(BATCH_S / aim.seed_s))
        first = next(seed for seed in range(len(done.seeds) + 1) if seed not in done.seeds)
        seeds = [seed for seed in range(first, first + size + len(done.seeds)) if seed not in done.seeds]
        swarm = Swarm(
            iter(seeds[:size]),
            nodes=aim.nodes,
            focus=name,
            jobs=self.jobs,
            plays_max=self.plays,
            stop=lambda: bool(self.caught),
            enough=lambda: reached(aim, done, self.share) >= 1.0,
        )
        with self.lines.open("ab") as file:
            for word in swarm.words():
                line = self._line(name, aim, word)
                file.write(msgspec.json.encode(line) + b"\n")
                file.flush()
                done.take(line)
                yield line

    def _line(self, name: str, aim: Aim, word: Word) -> Line:
        found = word.attempt
        if word.failed:
            kept = record_of(word, aim.nodes, self.commit, versions().get("edgeweave", ""), name)
            recorded.write(self.out / f"{name}-{word.seed}.json", kept)
        return Line(
            fault=name,
            kind=kind_of(name, word.seed),
            seed=word.seed,
            nodes=aim.nodes,
            drawing=version_of(name),
            commit=self.commit,
            cpu_s=round(found.cpu_ns / 1e9, 2),
            virtual_s=round(found.ended_ns / 1e9, 1),
            figures=found.figures or Figures(),
            broken={each.checker: list(each.lines[:LINES_TOLD]) for each in found.broken},
        )

    @property
    def broken(self) -> int:
        """Seeds."""
        return sum(len(self.done[name].broken) for name in self.only)

    # ── the report ────────────────────────────────────────────────────────────────────────────────

    def report(self, command: str) -> str:
        commits: Counter[str] = Counter()
        for name in self.only:
            commits.update(self.done[name].commits)
        told = ", ".join(f"{each or 'unknown'} ({count} seeds)" for each, count in commits.most_common())
        lines = [
            "# Faults in virtual time",
            "",
            f"`{command}`, {self.share:g} of the campaign; commits: {told or 'none'}; {machine()}.",
            "",
            "Counted is what took effect. p99 and largest are of all samples of all seeds; *never*: it had",
            "not come about when the run ended, or within half a minute.",
            "",
            "| # | fault | struck | seeds | virtual h | processor min | seeds that broke a promise |",
            "|---|---|---|---|---|---|---|",
        ]
        for name in self.only:
            aim, done = AIMS[name], self.done[name]
            parts = aim.progress(done, self.share)
            struck = "; ".join(f"{what} {count} of {wanted}" for what, (count, wanted) in parts.items())
            broken = ", ".join(map(str, sorted(done.broken)[:20])) or "none"
            lines.append(
                f"| {aim.number} | {name} | {struck} | {len(done.seeds)} | {done.virtual_s / 3600:.1f} "
                f"| {done.cpu_s / 60:.1f} | {broken} |"
            )
        lines += [
            "",
            "## Figures",
            "",
            "| fault | figure | samples | p50 | p99 | largest | never | bound of p99 |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name in self.only:
            done = self.done[name]
            for kind, totals in [("", done.totals), *sorted(done.by_kind.items())]:
                lines += _figures(name, kind, totals)
        lines += ["", "## What was counted", ""]
        for name in self.only:
            counts = self.done[name].counts
            if counts:
                lines += [f"### {name}", "", "| what | count |", "|---|---|"]
                lines += [f"| {what} | {count} |" for what, count in sorted(counts.items())]
                lines.append("")
        for name in self.only:
            for seed, checkers in sorted(self.done[name].broken.items()):
                lines.append(f"### {name} {seed} broke a promise")
                lines += ["", f"`device-sim replay {seed} --fault {name} --nodes {AIMS[name].nodes}`", ""]
                lines += [f"- {checker}: {first}" for checker, told in checkers.items() for first in told[:1]]
                lines.append("")
        return "\n".join(lines) + "\n"


def _figures(name: str, kind: str, totals: Totals) -> Iterator[str]:
    bound = AIMS[name].bound
    for figure, each in totals.quantiles().items():
        limit = f"{bound[1]:g}" if bound is not None and bound[0] == figure else ""
        shown = [f"{each[key]:.4g}" if key in each else "" for key in ("p50", "p99", "max")]
        what = f"{name}, {kind}" if kind else name
        cells = [what, figure, f"{each['samples']:g}", *shown, f"{each['never']:g}", limit]
        yield f"| {' | '.join(cells)} |"


def read(path: Path) -> Iterator[Line]:
    """Those that still mean what they say; a line that was cut off is none."""
    if not path.exists():
        return
    for data in path.read_bytes().splitlines():
        try:
            line = msgspec.json.decode(data, type=Line)
        except msgspec.DecodeError:
            continue
        aim = AIMS.get(line.fault)
        if aim is not None and (line.drawing, line.nodes) == (version_of(line.fault), aim.nodes):
            yield line


def main() -> int:
    parser = argparse.ArgumentParser(description="focused swarms, until each fault has struck often enough")
    parser.add_argument("--share", type=float, default=1.0, help="of the campaign")
    parser.add_argument("--only", default=",".join(AIMS), help="names, with commas between them")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no batch after so long")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--plays", type=int, default=PLAYS_MAX, help="at most, to shorten a failing seed")
    parser.add_argument("--out", type=Path, default=Path("out/swarm-faults"))
    chosen = parser.parse_args()
    only = [name for name in chosen.only.split(",") if name]
    if unknown := [name for name in only if name not in AIMS]:
        parser.error(f"no such fault: {', '.join(unknown)}; there: {', '.join(AIMS)}")
    campaign = Campaign(
        chosen.out, share=chosen.share, jobs=max(1, chosen.jobs), plays=chosen.plays, only=only
    )
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda number, frame: campaign.caught.append(number))
    command = shlex.join(["python", "-m", "tests.simulation.fault_swarms", *sys.argv[1:]])
    begun = time.monotonic()
    report = chosen.out / "report.md"
    while not campaign.caught and time.monotonic() - begun < chosen.minutes * 60:
        name = campaign.next()
        if name is None:
            break
        for line in campaign.batch(name):
            if line.broken:
                print(f"{line.fault} seed {line.seed} of {line.nodes} nodes:", file=sys.stderr)
                for checker, told in line.broken.items():
                    print(f"    {checker}: {told[0] if told else ''}", file=sys.stderr)
        shares = [f"{each} {reached(AIMS[each], campaign.done[each], chosen.share):.0%}" for each in only]
        print(f"{(time.monotonic() - begun) / 60:.1f} min: {', '.join(shares)}", file=sys.stderr, flush=True)
        report.write_text(campaign.report(command))
    text = campaign.report(command)
    report.write_text(text)
    print(text.split("\n## What was counted")[0])
    if campaign.caught:
        return 128 + campaign.caught[0]
    return 1 if campaign.broken else 0


if __name__ == "__main__":
    sys.exit(main())
