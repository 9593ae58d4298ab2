"""The client of a node: a device that hands work to the daemon beside it, and waits for how it ends.

    asks ─► task_of (the daemon's own door) ─► Node.submit ─► Answered ─► Told

It keeps no queue: what is due while its daemon is down, or does not know the function yet, is left out and
counted. After a restart it asks again for everything it was promised, as ``edge-node result`` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from device_sim.virtual.evidence import Answered, Asked, Event, Told
from device_sim.virtual.machine import Machine
from device_sim.virtual.world import World
from edge_node.control import protocol
from edge_node.tasks.asking import task_of
from edge_node.tasks.events import Reply
from edge_node.tasks.task import Outcome, Task
from security.errors import BadInput

if TYPE_CHECKING:
    from device_sim.arrivals import Ask


class Inputs(Protocol):
    """Makes the encoded call of an ask."""

    def of(self, ask: Ask) -> tuple[bytes, bytes]:
        """Returns: (the call as ``values.encode_call`` spells it, the marker within it or nothing)."""


class Client:
    """Args: asks: ascending by time.   begin_ns: of the world, when the asks' time is 0.
    moved: told of its node and how many promises are open there, whenever that changes.
    """

    def __init__(
        self,
        world: World,
        machine: Machine,
        asks: Iterator[Ask],
        inputs: Inputs,
        saw: Callable[[Event], None],
        *,
        begin_ns: int,
        moved: Callable[[str, int], None] | None = None,
    ) -> None:
        self.world = world
        self.machine = machine
        self.left_out: Counter[str] = Counter()
        self.promised: dict[str, None] = {}
        """Accepted, and no word yet on how they ended."""
        self._asks = asks
        self._inputs = inputs
        self._saw = saw
        self._begin_ns = begin_ns
        self._number = 0
        self._moved = moved
        self._next()

    def _next(self) -> None:
        ask = next(self._asks, None)
        if ask is not None:
            self.world.at(self._begin_ns + ask.at_ns, self._due, ask)

    def _due(self, ask: Ask) -> None:
        self._next()
        process = self.machine.process
        if process is None or self.machine.paused:
            self.left_out["its node was away"] += 1
            return
        node = process.node
        call, marker = self._inputs.of(ask)
        self._number += 1
        request = protocol.Submit(
            id=self._number,
            function=ask.function,
            input=call,
            where=ask.where,
            priority=ask.priority,
            deadline_ms=None if ask.deadline_s is None else round(ask.deadline_s * 1000),
            ttl_ms=None if ask.ttl_s is None else round(ask.ttl_s * 1000),
        )
        try:
            task = task_of(
                request,
                origin=node.node_id,
                known=node.publisher,
                wall_ms=node.clock.wall_ms(),
                ttl_ms=node.settings.tasks.ttl_ms,
                entropy=node.entropy,
            )
        except BadInput as refused:
            self.left_out[refused.cause] += 1
            return
        name = self.machine.name
        now_ns = self.world.now_ns
        ttl_ns = task.ttl_ms * 1_000_000
        self._saw(Asked(now_ns, name, task.id, task.function, ttl_ns, marker, task.where))
        node.submit(task, lambda reply: self._answered(task.id, reply))
        node.when_settled(task.id, self._told)

    def _answered(self, task: str, reply: Reply) -> None:
        if reply.accepted:
            self.promised[task] = None
            self._tell()
        self.world.note(self.machine.name, "accepted" if reply.accepted else "refused", task)
        now_ns, name = self.world.now_ns, self.machine.name
        self._saw(Answered(now_ns, name, task, reply.accepted, reply.reason, reply.cause))

    def _tell(self) -> None:
        if self._moved is not None:
            self._moved(self.machine.node_id, len(self.promised))

    def _told(self, task: Task, outcome: Outcome) -> None:
        self._hears(task.id, outcome)

    def _hears(self, task: str, outcome: Outcome) -> None:
        self.promised.pop(task, None)
        self._tell()
        self.world.note(self.machine.name, "told", f"{task} {outcome.status} {outcome.place}")
        self._saw(Told(self.world.now_ns, self.machine.name, task, outcome.status, outcome.place))

    def restarted(self) -> None:
        """Its daemon is back: what became of all that it had promised?"""
        process = self.machine.process
        assert process is not None, "it has just started"
        for task in list(self.promised):
            if task in process.node.open_tasks:
                process.node.when_settled(task, self._told)
                continue
            stored = process.journal.get(task)
            if stored is not None and stored.outcome is not None:
                self._hears(task, stored.outcome)
