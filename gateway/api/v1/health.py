"""Health: for whoever starts and restarts the gateway, and for who puts it behind a balancer. No account
is asked.

``/livez``: the process and its loop answer.   ``/readyz``: work is accepted: the broker is reached, the
disk takes it.
"""

from __future__ import annotations

from fastapi import APIRouter, Response

from gateway.api.answers import PROBLEMS, example, told
from gateway.api.guard import Asking, Guarded, for_anybody
from gateway.api.problems import Problem

router = APIRouter(tags=["health"], route_class=Guarded, responses=PROBLEMS)


@router.get("/livez", responses=example({"live": True}, "It answers."))
@for_anybody(lan=True)
async def livez() -> Response:
    """Does the process answer?"""
    return told({"live": True})


@router.get("/readyz", responses=example({"ready": True}, "Work is accepted."))
@for_anybody(lan=True)
async def readyz(ask: Asking) -> Response:
    """Is work accepted now? 503 names what is missing."""
    status = await ask.services.call("status")
    missing = []
    if not status["broker"]["connected"]:
        missing.append("the broker is not reached")
    if status["draining"]:
        missing.append("the gateway is shutting down")
    if status.get("store", {}).get("mode", "writing") != "writing":
        missing.append("its disk takes no work")
    if missing:
        raise Problem(
            "unavailable", "; ".join(missing), fix="see `edge-gateway doctor`", headers={"Retry-After": "2"}
        )
    return told({"ready": True})
