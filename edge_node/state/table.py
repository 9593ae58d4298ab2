"""A replicated table with the face of TinyDB's: reads are local, a write is on disk here once it returns.

    rooms = mesh.state.table("rooms", key="id")
    rooms.upsert({"id": "r1", "setpoint_c": 21.5})          # blocks, as TinyDB does
    await rooms.aio.upsert({"id": "r1", "setpoint_c": 22})  # the same, awaited
    async for change in rooms.watch(where("setpoint_c") > 25):
        ...

Both faces carry out the same exchanges (``questions``); what differs from TinyDB is listed in docs/state.md.
Blocking calls may be made from any thread, one at a time leaves; within a running loop they hold it up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast, overload

from tinydb.table import Document
from tinydb.table import Table as PlainTable

from edge_node.state.changes import Change, Feed
from edge_node.state.exchange import Exchange
from edge_node.state.freshness import WAIT_S, Freshness, fresh
from edge_node.state.links import Links
from edge_node.state.questions import Change as Rewriting
from edge_node.state.questions import Condition, Fields, Questions

if TYPE_CHECKING:
    from tinydb.queries import QueryLike

T = TypeVar("T")


class Table(PlainTable):
    """Made by ``State.table``."""

    def __init__(  # TinyDB's own state (a storage, the next id) has no use here
        self,
        links: Links,
        name: str,
        declaration: Mapping[str, Any] | None = None,
        next_id: Callable[[], int] | None = None,
    ) -> None:
        self._name = name
        self._query_cache = self.query_cache_class(capacity=0)  # as `Table` has one; never used
        self._links = links
        self._questions = Questions(name, cast("Any", self), declaration, next_id)
        self.aio = AwaitedTable(links, self._questions)

    def __repr__(self) -> str:
        return f"<Table name={self._name!r}>"

    @property
    def storage(self) -> NoReturn:
        raise AttributeError("a replicated table has no storage of its own: the daemon keeps it")

    # -- reading ----------------------------------------------------------------------------------------

    def all(self) -> list[Document]:
        return self._done(self._questions.all())

    def search(self, cond: QueryLike) -> list[Document]:
        return self._done(self._questions.search(cond))

    @overload  # type: ignore[override]  # as TinyDB's, more of them by keyword
    def get(self) -> NoReturn: ...
    @overload
    def get(self, cond: QueryLike, doc_id: None = ..., doc_ids: None = ...) -> Document | None: ...
    @overload
    def get(
        self, cond: QueryLike | None = ..., *, doc_id: int, doc_ids: Iterable[int] | None = ...
    ) -> Document | None: ...
    @overload
    def get(
        self, cond: QueryLike | None, doc_id: int, doc_ids: Iterable[int] | None = ...
    ) -> Document | None: ...
    @overload
    def get(
        self, cond: QueryLike | None = ..., doc_id: None = ..., *, doc_ids: Iterable[int]
    ) -> list[Document]: ...
    @overload
    def get(self, cond: QueryLike | None, doc_id: None, doc_ids: Iterable[int]) -> list[Document]: ...
    def get(
        self,
        cond: QueryLike | None = None,
        doc_id: int | None = None,
        doc_ids: Iterable[int] | None = None,
    ) -> Document | list[Document] | None:
        return self._done(self._questions.get(cond, doc_id, doc_ids))

    def contains(self, cond: QueryLike | None = None, doc_id: int | None = None) -> bool:
        return self._done(self._questions.contains(cond, doc_id))

    def count(self, cond: QueryLike | None = None) -> int:
        """Those that match; without *cond* all."""
        return self._done(self._questions.count(cond))

    def __len__(self) -> int:
        return self._done(self._questions.count())

    def __iter__(self) -> Iterator[Document]:
        after: int | None = None
        while True:
            page, after = self._done(self._questions.page(after))
            yield from page
            if after is None:
                return

    # -- writing ----------------------------------------------------------------------------------------

    def insert(self, document: Mapping[str, Any]) -> int:
        return self._done(self._questions.insert(document))

    def insert_multiple(self, documents: Iterable[Mapping[str, Any]]) -> list[int]:
        return self._done(self._questions.insert_multiple(documents))

    def update(
        self,
        fields: Fields | Rewriting,
        cond: QueryLike | None = None,
        doc_ids: Iterable[int] | None = None,
    ) -> list[int]:
        return self._done(self._questions.update(fields, cond, doc_ids))

    def update_multiple(self, updates: Iterable[tuple[Fields | Rewriting, QueryLike]]) -> list[int]:
        return self._done(self._questions.update_multiple(updates))

    def upsert(self, document: Mapping[str, Any], cond: QueryLike | None = None) -> list[int]:
        """As TinyDB's; in a table with a key, the key stands in for a missing *cond*."""
        return self._done(self._questions.upsert(document, cond))

    def remove(self, cond: QueryLike | None = None, doc_ids: Iterable[int] | None = None) -> list[int]:
        return self._done(self._questions.remove(cond, doc_ids))

    def truncate(self) -> None:
        self._done(self._questions.truncate())

    def clear_cache(self) -> None:
        """Nothing is cached here: other members write too."""

    # -- beyond TinyDB ----------------------------------------------------------------------------------

    def watch(self, cond: QueryLike | None = None) -> AsyncIterator[Change]:
        """Changes of documents that match before or after, from now on; see ``changes``."""
        return self.aio.watch(cond)

    async def fresh(
        self, max_age_s: float = 1.0, *, wait_s: float = WAIT_S, strict: bool = False
    ) -> Freshness:
        """Wait until what live members had written *max_age_s* ago is here; at most *wait_s*. 0: as of now.

        Raises: Unavailable: *strict*, and some were not reached. BadInput.
        """
        return await self.aio.fresh(max_age_s, wait_s=wait_s, strict=strict)

    def wait_fresh(
        self, max_age_s: float = 1.0, *, wait_s: float = WAIT_S, strict: bool = False
    ) -> Freshness:
        """``fresh``, blocking."""
        return self._done(fresh(max_age_s, wait_s, strict))

    def _done(self, exchange: Exchange[T]) -> T:
        return self._links.block(exchange)

    def _read_table(self) -> NoReturn:
        raise AttributeError("a replicated table is not read whole")

    def _update_table(self, updater: Callable[[dict[int, Mapping[str, Any]]], None]) -> NoReturn:
        raise AttributeError("a replicated table is not written whole")


