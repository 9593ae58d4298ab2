"""What the desk is told and what it asks for.

Frozen msgspec Structs and not dataclasses: they are made some fifteen times a task, and a frozen
dataclass of eight fields costs 1.5 µs where a Struct costs 0.2 (CPython 3.11).
"""

from __future__ import annotations

import msgspec

from edge_node.chronicle.entry import Details, What
from edge_node.tasks.task import Outcome, Record, Task
from edge_node.wire import messages

# ── events ────────────────────────────────────────────────────────────────────────────────────────────


class Submitted(msgspec.Struct, frozen=True):
    """A client of this node hands in a task; the answer is one Reply with the same token."""

    token: int
    task: Task  # origin and accepted_at_ms are filled in by the shell


class Persisted(msgspec.Struct, frozen=True):
    """Everything of Append(serial) is on the disk. Serials arrive in the order they were appended."""

    serial: int


class PersistFailed(msgspec.Struct, frozen=True):
    """Nothing of Append(serial) is on the disk."""

    serial: int
    reason: str = ""


class Heard(msgspec.Struct, frozen=True):
    """A message of `peer`, as the envelope proved it."""

    peer: str
    message: (
        messages.Message
    )  # Offer | Accept | Refuse | Progress | Result | Cancel | Load | Beat | Pong | About


class WorkStarted(msgspec.Struct, frozen=True):
    """A worker has begun to run this call (not: has it in its pipe)."""

    task: str
    attempt: int
    pid: int
    started_at_ms: int = 0


class WorkDone(msgspec.Struct, frozen=True):
    """How a Run ended. `worker_died`: the process went away and nobody had ordered it (neither timeout,
    memory limit nor Stop); a call that had not begun by then says so by `started_at_ms` 0."""

    owner: str
    task: str
    attempt: int
    status: str  # "done" | "failed" | "cancelled"
    output: bytes = b""
    error: bytes = b""  # encoded TaskError
    log: bytes = b""
    pid: int = 0
    started_at_ms: int = 0
    ended_at_ms: int = 0
    cpu_us: int = 0
    run_us: int = 0
    worker_died: bool = False


class WorkRefused(msgspec.Struct, frozen=True):
    """A Run that cannot be started here: the bundle or the input cannot be had, a requirement is missing."""

    owner: str
    task: str
    attempt: int
    reason: str  # states.Refusal


class PeerUp(msgspec.Struct, frozen=True):
    """The detector believes in this peer (again); may be repeated to refresh the figures."""

    peer: str
    rtt_ns: int | None = None
    labels: dict[str, str] = {}
    roles: tuple[str, ...] = ()
    restarted: bool = False  # its boot id changed: what it held is gone


class PeerDown(msgspec.Struct, frozen=True):
    """It is no candidate any more; may be said again, first quiet and then for certain."""

    peer: str
    quiet: bool = False  # nothing is known against it (our own link ended): its leases run on


class MemberInfo(msgspec.Struct, frozen=True):
    id: str
    labels: dict[str, str] = {}
    roles: tuple[str, ...] = ()


class Members(msgspec.Struct, frozen=True):
    """The active members of the current roster (with or without us): who exists at all.

    The desk keeps `by_id` and never changes it, so that many desks of one process may be told by one event.
    """

    members: tuple[MemberInfo, ...]
    by_id: dict[str, MemberInfo] = {}
    """Made of `members`."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "by_id", {member.id: member for member in self.members})


class DigestHeard(msgspec.Struct, frozen=True):
    """The gateway's word about members that we may never have heard ourselves; second-hand, a second old."""

    entries: tuple[messages.DigestEntry, ...]


class OwnAbilities(msgspec.Struct, frozen=True):
    """Modules that some function requires and that are not installed here; replaces what was said before."""

    lacks: tuple[str, ...] = ()


class CancelAsked(msgspec.Struct, frozen=True):
    """A client of this node; the answer is one Reply with the same token."""

    token: int
    task_id: str


class Drain(msgspec.Struct, frozen=True):
    """Take nothing new, hand back what waits, finish what runs; then comes Drained."""


class Rested(msgspec.Struct, frozen=True):
    """The operator's wish: take no work of others (or take it again), and hand back what waits of theirs."""

    resting: bool
    hand_back: bool = False


class StoreFull(msgspec.Struct, frozen=True):
    full: bool


Event = (
    Submitted | Persisted | PersistFailed | Heard | WorkStarted | WorkDone | WorkRefused
    | PeerUp | PeerDown | Members | DigestHeard | OwnAbilities | CancelAsked | Drain | Rested | StoreFull
)  # fmt: skip

# ── effects ───────────────────────────────────────────────────────────────────────────────────────────


class Append(msgspec.Struct, frozen=True):
    """Write, fsync, then say Persisted(serial). Appends may share a commit, never change their order."""

    serial: int
    records: tuple[Record, ...]


class Look(msgspec.Struct, frozen=True):
    """Ask this peer for its load now, making a session if there is none; the answer is Heard(peer, Pong)."""

    peer: str


class Tell(msgspec.Struct, frozen=True):
    peer: str
    message: messages.Message


class Run(msgspec.Struct, frozen=True):
    """Start this call on a worker, whoever owns it; answers: WorkStarted, then WorkDone (or WorkRefused)."""

    owner: str
    task: str
    attempt: int
    function: str
    digest: bytes
    input: bytes | None  # None: fetch input_digest from the owner first
    input_digest: bytes | None
    input_bytes: int = 0
    timeout_s: float | None = None  # None: a foreign task; the manifest of the digest says
    memory_mb: int | None = None
    expected_s: float | None = None  # None: never seen it run
    budget_ms: int | None = None  # what is left of the deadline
    holders: tuple[str, ...] = ()  # peers that ran this bundle lately, beside the owner
    trace: str = ""  # of who handed the task in


class Stop(msgspec.Struct, frozen=True):
    """End this Run; WorkDone(status "cancelled", or whatever was faster) still comes."""

    task: str
    attempt: int


class Reply(msgspec.Struct, frozen=True):
    """The answer to Submitted or CancelAsked; a yes is on the disk."""

    token: int
    accepted: bool
    reason: str = ""  # states.Refusal
    task_id: str = ""
    detail: str = ""  # one sentence, for people
    cause: str = ""  # of a refused task: the id under which `why` tells of it; the shell fills it in


class Settled(msgspec.Struct, frozen=True):
    """The terminal record is on the disk: wake who waits for it. Told once for a task and process."""

    task_id: str
    outcome: Outcome


class Explain(msgspec.Struct, frozen=True):
    """Something about a task that was not plain, for the chronicle: what the ledger's rows do not tell."""

    task_id: str
    what: What
    place: str = ""  # the other member that had part in it: the holder, or at the holder the owner
    attempt: int = 0
    details: Details = {}
    at_ms: int = 0  # when it was, if that is not now


class Drained(msgspec.Struct, frozen=True):
    """Nothing runs here any more; what we own and did not finish waits in the journal."""


Effect = Append | Tell | Look | Run | Stop | Reply | Settled | Explain | Drained
