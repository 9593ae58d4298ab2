"""Registry: what the gateway knows of every node of its roster, for people to read.

    Listed(members) · Heard(node, load, boot id) · WentDown(node, reason)  ──▶  rows()

A view, not a judge: who is alive decides ``membership.detector``, who belongs decides the roster. Bounded by
the roster (1 024): whoever is not listed leaves no trace here.
In: events with monotonic ``now_ns``. Out: effects for the log (came, went, restarted) and rows.
Not here: memory over restarts (``store.documents``), placement (it reads loads itself).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from edge_node.wire.messages import Load
from security.roster import Member

State = Literal["up", "down", "unseen", "revoked", "left"]

FLAPS_MAX = 1_000_000  # a counter for people: it stops instead of growing


@dataclass(frozen=True, slots=True)
class Listed:
    """Event: the roster as it is now."""

    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Heard:
    """Event: something that the envelope proved to come from this node; its load if it rode along.

    Another boot id than before means that the node restarted.
    """

    node_id: str
    load: Load | None = None
    version: str = ""  # of its software, where it told
    boot_id: bytes = b""  # of its process, where it told


@dataclass(frozen=True, slots=True)
class WentDown:
    """Event: the detector's verdict."""

    node_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Came:
    node_id: str


@dataclass(frozen=True, slots=True)
class Went:
    node_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Restarted:
    node_id: str


