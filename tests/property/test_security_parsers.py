"""Every parser of trust: codecs invert, and hostile bytes raise typed errors only."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from security.canonical import decode, encode
from security.enrolment import (
    Asked,
    JoinCode,
    JoinDesk,
    JoinLimits,
    NotPersisted,
    Persisted,
    PersistInvitations,
    Reply,
    build_request,
)
from security.errors import BadInput, EdgeweaveError, ProtocolViolation
from security.identity import NodeKeys, is_node_id, spki_der
from security.roster import Member, MemberKey, RosterDraft, open_roster
from tests.support.parsers import MESH, NOW_S, PARSERS

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")
LEAF_HASH = b"L" * 32

TRUST = [
    "cbor", "spki", "csr", "leaf", "pem", "sign1", "catalogue entry", "roster", "roster payload",
    "join request", "join answer", "renewal", "leave", "leave answer", "join code",
]  # fmt: skip

# Bytes from nowhere, and good bytes with a piece replaced: the second reach much deeper.
damage = st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=12))


def damaged(good, hurts):
    data = bytearray(good)
    for where, cut, piece in hurts:
        at = int(where * len(data))
        data[at : at + cut] = piece
    return bytes(data)


@pytest.mark.parametrize("name", sorted(TRUST))
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_hostile_bytes_raise_typed_errors_only(name, data):
    (good, *_), read, allowed = PARSERS[name]
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
        st.sampled_from(
            ["garbage", "full", "tick", "approve", "restart", *("ask", "persist", "withdraw") * 3]
        ),
        st.integers(0, 1),
        st.integers(0, 2),
    ),
    max_size=25,
)
PEOPLE = [NodeKeys.generate() for _ in range(3)]


@settings(deadline=None, max_examples=250)
@given(steps, st.sampled_from(["auto", "pending"]))
def test_whatever_happens_a_code_certifies_one_claim(script, approval):
    """Asks, races, slow and full disks, withdrawals, restarts in any order: all certificates of one code are
    for one key, and a code that is withdrawn, on the disk, certifies nobody, before and after.
    """

    def new_desk():
        return JoinDesk(root_spki_sha256=MESH.root_spki_sha256, limits=JoinLimits(per_address=99, total=999))

    desk, now_s, disk, writing, issued, asked = new_desk(), NOW_S, b"", [], {}, 0
    withdrawing, withdrawn = {}, set()
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
                withdrawn |= withdrawing.pop(write.token, set())
                take(desk.handle(now_s, Persisted(write.token)))
            case "full" if writing:
                take(desk.handle(now_s, NotPersisted(writing.pop(0).token)))
            case "withdraw":
                try:
                    (write,) = desk.call_off(now_s, codes[i].token_id)
                except BadInput:
                    pass  # it was used, or is over
                else:
                    withdrawing[write.token] = {codes[i].token_id}
                    take([write])
            case "tick":
                take(desk.tick(now_s))
            case "approve":
                for node in desk.pending()[:1]:
                    try:
                        take(desk.approve(now_s, node.name))
                    except BadInput:
                        pass  # it waited too long
            case "restart":
                desk, writing, withdrawing = new_desk(), [], {}
                take(desk.restore(disk, now_s=now_s, void_open=False))
        desk.check()
        assert not withdrawn & {one.id for one in desk.open_invites(now_s)}

    assert all(len(keys) == 1 for keys in issued.values())
    assert not withdrawn & issued.keys()
