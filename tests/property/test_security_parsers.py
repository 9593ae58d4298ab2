"""Every parser of trust: codecs invert, and hostile bytes raise typed errors only."""

import functools
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from security.authority import Authority
from security.canonical import decode, encode
from security.certificates import build_csr, der_of, key_of_csr, read_certificate, read_pem, verify_leaf
from security.enrolment import (
    Asked,
    JoinCode,
    JoinDesk,
    JoinLimits,
    Persisted,
    PersistInvitations,
    Reply,
    accepted,
    build_renewal,
    build_request,
    open_renewal,
    read_answer,
    read_request,
)
from security.errors import BadInput, EdgeweaveError, ProtocolViolation, Refused, Unavailable
from security.identity import NodeKeys, is_node_id, read_spki, spki_der
from security.roster import Member, MemberKey, RosterDraft, open_roster, read_payload
from security.signing import EntryDraft, open_entry, sign_entry, verify1

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")
NOW_S = 1_795_000_000
LEAF_HASH = b"L" * 32
MESH = Authority.create(now_s=NOW_S, entropy=os.urandom)
KEYS = NodeKeys.generate()
MEMBER = Member("pi-1", (MemberKey(KEYS.spki_sha256, KEYS.x25519_public, NOW_S),), ("deployer",), {"a": "b"})
SIGNED = MESH.sign_roster(RosterDraft(1, bytes(32), NOW_S, ("a:1",), (), (MEMBER,)))
ROSTER = open_roster(SIGNED, root_spki_sha256=MESH.mesh_id)
LEAF_PEM = MESH.issue(KEYS.public, "pi-1", now_s=NOW_S)
CODE = JoinCode.make(MESH.root_spki_sha256, ("a:1",), bytes(20))
ENTRY = sign_entry(EntryDraft(MESH.mesh_id, "f", 1, bytes(32), b"m", NOW_S), KEYS.signing)


def read_any_leaf(der):
    return verify_leaf(
        [MESH.issuing, MESH.root],
        read_certificate(der),
        root_spki_sha256=MESH.root_spki_sha256,
        usage="client",
        floor_s=NOW_S,
    )


# name: (good bytes, parser, what it may raise)
PARSERS = {
    "cbor": (encode([1, {"a": b"b"}]), decode, ProtocolViolation),
    "spki": (spki_der(KEYS.public), read_spki, ProtocolViolation),
    "csr": (build_csr(KEYS.signing, "pi-1"), key_of_csr, ProtocolViolation),
    "leaf": (der_of(read_pem(LEAF_PEM)[0]), read_any_leaf, ProtocolViolation),
    "pem": (LEAF_PEM, read_pem, ProtocolViolation),
    "sign1": (
        ENTRY,
        functools.partial(verify1, context=b"ew1-entry", trusted_spki_sha256={KEYS.spki_sha256}),
        ProtocolViolation,
    ),
    "entry": (
        ENTRY,
        functools.partial(open_entry, mesh_id=MESH.mesh_id, deployers=ROSTER.signers),
        ProtocolViolation,
    ),
    "roster": (
        SIGNED,
        functools.partial(open_roster, root_spki_sha256=MESH.root_spki_sha256),
        ProtocolViolation,
    ),
    "roster payload": (ROSTER.payload, read_payload, ProtocolViolation),
    "join request": (
        build_request(CODE, KEYS, name="pi-1", labels={"a": "b"}, server_leaf_sha256=LEAF_HASH),
        read_request,
        ProtocolViolation,
    ),
    "answer": (
        accepted(LEAF_PEM, MESH.chain_pem, SIGNED, wall_s=NOW_S, brokers=("a:1",)),
        functools.partial(
            read_answer, root_spki_sha256=MESH.root_spki_sha256, keys=KEYS, name="", floor_s=NOW_S
        ),
        (ProtocolViolation, Refused, Unavailable),
    ),
    "renewal": (
        build_renewal(KEYS, KEYS, node_id="pi-1", server_leaf_sha256=LEAF_HASH, nonce=bytes(16)),
        functools.partial(open_renewal, roster=ROSTER, server_leaf_sha256=LEAF_HASH, now_s=NOW_S),
        (ProtocolViolation, Refused),
    ),
    "join code": (
        CODE.text().encode(),
        lambda data: JoinCode.parse(data.decode("latin-1")),
        BadInput,
    ),
}

# Bytes from nowhere, and good bytes with a piece replaced: the second reach much deeper.
damage = st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=12))


def damaged(good, hurts):
    data = bytearray(good)
    for where, cut, piece in hurts:
        at = int(where * len(data))
        data[at : at + cut] = piece
    return bytes(data)


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_good_bytes_are_read(name):
    good, read, _ = PARSERS[name]

    read(good)


