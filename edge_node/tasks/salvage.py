"""Salvage: what peers still hold of tasks that a damaged ledger has lost (promise P6).

    ledger was damaged ─► each peer, once there is a session ─► HeldWanted ─► Held, page by page
        known here ─► nothing        a result ─► taken, never run again        work ─► accepted again

A holder keeps what it runs and its latest results by its owner, so it can say what it was asked for. Answers
are gathered for a while before anything is decided: one peer may run a second attempt of what another has
done. Whatever is asked or answered twice changes nothing: a task that is known is passed over.

In: ready, held, tick. Out: Ask, TakeBack. Not here: reading the damaged file (`edge_node.store.recovery`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import msgspec

from edge_node.tasks.task import ANY, Task
from edge_node.tasks.tracing import parsed, parts
from edge_node.wire.messages import Held, HeldJob, Result

SECOND = 1_000_000_000
GATHER_NS = 5 * SECOND
"""From the first peer that could be asked: time for those that are up to answer."""
PEERS_MAX = 1024
JOBS_MAX = 10_000
"""Held back for a decision; no more are open at one owner either."""
TELLABLE = frozenset({"done", "failed"})


class Ask(msgspec.Struct, frozen=True):
    """Send this peer HeldWanted(after)."""

    peer: str
    after: str


class TakeBack(msgspec.Struct, frozen=True):
    """Accept this task again, or its result for good. `result` None: it has to run."""

    task: Task
    peer: str
    attempt: int
    result: Result | None
    ended: bool  # it was done there, whether or not the result could be handed back
    runnable: bool  # its arguments are here


Effect = Ask | TakeBack


class Salvage:
    """Of one start of an owner, `me`.

    Args: lost: ids that its ledger names as lost.   unnamed: more may be lost than what is named; if not, no
    peer can bring in another.   known: whether the owner has records of this task.
    """

    def __init__(self, me: str, *, lost: Iterable[str], unnamed: bool, known: Callable[[str], bool]) -> None:
        self._me = me
        self.lost = dict.fromkeys(lost)
        self.wanted = unnamed or bool(self.lost)
        self._named = None if unnamed else frozenset(self.lost)
        self.taken: dict[str, str] = {}  # task -> by whose word
        self._known = known
        self._asked: dict[str, str] = {}  # peer -> after which id
        self._found: dict[str, tuple[str, HeldJob]] = {}
        self._decide_ns: int | None = None
        self._decided = False

    def ready(self, now_ns: int, peer: str) -> list[Effect]:
        """There is a session with this peer (again)."""
        if not self.wanted or (len(self._asked) >= PEERS_MAX and peer not in self._asked):
            return []
        if self._decide_ns is None and not self._decided:
            self._decide_ns = now_ns + GATHER_NS
        self._asked[peer] = ""
        return [Ask(peer, "")]

    def held(self, now_ns: int, wall_ms: int, peer: str, message: Held) -> list[Effect]:
        """An answer; one that was not asked for counts for nothing."""
        if peer not in self._asked:
            return []
        out: list[Effect] = []
        for job in message.jobs:
            before = self._found.get(job.task)
            if self._named is not None and job.task not in self._named:
                continue
            room = before is not None or len(self._found) < JOBS_MAX
            if room and not self._known(job.task) and (before is None or _rank(job) > _rank(before[1])):
                self._found[job.task] = peer, job
        if message.jobs and not message.complete and message.jobs[-1].task > self._asked[peer]:
            self._asked[peer] = message.jobs[-1].task
            out.append(Ask(peer, message.jobs[-1].task))
        if self._decided:
            out += self._decide(wall_ms)
        return out

    def tick(self, now_ns: int, wall_ms: int) -> list[Effect]:
        if self._decide_ns is None or now_ns < self._decide_ns:
            return []
        self._decide_ns, self._decided = None, True
        return self._decide(wall_ms)

    def deadline_ns(self) -> int | None:
        return self._decide_ns

    def _decide(self, wall_ms: int) -> list[Effect]:
        found, self._found = self._found, {}
        out: list[Effect] = []
        for name, (peer, job) in sorted(found.items()):
            if self._known(name):
                continue
            self.taken[name] = peer
            self.lost.pop(name, None)
            result = job.result if job.result is not None and job.result.status in TELLABLE else None
            ended = job.state in TELLABLE
            out.append(
                TakeBack(
                    _task_of(job, self._me, wall_ms), peer, job.attempt, result, ended, job.input is not None
                )
            )
        return out

    def check(self) -> None:
        assert len(self._asked) <= PEERS_MAX and len(self._found) <= JOBS_MAX
        assert self.wanted or not self._asked
        assert not (self._decided and self._decide_ns is not None)


def _rank(job: HeldJob) -> tuple[bool, bool, int]:
    """A result before the word that there was one, that before work; then the newest attempt."""
    return job.result is not None and job.result.status in TELLABLE, job.state in TELLABLE, job.attempt


def _task_of(job: HeldJob, me: str, wall_ms: int) -> Task:
    """As much as a holder knows. Where it was to run, its ttl, labels and limits are lost: defaults stand."""
    body = job.input if job.input is not None else b""
    return Task(
        id=job.task,
        function=job.function,
        digest=job.digest,
        input=body,
        input_sha256=hashlib.sha256(body).digest()
        if job.input is not None
        else job.input_digest or bytes(32),
        origin=me,
        where=ANY,
        priority=job.priority,
        accepted_at_ms=wall_ms,
        deadline_ms=job.budget_ms,
        trace=parsed(*parts(job.trace)),
    )
