"""Stories for checkers: evidence as a run would give it, with real rows of a ledger and real envelopes."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from typing import Any

from device_sim.virtual.evidence import (
    Answered,
    Asked,
    Checker,
    Crashed,
    End,
    Event,
    Framed,
    Happened,
    Ran,
    Reached,
    Revoked,
    Row,
    Sampled,
    Started,
    Told,
    Verdict,
)
from edge_node.tasks.rows import row_of
from edge_node.tasks.task import Accepted, Closed, Outcome, Record, Task
from edge_node.transport.groupcast import GROUP
from edge_node.wire.codec import direct_context, encode_message, group_context, pack
from edge_node.wire.ids import task_id
from edge_node.wire.messages import Beat, DigestEntry, FleetDigest, Load, Message, Offer
from edge_node.wire.topics import Direct, Presence, topic_for
from security.authority import Authority
from security.envelope import Sealer
from security.group import Epochs, GroupSender

MS = 1_000_000
SECOND = 1_000_000_000
WALL_MS = 1_760_000_000_000
FUNCTION = "packing/inspect_crate"
AUTHORITY = Authority.create(now_s=1_700_000_000, entropy=os.urandom)
MESH = AUTHORITY.mesh_id


def ns(seconds: float) -> int:
    return round(seconds * SECOND)


class Story:
    """Events in the order of their time, and what lies on the disks at its end."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ledgers: dict[str, list[Row]] = {}
        self.records: dict[str, list[Record]] = {}
        self.damaged: dict[str, list[str]] = {}
        self.gone: dict[str, str] = {}
        self.keys: dict[str, Mapping[str, bytes]] = {}
        self.at_s = 100.0
        self.healed_s: float | None = None
        self._tasks: dict[str, tuple[str, str]] = {}

    # ── the doors ─────────────────────────────────────────────────────────────────────────────────

    def started(self, *nodes: str, at_s: float = 0.0) -> Story:
        for node in nodes:
            self.ledgers.setdefault(node, [])
            self.events.append(Started(ns(at_s), node))
        return self

    def asks(
        self,
        at_s: float,
        node: str,
        number: int,
        *,
        ttl_s: float = 30.0,
        function: str = FUNCTION,
        where: str = "any",
    ) -> str:
        task = name_of(number)
        self._tasks[task] = (node, function)
        self.events.append(Asked(ns(at_s), node, task, function, ns(ttl_s), marker_of(number), where))
        return task

    def answers(self, at_s: float, task: str, *, accepted: bool = True, reason: str = "") -> None:
        self.events.append(Answered(ns(at_s), self._tasks[task][0], task, accepted, reason))

    def tells(self, at_s: float, task: str, status: str = "done", place: str = "local") -> None:
        self.events.append(Told(ns(at_s), self._tasks[task][0], task, status, place))

    def accepted(self, at_s: float, node: str, number: int, **how: Any) -> str:
        """Asked, on the disk, answered yes."""
        task = self.asks(at_s, node, number, **how)
        self.keeps_accept(at_s + 0.001, task)
        self.answers(at_s + 0.002, task)
        return task

    def settled(self, at_s: float, task: str, status: str = "done", place: str = "local") -> None:
        """On the disk, told."""
        self.keeps_end(at_s, task, status, place)
        self.tells(at_s + 0.001, task, status, place)

    # ── the disks ─────────────────────────────────────────────────────────────────────────────────

    def keeps_accept(
        self,
        at_s: float | None,
        task: str,
        *,
        node: str = "",
        function: str = "",
        known: bool = True,
        **more: Any,
    ) -> None:
        """*known*: the disk tells when it had the row."""
        owner, asked_for = self._tasks.get(task, (node, FUNCTION))
        node = node or owner
        wall_ms = WALL_MS + round((at_s or 0.0) * 1000)
        promised = Task(
            task, function or asked_for, b"d" * 32, b"input", b"s" * 32, node, accepted_at_ms=wall_ms, **more
        )
        self._keep(at_s if known else None, node, Accepted(promised))

    def keeps_end(
        self, at_s: float | None, task: str, status: str = "done", place: str = "local", *, node: str = ""
    ) -> None:
        """*at_s* None: the disk does not tell when it had the row."""
        owner = node or self._tasks[task][0]
        self._keep(at_s, owner, Closed(task, Outcome(status, b"out", place=place, settled_at_ms=WALL_MS)))

    def _keep(self, at_s: float | None, node: str, record: Record) -> None:
        self.records.setdefault(node, []).append(record)
        task, kind, at_ms, state, body, _ = row_of(record)
        written_ns = None if at_s is None else ns(at_s)
        self.ledgers.setdefault(node, []).append(Row(task, kind, at_ms, state, body, written_ns))

    def loses(self, node: str, task: str, kind: int) -> None:
        """The disk has not got it any more."""
        kept = self.ledgers[node]
        left = [row for row in kept if (row.task, row.kind) != (task, kind)]
        assert len(left) < len(kept), "there was such a row"
        self.ledgers[node] = left

    # ── what happens ──────────────────────────────────────────────────────────────────────────────

    def crashes(self, at_s: float, node: str, how: str = "kill") -> None:
        self.events.append(Crashed(ns(at_s), node, how))

    def happens(self, at_s: float, do: str, node: str = "", detail: str = "") -> None:
        self.events.append(Happened(ns(at_s), do, node, detail))
        if do == "heal":
            self.healed_s = at_s

    def runs(self, at_s: float, node: str, task: str, status: str = "done", attempt: int = 1) -> None:
        self.events.append(Ran(ns(at_s) - 5 * MS, ns(at_s), node, task, attempt, status))

    def revokes(self, at_s: float, node: str) -> None:
        self.events.append(Revoked(ns(at_s), node))

    def frames(self, at_s: float, sender: str, topic: str, payload: bytes) -> None:
        self.events.append(Framed(ns(at_s), sender, topic, payload))

    def reaches(self, at_s: float, reader: str, topic: str, payload: bytes) -> None:
        self.events.append(Reached(ns(at_s), reader, topic, payload))

    def shows(self, at_s: float, node: str, **changed: Any) -> None:
        """`status` of that node, as an idle, connected member gives it but for what is *changed*."""
        self.events.append(Sampled(ns(at_s), node, status_of(**changed)))

    def is_silent(self, at_s: float, node: str) -> None:
        self.events.append(Sampled(ns(at_s), node, None))

    # ── judgement ─────────────────────────────────────────────────────────────────────────────────

    def end(self, **changed: Any) -> End:
        return End(
            at_ns=ns(self.at_s),
            healed_ns=None if self.healed_s is None else ns(self.healed_s),
            ledgers=self.ledgers,
            damaged=self.damaged,
            gone=self.gone,
            keys=self.keys,
            **changed,
        )

    def judged_by(self, checker: Checker, **end: Any) -> Verdict:
        for event in sorted(self.events, key=lambda event: event.at_ns):
            if type(event) in checker.wants:
                checker.saw(event)
        return checker.verdict(self.end(**end))


