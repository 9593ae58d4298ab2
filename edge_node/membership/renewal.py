"""Renewal: a node asks for new keys and a new certificate before the old ones end.

From a third of the certificate's lifetime on (10 of 30 days), so that a mesh outlives weeks without its
gateway; tried again every ten minutes while nobody answers. The roster lists both keys until the next
renewal, the old identity stays in the key store, and sessions accept either: a crash in between locks
nobody out. The protocol is `security.enrolment`, the conversation `edge_node.joining`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from edge_node.clock import Clock
from edge_node.discovery.sightings import Address
from security.certificates import believable_s, floor_s, renewal_due_s
from security.errors import EdgeweaveError, ProtocolViolation
from security.keystore import KeyStore, StoredIdentity
from security.roster import open_roster

log = logging.getLogger(__name__)

FIRST_LOOK_S: Final = 30.0
"""After the start: the broker and the work come first."""
LOOK_S: Final = 3600.0
RETRY_S: Final = 600.0
REST_S: Final = 24 * 3600.0
"""After a renewal, whatever the clock says: one that runs ahead would renew for ever."""


class Renewal:
    """Keeps one node's certificate young; its task is `run`."""

    def __init__(
        self,
        keystore: KeyStore,
        clock: Clock,
        *,
        gateways: Callable[[], list[Address]],
        mdns: str | None,
        on_renewed: Callable[[StoredIdentity, bytes], None],
    ) -> None:
        """``on_renewed`` gets the new identity and the signed roster that lists it, both on disk already."""
        self._keystore = keystore
        self._clock = clock
        self._gateways = gateways
        self._mdns = mdns
        self._on_renewed = on_renewed
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        pause_s = FIRST_LOOK_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = LOOK_S
            try:
                if await asyncio.to_thread(self._is_due):
                    await self.renew()
                    pause_s = REST_S
            except (EdgeweaveError, OSError) as error:
                log.warning("the certificate is due and was not renewed", extra={"cause": str(error)})
                pause_s = RETRY_S

    def _is_due(self) -> bool:
        identity = self._keystore.identity()
        return identity is not None and self._now_s() >= renewal_due_s(identity.leaf)

    def _now_s(self) -> int:
        """The wall clock, unless it is certainly wrong: on a board that woke up in 1970 nothing would ever be
        due. The gateway signs the roster anew every day, so while it lives that tells the day.
        """
        pin, signed, issued_s = self._keystore.root_spki_sha256(), self._keystore.roster(), 0
        if pin is not None and signed is not None:
            with contextlib.suppress(ProtocolViolation):  # damaged: said at the start
                issued_s = open_roster(signed, root_spki_sha256=pin).issued_s
        return believable_s(self._clock.wall_ms() // 1000, floor_s(self._keystore.floor_s(), issued_s))

    async def renew(self) -> StoredIdentity:
        """New keys now, due or not.

        Raises: Refused: revoked, or expired too long ago. Unavailable: no gateway answered.
        """
        from edge_node import joining  # only every ten days: it and what it needs take 2 MB

        async with self._turn:
            answer = await joining.renew(self._keystore, addresses=self._gateways(), mdns=self._mdns)
            identity = await asyncio.to_thread(self._keystore.identity)
            assert identity is not None, "renewed a moment ago"
            log.info("keys and certificate renewed", extra={"node": answer.node_id})
            self._on_renewed(identity, answer.signed_roster)
            return identity
