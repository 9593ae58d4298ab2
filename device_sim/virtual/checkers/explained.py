"""Explained (P8): what did not go plainly has a cause on its owner's disk that leads to the story.

    refused at the door      an id was told with it, and that id leads to an entry
    ended otherwise than done   the terminal record has a sentence
    done after attempt 1     each attempt before it tells how it ended, and there is one
    lapsed, refused, handed back, died   the owner's chronicle tells of that attempt, and why

The chronicle is bounded: of a node whose archive has forgotten something, or has said that it left something
out, only the ledger is judged. A duplicate result is not: whether it arrived cannot be seen from outside.
"""

from __future__ import annotations

from typing import Final

import msgspec

from device_sim.virtual.checkers.violations import Violations
from device_sim.virtual.evidence import Answered, End, Event, Row, Verdict
from edge_node.chronicle.entry import Entry, What
from edge_node.tasks.states import Status
from edge_node.tasks.task import Attempt, Outcome

CLOSED: Final = 1
_ENDS: Final = frozenset({What.LAPSED.value, What.TURNED_DOWN.value, What.WORKER_DIED.value})
_TOLD_BY_THEM: Final = ("lapsed", "refused", "handed back", "worker died")
_outcome = msgspec.msgpack.Decoder(Outcome)


class Explained:
    name = "everything is explained"
    promise = "P8"
    wants: tuple[type, ...] = (Answered,)

    def __init__(self) -> None:
        self._found = Violations()
        self._refusals: list[tuple[int, str, str, str]] = []
        self._judged = 0

    def saw(self, event: Event) -> None:
        assert isinstance(event, Answered)
        if event.accepted:
            return
        self._refusals.append((event.at_ns, event.node, event.task, event.cause))
        if not event.reason:
            self._found.add(event.at_ns, event.node, "refused without a reason", event.task)
        if not event.cause:
            self._found.add(event.at_ns, event.node, "refused without a cause id", event.task)

    def verdict(self, end: End) -> Verdict:
        told = {node: _Told(kept.entries) for node, kept in end.chronicles.items()}
        whole = {
            node for node, kept in end.chronicles.items() if not kept.forgotten and not told[node].left_out
        }
        for at_ns, node, task, cause in self._refusals:
            self._judged += 1
            if cause and node in whole and cause not in told[node].causes:
                self._found.add(at_ns, node, f"refused as {cause}, which leads nowhere", task)
        for node in sorted(end.ledgers):
            chronicle = told[node] if node in whole else None
            for row in end.ledgers[node]:
                if row.kind == CLOSED:
                    self._closed(end, node, row, chronicle)
        nothing = "" if self._judged else "every task went plainly, and none was refused"
        partly = len(end.chronicles) - len(whole)
        remark = f"{self._judged} that did not go plainly"
        if partly:
            remark += f"; {partly} nodes by their ledgers alone"
        return self._found.verdict(self.name, self.promise, nothing=nothing, remark=remark)

    def _closed(self, end: End, node: str, row: Row, chronicle: _Told | None) -> None:
        try:
            outcome = _outcome.decode(row.body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return  # another checker's word
        attempts = outcome.attempts
        plain = outcome.status == Status.DONE and all(each.number <= 1 for each in attempts)
        if plain and len(attempts) <= 1:
            return
        self._judged += 1
        at_ns = end.at_ns if row.written_ns is None else row.written_ns
        if outcome.status != Status.DONE and not outcome.cause:
            self._found.add(at_ns, node, f"ended {outcome.status} without a cause", row.task)
        if outcome.status == Status.DONE and not any(each.ended_as for each in attempts[:-1]):
            self._found.add(at_ns, node, f"attempt {attempts[-1].number} without one before it", row.task)
        for each in attempts:
            if not each.ended_as:
                self._found.add(at_ns, node, f"attempt {each.number} ended nobody knows how", row.task)
            elif chronicle is not None and not chronicle.tells(row.task, each):
                what = f"attempt {each.number} {each.ended_as}, and its owner's chronicle does not say why"
                self._found.add(at_ns, node, what, row.task)


class _Told:
    """What a chronicle tells."""

    def __init__(self, entries: tuple[Entry, ...]) -> None:
        self.causes = {each.cause: None for each in entries}
        self.ends = {(each.id, each.attempt): None for each in entries if each.what in _ENDS}
        self.left_out = any(each.what == What.LEFT_OUT for each in entries)

    def tells(self, task: str, attempt: Attempt) -> bool:
        """How this attempt ended, if that is its to tell."""
        return not attempt.ended_as.startswith(_TOLD_BY_THEM) or (task, attempt.number) in self.ends
