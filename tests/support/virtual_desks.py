"""Several real desks against each other in virtual time: one heap of moments, one seed, no clock.

Everything around the desks is modelled and nothing of them: a fixed delay for every pair, workers that are
busy for work / speed seconds, a journal that answers after an fsync, beats once a second. A run with the same
arguments is the same run.
"""

from __future__ import annotations

import random
import statistics
from collections import Counter, deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from edge_node.scheduling.placement import Candidate
from edge_node.tasks.desk import (
    Append,
    Desk,
    DeskSettings,
    Heard,
    MemberInfo,
    Members,
    PeerDown,
    PeerUp,
    Persisted,
    Run,
    Settled,
    Stop,
    Submitted,
    Task,
    Tell,
    WorkDone,
    WorkStarted,
)
from edge_node.tasks.events import Look
from edge_node.wire.messages import Beat, Pong

MS = 1_000_000
SECOND = 1_000_000_000
WALL_MS = 1_700_000_000_000
FSYNC_NS = 200_000
CONTROL = ("Probe", "Pong", "Offer", "Accept", "Refuse", "Progress", "Cancel")
"""What counts as a control message; results are the work's own, beats are reported apart."""


class _Board:
    """The machine under one desk: as many servers as workers, first come first served."""

    def __init__(self, speed: float, workers: int) -> None:
        self.speed = speed
        self.workers = workers
        self.waiting: deque[Run] = deque()
        self.busy = 0
        self.stopped: set[tuple[str, int]] = set()
        self.ran: Counter[str] = Counter()


