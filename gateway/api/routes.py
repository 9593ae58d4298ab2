"""Every route of the HTTP API, put into the gateway's app."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from gateway.api import problems, setup_page
from gateway.api.openapi import openapi_router
from gateway.api.services import Services
from gateway.api.v1 import access, events, functions, health, joining, metrics, nodes, state, tasks


def routers() -> list[APIRouter]:
    """In the order in which they are described."""
    rooms = [
        *(health.router, metrics.router, nodes.router, joining.router, functions.router),
        *(tasks.router, state.router, events.router, access.router),
    ]
    return [*rooms, openapi_router(rooms), setup_page.router]


def install(app: FastAPI, services: Services) -> None:
    """Before the app's first request."""
    app.state.services = services
    problems.install(app)
    for router in routers():
        app.include_router(router)
