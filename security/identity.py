"""Who a member is: its id, its mesh, its two private keys.

A P-256 key speaks in TLS and signs; an X25519 key opens sessions. Both are made on the node, never
leave it, and are known to others by the SHA-256 of the first one's SPKI: never by the hash of a
certificate, since P-256 signatures are malleable and one key can wear many certificates.

The mesh is named by its root key: ``mesh_id`` is the first 8 bytes of SHA-256(root SPKI) in hex.
Not here: certificates (``certificates``), where keys lie on disk (``keystore``).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)

from security.canonical import encode
from security.errors import ProtocolViolation

GATEWAY = "gateway"
BROKER = "broker"
RESERVED = frozenset({GATEWAY, BROKER, "any", "local"})

_NODE_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?\Z")
_MESH_ID = re.compile(r"[0-9a-f]{16}\Z")
_CONSONANTS, _VOWELS = "bdfghjklmnprstvz", "aiou"


def is_node_id(text: str) -> bool:
    return _NODE_ID.match(text) is not None


def is_mesh_id(text: str) -> bool:
    return _MESH_ID.match(text) is not None


def mesh_id_of(root_spki_sha256: bytes) -> str:
    assert len(root_spki_sha256) == 32, "the whole hash, not its beginning"
    return root_spki_sha256[:8].hex()


def dns_name(mesh_id: str, node_id: str) -> str:
    """The name that TLS checks, whatever the address."""
    return f"{node_id}.{mesh_id}.mesh"


def key_mark(spki_hash: bytes) -> str:
    """A key within a certificate's subject, as its serialNumber: 128 bits of the SPKI's hash, hex."""
    return spki_hash[:16].hex()


def bearer(node_id: str, spki_hash: bytes) -> str:
    """Who connects, by name *and* key: a member's certificate's subject as OpenSSL spells it.

    Another key under the same name is another bearer, so a door that lists bearers shuts out a replaced
    key like a revoked name, without a list of certificates.
    """
    return f"serialNumber={key_mark(spki_hash)},CN={node_id}"


def spiffe_uri(mesh_id: str, node_id: str) -> str:
    return f"spiffe://{mesh_id}/node/{node_id}"


def spki_der(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def spki_sha256(key: ec.EllipticCurvePublicKey) -> bytes:
    return hashlib.sha256(spki_der(key)).digest()


def read_spki(der: bytes) -> ec.EllipticCurvePublicKey:
    """Raises: ProtocolViolation: not the DER SPKI of a P-256 key, in its one spelling."""
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ProtocolViolation("not a public key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ProtocolViolation("not a P-256 public key")
    if spki_der(key) != der:
        raise ProtocolViolation("public key has an unusual spelling")
    return key


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """A member's two private keys; made together, renewed together."""

    signing: ec.EllipticCurvePrivateKey
    static: X25519PrivateKey

    @classmethod
    def generate(cls) -> NodeKeys:
        return cls(ec.generate_private_key(ec.SECP256R1()), X25519PrivateKey.generate())

    @property
    def public(self) -> ec.EllipticCurvePublicKey:
        return self.signing.public_key()

    @property
    def spki_sha256(self) -> bytes:
        return spki_sha256(self.public)

    @property
    def x25519_public(self) -> bytes:
        return self.static.public_key().public_bytes_raw()

    @property
    def static_private_bytes(self) -> bytes:
        return self.static.private_bytes_raw()


def private_pem(key: ec.EllipticCurvePrivateKey | X25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def fingerprint_words(mesh_id: str, spki_hash: bytes, x25519: bytes) -> str:
    """Six pronounceable words that two people compare before a pending node is approved.

    16 bits a word, 96 in all (Wilkerson, "A Proposal for Proquints", arXiv:0901.4016): a dictionary
    of 256 words would carry 48 bits, which can be searched.
    """
    digest = hashlib.sha256(encode(["ew1-words", mesh_id, spki_hash, x25519])).digest()
    return " ".join(_word(int.from_bytes(digest[i : i + 2], "big")) for i in range(0, 12, 2))


def _word(bits: int) -> str:
    return (
        _CONSONANTS[bits >> 12]
        + _VOWELS[bits >> 10 & 3]
        + _CONSONANTS[bits >> 6 & 15]
        + _VOWELS[bits >> 4 & 3]
        + _CONSONANTS[bits & 15]
    )
