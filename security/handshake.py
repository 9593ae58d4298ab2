"""Noise KK: two members who know each other's static key agree on fresh keys in one round trip.

    -> s, <- s           both known beforehand, from the roster
    -> e, es, ss         m1: initiator to responder
    <- e, ee, se         m2: responder to initiator; from here on both can ``split``

In: key bytes, a prologue, an ephemeral private key, the peer's message. Out: messages, payloads, two plain
Noise transport keys. Every message carries an encrypted payload (KK encrypts from the first message on);
the payload of m1 is only as forward secret as the responder's static key.

Not here: which keys, retries, key confirmation (``session``), what the keys are used for (``envelope``).
A failed ``read`` leaves the state as it was: whoever can inject a frame must not be able to end a handshake
that the real peer is about to finish.

Source: The Noise Protocol Framework, revision 34, sections 5, 7.5 (KK), 12.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from security.errors import BadInput, ProtocolViolation

PROTOCOL = b"Noise_KK_25519_ChaChaPoly_SHA256"  # exactly 32 bytes, so it is the first h unhashed
KEY_BYTES = 32
MESSAGE_BYTES_MAX = 65535  # Noise, section 3
_OVERHEAD = KEY_BYTES + 16  # an ephemeral public key and a tag
_NONCE = bytes(12)  # each message encrypts one payload, right after a MixKey: n is always 0


class KK:
    """One handshake, one side.

    Args:
        role: "initiator" or "responder".
        static: own X25519 private key, 32 bytes.
        remote_static: the peer's X25519 public key, 32 bytes.
        prologue: bytes that both sides must hold alike.
        ephemeral: own ephemeral X25519 private key, 32 bytes, used once; None draws one (a daemon injects).
    Raises: BadInput: a role or a key that cannot be one.

    The initiator calls ``write`` then ``read``, the responder ``read`` then ``write``; then both ``split``.
    """

    __slots__ = (
        "_ck",
        "_done",
        "_ephemeral",
        "_h",
        "_initiator",
        "_remote_ephemeral",
        "_remote_static",
        "_static",
    )

    def __init__(
        self, role: str, static: bytes, remote_static: bytes, prologue: bytes, ephemeral: bytes | None = None
    ) -> None:
        if role not in ("initiator", "responder"):
            raise BadInput(f"handshake role {role!r} is unknown", fix="use 'initiator' or 'responder'")
        self._initiator = role == "initiator"
        self._static = _private(static, "static")
        self._remote_static = _public(remote_static)
        self._ephemeral = (
            X25519PrivateKey.generate() if ephemeral is None else _private(ephemeral, "ephemeral")
        )
        self._remote_ephemeral: X25519PublicKey | None = None
        self._done = 0  # messages written or read so far
        self._ck = PROTOCOL
        own = self._static.public_key().public_bytes_raw()
        first, second = (own, remote_static) if self._initiator else (remote_static, own)
        self._h = _sha256(_sha256(_sha256(PROTOCOL + prologue) + first) + second)

    @property
    def hash(self) -> bytes:
        """h: covers the prologue, all keys and all messages so far; after m2 the same on both sides only."""
        return self._h

    @property
    def finished(self) -> bool:
        return self._done == 2

    def write(self, payload: bytes = b"") -> bytes:
        """The next message, 48 bytes longer than its payload.

        Raises: BadInput: not our turn; payload too long. ProtocolViolation: the peer's key is degenerate.
        """
        if self._done != (0 if self._initiator else 1):
            raise BadInput("handshake message written out of turn")
        if len(payload) > MESSAGE_BYTES_MAX - _OVERHEAD:
            raise BadInput("handshake payload is too long")
        public = self._ephemeral.public_key().public_bytes_raw()
        if self._initiator:  # es, ss
            pairs = [(self._ephemeral, self._remote_static), (self._static, self._remote_static)]
        else:  # ee, se
            assert self._remote_ephemeral is not None
            pairs = [(self._ephemeral, self._remote_ephemeral), (self._ephemeral, self._remote_static)]
        ck, key = _mix_keys(self._ck, pairs)
        h = _sha256(self._h + public)
        sealed = ChaCha20Poly1305(key).encrypt(_NONCE, payload, h)
        self._ck, self._h, self._done = ck, _sha256(h + sealed), self._done + 1
        return public + sealed

    def read(self, message: bytes) -> bytes:
        """The payload of the peer's message.

        Raises: ProtocolViolation: not the peer's next message of this handshake; the state is unchanged,
        so that the true one can still be read. BadInput: not the peer's turn.
        """
        if self._done != (1 if self._initiator else 0):
            raise BadInput("handshake message read out of turn")
        if not _OVERHEAD <= len(message) <= MESSAGE_BYTES_MAX:
            raise ProtocolViolation("handshake message has an impossible length")
        public, sealed = bytes(message[:KEY_BYTES]), bytes(message[KEY_BYTES:])
        remote = X25519PublicKey.from_public_bytes(public)
        if self._initiator:  # ee, se
            pairs = [(self._ephemeral, remote), (self._static, remote)]
        else:  # es, ss
            pairs = [(self._static, remote), (self._static, self._remote_static)]
        ck, key = _mix_keys(self._ck, pairs)
        h = _sha256(self._h + public)
        try:
            payload = ChaCha20Poly1305(key).decrypt(_NONCE, sealed, h)
        except InvalidTag:
            raise ProtocolViolation("handshake message does not authenticate") from None
        self._remote_ephemeral = remote
        self._ck, self._h, self._done = ck, _sha256(h + sealed), self._done + 1
        return payload

    def split(self) -> tuple[bytes, bytes]:
        """Plain Noise transport keys (initiator to responder, responder to initiator), alike on both sides.

        Raises: BadInput: the handshake is not finished.
        """
        if not self.finished:
            raise BadInput("handshake is not finished")
        return _hkdf2(self._ck, b"")


def public_of(private: bytes) -> bytes:
    """The X25519 public key of a private one, 32 bytes each."""
    return _private(private, "static").public_key().public_bytes_raw()


def _private(data: bytes, name: str) -> X25519PrivateKey:
    if len(data) != KEY_BYTES:
        raise BadInput(
            f"{name} key has {len(data)} bytes", fix=f"give the {KEY_BYTES} bytes of an X25519 private key"
        )
    return X25519PrivateKey.from_private_bytes(data)


def _public(data: bytes) -> X25519PublicKey:
    if len(data) != KEY_BYTES:
        raise BadInput(
            f"remote key has {len(data)} bytes", fix=f"give the {KEY_BYTES} bytes of an X25519 public key"
        )
    return X25519PublicKey.from_public_bytes(data)


def _mix_keys(ck: bytes, pairs: list[tuple[X25519PrivateKey, X25519PublicKey]]) -> tuple[bytes, bytes]:
    key = b""
    for private, public in pairs:
        try:
            shared = private.exchange(public)
        except ValueError:  # the all-zero result of a low-order point
            raise ProtocolViolation("handshake key is degenerate") from None
        ck, key = _hkdf2(ck, shared)
    return ck, key


def _hkdf2(ck: bytes, material: bytes) -> tuple[bytes, bytes]:
    """Noise's HKDF with two outputs: RFC 5869 with salt ck, empty info, 64 bytes."""
    secret = hmac.digest(ck, material, "sha256")
    first = hmac.digest(secret, b"\x01", "sha256")
    return first, hmac.digest(secret, first + b"\x02", "sha256")


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
