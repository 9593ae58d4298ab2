"""Every alert is seen to fire, and to stay quiet where it should: by Prometheus' own promtool."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support import promql
from tests.support.prometheus import program

GW = 'job="edgeweave",instance="gw"'
DAY = 86400
Series = dict[str, str]


def of(name: str, values: str, **labels: str) -> Series:
    """One series of the gateway's; values a minute, as promtool writes them: ``from+step x times``."""
    more = "".join(f',{key}="{value}"' for key, value in labels.items())
    return {f"edgeweave_{name}{{{GW}{more}}}": values}


def queue(minute: int, hour: int) -> Series:
    """A minute's tasks: how many waited 300 s at most, and 3600 s."""
    return (
        of("task_queue_seconds_bucket", f"0+{minute}x60", le="300.0")
        | of("task_queue_seconds_bucket", f"0+{hour}x60", le="3600.0")
        | of("task_queue_seconds_bucket", f"0+{hour}x60", le="+Inf")
    )


def ended(done: int, failed: int) -> Series:
    return of("tasks_settled_total", f"0+{done}x60", status="done") | of(
        "tasks_settled_total", f"0+{failed}x60", status="failed"
    )


def disk(free: float, size: float) -> Series:
    return of("disk_free_bytes", f"{free:.0f}x60") | of("disk_size_bytes", f"{size:.0f}x60")


def nodes(up: int, down: int) -> Series:
    return of("nodes", f"{up}x60", state="up") | of("nodes", f"{down}x60", state="down")


def expiry(days: float, certificate: str) -> Series:
    name = "certificate_expiry_timestamp_seconds"
    return of(name, f"{days * DAY:.0f}x60", certificate=certificate)


MTIME = 'node_textfile_mtime_seconds{job="node",instance="gw",file="/var/edgeweave.prom"}'
UP = {f"up{{{GW}}}": "1x60"}
CASES: list[tuple[str, int, Series, bool]] = [
    # (alert, minute, series, fires)
    ("DaemonGone", 3, {f"up{{{GW}}}": "0x60"}, True),
    ("DaemonGone", 3, UP | of("up", "0x60"), True),
    ("DaemonGone", 3, UP | of("up", "1x60"), False),
    ("DaemonGone", 3, {'up{job="others",instance="x"}': "0x60"}, False),
    ("MetricsOld", 10, {MTIME: "0x60"}, True),
    ("MetricsOld", 10, {MTIME: "0+60x60"}, False),
    ("NodeDown", 6, of("node_up", "0x60", node="pi-1"), True),
    ("NodeDown", 6, of("node_up", "0x4 1x60", node="pi-1"), False),
    ("ManyNodesDown", 3, nodes(7, 3), True),
    ("ManyNodesDown", 3, nodes(8, 2), False),
    ("NodeRestartsOften", 60, of("node_restarts_total", "0x10 1+1x4 5x60", node="pi-1"), True),
    ("NodeRestartsOften", 60, of("node_restarts_total", "0x10 2x60", node="pi-1"), False),
    ("BrokerNotConnected", 3, of("broker_connected", "0x60"), True),
    ("BrokerNotConnected", 3, of("broker_connected", "0x1 1x60"), False),
    ("LinkMadeAnewOften", 60, of("link_made_anew_total", "0x10 5x60"), True),
    ("LinkMadeAnewOften", 60, of("link_made_anew_total", "0x10 2x60"), False),
    ("WorkStalled", 25, of("tasks_open", "4x60") | of("tasks_settled_total", "7x60", status="done"), True),
    ("WorkStalled", 25, of("tasks_open", "4x60") | ended(1, 0), False),
    ("WorkStalled", 25, of("tasks_open", "0x60") | ended(0, 0), False),
    ("WorkWaitsLong", 30, queue(8, 10), True),
    ("WorkWaitsLong", 30, queue(10, 10), False),
    ("TasksFail", 25, ended(7, 3), True),
    ("TasksFail", 25, ended(9, 1), False),
    ("TasksRefused", 8, of("tasks_refused_total", "_x5 1x60", reason="outbox full"), True),
    ("TasksRefused", 8, of("tasks_refused_total", "3x5 4x60", reason="outbox full"), True),
    ("TasksRefused", 40, of("tasks_refused_total", "_x5 1x60", reason="outbox full"), False),
    ("WorkersDie", 16, of("worker_deaths_total", "0+1x60"), True),
    ("WorkersDie", 16, of("worker_deaths_total", "0x5 3x60"), False),
    ("ReadOnly", 1, of("store_writable", "0x60"), True),
    ("ReadOnly", 1, of("store_writable", "1x60"), False),
    ("DiskAlmostFull", 11, disk(1e8, 1e9), True),
    ("DiskAlmostFull", 11, disk(1e9, 64e9), True),
    ("DiskAlmostFull", 11, disk(5e8, 8e9), False),
    ("LedgerDamaged", 1, of("ledger_damaged", "1x60"), True),
    ("LedgerDamaged", 1, of("ledger_damaged", "0x60"), False),
    ("ConflictsGrow", 30, of("table_conflicts", "0x10 2x60"), True),
    ("ConflictsGrow", 30, of("table_conflicts", "2x60"), False),
    ("BatchesQuarantined", 11, of("table_batches_quarantined", "1x60"), True),
    ("BatchesQuarantined", 11, of("table_batches_quarantined", "1x5 0x60"), False),
    ("TableLogLarge", 70, of("table_log_bytes", "9000000x90"), True),
    ("TableLogLarge", 70, of("table_log_bytes", "8000000x90"), False),
    ("CertificateNearExpiry", 5, expiry(13, "member"), True),
    ("CertificateNearExpiry", 5, expiry(15, "member") | expiry(13, "issuing"), False),
    ("IssuingCertificateNearExpiry", 5, expiry(89, "issuing"), True),
    ("IssuingCertificateNearExpiry", 5, expiry(91, "issuing") | expiry(13, "member"), False),
    ("ClockSkew", 6, of("clock_skew_seconds", "-6x60"), True),
    ("ClockSkew", 6, of("clock_skew_seconds", "4x60"), False),
    ("RosterStale", 11, of("roster_stale", "1x60"), True),
    ("RosterStale", 11, of("roster_stale", "0x60"), False),
    ("Incident", 8, of("incidents_total", "_x5 1x60", what="roster fork"), True),
    ("Incident", 8, of("incidents_total", "1x5 2x60", what="roster fork"), True),
    ("Incident", 8, of("incidents_total", "_x5 1x60", what="link made anew"), False),
    ("ApiFails", 8, of("http_requests_total", "_x5 1x60", method="GET", route="/v1/x", status="500"), True),
    ("ApiFails", 8, of("http_requests_total", "0+9x60", method="GET", route="/v1/x", status="503"), False),
    ("TracesLost", 20, of("spans_total", "0+3x60", outcome="failed"), True),
    ("TracesLost", 20, of("spans_total", "0+3x60", outcome="exported"), False),
    ("TracesLost", 20, of("spans_total", "9x60", outcome="failed"), False),
]  # fmt: skip


