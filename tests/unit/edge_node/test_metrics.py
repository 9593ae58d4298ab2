"""The exposition: what Prometheus' own library reads back, bounded, and nothing that was not told."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from edge_node import metrics
from edge_node.metrics import LABELS_MAX, Metric
from edge_node.tasks.durations import Durations
from edge_node.tasks.task import Outcome, Task
from security.errors import BadInput

TABLE = {
    "edgeweave_things_total": Metric("counter", ("reason",), "Things."),
    "edgeweave_level": Metric("gauge", ("node", "state"), "A level."),
}
labels = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)
values = st.one_of(st.integers(0, 2**53), st.floats(0, 1e12))


def read(text: str) -> dict[str, list]:
    return {
        sample.name: [each for each in family.samples if each.name == sample.name]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@settings(max_examples=30)
@given(
    st.dictionaries(labels, values, max_size=5),
    st.dictionaries(st.tuples(labels, labels), values, max_size=5),
)
def test_prometheus_own_library_writes_and_reads_the_same(things, levels):
    told = metrics.text(
        [
            *(("edgeweave_things_total", {"reason": name}, value) for name, value in things.items()),
            *(("edgeweave_level", {"node": n, "state": s}, value) for (n, s), value in levels.items()),
        ],
        TABLE,
    )
    ours = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(told)
        for sample in family.samples
    }

    counter = CounterMetricFamily("edgeweave_things", "Things.", labels=["reason"])
    gauge = GaugeMetricFamily("edgeweave_level", "A level.", labels=["node", "state"])
    for name, value in things.items():
        counter.add_metric([name], value)
    for (node, state), value in levels.items():
        gauge.add_metric([node, state], value)

    class Both:
        def collect(self):
            return [counter, gauge]

    registry = CollectorRegistry()
    registry.register(Both())
    theirs = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }
    assert ours == theirs


def test_names_follow_the_convention():
    for name, metric in metrics.METRICS.items():
        assert name.startswith("edgeweave_") and name == name.lower() and metric.help.endswith((".", "..."))
        assert (metric.kind == "counter") == name.endswith("_total"), name
        assert not name.removesuffix("_total").endswith(("_ms", "_s", "_mb", "_count", "_sum", "_bucket")), (
            name
        )
        assert not set(metric.labels) & {"job", "instance", "le"}, f"{name}: Prometheus' own"


def test_what_is_not_in_the_table_cannot_be_told():
    with pytest.raises(AssertionError, match="edgeweave_unknown"):
        metrics.text([("edgeweave_unknown", {}, 1)])


def test_what_a_daemon_does_not_tell_is_left_out_not_zero():
    told = read(metrics.text(metrics.of_status({"node": "pi-1", "mesh": "m", "up_s": 5})))

    assert set(told) == {"edgeweave_up", "edgeweave_info", "edgeweave_uptime_seconds"}
    assert told["edgeweave_info"][0].labels == {"node": "pi-1", "mesh": "m", "version": ""}


def test_an_unknown_skew_is_no_skew_told():
    status = {
        "state": {"clock": {"skew_ms": None}},
        "store": {"process_bytes": None},
        "group": {"epoch": None},
    }

    assert set(read(metrics.text(metrics.of_status(status)))) == {"edgeweave_up", "edgeweave_info"}


def test_reasons_of_others_are_bounded_and_none_is_lost():
    refused = {f"reason {number}": 1 for number in range(10 * LABELS_MAX)}

    told = read(metrics.text(metrics.of_status({"wire": {"refused": refused}})))[
        "edgeweave_link_refused_total"
    ]

    assert len(told) == LABELS_MAX + 1
    assert sum(sample.value for sample in told) == 10 * LABELS_MAX
    assert told[-1].labels == {"reason": "(the rest)"}


def test_members_are_counted_by_what_is_believed_of_them():
    status = {"peers": {"pi-1": "up", "pi-2": "up", "pi-3": "down"}}

    told = read(metrics.text(metrics.of_status(status)))["edgeweave_peers"]

    by_state = {sample.labels["state"]: sample.value for sample in told}
    assert by_state == {"up": 2, "down": 1, "suspect": 0, "quiet": 0}


def test_a_read_only_store_and_a_skew_are_told_in_base_units():
    status = {"tasks": {"store_full": True}, "state": {"clock": {"skew_ms": -1500}}, "member": True}

    told = read(metrics.text(metrics.of_status(status)))

    assert told["edgeweave_store_writable"][0].value == 0
    assert told["edgeweave_clock_skew_seconds"][0].value == -1.5
    assert told["edgeweave_member"][0].value == 1


def test_durations_become_cumulative_histograms():
    durations = Durations()
    durations.ended(
        Task("t", "f", b"", b"", b"", "pi-1", accepted_at_ms=0), Outcome("done", settled_at_ms=7, run_us=2000)
    )

    text = metrics.text(metrics.of_durations(durations.figures()))

    (whole, _, _) = text_string_to_metric_families(text)
    assert whole.type == "histogram"
    buckets = {float(s.labels["le"]): s.value for s in whole.samples if s.name.endswith("_bucket")}
    assert buckets[0.005] == 0 and buckets[0.01] == 1 and buckets[math.inf] == 1
    assert list(buckets) == sorted(buckets)
    (count,) = [s.value for s in whole.samples if s.name.endswith("_count")]
    assert count == 1 and 'le="+Inf"' in text


def test_our_own_process_is_measured():
    told = read(metrics.text(metrics.of_process(Path("/proc/self"))))

    statm = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert told["edgeweave_process_resident_memory_bytes"][0].value == pytest.approx(statm, rel=0.2)
    assert told["edgeweave_process_open_fds"][0].value <= told["edgeweave_process_max_fds"][0].value


def test_a_process_that_is_gone_has_no_figures(tmp_path):
    assert list(metrics.of_process(tmp_path / "gone")) == []


def test_no_home_is_one_line(tmp_path):
    with pytest.raises(BadInput) as refused:
        metrics.text(metrics.without_daemon(tmp_path / "none"))

    assert str(tmp_path / "none") in refused.value.cause and "--home" in refused.value.fix


def test_a_damaged_certificate_is_left_out_and_the_disk_is_told(tmp_path):
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "identity.pem").write_text("nonsense")

    told = read(metrics.text(metrics.without_daemon(tmp_path)))

    assert told["edgeweave_up"][0].value == 0
    assert set(told) == {"edgeweave_up", "edgeweave_disk_free_bytes", "edgeweave_disk_size_bytes"}
