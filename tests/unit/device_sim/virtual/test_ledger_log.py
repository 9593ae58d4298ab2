"""The log of rows: damage is seen, a torn tail is not damage, a rewriting loses nothing, and it is small."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from device_sim.virtual.disk import Disk
from device_sim.virtual.ledger_journal import VirtualJournal, open_journal
from device_sim.virtual.ledger_log import LOG, MARK, LedgerLog
from device_sim.virtual.world import World
from edge_node.tasks.rows import Row, StoreDamaged, crc_of, holds, row_of
from edge_node.tasks.task import Accepted, Closed, Outcome, Task
from security.errors import Unavailable

MESH, NODE = "0123456789abcdef", "pi-1"


def a_row(name, kind=0, body=b"body"):
    return Row(name, kind, 5, "done" if kind == 1 else "", body, crc_of(name, kind, body))


def a_log(disk=None):
    return LedgerLog(disk or Disk(random.Random(1)), MESH, NODE)


def a_filled_disk(batches=40, seed=3):
    """A closed log of small batches; what lies in it."""
    rng = random.Random(seed)
    disk = Disk(random.Random(1))
    log = a_log(disk)
    for number in range(batches):
        rows = [
            a_row(f"t{number}-{n}", 0, rng.randbytes(rng.randrange(200))) for n in range(rng.randint(1, 4))
        ]
        if number:
            rows.append(a_row(f"t{number - 1}-0", 1, rng.randbytes(30)))
        log.insert(rows)
    log.close()
    return disk, list(log.every())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flip", "blank", "cut"])
def test_damage_to_what_was_fsynced_is_named_and_nothing_is_invented(kind):
    rng = random.Random(kind)
    for _ in range(120):
        disk, before = a_filled_disk()
        size = disk.size(LOG)
        at = rng.randrange(size)
        if kind == "flip":
            disk.flip(LOG, rng.randrange(size * 8))
        elif kind == "blank":
            disk.blank(LOG, at, rng.choice((1, 64, 4096)))
        else:
            disk.cut_off(LOG, at)

        try:
            log = a_log(disk)
        except StoreDamaged:
            continue
        after = [row for row in log.every() if holds(row)]
        named = log.damaged + [row.id for row in log.every() if not holds(row)]

        assert {row[:5] for row in after} <= {row[:5] for row in before}, "invented"
        if len(after) < len(before):
            assert named, f"{kind} at {at}: {len(before) - len(after)} rows are missing unseen"


def test_what_lies_behind_damage_is_still_read_and_written_after():
    disk, before = a_filled_disk()
    whole = disk.read(LOG)
    at = whole.index(b"t9-0")
    disk.blank(LOG, at - 20, 40)

    log = a_log(disk)
    log.insert([a_row("later")])
    there = {(row.id, row.kind) for row in log.every()}

    assert [name.rpartition(" bytes at ")[0].split()[0] for name in log.damaged[:1]] == [f"{LOG}:"]
    assert log.damaged[-1] == f"{LOG} as it was is {LOG}.damaged-1"
    assert ("t9-0", 0) in {(row.id, row.kind) for row in before} - there
    assert {("t8-0", 0), ("t9-0", 1), ("t39-0", 0), ("later", 0)} <= there
    disk.power_cut(random.Random(1))
    again = a_log(disk)
    assert {(row.id, row.kind) for row in again.every()} == there
    assert again.damaged == [f"{LOG}.damaged-1 was set aside"]
    assert disk.read(f"{LOG}.damaged-1") == whole[: at - 20] + bytes(40) + whole[at + 20 :]


def test_a_log_without_a_readable_head_is_set_aside_with_every_byte():
    disk, _ = a_filled_disk()
    disk.blank(LOG, 0, 10)
    whole = disk.read(LOG)
    with pytest.raises(StoreDamaged, match="head is unreadable: set it aside"):
        a_log(disk)

    journal = open_journal(World(1), disk, MESH, NODE)

    assert journal.rows() == []
    assert journal.damaged[-1].startswith(f"set aside as {LOG}.damaged-1: {LOG} is damaged")
    assert disk.read(f"{LOG}.damaged-1") == whole


def test_a_log_that_is_gone_is_missed():
    disk, _ = a_filled_disk()
    disk.remove(LOG)

    assert a_log(disk).damaged == [f"{LOG} is gone"]


def test_an_older_log_in_the_place_of_a_rewritten_one_is_seen():
    disk, _ = a_filled_disk()
    old = disk.read(LOG)
    log = a_log(disk)
    log.delete(["t0-0"])
    log.close()
    disk.cut_off(LOG, 0)
    disk.write(LOG, 0, old)

    assert a_log(disk).damaged == [f"{LOG} is older than {MARK}"]


def test_the_mark_s_loss_is_named_and_costs_nothing_else():
    disk, before = a_filled_disk()
    disk.flip(MARK, 5)
    disk.flip(MARK, 512 * 8 + 5)

    log = a_log(disk)

    assert log.damaged[0] == f"{MARK}: both of its slots"
    assert list(log.every()) == before


def test_an_unfinished_creation_is_no_damage():
    for seed in range(60):
        disk = Disk(random.Random(1))
        disk.fail_fsync(1 + seed % 4)
        try:
            a_log(disk)
        except Unavailable as error:
            assert error.cause == f"cannot open {LOG}: Input/output error"
        disk.power_cut(random.Random(seed))

        log = a_log(disk)

        assert (log.damaged, list(log.every())) == ([], [])


@pytest.mark.parametrize("seed", range(30))
def test_a_rewriting_survives_a_power_cut_right_after_it(seed):
    disk, before = a_filled_disk(batches=10)
    log = a_log(disk)
    log.delete(["t0-0"])

    disk.power_cut(random.Random(seed))

    kept = [row for row in before if row.id != "t0-0"]
    assert list(a_log(disk).every()) == kept


@pytest.mark.parametrize("seed", range(30))
def test_nothing_counts_in_a_rewritten_log_before_its_name_is_safe(seed):
    """The rename of a rewriting that is not safe may come undone, and with it every later commit."""
    disk, _ = a_filled_disk(batches=4)
    log = a_log(disk)
    disk.fail_fsync(2)  # of the directory, after the rename
    log.delete(["t0-0"])
    log.insert([a_row("later")])

    disk.power_cut(random.Random(seed))

    assert a_log(disk).rows_of("later") != []


@pytest.mark.parametrize("seed", range(30))
def test_a_rewriting_takes_the_commit_under_way_along(seed):
    disk, _ = a_filled_disk(batches=4)
    log = a_log(disk)
    log.begin([a_row("under way")])
    log.delete(["t0-0"])
    assert list(log.rows_of("under way")) == [], "it does not count yet"
    log.finish()

    disk.power_cut(random.Random(seed))

    assert list(a_log(disk).rows_of("under way")) != []


def test_a_commit_that_a_rewriting_could_not_take_along_fails():
    disk, _ = a_filled_disk(batches=4)
    log = a_log(disk)
    log.begin([a_row("under way", 0, bytes(5000))])
    disk.refuse(2, times=5)

    log.delete(["t0-0"])

    with pytest.raises(Unavailable, match="No space left"):
        log.finish()
    log.finish()
    disk.refuse(times=0)
    assert list(log.rows_of("under way")) == []
    log.insert([a_row("later")])
    assert a_log(disk).damaged == []


def test_a_rewriting_without_space_leaves_everything():
    disk, before = a_filled_disk(batches=4)
    log = a_log(disk)
    disk.capacity_bytes = disk.used_bytes + 100

    with pytest.raises(Unavailable, match=f"cannot prune {LOG}: No space left"):
        log.delete(["t0-0"])

    assert list(log.every()) == before
    assert disk.names() == [LOG, MARK]


def test_ids_of_one_checksum_do_not_meet():
    """The index knows a task by the CRC-32 of its id: found by searching, these two have the same."""
    first, second = "plumless", "buckeroo"
    log = a_log()
    log.insert([a_row(first, 0, b"p"), a_row(second, 0, b"b")])
    log.insert([a_row(first, 1, b"end"), a_row(second, 0, b"again")])

    assert [body for _, _, body, _ in log.rows_of(first)] == [b"p", b"end"]
    assert [body for _, _, body, _ in log.rows_of(second)] == [b"b"]


def test_a_settled_task_costs_less_than_two_hundred_bytes_beside_its_rows():
    tasks = 2000
    disk = Disk(random.Random(1))
    log = a_log(disk)
    rows = []
    for number in range(tasks):
        task = Task(f"{number:023}", "f.noop", b"d" * 32, b"input", b"s" * 32, NODE)
        rows.append([row_of(Accepted(task)), row_of(Closed(task.id, Outcome("done", b"out", place="local")))])
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for each in rows:
        log.insert(each[:1])
        log.insert(each[1:])
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()

    beside = (grown - disk.used_bytes) / tasks
    assert beside < 200
    assert disk.used_bytes / tasks < 500
    assert log.open_ids() == []


def test_an_empty_journal_is_small():
    worlds = World(1)
    disks = [Disk(random.Random(1)) for _ in range(100)]
    tracemalloc.start()
    journals = [VirtualJournal(worlds, disk, MESH, NODE) for disk in disks]
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    assert grown / len(journals) < 8_000


def test_damage_to_a_log_that_is_open_is_named_by_its_own_check():
    """Nobody reads old rows of an open log, so an opening alone would never tell."""
    disk, _ = a_filled_disk()
    log = a_log(disk)
    assert log.gaps() == []
    read = [row.id for row in log.every()]
    rng = random.Random(5)

    for _ in range(200):
        bit = rng.randrange(8 * disk.size(LOG))
        disk.flip(LOG, bit)
        gone = len(list(log.every())) < len(read)
        bodies = [row for row in log.every() if not holds(row)]
        assert bool(log.gaps()) or bool(bodies) or not gone, f"bit {bit} took rows, and nothing named it"
        disk.flip(LOG, bit)
    assert log.gaps() == [] and [row.id for row in log.every()] == read
