"""Presence as a whole: really sealed frames between members in virtual time, with no loop and no link."""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Any

import pytest

from edge_node.membership.detector import SECOND, Down, Probe, Up
from edge_node.membership.following import FOLLOWED_MAX
from edge_node.membership.presence import (
    Beaten,
    Digested,
    Presence,
    Publish,
    Subscribe,
    TellLoose,
    Unsubscribe,
)
from edge_node.transport.groupcast import GROUP, Groupcast, Keep
from edge_node.wire import topics
from edge_node.wire.messages import Beat, DigestEntry, FleetDigest, GroupKeys, Load
from security.authority import Authority

AUTHORITY = Authority.create(now_s=1_700_000_000, entropy=os.urandom)
MESH = AUTHORITY.mesh_id
SECRET = os.urandom(32)
KEYS = GroupKeys(AUTHORITY.sign_grant(group=GROUP, epoch=1, secret=SECRET, issued_s=1_700_000_000), SECRET)


class Member:
    """One presence, what it subscribes to, and what it was made to do."""

    def __init__(self, name: str, *, incarnation: int = 1, keys: bool = True, seed: int = 0) -> None:
        self.name = name
        self.load = Load(2, 0)
        rng = random.Random(f"{name}/{seed}")
        self.members: frozenset[str] = frozenset({"gateway"})
        self.presence = Presence(
            me=name,
            mesh_id=MESH,
            incarnation=incarnation,
            boot_id=rng.randbytes(8),
            groupcast=Groupcast(
                me=name,
                mesh_id=MESH,
                root_spki_sha256=AUTHORITY.root_spki_sha256,
                is_member=lambda peer: peer in self.members,
                entropy=rng.randbytes,
            ),
            load=lambda now_ns: self.load,
            depends=lambda peer: False,
            rng=rng,
        )
        self.topics = set(topics.subscriptions(MESH, name))
        self.done: Counter[type] = Counter()
        self.news: list[Any] = []
        if keys:
            self.presence.groupcast.came(0, "gateway", KEYS)

    def hears(self, topic: str) -> bool:
        return topic in self.topics or (self.name == "gateway" and "/p/" in topic)

    def carry_out(self, effects: list[Any]) -> list[Publish]:
        self.news += effects
        for effect in effects:
            self.done[type(effect)] += 1
            if isinstance(effect, Subscribe):
                self.topics |= set(effect.topics)
            elif isinstance(effect, Unsubscribe):
                self.topics -= set(effect.topics)
        return [effect for effect in effects if isinstance(effect, Publish)]


class Air:
    """Frames reach whoever subscribed, at once; members can be silenced."""

    def __init__(self, *members: Member) -> None:
        self.members = {member.name: member for member in members}
        self.silent: set[str] = set()
        self.said: list[Publish] = []
        self.now_ns = 0
        for member in members:
            self.roster(member)

    def roster(self, member: Member) -> None:
        member.members = frozenset(self.members)
        self.carry(member, member.presence.members(self.now_ns, 0, self.members))

    def carry(self, member: Member, effects: list[Any]) -> None:
        for frame in member.carry_out(effects):
            self.publish(member.name, frame)

    def publish(self, src: str, frame: Publish) -> None:
        self.said.append(frame)
        topic = topics.parse(frame.topic)
        assert isinstance(topic, topics.Presence)
        for other in list(self.members.values()):
            if other.name != src and other.name not in self.silent and other.hears(frame.topic):
                self.carry(other, other.presence.delivered(self.now_ns, 0, topic, frame.payload))

    def run(self, seconds: float) -> None:
        until_ns = self.now_ns + int(seconds * SECOND)
        while self.now_ns < until_ns:
            self.now_ns += SECOND // 4
            for member in list(self.members.values()):
                if member.name not in self.silent and member.presence.deadline_ns() <= self.now_ns:
                    self.carry(member, member.presence.tick(self.now_ns, 0))
        for member in self.members.values():
            member.presence.check()


