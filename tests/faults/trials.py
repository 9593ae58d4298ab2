"""Trials: what a fault module and a test of every run both do, in different numbers.

    async def altered(scratch: Path, seed: int, count: int) -> Figures: ...      # raises AssertionError
    async def run(context): return await tried(context, {altered: 2, moved: 1})  # two thirds, one third

A trial takes a folder of its own, a seed and a number, asserts what was promised, and returns its figures:
numbers, words, and lists of single measurements; `accepted` are tasks. A trial that is no coroutine function
runs in a thread: it may run loops of its own.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.faults.fault import Context, Outcome

Figures = dict[str, Any]
Trial = Callable[[Path, int, int], Any]


async def tried(context: Context, shares: Mapping[Trial, float]) -> Outcome:
    """Each trial with its share of the round's number, at least one; a broken promise is told, not raised.

    Raises: whatever a trial raises beside AssertionError: then the round is broken, and nothing is shown.
    """
    whole = sum(shares.values())
    outcome = Outcome(0, 0, [])
    for trial, share in shares.items():
        name, count = name_of(trial), max(1, round(context.count * share / whole))
        seed = context.rng.randrange(2**31)
        context.drawn[name] = f"{count} by {seed}"
        scratch = context.scratch / name.replace(" ", "-")
        scratch.mkdir(parents=True)
        outcome.done += count
        try:
            told = await _one(trial, scratch, seed, count)
        except AssertionError as broken:
            outcome.violations.append(f"{name}, seed {seed}, {count}: {_where(broken)}")
            continue
        outcome.accepted += int(told.pop("accepted", 0))
        for what, value in told.items():
            kept = outcome.samples if isinstance(value, list) else outcome.figures
            kept[f"{name}: {what}"] = value
    return outcome


async def _one(trial: Trial, scratch: Path, seed: int, count: int) -> Figures:
    inner = trial.func if isinstance(trial, functools.partial) else trial
    if inspect.iscoroutinefunction(inner):
        return dict(await trial(scratch, seed, count))
    return dict(await asyncio.to_thread(trial, scratch, seed, count))


def name_of(trial: Trial) -> str:
    """Of a partial trial with what it was given, which tells it from others; the broker all have."""
    if not isinstance(trial, functools.partial):
        return trial.__name__
    given = [value for name, value in trial.keywords.items() if name != "broker"]
    return " ".join([trial.func.__name__, *(getattr(each, "__name__", str(each)) for each in given)])


def _where(broken: AssertionError) -> str:
    at = traceback.extract_tb(broken.__traceback__)[-1]
    said = " ".join(str(broken).split())[:400]
    return f"{Path(at.filename).name}:{at.lineno}: {at.line}: {said}"
