"""Certificates of a mesh: built, parsed and verified; time is an argument.

    root (P-256, pathlen 1)  ->  issuing CA (pathlen 0)  ->  leaves: nodes, the gateway, the broker

A leaf carries CN = node id, serialNumber = mark of its key (``identity.bearer``), SAN URI
``spiffe://<mesh>/node/<id>``, SAN DNS ``<id>.<mesh>.mesh``, notBefore one hour in the past, SKI, AKI,
keyUsage digitalSignature, EKU clientAuth (nodes), clientAuth + serverAuth (gateway) or serverAuth
(broker), 30 days.

Clocks lie: a board without an RTC wakes up in 1970. So a node never compares a certificate with its
wall clock, only with its *floor*, a time that has surely passed: the latest of the release, its own
notBefore, the newest signed roster and the last time it persisted. ``now_s`` is for those that have a
trusted clock (the authority). All times are integer seconds since 1970; ``datetime`` only spells them.

Path building and signatures are left to ``cryptography``'s verifier; the profile is checked here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from security.errors import ProtocolViolation
from security.identity import dns_name, is_mesh_id, is_node_id, key_mark, mesh_id_of, spiffe_uri, spki_sha256

RELEASED_S = 1_793_491_200  # 2026-11-01: no certificate of ours is judged at an earlier time
HOUR_S = 3600
DAY_S = 24 * HOUR_S
LEAF_DAYS = 30
BROKER_DAYS = 90  # the broker cannot ask for its own renewal: it must outlive weeks without a gateway
ISSUING_DAYS = 3650
ROOT_DAYS = 10950
_DATE_MAX_S = 253_402_300_799  # 9999-12-31, the last that X.509 can spell

# What ``cryptography`` raises on bytes that are not what they claim to be, each met by flipping bits.
MALFORMED = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    InvalidSignature,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
    verification.VerificationError,
)

Usage = Literal["client", "server"]


@dataclass(frozen=True, slots=True)
class VerifiedLeaf:
    """What a leaf proves, once its path to the pinned root holds."""

    node_id: str
    mesh_id: str
    spki_sha256: bytes
    not_before: int
    not_after: int
    usages: frozenset[Usage] = frozenset()


# -- time


def floor_s(*known_s: int) -> int:
    """A time that has surely passed: the release, and every signed or persisted time in *known_s*."""
    return max(RELEASED_S, *known_s, 0)


def believable_s(wall_s: int, floor_s: int) -> int:
    """The wall clock, unless it is certainly wrong."""
    return max(wall_s, floor_s)


def not_before_s(certificate: x509.Certificate) -> int:
    return int(certificate.not_valid_before_utc.timestamp())


def not_after_s(certificate: x509.Certificate) -> int:
    return int(certificate.not_valid_after_utc.timestamp())


def renewal_due_s(certificate: x509.Certificate) -> int:
    """From a third of its lifetime on, a certificate is renewed."""
    start, end = not_before_s(certificate), not_after_s(certificate)
    return start + (end - start) // 3


def check_peer_times(leaf_der: bytes | None, *, floor_s: int) -> None:
    """To be called after a TLS handshake and before the first byte is sent.

    Leaves never outlive their issuing CA (see ``build_leaf``), so the leaf's end speaks for the path.

    Raises: ProtocolViolation: the peer showed no certificate, or one that surely has expired.
    """
    if leaf_der is None:
        raise ProtocolViolation("peer showed no certificate")
    end_s = not_after_s(read_certificate(leaf_der))
    if end_s < floor_s:
        raise ProtocolViolation(
            f"peer's certificate expired {(floor_s - end_s) // DAY_S} days before {_spelled(floor_s)}",
            fix="renew it there, or join again",
        )


def spelled_minute(at_s: int) -> str:
    """``2026-11-22 14:03 UTC``, for people."""
    return _date(at_s).strftime("%Y-%m-%d %H:%M UTC")


# -- building


def build_root(key: ec.EllipticCurvePrivateKey, *, now_s: int, serial: bytes) -> x509.Certificate:
    """The self-signed root, pathlen 1. ``serial``: 16 random bytes."""
    mesh_id = mesh_id_of(spki_sha256(key.public_key()))
    return _build_ca(
        key.public_key(),
        f"edgeweave root {mesh_id}",
        None,
        key,
        1,
        now_s=now_s,
        days=ROOT_DAYS,
        serial=serial,
    )


def build_issuing(
    public_key: ec.EllipticCurvePublicKey,
    *,
    root: x509.Certificate,
    root_key: ec.EllipticCurvePrivateKey,
    now_s: int,
    serial: bytes,
) -> x509.Certificate:
    """The issuing CA, pathlen 0; it signs leaves and rosters."""
    mesh_id = mesh_id_of(_spki_of(root))
    return _build_ca(
        public_key,
        f"edgeweave issuing {mesh_id}",
        root,
        root_key,
        0,
        now_s=now_s,
        days=ISSUING_DAYS,
        serial=serial,
    )


def build_leaf(
    public_key: ec.EllipticCurvePublicKey,
    *,
    issuing: x509.Certificate,
    issuing_key: ec.EllipticCurvePrivateKey,
    mesh_id: str,
    node_id: str,
    usages: frozenset[Usage],
    now_s: int,
    serial: bytes,
    days: int = LEAF_DAYS,
) -> x509.Certificate:
    """A member's certificate; it never outlives the CA that signed it."""
    assert is_node_id(node_id), "node ids are checked at the door"
    assert usages, "a certificate must be good for something"
    oids = {"client": ExtendedKeyUsageOID.CLIENT_AUTH, "server": ExtendedKeyUsageOID.SERVER_AUTH}
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(spiffe_uri(mesh_id, node_id)),
        x509.DNSName(dns_name(mesh_id, node_id)),
    ]
    return (
        x509.CertificateBuilder()
        .subject_name(_subject(node_id, public_key))
        .issuer_name(issuing.subject)
        .public_key(public_key)
        .serial_number(_serial(serial))
        .not_valid_before(_date(now_s - HOUR_S))
        .not_valid_after(_date(min(now_s + days * DAY_S, not_after_s(issuing))))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([oids[usage] for usage in sorted(usages)]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(_authority_key_id(issuing), critical=False)
        .sign(issuing_key, SHA256(), ecdsa_deterministic=True)
    )


def build_csr(key: ec.EllipticCurvePrivateKey, node_id: str) -> bytes:
    """A request, DER. The authority takes only its key; the name is decided by the request around it."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_name(node_id or "node"))
        .sign(key, SHA256())
        .public_bytes(Encoding.DER)
    )


def key_of_csr(der: bytes) -> ec.EllipticCurvePublicKey:
    """The key in a request, whose owner proved to hold it.

    Raises: ProtocolViolation: not a request, another kind of key, or its signature does not hold.
    """
    try:
        csr = x509.load_der_x509_csr(der)
        key = csr.public_key()
        proven = csr.is_signature_valid
    except MALFORMED as error:
        raise ProtocolViolation("not a certificate request") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ProtocolViolation("certificate request holds no P-256 key")
    if not proven:
        raise ProtocolViolation("certificate request is not signed by its own key")
    return key


# -- reading


def read_certificate(der: bytes) -> x509.Certificate:
    """Raises: ProtocolViolation: not a DER certificate with a P-256 key."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        certificate.not_valid_before_utc.timestamp()
        certificate.not_valid_after_utc.timestamp()
    except MALFORMED as error:
        raise ProtocolViolation("not a certificate") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ProtocolViolation("certificate holds no P-256 key")
    if not der.endswith(b"\0" + certificate.signature):  # a bit string may leave bits unused: not ours
        raise ProtocolViolation("certificate's signature is no whole number of bytes")
    return certificate


def read_pem(pem: bytes, *, most: int = 4) -> list[x509.Certificate]:
    """All certificates of a PEM text, in order.

    Raises: ProtocolViolation: none, too many, or one that is not ours.
    """
    try:
        found = x509.load_pem_x509_certificates(pem)
    except MALFORMED as error:
        raise ProtocolViolation("not a PEM certificate") from error
    if not found or len(found) > most:
        raise ProtocolViolation("certificate chain has the wrong length")
    return [read_certificate(certificate.public_bytes(Encoding.DER)) for certificate in found]


def pem_of(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def der_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def leaf_sha256(leaf_der: bytes) -> bytes:
    """Names one TLS server to one joining request; never used to recognise a member."""
    return hashlib.sha256(leaf_der).digest()


# -- verifying


def verify_chain(
    chain: Sequence[x509.Certificate], *, root_spki_sha256: bytes | str
) -> tuple[x509.Certificate, x509.Certificate]:
    """(issuing, root) of a CA chain as it is fetched or sent, in either order, against the pin.

    Args: root_spki_sha256: SHA-256 of the root's SPKI, or the mesh id made of its beginning.
    Raises: ProtocolViolation: another mesh's root, or the issuing CA does not follow from it.
    """
    if len(chain) != 2:
        raise ProtocolViolation("CA chain is not issuing CA and root")
    roots = [certificate for certificate in chain if _is_pinned(certificate, root_spki_sha256)]
    if len(roots) != 1:
        raise ProtocolViolation(
            "CA does not match the pinned root",
            fix="this is another mesh, or someone in between: check address and join code",
        )
    (root,) = roots
    issuing = chain[1] if chain[0] is root else chain[0]
    for certificate, pathlen in ((root, 1), (issuing, 0)):
        _check_ca(certificate, pathlen)
        try:
            certificate.verify_directly_issued_by(root)
        except MALFORMED as error:
            raise ProtocolViolation("CA chain is not signed by the pinned root") from error
    return issuing, root


def verify_leaf(
    chain: Sequence[x509.Certificate],
    leaf: x509.Certificate,
    *,
    root_spki_sha256: bytes | str,
    usage: Usage,
    floor_s: int,
    now_s: int | None = None,
) -> VerifiedLeaf:
    """What *leaf* proves.

    Args:
        chain: issuing CA and root, in either order.
        floor_s: a time that has surely passed; the leaf must not have ended before it.
        now_s: a trusted clock, if there is one; then the leaf must be valid at that time.
    Raises: ProtocolViolation: wrong CA, expired, not yet valid, wrong usage, or not our profile.
    """
    issuing, root = verify_chain(chain, root_spki_sha256=root_spki_sha256)
    path = (leaf, issuing, root)
    if now_s is None:  # the earliest time that is possible and lies in every certificate's span, if any does
        at_s = max(floor_s, *(not_before_s(certificate) for certificate in path))
    else:
        at_s = max(now_s, floor_s)
    if at_s > min(not_after_s(certificate) for certificate in path):
        raise ProtocolViolation(f"certificate expired before {_spelled(at_s)}", fix="renew it, or join again")
    if at_s < max(not_before_s(certificate) for certificate in path):
        raise ProtocolViolation(f"certificate is not valid yet at {_spelled(at_s)}", fix="set the clock")
    mesh_id = mesh_id_of(_spki_of(root))
    node_id, usages = _profile(leaf, mesh_id)
    if usage not in usages:
        raise ProtocolViolation(f"certificate of {node_id!r} is not meant for a {usage}")
    policy = (
        verification.PolicyBuilder().store(verification.Store([root])).time(_date(at_s)).max_chain_depth(1)
    )
    try:
        if usage == "client":
            policy.build_client_verifier().verify(leaf, [issuing])
        else:
            policy.build_server_verifier(x509.DNSName(dns_name(mesh_id, node_id))).verify(leaf, [issuing])
    except MALFORMED as error:
        raise ProtocolViolation("certificate does not follow from the pinned root") from error
    return VerifiedLeaf(node_id, mesh_id, _spki_of(leaf), not_before_s(leaf), not_after_s(leaf), usages)


def _profile(leaf: x509.Certificate, mesh_id: str) -> tuple[str, frozenset[Usage]]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        hosts = names.get_values_for_type(x509.DNSName)
        oids = set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        common = [attribute.value for attribute in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        count = len(list(names))
    except MALFORMED as error:
        raise ProtocolViolation("certificate lacks a member's names or usages") from error
    node_id = common[0] if len(common) == 1 else ""
    if not isinstance(node_id, str) or not is_node_id(node_id):
        raise ProtocolViolation("certificate names no member")
    if count != 2 or uris != [spiffe_uri(mesh_id, node_id)] or hosts != [dns_name(mesh_id, node_id)]:
        raise ProtocolViolation(f"certificate of {node_id!r} bears names of another member or mesh")
    usages: set[Usage] = set()
    if ExtendedKeyUsageOID.CLIENT_AUTH in oids:
        usages.add("client")
    if ExtendedKeyUsageOID.SERVER_AUTH in oids:
        usages.add("server")
    return node_id, frozenset(usages)


def _is_pinned(certificate: x509.Certificate, pin: bytes | str) -> bool:
    if isinstance(pin, str):
        return is_mesh_id(pin) and mesh_id_of(_spki_of(certificate)) == pin
    return _spki_of(certificate) == pin


def _check_ca(certificate: x509.Certificate, pathlen: int) -> None:
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    except MALFORMED as error:
        raise ProtocolViolation("CA certificate lacks its constraints") from error
    if not basic.critical or not basic.value.ca or basic.value.path_length != pathlen:
        raise ProtocolViolation("certificate is not the CA that its place in the chain asks for")
    if not usage.value.key_cert_sign:
        raise ProtocolViolation("CA certificate may not sign")


# -- spelling


def _build_ca(
    public_key: ec.EllipticCurvePublicKey,
    name: str,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
    pathlen: int,
    *,
    now_s: int,
    days: int,
    serial: bytes,
) -> x509.Certificate:
    end_s = now_s + days * DAY_S
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer.subject if issuer else _name(name))
        .public_key(public_key)
        .serial_number(_serial(serial))
        .not_valid_before(_date(now_s - HOUR_S))
        .not_valid_after(_date(min(end_s, not_after_s(issuer)) if issuer else end_s))
        .add_extension(x509.BasicConstraints(ca=True, path_length=pathlen), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )
    if issuer is not None:
        builder = builder.add_extension(_authority_key_id(issuer), critical=False)
    return builder.sign(issuer_key, SHA256(), ecdsa_deterministic=True)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    """A CA signs certificates and (digitalSignature) rosters; a leaf signs handshakes."""
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key_id(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    skid = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(skid)


def _spki_of(certificate: x509.Certificate) -> bytes:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ProtocolViolation("certificate holds no P-256 key")
    return spki_sha256(key)


def spki_sha256_of(certificate: x509.Certificate) -> bytes:
    """Raises: ProtocolViolation: the certificate holds another kind of key."""
    return _spki_of(certificate)


def _subject(node_id: str, public_key: ec.EllipticCurvePublicKey) -> x509.Name:
    """Name and key: mosquitto knows a client by its certificate's subject, and by nothing else."""
    mark = key_mark(spki_sha256(public_key))
    return x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, node_id), x509.NameAttribute(NameOID.SERIAL_NUMBER, mark)]
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _serial(entropy: bytes) -> int:
    assert len(entropy) == 16, "a serial number takes 16 random bytes"
    return int.from_bytes(entropy, "big") | 1 << 127  # positive, never zero


def _date(at_s: int) -> datetime:
    return datetime.fromtimestamp(max(0, min(at_s, _DATE_MAX_S)), UTC)


def _spelled(at_s: int) -> str:
    return _date(at_s).strftime("%Y-%m-%d")