def mesh(*names: str) -> Air:
    return Air(*(Member(name) for name in ("gateway", *names)))


def test_members_hear_each_others_beats_under_the_groups_key():
    air = mesh("a", "b")
    air.run(1)

    for name, others in (("a", ["b", "gateway"]), ("b", ["a", "gateway"]), ("gateway", ["a", "b"])):
        assert air.members[name].presence.detector.up() == others
    assert not any(frame.payload[:1] == b"\xa1" for frame in air.said), "frames are sealed"


def test_without_a_key_a_node_beats_to_the_gateway_alone():
    node = Member("a", keys=False)
    air = Air(node, Member("gateway"))
    air.run(6)

    told = [effect for effect in node.news if isinstance(effect, TellLoose)]
    assert {effect.peer for effect in told} == {"gateway"} and len(told) >= 2
    assert node.done[Publish] == 0
    assert air.members["gateway"].presence.detector.up() == []


def test_the_first_beat_under_a_new_key_goes_out_at_once():
    node = Member("a", keys=False)
    Air(node, Member("gateway"))

    effects = node.presence.keys_came(0, 0, "gateway", KEYS)
    assert [type(effect) for effect in effects if isinstance(effect, Keep | Publish)] == [Keep, Publish]


def test_the_death_of_a_followed_peer_is_told_once():
    air = mesh("a", "b")
    air.run(3)
    air.silent.add("b")
    air.run(60)

    for name in ("a", "gateway"):
        downs = [e.peer for e in air.members[name].news if isinstance(e, Down)]
        assert downs == ["b"]
    assert "b" not in air.members["a"].presence.detector.up()


def test_a_recorded_beat_revives_nobody():
    """The broker plays back everything that the dead ever said."""
    air = mesh("a", "b")
    air.run(3)
    air.silent.add("b")
    air.run(60)
    recorded = [frame for frame in air.said if frame.topic.endswith("/p/b")]
    assert recorded
    before = len(air.members["a"].news)
    for frame in recorded:
        air.publish("b", frame)

    assert not [e for e in air.members["a"].news[before:] if isinstance(e, Up | Beaten)]
    assert not [e for e in air.members["gateway"].news if isinstance(e, Beaten) and e.beat.incarnation > 1]
    assert "b" not in air.members["gateway"].presence.detector.up()


def test_a_new_life_is_heard_at_once_and_the_old_one_never_again():
    air = mesh("a", "b")
    air.run(3)
    old = [frame for frame in air.said if frame.topic.endswith("/p/b")]
    reborn = air.members["b"] = Member("b", incarnation=2, seed=1)
    air.roster(reborn)
    air.run(0.25)
    heard = [e.beat for e in air.members["a"].news if isinstance(e, Beaten) and e.peer == "b"]
    assert heard[-1].incarnation == 2 and heard[-1].boot_id != heard[0].boot_id

    before = len(air.members["a"].news)
    for frame in old:
        air.publish("b", frame)
    assert not [e for e in air.members["a"].news[before:] if isinstance(e, Beaten)]


def test_a_removed_member_is_not_heard_although_it_holds_the_key():
    air = mesh("a", "b")
    air.run(3)
    removed = air.members.pop("b")
    for member in air.members.values():
        air.roster(member)
    downs = [e for e in air.members["a"].news if isinstance(e, Down)]
    assert downs == [Down("b", "it left the roster")]
    assert topics.topic_for(topics.Presence(MESH, "b")) not in air.members["a"].topics

    before = len(air.members["gateway"].news)
    beat = removed.presence.heartbeat.told(air.now_ns, 0, removed.load)
    sealed = removed.presence.groupcast.seal(air.now_ns, [beat])
    air.publish("b", Publish(removed.presence.groupcast.topic, sealed))
    assert air.members["gateway"].news[before:] == []


