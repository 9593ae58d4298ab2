"""Resting: members that an operator has told to take no work of others, and telling them so.

    pause, drain, resume ─► on disk ─► told now, and again whenever that member's session is made anew

Who asked, when and why goes along, so that `why` of the member can tell it.

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

from edge_node.wire.messages import Rest
from security.keystore import KeyStore

log = logging.getLogger(__name__)

FILE: Final = "resting"
WORK: Final = "work"
MODES: Final = (WORK, "pause", "drain")


class Wish(msgspec.Struct, frozen=True):
    """What an operator asked of one member, as it lies on disk."""

    mode: str
    by: str = ""
    reason: str = ""
    at_ms: int = 0


class Resting:
    """Args: tell: says a wish to a member, when there is a way to it."""

    def __init__(self, keystore: KeyStore, tell: Callable[[str, Rest], None]) -> None:
        self._keystore = keystore
        self._tell = tell
        self._turn = asyncio.Lock()
        self._wishes: dict[str, Wish] = {}  # WORK: it may still believe that it rests
        kept = keystore.read(FILE)
        if kept is not None:
            try:
                found = msgspec.json.decode(kept, type=dict[str, str | Wish])
                # A text is of a version that kept the mode alone.
                self._wishes = {
                    node: Wish(each) if isinstance(each, str) else each for node, each in found.items()
                }
            except msgspec.MsgspecError as error:
                log.error("it is forgotten who was told to rest", extra={"cause": str(error)})

    def mode_of(self, node: str) -> str:
        wish = self._wishes.get(node)
        return WORK if wish is None else wish.mode

    def reason_of(self, node: str) -> str:
        """Why it was last told to rest or to go on; "" if nobody said."""
        wish = self._wishes.get(node)
        return "" if wish is None else wish.reason

    async def ask(
        self, node: str, mode: str, members: Container[str], *, by: str = "", reason: str = "", at_ms: int = 0
    ) -> str:
        """On disk when this returns; who is not among *members* any more is forgotten.

        Returns: the mode before. Raises: Unavailable: the disk refuses.
        """
        assert mode in MODES
        async with self._turn:
            before = self.mode_of(node)
            wish = Wish(mode, by, reason, at_ms)
            if mode != before or node in self._wishes:
                wishes = {each: held for each, held in self._wishes.items() if each in members}
                wishes[node] = wish
                await asyncio.to_thread(self._keystore.write, FILE, msgspec.json.encode(wishes))
                self._wishes = wishes
        self._tell(node, _said(wish))
        return before

    def met(self, node: str) -> None:
        """A session with *node* was made: it may have been started anew, or missed what was said."""
        wish = self._wishes.get(node)
        if wish is not None:
            self._tell(node, _said(wish))


def _said(wish: Wish) -> Rest:
    return Rest(wish.mode, wish.by, wish.reason, wish.at_ms)
