"""COSE_Sign1 and catalogue entries."""

import hashlib

import pytest
from msgspec.structs import replace
from pycose.keys import EC2Key
from pycose.keys.curves import P256
from pycose.messages import CoseMessage, Sign1Message

from security.errors import ProtocolViolation
from security.identity import NodeKeys, read_spki, spki_der
from security.signing import (
    Deployer,
    EntryDraft,
    Signed,
    open_entry,
    peek1,
    sign1,
    sign_entry,
    verify1,
)

MESH = "00112233aabbccdd"
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.fixture(scope="module")
def keys():
    return NodeKeys.generate()


@pytest.fixture(scope="module")
def spki(keys):
    return spki_der(keys.public)


def entry(**more):
    fields = {
        "mesh": MESH,
        "name": "room.changes",
        "version": 3,
        "digest": b"d" * 32,
        "manifest": b"anything",
        "issued_s": 1_795_000_000,
    }
    return EntryDraft(**(fields | more))


def test_a_signature_opens_for_its_context_and_key_only(keys, spki):
    message = sign1(b"payload", keys.signing, context=b"use", spki=spki)

    assert verify1(message, context=b"use", trusted_spki_sha256={keys.spki_sha256}) == Signed(
        b"payload", keys.spki_sha256
    )
    with pytest.raises(ProtocolViolation, match="does not hold"):
        verify1(message, context=b"other use", trusted_spki_sha256={keys.spki_sha256})
    with pytest.raises(ProtocolViolation, match="not trusted"):
        verify1(message, context=b"use", trusted_spki_sha256={b"x" * 32})


def test_naming_a_trusted_key_does_not_make_it_signed(keys, spki):
    thief = NodeKeys.generate()
    message = sign1(b"payload", thief.signing, context=b"use", spki=spki)

    assert peek1(message).spki_sha256 == keys.spki_sha256
    with pytest.raises(ProtocolViolation, match="does not hold"):
        verify1(message, context=b"use", trusted_spki_sha256={keys.spki_sha256})


def test_an_independent_decoder_verifies_it(keys, spki):
    numbers = keys.public.public_numbers()
    message = CoseMessage.decode(sign1(b"payload", keys.signing, context=b"use", spki=spki))
    assert isinstance(message, Sign1Message)
    message.external_aad = b"use"
    message.key = EC2Key(crv=P256, x=numbers.x.to_bytes(32, "big"), y=numbers.y.to_bytes(32, "big"))

    assert message.payload == b"payload"
    assert message.verify_signature()


def test_one_flipped_bit_anywhere_is_refused(keys, spki):
    message = sign1(b"payload", keys.signing, context=b"use", spki=spki)

    for place in range(len(message)):
        for bit in range(8):
            damaged = bytearray(message)
            damaged[place] ^= 1 << bit
            with pytest.raises(ProtocolViolation):
                verify1(bytes(damaged), context=b"use", trusted_spki_sha256={keys.spki_sha256})


def test_an_entry_is_what_was_signed(keys, spki):
    opened = open_entry(
        sign_entry(entry(), keys.signing), mesh_id=MESH, deployers=[Deployer("gateway", spki)]
    )

    assert (opened.mesh, opened.name, opened.version) == (MESH, "room.changes", 3)
    assert (opened.digest, opened.manifest, opened.issued_s) == (b"d" * 32, b"anything", 1_795_000_000)
    assert (opened.signer, opened.signer_spki_sha256) == ("gateway", keys.spki_sha256)
    assert read_spki(spki) == keys.public


def test_deployers_may_be_given_as_hashes_or_as_the_rosters_table(keys):
    raw = sign_entry(entry(), keys.signing)

    assert open_entry(raw, mesh_id=MESH, deployers=[keys.spki_sha256]).signer == keys.spki_sha256.hex()
    assert open_entry(raw, mesh_id=MESH, deployers={keys.spki_sha256: "pi-1"}).signer == "pi-1"


def test_entries_of_strangers_other_meshes_and_other_uses_are_refused(keys, spki):
    raw = sign_entry(entry(), keys.signing)
    disguised = sign1(b"\x80", keys.signing, context=b"ew1-roster", spki=spki)

    for data, mesh, deployers in (
        (raw, MESH, []),
        (raw, MESH, [b"x" * 32]),
        (raw, "f" * 16, [keys.spki_sha256]),
        (disguised, MESH, [keys.spki_sha256]),
        (raw[:-1], MESH, [keys.spki_sha256]),
        (raw + b"\x00", MESH, [keys.spki_sha256]),
        (b"", MESH, [keys.spki_sha256]),
        (bytes(70_000), MESH, [keys.spki_sha256]),
    ):
        with pytest.raises(ProtocolViolation):
            open_entry(data, mesh_id=mesh, deployers=deployers)


def test_a_malleated_entry_is_the_same_entry(keys, spki):
    raw = sign_entry(entry(), keys.signing)
    twin = raw[:-32] + (N - int.from_bytes(raw[-32:], "big")).to_bytes(32, "big")
    one, other = (open_entry(data, mesh_id=MESH, deployers=[keys.spki_sha256]) for data in (raw, twin))

    assert hashlib.sha256(raw).digest() != hashlib.sha256(twin).digest()
    assert replace(one, raw=b"") == replace(other, raw=b"")
    assert one.payload_digest == other.payload_digest


@pytest.mark.parametrize("wrong", [{"version": 0}, {"name": ""}, {"digest": b"short"}, {"mesh": "no-mesh"}])
def test_nothing_malformed_is_signed(keys, wrong):
    with pytest.raises(ProtocolViolation):
        sign_entry(entry(**wrong), keys.signing)
