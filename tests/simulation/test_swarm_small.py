"""The share of the swarm that every change of the code runs: some seeds, some of them twice, and those that
once failed. The rest is ``make swarm``."""

from __future__ import annotations

import os

import pytest

from device_sim.virtual.attempt import attempt
from device_sim.virtual.drawing import VERSION, drawn_scenario
from device_sim.virtual.swarm import Swarm
from tests.simulation.seeds import SCENARIOS, SEEDS

JOBS = min(2, os.cpu_count() or 1)
SEEDS_PLAYED = 20
"""Every fourth is a long one, and in three of five tables are written; some three seconds each."""
FIRST = 300
"""Not those that mutants are recorded with."""


def told(words):
    return [(word.seed, each.checker, each.lines[:2]) for word in words for each in word.attempt.broken]


@pytest.mark.slow
def test_no_promise_breaks_in_drawn_meshes():
    swarm = Swarm(iter(range(FIRST, FIRST + SEEDS_PLAYED)), jobs=JOBS, plays_max=0)

    words = list(swarm.words())

    assert [word.seed for word in words] == list(range(FIRST, FIRST + SEEDS_PLAYED)), (
        "in the order of the seeds"
    )
    assert told(words) == []
    assert sum(word.attempt.notes for word in words) > SEEDS_PLAYED * 100, "something happened in them"


@pytest.mark.slow
def test_a_seed_is_the_same_run_in_two_processes_with_other_hashes_of_strings():
    swarm = Swarm(iter(range(FIRST, FIRST + 2)), jobs=JOBS, plays_max=0, twice=True)

    words = list(swarm.words())

    assert told(words) == []
    assert len({word.attempt.trace_hash for word in words}) == 2, "another seed is another run"


@pytest.mark.slow
def test_seeds_that_once_failed_hold():
    now = [named for named in SEEDS if named.drawing == VERSION]

    found = {named.seed: attempt(drawn_scenario(named.seed, named.nodes)).broken for named in now}

    assert {seed: broken for seed, broken in found.items() if broken} == {}


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.__name__)
def test_what_once_failed_holds_as_a_scenario_of_its_own(scenario):
    found = attempt(scenario())

    assert [(each.checker, each.lines[:2]) for each in found.broken] == [], scenario.__doc__
