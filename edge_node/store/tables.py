"""Tables: documents over cells, found by identity, by index or by looking at all of them.

    insert, update, put, upsert, remove ─► (ids, changes)      the caller writes them, all or none
    changed(cells) ◄─ the replica: what reads differently now ─► orders, indexes, feed
    find, count ─► pages in the order of cell keys             since(cursor) ─► what has changed

A document is the cells (FIELD, table, key, field), one a top-level field, its value as JSON. Its cell key is
``s`` or ``i`` and the value of the table's key field, or ``#`` and a random id. A document without a field
has the field "" that says null (a user's own null there has a blank after it). The key field is known from
the cell key, so a removal that meets an update leaves a document with its identity.

Names of tables that begin with a dot are ours: ``.keys`` says each table's key field, ``.writers`` who may
write it.

Cost: by identity O(1), by an index O(what it gives), else O(table). What is kept of a table (its order, ids,
indexes) is made when it is first asked for, and then by each change. An index is made where it is declared,
or when a table of over 256 documents is searched by a field for the first time. It never changes an answer,
not even an error: see `queries.plan`.

Replaced cells (a snapshot, a new replica) are noticed by their identity: everything is made anew, and those
who watch are told the difference. In and out: see `requests`. Not here: durability, merging (`replica`).
"""

from __future__ import annotations

import heapq
import json
from bisect import bisect_left, bisect_right, insort
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from json.encoder import encode_basestring
from typing import Any, Final, NamedTuple

from edge_node.store import batch as batches
from edge_node.store import queries
from edge_node.store.batch import Change, Count, Put, Tag
from edge_node.store.cells import COUNTER, ELEMENT, FIELD, CellId, Cells
from edge_node.store.hlc import ms_of
from edge_node.store.identity import Key, doc_id_for
from security.errors import BadInput, Unavailable

KEYS: Final = ".keys"
WRITERS: Final = ".writers"
PAGE_BYTES_MAX: Final = 4 * 2**20
INDEXED_FROM: Final = 256
"""Documents from which on a search makes its index: below it, looking at all is as quick."""
READ_WHOLE_MAX: Final = 20_000
"""Documents of a table up to which those looked at stay decoded; beyond it only a query's fields are read."""
INDEXES_MAX: Final = 8
"""A table's; the one that was not used for longest goes. Each costs some 200 bytes a document."""
ROWS_BYTES_MAX: Final = 4 * 2**20
"""JSON of documents kept decoded, about five times that in memory: 10 000 small ones and more."""
FEED_MAX: Final = 8192
FEED_BYTES_MAX: Final = 8 * 2**20
"""Changes kept for those who watch: who asks more seldom than these come reads everything again."""
OPEN_MAX: Final = 1024
"""Tables whose order and indexes are kept; whoever asks for more makes them again and again."""
WATCHED_MAX: Final = 64
"""Tables whose documents are kept as they were, so that a change can say what was before."""
GONE_MAX: Final = 4096
"""Ids of removed documents from which on a page may still go on."""

_MARK: Final = b"null"
_OWN_NULL: Final = b"null "
_to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_decoder = json.JSONDecoder(parse_constant=_no_number)
_from_json = _decoder.decode
_scanned: Callable[[str, int], tuple[Any, int]] = _decoder.scan_once  # type: ignore[attr-defined]  # not in typeshed


class Edit(NamedTuple):
    """What a write would do. No changes: everything is so already."""

    ids: list[int]
    changes: tuple[Change, ...]


class Event(NamedTuple):
    """One document's change, as those who watch are told. before or after None: it was not there."""

    seq: int
    table: str
    id: int
    before: str | None
    after: str | None
    node: str
    at_ms: int


class _Row(NamedTuple):
    id: int
    document: dict[str, Any]
    text: str


class _Index:
    """Documents by the value of one top-level field; numbers and texts in order once an ordering is asked."""

    def __init__(self) -> None:
        self._value: dict[str, Any] = {}  # cell key -> value; only of those that have the field
        self._by_value: dict[Any, dict[str, None]] = {}
        self._other = 0  # documents whose value has no order: null, lists, objects
        self._texts = 0
        self._ordered: list[tuple[Any, str]] | None = None  # numbers only, or texts only

    def put(self, key: str, value: Any) -> None:
        """The document's value now; `_Absent`: it has not got the field, or is gone."""
        if not (value is _Absent or queries.is_scalar(value)):
            value = _Unordered
        if key in self._value:
            old = self._value[key]
            if type(old) is type(value) and old == value:
                return
            self._drop(key, old)
        if value is _Absent:
            return
        self._value[key] = value
        if value is None or value is _Unordered:
            self._other += 1
        elif type(value) is str:
            self._texts += 1
        if value is not _Unordered:
            self._by_value.setdefault(value, {})[key] = None
        if self._ordered is not None:
            if self._mixed():
                self._ordered = None
            else:
                insort(self._ordered, (value, key))

    def _drop(self, key: str, old: Any) -> None:
        del self._value[key]
        if self._ordered is not None:
            at = bisect_left(self._ordered, (old, key))
            del self._ordered[at]
        if old is None or old is _Unordered:
            self._other -= 1
        elif type(old) is str:
            self._texts -= 1
        if old is not _Unordered:
            keys = self._by_value[old]
            del keys[key]
            if not keys:
                del self._by_value[old]

    def _mixed(self) -> bool:
        return bool(self._other) or self._texts not in (0, len(self._value))

    def found(self, lookup: queries.Lookup) -> Sequence[Sequence[str]] | None:
        """Groups of cell keys that hold all who match; None: some value cannot be compared with it."""
        if lookup.operator == "==":
            return [tuple(self._by_value.get(lookup.value, ()))]
        if lookup.operator == "one_of":
            return [tuple(self._by_value.get(value, ())) for value in dict.fromkeys(lookup.value)]
        value = lookup.value
        if value is None or self._mixed() or (self._value and (type(value) is str) != bool(self._texts)):
            return None
        if self._ordered is None:
            self._ordered = sorted((value, key) for key, value in self._value.items())
        if lookup.operator in ("<", ">="):
            at = bisect_left(self._ordered, value, key=_value_of)
        else:
            at = bisect_right(self._ordered, value, key=_value_of)
        part = self._ordered[:at] if lookup.operator in ("<", "<=") else self._ordered[at:]
        return [[key for _, key in part]]


