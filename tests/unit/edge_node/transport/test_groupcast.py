"""Presence under the group's key: what is taken, what is refused, and how keys get to who lacks them."""

from __future__ import annotations

import os
from itertools import pairwise

import cbor2
import pytest

from edge_node.transport.channel import Heard
from edge_node.transport.groupcast import (
    ANSWER_NS,
    ASK_NS,
    ASK_PEER_NS,
    ASKS_MAX,
    FRAME_BYTES_MAX,
    GROUP,
    Adopted,
    Groupcast,
    Keep,
    Tell,
)
from edge_node.wire import messages
from edge_node.wire.codec import encode_message, group_context, pack
from edge_node.wire.messages import (
    Beat,
    DigestEntry,
    FleetDigest,
    GroupKeys,
    GroupKeysWanted,
    Load,
    Offer,
    Ping,
    Result,
)
from edge_node.wire.topics import Presence
from security.authority import Authority
from security.group import OVERLAP_NS, Epochs, GroupSender

NOW_S = 1_795_000_000
SECOND = 1_000_000_000
MESH = Authority.create(now_s=NOW_S, entropy=os.urandom)
OTHER = Authority.create(now_s=NOW_S, entropy=os.urandom)


def keys_of(epoch: int, by: Authority = MESH) -> GroupKeys:
    secret = bytes([epoch]) * 32
    return GroupKeys(by.sign_grant(group=GROUP, epoch=epoch, secret=secret, issued_s=NOW_S + epoch), secret)


KEYS = {epoch: keys_of(epoch) for epoch in range(1, 6)}
MEMBERS = {"gateway", "pi-1", "pi-2", "pi-3"}


def member(me: str, *epochs: int, members: set[str] | None = None) -> Groupcast:
    listed = MEMBERS if members is None else members
    one = Groupcast(
        me=me,
        mesh_id=MESH.mesh_id,
        root_spki_sha256=MESH.root_spki_sha256,
        is_member=lambda src: src in listed,
        entropy=os.urandom,
    )
    for epoch in epochs:
        one.came(0, "gateway", KEYS[epoch])
    return one


def beat(seq: int, incarnation: int = 1) -> Beat:
    return Beat(seq, Load(2, seq), incarnation=incarnation)


def p(src: str, mesh: str = MESH.mesh_id) -> Presence:
    return Presence(mesh, src)


def forged(src: str, plain: bytes, *, epoch: int = 1) -> bytes:
    """A frame of any content: what a lying member can make in anybody's name."""
    held = Epochs(mesh_id=MESH.mesh_id, group=GROUP, root_spki_sha256=MESH.root_spki_sha256)
    held.adopt(0, KEYS[epoch].grant, KEYS[epoch].secret)
    sender = GroupSender(src, held, group_context(MESH.mesh_id), entropy=os.urandom)
    sealed = sender.seal(f"ew/1/{MESH.mesh_id}/p/{src}", plain)
    assert sealed is not None
    return sealed


def said(src: str, *said: messages.Message, n: int = 0) -> bytes:
    return forged(src, pack(1, [(n, encode_message(one)) for one in said]))


# -- presence


def test_a_beat_reaches_every_member_and_one_frame_serves_them_all():
    gateway, readers = member("gateway", 1), [member("pi-1", 1), member("pi-2", 1)]
    digest = FleetDigest(1, [DigestEntry("pi-3", 20, 4, 1.5)])

    frame = gateway.seal(0, [beat(1), digest])

    assert gateway.topic == f"ew/1/{MESH.mesh_id}/p/gateway"
    for reader in readers:
        assert reader.delivered(0, p("gateway"), frame) == [
            Heard("gateway", beat(1)),
            Heard("gateway", digest),
        ]
        reader.check()


def test_nothing_goes_out_before_there_is_an_epoch():
    assert member("pi-1").seal(0, [beat(1)]) is None


