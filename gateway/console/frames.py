"""Frames: the picture of the mesh as its graph is told it: whole once, then only what moved; a core.

    picture (``gateway.fleet.picture``) ─► tell() ─► since(version) ─► {v, s, n, d, t, p}

- v: the frame's version.  s: the version that it continues; 0: this is everything.
- n: nodes, each a list in the order of ``CELLS``. In a frame that continues, the node's number is before it;
  the next number is a new node's. Revoked members and those that left are not among them.
- d: ``[number, load_s, running, rtt_ms, in_bytes_s, out_bytes_s]`` of those of which nothing else has moved.
- t: totals, in the order of ``TOTALS``.  p: who waits to be let in, ``[name, address, asked_at_ms]``; absent
  where nothing moved.

Figures have two digits that count: what no eye can tell apart is not told again. A frame is made once for all
who look; one that continues costs what moved since. Bounded by the roster.

Not here: where nodes are drawn (`static/mesh_graph.js`), when a picture is taken (`live`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

SECOND: Final = 1_000_000_000
RATES_NS: Final = 5 * SECOND
"""Over so long tasks a second are told: shorter, and a mesh with a task now and then flickers."""
CELLS: Final = (
    "id", "state", "work", "load_s", "running", "rtt_ms", "link", "in_bytes_s", "out_bytes_s", "workers",
    "roles", "labels", "restarts", "seen_at_ms", "reason",
)  # fmt: skip
"""state: 0 up, 1 down, 2 never heard.  work: 0 work, 1 pause, 2 drain.  link: 0 none, 1 up, 2 ended."""
MOVING: Final = slice(3, 9)
TOTALS: Final = (
    "members", "up", "workers", "load_s", "open", "running", "accepted_s", "done_s", "away", "settled",
    "in_bytes_s", "out_bytes_s", "connected",
)  # fmt: skip
"""away, settled: tasks of the gateway's since its start; away: done by members."""
_WORK: Final = {"work": 0, "pause": 1, "drain": 2}

Row = Mapping[str, Any]


@dataclass(slots=True)
class Frames:
    version: int = 0
    _numbers: dict[str, int] = field(default_factory=dict)
    _cells: list[list[Any]] = field(default_factory=list)
    _seen: list[tuple[Row, Row | None]] = field(default_factory=list)  # what the cells were made of
    _pending: list[list[Any]] = field(default_factory=list)
    _totals: list[Any] = field(default_factory=list)
    _counts: deque[tuple[int, int, int]] = field(default_factory=deque)  # (when, accepted, settled)
    _before: int = 0
    _delta: dict[str, Any] | None = None
    _whole: dict[str, Any] | None = None

    def tell(self, now_ns: int, picture: Row) -> None:
        """Args: picture: a whole one (``since`` 0); the same again is passed over."""
        if picture["version"] == self.version:
            return
        links = {link["b"]: link for link in picture["links"]}
        active = [row for row in picture["nodes"] if row["status"] == "active"]
        moved: list[list[Any]] = []
        figures: list[list[Any]] = []
        news = sum(1 for row in active if row["id"] not in self._numbers)
        gone = len(active) - news != len(self._numbers)
        if gone:
            self._numbers, self._cells, self._seen = {}, [], []
        for row in active:
            name, link = row["id"], links.get(row["id"])
            number = self._numbers.get(name)
            if number is None:
                number = self._numbers[name] = len(self._cells)
                self._cells.append(_cells(row, link))
                self._seen.append((row, link))
                moved.append([number, *self._cells[number]])
                continue
            was_row, was_link = self._seen[number]
            if was_row is row and was_link is link:
                continue
            cells, before = _cells(row, link), self._cells[number]
            self._seen[number] = (row, link)
            if cells == before:
                continue
            self._cells[number] = cells
            if cells[: MOVING.start] == before[: MOVING.start] and cells[6] == before[6] and (
                cells[MOVING.stop :] == before[MOVING.stop :]
            ):  # fmt: skip
                figures.append([number, *cells[3:6], *cells[7:9]])
            else:
                moved.append([number, *cells])
        pending = [[each["id"], each["address"], each["asked_at_ms"]] for each in picture["pending"]]
        self._totals = self._told(now_ns, picture["totals"])
        self._before, self.version = self.version, picture["version"]
        self._delta = None
        if self._before and not gone:
            self._delta = {"v": self.version, "s": self._before, "n": moved, "d": figures, "t": self._totals}
            if pending != self._pending:
                self._delta["p"] = pending
        self._pending = pending
        self._whole = None

    def since(self, version: int) -> dict[str, Any] | None:
        """The frame for who has *version*; None: nothing is newer. Shared: never change it."""
        if version == self.version:
            return None
        if self._delta is not None and version == self._before:
            return self._delta
        if self._whole is None:
            self._whole = {
                "v": self.version, "s": 0, "n": list(self._cells), "d": [], "t": self._totals,
                "p": self._pending,
            }  # fmt: skip
        return self._whole

    def check(self) -> None:
        assert len(self._cells) == len(self._seen) == len(self._numbers)
        assert all(self._cells[number][0] == name for name, number in self._numbers.items())

    def _told(self, now_ns: int, totals: Row) -> list[Any]:
        accepted, settled = totals["accepted"], totals["settled"]
        while self._counts and (
            now_ns - self._counts[0][0] > RATES_NS or self._counts[0][1] > accepted
        ):  # a gateway that was started anew counts from 0
            self._counts.popleft()
        self._counts.append((now_ns, accepted, settled))
        begin_ns, first_accepted, first_settled = self._counts[0]
        took_s = (now_ns - begin_ns) / SECOND
        return [
            totals["members"], totals["up"], totals["workers"], coarse(totals["load_s"]), totals["open"],
            totals["running"], coarse((accepted - first_accepted) / took_s) if took_s else 0,
            coarse((settled - first_settled) / took_s) if took_s else 0, totals["away"], settled,
            coarse(totals["in_bytes_s"]), coarse(totals["out_bytes_s"]), int(totals["connected"]),
        ]  # fmt: skip


def _cells(row: Row, link: Row | None) -> list[Any]:
    seen_at_ms = row.get("seen_at_ms", 0)
    state = 0 if row["up"] else 1 if seen_at_ms else 2
    rtt_ms, tie, bytes_in, bytes_out = row["rtt_ms"], 0, 0.0, 0.0
    if link is not None:
        tie = 1 if link["up"] else 2
        bytes_in, bytes_out = coarse(link["in_bytes_s"]), coarse(link["out_bytes_s"])
    return [
        row["id"], state, _WORK.get(row["work"], 0), coarse(row["load_s"]), row["running"],
        None if rtt_ms is None else coarse(rtt_ms), tie, bytes_in, bytes_out, row["workers"], row["roles"],
        row["labels"], row["restarts"], seen_at_ms if state else 0, row.get("reason", "") if state else "",
    ]  # fmt: skip


def coarse(figure: float) -> float:
    """With two digits that count; nothing below a hundredth."""
    if figure < 0.005:
        return 0
    found = float(f"{figure:.2g}") if figure >= 0.1 else round(figure, 2)
    return int(found) if found == int(found) else found
