"""A throw-away certificate authority for tests of sockets; shaped as a mesh's own, nothing more.

The real one is `security.authority`; tests of brokers and links only need files that TLS accepts.
"""

from __future__ import annotations

import datetime as dt
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from security.identity import bearer, key_mark, spki_sha256

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
MESH = "0123456789abcdef"
BOTH_SIDES = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


@dataclass(frozen=True)
class Leaf:
    cert_file: Path
    key_file: Path
    bearer: str


class TestAuthority:
    __test__ = False

    def __init__(self, folder: Path, mesh: str = MESH) -> None:
        self.folder = folder
        self.mesh = mesh
        folder.mkdir(parents=True, exist_ok=True)
        self.root_key = ec.generate_private_key(ec.SECP256R1())
        self.root = self._ca("root", self.root_key, None, 1)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.issuing = self._ca("issuing", self.key, self.root, 0)
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(_pem(self.issuing) + _pem(self.root))

    @property
    def broker_name(self) -> str:
        return f"broker.{self.mesh}.mesh"

    def leaf(
        self,
        name: str,
        *,
        days: int = 30,
        dns: str | None = None,
        filed_as: str | None = None,
        usages: tuple[x509.ObjectIdentifier, ...] = BOTH_SIDES,
    ) -> Leaf:
        """`days` < 0: expired that long ago."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        begin = now - dt.timedelta(hours=1) if days > 0 else now + dt.timedelta(days=days - 30)
        builder = (
            x509.CertificateBuilder()
            .subject_name(
                x509.Name(
                    [
                        x509.NameAttribute(NameOID.COMMON_NAME, name),
                        x509.NameAttribute(NameOID.SERIAL_NUMBER, key_mark(spki_sha256(key.public_key()))),
                    ]
                )
            )
            .issuer_name(self.issuing.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(False, None), True)
            .add_extension(
                x509.SubjectAlternativeName([x509.DNSName(dns or f"{name}.{self.mesh}.mesh")]), False
            )
            .add_extension(_usage(ca=False), True)
            .add_extension(
                x509.ExtendedKeyUsage(usages),
                False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False)
        )
        stem = filed_as or name
        who = bearer(name, spki_sha256(key.public_key()))
        leaf = Leaf(self.folder / f"{stem}.pem", self.folder / f"{stem}.key", who)
        leaf.cert_file.write_bytes(_pem(builder.sign(self.key, hashes.SHA256())) + _pem(self.issuing))
        leaf.key_file.write_bytes(_private(key))
        leaf.key_file.chmod(0o600)
        return leaf

    def broker(self) -> Leaf:
        return self.leaf("broker", dns=self.broker_name)

    def client_context(self, leaf: Leaf | None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(self.ca_file)
        if leaf is not None:
            context.load_cert_chain(leaf.cert_file, leaf.key_file)
        return context

    def _ca(
        self, name: str, key: ec.EllipticCurvePrivateKey, parent: x509.Certificate | None, pathlen: int
    ) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{self.mesh} {name}")])
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if parent is None else parent.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=100))
            .not_valid_after(now + dt.timedelta(days=1000))
            .add_extension(x509.BasicConstraints(True, pathlen), True)
            .add_extension(_usage(ca=True), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.root_key.public_key()), False
            )
            .sign(self.root_key, hashes.SHA256())
        )


def malleated(leaf: Leaf, folder: Path) -> Leaf:
    """The same certificate under another signature that holds as well, made by who has no key of the CA.

    ECDSA: if (r, s) signs, so does (r, n - s). Its bytes, and so its hash, are others.
    """
    first, *rest = x509.load_pem_x509_certificates(leaf.cert_file.read_bytes())
    r, s = decode_dss_signature(first.signature)
    signature = encode_dss_signature(r, P256_ORDER - s)
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")  # ecdsa-with-SHA256
    body = first.tbs_certificate_bytes + algorithm + _tlv(0x03, b"\0" + signature)
    changed = x509.load_der_x509_certificate(_tlv(0x30, body))
    assert changed.fingerprint(hashes.SHA256()) != first.fingerprint(hashes.SHA256())
    changed.verify_directly_issued_by(rest[0])
    folder.mkdir(parents=True, exist_ok=True)
    made = Leaf(folder / "malleated.pem", leaf.key_file, leaf.bearer)
    made.cert_file.write_bytes(b"".join(_pem(one) for one in (changed, *rest)))
    return made


def _tlv(tag: int, value: bytes) -> bytes:
    size = len(value)
    if size < 128:
        return bytes((tag, size)) + value
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + value


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=ca, crl_sign=ca, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
