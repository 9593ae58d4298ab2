"""Signatures on things that travel: COSE_Sign1 with ES256 (RFC 9052), and the code catalogue's entries.

    D2 84                        tag 18, array(4)
      43 A1 01 26                protected {1: -7}    ES256, the only value accepted
      A1 / A2                    unprotected: 33 x5chain (RFC 9360) and/or -70001 the signer's SPKI, DER
      <bstr payload> 58 40 <r ‖ s>

What is signed is ["Signature1", protected, context, payload]; *context* names the use (``ew1-roster``,
``ew1-entry``, ``ew1-renew``), so that a signature made for one is void for another. The unprotected part
only carries the key: whoever verifies decides by the key's hash whether it is trusted.

P-256 signatures are malleable ((r, s) and (r, n − s) both verify), so nothing is ever recognised by
the hash of a signed message: digests are taken over payloads. Not here: who is trusted (``roster``).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from security.canonical import (
    a_bytes,
    a_count,
    a_list,
    a_map,
    a_text,
    decode,
    each,
    encode,
    encode_bytes,
    read_head,
)
from security.certificates import read_certificate
from security.errors import ProtocolViolation
from security.identity import is_mesh_id, read_spki, spki_der

ENTRY_CONTEXT = b"ew1-entry"
ENTRY_BYTES_MAX = 64 * 1024  # a manifest is text that a person wrote
_PROTECTED = bytes.fromhex("a10126")
_TAG = b"\xd2\x84\x43" + _PROTECTED
_X5CHAIN, _SPKI = 33, -70001
# RFC 6979: no signature depends on a random source, and what is signed twice is the same bytes.
_DETERMINISTIC = ec.ECDSA(SHA256(), deterministic_signing=True)
_HEADER_BYTES_MAX = 4096


class Signed(msgspec.Struct, frozen=True):
    """A payload whose signature holds, and whose it is."""

    payload: bytes
    spki_sha256: bytes
    x5chain: tuple[bytes, ...] = ()


def sign1(
    payload: bytes,
    key: ec.EllipticCurvePrivateKey,
    *,
    context: bytes,
    x5chain: Sequence[bytes] | None = None,
    spki: bytes | None = None,
) -> bytes:
    """COSE_Sign1 over *payload*. Give *x5chain* (DER, the signer's own first) or *spki*, its bare key."""
    assert x5chain or spki, "the reader must learn which key to try"
    signature = key.sign(_to_be_signed(context, payload), _DETERMINISTIC)
    r, s = decode_dss_signature(signature)
    return b"".join(
        (
            _TAG,
            _header(tuple(x5chain or ()), spki),
            encode_bytes(payload),
            b"\x58\x40",
            r.to_bytes(32, "big"),
            s.to_bytes(32, "big"),
        )
    )


@functools.lru_cache(maxsize=8)
def _header(x5chain: tuple[bytes, ...], spki: bytes | None) -> bytes:
    """Kept: whoever signs much does it with one key."""
    header: dict[int, Any] = {}
    if x5chain:
        header[_X5CHAIN] = list(x5chain) if len(x5chain) > 1 else x5chain[0]
    if spki:
        header[_SPKI] = spki
    return encode(header)


def verify1(message: bytes, *, context: bytes, trusted_spki_sha256: Collection[bytes]) -> Signed:
    """The payload, if one of the trusted keys signed it for this context.

    Raises: ProtocolViolation: another shape, an untrusted signer, or the signature does not hold.
    """
    signer, signed, signature = _read(message)
    if signed.spki_sha256 not in trusted_spki_sha256:
        raise ProtocolViolation("signed by a key that is not trusted for this")
    _check(signer, signature, context, signed.payload)
    return signed


def peek1(message: bytes) -> Signed:
    """Who *claims* to have signed what. Nothing is proven: for looking up the key or chain to trust."""
    return _read(message)[1]


def _read(message: bytes) -> tuple[ec.EllipticCurvePublicKey, Signed, bytes]:
    if not message.startswith(_TAG):
        raise ProtocolViolation("not a COSE_Sign1 message with ES256")
    at = len(_TAG)
    # The header is decoded on its own, so that a large payload is cut out, not copied item by item.
    end = _header_end(message, at)
    header = a_map(decode(message[at:end], what="signature header"), "signature header")
    if not header.keys() <= {_X5CHAIN, _SPKI} or not header:
        raise ProtocolViolation("signature header has unknown fields")
    major, length, at = read_head(message, end)
    payload = message[at : at + length]
    rest = message[at + length :]
    if major != 2 or len(payload) != length or len(rest) != 66 or rest[:2] != b"\x58\x40":
        raise ProtocolViolation("not a COSE_Sign1 message")
    chain: tuple[bytes, ...] = ()
    spki: bytes | None = None
    if _X5CHAIN in header:
        value = header[_X5CHAIN]
        if isinstance(value, bytes):
            chain = (value,)
        else:
            chain = each(value, "x5chain", a_bytes, most=3)
            if len(chain) < 2:
                raise ProtocolViolation("x5chain has an unusual spelling")
        public = read_certificate(chain[0]).public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey), "read_certificate admits no other"
        spki = spki_der(public)
    if _SPKI in header:
        named = a_bytes(header[_SPKI], "signer's key", most=128)
        if spki is not None and named != spki:
            raise ProtocolViolation("signature names two keys")
        spki = named
    assert spki is not None, "the header is not empty"
    return read_spki(spki), Signed(payload, hashlib.sha256(spki).digest(), chain), rest[2:]


