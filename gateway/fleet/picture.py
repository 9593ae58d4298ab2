"""Picture: the whole mesh in compact rows, for a page that draws it once a second; a core.

    registry ─┐ (rows of those that changed)
    Surroundings (round trips, bytes, who rests, who waits) ─► look() ─► nodes, links, totals, a version

Rows, links and the numbers of the last look are kept, so a look costs what has changed since, and one taken
within ``FRESH_NS`` of the last is the last: many readers cost as much as one. A reader that has a picture
gives its version and is told only what is newer. Versions begin at the gateway's start in microseconds, so
one of an earlier life is answered with everything. Bounded by the roster.

Not here: when it is looked (`gateway.console.live`), what a person reads of one node (``registry`` rows).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.fleet.registry import Registry

SECOND: Final = 1_000_000_000
FRESH_NS: Final = SECOND // 4
RATES_NS: Final = SECOND // 2
"""The least stretch over which bytes a second are told."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Way:
    """Our session with one member. *bytes_in*, *bytes_out*: since the stream was made."""

    rtt_ns: int | None
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the registry does not know. *us*: our own name; *ways*: who has a session with us;
    *resting*: a member's mode, where one was ever asked for; *lent*: our tasks that a member has now;
    *own*: the fields of our own row that we know better; *pending*: rows of those that wait to be let in;
    *totals*: our tasks and bytes, told as they are; *done*: tasks settled since our start."""

    us: str
    ways: Mapping[str, Way]
    resting: Callable[[str], str]
    lent: Callable[[str], int]
    own: Row
    pending: list[Row]
    totals: Row
    done: int


@dataclass(slots=True)
class _Known:
    row: Row
    version: int
    rest: tuple[object, ...] = ()


@dataclass(slots=True)
class Picture:
    """Args: begin: microseconds since 1970 at our start: greater than any version of an earlier life."""

    begin: int
    version: int = 0
    _nodes: dict[str, _Known] = field(default_factory=dict)  # least recently changed first
    _links: dict[str, _Known] = field(default_factory=dict)
    _whole: int = 0  # who saw less than this version is told everything: somebody is gone
    _seen: int = 0  # of the registry's changes
    _looked_ns: int | None = None
    _rates_ns: int | None = None
    _bytes: dict[str, tuple[int, int]] = field(default_factory=dict)
    _done: int = 0
    _done_s: float = 0.0
    _rest: Row = field(default_factory=dict)  # what is told whole each time

    def __post_init__(self) -> None:
        self.version = self._whole = self.begin

    def look(
        self,
        now_ns: int,
        wall_ms: int,
        registry: Registry,
        surroundings: Callable[[], Surroundings],
        after: int,
    ) -> Row:
        """The picture. Args: surroundings: asked unless the last picture is fresh.
        after: a version; only what is newer is told, if it can be. Rows belong to the picture: never changed.
        """
        if self._looked_ns is None or now_ns - self._looked_ns >= FRESH_NS:
            self._look(now_ns, wall_ms, registry, surroundings())
            self._looked_ns = now_ns
        since = after if self._whole <= after <= self.version else 0
        return {
            "version": self.version,
            "since": since,
            "nodes": _newer(self._nodes, since),
            "links": _newer(self._links, since),
            **self._rest,
        }

    def check(self) -> None:
        for known in (self._nodes, self._links):
            versions = [each.version for each in known.values()]
            assert versions == sorted(versions) and all(each <= self.version for each in versions)
        assert self._links.keys() <= self._nodes.keys()

    def _look(self, now_ns: int, wall_ms: int, registry: Registry, around: Surroundings) -> None:
        version = self.version + 1
        moved = registry.changed_after(self._seen)
        self._seen = registry.changes
        if moved is None:  # somebody is listed no more
            moved = registry.ids()
            gone = self._nodes.keys() - set(moved)
            for each in gone:
                del self._nodes[each]
                self._links.pop(each, None)
                self._bytes.pop(each, None)
            if gone:
                self._whole = version
        stale = dict.fromkeys(moved)
        for node_id, known in self._nodes.items():
            if node_id not in stale and known.rest != self._beside(node_id, around):
                stale[node_id] = None
        for node_id in stale:
            row = self._row(now_ns, wall_ms, registry, node_id, around)
            before = self._nodes.get(node_id)
            rest = self._beside(node_id, around)
            if before is not None and before.row == row:
                before.rest = rest
                continue
            self._nodes.pop(node_id, None)  # to the end: it is the newest now
            self._nodes[node_id] = _Known(row, version, rest)
        self._draw_links(now_ns, version, around)
        self._rest = {"pending": around.pending, "totals": self._totals(around)}
        self.version = version

    def _beside(self, node_id: str, around: Surroundings) -> tuple[object, ...]:
        """What of a row does not come from the registry."""
        if node_id == around.us:
            return tuple(around.own.values())
        way = around.ways.get(node_id)
        return (around.resting(node_id), around.lent(node_id), None if way is None else _ms(way.rtt_ns))

    def _row(self, now_ns: int, wall_ms: int, registry: Registry, node_id: str, around: Surroundings) -> Row:
        known = registry.row(now_ns, node_id)
        assert known is not None
        us, way = node_id == around.us, around.ways.get(node_id)
        active = known.state in ("up", "down", "unseen")
        row: Row = {
            "id": node_id,
            "status": "active" if active else known.state,
            "up": us or known.state == "up",
            "work": around.resting(node_id),
            "load_s": round(known.backlog_ms / 1000, 2),
            "workers": known.workers,
            "running": around.lent(node_id),
            "rtt_ms": None if way is None else _ms(way.rtt_ns),
            "roles": list(known.roles),
            "labels": known.labels,
            "restarts": known.restarts,
        }
        if us:
            return row | around.own
        if known.state == "down" or (not active and known.heard_ago_s is not None):
            assert known.heard_ago_s is not None
            row["seen_at_ms"] = wall_ms - int(known.heard_ago_s * 1000)
            row["reason"] = known.reason
        if known.state == "down":
            row["cut"] = True
        if before := self._nodes.get(node_id):  # clocks are read one after the other: a moment's difference
            seen_ms = before.row.get("seen_at_ms")
            if seen_ms is not None and abs(row.get("seen_at_ms", 0) - seen_ms) <= 2:
                row["seen_at_ms"] = seen_ms
        return row

    def _draw_links(self, now_ns: int, version: int, around: Surroundings) -> None:
        took_ns = 0 if self._rates_ns is None else now_ns - self._rates_ns
        measure = self._rates_ns is None or took_ns >= RATES_NS
        for peer in [each for each in self._links if each not in around.ways]:
            if self._links[peer].row["up"]:
                self._bytes.pop(peer, None)
                self._link(peer, version, {**self._links[peer].row, "up": False, **_NO_BYTES})
        for peer, way in around.ways.items():
            if peer not in self._nodes:
                continue
            before = self._links.get(peer)
            rates = _NO_BYTES
            if measure:
                last, now = self._bytes.get(peer), (way.bytes_in, way.bytes_out)
                self._bytes[peer] = now
                if last is not None and took_ns > 0:
                    rates = _bytes_s(last, now, took_ns)
            elif before is not None:
                rates = {name: before.row[name] for name in _NO_BYTES}
            row = {"a": around.us, "b": peer, "up": True, "rtt_ms": _ms(way.rtt_ns), **rates}
            if before is None or before.row != row:
                self._link(peer, version, row)
        if measure:
            if took_ns > 0:
                self._done_s = round(max(0, around.done - self._done) * SECOND / took_ns, 1)
            self._done = around.done
            self._rates_ns = now_ns

    def _link(self, peer: str, version: int, row: Row) -> None:
        self._links.pop(peer, None)
        self._links[peer] = _Known(row, version)

    def _totals(self, around: Surroundings) -> Row:
        members = up = workers = 0
        load_s = 0.0
        for known in self._nodes.values():
            row = known.row
            if row["status"] != "active":
                continue
            members += 1
            if row["up"]:
                up += 1
                workers += row["workers"]
                load_s += row["load_s"]
        bytes_in = sum(known.row["in_bytes_s"] for known in self._links.values())
        bytes_out = sum(known.row["out_bytes_s"] for known in self._links.values())
        return {
            "members": members,
            "up": up,
            "pending": len(around.pending),
            "workers": workers,
            "load_s": round(load_s, 2),
            "done_s": self._done_s,
            "in_bytes_s": bytes_in,
            "out_bytes_s": bytes_out,
            **around.totals,
        }


_NO_BYTES: Final[Row] = {"in_bytes_s": 0, "out_bytes_s": 0}


def _newer(known: Mapping[str, _Known], since: int) -> list[Row]:
    """Rows above the version; O(as many)."""
    if not since:
        return [each.row for each in known.values()]
    found: list[Row] = []
    for each in reversed(list(known.values())):
        if each.version <= since:
            break
        found.append(each.row)
    return found


def _bytes_s(last: tuple[int, int], now: tuple[int, int], took_ns: int) -> Row:
    """A stream that was made anew counts from 0."""
    pairs: Iterable[tuple[int, int]] = zip(last, now, strict=True)
    went_in, went_out = (
        (after - before if after >= before else after) * SECOND // took_ns for before, after in pairs
    )
    return {"in_bytes_s": went_in, "out_bytes_s": went_out}


def _ms(rtt_ns: int | None) -> float | None:
    return None if rtt_ns is None else round(rtt_ns / 1e6, 1)
