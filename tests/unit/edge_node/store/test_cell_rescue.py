"""Damage to the tables' file: it is set aside, what can go on soundly goes on, the rest is told (P6)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from edge_node.store import whole_file
from edge_node.store.batch import Put
from edge_node.store.cell_store import Commit, Logged, Waiting
from edge_node.store.cells import CellId
from edge_node.store.storage import cell_rescue
from edge_node.store.storage.cell_file import CellFile
from edge_node.store.storage.cells import SqliteCellStore
from security.errors import BadInput, Unavailable
from tests.support.replicas import ReplicaMesh

MESH, KEY = "0123456789abcdef", bytes(range(32))


class Home:
    """Where a member's tables lie; each life opens them again."""

    def __init__(self, folder):
        self.path = folder / "state.db"
        self.file = None

    def life(self):
        self.end()
        self.file = CellFile(self.path, MESH, "n1", KEY)
        return self.file

    def end(self):
        if self.file is not None:
            self.file.close()
            self.file = None

    def kill(self, folder):
        """Another folder with what the kernel has of this one."""
        folder.mkdir()
        for path in self.path.parent.iterdir():
            if not path.name.endswith("-shm"):
                shutil.copyfile(path, folder / path.name)
        return Home(folder)

    def wal(self):
        return Path(f"{self.path}-wal")

    def names(self):
        return {path.name for path in self.path.parent.iterdir()}


@pytest.fixture
def home(tmp_path):
    (tmp_path / "first").mkdir()
    made = Home(tmp_path / "first")
    yield made
    made.end()


def log(number, node="n1"):
    return Logged(number, node, 7, number + 1, number + 1, b"%s %d" % (node.encode(), number))


def fill(home, commits=60):
    file = home.life()
    file.load()
    for n in range(commits):
        file.commit([Commit({CellId(0, "t", f"k{n}", "f"): bytes(900)}, [log(n)], head=b"h%d" % n)])
    return file


def flip(path, share, count=1):
    data = bytearray(path.read_bytes())
    at = int(len(data) * share)
    data[at : at + count] = bytes(each ^ 0x55 for each in data[at : at + count])
    path.write_bytes(data)


def test_a_file_that_is_gone_or_emptied_is_missed(home, tmp_path):
    fill(home)
    for number, damage in enumerate((Path.unlink, lambda path: os.truncate(path, 0))):
        other = home.kill(tmp_path / f"other{number}")
        other.wal().unlink()
        damage(other.path)

        file = other.life()
        image = file.load()

        assert (image.cells, image.head, image.logged) == ([], None, [])
        assert "begin empty" in file.losses and "state.db.damaged-1" in file.losses
        assert other.life().load() is not None
        assert other.file.losses == "", "it is told once"
        other.end()


def test_a_lost_log_leaves_the_state_before_it(home, tmp_path):
    file = fill(home)
    file._opened()._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    for n in range(60, 70):
        file.commit([Commit({CellId(0, "t", f"k{n}", "f"): b"x"}, [log(n)], head=b"h%d" % n)])
    other = home.kill(tmp_path / "other")
    other.wal().unlink()

    file = other.life()
    image = file.load()

    assert (len(image.cells), len(image.logged), image.head) == (60, 60, b"h59")
    assert "its newest batch is 60, and 70 was safe" in file.losses
    assert "an earlier state goes on" in file.losses
    other.end()


def test_behind_a_bad_frame_batches_are_saved_and_the_file_goes_on(home, tmp_path):
    """SQLite takes a log for ended at the first bad frame, and says nothing of the commits behind it."""
    file = fill(home)
    file._opened()._db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
    for n in range(60, 100):
        file.commit([Commit({CellId(0, "t", f"k{n}", "f"): b"x"}, [log(n)], head=b"h%d" % n)])
    other = home.kill(tmp_path / "other")
    data = bytearray(other.wal().read_bytes())
    data[32 + 24 + 50] ^= 1  # the first frame of this round
    other.wal().write_bytes(data)

    file = other.life()
    image = file.load()

    assert (len(image.cells), image.head, len(image.logged)) == (60, b"h59", 60)
    assert {each.data for each in image.waiting} == {b"n1 %d" % n for n in range(60, 100)}
    assert "frame 1 of" in file.losses and "40 later batches were saved" in file.losses
    image = other.life().load()
    assert len(image.waiting) == 40, "they wait in every life until they are logged"
    other.file.commit([Commit(logged=[Logged(100, "n1", 7, 61, 61, b"n1 60")])])
    image = other.life().load()
    assert len(image.waiting) == 39 and len(image.logged) == 61
    other.end()