def test_the_context_binds_topic_source_and_group_with_role_two():
    context = group_context("00112233445566aa")("ew/1/00112233445566aa/p/pi-1", "pi-1", GROUP, b"kid of 8")
    assert cbor2.loads(context) == [
        1, "00112233445566aa", "ew/1/00112233445566aa/p/pi-1", "pi-1", "mesh", b"kid of 8", 2,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "frame",
    [
        said("pi-1", Offer("t", 1, "f", bytes(32), 1000)),
        said("pi-1", beat(1), Result("t", 1, "done")),
        said("pi-1", beat(1), KEYS[2]),
        said("pi-1", beat(1), Ping(1)),
        said("pi-1", beat(1), beat(2)),
        said("pi-1", beat(1), FleetDigest(1)),
        said("pi-1"),
        said("pi-1", beat(1), n=1),
        forged("pi-1", b"\x93\x02\x01\x90"),
        forged("pi-1", b"no MessagePack"),
    ],
    ids=[
        "work", "a result behind a beat", "keys", "a probe", "two beats", "a digest of a node",
        "nothing", "numbered", "another version", "noise",
    ],
)  # fmt: skip
def test_a_lying_member_gets_nothing_else_into_the_group(frame):
    """The frame is under the right key, as any member can make it; it is dropped whole and counted."""
    reader = member("pi-2", 1)

    assert reader.delivered(0, p("pi-1"), frame) == []
    assert reader.violations.total() == 1
    assert reader.delivered(0, p("pi-1"), said("pi-1", beat(1))) == [Heard("pi-1", beat(1))]


def test_a_digest_is_the_gateways_alone_and_comes_behind_its_beat():
    reader = member("pi-2", 1)
    assert reader.delivered(0, p("gateway"), said("gateway", FleetDigest(1))) == []
    assert reader.delivered(0, p("gateway"), said("gateway", FleetDigest(1), beat(1))) == []
    assert reader.delivered(0, p("gateway"), said("gateway", beat(1), FleetDigest(1), FleetDigest(2))) == []
    assert reader.violations.total() == 3


def test_a_message_of_a_later_version_is_skipped():
    later = b"\x92\xcc\xc8\x01"  # tag 200
    frame = forged("pi-1", pack(1, [(0, encode_message(beat(1))), (0, later)]))
    reader = member("pi-2", 1)

    assert reader.delivered(0, p("pi-1"), frame) == [Heard("pi-1", beat(1))]
    assert reader.unsupported == 1 and not reader.violations


def test_frames_are_ordered_by_life_and_number():
    reader, lives = member("pi-2", 1), [member("pi-1", 1), member("pi-1", 1)]
    old = [lives[0].seal(0, [beat(seq, 1)]) for seq in (1, 2, 3)]
    new = [lives[1].seal(0, [beat(seq, 2)]) for seq in (1, 2)]

    taken = [
        [one.message for one in reader.delivered(0, p("pi-1"), frame)]
        for frame in (old[1], old[0], new[0], old[2], new[1])
    ]

    assert taken == [[beat(2, 1)], [], [beat(1, 2)], [], [beat(2, 2)]]
    assert reader.stale == 2 and not reader.violations


def test_a_replay_that_no_window_knows_any_more_is_stale():
    """Older lives are replayed until the live stream's window is gone; its frames still come but once."""
    reader = member("pi-2", 1)
    old = [said("pi-1", beat(1, life)) for life in (1, 2, 3)]
    live = member("pi-1", 1)
    frames = [live.seal(0, [beat(seq, 9)]) for seq in (1, 2)]
    assert len(reader.delivered(0, p("pi-1"), frames[0])) == 1

    for frame in old * 2:
        assert reader.delivered(0, p("pi-1"), frame) == []
    stale = reader.stale
    assert reader.delivered(0, p("pi-1"), frames[0]) == []
    assert reader.stale == stale + 1, "the window let it pass, the order did not"
    assert len(reader.delivered(0, p("pi-1"), frames[1])) == 1


