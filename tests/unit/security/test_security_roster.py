"""The signed roster: only the authority writes it, and it only moves up."""

import os
from dataclasses import replace

import pytest

from security.authority import Authority
from security.certificates import der_of, read_pem
from security.errors import BadInput, ProtocolViolation
from security.identity import NodeKeys, spki_der
from security.roster import (
    CONTEXT,
    VALID_S,
    Adopted,
    Deployer,
    Fork,
    Ignored,
    Member,
    MemberKey,
    RosterDraft,
    RosterView,
    open_roster,
)
from security.signing import sign1

NOW_S = 1_795_000_000
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.fixture(scope="module")
def mesh():
    return Authority.create(now_s=NOW_S, entropy=os.urandom)


@pytest.fixture(scope="module")
def keys():
    return NodeKeys.generate()


def member(name, byte, **more):
    return Member(name, (MemberKey(bytes([byte]) * 32, bytes([byte + 1]) * 32, NOW_S),), **more)


def draft(version=1, members=(), **more):
    fields = {
        "version": version,
        "prev_digest": bytes(32),
        "issued_s": NOW_S,
        "brokers": ("10.0.0.1:8883",),
        "deployers": (),
        "members": tuple(members),
    }
    return RosterDraft(**(fields | more))


def test_what_was_signed_is_what_is_opened(mesh, keys):
    deployer = Deployer("gateway", spki_der(keys.public))
    members = [
        member("pi-2", 3, roles=("deployer",), labels={"site": "a"}),
        member("pi-1", 1, status="revoked"),
        member("pi-3", 5, status="left"),
    ]
    roster = open_roster(
        mesh.sign_roster(draft(7, members, deployers=(deployer,), prev_digest=b"p" * 32)),
        root_spki_sha256=mesh.root_spki_sha256,
    )

    assert (roster.mesh_id, roster.version, roster.prev_digest) == (mesh.mesh_id, 7, b"p" * 32)
    assert (roster.issued_s, roster.valid_until_s) == (NOW_S, NOW_S + VALID_S)
    assert roster.brokers == ("10.0.0.1:8883",)
    assert roster.members == tuple(sorted(members, key=lambda m: m.id))
    assert roster.deployers == (deployer,)


def test_only_active_members_are_members(mesh):
    members = [member("a", 1), member("b", 3, status="revoked"), member("c", 5, status="left")]
    roster = open_roster(mesh.sign_roster(draft(1, members)), root_spki_sha256=mesh.mesh_id)

    assert [name for name in "abcd" if roster.member(name)] == ["a"]
    assert [name for name in "abcd" if roster.listed(name)] == ["a", "b", "c"]
    assert roster.member_of_key(bytes([1]) * 32).id == "a"
    assert roster.member_of_key(bytes([3]) * 32) is None


def test_the_end_of_a_membership_is_told_with_its_time_its_word_and_its_reason(mesh):
    ended = member("pi-2", 3, status="revoked", since_s=NOW_S, by="ann", reason="stolen")
    bare = member("pi-3", 5, status="left")  # as versions before this one wrote it
    roster = open_roster(
        mesh.sign_roster(draft(members=[member("pi-1", 1), ended, bare])), root_spki_sha256=mesh.mesh_id
    )

    assert roster.listed("pi-2") == ended and roster.listed("pi-3") == bare
    assert roster.why_out("pi-1", [bytes([1]) * 32]) is None
    for name, key, said in (
        ("pi-2", 3, "pi-2 was revoked on 2026-11-18 11:06 UTC by ann: stolen"),
        ("pi-3", 5, "pi-3 left the mesh"),
        ("pi-1", 9, "pi-1 was replaced: that name belongs to other keys now"),
        ("pi-9", 9, "the roster does not list pi-9"),
    ):
        assert roster.why_out(name, [bytes([key]) * 32]).cause == said
    assert roster.owner_of_key(bytes([3]) * 32) == ended


@pytest.mark.parametrize(
    "end",
    [
        {"status": "active", "since_s": 5},
        {"status": "active", "by": "ann"},
        {"status": "revoked", "reason": "no time"},
        {"status": "revoked", "since_s": NOW_S, "reason": "x" * 81},
        {"status": "revoked", "since_s": NOW_S, "by": "x" * 33},
        {"status": "left", "since_s": NOW_S, "reason": "two\nlines"},
    ],
)
def test_an_end_that_does_not_fit_is_not_signed(mesh, end):
    with pytest.raises(ProtocolViolation):
        mesh.sign_roster(draft(members=[member("pi-1", 1, **end)]))


def test_signers_are_deployers_and_members_of_that_role(mesh, keys):
    members = [
        member("a", 1, roles=("deployer",)),
        member("b", 3),
        member("c", 5, roles=("deployer",), status="revoked"),
    ]
    deployer = Deployer("gateway", spki_der(keys.public))
    signed = mesh.sign_roster(draft(1, members, deployers=(deployer,)))

    assert open_roster(signed, root_spki_sha256=mesh.mesh_id).signers == {
        bytes([1]) * 32: "a",
        keys.spki_sha256: "gateway",
    }


def test_another_authority_is_refused(mesh):
    other = Authority.create(now_s=NOW_S, entropy=os.urandom)

    with pytest.raises(ProtocolViolation, match="does not match the pinned root"):
        open_roster(other.sign_roster(draft()), root_spki_sha256=mesh.root_spki_sha256)


