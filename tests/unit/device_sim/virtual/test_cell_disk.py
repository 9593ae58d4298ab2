"""Cells on a modelled disk: what is told is safe, what is lost is a beginning, what is damaged is named."""

from __future__ import annotations

import random

import pytest

from device_sim.virtual import cell_log
from device_sim.virtual.cell_disk import VirtualCells, opened_cells
from device_sim.virtual.cell_log import FRESH, LOG, CellLog
from device_sim.virtual.disk import Disk
from device_sim.virtual.world import SECOND, World
from edge_node.store.cell_store import Commit, Image, Logged
from edge_node.store.cells import CellId
from security.errors import BadInput, Unavailable

MESH = "0123456789abcdef"


def put(number, data=b""):
    return Commit({CellId(0, "t", f"k{number}", "f"): b"value %d" % number + data})


def numbers(image):
    return sorted(int(cell.key[1:]) for cell, _ in image.cells)


class Port:
    """A port in a world, and what its owner was told."""

    def __init__(self, seed=1, disk=None):
        self.world = World(seed)
        self.disk = disk or Disk(self.world.rng("disk"))
        self.cells = VirtualCells(self.world, self.disk, MESH, "n1")
        self.persisted, self.failed, self.reloaded = [], [], []
        self.image = self.cells.load()
        self.cells.start(
            lambda call, *args: call(*args),
            self.persisted.append,
            lambda serial, cause: self.failed.append((serial, cause)),
        )

    def run(self, seconds=1.0):
        self.world.run_until(self.world.now_ns + round(seconds * SECOND))
        return self


def test_a_node_without_tables_writes_nothing():
    port = Port()

    assert port.image == Image() and port.disk.names() == [] and port.cells.losses == ""
    port.run().cells.close()
    assert port.disk.names() == [] and port.disk.writes == 0


def test_what_gathers_meanwhile_shares_the_next_fsync_and_is_told_in_order():
    port = Port()
    port.run().cells.append(1, put(1))
    port.run().cells.append(2, put(2))
    port.world.run_until(port.world.now_ns + 1)
    port.cells.append(3, put(3))
    port.cells.append(4, put(4))
    assert port.persisted == [1]

    fsyncs = port.disk.fsyncs
    port.run()

    assert port.persisted == [1, 2, 4] and port.failed == []
    assert port.disk.fsyncs == fsyncs + 2
    assert numbers(opened_cells(port.disk, MESH, "n1")[0]) == [1, 2, 3, 4]


def test_what_was_told_survives_a_power_cut_and_the_rest_is_a_beginning():
    for seed in range(60):
        port = Port(seed)
        draw = random.Random(seed)
        for serial in range(1, 30):
            port.cells.append(serial, put(serial, bytes(draw.randrange(3000))))
            port.world.run_until(port.world.now_ns + draw.randrange(4_000_000))
        told = port.persisted[-1] if port.persisted else 0
        port.cells.kill()
        port.disk.power_cut(draw)

        image, damaged = opened_cells(port.disk, MESH, "n1")

        found = numbers(image)
        assert found == list(range(1, len(found) + 1)) and len(found) >= told, seed
        assert damaged == [], "nobody was told of what is torn"


def test_a_full_disk_fails_what_waits_until_it_was_read_anew():
    port = Port()
    port.cells.append(1, put(1))
    port.run()
    port.disk.capacity_bytes = port.disk.used_bytes + 10
    port.cells.append(2, put(2))
    port.cells.append(3, put(3))
    port.run()
    assert port.persisted == [1]
    assert port.failed == [(2, "the tables cannot be written: No space left on device")]

    port.cells.append(4, put(4))
    port.disk.capacity_bytes = 1 << 30
    port.run()
    assert port.persisted == [1] and len(port.failed) == 1, "nothing is taken until then"

    port.cells.reload(port.reloaded.append)
    port.run().cells.append(1, put(5))
    port.run()
    assert [numbers(each) for each in port.reloaded] == [[1]]
    assert port.persisted == [1, 1]
    assert numbers(opened_cells(port.disk, MESH, "n1")[0]) == [1, 5]


