"""Views: facts as tables of plain text: nodes, tasks, links, events, functions, tables.

A table's columns are given in their order; the number beside each says which go first when the terminal is
narrow. State is always a word: colour only repeats it. Whatever a member wrote (names, reasons, sentences)
loses its control characters here, so that nothing from the mesh speaks to the terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from edge_node.chronicle.entry import Entry
from edge_node.chronicle.narrator import When, duration, sentence
from edge_node.tasks.states import State, Status

VIEWS: Final = ("nodes", "tasks", "links", "events", "functions", "tables")
TEXT_MAX: Final = 400
GAP: Final = 2
"""Columns between two cells."""

GOOD: Final = "good"
WARN: Final = "warn"
BAD: Final = "bad"
DIM: Final = "dim"
_TONES: Final[Mapping[str, str]] = {
    "up": GOOD, "connected": GOOD, "alive": GOOD, "done": GOOD,
    "pending": WARN, "suspect": WARN, "paused": WARN, "draining": WARN, "waiting": WARN, "expired": WARN,
    "down": BAD, "away": BAD, "failed": BAD, "quarantined": BAD, "not connected": BAD, "no answer": BAD,
    "revoked": DIM, "left": DIM, "unseen": DIM, "cancelled": DIM, "quiet": DIM,
}  # fmt: skip


@dataclass(slots=True)
class Facts:
    """The last answers, as they came."""

    status: dict[str, Any] = field(default_factory=dict)
    methods: frozenset[str] = frozenset()
    nodes: list[dict[str, Any]] = field(default_factory=list)
    round_trips: dict[str, float | None] = field(default_factory=dict)  # ms; None: no answer
    tasks: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    functions: list[dict[str, Any]] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    wall_ms: int = 0


@dataclass(frozen=True, slots=True)
class Filter:
    """``state=failed node=pi-1 words``: fields, asked of the gateway for tasks, and words of a row."""

    text: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    words: tuple[str, ...] = ()

    def asked(self) -> dict[str, str]:
        """For tasks: what the gateway itself can tell apart."""
        return {key: value for key, value in self.fields if key != "state" or value in ("open", *Status)}

    def passes(self, row: Row) -> bool:
        found = " ".join(cell.text for cell in row.cells).lower()
        return all(word in found for word in self.words) and all(
            value.lower() in row.fields.get(key, found).lower() for key, value in self.fields
        )


def filter_of(text: str) -> Filter:
    """As a person types it. A state's name alone means that state."""
    fields, words = [], []
    for word in clean(text).split():
        key, equals, value = word.partition("=")
        if equals and key in ("state", "function", "node") and value:
            fields.append((key, value))
        elif word in ("open", *Status, *State):
            fields.append(("state", word))
        else:
            words.append(word.lower())
    return Filter(text.strip(), tuple(dict(fields).items()), tuple(words))


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """*rank*: 0 always stays; the highest goes first. *wide*: takes what is left of the line."""

    name: str
    rank: int = 0
    wide: bool = False
    right: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """*key*: the same row after a refresh. *about*: what `why` is asked of it; empty: nothing."""

    key: str
    cells: tuple[Cell, ...]
    about: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Table:
    title: str
    columns: tuple[Column, ...]
    rows: list[Row]
    empty: str = ""

    def fitted(self, width: int) -> tuple[list[int], list[int]]:
        """(which columns, how wide each) on a line of *width* characters."""
        shown = [
            index
            for index, column in enumerate(self.columns)
            if column.rank == 0 or any(row.cells[index].text for row in self.rows)
        ]
        natural = {
            index: max(len(self.columns[index].name), *(len(row.cells[index].text) for row in self.rows), 1)
            for index in shown
        }
        least = {i: min(natural[i], 16) if self.columns[i].wide else natural[i] for i in shown}
        while len(shown) > 1 and sum(least[i] + GAP for i in shown) > width:
            victim = max(shown, key=lambda i: (self.columns[i].rank, i))
            if self.columns[victim].rank == 0:
                break
            shown.remove(victim)
        left = width - sum(least[i] + GAP for i in shown)
        widths = dict(least)
        for index in shown:
            if self.columns[index].wide and left > 0:
                more = min(natural[index] - least[index], left)
                widths[index] += more
                left -= more
        if left < 0 and shown:  # nothing may go any more: the longest is cut
            longest = max(shown, key=lambda i: widths[i])
            widths[longest] = max(4, widths[longest] + left)
        return shown, [widths[index] for index in shown]


def clean(text: object) -> str:
    """One line without control characters."""
    line = " ".join(str(text).split())
    return "".join(each if each.isprintable() else "?" for each in line[:TEXT_MAX])


def cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def table_of(view: str, facts: Facts, chosen: Filter, when: When) -> Table:
    """*view* is one of ``VIEWS``."""
    table = _BUILDERS[view](facts, when)
    everything = len(table.rows)
    table.rows = [row for row in table.rows if chosen.passes(row)]
    count = f"{len(table.rows)}" if len(table.rows) == everything else f"{len(table.rows)} of {everything}"
    table.title = count
    if chosen.text:
        table.title += f": {clean(chosen.text)}"
        if not table.rows:
            table.empty = "nothing fits the filter; Esc takes it away"
    return table


def _cell(value: object) -> Cell:
    text = clean("" if value is None else value)
    return Cell(text, _TONES.get(text, ""))


def _cells(*values: object) -> tuple[Cell, ...]:
    return tuple(each if isinstance(each, Cell) else _cell(each) for each in values)


def _labels(row: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted((row.get("labels") or {}).items()))


def _age(at_ms: int, wall_ms: int) -> str:
    return duration(max(0, round((wall_ms - at_ms) / 1000)) * 1000) if at_ms else ""


def _round_trip(facts: Facts, node: str) -> Cell:
    if node not in facts.round_trips:
        return Cell("")
    rtt_ms = facts.round_trips[node]
    return Cell("no answer", BAD) if rtt_ms is None else Cell(f"{rtt_ms:.3g} ms")


def _node_state(row: Mapping[str, Any], facts: Facts) -> str:
    if row["status"] != "active":
        return str(row["status"])
    if not row["up"]:
        return "down" if row.get("last_seen_at_ms") else "unseen"
    resting = {"pause": "paused", "drain": "draining"}.get(str(row.get("work")))
    if resting is not None:
        return resting
    return "suspect" if facts.status.get("peers", {}).get(row["id"]) == "suspect" else "up"


_ENDED: Final = frozenset(each.value for each in Status)
_STATE_ORDER: Final = ("pending", "down", "suspect", "unseen", "up", "paused", "draining", "left", "revoked")


def _nodes(facts: Facts, when: When) -> Table:
    versions = facts.status.get("versions") or {}
    rows = []
    for row in facts.nodes:
        name, state = clean(row["id"]), _node_state(row, facts)
        alive = state in ("up", "suspect", "paused", "draining")
        note = row.get("fingerprint") or row.get("reason") or ""
        if row.get("by"):
            note = f"by {row['by']}{f': {note}' if note else ''}"
        seen = (
            "now"
            if row["id"] == facts.status.get("node")
            else _age(row.get("last_seen_at_ms") or row.get("since_at_ms") or 0, facts.wall_ms)
        )
        cells = _cells(
            name,
            state,
            row.get("load", "") if alive else "",
            row.get("workers", "") if alive else "",
            _round_trip(facts, row["id"]) if alive else "",
            versions.get(row["id"], ""),
            seen,
            row.get("restarts") or "",
            note,
            _labels(row),
            ", ".join(row.get("roles") or ()),
            row.get("address", ""),
        )
        about = "" if state == "pending" else name
        rows.append(Row(name, cells, about, {"state": state, "node": name}, row))
    rows.sort(
        key=lambda each: (
            _STATE_ORDER.index(s) if (s := each.fields["state"]) in _STATE_ORDER else 9,
            each.key,
        )
    )
    columns = (
        Column("node"),
        Column("state"),
        Column("load", 1, right=True),
        Column("workers", 4, right=True),
        Column("round trip", 1, right=True),
        Column("version", 5),
        Column("heard", 2, right=True),
        Column("restarts", 6, right=True),
        Column("note", 3, wide=True),
        Column("labels", 7, wide=True),
        Column("roles", 8),
        Column("address", 9),
    )
    return Table("Nodes", columns, rows, "no nodes; let one in: edge-gateway invite")


def _tasks(facts: Facts, when: When) -> Table:
    rows = []
    for row in facts.tasks:
        took = row["settled_at_ms"] - row["accepted_at_ms"] if row["settled_at_ms"] else None
        age = duration(took) if took is not None else _age(row["accepted_at_ms"], facts.wall_ms)
        state = clean(row["state"])
        cells = _cells(
            row["id"],
            row["function"],
            state,
            row["place"],
            Cell(age, DIM if took is not None else ""),
            _second(when(row["accepted_at_ms"])),
        )
        told = "" if state in _ENDED else "open"
        fields = {
            "state": f"{state} {told}".strip(),
            "node": clean(row["place"]),
            "function": clean(row["function"]),
        }
        rows.append(Row(str(row["id"]), cells, str(row["id"]), fields, row))
    columns = (
        Column("task"),
        Column("function", wide=True),
        Column("state"),
        Column("place", 1),
        Column("took", 2, right=True),
        Column("accepted", 3),
    )
    return Table("Tasks", columns, rows, "no tasks were given to this gateway")