@pytest.fixture(scope="module")
def promtool():
    return program("promtool")


def ran(promtool: str, *words: str) -> str:
    done = subprocess.run([promtool, *words], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def of_case(name: str, minute: int, series: Series, fires: bool) -> dict[str, object]:
    """A test as promtool has it: how many alerts of this name fire then."""
    expected = [{"labels": "{}", "value": 1}] if fires else []
    firing = f'group(ALERTS{{alertname="Edgeweave{name}", alertstate="firing"}})'
    return {
        "name": f"{name} at {minute} min, {'fires' if fires else 'is quiet'}",
        "interval": "1m",
        "input_series": [{"series": each, "values": values} for each, values in series.items()],
        "promql_expr_test": [{"expr": firing, "eval_time": f"{minute}m", "exp_samples": expected}],
    }


def test_every_alert_is_shown_to_fire_and_to_be_quiet():
    for fires in (True, False):
        shown = {f"Edgeweave{name}" for name, _, _, each in CASES if each is fires}
        assert shown == {rule["alert"] for rule in promql.rules()}


def test_the_series_given_are_of_metrics_that_there_are():
    for name, _, series, _ in CASES:
        for each in series:
            read = promql.names_in(each, name)
            assert read <= set(promql.METRICS), each


def test_the_rules_are_as_prometheus_reads_them(promtool):
    count = len(promql.rules())
    assert f"SUCCESS: {count} rules found" in ran(promtool, "check", "rules", str(promql.ALERTS))


@pytest.mark.slow
def test_alerts_fire_where_they_should_and_nowhere_else(promtool, tmp_path: Path):
    tests = [of_case(*case) for case in CASES]
    file = tmp_path / "alerts_test.yml"
    file.write_text(
        json.dumps({"rule_files": [str(promql.ALERTS)], "evaluation_interval": "1m", "tests": tests})
    )

    ran(promtool, "test", "rules", str(file))
