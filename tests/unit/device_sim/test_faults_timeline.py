"""The timeline of faults: each at its moment, one after the other for a member, none that is impossible."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sim.faults import (
    SECOND,
    Begun,
    Done,
    Fault,
    Inject,
    Promised,
    Timeline,
    gone,
    impossible,
    resolved,
)


def fault(at_s: float, do: str, node: str = "", **more) -> Fault:
    return Fault(at_s=at_s, do=do, node=node, **more)


def test_faults_go_at_their_moments_and_not_before_the_begin():
    kill, restart = fault(5, "kill", "a"), fault(9, "restart", "a")
    timeline = Timeline([kill, restart])

    assert (timeline.tick(100 * SECOND), timeline.deadline_ns()) == ([], None)
    assert timeline.handle(100 * SECOND, Begun()) == []
    assert timeline.deadline_ns() == 105 * SECOND
    assert timeline.tick(105 * SECOND - 1) == []
    assert timeline.tick(105 * SECOND) == [Inject(0, kill)]
    assert timeline.deadline_ns() is None  # the kill has not been carried out yet
    assert timeline.handle(106 * SECOND, Done(0)) == []
    assert timeline.deadline_ns() == 109 * SECOND
    assert timeline.tick(109 * SECOND) == [Inject(1, restart)]
    assert not timeline.over
    timeline.handle(110 * SECOND, Done(1))
    assert timeline.over


def test_a_restart_waits_for_a_kill_that_takes_long_and_another_node_does_not():
    faults = [fault(1, "kill", "a"), fault(2, "restart", "a"), fault(2, "kill", "b")]
    timeline = Timeline(faults)
    timeline.handle(0, Begun())

    assert timeline.tick(1 * SECOND) == [Inject(0, faults[0])]
    assert timeline.tick(2 * SECOND) == [Inject(2, faults[2])]
    assert timeline.tick(60 * SECOND) == []
    assert timeline.handle(61 * SECOND, Done(0)) == [Inject(1, faults[1])]


def test_a_kill_in_the_middle_of_work_waits_for_it_but_not_forever():
    kill = fault(10, "kill", "a", open_min=12, open_wait_s=4)

    busy = Timeline([kill])
    busy.handle(0, Begun())
    assert busy.handle(11 * SECOND, Promised("a", 11)) == []
    assert busy.handle(11 * SECOND, Promised("b", 99)) == []
    assert busy.handle(12 * SECOND, Promised("a", 12)) == [Inject(0, kill)]

    idle = Timeline([kill])
    idle.handle(0, Begun())
    assert idle.deadline_ns() == 14 * SECOND
    assert idle.tick(14 * SECOND - 1) == []
    assert idle.tick(14 * SECOND) == [Inject(0, kill)]

    early = Timeline([kill])
    early.handle(0, Begun())
    early.handle(1 * SECOND, Promised("a", 50))
    assert early.deadline_ns() == 10 * SECOND  # not before its time, however busy


@pytest.mark.parametrize(
    ("faults", "found"),
    [
        ([fault(1, "kill", "a"), fault(2, "restart", "a"), fault(3, "kill", "a")], None),
        ([fault(3, "restart", "a"), fault(1, "kill", "a")], None),  # by time, not by the order of the list
        ([fault(1, "restart", "a")], None),
        ([fault(1, "pause", "a"), fault(2, "resume", "a")], None),
        ([fault(1, "pause", "a"), fault(2, "kill", "a"), fault(3, "restart", "a")], None),
        ([fault(1, "kill-gateway"), fault(2, "restart-gateway"), fault(3, "kill-broker")], None),
        ([fault(1, "kill-broker"), fault(2, "kill-broker")], None),
        ([fault(1, "resume", "a")], (0, "a is running at 1 s")),
        ([fault(1, "kill", "a"), fault(2, "kill", "a")], (1, "a is dead at 2 s")),
        ([fault(1, "pause", "a"), fault(2, "restart", "a")], (1, "a is paused at 2 s")),
        ([fault(1, "revoke", "a"), fault(2, "restart", "a")], (1, "a is revoked at 2 s")),
        ([fault(1, "kill-gateway"), fault(2, "kill-gateway")], (1, "gateway is dead at 2 s")),
        (
            [fault(1, "kill-gateway"), fault(2, "revoke", "a")],
            (1, "nobody can revoke: the gateway is dead at 2 s"),
        ),
        (
            [fault(1, "kill-gateway"), fault(2, "kill-broker")],
            (1, "nobody starts the broker again: the gateway is dead at 2 s"),
        ),
        ([fault(1, "power-cut", "a"), fault(2, "restart", "a"), fault(3, "clock-step", "a", by_s=1.0)], None),
        ([fault(1, "power-cut", "a"), fault(2, "kill-worker", "a")], (1, "a is dead at 2 s")),
        ([fault(1, "power-cut-gateway"), fault(2, "wipe-broker")],
         (1, "nobody starts the broker again: the gateway is dead at 2 s")),
        ([fault(1, "partition", "a"), fault(2, "kill", "a"), fault(3, "heal-partition", "a")], None),
        ([fault(1, "partition", "a"), fault(2, "partition", "a")],
         (1, "the network of a is cut already at 2 s")),
        ([fault(1, "heal-partition", "a")], (0, "the network of a is not cut at 1 s")),
        ([fault(1, "disk-full", "a"), fault(2, "disk-full", "a")],
         (1, "the disk of a is full already at 2 s")),
        ([fault(1, "disk-free", "a")], (0, "the disk of a is not full at 1 s")),
        ([fault(1, "disk-full", "gateway"), fault(1, "disk-full", "a"), fault(2, "disk-free", "a")], None),
        ([fault(1, "revoke", "a"), fault(2, "partition", "a")], (1, "a is revoked at 2 s")),
        ([fault(1, "revoke", "a"), fault(2, "disk-flip", "a")], (1, "a is revoked at 2 s")),
        ([fault(1, "kill", "a"), fault(2, "disk-flip", "a")], None),  # what lies on a disk rots anyway
        ([fault(1, "slow", "a", factor=2.0, until_s=5.0), fault(4, "slow", "a", factor=3.0, until_s=6.0)],
         (1, "another slow of a lasts until 5 s")),
        ([fault(1, "slow", "a", factor=2.0, until_s=4.0),
         fault(4, "slow", "a", factor=3.0, until_s=6.0)], None),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_found_before_the_begin(faults, found):
    assert impossible(faults) == found


def test_who_is_gone_for_good_is_told_with_the_reason():
    faults = [
        fault(1, "kill", "a"), fault(2, "restart", "a"), fault(3, "kill", "b"), fault(4, "revoke", "c"),
        fault(5, "pause", "d"), fault(6, "pause", "e"), fault(7, "resume", "e"), fault(8, "kill-gateway"),
    ]  # fmt: skip

    assert list(gone(faults)) == [
        ("b", "b was killed for good at 3.0 s"),
        ("c", "c was revoked at 4.0 s"),
        ("d", "d was stopped for good at 5.0 s"),
    ]


def test_what_leaves_a_node_running_takes_it_away_from_nobody():
    faults = [
        fault(1, "power-cut", "a"), fault(2, "disk-flip", "a"), fault(3, "partition", "b"),
        fault(4, "clock-step", "c", by_s=9.0), fault(5, "disk-full", "gateway"),
    ]  # fmt: skip

    assert list(gone(faults)) == [("a", "a was killed for good at 1.0 s")]


def test_a_fault_of_a_class_is_one_of_each_node_and_ends_by_itself():
    classes = {"rack": ["rack-1", "rack-2"], "rack-1": ["rack-1"], "x": ["x"]}
    cut = fault(1, "partition", nodes=("rack", "x", "rack-1"), until_s=5.0, direction="to")
    slow = fault(2, "slow", "x", factor=2.0, until_s=6.0)

    assert resolved([cut, fault(3, "kill-broker"), slow], classes) == [
        (0, fault(1, "partition", "rack-1", direction="to")), (0, fault(5, "heal-partition", "rack-1")),
        (0, fault(1, "partition", "rack-2", direction="to")), (0, fault(5, "heal-partition", "rack-2")),
        (0, fault(1, "partition", "x", direction="to")), (0, fault(5, "heal-partition", "x")),
        (1, fault(3, "kill-broker")),
        (2, slow),
    ]  # fmt: skip


FAULTS = st.lists(
    st.builds(
        fault,
        at_s=st.integers(0, 20).map(float),
        do=st.sampled_from(["kill", "pause", "resume", "restart", "revoke", "kill-gateway", "kill-broker"]),
        node=st.sampled_from(["a", "b"]),
        open_min=st.integers(0, 3),
        open_wait_s=st.integers(0, 5).map(float),
    ),
    max_size=8,
)
STEPS = st.lists(
    st.tuples(
        st.integers(0, 5 * SECOND),
        st.one_of(
            st.builds(Promised, st.sampled_from(["a", "b"]), st.integers(0, 4)),
            st.just("done"),
            st.none(),
        ),
    ),
    max_size=40,
)


@given(FAULTS, STEPS)
def test_every_fault_is_injected_exactly_once_never_early_and_in_the_order_of_its_member(faults, steps):
    timeline, now_ns = Timeline(faults), 7 * SECOND
    running: list[int] = []
    told: list[tuple[int, int]] = []

    def take(effects):
        timeline.check()
        for effect in effects:
            running.append(effect.index)
            told.append((now_ns - 7 * SECOND, effect.index))

    take(timeline.handle(now_ns, Begun()))
    for wait_ns, event in steps:
        now_ns += wait_ns
        take(timeline.tick(now_ns))
        if event == "done":
            if running:
                take(timeline.handle(now_ns, Done(running.pop(0))))
        elif event is not None:
            take(timeline.handle(now_ns, event))
    while not timeline.over:
        now_ns = max(now_ns, timeline.deadline_ns() or 0)
        take(timeline.tick(now_ns))
        if running:
            take(timeline.handle(now_ns, Done(running.pop(0))))

    assert sorted(index for _, index in told) == list(range(len(faults)))
    assert all(at_ns >= faults[index].at_s * SECOND for at_ns, index in told)
    for member in {each.member for each in faults}:
        order = [index for _, index in told if faults[index].member == member]
        assert order == sorted(order, key=lambda index: (faults[index].at_s, index))
