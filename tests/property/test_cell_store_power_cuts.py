"""Power cuts under the tables' file: an acknowledged commit is on every disk that is left, and what is left
is the state after some commit, whole.

The production store runs on a VFS that notes every write and sync. What was noted is played onto the modelled
disk and cut off at syncs and between them, with un-synced writes dropped, mixed and torn; what remains is
opened by the production store on the interpreter's SQLite.
"""

from __future__ import annotations

import copy
import random

import pytest

from edge_node.store.cell_store import Commit, Logged, MemoryCellStore, Waiting
from edge_node.store.cells import CellId
from edge_node.store.storage.cells import SqliteCellStore
from edge_node.tasks.rows import StoreDamaged
from security.errors import Unavailable
from tests.support.recorded_sqlite import Recording

MESH, KEY = "0123456789abcdef", bytes(range(32))


def shown(image):
    return sorted(image.cells), image.logged, sorted(image.waiting), image.head


class Owner:
    """What one member commits over its lives. `states`: what must be found after each commit."""

    def __init__(self, recording, rng, *, careless=False):
        self.recording, self.rng, self.careless = recording, rng, careless
        self.states = [([], [], [], None)]
        self.model = MemoryCellStore()
        self.models = [self.model.copy()]
        self.number = 0
        self.failures = 0
        self.folder = None

    def begin(self, folder):
        """A life; what it finds must stay."""
        self.folder = folder
        self.store = SqliteCellStore(folder / "state.db", MESH, "n1", KEY, connect=self._connect)
        self._believe(self.store.load())

    def _connect(self, path):
        connection = self.recording._connect(path)
        if self.careless:
            connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _believe(self, image):
        index = max(n for n, state in enumerate(self.states) if state == shown(image))
        del self.states[index + 1 :], self.models[index + 1 :]
        self.model = self.models[-1].copy()
        self.note("believed", index)

    def note(self, *what):
        mark = self.folder / "state.db-mark"
        self.recording.note(
            self.folder, *what, list(self.states), mark.read_bytes() if mark.exists() else b""
        )

    def commit(self):
        group = [self._one() for _ in range(self.rng.randint(1, 4))]
        before = len(self.states)
        for each in group:
            self.model.commit([each])
            self.models.append(self.model.copy())
            self.states.append(shown(self.model.load()))
        self.note("asked", before - 1)
        try:
            self.store.commit(group)
        except Unavailable:
            self.failures += 1
            self._believe(self.store.load())
        else:
            self.note("acknowledged", len(self.states) - 1)

    def _one(self):
        rng = self.rng
        self.number += 1
        n = self.number
        if rng.random() < 0.04:
            cells = {CellId(0, "t", f"s{k}", "f"): rng.randbytes(20) for k in range(rng.randint(0, 80))}
            return Commit(cells, head=b"snapshot %d" % n, anew=True)
        cells = {
            CellId(0, "t", f"k{rng.randrange(60)}", "f"): rng.choice(
                (None, b"%d" % n, rng.randbytes(300), rng.randbytes(9000))
            )
            for _ in range(rng.randint(0, 5))
        }
        there = [entry.number for entry in self.model.load().logged]
        gone = there[: len(there) // 2] if rng.random() < 0.15 else []
        log = [Logged(n, "n1", 7, n, n, rng.randbytes(rng.choice((150, 5000))))]
        waits = [Waiting("n2", 9, n, rng.randbytes(100))] if rng.random() < 0.2 else []
        held = self.model.load().waiting
        free = [held[0][:3]] if held and rng.random() < 0.2 else []
        return Commit(cells, log, gone, waits, free, b"%d" % n if rng.random() < 0.5 or gone else None)


def recorded(scratch, seed, *, checkpoint_pages, careless=False):
    """Two lives on one disk; the first is killed between the writes and the sync of a commit."""
    rng = random.Random(seed)
    first, second = scratch / "first", scratch / "second"
    first.mkdir()
    recording = Recording(first, checkpoint_pages=checkpoint_pages)
    recording.note(first, "create", "state.db")  # the store makes it before SQLite opens it
    owner = Owner(recording, rng, careless=careless)
    owner.begin(first)
    for _ in range(12):
        owner.commit()
    recording.kill_at_sync(second, rng.randint(1, 6))
    dead = owner.store
    while not second.exists():
        owner.commit()
    dead.close()
    owner.begin(second)
    for turn in range(24):
        if turn % 5 == 1 and not careless:
            recording.fail_sync(rng.randint(1, 2))
        owner.commit()
        if turn % 7 == 6:
            owner.store.tidy()
    owner.store.close()
    assert owner.failures or careless, "a sync failed under a commit"
    return recording


def violations(scratch, seed, *, checkpoint_pages, cuts, careless=False):
    recording = recorded(scratch, seed, checkpoint_pages=checkpoint_pages, careless=careless)
    rng = random.Random(seed)
    begun = next(n for n, (what, *_) in enumerate(recording.operations) if what == "believed")
    syncs = [n for n, (what, *_) in enumerate(recording.operations) if what.startswith("sync") and n > begun]
    tight = sorted({n - 1 for n in syncs} | set(syncs))
    points = rng.sample(tight, min(len(tight), cuts * 2 // 3))
    points += [rng.randrange(len(recording.operations)) for _ in range(cuts - len(points))]
    points += [n for n, (what, *_) in enumerate(recording.operations) if what == "acknowledged"][::3]
    points.sort()
    found = []
    least, states, mark = 0, [([], [], [], None)], b""
    trials = 0
    for number, (what, *how), disk in recording.replayed():
        if what in ("believed", "acknowledged"):
            least, states, mark = how
        elif what == "asked":
            _, states, _ = how
        while points and points[0] == number:
            points.pop(0)
            trials += 1
            left = copy.deepcopy(disk)
            left.power_cut(random.Random(rng.randrange(2**32)))
            home = scratch / f"left{trials}"
            home.mkdir()
            for name in left.names():
                (home / name).write_bytes(left.read(name))
            if mark:
                (home / "state.db-mark").write_bytes(mark)  # what it vouches for was safe when it was noted
            found += [f"cut {trials} after {number} ({what}): {each}" for each in look(home, states, least)]
    assert trials >= cuts
    return found


def look(home, states, least):
    try:
        store = SqliteCellStore(home / "state.db", MESH, "n1", KEY)
    except StoreDamaged as damage:
        return [f"damaged: {damage.cause}"]
    try:
        state = shown(store.load())
    except StoreDamaged as damage:
        return [f"damaged: {damage.cause}"]
    finally:
        store.close()
    if state in states[least:]:
        return []
    return ["acknowledged commits are lost" if state in states else "half a commit is there"]


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "pages"), [(4, 20), (6, 20), (1, 1000), (8, 1000)])
def test_what_was_acknowledged_survives_every_cut_and_what_survives_is_a_beginning(tmp_path, seed, pages):
    assert violations(tmp_path, seed, checkpoint_pages=pages, cuts=30) == []


@pytest.mark.slow
def test_a_store_that_does_not_sync_is_found_out(tmp_path):
    """The property above would also hold of a disk that never loses anything."""
    found = violations(tmp_path, 3, checkpoint_pages=1000, cuts=10, careless=True)

    assert any("acknowledged commits are lost" in each or "damaged" in each for each in found)
