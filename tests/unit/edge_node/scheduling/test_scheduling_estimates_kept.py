"""What a function costs: by class of place, over a restart, and second-hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.scheduling.estimates import (
    CLASSES_MAX,
    DUMP_BYTES_MAX,
    FUNCTIONS_MAX,
    Estimates,
    FleetWait,
    PeerWait,
    class_of,
)
from edge_node.wire.messages import Load
from security.errors import BadInput

SECOND = 1_000_000_000


class TestClasses:
    def test_speeds_within_an_eighth_of_an_octave_are_alike(self):
        assert class_of(1.0) == class_of(1.08) == class_of(0.93)
        assert class_of(1.0) != class_of(1.2)
        assert class_of(1.0, "zero") != class_of(1.0)

    @pytest.mark.parametrize("speed", [0.0, -1.0, float("inf"), float("nan"), 1e300])
    def test_a_speed_that_is_none_counts_as_the_reference(self, speed):
        assert class_of(speed) == class_of(1.0)

    def test_a_new_place_is_guessed_by_its_class_before_the_fleet(self):
        """Boards of one kind share what the plain speed does not tell: here a slow disk."""
        estimates = Estimates()
        for _ in range(50):
            estimates.observe("f", "a", 0.1, 1.0, 0)
            estimates.observe("f", "b", 0.4, 1.0, 0, class_of(1.0, "old"))

        like_a, _ = estimates.service("f", "c", 1.0)
        like_b, _ = estimates.service("f", "d", 1.0, class_of(1.0, "old"))
        unlike, _ = estimates.service("f", "e", 2.0)

        assert like_a == pytest.approx(0.1, rel=0.2)
        assert like_b == pytest.approx(0.4, rel=0.2)
        assert 0.05 < unlike < 0.2, "the fleet's mean over its speed"

    def test_classes_are_bounded(self):
        estimates = Estimates()
        for step in range(CLASSES_MAX + 20):
            estimates.observe("f", "a", 0.1, 1.0, 0, f"made up {step}")

        estimates.check()


class TestKept:
    def test_what_was_learned_is_known_to_the_next_life(self):
        before = Estimates()
        for n in range(30):
            before.observe("f", "a", 0.2 + n / 1000, 2.0, 100)
            before.observe("g", "b", 0.01, 1.0, 7, class_of(1.0, "zero"))
        after = Estimates()

        assert after.load(before.dump()) == 2
        for function, place, speed in (("f", "a", 2.0), ("f", "z", 1.0), ("g", "b", 1.0), ("h", "b", 1.0)):
            assert after.service(function, place, speed) == before.service(function, place, speed)
            assert after.output_bytes(function) == before.output_bytes(function)
        assert after.dump() == before.dump()
        after.check()

    def test_the_functions_used_last_are_kept_when_not_all_fit(self):
        estimates = Estimates()
        for number in range(FUNCTIONS_MAX):
            for place in range(20):
                estimates.observe(f"function.{number:04}", f"place-{place}", 0.1, 1.0, 0)
        kept = estimates.dump()
        after = Estimates()

        count = after.load(kept)

        assert len(kept) <= DUMP_BYTES_MAX
        assert 50 < count < FUNCTIONS_MAX
        assert after.seen(f"function.{FUNCTIONS_MAX - 1:04}") and not after.seen("function.0000")

    def test_what_was_observed_since_wins(self):
        old, new = Estimates(), Estimates()
        old.observe("f", "a", 9.0, 1.0, 0)
        new.observe("f", "a", 1.0, 1.0, 0)

        assert new.load(old.dump()) == 0
        assert new.service("f", "a", 1.0)[0] == pytest.approx(1.0)

    def test_nothing_learned_is_something_to_keep_too(self):
        assert Estimates().load(Estimates().dump()) == 0

    @given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
    def test_damage_is_seen_and_nothing_is_taken_from_it(self, noise, at, byte):
        before = Estimates()
        for name in "fgh":
            before.observe(name, "a", 0.5, 1.0, 3)
        kept = bytearray(before.dump())
        kept[at % len(kept)] = byte
        for data in (noise, bytes(kept), bytes(kept[:at])):
            after = Estimates()
            try:
                after.load(data)
            except BadInput:
                assert after.dump() == Estimates().dump()
            after.check()

    @pytest.mark.parametrize(
        "data", [b"", b"\x02", b"\x01\x00\x00\x00\x05abc", b"\x01" + bytes(DUMP_BYTES_MAX)]
    )
    def test_what_is_no_dump_is_refused_in_one_line(self, data):
        with pytest.raises(BadInput, match="learned anew"):
            Estimates().load(data)


class TestSecondHand:
    def test_it_counts_as_older_news(self):
        fleet, peer = FleetWait(), PeerWait(0.002)
        fleet.mean_s = 0.1

        assert peer.told(SECOND, 0.4, 2, 4.0)
        assert (peer.workers, peer.speed) == (2, 4.0)
        assert 0.1 < peer.wait_s(SECOND, 0.1, fleet) < 0.4
        assert peer.wait_s(SECOND + SECOND * 6 // 10, 0.1, fleet) == 0.1, "it goes stale sooner"

    def test_the_peers_own_word_of_the_last_second_is_better(self):
        fleet, peer = FleetWait(), PeerWait(0.002)
        peer.heard(SECOND, Load(1, 500), fleet)

        assert not peer.told(SECOND + SECOND // 2, 9.0, 1, 1.0)
        assert peer.told(2 * SECOND, 9.0, 1, 1.0)
        assert peer.told(3 * SECOND, 8.0, 1, 1.0), "and the next digest is newer than the last"

    def test_nonsense_is_survived(self):
        peer = PeerWait(0.002)
        peer.told(SECOND, -5.0, -3, float("nan"))

        assert (peer.workers, peer.speed) == (1, 1.0)
        assert peer.wait_s(SECOND, 0.1, FleetWait()) == 0.0


def test_what_a_busy_fleet_works_off_is_sent_again():
    """At 90 % load a queue told half a second ago has hardly shrunk; in an idle fleet it has."""
    idle, busy = FleetWait(), FleetWait()
    busy.mean_s = 0.5
    peer = PeerWait(0.002)
    peer.heard(0, Load(1, 500), FleetWait())

    assert peer.wait_s(SECOND // 4, 0.05, idle) < 0.3
    assert peer.wait_s(SECOND // 4, 0.05, busy) > 0.45
