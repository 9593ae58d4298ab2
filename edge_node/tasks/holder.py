"""The holder's side: the work at this node, whoever owns it.

One queue, higher priorities first, within one the earliest deadline (a task without one is due ten times
its service time after arrival); what would surely miss its deadline is not started. And a window into the
worker pool: as many calls as there are workers, and more only while everything released is worth less than
5 ms a worker, so that tiny calls stream and long ones still give way to urgent ones. Calls whose input is
fetched first queue apart and take none of that window: their owner may be slow, or dead.

For a foreign task the answers are lazy: the result, if it comes within 20 ms, is its own acceptance;
otherwise Accept, then Progress three times a lease; also while a large result is on its way, or the lease
would lapse under it and the work be done twice. A result is kept for a while, for an owner that asks again.
All of it is volatile: the owner keeps the promise.

What waits is counted by function, so that the first runs of an unknown one correct the whole queue's worth at
once, however long it is.

In: offer, add_own, cancel, started, done, refused, withdraw, stop_own. Out: Run, Stop, Tell.
Not here: the owner's books (`ledger`, `leases`), how a worker is run (`functions.runtimes`).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from enum import IntEnum
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from edge_node.chronicle.entry import Details, What
from edge_node.scheduling import admission
from edge_node.tasks.agenda import Agenda
from edge_node.tasks.events import Effect, Explain, Run, Stop, Tell, WorkDone
from edge_node.tasks.states import Refusal
from edge_node.tasks.task import ANY
from edge_node.tasks.tracing import parts
from edge_node.wire.messages import (
    HELD_BYTES_MAX,
    HELD_JOBS_MAX,
    Accept,
    Held,
    HeldJob,
    Load,
    Offer,
    Progress,
    Refuse,
    Result,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_node.scheduling.estimates import Estimates
    from edge_node.tasks.task import Task

MILLISECOND = 1_000_000
ACCEPT_AFTER_NS = 20 * MILLISECOND
RELEASED_S_MAX = 5e-3
DEPTH_MAX = 32
FETCHING_MAX = 16
"""Calls released ahead of their input: what the fetching of bodies carries at once."""
RESULTS_KEPT = 1024
RESULTS_BYTES_KEPT = 4 * 2**20
LARGE_BYTES = 4 * 1024
"""A result above this is overtaken by a Progress on its way; what is smaller travels as that does."""
ON_ITS_WAY_NS = 120_000 * MILLISECOND
"""Longer no message is tried; then the lease may lapse."""
TOMBSTONES_KEPT = 1024
PRIORITY_MAX = 100
RAN_KEPT = 256
RAN_PEERS = 4
"""Of so many bundles, so many peers each are remembered to hold them: to fetch from when the owner cannot."""
RUN_AGAIN_MAX = 3
"""A call that never began is run again here this often when its worker dies of its neighbour."""


class Phase(IntEnum):
    QUEUED = 0
    RELEASED = 1
    RUNNING = 2
    LATE = 3  # own, and sure to miss its deadline: kept until that comes
    GONE = 4  # answered, cancelled or withdrawn; if released, its worker may still be busy with it


class _Kept(NamedTuple):
    """A result, for an owner that did not get it."""

    owner: str
    offer: Offer
    result: Result


class _Sent(NamedTuple):
    """A large result that its owner has perhaps not got."""

    owner: str
    attempt: int
    lease_ns: int
    arrived_ns: int
    until_ns: int


class _Waiting:
    """The calls of one function that are in the queue."""

    __slots__ = ("count", "each_s", "fetching")

    def __init__(self, each_s: float) -> None:
        self.each_s = each_s  # what one of them is worth, by all that is known now
        self.count = 0
        self.fetching = 0  # of these, whose input is not here


_Queued = tuple[int, int, int, "Job"]
"""(-priority, due, order, job): the queue's order."""


