"""Evidence: what can be seen of a run from outside its members, and what lies on their disks at the end.

    doors    Asked, Answered, Told          what a client at a node's control socket says and hears
    boards   Ran, Crashed, Started          what somebody standing beside the machines sees
    wires    Framed, Reached                every payload at the broker: from whom, and whom it reached
    people   Revoked, Happened, Sampled     what an operator did, what was broken, what `status` answers
    end      End                            the disks, read after everybody has stopped

Checkers are told of each as it happens and judge at the end; they see no core from inside, so no defect of a
core can hide from them by being believed. ``at_ns`` is true time everywhere, never a node's clock, and events
come in its order. A client says each thing once: a second Told of a task is a second delivery.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import msgspec

from edge_node.store.cells import CellId, State
from edge_node.tasks.task import ANY
from edge_node.wire.messages import StoryEntry

HEAL: Final = "heal"
"""``Happened.do``: the end of every fault."""
ENDED: Final = "ended"
"""``Happened.detail`` of the end of a fault that has one."""
STOPS_A_NODE: Final = {"pause": "resume", "disk-full": "disk-free", "disk-error": "disk-free", "slow": ""}
"""Faults under which a node cannot keep its own times, and the verb that ends them (beside ENDED)."""
DAMAGES_A_STORE: Final = ("disk-flip", "disk-truncate", "disk-zero")
"""Faults, moments all, after which a store may have lost what it acknowledged, if it names it."""
NO_CLOCK: Final = "no-clock"
"""Not a fault: it booted without an RTC, and does not know the time yet."""
CLOCK_LIES: Final = ("clock-step", NO_CLOCK)
"""From then on the node's wall clock is wrong; also for one that boots without knowing the time."""
JOINS_AGAIN: Final = "join"
"""A revoked name is a member again, with other keys."""


class Asked(msgspec.Struct, frozen=True):
    """A client handed a task to its node. `marker`: bytes within its input that no link may show.
    `where`: it may run there alone; "any": wherever it fits."""

    at_ns: int
    node: str
    task: str
    function: str
    ttl_ns: int
    """True nanoseconds within which it must be settled, once accepted."""
    marker: bytes = b""
    where: str = ANY


class Answered(msgspec.Struct, frozen=True):
    """The node's word on it: accepted, or refused with a reason."""

    at_ns: int
    node: str
    task: str
    accepted: bool
    reason: str = ""
    cause: str = ""
    """Of a refusal: the id that it told for `why`."""


class Told(msgspec.Struct, frozen=True):
    """The client heard how its task ended."""

    at_ns: int
    node: str
    task: str
    status: str
    place: str


class Ran(msgspec.Struct, frozen=True):
    """A worker of `node` ended an attempt; `status` as its completion has it, "killed" if the node died."""

    started_ns: int
    at_ns: int
    node: str
    task: str
    attempt: int
    status: str


class Crashed(msgspec.Struct, frozen=True):
    """`how`: kill (the disk keeps what the kernel has), power (only what was fsynced), stop (in order)."""

    at_ns: int
    node: str
    how: str


class Started(msgspec.Struct, frozen=True):
    """A process of `node` runs (again) and takes work."""

    at_ns: int
    node: str


class Framed(msgspec.Struct, frozen=True):
    """`sender` (the name its connection bears) published this at the broker."""

    at_ns: int
    sender: str
    topic: str
    payload: bytes


class Reached(msgspec.Struct, frozen=True):
    """A published payload was handed to `reader`."""

    at_ns: int
    reader: str
    topic: str
    payload: bytes


class Revoked(msgspec.Struct, frozen=True):
    """The gateway told its operator that `node` is out."""

    at_ns: int
    node: str


class Wrote(msgspec.Struct, frozen=True):
    """A client changed something in the replicated tables. `change`: its name, of no other in its mesh.

    `over`: the changes whose values it saw there, in the same turn, and so replaces. `field`: of a put; a
    removal is of a whole document.
    """

    at_ns: int
    node: str
    change: str
    what: Literal["put", "remove", "count", "add", "discard"]
    table: str
    key: str = ""
    field: str = ""
    amount: int = 0
    over: tuple[str, ...] = ()


