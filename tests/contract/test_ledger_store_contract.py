"""One contract for what lies under a ledger: SQLite on a real disk, and the log on a modelled one."""

from __future__ import annotations

import queue
import random
import shutil
import sqlite3

import pytest

from device_sim.virtual.disk import Disk
from device_sim.virtual.ledger_journal import VirtualJournal
from device_sim.virtual.ledger_log import LOG, LedgerLog
from device_sim.virtual.world import SECOND, World
from edge_node.store.ledger import SqliteLedger
from edge_node.tasks.journal import Journal
from edge_node.tasks.rows import SMALL_BYTES, Row, Settled, crc_of, row_of
from edge_node.tasks.task import KNOWN_MS, Accepted, Attempt, Closed, Fenced, Noted, Outcome, Task
from security.errors import BadInput, Unavailable

MESH, NODE = "0123456789abcdef", "pi-1"


def a_task(name="t1", **fields):
    return Task(name, "f.noop", b"d" * 32, fields.pop("input", b"in"), b"s" * 32, NODE, **fields)


def a_row(name, kind=0, body=b"body", *, at_ms=5, state=""):
    return Row(name, kind, at_ms, state, body, crc_of(name, kind, body))


class OnSqlite:
    """The real file. A kill is what another process finds: the file and its WAL as the kernel has them."""

    def __init__(self, directory):
        self.path = directory / "ledger.db"
        self.lives = 0
        self.held = []

    def store(self, mesh=MESH, node=NODE):
        self.held.append(SqliteLedger(self.path, mesh, node))
        return self.held[-1]

    def journal(self):
        self.said = queue.SimpleQueue()
        journal = Journal(self.path, MESH, NODE)
        self.held.append(journal)
        return journal

    def post(self, callback, *args):
        self.said.put((callback, args))

    def hear(self):
        callback, args = self.said.get(timeout=20)
        callback(*args)

    def kill(self, _opened):
        self.lives += 1
        found = self.path.with_name(f"life{self.lives}.db")
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{self.path}{suffix}", f"{found}{suffix}")
        self.path = found

    def fill(self, opened):
        writer = (opened if isinstance(opened, SqliteLedger) else opened._store)._writer
        writer.execute(f"PRAGMA max_page_count = {writer.execute('PRAGMA page_count').fetchone()[0]}")

    def free(self, opened):
        writer = (opened if isinstance(opened, SqliteLedger) else opened._store)._writer
        writer.execute("PRAGMA max_page_count = 1000000")

    def damage(self, task_id, kind):
        with sqlite3.connect(self.path) as database:
            where = "WHERE id = ? AND kind = ?"
            (body,) = database.execute(f"SELECT body FROM records {where}", (task_id, kind)).fetchone()
            body = body[:-1] + bytes([body[-1] ^ 1])
            database.execute(f"UPDATE records SET body = ? {where}", (body, task_id, kind))
        database.close()

    def used_bytes(self):
        return self.path.stat().st_size

    def end(self):
        for each in self.held:
            each.close()


class OnModel:
    def __init__(self, _directory):
        self.world = World(7)
        self.disk = Disk(self.world.rng(NODE, "disk"))
        self.held = []

    def store(self, mesh=MESH, node=NODE):
        return LedgerLog(self.disk, mesh, node)

    def journal(self):
        return VirtualJournal(self.world, self.disk, MESH, NODE)

    def post(self, callback, *args):
        self.world.soon(callback, *args)

    def hear(self):
        assert self.world.step(), "nobody will say anything any more"

    def kill(self, opened):
        if isinstance(opened, VirtualJournal):
            opened.kill()

    def fill(self, _opened):
        self.disk.capacity_bytes = self.disk.used_bytes + 1000

    def free(self, _opened):
        self.disk.capacity_bytes = 1 << 40

    def damage(self, task_id, kind):
        rows = LedgerLog(self.disk, MESH, NODE)
        (place,) = [each for each in rows._places_of(task_id) if each.kind == kind]
        self.disk.flip(LOG, (place.end - 1) * 8)

    def used_bytes(self):
        return self.disk.used_bytes

    def end(self):
        pass


@pytest.fixture(params=[OnSqlite, OnModel], ids=["sqlite", "model"])
def medium(request, tmp_path):
    made = request.param(tmp_path)
    yield made
    made.end()


