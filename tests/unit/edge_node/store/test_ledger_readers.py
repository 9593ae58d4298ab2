"""Many threads read one ledger: each sees what was committed before it asked."""

from __future__ import annotations

import threading

from edge_node.store.ledger import SqliteLedger
from edge_node.tasks.rows import Reading, row_of
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
