"""Group frames and epochs: the exact bytes, the strict door, who is believed, and that no nonce repeats."""

from __future__ import annotations

import hashlib
import os
import random

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cwt import COSE, COSEKey

from security import group
from security.authority import Authority
from security.envelope import Opener, aad
from security.errors import BadInput, ProtocolViolation
from security.group import (
    EPOCH_MAX,
    FRAME_BYTES_MAX,
    OVERLAP_NS,
    Adopted,
    Epochs,
    EpochUnknown,
    GroupReceiver,
    GroupSender,
    Held,
    Lower,
    Replayed,
    grant_payload,
    is_group_frame,
    open_grant,
)
from security.signing import sign1
from tests.support.flipped import flipped

NOW_S = 1_795_000_000
MESH = Authority.create(now_s=NOW_S, entropy=os.urandom)
OTHER = Authority.create(now_s=NOW_S, entropy=os.urandom)
SECRETS = {number: bytes([number]) * 32 for number in range(1, 6)}
GRANTS = {
    number: MESH.sign_grant(group="mesh", epoch=number, secret=secret, issued_s=NOW_S + number)
    for number, secret in SECRETS.items()
}
TOPIC = "ew/1/mesh/p/pi-1"


def context(topic: str, src: str, name: str, kid: bytes) -> bytes:
    return cbor2.dumps([1, MESH.mesh_id, topic, src, name, kid, 2])


def epochs(*numbers: int, now_ns: int = 0) -> Epochs:
    held = Epochs(mesh_id=MESH.mesh_id, group="mesh", root_spki_sha256=MESH.root_spki_sha256)
    for number in numbers:
        held.adopt(now_ns, GRANTS[number], SECRETS[number])
    return held


def sender(*numbers: int, me: str = "pi-1", seed: int = 0) -> GroupSender:
    return GroupSender(me, epochs(*numbers), context, entropy=random.Random(seed).randbytes)


def receiver(*numbers: int, is_member=lambda src: True) -> GroupReceiver:
    return GroupReceiver(epochs(*numbers), context, is_member=is_member)


def frame(plain: bytes = b"here", **kwargs) -> bytes:
    sealed = sender(1, **kwargs).seal(TOPIC, plain)
    assert sealed is not None
    return sealed


# -- the bytes


def test_the_bytes_are_those_of_the_specification():
    stream = random.Random(0).randbytes(8)
    info = cbor2.dumps(["ew1-g", MESH.mesh_id, "mesh", 1, "pi-1", stream])
    kid = hashlib.sha256(info).digest()[:8]

    sealed = frame(b"x" * 256)

    assert sealed[:10] == bytes.fromhex("d083 44a1011818 a30448".replace(" ", ""))
    assert sealed[10:18] == kid
    assert sealed[18:21] == bytes.fromhex("064101")
    assert sealed[21:35] == b"\x0a\x4c" + (1).to_bytes(4, "big") + stream
    assert sealed[35:38] == bytes.fromhex("590110")
    assert len(sealed) == 38 + 256 + 16
    assert is_group_frame(sealed) and not is_group_frame(b"\x86")


@pytest.mark.parametrize("size", [0, 7, 8, 239, 240, 65_519, 65_520])
def test_an_independent_decoder_opens_a_frame(size):
    """`cbor2` reads it, `cryptography` alone derives and decrypts: nothing of ours is called."""
    plain = bytes(i % 251 for i in range(size))
    sealed = frame(plain)

    tag = cbor2.loads(sealed)
    protected, unprotected, ciphertext = tag.value
    number, stream = int.from_bytes(unprotected[10][:4], "big"), unprotected[10][4:]
    info = cbor2.dumps(["ew1-g", MESH.mesh_id, "mesh", number, "pi-1", stream])
    okm = HKDFExpand(SHA256(), 44, info).derive(SECRETS[1])
    nonce = (int.from_bytes(okm[32:], "big") ^ int.from_bytes(unprotected[6], "big")).to_bytes(12, "big")
    external = context(TOPIC, "pi-1", "mesh", unprotected[4])
    enc_structure = cbor2.dumps(["Encrypt0", protected, external])

    assert tag.tag == 16 and protected == bytes.fromhex("a1011818") and sorted(unprotected) == [4, 6, 10]
    assert cbor2.dumps(tag, canonical=True) == sealed
    assert unprotected[4] == hashlib.sha256(info).digest()[:8]
    assert ChaCha20Poly1305(okm[:32]).decrypt(nonce, ciphertext, enc_structure) == plain
    assert enc_structure == aad(external)


