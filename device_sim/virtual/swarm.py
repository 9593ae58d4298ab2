"""A swarm: one seed after the other in several processes, until one is found that breaks a promise.

    seeds ─► worker processes: draw, play, shorten if it fails ─► words, in the order of the seeds

Workers are processes of their own with salts of their own for the hashes of strings, so ``twice`` (each seed
in two of them, everything compared) finds what depends on the order of a set. A worker that dies, or a seed
that does not end, is a finding like any other; whoever stops the swarm gets what was found until then.

Not here: what a seed means (``drawing``), one play (``attempt``), the terminal (``device_sim.commands``).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from typing import Any, Final

import msgspec

from device_sim.faults import SECOND, Fault
from device_sim.virtual.attempt import ENDS, NOTHING_RAISES, PROMISES, SAME_RUN, Attempt, Broken, attempt
from device_sim.virtual.checkers.violations import moment
from device_sim.virtual.drawing import NODES, drawn_scenario
from device_sim.virtual.play import BEGIN_NS
from device_sim.virtual.shorten import PLAYS_MAX, Shortened, shortened
from security.errors import Unavailable

AHEAD_MAX: Final = 256
"""Seeds begun after one that is still being played: their words wait for it."""
CPU_S: Final = (120.0, 5.0)
"""A play that needs more processor time than the first, and the second for each node, does not end."""
TRACE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of a trace that is kept for comparing; what comes after it is compared by its hash alone."""
DEATHS_MAX: Final = 3
"""Workers that die one after the other with no word from any."""
SALTS: Final = ("1", "2")
"""Of the two sides of ``twice``: PYTHONHASHSEED."""
LOOK_S: Final = 0.25


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of a seed."""

    attempt: Attempt
    shortened: Shortened | None = None
    trace: bytes = b""
    """Compressed lines, if it was asked for."""

    @property
    def seed(self) -> int:
        return self.attempt.seed

    @property
    def failed(self) -> bool:
        return bool(self.attempt.broken)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A seed to play."""

    seed: int
    nodes: int = NODES
    focus: str = ""
    plays_max: int = PLAYS_MAX
    """Plays spent on shortening it if it fails."""
    traced: bool = False


# ── in a worker ───────────────────────────────────────────────────────────────────────────────────────


def done(job: Job) -> Word:
    """Play it. Everything that goes wrong in there is in the word."""
    prepared = drawn_scenario(job.seed, job.nodes, job.focus)
    trace = Trace() if job.traced else None
    cpu_s_max = CPU_S[0] + CPU_S[1] * job.nodes
    keep = None if trace is None else trace.keep
    found = attempt(prepared, keep=keep, cpu_s_max=cpu_s_max, focus=job.focus)
    short = None
    if found.broken and job.plays_max and found.broken[0].checker != ENDS:
        short = shortest(found, prepared, plays_max=job.plays_max, cpu_s_max=cpu_s_max)
    return Word(attempt=found, shortened=short, trace=b"" if trace is None else trace.packed())


def shortest(
    found: Attempt, prepared: Any, *, plays_max: int = PLAYS_MAX, cpu_s_max: float | None = None
) -> Shortened:
    """The smallest run that breaks the first promise that *found* broke."""
    first = found.broken[0]

    def fails(faults: tuple[Fault, ...], until_ns: int) -> bool:
        again = attempt(prepared, faults=faults, until_ns=until_ns, cpu_s_max=cpu_s_max)
        return any(each.same_as == first.same_as for each in again.broken)

    return shortened(
        found.faults,
        round(prepared.scenario.fleet.duration_s * SECOND),
        fails,
        first_ns=first.first_ns,
        plays_max=plays_max,
    )


class Trace:
    """The notes of one run, packed as they come: lines of text, as many as fit."""

    def __init__(self, bytes_max: int = TRACE_BYTES_MAX) -> None:
        self._pack = zlib.compressobj(1)
        self._parts: list[bytes] = []
        self._left = bytes_max

    def keep(self, now_ns: int, place: str, kind: str, detail: str) -> None:
        line = f"{now_ns}|{place}|{kind}|{detail}\n".encode()
        self._left -= len(line)
        if self._left >= 0:
            self._parts.append(self._pack.compress(line))

    def packed(self) -> bytes:
        return b"".join([*self._parts, self._pack.flush()])


