"""The campaign: every fault, round after round, until each has its share of the table.

    python -m tests.faults.campaign [--only 1,5.partition] [--broker both|mosquitto|embedded] [--share 0.1]
                                    [--minutes M] [--seed N] [--out out/faults] [--list]
    python -m tests.faults.campaign --only 1.kill-worker --broker mosquitto --seed 5 --round 7 --count 20

The second form repeats one round, which is what a violation prints. Rounds are appended to
``<out>/rounds.jsonl``: a campaign that was ended, however, goes on where it was. The fault that is furthest
behind is next, so that a short campaign is an even one. Exit 0: no promise was broken and no round broke.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.fault import BOTH, NONE, Context, Fault, Lacking, Outcome, context_of, quantile, seed_of

HERE = Path(__file__).parent
ROUND_S_MAX = 600.0
"""Beyond any round that makes progress; three times its own length where that is longer."""
BROKEN_MAX = 3
"""Rounds of one fault that may break before it is given up: the cause would not change."""
SAMPLES_MAX = 20_000


Play = Callable[[Context], Awaitable[Outcome]]


@dataclass(frozen=True)
class Leg:
    """A fault over one broker."""

    fault: Fault
    broker: str
    run: Play

    @property
    def name(self) -> str:
        return f"{self.fault.key} {self.broker}"


@dataclass
class Round:
    """One line of ``rounds.jsonl``."""

    fault: str
    broker: str
    number: int
    campaign: int
    seed: int
    count: int
    done: int = 0
    accepted: int = 0
    seconds: float = 0.0
    at: str = ""
    commit: str = ""
    violations: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    drawn: dict[str, Any] = field(default_factory=dict)
    broken: str = ""  # the exception that ended it
    lacking: str = ""  # why this machine cannot run it

    @property
    def leg(self) -> str:
        return f"{self.fault} {self.broker}"


def found(numbers: Collection[int] = ()) -> list[tuple[Fault, Play]]:
    """Every fault module, or those of *numbers*, in the order of the table."""
    paths = [path for path in HERE.glob("f[0-9][0-9]_*.py") if not numbers or int(path.stem[1:3]) in numbers]
    modules = [importlib.import_module(f"tests.faults.{path.stem}") for path in paths]
    return sorted(
        ((each.FAULT, each.run) for each in modules), key=lambda pair: (pair[0].number, pair[0].name)
    )


def legs_of(only: Collection[str], broker: str) -> list[Leg]:
    """Raises: SystemExit: a name fits no fault."""
    pairs = found({int(number) for word in only if (number := word.partition(".")[0]).isdigit()})
    for word in only:
        if not any(word in (str(fault.number), fault.key) for fault, _ in pairs):
            raise SystemExit(f"campaign: no fault {word}; here are " + ", ".join(f.key for f, _ in pairs))
    return [
        Leg(fault, kind, run)
        for fault, run in pairs
        if not only or {str(fault.number), fault.key} & set(only)
        for kind in fault.brokers or (NONE,)
        if kind == NONE or broker in ("both", kind)
    ]


class Book:
    """``rounds.jsonl``: what has been done, and what is next."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rounds: list[Round] = []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    self.rounds.append(Round(**json.loads(line)))
                except (ValueError, TypeError):
                    continue  # the line that a kill cut short

    @property
    def campaign(self) -> int | None:
        return self.rounds[-1].campaign if self.rounds else None

    def add(self, each: Round) -> None:
        self.rounds.append(each)
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(each)) + "\n")

    def of(self, leg: Leg) -> list[Round]:
        return [each for each in self.rounds if each.leg == leg.name]

    def done(self, leg: Leg) -> int:
        return sum(each.done for each in self.of(leg) if not each.broken)

    def next_number(self, leg: Leg) -> int:
        return 1 + max((each.number for each in self.of(leg)), default=0)

    def given_up(self, leg: Leg) -> bool:
        rounds = self.of(leg)
        return bool(rounds and rounds[-1].lacking) or sum(bool(r.broken) for r in rounds) >= BROKEN_MAX

    def round_s(self, leg: Leg) -> float:
        """How long the next round may take, by those before."""
        return max((each.seconds for each in self.of(leg) if not each.lacking), default=leg.fault.round_s)

    def next(self, legs: Iterable[Leg], share: float, left_s: float) -> Leg | None:
        """The leg that is furthest behind, fits the time and has not all that is asked."""
        waiting = [
            (self.done(leg) / leg.fault.full, at, leg)
            for at, leg in enumerate(legs)
            if self.done(leg) < asked(leg, share) and not self.given_up(leg) and self.round_s(leg) <= left_s
        ]
        return min(waiting, key=lambda each: each[:2])[2] if waiting else None


def asked(leg: Leg, share: float) -> int:
    return max(1, round(leg.fault.full * share))


