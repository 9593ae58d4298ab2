"""Counters and sets: what many may move at once without any of it being lost.

    doors = mesh.state.counter("door_openings"); doors.add(1)
    tags = mesh.state.set("maintenance"); tags.add("pump-3"); "pump-3" in tags

A counter adds up what everybody added. An element is in a set unless somebody who saw it there took it out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from edge_node.state.exchange import Ask, Exchange
from edge_node.state.links import Links
from edge_node.state.spelling import NotPlain, check_text
from edge_node.store.batch import AMOUNT_MAX, KEY_BYTES_MAX
from security.errors import BadInput


class Counter:
    """Made by ``State.counter``."""

    def __init__(self, links: Links, name: str) -> None:
        self.name = name
        self._links = links
        self.aio = AwaitedCounter(links, name)

    def __repr__(self) -> str:
        return f"<Counter name={self.name!r}>"

    def add(self, amount: int = 1) -> int:
        """Move it; less than nothing takes off. Returns: its value as this member knows it."""
        return self._links.block(_moved(self.name, amount))

    def value(self) -> int:
        return self._links.block(_value(self.name))


class AwaitedCounter:
    def __init__(self, links: Links, name: str) -> None:
        self.name = name
        self._links = links

    async def add(self, amount: int = 1) -> int:
        return await self._links.wait(_moved(self.name, amount))

    async def value(self) -> int:
        return await self._links.wait(_value(self.name))


class Set:
    """Made by ``State.set``. Elements are text of at most 256 bytes, and come in order."""

    def __init__(self, links: Links, name: str) -> None:
        self.name = name
        self._links = links
        self.aio = AwaitedSet(links, name)

    def __repr__(self) -> str:
        return f"<Set name={self.name!r}>"

    def add(self, *elements: str) -> None:
        self._links.block(_changed(self.name, "add", elements))

    def discard(self, *elements: str) -> None:
        self._links.block(_changed(self.name, "discard", elements))

    def elements(self) -> frozenset[str]:
        return frozenset(self._links.block(_elements(self.name)))

    def __contains__(self, element: object) -> bool:
        return element in self.elements()

    def __iter__(self) -> Iterator[str]:
        return iter(self._links.block(_elements(self.name)))

    def __len__(self) -> int:
        return len(self._links.block(_elements(self.name)))


class AwaitedSet:
    def __init__(self, links: Links, name: str) -> None:
        self.name = name
        self._links = links

    async def add(self, *elements: str) -> None:
        await self._links.wait(_changed(self.name, "add", elements))

    async def discard(self, *elements: str) -> None:
        await self._links.wait(_changed(self.name, "discard", elements))

    async def elements(self) -> frozenset[str]:
        return frozenset(await self._links.wait(_elements(self.name)))

    async def contains(self, element: object) -> bool:
        return element in await self.elements()

    async def __aiter__(self) -> AsyncIterator[str]:
        for element in await self._links.wait(_elements(self.name)):
            yield element


def _moved(name: str, amount: int) -> Exchange[int]:
    if type(amount) is not int:
        raise NotPlain(f"a counter moves by whole numbers, not {amount!r}", fix="give an int")
    if abs(amount) > AMOUNT_MAX:
        raise BadInput(f"a counter moves by at most {AMOUNT_MAX} at a time", fix="use smaller steps")
    answer = yield Ask("state.counter", {"name": name, "add": amount})
    return int(answer["value"])


def _value(name: str) -> Exchange[int]:
    answer = yield Ask("state.counter", {"name": name})
    return int(answer["value"])


def _changed(name: str, what: str, elements: tuple[str, ...]) -> Exchange[None]:
    for element in elements:
        check_text("an element", element, KEY_BYTES_MAX)
    if elements:
        yield Ask("state.set", {"name": name, what: list(elements), "limit": 1})


def _elements(name: str) -> Exchange[list[str]]:
    """In order; each page is of one moment."""
    params: dict[str, Any] = {"name": name}
    found: list[str] = []
    while True:
        answer = yield Ask("state.set", params)
        found += answer["elements"]
        if not answer["more"]:
            return found
        params["after"] = found[-1]
