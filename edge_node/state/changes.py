"""What becomes of a table, as it happens: the daemon keeps a bounded feed, a program asks for what follows.

    async for change in rooms.watch(where("setpoint_c") > 25):
        change.kind         "added" | "changed" | "removed" | "snapshot"

A change is told if the document matched before it or does after it: whoever watches for warm rooms hears of
one that cools down. Who was away for longer than the feed reaches back, or outlived the daemon that kept it,
is told so once, by a snapshot of all that matches; what follows may repeat what that snapshot shows already.

Not here: waiting and connecting anew (``table``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edge_node.state.exchange import Ask, Exchange
from edge_node.state.spelling import read

if TYPE_CHECKING:
    from tinydb.table import Document

    from edge_node.state.questions import Condition, Questions

WAIT_MS: Final = 20_000
"""Of one long poll: a program that ends leaves the daemon with a request for no longer than this."""


@dataclass(frozen=True, slots=True)
class Change:
    """One document became another. before, after: None where there was, or is, none.

    table: where; node: who wrote it; at_ms: when, by that node's clock (Unix time).
    A snapshot has *documents* only: everything that matches now, after changes that nobody can tell any more.
    """

    kind: str
    table: str
    id: int = 0
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    node: str = ""
    at_ms: int = 0
    documents: tuple[Document, ...] = ()


class Feed:
    """Where one watcher stands."""

    def __init__(self, questions: Questions, condition: Condition | None) -> None:
        self._questions = questions
        self._condition = condition
        self._cursor: str | None = None

    def step(self) -> Exchange[list[Change]]:
        """What has happened since; empty: nothing for a while. The first step only takes up position.

        Raised in the midst, it is as if it had not been asked.
        """
        yield from self._questions.declared()
        began = self._cursor is not None
        params: dict[str, Any] = {
            "table": self._questions.table,
            "after": self._cursor,
            "wait_ms": WAIT_MS if began else 0,
        }
        if self._condition is not None and self._condition.data is not None:
            params["where"] = self._condition.data
        answer = yield Ask("state.watch", params)
        if answer["missed"] and began:
            documents = yield from self._questions.snapshot(self._condition)
            changes = [Change("snapshot", self._questions.table, documents=tuple(documents))]
        else:
            changes = [change for row in answer["changes"] if (change := self._read(row)) is not None]
        self._cursor = answer["cursor"]
        return changes

    def _read(self, row: dict[str, Any]) -> Change | None:
        before = None if row["before"] is None else read(row["before"])
        after = None if row["after"] is None else read(row["after"])
        condition = self._condition
        if condition is not None and not any(
            each is not None and condition.keeps(each) for each in (before, after)
        ):
            return None
        kind = "added" if before is None else "removed" if after is None else "changed"
        return Change(kind, self._questions.table, row["id"], before, after, row["node"], row["at_ms"])
