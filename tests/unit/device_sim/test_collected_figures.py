"""Figures gathered from events: counted once, in bounded memory, each with its meaning written down."""

from __future__ import annotations

import random
from dataclasses import asdict
from itertools import pairwise

import pytest

from device_sim.report import collect
from device_sim.report.collect import COLUMNS_LEAST, COLUMNS_MAX, Collector, Parts, Spans
from device_sim.report.glossary import FIGURES
from device_sim.report.histogram import BOUNDS_NS, ERROR, Histogram, binned, merged, percentile
from device_sim.report.record import Edge, Messages, Struck
from device_sim.virtual.evidence import (
    Answered,
    Asked,
    Crashed,
    End,
    Framed,
    Happened,
    Ran,
    Reached,
    Row,
    Started,
    Told,
)

SECOND = 1_000_000_000
MS = 1_000_000
CLASSES = {"pi-1": "pi", "pi-2": "pi", "gateway": "gateway"}


def collector(duration_s: int = 60) -> Collector:
    return Collector(CLASSES, {"pi-1": 2}, duration_s * SECOND)


def one_task(
    found: Collector, task: str, *, at_ns: int = 0, took_ns: int = 100 * MS, node: str = "pi-1",
    place: str = "local", status: str = "done",
) -> None:  # fmt: skip
    at = node if place == "local" else place
    found.saw(Asked(at_ns, node, task, "room.changes", 60 * SECOND))
    found.saw(Answered(at_ns + MS, node, task, accepted=True))
    found.saw(Ran(at_ns + 2 * MS, at_ns + took_ns - MS, at, task, 1, status))
    found.saw(Told(at_ns + took_ns, node, task, status, place))


def test_a_task_is_counted_once_however_often_it_is_told():
    found = collector()
    one_task(found, "a")
    found.saw(Asked(0, "pi-1", "a", "room.changes", SECOND))
    found.saw(Answered(0, "pi-1", "a", accepted=True))
    found.saw(Told(SECOND, "pi-1", "a", "done", "local"))

    figures = found.finish(SECOND).figures

    assert (figures["asked"], figures["accepted"], figures["completed"], figures["open"]) == (1, 1, 1, 0)
    assert figures["duplicates"] == 0


def test_every_end_has_its_own_figure():
    found = collector()
    for number, status in enumerate(["done", "failed", "cancelled", "quarantined", "expired"]):
        one_task(found, f"t{number}", status=status)
    found.saw(Asked(0, "pi-1", "no", "f.g", SECOND))
    found.saw(Answered(0, "pi-1", "no", accepted=False, reason="queue full"))
    found.saw(Asked(0, "pi-1", "never answered", "f.g", SECOND))

    figures = found.finish(SECOND).figures

    assert figures["completed"] == 1 and figures["failed"] == 3 and figures["expired"] == 1
    assert figures["refused"] == 1 and figures["open"] == 0
    assert figures["accepted"] == figures["completed"] + figures["failed"] + figures["expired"]


def test_a_yes_that_a_crash_swallowed_counts_when_the_end_is_told():
    found = collector()
    found.saw(Asked(0, "pi-1", "a", "f.g", SECOND))
    found.saw(Told(SECOND, "pi-1", "a", "done", "pi-2"))

    figures = found.finish(SECOND).figures

    assert (figures["accepted"], figures["completed"], figures["peers"], figures["offloaded"]) == (1, 1, 1, 1)


def test_runs_beyond_the_first_are_duplicates_also_after_the_end_was_told():
    found = collector()
    one_task(found, "a", place="pi-2")
    found.saw(Ran(0, 2 * SECOND, "pi-1", "a", 2, "done"))
    found.saw(Ran(0, 2 * SECOND, "pi-1", "a", 3, "killed"))
    one_task(found, "b")

    assert found.finish(3 * SECOND).figures["duplicates"] == 1


def test_only_so_many_ended_tasks_are_remembered(monkeypatch):
    monkeypatch.setattr(collect, "ENDED_MAX", 10)
    found = collector()
    for number in range(100):
        one_task(found, f"t{number}")
    found.saw(Ran(0, SECOND, "pi-1", "t99", 2, "done"))
    found.saw(Ran(0, SECOND, "pi-1", "t0", 2, "done"))  # long forgotten

    assert found.open_tasks == 0 and len(found._ended) == 10
    assert found.finish(SECOND).figures["duplicates"] == 1


def ledger(*tasks: str) -> list[Row]:
    return [Row(task, 1, 0, "", b"") for task in tasks]


def test_an_open_task_is_lost_if_its_own_nodes_disk_does_not_keep_it():
    found = collector()
    for task, node in (("kept", "pi-1"), ("elsewhere", "pi-1"), ("gone", "pi-2"), ("nowhere", "gateway")):
        found.saw(Asked(0, node, task, "f.g", SECOND))
        found.saw(Answered(0, node, task, accepted=True))

    end = End(
        at_ns=SECOND, healed_ns=None, damaged={}, gone={"gateway": "burnt"},
        ledgers={"pi-1": ledger("kept"), "pi-2": ledger("elsewhere")},
    )  # fmt: skip
    figures = found.finish(SECOND, end).figures

    assert (figures["open"], figures["lost"], figures["explained"]) == (4, 2, 1)


