"""Chances: what is drawn can be done, comes as often as was asked for, and moves nothing else."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_sim.chances import drawn, outages
from device_sim.faults import HOURLY, SECOND, Fault, Rates, impossible
from device_sim.scenario import DevicesTable, FleetTable, LinkTable, RunTable, Scenario

ALL = Rates(**dict.fromkeys(HOURLY, 30.0))


def scenario(rates: Rates, *faults: Fault, count: int = 20, duration_s=600.0, heal_s=None) -> Scenario:
    return Scenario(
        fleet=FleetTable(name="x", duration_s=duration_s),
        run=RunTable(heal_s=heal_s),
        devices=(DevicesTable(prefix="a", count=count),),
        faults=faults,
        rates=rates,
    )


def test_nothing_is_drawn_unless_it_is_asked_for():
    assert drawn(scenario(Rates(dead_s=5.0)), random.Random(1)) == ()


def test_every_kind_is_drawn_and_all_of_it_can_be_done():
    story = scenario(ALL, duration_s=1800.0)

    found = drawn(story, random.Random(1))

    assert {fault.do for fault in found} == {
        "kill", "power-cut", "restart", "pause", "resume", "partition", "heal-partition", "disk-full",
        "disk-free", "disk-error", "disk-flip", "clock-step", "slow", "kill-worker", "restore-tables",
        "kill-broker", "wipe-broker", "kill-gateway", "power-cut-gateway", "restart-gateway",
    }  # fmt: skip
    assert impossible(found) is None
    assert [fault.at_s for fault in found] == sorted(fault.at_s for fault in found)
    assert not any(fault.misplaced or fault.missing for fault in found)


def test_it_comes_as_often_as_was_said():
    """3 an hour of 200 nodes in an hour: 600 expected, ± 5 standard deviations of a Poisson count."""
    found = drawn(scenario(Rates(kill_worker=3.0), count=200, duration_s=3600.0), random.Random(2))

    assert abs(len(found) - 600) < 5 * 600**0.5


def test_what_lasts_has_its_mean_length():
    found = drawn(scenario(Rates(partition=10.0, cut_s=7.0), count=200, duration_s=3600.0), random.Random(3))
    begun: dict[str, float] = {}
    lengths = []
    for fault in found:
        if fault.do == "partition":
            begun[fault.node] = fault.at_s
        else:
            lengths.append(fault.at_s - begun.pop(fault.node))

    assert not begun
    assert sum(lengths) / len(lengths) == pytest.approx(7, rel=0.15)  # 5 standard errors of 1 900 of them


def test_everything_has_ended_when_all_is_made_good():
    found = drawn(scenario(ALL, heal_s=200.0), random.Random(4))

    assert found and max(max(fault.at_s, fault.until_s or 0) for fault in found) <= 200
    for begins, ends in (("partition", "heal-partition"), ("disk-full", "disk-free"), ("pause", "resume")):
        assert sum(f.do == begins for f in found) == sum(f.do == ends for f in found) > 0


def test_one_node_or_one_kind_more_moves_nothing_that_the_others_draw():
    few = drawn(scenario(Rates(partition=20.0), count=5), random.Random(9))
    more = drawn(scenario(Rates(partition=20.0, disk_full=20.0), count=6), random.Random(9))

    assert few == tuple(f for f in more if f.node != "a-6" and "partition" in f.do)


def test_a_revoked_node_suffers_nothing_more_and_a_dead_gateway_restarts_no_broker():
    revoke = Fault(at_s=100, do="revoke", node="a-1")
    dead = Fault(at_s=200, do="kill-gateway")

    found = drawn(scenario(ALL, revoke, dead), random.Random(5))

    assert not [f for f in found if f.node == "a-1" and f.at_s >= 100]
    assert [f for f in found if f.member == "broker" and f.at_s < 200]
    assert not [f for f in found if f.member in ("broker", "gateway") and f.at_s >= 200]


LISTED = st.lists(
    st.builds(
        Fault,
        at_s=st.integers(0, 60).map(float),
        do=st.sampled_from(
            [
                "kill",
                "power-cut",
                "pause",
                "resume",
                "restart",
                "revoke",
                "partition",
                "heal-partition",
                "disk-full",
                "disk-free",
                "disk-error",
                "clock-step",
                "kill-worker",
            ]
        ),
        node=st.sampled_from(["a-1", "a-2"]),
    ),
    max_size=6,
)
HOUSE = st.lists(
    st.builds(
        Fault,
        at_s=st.integers(0, 60).map(float),
        do=st.sampled_from(["kill-gateway", "restart-gateway", "kill-broker", "wipe-broker"]),
    ),
    max_size=4,
)


def test_a_disk_that_is_freed_brings_no_dead_node_back():
    listed = [
        Fault(at_s=0.0, do="kill", node="a-1"),
        Fault(at_s=0.0, do="disk-full", node="a-1"),
        Fault(at_s=0.0, do="disk-free", node="a-1"),
    ]
    story = scenario(Rates(kill=1000.0), *listed)

    assert impossible(story.timeline() + drawn(story, random.Random(0))) is None


@pytest.mark.slow
@settings(max_examples=100)
@given(LISTED, HOUSE, st.integers(0, 1000), st.floats(100, 3000))
def test_what_is_drawn_beside_a_listed_story_can_be_done(listed, house, seed, rate):
    story: list[Fault] = []
    for fault in [*listed, *house]:  # the longest prefix-wise possible story
        if impossible([*story, fault]) is None:
            story.append(fault)
    rates = Rates(**dict.fromkeys(HOURLY, rate))
    whole = scenario(rates, *story, count=2, duration_s=90.0)

    found = drawn(whole, random.Random(seed))

    assert impossible([*whole.timeline(), *found]) is None


def test_an_intermittent_link_is_away_for_its_share_of_the_time():
    link = LinkTable(up_s=30.0, down_s=10.0)
    end_ns = 200_000 * SECOND

    spans = list(outages(link, random.Random(1), end_ns))

    assert all(0 < a < b <= end_ns for a, b in spans)
    assert all(b < c for (_, b), (c, _) in itertools.pairwise(spans))
    assert sum(b - a for a, b in spans) / end_ns == pytest.approx(0.25, abs=0.02)
    assert list(outages(LinkTable(), random.Random(1), end_ns)) == []
