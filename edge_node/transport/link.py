"""Link: what the rest of a node knows about the broker.

A link carries opaque payloads between topics. It may lose, delay or double them; it never reorders
its own promises: every event below reaches the one inbox that the link was built with. What is sealed
inside, who acknowledges and who sends again is not here (``outbox``, ``channel``); how MQTT does it
is in ``mqtt``, how a test does it in ``memory``. One contract test runs over all of them.

    send(token, …)  ──►  Sent(token, refused)        exactly one for each token that is not 0
    subscribe(…)    ──►  LinkUp(number)              told only once every subscription stands
                         Delivery(…)                 may precede LinkUp: the broker serves at once
                         LinkDown(reason)            tokens still open are told Sent(…, "link down") first
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from edge_node.transport.inbox import Inbox

__all__ = [
    "LINK_DOWN",
    "PAYLOAD_BYTES_MAX",
    "Delivery",
    "Inbox",
    "Link",
    "LinkDown",
    "LinkEvent",
    "LinkUp",
    "Sent",
]

# A parcel is at most 256 KiB when opened; envelope and head fit into the rest. Brokers cut a client
# that sends more, so a link refuses it first.
PAYLOAD_BYTES_MAX: Final = 257 * 1024
LINK_DOWN: Final = "link down"


class Delivery(msgspec.Struct, frozen=True):
    """A message arrived. `retained`: it lay at the broker before we subscribed."""

    topic: str
    payload: bytes
    retained: bool = False


class LinkUp(msgspec.Struct, frozen=True):
    """Connected, and every subscription stands. `number` counts connections of this link from 1."""

    number: int


class LinkDown(msgspec.Struct, frozen=True):
    """Not connected any more, or (told once a reason) not able to connect."""

    reason: str


class Sent(msgspec.Struct, frozen=True):
    """The broker has taken the message (QoS 1) or the socket has (QoS 0); else `refused` says why not.

    It never means that the receiver has it: that is the application's acknowledgement.
    """

    token: int
    refused: str | None = None


LinkEvent = Delivery | LinkUp | LinkDown | Sent


class Link(Protocol):
    @property
    def up(self) -> bool: ...

    @property
    def handed(self) -> int:
        """Messages of QoS 1 that `send` has taken since the start."""
        ...

    @property
    def untaken(self) -> int:
        """How many of them, the last ones, the broker has not taken; 0 while the link is down."""
        ...

    def send(self, token: int, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Hand a message over without waiting. Token 0: no Sent is wanted.

        Raises: Refused: "link queue full", nothing was taken. Unavailable: the link is down.
            BadInput: the payload is larger than PAYLOAD_BYTES_MAX.
        """
        ...

    def flush(self) -> None:
        """The caller's turn ends: write what was sent in it now. Without it, it leaves a loop turn later."""
        ...

    def rebuild(self, reason: str) -> None:
        """Give this connection up, as if it had broken, and make another; nothing while the link is down."""
        ...

    def subscribe(self, topics: list[str]) -> None:
        """Remembered, and done again after every reconnect before LinkUp is told.

        A refused subscription takes the link down; it is tried again with back-off.
        """
        ...

    def unsubscribe(self, topics: list[str]) -> None:
        """Forget these subscriptions; what is on its way may still be delivered."""
        ...

    async def run(self) -> None:
        """Connect and stay connected until cancelled; cancelling says goodbye, so no will is sent."""
        ...
