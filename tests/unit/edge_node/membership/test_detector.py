"""The failure detector: hints make it look, silence after probes makes it decide."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_node.membership.detector import (
    DOUBT_MAX,
    SECOND,
    TOMBSTONE_NS,
    TOMBSTONES_MAX,
    Detector,
    Down,
    Forgotten,
    HeardFrom,
    LinkLost,
    Probe,
    Quiet,
    Rumoured,
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


def beaten(detector: Detector, now_ns: int, seq: int, *, peer: str = "a", incarnation: int = 1):
    return detector.beat(now_ns, peer, incarnation, seq, b"boot-%03d" % incarnation)


def test_a_replayed_beat_revives_nobody():
    """Neither of this life nor of an earlier one, neither a peer that is down nor one that was forgotten."""
    detector = met("a")
    assert beaten(detector, 0, 7, incarnation=3) == []
    detector.handle(0, LinkLost())

    assert beaten(detector, SECOND, 7, incarnation=3) is None
    assert beaten(detector, SECOND, 500, incarnation=2) is None
    assert detector.up() == []
    assert beaten(detector, SECOND, 8, incarnation=3) == [Up("a")]
    detector.handle(SECOND, Forgotten("a"))
    assert beaten(detector, 2 * SECOND, 8, incarnation=3) is None
    assert beaten(detector, 2 * SECOND, 1, incarnation=4) == [Up("a")]
    detector.check()


def test_tombstones_end_after_ten_minutes_and_are_counted():
    detector = Detector(watch_all=True)
    for n in range(TOMBSTONES_MAX + 10):
        beaten(detector, 0, 1, peer=f"n{n}")
    detector.handle(0, LinkLost())
    detector.check()

    assert beaten(detector, SECOND, 1, peer="n5") == [Up("n5")], "the oldest tombstones gave way"
    assert beaten(detector, SECOND, 1, peer="n2057") is None
    detector.tick(TOMBSTONE_NS)
    assert list(detector.states()) == ["n5"]
    detector.check()


def test_a_session_knows_better_than_the_order_of_beats():
    """A member whose incarnation went back is heard again, once a session has proved the new life."""
    detector = met("a")
    beaten(detector, 0, 7, incarnation=9)
    detector.heard(SECOND, "a")
    detector.direct_beat(SECOND, "a", 4, 1, b"boot-004")

    assert beaten(detector, 2 * SECOND, 2, incarnation=4) == []
    assert detector.life_of("a") == (4, 2, b"boot-004")


def test_who_was_merely_met_goes_quiet_without_a_probe():
    detector = Detector()
    detector.heard(0, "passer-by")

    assert detector.handle(SECOND, WillSeen("passer-by")) == [], "a will of somebody unwatched says nothing"
    assert detector.tick(12 * SECOND) == [Quiet("passer-by")]
    assert detector.up() == []
    assert detector.heard(13 * SECOND, "passer-by") == [Up("passer-by")]


def test_whoever_holds_our_work_is_probed_before_it_is_given_up():
    detector = Detector(depends=lambda peer: peer == "holder")
    detector.heard(0, "holder")

    assert detector.tick(12 * SECOND) == [Probe("holder")]


def test_a_rumour_makes_us_look_at_whom_we_rely_on():
    detector = Detector(depends=lambda peer: peer == "holder")
    for peer in ("holder", "passer-by"):
        detector.heard(0, peer)

    assert detector.handle(SECOND, Rumoured("passer-by")) == []
    assert detector.handle(SECOND, Rumoured("holder")) == [Probe("holder")]
    detector.tick(2 * SECOND)
    detector.tick(3 * SECOND)
    assert detector.tick(4 * SECOND) == [
        Down("holder", "the gateway lost it, and no probe was answered for 3 s")
    ]


def test_five_seconds_without_a_process_are_no_death():
    """The longest interval between beats, then a stop of 5 s: not even suspected."""
    detector = met("a")
    for tenth in range(101):
        assert detector.tick(tenth * SECOND // 10) == []
    assert detector.heard(10 * SECOND, "a") == []
    assert detector.states() == {"a": "up"}


def test_probes_that_nobody_answers_make_us_doubt_ourselves():
    """One of two dead peers may be as dead as it looks; if all are silent at once it may be us."""
    alone, everybody = met("a"), met("a", "b", "c")
    for detector, peers in ((alone, "a"), (everybody, "abc")):
        for peer in peers:
            detector.handle(0, WillSeen(peer))
    told = {alone: 0.0, everybody: 0.0}
    for tenth in range(1, 400):
        for detector in told:
            if any(isinstance(e, Down) for e in detector.tick(tenth * SECOND // 10)) and not told[detector]:
                told[detector] = tenth / 10

    assert told[alone] == 3.0
    assert 6.0 <= told[everybody] <= 15.0 + 3.0
    assert everybody.doubt == DOUBT_MAX


def test_answers_end_the_doubt():
    detector = met("a", "b")
    for peer in "ab":
        detector.handle(0, WillSeen(peer))
    detector.tick(1 * SECOND)
    assert detector.doubt >= 1

    for peer in "ab":
        assert detector.heard(2 * SECOND, peer) == []
    assert detector.doubt == 0
    assert detector.states() == {"a": "up", "b": "up"}


def test_a_thousand_peers_cost_a_turn_no_more_than_one():
    """The deadline is a look at the top of a heap, and a tick touches only who is due."""
    detector = Detector(watch_all=True)
    for n in range(1000):
        detector.heard(n * SECOND // 1000, f"n{n:04}")
    detector.heard(11 * SECOND, "n0000")

    assert detector.tick(12 * SECOND) == []
    assert detector.tick(12 * SECOND + SECOND // 1000) == [Probe("n0001")]
    assert len(detector.tick(12 * SECOND + SECOND // 100)) == 9


moves = st.one_of(
    st.tuples(st.just("heard"), st.sampled_from("abc"), st.just(0), st.just(0)),
    st.tuples(st.just("beat"), st.sampled_from("abc"), st.integers(1, 3), st.integers(1, 9)),
    st.tuples(st.just("will"), st.sampled_from("abc"), st.just(0), st.just(0)),
    st.tuples(st.just("lost"), st.just(""), st.just(0), st.just(0)),
    st.tuples(st.just("forgotten"), st.sampled_from("abc"), st.just(0), st.just(0)),
    st.tuples(st.just("wait"), st.just(""), st.integers(1, 100), st.just(0)),
)


@given(st.lists(moves, max_size=80))
def test_every_peer_comes_and_goes_in_turn(script):
    """Up and (Down or Quiet) alternate for every peer; no beat counts that is not above all before it."""
    detector, now_ns = Detector(depends=lambda peer: peer == "c"), 0
    detector.handle(0, Watch("a"))
    there: set[str] = set()
    highest: dict[str, tuple[int, int]] = {}

    def follow(effects):
        for effect in effects:
            if isinstance(effect, Up):
                assert effect.peer not in there
                there.add(effect.peer)
            elif isinstance(effect, Down | Quiet):
                there.remove(effect.peer)
            else:
                assert effect.peer in there, "only who is believed to be there is probed"
        detector.check()
        assert set(detector.up()) == there

    for kind, peer, first, second in script:
        match kind:
            case "heard":
                follow(detector.heard(now_ns, peer))
            case "beat":
                effects = detector.beat(now_ns, peer, first, second, b"")
                assert (effects is None) == ((first, second) <= highest.get(peer, (-1, -1)))
                highest[peer] = max(highest.get(peer, (-1, -1)), (first, second))
                follow(effects or [])
            case "will":
                follow(detector.handle(now_ns, WillSeen(peer)))
            case "lost":
                follow(detector.handle(now_ns, LinkLost()))
            case "forgotten":
                follow(detector.handle(now_ns, Forgotten(peer)))
            case "wait":
                for _ in range(first):  # at most 50 s in all: tombstones stand
                    now_ns += SECOND // 4
                    follow(detector.tick(now_ns))
        if now_ns > 400 * SECOND:
            return
    for _ in range(150):
        now_ns += SECOND
        follow(detector.tick(now_ns))
    assert there == set(), "whoever says nothing is not there at last"
