"""A small OpenTelemetry collector: takes OTLP over HTTP on loopback, and understands it."""

from __future__ import annotations

import gzip
import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Collector:
    """``with Collector() as collector``; ``status``: what it answers from now on."""

    def __init__(self) -> None:
        self.status = 200
        self.came: queue.Queue[ExportTraceServiceRequest] = queue.Queue()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
                if collector.status == 200:
                    collector.came.put(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(collector.status)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def spans(self, count: int, within_s: float = 30.0) -> dict[str, Any]:
        """The next spans by their names, once so many are there. Raises: queue.Empty: they do not come."""
        found: dict[str, Any] = {}
        while len(found) < count:
            request = self.came.get(timeout=within_s)
            for resource in request.resource_spans:
                self.resource = told(resource.resource.attributes)
                for scope in resource.scope_spans:
                    found |= {span.name: span for span in scope.spans}
        return found


def told(attributes: Any) -> dict[str, Any]:
    """Attributes as plain values."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