class Running:
    """A started journal and what it said."""

    def __init__(self, medium, journal):
        self.medium, self.journal = medium, journal
        self.persisted, self.failed = [], []
        self.serial = 0
        journal.start(
            medium.post, self.persisted.extend, lambda serials, why: self.failed.append((serials, why))
        )

    def write(self, *records):
        """Append each on its own, wait until all are answered."""
        for record in records:
            self.serial += 1
            self.journal.append(self.serial, (record,))
        while len(self.persisted) + sum(len(serials) for serials, _ in self.failed) < self.serial:
            self.medium.hear()


# ── the store ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_batch_is_read_back_by_task_and_in_order(medium):
    store = medium.store()
    rows = [
        a_row("t1", 0, b"a" * 5000, at_ms=7),
        a_row("t2"),
        a_row("t1", 101, b"", at_ms=0),
        a_row("t1", -5, "ä".encode()),
    ]

    store.insert(rows)

    assert list(store.rows_of("t1")) == [
        (r.kind, r.at_ms, r.body, r.crc) for r in (rows[3], rows[0], rows[2])
    ]
    assert list(store.rows_of("t3")) == []
    assert list(store.every()) == rows
    assert store.gaps() == []


def test_the_first_row_of_a_kind_stands(medium):
    store = medium.store()
    store.insert([a_row("t1", 0, b"first"), a_row("t1", 0, b"second"), a_row("t2", 0, b"other")])
    store.insert([a_row("t1", 0, b"third"), a_row("t1", 1, b"end", state="done")])
    store.insert([a_row("t1", 1, b"another end", state="failed")])

    assert [row.body for row in store.every()] == [b"first", b"other", b"end"]


def test_open_ids_come_in_the_order_of_acceptance(medium):
    store = medium.store()
    names = [f"t{n * 7 % 50}" for n in range(50)]
    for first in range(0, 50, 9):
        store.insert([a_row(name) for name in names[first : first + 9]])
    store.insert([a_row(name, 1, state="done") for name in names[::3]])

    assert list(store.open_ids()) == [name for n, name in enumerate(names) if n % 3]


def test_the_newest_are_listed_by_state(medium):
    store = medium.store()
    for n in range(6):
        store.insert([a_row(f"t{n}")])
        if n != 3:
            store.insert([a_row(f"t{n}", 1, state="done" if n % 2 else "failed")])

    assert list(store.newest(3, "")) == ["t5", "t4", "t3"]
    assert list(store.newest(9, "open")) == ["t3"]
    assert list(store.newest(9, "done")) == ["t5", "t1"]
    assert list(store.newest(9, "expired")) == []


def test_pages_go_down_by_id_and_filters_look_at_a_window(medium):
    store = medium.store()
    for n in (3, 0, 5, 1, 4, 2):
        store.insert([a_row(f"t{n}", 0, b"even" if n % 2 == 0 else b"odd")])
        if n != 3:
            store.insert([a_row(f"t{n}", 1, state="done" if n % 2 else "failed")])

    assert store.below("", limit=4, window=9) == (["t5", "t4", "t3", "t2"], "t2")
    assert store.below("t2", limit=4, window=9) == (["t1", "t0"], "")
    assert store.below("t5", limit=9, window=9, least="t2") == (["t4", "t3", "t2"], "")
    assert store.below("", limit=9, window=9, state="open") == (["t3"], "")
    assert store.below("", limit=9, window=3, state="done") == (["t5"], "t3"), "the window ended there"
    assert store.below("t3", limit=9, window=3, state="done") == (["t1"], "t0")
    assert store.below("t0", limit=9, window=3, state="done") == ([], "")
    assert store.below("", limit=2, window=9, mention=b"even") == (["t4", "t2"], "t2")
    assert store.below("", limit=9, window=9, state="failed", mention=b"odd") == ([], "")