def test_cwt_opens_a_frame():
    """As for parcels: the full nonce is written where `cwt` wants it; the rest stays byte for byte."""
    protected, unprotected, ciphertext = cbor2.loads(frame(b"for cwt")).value
    info = group.info_of(MESH.mesh_id, "mesh", 1, "pi-1", unprotected[10][4:])
    key, iv = group.derive(SECRETS[1], info)
    nonce = bytes(a ^ b for a, b in zip(iv, unprotected.pop(6).rjust(12, b"\0"), strict=True))
    message = cbor2.dumps(cbor2.CBORTag(16, [protected, {**unprotected, 5: nonce}, ciphertext]))
    external = context(TOPIC, "pi-1", "mesh", unprotected[4])

    cose_key = COSEKey.from_symmetric_key(key, alg="ChaCha20/Poly1305", kid=unprotected[4])
    assert COSE.new().decode(message, cose_key, external_aad=external) == b"for cwt"


def test_a_frame_opens_once_at_every_holder_of_the_epoch():
    sealed = frame(b"here")
    for _ in range(2):
        reader = receiver(1)
        assert reader.open(0, TOPIC, "pi-1", sealed) == b"here"
        with pytest.raises(Replayed):
            reader.open(0, TOPIC, "pi-1", sealed)
        reader.check()


def test_nothing_is_sealed_without_an_epoch():
    assert sender().seal(TOPIC, b"") is None


def test_a_frame_has_a_largest_size():
    out = sender(1)
    largest = FRAME_BYTES_MAX - 58

    assert len(out.seal(TOPIC, bytes(largest)) or b"") == FRAME_BYTES_MAX - 2  # room for a longer number
    with pytest.raises(BadInput, match="do not fit"):
        out.seal(TOPIC, bytes(largest + 3))
    with pytest.raises(ProtocolViolation, match="too large"):
        receiver(1).open(0, TOPIC, "pi-1", frame() + bytes(FRAME_BYTES_MAX))


# -- the door


@pytest.mark.parametrize("size", [0, 8, 240])
def test_every_flipped_bit_of_a_group_frame_is_refused(size):
    """Refused, or taken for an epoch that we do not have: opened never."""
    sealed, reader = frame(bytes(size)), receiver(1)

    for byte, forged in flipped(sealed):
        try:
            opened = reader.open(0, TOPIC, "pi-1", forged)
        except ProtocolViolation:
            continue
        assert isinstance(opened, EpochUnknown) and 23 <= byte < 27
    assert reader.open(0, TOPIC, "pi-1", sealed) == bytes(size), "no forged frame moved the window"


def test_a_frame_cut_anywhere_or_with_bytes_left_over_is_refused():
    sealed, reader = frame(bytes(40)), receiver(1)
    for forged in [sealed[:end] for end in range(len(sealed))] + [sealed + b"\0", b"\0" + sealed]:
        with pytest.raises(ProtocolViolation):
            reader.open(0, TOPIC, "pi-1", forged)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a30448", "a20448"),  # the map of a parcel
        ("a30448", "bf0448"),  # indefinite
        ("064101", "06420001"),  # a number with a leading zero
        ("064101", "064100"),
        ("064101", "064400000001"),
        ("064101", "0640"),
        ("0a4c", "0a4d"),
        ("0a4c", "0a6c"),  # text
        ("0a4c", "054c"),
        ("0a4c", "0a580c"),  # the length in two bytes
        ("5818", "590018"),
        ("5818", "5817"),
        ("5818", "5819"),
        ("5818", "5b0000000000000018"),
    ],
)
def test_any_other_form_of_the_same_frame_is_refused(old, new):
    sealed = frame(bytes(8))
    assert sealed.count(bytes.fromhex(old)) == 1

    with pytest.raises(ProtocolViolation):
        receiver(1).open(0, TOPIC, "pi-1", sealed.replace(bytes.fromhex(old), bytes.fromhex(new)))


