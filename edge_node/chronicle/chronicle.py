"""The chronicle: what this member notes of tasks, nodes, code, refusals and tables, for `why` to tell later.

    desk's Explain · refusals at the door ─┐                       ┌─► what this turn noted ─► archive
    verdicts, link, roster, epochs, starts ┴─► allowance ─► cause ─┘

The plain happy path is not noted: the ledger's rows tell of a task's accept, attempts and end. Noted is what
they do not say: which figures chose a place that then failed, why a lease ended, what a holder did with work
of others, who was lost when. Nothing waits for what is noted here and nothing is decided by it; a crash may
cost the last second of it, and the next start says so.

Cause ids: a task's own id; ``r-…`` of a refusal at the door; ``n-…`` of a thing that befell a node (its loss,
a restart, the link). They are made of this process's boot id and a count, so no chance is drawn for them.

Bounds: `allowance` by kind and peer here, rows and bytes where it is kept (`keeping`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from edge_node.chronicle.allowance import Allowance, Rate
from edge_node.chronicle.entry import Details, Entry, Subject, What, bounded
from edge_node.tasks.tracing import parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edge_node.tasks.events import Explain, Reply
    from edge_node.tasks.task import Task

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
OURS = Rate(50, 1_000)
"""Troubles of tasks of ours: the breakers and back-offs of the desk keep below this, but for bursts."""
HELD, HELD_EACH = Rate(20, 400), Rate(10, 200)
"""What peers can cause: their work here, late results. One that floods us gets half of it at most."""
DOOR = Rate(10, 200)
"""Refusals at our own door: a program in a loop makes ten thousand a second of one kind."""
AROUND = Rate(5, 300)
"""Nodes: a fleet that is cut off and comes back is a burst, peers that flap for hours are not news."""
CODE = Rate(1, 100)
"""Code that was fetched: a new member takes all that is deployed, which must not hide who is lost."""
TABLES, TABLES_EACH = Rate(2, 200), Rate(1, 50)
"""Replicated tables: a long cut of the network heals with many conflicts at once; all of them are listed by
`state conflicts`, the chronicle tells how they came about. One member whose clock lies gets a quarter."""
LOSSES_MAX = 1_280
"""Lost peers remembered with the cause id of their loss: everybody a roster may list."""
FRESH_MAX = 4_096
"""Entries of one turn; the allowances add up to less."""

_HOLDERS = frozenset({What.TOOK, What.REFUSED, What.RAN, What.STOPPED, What.NOT_STARTED, What.NOT_USED})
_ENDS_OF_LEASES = frozenset({What.LAPSED, What.TURNED_DOWN})
_RESTING = "draining"
"""What a place that rests gives as its reason: `tasks.states.Refusal.DRAINING`."""


class Loss(NamedTuple):
    """That a peer is not there, as far as we know."""

    cause: str
    since_ms: int
    reason: str


class Chronicle:
    """Of one life of a member. Args: boot_id: 8 bytes that name this life."""

    def __init__(self, me: str, boot_id: bytes) -> None:
        self.me = me
        stamp = int.from_bytes(boot_id, "big")
        self._stamp = "".join(_CROCKFORD[(stamp >> shift) & 31] for shift in range(0, 30, 5))
        self._made = 0
        self._fresh: list[Entry] = []
        self._lost: dict[str, Loss] = {}
        self._link_cause = ""
        self._rest = ("work", "", 0)  # as we were told last: mode, by whom, when
        self._rest_cause = ""
        self._door: dict[str, str] = {}  # reason -> the id of its newest refusal that was noted
        self._allowed = {
            "tasks of this node": Allowance(OURS),
            "work of others": Allowance(HELD, HELD_EACH),
            "refusals at this door": Allowance(DOOR),
            "news of nodes": Allowance(AROUND),
            "code": Allowance(CODE),
            "replicated tables": Allowance(TABLES, TABLES_EACH),
        }
        self._ours, self._held, self._turned, self._around, self._code, self._tables = self._allowed.values()

    # ── what the shell takes away ─────────────────────────────────────────────────────────────────────
    @property
    def fresh(self) -> bool:
        return bool(self._fresh)

    def take(self) -> list[Entry]:
        """What this turn has noted, without numbers: the archive gives them."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def check(self) -> None:
        for allowance in self._allowed.values():
            allowance.check()
        assert len(self._lost) <= LOSSES_MAX
        assert all(entry.cause and entry.node == self.me for entry in self._fresh)
        assert len(self._fresh) <= FRESH_MAX

    # ── tasks ─────────────────────────────────────────────────────────────────────────────────────────
    def explained(self, now_ns: int, wall_ms: int, told: Explain) -> None:
        """The desk's word on a task, ours or one that we hold."""
        what = told.what
        held = what in _HOLDERS
        if not (self._held if held else self._ours).take(now_ns, wall_ms, told.place if held else ""):
            return
        cause = told.task_id
        if what in _ENDS_OF_LEASES and (loss := self._lost.get(told.place)) is not None:
            cause = loss.cause
        elif what is What.REFUSED and self._rest_cause and told.details.get("reason") == _RESTING:
            cause = self._rest_cause
        self._note(
            told.at_ms or wall_ms, Subject.TASK, told.task_id, what, cause,
            told.place, told.attempt, told.details,
        )  # fmt: skip

    def not_started(self, now_ns: int, wall_ms: int, owner: str, task: str, attempt: int, why: str) -> None:
        """A call of anybody's that could not begin here, in the words of who looked for its code or input."""
        if self._held.take(now_ns, wall_ms, owner if owner != self.me else ""):
            details: Details = {"reason": why}
            self._note(wall_ms, Subject.TASK, task, What.NOT_STARTED, task, owner, attempt, details)

    def turned_away(self, now_ns: int, wall_ms: int, answer: Reply, task: Task | None) -> str:
        """A refusal at the door. Returns: the id that leads to it; of many alike, the newest noted."""
        reason = str(answer.reason)
        if reason in self._door and not self._turned.take(now_ns, wall_ms):  # reasons are a closed set
            return self._door[reason]
        cause = self._door[reason] = self._new("r")
        details: Details = {"reason": reason, "detail": answer.detail, "task": answer.task_id}
        if task is not None:
            details |= {"function": task.function, "where": task.where, "bytes": len(task.input)}
            details |= {"traceparent": parts(task.trace)[0]}
        self._note(wall_ms, Subject.REFUSAL, cause, What.TURNED_AWAY, cause, "", 0, details)
        return cause

    # ── nodes ─────────────────────────────────────────────────────────────────────────────────────────
    def began(self, wall_ms: int, version: str, open_tasks: int) -> None:
        cause = self._new("n")
        details: Details = {"version": version, "boot": self._stamp, "open_tasks": open_tasks}
        self._note(wall_ms, Subject.NODE, self.me, What.STARTED, cause, "", 0, details)

    def ended(self, wall_ms: int) -> None:
        self._note(wall_ms, Subject.NODE, self.me, What.ENDED, self._new("n"), "", 0, {})

    def damaged(self, wall_ms: int, what: str) -> None:
        self._note(wall_ms, Subject.NODE, self.me, What.DAMAGED, self._new("n"), "", 0, {"reason": what})

    def not_written(self, now_ns: int, wall_ms: int, reason: str) -> str:
        """The disk under the ledger: accepts are refused and ends are written again until it works."""
        if not self._around.take(now_ns, wall_ms):
            return ""
        about: Details = {"reason": reason}
        cause = self._new("n")
        self._note(wall_ms, Subject.NODE, self.me, What.NOT_WRITTEN, cause, "", 0, about)
        return cause

    def link_up(self, now_ns: int, wall_ms: int, broker: str) -> str:
        cause = ""
        if self._around.take(now_ns, wall_ms):
            cause = self._link_cause or self._new("n")
            self._note(wall_ms, Subject.NODE, self.me, What.LINK_UP, cause, "", 0, {"broker": broker})
        self._link_cause = ""
        return cause

    def link_down(self, now_ns: int, wall_ms: int, reason: str) -> str:
        """Ours: whom the detector calls down by it is held against nobody, and not noted one by one."""
        if not self._around.take(now_ns, wall_ms):
            return ""
        cause = self._link_cause = self._new("n")
        self._note(wall_ms, Subject.NODE, self.me, What.LINK_DOWN, cause, "", 0, {"reason": reason})
        return cause

    def lost(self, now_ns: int, wall_ms: int, peer: str, reason: str) -> str:
        cause = self._new("n")
        if len(self._lost) < LOSSES_MAX or peer in self._lost:
            self._lost[peer] = Loss(cause, wall_ms, reason)
        if self._around.take(now_ns, wall_ms):
            details: Details = {"reason": reason}
            self._note(wall_ms, Subject.NODE, peer, What.LOST, cause, "", 0, details)
            return cause
        return ""

    def back(self, now_ns: int, wall_ms: int, peer: str) -> str:
        """Of those that were lost; whoever comes up for the first time is no news."""
        loss = self._lost.pop(peer, None)
        if loss is None or not self._around.take(now_ns, wall_ms):
            return ""
        details: Details = {"away_ms": max(0, wall_ms - loss.since_ms)}
        self._note(wall_ms, Subject.NODE, peer, What.BACK, loss.cause, "", 0, details)
        return loss.cause

    def restarted(self, now_ns: int, wall_ms: int, peer: str) -> None:
        """It speaks with another boot id: what it held of ours is gone, and it is there."""
        loss = self._lost.get(peer)
        cause = loss.cause if loss is not None else self._new("n")
        if len(self._lost) < LOSSES_MAX or loss is not None:
            self._lost[peer] = Loss(cause, wall_ms, "restarted")  # until the desk has heard of it
        if self._around.take(now_ns, wall_ms):
            self._note(wall_ms, Subject.NODE, peer, What.RESTARTED, cause, "", 0, {})

    def there(self, peer: str) -> None:
        """The desk has heard of its restart."""
        self._lost.pop(peer, None)

    def membership(
        self, now_ns: int, wall_ms: int, version: int, came: Iterable[str], went: Mapping[str, Details]
    ) -> None:
        """A roster came into force. Args: went: who, and what it says about that: status, by, reason."""
        for what, names in ((What.ENROLLED, came), (What.SHUT_OUT, went)):
            for name in sorted(names):
                if what is What.SHUT_OUT:
                    self._lost[name] = Loss(self._new("n"), wall_ms, "no member any more")
                if self._around.take(now_ns, wall_ms):
                    loss = self._lost.get(name) if what is What.SHUT_OUT else None
                    cause = loss.cause if loss is not None else self._new("n")
                    details: Details = {"roster": version, **went.get(name, {})}
                    self._note(wall_ms, Subject.NODE, name, what, cause, "", 0, details)
        while len(self._lost) > LOSSES_MAX:
            del self._lost[next(iter(self._lost))]

    def rested(
        self, now_ns: int, wall_ms: int, node: str, mode: str, by: str, reason: str, asked_at_ms: int
    ) -> None:
        """An operator's wish that *node* takes no work of others, or takes it again; what we refuse by it
        leads to it. One that we know is no news: it is said again whenever a session is made."""
        details: Details = {"mode": mode, "by": by, "reason": reason, "asked_at_ms": asked_at_ms}
        if node == self.me:
            known, self._rest = self._rest, (mode, by, asked_at_ms)
            if known == self._rest or mode == known[0] == "work":
                return
            self._rest_cause = "" if mode == "work" else self._new("n")
        cause = self._rest_cause if node == self.me and self._rest_cause else self._new("n")
        if self._around.take(now_ns, wall_ms):
            self._note(wall_ms, Subject.NODE, node, What.RESTED, cause, "", 0, details)

    def epoch(self, now_ns: int, wall_ms: int, number: int, shown_by: str) -> None:
        if self._around.take(now_ns, wall_ms):
            details: Details = {"epoch": number}
            self._note(wall_ms, Subject.NODE, self.me, What.EPOCH, self._new("n"), shown_by, 0, details)

    def code(self, now_ns: int, wall_ms: int, function: str, digest: bytes, missed: str = "") -> None:
        """Code of a function was fetched, or (missed: why) could not be."""
        if self._code.take(now_ns, wall_ms):
            what = What.CODE_MISSED if missed else What.CODE_CAME
            details: Details = {"digest": digest.hex()[:16], "reason": missed}
            self._note(wall_ms, Subject.FUNCTION, function, what, self._new("n"), "", 0, details)

    # ── replicated tables ─────────────────────────────────────────────────────────────────────────────
    def tables(self, now_ns: int, wall_ms: int, what: What, node: str = "", detail: str = "") -> None:
        """What befell a batch, a snapshot or this writer, in the replica's words.

        Args: node: whose batch or snapshot it was; empty: nobody's that could be told.
        """
        if self._tables.take(now_ns, wall_ms, node if node != self.me else ""):
            cause = self._new("n")
            details: Details = {"detail": detail}
            self._note(wall_ms, Subject.TABLES, node or self.me, what, cause, node, 0, details)

    def cell(self, now_ns: int, wall_ms: int, what: What, cell: tuple[str, str, str], node: str = "") -> None:
        """A field that two wrote without knowing of each other.

        Args: cell: table, key, field; never a value.   node: one of them, if it can be told.
        """
        table, key, field = cell
        if self._tables.take(now_ns, wall_ms, node if node != self.me else ""):
            details: Details = {"key": key, "field": field}
            self._note(wall_ms, Subject.TABLES, table, what, self._new("n"), node, 0, details)

    def loss_of(self, peer: str) -> Loss | None:
        return self._lost.get(peer)

    # ── one entry ─────────────────────────────────────────────────────────────────────────────────────
    def _new(self, letter: str) -> str:
        self._made += 1
        number, digits = self._made, ""
        while number:
            digits = _CROCKFORD[number & 31] + digits
            number >>= 5
        return f"{letter}-{self._stamp}{digits:0>2}"

    def _note(
        self,
        at_ms: int,
        subject: Subject,
        name: str,
        what: What,
        cause: str,
        place: str,
        attempt: int,
        details: Details,
    ) -> None:
        if len(self._fresh) >= FRESH_MAX:
            return
        for kind, allowance in self._allowed.items():
            if allowance.left_out and allowance.open:  # not with each that is left out
                count, since_ms = allowance.told()
                left: Details = {"kind": kind, "count": count, "since_ms": since_ms}
                self._put(at_ms, Subject.NODE, self.me, What.LEFT_OUT, self._new("n"), "", 0, left)
        self._put(at_ms, subject, name, what, cause, place, attempt, details)

    def _put(
        self,
        at_ms: int,
        subject: Subject,
        name: str,
        what: What,
        cause: str,
        place: str,
        attempt: int,
        details: Details,
    ) -> None:
        self._fresh.append(
            Entry(
                0, at_ms, self.me, subject.value, name[:256], what.value, cause[:256], place[:256], attempt,
                bounded(details),
            )
        )  # fmt: skip
