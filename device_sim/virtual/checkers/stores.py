"""Stores: whose was damaged on purpose, and what its journal says of it.

A journal names damage either by the task ("<task>/<kind>: …") or for the file as a whole (anything else).
"""

from __future__ import annotations

from device_sim.virtual.evidence import DAMAGES_A_STORE, End, Event, Happened
from edge_node.wire.ids import is_task_id


class Stores:
    wants = (Happened,)

    def __init__(self) -> None:
        self.hit: dict[str, int] = {}
        """Node -> when its store was damaged first."""

    def saw(self, event: Event) -> None:
        if type(event) is Happened and event.do in DAMAGES_A_STORE:
            self.hit.setdefault(event.node, event.at_ns)

    def excuses(self, end: End, node: str, task: str) -> bool:
        """Damaged on purpose, and this task, or the whole store, is named: then it may be missing (P6)."""
        return node in self.hit and names(end, node, task)


def names(end: End, node: str, task: str) -> bool:
    """Does the node's journal name this task, or the file as a whole?"""
    return any(
        subject == task or not is_task_id(subject)
        for subject in (line.partition("/")[0] for line in end.damaged.get(node, ()))
    )
