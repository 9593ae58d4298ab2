"""Certificates: our profile and no other, at times that are arguments."""

import os
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from security.authority import Authority
from security.certificates import (
    DAY_S,
    RELEASED_S,
    believable_s,
    build_csr,
    build_leaf,
    check_peer_times,
    der_of,
    floor_s,
    key_of_csr,
    not_after_s,
    not_before_s,
    pem_of,
    read_certificate,
    read_pem,
    renewal_due_s,
    verify_chain,
    verify_leaf,
)
from security.errors import BadInput, ProtocolViolation
from security.identity import NodeKeys, bearer

NOW_S = 1_795_000_000
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # the order of P-256


@pytest.fixture(scope="module")
def mesh():
    return Authority.create(now_s=NOW_S, entropy=os.urandom)


@pytest.fixture(scope="module")
def keys():
    return NodeKeys.generate()


def chain(mesh):
    return [mesh.issuing, mesh.root]


def leaf_of(mesh, keys, name="pi-1", **more):
    return read_pem(mesh.issue(keys.public, name, now_s=NOW_S, **more))[0]


def verified(mesh, leaf, usage="client", floor=NOW_S, now_s=None):
    return verify_leaf(
        chain(mesh), leaf, root_spki_sha256=mesh.root_spki_sha256, usage=usage, floor_s=floor, now_s=now_s
    )


def subject(leaf):
    return leaf.subject.rfc4514_string({NameOID.SERIAL_NUMBER: "serialNumber"})


def test_a_leaf_has_exactly_the_profile(mesh, keys):
    leaf = leaf_of(mesh, keys)
    extensions = {e.oid._name: (e.critical, e.value) for e in leaf.extensions}

    assert (
        subject(leaf)
        == f"serialNumber={keys.spki_sha256[:16].hex()},CN=pi-1"
        == bearer("pi-1", keys.spki_sha256)
    )
    assert not_before_s(leaf) == NOW_S - 3600
    assert not_after_s(leaf) == NOW_S + 30 * DAY_S
    assert set(extensions) == {
        "basicConstraints",
        "keyUsage",
        "extendedKeyUsage",
        "subjectAltName",
        "subjectKeyIdentifier",
        "authorityKeyIdentifier",
    }
    assert list(extensions["subjectAltName"][1]) == [
        x509.UniformResourceIdentifier(f"spiffe://{mesh.mesh_id}/node/pi-1"),
        x509.DNSName(f"pi-1.{mesh.mesh_id}.mesh"),
    ]
    assert list(extensions["extendedKeyUsage"][1]) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert extensions["basicConstraints"] == (True, x509.BasicConstraints(False, None))
    assert extensions["keyUsage"][1].digital_signature
    assert not extensions["keyUsage"][1].key_cert_sign


def test_the_authority_is_two_steps_deep(mesh):
    def pathlen(certificate):
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length

    assert (pathlen(mesh.root), pathlen(mesh.issuing)) == (1, 0)
    assert mesh.mesh_id == mesh.root_spki_sha256[:8].hex()


def test_usages_follow_the_role(mesh, keys):
    broker = read_pem(mesh.issue_broker(keys.public, now_s=NOW_S))[0]

    assert verified(mesh, leaf_of(mesh, keys)).usages == {"client"}
    assert verified(mesh, leaf_of(mesh, keys, "gateway"), "server").usages == {"client", "server"}
    assert verified(mesh, broker, "server").node_id == "broker"
    with pytest.raises(ProtocolViolation, match="not meant for a client"):
        verified(mesh, broker)
    with pytest.raises(ProtocolViolation, match="not meant for a server"):
        verified(mesh, leaf_of(mesh, keys), "server")


@pytest.mark.parametrize("name", ["broker", "", "A", "-a", "a-", "a" * 33, "a.b", "ü"])
def test_no_leaf_is_issued_for_a_name_that_no_member_bears(mesh, keys, name):
    with pytest.raises(BadInput):
        mesh.issue(keys.public, name, now_s=NOW_S)


def test_another_mesh_is_refused(mesh, keys):
    other = Authority.create(now_s=NOW_S, entropy=os.urandom)
    leaf = leaf_of(other, keys)

    with pytest.raises(ProtocolViolation, match="does not match the pinned root"):
        verify_leaf(chain(other), leaf, root_spki_sha256=mesh.root_spki_sha256, usage="client", floor_s=NOW_S)
    with pytest.raises(ProtocolViolation, match="names of another member or mesh"):
        verified(mesh, leaf)


def test_a_leaf_signed_by_another_key_under_the_right_names_is_refused(mesh, keys):
    forger = ec.generate_private_key(ec.SECP256R1())
    forged = build_leaf(
        keys.public,
        issuing=mesh.issuing,
        issuing_key=forger,
        mesh_id=mesh.mesh_id,
        node_id="pi-1",
        usages=frozenset({"client"}),
        now_s=NOW_S,
        serial=os.urandom(16),
    )

    with pytest.raises(ProtocolViolation, match="does not follow"):
        verified(mesh, forged)


def test_a_member_cannot_issue(mesh, keys):
    """A leaf in the issuing CA's place, with the key that belongs to it."""
    member, victim = leaf_of(mesh, keys), NodeKeys.generate()
    forged = build_leaf(
        victim.public,
        issuing=member,
        issuing_key=keys.signing,
        mesh_id=mesh.mesh_id,
        node_id="pi-2",
        usages=frozenset({"client"}),
        now_s=NOW_S,
        serial=os.urandom(16),
    )

    with pytest.raises(ProtocolViolation, match="not the CA"):
        verify_leaf(
            [member, mesh.root], forged, root_spki_sha256=mesh.root_spki_sha256, usage="client", floor_s=NOW_S
        )
    with pytest.raises(ProtocolViolation):
        verified(mesh, forged)


