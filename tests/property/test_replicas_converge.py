"""Replicas that have exchanged everything are equal, whatever happened; nothing acknowledged is lost."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edge_node.store.batch import Put
from tests.support.replica_plays import ABSENT, JUMPS_MS, Play, play
from tests.support.replicas import DAY, SECOND, ReplicaMesh

NAMES = ("gateway", "n1", "n2", "n3")
names = st.sampled_from(NAMES)
draws = st.integers(0, 2**16).map(random.Random)


class Replicas(RuleBasedStateMachine):
    """Four members, of which n2 never forgets anything. Each rule is one thing that happens in the world."""

    def __init__(self):
        super().__init__()
        self.play = Play(7, NAMES, hoarders=("n2",))

    @rule(name=names, draw=draws, kind=st.sampled_from(["write", "count", "element"]))
    def writes(self, name, draw, kind):
        self.play.step(kind, name, draw)

    @rule(name=names, draw=draws)
    def fsyncs(self, name, draw):
        self.play.step("fsync", name, draw)

    @rule(name=names, draw=draws, kind=st.sampled_from(["deliver", "deliver", "double", "lose"]))
    def messages_move(self, name, draw, kind):
        self.play.step(kind, name, draw)

    @rule(name=names, draw=draws)
    def asks(self, name, draw):
        self.play.step("ask", name, draw)

    @rule(name=names, draw=draws, kind=st.sampled_from(["crash", "fail"]))
    def loses_what_is_not_safe(self, name, draw, kind):
        self.play.step(kind, name, draw)

    @rule(name=names, draw=draws, kind=st.sampled_from(["backup", "restore"]))
    def disk_grows_old(self, name, draw, kind):
        self.play.step(kind, name, draw)

    @rule(name=names, skew_ms=st.sampled_from(JUMPS_MS), trusted=st.booleans())
    def clock_jumps(self, name, skew_ms, trusted):
        peer = self.play.mesh.peers[name]
        peer.skew_ms = skew_ms
        if trusted:
            peer.trust()

    @rule(name=names, draw=draws)
    def loses_its_trusted_clock(self, name, draw):
        self.play.step("distrust", name, draw)

    @rule(name=names)
    def collects(self, name):
        self.play.mesh.peers[name].tick()

    @rule(ns=st.sampled_from([SECOND, 100 * SECOND, 8 * DAY]))
    def time_passes(self, ns):
        self.play.mesh.now_ns += ns

    @invariant()
    def every_replica_is_sound(self):
        self.play.mesh.check()

    def teardown(self):
        self.play.judge()


Replicas.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestReplicasConverge = pytest.mark.slow(Replicas.TestCase)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(40), 12, 122, 240, 291, 297, 376, 1146, 1213, 10433, 10623, 10900])
def test_a_drawn_play_ends_with_equal_replicas(seed):
    """Those beyond forty once found: circular quarantine, restored writers, refusals that not all shared."""
    play(seed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed", [*range(20), 100063, 100284, 100285, 100413, 100587, 100823, 101011, 101393, 101572]
)
def test_members_that_were_away_for_long_end_equal(seed):
    """Those beyond twenty once found: what waited for writes that their author had voided waited for ever."""
    play(seed, ABSENT)


def test_who_collects_and_who_does_not_read_the_same():
    mesh = ReplicaMesh(1, hoarders=("n1",))
    for i in range(30):
        mesh.write("n2", Put("t", f"k{i % 7}", "f", None if i % 3 == 0 else b"%d" % i))
        mesh.write("n3", Put("t", f"k{i % 5}", "g", b"%d" % i))
        mesh.exchange(1)
    mesh.exchange(3)

    hoarder, collector = mesh.peers["n1"].replica, mesh.peers["n2"].replica
    assert len(set(mesh.canonical().values())) == 1
    assert hoarder.cells.tombstones and not collector.cells.tombstones
    for table_key in hoarder.cells.keys("t"):
        assert hoarder.cells.document("t", table_key) == collector.cells.document("t", table_key)
    assert hoarder.cells.keys("t") == collector.cells.keys("t")
    assert hoarder.metadata()["log"] == 60 and collector.metadata()["log"] == 0


@pytest.mark.slow
def test_what_is_kept_beside_the_values_is_bounded_by_what_lives_and_by_epochs():
    """2 000 writes, deletions and boots later: a version a live field, an epoch a member, no log."""
    mesh = ReplicaMesh(2, names=("gateway", "n1", "n2"))
    for boot in range(20):
        for i in range(100):
            mesh.write("n1", Put("t", f"k{i % 10}", f"f{i % 3}", None if i % 4 == 0 else b"%d" % i))
        mesh.peers["n1"].fsync()
        mesh.peers["n1"].start()
        mesh.exchange(1)
        assert boot == 0 or mesh.peers["n2"].replica.metadata()["vector"] <= 8
    mesh.exchange(3)

    for peer in mesh.peers.values():
        kept = peer.replica.metadata()
        live = sum(len(peer.replica.cells.document("t", key)) for key in peer.replica.cells.keys("t"))
        assert kept["entries"] == live
        assert kept["tombstones"] == kept["log"] == kept["waiting"] == 0
        assert kept["vector"] <= 3 and kept["contexts"] <= 3