class _Unordered:
    """Stands for a list or an object."""


class _Absent:
    """Stands for a field that a document has not got."""


def _value_of(entry: tuple[Any, str]) -> Any:
    return entry[0]


class _Table:
    def __init__(self, name: str) -> None:
        self.name = name
        self.order: list[str] = []  # cell keys of documents that are there
        self.ids: dict[int, str] = {}
        self.gone: dict[int, str] = {}
        self.strangers = 0  # documents whose cell key gives no key
        self.indexes: dict[str, _Index] = {}  # the one that was used last is the last


class _Watched:
    def __init__(self, since: int) -> None:
        self.since = since
        self.used_ns = 0
        self.texts: dict[str, str] = {}


class Tables:
    """Args: cells: those of the replica there is now; entropy: n random bytes.

    Raises, wherever it takes anything from a client: BadInput: it does not fit, and nothing was changed
    (`queries.Incomparable` among them).
    """

    def __init__(self, cells: Callable[[], Cells], entropy: Callable[[int], bytes]) -> None:
        self._provide = cells
        self._cells = cells()
        self._entropy = entropy
        self._tables: dict[str, _Table] = {}
        self._rows: dict[tuple[str, str], _Row] = {}
        self._rows_bytes = 0
        self._keys: dict[str, tuple[bool, str | None]] = {}
        self._declared_indexes: dict[str, list[str]] = {}
        self._life = entropy(6).hex()
        self._feed: deque[Event] = deque()
        self._feed_bytes = 0
        self._seq = 0
        self._watched: dict[str, _Watched] = {}

    # -- what the replica says ---------------------------------------------------------------------------

    def changed(self, cells: Iterable[CellId], node: str) -> bool:
        """These read differently now. True: those who watch may be told something."""
        before = self._seq
        if not self._resync():
            documents: dict[tuple[str, str], list[str]] = {}
            for kind, table, key, field in cells:
                if kind == FIELD:
                    documents.setdefault((table, key), []).append(field)
            for (table, key), fields in documents.items():
                if table == KEYS:
                    self._redeclared(key)
                if table in self._tables:
                    self._moved(self._tables[table], key, fields, node)
                elif table in self._watched:
                    self._forget_row(table, key)
                    self._tell(self._open(table), key, fields, node)
        return self._seq != before

    def reset(self) -> None:
        """Another replica stands behind the provider."""
        self._resync()

    def _resync(self) -> bool:
        cells = self._provide()
        if cells is self._cells:
            return False
        self._cells = cells
        self._keys.clear()
        self._rows.clear()
        self._rows_bytes = 0
        self._tables.clear()
        for name in sorted(self._watched):
            self._tell_difference(name)
        return True

    def _redeclared(self, name: str) -> None:
        self._keys.pop(name, None)
        table = self._tables.pop(name, None)
        if table is not None:
            for key in (*table.order, *table.gone.values()):
                self._forget_row(name, key)
        if name in self._watched:
            self._tell_difference(name)

    def _tell_difference(self, name: str) -> None:
        """What is different, by whom it was written last; nobody says who made go what is gone."""
        table = self._open(name)
        for key in sorted({*self._watched[name].texts, *table.order}):
            self._tell(table, key, self._cells.document(name, key), "")

    def _moved(self, table: _Table, key: str, fields: Sequence[str], node: str) -> None:
        known = self._forget_row(table.name, key)
        there = self._is_there(table.name, key, fields)
        at = bisect_left(table.order, key)
        was = at < len(table.order) and table.order[at] == key
        if there != was:
            doc_id = known.id if known is not None else _id_of(table.name, key)
            table.strangers += (there - was) * (_key_of(key) is None)
            if there:
                table.order.insert(at, key)
                table.ids[doc_id] = key
                table.gone.pop(doc_id, None)
            else:
                del table.order[at]
                table.ids.pop(doc_id, None)
                table.gone[doc_id] = key
                if len(table.gone) > GONE_MAX:
                    del table.gone[next(iter(table.gone))]
        for field, index in table.indexes.items():
            if there != was or field in fields:  # a key field never changes
                index.put(key, self._value_at(table.name, key, field) if there else _Absent)
        if table.name in self._watched:
            self._tell(table, key, fields, node)

    def _is_there(self, name: str, key: str, fields: Sequence[str]) -> bool:
        """Mostly one of the *fields* that have changed tells."""
        for field in fields:
            register = self._cells.register(CellId(FIELD, name, key, field))
            if register and register[-1].value is not None:
                return True
        return bool(self._cells.document(name, key))

    # -- reading -----------------------------------------------------------------------------------------

    def find(
        self,
        name: str,
        where: list[Any] | None = None,
        ids: Sequence[int] | None = None,
        *,
        limit: int | None = None,
        after: int | None = None,
    ) -> tuple[list[tuple[int, str]], bool]:
        """A page of (id, JSON), and whether there may be more behind it.

        A page that is full by *limit* has not looked for what follows: it may turn out to be nothing.
        """
        table = self._open(name)
        if ids is not None and where is None and after is None and len(ids) == 1:
            key = table.ids.get(ids[0])
            row = None if key is None else self._row(name, key)
            return ([] if row is None else [(row.id, row.text)]), False
        start = self._key_after(table, after) if after is not None else None
        found: list[tuple[int, str]] = []
        size = 0
        keys, test = self._candidates(table, where, ids, start)
        for row in self._matching(table, keys, test, where):
            size += len(row.text) + 16
            if found and size > PAGE_BYTES_MAX:
                return found, True
            found.append((row.id, row.text))
            if limit is not None and len(found) >= limit:
                return found, table.ids[row.id] != keys[-1]
        return found, False

    def count(self, name: str, where: list[Any] | None = None) -> int:
        table = self._open(name)
        if where is None:
            return len(table.order)
        return sum(1 for _ in self._matching(table, *self._candidates(table, where), where))

    def _key_after(self, table: _Table, doc_id: int) -> str:
        key = table.ids.get(doc_id) or table.gone.get(doc_id)
        if key is None:
            raise BadInput(
                f"table {table.name!r} has no document {doc_id} to go on from", fix="begin from the start"
            )
        return key

    def _candidates(
        self,
        table: _Table,
        where: list[Any] | None,
        ids: Sequence[int] | None = None,
        start: str | None = None,
    ) -> tuple[Sequence[str], queries.Predicate | None]:
        """(cell keys, ascending, after *start*; what tells which of them match)."""
        test = None if where is None else queries.decoded(where)
        keys: Sequence[str] = table.order
        if ids is not None:
            keys = sorted({table.ids[each] for each in ids if each in table.ids})
        elif where is not None:
            narrowed = self._narrowed(table, where)
            if narrowed is not None:
                keys = sorted(narrowed)
        return (keys if start is None else keys[bisect_right(keys, start) :]), test

    def _matching(
        self,
        table: _Table,
        keys: Sequence[str],
        test: queries.Predicate | None,
        where: list[Any] | None,
    ) -> Iterator[_Row]:
        fields = None
        if where is not None and len(keys) > READ_WHOLE_MAX:
            fields = sorted(queries.fields_of(where))
        for key in keys:
            try:
                if fields is not None and test is not None and not test(self._part(table.name, key, fields)):
                    continue
                row = self._row(table.name, key)
                assert row is not None, f"{table.name}/{key} is in the order and not there"
                meant = test is None or fields is not None or test(row.document)
            except TypeError as error:
                raise queries.Incomparable(error) from error
            if meant:
                yield row

    def _part(self, name: str, key: str, fields: list[str]) -> dict[str, Any]:
        """A document as far as a query looks at it."""
        part = {}
        for field in fields:
            value = self._value_at(name, key, field)
            if value is not _Absent:
                part[field] = value
        return part

    def _narrowed(self, table: _Table, where: list[Any]) -> Sequence[str] | None:
        """Cell keys among which are all that match; None: it may be any."""
        best: Sequence[Sequence[str]] | None = None
        for lookup in queries.plan(where):
            declared, key = self.declaration(table.name)
            identity = declared and key == lookup.field and lookup.operator == "=="
            if identity and type(lookup.value) in (str, int) and not table.strangers:
                best = [self._by_identity(table, lookup.value)]
                break
            index = self._index(table, lookup.field)
            found = None if index is None else index.found(lookup)
            if found is None:
                if lookup.operator in ("==", "one_of"):
                    continue
                break
            if best is None or sum(map(len, found)) < sum(map(len, best)):
                best = found
        if best is None:
            return None
        return [key for group in best for key in group]

    def _by_identity(self, table: _Table, value: Any) -> Sequence[str]:
        key = _cell_key(value)
        at = bisect_left(table.order, key)
        return [key] if at < len(table.order) and table.order[at] == key else []

    def _index(self, table: _Table, field: str) -> _Index | None:
        index = table.indexes.pop(field, None)
        if index is None:
            if len(table.order) < INDEXED_FROM and field not in self._declared_indexes.get(table.name, ()):
                return None
            index = _Index()
            for key in table.order:
                index.put(key, self._value_at(table.name, key, field))
            if len(table.indexes) >= INDEXES_MAX:
                del table.indexes[next(iter(table.indexes))]
        table.indexes[field] = index
        return index

    def _open(self, name: str) -> _Table:
        if self._provide() is not self._cells:
            self._resync()
        table = self._tables.get(name)
        if table is None:
            if len(self._tables) >= OPEN_MAX:
                self._tables.clear()
                self._rows.clear()
                self._rows_bytes = 0
            table = self._tables[name] = _Table(name)
            table.order = self._cells.keys(name)
            table.ids = {_id_of(name, key): key for key in table.order}
            table.strangers = sum(_key_of(key) is None for key in table.order)
        return table

    def _row(self, name: str, key: str) -> _Row | None:
        row = self._rows.get((name, key))
        if row is None:
            row = self._composed(name, key)
            if row is not None:
                self._rows[name, key] = row
                self._rows_bytes += len(row.text)
                while self._rows_bytes > ROWS_BYTES_MAX and len(self._rows) > 1:
                    self._forget_row(*next(iter(self._rows)))
        return row

    def _forget_row(self, name: str, key: str) -> _Row | None:
        row = self._rows.pop((name, key), None)
        if row is not None:
            self._rows_bytes -= len(row.text)
        return row

    def _composed(self, name: str, key: str) -> _Row | None:
        fields = self._cells.document(name, key)
        if not fields:
            return None
        if fields.get("") == _MARK:
            del fields[""]
        declared = self.declaration(name)[1]
        if declared is not None and (identity := _key_of(key)) is not None:
            fields[declared] = _to_json(identity).encode()  # whatever somebody wrote there
        document: dict[str, Any] = {}
        texts: list[str] = []
        for field, data in fields.items():  # each on its own: no value may write another field
            document[field], text = _read(data)
            texts.append(f"{encode_basestring(field)}:{text}")
        return _Row(_id_of(name, key), document, "{" + ",".join(texts) + "}")

    def _value_at(self, name: str, key: str, field: str) -> Any:
        """As the document would have it, without reading the others."""
        if field == self.declaration(name)[1] and (identity := _key_of(key)) is not None:
            return identity
        register = self._cells.register(CellId(FIELD, name, key, field))
        data = register[-1].value if register else None
        if data is None or (field == "" and data == _MARK):
            return _Absent
        return _read(data)[0]

    # -- writing -----------------------------------------------------------------------------------------

    def insert(self, name: str, documents: Sequence[tuple[int | None, str]]) -> Edit:
        table = self._open_to_write(name)
        ids: list[int] = []
        keys: set[str] = set()
        changes: list[Change] = []
        for doc_id, text in documents:
            document = _parsed(text)
            found, key = self._identified(table, doc_id, document)
            if key in keys or self._cells.document(name, key):
                raise BadInput(f"table {name!r} has the document {_shown(key)} already", fix="update it")
            keys.add(key)
            ids.append(found)
            changes += _put(name, key, {}, _fields(document))
        return Edit(ids, tuple(changes))

    def update(
        self,
        name: str,
        text: str,
        where: list[Any] | None = None,
        ids: Sequence[int] | None = None,
    ) -> Edit:
        table = self._open_to_write(name)
        fields = _fields(_parsed(text))
        found = []
        changes: list[Change] = []
        for row, key in self._meant(table, where, ids):
            found.append(row.id)
            changes += self._updated(table, key, fields)
        return Edit(found, tuple(changes))

    def put(self, name: str, documents: Sequence[tuple[int, str]]) -> Edit:
        table = self._open_to_write(name)
        changes: list[Change] = []
        keys: set[str] = set()
        for doc_id, text in documents:
            document = _parsed(text)
            key = table.ids.get(doc_id)
            if key is None:
                _, key = self._identified(table, doc_id, document)
            fields = self._with_key(table, key, _fields(document))
            if key in keys:
                raise BadInput(f"document {doc_id} is named twice", fix="put each once")
            keys.add(key)
            changes += _put(name, key, self._cells.document(name, key), fields)
        return Edit([doc_id for doc_id, _ in documents], tuple(changes))

    def rewritten(
        self, name: str, documents: Sequence[tuple[int, str]], seen: Sequence[str]
    ) -> tuple[Edit, list[int]]:
        """As ``put``, of the fields alone in which each document differs from the *seen* one.

        Also: ids of documents that are gone, or where one of those fields is not what was seen any more.
        """
        table = self._open_to_write(name)
        changes: list[Change] = []
        stale: list[int] = []
        if len(documents) != len(seen) or len({doc_id for doc_id, _ in documents}) != len(seen):
            raise BadInput("each document is put once, with what was seen of it", fix="give as many of both")
        for (doc_id, text), was in zip(documents, seen, strict=True):
            old, new = _fields(_parsed(was)), _fields(_parsed(text))
            key = table.ids.get(doc_id)
            row = None if key is None else self._row(name, key)
            if key is None or row is None:
                stale.append(doc_id)
                continue
            self._with_key(table, key, new)
            now = _fields(row.document)
            touched = {field for field in {**old, **new} if old.get(field) != new.get(field)}
            if any(now.get(field) != old.get(field) for field in touched):
                stale.append(doc_id)
                continue
            kept = {field: value for field, value in now.items() if field not in touched}
            kept.update((field, value) for field, value in new.items() if field in touched)
            changes += _put(name, key, self._cells.document(name, key), kept)
        return Edit([doc_id for doc_id, _ in documents], tuple(changes)), stale

    def upsert(self, name: str, text: str, where: list[Any] | None = None, doc_id: int | None = None) -> Edit:
        table = self._open_to_write(name)
        document = _parsed(text)
        if where is not None and doc_id is None:
            fields = _fields(document)
            found = list(self._meant(table, where, None))
            if found:
                changes: list[Change] = []
                for _, key in found:
                    changes += self._updated(table, key, fields)
                return Edit([row.id for row, _ in found], tuple(changes))
            return self.insert(name, [(None, text)])
        if doc_id is None and self.declaration(name)[1] is None:
            raise BadInput(
                "an upsert needs a condition, or a document with an id", fix="or declare the table's key"
            )
        doc_id, key = self._identified(table, doc_id, document)
        fields = _fields(document)
        if doc_id in table.ids:
            return Edit([doc_id], tuple(self._updated(table, key, fields)))
        return Edit([doc_id], tuple(_put(name, key, {}, fields)))

    def remove(self, name: str, where: list[Any] | None = None, ids: Sequence[int] | None = None) -> Edit:
        if where is None and ids is None:
            raise BadInput("a removal needs a condition or ids", fix="truncate removes everything")
        table = self._open_to_write(name)
        found = []
        changes: list[Change] = []
        for row, key in self._meant(table, where, ids):
            found.append(row.id)
            changes += self._removal(name, key)
        return Edit(found, tuple(changes))

    def emptied(self, name: str, changes_max: int) -> Iterator[tuple[Change, ...]]:
        """Removals of all documents, so many at a time; asked for one after another as they are written."""
        table = self._open_to_write(name)
        for first in range(0, len(keys := list(table.order)), changes_max):
            part: list[Change] = []
            for key in keys[first : first + changes_max]:
                removal = self._removal(name, key)
                if part and len(part) + len(removal) > changes_max:
                    yield tuple(part)
                    part = []
                part += removal
            if part:
                yield tuple(part)

    def _removal(self, name: str, key: str) -> list[Change]:
        return [Put(name, key, field, None) for field in self._cells.document(name, key)]

    def _open_to_write(self, name: str) -> _Table:
        if name.startswith("."):
            raise BadInput(f"tables named like {name!r} are edgeweave's own", fix="begin the name otherwise")
        return self._open(name)

    def _meant(
        self, table: _Table, where: list[Any] | None, ids: Sequence[int] | None
    ) -> list[tuple[_Row, str]]:
        """Documents that a write is about, in the order given or by cell key; all, before any moves."""
        if ids is None:
            found = self._matching(table, *self._candidates(table, where), where)
            return [(row, table.ids[row.id]) for row in found]
        test = None if where is None else queries.decoded(where)
        keys = [
            table.ids[each] for each in dict.fromkeys(ids) if each in table.ids
        ]  # TinyDB skips the others
        return [(row, table.ids[row.id]) for row in self._matching(table, keys, test, where)]

    def _updated(self, table: _Table, key: str, fields: dict[str, bytes]) -> list[Change]:
        declared = self.declaration(table.name)[1]
        if declared in fields:
            self._with_key(table, key, fields)
        now = self._cells.document(table.name, key)
        return [
            Put(table.name, key, field, value) for field, value in fields.items() if now.get(field) != value
        ]

    def _identified(self, table: _Table, doc_id: int | None, document: dict[str, Any]) -> tuple[int, str]:
        """(id, cell key) of a document that is not there yet, or is named by its key."""
        if doc_id is not None and not _is_id(doc_id):
            raise BadInput(f"a document's id has 63 bits, {doc_id} has more", fix="leave it to the table")
        declared = self.declaration(table.name)[1]
        if declared is None:
            if doc_id is None:
                doc_id = int.from_bytes(self._entropy(8), "big") >> 1 or 1
            return doc_id, table.ids.get(doc_id, f"#{doc_id}")
        value = document.get(declared)
        if type(value) not in (str, int):
            raise BadInput(
                f"document has no {declared!r}", fix=f"table {table.name!r} needs it: text or an integer"
            )
        assert isinstance(value, (str, int))
        key = _cell_key(value)
        if len(key.encode("utf-8", "surrogatepass")) > batches.KEY_BYTES_MAX:
            raise BadInput(f"{declared!r} is over {batches.KEY_BYTES_MAX - 1} bytes", fix="use a shorter key")
        derived = doc_id_for(table.name, value)
        if doc_id is not None and doc_id != derived:
            raise BadInput(f"document id does not follow from {declared!r}", fix="leave the id to the table")
        return derived, key

    def _with_key(self, table: _Table, key: str, fields: dict[str, bytes]) -> dict[str, bytes]:
        """Raises: BadInput: they would change the document's identity."""
        declared = self.declaration(table.name)[1]
        identity = _key_of(key)
        if declared is None or identity is None:
            return fields
        if fields.get(declared) != _to_json(identity).encode():
            raise BadInput(f"a document cannot change its {declared!r}", fix="remove it and insert it anew")
        return fields

    # -- declarations ------------------------------------------------------------------------------------

    def declaration(self, name: str) -> tuple[bool, str | None]:
        """(is anything declared, the key field or None)."""
        found = self._keys.get(name)
        if found is None:
            fields = self._cells.document(KEYS, name)
            key = _read(fields["key"])[0] if "key" in fields else None
            found = self._keys[name] = "key" in fields, key if isinstance(key, str) else None
            if len(self._keys) > WATCHED_MAX * 64:  # asked for tables that need not exist
                self._keys.clear()
                self._keys[name] = found
        return found

    def writers(self, name: str) -> list[str] | None:
        """Who may write it; None: every member."""
        fields = self._cells.document(WRITERS, name)
        found = _read(fields["writers"])[0] if "writers" in fields else None
        return sorted(map(str, found)) if isinstance(found, list) else None

    def declare(
        self,
        name: str,
        key: str | None,
        writers: Sequence[str] | None = None,
        indexes: Sequence[str] = (),
        *,
        of_key: bool = True,
    ) -> tuple[Change, ...]:
        """Args: of_key: False: *key* says nothing, the table has the one it has.

        Raises: BadInput: it was declared otherwise, or has documents that do not fit.
        """
        table = self._open_to_write(name)
        if key == "" or (key is not None and len(key) > batches.FIELD_BYTES_MAX):
            raise BadInput("a key field has 1 to 256 characters", fix="name the field that identifies")
        if len(indexes) > INDEXES_MAX:
            raise BadInput(f"a table has at most {INDEXES_MAX} indexes", fix="name those that are searched")
        changes: list[Change] = []
        declared, known = self.declaration(name)
        if of_key and declared and known != key:
            raise BadInput(
                f"table {name!r} was declared with {_key_named(known)}, not {_key_named(key)}",
                fix="declare it everywhere alike",
            )
        if of_key and not declared:
            if key is not None and table.order:
                raise BadInput(
                    f"table {name!r} has documents without a key", fix="remove them, or take another table"
                )
            changes.append(Put(KEYS, name, "key", _to_json(key).encode()))
        if writers is not None and (wanted := sorted(set(writers))) != (now := self.writers(name)):
            if now is not None:
                raise BadInput(
                    f"table {name!r} was declared with the writers {', '.join(now) or 'nobody'}",
                    fix="declare it everywhere alike",
                )
            changes.append(Put(WRITERS, name, "writers", _to_json(wanted).encode()))
        if indexes:
            if name not in self._declared_indexes and len(self._declared_indexes) >= 16 * WATCHED_MAX:
                del self._declared_indexes[next(iter(self._declared_indexes))]
            self._declared_indexes[name] = sorted({*indexes})
        return tuple(changes)

    def listed(self) -> list[dict[str, Any]]:
        """Each table, set and counter there is, by name; not those of our own. Declared ones may be empty."""
        conflicts = Counter(cell.table for cell in self._cells.conflicts)
        found: list[dict[str, Any]] = []
        kinds = {FIELD: "documents", ELEMENT: "set", COUNTER: "counter"}
        declared = {(FIELD, name) for name in self._cells.keys(KEYS)}
        for kind, name in sorted(declared.union(self._cells.tables()), key=lambda each: (each[1], each[0])):
            if name.startswith("."):
                continue
            if kind == FIELD:
                count = len(self._open(name).order)
            else:
                count = len(self._cells.elements(name)) if kind == ELEMENT else 1
            if count or (kind, name) in declared:
                found.append(
                    {
                        "name": name,
                        "kind": kinds[kind],
                        "count": count,
                        "key": self.declaration(name)[1] if kind == FIELD else None,
                        "writers": self.writers(name),
                        "conflicts": conflicts[name] if kind == FIELD else 0,
                    }
                )
        return found

    # -- sets and counters -------------------------------------------------------------------------------

    def tagged(self, name: str, add: Sequence[str], discard: Sequence[str]) -> tuple[Change, ...]:
        """An addition is always written: it outlives a removal that did not know of it."""
        self._open_to_write(name)
        if trouble := sorted({*add} & {*discard}):
            raise BadInput(f"{trouble[0]!r} is to be added and taken out", fix="decide on one")
        changes: list[Change] = [Tag(name, each, True) for each in dict.fromkeys(add)]
        there = self._cells.is_live
        changes += [Tag(name, each, False) for each in dict.fromkeys(discard) if there(ELEMENT, name, each)]
        return tuple(changes)

    def elements(self, name: str) -> list[str]:
        self._open(name)
        return self._cells.elements(name)

    def counted_on(self, name: str, amount: int) -> tuple[Change, ...]:
        self._open_to_write(name)
        return (Count(name, amount),) if amount else ()

    def counted(self, name: str) -> int:
        self._open(name)
        return self._cells.counted(name)

    # -- conflicts ---------------------------------------------------------------------------------------

    def conflicts(self, name: str | None, limit: int) -> tuple[list[dict[str, Any]], int]:
        """The first *limit* by table, key and field, and how many there are."""
        self._open(name or KEYS)
        cells = [cell for cell in self._cells.conflicts if name is None or cell.table == name]
        return [self._conflict(cell) for cell in heapq.nsmallest(limit, cells)], len(cells)

    def _conflict(self, cell: CellId) -> dict[str, Any]:
        register = self._cells.register(cell)
        won = register[-1]
        values = [(won.stamp, won.node, won.value, True)]
        values += [(each.stamp, each.node, each.value, False) for each in register[:-1]]
        values += [(*rival, False) for each in register for rival in each.rivals]
        # Two of one writer may bear one stamp, and everybody lists them alike: by value, a removal last.
        values[1:] = sorted({*values[1:]}, key=lambda each: (*each[:2], each[2] or b""), reverse=True)
        return {
            "table": cell.table,
            "id": _id_of(cell.table, cell.key),
            "key": _shown(cell.key),
            "field": cell.field,
            "values": [
                {
                    "value": None if value is None else _read(value)[1],
                    "node": node,
                    "at_ms": ms_of(stamp),
                    "wins": wins,
                }
                for stamp, node, value, wins in values
            ],
        }

    def resolved(self, name: str, doc_id: int, field: str, value: str | None) -> tuple[Change, ...]:
        """value: JSON; None: the winner stays."""
        table = self._open(name)
        for cell in self._cells.conflicts:  # a deletion may have won: then it is no document
            if cell.table == name and cell.field == field and _id_of(name, cell.key) == doc_id:
                break
        else:
            raise BadInput(
                f"nothing is in conflict at {field!r} of document {doc_id} in {name!r}",
                fix="the list of conflicts names what is",
            )
        if value is None:
            return (Put(name, cell.key, field, self._cells.register(cell)[-1].value),)
        fields = _fields({field: _loaded(value)})
        if field == self.declaration(name)[1]:
            self._with_key(table, cell.key, fields)
        return (Put(name, cell.key, field, fields[field]),)

    # -- the feed ----------------------------------------------------------------------------------------

    def watch(self, name: str, cursor: str | None, now_ns: int) -> tuple[int, bool]:
        """(seq to go on from, were changes missed); the table is watched from now on.

        Raises: Unavailable: too many tables are.
        """
        table = self._open(name)
        watched = self._watched.get(name)
        if watched is None:
            if len(self._watched) >= WATCHED_MAX:
                raise Unavailable(f"{WATCHED_MAX} tables are watched already", fix="watch fewer")
            watched = self._watched[name] = _Watched(self._seq)
            for key in table.order:
                row = self._rows.get((name, key)) or self._composed(name, key)
                assert row is not None
                watched.texts[key] = row.text
        watched.used_ns = now_ns
        if cursor is None:
            return self._seq, False
        life, _, number = cursor.partition("-")
        if not (number.isascii() and number.isdigit() and len(number) < 20):
            raise BadInput(f"{cursor!r} is no cursor", fix="give back the one that the last answer had")
        seq = int(number)
        first = self._feed[0].seq if self._feed else self._seq + 1
        if life != self._life or not max(watched.since, first - 1) <= seq <= self._seq:
            return self._seq, True
        return seq, False

    def since(self, name: str, seq: int, test: queries.Predicate | None) -> tuple[list[Event], int, bool]:
        """(changes after *seq* that match before or after, seq to go on from, were some missed)."""
        behind = self._seq - seq
        if behind > len(self._feed):
            return [], self._seq, True
        found: list[Event] = []
        size = 0
        for event in islice(self._feed, len(self._feed) - behind, None):
            if event.table == name and (test is None or _concerns(event, test)):
                size += _bytes(event)
                if found and size > PAGE_BYTES_MAX:
                    return found, event.seq - 1, False
                found.append(event)
        return found, self._seq, False

    def cursor(self, seq: int) -> str:
        return f"{self._life}-{seq}"

    def unwatch(self, before_ns: int, but: Iterable[str]) -> None:
        """Tables that nobody asked about since then are watched no longer."""
        kept = {*but}
        for name in [name for name, each in self._watched.items() if each.used_ns < before_ns]:
            if name not in kept:
                del self._watched[name]

    @property
    def watched(self) -> int:
        return len(self._watched)

    def _tell(self, table: _Table, key: str, fields: Iterable[str], node: str) -> None:
        texts = self._watched[table.name].texts
        row = self._row(table.name, key)
        before, after = texts.get(key), None if row is None else row.text
        if before == after:
            return
        if after is None:
            texts.pop(key, None)
        else:
            texts[key] = after
        registers = [self._cells.register(CellId(FIELD, table.name, key, field)) for field in fields]
        newest = max((register[-1] for register in registers if register), default=None)
        self._seq += 1
        event = Event(
            self._seq,
            table.name,
            _id_of(table.name, key),
            before,
            after,
            node or (newest.node if newest else ""),
            ms_of(newest.stamp) if newest else 0,
        )
        self._feed.append(event)
        self._feed_bytes += _bytes(event)
        while len(self._feed) > FEED_MAX or (self._feed_bytes > FEED_BYTES_MAX and len(self._feed) > 1):
            self._feed_bytes -= _bytes(self._feed.popleft())

    # -- proof -------------------------------------------------------------------------------------------

    def check(self) -> None:
        """What is kept is what a fresh look at the cells gives."""
        if self._provide() is not self._cells:
            self._resync()
        fresh = Tables(lambda: self._cells, bytes)
        for name, table in self._tables.items():
            other = fresh._open(name)
            assert table.order == other.order and table.ids == other.ids
            for field, index in table.indexes.items():
                new = _Index()
                for key in table.order:
                    row = fresh._row(name, key)
                    assert row is not None
                    new.put(key, row.document.get(field, _Absent))
                assert index._value == new._value and index._by_value == new._by_value
                assert (index._other, index._texts) == (new._other, new._texts)
                if index._ordered is not None:
                    assert index._ordered == sorted((value, key) for key, value in new._value.items())
            if name in self._watched:
                texts = {key: row.text for key in table.order if (row := fresh._row(name, key))}
                assert self._watched[name].texts == texts
        for (name, key), row in self._rows.items():
            assert fresh._row(name, key) == row
        assert self._rows_bytes == sum(len(row.text) for row in self._rows.values())
        assert self._feed_bytes == sum(map(_bytes, self._feed))
        assert [event.seq for event in self._feed] == list(
            range(self._seq - len(self._feed) + 1, self._seq + 1)
        )