Event = Listed | Heard | WentDown
Effect = Came | Went | Restarted


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One line of ``edge-gateway nodes``."""

    id: str
    state: State
    heard_ago_s: float | None  # None: never since the gateway started
    workers: int
    backlog_ms: int
    speed: float
    draining: bool
    restarts: int
    roles: tuple[str, ...]
    labels: dict[str, str]
    version: str
    reason: str  # why it is down


@dataclass(frozen=True, slots=True)
class Among:
    """Which nodes a list is of; what is empty leaves nobody out.

    Args: status: active, revoked or left; another is of nobody here.   up: is it there?   role: has it.
        label: a key, or ``key=value``.   always_up: the gateway itself, which hears of others only.
    """

    status: str = ""
    up: bool | None = None
    role: str = ""
    label: str = ""
    always_up: str = ""

    def has(self, status: str, up: bool, roles: Collection[str], labels: Mapping[str, str]) -> bool:
        if (self.status and status != self.status) or (self.up is not None and up is not self.up):
            return False
        if self.role and self.role not in roles:
            return False
        if not self.label:
            return True
        key, equals, value = self.label.partition("=")
        return labels.get(key) == value if equals else key in labels


@dataclass(slots=True)
class _Node:
    member: Member
    up: bool = False
    heard_ns: int | None = None
    load: Load | None = None
    boot_id: bytes | None = None
    restarts: int = 0
    version: str = ""
    reason: str = ""


@dataclass(slots=True)
class Registry:
    """What is known of every listed node; a core."""

    _nodes: dict[str, _Node] = field(default_factory=dict)
    changes: int = 0
    """So many times something that ``rows`` tell was changed, beside when a node was last heard."""
    _changed: dict[str, int] = field(default_factory=dict)  # at which change last; the newest is at the end
    _unlisted: int = 0  # at which change a node went from the list
    _names: list[str] = field(default_factory=list)  # sorted

    def handle(self, now_ns: int, event: Event) -> list[Effect]:
        match event:
            case Listed(members):
                return self._listed(members)
            case Heard(node_id, load, version, boot_id):
                node = self._active(node_id)
                if node is None:
                    return []
                node.heard_ns = now_ns
                if (
                    not node.up
                    or (load is not None and load != node.load)
                    or (version and version[:64] != node.version)
                    or (boot_id and boot_id != node.boot_id)
                ):
                    self._change(node_id)
                node.load = load or node.load
                node.version = version[:64] or node.version
                effects: list[Effect] = []
                if not node.up:
                    node.up, node.reason = True, ""
                    effects.append(Came(node_id))
                if boot_id and boot_id != node.boot_id:
                    if node.boot_id is not None:
                        node.restarts = min(node.restarts + 1, FLAPS_MAX)
                        effects.append(Restarted(node_id))
                    node.boot_id = boot_id
                return effects
            case WentDown(node_id, reason):
                node = self._active(node_id)
                if node is None or not node.up:
                    return []
                node.up, node.reason = False, reason[:200]
                self._change(node_id)
                return [Went(node_id, node.reason)]

    def tick(self, now_ns: int) -> list[Effect]:
        return []

    def deadline_ns(self) -> int | None:
        return None

    def check(self) -> None:
        assert all(node_id == node.member.id for node_id, node in self._nodes.items())
        assert all(node.member.status == "active" for node in self._nodes.values() if node.up)
        assert all(node.heard_ns is not None for node in self._nodes.values() if node.up)
        assert self._changed.keys() == self._nodes.keys() and self._names == sorted(self._nodes)
        assert list(self._changed.values()) == sorted(self._changed.values())

    def __len__(self) -> int:
        return len(self._nodes)

    def rows(self, now_ns: int) -> list[NodeRow]:
        """By name."""
        return [self._row(now_ns, self._nodes[node_id]) for node_id in self._names]

    def page(self, now_ns: int, among: Among, after: str, limit: int) -> list[NodeRow]:
        """By name, above *after*; rows are made of those that are told only."""
        found: list[NodeRow] = []
        names = self._names
        for at in range(bisect_right(names, after), len(names)):
            node = self._nodes[names[at]]
            member = node.member
            up = node.up or member.id == among.always_up
            if among.has(member.status, up, member.roles, member.labels):
                found.append(self._row(now_ns, node))
                if len(found) >= limit:
                    break
        return found

    def ids(self) -> list[str]:
        """By name."""
        return list(self._names)

    def changed_after(self, changes: int) -> list[str] | None:
        """Who changed since ``changes`` stood so, the latest first; O(as many). None: somebody is gone."""
        if changes < self._unlisted:
            return None
        found: list[str] = []
        for node_id in reversed(self._changed):
            if self._changed[node_id] <= changes:
                break
            found.append(node_id)
        return found

    def _change(self, node_id: str) -> None:
        self.changes += 1
        self._changed.pop(node_id, None)
        self._changed[node_id] = self.changes

    def row(self, now_ns: int, node_id: str) -> NodeRow | None:
        node = self._nodes.get(node_id)
        return self._row(now_ns, node) if node else None

    def is_up(self, node_id: str) -> bool:
        node = self._nodes.get(node_id)
        return node is not None and node.up

    def up(self) -> list[str]:
        return sorted(node_id for node_id, node in self._nodes.items() if node.up)

    def _active(self, node_id: str) -> _Node | None:
        node = self._nodes.get(node_id)
        return node if node is not None and node.member.status == "active" else None

    def _listed(self, members: Iterable[Member]) -> list[Effect]:
        before, self._nodes = self._nodes, {}
        effects: list[Effect] = []
        for member in members:
            node = before.pop(member.id, None)
            if node is None or node.member != member:
                self._change(member.id)
            node = node or _Node(member)
            node.member = member
            if node.up and member.status != "active":
                node.up, node.reason = False, f"it {'was revoked' if member.status == 'revoked' else 'left'}"
                effects.append(Went(member.id, node.reason))
            self._nodes[member.id] = node
        self._names = sorted(self._nodes)
        for node_id in sorted(before):
            del self._changed[node_id]
            self.changes += 1
            self._unlisted = self.changes
            if before[node_id].up:
                effects.append(Went(node_id, "it is no longer listed"))
        return effects

    def _row(self, now_ns: int, node: _Node) -> NodeRow:
        member, load = node.member, node.load or Load(0, 0)
        state: State
        if member.status == "revoked":
            state = "revoked"
        elif member.status == "left":
            state = "left"
        elif node.up:
            state = "up"
        else:
            state = "unseen" if node.heard_ns is None else "down"
        return NodeRow(
            id=member.id,
            state=state,
            heard_ago_s=None if node.heard_ns is None else (now_ns - node.heard_ns) / 1e9,
            workers=load.workers,
            backlog_ms=load.backlog_ms,
            speed=load.speed,
            draining=load.draining,
            restarts=node.restarts,
            roles=member.roles,
            labels=dict(member.labels),
            version=node.version,
            reason=node.reason,
        )
