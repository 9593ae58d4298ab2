"""What a table asks of the daemon: each of TinyDB's operations, once, for those who block and those who wait.

A condition travels as data where it can (``store.queries``), and the daemon answers with what matches. Else,
``.test(function)`` and the like, the documents are read page by page and looked at here. A callable given to
``update`` runs here too: its documents are read, changed, and only the fields that it changed are written, if
they are still what it saw; else it sees them again.

In: arguments as TinyDB takes them, checked before anything is asked. Out: exchanges. Not here: sockets, loops
(``table``), nor how documents are kept (``store.tables``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from edge_node.state.exchange import Ask, Exchange
from edge_node.state.spelling import NotPlain, read, spelt
from edge_node.store.queries import encoded
from security.errors import BadInput, EdgeweaveError, Unavailable

if TYPE_CHECKING:
    from tinydb.queries import QueryLike
    from tinydb.table import Document

INSERT_FIELDS_MAX: Final = 4000
"""Of one insert; a write holds 4 096 changes, and the table's declaration may be among them."""
INSERT_CHARS_MAX: Final = 2 * 1024 * 1024
REWRITES_MAX: Final = 16
"""How often a callable sees documents anew that somebody else changed meanwhile."""
ID_MIN: Final = -(2**63)
ID_MAX: Final = 2**63 - 1

Fields = Mapping[str, Any]
Change = Callable[[MutableMapping[str, Any]], None]


class Unasked(BadInput, RuntimeError):
    """A call that names no document: TinyDB raises RuntimeError."""


class Kind(Protocol):
    """What documents and their ids are to whoever asks; TinyDB lets both be replaced."""

    document_class: type[Document]
    document_id_class: type[int]


class Found(NamedTuple):
    """A document as it was read: *text* says what it was, *fields* may be changed."""

    id: int
    text: str
    fields: dict[str, Any]


class Condition:
    """TinyDB's *cond*: as data for the daemon, or to be tried here."""

    __slots__ = ("data", "here")

    def __init__(self, cond: QueryLike | None) -> None:
        self.data = encoded(cond) if cond is not None else None
        self.here = cond if self.data is None else None
        if cond is not None and not callable(cond):
            raise NotPlain(f"{type(cond).__name__} is no condition", fix="use where('field') == value")

    def keeps(self, fields: Mapping[str, Any]) -> bool:
        return self.here is None or bool(self.here(fields))


