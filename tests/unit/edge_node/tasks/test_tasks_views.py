"""What a desk keeps of peers in a large mesh: of those it has to do with, and of a bounded number besides."""

from __future__ import annotations

import random

from edge_node.tasks.desk import (
    VIEWS_SPARE,
    Desk,
    DeskSettings,
    DigestHeard,
    Heard,
    Look,
    MemberInfo,
    Members,
    PeerDown,
    PeerUp,
    Refusal,
    Reply,
    Stop,
    Submitted,
    Task,
    Tell,
)
from edge_node.wire.messages import About, DigestEntry, Load, Offer, Pong

MS = 1_000_000
SECOND = 1_000_000_000
EVERYBODY = Members(
    (MemberInfo("gateway"), *(MemberInfo(f"pi-{n}", {"site": "b"} if n == 900 else {}) for n in range(1000)))
)


def a_task(task_id="t1", **fields):
    return Task(task_id, "room.changes", b"d" * 32, b"in", b"s" * 32, "pi-0", ttl_ms=3_600_000, **fields)


class Driver:
    def __init__(self):
        self.desk = Desk("pi-0", settings=DeskSettings(), rng=random.Random(1))
        self.now_ns = SECOND
        self.say(EVERYBODY)

    def say(self, event):
        effects = self.desk.handle(self.now_ns, 1_700_000_000_000, event)
        self.desk.check()
        return effects

    def offers(self, effects):
        return [e.peer for e in effects if isinstance(e, Tell) and isinstance(e.message, Offer)]


def test_nothing_is_kept_of_members_that_were_never_met():
    assert Driver().desk._views == {}


def test_who_went_longest_ago_is_forgotten_first():
    node = Driver()
    for n in range(1, 400):
        node.say(PeerUp(f"pi-{n}", MS))
    assert len(node.desk._views) == 399, "who is up is a candidate, however many there are"

    for n in range(1, 400):
        node.say(PeerDown(f"pi-{n}"))

    assert list(node.desk._views) == [f"pi-{n}" for n in range(400 - VIEWS_SPARE, 400)]


def test_whoever_has_work_of_ours_is_not_forgotten():
    node = Driver()
    node.say(PeerUp("pi-1", MS))
    assert node.offers(node.say(Submitted(1, a_task("leased", where="pi-1")))) == ["pi-1"]
    node.say(PeerDown("pi-1", quiet=True))
    node.say(Submitted(2, a_task("parked", where="pi-2")))

    for n in range(3, 400):
        node.say(PeerUp(f"pi-{n}", MS))
        node.say(PeerDown(f"pi-{n}"))

    assert len(node.desk._views) <= VIEWS_SPARE + 2
    assert node.offers(node.say(PeerUp("pi-2", MS))) == ["pi-2"]
    assert node.desk.expects("pi-1", "leased", 1)
    node.say(PeerDown("pi-1"))
    assert node.desk.deadline_ns() < 40 * SECOND, "the lease of one who is down lapses soon"


def test_a_task_parked_at_a_stranger_waits_for_it_though_all_places_are_taken():
    node = Driver()
    for n in range(1, VIEWS_SPARE + 2):
        node.say(Submitted(n, a_task(f"t{n}", where=f"pi-{n}")))

    node.say(Submitted(999, a_task("last", where="pi-999")))

    assert node.offers(node.say(PeerUp("pi-999", MS))) == ["pi-999"]


def test_the_labels_of_members_that_were_never_met_count():
    node = Driver()

    node.say(Submitted(1, a_task(labels={"site": "b"})))
    (refused,) = node.say(Submitted(2, a_task("t2", labels={"site": "c"})))

    assert node.desk.state("t1") == ("waiting", "")
    assert isinstance(refused, Reply) and refused.reason == Refusal.LABELS
    assert node.offers(node.say(PeerUp("pi-900", MS))) == ["pi-900"]


def test_what_a_member_lacks_outlives_what_was_measured_of_it():
    node = Driver()
    node.say(Heard("pi-1", About("1", "3.11", ["numpy"])))
    for n in range(2, 400):
        node.say(PeerUp(f"pi-{n}", MS))
        node.say(PeerDown(f"pi-{n}"))
    assert "pi-1" not in node.desk._views

    (refused,) = node.say(Submitted(1, a_task(where="pi-1", requires=("numpy",))))
    assert refused.reason == Refusal.REQUIREMENT

    node.say(Heard("pi-1", About("1", "3.11", [])))
    assert node.say(Submitted(2, a_task("t2", where="pi-1", requires=("numpy",))))
    assert node.desk.state("t2") == ("waiting", "")


def test_a_member_announced_idle_is_looked_at_before_it_is_met():
    node = Driver()
    node.say(DigestHeard((DigestEntry("pi-7", 0, 1, 1.0), DigestEntry("stranger", 0, 1, 1.0))))
    assert node.desk._views == {}

    effects = node.say(Submitted(1, a_task(labels={"site": "b"})))
    looks = [effect.peer for effect in effects if isinstance(effect, Look)]

    assert looks == ["pi-7"]
    node.say(PeerUp("pi-7", MS))
    node.say(Heard("pi-7", Pong(1, Load(1, 0))))
    assert set(node.desk._views) == {"pi-7"}


def test_a_former_owner_is_told_nothing_more_though_it_was_never_met():
    node = Driver()
    node.say(Heard("pi-5", Offer("x", 1, "room.changes", b"d" * 32, 9000, None, b"in", None, 2, 0, None)))
    assert node.desk._holder.has("x")

    effects = node.say(Members(tuple(one for one in EVERYBODY.members if one.id != "pi-5")))

    assert Stop("x", 1) in effects
