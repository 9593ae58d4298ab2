"""Placement: where the last tasks ran and why, what was reckoned for them, and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final

from gateway.console import words
from gateway.console.matrix import Matrix
from gateway.console.pages.why import once
from gateway.console.parts import PALETTE, Stat, card, chart, el, hint
from gateway.console.table import Column, Grid
from gateway.console.view import View, heading, page, part, to

EVERY_S: Final = 5.0
ROWS: Final = 20
NOTED: Final = 500
"""Notes looked through for refusals at the door: as many as one page of the API has."""
SERIES_MAX: Final = 6
"""Nodes with a colour of their own in the scatter; the rest share one."""
DECISIONS: Final = (
    Column("task", "Task"),
    Column("function", "Function"),
    Column("place", "Ran on"),
    Column("rule", "Because"),
    Column("reckoned", "Reckoned", end=True),
    Column("took", "Took", end=True),
    Column("off", "Off by", end=True, hide_narrow=True),
    Column("others", "Instead of", hide_narrow=True),
)
REFUSALS: Final = (Column("reason", "Reason"), Column("place", "Node"), Column("count", "Times", end=True))


@page("/placement", title="Placement", section="placement")
async def placement(view: View) -> None:
    heading("Placement", under="Where the last 200 tasks that this gateway accepted ran, and why")
    with el("div", cls="stats"):
        looked = Stat("Tasks looked at", href=to("/tasks"))
        away = Stat("Ran elsewhere")
        weighed = Stat("Had a choice")
        error = Stat("Estimate off by")
    with card("Function by node"):
        hint("Each row adds up to 100 %: the share of its runs, and the median time of one. "
             "A node with a time and no share is known from earlier.")  # fmt: skip
        matrix = Matrix("Runs by function and node", "Nothing has run yet: submit a task.")
    with el("div", cls="cols cols--wide"):
        with card("Reckoned against what it took"):
            scatter = chart(scatter_of([]), label="Estimate against what it took, by task", height="20rem")
            said = el("p", "", "muted small")
        with card("Refused and lost"):
            refusals = Grid("Refused and lost, by reason", REFUSALS, empty="None: every offer was taken.")
    with card("The last decisions"):
        decisions = Grid("The last decisions", DECISIONS, empty="Nothing has run yet: submit a task.")

    last: dict[str, Any] = {}

    async def refresh() -> None:
        if last and not view.client.has_socket_connection:
            return
        told = await view.api.get("/v1/placement")
        if last and all(last[each] == told[each] for each in ("decisions", "cells", "refusals")):
            return
        last.update(told)
        all_ = told["decisions"]
        choices = [each for each in all_ if len(each["reckoned"]) > 1]
        looked.tell(words.count(len(all_)), "the newest")
        elsewhere = sum(1 for each in all_ if each["place"] != "gateway")
        away.tell(words.share(elsewhere / len(all_) if all_ else None), words.count(elsewhere, "task"))
        weighed.tell(
            words.share(len(choices) / len(all_) if all_ else None), words.count(len(choices), "task")
        )
        error.tell(*error_of(all_))
        matrix.tell(matrix_of(told["cells"]))
        noted = await view.api.get("/v1/events/page", limit=NOTED)
        refusals.tell([*(_refusal(each) for each in told["refusals"]), *at_the_door(noted["events"])])
        decisions.tell([row(each) for each in all_[:ROWS]])
        points = scatter_of(all_)
        scatter.options.update(series=points["series"], legend=points["legend"])
        scatter.update()
        said.text = told_of(all_)

    once(view, refresh)
    view.every(EVERY_S, refresh)


def compared(decisions: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], float, float]]:
    """(decision, reckoned ms, took ms) where both are known: placed once, by figures."""
    return [
        (each, float(each["reckoned"][0]["whole_ms"]), float(each["whole_ms"]))
        for each in decisions
        if each["reckoned"] and each["attempts"] == 1
    ]


def error_of(decisions: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The median of how far estimates were off, and of how many."""
    off = [abs(took - reckoned) for _, reckoned, took in compared(decisions)]
    if not off:
        return "–", "nothing to compare yet"
    return words.duration(median(off) / 1000), f"median of {words.count(len(off), 'task')}"


def told_of(decisions: Sequence[Mapping[str, Any]]) -> str:
    """The scatter in words."""
    pairs = compared(decisions)
    if not pairs:
        return "Nothing to compare yet: figures are written where there was more than one place to go to."
    late = sum(1 for _, reckoned, took in pairs if took > reckoned)
    return (
        f"{words.count(len(pairs), 'task')} compared: {words.count(late)} took longer than reckoned, "
        f"{words.count(len(pairs) - late)} did not. On the line, both are the same."
    )


