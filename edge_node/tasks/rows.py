"""Rows: how a task's records lie in a store, what one commit takes, and how a task is read back.

    records(seq, id, kind, at_ms, state, body, crc)     unique (id, kind): a second accept or a second
                                                        terminal record of a task cannot exist
    kind 0 accepted · 1 closed · 100 + n: attempt n reserved · below 0: a note

Every body carries a CRC-32 over id, kind and bytes; a row that fails it is named in `damaged`, never
guessed at. What every journal does alike is here: `Gathering` decides what a commit takes, `Reading` makes
tasks of rows. Below both lies a `LedgerStore`, which keeps rows and knows nothing of tasks: SQLite in
`edge_node.store.ledger`, a log on a modelled disk in the simulator. When to commit is the `journal`'s.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from edge_node.tasks.states import Status
from edge_node.tasks.task import (
    KNOWN_MS,
    LOCAL,
    Accepted,
    Attempt,
    Closed,
    Fenced,
    Noted,
    Outcome,
    Record,
    Task,
)
from security.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

ROWS_MAX = 512
BYTES_MAX = 16 * 2**20
"""Of one commit: what a reader of the WAL, and a client waiting for its accept, has to sit through."""
ACCEPTED, CLOSED, RESERVED = 0, 1, 100
LOST_KEPT = 100_000
PRUNED_AT_ONCE = 5_000
"""Ids of tasks that go, held at a time."""
NOTES_PER_TASK_MAX = 64
HEAD_BYTES = 400
"""Of an accepting record: the task's id and its function's name lie within."""
WINDOW = 5_000
"""Tasks that one page with filters looks at: some 12 ms of a reader. A page may end short, and go on."""
SMALL_BYTES = 8 * 1024
"""Bodies up to here are read together with others, and looked into by filters; larger ones one by one."""
READ_MAX = 500
"""Tasks that one page reads whole to find those of a place."""


class StoreDamaged(Unavailable):
    """The file is not, or no longer, a readable journal. Set it aside; nothing in it is deleted."""


class Stored(msgspec.Struct, frozen=True):
    """One task as the journal knows it."""

    task: Task
    outcome: Outcome | None  # None: open
    attempts: tuple[Attempt, ...] = ()  # reserved so far, when open
    notes: tuple[Noted, ...] = ()


class Summary(msgspec.Struct, frozen=True):
    """One line of a list of tasks."""

    id: str
    function: str
    state: str  # "open" or how it ended
    where: str
    place: str
    accepted_at_ms: int
    settled_at_ms: int


class Row(NamedTuple):
    """One record as it lies in a store."""

    id: str
    kind: int
    at_ms: int
    state: str
    body: bytes
    crc: int


class Page(NamedTuple):
    """Part of a list of tasks, newest first. `after`: where the rest begins; empty: there is none."""

    found: list[Summary]
    after: str


class Settled(NamedTuple):
    """What pruning must know of a settled task. `bytes`: the bodies of all its rows."""

    id: str
    at_ms: int
    bytes: int


class Totals(NamedTuple):
    """Of everything settled, for whoever asks whether there is anything to prune.

    bytes: at least those of all its rows.   oldest_ms: its first stamp from `KNOWN_MS` on; 0: none has one.
    """

    settled: int
    bytes: int
    oldest_ms: int


class LedgerStore(Protocol):
    """Rows on a medium. One commit at a time; reading sees what was committed, never half of it.

    Raises, wherever it touches the medium: Unavailable: it cannot be read or written now.
    StoreDamaged: it is no longer readable.
    """

    def insert(self, rows: Sequence[Row]) -> None:
        """All of them durably, or none; a row whose (id, kind) is there already is passed over."""

    def rows_of(self, task_id: str) -> Sequence[tuple[int, int, bytes, int]]:
        """(kind, at_ms, body, crc) of a task, by kind ascending; checksums are not looked at."""

    def ends_of(self, ids: Sequence[str]) -> Sequence[tuple[str, int, bytes | None, int]]:
        """(id, kind, body, crc) of the accepting and closing records of these tasks, in any order.

        body None: it is above `SMALL_BYTES`. At most `READ_MAX` ids; checksums are not looked at.
        """

    def open_ids(self) -> Sequence[str]:
        """Accepted and not closed, in the order of acceptance."""

    def newest(self, limit: int, state: str) -> Sequence[str]:
        """Accepted, newest first; `state`: "open", a status, or empty for all."""

    def beginning(self, prefix: str, limit: int) -> Sequence[str]:
        """Accepted, whose ids begin so, ascending."""

    def below(
        self,
        task_id: str,
        *,
        limit: int,
        window: int,
        state: str = "",
        mention: bytes = b"",
        ends: Sequence[bytes] = (),
        least: str = "",
    ) -> tuple[Sequence[str], str]:
        """Accepted, newest first: ids below *task_id* (empty: all) down to *least*.

        Args: limit: as many are returned at most.   window: as many are looked at where *state* (as in
            ``newest``), *mention* or *ends* leaves some out.   mention: stands in the accepting record's
            first `HEAD_BYTES`.   ends: one of these, two at most, stands in the closing record, or there is
            none, or it is above `SMALL_BYTES`.
        Returns: the ids; and from which id to go on, empty: there is nothing more.
        """

    def settled(self) -> Iterable[Settled]:
        """Closed, newest first by the order of closing; those that were told may be deleted meanwhile."""

    def totals(self) -> Totals:
        """Cheap beside ``settled``, which makes objects of every task."""

    def delete(self, ids: Sequence[str]) -> None:
        """Every row of these tasks; the space is given back."""

    def every(self) -> Iterable[Row]:
        """All rows, in the order in which they were committed."""

    def gaps(self) -> list[str]:
        """What the medium's own check finds wrong."""

    def close(self) -> None: ...