class Kept(msgspec.Struct, frozen=True):
    """The node's word on a change: it is on the disk (`reason` empty), or it was not made.

    `safe`: somebody beside the machine has looked, and found it there.
    """

    at_ns: int
    node: str
    change: str
    reason: str = ""
    safe: bool = True


class Restored(msgspec.Struct, frozen=True):
    """The tables of a machine went back to an earlier copy, as from a backup."""

    at_ns: int
    node: str
    copied_ns: int
    """When that was made."""


class Happened(msgspec.Struct, frozen=True):
    """A fault was injected, or ended: `do` as in the scenario; "heal" is the end of all of them.

    `node`: whom it befell, empty: everybody, or nobody in particular. `detail`: "ended" where it ends.
    """

    at_ns: int
    do: str
    node: str = ""
    detail: str = ""


class Sampled(msgspec.Struct, frozen=True):
    """What `edge-node status` answers; None where nobody answers."""

    at_ns: int
    node: str
    status: Mapping[str, Any] | None


Event = (
    Asked | Answered | Told | Ran | Crashed | Started | Framed | Reached | Wrote | Kept | Restored | Revoked
    | Happened | Sampled
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a ledger as it lies on the disk (see ``edge_node.tasks.journal``): its checksum holds."""

    task: str
    kind: int
    at_ms: int
    state: str
    body: bytes
    written_ns: int | None = None
    """True time at which the disk had it for good (fsync); None: not known."""


@dataclass(frozen=True, slots=True)
class Chronicled:
    """What a node's archive holds, oldest first. `forgotten`: it is not all that was noted."""

    entries: tuple[StoryEntry, ...]
    forgotten: bool = False


@dataclass(frozen=True, slots=True)
class Tables:
    """The replicated tables as they lie on one disk. `mesh`: whose member it is. `losses`: what its lives and
    this reading named as damaged. `unread`: of that, something that no life has read yet."""

    mesh: str
    cells: Mapping[CellId, State]
    canonical: bytes
    losses: tuple[str, ...] = ()
    unread: bool = False


@dataclass(slots=True)
class End:
    """The end of a run."""

    at_ns: int
    healed_ns: int | None
    """When every fault had ended; None: the run had no liveness phase."""
    ledgers: Mapping[str, list[Row]]
    """Of every node whose disk can be read, also of those that are gone for good."""
    damaged: Mapping[str, list[str]]
    """What a node's own journal named as damaged."""
    gone: Mapping[str, str]
    """Nodes that are not there at the end on purpose, and why: kill, stop, revoke, …"""
    keys: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    """The key store of every node: name of the file -> bytes."""
    chronicles: Mapping[str, Chronicled] = field(default_factory=dict)
    """Of every node; not of those whose disk went with them."""
    tables: Mapping[str, Tables] = field(default_factory=dict)
    """Of every node whose disk can be read, if anybody wrote any."""
    outbox_tasks_max: int = 10_000
    outbox_bytes_max: int = 64 * 1024 * 1024


Word = Literal["passed", "failed", "not applicable"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A checker's word. `violations`: one line each, the first twenty of `total`; `why`: of "not applicable",
    and what a "passed" leaves out."""

    name: str
    promise: str
    word: Word
    violations: tuple[str, ...] = ()
    why: str = ""
    first_ns: int | None = None
    """The moment of the first violation, where it has one: shortening a run begins there."""
    total: int = 0


class Checker(Protocol):
    """Judges one promise. Made for one run. `wants`: the kinds of event that it is told of."""

    name: str
    promise: str

    @property
    def wants(self) -> tuple[type, ...]: ...

    def saw(self, event: Event) -> None: ...
    def verdict(self, end: End) -> Verdict: ...
