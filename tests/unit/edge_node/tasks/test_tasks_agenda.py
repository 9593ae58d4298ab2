from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_node.tasks.agenda import Agenda
from edge_node.tasks.leases import SECOND, Leases, lease_ns


def test_a_moment_comes_once():
    agenda = Agenda()
    agenda.set("a", 5)
    agenda.set("b", 3)

    assert agenda.next_ns() == 3
    assert agenda.due(4) == ["b"]
    assert agenda.due(4) == []
    assert agenda.next_ns() == 5


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.one_of(st.none(), st.integers(0, 50)), st.integers(0, 5)))
)
def test_it_is_a_dictionary_of_moments(script):
    """Against the obvious model: set, postpone, bring forward, forget, and time going on."""
    agenda, model, now = Agenda(), {}, 0
    for key, at, wait in script:
        if at is None:
            agenda.drop(key)
            model.pop(key, None)
        else:
            agenda.set(key, at)
            model[key] = at
        agenda.check()
        assert agenda.next_ns() == min(model.values(), default=None)
        now += wait
        due = agenda.due(now)
        assert sorted(due) == sorted(key for key, moment in model.items() if moment <= now)
        model = {key: moment for key, moment in model.items() if moment > now}
    assert len(agenda) == len(model)


def test_the_forgotten_leave_the_heap():
    """A day's time-to-live of a task that settled at once must not cost a day of memory."""
    agenda = Agenda()
    for number in range(10_000):
        agenda.set(str(number), 10**15 + number)
        agenda.drop(str(number))

    assert len(agenda._heap) < 100


def test_a_lease_is_at_least_a_second_and_follows_the_estimate():
    assert lease_ns(0.001, 0.001) == SECOND
    assert lease_ns(2.0, 1.0) == 10 * SECOND
    assert lease_ns(1e9, 0.0) == 3600 * SECOND
    assert lease_ns(0.001, 0.001, answer_s=2.0) == 8 * SECOND, "progress needs its time on a slow line"
    assert lease_ns(0.001, 0.001, answer_s=500.0) == 60 * SECOND


def test_only_the_holder_renews():
    leases = Leases()
    leases.grant(0, "t1", "pi-3", 2, SECOND)

    assert not leases.renew(SECOND // 2, "t1", "pi-4", 2)
    assert not leases.renew(SECOND // 2, "t1", "pi-3", 1)
    assert leases.lapsed(SECOND - 1) == []
    assert leases.renew(SECOND // 2, "t1", "pi-3", 2)
    assert leases.lapsed(SECOND) == []
    assert leases.lapsed(SECOND * 3 // 2) == ["t1"]
    assert leases.lapsed(SECOND * 3 // 2) == []
    leases.check()
