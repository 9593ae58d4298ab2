"""The door list: who may connect to the broker, told to it after every roster, until it has taken it.

    roster changed ─► moved() ─► (who was removed hears of it first) ─► broker.set_members ─► told

The broker keeps the list over a restart of the gateway, and the gateway over one of the broker: a member
that was shut out stays out, whichever of the two comes back first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from security.errors import Unavailable
from security.identity import bearer
from security.roster import Roster

log = logging.getLogger(__name__)

FAREWELL_S: Final = 0.3
"""Between a removal and the cut: the roster that says so gets out first, so that an honest daemon can tell
its user. It counts against the promise that a revoked member is cut within 5 s."""
TELL_AGAIN_S: Final = 5.0
"""Between tries to tell the broker its members, while it or the disk refuses them."""


class Door(Protocol):
    """``gateway.broker.broker.Broker`` is one."""

    async def set_members(self, ids: list[str]) -> None: ...


def admitted(roster: Roster) -> list[str]:
    """Every active member, once for each of its keys: while it renews there are two."""
    return [bearer(m.id, k.spki_sha256) for m in roster.members if m.status == "active" for k in m.keys]


class DoorList:
    """Its task is `run`."""

    def __init__(self, door: Door, roster: Callable[[], Roster]) -> None:
        self._door = door
        self._roster = roster
        self._moved = asyncio.Event()
        self._taken = asyncio.Event()
        self._taken_version = 0
        self._taken_members: set[str] = set()

    def moved(self) -> None:
        """The roster is another one now."""
        self._moved.set()

    async def run(self) -> None:
        while True:
            await self._moved.wait()
            self._moved.clear()
            if self._taken_members - set(admitted(self._roster())):
                await asyncio.sleep(FAREWELL_S)
            try:
                await self.tell()
            except Unavailable as error:
                log.warning("the broker will learn of its members later", extra={"cause": str(error)})
                self._moved.set()
                await asyncio.sleep(TELL_AGAIN_S)

    async def tell(self) -> None:
        """Now. Raises: Unavailable: the broker does not take it; `run` goes on trying after ``moved``."""
        roster = self._roster()
        members = admitted(roster)
        await self._door.set_members(members)
        self._taken_version = max(self._taken_version, roster.version)
        self._taken_members = set(members)
        self._taken.set()

    async def told(self) -> None:
        """Until the broker has taken the members of the roster as it is now."""
        wanted = self._roster().version
        while self._taken_version < wanted:
            self._taken.clear()
            await self._taken.wait()