class Loss(Protocol):
    """What one damage of the ledger took."""

    @property
    def lost(self) -> Sequence[str]:
        """Accepted tasks by id, of which nothing else is known."""

    @property
    def unnamed(self) -> bool:
        """More may be missing than what is named."""


class JournalPort(Protocol):
    """What a member needs of a journal."""

    damaged: list[str]

    @property
    def losses(self) -> Sequence[Loss]:
        """Of lately: peers may hold some of it still."""

    def start(
        self,
        post: Callable[..., object],
        on_persisted: Callable[[list[int]], None],
        on_failed: Callable[[list[int], str], None],
    ) -> None:
        """`post(callback, *args)` calls back where the member lives, from any thread and in order (a loop's
        ``call_soon_threadsafe``). Callbacks come through it, in the order of the appends."""

    def append(self, serial: int, records: tuple[Record, ...]) -> None: ...
    def open_tasks(self) -> list[tuple[Task, list[Attempt]]]: ...
    def get(self, task_id: str) -> Stored | None: ...
    def ids(self, prefix: str, limit: int) -> Sequence[str]: ...
    def list(self, limit: int = 100, state: str = "") -> list[Summary]: ...
    def page(
        self,
        after: str = "",
        *,
        limit: int = 100,
        state: str = "",
        function: str = "",
        node: str = "",
        least: str = "",
        owner: str = "",
    ) -> Page: ...
    def prune(self, *, count_max: int, bytes_max: int, before_ms: int) -> int: ...
    def close(self) -> None: ...


_task = msgspec.msgpack.Decoder(Task)
_outcome = msgspec.msgpack.Decoder(Outcome)
_attempts = msgspec.msgpack.Decoder(tuple[Attempt, ...])
_encode = msgspec.msgpack.Encoder().encode


def crc_of(task_id: str, kind: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(f"{task_id}/{kind}".encode()))


def row_of(record: Record) -> Row:
    """One record as it lies in a store."""
    if type(record) is Accepted:
        task = record.task
        task_id, kind, at_ms, state, body = task.id, ACCEPTED, task.accepted_at_ms, "", _encode(task)
    elif type(record) is Closed:
        outcome = record.outcome
        task_id, kind, at_ms = record.task_id, CLOSED, outcome.settled_at_ms
        state, body = outcome.status, _encode(outcome)
    elif type(record) is Fenced:
        task_id, kind, at_ms = record.task_id, RESERVED + record.attempts[-1].number, 0
        state, body = "", _encode(record.attempts)
    else:
        assert type(record) is Noted
        task_id, at_ms, state, body = record.task_id, record.at_ms, "", record.text.encode()
        # Notes share a few negative kinds: the same text is kept once, and a task has room for 64.
        kind = -1 - zlib.crc32(body) % NOTES_PER_TASK_MAX
    return Row(task_id, kind, at_ms, state, body, crc_of(task_id, kind, body))


def summary_of(stored: Stored) -> Summary:
    task, outcome = stored.task, stored.outcome
    return Summary(
        task.id,
        task.function,
        "open" if outcome is None else outcome.status,
        task.where,
        "" if outcome is None else outcome.place,
        task.accepted_at_ms,
        0 if outcome is None else outcome.settled_at_ms,
    )