def test_a_forged_number_silences_a_member_only_until_it_is_heard_in_a_session():
    reader, victim = member("pi-2", 1), member("pi-1", 1)
    assert len(reader.delivered(0, p("pi-1"), said("pi-1", beat(1, 2**60)))) == 1, "any member can do this"
    assert reader.delivered(0, p("pi-1"), victim.seal(0, [beat(5, 7)])) == []

    reader.proved("pi-1", beat(6, 7))

    assert reader.delivered(0, p("pi-1"), victim.seal(0, [beat(6, 7)])) == []
    assert reader.delivered(0, p("pi-1"), victim.seal(0, [beat(7, 7)])) == [Heard("pi-1", beat(7, 7))]


def test_strangers_our_own_frames_other_meshes_and_large_ones_are_passed_over():
    reader = member("pi-2", 1)
    for topic, frame in (
        (p("pi-9"), said("pi-9", beat(1))),
        (p("pi-1", OTHER.mesh_id), said("pi-1", beat(1))),
        (p("pi-1"), said("pi-1", beat(1)) + bytes(FRAME_BYTES_MAX)),
        (p("pi-3"), said("pi-1", beat(1))),
    ):
        assert reader.delivered(0, topic, frame) == []
    assert reader.violations == {
        "group frame of a stranger": 1,
        "presence of another mesh": 1,
        "presence frame is too large": 1,
        "group frame is under a key of another source": 1,
    }

    assert reader.delivered(0, p("pi-2"), said("pi-2", beat(1))) == []
    assert reader.violations.total() == 4, "our own, back from the broker"


def test_a_member_struck_off_is_heard_no_more_and_one_that_returns_begins_anew():
    members = set(MEMBERS)
    reader, out = member("pi-2", 1, members=members), member("pi-1", 1)
    assert reader.delivered(0, p("pi-1"), out.seal(0, [beat(5, 9)]))
    members.discard("pi-1")
    reader.forget("pi-1")
    assert reader.delivered(0, p("pi-1"), out.seal(0, [beat(6, 9)])) == []
    assert "pi-1" not in reader._receiver._senders, "its keys are gone with it"

    members.add("pi-1")
    assert reader.delivered(0, p("pi-1"), member("pi-1", 1).seal(0, [beat(1, 1)]))


# -- keys


def test_an_epoch_that_came_is_kept_and_comes_back_after_a_restart():
    one = member("pi-1")
    keep, adopted = one.came(0, "gateway", KEYS[3])
    assert adopted == Adopted(3, "gateway")
    assert isinstance(keep, Keep)

    again = member("pi-1")
    assert again.restore(0, keep.stored) is None
    assert again.seal(0, [beat(1)]) is not None
    assert again.current is not None and again.current.number == 3


def test_damaged_secrets_are_told_and_asked_for_anew():
    keep = member("pi-1").came(0, "gateway", KEYS[3])[0]
    assert isinstance(keep, Keep)
    one = member("pi-1")

    assert "group secrets" in (one.restore(0, keep.stored[:-5]) or "")
    one.ready(0, "gateway")
    assert one.tick(0) == [Tell("gateway", GroupKeysWanted(GROUP, 0))]


def test_who_has_no_epoch_asks_the_gateway_first_then_others_one_a_second():
    one = member("pi-1")
    assert one.deadline_ns() is None, "nobody to ask"
    one.ready(0, "pi-2")
    one.ready(0, "pi-3")
    one.ready(0, "gateway")

    asked = []
    now_ns = 0
    while (due := one.deadline_ns()) is not None and due < ASK_PEER_NS:
        now_ns = due
        asked += [(now_ns, tell.peer) for tell in one.tick(now_ns) if isinstance(tell, Tell)]
        one.check()

    assert asked == [(0, "gateway"), (ASK_NS, "pi-2"), (2 * ASK_NS, "pi-3")]
    assert one.deadline_ns() == 2 * ASK_NS + ASK_PEER_NS, "and once more after a while"
    assert [tell.peer for tell in one.tick(2 * ASK_NS + ASK_PEER_NS)] == ["gateway"]


