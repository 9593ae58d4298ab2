"""Resting: members that an operator has told to take no work of others, and telling them so.

    pause, drain, resume ─► on disk ─► told now, and again whenever that member's session is made anew

A node keeps its rest in memory only: after its restart it works until our session is made, a moment later.
A member that was told to work again while it was away is told when it comes. To the others a resting
member looks like one that drains: it says so with its load, and nobody offers it anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Container
from typing import Final

import msgspec

from security.keystore import KeyStore

log = logging.getLogger(__name__)

FILE: Final = "resting"
WORK: Final = "work"
MODES: Final = (WORK, "pause", "drain")


class Resting:
    """Args: tell: says a mode to a member, when there is a way to it."""

    def __init__(self, keystore: KeyStore, tell: Callable[[str, str], None]) -> None:
        self._keystore = keystore
        self._tell = tell
        self._turn = asyncio.Lock()
        self._modes: dict[str, str] = {}  # WORK: it may still believe that it rests
        kept = keystore.read(FILE)
        if kept is not None:
            try:
                self._modes = msgspec.json.decode(kept, type=dict[str, str])
            except msgspec.MsgspecError as error:
                log.error("it is forgotten who was told to rest", extra={"cause": str(error)})

    def mode_of(self, node: str) -> str:
        return self._modes.get(node, WORK)

    async def ask(self, node: str, mode: str, members: Container[str]) -> str:
        """On disk when this returns; who is not among *members* any more is forgotten.

        Returns: the mode before. Raises: Unavailable: the disk refuses.
        """
        assert mode in MODES
        async with self._turn:
            before = self.mode_of(node)
            if mode != before or node in self._modes:
                modes = {each: held for each, held in self._modes.items() if each in members}
                modes[node] = mode
                await asyncio.to_thread(self._keystore.write, FILE, msgspec.json.encode(modes))
                self._modes = modes
        self._tell(node, mode)
        return before

    def met(self, node: str) -> None:
        """A session with *node* was made: it may have been started anew, or missed what was said."""
        mode = self._modes.get(node)
        if mode is not None:
            self._tell(node, mode)
