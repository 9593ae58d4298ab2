"""The record of a fleet of real daemons: the rows that its ledgers kept, seen as events of a run.

In: the facts and rows that ``fleet.play`` has gathered. Out: a ``Record``, drawn by the same report as that
of a run in virtual time. What real daemons do not tell from outside is left out and named in the notes: what
was refused, and what crossed the broker by kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from device_sim.report.collect import SECOND, Collector
from device_sim.report.expectations import Verdict
from device_sim.report.figures import percentile
from device_sim.report.record import Check, Manifest, Record
from device_sim.virtual.evidence import Answered, Asked, Crashed, Event, Happened, Ran, Started, Told

Row = Mapping[str, Any]
NOT_SEEN: Final = ("refused", "messages", "deliveries", "messages_per_task")
NOTES: Final = (
    "real daemons on one machine: what happens in between is not repeatable, only the plan is",
    "messages were not counted by kind; bytes are those of the connections to the broker, TLS included",
    "of a task, its owner's ledger knows the attempts; a run that nobody heard of is not among them",
)
_DEATHS: Final = {"kill": "kill", "kill-gateway": "kill", "kill-broker": "kill"}
_BIRTHS: Final = ("restart", "restart-gateway")


def record_of(
    facts: Mapping[str, Any],
    tasks: Sequence[Row],
    latencies_ms: Sequence[float],
    verdicts: Iterable[Verdict],
    *,
    kept: bool,
    workers: Mapping[str, int],
    manifest: Manifest,
) -> Record:
    """Args: latencies_ms: as clients saw them.   kept: is every promise accounted for?
    workers: processes by node."""
    nodes = {node["id"]: node["class"] for node in facts["nodes"]}
    collector = Collector(nodes, workers, round(manifest.duration_s * SECOND))
    begun_s = facts["begun_at"]
    last_ns = round(manifest.duration_s * SECOND)
    for at_ns, _, event in sorted(_events(facts, tasks, begun_s), key=lambda each: each[:2]):
        collector.saw(event)
        last_ns = max(last_ns, at_ns)
    parts = collector.finish(last_ns)
    figures = {name: value for name, value in parts.figures.items() if name not in NOT_SEEN}
    figures |= _figures(facts, sorted(latencies_ms), manifest.duration_s)
    checks = [_kept(facts, kept=kept), *map(_check, verdicts)]
    figures["violations"] = sum(check.word == "failed" for check in checks)
    up = {node["id"]: node["up"] for node in facts["nodes"]}
    return Record(
        manifest=manifest,
        figures=figures,
        latencies_ms=parts.latencies_ms,
        load=parts.load,
        rates=parts.rates,
        messages=[],
        faults=parts.faults,
        nodes=[msgspec.structs.replace(node, up=up[node.id]) for node in parts.nodes],
        edges=parts.edges,
        checks=checks,
        notes=[*NOTES, *(note for note in parts.notes if not note.startswith("percentiles"))],
    )


def _events(
    facts: Mapping[str, Any], tasks: Iterable[Row], begun_s: float
) -> Iterator[tuple[int, int, Event]]:
    """(moment, order within it, event)."""

    def ns(at_s: float) -> int:
        return max(0, round((at_s - begun_s) * SECOND))

    for task in tasks:
        name, owner, settled = task["id"], task["origin"], task["settled_at"]
        accepted_ns = ns(task["accepted_at"])
        told_ns = None if settled is None else max(accepted_ns, ns(settled))
        asked_ns = accepted_ns
        if told_ns is not None and task["latency_ms"] is not None:  # the client's clock is finer
            asked_ns = min(accepted_ns, max(0, told_ns - round(task["latency_ms"] * 1e6)))
        yield asked_ns, 0, Asked(asked_ns, owner, name, task["function"], 0)
        yield accepted_ns, 1, Answered(accepted_ns, owner, name, accepted=True)
        for number, attempt in enumerate(task["attempts"], 1):
            if attempt["node"] is not None and attempt["start"] is not None and attempt["end"] is not None:
                end_ns = ns(attempt["end"])
                node = owner if attempt["node"] == "local" else attempt["node"]
                yield end_ns, 2, Ran(ns(attempt["start"]), end_ns, node, name, number, attempt["ended_as"])
        if told_ns is not None:
            place = "local" if task["place"] == "local" else task["ran_at"] or ""
            yield told_ns, 3, Told(told_ns, owner, name, task["status"], place)
    for fault in facts["faults"]:
        at_ns = max(0, round(fault["at_s"] * SECOND))
        yield at_ns, 4, Happened(at_ns, fault["do"], fault["node"])
        if fault["do"] in _DEATHS:
            yield at_ns, 5, Crashed(at_ns, fault["node"], _DEATHS[fault["do"]])
        elif fault["do"] in _BIRTHS:
            yield at_ns, 5, Started(at_ns, fault["node"])


def _figures(facts: Mapping[str, Any], ordered_ms: Sequence[float], duration_s: float) -> dict[str, float]:
    """What the account knows better than the rows."""
    found: dict[str, float] = {
        "asked": facts["planned"] - facts["left_out"],
        "accepted": facts["accepted"],
        "completed": facts["completed"],
        "lost": len(facts["lost"]),
        "explained": len(facts["explained"]),
        "verified": facts["verified"]["checked"],
        "differing": len(facts["verified"]["differing"]),
        "duplicates": sum(node["counters"].get("duplicates", 0) for node in facts["nodes"]),
    }
    if facts["nodes"] and duration_s:
        minutes = duration_s / 60
        found["bytes_per_node_minute"] = round(facts["bytes_wire"] / len(facts["nodes"]) / minutes, 1)
    if ordered_ms:
        for name, share in (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99)):
            found[name] = round(percentile(ordered_ms, share), 3)
        found["max_ms"] = round(ordered_ms[-1], 3)
        found["mean_ms"] = round(sum(ordered_ms) / len(ordered_ms), 3)
    resumed = [fault["resumed_tasks"] for fault in facts["faults"] if "resumed_tasks" in fault]
    if resumed:
        found["resumed"] = sum(resumed)
    for name in ("kill_to_replacement_s", "revoked_cut_s"):
        if facts[name] is not None:
            found[name] = facts[name]
    return found


def _kept(facts: Mapping[str, Any], *, kept: bool) -> Check:
    settled = facts["completed"] + facts["failed"]
    told = f"accepted {facts['accepted']}, settled {settled}, explained {len(facts['explained'])}"
    lost = [f"lost: {task}" for task in facts["lost"][:20]]
    return Check(
        name="kept",
        promise="each accepted task ended as its client was told, or a fault explains why not",
        word="passed" if kept else "failed",
        detail="\n".join([told, *lost]),
    )


def _check(verdict: Verdict) -> Check:
    asked_for = verdict.name != "differing"
    return Check(
        name=verdict.name,
        promise="expected by the scenario"
        if asked_for
        else "a result computed again is the same to the byte",
        word="passed" if verdict.held else "failed",
        detail=verdict.text(),
    )
