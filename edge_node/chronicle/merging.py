"""Merging: entries of several members in one order, by cause before clock.

Clocks differ, so a member's times only order what that member noted; between members, cause decides:

    accepted < [ placed n < took n < ran n < refused n < turned down, lapsed, died n ]… < settled

What befell a node has no number: it stands where its noter's clock puts it among that noter's own entries,
or, if its noter had no part in the task, where the clock puts it after its skew is taken off. What is
told twice (by the ledger and by the chronicle, of one attempt) is told once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from edge_node.chronicle.entry import Entry, Subject, What

SKEW_MS = 2_000
"""A difference between clocks that is worth a sentence; below, it may be the way of the answer."""
LAST = 1_000_000

_STEPS: dict[str, int] = {
    What.ACCEPTED: 0,
    What.PLACED: 10,
    What.TOOK: 20,
    What.NOT_STARTED: 30,
    What.RAN: 40,
    What.REFUSED: 40,
    What.STOPPED: 45,
    What.TURNED_DOWN: 50,
    What.LAPSED: 50,
    What.WORKER_DIED: 50,
    What.ATTEMPTED: 50,
}
_ENDS = frozenset({What.TURNED_DOWN, What.LAPSED, What.WORKER_DIED})
_TOLD_BY_ENDS = ("refused", "lapsed", "handed back", "worker died", "expired")


def merged(about: str, entries: Iterable[Entry], skews: Mapping[str, int] | None = None) -> list[Entry]:
    """Args: skews: member -> its clock minus the asker's, milliseconds."""
    skews = skews or {}
    unique = _once(entries)
    tasks = [each for each in unique if each.subject == Subject.TASK]
    if not any(each.id == about for each in tasks):
        return sorted(unique, key=lambda each: (_true_ms(each, skews), each.node, each.number))
    tasks = sorted(
        (each for each in tasks if each.id == about), key=lambda each: _place_of(each, tasks, skews)
    )
    others = sorted(
        (each for each in unique if each.subject != Subject.TASK or each.id != about),
        key=lambda each: (_true_ms(each, skews), each.node, each.number),
    )
    return _woven(tasks, others, skews)


def _once(entries: Iterable[Entry]) -> list[Entry]:
    seen: set[tuple[object, ...]] = set()
    found: list[Entry] = []
    for each in entries:
        key = (each.node, each.number, each.at_ms, each.what, each.id, each.place, each.attempt)
        if key not in seen:
            seen.add(key)
            found.append(each)
    ended = {(e.node, e.id, e.attempt) for e in found if e.what in _ENDS}
    unused = {(e.node, e.id) for e in found if e.what == What.NOT_USED}
    return [
        each
        for each in found
        if not (each.what == What.ATTEMPTED and (each.node, each.id, each.attempt) in ended and _is_end(each))
        and not (each.what == What.REMARKED and (each.node, each.id) in unused and "not used" in _text(each))
    ]


def _is_end(each: Entry) -> bool:
    return str(each.details.get("as", "")).startswith(_TOLD_BY_ENDS)


def _text(each: Entry) -> str:
    return str(each.details.get("text", ""))


def _true_ms(each: Entry, skews: Mapping[str, int]) -> int:
    skew_ms = skews.get(each.node, 0)
    return each.at_ms - (skew_ms if abs(skew_ms) > SKEW_MS else 0)


def _place_of(each: Entry, all_of: Sequence[Entry], skews: Mapping[str, int]) -> tuple[int, int, int, int]:
    """(attempt, step, time, number). What is of no step stands where its noter's clock puts it."""
    at_ms = _true_ms(each, skews)
    if each.what == What.ACCEPTED:
        return 0, 0, at_ms, 0
    if each.what == What.SETTLED:
        return LAST, 0, at_ms, 0
    if each.what == What.NOW:
        return LAST, 2, at_ms, 0
    if each.what in _STEPS:
        return each.attempt, _STEPS[each.what], at_ms, each.number
    same = [e for e in all_of if e.node == each.node and e.number != each.number]
    if any(e.what == What.SETTLED and e.at_ms <= each.at_ms for e in same):
        return LAST, 1, at_ms, each.number
    reached = max((e.attempt for e in same if e.what in _STEPS and e.at_ms <= each.at_ms), default=0)
    return max(reached, each.attempt), 60, at_ms, each.number


def _woven(tasks: Sequence[Entry], others: Sequence[Entry], skews: Mapping[str, int]) -> list[Entry]:
    """What befell nodes: between its noter's own entries, and among those of others by the clock."""
    slots: dict[int, list[Entry]] = {}
    for other in others:
        at_ms = _true_ms(other, skews)
        own = [index for index, each in enumerate(tasks) if each.node == other.node]
        first = next((index for index in own if _is_after(tasks[index], other)), len(tasks))
        last = max((index + 1 for index in own if index < first), default=0)
        slot = next((i for i in range(last, first) if _true_ms(tasks[i], skews) > at_ms), first)
        slots.setdefault(slot, []).append(other)
    found: list[Entry] = []
    for index, each in enumerate(tasks):
        found += slots.get(index, [])
        found.append(each)
    return found + slots.get(len(tasks), [])


def _is_after(each: Entry, other: Entry) -> bool:
    """By their one noter's clock, then by its numbers."""
    if each.at_ms == other.at_ms:
        return 0 < other.number < each.number
    return each.at_ms > other.at_ms


def without_echoes(about: str, entries: Sequence[Entry]) -> list[Entry]:
    """Of what several members noted of one node, what matters for this story: for a task, the word of its
    owner and of the node itself; the same loss seen by five others is one loss."""
    owners = {each.node for each in entries if each.what == What.ACCEPTED and each.id == about}
    if not owners:
        return list(entries)
    return [
        each
        for each in entries
        if each.subject != Subject.NODE or each.node in owners or each.id == each.node
    ]