def play(
    leg: Leg,
    number: int,
    campaign: int,
    count: int,
    out: Path,
    say: Callable[[str], None],
    *,
    keep: bool = False,
) -> Round:
    """One round; its scratch folder stays only if something was wrong, or if it is to be kept."""
    seed = seed_of(campaign, leg.fault, leg.broker, number)
    scratch = out / "scratch" / f"{leg.fault.key}-{leg.broker}-{number}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    told = Round(leg.fault.key, leg.broker, number, campaign, seed, count, at=now(), commit=commit())
    context = context_of(seed, leg.broker, scratch.absolute(), count, say)
    begun = time.monotonic()
    try:
        outcome = asyncio.run(_bounded(leg.run(context), max(ROUND_S_MAX, 3 * leg.fault.round_s)))
    except Lacking as lacking:
        told.lacking = str(lacking)
    except Exception as error:
        told.broken = f"{type(error).__name__}: {error}".splitlines()[0]
        (scratch / "broken.txt").write_text(traceback.format_exc())
    else:
        told.done, told.accepted = outcome.done, outcome.accepted
        told.violations, told.figures, told.samples = outcome.violations, outcome.figures, outcome.samples
    told.seconds = round(time.monotonic() - begun, 1)
    told.drawn = context.drawn
    if not told.violations and not told.broken and not keep:
        shutil.rmtree(scratch, ignore_errors=True)
    return told


async def _bounded(running: Awaitable[Outcome], within_s: float) -> Outcome:
    async with asyncio.timeout(within_s):
        return await running


def line_of(each: Round) -> str:
    drawn = " ".join(f"{name}={value}" for name, value in each.drawn.items())
    if each.lacking:
        return f"{each.leg} #{each.number}: not run here: {each.lacking}"
    if each.broken:
        return f"{each.leg} #{each.number} seed {each.seed}: BROKEN after {each.seconds} s: {each.broken}"
    return (
        f"{each.leg} #{each.number} seed {each.seed}: {each.done} of {each.count} in {each.seconds} s, "
        f"{each.accepted} accepted, {len(each.violations)} violations; {drawn}"
    )


def again(each: Round, out: Path) -> str:
    """The one command that repeats it."""
    return (
        f".venv/bin/python -m tests.faults.campaign --only {each.fault} --broker {each.broker} "
        f"--seed {each.campaign} --round {each.number} --count {each.count} --out {out}"
    )


def now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def commit() -> str:
    """Of the tree that runs; with a plus where it has changes that are not committed."""
    try:
        told = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE
        )
        changed = subprocess.run(
            ["git", "diff", "--quiet", "HEAD", "--", "security", "edge_node", "gateway"],
            capture_output=True, cwd=HERE.parents[1],
        )  # fmt: skip
    except OSError:
        return "unknown"
    if told.returncode:
        return "unknown"
    return told.stdout.strip() + ("+" if changed.returncode else "")


# ── the report ────────────────────────────────────────────────────────────────────────────────────────


def figures_of(rounds: list[Round]) -> dict[str, Any]:
    """Of several rounds: the largest of each number, the quantiles of all samples."""
    figures: dict[str, Any] = {}
    for each in rounds:
        for name, value in each.figures.items():
            before = figures.get(name)
            numbers = isinstance(value, int | float) and isinstance(before, int | float)
            figures[name] = max(value, before) if numbers else value
    samples: dict[str, list[float]] = {}
    for each in rounds:
        for name, values in each.samples.items():
            samples.setdefault(name, []).extend(values)
    for name, values in samples.items():
        if values:
            figures[f"{name} n"] = len(values)
            figures[f"{name} p50"] = quantile(values, 0.50)
            figures[f"{name} p99"] = quantile(values, 0.99)
            figures[f"{name} max"] = max(values)
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}


def over(fault: Fault, figures: dict[str, Any]) -> list[str]:
    """Figures that are larger than they should be."""
    return [
        f"{name} {figures[name]:g} > {most:g}"
        for name, most in fault.bounds.items()
        if isinstance(figures.get(name), int | float) and figures[name] > most
    ]


