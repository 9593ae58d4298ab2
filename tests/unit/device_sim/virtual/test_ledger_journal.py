"""The journal in virtual time: who shares a commit, when it is told, and that the dead say nothing."""

from __future__ import annotations

import random

import pytest

from device_sim.virtual.disk import Disk, Speed
from device_sim.virtual.ledger_journal import VirtualJournal
from device_sim.virtual.world import MS, SECOND, World
from edge_node.tasks.rows import ROWS_MAX
from edge_node.tasks.task import Accepted, Closed, Outcome, Task

MESH, NODE = "0123456789abcdef", "pi-1"
STEADY = Speed(fsync_ns_median=5 * MS, fsync_sigma=0.0, bytes_per_s=10**12)


def a_task(name, length=2):
    return Task(name, "f.noop", b"d" * 32, bytes(length), b"s" * 32, NODE)


class Life:
    def __init__(self, disk=None, speed=STEADY):
        self.world = World(1)
        self.disk = disk or Disk(self.world.rng(NODE, "disk"), speed=speed)
        self.journal = VirtualJournal(self.world, self.disk, MESH, NODE)
        self.told = []
        self.journal.start(
            self.world.soon,
            lambda serials: self.told.append((self.world.now_ns // MS, serials)),
            lambda serials, why: self.told.append((self.world.now_ns // MS, serials, why)),
        )

    def accept(self, *serials, length=2):
        for serial in serials:
            self.journal.append(serial, (Accepted(a_task(f"t{serial}", length)),))


def test_what_is_appended_in_one_moment_shares_a_commit_and_what_comes_meanwhile_the_next():
    life = Life()
    life.accept(1, 2, 3)
    life.world.at(1 * MS, life.accept, 4)
    life.world.at(4 * MS, life.accept, 5)
    life.world.run_until(SECOND)
    life.accept(6)
    life.world.run_until(2 * SECOND)

    assert life.told == [(5, [1, 2, 3]), (10, [4, 5]), (1005, [6])]


def test_a_commit_has_its_bounds():
    life = Life()
    life.accept(*range(1200))
    life.world.run_until(SECOND)

    assert [len(serials) for _, serials in life.told] == [ROWS_MAX, ROWS_MAX, 1200 - 2 * ROWS_MAX]


def test_nothing_is_read_before_it_is_fsynced():
    life = Life()
    life.accept(1)
    life.world.run_until(4 * MS)
    assert life.journal.get("t1") is None

    life.world.run_until(5 * MS)

    assert life.journal.get("t1").task == a_task("t1")


def test_many_bytes_take_their_time():
    life = Life(speed=Speed(fsync_ns_median=5 * MS, fsync_sigma=0.0, bytes_per_s=1_000_000))
    life.accept(1, length=2_000_000)
    life.world.run_until(10 * SECOND)

    ((at_ms, _),) = life.told
    assert 2005 <= at_ms <= 2006


def test_a_failed_fsync_fails_its_commit_and_the_next_is_fine():
    life = Life()
    life.disk.fail_fsync()
    life.accept(1)
    life.world.run_until(SECOND)
    life.journal.append(2, (Closed("t1", Outcome("done")),))
    life.accept(3)
    life.world.run_until(2 * SECOND)

    assert life.told == [(5, [1], "the ledger cannot be written: Input/output error"), (1005, [2, 3])]
    assert [row.task for row in life.journal.rows()] == ["t3"], "what follows a lost accept is not kept"


def test_a_full_disk_is_told_at_once_and_recovers():
    life = Life()
    life.disk.capacity_bytes = life.disk.used_bytes + 600
    life.accept(1, length=1000)
    life.world.run_until(SECOND)
    life.accept(2)
    life.world.run_until(2 * SECOND)

    assert life.told == [(0, [1], "the ledger cannot be written: No space left on device"), (1005, [2])]


def test_a_killed_journal_never_calls_back():
    life = Life()
    life.accept(1)
    life.world.run_until(1 * MS)
    life.accept(2)

    life.journal.kill()
    life.accept(3)
    life.world.run_until(SECOND)

    assert life.told == []
    again = Life(life.disk)
    assert [row.task for row in again.journal.rows()] == ["t1"], "the kernel had it; the rest never left"


def test_what_a_new_life_found_in_the_kernel_s_cache_survives_a_power_cut():
    """Else it could act on a record, and the next life would know nothing of it."""
    for seed in range(20):
        life = Life()
        life.accept(1)
        life.world.run_until(1 * MS)
        life.journal.kill()
        again = Life(life.disk)
        assert [task.id for task, _ in again.journal.open_tasks()] == ["t1"]

        again.journal.kill()
        again.disk.power_cut(random.Random(seed))

        assert [row.task for row in Life(again.disk).journal.rows()] == ["t1"]


def test_closing_writes_what_was_appended_and_tells_it():
    life = Life()
    life.accept(1)
    life.world.run_until(1 * MS)
    life.accept(2, 3)
    life.journal.close()
    life.journal.close()
    life.world.run_until(1 * MS)

    assert life.told == [(1, [1]), (1, [2, 3])]
    assert [row.task for row in Life(life.disk).journal.rows()] == ["t1", "t2", "t3"]


def test_rows_for_checkers_are_those_whose_checksum_holds():
    life = Life()
    life.accept(1, 2)
    life.world.run_until(SECOND)
    life.journal.close()
    whole = life.disk.read("ledger.log")
    life.disk.flip("ledger.log", (whole.index(b"f.noop") + 1) * 8)

    again = Life(life.disk)

    assert [row.task for row in again.journal.rows()] == ["t2"]
    assert again.journal.get("t1") is None
    assert again.journal.damaged == ["t1/0: checksum"]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_is_a_function_of_its_seed(seed):
    def run():
        life = Life(speed=Speed())
        for number in range(50):
            life.world.at(number * MS, life.accept, number)
        life.world.run_until(20 * MS)
        life.disk.power_cut(random.Random(seed))
        return life.told, life.disk.read("ledger.log")

    assert run() == run()


def test_rows_tell_when_they_were_fsynced_also_to_the_next_life():
    life = Life()
    life.accept(1, 2)
    life.world.at(1 * MS, life.accept, 3)
    life.world.run_until(12 * MS)
    life.accept(4)
    life.world.run_until(13 * MS)  # its commit is in the kernel's hands
    life.journal.kill()

    again = Life(life.disk)
    again.accept(5)
    again.world.run_until(SECOND)

    told = [(row.task, row.written_ns) for row in again.journal.rows()]
    assert told == [("t1", 5 * MS), ("t2", 5 * MS), ("t3", 10 * MS), ("t4", None), ("t5", 5 * MS)]


def test_a_rewritten_log_does_not_know_when_its_rows_were_fsynced():
    life = Life()
    life.accept(1, 2)
    life.journal.append(3, (Closed("t1", Outcome("done", settled_at_ms=2_000_000_000_000)),))
    life.world.run_until(SECOND)
    assert life.journal.prune(count_max=0, bytes_max=0, before_ms=0) == 1
    life.accept(4)
    life.world.run_until(2 * SECOND)

    told = [(row.task, row.written_ns) for row in life.journal.rows()]
    assert told == [("t2", None), ("t4", SECOND + 5 * MS)]
