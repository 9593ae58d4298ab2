"""Account: everything that one member can say about an id, from its ledger and its chronicle.

    id or prefix ─► whose is it? ─┬─ a task      ledger's rows + entries about it + what befell its places
                                  ├─ a cause     entries that bear it
                                  ├─ a node      entries about it, newest last
                                  └─ a function  entries about it

The ledger's rows become entries here (number 0), so that whoever tells the story reads one kind of thing.
Bodies are not looked at: what a function was given, printed or returned is no part of any story.

Pure: `Kept` and `Books` are read where a wait does not matter (an archive's thread, a command).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from edge_node.chronicle.entry import Details, Entry, Subject, What, bounded, size_of
from edge_node.tasks.task import ANY
from edge_node.tasks.tracing import parts
from edge_node.wire.messages import STORY_BYTES_MAX, STORY_ENTRIES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edge_node.tasks.rows import Stored
    from edge_node.tasks.task import Attempt

ENTRIES_MAX = STORY_ENTRIES_MAX - 12
ABOUT_MAX = 300
"""Entries about one id; of a node that has flapped for weeks the newest count."""
AROUND_MAX = 60
AROUND_READ_MAX = 240  # a busy member notes several gaps a second; they become one
AROUND_MS = 30_000
"""A loss is noticed up to 15 s after it began: what befell a place is told so long after the end."""
NEAR_MAX = 5
BYTES_MAX = STORY_BYTES_MAX - 2048
OPEN_ATTEMPT = ("", "running")


class Kept(Protocol):
    """A chronicle where it is kept. Every list ascends by number; the newest of what is too much."""

    def about(self, name: str, limit: int) -> list[Entry]:
        """Entries whose subject's id is this."""

    def caused_by(self, cause: str, limit: int) -> list[Entry]: ...

    def of_nodes(self, names: Sequence[str], from_ms: int, to_ms: int, limit: int) -> list[Entry]:
        """Entries about these nodes, noted between these moments."""

    def names(self, prefix: str, limit: int) -> list[str]:
        """Ids and causes that begin so, ascending."""

    def since_ms(self) -> int:
        """The moment of the oldest entry, if some were forgotten before it; else 0."""


class Books(Protocol):
    """The ledger: a journal, or the file of one."""

    def get(self, task_id: str) -> Stored | None: ...

    def ids(self, prefix: str, limit: int) -> Sequence[str]:
        """Accepted tasks whose ids begin so, ascending."""


class Account(msgspec.Struct, frozen=True):
    """What one member says. `name`: the whole id; empty: nothing is known, then `near` are ids like it."""

    name: str = ""
    entries: tuple[Entry, ...] = ()
    complete: bool = True
    since_ms: int = 0
    near: tuple[str, ...] = ()


def witnessed(me: str, asked: str, kept: Kept, books: Books, now_ms: int) -> Account:
    """Args: asked: an id, or the beginning of one that no other shares."""
    name, near = _resolved(asked, kept, books)
    if not name:
        return Account(near=near)
    stored = books.get(name)
    entries = of_ledger(me, stored) if stored is not None else []
    about = kept.about(name, ABOUT_MAX)
    bearing = kept.caused_by(name, ABOUT_MAX)
    entries += _without_repeats(about + bearing, entries)
    if not entries:
        return Account(near=near)
    if stored is not None or any(each.subject == Subject.TASK and each.id == name for each in entries):
        entries += _around(me, name, entries, kept, now_ms)
    entries, complete = _cut(entries)
    full = len(about) >= ABOUT_MAX or len(bearing) >= ABOUT_MAX
    return Account(name, tuple(entries), complete and not full, kept.since_ms())


