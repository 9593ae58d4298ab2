"""One contract for what lies under replicated tables: in memory, in SQLite, on a modelled disk."""

from __future__ import annotations

import random
import shutil

import pytest

from device_sim.virtual.cell_log import CellLog
from device_sim.virtual.disk import Disk
from edge_node.store.batch import Count, Put
from edge_node.store.cell_store import Commit, Logged, MemoryCellStore, Waiting
from edge_node.store.cells import CellId
from edge_node.store.storage.cells import SqliteCellStore
from tests.support.replicas import ReplicaMesh

A, B = CellId(0, "t", "k", "a"), CellId(1, "t", "k", "")
MESH = "0123456789abcdef"
KEY = bytes(range(32))


class InMemory:
    def __init__(self, _folder):
        self.kept = MemoryCellStore()

    def opened(self):
        return self.kept

    def killed(self, store):
        return store.copy()


class InSqlite:
    """A kill is what another process finds: the file and its log as the kernel has them."""

    def __init__(self, folder):
        self.folder, self.lives = folder, 0

    def opened(self):
        return SqliteCellStore(self.folder / "cells.db", MESH, "n1", KEY)

    def killed(self, store):
        self.lives += 1
        found = self.folder / f"life{self.lives}.db"
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{store.path}{suffix}", f"{found}{suffix}")
        return SqliteCellStore(found, MESH, "n1", KEY)


class InWorld:
    """The log on a modelled disk; its next life finds what the kernel has."""

    def __init__(self, _folder):
        self.disk = Disk(random.Random(3))

    def opened(self):
        return CellLog(self.disk, MESH, "n1")

    def killed(self, store):
        return CellLog(self.disk, MESH, "n1")


@pytest.fixture(params=[InMemory, InSqlite, InWorld], ids=["memory", "sqlite", "world"])
def medium(request, tmp_path):
    return request.param(tmp_path)


def log(number, data=b"batch"):
    return Logged(number, "n1", 2**62, number, number, data)


def shown(store):
    image = store.load()
    return sorted(image.cells), image.logged, sorted(image.waiting), image.head


def test_what_was_committed_is_there_after_a_kill(medium):
    store = medium.opened()
    assert shown(store) == ([], [], [], None)
    wait = Waiting("n2", 7, 1, b"later")
    store.commit(
        [
            Commit({A: b"one", B: b"two"}, [log(0), log(1)], waiting=[wait], head=b"h1"),
            Commit({A: b"three", B: None}, [log(2)], forgotten=[0]),
        ]
    )

    found = medium.killed(store)

    assert shown(found) == ([(A, b"three")], [log(1), log(2)], [wait], b"h1")
    found.commit([Commit(released=[("n2", 7, 1)], head=b"h2")])
    assert shown(found) == ([(A, b"three")], [log(1), log(2)], [], b"h2")
    found.close()
    store.close()


def test_a_snapshot_takes_the_place_of_everything(medium):
    store = medium.opened()
    store.commit([Commit({A: b"one"}, [log(0)], waiting=[Waiting("n2", 7, 1, b"x")], head=b"h1")])
    store.commit([Commit({B: b"two"}, [log(5)], head=b"h2", anew=True)])

    assert shown(medium.killed(store)) == ([(B, b"two")], [log(5)], [], b"h2")


def test_a_replica_comes_back_as_it_was(medium):
    mesh = ReplicaMesh(1, names=("gateway", "n1"))
    store = medium.opened()
    mesh.peers["n1"].disk = store
    mesh.peers["n1"].start()
    for i in range(20):
        mesh.write("n1", Put("t", f"k{i % 5}", "f", None if i % 4 == 0 else b"%d" % i), Count("c", i))
        mesh.write("gateway", Put("t", f"k{i % 5}", "g", b"%d" % i))
        if i % 6 == 0:
            mesh.exchange(1)
    mesh.exchange(1)
    before = mesh.canonical()["n1"], mesh.peers["n1"].replica.digest()

    mesh.peers["n1"].disk = medium.killed(store)
    mesh.peers["n1"].start()

    assert (mesh.canonical()["n1"], mesh.peers["n1"].replica.digest()) == before
    mesh.write("n1", Put("t", "k0", "f", b"after"))
    mesh.exchange(2)
    assert len(set(mesh.canonical().values())) == 1
    assert mesh.peers["gateway"].replica.cells.document("t", "k0")["f"] == b"after"
