"""Faults: what is done to a fleet on purpose, and when.

A timeline of what a scenario lists, or of what is drawn from its rates (``chances``). Time 0 is the begin of
the replay. What is done to one member happens in the order of the list, one after the other: a restart waits
for the kill before it, however long the kill had to wait for its moment. Different members do not wait for
each other.

    running ──kill, power-cut──► dead ──restart──► running        paused ──kill──► dead
    running ──pause─► paused ──resume─► running        any of these ──revoke──► revoked (for good)
    whole ──partition──► cut ──heal-partition──► whole     room ──disk-full──► full ──disk-free──► room

Events in: the replay has begun; a fault has been carried out; how many promises are open at a member.
Effects out: ``Inject``. Not here: signals and commands (``fleet.members``), what it led to (``report``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

SECOND: Final = 1_000_000_000
GATEWAY: Final = "gateway"
BROKER: Final = "broker"
_WHOM: Final = {
    "kill-gateway": GATEWAY,
    "power-cut-gateway": GATEWAY,
    "restart-gateway": GATEWAY,
    "kill-broker": BROKER,
    "wipe-broker": BROKER,
}
"""Verbs that say themselves whom they mean; all others need a node."""
_HOST: Final = (
    "partition", "heal-partition", "degrade", "clock-step", "disk-full", "disk-free", "disk-error",
    "disk-flip", "slow", "kill-worker", "crash-at", "restore-tables",
)  # fmt: skip
"""Verbs that may be done to the gateway's machine as well, by ``node = "gateway"``."""
_OWN_KEYS: Final = {
    "until_s": ("partition", "degrade", "disk-full", "slow"),
    "direction": ("partition",),
    "link": ("degrade",),
    "by_s": ("clock-step",),
    "factor": ("slow",),
    "nth": ("crash-at", "disk-full", "disk-error"),
    "point": ("crash-at",),
    "power": ("crash-at",),
    "back_s": ("restore-tables",),
}
"""Key -> the verbs that have it."""
_NEEDED: Final = {
    "degrade": ("until_s", "link"),
    "clock-step": ("by_s",),
    "slow": ("until_s", "factor"),
    "crash-at": ("point", "nth"),
    "restore-tables": ("back_s",),
}


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of the timeline."""

    at_s: Annotated[float, Meta(ge=0, le=86400)]
    do: Literal[
        "kill", "pause", "resume", "restart", "revoke", "kill-gateway", "restart-gateway", "kill-broker",
        "partition", "heal-partition", "degrade", "power-cut", "power-cut-gateway", "wipe-broker",
        "clock-step", "disk-full", "disk-free", "disk-error", "disk-flip", "slow", "kill-worker",
        "crash-at", "restore-tables",
    ]  # fmt: skip
    node: str = ""
    nodes: tuple[Annotated[str, Meta(min_length=1, max_length=200)], ...] = ()
    """Instead of node: several, each a node or the prefix of several alike."""
    open_min: Annotated[int, Meta(ge=0, le=10_000)] = 0
    """Wait from then on until so many of the node's promises are open: a kill in the middle of work."""
    open_wait_s: Annotated[float, Meta(ge=0, le=600)] = 4.0
    """… but no longer than this."""
    until_s: Annotated[float, Meta(ge=0, le=86400)] | None = None
    """When it ends; None: when another fault ends it, or everything is made good."""
    direction: Literal["both", "to", "from"] | None = None
    """Of a partition: what goes to the node is lost, or what comes from it; None: both."""
    link: str = ""
    """Of degrade: the table ``[links.NAME]`` that holds meanwhile."""
    by_s: Annotated[float, Meta(ge=-1e9, le=1e9)] | None = None
    """Of clock-step: seconds that the wall clock jumps."""
    factor: Annotated[float, Meta(gt=1, le=1000)] | None = None
    """Of slow: how many times slower it works."""
    nth: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Not then, but at the nth operation of its disk from then on: a write of disk-full, an fsync of
    disk-error, a `point` of crash-at. 0: at once."""
    point: Literal[
        "", "before write", "after write", "before fsync", "after fsync", "before names", "after names"
    ] = ""
    """Of crash-at: which operations count; names: a renaming or a removal."""
    power: bool = False
    """Of crash-at: its power is cut; else its process is killed."""
    back_s: Annotated[float, Meta(gt=0, le=86400)] | None = None
    """Of restore-tables: how old the copy is that takes the place of its tables."""

    @property
    def member(self) -> str:
        """Whom it befalls."""
        return _WHOM.get(self.do, self.node)

    @property
    def needs_node(self) -> bool:
        return self.do not in _WHOM

    @property
    def fits_gateway(self) -> bool:
        """Can the gateway's machine be its node?"""
        return self.do in _HOST

    @property
    def misplaced(self) -> list[str]:
        """Keys that are given and that its verb does not have."""
        return [key for key, verbs in _OWN_KEYS.items() if getattr(self, key) and self.do not in verbs]

    @property
    def missing(self) -> list[str]:
        """Keys that its verb needs."""
        return [key for key in _NEEDED.get(self.do, ()) if not getattr(self, key)]


