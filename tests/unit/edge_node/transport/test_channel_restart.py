"""A peer that comes back with a new memory is understood from its first parcel on."""

from __future__ import annotations

import random

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from edge_node.transport.channel import Channels, Heard, PeerReady, Publish
from edge_node.wire import messages, topics
from edge_node.wire.codec import direct_context
from security.session import Sessions

MESH = "0123456789abcdef"
MILLISECOND = 1_000_000
KEYS = {name: X25519PrivateKey.generate() for name in ("gateway", "pi-2")}
_lives = iter(range(1, 1000))


def life_of(name: str) -> Channels:
    """One life of a member: same keys, new boot id, empty streams."""
    life = next(_lives)
    drawn = random.Random(life)
    sessions = Sessions(
        me=name,
        mesh_id=MESH,
        boot_id=life.to_bytes(8, "big"),
        static=[KEYS[name].private_bytes_raw()],
        keys_of=lambda peer: (KEYS[peer].public_key().public_bytes_raw(),),
        context=direct_context(MESH),
        entropy=drawn.randbytes,
        roster_version=lambda: 1,
        wall_ms=lambda: 1_700_000_000_000 + life,
    )
    return Channels(me=name, mesh_id=MESH, sessions=sessions, signed_roster=lambda: None)


def carry(now_ns: int, members: dict[str, Channels]) -> list[tuple[str, object]]:
    """Deliver whatever is sent until nobody has anything to say; what each heard and was told."""
    news: list[tuple[str, object]] = []
    for _ in range(50):
        sent = [(name, effect) for name, channels in members.items() for effect in channels.flush(now_ns)]
        while sent:
            name, effect = sent.pop(0)
            if not isinstance(effect, Publish):
                news.append((name, effect))
                continue
            topic = topics.parse(effect.topic)
            receiver = members[effect.peer]
            sent += [(effect.peer, each) for each in receiver.delivered(now_ns, topic, effect.payload)]
    return news


def heard(news: list[tuple[str, object]], by: str) -> list[messages.Message]:
    return [effect.message for name, effect in news if name == by and isinstance(effect, Heard)]


def test_the_first_words_of_a_restarted_peer_are_not_taken_for_repetitions():
    """Its numbers begin anew; they must not be measured by those of its earlier life."""
    gateway, first_life = life_of("gateway"), life_of("pi-2")
    for number in range(20):
        first_life.send(0, "gateway", messages.Cancel(f"old-{number}", 1))
        assert len(heard(carry(0, {"gateway": gateway, "pi-2": first_life}), "gateway")) == 1

    second_life = life_of("pi-2")
    for number in range(3):
        second_life.send(0, "gateway", messages.Cancel(f"new-{number}", 2))
    news = carry(5_000 * MILLISECOND, {"gateway": gateway, "pi-2": second_life})

    assert [message.task for message in heard(news, "gateway")] == ["new-0", "new-1", "new-2"]


def test_a_restart_is_told_before_what_the_restarted_peer_says():
    gateway, first_life = life_of("gateway"), life_of("pi-2")
    first_life.send(0, "gateway", messages.Cancel("old", 1))
    carry(0, {"gateway": gateway, "pi-2": first_life})

    second_life = life_of("pi-2")
    second_life.send(0, "gateway", messages.Cancel("new", 2))
    news = carry(5_000 * MILLISECOND, {"gateway": gateway, "pi-2": second_life})

    told = [effect for name, effect in news if name == "gateway"]
    assert told == [PeerReady("pi-2", True), Heard("pi-2", messages.Cancel("new", 2))]


def test_the_first_parcel_of_a_session_is_acknowledged():
    """Else everything in it is sent, and acted upon, a second time."""
    members = {"gateway": life_of("gateway"), "pi-2": life_of("pi-2")}
    members["pi-2"].send(0, "gateway", messages.Cancel("once", 1))
    news = carry(0, members)
    for at_ms in range(20, 3_000, 20):
        for name, channels in members.items():
            news += [(name, each) for each in channels.tick(at_ms * MILLISECOND)]
        news += carry(at_ms * MILLISECOND, members)

    assert [message.task for message in heard(news, "gateway")] == ["once"]
    assert members["pi-2"].backlog("gateway") == 0
