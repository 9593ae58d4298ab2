"""Metrics: the gateway's figures as Prometheus reads them (``gateway.metrics``)."""

from __future__ import annotations

from fastapi import APIRouter, Response
from starlette.responses import PlainTextResponse

from gateway.access.roles import Role
from gateway.api.answers import PROBLEMS
from gateway.api.guard import Asking, Guarded, needs

router = APIRouter(tags=["metrics"], route_class=Guarded, responses=PROBLEMS)
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
EXAMPLE = "# TYPE edgeweave_tasks_accepted_total counter\nedgeweave_tasks_accepted_total 7\n"


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={200: {"description": "As text.", "content": {"text/plain": {"example": EXAMPLE}}}},
)
@needs(Role.VIEWER, "metrics:read")
async def metrics(ask: Asking) -> Response:
    """The gateway's figures, in Prometheus' text format. Give Prometheus a token of scope metrics:read."""
    found = await ask.services.call("metrics")
    return Response(found["text"], media_type=MEDIA_TYPE)