def report(book: Book, legs: list[Leg], share: float, command: str, out: Path) -> str:
    """Markdown."""
    rows = []
    details = []
    for leg in legs:
        rounds = book.of(leg)
        whole = [each for each in rounds if not each.broken and not each.lacking]
        done, full = sum(each.done for each in whole), leg.fault.full
        violations = [(each, line) for each in whole for line in each.violations]
        figures = figures_of(whole)
        exceeded = over(leg.fault, figures)
        broken = [each for each in rounds if each.broken]
        note = "; ".join(
            [*(f"over: {line}" for line in exceeded), *([f"{len(broken)} rounds broke"] if broken else [])]
        ) or ("not run here" if rounds and rounds[-1].lacking else "" if rounds else "not run yet")
        rows.append(
            f"| {leg.fault.number} | {leg.fault.title} | {leg.broker} | {asked(leg, share)} {leg.fault.unit} "
            f"| {done} | {done / full:.0%} of {full} | {sum(each.accepted for each in whole)} "
            f"| {len(violations)} | {note} |"
        )
        if not rounds:
            continue
        details.append(f"\n### {leg.fault.key}, {leg.broker}\n")
        details.append(f"{len(rounds)} rounds, {sum(each.seconds for each in rounds):.0f} s\n")
        details += [f"- {name}: {value}" for name, value in sorted(figures.items())]
        details += [f"- **over**: {line}" for line in exceeded]
        for each, line in violations:
            details.append(f"- **violation**, round {each.number}, seed {each.seed}: {line}")
        for each in {id(each): each for each, _ in violations}.values():
            details.append(f"  - again: `{again(each, out)}`")
        details += [
            f"- **broken**, round {each.number}, seed {each.seed}: {each.broken}; again: `{again(each, out)}`"
            for each in broken
        ]
        details += sorted({f"- not run here: {each.lacking}" for each in rounds if each.lacking})
    total = sum(len(each.violations) for each in book.rounds)
    commits = ", ".join(sorted({each.commit for each in book.rounds if each.commit})) or commit()
    begun = book.rounds[0].at if book.rounds else "none"
    return "\n".join([
        "# Faults on real processes",
        "",
        f"- command: `{command}`",
        f"- written {now()}; rounds from {begun}; commit {commits} (+: with changes)",
        f"- machine: {machine()}",
        f"- violations = {total}",
        "",
        "| # | fault | broker | asked | done | of the table | accepted tasks | violations | notes |",
        "|---|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        "Figures: the largest of all rounds; quantiles are of all samples together.",
        *details,
        "",
    ])  # fmt: skip


def machine() -> str:
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}"
    )


# ── the command ───────────────────────────────────────────────────────────────────────────────────────


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="campaign", description="Faults on real processes.")
    parser.add_argument("--only", default="", help="faults by number or number.name, with commas between")
    parser.add_argument("--broker", choices=("both", *BOTH, NONE), default="both")
    parser.add_argument("--share", type=float, default=1.0, help="of the table's counts")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, help="of the campaign; goes on with the last one's if not given")
    parser.add_argument("--out", type=Path, default=Path("out/faults"))
    parser.add_argument("--round", type=int, help="repeat one round")
    parser.add_argument("--count", type=int, help="units of a round")
    parser.add_argument("--list", action="store_true", help="what there is, and how long it takes")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    options = arguments(words)
    legs = legs_of([word for word in options.only.split(",") if word], options.broker)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    book = Book(out / "rounds.jsonl")
    if options.list:
        seconds = 0.0
        for leg in legs:
            line, more = plan_of(leg, book, options.share)
            seconds += more
            print(line)
        print(f"altogether about {seconds / 60:.0f} min")
        return 0
    campaign = options.seed if options.seed is not None else book.campaign
    if campaign is None:
        campaign = random.SystemRandom().randrange(2**31)
    command = "python -m tests.faults.campaign " + " ".join(words if words is not None else sys.argv[1:])
    say(f"campaign seed {campaign}, commit {commit()}, {machine()}")
    if options.round is not None:
        return repeat(legs, options, campaign)
    ours: list[Round] = []
    end = time.monotonic() + options.minutes * 60
    try:
        while leg := book.next(legs, options.share, end - time.monotonic()):
            left = asked(leg, options.share) - book.done(leg)
            count = min(options.count or leg.fault.a_round, left)
            told = play(leg, book.next_number(leg), campaign, count, out, say)
            book.add(told)
            ours.append(told)
            tell(told, out)
            (out / "report.md").write_text(report(book, legs, options.share, command, out))
    except KeyboardInterrupt:
        say("interrupted; the next one goes on from here")
    text = report(book, legs, options.share, command, out)
    (out / "report.md").write_text(text)
    violations = sum(len(each.violations) for each in ours)
    broken = sum(bool(each.broken) for each in ours)
    say(f"{len(ours)} rounds, violations = {violations}, broken rounds = {broken}; {out / 'report.md'}")
    return 1 if violations or broken else 0


def repeat(legs: list[Leg], options: argparse.Namespace, campaign: int) -> int:
    if len(legs) != 1:
        raise SystemExit("campaign: --round repeats one round: name one fault and one broker")
    leg, count = legs[0], options.count or legs[0].fault.a_round
    told = play(leg, options.round, campaign, count, options.out / "again", say, keep=True)
    tell(told, options.out)
    for name, value in sorted(figures_of([told]).items()):
        say(f"  {name}: {value}")
    return 1 if told.violations or told.broken else 0


def tell(told: Round, out: Path) -> None:
    say(line_of(told))
    for line in told.violations:
        say(f"  VIOLATION: {line}")
    if told.violations or told.broken:
        say(f"  kept: {out / 'scratch'}; again: {again(told, out)}")


def plan_of(leg: Leg, book: Book, share: float) -> tuple[str, float]:
    """(a line, seconds that what is left takes)."""
    done = book.done(leg)
    rounds = -(-max(0, asked(leg, share) - done) // leg.fault.a_round)
    seconds = book.round_s(leg)
    line = (
        f"{leg.name}: {asked(leg, share)} {leg.fault.unit}, {done} done; {rounds} rounds of "
        f"{leg.fault.a_round} to go, about {seconds:.0f} s each: {rounds * seconds / 60:.0f} min"
    )
    return line, rounds * seconds


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
