"""Stores: whose was damaged on purpose, and what its journal says of it.

A journal names damage either by the task ("<task>/<kind>: …") or for the file as a whole (anything else).
"""

from __future__ import annotations

from collections.abc import Container

from device_sim.virtual.evidence import DAMAGES_A_STORE, End, Event, Happened


class Stores:
    wants = (Happened,)

    def __init__(self) -> None:
        self.hit: dict[str, int] = {}
        """Node -> when its store was damaged first."""

    def saw(self, event: Event) -> None:
        if type(event) is Happened and event.do in DAMAGES_A_STORE:
            self.hit.setdefault(event.node, event.at_ns)

    def excuses(self, end: End, node: str, task: str, known: Container[str]) -> bool:
        """Damaged on purpose, and this record may be among what is named: then it may be missing (P6)."""
        return node in self.hit and names(end, node, task, known)


def names(end: End, node: str, task: str, known: Container[str]) -> bool:
    """Does the node's journal name this task, or the file, or a record of which it cannot tell whose it is?

    *known*: the tasks that clients know. An id that is none of them is what a flipped bit made of one.
    """
    subjects = (line.partition("/")[0] for line in end.damaged.get(node, ()))
    return any(subject == task or subject not in known for subject in subjects)