# ── documents and cells ───────────────────────────────────────────────────────────────────────────────


def _cell_key(value: Key) -> str:
    return f"s{value}" if isinstance(value, str) else f"i{value}"


def _key_of(key: str) -> Key | None:
    """What the key field says of a document with this cell key; None: nothing."""
    kind, text = key[:1], key[1:]
    if kind == "s":
        return text
    return int(text) if kind == "i" and _is_decimal(text) else None


def _is_decimal(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and (digits[0] != "0" or text == "0")


def _id_of(name: str, key: str) -> int:
    identity = _key_of(key)
    if identity is not None:
        return doc_id_for(name, identity)
    if key[:1] == "#" and len(key) < 22 and _is_decimal(key[1:]) and _is_id(int(key[1:])):
        return int(key[1:])
    return doc_id_for(f"{name}\0", key)  # no version of ours writes such a one


def _is_id(value: int) -> bool:
    return -(2**63) <= value < 2**63


def _shown(key: str) -> str:
    return key if key[:1] == "#" else key[1:]


def _key_named(key: str | None) -> str:
    return "no key" if key is None else f"the key {key!r}"


def _read(data: bytes) -> tuple[Any, str]:
    """(value, its JSON); what some member wrote and is no JSON reads as null."""
    try:
        text = data.decode()
        value, end = _scanned(text, 0)
        if end == len(text) or not text[end:].strip(" "):
            return value, text
    except (ValueError, RecursionError, StopIteration):
        pass
    return None, "null"


def _loaded(text: str) -> Any:
    try:
        return _from_json(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInput(f"not JSON: {error}", fix="documents hold JSON's kinds of values") from error


def _parsed(text: str) -> dict[str, Any]:
    document = _loaded(text)
    if not isinstance(document, dict):
        raise BadInput("a document is a JSON object", fix="wrap the value in one")
    return document


def _fields(document: dict[str, Any]) -> dict[str, bytes]:
    """Field -> its JSON; the same bytes for the same value."""
    try:
        fields = {name: _spelt(value) for name, value in document.items()}
        for name in fields:
            name.encode()
    except UnicodeEncodeError as error:
        raise BadInput(
            "a document's text has no UTF-8 spelling", fix="take the lone surrogate out"
        ) from error
    except (RecursionError, ValueError) as error:
        raise BadInput(f"not JSON: {error}", fix="documents hold JSON's kinds of values") from error
    if fields.get("") == _MARK:
        fields[""] = _OWN_NULL
    return fields


def _spelt(value: Any) -> bytes:
    """Its JSON. An encoder takes microseconds to be set up, so it is left to what needs one."""
    kind = type(value)
    if kind is str:
        return encode_basestring(value).encode()
    if kind is int:
        return b"%d" % value
    return _to_json(value).encode()


def _put(name: str, key: str, now: dict[str, bytes], fields: dict[str, bytes]) -> list[Change]:
    """A document becomes exactly that."""
    changes: list[Change] = [
        Put(name, key, field, value) for field, value in fields.items() if now.get(field) != value
    ]
    if not fields and now.get("") != _MARK:
        changes.append(Put(name, key, "", _MARK))
    changes += [Put(name, key, field, None) for field in now if field not in fields and (field or fields)]
    return changes


def _concerns(event: Event, test: queries.Predicate) -> bool:
    for text in (event.after, event.before):
        try:
            if text is not None and test(_from_json(text)):
                return True
        except TypeError:  # what cannot be compared is not what was asked for; a watch goes on
            continue
    return False


def _bytes(event: Event) -> int:
    return len(event.before or "") + len(event.after or "") + 128
