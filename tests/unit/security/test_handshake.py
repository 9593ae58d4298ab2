"""Noise KK against two independent implementations, and our primitives against the RFCs."""

from __future__ import annotations

import pathlib

import cryptography_vectors
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from dissononce.cipher.chachapoly import ChaChaPolyCipher
from dissononce.dh.x25519.private import PrivateKey
from dissononce.dh.x25519.public import PublicKey
from dissononce.dh.x25519.x25519 import X25519DH
from dissononce.hash.sha256 import SHA256Hash
from dissononce.processing.handshakepatterns.interactive.KK import KKHandshakePattern
from dissononce.processing.impl.cipherstate import CipherState
from dissononce.processing.impl.handshakestate import HandshakeState
from dissononce.processing.impl.symmetricstate import SymmetricState
from noise.connection import Keypair, NoiseConnection

from security.errors import BadInput, ProtocolViolation
from security.handshake import KK, public_of

# Ephemerals are injected on purpose here; noiseprotocol warns about it.
pytestmark = pytest.mark.filterwarnings("ignore:One of ephemeral keypairs:UserWarning")

I_STATIC, R_STATIC = bytes(range(1, 33)), bytes(range(101, 133))
I_EPHEMERAL, R_EPHEMERAL = bytes(range(33, 65)), bytes(range(65, 97))
PROLOGUE = b"a prologue that both sides hold"
VECTORS = pathlib.Path(cryptography_vectors.__file__).parent


class NoiseProtocolPeer:
    """The `noiseprotocol` package behind our four names."""

    def __init__(self, role: str, static: bytes, remote: bytes, ephemeral: bytes) -> None:
        self.connection = NoiseConnection.from_name(b"Noise_KK_25519_ChaChaPoly_SHA256")
        if role == "initiator":
            self.connection.set_as_initiator()
        else:
            self.connection.set_as_responder()
        self.connection.set_prologue(PROLOGUE)
        self.connection.set_keypair_from_private_bytes(Keypair.STATIC, static)
        self.connection.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, remote)
        self.connection.set_keypair_from_private_bytes(Keypair.EPHEMERAL, ephemeral)
        self.connection.start_handshake()
        self.role = role

    def write(self, payload: bytes) -> bytes:
        return bytes(self.connection.write_message(payload))

    def read(self, message: bytes) -> bytes:
        return bytes(self.connection.read_message(message))

    def split(self) -> tuple[bytes, bytes]:
        protocol = self.connection.noise_protocol
        keys = bytes(protocol.cipher_state_encrypt.k), bytes(protocol.cipher_state_decrypt.k)
        return keys if self.role == "initiator" else keys[::-1]

    @property
    def hash(self) -> bytes:
        return bytes(self.connection.get_handshake_hash())


class DissononcePeer:
    """The `dissononce` package behind our four names; it draws its own ephemeral keys."""

    def __init__(self, role: str, static: bytes, remote: bytes, ephemeral: bytes) -> None:
        self.dh = X25519DH()
        symmetric = SymmetricState(CipherState(ChaChaPolyCipher()), SHA256Hash())
        self.state = HandshakeState(symmetric, self.dh)
        self.state.initialize(
            KKHandshakePattern(),
            role == "initiator",
            PROLOGUE,
            s=self.dh.generate_keypair(PrivateKey(static)),
            rs=PublicKey(remote),
        )
        self.symmetric = symmetric
        self.ciphers = None

    def write(self, payload: bytes) -> bytes:
        buffer = bytearray()
        self.ciphers = self.state.write_message(payload, buffer)
        return bytes(buffer)

    def read(self, message: bytes) -> bytes:
        buffer = bytearray()
        self.ciphers = self.state.read_message(message, buffer)
        return bytes(buffer)

    def split(self) -> tuple[bytes, bytes]:
        first, second = self.ciphers
        return bytes(first._key), bytes(second._key)

    @property
    def hash(self) -> bytes:
        return bytes(self.symmetric.get_handshake_hash())


