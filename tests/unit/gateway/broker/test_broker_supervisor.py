"""The supervisor's decisions, as tables of events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.broker.supervisor import (
    BACKOFF_NS_FIRST,
    BACKOFF_NS_MAX,
    SECOND,
    START_NS,
    STEADY_NS,
    STOP_NS,
    Down,
    Forget,
    Found,
    GiveUp,
    Gone,
    Listening,
    Probe,
    Remember,
    Spawn,
    Spawned,
    SpawnFailed,
    Stop,
    Stopped,
    Supervisor,
    Terminate,
    Up,
)


def running(pid=7):
    core = Supervisor("d1")
    core.handle(0, Found())
    core.handle(0, Spawned(pid))
    core.handle(0, Listening(pid))
    return core


def test_nothing_there_is_started_and_remembered():
    core = Supervisor("d1")

    assert core.handle(0, Found()) == [Spawn()]
    assert core.handle(1, Spawned(7)) == [Remember(7, "d1"), Probe(7)]
    assert core.handle(2, Listening(7)) == [Up(7, adopted=False)]
    assert core.deadline_ns() is None


def test_the_same_configuration_is_adopted():
    core = Supervisor("d1")

    assert core.handle(0, Found(7, "d1")) == [Probe(7)]
    assert core.handle(1, Listening(7)) == [Up(7, adopted=True)]


def test_another_configuration_is_replaced():
    core = Supervisor("d1")

    assert core.handle(0, Found(7, "d0")) == [Probe(7), Terminate(7)]
    assert core.handle(1, Listening(7)) == []  # the old one may still answer
    assert core.handle(2, Gone(7, "terminated")) == [Forget(), Spawn()]


def test_one_that_does_not_end_is_killed():
    core = Supervisor("d1")
    core.handle(0, Found(7, "d0"))

    assert core.tick(STOP_NS) == [Terminate(7, hard=True)]


def test_one_that_never_came_up_is_given_up_with_its_last_words():
    core = Supervisor("d1")
    core.handle(0, Found())
    core.handle(0, Spawned(7))

    assert core.handle(1, Gone(7, "bad key")) == [Forget(), GiveUp("bad key")]


def test_one_that_starts_but_never_listens_is_killed():
    core = Supervisor("d1")
    core.handle(0, Found())
    core.handle(0, Spawned(7))

    assert core.tick(START_NS - 1) == []
    assert core.tick(START_NS) == [Terminate(7, hard=True)]


def test_a_dead_one_is_started_again_with_growing_back_off():
    core, now_ns, waits = running(), 0, []
    for pid in range(8, 16):
        assert core.handle(now_ns, Gone(pid - 1, "killed")) == [Forget(), Down("killed")]
        waits.append(core.deadline_ns() - now_ns)
        now_ns = core.deadline_ns()
        assert core.tick(now_ns) == [Spawn()]
        core.handle(now_ns, Spawned(pid))
        core.handle(now_ns, Listening(pid))

    assert waits[0] == BACKOFF_NS_FIRST
    assert waits == sorted(waits)
    assert waits[-1] == BACKOFF_NS_MAX
    core.handle(now_ns + STEADY_NS, Gone(15, "killed"))  # it was steady: forgiven
    assert core.deadline_ns() - now_ns - STEADY_NS == BACKOFF_NS_FIRST


def test_a_spawn_that_fails_after_it_was_up_is_tried_again():
    core = running()
    core.handle(0, Gone(7, "killed"))
    core.tick(SECOND)

    assert core.handle(SECOND, SpawnFailed("port in use")) == [Down("port in use")]


def test_stop_ends_it_and_forgets():
    core = running()

    assert core.handle(0, Stop()) == [Terminate(7)]
    assert core.handle(1, Gone(7, "terminated")) == [Forget(), Stopped()]


def test_letting_go_leaves_it_and_its_record():
    core = running()

    assert core.handle(0, Stop(kill=False)) == [Stopped()]
    assert core.handle(1, Gone(7, "later")) == []


def test_stop_while_waiting_starts_nothing():
    core = running()
    core.handle(0, Gone(7, "killed"))

    assert core.handle(1, Stop()) == [Stopped()]
    assert core.tick(99 * SECOND) == []


def test_one_that_appears_after_stop_is_killed():
    core = Supervisor("d1")
    core.handle(0, Found())
    core.handle(0, Stop())

    assert core.handle(1, Spawned(7)) == [Terminate(7, hard=True)]


events = st.one_of(
    st.builds(Found, st.integers(0, 2), st.sampled_from(["d1", "d0"])),
    st.builds(Spawned, st.integers(1, 3)),
    st.builds(SpawnFailed, st.just("x")),
    st.builds(Listening, st.integers(1, 3)),
    st.builds(Gone, st.integers(1, 3), st.just("x")),
    st.builds(Stop, st.booleans()),
)


@given(st.lists(st.tuples(st.integers(0, 20 * SECOND), events), max_size=40))
def test_any_script_keeps_the_invariants_and_nothing_starts_after_the_end(script):
    core, now_ns, over = Supervisor("d1"), 0, False
    for wait_ns, event in script:
        now_ns += wait_ns
        effects = core.tick(now_ns) + core.handle(now_ns, event)
        core.check()
        assert not (over and Spawn() in effects)
        assert effects.count(Spawn()) <= 1
        over = over or isinstance(event, Stop) or any(isinstance(effect, GiveUp) for effect in effects)
