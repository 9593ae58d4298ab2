"""The figures of a run, gathered while it runs, in memory that does not grow with it.

    Asked ─► Answered ─► Ran ─► Told        one entry for each open task, until its client hears the end
                          │       └────►    histogram by function, (owner, place) edges, rates
                          └────────────►    busy nanoseconds by node and interval
    Framed, Reached ───────────────────►    count and bytes by kind
    Crashed, Started, Happened ────────►    who was away, what was struck and until when

In: the events of ``virtual.evidence``. Out: ``Parts`` of a ``Record``. Load and rates are kept in at most
COLUMNS_MAX intervals, each twice as long when that no longer suffices. Not here: whether promises were kept
(``virtual.checkers``), the manifest, the checks.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from device_sim.report.account import PLACES, place_of
from device_sim.report.histogram import ERROR, Histogram
from device_sim.report.record import Edge, Load, Messages, Node, Rates, Struck
from device_sim.virtual.evidence import (
    ENDED,
    HEAL,
    NO_CLOCK,
    Answered,
    Asked,
    Crashed,
    End,
    Event,
    Framed,
    Happened,
    Ran,
    Reached,
    Started,
    Told,
)
from edge_node.transport.channel import CONTROL

SECOND: Final = 1_000_000_000
COLUMNS_MAX: Final = 600
"""Intervals of load; more would be narrower than a pixel."""
CELLS_MAX: Final = 600_000
"""Nodes by intervals: ten thousand nodes have sixty intervals each, and a record of four megabytes."""
COLUMNS_LEAST: Final = 60
ENDED_MAX: Final = 65_536
"""Tasks that are remembered after their end, to tell a late second run; older ones are not told any more."""
EDGES_MAX: Final = 20_000
"""Pairs of nodes; beyond it they are told by class, as nobody could read them."""
STRUCK_MAX: Final = 5_000
"""Faults told one by one; all are counted."""
_ENDS: Final[Mapping[str, tuple[str, ...]]] = {
    "resume": ("pause",),
    "restart": ("kill", "power-cut", "pause"),
    "restart-gateway": ("kill-gateway", "power-cut-gateway"),
    "heal-partition": ("partition",),
    "disk-free": ("disk-full",),
}
"""Verbs that end others at the same node."""
_MOMENTS: Final = frozenset(
    ("restart", "restart-gateway", "revoke", "clock-step", "disk-error", "disk-flip", "kill-worker",
     "crash-at", "restore-tables", "battery-empty")
)  # fmt: skip
"""What has no end that could be told: over at once, or for good."""
_KINDS: Final[Mapping[str, str]] = {"d": "direct", "p": "presence", "g": "group", "roster": "roster"}
_SHARES: Final = [round(hundredth / 100, 2) for hundredth in range(101)]  # one object each, not a million


@dataclass(slots=True)
class Parts:
    """What a record holds of the events of a run; whoever makes the record adds manifest and checks."""

    figures: dict[str, float]
    latencies_ms: dict[str, list[tuple[float, int]]]
    load: Load
    rates: Rates
    messages: list[Messages]
    faults: list[Struck]
    nodes: list[Node]
    edges: list[Edge]
    notes: list[str] = field(default_factory=list)


class _Task:
    __slots__ = ("accepted", "asked_ns", "function", "node", "runs")

    def __init__(self, asked_ns: int, node: str, function: str) -> None:
        self.asked_ns = asked_ns
        self.node = node
        self.function = function
        self.accepted = False
        self.runs = 0


class Collector:
    """Args: nodes: class by id, the gateway too if it works.   workers: by id, 1 if not named.
    duration_ns: how long the run is meant to take; it may take longer.
    begin_ns: when the record's time is 0. What comes before it is counted, and not seen over time."""

    def __init__(
        self, nodes: Mapping[str, str], workers: Mapping[str, int], duration_ns: int, *, begin_ns: int = 0
    ) -> None:
        self._begin_ns = begin_ns
        self._nodes = dict(nodes)
        self._workers = {node: max(1, workers.get(node, 1)) for node in self._nodes}
        self._columns_max = max(COLUMNS_LEAST, min(COLUMNS_MAX, CELLS_MAX // max(1, len(self._nodes))))
        self._interval_ns = SECOND // 10
        while -(-duration_ns // self._interval_ns) > self._columns_max:
            self._interval_ns *= 2
        self._busy = {node: array("q") for node in self._nodes}
        self._gone = {node: array("q") for node in self._nodes}
        self._accepted_rate = array("q")
        self._completed_rate = array("q")
        self._open: dict[str, _Task] = {}
        self._ended: dict[str, int] = {}  # runs by task, oldest end first
        self._away: dict[str, int] = {}  # since when
        self._seen: set[str] = set()  # nodes that have started or crashed before
        self._ran = dict.fromkeys(self._nodes, 0)
        self._accepted = dict.fromkeys(self._nodes, 0)
        self._latencies: dict[str, Histogram] = {}
        self._all = Histogram()
        self._edges: dict[tuple[str, str], int] = {}
        self._class_edges: dict[tuple[str, str], int] = {}
        self._kinds: dict[str, list[int]] = {}
        self._counts = dict.fromkeys(
            ("asked", "accepted", "refused", "completed", "failed", "expired", "duplicates", "crashes"), 0
        )
        self._places = dict.fromkeys(PLACES, 0)
        self._deliveries = self._delivered_bytes = 0
        self._spans = Spans()
        self._saw: dict[type[Any], Callable[[Any], None]] = {
            Asked: self._asked,
            Answered: self._answered,
            Told: self._told,
            Ran: self._ran_there,
            Framed: self._framed,
            Reached: self._reached,
            Crashed: self._crashed,
            Started: self._started,
            Happened: self._happened,
        }

    @property
    def counts(self) -> Mapping[str, int]:
        """So far, for whoever watches: asked, accepted, completed, …"""
        return self._counts

    @property
    def open_tasks(self) -> int:
        """Asked, and not at an end yet."""
        return len(self._open)

    def saw(self, event: Event) -> None:
        """Events come in the order of their time; what is not counted is passed over."""
        handler = self._saw.get(type(event))
        if handler is not None:
            handler(event)

    # ── doors ─────────────────────────────────────────────────────────────────────────────────────

    def _asked(self, event: Asked) -> None:
        if event.task not in self._open and event.task not in self._ended:  # asked again: the same task
            self._open[event.task] = _Task(event.at_ns, event.node, event.function)
            self._counts["asked"] += 1

    def _answered(self, event: Answered) -> None:
        task = self._open.get(event.task)
        if task is None or task.accepted:
            return
        if event.accepted:
            self._accept(event.at_ns, task)
        else:
            self._counts["refused"] += 1
            del self._open[event.task]

    def _accept(self, at_ns: int, task: _Task) -> None:
        task.accepted = True
        self._counts["accepted"] += 1
        self._accepted[task.node] = self._accepted.get(task.node, 0) + 1
        self._add(self._accepted_rate, self._since(at_ns), 1)

    def _told(self, event: Told) -> None:
        task = self._open.pop(event.task, None)
        if task is None:
            return  # told before
        if not task.accepted:  # a crash swallowed the yes; the task was on the disk
            self._accept(event.at_ns, task)
        self._remember(event.task, task.runs)
        if event.status != "done":
            self._counts["expired" if event.status == "expired" else "failed"] += 1
            return
        self._counts["completed"] += 1
        self._add(self._completed_rate, self._since(event.at_ns), 1)
        self._places[place_of(event.place, task.node)] += 1
        took_ns = event.at_ns - task.asked_ns
        self._all.add(took_ns)
        histogram = self._latencies.get(task.function)
        if histogram is None:
            histogram = self._latencies[task.function] = Histogram()
        histogram.add(took_ns)
        self._edge(task.node, task.node if event.place == "local" else event.place)

    def _remember(self, task: str, runs: int) -> None:
        self._ended[task] = runs
        if len(self._ended) > ENDED_MAX:
            del self._ended[next(iter(self._ended))]

    def _edge(self, owner: str, place: str) -> None:
        classes = self._nodes.get(owner, owner), self._nodes.get(place, place)
        self._class_edges[classes] = self._class_edges.get(classes, 0) + 1
        pair = owner, place
        if pair in self._edges or len(self._edges) <= EDGES_MAX:
            self._edges[pair] = self._edges.get(pair, 0) + 1

    # ── boards ────────────────────────────────────────────────────────────────────────────────────

    def _ran_there(self, event: Ran) -> None:
        busy = self._busy.get(event.node)
        if busy is not None:
            self._add_span(busy, event.started_ns, event.at_ns)
        if event.status != "done":
            return
        self._ran[event.node] = self._ran.get(event.node, 0) + 1
        task = self._open.get(event.task)
        if task is not None:
            task.runs += 1
            runs = task.runs
        elif event.task in self._ended:
            self._ended[event.task] += 1
            runs = self._ended[event.task]
        else:
            return
        self._counts["duplicates"] += runs > 1

    def _crashed(self, event: Crashed) -> None:
        self._counts["crashes"] += event.how != "stop"
        self._seen.add(event.node)
        self._away.setdefault(event.node, event.at_ns)

    def _started(self, event: Started) -> None:
        since = self._away.pop(event.node, None)
        if since is None and event.node not in self._seen:
            since = 0  # it joined now
        self._seen.add(event.node)
        gone = self._gone.get(event.node)
        if since is not None and gone is not None:
            self._add_span(gone, since, event.at_ns)

    # ── wires ─────────────────────────────────────────────────────────────────────────────────────

    def _framed(self, event: Framed) -> None:
        topic, payload = event.topic, event.payload
        kind = _KINDS.get(topic.split("/", 4)[3], "other") if topic.startswith("ew/") else "other"
        if kind == "direct" and payload and payload[0] == CONTROL:
            kind = "handshake"
        counted = self._kinds.get(kind)
        if counted is None:
            counted = self._kinds[kind] = [0, 0]
        counted[0] += 1
        counted[1] += len(payload) + len(topic)

    def _reached(self, event: Reached) -> None:
        self._deliveries += 1
        self._delivered_bytes += len(event.payload) + len(event.topic)

    # ── people ────────────────────────────────────────────────────────────────────────────────────

    def _happened(self, event: Happened) -> None:
        if event.do != NO_CLOCK:
            self._spans.saw(self._since(event.at_ns), event.do, event.node, ended=event.detail == ENDED)

    # ── columns ───────────────────────────────────────────────────────────────────────────────────

    def _since(self, at_ns: int) -> int:
        """The record's time of a moment of the run."""
        return max(0, at_ns - self._begin_ns)

    def _column(self, at_ns: int) -> int:
        while at_ns // self._interval_ns >= self._columns_max:
            self._interval_ns *= 2
            for columns in (
                *self._busy.values(), *self._gone.values(), self._accepted_rate, self._completed_rate
            ):  # fmt: skip
                _fold(columns)
        return at_ns // self._interval_ns

    def _add(self, columns: array[int], at_ns: int, amount: int) -> None:
        column = self._column(at_ns)
        if column >= len(columns):
            columns.extend([0] * (column + 1 - len(columns)))
        columns[column] += amount

    def _add_span(self, columns: array[int], from_ns: int, to_ns: int) -> None:
        from_ns, to_ns = self._since(from_ns), self._since(to_ns)
        self._column(to_ns)  # first, as it may fold
        while from_ns < to_ns:
            until_ns = min(to_ns, (from_ns // self._interval_ns + 1) * self._interval_ns)
            self._add(columns, from_ns, until_ns - from_ns)
            from_ns = until_ns

    # ── the end ───────────────────────────────────────────────────────────────────────────────────

    def finish(self, at_ns: int, end: End | None = None) -> Parts:
        """Once, at the end of the run.

        Args: end: what the disks hold; without it nothing is known about what is lost, and no figure of
            that name is told.
        """
        for node in sorted(self._away):
            gone = self._gone.get(node)
            if gone is not None:
                self._add_span(gone, self._away[node], at_ns)
        at_ns = self._since(at_ns)
        length = max(1, -(-at_ns // self._interval_ns)) if at_ns else 0
        interval_s = self._interval_ns / SECOND
        notes = [
            f"percentiles are read off bins that grow by a tenth: to within {100 * ERROR:.1f} %",
        ]
        by_class = len(self._edges) > EDGES_MAX
        if by_class:
            notes.append(f"more than {EDGES_MAX:,} pairs of nodes worked together: they are told by class")
        if self._spans.dropped:
            notes.append(f"{self._spans.dropped} faults beyond the first {STRUCK_MAX:,} are only counted")
        edges = self._class_edges if by_class else self._edges
        return Parts(
            figures=self._figures(at_ns, end),
            latencies_ms={name: self._latencies[name].bins for name in sorted(self._latencies)},
            load=Load(
                interval_s=interval_s,
                nodes=list(self._nodes),
                shares=[self._shares(node, length, at_ns) for node in self._nodes],
            ),
            rates=Rates(
                interval_s=interval_s,
                accepted=_padded(self._accepted_rate, length),
                completed=_padded(self._completed_rate, length),
            ),
            messages=[
                Messages(kind=kind, count=count, bytes=size)
                for kind, (count, size) in sorted(self._kinds.items())
            ],
            faults=self._spans.struck(),
            nodes=[
                Node(
                    id=node, cls=cls, up=node not in self._away, ran=self._ran[node],
                    accepted=self._accepted[node],
                )
                for node, cls in self._nodes.items()
            ],
            edges=[Edge(owner=owner, place=place, tasks=n) for (owner, place), n in sorted(edges.items())],
            notes=notes,
        )  # fmt: skip

    def _shares(self, node: str, length: int, at_ns: int) -> list[float]:
        """Of each interval; -1: away for more than half of it."""
        busy, gone, workers = self._busy[node], self._gone[node], self._workers[node]
        found = []
        for column in range(length):
            long_ns = min(self._interval_ns, at_ns - column * self._interval_ns)
            if column < len(gone) and gone[column] * 2 > long_ns:
                found.append(-1.0)
                continue
            busy_ns = busy[column] if column < len(busy) else 0
            found.append(_SHARES[min(100, (busy_ns * 100 + long_ns * workers // 2) // (long_ns * workers))])
        return found

    def _figures(self, at_ns: int, end: End | None) -> dict[str, float]:
        figures: dict[str, float] = {**self._counts}
        accepted = [(name, task.node) for name, task in self._open.items() if task.accepted]
        figures["open"] = len(accepted)
        if end is not None:
            owners = sorted({node for _, node in accepted})
            kept = {node: {row.task for row in end.ledgers.get(node, ())} for node in owners}
            unread = {node for node in end.gone if node not in end.ledgers}  # its disk went with it
            lost = {name for name, node in accepted if name not in kept[node] and node not in unread}
            figures["lost"] = len(lost)
            figures["explained"] = sum(node in end.gone and name not in lost for name, node in accepted)
        figures["offloaded"] = self._places["peer"] + self._places["gateway"]
        figures["peers"] = self._places["peer"]
        latencies = self._all
        for name, found_ms in (
            ("p50_ms", latencies.percentile_ms(0.5)),
            ("p95_ms", latencies.percentile_ms(0.95)),
            ("p99_ms", latencies.percentile_ms(0.99)),
            ("max_ms", latencies.max_ns / 1e6 if latencies.count else None),
            ("mean_ms", latencies.mean_ms),
        ):
            if found_ms is not None:
                figures[name] = round(found_ms, 3)
        messages = sum(count for count, _ in self._kinds.values())
        sent = sum(size for _, size in self._kinds.values())
        figures["messages"] = messages
        figures["deliveries"] = self._deliveries
        figures["faults"] = self._spans.count
        if at_ns:
            figures["tasks_per_s"] = round(self._counts["completed"] / (at_ns / SECOND), 3)
        if self._counts["completed"]:
            figures["messages_per_task"] = round(messages / self._counts["completed"], 3)
        if at_ns and self._nodes:
            minutes = (self._begin_ns + at_ns) / SECOND / 60  # what was said before is counted as well
            figures["bytes_per_node_minute"] = round(
                (sent + self._delivered_bytes) / len(self._nodes) / minutes, 1
            )
        return figures


class Spans:
    """Faults from the moments at which they were injected and ended."""

    def __init__(self) -> None:
        self.count = 0
        self.dropped = 0
        self._struck: list[tuple[int, str, str, int | None]] = []
        self._open: dict[tuple[str, str], list[int]] = {}  # indices into the list

    def saw(self, at_ns: int, do: str, node: str, *, ended: bool = False) -> None:
        """A fault struck, or one ended: *ended*, or by its verb (``restart`` ends ``kill``, ``heal`` all)."""
        if do == HEAL:
            for key in list(self._open):
                self._close(key, at_ns)
            return
        if ended:
            self._close((do, node), at_ns)
            return
        closed = [self._close((other, node), at_ns) for other in _ENDS.get(do, ())]
        if any(closed):
            return  # it is the end of what is told already
        self.count += 1
        if len(self._struck) >= STRUCK_MAX:
            self.dropped += 1
            return
        if do not in _MOMENTS:
            self._open.setdefault((do, node), []).append(len(self._struck))
        self._struck.append((at_ns, do, node, None))

    def _close(self, key: tuple[str, str], at_ns: int) -> bool:
        found = self._open.pop(key, [])
        for index in found:
            begun_ns, do, node, _ = self._struck[index]
            self._struck[index] = (begun_ns, do, node, at_ns)
        return bool(found)

    def struck(self) -> list[Struck]:
        """In the order in which they struck."""
        return [
            Struck(at_s=at_ns / SECOND, do=do, node=node, until_s=None if until is None else until / SECOND)
            for at_ns, do, node, until in self._struck
        ]


def _fold(columns: array[int]) -> None:
    """Two by two."""
    if len(columns) % 2:
        columns.append(0)
    columns[:] = array("q", [columns[at] + columns[at + 1] for at in range(0, len(columns), 2)])


def _padded(columns: array[int], length: int) -> list[int]:
    """To that many; what came at the last moment of all belongs to the last interval."""
    found = [*columns, *([0] * (length - len(columns)))]
    return [*found[: length - 1], sum(found[length - 1 :])]
