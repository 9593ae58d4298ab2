"""Timeline: the story of an id as it is drawn: lanes of members, marks, what ran, and what is missing.

    answer of `why` ─► entries in order ─► marks    numbered as the sentences are, on the lane of their place
                                       ─► spans    what ran or was held there, from and to
                                       ─► ways     offers and results between lanes
                                       ─► lanes    with the sides that could not be asked, or have forgotten
                                       ─► breaks   long waits, which are drawn short and say so

Times are milliseconds of the asker's wall clock: the order of the story is kept even where clocks differ a
little, and a clock that is far off is taken off. Sentences are those of the command line (`narrator`), cut
into parts, so that the browser writes their times in the reader's zone.

Pure. Not here: pixels (``static/timeline.js``), pages (`pages.tasks`, `pages.why`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from edge_node.chronicle.entry import Entry, Subject, What
from edge_node.chronicle.merging import SKEW_MS, merged, without_echoes
from edge_node.chronicle.narrator import heading, remarks, sentence

MARKS_MAX: Final = 60
"""Marks drawn, the newest: more would lie upon each other. The sentences are all there."""
BREAK: Final = 15
"""A wait so many times longer than all that is shorter is drawn short, if that is more than one step."""
Part = str | dict[str, int]
"""Text, or a moment: ``{"at": milliseconds}``."""

_KINDS: Final[dict[str, tuple[str, str]]] = {
    What.ACCEPTED: ("accepted", "busy"),
    What.PLACED: ("offered", "busy"),
    What.TOOK: ("leased", "busy"),
    What.RAN: ("ran", "good"),
    What.ATTEMPTED: ("ran", "good"),
    What.SETTLED: ("result", "good"),
    What.NOT_USED: ("duplicate", "notice"),
    What.LAPSED: ("lost", "bad"),
    What.WORKER_DIED: ("lost", "bad"),
    What.LOST: ("lost", "bad"),
    What.SHUT_OUT: ("lost", "bad"),
    What.LINK_DOWN: ("lost", "bad"),
    What.KILLED: ("lost", "bad"),
    What.TURNED_DOWN: ("refused", "notice"),
    What.REFUSED: ("refused", "notice"),
    What.TURNED_AWAY: ("refused", "bad"),
    What.NOT_STARTED: ("refused", "notice"),
    What.STOPPED: ("stopped", "quiet"),
    What.NOW: ("now", "busy"),
    What.REMARKED: ("remark", "quiet"),
    What.BACK: ("back", "good"),
    What.LINK_UP: ("back", "good"),
    What.STARTED: ("back", "good"),
    What.ENROLLED: ("back", "good"),
    What.RESTARTED: ("back", "notice"),
    What.TAKEN_UP: ("back", "notice"),
    What.CONFLICT: ("remark", "notice"),
    **dict.fromkeys(
        (What.DAMAGED, What.NOT_WRITTEN, What.CODE_MISSED, What.DIVERGED, What.BATCH_DROPPED),
        ("remark", "bad"),
    ),
}
_WELL: Final = frozenset({"done", "completed"})
_ENDED: Final = frozenset({"cancelled", "expired", "stopped"})
_OPEN: Final = "\ue000"
_SHUT: Final = "\ue001"
_MOMENT: Final = re.compile(f"{_OPEN}([0-9]{{1,15}}){_SHUT}")


def timeline(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Args: answer: of `why` (`/v1/why/{about}`), entries as mappings."""
    about = str(answer["about"])
    skews = {str(side["node"]): int(side["skew_ms"]) for side in answer["sides"]}
    raw = [Entry(**each) for each in answer["entries"]]
    entries = without_echoes(about, merged(about, raw, skews))
    times = _times(entries, skews)
    lanes = _Lanes(about, entries, answer)
    marks = [
        _mark(number, each, times[number - 1], lanes.of(each))
        for number, each in enumerate(entries, 1)
        if times[number - 1]
    ]
    spans, ways = _runs(about, entries, times, lanes, skews, int(answer.get("at_ms") or 0))
    drawn = marks[-MARKS_MAX:]
    if len(drawn) < len(marks):
        first = min(each["t"] for each in drawn)
        spans = [each for each in spans if each["to"] >= first]
        ways = [each for each in ways if each["from"] >= first]
    ends = sorted({t for each in spans for t in (each["from"], each["to"])} | {each["t"] for each in drawn})
    return {
        "about": about,
        "heading": heading(about, entries),
        "from": ends[0] if ends else 0,
        "to": ends[-1] if ends else 0,
        "lanes": lanes.told(),
        "marks": drawn,
        "spans": spans,
        "ways": ways,
        "breaks": _breaks(ends, spans),
        "sentences": [
            {
                "n": number,
                "at": each.at_ms,
                "node": each.node,
                "parts": parts(sentence(each, about, _when)),
                "kind": _kind(each)[0],
                "tone": _kind(each)[1],
                "whys": _whys(each, about),
            }
            for number, each in enumerate(entries, 1)
        ],
        "remarks": [parts(each) for each in remarks(answer, entries, _when)],
        "told_by": str(answer["asked_by"]),
    }