def _resolved(asked: str, kept: Kept, books: Books) -> tuple[str, tuple[str, ...]]:
    """(the whole id, or empty; ids that begin so, or that share the longest beginning)."""
    if books.get(asked) is not None or kept.about(asked, 1) or kept.caused_by(asked, 1):
        return asked, ()
    prefix = asked
    while prefix and len(prefix) * 2 >= len(asked):
        found = sorted({*books.ids(prefix, NEAR_MAX + 1), *kept.names(prefix, NEAR_MAX + 1)})
        if found:
            if prefix == asked and len(found) == 1:
                return found[0], ()
            return "", tuple(found[:NEAR_MAX])
        prefix = prefix[: len(prefix) * 3 // 4]
    return "", ()


def of_ledger(me: str, stored: Stored) -> list[Entry]:
    """A task's rows as entries."""
    task, outcome = stored.task, stored.outcome
    asked: Details = {"function": task.function, "digest": task.digest.hex()[:16]}
    if task.where != ANY:
        asked["where"] = task.where
    if task.deadline_ms is not None:
        asked["deadline_ms"] = task.deadline_ms
    if task.priority:
        asked["priority"] = task.priority
    if task.trace:
        asked["traceparent"] = parts(task.trace)[0]
    found = [_entry(me, task.id, What.ACCEPTED, task.accepted_at_ms, asked)]
    attempts = outcome.attempts if outcome is not None else stored.attempts
    for attempt in attempts:
        if attempt.ended_as:
            found.append(_attempt(me, task.id, attempt))
    for note in stored.notes:
        found.append(_entry(me, task.id, What.REMARKED, note.at_ms, {"text": note.text}))
    if outcome is not None:
        end: Details = {"status": outcome.status, "reason": outcome.cause, "attempts": len(attempts)}
        if outcome.run_us:
            end["run_us"] = outcome.run_us
        place = me if outcome.place == "local" else outcome.place
        number = attempts[-1].number if attempts else 0
        found.append(_entry(me, task.id, What.SETTLED, outcome.settled_at_ms, end, place, number))
    return found


def _attempt(me: str, task: str, attempt: Attempt) -> Entry:
    details: Details = {"as": attempt.ended_as}
    if attempt.pid:
        details["pid"] = attempt.pid
    if attempt.started_at_ms:
        details["started_at_ms"] = attempt.started_at_ms
    at_ms = attempt.ended_at_ms or attempt.started_at_ms
    return _entry(me, task, What.ATTEMPTED, at_ms, details, attempt.node, attempt.number)


def _entry(
    me: str, task: str, what: What, at_ms: int, details: Details, place: str = "", attempt: int = 0
) -> Entry:
    return Entry(
        0, at_ms, me, Subject.TASK.value, task, what.value, task, place, attempt, bounded(details)
    )  # fmt: skip


def _without_repeats(found: Iterable[Entry], told: Sequence[Entry]) -> list[Entry]:
    seen = {each.number for each in told if each.number}
    kept = []
    for each in found:
        if each.number not in seen:
            seen.add(each.number)
            kept.append(each)
    return kept


def places_of(entries: Iterable[Entry]) -> list[str]:
    """Members that had part in a task, in the order they come up; whoever noted it is one."""
    found: dict[str, None] = {}
    for each in entries:
        if each.subject == Subject.TASK:
            found[each.node] = None
            if each.place:
                found[each.place] = None
    return list(found)


def _around(me: str, task: str, entries: list[Entry], kept: Kept, now_ms: int) -> list[Entry]:
    """What befell this member and the task's places while it lasted, and what its entries followed from."""
    mine = [each for each in entries if each.id == task and each.at_ms]
    if not mine:
        return []
    from_ms = min(each.at_ms for each in mine)
    ended = any(each.what == What.SETTLED for each in mine)
    to_ms = max(each.at_ms for each in mine) + AROUND_MS if ended else max(now_ms, from_ms)
    read = kept.of_nodes([me, *places_of(mine)], from_ms, to_ms, AROUND_READ_MAX)
    near = _gaps_told_once(read, max(each.at_ms for each in mine) if ended else to_ms)[-AROUND_MAX:]
    for cause in dict.fromkeys(each.cause for each in mine if each.cause != task):
        near += [each for each in kept.caused_by(cause, AROUND_MAX) if each.subject != Subject.TASK]
    return _without_repeats([each for each in near if each.what != What.EPOCH], entries)


def _gaps_told_once(entries: list[Entry], until_ms: int) -> list[Entry]:
    """What was left out while it lasted, summed up by kind; what was left out afterwards is not its story.

    Args: entries: by number, as what is returned.   until_ms: when it was over.
    """
    gaps: dict[tuple[str, str], Entry] = {}
    others: list[Entry] = []
    for each in entries:
        if each.what != What.LEFT_OUT:
            others.append(each)
        elif int(each.details.get("since_ms", each.at_ms)) <= until_ms:
            key = (each.node, str(each.details.get("kind", "")))
            before = gaps.get(key)
            if before is not None:
                count = int(before.details.get("count", 0)) + int(each.details.get("count", 0))
                gaps[key] = msgspec.structs.replace(each, details={**before.details, "count": count})
            else:
                gaps[key] = each
    return sorted([*others, *gaps.values()], key=lambda each: each.number)


def _cut(entries: list[Entry]) -> tuple[list[Entry], bool]:
    """The ledger's and then the newest, as many as an answer holds; and whether that is all."""
    size = 0
    kept: list[Entry] = []
    for each in sorted(entries, key=lambda each: (each.number != 0, -each.number)):
        size += size_of(each)
        if size > BYTES_MAX or len(kept) >= ENTRIES_MAX:
            break
        kept.append(each)
    chosen = {id(each) for each in kept}
    return [each for each in entries if id(each) in chosen], len(kept) == len(entries)
