"""Sealed parcels: the exact bytes, the strict door, and two COSE libraries that open what we seal."""

from __future__ import annotations

import gc

import cbor2
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cwt import COSE, COSEKey
from pycose.algorithms import A256GCM, CoseAlgorithm, _EncAlg
from pycose.headers import KID, Algorithm, PartialIV
from pycose.keys import SymmetricKey
from pycose.keys.keyparam import KpAlg, KpBaseIV
from pycose.messages import CoseMessage, Enc0Message

from security.envelope import (
    PARCEL_BYTES_MAX,
    PLAIN_BYTES_MAX,
    SEQ_LIMIT,
    WARM_MAX,
    Opener,
    Sealer,
    aad,
    bstr_head,
    is_parcel,
    peek_kid,
)
from security.errors import BadInput, ProtocolViolation
from tests.support.flipped import flipped

KEY, IV, KID8 = bytes(range(32)), bytes(range(200, 212)), b"kid of 8"
CONTEXT = cbor2.dumps([1, "0123456789abcdef", "ew/1/0123456789abcdef/d/b/a", "a", "b", KID8, 0])
HEAD = bytes.fromhex("d083 44a1011818 a20448") + KID8
SEQS = [1, 23, 24, 255, 256, 65_535, 65_536, SEQ_LIMIT - 1]
SIZES = [0, 1, 7, 8, 239, 240, 65_519, 65_520, PLAIN_BYTES_MAX]


def sealer() -> Sealer:
    return Sealer(KEY, IV, KID8, CONTEXT)


def opener() -> Opener:
    return Opener(KEY, IV, KID8, CONTEXT)


