"""Traffic: how many requests the gateway's port answered, how, and how long it took.

By the route as it is written (``/v1/nodes/{node}``), never by the path asked for: what strangers send
makes no new series. Requests that no route takes are one route of their own, without a duration.

In: an answer. Out: samples for ``/metrics``. Bounded by the routes there are, times the answers that exist.
Not here: what an answer is, and by which route it came (``counted``).
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_node.metrics import Sample

BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Most answers come from memory; what waits for a result does so for 30 s at most."""
NO_ROUTE: Final = "(none)"
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class _Route:
    __slots__ = ("counts", "statuses", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0
        self.statuses: dict[int, int] = {}


class Traffic:
    """Since the start of the gateway."""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], _Route] = {}

    def answered(self, method: str, route: str, status: int, seconds: float | None = None) -> None:
        """Args: route: as it is written, or `NO_ROUTE`.   seconds: until the answer, or its beginning."""
        key = (method if method in METHODS else "other", route)
        held = self._routes.get(key)
        if held is None:
            held = self._routes[key] = _Route()
        held.statuses[status] = held.statuses.get(status, 0) + 1
        if seconds is not None:
            held.counts[bisect_left(BOUNDS_S, seconds)] += 1
            held.sum_s += seconds

    def samples(self) -> Iterator[Sample]:
        for (method, route), held in sorted(self._routes.items()):
            labels = {"method": method, "route": route}
            for status, count in sorted(held.statuses.items()):
                yield "edgeweave_http_requests_total", labels | {"status": str(status)}, count
            below = list(accumulate(held.counts))
            if not below[-1]:
                continue
            name = "edgeweave_http_request_duration_seconds"
            for bound, count in zip([*map(str, BOUNDS_S), "+Inf"], below, strict=True):
                yield f"{name}_bucket", labels | {"le": bound}, count
            yield f"{name}_sum", labels, held.sum_s
            yield f"{name}_count", labels, below[-1]