class Job:
    __slots__ = (
        "accept_wanted", "again", "arrived_ns", "attempt", "budget_end_ns", "expected_s", "fetches",
        "foreign", "function", "lease_ns", "offer", "owner", "phase", "priority", "released", "run_attempt",
        "seen", "started_ns", "task", "told_attempt",
    )  # fmt: skip

    def __init__(
        self, owner: str, task: str, attempt: int, function: str, expected_s: float, now_ns: int
    ) -> None:
        self.owner = owner
        self.task = task
        self.attempt = attempt
        self.run_attempt = attempt
        self.function = function
        self.expected_s = expected_s
        self.arrived_ns = now_ns
        self.phase = Phase.QUEUED
        self.released = False
        self.started_ns = 0
        self.budget_end_ns: int | None = None
        self.lease_ns = 0
        self.accept_wanted = False
        self.told_attempt = 0  # the number under which the chronicle knows that we took it
        self.again = 0
        self.seen = False
        self.offer: Offer | None = None  # foreign
        self.foreign = False
        self.fetches = False  # its input is not here yet
        self.priority = 0


class Holder:
    def __init__(
        self,
        me: str,
        estimates: Estimates,
        *,
        workers: int,
        speed: float,
        queue_tasks_max: int,
        queue_s_max: float,
        untaken: Callable[[str], int] = lambda _owner: 0,
    ) -> None:
        """``untaken(owner)``: bytes under way to it that it has not acknowledged."""
        self._me = me
        self._untaken = untaken
        self._estimates = estimates
        self.workers = workers
        self.speed = speed
        self.kind = ""  # our class, when the roster has said it
        self._queue_tasks_max = queue_tasks_max
        self._queue_s_max = queue_s_max
        self.draining = False
        self.resting = False
        """Work of others is not taken: an operator asked for it. To them it looks like a drain."""
        self._jobs: dict[str, Job] = {}
        self._own: dict[str, Task] = {}  # the tasks behind own jobs
        self._free: dict[str, None] = {}  # those of them that may run anywhere
        self._choosy: dict[str, None] = {}  # and those that may, where a place fits
        self._queue: list[_Queued] = []
        self._remote: list[_Queued] = []  # those whose input has to be fetched
        self._remote_s = 0.0
        self.ran: OrderedDict[bytes, tuple[str, ...]] = OrderedDict()  # bundle -> peers that ran it lately
        self._queued = 0
        self._queued_s = 0.0
        self._waiting: dict[str, _Waiting] = {}  # by function
        self._order = 0
        self._released: dict[tuple[str, int], Job] = {}
        self._released_s = 0.0
        self._fetching: dict[tuple[str, int], Job] = {}  # those of _released that no worker can have yet
        self._fetching_s = 0.0
        self._accepts: deque[tuple[int, Job]] = deque()
        self._progress = Agenda()
        self._results: OrderedDict[str, _Kept] = OrderedDict()
        self._sent: OrderedDict[str, _Sent] = OrderedDict()
        self._result_bytes = 0
        self._tombstones: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self.refused: dict[str, int] = {}

    # ── figures ───────────────────────────────────────────────────────────────────────────────────────
    def backlog_s(self, now_ns: int) -> float:
        """Work queued and running, seconds summed over workers."""
        running = self._released_s
        if running > 0.0 and len(self._released) <= 4 * self.workers:
            running = 0.0
            for job in self._released.values():
                left = job.expected_s
                if job.started_ns:
                    left -= (now_ns - job.started_ns) / 1e9
                    left = max(left, job.expected_s / 4)  # overdue: an unknown time to go, not none
                running += left
        return self._queued_s + running

    def wait_s(self, now_ns: int) -> float:
        """How long a task that arrives now waits for a worker."""
        if self._queued == 0 and len(self._released) - len(self._fetching) < self.workers:
            return 0.0
        return self.backlog_s(now_ns) / self.workers

    def leased_s(self) -> float:
        """Work that was taken and has not arrived: its input is still on the way. Part of the backlog."""
        return self._remote_s + self._fetching_s

    def load(self, now_ns: int) -> Load:
        backlog_ms, leased_ms = int(1e3 * self.backlog_s(now_ns)), 0
        if self._remote_s or self._fetching:
            leased_ms = min(backlog_ms, int(1e3 * self.leased_s()))
        shut = self.draining or self.resting
        return Load(self.workers, backlog_ms - leased_ms, leased_ms, self.speed, shut)

    @property
    def idle(self) -> bool:
        return not self._released and self._queued == 0

    def has(self, task: str) -> bool:
        return task in self._jobs

    @property
    def queued(self) -> int:
        return self._queued

    @property
    def running(self) -> int:
        return len(self._released)

    # ── work comes in ─────────────────────────────────────────────────────────────────────────────────
    def add_own(
        self, now_ns: int, task: Task, attempt: int, expected_s: float, deadline_ns: int | None, seen: bool
    ) -> None:
        """Our own accepted task: never refused, it has been promised already."""
        squatter = self._jobs.get(task.id)
        assert squatter is None or squatter.foreign, "an own task is here once"
        if squatter is not None:  # a peer made up the id of our task; its own fault
            self._leave(squatter)
        job = Job(self._me, task.id, attempt, task.function, expected_s, now_ns)
        job.budget_end_ns = deadline_ns
        job.priority = _class(task.priority)
        job.seen = seen
        self._own[task.id] = task
        if task.where == ANY:
            (self._choosy if task.labels or task.requires else self._free)[task.id] = None
        self._enqueue(now_ns, job)

    def offer(self, now_ns: int, peer: str, offer: Offer, out: list[Effect]) -> None:
        """Take it, refuse it, or (an offer we know) say again how it stands."""
        if offer.input is None and offer.input_digest is None:
            self._refuse(now_ns, peer, offer.task, offer.attempt, Refusal.INPUT_MISSING, out)
            return
        known = self._jobs.get(offer.task)
        if known is not None:
            self._offered_again(now_ns, peer, known, offer, out)
            return
        if self._done_already(now_ns, peer, offer, out):
            return
        tombstone = self._tombstones.get(offer.task)
        if tombstone is not None and tombstone[0] == peer and offer.attempt <= tombstone[1]:
            out.append(Tell(peer, Refuse(offer.task, offer.attempt, Refusal.CANCELLED)))
            return
        service_s, _ = self._estimates.service(offer.function, self._me, self.speed, self.kind)
        budget_s = None if offer.budget_ms is None else offer.budget_ms / 1e3
        wait_s = self.wait_s(now_ns)
        reason = admission.refusal(
            wait_s=wait_s,
            service_s=service_s,
            lease_s=offer.lease_ms / 1e3,
            budget_s=budget_s,
            priority=offer.priority,
            queued=self._queued,
            queued_max=self._queue_tasks_max,
            wait_s_max=self._queue_s_max,
            draining=self.draining or self.resting,
            promised_s=None if offer.wait_ms is None else offer.wait_ms / 1e3,
        )
        if reason is not None:
            figures: Details = {
                "wait_ms": int(1e3 * wait_s), "run_ms": int(1e3 * service_s), "queued": self._queued,
            }  # fmt: skip
            if offer.budget_ms is not None:
                figures["left_ms"] = offer.budget_ms
            if offer.wait_ms is not None:
                figures["promised_ms"] = offer.wait_ms
            self._refuse(now_ns, peer, offer.task, offer.attempt, reason, out, figures)
            return
        job = Job(peer, offer.task, offer.attempt, offer.function, service_s, now_ns)
        job.foreign = True
        job.offer = offer
        job.priority = _class(offer.priority)
        job.fetches = offer.input is None
        job.seen = self._estimates.seen(offer.function)
        job.lease_ns = max(300, offer.lease_ms) * MILLISECOND
        if offer.budget_ms is not None:
            job.budget_end_ns = now_ns + offer.budget_ms * MILLISECOND
        job.accept_wanted = True
        self._accepts.append((now_ns + ACCEPT_AFTER_NS, job))
        self._enqueue(now_ns, job)

    def _done_already(self, now_ns: int, peer: str, offer: Offer, out: list[Effect]) -> bool:
        """It was done here, and its owner has not heard, or has forgotten that it had: say it again.

        How a worker died, or that there was no time, is of one attempt alone; what a function returned or
        raised holds for the task.
        """
        kept = self._results.get(offer.task)
        if kept is None or (kept.owner, kept.offer.digest) != (peer, offer.digest):
            return False
        result = kept.result
        if result.attempt != offer.attempt:
            if result.attempt > offer.attempt or result.status not in ("done", "failed"):
                return False
            result = msgspec.structs.replace(result, attempt=offer.attempt)
        out.append(Tell(peer, result))
        self._on_its_way(now_ns, peer, result, max(300, offer.lease_ms) * MILLISECOND, now_ns)
        return True

    def _offered_again(self, now_ns: int, peer: str, job: Job, offer: Offer, out: list[Effect]) -> None:
        if job.owner != peer:
            self._refuse(now_ns, peer, offer.task, offer.attempt, Refusal.DUPLICATE_ID, out)
            return
        if offer.attempt < job.attempt:
            return  # an old one that was long under way
        # A newer attempt while the old one is still here: the same work under a new number, not twice.
        job.attempt = offer.attempt
        job.lease_ns = max(300, offer.lease_ms) * MILLISECOND
        self._accept(now_ns, job, out)

    def _enqueue(self, now_ns: int, job: Job) -> None:
        due_ns = job.budget_end_ns
        if due_ns is None:
            due_ns = now_ns + int(1e10 * job.expected_s)
        self._jobs[job.task] = job
        if self._sent.pop(job.task, None) is not None:
            self._progress.drop(job.task)
        job.phase = Phase.QUEUED
        self._order += 1
        heappush(self._remote if job.fetches else self._queue, (-job.priority, due_ns, self._order, job))
        waiting = self._waiting.get(job.function)
        if waiting is None:
            waiting = self._waiting[job.function] = _Waiting(job.expected_s)
        self._queued += 1
        waiting.count += 1
        self._queued_s += waiting.each_s
        if job.fetches:
            waiting.fetching += 1
            self._remote_s += waiting.each_s

    def learned(self, function: str) -> None:
        """Its estimate has moved: with it what all its calls in the queue are worth, in O(1)."""
        waiting = self._waiting.get(function)
        if waiting is not None:
            each_s, _ = self._estimates.service(function, self._me, self.speed, self.kind)
            change_s = each_s - waiting.each_s
            waiting.each_s = each_s
            self._queued_s = max(0.0, self._queued_s + waiting.count * change_s)
            self._remote_s = max(0.0, self._remote_s + waiting.fetching * change_s)

    # ── work goes to the pool ─────────────────────────────────────────────────────────────────────────
    def release(self, now_ns: int, out: list[Effect]) -> None:
        """Hand the most urgent calls to the pool as far as its window allows."""
        self._release_from(now_ns, self._queue, out)
        if self._remote:
            self._release_from(now_ns, self._remote, out)

    def _release_from(self, now_ns: int, queue: list[_Queued], out: list[Effect]) -> None:
        while queue:
            job = queue[0][3]
            if job.phase is not Phase.QUEUED:
                heappop(queue)
                continue
            job.expected_s = self._waiting[job.function].each_s
            job.seen = job.seen or self._estimates.seen(job.function)
            if not self._window(job):
                return
            heappop(queue)
            if job.budget_end_ns is not None and self._sure_miss(now_ns, job, job.budget_end_ns):
                if job.foreign:
                    self._answer(now_ns, job, Result(job.task, job.attempt, "expired"), out)
                else:
                    self._unqueue(job)
                    job.phase = Phase.LATE
                continue
            self._unqueue(job)
            key = (job.task, job.attempt)
            if key in self._released:  # its predecessor under the same number is still being stopped
                self._enqueue(now_ns, job)
                return
            job.phase = Phase.RELEASED
            job.released = True
            job.run_attempt = job.attempt
            self._released[key] = job
            self._released_s += job.expected_s
            if job.fetches:
                self._fetching[key] = job
                self._fetching_s += job.expected_s
            out.append(self._run(now_ns, job))

    def _sure_miss(self, now_ns: int, job: Job, end_ns: int) -> bool:
        """Its deadline has passed, or would even if it took four deviations less than usual."""
        if end_ns <= now_ns:
            return True
        if not job.seen:
            return False
        service_s, e = self._estimates.service(job.function, self._me, self.speed, self.kind)
        return now_ns + int(1e9 * (service_s - 4.0 * e)) > end_ns

    def late(self, task: str) -> bool:
        """Whether it waits here only for its deadline."""
        job = self._jobs.get(task)
        return job is not None and job.phase is Phase.LATE

    def _window(self, job: Job) -> bool:
        """May the pool have one more call?"""
        if job.fetches:
            return len(self._fetching) < FETCHING_MAX
        count = len(self._released) - len(self._fetching)
        if count < self.workers:
            return True
        busy_s = self._released_s - self._fetching_s
        return (
            job.seen
            and count < DEPTH_MAX * self.workers
            and busy_s + job.expected_s <= RELEASED_S_MAX * self.workers
        )

    def _run(self, now_ns: int, job: Job) -> Run:
        budget_ms = None
        if job.budget_end_ns is not None:
            budget_ms = max(1, (job.budget_end_ns - now_ns) // MILLISECOND)
        expected_s = job.expected_s if job.seen else None
        offer = job.offer
        if offer is not None:
            return Run(
                job.owner, job.task, job.attempt, job.function, offer.digest, offer.input, offer.input_digest,
                offer.input_bytes, None, None, expected_s, budget_ms, self.ran.get(offer.digest, ()),
                offer.trace,
            )  # fmt: skip
        task = self._own[job.task]
        return Run(
            job.owner, job.task, job.attempt, job.function, task.digest, task.input, task.input_sha256,
            len(task.input), task.timeout_s, task.memory_mb, expected_s, budget_ms,
            self.ran.get(task.digest, ()), task.trace,
        )  # fmt: skip

    def started(self, now_ns: int, task: str, attempt: int) -> Job | None:
        job = self._released.get((task, attempt))
        if job is None:
            return None
        self._fetched((task, attempt))
        job.started_ns = now_ns
        if job.phase is Phase.RELEASED:
            job.phase = Phase.RUNNING
        return job

    def done(self, now_ns: int, event: WorkDone, out: list[Effect]) -> Job | None:
        """An own job that ended and still counts; foreign ones are answered here."""
        job = self._unrelease(event.task, event.attempt)
        if job is None or job.phase is Phase.GONE:
            return None
        if event.status == "done":
            self._estimates.observe(
                job.function, self._me, event.run_us / 1e6, self.speed, len(event.output), self.kind
            )
            self.learned(job.function)
        began = job.phase is Phase.RUNNING or event.started_at_ms > 0
        if event.worker_died and not began and job.again < RUN_AGAIN_MAX:
            job.again += 1  # a neighbour in the same pipe killed the worker
            self._enqueue(now_ns, job)
            return None
        if not job.foreign:
            self._leave(job)
            return job
        if event.worker_died:
            status = "died"
        elif event.status == "cancelled" and self.draining:
            self._refuse(now_ns, job.owner, job.task, job.attempt, Refusal.DRAINING, out)
            self._leave(job)
            return None
        else:
            status = event.status
        result = Result(
            job.task, job.attempt, status, event.output, event.error, event.log, event.pid,
            event.started_at_ms, event.ended_at_ms, event.cpu_us, event.run_us, self.load(now_ns),
            None, len(event.output),
        )  # fmt: skip
        self._answer(now_ns, job, result, out)
        return None

    def unstartable(
        self, now_ns: int, task: str, attempt: int, reason: Refusal, out: list[Effect]
    ) -> Job | None:
        """The pool cannot start it. An own job is given back to the caller; a foreign one to its owner."""
        job = self._unrelease(task, attempt)
        if job is None or job.phase is Phase.GONE:
            return None
        self._leave(job)
        if not job.foreign:
            return job
        self._refuse(now_ns, job.owner, job.task, job.attempt, reason, out)
        return None

    # ── work is taken away ────────────────────────────────────────────────────────────────────────────
    def cancel(self, peer: str, task: str, attempt: int, out: list[Effect]) -> None:
        """The owner no longer wants it; it may come before its offer."""
        job = self._jobs.get(task)
        sent = self._sent.get(task)
        if sent is not None and sent.owner == peer:
            self._arrived(task)
        if job is not None and job.owner == peer and attempt >= job.attempt:
            began = int(job.phase is Phase.RUNNING)
            self._stop(job, out)
            taken_back: Details = {"reason": "its owner took it back", "began": began}
            out.append(Explain(task, What.STOPPED, peer, job.attempt, taken_back))
        if job is None or job.owner == peer:
            known = self._tombstones.get(task)
            if known is not None and known[0] == peer:
                attempt = max(attempt, known[1])
            self._tombstones[task] = (peer, attempt)
            if len(self._tombstones) > TOMBSTONES_KEPT:
                self._tombstones.popitem(last=False)

    def withdraw(self, task: str) -> bool:
        """Take back an own task that no worker has seen. False: too late, or not here."""
        job = self._jobs.get(task)
        if job is None or job.foreign or job.phase is not Phase.QUEUED:
            return False
        self._leave(job)
        return True

    def stop_own(self, task: str, out: list[Effect]) -> None:
        job = self._jobs.get(task)
        if job is not None and not job.foreign:
            self._stop(job, out)

    def ran_at(self, digest: bytes, peer: str) -> None:
        """This peer has run code of that bundle, so it holds it."""
        ran = self.ran
        peers = ran.get(digest)
        if peers is None:
            ran[digest] = (peer,)
            if len(ran) > RAN_KEPT:
                ran.popitem(last=False)
        elif peer not in peers:
            ran[digest] = (peer, *peers[: RAN_PEERS - 1])
            ran.move_to_end(digest)

    def own_waiting(self, count: int) -> list[str]:
        """Own tasks that no worker has seen and that may leave, latest first: those for any place, then those
        for some, so that neither keeps the other here."""
        found = self._waiting_of(self._free, count)
        return found + self._waiting_of(self._choosy, max(count // 4, count - len(found)))

    def _waiting_of(self, tasks: dict[str, None], count: int) -> list[str]:
        found: list[str] = []
        for looked, task in enumerate(reversed(tasks)):
            if looked >= 4 * count or len(found) >= count:
                break
            if self._jobs[task].phase is Phase.QUEUED:
                found.append(task)
        return found

    def forget_owner(self, owner: str, out: list[Effect]) -> None:
        """It is no member any more."""
        for job in [job for job in self._jobs.values() if job.foreign and job.owner == owner]:
            self._stop(job, out)
            gone: Details = {"reason": "its owner is no member any more"}
            out.append(Explain(job.task, What.STOPPED, owner, job.attempt, gone))

    def drain(self, now_ns: int, out: list[Effect]) -> None:
        """Hand back what waits; what runs may finish."""
        self.draining = True
        for job in [job for job in self._jobs.values() if job.phase in (Phase.QUEUED, Phase.LATE)]:
            self._leave(job)
            if job.foreign:
                self._refuse(now_ns, job.owner, job.task, job.attempt, Refusal.DRAINING, out)

    def rest(self, now_ns: int, resting: bool, hand_back: bool, out: list[Effect]) -> None:
        """Take no work of others until it is said again; own work goes on, and what runs ends here."""
        self.resting = resting
        if resting and hand_back:
            for job in [job for job in self._jobs.values() if job.foreign]:
                if job.phase in (Phase.QUEUED, Phase.LATE):
                    self._leave(job)
                    self._refuse(now_ns, job.owner, job.task, job.attempt, Refusal.DRAINING, out)

    def _stop(self, job: Job, out: list[Effect]) -> None:
        if job.released:
            out.append(Stop(job.task, job.run_attempt))
        self._leave(job)

    def _unqueue(self, job: Job) -> None:
        waiting = self._waiting[job.function]
        job.expected_s = waiting.each_s
        self._queued -= 1
        waiting.count -= 1
        self._queued_s = max(0.0, self._queued_s - waiting.each_s) if self._queued else 0.0
        if job.fetches:
            waiting.fetching -= 1
            self._remote_s = max(0.0, self._remote_s - waiting.each_s) if self._queued else 0.0
        if not waiting.count:
            del self._waiting[job.function]

    def _fetched(self, key: tuple[str, int]) -> None:
        job = self._fetching.pop(key, None)
        if job is not None:
            self._fetching_s = self._fetching_s - job.expected_s if self._fetching else 0.0

    def _unrelease(self, task: str, attempt: int) -> Job | None:
        self._fetched((task, attempt))
        job = self._released.pop((task, attempt), None)
        if job is not None:
            job.released = False
            self._released_s = self._released_s - job.expected_s if self._released else 0.0
        return job

    def _leave(self, job: Job) -> None:
        if job.phase is Phase.QUEUED:
            self._unqueue(job)
            if len(self._queue) + len(self._remote) > 64 + 4 * self._queued:
                for queue in (self._queue, self._remote):
                    queue[:] = sorted(
                        item for item in queue if item[3].phase is Phase.QUEUED and item[3] is not job
                    )
        job.phase = Phase.GONE
        job.accept_wanted = False
        if self._jobs.get(job.task) is job:
            del self._jobs[job.task]
            if not job.foreign:
                del self._own[job.task]
                self._free.pop(job.task, None)
                self._choosy.pop(job.task, None)
        self._progress.drop(job.task)

    # ── answers ───────────────────────────────────────────────────────────────────────────────────────
    def _refuse(
        self,
        now_ns: int,
        peer: str,
        task: str,
        attempt: int,
        reason: Refusal,
        out: list[Effect],
        figures: Details | None = None,
    ) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1
        out.append(Tell(peer, Refuse(task, attempt, reason, self.load(now_ns))))
        about: Details = {"reason": reason.value, **(figures or {})}
        out.append(Explain(task, What.REFUSED, peer, attempt, about))

    def _answer(self, now_ns: int, job: Job, result: Result, out: list[Effect]) -> None:
        plain = not job.told_attempt and result.status == "done"  # in 20 ms: its owner's ledger tells of it
        self._leave(job)
        before = self._results.pop(job.task, None)
        if before is not None:
            self._result_bytes -= _size(before.result)
        assert job.offer is not None, "only foreign jobs are answered"
        self._results[job.task] = _Kept(job.owner, msgspec.structs.replace(job.offer, input=None), result)
        self._result_bytes += _size(result)
        while len(self._results) > RESULTS_KEPT or self._result_bytes > RESULTS_BYTES_KEPT:
            _, oldest = self._results.popitem(last=False)
            self._result_bytes -= _size(oldest.result)
        out.append(Tell(job.owner, result))
        self._on_its_way(now_ns, job.owner, result, job.lease_ns, job.arrived_ns)
        if not plain:
            ran: Details = {"status": result.status, "run_ms": result.run_us // 1000}
            if result.pid:
                ran |= {"pid": result.pid, "started_at_ms": result.started_at_ms}
            out.append(Explain(job.task, What.RAN, job.owner, job.attempt, ran))

    def held_of(self, now_ns: int, owner: str, after: str) -> Held:
        """What is here of this owner, who has lost its records: work, and results that are still kept."""
        found: dict[str, HeldJob] = {}
        for task, kept in self._results.items():
            if kept.owner == owner and task > after:
                result: Result | None = msgspec.structs.replace(kept.result, load=None)
                if _size(kept.result) > HELD_BYTES_MAX // 2:
                    result = None
                found[task] = _held(kept.offer, kept.result.status, None, result)
        for task, job in self._jobs.items():
            if job.owner == owner and job.offer is not None and task > after:
                left_ms = None
                if job.budget_end_ns is not None:
                    left_ms = max(1, (job.budget_end_ns - now_ns) // MILLISECOND)
                state = "running" if job.phase is Phase.RUNNING else "queued"
                found[task] = msgspec.structs.replace(
                    _held(job.offer, state, left_ms, None), attempt=job.attempt
                )
        page: list[HeldJob] = []
        size = 0
        for task in sorted(found):
            one = found[task]
            size += 200 + len(one.function) + len(one.input or b"") + len(one.trace)
            size += _size(one.result) if one.result else 0
            if page and (size > HELD_BYTES_MAX or len(page) >= HELD_JOBS_MAX):
                return Held(page, complete=False)
            page.append(one)
        return Held(page)

    def _on_its_way(self, now_ns: int, owner: str, result: Result, lease_ns: int, arrived_ns: int) -> None:
        """Go on renewing the lease until the owner has a result that takes its time."""
        if _size(result) <= LARGE_BYTES:
            return
        task = result.task
        self._sent[task] = _Sent(owner, result.attempt, lease_ns, arrived_ns, now_ns + ON_ITS_WAY_NS)
        self._progress.set(task, now_ns + lease_ns // 3)
        if len(self._sent) > RESULTS_KEPT:
            self._arrived(next(iter(self._sent)))

    def _arrived(self, task: str) -> None:
        del self._sent[task]
        self._progress.drop(task)

    def _accept(self, now_ns: int, job: Job, out: list[Effect]) -> None:
        job.accept_wanted = False
        wait_ms = int(1e3 * self.wait_s(now_ns)) if job.phase is Phase.QUEUED else 0
        out.append(Tell(job.owner, Accept(job.task, job.attempt, wait_ms, self.load(now_ns))))
        if job.told_attempt != job.attempt:
            job.told_attempt = job.attempt
            taken: Details = {"function": job.function, "wait_ms": wait_ms}
            if job.offer is not None and job.offer.trace:
                taken["traceparent"] = parts(job.offer.trace)[0]
            out.append(Explain(job.task, What.TOOK, job.owner, job.attempt, taken))
        self._progress.set(job.task, now_ns + job.lease_ns // 3)

    def tick(self, now_ns: int, out: list[Effect]) -> None:
        accepts = self._accepts
        while accepts and (accepts[0][0] <= now_ns or not accepts[0][1].accept_wanted):
            job = accepts.popleft()[1]
            if job.accept_wanted:
                self._accept(now_ns, job, out)
        for task in self._progress.due(now_ns):
            sent = self._sent.get(task)
            if sent is not None:
                if now_ns >= sent.until_ns or not self._untaken(sent.owner):
                    self._arrived(task)
                    continue
                elapsed_ms = (now_ns - sent.arrived_ns) // MILLISECOND
                out.append(Tell(sent.owner, Progress(task, sent.attempt, True, elapsed_ms)))
                self._progress.set(task, now_ns + sent.lease_ns // 3)
                continue
            job = self._jobs[task]
            elapsed_ms = (now_ns - job.arrived_ns) // MILLISECOND
            running = job.phase is Phase.RUNNING
            out.append(Tell(job.owner, Progress(job.task, job.attempt, running, elapsed_ms)))
            self._progress.set(task, now_ns + job.lease_ns // 3)

    def deadline_ns(self) -> int | None:
        accepts = self._accepts
        while accepts and not accepts[0][1].accept_wanted:
            accepts.popleft()
        progress_ns = self._progress.next_ns()
        if not accepts:
            return progress_ns
        return accepts[0][0] if progress_ns is None else min(progress_ns, accepts[0][0])

    def check(self) -> None:
        queued = [job for job in self._jobs.values() if job.phase is Phase.QUEUED]
        assert len(queued) == self._queued
        assert sum(waiting.count for waiting in self._waiting.values()) == len(queued)
        all_s = sum(self._waiting[job.function].each_s for job in queued)
        assert abs(all_s - self._queued_s) < 1e-6 * (1 + len(queued) + all_s)
        away_s = sum(self._waiting[job.function].each_s for job in queued if job.fetches)
        assert abs(away_s - self._remote_s) < 1e-6 * (1 + len(queued) + all_s)
        assert not self._sent.keys() & self._jobs.keys() and len(self._sent) <= RESULTS_KEPT
        assert all(task in self._progress for task in self._sent)
        assert len(self.ran) <= RAN_KEPT and all(len(peers) <= RAN_PEERS for peers in self.ran.values())
        waiting = {id(item[3]) for item in self._queue + self._remote}
        assert all(id(job) in waiting for job in queued)
        assert set(self._own) == {task for task, job in self._jobs.items() if not job.foreign}
        anywhere = {task for task, own in self._own.items() if own.where == ANY}
        assert (
            self._free.keys() | self._choosy.keys() == anywhere
            and not self._free.keys() & self._choosy.keys()
        )
        assert self._fetching.items() <= self._released.items() and len(self._fetching) <= FETCHING_MAX
        # One may start while the window is full.
        assert len(self._released) <= DEPTH_MAX * self.workers + FETCHING_MAX
        for (task, attempt), job in self._released.items():
            assert job.released and (job.task, job.run_attempt) == (task, attempt)
        for task, job in self._jobs.items():
            assert job.task == task and job.phase is not Phase.GONE
            assert job.released == (job.phase in (Phase.RELEASED, Phase.RUNNING))
            assert job.phase is not Phase.LATE or not job.foreign
        assert len(self._tombstones) <= TOMBSTONES_KEPT and len(self._results) <= RESULTS_KEPT
        assert self._result_bytes == sum(_size(kept.result) for kept in self._results.values())


def _class(priority: int) -> int:
    """A priority, within what a queue tells apart."""
    return max(-PRIORITY_MAX, min(PRIORITY_MAX, priority))


def _held(offer: Offer, state: str, budget_ms: int | None, result: Result | None) -> HeldJob:
    attempt = result.attempt if result is not None else offer.attempt
    return HeldJob(
        offer.task, attempt, offer.function, offer.digest, state, offer.priority, budget_ms, offer.input,
        offer.input_digest, result, offer.trace,
    )  # fmt: skip


def _size(result: Result) -> int:
    return len(result.output) + len(result.error) + len(result.log)