def test_a_member_cannot_sign_a_roster(mesh, keys):
    """Its own leaf in the chain, the issuing CA's certificate without its key, a bare key: all refused."""
    leaf = read_pem(mesh.issue(keys.public, "pi-1", now_s=NOW_S))[0]
    payload = open_roster(mesh.sign_roster(draft()), root_spki_sha256=mesh.mesh_id).payload
    leaf_der, issuing, root = der_of(leaf), der_of(mesh.issuing), der_of(mesh.root)

    for chain in ([leaf_der, root], [leaf_der, issuing, root], [issuing, root], [leaf_der]):
        with pytest.raises(ProtocolViolation):
            open_roster(
                sign1(payload, keys.signing, context=CONTEXT, x5chain=chain), root_spki_sha256=mesh.mesh_id
            )
    with pytest.raises(ProtocolViolation):
        bare = sign1(payload, keys.signing, context=CONTEXT, spki=spki_der(keys.public))
        open_roster(bare, root_spki_sha256=mesh.mesh_id)


def test_a_signature_for_another_use_is_void(mesh):
    payload = open_roster(mesh.sign_roster(draft()), root_spki_sha256=mesh.mesh_id).payload
    message = sign1(
        payload, mesh.issuing_key, context=b"ew1-entry", x5chain=[der_of(mesh.issuing), der_of(mesh.root)]
    )

    with pytest.raises(ProtocolViolation, match="does not hold"):
        open_roster(message, root_spki_sha256=mesh.mesh_id)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("bit", [0, 3, 7])
def test_one_flipped_bit_anywhere_is_refused_or_changes_nothing(mesh, bit):
    """X.509 lets the count of unused bits in a signature vary: the one place that may go unnoticed."""
    signed = mesh.sign_roster(draft(1, [member("a", 1)]))
    held, survived = open_roster(signed, root_spki_sha256=mesh.root_spki_sha256), []

    for place in range(len(signed)):
        damaged = bytearray(signed)
        damaged[place] ^= 1 << bit
        try:
            assert open_roster(bytes(damaged), root_spki_sha256=mesh.root_spki_sha256) == held
        except ProtocolViolation:
            continue
        survived.append(place)

    unused_bits = [
        signed.index(der_of(one)) + len(der_of(one)) - len(one.signature) - 1
        for one in (mesh.issuing, mesh.root)
    ]
    assert set(survived) <= set(unused_bits)


def test_lower_versions_are_ignored(mesh):
    view = RosterView(root_spki_sha256=mesh.root_spki_sha256)
    two = mesh.sign_roster(draft(2, [member("a", 1)]))

    assert isinstance(view.adopt(two), Adopted)
    assert view.adopt(two) == Ignored("held already")
    assert view.adopt(mesh.sign_roster(draft(1))) == Ignored("version 1 is lower than 2, which is held")
    assert (view.version, view.signed) == (2, two)
    view.check()


def test_the_same_version_with_another_content_is_a_fork(mesh):
    view = RosterView(root_spki_sha256=mesh.root_spki_sha256, signed=mesh.sign_roster(draft(2)))
    held = view.current.digest

    outcome = view.adopt(mesh.sign_roster(draft(2, [member("a", 1)])))

    assert isinstance(outcome, Fork)
    assert (outcome.version, outcome.held, view.current.digest) == (2, held, held)


def test_a_malleated_signature_is_no_fork(mesh):
    signed = mesh.sign_roster(draft(2))
    s = int.from_bytes(signed[-32:], "big")
    twin = signed[:-32] + (N - s).to_bytes(32, "big")
    view = RosterView(root_spki_sha256=mesh.root_spki_sha256, signed=signed)

    assert twin != signed
    assert view.adopt(twin) == Ignored("held already")


def test_adoption_names_who_changed(mesh):
    view = RosterView(root_spki_sha256=mesh.root_spki_sha256)
    view.adopt(mesh.sign_roster(draft(1, [member("a", 1), member("b", 3), member("c", 5)])))

    outcome = view.adopt(
        mesh.sign_roster(draft(2, [member("a", 1), member("b", 3, status="revoked"), member("d", 7)]))
    )

    assert outcome.changed == ("b", "c", "d")


def test_a_stale_roster_still_binds(mesh):
    view = RosterView(root_spki_sha256=mesh.root_spki_sha256)
    assert view.is_stale(NOW_S)
    view.adopt(mesh.sign_roster(draft(1, [member("a", 1)])))

    assert not view.is_stale(NOW_S + VALID_S)
    assert view.is_stale(NOW_S + VALID_S + 1)
    assert view.current.member("a") is not None


def test_the_authority_signs_nothing_that_members_would_refuse(mesh):
    crowd = [Member(f"n{i}", (MemberKey(os.urandom(32), bytes(32), 0),)) for i in range(1025)]

    with pytest.raises(BadInput, match="1024"):
        mesh.sign_roster(draft(1, crowd))
    for wrong in (
        draft(0),
        draft(1, [member("a", 1), member("a", 3)]),
        draft(1, [member("a", 1), member("b", 1)]),
        draft(1, [Member("a", ())]),
        draft(1, [replace(member("a", 1), labels={str(i): "x" for i in range(9)})]),
        draft(1, brokers=("a:1", "b:1", "c:1", "d:1")),
        draft(1, deployers=(Deployer("gateway", b"no key"),)),
    ):
        with pytest.raises(ProtocolViolation):
            mesh.sign_roster(wrong)


def test_1024_members_stay_within_the_size_that_travels(mesh):
    crowd = [
        Member(
            f"node-{i:04}", (MemberKey(os.urandom(32), os.urandom(32), NOW_S),), ("node",), {"site": "hall-a"}
        )
        for i in range(1024)
    ]
    signed = mesh.sign_roster(draft(1, crowd))

    assert len(signed) < 150_000
    assert len(open_roster(signed, root_spki_sha256=mesh.mesh_id).members) == 1024