def test_pages_leave_out_what_did_not_end_as_asked(medium):
    store = medium.store()
    for n in range(6):
        store.insert([a_row(f"t{n}")])
    for n, body in enumerate((b"..a..", b"..b..", b"..c..", bytes(SMALL_BYTES + 1))):
        store.insert([a_row(f"t{n}", 1, body, state="done")])
    store.insert([a_row("t4", 1, b"..a..", state="failed")])

    assert store.below("", limit=9, window=9, ends=[b"a"]) == (["t5", "t4", "t3", "t0"], "")
    assert store.below("", limit=9, window=9, ends=[b"b", b"c"]) == (["t5", "t3", "t2", "t1"], "")
    assert store.below("", limit=9, window=9, state="done", ends=[b"a"]) == (["t3", "t0"], "")
    assert store.below("", limit=9, window=9, state="open", ends=[b"a"]) == (["t5"], "")
    assert store.below("", limit=9, window=4, ends=[b"b"]) == (["t5", "t3"], "t2")
    assert store.below("t2", limit=9, window=4, ends=[b"b"]) == (["t1"], "")


def test_beginnings_and_ends_are_read_together_but_for_large_ones(medium):
    store = medium.store()
    large = bytes(SMALL_BYTES + 1)
    rows = [
        a_row("t1", 0, b"begin"), a_row("t1", 1, b"end", state="done"), a_row("t1", 101, b"attempts"),
        a_row("t2", 0, large), a_row("t3", 0, bytes(SMALL_BYTES)), a_row("t4", 0, b"not asked for"),
    ]  # fmt: skip
    store.insert(rows)

    found = sorted(store.ends_of(["t3", "t1", "t2", "t9"]))

    assert [(name, kind, body) for name, kind, body, _ in found] == [
        ("t1", 0, b"begin"), ("t1", 1, b"end"), ("t2", 0, None), ("t3", 0, bytes(SMALL_BYTES)),
    ]  # fmt: skip
    assert [crc for *_, crc in found] == [row.crc for row in (rows[0], rows[1], rows[3], rows[4])]


def test_settled_tasks_tell_their_sizes_and_can_be_deleted(medium):
    store = medium.store()
    for n in range(30):
        store.insert([a_row(f"t{n}", 0, bytes(100_000)), a_row(f"t{n}", 101, b"xyz")])
    for n in reversed(range(29)):
        store.insert([a_row(f"t{n}", 1, b"end", at_ms=n, state="done")])
    assert list(store.settled())[:2] == [Settled("t0", 0, 100_006), Settled("t1", 1, 100_006)]

    store.delete([f"t{n}" for n in range(28)])
    store.insert([a_row("later")])

    assert list(store.settled()) == [Settled("t28", 28, 100_006)]
    assert list(store.open_ids()) == ["t29", "later"]
    assert list(store.rows_of("t5")) == []
    store.close()
    assert medium.used_bytes() < 400_000
    assert list(medium.store().open_ids()) == ["t29", "later"]


def test_a_deleted_task_can_be_accepted_again(medium):
    store = medium.store()
    store.insert([a_row("t1"), a_row("t1", 1, state="done")])
    store.delete(["t1"])
    store.insert([a_row("t1", 0, b"again")])

    assert list(store.open_ids()) == ["t1"]
    assert [body for _, _, body, _ in store.rows_of("t1")] == [b"again"]


def test_another_mesh_or_node_is_refused(medium):
    medium.store().close()

    with pytest.raises(BadInput, match=f"belongs to mesh {MESH}, not to ffff"):
        medium.store(mesh="ffff")
    with pytest.raises(BadInput, match="belongs to node pi-1, not to pi-2"):
        medium.store(node="pi-2")


def test_what_does_not_fit_is_refused_whole(medium):
    store = medium.store()
    store.insert([a_row("t1")])
    medium.fill(store)

    with pytest.raises(Unavailable):
        store.insert([a_row("t2"), a_row("t3", 0, bytes(100_000)), a_row("t4")])

    assert list(store.open_ids()) == ["t1"]
    assert [row.id for row in store.every()] == ["t1"]
    medium.free(store)
    store.insert([a_row("t3")])
    store.close()
    assert list(medium.store().open_ids()) == ["t1", "t3"]


# ── the journal over it ───────────────────────────────────────────────────────────────────────────────


def test_everything_is_answered_in_the_order_of_the_appends(medium):
    running = Running(medium, medium.journal())

    running.write(*(Accepted(a_task(f"t{n}")) for n in range(1500)))

    assert running.persisted == list(range(1, 1501))
    assert [task.id for task, _ in running.journal.open_tasks()] == [f"t{n}" for n in range(1500)]


