"""A damaged ledger: what can be read goes on, what cannot is named, nothing is made up."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3

import pytest

from edge_node.store import pages, recovery
from edge_node.store.ledger import SqliteLedger
from edge_node.store.recovery import ENDED_UNREADABLY, Salvage
from edge_node.tasks.journal import open_journal
from edge_node.tasks.rows import StoreDamaged, row_of
from edge_node.tasks.task import KNOWN_MS, Accepted, Attempt, Closed, Fenced, Outcome, Task
from security.errors import BadInput

MESH, NODE = "0123456789abcdef", "pi-1"
PAGE = 4096


def a_task(name, size=1000):
    return Task(name, "f.noop", b"d" * 32, bytes(size), b"s" * 32, NODE, accepted_at_ms=KNOWN_MS)


def filled(path, count=200):
    """Tasks t000 …; every second has ended, every fifth had a second attempt. Cleanly closed."""
    store = SqliteLedger(path, MESH, NODE)
    rows = []
    for number in range(count):
        name = f"t{number:03}"
        rows.append(row_of(Accepted(a_task(name))))
        if number % 5 == 0:
            attempts = (Attempt(1, "pi-2", ended_as="worker died"), Attempt(2, ""))
            rows.append(row_of(Fenced(name, attempts)))
        if number % 2 == 0:
            rows.append(row_of(Closed(name, Outcome("done", b"out", settled_at_ms=KNOWN_MS))))
    store.insert(rows)
    store.close()
    return path


def page_of(path, name, kind):
    """The page on which that row lies."""
    salvage = pages.Pages(path, pages.Wal(path.with_name(path.name + "-wal")))
    for number, page_kind in salvage.trees():
        if page_kind == pages.LEAF:
            for record in salvage.records(number, page_kind):
                if record.values[1:3] == (name, kind):
                    return number
    raise AssertionError(f"no row {name}/{kind}")


def blank(path, page):
    data = bytearray(path.read_bytes())
    data[(page - 1) * PAGE : page * PAGE] = bytes(PAGE)
    path.write_bytes(data)


def opened(path):
    return open_journal(path, MESH, NODE, now_ms=0)


def test_the_rows_of_a_lost_page_are_named_and_all_others_go_on(tmp_path):
    path = filled(tmp_path / "ledger.db")
    blank(path, page_of(path, "t101", 0))

    journal = opened(path)

    lost = set(journal.losses[0].lost)
    assert "t101" in lost and len(lost) < 5
    unread = {gap.split("/")[0] for gap in journal.losses[0].gaps if "/0: row" in gap}
    assert lost < unread, "those that had ended are named, and not listed as lost"
    names = {f"t{number:03}" for number in range(200)}
    assert {name for name in names if journal.get(name) is None} == unread
    assert {task.id for task, _ in journal.open_tasks()} == {f"t{n:03}" for n in range(1, 200, 2)} - lost
    assert journal.verify() == []
    assert any("t101/0: row" in line for line in journal.damaged)
    journal.close()


def test_a_task_whose_end_is_lost_has_ended_and_is_not_run_again(tmp_path):
    path = filled(tmp_path / "ledger.db")
    with sqlite3.connect(path) as database:  # the row's page is sound, the row is not
        database.execute("UPDATE records SET body = zeroblob(length(body)) WHERE id = 't100' AND kind = 1")
    database.close()
    blank(path, page_of(path, "t151", 0))

    journal = opened(path)

    assert journal.get("t100").outcome.cause == ENDED_UNREADABLY
    assert "t100" not in {task.id for task, _ in journal.open_tasks()}
    journal.close()


def test_an_attempt_number_that_is_named_stays_used(tmp_path):
    path = filled(tmp_path / "ledger.db")
    with sqlite3.connect(path) as database:
        database.execute("UPDATE records SET body = x'00' WHERE id = 't105' AND kind = 102")
    database.close()
    blank(path, page_of(path, "t151", 0))

    journal = opened(path)

    attempts = {task.id: attempts for task, attempts in journal.open_tasks()}
    assert max(attempt.number for attempt in attempts["t105"]) == 2
    assert attempts["t115"][0].ended_as == "worker died"
    journal.close()


@pytest.mark.parametrize("left", [0, 32, 5000, "head"])
def test_a_log_that_lost_safe_commits_is_seen(tmp_path, left):
    """SQLite alone takes a log for ended at the first frame that does not hold, and says nothing."""
    living = SqliteLedger(tmp_path / "l.db", MESH, NODE)
    for number in range(50):
        living.insert([row_of(Accepted(a_task(f"t{number:03}")))])
    for part in ("", "-wal", "-mark"):
        shutil.copyfile(f"{tmp_path / 'l.db'}{part}", f"{tmp_path / 'k.db'}{part}")
    living.close()
    log = tmp_path / "k.db-wal"
    data = bytearray(log.read_bytes())
    log.write_bytes(b"\xff" * 8 + data[8:] if left == "head" else data[:left])

    with pytest.raises(StoreDamaged, match=r"log|newest row"):
        SqliteLedger(tmp_path / "k.db", MESH, NODE)
    journal = opened(tmp_path / "k.db")

    named = "\n".join(journal.damaged)
    kept = {task.id for task, _ in journal.open_tasks()}
    assert all(f"t{n:03}" in kept or journal.losses[0].unnamed for n in range(50)), named
    if left == "head":
        assert len(kept) >= 40, "one frame's page at most is lost with the log's head"
    journal.close()


def test_a_log_that_somebody_copied_into_the_file_is_missed_by_nobody(tmp_path):
    living = SqliteLedger(tmp_path / "l.db", MESH, NODE)
    living.insert([row_of(Accepted(a_task("t1")))])
    for part in ("", "-wal", "-mark"):
        shutil.copyfile(f"{tmp_path / 'l.db'}{part}", f"{tmp_path / 'k.db'}{part}")
    living.close()
    with sqlite3.connect(tmp_path / "k.db") as database:  # `sqlite3 ledger.db` after a kill
        assert database.execute("SELECT count(*) FROM records").fetchone() == (1,)
    database.close()
    assert not (tmp_path / "k.db-wal").exists()

    again = SqliteLedger(tmp_path / "k.db", MESH, NODE)

    assert (list(again.open_ids()), again.damaged) == (["t1"], [])
    again.close()


@pytest.mark.parametrize("gone", ["emptied", "removed"])
def test_a_file_that_is_gone_is_not_silently_begun_anew(tmp_path, gone):
    path = filled(tmp_path / "ledger.db", 3)
    if gone == "emptied":
        path.write_bytes(b"")
    else:
        path.unlink()

    journal = opened(path)

    assert journal.losses[0].unnamed and "the file is" in journal.damaged[0]
    journal.close()


@pytest.mark.parametrize("step", range(1, 30))
def test_a_recovery_that_is_killed_is_taken_up_again(tmp_path, step, monkeypatch):
    """At its n-th change of a name, or of what a name means, the process ends; the next one finishes."""
    path = filled(tmp_path / "ledger.db", 40)
    blank(path, page_of(path, "t011", 0))
    steps = [step]

    class Killed(BaseException):
        pass

    def dying(real):
        def call(*given, **options):
            steps[0] -= 1
            if steps[0] == 0:
                raise Killed
            return real(*given, **options)

        return call

    with monkeypatch.context() as patched:
        for name in ("rename", "replace", "unlink"):
            patched.setattr(recovery.Path, name, dying(getattr(recovery.Path, name)))
        with contextlib.suppress(Killed):
            opened(path).close()

    journal = opened(path)

    kept = {task.id for task, _ in journal.open_tasks()}
    (losses,) = journal.losses
    assert kept | set(losses.lost) == {f"t{n:03}" for n in range(1, 40, 2)}
    assert "t011" in losses.lost and len(losses.lost) < 5
    assert not recovery.under_way(path)
    journal.close()


def test_what_is_anothers_is_not_taken_over(tmp_path):
    path = filled(tmp_path / "ledger.db")
    blank(path, page_of(path, "t151", 0))

    with pytest.raises(BadInput, match="belongs to node pi-1, not to pi-9"):
        open_journal(path, MESH, "pi-9", now_ms=0)
    assert path.exists(), "it was not even set aside"


def test_pruned_rows_on_free_pages_do_not_come_back(tmp_path):
    path = filled(tmp_path / "ledger.db")
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA auto_vacuum").fetchone() == (2,)
        database.execute("DELETE FROM records WHERE id < 't150'")
    database.close()
    salvage = Salvage(path)

    names = {row.id for _, row in salvage.rows()}

    assert names == {f"t{n:03}" for n in range(150, 200)}
