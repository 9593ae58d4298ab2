"""A report as tables for people.

In: the report's facts and the rows of its tasks. Out: (heads, rows of cells, columns of words).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from device_sim.report.account import PLACES
from device_sim.report.figures import percentile

Row = Mapping[str, Any]
Table = tuple[list[str], list[list[str]], int]


def tables(facts: Mapping[str, Any], tasks: Sequence[Row]) -> Iterator[Table]:
    """By function, by node, by fault."""
    yield by_function(tasks)
    yield by_node(facts["nodes"], tasks)
    if facts["faults"]:
        yield by_fault(facts["faults"])


def by_function(tasks: Sequence[Row]) -> Table:
    functions: dict[str, list[Row]] = {}
    for task in tasks:
        functions.setdefault(task["function"], []).append(task)
    body = []
    for name, some in [*sorted(functions.items()), ("all", list(tasks))]:
        done = [task for task in some if task["status"] == "done"]
        body.append(
            [
                name,
                str(len(some)),
                str(len(done)),
                *(str(sum(task["place"] == place for task in done)) for place in PLACES),
                *_latencies(done),
            ]
        )
    return ["function", "accepted", "completed", *PLACES, "p50", "p99"], body, 1


def by_node(nodes: Sequence[Mapping[str, Any]], tasks: Sequence[Row]) -> Table:
    """Of what a node accepted: what ran there and what it handed on; and what it ran for others."""
    body = []
    for node in nodes:
        name = node["id"]
        own = [task for task in tasks if task["origin"] == name]
        done = [task for task in own if task["status"] == "done"]
        ran = [task for task in tasks if task["status"] == "done" and task["ran_at"] == name]
        here = sum(task["origin"] == name for task in ran)
        body.append(
            [
                name,
                "1" if node["slowdown"] == 1 else f"1/{node['slowdown']:g}",
                str(len(own)),
                str(here),
                str(len(done) - here),
                str(len(ran) - here),
                *_latencies(done),
                str(len(node["pids"])),
            ]
        )
    heads = ["node", "speed", "accepted", "here", "handed on", "for others", "p50", "p99", "lives"]
    return heads, body, 1


def by_fault(faults: Sequence[Mapping[str, Any]]) -> Table:
    body = [[f"{fault['at_s']:.1f} s", fault["do"], fault["node"], _followed(fault)] for fault in faults]
    return ["at", "fault", "node", "what followed"], body, 4


def _followed(fault: Mapping[str, Any]) -> str:
    match fault["do"]:
        case "kill":
            if fault["kill_to_replacement_s"] is None:
                return f"{fault['open']} promises open; no task had to be placed anew"
            parts = [
                f"{fault[key]:.2f} s {words}"
                for key, words in (
                    ("leased_replaced_s", "to the first of others' tasks elsewhere"),
                    ("own_resumed_s", "to the first of its own"),
                )
                if fault[key] is not None
            ]
            return f"{fault['open']} promises open; " + ", ".join(parts)
        case "revoke":
            own = "ended" if fault["through"].startswith("ended") else fault["through"]
            return (
                f"cut off after {fault['revoked_cut_s']:.2f} s "
                f"(connection {fault['connection_cut_s']:.2f} s, "
                f"tasks for it refused {fault['refused_s']:.2f} s); its own daemon: {own}"
            )
        case "restart" | "restart-gateway":
            return f"ready after {fault['ready_s']:.2f} s"
    return f"process {fault['pid']}"


def _latencies(tasks: Sequence[Row]) -> tuple[str, str]:
    found = sorted(task["latency_ms"] for task in tasks if task["latency_ms"] is not None)
    if not found:
        return "", ""
    return f"{percentile(found, 0.5):,.1f} ms", f"{percentile(found, 0.99):,.0f} ms"
