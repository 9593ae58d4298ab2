"""What a member is told of its tables' disk, and when."""

from __future__ import annotations

import queue
import threading

import pytest

from edge_node.store.cell_store import Commit, Image, MemoryCellStore
from edge_node.store.cells import CellId
from edge_node.store.storage import cell_thread
from edge_node.store.storage.cell_thread import CellThread
from security.errors import EdgeweaveError, Unavailable

A, B = CellId(0, "t", "k", "a"), CellId(0, "t", "k", "b")


class Disk(MemoryCellStore):
    """Holds a commit up until it is let through, and refuses what it is told to."""

    def __init__(self):
        super().__init__()
        self.begun, self.through = threading.Semaphore(0), threading.Semaphore(0)
        self.groups = []
        self.trouble = None
        self.untidy = 0
        self.tidied = threading.Event()

    def commit(self, commits):
        self.begun.release()
        self.through.acquire()
        if self.trouble is not None:
            raise self.trouble
        self.groups.append(len(commits))
        super().commit(commits)

    def load(self):
        if self.trouble is not None:
            raise self.trouble
        return super().load()

    def tidy(self):
        self.untidy -= 1
        if self.untidy <= 0:
            self.tidied.set()
        return self.untidy > 0


class Member:
    def __init__(self, disk):
        self.disk = disk
        self.said = queue.SimpleQueue()
        self.port = CellThread(disk)
        self.port.start(self.post, lambda serial: ("safe", serial), lambda serial, why: ("bad", serial, why))

    def post(self, callback, *said):
        self.said.put(callback(*said))

    def hear(self):
        return self.said.get(timeout=20)

    def reload(self):
        self.port.reload(lambda found: found)
        return self.hear()


@pytest.fixture
def member():
    made = Member(Disk())
    yield made
    for _ in range(100):
        made.disk.through.release()
    made.port.close()


def one(value=b"1", cell=A):
    return Commit({cell: value})


def test_what_gathers_during_a_commit_shares_the_next_one(member):
    member.port.append(1, one())
    assert member.disk.begun.acquire(timeout=20)
    for serial in range(2, 9):
        member.port.append(serial, one(b"%d" % serial))
    assert member.said.empty(), "nothing is told before it is durable"
    member.disk.through.release(2)

    assert (member.hear(), member.hear()) == (("safe", 1), ("safe", 8))
    assert member.disk.groups == [1, 7]
    assert member.disk.load().cells == [(A, b"8")]


def test_after_a_failure_nothing_is_taken_until_it_was_read_again(member):
    member.disk.trouble = Unavailable("no space is left")
    member.port.append(1, one())
    member.disk.through.release()
    assert member.hear() == ("bad", 1, "no space is left")
    member.disk.trouble = None
    member.port.append(2, one(b"2"))

    assert member.reload() == Image()
    member.port.append(3, one(b"3", B))
    member.disk.through.release()
    assert member.hear() == ("safe", 3)
    assert member.disk.load().cells == [(B, b"3")]


def test_what_cannot_be_read_again_is_told_and_can_be_tried_again(member):
    member.disk.trouble = Unavailable("I/O error")
    member.port.append(1, one())
    member.disk.through.release()
    member.hear()

    assert isinstance(member.reload(), EdgeweaveError)
    member.port.append(2, one())
    member.disk.trouble = None
    assert member.reload() == Image()


def test_a_mistake_of_ours_is_a_failure_and_not_the_end_of_the_thread(member):
    member.disk.trouble = KeyError("a bug")
    member.port.append(1, one())
    member.disk.through.release()
    assert member.hear() == ("bad", 1, "KeyError: 'a bug'")
    assert isinstance(member.reload(), Unavailable)

    member.disk.trouble = None
    assert member.reload() == Image()


def test_a_disk_that_hangs_is_not_waited_for_without_bound(member, monkeypatch):
    monkeypatch.setattr(cell_thread, "QUEUE_BYTES_MAX", 10_000)
    member.port.append(1, one(bytes(1000)))
    assert member.disk.begun.acquire(timeout=20)
    for serial in range(2, 40):
        member.port.append(serial, one(bytes(1000)))

    said, refused, why = member.hear()
    assert (said, why) == ("bad", "more waits for the disk than it takes")
    assert 10 <= refused <= 13
    member.port.reload(lambda found: ("read", len(found.cells)))
    member.disk.through.release(3)
    assert [member.hear() for _ in range(3)] == [("safe", 1), ("safe", refused - 1), ("read", 1)]
    member.port.append(40, one(b"after"))
    assert member.hear() == ("safe", 40)
    assert member.disk.load().cells == [(A, b"after")]


def test_closing_commits_what_was_appended(member):
    member.disk.through.release(5)
    for serial in (1, 2, 3):
        member.port.append(serial, one(b"%d" % serial))

    member.port.close()

    member.port.close()
    assert member.disk.load().cells == [(A, b"3")]


def test_a_file_that_cannot_be_made_smaller_is_no_failure(member, monkeypatch):
    monkeypatch.setattr(member.disk, "tidy", lambda: 1 // 0)
    member.disk.through.release(2)

    for serial in (1, 2):
        member.port.append(serial, one())
        assert member.hear() == ("safe", serial)


def test_after_a_failure_the_file_is_left_alone(member):
    member.disk.trouble = Unavailable("no space is left")
    member.disk.through.release(2)
    member.port.append(1, one())
    assert member.hear()[0] == "bad"
    member.port.append(2, one())
    assert isinstance(member.reload(), Unavailable)

    assert not member.disk.tidied.is_set()


def test_space_is_given_back_while_nobody_waits(member):
    member.disk.untidy = 3
    member.port.append(1, one())
    member.disk.through.release()

    assert member.disk.tidied.wait(20)
    assert member.disk.untidy <= 0
