"""The checker finds what it is for: ledgers written by the real store, then doctored."""

from __future__ import annotations

import json
import sqlite3

import pytest

from edge_node.functions import values
from edge_node.store.ledger import SqliteLedger
from edge_node.tasks.rows import row_of
from edge_node.tasks.task import Accepted, Attempt, Closed, Fenced, Noted, Outcome, Task
from tests.faults.checker import judge

DIGEST = b"d" * 32


def task(name: str, number: int) -> Task:
    return Task(name, "load.work", DIGEST, values.encode_call((number, 0.1), {}), DIGEST, "pi-1")


def done(number: int, *attempts: Attempt) -> Outcome:
    return Outcome(
        "done", output=values.encode(number), attempts=attempts or (Attempt(1, "pi-1", ended_as="done"),)
    )


class Left:
    """A ledger and a driver's notes."""

    def __init__(self, path):
        self.path = path / "ledger.db"
        self.notes = path / "notes.jsonl"
        self.said: list[dict] = []

    def keep(self, *records):
        store = SqliteLedger(self.path, "mesh", "pi-1")
        store.insert([row_of(record) for record in records])
        store.close()

    def doctor(self, statement, *values):
        connection = sqlite3.connect(self.path)
        with connection:
            connection.execute(statement, values)
        connection.close()

    def say(self, **note):
        self.said.append(note)

    def plain(self, name, number):
        """Asked, accepted, done, told."""
        self.keep(Accepted(task(name, number)), Closed(name, done(number)))
        self.say(asked=number, at="pi-1")
        self.say(accepted=number, id=name)
        self.say(told=name, status="done", value=number)

    def violations(self):
        self.notes.write_text("".join(json.dumps(note) + "\n" for note in self.said))
        return judge({"pi-1": self.path}, [self.notes]).violations


@pytest.fixture
def left(tmp_path):
    left = Left(tmp_path)
    left.plain("t1", 1)
    left.plain("t2", 2)
    return left


def test_a_run_in_order_has_no_violation(left):
    left.say(again="t1", status="done", value=1)
    left.say(asked=3, at="pi-1")  # refused, or its answer lost

    assert left.violations() == []


def test_a_missing_terminal_record_is_found(left):
    left.keep(Accepted(task("t3", 3)))
    left.say(asked=3, at="pi-1")
    left.say(accepted=3, id="t3")

    assert left.violations() == ["P1: task t3 (asked as 3) has no terminal record at pi-1"]


def test_an_acknowledged_task_that_no_ledger_knows_is_found(left):
    left.say(asked=3, at="pi-1")
    left.say(accepted=3, id="t3")

    assert left.violations() == ["P3: task t3 (asked as 3) was acknowledged and is in no ledger"]


def test_two_terminal_records_are_found(left):
    left.doctor("DROP INDEX records_by_id")
    left.doctor(
        "INSERT INTO records SELECT NULL, id, kind, at_ms, state, body, crc FROM records "
        "WHERE id = 't1' AND kind = 1"
    )

    assert left.violations() == ["P1: task t1 has 2 terminal records"]


def test_an_invented_task_is_found(left):
    left.keep(Accepted(task("t9", 9)), Closed("t9", done(9)))

    assert left.violations() == ["P1: task t9 at pi-1 was never asked for (number 9)"]


def test_one_question_that_became_two_tasks_is_found(left):
    left.keep(Accepted(task("t9", 1)), Closed("t9", done(1)))

    assert left.violations() == ["P1: number 1 became two tasks, t1 and t9"]


def test_an_end_without_an_accept_is_found(left):
    left.doctor("DELETE FROM records WHERE id = 't1' AND kind = 0")

    assert left.violations()[0] == "P3: task t1 (asked as 1) was acknowledged and is in no ledger"
    assert "P1: task t1 at pi-1 ended without an accept" in left.violations()


def test_a_result_that_was_told_twice_is_found(left):
    left.say(told="t1", status="done", value=1)

    assert left.violations() == ["P2: the end of task t1 was told twice"]


def test_a_result_that_was_told_differently_is_found(left):
    left.say(again="t1", status="failed", value=None)

    assert left.violations() == ["P2: task t1 was told as done 1, then as failed None"]


def test_a_told_result_that_is_on_no_disk_is_found(left):
    left.doctor("DELETE FROM records WHERE id = 't1' AND kind = 1")

    assert "P3: the end of task t1 was told and is on no disk" in left.violations()


def test_the_value_of_another_task_is_found(left):
    left.keep(Accepted(task("t3", 3)), Closed("t3", done(3)))
    left.say(asked=3, at="pi-1")
    left.say(accepted=3, id="t3")
    left.say(told="t3", status="done", value=2)

    assert left.violations() == ["P2: task t3 was told with the value 2 of another"]


def test_a_second_attempt_needs_a_reason(left):
    left.keep(Accepted(task("t3", 3)), Fenced("t3", (Attempt(2, "pi-2"),)))
    left.keep(Closed("t3", done(3, Attempt(2, "pi-2", ended_as="done"))))
    left.keep(Accepted(task("t4", 4)), Noted("t4", 5, "attempt 1 on pi-2: lease lapsed"))
    left.keep(Closed("t4", done(4, Attempt(2, "pi-2", ended_as="done"))))
    for number in (3, 4):
        left.say(asked=number, at="pi-1")

    assert left.violations() == ["P8: task t3 had 2 attempts, and no row says why"]


def test_a_ledger_that_cannot_be_read_is_found(left):
    left.path.write_bytes(b"no database" * 1000)

    assert left.violations()[0].startswith("P6: the ledger of pi-1 cannot be read")