@pytest.mark.parametrize("name", sorted(PARSERS))
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_hostile_bytes_raise_typed_errors_only(name, data):
    good, read, allowed = PARSERS[name]
    hostile = data.draw(
        st.binary(max_size=300) | st.lists(damage, min_size=1, max_size=3).map(lambda h: damaged(good, h))
    )

    try:
        read(hostile)
    except allowed as error:
        assert isinstance(error, EdgeweaveError)
        assert "\n" not in str(error)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.integers(0, 99) | st.binary(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(plain)
def test_deterministic_cbor_inverts(value):
    try:
        assert decode(encode(value)) == value
    except ProtocolViolation:
        assert depth(value) > 8


def depth(value):
    children = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return (isinstance(value, dict | list)) + max((depth(child) for child in children), default=0)


@given(st.binary(max_size=64))
def test_what_is_read_has_one_spelling(data):
    try:
        value = decode(data)
    except ProtocolViolation:
        return
    assert encode(value) == data


hosts = st.from_regex(r"[a-z0-9.-]{1,20}:[1-9][0-9]{0,3}", fullmatch=True)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=20, max_size=20), st.lists(hosts, max_size=8))
def test_join_codes_invert(pin, entropy, addresses):
    code = JoinCode.make(pin, tuple(addresses), entropy)

    assert JoinCode.parse(code.text()) == code


ids = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
words = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8)
members = st.builds(
    Member,
    ids,
    st.lists(
        st.builds(
            MemberKey,
            st.binary(min_size=32, max_size=32),
            st.binary(min_size=32, max_size=32),
            st.integers(0, 2**40),
        ),
        min_size=1,
        max_size=2,
    ).map(tuple),
    st.lists(words, max_size=3).map(tuple),
    st.dictionaries(words, words, max_size=3),
    st.sampled_from(["active", "revoked", "left"]),
)


@settings(deadline=None)
@given(st.lists(members, max_size=4, unique_by=lambda m: m.id), st.integers(1, 2**63))
def test_rosters_invert(crowd, version):
    keys = [key.spki_sha256 for one in crowd for key in one.keys]
    if len(keys) != len(set(keys)):
        return
    draft = RosterDraft(version, bytes(32), NOW_S, (), (), tuple(crowd))
    roster = open_roster(MESH.sign_roster(draft), root_spki_sha256=MESH.mesh_id)

    assert roster.members == tuple(sorted(crowd, key=lambda m: m.id))
    assert roster.version == version
    assert all(is_node_id(one.id) for one in roster.members)


REQUESTS = [  # who asks with which of two codes: three strangers, two codes, now and then with garbage
    lambda codes, people, i, j: build_request(
        codes[i % 2], people[j % 3], name=f"pi-{j % 3}", labels={}, server_leaf_sha256=LEAF_HASH
    ),
    lambda codes, people, i, j: b"garbage",
]
steps = st.lists(
    st.tuples(
        st.integers(0, 400),
        st.sampled_from(["ask", "ask", "ask", "garbage", "persist", "tick", "approve", "restart"]),
        st.integers(0, 1),
        st.integers(0, 2),
    ),
    max_size=25,
)
PEOPLE = [NodeKeys.generate() for _ in range(3)]


@settings(deadline=None, max_examples=60)
@given(steps, st.sampled_from(["auto", "pending"]))
def test_whatever_happens_a_code_certifies_one_claim(script, approval):
    """Asks, races, slow disks, restarts in any order: all certificates of one code are for one key."""

    def new_desk():
        return JoinDesk(root_spki_sha256=MESH.root_spki_sha256, limits=JoinLimits(per_address=99, total=999))

    desk, now_s, disk, writing, issued, asked = new_desk(), NOW_S, b"", [], {}, 0
    codes = []
    for i in range(2):
        code, effects = desk.invite(now_s, entropy=bytes([i] * 20), addresses=(), approval=approval)
        codes.append(code)
        disk = effects[-1].data

    def take(effects):
        nonlocal disk
        for effect in effects:
            match effect:
                case PersistInvitations():
                    writing.append(effect)
                case Reply():
                    pass
                case _:
                    issued.setdefault(effect.token_id, set()).add(spki_der(effect.key))

    for wait_s, what, i, j in script:
        now_s += wait_s
        match what:
            case "ask" | "garbage":
                asked += 1
                request = REQUESTS[what == "garbage"](codes, PEOPLE, i, j)
                take(desk.handle(now_s, Asked(asked, request, LEAF_HASH, "a")))
            case "persist" if writing:
                write = writing.pop(0)
                disk = write.data
                take(desk.handle(now_s, Persisted(write.token)))
            case "tick":
                take(desk.tick(now_s))
            case "approve":
                for node in desk.pending()[:1]:
                    try:
                        take(desk.approve(now_s, node.name))
                    except BadInput:
                        pass  # it waited too long
            case "restart":
                desk, writing = new_desk(), []
                take(desk.restore(disk, now_s=now_s, void_open=False))
        desk.check()

    assert all(len(keys) == 1 for keys in issued.values())
