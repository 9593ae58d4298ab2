"""The ledger: what this node promised, and the one rule that keeps it.

Accept and terminal record go to the journal as effects; a yes to the client waits for Persisted, the work
does not: an offer may go out in the same turn as the accept it depends on, because both can only be undone
together (PersistFailed takes the accept back and the work with it). Records are appended in order, so a
terminal record can never be on the disk without its accept.

Only accept, terminal record and the numbers of later attempts are written. A number is reserved on the disk
*before* it is used: no two attempts ever share one, whatever restarts lie between them. A record reserves
sixteen, and the next life begins above all of them, so that an offer that was merely refused goes on to the
next place without a write (docs/decisions/0017).

In: accept, fence, close, persisted, failed. Out: Append, Reply, Settled. Not here: where work runs (`desk`).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from edge_node.tasks.agenda import Agenda
from edge_node.tasks.events import Append, Effect, Reply, Settled
from edge_node.tasks.states import TRANSITIONS, Refusal, State, Status
from edge_node.tasks.task import (
    DIED,
    INPUT_BYTES_MAX,
    KNOWN_MS,
    Accepted,
    Attempt,
    Closed,
    Fenced,
    Outcome,
    Record,
    Task,
)

if TYPE_CHECKING:
    from edge_node.scheduling.placement import Why

MILLISECOND = 1_000_000
SECOND = 1_000_000_000
SETTLED_KEPT = 16_384
"""Ids remembered after settling, to tell a late duplicate from a stray; the journal knows the rest."""
RESERVED = 16
"""Numbers that an accept, or a fence, reserves: its own and those after it."""
REWRITE_NS = SECOND
"""A terminal record that could not be written is tried again this often."""


class Entry:
    """An accepted (or being accepted) task at its owner."""

    __slots__ = (
        "accept_serial", "asked_again", "attempt", "attempts", "cancel_tokens", "close_serial",
        "deadline_ns", "deaths", "died_on", "durable", "excluded", "expires_ns", "fence_number",
        "fence_serial", "granted", "granted_at_ms", "not_before_ns", "note", "outcome", "pid", "place",
        "refusals", "reserved", "started_at_ms", "state", "task", "tokens", "why", "written",
    )  # fmt: skip

    def __init__(self, task: Task, attempt: int, expires_ns: int, deadline_ns: int | None) -> None:
        self.task = task
        self.state = State.WAITING
        self.attempt = attempt  # the number of the newest attempt that may be out there, or goes out next
        self.reserved = attempt + RESERVED - 1  # the last number that is ours without another write
        self.written = attempt  # the highest that a record bears
        self.attempts: list[Attempt] = []  # those that ended
        self.granted = 0  # the number last handed out: the fence below which results are late
        self.granted_at_ms = 0  # when that was
        self.place: str | None = None  # who got it; stays known after a lapse
        self.pid = 0
        self.started_at_ms = 0
        self.deadline_ns = deadline_ns
        self.expires_ns = expires_ns
        self.tokens: list[int] = []  # clients waiting for the accept
        self.cancel_tokens: list[int] | None = None
        self.durable = False
        self.accept_serial = 0
        self.fence_serial = 0
        self.fence_number = 0
        self.close_serial = 0
        self.outcome: Outcome | None = None
        self.deaths = 0
        self.died_on: list[str] | None = None
        self.excluded: dict[str, str] | None = None  # place -> why it will never run this
        self.asked_again: dict[str, int] | None = None  # place -> refusals that may pass soon
        self.refusals = 0
        self.not_before_ns = 0  # back-off after a refusal
        self.why: Why | None = None
        self.note = ""  # the last thing that went wrong

    def move(self, state: State) -> None:
        if state is not self.state:
            assert state in TRANSITIONS[self.state], f"{self.task.id}: {self.state} -> {state}"
            self.state = state


class Ledger:
    def __init__(self, me: str, *, tasks_max: int, bytes_max: int, ttl_ms_max: int) -> None:
        self._me = me
        self._tasks_max = tasks_max
        self._bytes_max = bytes_max
        self._ttl_ms_max = ttl_ms_max
        self.open: dict[str, Entry] = {}
        self.open_bytes = 0
        self.full = False  # told so
        self.full_until_ns = 0  # seen by a write that failed; the door opens again to try
        self.unwritable = ""  # why the last accept, or an end, could not be written; empty once one could
        self._ends_failed: set[str] = set()
        self._serial = 0
        self._pending: dict[int, Entry] = {}
        self._recent: OrderedDict[str, str] = OrderedDict()  # id -> status
        self._expiry = Agenda()
        self._rewrite = Agenda()

    # ── the door ──────────────────────────────────────────────────────────────────────────────────────
    def refusal(self, now_ns: int, task: Task) -> tuple[Refusal, str] | None:
        """Why this task cannot be accepted now, with a sentence; nothing accepted is ever evicted for it."""
        size = len(task.input)
        if size > INPUT_BYTES_MAX:
            return Refusal.TOO_LARGE, f"{size} bytes of arguments; at most {INPUT_BYTES_MAX} fit"
        if task.ttl_ms <= 0 or (task.deadline_ms is not None and task.deadline_ms <= 0):
            return Refusal.OVER_DEADLINE, "its deadline or time to live has passed already"
        if task.ttl_ms > self._ttl_ms_max:
            most_s = self._ttl_ms_max / 1e3
            return Refusal.TOO_LONG, f"a ttl of {task.ttl_ms / 1e3:g} s; at most {most_s:g} s are kept"
        if self.full or now_ns < self.full_until_ns:
            return Refusal.STORE_FULL, self.unwritable or "the disk under the journal is full"
        if len(self.open) >= self._tasks_max:
            return Refusal.OUTBOX_FULL, f"{len(self.open)} tasks are open already; wait for some to end"
        if self.open_bytes + size > self._bytes_max:
            return Refusal.OUTBOX_FULL, f"{self.open_bytes} bytes of arguments are open already"
        return None

    def known(self, task_id: str) -> Entry | str | None:
        """The open entry, the status it settled with if that is recent, or None."""
        return self.open.get(task_id) or self._recent.get(task_id)

    def accept(self, now_ns: int, task: Task, token: int, out: list[Effect]) -> Entry:
        entry = self._entry(now_ns, task, 0, attempt=1)
        entry.tokens.append(token)
        entry.accept_serial = self._append(entry, Accepted(task), out)
        return entry

    def restore(self, now_ns: int, wall_ms: int, task: Task, attempts: list[Attempt]) -> Entry:
        """A task of an earlier life: what may be out there of it is fenced off by a new number.

        What is left of its time is told by the wall clock, which may have jumped: never more than it had, and
        all of it where it was accepted by a clock that did not know the time.
        """
        age_ms = max(0, wall_ms - task.accepted_at_ms) if task.accepted_at_ms >= KNOWN_MS else 0
        entry = self._entry(now_ns, task, age_ms, attempt=1)
        entry.durable = True
        for attempt in attempts:
            entry.attempt = max(entry.attempt, attempt.number)
            if attempt.ended_as:
                entry.attempts.append(attempt)
                if attempt.ended_as == DIED:
                    entry.deaths += 1
                    entry.died_on = [*(entry.died_on or ()), attempt.node]
        if all(attempt.number != entry.attempt for attempt in entry.attempts):
            entry.attempts.append(Attempt(entry.attempt, "", ended_as="lost in a restart"))
        # Any number that its last record reserved may have gone out.
        entry.written = entry.attempt
        entry.attempt = entry.reserved = entry.attempt + RESERVED - 1
        entry.note = "taken up again after a restart"
        return entry

    def take_back(self, now_ns: int, wall_ms: int, task: Task, attempt: Attempt, out: list[Effect]) -> Entry:
        """As `restore`, of a task whose accept has to be written again; what follows is written after it."""
        entry = self.restore(now_ns, wall_ms, task, [attempt])
        entry.durable = False
        entry.accept_serial = self._append(entry, Accepted(task), out)
        return entry

    def _entry(self, now_ns: int, task: Task, age_ms: int, *, attempt: int) -> Entry:
        deadline_ns = None
        if task.deadline_ms is not None:
            deadline_ns = now_ns + max(0, task.deadline_ms - age_ms) * MILLISECOND
        expires_ns = now_ns + max(0, task.ttl_ms - age_ms) * MILLISECOND
        if deadline_ns is not None and deadline_ns < expires_ns:
            expires_ns = deadline_ns
        entry = Entry(task, attempt, expires_ns, deadline_ns)
        self.open[task.id] = entry
        self.open_bytes += len(task.input)
        self._expiry.set(task.id, expires_ns)
        return entry

    # ── what is written ───────────────────────────────────────────────────────────────────────────────
    def _append(self, entry: Entry, record: Record, out: list[Effect]) -> int:
        self._serial += 1
        self._pending[self._serial] = entry
        out.append(Append(self._serial, (record,)))
        return self._serial

    def note(self, record: Record, out: list[Effect]) -> None:
        """A record nothing waits for."""
        self._serial += 1
        out.append(Append(self._serial, (record,)))

    def fence(self, entry: Entry, out: list[Effect]) -> None:
        """Reserve the next attempt number; the task may be placed once this is on the disk."""
        entry.move(State.FENCING)
        entry.fence_serial = self._reserve(entry, out)
        entry.fence_number = entry.written

    def remember(self, entry: Entry, out: list[Effect]) -> None:
        """How its attempts ended has changed, and must outlive this life; nothing waits for it."""
        self._reserve(entry, out)

    def _reserve(self, entry: Entry, out: list[Effect]) -> int:
        entry.written = max(entry.attempt, entry.written) + 1
        attempts = (*entry.attempts, Attempt(entry.written, ""))
        return self._append(entry, Fenced(entry.task.id, attempts), out)

    def renumber(self, entry: Entry) -> bool:
        """The next number, of those that are reserved already. False: it takes a fence."""
        if entry.attempt >= entry.reserved:
            return False
        entry.move(State.WAITING)
        entry.attempt += 1
        return True

    def close(self, entry: Entry, outcome: Outcome, out: list[Effect]) -> None:
        """Decide: whatever comes after this is a duplicate."""
        entry.move(State.CLOSING)
        entry.outcome = outcome
        self._expiry.drop(entry.task.id)
        entry.close_serial = self._append(entry, Closed(entry.task.id, outcome), out)

    def persisted(self, serial: int, out: list[Effect]) -> Entry | None:
        """An entry whose next attempt may now go out, or None."""
        entry = self._pending.pop(serial, None)
        if entry is None or entry.state is State.DROPPED:
            return None
        if serial == entry.accept_serial:
            entry.durable = True
            self.unwritable = ""
            for token in entry.tokens:
                out.append(Reply(token, True, "", entry.task.id))
            entry.tokens.clear()
            return None
        if serial == entry.close_serial:
            if entry.task.id in self._ends_failed:  # a small end alone says little: the log may have had room
                self.unwritable = ""
            self._settle(entry, out)
            return None
        if self._fenced(entry, serial) is None:
            return None
        entry.reserved = entry.attempt + RESERVED - 1
        return entry

    def failed(self, serial: int, now_ns: int, reason: str, out: list[Effect]) -> Entry | None:
        """The entry that has to be dropped (its accept was lost) or placed (its fence was), or None."""
        self.full_until_ns = now_ns + REWRITE_NS
        self.unwritable = reason or "the journal cannot be written"
        entry = self._pending.pop(serial, None)
        if entry is None or entry.state is State.DROPPED:
            return None
        if serial == entry.accept_serial:
            for token in entry.tokens:
                out.append(Reply(token, False, Refusal.STORE_FULL, entry.task.id, reason))
            for token in entry.cancel_tokens or ():
                out.append(Reply(token, False, Refusal.UNKNOWN_TASK, entry.task.id))
            entry.move(State.DROPPED)
            self._forget(entry)
            return entry
        if serial == entry.close_serial:
            self._rewrite.set(entry.task.id, now_ns + REWRITE_NS)
            self._ends_failed.add(entry.task.id)
            return None
        # Going on unfenced only risks that a later life uses this number again, and not even that while an
        # earlier record has reserved it; standing still would break the promise for certain.
        return self._fenced(entry, serial)

    def _fenced(self, entry: Entry, serial: int) -> Entry | None:
        if serial != entry.fence_serial or entry.state is not State.FENCING:
            return None
        entry.move(State.WAITING)
        entry.attempt = entry.fence_number
        return entry

    def _settle(self, entry: Entry, out: list[Effect]) -> None:
        assert entry.outcome is not None
        entry.move(State.SETTLED)
        self._forget(entry)
        self._recent[entry.task.id] = entry.outcome.status
        if len(self._recent) > SETTLED_KEPT:
            self._recent.popitem(last=False)
        out.append(Settled(entry.task.id, entry.outcome))
        if entry.cancel_tokens:
            cancelled = entry.outcome.status == Status.CANCELLED
            for token in entry.cancel_tokens:
                reason = "" if cancelled else Refusal.ALREADY_SETTLED
                out.append(Reply(token, cancelled, reason, entry.task.id))

    def _forget(self, entry: Entry) -> None:
        del self.open[entry.task.id]
        self.open_bytes -= len(entry.task.input)
        self._expiry.drop(entry.task.id)
        self._rewrite.drop(entry.task.id)
        self._ends_failed.discard(entry.task.id)

    # ── time ──────────────────────────────────────────────────────────────────────────────────────────
    def expired(self, now_ns: int) -> list[Entry]:
        """Undecided tasks whose deadline or time to live has come; the caller closes them."""
        return [self.open[task] for task in self._expiry.due(now_ns)]

    def rewrite(self, now_ns: int, out: list[Effect]) -> None:
        """Terminal records that could not be written: once more."""
        for task in self._rewrite.due(now_ns):
            entry = self.open[task]
            assert entry.outcome is not None
            entry.close_serial = self._append(entry, Closed(task, entry.outcome), out)

    def deadline_ns(self) -> int | None:
        first, second = self._expiry.next_ns(), self._rewrite.next_ns()
        if first is None or second is None:
            return first if second is None else second
        return min(first, second)

    def check(self) -> None:
        assert self.open_bytes == sum(len(entry.task.input) for entry in self.open.values())
        for task, entry in self.open.items():
            assert entry.task.id == task
            assert 1 <= entry.granted + 1 <= entry.attempt + 1
            assert entry.state not in (State.SETTLED, State.DROPPED)
            closing = entry.state is State.CLOSING
            assert (entry.outcome is not None) == closing
            assert (task in self._expiry) != closing, "an undecided task has an end"
            if closing:
                assert entry.close_serial in self._pending or task in self._rewrite
            if entry.state is State.FENCING:
                assert entry.fence_serial in self._pending
            assert entry.durable or entry.accept_serial in self._pending