def scatter_of(decisions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Options of the chart: x reckoned, y took, both in ms and logarithmic; one colour a node."""
    pairs = [(each, max(0.1, a), max(0.1, b)) for each, a, b in compared(decisions)]
    nodes = sorted({str(each["place"]) for each, _, _ in pairs})
    shown = nodes[:SERIES_MAX]
    series: list[dict[str, Any]] = [
        {
            "name": name,
            "type": "scatter",
            "symbolSize": 8,
            "itemStyle": {"color": PALETTE[index], "opacity": 0.75},
            "data": [[round(a, 2), round(b, 2)] for each, a, b in pairs if each["place"] == name],
        }
        for index, name in enumerate(shown)
    ]
    rest = [[round(a, 2), round(b, 2)] for each, a, b in pairs if each["place"] not in shown]
    if rest:
        grey = {"color": "var(--muted)", "opacity": 0.6}
        series.append({"name": "others", "type": "scatter", "symbolSize": 7, "itemStyle": grey, "data": rest})
    ends = [value for _, a, b in pairs for value in (a, b)] or [1.0, 100.0]
    series.append(
        {
            "name": "as reckoned", "type": "line", "showSymbol": False, "silent": True,
            "lineStyle": {"color": "var(--line-strong)", "type": "dashed", "width": 1},
            "data": [[min(ends), min(ends)], [max(ends), max(ends)]],
        }
    )  # fmt: skip
    log = {"type": "log", "nameLocation": "middle"}
    return {
        "grid": {"left": 24, "right": 36, "top": 34, "bottom": 24, "containLabel": True},
        "legend": {
            "top": 0,
            "itemGap": 24,
            "textStyle": {"color": "var(--muted)", "fontFamily": "sans-serif", "fontSize": 12},
            "data": [*shown, *(["others"] if rest else [])],
        },
        "tooltip": {"trigger": "item"},
        "xAxis": {**log, "name": "reckoned (ms)", "nameGap": 26},
        "yAxis": {**log, "name": "took (ms)", "nameGap": 52},
        "series": series,
    }  # fmt: skip


def matrix_of(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Functions as rows, nodes as columns; the gateway first."""
    nodes = sorted({str(each["place"]) for each in cells}, key=lambda name: (name != "gateway", name))
    by = {(str(each["function"]), str(each["place"])): each for each in cells}
    runs: dict[str, int] = {}
    for each in cells:
        runs[str(each["function"])] = runs.get(str(each["function"]), 0) + int(each["runs"])
    functions = sorted(runs, key=lambda name: (-runs[name], name))
    return {
        "columns": [{"name": name, "href": to(f"/nodes/{part(name)}")} for name in nodes],
        "rows": [
            {
                "name": name,
                "href": to(f"/functions/{part(name)}"),
                "runs": words.count(runs[name], "run"),
                "cells": [_cell(by.get((name, node))) for node in nodes],
            }
            for name in functions
        ],
    }


def _cell(cell: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if cell is None:
        return None
    ms = cell["run_ms"] if cell["run_ms"] is not None else cell["learned_ms"]
    learned = cell["learned_ms"]
    title = f"{words.count(cell['runs'], 'run')} lately"
    if learned is not None:
        title += (
            f"; expected {words.duration(learned / 1000)} ± {words.duration(cell['learned_dev_ms'] / 1000)}, "
            f"from {words.count(cell['learned_runs'], 'run')}"
        )
    return {
        "share": round(float(cell["share"]), 4),
        "text": words.share(cell["share"]) if cell["runs"] else "",
        "time": words.duration(None if ms is None else ms / 1000),
        "title": title,
    }


def row(decision: Mapping[str, Any]) -> dict[str, Any]:
    """A decision as the table shows it."""
    weighed, task = decision["reckoned"], str(decision["task"])
    place, function = str(decision["place"]), str(decision["function"])
    took_s = decision["whole_ms"] / 1000
    reckoned_s = weighed[0]["whole_ms"] / 1000 if weighed else None
    off = None if reckoned_s is None or decision["attempts"] > 1 else took_s - reckoned_s
    again = f", attempt {decision['attempts']}" if decision["attempts"] > 1 else ""
    return {
        "key": task,
        "task": {"text": task[:10] + "…", "href": to(f"/tasks/{part(task)}")},
        "function": {"text": function, "href": to(f"/functions/{part(function)}")},
        "place": {"text": place, "href": to(f"/nodes/{part(place)}")},
        "rule": f"{decision['rule']}{again}",
        "reckoned": words.duration(reckoned_s),
        "took": words.duration(took_s),
        "off": signed(off),
        "others": ", ".join(
            f"{each['place']} {words.duration(each['whole_ms'] / 1000)}" for each in weighed[1:]
        ),
    }  # fmt: skip


def signed(seconds: float | None) -> str:
    """``+3 ms``: it took longer."""
    if seconds is None:
        return "–"
    return ("+" if seconds > 0 else "−" if seconds < 0 else "") + words.duration(abs(seconds))


def at_the_door(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Work that was not accepted at all, by reason, of the newest notes."""
    reasons = Counter(
        str(each["details"].get("reason", "?")) for each in events if each["subject"] == "refusal"
    )
    door = {"text": "at the door", "href": to("/events", kinds="refusal")}
    return [
        {"key": f"door {reason}", "reason": reason, "place": door, "count": count}
        for reason, count in sorted(reasons.items(), key=lambda each: (-each[1], each[0]))
    ]


def _refusal(each: Mapping[str, Any]) -> dict[str, Any]:
    place = str(each["place"])
    return {
        "key": f"{each['reason']} {place}",
        "reason": each["reason"],
        "place": {"text": place, "href": to(f"/nodes/{part(place)}")},
        "count": each["count"],
    }


PAGES = (placement,)
