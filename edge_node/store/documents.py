"""Documents: TinyDB's tables over SQLite, one row a write.

    documents = Documents(home / "documents.db")
    peers = documents.table("peers", key="id")        # a tinydb Table: insert, upsert, search, where(...)
    peers.upsert({"id": "pi-3", "seen_ms": 1})        # by its key, O(1) in the size of the table

A table with a key derives a document's id from it (63 bits of SHA-256), a table without draws a random
63-bit id: TinyDB's own ids count 1, 2, 3 and could never replicate. Replicated tables will stand beside
these, with the same face (``store.replica``, later); the id rule is theirs already.

Not here: files and transactions (``storage.sqlite``); waiting (calls block, a daemon uses its thread runner).
Semantics are TinyDB's own code, run over a dict that loads and writes only what is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from tinydb import TinyDB
from tinydb.queries import QueryInstance, QueryLike
from tinydb.table import Document, Table

from edge_node.store.identity import Key, doc_id_for
from edge_node.store.storage.sqlite import Changes, DocumentBody, Rows, SQLiteStorage
from security.errors import BadInput

KEY_BYTES_MAX = 256

Entropy = Callable[[int], bytes]


class DocumentTable(Table):
    """TinyDB's Table with O(1) writes; ``key`` names the field that is a document's identity."""

    def __init__(
        self,
        storage: SQLiteStorage,
        name: str,
        cache_size: int = Table.default_query_cache_capacity,
        persist_empty: bool = False,
        *,
        key: str | None = None,
        entropy: Entropy = os.urandom,
    ) -> None:
        self.key = key
        self._entropy = entropy
        self._rows = storage
        self._declared = False
        super().__init__(storage, name, cache_size=cache_size)
        if persist_empty or key is not None or storage.is_declared(name):
            self._declare()

    # -- what TinyDB does by whole tables -----------------------------------------------------------

    def insert(self, document: Mapping[str, Any]) -> int:
        return super().insert(self._identified(document))

    def insert_multiple(self, documents: Iterable[Mapping[str, Any]]) -> list[int]:
        return super().insert_multiple(self._identified(document) for document in documents)

    def search(self, cond: QueryLike) -> list[Document]:
        doc_id = self._keyed(cond)
        if doc_id is not None:
            found = self.get(cond)
            return [cast(Document, found)] if found is not None else []
        with self._rows.lock:  # a write between reading and caching would leave a stale answer behind
            return super().search(cond)

    def get(  # type: ignore[override]  # TinyDB's six overloads, one signature
        self,
        cond: QueryLike | None = None,
        doc_id: int | None = None,
        doc_ids: list[int] | None = None,
    ) -> Document | list[Document] | None:
        if doc_id is None and doc_ids is not None:
            return [Document(json.loads(body), i) for i, body in self._rows.bodies(self.name, doc_ids)]
        if doc_id is None and cond is not None and (keyed := self._keyed(cond)) is not None:
            found = super().get(doc_id=keyed)
            return found if found is not None and cond(found) else None
        return super().get(cond, cast(int, doc_id))

    def update(
        self,
        fields: Mapping[str, Any] | Callable[[Any], None],
        cond: QueryLike | None = None,
        doc_ids: Iterable[int] | None = None,
    ) -> list[int]:
        if doc_ids is None and cond is not None and (keyed := self._keyed(cond)) is not None:
            return super().update(fields, doc_ids=[keyed])
        return super().update(fields, cond, doc_ids)

    def remove(self, cond: QueryLike | None = None, doc_ids: Iterable[int] | None = None) -> list[int]:
        if doc_ids is None and cond is not None and (keyed := self._keyed(cond)) is not None:
            return super().remove(doc_ids=[keyed])
        return super().remove(cond, doc_ids)

    def upsert(self, document: Mapping[str, Any], cond: QueryLike | None = None) -> list[int]:
        """As TinyDB's; in a table with a key, the key stands in for a missing *cond*."""
        if cond is None:
            document = self._identified(document)
        with self._rows.transaction():
            return super().upsert(document, cond)

    def keep_newest(self, rows: int) -> int:
        """Bound the table: drop the oldest insertions beyond *rows*; how many went."""
        with self._rows.lock:
            gone = self._rows.keep_newest(self.name, rows)
            self.clear_cache()
        return gone

    def forget(self) -> None:
        """The table was dropped: declare it again at the next write."""
        self._declared = False
        self.clear_cache()

    def __len__(self) -> int:
        return self._rows.count(self.name)

    def __iter__(self) -> Iterator[Document]:
        for doc_id, body in self._rows.scan(self.name):
            yield Document(json.loads(body), doc_id)

    def _get_next_id(self) -> int:
        return int.from_bytes(self._entropy(8), "big") >> 1 or 1

    def _read_table(self) -> Any:
        return Rows(self._rows, self.name)

    def _update_table(self, updater: Callable[[Any], None]) -> None:
        with self._rows.transaction():
            if not self._declared:
                self._declare()
            changes = Changes(self._rows, self.name)
            updater(changes)
            changes.write(self._check)
            self.clear_cache()

    # -- identity -----------------------------------------------------------------------------------

    def _declare(self) -> None:
        self._rows.declare(self.name, self.key)
        self._declared = True

    def _identified(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.key is None or not isinstance(document, Mapping):
            return document
        doc_id = doc_id_for(self.name, self._key_of(document))
        if isinstance(document, Document) and document.doc_id != doc_id:
            raise BadInput(f"document id does not follow from {self.key!r}", fix="leave the id to the table")
        return Document(document, doc_id)

    def _key_of(self, document: Mapping[str, Any]) -> Key:
        value = document.get(cast(str, self.key))
        if type(value) not in (str, int):
            raise BadInput(
                f"document has no {self.key!r}", fix=f"table {self.name!r} needs it: text or an integer"
            )
        if isinstance(value, str) and len(value.encode("utf-8", "surrogatepass")) > KEY_BYTES_MAX:
            raise BadInput(f"{self.key!r} is over {KEY_BYTES_MAX} bytes", fix="use a shorter key")
        return cast(Key, value)

    def _check(self, doc_id: int, document: DocumentBody) -> None:
        if self.key is not None and doc_id_for(self.name, self._key_of(document)) != doc_id:
            raise BadInput(f"a document cannot change its {self.key!r}", fix="remove it and insert it anew")

    def _keyed(self, cond: QueryLike) -> int | None:
        """The one id that ``where(key) == value`` can match; None: the condition is another one.

        TinyDB describes a query by a tuple that it keeps for hashing; should that ever change, the answer
        is None and the table is scanned.
        """
        if self.key is None or not isinstance(cond, QueryInstance):
            return None
        match getattr(cond, "_hash", None):
            case ("==", (str(field),), value) if field == self.key and type(value) in (str, int):
                return doc_id_for(self.name, value)
        return None


class Documents(TinyDB):
    """The tables of one file. A TinyDB, so what takes a TinyDB takes this.

    Raises: BadInput: the file is of a newer version. Unavailable: it cannot be opened.
    """

    table_class = DocumentTable  # type: ignore[assignment]  # TinyDB declares it as its own Table

    def __init__(self, path: str | Path, *, durable: Literal["full", "normal"] = "full") -> None:
        super().__init__(path, storage=SQLiteStorage, durable=durable)

    @property
    def set_aside(self) -> Path | None:
        """Where a damaged file went that was found at this path."""
        return self._sqlite.set_aside

    def table(self, name: str, **options: Any) -> DocumentTable:
        """Options: ``key``, ``cache_size``, ``persist_empty``.

        Raises: BadInput: the table was declared with another key.
        """
        known = self._tables.get(name)
        if known is not None and "key" in options and options["key"] != cast(DocumentTable, known).key:
            raise BadInput(f"table {name!r} was declared with another key", fix="declare it everywhere alike")
        return cast(DocumentTable, super().table(name, **options))

    def tables(self) -> set[str]:
        return set(self._sqlite.names())

    def drop_table(self, name: str) -> None:
        if name in self._tables:
            cast(DocumentTable, self._tables.pop(name)).forget()
        self._sqlite.drop(name)

    def drop_tables(self) -> None:
        with self._sqlite.transaction():
            for name in sorted({*self._sqlite.names(), *self._tables}):
                self.drop_table(name)

    def transaction(self) -> contextlib.AbstractContextManager[None]:
        """Writes within the block become durable together: one fsync for all of them."""
        return self._sqlite.transaction()

    def verify(self) -> list[str]:
        """What is wrong with the file, in words; empty when nothing is."""
        return self._sqlite.verify()

    @property
    def _sqlite(self) -> SQLiteStorage:
        return cast(SQLiteStorage, self._storage)
