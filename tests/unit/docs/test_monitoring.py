"""What `deploy/` asks Prometheus exists; what the documents tell of metrics is the code's."""

from __future__ import annotations

import json
import re
from itertools import combinations

import pytest
import yaml

from edge_node.doctor import DISK_BYTES_MIN
from edge_node.store.replica import Limits
from gateway.metrics import METRICS
from tests.support import promql

OPERATING = (promql.ROOT / "docs" / "operating.md").read_text()
EXPRESSIONS = sorted(promql.files_of_deploy())
OF_THE_SCRAPE = {"job", "instance", "le"}


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_every_expression_reads_metrics_and_labels_that_exist(where, expression):
    assert promql.names_in(expression, where) <= set(METRICS)
    for selector in promql.selectors(promql.parsed(expression)):
        labels = {matcher.name for matcher in selector.matchers.matchers}
        name = promql.whole(selector.name)
        known = promql.OF_OTHERS[name] if name in promql.OF_OTHERS else METRICS[name].labels
        assert labels <= OF_THE_SCRAPE | set(known), where


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_a_counter_is_read_as_a_rate_and_a_gauge_is_not(where, expression):
    """The rate of a gauge means nothing, and the height of a counter is the daemon's age."""
    for function, name in re.findall(r"\b(rate|increase|delta)\((\w+)", expression):
        kind = METRICS[promql.whole(name)].kind
        assert (kind == "gauge") == (function == "delta"), f"{where}: {function} of a {kind}"
    rated = {name for _, name in re.findall(r"\b(rate|increase)\((\w+)", expression)}
    counters = {s.name for s in promql.selectors(promql.parsed(expression)) if s.name.endswith("_total")}
    assert counters <= rated, where


@pytest.mark.parametrize("wrong", ["sum by (x (a)", "rate(a)", "edgeweave_up ==", "a{b=c}"])
def test_what_is_no_promql_is_noticed(wrong):
    with pytest.raises(AssertionError, match="here"):
        promql.names_in(wrong, "here")


def test_every_alert_says_how_grave_it_is_and_what_to_do():
    for rule in promql.rules():
        assert re.fullmatch(r"Edgeweave[A-Z]\w+", rule["alert"])
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "fix"}, rule["alert"]
        named = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        told = (
            OF_THE_SCRAPE
            | {"file"}
            | {label for name in promql.names_in(rule["expr"], "") for label in METRICS[name].labels}
        )
        assert named <= told, rule["alert"]


def test_alerts_begin_where_doctor_does():
    expressions = {rule["alert"]: rule["expr"] for rule in promql.rules()}

    assert str(Limits().log_bytes_max) in expressions["EdgeweaveTableLogLarge"]
    assert int(re.findall(r"< (\d{6,})", expressions["EdgeweaveDiskAlmostFull"])[0]) > DISK_BYTES_MIN


def test_what_somebody_has_to_act_on_has_an_alert():
    watched = {name for rule in promql.rules() for name in promql.names_in(rule["expr"], "")}

    assert watched >= {
        "edgeweave_node_up", "edgeweave_tasks_open", "edgeweave_store_writable", "edgeweave_disk_free_bytes",
        "edgeweave_table_conflicts", "edgeweave_certificate_expiry_timestamp_seconds",
        "edgeweave_clock_skew_seconds", "edgeweave_link_made_anew_total",
    }  # fmt: skip


def test_the_example_of_a_configuration_reads_the_rules_beside_it():
    example = yaml.safe_load(promql.EXAMPLE.read_text())

    assert example["rule_files"] == [promql.ALERTS.name]
    (gateway, _) = example["scrape_configs"]
    assert (gateway["scheme"], gateway["metrics_path"]) == ("https", "/metrics")


def test_the_dashboards_panels_do_not_overlap_and_its_variables_are_made():
    dashboard = json.loads(promql.DASHBOARD.read_text())
    made = {each["name"] for each in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$(?!__)\{?(\w+)", json.dumps(dashboard["panels"])))
    places = [panel["gridPos"] for panel in dashboard["panels"]]

    assert used <= made
    assert all(one["x"] + one["w"] <= 24 for one in places)
    for one, other in combinations(places, 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)


def test_the_metrics_told_are_all_there_are():
    told = OPERATING.split("<!-- metrics:")[1].split("<!-- end -->")[0]
    rows = [line for line in told.splitlines() if line.startswith("| `")]

    expected = []
    for name, metric in METRICS.items():
        labels = f"{{{', '.join(metric.labels)}}}" if metric.labels else ""
        expected.append(f"| `{name}{labels}` | {metric.kind} | {metric.help} |")
    assert rows == expected
