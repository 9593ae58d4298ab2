"""The probe pool: fresh, small, used up, and quiet while nobody asks."""

from __future__ import annotations

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from edge_node.scheduling.pool import ASKED_MAX, ENTRIES_MAX, LOOKS_BURST, LOOKS_PER_S, NEWS_NS, USES, Pool

MS = 1_000_000
SECOND = 1_000_000_000


def names(*, start=0):
    """Draws a new peer each time."""
    numbers = itertools.count(start)
    return lambda: f"pi-{next(numbers)}"


def test_news_is_kept_for_a_second():
    pool = Pool()
    pool.heard(0, "pi-1")
    pool.heard(SECOND // 2, "pi-2")

    assert pool.fresh(SECOND) == ["pi-1", "pi-2"]
    assert pool.fresh(SECOND + 1) == ["pi-2"]
    assert pool.fresh(2 * SECOND) == []


def test_news_serves_twice_and_newer_news_again():
    pool = Pool()
    pool.heard(0, "pi-1")
    for _ in range(USES):
        assert pool.fresh(1) == ["pi-1"]
        pool.served("pi-1")

    assert pool.fresh(1) == []
    pool.heard(2, "pi-1")
    assert pool.fresh(3) == ["pi-1"]


def test_the_oldest_makes_room():
    pool = Pool()
    for number in range(ENTRIES_MAX + 3):
        pool.heard(number, f"pi-{number}")

    assert pool.fresh(ENTRIES_MAX) == [f"pi-{number}" for number in range(3, ENTRIES_MAX + 3)]


def test_who_went_down_is_forgotten():
    pool = Pool()
    pool.heard(0, "pi-1")
    pool.forget("pi-1")

    assert pool.fresh(1) == []
    pool.forget("pi-1")


def test_the_emptier_the_pool_the_more_looks():
    pool = Pool()
    assert pool.wanted(SECOND, names()) == ["pi-0", "pi-1", "pi-2"]
    for number in range(2):
        pool.heard(SECOND, f"other-{number}")
    assert len(pool.wanted(SECOND, names(start=10))) == 2
    for number in range(4):
        pool.heard(SECOND, f"other-{number}")
    assert len(pool.wanted(SECOND, names(start=20))) == 1


def test_who_was_asked_or_heard_a_moment_ago_is_not_asked():
    pool = Pool()
    assert pool.wanted(SECOND, lambda: "pi-1") == ["pi-1"]
    assert pool.wanted(SECOND + SECOND // 2, lambda: "pi-1") == []
    assert pool.wanted(2 * SECOND, lambda: "pi-1") == ["pi-1"], "a silent one is asked again after a second"

    pool.heard(2 * SECOND + MS, "pi-1")

    assert pool.wanted(2 * SECOND + NEWS_NS, lambda: "pi-1") == []
    assert pool.wanted(2 * SECOND + MS + NEWS_NS, lambda: "pi-1") == ["pi-1"]


def test_nobody_to_draw_is_no_look():
    assert Pool().wanted(SECOND, lambda: None) == []


def test_looks_have_a_rate_whatever_the_rate_of_tasks():
    pool, draw = Pool(), names()
    sent = sum(len(pool.wanted(SECOND + t * MS, draw)) for t in range(10_000))

    assert sent == pool.looks
    assert LOOKS_PER_S * 9 <= sent <= LOOKS_PER_S * 10 + LOOKS_BURST


steps = st.lists(
    st.tuples(
        st.integers(0, SECOND),
        st.sampled_from(["heard", "served", "forget", "wanted", "fresh"]),
        st.integers(0, 40),
    ),
    max_size=200,
)


@given(steps, st.integers(0, 9))
def test_whatever_happens_it_stays_small_fresh_and_asks_nobody_twice_at_once(script, seed):
    pool, rng, now_ns, asked = Pool(), random.Random(seed), 0, {}
    for wait_ns, what, number in script:
        now_ns += wait_ns
        peer = f"pi-{number}"
        if what == "heard":
            pool.heard(now_ns, peer)
            asked.pop(peer, None)
        elif what == "served":
            pool.served(peer)
        elif what == "forget":
            pool.forget(peer)
            asked.pop(peer, None)
        elif what == "fresh":
            assert len(pool.fresh(now_ns)) <= ENTRIES_MAX
        else:
            found = pool.wanted(now_ns, lambda: f"pi-{rng.randrange(40)}")
            assert len(found) == len(set(found)) <= 3
            for name in found:
                assert now_ns - asked.get(name, -SECOND) >= SECOND or len(asked) > ASKED_MAX
                asked[name] = now_ns
        pool.check()
