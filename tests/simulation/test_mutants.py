"""The checkers bite: each promise broken on purpose is told by the checker that it belongs to.

Here each mutant runs on the one seed that is recorded for it, and the same seed without it passes; the search
over many seeds is ``make mutants``.
"""

from __future__ import annotations

from functools import cache

import pytest

from device_sim.virtual.checkers.panel import checkers
from device_sim.virtual.drawing import VERSION
from tests.simulation.mutants import MUTANTS, RECORDED_VERSION, SEEDS, SMALL, Mutant, applied, judged

HOW = "search anew: make mutants ARGS={0}, then write its seed and drawing.VERSION into mutants.py"


def floor_of(mutant: Mutant) -> str:
    owner = mutant.owner
    return str(getattr(owner, "__module__", None) or owner.__name__).partition(".")[0]


@cache
def unharmed(seed: int, nodes: int, small: bool) -> list[str]:
    """What fails in this run of the program as it is; several mutants share a seed."""
    settings = SMALL if small else None
    return [
        f"{each.name}: {each.violations[0]}"
        for each in judged(seed, nodes, settings)
        if each.word == "failed"
    ]


def shows(mutant: Mutant, seed: int) -> bool:
    """An error that comes out of a core is no verdict: it ends the test."""
    with applied(mutant):
        (verdict,) = judged(seed, mutant.nodes, mutant.settings, mutant.checker)
    return verdict.word == "failed"


def test_every_promise_that_is_judged_is_broken_on_every_floor():
    names = {judge.name for judge in checkers()}

    assert {mutant.checker for mutant in MUTANTS} <= names
    assert len(MUTANTS) >= 14 and len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert {floor_of(mutant) for mutant in MUTANTS} == {"security", "edge_node", "gateway"}
    assert all(mutant.first <= mutant.found < mutant.first + mutant.seeds for mutant in MUTANTS)
    assert all(mutant.seeds <= SEEDS for mutant in MUTANTS)


def test_the_seeds_were_recorded_with_the_drawing_as_it_is():
    assert RECORDED_VERSION == VERSION, HOW.format("")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: each.name)
def test_what_was_replaced_is_put_back(mutant):
    before = vars(mutant.owner)[mutant.attribute]

    with pytest.raises(LookupError), applied(mutant):
        assert vars(mutant.owner)[mutant.attribute] is not before
        raise LookupError

    assert vars(mutant.owner)[mutant.attribute] is before


@pytest.mark.slow
@pytest.mark.parametrize("mutant", [each for each in MUTANTS if each.quick], ids=lambda each: each.name)
def test_the_checker_that_is_named_finds_it_and_nothing_without_it(mutant):
    seeds = (mutant.found, *mutant.also)
    found = next((seed for seed in seeds if shows(mutant, seed)), None)

    how = HOW.format(mutant.name)
    assert found is not None, f"{mutant.breaks}; no seed of {seeds} shows it any more: {how}"
    assert mutant.settings in (None, SMALL)
    assert unharmed(found, mutant.nodes, mutant.settings is not None) == []