def _header_end(message: bytes, at: int) -> int:
    """Where the unprotected map ends: it is small, and its values are byte strings or lists of them."""
    major, pairs, at = read_head(message, at)
    if major != 5 or pairs > 2:
        raise ProtocolViolation("signature header has the wrong shape")
    start = at
    left = 2 * pairs
    while left:
        left -= 1
        major, argument, at = read_head(message, at)
        if major == 2:
            at += argument
        elif major == 4:
            if argument > 3:
                raise ProtocolViolation("signature header has the wrong shape")
            left += argument
        elif major > 1:
            raise ProtocolViolation("signature header has the wrong shape")
        if at - start > _HEADER_BYTES_MAX:
            raise ProtocolViolation("signature header is too large")
    return at


def _to_be_signed(context: bytes, payload: bytes) -> bytes:
    """["Signature1", protected, context, payload]"""
    return b"\x84\x6aSignature1\x43" + _PROTECTED + encode_bytes(context) + encode_bytes(payload)


def _check(key: ec.EllipticCurvePublicKey, signature: bytes, context: bytes, payload: bytes) -> None:
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), _to_be_signed(context, payload), ec.ECDSA(SHA256()))
    except InvalidSignature as error:
        raise ProtocolViolation("signature does not hold") from error


# -- catalogue entries (code)


class Deployer(msgspec.Struct, frozen=True):
    """Someone of the roster who may sign code."""

    id: str
    spki: bytes  # DER


class EntryDraft(msgspec.Struct, frozen=True):
    """A name's next version. ``manifest`` (requires, limits, labels, parameters) is opaque here."""

    mesh: str
    name: str
    version: int  # only grows, also at a roll-back, so that an old entry can never be replayed
    digest: bytes  # SHA-256 of the bundle
    manifest: bytes
    issued_s: int


class Entry(msgspec.Struct, frozen=True):
    mesh: str
    name: str
    version: int
    digest: bytes
    manifest: bytes
    issued_s: int
    signer: str  # the deployer's id where the trust list names it, else its SPKI hash in hex
    signer_spki_sha256: bytes
    raw: bytes  # the signed message, to be handed on

    @property
    def payload_digest(self) -> bytes:
        """Recognises the entry: the same for a malleated signature."""
        return hashlib.sha256(_entry_payload(self)).digest()


def sign_entry(draft: EntryDraft, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A deployer's word that *name* at *version* is the bundle *digest*."""
    message = sign1(_entry_payload(draft), key, context=ENTRY_CONTEXT, spki=spki_der(key.public_key()))
    _read_entry(_entry_payload(draft), draft.mesh)
    assert len(message) <= ENTRY_BYTES_MAX, "checked by the manifest's own limit"
    return message


def open_entry(
    data: bytes, *, mesh_id: str, deployers: Collection[Deployer | bytes] | Mapping[bytes, str]
) -> Entry:
    """An entry of this mesh, signed by one of *deployers*.

    Args: deployers: deployers, or SHA-256s of their SPKIs, or (``Roster.signers``) a table from those to ids.
    Raises: ProtocolViolation: another mesh's, unsigned, signed by someone else, or malformed.
    """
    if len(data) > ENTRY_BYTES_MAX:
        raise ProtocolViolation("catalogue entry is too large")
    names: dict[bytes, str] = {}
    if isinstance(deployers, Mapping):
        names.update(deployers)
    else:
        for one in deployers:
            if isinstance(one, Deployer):
                names[hashlib.sha256(one.spki).digest()] = one.id
            else:
                names[one] = one.hex()
    signed = verify1(data, context=ENTRY_CONTEXT, trusted_spki_sha256=names.keys())
    draft = _read_entry(signed.payload, mesh_id)
    return Entry(
        mesh=draft.mesh,
        name=draft.name,
        version=draft.version,
        digest=draft.digest,
        manifest=draft.manifest,
        issued_s=draft.issued_s,
        signer=names[signed.spki_sha256],
        signer_spki_sha256=signed.spki_sha256,
        raw=bytes(data),
    )


def _entry_payload(entry: EntryDraft | Entry) -> bytes:
    return encode([1, entry.mesh, entry.name, entry.version, entry.digest, entry.manifest, entry.issued_s])


def _read_entry(payload: bytes, mesh_id: str) -> EntryDraft:
    fields = a_list(decode(payload, what="catalogue entry"), "catalogue entry")
    if not fields or fields[0] != 1:
        raise ProtocolViolation(
            "catalogue entry has a version that this program does not speak (it speaks 1)"
        )
    _, mesh, name, version, digest, manifest, issued_s = a_list(fields, "catalogue entry", length=7)
    draft = EntryDraft(
        mesh=a_text(mesh, "mesh id"),
        name=a_text(name, "function name", most=128),
        version=a_count(version, "version"),
        digest=a_bytes(digest, "digest", length=32),
        manifest=a_bytes(manifest, "manifest"),
        issued_s=a_count(issued_s, "time of issue"),
    )
    if not is_mesh_id(draft.mesh) or draft.mesh != mesh_id:
        raise ProtocolViolation("catalogue entry belongs to another mesh")
    if not draft.name or draft.version < 1:
        raise ProtocolViolation("catalogue entry names no function or no version")
    return draft
