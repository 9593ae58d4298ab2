"""Standing: whether this member still is one; a daemon that learns that it is none ends, and says why.

Every adopted roster is looked at. A member that was away while it was shut out finds the broker closed to
it and hears nothing: so whoever is not connected for a while asks the gateway's joining port for the roster,
which is signed, whoever hands it over. A gateway that does not answer changes nothing: members stay members.

Not here: adopting rosters (the agent), the question itself (``edge_node.joining``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from cryptography.x509.oid import NameOID

from edge_node.home import Home
from security.errors import EdgeweaveError, Refused
from security.keystore import KeyStore, StoredIdentity
from security.roster import Roster, RosterView

log = logging.getLogger(__name__)

LOOK_S: Final = 1.5
"""Without a broker for this long: asked at the joining port."""
LOOK_S_MAX: Final = 60.0


class Standing:
    """One member's standing; its task is `run`, and `look` is called after each turn of the agent's loop."""

    def __init__(
        self,
        node_id: str,
        roster: RosterView,
        *,
        keys: Callable[[], bytes],
        previous: bytes | None,
        linked: Callable[[], bool],
        ask: Callable[[], Awaitable[bytes]],
        adopt: Callable[[bytes], None],
    ) -> None:
        """
        Args:
            keys: SHA-256 of the SPKI in use now; previous: of the identity before it.
            linked: whether the broker lets us in; ask: the gateway's signed roster, from its joining port;
            adopt: gives a roster to the agent, which verifies it.
        """
        self._node_id = node_id
        self._roster = roster
        self._keys = keys
        self._known = {previous} if previous is not None else set()
        self._linked = linked
        self._ask = ask
        self._adopt = adopt
        self._seen: object = None
        self._out: Refused | None = None
        self._over = asyncio.Event()

    def look(self) -> None:
        """Cheap where the roster has not moved."""
        roster = self._roster.current
        if roster is self._seen or roster is None:
            return
        self._seen = roster
        self._known.add(self._keys())
        self._out = roster.why_out(self._node_id, self._known)
        if self._out is not None:
            self._over.set()

    async def run(self) -> None:
        """Returns when this member has left. Raises: Refused: it was shut out; says when, by whom and why."""
        pause_s = LOOK_S
        while not self._over.is_set():
            try:
                async with asyncio.timeout(pause_s):
                    await self._over.wait()
            except TimeoutError:
                if self._linked():
                    pause_s = LOOK_S
                    continue
                pause_s = min(2 * pause_s, LOOK_S_MAX)
                await self._ask_gateway()
        assert self._out is not None, "over means out"
        held = self._roster.current.listed(self._node_id) if self._roster.current else None
        if held is not None and held.status == "left":
            log.info("left the mesh", extra={"node": self._node_id})
            return
        raise self._out

    async def _ask_gateway(self) -> None:
        try:
            self._adopt(await self._ask())
        except (EdgeweaveError, OSError) as error:
            log.debug("no gateway told its roster", extra={"cause": str(error)})


def check_home(home: Home) -> None:
    """For commands that found no daemon: perhaps there cannot be one any more.

    Raises: Refused: by the roster that this home keeps, its member was shut out, has left or was replaced.
    """
    if not (home.keys / "identity.pem").exists():
        return
    try:
        store = KeyStore(home.keys)
        identity, pin, signed = store.identity(), store.root_spki_sha256(), store.roster()
        if identity is None or pin is None or signed is None:
            return
        roster = RosterView(root_spki_sha256=pin, signed=signed).current
    except EdgeweaveError:  # `up` and `doctor` tell what is wrong with the home
        return
    assert roster is not None, "a view of a roster holds it"
    out = why_out(identity, store.previous_identity(), roster)
    if out is not None:
        raise out


def why_out(identity: StoredIdentity, previous: StoredIdentity | None, roster: Roster) -> Refused | None:
    """What to tell the owner of this home; None: the roster lists it as an active member."""
    (name,) = identity.leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    keys = {one.keys.spki_sha256 for one in (identity, previous) if one is not None}
    return roster.why_out(str(name.value), keys)
