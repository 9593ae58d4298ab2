"""The archive: entries on a disk, off the loop; what a kill costs is said, and no damage stops a member."""

from __future__ import annotations

import queue
import shutil
import sqlite3

import pytest

from edge_node.chronicle.entry import Entry, What
from edge_node.chronicle.keeping import BLOCK, Keeping
from edge_node.home import Home
from edge_node.store import archive as module
from edge_node.store import at_rest
from edge_node.store.archive import Archive
from edge_node.tasks.journal import Journal, MemoryJournal
from edge_node.tasks.task import Accepted, Task
from security.errors import BadInput, Unavailable

WALL = 1_760_000_000_000


class Life:
    """One life of an archive, with a loop that is a queue."""

    def __init__(self, path, me="pi-1", books=None):
        self.posted = queue.Queue()
        self.archive = Archive(path, me, books or MemoryJournal(), lambda: WALL + 60_000)
        self.archive.start(lambda callback, *args: self.posted.put((callback, args)))

    def find(self, about):
        """What is told of it; everything appended before was written by then."""
        found = []
        self.archive.find(about, found.append)
        callback, args = self.posted.get(timeout=20)
        callback(*args)
        return found[0]

    def copied(self, path):
        """The files as a kill would leave them now."""
        self.find("nothing")
        for each in path.parent.glob(f"{path.name}*"):
            shutil.copyfile(each, each.with_name(f"killed-{each.name}"))
        return path.with_name(f"killed-{path.name}")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "chronicle.db"


@pytest.fixture
def lives():
    """Every life ends with its test."""
    made = []

    def live(*args, **how):
        made.append(Life(*args, **how))
        return made[-1]

    yield live
    for life in made:
        life.archive.close()


def lost(name="pi-2", number=0, reason="silent"):
    return Entry(
        0, WALL + number, "pi-1", "node", name, What.LOST.value, f"n-{number}", details={"reason": reason}
    )


def test_what_was_noted_is_told_by_number_and_survives_an_orderly_end(lives, path):
    life = lives(path)
    life.archive.append([lost(number=1), lost(number=2)])
    assert [(e.number, e.cause) for e in life.find("pi-2").entries] == [(1, "n-1"), (2, "n-2")]
    life.archive.close()

    again = lives(path)
    again.archive.append([lost(number=3)])
    assert [e.number for e in again.find("pi-2").entries] == [1, 2, 3]
    assert again.find("n-2").entries[0].at_ms == WALL + 2
    assert again.find("pi-1").entries == (), "nothing was wrong with its last life"


def test_a_life_that_did_not_end_in_order_is_told_by_the_next(lives, path):
    killed = lives(path)
    killed.archive.append([lost(number=1)])

    (entry,) = lives(killed.copied(path)).find("pi-1").entries
    assert (entry.what, entry.id, entry.number) == (What.KILLED, "pi-1", 2)
    assert entry.details == {"missing_s": 1.0, "machine": "on", "after_ms": WALL + 1}


def test_a_machine_that_went_down_may_have_lost_more(lives, path, monkeypatch):
    copy = lives(path).copied(path)
    monkeypatch.setattr(module, "_machine_boot", lambda: "another boot of the machine")

    (entry,) = lives(copy).find("pi-1").entries
    assert entry.details == {"missing_s": 60.0, "machine": "off"}


@pytest.mark.parametrize("harm", ["garbage", "truncated", "of another node", "newer"])
def test_a_file_that_cannot_be_used_is_set_aside_and_said_to_be(lives, path, harm):
    life = lives(path)
    life.archive.append([lost(number=n) for n in range(500)])
    life.archive.close()
    if harm == "garbage":
        path.write_bytes(b"no database at all" * 1000)
    elif harm == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif harm == "newer":
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA user_version = 99")
        database.close()

    again = lives(path, "pi-7" if harm == "of another node" else "pi-1")

    (entry,) = again.find("pi-7" if harm == "of another node" else "pi-1").entries
    assert entry.what == What.DAMAGED and "was set aside" in entry.details["reason"]
    assert path.with_name("chronicle.db.damaged").exists(), "nothing is deleted"


