"""`store verify` of the replicated tables: every row's seal, and that a replica can be made of them."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from edge_node.home import Home
from edge_node.store.batch import Count, Put
from edge_node.store.cell_store import Commit
from edge_node.store.cells import CellId
from edge_node.store.storage.cell_file import CellFile, state_key
from edge_node.store.verification import verify
from security.keystore import KeyStore
from tests.support.replicas import MESH, ReplicaMesh


@pytest.fixture
def home(tmp_path):
    """Of a member that has written, heard and collected."""
    home = Home(tmp_path / "home")
    home.create()
    mesh = ReplicaMesh(1, names=("gateway", "n1"))
    mesh.peers["n1"].disk = opened(home)
    mesh.peers["n1"].start()
    for n in range(30):
        mesh.write("n1", Put("t", f"k{n}", "f", b"%d" % n), Count("c", n))
        mesh.write("gateway", Put("t", f"k{n}", "g", b"x"))
    mesh.exchange(3)
    mesh.write("n1", Put("t", "last", "f", b"unsent"))
    mesh.peers["n1"].fsync()
    mesh.peers["n1"].disk.close()
    return home


def opened(home):
    file = CellFile(home.state, MESH, "n1", state_key(home.state, KeyStore(home.keys)))
    file.load()
    return file


def change(home, statement, *values):
    with sqlite3.connect(home.state) as db:
        db.execute(statement, values)
    db.close()


def state(home):
    return next(each for each in verify(home) if each.store == "state")


def test_sound_tables_have_no_gap_and_are_not_changed(home):
    before = {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()}

    found = state(home)

    assert found.gaps == () and found.rows > 60 and found.bytes > 20_000
    assert {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()} == before


def test_they_are_looked_at_beside_the_daemon_that_has_them(home):
    file = opened(home)
    file.commit([Commit({CellId(0, "t", "k1", "f"): None})])

    assert state(home).gaps == ()
    file.close()


def test_each_row_that_does_not_authenticate_is_named(home):
    change(home, "UPDATE rows SET body = zeroblob(50) WHERE substr(name, 1, 1) IN (x'61', x'68')")

    gaps = state(home).gaps

    assert len([gap for gap in gaps if gap.startswith("a cell (")]) == 61 + 1
    assert len(gaps) == 61 + 1 + 1


def test_rows_that_are_whole_and_make_no_replica_are_a_gap(home):
    file = opened(home)
    file.commit([Commit(head=b"no head at all")])
    file.close()

    (gap,) = state(home).gaps
    assert gap.startswith("state.db: no replica can be made of it")


def test_a_lost_key_another_key_and_a_damaged_key_are_told(home):
    keystore = KeyStore(home.keys)
    key = keystore.state_key()
    keystore.write("state.key", bytes(32))
    assert "sealed with another key" in state(home).gaps[0]
    keystore.write("state.key", key[:5])
    assert "state.key is damaged" in state(home).gaps[0]
    assert any("keys/state.key" in gap for each in verify(home) for gap in each.gaps if each.store == "keys")
    keystore.remove("state.key")
    assert state(home).gaps == ("state.db: its key is gone, so nothing of it can be opened",)


def test_a_file_that_is_gone_and_one_that_was_set_aside_are_told(home):
    file = opened(home)
    file.commit([Commit({CellId(0, "t", "k1", "f"): None})])
    home.state.rename(home.path / "elsewhere")
    Path(f"{home.state}-wal").rename(home.path / "elsewhere-wal")
    assert state(home).gaps == ("state.db: the file is gone",)
    file.close()  # of a file without a name
    os.truncate(home.path / "elsewhere", 3000)
    (home.path / "elsewhere").rename(home.state)

    opened(home).close()

    assert state(home).gaps == ()
    (aside,) = [each for each in verify(home) if each.store == "set aside"]
    assert "set aside as state.db.damaged-1" in aside.gaps[0]