class Questions:
    """One table's. ``next_id`` gives the ids of new documents that bring none; None: the daemon does."""

    def __init__(
        self,
        table: str,
        kind: Kind,
        declaration: Mapping[str, Any] | None = None,
        next_id: Callable[[], int] | None = None,
    ) -> None:
        self.table = table
        self.next_id = next_id
        self._kind = kind
        self._declaration = None if declaration is None else dict(declaration)

    # -- reading ----------------------------------------------------------------------------------------

    def matching(
        self, cond: Condition | None = None, ids: Sequence[int] | None = None, limit: int | None = None
    ) -> Exchange[list[Found]]:
        """All that match, by ascending key, page by page: each page is of one moment, all of them are not."""
        found: list[Found] = []
        after: int | None = None
        while True:
            page, more = yield from self._page(cond, ids, limit, after)
            for doc_id, text in page:
                fields = read(text)
                if cond is None or cond.keeps(fields):
                    found.append(Found(doc_id, text, fields))
                    if limit is not None and len(found) == limit:
                        return found
            if not more or not page:
                return found
            after = page[-1][0]

    def page(self, after: int | None) -> Exchange[tuple[list[Document], int | None]]:
        """The documents that follow; with where to go on, None: that was all."""
        page, more = yield from self._page(None, None, None, after)
        documents = [self._document(doc_id, read(text)) for doc_id, text in page]
        return documents, page[-1][0] if more and page else None

    def _page(
        self, cond: Condition | None, ids: Sequence[int] | None, limit: int | None, after: int | None
    ) -> Exchange[tuple[list[tuple[int, str]], bool]]:
        params = self._params(cond)
        if ids is not None:
            params["ids"] = list(ids)
        if limit is not None and (cond is None or cond.here is None):
            params["limit"] = limit
        if after is not None:
            params["after"] = after
        answer = yield from self._ask("state.find", params)
        return answer["documents"], answer["more"]

    def all(self) -> Exchange[list[Document]]:
        return (yield from self.snapshot(None))

    def snapshot(self, cond: Condition | None) -> Exchange[list[Document]]:
        return self._documents((yield from self.matching(cond)))

    def search(self, cond: QueryLike) -> Exchange[list[Document]]:
        return (yield from self.snapshot(_required(cond)))

    def get(
        self, cond: QueryLike | None, doc_id: int | None, doc_ids: Iterable[int] | None
    ) -> Exchange[Document | list[Document] | None]:
        if doc_id is None and doc_ids is not None:
            ids = _possible(doc_ids)
            return self._documents((yield from self.matching(ids=ids)) if ids else [])
        found = yield from self._one(cond, doc_id)
        return None if found is None else self._document(found.id, found.fields)

    def contains(self, cond: QueryLike | None, doc_id: int | None) -> Exchange[bool]:
        return (yield from self._one(cond, doc_id)) is not None

    def count(self, cond: QueryLike | None = None) -> Exchange[int]:
        condition = None if cond is None else Condition(cond)
        if condition is not None and condition.here is not None:
            return len((yield from self.matching(condition)))
        answer = yield from self._ask("state.count", self._params(condition))
        return int(answer["count"])

    def _one(self, cond: QueryLike | None, doc_id: int | None) -> Exchange[Found | None]:
        if doc_id is not None:
            ids = _possible([doc_id])
            found = (yield from self.matching(ids=ids, limit=1)) if ids else []
        elif cond is not None:
            found = yield from self.matching(Condition(cond), limit=1)
        else:
            raise Unasked("You have to pass either cond or doc_id or doc_ids", fix="all() gives everything")
        return found[0] if found else None

    # -- writing ----------------------------------------------------------------------------------------

    def insert(self, document: Mapping[str, Any]) -> Exchange[int]:
        return (yield from self._insert([self._entry(document)]))[0]

    def insert_multiple(self, documents: Iterable[Mapping[str, Any]]) -> Exchange[list[int]]:
        """All are checked first. Those of one write are in together; large sets are several writes."""
        entries, sizes = [], []
        for document in documents:
            entries.append(self._entry(document))
            sizes.append(max(1, len(document)))
        ids: list[int] = []
        while len(ids) < len(entries):
            end = _end_of_write(entries, sizes, len(ids))
            try:
                ids += yield from self._insert(entries[len(ids) : end])
            except EdgeweaveError as error:
                if ids:
                    error.cause += f" (the first {len(ids)} of {len(entries)} documents are in)"
                raise
        return ids

    def update(
        self, fields: Fields | Change, cond: QueryLike | None, doc_ids: Iterable[int] | None
    ) -> Exchange[list[int]]:
        condition = None if cond is None or doc_ids is not None else Condition(cond)
        ids = None if doc_ids is None else list(doc_ids)
        possible = None if ids is None else _possible(ids)
        if callable(fields):
            changed = yield from self._rewritten(condition, possible, fields)
        else:
            changed = yield from self._set(spelt(fields), condition, possible)
        return changed if ids is None else _as_asked(ids, changed)

    def update_multiple(self, updates: Iterable[tuple[Fields | Change, QueryLike]]) -> Exchange[list[int]]:
        """As TinyDB: each document goes through all updates in order, each looks at what is there by then."""
        steps = [(change, _required(cond), cond) for change, cond in updates]
        if not steps:
            return []
        for change, _, _ in steps:
            if not callable(change):
                spelt(change)

        def rewrite(found: Found, updated: list[int]) -> None:
            for change, _, cond in steps:
                if cond(found.fields):
                    updated.append(found.id)
                    if callable(change):
                        change(found.fields)
                    else:
                        found.fields.update(change)

        return (yield from self._put(_any_of([condition for _, condition, _ in steps]), None, rewrite))

    def upsert(self, document: Mapping[str, Any], cond: QueryLike | None) -> Exchange[list[int]]:
        doc_id, text = self._entry(document, new=False)
        params: dict[str, Any] = {"table": self.table, "document": text}
        if doc_id is not None:
            params["id"] = doc_id
        elif cond is not None:
            condition = Condition(cond)
            if condition.here is not None or self.next_id is not None:
                changed = yield from self._set(text, condition, None)
                return changed or (yield from self._insert([self._entry(document)]))
            params["where"] = condition.data
        elif self.next_id is not None:
            raise _no_identity(self.table)
        answer = yield from self._ask("state.upsert", params)
        return list(answer["ids"])

    def remove(self, cond: QueryLike | None, doc_ids: Iterable[int] | None) -> Exchange[list[int]]:
        params: dict[str, Any] = {"table": self.table}
        ids = None if doc_ids is None else list(doc_ids)
        if ids is not None:
            params["ids"] = _possible(ids)
        elif cond is not None:
            condition = Condition(cond)
            if condition.here is not None:
                params["ids"] = [found.id for found in (yield from self.matching(condition))]
            else:
                params["where"] = condition.data
        else:
            raise Unasked("Use truncate() to remove all documents", fix="or name a condition")
        if params.get("ids") == []:
            return []
        answer = yield from self._ask("state.remove", params)
        return list(answer["ids"]) if ids is None else _as_asked(ids, answer["ids"])

    def truncate(self) -> Exchange[None]:
        yield from self._ask("state.truncate", {"table": self.table})

    def _insert(self, entries: list[tuple[int | None, str]]) -> Exchange[list[int]]:
        params = {"table": self.table, "documents": [list(entry) for entry in entries]}
        answer = yield from self._ask("state.insert", params)
        return list(answer["ids"])

    def _set(self, text: str, cond: Condition | None, ids: Sequence[int] | None) -> Exchange[list[int]]:
        if cond is not None and cond.here is not None:
            ids = [found.id for found in (yield from self.matching(cond))]
            cond = None
        if ids is not None and not ids:
            return []
        params = self._params(cond)
        params["set"] = text
        if ids is not None:
            params["ids"] = list(ids)
        answer = yield from self._ask("state.update", params)
        return list(answer["ids"])

    def _rewritten(
        self, cond: Condition | None, ids: Sequence[int] | None, change: Change
    ) -> Exchange[list[int]]:
        def rewrite(found: Found, updated: list[int]) -> None:
            updated.append(found.id)
            change(found.fields)

        if ids is not None and not ids:
            return []
        return (yield from self._put(cond, ids, rewrite))

    def _put(
        self,
        cond: Condition | None,
        ids: Sequence[int] | None,
        rewrite: Callable[[Found, list[int]], None],
    ) -> Exchange[list[int]]:
        """Read, change here, write what differs; once more if a field was meanwhile another one."""
        for _ in range(REWRITES_MAX):
            updated: list[int] = []
            entries, seen = [], []
            for found in (yield from self.matching(cond, ids)):
                rewrite(found, updated)
                text = spelt(found.fields)
                if text != found.text:
                    entries.append([found.id, text])
                    seen.append(found.text)
            if not entries:
                return updated
            params = {"table": self.table, "documents": entries, "seen": seen}
            answer = yield from self._ask("state.put", params)
            if not answer.get("stale"):
                return updated
        raise Unavailable(
            f"documents of {self.table!r} were changed {REWRITES_MAX} times between reading and writing",
            fix="try again, or change fewer at a time",
        )

    # -- inside -----------------------------------------------------------------------------------------

    def declare(self, declaration: Mapping[str, Any]) -> None:
        """What is to be said of the table before the next question."""
        self._declaration = dict(declaration)

    def declared(self) -> Exchange[None]:
        """Say once what the table is to be, if anything was said of it."""
        if self._declaration is not None:
            yield Ask("state.declare", {"table": self.table, **self._declaration})
            self._declaration = None

    def _ask(self, method: str, params: dict[str, Any]) -> Exchange[Any]:
        yield from self.declared()
        return (yield Ask(method, params))

    def _params(self, cond: Condition | None) -> dict[str, Any]:
        params: dict[str, Any] = {"table": self.table}
        if cond is not None and cond.data is not None:
            params["where"] = cond.data
        return params

    def _entry(self, document: Mapping[str, Any], *, new: bool = True) -> tuple[int | None, str]:
        text = spelt(document)
        if isinstance(document, self._kind.document_class):
            doc_id = document.doc_id
            if not _possible([doc_id]):
                raise BadInput(f"doc_id {doc_id!r} is no integer of 64 bits", fix="leave it out")
            return int(doc_id), text
        return (self.next_id() if new and self.next_id is not None else None), text

    def _document(self, doc_id: int, fields: Mapping[str, Any]) -> Document:
        return self._kind.document_class(fields, self._kind.document_id_class(doc_id))

    def _documents(self, found: list[Found]) -> list[Document]:
        return [self._document(each.id, each.fields) for each in found]


