"""Renewal at the gateway: its own certificate, the broker's, and the end of members' former keys.

    once an hour    its own and the broker's certificate, from a third of their lifetime on, for the same
                    keys; shown to new connections, nothing that stands is dropped
    every 5 s       a member that has renewed is listed with two keys. The old one goes once the new one has
                    been used in a session (so it is on that member's disk), or 30 days after its
                    certificate has ended

Until then either key works, so that a crash of node or gateway between any two steps locks nobody out. Not
here: the node's side (``edge_node.membership.renewal``), certifying a member's new keys (``joining``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from edge_node.clock import AHEAD_S_MAX, Clock, FlooredClock
from gateway.roster_keeper import CHANGES_MAX, RosterKeeper
from security.authority import Authority
from security.certificates import floor_s, renewal_due_s, spelled_minute
from security.enrolment import LATE_RENEWAL_S, with_key_used, with_old_keys_expired
from security.errors import EdgeweaveError, ProtocolViolation, Refused
from security.identity import GATEWAY, NodeKeys
from security.keystore import KeyStore, StoredIdentity
from security.roster import Roster, open_roster

log = logging.getLogger(__name__)

LOOK_S: Final = 3600.0
RETIRE_LOOK_S: Final = 5.0
"""All that renewed meanwhile share a roster version."""
RETIRE_MAX: Final = CHANGES_MAX // 4
"""At a look: a fleet that joined together renews together; joins and revocations wait in the same line."""

KeyUsed = Callable[[str], bytes | None]
"""The X25519 key that a member proved in the session in use; None: there is no session."""


def gateway_clock(keystore: KeyStore, clock: Clock) -> FlooredClock:
    """The time that this gateway signs by: the machine's, unless that is certainly wrong.

    Floor: the release, the last time that was persisted, the last roster that was signed.
    """
    authority, signed, issued_s = keystore.authority(entropy=os.urandom), keystore.roster(), 0
    if authority is not None and signed is not None:
        with contextlib.suppress(ProtocolViolation):  # said by whoever needs it
            issued_s = open_roster(signed, root_spki_sha256=authority.root_spki_sha256).issued_s
    floor_ms = floor_s(keystore.floor_s(), issued_s) * 1000
    judged = FlooredClock(clock, floor_ms, ahead_ms_max=AHEAD_S_MAX * 1000)
    doubt = doubt_of(judged)
    if doubt:
        log.warning(doubt)
    return judged


def doubt_of(clock: FlooredClock) -> str:
    """One line about a clock that is certainly wrong; empty: nothing is known against it."""
    verdict = clock.verdict()
    if verdict == "ok":
        return ""
    told, used = (spelled_minute(ms // 1000) for ms in (clock.told_ms(), clock.wall_ms()))
    why = "earlier than what has surely passed" if verdict == "behind" else "years after everything known"
    return (
        f"this machine's clock says {told}, which is {why}: {used} is used instead; set the clock "
        "(mosquitto judges members' certificates by it)"
    )


def is_due(leaf: x509.Certificate, now_s: int) -> bool:
    """A third of its lifetime is over."""
    return now_s >= renewal_due_s(leaf)


def certify_self(keystore: KeyStore, authority: Authority, keys: NodeKeys, now_s: int) -> StoredIdentity:
    leaf = authority.issue(keys.signing.public_key(), GATEWAY, roles=(GATEWAY,), now_s=now_s)
    keystore.save_identity(keys, leaf_pem=leaf, issuing_pem=authority.issuing_pem)
    identity = keystore.identity()
    assert identity is not None, "saved a moment ago"
    return identity


def certify_broker(keystore: KeyStore, authority: Authority, now_s: int) -> bool:
    """A certificate for the broker, if it has none or that is due; its key stays. Returns: is it new?"""
    held = keystore.broker()
    if held is not None and not is_due(held[1], now_s):
        return False
    key = held[0] if held is not None else ec.generate_private_key(ec.SECP256R1())
    leaf = authority.issue_broker(key.public_key(), now_s=now_s)
    keystore.save_broker(key, leaf_pem=leaf, issuing_pem=authority.issuing_pem)
    return True


def retirements(roster: Roster, used: KeyUsed, *, now_s: int) -> list[tuple[str, bytes]]:
    """(member, SHA-256 of the SPKI) of every former key that may go now.

    The wall clock alone takes a key only when its certificate ended more than 30 days ago: until then a
    member that lost the answer to its renewal may come back with it. And never one that is in use.
    """
    found = []
    for member in roster.members:
        if member.status != "active" or len(member.keys) < 2:
            continue
        in_use = used(member.id)
        spki = next((key.spki_sha256 for key in member.keys if key.x25519 == in_use), None)
        if spki is not None:
            kept = with_key_used(member, spki)
        else:
            kept = with_old_keys_expired(member, now_s=now_s - LATE_RENEWAL_S)
        found += [(member.id, key.spki_sha256) for key in member.keys if key not in kept.keys]
    return found


class Renewals:
    """Its task is ``run``."""

    def __init__(
        self,
        keystore: KeyStore,
        authority: Authority,
        keeper: RosterKeeper,
        clock: Clock,
        *,
        used: KeyUsed,
        on_own: Callable[[StoredIdentity], None],
        on_broker: Callable[[], None],
    ) -> None:
        """``on_own``, ``on_broker``: that certificate is new, on disk already; called on the loop."""
        self._keystore = keystore
        self._authority = authority
        self._keeper = keeper
        self._clock = clock
        self._used = used
        self._on_own = on_own
        self._on_broker = on_broker

    async def run(self) -> None:
        due_ns = self._clock.now_ns() + int(LOOK_S * 1e9)
        while True:
            await asyncio.sleep(RETIRE_LOOK_S)
            await self.retire()
            if self._clock.now_ns() >= due_ns:
                due_ns = self._clock.now_ns() + int(LOOK_S * 1e9)
                await self.certify()

    async def certify(self) -> None:
        """Both certificates, if they are due; an hour later again if the disk refuses."""
        now_s = self._clock.wall_ms() // 1000
        try:
            await asyncio.to_thread(self._keystore.save_floor, self._keeper.current.issued_s)
            identity = await asyncio.to_thread(self._certify_self, now_s)
            if identity is not None:
                self._on_own(identity)
                log.info("the gateway's certificate was renewed")
            if await asyncio.to_thread(certify_broker, self._keystore, self._authority, now_s):
                self._on_broker()
                log.info("the broker's certificate was renewed")
        except EdgeweaveError as error:
            log.error("a certificate of the gateway is due and was not renewed", extra={"cause": str(error)})

    def _certify_self(self, now_s: int) -> StoredIdentity | None:
        held = self._keystore.identity()
        if held is None or not is_due(held.leaf, now_s):
            return None
        return certify_self(self._keystore, self._authority, held.keys, now_s)

    async def retire(self) -> None:
        """Take the former keys off the roster whose time has come, all in one version."""
        if self._keeper.holds:
            return
        gone = retirements(self._keeper.current, self._used, now_s=self._clock.wall_ms() // 1000)[:RETIRE_MAX]
        answers = await asyncio.gather(
            *(self._keeper.retire_key(member, spki) for member, spki in gone), return_exceptions=True
        )
        for (member, _), answer in zip(gone, answers, strict=True):
            if isinstance(answer, Refused):
                continue  # revoked or replaced meanwhile
            if isinstance(answer, EdgeweaveError):
                log.warning("a former key stays for now", extra={"node": member, "cause": str(answer)})
            elif isinstance(answer, BaseException):
                raise answer
            else:
                log.info("a member's former key was retired", extra={"node": member})
