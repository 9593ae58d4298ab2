"""One contract for both journals, then what only a file can get wrong."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from edge_node.store import ledger as ledger_module
from edge_node.tasks.journal import Journal, MemoryJournal, StoreDamaged, open_journal
from edge_node.tasks.rows import ROWS_MAX
from edge_node.tasks.task import KNOWN_MS, Accepted, Attempt, Closed, Fenced, Noted, Outcome, Task
from security.errors import BadInput, Unavailable

MESH = "0123456789abcdef"


def a_task(name="t1", **fields):
    return Task(name, "f.noop", b"d" * 32, fields.pop("input", b"in"), b"s" * 32, "pi-1", **fields)


class Running:
    """A started journal, and what it said."""

    def __init__(self, journal):
        self.journal = journal
        self.persisted: list[int] = []
        self.failed: list[tuple[list[int], str]] = []
        self.said = asyncio.Event()
        self.serial = 0
        journal.start(asyncio.get_running_loop().call_soon_threadsafe, self._on_persisted, self._on_failed)

    def _on_persisted(self, serials):
        self.persisted += serials
        self.said.set()

    def _on_failed(self, serials, reason):
        self.failed.append((serials, reason))
        self.said.set()

    async def write(self, *records):
        """Append each on its own, wait until all are answered."""
        for record in records:
            self.serial += 1
            self.journal.append(self.serial, (record,))
        async with asyncio.timeout(20):
            while len(self.persisted) + sum(len(serials) for serials, _ in self.failed) < self.serial:
                self.said.clear()
                await self.said.wait()


@pytest.fixture(params=["memory", "file"])
async def running(request, tmp_path):
    journal = MemoryJournal() if request.param == "memory" else Journal(tmp_path / "j.db", MESH, "pi-1")
    yield Running(journal)
    journal.close()


async def test_everything_is_answered_in_order(running):
    await running.write(*(Accepted(a_task(f"t{i}")) for i in range(1500)))

    assert running.persisted == list(range(1, 1501))
    assert [task.id for task, _ in running.journal.open_tasks()] == [f"t{i}" for i in range(1500)]


async def test_a_settled_task_is_not_open(running):
    task = a_task(labels={"site": "a"}, requires=("numpy",), deadline_ms=5)
    outcome = Outcome("done", b"out", attempts=(Attempt(1, "pi-1", ended_as="done"),), settled_at_ms=9)
    await running.write(Accepted(task), Accepted(a_task("t2")), Closed("t1", outcome))

    assert [task.id for task, _ in running.journal.open_tasks()] == ["t2"]
    stored = running.journal.get("t1")
    assert (stored.task, stored.outcome) == (task, outcome)
    assert running.journal.get("t2").outcome is None
    assert running.journal.get("t9") is None


async def test_the_first_terminal_record_stands(running):
    await running.write(Accepted(a_task()), Closed("t1", Outcome("done")), Closed("t1", Outcome("failed")))

    assert running.journal.get("t1").outcome.status == "done"


async def test_the_newest_reserved_attempt_is_remembered(running):
    first, second = Attempt(1, "pi-2", ended_as="lapsed"), Attempt(2, "gateway", ended_as="worker died")
    await running.write(
        Accepted(a_task()),
        Fenced("t1", (first, Attempt(2, ""))),
        Fenced("t1", (first, second, Attempt(3, ""))),
    )

    ((_, attempts),) = running.journal.open_tasks()
    assert attempts == [first, second, Attempt(3, "")]


async def test_notes_stay_with_their_task(running):
    await running.write(Accepted(a_task()), Noted("t1", 5, "late"), Noted("t1", 5, "late"))

    assert running.journal.get("t1").notes == (Noted("t1", 5, "late"),)


async def test_listing_and_pruning(running):
    for i in range(6):
        await running.write(Accepted(a_task(f"t{i}")))
        if i != 3:
            await running.write(
                Closed(f"t{i}", Outcome("done" if i % 2 else "failed", settled_at_ms=KNOWN_MS + i))
            )
    journal = running.journal
    assert [(line.id, line.state) for line in journal.list(3)] == [
        ("t5", "done"),
        ("t4", "failed"),
        ("t3", "open"),
    ]
    assert [line.id for line in journal.list(state="open")] == ["t3"]
    assert [line.id for line in journal.list(state="done")] == ["t5", "t1"]

    assert journal.prune(count_max=10, bytes_max=10**9, before_ms=KNOWN_MS + 2) == 2
    assert journal.prune(count_max=1, bytes_max=10**9, before_ms=0) == 2

    assert [line.id for line in journal.list()] == ["t5", "t3"], "open tasks are never touched"
    assert journal.prune(count_max=10, bytes_max=1, before_ms=0) == 1


async def test_results_of_a_clock_that_did_not_know_the_time_are_not_old(running):
    """A board without an RTC says 1970 until it hears the time; its first results must outlive that."""
    await running.write(Accepted(a_task("t")), Closed("t", Outcome("done", settled_at_ms=12_000)))

    assert running.journal.prune(count_max=10, bytes_max=10**9, before_ms=KNOWN_MS + 86_400_000) == 0
    assert running.journal.prune(count_max=0, bytes_max=10**9, before_ms=0) == 1


async def test_pruning_gives_the_space_back(tmp_path):
    running = Running(Journal(tmp_path / "j.db", MESH, "pi-1"))
    for i in range(20):
        await running.write(Accepted(a_task(f"t{i}", input=b"x" * 100_000)), Closed(f"t{i}", Outcome("done")))

    assert running.journal.prune(count_max=1, bytes_max=10**9, before_ms=0) == 19

    running.journal.close()
    assert (tmp_path / "j.db").stat().st_size < 400_000


async def test_a_full_memory_journal_says_so():
    running = Running(MemoryJournal())
    await running.write(Accepted(a_task()))
    running.journal.full = True
    await running.write(Accepted(a_task("t2")))

    assert running.failed == [([2], "the journal is full")]
    assert running.journal.get("t2") is None


async def test_a_full_disk_fails_the_append_and_recovers(tmp_path):
    journal = Journal(tmp_path / "j.db", MESH, "pi-1")
    running = Running(journal)
    await running.write(Accepted(a_task("t1")))
    pages = journal._store._writer.execute("PRAGMA page_count").fetchone()[0]
    journal._store._writer.execute(f"PRAGMA max_page_count = {pages}")
    await running.write(Accepted(a_task("t2", input=b"x" * 100_000)), Closed("t2", Outcome("done")))

    assert running.failed and "full" in running.failed[0][1]
    journal._store._writer.execute("PRAGMA max_page_count = 1000000")
    await running.write(Closed("t2", Outcome("failed")), Accepted(a_task("t2")))
    assert journal.get("t2").outcome is None, "what followed a lost accept is not kept"
    journal.close()


async def test_it_is_all_there_after_reopening(tmp_path):
    running = Running(Journal(tmp_path / "j.db", MESH, "pi-1"))
    await running.write(Accepted(a_task(input=b"x" * 3_000_000)), Accepted(a_task("t2")))
    running.journal.append(99, (Closed("t2", Outcome("done", b"o")),))
    running.journal.close()

    again = Journal(tmp_path / "j.db", MESH, "pi-1")

    assert [(task.id, len(task.input)) for task, _ in again.open_tasks()] == [("t1", 3_000_000)]
    assert again.get("t2").outcome.output == b"o", "close writes what was appended"
    assert again.verify() == []
    assert (tmp_path / "j.db").stat().st_mode & 0o777 == 0o600
    again.close()


def test_a_file_of_another_mesh_node_or_version_is_refused(tmp_path):
    path = tmp_path / "j.db"
    Journal(path, MESH, "pi-1").close()

    with pytest.raises(BadInput, match=r"belongs to mesh 0123456789abcdef.*--home"):
        Journal(path, "f" * 16, "pi-1")
    with pytest.raises(BadInput, match="belongs to node pi-1, not to pi-2"):
        Journal(path, MESH, "pi-2")
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(BadInput, match=r"schema version 99.*upgrade"):
        Journal(path, MESH, "pi-1")


def test_another_kind_of_database_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "j.db") as database:
        database.execute("CREATE TABLE music(title)")

    with pytest.raises(BadInput, match="not a journal"):
        Journal(tmp_path / "j.db", MESH, "pi-1")


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(Unavailable, match="cannot open"):
        Journal(tmp_path / "no" / "j.db", MESH, "pi-1")


def test_what_is_no_database_is_set_aside_with_every_byte(tmp_path):
    path = tmp_path / "j.db"
    path.write_bytes(b"\x13" * 10_000)

    with pytest.raises(StoreDamaged, match="damaged"):
        Journal(path, MESH, "pi-1")

    journal = open_journal(path, MESH, "pi-1", now_ms=0)

    assert (tmp_path / "j.db.damaged-1").read_bytes() == b"\x13" * 10_000
    assert journal.damaged[0].startswith("set aside as j.db.damaged-1, 0 rows saved")
    assert journal.losses[0].unnamed
    assert journal.open_tasks() == []
    journal.close()
    again = open_journal(path, MESH, "pi-1", now_ms=journal.losses[0].at_ms)
    assert again.damaged == journal.damaged, "told by every start of the day after"
    again.close()


async def test_a_flipped_bit_in_a_row_is_named_and_nothing_is_invented(tmp_path):
    path = tmp_path / "j.db"
    running = Running(Journal(path, MESH, "pi-1"))
    await running.write(*(Accepted(a_task(f"t{i}", input=bytes([i]) * 50)) for i in range(3)))
    await running.write(Closed("t2", Outcome("done")))
    running.journal.close()
    with sqlite3.connect(path) as database:
        for name, kind in (("t1", 0), ("t2", 1)):
            (body,) = database.execute(
                "SELECT body FROM records WHERE id = ? AND kind = ?", (name, kind)
            ).fetchone()
            flipped = body[:-1] + bytes([body[-1] ^ 1])
            database.execute("UPDATE records SET body = ? WHERE id = ? AND kind = ?", (flipped, name, kind))

    again = Journal(path, MESH, "pi-1")

    assert [task.id for task, _ in again.open_tasks()] == ["t0"]
    assert again.get("t2").outcome.cause == "the record of how it ended is damaged"
    assert again.damaged == ["t1/0: checksum", "t2/1: checksum"]
    assert again.verify() == ["t1/0: checksum", "t2/1: checksum"]
    again.close()


async def test_a_commit_takes_everything_that_has_gathered(tmp_path, monkeypatch):
    """Group commit: a thousand appends must not be a thousand fsyncs."""
    statements = []
    real = ledger_module.insert_statement
    monkeypatch.setattr(ledger_module, "insert_statement", lambda rows: statements.append(rows) or real(rows))
    running = Running(Journal(tmp_path / "j.db", MESH, "pi-1"))

    await running.write(*(Accepted(a_task(f"t{i}")) for i in range(1000)))

    assert len(running.journal.ids("t", 2000)) == 1000
    assert len(statements) < 100
    assert max(statements) <= ROWS_MAX
    running.journal.close()


async def test_a_record_without_bytes_fails_its_commit_and_not_the_thread(tmp_path):
    """A journal whose thread has ended would leave every later accept waiting for ever."""
    told = []
    journal = Journal(tmp_path / "ledger.db", "0" * 16, "pi-1")
    journal.start(
        asyncio.get_running_loop().call_soon_threadsafe,
        lambda serials: told.append(("kept", serials)),
        lambda serials, reason: told.append(("failed", serials)),
    )
    journal.append(1, (Closed("t", Outcome(status=object())),))
    async with asyncio.timeout(10):
        while not told:
            await asyncio.sleep(0)
    journal.append(2, (Noted("t", 1, "still here"),))
    async with asyncio.timeout(10):
        while len(told) < 2:
            await asyncio.sleep(0)
    journal.close()

    assert told == [("failed", [1]), ("kept", [2])]


async def test_a_writer_that_cannot_be_opened_anew_fails_its_commits_and_not_the_thread(tmp_path):
    """After an I/O error the connection is made anew; while the medium is away that fails again and again."""
    journal = Journal(tmp_path / "ledger.db", MESH, "pi-1")
    running = Running(journal)
    await running.write(Accepted(a_task("t1")))
    store = journal._store
    opened, store._reopen = store._opened, True

    def away():
        raise sqlite3.OperationalError("disk I/O error")

    store._opened = away
    await running.write(Accepted(a_task("t2")), Accepted(a_task("t3")))
    assert [serials for serials, _ in running.failed] in ([[2], [3]], [[2, 3]])
    store._opened = opened
    await running.write(Accepted(a_task("t4")))
    journal.close()

    assert running.persisted == [1, 4]
    again = Journal(tmp_path / "ledger.db", MESH, "pi-1")
    assert [task.id for task, _ in again.open_tasks()] == ["t1", "t4"]
    again.close()


async def test_a_mistake_of_ours_in_the_store_fails_its_commit_and_not_the_thread(tmp_path):
    journal = Journal(tmp_path / "ledger.db", MESH, "pi-1")
    running = Running(journal)
    insert = journal._store.insert
    journal._store.insert = lambda rows: {}[len(rows)]
    await running.write(Accepted(a_task("t1")))
    journal._store.insert = insert
    await running.write(Accepted(a_task("t2")))
    journal.close()

    assert (running.persisted, running.failed) == ([2], [([1], "KeyError: 1")])
