"""Sessions end when they should, over restarts too."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.sessions import HOUR_MS, IDLE_MS, PER_USER_MAX, SESSIONS_MAX, WHOLE_MS, Sessions
from security.errors import BadInput


def test_a_session_ends_eight_hours_after_its_last_use():
    sessions = Sessions()
    sessions.begin(0, "k", "ann")

    assert sessions.used(IDLE_MS - 1, "k") == "ann"
    assert sessions.used(2 * IDLE_MS - 2, "k") == "ann"
    assert sessions.used(3 * IDLE_MS, "k") is None
    assert sessions.used(0, "k") is None, "what has ended does not come back with the clock"


def test_a_session_ends_after_a_week_however_much_it_is_used():
    sessions = Sessions()
    sessions.begin(0, "k", "ann")

    lived = [sessions.used(hour * HOUR_MS, "k") for hour in range(1, 24 * 8)]

    assert lived.index(None) == 24 * 7 - 1 and set(lived[24 * 7 :]) == {None}


def test_a_session_of_a_clock_that_was_years_ahead_does_not_last_until_then():
    sessions = Sessions()
    sessions.begin(10_000 * HOUR_MS, "k", "ann")

    assert sessions.used(0, "k") is None


def test_a_user_has_so_many_sessions_and_the_one_unused_longest_goes():
    sessions = Sessions()
    for n in range(PER_USER_MAX):
        sessions.begin(n, f"k{n}", "ann")
    sessions.begin(50, "b", "bob")
    sessions.used(60, "k0")

    sessions.begin(100, "new", "ann")

    assert sessions.used(101, "k1") is None
    assert sessions.used(101, "k0") == sessions.used(101, "new") == "ann"
    assert (sessions.count("ann"), sessions.count("bob")) == (PER_USER_MAX, 1)


def test_all_sessions_together_are_bounded():
    sessions = Sessions()
    for n in range(SESSIONS_MAX + 10):
        sessions.begin(n, f"k{n}", f"u{n}")

    sessions.check()
    assert sessions.used(SESSIONS_MAX + 10, "k9") is None


def test_a_restart_keeps_sessions_and_ends_none_late():
    sessions, again = Sessions(), Sessions()
    sessions.begin(0, "old", "ann")
    sessions.begin(HOUR_MS, "k", "ann")

    again.restore(IDLE_MS + 1, sessions.stored())

    assert again.used(IDLE_MS + 1, "old") is None
    assert again.used(IDLE_MS + 1, "k") == "ann"


@pytest.mark.parametrize(
    "data", [b"", b"{}", b'{"v":2,"sessions":[]}', b"[" * 5000, b'{"v":1,"sessions":[1]}']
)
def test_what_is_no_list_of_sessions_is_said(data):
    with pytest.raises(BadInput, match="sessions"):
        Sessions().restore(0, data)


moves = st.lists(
    st.tuples(
        st.integers(0, 3 * HOUR_MS),
        st.sampled_from(["begin", "use", "end", "all", "restart"]),
        st.integers(0, 5),
    ),
    max_size=60,
)


@given(moves)
def test_no_session_outlives_its_limits_or_its_end(script):
    sessions, now_ms, began, seen = Sessions(), 0, {}, {}
    for serial, (pause_ms, what, n) in enumerate(script):
        now_ms += pause_ms
        key = next((k for k in sorted(began) if k.startswith(f"{n}.")), None)
        if what == "begin":
            key = f"{n}.{serial}"
            sessions.begin(now_ms, key, f"u{n}")
            began[key] = seen[key] = now_ms
        elif what == "restart":
            stored, sessions = sessions.stored(), Sessions()
            sessions.restore(now_ms, stored)
        elif what == "all":
            sessions.end_all_of(f"u{n}")
            for gone in [k for k in began if k.startswith(f"{n}.")]:
                del began[gone]
        elif key is not None and what == "end":
            sessions.end(key)
            del began[key]
        elif key is not None:
            lives = now_ms - seen[key] < IDLE_MS and now_ms - began[key] < WHOLE_MS
            assert sessions.used(now_ms, key) == (f"u{n}" if lives else None)
            seen[key] = now_ms
            if not lives:
                del began[key]
        sessions.check()
