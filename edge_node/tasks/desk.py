"""The desk: the one core through which every task of this node passes.

It composes the owner's side (`ledger` what was promised, `leases` who has it, `scheduling` where it should
go) with the holder's side (`holder` what runs here, whoever owns it):

    Submitted ─▶ ledger ─▶ placement ─┬─▶ holder ─▶ Run ─▶ WorkDone ──┬─▶ ledger ─▶ Settled
                 (Append)             └─▶ lease ─▶ Offer ─▶ Result ───┘   (Append)

Every input is an event of `events`, every output an effect of `events`. `handle` and `tick` never wait; a
yes to a client comes after Persisted, the work does not wait for it. Wall time is only written down.

Rules it keeps, whatever is lost, doubled, reordered or restarted around it:
- an accepted task gets exactly one terminal record, and Settled at most once a process;
- only the newest holder's result counts; anything later is counted and noted as a duplicate;
- the number of an attempt is reserved on the disk before it goes out.

Not here: fetching of large inputs and outputs (the shell hands in whole ones), heartbeats, bundles.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from edge_node.chronicle.entry import Details, What
from edge_node.scheduling.estimates import Estimates, FleetWait, class_of
from edge_node.scheduling.placement import (
    HYSTERESIS_S,
    LOCAL_MARGIN,
    Candidate,
    Way,
    Why,
    choose,
    sigma_s,
    transfer_s,
)
from edge_node.scheduling.pool import Pool
from edge_node.tasks.agenda import Agenda
from edge_node.tasks.durations import Durations
from edge_node.tasks.events import (
    Append,
    CancelAsked,
    DigestHeard,
    Drain,
    Drained,
    Effect,
    Event,
    Explain,
    Heard,
    Look,
    MemberInfo,
    Members,
    OwnAbilities,
    PeerDown,
    PeerUp,
    Persisted,
    PersistFailed,
    Reply,
    Rested,
    Run,
    Settled,
    Stop,
    StoreFull,
    Submitted,
    Tell,
    WorkDone,
    WorkRefused,
    WorkStarted,
)
from edge_node.tasks.holder import Holder
from edge_node.tasks.leases import Leases, lease_ns
from edge_node.tasks.ledger import Entry, Ledger
from edge_node.tasks.outbox import Outbox
from edge_node.tasks.states import FULL, NEVER_HERE, PERHAPS_SOON, Refusal, State, Status, refusal
from edge_node.tasks.task import (
    ANY,
    DAY_MS,
    DIED,
    DIED_OF_ANOTHER,
    INLINE_BYTES_MAX,
    INPUT_BYTES_MAX,
    LAPSED,
    LOCAL,
    Accepted,
    Attempt,
    Closed,
    Fenced,
    Noted,
    Outcome,
    Record,
    Task,
)
from edge_node.tasks.view import BREAKER_AFTER, NOTHING, RTT_S_DEFAULT, View, fits, lacking
from edge_node.wire.ids import GATEWAY
from edge_node.wire.messages import (
    About,
    Accept,
    Beat,
    Cancel,
    Held,
    Load,
    Offer,
    Pong,
    Progress,
    Refuse,
    Result,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from random import Random

    from edge_node.tasks.salvage import TakeBack

__all__ = [
    "ANY", "DAY_MS", "INPUT_BYTES_MAX", "LOCAL", "Accepted", "Append", "Attempt", "CancelAsked",
    "Closed", "Desk", "DeskSettings", "DigestHeard", "Drain", "Drained", "Effect", "Event", "Explain",
    "Fenced", "Heard", "Look", "MemberInfo", "Members", "Noted", "Outcome", "OwnAbilities",
    "PeerDown", "PeerUp", "PersistFailed", "Persisted", "Record", "Refusal", "Reply", "Rested", "Run",
    "Settled", "Stop", "StoreFull", "Submitted", "Task", "Tell", "WorkDone", "WorkRefused", "WorkStarted",
]  # fmt: skip

MILLISECOND = 1_000_000
SECOND = 1_000_000_000
CANDIDATES_MAX = 16
"""Peers weighed for one task; a random sample keeps a crowd from herding (placement.md)."""
SAMPLE_MIN = 2
"""With fewer fresh candidates than this, members whose news is old are drawn beside them."""
DRAWS_MAX = 8
FITTING_DRAWN = 64
"""Live peers tried for a task with labels or requirements before all of a large fleet are."""
VIEWS_SPARE = 128
"""Views of peers that are not up and have no work of ours; who went longest ago is forgotten first. What was
measured of it is worth little by then, and of a large mesh a member meets few."""
IDLE_KEPT = 32
IDLE_NS = 2 * SECOND
"""A digest's "idle" is forgotten after two digests."""
AHEAD_TASKS = 2
AHEAD_RTTS = 1.5
"""What one peer gets ahead, a worker: two tasks and what it does in 1.5 round trips. More waits here, where
it can still change its mind: estimates err most in the first burst of an unknown function, and what has been
sent cannot be taken back without a message."""
FEED_TASKS = 4
LOOK_WAIT_S = RTT_S_DEFAULT
"""A wait here that is longer than this is worth a look elsewhere."""
PROMISES_MAX = 2
"""After so many refusals an offer promises nothing any more, and is refused only by a full queue."""
STRANDED_NS = SECOND // 2
STRANDED_TRIED = 32
"""Of the tasks that nobody can take now so many are tried again in that time: one try looks at every member
that is up, and ten thousand of them must not take the loop. News of a peer that fits does not wait for it."""
STRANDED_LOOKED = 1024
"""… of which so many are looked at, in turn."""
SHY_NS = SECOND // 10
"""A peer that just refused or let a lease lapse is not chosen again at once."""
BACKOFF_NS = SECOND // 20
BACKOFF_NS_MAX = 2 * SECOND
BELIEVED_AFTER = 3
"""Refusals like "unknown function" may pass soon: this many of one place make them final."""
REBALANCE_NS = SECOND // 4
REBALANCE_TASKS = 32
REBALANCE_STUCK = 4
"""Tasks with labels that found no better place, after which no more are tried: each looks at every peer."""
REBALANCE_GAIN = 0.7
ATTEMPTS_KEPT = 32
NOTES_PER_S = 50


class DeskSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One node's share of the work."""

    workers: int = 1
    speed: float = 1.0  # relative to the reference board
    outbox_tasks_max: int = 10_000  # open tasks; each costs ~1 KiB of memory plus its input
    outbox_bytes_max: int = 64 * 2**20  # of their inputs
    outbox_ms_max: int = DAY_MS  # that a task may ask to be kept trying
    poison_deaths: int = 3  # workers a task may take down before it is quarantined
    queue_tasks_max: int = 4096  # foreign tasks waiting here
    queue_s_max: float = 30.0  # the longest wait we promise a foreign task
    offers_max: int = 512  # unanswered at one peer; more wait here, where they can still change their mind
    reach: str = "all"  # "gateway": offload to the gateway only; "all": to every member


_UNKNOWN_WAY = Way()
_Place = tuple[str, dict[str, str], frozenset[str]]


def _unknown_way(peer: str) -> Way:
    return _UNKNOWN_WAY


