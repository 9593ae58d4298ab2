"""A broker and links in memory: the contract of ``link`` without sockets.

Ships, because every fake does: the simulator and other people's tests stand on it. It behaves as a
real broker where that can be seen through a link: clean sessions, retained messages, wills, refused
subscriptions, a client id taken over, a receiver whose inbox is full. It can also be told to misbehave
(``lose``, ``cut``, ``stop``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from edge_node.transport.inbox import Inbox
from edge_node.transport.link import LINK_DOWN, PAYLOAD_BYTES_MAX, Delivery, LinkDown, LinkUp, Sent
from security.errors import BadInput, Refused, Unavailable

BACKLOG_MAX: Final = 4096  # deliveries kept for one receiver whose inbox is full; then lost, as at any broker
RETRY_S: Final = 0.01


def _anyone(client_id: str, topic: str) -> bool:
    return bool(client_id) and bool(topic)


def _never(client_id: str, topic: str, payload: bytes) -> bool:
    return False


class MemoryBroker:
    """`may_write`, `may_read` (client id, topic or filter) and `lose` (client id, topic, payload) decide."""

    def __init__(
        self,
        *,
        may_write: Callable[[str, str], bool] = _anyone,
        may_read: Callable[[str, str], bool] = _anyone,
        lose: Callable[[str, str, bytes], bool] = _never,
    ) -> None:
        self.may_write = may_write
        self.may_read = may_read
        self.lose = lose
        self.running = True
        self.retained: dict[str, bytes] = {}
        self._links: dict[str, MemoryLink] = {}

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        """As kill -9 of a broker: no will is sent, retained messages are gone, every link goes down."""
        self.running = False
        self.retained.clear()
        for client_id in sorted(self._links):
            self._links.pop(client_id)._lost("broker stopped")

    def cut(self, client_id: str) -> None:
        """As a killed client or a dead network: the will is sent, the link goes down and comes back."""
        link = self._links.pop(client_id, None)
        if link is not None:
            self._bequeath(link)
            link._lost("connection lost")

    def _attach(self, link: MemoryLink) -> None:
        self.cut(link.client_id)
        self._links[link.client_id] = link

    def _detach(self, link: MemoryLink) -> None:
        if self._links.get(link.client_id) is link:
            del self._links[link.client_id]

    def _bequeath(self, link: MemoryLink) -> None:
        if link.will is not None and self.may_write(link.client_id, link.will):
            self._publish(link.client_id, link.will, b"", retain=False)

    def _publish(self, client_id: str, topic: str, payload: bytes, *, retain: bool) -> None:
        """A denied or lost message looks like a taken one: MQTT 3.1.1 has no reason to give."""
        if not self.may_write(client_id, topic) or self.lose(client_id, topic, payload):
            return
        if retain:
            if payload:
                self.retained[topic] = payload
            else:
                self.retained.pop(topic, None)
        for reader in sorted(self._links):
            self._links[reader]._offer(Delivery(topic, payload, False))


class MemoryLink:
    """`will` is the topic of an empty last will. See `link.Link` for the contract."""

    def __init__(
        self,
        broker: MemoryBroker,
        client_id: str,
        inbox: Inbox,
        *,
        will: str | None = None,
        queue_max: int = 256,
    ) -> None:
        self.client_id = client_id
        self.will = will
        self._broker = broker
        self._inbox = inbox
        self._queue_max = queue_max
        self._queue: deque[tuple[int, str, bytes, bool, int]] = deque()
        self.handed = 0
        self._topics: dict[str, None] = {}
        self._standing: set[str] = set()
        self._backlog: deque[Delivery] = deque()
        self._number = 0
        self._up = False
        self._changed: asyncio.Future[None] | None = None
        self._reason = ""
        self._told = ""

    @property
    def up(self) -> bool:
        return self._up

    @property
    def untaken(self) -> int:
        return sum(qos for *_, qos in self._queue)

    def rebuild(self, reason: str) -> None:
        if self._up:
            self._broker._detach(self)
            self._lost(reason)

    def send(self, token: int, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        if not self._up:
            raise Unavailable(LINK_DOWN, retry_after_s=RETRY_S)
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise BadInput(f"payload of {len(payload)} bytes, a link carries {PAYLOAD_BYTES_MAX}")
        if len(self._queue) >= self._queue_max:
            raise Refused("link queue full")
        if not self._queue:
            asyncio.get_running_loop().call_soon(self._flush)
        self._queue.append((token, topic, payload, retain, qos))
        self.handed += qos

    def flush(self) -> None:
        """Nothing is faster here than the loop's next turn."""

    def subscribe(self, topics: list[str]) -> None:
        self._topics.update(dict.fromkeys(topics))
        self._nudge()

    def unsubscribe(self, topics: list[str]) -> None:
        for topic in topics:
            self._topics.pop(topic, None)
        self._nudge()

    async def run(self) -> None:
        self._inbox.watch(self._pause, self._resume)
        try:
            while True:
                await self._connected()
                await asyncio.sleep(RETRY_S)
        finally:
            self._flush()
            self._broker._detach(self)
            self._lost("stopped")
            self._inbox.unwatch(self._pause, self._resume)

    async def _connected(self) -> None:
        if not self._broker.running:
            self._down("broker unreachable")
            return
        self._reason = ""
        self._standing.clear()
        self._broker._attach(self)
        while not self._reason:
            self._standing.intersection_update(self._topics)
            for topic in [t for t in self._topics if t not in self._standing]:
                if not self._broker.may_read(self.client_id, topic):
                    self._broker._detach(self)
                    self._lost(f"subscription refused: {topic}")
                    return
                self._standing.add(topic)
                for name, payload in sorted(self._broker.retained.items()):
                    if _matches(topic, name):
                        self._offer(Delivery(name, payload, True))
            if not self._up:
                self._up = True
                self._told = ""
                self._number += 1
                self._inbox.put_local(LinkUp(self._number))
            self._changed = asyncio.get_running_loop().create_future()
            await self._changed

    def _offer(self, delivery: Delivery) -> None:
        if not any(_matches(topic, delivery.topic) for topic in self._standing):
            return
        if self._inbox.room > 0 and not self._backlog:
            self._inbox.put_nowait(delivery)
        elif len(self._backlog) < BACKLOG_MAX:
            self._backlog.append(delivery)

    def _flush(self) -> None:
        while self._queue and self._up:
            token, topic, payload, retain, _ = self._queue.popleft()
            self._broker._publish(self.client_id, topic, payload, retain=retain)
            if token:
                self._inbox.put_local(Sent(token))

    def _pause(self) -> None:
        """Nothing to stop: `_offer` looks at the room itself."""

    def _resume(self) -> None:
        while self._backlog and self._inbox.room > 0:
            self._inbox.put_nowait(self._backlog.popleft())

    def _lost(self, reason: str) -> None:
        """Told by the broker: the session and all that was queued in it are gone."""
        for token, *_ in self._queue:
            if token:
                self._inbox.put_local(Sent(token, LINK_DOWN))
        self._queue.clear()
        self._backlog.clear()
        self._standing.clear()
        self._reason = reason
        self._down(reason)
        self._nudge()

    def _down(self, reason: str) -> None:
        if self._up or reason != self._told:
            self._inbox.put_local(LinkDown(reason))
        self._up = False
        self._told = reason

    def _nudge(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)


def _matches(pattern: str, topic: str) -> bool:
    """MQTT's own filter match; every name here is ours, so `$` topics need no rule."""
    wanted, names = pattern.split("/"), topic.split("/")
    for at, level in enumerate(wanted):
        if level == "#":
            return True
        if at >= len(names) or level not in ("+", names[at]):
            return False
    return len(wanted) == len(names)
