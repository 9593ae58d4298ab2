"""A replica: one member's copy of the replicated tables, and its part in keeping all copies equal.

    Write ─► merged ─► batch: stamped, signed ─► Append ★ Persisted ─► Written, Broadcast
    Arrived ─► signature, bounds ─► known? its causes here? clock, writer, quota, cut? ─► merged ─► Append
                                      └─ waits, and is tried again when that has changed
    Reported (anti-entropy) ─► stability ─► what nobody can need any more is dropped

A batch is merged in memory at once and on disk in that order, so what survives a power cut is a causal
beginning. Until ``Persisted`` nothing of it is acknowledged, broadcast or reported: others forget only what
is safe here. If a commit fails, memory is ahead of the disk: nothing more is taken, and the shell builds a
new replica from it.

Writes between two calls of ``close`` share batches: signing one, and verifying it at each of the others, is
what a write costs. Each is merged at once and alone, so that the next sees it; under one stamp and one
context whoever applies the batch as a whole comes to the same.

A writer epoch belongs to one life (`crdt.dots`). Three things make a writer begin another and say again
there what not everybody could take, in batches that void the former ones (``amends``): its clock had run
ahead; it was away for longer than the others wait, or its disk is an old one, and comes back by a snapshot.
Then its writes did not know of what happened since; who wins is decided by the stamps of then, and who
loses stays on record as a rival.

A stamp more than 60 s ahead of a trusted clock waits, also over restarts, until its time has come or its
writer has corrected it. Without a trusted clock nobody is judged; so if another than the writer has applied
it, who may have written since, everybody does: else a writer that never comes back would part them for ever.

In: events with both clocks; out: effects. Not here: merging (`cells`, `crdt`), the cut (`stability`), whom to
ask (`antientropy`), keys, disk and roster (ports). Tried and dropped: state-based exchange (a document's
author could not be proven), a wall clock that orders (it lies), tombstones by age (a member that was away
brings the dead back).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Final, Protocol

import msgspec

from edge_node.store import batch as batches
from edge_node.store.batch import Amend, Batch, Change, Count, Put, Reset, Tag
from edge_node.store.cell_store import Commit, Image, Logged, Waiting
from edge_node.store.cells import (
    COUNTER,
    ELEMENT,
    FIELD,
    CellId,
    Cells,
    State,
    cell_of,
    pack,
    size_of,
    unpack,
)
from edge_node.store.crdt.counter import Entry, Tally
from edge_node.store.crdt.dots import Vector, Writer, missing, next_epoch
from edge_node.store.crdt.register import Register, Rival, Version
from edge_node.store.hlc import AHEAD_MS_MAX, HybridClock, too_far_ahead
from edge_node.store.stability import Stability
from edge_node.wire.messages import VectorRow
from security.errors import BadInput, ProtocolViolation

SECOND: Final = 1_000_000_000
PREDECESSOR: Final = "its causes are not here yet"
AHEAD: Final = "its clock is ahead"
FORBIDDEN: Final = "it may not write that table"
QUOTA: Final = "it is over its quota"
BEHIND: Final = "it did not know what everybody knows"

CLOCK_TABLE: Final = "."
"""A table of nobody's: where a writer has nothing to say but that its clock was wrong."""
WRITERS_TABLE: Final = ".writers"
WRITERS_FIELD: Final = "writers"
"""By table: the ids of who may write it, as a JSON list. The gateway alone writes this one (`Policy`)."""
_SNAPSHOT_VERSION: Final = 1
_IN_TIME: Final = frozenset({AHEAD, FORBIDDEN, QUOTA})
"""Obstacles that may pass by themselves."""
_NEWS_MAX: Final = 512
"""Writers learnt since our last batch, those of closed epochs too: who has the cut, and has not closed them
yet, has to hear from us that we knew them. Who never writes would gather them for ever."""
_AGAIN_BYTES_MAX: Final = 160 * 1024
JOINT_BYTES_MAX: Final = 32 * 1024
"""Of a batch that several writes share: still said to everybody at once, not left to anti-entropy."""
EXCUSED_EACH: Final = 1024
"""Epochs of one writer, one a life: what excuses an older one is on record with everybody by then. Whoever
names thousands, 256 a batch, would fill the memory of all members; it loses excuses of its own alone."""


class Limits(msgspec.Struct, frozen=True):
    """Bounds of one mesh's tables; every member has the same. At twice the totals a reader stops taking."""

    keys_max: int = 100_000
    bytes_max: int = 32 * 2**20
    """Values and names; some hundred bytes of memory come with each cell."""
    quota_bytes: int = 8 * 2**20
    """What one writer may hold of that."""
    tombstones_max: int = 100_000
    write_changes_max: int = 4096
    """Of one write: the members merge it in some ten milliseconds."""
    log_bytes_max: int = 8 * 2**20
    """Batches that not everybody has; beyond it who is silent for a minute returns by a snapshot."""
    log_bytes_full: int = 64 * 2**20
    """Most members are away for long: nothing more is written here until some are back."""
    waiting_each: int = 256
    waiting_bytes_each: int = 2**20
    waiting_bytes_max: int = 8 * 2**20
    """An author keeps what we do not: it is offered again."""
    collect: bool = True
    """False: nothing is ever forgotten; reads the same, grows for ever."""


class Author(Protocol):
    """Signatures over payloads, for this mesh and this use."""

    def sign(self, payload: bytes) -> bytes: ...

    def open(self, data: bytes) -> tuple[str, bytes]:
        """(member that signed, payload). Raises: ProtocolViolation: nobody of the roster did."""

    def read(self, data: bytes) -> bytes:
        """The payload of what was verified when it came."""


class Policy(Protocol):
    """What the roster and the tables' declarations say now."""

    def may_write(self, node: str, table: str) -> bool: ...

    def believed(self, node: str) -> bool:
        """May its snapshots replace our state? The gateway, and members with the role store."""


# ── events ────────────────────────────────────────────────────────────────────────────────────────────


class Write(msgspec.Struct, frozen=True):
    """A client's changes: all of them or none, and acknowledged once they are safe."""

    token: int
    changes: tuple[Change, ...]


class Arrived(msgspec.Struct, frozen=True):
    """A signed batch, from whomever."""

    data: bytes


class Persisted(msgspec.Struct, frozen=True):
    serial: int


class Failed(msgspec.Struct, frozen=True):
    serial: int
    reason: str


class Members(msgspec.Struct, frozen=True):
    """Whom the roster lists as able to read tables."""

    ids: frozenset[str]


class Reported(msgspec.Struct, frozen=True):
    """A member says what lies safely on its disk."""

    peer: str
    vector: Vector


class Trusted(msgspec.Struct, frozen=True):
    """The trusted clock minus ours; None: there is none."""

    offset_ms: int | None


class PolicyChanged(msgspec.Struct, frozen=True):
    """Somebody may write what it might not, or no longer."""


class Snapshot(msgspec.Struct, frozen=True):
    """A signed snapshot arrived. wish: what ours must name; empty: we asked for none."""

    data: bytes
    wish: bytes


Event = Write | Arrived | Persisted | Failed | Members | Reported | Trusted | PolicyChanged | Snapshot