@pytest.mark.parametrize("at", [0, 8, 9, 18, 19, 21, 22])
def test_an_epoch_is_believed_unknown_only_of_a_frame_of_the_right_shape(at):
    """Nobody asks for keys because of noise."""
    sealed = bytearray(sender(3).seal(TOPIC, b"") or b"")
    sealed[at] ^= 0x08
    with pytest.raises(ProtocolViolation):
        receiver(1).open(0, TOPIC, "pi-1", bytes(sealed))


def test_a_parcel_is_no_group_frame():
    sealed = frame(bytes(8))
    parcel = sealed[:8].replace(b"\xa3", b"\xa2") + b"\x04\x48" + sealed[10:21] + sealed[35:]
    with pytest.raises(ProtocolViolation):
        receiver(1).open(0, TOPIC, "pi-1", parcel)


def test_a_frame_moved_to_another_source_topic_group_or_mesh_is_refused():
    sealed = frame()
    with pytest.raises(ProtocolViolation, match="another source"):
        receiver(1).open(0, TOPIC, "pi-2", sealed)
    with pytest.raises(ProtocolViolation, match="authenticate"):
        receiver(1).open(0, "ew/1/mesh/g/x/pi-1", "pi-1", sealed)
    secret, grant = SECRETS[1], MESH.sign_grant(group="state", epoch=1, secret=SECRETS[1], issued_s=NOW_S)
    state = Epochs(mesh_id=MESH.mesh_id, group="state", root_spki_sha256=MESH.root_spki_sha256)
    state.adopt(0, grant, secret)
    with pytest.raises(ProtocolViolation, match="another source"):
        GroupReceiver(state, context, is_member=lambda src: True).open(0, TOPIC, "pi-1", sealed)


def test_strangers_are_not_listened_to_and_failures_are_counted_by_member():
    reader = receiver(1, is_member=lambda src: src == "pi-1")
    for src in ("pi-9", "pi-8"):
        with pytest.raises(ProtocolViolation, match="stranger"):
            reader.open(0, TOPIC, src, frame(me=src))
    with pytest.raises(ProtocolViolation):
        reader.open(0, TOPIC, "pi-1", b"noise")

    assert reader.failures == {"": 2, "pi-1": 1}


# -- numbers, streams, replays


def test_a_stream_ends_after_its_numbers_and_the_next_one_opens(monkeypatch):
    monkeypatch.setattr(group, "STREAM_FRAMES_MAX", 3)
    out, reader = sender(1), receiver(1)
    frames = [out.seal(TOPIC, b"%d" % i) for i in range(7)]

    streams = [sealed[27:35] for sealed in frames]
    assert streams[:3] == [streams[0]] * 3 and streams[3:6] == [streams[3]] * 3
    assert len({streams[0], streams[3], streams[6]}) == 3
    assert [sealed[20] for sealed in frames] == [1, 2, 3, 1, 2, 3, 1]
    assert [reader.open(0, TOPIC, "pi-1", sealed) for sealed in frames] == [b"%d" % i for i in range(7)]