def notes_of(packed: bytes) -> list[str]:
    return zlib.decompress(packed).decode().splitlines()


def _work(door: Connection) -> None:
    """A worker's life: a job, a word, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who asks; it ends us
    with contextlib.suppress(EOFError, OSError):
        while True:
            job = msgspec.msgpack.decode(door.recv_bytes(), type=Job)
            door.send_bytes(msgspec.msgpack.encode(done(job)))


# ── beside them ───────────────────────────────────────────────────────────────────────────────────────


def compared(one: Word, other: Word) -> Word:
    """Of one seed from two processes: the first word, and broken if the second is another."""
    if one.attempt.sameness == other.attempt.sameness:
        return one
    at_ns, line = _first_difference(one, other)
    differs = Broken(
        checker=SAME_RUN, promise=PROMISES[SAME_RUN], first_ns=at_ns, lines=(f"{moment(at_ns)}: {line}",)
    )
    broken = (*one.attempt.broken, differs)
    return msgspec.structs.replace(one, attempt=msgspec.structs.replace(one.attempt, broken=broken))


def _first_difference(one: Word, other: Word) -> tuple[int, str]:
    pairs = itertools.zip_longest(notes_of(one.trace), notes_of(other.trace), fillvalue="")
    for number, (here, there) in enumerate(pairs, 1):
        if here != there:
            at_ns = min(int(each.partition("|")[0]) for each in (here, there) if each) - BEGIN_NS
            told = [" ".join(each.split("|")[1:]) or "nothing more" for each in (here, there)]
            return at_ns, f'note {number} is "{told[0]}" in one process and "{told[1]}" in another'
    a, b = one.attempt, other.attempt
    at_ns = min(a.ended_ns, b.ended_ns)
    if a.trace_hash == b.trace_hash:
        if a.steps == b.steps and a.ended_ns == b.ended_ns:
            return at_ns, "all notes are equal, but what was broken differs"
        return at_ns, f"all notes are equal, but one process took {a.steps} steps and another {b.steps}"
    return at_ns, f"the first {TRACE_BYTES_MAX >> 20} MiB of notes are equal, a later one differs"


@dataclass(slots=True)
class _Worker:
    process: Any
    door: Connection
    side: int
    job: Job | None = None


@dataclass(slots=True)
class Swarm:
    """Args:
    seeds: to play, ascending; may be endless.
    focus: of the drawing (``focus.FOCUSES``); empty: everything mixed.
    jobs: worker processes; with *twice* at least one for each side.
    twice: each seed in two processes.   plays_max: for shortening one that fails.
    stop: asked often; True: begin nothing more and end what runs.
    enough: asked before each seed; True: begin no other, but let those that run end.
    tick: called a few times a second.
    """

    seeds: Iterator[int]
    nodes: int = NODES
    focus: str = ""
    jobs: int = 1
    twice: bool = False
    plays_max: int = PLAYS_MAX
    stop: Callable[[], bool] = lambda: False
    enough: Callable[[], bool] = lambda: False
    tick: Callable[[], None] = lambda: None
    played: int = 0
    """Seeds done so far, also those whose word waits for an earlier one."""
    _workers: list[_Worker] = field(default_factory=list)
    _waiting: tuple[deque[Job], deque[Job]] = field(default_factory=lambda: (deque(), deque()))
    _order: deque[int] = field(default_factory=deque)
    _words: dict[int, list[Word | None]] = field(default_factory=dict)
    _deaths: int = 0

    def words(self) -> Iterator[Word]:
        """Of each seed, in their order; after a stop, of those that were done.

        Raises: Unavailable: no worker lives long enough to say anything.
        """
        sides = 2 if self.twice else 1
        try:
            for number in range(max(self.jobs, sides)):
                self._workers.append(self._start(number % sides))
            while not self.stop():
                self._hand_out()
                if not self._order:
                    return
                self._listen()
                yield from self._in_order()
                self.tick()
            for seed in list(self._order):
                if self._whole(seed):
                    yield self._taken(seed)
        finally:
            self._end()

    # ── handing out ───────────────────────────────────────────────────────────────────────────────

    def _hand_out(self) -> None:
        for worker in self._workers:
            if worker.job is not None:
                continue
            if not self._waiting[worker.side]:
                self._draw_one()
            if self._waiting[worker.side]:
                worker.job = self._waiting[worker.side].popleft()
                with contextlib.suppress(OSError):  # it has died: its sentinel says so
                    worker.door.send_bytes(msgspec.msgpack.encode(worker.job))

    def _draw_one(self) -> None:
        if len(self._order) >= AHEAD_MAX or self.enough():
            return
        seed = next(self.seeds, None)
        if seed is None:
            return
        self._order.append(seed)
        job = Job(seed=seed, nodes=self.nodes, focus=self.focus, plays_max=self.plays_max, traced=self.twice)
        self._words[seed] = [None, None] if self.twice else [None]
        self._waiting[0].append(job)
        if self.twice:  # the second time only to compare
            self._waiting[1].append(msgspec.structs.replace(job, plays_max=0))

    # ── listening ─────────────────────────────────────────────────────────────────────────────────

    def _listen(self) -> None:
        doors = {worker.door: worker for worker in self._workers}
        ready = connection.wait(list(doors), LOOK_S)  # a door is ready when its worker has died, too
        for door in ready:
            worker = doors[door]  # type: ignore[index]
            try:
                word = msgspec.msgpack.decode(worker.door.recv_bytes(), type=Word)
            except (EOFError, OSError):
                self._died(worker)
                continue
            assert worker.job is not None, "a word that nobody asked for"
            self._deaths = 0
            self._said(worker, word)
            worker.job = None

    def _said(self, worker: _Worker, word: Word) -> None:
        self._words[word.seed][worker.side] = word
        if self._whole(word.seed):
            self.played += 1

    def _died(self, worker: _Worker) -> None:
        worker.process.join()
        code = worker.process.exitcode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        self._deaths += 1
        if self._deaths >= DEATHS_MAX or worker.job is None:
            raise Unavailable(
                f"worker processes of the swarm die ({how})", fix="see what they wrote, or use fewer --jobs"
            )
        broken = Broken(
            checker=NOTHING_RAISES,
            promise=PROMISES[NOTHING_RAISES],
            lines=(f"the process that played it ended with {how}",),
            place=how,
        )
        nothing = Attempt(
            seed=worker.job.seed, trace_hash="", steps=0, notes=0, ended_ns=0, cpu_ns=0, faults=(),
            broken=(broken,),
        )  # fmt: skip
        self._said(worker, Word(attempt=nothing, trace=Trace().packed()))
        worker.door.close()
        self._workers[self._workers.index(worker)] = self._start(worker.side)

    def _whole(self, seed: int) -> bool:
        return all(word is not None for word in self._words[seed])

    def _in_order(self) -> Iterator[Word]:
        while self._order and self._whole(self._order[0]):
            yield self._taken(self._order[0])

    def _taken(self, seed: int) -> Word:
        self._order.remove(seed)
        words = [word for word in self._words.pop(seed) if word is not None]
        return words[0] if len(words) == 1 else compared(*words)

    # ── workers ───────────────────────────────────────────────────────────────────────────────────

    def _start(self, side: int) -> _Worker:
        context = get_context("spawn")  # a fork would share our salt, and whatever we hold open
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs,), name="swarm worker", daemon=True)
        with _salted(SALTS[side] if self.twice else None):
            process.start()
        theirs.close()
        return _Worker(process, ours, side)

    def _end(self) -> None:
        """Whoever waits for a job sees its door close; who plays is ended."""
        for worker in self._workers:
            worker.door.close()
            if worker.job is not None:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
        self._workers.clear()


@contextlib.contextmanager
def _salted(salt: str | None) -> Iterator[None]:
    """What a process started within sees as PYTHONHASHSEED."""
    before = os.environ.get("PYTHONHASHSEED")
    if salt is not None:
        os.environ["PYTHONHASHSEED"] = salt
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("PYTHONHASHSEED", None)
        else:
            os.environ["PYTHONHASHSEED"] = before