def _links(facts: Facts, when: When) -> Table:
    status = facts.status
    if not status:
        return Table("Links", (Column("to"),), [])
    wire, broker, waiting = status["wire"], status["broker"], status["tasks"].get("outbox") or {}
    line = f"{_bytes(wire['bytes_out'])} out, {_bytes(wire['bytes_in'])} in"
    if wire.get("made_anew"):
        line += f", made anew {wire['made_anew']} times"
    cells = _cells(
        "broker",
        "connected" if broker["connected"] else "not connected",
        "",
        "",
        "",
        f"{broker['address']} {line}",
    )
    rows = [Row("broker", cells, "", {"node": "broker", "state": cells[1].text})]
    for name, state in sorted((status.get("peers") or {}).items()):
        outbox = waiting.get(name) or {}
        held = f"{outbox['tasks']} ({_bytes(outbox['bytes'])})" if outbox.get("tasks") else ""
        done = (status["tasks"].get("by_place") or {}).get(name, "")
        note = "followed: every beat is heard" if name in (status.get("following") or ()) else ""
        cells = _cells(name, state, _round_trip(facts, name), held, done, note)
        rows.append(Row(clean(name), cells, clean(name), {"node": clean(name), "state": clean(state)}))
    columns = (
        Column("to"),
        Column("state"),
        Column("round trip", right=True),
        Column("waiting to go", 1, right=True),
        Column("tasks done there", 2, right=True),
        Column("note", 3, wide=True),
    )
    return Table("Links", columns, rows, "no links")


def _events(facts: Facts, when: When) -> Table:
    rows = []
    for each in reversed(facts.events):
        if each.get("missed"):
            rows.append(Row(each["cursor"], _cells("", Cell("… some events were missed here", WARN))))
            continue
        entry = Entry(**{name: each[name] for name in Entry.__struct_fields__ if name in each})
        text = clean(sentence(entry, "", when))
        about = clean(entry.id if entry.subject != "tables" else entry.cause or entry.id)
        fields = {"node": clean(entry.node), "state": clean(entry.what)}
        rows.append(Row(each["cursor"], _cells(_second(when(entry.at_ms)), Cell(text)), about, fields, each))
    return Table("Events", (Column("at"), Column("what happened", wide=True)), rows, "nothing was noted yet")


def _functions(facts: Facts, when: When) -> Table:
    rows = []
    for row in facts.functions:
        limits = f"{row['timeout_s']:g} s, {row['memory_mb']} MB"
        needs = " ".join([*row.get("requires", ()), *_labels(row).split()])
        cells = _cells(
            row["name"],
            row["version"],
            str(row["digest"])[:12],
            _second(when(row["issued_at_ms"])),
            limits,
            needs,
            row.get("doc", ""),
        )
        name = clean(row["name"])
        rows.append(Row(name, cells, name, {"function": name}, row))
    columns = (
        Column("function"),
        Column("version", right=True),
        Column("digest", 3),
        Column("since", 2),
        Column("limits", 4),
        Column("needs", 5),
        Column("what it does", 1, wide=True),
    )
    return Table("Functions", columns, rows, "no functions; publish some: edge-gateway deploy FILE")


def _tables(facts: Facts, when: When) -> Table:
    rows = []
    for row in sorted(facts.tables, key=lambda each: (each["name"], each["kind"])):
        conflicts = row.get("conflicts") or 0
        cells = _cells(
            row["name"],
            row["kind"],
            row["count"],
            Cell(str(conflicts), BAD if conflicts else ""),
            row.get("key") or "",
            ", ".join(row.get("writers") or ()) or "everybody",
        )
        rows.append(Row(f"{row['name']} {row['kind']}", cells, clean(row["name"]), {}, row))
    columns = (
        Column("table"),
        Column("kind"),
        Column("holds", right=True),
        Column("conflicts", right=True),
        Column("key", 2),
        Column("writers", 1, wide=True),
    )
    return Table("Tables", columns, rows, "no tables are stored")


def _second(text: str) -> str:
    """A moment without its milliseconds."""
    head, dot, tail = text.rpartition(".")
    return head if dot and tail.isdigit() else text


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


_BUILDERS: Final[Mapping[str, Callable[[Facts, When], Table]]] = {
    "nodes": _nodes,
    "tasks": _tasks,
    "links": _links,
    "events": _events,
    "functions": _functions,
    "tables": _tables,
}
