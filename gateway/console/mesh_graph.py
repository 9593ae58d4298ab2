"""Mesh graph: the gateway, its members and what goes on between them, drawn in the browser; also as a table.

It is told one compact frame a second (`frames`), made once for all who look, and none while its page is not
to be seen. It asks for a whole one when it begins and when one went missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nicegui.element import Element

from gateway.console.frames import Frames
from gateway.console.trails import Trails

if TYPE_CHECKING:
    from gateway.console.view import View

frames, trails = Frames(), Trails()
"""Of this gateway: a process keeps one console."""


class MeshGraph(Element, component="static/mesh_graph.js"):
    """Args: by: how nodes are grouped at first: ``label:site``, ``roles``, ``none``; "": as fits."""

    def __init__(self, view: View, by: str) -> None:
        super().__init__()
        self._clock = view.services.clock
        self._sent = 0
        self._looks = False
        self._props["by"] = by
        self.on("looks", self._looked)

    def tell(self, picture: Mapping[str, Any]) -> None:
        """A whole picture of the mesh (`live.follow`)."""
        keep(self._clock.now_ns(), self._clock.wall_ms(), picture)
        self._send()

    def _looked(self, event: Any) -> None:
        """Whether it can be seen, and the version it has."""
        self._looks, version = bool(event.args["looks"]), event.args["version"]
        self._sent = version if isinstance(version, int) else 0
        self._send()

    def _send(self) -> None:
        if self._looks and frames.version:
            frame = frames.since(self._sent)
            if frame is not None:
                self._sent = frame["v"]
                self.run_method("told", frame)


def keep(now_ns: int, wall_ms: int, picture: Mapping[str, Any]) -> None:
    """What all pages that show the mesh share of it."""
    if picture["version"] != frames.version:
        frames.tell(now_ns, picture)
        trails.tell(now_ns, wall_ms, picture)
