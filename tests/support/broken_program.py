"""``device-sim`` with one defect, for those who try what a swarm makes of it.

    EDGEWEAVE_DEFECT=early python tests/support/broken_program.py swarm --seeds 1

The worker processes of a swarm load the main program too, so the defect is in each of them.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from device_sim import cli
from device_sim.virtual.world import World
from edge_node.tasks.events import Reply
from edge_node.tasks.ledger import Ledger

original = Ledger.accept


def early(self: Ledger, now_ns: int, task: Any, token: int, out: list[Any]) -> Any:
    """Yes, before the disk has it."""
    entry = original(self, now_ns, task, token, out)
    out.append(Reply(token, True, "", task.id))
    entry.tokens.clear()
    return entry


def raises(self: Ledger, now_ns: int, task: Any, token: int, out: list[Any]) -> Any:
    raise KeyError(f"a core that falls over {task.function}")


def circles(self: Ledger, now_ns: int, task: Any, token: int, out: list[Any]) -> Any:
    while True:
        pass


def dies(self: Ledger, now_ns: int, task: Any, token: int, out: list[Any]) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def noted(world: World, place: str, kind: str, detail: str = "") -> None:
    """What happens depends on the order of a set."""
    first = next(iter({f"{kind} {number}" for number in range(64)})) if kind == "accepted" else ""
    note(world, place, kind, detail + first)


note = World.note
match os.environ.get("EDGEWEAVE_DEFECT"):
    case "early":
        Ledger.accept = early  # type: ignore[method-assign]
    case "raises":
        Ledger.accept = raises  # type: ignore[method-assign]
    case "circles":
        Ledger.accept = circles  # type: ignore[method-assign]
    case "dies":
        Ledger.accept = dies  # type: ignore[method-assign]
    case "salted":
        World.note = noted  # type: ignore[method-assign]

if __name__ == "__main__":
    cli.main()
