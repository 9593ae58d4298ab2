"""OTLP: spans to a collector, by HTTP in protobuf. The only file that imports OpenTelemetry (extra ``otlp``).

    settled ─► spans ─► spool ─► (full, or a second later) ─► a thread ─► POST <endpoint>/v1/traces

Best effort: the library tries a batch again for some seconds, then it is counted as failed. Whether the
collector is there is logged once when that changes. Headers, certificates and compression are taken from the
environment, as OpenTelemetry names them (``OTEL_EXPORTER_OTLP_HEADERS``, …).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from edge_node.telemetry.spans import BATCH_MAX, Span, Spool, spans_of
from security.errors import BadInput

if TYPE_CHECKING:
    from edge_node.tasks.task import Outcome, Task

log = logging.getLogger(__name__)

LINGER_S: Final = 1.0
"""Spans of a second leave together."""
EXPORT_S_MAX: Final = 5.0
CLOSING_S: Final = 2.0
PATH: Final = "/v1/traces"
MILLISECOND: Final = 1_000_000
_USER = re.compile(r"(?<=//)[^/?#]*@")


class Exporter:
    """Raises (constructor): BadInput: OpenTelemetry is not installed, or the endpoint is none."""

    def __init__(self, endpoint: str, *, node: str, mesh: str) -> None:
        url = _checked(endpoint)
        self.endpoint = _told(url)
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        except ImportError as error:
            raise BadInput(
                f"[telemetry] otlp_endpoint is set, and {error.name or 'OpenTelemetry'} is not installed",
                fix="install the extra: pip install 'edgeweave[otlp]'; or take the line out",
            ) from None
        logging.getLogger("opentelemetry").setLevel(
            logging.CRITICAL
        )  # each lost batch is a line of its own there
        about = {
            "service.name": "edgeweave",
            "service.namespace": mesh,
            "service.instance.id": node,
            "service.version": version("edgeweave"),
        }
        self._resource = Resource(about)
        self._scope = InstrumentationScope("edgeweave", about["service.version"])
        self._exporter = OTLPSpanExporter(url, timeout=EXPORT_S_MAX)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="telemetry")
        """Its own: a collector that hangs must not take one of the daemon's few for short work."""
        self._node = node
        self._spool = Spool()
        self._some = asyncio.Event()
        self._full = asyncio.Event()
        self._reached: bool | None = None

    def settled(self, task: Task, outcome: Outcome) -> None:
        """Of a task that bears a trace."""
        spans = spans_of(self._node, task, outcome)
        if spans:
            self._spool.put(spans)
            self._some.set()
            if self._spool.waiting >= BATCH_MAX:
                self._full.set()

    def status(self) -> dict[str, Any]:
        return {"endpoint": self.endpoint, "waiting": self._spool.waiting, "spans": dict(self._spool.counts)}

    async def run(self) -> None:
        """Until cancelled; what waits then is sent, if that takes no longer than 2 s."""
        try:
            while True:
                await self._some.wait()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LINGER_S):
                        await self._full.wait()
                self._some.clear()
                self._full.clear()
                while batch := self._spool.take():
                    await self._send(batch)
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSING_S):
                    while batch := self._spool.take():
                        await self._send(batch)
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._exporter.shutdown()  # type: ignore[no-untyped-call]  # ends what is tried again in its thread

    async def _send(self, batch: list[Span]) -> None:
        taken = False
        try:
            loop = asyncio.get_running_loop()
            taken = await loop.run_in_executor(self._thread, self._export, batch)
        finally:
            self._spool.sent(batch, taken)
        if taken is not self._reached:
            self._reached = taken
            if taken:
                log.info("traces are collected", extra={"endpoint": self.endpoint})
            else:
                fix = "is a collector there? Spans are dropped until it is"
                log.warning("traces are not taken", extra={"endpoint": self.endpoint, "fix": fix})

    def _export(self, batch: list[Span]) -> bool:
        from opentelemetry.sdk.trace.export import SpanExportResult

        try:
            done = self._exporter.export([self._readable(each) for each in batch])
        except Exception:  # earlier versions raise what the connection does; the node must not end with it
            log.debug("spans cannot be sent", exc_info=True)
            return False
        return done is SpanExportResult.SUCCESS

    def _readable(self, span: Span) -> Any:
        from opentelemetry.sdk.trace import Event, ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

        trace, flags = int(span.trace, 16), TraceFlags(TraceFlags.SAMPLED)
        state = TraceState.from_header([span.state]) if span.state else None
        return ReadableSpan(
            span.name,
            context=SpanContext(
                trace, int(span.id, 16), is_remote=False, trace_flags=flags, trace_state=state
            ),
            parent=SpanContext(trace, int(span.parent, 16), is_remote=True, trace_flags=flags),
            resource=self._resource,
            attributes=dict(span.attributes),
            events=[Event(name, timestamp=at_ms * MILLISECOND) for name, at_ms in span.events],
            kind=SpanKind[span.kind.upper()],
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.OK),
            start_time=span.start_ms * MILLISECOND,
            end_time=span.end_ms * MILLISECOND,
            instrumentation_scope=self._scope,
        )


def _checked(endpoint: str) -> str:
    """The URL of the traces. Raises: BadInput."""
    try:
        parsed = urlsplit(endpoint)
        known = parsed.scheme in ("http", "https") and bool(parsed.hostname) and parsed.port != 0
    except ValueError:
        known = False
    if not known or parsed.query or parsed.fragment:
        raise BadInput(
            f"[telemetry] otlp_endpoint is {_told(endpoint)!r:.100}",
            fix="write a URL, as http://127.0.0.1:4318",
        )
    base = endpoint.rstrip("/")
    return base if base.endswith(PATH) else base + PATH


def _told(endpoint: str) -> str:
    """As `status` and the log show it: a password in it is for the collector alone."""
    return _USER.sub("", endpoint, count=1)
