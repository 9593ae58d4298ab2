"""Requests: what a client can ask of the replicated tables, by name, with plain data.

    call(now_ns, method, params, answer) ─► answer(dict), or answer(error)

    state.declare   {table, key?: text | null, writers?, indexes?} -> {key, writers}
    state.find      {table, where?, ids?, limit?, after?: id} -> {documents: [[id, json]], more}
    state.count     {table, where?} -> {count}
    state.insert    {table, documents: [[id | null, json]]} -> {ids}
    state.update    {table, set: json, where?, ids?} -> {ids}
    state.put       {table, documents: [[id, json]], seen?: [json]} -> {ids, stale?: [id]}
    state.upsert    {table, document: json, where?, id?} -> {ids}
    state.remove    {table, where?, ids?} -> {ids}
    state.truncate  {table} -> {}
    state.watch     {table, where?, after: cursor | null, wait_ms} -> {changes, cursor, missed}
    state.counter   {name, add?} -> {value}
    state.set       {name, add?: [str], discard?: [str], limit?, after?: str} -> {elements, more}
    state.tables    {} -> {tables: [{name, kind, count, key, writers, conflicts}]}
    state.conflicts {table?, limit?} -> {conflicts: [{table, id, key, field, values}], total}
    state.resolve   {table, id, field, value?: json} -> {}

With ``seen``, what each document was when a client read it, only the fields that differ from it are written;
if one of those is by now another, nothing is, and ``stale`` names the documents to be read again.

Documents travel as JSON text, queries as `queries.encoded` gives them. A call's changes are one write: all or
nothing, at most 4 096, answered once they are fsynced; ``truncate`` alone makes several, one after another. A
write that changes nothing is answered when those before it are: what it found may not be durable yet.

A watch without a cursor is answered at once, with one: what is read after it misses nothing. With a cursor
the answer waits for something to tell, at most ``wait_ms``; ``missed`` means: read everything again.

In: calls, the replica's changes, time. Out: answers, and writes through a port. Not here: documents
(`tables`), the socket, the replica. Others add methods of their own with ``add``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final, TypeVar

import msgspec

from edge_node.store import batch as batches
from edge_node.store import queries
from edge_node.store.batch import Change
from edge_node.store.cells import CellId, cell_of
from edge_node.store.replica import Changed
from edge_node.store.tables import PAGE_BYTES_MAX, Edit, Event, Tables
from security.errors import BadInput, EdgeweaveError, Refused, Unavailable

MILLISECOND: Final = 1_000_000
MINUTE: Final = 60_000_000_000
WRITE_CHANGES_MAX: Final = 4096
POLLS_MAX: Final = 256
"""Watches that wait at once: each looks at each change."""
WAIT_MS_MAX: Final = 60_000
UNWATCHED_NS: Final = 10 * MINUTE
"""A table that nobody asked about for so long is watched no longer."""
DISK: Final = "the tables' disk failed"
_FULL: Final = ("disk is full", "No space left", "quota exceeded")
"""As SQLite and Linux say it."""

T = TypeVar("T")
Params = dict[str, Any]
Reply = Callable[[dict[str, Any] | EdgeweaveError], None]
Done = Callable[[str | EdgeweaveError], None]
"""Called with "" once a write is fsynced, else with why it was not made."""
Method = Callable[[int, Params, Reply], None]

_Wait = Annotated[int, msgspec.Meta(ge=0)]
_Limit = Annotated[int, msgspec.Meta(ge=1)]


class _Params(msgspec.Struct, forbid_unknown_fields=True):
    """Base: what is not named is refused."""


class _Declare(_Params):
    table: str
    key: str | msgspec.UnsetType | None = msgspec.UNSET
    writers: list[str] | None = None
    indexes: list[str] = []


class _Find(_Params):
    table: str
    where: list[Any] | None = None
    ids: list[int] | None = None
    limit: _Limit | None = None
    after: int | None = None


class _Count(_Params):
    table: str
    where: list[Any] | None = None


class _Insert(_Params):
    table: str
    documents: list[tuple[int | None, str]]


class _Update(_Params):
    table: str
    set: str
    where: list[Any] | None = None
    ids: list[int] | None = None


class _Put(_Params):
    table: str
    documents: list[tuple[int, str]]
    seen: list[str] | None = None


class _Upsert(_Params):
    table: str
    document: str
    where: list[Any] | None = None
    id: int | None = None


class _Remove(_Params):
    table: str
    where: list[Any] | None = None
    ids: list[int] | None = None


class _Truncate(_Params):
    table: str


class _Watch(_Params):
    table: str
    where: list[Any] | None = None
    after: str | None = None
    wait_ms: _Wait = 0


class _Counter(_Params):
    name: str
    add: int = 0


class _Set(_Params):
    name: str
    add: list[str] = []
    discard: list[str] = []
    limit: _Limit | None = None
    after: str | None = None


class _Tables(_Params):
    pass


class _Conflicts(_Params):
    table: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 100


class _Resolve(_Params):
    table: str
    id: int
    field: str
    value: str | None = None


class _Poll:
    __slots__ = ("answer", "seq", "table", "test", "until_ns")

    def __init__(
        self, table: str, test: queries.Predicate | None, seq: int, until_ns: int, answer: Reply
    ) -> None:
        self.table, self.test, self.seq, self.until_ns, self.answer = table, test, seq, until_ns, answer


class Requests:
    """Args: write: merge these changes now and call back once they are durable, or were refused.

    ``write`` may call back at once. An error that is a text is told as `Refused`, or as `Unavailable` where
    it begins with ``DISK``.
    """

    def __init__(self, tables: Tables, write: Callable[[tuple[Change, ...], Done], None]) -> None:
        self._tables = tables
        self._write = write
        self._polls: list[_Poll] = []
        self._writes: deque[_Writing] = deque()  # not durable yet, in order
        self._unwatch_ns: int | None = None
        self._heard = False  # of the write that is being made
        self._methods: dict[str, Method] = {}
        for name, params, method in (
            ("declare", _Declare, self._declare),
            ("find", _Find, self._find),
            ("count", _Count, self._count),
            ("insert", _Insert, self._insert),
            ("update", _Update, self._update),
            ("put", _Put, self._put),
            ("upsert", _Upsert, self._upsert),
            ("remove", _Remove, self._remove),
            ("truncate", _Truncate, self._truncate),
            ("counter", _Counter, self._counter),
            ("set", _Set, self._set),
            ("tables", _Tables, self._listed),
            ("conflicts", _Conflicts, self._conflicts),
            ("resolve", _Resolve, self._resolve),
        ):
            self._methods[f"state.{name}"] = _typed(params, method)
        self._methods["state.watch"] = self._watch

    # -- entrances ---------------------------------------------------------------------------------------

    def add(self, method: str, call: Method) -> None:
        self._methods[method] = call

    @property
    def methods(self) -> list[str]:
        return sorted(self._methods)

    def call(self, now_ns: int, method: str, params: Params, answer: Reply) -> None:
        """Answers exactly once, now or later."""
        found = self._methods.get(method)
        if found is None:
            answer(BadInput(f"no method {method!r}", fix=f"there are {', '.join(self.methods)}"))
            return
        try:
            found(now_ns, params, answer)
        except EdgeweaveError as error:
            answer(error)

    def changed(self, now_ns: int, wall_ms: int, changed: Changed) -> None:
        """The replica says so: at once, and before it tells that a write is done."""
        self._heard = True
        self._moved(changed.cells, changed.node)

    def _moved(self, cells: Iterable[CellId], node: str) -> None:
        if self._tables.changed(cells, node) and self._polls:
            self._answer_polls(None)

    def reset(self) -> None:
        """Another replica stands behind the tables; writes that were not answered are lost."""
        self._tables.reset()
        while self._writes:
            self._writes[0].end(Unavailable(DISK, fix="check free space; what was not confirmed may be lost"))
        self._answer_polls(None)

    def deadline_ns(self) -> int | None:
        times = [poll.until_ns for poll in self._polls]
        if self._unwatch_ns is not None:
            times.append(self._unwatch_ns)
        return min(times, default=None)

    def tick(self, now_ns: int) -> None:
        if self._polls:
            self._answer_polls(now_ns)
        if self._unwatch_ns is not None and self._unwatch_ns <= now_ns:
            self._tables.unwatch(now_ns - UNWATCHED_NS, {poll.table for poll in self._polls})
            self._unwatch_ns = now_ns + MINUTE if self._tables.watched else None

    def check(self) -> None:
        self._tables.check()
        assert len(self._polls) <= POLLS_MAX

    # -- reading -----------------------------------------------------------------------------------------

    def _find(self, asked: _Find, answer: Reply) -> None:
        found, more = self._tables.find(
            asked.table, asked.where, asked.ids, limit=asked.limit, after=asked.after
        )
        answer({"documents": [list(each) for each in found], "more": more})

    def _count(self, asked: _Count, answer: Reply) -> None:
        answer({"count": self._tables.count(asked.table, asked.where)})

    def _listed(self, _: _Tables, answer: Reply) -> None:
        answer({"tables": self._tables.listed()})

    def _conflicts(self, asked: _Conflicts, answer: Reply) -> None:
        found, total = self._tables.conflicts(asked.table, asked.limit)
        answer({"conflicts": found, "total": total})

    # -- writing -----------------------------------------------------------------------------------------

    def _declare(self, asked: _Declare, answer: Reply) -> None:
        key = None if isinstance(asked.key, msgspec.UnsetType) else asked.key
        changes = self._tables.declare(
            asked.table, key, asked.writers, asked.indexes, of_key=asked.key is not msgspec.UNSET
        )

        def result() -> dict[str, Any]:
            key = self._tables.declaration(asked.table)[1]
            return {"key": key, "writers": self._tables.writers(asked.table)}

        self._commit(changes, result, answer)

    def _insert(self, asked: _Insert, answer: Reply) -> None:
        self._edit(self._tables.insert(asked.table, asked.documents), answer)

    def _update(self, asked: _Update, answer: Reply) -> None:
        self._edit(self._tables.update(asked.table, asked.set, asked.where, asked.ids), answer)

    def _put(self, asked: _Put, answer: Reply) -> None:
        if asked.seen is None:
            self._edit(self._tables.put(asked.table, asked.documents), answer)
            return
        edit, stale = self._tables.rewritten(asked.table, asked.documents, asked.seen)
        if stale:
            answer({"ids": [], "stale": stale})
        else:
            self._edit(edit, answer)

    def _upsert(self, asked: _Upsert, answer: Reply) -> None:
        self._edit(self._tables.upsert(asked.table, asked.document, asked.where, asked.id), answer)

    def _remove(self, asked: _Remove, answer: Reply) -> None:
        self._edit(self._tables.remove(asked.table, asked.where, asked.ids), answer)

    def _truncate(self, asked: _Truncate, answer: Reply) -> None:
        parts = self._tables.emptied(asked.table, WRITE_CHANGES_MAX)

        def next_part(told: dict[str, Any] | EdgeweaveError) -> None:
            part = None if isinstance(told, EdgeweaveError) else next(parts, None)
            if part is None:
                answer(told)
            else:
                self._commit(part, dict, next_part)

        first = next(parts, ())
        self._commit(first, dict, next_part if first else answer)

    def _counter(self, asked: _Counter, answer: Reply) -> None:
        changes = self._tables.counted_on(asked.name, asked.add)
        value = self._tables.counted(asked.name)
        if changes:
            self._commit(changes, lambda: {"value": self._tables.counted(asked.name)}, answer)
        else:
            answer({"value": value})

    def _set(self, asked: _Set, answer: Reply) -> None:
        changes = self._tables.tagged(asked.name, asked.add, asked.discard)

        def result() -> dict[str, Any]:
            return _page_of(self._tables.elements(asked.name), asked.limit, asked.after)

        if asked.add or asked.discard:
            self._commit(changes, result, answer)
        else:
            answer(result())

    def _resolve(self, asked: _Resolve, answer: Reply) -> None:
        changes = self._tables.resolved(asked.table, asked.id, asked.field, asked.value)
        self._commit(changes, dict, answer)

    def _edit(self, edit: Edit, answer: Reply) -> None:
        self._commit(edit.changes, lambda: {"ids": edit.ids}, answer)

    def _commit(
        self, changes: tuple[Change, ...], result: Callable[[], dict[str, Any]], answer: Reply
    ) -> None:
        """Raises: BadInput: too many at once."""
        if not changes:
            if self._writes:
                self._writes[-1].after.append((result, answer))
            else:
                answer(result())
            return
        if len(changes) > WRITE_CHANGES_MAX:
            raise BadInput(
                f"a write of {len(changes)} changes is over {WRITE_CHANGES_MAX}",
                fix="write fewer documents at a time",
            )
        writing = _Writing(self._writes, changes, result, answer)
        self._writes.append(writing)
        self._heard = False
        self._write(changes, writing.end)
        if not (writing.refused or self._heard):
            self._moved(map(cell_of, changes), "")  # whoever calls next reads it

    # -- watching ----------------------------------------------------------------------------------------

    def _watch(self, now_ns: int, params: Params, answer: Reply) -> None:
        asked = _converted(params, _Watch)
        test = None if asked.where is None else queries.decoded(asked.where)
        seq, missed = self._tables.watch(asked.table, asked.after, now_ns)
        if self._unwatch_ns is None:
            self._unwatch_ns = now_ns + MINUTE
        if asked.after is None or missed:
            answer(self._told([], seq, missed=missed))
            return
        poll = _Poll(asked.table, test, seq, now_ns + min(asked.wait_ms, WAIT_MS_MAX) * MILLISECOND, answer)
        if self._answered(poll, now_ns):
            return
        if len(self._polls) >= POLLS_MAX:
            raise Unavailable(
                f"{POLLS_MAX} watches wait already", fix="watch fewer tables", retry_after_s=5.0
            )
        self._polls.append(poll)

    def _answer_polls(self, now_ns: int | None) -> None:
        polls, self._polls = self._polls, []
        kept = [poll for poll in polls if not self._answered(poll, now_ns)]
        self._polls = kept + self._polls

    def _answered(self, poll: _Poll, now_ns: int | None) -> bool:
        try:
            events, seq, missed = self._tables.since(poll.table, poll.seq, poll.test)
        except EdgeweaveError as error:
            poll.answer(error)
            return True
        if events or missed or (now_ns is not None and poll.until_ns <= now_ns):
            poll.answer(self._told(events, seq, missed=missed))
            return True
        poll.seq = seq
        return False

    def _told(self, events: list[Event], seq: int, *, missed: bool) -> dict[str, Any]:
        changes = [
            {
                "id": each.id,
                "before": each.before,
                "after": each.after,
                "node": each.node,
                "at_ms": each.at_ms,
            }
            for each in events
        ]
        return {"changes": changes, "cursor": self._tables.cursor(seq), "missed": missed}


class _Writing:
    """A write on its way to the disk, and the answers that wait for it."""

    def __init__(
        self,
        queue: deque[_Writing],
        changes: tuple[Change, ...],
        result: Callable[[], dict[str, Any]],
        answer: Reply,
    ) -> None:
        self._queue, self._changes = queue, changes
        self.after: list[tuple[Callable[[], dict[str, Any]], Reply]] = [(result, answer)]
        self.refused = False

    def end(self, outcome: str | EdgeweaveError) -> None:
        if self not in self._queue:
            return  # answered when its replica went
        self._queue.remove(self)
        error = outcome if isinstance(outcome, EdgeweaveError) else _error_of(outcome, self._changes)
        self.refused = error is not None
        (result, answer), *behind = self.after
        answer(result() if error is None else error)
        for result, answer in behind:  # they changed nothing, and wait for what was there before them
            if error is not None and error.cause.startswith(DISK):
                answer(error)
            elif self._queue:
                self._queue[-1].after.append((result, answer))
            else:
                answer(result())


def _error_of(reason: str, changes: tuple[Change, ...]) -> EdgeweaveError | None:
    if not reason:
        return None
    if reason.startswith(DISK):
        if any(words in reason for words in _FULL):  # and it was taken back: it is surely not there
            return Refused(reason, fix="free disk space; the tables take writes again by themselves")
        return Unavailable(reason, fix="check that disk; what was not confirmed may be lost")
    try:
        for change in changes:
            batches.checked(change)
    except BadInput as error:
        return error
    return Refused(reason)


def _page_of(elements: list[str], limit: int | None, after: str | None) -> dict[str, Any]:
    found: list[str] = []
    size = 0
    for each in elements:
        if after is not None and each <= after:
            continue
        size += len(each.encode()) + 5
        if found and (size > PAGE_BYTES_MAX or (limit is not None and len(found) >= limit)):
            return {"elements": found, "more": True}
        found.append(each)
    return {"elements": found, "more": False}


def _typed(kind: type[_Params], method: Callable[[Any, Reply], None]) -> Method:
    def call(_: int, params: Params, answer: Reply) -> None:
        method(_converted(params, kind), answer)

    return call


def _converted(params: Params, kind: type[T]) -> T:
    try:
        return msgspec.convert(params, kind)
    except msgspec.ValidationError as error:
        raise BadInput(f"not what this method takes: {error}", fix="see docs/protocol.md") from error
