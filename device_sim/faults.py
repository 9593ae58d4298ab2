"""Faults: what is done to a fleet on purpose, and when.

A timeline of what a scenario lists. Time 0 is the begin of the replay. What is done to one member happens in
the order of the list, one after the other: a restart waits for the kill before it, however long the kill
had to wait for its moment. Different members do not wait for each other.

    running ──kill──► dead ──restart──► running        paused ──kill──► dead
    running ──pause─► paused ──resume─► running        any of these ──revoke──► revoked (for good)

Events in: the replay has begun; a fault has been carried out; how many promises are open at a member.
Effects out: ``Inject``. Not here: signals and commands (``fleet.members``), what it led to (``report``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

SECOND: Final = 1_000_000_000
GATEWAY: Final = "gateway"
BROKER: Final = "broker"
_WHOM: Final = {"kill-gateway": GATEWAY, "restart-gateway": GATEWAY, "kill-broker": BROKER}
"""Verbs that say themselves whom they mean; all others need a node."""


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of the timeline."""

    at_s: Annotated[float, Meta(ge=0, le=86400)]
    do: Literal[
        "kill", "pause", "resume", "restart", "revoke", "kill-gateway", "restart-gateway", "kill-broker"
    ]
    node: str = ""
    open_min: Annotated[int, Meta(ge=0, le=10_000)] = 0
    """Wait from then on until so many of the node's promises are open: a kill in the middle of work."""
    open_wait_s: Annotated[float, Meta(ge=0, le=600)] = 4.0
    """… but no longer than this."""

    @property
    def member(self) -> str:
        """Whom it befalls."""
        return _WHOM.get(self.do, self.node)

    @property
    def needs_node(self) -> bool:
        return self.do not in _WHOM


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
    ("running", "pause"): "paused",
    ("running", "restart"): "running",
    ("running", "revoke"): "revoked",
    ("paused", "kill"): "dead",
    ("paused", "resume"): "running",
    ("paused", "revoke"): "revoked",
    ("dead", "restart"): "running",
    ("dead", "revoke"): "revoked",
}
"""(state of a member, verb) -> its state afterwards; what is missing cannot be done."""
_FOR_GOOD: Final = {"dead": "killed for good", "paused": "stopped for good", "revoked": "revoked"}


def impossible(faults: Sequence[Fault]) -> tuple[int, str] | None:
    """The first fault that cannot be done to its member then: (its index, one clause why); None: all can.

    Faults of one moment are taken in the order of the list, as ``Timeline`` does.
    """
    states: dict[str, str] = {}
    for index, fault in in_order(faults):
        verb = fault.do.removesuffix("-gateway").removesuffix("-broker")
        member = fault.member
        state = states.get(member, "running")
        if fault.do == "kill-broker" and states.get(GATEWAY) == "dead":
            return index, f"nobody starts the broker again: the gateway is dead at {fault.at_s:g} s"
        if fault.do == "revoke" and states.get(GATEWAY) == "dead":
            return index, f"nobody can revoke: the gateway is dead at {fault.at_s:g} s"
        after = _STATES.get((state, verb))
        if after is None:
            return index, f"{member} is {state} at {fault.at_s:g} s"
        if member != BROKER:  # the gateway starts it again by itself
            states[member] = after
    return None


def in_order(faults: Sequence[Fault]) -> list[tuple[int, Fault]]:
    """(index in the list, fault) by time."""
    return sorted(enumerate(faults), key=lambda each: (each[1].at_s, each[0]))


def gone(faults: Sequence[Fault]) -> Iterator[tuple[str, str]]:
    """(node, why) of those that are not there at the end: nobody can ask them for what they had promised."""
    states: dict[str, tuple[str, float]] = {}
    for _, fault in in_order(faults):
        if fault.needs_node:
            after = _STATES.get((states.get(fault.node, ("running", 0.0))[0], fault.do), "running")
            states[fault.node] = (after, fault.at_s)
    for node, (state, at_s) in sorted(states.items()):
        if state != "running":
            yield node, f"{node} was {_FOR_GOOD[state]} at {at_s:.1f} s"


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
