"""The failure detector: hints make it look, silence after probes makes it decide."""

from __future__ import annotations

from edge_node.membership.detector import (
    SECOND,
    Detector,
    Down,
    Forgotten,
    HeardFrom,
    LinkLost,
    Probe,
    Up,
    Watch,
    WillSeen,
)


def met(*peers: str) -> Detector:
    """A detector that watches these peers and has heard each at 0."""
    detector = Detector()
    for peer in peers:
        detector.handle(0, Watch(peer))
    for peer in peers:
        assert detector.handle(0, HeardFrom(peer)) == [Up(peer)]
    return detector


def test_a_sound_after_death_brings_the_peer_back():
    detector = met("a")
    detector.handle(0, WillSeen("a"))
    for second in (1, 2, 3):
        detector.tick(second * SECOND)

    assert detector.up() == []
    assert detector.handle(4 * SECOND, HeardFrom("a")) == [Up("a")]


def test_a_will_only_makes_us_look():
    detector = met("a")

    assert detector.handle(0, WillSeen("a")) == [Probe("a")]
    assert detector.up() == ["a"]
    detector.handle(SECOND // 2, HeardFrom("a"))
    assert detector.tick(3 * SECOND) == []


def test_probes_are_repeated_and_then_comes_the_verdict():
    detector = met("a")
    detector.handle(0, WillSeen("a"))

    assert detector.tick(1 * SECOND) == [Probe("a")]
    assert detector.tick(2 * SECOND) == [Probe("a")]
    assert detector.tick(3 * SECOND) == [
        Down("a", "its broker connection ended, and no probe was answered for 3 s")
    ]


def test_twelve_silent_seconds_make_a_suspect():
    detector = met("a")
    assert detector.deadline_ns() == 12 * SECOND

    assert detector.tick(12 * SECOND) == [Probe("a")]


def test_a_late_tick_doubts_itself():
    """If we were stopped for a minute, everybody seems silent; nobody is buried for that."""
    detector = met("a")
    detector.handle(0, WillSeen("a"))

    assert detector.tick(60 * SECOND) == [Probe("a")]
    assert detector.up() == ["a"]


def test_a_lost_link_takes_everybody_down_once():
    detector = met("a", "b")

    assert [e.peer for e in detector.handle(0, LinkLost())] == ["a", "b"]
    assert detector.handle(0, LinkLost()) == []
    assert detector.tick(30 * SECOND) == [], "nothing is left to be probed"


def test_who_left_the_roster_is_forgotten():
    detector = met("a")

    assert detector.handle(0, Forgotten("a")) == [Down("a", "it left the roster")]
    assert detector.handle(0, Forgotten("a")) == []
    assert detector.handle(0, WillSeen("stranger")) == []
    detector.check()
