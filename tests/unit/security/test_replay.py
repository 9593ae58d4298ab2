"""The replay window: each number once, the old ones never."""

from __future__ import annotations

import random

from security.replay import WIDTH, ReplayWindow


def test_each_number_is_taken_once_in_any_order():
    window = ReplayWindow()

    assert [window.accept(n) for n in (1, 3, 2, 3, 2, 1, 4)] == [True, True, True, False, False, False, True]


def test_the_window_is_exactly_its_width():
    """With 5 000 seen, 3 977 is the oldest of 1 024 and 3 976 is gone."""
    window = ReplayWindow()
    window.accept(5000)

    assert WIDTH == 1024
    assert not window.accept(5000 - WIDTH)
    assert window.accept(5000 - WIDTH + 1)
    assert not window.accept(5000 - WIDTH + 1)


def test_a_leap_forgets_nothing_that_matters():
    window = ReplayWindow()
    for n in range(1, 100):
        window.accept(n)
    window.accept(2**24 - 1)

    assert not any(window.accept(n) for n in range(1, 200))
    assert window.accept(2**24 - 2)
    assert not window.accept(2**24 - 2)


def test_zero_and_less_are_never_taken():
    window = ReplayWindow()

    assert not window.accept(0)
    window.accept(3)
    assert not window.accept(0) and not window.accept(-1)


def test_against_a_window_made_of_a_set():
    """20 000 random numbers, narrow window: the bit mask and a plain set agree."""
    rng = random.Random(7)
    window, seen, top = ReplayWindow(64), set(), 0
    for _ in range(20_000):
        n = max(1, top + rng.randint(-90, 12) + (rng.randint(50, 400) if rng.random() < 0.01 else 0))
        expected = n not in seen and n > top - 64
        assert window.accept(n) == expected
        if expected:
            seen.add(n)
            top = max(top, n)
    assert window.top == top
