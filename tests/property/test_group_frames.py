"""Group frames under any input: typed errors alone, nothing changed is taken, no nonce is used twice."""

from __future__ import annotations

import os
import random

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from security import group
from security.authority import Authority
from security.errors import ProtocolViolation
from security.group import Epochs, EpochUnknown, GroupReceiver, GroupSender, Replayed

NOW_S = 1_795_000_000
MESH = Authority.create(now_s=NOW_S, entropy=os.urandom)
SECRETS = [bytes([i]) * 32 for i in range(4)]
GRANTS = [
    MESH.sign_grant(group="mesh", epoch=i + 1, secret=secret, issued_s=NOW_S)
    for i, secret in enumerate(SECRETS)
]
HEAD = bytes.fromhex("d08344a1011818a30448")
TOPICS = ["ew/1/m/p/a", "ew/1/m/g/state/a"]


def context(topic: str, src: str, name: str, kid: bytes) -> bytes:
    return cbor2.dumps([topic, src, name, kid])


def epochs(upto: int) -> Epochs:
    held = Epochs(mesh_id=MESH.mesh_id, group="mesh", root_spki_sha256=MESH.mesh_id)
    for grant, secret in zip(GRANTS[:upto], SECRETS, strict=False):
        held.adopt(0, grant, secret)
    return held


def receiver(upto: int = 1) -> GroupReceiver:
    return GroupReceiver(epochs(upto), context, is_member=lambda src: True)


HELD = epochs(1)
STREAM = b"\1" * 8
KID = group.kid_of(group.info_of(MESH.mesh_id, "mesh", 1, "a", STREAM))
half_right = st.builds(
    lambda cut, tail: (HEAD + KID + b"\x06\x41\x01\x0a\x4c\0\0\0\1" + STREAM + b"\x58\x20")[:cut] + tail,
    st.integers(0, 37),
    st.binary(max_size=60),
)


@given(st.one_of(st.binary(max_size=300), half_right), st.sampled_from(TOPICS))
def test_random_bytes_at_a_group_raise_only_protocol_violation(data, topic):
    """Or, where they begin rightly, name an epoch that nobody has."""
    reader = GroupReceiver(HELD, context, is_member=lambda src: True)
    try:
        assert isinstance(reader.open(0, topic, "a", data), EpochUnknown)
    except ProtocolViolation:
        assert reader.failures.total() == 1
    reader.check()


@given(st.binary(max_size=600))
def test_random_bytes_are_neither_grant_nor_stored_secrets(data):
    held = epochs(0)
    with pytest.raises(ProtocolViolation):
        held.adopt(0, data, SECRETS[0])
    with pytest.raises(ProtocolViolation):
        held.restore(0, data)
    assert held.current is None


@given(st.binary(max_size=120), st.data())
def test_a_changed_group_frame_never_opens(plain, data):
    sealed = GroupSender("a", HELD, context, entropy=os.urandom).seal(TOPICS[0], plain)
    assert sealed is not None
    start = data.draw(st.integers(0, len(sealed)))
    end = data.draw(st.integers(start, min(len(sealed), start + 8)))
    forged = sealed[:start] + data.draw(st.binary(max_size=8)) + sealed[end:]
    reader = receiver()

    if forged != sealed:
        try:
            assert isinstance(reader.open(0, TOPICS[0], "a", forged), EpochUnknown)
        except ProtocolViolation:
            pass
    assert reader.open(0, TOPICS[0], "a", sealed) == plain


steps = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(0, 1)),
        st.tuples(st.just("restart"), st.integers(0, 1)),
        st.tuples(st.just("rotate"), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=60)
@given(steps, st.integers(0, 2**32), st.integers(1, 5))
def test_no_key_and_nonce_are_ever_used_twice(script, seed, stream_frames):
    """Whatever is said, restarted (with the stored secrets) and rotated; two members share every secret.

    The key and nonce are read off each frame as any reader would, from its own kid context and number."""
    entropy = random.Random(seed).randbytes
    upto = 1
    stored = epochs(upto).to_bytes()
    used: list[tuple[bytes, int]] = []
    before = group.STREAM_FRAMES_MAX
    group.STREAM_FRAMES_MAX = stream_frames  # type: ignore[misc]
    try:
        held: dict[str, Epochs] = {}
        out: dict[str, GroupSender] = {}

        def start(me: str) -> None:
            held[me] = epochs(0)
            held[me].restore(0, stored)
            out[me] = GroupSender(me, held[me], context, entropy=entropy)

        start("a")
        start("b")
        for what, which in script:
            if what == "restart":
                start("ab"[which])
            elif what == "rotate" and upto < len(GRANTS):
                for one in held.values():
                    one.adopt(0, GRANTS[upto], SECRETS[upto])
                upto += 1
                stored = held["a"].to_bytes()
            elif what == "say":
                me = "ab"[which]
                sealed = out[me].seal(TOPICS[len(used) % 2], b"")
                assert sealed is not None
                _, header, _ = cbor2.loads(sealed).value
                number = int.from_bytes(header[10][:4], "big")
                info = group.info_of(MESH.mesh_id, "mesh", number, me, header[10][4:])
                key, iv = group.derive(SECRETS[number - 1], info)
                used.append((key, int.from_bytes(iv, "big") ^ int.from_bytes(header[6], "big")))
    finally:
        group.STREAM_FRAMES_MAX = before  # type: ignore[misc]

    assert len(set(used)) == len(used) == sum(what == "say" for what, _ in script)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 39)), max_size=120))
def test_each_frame_opens_at_most_once_in_any_order(script):
    """Two lives of one sender, their frames delivered in any order, as often as you like."""
    frames = [
        [out.seal(TOPICS[0], bytes([life, i])) for i in range(40)]
        for life, out in enumerate(GroupSender("a", HELD, context, entropy=os.urandom) for _ in range(2))
    ]
    reader, opened = receiver(), []

    for life, i in script:
        try:
            opened.append(reader.open(0, TOPICS[0], "a", frames[life][i] or b""))
        except Replayed:
            assert bytes([life, i]) in opened
    reader.check()

    assert len(set(opened)) == len(opened) == len(set(script))