def test_one_counter_runs_over_all_topics_and_epochs_of_a_stream():
    held = epochs(1)
    out = GroupSender("pi-1", held, context, entropy=random.Random(1).randbytes)
    reader = GroupReceiver(held, context, is_member=lambda src: True)

    first = [out.seal(topic, b"") for topic in (TOPIC, "other", TOPIC)]
    held.adopt(0, GRANTS[2], SECRETS[2])
    second = [out.seal(topic, b"") for topic in ("other", TOPIC)]

    assert [sealed[20] for sealed in first + second] == [1, 2, 3, 4, 5]
    assert len({sealed[27:35] for sealed in first + second}) == 1
    for sealed, topic in zip(first + second, [TOPIC, "other", TOPIC, "other", TOPIC], strict=True):
        assert reader.open(0, topic, "pi-1", sealed) == b""
    with pytest.raises(Replayed):
        reader.open(0, TOPIC, "pi-1", first[0])
    out.check()
    reader.check()


@pytest.mark.slow
def test_another_senders_streams_never_displace_a_window():
    """A thousand members with two lives each: the first one's frame is still known."""
    reader, sealed = receiver(1), frame()
    assert reader.open(0, TOPIC, "pi-1", sealed) == b"here"

    for i in range(1023):
        for seed in (1, 2):
            out = sender(1, me=f"n{i}", seed=seed).seal("t", b"")
            assert reader.open(0, "t", f"n{i}", out) == b""

    with pytest.raises(Replayed):
        reader.open(0, TOPIC, "pi-1", sealed)
    with pytest.raises(ProtocolViolation, match="more senders"):
        reader.open(0, "t", "one-more", sender(1, me="one-more").seal("t", b""))
    reader.check()


@pytest.mark.slow
def test_members_that_left_make_room():
    members = {f"n{i}" for i in range(1024)}
    reader = receiver(1, is_member=lambda src: src in members)
    for name in sorted(members):
        reader.open(0, "t", name, sender(1, me=name).seal("t", b""))
    members.remove("n7")
    members.add("new")

    assert reader.open(0, "t", "new", sender(1, me="new").seal("t", b"")) == b""
    reader.check()


def test_forged_streams_fill_no_cache():
    reader = receiver(1)
    for i in range(50):
        stream = i.to_bytes(8, "big")
        kid = group.kid_of(group.info_of(MESH.mesh_id, "mesh", 1, "pi-1", stream))  # anyone can compute it
        head = bytes.fromhex("d08344a1011818a30448") + kid + b"\x06\x41\x01\x0a\x4c\0\0\0\1" + stream
        with pytest.raises(ProtocolViolation, match="authenticate"):
            reader.open(0, TOPIC, "pi-1", head + b"\x50" + bytes(16))

    assert reader._senders == {}


def test_a_third_life_displaces_the_window_least_recently_used():
    """What the layer above must cover, and why: see the module."""
    reader = receiver(1)
    lives = [frame(seed=seed) for seed in (1, 2, 3)]
    for sealed in lives:
        reader.open(0, TOPIC, "pi-1", sealed)

    with pytest.raises(Replayed):
        reader.open(0, TOPIC, "pi-1", lives[2])
    with pytest.raises(Replayed):
        reader.open(0, TOPIC, "pi-1", lives[1])
    assert reader.open(0, TOPIC, "pi-1", lives[0]) == b"here"


def test_the_stream_in_use_outlives_a_third_ones_arrival():
    """Of two streams the least recently *used* goes: a replayed old life does not displace the live one."""
    reader, live = receiver(1), sender(1, seed=1)
    first, second = live.seal(TOPIC, b"1"), live.seal(TOPIC, b"2")
    assert reader.open(0, TOPIC, "pi-1", first) == b"1"
    assert reader.open(0, TOPIC, "pi-1", frame(seed=2)) == b"here"
    assert reader.open(0, TOPIC, "pi-1", second) == b"2"
    assert reader.open(0, TOPIC, "pi-1", frame(seed=3)) == b"here"

    with pytest.raises(Replayed):
        reader.open(0, TOPIC, "pi-1", first)


# -- grants


