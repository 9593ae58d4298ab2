"""Model: what the terminal view shows, out of what the gateway told, and what it asks next.

    Told · Troubled ─► facts ─► heading(), table()
    Looked · Filtered · Leafed ─► which of them, and which questions are due  ─► Ask

Each question has one answer under way at most. How often it is asked follows from how long the last answer
took, so that a loaded gateway is asked less. When the status is not answered the gateway is away: only the
status is asked then, and what was known stays on the screen. Bounds: the last `EVENTS_MAX` events, one page
of tasks, the roster.

In: events with monotonic ``now_ns``. Out: ``Ask`` effects, lines and tables of plain text.
Not here: the socket (`asking`), the screen (`screen`), columns (`views`), what may be done (`actions`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from edge_node.chronicle.narrator import When, duration
from gateway.top.views import VIEWS, Facts, Filter, Table, clean, filter_of, table_of

SECOND: Final = 1_000_000_000
EVENTS_MAX: Final = 500
PAGE_ROWS: Final = 200
EVENTS_WAIT_MS: Final = 15_000
EVENTS_REST_NS: Final = SECOND // 5  # a flood is taken page by page
EVENTS_PAGE: Final = 200
AGAIN_NS: Final = 1 * SECOND
AFTER_TROUBLE_NS: Final = 3 * SECOND
SHARE: Final = 10  # a question whose answer takes 1 s is asked every 10 s: a tenth of its time at most
REST_NS_MAX: Final = 15 * SECOND
PING_AGAIN_NS: Final = 1 * SECOND
SAID_NS: Final = 8 * SECOND
"""How long a sentence about something done stays."""

NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "nodes": ("nodes", "ping"),
    "tasks": ("tasks",),
    "links": ("nodes", "ping"),
    "events": (),
    "functions": ("functions",),
    "tables": ("tables",),
}
"""Questions of a view, beside those that are always asked."""
ALWAYS: Final = ("status", "methods", "nodes", "events")
SELDOM: Final = {"methods": 3600 * SECOND, "nodes": 5 * SECOND}
"""Nanoseconds between two answers that no view waits for."""


# ── events ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Told:
    """An answer. *wall_ms*: when it came, for ages."""

    question: str
    answer: Any
    wall_ms: int


@dataclass(frozen=True, slots=True)
class Troubled:
    """A question that was not answered."""

    question: str
    cause: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Looked:
    """The person turned to this view."""

    view: str


@dataclass(frozen=True, slots=True)
class Filtered:
    text: str


@dataclass(frozen=True, slots=True)
class Leafed:
    """To older (1) or newer (-1) tasks."""

    by: int


@dataclass(frozen=True, slots=True)
class Said:
    """A sentence to show for a while: what was done, or why not."""

    text: str
    bad: bool = False


@dataclass(frozen=True, slots=True)
class Changed:
    """Something was done: everything on the screen is asked anew."""


Event = Told | Troubled | Looked | Filtered | Leafed | Said | Changed


@dataclass(frozen=True, slots=True)
class Ask:
    """Effect: ask the gateway; the answer comes back as ``Told`` or ``Troubled`` under *question*."""

    question: str
    method: str
    params: dict[str, Any]


# ── the core ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Question:
    due_ns: int = 0
    asked_ns: int | None = None  # None: nothing is under way
    serial: object = None  # what was asked for: an answer to something else is not shown
    trouble: tuple[str, str] | None = None
    answered: bool = False


@dataclass(slots=True)
class Model:
    """One terminal. Args: when: a wall time in milliseconds as people write it."""

    when: When
    facts: Facts = field(default_factory=Facts)
    view: str = "nodes"
    filter: Filter = field(default_factory=Filter)
    _questions: dict[str, _Question] = field(default_factory=dict)
    _away_ns: int | None = None
    _ever: bool = False
    _trouble: tuple[str, str] = ("", "")
    _said: tuple[str, bool, int] = ("", False, 0)
    _pages: list[str] = field(default_factory=lambda: [""])
    _next_page: str = ""
    _cursor: str | None = None
    _pinged: str = ""
    _done: tuple[int, int] | None = None  # (now_ns, tasks settled) of the status before
    _rate: float | None = None

    def handle(self, now_ns: int, event: Event) -> list[Ask]:
        match event:
            case Told(question, answer, wall_ms):
                self._told(now_ns, question, answer, wall_ms)
            case Troubled(question, cause, fix):
                self._troubled(now_ns, question, clean(cause), clean(fix))
            case Looked(view):
                assert view in VIEWS, view
                self.view = view
                for name in NEEDS[view]:
                    self._at_once(now_ns, name)
            case Filtered(text):
                before, self.filter = self.filter, filter_of(text)
                if before.asked() != self.filter.asked():
                    self._pages, self._next_page = [""], ""
                    self._at_once(now_ns, "tasks")
            case Leafed(by):
                if by > 0 and self._next_page:
                    self._pages.append(self._next_page)
                elif by < 0 and len(self._pages) > 1:
                    self._pages.pop()
                self._at_once(now_ns, "tasks")
            case Said(text, bad):
                self._said = (clean(text), bad, now_ns + SAID_NS)
            case Changed():
                for name in (*NEEDS[self.view], "status", "nodes"):
                    self._at_once(now_ns, name)
        return self.tick(now_ns)

    def tick(self, now_ns: int) -> list[Ask]:
        asks = []
        for name in self._wanted():
            question = self._questions.setdefault(name, _Question())
            if question.asked_ns is not None or question.due_ns > now_ns:
                continue
            ask = self._ask(name)
            if ask is None:
                question.due_ns = now_ns + PING_AGAIN_NS
                continue
            question.asked_ns, question.serial = now_ns, ask.params
            asks.append(ask)
        return asks

    def deadline_ns(self) -> int | None:
        found = []
        for name in self._wanted():
            question = self._questions.get(name)
            if question is None:
                return 0
            if question.asked_ns is None:
                found.append(question.due_ns)
        return min(found, default=None)

    def check(self) -> None:
        assert len(self.facts.events) <= EVENTS_MAX
        assert self._pages and self._pages[0] == ""
        assert self.view in VIEWS
        assert self.facts.round_trips.keys() <= {row["id"] for row in self.facts.nodes}

    @property
    def away(self) -> bool:
        return self._away_ns is not None

    @property
    def page(self) -> int:
        """Of tasks, from 1."""
        return len(self._pages)

    @property
    def has_older(self) -> bool:
        """Tasks than those of this page."""
        return bool(self._next_page)

    def _wanted(self) -> tuple[str, ...]:
        if self._away_ns is not None or not self._ever:
            return ("status",)
        return tuple(dict.fromkeys((*ALWAYS, *NEEDS[self.view])))

    def _at_once(self, now_ns: int, name: str) -> None:
        self._questions.setdefault(name, _Question()).due_ns = now_ns

    def _ask(self, name: str) -> Ask | None:
        match name:
            case "tasks":
                params = {"limit": PAGE_ROWS, "after": self._pages[-1], **self.filter.asked()}
                return Ask(name, "tasks-page", params)
            case "events":
                wait_ms = 0 if self._cursor is None else EVENTS_WAIT_MS
                return Ask(name, "events", {"after": self._cursor, "limit": EVENTS_PAGE, "wait_ms": wait_ms})
            case "tables":
                return Ask(name, "state.tables", {})
            case "ping":
                node = self._next_to_ping()
                return None if node is None else Ask(name, "ping", {"node": node})
        return Ask(name, name, {})

    def _next_to_ping(self) -> str | None:
        """The nodes that are up, one after the other: a round trip a second, however many there are."""
        own = self.facts.status.get("node")
        names = sorted(row["id"] for row in self.facts.nodes if row.get("up") and row["id"] != own)
        if not names:
            return None
        self._pinged = next((name for name in names if name > self._pinged), names[0])
        return self._pinged

    # ── what was told ─────────────────────────────────────────────────────────────────────────────

    def _told(self, now_ns: int, name: str, answer: Any, wall_ms: int) -> None:
        question = self._questions.setdefault(name, _Question())
        took_ns = now_ns - question.asked_ns if question.asked_ns is not None else 0
        asked, question.asked_ns = question.serial, None
        question.trouble, question.answered = None, True
        rest_ns = SELDOM.get(name, AGAIN_NS) if name not in NEEDS[self.view] else AGAIN_NS
        question.due_ns = max(question.due_ns, now_ns + min(max(rest_ns, SHARE * took_ns), REST_NS_MAX))
        if name in SELDOM and name not in NEEDS[self.view]:
            question.due_ns = max(question.due_ns, now_ns + rest_ns)
        facts = self.facts
        facts.wall_ms = wall_ms
        match name:
            case "status":
                self._status(now_ns, answer)
            case "methods":
                facts.methods = frozenset(answer)
            case "nodes":
                facts.nodes = list(answer)
                listed = {row["id"] for row in facts.nodes}
                facts.round_trips = {k: v for k, v in facts.round_trips.items() if k in listed}
            case "ping":
                self._round_trip(asked, float(answer["rtt_ms"]))
            case "tasks":
                page = self._ask("tasks")
                if page is None or asked != page.params:  # of a page or a filter that is not wanted any more
                    question.due_ns = now_ns
                    return
                facts.tasks, self._next_page = list(answer["tasks"]), str(answer["next"] or "")
            case "functions":
                facts.functions = list(answer)
            case "tables":
                facts.tables = [row for row in answer["tables"] if not row["name"].startswith(".")]
            case "events":
                # Waited for there; an answer that came at once with nothing is not asked for in circles.
                at_once = not answer["events"] and took_ns < AGAIN_NS
                question.due_ns = now_ns + (AGAIN_NS if at_once else EVENTS_REST_NS)
                self._cursor = answer["next"]
                if answer["missed"] and facts.events:
                    facts.events.append({"cursor": f"missed-{answer['next']}", "missed": True})
                facts.events += answer["events"]
                del facts.events[:-EVENTS_MAX]

    def _status(self, now_ns: int, status: dict[str, Any]) -> None:
        facts = self.facts
        facts.status = status
        settled = sum((status["tasks"].get("settled") or {}).values())
        if self._done is not None and settled >= self._done[1] and now_ns > self._done[0]:
            self._rate = (settled - self._done[1]) * SECOND / (now_ns - self._done[0])
        self._done = (now_ns, settled)
        if self._away_ns is not None and self._ever:
            ago = duration((now_ns - self._away_ns) / 1e6)
            self._said = (f"the gateway answers again, after {ago}", False, now_ns + SAID_NS)
            self._rate = None
        if self._away_ns is not None or not self._ever:
            for question in self._questions.values():
                question.due_ns = now_ns if question.asked_ns is None else question.due_ns
            self._questions["status"].due_ns = now_ns + AGAIN_NS
        self._away_ns, self._ever = None, True

    def _round_trip(self, asked: object, rtt_ms: float | None) -> None:
        node = asked["node"] if isinstance(asked, dict) else ""
        if any(row["id"] == node for row in self.facts.nodes):
            self.facts.round_trips[node] = rtt_ms

    def _troubled(self, now_ns: int, name: str, cause: str, fix: str) -> None:
        question = self._questions.setdefault(name, _Question())
        asked, question.asked_ns = question.serial, None
        question.due_ns = now_ns + (AGAIN_NS if name in ("status", "ping") else AFTER_TROUBLE_NS)
        if name == "status":
            self._trouble = (cause, fix)
            self._away_ns = now_ns if self._away_ns is None else self._away_ns
            self._rate = self._done = None
        elif name == "ping":
            if isinstance(asked, dict) and cause.startswith(f"{asked['node']} "):
                self._round_trip(asked, None)  # it does not answer; the gateway does, and says so
        elif name == "events" and "no place in the events" in cause:
            self._cursor = None
        else:
            question.trouble = (cause, fix)

    # ── what is shown ─────────────────────────────────────────────────────────────────────────────

    def heading(self, now_ns: int) -> list[str]:
        """Two lines, the most important first: they are cut at the end."""
        status = self.facts.status
        if not status:
            return ["edgeweave", "waiting for the gateway" if not self.away else "no gateway answers"]
        nodes = [row for row in self.facts.nodes if row["status"] == "active"]
        waiting = sum(row["status"] == "pending" for row in self.facts.nodes)
        tasks, broker = status["tasks"], status["broker"]
        first = [
            f"edgeweave {status['node']}",
            f"mesh {str(status['mesh'])[:8]}",
            f"up {duration(1000 * max(1, status['up_s']))}",
            f"broker {'connected' if broker['connected'] else 'NOT CONNECTED'} {broker['address']}",
            f"roster {status['roster']['version']}",
        ]
        second = [
            *([f"{sum(bool(row['up']) for row in nodes)} of {len(nodes)} up"] if nodes else []),
            *([f"{waiting} wait for approval"] if waiting else []),
            f"{tasks['open']} tasks open",
            *([f"{self._rate:.3g}/s"] if self._rate is not None else []),
            f"{tasks['completed']} done",
            f"{tasks['failed']} failed",
            *(["draining"] if status["draining"] else []),
            *(["STORE FULL"] if tasks.get("store_full") else []),
            *([f"{conflicts} conflicts"] if (conflicts := status["state"]["conflicts"]) else []),
        ]
        return [clean(" · ".join(" ".join(each.split()) for each in line)) for line in (first, second)]

    def remark(self, now_ns: int) -> tuple[str, bool]:
        """One sentence about what is wrong or was done, and whether it is bad; empty: nothing is."""
        if self._away_ns is not None:
            cause, fix = self._trouble
            since = duration((now_ns - self._away_ns) / 1e6)
            return f"away for {since}: {cause}{f'; {fix}' if fix else ''} (asking again every second)", True
        text, bad, until_ns = self._said
        if text and now_ns < until_ns:
            return text, bad
        for name in (*NEEDS[self.view], "events"):
            question = self._questions.get(name)
            if question is not None and question.trouble is not None:
                cause, fix = question.trouble
                return f"{name}: {cause}{f'; {fix}' if fix else ''}", True
        return "", False

    def table(self) -> Table:
        """Of the view, filtered."""
        needs = NEEDS[self.view] or ("events",)
        question = self._questions.get(needs[0])
        table = table_of(self.view, self.facts, self.filter, self.when)
        if not table.rows and (question is None or not question.answered):
            table.empty = "asking…"
        if self.view == "tasks" and (self.page > 1 or self.has_older):
            table.title += f", page {self.page}"
        return table