def test_a_will_is_a_hint_about_the_watched_alone():
    """Anybody can forge one: it costs a probe, and the answer ends it."""
    air = mesh("a", "b")
    air.run(1)
    node = air.members["a"].presence

    assert node.delivered(air.now_ns, 0, topics.Presence(MESH, "b"), b"") == [Probe("b")]
    assert node.delivered(air.now_ns, 0, topics.Presence(MESH, "a"), b"") == []
    assert node.delivered(air.now_ns, 0, topics.Presence(MESH, "stranger"), b"") == []
    assert node.heard(air.now_ns, 0, "b") == []
    assert node.detector.states() == {"b": "up", "gateway": "up"}


def test_the_digest_tells_a_node_of_those_that_it_does_not_follow():
    names = [f"n{n:02}" for n in range(30)]
    air = mesh(*names)
    air.members["n07"].load = Load(4, 9000)
    air.run(15)

    told: dict[str, DigestEntry] = {}
    for effect in air.members["n00"].news:
        if isinstance(effect, Digested):
            told.update((entry.id, entry) for entry in effect.entries)
    assert set(told) == set(names[1:]), "all the others, and not ourselves"
    assert (told["n07"].wait_ms, told["n07"].workers) == (2250, 4)
    assert len(air.members["n00"].presence.following.followed) == FOLLOWED_MAX


def test_a_dead_holder_that_is_not_followed_is_missed_by_the_digest():
    """Its will is not heard, nor its silence noticed for 12 s; the gateway's word makes us probe at once."""
    names = [f"n{n:02}" for n in range(30)]
    air = mesh(*names)
    air.run(3)
    node = air.members["n00"]
    holder = next(n for n in names[1:] if not node.presence.following.follows(n))
    node.presence.detector._depends = lambda peer: peer == holder
    node.carry_out(node.presence.heard(air.now_ns, 0, holder))
    node.news.clear()
    air.silent.add(holder)
    gateway = air.members["gateway"]
    away = topics.Presence(MESH, holder)
    air.carry(gateway, gateway.presence.delivered(air.now_ns, 0, away, b""))
    air.run(9)

    assert Probe(holder) in node.news
    assert [e.reason[:19] for e in node.news if isinstance(e, Down)] == ["the gateway lost it"]


def test_nobody_but_the_gateway_tells_a_digest():
    air = mesh("a", "b")
    air.run(1)
    liar = air.members["b"].presence
    forged = [liar.heartbeat.told(air.now_ns, 0, Load(1, 0)), FleetDigest(9, [DigestEntry("a", 0, 9, 9.0)])]
    before = len(air.members["a"].news)
    air.publish("b", Publish(liar.groupcast.topic, liar.groupcast.seal(air.now_ns, forged)))

    assert not [e for e in air.members["a"].news[before:] if isinstance(e, Digested | Beaten)]


def test_our_own_lost_link_is_held_against_nobody():
    air = mesh(*(f"n{n:02}" for n in range(30)))
    air.run(3)
    node = air.members["n00"].presence
    followed = node.following.followed

    effects = node.link_down(air.now_ns)
    assert {type(effect) for effect in effects} == {Down}
    assert node.following.followed == followed


def test_a_link_that_is_back_asks_whom_it_follows_and_no_thousand_others():
    air = mesh("a")
    air.run(1)
    node = air.members["a"].presence
    effects = node.link_up(air.now_ns, 0, ["gateway", *(f"other-{n}" for n in range(1000))])

    assert [effect.peer for effect in effects if isinstance(effect, Probe | TellLoose)] == ["gateway"] * 2