def _required(cond: QueryLike | None) -> Condition:
    if cond is None:
        raise NotPlain("None is no condition", fix="use where('field') == value, or all()")
    return Condition(cond)


def _any_of(conditions: list[Condition]) -> Condition | None:
    """A condition that lets through what any of them does, None: everything."""
    data = [each.data for each in conditions]
    if any(each is None for each in data):
        return None
    joined = Condition(None)
    joined.data = data[0] if len(data) == 1 else ["or", *data]
    return joined


def _possible(ids: Iterable[object]) -> list[int]:
    """Those that may be the id of a document at all; TinyDB finds nothing under the others."""
    return [each for each in ids if isinstance(each, int) and ID_MIN <= each <= ID_MAX]


def _as_asked(ids: Iterable[int], done: Iterable[int]) -> list[int]:
    known = set(done)
    return [doc_id for doc_id in dict.fromkeys(ids) if doc_id in known]


def _end_of_write(entries: Sequence[tuple[int | None, str]], sizes: Sequence[int], start: int) -> int:
    """Where the write ends that begins with *start*; it has one document at least."""
    fields = chars = 0
    for index in range(start, len(entries)):
        fields += sizes[index]
        chars += len(entries[index][1])
        if index > start and (fields > INSERT_FIELDS_MAX or chars > INSERT_CHARS_MAX):
            return index
    return len(entries)


def _no_identity(table: str) -> BadInput:
    return BadInput(
        f"table {table!r} has no key, so an upsert needs a doc_id or a query",
        fix="pass a condition, or a Document with its doc_id",
    )