def test_a_journal_tells_its_tasks_page_by_page(medium):
    running = Running(medium, medium.journal())
    names = [f"t{n:03}" for n in range(60)]
    running.write(*(Accepted(a_task(name)) for name in names))
    running.write(*(Closed(f"t{n:03}", Outcome("done", place=("local", "pi-2")[n % 2])) for n in range(40)))

    def walked(**filters):
        found, after = [], ""
        while True:
            page = running.journal.page(after, limit=7, **filters)
            found += [each.id for each in page.found]
            if not page.after:
                return found
            after = page.after

    assert walked() == names[::-1]
    assert walked(state="open") == names[:39:-1]
    assert walked(state="done", node="pi-2") == names[39::-2]
    assert walked(state="done", node="pi-1") == names[38::-2], "local is the node itself"
    assert walked(function="f.noop", least="t050") == names[:49:-1]
    assert walked(function="f.other") == []
    for node in ("pi-1", "pi-2", "pi-3"):
        assert walked(node=node, owner=NODE) == walked(node=node), "who the owner is saves reading only"


def test_pages_tell_large_and_damaged_tasks_as_any(medium):
    running = Running(medium, medium.journal())
    large = bytes(SMALL_BYTES)
    running.write(Accepted(a_task("t1", input=large)), Accepted(a_task("t2")), Accepted(a_task("t3")))
    running.write(
        Closed("t1", Outcome("done", place="pi-2")), Closed("t2", Outcome("done", large, place="pi-2"))
    )
    running.write(Closed("t3", Outcome("done", place="pi-2")), Accepted(a_task("t4")), Accepted(a_task("t5")))

    whole = running.journal.page(node="pi-2")
    medium.damage("t3", 1)
    medium.damage("t4", 0)
    after = running.journal.page()

    assert [each.id for each in whole.found] == ["t5", "t4", "t3", "t2", "t1"], "open ones may come there yet"
    assert [(each.id, each.state) for each in after.found] == [
        ("t5", "open"), ("t3", "failed"), ("t2", "done"), ("t1", "done"),
    ]  # fmt: skip
    assert len(running.journal.damaged) == 2


def test_it_is_all_there_after_a_close(medium):
    running = Running(medium, medium.journal())
    running.write(Accepted(a_task(input=bytes(3_000_000))), Accepted(a_task("t2")))
    running.journal.append(99, (Fenced("t1", (Attempt(1, "gateway"),)), Closed("t2", Outcome("done", b"o"))))
    running.journal.close()

    again = medium.journal()

    ((task, attempts),) = again.open_tasks()
    assert (task.id, len(task.input), attempts) == ("t1", 3_000_000, [Attempt(1, "gateway")])
    assert again.get("t2").outcome.output == b"o", "close writes what was appended"
    assert again.verify() == []


def test_what_was_told_survives_a_killed_process(medium):
    running = Running(medium, medium.journal())
    running.write(*(Accepted(a_task(f"t{n}")) for n in range(300)))
    running.write(*(Closed(f"t{n}", Outcome("done", b"%d" % n)) for n in range(0, 300, 2)))

    medium.kill(running.journal)
    again = medium.journal()

    assert [task.id for task, _ in again.open_tasks()] == [f"t{n}" for n in range(1, 300, 2)]
    assert again.get("t42").outcome.output == b"42"
    assert (again.damaged, again.verify()) == ([], [])


def test_a_lost_accept_takes_what_follows_it_along(medium):
    running = Running(medium, medium.journal())
    running.write(Accepted(a_task("t1")))
    medium.fill(running.journal)
    running.write(Accepted(a_task("t2", input=bytes(100_000))))
    ((lost, why),) = running.failed
    assert lost == [2] and why

    medium.free(running.journal)
    running.write(Closed("t2", Outcome("failed")), Noted("t2", 1, "late"), Noted("t1", 1, "fine"))
    assert running.journal.get("t2") is None
    running.write(Accepted(a_task("t2")))

    stored = running.journal.get("t2")
    assert (stored.outcome, stored.notes) == (None, ()), "what followed the lost accept was not kept"
    assert running.journal.get("t1").notes == (Noted("t1", 1, "fine"),)


