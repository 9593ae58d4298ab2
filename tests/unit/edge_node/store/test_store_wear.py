"""Bytes written: measured, and told by the hour only once there is something to tell."""

from __future__ import annotations

from edge_node.clock import ManualClock
from edge_node.store.ledger import WAL_FRAME_BYTES, SqliteLedger
from edge_node.store.wear import Wear, written_by_process
from edge_node.tasks.rows import row_of
from edge_node.tasks.task import Accepted, Task

SECOND = 1_000_000_000


def test_an_hourly_figure_comes_after_a_minute():
    clock, process, ledger, tables = ManualClock(), [1000], [500], [70]
    wear = Wear(clock, lambda: ledger[0], tables=lambda: tables[0], process=lambda: process[0])
    process[0], ledger[0], tables[0] = 7000, 2500, 270
    clock.advance(59 * SECOND)

    assert wear.figures() == {
        "measured_s": 59.0, "process_bytes": 6000, "process_bytes_per_hour": None,
        "ledger_log_bytes": 2000, "ledger_log_bytes_per_hour": None,
        "tables_log_bytes": 200, "tables_log_bytes_per_hour": None,
    }  # fmt: skip

    clock.advance(SECOND)
    assert wear.figures()["process_bytes_per_hour"] == 360_000
    assert wear.figures()["ledger_log_bytes_per_hour"] == 120_000
    assert wear.figures()["tables_log_bytes_per_hour"] == 12_000


def test_a_system_that_does_not_say_is_not_guessed_at(tmp_path):
    assert written_by_process(tmp_path / "none") is None
    (tmp_path / "io").write_text("rchar: 5\nwrite_bytes: 4096\ncancelled_write_bytes: 0\n")
    assert written_by_process(tmp_path / "io") == 4096

    wear = Wear(ManualClock(), lambda: 0, process=lambda: None)

    assert wear.figures()["process_bytes"] is None


def test_the_ledger_counts_the_pages_of_its_log(tmp_path):
    store = SqliteLedger(tmp_path / "l.db", "m", "n")
    for number in range(1100):  # past a checkpoint, where the log begins anew
        store.insert([row_of(Accepted(Task(f"t{number:05}", "f", b"d" * 32, b"", b"s" * 32, "n")))])

    assert 2 * 1100 * WAL_FRAME_BYTES <= store.log_bytes <= 8 * 1100 * WAL_FRAME_BYTES
    store.close()
