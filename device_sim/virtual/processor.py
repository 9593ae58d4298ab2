"""A machine's processor: its workers run functions in virtual time, and its event loop takes time as well.

    start(call) ─► queue (FIFO) ─► worker slot ─► start latency, import, work / speed ─► on_done(Completion)

A ``Runtime`` as ``WorkerPool`` is one: the same callbacks, the same completions for a run that took too long,
was cancelled, or whose worker died, and exactly one for each invocation while the process lives. One
``Processor`` is one life of a node's process: after ``crash`` it is over, a restart makes another.

``turn_at_ns`` and ``spend_turn`` are the daemon's own cost: one server a node, since an event loop is one
thread, which waits for a core while workers hold all of them. A busy node is late with everything.

Simpler than the real pool: short runs do not share a worker's pipe (their pipe hop is a constant here);
memory limits, prints and recycling of workers do not happen; with more workers than cores, a run is slowed by
what runs when it begins, and keeps that pace. Not here: service times and outputs (``services``), how many
may wait (the caller's bound).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from device_sim.virtual.evidence import Ran
from device_sim.virtual.services import Outputs, Service
from device_sim.virtual.world import MS, SECOND, Entry, World
from edge_node.clock import Clock
from edge_node.functions.invocation import Completion, Invocation, TaskError
from edge_node.functions.limits import PoolSettings, size_text
from edge_node.functions.runtimes.runtime import OnDone, OnStarted
from security.errors import BadInput, ProtocolViolation

FIRST_PID: Final = 1000


@dataclass(frozen=True, slots=True)
class Costs:
    """What a machine of speed 1 spends beside the functions themselves."""

    dispatch_ns: int = 100_000
    """From the queue to a worker's first instruction and back: a pipe hop is about 0.1 ms."""
    spawn_ns: int = 150 * MS
    """A worker process until it is ready."""
    kill_ns: int = 2 * MS
    """From the verdict over a run until its worker's death is noticed."""
    turn_ns: int = 60_000
    """A turn of the event loop, whatever it handles: select, tick, one write of the link."""
    event_ns: int = 40_000
    """Each event in it: decode, open, decide, seal."""
    scheduling_ns_max: int = 4 * MS
    """Until a thread that became runnable gets a core that workers hold: about one slice of the kernel's."""