def ours(role: str) -> KK:
    if role == "initiator":
        return KK(role, I_STATIC, public_of(R_STATIC), PROLOGUE, I_EPHEMERAL)
    return KK(role, R_STATIC, public_of(I_STATIC), PROLOGUE, R_EPHEMERAL)


def theirs(peer: type, role: str):
    if role == "initiator":
        return peer(role, I_STATIC, public_of(R_STATIC), I_EPHEMERAL)
    return peer(role, R_STATIC, public_of(I_STATIC), R_EPHEMERAL)


@pytest.mark.parametrize("peer", [NoiseProtocolPeer, DissononcePeer])
@pytest.mark.parametrize("role", ["initiator", "responder"])
def test_a_handshake_completes_with_an_independent_implementation(peer, role):
    """Both roles, payloads both ways, the same transport keys, the same hash."""
    we, they = ours(role), theirs(peer, "responder" if role == "initiator" else "initiator")
    first, second = (we, they) if role == "initiator" else (they, we)

    assert second.read(first.write(b"one payload")) == b"one payload"
    assert first.read(second.write(b"and the other")) == b"and the other"

    assert we.split() == they.split()
    assert we.hash == they.hash
    assert len(set(we.split())) == 2


def test_the_same_keys_give_the_same_bytes_as_noiseprotocol():
    """With both ephemerals injected nothing is left to chance, so that any published vector can be fed."""
    we, they = (
        [ours("initiator"), ours("responder")],
        [
            theirs(NoiseProtocolPeer, "initiator"),
            theirs(NoiseProtocolPeer, "responder"),
        ],
    )

    talks = []
    for initiator, responder in (we, they):
        m1 = initiator.write(b"payload 1")
        responder.read(m1)
        m2 = responder.write(b"payload 2")
        initiator.read(m2)
        talks.append((m1, m2, initiator.split(), initiator.hash))
    assert talks[0] == talks[1]


def test_without_an_ephemeral_each_handshake_is_another():
    m1 = {KK("initiator", I_STATIC, public_of(R_STATIC), PROLOGUE).write(b"") for _ in range(4)}

    assert len(m1) == 4


@pytest.mark.parametrize("payload", [b"", b"x" * 28])
def test_a_message_with_any_flipped_bit_is_refused_and_the_true_one_still_read(payload):
    """An injected frame must not end a handshake that the real peer is about to finish."""
    initiator, responder = ours("initiator"), ours("responder")

    for writer, reader in ((initiator, responder), (responder, initiator)):
        message = writer.write(payload)
        before = reader.hash
        for bit in range(8 * len(message)):
            forged = bytearray(message)
            forged[bit // 8] ^= 1 << bit % 8
            with pytest.raises(ProtocolViolation):
                reader.read(bytes(forged))
        assert reader.hash == before
        assert reader.read(message) == payload
    assert initiator.split() == responder.split()


def test_a_message_cut_short_or_made_longer_is_refused():
    message = ours("initiator").write(b"payload")

    for size in range(len(message)):
        with pytest.raises(ProtocolViolation):
            ours("responder").read(message[:size])
    for more in (b"\0", bytes(70_000)):
        with pytest.raises(ProtocolViolation):
            ours("responder").read(message + more)


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31), bytes.fromhex("ec" + "ff" * 30 + "7f")])
def test_a_low_order_point_is_refused(point):
    """As an ephemeral in a message and as a listed static key."""
    with pytest.raises(ProtocolViolation, match="degenerate"):
        ours("responder").read(point + bytes(16))
    with pytest.raises(ProtocolViolation, match="degenerate"):
        KK("initiator", I_STATIC, point, PROLOGUE).write(b"")


