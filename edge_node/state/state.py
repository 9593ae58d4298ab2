"""The door: ``mesh.state``, or ``State.open()`` for a program without a loop.

    with State.open() as state:                       # this machine's daemon
        rooms = state.table("rooms", key="id")

Tables, counters, sets and twins by name. What a table is (its key, its writers, its indexes) is said once by
whoever names it so first; saying otherwise is an error of the first call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, NamedTuple

from edge_node.home import Home, chosen_home
from edge_node.state.blocking import BlockingConnection
from edge_node.state.collected import Counter, Set
from edge_node.state.exchange import Ask, AwaitedCall, Call, Exchange
from edge_node.state.links import Links
from edge_node.state.spelling import check_text, read, spelt_value
from edge_node.state.table import Table
from edge_node.state.twin import DESIRED, KEY, REPORTED, Twin, TwinExchanges
from edge_node.store.batch import FIELD_BYTES_MAX, TABLE_BYTES_MAX
from security.errors import BadInput

CONFLICTS_MAX = 1000


@dataclass(frozen=True, slots=True)
class TableInfo:
    """One of `State.tables`. kind: "documents", "set" or "counter"; conflicts: fields with rivals."""

    name: str
    kind: str
    count: int
    key: str | None
    writers: tuple[str, ...] | None
    conflicts: int


class Rival(NamedTuple):
    """One of several values that were written without knowledge of each other.

    deleted: the field was taken out, *value* is None. at_ms: by its writer's clock (Unix time).
    wins: it is what readers see meanwhile.
    """

    value: Any
    deleted: bool
    node: str
    at_ms: int
    wins: bool


class Conflict(NamedTuple):
    """A field with more than one value, until somebody who has seen them writes it. key: for people."""

    table: str
    id: int
    key: str
    field: str
    values: tuple[Rival, ...]


class State:
    """All that replicates, as one member knows it."""

    table_class: ClassVar[type[Table]] = Table
    """As TinyDB's: what `table` makes."""

    def __init__(
        self,
        call: Call | None,
        awaited_call: AwaitedCall | None = None,
        *,
        close: Callable[[], None] | None = None,
    ) -> None:
        """Args: call, awaited_call: the daemon's methods. close: ends what *call* stands on."""
        self._links = Links(call, awaited_call)
        self._close = close
        self._tables: dict[str, tuple[Table, dict[str, Any]]] = {}
        self.aio = AwaitedState(self._links)

    @classmethod
    def open(cls, home: str | os.PathLike[str] | Home | None = None) -> State:
        """Of this machine's daemon, blocking only. Connects at the first call.

        Args: home: as for ``Mesh.open``.
        """
        return cls.beside(home if isinstance(home, Home) else chosen_home(home), None)

    @classmethod
    def beside(cls, home: Home, awaited_call: AwaitedCall | None) -> State:
        """What awaits goes over a connection that somebody else has; what blocks over one of its own."""
        connection = BlockingConnection(home)
        return cls(connection.call, awaited_call, close=connection.close)

    def __enter__(self) -> State:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the blocking connection; the next call would make another."""
        if self._close is not None:
            self._close()

    def table(
        self,
        name: str,
        key: str | None = None,
        writers: Sequence[str] | None = None,
        indexes: Iterable[str] = (),
    ) -> Table:
        """A table of documents; the same object for the same name.

        Args:
            key: the field that is a document's identity; None: as declared, else ids are random.
            writers: nodes that may write; None: as declared, else everybody. Declared by the gateway only.
            indexes: fields that this member keeps an index of.
        Raises: BadInput: this program named it with another key or writers. Its first call: so did another.
        """
        check_text("a table's name", name, TABLE_BYTES_MAX)
        declaration: dict[str, Any] = {}
        if key is not None:
            check_text("a key", key, FIELD_BYTES_MAX)
            declaration["key"] = key
        if writers is not None:
            if isinstance(writers, str):
                raise BadInput(f"writers is the text {writers!r}", fix="give a list of node names")
            declaration["writers"] = sorted(writers)
        known = self._tables.get(name)
        if known is not None:
            table, before = known
            for what, value in declaration.items():
                if what in before and before[what] != value:
                    raise BadInput(
                        f"table {name!r} was named with another {what}: {before[what]!r}, now {value!r}",
                        fix="name it alike everywhere",
                    )
            if declaration.items() <= before.items() and set(indexes) <= set(before.get("indexes", ())):
                return table
            declaration = {**before, **declaration}
        wanted = sorted({*indexes, *declaration.get("indexes", ())})
        if wanted:
            declaration["indexes"] = wanted
        if known is not None:
            known[0]._questions.declare(declaration)
            table = known[0]
        else:
            table = self.table_class(self._links, name, declaration or None)
        self._tables[name] = (table, declaration)
        return table

    def counter(self, name: str) -> Counter:
        check_text("a counter's name", name, TABLE_BYTES_MAX)
        return Counter(self._links, name)

    def set(self, name: str) -> Set:
        check_text("a set's name", name, TABLE_BYTES_MAX)
        return Set(self._links, name)

    def twin(self, node: str) -> Twin:
        """See ``Mesh.twin``."""
        desired, reported = (self.table(name, key=KEY) for name in (DESIRED, REPORTED))
        return Twin(self._links, TwinExchanges(node, desired, reported))

    def tables(self) -> list[TableInfo]:
        """All tables, sets and counters that there are."""
        return self._links.block(_tables())

    def conflicts(self, table: str | None = None, *, limit: int = CONFLICTS_MAX) -> list[Conflict]:
        """Fields that were written at once by those who did not know of each other, with all values."""
        return self._links.block(_conflicts(table, limit))

    def resolve(self, conflict: Conflict, *value: Any) -> None:
        """Settle a conflict: the winner stays, or *value* takes its place.

        Raises: BadInput: there is none any more, or the value does not fit.
        """
        self._links.block(_resolved(conflict, value))


class AwaitedState:
    """``State.aio``."""

    def __init__(self, links: Links) -> None:
        self._links = links

    async def tables(self) -> list[TableInfo]:
        return await self._links.wait(_tables())

    async def conflicts(self, table: str | None = None, *, limit: int = CONFLICTS_MAX) -> list[Conflict]:
        return await self._links.wait(_conflicts(table, limit))

    async def resolve(self, conflict: Conflict, *value: Any) -> None:
        await self._links.wait(_resolved(conflict, value))


def _tables() -> Exchange[list[TableInfo]]:
    answer = yield Ask("state.tables", {})
    return [_info(row) for row in answer["tables"]]


def _info(row: Mapping[str, Any]) -> TableInfo:
    writers = row["writers"]
    return TableInfo(
        row["name"], row["kind"], row["count"], row["key"], None if writers is None else tuple(writers),
        row["conflicts"],
    )  # fmt: skip


def _conflicts(table: str | None, limit: int) -> Exchange[list[Conflict]]:
    params: dict[str, Any] = {"limit": limit}
    if table is not None:
        params["table"] = table
    answer = yield Ask("state.conflicts", params)
    return [
        Conflict(
            row["table"], row["id"], row["key"], row["field"],
            tuple(map(_rival, row["values"])),
        )
        for row in answer["conflicts"]
    ]  # fmt: skip


def _rival(row: Mapping[str, Any]) -> Rival:
    text = row["value"]
    return Rival(
        None if text is None else read(f'{{"":{text}}}')[""], text is None, row["node"], row["at_ms"],
        row["wins"],
    )  # fmt: skip


def _resolved(conflict: Conflict, value: tuple[Any, ...]) -> Exchange[None]:
    params: dict[str, Any] = {"table": conflict.table, "id": conflict.id, "field": conflict.field}
    if len(value) > 1:
        raise BadInput(f"{len(value)} values for one field", fix="give one, or none to keep the winner")
    if value:
        params["value"] = spelt_value(value[0], conflict.field)
    yield Ask("state.resolve", params)
