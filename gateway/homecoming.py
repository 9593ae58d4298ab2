"""Homecoming: the shell around ``restoration``, for a gateway whose home came out of a backup.

    keys/restored ─► hold the keeper ─► members come, are asked, show their rosters ─► release ─► written down

The record is written after the new roster is on disk: killed in between, the gateway asks once more and steps
once more, which costs numbers and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

from edge_node.clock import Clock
from gateway.restoration import (
    RECORD,
    STEP,
    Ask,
    Came,
    Effect,
    Event,
    Members,
    Restoration,
    Restored,
    Settle,
    Settled,
    Shown,
    Went,
)
from gateway.roster_keeper import RosterKeeper
from security.errors import EdgeweaveError, ProtocolViolation
from security.identity import GATEWAY
from security.keystore import KeyStore
from security.roster import Roster, open_roster

log = logging.getLogger(__name__)

RETRY_S: Final = 5.0
"""Between tries to sign again while the disk refuses."""


class Homecoming:
    """``begun`` by the house before its keeper opens; its task is ``run``."""

    def __init__(
        self,
        record: Restored,
        keystore: KeyStore,
        keeper: RosterKeeper,
        clock: Clock,
        ask: Callable[[str], None],
    ) -> None:
        """``ask(peer)`` has the agent ask that member for its roster."""
        self._core = Restoration(record)
        self._keystore = keystore
        self._keeper = keeper
        self._clock = clock
        self._ask = ask
        self._moved = asyncio.Event()
        self._settled = asyncio.Event()
        self._why = ""
        if self._core.over:
            self._settled.set()

    @staticmethod
    def record_of(keystore: KeyStore) -> Restored | None:
        """None: this home never was a backup. A damaged record counts as a restoration of unknown age."""
        data = keystore.read(RECORD)
        if data is None:
            return None
        record = Restored.decode(data)
        if record is None:
            log.error("the record of a restoration is damaged: members are asked as after a restore")
            return Restored(0, 0, 0)
        return record

    @property
    def record(self) -> Restored:
        return self._core.record

    @property
    def over(self) -> bool:
        return self._settled.is_set()

    def status(self) -> dict[str, Any]:
        record = self.record
        return {
            "told": record.told,
            "backup_roster": record.backup_version,
            "backup_at_ms": record.backup_s * 1000,
            "learned_roster": record.learned_version,
            "learned_from": record.learned_from,
            "settled": bool(record.settled_s),
            "settled_why": record.settled_why,
            "not_heard": self._core.unheard,
        }

    # ── what the house tells ──────────────────────────────────────────────────────────────────────

    def roster_changed(self, roster: Roster) -> None:
        ids = frozenset(m.id for m in roster.members if m.status == "active" and m.id != GATEWAY)
        self._feed(Members(ids))

    def peer_changed(self, peer: str, up: bool) -> None:
        self._feed(Came(peer) if up else Went(peer))

    def shown(self, peer: str, signed: bytes) -> None:
        """A member answered with the roster that it holds; what verifies and is newer has been taken."""
        if self._core.over:
            return
        try:
            version = open_roster(signed, root_spki_sha256=self._keeper.current.mesh_id).version
        except ProtocolViolation:
            return  # counted by the agent, which saw it too
        self._feed(Shown(peer, version))

    async def settle(self) -> None:
        """Go on without the members that were not heard."""
        self._feed(Settle())
        await self._settled.wait()

    def _feed(self, event: Event) -> None:
        self._perform(self._core.handle(self._clock.now_ns(), event))
        self._moved.set()

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Ask(peer):
                    self._ask(peer)
                case Settled(why):
                    self._why = why

    # ── its task ──────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Until it is settled."""
        if self.over:
            return
        log.warning(self.record.told)
        while not self._core.over:
            self._moved.clear()
            due_ns = self._core.deadline_ns()
            wait_s = None if due_ns is None else max(0.0, (due_ns - self._clock.now_ns()) / 1e9)
            try:
                async with asyncio.timeout(wait_s):
                    await self._moved.wait()
            except TimeoutError:
                self._perform(self._core.tick(self._clock.now_ns()))
        await self._sign_again()

    async def _sign_again(self) -> None:
        held = self._keeper.current.version
        if held > max(self.record.learned_version, self.record.backup_version):  # not in a session
            how = "the broker's retained message or the joining port"
            self._core.record = replace(self.record, learned_version=held, learned_from=how)
        await self._until_done(lambda: self._keeper.release(step=STEP))
        done = replace(self.record, settled_s=self._clock.wall_ms() // 1000, settled_why=self._why)
        await self._until_done(lambda: asyncio.to_thread(self._keystore.write, RECORD, done.encode()))
        self._core.record = done
        self._settled.set()
        log.warning(done.told, extra={"cause": self._why, "version": self._keeper.current.version})

    async def _until_done(self, step: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await step()
            except EdgeweaveError as error:
                log.error("the restored gateway cannot sign yet", extra={"cause": str(error)})
                await asyncio.sleep(RETRY_S)
            else:
                return
