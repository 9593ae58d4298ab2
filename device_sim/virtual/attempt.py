"""An attempt: one play inside the guard, and whatever went wrong in it as data.

    Prepared ─► guard ─► Play ─► Attempt: trace hash, steps, what was broken

A checker that says "failed" and an error that comes out of a member are the same to a swarm: a promise was
broken, at a moment, in a run that anyone can play again. Not here: many seeds (``swarm``), making the run
smaller (``shorten``), files (``recorded``). Moments are the scenario's, as people are told them.
"""

from __future__ import annotations

import re
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from device_sim.faults import Fault
from device_sim.fleet.preparation import Prepared
from device_sim.virtual.checkers.violations import moment
from device_sim.virtual.evidence import Event
from device_sim.virtual.gauge import Figures, Gauge
from device_sim.virtual.guard import OUTSIDE, guard
from device_sim.virtual.play import BEGIN_NS, Play
from device_sim.virtual.telling import shifted

NOTHING_RAISES: Final = "nothing raises"
ENDS: Final = "ends"
SAME_RUN: Final = "same run"
PROMISES: Final = {
    NOTHING_RAISES: "no member raises an error that nobody handles",
    ENDS: "a run ends: no member turns in circles at one moment",
    SAME_RUN: "a seed is the same run each time, in every process",
}
"""What no checker can judge from inside."""
ROOT: Final = Path(__file__).resolve().parents[2]
_SALTED: Final = re.compile(r" at 0x[0-9a-f]+")
"""Addresses within an error's text differ from process to process."""


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """A promise that was not kept. `lines`: the first of `total`; `place`: of an error, file and function."""

    checker: str
    promise: str
    total: int = 1
    first_ns: int | None = None
    """None: it has no moment."""
    lines: tuple[str, ...] = ()
    place: str = ""

    @property
    def same_as(self) -> tuple[str, str]:
        """Two attempts with an equal one fail alike: line numbers and moments may differ."""
        return self.checker, self.place


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """What one play has shown."""

    seed: int
    trace_hash: str
    steps: int
    notes: int
    ended_ns: int
    cpu_ns: int
    faults: tuple[Fault, ...]
    broken: tuple[Broken, ...]
    figures: Figures | None = None
    """Of a focused one."""

    @property
    def sameness(self) -> tuple[Any, ...]:
        """Equal for two attempts of one seed, wherever they were made."""
        return self.trace_hash, self.steps, self.ended_ns, self.broken


class Circling(BaseException):  # not an Exception: no door of a member may swallow it
    """A play has used more processor time than any play of its size needs."""


def attempt(
    prepared: Prepared,
    *,
    faults: tuple[Fault, ...] | None = None,
    until_ns: int | None = None,
    keep: Callable[[int, str, str, str], None] | None = None,
    also: Callable[[Event], None] | None = None,
    cpu_s_max: float | None = None,
    focus: str = "",
) -> Attempt:
    """Play it to its end; the arguments are those of ``Play``.

    focus: of its drawing; what it is about is counted and measured.

    cpu_s_max: of this process; what takes longer has not ended. Only in the main thread. None: wait for ever.
    """
    begun_ns = OUTSIDE.process_time_ns()
    play: Play | None = None
    gauge: Gauge | None = None
    broken: list[Broken] = []

    def told(event: Event) -> None:
        if gauge is not None:
            gauge.saw(event)
        if also is not None:
            also(event)

    try:
        with _at_most(cpu_s_max), guard():
            seen = told if focus else also
            play = Play(prepared, faults=faults, until_ns=until_ns, keep=keep, also=seen)
            if focus:
                gauge = Gauge(play, focus)
            outcome = play.run()
    except Circling as error:
        broken.append(_raised(error, play, ENDS))
    except Exception as error:  # the door: whatever a defect raises out of a core is a finding
        broken.append(_raised(error, play, NOTHING_RAISES))
    else:
        broken += [
            Broken(
                checker=verdict.name,
                promise=verdict.promise,
                total=verdict.total,
                first_ns=None if verdict.first_ns is None else verdict.first_ns - BEGIN_NS,
                lines=tuple(shifted(line, BEGIN_NS) for line in verdict.violations),
            )
            for verdict in outcome.failed
        ]
    return Attempt(
        seed=prepared.seed,
        trace_hash="" if play is None else play.world.trace_hash(),
        steps=0 if play is None else play.world.steps,
        notes=0 if play is None else play.world.notes,
        ended_ns=0 if play is None else play.world.now_ns - BEGIN_NS,
        cpu_ns=OUTSIDE.process_time_ns() - begun_ns,
        faults=() if play is None else play.faults,
        broken=tuple(broken),
        figures=None if gauge is None else gauge.figures(),
    )


@contextmanager
def _at_most(cpu_s: float | None) -> Iterator[None]:
    """Processor time, not the machine's: a busy neighbour makes no finding."""
    if cpu_s is None:
        yield
        return

    def over(number: int, frame: object) -> None:
        raise Circling(f"no end after {cpu_s:g} s of processor time")

    before = signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)


def _raised(error: BaseException, play: Play | None, checker: str) -> Broken:
    """An error as a violation, with its moment and the last place of ours that it came through."""
    at_ns = 0 if play is None else play.world.now_ns - BEGIN_NS
    place, line = _place(error)
    said = _SALTED.sub("", " ".join(str(error).split()))
    parts = [f"{type(error).__name__}: {said}" if said else type(error).__name__, f"at {place}:{line}"]
    parts += [" ".join(note.split()) for note in getattr(error, "__notes__", ())]
    if play is None:
        parts.append("before the world began")
    return Broken(
        checker=checker,
        promise=PROMISES[checker],
        first_ns=at_ns,
        lines=(f"{moment(at_ns)}: " + ", ".join(parts),),
        # Where somebody turns in circles the place is whichever of theirs the clock struck at.
        place="" if checker == ENDS else f"{type(error).__name__} at {place}",
    )


def _place(error: BaseException) -> tuple[str, int]:
    """(``edge_node/tasks/desk.py handle``, line) of the innermost frame of ours."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT) and ".venv" not in path.parts and path.name != "guard.py":
            return f"{path.relative_to(ROOT)} {frame.name}", frame.lineno or 0
    return "nowhere of ours", 0