@pytest.mark.parametrize(
    "other",
    [
        lambda: KK("responder", R_STATIC, public_of(I_STATIC), PROLOGUE + b"!", R_EPHEMERAL),
        lambda: KK("responder", I_EPHEMERAL, public_of(I_STATIC), PROLOGUE, R_EPHEMERAL),
        lambda: KK("responder", R_STATIC, public_of(I_EPHEMERAL), PROLOGUE, R_EPHEMERAL),
    ],
    ids=["another prologue", "another responder", "another initiator"],
)
def test_who_expects_another_handshake_refuses_this_one(other):
    with pytest.raises(ProtocolViolation, match="authenticate"):
        other().read(ours("initiator").write(b""))


def test_misuse_is_the_callers_fault():
    initiator, responder = ours("initiator"), ours("responder")

    with pytest.raises(BadInput, match="turn"):
        responder.write(b"")
    with pytest.raises(BadInput, match="turn"):
        initiator.read(bytes(48))
    with pytest.raises(BadInput, match="finished"):
        initiator.split()
    with pytest.raises(BadInput, match="too long"):
        initiator.write(bytes(65_488))
    with pytest.raises(BadInput, match="role"):
        KK("client", I_STATIC, public_of(R_STATIC), b"")
    with pytest.raises(BadInput, match="31 bytes"):
        KK("initiator", I_STATIC[:31], public_of(R_STATIC), b"")
    with pytest.raises(BadInput, match="33 bytes"):
        KK("initiator", I_STATIC, public_of(R_STATIC) + b"\0", b"")
    initiator.write(b"")
    with pytest.raises(BadInput, match="turn"):
        initiator.write(b"")


# -- our primitives are what we think they are


def blocks(path: str, separator: str) -> list[dict[str, str]]:
    """Records of `NAME = value` lines, a new one at each COUNT."""
    found: list[dict[str, str]] = []
    for line in (VECTORS / path).read_text().splitlines():
        name, equals, value = line.partition(separator)
        if not equals or line.startswith("#"):
            continue
        if name.strip() == "COUNT":
            found.append({})
        elif found:
            found[-1][name.strip()] = value.strip()
    return found


def as_bytes(text: str) -> bytes:
    return text[1:-1].encode() if text.startswith('"') else bytes.fromhex(text)


def test_chacha20_poly1305_is_that_of_rfc_7539():
    records = blocks("ciphers/ChaCha20Poly1305/boringssl.txt", "=")
    tried = 0
    for record in records:
        tag = bytes.fromhex(record["TAG"])
        if len(tag) != 16:
            continue
        key, nonce, aad = (as_bytes(record[name]) for name in ("KEY", "NONCE", "AD"))
        plain, sealed = as_bytes(record["IN"]), as_bytes(record["CT"])
        assert ChaCha20Poly1305(key).encrypt(nonce, plain, aad) == sealed + tag
        assert ChaCha20Poly1305(key).decrypt(nonce, sealed + tag, aad) == plain
        tried += 1
    assert tried >= 6


def test_x25519_is_that_of_rfc_7748():
    records = blocks("asymmetric/X25519/rfc7748.txt", "=")
    tried = 0
    for record in records:
        scalar, u, product = (bytes.fromhex(record[n]) for n in ("INPUT_SCALAR", "INPUT_U", "OUTPUT_U"))
        private = X25519PrivateKey.from_private_bytes(scalar)
        assert private.exchange(X25519PublicKey.from_public_bytes(u)) == product
        tried += 1
    assert tried >= 2


def test_hkdf_expand_sha256_is_that_of_rfc_5869():
    records = blocks("KDF/rfc-5869-HKDF-SHA256.txt", "=")
    tried = 0
    for record in records:
        info = bytes.fromhex(record.get("info", ""))
        expand = HKDFExpand(algorithm=hashes.SHA256(), length=int(record["L"]), info=info)
        assert expand.derive(bytes.fromhex(record["PRK"])) == bytes.fromhex(record["OKM"])
        tried += 1
    assert tried >= 3
