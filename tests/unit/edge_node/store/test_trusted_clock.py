"""The trusted clock: the gateway's word, else the median of three, else nobody's."""

from __future__ import annotations

from edge_node.store.trusted_clock import COUNTS_NS, PEERS_MAX, TrustedClock

SECOND = 1_000_000_000
WALL_MS = 1_790_000_000_000


def test_the_gateway_is_believed_and_trusts_itself():
    clock = TrustedClock("n1")
    clock.heard(5 * SECOND, "n2", WALL_MS + 7_000)
    clock.heard(5 * SECOND, "n3", WALL_MS + 8_000)
    clock.heard(5 * SECOND, "gateway", WALL_MS + 90_000)

    assert clock.offset_ms(5 * SECOND, WALL_MS) == 90_000
    assert clock.source(5 * SECOND) == ("gateway", 1)
    assert TrustedClock("gateway").offset_ms(0, WALL_MS) == 0


def test_without_a_gateway_three_members_make_a_median_and_two_make_none():
    clock = TrustedClock("n1")
    clock.heard(0, "n2", WALL_MS + 10_000)
    assert clock.offset_ms(0, WALL_MS) is None and clock.source(0) == ("none", 2)

    clock.heard(0, "n3", WALL_MS + 600_000)  # its clock lies

    assert clock.offset_ms(0, WALL_MS) == 10_000
    assert clock.source(0) == ("median", 3)


def test_a_step_of_our_own_clock_shows_at_once():
    clock = TrustedClock("n1")
    clock.heard(0, "gateway", WALL_MS)

    assert clock.offset_ms(10 * SECOND, WALL_MS + 10_000) == 0
    assert clock.offset_ms(11 * SECOND, WALL_MS + 3_611_000) == -3_600_000


def test_what_was_heard_long_ago_from_strangers_or_without_a_time_does_not_count():
    clock = TrustedClock("n1")
    clock.heard(0, "gateway", WALL_MS)
    clock.heard(0, "n2", 0)
    assert clock.source(COUNTS_NS) == ("gateway", 1)
    assert clock.source(COUNTS_NS + 1) == ("none", 1)

    clock.forget(lambda peer: peer != "gateway")
    assert clock.offset_ms(0, WALL_MS) is None


def test_of_many_members_the_latest_are_kept_and_the_gateway_always():
    clock = TrustedClock("n1")
    clock.heard(0, "gateway", WALL_MS + 5)
    for number in range(3 * PEERS_MAX):
        clock.heard(number, f"m{number}", WALL_MS)

    assert clock.offset_ms(1000, WALL_MS) == 5
    assert len(clock._heard) == PEERS_MAX