def name_of(number: int) -> str:
    return task_id(WALL_MS, random.Random(f"task {number}").randbytes(8))


def marker_of(number: int) -> bytes:
    return random.Random(f"marker {number}").randbytes(16)


def status_of(
    *,
    connected: bool | None = True,
    member: bool | None = True,
    peers_up: tuple[str, ...] = ("gateway",),
    open_tasks: int = 0,
    settled: int = 0,
    **tasks: int | dict[str, int],
) -> dict[str, Any]:
    return {
        "broker": {} if connected is None else {"connected": connected},
        "peers_up": list(peers_up),
        "tasks": {"open": open_tasks, "open_bytes": 0, "settled": {"done": settled, "failed": 0}, **tasks},
    } | ({} if member is None else {"member": member})


# ── wires ─────────────────────────────────────────────────────────────────────────────────────────


class Wire:
    """One direction of a session: really sealed parcels under one key, numbered."""

    def __init__(self, src: str, dst: str, *, seed: int = 0) -> None:
        entropy = random.Random(f"{src}/{dst}/{seed}")
        self.src = src
        self.topic = topic_for(Direct(MESH, dst, src))
        self.kid = entropy.randbytes(8)
        context = direct_context(MESH)(src, dst, self.kid, 0)
        self._sealer = Sealer(entropy.randbytes(32), entropy.randbytes(12), self.kid, context)
        self.seq = 0

    def seal(self, *messages: Message, seq: int | None = None) -> bytes:
        self.seq = self.seq + 1 if seq is None else seq
        return self._sealer.seal(self.seq, plain_of(*messages))


def plain_of(*messages: Message) -> bytes:
    return pack(1, [(n + 1, encode_message(message)) for n, message in enumerate(messages)])


def offer_of(number: int) -> Offer:
    """With the task's name, its function's and an input that holds its marker."""
    body = b"head of it" + marker_of(number) + b"rest of it"
    return Offer(name_of(number), 1, FUNCTION, b"d" * 32, 1000, input=body)


GRANTS = {
    number: AUTHORITY.sign_grant(
        group=GROUP, epoch=number, secret=bytes([number]) * 32, issued_s=1_700_000_000
    )
    for number in (1, 2, 3)
}


def epochs(*numbers: int) -> Epochs:
    """Held by a member that was handed these, one after the other."""
    held = Epochs(mesh_id=MESH, group=GROUP, root_spki_sha256=AUTHORITY.root_spki_sha256)
    for number in numbers:
        held.adopt(0, GRANTS[number], bytes([number]) * 32)
    return held


class Speaker:
    """A member that says presence to the group."""

    def __init__(self, name: str, *held: int) -> None:
        self.name = name
        self.topic = topic_for(Presence(MESH, name))
        self._epochs = epochs(*held)
        entropy = random.Random(name).randbytes
        self._sender = GroupSender(name, self._epochs, group_context(MESH), entropy=entropy)
        self._beats = 0

    def adopts(self, number: int) -> None:
        self._epochs.adopt(0, GRANTS[number], bytes([number]) * 32)

    def beat(self, *, entries: int | None = None, stuffing: int = 0) -> bytes:
        """*entries*: with a digest of so many; *stuffing*: with so many bytes that no beat has."""
        self._beats += 1
        # Every number at its longest: the bound must hold for these.
        load = Load(1 << 62, 1 << 62, 1 << 62, 1.5, True)
        beat = Beat((1 << 62) + self._beats, load, 1 << 62, bytes(8), 1 << 62)
        items = [(0, encode_message(beat))]
        if entries is not None:
            told = [DigestEntry(f"node-{n:027d}", 1 << 31, 1 << 31, 1.5) for n in range(entries)]
            items.append((0, encode_message(FleetDigest(1 << 62, told))))
        sealed = self._sender.seal(self.topic, pack(1, items) + bytes(stuffing))
        assert sealed is not None
        return sealed
