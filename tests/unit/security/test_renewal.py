"""Renewal: the old key asks, both keys are listed, and no crash in between bricks a node."""

import os
from dataclasses import replace

import pytest

from security.authority import Authority
from security.canonical import encode
from security.certificates import DAY_S, build_csr
from security.enrolment import (
    LATE_RENEWAL_S,
    LEAVE_CONTEXT,
    RENEWAL_CONTEXT,
    REQUEST_BYTES_MAX,
    accepted,
    build_leave,
    build_renewal,
    noted,
    open_leave,
    open_renewal,
    read_answer,
    read_noted,
    refused,
    unavailable,
    with_key_used,
    with_new_key,
    with_old_keys_expired,
)
from security.errors import ProtocolViolation, Refused, Unavailable
from security.identity import NodeKeys, spki_der
from security.roster import Member, MemberKey, RosterDraft, open_roster
from security.signing import sign1

NOW_S = 1_795_000_000
START_S = NOW_S - 3600
LEAF_HASH = b"L" * 32
NONCE = b"n" * 16


@pytest.fixture(scope="module")
def mesh():
    return Authority.create(now_s=NOW_S, entropy=os.urandom)


@pytest.fixture(scope="module")
def old():
    return NodeKeys.generate()


@pytest.fixture(scope="module")
def new():
    return NodeKeys.generate()


def key_of(keys, not_before_s=START_S):
    return MemberKey(keys.spki_sha256, keys.x25519_public, not_before_s)


def roster_of(mesh, *members, version=1):
    draft = RosterDraft(version, bytes(32), NOW_S, (), (), members)
    return open_roster(mesh.sign_roster(draft), root_spki_sha256=mesh.mesh_id)


def opened(mesh, data, *members, now_s=NOW_S):
    return open_renewal(data, roster=roster_of(mesh, *members), server_leaf_sha256=LEAF_HASH, now_s=now_s)


def request(old, new):
    return build_renewal(old, new, node_id="pi-1", server_leaf_sha256=LEAF_HASH, nonce=NONCE)


def test_the_old_key_asks_for_the_new_one(mesh, old, new):
    renewal = opened(mesh, request(old, new), Member("pi-1", (key_of(old),)))

    assert (renewal.node_id, renewal.x25519, renewal.nonce) == ("pi-1", new.x25519_public, NONCE)
    assert spki_der(renewal.key) == spki_der(new.public)
    assert renewal.signer_spki_sha256 == old.spki_sha256


def test_both_keys_are_listed_until_the_new_one_was_used(mesh, old, new):
    before = Member("pi-1", (key_of(old),), ("deployer",), {"site": "a"})
    renewal = opened(mesh, request(old, new), before)
    after = with_new_key(before, key_of(new, NOW_S), beside=renewal.signer_spki_sha256)

    assert after == replace(before, keys=(key_of(new, NOW_S), key_of(old)))
    assert with_key_used(after, old.spki_sha256) == after
    assert with_key_used(after, new.spki_sha256).keys == (key_of(new, NOW_S),)
    assert with_key_used(after, b"x" * 32) == after


def test_an_answer_that_was_lost_with_its_keys_leaves_the_old_key_in_charge(mesh, old, new):
    both = Member("pi-1", (key_of(new), key_of(old)))
    third = NodeKeys.generate()
    renewal = opened(mesh, request(old, third), both)

    after = with_new_key(both, key_of(third, NOW_S), beside=renewal.signer_spki_sha256)
    assert after.keys == (key_of(third, NOW_S), key_of(old))


def test_the_same_wish_again_changes_nothing(mesh, old, new):
    both = Member("pi-1", (key_of(new, NOW_S), key_of(old)))
    renewal = opened(mesh, request(old, new), both)

    assert with_new_key(both, key_of(new, NOW_S + 9), beside=renewal.signer_spki_sha256) == both


def test_the_older_key_goes_when_its_certificate_ends(old, new):
    both = Member("pi-1", (key_of(new, NOW_S), key_of(old)))

    assert with_old_keys_expired(both, now_s=NOW_S + 30 * DAY_S) == both
    assert with_old_keys_expired(both, now_s=NOW_S + 30 * DAY_S + 1).keys == (key_of(new, NOW_S),)


def test_an_expired_member_may_come_back_for_thirty_days(mesh, old, new):
    member, end_s = Member("pi-1", (key_of(old),)), NOW_S + 30 * DAY_S + LATE_RENEWAL_S

    assert opened(mesh, request(old, new), member, now_s=end_s).node_id == "pi-1"
    with pytest.raises(Refused, match="more than 30 days ago: ask for `edge-gateway replace pi-1`"):
        opened(mesh, request(old, new), member, now_s=end_s + 1)


