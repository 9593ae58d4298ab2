"""The rule of placement.md, figure by figure."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.scheduling import admission
from edge_node.scheduling.estimates import (
    FUNCTIONS_MAX,
    SERVICE_S_DEFAULT,
    Estimates,
    FleetWait,
    PeerWait,
    Stat,
)
from edge_node.scheduling.placement import Candidate, choose, late_probability, score, transfer_s
from edge_node.tasks.states import Refusal
from edge_node.wire.messages import Load

SECOND = 1_000_000_000


def chosen(*candidates, left_s=None, seed=1):
    return choose(candidates, "here", left_s, random.Random(seed)).chosen


def here(wait_s=0.0, service_s=0.1, **more):
    return Candidate("here", wait_s, service_s, **more)


def there(name="there", wait_s=0.0, service_s=0.1, transfer=0.005, rtt_s=0.004, **more):
    return Candidate(name, wait_s, service_s, transfer, rtt_s=rtt_s, **more)


def test_nothing_waits_here_and_we_are_as_fast():
    assert chosen(here(), there()) == "here"


def test_a_much_faster_place_is_worth_the_way():
    assert chosen(here(service_s=1.0), there(service_s=0.2)) == "there"


def test_a_queue_here_sends_it_away():
    assert chosen(here(wait_s=0.5), there()) == "there"


def test_a_small_gain_is_not_worth_leaving():
    """Local if J <= 1.1 min J + h."""
    assert chosen(here(wait_s=0.01), there()) == "here"


def test_a_deadline_only_the_other_meets_moves_it():
    near = here(service_s=0.11, sigma_s=0.001)
    far = there(service_s=0.09, transfer=0.01, sigma_s=0.001)

    assert chosen(near, far) == "here"
    assert chosen(near, far, left_s=0.105) == "there"


def test_ties_are_shared_out():
    places = {
        chosen(here(wait_s=9.0), there("a"), there("b", transfer=0.006), there("c", wait_s=1.0), seed=seed)
        for seed in range(50)
    }

    assert places == {"a", "b"}


def test_the_choice_says_why():
    why = choose([here(wait_s=0.5), there()], "here", None, random.Random(1))

    assert why.rule == "soonest"
    assert why.text() == (
        "there: soonest; there 105.0 ms (wait 0.0, run 100.0, way 5.0), "
        "here 600.0 ms (wait 500.0, run 100.0, way 0.0)"
    )
    crowd = choose([there(f"p{n}", wait_s=1.0 + n) for n in range(16)], "here", None, random.Random(1)).text()
    assert crowd.startswith("p0: soonest; p0 ") and crowd.endswith(", and 12 more")
    assert choose([there()], "here", None, random.Random(1)).rule == "only place"


def test_the_probability_of_being_late():
    candidate = here(service_s=1.0, sigma_s=0.1)

    assert late_probability(candidate, 1.0) == pytest.approx(0.5)
    assert late_probability(candidate, 1.1) == pytest.approx(0.1587, abs=1e-4)
    assert late_probability(here(service_s=1.0), 0.9) == 1.0
    assert score(candidate, 1.0) == pytest.approx(1.0 + 10 * 1.0 * 0.5)
    assert score(candidate, None) == 1.0


def test_the_way_is_round_trip_bytes_and_broker():
    assert transfer_s(0.002, 1_000_000, 0) == pytest.approx(0.002 + 0.1 + 0.001)


seconds = st.floats(0, 100)
places = st.lists(
    st.builds(Candidate, st.sampled_from(["here", "a", "b", "c"]), *[seconds] * 5),
    min_size=1, max_size=8, unique_by=lambda candidate: candidate.place,
)  # fmt: skip


@given(places, st.one_of(st.none(), st.floats(-1, 100)), st.integers(0, 99))
def test_the_choice_is_a_candidate_and_never_much_worse_than_the_best(candidates, left_s, seed):
    why = choose(candidates, "here", left_s, random.Random(seed))

    best = min(score(candidate, left_s) for candidate in candidates)
    (picked,) = [candidate for candidate in candidates if candidate.place == why.chosen]
    if picked.place != "here":
        assert score(picked, left_s) <= 1.05 * best + 1e-9


class TestEstimates:
    def test_jacobson(self):
        stat = Stat()
        stat.observe(8.0)
        assert (stat.m, stat.e) == (8.0, 4.0)

        stat.observe(16.0)

        assert (stat.m, stat.e) == (9.0, 5.0)

    def test_a_stranger_is_guessed_at(self):
        assert Estimates().service("f", "a", 1.0)[0] == SERVICE_S_DEFAULT

    def test_a_cold_place_is_the_fleet_over_its_speed(self):
        estimates = Estimates()
        estimates.observe("f", "a", 0.2, 2.0, 0)

        assert estimates.service("f", "b", 4.0)[0] == pytest.approx(0.1)

    def test_a_known_place_outgrows_the_fleet(self):
        estimates = Estimates()
        estimates.observe("f", "a", 1.0, 1.0, 0)
        for _ in range(200):
            estimates.observe("f", "b", 0.1, 1.0, 0)

        assert estimates.service("f", "b", 1.0)[0] == pytest.approx(0.1, rel=0.1)
        assert estimates.service("f", "a", 1.0)[0] == pytest.approx((1.0 + 5 * 0.1) / 6, rel=0.1)

    def test_it_is_bounded(self):
        estimates = Estimates()
        for number in range(FUNCTIONS_MAX + 50):
            estimates.observe(f"f{number}", "a", 1.0, 1.0, 0)
            estimates.observe("f", f"place{number}", 1.0, 1.0, 10)

        assert len(estimates._functions) <= FUNCTIONS_MAX
        assert len(estimates._functions["f"].at) <= FUNCTIONS_MAX
        assert estimates.output_bytes("f") == pytest.approx(10)


class TestWait:
    def test_what_was_said_is_worked_off_as_time_passes(self):
        fleet, peer = FleetWait(), PeerWait(0.002)
        peer.heard(0, Load(2, 1000), fleet)
        fleet.mean_s = 0.5

        assert peer.wait_s(0, 0.1, fleet) == pytest.approx(0.5)
        assert peer.wait_s(SECOND // 10, 0.1, fleet) < 0.5

    def test_what_we_sent_since_counts(self):
        fleet, peer = FleetWait(), PeerWait(0.002)
        peer.heard(SECOND, Load(2, 0), fleet)
        for _ in range(10):
            peer.granted(SECOND, 0.2)

        assert peer.wait_s(SECOND, 0.2, fleet) == pytest.approx(1.0)

        peer.heard(SECOND + SECOND // 100, Load(2, 2000), fleet)
        assert peer.wait_s(SECOND + SECOND // 100, 0.2, fleet) == pytest.approx(1.0)

    def test_old_news_is_worth_the_mean_only(self):
        fleet, peer = FleetWait(), PeerWait(0.002)
        peer.heard(0, Load(1, 60_000), fleet)
        fleet.mean_s = 0.25

        assert peer.wait_s(2 * SECOND, 0.1, fleet) == 0.25

    def test_nonsense_from_a_peer_is_survived(self):
        fleet, peer = FleetWait(), PeerWait(0.002)
        for speed in (0.0, -1.0, float("nan"), float("inf")):
            peer.heard(0, Load(-3, -5, -7, speed), fleet)

        assert (peer.workers, peer.speed) == (1, 1.0)
        assert peer.wait_s(0, 0.1, fleet) == 0.0


BASE = {
    "wait_s": 0.0, "service_s": 0.1, "lease_s": 1.0, "budget_s": None, "priority": 0, "queued": 0,
    "queued_max": 10, "wait_s_max": 30.0, "draining": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"draining": True}, Refusal.DRAINING),
        ({"budget_s": 0.05}, Refusal.OVER_DEADLINE),
        ({"budget_s": 0.5}, None),
        ({"queued": 10}, Refusal.QUEUE_FULL),
        ({"queued": 5}, None),
        ({"queued": 5, "priority": -1}, Refusal.QUEUE_FULL),
        ({"wait_s": 1.2}, None),
        ({"wait_s": 1.3}, Refusal.QUEUE_FULL),
        ({"wait_s": 31.0, "lease_s": 60.0}, Refusal.QUEUE_FULL),
        ({"wait_s": 2.0, "service_s": 2.0}, None),
        ({"queued": 12, "priority": 1}, None),
        ({"queued": 13, "priority": 1}, Refusal.QUEUE_FULL),
        ({"wait_s": 0.1, "promised_s": 0.0}, None),
        ({"wait_s": 0.11, "promised_s": 0.0}, Refusal.QUEUE_FULL),
        ({"wait_s": 0.22, "promised_s": 0.1}, None),
        ({"wait_s": 0.24, "promised_s": 0.1}, Refusal.QUEUE_FULL),
    ],
)
def test_admission(change, reason):
    assert admission.refusal(**{**BASE, **change}) == reason
