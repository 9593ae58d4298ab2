"""A node's twin: what it should be set to, and what it says it is; both sides may write, field by field.

    twin = mesh.twin("pi-3")
    twin.desire(setpoint_c=21.5, fan="low")      # whoever is in charge, here or there, on line or off
    twin.report(setpoint_c=20.0)                 # pi-3
    twin.delta()                                 # {"setpoint_c": 21.5, "fan": "low"}: what still differs

Two documents with the node as their key, in the tables ``twins.desired`` and ``twins.reported``. A twin is
watched like a table; a field that two desired at once is a conflict like any other (``State.conflicts``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from tinydb import where

from edge_node.state.changes import Change, Feed
from edge_node.state.exchange import Exchange
from edge_node.state.questions import Condition
from edge_node.state.spelling import check_text
from edge_node.store.batch import KEY_BYTES_MAX
from security.errors import BadInput

if TYPE_CHECKING:
    from tinydb.queries import QueryLike

    from edge_node.state.links import Links
    from edge_node.state.table import Table

DESIRED: Final = "twins.desired"
REPORTED: Final = "twins.reported"
KEY: Final = "node"


class TwinExchanges:
    """Its operations, once for both faces."""

    def __init__(self, node: str, desired: Table, reported: Table) -> None:
        check_text("a node's name", node, KEY_BYTES_MAX)
        self.node = node
        self.mine: QueryLike = where(KEY) == node
        self.desired = desired._questions
        self.reported = reported._questions

    def read(self, reported: bool) -> Exchange[dict[str, Any]]:
        side = self.reported if reported else self.desired
        found = yield from side.matching(Condition(self.mine), limit=1)
        return {name: value for name, value in found[0].fields.items() if name != KEY} if found else {}

    def write(self, reported: bool, fields: dict[str, Any]) -> Exchange[None]:
        if KEY in fields:
            raise BadInput(f"{KEY!r} is the twin's name, no setting", fix="name the setting otherwise")
        if fields:
            side = self.reported if reported else self.desired
            yield from side.upsert({KEY: self.node, **fields}, None)

    def withdraw(self, names: tuple[str, ...]) -> Exchange[None]:
        gone = {name for name in names if name != KEY}

        def without(fields: MutableMapping[str, Any]) -> None:
            for name in gone & fields.keys():
                del fields[name]

        yield from self.desired.update(without, self.mine, None)

    def delta(self) -> Exchange[dict[str, Any]]:
        desired = yield from self.read(False)
        reported = yield from self.read(True)
        return {
            name: value
            for name, value in desired.items()
            if name not in reported or not same(value, reported[name])
        }


class Twin:
    """Made by ``Mesh.twin`` and ``State.twin``."""

    def __init__(self, links: Links, exchanges: TwinExchanges) -> None:
        self._links = links
        self._exchanges = exchanges
        self.aio = AwaitedTwin(links, exchanges)

    def __repr__(self) -> str:
        return f"<Twin node={self.node!r}>"

    @property
    def node(self) -> str:
        return self._exchanges.node

    @property
    def desired(self) -> dict[str, Any]:
        """What it should be set to, by field."""
        return self._links.block(self._exchanges.read(False))

    @property
    def reported(self) -> dict[str, Any]:
        """What it says it is."""
        return self._links.block(self._exchanges.read(True))

    def desire(self, **fields: Any) -> None:
        """Set these fields of what is desired, leave the others."""
        self._links.block(self._exchanges.write(False, fields))

    def report(self, **fields: Any) -> None:
        """The same of what is reported."""
        self._links.block(self._exchanges.write(True, fields))

    def withdraw(self, *names: str) -> None:
        """Desire nothing of these fields any more."""
        self._links.block(self._exchanges.withdraw(names))

    def delta(self) -> dict[str, Any]:
        """The desired fields that what is reported does not equal. 1 equals 1.0; true does not equal 1."""
        return self._links.block(self._exchanges.delta())

    def watch(self) -> AsyncIterator[Change]:
        """Each change of either side; ``table`` tells which."""
        return self.aio.watch()


class AwaitedTwin:
    """``Twin.aio``; ``desired`` and ``reported`` are calls here."""

    def __init__(self, links: Links, exchanges: TwinExchanges) -> None:
        self._links = links
        self._exchanges = exchanges

    @property
    def node(self) -> str:
        return self._exchanges.node

    async def desired(self) -> dict[str, Any]:
        return await self._links.wait(self._exchanges.read(False))

    async def reported(self) -> dict[str, Any]:
        return await self._links.wait(self._exchanges.read(True))

    async def desire(self, **fields: Any) -> None:
        await self._links.wait(self._exchanges.write(False, fields))

    async def report(self, **fields: Any) -> None:
        await self._links.wait(self._exchanges.write(True, fields))

    async def withdraw(self, *names: str) -> None:
        await self._links.wait(self._exchanges.withdraw(names))

    async def delta(self) -> dict[str, Any]:
        return await self._links.wait(self._exchanges.delta())

    async def watch(self) -> AsyncIterator[Change]:
        condition = Condition(self._exchanges.mine)
        sides = (self._exchanges.desired, self._exchanges.reported)
        feeds = [self._links.follow(Feed(side, condition)) for side in sides]
        waiting = {asyncio.create_task(_next(feed), name="twin.watch"): feed for feed in feeds}
        try:
            while True:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=lambda task: feeds.index(waiting[task])):
                    feed = waiting.pop(task)
                    change = task.result()
                    waiting[asyncio.create_task(_next(feed), name="twin.watch")] = feed
                    yield change
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


async def _next(feed: AsyncIterator[Change]) -> Change:
    return await anext(feed)


def same(one: object, other: object) -> bool:
    """As JSON has it: a number is its value, true is no number."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    return one == other