@pytest.mark.parametrize("status", ["revoked", "left"])
def test_who_was_revoked_or_left_does_not_renew(mesh, old, new, status):
    member = Member("pi-1", (key_of(old),), status=status, since_s=NOW_S, by="ann", reason="stolen")
    told = "was revoked on .* by ann: stolen: ask for" if status == "revoked" else "left the mesh on"
    with pytest.raises(Refused, match=f"pi-1 {told}"):
        opened(mesh, request(old, new), member)


def test_a_stranger_does_not_renew(mesh, old, new):
    with pytest.raises(Refused, match="no member"):
        opened(mesh, request(new, new), Member("pi-1", (key_of(old),)))


def test_another_members_key_cannot_be_claimed(mesh, old, new):
    with pytest.raises(Refused, match="belongs to another member"):
        opened(mesh, request(old, new), Member("pi-1", (key_of(old),)), Member("pi-2", (key_of(new),)))


def test_a_renewal_holds_for_its_connection_and_use_only(mesh, old, new):
    member = Member("pi-1", (key_of(old),))
    elsewhere = build_renewal(old, new, node_id="pi-1", server_leaf_sha256=b"M" * 32, nonce=NONCE)
    csr = build_csr(new.signing, "pi-1")
    payload = encode(["ew1-renew", csr, new.x25519_public, LEAF_HASH, NONCE])
    other_use = sign1(payload, old.signing, context=b"ew1-entry", spki=spki_der(old.public))
    other_version = sign1(
        encode(["ew2-renew"]), old.signing, context=RENEWAL_CONTEXT, spki=spki_der(old.public)
    )

    for wrong, cause in (
        (elsewhere, "made for another connection"),
        (other_use, "signature does not hold"),
        (other_version, "version 'ew2-renew', this member speaks 'ew1-renew'"),
        (request(old, new)[:-1], "COSE_Sign1"),
        (bytes(8193), "larger than 8192"),
    ):
        with pytest.raises(ProtocolViolation, match=cause):
            opened(mesh, wrong, member)


def test_the_answer_is_read_like_a_joins(mesh, old, new):
    member = Member("pi-1", (key_of(new), key_of(old)))
    roster = mesh.sign_roster(RosterDraft(2, bytes(32), NOW_S, (), (), (member,)))
    leaf = mesh.issue(new.public, "pi-1", now_s=NOW_S)
    answer = accepted(leaf, mesh.chain_pem, roster, wall_s=NOW_S, brokers=())
    joined = read_answer(answer, root_spki_sha256=mesh.root_spki_sha256, keys=new, name="pi-1", floor_s=NOW_S)

    assert (joined.node_id, joined.leaf_pem, joined.roster.version) == ("pi-1", leaf, 2)


def leave_of(keys, node_id="pi-1", leaf_hash=LEAF_HASH):
    return build_leave(keys, node_id=node_id, server_leaf_sha256=leaf_hash)


def test_a_member_says_itself_that_it_leaves_and_nobody_else_does(mesh, old, new):
    roster = roster_of(mesh, Member("pi-1", (key_of(old),)))

    assert open_leave(leave_of(old), roster=roster, server_leaf_sha256=LEAF_HASH) == "pi-1"
    for wrong, why in (
        (leave_of(old, leaf_hash=b"M" * 32), "another connection"),
        (leave_of(old, "pi-2"), "names another member"),
        (
            sign1(encode(["ew1-renew"]), old.signing, context=LEAVE_CONTEXT, spki=spki_der(old.public)),
            "version",
        ),
        (
            sign1(encode(["ew1-leave"]), old.signing, context=RENEWAL_CONTEXT, spki=spki_der(old.public)),
            "ignature",
        ),
        (b"noise", "COSE|CBOR|signed"),
    ):
        with pytest.raises(ProtocolViolation, match=why):
            open_leave(wrong, roster=roster, server_leaf_sha256=LEAF_HASH)
    with pytest.raises(Refused, match="no member"):
        open_leave(leave_of(new), roster=roster, server_leaf_sha256=LEAF_HASH)


def test_the_answer_to_a_leave_is_read_or_refused():
    read_noted(noted())
    with pytest.raises(Refused, match="not you: go"):
        read_noted(refused("not you", "go"))
    with pytest.raises(Unavailable, match="later"):
        read_noted(unavailable("later", 3))
    for noise in (b"", encode(["ew1", 7]), encode(["ew2", 0]), bytes(REQUEST_BYTES_MAX + 1)):
        with pytest.raises(ProtocolViolation):
            read_noted(noise)