def parts(text: str) -> list[Part]:
    """A sentence's text and moments in turn."""
    found: list[Part] = []
    for index, piece in enumerate(_MOMENT.split(text)):
        if index % 2:
            found.append({"at": int(piece)})
        elif piece:
            found.append(piece.replace(_OPEN, "").replace(_SHUT, ""))
    return found


def told(each: Entry, about: str = "") -> list[Part]:
    """One entry as a sentence."""
    return parts(sentence(each, about, _when))


def kind_of(each: Entry) -> tuple[str, str]:
    """(what sort of happening it is, its tone)."""
    return _kind(each)


def _when(at_ms: int) -> str:
    return f"{_OPEN}{int(at_ms)}{_SHUT}"


def _kind(each: Entry) -> tuple[str, str]:
    kind, tone = _KINDS.get(each.what, ("remark", "quiet"))
    if each.what in (What.RAN, What.ATTEMPTED, What.SETTLED):
        status = str(each.details.get("status") or each.details.get("as") or "done")
        if status.startswith("refused"):
            return "refused", "notice"
        if status not in _WELL:
            if status in _ENDED:
                return ("result" if kind == "result" else "stopped"), "quiet"
            return (kind if kind == "result" or status == "failed" else "lost"), "bad"
    return kind, tone


def _whys(each: Entry, about: str) -> list[str]:
    """What else may be asked about."""
    return [name for name in dict.fromkeys((each.cause, each.id)) if name and name not in (about, each.node)]


def _times(entries: Sequence[Entry], skews: Mapping[str, int]) -> list[int]:
    """When each was, by the asker's clock, in the story's order; 0: not known."""
    found: list[int] = []
    latest = 0
    for each in entries:
        at_ms = _true(each.at_ms, _clock_of(each), skews)
        if at_ms and 0 < latest - at_ms <= SKEW_MS:
            at_ms = latest
        latest = max(latest, at_ms)
        found.append(at_ms)
    return found


def _true(at_ms: int, node: str, skews: Mapping[str, int]) -> int:
    skew_ms = skews.get(node, 0)
    return at_ms - (skew_ms if at_ms and abs(skew_ms) > SKEW_MS else 0)


def _clock_of(each: Entry) -> str:
    """By whose clock its time is: the ledger has an attempt's times as its place told them."""
    return each.place if each.what == What.ATTEMPTED and each.place else each.node


class _Lanes:
    """Members in the order in which they come up; the owner of a task first."""

    def __init__(self, about: str, entries: Sequence[Entry], answer: Mapping[str, Any]) -> None:
        self._index: dict[str, int] = {}
        owner = next((each.node for each in entries if each.what == What.ACCEPTED and each.id == about), "")
        self.owner = owner
        for name in (owner, *(name for each in entries for name in _members_of(each, about))):
            if name:
                self._index.setdefault(name, len(self._index))
        self._missing = {str(each["node"]): each for each in answer["missing"]}
        self._forgot = {
            str(side["node"]): int(side["since_ms"]) for side in answer["sides"] if side.get("since_ms")
        }
        self._partly = {str(side["node"]) for side in answer["sides"] if not side.get("complete", True)}
        for name in self._missing:
            self._index.setdefault(name, len(self._index))

    def of(self, each: Entry) -> int:
        place = each.place if each.what == What.ATTEMPTED and each.place else each.node
        return self._index[place]

    def at(self, name: str) -> int:
        return self._index[name]

    def told(self) -> list[dict[str, Any]]:
        return [
            {
                "node": name,
                "owner": name == self.owner,
                "missing": str(self._missing[name]["reason"]) if name in self._missing else "",
                "missing_since": int(self._missing[name].get("since_ms") or 0)
                if name in self._missing
                else 0,
                "forgot_before": self._forgot.get(name, 0),
                "partly": name in self._partly,
            }
            for name in self._index
        ]


def _members_of(each: Entry, about: str) -> tuple[str, ...]:
    if each.subject == Subject.TASK and each.id == about:
        return each.node, each.place
    return (each.node,)


