"""Authorship: batches and snapshots are signed by the member that made them, and opened by whose key that is.

    COSE_Sign1 (ES256), context "ew1-state" ‖ mesh id, the signer's SPKI in the header

Bound to one mesh, so that an export of another one opens nowhere. A batch and a snapshot differ in their
first element, neither decodes as the other. Not here: who is a member (`owner` asks the roster).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from security.errors import ProtocolViolation
from security.identity import spki_der
from security.signing import peek1, sign1, verify1

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec


class Authorship:
    """An `Author`. Args: owner: the member that has or had the key with this SHA-256 of its SPKI, or None."""

    def __init__(
        self, mesh_id: str, key: ec.EllipticCurvePrivateKey, owner: Callable[[bytes], str | None]
    ) -> None:
        self._context = b"ew1-state" + mesh_id.encode()
        self._key = key
        self._spki = spki_der(key.public_key())
        self._owner = owner

    def sign(self, payload: bytes) -> bytes:
        return sign1(payload, self._key, context=self._context, spki=self._spki)

    def open(self, data: bytes) -> tuple[str, bytes]:
        """Raises: ProtocolViolation: not signed, not for this mesh, or by nobody that we know."""
        claimed = peek1(data).spki_sha256
        node = self._owner(claimed)
        if node is None:
            raise ProtocolViolation("signed by a key of no member")
        return node, verify1(data, context=self._context, trusted_spki_sha256=(claimed,)).payload

    def read(self, data: bytes) -> bytes:
        return peek1(data).payload