class Gathering:
    """What one commit takes, and what must not be written any more because its accept was lost.

    ``add`` until it says that it is full or nothing waits; write ``rows`` unless ``unwritable``; ``settle``.
    """

    __slots__ = ("_accepts", "_lost", "rows", "serials", "size", "unwritable")

    def __init__(self) -> None:
        self.serials: list[int] = []
        self.rows: list[Row] = []
        self.size = 0
        """Bytes of the bodies."""
        self.unwritable = ""
        """Why this commit cannot be written."""
        self._accepts: list[str] = []
        self._lost: dict[str, None] = {}  # accepts that could not be written: nothing else of them may be

    def add(self, serial: int, records: tuple[Record, ...]) -> bool:
        """Returns: the commit is full. A record that has no bytes fails its commit, and nothing else."""
        self.serials.append(serial)
        try:
            rows = [row_of(record) for record in records]
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            self.unwritable = f"a record cannot be written: {type(error).__name__}: {error}"
            return len(self.rows) >= ROWS_MAX
        lost = self._lost
        for row in rows:
            if row[1] == ACCEPTED:
                self._accepts.append(row[0])
                lost.pop(row[0], None)
            elif row[0] in lost:
                continue
            self.rows.append(row)
            self.size += len(row[4])
        return len(self.rows) >= ROWS_MAX or self.size >= BYTES_MAX

    def settle(self, failure: str) -> list[int]:
        """The commit has ended, in `failure` or empty; the next one begins. Returns: its serials."""
        if failure:
            self._lost.update(dict.fromkeys(self._accepts))
            if len(self._lost) > LOST_KEPT:
                self._lost.clear()
        serials, self.serials = self.serials, []
        self.rows = []
        self._accepts = []
        self.size = 0
        self.unwritable = ""
        return serials