class AwaitedTable:
    """``Table.aio``: every call with an ``await`` before it; ``async for document in rooms.aio``."""

    def __init__(self, links: Links, questions: Questions) -> None:
        self._links = links
        self._questions = questions

    @property
    def name(self) -> str:
        return self._questions.table

    async def all(self) -> list[Document]:
        return await self._links.wait(self._questions.all())

    async def search(self, cond: QueryLike) -> list[Document]:
        return await self._links.wait(self._questions.search(cond))

    @overload
    async def get(self, cond: QueryLike) -> Document | None: ...
    @overload
    async def get(self, cond: QueryLike | None = ..., *, doc_id: int) -> Document | None: ...
    @overload
    async def get(self, cond: QueryLike | None = ..., *, doc_ids: Iterable[int]) -> list[Document]: ...
    async def get(
        self,
        cond: QueryLike | None = None,
        doc_id: int | None = None,
        doc_ids: Iterable[int] | None = None,
    ) -> Document | list[Document] | None:
        return await self._links.wait(self._questions.get(cond, doc_id, doc_ids))

    async def contains(self, cond: QueryLike | None = None, doc_id: int | None = None) -> bool:
        return await self._links.wait(self._questions.contains(cond, doc_id))

    async def count(self, cond: QueryLike | None = None) -> int:
        return await self._links.wait(self._questions.count(cond))

    async def __aiter__(self) -> AsyncIterator[Document]:
        after: int | None = None
        while True:
            page, after = await self._links.wait(self._questions.page(after))
            for document in page:
                yield document
            if after is None:
                return

    async def insert(self, document: Mapping[str, Any]) -> int:
        return await self._links.wait(self._questions.insert(document))

    async def insert_multiple(self, documents: Iterable[Mapping[str, Any]]) -> list[int]:
        return await self._links.wait(self._questions.insert_multiple(documents))

    async def update(
        self,
        fields: Fields | Rewriting,
        cond: QueryLike | None = None,
        doc_ids: Iterable[int] | None = None,
    ) -> list[int]:
        return await self._links.wait(self._questions.update(fields, cond, doc_ids))

    async def update_multiple(self, updates: Iterable[tuple[Fields | Rewriting, QueryLike]]) -> list[int]:
        return await self._links.wait(self._questions.update_multiple(updates))

    async def upsert(self, document: Mapping[str, Any], cond: QueryLike | None = None) -> list[int]:
        return await self._links.wait(self._questions.upsert(document, cond))

    async def remove(self, cond: QueryLike | None = None, doc_ids: Iterable[int] | None = None) -> list[int]:
        return await self._links.wait(self._questions.remove(cond, doc_ids))

    async def truncate(self) -> None:
        await self._links.wait(self._questions.truncate())

    async def fresh(
        self, max_age_s: float = 1.0, *, wait_s: float = WAIT_S, strict: bool = False
    ) -> Freshness:
        return await self._links.wait(fresh(max_age_s, wait_s, strict))

    def watch(self, cond: QueryLike | None = None) -> AsyncIterator[Change]:
        return self._links.follow(Feed(self._questions, None if cond is None else Condition(cond)))
