"""The turnstile: what may run at one place alone finds how much that place takes, and waits meanwhile."""

from __future__ import annotations

import random

import pytest

from edge_node.tasks.turnstile import SHUT_NS, SHUT_NS_MAX, Turnstile
from tests.support.virtual_desks import VirtualFleet

MS = 1_000_000
SECOND = 1_000_000_000


@pytest.fixture
def rng():
    return random.Random(1)


def refused(turnstile, now_ns, held, rng, wait_s=10.0, draining=False):
    turnstile.refused(now_ns, held, wait_s, draining, rng)
    turnstile.check()


def test_it_shuts_for_longer_the_more_often_it_is_refused(rng):
    turnstile, now_ns, shut = Turnstile(), SECOND, []
    for _ in range(12):
        refused(turnstile, now_ns, 0, rng)
        shut.append(turnstile.opens_ns - now_ns)
        assert not turnstile.lets(turnstile.opens_ns - 1, 0)
        assert turnstile.lets(turnstile.opens_ns, 0)
        now_ns = turnstile.opens_ns

    assert SHUT_NS // 2 <= shut[0] <= SHUT_NS
    assert all(SHUT_NS_MAX // 2 <= each <= SHUT_NS_MAX for each in shut[-4:])
    assert len(set(shut[-4:])) == 4, "owners that were refused together do not come back together"


def test_half_of_what_it_had_taken_goes_there_after_a_refusal(rng):
    turnstile = Turnstile()
    refused(turnstile, SECOND, 24, rng)
    later_ns = turnstile.opens_ns

    assert turnstile.lets(later_ns, 11)
    assert not turnstile.lets(later_ns, 12)


def test_refusals_of_one_burst_are_one_refusal(rng):
    turnstile = Turnstile()
    for held in range(99, 3, -1):
        refused(turnstile, SECOND, held, rng)

    assert turnstile.opens_ns <= SECOND + SHUT_NS
    assert turnstile.room == 4, "what is left of the burst is what it took"


def test_it_comes_back_quickly_to_what_was_taken_and_then_asks_for_one_more(rng):
    turnstile = Turnstile()
    refused(turnstile, SECOND, 8, rng)
    rooms = []
    for _ in range(20):
        turnstile.taken()
        rooms.append(turnstile.room)

    assert rooms == [5, 6, 7, 8, *[8] * 7, *[9] * 9]


def test_news_of_room_opens_it_at_once(rng):
    turnstile = Turnstile()
    refused(turnstile, SECOND, 0, rng, wait_s=10.0)

    assert not turnstile.heard(SECOND, 8.0, False)
    assert not turnstile.lets(SECOND, 0)
    assert turnstile.heard(SECOND, 7.0, False)
    assert turnstile.lets(SECOND, 0)
    assert not turnstile.heard(SECOND, 1.0, False), "it is open"


def test_a_place_that_shuts_down_is_open_again_when_it_says_so(rng):
    turnstile = Turnstile()
    refused(turnstile, SECOND, 0, rng, wait_s=0.0, draining=True)

    assert not turnstile.heard(SECOND, 0.0, True)
    assert turnstile.heard(SECOND, 3.0, False)


def test_owners_before_one_full_place_keep_it_busy_and_ask_little():
    """Its queue holds twenty; four owners have three hundred tasks each for it alone."""
    fleet = VirtualFleet(
        {"gateway": (1.0, 4)} | {f"pi-{i}": (1.0, 1) for i in range(4)}, queue_tasks_max=20, offers_max=50
    )
    for _ in range(300):
        for i in range(4):
            fleet.submit(f"pi-{i}", 0.1, where="gateway")
    begin_ns = fleet.now_ns
    fleet.run(lambda: len(fleet.outcomes) == 1200)

    assert {outcome.status for outcome in fleet.outcomes.values()} == {"done"}
    took_s = (fleet.now_ns - begin_ns) / 1e9
    assert took_s < 1.05 * 1200 * 0.1 / 4, "the place is never idle for want of an offer"
    assert fleet.told["Refuse"] < 600, "it was 13 000 when each task asked for itself"
    for desk in fleet.desks.values():
        desk.check()