def test_without_the_disks_nothing_is_said_about_what_is_lost():
    assert "lost" not in collector().finish(SECOND).figures


def test_latencies_are_by_function_and_their_percentiles_within_the_error_told():
    found, draw = collector(), random.Random(1)
    true_ns = [round(draw.lognormvariate(17, 1.2)) for _ in range(3000)]
    for number, took_ns in enumerate(true_ns):
        one_task(found, f"t{number}", took_ns=took_ns)
    parts = found.finish(60 * SECOND)

    ordered = sorted(true_ns)
    for name, rank in (("p50_ms", 1500), ("p95_ms", 2850), ("p99_ms", 2970)):
        true_ms = ordered[rank - 1] / MS
        assert abs(parts.figures[name] - true_ms) <= ERROR * true_ms + 0.001, name
    assert parts.figures["mean_ms"] == pytest.approx(sum(true_ns) / 3000 / MS, abs=0.001)
    assert parts.figures["max_ms"] == pytest.approx(ordered[-1] / MS, abs=0.001)
    bins = parts.latencies_ms["room.changes"]
    assert sum(count for _, count in bins) == 3000
    assert [bound for bound, _ in bins] == sorted(bound for bound, _ in bins)


def test_a_percentile_is_never_outside_of_what_was_seen():
    histogram = binned([100.0])

    assert histogram.percentile_ms(0.5) == histogram.percentile_ms(0.99) == 100.0
    assert Histogram().percentile_ms(0.99) is None and percentile([], 0.5) is None


def test_bins_grow_by_a_tenth_and_add_up():
    assert all(1.099 < high / low <= 1.1 for low, high in pairwise(BOUNDS_NS))
    assert merged([[(1.0, 2), (3.0, 1)], [(2.0, 5), (3.0, 4)]]) == [(1.0, 2), (2.0, 5), (3.0, 5)]


def test_load_is_the_share_of_the_workers_that_ran():
    found = Collector(CLASSES, {"pi-1": 2}, 6 * SECOND)
    found.saw(Ran(0, 3 * SECOND, "pi-1", "a", 1, "done"))
    found.saw(Ran(SECOND, 3 * SECOND, "pi-1", "b", 1, "done"))
    load = found.finish(4 * SECOND).load

    assert load.nodes == list(CLASSES) and load.interval_s == 0.1
    assert load.shares[0] == [0.5] * 10 + [1.0] * 20 + [0.0] * 10
    assert load.shares[1] == [0.0] * 40


def test_a_node_that_is_dead_or_has_not_joined_is_away():
    found = collector()
    found.saw(Started(0, "pi-1"))
    found.saw(Crashed(SECOND, "pi-1", "kill"))
    found.saw(Started(2 * SECOND, "pi-1"))
    found.saw(Started(3 * SECOND, "pi-2"))
    found.saw(Crashed(3 * SECOND, "gateway", "stop"))
    parts = found.finish(4 * SECOND)

    assert parts.load.shares[0] == [0.0] * 10 + [-1.0] * 10 + [0.0] * 20
    assert parts.load.shares[1] == [-1.0] * 30 + [0.0] * 10
    assert parts.load.shares[2] == [0.0] * 30 + [-1.0] * 10
    assert [node.up for node in parts.nodes] == [True, True, False]
    assert parts.figures["crashes"] == 1


def test_a_longer_run_has_longer_intervals_and_loses_nothing():
    found = collector(duration_s=1)
    for second in range(1000):
        one_task(found, f"t{second}", at_ns=second * SECOND, took_ns=500 * MS)
    parts = found.finish(1000 * SECOND)

    columns = len(parts.load.shares[0])
    assert columns <= COLUMNS_MAX and columns == len(parts.rates.accepted) == len(parts.rates.completed)
    assert columns * parts.load.interval_s >= 1000
    assert sum(parts.rates.accepted) == sum(parts.rates.completed) == 1000
    busy_s = sum(share * 2 * parts.load.interval_s for share in parts.load.shares[0])
    assert busy_s == pytest.approx(497, rel=0.05)


def test_what_comes_at_the_very_last_moment_is_in_the_last_interval():
    found = Collector(CLASSES, {}, 6 * SECOND)
    one_task(found, "a", at_ns=0, took_ns=6 * SECOND)

    assert sum(found.finish(6 * SECOND).rates.completed) == 1


def test_thousands_of_nodes_have_fewer_intervals():
    found = Collector({f"n{number}": "n" for number in range(10_000)}, {}, 600 * SECOND)

    assert len(found.finish(600 * SECOND).load.shares[0]) <= COLUMNS_LEAST


