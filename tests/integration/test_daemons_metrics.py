"""A real gateway and a real node, measured: every metric is there, and Prometheus' own library reads it."""

from __future__ import annotations

import json
import math
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge_node.metrics import METRICS
from gateway.metrics import METRICS as GATEWAY_METRICS
from tests.support.daemons import Bed
from tests.support.promql import files_of_deploy, names_in

pytestmark = pytest.mark.slow

SELDOM = {
    "edgeweave_outbox_tasks",  # of members for whom something waits
    "edgeweave_outbox_bytes",
    "edgeweave_link_line_bytes_per_second",  # of a line that was full for a moment
    "edgeweave_clock_skew_seconds",  # of whom another clock is trusted
    "edgeweave_http_requests_total",  # of whom somebody asks
    "edgeweave_http_request_duration_seconds",
    "edgeweave_spans_total",  # of who has a collector
}
BY_REASON = {name for name, metric in METRICS.items() if set(metric.labels) & {"reason", "event", "what"}}
"""Nothing is told before it happened."""


def read(text: str) -> dict[str, list]:
    """By name of metric; counters as they are written."""
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families), "each is told once"
    for family in families:
        for sample in family.samples:
            assert math.isfinite(sample.value)
    return {
        family.name + ("_total" if family.type == "counter" else ""): family.samples for family in families
    }


def test_a_gateway_and_its_node_are_measured_while_they_run_and_after(tmp_path):
    with Bed(tmp_path) as bed:
        gateway, node = bed.pair()
        assert gateway.ask(lambda mesh: mesh.run("toys.add", 1)) == 2
        assert gateway.ask(lambda mesh: mesh.run("toys.add", 2, where="pi-1")) == 3
        assert bed.cli(node, "run", "toys.fail").code == 1

        told = read(bed.cli(gateway, "metrics").out)
        assert set(GATEWAY_METRICS) - set(told) - SELDOM <= BY_REASON
        assert set(told) <= set(GATEWAY_METRICS)
        by = {(s.name, tuple(s.labels.values())): s.value for each in told.values() for s in each}
        assert by["edgeweave_tasks_settled_total", ("done",)] == 2
        assert by["edgeweave_tasks_done_total", ("peer",)] == 1
        assert by["edgeweave_task_run_seconds_count", ()] == 2
        assert by["edgeweave_node_up", ("pi-1",)] == 1 and by["edgeweave_nodes", ("up",)] == 1
        assert ("edgeweave_node_up", ("gateway",)) not in by
        ends = {
            sample.labels["certificate"] for sample in told["edgeweave_certificate_expiry_timestamp_seconds"]
        }
        assert ends == {"member", "broker", "issuing"}
        assert by["edgeweave_process_resident_memory_bytes", ()] > 10e6

        used = {name for path, text in files_of_deploy() for name in names_in(text, path)}
        assert used - set(GATEWAY_METRICS) == set(), "deploy/ names a metric that no gateway tells"

        file = tmp_path / "edgeweave.prom"
        assert bed.cli(node.timed(), "metrics", "--to", str(file)).out == ""
        told = read(file.read_text())
        assert file.stat().st_mode & 0o777 == 0o644 and set(told) <= set(METRICS)
        by = {(s.name, tuple(s.labels.values())): s.value for each in told.values() for s in each}
        assert by["edgeweave_up", ()] == 1 and by["edgeweave_tasks_settled_total", ("failed",)] == 1
        assert abs(by["edgeweave_clock_skew_seconds", ()]) < 60

        assert bed.cli(node, "log-level", "debug", "--logger", "edge_node.nothing").line.startswith(
            "edge-node: no logger is named 'edge_node.nothing'"
        )
        changed = bed.cli(node, "log-level", "debug", "--logger", "edge_node", "--for", "1h", "--json").value
        assert changed["changed"] == [
            {"logger": "edge_node", "level": "debug", "before": "", "for_s": 3600.0}
        ]
        lines = [json.loads(line) for line in (node.home.logs / "daemon.log").read_text().splitlines()]
        assert any(line["message"] == "log level changed" for line in lines)
        back = {"logger": "edge_node", "level": "default"}
        assert node.ask(lambda mesh: mesh.call("log-level", back))["changed"] == []

        assert bed.cli(gateway, "log-level", "debug").text == "everything: debug"
        (entry,) = [
            each
            for each in gateway.ask(lambda mesh: mesh.call("audit"))
            if each["what"] == "gateway.log-level"
        ]
        assert (entry["before"], entry["after"]) == ({"level": "info"}, {"level": "debug"})

        node.term()
        gateway.until("pi-1 is down", lambda status: "pi-1" not in status["peers_up"])
        lines = [json.loads(line) for line in (gateway.home.logs / "daemon.log").read_text().splitlines()]
        (cause,) = {each["why"] for each in lines if each["message"] == "peer is down"}
        assert "pi-1" in bed.cli(gateway, "why", cause).text
        told = read(bed.cli(node, "metrics").out)
        assert told["edgeweave_up"][0].value == 0
        assert "edgeweave_certificate_expiry_timestamp_seconds" in told and "edgeweave_member" not in told
        assert re.fullmatch(r"edge-node: .*--home\n", bed.cli(bed.node("none"), "metrics").err)
