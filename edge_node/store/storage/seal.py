"""The seal of rows at rest: nobody without the node's key reads, alters or exchanges them.

    key ‖ owner ─► HKDF-SHA256 ─► sealing key, naming key, key id
    row name   = kind ‖ keyed BLAKE2b of what it is called      a document's fields lie side by side
    sealed     = nonce (12) ‖ ChaCha20-Poly1305(sealing key, nonce, body, associated data: row name)

A nonce is 8 random bytes, drawn at each opening of the file, and a counter: it never comes twice within an
opening, and after 10^5 openings two have drawn alike with a chance below 10^-9. Wholly random ones would
reach that at 2^32 rows, which a busy node writes in a year. What this does not hide, and from whom it
protects nothing: docs/decisions/0020. Not here: files (`cells`), where the key lies (`security.keystore`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from edge_node.store.cells import CellId

KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 8
OVERHEAD_BYTES: Final = 12 + 16
CELL, BATCH, WAITING, HEAD, RESCUED, NEWEST = b"a", b"b", b"c", b"h", b"r", b"u"
"""First bytes of row names: what a snapshot replaces lies below "d"."""
_COUNTED: Final = 2**32

_encode = msgspec.msgpack.Encoder().encode


class Seal:
    """Args: key: 32 secret bytes.   owner: whose rows they are: another's open as little as damaged ones."""

    def __init__(self, key: bytes, owner: str, entropy: Callable[[int], bytes] = os.urandom) -> None:
        assert len(key) == KEY_BYTES, "the key store makes 32 bytes"
        made = HKDFExpand(hashes.SHA256(), 2 * KEY_BYTES + KEY_ID_BYTES, b"ew1-state " + owner.encode())
        derived = made.derive(key)
        self._aead = ChaCha20Poly1305(derived[:KEY_BYTES])
        self._naming = derived[KEY_BYTES : 2 * KEY_BYTES]
        self.key_id = derived[2 * KEY_BYTES :]
        """Tells another key from damage; says nothing of the key."""
        self._entropy = entropy
        self._drawn = b""
        self._count = _COUNTED

    def cell(self, cell: CellId) -> bytes:
        """Its row's name, 21 bytes."""
        naming = self._naming
        document = blake2b(_encode(cell[:3]), key=naming, digest_size=12).digest()
        return CELL + document + blake2b(document + cell.field.encode(), key=naming, digest_size=8).digest()

    def waiting(self, node: str, epoch: int, first: int, kind: bytes = WAITING) -> bytes:
        """Its row's name, 17 bytes."""
        return kind + blake2b(_encode((node, epoch, first)), key=self._naming, digest_size=16).digest()

    def sealed(self, name: bytes, body: bytes) -> bytes:
        if self._count >= _COUNTED:
            self._drawn, self._count = self._entropy(8), 0
        nonce = self._drawn + self._count.to_bytes(4, "big")
        self._count += 1
        return nonce + self._aead.encrypt(nonce, body, name)

    def opened(self, name: bytes, sealed: object) -> bytes:
        """Raises: ValueError: not what was sealed under this name."""
        if not isinstance(sealed, bytes) or len(sealed) < OVERHEAD_BYTES:
            raise ValueError("no sealed row")
        try:
            return self._aead.decrypt(sealed[:12], sealed[12:], name)
        except InvalidTag:
            raise ValueError("it is not what was sealed") from None


def batch_name(number: int) -> bytes:
    """9 bytes: in the order of arrival."""
    return BATCH + number.to_bytes(8, "big")