def test_messages_are_told_by_what_their_topic_says():
    found, mesh = collector(), "a" * 16
    found.saw(Framed(0, "pi-1", f"ew/1/{mesh}/d/pi-2/pi-1", b"\x01sealed"))
    found.saw(Framed(0, "pi-1", f"ew/1/{mesh}/d/pi-2/pi-1", b"\x86hello"))
    found.saw(Framed(0, "pi-1", f"ew/1/{mesh}/p/pi-1", b"12"))
    found.saw(Framed(0, "gateway", f"ew/1/{mesh}/roster", b"1"))
    found.saw(Framed(0, "mallory", "else/where", b""))
    found.saw(Reached(0, "pi-2", "t", b"123"))
    parts = found.finish(60 * SECOND)

    counts = {each.kind: each.count for each in parts.messages}
    assert counts == {"direct": 1, "handshake": 1, "presence": 1, "roster": 1, "other": 1}
    assert parts.messages[2] == Messages(kind="other", count=1, bytes=10)
    assert parts.figures["messages"] == 5 and parts.figures["deliveries"] == 1
    total = sum(each.bytes for each in parts.messages) + 4
    assert parts.figures["bytes_per_node_minute"] == pytest.approx(total / 3, abs=0.1)
    assert "messages_per_task" not in parts.figures


def test_edges_say_whose_tasks_ran_where(monkeypatch):
    def edges() -> Parts:
        found = collector()
        for number, place in enumerate(["local", "local", "pi-2", "gateway"]):
            one_task(found, f"t{number}", place=place)
        return found.finish(SECOND)

    assert edges().edges == [
        Edge(owner="pi-1", place="gateway", tasks=1),
        Edge(owner="pi-1", place="pi-1", tasks=2),
        Edge(owner="pi-1", place="pi-2", tasks=1),
    ]
    assert [node.ran for node in edges().nodes] == [2, 1, 1]

    monkeypatch.setattr(collect, "EDGES_MAX", 1)
    many = edges()

    assert many.edges == [Edge(owner="pi", place="gateway", tasks=1), Edge(owner="pi", place="pi", tasks=3)]
    assert any("by class" in note for note in many.notes)


def test_faults_become_spans_by_their_ends():
    spans = Spans()
    spans.saw(1 * SECOND, "kill", "pi-1")
    spans.saw(2 * SECOND, "partition", "a|b")
    spans.saw(3 * SECOND, "restart", "pi-1")
    spans.saw(4 * SECOND, "partition", "a|b", ended=True)
    spans.saw(5 * SECOND, "restart", "pi-2")
    spans.saw(6 * SECOND, "pause", "pi-2")
    spans.saw(7 * SECOND, "heal", "")

    assert spans.count == 4
    assert spans.struck() == [
        Struck(at_s=1, do="kill", node="pi-1", until_s=3),
        Struck(at_s=2, do="partition", node="a|b", until_s=4),
        Struck(at_s=5, do="restart", node="pi-2", until_s=None),
        Struck(at_s=6, do="pause", node="pi-2", until_s=7),
    ]


@pytest.mark.parametrize(
    ("do", "end"),
    [
        ("kill", "restart"), ("power-cut", "restart"), ("pause", "restart"), ("pause", "resume"),
        ("kill-gateway", "restart-gateway"), ("power-cut-gateway", "restart-gateway"),
        ("partition", "heal-partition"), ("disk-full", "disk-free"),
    ],
)  # fmt: skip
def test_a_verb_that_makes_good_ends_what_it_makes_good_and_is_no_fault(do, end):
    spans = Spans()
    spans.saw(1 * SECOND, do, "pi")
    spans.saw(3 * SECOND, end, "pi")
    spans.saw(9 * SECOND, "heal", "")

    assert (spans.count, spans.struck()) == (1, [Struck(at_s=1, do=do, node="pi", until_s=3)])


def test_a_record_begins_where_its_run_is_told_to():
    """What came before is counted, and is no part of the time that is shown."""
    found = Collector(CLASSES, {}, 10 * SECOND, begin_ns=10 * SECOND)
    found.saw(Started(2 * SECOND, "pi-1"))
    one_task(found, "a", at_ns=4 * SECOND)
    one_task(found, "b", at_ns=12 * SECOND)
    found.saw(Happened(13 * SECOND, "kill-worker", "pi-1"))
    parts = found.finish(20 * SECOND)

    assert parts.figures["completed"] == 2
    assert parts.figures["tasks_per_s"] == 0.2
    assert parts.faults == [Struck(at_s=3, do="kill-worker", node="pi-1")]
    assert len(parts.rates.accepted) * parts.rates.interval_s == 10
    assert parts.rates.accepted[round(2 / parts.rates.interval_s)] == 1


def test_every_figure_has_a_meaning_written_down():
    found = collector()
    one_task(found, "a")
    found.saw(Happened(0, "kill", "pi-1"))
    end = End(at_ns=SECOND, healed_ns=None, ledgers={}, damaged={}, gone={})

    assert found.finish(SECOND, end).figures.keys() <= FIGURES.keys()


def test_a_run_without_any_event_has_figures_too():
    parts = Collector({}, {}, 0).finish(0)

    assert asdict(parts)["figures"]["accepted"] == 0
    assert "p99_ms" not in parts.figures and parts.load.shares == []