def test_asking_ends_when_the_keys_are_there_or_nobody_is():
    one = member("pi-1")
    one.ready(0, "gateway")
    one.ready(0, "pi-2")
    one.tick(0)
    one.came(1, "gateway", KEYS[1])
    assert one.deadline_ns() is None and one.tick(20 * SECOND) == []

    other = member("pi-1")
    other.ready(0, "gateway")
    other.tick(0)
    other.lost("gateway")
    assert other.tick(ASK_PEER_NS) == [] and other.deadline_ns() is None


def test_a_frame_under_a_newer_epoch_makes_us_ask_the_gateway_then_its_sender():
    one, ahead = member("pi-1", 1), member("pi-2", 2)
    one.ready(0, "gateway")
    one.ready(0, "pi-3")

    assert one.delivered(5, p("pi-2"), ahead.seal(5, [beat(1)])) == []

    assert one.tick(5) == [Tell("gateway", GroupKeysWanted(GROUP, 1))]
    assert one.tick(5) == []
    assert one.tick(5 + ASK_NS) == [Tell("pi-2", GroupKeysWanted(GROUP, 1))]
    assert one.tick(5 + 2 * ASK_NS) == [Tell("pi-3", GroupKeysWanted(GROUP, 1))]
    assert one.deadline_ns() is None, "the claim is unproved: one round"
    assert one.unknown_epochs == 1


def test_asking_goes_on_until_the_epoch_heard_of_is_there():
    one = member("pi-1", 1)
    one.ready(0, "gateway")
    one.delivered(0, p("pi-2"), member("pi-2", 3).seal(0, [beat(1)]))
    assert [tell.peer for tell in one.tick(0)] == ["gateway"]

    one.came(1, "gateway", KEYS[2])
    assert one.tick(ASK_NS) == [Tell("pi-2", GroupKeysWanted(GROUP, 2))], "the gateway is behind"
    one.came(ASK_NS, "pi-2", KEYS[3])
    assert one.deadline_ns() == OVERLAP_NS + ASK_NS, "nothing but the end of the epoch before"


def test_forged_epochs_cost_at_most_one_ask_a_second_and_one_in_ten_seconds_a_peer():
    """A broker that invents frames of epochs that do not exist, from every source, for a minute."""
    members = {"gateway"} | {f"n{i}" for i in range(40)}
    one = member("n0", 1, members=members)
    for i in range(1, 40):
        one.ready(0, f"n{i}")
    frame = bytearray(said("pi-1", beat(1)))
    asks: list[tuple[int, str]] = []
    for step in range(600):
        now_ns = step * SECOND // 10
        frame[23:27] = (2 + step).to_bytes(4, "big")
        for i in range(1, 40):
            one.delivered(now_ns, p(f"n{i}"), bytes(frame))
        asks += [(now_ns, tell.peer) for tell in one.tick(now_ns) if isinstance(tell, Tell)]
        one.check()

    assert len(asks) > 10
    assert all(b[0] - a[0] >= ASK_NS for a, b in pairwise(asks))
    for peer in {peer for _, peer in asks}:
        at = [now_ns for now_ns, asked in asks if asked == peer]
        assert all(b - a >= ASK_PEER_NS for a, b in pairwise(at))
    assert ASKS_MAX == 4


def test_only_members_that_are_behind_are_answered_and_only_with_the_current_epoch():
    one = member("pi-1", 1, 2)

    assert one.asked(0, "pi-2", GroupKeysWanted(GROUP, 1)) == [Tell("pi-2", KEYS[2])]
    assert one.asked(1, "pi-2", GroupKeysWanted(GROUP, 1)) == [], "not at any rate"
    assert one.asked(ANSWER_NS, "pi-2", GroupKeysWanted(GROUP, 1)) == [Tell("pi-2", KEYS[2])]
    assert one.asked(0, "pi-3", GroupKeysWanted(GROUP, 2)) == []
    assert one.asked(0, "pi-9", GroupKeysWanted(GROUP, 0)) == [], "not listed"
    assert one.asked(0, "pi-3", GroupKeysWanted("state", 0)) == []
    assert member("pi-1").asked(0, "pi-2", GroupKeysWanted(GROUP, 0)) == []