Hourly = Annotated[float, Meta(ge=0, le=3600)]
Mean = Annotated[float, Meta(gt=0, le=86400)]


class Rates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Faults that are drawn: so many an hour, for each node, and how long they last on average."""

    kill: Hourly = 0.0
    """… and restart after dead_s."""
    power_cut: Hourly = 0.0
    pause: Hourly = 0.0
    partition: Hourly = 0.0
    disk_full: Hourly = 0.0
    disk_error: Hourly = 0.0
    disk_flip: Hourly = 0.0
    clock_step: Hourly = 0.0
    slow: Hourly = 0.0
    kill_worker: Hourly = 0.0
    restore_tables: Hourly = 0.0
    broker_kill: Hourly = 0.0
    """Of the one broker, and of the one gateway, an hour."""
    broker_wipe: Hourly = 0.0
    gateway_kill: Hourly = 0.0
    gateway_power_cut: Hourly = 0.0
    dead_s: Mean = 10.0
    """Mean seconds; every length is drawn, exponential."""
    paused_s: Mean = 5.0
    cut_s: Mean = 10.0
    full_s: Mean = 20.0
    slow_s: Mean = 20.0
    gateway_dead_s: Mean = 10.0
    step_s: Annotated[float, Meta(gt=0, le=1e9)] = 5.0
    """A clock jumps by so much on average, either way."""
    slow_factor: Annotated[float, Meta(gt=1, le=1000)] = 4.0
    back_s: Mean = 10.0
    """The age of a copy of tables that is restored."""

    @property
    def any(self) -> bool:
        """Is anything drawn at all?"""
        return any(getattr(self, name) for name in HOURLY)


HOURLY: Final = (
    "kill", "power_cut", "pause", "partition", "disk_full", "disk_error", "disk_flip", "clock_step", "slow",
    "kill_worker", "restore_tables", "broker_kill", "broker_wipe", "gateway_kill", "gateway_power_cut",
)  # fmt: skip
"""The fields of ``Rates`` that are rates."""


@dataclass(frozen=True, slots=True)
class Begun:
    """Event: the replay begins now."""


@dataclass(frozen=True, slots=True)
class Done:
    """Event: a fault has been carried out, whatever it led to."""

    index: int


@dataclass(frozen=True, slots=True)
class Promised:
    """Event: so many promises are open at a member."""

    member: str
    open: int


Event = Begun | Done | Promised


@dataclass(frozen=True, slots=True)
class Inject:
    """Effect: do it now; answer with Done."""

    index: int
    fault: Fault


_STATES: Final = {
    ("running", "kill"): "dead",
    ("running", "power-cut"): "dead",
    ("running", "pause"): "paused",
    ("running", "restart"): "running",
    ("running", "revoke"): "revoked",
    ("running", "clock-step"): "running",
    ("running", "disk-error"): "running",
    ("running", "slow"): "running",
    ("running", "kill-worker"): "running",
    ("paused", "kill"): "dead",
    ("paused", "power-cut"): "dead",
    ("paused", "resume"): "running",
    ("paused", "revoke"): "revoked",
    ("dead", "restart"): "running",
    ("dead", "revoke"): "revoked",
    ("dead", "clock-step"): "dead",
}
"""(state of a member, verb) -> its state afterwards; what is missing cannot be done."""
_BESIDE: Final = {
    "partition": ("network", "whole", "cut"),
    "heal-partition": ("network", "cut", "whole"),
    "disk-full": ("disk", "room", "full"),
    "disk-free": ("disk", "full", "room"),
}
"""Verb -> (what of a member's machine it is about, its state before, after); whether it runs or not."""
_AS_THEY_ARE: Final = frozenset(("degrade", "disk-flip", "crash-at", "restore-tables"))
"""Done to a machine in any state."""
_FOR_GOOD: Final = {"dead": "killed for good", "paused": "stopped for good", "revoked": "revoked"}
_ENDS: Final[dict[str, Literal["heal-partition", "disk-free"]]] = {
    "partition": "heal-partition",
    "disk-full": "disk-free",
}
"""What ends them is a fault of its own."""


def resolved(faults: Sequence[Fault], classes: Mapping[str, Sequence[str]]) -> list[tuple[int, Fault]]:
    """One node each, and the end of a partition or of a full disk as a fault of its own.

    Args: classes: prefix or node -> nodes.
    Returns: (index in *faults*, fault).
    """
    found: list[tuple[int, Fault]] = []
    replace = msgspec.structs.replace
    for index, fault in enumerate(faults):
        names = [each for name in fault.nodes for each in classes.get(name, ())] or [fault.node]
        ends = _ENDS.get(fault.do) if fault.until_s is not None else None
        for name in dict.fromkeys(names):
            until_s = None if ends else fault.until_s
            found.append((index, replace(fault, node=name, nodes=(), until_s=until_s)))
            if ends and fault.until_s is not None:
                found.append((index, Fault(at_s=fault.until_s, do=ends, node=name)))
    return found


def impossible(faults: Sequence[Fault]) -> tuple[int, str] | None:
    """The first fault that cannot be done to its member then: (its index, one clause why); None: all can.

    Faults of one moment are taken in the order of the list, as ``Timeline`` does. Each has one node.
    """
    states: dict[str, str] = {}
    beside: dict[tuple[str, str], str] = {}
    until: dict[tuple[str, str], float] = {}
    for index, fault in in_order(faults):
        verb = fault.do.removesuffix("-gateway")
        member = fault.member
        state = states.get(member, "running")
        if member == BROKER:
            if states.get(GATEWAY) == "dead":
                return index, f"nobody starts the broker again: the gateway is dead at {fault.at_s:g} s"
            continue  # the gateway starts it again by itself
        if verb == "revoke" and states.get(GATEWAY) == "dead":
            return index, f"nobody can revoke: the gateway is dead at {fault.at_s:g} s"
        if fault.until_s is not None:
            if until.get((member, verb), -1.0) > fault.at_s:
                return index, f"another {verb} of {member} lasts until {until[member, verb]:g} s"
            until[member, verb] = fault.until_s
        if verb in _BESIDE or verb in _AS_THEY_ARE:
            if state == "revoked":
                return index, f"{member} is revoked at {fault.at_s:g} s"
            if verb in _BESIDE:
                what, before, after = _BESIDE[verb]
                if (now := beside.get((member, what), _BESIDE_AT_FIRST[what])) != before:
                    return index, f"the {what} of {member} is {_SPOKEN.get(now, now)} at {fault.at_s:g} s"
                beside[member, what] = after
            continue
        changed = _STATES.get((state, verb))
        if changed is None:
            return index, f"{member} is {state} at {fault.at_s:g} s"
        states[member] = changed
    return None


_BESIDE_AT_FIRST: Final = {"network": "whole", "disk": "room"}
_SPOKEN: Final = {"room": "not full", "cut": "cut already", "full": "full already", "whole": "not cut"}


def in_order(faults: Sequence[Fault]) -> list[tuple[int, Fault]]:
    """(index in the list, fault) by time."""
    return sorted(enumerate(faults), key=lambda each: (each[1].at_s, each[0]))


def gone(faults: Sequence[Fault]) -> Iterator[tuple[str, str]]:
    """(node, why) of those that are not there at the end: nobody can ask them for what they had promised."""
    states: dict[str, tuple[str, float]] = {}
    for _, fault in in_order(faults):
        if fault.needs_node and fault.member != GATEWAY:
            before, at_s = states.get(fault.node, ("running", 0.0))
            after = _STATES.get((before, fault.do), before if _lasts(fault.do) else "running")
            states[fault.node] = (after, at_s if after == before else fault.at_s)
    for node, (state, at_s) in sorted(states.items()):
        if state != "running":
            yield node, f"{node} was {_FOR_GOOD[state]} at {at_s:.1f} s"


def _lasts(verb: str) -> bool:
    """Does it leave alone whether its node runs?"""
    return verb in _BESIDE or verb in _AS_THEY_ARE


class Timeline:
    """Core: lets each fault go at its moment."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._waiting = in_order(faults)  # by time
        self._running: dict[int, Fault] = {}
        self._open: dict[str, int] = {}
        self._begun_ns: int | None = None

    def handle(self, now_ns: int, event: Event) -> list[Inject]:
        match event:
            case Begun():
                assert self._begun_ns is None, "a replay begins once"
                self._begun_ns = now_ns
            case Done(index):
                del self._running[index]
            case Promised(member, count):
                self._open[member] = count
        return self.tick(now_ns)

    def tick(self, now_ns: int) -> list[Inject]:
        out = []
        for index, fault in self._next():
            if self._moment_ns(fault) <= now_ns:
                self._waiting.remove((index, fault))
                self._running[index] = fault
                out.append(Inject(index, fault))
        return out

    def deadline_ns(self) -> int | None:
        return min((self._moment_ns(fault) for _, fault in self._next()), default=None)

    @property
    def waiting(self) -> list[Fault]:
        """Those whose moment has not come."""
        return [fault for _, fault in self._waiting]

    @property
    def over(self) -> bool:
        """Everything has been carried out."""
        return not self._waiting and not self._running

    def check(self) -> None:
        members = [fault.member for fault in self._running.values()]
        assert len(members) == len(set(members)), "two faults befall one member at once"
        assert self._begun_ns is not None or not self._running, "a fault before the begin"
        assert self._waiting == sorted(self._waiting, key=lambda each: (each[1].at_s, each[0]))

    def _next(self) -> list[tuple[int, Fault]]:
        """Of each member that nothing is being done to, the next."""
        if self._begun_ns is None:
            return []
        seen = {fault.member for fault in self._running.values()}
        found = []
        for index, fault in self._waiting:
            if fault.member not in seen:
                seen.add(fault.member)
                found.append((index, fault))
        return found

    def _moment_ns(self, fault: Fault) -> int:
        assert self._begun_ns is not None
        at_ns = self._begun_ns + round(fault.at_s * SECOND)
        if self._open.get(fault.member, 0) < fault.open_min:
            return at_ns + round(fault.open_wait_s * SECOND)
        return at_ns
