"""Anti-entropy: what it costs when nothing happens, how much goes at a time, what it notices."""

from __future__ import annotations

import random
import zlib
from itertools import pairwise

import msgspec
import pytest

from edge_node.store.antientropy import ANSWER_BYTES_MAX, AntiEntropy, Send
from edge_node.store.batch import Put
from edge_node.store.cells import BUCKETS, FIELD, CellId
from edge_node.wire.messages import StateBatches, StateCompare
from tests.support.replicas import SECOND, ReplicaMesh, Rules

FRAME_BYTES = 43 + 70 + 5 + 22 + 52
"""Around a message: envelope, topic, MQTT, TLS record, TCP and IP."""


def let_run(mesh, seconds, sent):
    """Rounds by the clock; what is sent is counted and delivered at once."""
    end_ns = mesh.now_ns + seconds * SECOND
    while mesh.now_ns < end_ns:
        for peer in mesh.peers.values():
            peer.entropy._at_once.clear()
            if peer.entropy.deadline_ns() <= mesh.now_ns:
                peer.perform(peer.entropy.tick(mesh.now_ns))
                peer.tick()
            while mesh.bag:
                source, to, message = mesh.bag.pop(0)
                sent.append((source, to, message))
                mesh.peers[to].receive(source, message)
                mesh.peers[to].fsync()
        mesh.now_ns += SECOND // 2


@pytest.mark.slow
def test_eight_members_that_know_the_same_say_at_most_two_hundred_bytes_a_second_each():
    names = ("gateway", *(f"n{i}" for i in range(1, 8)))
    mesh = ReplicaMesh(3, names=names)
    for name in names:
        mesh.write(name, *(Put("t", f"{name}{i}", "f", b"v") for i in range(20)))
    mesh.exchange(3)

    sent = []
    let_run(mesh, 1200, sent)

    size = sum(FRAME_BYTES + len(msgspec.msgpack.encode(message)) for _, _, message in sent)
    assert len(set(mesh.canonical().values())) == 1
    assert sum(isinstance(message, StateCompare) for _, _, message in sent) >= 8, "trees are compared as well"
    assert 2 * size / len(names) / 1200 <= 200, "sent and received"


@pytest.mark.slow
def test_a_member_that_was_away_gets_a_thousand_batches_in_bounded_answers():
    mesh = ReplicaMesh(4, names=("gateway", "n1"))
    for i in range(1000):
        mesh.write("gateway", Put("t", f"k{i}", "f", b"v" * 100))
    mesh.peers["gateway"].fsync()
    mesh.bag.clear()

    mesh.peers["n1"].ask("gateway")
    answers = []
    while mesh.bag:
        source, to, message = mesh.bag.pop(0)
        if isinstance(message, StateBatches):
            answers.append(message)
        mesh.peers[to].receive(source, message)

    assert len(mesh.peers["n1"].replica.cells.keys("t")) == 1000
    assert max(sum(map(len, each.batches)) for each in answers) <= ANSWER_BYTES_MAX + 400
    assert [each.more for each in answers] == [True] * (len(answers) - 1) + [False]


@pytest.mark.slow
def test_silent_damage_is_found_told_and_mended_from_the_gateway():
    mesh = ReplicaMesh(5)
    mesh.write("n1", Put("t", "a", "f", b"right"), Put("t", "b", "f", b"right"))
    mesh.exchange(2)
    damaged = mesh.peers["n2"].replica.cells
    cell = CellId(FIELD, "t", "a", "f")
    damaged.place(cell, tuple(each._replace(value=b"wrong") for each in damaged.register(cell)))

    let_run(mesh, 1300, [])

    told = [each for peer in mesh.peers.values() for each in peer.diverged]
    assert told and all(each.buckets == (zlib.crc32(b"t\0a") % BUCKETS,) for each in told)
    assert {peer.replica.cells.document("t", "a")["f"] for peer in mesh.peers.values()} == {b"right"}


def test_who_comes_up_is_asked_at_once_and_rounds_go_on_every_five_seconds():
    mesh = ReplicaMesh(6)
    mesh.write("n1", Put("t", "a", "f", b"v"))
    mesh.peers["n1"].fsync()
    entropy = AntiEntropy("n1", mesh.peers["n1"].replica, Rules("n1"), random.Random(1), 0)
    assert 0 <= entropy.deadline_ns() <= 6 * SECOND
    entropy.up(["n2", "n1", "n3"])
    assert entropy.deadline_ns() == 0
    now_ns = 5 * SECOND
    assert [each.peer for each in entropy.tick(now_ns)][:2] == ["n2", "n3"]

    moments = []
    for _ in range(50):
        now_ns = entropy.deadline_ns()
        moments.append(now_ns)
        (asked,) = entropy.tick(now_ns)
        assert isinstance(asked, Send) and asked.peer in ("n2", "n3")

    gaps = [two - one for one, two in pairwise(moments)]
    assert min(gaps) >= 4 * SECOND and max(gaps) <= 6 * SECOND