class Desk:
    def __init__(
        self,
        me: str,
        *,
        settings: DeskSettings,
        rng: Random,
        labels: dict[str, str] | None = None,
        way: Callable[[str], Way] = _unknown_way,
        untaken: Callable[[str], int] = lambda _peer: 0,
    ) -> None:
        """``way(peer)``: what is known of the way there.
        ``untaken(peer)``: bytes that were sent to this peer and that it has not acknowledged.
        """
        self.me = me
        self._way = way
        self._settings = settings
        self._rng = rng
        self._labels = dict(labels or {})
        self._lacks: frozenset[str] = frozenset()
        self._kind = class_of(settings.speed, self._labels.get("class", ""))
        self._everyone = settings.reach == "all"
        self.estimates = Estimates()
        self._fleet = FleetWait()
        self._ledger = Ledger(
            me, tasks_max=settings.outbox_tasks_max, bytes_max=settings.outbox_bytes_max,
            ttl_ms_max=settings.outbox_ms_max,
        )  # fmt: skip
        self._leases = Leases()
        self._holder = Holder(
            me, self.estimates, workers=settings.workers, speed=settings.speed,
            queue_tasks_max=settings.queue_tasks_max, queue_s_max=settings.queue_s_max, untaken=untaken,
        )  # fmt: skip
        self._holder.kind = self._kind
        self._views: dict[str, View] = {}
        self._away: dict[str, None] = {}  # of those, who is not up; the longest so first
        self._live: list[View] = []  # in the order they came up
        self._capacity_max = 1.0  # the most that one of them can do, tasks a second of the reference board
        self._pool = Pool()
        # Announced idle and not up for us: when, and the digest's word on its workers and speed.
        self._idle: OrderedDict[str, tuple[int, int, float]] = OrderedDict()
        self._members: dict[str, MemberInfo] | None = None  # None: no roster has been seen yet
        self._lacking: dict[str, frozenset[str]] = {}  # modules that members said they do not have
        self._retry = Agenda()
        self._opens = Agenda()  # peers, when something of their outbox may be let through
        self._stranded: dict[str, None] = {}
        self._rebalance_ns = 0
        self._drained = False
        self._notes_left = float(NOTES_PER_S)
        self._notes_ns = 0
        self._wall_ms = 0
        # Counters since the start of the process.
        self.accepted = 0
        self.restored = 0
        self.settled: dict[str, int] = {status.value: 0 for status in Status}
        self.by_place: dict[str, int] = {"local": 0, "gateway": 0, "peer": 0}
        self.duplicates = 0
        self.strays = 0
        self.redispatched = 0
        self.lapsed = 0
        self.worker_deaths = 0
        self.durations = Durations()
        self.refused: dict[str, int] = {}  # at our door
        self.refused_by_peers: dict[str, int] = {}
        self._handlers: dict[type, Any] = {
            Submitted: self._submitted,
            Persisted: self._persisted,
            PersistFailed: self._persist_failed,
            Heard: self._heard,
            WorkStarted: self._work_started,
            WorkDone: self._work_done,
            WorkRefused: self._work_refused,
            PeerUp: self._peer_up,
            PeerDown: self._peer_down,
            Members: self._members_changed,
            DigestHeard: self._digest_heard,
            OwnAbilities: self._own_abilities,
            CancelAsked: self._cancel_asked,
            Drain: self._drain,
            Rested: self._rested,
            StoreFull: self._store_full,
        }
        self._ears: dict[type, Any] = {
            Offer: self._offered,
            Accept: self._accepted,
            Refuse: self._refused_by,
            Progress: self._progressed,
            Result: self._result,
            Cancel: self._cancelled_by,
            Load: self._load_heard,
            Beat: self._beat,
            Pong: self._pong,
            About: self._about,
        }

    # ── the core's four doors ─────────────────────────────────────────────────────────────────────────
    def handle(self, now_ns: int, wall_ms: int, event: Event) -> list[Effect]:
        out: list[Effect] = []
        self._wall_ms = wall_ms
        self._handlers[type(event)](now_ns, event, out)
        self._finish(now_ns, out)
        return out

    def tick(self, now_ns: int, wall_ms: int) -> list[Effect]:
        out: list[Effect] = []
        self._wall_ms = wall_ms
        for entry in self._ledger.expired(now_ns):
            self._expire(now_ns, entry, out)
        self._ledger.rewrite(now_ns, out)
        for task in self._leases.lapsed(now_ns):
            self._lapse(now_ns, task, "lease lapsed", out)
        for name in self._opens.due(now_ns):
            opened = self._views.get(name)
            if opened is not None:
                self._drain_outbox(now_ns, opened, out)
        for task in self._retry.due(now_ns):
            due = self._ledger.open.get(task)
            if due is not None and due.state is State.WAITING:
                self._place(now_ns, due, out)
        self._holder.tick(now_ns, out)
        if now_ns >= self._rebalance_ns:
            self._rebalance(now_ns, out)
        self._finish(now_ns, out)
        return out

    def deadline_ns(self) -> int | None:
        """When `tick` has something to do next."""
        if not self._ledger.open and not self._holder.queued:  # leases and retries are of open tasks
            return self._holder.deadline_ns()
        soonest: int | None = None
        for at_ns in (
            self._ledger.deadline_ns(),
            self._leases.deadline_ns(),
            self._retry.next_ns(),
            self._opens.next_ns(),
            self._holder.deadline_ns(),
            self._rebalance_ns if self._holder.queued and self._live else None,
        ):
            if at_ns is not None and (soonest is None or at_ns < soonest):
                soonest = at_ns
        return soonest

    def check(self) -> None:
        self._ledger.check()
        self._leases.check()
        self._holder.check()
        self._pool.check()
        assert len(self._idle) <= IDLE_KEPT
        assert self._away.keys() == {view.name for view in self._views.values() if not view.up}
        assert self._members is None or {*self._views, *self._lacking} <= self._members.keys()
        assert {view.name for view in self._live} == {
            v.name for v in self._views.values() if self._open_to(v)
        }
        for task, entry in self._ledger.open.items():
            lease = self._leases.of(task)
            if lease is not None:
                assert entry.state is State.PLACED
                assert (lease.holder, lease.attempt) == (entry.place, entry.granted)
            elif entry.state is State.PLACED:
                assert entry.place == self.me
            assert entry.granted <= entry.attempt
            if entry.state is State.WAITING and not self._holder.draining:
                forced = self._views.get(GATEWAY if entry.task.where == GATEWAY else entry.task.where)
                sent_later = forced is not None and entry in (forced.outbox or ())
                assert sent_later or task in self._retry, f"{task} waits for nothing"
        for task in self._leases._held:
            assert task in self._ledger.open
        for view in self._views.values():
            view.check()
            if view.up and view.outbox and view.outbox.waiting:
                somewhen = view.name in self._opens or self._leases.count(view.name)
                assert somewhen, f"nobody lets through who waits for {view.name}"

    def _finish(self, now_ns: int, out: list[Effect]) -> None:
        holder = self._holder
        if holder.queued:
            holder.release(now_ns, out)
        if holder.draining and not self._drained and holder.idle:
            self._drained = True
            out.append(Drained())

    # ── what others may ask ───────────────────────────────────────────────────────────────────────────
    def holds_lease(self, peer: str) -> bool:
        """Does work of ours lie with this peer?"""
        return self._leases.count(peer) > 0

    def lent(self, peer: str) -> int:
        """How many tasks of ours lie with this peer, waiting or running there."""
        return self._leases.count(peer)

    @property
    def works_wait(self) -> bool:
        """Is there work here that no worker has yet?"""
        return self._holder.queued > 0

    def load(self, now_ns: int) -> Load:
        return self._holder.load(now_ns)

    def task(self, task_id: str) -> Task | None:
        """An open task of ours, also one whose accept is not on the disk yet."""
        entry = self._ledger.open.get(task_id)
        return entry.task if entry is not None else None

    def state(self, task_id: str) -> tuple[str, str] | None:
        """(state, place) of an open task of ours."""
        entry = self._ledger.open.get(task_id)
        return None if entry is None else (entry.state.value, entry.place or "")

    def expects(self, peer: str, task_id: str, attempt: int) -> bool:
        """Whether a result of this attempt from this peer would count now."""
        entry = self._ledger.open.get(task_id)
        return (
            entry is not None
            and entry.state is not State.CLOSING
            and (entry.granted, entry.place) == (attempt, peer)
        )

    def why(self, task_id: str) -> Why | None:
        entry = self._ledger.open.get(task_id)
        return entry.why if entry is not None else None

    @property
    def open_tasks(self) -> int:
        return len(self._ledger.open)

    @property
    def read_only(self) -> str:
        """Why nothing can be accepted durably. Empty: it can, as far as the last write tells."""
        return self._ledger.unwritable or ("the disk is full" if self._ledger.full else "")

    def status(self, now_ns: int) -> dict[str, object]:
        """Counters and figures, for people."""
        return {
            "accepted": self.accepted,
            "restored": self.restored,
            "open": len(self._ledger.open),
            "open_bytes": self._ledger.open_bytes,
            "completed": self.settled[Status.DONE],
            "failed": self.settled[Status.FAILED],
            "settled": dict(self.settled),
            "by_place": dict(self.by_place),
            "duplicates": self.duplicates,
            "strays": self.strays,
            "redispatched": self.redispatched,
            "lapsed": self.lapsed,
            "worker_deaths": self.worker_deaths,
            "refused": dict(self.refused),
            "refused_by_peers": dict(self.refused_by_peers),
            "refused_peers": dict(self._holder.refused),
            "leases": len(self._leases),
            "outbox": {
                view.name: {"tasks": len(waiting), "bytes": sum(len(entry.task.input) for entry in waiting)}
                for view in self._views.values()
                if view.outbox and (waiting := view.outbox.waiting)
            },
            "queued_here": self._holder.queued,
            "running_here": self._holder.running,
            "backlog_s": self._holder.backlog_s(now_ns),
            "peers_in_reach": len(self._live),
            "probes": self._pool.looks,
            "draining": self._holder.draining,
            "resting": self._holder.resting,
            "store_full": self.read_only != "",
        }

    # ── the door ──────────────────────────────────────────────────────────────────────────────────────
    def restore(
        self, now_ns: int, wall_ms: int, open_tasks: Iterable[tuple[Task, Sequence[Attempt]]]
    ) -> list[Effect]:
        """Take up again what an earlier life accepted and did not settle; call it once, before any event."""
        out: list[Effect] = []
        self._wall_ms = wall_ms
        for task, attempts in open_tasks:
            entry = self._ledger.restore(now_ns, wall_ms, task, list(attempts))
            self.restored += 1
            if entry.deaths >= self._settings.poison_deaths:
                self._quarantine(now_ns, entry, b"", b"", out)
            else:
                self._ledger.fence(entry, out)
        return out

    def held_of(self, now_ns: int, owner: str, after: str) -> Held:
        """What is here of a member whose ledger was damaged."""
        return self._holder.held_of(now_ns, owner, after)

    def knows(self, task_id: str) -> bool:
        """Open here, or settled lately."""
        return self._ledger.known(task_id) is not None

    def take_back(self, now_ns: int, wall_ms: int, back: TakeBack) -> list[Effect]:
        """Accept again what a peer still holds of ours and our damaged ledger has lost."""
        out: list[Effect] = []
        self._wall_ms = wall_ms
        task, peer = back.task, back.peer
        if self._ledger.known(task.id) is not None:
            return out
        entry = self._ledger.take_back(now_ns, wall_ms, task, Attempt(back.attempt, peer), out)
        entry.note = f"restored from a lease at {peer} after the ledger was damaged"
        self._ledger.note(Noted(task.id, wall_ms, entry.note), out)
        self.restored += 1
        result = back.result
        if result is not None:
            entry.attempts[-1] = Attempt(
                back.attempt, peer, result.pid, result.started_at_ms, result.ended_at_ms, result.status
            )
            self._close(
                now_ns, entry, Status(result.status), f"{peer} had kept its result", out,
                output=result.output, error=result.error, log=result.log, place=peer,
                run_us=result.run_us, cpu_us=result.cpu_us,
            )  # fmt: skip
        elif back.ended:
            why = "it has ended there, and its result is too large to be handed back: submit it again"
            self._close(now_ns, entry, Status.FAILED, why, out, place=peer)
        elif not back.runnable:
            why = "its arguments were lost with the ledger: submit it again"
            self._close(now_ns, entry, Status.FAILED, why, out, place=peer)
            out.append(Tell(peer, Cancel(task.id, back.attempt)))
        else:
            self._ledger.fence(entry, out)
        return out

    def _submitted(self, now_ns: int, event: Submitted, out: list[Effect]) -> None:
        task = event.task
        known = self._ledger.known(task.id)
        if known is not None:
            self._submitted_again(event, known, out)
            return
        reason: tuple[Refusal, str] | None
        if self._holder.draining:
            reason = Refusal.DRAINING, f"{self.me} is shutting down"
        else:
            reason = self._ledger.refusal(now_ns, task) or self._nowhere(task)
        if reason is not None:
            self._turn_away(event.token, task.id, *reason, out)
            return
        entry = self._ledger.accept(now_ns, task, event.token, out)
        self._place(now_ns, entry, out)

    def _submitted_again(self, event: Submitted, known: Entry | str, out: list[Effect]) -> None:
        task = event.task
        if isinstance(known, str):
            out.append(Reply(event.token, False, Refusal.DUPLICATE_ID, task.id, f"it has settled: {known}"))
            return
        same = known.task
        if (same.function, same.digest, same.input_sha256) != (task.function, task.digest, task.input_sha256):
            self._turn_away(
                event.token, task.id, Refusal.DUPLICATE_ID, "another task bears this id already", out
            )
        elif known.durable:
            out.append(Reply(event.token, True, "", task.id))
        else:
            known.tokens.append(event.token)

    def _turn_away(self, token: int, task_id: str, reason: Refusal, detail: str, out: list[Effect]) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1
        out.append(Reply(token, False, reason, task_id, detail))

    def _nowhere(self, task: Task) -> tuple[Refusal, str] | None:
        """Why no member at all could run this; members that are away may come back, so they count."""
        where = task.where
        if where not in (ANY, LOCAL, self.me) and self._members is not None and where not in self._members:
            near = ", ".join(sorted({*self._members, self.me})[:8])
            return Refusal.NO_SUCH_NODE, f"{where} is not a member of this mesh; members are {near}"
        if not task.labels and not task.requires:
            return None
        here = (self.me, self._labels, self._lacks)
        if where in (LOCAL, self.me):
            places = [here]
        elif where == ANY:
            if fits(task, self._labels, self._lacks) or self._members is None:
                return None
            if any(fits(task, labels, lacks) for _, labels, lacks in self._reachable()):
                return None
            places = [*self._reachable(), here]
        elif where in self._views or (self._members is not None and where in self._members):
            places = [self._place_of(where)]
        else:
            return None
        if any(fits(task, labels, lacks) for _, labels, lacks in places):
            return None
        name, missing = min(
            ((name, lacking(task, labels, lacks)) for name, labels, lacks in sorted(places, key=_name)),
            key=lambda place: len(place[1]),
        )
        reason = Refusal.LABELS if any("=" in miss for miss in missing) else Refusal.REQUIREMENT
        return reason, f"the nearest is {name}, which lacks {', '.join(missing)}"

    def _store_full(self, now_ns: int, event: StoreFull, out: list[Effect]) -> None:
        self._ledger.full = event.full

    def _persisted(self, now_ns: int, event: Persisted, out: list[Effect]) -> None:
        before = len(out)
        entry = self._ledger.persisted(event.serial, out)
        if entry is not None:
            self.redispatched += 1
            self._place_when_due(now_ns, entry, out)
            return
        if len(out) > before:
            effect = out[before]
            if type(effect) is Settled:
                self._count(effect.outcome)
            else:
                self.accepted += 1

    def _persist_failed(self, now_ns: int, event: PersistFailed, out: list[Effect]) -> None:
        entry = self._ledger.failed(event.serial, now_ns, event.reason, out)
        if entry is None:
            return
        if entry.state is State.DROPPED:
            self.refused[Refusal.STORE_FULL] = self.refused.get(Refusal.STORE_FULL, 0) + 1
            self._recall(entry, out)
            self._forget_waiting(entry)
        else:
            self._place_when_due(now_ns, entry, out)

    def _cancel_asked(self, now_ns: int, event: CancelAsked, out: list[Effect]) -> None:
        known = self._ledger.known(event.task_id)
        if known is None:
            out.append(Reply(event.token, False, Refusal.UNKNOWN_TASK, event.task_id))
        elif isinstance(known, str):
            cancelled = known == Status.CANCELLED
            reason = "" if cancelled else Refusal.ALREADY_SETTLED
            out.append(Reply(event.token, cancelled, reason, event.task_id))
        else:
            known.cancel_tokens = [*(known.cancel_tokens or ()), event.token]
            if known.state is not State.CLOSING:
                self._end_attempt(known, "cancelled")
                self._close(now_ns, known, Status.CANCELLED, "cancelled by its owner", out)

    # ── placing ───────────────────────────────────────────────────────────────────────────────────────
    def _place_when_due(self, now_ns: int, entry: Entry, out: list[Effect]) -> None:
        if entry.not_before_ns > now_ns:
            self._retry.set(entry.task.id, entry.not_before_ns)
        else:
            self._place(now_ns, entry, out)

    def _place(self, now_ns: int, entry: Entry, out: list[Effect]) -> None:
        """Give a waiting task to somebody, or leave it waiting for a reason to come back to it."""
        where = entry.task.where
        if where == ANY:
            self._place_anywhere(now_ns, entry, out)
        elif where in (LOCAL, self.me):
            self._run_here(now_ns, entry, out)
        elif self._members is not None and where not in self._members:
            self._close(now_ns, entry, Status.FAILED, f"{where} is no member any more", out)
        else:
            view = self._view(where)
            if self._lets(now_ns, view):
                self._offer(now_ns, entry, view, self._candidate(now_ns, entry.task, view), out)
            else:
                if view.outbox is None:
                    view.outbox = Outbox()
                view.outbox.put(entry, away=not view.up, open_tasks=len(self._ledger.open))
                self._wait_before(now_ns, view)

    def _lets(self, now_ns: int, view: View) -> bool:
        """May one more of those who can run nowhere else go there now?"""
        return view.lets(now_ns, self._leases.count(view.name), self._settings.offers_max)

    def _wait_before(self, now_ns: int, view: View) -> None:
        """Somebody waits for it: come back when the turnstile opens, if nothing else will make us."""
        opens_ns = view.opens_ns(now_ns)
        if opens_ns is not None:
            self._opens.set(view.name, opens_ns)

    def _place_anywhere(self, now_ns: int, entry: Entry, out: list[Effect]) -> None:
        task = entry.task
        excluded = entry.excluded
        here: Candidate | None = None
        if (
            not self._holder.draining
            and (excluded is None or self.me not in excluded)
            and ((not task.labels and not task.requires) or fits(task, self._labels, self._lacks))
        ):
            here = self._here(now_ns, task, self._holder.wait_s(now_ns))
        candidates = self._peers_for(now_ns, entry, here is not None)
        if here is not None:
            candidates.append(here)
        candidates = self._spared(entry, candidates)
        if not candidates:
            self._stranded[task.id] = None
            self._retry.set(task.id, now_ns + STRANDED_NS * (1 + len(self._stranded) // STRANDED_TRIED))
            self._look(now_ns, out)
            return
        if self._stranded:
            self._stranded.pop(task.id, None)
        left_s = None if entry.deadline_ns is None else (entry.deadline_ns - now_ns) / 1e9
        why = choose(candidates, self.me, left_s, self._rng)
        entry.why = why
        if why.chosen == self.me:
            assert here is not None
            self._run_here(now_ns, entry, out)
            if here.wait_s > LOOK_WAIT_S:
                self._look(now_ns, out)
        else:
            chosen = next(candidate for candidate in candidates if candidate.place == why.chosen)
            self._offer(now_ns, entry, self._views[why.chosen], chosen, out)
            self._look(now_ns, out)

    # ── whom it could go to ───────────────────────────────────────────────────────────────────────────
    def _peers_for(self, now_ns: int, entry: Entry, can_wait: bool) -> list[Candidate]:
        """The pool, the gateway, and where that is too little some whose news is old; at most 16.

        Args: can_wait: it may run here too, so that a peer gets no more than it can use soon.
        """
        if not self._live:
            return []
        task = entry.task
        bound = bool(task.labels or task.requires)
        found = []
        for view in self._sample(now_ns, task, bound):
            if view.shy_until_ns > now_ns or view.wait.draining:
                continue
            if entry.excluded is not None and view.name in entry.excluded:
                continue
            if bound and not fits(task, view.labels, view.lacks):
                continue
            candidate = self._candidate(now_ns, task, view)
            if self._leases.count(view.name) < self._room(view, candidate.service_s, can_wait):
                found.append(candidate)
        return found

    def _sample(self, now_ns: int, task: Task, bound: bool) -> list[View]:
        live = self._live
        if bound:  # few may fit: whoever does is as good as the pool
            if len(live) > FITTING_DRAWN:
                drawn = self._rng.sample(live, FITTING_DRAWN)
                fitting = [view for view in drawn if fits(task, view.labels, view.lacks)]
                if len(fitting) >= SAMPLE_MIN:
                    return fitting[:CANDIDATES_MAX]
            live = [view for view in live if fits(task, view.labels, view.lacks)]
            return live if len(live) <= CANDIDATES_MAX else self._rng.sample(live, CANDIDATES_MAX)
        views = self._views
        found = {name: views[name] for name in self._pool.fresh(now_ns) if views[name].up}
        gateway = views.get(GATEWAY)
        if gateway is not None and gateway.up:
            found[GATEWAY] = gateway
        if len(found) < SAMPLE_MIN:
            if len(live) <= 2 * SAMPLE_MIN:
                return live
            for _ in range(SAMPLE_MIN):
                name = self._draw_live()
                found[name] = views[name]
        return list(found.values())

    def _room(self, view: View, service_s: float, can_wait: bool) -> int:
        """How many of our tasks this peer may have at a time."""
        most = self._settings.offers_max
        if view.trips >= BREAKER_AFTER:
            return 1  # half open
        if not can_wait:
            return most
        wait = view.wait
        rtt_s = wait.rtt_s if wait.rtt_s > RTT_S_DEFAULT else RTT_S_DEFAULT
        return min(most, wait.workers * (AHEAD_TASKS + int(AHEAD_RTTS * rtt_s / service_s + 0.5)))

    def _draw_live(self) -> str:
        """A live peer by capacity (speed and workers) and chance; rejection keeps it O(1) in any fleet."""
        live, random = self._live, self._rng.random
        for _ in range(DRAWS_MAX):
            view = live[int(random() * len(live))]
            if random() * self._capacity_max <= view.wait.speed * view.wait.workers:
                break
        return view.name

    def _draw(self) -> str | None:
        """Whom to look at: a live peer, or one in four times a member that was announced idle."""
        if self._idle and (not self._live or self._rng.random() < 0.25):
            name = list(self._idle)[int(self._rng.random() * len(self._idle))]
            self._view(name)  # remembers that word until it answers
            del self._idle[name]
            return name
        return self._draw_live() if self._live else None

    def _look(self, now_ns: int, out: list[Effect]) -> None:
        idle = self._idle
        while idle and next(iter(idle.values()))[0] + IDLE_NS < now_ns:
            idle.popitem(last=False)
        for name in self._pool.wanted(now_ns, self._draw):
            out.append(Look(name))

    def _candidate(self, now_ns: int, task: Task, view: View) -> Candidate:
        estimates, wait = self.estimates, view.wait
        service, e = estimates.service(task.function, view.name, wait.speed, view.kind)
        wait_s = wait.wait_s(now_ns, service, self._fleet)
        rtt_s, dev_s, queued, bytes_s = self._way(view.name)
        if rtt_s is not None:
            wait.rtt_s, wait.dev_s = rtt_s, dev_s
        bytes_out = estimates.output_bytes(task.function)
        way_s = transfer_s(wait.rtt_s, len(task.input), bytes_out, queued, bytes_s)
        sigma = sigma_s(e, wait_s, wait.rtt_s, wait.dev_s)
        return Candidate(view.name, wait_s, service, way_s, sigma, wait.rtt_s)

    def _here(self, now_ns: int, task: Task, wait_s: float) -> Candidate:
        service, e = self.estimates.service(task.function, self.me, self._settings.speed, self._kind)
        return Candidate(self.me, wait_s, service, 0.0, sigma_s(e, wait_s, 0.0))

    def _run_here(self, now_ns: int, entry: Entry, out: list[Effect]) -> None:
        if self._holder.draining:
            return  # it is in the journal; the next life takes it up
        self._hand_out(entry, self.me, out)
        task = entry.task
        service, _ = self.estimates.service(task.function, self.me, self._settings.speed, self._kind)
        seen = self.estimates.seen(task.function)
        self._holder.add_own(now_ns, task, entry.attempt, service, entry.deadline_ns, seen)

    def _offer(self, now_ns: int, entry: Entry, view: View, candidate: Candidate, out: list[Effect]) -> None:
        task = entry.task
        self._hand_out(entry, view.name, out)
        service_s = candidate.service_s
        answer_s = view.wait.rtt_s + 4.0 * view.wait.dev_s
        length_ns = lease_ns(candidate.wait_s + service_s + candidate.transfer_s, candidate.sigma_s, answer_s)
        self._leases.grant(now_ns, task.id, view.name, entry.attempt, length_ns, service_s)
        view.wait.granted(now_ns, service_s)
        self._pool.served(view.name)
        budget_ms = None
        if entry.deadline_ns is not None:
            budget_ms = max(1, (entry.deadline_ns - now_ns) // MILLISECOND)
        size = len(task.input)
        inline = size <= INLINE_BYTES_MAX
        wait_ms = None
        if task.where == ANY and entry.refusals < PROMISES_MAX:
            wait_ms = min(int(1e3 * candidate.wait_s) + 1, DAY_MS)
        out.append(
            Tell(
                view.name,
                Offer(
                    task.id, entry.attempt, task.function, task.digest, length_ns // MILLISECOND, budget_ms,
                    task.input if inline else None, None if inline else task.input_sha256, size,
                    task.priority, wait_ms, task.trace,
                ),
            )
        )  # fmt: skip

    def _hand_out(self, entry: Entry, place: str, out: list[Effect]) -> None:
        before = entry.place
        if before is not None and before not in (place, self.me):
            out.append(Tell(before, Cancel(entry.task.id, entry.granted)))  # its lease lapsed; do not bother
        entry.move(State.PLACED)
        entry.granted = entry.attempt
        entry.granted_at_ms = self._wall_ms
        entry.place = place
        entry.pid = 0
        entry.started_at_ms = 0

    def _again(self, now_ns: int, entry: Entry, delay_ns: int, out: list[Effect], *, told: bool) -> None:
        """The attempt is over and the task is not: take the next number, then place it.

        Args: told: how it ended must be on the disk first; a refusal need not.
        """
        entry.not_before_ns = now_ns + delay_ns
        if told or not self._ledger.renumber(entry):
            self._ledger.fence(entry, out)
        else:
            self.redispatched += 1
            self._place_when_due(now_ns, entry, out)

    def _spared(self, entry: Entry, candidates: list[Candidate]) -> list[Candidate]:
        """Those where it has not taken a worker down, if any: a place may be ill, and not the task."""
        died_on = entry.died_on
        if died_on is None:
            return candidates
        return [each for each in candidates if each.place not in died_on] or candidates

    def _drain_outbox(self, now_ns: int, view: View, out: list[Effect]) -> None:
        self._opens.drop(view.name)
        outbox = view.outbox
        while outbox and self._lets(now_ns, view):
            entry = outbox.take()
            if entry is not None and entry.task.id not in self._retry:
                self._offer(now_ns, entry, view, self._candidate(now_ns, entry.task, view), out)
        if outbox:
            self._wait_before(now_ns, view)

    def _unstrand(self, now_ns: int, view: View, out: list[Effect]) -> None:
        """News of a peer: tasks that nobody could take and that fit it, as many as it has room for."""
        if not self._open_to(view) or view.shy_until_ns > now_ns or view.wait.draining:
            return
        room = self._room(view, 1.0, False) - self._leases.count(view.name)
        for task_id in list(islice(self._stranded, STRANDED_LOOKED)) if room > 0 else ():
            entry = self._ledger.open.get(task_id)
            del self._stranded[task_id]  # to the end, if it stays: the others have their turn
            if entry is None or entry.state is not State.WAITING:
                continue
            excluded = entry.excluded is not None and view.name in entry.excluded
            if excluded or not fits(entry.task, view.labels, view.lacks):
                self._stranded[task_id] = None
                continue
            self._retry.drop(task_id)
            self._place(now_ns, entry, out)
            room -= 1
            if room <= 0:
                return

    def _rebalance(self, now_ns: int, out: list[Effect]) -> None:
        """Own tasks that still wait for a worker here may by now be done sooner elsewhere.

        Estimates err most when they matter most, in the first burst of an unknown function; what no worker
        has seen can move without a message lost or a number spent.
        """
        self._rebalance_ns = now_ns + REBALANCE_NS
        if not self._live or not self._holder.queued:
            return
        wait_s = self._holder.wait_s(now_ns)
        could_leave = full = False
        stuck = 0
        for task_id in self._holder.own_waiting(REBALANCE_TASKS):
            entry = self._ledger.open[task_id]
            choosy = bool(entry.task.labels or entry.task.requires)  # what holds for one holds for no other
            if stuck >= REBALANCE_STUCK:
                break
            if full and not choosy:
                continue
            could_leave = True
            away = self._peers_for(now_ns, entry, True)
            if not away:
                full, stuck = full or not choosy, stuck + choosy
                continue
            here = self._here(now_ns, entry.task, wait_s)
            left_s = None if entry.deadline_ns is None else (entry.deadline_ns - now_ns) / 1e9
            why = choose([*away, here], self.me, left_s, self._rng)
            chosen = next((candidate for candidate in away if candidate.place == why.chosen), None)
            if chosen is None or chosen.completion_s > REBALANCE_GAIN * here.completion_s:
                full, stuck = full or not choosy, stuck + choosy
                continue
            if entry.died_on is not None and why.chosen in entry.died_on:
                continue
            if self._move(now_ns, entry, self._views[why.chosen], chosen, why, out):
                wait_s = max(0.0, wait_s - here.service_s / self._settings.workers)
        if could_leave and wait_s > LOOK_WAIT_S:
            self._look(now_ns, out)

    def _feed(self, now_ns: int, view: View, out: list[Effect]) -> None:
        """Fresh news of a peer: own tasks that wait here for a worker and end sooner there go there now.

        Late binding: the task goes when a place for it shows, so a wrong first estimate costs little.
        """
        if not self._open_to(view) or view.shy_until_ns > now_ns or view.wait.draining:
            return
        wait_s = self._holder.wait_s(now_ns)
        for task_id in self._holder.own_waiting(FEED_TASKS):
            entry = self._ledger.open[task_id]
            task = entry.task
            if entry.excluded is not None and view.name in entry.excluded:
                continue
            if entry.died_on is not None and view.name in entry.died_on:
                continue
            if (task.labels or task.requires) and not fits(task, view.labels, view.lacks):
                continue
            away = self._candidate(now_ns, task, view)
            if self._leases.count(view.name) >= self._room(view, away.service_s, True):
                return
            here = self._here(now_ns, task, wait_s)
            if LOCAL_MARGIN * away.completion_s + HYSTERESIS_S >= here.completion_s:
                return
            why = Why(view.name, "room there, a queue here", (away, here))
            if self._move(now_ns, entry, view, away, why, out):
                wait_s = max(0.0, wait_s - here.service_s / self._settings.workers)

    def _move(
        self, now_ns: int, entry: Entry, view: View, chosen: Candidate, why: Why, out: list[Effect]
    ) -> bool:
        """An own task that no worker has seen goes elsewhere; nothing was sent, no number is spent."""
        if not self._holder.withdraw(entry.task.id):
            return False
        entry.why = why
        entry.move(State.WAITING)
        entry.place = None
        self._offer(now_ns, entry, view, chosen, out)
        return True

    # ── how attempts end ──────────────────────────────────────────────────────────────────────────────
    def _end_attempt(
        self, entry: Entry, ended_as: str, pid: int = 0, started_at_ms: int = 0, ended_at_ms: int = 0
    ) -> None:
        if entry.state is State.PLACED:
            self._write_attempt(entry, ended_as, pid, started_at_ms, ended_at_ms)

    def _write_attempt(
        self, entry: Entry, ended_as: str, pid: int = 0, started_at_ms: int = 0, ended_at_ms: int = 0
    ) -> None:
        assert entry.place is not None
        entry.attempts.append(
            Attempt(
                entry.granted,
                entry.place,
                pid or entry.pid,
                started_at_ms or entry.started_at_ms,
                ended_at_ms or self._wall_ms,
                ended_as,
                entry.granted_at_ms if entry.task.trace else 0,
            )
        )
        if len(entry.attempts) > ATTEMPTS_KEPT:  # of those in the middle, but no death: they are counted
            middle = range(ATTEMPTS_KEPT // 2, ATTEMPTS_KEPT)
            del entry.attempts[next(i for i in middle if entry.attempts[i].ended_as != DIED)]

    def _recall(self, entry: Entry, out: list[Effect]) -> None:
        """Whoever has it need not go on."""
        lease = self._leases.release(entry.task.id)
        if lease is not None:
            out.append(Tell(lease.holder, Cancel(entry.task.id, lease.attempt)))
            self._room_at(lease.holder)
        else:
            self._holder.stop_own(entry.task.id, out)

    def _room_at(self, holder: str) -> None:
        """A lease ended outside the holder's own event: let the next tick use the room."""
        view = self._views.get(holder)
        if view is not None and view.outbox:
            self._opens.set(holder, 0)

    def _forget_waiting(self, entry: Entry) -> None:
        self._retry.drop(entry.task.id)
        self._stranded.pop(entry.task.id, None)

    def _close(
        self,
        now_ns: int,
        entry: Entry,
        status: Status,
        cause: str,
        out: list[Effect],
        *,
        output: bytes = b"",
        error: bytes = b"",
        log: bytes = b"",
        place: str = "",
        run_us: int = 0,
        cpu_us: int = 0,
    ) -> None:
        if not place and entry.place is not None:
            place = LOCAL if entry.place == self.me else entry.place
        if entry.note:
            cause = f"{cause}; before that: {entry.note}"
        if entry.state is State.PLACED:
            self._recall(entry, out)
        else:
            self._forget_waiting(entry)
        outcome = Outcome(
            status.value,
            output,
            error,
            log,
            self._wall_ms,
            tuple(entry.attempts),
            place,
            cause,
            run_us,
            cpu_us,
        )
        self.durations.ended(entry.task, outcome)
        self._ledger.close(entry, outcome, out)

    def _count(self, outcome: Outcome) -> None:
        self.settled[outcome.status] = self.settled.get(outcome.status, 0) + 1
        if outcome.status == Status.DONE:
            place = outcome.place if outcome.place in (LOCAL, GATEWAY) else "peer"
            self.by_place[place] += 1

    def _expire(self, now_ns: int, entry: Entry, out: list[Effect]) -> None:
        task = entry.task
        if entry.deadline_ns is not None and entry.deadline_ns <= now_ns:
            cause = f"its deadline of {(task.deadline_ms or 0) / 1e3:g} s passed"
        else:
            cause = f"its time to live of {task.ttl_ms / 1e3:g} s passed"
        if self._holder.late(task.id):
            cause += "; it could not have been met any more, so the task was not started"
        elif entry.state is State.PLACED and entry.place is not None:
            cause += f" while {entry.place} had it"
        elif task.where not in (ANY, LOCAL, self.me):
            view = self._views.get(task.where)
            if view is None or not view.up:
                cause += f" while {task.where} was away"
        self._end_attempt(entry, "expired")
        if entry.state is State.PLACED and entry.place is not None:
            self._explain_place(entry, entry.place, out)
        self._close(now_ns, entry, Status.EXPIRED, cause, out)

    def _explain_place(self, entry: Entry, place: str, out: list[Effect]) -> None:
        """By which figures it went where it did not end well; else the terminal record tells them."""
        why = entry.why
        if why is not None and why.chosen == place and len(why.candidates) > 1:
            chosen: Details = {"rule": why.rule, "figures": why.text()}
            at_ms = entry.granted_at_ms
            out.append(Explain(entry.task.id, What.PLACED, place, entry.granted, chosen, at_ms))

    def _lapse(self, now_ns: int, task: str, what: str, out: list[Effect]) -> None:
        lease = self._leases.release(task)
        entry = self._ledger.open.get(task)
        if lease is None or entry is None or entry.state is not State.PLACED:
            return
        self.lapsed += 1
        self._end_attempt(entry, LAPSED)
        entry.note = f"attempt {entry.granted} on {lease.holder}: {what}"
        self._explain_place(entry, lease.holder, out)
        silent_ms = max(0, now_ns - lease.renewed_ns) // MILLISECOND
        about: Details = {"reason": what, "silent_ms": silent_ms}
        out.append(Explain(task, What.LAPSED, lease.holder, entry.granted, about))
        view = self._views.get(lease.holder)
        if view is not None:
            view.tripped(now_ns, SECOND)
            if view.up and view.trips > 1 and entry.task.where != ANY:  # once may be chance
                view.shut(now_ns, self._leases.count(view.name), None, False, self._rng)
            self._room_at(lease.holder)
        self._again(now_ns, entry, 0, out, told=True)

    def _turned_down(
        self, now_ns: int, entry: Entry, place: str, reason: Refusal, ended_as: str, out: list[Effect]
    ) -> None:
        """A place did not take it, or gave it back."""
        self._end_attempt(entry, ended_as)
        entry.place = None
        entry.note = f"{place}: {reason}"
        self._explain_place(entry, place, out)
        about: Details = {"reason": reason.value, "as": ended_as}
        view = self._views.get(place)
        if view is not None and reason in (Refusal.QUEUE_FULL, Refusal.OVER_DEADLINE):
            about["wait_ms"] = int(1e3 * self._candidate(now_ns, entry.task, view).wait_s)
        if entry.deadline_ns is not None:
            about["left_ms"] = (entry.deadline_ns - now_ns) // MILLISECOND
        out.append(Explain(entry.task.id, What.TURNED_DOWN, place, entry.granted, about))
        final = reason in NEVER_HERE
        if reason in PERHAPS_SOON:
            asked = entry.asked_again = entry.asked_again or {}
            asked[place] = asked.get(place, 0) + 1
            final = asked[place] >= BELIEVED_AFTER
        if final:
            entry.excluded = {**(entry.excluded or {}), place: reason}
            if self._hopeless(entry):
                entry.note = ""
                reasons = ", ".join(f"{name}: {why}" for name, why in sorted(entry.excluded.items()))
                entry.move(State.WAITING)
                self._close(now_ns, entry, Status.FAILED, f"no place can run it ({reasons})", out)
                return
        delay_ns = 0
        where = entry.task.where
        waits_there = reason in FULL and where not in (ANY, LOCAL, self.me)  # its turnstile says when
        if not waits_there and (where != ANY or reason in PERHAPS_SOON or entry.refusals >= 4):
            delay_ns = min(BACKOFF_NS << min(entry.refusals, 10), BACKOFF_NS_MAX)
            delay_ns = int(delay_ns * (0.5 + self._rng.random()))
        entry.refusals += 1
        self._again(now_ns, entry, delay_ns, out, told=False)

    def _hopeless(self, entry: Entry) -> bool:
        """Everybody who exists has refused for good, or does not fit."""
        excluded = entry.excluded or {}
        task = entry.task
        if task.where not in (ANY, LOCAL):
            return task.where in excluded
        if self.me not in excluded and fits(task, self._labels, self._lacks):
            return False
        if task.where == LOCAL:
            return True
        return all(
            name in excluded or not fits(task, labels, lacks) for name, labels, lacks in self._reachable()
        )

    def _reachable(self) -> Iterator[_Place]:
        """Everybody we would offer a task to, were they up."""
        known = self._views if self._members is None else self._members
        return (
            self._place_of(name) for name in known if name != self.me and (self._everyone or name == GATEWAY)
        )

    def _place_of(self, name: str) -> _Place:
        """A member, met or not: its name, its labels, what it lacks."""
        view = self._views.get(name)
        if view is not None:
            return name, view.labels, view.lacks
        assert self._members is not None, "before the first roster only who was met is known"
        return name, self._members[name].labels, self._lacking.get(name, NOTHING)

    def _open_to(self, view: View) -> bool:
        return view.up and (self._everyone or view.name == GATEWAY)

    def _died(
        self, now_ns: int, entry: Entry, place: str, began: bool, error: bytes, log: bytes, out: list[Effect]
    ) -> None:
        self.worker_deaths += 1
        if began:
            entry.deaths += 1
            entry.died_on = [*(entry.died_on or ()), place]
        entry.place = None
        entry.note = f"attempt {entry.granted} took a worker down on {place}"
        self._explain_place(entry, place, out)
        died: Details = {"began": int(began), "deaths": entry.deaths}
        out.append(Explain(entry.task.id, What.WORKER_DIED, place, entry.granted, died))
        if entry.deaths >= self._settings.poison_deaths:
            entry.move(State.WAITING)
            self._quarantine(now_ns, entry, error, log, out)
        else:
            self._again(now_ns, entry, 0, out, told=True)

    def _died_late(self, now_ns: int, entry: Entry, peer: str, message: Result, out: list[Effect]) -> None:
        """Its lease had lapsed before the holder could say that the worker died: that counts as well."""
        if message.status != "died" or not message.started_at_ms or entry.state is State.CLOSING:
            return
        lapsed = (message.attempt, peer, LAPSED)
        at = [i for i, row in enumerate(entry.attempts) if (row.number, row.node, row.ended_as) == lapsed]
        if not at:
            return
        ended_at_ms = message.ended_at_ms or self._wall_ms
        entry.attempts[at[0]] = Attempt(
            message.attempt, peer, message.pid, message.started_at_ms, ended_at_ms, DIED,
            entry.attempts[at[0]].granted_at_ms,
        )  # fmt: skip
        self.worker_deaths += 1
        entry.deaths += 1
        entry.died_on = [*(entry.died_on or ()), peer]
        if entry.deaths >= self._settings.poison_deaths:
            self._end_attempt(entry, "cancelled")
            self._quarantine(now_ns, entry, message.error, message.log, out)
        else:
            self._ledger.remember(entry, out)

    def _quarantine(self, now_ns: int, entry: Entry, error: bytes, log: bytes, out: list[Effect]) -> None:
        entry.note = ""
        cause = f"it took {entry.deaths} workers down, on {', '.join(entry.died_on or ())}"
        self._close(now_ns, entry, Status.QUARANTINED, cause, out, error=error, log=log)

    def _duplicate(self, now_ns: int, peer: str, message: Result, out: list[Effect]) -> None:
        """Late: an older attempt, another holder, or decided already. Told, counted, never delivered."""
        self.duplicates += 1
        text = f"late result ({message.status}) of attempt {message.attempt} from {peer} not used"
        about: Details = {"status": message.status}
        out.append(Explain(message.task, What.NOT_USED, peer, message.attempt, about))
        self._notes_left = min(
            NOTES_PER_S, self._notes_left + (now_ns - self._notes_ns) / SECOND * NOTES_PER_S
        )
        self._notes_ns = now_ns
        if self._notes_left >= 1.0:  # a peer must not be able to fill the disk
            self._notes_left -= 1.0
            self._ledger.note(Noted(message.task, self._wall_ms, text), out)

    # ── work here ─────────────────────────────────────────────────────────────────────────────────────
    def _work_started(self, now_ns: int, event: WorkStarted, out: list[Effect]) -> None:
        job = self._holder.started(now_ns, event.task, event.attempt)
        if job is not None and not job.foreign:
            entry = self._ledger.open.get(event.task)
            if entry is not None and entry.place == self.me:
                entry.pid = event.pid
                entry.started_at_ms = event.started_at_ms or self._wall_ms

    def _work_done(self, now_ns: int, event: WorkDone, out: list[Effect]) -> None:
        job = self._holder.done(now_ns, event, out)
        if job is None:
            return
        entry = self._ledger.open[job.task]
        assert entry.state is State.PLACED and entry.place == self.me
        self._ended(
            now_ns, entry, self.me, "died" if event.worker_died else event.status, event.output, event.error,
            event.log, event.pid, event.started_at_ms, event.ended_at_ms, event.cpu_us, event.run_us, out,
        )  # fmt: skip

    def _work_refused(self, now_ns: int, event: WorkRefused, out: list[Effect]) -> None:
        reason = refusal(event.reason)
        job = self._holder.unstartable(now_ns, event.task, event.attempt, reason, out)
        if job is not None:
            entry = self._ledger.open[job.task]
            self._turned_down(now_ns, entry, self.me, reason, f"refused: {reason}", out)

    def _ended(
        self,
        now_ns: int,
        entry: Entry,
        place: str,
        status: str,
        output: bytes,
        error: bytes,
        log: bytes,
        pid: int,
        started_at_ms: int,
        ended_at_ms: int,
        cpu_us: int,
        run_us: int,
        out: list[Effect],
    ) -> None:
        """A valid end of the current attempt, here or at its holder."""
        if status in ("done", "failed"):
            self._write_attempt(entry, status, pid, started_at_ms, ended_at_ms)
            where = LOCAL if place == self.me else place
            why = entry.why
            if why is None or why.chosen != place or len(why.candidates) == 1:
                cause = f"ran on {where}"
            else:
                cause = f"ran on {why.text()}"
            entry.move(State.WAITING)
            self._close(
                now_ns, entry, Status.DONE if status == "done" else Status.FAILED, cause, out,
                output=output, error=error, log=log, place=where, run_us=run_us, cpu_us=cpu_us,
            )  # fmt: skip
        elif status == "died":
            began = bool(started_at_ms or entry.started_at_ms)
            self._end_attempt(entry, DIED if began else DIED_OF_ANOTHER, pid, started_at_ms, ended_at_ms)
            self._died(now_ns, entry, place, began, error, log, out)
        elif status == "expired":
            self._turned_down(now_ns, entry, place, Refusal.OVER_DEADLINE, "expired", out)
        else:  # "cancelled" though we did not ask: its holder shuts down
            self._turned_down(now_ns, entry, place, Refusal.DRAINING, "handed back", out)

    def _rested(self, now_ns: int, event: Rested, out: list[Effect]) -> None:
        self._holder.rest(now_ns, event.resting, event.hand_back, out)

    def _drain(self, now_ns: int, event: Drain, out: list[Effect]) -> None:
        if self._holder.draining:
            return
        self._holder.drain(now_ns, out)
        # Own tasks that only waited here stay in the journal, or go to a peer that can have them now.
        for task_id, entry in list(self._ledger.open.items()):
            if entry.state is State.PLACED and entry.place == self.me and not self._holder.has(task_id):
                entry.move(State.WAITING)
                entry.place = None
                if entry.task.where == ANY:
                    self._place_anywhere(now_ns, entry, out)

    # ── what peers say ────────────────────────────────────────────────────────────────────────────────
    def _heard(self, now_ns: int, event: Heard, out: list[Effect]) -> None:
        listen = self._ears.get(type(event.message))
        if listen is not None:
            listen(now_ns, event.peer, event.message, out)

    def _offered(self, now_ns: int, peer: str, message: Offer, out: list[Effect]) -> None:
        self._holder.offer(now_ns, peer, message, out)

    def _cancelled_by(self, now_ns: int, peer: str, message: Cancel, out: list[Effect]) -> None:
        self._holder.cancel(peer, message.task, message.attempt, out)

    def _accepted(self, now_ns: int, peer: str, message: Accept, out: list[Effect]) -> None:
        if self._renew(now_ns, peer, message.task, message.attempt, out):
            self._took(now_ns, self._view(peer), out)
        if message.load is not None:
            self._load_heard(now_ns, peer, message.load, out)

    def _took(self, now_ns: int, view: View, out: list[Effect]) -> None:
        """It took work of ours."""
        view.took()
        if view.turnstile is not None:
            self._room_at(view.name)

    def _progressed(self, now_ns: int, peer: str, message: Progress, out: list[Effect]) -> None:
        self._renew(now_ns, peer, message.task, message.attempt, out)

    def _renew(self, now_ns: int, peer: str, task: str, attempt: int, out: list[Effect]) -> bool:
        if self._leases.renew(now_ns, task, peer, attempt):
            return True
        entry = self._ledger.open.get(task)
        if entry is None or (entry.state is State.PLACED and entry.place != peer):
            out.append(Tell(peer, Cancel(task, attempt)))  # it works in vain
        return False

    def _refused_by(self, now_ns: int, peer: str, message: Refuse, out: list[Effect]) -> None:
        if message.load is not None:
            self._news(now_ns, self._view(peer), message.load)
        lease = self._leases.of(message.task)
        if lease is None or lease.holder != peer or lease.attempt != message.attempt:
            return
        self._leases.release(message.task)
        reason = refusal(message.reason)
        self.refused_by_peers[reason] = self.refused_by_peers.get(reason, 0) + 1
        view = self._view(peer)
        entry = self._ledger.open[message.task]
        if reason in FULL and entry.task.where != ANY:
            held = self._leases.count(peer)
            view.shut(now_ns, held, message.load, reason is Refusal.DRAINING, self._rng)
        if reason is Refusal.QUEUE_FULL:
            view.tripped(now_ns, SHY_NS)
        elif reason not in NEVER_HERE and reason not in PERHAPS_SOON:  # the task's fault, not the peer's
            view.shy_until_ns = max(view.shy_until_ns, now_ns + SHY_NS)
        if reason is Refusal.DRAINING:
            view.wait.draining = True
        self._turned_down(now_ns, entry, peer, reason, f"refused: {reason}", out)
        if view.outbox:
            self._drain_outbox(now_ns, view, out)

    def _result(self, now_ns: int, peer: str, message: Result, out: list[Effect]) -> None:
        load = message.load
        view = self._view(peer)
        if load is not None:
            self._news(now_ns, view, load)
        entry = self._ledger.open.get(message.task)
        if entry is None:
            if self._ledger.known(message.task) is None:
                self.strays += 1  # not ours, or settled long ago
            else:
                self._duplicate(now_ns, peer, message, out)
            return
        if not self.expects(peer, message.task, message.attempt):
            self._duplicate(now_ns, peer, message, out)
            self._died_late(now_ns, entry, peer, message, out)
            return
        lapsed = self._leases.release(message.task) is None
        if message.status in ("done", "failed"):
            self._took(now_ns, view, out)
            self._holder.ran_at(entry.task.digest, peer)
            if message.status == "done":
                self.estimates.observe(
                    entry.task.function, peer, message.run_us / 1e6, view.wait.speed, len(message.output),
                    view.kind,
                )  # fmt: skip
                self._holder.learned(entry.task.function)
        if lapsed:
            # The lease lapsed and no newer attempt has gone out: still the first valid result.
            if message.status not in ("done", "failed"):
                entry.place = None
                self._died_late(now_ns, entry, peer, message, out)
                return
            entry.attempts.pop()
        self._ended(
            now_ns, entry, peer, message.status, message.output, message.error, message.log, message.pid,
            message.started_at_ms, message.ended_at_ms, message.cpu_us, message.run_us, out,
        )  # fmt: skip
        if view.outbox:
            self._drain_outbox(now_ns, view, out)
        if self._holder.queued:
            self._feed(now_ns, view, out)
        if self._stranded:
            self._unstrand(now_ns, view, out)

    def _news(self, now_ns: int, view: View, load: Load) -> None:
        """A load in the peer's own words."""
        wait = view.wait
        wait.heard(now_ns, load, self._fleet)
        if wait.speed != view.kind_speed:
            view.classify()
        capacity = wait.speed * wait.workers
        self._capacity_max = max(self._capacity_max, capacity)
        if self._open_to(view):
            self._pool.heard(now_ns, view.name)
        if view.opened(now_ns, load):
            self._opens.set(view.name, now_ns)

    def _load_heard(self, now_ns: int, peer: str, message: Load, out: list[Effect]) -> None:
        view = self._view(peer)
        self._news(now_ns, view, message)
        if self._holder.queued:
            self._feed(now_ns, view, out)
        if self._stranded:
            self._unstrand(now_ns, view, out)

    def _beat(self, now_ns: int, peer: str, message: Beat, out: list[Effect]) -> None:
        self._load_heard(now_ns, peer, message.load, out)

    def _pong(self, now_ns: int, peer: str, message: Pong, out: list[Effect]) -> None:
        if message.load is not None:
            self._load_heard(now_ns, peer, message.load, out)

    def _digest_heard(self, now_ns: int, event: DigestHeard, out: list[Effect]) -> None:
        """Second-hand loads; what we heard ourselves within the last second is better.

        Who is announced idle and is not up for us is worth a look; it is a candidate once that is answered.
        """
        views, members, idle = self._views, self._members, self._idle
        for entry in event.entries:
            name = entry.id
            if not (self._everyone or name == GATEWAY):
                continue
            if entry.down:
                idle.pop(name, None)
                continue
            view = views.get(name)
            if view is not None:
                wait = view.wait
                if not wait.told(now_ns, max(0, entry.wait_ms) / 1e3, entry.workers, entry.speed):
                    continue
                if wait.speed != view.kind_speed:
                    view.classify()
                if view.up:
                    continue
            elif members is None or name == self.me or (member := members.get(name)) is None:
                continue
            else:
                name = member.id  # the roster's own text, not one more copy
            if entry.wait_ms <= 0:
                idle[name] = (now_ns, entry.workers, entry.speed)
                idle.move_to_end(name)
                if len(idle) > IDLE_KEPT:
                    idle.popitem(last=False)

    def _about(self, now_ns: int, peer: str, message: About, out: list[Effect]) -> None:
        lacks = self._view(peer).lacks = frozenset(message.lacks)
        if not lacks:
            self._lacking.pop(peer, None)
        elif self._members is not None and peer in self._members:
            self._lacking[peer] = lacks

    def _own_abilities(self, now_ns: int, event: OwnAbilities, out: list[Effect]) -> None:
        self._lacks = frozenset(event.lacks)

    # ── who is there ──────────────────────────────────────────────────────────────────────────────────
    def _view(self, peer: str) -> View:
        view = self._views.get(peer)
        if view is None:
            view = View(peer)
            members = self._members
            if members is None:
                self._keep(view)
            elif (member := members.get(peer)) is not None:  # else it is only being listened to
                view.labels = member.labels
                view.lacks = self._lacking.get(peer, NOTHING)
                told = self._idle.get(peer)
                if told is not None:
                    view.wait.told(told[0], 0.0, told[1], told[2])
                view.classify()
                self._keep(view)
        return view

    def _keep(self, view: View) -> None:
        """A view of one who is not up (any more)."""
        self._views[view.name] = view
        away = self._away
        away[view.name] = None
        if len(away) > VIEWS_SPARE:
            for name in away:
                if name != view.name and not self._views[name].outbox and not self._leases.count(name):
                    del away[name], self._views[name]
                    break

    def _alive(self, view: View) -> None:
        """`up` of this peer has changed."""
        if self._open_to(view):
            self._live.append(view)
            self._idle.pop(view.name, None)
        elif view in self._live:
            self._live.remove(view)
            self._pool.forget(view.name)
            if not self._live:
                self._capacity_max = 1.0

    def _peer_up(self, now_ns: int, event: PeerUp, out: list[Effect]) -> None:
        if event.peer == self.me or (self._members is not None and event.peer not in self._members):
            return
        view = self._view(event.peer)
        was_up = view.up
        view.up = True
        view.down = False
        if event.rtt_ns is not None:
            view.wait.rtt_s = event.rtt_ns / 1e9
        if event.labels:
            view.labels = event.labels
            view.classify()
        if not was_up:
            self._away.pop(event.peer, None)
            self._alive(view)
        if event.restarted:
            for task in self._leases.held_by(event.peer):
                self._lapse(now_ns, task, f"{event.peer} restarted", out)
            view.restarted()
        elif not was_up:
            self._leases.holder_up(now_ns, event.peer)
        self._drain_outbox(now_ns, view, out)
        if not was_up and self._holder.queued and view.wait.fresh(now_ns):
            self._feed(now_ns, view, out)
        if self._stranded:
            self._unstrand(now_ns, view, out)

    def _peer_down(self, now_ns: int, event: PeerDown, out: list[Effect]) -> None:
        view = self._views.get(event.peer)
        if view is None:
            return
        if view.up:
            view.up = False
            self._alive(view)
            self._keep(view)
        if not event.quiet and not view.down:  # else the leases say how long their holder is believed
            view.down = True
            self._leases.holder_down(now_ns, event.peer)

    def _members_changed(self, now_ns: int, event: Members, out: list[Effect]) -> None:
        before = self._views if self._members is None else self._members
        members = self._members = event.by_id
        mine = members.get(self.me)
        if mine is not None:
            self._labels = mine.labels
            self._kind = class_of(self._settings.speed, self._labels.get("class", ""))
            self._holder.kind = self._kind
        for name, view in self._views.items():
            member = members.get(name)
            if member is not None:
                view.labels = member.labels
                view.classify()
        gone = [name for name in sorted(before.keys() - members.keys()) if name != self.me]
        for name in gone:
            self._idle.pop(name, None)
            self._lacking.pop(name, None)
            self._away.pop(name, None)
            self._opens.drop(name)
            left = self._views.pop(name, None)
            if left is not None and left.up:
                left.up = False
                self._alive(left)
        for name in gone:
            self._holder.forget_owner(name, out)
            for task in self._leases.held_by(name):
                self._lapse(now_ns, task, f"{name} is no member any more", out)
        if not gone:
            return
        # What may run nowhere but at a place that is gone would only wait for its time to live.
        for entry in list(self._ledger.open.values()):
            where = entry.task.where
            if where in (ANY, LOCAL, self.me) or where in members:
                continue
            if entry.state is not State.CLOSING:
                self._end_attempt(entry, "cancelled")
                entry.note = ""
                self._close(now_ns, entry, Status.FAILED, f"{where} is no member any more", out)


def _name(place: _Place) -> str:
    return place[0]
