"""One contract for what a replica commits to: a thread over SQLite, and the world's modelled disk."""

from __future__ import annotations

import queue
import shutil

import pytest

from device_sim.virtual.cell_disk import VirtualCells
from device_sim.virtual.disk import Disk
from device_sim.virtual.world import World
from edge_node.store.cell_store import Commit, Image, Logged, Waiting
from edge_node.store.cells import CellId
from edge_node.store.storage.cell_file import CellFile
from edge_node.store.storage.cell_thread import CellThread
from security.errors import BadInput

MESH, KEY = "0123456789abcdef", bytes(32)


def cell(number):
    return CellId(0, "t", f"k{number}", "f")


def log(number):
    return Logged(number, "n1", 2**62, number + 1, number + 1, b"batch %d" % number)


class OnSqlite:
    """A kill is what another process finds: the file and its log as the kernel has them."""

    def __init__(self, folder):
        self.folder = folder / "life0"
        self.folder.mkdir()
        self.lives = 0
        self.held = []
        self.said = queue.SimpleQueue()

    def port(self, node="n1"):
        self.file = CellFile(self.folder / "state.db", MESH, node, KEY)
        self.held.append(CellThread(self.file))
        return self.held[-1]

    def post(self, callback, *args):
        self.said.put((callback, args))

    def hear(self):
        callback, args = self.said.get(timeout=20)
        callback(*args)

    def kill(self, _port):
        self.lives += 1
        found = self.folder.with_name(f"life{self.lives}")
        shutil.copytree(self.folder, found, ignore=lambda _, names: [n for n in names if n.endswith("-shm")])
        self.folder = found

    def fill(self):
        db = self.file._opened()._db
        db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0]}")

    def free(self):
        """What is opened anew after the failure has no such bound."""

    def end(self):
        for each in self.held:
            each.close()


class OnModel:
    def __init__(self, _folder):
        self.world = World(7)
        self.disk = Disk(self.world.rng("n1", "disk"))
        self.held = []

    def port(self, node="n1"):
        self.held.append(VirtualCells(self.world, self.disk, MESH, node))
        return self.held[-1]

    def post(self, callback, *args):
        self.world.soon(callback, *args)

    def hear(self):
        assert self.world.step(), "nobody will say anything any more"

    def kill(self, port):
        port.kill()

    def fill(self):
        self.disk.capacity_bytes = self.disk.used_bytes + 1000

    def free(self):
        self.disk.capacity_bytes = 1 << 40

    def end(self):
        for each in self.held:
            each.close()


@pytest.fixture(params=[OnSqlite, OnModel], ids=["sqlite", "model"])
def medium(request, tmp_path):
    made = request.param(tmp_path)
    yield made
    made.end()


class Member:
    """A started port and what it said."""

    def __init__(self, medium, node="n1"):
        self.medium, self.port = medium, medium.port(node)
        self.image = self.port.load()
        self.said = []
        self.serial = 0
        self.port.start(
            medium.post,
            lambda serial: self.said.append(("safe", serial)),
            lambda serial, why: self.said.append(("failed", serial)),
        )

    def append(self, *commits):
        for commit in commits:
            self.serial += 1
            self.port.append(self.serial, commit)

    def hear(self, *what):
        while not self.said or self.said[-1] != what:
            self.medium.hear()

    def reload(self):
        found = []
        self.port.reload(found.append)
        while not found:
            self.medium.hear()
        return found[0]


def test_it_begins_with_nothing_and_no_losses(medium):
    member = Member(medium)

    assert (member.image, member.port.losses) == (Image(), "")


def test_commits_are_answered_in_their_order_and_found_after_a_kill(medium):
    member = Member(medium)
    member.append(*(Commit({cell(n): b"%d" % n}, [log(n)], head=b"h%d" % n) for n in range(300)))
    member.hear("safe", 300)
    serials = [serial for _, serial in member.said]
    assert serials == sorted(set(serials))

    medium.kill(member.port)

    image = Member(medium).image
    assert sorted(image.cells) == sorted((cell(n), b"%d" % n) for n in range(300))
    assert (image.logged, image.head) == ([log(n) for n in range(300)], b"h299")


def test_what_was_dropped_released_or_replaced_is_gone(medium):
    member = Member(medium)
    member.append(
        Commit({cell(1): b"a", cell(2): b"b"}, [log(0)], waiting=[Waiting("n2", 1, 1, b"w")], head=b"h"),
        Commit({cell(1): None}, [log(1)], forgotten=[0], released=[("n2", 1, 1)]),
    )
    member.hear("safe", 2)
    medium.kill(member.port)
    member = Member(medium)
    assert member.image == Image([(cell(2), b"b")], [log(1)], [], b"h")

    member.append(Commit({cell(3): b"c"}, [log(2)], head=b"h2", anew=True))
    member.hear("safe", 1)
    medium.kill(member.port)
    assert Member(medium).image == Image([(cell(3), b"c")], [log(2)], [], b"h2")


def test_closing_commits_what_was_appended(medium):
    member = Member(medium)
    member.append(*(Commit({cell(n): b"x"}) for n in range(20)))

    member.port.close()

    member.port.close()
    assert len(Member(medium).image.cells) == 20


def test_after_a_failure_nothing_is_taken_until_it_was_read_again(medium):
    member = Member(medium)
    member.append(Commit({cell(1): b"a"}, [log(0)]))
    member.hear("safe", 1)
    medium.fill()
    member.append(Commit({cell(2): bytes(60_000), cell(3): bytes(60_000)}))
    member.hear("failed", 2)
    member.append(Commit({cell(4): b"lost"}))
    medium.free()

    assert member.reload() == Image([(cell(1), b"a")], [log(0)])
    assert member.said[-1] == ("failed", 2), "what is appended after a failure is not told of again"
    member.append(Commit({cell(5): b"e"}))
    member.hear("safe", 4)
    medium.kill(member.port)
    assert sorted(Member(medium).image.cells) == [(cell(1), b"a"), (cell(5), b"e")]


def test_another_nodes_file_is_refused(medium):
    member = Member(medium)
    member.append(Commit({cell(1): b"a"}))
    member.port.close()

    with pytest.raises(BadInput, match="n2"):
        medium.port("n2").load()
