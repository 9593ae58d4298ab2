"""What the figures of a record are called, in which unit they are, and what they mean.

One table for everybody who names a figure: ``--assert``, the report, the documents. Not here: their values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple


class Meaning(NamedTuple):
    """`unit`: empty for a count."""

    unit: str
    text: str


FIGURES: Final[Mapping[str, Meaning]] = {
    "asked": Meaning("", "tasks that clients handed to their node"),
    "accepted": Meaning("", "tasks that a node said yes to"),
    "refused": Meaning("", "tasks that a node said no to, with a reason"),
    "completed": Meaning("", "accepted tasks whose client was told done"),
    "failed": Meaning("", "accepted tasks whose client was told another end: failed, cancelled, quarantined"),
    "expired": Meaning("", "accepted tasks whose client was told that their time was over"),
    "open": Meaning("", "accepted tasks whose client had not been told an end when the run was over"),
    "lost": Meaning("", "open tasks that no disk keeps; for a fleet also: ended otherwise than told"),
    "explained": Meaning("", "open tasks of nodes that a fault took away for good"),
    "duplicates": Meaning(
        "", "runs that ended done beyond the first of their task (of real daemons: late results)"
    ),
    "offloaded": Meaning("", "completed tasks that another node or the gateway ran"),
    "peers": Meaning("", "completed tasks that another node ran"),
    "p50_ms": Meaning(
        "ms", "half of the completed tasks took no longer, from the client's call to its answer"
    ),
    "p95_ms": Meaning("ms", "95 % of them took no longer"),
    "p99_ms": Meaning("ms", "99 % of them took no longer"),
    "max_ms": Meaning("ms", "the slowest of them"),
    "mean_ms": Meaning("ms", "their mean"),
    "tasks_per_s": Meaning("1/s", "completed tasks divided by the seconds of the run"),
    "messages": Meaning("", "payloads published at the broker"),
    "deliveries": Meaning("", "payloads that the broker handed to a reader"),
    "messages_per_task": Meaning("", "payloads published, presence included, divided by completed tasks"),
    "bytes_per_node_minute": Meaning(
        "B", "payload bytes sent and received (of real daemons: with TLS), divided by nodes and minutes"
    ),
    "crashes": Meaning("", "processes that died otherwise than in order"),
    "faults": Meaning("", "faults injected"),
    "left_out": Meaning("", "tasks that clients did not ask for: their node was away, or not ready"),
    "violations": Meaning("", "promises and expectations that were not kept"),
    "resumed": Meaning("", "promises open when their node was killed that ended well"),
    "verified": Meaning("", "results computed again"),
    "differing": Meaning("", "of these, results that came out otherwise"),
    "kill_to_replacement_s": Meaning(
        "s", "from a kill to the first new attempt of a task it cut off, the worst"
    ),
    "speed_up": Meaning("", "seconds of the fleet's time in one of ours; in virtual time only"),
    "revoked_cut_s": Meaning("s", "until a revoked node had no connection any more, the worst"),
}
"""In the order in which they are shown. Which of them a run has depends on its kind and on what happened."""


def ordered(figures: Mapping[str, float]) -> Iterator[tuple[str, float, Meaning]]:
    """(name, value, meaning): in this table's order, then those that it does not know by name."""
    for name, meaning in FIGURES.items():
        if name in figures:
            yield name, figures[name], meaning
    for name in sorted(figures.keys() - FIGURES.keys()):
        yield name, figures[name], Meaning("", "")
