"""Every route of the HTTP API, put into the gateway's app."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from starlette.responses import RedirectResponse, Response

from gateway.api import problems, setup_page
from gateway.api.counted import Counted
from gateway.api.openapi import openapi_router
from gateway.api.services import Services
from gateway.api.slashes import Slashes
from gateway.api.v1 import (
    access,
    events,
    faring,
    functions,
    health,
    joining,
    logs,
    manager,
    metrics,
    nodes,
    state,
    tasks,
)
from gateway.console import log_in_page
from gateway.console.console import ICON, PATH, Console

CACHED = {"cache-control": "max-age=86400"}


def routers() -> list[APIRouter]:
    """In the order in which they are described."""
    rooms = [
        *(health.router, metrics.router, nodes.router, joining.router, functions.router),
        *(faring.router, logs.router, manager.status_router),
        *(tasks.router, state.router, manager.router, events.router, access.router),
    ]
    return [*rooms, openapi_router(rooms), setup_page.router, log_in_page.router]


def _beside(icon: Response) -> APIRouter:
    """What a browser asks for before it knows where the console is."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def front() -> Response:
        return RedirectResponse(f"{PATH}/", 307)

    @router.get("/favicon.ico")
    async def favicon() -> Response:
        return icon

    return router


def install(app: FastAPI, services: Services) -> Console:
    """Before the app's first request. Returns: the console, which has to be closed."""
    app.state.services = services
    problems.install(app)
    app.add_middleware(Slashes)
    app.add_middleware(Counted, traffic=services.traffic, mounts=(PATH,))
    for router in routers():
        app.include_router(router)
    console = Console(app, services)
    app.include_router(_beside(Response(ICON, media_type="image/svg+xml", headers=CACHED)))
    app.mount(PATH, console)
    services.expected = console.prepare
    return console