def test_who_is_asked_for_more_than_it_has_asks_itself():
    one = member("pi-1", 1)
    assert one.asked(0, "pi-2", GroupKeysWanted(GROUP, 4)) == []
    assert one.tick(0) == [Tell("pi-2", GroupKeysWanted(GROUP, 1))]


def test_who_shows_a_lower_epoch_is_handed_ours():
    """So a gateway restored from a backup learns that the mesh is past what it remembers."""
    one = member("pi-1", 4)
    assert one.came(0, "gateway", KEYS[2]) == [Tell("gateway", KEYS[4])]
    assert one.came(1, "gateway", KEYS[2]) == []
    assert one.current is not None and one.current.number == 4


@pytest.mark.parametrize(
    ("peer", "keys"),
    [
        ("pi-9", KEYS[2]),
        ("gateway", keys_of(2, OTHER)),
        ("gateway", GroupKeys(KEYS[2].grant, KEYS[3].secret)),
        ("gateway", GroupKeys(KEYS[2].grant[:-1] + b"\0", KEYS[2].secret)),
        ("gateway", GroupKeys(b"", bytes(32))),
    ],
    ids=["a stranger", "another mesh", "another secret", "a forged signature", "nothing"],
)
def test_keys_that_the_authority_did_not_grant_change_nothing(peer, keys):
    one = member("pi-1", 1)
    assert one.came(0, peer, keys) == []
    assert one.violations.total() == 1
    assert one.current is not None and one.current.number == 1


def test_who_was_away_during_the_rotation_gets_the_epoch_from_another_member():
    """The gateway is gone; the removed member asks too, and is heard and answered no more."""
    members = set(MEMBERS)
    away, stayed, removed = (
        member("pi-1", 1, members=members),
        member("pi-2", 1, members=members),
        member("pi-3", 1),
    )
    members.discard("pi-3")
    stayed.forget("pi-3")
    stayed.came(0, "gateway", KEYS[2])
    frame = stayed.seal(0, [beat(1)])

    assert away.delivered(0, p("pi-2"), frame) == []
    assert removed.delivered(0, p("pi-2"), frame) == []
    (ask,) = away.tick(0)
    (in_vain,) = removed.tick(0)
    assert isinstance(ask, Tell) and isinstance(in_vain, Tell)
    assert isinstance(ask.message, GroupKeysWanted) and isinstance(in_vain.message, GroupKeysWanted)
    (answer,) = stayed.asked(0, "pi-1", ask.message)
    assert isinstance(answer, Tell) and isinstance(answer.message, GroupKeys)
    assert stayed.asked(0, "pi-3", in_vain.message) == []
    assert Adopted(2, "pi-2") in away.came(0, "pi-2", answer.message)

    assert away.delivered(1, p("pi-2"), stayed.seal(1, [beat(2)])) == [Heard("pi-2", beat(2))]
    assert removed.delivered(1, p("pi-2"), stayed.seal(1, [beat(3)])) == []
    assert stayed.delivered(1, p("pi-3"), removed.seal(1, [beat(1)])) == []


def test_the_epoch_before_ends_by_itself():
    one, behind = member("pi-1", 1, 2), member("pi-2", 1)
    assert one.deadline_ns() == OVERLAP_NS
    assert one.delivered(OVERLAP_NS - 1, p("pi-2"), behind.seal(0, [beat(1)]))
    assert one.tick(OVERLAP_NS) == []
    assert one.delivered(OVERLAP_NS, p("pi-2"), behind.seal(0, [beat(2)])) == []
    assert one.deadline_ns() is None
    one.check()
