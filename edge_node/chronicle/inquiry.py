"""Inquiries: one member asks others what they know, waits two seconds, and says who is missing.

    Ask(about) ─► the archive here ─► who had part in it? ─► StoryWanted to each ─► Story ─► … who else?
                                      nobody known here: everybody with a session, at most 32

Who is away is not waited for: what the detector knows is told at once. An answer may name further places,
which are asked in the time that is left. Answering is bounded by peer: a question of 40 bytes costs a reading
of the disk and up to 64 KiB.

In: begin, heard, tick. Out: Ask, Done. Not here: reading what lies here (`account`), carrying out
(`correspondence`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from edge_node.chronicle.allowance import Allowance, Rate
from edge_node.chronicle.entry import Entry, Subject, What
from edge_node.wire.messages import Story

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MILLISECOND = 1_000_000
WAIT_NS = 2_000 * MILLISECOND
AGAIN_NS = 600 * MILLISECOND
"""A question travels unacknowledged; reading is safe to ask for again."""
ASKED_MAX = 32
OPEN_MAX = 16
"""Inquiries at a time: commands of the people of one machine."""
ANSWERS, ANSWERS_EACH = Rate(20, 40), Rate(4, 8)


class Ask(msgspec.Struct, frozen=True):
    """Effect: send StoryWanted to this peer, making a session if there is none."""

    peer: str
    request: bytes
    about: str


class Missing(msgspec.Struct, frozen=True):
    """A member whose side is not in the story. since_ms: by our clock; 0: not known."""

    node: str
    reason: str
    since_ms: int = 0


class Told(msgspec.Struct, frozen=True):
    """What one member answered. skew_ms: its wall clock minus ours, by half a round trip."""

    node: str
    entries: tuple[Entry, ...]
    complete: bool
    since_ms: int
    skew_ms: int
    about: str = ""  # the whole id of what it tells
    near: tuple[str, ...] = ()


class Done(msgspec.Struct, frozen=True):
    """Effect: everybody who could be asked has answered, or the time is up."""

    request: bytes
    told: tuple[Told, ...]
    missing: tuple[Missing, ...]
    asked: tuple[str, ...]


Effect = Ask | Done


class _Inquiry:
    __slots__ = (
        "about", "again_ns", "asked", "asked_ms", "end_ns", "everybody", "missing", "request", "told",
    )  # fmt: skip

    def __init__(self, request: bytes, about: str, now_ns: int, everybody: bool) -> None:
        self.request = request
        self.about = about
        self.end_ns = now_ns + WAIT_NS
        self.again_ns = now_ns + AGAIN_NS
        self.asked: dict[str, int] = {}  # peer -> our wall clock when asked last
        self.told: dict[str, Told] = {}
        self.missing: dict[str, Missing] = {}
        self.everybody = everybody


class Inquiries:
    """Args: reach: why a member cannot be asked, or None."""

    def __init__(self, me: str, reach: Callable[[str], Missing | None]) -> None:
        self._me = me
        self._reach = reach
        self._open: dict[bytes, _Inquiry] = {}
        self._answers = Allowance(ANSWERS, ANSWERS_EACH)

    @property
    def full(self) -> bool:
        return len(self._open) >= OPEN_MAX

    def begin(
        self,
        now_ns: int,
        wall_ms: int,
        request: bytes,
        about: str,
        entries: Sequence[Entry],
        everybody: Sequence[str],
    ) -> list[Effect]:
        """Args: entries: what is known here; everybody: whom to ask when nobody is named in them."""
        assert not self.full and request not in self._open
        named = [each for each in _named(about, entries) if each != self._me]
        inquiry = _Inquiry(request, about, now_ns, not named)
        self._open[request] = inquiry
        out: list[Effect] = []
        for peer in named or everybody:
            self._ask(inquiry, wall_ms, peer, out)
        self._end_if_done(inquiry, out)
        return out

    def heard(self, now_ns: int, wall_ms: int, peer: str, story: Story) -> list[Effect]:
        inquiry = self._open.get(story.request)
        if inquiry is None or peer not in inquiry.asked or peer in inquiry.told:
            return []
        entries = tuple(each for each in story.entries if each.node == peer)  # it speaks for itself only
        middle_ms = (inquiry.asked[peer] + wall_ms) // 2
        inquiry.told[peer] = Told(
            peer, entries, story.complete, story.since_ms, story.at_ms - middle_ms, story.about,
            tuple(story.near),
        )  # fmt: skip
        if inquiry.everybody and entries and story.about.startswith(inquiry.about):
            inquiry.about = story.about  # we had its beginning only
        out: list[Effect] = []
        for other in _named(inquiry.about, entries):
            if other != self._me:
                self._ask(inquiry, wall_ms, other, out)
        self._end_if_done(inquiry, out)
        return out

    def may_answer(self, now_ns: int, wall_ms: int, peer: str) -> bool:
        """May this peer's question cost a reading now? Its asker asks again."""
        return self._answers.take(now_ns, wall_ms, peer)

    def tick(self, now_ns: int, wall_ms: int) -> list[Effect]:
        out: list[Effect] = []
        for inquiry in list(self._open.values()):
            if inquiry.end_ns <= now_ns:
                for peer in inquiry.asked.keys() - inquiry.told.keys():
                    inquiry.missing[peer] = Missing(peer, f"did not answer within {WAIT_NS / 1e9:g} s")
                self._end(inquiry, out)
            elif inquiry.again_ns <= now_ns:
                inquiry.again_ns = now_ns + AGAIN_NS
                for peer in inquiry.asked:
                    if peer not in inquiry.told:
                        out.append(Ask(peer, inquiry.request, inquiry.about))
        return out

    def deadline_ns(self) -> int | None:
        if not self._open:
            return None
        return min(min(each.end_ns, each.again_ns) for each in self._open.values())

    def check(self) -> None:
        assert len(self._open) <= OPEN_MAX
        for inquiry in self._open.values():
            assert len(inquiry.asked) <= ASKED_MAX and inquiry.told.keys() <= inquiry.asked.keys()
            assert self._me not in inquiry.asked

    def _ask(self, inquiry: _Inquiry, wall_ms: int, peer: str, out: list[Effect]) -> None:
        if peer in inquiry.asked or peer in inquiry.missing:
            return
        why_not = self._reach(peer)
        if why_not is None and len(inquiry.asked) >= ASKED_MAX:
            why_not = Missing(peer, f"not asked: {ASKED_MAX} others were")
        if why_not is not None:
            inquiry.missing[peer] = why_not
            return
        inquiry.asked[peer] = wall_ms
        out.append(Ask(peer, inquiry.request, inquiry.about))

    def _end_if_done(self, inquiry: _Inquiry, out: list[Effect]) -> None:
        if inquiry.asked.keys() <= inquiry.told.keys():
            self._end(inquiry, out)

    def _end(self, inquiry: _Inquiry, out: list[Effect]) -> None:
        del self._open[inquiry.request]
        missing = tuple(inquiry.missing[name] for name in sorted(inquiry.missing))
        told = tuple(inquiry.told.values())
        if inquiry.everybody and any(each.entries for each in told):
            # Asked on the off chance: who had no part in it is missed by nobody.
            named = {name for each in told for name in _named(inquiry.about, each.entries)}
            missing = tuple(each for each in missing if each.node in named)
        out.append(Done(inquiry.request, told, missing, tuple(inquiry.asked)))


def _named(about: str, entries: Sequence[Entry]) -> list[str]:
    """Who may know more: the places of a task; of a node, itself."""
    from edge_node.chronicle.account import places_of  # only once somebody asks

    tasks = [each for each in entries if each.subject == Subject.TASK]
    if any(each.id == about for each in tasks):
        tasks = [each for each in tasks if each.id == about]
    found = dict.fromkeys(places_of(tasks))
    for each in entries:
        if each.subject == Subject.NODE and each.what != What.LEFT_OUT and about in (each.id, each.cause):
            found[each.id] = None
    return list(found)
