"""The gateway's duties towards the mesh's group: it makes the epochs that every member's presence is sealed
under. The shell of ``gateway.epochs``; the agent calls it from its loop.

    started, roster changed, a session, an epoch shown, a day over ─► EpochKeeper ─► adopt, keep, tell
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from edge_node.node import Node
from edge_node.transport.groupcast import GROUP, Tell
from edge_node.wire.messages import GroupKeys
from gateway import epochs
from security.authority import Authority
from security.errors import EdgeweaveError
from security.group import Epoch
from security.roster import Roster

log = logging.getLogger(__name__)


class Groups:
    """Made by the house, attached by the agent."""

    def __init__(self, authority: Authority, *, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._keeper = epochs.EpochKeeper(
            sign=lambda epoch, secret, issued_s: authority.sign_grant(
                group=GROUP, epoch=epoch, secret=secret, issued_s=issued_s
            ),
            entropy=entropy,
        )
        self._agent: Node | None = None
        self._started = False

    def attach(self, node: Node) -> None:
        self._agent = node

    def roster_in_force(self, now_ns: int, wall_ms: int, roster: Roster) -> None:
        """The members as they are now; the first call is the start."""
        assert self._agent is not None
        if self._started:
            self._carry_out(now_ns, wall_ms, self._keeper.handle(now_ns, epochs.RosterChanged(roster)))
            return
        self._started = True
        held = self._agent.presence.groupcast.current
        settled = self._agent.keystore.settled_roster()
        started = epochs.Started(wall_ms // 1000, held, settled, roster)
        self._carry_out(now_ns, wall_ms, self._keeper.handle(now_ns, started))

    def session(self, now_ns: int, wall_ms: int, peer: str, there: bool) -> None:
        event = epochs.MemberMet(peer) if there else epochs.MemberLost(peer)
        self._carry_out(now_ns, wall_ms, self._keeper.handle(now_ns, event))

    def shown(self, now_ns: int, wall_ms: int, epoch: Epoch) -> None:
        """A member handed us an epoch above ours: this home was restored from an older copy."""
        log.warning("a member showed a group epoch above ours", extra={"epoch": epoch.number})
        self._carry_out(now_ns, wall_ms, self._keeper.handle(now_ns, epochs.Shown(epoch)))

    def tick(self, now_ns: int, wall_ms: int) -> None:
        self._carry_out(now_ns, wall_ms, self._keeper.tick(now_ns))

    def deadline_ns(self) -> int | None:
        return self._keeper.deadline_ns()

    def _carry_out(self, now_ns: int, wall_ms: int, effects: list[epochs.Effect]) -> None:
        agent = self._agent
        assert agent is not None
        for effect in effects:
            match effect:
                case epochs.NewEpoch(epoch, keys, reason):
                    log.info("new group epoch", extra={"epoch": epoch, "cause": reason})
                    agent.keys_came(now_ns, wall_ms, agent.node_id, keys)  # adopted; kept, if the disk can
                    kept = self._keeper.handle(now_ns, epochs.Kept(epoch, self._is_kept(keys)))
                    self._carry_out(now_ns, wall_ms, kept)
                case epochs.Settled(version):
                    try:
                        agent.keystore.save_settled_roster(version)
                    except EdgeweaveError as error:  # the next start rotates once more, which harms nobody
                        log.error("the group's roster could not be noted", extra={"cause": str(error)})
                case Tell(peer, message):
                    agent.tell(now_ns, peer, message)

    def _is_kept(self, keys: GroupKeys) -> bool:
        """Is this epoch on the disk? If the disk refused, the log has said so."""
        assert self._agent is not None
        try:
            return keys.grant in (self._agent.keystore.group_secrets() or b"")
        except EdgeweaveError:
            return False
