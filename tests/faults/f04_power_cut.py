"""Fault 4: power cuts under the real journal: what was told as persisted is on every disk that is left.

The production `Journal` runs on a VFS that notes every write and sync; what was noted is played onto the
modelled disk, cut off at syncs and at points between, after syncs that failed, too, with un-synced writes
dropped, mixed and torn; what remains is opened by the production `Journal` on the interpreter's SQLite.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import queue
import random
from pathlib import Path

from edge_node.tasks.journal import Journal
from edge_node.tasks.rows import ACCEPTED, row_of
from edge_node.tasks.task import Accepted, Attempt, Closed, Fenced, Task
from edge_node.tasks.task import Outcome as Ended
from security.errors import EdgeweaveError, Unavailable
from tests.faults.fault import Context, Fault, Outcome
from tests.faults.trials import Figures, tried
from tests.support.recorded_sqlite import Recording

FAULT = Fault(
    number=4,
    name="power-cut",
    title="power cuts under the real journal: un-synced writes dropped, mixed, torn",
    brokers=(),
    full=3_000,
    small=80,
    unit="cuts",
    round_max=150,
    round_s=35,
)
MESH, NODE = "0123456789abcdef", "pi-1"


class Life:
    """A process with a journal: it writes, is told, prunes; and what of it the recording should know."""

    def __init__(self, recording, path, rng, *, name):
        self.recording, self.rng, self.name = recording, rng, name
        self.path = path
        self.said = queue.SimpleQueue()
        self.serial = 0
        self.open = []
        self.accepted = 0
        self.failures = 0
        self.lost = set()  # nothing that follows a lost accept is kept
        self.journal = Journal(path, MESH, NODE, open_store=recording.open_store)
        # What a process believes when it begins must stay; the rows of an earlier life are among it.
        recording.note(path.parent, "promised", frozenset(self.journal._store.every()))
        recording.note(path.parent, "begun")
        self.journal.start(
            lambda callback, *args: callback(*args),
            lambda serials: self._told("promised", serials),
            lambda serials, why: self._told("failed", serials),
        )
        self.asked = {}

    def _told(self, what, serials):
        rows = [row for serial in serials for row in self.asked[serial]]
        if what == "promised":
            rows = frozenset(row for row in rows if row.id not in self.lost)
            self.recording.note(self.path.parent, "promised", rows)
        else:
            self.failures += 1
            self.lost.update(row.id for row in rows if row.kind == ACCEPTED)
        self.said.put((what, len(serials)))

    def append(self, *records):
        self.serial += 1
        self.asked[self.serial] = [row_of(record) for record in records]
        self.recording.note(self.path.parent, "asked", self.asked[self.serial])
        self.journal.append(self.serial, records)

    def until_answered(self, serials):
        while serials:
            serials -= self.said.get(timeout=20)[1]

    def work(self, rounds, *, failing=False):
        rng = self.rng
        for turn in range(rounds):
            before = self.serial
            if failing and turn % 3 == 1:
                self.recording.fail_sync(rng.randint(1, 3))
            for _ in range(rng.randint(1, 6)):
                self.accepted += 1
                name = f"{self.name}-{self.accepted}"
                self.open.append(name)
                length = rng.choice((0, 10, 500, 3000, 20_000))
                task = Task(name, "f.noop", b"d" * 32, rng.randbytes(length), b"s" * 32, NODE)
                self.append(Accepted(task), *([Fenced(name, (Attempt(1, "gateway"),))] * rng.randint(0, 1)))
            for name in rng.sample(self.open, len(self.open) // 2):
                self.open.remove(name)
                self.append(Closed(name, Ended("done", rng.randbytes(100))))
            self.until_answered(self.serial - before)
            if turn % 6 == 5:
                gone = [settled.id for settled in self.journal._store.settled()][8:]
                self.recording.note(self.path.parent, "pruned", frozenset(gone))
                with contextlib.suppress(*[Unavailable] * failing):
                    assert self.journal.prune(count_max=8, bytes_max=10**9, before_ms=0) == len(gone)


def recorded(scratch, seed, *, checkpoint_pages):
    """Two lives on one disk: the first is killed between the writes and the sync of a commit."""
    rng = random.Random(seed)
    first, second = scratch / "first", scratch / "second"
    first.mkdir()
    recording = Recording(first, checkpoint_pages=checkpoint_pages)
    recording.note(first, "create", "ledger.db")  # the store makes it before SQLite opens it
    life = Life(recording, first / "ledger.db", rng, name="a")
    life.work(8)
    recording.kill_at_sync(second, rng.randint(1, 6))
    life.work(8)
    life.journal.close()
    assert second.exists(), "it was killed"
    life = Life(recording, second / "ledger.db", rng, name="b")
    life.work(13, failing=True)
    life.journal.close()
    assert life.failures, "a sync failed under a commit"
    return recording


def violations_of(path, *, promised, asked, pruned):
    """What the production journal finds in these files, against what it may and must."""
    try:
        journal = Journal(path, MESH, NODE)
    except EdgeweaveError as error:
        return [f"it does not open: {error}"]
    try:
        found = []
        there = frozenset(journal._store.every())
        found += [f"gap: {gap}" for gap in journal.verify() + journal.damaged]
        found += [f"lost: {row.id}/{row.kind}" for row in sorted(promised - there) if row.id not in pruned]
        known = frozenset(row for rows in asked for row in rows)
        found += [f"invented: {row.id}/{row.kind}" for row in sorted(there - known)]
        for rows in asked:
            kept = {row in there for row in rows if row.id not in pruned}
            if len(kept) > 1:
                found.append(f"half a commit: {rows[0].id}")
        ids = {row.id for row in there}
        for name in sorted(pruned & ids):
            if any(row not in there for row in promised if row.id == name):
                found.append(f"half pruned: {name}")
        return found
    finally:
        journal.close()


def cut(scratch: Path, seed: int, count: int, *, checkpoint_pages: int) -> Figures:
    """About *count* power cuts under one recording of two lives."""
    rng = random.Random(seed)
    recording = recorded(scratch, rng.random(), checkpoint_pages=checkpoint_pages)
    first = next(n for n, (what, *_) in enumerate(recording.operations) if what == "asked")
    syncs = [n for n, (what, *_) in enumerate(recording.operations) if what == "sync"]
    assert len(syncs) > 25
    points = {n - 1 for n in syncs} | set(syncs)  # all that is at risk, and nothing of it
    points = rng.sample(sorted(points), min(len(points), count * 2 // 3))
    points += [rng.randrange(first, len(recording.operations)) for _ in range(count - len(points))]
    begun = [n for n, (what, *_) in enumerate(recording.operations) if what == "begun"]
    points += [n for n in syncs if n < begun[0]]  # in the middle of its creation
    points += [begun[1]] * (count // 5)  # before the second life has written anything
    points = sorted(points)

    violations = []
    promised, asked, pruned = frozenset(), [], frozenset()
    trials = 0
    for number, (what, *how), disk in recording.replayed():
        if what == "promised":
            promised |= how[0]
        elif what == "asked":
            asked.append(how[0])
        elif what == "pruned":
            pruned |= how[0]
        while points and points[0] == number:
            points.pop(0)
            trials += 1
            seed = rng.randrange(2**32)
            left = copy.deepcopy(disk)
            left.power_cut(random.Random(seed))
            home = scratch / "left"
            home.mkdir()
            for name in left.names():
                (home / name).write_bytes(left.read(name))
            found = violations_of(home / "ledger.db", promised=promised, asked=asked, pruned=pruned)
            violations += [f"cut after operation {number} ({what}), seed {seed}: {each}" for each in found]
            for path in home.iterdir():
                path.unlink()
            home.rmdir()

    assert promised and pruned and trials >= count
    assert violations[:20] == [], "\n".join(violations[:20])
    return {"cuts": trials}


async def run(context: Context) -> Outcome:
    pages = [functools.partial(cut, checkpoint_pages=pages) for pages in (30, 1000)]
    return await tried(context, dict.fromkeys(pages, 1))
