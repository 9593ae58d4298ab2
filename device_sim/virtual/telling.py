"""Telling: what a play has shown, as the record that reports are drawn from.

    Outcome ─► figures, faults, load …   as they were collected, in the scenario's time
            ─► verdicts                  ┐
    [expect] ───────────────────────────►├─ checks
    --assert ───────────────────────────►┘

Evidence is in the world's time, which begins ten seconds before the scenario's, while everybody boots; people
are told the scenario's. Not here: the terminal, files (``report.folder``), where it ran (``surroundings``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from device_sim.faults import SECOND
from device_sim.report.assertions import Assertion, judge
from device_sim.report.expectations import judge as expected
from device_sim.report.quantities import counted, number, seconds
from device_sim.report.record import Check, Manifest, Record
from device_sim.scenario import Scenario
from device_sim.virtual.evidence import Verdict

if TYPE_CHECKING:
    from device_sim.faults import Fault
    from device_sim.fleet.preparation import Prepared
    from device_sim.virtual.play import Outcome

PROMISES: Final[Mapping[str, str]] = {
    "settled once": "each accepted task ends once, in time, and as its client is told",
    "fenced": "the number of an attempt is one place's, through every restart",
    "acknowledged survives": "what a node said yes to is on its disk after a kill and a power cut",
    "acknowledged changes survive": "what a node said is kept in a table is there, or gave way knowingly",
    "replicas are equal": "members that have exchanged everything hold the same",
    "bounds": "queues and messages stay within their bounds, and too much is refused at the door",
    "damage is seen": "a damaged store is named as such, never silently emptied",
    "finishes": "once all is made good, everybody is back, the backlog drains and nobody stalls",
    "everything is explained": "everything carries a cause that leads to its story",
    "sealed": "nothing can be read on a link, and no key seals under one number twice",
    "revoked is out": "five seconds after an operator was told so, a revoked node is out",
}
"""What each checker judges, for people."""
NOT_JUDGED: Final = ("resumed_min", "verified_min", "kill_to_replacement_s_max", "revoked_cut_s_max")
"""Expectations of real daemons, whose figures a run in virtual time does not have."""
COUNTED: Final = (
    "failed_max", "explained_max", "accepted_min", "completed_min", "offloaded_min", "peers_min",
)  # fmt: skip
"""Expectations that are meant for as many nodes and as long as the file says."""
REASONS_MAX: Final = 10
_MOMENT: Final = re.compile(r"(^|, at )(\d+)\.(\d{3}) s")
"""As ``checkers.violations.moment`` spells it, where a line begins and where it refers to another moment."""


def record_of(
    outcome: Outcome, prepared: Prepared, assertions: Sequence[Assertion], manifest: Manifest
) -> Record:
    """Args: manifest: with its wall time; the trace's hash and the fleet's time are put in here."""
    parts = outcome.parts
    begin_ns, replay_end_ns = outcome.replay_ns
    duration_s = (outcome.ended_ns - begin_ns) / SECOND
    left_out = sum(outcome.left_out.values())
    figures = {**parts.figures, "left_out": left_out}
    if manifest.wall_s:
        figures["speed_up"] = round(duration_s / manifest.wall_s, 3)
    checks = [_promise(verdict, begin_ns) for verdict in outcome.verdicts]
    checks += _expectations(prepared, figures)
    figures["violations"] = sum(check.word == "failed" for check in checks)
    checks += judge(assertions, figures)
    rest_s = (outcome.ended_ns - replay_end_ns) / SECOND
    return Record(
        manifest=msgspec.structs.replace(manifest, trace_hash=outcome.trace_hash, duration_s=duration_s),
        figures=figures,
        latencies_ms=parts.latencies_ms,
        load=parts.load,
        rates=parts.rates,
        messages=parts.messages,
        faults=parts.faults,
        nodes=parts.nodes,
        edges=parts.edges,
        checks=checks,
        notes=[
            f"work and faults take {seconds(duration_s - rest_s)}; then all is watched coming to rest",
            *changed(prepared),
            *outcome.notes,
            *left_out_lines(outcome),
            *parts.notes,
        ],
    )


def _promise(verdict: Verdict, begin_ns: int) -> Check:
    lines = [shifted(line, begin_ns) for line in verdict.violations]
    if verdict.total > len(lines):
        lines.append(f"… and {number(verdict.total - len(lines))} more")
    if verdict.why:
        lines.append(verdict.why)
    return Check(
        name=verdict.name,
        promise=PROMISES.get(verdict.name, verdict.promise),
        word=verdict.word,
        detail="\n".join(lines),
    )


def shifted(line: str, begin_ns: int) -> str:
    """A violation's line, its moments in the scenario's time."""

    def moved(found: re.Match[str]) -> str:
        ms = int(found[2]) * 1000 + int(found[3]) - begin_ns // 1_000_000
        return f"{found[1]}{'-' if ms < 0 else ''}{abs(ms) // 1000}.{abs(ms) % 1000:03d} s"

    return _MOMENT.sub(moved, line)


def _expectations(prepared: Prepared, figures: Mapping[str, float]) -> Iterator[Check]:
    expect = prepared.scenario.expect
    resized = bool(changed(prepared))
    found: dict[str, float | None] = {
        "lost": figures.get("lost"),
        "failed": figures["failed"] + figures["expired"],
        "explained": figures.get("explained"),
        "latency_ms_p99": figures.get("p99_ms"),
    }
    found |= {name: figures[name] for name in ("accepted", "completed", "offloaded", "peers")}
    nothing = dict.fromkeys((_stem(name) for name in NOT_JUDGED), None)
    for verdict in expected(expect, nothing | found):
        why = ""
        if verdict.name in NOT_JUDGED:
            why = "not judged here: this is seen of real daemons only (device-sim fleet)"
        elif resized and verdict.name in COUNTED and verdict.wanted:
            why = f"not judged: {verdict.wanted:g} is meant for the scenario as it stands; use --assert"
        yield Check(
            name=verdict.name,
            promise="expected by the scenario",
            word="not applicable" if why else "passed" if verdict.held else "failed",
            detail=why or verdict.text().removeprefix(f"{verdict.name}: "),
        )


def _stem(name: str) -> str:
    return name.removesuffix("_min").removesuffix("_max")


def changed(prepared: Prepared) -> list[str]:
    """How the scenario was told otherwise than it stands in its file, in sentences."""
    told, stands = prepared.scenario, prepared.document.scenario
    found = []
    if len(told.nodes) != len(stands.nodes):
        found.append(f"{number(len(told.nodes))} nodes instead of the scenario's {number(len(stands.nodes))}")
    if told.fleet.duration_s != stands.fleet.duration_s:
        found.append(
            f"{seconds(told.fleet.duration_s)} instead of the scenario's {seconds(stands.fleet.duration_s)}"
        )
    if fallen := len(stands.faults) - len(told.faults):
        found.append(f"{counted(fallen, 'listed fault')} fell out: too late, or of a node that is not there")
    return found


def left_out_lines(outcome: Outcome) -> list[str]:
    """What clients did not ask for, and why: the most frequent reasons."""
    lines = [
        f"{counted(count, 'task')} not asked for: {why}"
        for why, count in sorted(outcome.left_out.items(), key=lambda each: (-each[1], each[0]))[:REASONS_MAX]
    ]
    rest = len(outcome.left_out) - REASONS_MAX
    return [*lines, f"{counted(rest, 'more reason')} for not asking"] if rest > 0 else lines


def drawn(scenario: Scenario, faults: Sequence[Fault]) -> list[str]:
    """The faults of a play that its scenario does not list, one line each."""
    listed = set(map(repr, scenario.timeline()))
    return [told(fault) for fault in faults if repr(fault) not in listed]


def told(fault: Fault) -> str:
    """``12.5 s: partition pi-3 (to)``."""
    more = [
        f"{key} {value:g}" if isinstance(value, float | int) else str(value)
        for key, value in (
            ("", fault.direction), ("", fault.link), ("by_s", fault.by_s), ("factor", fault.factor),
            ("until", fault.until_s), ("", fault.point), ("nth", fault.nth), ("", "power" * fault.power),
        )
        if value
    ]  # fmt: skip
    return f"{fault.at_s:.3f} s: {fault.do} {fault.node}".rstrip() + (f" ({', '.join(more)})" if more else "")
