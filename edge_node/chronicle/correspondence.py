"""Correspondence: what a member tells others of its chronicle, and what it hears of theirs.

    why(about) ─► archive (a thread) ─► inquiry ─► StoryWanted ─► … ─► Story ─► the whole answer
    StoryWanted of a peer ─► archive ─► Story, at most 64 KiB, behind everything else that goes to it

A part of ``node``: it carries out what ``inquiry`` decides. The answer is plain data, because it leaves
through the control socket: entries as dicts, who is missing, whose clock differs. Whoever prints it makes
sentences of it (``narrator``); the daemon does not load that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from edge_node.chronicle.entry import Details, Entry, Subject, What, bounded
from edge_node.chronicle.inquiry import ASKED_MAX, Ask, Done, Effect, Inquiries, Missing
from edge_node.wire.messages import STORY_NEAR_MAX, Story, StoryWanted
from security.errors import BadInput, EdgeweaveError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge_node.chronicle.account import Account
    from edge_node.node import Node

READINGS_MAX = 32
"""Readings of the disk under way for peers; more are asked again."""
NEAR_MAX = 3


class Archive(Protocol):
    """Where entries lie: ``store.archive`` on a disk, a list in the virtual world."""

    def append(self, entries: list[Entry]) -> None:
        """Keep them, soon; the numbers are given here. Never waits and never raises."""

    def find(self, asked: str, found: Callable[[Account], None]) -> None:
        """*found* is called later, where the member lives, with all that lies here about an id."""


class Correspondence:
    """Of one member."""

    def __init__(self, node: Node, archive: Archive) -> None:
        self._node = node
        self._archive = archive
        self._readings = 0
        self._waiting: dict[bytes, Callable[[Done], None]] = {}
        self.inquiries = Inquiries(node.node_id, self._reach)

    # ── our own question ──────────────────────────────────────────────────────────────────────────────
    def why(
        self, asked: str, answer: Callable[[dict[str, Any] | EdgeweaveError], None], *, alone: bool = False
    ) -> None:
        """*answer* is called once: with the answer as plain data, or with why there is none.

        Args: alone: ask nobody else.
        """

        def found(account: Account) -> None:
            self._node.soon(
                lambda now_ns, wall_ms: self._found(now_ns, wall_ms, asked, account, answer, alone)
            )

        self._archive.find(asked, found)

    def _found(
        self,
        now_ns: int,
        wall_ms: int,
        asked: str,
        account: Account,
        answer: Callable[[dict[str, Any] | EdgeweaveError], None],
        alone: bool,
    ) -> None:
        node = self._node
        name = account.name or asked
        here = [*account.entries, *self._open_task(wall_ms, name)]
        known = bool(here) or self._is_known(name)
        if self.inquiries.full:
            answer(Unavailable("too many stories are asked for at once", fix="try again in two seconds"))
            return
        request = node.entropy(8)

        def done(told: Done) -> None:
            names = sorted({each.about for each in told.told if each.entries} if not known else {name})
            if len(names) == 1:
                answer(self._answer(names[0], wall_ms, here, account, told, alone))
            else:
                near = {*names, *account.near, *(near for each in told.told for near in each.near)}
                answer(self._unknown(asked, sorted(near), told))

        if alone:
            done(Done(request, (), (), ()))
            return
        self._waiting[request] = done
        everybody = [] if known else [peer for peer, _ in node.channels.streams() if node.channels.has(peer)]
        if not here and known and name != node.node_id:  # a member, or a function, of whom nothing was noted
            everybody = [name] if node._is_active(name) else []
        effects = self.inquiries.begin(now_ns, wall_ms, request, name, here, everybody[:ASKED_MAX])
        self._carry_out(now_ns, effects)

    def _open_task(self, wall_ms: int, name: str) -> list[Entry]:
        """Where an open task of ours is now: the ledger's rows do not say."""
        desk = self._node.desk
        state = desk.state(name)
        if state is None:
            return []
        details: Details = {"state": state[0]}
        why = desk.why(name)
        if why is not None and why.chosen == state[1]:
            details |= {"rule": why.rule, "figures": why.text()}
        me, task = self._node.node_id, Subject.TASK.value
        return [Entry(0, wall_ms, me, task, name, What.NOW.value, name, state[1], 0, bounded(details))]

    def _is_known(self, name: str) -> bool:
        node = self._node
        return node._is_active(name) or name in node.catalogue.names()

    def _answer(
        self,
        name: str,
        wall_ms: int,
        here: Sequence[Entry],
        account: Account,
        told: Done,
        alone: bool,
    ) -> dict[str, Any]:
        me = self._node.node_id
        about_it = [side for side in told.told if side.about in ("", name)]
        sides = [{"node": me, "complete": account.complete, "since_ms": account.since_ms, "skew_ms": 0}]
        sides += [
            {"node": s.node, "complete": s.complete, "since_ms": s.since_ms, "skew_ms": s.skew_ms}
            for s in about_it
        ]
        entries = [*here, *(entry for each in about_it for entry in each.entries)]
        return {
            "about": name,
            "asked_by": me,
            "at_ms": wall_ms,
            "entries": [msgspec.structs.asdict(each) for each in entries],
            "sides": sides,
            "missing": [msgspec.structs.asdict(each) for each in told.missing],
            "others_asked": not alone,
        }

    def _unknown(self, asked: str, near: Sequence[str], told: Done) -> BadInput:
        node = self._node
        members = node.roster.current.active_names if node.roster.current else ()
        like = _alike(asked, [*near, *members, *node.catalogue.names()]) or list(near[:NEAR_MAX])
        others = len(told.asked)
        where = f"here or at {others} other member{'s' * (others > 1)}" if others else "here"
        fix = f"did you mean {', '.join(like)}?" if like else "`submit` and `tasks` show ids of tasks"
        begin = [each for each in near if each.startswith(asked)]
        if len(begin) > 1:
            return BadInput(
                f"{len(begin)} or more ids begin with {asked!r:.60}", fix=f"as {', '.join(begin[:3])}"
            )
        return BadInput(f"nothing is known of {asked!r:.80} {where}", fix=fix)

    # ── what peers ask, and answer ────────────────────────────────────────────────────────────────────
    def wanted(self, now_ns: int, wall_ms: int, peer: str, message: StoryWanted) -> None:
        node = self._node
        if self._readings >= READINGS_MAX or not self.inquiries.may_answer(now_ns, wall_ms, peer):
            return
        self._readings += 1

        def found(account: Account) -> None:
            node.soon(lambda now_ns, wall_ms: told(now_ns, wall_ms, account))

        def told(now_ns: int, wall_ms: int, account: Account) -> None:
            self._readings -= 1
            name = account.name
            entries = [*account.entries, *self._open_task(wall_ms, name)]
            near = list(account.near[:STORY_NEAR_MAX])
            story = Story(message.request, wall_ms, account.since_ms, account.complete, entries, name, near)
            node.tell(now_ns, peer, story, bulk=True)

        self._archive.find(message.about, found)

    def told(self, now_ns: int, wall_ms: int, peer: str, message: Story) -> None:
        self._carry_out(now_ns, self.inquiries.heard(now_ns, wall_ms, peer, message))

    def tick(self, now_ns: int, wall_ms: int) -> None:
        self._carry_out(now_ns, self.inquiries.tick(now_ns, wall_ms))

    def _carry_out(self, now_ns: int, effects: list[Effect]) -> None:
        node = self._node
        for effect in effects:
            match effect:
                case Ask(peer, request, about):
                    if node.channels.has(peer):
                        node.channels.send_loose(peer, StoryWanted(request, about))
                    else:  # it is asked again, by then there is a session
                        node.channels.connect(now_ns, peer)
                case Done(request):
                    self._waiting.pop(request)(effect)

    def _reach(self, peer: str) -> Missing | None:
        """Why a member cannot be asked; None: it can."""
        node = self._node
        if not node._is_active(peer):
            return Missing(peer, "is no member any more")
        loss = node.chronicle.loss_of(peer)
        since_ms = loss.since_ms if loss is not None else 0
        if not node.link.up:
            return Missing(peer, "could not be asked: this node has no connection to the broker")
        if node.detector.states().get(peer) == "down":
            return Missing(peer, "could not be asked: it is away", since_ms)
        return None


def _alike(asked: str, names: Sequence[str]) -> list[str]:
    """Names that differ from it by little: the longest common beginning, then its length."""

    def common(name: str) -> int:
        count = 0
        for one, other in zip(asked, name, strict=False):
            if one != other:
                break
            count += 1
        return count

    found = sorted({name for name in names if common(name) * 2 >= len(asked)}, key=lambda n: (-common(n), n))
    return found[:NEAR_MAX]