def test_a_grant_is_deterministic_cbor_and_names_the_secret_by_its_digest():
    table = cbor2.loads(grant_payload(MESH.mesh_id, "mesh", 3, SECRETS[3], NOW_S))

    assert table == {
        "v": 1,
        "mesh": MESH.mesh_id,
        "group": "mesh",
        "epoch": 3,
        "commit": hashlib.sha256(SECRETS[3]).digest(),
        "issued": NOW_S,
    }
    assert SECRETS[3] not in GRANTS[3]
    assert len(GRANTS[3]) < 2048


def test_an_epoch_shows_its_secret_in_no_log():
    epoch = open_grant(GRANTS[1], SECRETS[1], group="mesh", root_spki_sha256=MESH.mesh_id)
    assert repr(SECRETS[1])[2:-1] not in repr(epoch)


def grant_by(authority: Authority, payload: bytes, *, signer: Authority | None = None) -> bytes:
    from security.certificates import der_of

    chain = [der_of(authority.issuing), der_of(authority.root)]
    key = (signer or authority).issuing_key
    return sign1(payload, key, context=group.CONTEXT, x5chain=chain)


GOOD = grant_payload(MESH.mesh_id, "mesh", 9, SECRETS[1], NOW_S)


@pytest.mark.parametrize(
    ("grant", "cause"),
    [
        (OTHER.sign_grant(group="mesh", epoch=9, secret=SECRETS[1], issued_s=NOW_S), "pinned root"),
        (grant_by(MESH, grant_payload(OTHER.mesh_id, "mesh", 9, SECRETS[1], NOW_S)), "another mesh"),
        (MESH.sign_grant(group="state", epoch=9, secret=SECRETS[1], issued_s=NOW_S), "another group"),
        (MESH.sign_grant(group="mesh", epoch=9, secret=SECRETS[2], issued_s=NOW_S), "another secret"),
        (grant_by(MESH, GOOD, signer=OTHER), "does not hold"),
        (grant_by(MESH, cbor2.dumps({**cbor2.loads(GOOD), "v": 2}, canonical=True)), "does not speak"),
        (grant_by(MESH, cbor2.dumps({**cbor2.loads(GOOD), "epoch": 0}, canonical=True)), "no epoch"),
        (grant_by(MESH, cbor2.dumps({**cbor2.loads(GOOD), "epoch": 2**32}, canonical=True)), "range"),
        (grant_by(MESH, cbor2.dumps({**cbor2.loads(GOOD), "more": 0}, canonical=True)), "wrong shape"),
        (MESH.sign_grant(group="mesh", epoch=9, secret=SECRETS[1], issued_s=2**33), "had expired"),
        (bytes(group.GRANT_BYTES_MAX + 1), "too large"),
        (b"", "COSE_Sign1"),
    ],
)
def test_a_grant_of_anyone_else_or_for_anything_else_is_refused(grant, cause):
    held = epochs(1)
    with pytest.raises(ProtocolViolation, match=cause):
        held.adopt(0, grant, SECRETS[1])
    assert held.number == 1


