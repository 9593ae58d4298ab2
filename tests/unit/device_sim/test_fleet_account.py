"""The account of a fleet: a promise is kept only if a ledger says the same as the client heard."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from device_sim.report.account import Account, Promise, account, result_of, row_of
from device_sim.report.expectations import Verdict, judge
from device_sim.report.figures import Replacement, percentile, replacement, resumed
from device_sim.report.tables import tables
from device_sim.scenario import Expect
from edge_node.functions import values
from edge_node.tasks.journal import Stored
from edge_node.tasks.task import Attempt, Outcome, Task

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


def promise(task_id: str) -> Promise:
    return Promise(
        task_id, "room", "pi-1", "room.changes", (0, 96), hashlib.sha256(INPUT).hexdigest(),
        "done", "local", hashlib.sha256(OUTPUT).hexdigest(), 12.5,
    )  # fmt: skip


def of(promises: list[Promise], ledger: list[Stored], gone: dict[str, str] | None = None) -> Account:
    return account({each.id: each for each in promises}, {"pi-1": ledger}, gone)


def test_a_promise_that_the_ledger_ended_as_told_is_kept():
    found = of(
        [promise("a"), promise("b"), replace(promise("c"), place="pi-2")],
        [stored("a"), stored("b", place="gateway"), stored("c", place="pi-2")],
    )

    assert found.kept
    assert (found.accepted, found.completed, found.failed, found.lost) == (3, 3, 0, [])
    assert found.by_place == {"local": 1, "peer": 1, "gateway": 1}


@pytest.mark.parametrize(
    "change",
    [{"status": ""}, {"status": "failed"}, {"output_sha256": "00"}, {"input_sha256": "00"}],
    ids=["never heard", "heard otherwise", "another value", "another input"],
)
def test_a_promise_that_ended_otherwise_than_told_is_lost(change):
    found = of([replace(promise("a"), **change)], [stored("a")])

    assert (found.lost, found.kept) == (["a"], False)


def test_a_promise_that_no_ledger_holds_is_lost_also_at_a_node_that_is_gone():
    found = of([promise("a"), promise("missing")], [stored("a")], {"pi-1": "pi-1 was revoked at 9.0 s"})

    assert (found.accepted, found.completed, found.lost, found.kept) == (2, 1, ["missing"], False)


def test_a_task_that_never_ended_is_lost_unless_its_node_was_taken_away():
    unheard = replace(promise("a"), status="", output_sha256="")

    assert of([unheard], [stored("a", settled=False)]).lost == ["a"]

    why = "pi-1 was revoked at 9.0 s"
    found = of([unheard], [stored("a", settled=False)], {"pi-1": why})
    assert (found.lost, found.explained, found.kept) == ([], {"a": why}, True)


def test_a_node_that_was_taken_away_need_not_have_told_an_end_but_told_no_other():
    why = {"pi-1": "pi-1 was killed for good at 9.0 s"}

    unheard = of([replace(promise("a"), status="", output_sha256="")], [stored("a")], why)
    assert (unheard.completed, unheard.lost, unheard.explained, unheard.kept) == (1, [], {}, True)
    assert unheard.latencies_ms == []

    assert of([replace(promise("a"), output_sha256="00")], [stored("a")], why).lost == ["a"]
    assert of([promise("a")], [stored("a", settled=False)], why).lost == ["a"]  # told an end that is not kept


def test_a_failed_task_is_settled_and_not_completed():
    failed = of([replace(promise("a"), status="failed")], [stored("a", status="failed")])

    assert (failed.failed, failed.completed, failed.lost, failed.kept) == (1, 0, [], True)


def test_what_a_ledger_holds_beyond_the_promises_counts_too():
    """The daemon was killed between its disk and its answer: nobody waits for it, it is kept all the same."""
    found = of([promise("a")], [stored("a"), stored("b")])

    assert (found.accepted, found.completed, found.unclaimed, found.kept) == (2, 2, 1, True)


def test_an_empty_run_has_kept_nothing():
    assert not of([], []).kept


def test_a_row_tells_the_whole_story():
    assert row_of(stored("a"), promise("a")) == {
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
        "ran_at": "pi-1",
        "driver": "room",
        "rows": [0, 96],
        "latency_ms": 12.5,
    }


def test_a_long_result_is_told_by_its_digest_and_its_short_members():
    output = values.encode({"profile": list(range(1000)), "discord": 7})

    assert result_of("done", output, "") == {
        "sha256": hashlib.sha256(output).hexdigest(),
        "bytes": len(output),
        "discord": 7,
    }


def task(accepted_at, settled_at, attempts, origin="pi-2", **more):
    """attempts: (node, start, end)."""
    rows = [{"node": node, "start": start, "end": end} for node, start, end in attempts]
    return {"origin": origin, "accepted_at": accepted_at, "settled_at": settled_at, "attempts": rows} | more


def test_resumption_is_measured_from_the_kill_to_the_first_new_attempt():
    tasks = [
        task(9.0, 9.5, [("pi-2", 9.1, 9.5)]),  # had settled
        task(9.9, 17.0, [("pi-2", None, None), ("pi-2", 16.5, 17.0)]),
        task(9.8, 16.9, [("pi-2", 9.85, None), ("pi-2", 15.75, 16.9)]),
        task(16.0, 16.1, [("pi-2", 16.0, 16.1)]),  # accepted afterwards
        task(9.9, 11.0, [("pi-3", 10.5, 11.0)], origin="pi-3"),  # another node's
        task(9.9, 12.0, [("pi-2", 11.9, 12.0)], status="expired"),
    ]

    assert resumed(tasks[:5], "pi-2", 10.0) == (5.75, 2)
    assert resumed(tasks, "pi-2", 10.0) == (1.9, 2)
    assert resumed([], "pi-2", 10.0) == (0.0, 0)


def test_replacement_tells_own_tasks_from_those_it_held_for_others():
    held = task(9.0, 14.0, [("pi-2", 9.1, 13.0), ("gateway", 13.25, 14.0)], origin="pi-3")
    untold = task(9.0, 14.5, [("pi-2", None, 13.0), ("pi-4", 13.5, 14.5)], origin="pi-3")
    own = task(9.0, 16.0, [("pi-2", 9.1, None), ("pi-2", 15.0, 16.0)])
    others = [
        task(9.0, 12.0, [("pi-2", 9.1, 9.5), ("gateway", 9.6, 12.0)], origin="pi-3"),  # it had given it back
        task(9.0, 10.6, [("pi-3", 10.4, 10.6)], origin="pi-3"),  # had only waited at home
        task(9.0, 9.9, [("pi-2", 9.1, 9.9)], origin="pi-3"),  # was done
        task(10.1, 11.0, [("pi-3", 10.2, 11.0)], origin="pi-3"),  # came later
        task(9.0, None, [("pi-2", 9.1, None)], origin="pi-3"),  # has not been placed anew
    ]

    assert replacement([own, held, untold, *others], "pi-2", 10.0) == Replacement(5.0, 3.25, 3)
    assert replacement([own, held, *others], "pi-2", 10.0).first_s == 3.25
    assert replacement([own, *others], "pi-2", 10.0) == Replacement(5.0, None, 1)
    assert replacement(others, "pi-2", 10.0) == Replacement(None, None, 0)
    assert replacement([], "pi-2", 10.0).first_s is None


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50.0), (0.99, 99.0), (0.0, 1.0), (1.0, 100.0)])
def test_percentiles_are_of_nearest_rank(share, expected):
    assert percentile([float(n) for n in range(1, 101)], share) == expected
    assert percentile([], share) == 0.0


FIGURES = dict.fromkeys(
    [
        "lost", "failed", "explained", "accepted", "completed", "offloaded", "peers", "resumed", "verified",
        "kill_to_replacement_s", "revoked_cut_s", "latency_ms_p99",
    ],
    0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("expect", "figures", "failing"),
    [
        ({}, {}, []),
        ({}, {"lost": 1}, ["lost: expected at most 0, found 1"]),
        ({}, {"failed": 2}, ["failed_max: expected at most 0, found 2"]),
        ({"failed_max": 2, "offloaded_min": 5}, {"failed": 2, "offloaded": 5}, []),
        ({"offloaded_min": 5}, {"offloaded": 4}, ["offloaded_min: expected at least 5, found 4"]),
        (
            {"revoked_cut_s_max": 5},
            {"revoked_cut_s": 5.5},
            ["revoked_cut_s_max: expected at most 5, found 5.5"],
        ),
        (
            {"revoked_cut_s_max": 5},
            {"revoked_cut_s": None},
            ["revoked_cut_s_max: expected at most 5, found nothing to measure"],
        ),
        (
            {"resumed_min": 0},
            {"resumed": None},
            ["resumed_min: expected at least 0, found nothing to measure"],
        ),
    ],
)
def test_what_was_expected_and_not_seen_is_told(expect, figures, failing):
    verdicts = judge(Expect(**expect), FIGURES | figures)

    assert [each.text() for each in verdicts if not each.held] == failing


def test_every_expectation_has_its_figure():
    everything = Expect(**dict.fromkeys(Expect.__struct_fields__, 1))

    assert [each.name for each in judge(everything, FIGURES)] == list(Expect.__struct_fields__)
    assert Verdict("lost", 0, 0, True) in judge(Expect(), FIGURES)


def test_tables_balance():
    rows = [row_of(stored("a"), promise("a")), row_of(stored("b", place="pi-2"), promise("b"))]
    nodes = [
        {"id": "pi-1", "class": "full-speed board", "pids": [1, 2], "slowdown": 1.0},
        {"id": "pi-2", "class": "x", "pids": [3], "slowdown": 4.0},
    ]

    functions, by_node = tables({"nodes": nodes, "faults": []}, rows)

    assert functions[1][-1][:6] == ["all", "2", "2", "1", "1", "0"]
    assert [row[:6] for row in by_node[1]] == [
        ["pi-1", "1", "2", "1", "1", "0"],
        ["pi-2", "1/4", "0", "0", "0", "1"],
    ]