def traffic_of(size: int) -> tuple[Counter[type], int, int]:
    """What one node does in 16 s of a fleet, the subscriptions that it ends with, and what it hears."""
    air = mesh(*(f"n{n:04}" for n in range(size)))
    watched = air.members["n0000"]
    for number, member in enumerate(air.members.values()):  # half of them busy: loads move all the time
        member.load = Load(2, number % 2 * number)
    air.run(5)  # everybody is met
    watched.done.clear()
    watched.news.clear()
    air.silent.add("n0001")
    for _ in range(8):
        for number, member in enumerate(air.members.values()):
            member.load = Load(2, number % 2 * (number + air.now_ns // SECOND))
            member.presence.load_moved(air.now_ns)
        air.run(2)
    heard = sum(isinstance(effect, Beaten | Digested) for effect in watched.news)
    return watched.done, len(watched.topics), heard


@pytest.mark.slow
def test_a_nodes_traffic_does_not_grow_with_the_fleet():
    small, topics_small, heard_small = traffic_of(FOLLOWED_MAX + 1)
    large, topics_large, heard_large = traffic_of(120)

    assert topics_small == topics_large == 4 + FOLLOWED_MAX
    assert large[Publish] <= small[Publish] + 1
    assert large[Probe] <= 4 and large[TellLoose] <= 4 * FOLLOWED_MAX
    assert heard_large <= heard_small * 1.25 + 30


def test_a_beat_in_a_session_makes_a_lost_order_right():
    """The member's key store was lost and its clock went back: its incarnation is lower than before."""
    air = mesh("a", "b")
    air.run(3)
    low = air.members["b"] = Member("b", incarnation=0, seed=2)
    air.roster(low)
    air.run(6)
    node = air.members["a"]
    assert not [e for e in node.news if isinstance(e, Beaten) and e.beat.incarnation == 0]

    node.presence.heard(air.now_ns, 0, "b")
    node.presence.beat_heard(air.now_ns, "b", Beat(1, Load(1, 0), 0, b"anotherX", 0))
    air.run(6)
    assert [e for e in node.news if isinstance(e, Beaten) and e.beat.incarnation == 0]


def reborn_lower(air: Air, *, seed: int = 5) -> Member:
    """b ends, its home is restored and its clock set back: it begins under a lower incarnation."""
    air.members["b"].presence.check()
    air.silent.add("b")
    air.run(1)
    back = Member("b", incarnation=3, seed=seed)
    air.members["b"] = back
    air.roster(back)
    air.silent.discard("b")
    return back


def of_b(member: Member) -> list[Any]:
    return [effect for effect in member.news if isinstance(effect, Probe) and effect.peer == "b"]


def test_a_life_below_the_one_remembered_is_met_in_a_session():
    """What its beats cannot prove a session does; nobody waits for work to make one."""
    air = Air(Member("gateway"), Member("a"), Member("b", incarnation=1_000))
    air.run(6)
    follower = air.members["a"]
    assert follower.presence.detector.is_up("b")
    back = reborn_lower(air)
    air.run(20)
    assert follower.presence.detector.states()["b"] == "down"
    follower.news.clear()
    air.run(65)

    assert not follower.presence.detector.is_up("b"), "a beat alone proves nothing"
    assert 1 <= len(of_b(follower)) <= 7, "at most one in ten seconds"

    beat = back.presence.heartbeat.direct(0, back.load)  # as the session that it made brings it
    follower.carry_out(follower.presence.ready(air.now_ns, 0, "b"))
    follower.presence.beat_heard(air.now_ns, "b", beat)
    met = len(of_b(follower))
    air.run(30)
    assert follower.presence.detector.is_up("b")
    assert len(of_b(follower)) == met


def test_old_frames_said_again_of_who_is_up_lead_to_nothing():
    air = Air(Member("gateway"), Member("a"), Member("b", incarnation=1_000))
    older = Member("b", incarnation=3, seed=9)
    frame = older.presence.groupcast.seal(0, [Beat(1, Load(2, 0), 0, b"old life", 3)])
    air.run(6)
    air.publish("b", Publish(topics.topic_for(topics.Presence(MESH, "b")), frame))

    assert of_b(air.members["a"]) == of_b(air.members["gateway"]) == []


def test_of_whom_a_node_does_not_follow_it_meets_nobody():
    air = Air(Member("gateway"), Member("a"), Member("b", incarnation=1_000))
    air.run(6)
    follower = air.members["a"]
    follower.presence.following.follows = lambda peer: peer == "gateway"
    reborn_lower(air)
    air.run(20)
    follower.news.clear()
    air.run(30)

    assert of_b(follower) == []
