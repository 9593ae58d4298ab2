"""Mesh: the whole mesh at one look, alive."""

from __future__ import annotations

from gateway.console import live
from gateway.console.mesh_graph import MeshGraph
from gateway.console.parts import link
from gateway.console.view import View, heading, page, to


@page("/", title="Mesh", section="mesh")
async def mesh(view: View, by: str = "") -> None:
    with heading("Mesh", under="The gateway, its members, and what goes on between them"):
        link("Join a node", to("/join"), cls="btn btn--primary" if view.operates else "btn")
    graph = MeshGraph(view, by[:140])
    live.follow(view, graph.tell)


PAGES = (mesh,)
