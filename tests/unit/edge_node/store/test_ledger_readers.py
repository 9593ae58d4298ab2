"""What a ledger wrote is what is read, by many threads and whatever the size of a commit."""

from __future__ import annotations

import threading
from itertools import chain

from edge_node.store import ledger as ledger_module
from edge_node.store.ledger import SIZES, SqliteLedger
from edge_node.tasks.rows import ROWS_MAX, Reading, row_of
from edge_node.tasks.task import Accepted, Closed, Outcome, Task


def rows(name, output):
    task = Task(name, "toys.add", b"d" * 32, b"x", b"s" * 32, "pi-1")
    return [row_of(Accepted(task)), row_of(Closed(name, Outcome("done", output=output)))]


def test_a_reader_sees_what_was_committed_while_others_read(tmp_path):
    """A read that is under way must not lend its older view of the file to those beside it."""
    ledger = SqliteLedger(tmp_path / "ledger.db", "mesh", "pi-1")
    ledger.insert(rows("large", bytes(1_000_000)))
    reading, stop = Reading(ledger), threading.Event()

    def read():
        while not stop.is_set():
            reading.get("large")

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    unseen = []
    for name in map(str, range(40)):
        ledger.insert(rows(name, b""))
        if reading.get(name) is None:
            unseen.append(name)
    stop.set()
    for reader in readers:
        reader.join()
    ledger.close()

    assert unseen == [] and reading.damaged == []


def test_commits_of_every_size_are_kept_exactly_and_share_a_few_statements(tmp_path, monkeypatch):
    """SQLite keeps what it has prepared: one statement a size had grown busy nodes by 14 MB."""
    sizes = set()
    real = ledger_module.insert_statement
    monkeypatch.setattr(ledger_module, "insert_statement", lambda size: sizes.add(size) or real(size))
    ledger = SqliteLedger(tmp_path / "ledger.db", "mesh", "pi-1")
    commits = [
        list(chain.from_iterable(rows(f"t{size:03}-{each:03}", bytes(each % 7)) for each in range(size)))
        for size in (*range(1, 20), 40, 100, ROWS_MAX // 2, ROWS_MAX)
    ]

    for commit in commits:
        ledger.insert(commit)

    assert list(ledger.every()) == list(chain.from_iterable(commits))
    assert sizes - {2 * ROWS_MAX} <= set(SIZES) and SIZES[-1] == ROWS_MAX
    ledger.close()