def test_an_fsync_that_fails_loses_what_it_was_to_keep_and_nothing_before():
    port = Port()
    port.cells.append(1, put(1))
    port.run().disk.fail_fsync()
    port.cells.append(2, put(2))
    port.run()

    assert port.failed == [(2, "the tables cannot be written: Input/output error")]
    assert numbers(opened_cells(port.disk, MESH, "n1")[0]) == [1]


def test_history_is_written_anew_and_reads_the_same(monkeypatch):
    monkeypatch.setattr(cell_log, "HISTORY_BYTES", 2000)
    disk = Disk(random.Random(1))
    log = CellLog(disk, MESH, "n1")
    sizes = []
    for number in range(400):
        entry = Logged(number, "n1", 7, number + 1, number + 1, b"batch")
        forgotten = [number - 3] if number >= 3 else []
        log.commit([Commit({CellId(0, "t", f"k{number % 5}", "f"): b"%d" % number}, [entry], forgotten)])
        sizes.append(disk.size(LOG))
    assert max(sizes) < 8000, "it does not grow with what was"

    image = CellLog(disk, MESH, "n1").load()

    assert sorted(data for _, data in image.cells) == [b"395", b"396", b"397", b"398", b"399"]
    assert [entry.number for entry in image.logged] == [397, 398, 399]
    assert not disk.exists(FRESH)


def test_each_flipped_bit_of_what_is_safe_is_named_and_what_lies_before_it_is_left():
    for seed in range(150):
        disk = Disk(random.Random(seed))
        log = CellLog(disk, MESH, "n1")
        for number in range(1, 9):
            log.commit([put(number)])
        log.close()
        draw = random.Random(seed)
        disk.flip(LOG, draw.randrange(8 * disk.size(LOG)))

        image, damaged = opened_cells(disk, MESH, "n1")

        found = numbers(image)
        assert damaged and len(found) < 8, seed
        assert found == list(range(1, len(found) + 1)), "a beginning, as an old disk has it"
        assert opened_cells(disk, MESH, "n1")[0] == image, "what was mended is whole"


def test_a_log_that_was_cut_short_or_taken_away_is_named():
    disk = Disk(random.Random(1))
    log = CellLog(disk, MESH, "n1")
    log.commit([put(1)])
    log.commit([put(2)])
    disk.cut_off(LOG, disk.size(LOG) - 5)

    image, damaged = opened_cells(disk, MESH, "n1")
    assert numbers(image) == [1] and "cut short" in damaged[0]

    disk.remove(LOG)
    assert opened_cells(disk, MESH, "n1")[1][-1] == f"{LOG} is gone"


def test_another_members_log_is_refused():
    disk = Disk(random.Random(1))
    CellLog(disk, MESH, "n1").commit([put(1)])

    with pytest.raises(BadInput, match=r"n1, not of .*n2"):
        CellLog(disk, MESH, "n2")


def test_a_disk_that_refuses_its_first_file_says_so_and_can_be_used_when_it_is_freed():
    disk = Disk(random.Random(1), capacity_bytes=20)
    log = CellLog(disk, MESH, "n1")
    with pytest.raises(Unavailable, match="No space"):
        log.commit([put(1)])

    disk.capacity_bytes = 1 << 20
    log.commit([put(2)])
    assert numbers(opened_cells(disk, MESH, "n1")[0]) == [2]


def test_it_can_be_asked_whether_bytes_are_safe():
    port = Port()
    port.cells.append(1, put(1))
    port.world.run_until(port.world.now_ns + 1)
    assert not port.cells.safe(b"value 1"), "written, and not fsynced"
    port.run()
    assert port.cells.safe(b"value 1") and not port.cells.safe(b"value 2")