def test_a_roster_signature_is_no_grant():
    from security.certificates import der_of

    chain = [der_of(MESH.issuing), der_of(MESH.root)]
    signed = sign1(GOOD, MESH.issuing_key, context=b"ew1-roster", x5chain=chain)
    with pytest.raises(ProtocolViolation, match="does not hold"):
        epochs().adopt(0, signed, SECRETS[1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_grant_with_a_flipped_bit_in_any_byte_is_refused():
    for byte in range(len(GRANTS[2])):
        forged = bytearray(GRANTS[2])
        forged[byte] ^= 1 << byte % 8
        held = epochs(1)
        with pytest.raises(ProtocolViolation):
            held.adopt(0, bytes(forged), SECRETS[2])
        assert held.number == 1


def test_what_no_epoch_can_be_is_not_signed():
    for bad in (
        {"epoch": 0},
        {"epoch": EPOCH_MAX + 1},
        {"secret": bytes(31)},
        {"group": "Not A Name"},
    ):
        with pytest.raises(BadInput):
            MESH.sign_grant(**({"group": "mesh", "epoch": 1, "secret": bytes(32), "issued_s": NOW_S} | bad))


# -- epochs held


def test_epochs_only_move_up():
    held = epochs()

    assert isinstance(held.adopt(0, GRANTS[2], SECRETS[2]), Adopted)
    assert held.adopt(0, GRANTS[2], SECRETS[2]) == Held()
    assert isinstance(held.adopt(0, GRANTS[1], SECRETS[1]), Lower)
    assert isinstance(held.adopt(0, GRANTS[5], SECRETS[5]), Adopted)
    far = MESH.sign_grant(group="mesh", epoch=EPOCH_MAX, secret=SECRETS[1], issued_s=NOW_S)
    assert isinstance(held.adopt(0, far, SECRETS[1]), Adopted), "however long a member was away"
    held.check()


def test_the_same_epoch_signed_again_is_held_already(monkeypatch):
    """Ours is RFC 6979 and repeats; a gateway with another library, or an older one, draws its nonces."""
    monkeypatch.setattr("security.signing._DETERMINISTIC", ec.ECDSA(SHA256()))
    again = MESH.sign_grant(group="mesh", epoch=1, secret=SECRETS[1], issued_s=NOW_S + 1)
    assert again != GRANTS[1]
    assert epochs(1).adopt(0, again, SECRETS[1]) == Held()


def test_one_number_granted_twice_has_the_same_winner_everywhere():
    """A gateway restored from a backup: the later one wins, whichever came first; both open for a while."""
    later = MESH.sign_grant(group="mesh", epoch=1, secret=SECRETS[4], issued_s=NOW_S + 500)
    one, other = epochs(1), epochs()
    old = GroupSender("pi-1", epochs(1), context, entropy=os.urandom).seal(TOPIC, b"old")

    one.adopt(0, later, SECRETS[4])
    other.adopt(0, later, SECRETS[4])
    assert isinstance(other.adopt(0, GRANTS[1], SECRETS[1]), Lower)
    assert one.current == other.current

    new = GroupSender("pi-2", other, context, entropy=os.urandom).seal("t", b"new")
    reader = GroupReceiver(one, context, is_member=lambda src: True)
    assert reader.open(0, "t", "pi-2", new) == b"new"
    assert reader.open(0, TOPIC, "pi-1", old) == b"old"
    with pytest.raises(Replayed):
        reader.open(0, TOPIC, "pi-1", old)
    with pytest.raises(ProtocolViolation):
        reader.open(OVERLAP_NS, TOPIC, "pi-1", sender(1, seed=9).seal(TOPIC, b"too late"))


def test_frames_of_one_stream_under_both_secrets_of_a_number_open_in_any_order():
    later = MESH.sign_grant(group="mesh", epoch=1, secret=SECRETS[4], issued_s=NOW_S + 500)
    held = epochs(1)
    out = GroupSender("pi-1", held, context, entropy=os.urandom)
    old = [out.seal(TOPIC, b"old"), out.seal(TOPIC, b"old")]
    held.adopt(0, later, SECRETS[4])
    new = [out.seal(TOPIC, b"new"), out.seal(TOPIC, b"new")]
    reader = GroupReceiver(held, context, is_member=lambda src: True)

    frames = (new[0], old[0], new[1], old[1])
    assert [reader.open(0, TOPIC, "pi-1", one) for one in frames] == [b"new", b"old", b"new", b"old"]


def test_the_epoch_before_opens_for_a_minute_more():
    held = epochs(1)
    reader = GroupReceiver(held, context, is_member=lambda src: True)
    out = sender(1)
    frames = [out.seal(TOPIC, b"old") for _ in range(4)]
    assert reader.open(0, TOPIC, "pi-1", frames[0]) == b"old"
    held.adopt(1_000, GRANTS[2], SECRETS[2])

    assert reader.open(1_000, TOPIC, "pi-1", frames[1]) == b"old"
    assert held.deadline_ns() == 1_000 + OVERLAP_NS
    held.tick(OVERLAP_NS + 999)
    assert reader.open(OVERLAP_NS + 999, TOPIC, "pi-1", frames[2]) == b"old"
    with pytest.raises(ProtocolViolation, match="ended"):
        reader.open(OVERLAP_NS + 1_000, TOPIC, "pi-1", frames[3])
    held.tick(OVERLAP_NS + 1_000)
    assert held.deadline_ns() is None
    assert SECRETS[1] not in held.to_bytes()


def test_an_unknown_higher_epoch_is_told_and_a_lower_one_refused():
    assert receiver(1).open(0, TOPIC, "pi-1", sender(3).seal(TOPIC, b"")) == EpochUnknown(3)
    assert receiver().open(0, TOPIC, "pi-1", frame()) == EpochUnknown(1)
    with pytest.raises(ProtocolViolation, match="ended"):
        receiver(3).open(0, TOPIC, "pi-1", frame())


def test_an_epoch_is_used_however_old_it_is():
    """A rotation that is overdue never stops a mesh."""
    month_ns = 30 * 24 * 3600 * 10**9
    held = epochs(1)
    held.tick(month_ns)
    assert receiver(1).open(month_ns, TOPIC, "pi-1", GroupSender(
        "pi-1", held, context, entropy=os.urandom).seal(TOPIC, b"still here")) == b"still here"  # fmt: skip


def test_a_removed_member_does_not_read_on():
    """It keeps the old secret; what is sealed after the rotation is under keys that do not follow from it."""
    removed, staying = receiver(1), receiver(1, 2)
    after = sender(1, 2).seal(TOPIC, b"not for it")
    assert after is not None

    assert staying.open(0, TOPIC, "pi-1", after) == b"not for it"
    assert removed.open(0, TOPIC, "pi-1", after) == EpochUnknown(2)
    stream, kid = after[27:35], after[10:18]
    parcel = bytes.fromhex("d08344a1011818a20448") + after[10:21] + after[35:]
    for number in (1, 2):  # with all it knows: the old secret, and every name in the new key's derivation
        info = group.info_of(MESH.mesh_id, "mesh", number, "pi-1", stream)
        key, iv = group.derive(SECRETS[1], info)
        with pytest.raises(ProtocolViolation, match="authenticate"):
            Opener(key, iv, kid, context(TOPIC, "pi-1", "mesh", kid)).open(parcel)


# -- the key store's bytes


def test_epochs_come_back_from_the_key_store():
    before = epochs(1, 2, 3)
    after = epochs()
    after.restore(7, before.to_bytes())

    assert after.current == before.current and after.to_bytes() == before.to_bytes()
    assert len(cbor2.loads(before.to_bytes())[1]) == 2, "the two newest"
    assert [one.number for one in after.opening(7, 2)] == [2]
    assert after.opening(7 + OVERLAP_NS, 2) == ()
    after.check()
    fresh = epochs()
    fresh.restore(0, epochs().to_bytes())
    assert fresh.current is None


@pytest.mark.parametrize("cut", [0, 1, 5, -1])
def test_damaged_group_secrets_are_refused(cut):
    with pytest.raises(ProtocolViolation):
        epochs().restore(0, epochs(1, 2).to_bytes()[:cut])


def test_group_secrets_of_another_mesh_or_shape_are_refused():
    theirs = Epochs(mesh_id=OTHER.mesh_id, group="mesh", root_spki_sha256=OTHER.root_spki_sha256)
    theirs.adopt(0, OTHER.sign_grant(group="mesh", epoch=1, secret=bytes(32), issued_s=NOW_S), bytes(32))
    for stored in (
        theirs.to_bytes(),
        cbor2.dumps([2, []]),
        cbor2.dumps([1, [[b"", b""]] * 3]),
        cbor2.dumps({}),
        bytes(group.STORED_BYTES_MAX + 1),
    ):
        held = epochs()
        with pytest.raises(ProtocolViolation):
            held.restore(0, stored)
        assert held.current is None