class Processor:
    """Args:
    node: its name, for its stream of chance and as evidence.
    speed: 1 is the machine that service times were measured on; 0.25 takes four times as long.
    workers: runs at once.   cores: of the machine.
    clock: the node's own; only for the wall times in completions.
    services: by function, as invocations name it ("stem.name").
    outputs: shared by all processors of a world.
    on_done, on_started: as of ``WorkerPool``; called from the agenda or ``flush``, and within ``cancel`` for
        what was still in the queue.
    ran: told of every run that ended, also by a crash.
    """

    __slots__ = (
        "_clock",
        "_cores",
        "_costs",
        "_dead",
        "_free",
        "_held",
        "_on_done",
        "_on_started",
        "_outputs",
        "_pid",
        "_queue",
        "_ran",
        "_rng",
        "_running",
        "_sample_ns",
        "_services",
        "_settings",
        "_slots",
        "_speed_ppm",
        "_turn",
        "_turn_over_ns",
        "_world",
        "busy_ns",
        "node",
        "turns_ns",
    )

    def __init__(
        self,
        world: World,
        node: str,
        *,
        speed: float,
        workers: int,
        cores: int,
        clock: Clock,
        services: Mapping[str, Service],
        outputs: Outputs,
        on_done: OnDone,
        on_started: OnStarted | None = None,
        ran: Callable[[Ran], None] | None = None,
        costs: Costs | None = None,
        settings: PoolSettings | None = None,
        life: int = 0,
    ) -> None:
        assert workers >= 1 and cores >= 1, "a machine has at least one of each"
        assert speed > 0, "a speed above 0"
        self._world = world
        self.node = node
        self._speed_ppm = round(speed * 1_000_000)
        self._cores = cores
        self._clock = clock
        self._services = services
        self._outputs = outputs
        self._on_done = on_done
        self._on_started = on_started
        self._ran = ran
        self._costs = costs or Costs()
        self._settings = settings or PoolSettings()
        self._sample_ns = round(self._settings.sample_s * SECOND)
        self._rng = world.rng(node, "processor", str(life))
        self._queue: deque[Invocation] = deque()
        self._slots = [_Worker() for _ in range(workers)]
        self._free: list[_Worker] = []
        self._held: dict[tuple[str, int], _Worker] = {}
        self._running = 0
        self._turn: Entry | None = None
        self._turn_over_ns = 0
        self._pid = FIRST_PID
        self._dead = False
        self.busy_ns = 0
        """Of all workers together, runs that have ended."""
        self.turns_ns = 0
        """Of the event loop."""
        for worker in self._slots:
            self._spawn(worker)

    # ── the port ──

    @property
    def workers(self) -> int:
        return len(self._slots)

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def running(self) -> int:
        return self._running

    @property
    def ready(self) -> int:
        """Workers that have started, busy or not."""
        return sum(1 for worker in self._slots if worker.pid)

    def start(self, call: Invocation) -> None:
        assert not self._dead, "its process has ended"
        self._queue.append(call)
        if self._turn is None:
            self._turn = self._world.soon(self._take_turn)

    def flush(self) -> None:
        if self._turn is not None:
            self._world.cancel(self._turn)
            self._take_turn()

    def cancel(self, task: str, attempt: int) -> None:
        for waiting in self._queue:
            if waiting.task == task and waiting.attempt == attempt:
                self._queue.remove(waiting)
                self._on_done(Completion(task, attempt, "cancelled"))
                return
        worker = self._held.get((task, attempt))
        if worker is not None and not worker.condemned:
            self._condemn(worker, Completion(task, attempt, "cancelled"), self._costs.kill_ns)

    async def run(self) -> None:
        """Only for who runs it on a ``VirtualLoop``: workers work without."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.crash()

    # ── what is done to it ──

    def kill_worker(self, number: int | None = None) -> bool:
        """The kernel ends a worker, e.g. for want of memory. `number`: which; None: the first that runs.

        Returns: was there one?
        """
        if number is None:
            chosen = [worker for worker in self._slots if worker.call is not None and not worker.dying]
        else:
            chosen = [worker for worker in self._slots[number : number + 1] if worker.pid]
        if not chosen or self._dead:
            return False
        worker = chosen[0]
        if worker.call is None:
            self._free.remove(worker)
            self._spawn(worker)
        elif not worker.dying:
            # As in the pool: what lay in the pipe of a dead worker has not run, and is given to another.
            begun = self._world.now_ns >= worker.begun_ns
            self._die(worker, _died(worker.call, "SIGKILL") if begun else None, self._costs.kill_ns)
        return True

    def pace(self, speed: float) -> None:
        """It is so fast from now on, e.g. it got hot; runs that have begun keep their end."""
        self._speed_ppm = round(speed * 1_000_000)

    def crash(self) -> None:
        """The process, or the machine, ends: no completion comes any more. Idempotent."""
        self._dead = True
        self._queue.clear()
        self._world.cancel(self._turn)
        self._turn = None
        for worker in self._slots:
            self._world.cancel(worker.entry)
            worker.entry = None
            if worker.call is not None:
                self._tell(worker, worker.call, "killed")
                worker.call = None
            worker.pid = 0
        self._held.clear()
        self._free.clear()
        self._running = 0

    # ── the event loop's own time ──

    def turn_at_ns(self) -> int:
        """When a turn of the event loop that is wanted now can begin, in world time. Ask once a turn."""
        now_ns = self._world.now_ns
        at_ns = self._turn_over_ns if self._turn_over_ns > now_ns else now_ns
        if self._running >= self._cores and self._costs.scheduling_ns_max:
            at_ns += int(self._rng.random() * self._costs.scheduling_ns_max)
        return at_ns

    def spend_turn(self, events: int) -> int:
        """A turn of so many events begins now. Returns: when it is over, and what it said leaves the node."""
        costs = self._costs
        spent_ns = (costs.turn_ns + costs.event_ns * events) * 1_000_000 // self._speed_ppm
        now_ns = self._world.now_ns
        began_ns = self._turn_over_ns if self._turn_over_ns > now_ns else now_ns
        self.turns_ns += spent_ns
        self._turn_over_ns = began_ns + spent_ns
        return self._turn_over_ns

    def spend_events(self, events: int) -> None:
        """So many more came before the turn that was booked began, and are taken in it."""
        spent_ns = self._costs.event_ns * events * 1_000_000 // self._speed_ppm
        self.turns_ns += spent_ns
        self._turn_over_ns += spent_ns

    def turn_delay_ns(self, events: int) -> int:
        """From now until a turn that is wanted now is over; books it."""
        self._turn_over_ns = self.turn_at_ns()
        return self.spend_turn(events) - self._world.now_ns

    # ── turns: queue → workers ──

    def _take_turn(self) -> None:
        self._turn = None
        queue, free = self._queue, self._free
        while queue and free:
            self._give(free.pop(), queue.popleft())

    def _give(self, worker: _Worker, call: Invocation) -> None:
        service = self._services.get(call.function)
        if service is None:
            raise BadInput(
                f"no service model for {call.function!r}", fix=f"known: {', '.join(sorted(self._services))}"
            )
        world, costs, settings = self._world, self._costs, self._settings
        worker.call = call
        worker.condemned = worker.dying = False
        worker.started_ns = world.now_ns
        self._held[call.task, call.attempt] = worker
        self._running += 1
        loading_ns = 0
        if service.import_ms and call.digest not in worker.loaded:
            loading_ns = self._scaled(round(service.import_ms * MS))
        work_ns = self._scaled(service.work_ns(self._rng, len(call.input)))
        hop_ns = self._scaled(costs.dispatch_ns)
        worker.begun_ns = world.now_ns + hop_ns
        begin_ns = worker.begun_ns + loading_ns
        worker.run_ns = work_ns
        if self._on_started is not None:
            self._on_started(call.task, call.attempt, worker.pid)
        # The real pool looks each `sample_s`: what ends before it looks has ended.
        if hop_ns + loading_ns > settings.import_timeout_s * SECOND + self._sample_ns:
            message = f"its import took longer than {settings.import_timeout_s:g} s"
            late = _failed(call, TaskError("import", "TimeoutError", message))
            at_ns = world.now_ns + round(settings.import_timeout_s * SECOND) + self._sample_ns
            worker.entry = world.at(at_ns, self._condemn, worker, late)
        elif work_ns > (timeout_ns := round(call.timeout_s * SECOND)) + self._sample_ns:
            message = f"took longer than {call.timeout_s:g} s"
            late = _failed(call, TaskError("timeout", "TimeoutError", message))
            worker.entry = world.at(begin_ns + timeout_ns + self._sample_ns, self._condemn, worker, late)
        elif service.poison:
            worker.entry = world.at(begin_ns + work_ns, self._condemn, worker, _died(call, "SIGSEGV"))
        else:
            worker.loaded[call.digest] = None
            worker.entry = world.at(begin_ns + work_ns, self._finish, worker, service)

    def _scaled(self, ns: int) -> int:
        """What this takes here, at the pace that the machine has now."""
        ns = ns * 1_000_000 // self._speed_ppm
        return ns if self._running <= self._cores else ns * self._running // self._cores

    def _finish(self, worker: _Worker, service: Service) -> None:
        call = worker.call
        assert call is not None, "it ran"
        output, error = b"", None
        try:
            output = self._outputs.of(service, call.function, call.input)
            if len(output) > call.output_bytes_max:
                message = f"returned {size_text(len(output))}, limit {size_text(call.output_bytes_max)}"
                output, error = b"", TaskError("output", "", message)
        except ProtocolViolation as raised:
            error = TaskError("arguments", "", str(raised))
        except Exception as raised:  # door: whatever a user's function raises becomes data
            error = TaskError("raised", type(raised).__name__, str(raised))
        ended_ms = self._clock.wall_ms()
        run_us = worker.run_ns // 1000
        done = Completion(
            call.task, call.attempt, "done" if error is None else "failed", output, error, b"", worker.pid,
            ended_ms - worker.run_ns // MS, ended_ms, run_us, run_us,
        )  # fmt: skip
        self._free.append(worker)
        if self._queue and self._turn is None:
            self._turn = self._world.soon(self._take_turn)
        self._ended(worker, call, done)

    def _condemn(self, worker: _Worker, done: Completion, ns: int = 0) -> None:
        """Its worker is ended by the pool, and this is how the run ended."""
        worker.condemned = True
        if worker.dying:
            worker.ends = done  # the pool's verdict is what counts
        else:
            self._die(worker, done, ns)

    def _die(self, worker: _Worker, done: Completion | None, ns: int) -> None:
        """Its worker is gone in so many nanoseconds. None: its run goes to the next one."""
        self._world.cancel(worker.entry)
        worker.dying = True
        worker.ends = done
        worker.entry = self._world.after(ns, self._worker_died, worker)

    def _worker_died(self, worker: _Worker) -> None:
        call, done = worker.call, worker.ends
        assert call is not None, "it ran"
        worker.ends = None
        if done is None:
            worker.call = None
            self._running -= 1
            del self._held[call.task, call.attempt]
            self._queue.appendleft(call)
            self._spawn(worker)
            self._take_turn()
            return
        now_ms, spent_ns = self._clock.wall_ms(), self._world.now_ns - worker.started_ns
        pid = worker.pid
        self._spawn(worker)
        self._ended(
            worker,
            call,
            Completion(
                call.task, call.attempt, done.status, b"", done.error, b"", pid,
                now_ms - spent_ns // MS, now_ms, 0, spent_ns // 1000, done.worker_died,
            ),
        )  # fmt: skip

    def _ended(self, worker: _Worker, call: Invocation, done: Completion) -> None:
        worker.call = None
        self._running -= 1
        self.busy_ns += self._world.now_ns - worker.started_ns
        del self._held[call.task, call.attempt]
        self._tell(worker, call, done.status)
        self._on_done(done)

    def _tell(self, worker: _Worker, call: Invocation, status: str) -> None:
        if self._ran is not None:
            now_ns = self._world.now_ns
            self._ran(Ran(worker.started_ns, now_ns, self.node, call.task, call.attempt, status))

    # ── processes ──

    def _spawn(self, worker: _Worker) -> None:
        worker.pid = 0
        worker.loaded.clear()
        spawn_ns = self._costs.spawn_ns * 1_000_000 // self._speed_ppm
        worker.entry = self._world.after(spawn_ns, self._spawned, worker)

    def _spawned(self, worker: _Worker) -> None:
        self._pid += 1
        worker.pid = self._pid
        worker.entry = None
        self._free.append(worker)
        self._take_turn()


def _failed(call: Invocation, error: TaskError) -> Completion:
    return Completion(call.task, call.attempt, "failed", error=error)


def _died(call: Invocation, signal: str) -> Completion:
    error = TaskError("exit", signal, f"its worker process was ended by {signal}")
    return Completion(call.task, call.attempt, "failed", error=error, worker_died=True)


class _Worker:
    """A worker process, and the run that is in it."""

    __slots__ = (
        *("begun_ns", "call", "condemned", "dying", "ends", "entry", "loaded", "pid", "run_ns", "started_ns"),
    )

    def __init__(self) -> None:
        self.call: Invocation | None = None
        self.condemned = False
        """The pool has decided to end it."""
        self.dying = False
        """It has been killed, by the pool or by somebody else; its death is noticed soon."""
        self.ends: Completion | None = None
        self.begun_ns = 0
        self.entry: Entry | None = None
        self.loaded: dict[bytes, None] = {}
        self.pid = 0
        """0: it has not started yet."""
        self.run_ns = 0
        self.started_ns = 0