# ── effects ───────────────────────────────────────────────────────────────────────────────────────────


class Append(msgspec.Struct, frozen=True):
    """Commit this durably after all earlier ones; answer Persisted or Failed."""

    serial: int
    commit: Commit


class Written(msgspec.Struct, frozen=True):
    token: int


class NotWritten(msgspec.Struct, frozen=True):
    """Nothing was changed; or, after a failed commit, it may be gone with the next start."""

    token: int
    reason: str


class Broadcast(msgspec.Struct, frozen=True):
    """To everybody, once, unacknowledged: anti-entropy brings it to whom it missed."""

    data: bytes


class Changed(msgspec.Struct, frozen=True):
    """Cells read differently now."""

    cells: tuple[CellId, ...]
    node: str


class Conflicted(msgspec.Struct, frozen=True):
    """Two wrote without knowing of each other; both are kept."""

    cell: CellId


class Noted(msgspec.Struct, frozen=True):
    """For the chronicle: what befell a batch, a snapshot or this writer."""

    what: str
    node: str
    detail: str = ""


class Orphaned(msgspec.Struct, frozen=True):
    """Another's batch that only we had when we came back by a snapshot; its author has to say it again."""

    node: str
    data: bytes


class Reload(msgspec.Struct, frozen=True):
    """The disk did not take what memory holds: build a new replica from what lies there."""

    reason: str


Effect = Append | Written | NotWritten | Broadcast | Changed | Conflicted | Noted | Orphaned | Reload


# ── what lies in a head and in a snapshot ─────────────────────────────────────────────────────────────


class _Context(msgspec.Struct, frozen=True, array_like=True):
    node: str
    epoch: int
    knows: tuple[tuple[str, int, int], ...]


class _Head(msgspec.Struct, frozen=True, array_like=True):
    version: int
    known: tuple[VectorRow, ...]
    cut: tuple[tuple[str, int, int], ...]
    contexts: tuple[_Context, ...]
    clock: int
    number: int = 0  # the log from here on is not in it


class _Copy(msgspec.Struct, frozen=True, array_like=True):
    head: _Head
    cells: tuple[tuple[int, str, str, str, bytes], ...]
    wish: bytes


_HEAD = msgspec.msgpack.Decoder(_Head)
_COPY = msgspec.msgpack.Decoder(_Copy)
_WRITERS = msgspec.json.Decoder(list[str])
_encode = msgspec.msgpack.Encoder().encode


class _Past:
    """What a writer knew at a batch. What lies below the cut it surely knew, and it need not be told."""

    __slots__ = ("cut", "floors", "seqs")

    def __init__(
        self, seqs: dict[Writer, int], cut: dict[Writer, int], floors: dict[str, tuple[int, bytes]]
    ) -> None:
        self.seqs, self.cut, self.floors = seqs, cut, floors

    def learn(self, news: Vector) -> None:
        for writer, seq in news.seqs.items():
            self.seqs[writer] = max(self.seqs.get(writer, 0), seq)

    def covers(self, node: str, epoch: int, seq: int) -> bool:
        writer = node, epoch
        known = self.seqs.get(writer)
        if known is None:
            known = self.cut.get(writer)
            if known is None:
                floor = self.floors.get(node)
                return floor is not None and epoch <= floor[0]
        return seq <= known


class _Wait:
    __slots__ = ("batch", "data", "reason")

    def __init__(self, batch: Batch, data: bytes, reason: str) -> None:
        self.batch, self.data, self.reason = batch, data, reason


class _Pending:
    """A commit on its way to the disk."""

    __slots__ = ("data", "durable", "moves", "serial", "tokens")

    def __init__(self, serial: int) -> None:
        self.serial = serial
        self.moves: list[tuple[Writer, int]] = []
        self.durable: Vector | None = None
        self.tokens: list[int] = []
        self.data: list[bytes] = []


class _Open:
    """A batch of ours that more writes may join."""

    __slots__ = ("after", "bytes", "changes", "first", "stamp")

    def __init__(self, first: int, stamp: int, after: tuple[VectorRow, ...]) -> None:
        self.first, self.stamp, self.after = first, stamp, after
        self.changes: list[Change] = []
        self.bytes = 0

    def holds(self, changes: Sequence[Change], size: int) -> bool:
        return (
            len(self.changes) + len(changes) <= batches.CHANGES_MAX and self.bytes + size <= JOINT_BYTES_MAX
        )