def refused(parcel: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        opener().open(parcel)


@pytest.mark.parametrize("seq", SEQS)
@pytest.mark.parametrize("size", SIZES)
def test_what_is_sealed_opens_and_is_canonical_cbor(seq, size):
    """At every border of a length form; a CBOR library writes the same bytes from the parsed parcel."""
    plain = bytes(i % 251 for i in range(size))

    parcel = sealer().seal(seq, plain)

    assert opener().open(parcel) == (seq, plain)
    assert peek_kid(parcel) == KID8
    assert len(parcel) <= PARCEL_BYTES_MAX
    assert cbor2.dumps(cbor2.loads(parcel), canonical=True) == parcel


def test_the_bytes_are_those_of_the_specification():
    parcel = sealer().seal(0x0102, b"x" * 256)

    assert parcel[:18] == HEAD
    assert parcel[18:22] == bytes.fromhex("06 42 0102")
    assert parcel[22:25] == bytes.fromhex("59 0110")
    assert len(parcel) == 25 + 256 + 16
    assert aad(CONTEXT) == cbor2.dumps(["Encrypt0", bytes.fromhex("a1011818"), CONTEXT])


@pytest.mark.parametrize("size", [0, 23, 24, 255, 256, 65_535, 65_536])
def test_lengths_are_written_in_the_shortest_form(size):
    assert bstr_head(size) + bytes(size) == cbor2.dumps(bytes(size))


# -- independent decoders


@pytest.mark.parametrize("seq", SEQS)
def test_cwt_opens_our_parcel(seq):
    """`cwt` knows ChaCha20/Poly1305 but wants the full IV: it is written into the (unauthenticated) header in
    place of the partial one; protected header, ciphertext and tag stay byte for byte."""
    parcel = sealer().seal(seq, b"a parcel for cwt")
    tag = cbor2.loads(parcel)
    protected, unprotected, sealed = tag.value
    nonce = bytes(a ^ b for a, b in zip(IV, unprotected.pop(6).rjust(12, b"\0"), strict=True))
    unprotected[5] = nonce
    message = cbor2.dumps(cbor2.CBORTag(16, [protected, unprotected, sealed]))
    key = COSEKey.from_symmetric_key(KEY, alg="ChaCha20/Poly1305", kid=KID8)

    assert COSE.new().decode(message, key, external_aad=CONTEXT) == b"a parcel for cwt"
    with pytest.raises(Exception, match="decrypt"):
        COSE.new().decode(message, key, external_aad=CONTEXT + b"!")


def test_cwt_seals_the_bytes_that_we_seal():
    nonce = bytes(a ^ b for a, b in zip(IV, (7).to_bytes(12, "big"), strict=True))
    key = COSEKey.from_symmetric_key(KEY, alg="ChaCha20/Poly1305", kid=KID8)
    theirs = COSE.new().encode_and_encrypt(
        b"the same", key, protected={1: 24}, unprotected={4: KID8, 5: nonce}, external_aad=CONTEXT
    )

    assert cbor2.loads(theirs).value[2] == cbor2.loads(sealer().seal(7, b"the same")).value[2]


class ChaCha20Poly1305ForPycose(_EncAlg):
    """`pycose` 1.1 lacks the algorithm: only its name and the two calls are lent to it. Parsing, the nonce
    from Base IV and Partial IV, the Enc_structure and the encoding are its own."""

    identifier = 24
    fullname = "CHACHA20_POLY1305"

    @classmethod
    def get_key_length(cls):
        return 32

    @classmethod
    def encrypt(cls, key, nonce, data, aad):
        return ChaCha20Poly1305(key.k).encrypt(nonce, data, aad)

    @classmethod
    def decrypt(cls, key, nonce, ciphertext, aad):
        return ChaCha20Poly1305(key.k).decrypt(nonce, ciphertext, aad)


@pytest.fixture
def chacha_in_pycose(monkeypatch):
    known = CoseAlgorithm.get_registered_classes()
    monkeypatch.setitem(known, 24, ChaCha20Poly1305ForPycose)
    monkeypatch.setitem(known, "CHACHA20_POLY1305", ChaCha20Poly1305ForPycose)
    return SymmetricKey(k=KEY, optional_params={KpAlg: ChaCha20Poly1305ForPycose, KpBaseIV: IV})


@pytest.mark.parametrize("seq", SEQS)
def test_pycose_opens_our_parcel_and_seals_the_same_one(chacha_in_pycose, seq):
    parcel = sealer().seal(seq, b"a parcel for pycose")

    message = CoseMessage.decode(parcel)
    message.external_aad, message.key = CONTEXT, chacha_in_pycose
    assert message.decrypt() == b"a parcel for pycose"
    assert message._enc_structure == aad(CONTEXT)

    theirs = Enc0Message(
        phdr={Algorithm: ChaCha20Poly1305ForPycose},
        uhdr=dict(message.uhdr),
        payload=b"a parcel for pycose",
        external_aad=CONTEXT,
    )
    theirs.key = chacha_in_pycose
    assert message.uhdr[KID] == KID8
    assert theirs.encode() == parcel


@pytest.mark.parametrize("seq", SEQS)
def test_pycose_makes_the_nonce_that_we_make(seq):
    """The same shape with AES-GCM, which it has: it seals with Base IV and our Partial IV, and what it
    sealed opens under iv XOR left-padded seq and the AAD by our rule."""
    partial = seq.to_bytes((seq.bit_length() + 7) // 8, "big")
    message = Enc0Message(
        phdr={Algorithm: A256GCM}, uhdr={KID: KID8, PartialIV: partial}, payload=b"ours", external_aad=CONTEXT
    )
    message.key = SymmetricKey(k=KEY, optional_params={KpAlg: A256GCM, KpBaseIV: IV})
    theirs = message.encode()
    protected, unprotected, sealed = cbor2.loads(theirs).value
    nonce = (int.from_bytes(IV, "big") ^ seq).to_bytes(12, "big")
    enc_structure = aad(CONTEXT).replace(bytes.fromhex("44a1011818"), cbor2.dumps(protected))

    assert unprotected == {4: KID8, 6: partial}
    assert AESGCM(KEY).decrypt(nonce, sealed, enc_structure) == b"ours"
    assert CoseMessage.decode(theirs).uhdr[PartialIV] == partial


# -- the door


@pytest.mark.parametrize("seq", [1, 0x0102, 0x010203])
def test_every_flipped_bit_is_refused(seq):
    parcel = sealer().seal(seq, b"every single bit of this matters" * 9)
    strict = opener()

    for _, forged in flipped(parcel):
        with pytest.raises(ProtocolViolation):
            strict.open(forged)
    assert strict.open(parcel)[0] == seq


def test_a_parcel_cut_anywhere_or_with_bytes_left_over_is_refused():
    for size in (0, 8, 300):
        parcel = sealer().seal(300, bytes(size))
        for end in range(len(parcel)):
            refused(parcel[:end])
        refused(parcel + b"\0")
        refused(b"\0" + parcel)


def reshaped(seq_bytes: bytes, head: bytes, seq: int, plain: bytes) -> bytes:
    """A parcel whose tag is good for ``seq``, with the header written as told."""
    sealed = sealer().seal(seq, plain)[-(len(plain) + 16) :]
    return HEAD + b"\x06" + bytes([0x40 + len(seq_bytes)]) + seq_bytes + head + sealed


def test_the_reshaping_of_these_tests_is_sound():
    assert opener().open(reshaped(b"\7", b"\x58\x28", 7, bytes(24))) == (7, bytes(24))


@pytest.mark.parametrize(
    ("seq_bytes", "head"),
    [
        (b"\x00\x07", b"\x58\x28"),
        (b"\x00\x00\x07", b"\x58\x28"),
        (b"\x00\x00\x00\x07", b"\x58\x28"),
        (b"", b"\x58\x28"),
        (b"\x07", b"\x59\x00\x28"),
        (b"\x07", b"\x5a\x00\x00\x00\x28"),
        (b"\x07", b"\x5b" + bytes(7) + b"\x28"),
        (b"\x07", b"\x5f\x58\x28"),
        (b"\x07", b"\x78\x28"),
        (b"\x07", b"\x58\x27"),
        (b"\x07", b"\x58\x29"),
        (b"\x07", b"\xf6"),
    ],
    ids=[
        "leading zero", "two leading zeros", "three leading zeros", "empty partial IV",
        "two length bytes", "four length bytes", "eight length bytes", "indefinite length",
        "text", "one byte less", "one byte more", "detached",
    ],
)  # fmt: skip
def test_any_other_form_of_the_same_parcel_is_refused(seq_bytes, head):
    """The key, the number, the context and the tag are right; only the form is another one."""
    refused(reshaped(seq_bytes, head, 7, bytes(24)))


def test_short_ciphertexts_in_a_long_form_are_refused():
    refused(reshaped(b"\7", b"\x58\x17", 7, bytes(7)))
    assert opener().open(reshaped(b"\7", b"\x57", 7, bytes(7))) == (7, bytes(7))


def test_number_zero_and_numbers_out_of_range():
    for seq in (0, -1, SEQ_LIMIT, SEQ_LIMIT + 5):
        with pytest.raises(BadInput, match="out of range"):
            sealer().seal(seq, b"")
    refused(HEAD + b"\x06\x41\x00\x50" + bytes(16))
    refused(HEAD + b"\x06\x44\x01\x00\x00\x00\x50" + bytes(16))


@pytest.mark.parametrize(
    "head",
    [
        "83 44a1011818 a20448",  # no tag
        "d8 10 83 44a1011818 a20448",  # the tag in two bytes
        "d1 83 44a1011818 a20448",  # COSE_Mac0
        "d0 84 44a1011818 a20448",  # four elements
        "d0 9f 44a1011818 a20448",  # an indefinite array
        "d0 83 43a10101 a20448",  # AES-GCM
        "d0 83 40 a20448",  # no algorithm
        "d0 83 a1011818 a20448",  # protected header not wrapped
        "d0 83 44a1011818 a30448",  # a third header
        "d0 83 44a1011818 bf0448",  # an indefinite map
        "d0 83 44a1011818 a20568",  # full IV
    ],
)
def test_any_other_header_is_refused(head):
    parcel = bytes.fromhex(head) + KID8 + b"\x06\x41\x07" + sealer().seal(7, bytes(24))[21:]

    refused(parcel)
    with pytest.raises(ProtocolViolation):
        peek_kid(parcel)


def test_too_large_is_refused_on_both_sides():
    """Refused by size alone: nothing is decrypted, so even a well-formed one is not opened."""
    with pytest.raises(BadInput, match="do not fit"):
        sealer().seal(1, bytes(PLAIN_BYTES_MAX + 1))
    sealed = bytes(PARCEL_BYTES_MAX)
    for parcel in (HEAD + b"\x06\x41\x07\x5a" + len(sealed).to_bytes(4, "big") + sealed, bytes(16 << 20)):
        refused(parcel)
        with pytest.raises(ProtocolViolation):
            peek_kid(parcel)


@pytest.mark.parametrize(
    "other",
    [
        Opener(KEY[::-1], IV, KID8, CONTEXT),
        Opener(KEY, IV[::-1], KID8, CONTEXT),
        Opener(KEY, IV, KID8[::-1], CONTEXT),
        Opener(KEY, IV, KID8, CONTEXT + b"\0"),
        Opener(KEY, IV, KID8, b""),
    ],
    ids=["key", "iv", "kid", "longer context", "no context"],
)
def test_another_key_iv_kid_or_context_does_not_open_it(other):
    with pytest.raises(ProtocolViolation):
        other.open(sealer().seal(9, b"for one receiver, on one topic"))


def test_lengths_of_keys_are_checked():
    for arguments in ((KEY[1:], IV, KID8), (KEY, IV[1:], KID8), (KEY, IV, KID8[1:])):
        for made in (Sealer, Opener):
            with pytest.raises(BadInput, match="bytes"):
                made(*arguments, CONTEXT)


def test_the_first_bytes_tell_a_parcel():
    assert is_parcel(sealer().seal(1, b""))
    assert not is_parcel(b"\x86\x01") and not is_parcel(b"")


def ciphers() -> int:
    return sum(type(each) is ChaCha20Poly1305 for keyed in kept() for each in (keyed._cipher,))


def kept() -> list[Sealer | Opener]:
    return [each for each in gc.get_objects() if type(each) in (Sealer, Opener)]


def test_any_number_of_keys_work_and_only_the_last_used_keep_a_cipher():
    pairs = []
    for number in range(2 * WARM_MAX):
        key = number.to_bytes(32, "big")
        pairs.append((Sealer(key, IV, KID8, CONTEXT), Opener(key, IV, KID8, CONTEXT)))
    for seq in (1, 2, 3):
        for number, (each, its_opener) in enumerate(pairs):
            plain = b"%d of %d" % (seq, number)
            assert its_opener.open(each.seal(seq, plain)) == (seq, plain)
            if number % 100 == 0:
                assert ciphers() <= WARM_MAX
    assert ciphers() == WARM_MAX
    last = pairs[-1]
    assert last[0]._cipher is not None and last[1]._cipher is not None and pairs[0][0]._cipher is None


def test_a_key_ends_with_whoever_held_it():
    before = len(kept())
    held = sealer()
    held.seal(1, b"")
    assert len(kept()) == before + 1
    del held
    assert len(kept()) == before