def _runs(
    about: str,
    entries: Sequence[Entry],
    times: Sequence[int],
    lanes: _Lanes,
    skews: Mapping[str, int],
    now_ms: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What ran where, and the ways between the owner and those places."""
    spans: list[dict[str, Any]] = []
    ways: list[dict[str, Any]] = []
    mine = [(each, at) for each, at in zip(entries, times, strict=True) if each.id == about and at]
    if not lanes.owner:
        return spans, ways
    owner = lanes.at(lanes.owner)
    accepted = next(at for each, at in mine if each.what == What.ACCEPTED) if _accepted(mine) else 0
    settled = next((at for each, at in mine if each.what == What.SETTLED), 0)
    if accepted:
        until = settled or max(now_ms, *(at for _, at in mine))
        spans.append(
            _span(owner, accepted, until, "kept", "quiet" if settled else "busy", "kept by its owner")
        )
    before = accepted
    for number in sorted({each.attempt for each, _ in mine if each.attempt}):
        tried = [(each, at) for each, at in mine if each.attempt == number]
        offered = next((at for each, at in tried if each.what == What.PLACED), 0)
        took = next(((each, at) for each, at in tried if each.what == What.TOOK), None)
        ran = next(((e, at) for e, at in tried if e.what == What.RAN), None) or next(
            ((e, at) for e, at in tried if e.what == What.ATTEMPTED and e.details.get("started_at_ms")), None
        )
        over = next((at for each, at in tried if each.what in _OVER), 0) or settled
        sent = offered or before
        if ran is not None:
            each, end = ran
            place = each.place if each.what == What.ATTEMPTED else each.node
            start = _true(int(each.details.get("started_at_ms") or 0), place, skews)
            start = min(max(start, took[1] if took else sent), end) if start else end
            lane, (_, tone) = lanes.at(place), _kind(each)
            spans.append(_span(lane, start, end, "run", tone, f"attempt {number} ran at {place}"))
            if took is not None and took[1] < start:
                spans.append(
                    _span(lane, took[1], start, "held", "busy", f"attempt {number} waits at {place}")
                )
            if lane != owner:
                ways.append(_way(owner, sent, lane, took[1] if took else start, "offer"))
                if over >= end:
                    ways.append(_way(lane, end, owner, over, "result"))
        elif took is not None:
            lane = lanes.at(took[0].node)
            stopped = [
                at for each, at in tried if each.what in (What.STOPPED, What.REFUSED) and at >= took[1]
            ]
            end = stopped[0] if stopped else over or max(now_ms, took[1])
            spans.append(
                _span(lane, took[1], end, "held", "busy", f"attempt {number} held by {took[0].node}")
            )
            if lane != owner:
                ways.append(_way(owner, sent, lane, took[1], "offer"))
        else:
            ways += _unanswered(tried, sent, owner, lanes)
        before = over or before
    return spans, ways


_OVER: Final = frozenset({What.TURNED_DOWN, What.LAPSED, What.WORKER_DIED})


def _accepted(mine: Sequence[tuple[Entry, int]]) -> bool:
    return any(each.what == What.ACCEPTED for each, _ in mine)


def _unanswered(
    tried: Sequence[tuple[Entry, int]], sent: int, owner: int, lanes: _Lanes
) -> list[dict[str, Any]]:
    """An offer that came to nothing: refused there, or lost on the way."""
    place = next((each.place for each, _ in tried if each.what in _OFFERED and each.place), "")
    answered = next((at for each, at in tried if each.what == What.REFUSED), 0) or next(
        (at for each, at in tried if each.what == What.TURNED_DOWN), 0
    )
    if not place or lanes.at(place) == owner:
        return []
    sent = sent or min(at for _, at in tried)
    kind = "refused" if answered else "lost"
    return [_way(owner, sent, lanes.at(place), max(answered, sent), kind)]


_OFFERED: Final = frozenset({What.PLACED, What.TURNED_DOWN, What.LAPSED})


def _span(lane: int, start: int, end: int, kind: str, tone: str, label: str) -> dict[str, Any]:
    return {"lane": lane, "from": start, "to": max(start, end), "kind": kind, "tone": tone, "label": label}


def _way(lane: int, start: int, to_lane: int, end: int, kind: str) -> dict[str, Any]:
    return {"lane": lane, "from": start, "to_lane": to_lane, "to": max(start, end), "kind": kind}


def _mark(number: int, each: Entry, at: int, lane: int) -> dict[str, Any]:
    kind, tone = _kind(each)
    return {"n": number, "lane": lane, "t": at, "kind": kind, "tone": tone, "attempt": each.attempt}


def _breaks(ends: Sequence[int], spans: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Waits in which nothing ran, far longer than all the rest."""
    steps = [(b - a, a, b) for a, b in itertools.pairwise(ends)]
    running = [(each["from"], each["to"]) for each in spans if each["kind"] == "run"]
    idle = sorted(
        (each for each in steps if not any(a < each[2] and each[1] < b for a, b in running)), reverse=True
    )
    rest = sum(length for length, _, _ in steps)
    for count, (length, _, _) in enumerate(idle, 1):
        rest -= length
        if len(steps) - count > 1 and length > BREAK * rest:
            return sorted([a, b] for _, a, b in idle[:count])
    return []