def test_frames_before_a_bad_one_do_not_lie_over_newer_pages(home, tmp_path):
    """The log was copied into the file already; SQLite would read its first half as the newest there is."""
    file = fill(home)
    for n in range(60, 90):
        file.commit([Commit({CellId(0, "t", f"k{n - 60}", "f"): b"newer"}, [log(n)], head=b"h%d" % n)])
    file._opened()._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    other = home.kill(tmp_path / "other")
    frame = 24 + 4096
    frames = (other.wal().stat().st_size - 32) // frame
    data = bytearray(other.wal().read_bytes())
    data[32 + frames // 2 * frame + 50] ^= 1
    other.wal().write_bytes(data)

    file = other.life()
    image = file.load()

    assert "an earlier state goes on" in file.losses
    assert (len(image.cells), image.head, len(image.logged)) == (60, b"h89", 90)
    assert sum(body == b"newer" for _, body in image.cells) == 30
    other.end()


def test_a_damaged_page_costs_the_cells_and_saves_the_batches(home):
    fill(home).commit([Commit(logged=[log(60, "n2")])])
    home.end()
    size = home.path.stat().st_size
    pages = [home.path.read_bytes()[at : at + 4096] for at in range(0, size, 4096)]
    # a page of cells: their bodies are longer than a batch's
    number = max(n for n, page in enumerate(pages) if n > 2 and page[0] == 0x0A)
    flip(home.path, (number * 4096 + 3000) / size, 40)

    file = home.life()
    image = file.load()

    assert (image.cells, image.head, image.logged) == ([], None, [])
    assert 55 <= len(image.waiting) <= 61
    assert "come back from the other members" in file.losses
    assert f"{len(image.waiting)} signed batches were saved" in file.losses
    (told,) = cell_rescue.told(home.path)
    assert told.aside == "state.db.damaged-1" and told.gaps


def test_every_flipped_or_cut_file_is_seen_or_does_not_matter(home, tmp_path):
    """Whatever comes of it: no value that was never written, and nothing missing without a word."""
    fill(home)
    home.end()
    whole = home.life().load()
    home.end()
    seen = 0
    for number in range(36):
        other = home.kill(tmp_path / f"other{number}")
        if number % 3 == 0:
            os.truncate(other.path, int(other.path.stat().st_size * number / 36))
        else:
            flip(other.path, number / 36, 1 if number % 3 == 1 else 300)

        file = other.life()
        image = file.load()

        assert set(image.cells) <= set(whole.cells)
        assert {each.data for each in image.waiting} <= {each.data for each in whole.logged}
        if file.losses:
            seen += 1
            assert "state.db.damaged-1" in other.names()
        else:
            assert sorted(image.cells) == sorted(whole.cells) and image.logged == whole.logged
        other.end()
    assert seen > 18


def test_what_was_dropped_on_purpose_is_not_missed(home, tmp_path):
    """The newest batch may be forgotten, or a snapshot may take the place of all: the mark knew of them."""
    fill(home, 10).commit([Commit(forgotten=list(range(10)), head=b"all know")])
    other = home.kill(tmp_path / "forgotten")
    file = other.life()
    assert (file.load().head, file.losses) == (b"all know", "")

    file.commit([Commit({CellId(0, "t", "k", "f"): b"theirs"}, head=b"taken", anew=True)])
    last = other.kill(tmp_path / "replaced")
    other.end()

    file = last.life()
    assert (file.load().head, file.losses) == (b"taken", "")
    last.end()


def test_a_strangers_file_is_not_set_aside(home):
    fill(home)
    home.end()
    for whose, told in ((("n2", KEY), "not of"), (("n1", bytes(32)), "another key")):
        with pytest.raises(BadInput, match=told):
            CellFile(home.path, MESH, *whose).load()
    assert not [name for name in home.names() if "damaged" in name]


@pytest.mark.parametrize("step", range(1, 12))
def test_a_crash_on_the_way_is_taken_up(home, tmp_path, monkeypatch, step):
    file = fill(home)
    file._opened()._db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
    file.commit([Commit({CellId(0, "t", "new", "f"): b"x"}, [log(60)])])
    other = home.kill(tmp_path / "other")
    flip(other.wal(), 0.001)
    renames = 0

    class Crash(Exception):
        pass

    def crashing(what):
        def wrapped(*args, **more):
            nonlocal renames
            renames += 1
            if renames == step:
                raise Crash
            return what(*args, **more)

        return wrapped

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", crashing(Path.rename))
        patched.setattr(Path, "replace", crashing(Path.replace))
        patched.setattr(whole_file, "sync", crashing(whole_file.sync))
        try:
            other.life().load()
        except Crash:
            other.end()
        else:
            assert renames < step
    lost = {name for name in other.names() if name.endswith((".draft", ".look"))}

    image = other.life().load()

    assert (len(image.cells), image.head) == (60, b"h59")
    assert b"n1 60" in {each.data for each in (*image.waiting, *image.logged)}
    assert {"state.db", "state.db.damaged-1", "state.db.damaged-1.lost.json"} <= other.names(), lost
    other.end()


def test_a_disk_that_refuses_leaves_everything_as_it_was(home, monkeypatch):
    fill(home)
    home.end()
    home.path.write_bytes(b"noise" * 5000)
    before = home.names()

    def refused(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_file, "write", refused)
    with pytest.raises(Unavailable, match="cannot be set aside: No space left"):
        home.life().load()
    home.end()
    assert home.path.read_bytes() == b"noise" * 5000
    assert before <= home.names()


# ── a member of a mesh ────────────────────────────────────────────────────────────────────────────────


def test_a_damaged_member_comes_back_with_what_only_it_had(home):
    """Its old writes by the others, its unsent ones by its own rescued batches."""
    mesh = ReplicaMesh(3)
    peer = mesh.peers["n1"]
    peer.disk = home.life()
    peer.start()
    for n in range(40):
        mesh.write(("gateway", "n1", "n2", "n3")[n % 4], Put("t", f"k{n}", "f", b"%d" % n))
    mesh.exchange(3)
    for n in range(25):
        mesh.write("n1", Put("t", f"only{n}", "f", b"%d" % n))
    peer.fsync()
    mesh.bag.clear()
    home.end()
    flip(home.path, 0.5, 60)

    peer.disk = home.life()
    peer.start()
    assert "begin empty" in home.file.losses
    mesh.exchange(6)

    assert len(set(mesh.canonical().values())) == 1
    cells = mesh.peers["gateway"].replica.cells
    assert all(cells.document("t", f"k{n}")["f"] == b"%d" % n for n in range(40))
    there = [n for n in range(25) if cells.document("t", f"only{n}").get("f") == b"%d" % n]
    saved = sum(each.rows_kept for each in cell_rescue.told(home.path))
    assert there and (len(there) == 25 or saved < 65)


def test_the_rescued_wait_behind_what_is_sound(home):
    store = SqliteCellStore(home.path, MESH, "n1", KEY)
    store.rescue([Waiting("n1", 7, 1, b"one"), Waiting("n1", 7, 2, b"two")])
    store.commit([Commit(logged=[Logged(0, "n1", 7, 1, 1, b"one")])])

    assert [each.data for each in store.load().waiting] == [b"two"]
    store.commit([Commit(forgotten=[0])])
    assert [each.data for each in store.load().waiting] == [b"two"], "what everybody has waits no more"
    store.close()
