"""Whatever is appended, pruned, refused, killed and cut off in whichever order: what was told is there."""

from __future__ import annotations

import random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from device_sim.virtual.disk import Disk
from device_sim.virtual.ledger_journal import VirtualJournal
from device_sim.virtual.world import MS, World
from edge_node.tasks.task import Accepted, Closed, Outcome, Task
from security.errors import Unavailable

MESH, NODE = "0123456789abcdef", "pi-1"

steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 5), st.sampled_from([0, 10, 3000, 9000])),
        st.tuples(st.just("close"), st.integers(0, 40)),
        st.tuples(st.just("wait"), st.integers(0, 8 * MS)),
        st.tuples(st.just("power"), st.integers(0, 2**32)),
        st.tuples(st.just("kill")),
        st.tuples(st.just("stop")),
        st.tuples(st.just("full"), st.integers(1, 4)),
        st.tuples(st.just("eio"), st.integers(1, 4)),
        st.tuples(st.just("prune"), st.integers(0, 3)),
    ),
    max_size=40,
)


class Owner:
    """What one node was told, over all its lives. `promised`: rows that must be on the disk from now on."""

    def __init__(self, seed):
        self.world = World(seed)
        self.disk = Disk(self.world.rng(NODE, "disk"))
        self.promised: dict[tuple[str, int], None] = {}
        self.asked: dict[tuple[str, int], None] = {}
        self.pruned: dict[str, None] = {}
        self.lost: set[str] = set()
        self.serial = 0
        self.names: list[str] = []
        self.by_serial: dict[int, list[tuple[str, int]]] = {}
        self.groups: list[list[tuple[str, int]]] = []
        self.open()

    def open(self):
        self.journal = VirtualJournal(self.world, self.disk, MESH, NODE)
        assert self.journal.damaged == [], "nothing was damaged, only cut off"
        self.journal.start(self.world.soon, self.persisted, self.failed)
        self.look()
        for row in self.journal.rows():  # what a new life believes must stay
            self.promised[row.task, row.kind] = None

    def persisted(self, serials):
        for serial in serials:
            names = [name for name in self.by_serial[serial] if name[0] not in self.lost]
            self.promised.update(dict.fromkeys(names))

    def failed(self, serials, reason):
        """What follows a lost accept is passed over, and answered for."""
        self.lost.update(task for serial in serials for task, kind in self.by_serial[serial] if kind == 0)

    def append(self, *records):
        self.serial += 1
        self.by_serial[self.serial] = [
            (record.task.id, 0) if isinstance(record, Accepted) else (record.task_id, 1) for record in records
        ]
        self.asked.update(dict.fromkeys(self.by_serial[self.serial]))
        self.groups.append(self.by_serial[self.serial])
        self.journal.append(self.serial, records)

    def look(self):
        """The sentence that must hold."""
        there = {(row.task, row.kind) for row in self.journal.rows()}
        for task, kind in self.promised:
            assert (task, kind) in there or task in self.pruned, f"{task}/{kind} was told and is lost"
        assert there <= set(self.asked), "nothing is invented"
        for group in self.groups:
            seen = {name in there for name in group if name[0] not in self.pruned}
            assert len(seen) <= 1, "a commit is whole or absent"
        assert self.journal.verify() == []

    def do(self, step):
        what, *numbers = step
        if what == "append":
            count, length = numbers
            fresh = [f"t{len(self.names) + n}" for n in range(count)]
            self.names += fresh
            self.append(*(Accepted(Task(name, "f", b"", bytes(length), b"", NODE)) for name in fresh))
        elif what == "close":
            if self.names:
                self.append(Closed(self.names[numbers[0] % len(self.names)], Outcome("done", b"x" * 50)))
        elif what == "wait":
            self.world.run_until(self.world.now_ns + numbers[0])
        elif what == "full":
            self.disk.refuse(numbers[0])
        elif what == "eio":
            self.disk.fail_fsync(numbers[0])
        elif what == "prune":
            before = {row.task for row in self.journal.rows()}
            try:
                self.journal.prune(count_max=numbers[0], bytes_max=10**9, before_ms=0)
            except Unavailable:
                return
            gone = before - {row.task for row in self.journal.rows()}
            self.pruned.update(dict.fromkeys(sorted(gone)))
        else:
            self.disk.refuse(times=0)
            self.disk.fail_fsync(times=0)
            if what == "stop":
                self.journal.close()
                self.world.run_until(self.world.now_ns)
            else:
                self.journal.kill()
            if what == "power":
                self.disk.power_cut(random.Random(numbers[0]))
            self.open()


@settings(max_examples=250, deadline=None)
@given(steps, st.integers(0, 2**32))
@example([("append", 2, 10), ("wait", 0), ("prune", 0), ("power", 1)], 1)
@example(
    [("append", 2, 10), ("wait", 8 * MS), ("eio", 1), ("append", 1, 0), ("wait", 8 * MS), ("power", 1)], 1
)
def test_what_was_told_as_persisted_is_there_whatever_happens(script, seed):
    owner = Owner(seed)

    for step in [*script, ("wait", 10**10), ("power", seed)]:
        owner.do(step)
        owner.look()


def test_an_unheard_of_commit_is_found_whole_by_some_power_cuts_and_not_by_others():
    """The property above would also hold of a disk that never loses anything, or always everything."""
    found = set()
    for seed in range(30):
        owner = Owner(seed)
        owner.do(("append", 3, 3000))
        owner.do(("wait", 0))

        owner.do(("power", seed))

        found.add(len(owner.journal.rows()))
    assert found == {0, 3}
