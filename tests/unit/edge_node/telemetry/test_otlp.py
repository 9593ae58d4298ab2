"""Spans at a real collector over HTTP, and what is said where that cannot be."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys
import threading

import msgspec
import pytest

from edge_node.tasks.task import Attempt, Outcome, Task
from edge_node.telemetry.otlp import Exporter
from edge_node.telemetry.spans import WAITING_MAX
from security.errors import BadInput
from tests.support.otlp_collector import Collector, told

pytestmark = pytest.mark.slow

WALL = 1_760_000_000_000
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OUTCOME = Outcome(
    "done", settled_at_ms=WALL + 9, attempts=(Attempt(1, "pi-2", 7, WALL + 2, WALL + 8, "done", WALL + 1),),
    place="pi-2",
)  # fmt: skip


def a_task(number=1):
    return Task(
        f"t{number}",
        "toys.add",
        b"d" * 32,
        b"",
        b"s" * 32,
        "pi-1",
        accepted_at_ms=WALL,
        trace=f"{PARENT} rojo=1",
    )


@pytest.fixture
def collector():
    with Collector() as made:
        yield made


@contextlib.asynccontextmanager
async def running(url):
    exporter = Exporter(url, node="pi-1", mesh="ab" * 8)
    task = asyncio.create_task(exporter.run())
    try:
        yield exporter
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def counted(exporter, name, count):
    async with asyncio.timeout(30):
        while exporter.status()["spans"][name] < count:
            await asyncio.sleep(0.02)


async def test_a_collector_gets_the_spans_as_they_were(collector):
    async with running(collector.url) as exporter:
        exporter.settled(a_task(), OUTCOME)
        spans = await asyncio.to_thread(collector.spans, 3)
        await counted(exporter, "exported", 3)

    whole, attempt, run = spans["task toys.add"], spans["attempt 1"], spans["run toys.add"]
    assert whole.trace_id.hex() == PARENT[3:35] and whole.parent_span_id.hex() == PARENT[36:52]
    assert (attempt.parent_span_id, run.parent_span_id) == (whole.span_id, attempt.span_id)
    assert whole.trace_state == "rojo=1" and whole.start_time_unix_nano == WALL * 1_000_000
    assert told(whole.attributes)["edgeweave.place"] == "pi-2"
    assert [event.name for event in whole.events] == ["accepted", "settled"]
    assert collector.resource["service.instance.id"] == "pi-1"
    assert collector.resource["service.namespace"] == "ab" * 8


async def test_what_waits_at_the_end_is_sent(collector):
    async with running(collector.url) as exporter:
        await asyncio.sleep(0)
        exporter.settled(a_task(), OUTCOME)

    assert len(await asyncio.to_thread(collector.spans, 3)) == 3
    assert exporter.status()["spans"]["exported"] == 3


async def test_a_collector_that_is_away_costs_nothing_but_the_spans(collector, caplog):
    """They are counted; what comes later is told, and the log says each once."""
    caplog.set_level(logging.INFO)
    collector.status = 400  # 503 is tried again by the library, for seconds
    async with running(collector.url) as exporter:
        for number in range(WAITING_MAX // 3 + 10):
            exporter.settled(a_task(number), OUTCOME)
        assert exporter.status()["spans"]["dropped"] == 30
        await counted(exporter, "failed", exporter.status()["waiting"])
        collector.status = 200
        exporter.settled(a_task(), OUTCOME)
        await counted(exporter, "exported", 3)

    lines = [each.message for each in caplog.records if each.name == "edge_node.telemetry.otlp"]
    assert lines == ["traces are not taken", "traces are collected"]
    assert not [each for each in caplog.records if each.name.startswith("opentelemetry")]


async def test_what_cannot_be_sent_ends_nothing(collector):
    """Earlier versions of the library raise what the connection does; here, a trace whose id is none."""
    async with running(collector.url) as exporter:
        exporter.settled(msgspec.structs.replace(a_task(), trace="z" * 53 + "01"), OUTCOME)
        await counted(exporter, "failed", 3)
        exporter.settled(a_task(2), OUTCOME)
        await counted(exporter, "exported", 3)


async def test_a_collector_that_hangs_holds_up_nobody_else():
    """Its thread is its own, and what waits for it at the end is given up."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with running(f"http://127.0.0.1:{silent.getsockname()[1]}") as exporter:
            exporter.settled(a_task(), OUTCOME)
            connection, _ = await asyncio.to_thread(silent.accept)
            exporter.settled(a_task(2), OUTCOME)
            names = {thread.name for thread in threading.enumerate() if thread.name.startswith("telemetry")}
            assert len(names) == 1
        assert exporter.status()["spans"]["failed"] == 6
        connection.close()


@pytest.mark.parametrize(
    "wrong", ["collector:4318", "ftp://h", "http://", "http://h:99999", "http://h/?a=b", "x"]
)
def test_an_endpoint_that_is_none_is_named_with_its_fix(wrong):
    with pytest.raises(BadInput, match="otlp_endpoint") as raised:
        Exporter(wrong, node="pi-1", mesh="m")
    assert "http://127.0.0.1:4318" in raised.value.fix


@pytest.mark.parametrize("given", ["http://h:4318", "http://h:4318/", "http://h:4318/v1/traces"])
def test_the_path_of_traces_is_added_where_it_is_missing(given):
    assert Exporter(given, node="pi-1", mesh="m").endpoint == "http://h:4318/v1/traces"


def test_a_password_in_the_url_is_not_told():
    exporter = Exporter("http://ann:hush@h:4318", node="pi-1", mesh="m")
    with pytest.raises(BadInput) as raised:
        Exporter("ftp://ann:hush@h", node="pi-1", mesh="m")

    assert exporter.status()["endpoint"] == "http://h:4318/v1/traces"
    assert "hush" not in str(raised.value) and "ftp://h" in raised.value.cause


def test_without_the_extra_one_line_names_it():
    """In a process of its own, where OpenTelemetry cannot be imported."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from edge_node.telemetry.otlp import Exporter\n"
        "from security.errors import BadInput\n"
        "try: Exporter('http://127.0.0.1:4318', node='n', mesh='m')\n"
        "except BadInput as error: print(error.cause, '|', error.fix)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "is not installed" in done.stdout and "edgeweave[otlp]" in done.stdout