class Replica:
    """Args: image: what lies on the disk; entropy: n random bytes.

    Raises: ValueError: the image is damaged.
    """

    def __init__(
        self,
        me: str,
        author: Author,
        policy: Policy,
        image: Image,
        entropy: Callable[[int], bytes],
        limits: Limits | None = None,
    ) -> None:
        self._me = me
        self._author = author
        self._policy = policy
        self._entropy = entropy
        self._limits = limits or Limits()
        self.cells = Cells()
        self._known = Vector()
        self._contexts: dict[Writer, dict[Writer, int]] = {}
        self._lagging: dict[Writer, set[Writer]] = {}
        self._clock = HybridClock()
        self._epoch = 0  # 0: none begun in this life
        self._begun: set[int] = set()
        self._installing = False
        self._wrong = False  # a batch of a former life came back, with a stamp that nobody takes
        self._excused: dict[str, dict[int, int]] = {}
        """By writer and epoch: the first seq of those whose stamps it has corrected."""
        self._shared: dict[Writer, int] = {}
        """Last seq that waits here for its time and that another than its writer has applied."""
        self._next = 1  # seq of the next own change
        self._news: dict[Writer, int] = {}  # learnt since our last batch
        self._log: dict[Writer, list[Logged]] = {}
        self._log_bytes = 0
        self._number = 0
        self._waiting: dict[tuple[str, int, int], _Wait] = {}
        self._waiting_bytes: dict[str, int] = {}
        self._needing: dict[Writer | None, set[tuple[str, int, int]]] = {}
        self._offset_ms: int | None = None
        self._pending: deque[_Pending] = deque()
        self._serial = 0
        self._commit = Commit()
        self._now: _Pending = _Pending(0)
        self._open: _Open | None = None
        self._broken = ""
        self.conflicts_seen = 0
        self._stability = Stability(me)
        self._load(image)
        self.durable = self._known.copy()
        """What lies safely on our disk: what others may be told."""

    # -- entrances --------------------------------------------------------------------------------------

    def handle(self, now_ns: int, wall_ms: int, event: Event) -> list[Effect]:
        out: list[Effect] = []
        if isinstance(event, Persisted):
            self._persisted(event.serial, out)
            return out
        if isinstance(event, Write):
            return self.write(wall_ms, event) + self.close()
        if self._broken:
            return out
        out += self.close()  # what comes now was not known to what was written before it
        match event:
            case Arrived(data):
                self._arrived(wall_ms, data, out)
            case Reported(peer, vector):
                self.reported(now_ns, peer, vector)
            case Members(ids):
                self._stability.members(now_ns, ids)
            case Trusted(offset_ms):
                self._offset_ms = offset_ms
                self._judge(wall_ms, out)
            case PolicyChanged():
                self._retry(wall_ms, FORBIDDEN, out)
            case Snapshot(data, wish):
                self._install(wall_ms, data, wish, out)
            case Failed(serial, reason):
                self._failed(serial, reason, out)
        self._close_commit(out)
        return out

    def write(self, wall_ms: int, event: Write) -> list[Effect]:
        """As ``handle``, but nothing of it goes to the disk before the next call of ``close``."""
        out: list[Effect] = []
        reason = self._broken or self._refusal(event.changes)
        if reason:
            out.append(NotWritten(event.token, reason))
            return out
        self._now.tokens.append(event.token)
        for part in _parts(event.changes):
            self._join(wall_ms, part, out)
        return out

    def close(self) -> list[Effect]:
        """Sign what was written since the last call. To be called at the end of a turn, and before anything
        else is asked of the replica than what lies in its cells."""
        out: list[Effect] = []
        self._finish()
        self._close_commit(out)
        return out

    def tick(self, now_ns: int, wall_ms: int) -> list[Effect]:
        """Anti-entropy calls it every round: what the cut frees, and whose time has come."""
        out = self.close()
        if not self._broken:
            for reason in sorted({wait.reason for wait in self._waiting.values()} & _IN_TIME):
                self._retry(wall_ms, reason, out)
            if self._shared:  # what was taken needs no witness any more
                still = {key[:2] for key in self._waiting}
                self._shared = {writer: last for writer, last in self._shared.items() if writer in still}
            if self._wrong and self._offset_ms is not None:
                self._epoch = 0
                self._stamp_again(wall_ms, self._trusted_ms(wall_ms), out)
            if self._limits.collect:
                self._collect(now_ns, out)
            self._close_commit(out)
        return out

    def reported(self, now_ns: int, peer: str, vector: Vector) -> bool:
        """False: the peer lacks what nobody keeps for it any more; it needs a snapshot."""
        for (node, epoch, _), wait in self._waiting.items():
            if wait.reason == AHEAD and node != peer and vector.covers(node, epoch, wait.batch.last):
                last = self._shared.get((node, epoch), 0)
                self._shared[node, epoch] = max(last, wait.batch.last)  # `tick` takes it
        within = self._stability.reported(now_ns, peer, vector, self._known)
        return within and not any(
            key[0] == peer and wait.reason == BEHIND for key, wait in self._waiting.items()
        )

    # -- what anti-entropy asks ---------------------------------------------------------------------------

    @property
    def known(self) -> Vector:
        return self._known

    @property
    def settled(self) -> bool:
        """Everything in memory is on the disk."""
        return not self._pending and not self._broken

    @property
    def empty(self) -> bool:
        """Nothing has ever been written, as far as is known here."""
        return not self.durable.seqs and not self.durable.floors

    def lacks(self, theirs: Vector) -> bool:
        """Do they know what we do not, as far as one can tell?"""
        return not self._known.covers_all(theirs)

    def offers(self, theirs: Vector, bytes_max: int, batches_max: int) -> tuple[list[bytes], bool]:
        """Batches that they lack, causes first, and whether there are more."""
        lists = []
        for writer, seq in missing(self.durable, theirs):
            safe = self.durable.seqs[writer]
            lists.append([each for each in self._log.get(writer, ()) if seq < each.last <= safe])
        found: list[bytes] = []
        size = 0
        for entry in sorted((entry for each in lists for entry in each), key=lambda each: each.number):
            size += len(entry.data)
            if found and (size > bytes_max or len(found) >= batches_max):
                return found, True
            found.append(entry.data)
        return found, False

    def snapshot(self, wish: bytes) -> bytes | None:
        """Signed, for whoever wished for it so; None while something is not on the disk yet."""
        if not self.settled:
            return None
        cells = tuple((*cell, pack(state)) for cell, state in sorted(self.cells.all()))
        return self._author.sign(_encode(_Copy(self._head(), cells, wish)))

    def digest(self) -> bytes:
        return self.durable.digest()

    def ahead_of(self, theirs: Vector) -> bool:
        """Is something here that they lack, whether or not it lies in the log?"""
        return next(missing(self.durable, theirs), None) is not None

    def overruled(self, theirs: Vector) -> bool:
        """Do they know what was refused here as too old? Somebody's word has to decide."""
        return any(wait.reason == BEHIND and theirs.covers(*key) for key, wait in self._waiting.items())

    def members_behind(self) -> tuple[str, ...]:
        """Who has not yet said that it has all that lies safely here, or comes back by a snapshot."""
        return self._stability.behind(self.durable)

    def signed_anew(self, author: Author) -> list[Effect]:
        """Our key was renewed: what is under way of ours bears the new one from now on."""
        out = self.close()
        self._author = author
        for writer, log in self._log.items():
            if writer[0] == self._me:
                log[:] = [each._replace(data=author.sign(author.read(each.data))) for each in log]
                self._commit.logged += log
        self._log_bytes = sum(len(each.data) for log in self._log.values() for each in log)
        self._close_commit(out)
        return out

    @property
    def cut(self) -> dict[Writer, int]:
        return self._stability.cut

    def runs_ahead(self, trusted_ms: int) -> bool:
        """Would a stamp made here now be of a future that nobody takes?"""
        return self._clock.ahead_ms(trusted_ms) > AHEAD_MS_MAX

    def metadata(self) -> dict[str, int]:
        """How much is kept beside the values; for `status` and for the bound's proof."""
        return {
            "vector": len(self._known.seqs) + len(self._known.floors),
            "contexts": sum(len(each) for each in self._contexts.values()),
            "tombstones": len(self.cells.tombstones),
            "entries": self.cells.entries,
            "log": sum(len(each) for each in self._log.values()),
            "log_bytes": self._log_bytes,
            "waiting": len(self._waiting),
            "excused": sum(len(each) for each in self._excused.values()),
            "shared": len(self._shared),
        }

    def waits(self) -> list[tuple[str, int, int, str]]:
        """(node, epoch, first, reason) of what is here and not applied."""
        return sorted((*key, wait.reason) for key, wait in self._waiting.items())

    # -- own writes ---------------------------------------------------------------------------------------

    def _refusal(self, changes: Sequence[Change]) -> str:
        if not changes:
            return "nothing to write"
        if len(changes) > self._limits.write_changes_max:
            return f"{len(changes)} changes are over {self._limits.write_changes_max}: split the write"
        try:
            for change in changes:
                batches.checked(change)
        except BadInput as error:
            return str(error)
        for table in sorted({change.table for change in changes}):
            listed = self.writers(table)
            if not self._policy.may_write(self._me, table) or (listed is not None and self._me not in listed):
                return f"{self._me} is no writer of table {table!r}: the gateway's declaration lists them"
        if self._log_bytes > self._limits.log_bytes_full:
            return "too much that most members have not got yet: bring the silent ones back"
        new_bytes, new_keys, new_dead = self._growth(self._me, changes)
        limits = self._limits
        if new_bytes > 0 and self.cells.bytes_by[self._me] + new_bytes > limits.quota_bytes:
            return (
                f"{self._me} would hold more than its {limits.quota_bytes} bytes: delete or shorten something"
            )
        if new_bytes > 0 and self.cells.bytes + new_bytes > limits.bytes_max:
            return f"the tables would hold more than {limits.bytes_max} bytes: delete or shorten something"
        if new_keys and self.cells.live + new_keys > limits.keys_max:
            return f"the tables would hold more than {limits.keys_max} keys: delete something"
        if new_dead and len(self.cells.tombstones) + new_dead > limits.tombstones_max:
            return "too many deletions that not every member knows of: bring the silent ones back"
        return ""

    def _growth(self, node: str, changes: Iterable[Change]) -> tuple[int, int, int]:
        """(bytes by *node*, keys, deletions) that come with these changes; what it replaces is taken off."""
        size = dead = 0
        keys = set()
        replaced = set()
        for change in changes:
            cell = cell_of(change)
            if type(change) is Count:
                keys.add(cell[:3])
                continue
            if cell not in replaced:
                replaced.add(cell)
                size -= sum(size_of(cell, each) for each in self.cells.register(cell) if each.node == node)
            if type(change) is Put and change.value is None:
                dead += 1
                continue
            if type(change) is Put:
                size += size_of(cell, Version(0, "", 0, 0, change.value, change.rivals))
            elif type(change) is Tag and change.present:
                size += size_of(cell, Version(0, "", 0, 0, b"\x01"))
            else:
                continue
            keys.add(cell[:3])
        return size, sum(not self.cells.is_live(*doc) for doc in keys), dead

    def _join(self, wall_ms: int, changes: tuple[Change, ...], out: list[Effect]) -> None:
        """Merged now, signed together with what else comes until `close`."""
        size = sum(map(batches.size_of, changes))
        if self._open is not None and not self._open.holds(changes, size):
            self._finish()
        after: tuple[VectorRow, ...] = ()
        if self._open is None:
            first, after = self._begin(wall_ms, ())
            self._open = _Open(first, self._clock.stamp(self._trusted_ms(wall_ms)), after)
        self._open.changes += changes
        self._open.bytes += size
        self._merge(self._batch(self._next, self._open.stamp, changes, after), out)

    def _finish(self) -> None:
        """The batch that more might have joined is whole."""
        joint, self._open = self._open, None
        if joint is not None:
            batch = self._batch(joint.first, joint.stamp, tuple(joint.changes), joint.after)
            self._own(batch, self._author.sign(batches.encoded(batch)))

    def _say(
        self,
        stamp: int,
        changes: Sequence[Change],
        amends: Sequence[Amend],
        wall_ms: int,
        out: list[Effect],
    ) -> None:
        """In batches of ours."""
        for part in _parts(changes):
            first, after = self._begin(wall_ms, amends)
            batch = self._batch(first, stamp, part, after, tuple(amends))
            data = self._author.sign(batches.encoded(batch))
            self._merge(batch, out)
            self._own(batch, data)

    def _begin(self, wall_ms: int, amends: Sequence[Amend]) -> tuple[int, tuple[VectorRow, ...]]:
        """A batch of ours: its first seq, and what we have learnt since the one before."""
        if self._epoch:
            after = Vector(self._news).rows()
        else:
            above = max((epoch for node, epoch in self._known.seqs if node == self._me), default=0)
            above = max(above, self._known.floor(self._me), *(each.epoch for each in amends), 0)
            self._epoch = next_epoch(above, self._trusted_ms(wall_ms), self._entropy(4))
            self._begun.add(self._epoch)
            self._next = 1
            after = self._known.rows()
        self._news = {}
        return self._next, after

    def _batch(
        self,
        first: int,
        stamp: int,
        changes: tuple[Change, ...],
        after: tuple[VectorRow, ...],
        amends: tuple[Amend, ...] = (),
    ) -> Batch:
        return Batch(batches.VERSION, self._me, self._epoch, first, stamp, changes, after, amends)

    def _own(self, batch: Batch, data: bytes) -> None:
        self._now.data.append(data)
        self._record(batch, data)

    # -- batches that come in ------------------------------------------------------------------------------

    def _arrived(self, wall_ms: int, data: bytes, out: list[Effect]) -> None:
        try:
            batch = batches.decoded(self._author.read(data))
            if self._is_here(batch, data):
                return
            node, _ = self._author.open(data)
            if batch.node != node:
                raise ProtocolViolation(f"{node} signed a batch in the name of {batch.node}")
        except ProtocolViolation as error:
            out.append(Noted("batch dropped", "", str(error)))
            return
        excused = [each for each in batch.amends if not each.void]
        if excused:
            self._excuse(node, excused)
        self._take(wall_ms, batch, data, out)
        if excused:
            self._retry(wall_ms, AHEAD, out)

    def _excuse(self, node: str, amends: Iterable[Amend]) -> None:
        epochs = self._excused.setdefault(node, {})
        for amend in amends:
            epochs[amend.epoch] = amend.first
        for epoch in sorted(epochs)[:-EXCUSED_EACH]:
            del epochs[epoch]

    def _is_here(self, batch: Batch, data: bytes) -> bool:
        """Who comes back hears the same from everybody, and a signature is the dearest part of a batch.

        Not verified: whoever claims so is not listened to, and nothing else comes of it.
        """
        wait = self._waiting.get((batch.node, batch.epoch, batch.first))
        if wait is not None and wait.data == data:
            return True
        excuses = any(not each.void for each in batch.amends)
        return not excuses and self._known.covers(batch.node, batch.epoch, batch.last)

    def _take(self, wall_ms: int, batch: Batch, data: bytes, out: list[Effect]) -> str:
        """Apply it, or let it wait. The reason why it waits; "known" if there is nothing to do."""
        reason, need = self._obstacle(wall_ms, batch)
        if not reason:
            self._hear(wall_ms, batch.stamp)
            self._apply(batch, data, out)
            self._wrong |= batch.node == self._me and self._too_far(wall_ms, batch.stamp)
            for epoch in (batch.epoch, *(each.epoch for each in batch.amends)):  # what it voids is known now
                self._follow(wall_ms, (batch.node, epoch), out)
        elif reason == BEHIND and batch.node == self._me and not self._installing:
            self._disown(wall_ms, batch, out)
        elif reason != "known":
            self._wait(batch, data, reason, need, out)
        return reason

    def _is_ahead(self, wall_ms: int, batch: Batch) -> bool:
        excused = self._excused.get(batch.node, {}).get(batch.epoch)
        if batch.last <= self._shared.get((batch.node, batch.epoch), 0):
            return False
        return (excused is None or batch.first < excused) and self._too_far(wall_ms, batch.stamp)

    def _hear(self, wall_ms: int, stamp: int) -> None:
        """An excused stamp, or one of our own wrong ones, moves no clock."""
        if not self._too_far(wall_ms, stamp):
            self._clock.heard(stamp)

    def _too_far(self, wall_ms: int, stamp: int) -> bool:
        return self._offset_ms is not None and too_far_ahead(stamp, self._trusted_ms(wall_ms))

    def _obstacle(self, wall_ms: int, batch: Batch) -> tuple[str, Writer | None]:
        """Why it cannot be applied now, and whose batch it is waiting for, if that is all."""
        writer = batch.node, batch.epoch
        known = self._known
        if known.covers(batch.node, batch.epoch, batch.last):
            return "known", None
        if batch.first > known.seq(*writer) + 1:
            return PREDECESSOR, writer
        if batch.first <= known.seq(*writer):
            return "known", None  # another cut of the same writes: its author is lying
        amended = {amend.epoch: amend for amend in batch.amends if amend.void}
        for row in batch.after:
            for epoch, seq in row.epochs:
                if row.node == batch.node and epoch in amended:
                    seq = min(seq, amended[epoch].first - 1)  # noqa: PLW2901  # the rest of it is void
                if seq and not known.covers(row.node, epoch, seq):
                    return PREDECESSOR, (row.node, epoch)
            if row.floor and not known.reaches(row.node, row.floor, row.digest):
                return PREDECESSOR, None
        if batch.node != self._me and self._is_ahead(wall_ms, batch):
            return AHEAD, None
        if self._is_behind(batch):
            return BEHIND, None
        if batch.node != self._me:
            if self._is_forbidden(batch):
                return FORBIDDEN, None
            size, keys, _ = self._growth(batch.node, batch.changes)
            limits = self._limits
            if (
                (size > 0 and self.cells.bytes_by[batch.node] + size > limits.quota_bytes)
                or (size > 0 and self.cells.bytes + size > 2 * limits.bytes_max)
                or (keys and self.cells.live + keys > 2 * limits.keys_max)
            ):
                return QUOTA, None
        return "", None

    def _is_forbidden(self, batch: Batch) -> bool:
        """Does it write where its author may not, and knew so?

        Judged by what the author knew, so that everybody judges alike: a write that did not know of a list is
        no breach of it; nobody can claim for ever not to know, because everybody gets to know it (`BEHIND`).
        What is said again after an absence has to converge, whoever may have taken it before: it passes.
        """
        if any(amend.void for amend in batch.amends):
            return False
        for table in {each.table for each in batch.changes}:
            if table == CLOCK_TABLE:
                continue
            if not self._policy.may_write(batch.node, table):
                return True
            version = self._writers(table)
            if version is not None and batch.node not in _listed(version):
                past = self._past_of(batch)
                past.learn(batch.knows)
                if past.covers(*version[1:4]):
                    return True
        return False

    def _writers(self, table: str) -> Version | None:
        """The list of a table's writers that holds; None: everybody."""
        register = self.cells.register(CellId(FIELD, WRITERS_TABLE, table, WRITERS_FIELD))
        return register[-1] if register and register[-1].value is not None else None

    def writers(self, table: str) -> frozenset[str] | None:
        """Who may write that table; None: every member."""
        version = self._writers(table)
        return None if version is None else _listed(version)

    def _is_behind(self, batch: Batch) -> bool:
        """Could it be concurrent with something below the cut, of which nothing may be left?"""
        writer = batch.node, batch.epoch
        if batch.first == 1:
            return not batch.knows.covers_all(Vector(self._stability.cut, self._known.floors))
        lagging = self._lagging.get(writer)
        if not lagging:
            return False
        cut, context, news = self._stability.cut, self._contexts[writer], batch.knows.seqs
        return any(
            max(context.get(each, 0), news.get(each, 0)) < cut[each] for each in lagging if each in cut
        )

    def _apply(self, batch: Batch, data: bytes, out: list[Effect]) -> None:
        self._merge(batch, out)
        self._record(batch, data)

    def _record(self, batch: Batch, data: bytes) -> None:
        self._keep(Logged(self._number, batch.node, batch.epoch, batch.first, batch.last, data))
        self._commit.logged.append(self._log[batch.node, batch.epoch][-1])

    def _merge(self, batch: Batch, out: list[Effect]) -> None:
        known, cells = self._known, self.cells
        writer = batch.node, batch.epoch
        learnt: list[tuple[Writer, int]] = []
        for amend in batch.amends:
            old = batch.node, amend.epoch
            if amend.void and amend.epoch > known.floor(batch.node) and known.seqs.get(old, 0) < amend.last:
                known.seqs[old] = amend.last
                learnt.append((old, amend.last))
                self._void(old, amend)
        context = self._learn(batch)
        past = _Past(context, self._stability.cut, known.floors)
        changed: list[CellId] = []
        seq = batch.first
        for change in batch.changes:
            cell = cells.apply(change, (batch.stamp, batch.node, batch.epoch, seq), past, known)
            seq += 1
            if cell is None:
                continue
            changed.append(cell)
            state = cells.state(cell)
            self._commit.cells[cell] = None if state is None else pack(state)
            if cell in cells.conflicts and len(state) > 1:  # type: ignore[arg-type]
                self.conflicts_seen += 1
                out.append(Conflicted(cell))
        known.seqs[writer] = batch.last
        learnt.append((writer, batch.last))
        self._now.moves += learnt
        if writer == (self._me, self._epoch):
            self._next = batch.last + 1
        else:
            self._news.update(learnt)  # also of our own former lives
        out.append(Changed(tuple(dict.fromkeys(changed)), batch.node))

    def _learn(self, batch: Batch) -> dict[Writer, int]:
        """The writer's context, with this batch."""
        writer = batch.node, batch.epoch
        floor, cut = self._known.floor, self._stability.cut
        context = self._contexts.get(writer)
        if context is None:
            context = self._contexts[writer] = {}
            self._lagging[writer] = set()
        for each, seq in self._spelt_out(batch):
            if each[1] > floor(each[0]) and seq > context.get(each, cut.get(each, 0)):
                context[each] = seq
        for amend in batch.amends:
            if amend.void and amend.epoch > floor(batch.node):
                context[batch.node, amend.epoch] = amend.last
        context[writer] = batch.last
        lagging = self._lagging[writer]
        if lagging:
            lagging -= {each for each in lagging if context.get(each, 0) >= cut.get(each, 0)}
        return context

    def _spelt_out(self, batch: Batch) -> list[tuple[Writer, int]]:
        """What it says its writer had learnt; epochs that only the writer has closed yet, one by one."""
        found = []
        for row in batch.after:
            found += [((row.node, epoch), seq) for epoch, seq in row.epochs]
            if row.floor > self._known.floor(row.node):
                for epoch in self._known.epochs(row.node):
                    if epoch <= row.floor:
                        found.append(((row.node, epoch), self._known.seqs[row.node, epoch]))
        return found

    def _keep(self, entry: Logged) -> None:
        self._log.setdefault((entry.node, entry.epoch), []).append(entry)
        self._log_bytes += len(entry.data)
        self._number = max(self._number, entry.number + 1)

    # -- what waits ----------------------------------------------------------------------------------------

    def _wait(self, batch: Batch, data: bytes, reason: str, need: Writer | None, out: list[Effect]) -> None:
        key = batch.node, batch.epoch, batch.first
        limits = self._limits
        old = self._waiting.get(key)
        if old is not None:
            old.reason = reason
        else:
            mine = self._waiting_bytes.get(batch.node, 0) + len(data)
            count = sum(each[0] == batch.node for each in self._waiting)
            if (
                mine > limits.waiting_bytes_each
                or count >= limits.waiting_each
                or sum(self._waiting_bytes.values()) + len(data) > limits.waiting_bytes_max
            ):
                out.append(Noted("batch not kept", batch.node, f"{reason}, and too much waits already"))
                return
            self._waiting[key] = _Wait(batch, data, reason)
            self._waiting_bytes[batch.node] = mine
            if reason != PREDECESSOR:
                out.append(Noted("batch waits", batch.node, reason))
        if reason == AHEAD:
            self._commit.waiting.append(Waiting(*key, data))
        if reason == PREDECESSOR:
            self._needing.setdefault(need, set()).add(key)

    def _unwait(self, key: tuple[str, int, int]) -> _Wait | None:
        wait = self._waiting.pop(key, None)
        if wait is not None:
            self._waiting_bytes[key[0]] -= len(wait.data)
            if not self._waiting_bytes[key[0]]:
                del self._waiting_bytes[key[0]]
            if wait.reason == AHEAD:
                self._commit.released.append(key)
        return wait

    def _void(self, writer: Writer, amend: Amend) -> None:
        for key in [key for key in self._waiting if key[:2] == writer and key[2] <= amend.last]:
            self._unwait(key)

    def _follow(self, wall_ms: int, writer: Writer, out: list[Effect]) -> None:
        """What was waiting for this writer's batch, and what waits for that."""
        if not self._needing:
            return
        todo = [writer]
        while todo:
            current = todo.pop()
            keys = self._needing.pop(current, set()) | self._needing.pop(None, set())
            for key in sorted(keys):
                wait = self._unwait(key)
                if wait is None:
                    continue
                reason, need = self._obstacle(wall_ms, wait.batch)
                if not reason:
                    self._hear(wall_ms, wait.batch.stamp)
                    self._apply(wait.batch, wait.data, out)
                    self._wrong |= key[0] == self._me and self._too_far(wall_ms, wait.batch.stamp)
                    todo.append(key[:2])
                    todo += [(key[0], amend.epoch) for amend in wait.batch.amends]
                elif reason == BEHIND and key[0] == self._me and not self._installing:
                    self._disown(wall_ms, wait.batch, out)
                elif reason != "known":
                    self._wait(wait.batch, wait.data, reason, need, out)

    def _retry(self, wall_ms: int, reason: str, out: list[Effect]) -> None:
        for key in sorted(key for key, wait in self._waiting.items() if wait.reason == reason):
            wait = self._waiting[key]
            if self._obstacle(wall_ms, wait.batch)[0] != reason:
                self._unwait(key)
                self._take(wall_ms, wait.batch, wait.data, out)

    # -- clocks --------------------------------------------------------------------------------------------

    def _trusted_ms(self, wall_ms: int) -> int:
        return wall_ms if self._offset_ms is None else wall_ms + self._offset_ms

    def _judge(self, wall_ms: int, out: list[Effect]) -> None:
        """A trusted clock: ours first, then everybody else's."""
        if self._offset_ms is None:
            return
        trusted_ms = self._trusted_ms(wall_ms)
        if self.runs_ahead(trusted_ms):
            out.append(Noted("own clock ran ahead", self._me, f"{self._clock.ahead_ms(trusted_ms)} ms"))
            self._clock.set_back(trusted_ms)
            self._epoch = 0
            self._stamp_again(wall_ms, trusted_ms, out)
        self._retry(wall_ms, AHEAD, out)

    def _stamp_again(self, wall_ms: int, trusted_ms: int, out: list[Effect]) -> None:
        """What nobody with a true clock could take yet: with true stamps, in a fresh epoch."""
        self._wrong = False
        wrong: dict[int, Amend] = {}
        cells: set[CellId] = set()
        for entry in self._entries():
            if entry.node != self._me:
                continue
            batch = batches.decoded(self._author.read(entry.data))
            if too_far_ahead(batch.stamp, trusted_ms):
                span = wrong.get(batch.epoch)
                first = batch.first if span is None else span.first
                wrong[batch.epoch] = Amend(batch.epoch, first, batch.last, False)
                cells |= _touched([batch])
        if not wrong:
            return
        stamp = self._clock.stamp(trusted_ms)
        changes: list[Change] = []
        for cell in sorted(each for each in cells if each.kind == FIELD):
            register: Register = self.cells.register(cell)
            right = [
                each._replace(stamp=stamp) if each.node == self._me and each.stamp > stamp else each
                for each in register
            ]
            if right != list(register):
                changes.append(_settled(cell, sorted(right), out))
        out.append(Noted("stamped again", self._me, f"{len(changes)} cells"))
        if not changes:  # a batch has to carry the word all the same
            changes = [Count(CLOCK_TABLE, 0)]
        self._say(stamp, changes, tuple(wrong[each] for each in sorted(wrong)), wall_ms, out)

    def _past_of(self, batch: Batch) -> _Past:
        context = dict(self._contexts.get((batch.node, batch.epoch), {}))
        return _Past(context, dict(self._stability.cut), dict(self._known.floors))

    def _entries(self) -> list[Logged]:
        return sorted((entry for each in self._log.values() for entry in each), key=lambda each: each.number)

    def _disown(self, wall_ms: int, batch: Batch, out: list[Effect]) -> None:
        """A batch of a life that this disk forgot came back, and rests on less than everybody knows."""
        past = self._past_of(batch)
        for writer, seq in self._spelt_out(batch):
            past.seqs[writer] = max(past.seqs.get(writer, 0), seq)
        self._again([batch], None, past, wall_ms, out)
        self._follow(wall_ms, (batch.node, batch.epoch), out)

    # -- saying again --------------------------------------------------------------------------------------

    def _again(
        self,
        void: Sequence[Batch],
        before: dict[CellId, State | None] | None,
        past: _Past,
        wall_ms: int,
        out: list[Effect],
    ) -> None:
        """Write anew, in a fresh epoch, every cell that the void batches touched, as it should be by now.

        Args: before: those cells as they were with the void batches in them, None: these never were in ours;
            past: what those knew of.
        """
        spans: dict[int, Amend] = {}
        for batch in void:
            span = spans.get(batch.epoch)
            first = batch.first if span is None else span.first
            spans[batch.epoch] = Amend(batch.epoch, first, batch.last)
        mine = {(self._me, batch.epoch, seq) for batch in void for seq in range(batch.first, batch.last + 1)}
        stamp = self._clock.stamp(self._trusted_ms(wall_ms))
        changes: list[Change] = []
        for cell in sorted(_touched(void)):
            if cell.kind == COUNTER:
                changes.append(self._count_again(cell, void, spans, before))
                continue
            was: Register = _left_by(cell, void) if before is None else before[cell] or ()  # type: ignore
            own = [each for each in was if each[1:4] in mine]
            others = [
                each
                for each in self.cells.register(cell)
                if each[1:4] not in mine and not past.covers(*each[1:4])
            ]
            if cell.kind == ELEMENT:
                present = bool(own or others)
                changes.append(Tag(cell.table, cell.key, present))
                continue
            everybody = sorted([*own, *others] or self.cells.register(cell))
            changes.append(_settled(cell, everybody, out))
        self._epoch = 0
        self._known_void(spans)
        out.append(Noted("written again", self._me, f"{len(changes)} cells of {len(void)} batches"))
        self._say(stamp, changes, tuple(spans[each] for each in sorted(spans)), wall_ms, out)

    def _count_again(
        self,
        cell: CellId,
        void: Sequence[Batch],
        spans: dict[int, Amend],
        before: dict[CellId, State | None] | None,
    ) -> Count:
        """The entries of void epochs as they were before those batches, and what these added, in ours."""
        amount = 0
        by_epoch = dict.fromkeys(spans, 0)
        up, down = dict(by_epoch), dict(by_epoch)
        for batch in void:
            for change in batch.changes:
                if type(change) is Count and change.table == cell.table:
                    amount += change.amount
                    up[batch.epoch] += max(change.amount, 0)
                    down[batch.epoch] += max(-change.amount, 0)
        was = self.cells.tally(cell) if before is None else before[cell]
        had = was.entries if isinstance(was, Tally) else {}
        resets = []
        if before is None:
            up, down = by_epoch, by_epoch
        for epoch in sorted(spans):
            entry = had.get((self._me, epoch), Entry(0, 0, 0))
            resets.append(Reset(epoch, spans[epoch].last + 1, entry.up - up[epoch], entry.down - down[epoch]))
        return Count(cell.table, amount, tuple(resets))

    def _known_void(self, spans: dict[int, Amend]) -> None:
        for span in spans.values():
            writer = self._me, span.epoch
            if span.epoch > self._known.floor(self._me):
                self._known.seqs[writer] = max(self._known.seqs.get(writer, 0), span.last)
                self._now.moves.append((writer, self._known.seqs[writer]))
                log = self._log.get(writer, [])
                while log and log[-1].first >= span.first:
                    gone = log.pop()
                    self._log_bytes -= len(gone.data)
                    self._commit.forgotten.append(gone.number)

    # -- snapshots -----------------------------------------------------------------------------------------

    def _head(self) -> _Head:
        return _Head(
            _SNAPSHOT_VERSION,
            self._known.rows(),
            tuple((*writer, seq) for writer, seq in sorted(self._stability.cut.items())),
            tuple(
                _Context(*writer, tuple((*each, seq) for each, seq in sorted(context.items())))
                for writer, context in sorted(self._contexts.items())
            ),
            self._clock.newest,
            self._number,
        )

    def _adopt(self, head: _Head) -> None:
        self._known = Vector.of(head.known)
        self._stability.cut = {(node, epoch): seq for node, epoch, seq in head.cut}
        self._stability.stale = True
        self._contexts = {
            (each.node, each.epoch): {(node, epoch): seq for node, epoch, seq in each.knows}
            for each in head.contexts
        }
        self._lagging = {
            writer: {each for each, seq in context.items() if seq < self._stability.cut.get(each, 0)}
            for writer, context in self._contexts.items()
        }

    def _install(self, wall_ms: int, data: bytes, wish: bytes, out: list[Effect]) -> None:
        """Another's state takes the place of ours; what we wrote and it does not know is said again."""
        try:
            node, payload = self._author.open(data)
            if not self._policy.believed(node):
                raise ProtocolViolation(f"a snapshot by {node}, whose word is not enough for that")
            copy = _COPY.decode(payload)
            cells = [(CellId(*each[:4]), unpack(each[0], each[4])) for each in copy.cells]
            if not wish or copy.wish != wish:
                raise ProtocolViolation("a snapshot that was not asked for now")
            if copy.head.version != _SNAPSHOT_VERSION:
                raise ProtocolViolation(f"a snapshot of version {copy.head.version}")
        except (ProtocolViolation, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            out.append(Noted("snapshot dropped", "", str(error)))
            return
        theirs = Vector.of(copy.head.known)
        if not theirs.covers_all(Vector(self._stability.cut, self._known.floors)):
            out.append(Noted("snapshot dropped", node, "it is older than what everybody knows"))
            return
        left = [
            (batches.decoded(self._author.read(entry.data)), entry.data)
            for entry in self._entries()
            if not theirs.covers(entry.node, entry.epoch, entry.last) or self._unheard_of(entry, theirs)
        ]
        shared = [
            entry
            for entry in self._entries()
            if theirs.covers(entry.node, entry.epoch, entry.last) and not self._unheard_of(entry, theirs)
        ]
        own = [batch for batch, _ in left if batch.node == self._me]
        before = {cell: self.cells.state(cell) for cell in _touched(own)}
        past = self._past_of(own[-1]) if own else None
        waiting = [(wait.batch, wait.data) for _, wait in sorted(self._waiting.items())]
        self._waiting, self._waiting_bytes, self._needing = {}, {}, {}
        self._log, self._log_bytes = {}, 0
        self.cells = Cells()
        for cell, state in cells:
            self.cells.place(cell, state)
        self._adopt(copy.head)
        self._hear(wall_ms, copy.head.clock)
        self._epoch, self._news = 0, {}
        self._commit = Commit(cells={cell: pack(state) for cell, state in cells}, anew=True)
        for entry in shared:  # whoever gave us the snapshot may take an older one from somebody else
            if entry.last > self._stability.cut.get((entry.node, entry.epoch), 0) and (
                entry.epoch > self._known.floor(entry.node)
            ):
                self._keep(entry)
                self._commit.logged.append(entry)
        out.append(Noted("snapshot taken", node, f"{len(cells)} cells"))
        void: list[Batch] = []
        self._installing = True
        for batch, raw in left:
            reason = "void" if void and batch.node == self._me else self._take(wall_ms, batch, raw, out)
            if batch.node == self._me and reason not in ("", "known"):
                void.append(batch)
            elif reason == BEHIND:
                self._unwait((batch.node, batch.epoch, batch.first))
                out.append(Orphaned(batch.node, raw))
        for batch in void:
            self._unwait((batch.node, batch.epoch, batch.first))
        self._installing = False
        if void:
            assert past is not None, "what is void is ours"
            again = {cell: before[cell] for cell in _touched(void)}
            self._again(void, again, past, wall_ms, out)
            for epoch in sorted({batch.epoch for batch in void}):
                self._follow(wall_ms, (self._me, epoch), out)
        for batch, raw in waiting:
            self._take(wall_ms, batch, raw, out)
        self._commit.head = _encode(self._head())
        for pending in self._pending:
            pending.moves, pending.durable = [], None  # of a state that is no longer ours
        self._now.moves, self._now.durable = [], self._known.copy()
        self.durable = self._known.meet(self.durable)
        out.append(Changed(tuple(cell for cell, _ in cells), node))

    def _unheard_of(self, entry: Logged, theirs: Vector) -> bool:
        """An epoch of this life below their floor: a clock that was behind gave it a number of the past."""
        floor = theirs.floors.get(self._me)
        return (
            entry.node == self._me
            and entry.epoch in self._begun
            and floor is not None
            and entry.epoch <= floor[0]
            and not self._known.reaches(self._me, *floor)
        )

    # -- forgetting ----------------------------------------------------------------------------------------

    def _collect(self, now_ns: int, out: list[Effect]) -> None:
        pressed = self._log_bytes > self._limits.log_bytes_max
        if not self.settled or not (self._stability.stale or pressed):
            return
        old = dict(self._stability.cut)
        moved, acknowledged = self._stability.advance(now_ns, self.durable, pressed=pressed)
        if not moved and not acknowledged:
            return
        cut, known = self._stability.cut, self._known
        closed = self._stability.closed(known, acknowledged)
        if not moved and not closed:
            return
        self._narrow(old)
        for writer, log in list(self._log.items()):
            stable = cut.get(writer, 0)
            gone = 0
            while gone < len(log) and log[gone].last <= stable:
                self._log_bytes -= len(log[gone].data)
                self._commit.forgotten.append(log[gone].number)
                gone += 1
            del log[:gone]
            if not log:
                del self._log[writer]
        touched = self.cells.collect(cut, known)
        for node, epoch in closed:
            known.fold(node, epoch)
            self.durable.fold(node, epoch)
            cut.pop((node, epoch), None)
            self._contexts.pop((node, epoch), None)
            self._lagging.pop((node, epoch), None)
            for context in self._contexts.values():
                context.pop((node, epoch), None)
        if len(self._news) > _NEWS_MAX:
            self._epoch, self._news = 0, {}  # the next batch says all of it
        if closed:
            touched += self.cells.fold(known)
        for cell in touched:
            state = self.cells.state(cell)
            self._commit.cells[cell] = None if state is None else pack(state)
        self._commit.head = _encode(self._head())

    def _narrow(self, old: dict[Writer, int]) -> None:
        """A context need not say what the cut says: below it everybody knows, or is behind."""
        cut = self._stability.cut
        risen = {writer for writer, seq in cut.items() if seq > old.get(writer, 0)}
        for writer, context in self._contexts.items():
            lagging = self._lagging[writer]
            for each in risen:
                seq = context.get(each, old.get(each, 0))
                if seq < cut[each]:
                    context[each] = seq
                    lagging.add(each)
                elif seq == cut[each] and each != writer:
                    context.pop(each, None)
            lagging -= {each for each in lagging if context.get(each, cut.get(each, 0)) >= cut.get(each, 0)}

    # -- disk ----------------------------------------------------------------------------------------------

    def _close_commit(self, out: list[Effect]) -> None:
        commit = self._commit
        if commit == Commit():
            assert not self._now.moves and not self._now.tokens
            return
        self._serial += 1
        self._now.serial = self._serial
        self._pending.append(self._now)
        self._now, self._commit = _Pending(0), Commit()
        out.append(Append(self._serial, commit))

    def _persisted(self, serial: int, out: list[Effect]) -> None:
        while self._pending and self._pending[0].serial <= serial:
            done = self._pending.popleft()
            if done.durable is not None:
                self.durable = done.durable
            for writer, seq in done.moves:
                if seq > self.durable.seqs.get(writer, 0) and writer[1] > self.durable.floor(writer[0]):
                    self.durable.seqs[writer] = seq
            out += [Written(token) for token in done.tokens]
            out += [Broadcast(data) for data in done.data]
        self._stability.persisted()

    def _failed(self, serial: int, reason: str, out: list[Effect]) -> None:
        self._broken = f"the tables' disk failed: {reason}"
        for pending in self._pending:
            if pending.serial >= serial:
                out += [NotWritten(token, self._broken) for token in pending.tokens]
        self._pending.clear()
        out.append(Reload(reason))

    def _load(self, image: Image) -> None:
        for cell, data in image.cells:
            self.cells.place(cell, unpack(cell.kind, data))
        number = 0
        if image.head is not None:
            head = _HEAD.decode(image.head)
            self._adopt(head)
            self._clock.heard(head.clock)
            self._number = number = head.number
        for entry in image.logged:
            self._keep(entry)
            if entry.number < number:
                continue
            batch = batches.decoded(self._author.read(entry.data))
            for amend in batch.amends:
                writer = batch.node, amend.epoch
                if amend.void and amend.epoch > self._known.floor(batch.node):
                    self._known.seqs[writer] = max(self._known.seqs.get(writer, 0), amend.last)
            self._learn(batch)
            self._known.seqs[batch.node, batch.epoch] = batch.last
            self._clock.heard(batch.stamp)
        for waiting in image.waiting:
            batch = batches.decoded(self._author.read(waiting.data))
            self._waiting[waiting[:3]] = _Wait(batch, waiting.data, AHEAD)
            self._waiting_bytes[batch.node] = self._waiting_bytes.get(batch.node, 0) + len(waiting.data)

    # -- proof ---------------------------------------------------------------------------------------------

    def check(self) -> None:
        self.cells.check()
        assert self._open is None or self._open.first + len(self._open.changes) == self._next
        for writer, log in self._log.items():
            for one, two in pairwise(log):
                assert one.last < two.first, f"the log of {writer} is in order"
            assert not log or log[-1].last <= self._known.seqs.get(writer, 0)
        assert self._known.covers_all(self.durable), "what is on the disk is known"
        assert all(seq <= self._known.seqs[writer] for writer, seq in self._stability.cut.items())
        assert self._contexts.keys() == self._lagging.keys()
        assert all(len(epochs) <= EXCUSED_EACH for epochs in self._excused.values())
        assert sum(len(wait.data) for wait in self._waiting.values()) == sum(self._waiting_bytes.values())


def _parts(changes: Sequence[Change]) -> Iterable[tuple[Change, ...]]:
    part: list[Change] = []
    size = 0
    for change in changes:
        bytes_ = batches.size_of(change)
        if part and (len(part) >= batches.CHANGES_MAX or size + bytes_ > batches.CHANGES_BYTES_MAX):
            yield tuple(part)
            part, size = [], 0
        part.append(change)
        size += bytes_
    if part:
        yield tuple(part)


def _listed(version: Version) -> frozenset[str]:
    """A list that cannot be read lists nobody."""
    try:
        return frozenset(_WRITERS.decode(version.value or b""))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return frozenset()


def _touched(void: Iterable[Batch]) -> set[CellId]:
    return {cell_of(change) for batch in void for change in batch.changes}


def _left_by(cell: CellId, void: Iterable[Batch]) -> Register:
    """What these batches wrote there last."""
    found: Register = ()
    for batch in void:
        for seq, change in enumerate(batch.changes, batch.first):
            if cell_of(change) == cell and type(change) is Put:
                found = (Version(batch.stamp, batch.node, batch.epoch, seq, change.value, change.rivals),)
            elif cell_of(change) == cell and type(change) is Tag:
                found = (
                    (Version(batch.stamp, batch.node, batch.epoch, seq, b"\x01"),) if change.present else ()
                )
    return found


def _settled(cell: CellId, versions: Sequence[Version], out: list[Effect]) -> Put:
    """One write that stands for all of them: the winner's value, and who lost with another one."""
    if not versions:
        return Put(cell.table, cell.key, cell.field, None)
    won = versions[-1]
    rivals = {rival for each in versions for rival in each.rivals if rival.value != won.value}
    rivals |= {Rival(each.stamp, each.node, each.value) for each in versions[:-1] if each.value != won.value}
    kept: list[Rival] = []
    size = len(won.value or b"")
    for rival in sorted(rivals, key=lambda each: (*each[:2], each.value or b""), reverse=True):
        size += len(rival.value or b"") + 48
        if size > _AGAIN_BYTES_MAX or len(kept) == batches.RIVALS_MAX:
            out.append(Noted("conflict cut", rival.node, f"{cell.table}/{cell.key}/{cell.field}"))
            continue
        kept.append(rival)
    return Put(cell.table, cell.key, cell.field, won.value, tuple(kept))
