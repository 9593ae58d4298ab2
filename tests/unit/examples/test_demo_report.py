"""The demo's account: a promise is kept only if a ledger says the same as the client heard."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from edge_node.functions import values
from edge_node.tasks.journal import Stored
from edge_node.tasks.task import Attempt, Outcome, Task
from examples.demo import report
from examples.demo.driver import DRIVERS, plan, windows

INPUT = b"input"
OUTPUT = values.encode([53, 91])


def stored(task_id: str, *, status: str = "done", place: str = "local", settled: bool = True) -> Stored:
    attempt = Attempt(1, "pi-1", 7, 1_000, 2_000, status)
    task = Task(
        id=task_id, function="room.changes", digest=bytes(32), input=INPUT,
        input_sha256=hashlib.sha256(INPUT).digest(), origin="pi-1", accepted_at_ms=500,
    )  # fmt: skip
    outcome = Outcome(status, OUTPUT, settled_at_ms=2_500, attempts=(attempt,), place=place)
    return Stored(task, outcome if settled else None, (attempt,))


def promise(task_id: str) -> report.Promise:
    return report.Promise(
        task_id, "room", "pi-1", "room.changes", (0, 96), hashlib.sha256(INPUT).hexdigest(),
        "done", "local", hashlib.sha256(OUTPUT).hexdigest(), 12.5,
    )  # fmt: skip


def account(promises: list[report.Promise], ledger: list[Stored]) -> report.Account:
    return report.account({each.id: each for each in promises}, {"pi-1": ledger})


def test_a_promise_that_the_ledger_ended_as_told_is_kept():
    found = account([promise("a"), promise("b")], [stored("a"), stored("b", place="gateway")])

    assert found.kept
    assert (found.accepted, found.completed, found.failed, found.lost) == (2, 2, 0, [])
    assert found.by_place == {"local": 1, "peer": 0, "gateway": 1}


@pytest.mark.parametrize(
    "change",
    [{"status": ""}, {"status": "failed"}, {"output_sha256": "00"}, {"input_sha256": "00"}],
    ids=["never heard", "heard otherwise", "another value", "another input"],
)
def test_a_promise_that_ended_otherwise_than_told_is_lost(change):
    found = account([replace(promise("a"), **change)], [stored("a")])

    assert (found.lost, found.kept) == (["a"], False)


def test_a_promise_that_no_ledger_holds_is_lost():
    found = account([promise("a"), promise("gone")], [stored("a")])

    assert (found.accepted, found.completed, found.lost, found.kept) == (2, 1, ["gone"], False)


def test_a_task_that_never_ended_is_lost_and_a_failed_one_is_not_completed():
    assert account([promise("a")], [stored("a", settled=False)]).lost == ["a"]

    failed = account([replace(promise("a"), status="failed")], [stored("a", status="failed")])
    assert (failed.failed, failed.completed, failed.lost, failed.kept) == (1, 0, [], False)


def test_what_a_ledger_holds_beyond_the_promises_counts_too():
    """The daemon was killed between its disk and its answer: nobody waits for it, it is kept all the same."""
    found = account([promise("a")], [stored("a"), stored("b")])

    assert (found.accepted, found.completed, found.unclaimed, found.kept) == (2, 2, 1, True)


def test_an_empty_run_has_kept_nothing():
    assert not account([], []).kept


def test_a_row_tells_the_whole_story():
    assert report.row_of(stored("a"), promise("a")) == {
        "id": "a",
        "function": "room.changes",
        "origin": "pi-1",
        "input_sha256": hashlib.sha256(INPUT).hexdigest(),
        "result": [53, 91],
        "accepted_at": 0.5,
        "settled_at": 2.5,
        "attempts": [{"node": "pi-1", "pid": 7, "start": 1.0, "end": 2.0, "ended_as": "done"}],
        "status": "done",
        "place": "local",
        "driver": "room",
        "rows": [0, 96],
        "latency_ms": 12.5,
    }


def test_a_long_result_is_told_by_its_digest_and_its_short_members():
    output = values.encode({"profile": list(range(1000)), "discord": 7})

    assert report.result_of("done", output, "") == {
        "sha256": hashlib.sha256(output).hexdigest(),
        "bytes": len(output),
        "discord": 7,
    }


def test_resumption_is_measured_from_the_kill_to_the_first_new_attempt():
    def task(accepted_at, settled_at, starts, origin="pi-2"):
        attempts = [{"start": start} for start in starts]
        return {"origin": origin, "accepted_at": accepted_at, "settled_at": settled_at, "attempts": attempts}

    tasks = [
        task(9.0, 9.5, [9.1]),  # had settled
        task(9.9, 17.0, [None, 16.5]),
        task(9.8, 16.9, [9.85, 15.75]),
        task(16.0, 16.1, [16.0]),  # accepted afterwards
        task(9.9, 11.0, [10.5], origin="pi-3"),  # another node's
    ]

    assert report.resumed(tasks, "pi-2", 10.0) == (5.75, 2)
    assert report.resumed([], "pi-2", 10.0) == (0.0, 0)


def test_marks_are_met_once_and_within_five_rows():
    points = report.change_points([238, 240, 421])

    # 416, 417 and 415 are more than five rows from 421 for the last person only; 238 and 240 meet one mark.
    assert points["met"] == [[238, 416], [238, 417], [236, 416], [234, 416], [234]]
    assert report.change_points(list(report.PEOPLE[0]))["recall"] < 1.0
    assert report.change_points([])["precision"] == 1.0  # row 0 only, which everybody marked


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50.0), (0.99, 99.0), (0.0, 1.0), (1.0, 100.0)])
def test_percentiles_are_of_nearest_rank(share, expected):
    assert report.percentile([float(n) for n in range(1, 101)], share) == expected


def test_windows_cover_a_series_in_full_windows_only():
    assert list(windows(10, 4, 3)) == [(0, 4), (3, 7), (6, 10)]
    assert list(windows(3, 4, 1)) == []


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_plan_hands_over_no_row_before_the_replay_has_read_it(driver):
    pytest.importorskip("numpy")
    planned = plan(driver)
    rows = max(each.last for each in planned)

    assert [each.due for each in planned] == sorted(each.due for each in planned)
    assert all(each.last / rows <= each.due <= 1.0 for each in planned)
