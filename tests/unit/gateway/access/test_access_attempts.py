"""How often somebody may guess, from where, and that nobody else pays for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access import attempts as limits
from gateway.access.attempts import FREE, LOCK_NS, LOCK_NS_MAX, SECOND, Attempts, place_of

ADMIN, STRANGER = "192.0.2.1", "192.0.2.66"


def guess_until_locked(attempts: Attempts, now_ns: int, name: str = "ann", address: str = STRANGER) -> int:
    """How many guesses are let through at one moment."""
    for count in range(1000):
        if attempts.ask(now_ns, name, address):
            return count
    raise AssertionError("never locked")


def test_five_guesses_are_free_and_then_it_is_locked_for_longer_and_longer():
    attempts, now_ns, waits = Attempts(), 0, []

    assert guess_until_locked(attempts, now_ns) == FREE
    for _ in range(8):
        wait_ns = attempts.ask(now_ns, "ann", STRANGER)
        waits.append(wait_ns // SECOND)
        now_ns += wait_ns
        assert attempts.ask(now_ns, "ann", STRANGER) == 0

    assert waits == [30, 60, 120, 240, 480, 900, 900, 900]
    attempts.check()


def test_a_stranger_who_locks_a_name_locks_it_for_his_own_address_only():
    attempts = Attempts()

    guess_until_locked(attempts, 0)

    assert attempts.ask(0, "ann", ADMIN) == 0


def test_attempts_during_a_lock_do_not_prolong_it():
    attempts = Attempts()
    guess_until_locked(attempts, 0)

    for second in range(30):
        assert attempts.ask(second * SECOND, "ann", STRANGER) == (30 - second) * SECOND
    assert attempts.ask(30 * SECOND, "ann", STRANGER) == 0


def test_a_success_forgets_the_failures_and_an_hour_of_peace_does_too():
    attempts = Attempts()
    for _ in range(FREE - 1):
        attempts.ask(0, "ann", STRANGER)

    attempts.succeeded(0, "ann", STRANGER)
    assert guess_until_locked(attempts, SECOND * 600) == FREE
    assert guess_until_locked(attempts, SECOND * 600 + LOCK_NS + limits.FORGET_NS + 1) == FREE


def test_a_hundred_at_once_are_not_a_hundred_guesses():
    """Each counts before its hash is done."""
    attempts = Attempts()

    assert sum(attempts.ask(0, "ann", STRANGER) == 0 for _ in range(100)) == FREE


def test_a_flood_from_everywhere_leaves_room_for_those_who_logged_in_before_and_for_this_machine():
    attempts = Attempts()
    attempts.ask(0, "ann", ADMIN)
    attempts.succeeded(0, "ann", ADMIN)

    let_through = sum(
        attempts.ask(second * SECOND, "ann", f"10.{n >> 8 & 255}.{n & 255}.{second % 250}") == 0
        for second in range(600)
        for n in range(20)
    )

    assert let_through <= 20 + 300, "strangers together: a burst, then one each two seconds"
    now_ns = 599 * SECOND
    assert attempts.ask(now_ns, "ann", "203.0.113.9") > 0, "another stranger has to wait"
    assert attempts.ask(now_ns, "ann", ADMIN) == 0
    assert attempts.ask(now_ns, "bob", "127.0.0.1") == 0
    attempts.check()


def test_memory_stays_bounded_under_any_number_of_names_and_addresses():
    attempts = Attempts()
    for n in range(3 * limits.PAIRS_MAX):
        assert attempts.ask(n * 3 * SECOND, f"u{n}", f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}") == 0
        attempts.succeeded(n * 3 * SECOND, f"v{n}", STRANGER)

    attempts.check()


def test_a_new_password_forgets_the_locks_of_its_name_alone():
    attempts = Attempts()
    guess_until_locked(attempts, 0, "ann")
    guess_until_locked(attempts, 0, "bob")

    attempts.forget("ann")

    assert not attempts.locked(0, "ann", STRANGER) and attempts.ask(0, "ann", STRANGER) == 0
    assert attempts.locked(0, "bob", STRANGER)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2001:db8::1", "2001:db8::ffff:2"),
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("127.0.0.1", "::1"),
        ("127.0.0.1", "127.8.8.8"),
        ("fe80::1%eth0", "fe80::2%eth1"),
    ],
)
def test_what_one_machine_has_many_of_counts_as_one_address(one, other):
    assert place_of(one) == place_of(other)


def test_other_networks_are_other_addresses():
    assert place_of("2001:db8::1") != place_of("2001:db8:0:1::1")
    assert place_of("192.0.2.1") != place_of("192.0.2.2")
    assert len(place_of("x" * 1000)) == 64


@given(
    st.lists(
        st.tuples(
            st.integers(0, 200 * SECOND),
            st.sampled_from(["ann", "bob"]),
            st.sampled_from([ADMIN, STRANGER, "::1", "2001:db8::5"]),
            st.booleans(),
        ),
        max_size=80,
    )
)
def test_whoever_waits_as_long_as_told_may_try_and_no_wait_is_for_ever(script):
    attempts, now_ns = Attempts(), 0
    for pause_ns, name, address, right in script:
        now_ns += pause_ns
        wait_ns = attempts.ask(now_ns, name, address)
        assert 0 <= wait_ns <= LOCK_NS_MAX
        if wait_ns:
            now_ns += wait_ns
            again_ns = attempts.ask(now_ns, name, address)
            assert again_ns <= 40 * SECOND, "the lock is over; at most its kind's bucket is empty"
        elif right:
            attempts.succeeded(now_ns, name, address)
        attempts.check()
