"""An operation on the tables as a conversation: it yields what it asks, and is sent what was answered.

    def count(table):                                    # written once …
        answer = yield Ask("state.count", {"table": table})
        return answer["count"]

    carried_out(count("rooms"), call)                    # … blocks, as TinyDB does
    await awaited(count("rooms"), call)                  # … or waits in a loop

Errors of ours go into the conversation, so an operation may make up its mind about them. Not here: sockets
(``blocking``, ``edge_node.client``), nor what the answers mean (``questions``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from security.errors import EdgeweaveError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of the control socket, by name."""

    method: str
    params: dict[str, Any]


Exchange = Generator[Ask, Any, T]
Call = Callable[[str, dict[str, Any]], Any]
AwaitedCall = Callable[[str, dict[str, Any]], Awaitable[Any]]


def carried_out(exchange: Exchange[T], call: Call) -> T:
    """Its result; blocks as long as *call* does. Raises: what the exchange raises, or leaves standing."""
    try:
        ask = next(exchange)
        while True:
            try:
                answer = call(ask.method, ask.params)
            except EdgeweaveError as error:
                ask = exchange.throw(error)
            else:
                ask = exchange.send(answer)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # StopIteration is not generic


async def awaited(exchange: Exchange[T], call: AwaitedCall) -> T:
    """The same in a loop. Cancelled: a request that is on its way is still carried out by the daemon."""
    try:
        ask = next(exchange)
        while True:
            try:
                answer = await call(ask.method, ask.params)
            except EdgeweaveError as error:
                ask = exchange.throw(error)
            else:
                ask = exchange.send(answer)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