class VirtualFleet:
    """`boards`: name -> (speed, workers). `rtt_ms`: the range a pair's round trip is drawn from."""

    def __init__(
        self,
        boards: dict[str, tuple[float, int]],
        *,
        seed: int = 1,
        rtt_ms: tuple[float, float] = (2.0, 5.0),
        desk: Callable[..., Desk] = Desk,
        beats: bool = True,
        all_up: bool = True,
        **settings: Any,
    ) -> None:
        self.now_ns = SECOND
        self.rng = random.Random(seed)
        self.boards = {name: _Board(*figures) for name, figures in boards.items()}
        names = list(boards)
        self.rtt_ns = {
            frozenset((a, b)): int(self.rng.uniform(*rtt_ms) * MS)
            for i, a in enumerate(names)
            for b in names[i + 1 :]
        }
        self.desks = {
            name: desk(
                name,
                settings=DeskSettings(speed=speed, workers=workers, **settings),
                rng=random.Random(f"{seed} {name}"),
            )
            for name, (speed, workers) in boards.items()
        }
        self.work_s: dict[str, float] = {}
        self.born_ns: dict[str, int] = {}
        self.response_s: dict[str, float] = {}
        self.outcomes: dict[str, Any] = {}
        self.told: Counter[str] = Counter()
        self.ticks: Counter[str] = Counter()
        self.silent: set[str] = set()  # who neither sends nor receives any more
        self.lose: Callable[[str, str, Any], bool] = lambda me, peer, message: False
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        self._tick_ns: dict[str, int] = {}
        self._beat_seq = 0
        members = Members(tuple(MemberInfo(name) for name in names))
        for name in names:
            self.say(name, members)
        if all_up:
            for a in names:
                for b in names:
                    if a != b:
                        self.say(a, PeerUp(b, self.rtt(a, b)))
        if beats:
            for name in names:
                self.at(self.now_ns + int(self.rng.random() * SECOND), lambda name=name: self._beat(name))

    # ── time ──────────────────────────────────────────────────────────────────────────────────────────
    def at(self, at_ns: int, what: Callable[[], None]) -> None:
        self._order += 1
        heappush(self._heap, (at_ns, self._order, what))

    def run(self, until: Callable[[], bool], *, seconds: float = 600.0) -> None:
        """Until `until()` holds, at most `seconds` of virtual time."""
        end_ns = self.now_ns + int(seconds * 1e9)
        while not until():
            assert self._heap and self._heap[0][0] <= end_ns, f"not after {seconds} s of virtual time"
            self.now_ns, _, what = heappop(self._heap)
            what()

    def run_for(self, seconds: float) -> None:
        end_ns = self.now_ns + int(seconds * 1e9)
        while self._heap and self._heap[0][0] <= end_ns:
            self.now_ns, _, what = heappop(self._heap)
            what()
        self.now_ns = end_ns

    # ── the desks and what is around them ─────────────────────────────────────────────────────────────
    def rtt(self, a: str, b: str) -> int:
        return self.rtt_ns[frozenset((a, b))]

    def say(self, me: str, event: Any) -> None:
        self._carry(me, self.desks[me].handle(self.now_ns, self.wall_ms, event))

    @property
    def wall_ms(self) -> int:
        return WALL_MS + self.now_ns // MS

    def wall_of(self, task: str) -> int:
        """When it was submitted, in milliseconds of the wall clock."""
        return WALL_MS + self.born_ns[task] // MS

    def submit(self, me: str, work_s: float, *, function: str = "f.work", **fields: Any) -> str:
        task = f"{me}-{len(self.born_ns):06d}"
        self.work_s[task] = work_s
        self.born_ns[task] = self.now_ns
        size = fields.pop("size", 64)
        self.say(
            me,
            Submitted(
                0,
                Task(
                    task, function, b"d" * 32, b"x" * size, b"s" * 32, me,
                    accepted_at_ms=self.wall_ms, **fields,
                ),
            ),
        )  # fmt: skip
        return task

    def _carry(self, me: str, effects: list[Any]) -> None:
        for effect in effects:
            match effect:
                case Append(serial=serial):
                    self.at(self.now_ns + FSYNC_NS, lambda s=serial: self.say(me, Persisted(s)))
                case Tell(peer, message):
                    self.told[type(message).__name__] += 1
                    self._send(me, peer, message)
                case Look(peer):
                    self.told["Probe"] += 1
                    half_ns = self.rtt(me, peer) // 2
                    if not {me, peer} & self.silent:
                        self.at(self.now_ns + half_ns, lambda peer=peer: self._looked_at(me, peer))
                case Run():
                    self.boards[me].waiting.append(effect)
                    self._work(me)
                case Stop(task, attempt):
                    self.boards[me].stopped.add((task, attempt))
                case Settled(task_id, outcome):
                    assert task_id not in self.outcomes, "settled twice"
                    self.outcomes[task_id] = outcome
                    self.response_s[task_id] = (self.now_ns - self.born_ns[task_id]) / 1e9
        due_ns = self.desks[me].deadline_ns()
        if due_ns is not None:
            planned_ns = self._tick_ns.get(me)
            if planned_ns is None or planned_ns <= self.now_ns or due_ns < planned_ns:
                self._tick_ns[me] = max(due_ns, self.now_ns)
                self.at(max(due_ns, self.now_ns), lambda: self._tick(me))

    def _tick(self, me: str) -> None:
        due_ns = self.desks[me].deadline_ns()
        if due_ns is not None and due_ns <= self.now_ns:
            self._tick_ns.pop(me, None)
            self.ticks[me] += 1
            self._carry(me, self.desks[me].tick(self.now_ns, self.wall_ms))
        elif due_ns is not None and self._tick_ns.get(me, 0) <= self.now_ns:
            self._tick_ns[me] = due_ns
            self.at(due_ns, lambda: self._tick(me))

    def _send(self, me: str, peer: str, message: Any) -> None:
        if {me, peer} & self.silent or self.lose(me, peer, message):
            return
        self.at(self.now_ns + self.rtt(me, peer) // 2, lambda: self._hear(peer, me, message))

    def _hear(self, me: str, peer: str, message: Any) -> None:
        if me not in self.silent:
            self.say(me, Heard(peer, message))

    def _looked_at(self, me: str, peer: str) -> None:
        self.told["Pong"] += 1
        pong = Pong(0, self.desks[peer].load(self.now_ns))
        if not {me, peer} & self.silent:
            up = PeerUp(peer, self.rtt(me, peer))
            half_ns = self.rtt(me, peer) // 2
            self.at(self.now_ns + half_ns, lambda: (self.say(me, up), self._hear(me, peer, pong)))

    def _beat(self, me: str) -> None:
        self._beat_seq += 1
        beat = Beat(self._beat_seq, self.desks[me].load(self.now_ns))
        for peer in self.desks:
            if peer != me:
                self._send(me, peer, beat)
        self.at(self.now_ns + SECOND, lambda: self._beat(me))

    def _work(self, me: str) -> None:
        board = self.boards[me]
        while board.waiting and board.busy < board.workers:
            run = board.waiting.popleft()
            if (run.task, run.attempt) in board.stopped:
                board.stopped.discard((run.task, run.attempt))
                self.say(me, WorkDone(run.owner, run.task, run.attempt, "cancelled"))
                continue
            board.busy += 1
            self.say(me, WorkStarted(run.task, run.attempt, 1, self.wall_ms))
            took_s = self.work_s[run.task] / board.speed
            self.at(
                self.now_ns + int(took_s * 1e9), lambda run=run, took_s=took_s: self._ran(me, run, took_s)
            )

    def _ran(self, me: str, run: Run, took_s: float) -> None:
        board = self.boards[me]
        board.busy -= 1
        board.ran[run.task] += 1
        done = WorkDone(
            run.owner, run.task, run.attempt, "done", b"out", pid=1, started_at_ms=1, run_us=int(1e6 * took_s)
        )
        self.say(me, done)
        self._work(me)

    def cut(self, peer: str) -> None:
        """Nothing goes to or comes from this peer from now on, and everybody notices."""
        self.silent.add(peer)
        for name in self.desks:
            if name != peer:
                self.say(name, PeerDown(peer))

    # ── whole runs ────────────────────────────────────────────────────────────────────────────────────
    def burst(self, me: str, count: int, work_s: float, **fields: Any) -> float:
        """Seconds until all of `count` tasks, submitted at once, have settled."""
        before, begin_ns = len(self.outcomes), self.now_ns
        for _ in range(count):
            self.submit(me, work_s, **fields)
        self.run(lambda: len(self.outcomes) - before >= count)
        return (self.now_ns - begin_ns) / 1e9

    def load_up(self, *, load: float, work_s: float, seconds: float, exponential: bool = True) -> None:
        """Poisson arrivals, as many at every desk, together `load` of what the boards can do."""
        capacity = sum(board.speed * board.workers for board in self.boards.values())
        each_per_s = load * capacity / work_s / len(self.boards)
        end_ns = self.now_ns + int(seconds * 1e9)

        def arrive(name: str) -> None:
            if self.now_ns < end_ns:
                work = self.rng.expovariate(1.0 / work_s) if exponential else work_s
                self.submit(name, work)
                self.at(self.now_ns + int(self.rng.expovariate(each_per_s) * 1e9), lambda: arrive(name))

        for name in self.boards:
            self.at(self.now_ns + int(self.rng.expovariate(each_per_s) * 1e9), lambda name=name: arrive(name))
        self.run_for(seconds)
        self.run(lambda: len(self.outcomes) == len(self.born_ns))
        for desk in self.desks.values():
            desk.check()

    def mean_response_s(self, *, skip_s: float = 0.0) -> float:
        """Over the tasks born after the first `skip_s` seconds."""
        begin_ns = min(self.born_ns.values()) + int(skip_s * 1e9)
        return statistics.fmean(s for task, s in self.response_s.items() if self.born_ns[task] >= begin_ns)

    def control_messages_per_task(self) -> float:
        return sum(self.told[kind] for kind in CONTROL) / len(self.outcomes)


# ── what the pool is compared with ────────────────────────────────────────────────────────────────────────
class RandomDesk(Desk):
    """Baseline: any place with the same chance, blind to load; no probes, no second thoughts."""

    def _place_anywhere(self, now_ns: int, entry: Any, out: list[Any]) -> None:
        self._go(now_ns, entry, self._rng.choice([None, *self._live]), out)

    def _go(self, now_ns: int, entry: Any, view: Any, out: list[Any]) -> None:
        if view is None:
            self._run_here(now_ns, entry, out)
        else:  # a promise that no queue can break: baselines are never refused
            promised = Candidate(view.name, 60.0, 1.0)
            self._offer(now_ns, entry, view, promised, out)

    def _rebalance(self, now_ns: int, out: list[Any]) -> None:
        self._rebalance_ns = now_ns + SECOND

    def _feed(self, now_ns: int, view: Any, out: list[Any]) -> None:
        pass


class TwoByHeartbeatDesk(RandomDesk):
    """Baseline: the better of two places drawn at random, by their last heartbeat and what was sent since."""

    by_beat = False

    def _beat(self, now_ns: int, peer: str, message: Any, out: list[Any]) -> None:
        self.by_beat = True
        super()._beat(now_ns, peer, message, out)
        self.by_beat = False

    def _news(self, now_ns: int, view: Any, load: Any) -> None:
        if self.by_beat:
            super()._news(now_ns, view, load)

    def _place_anywhere(self, now_ns: int, entry: Any, out: list[Any]) -> None:
        here = self._here(now_ns, entry.task, self._holder.wait_s(now_ns))

        def completion_s(view: Any) -> float:
            where = here if view is None else self._candidate(now_ns, entry.task, view)
            return where.completion_s

        two = self._rng.sample([None, *self._live], 2)
        self._go(now_ns, entry, min(two, key=completion_s), out)