def test_root_and_issuing_cannot_change_places(mesh):
    assert verify_chain([mesh.root, mesh.issuing], root_spki_sha256=mesh.mesh_id) == (mesh.issuing, mesh.root)
    for wrong in ([mesh.root], [mesh.root, mesh.root], [mesh.issuing, mesh.issuing], []):
        with pytest.raises(ProtocolViolation):
            verify_chain(wrong, root_spki_sha256=mesh.root_spki_sha256)


def test_expiry_is_held_against_the_floor_not_the_wall(mesh, keys):
    leaf = leaf_of(mesh, keys)
    end_s = not_after_s(leaf)

    assert verified(mesh, leaf, floor=0).node_id == "pi-1"  # a clock in 1970
    assert verified(mesh, leaf, floor=end_s).node_id == "pi-1"
    with pytest.raises(ProtocolViolation, match="expired"):
        verified(mesh, leaf, floor=end_s + 1)


def test_a_trusted_clock_judges_both_ends(mesh, keys):
    leaf = leaf_of(mesh, keys)

    assert verified(mesh, leaf, floor=0, now_s=NOW_S).node_id == "pi-1"
    with pytest.raises(ProtocolViolation, match="not valid yet"):
        verified(mesh, leaf, floor=0, now_s=NOW_S - 3601)
    with pytest.raises(ProtocolViolation, match="expired"):
        verified(mesh, leaf, floor=0, now_s=NOW_S + 31 * DAY_S)


def test_the_floor_is_the_latest_time_that_surely_passed():
    assert floor_s() == RELEASED_S < time.time(), "a release date to come would shut every true clock out"
    assert floor_s(0, RELEASED_S + 5, 7) == RELEASED_S + 5
    assert believable_s(0, RELEASED_S) == RELEASED_S
    assert believable_s(RELEASED_S + 9, RELEASED_S) == RELEASED_S + 9


def test_a_peer_that_expired_before_the_floor_is_refused(mesh, keys):
    leaf = leaf_of(mesh, keys)

    check_peer_times(der_of(leaf), floor_s=NOW_S)
    with pytest.raises(ProtocolViolation, match="expired 2 days before"):
        check_peer_times(der_of(leaf), floor_s=NOW_S + 32 * DAY_S)
    with pytest.raises(ProtocolViolation, match="no certificate"):
        check_peer_times(None, floor_s=NOW_S)


def test_a_leaf_never_outlives_its_issuing_ca(mesh, keys):
    late = read_pem(mesh.issue(keys.public, "pi-1", now_s=not_after_s(mesh.issuing) - DAY_S))[0]

    assert not_after_s(late) == not_after_s(mesh.issuing)


def test_renewal_is_due_from_a_third_of_the_lifetime(mesh, keys):
    leaf = leaf_of(mesh, keys)

    assert renewal_due_s(leaf) == NOW_S - 3600 + (30 * DAY_S + 3600) // 3


def test_a_malleated_certificate_keeps_its_identity(mesh, keys):
    """(r, n - s) verifies as well: the hash of the certificate changes, id and SPKI do not."""
    leaf = leaf_of(mesh, keys)
    r, s = decode_dss_signature(leaf.signature)
    other_signature = encode_dss_signature(r, N - s)
    shell = leaf.tbs_certificate_bytes + bytes.fromhex("300a06082a8648ce3d040302")
    body = shell + b"\x03" + bytes([len(other_signature) + 1]) + b"\x00" + other_signature
    twin = read_certificate(b"\x30\x82" + len(body).to_bytes(2, "big") + body)

    assert twin.fingerprint(SHA256()) != leaf.fingerprint(SHA256())
    assert verified(mesh, twin) == verified(mesh, leaf)


def test_a_signature_that_leaves_bits_unused_is_refused(mesh, keys):
    """A bit string may say so where its last bit is zero: the same signature in other bytes."""
    leaf = next(leaf for _ in range(200) if not (leaf := leaf_of(mesh, keys)).signature[-1] & 1)
    der = bytearray(leaf.public_bytes(Encoding.DER))
    der[-len(leaf.signature) - 1] = 1
    assert x509.load_der_x509_certificate(bytes(der)).signature == leaf.signature

    with pytest.raises(ProtocolViolation, match="no whole number of bytes"):
        read_certificate(bytes(der))


def test_a_csr_gives_its_key_and_nothing_else(mesh, keys):
    csr = build_csr(keys.signing, "someone-else")

    assert key_of_csr(csr) == keys.public
    assert subject(read_pem(mesh.issue(csr, "pi-1", now_s=NOW_S))[0]) == bearer("pi-1", keys.spki_sha256)


def test_a_csr_that_does_not_prove_its_key_is_refused(keys):
    csr = bytearray(build_csr(keys.signing, "pi-1"))
    csr[-1] ^= 1
    p384 = ec.generate_private_key(ec.SECP384R1())
    foreign = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    edwards = foreign.sign(Ed25519PrivateKey.generate(), None).public_bytes(Encoding.DER)

    for wrong in (bytes(csr), b"", b"\x30\x00", build_csr(p384, "pi-1"), edwards):
        with pytest.raises(ProtocolViolation):
            key_of_csr(wrong)


def test_pem_and_der_that_are_not_ours_are_refused(mesh):
    for wrong in (b"", b"nonsense", pem_of(mesh.root) * 5):
        with pytest.raises(ProtocolViolation):
            read_pem(wrong)
    with pytest.raises(ProtocolViolation):
        read_certificate(der_of(mesh.root)[:-1])
