"""A turn of a member with a thousand conversations asks those that have something due, and no others."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from edge_node.transport import parcels
from edge_node.transport.channel import Channels, Publish
from edge_node.wire import messages, topics
from edge_node.wire.codec import direct_context
from security import session
from security.handshake import public_of
from security.session import Sessions

MESH = "0123456789abcdef"
MS = 1_000_000
SECOND = 1_000 * MS
PEERS = 120
NAMES = ("gateway", *(f"n{n:03}" for n in range(PEERS)))
STATICS = {name: random.Random(name).randbytes(32) for name in NAMES}
PUBLICS = {name: (public_of(static),) for name, static in STATICS.items()}


def member(name: str) -> tuple[Channels, Sessions]:
    rng = random.Random(f"life of {name}")
    sessions = Sessions(
        me=name,
        mesh_id=MESH,
        boot_id=rng.randbytes(8),
        static=[STATICS[name]],
        keys_of=lambda peer: PUBLICS.get(peer, ()),
        context=direct_context(MESH),
        entropy=rng.randbytes,
        roster_version=lambda: 1,
        wall_ms=lambda: 0,
        sessions_max=2 * PEERS,
    )
    return Channels(me=name, mesh_id=MESH, sessions=sessions, signed_roster=lambda: None), sessions


@pytest.fixture(scope="module")
def hub():
    """The gateway with a session with everybody, all quiet, and the moment of that."""
    members = {name: member(name) for name in NAMES}
    gateway, sessions = members["gateway"]
    now_ns = 0
    for name in NAMES[1:]:  # handshakes are limited to 50 a second
        now_ns += 100 * MS
        spoke, _ = members[name]
        spoke.send(now_ns, "gateway", messages.Cancel("first", 1))
        for _ in range(40):
            for each in (spoke, gateway):
                for effect in [*each.tick(now_ns), *each.flush(now_ns)]:
                    carry(now_ns, members, effect)
            now_ns += 5 * MS
        gateway.check()
        assert gateway.backlog(name) == 0 and spoke.backlog("gateway") == 0
    return gateway, sessions, now_ns


def carry(now_ns, members, effect):
    if isinstance(effect, Publish):
        receiver, _ = members[effect.peer]
        topic = topics.parse(effect.topic)
        for answer in receiver.delivered(now_ns, topic, effect.payload):
            carry(now_ns, members, answer)


def counted(monkeypatch, owner: type, name: str) -> Counter[str]:
    calls: Counter[str] = Counter()
    real = getattr(owner, name)

    def counting(self, *args):
        calls[name] += 1
        return real(self, *args)

    monkeypatch.setattr(owner, name, counting)
    return calls


def test_everybody_has_a_session(hub):
    gateway, _, _ = hub

    assert sum(gateway.has(name) for name in NAMES[1:]) == PEERS


def test_the_deadline_asks_no_stream(hub, monkeypatch):
    gateway, _, now_ns = hub
    streams = counted(monkeypatch, parcels.Stream, "deadline_ns")
    peers = counted(monkeypatch, session._Peer, "due_ns")
    gateway.tick(now_ns)
    gateway.deadline_ns()
    streams.clear()
    peers.clear()

    for _ in range(10):
        gateway.deadline_ns()
    assert streams.total() == 0
    assert peers.total() <= 10, "at most the one at the top"


def test_a_message_to_one_touches_that_one(hub, monkeypatch):
    gateway, _, now_ns = hub
    streams = counted(monkeypatch, parcels.Stream, "deadline_ns")
    peers = counted(monkeypatch, session._Peer, "due_ns")
    gateway.send(now_ns, NAMES[7], messages.Cancel("to one", 1))
    gateway.flush(now_ns)

    assert gateway.deadline_ns() <= now_ns + SECOND, "it is sent again if nobody acknowledges it"
    assert streams.total() <= 2 and peers.total() <= 4
    gateway.check()


def test_what_is_not_acknowledged_is_sent_again_in_time(hub):
    gateway, _, now_ns = hub
    gateway.send(now_ns, NAMES[9], messages.Cancel("lost", 1))
    assert [e.peer for e in gateway.flush(now_ns) if isinstance(e, Publish)].count(NAMES[9]) == 1

    again = 0
    for step in range(40):
        now_ns += 100 * MS
        due = gateway.deadline_ns()
        if due is not None and due <= now_ns:
            gateway.tick(now_ns)
        again += [e.peer for e in gateway.flush(now_ns) if isinstance(e, Publish)].count(NAMES[9])
        gateway.check()
        assert step < 30 or again >= 1
    assert 1 <= again <= 8


def test_one_handshake_looks_at_its_own_peer(hub, monkeypatch):
    """Frames of a stranger's making cost what one peer costs, not what all do."""
    _, sessions, now_ns = hub
    peers = counted(monkeypatch, session._Peer, "due_ns")
    sessions.handle(now_ns, session.FrameReceived(NAMES[3], b"\x86no frame at all"))
    sessions.handle(now_ns, session.Wanted(NAMES[4]))
    sessions.deadline_ns()

    assert peers.total() <= 8
    sessions.check()