def test_who_knows_nothing_asks_the_believed_alone_and_once_a_minute():
    mesh = ReplicaMesh(6)
    entropy = AntiEntropy("n1", mesh.peers["n1"].replica, Rules("n1"), random.Random(1), 0)
    entropy.up(["n2", "n3"])
    assert entropy.deadline_ns() >= 48 * SECOND
    entropy.up(["n2", "n3", "gateway"])
    assert [each.peer for each in entropy.tick(0)] == ["gateway"]

    asked = [effect.peer for _ in range(20) for effect in entropy.tick(entropy.deadline_ns())]

    assert set(asked) == {"gateway"}
    assert entropy.deadline_ns() >= 19 * 48 * SECOND


def test_a_flood_of_questions_is_answered_forty_times_a_round():
    mesh = ReplicaMesh(7)
    mesh.write("gateway", Put("t", "a", "f", b"v"))
    mesh.peers["gateway"].fsync()
    mesh.bag.clear()
    gateway, n1 = mesh.peers["gateway"].entropy, mesh.peers["n1"]
    ask = n1.entropy
    question = next(each.message for each in _asked(ask))

    answers = sum(len(gateway.handle(0, "n1", question)) for _ in range(500))

    assert answers == 40


def _asked(entropy):
    entropy._at_once.append("gateway")
    return [each for each in entropy.tick(0) if isinstance(each, Send)]


def test_the_tree_computed_step_by_step_is_the_tree_computed_afresh():
    from edge_node.store.cells import Cells

    mesh = ReplicaMesh(8)
    draw = random.Random(8)
    cells = mesh.peers["n1"].replica.cells
    for i in range(300):
        mesh.write("n1", Put("t", f"k{draw.randrange(40)}", "f", draw.choice([None, b"%d" % i])))
        if i % 20 == 0:
            fresh = Cells()
            for cell, state in cells.all():
                fresh.place(cell, state)
            assert cells.leaves() == fresh.leaves() and cells.root() == fresh.root()


@pytest.mark.slow
def test_who_was_cut_off_is_told_by_one_of_those_who_know_more_and_asks_the_others_then():
    """Each of them would have sent all of it: as often over the line as there are members."""
    mesh = ReplicaMesh(6, names=("gateway", "n1", "n2", "n3"))
    for i in range(600):
        mesh.write("gateway", Put("t", f"k{i}", "f", b"v" * 100))
    mesh.peers["gateway"].fsync()
    mesh.bag = [each for each in mesh.bag if each[1] != "n1"]
    drained(mesh)
    mesh.write("n3", Put("t", "only here", "f", b"v"))
    mesh.peers["n3"].fsync()
    mesh.bag.clear()
    back = mesh.peers["n1"]

    back.entropy._at_once.extend(("gateway", "n2", "n3"))
    back.perform(back.entropy.tick(mesh.now_ns))
    sent = drained(mesh)
    back.fsync()
    assert back.entropy.deadline_ns() == 0, "the others are asked now"
    back.perform(back.entropy.tick(mesh.now_ns))
    sent += drained(mesh)

    told = sum(
        len(message.batches) for _, to, message in sent if to == "n1" and type(message) is StateBatches
    )
    assert told == 601
    assert len(back.replica.cells.keys("t")) == 601


@pytest.mark.slow
def test_who_does_not_tell_what_it_knows_is_not_waited_for():
    mesh = ReplicaMesh(7, names=("gateway", "n1", "n2"))
    mesh.write("gateway", Put("t", "k", "f", b"v"))
    mesh.peers["gateway"].fsync()
    mesh.bag = [each for each in mesh.bag if each[1] == "n2"]
    drained(mesh)
    back = mesh.peers["n1"]
    back.entropy._at_once.extend(("gateway", "n2"))
    back.perform(back.entropy.tick(mesh.now_ns))

    drained(mesh, but=lambda source, message: source == "gateway" and type(message) is StateBatches)
    assert not back.replica.cells.keys("t")
    mesh.now_ns = back.entropy.deadline_ns()
    back.perform(back.entropy.tick(mesh.now_ns))
    drained(mesh)

    assert mesh.now_ns <= 2 * SECOND
    assert len(back.replica.cells.keys("t")) == 1


def drained(mesh, but=lambda source, message: False):
    """Everything is delivered and fsynced, save what is lost. What was delivered."""
    sent = []
    while mesh.bag:
        source, to, message = mesh.bag.pop(0)
        if not but(source, message):
            sent.append((source, to, message))
            mesh.peers[to].receive(source, message)
            mesh.peers[to].fsync()
    return sent