def test_a_flipped_bit_costs_its_entry(lives, path):
    life = lives(path)
    life.archive.append([lost(number=n) for n in range(3)])
    life.archive.close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE entries SET body = x'c1' WHERE number = 2")
    database.close()

    assert [e.number for e in lives(path).find("pi-2").entries] == [1, 3]


def test_a_directory_that_cannot_be_written_costs_the_chronicle_and_nothing_else(lives, tmp_path, caplog):
    life = lives(tmp_path / "missing" / "chronicle.db")
    life.archive.append([lost()])

    assert life.find("pi-2").entries == ()
    assert "nothing can be noted for `why`" in caplog.text


def test_a_full_disk_costs_entries_which_are_counted_when_there_is_room(lives, path):
    life = lives(path)
    life.find("nothing")
    connection = life.archive._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    life.archive.append([lost(number=n, reason="x" * 900) for n in range(100)])
    assert life.find("pi-2").entries == ()

    connection.execute("PRAGMA max_page_count = 100000")
    life.archive.append([lost(number=200)])

    assert [e.number for e in life.find("pi-2").entries] == [1]
    (entry,) = life.find("pi-1").entries
    assert (entry.what, entry.details["count"]) == (What.LEFT_OUT, 100)


def test_the_oldest_go_and_since_when_is_told(lives, path):
    life = lives(path)
    life.archive._keeping = Keeping(rows_max=3 * BLOCK)
    for first in range(0, 6 * BLOCK, 64):
        life.archive.append([lost(number=first + n) for n in range(64)])

    told = life.find("pi-2")
    assert 2 * BLOCK <= told.entries[-1].number - 3 * BLOCK <= 3 * BLOCK
    assert told.since_ms > WALL
    (rows,) = life.archive._connection.execute("SELECT count(*) FROM entries").fetchone()
    assert rows <= 4 * BLOCK


def test_the_books_are_read_beside_it(lives, path):
    books = MemoryJournal()
    books.write(Accepted(Task("t1", "toys.nap", b"d" * 32, b"", b"s" * 32, "pi-1", accepted_at_ms=WALL)))

    assert [e.what for e in lives(path, books=books).find("t1").entries] == [What.ACCEPTED]


def test_a_home_at_rest_tells_from_its_files_and_changes_none(lives, tmp_path):
    home = Home(tmp_path / "home")
    home.create()
    journal = Journal(home.ledger, "0" * 16, "pi-1")
    journal.start(lambda callback, *args: None, lambda serials: None, lambda serials, reason: None)
    journal.append(
        1, (Accepted(Task("06h0cz1", "toys.nap", b"d" * 32, b"", b"s" * 32, "pi-1", accepted_at_ms=WALL)),)
    )
    life = lives(home.chronicle)
    life.archive.append([lost(number=5)])
    journal.close()
    life.archive.close()
    before = {each.name: each.read_bytes() for each in home.path.iterdir() if each.is_file()}

    told = at_rest.why(home, "06h0")

    assert (told["about"], told["asked_by"], told["others_asked"]) == ("06h0cz1", "pi-1", False)
    assert [each["what"] for each in told["entries"]] == [What.ACCEPTED]
    assert [each["what"] for each in at_rest.why(home, "pi-2")["entries"]] == [What.LOST]
    with pytest.raises(BadInput, match="nothing is known of 'n-77'"):
        at_rest.why(home, "n-77")
    assert {name: (home.path / name).read_bytes() for name in before} == before


def test_a_home_in_which_nothing_ever_ran_says_so(tmp_path):
    with pytest.raises(Unavailable, match="no daemon has ever run"):
        at_rest.why(Home(tmp_path), "t1")
