"""What each picture shows, said in a sentence that is computed from the record.

A title says what is seen, an alternative text the key figures for whoever sees no picture, a caption how it
was drawn (what was put together, what was left out). Not here: drawing (``charts``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from device_sim.report.histogram import ERROR, merged, percentile
from device_sim.report.quantities import (
    THIN,
    counted,
    milliseconds,
    number,
    octets,
    percent,
    quantity,
    seconds,
)
from device_sim.report.record import Edge, Record

GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Caption:
    """Of one picture."""

    name: str  # of its file, without the ending
    title: str
    alt: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A caption and what it is of; `png` is empty where there is nothing to see."""

    caption: Caption
    png: bytes


def latency(record: Record) -> Caption:
    total = sum(count for bins in record.latencies_ms.values() for _, count in bins)
    if not total:
        return Caption("latency", "No task was completed, so there are no latencies", "")
    bins = merged(record.latencies_ms.values())
    p99 = record.figures.get("p99_ms", percentile(bins, 0.99) or 0.0)
    parts = []
    for name, some in record.latencies_ms.items():
        p50, p95, last = (milliseconds(percentile(some, share) or 0.0) for share in (0.5, 0.95, 0.99))
        some_count = counted(sum(count for _, count in some), "task")
        parts.append(f"{name}: {some_count}, p50 {p50}, p95 {p95}, p99 {last}")
    return Caption(
        "latency",
        f"99{THIN}% of {counted(total, 'completed task')} ended within {milliseconds(p99)}"
        if total > 1
        else f"The one completed task ended within {milliseconds(p99)}",
        "Histograms of latency on a logarithmic axis. " + "; ".join(parts[:12]) + ".",
        f"Bins grow by a tenth; percentiles are told to within {percent(ERROR)}.",
    )


def load(record: Record, bands: int, together: int) -> Caption:
    """Args: bands: rows that are drawn.   together: intervals that are drawn as one."""
    means = {
        node: sum(here) / len(here)
        for node, shares in zip(record.load.nodes, record.load.shares, strict=True)
        if (here := [share for share in shares if share >= 0])
    }
    if not means:
        return Caption("load", "No node was there, so there is no load", "")
    busiest = max(means, key=lambda node: (means[node], node))
    overall = sum(means.values()) / len(means)
    away = sum(any(share < 0 for share in shares) for shares in record.load.shares)
    nodes = len(record.load.nodes)
    if overall == 0:
        title = "No worker was ever busy"
    elif len(means) == 1:
        title = f"The workers of {busiest} were busy {percent(overall)} of the time"
    else:
        title = (
            f"Workers were busy {percent(overall)} of the time; most of all at {busiest}: "
            f"{percent(means[busiest])}"
        )
    alt = (
        f"Heat map of load: {counted(nodes, 'node')} by {counted(len(record.load.shares[0]), 'interval')} of "
        f"{seconds(record.load.interval_s)}. Mean {percent(overall)}, most {percent(means[busiest])} at "
        f"{busiest}. {counted(away, 'node')} away at times."
    )
    per_band = (
        f" {number(nodes)} nodes in {number(bands)} bands, each the mean of up to {-(-nodes // bands)}."
    )
    interval = f"Intervals of {seconds(record.load.interval_s * together)}."
    return Caption("load", title, alt, interval + (per_band if bands < nodes else ""))


def messages(record: Record) -> Caption:
    count = sum(each.count for each in record.messages)
    if not count:
        return Caption("messages", "Messages were not counted by kind", "")
    size = sum(each.bytes for each in record.messages)
    done = record.figures.get("completed", 0)
    most = max(record.messages, key=lambda each: (each.count, each.kind))
    title = f"{counted(count, 'message')} ({octets(size)}) crossed the broker"
    if done:
        title += f", {number(count / done)} for each completed task"
    title += f"; {percent(most.count / count)} were {most.kind}"
    kinds = "; ".join(
        f"{each.kind}: {counted(each.count, 'message')}, {octets(each.bytes)}"
        for each in sorted(record.messages, key=lambda each: -each.count)
    )
    both = record.figures.get("bytes_per_node_minute")
    note = "As published; a message that many read is counted once."
    if both is not None:
        note += f" Sent and received: {quantity(both, 'B')} a node and minute."
    return Caption("messages", title, f"Bars by kind of message. {kinds}.", note)


def faults(record: Record) -> Caption:
    struck = record.faults
    done = sum(record.rates.completed)
    accepted = sum(record.rates.accepted)
    if not struck and not accepted:
        return Caption("faults", "Nothing was struck, and nothing was asked for", "")
    tasks = (
        f"{number(done)} of {counted(accepted, 'accepted task')} {'was' if done == 1 else 'were'} completed"
    )
    title = f"{counted(len(struck), 'fault') if struck else 'No fault'} struck while {tasks}"
    lanes: dict[str, int] = {}
    for each in struck:
        lanes[each.do] = lanes.get(each.do, 0) + 1
    told = ", ".join(
        f"{do} {count} times" if count > 1 else f"{do} once" for do, count in sorted(lanes.items())
    )
    peak = max(record.rates.completed, default=0) / record.rates.interval_s
    alt = f"Timeline of faults: {told or 'none'}. Completed tasks a second: at most {number(peak)}."
    return Caption(
        "faults", title, alt, "Marks are moments, bars last until the fault was ended." if struck else ""
    )


def mesh(record: Record, *, by_class: bool, left_out: int) -> Caption:
    """Args: left_out: pairs too light to be drawn."""
    total = sum(edge.tasks for edge in record.edges)
    if not total:
        return Caption("mesh", "Nobody ran anybody's work", "")
    here, gateway, others = shares(record, record.edges)
    title = f"{percent(here)} of the completed tasks ran where they were asked for"
    if here < 1:
        title += f", {percent(others)} at other nodes, {percent(gateway)} at the gateway"
    heaviest = sorted(
        (edge for edge in record.edges if edge.owner != edge.place),
        key=lambda edge: (-edge.tasks, edge.owner, edge.place),
    )[:5]
    pairs = "; ".join(f"{edge.place} ran {counted(edge.tasks, 'task')} of {edge.owner}" for edge in heaviest)
    nodes = counted(len(record.nodes), "node")
    alt = f"Graph of who ran whose tasks, {nodes}. {pairs or 'Nothing was handed on'}."
    note = "An arrow goes from whom a task was asked of to who ran it."
    if by_class:
        note += f" {number(len(record.nodes))} nodes, put together by class."
    if left_out:
        note += f" {counted(left_out, 'lighter arrow')} left out."
    return Caption("mesh", title, alt, note)


def shares(record: Record, edges: Sequence[Edge]) -> tuple[float, float, float]:
    """(at the owner, at the gateway, at others) of all tasks.

    Where a record tells pairs by class, its figures know what ran at the owner itself.
    """
    total = sum(edge.tasks for edge in edges)
    gateway = sum(edge.tasks for edge in edges if edge.place == GATEWAY != edge.owner)
    if "peers" in record.figures and record.figures.get("completed") == total:
        others = round(record.figures["peers"])
    else:
        others = sum(edge.tasks for edge in edges if edge.place not in (edge.owner, GATEWAY))
    return (total - gateway - others) / total, gateway / total, others / total
