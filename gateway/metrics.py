"""Metrics of a gateway: as every daemon's (``edge_node.metrics``), and what it knows of each member.

A member that is asked for its own metrics tells more; these are for who watches the gateway alone. Labels
are bounded by the roster. Members that were revoked or left are counted, not named: nobody is woken for
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args

from edge_node import metrics
from edge_node.metrics import Metric, Sample
from gateway.fleet.registry import NodeRow, State
from security.identity import GATEWAY

OF_MEMBERS: Final = {
    "edgeweave_nodes": Metric("gauge", ("state",), "Members on the list, by their state."),
    "edgeweave_node_up": Metric(
        "gauge", ("node",), "1: the member is there; 0: it is down, or not seen yet."
    ),
    "edgeweave_node_last_heard_timestamp_seconds": Metric("gauge", ("node",), "When it was heard last."),
    "edgeweave_node_workers": Metric("gauge", ("node",), "Its workers."),
    "edgeweave_node_backlog_seconds": Metric(
        "gauge", ("node",), "Until its workers were through with what waits there, as it told."
    ),
    "edgeweave_node_draining": Metric("gauge", ("node",), "1: it takes no work."),
    "edgeweave_node_restarts_total": Metric(
        "counter", ("node",), "Its starts since the gateway's, but the first."
    ),
}
OF_THE_API: Final = {
    "edgeweave_http_requests_total": Metric(
        "counter",
        ("method", "route", "status"),
        "Answers of the port: API, joining, console. route: as it is written.",
    ),
    "edgeweave_http_request_duration_seconds": Metric(
        "histogram", ("method", "route"), "Until the answer, or the beginning of one that lasts."
    ),
    "edgeweave_http_streams": Metric("gauge", (), "Streams of events that are open."),
}
METRICS: Final[dict[str, Metric]] = metrics.METRICS | OF_MEMBERS | OF_THE_API


def render(
    status: Mapping[str, Any],
    durations: Mapping[str, Any],
    rows: Iterable[NodeRow],
    *,
    home: Path,
    wall_ms: int,
    api: Iterable[Sample] = (),
) -> str:
    """The whole exposition. Reads certificates and /proc: not on a loop.

    Args: rows: of the registry; the gateway's own is left out, it tells of itself.   api: its traffic.
    Raises: OSError: the home is gone.
    """
    return metrics.text(
        [
            *metrics.of_status(status),
            *metrics.of_durations(durations),
            *metrics.of_home(home),
            *of_members(rows, wall_ms),
            *api,
        ],
        METRICS,
    )


def of_members(rows: Iterable[NodeRow], wall_ms: int) -> Iterator[Sample]:
    """Args: wall_ms: now."""
    others = [row for row in rows if row.id != GATEWAY]
    for state in get_args(State):
        yield "edgeweave_nodes", {"state": state}, sum(row.state == state for row in others)
    for row in others:
        if row.state in ("revoked", "left"):
            continue
        label = {"node": row.id}
        yield "edgeweave_node_up", label, row.state == "up"
        yield "edgeweave_node_restarts_total", label, row.restarts
        if row.heard_ago_s is None:
            continue
        heard_s = round(wall_ms / 1e3 - row.heard_ago_s, 3)
        yield "edgeweave_node_last_heard_timestamp_seconds", label, heard_s
        yield "edgeweave_node_workers", label, row.workers
        yield "edgeweave_node_backlog_seconds", label, row.backlog_ms / 1e3
        yield "edgeweave_node_draining", label, row.draining