def test_a_damaged_row_is_named_and_nothing_is_invented(medium):
    running = Running(medium, medium.journal())
    running.write(*(Accepted(a_task(f"t{n}", input=bytes([n]) * 50)) for n in range(3)))
    running.write(Closed("t2", Outcome("done")))
    running.journal.close()
    medium.damage("t1", 0)
    medium.damage("t2", 1)

    again = medium.journal()

    assert [task.id for task, _ in again.open_tasks()] == ["t0"]
    assert again.get("t2").outcome.cause == "the record of how it ended is damaged"
    assert again.damaged == ["t1/0: checksum", "t2/1: checksum"]
    assert again.verify() == ["t1/0: checksum", "t2/1: checksum"]


def test_pruning_keeps_the_newest_and_all_that_is_open(medium):
    running = Running(medium, medium.journal())
    for n in range(6):
        running.write(Accepted(a_task(f"t{n}")))
        if n != 3:
            running.write(Closed(f"t{n}", Outcome("done", settled_at_ms=KNOWN_MS + n)))
    journal = running.journal

    assert journal.prune(count_max=10, bytes_max=10**9, before_ms=KNOWN_MS + 2) == 2
    assert journal.prune(count_max=1, bytes_max=10**9, before_ms=0) == 2
    assert [(line.id, line.state) for line in journal.list()] == [("t5", "done"), ("t3", "open")]
    assert journal.prune(count_max=10, bytes_max=1, before_ms=0) == 1
    assert journal.prune(count_max=10, bytes_max=1, before_ms=0) == 0


def test_totals_tell_what_pruning_would_find(medium):
    running = Running(medium, medium.journal())
    store = running.journal._store
    assert store.totals() == (0, 0, 0)
    for n, at_ms in enumerate((KNOWN_MS + 9, 5, KNOWN_MS + 7)):  # one by a clock that was not set
        running.write(Accepted(a_task(f"t{n}")))
        assert (store.totals().settled, store.totals().oldest_ms) == (n, KNOWN_MS + 9 if n else 0)
        running.write(Closed(f"t{n}", Outcome("done", settled_at_ms=at_ms)))
    totals = store.totals()
    assert (totals.settled, totals.oldest_ms) == (3, KNOWN_MS + 7)
    assert totals.bytes >= sum(each.bytes for each in store.settled()) > 0

    everything = {"count_max": 3, "bytes_max": totals.bytes, "before_ms": KNOWN_MS + 7}
    assert running.journal.prune(**everything) == 0
    assert running.journal.prune(**everything | {"before_ms": KNOWN_MS + 8}) == 1
    assert running.journal.prune(**everything | {"count_max": 1}) == 1
    assert running.journal.prune(**everything | {"bytes_max": store.totals().bytes - 1}) == 1
    assert store.totals() == (0, 0, 0)


def test_a_record_without_bytes_fails_its_commit_and_no_other(medium):
    running = Running(medium, medium.journal())
    running.write(Closed("t", Outcome(status=object())))
    running.write(Accepted(a_task("t")))

    assert [serials for serials, _ in running.failed] == [[1]]
    assert running.persisted == [2]


# ── the model alone: power cuts ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(40))
def test_what_was_told_survives_a_power_cut(seed):
    medium = OnModel(None)
    running = Running(medium, medium.journal())
    running.write(*(Accepted(a_task(f"t{n}", input=bytes(n * 400))) for n in range(30)))
    for n in range(30):
        running.journal.append(100 + n, (Closed(f"t{n}", Outcome("done")), Noted(f"t{n}", 1, "x" * 5000)))
    medium.world.run_until(medium.world.now_ns)  # begun, and not at its end

    running.journal.kill()
    medium.disk.power_cut(random.Random(seed))
    medium.world.run_until(medium.world.now_ns + 10 * SECOND)
    again = medium.journal()

    assert len(running.persisted) == 30
    found = [again.get(f"t{n}") for n in range(30)]
    assert all(stored is not None for stored in found)
    ends = {stored.outcome is None for stored in found}
    assert len(ends) == 1, "the commit that nobody was told of is whole or absent"
    assert (again.damaged, again.verify()) == ([], [])
    assert {row.task for row in again.rows()} == {f"t{n}" for n in range(30)}
    assert row_of(Accepted(found[0].task)).body == again.rows()[0].body