class Reading:
    """Tasks out of a store's rows: the reading half of a journal. `damaged` names what cannot be read."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store
        self.damaged: list[str] = []
        self.losses: tuple[Loss, ...] = ()

    def open_tasks(self) -> list[tuple[Task, list[Attempt]]]:
        """Accepted and not settled, in the order they were accepted; damaged rows go to `damaged`."""
        found = []
        for task_id in self._store.open_ids():
            stored = self.get(task_id)
            if stored is not None:
                found.append((stored.task, list(stored.attempts)))
            elif not any(name.startswith(f"{task_id}/{ACCEPTED}:") for name in self.damaged):
                self.damaged.append(f"{task_id}/{ACCEPTED}: not found under its id")
        return found

    def get(self, task_id: str) -> Stored | None:
        """None: never accepted here, pruned, or damaged (then it is named in `damaged`)."""
        task: Task | None = None
        outcome: Outcome | None = None
        attempts: tuple[Attempt, ...] = ()
        notes: list[Noted] = []
        for kind, at_ms, body, crc in self._store.rows_of(task_id):
            try:
                if crc_of(task_id, kind, body) != crc:
                    raise msgspec.DecodeError("checksum")
                if kind == ACCEPTED:
                    task = _task.decode(body)
                elif kind == CLOSED:
                    outcome = _outcome.decode(body)
                elif kind >= RESERVED:
                    attempts = _attempts.decode(body)
                else:
                    notes.append(Noted(task_id, at_ms, body.decode()))
            except (msgspec.MsgspecError, UnicodeDecodeError, TypeError) as error:
                name = f"{task_id}/{kind}: {error}"
                if name not in self.damaged:
                    self.damaged.append(name)
                if kind == CLOSED:  # it did end; running it again would be inventing
                    outcome = Outcome(Status.FAILED.value, cause="the record of how it ended is damaged")
        if task is None:
            return None
        return Stored(task, outcome, attempts, tuple(sorted(notes, key=lambda note: note.at_ms)))

    def verify(self) -> list[str]:
        """Every gap: the store's own check, then each row's checksum."""
        gaps = self._store.gaps()
        try:
            gaps += [f"{row.id}/{row.kind}: checksum" for row in self._store.every() if not holds(row)]
        except Unavailable as error:
            gaps.append(error.cause)
        return gaps

    def prune(self, *, count_max: int, bytes_max: int, before_ms: int) -> int:
        """Forget settled tasks, oldest first: those settled before `before_ms`, and what exceeds the bounds.

        Open tasks are never touched. Returns how many tasks went. Call it off the event loop; the writer
        waits meanwhile.
        """
        totals = self._store.totals()
        within = totals.settled <= count_max and totals.bytes <= bytes_max
        if within and not aged(totals.oldest_ms, before_ms):
            return 0
        kept = size = count = 0
        gone: list[str] = []
        for task_id, at_ms, length in self._store.settled():
            if kept >= count_max or size + length > bytes_max or aged(at_ms, before_ms):
                gone.append(task_id)
                if len(gone) >= PRUNED_AT_ONCE:
                    self._store.delete(gone)
                    count += len(gone)
                    gone = []
            else:
                kept += 1
                size += length
        if gone:
            self._store.delete(gone)
        return count + len(gone)

    def list(self, limit: int = 100, state: str = "") -> list[Summary]:
        """Newest first. `state`: "open", a status, or everything."""
        stored = map(self.get, self._store.newest(limit, state))
        return [summary_of(each) for each in stored if each is not None]

    def page(
        self,
        after: str = "",
        *,
        limit: int = 100,
        state: str = "",
        function: str = "",
        node: str = "",
        least: str = "",
        owner: str = "",
    ) -> Page:
        """The next tasks below the id *after*, by id: what was accepted later changes nothing of the rest.

        Args: node: where it ended; open tasks are all told, as where they are is not in the ledger.
            least: ids below are left out (ids begin with the time of their acceptance).
            owner: whose ledger this is, where it is known: it saves reading.
        A page may be shorter than *limit*, or empty, and not the last: filters look at `WINDOW` tasks.
        """
        found: list[Summary] = []
        read = 0
        ends: tuple[bytes, ...] = ()
        if node:
            ends = (_encode(node),) if owner not in ("", node) else (_encode(node), _encode(LOCAL))
        while True:
            wanted = min(READ_MAX, limit - len(found))
            ids, then = self._store.below(
                after,
                limit=wanted,
                window=WINDOW,
                state=state,
                mention=_encode(function) if function else b"",
                ends=ends,
                least=least,
            )
            for stored in self._read(ids):
                if is_of(stored, function, node):
                    found.append(summary_of(stored))
            read += len(ids)
            if len(ids) < wanted or len(found) >= limit or read >= READ_MAX:
                return Page(found, then)
            after = then

    def _read(self, ids: Sequence[str]) -> Iterator[Stored]:
        """How they began and ended, in this order: those that are small in one reading, which waits for the
        other threads once and not for each task."""
        rows: dict[str, dict[int, tuple[bytes | None, int]]] = {}
        for task_id, kind, body, crc in self._store.ends_of(ids):
            rows.setdefault(task_id, {})[kind] = body, crc
        for task_id in ids:
            stored = _small(task_id, rows.get(task_id, {}))
            if stored is None:
                stored = self.get(task_id)
            if stored is not None:
                yield stored

    def ids(self, prefix: str, limit: int) -> Sequence[str]:
        """Accepted tasks whose ids begin so, ascending."""
        return self._store.beginning(prefix, limit)


def _small(task_id: str, rows: dict[int, tuple[bytes | None, int]]) -> Stored | None:
    """None: one of its records is large or damaged."""
    for kind, (body, crc) in rows.items():
        if body is None or crc_of(task_id, kind, body) != crc:
            return None
    accepted, closed = rows.get(ACCEPTED), rows.get(CLOSED)
    if accepted is None or accepted[0] is None:
        return None
    try:
        task = _task.decode(accepted[0])
        outcome = None if closed is None or closed[0] is None else _outcome.decode(closed[0])
    except msgspec.MsgspecError:
        return None
    return Stored(task, outcome)


def is_of(stored: Stored, function: str, node: str) -> bool:
    """Is it this function's, and ended at this node (or may still)? Empty: of any."""
    if function and stored.task.function != function:
        return False
    if not node or stored.outcome is None:
        return True
    place = stored.outcome.place
    return (stored.task.origin if place == LOCAL else place) == node


def aged(at_ms: int, before_ms: int) -> bool:
    """Was it settled before that? A stamp from before the release tells nothing: a board without an RTC says
    1970 until it has heard the time, and its results would be forgotten the minute that it has."""
    return KNOWN_MS <= at_ms < before_ms


def holds(row: Row) -> bool:
    """Its checksum fits."""
    return isinstance(row.body, bytes) and crc_of(row.id, row.kind, row.body) == row.crc
